//! The registry as its faces see it. A push, a delete, a tag, a mount: here is what each of them
//! means, for both APIs, that is the order in which storage, catalog, index and events hear of it.
//!
//! Calls block, unless they are `async`. They take the repositories and digests that a request
//! names, and the [`Caller`] where other repositories are concerned or where others are notified.

mod caller;
mod catalog;
mod delete;
mod docker1;
mod error;
pub mod maintenance;
mod pulls;
mod push;
mod retention;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::auth::Watched;
use crate::events::Events;
use crate::image::Images;
use crate::index::{self, Index, Layers, shared};
use crate::oci::{Descriptor, Digest, Reference, Repository, Tag};
use crate::storage::{self, Storage};

pub use crate::index::{LayerOptions, Limits};
pub use crate::storage::docker1::LayerUpload;
pub use crate::storage::{Blob, Options as StorageOptions, Page, StoredManifest, UploadWriter};
pub use caller::Caller;
pub use catalog::{Below, Names, Overview};
pub use docker1::{ImageJson, LayerFiles, TAGS_MAX, TagFacts};
pub use error::{Error, IndexError, Result, StorageError};
pub use pulls::start_pulls;
pub use push::NewManifest;
pub use retention::Retention;

/// Which of the two APIs a client speaks: they name images by different ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    V1,
    V2,
}

/// A registry, whose store and index this process owns.
#[derive(Debug)]
pub struct Registry {
    storage: Arc<Storage>,
    images: Arc<Images>,
    events: Arc<Events>,
    /// Held by the run that collects garbage.
    collecting: Mutex<()>,
    deletes: delete::Deletes,
    pulls: pulls::Noted,
    retention: Option<Watched<Retention>>,
    /// Held by the run that scrubs.
    scrubbing: Mutex<()>,
}

impl Registry {
    /// The registry of a store whose layers are `layers`. From now on `events` are published for
    /// the layers that are indexed. `retention` says which tags stay.
    pub fn new(
        storage: Arc<Storage>,
        layers: Arc<Layers>,
        events: Arc<Events>,
        retention: Option<Watched<Retention>>,
    ) -> Registry {
        let listener = Arc::clone(&events);
        layers.listen(move |layer, ready| listener.indexed(layer, ready));
        record(&storage, &layers);
        let images = Arc::new(Images::new(layers));
        Registry {
            storage,
            images,
            events,
            collecting: Mutex::default(),
            deletes: delete::Deletes::default(),
            pulls: pulls::Noted::default(),
            retention,
            scrubbing: Mutex::default(),
        }
    }

    /// The images of all repositories, to look into them.
    pub fn images(&self) -> &Arc<Images> {
        &self.images
    }

    /// Which tags stay, as the file says now.
    fn retention(&self) -> Option<Arc<Retention>> {
        let watched = self.retention.as_ref()?;
        watched.reload();
        Some(watched.get())
    }

    fn layers(&self) -> &Layers {
        self.images.layers()
    }

    fn index(&self) -> &Index {
        self.layers().index()
    }

