//! Images of the first API, part by part. They belong to no repository. A caller may read an image
//! if the caller may read a repository that shows it. Before an image has a tag, its pusher alone
//! may use it as the base of another image.

use std::sync::Arc;

use bytes::Bytes;

use crate::docker1::from_manifest::Chain;
use crate::docker1::{self, CHAIN_MAX, EMPTY_LAYER, ImageId, Place, empty_layer};
use crate::events::{Event, Kind};
use crate::image::{Entry, Origin, Shown};
use crate::index::IndexedLayer;
use crate::oci::{Contents, Digest, Reference, Repository};
use crate::registry::{Caller, Error, Registry, Result, StorageError};
use crate::storage::Blob;
use crate::storage::docker1::{LayerUpload, Pusher, StoredImage};

/// An image that the caller may see.
enum Found {
    /// Pushed as such; with the repository that shows it, or without one if the caller has pushed
    /// it and it has no tag yet.
    Stored(StoredImage, Option<Repository>),
    /// One of the images that are derived from a manifest.
    Derived { repository: Repository, chain: Chain, config: Bytes, at: usize },
}

impl Found {
    fn layer(&self) -> Digest {
        match self {
            Found::Stored(image, _) => image.layer,
            Found::Derived { chain, at, .. } => chain.0[*at].layer.unwrap_or_else(empty_layer),
        }
    }
}

/// An image's JSON.
#[derive(Debug)]
pub struct ImageJson {
    pub json: Vec<u8>,
    /// Bytes of its layer.
    pub size: u64,
    /// What its push was checked against.
    pub checksum: Option<Digest>,
}

impl Registry {
    fn find(&self, caller: &Caller, id: &ImageId) -> Result<Option<Found>> {
        let image = self.storage.tell_image(id)?;
        let shows = |repository: &Repository| match &image {
            Some(image) => self.holds(repository, &image.layer),
            None => Ok(false),
        };
        let shown = self.images.find_v1(id, &|other| caller.may_pull(other), &shows)?;
        let Some(Shown { repository, manifest, origin: Origin::Derived }) = shown else {
            let Some(image) = image else { return Ok(None) };
            let shown = shown.map(|shown| shown.repository);
            let readable = match (&shown, caller.pusher()) {
                (None, Some(pusher)) => self.storage.has_pushed(&pusher, id)?,
                (shown, _) => shown.is_some(),
            };
            return Ok(readable.then_some(Found::Stored(image, shown)));
        };
        let stored = self.storage.manifest(&repository, &Reference::Digest(manifest))?;
        let chain = self.images.chain(&repository, &Contents::parse(&stored.bytes)?)?;
        Ok(chain.and_then(|(chain, config)| {
            let at = chain.position(id)?;
            Some(Found::Derived { repository, chain, config, at })
        }))
    }

    fn open_image(&self, caller: &Caller, id: &ImageId) -> Result<Found> {
        Ok(self.find(caller, id)?.ok_or(StorageError::ImageUnknown(*id))?)
    }

