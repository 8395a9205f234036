//! Damage to files of the store.

use super::*;
use crate::common::Reply;

#[test]
fn a_sound_store_has_no_findings() {
    let store = Store::copy();
    let report = scrub(store.dir.path());
    assert!(report.findings.is_empty(), "{:#?}", report.findings);
    // Two layers of the image and three of the first API, and those that are no tar.
    assert_eq!(report.document["layers"], 5, "{:#}", report.document);
    assert_eq!(report.document["repositories"], 3);
    assert_eq!(report.document["manifests"], 5);
    assert!(report.document["bytes"].as_u64().expect("a number") > 3 << 20);
    let registry = Registry::start_in(store.dir.path(), &[]);
    sound(store.dir.path());
    assert!(!registry.log().contains("scrub:"), "{}", registry.log());
    assert!(!store.path("scrub").exists(), "nothing is left over");
}

fn push(registry: &Registry, name: &str, bytes: &[u8]) {
    registry.push_blob(name, bytes);
}

fn heads(registry: &Registry, digest: &Digest) -> [u16; 2] {
    ["team/app", "team/other"]
        .map(|name| registry.head(&format!("/v2/{name}/blobs/{digest}")).status)
}

/// A damaged blob does not exist until it is pushed again, and that heals all repositories.
#[test]
fn damaged_blobs_are_moved_aside_and_healed_by_a_push() {
    type Hurt = fn(&Path);
    let cases: [(&str, Hurt); 4] = [
        ("a flipped bit", |path| flip(path, fs::metadata(path).unwrap().len() as usize / 2)),
        ("the last byte", |path| flip(path, fs::metadata(path).unwrap().len() as usize - 1)),
        ("truncated", |path| {
            let file = fs::File::options().write(true).open(path).unwrap();
            file.set_len(4096 * 100).unwrap();
        }),
        ("empty", |path| fs::write(path, b"").unwrap()),
    ];
    for (what, hurt) in cases {
        println!("{what}");
        let store = Store::copy();
        let (dir, digest) = (store.dir.path(), store.gzip);
        let before = fs::read(store.blob(&digest)).unwrap();
        let registry = Registry::start_in(dir, &[]);
        // Caches know it now.
        assert_eq!(heads(&registry, &digest), [200, 200]);
        hurt(&store.blob(&digest));
        let damaged = fs::read(store.blob(&digest)).unwrap();

        let found = one(dir, "blob-damaged");
        assert_eq!(found["digest"], digest.to_string());
        assert_eq!(found["mended"], true);
        let message = found["message"].as_str().expect("text");
        assert!(message.contains("_damaged/sha256/"), "{message}");
        assert!(registry.log().contains(message), "{}", registry.log());
        assert!(!store.blob(&digest).exists());
        assert_eq!(fs::read(store.aside(&digest)).unwrap(), damaged);
        assert_eq!(heads(&registry, &digest), [404, 404]);
        assert_eq!(registry.get(&format!("/v2/team/app/blobs/{digest}")).status, 404);
        // A mount becomes an upload.
        let path = format!("/v2/team/third/blobs/uploads/?mount={digest}&from=team/app");
        assert_eq!(registry.send("POST", &path, &[], b"").status, 202);
        let text = registry.get("/v2/team/app/manifests/1").body;
        let reply = registry.push_manifest("team/app", "again", OCI_MANIFEST, &text);
        assert_eq!(reply.status, 404, "{}", reply.text());

        // It is told again, as what it is now, and nothing else is.
        let found = one(dir, "blob-missing");
        assert_eq!(found["digest"], digest.to_string());
        let message = found["message"].as_str().expect("text");
        assert!(message.contains("team/app") && message.contains("team/other"), "{message}");
        assert!(store.aside(&digest).exists(), "kept until it is whole again");

        push(&registry, "team/other", &before);
        assert_eq!(heads(&registry, &digest), [200, 200]);
        sound(dir);
        assert!(!store.aside(&digest).exists());
    }
}

#[test]
fn other_blobs() {
    for which in 0..3 {
        let store = Store::copy();
        let dir = store.dir.path();
        let digest = [store.config, store.manifest, store.zstd][which];
        flip(&store.blob(&digest), 5);
        let found = one(dir, "blob-damaged");
        assert_eq!(found["digest"], digest.to_string());
        assert!(!store.blob(&digest).exists());
        let found = one(dir, "blob-missing");
        assert_eq!(found["digest"], digest.to_string());
    }
}

