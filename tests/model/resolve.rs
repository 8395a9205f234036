//! What ids and references lead to.

use std::io::Write;
use std::sync::Arc;

use registry::image::{Error, Id, Image, Images, Platform, Result};
use registry::index::ids::Ids;
use registry::index::{self, Index};
use registry::oci::{Algorithm, Digest, Reference, Repository};
use registry::registry::maintenance;
use registry::storage;
use serde_json::{Value, json};

use super::common::tar::Tar;
use super::common::{OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, descriptor};
use super::compare;
use super::store::{Store, an_image};

const AMD64: (&str, &str) = ("linux", "amd64");

fn repository(name: &str) -> Repository {
    name.parse().unwrap()
}

fn id(text: &str) -> Id {
    text.parse().unwrap()
}

fn digest(byte: u8) -> Digest {
    let hex = format!("{byte:02x}").repeat(32);
    format!("sha256:{hex}").parse().unwrap()
}

fn tar(name: &str) -> Vec<u8> {
    Tar::default().file(name, name.as_bytes()).finish()
}

/// A store with a finished catalog.
fn store() -> Store {
    let store = Store::new();
    maintenance::scan(&store.images, false).unwrap();
    store
}

fn open(store: &Store, text: &str) -> Result<Arc<Image>> {
    store.images.open(&id(text), None).map(an_image)
}

fn child(digest: &Digest, platform: Option<&str>) -> Value {
    let mut child = descriptor(OCI_MANIFEST, digest, 100);
    if let Some(platform) = platform {
        let parts: Vec<&str> = platform.split('/').collect();
        child["platform"] = json!({
            "os": parts[0],
            "architecture": parts[1],
            "variant": parts.get(2),
        });
    }
    child
}

fn index(children: &[Value]) -> Value {
    json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": children})
}

#[test]
fn by_reference_and_id() {
    let store = store();
    let app = repository("team/app");
    let one = store.push_tars(&app, "latest", &[tar("one")], AMD64);
    let two = store.push_tars(&app, "1.4", &[tar("two")], AMD64);
    let config = open(&store, "team/app").unwrap().config;
    for (text, want) in [
        ("team/app".to_owned(), one),
        ("team/app:latest".to_owned(), one),
        ("team/app:1.4".to_owned(), two),
        (format!("team/app@{two}"), two),
        (format!("team/app:latest@{two}"), two),
        (two.to_string(), two),
        (two.hex(), two),
        (two.hex()[..12].to_owned(), two),
        (two.to_string()[..20].to_owned(), two),
        (config.to_string(), one),
        (config.hex()[..15].to_owned(), one),
    ] {
        let image = open(&store, &text).unwrap();
        assert_eq!((&image.repository, image.manifest), (&app, want), "{text}");
    }
    let unknown = |text: &str| match open(&store, text) {
        Err(Error::Unknown(_)) => true,
        Err(Error::Storage(storage::Error::ManifestUnknown { .. })) => false,
        other => panic!("{text}: {other:?}"),
    };
    assert!(unknown(&digest(1).to_string()));
    assert!(unknown("0123456789ab"));
    assert!(unknown(&format!("sha512:{}", &two.hex()[..20])), "another algorithm");
    assert!(!unknown("team/other"));
    assert!(!unknown("team/app:other"));

    let tag = Reference::Tag("1.4".parse().unwrap());
    let image = store.images.open_in(&app, &tag, None).map(an_image).unwrap();
    assert_eq!(image.manifest, two);
    let again = store.images.open_in(&app, &tag, None).map(an_image).unwrap();
    assert!(Arc::ptr_eq(&image, &again), "kept");

    // A repository called like an id.
    let named = repository("0123456789ab");
    let three = store.push_tars(&named, "latest", &[tar("three")], AMD64);
    assert_eq!(open(&store, "0123456789ab").unwrap().manifest, three);
}

