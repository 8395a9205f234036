//! What Docker's first API means: tags are those of the second API, and name images by ids that
//! clients chose, or that are derived from manifests.

mod image;
mod tag;

use std::collections::{BTreeMap, HashSet};
use std::time::UNIX_EPOCH;

use serde::Deserialize;

use super::{Registry, Result, StorageError};
use crate::docker1::{ImageId, to_manifest};
use crate::image::LATEST;
use crate::index;
use crate::index::records::Layer;
use crate::layer::codec::Compression;
use crate::oci::{Algorithm, Contents, Digest, Reference, Repository, Tag};

pub use image::{ImageJson, LayerFiles};

/// Tags of one repository that are listed, because the API knows no pages.
pub const TAGS_MAX: usize = 100_000;
/// Ids in the list of a repository's images.
const IDS_MAX: usize = 10_000;

/// What is known of a tag.
#[derive(Debug, Default)]
pub struct TagFacts {
    /// When it was set, in seconds since 1970. `None`: there is no such tag.
    pub set: Option<u64>,
    pub docker_version: Option<String>,
    pub architecture: Option<String>,
    pub os: Option<String>,
}

impl Registry {
    /// The id of what a tag names. `None`: there is no such tag, or the first API cannot show it.
    pub fn v1_id(&self, repository: &Repository, tag: &Tag) -> Result<Option<ImageId>> {
        let id = self.images.v1_id(repository, &Reference::Tag(tag.clone()));
        known(id.map_err(Into::into)).map(Option::flatten)
    }

    /// The tags of a repository that the first API can show, with their ids.
    pub fn v1_tags(&self, repository: &Repository) -> Result<BTreeMap<String, ImageId>> {
        let mut tags = BTreeMap::new();
        for tag in self.tags(repository, "", TAGS_MAX)?.items {
            if let Some(id) = self.v1_id(repository, &tag)? {
                tags.insert(tag.as_str().to_owned(), id);
            }
        }
        Ok(tags)
    }

    /// The ids of the images that a repository's tags name, and of their ancestors.
    pub fn v1_ids(&self, repository: &Repository) -> Result<Vec<ImageId>> {
        let (mut ids, mut seen) = (Vec::new(), HashSet::new());
        for tag in self.tags(repository, "", TAGS_MAX)?.items {
            let chain = self.images.v1_ids(repository, &Reference::Tag(tag));
            let chain = known(chain.map_err(Into::into))?.unwrap_or_default();
            ids.extend(chain.into_iter().rev().filter(|id| seen.insert(*id)));
            if ids.len() >= IDS_MAX {
                tracing::warn!(%repository, "the list of images in the v1 API is cut short");
                break;
            }
        }
        Ok(ids)
    }

    /// What is known of a tag. Without one, of `latest`, which need not exist.
    pub fn tag_facts(&self, repository: &Repository, tag: Option<&Tag>) -> Result<TagFacts> {
        match tag {
            Some(tag) => self.facts_of(repository, tag),
            None if self.storage.repository_exists(repository)? => {
                Ok(known(self.facts_of(repository, &LATEST.parse().expect("a valid tag")))?
                    .unwrap_or_default())
            }
            None => Err(StorageError::RepositoryUnknown(repository.clone()).into()),
        }
    }

    fn facts_of(&self, repository: &Repository, tag: &Tag) -> Result<TagFacts> {
        #[derive(Default, Deserialize)]
        struct Config {
            docker_version: Option<String>,
            architecture: Option<String>,
            os: Option<String>,
        }
        let set = self.storage.tag_time(repository, tag)?;
        let set = set.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let stored = self.storage.manifest(repository, &Reference::Tag(tag.clone()))?;
        let contents = Contents::parse(&stored.bytes);
        let mut facts = TagFacts { set: Some(set), ..TagFacts::default() };
        if let Ok(contents) = contents
            && let Some(digest) = contents.config()
        {
            let parse = |bytes: bytes::Bytes| serde_json::from_slice(&bytes).unwrap_or_default();
            let config = self.images.config(repository, digest, parse)?;
            // The config of an artifact says nothing of this.
            let Config { docker_version, architecture, os } = config.unwrap_or_default();
            facts = TagFacts { docker_version, architecture, os, ..facts };
        }
        Ok(facts)
    }

    /// Whether only clients with a name may read a repository.
    pub fn is_private(&self, repository: &Repository) -> Result<bool> {
        self.existing(repository)?;
        Ok(self.storage.is_private(repository)?)
    }

    pub fn set_private(&self, repository: &Repository, private: bool) -> Result<()> {
        self.existing(repository)?;
        Ok(self.storage.set_private(repository, private)?)
    }

    fn existing(&self, repository: &Repository) -> Result<()> {
        match self.storage.repository_exists(repository)? {
            true => Ok(()),
            false => Err(StorageError::RepositoryUnknown(repository.clone()).into()),
        }
    }

    /// Whether a repository holds the layer of an image that it shows. Manifests that are made of
    /// images leave out layers without members, which have nothing to hide.
    fn holds(&self, repository: &Repository, layer: &Digest) -> Result<bool> {
        match self.storage.blob_size(repository, layer) {
            Ok(_) => Ok(true),
            Err(StorageError::BlobUnknown { .. }) => match self.layers().ready(layer) {
                Ok(indexed) => Ok(described(layer, &indexed.record).empty),
                Err(index::Error::Refused { .. } | index::Error::Missing(_)) => Ok(false),
                Err(e) => Err(e.into()),
            },
            Err(e) => Err(e.into()),
        }
    }
}

/// `None` where the manifest is not there, which may have been deleted meanwhile.
fn known<T>(found: Result<T>) -> Result<Option<T>> {
    match found {
        Err(error) if error.is_manifest_unknown() => Ok(None),
        found => found.map(Some),
    }
}

fn described(digest: &Digest, record: &Layer) -> to_manifest::Layer {
    let diff_id = Digest::Sha256(record.diff_id);
    to_manifest::Layer {
        digest: *digest,
        size: record.compressed,
        compressed: record.compression != Compression::None,
        diff_id,
        empty: record.entries == 0 && is_zeros(record.uncompressed, &diff_id),
    }
}

/// Whether a tar stream of this length and digest is one without members. The number of entries
/// does not tell, because whiteouts are members and no entries.
fn is_zeros(length: u64, diff_id: &Digest) -> bool {
    const LONGEST: u64 = 1 << 20;
    let length = usize::try_from(length.min(LONGEST + 1)).unwrap_or(usize::MAX);
    length as u64 <= LONGEST && Algorithm::Sha256.digest(&vec![0; length]) == *diff_id
}
