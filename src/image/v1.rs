//! Images by the ids of the first API, whichever way they were pushed. An id means something in a
//! repository only; a client that may read none of the repositories that have it does not learn that
//! it exists.

use bytes::Bytes;

use super::resolve::{Images, Leaf, ROWS};
use super::{Error, Platform, Result};
use crate::docker1::ImageId;
use crate::docker1::from_manifest::Chain;
use crate::index::ids::IdKind;
use crate::oci::{Contents, Digest, Reference, Repository};
use crate::storage;

/// Rows of one id in permitted repositories that are looked at: as many manifests that share a
/// base.
const ROWS_MAX: usize = 1000;

/// What an id means, and where it may be read.
#[derive(Clone, Debug)]
pub struct Shown {
    pub repository: Repository,
    pub manifest: Digest,
    pub origin: Origin,
}

/// How a manifest and the images of the first API that it has came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The manifest was made of images that were pushed as such.
    Made,
    /// The images are derived from the manifest.
    Derived,
}

impl Images {
    /// Finds an image in the repositories that are `permitted`. A derived image goes first: its id
    /// is made of its content, whereas anybody may push another image under any id.
    ///
    /// Anybody may push a manifest that says it was made of an image, so a repository counts for
    /// that only if it `shows` the image, which means that it holds the layers.
    pub fn find_v1<E: From<Error>>(
        &self,
        id: &ImageId,
        permitted: &dyn Fn(&Repository) -> bool,
        shows: &dyn Fn(&Repository) -> Result<bool, E>,
    ) -> Result<Option<Shown>, E> {
        let (prefix, storage) = (id.to_string(), self.layers().storage());
        let (mut from, mut seen, mut made) = (prefix.clone(), 0, None);
        'pages: while seen < ROWS_MAX {
            let rows = self.layers().index().find_images(&prefix, &from, ROWS);
            let rows = rows.map_err(Error::from)?;
            if rows.is_empty() {
                break;
            }
            for row in rows {
                from = row.after();
                if row.kind != IdKind::V1 {
                    continue;
                }
                // Hidden repositories do not count against the bound: otherwise somebody could hide
                // an image by pushing what shares its base.
                if !permitted(&row.repository) {
                    from = row.after_repository();
                    continue 'pages;
                }
                seen += 1;
                let held = storage.holds_manifest(&row.repository, &row.manifest);
                if !held.map_err(Error::from)? {
                    continue;
                }
                let shown = |origin| Shown {
                    repository: row.repository.clone(),
                    manifest: row.manifest,
                    origin,
                };
                if storage.made_of(&row.manifest).map_err(Error::from)?.is_none() {
                    return Ok(Some(shown(Origin::Derived)));
                }
                if made.is_none() && shows(&row.repository)? {
                    made = Some(shown(Origin::Made));
                }
            }
        }
        Ok(made)
    }

    /// The id of what a tag or a digest names. An index stands for its image for the
    /// host, or for linux/amd64. `None`: it cannot be shown in the first API.
    pub fn v1_id(&self, repository: &Repository, reference: &Reference) -> Result<Option<ImageId>> {
        Ok(self.v1_chain(repository, reference, true)?.pop())
    }

    /// The ids of what a tag or a digest names and of its ancestors, base first.
    pub fn v1_ids(&self, repository: &Repository, reference: &Reference) -> Result<Vec<ImageId>> {
        self.v1_chain(repository, reference, false)
    }

    fn v1_chain(
        &self,
        repository: &Repository,
        reference: &Reference,
        top_only: bool,
    ) -> Result<Vec<ImageId>> {
        let storage = self.layers().storage();
        let mut stored = storage.manifest(repository, reference)?;
        let Ok(mut contents) = Contents::parse(&stored.bytes) else {
            return Ok(Vec::new());
        };
        if matches!(contents, Contents::Index { .. }) {
            let amd64 = Platform::new("linux", "amd64", "");
            let leaf = match self.leaf(repository, &stored, None) {
                Err(Error::NoPlatform { .. }) => self.leaf(repository, &stored, Some(&amd64)),
                leaf => leaf,
            };
            let digest = match leaf {
                Ok(Leaf { digest, .. }) => digest,
                // What there is cannot be shown, and stays so.
                Err(
                    Error::NoPlatform { .. }
                    | Error::Nesting { .. }
                    | Error::Manifest { .. }
                    | Error::Storage(storage::Error::ManifestUnknown { .. })
                    | Error::Storage(storage::Error::BlobUnknown { .. }),
                ) => return Ok(Vec::new()),
                Err(e) => return Err(e),
            };
            stored = storage.manifest(repository, &Reference::Digest(digest))?;
            contents = match Contents::parse(&stored.bytes) {
                Ok(contents) => contents,
                Err(_) => return Ok(Vec::new()),
            };
        }
        if top_only && let Some(id) = self.layers().index().v1_id(repository, &stored.digest)? {
            return Ok(vec![id]);
        }
        let ids = self.chain_ids(repository, &stored.digest, &contents)?;
        Ok(ids.into_iter().map(|(id, _)| id).collect())
    }

    /// The images that an image manifest is shown as, and its config. `None`: it cannot be shown in
    /// the first API.
    pub fn chain(
        &self,
        repository: &Repository,
        contents: &Contents,
    ) -> Result<Option<(Chain, Bytes)>, storage::Error> {
        let Contents::Image { config, layers } = contents else {
            return Ok(None);
        };
        let layers: Vec<Digest> = layers.iter().map(|layer| layer.digest).collect();
        // An id would be as good as the layer, so ids are derived only where the layers may be read.
        for layer in &layers {
            match self.layers().storage().blob_size(repository, layer) {
                Ok(_) => {}
                Err(storage::Error::BlobUnknown { .. }) => return Ok(None),
                Err(e) => return Err(e),
            }
        }
        let chain = |bytes: Bytes| Chain::new(&bytes, &layers).map(|chain| (chain, bytes));
        match self.config(repository, config, chain) {
            Ok(chain) => Ok(chain.flatten()),
            Err(storage::Error::BlobUnknown { .. } | storage::Error::DigestMismatch { .. }) => {
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    /// The ids of a manifest's image and its ancestors, base first, each with how many of the
    /// manifest's layers it consists of. Empty where it cannot be shown in the first API.
    pub fn chain_ids(
        &self,
        repository: &Repository,
        manifest: &Digest,
        contents: &Contents,
    ) -> Result<Vec<(ImageId, usize)>, storage::Error> {
        let storage = self.layers().storage();
        let Some(top) = storage.made_of(manifest)? else {
            let chain = self.chain(repository, contents)?;
            let links = chain.map_or(Vec::new(), |(chain, _)| chain.0);
            return Ok(links.iter().map(|link| (link.id, link.layers)).collect());
        };
        let Contents::Image { layers, .. } = contents else {
            return Ok(Vec::new());
        };
        let mut rest = layers.iter().map(|layer| layer.digest).peekable();
        let (mut ids, mut count) = (Vec::new(), 0);
        for id in storage.ancestry(&top)?.into_iter().rev() {
            let image = storage.image(&id)?.ok_or(storage::Error::ImageUnknown(id))?;
            // A layer that the manifest does not have was left out because it is empty.
            if rest.next_if_eq(&image.layer).is_some() {
                count += 1;
            }
            ids.push((id, count));
        }
        Ok(ids)
    }

    /// For each layer, the id of the image that came with it.
    pub(super) fn layer_ids(&self, repository: &Repository, leaf: &Leaf) -> Result<Vec<String>> {
        let storage = self.layers().storage();
        let stored = storage.manifest(repository, &Reference::Digest(leaf.digest))?;
        let Ok(contents) = Contents::parse(&stored.bytes) else {
            return Ok(Vec::new());
        };
        let mut ids = Vec::new();
        for (id, layers) in self.chain_ids(repository, &leaf.digest, &contents)? {
            if layers > ids.len() {
                ids.push(id.to_string());
            }
        }
        Ok(ids)
    }
}
