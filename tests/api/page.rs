//! Pages for browsers, by plain requests: what is on them, their heads, and that nothing of an image
//! gets out of the text. tests/page looks at them in a browser.

use registry::oci::Digest;
use serde_json::json;

use crate::common::tar::Tar;
use crate::common::{
    OCI_CONFIG, OCI_EMPTY, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, Registry, Reply, descriptor,
    eventually, image_manifest,
};
use crate::files::body;
use crate::find::push;
use crate::support::{header_values, sha256};

/// The whole text of a page, with the headers that every page has.
#[track_caller]
fn page(registry: &Registry, path: &str) -> String {
    let reply = registry.get(path);
    let html = String::from_utf8(body(&reply)).expect("UTF-8");
    assert_eq!(reply.status, 200, "{path}: {html}");
    dressed(&reply, path);
    assert!(html.starts_with("<!DOCTYPE html>") && html.ends_with("</html>"), "{path}: {html}");
    html
}

#[track_caller]
fn dressed(reply: &Reply, path: &str) {
    let policy = reply.header("content-security-policy").unwrap_or_default();
    assert!(policy.starts_with("default-src 'none'; "), "{path}: {policy}");
    for word in ["unsafe", "http", "data:", "*"] {
        assert!(!policy.contains(word), "{path}: {policy}");
    }
    assert_eq!(reply.header("content-type"), Some("text/html; charset=utf-8"), "{path}");
    assert_eq!(reply.header("x-content-type-options"), Some("nosniff"), "{path}");
    assert_eq!(reply.header("referrer-policy"), Some("same-origin"), "{path}");
    assert_eq!(reply.header("cache-control"), Some("private, no-cache"), "{path}");
}

#[track_caller]
fn has(html: &str, texts: &[&str]) {
    for text in texts {
        assert!(html.contains(text), "{text} is not in {html}");
    }
}

fn base() -> Vec<u8> {
    Tar::default()
        .directory("etc")
        .file("etc/motd", b"one\ntwo & <three>\n")
        .file("etc/gone", b"secret\n")
        .file("bin/tool", b"\x7fELF\0\x01")
        .symlink("tool", "bin/tool")
        .symlink("nowhere", "/none")
        .finish()
}

fn top() -> Vec<u8> {
    Tar::default().file("etc/.wh.gone", b"").file("etc/motd", b"ONE\ntwo\n").finish()
}

#[test]
fn an_image() {
    let registry = Registry::start(&[]);
    push(&registry, "team/app", "1.3", "linux/amd64", &[base()]);
    let manifest = push(&registry, "team/app", "1.4", "linux/amd64", &[base(), top()]);
    let digest = sha256(manifest.as_bytes());
    let layer = &sha256(&base()).hex()[..12];

    let html = page(&registry, "/ui/team/app:1.4/");
    has(
        &html,
        &[
            "team/app</a>",
            "docker pull",
            &digest.to_string(),
            "linux/amd64",
            "href=\"etc/\"",
            "Layers and history",
            &format!("?layer={layer}"),
            "registry ls -l team/app:1.4",
            "/v2/team/app/_files/tree/1.4/",
        ]
        .map(|text| text.trim_end_matches("</a>")),
    );
    has(&page(&registry, &format!("/ui/team/app@{digest}/")), &["href=\"etc/\""]);

    // Links from a directory are relative to its address, so that ends in a slash.
    for (path, to) in [
        ("/ui/team/app:1.4", "/ui/team/app:1.4/"),
        ("/ui/team/app:1.4/etc?deleted=1", "/ui/team/app:1.4/etc/?deleted=1"),
    ] {
        let reply = registry.get(path);
        assert_eq!((reply.status, reply.header("location")), (307, Some(to)), "{path}");
    }
    let html = page(&registry, "/ui/team/app:1.4/etc/");
    has(&html, &["href=\"motd\"", "href=\"../\"", "registry ls -l team/app:1.4 /etc/"]);
    assert!(!html.contains("gone"), "{html}");
    let html = page(&registry, "/ui/team/app:1.4/etc/?deleted=1");
    has(&html, &["<tr class=\"gone\">", "taken away by layer 2"]);
    has(&html, &[&format!("href=\"gone?layer={layer}\"")]);
    let html = page(&registry, "/ui/team/app:1.4/etc/?sort=size");
    assert!(html.find("motd").unwrap() > 0, "{html}");
    // One layer, and what it does.
    let html = page(&registry, &format!("/ui/team/app:1.4/etc/?layer={}", sha256(&top())));
    has(&html, &["<del>.wh", "deleted", "changed"].map(|text| text.trim_end_matches(".wh")));
    has(&html, &["gone"]);
    let html = page(&registry, &format!("/ui/team/app:1.4/etc/?layer={layer}"));
    has(&html, &["added", "gone", "motd"]);

    let html = page(&registry, "/ui/team/app:1.4/?view=space");
    has(&html, &["<svg", "efficient", "etc/gone", "registry waste team/app:1.4"]);
}

