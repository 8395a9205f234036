//! `tree` and `blobs` of whole images.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use registry::oci::Algorithm;

use crate::common::engine::without_engine_files;
use crate::common::tree::{Kind, Tree, assert_same};
use crate::common::{OCI_LAYER, run};
use crate::fixture::{Image, ODD, SPECIAL, fixture, manifest};
use crate::view::{Client, Row, Shown, by_path, encode, rows, shown};

/// What the other client keeps of a tree that umoci unpacked. Both know no time
/// before 1970, but of symlinks.
///
/// - `docker export`: attributes other than capabilities and parts of a second are lost.
/// - podman copies one layer's files to the next: of the files that are no regular ones
///   it makes one for each name.
fn kept_by_other(image: &Image, mut tree: Tree) -> Tree {
    let podman = image.name == SPECIAL;
    for file in tree.values_mut() {
        if file.mtime.0 < 0 && !matches!(file.kind, Kind::Symlink(_)) {
            file.mtime = (0, 0);
        }
        if podman {
            let regular = matches!(file.kind, Kind::Regular { .. });
            file.first_name.take_if(|_| !regular);
        } else {
            file.mtime.1 = 0;
            file.xattrs.retain(|name, _| name == b"security.capability");
        }
    }
    if podman { tree } else { without_engine_files(tree) }
}

/// The clients that judge us agree with one another.
#[test]
fn unpacked_twice() {
    for image in &fixture().images {
        let trees = [&image.unpacked, &image.other];
        let [unpacked, other] = trees.map(|tree| kept_by_other(image, tree.clone()));
        assert_same(image.name, &unpacked, &other);
    }
}

/// All that the JSON says of every file.
#[test]
fn listed() {
    for (what, registry, image) in fixture().all() {
        let path = format!("/v1/images/{}/tree/?recursive=1", image.name);
        let entries = shown(&Client::new(registry).get(&path));
        let ours = by_path(&entries);
        assert_same(&what, &ours, &rows(&image.unpacked));
        in_order(&entries);

        let config = &manifest(registry, image.name)["config"]["digest"];
        let config = config.as_str().and_then(|d| d.strip_prefix("sha256:"));
        for entry in &entries {
            assert_eq!(Some(entry.image.as_str()), config, "{what}: {entry:?}");
        }
    }
}

/// Folders come before what is in them, and their files by name.
#[track_caller]
fn in_order(entries: &[Shown]) {
    let parts = |entry: &Shown| -> Vec<Vec<u8>> {
        entry.path.split(|b| *b == b'/').map(<[u8]>::to_vec).collect()
    };
    for pair in entries.windows(2) {
        assert!(parts(&pair[0]) < parts(&pair[1]), "{pair:#?}");
    }
}

/// The content of every file, in every compression.
#[test]
fn contents() {
    for (what, registry, image) in fixture().all() {
        let mut client = Client::new(registry);
        let mut total = 0;
        for (path, row) in rows(&image.unpacked) {
            let Row { size: Some(size), digest: Some(digest), .. } = row else {
                continue;
            };
            let path = encode(&path);
            let reply = client.get(&format!("/v1/images/{}/blobs/{path}", image.name));
            assert_eq!(reply.status, 200, "{what}: {path}: {}", reply.text());
            let got = Algorithm::Sha256.digest(&reply.body).to_string();
            assert_eq!(got, digest, "{what}: {path}");
            let length = size.to_string();
            assert_eq!(reply.header("content-length"), Some(length.as_str()));
            let etag = format!("\"{digest}\"");
            assert_eq!(reply.header("etag"), Some(etag.as_str()), "{what}: {path}");
            total += size;
        }
        assert!(total > 100_000_000, "{what}: {total}");
    }
}

