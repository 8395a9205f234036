//! Stores written straight to the disk, in distribution's layout, so that both
//! servers find the same files.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use registry::oci::{Algorithm, Digest};

use crate::client::Content;
use crate::common::{OCI_CONFIG, OCI_LAYER, descriptor, image_manifest};
use crate::image;

/// A `rootdirectory`.
#[derive(Debug)]
pub struct Store {
    pub root: PathBuf,
}

impl Store {
    pub fn new(root: PathBuf) -> io::Result<Store> {
        fs::create_dir_all(root.join("docker/registry/v2/repositories"))?;
        Ok(Store { root })
    }

    fn base(&self) -> PathBuf {
        self.root.join("docker/registry/v2")
    }

    /// Stores a blob; gives its digest.
    pub fn blob(&self, content: Content) -> io::Result<Digest> {
        let digest = content.digest();
        let mut file = self.create_blob(&digest)?;
        content.pieces(|piece| file.write_all(piece))?;
        Ok(digest)
    }

    fn small_blob(&self, bytes: &[u8]) -> io::Result<Digest> {
        let digest = Algorithm::Sha256.digest(bytes);
        self.create_blob(&digest)?.write_all(bytes)?;
        Ok(digest)
    }

    fn create_blob(&self, digest: &Digest) -> io::Result<File> {
        File::create(self.blob_folder(digest)?.join("data"))
    }

    fn blob_folder(&self, digest: &Digest) -> io::Result<PathBuf> {
        let hex = digest.hex();
        let folder = self.base().join("blobs/sha256").join(&hex[..2]).join(&hex);
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// Stores an image of one layer that is a blob already; gives the digest of
    /// its manifest, which no repository names yet.
    pub fn image(&self, layer: &Digest, size: u64) -> io::Result<Image> {
        let config = b"{}";
        let config_digest = self.small_blob(config)?;
        let manifest = image_manifest(
            &descriptor(OCI_CONFIG, &config_digest, config.len()),
            &[descriptor(OCI_LAYER, layer, size as usize)],
        );
        Ok(Image {
            manifest: self.small_blob(manifest.as_bytes())?,
            blobs: vec![config_digest, *layer],
        })
    }

    /// Stores an image whose layers are files, by hard links to them.
    pub fn link_image(&self, image: &image::Image) -> io::Result<Image> {
        let mut blobs = vec![self.small_blob(image.config().as_bytes())?];
        for layer in &image.layers {
            let blob = self.blob_folder(&layer.digest)?.join("data");
            if !blob.exists() {
                fs::hard_link(&layer.path, blob)?;
            }
            blobs.push(layer.digest);
        }
        Ok(Image { manifest: self.small_blob(image.manifest().as_bytes())?, blobs })
    }

    /// Stores a layer; gives its digest and size.
    pub fn layer(&self, bytes: &[u8]) -> anyhow::Result<(Digest, u64)> {
        Ok((self.small_blob(bytes)?, bytes.len() as u64))
    }

    /// Stores an image of layers that are blobs already.
    pub fn image_of(&self, layers: &[(Digest, u64)]) -> io::Result<Image> {
        let config = self.small_blob(b"{}")?;
        let descriptors: Vec<_> = layers
            .iter()
            .map(|(digest, size)| descriptor(OCI_LAYER, digest, *size as usize))
            .collect();
        let manifest = image_manifest(&descriptor(OCI_CONFIG, &config, 2), &descriptors);
        let blobs = layers.iter().map(|(digest, _)| *digest).chain([config]).collect();
        Ok(Image { manifest: self.small_blob(manifest.as_bytes())?, blobs })
    }

    /// The folder of a repository.
    pub fn repository_named(&self, name: &str) -> Repository {
        Repository(self.base().join("repositories").join(name))
    }

    /// Gives an image to a repository under every one of `tags`.
    pub fn repository(&self, name: &str, image: &Image, tags: &[&str]) -> io::Result<()> {
        let repository = self.repository_named(name);
        tags.iter().try_for_each(|tag| repository.tag(image, tag))
    }
}

/// A repository's folder.
#[derive(Debug)]
pub struct Repository(PathBuf);

impl Repository {
    /// Gives the repository the blobs of an image.
    pub fn link(&self, image: &Image) -> io::Result<()> {
        image.blobs.iter().try_for_each(|blob| link(&self.0.join("_layers"), blob))
    }

    /// Gives the repository an image under a tag.
    pub fn tag(&self, image: &Image, tag: &str) -> io::Result<()> {
        self.link(image)?;
        let manifests = self.0.join("_manifests");
        link(&manifests.join("revisions"), &image.manifest)?;
        let tag = manifests.join("tags").join(tag);
        link(&tag.join("index"), &image.manifest)?;
        write_link(&tag.join("current"), &image.manifest)
    }
}

/// What a repository links to.
#[derive(Debug)]
pub struct Image {
    pub manifest: Digest,
    blobs: Vec<Digest>,
}

fn link(folder: &Path, digest: &Digest) -> io::Result<()> {
    write_link(&folder.join("sha256").join(digest.hex()), digest)
}

fn write_link(folder: &Path, digest: &Digest) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    fs::write(folder.join("link"), digest.to_string())
}
