//! The pages in a real browser, Chromium: how they look, that they can be used without a script, a
//! mouse or sight, and that nothing in an image runs. Pictures of all of them are left in
//! `tmp/page` of the target folder, to be looked at.

#[path = "../common/mod.rs"]
mod common;
mod driver;

use std::io::Write as _;
use std::process::Command;
use std::sync::Mutex;

use flate2::Compression;
use flate2::write::GzEncoder;
use registry::oci::{Algorithm, Digest};
use serde_json::{Value, json};

use common::tar::{Member, Tar};
use common::{
    OCI_CONFIG, OCI_EMPTY, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, Registry, descriptor,
    image_manifest, run,
};
use driver::{Browser, axe};

/// One browser at a time: each takes some hundred megabytes.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> std::sync::MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

struct Pushed {
    digest: Digest,
    size: usize,
}

/// Pushes an image of compressed layers.
fn push(
    registry: &Registry,
    name: &str,
    tags: &[&str],
    layers: &[Vec<u8>],
    config: Value,
) -> Pushed {
    let mut config = config;
    let ids: Vec<String> =
        layers.iter().map(|tar| Algorithm::Sha256.digest(tar).to_string()).collect();
    config["rootfs"] = json!({"type": "layers", "diff_ids": ids});
    let config = config.to_string();
    let config_digest = registry.push_blob(name, config.as_bytes());
    let layers: Vec<Value> = layers
        .iter()
        .map(|tar| {
            let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
            gzip.write_all(tar).expect("memory");
            let bytes = gzip.finish().expect("memory");
            descriptor(OCI_LAYER, &registry.push_blob(name, &bytes), bytes.len())
        })
        .collect();
    let manifest = image_manifest(&descriptor(OCI_CONFIG, &config_digest, config.len()), &layers);
    let digest = Algorithm::Sha256.digest(manifest.as_bytes());
    let own = digest.to_string();
    let by_digest = [own.as_str()];
    for tag in if tags.is_empty() { &by_digest } else { tags } {
        let reply = registry.push_manifest(name, tag, OCI_MANIFEST, manifest.as_bytes());
        assert_eq!(reply.status, 201, "{}", reply.text());
    }
    Pushed { digest, size: manifest.len() }
}

fn config(architecture: &str, history: &[&str]) -> Value {
    let history: Vec<Value> = history
        .iter()
        .map(|line| match line.strip_prefix('#') {
            Some(line) => json!({"created_by": line, "empty_layer": true}),
            None => json!({"created_by": line}),
        })
        .collect();
    json!({
        "os": "linux", "architecture": architecture, "created": "2026-11-20T10:01:00Z",
        "author": "The team <team@example.com>",
        "config": {
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"],
            "Entrypoint": ["/app/run.sh"], "Cmd": ["--port", "8080"], "WorkingDir": "/app",
            "User": "1000:1000", "ExposedPorts": {"8080/tcp": {}}, "Volumes": {"/data": {}},
            "Labels": {
                "org.opencontainers.image.source": "https://git.example.com/team/app",
                "org.opencontainers.image.version": "1.4.0",
                "org.opencontainers.image.description": "An application that shows how labels look \
                    when they are long enough to need a second line on most screens",
            },
        },
        "history": history,
    })
}

/// A layer of files of this machine's Debian.
fn debian() -> Vec<u8> {
    let folders = ["etc/apt", "etc/default", "etc/init.d", "usr/share/perl5", "usr/share/zoneinfo"];
    run(Command::new("tar").args(["--sort=name", "-C", "/", "-c"]).args(folders)).stdout
}

fn app(version: &str) -> Vec<u8> {
    let executable = Member { mode: 0o755, ..Member::default() };
    let noise = common::noise(7, 3_000_000);
    let text: String =
        (1..400).map(|n| format!("def line_{n}(value):\n    return value * {n}\n")).collect();
    Tar::default()
        .directory("app")
        .member("app/run.sh", b"#!/bin/sh\nexec python3 /app/main.py \"$@\"\n", &executable)
        .file("app/main.py", text.as_bytes())
        .file("app/logo.svg", LOGO)
        .file("app/VERSION", version.as_bytes())
        .symlink("app/current", "main.py")
        .file("app/cache.bin", &noise)
        .finish()
}

