//! What the kernel is told when a request fails. The log has the whole message.

use crate::image;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Image(#[from] image::Error),
    #[error("{name} cannot be shown: {cause}")]
    Broken { name: String, cause: Box<image::Error> },
    #[error("no such extended attribute")]
    NoAttribute,
    /// After this, programs such as `ls` do not ask for the attributes of other files.
    #[error("such extended attributes are not supported here")]
    NoAttributes,
    #[error("stale inode number")]
    Stale,
    #[error("offset beyond end of file")]
    Seek,
    /// The request takes long, and has to be repeated on a thread that may wait.
    #[error("the request would block")]
    WouldBlock(Slow),
}

/// What takes long: which threads have to do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slow {
    /// Opening an image, whose layers may have to be indexed first.
    Open,
    /// Decoding a part of a layer.
    Decode,
    /// Listing names, counting links, asking the store's file system.
    List,
}

impl Error {
    pub fn errno(&self) -> i32 {
        match self {
            Error::Image(error) => of_image(error),
            // Where the manifest was deleted, the kernel looks its name up again.
            Error::Broken { cause, .. } => match **cause {
                image::Error::Storage(ref error) if error.is_unknown() => libc::ESTALE,
                _ => libc::EIO,
            },
            Error::NoAttribute => libc::ENODATA,
            Error::NoAttributes => libc::EOPNOTSUPP,
            Error::Stale => libc::ESTALE,
            Error::Seek => libc::ENXIO,
            Error::WouldBlock(_) => libc::EAGAIN,
        }
    }

    /// Whether the operator should know of it. A file that does not exist is no fault.
    pub fn is_fault(&self) -> bool {
        self.errno() == libc::EIO
    }
}

fn of_image(error: &image::Error) -> i32 {
    use image::Error as E;
    match error {
        E::Unknown(_)
        | E::ConfigMismatch(_)
        | E::NoPlatform { .. }
        | E::NotALayer { .. }
        | E::NotFound(_) => libc::ENOENT,
        E::NotADirectory(_) => libc::ENOTDIR,
        E::Loop(_) => libc::ELOOP,
        E::NameTooLong(_) => libc::ENAMETOOLONG,
        E::IsDirectory(_) => libc::EISDIR,
        E::NotAFile(_)
        | E::LowerTarget { .. }
        | E::NotALink(_)
        | E::Id(_)
        | E::Ambiguous { .. }
        | E::AmbiguousLayer { .. } => libc::EINVAL,
        E::Storage(error) if error.is_unknown() => libc::ENOENT,
        E::Nesting { .. }
        | E::TooManyLayers { .. }
        | E::TooManyLinks { .. }
        | E::LongLinks { .. }
        | E::LinkedFiles { .. }
        | E::Manifest { .. }
        | E::ForeignLayer { .. }
        | E::Layer { .. }
        | E::Read { .. }
        | E::Write(_)
        | E::Index(_)
        | E::LongLine { .. }
        | E::Thread(_)
        | E::Storage(_) => libc::EIO,
    }
}
