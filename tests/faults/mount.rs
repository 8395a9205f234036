//! The mount on a disk that is full.

use std::fs;
use std::io::ErrorKind;

use registry::oci::Algorithm;
use serde_json::json;
use tempfile::TempDir;

use crate::common::mount::Mount;
use crate::common::tar::Tar;
use crate::common::{
    OCI_CONFIG, OCI_MANIFEST, Registry, descriptor, eventually, image_manifest, noise,
};
use crate::disk;

/// Images that are indexed can be read. The others are errors until there is room for their index.
#[test]
fn of_a_full_disk() {
    let disk = disk::Mount::ext4();
    let layers = TempDir::new().expect("a temporary folder");
    let at = ["--layers", layers.path().to_str().expect("UTF-8")];
    let mut registry = Registry::start_in(disk.path(), &[&at[..], &["--index-jobs", "0"]].concat());
    let content = noise(1, 100_000);
    for name in ["before", "after"] {
        let mut tar = Tar::default().file("file", &content).file("name", name.as_bytes());
        // So many rows need room on the disk.
        for number in 0..20_000 {
            let digest = Algorithm::Sha256.digest(format!("{name}{number}").as_bytes());
            tar = tar.file(digest.hex(), b"");
        }
        let layer = tar.finish();
        let digest = registry.push_blob(name, &layer);
        let config = json!({"os": "linux", "architecture": "amd64",
            "rootfs": {"type": "layers", "diff_ids": [digest.to_string()]}});
        let config = config.to_string();
        let config_digest = registry.push_blob(name, config.as_bytes());
        let kind = "application/vnd.oci.image.layer.v1.tar";
        let manifest = image_manifest(
            &descriptor(OCI_CONFIG, &config_digest, config.len()),
            &[descriptor(kind, &digest, layer.len())],
        );
        let reply = registry.push_manifest(name, "1", OCI_MANIFEST, manifest.as_bytes());
        assert_eq!(reply.status, 201, "{}", reply.text());
    }
    registry.stop();

    let mount = Mount::start(disk.path(), &[&at[..], &["--tag-ttl", "50ms"]].concat());
    let look = |name: &str| fs::read(mount.path.join(format!("{name}:1/name")));
    assert_eq!(look("before").expect("room for its index"), b"before");
    let filler = disk.fill();
    let error = look("after").expect_err("no room for its index");
    assert_eq!(error.raw_os_error(), Some(libc::EIO), "{}", mount.log());
    let full = |line: &str| line.contains("No space left") || line.contains("disk is full");
    let why = |line: &str| line.contains("after:1") && full(line);
    eventually("it is told", || mount.log().lines().any(why));
    assert_eq!(fs::read(mount.path.join("before:1/file")).expect("no room needed"), content);
    let nothing = fs::metadata(mount.path.join("before:1/nothing")).expect_err("nothing");
    assert_eq!(nothing.kind(), ErrorKind::NotFound);

    drop(filler);
    eventually("there is room", || look("after").is_ok_and(|name| name == b"after"));
    assert_eq!(fs::read(mount.path.join("after:1/file")).expect("room"), content);
}