#[test]
fn a_file() {
    let registry = Registry::start(&[]);
    let png = b"\x89PNG\r\n\x1a\n....";
    let lines: String = (1..=9000).map(|n| format!("line {n} of many\n")).collect();
    let more = Tar::default()
        .file("a.png", png)
        .file("long", lines.as_bytes())
        .file("empty", b"")
        .file("a.svg", b"<svg xmlns='x'><script>alert(1)</script></svg>")
        .device("null", b'3', (1, 3))
        .finish();
    push(&registry, "team/app", "1", "linux/amd64", &[base(), top(), more]);
    let html = page(&registry, "/ui/team/app:1/etc/motd");
    has(&html, &["id=\"L1\"", "href=\"#L2\"", "ONE", "This path in the layers", "registry cat"]);
    has(&html, &[&format!("/ui/_find?sha256={}", sha256(b"ONE\ntwo\n").hex())]);
    let layer = &sha256(&base()).hex()[..12];
    let html = page(&registry, &format!("/ui/team/app:1/etc/motd?layer={layer}"));
    has(&html, &["two &amp; &lt;three&gt;"]);
    has(&page(&registry, &format!("/ui/team/app:1/etc/gone?layer={layer}")), &["secret"]);
    let reply = registry.get("/ui/team/app:1/etc/gone?deleted=1");
    let to = format!("/ui/team/app:1/etc/gone?layer={layer}");
    assert_eq!((reply.status, reply.header("location")), (307, Some(to.as_str())));

    has(&page(&registry, "/ui/team/app:1/bin/tool"), &["7f 45 4c 46 00 01", "id=\"x0\""]);
    has(&page(&registry, "/ui/team/app:1/bin/tool?view=text"), &["<i class=\"c\">\\x7f</i>ELF"]);
    has(&page(&registry, "/ui/team/app:1/etc/motd?view=hex"), &["4f 4e 45 0a"]);
    has(&page(&registry, "/ui/team/app:1/tool"), &["A link to", "/ui/team/app:1/bin/tool"]);
    has(&page(&registry, "/ui/team/app:1/nowhere"), &["where there is nothing"]);
    has(&page(&registry, "/ui/team/app:1/empty"), &["The file is empty"]);
    has(&page(&registry, "/ui/team/app:1/null"), &["Device number", "1:3"]);
    has(
        &page(&registry, "/ui/team/app:1/a.png"),
        &["<img src=\"/ui/team/app:1/a.png?raw=image/png\""],
    );

    // Pieces end with lines, and the next one goes on with its number.
    let html = page(&registry, "/ui/team/app:1/long");
    let shown = html.matches("<tr id=\"L").count();
    let next = format!("&amp;line={}", shown + 1);
    has(&html, &[&next, "Bytes 0 to"]);
    let start = html.find("?offset=").expect("a next piece");
    let end = start + html[start..].find('"').expect("its end");
    let address = html[start..end].replace("&amp;", "&");
    let html = page(&registry, &format!("/ui/team/app:1/long{address}"));
    let first = format!("<tr id=\"L{}\">", shown + 1);
    has(&html, &[&first, &format!("line {} of many", shown + 1)]);
    let html = page(&registry, "/ui/team/app:1/long?offset=65536");
    has(&html, &["these have no numbers"]);

    // The bytes themselves can do nothing.
    for (query, media_type, disposition) in [
        ("raw=text", "text/plain; charset=utf-8", None),
        ("raw=image/svg%2Bxml", "image/svg+xml", None),
        ("raw=1", "application/octet-stream", Some("attachment; filename*=UTF-8''a.svg")),
        ("raw=text/html", "application/octet-stream", Some("attachment; filename*=UTF-8''a.svg")),
    ] {
        let reply = registry.get(&format!("/ui/team/app:1/a.svg?{query}"));
        assert_eq!(reply.status, 200, "{query}: {}", reply.text());
        assert_eq!(reply.header("content-type"), Some(media_type), "{query}");
        assert_eq!(reply.header("content-disposition"), disposition, "{query}");
        let policy = reply.header("content-security-policy").expect("a policy");
        assert!(policy.starts_with("sandbox; default-src 'none'"), "{query}: {policy}");
        assert!(reply.text().contains("<script>"), "{query}");
    }
    let reply = registry.get("/ui/team/app:1/etc/?raw=tar");
    let name = Some("attachment; filename*=UTF-8''etc.tar");
    assert_eq!((reply.status, reply.header("content-disposition")), (200, name));
}

