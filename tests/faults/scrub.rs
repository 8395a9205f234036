//! `registry scrub`: one thing of a store is damaged, and exactly that is found.

mod beside;
mod index;
mod store;

#[allow(dead_code, reason = "the tests of the first API use all of it")]
#[path = "../v1/client.rs"]
mod v1;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use flate2::write::GzEncoder;
use registry::oci::{Algorithm, Digest};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::tar::Tar;
use crate::common::{
    OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, REGISTRY, Registry, descriptor, eventually,
    image_manifest, noise, run,
};

const V2: &str = "layers/docker/registry/v2";
const V1: &str = "layers/docker/registry/v1";

/// What the store of these tests holds: an image in two repositories, with an index and a referrer,
/// and an image of the first API.
struct Store {
    dir: TempDir,
    /// A layer of some spans.
    gzip: Digest,
    /// A layer with a seekable copy.
    zstd: Digest,
    config: Digest,
    manifest: Digest,
    referrer: Digest,
    /// The top image of the first API, and its layer.
    v1: v1::Image,
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut file = GzEncoder::new(Vec::new(), flate2::Compression::new(4));
    file.write_all(plain).expect("memory");
    file.finish().expect("memory")
}

/// One frame that is too long to be decoded as a whole.
fn zstd(plain: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; zstd_safe::compress_bound(plain.len())];
    let length = zstd_safe::compress(&mut frame[..], plain, 1).expect("room");
    frame.truncate(length);
    frame
}

const CONFIG: &str = r#"{"os":"linux","architecture":"amd64","rootfs":{"type":"layers"}}"#;

/// A layer of some spans.
fn gzip_layer() -> Vec<u8> {
    let mut content = noise(7, 5 << 20);
    content.iter_mut().for_each(|byte| *byte &= 0x3f);
    let tar = Tar::default().directory("etc").file("etc/hosts", b"127.0.0.1 localhost\n");
    let tar = tar.file("etc/big", &content).hard_link("etc/link", "etc/hosts");
    gzip(&tar.finish())
}

/// A layer that cannot be sought in.
fn zstd_layer() -> Vec<u8> {
    let content: Vec<u8> = (0..4_800_000_u32).flat_map(u32::to_le_bytes).collect();
    zstd(&Tar::default().directory("usr").file("usr/large", &content).finish())
}

impl Store {
    /// The store is made once, and copied.
    fn copy() -> Store {
        static FIRST: OnceLock<Store> = OnceLock::new();
        let first = FIRST.get_or_init(Store::make);
        let dir = TempDir::new().expect("a temporary folder");
        let from = format!("{}/.", first.dir.path().display());
        run(Command::new("cp").args(["-a", &from]).arg(dir.path()));
        Store { dir, v1: first.v1.clone(), ..*first }
    }

    fn make() -> Store {
        let dir = TempDir::new().expect("a temporary folder");
        let mut registry = Registry::start_in(dir.path(), &[]);
        let (gzip, zstd) = (gzip_layer(), zstd_layer());
        let name = "team/app";
        let mut layers = Vec::new();
        for layer in [&gzip, &zstd] {
            layers.push(descriptor(OCI_LAYER, &registry.push_blob(name, layer), layer.len()));
        }
        let config = registry.push_blob(name, CONFIG.as_bytes());
        let text = image_manifest(&descriptor(OCI_CONFIG, &config, CONFIG.len()), &layers);
        let manifest = Algorithm::Sha256.digest(text.as_bytes());
        for layer in [&gzip, &zstd] {
            registry.push_blob("team/other", layer);
        }
        registry.push_blob("team/other", CONFIG.as_bytes());
        for name in [name, "team/other"] {
            let reply = registry.push_manifest(name, "1", OCI_MANIFEST, text.as_bytes());
            assert_eq!(reply.status, 201, "{}", reply.text());
        }
        let child = descriptor(OCI_MANIFEST, &manifest, text.len());
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [child]});
        let reply = registry.push_manifest(name, "all", OCI_INDEX, index.to_string().as_bytes());
        assert_eq!(reply.status, 201, "{}", reply.text());
        let subject = descriptor(OCI_MANIFEST, &manifest, text.len());
        let referrer = registry.push_artifact(
            name,
            "signed",
            ("application/vnd.example.signature", "{}"),
            &[("text/plain", "signature", None)],
            json!({"subject": subject}),
        );
        let images = v1::chain("scrub");
        v1::push(&registry, "old/image", "1", &images);
        for image in [name, "team/other", "old/image"] {
            let path = format!("/v1/images/{image}:1/tree/");
            let reply = registry.get(&path);
            assert_eq!(reply.status, 200, "{image} is indexed: {}", reply.text());
        }
        assert!(registry.stop().success());
        // The next start compares the catalog with the store.
        std::fs::remove_file(dir.path().join("log")).expect("the log of the first run");
        let mut registry = Registry::start_in(dir.path(), &[]);
        eventually("it has", || registry.log().contains("the index knows what is stored"));
        assert!(registry.stop().success());
        let digest = |bytes: &[u8]| Algorithm::Sha256.digest(bytes);
        let (gzip, zstd) = (digest(&gzip), digest(&zstd));
        let v1 = images[0].clone();
        Store { dir, gzip, zstd, config, manifest, referrer, v1 }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.path(&format!("{V2}/blobs/sha256/{}/{hex}/data", &hex[..2]))
    }

    fn aside(&self, digest: &Digest) -> PathBuf {
        self.path(&format!("{V2}/_damaged/sha256/{}", digest.hex()))
    }

    fn repository(&self, name: &str, path: &str) -> PathBuf {
        self.path(&format!("{V2}/repositories/{name}/{path}"))
    }

    fn v1_image(&self, file: &str) -> PathBuf {
        let id = &self.v1.id;
        self.path(&format!("{V1}/images/{}/{id}/{file}", &id[..2]))
    }
}

fn command(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(REGISTRY);
    command.args(["scrub", "--dir"]).arg(dir).args(arguments);
    command.stdin(Stdio::null());
    command
}

/// What a scrub reports.
struct Report {
    document: Value,
    findings: Vec<Value>,
}

/// Scrubs, beside a server or without one.
fn scrub(dir: &Path) -> Report {
    let output = command(dir, &["--rate", "0", "--json"]).output().expect("it starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!stderr.contains("panicked"), "{stderr}");
    let document: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {:?} {stderr}", output.status));
    let findings = document["findings"].as_array().expect("a list").clone();
    let code = i32::from(!findings.is_empty());
    assert_eq!(output.status.code(), Some(code), "{document:#} {stderr}");
    Report { document, findings }
}

/// Scrubs and expects exactly one finding.
#[track_caller]
fn one(dir: &Path, kind: &str) -> Value {
    let findings = scrub(dir).findings;
    assert_eq!(findings.len(), 1, "want {kind}: {findings:#?}");
    assert_eq!(findings[0]["kind"], kind, "{findings:#?}");
    findings[0].clone()
}

#[track_caller]
fn sound(dir: &Path) {
    let findings = scrub(dir).findings;
    assert!(findings.is_empty(), "{findings:#?}");
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).expect("a file");
    bytes[at] ^= 1;
    // In place, as a disk does it.
    fs::write(path, bytes).expect("a file that can be written");
}
