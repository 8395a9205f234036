//! The image that a command reads.

use std::sync::Arc;

use anyhow::Result;
use clap::Args;

use super::output::complain;
use crate::cli::args::{IndexArgs, StoreArgs};
use crate::image::{Id, Image, Platform};

/// Which image, and where it is stored.
#[derive(Args, Clone, Debug)]
pub struct ImageArgs {
    #[command(flatten)]
    pub store: StoreArgs,

    /// The platform to choose from a multi-platform image [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub platform: Option<Platform>,

    /// The image: NAME[:TAG][@DIGEST], the digest of its manifest or config, or at least the first 12 digits of one
    pub reference: Id,

    #[command(flatten, next_help_heading = "Indexing, for layers that have no index yet")]
    pub index: IndexArgs,
}

impl ImageArgs {
    /// Opens the image, and prints its warnings to stderr.
    pub fn open(&self) -> Result<Arc<Image>> {
        let images = self.store.open(&self.index.check()?)?;
        let image = images.open(&self.reference, self.platform.as_ref())?;
        for warning in &image.warnings {
            complain(format_args!("warning: {warning}"));
        }
        Ok(image)
    }
}