/// Every name and text of an image tries to get out of the page.
#[test]
fn hostile_images() {
    let registry = Registry::start(&[]);
    let script = "<script>alert(1)</script>";
    let names: [&[u8]; 9] = [
        script.as_bytes(),
        b"a\"onmouseover=\"alert(1)",
        b"javascript:alert(1)",
        "\u{202e}txt.exe".as_bytes(),
        b"\x1b]0;title\x07",
        b"new\nline\ttab",
        b"\xff\xfe",
        b"zero\xe2\x80\x8bwidth",
        b"&amp;'",
    ];
    let mut tar = Tar::default();
    for name in names {
        tar = tar.file(name, script.as_bytes()).symlink([name, b"-link"].concat(), script);
    }
    let tar = tar.finish();
    let config = json!({
        "os": "linux\"><script>", "architecture": "<b>amd64</b>", "author": script,
        "rootfs": {"type": "layers", "diff_ids": [sha256(&tar).to_string()]},
        "created": format!("{script}\u{202e}"),
        "config": {"Env": [format!("A={script}"), script], "Entrypoint": [script, "\u{202e}"],
            "Cmd": [script], "User": script, "WorkingDir": script, "StopSignal": script,
            "Labels": {script: format!("\"'>{script}\u{202e}\u{200b}")}, "ExposedPorts": {script: {}}},
        "history": [{"created_by": format!("/bin/sh -c #(nop) {script}\u{1b}[2J")}],
    })
    .to_string();
    let config_digest = registry.push_blob("hostile", config.as_bytes());
    let layer = registry.push_blob("hostile", &tar);
    let manifest = image_manifest(
        &descriptor(OCI_CONFIG, &config_digest, config.len()),
        &[descriptor(OCI_LAYER, &layer, tar.len())],
    );
    let reply = registry.push_manifest("hostile", "1", OCI_MANIFEST, manifest.as_bytes());
    assert_eq!(reply.status, 201, "{}", reply.text());
    let subject = descriptor(OCI_MANIFEST, &sha256(manifest.as_bytes()), manifest.len());
    registry.push_artifact(
        "hostile",
        "artifact",
        (OCI_EMPTY, "{}"),
        &[("text/html", script, Some(script))],
        json!({"subject": subject, "artifactType": format!("{script}\u{202e}")}),
    );

    let mut paths: Vec<String> = [
        "/ui/",
        "/ui/hostile",
        "/ui/hostile?view=manifests",
        "/ui/hostile:1/",
        "/ui/hostile:1/?deleted=1",
        "/ui/hostile:1/?sort=size",
        "/ui/hostile:1/?view=space",
        "/ui/hostile:artifact/",
        "/ui/_find?name=*",
        "/ui/_find?name=%3Cscript%3Ealert(1)",
        "/ui/_grep?pattern=script&fixed=1",
        "/ui/_diff?a=hostile:1&b=hostile:1&path=%3Cscript%3E",
        "/ui/?named=%3Cscript%3Ealert(1)",
        "/ui/?below=%3Cscript%3Ealert(1)",
        "/ui/_nothing%3Cscript%3Ealert(1)",
        "/ui/hostile:1/%3Cscript%3Ealert(1)",
        "/ui/hostile:%3Cscript%3Ealert(1)%3C%2Fscript%3E/",
        "/ui/?q=%22%3E%3Cscript%3Ealert(1)&as=file",
        "/ui/hostile:1/?platform=%3Cscript%3E",
        "/ui/hostile:1/?layer=%3Cscript%3E",
        "/ui/_delete/hostile:1",
    ]
    .map(str::to_owned)
    .into();
    paths.push(format!("/ui/hostile:1/?layer={layer}"));
    for name in names {
        let name: String = name.iter().map(|byte| format!("%{byte:02X}")).collect();
        paths.push(format!("/ui/hostile:1/{name}"));
        paths.push(format!("/ui/hostile:1/{name}-link"));
        paths.push(format!("/ui/hostile:1/{name}?view=hex"));
    }
    for path in paths {
        let reply = registry.get(&path);
        let html = String::from_utf8(body(&reply)).unwrap_or_else(|_| panic!("{path}"));
        dressed(&reply, &path);
        let html = html.replace("<script src=\"/ui/_assets/page.", "");
        for text in
            ["<script", "<b>amd64", "onmouseover=\"alert", "href=\"javascript:", "<img src=x"]
        {
            assert!(!html.contains(text), "{text} on {path}: {html}");
        }
        let hidden = ['\u{202e}', '\u{200b}', '\u{1b}', '\u{7}', '\u{fffe}'];
        assert!(!html.contains(hidden), "{path}: {html}");
        assert!(!html.contains(" style="), "{path}: {html}");
    }
    let html = page(&registry, "/ui/hostile:1/");
    has(&html, &["&lt;script&gt;alert(1)", "<i class=\"c\">U+202E</i>txt.exe", "\\xff"]);
}