/// The layers are what they are meant to be, or little would be proved.
#[test]
fn packed() {
    let fixture = fixture();
    for (packing, registry) in &fixture.packings {
        let (media_type, chunked) = match *packing {
            "docker" => ("application/vnd.docker.image.rootfs.diff.tar.gzip", false),
            "gzip" => (OCI_LAYER, false),
            "uncompressed" => ("application/vnd.oci.image.layer.v1.tar", false),
            zstd => {
                let media_type = "application/vnd.oci.image.layer.v1.tar+zstd";
                (media_type, zstd == "zstd:chunked")
            }
        };
        let manifest = manifest(registry, ODD);
        for layer in manifest["layers"].as_array().expect("layers") {
            assert_eq!(layer["mediaType"], media_type, "{packing}");
            assert_eq!(layer["annotations"].is_object(), chunked, "{packing}");
        }
    }
    let layers = named_by_layers(fixture.image(ODD));
    for marker in ["etc/.wh.issue", "edit/opaque/.wh..wh..opq", "edit/.wh.h1"] {
        let found = layers.iter().any(|(_, names)| names.contains(marker.as_bytes()));
        assert!(found, "{marker}: did the Docker engine use overlays?");
    }
}

/// An entry is from the last layer that has it.
#[test]
fn layers() {
    let fixture = fixture();
    for image in &fixture.images {
        let layers = named_by_layers(image);
        let path = format!("/v1/images/{}/tree/?recursive=1", image.name);
        let entries = shown(&Client::new(&fixture.registry).get(&path));
        let mut from: BTreeMap<&str, usize> = BTreeMap::new();
        for entry in &entries {
            let last = layers.iter().rev().find(|(_, names)| names.contains(&entry.path));
            let (layer, _) = last.unwrap_or_else(|| panic!("no layer has {entry:?}"));
            // A link to a file of another layer is in both.
            if image.unpacked[&entry.path].first_name.is_none() {
                assert_eq!(entry.layer, *layer, "{}: {entry:?}", image.name);
            }
            *from.entry(layer).or_default() += 1;
        }
        // Nothing is left of what COPY brought.
        let gone = usize::from(!image.unpacked.contains_key(&b"debs"[..]) && layers.len() > 1);
        assert_eq!(from.len(), layers.len() - gone, "{from:#?}");
    }
}

/// The names in each layer, by GNU tar.
fn named_by_layers(image: &Image) -> Vec<(String, BTreeSet<Vec<u8>>)> {
    let layout = fixture().home.path(&image.layout());
    let manifest = manifest(&fixture().registry, image.name);
    let layers = manifest["layers"].as_array().expect("layers").iter();
    let digests = layers.map(|layer| layer["digest"].as_str().expect("a digest"));
    digests
        .map(|digest| {
            let hex = digest.trim_start_matches("sha256:");
            let blob = format!("{layout}/blobs/sha256/{hex}");
            let mut list = Command::new("tar");
            list.args(["--list", "--gzip", "--quoting-style=escape", "--file", &blob]);
            let output = run(list.env("LC_ALL", "C"));
            let lines = output.stdout.split(|b| *b == b'\n');
            (digest.to_owned(), lines.map(unescape).collect())
        })
        .collect()
}

/// A name as GNU tar escapes it, without the slashes about it.
fn unescape(line: &[u8]) -> Vec<u8> {
    let mut name = Vec::new();
    let mut rest = line;
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'\\' {
            name.push(*first);
            continue;
        }
        let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count().min(3);
        let (code, tail) = rest.split_at(digits.max(1));
        rest = tail;
        name.push(match code {
            b"n" => b'\n',
            b"t" => b'\t',
            b"\\" => b'\\',
            b" " => b' ',
            octal => {
                let octal = std::str::from_utf8(octal).expect("ASCII");
                u8::from_str_radix(octal, 8).expect("octal digits")
            }
        });
    }
    let name = name.strip_prefix(b"./").unwrap_or(&name);
    name.strip_suffix(b"/").unwrap_or(name).to_vec()
}
