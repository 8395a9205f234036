//! What cannot be shown of an image, and how that is said.

use serde_json::json;

use crate::common::tar::Tar;
use crate::common::{
    OCI_CONFIG, OCI_LAYER, Registry, Reply, descriptor, eventually, image_manifest,
};
use crate::files::{NAME, push, registry};
use crate::support::{Store, absent, headers, refused, sha256};

/// Checks a refusal in the v1 API's form.
#[track_caller]
fn refused_v1(reply: &Reply, status: u16, why: &str) {
    assert_eq!(reply.status, status, "{why}: {}", reply.text());
    let length = reply.body.len().to_string();
    headers(
        reply,
        &[
            ("content-type", Some("application/json")),
            ("content-length", Some(&length)),
            ("x-content-type-options", Some("nosniff")),
        ],
        why,
    );
    let document = reply.json();
    let error = document["error"].as_str().unwrap_or("");
    assert!(!error.is_empty(), "{why}: {}", reply.text());
    assert_eq!(document, json!({"error": error}), "{why}");
}

/// Paths of the image that have no content, or are not there.
#[test]
fn paths() {
    let (registry, _) = registry();
    let long = "x".repeat(256);
    for (view, path, status, code) in [
        ("blobs", "", 400, "FILE_INVALID"),
        ("blobs", "etc", 400, "FILE_INVALID"),
        ("blobs", "etc/", 400, "FILE_INVALID"),
        ("blobs", "bin", 400, "FILE_INVALID"),
        ("blobs", "dev/null", 400, "FILE_INVALID"),
        ("blobs", "dev/sda", 400, "FILE_INVALID"),
        ("blobs", "dev/pipe", 400, "FILE_INVALID"),
        ("blobs", "none", 404, "FILE_UNKNOWN"),
        ("blobs", "etc/old", 404, "FILE_UNKNOWN"),
        ("blobs", "etc/.wh.old", 404, "FILE_UNKNOWN"),
        ("blobs", "etc/passwd/x", 404, "FILE_UNKNOWN"),
        ("blobs", "dangling", 404, "FILE_UNKNOWN"),
        ("blobs", "loop", 404, "FILE_UNKNOWN"),
        ("blobs", "loop/x", 404, "FILE_UNKNOWN"),
        ("blobs", "a%00b", 404, "FILE_UNKNOWN"),
        ("blobs", &long, 400, "FILE_INVALID"),
        ("tree", "none", 404, "FILE_UNKNOWN"),
        ("tree", "etc/old", 404, "FILE_UNKNOWN"),
        ("tree", "etc/.wh.old", 404, "FILE_UNKNOWN"),
        ("tree", "etc/passwd/x", 404, "FILE_UNKNOWN"),
        ("tree", "loop/x", 404, "FILE_UNKNOWN"),
        ("tree", "?limit=0", 400, "UNSUPPORTED"),
        ("tree", "?limit=-1", 400, "UNSUPPORTED"),
        ("tree", "?limit=", 400, "UNSUPPORTED"),
        ("tree", "?limit=1x", 400, "UNSUPPORTED"),
        ("tree", "?recursive=yes", 400, "UNSUPPORTED"),
        ("tree", "?platform=linux", 400, "UNSUPPORTED"),
        ("tree", "?platform=%ff", 400, "UNSUPPORTED"),
        ("tree", "etc?after=/dev", 400, "UNSUPPORTED"),
        ("tree", "etc?after=/etcetera", 400, "UNSUPPORTED"),
        ("tar", "none", 404, "FILE_UNKNOWN"),
        ("tar", "loop", 404, "FILE_UNKNOWN"),
        ("tar", "?gzip=9", 400, "UNSUPPORTED"),
    ] {
        let why = &format!("{view}/{path}");
        let url = format!("/v1/images/team%2Fapp:1.4/{view}/{path}");
        let reply = registry.get(&url);
        refused_v1(&reply, status, why);
        let csp = [("content-security-policy", Some("sandbox; default-src 'none'"))];
        headers(&reply, &csp, why);
        let head = registry.head(&url);
        assert_eq!((head.status, head.body.len()), (status, 0), "HEAD {why}");
        let reply = registry.get(&format!("/v2/{NAME}/_files/{view}/1.4/{path}"));
        refused(&reply, status, code, why);
        headers(&reply, &csp, why);
    }
}

