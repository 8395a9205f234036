//! Rows that lead from what a file is called, or has in it, to the layers that have such files, and
//! from a layer to the manifests that name it.
//!
//! | family | key | value |
//! | --- | --- | --- |
//! | `basenames` | the last component of a path | nothing |
//! | `named` | the same, 0, layer number, block number (4 bytes) | nothing |
//! | `contents` | the first 8 bytes of a sha256, layer number, block number | nothing |
//! | `blocks` | layer number, block number | depth and path of the block's first entry |
//! | `blocks` | layer number | the layer's digest, as text |
//! | `edges` | digest, as text, 0, repository, 0, digest of a manifest that names it | nothing |
//! | `unindexed` | digest of a layer, as text | nothing |
//!
//! A block is so many entries of a layer, in the order of their keys, as [`BLOCK`] says. A row names
//! the block and not the path, which would be most of its bytes; a reader that follows it looks at
//! the entries of the block.
//!
//! Rows of layers whose index was replaced or came to no end may be left over. No layer has their
//! number, so readers pass over them. A base name goes with the rows of
//! the last layer that has it. It is written with the first of its rows in `named` or after it, and
//! [`Index::names_written`] keeps it from being removed meanwhile.

use std::collections::{BTreeSet, HashSet};
use std::sync::PoisonError;

use rocksdb::{Direction, IteratorMode, ReadOptions, WriteBatch};

use super::records::{Entry, State};
use super::rows::entry_key;
use super::{Index, Result};
use crate::oci::{Digest, Repository};

pub const BASENAMES: &str = "basenames";
pub const NAMED: &str = "named";
pub const CONTENTS: &str = "contents";
pub const BLOCKS: &str = "blocks";
pub const EDGES: &str = "edges";
pub const UNINDEXED: &str = "unindexed";

/// The families that every layer has rows everywhere in.
pub const FAMILIES: [&str; 3] = [BASENAMES, NAMED, CONTENTS];

/// Entries of a block.
const BLOCK: u64 = 64;
/// Bytes of a sha256 in a key: enough to tell all files of a registry apart, with a few exceptions.
const HASH: usize = 8;

/// A block of the entries of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Block {
    /// The layer's number.
    pub layer: u64,
    number: u32,
}

impl Block {
    fn key(self) -> [u8; 12] {
        let mut key = [0; 12];
        key[..8].copy_from_slice(&self.layer.to_be_bytes());
        key[8..].copy_from_slice(&self.number.to_be_bytes());
        key
    }

    fn parse(key: &[u8]) -> Option<Block> {
        let (layer, number) = key.split_first_chunk::<8>()?;
        let number = u32::from_be_bytes(number.try_into().ok()?);
        Some(Block { layer: u64::from_be_bytes(*layer), number })
    }
}

/// The rows of a layer in the families above, made from its entries in order.
#[derive(Debug)]
pub(super) struct Across {
    layer: u64,
    entries: u64,
    /// Base names put lately: most layers have the same ones again and again.
    put: HashSet<Box<[u8]>>,
}

/// Base names that are remembered.
const REMEMBERED: usize = 1 << 14;

impl Across {
    pub fn new(layer: u64) -> Across {
        Across { layer, entries: 0, put: HashSet::new() }
    }

    /// Calls `put` with the family, key and value of each row that an entry has. `key`: the entry's
    /// own, behind the layer's number.
    pub fn entry(
        &mut self,
        key: &[u8],
        entry: &Entry,
        mut put: impl FnMut(&'static str, &[u8], &[u8]) -> Result<()>,
    ) -> Result<()> {
        // A layer has fewer entries than blocks have numbers.
        let number = u32::try_from(self.entries / BLOCK).unwrap_or(u32::MAX);
        let block = Block { layer: self.layer, number }.key();
        if self.entries.is_multiple_of(BLOCK) {
            put(BLOCKS, &block, key)?;
        }
        self.entries += 1;
        let path = key.get(size_of::<u16>()..).unwrap_or_default();
        let name = path.rsplit(|&b| b == b'/').next().unwrap_or_default();
        if name.is_empty() || entry.is_whiteout() {
            return Ok(());
        }
        put(NAMED, &[name, b"\0", &block].concat(), b"")?;
        if !self.put.contains(name) {
            if self.put.len() == REMEMBERED {
                self.put.clear();
            }
            self.put.insert(name.into());
            put(BASENAMES, name, b"")?;
        }
        if let Some(hash) = &entry.sha256 {
            put(CONTENTS, &[&hash[..HASH], &block].concat(), b"")?;
        }
        Ok(())
    }
}

/// Rows that are written in order, many at a time, because that is several times faster.
pub(super) struct Sorted<'a> {
    index: &'a Index,
    rows: Vec<(&'static str, Vec<u8>, Vec<u8>)>,
}

impl<'a> Sorted<'a> {
    const ROWS: usize = 1 << 15;

