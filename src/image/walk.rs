//! Everything below a directory, in an order that can be taken up again.
//!
//! Between two steps nothing of the database is held, and of the directories on
//! the way only where to go on: a step down and up again costs a look-up.

use std::collections::VecDeque;
use std::fmt;

use super::{At, Error, FileTree, Node, Result};

/// Children read at a time. The rest of them is dropped when the walk goes down,
/// so it starts with few.
const PAGE_FIRST: usize = 4;
const PAGE_MAX: usize = 256;
/// What a page may take in memory: maps of sparse files are up to 4 MiB each.
const PAGE_BYTES: usize = 1 << 20;

/// What can be walked: a [`FileTree`], or an image with what it does not show.
pub trait Tree: fmt::Debug + fmt::Display {
    type Item: Item;

    /// As [`FileTree::lookup`].
    fn item(&self, directory: &Self::Item, name: &[u8]) -> Result<Option<Self::Item>>;

    /// As [`FileTree::children`].
    fn items<'a>(&'a self, directory: &Self::Item, from: &[u8]) -> Result<Items<'a, Self::Item>>;
}

/// What [`Tree::items`] returns.
pub type Items<'a, I> = Box<dyn Iterator<Item = Result<I>> + 'a>;

/// What lies at one path of a [`Tree`].
pub trait Item: Clone + fmt::Debug {
    fn path(&self) -> &[u8];

    /// Whether something may lie below it.
    fn is_walked(&self) -> bool;

    /// What it takes in memory, about.
    fn bytes(&self) -> usize;

    /// Drops what is of no use on the way, where there may be many levels.
    fn shed(&mut self);
}

impl<T: FileTree + ?Sized> Tree for T {
    type Item = Node;

    fn item(&self, directory: &Node, name: &[u8]) -> Result<Option<Node>> {
        self.lookup(directory, name)
    }

    fn items<'a>(&'a self, directory: &Node, from: &[u8]) -> Result<Items<'a, Node>> {
        self.children(directory, from)
    }
}

impl Item for Node {
    fn path(&self) -> &[u8] {
        &self.path
    }

    fn is_walked(&self) -> bool {
        self.is_directory()
    }

    fn bytes(&self) -> usize {
        self.bytes()
    }

    fn shed(&mut self) {
        self.entry.xattrs = Vec::new();
    }
}

/// Walks below a directory: each directory comes before what it has, and names in
/// order. After an error it ends.
#[derive(Debug)]
pub struct Walk<'a, T: Tree + ?Sized = dyn FileTree + 'a> {
    tree: &'a T,
    levels: Vec<Level<T::Item>>,
    /// Read ahead in the last level.
    page: VecDeque<T::Item>,
    size: usize,
    /// Given out last; walked next, if it is a directory.
    last: Option<T::Item>,
}

/// A directory on the way.
#[derive(Debug)]
struct Level<I> {
    directory: I,
    /// The least name that is still to come; `None`: there is none.
    from: Option<Vec<u8>>,
}

impl<I> Level<I> {
    fn new(directory: I) -> Level<I> {
        Level { directory, from: Some(Vec::new()) }
    }
}

/// The least name after another.
fn after(name: &[u8]) -> Vec<u8> {
    [name, b"\0"].concat()
}

/// The last component of a path.
fn name(path: &[u8]) -> &[u8] {
    path.rsplit(|&b| b == b'/').next().unwrap_or(path)
}

impl<'a, T: Tree + ?Sized> Walk<'a, T> {
    pub fn new(tree: &'a T, directory: T::Item) -> Walk<'a, T> {
        Walk {
            tree,
            levels: vec![Level::new(directory)],
            page: VecDeque::new(),
            size: PAGE_FIRST,
            last: None,
        }
    }

    /// Goes on behind `path`, a path below the directory, such as the one that another walk returned
    /// last. It need not exist.
    pub fn after(tree: &'a T, directory: T::Item, path: &[u8]) -> Result<Walk<'a, T>> {
        let below = match path.strip_prefix(directory.path()) {
            Some(below) if directory.path().is_empty() => below,
            Some([b'/', below @ ..]) => below,
            Some([]) => b"",
            _ => return Err(Error::NotFound(At::new(tree, path))),
        };
        let mut walk = Walk::new(tree, directory);
        for name in below.split(|&b| b == b'/').filter(|name| !name.is_empty()) {
            let Some(level) = walk.levels.last_mut() else {
                break;
            };
            level.from = Some(after(name));
            match tree.item(&level.directory, name)? {
                Some(child) if child.is_walked() => walk.levels.push(Level::new(child)),
                _ => break,
            }
        }
        Ok(walk)
    }

    fn step(&mut self) -> Result<Option<T::Item>> {
        if let Some(mut last) = self.last.take_if(|last| last.is_walked()) {
            if let Some(level) = self.levels.last_mut() {
                level.from = Some(after(name(last.path())));
            }
            self.page.clear();
            self.size = PAGE_FIRST;
            last.shed();
            self.levels.push(Level::new(last));
        }
        loop {
            if let Some(item) = self.page.pop_front() {
                self.last = Some(item.clone());
                return Ok(Some(item));
            }
            let Some(level) = self.levels.last_mut() else {
                return Ok(None);
            };
            let Some(from) = &level.from else {
                self.levels.pop();
                self.size = PAGE_FIRST;
                continue;
            };
            let (mut full, mut bytes) = (false, 0);
            for child in self.tree.items(&level.directory, from)? {
                let child = child?;
                bytes += child.bytes();
                self.page.push_back(child);
                full = self.page.len() == self.size || bytes >= PAGE_BYTES;
                if full {
                    break;
                }
            }
            level.from = self.page.back().filter(|_| full).map(|item| after(name(item.path())));
            self.size = (2 * self.size).min(PAGE_MAX);
        }
    }
}

impl<T: Tree + ?Sized> Iterator for Walk<'_, T> {
    type Item = Result<T::Item>;

    fn next(&mut self) -> Option<Result<T::Item>> {
        let step = self.step();
        if step.is_err() {
            self.levels.clear();
            self.page.clear();
            self.last = None;
        }
        step.transpose()
    }
}
