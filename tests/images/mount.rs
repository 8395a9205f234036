//! The mounted images beside what umoci unpacks.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::common::mount::Mount;
use crate::common::side::{Stat, assert_content, holes, walk};
use crate::common::tree::{self, assert_same};
use crate::common::{need, run};
use crate::fixture::{ODD_FILES, SPECIAL, fixture};

/// Compares the mount of every image, in every packing, with the unpacked tree.
#[test]
fn mounted() {
    let mut mounts: HashMap<u32, Mount> = HashMap::new();
    for (what, registry, image) in fixture().all() {
        let mount =
            mounts.entry(registry.pid()).or_insert_with(|| Mount::start(&registry.dir, &[]));
        let found = tree::read(&mount.path.join(image.name));
        assert_same(&what, &found, &image.unpacked);
    }
}

/// Compares every field of stat, and which names are one file.
#[test]
fn stats() {
    let mount = Mount::start(&fixture().registry.dir, &[]);
    for image in &fixture().images {
        let (root, unpacked) = (mount.path.join(image.name), Path::new(&image.root));
        let stats = |root: &Path| -> BTreeMap<Vec<u8>, Stat> {
            let paths = walk(root).into_iter().skip(1);
            let name = |path: &Path| path.strip_prefix(root).expect("below").to_owned();
            paths
                .map(|path| (name(&path).as_os_str().as_bytes().to_vec(), Stat::read(&path)))
                .collect()
        };
        assert_same(image.name, &stats(&root), &stats(unpacked));

        let device = fs::metadata(&mount.path).expect("the mount").dev();
        let mut directories = HashSet::new();
        for path in walk(&root) {
            let metadata = fs::symlink_metadata(&path).expect("its metadata");
            assert_eq!(metadata.dev(), device, "{path:?}");
            assert_eq!(metadata.blksize(), 4096, "{path:?}");
            let modified = (metadata.mtime(), metadata.mtime_nsec());
            for (what, time) in [
                ("read", (metadata.atime(), metadata.atime_nsec())),
                ("changed", (metadata.ctime(), metadata.ctime_nsec())),
            ] {
                assert_eq!(time, modified, "{path:?}, {what}");
            }
            if metadata.is_dir() {
                assert_eq!((metadata.nlink(), metadata.size()), (1, 4096), "{path:?}");
                assert!(directories.insert(metadata.ino()), "{path:?}");
            }
        }
    }
}

/// Reads contents in every way that a program may.
#[test]
fn contents() {
    let mount = Mount::start(&fixture().registry.dir, &["--cache-size", "64MiB"]);
    let mut files = 0;
    for image in &fixture().images {
        let (root, unpacked) = (mount.path.join(image.name), Path::new(&image.root));
        for path in walk(unpacked) {
            if !fs::symlink_metadata(&path).expect("its metadata").is_file() {
                continue;
            }
            let want = fs::read(&path).expect("a file");
            assert_content(&root.join(path.strip_prefix(unpacked).expect("below")), &want);
            files += 1;
        }
    }
    assert!(files > 20_000, "{files}");
}

/// Files that were packed sparse have their holes; no file has one where there is data.
#[test]
fn sparse() {
    let mount = Mount::start(&fixture().registry.dir, &[]);
    let (image, root) = (fixture().image(SPECIAL), mount.path.join(SPECIAL));
    for path in walk(Path::new(&image.root)) {
        if !fs::symlink_metadata(&path).expect("its metadata").is_file() {
            continue;
        }
        let want = fs::read(&path).expect("a file");
        let name = path.strip_prefix(&image.root).expect("below");
        let places = holes(&root.join(name));
        for hole in places[1..].chunks_exact(2) {
            // A hole reaches from the end of some data to the next.
            let (data, end) = (hole[0], hole[1]);
            assert!(data <= end && end <= want.len() as i64, "{path:?}: {places:?}");
        }
        let mut data = vec![false; want.len().div_ceil(512)];
        for piece in places[1..].chunks_exact(2) {
            let blocks = piece[0] as usize / 512..(piece[1] as usize).div_ceil(512);
            data[blocks].fill(true);
        }
        for (block, is_data) in want.chunks(512).zip(data) {
            assert!(is_data || block.iter().all(|&b| b == 0), "{path:?}: {places:?}");
        }
    }
    // The holes are those of the file system that the layer was packed from.
    let temp = TempDir::new().expect("a temporary folder");
    let made = temp.path().join("sparse");
    need("python3", "python3");
    run(Command::new("python3").args(["-c", ODD_FILES]).arg(&made));
    for name in ["sizes/sparse", "sizes/hole", "sizes/3000000", "sizes/0"] {
        assert_eq!(holes(&root.join("sparse").join(name)), holes(&made.join(name)), "{name}");
    }
}

/// An image that is mounted alone shows the same.
#[test]
fn alone() {
    for image in &fixture().images {
        let mount = Mount::start(&fixture().registry.dir, &["--image", image.name]);
        assert_same(image.name, &tree::read(&mount.path), &image.unpacked);
        let root = fs::metadata(&mount.path).expect("the root");
        let unpacked = fs::metadata(&image.root).expect("the root");
        assert_eq!((root.mode(), root.uid()), (unpacked.mode(), unpacked.uid()));
        assert_eq!(root.ino(), 1);
    }
}
