//! A layer's rows. Keys start with the layer's number, 8 bytes; all numbers in
//! keys are big-endian, so that order is meaning.
//!
//! | family | key | value |
//! | --- | --- | --- |
//! | `layers` | digest, as text | [`State`] |
//! | `entries` | layer number, depth (2 bytes), path | [`Entry`] |
//! | `names` | layer number, inode (8 bytes), path | nothing: a name of a hard-linked inode |
//! | `names` | layer number, [`FOREIGN`], path | nothing: an entry that is a [`Kind::CrossLayerLink`] |
//! | `spans` | layer number, span number (8 bytes) | [`Span`] |
//!
//! Paths have no slash at either end; the root's is empty and its depth 0. The
//! depth keeps the children of a directory together, without what lies below
//! them.
//!
//! Rows are written without the log, and flushed before the layer's state is
//! written, which makes them visible. A number is used once: what a job leaves
//! that did not get so far, or an index that was made anew, is removed at the
//! next start, unless somebody reads it by then ([`IDENTITY`]).

use std::collections::BTreeSet;
use std::fs::{File, TryLockError};

use rocksdb::{ColumnFamily, DBRawIterator, FlushOptions, ReadOptions, WriteBatch, WriteOptions};

use super::records::{Entry, Layer, Record, Span, State};
use super::{Error, IDENTITY, Index, Result};
use crate::oci::Digest;

pub const LAYERS: &str = "layers";
pub const ENTRIES: &str = "entries";
pub const NAMES: &str = "names";
pub const SPANS: &str = "spans";

/// In the place of an inode.
const FOREIGN: u64 = u64::MAX;

/// In the default family: the next layer's number.
const NEXT_KEY: &[u8] = b"next-layer";
/// In the default family: prefix of the numbers whose rows are to be removed at
/// the next start, unless the job under way says otherwise.
const UNUSED: &[u8] = b"unused-layer/";

/// Depth of a path, which is its number of components.
fn depth(path: &[u8]) -> u16 {
    if path.is_empty() {
        return 0;
    }
    let slashes = path.iter().filter(|&&b| b == b'/').count();
    // Paths are bounded far below.
    u16::try_from(slashes + 1).unwrap_or(u16::MAX)
}

fn entry_key(layer: u64, path: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(10 + path.len());
    key.extend(layer.to_be_bytes());
    key.extend(depth(path).to_be_bytes());
    key.extend(path);
    key
}

fn pair(layer: u64, second: u64) -> Vec<u8> {
    [layer.to_be_bytes(), second.to_be_bytes()].concat()
}

/// Where the keys that start so end, exclusively.
fn after(mut prefix: Vec<u8>) -> Vec<u8> {
    while prefix.last() == Some(&u8::MAX) {
        prefix.pop();
    }
    if let Some(last) = prefix.last_mut() {
        *last += 1;
    }
    prefix
}

/// Rows of one family in order; keys without their common prefix.
struct Rows<'a> {
    index: &'a Index,
    iterator: DBRawIterator<'a>,
    prefix: usize,
}

impl Rows<'_> {
    /// The row in hand, and on to the next.
    fn next<T>(&mut self, read: impl FnOnce(&[u8], &[u8]) -> Result<T>) -> Option<Result<T>> {
        let Some((key, value)) = self.iterator.item() else {
            return match self.iterator.status() {
                Ok(()) => None,
                Err(e) => Some(Err(self.index.failed(e))),
            };
        };
        let row = read(&key[self.prefix..], value);
        self.iterator.next();
        Some(row)
    }
}

/// The entries of a directory in one layer, by name: names and records,
/// whiteouts among them.
// RocksDB's parts cannot be printed.
#[allow(missing_debug_implementations)]
pub struct Children<'a>(Rows<'a>);

impl Iterator for Children<'_> {
    type Item = Result<(Vec<u8>, Entry)>;

    fn next(&mut self) -> Option<Self::Item> {
        let index = self.0.index;
        self.0.next(|name, value| Ok((name.to_vec(), index.decode("an entry", value)?)))
    }
}

