//! What a push means: of blobs, whole, in chunks or by a mount, and of manifests.

use bytes::Bytes;
use uuid::Uuid;

use super::{Caller, Registry, Result};
use crate::docker1::ImageId;
use crate::events::{Event, Kind, Pushed};
use crate::image::Images;
use crate::index::ids::Ids;
use crate::oci::{Algorithm, Contents, Digest, Manifest, Reference, Repository, Tag};
use crate::storage::{Error as StorageError, UploadWriter};

/// A manifest on its way into a repository. Its bytes are valid and hash to its digest.
#[derive(Debug)]
pub struct NewManifest {
    manifest: Manifest,
    digest: Digest,
    bytes: Bytes,
}

impl NewManifest {
    /// Parses what is pushed under `reference`. `media_type` is what the client says of it.
    pub fn parse(
        bytes: Bytes,
        media_type: Option<&str>,
        reference: &Reference,
    ) -> Result<NewManifest> {
        let algorithm = match reference {
            Reference::Digest(digest) => digest.algorithm(),
            Reference::Tag(_) => Algorithm::Sha256,
        };
        let digest = algorithm.digest(&bytes);
        match reference {
            Reference::Digest(expected) if *expected != digest => {
                Err(StorageError::digest_mismatch(expected, &digest).into())
            }
            _ => Ok(NewManifest { manifest: Manifest::parse(&bytes, media_type)?, digest, bytes }),
        }
    }

    pub fn digest(&self) -> Digest {
        self.digest
    }

    pub fn subject(&self) -> Option<Digest> {
        self.manifest.subject
    }
}

/// How images are found.
pub(super) fn ids(
    images: &Images,
    repository: &Repository,
    manifest: &Digest,
    contents: &Contents,
) -> Ids {
    let chain = images.chain_ids(repository, manifest, contents);
    let chain = chain.unwrap_or_else(|error| {
        tracing::warn!(%repository, %manifest, %error, "an image is not shown in the v1 API");
        Vec::new()
    });
    Ids { config: contents.config().copied(), chain, holds: contents.holds() }
}

impl Registry {
    /// Starts an upload whose content will be hashed with `algorithm`. Never blocks.
    pub fn start_upload(
        &self,
        caller: &Caller,
        repository: &Repository,
        algorithm: Algorithm,
    ) -> Uuid {
        self.storage.start_upload(caller.pusher(), repository, algorithm)
    }

    /// The bytes that an upload has received.
    pub fn upload_offset(&self, repository: &Repository, id: Uuid) -> Result<u64> {
        Ok(self.storage.upload_offset(repository, id)?)
    }

    /// Takes an upload to write to it.
    pub fn write_upload(&self, repository: &Repository, id: Uuid) -> Result<UploadWriter> {
        Ok(self.storage.write_upload(repository, id)?)
    }

    pub fn cancel_upload(&self, repository: &Repository, id: Uuid) -> Result<()> {
        Ok(self.storage.cancel_upload(repository, id)?)
    }

    /// Ends an upload: its content becomes the blob `digest` of the repository. Nothing is left of
    /// the upload, also after an error.
    pub fn finish_upload(&self, writer: UploadWriter, digest: &Digest) -> Result<()> {
        let repository = writer.repository().clone();
        if writer.commit(digest)? {
            self.events.arrived(&repository, digest, None);
        }
        Ok(())
    }

    /// Makes a blob of the repository `from` readable in another. `false`: `from` does not hold it,
    /// or the caller may not pull from there.
    pub fn mount_blob(
        &self,
        caller: &Caller,
        to: &Repository,
        digest: &Digest,
        from: &Repository,
    ) -> Result<bool> {
        if !caller.may_pull(from) {
            return Ok(false);
        }
        let mounted = self.storage.mount_blob(to, digest, from)?;
        if mounted == Some(true) {
            self.events.arrived(to, digest, Some(from.clone()));
        }
        Ok(mounted.is_some())
    }

    /// Stores a manifest, points tags at it, and makes it known.
    pub fn push_manifest(
        &self,
        caller: &Caller,
        repository: &Repository,
        tags: &[Tag],
        new: &NewManifest,
    ) -> Result<()> {
        self.publish(caller, repository, tags, new, None)
    }

    /// `image`: what the first API tags, which has published its other events before.
    pub(super) fn publish(
        &self,
        caller: &Caller,
        repository: &Repository,
        tags: &[Tag],
        new: &NewManifest,
        image: Option<&ImageId>,
    ) -> Result<()> {
        let NewManifest { manifest, digest, bytes } = new;
        let (storage, index, layers) = (&self.storage, self.index(), self.layers());
        // A refused push must not leave a name in the catalog, which keeps names for good.
        storage.check_manifest(repository, manifest)?;
        if storage.has_dead_tags(repository, digest)? {
            self.finish_deletes(repository)?;
        }
        let changing = index.changing();
        index.add_repository(repository)?;
        let rules = self.retention();
        let is_immutable =
            |tag: &Tag| rules.as_ref().is_some_and(|rules| rules.is_immutable(repository, tag));
        storage.put_manifest(repository, tags, manifest, digest, bytes, &is_immutable)?;
        // The collector may have found the repository empty in between.
        index.add_repository(repository)?;
        let known = match Contents::parse(bytes) {
            Ok(contents) => {
                let ids = ids(&self.images, repository, digest, &contents);
                index.add_images(repository, digest, &ids)
            }
            // It has nothing to look into.
            Err(_) => Ok(()),
        };
        if let Err(error) = known {
            tracing::error!(
                %repository, %digest, %error, "a pushed image is not found by its ids until the next start"
            );
        }
        drop(changing);
        // The first blob is the config.
        let base_first = manifest.blobs.get(1..).unwrap_or_default();
        let missing = layers.missing(base_first.iter().copied()).unwrap_or_else(|error| {
            tracing::error!(%repository, %digest, %error, "cannot index a pushed image");
            Vec::new()
        });
        self.events.indexing(&missing, repository, &caller.cause);
        let (media_type, length) = (manifest.media_type.as_str(), bytes.len() as u64);
        if let Some(image) = image {
            for tag in tags {
                let event = Event::new(Kind::Tag, image.to_string(), &caller.cause).digest(digest);
                self.events.publish(Event {
                    media_type: Some(media_type),
                    size: Some(length),
                    ..event.repository(repository).tag(tag)
                });
            }
        } else {
            let config = manifest.blobs.first();
            let pushed = Pushed {
                repository,
                digest,
                media_type,
                size: length,
                config: config.filter(|_| !manifest.media_type.is_index()),
                layers: base_first,
                tags,
            };
            let size = |layer: &Digest| storage.blob_size(repository, layer).ok();
            self.events.pushed(pushed, size, &caller.cause);
        }
        layers.index_later(missing);
        Ok(())
    }
}
