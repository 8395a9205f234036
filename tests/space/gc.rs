//! `registry gc`: what goes, what stays, and what it says of that.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use registry::oci::{Algorithm, Digest};
use serde_json::{Value, json};

use crate::client;
use crate::common::tar::Tar;
use crate::common::{
    OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, Registry, descriptor, eventually,
    image_manifest, noise,
};
use crate::support::{age, blobs, command, entries, fails, gc, is_there};

const HOUR: Duration = Duration::from_secs(3600);
const NOW: &[&str] = &["--grace", "0"];
const UNTAGGED: &[&str] = &["--grace", "0", "--untagged"];

fn delete(registry: &Registry, repository: &str, digest: impl ToString) {
    let path = format!("/v2/{repository}/manifests/{}", digest.to_string());
    assert_eq!(registry.delete(&path).status, 202, "{path}");
}

fn digests<'a>(of: impl IntoIterator<Item = &'a Digest>) -> BTreeSet<String> {
    of.into_iter().map(ToString::to_string).collect()
}

#[test]
fn what_no_manifest_names_goes_and_is_counted() {
    let registry = Registry::start(&[]);
    let kept = registry.push_image("team/app", "1", "kept");
    let gone = registry.push_image("team/app", "2", "gone layer");
    let loose = registry.push_blob("team/app", b"never named");
    let before = blobs(&registry.store());
    delete(&registry, "team/app", gone);

    let (dry, _) = gc(&registry.dir, &["--grace", "0", "--dry-run"]);
    assert_eq!(blobs(&registry.store()), before, "a dry run changes nothing");
    let (removed, end) = gc(&registry.dir, NOW);
    assert_eq!(removed, dry);
    // The manifest, its config, its layer, and the blob.
    let bytes: u64 = before
        .difference(&blobs(&registry.store()))
        .map(|digest| if *digest == loose.to_string() { 11 } else { 0 })
        .sum();
    assert_eq!(bytes, 11);
    assert_eq!(removed.len(), 2, "{removed:?}");
    let orphan = &removed[0];
    assert_eq!(orphan["repository"], Value::Null, "a deleted manifest belongs to no repository");
    assert_eq!((&orphan["blobs"], &orphan["links"]), (&json!(1), &json!(0)));
    let app = &removed[1];
    assert_eq!(app["repository"], "team/app");
    assert_eq!(
        (&app["blobs"], &app["links"], &app["manifests"]),
        (&json!(3), &json!(3), &json!(0))
    );
    let size = r#"{"seed":"gone layer"}"#.len() + "gone layer".len() + "never named".len();
    assert_eq!(app["bytes"], size);
    assert_eq!(
        (&end["blobs"], &end["links"], &end["repositories"]),
        (&json!(4), &json!(3), &json!(0))
    );

    assert!(!is_there(&registry, "team/app", &loose));
    assert_eq!(registry.get(&format!("/v2/team/app/manifests/{kept}")).status, 200);
    assert_eq!(blobs(&registry.store()).len(), 3);
    let (removed, end) = gc(&registry.dir, NOW);
    assert_eq!((removed, &end["blobs"]), (vec![], &json!(0)), "nothing is left to do");
    // What went can come back.
    registry.push_image("team/app", "2", "gone layer");
    assert_eq!(registry.get("/v2/team/app/manifests/2").status, 200);
    assert!(registry.log().contains("collected garbage"), "{}", registry.log());
}

#[test]
fn without_a_server_too() {
    let mut registry = Registry::start(&[]);
    registry.push_image("app", "1", "kept");
    let loose = registry.push_blob("app", b"loose");
    registry.stop();
    let (removed, _) = gc(&registry.dir, NOW);
    assert_eq!(removed[0]["repository"], "app");
    assert!(!blobs(&registry.store()).contains(&loose.to_string()));
    assert_eq!(blobs(&registry.store()).len(), 3);
    let missing = registry.dir.join("missing");
    assert!(fails(command(&missing, &[])).contains("there is no registry in"));
}

