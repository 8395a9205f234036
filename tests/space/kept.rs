//! What is in use while it is collected: downloads, open files of a mount, pushes of real clients.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;

use registry::oci::Algorithm;

use crate::common::mount::Mount;
use crate::common::tar::Tar;
use crate::common::{
    OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Registry, descriptor, eventually, image_manifest, noise,
};
use crate::support::{blobs, gc};

const NOW: &[&str] = &["--grace", "0"];

/// Pushes an image of one layer; returns its digest and the path of its blob's bytes.
fn push(registry: &Registry, layer: &[u8]) -> String {
    let config = registry.push_blob("app", b"{}");
    let layer = descriptor(OCI_LAYER, &registry.push_blob("app", layer), layer.len());
    let manifest = image_manifest(&descriptor(OCI_CONFIG, &config, 2), &[layer]);
    let reply = registry.push_manifest("app", "1", OCI_MANIFEST, manifest.as_bytes());
    assert_eq!(reply.status, 201, "{}", reply.text());
    Algorithm::Sha256.digest(manifest.as_bytes()).to_string()
}

#[test]
fn a_download_goes_on_to_its_end() {
    let registry = Registry::start(&[]);
    let content = noise(1, 32 << 20);
    let digest = registry.push_blob("app", &content);
    let mut stream = registry.connect();
    let request = format!(
        "GET /v2/app/blobs/{digest} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
        registry.host()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut start = [0; 1000];
    stream.read_exact(&mut start).unwrap();
    gc(&registry.dir, NOW);
    assert!(blobs(&registry.store()).is_empty());
    let mut answer = start.to_vec();
    stream.read_to_end(&mut answer).unwrap();
    assert!(answer.ends_with(&content), "{} bytes", answer.len());
}

#[test]
fn an_open_file_of_the_server_s_mount_stays_readable() {
    let temp = tempfile::tempdir().unwrap();
    let point = temp.path().to_str().unwrap();
    let registry = Registry::start(&["--mount", point]);
    stays_readable(&registry, temp.path());
}

#[test]
fn an_open_file_of_another_mount_stays_readable() {
    let registry = Registry::start(&[]);
    let mount = Mount::start(&registry.dir, &[]);
    stays_readable(&registry, &mount.path);
}

fn stays_readable(registry: &Registry, mount: &std::path::Path) {
    // More than the kernel reads ahead, and than the cache of decoded parts holds at first.
    let content = noise(2, 24 << 20);
    let digest = push(registry, &Tar::default().file("dir/big", &content).finish());
    let path = mount.join("app:1/dir/big");
    eventually("the mount shows the image", || path.exists());
    let open = File::open(&path).unwrap();
    let mut start = vec![0; 4096];
    open.read_exact_at(&mut start, 0).unwrap();
    assert_eq!(start, content[..4096]);
    assert_eq!(registry.delete(&format!("/v2/app/manifests/{digest}")).status, 202);
    gc(&registry.dir, NOW);
    assert!(blobs(&registry.store()).is_empty());
    let mut all = vec![0; content.len()];
    open.read_exact_at(&mut all, 0).unwrap();
    assert!(all == content, "other bytes");
    drop(open);
    eventually("the image leaves the mount", || fs::metadata(mount.join("app:1")).is_err());
}
