//! Images for the tests of the mount.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use registry::oci::{Algorithm, Digest};
use serde_json::{Value, json};

use crate::common::tar::Tar;
use crate::common::{OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, Registry, descriptor, image_manifest};

pub const OCI_TAR: &str = "application/vnd.oci.image.layer.v1.tar";

/// Pushes an image for a platform; returns the digest of its manifest.
pub fn push_for(
    registry: &Registry,
    platform: &str,
    name: &str,
    tag: &str,
    layers: &[Vec<u8>],
) -> Digest {
    let layers: Vec<(Digest, usize)> =
        layers.iter().map(|layer| (registry.push_blob(name, layer), layer.len())).collect();
    push_of(registry, platform, name, tag, &layers)
}

/// Pushes an image of layers that the repository has.
pub fn push_of(
    registry: &Registry,
    platform: &str,
    name: &str,
    tag: &str,
    layers: &[(Digest, usize)],
) -> Digest {
    let diff_ids: Vec<String> = layers.iter().map(|(digest, _)| digest.to_string()).collect();
    let (os, architecture) = platform.split_once('/').expect("OS/ARCH");
    let config = json!({"os": os, "architecture": architecture,
        "rootfs": {"type": "layers", "diff_ids": diff_ids}})
    .to_string();
    let descriptors: Vec<Value> =
        layers.iter().map(|(digest, length)| descriptor(OCI_TAR, digest, *length)).collect();
    let digest = registry.push_blob(name, config.as_bytes());
    let manifest = image_manifest(&descriptor(OCI_CONFIG, &digest, config.len()), &descriptors);
    push_text(registry, name, tag, OCI_MANIFEST, &manifest)
}

fn push_text(registry: &Registry, name: &str, tag: &str, kind: &str, text: &str) -> Digest {
    let reply = registry.push_manifest(name, tag, kind, text.as_bytes());
    assert_eq!(reply.status, 201, "{}", reply.text());
    Algorithm::Sha256.digest(text.as_bytes())
}

/// Pushes an image for this machine's platform.
pub fn push(registry: &Registry, name: &str, tag: &str, layers: &[Vec<u8>]) -> Digest {
    let host = registry::oci::Platform::host().to_string();
    push_for(registry, &host, name, tag, layers)
}

/// Pushes an index of manifests that the repository has.
pub fn push_index(registry: &Registry, name: &str, tag: &str, children: &[(&str, Digest)]) {
    let child = |(platform, digest): &(&str, Digest)| {
        let (os, architecture) = platform.split_once('/').expect("OS/ARCH");
        let size = registry.get(&format!("/v2/{name}/manifests/{digest}")).body.len();
        let mut child = descriptor(OCI_MANIFEST, digest, size);
        child["platform"] = json!({"os": os, "architecture": architecture});
        child
    };
    let children: Vec<Value> = children.iter().map(child).collect();
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": children});
    push_text(registry, name, tag, OCI_INDEX, &index.to_string());
}

/// A layer with one file.
pub fn layer(path: &str, content: &str) -> Vec<u8> {
    Tar::default().file(path, content.as_bytes()).finish()
}

/// The names in a folder.
pub fn list(folder: &Path) -> BTreeSet<String> {
    let names = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let name = |entry: std::io::Result<fs::DirEntry>| {
        let name = entry.expect("an entry").file_name();
        String::from_utf8_lossy(name.as_bytes()).into_owned()
    };
    names.map(name).collect()
}

pub fn set<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.into_iter().map(str::to_owned).collect()
}

/// The value of an extended attribute, which is text, or the errno.
pub fn xattr(path: &Path, name: &str) -> Result<String, i32> {
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).expect("no NUL");
    let name = std::ffi::CString::new(name).expect("no NUL");
    let mut value = vec![0u8; 4096];
    // SAFETY: both end in NUL; the buffer is as long as is said.
    #[allow(unsafe_code)]
    let length = unsafe {
        let into = value.as_mut_ptr().cast();
        libc::lgetxattr(path.as_ptr(), name.as_ptr(), into, value.len())
    };
    match usize::try_from(length) {
        Ok(length) => {
            value.truncate(length);
            Ok(String::from_utf8(value).expect("text"))
        }
        Err(_) => Err(errno()),
    }
}

/// The peak of a process's memory, in KiB.
pub fn peak(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a running process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kib.and_then(|kib| kib.parse().ok()).expect("a peak")
}

pub fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().expect("an errno")
}
