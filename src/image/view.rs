use std::io;
use std::sync::Arc;

use super::{Image, Node, Result};

/// Filled when somebody first asks for link counts.
#[derive(Debug)]
pub(super) struct ForeignLinks;

/// Tells inodes apart. Directories have none of their own: they are their paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Identity {
    /// The same in every image that has the layer.
    Shared {
        /// [`crate::index::records::Layer::number`]
        layer: u64,
        inode: u64,
    },
    /// Other layers took names from it or gave it some: an inode of this image.
    Own {
        /// A place in [`Image::layers`].
        layer: usize,
        inode: u64,
    },
}

impl Image {
    /// What lies at `path`, with or without slashes at its ends. Symbolic links
    /// on the way are followed inside the image; `follow`: also the last one.
    pub fn node(&self, _path: &[u8], _follow: bool) -> Result<Node> {
        unimplemented!()
    }

    /// How many names of this image lead to the node's inode. Directories have
    /// 1, as those that an overlay merges.
    pub fn links(&self, _node: &Node) -> Result<u32> {
        unimplemented!()
    }

    pub fn identity(&self, _node: &Node) -> Result<Identity> {
        unimplemented!()
    }

    /// Content of a regular file from `offset` on, holes as zeros. Fills `buffer` unless the
    /// file ends; how many bytes that is.
    pub fn read(&self, _node: &Node, _offset: u64, _buffer: &mut [u8]) -> Result<usize> {
        unimplemented!()
    }

    /// A regular file's content, from its beginning.
    pub fn open(self: &Arc<Image>, _node: &Node) -> Result<Reader> {
        unimplemented!()
    }
}

/// Reads a file from front to back. Its errors hold an [`super::Error`].
#[derive(Debug)]
pub struct Reader;

impl io::Read for Reader {
    fn read(&mut self, _buffer: &mut [u8]) -> io::Result<usize> {
        unimplemented!()
    }
}