#[test]
fn what_another_repository_links_stays_for_it() {
    let registry = Registry::start(&[]);
    let gone = registry.push_image("a", "1", "shared");
    registry.push_image("b", "1", "shared");
    delete(&registry, "a", gone);
    let (removed, end) = gc(&registry.dir, NOW);
    assert_eq!(removed.len(), 1);
    assert_eq!((&removed[0]["repository"], &removed[0]["links"]), (&json!("a"), &json!(2)));
    assert_eq!((&removed[0]["blobs"], &removed[0]["emptied"]), (&json!(0), &json!(true)));
    assert_eq!(end["repositories"], 1);
    assert_eq!(registry.get("/v2/b/manifests/1").status, 200);
    assert_eq!(blobs(&registry.store()).len(), 3);
}

#[test]
fn an_empty_repository_goes_and_can_come_back() {
    let registry = Registry::start(&[]);
    for name in ["team/app", "team/app/sub", "team/other"] {
        registry.push_image(name, "1", name);
    }
    for name in ["team/app", "team/other"] {
        let reply = registry.head(&format!("/v2/{name}/manifests/1"));
        delete(&registry, name, reply.header("docker-content-digest").unwrap());
    }
    let (_, end) = gc(&registry.dir, NOW);
    assert_eq!(end["repositories"], 2);
    let folder = registry.store().join("repositories/team");
    assert_eq!(entries(&folder), ["app"]);
    assert_eq!(entries(&folder.join("app")), ["sub"]);
    let catalog = || registry.get("/v2/_catalog").json()["repositories"].clone();
    assert_eq!(catalog(), json!(["team/app/sub"]));
    registry.push_image("team/other", "1", "again");
    assert_eq!(catalog(), json!(["team/app/sub", "team/other"]));
    // An upload that is under way keeps its repository.
    let location = registry.start_upload("new/one");
    registry.send("PATCH", &location, &[], b"half");
    let (_, end) = gc(&registry.dir, NOW);
    assert_eq!(end["repositories"], 0);
    assert_eq!(registry.get(&location).status, 204);
}