#[test]
fn the_store_is_the_truth() {
    let store = store();
    let [a, b] = ["a", "b"].map(repository);
    let image = store.push_tars(&a, "t", &[tar("x")], AMD64);
    assert_eq!(store.push_tars(&b, "t", &[tar("x")], AMD64), image);
    let hex = image.hex();
    let found_in = |text: &str| open(&store, text).unwrap().repository.clone();
    assert_eq!(found_in(&hex), a);
    let only_b = |repository: &Repository| *repository == b;
    let permitted = store.images.open_where(&id(&hex[..12]), None, &only_b);
    assert_eq!(*permitted.unwrap().repository(), b);
    let error = |name: &str| {
        let opened = store.images.open_where(&id(name), None, &only_b);
        opened.unwrap_err().to_string()
    };
    assert_eq!(
        error("a:t"),
        error("c:t").replace(" c", " a"),
        "what is not permitted is as if it were not there"
    );

    store.storage.delete_manifest(&a, &image, b"", None).unwrap();
    assert_eq!(found_in(&hex), b, "another repository has it");
    assert_eq!(found_in(&hex[..12]), b);
    let layer = open(&store, &hex).unwrap().layers[0].digest;
    store.storage.delete_blob(&b, &layer).unwrap();
    let gone = open(&store, &hex);
    assert!(matches!(gone, Err(Error::Storage(storage::Error::BlobUnknown { .. }))), "{gone:?}");
    store.storage.delete_manifest(&b, &image, b"", None).unwrap();
    assert!(matches!(open(&store, &hex), Err(Error::Unknown(_))));
}

fn ids(config: Digest) -> Ids {
    Ids { config: Some(config), ..Ids::default() }
}

