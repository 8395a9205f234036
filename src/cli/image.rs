//! The image that a command reads.

use anyhow::Result;
use clap::Args;

use super::output::complain;
use crate::cli::args::{IndexArgs, StoreArgs};
use crate::image::{Id, LayerId, Opened, Platform};

/// Which image, and where it is stored.
#[derive(Args, Clone, Debug)]
pub struct ImageArgs {
    #[command(flatten)]
    pub store: StoreArgs,

    /// The platform to choose from a multi-platform image [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub platform: Option<Platform>,

    /// Look at one layer of the image, with nothing merged: its digest, or at least the first 12 digits
    #[arg(long, value_name = "DIGEST")]
    pub layer: Option<LayerId>,

    /// The image or artifact: NAME[:TAG][@DIGEST], the digest of its manifest or config, or at least the first 12 digits of one
    pub reference: Id,

    #[command(flatten, next_help_heading = "Indexing, for layers that have no index yet")]
    pub index: IndexArgs,
}

impl ImageArgs {
    /// Opens the image or artifact, and prints its warnings to stderr.
    pub fn open(&self) -> Result<Opened> {
        let images = self.store.open(&self.index.check()?)?;
        let opened = images.open(&self.reference, self.platform.as_ref())?;
        if let Opened::Image(image) = &opened {
            for warning in &image.warnings {
                complain(format_args!("warning: {warning}"));
            }
        }
        Ok(match &self.layer {
            Some(layer) => opened.one_layer(layer)?,
            None => opened,
        })
    }
}