#[test]
fn untagged_manifests_go_if_asked_and_if_nothing_reaches_them() {
    let registry = Registry::start(&[]);
    let push = |reference: &str, kind: &str, manifest: Value| {
        let text = manifest.to_string();
        let digest = Algorithm::Sha256.digest(text.as_bytes());
        let reference =
            if reference.is_empty() { digest.to_string() } else { reference.to_owned() };
        let reply = registry.push_manifest("app", &reference, kind, text.as_bytes());
        assert_eq!(reply.status, 201, "{}", reply.text());
        (digest, text.len())
    };
    let image = |seed: &str, subject: Option<&(Digest, usize)>| {
        let config = registry.push_blob("app", seed.as_bytes());
        let mut manifest = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": descriptor(OCI_CONFIG, &config, seed.len()), "layers": []});
        if let Some((subject, size)) = subject {
            manifest["subject"] = descriptor(OCI_MANIFEST, subject, *size);
        }
        manifest
    };
    let index = |children: &[&(Digest, usize)]| {
        let children: Vec<Value> =
            children.iter().map(|(child, size)| descriptor(OCI_MANIFEST, child, *size)).collect();
        json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": children})
    };
    // A tagged index of an index of an image, with a signature of which there is a signature.
    let leaf = push("", OCI_MANIFEST, image("leaf", None));
    let inner = push("", OCI_INDEX, index(&[&leaf]));
    let outer = push("multi", OCI_INDEX, index(&[&inner]));
    let signature = push("", OCI_MANIFEST, image("signature", Some(&leaf)));
    let second = push("", OCI_MANIFEST, image("second signature", Some(&signature)));
    // A tagged referrer, whose subject no tag names.
    let subject = push("", OCI_MANIFEST, image("subject", None));
    let referrer = push("sbom", OCI_MANIFEST, image("sbom", Some(&subject)));
    // Nothing reaches these.
    let lone = push("", OCI_MANIFEST, image("lone", None));
    let lone_index = push("", OCI_INDEX, index(&[&lone]));
    let moved = push("moving", OCI_MANIFEST, image("moved", None));
    let now = push("moving", OCI_MANIFEST, image("now", None));
    let of_nothing = push("", OCI_MANIFEST, image("signature of nothing", Some(&lone)));

    let all = blobs(&registry.store());
    let (removed, _) = gc(&registry.dir, NOW);
    assert_eq!((removed, blobs(&registry.store())), (vec![], all), "they stay unless asked");
    let (removed, _) = gc(&registry.dir, &["--untagged", "--grace", "1h"]);
    assert_eq!(removed, [] as [Value; 0], "they are young");
    let (dry, _) = gc(&registry.dir, &["--untagged", "--grace", "0", "--dry-run"]);
    let (removed, end) = gc(&registry.dir, UNTAGGED);
    assert_eq!(removed, dry);
    assert_eq!((&end["manifests"], &end["links"]), (&json!(4), &json!(3)));
    let kept = [leaf, inner, outer, signature, second, subject, referrer, now];
    for (digest, _) in &kept {
        let reply = registry.get(&format!("/v2/app/manifests/{digest}"));
        assert_eq!(reply.status, 200, "{digest}");
    }
    for (digest, _) in [lone, lone_index, moved, of_nothing] {
        let reply = registry.get(&format!("/v2/app/manifests/{digest}"));
        assert_eq!(reply.status, 404, "{digest}");
    }
    let left = blobs(&registry.store());
    assert!(left.is_superset(&digests(kept.iter().map(|(digest, _)| digest))));
    assert_eq!(left.len(), kept.len() + 6, "with their configs");
    let referrers = registry.get(&format!("/v2/app/referrers/{}", leaf.0)).json();
    assert_eq!(referrers["manifests"].as_array().map(Vec::len), Some(1));
}

#[test]
fn the_grace_period_begins_when_something_lost_its_name_or_was_told() {
    let registry = Registry::start(&["--gc-grace", "1h"]);
    let image = registry.push_image("app", "1", "image");
    let told = registry.push_blob("app", b"told");
    let mounted = registry.push_blob("app", b"mounted");
    let old = registry.push_blob("app", b"old");
    let unlinked = registry.push_blob("app", b"unlinked");
    age(&registry.store(), 2 * HOUR);
    assert!(is_there(&registry, "app", &told));
    let mount = format!("/v2/other/blobs/uploads/?mount={mounted}&from=app");
    assert_eq!(registry.send("POST", &mount, &[], b"").status, 201);
    delete(&registry, "app", image);
    assert_eq!(registry.delete(&format!("/v2/app/blobs/{unlinked}")).status, 202);

    let (removed, end) = gc(&registry.dir, &[]);
    assert_eq!((&end["links"], &end["blobs"]), (&json!(2), &json!(1)), "{removed:?}");
    let left = blobs(&registry.store());
    assert!(!left.contains(&old.to_string()));
    assert!(left.is_superset(&digests([&told, &mounted, &unlinked, &image])));
    assert!(!is_there(&registry, "app", &mounted), "only the new link was told of");
    assert!(is_there(&registry, "other", &mounted));

    age(&registry.store(), 2 * HOUR);
    gc(&registry.dir, &[]);
    assert_eq!(blobs(&registry.store()), BTreeSet::new());
}