const LOGO: &[u8] = br#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 100" width="300"><circle cx="50" cy="50" r="40" fill="tomato"/></svg>"#;

fn patch(version: &str) -> Vec<u8> {
    Tar::default()
        .file("app/.wh.cache.bin", b"")
        .file("app/VERSION", format!("{version} patched\n").as_bytes())
        .finish()
}

/// Fills a registry with images as people have them.
fn fill(registry: &Registry) -> Digest {
    let history = [
        "/bin/sh -c #(nop) ADD file:5d68d27cc15a80653c93d3a0b262a28112d47a46326ff5fc2dfbf7fa3b9a0ce8 in / ",
        "#/bin/sh -c #(nop)  CMD [\"bash\"]",
        "RUN /bin/sh -c apt-get update && apt-get install -y --no-install-recommends python3 ca-certificates \
         && rm -rf /var/lib/apt/lists/* # buildkit",
        "#ENV LANG=C.UTF-8",
        "COPY --chown=1000:1000 . /app # buildkit",
    ];
    let base = debian();
    let layers = |version: &str| vec![base.clone(), app(version), patch(version)];
    push(registry, "team/app", &["1.3"], &layers("1.3"), config("amd64", &history));
    let image =
        push(registry, "team/app", &["1.4", "latest"], &layers("1.4"), config("amd64", &history));
    let arm = push(registry, "team/app", &[], &layers("1.4")[1..], config("arm64", &history[2..]));
    let child = |pushed: &Pushed, architecture: &str| {
        let mut child = descriptor(OCI_MANIFEST, &pushed.digest, pushed.size);
        child["platform"] = json!({"os": "linux", "architecture": architecture});
        child
    };
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX,
        "manifests": [child(&image, "amd64"), child(&arm, "arm64")]});
    let reply =
        registry.push_manifest("team/app", "multi", OCI_INDEX, index.to_string().as_bytes());
    assert_eq!(reply.status, 201, "{}", reply.text());
    for (kind, title) in [
        ("application/spdx+json", "sbom.spdx.json"),
        ("application/vnd.dev.cosign.artifact.sig.v1+json", "signature.json"),
    ] {
        let subject = descriptor(OCI_MANIFEST, &image.digest, image.size);
        registry.push_artifact(
            "team/app",
            title,
            (OCI_EMPTY, "{}"),
            &[(kind, "{\"name\": \"app\"}\n", Some(title))],
            json!({"artifactType": kind, "subject": subject}),
        );
    }
    for name in [
        "library/debian",
        "library/alpine",
        "team/web/frontend",
        "team/web/backend",
        "infra/dns/resolver",
        "zeta",
    ] {
        let tar = Tar::default().file("etc/hostname", name.as_bytes()).finish();
        push(registry, name, &["12", "latest"], &[tar], config("amd64", &[]));
    }
    // Layers are found as soon as they are indexed.
    common::eventually("everything is indexed", || {
        let reply = registry.get("/v2/_query/find?name=VERSION").text();
        reply.contains("\"waiting_layers\":0")
    });
    image.digest
}

