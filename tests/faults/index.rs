//! What goes wrong around the index: layers made to hurt, kills while a layer is
//! indexed, damage to blobs and to the index, and several processes at once.

mod beside;
mod bombs;
mod damage;
mod kill;
mod many;

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::write::GzEncoder;
use registry::oci::Digest;
use serde_json::{Value, json};

use crate::common::tar::Tar;
use crate::common::{
    OCI_CONFIG, OCI_MANIFEST, REGISTRY, Registry, Reply, descriptor, image_manifest, noise,
};

const OCI_TAR: &str = "application/vnd.oci.image.layer.v1.tar";

/// Pushes an image; gives the digests of its layers.
fn push(registry: &Registry, name: &str, layers: &[&[u8]]) -> Vec<Digest> {
    let digests: Vec<Digest> = layers.iter().map(|layer| registry.push_blob(name, layer)).collect();
    let config = br#"{"os":"linux","architecture":"amd64","rootfs":{"type":"layers"}}"#;
    let digest = registry.push_blob(name, config);
    let layers: Vec<Value> = digests
        .iter()
        .zip(layers)
        .map(|(digest, layer)| descriptor(OCI_TAR, digest, layer.len()))
        .collect();
    let manifest = image_manifest(&descriptor(OCI_CONFIG, &digest, config.len()), &layers);
    let reply = registry.push_manifest(name, "latest", OCI_MANIFEST, manifest.as_bytes());
    assert_eq!(reply.status, 201, "{name}: {}", reply.text());
    digests
}

fn tree(registry: &Registry, name: &str) -> Reply {
    registry.get(&format!("/v1/images/{name}:latest/tree/?recursive=1"))
}

/// A listing that must come, as JSON.
fn listed(registry: &Registry, name: &str) -> Value {
    let reply = tree(registry, name);
    assert_eq!(reply.status, 200, "{name}: {}", reply.text());
    serde_json::from_slice(&body(&reply)).expect("a listing")
}

/// The body without the framing of chunks; as far as it came.
fn body(reply: &Reply) -> Vec<u8> {
    if reply.header("transfer-encoding") != Some("chunked") {
        return reply.body.clone();
    }
    let (mut rest, mut body) = (&reply.body[..], Vec::new());
    while let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") {
        let length = std::str::from_utf8(&rest[..end]).expect("ASCII");
        let length = usize::from_str_radix(length, 16).expect("a length");
        let Some(piece) = rest.get(end + 2..end + 2 + length) else {
            break;
        };
        body.extend_from_slice(piece);
        rest = rest.get(end + 2 + length + 2..).unwrap_or_default();
    }
    body
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut file = GzEncoder::new(Vec::new(), flate2::Compression::new(4));
    file.write_all(plain).expect("memory");
    file.finish().expect("memory")
}

fn zstd(plain: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; zstd_safe::compress_bound(plain.len())];
    let length = zstd_safe::compress(&mut frame[..], plain, 1).expect("room");
    frame.truncate(length);
    frame
}

/// Five files of 5 MiB: none shares a span with its next but one.
const FILES: [&str; 5] = ["a", "b", "c", "d", "e"];

fn content(file: &str) -> Vec<u8> {
    let mut content = noise(file.as_bytes()[0].into(), 5 << 20);
    // So that it is compressed, into blocks and not stored.
    content.iter_mut().for_each(|byte| *byte &= 0x3f);
    content
}

fn five_files() -> Vec<u8> {
    let tar = Tar::default();
    let tar = FILES.iter().fold(tar, |tar, file| tar.file(file, &content(file)));
    tar.finish()
}

/// Where the bytes of a blob lie.
fn blob(registry: &Registry, digest: &Digest) -> PathBuf {
    let hex = digest.hex();
    let folder = registry.store().join("blobs/sha256").join(&hex[..2]);
    folder.join(&hex[..]).join("data")
}

/// A command beside the server, or without one.
fn command(dir: &Path, arguments: &[&str]) -> Command {
    let (name, rest) = arguments.split_first().expect("a subcommand");
    let mut command = Command::new(REGISTRY);
    command.arg(name).arg("--dir").arg(dir).args(rest);
    command
}

/// Runs a command; gives its exit code, stdout and stderr. Nothing may panic.
fn outcome(dir: &Path, arguments: &[&str]) -> (i32, Vec<u8>, String) {
    let output = command(dir, arguments).output().expect("it starts");
    let stderr = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(!stderr.contains("panicked"), "{arguments:?}: {stderr}");
    let code = output.status.code().expect("no signal ended it");
    (code, output.stdout, stderr)
}

/// What `registry index --json` says of each layer.
fn indexed(dir: &Path, arguments: &[&str]) -> (i32, Value) {
    let (code, stdout, stderr) = outcome(dir, &[&["index", "--json"], arguments].concat());
    let layers = serde_json::from_slice(&stdout);
    (code, layers.unwrap_or_else(|e| panic!("{e}: {stderr}")))
}

/// Seekable copies.
fn copies(dir: &Path) -> Vec<PathBuf> {
    crate::probe::files(&dir.join("seekable"))
}

fn flip(path: &Path, at: usize, length: usize) {
    let mut bytes = fs::read(path).expect("a file");
    for byte in &mut bytes[at..at + length] {
        *byte ^= 0x55;
    }
    fs::write(path, bytes).expect("a file that can be written");
}

fn refusal(reply: &Reply) -> String {
    assert_eq!(reply.status, 422, "{}", reply.text());
    let document = reply.json();
    let reason = document["error"].as_str().expect("a reason");
    assert_eq!(document, json!({"error": reason}));
    reason.to_owned()
}

/// All that comes as the answer to a GET, whole or not.
fn raw(registry: &Registry, path: &str) -> Vec<u8> {
    let mut stream = registry.connect();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .expect("it reads");
    let mut bytes = Vec::new();
    // A connection that is broken off may end in a reset.
    let _ = stream.read_to_end(&mut bytes);
    bytes
}
