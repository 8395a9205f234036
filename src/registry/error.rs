//! Why a request to the registry fails.

use crate::docker1::{self, ImageId};
use crate::image;
use crate::oci::ManifestError;

pub use crate::index::Error as IndexError;
pub use crate::storage::Error as StorageError;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Index(#[from] IndexError),
    #[error(transparent)]
    Image(#[from] image::Error),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    Docker1(#[from] docker1::Error),
    #[error("the image's parent {0} is not known: push it first")]
    ParentUnknown(ImageId),
    /// Images of the first API belong to their pushers, and this client has no name.
    #[error("this login may not push images")]
    Nameless,
}

impl Error {
    /// Whether it says that the repository does not hold the manifest.
    pub(super) fn is_manifest_unknown(&self) -> bool {
        matches!(
            self,
            Error::Storage(StorageError::ManifestUnknown { .. })
                | Error::Image(image::Error::Storage(StorageError::ManifestUnknown { .. }))
        )
    }
}