#[test]
fn what_a_manifest_names_is_safe_however_old() {
    let registry = Registry::start(&[]);
    let config = registry.push_blob("app", b"{}");
    let layer = registry.push_blob("app", b"layer");
    age(&registry.store(), 48 * HOUR);
    let manifest =
        image_manifest(&descriptor(OCI_CONFIG, &config, 2), &[descriptor(OCI_LAYER, &layer, 5)]);
    assert_eq!(registry.push_manifest("app", "1", OCI_MANIFEST, manifest.as_bytes()).status, 201);
    age(&registry.store(), 48 * HOUR);
    let (removed, _) = gc(&registry.dir, UNTAGGED);
    assert_eq!(removed, [] as [Value; 0]);
    // A tag that moves away, or is deleted, starts the time of an untagged manifest.
    assert_eq!(registry.delete("/v2/app/manifests/1").status, 202);
    let (removed, _) = gc(&registry.dir, &["--grace", "1h", "--untagged"]);
    assert_eq!(removed, [] as [Value; 0]);
    age(&registry.store(), 2 * HOUR);
    let (_, end) = gc(&registry.dir, &["--grace", "1h", "--untagged"]);
    assert_eq!((&end["manifests"], &end["blobs"]), (&json!(1), &json!(3)));
}

#[test]
fn a_manifest_that_cannot_be_read_keeps_everything_of_its_repository() {
    let registry = Registry::start(&[]);
    let image = registry.push_image("app", "1", "image");
    let loose = registry.push_blob("app", b"loose");
    let other = registry.push_blob("other", b"other");
    let hex = image.hex();
    let data = registry.store().join(format!("blobs/sha256/{}/{hex}/data", &hex[..2]));
    let sound = fs::read(&data).unwrap();
    fs::write(&data, b"damaged").unwrap();
    let (_, end) = gc(&registry.dir, UNTAGGED);
    assert_eq!(end["blobs"], 1);
    assert!(!blobs(&registry.store()).contains(&other.to_string()));
    assert!(is_there(&registry, "app", &loose));
    assert!(registry.log().contains("nothing of the repository is collected"));
    fs::write(&data, sound).unwrap();
    let (_, end) = gc(&registry.dir, UNTAGGED);
    assert_eq!(end["blobs"], 1);
    assert!(!is_there(&registry, "app", &loose));
}

#[test]
fn a_document_of_another_kind_keeps_whatever_it_names() {
    let registry = Registry::start(&[]);
    let image = registry.push_image("app", "1", "image");
    let layer = registry.push_blob("app", b"a layer of schema 1");
    // As distribution has stored it.
    let document = json!({"schemaVersion": 1, "fsLayers": [{"blobSum": layer.to_string()}]});
    let document = document.to_string();
    let digest = registry.push_blob("app", document.as_bytes());
    let hex = digest.hex();
    let revision =
        registry.store().join(format!("repositories/app/_manifests/revisions/sha256/{hex}"));
    fs::create_dir_all(&revision).unwrap();
    fs::write(revision.join("link"), digest.to_string()).unwrap();
    let (_, end) = gc(&registry.dir, NOW);
    assert_eq!((&end["links"], &end["blobs"]), (&json!(1), &json!(0)), "the link as a blob");
    assert!(blobs(&registry.store()).is_superset(&digests([&image, &layer, &digest])));
}

#[test]
fn a_folder_that_no_registry_made_stops_it() {
    let registry = Registry::start(&[]);
    let loose = registry.push_blob("app", b"loose");
    let odd = registry.store().join("repositories/UPPER/_layers");
    fs::create_dir_all(&odd).unwrap();
    let message = fails(command(&registry.dir, NOW));
    assert!(message.contains("UPPER is in the way, so nothing was collected"), "{message}");
    assert!(is_there(&registry, "app", &loose));
    fs::remove_dir_all(odd.parent().unwrap()).unwrap();
    gc(&registry.dir, NOW);
    assert!(!is_there(&registry, "app", &loose));
}

