//! Images as file systems: the merged view of their layers. What shows them to
//! the outside (HTTP, command line, mount) stands on this and adds no rules of
//! its own. Everything here is blocking code.
//!
//! An image is its layers, base first. Each layer by itself is a consistent tree
//! ([`crate::index`] sees to that); [`merge`] lays them over each other as an
//! overlay does, one directory at a time and nothing ahead of time, [`view`]
//! walks paths through that and reads. Memory follows the directory in hand and
//! the number of layers, never the size of the image.

mod artifact;
mod deleted;
mod describe;
mod error;
mod export;
mod id;
mod links;
pub mod listing;
mod members;
mod merge;
mod one_layer;
mod resolve;
mod source;
mod v1;
mod view;
mod walk;

use std::fmt;
use std::sync::Arc;

use crate::index::{IndexedLayer, Layers};
use crate::oci::{Digest, Repository};

pub use crate::index::records::{Entry, Extent, Kind, Time};
pub use crate::oci::Platform;
pub use crate::storage::Folder;
pub use artifact::Artifact;
pub use describe::{About, Described, Made, Runs};
pub use error::{At, Candidate, Error, Result};
pub use export::write_tar;
pub use id::{Id, IdError, LATEST};
pub use links::Identity;
pub use members::{Member, dashed, tagged_name, undashed};
pub use merge::Children;
pub use one_layer::{Effect, Effects, LayerId, OneLayer};
pub use resolve::{Images, Opened};
pub use source::{FileTree, MayBlock, Nodes, Target, View};
pub use v1::{Origin, Shown};
pub(crate) use view::pieces;
pub use view::{Content, Reader};
pub use walk::Walk;

/// Most layers of an image: what overlayfs takes (`OVL_MAX_STACK`).
pub const LAYERS_MAX: usize = 500;

/// Most hard links between the layers of an image. Real ones have none, or some.
pub const FOREIGN_LINKS_MAX: u64 = 1 << 16;

/// An image whose layers are all indexed. What it says never changes.
pub struct Image {
    /// The repository that it was found in. A user who may pull from that repository may read it.
    pub repository: Repository,
    /// The image's own manifest, also where it was found through an index.
    pub manifest: Digest,
    pub config: Digest,
    /// Base first.
    pub layers: Vec<Arc<IndexedLayer>>,
    /// Where it was found by an id of the first API: of each layer, the id of the
    /// image that came with it. Such an image may have the lowest layers of its
    /// manifest only.
    pub ids: Option<Vec<String>>,
    /// What is odd about it: sentences for users.
    pub warnings: Vec<String>,
    /// Its config is one of an image, and says of the layers what they are.
    is_described: bool,
    source: Arc<Layers>,
    /// [`Layers::renewed`] when it was made.
    renewed: u64,
    root: Arc<Node>,
    /// Tells it apart from all others in [`Images`].
    serial: u64,
    /// Shared with these.
    directories: Arc<view::Directories>,
    links: links::Links,
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `REPOSITORY@MANIFEST`, which names it in messages.
impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.repository, self.manifest)
    }
}

/// What lies at a path of an image.
#[derive(Clone, Debug)]
pub struct Node {
    /// Without slashes at either end; the root's is empty.
    pub path: Vec<u8>,
    /// The layer that `entry` comes from, as a place in [`Image::layers`]. An
    /// image without layers has a root all the same, with 0 here.
    pub layer: usize,
    /// Its kind is one of those that a file system has: `Regular`, `Directory`,
    /// `Symlink`, `Character`, `Block` or `Fifo`. A hard link has its target's. Nodes
    /// of one layer, and deleted ones, have the kinds of rows.
    /// `links` counts in its layer: see [`Image::links`].
    pub entry: Entry,
    /// Of a directory: the layers that have something in it, the topmost first.
    pub dirs: Vec<usize>,
    /// The path of `entry` in its layer, where that is another: a hard link to
    /// what a lower layer has.
    target: Option<Box<[u8]>>,
}

impl Node {
    /// Of an image that has nothing.
    fn bare_root() -> Node {
        Node {
            path: Vec::new(),
            layer: 0,
            entry: Entry::implicit(Kind::Directory),
            dirs: Vec::new(),
            target: None,
        }
    }

    pub fn is_directory(&self) -> bool {
        self.entry.is_directory()
    }

    /// What it takes in memory, about.
    pub fn bytes(&self) -> usize {
        let entry = &self.entry;
        let xattrs = entry.xattrs.iter().map(|(k, v)| k.len() + v.len());
        let extents = entry.sparse.as_ref().map_or(0, Vec::len);
        let lists = size_of_val(self.dirs.as_slice()) + extents * size_of::<Extent>();
        size_of::<Node>() + self.path.len() + entry.link.len() + lists + xattrs.sum::<usize>()
    }

    /// The last component of its path; the root's is empty.
    pub fn name(&self) -> &[u8] {
        match self.path.iter().rposition(|&b| b == b'/') {
            Some(slash) => &self.path[slash + 1..],
            None => &self.path,
        }
    }
}
