//! Listing tags.

use std::fs;

use serde_json::json;

use crate::common::{OCI_MANIFEST, Registry};
use crate::support::{Store, bare_manifest, headers, next_page, pages, refused, sha256, strings};

/// Sizes of pages that are no number from 0 on, for every list.
pub const NO_NUMBERS: [&str; 8] = ["-1", "abc", "", "1.5", "%2B1", "%201", "0x10", "1e3"];
/// Sizes beyond what a list gives at once, up to what no integer holds.
pub const LARGE: [&str; 4] =
    ["100000", "9223372036854775807", "18446744073709551616", "99999999999999999999999999"];

/// Among them tags that start others, and every kind of character, so that
/// the order of bytes shows.
const TAGS: [&str; 15] =
    ["0", "1", "1-a", "1.0", "1.0.0", "10", "A", "Z", "_", "_a", "a", "a-1", "a.b", "aB", "ab"];

fn push(registry: &Registry, tags: &[&str]) {
    let manifest = bare_manifest(registry, "a");
    let query: Vec<String> = tags.iter().map(|tag| format!("tag={tag}")).collect();
    let reference = format!("{}?{}", sha256(manifest.as_bytes()), query.join("&"));
    let reply = registry.push_manifest("a", &reference, OCI_MANIFEST, manifest.as_bytes());
    assert_eq!(reply.status, 201, "{}", reply.text());
}

#[test]
fn lists() {
    let registry = Registry::start(&[]);
    let mut shuffled = TAGS;
    shuffled.reverse();
    shuffled.swap(2, 9);
    push(&registry, &shuffled);
    for (query, want, next, why) in [
        ("", &TAGS[..], None, "all, in the order of bytes"),
        ("?n=15", &TAGS, None, "exactly all is the last page"),
        ("?n=16", &TAGS, None, "more than there are"),
        ("?n=0", &[], None, "none, and no next page"),
        ("?n=0&last=1", &[], None, "none after some"),
        ("?n=1", &TAGS[..1], Some("last=0&n=1"), "one"),
        ("?n=3", &TAGS[..3], Some("last=1-a&n=3"), "some"),
        ("?n=14", &TAGS[..14], Some("last=aB&n=14"), "all but one"),
        ("?n=003", &TAGS[..3], Some("last=1-a&n=3"), "zeros"),
        ("?n=2&last=1", &TAGS[2..4], Some("last=1.0&n=2"), "after one"),
        ("?last=1&n=2", &TAGS[2..4], Some("last=1.0&n=2"), "in any order"),
        ("?n=2&last=a.b", &TAGS[13..], None, "the last ones"),
        ("?last=a", &TAGS[11..], None, "without n"),
        ("?last=ab", &[], None, "after the last"),
        ("?last=zzz", &[], None, "after any"),
        ("?last=", &TAGS, None, "after nothing"),
        ("?last=5", &TAGS[6..], None, "after what is no tag here"),
        ("?last=..%2f..&n=2", &TAGS[..2], Some("last=1&n=2"), "after what is no tag anywhere"),
        ("?last=a%00&n=1", &TAGS[11..12], Some("last=a-1&n=1"), "NUL"),
        ("?unknown=1", &TAGS, None, "an unknown parameter"),
    ] {
        let reply = registry.get(&format!("/v2/a/tags/list{query}"));
        let why = format!("{query}: {why}");
        assert_eq!(reply.status, 200, "{why}: {}", reply.text());
        assert_eq!(reply.json(), json!({"name": "a", "tags": want}), "{why}");
        headers(&reply, &[("content-type", Some("application/json"))], &why);
        let next = next.map(|query| format!("/v2/a/tags/list?{query}"));
        assert_eq!(next_page(&reply), next, "{why}");
    }
    for n in LARGE {
        let reply = registry.get(&format!("/v2/a/tags/list?n={n}"));
        assert_eq!(reply.json(), json!({"name": "a", "tags": TAGS}), "{n}");
        assert_eq!(next_page(&reply), None, "{n}");
    }
    for n in NO_NUMBERS {
        let reply = registry.get(&format!("/v2/a/tags/list?n={n}"));
        refused(&reply, 400, "UNSUPPORTED", &format!("n={n}"));
    }
    let head = registry.head("/v2/a/tags/list");
    let length = json!({"name": "a", "tags": TAGS}).to_string().len();
    assert_eq!((head.status, head.body.len()), (200, 0));
    headers(&head, &[("content-length", Some(&length.to_string()))], "HEAD");
}

