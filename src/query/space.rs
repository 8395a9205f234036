//! What takes the space below a directory of an image: bytes of files, summed up two levels deep.

use std::collections::{BTreeMap, HashSet};

use crate::image::listing::{Listing, Stop};
use crate::image::{Kind, Opened, Result};

/// Entries that one step looks at.
const STEP: usize = 4096;
/// Names that are told apart in one directory. What the others have is summed up.
const NAMES_MAX: usize = 20_000;
/// Files with several names that are counted once. Others count with each name.
const LINKED_MAX: usize = 500_000;

/// What lies under one name of a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Bytes of files.
    pub size: u64,
    /// Files, directories and all else, itself included.
    pub entries: u64,
    pub is_directory: bool,
    /// What is directly below it.
    pub below: BTreeMap<Vec<u8>, Share>,
}

/// The work on an answer.
#[derive(Debug)]
pub struct Space {
    listing: Listing,
    /// Bytes of the path of the directory, with the slash after it.
    prefix: usize,
    sum: Share,
    names: usize,
    linked: HashSet<(usize, u64)>,
    is_over: bool,
}

impl Space {
    /// Of the directory at `path`, symbolic links followed.
    pub fn new(opened: Opened, path: &[u8]) -> Result<Space> {
        let listing = Listing::new(opened, path, true)?;
        let path = &listing.shown().path;
        let prefix = if path.is_empty() { 0 } else { path.len() + 1 };
        let sum = Share { is_directory: true, ..Share::default() };
        Ok(Space { listing, prefix, sum, names: 0, linked: HashSet::new(), is_over: false })
    }

    /// Looks at the next entries. Returns the sum at the end.
    pub fn advance(&mut self) -> Result<Option<Share>> {
        if self.is_over {
            return Ok(None);
        }
        let Space { listing, prefix, sum, names, linked, .. } = self;
        let mut left = STEP;
        let stop = listing.visit(|node, _| {
            left -= 1;
            let entry = &node.entry;
            let is_counted = entry.kind == Kind::Regular
                && (entry.links < 2
                    || linked.len() >= LINKED_MAX
                    || linked.insert((node.layer, entry.inode)));
            let size = if is_counted { entry.size } else { 0 };
            let is_directory = node.is_directory();
            let mut share = &mut *sum;
            share.size = share.size.saturating_add(size);
            share.entries += 1;
            let path = node.path.get(*prefix..).unwrap_or_default();
            let mut parts = path.split(|&b| b == b'/');
            for level in 0..2 {
                let Some(name) = parts.next() else { break };
                if !share.below.contains_key(name) {
                    if *names == NAMES_MAX {
                        break;
                    }
                    *names += 1;
                }
                share = share.below.entry(name.to_vec()).or_default();
                share.size = share.size.saturating_add(size);
                share.entries += 1;
                let is_itself = level == path.iter().filter(|&&b| b == b'/').count();
                share.is_directory |= is_directory || !is_itself;
            }
            left > 0
        })?;
        self.is_over = stop != Stop::Pause;
        Ok(self.is_over.then(|| std::mem::take(&mut self.sum)))
    }
}
