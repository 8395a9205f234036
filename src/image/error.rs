//! What can go wrong between a reference and a file's bytes.

use std::fmt;

use super::id::IdError;
use crate::oci::{Digest, ManifestError, Platform, Repository};
use crate::{index, storage};

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Id(#[from] IdError),
    #[error("no image has the id {0}")]
    Unknown(String),
    /// Somebody pushed the config with layers that it does not describe.
    #[error(
        "{0} is the config of images whose layers are others than it says: name the image by its repository or manifest"
    )]
    ConfigMismatch(String),
    #[error("{prefix} is the beginning of more than one id: {}", list(candidates))]
    Ambiguous {
        prefix: String,
        /// The first of them, in order.
        candidates: Vec<Candidate>,
    },
    #[error("{image} is not for {wanted}{}", but_for(available))]
    NoPlatform {
        image: String,
        wanted: Box<Platform>,
        /// The first of them, in order; `unknown` for what says nothing.
        available: Vec<String>,
    },
    #[error("{image} is an index that leads to more than {max} other manifests, or too deep")]
    Nesting { image: String, max: usize },
    #[error("{image} has {layers} layers, at most {max} can be merged")]
    TooManyLayers { image: String, layers: usize, max: usize },
    #[error("{image} has {links} hard links between layers, at most {max} can be followed")]
    TooManyLinks { image: String, links: u64, max: u64 },
    #[error("{image} has hard links between layers with names of more than {max} bytes together")]
    LongLinks { image: String, max: usize },
    #[error("{image} has so many files with several names that they take more than {max} bytes")]
    LinkedFiles { image: String, max: usize },
    #[error("{image} cannot be read: {cause}")]
    Manifest { image: String, cause: ManifestError },
    #[error(
        "{image} lacks layer {layer}, which is not for distribution: clients fetch it from elsewhere"
    )]
    ForeignLayer { image: String, layer: Box<Digest> },
    #[error("{layer} is not a layer of {image}")]
    NotALayer { image: String, layer: String },
    #[error("{prefix} is the beginning of more than one layer of {image}")]
    AmbiguousLayer { image: String, prefix: String },
    /// A layer that cannot have an index, or none at this moment.
    #[error("{image}: {cause}")]
    Layer { image: String, cause: index::Error },
    #[error("{0} does not exist")]
    NotFound(At),
    #[error("{0} is not a directory")]
    NotADirectory(At),
    #[error("{0} leads through too many symbolic links")]
    Loop(At),
    #[error("{0} is longer than a name or path may be")]
    NameTooLong(At),
    #[error("{0} is a directory")]
    IsDirectory(At),
    /// A device, a fifo, or a symbolic link that was not followed.
    #[error("{0} is not a regular file")]
    NotAFile(At),
    #[error(
        "{at} is a hard link to /{}, which is in a lower layer: read it in the image as a whole",
        String::from_utf8_lossy(target).escape_debug()
    )]
    LowerTarget { at: At, target: Vec<u8> },
    #[error("{0} is not a symbolic link")]
    NotALink(At),
    #[error("{at}: {cause}")]
    Read { at: At, cause: index::Error },
    #[error("{at} cannot be searched: a line, with its context, has more than {max} bytes")]
    LongLine { at: At, max: usize },
    #[error("no thread can be started: {0}")]
    Thread(std::io::Error),
    #[error("cannot write the archive: {0}")]
    Write(std::io::Error),
    #[error(transparent)]
    Index(#[from] index::Error),
    #[error(transparent)]
    Storage(#[from] storage::Error),
}

impl Error {
    /// Whether it says that the image's repository does not hold one of its layers.
    pub(super) fn lacks_layer(&self) -> bool {
        matches!(
            self,
            Error::ForeignLayer { .. } | Error::Storage(storage::Error::BlobUnknown { .. })
        )
    }
}

/// What a prefix may mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// All hex digits, without the algorithm.
    pub id: String,
    pub repository: Repository,
    /// The manifest that the id leads to.
    pub manifest: Digest,
}

/// What there is instead of the platform that was asked for.
fn but_for(available: &[String]) -> String {
    match available {
        [] => ": it names no image that is here, as the index of a build cache does not".to_owned(),
        available => format!(", but for {}", available.join(", ")),
    }
}

fn list(candidates: &[Candidate]) -> String {
    let one = |c: &Candidate| format!("{} ({}@{})", c.id, c.repository, c.manifest);
    candidates.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// A path of an image, as messages name it.
#[derive(Clone, Debug)]
pub struct At(Box<(String, Vec<u8>)>);

impl At {
    pub fn new(image: impl fmt::Display, path: &[u8]) -> At {
        // A message repeats no more of it than this.
        const EXCERPT: usize = 4096;
        let path = &path[..path.len().min(EXCERPT)];
        At(Box::new((image.to_string(), path.to_owned())))
    }

    pub fn image(&self) -> &str {
        &self.0.0
    }

    pub fn path(&self) -> &[u8] {
        &self.0.1
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = String::from_utf8_lossy(self.path());
        let path = path.trim_start_matches('/');
        write!(f, "/{} in {}", path.escape_debug(), self.image())
    }
}
