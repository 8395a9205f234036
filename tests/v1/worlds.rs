//! One world: what one API pushed, the other shows.

use std::fs;

use registry::oci::{Algorithm, Digest};
use serde_json::{Value, json};

use crate::client::{Image, at, chain, gzip, ok, pull, push, push_image, put_tag};
use crate::common::tar::Tar;
use crate::common::{
    DOCKER_MANIFEST, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, Registry, descriptor,
    eventually, image_manifest,
};

const EMPTY: &str = "a3ed95caeb02ffe68cdd9fd84406680ae93d633cb16422d00e8a7c22955b46d4";

/// The same chain gives the same manifest, on any server and at any time.
#[test]
fn deterministic() {
    let images = chain("a");
    let mut digests = Vec::new();
    for _ in 0..2 {
        let registry = Registry::start(&[]);
        push(&registry, "team/old", "1", &images);
        push(&registry, "team/old", "again", &images);
        for tag in ["1", "again"] {
            let manifest = registry.get(&format!("/v2/team/old/manifests/{tag}"));
            assert_eq!(manifest.header("content-type"), Some(DOCKER_MANIFEST));
            digests.push(Algorithm::Sha256.digest(&manifest.body));
        }
    }
    assert_eq!(digests, [digests[0]; 4]);

    // The same files under other ids are other images.
    let registry = Registry::start(&[]);
    push(&registry, "a", "1", &images);
    let twin = Image::new("twin", Some(&images[1]), images[2].layer.clone());
    let twin = Image {
        json: String::from_utf8(images[2].json.clone())
            .unwrap()
            .replace(&images[2].id, &twin.id)
            .into_bytes(),
        ..twin
    };
    push(&registry, "a", "twin", &[images[0].clone(), images[1].clone(), twin.clone()]);
    let tags = registry.get("/v1/repositories/a/tags").json();
    assert_eq!(tags, json!({"1": images[2].id, "twin": twin.id}));
}

/// What a pushed chain is to the second API.
#[test]
fn a_chain_as_manifest() {
    let registry = Registry::start(&[]);
    let images = chain("a");
    push(&registry, "team/old", "1", &images);
    let manifest = registry.get("/v2/team/old/manifests/1").json();
    let layers = [0, 2].map(|n| Algorithm::Sha256.digest(&images[n].layer).to_string());
    let listed = manifest["layers"].as_array().expect("layers").iter();
    let listed: Vec<&str> = listed.map(|l| l["digest"].as_str().unwrap()).collect();
    assert_eq!(listed, layers, "without the one that changes nothing");
    for (n, digest) in [(0, &layers[0]), (2, &layers[1])] {
        let blob = registry.get(&format!("/v2/team/old/blobs/{digest}"));
        assert_eq!(blob.body, images[n].layer);
    }
    let config = manifest["config"]["digest"].as_str().expect("a digest");
    let config = registry.get(&format!("/v2/team/old/blobs/{config}")).json();
    let created = "2014-10-01T12:00:00.123456789Z";
    let entry = |name: &str| {
        let by = format!("/bin/sh -c #(nop) a {name}");
        json!({"created": created, "created_by": by})
    };
    let mut middle = entry("middle");
    middle["empty_layer"] = true.into();
    assert_eq!(config["history"], json!([entry("base"), middle, entry("top")]));
    assert_eq!(config["config"]["Cmd"], json!(["/bin/true"]));
    assert_eq!(config["rootfs"]["diff_ids"].as_array().map(Vec::len), Some(2));
    for field in ["id", "parent", "Size"] {
        assert_eq!(config[field], Value::Null, "{field}");
    }

    // Files: of the whole, and of an image in the middle.
    let names = |id: &str| -> Vec<(String, String)> {
        let tree = registry.get(&at(id, "tree/?recursive=1")).json();
        let text = |entry: &Value, field: &str| entry[field].as_str().unwrap().to_owned();
        let entries = tree.as_array().expect("a list").iter();
        entries.map(|e| (text(e, "path"), text(e, "image"))).collect()
    };
    let [base, middle, top] = [0, 1, 2].map(|n| images[n].id.as_str());
    let own = |path: &str, id: &str| (path.to_owned(), id.to_owned());
    assert_eq!(
        names(top),
        [own("/etc/", top), own("/etc/hosts", base), own("/etc/link", top), own("/program", base)]
    );
    let want = ["/etc/", "/etc/gone", "/etc/hosts", "/program"].map(|path| own(path, base));
    assert_eq!(names(middle), want);
    assert_eq!(names(&base[..12]), want, "the beginning of an id");
    assert_eq!(registry.get(&at(base, "blobs/etc/gone")).text(), "gone soon");
    assert_eq!(registry.get(&at(top, "blobs/etc/gone")).status, 404);
    assert_eq!(registry.get(&at(top, "tar/")).status, 200);
    assert_eq!(registry.get(&at("team%2Fold:1", "tree/")).status, 200);
}