#[test]
fn caching() {
    let registry = Registry::start(&[]);
    let manifest = push(&registry, "a", "1", "linux/amd64", &[base()]);
    let html = page(&registry, "/ui/a:1/");
    let etag = registry.get("/ui/a:1/").header("etag").expect("a tag").to_owned();
    let again = registry.send("GET", "/ui/a:1/", &[("If-None-Match", &etag)], b"");
    assert_eq!((again.status, again.body.len()), (304, 0));
    assert_eq!(registry.head("/ui/a:1/").header("etag"), Some(etag.as_str()));
    push(&registry, "a", "1", "linux/amd64", &[base(), top()]);
    let changed = registry.send("GET", "/ui/a:1/", &[("If-None-Match", &etag)], b"");
    assert_eq!(changed.status, 200, "the tag has moved");

    // What a page loads has a hash in its name, and lasts.
    let mut loaded = 0;
    for part in html.split("/ui/_assets/").skip(1) {
        let name = part.split('"').next().expect("a name");
        let reply = registry.get(&format!("/ui/_assets/{name}"));
        assert_eq!(reply.status, 200, "{name}");
        let cached = reply.header("cache-control");
        assert_eq!(cached, Some("public, max-age=31536000, immutable"), "{name}");
        loaded += 1;
    }
    assert!(loaded >= 3, "{html}");
    assert_eq!(registry.get("/ui/_assets/style.0000000000000000.css").status, 404);
    let digest = sha256(manifest.as_bytes());
    let reply = registry.get(&format!("/ui/a@{digest}/etc/motd?raw=text"));
    let cached = reply.header("cache-control");
    assert_eq!(cached, Some("private, max-age=31536000, immutable"));
    let reply = registry.get("/ui/a:1/etc/motd?raw=text");
    assert_eq!(reply.header("cache-control"), Some("no-cache"));
}

#[test]
fn errors_are_pages() {
    let registry = Registry::start(&[]);
    push(&registry, "a", "1", "linux/amd64", &[base()]);
    for (method, path, status, text) in [
        ("GET", "/ui/none", 404, "none"),
        ("GET", "/ui/a:none/", 404, "none"),
        ("GET", "/ui/a:1/none", 404, "/none in a@"),
        ("GET", "/ui/_none", 404, "There is nothing here"),
        ("GET", "/ui/A", 400, "not a repository name"),
        ("GET", "/ui/a:1/?layer=xyz", 400, "the digest of a layer"),
        ("GET", "/ui/_find?nonsense=1&name=x", 400, "is not a parameter"),
        ("GET", "/ui/_grep?pattern=(", 400, "pattern"),
        ("GET", "/ui/_diff?a=a:1&b=a:2", 404, "a"),
        ("POST", "/ui/a", 405, "takes GET, HEAD only"),
        ("POST", "/ui/_logout", 403, "form"),
        ("POST", "/ui/_delete/a:1", 403, "form"),
    ] {
        let reply = registry.send(method, path, &[], b"");
        assert_eq!(reply.status, status, "{path}: {}", reply.text());
        dressed(&reply, path);
        let id = reply.header("x-request-id").expect("an id");
        assert!(
            reply.text().contains(text) && reply.text().contains(id),
            "{path}: {}",
            reply.text()
        );
    }
    assert_eq!(registry.get("/v2/a/manifests/1").status, 200, "nothing was deleted");
}

#[test]
fn a_root_for_everybody() {
    let registry = Registry::start(&[]);
    let browser = [("Accept", "text/html,application/xhtml+xml,*/*;q=0.8")];
    let reply = registry.send("GET", "/", &browser, b"");
    assert_eq!((reply.status, reply.header("location")), (303, Some("/ui/")));
    for accept in ["*/*", "application/json"] {
        let reply = registry.send("GET", "/", &[("Accept", accept)], b"");
        assert_eq!((reply.status, reply.json()["status"].as_str()), (200, Some("running")));
    }
    assert_eq!(registry.get("/").json()["status"], "running");
}

