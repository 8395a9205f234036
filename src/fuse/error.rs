//! What the kernel is told when something fails. The whole story goes to the log.

use crate::{image, storage};

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Image(#[from] image::Error),
    /// An image that cannot be shown, and why.
    #[error("{name} cannot be shown: {why}")]
    Unshown { name: String, why: String },
    #[error("it has no attribute of this name")]
    NoAttribute,
    #[error("a number that nobody was told")]
    Stale,
    #[error("no place in a file")]
    Seek,
    /// It takes long: to be asked again where one may wait.
    #[error("it takes longer")]
    Waits,
}

impl From<storage::Error> for Error {
    fn from(error: storage::Error) -> Error {
        Error::Image(error.into())
    }
}

impl Error {
    pub fn errno(&self) -> i32 {
        match self {
            Error::Image(error) => of_image(error),
            Error::Unshown { .. } => libc::EIO,
            Error::NoAttribute => libc::ENODATA,
            Error::Stale => libc::ESTALE,
            Error::Seek => libc::ENXIO,
            Error::Waits => libc::EAGAIN,
        }
    }

    /// Whether it is news for the operator: what a file system is asked for and
    /// does not have is none.
    pub fn is_news(&self) -> bool {
        self.errno() == libc::EIO
    }
}

fn of_image(error: &image::Error) -> i32 {
    use image::Error as E;
    match error {
        E::Unknown(_) | E::NoPlatform { .. } | E::NotFound(_) => libc::ENOENT,
        E::NotADirectory(_) => libc::ENOTDIR,
        E::Loop(_) => libc::ELOOP,
        E::NameTooLong(_) => libc::ENAMETOOLONG,
        E::IsDirectory(_) => libc::EISDIR,
        E::NotAFile(_) | E::NotALink(_) | E::Id(_) | E::Ambiguous { .. } => libc::EINVAL,
        E::Nesting { .. }
        | E::TooManyLayers { .. }
        | E::TooManyLinks { .. }
        | E::LongLinks { .. }
        | E::Manifest { .. }
        | E::ForeignLayer { .. }
        | E::Layer { .. }
        | E::Read { .. }
        | E::Write(_)
        | E::Index(_) => libc::EIO,
        E::Storage(error) => of_storage(error),
    }
}

fn of_storage(error: &storage::Error) -> i32 {
    use storage::Error as E;
    match error {
        E::RepositoryUnknown(_) | E::ManifestUnknown { .. } => libc::ENOENT,
        // A layer that an image needs.
        E::BlobUnknown { .. }
        | E::ManifestBlobUnknown { .. }
        | E::UploadUnknown { .. }
        | E::UploadBusy { .. }
        | E::ImageUnknown(_)
        | E::ImageExists(_)
        | E::ChecksumUnexpected(_)
        | E::ChecksumMismatch { .. }
        | E::ImageChanged(_)
        | E::DigestMismatch { .. }
        | E::DiskFull { .. }
        | E::Io { .. }
        | E::Damaged { .. }
        | E::Locked { .. } => libc::EIO,
    }
}
