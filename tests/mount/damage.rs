//! Layers that are damaged or gone give an error that names them, for the files that are hit and no
//! others. There are never wrong bytes, and none are kept when the layer is whole again.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use registry::oci::{Algorithm, Digest};

use crate::common::mount::Mount;
use crate::common::side::forget;
use crate::common::tar::Tar;
use crate::common::{Registry, eventually, noise};
use crate::support::push;

/// The size of a file that spans several parts of a layer.
const LARGE: usize = 12_000_000;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).expect("to memory");
    encoder.finish().expect("to memory")
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0; zstd_safe::compress_bound(bytes.len())];
    let length = zstd_safe::compress(&mut out[..], bytes, 1).expect("to memory");
    out.truncate(length);
    out
}

fn tar() -> Vec<u8> {
    Tar::default()
        .file("dir/first", b"first")
        .file("dir/large", &noise(1, LARGE))
        .file("dir/last", b"last")
        .file("other", &noise(2, LARGE))
        .finish()
}

/// An image that is indexed, its layer's digest, and the file that the layer is read from.
fn image(layer: Vec<u8>) -> (Registry, Digest, PathBuf) {
    let registry = Registry::start(&[]);
    let digest = Algorithm::Sha256.digest(&layer);
    push(&registry, "a", "1", &[layer]);
    let reply = registry.get("/v2/a/_files/tree/1/");
    assert_eq!(reply.status, 200, "{}", reply.text());
    let hex = digest.hex();
    let blob = format!("blobs/sha256/{}/{hex}/data", &hex[..2]);
    let blob = registry.store().join(blob);
    // A layer that cannot be read from the middle has a copy that can.
    let copies = fs::read_dir(registry.dir.join("seekable")).map(|mut copies| copies.next());
    let copy = copies.ok().flatten().map(|copy| copy.unwrap().path());
    (registry, digest, copy.unwrap_or(blob))
}

/// Reads a file piece by piece. Each must be right or an error; returns how many are errors.
fn pieces(path: &Path, want: &[u8]) -> usize {
    let file = File::open(path).expect("it can be opened");
    let mut piece = vec![0; 4096];
    let errors =
        (0..want.len()).step_by(4096).filter(|&at| match file.read_at(&mut piece, at as u64) {
            Ok(length) => {
                let end = want.len().min(at + 4096);
                assert!(piece[..length] == want[at..end], "{path:?}: wrong bytes at {at}");
                false
            }
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EIO), "{path:?} at {at}");
                true
            }
        });
    errors.count()
}

/// Waits until a line of the log names the image, the path, the layer and the reason.
#[track_caller]
fn assert_logged(mount: &Mount, layer: &Digest, path: &str, why: &str) {
    let logged = |line: &str| {
        [&format!("/{path} in a@sha256:"), &layer.to_string(), why]
            .iter()
            .all(|part| line.contains(*part))
    };
    eventually("it is logged", || mount.log().lines().any(logged));
}

#[test]
fn damaged() {
    for (packing, layer) in [("tar", tar()), ("gzip", gzip(&tar())), ("zstd", zstd(&tar()))] {
        let (registry, digest, path) = image(layer);
        let blob = File::options().read(true).write(true).open(&path).unwrap();
        let at = LARGE as u64 / 2;
        let mut right = [0; 32];
        blob.read_exact_at(&mut right, at).unwrap();
        blob.write_all_at(&right.map(|byte| !byte), at).unwrap();

        let mount = Mount::start(&registry.dir, &["--cache-size", "32MiB"]);
        let root = mount.path.join("a:1");
        let (large, other) = (noise(1, LARGE), noise(2, LARGE));
        let error = fs::read(root.join("dir/large")).map(drop).expect_err(packing);
        assert_eq!(error.raw_os_error(), Some(libc::EIO), "{packing}");
        assert_logged(&mount, &digest, "dir/large", "damaged");
        for round in 0..2 {
            let errors = pieces(&root.join("dir/large"), &large);
            assert!((1..LARGE / 4096 / 2).contains(&errors), "{packing}, {round}: {errors}");
            // Other parts of the layer are whole.
            assert!(fs::read(root.join("other")).unwrap() == other, "{packing}");
            assert_eq!(fs::read(root.join("dir/first")).unwrap(), b"first");
            assert_eq!(fs::read(root.join("dir/last")).unwrap(), b"last");
        }
        // Neither the kernel nor the mount kept anything of the damage.
        blob.write_all_at(&right, at).unwrap();
        assert_eq!(pieces(&root.join("dir/large"), &large), 0, "{packing}");
        assert!(fs::read(root.join("dir/large")).unwrap() == large, "{packing}");
    }
}

#[test]
fn vanished() {
    let (registry, digest, path) = image(gzip(&tar()));
    let mount = Mount::start(&registry.dir, &["--cache-size", "32MiB"]);
    let root = mount.path.join("a:1");
    let other = noise(2, LARGE);
    assert!(fs::read(root.join("other")).unwrap() == other);
    // It has opened the image, and read no file of it.
    let late = Mount::start(&registry.dir, &["--cache-size", "32MiB"]);
    let late_root = late.path.join("a:1");
    assert_eq!(fs::metadata(late_root.join("dir/large")).unwrap().len(), LARGE as u64);
    let aside = path.with_extension("aside");
    fs::rename(&path, &aside).unwrap();

    let error = fs::read(late_root.join("dir/large")).map(drop);
    let error = error.expect_err("its layer is gone");
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    assert_logged(&late, &digest, "dir/large", "");
    assert_eq!(fs::read_dir(late_root.join("dir")).unwrap().count(), 3);
    // A mount that has read from the layer keeps it readable, since the collector may remove it.
    assert!(fs::read(root.join("other")).unwrap() == other);
    assert_eq!(pieces(&root.join("dir/large"), &noise(1, LARGE)), 0);

    fs::rename(&aside, &path).unwrap();
    assert_eq!(pieces(&late_root.join("dir/large"), &noise(1, LARGE)), 0);
    drop(late);

    // A layer that was cut short gives right bytes or errors.
    File::options().write(true).open(&path).unwrap().set_len(LARGE as u64 / 2).unwrap();
    let mount = Mount::start(&registry.dir, &["--cache-size", "32MiB"]);
    let root = mount.path.join("a:1");
    assert!(pieces(&root.join("dir/large"), &noise(1, LARGE)) > 0);
    assert_logged(&mount, &digest, "dir/large", "");
    let file = File::open(root.join("other")).unwrap();
    forget(&file);
    let error = file.read_at(&mut [0; 1], 0).expect_err("it is cut off");
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
}
