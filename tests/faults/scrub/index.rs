//! Damage to the index: it is found, named and made again.

use rocksdb::{DB, IteratorMode, Options};

use super::*;

/// Opens the index of a server that was stopped.
fn with_db(dir: &Path, change: impl FnOnce(&DB)) {
    let path = dir.join("db");
    let families = DB::list_cf(&Options::default(), &path).expect("a database");
    change(&DB::open_cf(&Options::default(), &path, families).expect("a database"));
}

type Row = (Box<[u8]>, Box<[u8]>);

fn rows(db: &DB, family: &str) -> Vec<Row> {
    let family = db.cf_handle(family).expect("a family");
    db.iterator_cf(&family, IteratorMode::Start).map(|row| row.expect("a row")).collect()
}

/// What is done to a row.
#[derive(Clone, Copy, Debug)]
enum Hurt {
    Delete,
    Garbage,
    /// The last byte is another.
    Flip,
}

fn hurt(db: &DB, family: &str, (key, value): &Row, hurt: Hurt) {
    let handle = db.cf_handle(family).expect("a family");
    match hurt {
        Hurt::Delete => db.delete_cf(&handle, key).expect("space"),
        Hurt::Garbage => db.put_cf(&handle, key, b"\xffgarbage").expect("space"),
        Hurt::Flip => {
            let mut value = value.to_vec();
            *value.last_mut().expect("a value") ^= 1;
            db.put_cf(&handle, key, value).expect("space");
        }
    }
}

fn number_of(db: &DB, layer: &Digest) -> Vec<u8> {
    let blocks = rows(db, "blocks");
    let own = |(key, value): &&Row| key.len() == 8 && **value == *layer.to_string().as_bytes();
    blocks.iter().find(own).expect("the layer's number").0.to_vec()
}

/// The row of a family that belongs to a layer; of several, the middle one.
fn row_of(db: &DB, family: &str, layer: &Digest) -> Row {
    let number = number_of(db, layer);
    let belongs = |(key, _): &Row| match family {
        "layers" => **key == *layer.to_string().as_bytes(),
        "basenames" => **key == *b"hosts",
        "named" => key.starts_with(b"hosts\0") && key[6..].starts_with(&number),
        "contents" => key[8..].starts_with(&number),
        _ => key.starts_with(&number),
    };
    let mut found: Vec<Row> = rows(db, family).into_iter().filter(belongs).collect();
    assert!(!found.is_empty(), "{family}");
    found.swap_remove(found.len() / 2)
}

#[test]
fn rows_of_a_layer() {
    use Hurt::{Delete, Flip, Garbage};
    let cases: [(&str, &[Hurt]); 8] = [
        ("layers", &[Delete, Garbage, Flip]),
        ("entries", &[Delete, Garbage, Flip]),
        ("spans", &[Delete, Garbage, Flip]),
        ("names", &[Delete, Garbage]),
        ("blocks", &[Delete, Garbage, Flip]),
        ("basenames", &[Delete]),
        ("named", &[Delete]),
        ("contents", &[Delete]),
    ];
    for (family, hurts) in cases {
        for &how in hurts {
            println!("{family}: {how:?}");
            let store = Store::copy();
            let dir = store.dir.path();
            with_db(dir, |db| hurt(db, family, &row_of(db, family, &store.gzip), how));
            let server = matches!(how, Delete).then(|| Registry::start_in(dir, &[]));
            let found = one(dir, "index-damaged");
            assert_eq!(found["digest"], store.gzip.to_string(), "{found}");
            assert_eq!(found["rows"], json!({family: 1}), "{found}");
            assert_eq!(found["mended"], true, "{found}");
            sound(dir);
            drop(server);
            let registry = Registry::start_in(dir, &[]);
            let reply = registry.get("/v1/images/team/app:1/blobs/etc/hosts");
            assert_eq!((reply.status, reply.text().as_str()), (200, "127.0.0.1 localhost\n"));
        }
    }
}

/// A row too many counts too.
#[test]
fn a_row_that_is_not_the_layers() {
    let store = Store::copy();
    with_db(store.dir.path(), |db| {
        let (mut key, value) = row_of(db, "entries", &store.gzip);
        *key.last_mut().expect("a key") ^= 1;
        db.put_cf(&db.cf_handle("entries").expect("a family"), key, value).expect("space");
    });
    let found = one(store.dir.path(), "index-damaged");
    assert_eq!(found["rows"], json!({"entries": 1}));
}