    pub fn new(index: &'a Index) -> Sorted<'a> {
        Sorted { index, rows: Vec::new() }
    }

    pub fn put(&mut self, family: &'static str, key: &[u8], value: &[u8]) -> Result<()> {
        self.rows.push((family, key.to_vec(), value.to_vec()));
        if self.rows.len() == Sorted::ROWS { self.write() } else { Ok(()) }
    }

    pub fn write(&mut self) -> Result<()> {
        self.rows.sort_unstable();
        let mut batch = WriteBatch::default();
        for (family, key, value) in self.rows.drain(..) {
            batch.put_cf(self.index.cf(family), key, value);
        }
        let _writing = self.index.names_written.read().unwrap_or_else(PoisonError::into_inner);
        self.index.db.write(batch).map_err(|e| self.index.failed(e))
    }
}

impl Index {
    /// The base names that begin with `prefix`, in order, as long as `visit` returns `true`.
    pub fn basenames(&self, prefix: &[u8], mut visit: impl FnMut(&[u8]) -> bool) -> Result<()> {
        self.scan(BASENAMES, prefix, |name, _| visit(name))
    }

    /// The blocks that have an entry of this base name.
    pub fn blocks_named(&self, name: &[u8], mut visit: impl FnMut(Block) -> bool) -> Result<()> {
        let prefix = [name, b"\0"].concat();
        self.scan(NAMED, &prefix, |key, _| {
            Block::parse(&key[prefix.len()..]).is_none_or(&mut visit)
        })
    }

    /// The blocks that may have a file of this sha256.
    pub fn blocks_with(&self, hash: &[u8; 32], mut visit: impl FnMut(Block) -> bool) -> Result<()> {
        self.scan(CONTENTS, &hash[..HASH], |key, _| {
            Block::parse(&key[HASH..]).is_none_or(&mut visit)
        })
    }

    /// The entries of a block, with their paths. There are none if its layer is gone.
    pub fn block(&self, block: Block) -> Result<Vec<(Vec<u8>, Entry)>> {
        let start = self.db.get_cf(self.cf(BLOCKS), block.key()).map_err(|e| self.failed(e))?;
        match start {
            Some(start) => self.entries_from(block.layer, &start).take(BLOCK as usize).collect(),
            None => Ok(Vec::new()),
        }
    }

    /// The layer of a number; `None`: no layer has it any more.
    pub fn layer_of(&self, number: u64) -> Result<Option<Digest>> {
        let key = number.to_be_bytes();
        let digest = self.db.get_cf(self.cf(BLOCKS), key).map_err(|e| self.failed(e))?;
        let digest = digest.and_then(|text| String::from_utf8(text).ok()?.parse::<Digest>().ok());
        let Some(digest) = digest else { return Ok(None) };
        match self.state(&digest)? {
            Some(State::Ready(layer)) if layer.number == number => Ok(Some(digest)),
            _ => Ok(None),
        }
    }

    /// The manifests that name a layer or another manifest, by repository, as long as `visit`
    /// returns `true`. The store may lack them by now.
    pub fn holders(
        &self,
        digest: &Digest,
        mut visit: impl FnMut(Repository, Digest) -> bool,
    ) -> Result<()> {
        let prefix = format!("{digest}\0");
        self.scan(EDGES, prefix.as_bytes(), |key, _| {
            let held = std::str::from_utf8(&key[prefix.len()..]).ok();
            let held = held.and_then(|held| held.split_once('\0'));
            match held.map(|(repository, manifest)| (repository.parse(), manifest.parse())) {
                Some((Ok(repository), Ok(manifest))) => visit(repository, manifest),
                _ => true,
            }
        })
    }

    /// Layers of pushed images that have no index yet, as long as `visit` returns `true`.
    pub fn unindexed(&self, mut visit: impl FnMut(Digest) -> bool) -> Result<()> {
        let mut layers = Vec::new();
        self.scan(UNINDEXED, b"", |key, _| {
            layers
                .extend(std::str::from_utf8(key).ok().and_then(|text| text.parse::<Digest>().ok()));
            true
        })?;
        for layer in layers {
            if self.state(&layer)?.is_none() && !visit(layer) {
                break;
            }
        }
        Ok(())
    }

