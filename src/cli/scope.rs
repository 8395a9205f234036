//! The images that a question is about.

use std::sync::Arc;

use anyhow::Result;
use clap::Args;

use crate::cli::args::{IndexArgs, StoreArgs};
use crate::image;
use crate::query::{Glob, Permitted, Scope};

/// Where the images are stored, and which of them are meant.
#[derive(Args, Clone, Debug)]
pub struct ScopeArgs {
    #[command(flatten)]
    pub store: StoreArgs,

    /// Only repositories whose name matches this glob, such as 'team/**'
    #[arg(long = "in", value_name = "GLOB")]
    repositories: Option<Glob>,

    /// Only tags that match this glob, such as 'release-*'
    #[arg(long, value_name = "GLOB")]
    tag: Option<Glob>,

    /// Also images that no tag leads to, as NAME@sha256:…
    #[arg(long)]
    untagged: bool,

    #[command(flatten, next_help_heading = "Indexing, for layers that have no index yet")]
    pub index: IndexArgs,
}

impl ScopeArgs {
    pub fn open(&self) -> Result<Arc<image::Images>> {
        self.store.open(&self.index.check()?)
    }

    pub fn scope(&self) -> Scope {
        Scope {
            repositories: self.repositories.clone(),
            tags: self.tag.clone(),
            untagged: self.untagged,
            images: Vec::new(),
        }
    }
}

/// The command line may read everything that its user can read in the store.
pub fn everything() -> Permitted {
    Arc::new(|_| true)
}
