//! `tar`: what GNU tar unpacks of it is what was pushed.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use registry::oci::Algorithm;
use tempfile::TempDir;

use crate::common::Registry;
use crate::common::tree::{self, Kind, Tree, assert_same};
use crate::fixture::{ODD, SPECIAL, fixture};
use crate::view::Client;

/// What GNU tar remarks on while it does as it is told. It does not know the key
/// that POSIX wants beside names that are not UTF-8.
const REMARKS: [&str; 3] = [
    "implausibly old time stamp",
    "s in the future",
    "Ignoring unknown extended header keyword 'hdrcharset'",
];

/// Unpacks what `tar` gives, keeping all that it says.
fn unpack(registry: &Registry, path: &str) -> (TempDir, Tree) {
    let reply = Client::new(registry).get(path);
    assert_eq!(reply.status, 200, "{path}: {}", reply.text());
    let gzip = path.contains("gzip=1");
    let media_type = if gzip { "application/gzip" } else { "application/x-tar" };
    assert_eq!(reply.header("content-type"), Some(media_type));
    let folder = TempDir::new().expect("a temporary folder");
    let [tar, root] = ["tar", "root"].map(|name| folder.path().join(name));
    fs::write(&tar, reply.body).expect("a file");
    fs::create_dir(&root).expect("a folder");
    let mut extract = std::process::Command::new("tar");
    extract
        .args(["--extract", "--preserve-permissions", "--numeric-owner"])
        .args(["--xattrs", "--xattrs-include=*", "--acls"])
        .args(gzip.then_some("--gzip"))
        .arg("--directory")
        .arg(&root)
        .arg("--file")
        .arg(&tar);
    let output = crate::common::run(&mut extract);
    for line in String::from_utf8_lossy(&output.stderr).lines() {
        let remark = REMARKS.iter().any(|remark| line.contains(remark));
        assert!(remark, "{path}: {line}");
    }
    let tree = tree::read(&root);
    (folder, tree)
}

/// Owners, times to the nanosecond, modes, links, attributes, contents.
#[test]
fn whole() {
    let fixture = fixture();
    for image in &fixture.images {
        let path = format!("/v1/images/{}/tar/?gzip=1", image.name);
        let (_folder, tree) = unpack(&fixture.registry, &path);
        assert_same(image.name, &tree, &image.unpacked);
    }
}

/// However the layers are compressed, it is the same stream.
#[test]
fn packings() {
    let fixture = fixture();
    let digest = |registry: &Registry| {
        let reply = Client::new(registry).get(&format!("/v1/images/{ODD}/tar/"));
        assert_eq!(reply.status, 200, "{}", reply.text());
        Algorithm::Sha256.digest(&reply.body)
    };
    let want = digest(&fixture.registry);
    for (packing, registry) in &fixture.packings {
        assert_eq!(digest(registry), want, "{packing}");
    }
}

/// A subtree by itself. Of a hard link's names only those inside count.
#[test]
fn subtrees() {
    let fixture = fixture();
    let image = fixture.image(SPECIAL);
    let repository = SPECIAL.replace(':', "/_files/tar/");
    for folder in ["posix", "podman/names", "umoci/times", "sparse", "links", "usr/bin"] {
        let inside = below(&image.unpacked, folder);
        assert!(!inside.is_empty(), "{folder}");
        for path in [
            format!("/v2/{repository}/{folder}"),
            format!("/v1/images/{SPECIAL}/tar/{folder}"),
            format!("/v1/images/{SPECIAL}/tar/{folder}/?gzip=1"),
        ] {
            let (_folder, tree) = unpack(&fixture.registry, &path);
            assert_same(&path, &tree, &inside);
        }
    }
}

/// The part of a tree that lies in a folder.
fn below(tree: &Tree, folder: &str) -> Tree {
    let prefix = format!("{folder}/");
    let mut inside: Tree = tree
        .iter()
        .filter_map(|(path, file)| {
            let path = path.strip_prefix(prefix.as_bytes())?;
            Some((path.to_vec(), file.clone()))
        })
        .collect();
    let mut groups: BTreeMap<Vec<u8>, Vec<Vec<u8>>> = BTreeMap::new();
    for (path, file) in &inside {
        if let Some(first) = &file.first_name {
            groups.entry(first.clone()).or_default().push(path.clone());
        }
    }
    for names in groups.values() {
        for name in names {
            let file = inside.get_mut(name).expect("one of them");
            file.first_name = (names.len() > 1).then(|| names[0].clone());
        }
    }
    inside
}

/// Sparse files come back with all their bytes.
#[test]
fn sparse() {
    let fixture = fixture();
    let image = fixture.image(SPECIAL);
    let mut client = Client::new(&fixture.registry);
    for name in ["sparse/sizes/sparse", "sparse/sizes/hole"] {
        let want = fs::read(Path::new(&image.root).join(name)).expect("a file");
        assert!(want.len() > 1 << 20);
        let Kind::Regular { size, .. } = &image.unpacked[name.as_bytes()].kind else {
            panic!("{name} is no file");
        };
        assert_eq!(*size, want.len() as u64);
        let whole = client.get(&format!("/v1/images/{SPECIAL}/blobs/{name}"));
        assert!(whole.body == want, "{name}");
        // About the edges of what is stored.
        for edge in [1 << 20, 3 << 20, (3 << 20) + 65536, 9 << 20, want.len()] {
            for start in [edge - 5000, edge - 1, edge, edge + 1, edge + 691, edge + 5000] {
                let end = (start + 6000).min(want.len());
                if start >= end {
                    continue;
                }
                let range = format!("bytes={start}-{}", end - 1);
                let path = format!("/v1/images/{SPECIAL}/blobs/{name}");
                let reply = client.send("GET", &path, &[("Range", &range)]);
                assert_eq!(reply.status, 206, "{name} {range}");
                assert!(reply.body == want[start..end], "{name} {range}");
            }
        }
    }
}
