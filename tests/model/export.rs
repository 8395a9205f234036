//! The tar of an image, read by Python's `tarfile` and unpacked by GNU tar, against
//! what made the image.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use registry::image::write_tar;
use serde_json::Value;
use tempfile::TempDir;

use super::common::{need, run};
use super::store::Store;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/model/odd_tar.py");

fn python(arguments: &[&str], paths: &[&Path]) -> Vec<u8> {
    run(Command::new("python3").arg(SCRIPT).args(arguments).args(paths)).stdout
}

/// A megabyte of hole, data, a hole, data, a hole.
fn sparse_layer(dir: &Path) -> Vec<u8> {
    let mut file = File::create(dir.join("sparse")).unwrap();
    for at in [1 << 20, 3 << 20] {
        file.seek(SeekFrom::Start(at)).unwrap();
        file.write_all(&[7; 10_000]).unwrap();
    }
    file.set_len(5 << 20).unwrap();
    file.sync_all().unwrap();
    let tar = dir.join("sparse.tar");
    run(Command::new("tar").args(["--sparse", "--format=posix", "--numeric-owner", "-cf"]).args([
        &tar,
        Path::new("-C"),
        dir,
        Path::new("sparse"),
    ]));
    fs::read(tar).unwrap()
}

#[test]
fn what_is_hard_to_tar() {
    need("python3", "python3");
    need("tar", "tar");
    let dir = TempDir::new().unwrap();
    let [odd, sparse, exported] =
        ["odd.tar", "sparse.tar", "exported.tar"].map(|n| dir.path().join(n));
    python(&["write"], &[&odd]);
    let layers = [fs::read(&odd).unwrap(), sparse_layer(dir.path())];
    let store = Store::new();
    let image = store.image_of_tars(&layers).unwrap();
    let mut tar = Vec::new();
    write_tar(&*image, image.root(), &mut tar).unwrap();
    fs::write(&exported, &tar).unwrap();
    assert!(tar.len() < 1 << 20, "holes stay holes");

    let dump = |paths: &[&Path]| -> serde_json::Map<String, Value> {
        serde_json::from_slice(&python(&["dump"], paths)).unwrap()
    };
    let (want, mut found) = (dump(&[&odd, &sparse]), dump(&[&exported]));
    // Directories that the layer does not declare are there now.
    found.retain(|name, _| {
        want.contains_key(name)
            || !(name.starts_with("d/") || name == "d" || *name == "p".repeat(150))
    });
    for (name, thing) in &want {
        assert_eq!(found.get(name), Some(thing), "{name}");
    }
    assert_eq!(found.len(), want.len());

    // By GNU tar, which checks sums, names and sparse maps in its own way.
    let unpacked = dir.path().join("unpacked");
    fs::create_dir(&unpacked).unwrap();
    run(Command::new("tar")
        .args(["--numeric-owner", "--exclude=console", "--exclude=sda", "-xf"])
        .args([&exported, Path::new("-C"), &unpacked]));
    let [mine, theirs] =
        [dir.path().join("sparse"), unpacked.join("sparse")].map(|p| fs::read(p).unwrap());
    assert!(mine == theirs);
    assert!(fs::metadata(unpacked.join("sparse")).unwrap().blocks() < 1000);
    assert_eq!(fs::metadata(unpacked.join("a-linked")).unwrap().nlink(), 3);
    assert_eq!(fs::metadata(unpacked.join("before")).unwrap().mtime(), -2);
    assert_eq!(fs::read(unpacked.join("d/".repeat(150) + "deep")).unwrap(), b"deep");
}

/// A directory, and a file, of an image.
#[test]
fn a_part() {
    let store = Store::new();
    let tar = super::common::tar::Tar::default()
        .file("a/first", b"content")
        .hard_link("a/b/second", "a/first")
        .hard_link("a/b/third", "a/first")
        .symlink("a/b/up", "../first")
        .finish();
    let image = store.image_of_tars(&[tar]).unwrap();
    for (path, want) in [
        ("", "a/ a/b/ a/b/second=3 a/b/third=3 a/b/up>../first a/first=3"),
        ("a/b", "second=2 third=2 up>../first"),
        ("a/b/third", "third"),
        ("a/b/up", "up>../first"),
    ] {
        let node = image.node(path.as_bytes(), false).unwrap();
        let mut part = Vec::new();
        write_tar(&*image, &node, &mut part).unwrap();
        let again = store.image_of_tars(&[part]).unwrap();
        assert_eq!(super::compare::show(&again), want, "{path}");
    }
}