/// Names that continue each other, many names, and folders.
#[test]
fn lists() {
    let registry = Registry::start(&[]);
    has(&page(&registry, "/ui/"), &["There is no repository", "docker push"]);
    let names: Vec<String> = (0..120).map(|n| format!("many/r{n:03}")).collect();
    for name in ["a", "a-b", "a/b", "a/c/d", "z"].iter().copied().chain(names.iter().map(|n| &**n))
    {
        registry.push_image(name, "1", "x");
    }
    let html = page(&registry, "/ui/?view=tree");
    for (text, is_there) in [
        ("href=\"/ui/a\"", true),
        ("href=\"/ui/a-b\"", true),
        ("href=\"/ui/?below=a\"", true),
        ("href=\"/ui/?below=many\"", true),
        ("href=\"/ui/a/b\"", false),
        ("href=\"/ui/many/r000\"", false),
        ("href=\"/ui/z\"", true),
    ] {
        assert_eq!(html.contains(text), is_there, "{text}: {html}");
    }
    let html = page(&registry, "/ui/?below=a");
    has(&html, &["href=\"/ui/a/b\"", "href=\"/ui/?below=a/c\""]);
    assert!(!html.contains("href=\"/ui/a-b\""), "{html}");

    // Pages follow each other, and every name is on one of them.
    for start in ["/ui/", "/ui/?below=many", "/ui/?named=r"] {
        let (mut next, mut seen, mut pages) = (Some(start.to_owned()), 0, 0);
        while let Some(path) = next {
            let html = page(&registry, &path);
            seen += names.iter().filter(|n| html.contains(&format!("href=\"/ui/{n}\""))).count();
            let link = html.split("rel=\"next\" href=\"").nth(1);
            next = link.map(|l| l.split('"').next().unwrap().replace("&amp;", "&"));
            pages += 1;
        }
        assert_eq!((seen, pages), (120, 2), "{start}");
    }
}

#[test]
fn a_repository() {
    let registry = Registry::start(&[]);
    let first = registry.push_image("team/app", "v1", "one");
    for n in 2..=120 {
        registry.push_image("team/app", &format!("v{n}"), &format!("seed {n}"));
    }
    let html = page(&registry, "/ui/team/app");
    has(&html, &["120", "You may", "pull, push, delete", "docker pull", "podman pull", "v120"]);
    has(&html, &["sort=time&amp;from=100", "name=\"image\" value=\"team/app:v120\""]);
    assert!(!html.contains("\"/ui/team/app:v1/\""), "the oldest is on the next page");
    has(&page(&registry, "/ui/team/app?sort=time&from=100"), &["\"/ui/team/app:v1/\""]);
    let html = page(&registry, "/ui/team/app?sort=name");
    has(&html, &["\"/ui/team/app:v1/\"", "after_name=v"]);
    has(&page(&registry, "/ui/team/app?sort=size"), &["v120"]);
    registry.delete("/v2/team/app/manifests/v1");
    let mut pages = page(&registry, "/ui/team/app?view=manifests");
    let link = pages.split("rel=\"next\" href=\"").nth(1).expect("a next page");
    let next = link.split('"').next().unwrap().replace("&amp;", "&");
    pages += &page(&registry, &next);
    has(&pages, &[&first.hex()[..12], "untagged"]);
    let none = Digest::Sha256([0; 32]);
    assert_eq!(registry.get(&format!("/ui/team/app@{none}/")).status, 404);
}

#[test]
fn searches() {
    let registry = Registry::start(&[]);
    let manifest = push(&registry, "team/app", "1.4", "linux/amd64", &[base()]);
    let digest = sha256(manifest.as_bytes());
    let content = sha256(b"secret\n").hex();
    let image = format!("/ui/team/app@{digest}/?as=image&q=");
    for (text, to) in [
        ("team/app:1.4", "/ui/team/app:1.4/?as=image&q=team/app%3A1.4".to_owned()),
        (&digest.to_string(), format!("{image}sha256%3A{}", digest.hex())),
        (&digest.hex()[..12], format!("{image}{}", &digest.hex()[..12])),
        (&content, format!("/ui/_find?sha256={content}&as=digest&q={content}")),
        ("team/app", "/ui/team/app?as=repository&q=team/app".to_owned()),
        ("eam", "/ui/?named=eam&as=repository&q=eam".to_owned()),
        ("motd.txt", "/ui/_find?name=%2Amotd.txt%2A&as=file&q=motd.txt".to_owned()),
        ("/etc/*", "/ui/_find?path=/etc/%2A&as=file&q=/etc/%2A".to_owned()),
        ("two words", "/ui/_grep?fixed=1&pattern=two%20words&as=text&q=two%20words".to_owned()),
        ("", "/ui/".to_owned()),
    ] {
        let reply = registry.get(&format!("/ui/_search?q={}", text.replace(' ', "+")));
        assert_eq!((reply.status, reply.header("location")), (303, Some(to.as_str())), "{text}");
        let html = page(&registry, &to);
        assert_eq!(html.contains("was taken for"), !text.is_empty(), "{text}: {html}");
    }
    let reply = registry.get("/ui/_search?q=app&as=text");
    assert!(reply.header("location").is_some_and(|to| to.starts_with("/ui/_grep?")));
    let reply = registry.get(&format!("/ui/{digest}/etc/motd"));
    let to = format!("/ui/team/app@{digest}/etc/motd");
    assert_eq!((reply.status, reply.header("location")), (303, Some(to.as_str())));
}

