//! What is refused before anything is looked up: routes, methods, names.

use crate::common::Registry;
use crate::support::{absent, files, header_values, headers, refused};

#[test]
fn unknown_routes() {
    let registry = Registry::start(&[]);
    let digest = absent();
    for path in [
        "/v3/",
        "/v22/",
        "/index.html",
        "/v2/a",
        "/v2/a/",
        "/v2/a/b",
        "/v2/a/blobs",
        "/v2/a/tags",
        "/v2/a/tags/",
        "/v2/a/tags/lists",
        "/v2/_catalog//",
        "/v2/a/tags/list//",
        "/v2/a/manifest/v1",
        "/v2/a/manifests",
        &format!("/v2/a/layers/{digest}"),
        &format!("/v2/a/blobs/{digest}//"),
        &format!("/v2/a/referrers/{digest}//"),
    ] {
        for method in ["GET", "POST", "PUT", "DELETE"] {
            let reply = registry.send(method, path, &[], b"");
            refused(&reply, 404, "UNSUPPORTED", &format!("{method} {path}"));
            headers(&reply, &[("allow", None)], path);
        }
        let head = registry.head(path);
        assert_eq!((head.status, head.body.len()), (404, 0), "{path}");
    }
}

#[test]
fn methods() {
    const ALL: [&str; 9] =
        ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "get"];
    let registry = Registry::start(&[]);
    let digest = absent();
    for (path, allowed) in [
        ("/healthz", &["GET", "HEAD"][..]),
        ("/readyz", &["GET", "HEAD"]),
        ("/v2/", &["GET", "HEAD"]),
        ("/v2/_catalog", &["GET", "HEAD"]),
        ("/v2/a/tags/list", &["GET", "HEAD"]),
        (&format!("/v2/a/referrers/{digest}"), &["GET", "HEAD"]),
        (&format!("/v2/a/blobs/{digest}"), &["GET", "HEAD", "DELETE"]),
        ("/v2/a/blobs/uploads/", &["POST"]),
        (
            "/v2/a/blobs/uploads/00000000-0000-0000-0000-000000000000",
            &["GET", "HEAD", "PATCH", "PUT", "DELETE"],
        ),
        ("/v2/a/manifests/v1", &["GET", "HEAD", "PUT", "DELETE"]),
        (&format!("/v2/a/manifests/{digest}"), &["GET", "HEAD", "PUT", "DELETE"]),
    ] {
        for method in ALL.into_iter().filter(|method| !allowed.contains(method)) {
            let reply = registry.send(method, path, &[], b"");
            let why = format!("{method} {path}");
            if method == "HEAD" {
                assert_eq!((reply.status, reply.body.len()), (405, 0), "{why}");
            } else {
                refused(&reply, 405, "UNSUPPORTED", &why);
            }
            let mut named: Vec<&str> =
                header_values(&reply, "allow").iter().flat_map(|value| value.split(", ")).collect();
            let mut allowed = allowed.to_vec();
            named.sort_unstable();
            allowed.sort_unstable();
            assert_eq!(named, allowed, "{why}");
        }
    }
}