    /// Whether the caller sees the image, and all of it is here. One whose layer was lost can be
    /// pushed again.
    fn has_image(&self, caller: &Caller, id: &ImageId) -> Result<bool> {
        let Some(found) = self.find(caller, id)? else {
            return Ok(false);
        };
        match self.open_layer(&found, id) {
            Ok(_) => Ok(true),
            Err(Error::Storage(StorageError::ImageUnknown(_))) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// The layer, for its size. `None`: it is the empty one, which need not be in the store.
    fn open_layer(&self, found: &Found, id: &ImageId) -> Result<Option<Blob>> {
        Ok(match found {
            Found::Stored(image, _) => Some(self.storage.open_layer(id, &image.layer)?),
            Found::Derived { repository, chain, at, .. } => match &chain.0[*at].layer {
                Some(layer) => Some(self.storage.open_blob(repository, layer)?),
                None => None,
            },
        })
    }

    /// The layer, for its content: only for a caller that may read it in a repository. To have
    /// pushed it is not enough, because its tag or the caller's rights may be gone.
    fn read_layer(&self, caller: &Caller, found: &Found, id: &ImageId) -> Result<Option<Blob>> {
        match found {
            Found::Stored(_, None) if !caller.may_read_all() => {
                Err(StorageError::ImageUnknown(*id).into())
            }
            Found::Stored(..) | Found::Derived { .. } => self.open_layer(found, id),
        }
    }

    pub fn image_json(&self, caller: &Caller, id: &ImageId) -> Result<ImageJson> {
        let found = self.open_image(caller, id)?;
        let layer = self.open_layer(&found, id)?;
        let size = layer.map_or(EMPTY_LAYER.len() as u64, |layer| layer.size);
        Ok(match found {
            Found::Stored(image, _) => {
                ImageJson { json: image.json, size, checksum: image.checksum }
            }
            Found::Derived { chain, config, at, .. } => {
                ImageJson { json: chain.json(at, &config)?, size, checksum: None }
            }
        })
    }

    /// The ids of an image and its ancestors, its own first.
    pub fn image_ancestry(&self, caller: &Caller, id: &ImageId) -> Result<Vec<ImageId>> {
        Ok(match self.open_image(caller, id)? {
            Found::Stored(..) => self.storage.ancestry(id)?,
            Found::Derived { chain, at, .. } => chain.ancestry(at),
        })
    }

    /// An image's layer. Without a blob it is [`EMPTY_LAYER`].
    pub fn image_layer(&self, caller: &Caller, id: &ImageId) -> Result<(Digest, Option<Blob>)> {
        let found = self.open_image(caller, id)?;
        Ok((found.layer(), self.read_layer(caller, &found, id)?))
    }

    /// What an image's own layer has.
    pub fn image_files(self: &Arc<Self>, caller: &Caller, id: &ImageId) -> Result<LayerFiles> {
        let found = self.open_image(caller, id)?;
        // The empty layer need not be in the store.
        let layer = match self.read_layer(caller, &found, id)? {
            Some(_) => Some(self.layers().ready(&found.layer())?),
            None => None,
        };
        let page = Vec::new().into_iter();
        Ok(LayerFiles { registry: Arc::clone(self), layer, last: None, page })
    }

    /// Begins the push of an image, or begins it again.
    pub fn put_image_json(&self, caller: &Caller, id: &ImageId, json: &[u8]) -> Result<()> {
        let pusher = named(caller)?;
        let place = Place::parse(json, id)?;
        if self.has_image(caller, id)? {
            return Err(StorageError::ImageExists(*id).into());
        }
        if let Some(parent) = &place.parent {
            self.build_on(caller, parent)?;
        }
        self.storage.put_image_json(&pusher, &place, json)?;
        let event = Event::new(Kind::Image, id.to_string(), &caller.cause);
        self.events.publish(Event { repository: caller.pushed_to(), ..event });
        Ok(())
    }

    /// Makes sure that an image can be a parent: the child's layers will be those of all its
    /// ancestors, so the caller has to see each of them.
    fn build_on(&self, caller: &Caller, parent: &ImageId) -> Result<()> {
        match self.find(caller, parent)?.ok_or(Error::ParentUnknown(*parent))? {
            Found::Stored(..) => {
                for ancestor in self.storage.ancestry(parent)? {
                    if self.find(caller, &ancestor)?.is_none() {
                        return Err(Error::ParentUnknown(*parent));
                    }
                }
            }
            Found::Derived { chain, config, at, .. } => self.adopt(&chain, at, &config)?,
        }
        match self.storage.ancestry(parent)?.len() < CHAIN_MAX {
            true => Ok(()),
            false => Err(docker1::Error::Depth.into()),
        }
    }

    /// Begins to receive the layer of an image whose JSON was pushed.
    pub fn put_image_layer(&self, caller: &Caller, id: &ImageId) -> Result<LayerUpload> {
        let pusher = named(caller)?;
        if self.has_image(caller, id)? {
            return Err(StorageError::ImageExists(*id).into());
        }
        Ok(self.storage.write_layer(&pusher, id)?)
    }

    /// Ends a layer, which from now on waits for its checksum.
    pub fn finish_image_layer(
        &self,
        caller: &Caller,
        id: &ImageId,
        layer: LayerUpload,
    ) -> Result<()> {
        let (checksum, digest) = layer.finish()?;
        let event = Event::new(Kind::Layer, id.to_string(), &caller.cause).digest(&digest);
        self.events.publish(Event {
            checksum: Some(checksum.to_string()),
            repository: caller.pushed_to(),
            ..event
        });
        Ok(())
    }

    /// Ends the push of an image: it is complete if one of the layers that came has this checksum,
    /// else all of the push is removed.
    pub fn complete_image(&self, caller: &Caller, id: &ImageId, checksum: &str) -> Result<()> {
        let layer = self.storage.complete_image(&named(caller)?, id, checksum)?;
        let event = Event::new(Kind::Verify, id.to_string(), &caller.cause);
        self.events.publish(Event { repository: caller.pushed_to(), ..event.digest(&layer) });
        // It is indexed while the next image is pushed.
        if let Err(error) = self.layers().pushed([layer]) {
            tracing::error!(image = %id, %error, "cannot index a pushed image");
        }
        Ok(())
    }
}

fn named(caller: &Caller) -> Result<Pusher> {
    caller.pusher().ok_or(Error::Nameless)
}

/// The entries of an image's own layer, in the order of their paths. It reads a page at a time, and
/// may be read on another thread than it was made on.
#[derive(Debug)]
pub struct LayerFiles {
    registry: Arc<Registry>,
    /// `None`: the layer is the empty one.
    layer: Option<Arc<IndexedLayer>>,
    last: Option<Vec<u8>>,
    page: std::vec::IntoIter<(Vec<u8>, Entry)>,
}

impl Iterator for LayerFiles {
    /// A path without slashes at either end, and what lies there.
    type Item = Result<(Vec<u8>, Entry)>;

    fn next(&mut self) -> Option<Self::Item> {
        /// Entries read at a time.
        const PAGE: usize = 1000;
        if let Some(entry) = self.page.next() {
            return Some(Ok(entry));
        }
        let number = self.layer.as_ref()?.record.number;
        let entries = self.registry.index().entries(number, self.last.as_deref());
        match entries.take(PAGE).collect::<Result<Vec<_>, _>>() {
            Ok(read) => self.page = read.into_iter(),
            Err(error) => return Some(Err(error.into())),
        }
        self.last = self.page.as_slice().last().map(|(path, _)| path.clone());
        self.page.next().map(Ok)
    }
}