/// Every page, with a name for its picture.
fn pages() -> Vec<(&'static str, &'static str)> {
    vec![
        ("home", "/ui/"),
        ("home-tree", "/ui/?view=tree"),
        ("home-folder", "/ui/?below=team"),
        ("home-named", "/ui/?named=web&as=repository&q=web"),
        ("repository", "/ui/team/app"),
        ("manifests", "/ui/team/app?view=manifests"),
        ("image", "/ui/team/app:1.4/"),
        ("image-platforms", "/ui/team/app:multi/"),
        ("artifact", "/ui/team/app:sbom.spdx.json/"),
        ("directory", "/ui/team/app:1.4/etc/init.d/"),
        ("directory-size", "/ui/team/app:1.4/app/?sort=size"),
        ("directory-deleted", "/ui/team/app:1.4/app/?deleted=1"),
        ("file-text", "/ui/team/app:1.4/app/main.py"),
        ("file-line", "/ui/team/app:1.4/app/main.py#L12"),
        ("file-history", "/ui/team/app:1.4/app/VERSION"),
        ("file-hex", "/ui/team/app:1.4/usr/share/zoneinfo/UTC"),
        ("file-picture", "/ui/team/app:1.4/app/logo.svg"),
        ("file-link", "/ui/team/app:1.4/app/current"),
        ("space", "/ui/team/app:1.4/?view=space"),
        ("find-form", "/ui/_find"),
        ("find", "/ui/_find?name=VERSION"),
        ("grep", "/ui/_grep?pattern=return%20value%20.%201&path=/app/**"),
        ("diff", "/ui/_diff?a=team/app:1.3&b=team/app:1.4&patch=1"),
        ("delete", "/ui/_delete/team/app:1.3"),
        ("who", "/ui/_login"),
        ("error", "/ui/team/app:none/"),
    ]
}

#[track_caller]
fn is_quiet(browser: &Browser, path: &str) {
    let mut complaints = browser.complaints();
    // What the address itself answers with is no fault of the page.
    complaints.retain(|text| !text.contains("the server responded with a status of 404"));
    assert_eq!(complaints, [""; 0], "{path}");
}