/// A manifest whose bytes are gone can be deleted, and pushed again.
#[test]
fn a_damaged_manifest() {
    let store = Store::copy();
    let dir = store.dir.path();
    let registry = Registry::start_in(dir, &[]);
    let path = format!("/v2/team/app/manifests/{}", store.manifest);
    let reply = |registry: &Registry| -> Reply { registry.get(&path) };
    let text = reply(&registry).body;
    flip(&store.blob(&store.manifest), 5);
    assert_eq!(one(dir, "blob-damaged")["digest"], store.manifest.to_string());
    assert_eq!(reply(&registry).status, 404);
    assert_eq!(registry.delete("/v2/team/app/manifests/1").status, 202, "the tag");
    assert_eq!(registry.delete(&path).status, 202, "the manifest");
    let pushed = registry.push_manifest("team/other", "1", OCI_MANIFEST, &text);
    assert_eq!(pushed.status, 201, "{}", pushed.text());
    sound(dir);
    assert!(!store.aside(&store.manifest).exists());
}

/// What a lost manifest names is not known, so the collector keeps all of its repository.
#[test]
fn the_collector_keeps_what_a_damaged_manifest_names() {
    let store = Store::copy();
    let dir = store.dir.path();
    flip(&store.blob(&store.manifest), 5);
    one(dir, "blob-damaged");
    let collected = Command::new(REGISTRY).args(["gc", "--grace", "0", "--dir"]).arg(dir).output();
    assert!(collected.expect("it runs").status.success());
    assert!(store.blob(&store.gzip).exists());
    assert_eq!(one(dir, "blob-missing")["digest"], store.manifest.to_string());
}

/// What lies aside goes when nothing links it any more.
#[test]
fn damage_that_nobody_needs() {
    let store = Store::copy();
    let (dir, digest) = (store.dir.path(), store.gzip);
    flip(&store.blob(&digest), 5);
    one(dir, "blob-damaged");
    for name in ["team/app", "team/other"] {
        let link = format!("_layers/sha256/{}", digest.hex());
        fs::remove_dir_all(store.repository(name, &link)).unwrap();
    }
    assert!(store.aside(&digest).exists());
    sound(dir);
    assert!(!store.aside(&digest).exists());
}

#[test]
fn a_missing_blob() {
    let store = Store::copy();
    fs::remove_dir_all(store.blob(&store.gzip).parent().unwrap()).unwrap();
    let found = one(store.dir.path(), "blob-missing");
    assert_eq!(found["digest"], store.gzip.to_string());
    assert_eq!(found["mended"], false);
}

#[test]
fn links() {
    let store = Store::copy();
    let (gzip, manifest, referrer) = (store.gzip.hex(), store.manifest.hex(), store.referrer.hex());
    let paths = [
        format!("_layers/sha256/{gzip}/link"),
        format!("_manifests/revisions/sha256/{manifest}/link"),
        "_manifests/tags/1/current/link".to_owned(),
        format!("_manifests/tags/1/index/sha256/{manifest}/link"),
        format!("_referrers/sha256/{manifest}/sha256/{referrer}/link"),
    ];
    let other = Algorithm::Sha256.digest(b"other").to_string();
    for path in &paths {
        let link = store.repository("team/app", path);
        let before = fs::read(&link).unwrap();
        for garbage in [&b""[..], b"sha256:12", b"\xff\xfe\x00", other.as_bytes()] {
            let is_tag = path.ends_with("current/link");
            println!("{path}: {}", garbage.escape_ascii());
            fs::write(&link, garbage).unwrap();
            let kind =
                if is_tag && garbage == other.as_bytes() { "tag-dangling" } else { "link-damaged" };
            let found = one(store.dir.path(), kind);
            assert_eq!(found["repository"], "team/app");
            let message = found["message"].as_str().expect("text");
            let named = if kind == "link-damaged" { path } else { "team/app:1 " };
            assert!(message.contains(named), "{message}");
            fs::write(&link, &before).unwrap();
        }
    }
    sound(store.dir.path());
}

