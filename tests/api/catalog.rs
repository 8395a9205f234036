//! Listing repositories.

use serde_json::json;

use crate::common::{OCI_CONFIG, OCI_MANIFEST, Registry, descriptor, image_manifest};
use crate::support::{
    EMPTY_JSON, Store, bare_manifest, headers, next_page, pages, refused, sha256, strings,
};
use crate::tags::{LARGE, NO_NUMBERS};

/// Names that start others, in the order of bytes: `-`, `.`, `/`, digits,
/// `_`, letters.
const NAMES: [&str; 9] = ["a", "a-b", "a.b", "a/b", "a/b/c", "a0", "a_b", "ab", "b"];

fn push(registry: &Registry, repository: &str) {
    let manifest = bare_manifest(registry, repository);
    let reply = registry.push_manifest(repository, "v1", OCI_MANIFEST, manifest.as_bytes());
    assert_eq!(reply.status, 201, "{}", reply.text());
}

#[test]
fn lists() {
    let registry = Registry::start(&[]);
    let reply = registry.get("/v2/_catalog");
    assert_eq!(reply.json(), json!({"repositories": []}), "an empty store");
    for name in NAMES.iter().rev() {
        push(&registry, name);
    }
    registry.push_blob("blobs", b"no manifest, so nothing to pull");
    registry.start_upload("uploads");
    for (query, want, next, why) in [
        ("", &NAMES[..], None, "all, in the order of bytes"),
        ("?n=9", &NAMES, None, "exactly all is the last page"),
        ("?n=10", &NAMES, None, "more than there are"),
        ("?n=0", &[], None, "none, and no next page"),
        ("?n=1", &NAMES[..1], Some("last=a&n=1"), "one"),
        ("?n=4", &NAMES[..4], Some("last=a/b&n=4"), "some"),
        ("?n=2&last=a", &NAMES[1..3], Some("last=a.b&n=2"), "after one"),
        ("?n=2&last=a%2Fb", &NAMES[4..6], Some("last=a0&n=2"), "escaped"),
        ("?n=2&last=ab", &NAMES[8..], None, "the last one"),
        ("?last=a0", &NAMES[6..], None, "without n"),
        ("?last=b", &[], None, "after the last"),
        ("?last=", &NAMES, None, "after nothing"),
        ("?last=aa", &NAMES[7..], None, "after what is not there"),
        ("?last=..%2f..&n=1", &NAMES[..1], Some("last=a&n=1"), "after no name"),
        ("?last=a/&n=1", &NAMES[3..4], Some("last=a/b&n=1"), "between two"),
    ] {
        let reply = registry.get(&format!("/v2/_catalog{query}"));
        let why = format!("{query}: {why}");
        assert_eq!(reply.status, 200, "{why}: {}", reply.text());
        assert_eq!(reply.json(), json!({"repositories": want}), "{why}");
        headers(&reply, &[("content-type", Some("application/json"))], &why);
        // A page may be followed by an empty one, if all that follows is.
        let next = next.map(|query| format!("/v2/_catalog?{query}"));
        let found = next_page(&reply);
        if next.is_some() || want.is_empty() {
            assert_eq!(found, next, "{why}");
        } else if let Some(path) = found {
            let reply = registry.get(&path);
            assert_eq!(reply.json(), json!({"repositories": []}), "{why}");
            assert_eq!(next_page(&reply), None, "{why}");
        }
    }
    for n in LARGE {
        let reply = registry.get(&format!("/v2/_catalog?n={n}"));
        assert_eq!(reply.json(), json!({"repositories": NAMES}), "{n}");
        assert_eq!(next_page(&reply), None, "{n}");
    }
    for n in NO_NUMBERS {
        let reply = registry.get(&format!("/v2/_catalog?n={n}"));
        refused(&reply, 400, "UNSUPPORTED", &format!("n={n}"));
    }
    let head = registry.head("/v2/_catalog");
    assert_eq!((head.status, head.body.len()), (200, 0));
}

/// A repository is listed while it has a manifest, tagged or not.
#[test]
fn comes_and_goes() {
    let registry = Registry::start(&[]);
    let names = |why: &str, want: &[&str]| {
        let reply = registry.get("/v2/_catalog");
        assert_eq!(reply.json(), json!({"repositories": want}), "{why}");
    };
    push(&registry, "a");
    push(&registry, "a/b");
    names("pushed", &["a", "a/b"]);
    let manifest = bare_manifest(&registry, "a");
    assert_eq!(registry.delete("/v2/a/manifests/v1").status, 202);
    names("without a tag", &["a", "a/b"]);
    let by_digest = format!("/v2/a/manifests/{}", sha256(manifest.as_bytes()));
    assert_eq!(registry.delete(&by_digest).status, 202);
    names("without a manifest", &["a/b"]);
    push(&registry, "a");
    names("pushed again", &["a", "a/b"]);
}

#[test]
fn thousands() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = Store::new(dir.path());
    let config = store.content(EMPTY_JSON);
    let manifest = image_manifest(&descriptor(OCI_CONFIG, &config, EMPTY_JSON.len()), &[]);
    let digest = store.content(manifest.as_bytes());
    let mut all: Vec<String> =
        (0..1250).flat_map(|i| [format!("r{i}"), format!("r{i}/x")]).collect();
    for repository in &all {
        store.manifest(repository, &digest);
    }
    all.sort_unstable();

    let registry = Registry::start_in(dir.path(), &[]);
    // The catalog of a store that is new to the server takes a moment.
    crate::common::eventually("the catalog is there", || {
        registry.get("/v2/_catalog?n=1").status == 200
    });
    for (query, sizes) in [
        ("", &[1000, 1000, 500][..]),
        ("?n=900", &[900, 900, 700]),
        ("?n=9223372036854775807", &[1000, 1000, 500]),
    ] {
        let pages = pages(&registry, &format!("/v2/_catalog{query}"));
        let pages: Vec<_> = pages.iter().map(|page| page.json()["repositories"].clone()).collect();
        let found: Vec<Vec<&str>> = pages.iter().map(strings).collect();
        let found_sizes: Vec<usize> = found.iter().map(Vec::len).collect();
        assert_eq!(found_sizes, sizes, "{query}");
        assert!(found.concat() == all, "each once, in order: {query}");
    }
}
