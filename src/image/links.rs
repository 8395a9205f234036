//! Names of inodes. A hard-linked file has as many links as names of it are left
//! in the image, and an inode number of its own where that differs from its
//! layer by itself: the same number may stand for it in every other image.

use std::collections::{BTreeSet, HashMap};
use std::sync::OnceLock;

use quick_cache::sync::Cache;

use super::{Entry, Error, Image, Kind, Node, Result};

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

/// Counts kept for each image.
const COUNTS: usize = 1024;

/// Bytes of the paths of hard links between layers, for each image. Real ones
/// have some thousand of 100 bytes.
const FOREIGN_BYTES: usize = 8 << 20;

/// A layer's place in the image and an inode of it.
type Key = (usize, u64);

#[derive(Debug)]
pub(super) struct Links {
    counts: Cache<Key, u32>,
    /// The names that are hard links to what a lower layer has. Bounded by
    /// [`super::FOREIGN_LINKS_MAX`].
    foreign: OnceLock<HashMap<Key, Vec<Vec<u8>>>>,
}

impl Default for Links {
    fn default() -> Links {
        Links { counts: Cache::new(COUNTS), foreign: OnceLock::new() }
    }
}

fn key(node: &Node) -> Key {
    (node.layer, node.entry.inode)
}

impl Image {
    /// How many names of this image lead to the node's inode. Directories have 1,
    /// as those have that overlayfs merges: a program that counts subdirectories by
    /// it (`find`) takes that for "unknown".
    pub fn links(&self, node: &Node) -> Result<u32> {
        if node.is_directory() || self.has_one_name(node) {
            return Ok(1);
        }
        if self.is_topmost(node) {
            return Ok(node.entry.links);
        }
        if let Some(count) = self.links.counts.get(&key(node)) {
            return Ok(count);
        }
        let mut count = 0u32;
        self.names(node, &mut |_| count = count.saturating_add(1))?;
        self.links.counts.insert(key(node), count);
        Ok(count)
    }

    /// Whether [`Image::links`] need not count.
    pub fn knows_links(&self, node: &Node) -> bool {
        node.is_directory()
            || self.has_one_name(node)
            || self.is_topmost(node)
            || self.links.counts.get(&key(node)).is_some()
    }

    /// What stands for the node's inode, which is not a directory's.
    pub fn identity(&self, node: &Node) -> Result<Identity> {
        let layer = self.layers[node.layer].record.number;
        let inode = node.entry.inode;
        let above = &self.layers[node.layer + 1..];
        // The same layer twice: two copies of its files.
        if self.links(node)? == node.entry.links && above.iter().all(|l| l.record.number != layer) {
            return Ok(Identity::Shared { layer, inode });
        }
        Ok(Identity::Own { layer: node.layer, inode })
    }

    fn is_topmost(&self, node: &Node) -> bool {
        node.layer + 1 == self.layers.len()
    }

    fn linked_from_above(&self, node: &Node) -> bool {
        let above = &self.layers[node.layer + 1..];
        above.iter().any(|layer| layer.record.cross_layer_links > 0)
    }

    /// Whether that is certain at once. `node` is not a directory.
    fn has_one_name(&self, node: &Node) -> bool {
        node.entry.links <= 1 && node.target.is_none() && !self.linked_from_above(node)
    }

    /// Calls `visit` with every name of the node's inode in this image, in no
    /// order.
    pub(super) fn names(&self, node: &Node, visit: &mut dyn FnMut(&[u8])) -> Result<()> {
        if node.entry.links > 1 {
            let number = self.layers[node.layer].record.number;
            for path in self.source.index().names(number, node.entry.inode) {
                let path = path?;
                if self.is_topmost(node) || self.is_name(&path, node)? {
                    visit(&path);
                }
            }
        } else {
            let own = node.target.as_deref().unwrap_or(&node.path);
            if node.target.is_none() || self.is_name(own, node)? {
                visit(own);
            }
        }
        if self.linked_from_above(node) {
            let foreign = self.foreign()?.get(&key(node));
            foreign.into_iter().flatten().for_each(|path| visit(path));
        }
        Ok(())
    }

    /// Calls `visit` with every name that the image gives to an inode of one of its layers, in no
    /// order. There it has `links` names, and `path` is one of them.
    pub fn names_of(
        &self,
        layer: usize,
        inode: u64,
        links: u32,
        path: &[u8],
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<()> {
        let entry = Entry { inode, links, ..Entry::implicit(Kind::Regular) };
        // Its path is checked as that of a target is.
        let target = Some(path.into());
        self.names(&Node { path: Vec::new(), layer, entry, dirs: Vec::new(), target }, visit)
    }

    /// Whether a path that the inode had in its layer is still its own.
    fn is_name(&self, path: &[u8], node: &Node) -> Result<bool> {
        let found = self.literal(path)?;
        Ok(found.is_some_and(|found| key(&found) == key(node) && found.is_own()))
    }

    /// What lies at a path, no link followed on the way.
    fn literal(&self, path: &[u8]) -> Result<Option<Node>> {
        let mut node = Node::clone(&self.root);
        for name in path.split(|&b| b == b'/') {
            if !node.is_directory() {
                return Ok(None);
            }
            match self.lookup(&node, name)? {
                Some(child) => node = child,
                None => return Ok(None),
            }
        }
        Ok(Some(node))
    }

    fn foreign(&self) -> Result<&HashMap<Key, Vec<Vec<u8>>>> {
        if let Some(foreign) = self.links.foreign.get() {
            return Ok(foreign);
        }
        let (mut paths, mut bytes) = (BTreeSet::new(), 0);
        for layer in &self.layers {
            if layer.record.cross_layer_links > 0 {
                for path in self.source.index().cross_layer_links(layer.record.number) {
                    let path = path?;
                    bytes += path.len();
                    if bytes > FOREIGN_BYTES {
                        return Err(Error::LongLinks {
                            image: self.to_string(),
                            max: FOREIGN_BYTES,
                        });
                    }
                    paths.insert(path);
                }
            }
        }
        let mut foreign: HashMap<Key, Vec<Vec<u8>>> = HashMap::new();
        for path in paths {
            if let Some(node) = self.literal(&path)?
                && !node.is_directory()
                && !node.is_own()
            {
                foreign.entry(key(&node)).or_default().push(path);
            }
        }
        Ok(self.links.foreign.get_or_init(|| foreign))
    }
}

impl Node {
    /// Whether its entry lies under this path in its layer.
    fn is_own(&self) -> bool {
        self.target.is_none()
    }
}
