//! A store whose images are written down member by member.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use registry::image::{Image, Images, Opened, Result};
use registry::index::ids::Ids;
use registry::index::{Index, LayerOptions, Layers, Limits};
use registry::oci::{Algorithm, Contents, Digest, Manifest, Reference, Repository, Tag};
use registry::storage::{Options, Storage};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::common::tar::{self, Tar};
use super::common::{OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, descriptor};
use super::model::{Member, content};

pub struct Store {
    pub storage: Arc<Storage>,
    pub index: Arc<Index>,
    pub images: Arc<Images>,
    pub db: PathBuf,
    images_made: Cell<u32>,
    _dir: TempDir,
}

impl Store {
    pub fn new() -> Store {
        // In memory where there is such a folder: every push waits for the disk.
        let memory = Path::new("/dev/shm");
        let dir = match memory.is_dir() {
            true => TempDir::new_in(memory),
            false => TempDir::new(),
        };
        let dir = dir.expect("a temporary folder");
        let options =
            Options { root: dir.path().join("layers"), read_only: false, sparse_images: false };
        let storage = Arc::new(Storage::open(&options).unwrap());
        let index = Arc::new(Index::open(&dir.path().join("db")).unwrap());
        let options = LayerOptions {
            jobs: 2,
            limits: Limits { entries: 100_000, output: 1 << 30, ratio: 2000, path: 4096 },
            cache: 32 << 20,
        };
        let layers = Layers::new(Arc::clone(&storage), Arc::clone(&index), &options).unwrap();
        Store {
            images: Arc::new(Images::new(Arc::new(layers))),
            storage,
            index,
            db: dir.path().join("db"),
            images_made: Cell::new(0),
            _dir: dir,
        }
    }

    pub fn push_blob(&self, repository: &Repository, bytes: &[u8]) -> Digest {
        let digest = Algorithm::Sha256.digest(bytes);
        let id = self.storage.start_upload(None, repository, Algorithm::Sha256);
        let writer = self.storage.write_upload(repository, id).unwrap();
        let writer = writer.append(&[bytes.to_vec().into()]).unwrap();
        writer.commit(&digest).unwrap();
        digest
    }

    /// As the server does it.
    pub fn push_manifest(&self, repository: &Repository, tag: &str, manifest: &Value) -> Digest {
        let bytes = manifest.to_string().into_bytes();
        let digest = Algorithm::Sha256.digest(&bytes);
        let manifest = Manifest::parse(&bytes, None).unwrap();
        let tags: Vec<Tag> = vec![tag.parse().unwrap()];
        self.storage
            .put_manifest(repository, &tags, &manifest, &digest, &bytes, &|_| false)
            .unwrap();
        let contents = Contents::parse(&bytes).unwrap();
        let chain = self.images.chain_ids(repository, &digest, &contents).unwrap();
        let config = contents.config().copied();
        let ids = Ids { config, chain, holds: contents.holds() };
        self.index.add_images(repository, &digest, &ids).unwrap();
        digest
    }

    /// An image of layers given as tars; the config says `platform` of itself.
    pub fn push_tars(
        &self,
        repository: &Repository,
        tag: &str,
        tars: &[Vec<u8>],
        platform: (&str, &str),
    ) -> Digest {
        let diff_ids: Vec<String> =
            tars.iter().map(|tar| Algorithm::Sha256.digest(tar).to_string()).collect();
        let config = json!({
            "os": platform.0,
            "architecture": platform.1,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        })
        .to_string();
        let config_digest = self.push_blob(repository, config.as_bytes());
        let layers: Vec<Value> = tars
            .iter()
            .map(|tar| descriptor(OCI_LAYER, &self.push_blob(repository, tar), tar.len()))
            .collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor(OCI_CONFIG, &config_digest, config.len()),
            "layers": layers,
        });
        self.push_manifest(repository, tag, &manifest)
    }

    pub fn image_of_tars(&self, tars: &[Vec<u8>]) -> Result<Arc<Image>> {
        let repository = "model".parse().unwrap();
        let number = self.images_made.get();
        self.images_made.set(number + 1);
        let tag = format!("t{number}");
        let digest = self.push_tars(&repository, &tag, tars, ("linux", "amd64"));
        self.images.open_in(&repository, &Reference::Digest(digest), None).map(an_image)
    }

    pub fn image(&self, layers: &[Vec<Member>]) -> Result<Arc<Image>> {
        let tars: Vec<Vec<u8>> = layers.iter().map(|layer| tar(layer)).collect();
        self.image_of_tars(&tars)
    }
}

/// What was opened, which must be an image.
#[track_caller]
pub fn an_image(opened: Opened) -> Arc<Image> {
    match opened {
        Opened::Image(image) => image,
        other => panic!("{other:?} is no image"),
    }
}

/// A layer's bytes.
fn tar(members: &[Member]) -> Vec<u8> {
    let mut tar = Tar::default();
    for member in members {
        tar = match member {
            Member::File(path, seed) => tar.file(path, &content(*seed)),
            Member::Directory(path, mode) => {
                let directory = tar::Member {
                    kind: b'5',
                    mode: 0o700 | u32::from(*mode),
                    ..tar::Member::default()
                };
                tar.member(path, b"", &directory)
            }
            Member::Symlink(path, target) => tar.symlink(path, target),
            Member::Link(path, target) => tar.hard_link(path, target),
            Member::Marker(path) => tar.file(path, b"ignored"),
            Member::Zero(path) => {
                let device = tar::Member { kind: b'3', ..tar::Member::default() };
                tar.member(path, b"", &device)
            }
        };
    }
    tar.finish()
}
