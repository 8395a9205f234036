//! The registry, for commands that run beside its server or without one.

use std::sync::Arc;

use anyhow::{Context, Result};

use crate::config::StoreArgs;
use crate::index::{LayerOptions, Layers, access};
use crate::storage::Storage;

pub fn open(args: &StoreArgs, options: &LayerOptions) -> Result<Arc<Layers>> {
    let storage = Storage::observe(&args.root()?).with_context(|| {
        format!(
            "there is no registry in {}: --dir names its folder, --layers another root of its blobs",
            args.dir.display()
        )
    })?;
    Ok(Arc::new(access::open(
        &args.dir,
        Arc::new(storage),
        options,
    )?))
}