#[test]
fn repositories() {
    let registry = Registry::start(&[]);
    push(&registry, &["only"]);
    registry.push_image("a/b", "below", "seed");
    registry.push_blob("blobs", b"bytes");
    registry.start_upload("uploads");
    for (repository, want, why) in [
        ("a", Some(&["only"][..]), "its own"),
        ("a/b", Some(&["below"]), "its own, not those above"),
        ("blobs", Some(&[]), "blobs make a repository"),
        ("uploads", None, "an upload makes none"),
        ("nowhere", None, "nothing was pushed"),
        ("a/b/c", None, "nothing was pushed"),
    ] {
        let reply = registry.get(&format!("/v2/{repository}/tags/list"));
        match want {
            Some(tags) => {
                assert_eq!(reply.status, 200, "{why}");
                let document = json!({"name": repository, "tags": tags});
                assert_eq!(reply.json(), document, "{why}");
            }
            None => refused(&reply, 404, "NAME_UNKNOWN", why),
        }
    }
    assert_eq!(registry.delete("/v2/a/manifests/only").status, 202);
    let reply = registry.get("/v2/a/tags/list");
    assert_eq!(reply.json(), json!({"name": "a", "tags": []}), "the last tag is gone");
}

#[test]
fn thousands() {
    let registry = Registry::start(&[]);
    let pushed: Vec<String> = (0..60).map(|i| format!("{}-pushed", 41 * i)).collect();
    push(&registry, &pushed.iter().map(String::as_str).collect::<Vec<_>>());
    // Thousands of pushes would wait for the disk thousands of times.
    let store = Store::new(&registry.dir);
    let manifest = bare_manifest(&registry, "a");
    let digest = sha256(manifest.as_bytes());
    let written: Vec<String> = (0..2440).map(|i| i.to_string()).collect();
    for tag in &written {
        store.tag("a", tag, &digest);
    }
    let mut all = [pushed, written].concat();
    all.sort_unstable();

    for (query, sizes) in [
        ("", &[1000, 1000, 500][..]),
        ("?n=1000", &[1000, 1000, 500]),
        ("?n=700", &[700, 700, 700, 400]),
        ("?n=1250", &[1000, 1000, 500]),
        ("?n=9223372036854775807", &[1000, 1000, 500]),
        ("?n=99999999999999999999999999", &[1000, 1000, 500]),
    ] {
        let pages = pages(&registry, &format!("/v2/a/tags/list{query}"));
        let pages: Vec<_> = pages.iter().map(|page| page.json()["tags"].clone()).collect();
        let found: Vec<Vec<&str>> = pages.iter().map(strings).collect();
        let found_sizes: Vec<usize> = found.iter().map(Vec::len).collect();
        assert_eq!(found_sizes, sizes, "{query}");
        assert!(found.concat() == all, "each once, in order: {query}");
    }
    let reply = registry.get("/v2/a/manifests/2000");
    assert_eq!(reply.text(), manifest);
}

/// The page is small, the folder it is taken from is not, and most of what
/// lies there is no tag: distribution's crashes leave folders without a link.
#[test]
fn small_pages_of_a_large_folder() {
    const FOLDERS: usize = 20_000;
    let registry = Registry::start(&[]);
    push(&registry, &["00000"]);
    let folder = registry.store().join("repositories/a/_manifests/tags");
    let link = folder.join("00000/current/link");
    for i in 1..FOLDERS {
        let tag = folder.join(format!("{i:05}"));
        fs::create_dir(&tag).expect("writable");
        if i % 10 == 0 {
            fs::create_dir(tag.join("current")).expect("writable");
            fs::hard_link(&link, tag.join("current/link")).expect("writable");
        }
    }
    for (query, want, next) in [
        ("n=1", &["00000"][..], Some("last=00000&n=1")),
        ("n=1&last=00000", &["00010"], Some("last=00010&n=1")),
        ("n=1&last=00001", &["00010"], Some("last=00010&n=1")),
        ("n=2&last=12339", &["12340", "12350"], Some("last=12350&n=2")),
        ("n=1&last=19979", &["19980"], Some("last=19980&n=1")),
        ("n=1&last=19980", &["19990"], None),
        ("n=1&last=19990", &[], None),
    ] {
        let reply = registry.get(&format!("/v2/a/tags/list?{query}"));
        assert_eq!(reply.json(), json!({"name": "a", "tags": want}), "{query}");
        let next = next.map(|query| format!("/v2/a/tags/list?{query}"));
        assert_eq!(next_page(&reply), next, "{query}");
    }
}
