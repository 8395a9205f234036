//! Damage on disk, to the bytes of a layer and to the index: what is read is
//! right, or an error that says where the damage is.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use registry::oci::{Algorithm, Digest};
use rocksdb::{DB, IteratorMode, Options};
use tempfile::TempDir;

use super::{
    FILES, blob, content, copies, five_files, flip, gzip, indexed, listed, outcome, push, raw,
    tree, zstd,
};
use crate::common::{Registry, eventually};
use crate::disk::Mount;
use crate::probe::{assert_sound, files};

fn members(plain: &[u8]) -> Vec<u8> {
    plain.chunks(1 << 20).flat_map(gzip).collect()
}

fn frames(plain: &[u8]) -> Vec<u8> {
    plain.chunks(1 << 20).flat_map(zstd).collect()
}

/// Reads a file of the image. `None`: it was refused or broke off, after nothing
/// but right bytes.
fn read(registry: &Registry, file: &str) -> Option<()> {
    let want = content(file);
    let path = format!("/v1/images/image:latest/blobs/{file}");
    let raw = raw(registry, &path);
    let text = String::from_utf8_lossy(&raw[..raw.len().min(2000)]).into_owned();
    let end = raw.windows(4).position(|w| w == b"\r\n\r\n").expect("a head") + 4;
    if text.starts_with("HTTP/1.1 500 ") {
        return None;
    }
    assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
    let got = &raw[end..];
    assert!(want.starts_with(got), "{file}: wrong bytes");
    (got.len() == want.len()).then_some(())
}