#[test]
fn a_server_collects_by_itself() {
    let registry = Registry::start(&["--gc-interval", "1s", "--gc-grace", "0", "--gc-untagged"]);
    let image = registry.push_image("app", "1", "image");
    assert_eq!(registry.delete("/v2/app/manifests/1").status, 202);
    eventually("the untagged image goes", || {
        !blobs(&registry.store()).contains(&image.to_string())
    });
    eventually("all of it goes", || blobs(&registry.store()).is_empty());
    let refused = Registry::start(&["--gc-interval", "0", "--gc-grace", "0"]);
    let loose = refused.push_blob("app", b"loose");
    std::thread::sleep(Duration::from_millis(1500));
    assert!(is_there(&refused, "app", &loose), "it is switched off");
}

#[test]
fn a_server_that_only_reads_refuses() {
    let mut registry = Registry::start(&[]);
    registry.push_image("app", "1", "image");
    registry.stop();
    let registry = Registry::start_in(&registry.dir.clone(), &["--read-only"]);
    assert!(fails(command(&registry.dir, NOW)).contains("--read-only"));
}

#[test]
fn images_of_the_first_api_stay_while_a_tag_reaches_them() {
    let registry = Registry::start(&[]);
    let chain = client::chain("tagged");
    client::push(&registry, "library/old", "1", &chain);
    let other = client::chain("untagged");
    client::push(&registry, "library/other", "1", &other);
    let images = || {
        let folder = registry.dir.join("layers/docker/registry/v1/images");
        entries(&folder).iter().map(|prefix| entries(&folder.join(prefix)).len()).sum::<usize>()
    };
    assert_eq!(images(), chain.len() + other.len());
    let (_, end) = gc(&registry.dir, NOW);
    assert_eq!(end["images"], 0);
    assert_eq!(registry.delete("/v1/repositories/library/other/tags/1").status, 200);
    let (_, end) = gc(&registry.dir, UNTAGGED);
    assert_eq!((images(), &end["images"]), (chain.len(), &json!(other.len())));
    let pulled = client::pull(&registry, "library/old", "1");
    assert_eq!(pulled.len(), chain.len());
}

#[test]
fn the_index_of_a_layer_goes_with_it() {
    let registry = Registry::start(&[]);
    let secret = Tar::default().file("secret.pem", b"key").finish();
    let big = Tar::default().file("big", &noise(3, 20 << 20)).finish();
    let diff_ids = [&secret, &big].map(|tar| Algorithm::Sha256.digest(tar).to_string());
    // A single large zstd frame cannot be sought in, so the index has a copy of it.
    let layers: Vec<Value> = [secret, zstd(&big)]
        .iter()
        .map(|layer| descriptor(OCI_LAYER, &registry.push_blob("app", layer), layer.len()))
        .collect();
    let config = json!({"os": "linux", "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let config = config.to_string();
    let digest = registry.push_blob("app", config.as_bytes());
    let manifest = image_manifest(&descriptor(OCI_CONFIG, &digest, config.len()), &layers);
    let reply = registry.push_manifest("app", "1", OCI_MANIFEST, manifest.as_bytes());
    let digest = reply.header("docker-content-digest").unwrap().to_owned();
    let copies = registry.dir.join("seekable");
    eventually("both layers are indexed", || entries(&copies).len() == 1);
    let found = |name: &str| {
        let reply = registry.get(&format!("/v2/_query/find?name={name}"));
        reply.text().matches(&format!("\"path\":\"/{name}\"")).count()
    };
    eventually("the file is found", || found("secret.pem") == 1);
    delete(&registry, "app", digest);
    let (_, end) = gc(&registry.dir, NOW);
    assert_eq!(end["layers"], 2);
    assert_eq!(entries(&copies), [] as [String; 0]);
    assert_eq!(found("secret.pem"), 0);
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut child = std::process::Command::new("zstd")
        .args(["-q", "-c"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("zstd runs");
    let mut stdin = child.stdin.take().unwrap();
    let bytes = bytes.to_vec();
    let write = std::thread::spawn(move || std::io::Write::write_all(&mut stdin, &bytes));
    let output = child.wait_with_output().unwrap();
    write.join().unwrap().unwrap();
    output.stdout
}
