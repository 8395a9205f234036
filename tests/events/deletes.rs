//! A manifest with thousands of tags: its delete is answered before they are removed, nothing shows
//! them from then on, and each of them has its event.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use serde_json::json;

use crate::common::{OCI_MANIFEST, Registry, eventually};
use crate::support::{Listener, fast_folder, push};

const TAGS: usize = 3000;

fn folder(registry: &Registry) -> PathBuf {
    registry.store().join("repositories/a/_manifests")
}

/// Sets tags as a server does it, which would take long by requests.
fn set_tags(registry: &Registry, hex: &str) {
    for number in 0..TAGS {
        let tag = folder(registry).join(format!("tags/t{number}"));
        for link in ["current/link".to_owned(), format!("index/sha256/{hex}/link")] {
            let link = tag.join(link);
            fs::create_dir_all(link.parent().expect("a folder")).expect("a folder");
            fs::write(link, format!("sha256:{hex}")).expect("a link");
        }
    }
}

fn left(registry: &Registry) -> usize {
    fs::read_dir(folder(registry).join("tags")).map_or(0, Iterator::count)
}

#[test]
fn thousands_of_tags() {
    let dir = fast_folder();
    let registry = Registry::start_in(dir.path(), &[]);
    let image = push(&registry, "a", "first", "f", b"1");
    let other = push(&registry, "a", "other", "g", b"2");
    set_tags(&registry, &image.manifest.hex());
    // Caches know some of them.
    for tag in ["first", "t7", "other"] {
        assert_eq!(registry.get(&format!("/v2/a/manifests/{tag}")).status, 200);
    }
    let list = |registry: &Registry| registry.get("/v2/a/tags/list").json()["tags"].clone();
    assert_eq!(list(&registry).as_array().expect("a list").len(), 1000, "a page");
    let mut listener = Listener::new(&registry, "?type=untag,delete,tag");
    let text = registry.get(&format!("/v2/a/manifests/{}", image.manifest)).body;

    let path = format!("/v2/a/manifests/{}", image.manifest);
    assert_eq!(registry.delete(&path).status, 202);
    let there = left(&registry);
    println!("{there} tags are left at the answer");
    assert!(there > TAGS / 2, "the answer came first");
    assert_eq!(list(&registry), json!(["other"]));
    for tag in ["first", "t7"] {
        let path = format!("/v2/a/manifests/{tag}");
        assert_eq!(registry.get(&path).status, 404, "{tag}");
        assert_eq!(registry.head(&path).status, 404, "{tag}");
        assert_eq!(registry.delete(&path).status, 404, "{tag}");
    }
    assert_eq!(registry.delete(&path).status, 404, "it is deleted");
    // One of the tags moves on, and is not taken for one of the deleted manifest.
    let moved = registry.get("/v2/a/manifests/other").body;
    assert_eq!(registry.push_manifest("a", "t2999", OCI_MANIFEST, &moved).status, 201);
    // The same manifest comes back without its tags.
    assert_eq!(registry.push_manifest("a", "back", OCI_MANIFEST, &text).status, 201);
    assert_eq!(list(&registry), json!(["back", "other", "t2999"]));
    assert_eq!(registry.get("/v2/a/manifests/t7").status, 404);
    eventually("all are removed", || left(&registry) == 3);
    assert!(!folder(&registry).join("deleted/sha256").join(image.manifest.hex()).exists());

    let mut untagged = BTreeSet::new();
    let mut tagged = BTreeSet::new();
    let mut deletes = 0;
    while tagged.len() < 2 || deletes < 1 {
        let event = listener.event().expect("an event");
        let tag = event["tag"].as_str().unwrap_or_default().to_owned();
        match event["type"].as_str().expect("a type") {
            "untag" => {
                assert_eq!(event["id"], image.config.hex());
                assert_eq!(event["digest"], image.manifest.to_string());
                assert!(untagged.insert(tag.clone()), "{tag} twice");
            }
            "delete" => {
                assert_eq!(event["digest"], image.manifest.to_string());
                deletes += 1;
            }
            _ => assert!(tagged.insert(tag.clone()), "{tag} twice"),
        }
    }
    // The one that moved may have gone before.
    assert!((TAGS..=TAGS + 1).contains(&untagged.len()), "{}", untagged.len());
    assert!(untagged.contains("a:first") && untagged.contains("a:t2998"));
    assert_eq!(registry.get(&format!("/v2/a/manifests/{}", other.manifest)).status, 200);
}

#[test]
fn killed_after_the_answer() {
    let dir = fast_folder();
    let mut registry = Registry::start_in(dir.path(), &[]);
    let image = push(&registry, "a", "first", "f", b"1");
    push(&registry, "a", "other", "g", b"2");
    set_tags(&registry, &image.manifest.hex());
    let path = format!("/v2/a/manifests/{}", image.manifest);
    assert_eq!(registry.delete(&path).status, 202);
    registry.kill();
    let there = left(&registry);
    println!("{there} tags are left");
    assert!(there > TAGS / 2);
    // Also for a server that may not remove them.
    let reader = Registry::start_in(dir.path(), &["--read-only"]);
    let list = |registry: &Registry| registry.get("/v2/a/tags/list").json()["tags"].clone();
    assert_eq!(list(&reader), json!(["other"]));
    drop(reader);
    let registry = Registry::start_in(dir.path(), &[]);
    assert_eq!(list(&registry), json!(["other"]));
    assert_eq!(registry.get("/v2/a/manifests/t7").status, 404);
    assert_eq!(registry.get(&path).status, 404);
    eventually("the next server removes them", || left(&registry) == 1);
    eventually("and forgets the delete", || {
        !folder(&registry).join("deleted/sha256").join(image.manifest.hex()).exists()
    });
}
