//! Everything below a directory, in an order that can be taken up again.
//!
//! Between two steps nothing of the database is held, and of the directories on
//! the way only where to go on: a step down and up again costs a look-up.

use std::collections::VecDeque;

use super::{At, Error, FileTree, Node, Result};

/// Children read at a time. The rest of them is dropped when the walk goes down,
/// so it starts with few.
const PAGE_FIRST: usize = 4;
const PAGE_MAX: usize = 256;
/// What a page may take in memory: maps of sparse files are up to 4 MiB each.
const PAGE_BYTES: usize = 1 << 20;

/// Walks below a directory: each directory comes before what it has, and names in
/// order. After an error it ends.
#[derive(Debug)]
pub struct Walk<'a> {
    tree: &'a dyn FileTree,
    levels: Vec<Level>,
    /// Read ahead in the last level.
    page: VecDeque<Node>,
    size: usize,
    /// Given out last; walked next, if it is a directory.
    last: Option<Node>,
}

/// A directory on the way.
#[derive(Debug)]
struct Level {
    directory: Node,
    /// The least name that is still to come; `None`: there is none.
    from: Option<Vec<u8>>,
}

impl Level {
    fn new(directory: Node) -> Level {
        Level { directory, from: Some(Vec::new()) }
    }
}

/// The least name after another.
fn after(name: &[u8]) -> Vec<u8> {
    [name, b"\0"].concat()
}

impl<'a> Walk<'a> {
    pub fn new(tree: &'a dyn FileTree, directory: Node) -> Walk<'a> {
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
    pub fn after(tree: &'a dyn FileTree, directory: Node, path: &[u8]) -> Result<Walk<'a>> {
        let below = match path.strip_prefix(directory.path.as_slice()) {
            Some(below) if directory.path.is_empty() => below,
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
            match tree.lookup(&level.directory, name)? {
                Some(child) if child.is_directory() => walk.levels.push(Level::new(child)),
                _ => break,
            }
        }
        Ok(walk)
    }

    fn step(&mut self) -> Result<Option<Node>> {
        if let Some(mut last) = self.last.take_if(|last| last.is_directory()) {
            if let Some(level) = self.levels.last_mut() {
                level.from = Some(after(last.name()));
            }
            self.page.clear();
            self.size = PAGE_FIRST;
            // Of no use on the way, and there may be many levels.
            last.entry.xattrs = Vec::new();
            self.levels.push(Level::new(last));
        }
        loop {
            if let Some(node) = self.page.pop_front() {
                self.last = Some(node.clone());
                return Ok(Some(node));
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
            for child in self.tree.children(&level.directory, from)? {
                let child = child?;
                bytes += child.bytes();
                self.page.push_back(child);
                full = self.page.len() == self.size || bytes >= PAGE_BYTES;
                if full {
                    break;
                }
            }
            level.from = self.page.back().filter(|_| full).map(|node| after(node.name()));
            self.size = (2 * self.size).min(PAGE_MAX);
        }
    }
}

impl Iterator for Walk<'_> {
    type Item = Result<Node>;

    fn next(&mut self) -> Option<Result<Node>> {
        let step = self.step();
        if step.is_err() {
            self.levels.clear();
            self.page.clear();
            self.last = None;
        }
        step.transpose()
    }
}
