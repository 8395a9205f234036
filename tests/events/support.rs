//! What these tests share: a reader of `/v1/events`, and images to push.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;

use flate2::Compression;
use flate2::write::GzEncoder;
use registry::oci::{Algorithm, Digest};
use serde_json::Value;
use tempfile::TempDir;

use crate::common::{
    OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Registry, descriptor, image_manifest, tar,
};

/// Reads `/v1/events`, line by line.
pub struct Listener {
    wire: BufReader<TcpStream>,
    /// Of the chunk that is being read.
    left: usize,
}

impl Listener {
    /// Returns when the server has begun to answer: it misses nothing from then.
    pub fn new(registry: &Registry, query: &str) -> Listener {
        Listener::with(registry, query, "")
    }

    /// The same with more lines for the request's head.
    pub fn with(registry: &Registry, query: &str, headers: &str) -> Listener {
        let mut stream = registry.connect();
        write!(stream, "GET /v1/events{query} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n")
            .unwrap();
        let mut wire = BufReader::new(stream);
        let mut line = String::new();
        wire.read_line(&mut line).unwrap();
        assert_eq!(line, "HTTP/1.1 200 OK\r\n");
        let mut chunked = false;
        while line != "\r\n" {
            line.clear();
            wire.read_line(&mut line).unwrap();
            chunked |= line == "transfer-encoding: chunked\r\n";
        }
        assert!(chunked);
        Listener { wire, left: 0 }
    }

    fn byte(&mut self) -> Option<u8> {
        if self.left == 0 {
            let mut size = String::new();
            self.wire.read_line(&mut size).expect("a chunk");
            self.left = usize::from_str_radix(size.trim(), 16).expect("a chunk's size");
            if self.left == 0 {
                self.wire.read_line(&mut size).expect("the end");
                return None;
            }
        }
        let mut byte = [0];
        self.wire.read_exact(&mut byte).expect("a chunk's bytes");
        self.left -= 1;
        if self.left == 0 {
            let mut end = [0; 2];
            self.wire.read_exact(&mut end).expect("a chunk's end");
        }
        Some(byte[0])
    }

    /// The next line, without its end; `None` at the end of the answer.
    pub fn line(&mut self) -> Option<String> {
        let mut line = Vec::new();
        loop {
            match self.byte() {
                Some(b'\n') => return Some(String::from_utf8(line).expect("UTF-8")),
                Some(byte) => line.push(byte),
                None => {
                    assert!(line.is_empty(), "a line without its end");
                    return None;
                }
            }
        }
    }

    /// The next event, heartbeats left out.
    pub fn event(&mut self) -> Option<Value> {
        loop {
            let line = self.line()?;
            if !line.is_empty() {
                return Some(serde_json::from_str(&line).expect("JSON"));
            }
        }
    }

    /// The next events, without their times, which must not go back.
    pub fn events(&mut self, number: usize) -> Vec<Value> {
        let mut last = jiff::Timestamp::MIN;
        (0..number)
            .map(|_| {
                let mut event = self.event().expect("an event");
                let object = event.as_object_mut().expect("an object");
                let time = object.remove("time").expect("a time");
                let time = time.as_str().expect("text").parse().expect("a time");
                assert!(time >= last, "{time} after {last}");
                last = time;
                event
            })
            .collect()
    }
}

/// An image of one layer.
pub struct Image {
    pub config: Digest,
    pub layer: Digest,
    pub manifest: Digest,
}

/// Pushes an image whose layer is a real one, with one file `name`.
pub fn push(registry: &Registry, repository: &str, tag: &str, name: &str, content: &[u8]) -> Image {
    let archive = tar::Tar::default().file(name, content).finish();
    let mut compressed = GzEncoder::new(Vec::new(), Compression::fast());
    compressed.write_all(&archive).unwrap();
    let layer = compressed.finish().unwrap();
    let diff_id = Algorithm::Sha256.digest(&archive);
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","file":"{name}","rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#
    );
    let manifest = image_manifest(
        &descriptor(OCI_CONFIG, &registry.push_blob(repository, config.as_bytes()), config.len()),
        &[descriptor(OCI_LAYER, &registry.push_blob(repository, &layer), layer.len())],
    );
    let reply = registry.push_manifest(repository, tag, OCI_MANIFEST, manifest.as_bytes());
    assert_eq!(reply.status, 201, "{}", reply.text());
    let digest = |bytes: &[u8]| Algorithm::Sha256.digest(bytes);
    Image {
        config: digest(config.as_bytes()),
        layer: digest(&layer),
        manifest: digest(manifest.as_bytes()),
    }
}

/// Sets many tags on a manifest, as many in one push as there may be.
pub fn tag_all(registry: &Registry, repository: &str, manifest: &[u8], tags: &[String]) {
    let digest = Algorithm::Sha256.digest(manifest);
    for tags in tags.chunks(64) {
        let query: Vec<_> = tags.iter().map(|tag| format!("tag={tag}")).collect();
        let reference = format!("{digest}?{}", query.join("&"));
        let reply = registry.push_manifest(repository, &reference, OCI_MANIFEST, manifest);
        assert_eq!(reply.status, 201, "{}", reply.text());
    }
}

/// The manifest of an image without layers, whose config is pushed.
pub fn bare(registry: &Registry, repository: &str) -> String {
    let config = registry.push_blob(repository, b"{}");
    image_manifest(&descriptor(OCI_CONFIG, &config, 2), &[])
}

/// A folder where a sync costs nothing, for what is not about disks.
pub fn fast_folder() -> TempDir {
    let memory = PathBuf::from("/dev/shm");
    match memory.is_dir() {
        true => TempDir::new_in(memory).expect("a temporary folder"),
        false => TempDir::new().expect("a temporary folder"),
    }
}

/// The value of a metric, 0 where it is not there yet.
pub fn metric(registry: &Registry, line: &str) -> u64 {
    let url = registry.ready.split("metrics on http://").nth(1).expect("a metrics URL");
    let address = url.split('/').next().unwrap().parse().expect("an address");
    let reply = crate::common::send_to(address, "GET", "/metrics", &[], b"").expect("metrics");
    let text = reply.text();
    let found = text.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(' '));
    found.map_or(0, |value| value.parse().expect("a number"))
}

pub const METRICS: [&str; 2] = ["--metrics-listen", "127.0.0.1:0"];