/// A checksum or a checkpoint that is wrong, of a span in the middle.
#[test]
fn a_seekable_copy() {
    for which in 0..4 {
        let store = Store::copy();
        let dir = store.dir.path();
        let copies = crate::probe::files(&store.path("seekable"));
        assert_eq!(copies.len(), 1);
        let copy = &copies[0];
        let length = fs::metadata(copy).unwrap().len();
        let family = match which {
            0 => {
                flip(copy, length as usize / 2);
                "seekable"
            }
            1 => {
                fs::remove_file(copy).unwrap();
                "seekable"
            }
            2 => {
                fs::write(copy, b"").unwrap();
                "seekable"
            }
            _ => {
                with_db(dir, |db| {
                    hurt(db, "spans", &row_of(db, "spans", &store.zstd), Hurt::Garbage);
                });
                "spans"
            }
        };
        let found = one(dir, "index-damaged");
        assert_eq!(found["digest"], store.zstd.to_string());
        assert!(found["rows"][family].as_u64().is_some_and(|n| n > 0), "{found}");
        assert_eq!(found["rows"].as_object().expect("an object").len(), 1, "{found}");
        sound(dir);
        let registry = Registry::start_in(dir, &[]);
        let reply = registry.get("/v1/images/team/app:1/blobs/usr/large");
        assert_eq!((reply.status, reply.body.len()), (200, 4 * 4_800_000));
    }
}

#[test]
fn rows_of_manifests_and_the_catalog() {
    let hex = |digest: &Digest| digest.hex();
    for family in ["images", "edges", "repositories", "manifests", "tags", "blobs"] {
        let store = Store::copy();
        let dir = store.dir.path();
        let mut manifest = store.manifest.to_string();
        with_db(dir, |db| {
            let belongs = |(digest, _): &&Row| {
                let key = String::from_utf8_lossy(digest).into_owned();
                match family {
                    "images" => {
                        key.starts_with(&hex(&store.manifest)) && key.contains("0team/other\0")
                    }
                    "edges" => {
                        key.starts_with(&store.zstd.to_string()) && key.contains("\0team/other\0")
                    }
                    "manifests" | "tags" => key.starts_with("team/other\0"),
                    "blobs" => digest.ends_with(store.zstd.as_bytes()),
                    _ => key == "team/other",
                }
            };
            let rows = rows(db, family);
            let row = rows.iter().find(belongs).expect("a row");
            hurt(db, family, row, Hurt::Delete);
        });
        if matches!(family, "repositories" | "tags") {
            manifest.clear();
        }
        let found = one(dir, "index-damaged");
        if family != "blobs" {
            assert_eq!(found["repository"], "team/other", "{found}");
        }
        assert_eq!(found["digest"].as_str().unwrap_or_default(), manifest, "{found}");
        assert_eq!(found["rows"], json!({family: 1}), "{found}");
        sound(dir);
        // A server finds it too: the state in which its start has read the repository is the same.
        if matches!(family, "images" | "edges") {
            with_db(dir, |db| {
                let row = rows(db, family);
                let row = row.iter().find(|(key, _)| {
                    let key = String::from_utf8_lossy(key);
                    key.starts_with(&store.gzip.to_string())
                        || key.starts_with(&hex(&store.manifest))
                });
                hurt(db, family, row.expect("a row"), Hurt::Delete);
            });
            let _registry = Registry::start_in(dir, &[]);
            let found = one(dir, "index-damaged");
            assert_eq!(found["rows"], json!({family: 1}), "{found}");
        }
    }
}

/// A damaged blob is damage to the blob alone, and its index stays.
#[test]
fn layers_that_have_no_index() {
    let store = Store::copy();
    let dir = store.dir.path();
    fs::remove_dir_all(store.path("db")).unwrap();
    sound(dir);
    // Now there are no rows that could be missed, until the server has made them.
    let registry = Registry::start_in(dir, &["--index-jobs", "0"]);
    sound(dir);
    assert_eq!(registry.get("/v1/images/team/app:1/tree/").status, 200);
    sound(dir);
}
