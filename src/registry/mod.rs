//! The registry as its faces see it: what a change to it means, and the work that keeps it in order.

pub mod maintenance;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::image::Images;
use crate::index::{self, Layers, shared};
use crate::storage::{self, Storage};

pub use crate::index::{LayerOptions, Limits};
pub use crate::storage::Options as StorageOptions;

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