#[test]
fn a_prefix_of_several_ids() {
    let store = store();
    let app = repository("app");
    let hex = |end: &str| format!("{}{end}", "a".repeat(64 - end.len()));
    let mut manifests = Vec::new();
    for end in ["1", "2"] {
        let manifest = store.push_tars(&app, "t", &[tar(end)], AMD64);
        let config: Digest = format!("sha256:{}", hex(end)).parse().unwrap();
        store.index.add_images(&app, &manifest, &ids(config)).unwrap();
        manifests.push(manifest);
    }
    match open(&store, &"a".repeat(20)) {
        Err(Error::Ambiguous { candidates, prefix }) => {
            assert_eq!(prefix, "a".repeat(20));
            let found: Vec<_> = candidates.iter().map(|c| (c.id.clone(), c.manifest)).collect();
            assert_eq!(found, [(hex("1"), manifests[0]), (hex("2"), manifests[1])]);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(open(&store, &hex("2")).unwrap().manifest, manifests[1]);
}

#[test]
fn an_existing_store() {
    for read_only in [false, true] {
        let store = Store::new();
        let app = repository("app");
        let image = store.push_tars(&app, "t", &[tar("x")], AMD64);
        let config = store.images.open(&id("app:t"), None).map(an_image).unwrap().config;
        store.index.remove_images(&app, &image, &ids(config)).unwrap();
        assert!(matches!(
            open(&store, &config.hex()),
            Err(Error::Index(index::Error::CatalogIncomplete(_)))
        ));
        maintenance::scan(&store.images, read_only).unwrap();
        assert_eq!(open(&store, &config.hex()).unwrap().manifest, image);
        assert_eq!(open(&store, &image.hex()[..12]).unwrap().manifest, image);
    }
}

#[test]
fn platforms() {
    let store = store();
    let app = repository("app");
    let push = |platform: (&str, &str), name: &str| {
        store.push_tars(&app, &name.replace('/', "-"), &[tar("x"), tar(name)], platform)
    };
    let amd64 = push(AMD64, "amd64");
    let arm64 = push(("linux", "arm64"), "arm64");
    let v6 = push(("linux", "arm"), "v6");
    let riscv = push(("linux", "riscv64"), "riscv64");
    let attestation = push(("unknown", "unknown"), "attestation");
    let nested = store.push_manifest(&app, "nested", &index(&[child(&riscv, None)]));
    let many = store.push_manifest(
        &app,
        "many",
        &index(&[
            child(&attestation, Some("unknown/unknown")),
            child(&nested, None),
            child(&v6, Some("linux/arm/v6")),
            child(&amd64, Some("linux/amd64")),
            child(&digest(9), Some("linux/s390x")),
            child(&arm64, Some("linux/arm64/v8")),
        ]),
    );
    for (wanted, want) in [
        ("linux/amd64", amd64),
        ("linux/amd64/v3", amd64),
        ("linux/arm64", arm64),
        ("linux/arm64/v8", arm64),
        ("linux/arm", v6),
        ("linux/arm/v6", v6),
        ("linux/riscv64", riscv),
    ] {
        let platform: Platform = wanted.parse().unwrap();
        for text in ["app:many".to_owned(), many.hex()] {
            let image = store.images.open(&id(&text), Some(&platform)).map(an_image).unwrap();
            assert_eq!(image.manifest, want, "{wanted}");
        }
    }
    let host = Platform::host();
    let by_default = open(&store, "app:many").map(|image| image.manifest);
    let by_host = store.images.open(&id("app:many"), Some(&host));
    assert_eq!(by_default.ok(), by_host.ok().map(|image| image.manifest()));

    let failed = |reference: &str, platform: &str| {
        let platform: Platform = platform.parse().unwrap();
        let opened = store.images.open(&id(reference), Some(&platform));
        match opened.map(|image| image.manifest()) {
            Err(Error::NoPlatform { available, .. }) => available.join(" "),
            Err(Error::Storage(storage::Error::ManifestUnknown { reference, .. })) => {
                reference.to_string()
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        failed("app:many", "windows/amd64"),
        "linux/amd64 linux/arm/v6 linux/arm64 linux/riscv64 linux/s390x unknown/unknown"
    );
    assert_eq!(failed("app:many", "linux/s390x"), digest(9).to_string(), "not here");
    assert_eq!(failed("app:arm64", "linux/amd64"), "linux/arm64", "no index");
    assert_eq!(open(&store, "app:arm64").unwrap().manifest, arm64, "not asked for");
}

/// Each image of an index is found by what tells it from the others, and what is asked for and not
/// there is an error that names what there is.
#[test]
fn versions_and_features() {
    let store = store();
    let app = repository("app");
    let push = |os: &str, name: &str| store.push_tars(&app, name, &[tar(name)], (os, "amd64"));
    let child = |digest: &Digest, more: Value| {
        let mut child = descriptor(OCI_MANIFEST, digest, 100);
        child["platform"] = json!({"architecture": "amd64"});
        for (key, value) in more.as_object().unwrap() {
            child["platform"][key] = value.clone();
        }
        child
    };
    let [native, plain, v3] = ["native", "plain", "v3"].map(|name| push("linux", name));
    let [old, older, new] = ["old", "older", "new"].map(|name| push("windows", name));
    let nested = store.push_manifest(
        &app,
        "nested",
        &index(&[descriptor(OCI_MANIFEST, &push("freebsd", "bsd"), 100)]),
    );
    let windows = |version: &str| json!({"os": "windows", "os.version": version});
    let all = store.push_manifest(
        &app,
        "all",
        &index(&[
            child(&native, json!({"os": "linux", "os.features": ["erofs"]})),
            child(&v3, json!({"os": "linux", "variant": "v3"})),
            child(&plain, json!({"os": "linux"})),
            child(&old, windows("10.0.17763.2")),
            child(&older, windows("10.0.17763.1")),
            child(&new, windows("10.0.20348.169")),
            descriptor(OCI_INDEX, &nested, 100),
        ]),
    );
    let open = |platform: &str| {
        let opened = store.images.open(&id("app:all"), Some(&platform.parse().unwrap()));
        opened.map(|image| image.manifest())
    };
    for (wanted, want) in [
        ("linux/amd64", plain),
        ("linux/amd64/v4", v3),
        ("linux/amd64/v2", plain),
        ("linux(+erofs)/amd64", native),
        ("windows/amd64", old),
        ("windows/amd64/10.0.17763.1", older),
        ("windows(10.0.17763.9+win32k)/amd64", old),
        ("windows/amd64/10.0.25398.1", new),
    ] {
        assert_eq!(open(wanted).unwrap(), want, "{wanted}");
    }
    let there = "freebsd/amd64 linux/amd64 linux/amd64+erofs linux/amd64/v3 \
        windows/amd64/10.0.17763.1 windows/amd64/10.0.17763.2 windows/amd64/10.0.20348.169";
    for wanted in ["windows/amd64/10.0.26200.1", "linux/arm64", "windows/arm64"] {
        match open(wanted) {
            Err(Error::NoPlatform { available, .. }) => assert_eq!(available.join(" "), there),
            other => panic!("{wanted}: {other:?}"),
        }
    }
    let named = store.images.platforms(&app, &Reference::Digest(all)).unwrap().unwrap();
    let mut named: Vec<String> = named.iter().map(Platform::to_string).collect();
    named.sort_unstable();
    assert_eq!(named.join(" "), there);
}

#[test]
fn indexes_of_indexes() {
    let store = store();
    let app = repository("app");
    let image = store.push_tars(&app, "t", &[tar("x")], AMD64);
    let platform: Platform = "linux/amd64".parse().unwrap();
    let open = |tag: &str| {
        let opened = store.images.open(&id(&format!("app:{tag}")), Some(&platform));
        opened.map(|image| image.manifest())
    };
    let mut inner = image;
    for depth in 1..=10 {
        let outer = vec![child(&inner, None); 1000];
        let tag = format!("deep{depth}");
        inner = store.push_manifest(&app, &tag, &index(&outer));
        match open(&tag) {
            Ok(found) => assert!(depth <= 8 && found == image, "{depth}"),
            Err(Error::Nesting { .. }) => assert!(depth > 8, "{depth}"),
            Err(error) => panic!("{error}"),
        }
    }
    let other = ("linux", "s390x");
    let wide: Vec<Value> = (0..300)
        .map(|n| {
            let config = json!({"os": other.0, "architecture": other.1, "rootfs": {}, "n": n});
            let config = config.to_string();
            let blob = store.push_blob(&app, config.as_bytes());
            let manifest = json!({
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": descriptor(OCI_CONFIG, &blob, config.len()),
                "layers": [],
            });
            child(&store.push_manifest(&app, "n", &manifest), None)
        })
        .collect();
    store.push_manifest(&app, "wide", &index(&wide));
    assert!(matches!(open("wide"), Err(Error::Nesting { .. })));
    store.push_manifest(&app, "narrow", &index(&wide[..200]));
    match open("narrow") {
        Err(Error::NoPlatform { available, .. }) => assert_eq!(available, ["linux/s390x"]),
        other => panic!("{other:?}"),
    }
}

/// A manifest of layers whose media types and config are given.
fn push(store: &Store, tag: &str, config: &str, layers: &[(&str, Digest)]) {
    let app = repository("app");
    let blob = store.push_blob(&app, config.as_bytes());
    let layers: Vec<Value> =
        layers.iter().map(|(media_type, digest)| descriptor(media_type, digest, 1)).collect();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(OCI_CONFIG, &blob, config.len()),
        "layers": layers,
    });
    store.push_manifest(&app, tag, &manifest);
}

#[test]
fn odd_images() {
    let store = store();
    let app = repository("app");
    let layer = store.push_blob(&app, &tar("x"));
    let said = |diff_ids: &[&str]| json!({"rootfs": {"diff_ids": diff_ids}}).to_string();
    let wrong = digest(7).to_string();
    let foreign = "application/vnd.oci.image.layer.nondistributable.v1.tar";
    for (tag, config, layers, warnings) in [
        ("right", said(&[&layer.to_string()]), vec![layer], vec![]),
        ("wrong", said(&[&wrong]), vec![layer], vec!["has the diff_id"]),
        ("no-digest", said(&["x"]), vec![layer], vec!["not a digest"]),
        ("count", said(&[]), vec![layer], vec!["0 diff_ids, the manifest 1"]),
        ("artifact", "{}".to_owned(), vec![layer], vec![]),
        ("twice", said(&[layer.to_string().as_str(); 2]), vec![layer, layer], vec![]),
    ] {
        let layers: Vec<_> = layers.into_iter().map(|digest| (OCI_LAYER, digest)).collect();
        push(&store, tag, &config, &layers);
        let image = open(&store, &format!("app:{tag}")).unwrap();
        assert_eq!(image.warnings.len(), warnings.len(), "{tag}");
        for (found, want) in image.warnings.iter().zip(warnings) {
            assert!(found.contains(want), "{tag}: {found}");
        }
        assert_eq!(compare::show(&image), "x", "{tag}");
    }
    push(&store, "empty", "{}", &[]);
    let empty = open(&store, "app:empty").unwrap();
    assert_eq!(compare::show(&empty), "");

    push(&store, "foreign", "{}", &[(OCI_LAYER, layer), (foreign, digest(3))]);
    match open(&store, "app:foreign") {
        Err(Error::ForeignLayer { layer, .. }) => assert_eq!(*layer, digest(3)),
        other => panic!("{other:?}"),
    }
    push(&store, "foreign-here", "{}", &[(foreign, layer)]);
    assert_eq!(compare::show(&open(&store, "app:foreign-here").unwrap()), "x");

    let text = store.push_blob(&app, b"no tar at all");
    push(&store, "text", "{}", &[(OCI_LAYER, text)]);
    match open(&store, "app:text") {
        Err(Error::Layer { cause: index::Error::Refused { layer, .. }, .. }) => {
            assert_eq!(*layer, text)
        }
        other => panic!("{other:?}"),
    }
    push(&store, "many", "{}", &vec![(OCI_LAYER, layer); 501]);
    assert!(matches!(open(&store, "app:many"), Err(Error::TooManyLayers { layers: 501, .. })));
}

/// A path may be long, what it costs has a limit all the same.
#[test]
fn dots_that_lead_up_and_down() {
    let store = store();
    let deep = "d/".repeat(49);
    let tar = Tar::default().file(format!("{deep}f"), b"x").finish();
    let image = store.image_of_tars(&[tar]).unwrap();
    let far = format!("{deep}{}f", "../d/".repeat(780));
    assert!(far.len() < 4096);
    assert!(matches!(image.node(far.as_bytes(), true), Err(Error::Loop(_))));
    for path in [format!("{deep}../d/../d/f"), "d/../d/../".repeat(400)] {
        image.node(path.as_bytes(), true).unwrap();
    }
}

/// What a forced index replaces is not looked into any more.
#[test]
fn a_layer_indexed_anew() {
    let store = store();
    let app = repository("app");
    let manifest = store.push_tars(&app, "t", &[tar("x")], AMD64);
    let open = || {
        let reference = Reference::Digest(manifest);
        store.images.open_in(&app, &reference, None).map(an_image).unwrap()
    };
    let before = open();
    assert!(Arc::ptr_eq(&before, &open()));
    let layer = &before.layers[0];
    let layers = store.images.layers();
    layers.index_now(&layer.digest, true, |_| {}).unwrap();
    let after = open();
    assert_ne!(after.layers[0].record.number, layer.record.number);
    assert!(Arc::ptr_eq(&after, &open()));
}

/// That a blob cannot be read is told as such, and no reason to refuse it.
#[test]
fn a_layer_that_cannot_be_read_now() {
    let store = store();
    let app = repository("app");
    let manifest = store.push_tars(&app, "t", &[tar("x")], AMD64);
    let hex = Algorithm::Sha256.digest(&tar("x")).hex();
    let blobs = store.db.with_file_name("layers/docker/registry/v2/blobs");
    let data = blobs.join(format!("sha256/{}/{hex}/data", &hex[..2]));
    let aside = data.with_file_name("aside");
    std::fs::rename(&data, &aside).unwrap();
    std::fs::create_dir(&data).unwrap();
    let reference = Reference::Digest(manifest);
    let open = || store.images.open_in(&app, &reference, None);
    let error = open().unwrap_err().to_string();
    assert!(error.contains("Is a directory"), "{error}");
    std::fs::remove_dir(&data).unwrap();
    std::fs::rename(&aside, &data).unwrap();
    open().unwrap().node(b"x", false).unwrap();
}

/// Seekable copies are derived too.
#[test]
fn a_copy_that_is_gone() {
    let store = store();
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    encoder.write_all(&tar("x")).unwrap();
    let app = repository("app");
    let layer = encoder.finish().unwrap();
    let manifest = store.push_tars(&app, "t", &[layer], AMD64);
    let reference = Reference::Digest(manifest);
    let image = store.images.open_in(&app, &reference, None).map(an_image).unwrap();
    assert!(image.layers[0].record.copied);
    std::fs::remove_dir_all(store.db.with_file_name("seekable")).unwrap();
    let images = Images::new(Arc::clone(store.images.layers()));
    let image = images.open_in(&app, &reference, None).unwrap();
    let file = image.file(b"x").unwrap();
    let mut content = vec![0; file.entry.size as usize];
    assert_eq!(image.read(&file, 0, &mut content).unwrap(), content.len());
}

/// The rows of ids are in the database: a process that only reads sees them.
#[test]
fn beside_a_writer() {
    let store = store();
    let app = repository("app");
    let image = store.push_tars(&app, "t", &[tar("x")], AMD64);
    let reader = Index::follow(&store.db).unwrap();
    assert!(reader.catalog_was_complete().unwrap());
    let hex = image.hex();
    assert_eq!(reader.find_images(&hex, &hex, 9).unwrap().len(), 1);
}