#[test]
fn questions() {
    let registry = Registry::start(&[]);
    push(&registry, "team/app", "1.3", "linux/amd64", &[base()]);
    push(&registry, "team/app", "1.4", "linux/amd64", &[base(), top()]);
    let waits = |registry: &Registry| {
        let end = registry.get("/v2/_query/find?name=none").text();
        !end.contains("\"waiting_layers\":0")
    };
    eventually("everything is indexed", || !waits(&registry));
    let html = page(&registry, "/ui/_find?name=motd&in=&tag=1.4&type=f");
    has(&html, &["\"/ui/team/app:1.4/etc/motd\"", "registry find", "/v2/_query/find?name=motd"]);
    assert!(!html.contains("\"/ui/team/app:1.3/etc/motd\""), "{html}");
    let html = page(&registry, "/ui/_find?name=gone&deleted=1");
    let layer = &sha256(&base()).hex()[..12];
    has(&html, &[&format!("/ui/team/app:1.4/etc/gone?layer={layer}")]);
    let html = page(&registry, "/ui/_find?image=team/app:1.3&name=g*");
    has(&html, &["/ui/team/app:1.3/etc/gone", "1 file"]);
    assert_eq!(registry.get("/v2/_query/find?image=team/app:1.3&name=g*").status, 200);
    assert_eq!(registry.get("/v2/_query/find?image=team/app:9&name=g*").status, 404);
    has(&page(&registry, "/ui/_find?name=nothing-has-this"), &["Nothing was found"]);
    has(&page(&registry, "/ui/_find"), &["Find files"]);

    let html = page(&registry, "/ui/_grep?pattern=tw.&path=/etc/**");
    has(&html, &["<mark>two</mark>", "/ui/team/app:1.4/etc/motd#L2", "registry grep"]);
    has(&page(&registry, "/ui/_grep"), &["Search text"]);

    for path in [
        "/ui/_diff?image=team/app:1.4&image=team/app:1.3",
        "/ui/_diff?a=team/app:1.3&b=team/app:1.4",
    ] {
        let html = page(&registry, path);
        has(&html, &["name=\"a\" value=\"team/app:1.3\"", "/etc/gone", "deleted", "By directory"]);
        has(&html, &["registry diff team/app:1.3 team/app:1.4"]);
    }
    let html = page(&registry, "/ui/_diff?a=team/app:1.3&b=team/app:1.4&patch=1");
    has(&html, &["-one", "+ONE", "registry diff --patch"]);
    has(&page(&registry, "/ui/_diff?a=team/app:1.3"), &["Compare two images"]);

    let lines: String = (0..700).map(|n| format!("many {n}\n")).collect();
    push(
        &registry,
        "long",
        "1",
        "linux/amd64",
        &[Tar::default().file("x", lines.as_bytes()).finish()],
    );
    eventually("everything is indexed", || !waits(&registry));
    let html = page(&registry, "/ui/_grep?pattern=many&in=long");
    let link = html.split("rel=\"next\" href=\"").nth(1).expect("a next page");
    let next = link.split('"').next().unwrap().replace("&amp;", "&");
    has(&page(&registry, &next), &["699"]);
}