#[test]
fn every_page_in_every_light() {
    let _turn = turn();
    let registry = Registry::start(&[]);
    let digest = fill(&registry);
    let (browser, axe) = (Browser::start(), axe());
    let root = format!("http://{}", registry.host());
    let layer = {
        let manifest = registry.get(&format!("/v2/team/app/manifests/{digest}")).json();
        manifest["layers"][2]["digest"].as_str().expect("a digest").to_owned()
    };
    let layer = format!("/ui/team/app:1.4/app/?layer={layer}");
    let mut pages = pages();
    pages.push(("layer", &layer));
    let mut wrong = Vec::new();
    for (name, path) in &pages {
        let url = format!("{root}{path}");
        for (width, scheme) in [(1600, "light"), (1600, "dark"), (360, "light"), (360, "dark")] {
            browser.look(width, scheme);
            browser.open(&url);
            is_quiet(&browser, path);
            browser.picture(&format!("{name}-{width}-{scheme}"));
            let wide = browser.run("return document.documentElement.scrollWidth");
            if wide.as_u64().is_none_or(|wide| wide > u64::from(width)) {
                wrong.push(format!("{path} is {wide} wide on a screen of {width}"));
            }
            let barriers = browser.barriers(&axe);
            wrong.extend(barriers.iter().map(|text| format!("{path}, {width}, {scheme}: {text}")));
        }
        let foreign = browser.requests();
        let foreign = foreign.iter().filter(|url| !url.starts_with(&root));
        let foreign: Vec<_> = foreign.filter(|url| !url.starts_with("data:")).collect();
        assert!(foreign.is_empty(), "{path}: {foreign:?}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    // The whole image page comes soon.
    browser.look(1600, "light");
    let mut times = Vec::new();
    for _ in 0..5 {
        browser.open(&format!("{root}/ui/team/app:1.4/"));
        let time = "return performance.getEntriesByType('navigation')[0].loadEventEnd";
        times.push(browser.run(time).as_f64().expect("a number"));
    }
    eprintln!("the image page is complete after {times:?} ms");
}

/// The way of a user, with the script and without it.
#[test]
fn a_visit() {
    let _turn = turn();
    let mut registry = Registry::start(&["--user", "ann:secret"]);
    registry.authorization = Some("Basic YW5uOnNlY3JldA==".to_owned());
    fill(&registry);
    let browser = Browser::start();
    let root = format!("http://{}", registry.host());
    for scripts in [true, false] {
        browser.scripts(scripts);
        browser.look(1600, "light");
        browser.open(&format!("{root}/ui/team/app"));
        browser.picture(&format!("login-{}", if scripts { "script" } else { "plain" }));
        browser.fill("input[name=name]", "ann");
        browser.fill("input[name=password]", "wrong");
        browser.click("main button");
        browser.shows("The name or the password is wrong");
        browser.fill("input[name=name]", "ann");
        browser.fill("input[name=password]", "secret");
        browser.click("main button");
        browser.comes_to("/ui/team/app");
        browser.shows("pull, push, delete");

        browser.follow("1.4");
        browser.shows("Layers and history");
        browser.follow("app/");
        browser.comes_to("/app/");
        browser.follow("VERSION");
        browser.shows("1.4 patched");
        browser.shows("taken away by layer 3");
        browser.open(&format!("{root}/ui/team/app?sort=name"));
        browser.click("input[value='team/app:1.3']");
        browser.click("input[value='team/app:1.4']");
        browser.click("main form button");
        browser.shows("/app/VERSION");
        browser.shows("By directory");

        browser.fill("input[type=search]", "line_7");
        browser.press("\u{e007}");
        browser.shows("was taken for text in files");
        browser.shows("def line_7(value):");
        browser.fill("input[type=search]", "run.sh");
        browser.press("\u{e007}");
        browser.shows("was taken for the name of a file");
        browser.follow("/app/run.sh");
        browser.shows("exec python3");

        let tag = if scripts { "1.3" } else { "latest" };
        browser.open(&format!("{root}/ui/_delete/team/app:{tag}"));
        browser.click("button.danger");
        browser.comes_to("/ui/team/app");
        assert!(!browser.text().contains(&format!("{tag}\n")), "{}", browser.text());
        assert_eq!(registry.get(&format!("/v2/team/app/manifests/{tag}")).status, 404);
        // For the second time.
        fill(&registry);
        browser.click("header form[method=post] button");
        browser.shows("Password");
        let mut complaints = browser.complaints();
        complaints.retain(|text| !text.contains("the server responded with a status of 401"));
        assert_eq!(complaints, [""; 0]);
    }
}

#[test]
fn by_keyboard() {
    let _turn = turn();
    let registry = Registry::start(&[]);
    fill(&registry);
    let browser = Browser::start();
    let root = format!("http://{}", registry.host());
    browser.look(1600, "light");
    browser.open(&format!("{root}/ui/team/app:1.4/"));
    let focused = || browser.run("return document.activeElement.textContent").to_string();
    let [down, right, left] = ["\u{e015}", "\u{e014}", "\u{e012}"];
    browser.press(down);
    assert_eq!(focused(), "\"app/\"");
    browser.press(down);
    assert_eq!(focused(), "\"etc/\"");
    browser.press(right);
    browser.comes_to("/etc/");
    browser.press(down);
    browser.press(down);
    browser.press(left);
    browser.comes_to("/ui/team/app:1.4/");
    browser.press("/");
    let search = browser.run("return document.activeElement.name");
    assert_eq!(search, "q");
}

/// An image whose every name and text tries to run something, or to load something from elsewhere.
#[test]
fn hostile_images_do_nothing() {
    let _turn = turn();
    let registry = Registry::start(&[]);
    let script = "<script>alert(1)</script>";
    let load = "<img src=http://evil.example/x onerror=alert(2)>";
    let long = "x".repeat(90);
    let names: [&[u8]; 12] = [
        script.as_bytes(),
        load.as_bytes(),
        b"a\" autofocus onfocus=\"alert(3)",
        b"javascript:alert(4)",
        b"data:text,<script>alert(5)",
        "\u{202e}gnp.exe".as_bytes(),
        b"\x1b]0;title\x07\x1b[2J",
        b"new\nline\ttab",
        b"\xff\xfe\x80",
        long.as_bytes(),
        b"]]>--><svg onload=alert(6)>",
        b"{{7*7}}${7*7}`",
    ];
    let text = format!("{script}{load}\u{202e}\u{200b}\x1b[31m\n<svg/onload=alert(7)>\n");
    let mut tar = Tar::default();
    for name in names {
        tar = tar
            .file(name, text.as_bytes())
            .symlink([name, b".link"].concat(), "javascript:alert(8)");
    }
    let svg = format!(
        "<svg xmlns='http://www.w3.org/2000/svg' onload='alert(9)'>{script}<image href='http://evil.example/y'/></svg>"
    );
    let tar = tar
        .file("evil.svg", svg.as_bytes())
        .file("evil.html", format!("<!doctype html>{script}{load}").as_bytes())
        .file("evil.png", b"\x89PNG\r\n\x1a\nno picture")
        .finish();
    let mut config = config("<script>alert(10)</script>", &[&text]);
    config["author"] = json!(text);
    config["created"] = json!(text);
    config["config"] = json!({"Env": [text, format!("A={text}")], "Entrypoint": [text], "Cmd": [text],
        "User": text, "WorkingDir": text, "Labels": {&text: text}, "ExposedPorts": {&text: {}}});
    let pushed = push(&registry, "hostile", &["1"], &[tar], config);
    registry.push_artifact(
        "hostile",
        "artifact",
        (OCI_EMPTY, "{}"),
        &[(&text, &text, Some("evil.html"))],
        json!({"artifactType": text, "subject": descriptor(OCI_MANIFEST, &pushed.digest, pushed.size)}),
    );
    common::eventually("everything is indexed", || {
        registry.get("/v2/_query/find?name=evil*").text().contains("\"waiting_layers\":0")
    });

    let browser = Browser::start();
    let root = format!("http://{}", registry.host());
    let mut paths: Vec<String> = [
        "/ui/hostile",
        "/ui/hostile?view=manifests",
        "/ui/hostile:1/",
        "/ui/hostile:1/?deleted=1",
        "/ui/hostile:1/?view=space",
        "/ui/hostile:artifact/",
        "/ui/hostile:artifact/evil.html",
        "/ui/hostile:1/evil.svg",
        "/ui/hostile:1/evil.svg?raw=image/svg%2Bxml",
        "/ui/hostile:1/evil.svg?raw=text",
        "/ui/hostile:1/evil.html",
        "/ui/hostile:1/evil.html?raw=text",
        "/ui/hostile:1/evil.png",
        "/ui/_find?name=*",
        "/ui/_grep?pattern=alert",
        "/ui/_diff?a=hostile:1&b=hostile:1",
        "/ui/_search?q=%3Cscript%3Ealert(11)%3C/script%3E",
        "/ui/?named=%22%3E%3Cscript%3Ealert(12)%3C/script%3E",
        "/ui/%3Cscript%3Ealert(13)%3C%2Fscript%3E",
    ]
    .map(str::to_owned)
    .into();
    for name in names {
        let name: String = name.iter().map(|byte| format!("%{byte:02X}")).collect();
        paths.push(format!("/ui/hostile:1/{name}"));
        paths.push(format!("/ui/hostile:1/{name}.link"));
    }
    for (at, path) in paths.iter().enumerate() {
        browser.look(1600, "light");
        browser.open(&format!("{root}{path}"));
        assert!(!browser.has_dialog(), "{path} has run something");
        browser.picture(&format!("hostile-{at}"));
        let mut complaints = browser.complaints();
        // The picture that is none, and pages of what is not there.
        complaints.retain(|text| !text.contains("the server responded with a status of 40"));
        // The policy of a raw picture keeps its own script from running.
        let is_raw = path.contains("raw=image");
        complaints.retain(|text| !(is_raw && text.contains("sandboxed")));
        complaints.retain(|text| !(is_raw && text.contains("Content Security Policy")));
        assert_eq!(complaints, [""; 0], "{path}");
        let requests = browser.requests();
        let foreign: Vec<_> = requests.iter().filter(|url| !url.starts_with(&root)).collect();
        assert!(foreign.is_empty(), "{path}: {foreign:?}");
    }
}
