//! Kills while a layer is indexed: at whatever moment, nothing half is seen
//! afterwards, and nothing is left.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Instant;

use rocksdb::{DB, IteratorMode, Options};
use tempfile::TempDir;

use super::{copies, five_files, gzip, listed, push, tree, zstd};
use crate::common::tar::Tar;
use crate::common::{Registry, noise};
use crate::probe::{assert_sound, files};

/// Kills for each kind of layer.
const KILLS: u32 = 12;
/// Many rows, beside the many bytes.
const NAMES: usize = 20_000;

fn rows() -> Vec<u8> {
    let tar = (0..NAMES).fold(Tar::default(), |tar, number| {
        let path = format!("d{}/f{number}", number % 100);
        match number % 50 {
            0 => tar.hard_link(path, "d1/f1"),
            _ => tar.file(path, b"content"),
        }
    });
    let mut tar = tar.finish();
    tar.truncate(tar.len() - 1024);
    [tar, five_files()].concat()
}

/// Rows of each family, and bytes of all files, of a server that ended.
fn stored(dir: &Path) -> (BTreeMap<String, usize>, u64) {
    let path = dir.join("db");
    let options = Options::default();
    let families = DB::list_cf(&options, &path).expect("a database");
    let db = DB::open_cf_for_read_only(&options, &path, &families, false).expect("a database");
    let count = |family: &String| {
        let handle = db.cf_handle(family).expect("opened with the database");
        db.iterator_cf(&handle, IteratorMode::Start)
            .inspect(|row| assert!(row.is_ok(), "{row:?}"))
            .count()
    };
    let counts = families.iter().map(|f| (f.clone(), count(f))).collect();
    let size = |path| fs::metadata(path).map_or(0, |file| file.len());
    let bytes = [files(&path), copies(dir)].concat().iter().map(size).sum();
    (counts, bytes)
}

#[test]
fn kills_while_a_layer_is_indexed() {
    let tar = rows();
    for (what, layer, seekable) in [("gzip", gzip(&tar), 0), ("one zstd frame", zstd(&tar), 1)] {
        // What comes without a kill, and how long it takes.
        let quiet = TempDir::new().expect("a temporary folder");
        let mut registry = Registry::start_in(quiet.path(), &["--index-jobs", "0"]);
        push(&registry, "image", &[&layer]);
        let start = Instant::now();
        let want = listed(&registry, "image");
        let time = start.elapsed();
        assert!(registry.stop().success());
        drop(Registry::start_in(quiet.path(), &[]));
        let (rows, bytes) = stored(quiet.path());

        let dir = TempDir::new().expect("a temporary folder");
        let mut registry = Registry::start_in(dir.path(), &["--index-jobs", "0"]);
        push(&registry, "image", &[&layer]);
        let mut interrupted = 0;
        for kill in 0..KILLS {
            let answered = std::thread::scope(|scope| {
                let first = scope
                    .spawn(|| registry.try_send("GET", "/v1/images/image:latest/tree/", &[], b""));
                // The moment itself, not a wait for something.
                std::thread::sleep(time * kill / (KILLS - 2));
                registry.signal("KILL");
                first.join().expect("no panic").is_ok()
            });
            registry.wait();
            let complete = stored(dir.path()).0["layers"] == 1;
            assert!(complete || !answered, "{what}, kill {kill}");
            registry = Registry::start_in(dir.path(), &["--index-jobs", "0"]);
            let left = copies(dir.path()).len();
            assert_eq!(left, if complete { seekable } else { 0 }, "{what}, kill {kill}");
            if complete {
                assert_eq!(listed(&registry, "image"), want, "{what}, kill {kill}");
                registry.kill();
                fs::remove_dir_all(dir.path().join("db")).expect("a database");
                registry = Registry::start_in(dir.path(), &["--index-jobs", "0"]);
            } else {
                interrupted += 1;
            }
        }
        println!("{what}: {time:?}, {interrupted} of {KILLS} interrupted");
        assert!(interrupted >= 3, "{interrupted}");
        assert_eq!(listed(&registry, "image"), want, "{what}");
        assert_eq!(copies(dir.path()).len(), seekable, "{what}");
        assert_sound(&registry);
        assert!(registry.stop().success());
        drop(Registry::start_in(dir.path(), &[]));
        let (rows_left, bytes_left) = stored(dir.path());
        assert_eq!(rows_left, rows, "{what}");
        println!("{what}: {bytes_left} bytes, {bytes} without kills");
        assert!(bytes_left < 2 * bytes + (4 << 20), "{what}: {bytes_left}, {bytes}");
    }
}

/// Whoever comes first, and all who come meanwhile, wait for one job.
#[test]
fn one_job_for_many_readers() {
    const READERS: usize = 16;
    let dir = TempDir::new().expect("a temporary folder");
    let mut registry = Registry::start_in(dir.path(), &["--index-jobs", "0"]);
    // A layer without an index is told in the log, once a job.
    let mut broken = five_files();
    broken.extend(noise(1, 512));
    let at = broken.len() - 512 - 1024;
    broken.drain(at..at + 1024);
    push(&registry, "broken", &[&gzip(&broken)]);
    push(&registry, "sound", &[&gzip(&five_files())]);
    std::thread::scope(|scope| {
        for reader in 0..2 * READERS {
            let registry = &registry;
            scope.spawn(move || match reader % 2 {
                0 => assert_eq!(tree(registry, "broken").status, 422),
                _ => assert_eq!(listed(registry, "sound").as_array().map(Vec::len), Some(5)),
            });
        }
    });
    let log = registry.log();
    assert_eq!(log.matches("a layer has no index").count(), 1, "{log}");
    assert_sound(&registry);
    assert!(registry.stop().success());
    // The files and the root, of the one layer that has an index.
    let (rows, _) = stored(dir.path());
    assert_eq!((rows["layers"], rows["entries"]), (2, 5 + 1), "{rows:?}");
}
