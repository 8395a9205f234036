//! The image that a command looks into.

use std::sync::Arc;

use anyhow::Result;
use clap::Args;

use super::output::complain;
use super::store;
use crate::cli::args::{IndexArgs, StoreArgs};
use crate::image::{Id, Image, Images, Platform};

/// Which image, and where it lies.
#[derive(Args, Clone, Debug)]
pub struct ImageArgs {
    #[command(flatten)]
    pub store: StoreArgs,

    /// Of an image for several platforms, take this one [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub platform: Option<Platform>,

    /// The image: NAME[:TAG][@DIGEST], or the digest of its manifest or config, or 12 or more of its first digits
    pub reference: Id,

    #[command(flatten, next_help_heading = "When layers have to be indexed first")]
    pub index: IndexArgs,
}

impl ImageArgs {
    /// Opens the image, and says on stderr what is odd about it.
    pub fn open(&self) -> Result<Arc<Image>> {
        let layers = store::open(&self.store, &self.index.check()?)?;
        let image = Images::new(layers).open(&self.reference, self.platform.as_ref())?;
        for warning in &image.warnings {
            complain(format_args!("warning: {warning}"));
        }
        Ok(image)
    }
}