#[test]
fn dangling_links() {
    let store = Store::copy();
    let dir = store.dir.path();
    // A link to a blob, and one to a manifest, that never came.
    let digest = Algorithm::Sha256.digest(b"never pushed");
    for (folder, repository) in [("_layers", "team/app"), ("_manifests/revisions", "team/app")] {
        let folder = store.repository(repository, &format!("{folder}/sha256/{}", digest.hex()));
        fs::create_dir(&folder).unwrap();
        // A push that was cut off leaves this.
        sound(dir);
        fs::write(folder.join("link"), digest.to_string()).unwrap();
        let found = one(dir, "blob-missing");
        assert_eq!(found["digest"], digest.to_string());
        fs::remove_dir_all(&folder).unwrap();
    }
    let hex = store.manifest.hex();
    let folder =
        store.repository("team/app", &format!("_referrers/sha256/{hex}/sha256/{}", digest.hex()));
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("link"), digest.to_string()).unwrap();
    let found = one(dir, "referrer-dangling");
    assert_eq!(
        (&found["repository"], &found["digest"]),
        (&"team/app".into(), &digest.to_string().into())
    );
    fs::remove_dir_all(&folder).unwrap();
    // The revision of a tag.
    fs::remove_dir_all(
        store.repository("team/other", &format!("_manifests/revisions/sha256/{hex}")),
    )
    .unwrap();
    let found = one(dir, "tag-dangling");
    assert_eq!(found["repository"], "team/other");
    assert_eq!(found["digest"], store.manifest.to_string());
}

#[test]
fn images_of_the_first_api() {
    type Hurt = fn(&Store);
    let cases: [(&str, Hurt); 8] = [
        ("json is missing", |store| fs::remove_file(store.v1_image("json")).unwrap()),
        ("json", |store| fs::write(store.v1_image("json"), b"{").unwrap()),
        // Valid JSON of the same image.
        ("checksum", |store| {
            let path = store.v1_image("json");
            let json = fs::read_to_string(&path).unwrap();
            assert!(json.contains("SEED=scrub"));
            fs::write(path, json.replace("SEED=scrub", "SEED=scruc")).unwrap();
        }),
        ("layer", |store| fs::remove_file(store.v1_image("layer")).unwrap()),
        ("layer", |store| fs::write(store.v1_image("layer"), b"").unwrap()),
        ("ancestry", |store| fs::write(store.v1_image("ancestry"), b"x\n").unwrap()),
        ("ancestry", |store| fs::write(store.v1_image("ancestry"), b"").unwrap()),
        ("checksum", |store| fs::write(store.v1_image("checksum"), b"sha256:1").unwrap()),
    ];
    for (what, hurt) in cases {
        println!("{what}");
        let store = Store::copy();
        hurt(&store);
        let found = one(store.dir.path(), "image-damaged");
        let message = found["message"].as_str().expect("text");
        assert!(message.contains(&store.v1.id) && message.contains(what), "{message}");
    }
    // An image without the one that it is built on.
    let store = Store::copy();
    fs::remove_dir_all(store.v1_image("")).unwrap();
    let found = one(store.dir.path(), "image-damaged");
    let message = found["message"].as_str().expect("text");
    assert!(message.contains("its parent ") && message.contains(&store.v1.id), "{message}");
    // Its layer is a blob like any other.
    let store = Store::copy();
    let layer = Algorithm::Sha256.digest(&store.v1.layer);
    flip(&store.blob(&layer), 20);
    let registry = Registry::start_in(store.dir.path(), &[]);
    assert_eq!(one(store.dir.path(), "blob-damaged")["digest"], layer.to_string());
    let message = one(store.dir.path(), "blob-missing")["message"].to_string();
    assert!(message.contains("old/image"), "{message}");
    // A client of the first API is told that the image is not there, and pushes it again.
    let images = v1::chain("scrub");
    v1::push(&registry, "old/image", "1", &images);
    sound(store.dir.path());
    assert_eq!(v1::pull(&registry, "old/image", "1"), images);
    // The image that a manifest was made of.
    let mut marks = crate::probe::files(&store.path(&format!("{V1}/manifests")));
    fs::write(marks.remove(0), b"nonsense").unwrap();
    one(store.dir.path(), "link-damaged");
}

#[test]
fn a_server_that_only_reads_moves_nothing() {
    let store = Store::copy();
    flip(&store.blob(&store.gzip), 100);
    let registry = Registry::start_in(store.dir.path(), &["--read-only"]);
    for _ in 0..2 {
        let found = one(store.dir.path(), "blob-damaged");
        assert_eq!(found["mended"], false);
        assert_eq!(heads(&registry, &store.gzip), [200, 200]);
        assert!(!store.path(&format!("{V2}/_damaged")).exists());
    }
}

#[test]
fn what_cannot_be_read_is_told() {
    let store = Store::copy();
    let path = store.blob(&store.gzip);
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    let found = one(store.dir.path(), "unreadable");
    let message = found["message"].as_str().expect("text");
    assert!(message.contains(path.to_str().unwrap()), "{message}");
    assert!(path.exists());
}
