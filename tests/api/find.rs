//! `registry find`, and the same over HTTP.

use std::io::Read;

use serde_json::{Value, json};

use crate::cli::{fails, text};
use crate::common::tar::Tar;
use crate::common::{
    OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, Registry, descriptor, eventually,
    image_manifest,
};
use crate::files::body;
use crate::support::{headers, refused, sha256};

/// Pushes an image of layers; returns its manifest.
pub fn push(
    registry: &Registry,
    repository: &str,
    reference: &str,
    platform: &str,
    tars: &[Vec<u8>],
) -> String {
    let (os, architecture) = platform.split_once('/').expect("two words");
    let diff_ids: Vec<String> = tars.iter().map(|tar| sha256(tar).to_string()).collect();
    let config = json!({
        "os": os, "architecture": architecture,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
    .to_string();
    let config_digest = registry.push_blob(repository, config.as_bytes());
    let layers: Vec<Value> = tars
        .iter()
        .map(|tar| descriptor(OCI_LAYER, &registry.push_blob(repository, tar), tar.len()))
        .collect();
    let manifest = image_manifest(&descriptor(OCI_CONFIG, &config_digest, config.len()), &layers);
    let reference = match reference {
        "" => sha256(manifest.as_bytes()).to_string(),
        tag => tag.to_owned(),
    };
    let reply = registry.push_manifest(repository, &reference, OCI_MANIFEST, manifest.as_bytes());
    assert_eq!(reply.status, 201, "{}", reply.text());
    manifest
}

fn base() -> Vec<u8> {
    Tar::default()
        .file("etc/passwd", b"root\n")
        .file("key.pem", b"secret")
        .file(b"\xff\n.jar", b"odd")
        .symlink("link.jar", "etc")
        .finish()
}

fn top() -> Vec<u8> {
    Tar::default().file(".wh.key.pem", b"").file("etc/passwd", b"root\nann\n").finish()
}

/// Two images that share a layer, and an index of two platforms.
fn registry() -> Registry {
    let registry = Registry::start(&[]);
    push(&registry, "team/app", "1.4", "linux/amd64", &[base()]);
    push(&registry, "team/app", "1.5", "linux/amd64", &[base(), top()]);
    let mut children = Vec::new();
    for architecture in ["amd64", "arm64"] {
        let tar = Tar::default().file(format!("{architecture}.txt"), b"x").finish();
        let platform = format!("linux/{architecture}");
        let manifest = push(&registry, "multi", "", &platform, &[tar]);
        let digest = sha256(manifest.as_bytes());
        let mut child = descriptor(OCI_MANIFEST, &digest, manifest.len());
        child["platform"] = json!({"os": "linux", "architecture": architecture});
        children.push(child);
    }
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": children});
    let index = index.to_string();
    let reply = registry.push_manifest("multi", "1", OCI_INDEX, index.as_bytes());
    assert_eq!(reply.status, 201, "{}", reply.text());
    push(&registry, "untagged", "", "linux/amd64", &[top()]);
    // Pushed images are found as soon as they are indexed.
    eventually("everything is indexed", || answer(&registry, "").1["waiting_layers"] == 0);
    registry
}

/// The lines of an answer, and its end.
#[track_caller]
fn answer(registry: &Registry, query: &str) -> (Vec<Value>, Value) {
    let reply = registry.get(&format!("/v2/_query/find?{query}"));
    assert_eq!(reply.status, 200, "{query}: {}", reply.text());
    let parse = |line: &str| serde_json::from_str::<Value>(line).expect("JSON");
    let body = String::from_utf8(body(&reply)).expect("UTF-8");
    let mut lines: Vec<Value> = body.lines().map(parse).collect();
    let end = lines.pop().expect("an end")["end"].take();
    assert!(end.is_object(), "the last line is the end");
    (lines, end)
}

fn places(lines: &[Value]) -> Vec<String> {
    let place = |line: &Value| {
        format!("{}{}", line["image"].as_str().unwrap(), line["path"].as_str().unwrap())
    };
    lines.iter().map(place).collect()
}

#[test]
fn questions() {
    let registry = registry();
    let host = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let other = if host == "amd64" { "arm64" } else { "amd64" };
    let digest = sha256(b"root\n").hex();
    for (query, want, why) in [
        ("name=passwd", "team/app:1.4/etc/passwd team/app:1.5/etc/passwd", "a name"),
        ("name=passwd&tag=*.5", "team/app:1.5/etc/passwd", "of a tag"),
        ("name=*.txt&in=team/**", "", "of a repository"),
        (&format!("sha256={digest}"), "team/app:1.4/etc/passwd", "overwritten in the other"),
        (&format!("sha256=sha256:{digest}&name=p*"), "team/app:1.4/etc/passwd", "both"),
        ("name=*.pem", "team/app:1.4/key.pem", "deleted in the other"),
        ("name=*.pem&deleted=1", "team/app:1.5/key.pem", "shipped and deleted"),
        ("deleted=1&type=f", "team/app:1.5/key.pem team/app:1.5/etc/passwd", "and overwritten"),
        ("path=/*.jar&type=l", "team/app:1.4/link.jar team/app:1.5/link.jar", "a path"),
        (
            "name=*.txt",
            &format!("multi:1/{host}.txt multi:1@linux-{other}/{other}.txt"),
            "every platform",
        ),
        ("name=passwd&in=untagged", "", "a tag is needed"),
        ("name=nothing", "", "no such name"),
        ("size=%2B5&name=passwd", "team/app:1.5/etc/passwd", "larger"),
    ] {
        let (lines, end) = answer(&registry, query);
        let want: Vec<&str> = want.split_whitespace().collect();
        assert_eq!(places(&lines), want, "{why}: {query}");
        assert_eq!((&end["bound"], &end["lines"]), (&json!(null), &json!(want.len())), "{why}");
    }
    let (lines, _) = answer(&registry, "name=passwd&in=untagged&untagged=1");
    assert!(places(&lines)[0].starts_with("untagged@sha256:"), "{lines:?}");

    let (lines, _) = answer(&registry, "name=*.jar&type=f&tag=1.4");
    let manifest = sha256(registry.get("/v2/team/app/manifests/1.4").body.as_slice());
    assert_eq!(
        lines,
        [json!({
            "image": "team/app:1.4", "repository": "team/app", "tag": "1.4",
            "manifest": manifest.to_string(), "platform": "linux/amd64",
            "path": "/\u{fffd}\n.jar", "path_bytes": "/%FF%0A.jar", "type": "file", "size": 3,
            "mode": 0o644, "digest": sha256(b"odd").to_string(),
            "layer": sha256(&base()).to_string(), "deleted": false,
        })]
    );
}

/// Pages of every size make up the whole answer.
#[test]
fn pages() {
    let registry = registry();
    for query in ["", "deleted=1", "name=*a*&untagged=1"] {
        let (whole, _) = answer(&registry, query);
        assert!(!whole.is_empty(), "{query}");
        for limit in 1..=whole.len() + 1 {
            let (mut lines, mut after) = (Vec::new(), String::new());
            loop {
                let (page, end) = answer(&registry, &format!("{query}&limit={limit}{after}"));
                lines.extend(page);
                let Some(next) = end["next"].as_str() else { break };
                assert_eq!(end["bound"], "limit");
                after = format!("&after={next}");
            }
            assert_eq!(lines, whole, "{query} by {limit}");
        }
    }
    // After what is gone, and after what never was.
    for after in ["multi:1/zzz", "multi:1", "multi:0/x", "nothing:1/x", "multi@sha256:0"] {
        let (lines, _) = answer(&registry, &format!("name=passwd&after={after}"));
        assert_eq!(lines.len(), 2, "{after}");
    }
}

#[test]
fn refusals() {
    let registry = Registry::start(&[]);
    for (query, names) in [
        ("nme=passwd", "\"nme\" is not a parameter"),
        ("name=[", "name: "),
        ("type=x", "type: "),
        ("mode=9", "mode: "),
        ("mode=17777", "mode: "),
        ("size=ten", "size: "),
        ("size=%2B99999999999G", "size: "),
        ("newer=yesterday", "newer: "),
        ("sha256=12", "sha256: "),
        ("uid=-1", "uid: "),
        ("deleted=maybe", "deleted is "),
        ("limit=0", "limit is "),
        ("after=x", "after: "),
    ] {
        let reply = registry.get(&format!("/v2/_query/find?{query}"));
        refused(&reply, 400, "UNSUPPORTED", query);
        assert!(reply.text().contains(&names.replace('"', "\\\"")), "{query}: {}", reply.text());
    }
    let reply = registry.head("/v2/_query/find?name=x");
    headers(&reply, &[("content-type", Some("application/x-ndjson"))], "HEAD");
    assert_eq!(registry.send("POST", "/v2/_query/grep", &[], b"").status, 405);
    let post = |query: &str, form: &str| {
        let path = format!("/v2/_query/find?{query}");
        registry.send("POST", &path, &[], form.as_bytes())
    };
    let whole = body(&registry.get("/v2/_query/find?name=passwd&tag=1.4"));
    for (query, form) in [
        ("", "name=passwd&tag=1.4"),
        ("tag=1.4", "name=passwd"),
        ("name=passwd&tag=1.4", ""),
        ("tag=1.4", &format!("name=pass%77d{}", "&sha256=".to_owned() + &sha256(b"root\n").hex())),
    ] {
        assert_eq!(body(&post(query, form)), whole, "{query} {form}");
    }
    for (form, status, code) in [
        (&b"names=x"[..], 400, "UNSUPPORTED"),
        (b"name=\xff", 400, "MANIFEST_INVALID"),
        (&b"&".repeat(60_000), 413, "SIZE_INVALID"),
        (&b"x".repeat((4 << 20) + 1), 413, "SIZE_INVALID"),
    ] {
        refused(&registry.send("POST", "/v2/_query/find", &[], form), status, code, "a body");
    }
}

/// What is deleted, or moved to another image, is gone from the answers at once.
#[test]
fn changes() {
    let registry = registry();
    let found = |query: &str| places(&answer(&registry, query).0);
    push(&registry, "team/app", "1.4", "linux/amd64", &[top()]);
    eventually("it is indexed", || answer(&registry, "").1["waiting_layers"] == 0);
    assert_eq!(found("name=key.pem"), [""; 0], "the tag has moved");
    assert_eq!(found("name=key.pem&deleted=1"), ["team/app:1.5/key.pem"]);
    assert_eq!(registry.delete("/v2/team/app/manifests/1.5").status, 202);
    assert_eq!(found("name=key.pem&deleted=1"), [""; 0], "the tag is deleted");
    assert_eq!(found("name=passwd"), ["team/app:1.4/etc/passwd"]);
}

#[test]
fn waiting() {
    let registry = Registry::start(&["--index-jobs", "0"]);
    push(&registry, "a", "1", "linux/amd64", &[base(), top()]);
    for query in ["name=passwd", ""] {
        let (lines, end) = answer(&registry, query);
        assert_eq!(lines.len(), 0);
        assert_eq!((&end["waiting_images"], &end["waiting_layers"]), (&json!(1), &json!(2)));
    }
    fails(&registry.dir, &["find", "passwd"], 1, "1 images were left out, because 2 layers");
    text(&registry.dir, &["index", "--all"]);
    assert_eq!(text(&registry.dir, &["find", "passwd"]), "a:1/etc/passwd\n");
}

#[test]
fn command_line() {
    let mut registry = registry();
    let dir = registry.dir.clone();
    for with_server in [true, false] {
        if !with_server {
            registry.stop();
        }
        for (arguments, want) in [
            (&["passwd"][..], "team/app:1.4/etc/passwd\nteam/app:1.5/etc/passwd\n"),
            (&["passwd", "-0"], "team/app:1.4/etc/passwd\0team/app:1.5/etc/passwd\0"),
            (&["*.jar", "--images"], "team/app:1.4\nteam/app:1.5\n"),
            (&["*.jar", "--images", "--count"], "2\n"),
            (&["*.jar", "--count"], "4\n"),
            (&["--deleted", "*.pem"], "team/app:1.5/key.pem\n"),
            (&["passwd", "--in", "team/**", "--tag", "1.4"], "team/app:1.4/etc/passwd\n"),
            (&["--size", "-6", "passwd"], "team/app:1.4/etc/passwd\n"),
        ] {
            let arguments = [&["find"], arguments].concat();
            assert_eq!(text(&dir, &arguments), want, "{arguments:?}");
        }
        let layers = text(&dir, &["find", "passwd", "--layers"]);
        let [base, top] = [base(), top()].map(|tar| sha256(&tar).to_string());
        assert_eq!(layers, format!("{base}\n{top}\n"));
        let list = dir.join("list");
        let line = format!("{}  etc/passwd\n", sha256(b"root\n").hex());
        std::fs::write(&list, line).unwrap();
        let argument = format!("@{}", list.display());
        let found = text(&dir, &["find", "--sha256", &argument]);
        assert_eq!(found, "team/app:1.4/etc/passwd\n");
        std::fs::write(&list, "").unwrap();
        fails(&dir, &["find", "--sha256", &argument], 2, "has no digest");

        let json = text(&dir, &["find", "passwd", "--json"]);
        if with_server {
            let reply = registry.get("/v2/_query/find?name=passwd");
            let reply = String::from_utf8(body(&reply)).expect("UTF-8");
            let (lines, _) = reply.split_once("{\"end\"").expect("an end");
            assert_eq!(json, lines, "the same over HTTP");
        }
        fails(&dir, &["find", "nothing"], 1, "");
        fails(&dir, &["find", "["], 2, "not a glob");
        fails(&dir, &["find", "--mode", "rwx"], 2, "not a mode");
        fails(&dir, &["find", "--sha256", "12"], 2, "64 hex digits");
        fails(&dir, &["find", "--layers", "--json"], 2, "cannot be used with");
    }
}

/// An image that cannot be read is named, and the others are found all the same.
#[test]
fn damage() {
    let registry = registry();
    let manifest = sha256(registry.get("/v2/team/app/manifests/1.4").body.as_slice());
    let hex = manifest.hex();
    let blob = registry.store().join("blobs/sha256").join(&hex[..2]).join(&hex).join("data");
    let blob = if blob.exists() {
        blob
    } else {
        registry
            .store()
            .join("docker/registry/v2/blobs/sha256")
            .join(&hex[..2])
            .join(&hex)
            .join("data")
    };
    std::fs::write(&blob, b"{}").unwrap();
    let output = fails(&registry.dir, &["find", "passwd"], 2, "team/app:1.4");
    assert_eq!(String::from_utf8(output).unwrap(), "team/app:1.5/etc/passwd\n");
}

/// A client that leaves ends the work, and gives back what it had of the pool.
#[test]
fn clients_that_leave() {
    let registry = registry();
    for _ in 0..200 {
        let mut stream = registry.connect();
        std::io::Write::write_all(
            &mut stream,
            b"GET /v2/_query/find HTTP/1.1\r\nHost: localhost\r\n\r\n",
        )
        .unwrap();
        let _ = stream.read(&mut [0; 16]).unwrap();
    }
    let (lines, _) = answer(&registry, "name=passwd");
    assert_eq!(lines.len(), 2);
}
