//! An image with what it does not show: what its layers have at a path, besides what the merged
//! view has there.
//!
//! A directory of a layer is shown wherever the image has a directory; anything else is shown if no
//! other layer's entry of that path is above it.

use std::fmt;
use std::sync::Arc;

use super::merge::{Row, join, light};
use super::view::Hops;
use super::walk::{Item, Items, Tree};
use super::{At, Entry, Error, Image, Node, Result};

/// All that there is at one path. Its entries may lack xattrs and maps of holes.
#[derive(Clone, Debug)]
pub struct Group {
    path: Vec<u8>,
    /// What the image shows.
    pub shown: Option<Node>,
    /// What layers have there besides, the topmost first.
    pub deleted: Vec<Node>,
    /// The layers that have a directory there, the topmost first.
    dirs: Vec<usize>,
}

impl Group {
    /// Takes what the image shows at a path, and the rows that all layers have there.
    fn new(path: Vec<u8>, shown: Option<Node>, mut rows: Vec<Row>) -> Group {
        let directories = rows.iter().filter(|(_, entry)| entry.is_directory());
        let dirs = directories.map(|(layer, _)| *layer).collect();
        match &shown {
            Some(node) if node.is_directory() => rows.retain(|(_, entry)| !entry.is_directory()),
            // The topmost row made it, also where it is a hard link to what a lower layer has.
            Some(_) => drop(rows.drain(..rows.len().min(1))),
            None => {}
        }
        rows.retain(|(_, entry)| !entry.is_whiteout());
        let deleted = rows.into_iter().map(|(layer, entry)| node(&path, layer, entry)).collect();
        Group { path, shown, deleted, dirs }
    }

    /// What the image shows, and then what it does not.
    pub fn entries(&self) -> impl Iterator<Item = (&Node, bool)> {
        let deleted = self.deleted.iter().map(|node| (node, true));
        self.shown.iter().map(|node| (node, false)).chain(deleted)
    }
}

fn node(path: &[u8], layer: usize, entry: Entry) -> Node {
    Node { path: path.to_vec(), layer, entry, dirs: Vec::new(), target: None }
}

impl Item for Group {
    fn path(&self) -> &[u8] {
        &self.path
    }

    fn is_walked(&self) -> bool {
        !self.dirs.is_empty()
    }

    fn bytes(&self) -> usize {
        self.entries().map(|(node, _)| node.bytes()).sum::<usize>() + self.path.len()
    }

    fn shed(&mut self) {
        self.deleted = Vec::new();
    }
}

/// An image, seen so.
#[derive(Clone, Debug)]
pub struct WithDeleted(Arc<Image>);

impl fmt::Display for WithDeleted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl WithDeleted {
    pub fn new(image: Arc<Image>) -> WithDeleted {
        WithDeleted(image)
    }

    /// What lies at a path: as the image shows it, or else at exactly this path in its layers. With
    /// the first of the entries there.
    pub fn group(&self, path: &[u8]) -> Result<(Node, Group)> {
        let shown = match self.0.node(path, true) {
            Ok(node) if node.is_directory() => Ok(node),
            // The link, whether it leads anywhere or not.
            _ => self.0.node(path, false),
        };
        let (path, shown) = match shown {
            Ok(node) => (node.path.clone(), Ok(node)),
            Err(error @ (Error::NotFound(_) | Error::NotADirectory(_))) => {
                let names = path.split(|&b| b == b'/').filter(|name| !name.is_empty());
                (names.collect::<Vec<_>>().join(&b'/'), Err(error))
            }
            Err(error) => return Err(error),
        };
        let rows = self.rows((0..self.0.layers.len()).rev(), &path)?;
        let group = Group::new(path, shown.as_ref().ok().cloned(), rows);
        let first = match group.deleted.first() {
            Some(deleted) => shown.unwrap_or_else(|_| deleted.clone()),
            None => shown?,
        };
        Ok((first, group))
    }

    fn rows(&self, layers: impl Iterator<Item = usize>, path: &[u8]) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        for layer in layers {
            rows.extend(self.0.entry(layer, path)?.map(|entry| (layer, light(entry))));
        }
        Ok(rows)
    }

    /// What is at a path below `directory`.
    fn below(&self, directory: &Group, path: Vec<u8>, rows: Vec<Row>) -> Result<Group> {
        let dirs = directory.shown.as_ref().map_or(&[][..], |shown| &shown.dirs);
        let merged = rows.iter().filter(|(layer, _)| dirs.contains(layer));
        let shown = self.0.merged(path.clone(), merged.cloned())?;
        Ok(Group::new(path, shown, rows))
    }
}

impl Image {
    /// What the lowest `top` layers show at exactly this path.
    pub(super) fn beneath(&self, top: usize, path: &[u8]) -> Result<Option<Node>> {
        match self.resolve(top, path, false, &mut Hops::default()) {
            Ok(node) => Ok(Some(node).filter(|node| node.path == path)),
            Err(
                Error::NotFound(_)
                | Error::NotADirectory(_)
                | Error::Loop(_)
                | Error::NameTooLong(_),
            ) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The layer that takes a file of a lower layer away, as its place in the image: it deletes or
    /// replaces the file, or a directory above. `None`: no layer above the file's own does.
    pub fn remover(&self, node: &Node) -> Result<Option<usize>> {
        let shows = |top| -> Result<bool> {
            let found = self.beneath(top, &node.path)?;
            Ok(found.is_some_and(|found| match node.is_directory() {
                true => found.is_directory(),
                false => (found.layer, found.entry.inode) == (node.layer, node.entry.inode),
            }))
        };
        // What is gone does not come back in a higher layer.
        let (mut shown, mut gone) = (node.layer, self.layers.len());
        if shows(gone)? {
            return Ok(None);
        }
        while shown + 1 < gone {
            let middle = shown + (gone - shown) / 2;
            if shows(middle)? {
                shown = middle;
            } else {
                gone = middle;
            }
        }
        Ok(Some(gone - 1).filter(|remover| *remover > node.layer))
    }
}

impl Tree for WithDeleted {
    type Item = Group;

    fn item(&self, directory: &Group, name: &[u8]) -> Result<Option<Group>> {
        let path = join(&directory.path, name);
        let rows = self.rows(directory.dirs.iter().copied(), &path)?;
        let group = self.below(directory, path, rows)?;
        Ok(Some(group).filter(|group| group.entries().next().is_some()))
    }

    fn items<'a>(&'a self, directory: &Group, from: &[u8]) -> Result<Items<'a, Group>> {
        if directory.shown.is_none() && directory.dirs.is_empty() {
            return Err(Error::NotADirectory(At::new(self, &directory.path)));
        }
        let directory = directory.clone();
        let mut children = self.0.children_in(&directory.path, &directory.dirs, from)?;
        let mut next = move || {
            while let Some((path, rows)) = children.rows()? {
                let group = self.below(&directory, path, rows)?;
                if group.entries().next().is_some() {
                    return Ok(Some(group));
                }
            }
            Ok(None)
        };
        Ok(Box::new(std::iter::from_fn(move || next().transpose())))
    }
}