/// The log's and the command line's word for it.
fn assert_told(registry: &Registry, file: &str, digest: &Digest, words: &str) {
    let (code, stdout, stderr) = outcome(&registry.dir, &["cat", "image", file]);
    assert_eq!(code, 1, "{stderr}");
    assert!(content(file).starts_with(&stdout), "{file}: wrong bytes");
    for text in [stderr, registry.log()] {
        assert!(text.contains(&digest.to_string()), "{text}");
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn a_damaged_blob() {
    type Compress = fn(&[u8]) -> Vec<u8>;
    let plain = five_files();
    let cases: [(&str, Compress, bool); 5] = [
        ("plain", <[u8]>::to_vec, false),
        ("gzip", gzip, false),
        ("gzip of several members", members, false),
        ("zstd in frames", frames, false),
        ("one zstd frame", zstd, true),
    ];
    for (what, compress, copied) in cases {
        println!("{what}");
        let dir = TempDir::new().expect("a temporary folder");
        let mut registry = Registry::start_in(dir.path(), &[]);
        let layer = compress(&plain);
        let digest = push(&registry, "image", &[&layer])[0];
        let want = listed(&registry, "image");
        assert!(registry.stop().success());
        let path = match copied {
            true => copies(dir.path()).remove(0),
            false => blob(&registry, &digest),
        };
        // In the middle of the third file.
        flip(&path, fs::metadata(&path).expect("a file").len() as usize / 2, 16);

        let registry = Registry::start_in(dir.path(), &[]);
        assert_eq!(listed(&registry, "image"), want, "{what}");
        for file in FILES {
            assert_eq!(read(&registry, file).is_some(), file != "c", "{what}: {file}");
        }
        assert_told(&registry, "c", &digest, "is damaged at byte ");
        assert_sound(&registry);
        if copied {
            assert_eq!(indexed(dir.path(), &["--force", "image"]).0, 0);
            drop(registry);
            let registry = Registry::start_in(dir.path(), &[]);
            assert!(read(&registry, "c").is_some(), "copied anew");
            assert_eq!(copies(dir.path()).len(), 1);
        }
    }
}

#[test]
fn a_missing_blob() {
    let dir = TempDir::new().expect("a temporary folder");
    let mut registry = Registry::start_in(dir.path(), &[]);
    let digest = push(&registry, "image", &[&gzip(&five_files())])[0];
    listed(&registry, "image");
    assert!(registry.stop().success());
    fs::remove_file(blob(&registry, &digest)).expect("a blob");
    let registry = Registry::start_in(dir.path(), &[]);
    for path in ["tree/", "blobs/a"] {
        let reply = registry.get(&format!("/v1/images/image:latest/{path}"));
        println!("{path}: {} {}", reply.status, reply.text());
        assert_eq!(reply.status, 404, "{}", reply.text());
        assert!(reply.text().contains(&digest.to_string()), "{}", reply.text());
    }
    let (code, stdout, stderr) = outcome(dir.path(), &["cat", "image", "a"]);
    assert_eq!((code, stdout), (1, Vec::new()));
    assert!(stderr.contains(&digest.to_string()), "{stderr}");
    assert_sound(&registry);
}

/// Opens the index of a server that was stopped.
fn with_db(dir: &Path, change: impl FnOnce(&DB)) {
    let path = dir.join("db");
    let families = DB::list_cf(&Options::default(), &path).expect("a database");
    change(&DB::open_cf(&Options::default(), &path, families).expect("a database"));
}

#[test]
fn damaged_records() {
    for family in ["layers", "entries", "spans"] {
        for (what, value) in [
            ("nothing", &b""[..]),
            ("garbage of this version", b"\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
            ("garbage", b"\xffgarbage"),
        ] {
            println!("{family}: {what}");
            let dir = TempDir::new().expect("a temporary folder");
            let mut registry = Registry::start_in(dir.path(), &[]);
            push(&registry, "image", &[&gzip(&five_files())]);
            let want = listed(&registry, "image");
            assert!(registry.stop().success());
            with_db(dir.path(), |db| {
                let family = db.cf_handle(family).expect("a family");
                let rows = db.iterator_cf(&family, IteratorMode::Start);
                let keys: Vec<_> = rows.map(|row| row.expect("a row").0).collect();
                assert!(!keys.is_empty());
                for key in keys {
                    db.put_cf(&family, key, value).expect("space");
                }
            });
            let registry = Registry::start_in(dir.path(), &[]);
            if family == "spans" {
                assert_eq!(listed(&registry, "image"), want);
                assert_eq!(read(&registry, "a"), None);
            } else {
                let reply = tree(&registry, "image");
                assert_eq!(reply.status, 500, "{}", reply.text());
            }
            let (code, _, stderr) = outcome(dir.path(), &["cat", "image", "a"]);
            assert_eq!(code, 1);
            for text in [stderr, registry.log()] {
                assert!(text.contains("`registry index --force`"), "{text}");
            }
            let (code, lines) = indexed(dir.path(), &["--force", "image"]);
            assert_eq!((code, &lines[0]["entries"]), (0, &5.into()), "{lines}");
            assert_sound(&registry);
            // Also for a server that has opened the image before.
            assert_eq!(listed(&registry, "image"), want);
            assert_eq!(read(&registry, "a"), Some(()));
        }
    }
}

#[test]
fn damaged_database_files() {
    let dir = TempDir::new().expect("a temporary folder");
    let mut registry = Registry::start_in(dir.path(), &[]);
    push(&registry, "image", &[&gzip(&five_files())]);
    let want = listed(&registry, "image");
    assert!(registry.stop().success());
    // The next start makes tables of the log.
    assert!(Registry::start_in(dir.path(), &[]).stop().success());
    let db = dir.path().join("db");
    let mut tables = files(&db);
    tables.retain(|path| path.extension().is_some_and(|e| e == "sst"));
    assert!(!tables.is_empty());
    for table in tables {
        let length = fs::metadata(&table).expect("a table").len() as usize;
        flip(&table, 0, (length / 2).min(4096));
    }
    // Whichever part is read first.
    let mut start = Registry::command(dir.path(), &[]);
    let mut child = start.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut ready = String::new();
    let stdout = child.stdout.take().expect("piped");
    BufReader::new(stdout).read_line(&mut ready).expect("a line or none");
    drop(child.kill());
    let output = child.wait_with_output().expect("its end");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    println!("start: {ready:?} {stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    if ready.is_empty() {
        assert!(stderr.contains(db.to_str().expect("UTF-8")), "{stderr}");
    } else {
        let registry = Registry::start_in(dir.path(), &[]);
        let reply = tree(&registry, "image");
        assert_eq!(reply.status, 500, "{}", reply.text());
        let log = registry.log();
        assert!(log.contains(db.to_str().expect("UTF-8")), "{log}");
        assert_sound(&registry);
    }
    fs::remove_dir_all(&db).expect("a database");
    let registry = Registry::start_in(dir.path(), &[]);
    assert_eq!(listed(&registry, "image"), want);
    assert_sound(&registry);
}

/// What is derived is made again: from another format, and from nothing.
#[test]
fn an_index_that_is_lost() {
    type Lose = fn(&Path);
    let cases: [(&str, Lose); 3] = [
        ("another format", |dir| {
            with_db(dir, |db| db.put("format", "0").expect("space"));
        }),
        ("deleted", |dir| {
            fs::remove_dir_all(dir.join("db")).expect("a database");
        }),
        ("deleted with its copies", |dir| {
            for folder in ["db", "seekable"] {
                fs::remove_dir_all(dir.join(folder)).expect("a folder");
            }
        }),
    ];
    for (what, lose) in cases {
        let dir = TempDir::new().expect("a temporary folder");
        let mut registry = Registry::start_in(dir.path(), &[]);
        push(&registry, "image", &[&gzip(&five_files()), &zstd(&five_files())]);
        let want = listed(&registry, "image");
        assert!(registry.stop().success());
        lose(dir.path());
        let registry = Registry::start_in(dir.path(), &[]);
        assert_eq!(listed(&registry, "image"), want, "{what}");
        for file in FILES {
            assert!(read(&registry, file).is_some(), "{what}: {file}");
        }
        assert_eq!(copies(dir.path()).len(), 1, "{what}");
        assert_sound(&registry);
    }
}

/// The copy of a layer that cannot be sought in does not fit.
#[test]
fn a_full_disk() {
    let mount = Mount::ext4();
    let layers = TempDir::new().expect("a temporary folder");
    let arguments = ["--layers", layers.path().to_str().expect("UTF-8"), "--index-jobs", "0"];
    let registry = Registry::start_in(mount.path(), &arguments);
    // One file less, since it has to fit beside the database.
    let mut plain = five_files();
    plain.truncate(4 * (512 + (5 << 20)));
    let layer = zstd(&plain);
    // Names need space too.
    push(&registry, "image", &[b"another layer, no tar"]);
    let filler = mount.fill();
    filler[0].set_len(filler[0].metadata().expect("a file").len() - (8 << 20)).expect("less");
    push(&registry, "image", &[&layer]);
    let digest = Algorithm::Sha256.digest(&layer);
    let reply = tree(&registry, "image");
    assert_eq!(reply.status, 507, "{}", reply.text());
    let blob = registry.get(&format!("/v2/image/blobs/{digest}"));
    assert!(blob.status == 200 && blob.body == layer);
    let log = registry.log();
    assert!(log.contains("disk is full"), "{log}");
    assert_eq!(copies(mount.path()).len(), 0);
    drop(filler);
    eventually("there is an index once there is space", || {
        let reply = tree(&registry, "image");
        println!("{} {}", reply.status, reply.text());
        reply.status == 200
    });
    assert!(read(&registry, "d").is_some());
    assert_sound(&registry);
}
