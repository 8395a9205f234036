//! The image that a command reads.

use anyhow::Result;
use clap::Args;

use super::output::complain;
use super::server::RemoteImage;
use crate::cli::args::{IndexArgs, SourceArgs};
use crate::image::{Id, LayerId, Opened, Platform};

/// Which image, and where it is stored.
#[derive(Args, Clone, Debug)]
pub struct ImageArgs {
    #[command(flatten)]
    pub source: SourceArgs,

    /// The platform to choose from a multi-platform image [default: this machine's, or the server's]
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

/// An image or artifact, here or on a server.
pub enum Found {
    Here(Opened),
    There(RemoteImage),
}

impl ImageArgs {
    /// Opens the image or artifact, and prints its warnings to stderr.
    pub fn open(&self) -> Result<Found> {
        if let Some(url) = &self.source.server {
            let server = super::server::connect(url, [&self.reference])?;
            let image = RemoteImage::open(&server, &self.reference, self.platform.as_ref())?;
            return Ok(Found::There(image.layer(self.layer.as_ref())));
        }
        let images = self.source.store.open(&self.index.check()?)?;
        let opened = images.open(&self.reference, self.platform.as_ref())?;
        if let Opened::Image(image) = &opened {
            for warning in &image.warnings {
                complain(format_args!("warning: {warning}"));
            }
        }
        Ok(Found::Here(match &self.layer {
            Some(layer) => opened.one_layer(layer)?,
            None => opened,
        }))
    }
}
