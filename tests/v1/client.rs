//! A client of the first API, as Docker 1.x was, and images for it.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use registry::oci::Algorithm;
use serde_json::{Value, json};

use crate::common::tar::Tar;
use crate::common::{Registry, Reply};

/// An image: one of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    pub id: String,
    pub json: Vec<u8>,
    pub layer: Vec<u8>,
}

impl Image {
    /// An image whose id is another for every `seed`.
    pub fn new(seed: &str, parent: Option<&Image>, layer: Vec<u8>) -> Image {
        let id = id(seed);
        let mut json = json!({
            "id": id,
            "created": "2014-10-01T12:00:00.123456789Z",
            "container_config": {"Cmd": ["/bin/sh", "-c", format!("#(nop) {seed}")]},
            "docker_version": "1.3.0",
            "config": {"Cmd": ["/bin/true"], "Env": [format!("SEED={seed}")]},
            "architecture": "amd64",
            "os": "linux",
            "Size": layer.len(),
        });
        if let Some(parent) = parent {
            json["parent"] = parent.id.as_str().into();
        }
        // Not as this library would write it: the bytes must be kept.
        let json = format!(" {json}\n").into_bytes();
        Image { id, json, layer }
    }

    pub fn checksum(&self) -> String {
        let bytes = [&self.json[..], b"\n", &self.layer].concat();
        Algorithm::Sha256.digest(&bytes).to_string()
    }
}

pub fn id(seed: &str) -> String {
    Algorithm::Sha256.digest(seed.as_bytes()).hex()
}

/// Three images, of which the second changes nothing. Base first.
pub fn chain(seed: &str) -> Vec<Image> {
    let name = |part: &str| format!("{seed} {part}");
    let base = Tar::default()
        .directory("etc")
        .file("etc/hosts", b"127.0.0.1 localhost\n")
        .file("etc/gone", b"gone soon")
        .file("program", seed.as_bytes());
    let base = Image::new(&name("base"), None, gzip(&base.finish()));
    let middle = Image::new(&name("middle"), Some(&base), gzip(&Tar::default().finish()));
    let top =
        Tar::default().directory("etc").file("etc/.wh.gone", b"").symlink("etc/link", "hosts");
    let top = Image::new(&name("top"), Some(&middle), gzip(&top.finish()));
    vec![base, middle, top]
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

/// A path of an image.
pub fn at(id: &str, part: &str) -> String {
    format!("/v1/images/{id}/{part}")
}

#[track_caller]
pub fn ok(reply: Reply, what: &str) -> Reply {
    assert!(matches!(reply.status, 200 | 204), "{what}: {} {}", reply.status, reply.text());
    reply
}

/// What a client says before the layers.
pub fn list(images: &[Image]) -> Vec<u8> {
    let ids: Vec<Value> = images.iter().map(|i| json!({"id": i.id})).collect();
    json!(ids).to_string().into_bytes()
}

/// The steps that push one image.
pub fn put_json(registry: &Registry, image: &Image) -> Reply {
    registry.send("PUT", &at(&image.id, "json"), &[], &image.json)
}

pub fn put_layer(registry: &Registry, image: &Image) -> Reply {
    let chunked = [("Transfer-Encoding", "chunked")];
    registry.send("PUT", &at(&image.id, "layer"), &chunked, &image.layer)
}

pub fn put_checksum(registry: &Registry, image: &Image, checksum: &str) -> Reply {
    let headers =
        [("X-Docker-Checksum-Payload", checksum), ("X-Docker-Checksum", "tarsum+sha256:00")];
    registry.send("PUT", &at(&image.id, "checksum"), &headers, b"")
}

pub fn put_tag(registry: &Registry, repository: &str, tag: &str, id: &str) -> Reply {
    let path = format!("/v1/repositories/{repository}/tags/{tag}");
    registry.send("PUT", &path, &[], json!(id).to_string().as_bytes())
}

#[track_caller]
pub fn push_image(registry: &Registry, image: &Image) {
    if registry.get(&at(&image.id, "json")).status == 200 {
        return;
    }
    ok(put_json(registry, image), "json");
    ok(put_layer(registry, image), "layer");
    ok(put_checksum(registry, image, &image.checksum()), "checksum");
}

/// A whole push, base first.
#[track_caller]
pub fn push(registry: &Registry, repository: &str, tag: &str, images: &[Image]) {
    let ping = registry.get("/v1/_ping");
    assert_eq!((ping.status, ping.text().as_str()), (200, "true"));
    let path = format!("/v1/repositories/{repository}/");
    let begin = registry.send("PUT", &path, &[("X-Docker-Token", "true")], &list(images));
    ok(begin, "begin");
    for image in images {
        push_image(registry, image);
    }
    let top = images.last().expect("an image");
    ok(put_tag(registry, repository, tag, &top.id), "tag");
    let path = format!("/v1/repositories/{repository}/images");
    let end = registry.send("PUT", &path, &[], &list(images));
    assert_eq!(end.status, 204, "{}", end.text());
}

/// A whole pull; gives the images, base first.
#[track_caller]
pub fn pull(registry: &Registry, repository: &str, tag: &str) -> Vec<Image> {
    let path = format!("/v1/repositories/{repository}");
    let token = [("X-Docker-Token", "true")];
    let images = registry.send("GET", &format!("{path}/images"), &token, b"");
    let images = ok(images, "images").json();
    let tags = ok(registry.get(&format!("{path}/tags")), "tags").json();
    let top = tags[tag].as_str().expect("the tag").to_owned();
    let known = |id: &str| {
        let images = images.as_array().expect("a list");
        images.iter().any(|image| image["id"] == id)
    };
    assert!(known(&top), "{images} has {top}");
    let ancestry = ok(registry.get(&at(&top, "ancestry")), "ancestry").json();
    let ids = ancestry.as_array().expect("a list").iter().rev();
    let pulled = ids.map(|id| {
        let id = id.as_str().expect("an id");
        assert!(known(id), "{images} has {id}");
        let json = ok(registry.get(&at(id, "json")), "json");
        let document = json.json();
        assert_eq!(document["id"], id);
        let layer = ok(registry.get(&at(id, "layer")), "layer");
        let size = json.header("x-docker-size").expect("a size");
        assert_eq!(size, layer.body.len().to_string());
        Image { id: id.to_owned(), json: json.body, layer: layer.body }
    });
    let pulled: Vec<Image> = pulled.collect();
    assert_eq!(pulled.last().map(|image| image.id.as_str()), Some(&top[..]));
    pulled
}