/// Images of an index, its artifacts, and platforms.
#[test]
fn platforms() {
    let registry = Registry::start(&[]);
    let mut children = Vec::new();
    for architecture in ["mips64", "s390x"] {
        let tar = Tar::default().file(architecture, b"x").finish();
        let manifest = push(&registry, "multi", "", &format!("linux/{architecture}"), &[tar]);
        let mut child = descriptor(OCI_MANIFEST, &sha256(manifest.as_bytes()), manifest.len());
        child["platform"] = json!({"os": "linux", "architecture": architecture});
        children.push(child);
    }
    let subject = children[0].clone();
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": children});
    let index = index.to_string();
    let reply = registry.push_manifest("multi", "1", OCI_INDEX, index.as_bytes());
    assert_eq!(reply.status, 201, "{}", reply.text());
    registry.push_artifact(
        "multi",
        "sbom",
        (OCI_EMPTY, "{}"),
        &[("application/spdx+json", "{}", Some("sbom.json"))],
        json!({"subject": subject, "artifactType": "application/spdx+json"}),
    );
    // Neither is for this host, so the first one is shown.
    let html = page(&registry, "/ui/multi:1/");
    has(&html, &["href=\"mips64\"", "?platform=linux/s390x", "SBOM"]);
    let html = page(&registry, "/ui/multi:1/?platform=linux/s390x");
    has(&html, &["href=\"s390x?platform=linux/s390x\"", "--platform linux/s390x"]);
    has(&page(&registry, "/ui/multi:sbom/"), &["SBOM", "href=\"sbom.json\"", "It belongs to"]);
    has(&page(&registry, "/ui/multi"), &["linux/mips64", "linux/s390x"]);
    let reply = registry.get("/ui/multi:1/?platform=linux/riscv64");
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(reply.text().contains("Its files cannot be shown"), "{}", reply.text());
}

/// What logs in, browses and deletes like a browser: with cookies and forms.
struct Browser<'a> {
    registry: &'a Registry,
    cookies: Vec<(String, String)>,
}

impl Browser<'_> {
    fn send(&mut self, method: &str, path: &str, fields: &[(&str, &str)]) -> Reply {
        let pairs: Vec<String> = self.cookies.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let cookie = pairs.join("; ");
        let form: Vec<String> = fields.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let mut headers = vec![("Content-Type", "application/x-www-form-urlencoded")];
        if !cookie.is_empty() {
            headers.push(("Cookie", &cookie));
        }
        let reply = self.registry.send(method, path, &headers, form.join("&").as_bytes());
        for set in header_values(&reply, "set-cookie") {
            assert!(set.contains("; Path=/ui;") && set.contains("; HttpOnly"), "{set}");
            assert!(set.contains("; SameSite=Strict"), "{set}");
            let (pair, rest) = set.split_once(';').expect("attributes");
            let (name, value) = pair.split_once('=').expect("a value");
            self.cookies.retain(|(known, _)| known != name);
            if !rest.contains("Max-Age=0;") {
                self.cookies.push((name.to_owned(), value.to_owned()));
            }
        }
        reply
    }

    /// The token of the forms on a page.
    fn token(&mut self, path: &str) -> String {
        let html = self.send("GET", path, &[]).text();
        let token = html.split("name=\"token\" value=\"").nth(1);
        token.unwrap_or_else(|| panic!("no form: {html}")).split('"').next().unwrap().to_owned()
    }
}

