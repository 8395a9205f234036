//! The registry, for commands that run beside its server or without one.

use std::sync::Arc;

use anyhow::{Result, ensure};

use crate::cli::args::StoreArgs;
use crate::index::{LayerOptions, Layers, shared};
use crate::storage::Storage;

pub fn open(args: &StoreArgs, options: &LayerOptions) -> Result<Arc<Layers>> {
    let root = args.root()?;
    // A mistyped path must not become an empty registry.
    ensure!(
        args.dir.is_dir() && root.is_dir(),
        "there is no registry in {}: --dir names its folder, --layers another root of its blobs",
        args.dir.display()
    );
    let storage = Arc::new(Storage::observe(&root)?);
    Ok(Arc::new(shared::open(&args.dir, storage, options)?))
}