/// Paths, in order.
// RocksDB's parts cannot be printed.
#[allow(missing_debug_implementations)]
pub struct Names<'a>(Rows<'a>);

impl Iterator for Names<'_> {
    type Item = Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next(|path, _| Ok(path.to_vec()))
    }
}

impl Index {
    fn rows(&self, family: &str, prefix: Vec<u8>, from: &[u8]) -> Rows<'_> {
        let start = [&prefix, from].concat();
        let length = prefix.len();
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(after(prefix));
        let mut iterator = self.db.raw_iterator_cf_opt(self.cf(family), options);
        iterator.seek(start);
        Rows { index: self, iterator, prefix: length }
    }

    fn cf(&self, family: &str) -> &ColumnFamily {
        self.db.cf_handle(family).expect("opened with the database")
    }

    fn decode<T: Record>(&self, what: &'static str, bytes: &[u8]) -> Result<T> {
        T::decode(bytes).map_err(|cause| Error::Record { path: self.path.clone(), what, cause })
    }

    fn get<T: Record>(&self, family: &str, key: &[u8], what: &'static str) -> Result<Option<T>> {
        let value = self.db.get_pinned_cf(self.cf(family), key).map_err(|e| self.failed(e))?;
        value.map(|bytes| self.decode(what, &bytes)).transpose()
    }

    /// What is known of a layer; `None`: it is not indexed.
    pub fn state(&self, layer: &Digest) -> Result<Option<State>> {
        self.get(LAYERS, layer.to_string().as_bytes(), "a layer")
    }

    /// What a layer says of a path, if anything.
    pub fn entry(&self, layer: u64, path: &[u8]) -> Result<Option<Entry>> {
        self.get(ENTRIES, &entry_key(layer, path), "an entry")
    }

    /// What a layer has in a directory, from the name `from` on.
    pub fn children(&self, layer: u64, directory: &[u8], from: &[u8]) -> Children<'_> {
        self.below(layer, directory, 1, from)
    }

    /// The same, so many levels further down; names are paths from the directory.
    fn below(&self, layer: u64, directory: &[u8], levels: u16, from: &[u8]) -> Children<'_> {
        let mut prefix = entry_key(layer, directory);
        let below = depth(directory).saturating_add(levels);
        prefix[8..10].copy_from_slice(&below.to_be_bytes());
        if !directory.is_empty() {
            prefix.push(b'/');
        }
        Children(self.rows(ENTRIES, prefix, from))
    }

    /// The entries of a layer after a path, nearest the root first; whiteouts are
    /// among them.
    pub fn entries(
        &self,
        layer: u64,
        after: Option<&[u8]>,
    ) -> impl Iterator<Item = Result<(Vec<u8>, Entry)>> {
        let start = after.map(|path| {
            // Behind this one, before any other.
            let mut key = entry_key(layer, path).split_off(size_of::<u64>());
            key.push(0);
            key
        });
        let prefix = layer.to_be_bytes().to_vec();
        let mut rows = self.rows(ENTRIES, prefix, start.as_deref().unwrap_or_default());
        std::iter::from_fn(move || {
            rows.next(|key, value| {
                // Behind the depth.
                let path = key.get(size_of::<u16>()..).unwrap_or_default();
                Ok((path.to_vec(), self.decode("an entry", value)?))
            })
        })
    }

    /// The names of an inode with more than one in its layer.
    pub fn names(&self, layer: u64, inode: u64) -> Names<'_> {
        Names(self.rows(NAMES, pair(layer, inode), b""))
    }

    /// The layer's entries that link to what a lower layer may hold.
    pub fn cross_layer_links(&self, layer: u64) -> Names<'_> {
        self.names(layer, FOREIGN)
    }

    /// One of a layer's spans, counted from 0.
    pub fn span(&self, layer: u64, number: u64) -> Result<Option<Span>> {
        self.get(SPANS, &pair(layer, number), "a span")
    }
}