#[test]
fn hostile_paths() {
    let registry = Registry::start(&[]);
    let hex = absent().hex();
    let long = "n".repeat(256);
    let deep = "n/".repeat(128);
    let tag = "t".repeat(129);
    for (path, status, code, why) in [
        ("%2e%2e/manifests/v1", 400, "NAME_INVALID", "encoded dots"),
        ("../manifests/v1", 400, "NAME_INVALID", "dots"),
        ("a/../b/manifests/v1", 400, "NAME_INVALID", "dots inside"),
        ("a/%2e%2e/b/tags/list", 400, "NAME_INVALID", "encoded dots inside"),
        ("./a/manifests/v1", 400, "NAME_INVALID", "a dot"),
        ("a%2F%2Fb/manifests/v1", 400, "NAME_INVALID", "an empty part, encoded"),
        ("a%252Fb/manifests/v1", 400, "NAME_INVALID", "a slash that is encoded twice"),
        ("a%2f..%2fb/manifests/v1", 400, "NAME_INVALID", "an encoded path"),
        ("a%252fb/manifests/v1", 400, "NAME_INVALID", "encoded twice"),
        ("a%00/manifests/v1", 400, "NAME_INVALID", "NUL"),
        ("a%0d%0aX-Y:%20z/manifests/v1", 400, "NAME_INVALID", "a header"),
        ("a%20b/manifests/v1", 400, "NAME_INVALID", "a blank"),
        ("%ff/manifests/v1", 400, "NAME_INVALID", "no UTF-8"),
        ("%c3%a4/manifests/v1", 400, "NAME_INVALID", "no ASCII"),
        ("%zz/manifests/v1", 400, "NAME_INVALID", "no escape"),
        ("A/manifests/v1", 400, "NAME_INVALID", "uppercase"),
        ("a:b/manifests/v1", 400, "NAME_INVALID", "a colon"),
        ("a\\b/manifests/v1", 400, "NAME_INVALID", "a backslash"),
        ("/manifests/v1", 400, "NAME_INVALID", "no name"),
        ("a//b/manifests/v1", 400, "NAME_INVALID", "an empty part"),
        ("-a/manifests/v1", 400, "NAME_INVALID", "a leading dash"),
        ("a..b/manifests/v1", 400, "NAME_INVALID", "two dots"),
        ("_uploads/manifests/v1", 400, "NAME_INVALID", "a folder of the store"),
        ("a/_manifests/tags/list", 400, "NAME_INVALID", "a folder of the store"),
        (&format!("{long}/manifests/v1"), 400, "NAME_INVALID", "overlong"),
        (&format!("{deep}n/manifests/v1"), 400, "NAME_INVALID", "overlong and deep"),
        (&format!("{long}/tags/list"), 400, "NAME_INVALID", "overlong"),
        (&format!("A/blobs/sha256:{hex}"), 400, "NAME_INVALID", "uppercase"),
        ("A/blobs/uploads/", 400, "NAME_INVALID", "uppercase"),
        ("A/tags/list", 400, "NAME_INVALID", "uppercase"),
        (&format!("A/referrers/sha256:{hex}"), 400, "NAME_INVALID", "uppercase"),
        ("a/manifests/", 400, "MANIFEST_INVALID", "no tag"),
        ("a/manifests/%2e%2e", 400, "MANIFEST_INVALID", "dots for a tag"),
        ("a/manifests/v1%2fx", 400, "MANIFEST_INVALID", "a slash in a tag"),
        ("a/manifests/v1%00", 400, "MANIFEST_INVALID", "NUL in a tag"),
        ("a/manifests/-v", 400, "MANIFEST_INVALID", "a leading dash"),
        (&format!("a/manifests/{tag}"), 400, "MANIFEST_INVALID", "overlong"),
        ("a/manifests/%ff", 404, "UNSUPPORTED", "no UTF-8"),
        ("a/manifests/sha256:abc", 400, "DIGEST_INVALID", "too short"),
        (&format!("a/manifests/md5:{hex}"), 400, "DIGEST_INVALID", "another algorithm"),
        ("a/blobs/sha256:..%2f..%2f..%2fetc%2fpasswd", 400, "DIGEST_INVALID", "a path"),
        ("a/blobs/..:..", 400, "DIGEST_INVALID", "dots"),
        ("a/blobs/", 400, "DIGEST_INVALID", "no digest"),
        ("a/blobs/v1", 400, "DIGEST_INVALID", "a tag"),
        (&format!("a/blobs/sha256:{}", hex.to_uppercase()), 400, "DIGEST_INVALID", "uppercase"),
        (&format!("a/blobs/sha256:{hex}0"), 400, "DIGEST_INVALID", "a digit too many"),
        (&format!("a/blobs/sha256:{}", &hex[1..]), 400, "DIGEST_INVALID", "a digit too few"),
        (&format!("a/blobs/sha512:{hex}"), 400, "DIGEST_INVALID", "another length"),
        (&format!("a/blobs/sha256:{hex}%00"), 400, "DIGEST_INVALID", "NUL"),
        ("a/referrers/v1", 400, "DIGEST_INVALID", "a tag"),
        ("a/referrers/sha256:abc", 400, "DIGEST_INVALID", "too short"),
        ("a/blobs/uploads/..%2f..", 404, "BLOB_UPLOAD_UNKNOWN", "a path"),
        ("a/blobs/uploads/%00", 404, "BLOB_UPLOAD_UNKNOWN", "NUL"),
        ("a/tags/list?last=%ff", 400, "UNSUPPORTED", "no UTF-8"),
        ("_catalog?%ff=1", 400, "UNSUPPORTED", "no UTF-8"),
    ] {
        let path = format!("/v2/{path}");
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            let reply = registry.send(method, &path, &[], b"{}");
            let why = format!("{method} {path}: {why}");
            refused(&reply, status, code, &why);
            headers(
                &reply,
                &[("docker-distribution-api-version", Some("registry/2.0")), ("x-y", None)],
                &why,
            );
        }
        let head = registry.head(&path);
        assert_eq!((head.status, head.body.len()), (status, 0), "{path}");
        assert_ne!(head.header("content-length"), Some("0"), "{path}");
    }
    assert_eq!(files(&registry.store().join("repositories")), []);
    assert_eq!(files(&registry.store().join("blobs")), []);
}

/// What looks odd and is allowed.
#[test]
fn unusual_names() {
    let registry = Registry::start(&[]);
    let longest_tag = "t".repeat(128);
    let longest = "n".repeat(255);
    let deepest = format!("{}n", "n/".repeat(127));
    for name in [
        "a",
        "0",
        "tags/list",
        "manifests",
        "blobs/uploads",
        "a/blobs/uploads",
        "v2",
        "a.b_c__d-e---f",
        &longest,
        &deepest,
    ] {
        let digest = registry.push_image(name, &longest_tag, name);
        registry.push_image(name, "list", "other");
        for reference in [longest_tag.clone(), digest.to_string()] {
            let reply = registry.get(&format!("/v2/{name}/manifests/{reference}"));
            assert_eq!(reply.status, 200, "{name}: {}", reply.text());
            let found = reply.header("docker-content-digest");
            assert_eq!(found, Some(digest.to_string().as_str()), "{name}");
        }
        let tags = registry.get(&format!("/v2/{name}/tags/list"));
        assert_eq!(tags.json()["tags"][0], "list", "{name}");
        assert_eq!(tags.json()["tags"][1], longest_tag.as_str(), "{name}");
        let upload = registry.start_upload(name);
        assert_eq!(registry.delete(&upload).status, 204, "{name}");
    }
}

/// A message may repeat what the client sent, and tells nothing of the server.
#[test]
fn messages_name_no_paths() {
    let registry = Registry::start(&[]);
    let dir = registry.dir.to_str().expect("a plain path");
    let digest = absent();
    for path in [
        "/v2/a/tags/list".to_owned(),
        "/v2/a/manifests/v1".to_owned(),
        format!("/v2/a/blobs/{digest}"),
        "/v2/a/blobs/uploads/00000000-0000-0000-0000-000000000000".to_owned(),
        "/nothing".to_owned(),
    ] {
        let reply = registry.get(&path);
        assert_eq!(reply.status, 404, "{path}");
        let text = reply.text();
        assert!(!text.contains(dir) && !text.contains("docker/registry"), "{text}");
    }
}
