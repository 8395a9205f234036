use std::sync::Arc;

use super::{Id, Image, Platform, Result};
use crate::index::Layers;
use crate::oci::{Reference, Repository};

/// The images of a store.
#[derive(Debug)]
pub struct Images {
    layers: Arc<Layers>,
}

impl Images {
    pub fn new(layers: Arc<Layers>) -> Images {
        Images { layers }
    }

    pub fn layers(&self) -> &Arc<Layers> {
        &self.layers
    }

    /// The image that `id` means, wherever it is. Without a platform, an index
    /// stands for its image for the host.
    pub fn open(&self, id: &Id, platform: Option<&Platform>) -> Result<Arc<Image>> {
        self.open_where(id, platform, &|_| true)
    }

    /// [`Images::open`] with nothing but the repositories that are `permitted`.
    pub fn open_where(
        &self,
        _id: &Id,
        _platform: Option<&Platform>,
        _permitted: &dyn Fn(&Repository) -> bool,
    ) -> Result<Arc<Image>> {
        unimplemented!()
    }

    /// An image of one repository.
    pub fn open_in(
        &self,
        _repository: &Repository,
        _reference: &Reference,
        _platform: Option<&Platform>,
    ) -> Result<Arc<Image>> {
        unimplemented!()
    }
}