/// A layer being indexed: rows that nobody sees until it is finished.
// RocksDB's parts cannot be printed.
#[allow(missing_debug_implementations)]
pub struct LayerWriter<'a> {
    index: &'a Index,
    number: u64,
    unlogged: WriteOptions,
}

impl Index {
    /// Begins with a layer.
    pub fn begin_layer(&self) -> Result<LayerWriter<'_>> {
        let mut next = self.next_layer.lock().unwrap_or_else(|e| e.into_inner());
        let mut batch = WriteBatch::default();
        batch.put(NEXT_KEY, (*next + 1).to_be_bytes());
        batch.put(unused_key(*next), b"");
        self.db.write(batch).map_err(|e| self.failed(e))?;
        let number = *next;
        *next += 1;
        let mut unlogged = WriteOptions::default();
        unlogged.disable_wal(true);
        Ok(LayerWriter { index: self, number, unlogged })
    }

    pub(super) fn read_next_layer(&self) -> Result<()> {
        let next = self.db.get(NEXT_KEY).map_err(|e| self.failed(e))?;
        let next = next.and_then(|bytes| Some(u64::from_be_bytes(bytes.try_into().ok()?)));
        *self.next_layer.lock().unwrap_or_else(|e| e.into_inner()) = next.unwrap_or(0);
        Ok(())
    }

    /// Removes the rows that jobs have left which came to no end, and those that
    /// were replaced. For the start of a server: it does not read them itself, and
    /// where another process may, as a mount, they stay until a later start.
    pub fn clean_layers(&self) -> Result<()> {
        let identity = self.path.join(IDENTITY);
        let failed = |e| crate::storage::Error::io("lock", &identity, e);
        let file = File::open(&identity).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(()),
            Err(TryLockError::Error(e)) => return Err(failed(e).into()),
        }
        let mut unused = BTreeSet::new();
        let mut rows = self.rows("default", UNUSED.to_vec(), b"");
        while let Some(number) = rows.next(|key, _| Ok(key.try_into().map(u64::from_be_bytes))) {
            if let Ok(number) = number? {
                unused.insert(number);
            }
        }
        for number in unused {
            self.remove_rows(number)?;
            self.db.delete(unused_key(number)).map_err(|e| self.failed(e))?;
        }
        Ok(())
    }

    fn remove_rows(&self, number: u64) -> Result<()> {
        // The copy first: where it has filled the disk, nothing else can be written.
        let copy = self.copy_path(number);
        match std::fs::remove_file(&copy) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(crate::storage::Error::io("remove", &copy, e).into());
            }
            _ => {}
        }
        let (from, to) = (number.to_be_bytes(), (number + 1).to_be_bytes());
        for family in [ENTRIES, NAMES, SPANS] {
            self.db.delete_range_cf(self.cf(family), from, to).map_err(|e| self.failed(e))?;
        }
        Ok(())
    }
}

fn unused_key(number: u64) -> Vec<u8> {
    [UNUSED, &number.to_be_bytes()].concat()
}

