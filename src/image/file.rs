//! Files whose content somebody wants.

use super::{At, Error, Image, Node, Result};
use crate::index::records::Kind;

impl Image {
    /// The regular file at `path`, symbolic links followed.
    pub fn file(&self, path: &[u8]) -> Result<Node> {
        let node = self.node(path, true)?;
        let at = || At::new(self, path);
        match node.entry.kind {
            Kind::Regular => Ok(node),
            Kind::Directory | Kind::Implicit | Kind::WhiteoutParent => {
                Err(Error::IsDirectory(at()))
            }
            _ => Err(Error::NotAFile(at())),
        }
    }
}