    /// A manifest that is in memory. Never blocks.
    pub fn cached_manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
    ) -> Option<Arc<StoredManifest>> {
        self.storage.cached_manifest(repository, reference)
    }

    pub fn manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
    ) -> Result<Arc<StoredManifest>> {
        Ok(self.storage.manifest(repository, reference)?)
    }

    /// The size in bytes of a blob of the repository, of which a client was told a moment ago. Never
    /// blocks.
    pub fn told_blob_size(&self, repository: &Repository, digest: &Digest) -> Option<u64> {
        self.storage.told_blob_size(repository, digest)
    }

    /// The size of a blob in bytes. The client that hears of it need not push the blob, so the
    /// collector leaves it alone for a while.
    pub fn tell_blob_size(&self, repository: &Repository, digest: &Digest) -> Result<u64> {
        Ok(self.storage.tell_blob_size(repository, digest)?)
    }

    /// Opens a blob that the repository holds.
    pub fn blob(&self, repository: &Repository, digest: &Digest) -> Result<Blob> {
        Ok(self.storage.open_blob(repository, digest)?)
    }

    /// The repository's tags after `last`, at most `n`.
    pub fn tags(&self, repository: &Repository, last: &str, n: usize) -> Result<Page<Tag>> {
        Ok(self.storage.tags(repository, last, n)?)
    }

    /// The repository's manifests after the digest `last`, at most `n`, by digest.
    pub fn manifests(&self, repository: &Repository, last: &str, n: usize) -> Result<Page<Digest>> {
        let mut digests = self.storage.revisions(repository)?;
        digests.sort_by_cached_key(Digest::to_string);
        let start = digests.partition_point(|digest| digest.to_string().as_str() <= last);
        let more = digests.len() > start.saturating_add(n);
        let items: Vec<Digest> = digests.into_iter().skip(start).take(n).collect();
        let next = items.last().filter(|_| more).map(Digest::to_string);
        Ok(Page { items, next })
    }

    /// A page of the manifests whose subject is `subject`, by digest. A page may hold fewer than
    /// there are and still name a next one.
    pub fn referrers(
        &self,
        repository: &Repository,
        subject: &Digest,
        artifact_type: Option<&str>,
        last: Option<Digest>,
    ) -> Result<Page<Descriptor>> {
        Ok(self.storage.referrers(repository, subject, artifact_type, last)?)
    }

    /// Whether anything was ever pushed to the repository.
    pub fn repository_exists(&self, repository: &Repository) -> Result<bool> {
        Ok(self.storage.repository_exists(repository)?)
    }
}

/// From now on the index keeps what the store holds, as numbers.
fn record(storage: &Arc<Storage>, layers: &Arc<Layers>) {
    let (store, layers) = (Arc::downgrade(storage), Arc::downgrade(layers));
    let has_failed = AtomicBool::new(false);
    storage.listen(move |change| {
        let (Some(storage), Some(layers)) = (store.upgrade(), layers.upgrade()) else { return };
        if let Err(error) = layers.index().record(&storage, change)
            && !has_failed.swap(true, Ordering::Relaxed)
        {
            tracing::error!(%error, "the numbers of what takes space are wrong until the next start");
        }
    });
}

/// Why a registry's folder cannot be used by a command.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A mistyped path must not become an empty registry.
    #[error("there is no registry in {}", .0.display())]
    Missing(PathBuf),
    #[error(transparent)]
    Storage(#[from] storage::Error),
    #[error(transparent)]
    Index(#[from] index::Error),
}

/// Opens the images of the registry in `dir` for reading, beside its server or without one. `root`
/// is the root of its blobs. Layers that have no index yet are indexed when they are first read.
pub fn open(dir: &Path, root: &Path, options: &LayerOptions) -> Result<Arc<Images>, OpenError> {
    if !dir.is_dir() || !root.is_dir() {
        return Err(OpenError::Missing(dir.to_owned()));
    }
    let storage = Arc::new(Storage::observe(root)?);
    let layers: Arc<Layers> = Arc::new(shared::open(dir, storage, options)?);
    Ok(Arc::new(Images::new(layers)))
}

/// Does the same, and makes sure before that the index knows what is stored. A server does that when
/// it starts; without one, another server may have changed the store.
pub fn open_complete(
    dir: &Path,
    root: &Path,
    options: &LayerOptions,
) -> Result<Arc<Images>, OpenError> {
    if dir.is_dir()
        && root.is_dir()
        && let Ok(_lock) = storage::lock(dir, false)
    {
        let index = Arc::new(Index::open(&dir.join("db"))?);
        let storage = Arc::new(Storage::observe(root)?);
        let layers = Layers::new(storage, index, options)
            .map_err(|e| storage::Error::io("start threads for", dir, e))?;
        maintenance::scan(&Images::new(Arc::new(layers)), true)?;
    }
    open(dir, root, options)
}