impl LayerWriter<'_> {
    pub fn number(&self) -> u64 {
        self.number
    }

    fn put(&self, family: &str, key: &[u8], value: &[u8]) -> Result<()> {
        self.index
            .db
            .put_cf_opt(self.index.cf(family), key, value, &self.unlogged)
            .map_err(|e| self.index.failed(e))
    }

    fn delete(&self, family: &str, key: &[u8]) -> Result<()> {
        self.index
            .db
            .delete_cf_opt(self.index.cf(family), key, &self.unlogged)
            .map_err(|e| self.index.failed(e))
    }

    pub fn entry(&self, path: &[u8]) -> Result<Option<Entry>> {
        self.index.entry(self.number, path)
    }

    pub fn put_entry(&self, path: &[u8], entry: &Entry) -> Result<()> {
        self.put(ENTRIES, &entry_key(self.number, path), &entry.encode())
    }

    pub fn delete_entry(&self, path: &[u8]) -> Result<()> {
        self.delete(ENTRIES, &entry_key(self.number, path))
    }

    /// What lies so many levels below a directory, 1 being its children.
    pub fn below(&self, directory: &[u8], levels: u16) -> Children<'_> {
        self.index.below(self.number, directory, levels, b"")
    }

    pub fn put_name(&self, inode: u64, path: &[u8]) -> Result<()> {
        let key = [&pair(self.number, inode), path].concat();
        self.put(NAMES, &key, b"")
    }

    pub fn delete_name(&self, inode: u64, path: &[u8]) -> Result<()> {
        let key = [&pair(self.number, inode), path].concat();
        self.delete(NAMES, &key)
    }

    pub fn put_foreign_link(&self, path: &[u8]) -> Result<()> {
        self.put_name(FOREIGN, path)
    }

    pub fn delete_foreign_link(&self, path: &[u8]) -> Result<()> {
        self.delete_name(FOREIGN, path)
    }

    pub fn cross_layer_links(&self) -> Names<'_> {
        self.index.cross_layer_links(self.number)
    }

    pub fn names(&self, inode: u64) -> Names<'_> {
        self.index.names(self.number, inode)
    }

    /// Calls `visit` with each inode of more than one name, and its names.
    pub fn linked(&self, mut visit: impl FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
        let prefix = self.number.to_be_bytes().to_vec();
        let mut rows = self.index.rows(NAMES, prefix, b"");
        while let Some(row) = rows.next(|key, _| {
            let (inode, path) = key.split_at(8);
            Ok((inode.try_into().map(u64::from_be_bytes), path.to_vec()))
        }) {
            if let (Ok(inode), path) = row?
                && inode != FOREIGN
            {
                visit(inode, &path)?;
            }
        }
        Ok(())
    }

    pub fn put_span(&self, number: u64, span: &Span) -> Result<()> {
        self.put(SPANS, &pair(self.number, number), &span.encode())
    }

    /// Makes all that was written visible as the index of `layer`.
    pub fn finish(self, digest: &Digest, layer: Layer) -> Result<State> {
        let db = &self.index.db;
        let families = [ENTRIES, NAMES, SPANS].map(|family| self.index.cf(family));
        db.flush_cfs_opt(&families, &FlushOptions::default()).map_err(|e| self.index.failed(e))?;
        self.publish(digest, State::Ready(layer))
    }

    /// Records that there is no index of `layer`, and why.
    pub fn refuse(self, digest: &Digest, reason: String) -> Result<State> {
        self.index.remove_rows(self.number)?;
        self.publish(digest, State::Refused(reason))
    }

    /// Removes what was written.
    pub fn abandon(self) -> Result<()> {
        self.index.remove_rows(self.number)?;
        self.index.db.delete(unused_key(self.number)).map_err(|e| self.index.failed(e))
    }

    fn publish(&self, digest: &Digest, state: State) -> Result<State> {
        let before = match self.index.state(digest) {
            // Damaged: with it goes the number of its rows, which stay.
            Err(Error::Record { .. }) => None,
            before => before?,
        };
        let mut batch = WriteBatch::default();
        batch.put_cf(self.index.cf(LAYERS), digest.to_string().as_bytes(), state.encode());
        batch.delete(unused_key(self.number));
        // Somebody may be reading it: it goes at the next start.
        if let Some(State::Ready(Layer { number, .. })) = before {
            batch.put(unused_key(number), b"");
        }
        self.index.db.write(batch).map_err(|e| self.index.failed(e))?;
        Ok(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        assert_eq!(entry_key(1, b""), [0, 0, 0, 0, 0, 0, 0, 1, 0, 0]);
        assert_eq!(entry_key(2, b"a/b"), *b"\0\0\0\0\0\0\0\x02\0\x02a/b");
        assert_eq!(after(vec![1, 2]), [1, 3]);
        assert_eq!(after(vec![1, 255, 255]), [2]);
    }
}