    pub(super) fn scan(
        &self,
        family: &str,
        prefix: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<()> {
        let mut options = ReadOptions::default();
        if let Some(end) = super::rows::after_all(prefix) {
            options.set_iterate_upper_bound(end);
        }
        let start = IteratorMode::From(prefix, Direction::Forward);
        for item in self.db.iterator_cf_opt(self.cf(family), options, start) {
            let (key, value) = item.map_err(|e| self.failed(e))?;
            if !visit(&key, &value) {
                break;
            }
        }
        Ok(())
    }

    /// Adds to `batch` what a manifest of a repository holds: layers, or other manifests.
    pub(super) fn put_edges(
        &self,
        batch: &mut WriteBatch,
        repository: &Repository,
        manifest: &Digest,
        holds: &[Digest],
        are_layers: bool,
    ) -> Result<()> {
        for digest in holds {
            batch.put_cf(self.cf(EDGES), edge(digest, repository, manifest), b"");
            if are_layers && self.state(digest)?.is_none() {
                batch.put_cf(self.cf(UNINDEXED), digest.to_string(), b"");
            }
        }
        Ok(())
    }

    /// Whether what [`Index::put_edges`] writes is there.
    pub(super) fn has_edges(
        &self,
        repository: &Repository,
        manifest: &Digest,
        holds: &[Digest],
    ) -> Result<bool> {
        for digest in holds {
            let row = self.db.get_pinned_cf(self.cf(EDGES), edge(digest, repository, manifest));
            if row.map_err(|e| self.failed(e))?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether a layer has lost its record: it neither has one nor waits for one.
    pub fn is_lost(&self, layer: &Digest) -> Result<bool> {
        let has_record = || match self.state(layer) {
            // It is damaged, which is another matter.
            Err(super::Error::Record { .. }) => Ok(true),
            state => state.map(|state| state.is_some()),
        };
        if has_record()? {
            return Ok(false);
        }
        let waits = self.db.get_pinned_cf(self.cf(UNINDEXED), layer.to_string());
        // The record may have just come: it is written before the other row goes.
        Ok(waits.map_err(|e| self.failed(e))?.is_none() && !has_record()?)
    }

    pub(super) fn delete_edges(
        &self,
        batch: &mut WriteBatch,
        repository: &Repository,
        manifest: &Digest,
        holds: &[Digest],
    ) {
        for digest in holds {
            batch.delete_cf(self.cf(EDGES), edge(digest, repository, manifest));
        }
    }

    /// Removes the rows of a layer in the families that are not ordered by layers.
    pub(super) fn remove_across(&self, number: u64) -> Result<()> {
        const BATCH: usize = 1 << 14;
        let mut across = Across::new(number);
        let (mut batch, mut names) = (WriteBatch::default(), BTreeSet::new());
        for row in self.entries(number, None) {
            let (path, entry) = match row {
                // What a damaged entry has led to is left over.
                Err(super::Error::Record { .. }) => continue,
                row => row?,
            };
            let key = entry_key(number, &path);
            across.entry(&key[size_of::<u64>()..], &entry, |family, key, _| {
                if family == NAMED || family == CONTENTS {
                    batch.delete_cf(self.cf(family), key);
                }
                if family == BASENAMES {
                    names.insert(key.to_vec());
                }
                Ok(())
            })?;
            if batch.len() >= BATCH {
                self.db.write(std::mem::take(&mut batch)).map_err(|e| self.failed(e))?;
            }
        }
        self.db.write(batch).map_err(|e| self.failed(e))?;
        names.iter().try_for_each(|name| self.remove_basename(name))
    }

    /// Removes a base name unless a layer has it.
    fn remove_basename(&self, name: &[u8]) -> Result<()> {
        // A layer that is being indexed writes it between the look and the removal, or not at all.
        let _removing = self.names_written.write().unwrap_or_else(PoisonError::into_inner);
        let mut is_named = false;
        self.scan(NAMED, &[name, b"\0"].concat(), |_, _| {
            is_named = true;
            false
        })?;
        match is_named {
            true => Ok(()),
            false => self.db.delete_cf(self.cf(BASENAMES), name).map_err(|e| self.failed(e)),
        }
    }
}

/// The beginning of the keys of the edges from a digest to manifests of a repository.
pub(super) fn edges(digest: &Digest, repository: &Repository) -> Vec<u8> {
    format!("{digest}\0{repository}\0").into_bytes()
}

fn edge(digest: &Digest, repository: &Repository, manifest: &Digest) -> String {
    format!("{digest}\0{repository}\0{manifest}")
}
