//! Indexes the layers of images ahead of time, or again.

use std::collections::HashSet;

use crate::image::{self, Id, Images};
use crate::index;
use crate::index::records::State;
use crate::oci::{Contents, Digest, Reference, Repository};
use crate::storage::{self, Storage};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Image(#[from] image::Error),
    #[error(transparent)]
    Storage(#[from] storage::Error),
    #[error("{image}: {cause}")]
    Manifest { image: String, cause: crate::oci::ManifestError },
}

/// What became of a layer.
#[derive(Debug)]
pub enum Outcome {
    /// `size` is in bytes of the tar stream.
    Indexed { entries: u64, size: u64, diff_id: Digest },
    /// The layer is no tar archive, or is beyond a limit; the reason is a sentence for users.
    Refused(String),
}

/// Indexes a layer, also one that has an index already if `force` is set. `progress` is called with
/// the number of the blob's bytes that are done.
pub fn index(
    images: &Images,
    layer: &Digest,
    force: bool,
    progress: impl FnMut(u64),
) -> index::Result<Outcome> {
    Ok(match images.layers().index_now(layer, force, progress)? {
        State::Ready(record) => Outcome::Indexed {
            entries: record.entries,
            size: record.uncompressed,
            diff_id: Digest::Sha256(record.diff_id),
        },
        State::Refused(reason) => Outcome::Refused(reason),
    })
}

/// The layers of images, base layers first, each once, with its size in bytes.
#[derive(Debug, Default)]
pub struct Selection {
    pub layers: Vec<(Digest, u64)>,
    seen_layers: HashSet<Digest>,
    seen_manifests: HashSet<(Repository, Digest)>,
}

impl Selection {
    /// Adds the layers of an image; of an index, those of all its images that are stored.
    pub fn add(&mut self, images: &Images, id: &Id) -> Result<(), Error> {
        let (repository, reference) = images.locate(id, &|_| true)?;
        self.manifest(images.layers().storage(), &repository, &reference)
    }

    /// Adds the layers of all images of the store. `skipped` is called for each manifest that is
    /// damaged, or of a kind that has no layers.
    pub fn add_all(
        &mut self,
        images: &Images,
        mut skipped: impl FnMut(&Repository, &Digest, &Error),
    ) -> Result<(), Error> {
        let storage = images.layers().storage();
        let mut repositories = Vec::new();
        storage.walk(|repository| {
            repositories.push(repository.clone());
            Ok::<_, storage::Error>(())
        })?;
        repositories.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        for repository in repositories {
            for digest in storage.revisions(&repository)? {
                let reference = Reference::Digest(digest);
                if let Err(error) = self.manifest(storage, &repository, &reference) {
                    skipped(&repository, &digest, &error);
                }
            }
        }
        Ok(())
    }

    fn manifest(
        &mut self,
        storage: &Storage,
        repository: &Repository,
        reference: &Reference,
    ) -> Result<(), Error> {
        let mut left = vec![reference.clone()];
        while let Some(next) = left.pop() {
            let stored = match storage.manifest(repository, &next) {
                Ok(stored) => stored,
                // An index may name images that are not stored.
                Err(storage::Error::ManifestUnknown { .. }) if next != *reference => continue,
                Err(error) => return Err(error.into()),
            };
            if !self.seen_manifests.insert((repository.clone(), stored.digest)) {
                continue;
            }
            let contents = Contents::parse(&stored.bytes).map_err(|cause| Error::Manifest {
                image: format!("{repository}@{}", stored.digest),
                cause,
            })?;
            match contents {
                Contents::Index { children } => {
                    left.extend(children.iter().rev().map(|c| Reference::Digest(c.digest)));
                }
                Contents::Image { layers, .. } => {
                    for layer in layers {
                        let blob = match storage.open_content(&layer.digest)? {
                            None if layer.foreign => continue,
                            blob => blob,
                        };
                        if self.seen_layers.insert(layer.digest) {
                            self.layers.push((layer.digest, blob.map_or(0, |blob| blob.size)));
                        }
                    }
                }
            }
        }
        Ok(())
    }
}
