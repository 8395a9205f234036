//! Every kind of bad step.

use serde_json::json;

use crate::client::{
    Image, at, chain, id, list, ok, push, push_image, put_checksum, put_json, put_layer, put_tag,
};
use crate::common::{Registry, Reply};

#[track_caller]
fn refused(reply: &Reply, status: u16, why: &str) -> String {
    assert_eq!(reply.status, status, "{why}: {}", reply.text());
    assert_eq!(reply.header("content-type"), Some("application/json"));
    let document = reply.json();
    let message = document["error"].as_str().unwrap_or_default().to_owned();
    assert!(!message.is_empty(), "{why}: {document}");
    assert_eq!(document, json!({"error": message}), "{why}");
    message
}

#[test]
fn json() {
    let registry = Registry::start(&[]);
    let images = chain("a");
    let base = &images[0];
    let with = |json: String| Image { json: json.into_bytes(), ..base.clone() };
    let own = &base.id;
    for (image, why) in [
        (with(String::new()), "nothing"),
        (with("null".into()), "no object"),
        (with(format!("\"{own}\"")), "no object"),
        (with("{}".into()), "no id"),
        (with(format!(r#"{{"id":"{}"}}"#, id("other"))), "another id"),
        (with(format!(r#"{{"id":"{}"}}"#, own.to_uppercase())), "uppercase"),
        (with(format!(r#"{{"id":"{own}","parent":"x"}}"#)), "no parent's id"),
        (with(format!(r#"{{"id":"{own}","parent":"{own}"}}"#)), "its own parent"),
        (images[1].clone(), "its parent is not there"),
        (with(format!(r#"{{"id":"{own}"}}{{"#)), "garbage behind"),
        (with(format!(r#"{{"id":"{own}","a":{}"#, "[".repeat(100_000))), "nested"),
    ] {
        refused(&put_json(&registry, &image), 400, why);
        let layer = put_layer(&registry, &image);
        refused(&layer, 404, "its JSON was refused");
    }
    let huge = with(format!(r#"{{"id":"{own}","x":"{}"}}"#, "x".repeat(5 << 20)));
    refused(&put_json(&registry, &huge), 413, "larger than any JSON");
    for path in ["/v1/images/abc/json", "/v1/images/..%2fx/json"] {
        refused(&registry.get(path), 400, "no id");
    }

    // A parent that is still being pushed is none.
    ok(put_json(&registry, base), "json");
    let message = refused(&put_json(&registry, &images[1]), 400, "an incomplete parent");
    assert!(message.contains(own), "{message}");
    ok(put_layer(&registry, base), "layer");
    ok(put_checksum(&registry, base, &base.checksum()), "checksum");
    ok(put_json(&registry, &images[1]), "now it is there");
}

#[test]
fn steps_out_of_order() {
    let registry = Registry::start(&[]);
    let base = &chain("a")[0];
    let checksum = base.checksum();
    refused(&put_layer(&registry, base), 404, "no JSON");
    refused(&put_checksum(&registry, base, &checksum), 409, "nothing came");
    ok(put_json(&registry, base), "json");
    refused(&put_checksum(&registry, base, &checksum), 409, "no layer");
    ok(put_layer(&registry, base), "layer");
    let path = at(&base.id, "checksum");
    refused(&registry.send("PUT", &path, &[], b""), 412, "no checksum");
    let old = [("X-Docker-Checksum", checksum.as_str())];
    refused(&registry.send("PUT", &path, &old, b""), 412, "the other header");
    ok(put_checksum(&registry, base, &checksum), "checksum");
    let message = refused(&put_json(&registry, base), 409, "complete");
    assert_eq!(message, "Image already exists", "Docker 1 goes on by these words");
    refused(&put_layer(&registry, base), 409, "complete");
    refused(&put_checksum(&registry, base, &checksum), 409, "complete");
    assert_eq!(registry.get(&at(&base.id, "json")).body, base.json);
    let wrong = [("X-Docker-Checksum-Payload", "sha256:x")];
    for (method, path) in [
        ("DELETE", at(&base.id, "json")),
        ("POST", at(&base.id, "layer")),
        ("GET", at(&base.id, "checksum")),
        ("PUT", at(&base.id, "ancestry")),
        ("POST", "/v1/repositories/a".into()),
        ("POST", "/v1/search".into()),
    ] {
        let reply = registry.send(method, &path, &wrong, b"");
        refused(&reply, 405, &format!("{method} {path}"));
        assert!(reply.header("allow").is_some());
    }
}

/// What was pushed with a wrong checksum is gone, and the answer says so.
#[test]
fn wrong_checksum() {
    let registry = Registry::start(&[]);
    let base = &chain("a")[0];
    for (said, why) in [
        (id("something else"), "no digest"),
        (format!("sha256:{}", id("something else")), "another"),
        (base.checksum().to_uppercase(), "another spelling"),
        (String::from("x"), "nothing like it"),
    ] {
        ok(put_json(&registry, base), "json");
        ok(put_layer(&registry, base), "layer");
        let message = refused(&put_checksum(&registry, base, &said), 400, why);
        assert!(message.contains("discarded"), "{message}");
        assert_eq!(registry.get(&at(&base.id, "json")).status, 404);
        refused(&put_layer(&registry, base), 404, "the JSON is gone too");
        let right = put_checksum(&registry, base, &base.checksum());
        refused(&right, 409, "and the layer");
    }
    let pushing = registry.dir.join("layers/docker/registry/v1/pushing");
    for pusher in std::fs::read_dir(pushing).unwrap() {
        let left = std::fs::read_dir(pusher.unwrap().path()).unwrap().count();
        assert_eq!(left, 0);
    }
    push_image(&registry, base);
}

/// JSON that changes while the layer comes.
#[test]
fn another_json_meanwhile() {
    let registry = Registry::start(&[]);
    let base = &chain("a")[0];
    ok(put_json(&registry, base), "json");
    ok(put_layer(&registry, base), "layer");
    let mut changed = base.clone();
    changed.json.push(b' ');
    ok(put_json(&registry, &changed), "another json");
    let message = put_checksum(&registry, &changed, &changed.checksum());
    refused(&message, 409, "the layer was checked with the other");
    ok(put_layer(&registry, &changed), "layer");
    ok(put_checksum(&registry, &changed, &changed.checksum()), "checksum");
}

#[test]
fn tags() {
    let registry = Registry::start(&[]);
    let images = chain("a");
    push(&registry, "team/old", "1", &images);
    let top = &images[2].id;
    let put = |path: &str, body: &str| registry.send("PUT", path, &[], body.as_bytes());
    let tag = |tag: &str| format!("/v1/repositories/team/old/tags/{tag}");
    for (name, why) in [
        ("-x", "starts with a dash"),
        (".x", "starts with a dot"),
        ("a%2fb", "a slash"),
        ("a%20b", "a blank"),
        (&"x".repeat(129), "long"),
    ] {
        refused(&put(&tag(name), &format!("\"{top}\"")), 400, why);
    }
    ok(put(&tag(&"x".repeat(128)), &format!("\"{top}\"")), "as long as may be");
    for (body, status, why) in [
        (String::new(), 400, "nothing"),
        ("\"\"".into(), 400, "no id"),
        (format!("[\"{top}\"]"), 400, "a list"),
        (format!("\"{}\"", top.to_uppercase()), 400, "uppercase"),
        (format!("\"{}\"", &top[..12]), 400, "the beginning of one"),
        (format!("\"{}\"", id("nobody")), 404, "not there"),
        (format!("\"{}\"", "x".repeat(5000)), 413, "long"),
    ] {
        refused(&put(&tag("2"), &body), status, why);
        refused(&registry.get(&tag("2")), 404, "not set");
    }
    // As clients of the npm server sent it.
    ok(put(&tag("2"), top), "bare");
    assert_eq!(registry.get(&tag("2")).json(), json!(top));
    refused(&put("/v1/repositories/Team/old/tags/1", top), 400, "no name");

    // A layer that is no tar has no diff_id, so there is no manifest for it.
    let odd = Image::new("odd", None, b"not a tar".to_vec());
    push_image(&registry, &odd);
    let message = refused(&put_tag(&registry, "team/old", "odd", &odd.id), 422, "no tar");
    assert!(message.contains("no index"), "{message}");
}

#[test]
fn lists_of_images() {
    let registry = Registry::start(&[]);
    let long = format!("[{}]", vec![r#"{"id":""}"#; 600_000].join(","));
    for (body, status, why) in [
        ("", 400, "nothing"),
        ("{}", 400, "no list"),
        (r#"[{"id":"x"}]"#, 400, "no id"),
        (r#"[{}]"#, 400, "no id"),
        (r#"["x"]"#, 400, "no object"),
        (&long, 413, "long"),
    ] {
        for path in ["/v1/repositories/a/", "/v1/repositories/a/images"] {
            let reply = registry.send("PUT", path, &[], body.as_bytes());
            refused(&reply, status, why);
        }
    }
    ok(registry.send("PUT", "/v1/repositories/a/", &[], b"[]"), "none");
    ok(registry.send("PUT", "/v1/repositories/a/", &[], &list(&chain("a"))), "some");
}

#[test]
fn read_only() {
    let temp = tempfile::tempdir().unwrap();
    let images = chain("a");
    let mut registry = Registry::start_in(temp.path(), &[]);
    push(&registry, "a", "1", &images);
    registry.stop();
    let registry = Registry::start_in(temp.path(), &["--read-only"]);
    assert_eq!(crate::client::pull(&registry, "a", "1"), images);
    let other = &chain("b")[0];
    refused(&put_json(&registry, other), 405, "read-only");
    refused(&put_tag(&registry, "a", "2", &images[2].id), 405, "read-only");
    let reply = registry.delete("/v1/repositories/a/tags/1");
    refused(&reply, 405, "read-only");
}