#[test]
fn sessions() {
    let mut registry = Registry::start(&["--user", "ann:a secret&more", "--user", "bob:other"]);
    registry.authorization = Some("Basic YW5uOmEgc2VjcmV0Jm1vcmU=".to_owned());
    push(&registry, "team/app", "1", "linux/amd64", &[base()]);
    push(&registry, "team/app", "2", "linux/amd64", &[base(), top()]);
    registry.authorization = None;
    let registry = &registry;
    let new = || Browser { registry, cookies: Vec::new() };
    let mut browser = new();

    // Who has not logged in sees the form, and no dialog of the browser's own.
    let reply = browser.send("GET", "/ui/team/app?sort=name", &[]);
    assert_eq!(reply.status, 401);
    let challenge = reply.header("www-authenticate").expect("a challenge");
    assert!(challenge.starts_with("Cookie "), "{challenge}");
    has(&reply.text(), &["type=\"password\"", "name=\"to\" value=\"/ui/team/app?sort=name\""]);
    assert!(!reply.text().contains("1.4"), "{}", reply.text());

    let token = browser.token("/ui/_login");
    let password = "a+secret%26more";
    for (fields, status, why) in [
        (&[("name", "ann"), ("password", password)][..], 403, "no token"),
        (&[("name", "ann"), ("password", password), ("token", "AAAA")], 403, "a wrong token"),
        (&[("name", "ann"), ("password", "wrong"), ("token", &token)], 401, "a wrong password"),
        (&[("name", "eve"), ("password", password), ("token", &token)], 401, "a wrong name"),
    ] {
        let reply = browser.send("POST", "/ui/_login", fields);
        assert_eq!(reply.status, status, "{why}: {}", reply.text());
        assert!(!browser.cookies.iter().any(|(name, _)| name == "registry-session"), "{why}");
    }
    // A token of one browser is none of another.
    let reply = new().send(
        "POST",
        "/ui/_login",
        &[("name", "ann"), ("password", password), ("token", &token)],
    );
    assert_eq!(reply.status, 403);
    let fields =
        [("name", "ann"), ("password", password), ("token", &token), ("to", "//evil.example/ui/")];
    let reply = browser.send("POST", "/ui/_login", &fields);
    assert_eq!((reply.status, reply.header("location")), (303, Some("/ui/")), "{}", reply.text());

    let html = browser.send("GET", "/ui/team/app", &[]).text();
    has(&html, &["ann", "Log out", "pull, push, delete", "/ui/_delete/team/app:1"]);
    let (name, session) = browser.cookies.last().expect("a session").clone();
    assert_eq!(name, "registry-session");
    // The cookie counts for pages alone.
    let cookie = format!("{name}={session}");
    let with = |path: &str| registry.send("GET", path, &[("Cookie", &cookie)], b"").status;
    assert_eq!(with("/ui/"), 200);
    assert_eq!((with("/v2/"), with("/v2/team/app/manifests/1")), (401, 401));
    for broken in [format!("{session}x"), session.replacen('.', ".0", 1), session[1..].to_owned()] {
        let cookie = format!("{name}={broken}");
        let reply = registry.send("GET", "/ui/", &[("Cookie", &cookie)], b"");
        assert_eq!(reply.status, 401, "{broken}");
    }

    // Deleting is asked once more, and takes the token of the form.
    let html = browser.send("GET", "/ui/_delete/team/app:1", &[]).text();
    has(&html, &["Delete", "no tag leads to it", "curl -X DELETE"]);
    let reply = browser.send("POST", "/ui/_delete/team/app:1", &[]);
    assert_eq!(reply.status, 403, "{}", reply.text());
    assert_eq!(browser.send("GET", "/ui/team/app:1/", &[]).status, 200, "it is still there");
    let token = browser.token("/ui/_delete/team/app:1");
    let reply = browser.send("POST", "/ui/_delete/team/app:1", &[("token", &token)]);
    assert_eq!((reply.status, reply.header("location")), (303, Some("/ui/team/app")));
    assert_eq!(browser.send("GET", "/ui/team/app:1/", &[]).status, 404);
    assert_eq!(browser.send("GET", "/ui/team/app:2/", &[]).status, 200);

    let token = browser.token("/ui/");
    let reply = browser.send("POST", "/ui/_logout", &[("token", &token)]);
    assert_eq!(reply.status, 303, "{}", reply.text());
    assert_eq!(browser.send("GET", "/ui/", &[]).status, 401, "logged out");
}

/// A page of another site cannot send forms, even with the cookie.
#[test]
fn forms_of_other_sites() {
    let registry = Registry::start(&[]);
    push(&registry, "a", "1", "linux/amd64", &[base()]);
    let mut browser = Browser { registry: &registry, cookies: Vec::new() };
    let token = browser.token("/ui/_delete/a:1");
    let cookie = format!("{}={}", browser.cookies[0].0, browser.cookies[0].1);
    let body = format!("token={token}");
    let evil = [("Origin", "https://evil.example"), ("Cookie", cookie.as_str())];
    assert_eq!(registry.send("POST", "/ui/_delete/a:1", &evil, body.as_bytes()).status, 403);
    let own = [("Cookie", cookie.as_str())];
    let large = format!("token={token}&x={}", "x".repeat(20_000));
    assert_eq!(registry.send("POST", "/ui/_delete/a:1", &own, large.as_bytes()).status, 413);
    assert_eq!(registry.send("POST", "/ui/_delete/a:1", &own, b"\xff").status, 400);
    assert_eq!(registry.get("/v2/a/manifests/1").status, 200, "nothing was deleted");
    assert_eq!(registry.send("POST", "/ui/_delete/a:1", &own, body.as_bytes()).status, 303);
    assert_eq!(registry.get("/v2/a/manifests/1").status, 404);
}

#[test]
fn read_only() {
    let dir = tempfile::TempDir::new().expect("a folder");
    let mut registry = Registry::start_in(dir.path(), &[]);
    push(&registry, "a", "1", "linux/amd64", &[base()]);
    registry.stop();
    drop(registry);
    let registry = Registry::start_in(dir.path(), &["--read-only"]);
    let html = page(&registry, "/ui/a");
    assert!(!html.contains("_delete"), "{html}");
    has(&html, &["You may <b>pull</b>"]);
    assert_eq!(registry.send("POST", "/ui/_delete/a:1", &[], b"").status, 405);
}