#[test]
fn images() {
    let (registry, pushed) = registry();
    let absent = absent();
    for (id, status, why) in [
        ("team%2Fnone:1.4", 404, "no such repository"),
        ("team%2Fapp:none", 404, "no such tag"),
        (&format!("team%2Fapp@{absent}"), 404, "no such manifest"),
        (&absent.to_string(), 404, "no such digest"),
        (&absent.hex(), 404, "no such digest"),
        (&absent.hex()[..12], 404, "no such prefix"),
        (&format!("other@{}", pushed.manifest), 404, "another repository's"),
        (&format!("sha256:{}", &pushed.manifest.hex()[..11]), 400, "too short"),
        ("", 400, "nothing"),
        ("Team%2Fapp", 400, "uppercase"),
        ("..%2F..", 400, "dots"),
        ("team%2Fapp:a%2Fb", 400, "a slash in the tag"),
    ] {
        for view in ["tree", "blobs", "tar"] {
            let reply = registry.get(&format!("/v1/images/{id}/{view}/etc/passwd"));
            refused_v1(&reply, status, why);
        }
    }
    for (place, status, code, why) in [
        ("none/_files/tree/1.4".to_owned(), 404, "MANIFEST_UNKNOWN", "no such repository"),
        ("team/app/_files/tree/none".to_owned(), 404, "MANIFEST_UNKNOWN", "no such tag"),
        (format!("team/app/_files/tree/{absent}"), 404, "MANIFEST_UNKNOWN", "no such manifest"),
        (
            format!("team/app/_files/tree/{}", pushed.config),
            404,
            "MANIFEST_UNKNOWN",
            "a config's digest is no reference",
        ),
        ("team/app/_files/tree/-".to_owned(), 400, "MANIFEST_INVALID", "no tag"),
        ("Team/_files/tree/1.4".to_owned(), 400, "NAME_INVALID", "uppercase"),
        ("team/app/_files/trees/1.4".to_owned(), 404, "UNSUPPORTED", "no such view"),
    ] {
        refused(&registry.get(&format!("/v2/{place}")), status, code, why);
    }
    for path in
        ["/v1/", "/v1/images/", "/v1/images/a", "/v1/images/a/", "/v1/images/a/trees/", "/v1/x"]
    {
        refused_v1(&registry.get(path), 404, path);
    }
    for method in ["PUT", "POST", "DELETE"] {
        let reply = registry.send(method, "/v1/images/team%2Fapp:1.4/tree/", &[], b"");
        refused_v1(&reply, 405, method);
        headers(&reply, &[("allow", Some("GET, HEAD"))], method);
    }
}

/// A layer that is no tar is stored and served like any other.
#[test]
fn layers_that_are_no_tars() {
    let registry = Registry::start(&[]);
    let manifest = registry.push_image("artifact", "latest", "no tar, for all that its type says");
    for view in ["tree", "blobs", "tar"] {
        let reply = registry.get(&format!("/v1/images/artifact/{view}/x"));
        refused_v1(&reply, 422, view);
        let error = reply.json()["error"].to_string();
        let layer = sha256(b"no tar, for all that its type says").to_string();
        assert!(error.contains(&layer) && error.contains("tar"), "{error}");
        let reply = registry.get(&format!("/v2/artifact/_files/{view}/latest/x"));
        refused(&reply, 422, "UNSUPPORTED", view);
    }
    let pulled = registry.get(&format!("/v2/artifact/manifests/{manifest}"));
    assert_eq!(pulled.status, 200);

    // Below a layer that is one, too.
    let layers = [Tar::default().file("a", b"").finish(), b"no tar".to_vec()];
    push(&registry, "half", "latest", &layers);
    let reply = registry.get("/v1/images/half/blobs/a");
    refused_v1(&reply, 422, "half an image is none");
}

/// A prefix that two ids begin with. Real digests do not come so close, so the
/// store is one that vouches for other digests.
#[test]
fn ambiguous_prefixes() {
    let temp = tempfile::TempDir::new().expect("a temporary folder");
    let store = Store::new(temp.path());
    let layer = Tar::default().file("a", b"content").finish();
    let layer_digest = store.content(&layer);
    let prefix = "0123456789ab";
    let mut configs = Vec::new();
    for end in ["0", "1"] {
        let hex = format!("{prefix}{}", end.repeat(52));
        let config = format!("sha256:{hex}").parse().expect("a digest");
        store.data(&config, b"{}");
        let name = format!("team/{end}");
        let manifest = image_manifest(
            &descriptor(OCI_CONFIG, &config, 2),
            &[descriptor(OCI_LAYER, &layer_digest, layer.len())],
        );
        let manifest = store.content(manifest.as_bytes());
        store.manifest(&name, &manifest);
        store.blob(&name, &config, &config);
        store.blob(&name, &layer_digest, &layer_digest);
        configs.push((hex, name, manifest));
    }
    let registry = Registry::start_in(temp.path(), &[]);
    // The store is looked through in the background.
    eventually("both are known", || {
        let reply = registry.get(&format!("/v1/images/{prefix}/tree/"));
        reply.status == 409 && reply.json()["candidates"].as_array().map(Vec::len) == Some(2)
    });
    let candidates = configs.iter().map(|(hex, name, manifest)| {
        json!({"id": hex, "repository": name, "manifest": manifest.to_string()})
    });
    let candidates: Vec<_> = candidates.collect();
    for id in [prefix, &format!("sha256:{prefix}")] {
        for view in ["tree", "blobs", "tar"] {
            let reply = registry.get(&format!("/v1/images/{id}/{view}/a"));
            assert_eq!(reply.status, 409, "{}", reply.text());
            let document = reply.json();
            assert!(document["error"].is_string());
            assert_eq!(document["candidates"], json!(candidates), "{id}");
        }
    }
    // What lies under the config's digest is not what it says, so nothing is shown by it.
    let reply = registry.get(&format!("/v1/images/{prefix}0/blobs/a"));
    assert_eq!(reply.status, 409, "{}", reply.text());
    assert!(reply.text().contains("whose layers are others than it says"), "{}", reply.text());
}