/// An image of two layers and a step between them that changes none.
fn push_v2(registry: &Registry, repository: &str, tag: &str, architecture: &str) -> Digest {
    let layers = ["one", "two"].map(|name| {
        let tar = Tar::default().file(name, architecture.as_bytes()).finish();
        let diff_id = Algorithm::Sha256.digest(&tar).to_string();
        let packed = gzip(&tar);
        let digest = registry.push_blob(repository, &packed);
        (descriptor(OCI_LAYER, &digest, packed.len()), diff_id)
    });
    let diff_ids = [&layers[0].1, &layers[1].1];
    let config = json!({
        "architecture": architecture,
        "os": "linux",
        "created": "2024-02-03T04:05:06Z",
        "config": {"Cmd": ["x"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [
            {"created": "2024-01-01T00:00:00Z", "created_by": "COPY one", "comment": "buildkit"},
            {"created_by": "ENV A=1", "empty_layer": true},
            {"created_by": "COPY two"},
        ],
    });
    let config = config.to_string();
    let digest = registry.push_blob(repository, config.as_bytes());
    let config = descriptor(OCI_CONFIG, &digest, config.len());
    let layers = layers.map(|(layer, _)| layer);
    let manifest = image_manifest(&config, &layers);
    let reply = registry.push_manifest(repository, tag, OCI_MANIFEST, manifest.as_bytes());
    assert_eq!(reply.status, 201, "{}", reply.text());
    Algorithm::Sha256.digest(manifest.as_bytes())
}

fn sha256(text: String) -> String {
    Algorithm::Sha256.digest(text.as_bytes()).hex()
}

/// What a pushed manifest is to the first API: a chain whose ids are Docker's.
#[test]
fn a_manifest_as_chain() {
    let registry = Registry::start(&[]);
    let digest = push_v2(&registry, "team/new", "1", "amd64");
    let manifest = registry.get("/v2/team/new/manifests/1").json();
    let config = manifest["config"]["digest"].as_str().expect("a digest");
    let config = registry.get(&format!("/v2/team/new/blobs/{config}")).text();
    let hex = |n: usize| {
        let digest = manifest["layers"][n]["digest"].as_str().expect("a digest");
        digest["sha256:".len()..].to_owned()
    };
    let base = sha256(format!("{} ", hex(0)));
    let middle = sha256(format!("{EMPTY} {base}"));
    let top = sha256(format!("{} {middle} {config}", hex(1)));

    let images = pull(&registry, "team/new", "1");
    let ids: Vec<&str> = images.iter().map(|image| image.id.as_str()).collect();
    assert_eq!(ids, [base.as_str(), &middle, &top]);
    assert_eq!(Algorithm::Sha256.digest(&images[1].layer).hex(), EMPTY);
    for (n, layer) in [(0, hex(0)), (2, hex(1))] {
        assert_eq!(Algorithm::Sha256.digest(&images[n].layer).hex(), layer);
    }
    let json = |n: usize| serde_json::from_slice::<Value>(&images[n].json).expect("JSON");
    let zero = "0001-01-01T00:00:00Z";
    assert_eq!(
        json(0),
        json!({
            "id": base, "comment": "buildkit", "created": "2024-01-01T00:00:00Z",
            "container_config": {"Cmd": ["COPY one"]},
        })
    );
    assert_eq!(
        json(1),
        json!({
            "id": middle, "parent": base, "created": zero, "throwaway": true, "Size": 0,
            "container_config": {"Cmd": ["ENV A=1"]},
        })
    );
    assert_eq!(
        json(2),
        json!({
            "id": top, "parent": middle, "created": "2024-02-03T04:05:06Z",
            "architecture": "amd64", "os": "linux", "config": {"Cmd": ["x"]},
        })
    );
    let empty = registry.get(&at(&middle, "files")).json();
    assert_eq!(empty, json!([]));

    // Files by each id.
    let names = |id: &str| {
        let tree = registry.get(&at(id, "tree/")).json();
        let entries = tree.as_array().expect("a list").iter();
        entries.map(|e| e["path"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(&top), ["/one", "/two"]);
    assert_eq!(names(&middle), ["/one"]);
    assert_eq!(names(&base), ["/one"]);

    // Tagged elsewhere it is the same manifest; a part of it is an image of its own,
    // which keeps its id.
    ok(put_tag(&registry, "copy", "all", &top), "tag");
    let copy = registry.get("/v2/copy/manifests/all");
    assert_eq!(Algorithm::Sha256.digest(&copy.body), digest);
    ok(put_tag(&registry, "copy", "part", &middle), "tag");
    let part = pull(&registry, "copy", "part");
    assert_eq!(part, images[..2]);
    let manifest = registry.get("/v2/copy/manifests/part").json();
    assert_eq!(manifest["layers"].as_array().map(Vec::len), Some(1));

    // And Docker 1 builds on it.
    let tar = Tar::default().file("three", b"3").finish();
    let parent = &images[2];
    let child = Image::new("child", Some(parent), gzip(&tar));
    push_image(&registry, &child);
    ok(put_tag(&registry, "child", "1", &child.id), "tag");
    let pulled = pull(&registry, "child", "1");
    assert_eq!(pulled[..3], images);
    assert_eq!(pulled[3], child);
    assert_eq!(names(&child.id), ["/one", "/three", "/two"]);
}

/// What has no image for a client of the first API is not there for it.
#[test]
fn indexes_and_artifacts() {
    let registry = Registry::start(&[]);
    let platform = |digest: &Digest, architecture: &str| {
        let mut child = descriptor(OCI_MANIFEST, digest, 1);
        child["platform"] = json!({"architecture": architecture, "os": "linux"});
        child
    };
    let push_index = |tag: &str, children: &[Value]| {
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": children});
        let reply = registry.push_manifest("multi", tag, OCI_INDEX, index.to_string().as_bytes());
        assert_eq!(reply.status, 201, "{}", reply.text());
    };
    let [amd64, arm64, riscv] =
        ["amd64", "arm64", "riscv64"].map(|name| push_v2(&registry, "multi", name, name));
    push_index("both", &[platform(&arm64, "arm64"), platform(&amd64, "amd64")]);
    push_index("none", &[platform(&riscv, "riscv64")]);
    push_index("absent", &[]);
    // No config of an image.
    registry.push_image("multi", "artifact", "seed");

    let tags = registry.get("/v1/repositories/multi/tags").json();
    let host = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    assert_eq!(tags["both"], tags[host]);
    assert!(tags["riscv64"].is_string(), "an image by itself is as it is");
    for tag in ["none", "absent", "artifact"] {
        assert_eq!(tags[tag], Value::Null, "{tag}");
        let reply = registry.get(&format!("/v1/repositories/multi/tags/{tag}"));
        assert_eq!(reply.status, 404, "{tag}");
    }
    assert_eq!(pull(&registry, "multi", "both"), pull(&registry, "multi", host));
}

/// A store that was written before there was this API: its images get their ids by
/// the look that the server takes at its start.
#[test]
fn an_existing_store() {
    let temp = tempfile::tempdir().unwrap();
    let images = chain("a");
    let mut registry = Registry::start_in(temp.path(), &[]);
    push_v2(&registry, "team/new", "1", "amd64");
    push(&registry, "team/old", "1", &images);
    let new = pull(&registry, "team/new", "1");
    registry.stop();
    fs::remove_dir_all(temp.path().join("db")).unwrap();
    let registry = Registry::start_in(temp.path(), &[]);
    eventually("the ids are known", || {
        registry.get(&at(&new[0].id, "json")).status == 200
            && registry.get(&at(&images[0].id, "json")).status == 200
    });
    assert_eq!(pull(&registry, "team/new", "1"), new);
    assert_eq!(pull(&registry, "team/old", "1"), images);
    assert_eq!(registry.get(&at(&images[2].id, "tree/")).status, 200);
}

/// Ids go when nothing has them any more; what was pushed as such stays with who
/// pushed it.
#[test]
fn deleted_manifests() {
    let registry = Registry::start(&[]);
    let digest = push_v2(&registry, "team/new", "1", "amd64");
    let ids = pull(&registry, "team/new", "1");
    ok(put_tag(&registry, "copy", "1", &ids[2].id), "tag");
    let delete = |repository: &str| {
        let reply = registry.delete(&format!("/v2/{repository}/manifests/{digest}"));
        assert_eq!(reply.status, 202);
    };
    delete("team/new");
    assert_eq!(pull(&registry, "copy", "1"), ids);
    delete("copy");
    for image in &ids {
        assert_eq!(registry.get(&at(&image.id, "json")).status, 404);
    }
}
