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
//! | `grams` | layer number, row number (8 bytes) | what text some files have ([`grams`]) |
//!
//! Paths have no slash at either end; the root's is empty and its depth 0. The
//! depth keeps the children of a directory together, without what lies below
//! them.
//!
//! The rows of a small layer are gathered in memory and written in one batch with the layer's
//! state, so that small layers share the log, the memtables and the files that these become. A
//! layer with more than [`BATCH_MAX`] bytes of rows writes them without the log and flushes them
//! into files of its own; its state is flushed after them. A follower sees files in the order in
//! which they were flushed, and a batch as a whole, so a layer's state is never visible before its
//! rows.
//!
//! A number is used once. The rows that an interrupted job leaves, and those of an index that was
//! replaced, are removed at the next start, unless another process reads them then ([`IDENTITY`]).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::PoisonError;
use std::vec;

use rocksdb::{ColumnFamily, DBRawIterator, FlushOptions, ReadOptions, WriteBatch, WriteOptions};

use super::across::{Across, BLOCKS, Sorted, UNINDEXED};
use super::grams::{self, GRAMS, Needs};
use super::records::{Entry, Layer, Record, Span, State};
use super::{Error, IDENTITY, Index, Result};
use crate::oci::Digest;

pub const LAYERS: &str = "layers";
pub const ENTRIES: &str = "entries";
pub const NAMES: &str = "names";
pub const SPANS: &str = "spans";

/// In the place of an inode.
const FOREIGN: u64 = u64::MAX;

/// The families of a layer's rows.
pub(super) const ROW_FAMILIES: [&str; 5] = [ENTRIES, NAMES, SPANS, GRAMS, BLOCKS];

/// Bytes of rows that are written in one batch with a layer's state. The files that a larger layer
/// gets for itself are then large enough for their number to follow the bytes of the index.
const BATCH_MAX: usize = 4 << 20;

/// In the default family: a number that no layer has, and none above it.
const NEXT_KEY: &[u8] = b"next-layer";
/// Numbers that are reserved at a time; a crash loses the rest of them.
const RESERVED: u64 = 1 << 10;
/// In the default family: prefix of the numbers whose rows and seekable copy are removed at the
/// next start, unless they are those of the layer that stands as the value.
const UNUSED: &[u8] = b"unused-layer/";

/// The numbers of the layers to come.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    next: u64,
    /// The first that is not reserved.
    reserved: u64,
}

/// Depth of a path, which is its number of components.
fn depth(path: &[u8]) -> u16 {
    if path.is_empty() {
        return 0;
    }
    let slashes = path.iter().filter(|&&b| b == b'/').count();
    // Paths are bounded far below.
    u16::try_from(slashes + 1).unwrap_or(u16::MAX)
}

pub(super) fn entry_key(layer: u64, path: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(10 + path.len());
    key.extend(layer.to_be_bytes());
    key.extend(depth(path).to_be_bytes());
    key.extend(path);
    key
}

/// What the keys start with of the entries that lie `levels` below a directory, 1 being its
/// children.
fn below_prefix(layer: u64, directory: &[u8], levels: u16) -> Vec<u8> {
    let mut prefix = entry_key(layer, directory);
    let below = depth(directory).saturating_add(levels);
    prefix[8..10].copy_from_slice(&below.to_be_bytes());
    if !directory.is_empty() {
        prefix.push(b'/');
    }
    prefix
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

/// The same; `None`: there is no such end.
pub(super) fn after_all(prefix: &[u8]) -> Option<Vec<u8>> {
    Some(after(prefix.to_vec())).filter(|end| !end.is_empty())
}

/// Rows of one family in order; keys without their common prefix.
pub(super) struct Rows<'a> {
    index: &'a Index,
    source: Source<'a>,
    prefix: usize,
}

enum Source<'a> {
    Database(DBRawIterator<'a>),
    /// Rows of a small layer that is being indexed.
    Memory(vec::IntoIter<(Vec<u8>, Vec<u8>)>),
}

impl Rows<'_> {
    /// Reads the current row and advances to the next.
    pub(super) fn next<T>(
        &mut self,
        read: impl FnOnce(&[u8], &[u8]) -> Result<T>,
    ) -> Option<Result<T>> {
        let iterator = match &mut self.source {
            Source::Memory(rows) => {
                return rows.next().map(|(key, value)| read(&key[self.prefix..], &value));
            }
            Source::Database(iterator) => iterator,
        };
        let Some((key, value)) = iterator.item() else {
            return match iterator.status() {
                Ok(()) => None,
                Err(e) => Some(Err(self.index.failed(e))),
            };
        };
        let row = read(&key[self.prefix..], value);
        iterator.next();
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
    pub(super) fn rows(&self, family: &str, prefix: Vec<u8>, from: &[u8]) -> Rows<'_> {
        let start = [&prefix, from].concat();
        let length = prefix.len();
        let mut options = ReadOptions::default();
        if let Some(end) = after_all(&prefix) {
            options.set_iterate_upper_bound(end);
        }
        // They are many, and a question reads all of them.
        options.fill_cache(family != GRAMS);
        let mut iterator = self.db.raw_iterator_cf_opt(self.cf(family), options);
        iterator.seek(start);
        Rows { index: self, source: Source::Database(iterator), prefix: length }
    }

    pub(super) fn cf(&self, family: &str) -> &ColumnFamily {
        self.db.cf_handle(family).expect("opened with the database")
    }

    pub(super) fn decode<T: Record>(&self, what: &'static str, bytes: &[u8]) -> Result<T> {
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
        Children(self.rows(ENTRIES, below_prefix(layer, directory, 1), from))
    }

    /// The entries of a layer after a path, nearest the root first; whiteouts are
    /// among them.
    pub fn entries(
        &self,
        layer: u64,
        after: Option<&[u8]>,
    ) -> impl Iterator<Item = Result<(Vec<u8>, Entry)>> + use<'_> {
        let start = after.map(|path| {
            // Behind this one, before any other.
            let mut key = entry_key(layer, path).split_off(size_of::<u64>());
            key.push(0);
            key
        });
        self.entries_from(layer, start.as_deref().unwrap_or_default())
    }

    /// The entries of a layer from a key on, of which the layer's number is left out.
    pub(super) fn entries_from(
        &self,
        layer: u64,
        start: &[u8],
    ) -> impl Iterator<Item = Result<(Vec<u8>, Entry)>> + use<'_> {
        let mut rows = self.rows(ENTRIES, layer.to_be_bytes().to_vec(), start);
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

    /// The files of a layer, by inode, that may have the text that is needed: some of those in each
    /// range. A part of the answer may be `None`, so that the caller hears of every piece of work.
    pub fn files_with<'a>(
        &'a self,
        layer: u64,
        needs: &'a Needs,
    ) -> impl Iterator<Item = Result<Option<RangeInclusive<u64>>>> + use<'a> {
        let mut rows = self.rows(GRAMS, layer.to_be_bytes().to_vec(), b"");
        std::iter::from_fn(move || {
            rows.next(|_, row| {
                let failed = |cause| {
                    let (path, what) = (self.path.clone(), "what text files have");
                    Error::Record { path, what, cause }
                };
                grams::read(row, needs).map_err(failed)
            })
        })
    }

    /// One of a layer's spans, counted from 0.
    pub fn span(&self, layer: u64, number: u64) -> Result<Option<Span>> {
        self.get(SPANS, &pair(layer, number), "a span")
    }
}

/// A layer that is being indexed; its rows are visible once it is finished.
// RocksDB's parts cannot be printed.
#[allow(missing_debug_implementations)]
pub struct LayerWriter<'a> {
    index: &'a Index,
    digest: Digest,
    number: u64,
    /// `None`: there are more rows than fit into a batch, and they are in the database.
    batch: RefCell<Option<Gathered>>,
    unlogged: WriteOptions,
}

/// Rows that are not in the database yet, by family.
#[derive(Default)]
struct Gathered {
    rows: [BTreeMap<Vec<u8>, Vec<u8>>; ROW_FAMILIES.len()],
    bytes: usize,
}

impl Gathered {
    fn family(&mut self, family: &str) -> &mut BTreeMap<Vec<u8>, Vec<u8>> {
        let place = ROW_FAMILIES.iter().position(|known| *known == family);
        &mut self.rows[place.expect("a family of rows")]
    }

    fn put(&mut self, family: &str, key: &[u8], value: &[u8]) {
        self.bytes += key.len() + value.len();
        if let Some(before) = self.family(family).insert(key.to_vec(), value.to_vec()) {
            self.bytes -= key.len() + before.len();
        }
    }

    fn delete(&mut self, family: &str, key: &[u8]) {
        if let Some(before) = self.family(family).remove(key) {
            self.bytes -= key.len() + before.len();
        }
    }
}

impl Index {
    /// Begins to index a layer.
    pub fn begin_layer(&self, digest: &Digest) -> Result<LayerWriter<'_>> {
        let mut numbers = self.numbers.lock().unwrap_or_else(|e| e.into_inner());
        if numbers.next == numbers.reserved {
            let reserved = numbers.next + RESERVED;
            self.db.put(NEXT_KEY, reserved.to_be_bytes()).map_err(|e| self.failed(e))?;
            numbers.reserved = reserved;
        }
        let number = numbers.next;
        numbers.next += 1;
        let mut unlogged = WriteOptions::default();
        unlogged.disable_wal(true);
        let batch = RefCell::new(Some(Gathered::default()));
        Ok(LayerWriter { index: self, digest: *digest, number, batch, unlogged })
    }

    pub(super) fn read_next_layer(&self) -> Result<()> {
        let next = self.db.get(NEXT_KEY).map_err(|e| self.failed(e))?;
        let next = next.and_then(|bytes| Some(u64::from_be_bytes(bytes.try_into().ok()?)));
        let next = next.unwrap_or(0);
        *self.numbers.lock().unwrap_or_else(|e| e.into_inner()) = Numbers { next, reserved: next };
        Ok(())
    }

    /// Removes the rows that jobs have left which came to no end, and those that
    /// were replaced, and what a scrub has left. For the start of a server: it does not read them itself, and
    /// where another process may, as a mount, they stay until a later start.
    pub fn clean_layers(&self) -> Result<()> {
        super::remove_folder(&self.scratch_folder())?;
        if !self.is_read_here_only()? {
            return Ok(());
        }
        let mut unused = BTreeMap::new();
        let mut rows = self.rows("default", UNUSED.to_vec(), b"");
        let read = |key: &[u8], digest: &[u8]| {
            let digest = std::str::from_utf8(digest).ok().and_then(|text| text.parse().ok());
            Ok((key.try_into().map(u64::from_be_bytes), digest))
        };
        while let Some(row) = rows.next(read) {
            if let (Ok(number), digest) = row? {
                unused.insert(number, digest);
            }
        }
        for (number, digest) in unused {
            if !self.is_number_of(number, digest.as_ref())? {
                self.remove_rows(number)?;
            }
            self.db.delete(unused_key(number)).map_err(|e| self.failed(e))?;
        }
        Ok(())
    }

    /// Takes the records of the layers that are `gone` away. Returns the numbers of their rows, which
    /// stay until [`Index::remove_retired`], or the next start.
    pub fn retire_layers(
        &self,
        mut gone: impl FnMut(&Digest) -> crate::storage::Result<bool>,
    ) -> Result<Vec<u64>> {
        let mut layers = Vec::new();
        for family in [LAYERS, UNINDEXED] {
            let mut rows = self.rows(family, Vec::new(), b"");
            let parse = |key: &[u8], _: &[u8]| {
                Ok(std::str::from_utf8(key).ok().and_then(|text| text.parse::<Digest>().ok()))
            };
            while let Some(digest) = rows.next(parse) {
                if let Some(digest) = digest?
                    && gone(&digest)?
                {
                    layers.push(digest);
                }
            }
        }
        let mut numbers = Vec::new();
        for layer in layers {
            let mut batch = WriteBatch::default();
            match self.state(&layer) {
                Ok(Some(State::Ready(Layer { number, .. }))) => {
                    batch.put(unused_key(number), layer.to_string());
                    numbers.push(number);
                }
                // A damaged record does not say which rows are the layer's.
                Ok(_) | Err(Error::Record { .. }) => {}
                Err(error) => return Err(error),
            }
            batch.delete_cf(self.cf(LAYERS), layer.to_string());
            batch.delete_cf(self.cf(UNINDEXED), layer.to_string());
            self.db.write(batch).map_err(|e| self.failed(e))?;
        }
        Ok(numbers)
    }

    /// Removes the rows and seekable copies of layers that [`Index::retire_layers`] took away, unless
    /// another process may read them. Returns the numbers that stay.
    pub fn remove_retired(&self, numbers: Vec<u64>) -> Result<Vec<u64>> {
        if !self.is_read_here_only()? {
            return Ok(numbers);
        }
        for number in numbers {
            self.remove_rows(number)?;
            self.db.delete(unused_key(number)).map_err(|e| self.failed(e))?;
        }
        Ok(Vec::new())
    }

    /// Whether no other process reads the index.
    fn is_read_here_only(&self) -> Result<bool> {
        let identity = self.path.join(IDENTITY);
        let failed = |e| crate::storage::Error::io("lock", &identity, e);
        let file = File::open(&identity).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(e)) => Err(failed(e).into()),
        }
    }

    fn is_number_of(&self, number: u64, layer: Option<&Digest>) -> Result<bool> {
        let Some(layer) = layer else { return Ok(false) };
        match self.state(layer) {
            Ok(Some(State::Ready(layer))) => Ok(layer.number == number),
            Ok(_) | Err(Error::Record { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn remove_copy(&self, number: u64) -> Result<()> {
        let copy = self.copy_path(number);
        match std::fs::remove_file(&copy) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(crate::storage::Error::io("remove", &copy, e).into())
            }
            _ => Ok(()),
        }
    }

    fn remove_rows(&self, number: u64) -> Result<()> {
        // The copy first: where it has filled the disk, nothing else can be written.
        self.remove_copy(number)?;
        self.remove_across(number)?;
        let (from, to) = (number.to_be_bytes(), (number + 1).to_be_bytes());
        for family in ROW_FAMILIES {
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

    /// Where the layer's seekable copy is to be written. A copy without its layer is removed at the
    /// next start.
    pub fn copy_path(&self) -> Result<PathBuf> {
        self.mark_unused()?;
        Ok(self.index.copy_path(self.number))
    }

    /// Records that this number has something to remove unless its layer is finished.
    fn mark_unused(&self) -> Result<()> {
        let (key, digest) = (unused_key(self.number), self.digest.to_string());
        self.index.db.put(key, digest).map_err(|e| self.index.failed(e))
    }

    fn put(&self, family: &str, key: &[u8], value: &[u8]) -> Result<()> {
        if let Some(batch) = &mut *self.batch.borrow_mut() {
            batch.put(family, key, value);
            if batch.bytes <= BATCH_MAX {
                return Ok(());
            }
        } else {
            return self.put_unlogged(family, key, value);
        }
        self.spill()
    }

    /// Moves the gathered rows into the database, where all others follow them.
    fn spill(&self) -> Result<()> {
        self.mark_unused()?;
        let gathered = self.batch.take().unwrap_or_default();
        for (family, rows) in ROW_FAMILIES.into_iter().zip(gathered.rows) {
            for (key, value) in rows {
                self.put_unlogged(family, &key, &value)?;
            }
        }
        Ok(())
    }

    fn put_unlogged(&self, family: &str, key: &[u8], value: &[u8]) -> Result<()> {
        self.index
            .db
            .put_cf_opt(self.index.cf(family), key, value, &self.unlogged)
            .map_err(|e| self.index.failed(e))
    }

    fn delete(&self, family: &str, key: &[u8]) -> Result<()> {
        if let Some(batch) = &mut *self.batch.borrow_mut() {
            batch.delete(family, key);
            return Ok(());
        }
        self.index
            .db
            .delete_cf_opt(self.index.cf(family), key, &self.unlogged)
            .map_err(|e| self.index.failed(e))
    }

    /// The rows of a family whose keys start with `prefix`, as they are now.
    fn rows(&self, family: &str, prefix: Vec<u8>) -> Rows<'_> {
        let Some(batch) = &mut *self.batch.borrow_mut() else {
            return self.index.rows(family, prefix, b"");
        };
        let length = prefix.len();
        let range = batch.family(family).range(prefix.clone()..after(prefix));
        let rows: Vec<_> = range.map(|(key, value)| (key.clone(), value.clone())).collect();
        Rows { index: self.index, source: Source::Memory(rows.into_iter()), prefix: length }
    }

    pub fn entry(&self, path: &[u8]) -> Result<Option<Entry>> {
        let Some(batch) = &mut *self.batch.borrow_mut() else {
            return self.index.entry(self.number, path);
        };
        let value = batch.family(ENTRIES).get(&entry_key(self.number, path));
        value.map(|bytes| self.index.decode("an entry", bytes)).transpose()
    }

    pub fn put_entry(&self, path: &[u8], entry: &Entry) -> Result<()> {
        self.put(ENTRIES, &entry_key(self.number, path), &entry.encode())
    }

    pub fn delete_entry(&self, path: &[u8]) -> Result<()> {
        self.delete(ENTRIES, &entry_key(self.number, path))
    }

    /// What lies so many levels below a directory, 1 being its children.
    pub fn below(&self, directory: &[u8], levels: u16) -> Children<'_> {
        Children(self.rows(ENTRIES, below_prefix(self.number, directory, levels)))
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
        self.names(FOREIGN)
    }

    pub fn names(&self, inode: u64) -> Names<'_> {
        Names(self.rows(NAMES, pair(self.number, inode)))
    }

    /// Calls `visit` with each inode of more than one name, and its names.
    pub fn linked(&self, mut visit: impl FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
        let prefix = self.number.to_be_bytes().to_vec();
        let mut rows = self.rows(NAMES, prefix);
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

    pub fn put_grams(&self, number: u64, row: &[u8]) -> Result<()> {
        self.put(GRAMS, &pair(self.number, number), row)
    }

    /// Makes all that was written visible as the index of the layer.
    pub fn finish(self, layer: Layer) -> Result<State> {
        self.publish(State::Ready(layer))
    }

    /// Records that there is no index of the layer, and why.
    pub fn refuse(self, reason: String) -> Result<State> {
        self.remove_written()?;
        self.batch.replace(Some(Gathered::default()));
        self.publish(State::Refused(reason))
    }

    /// Removes what was written.
    pub fn abandon(self) -> Result<()> {
        self.remove_written()?;
        self.index.db.delete(unused_key(self.number)).map_err(|e| self.index.failed(e))
    }

    fn remove_written(&self) -> Result<()> {
        match self.batch.take() {
            Some(_) => self.index.remove_copy(self.number),
            None => self.index.remove_rows(self.number),
        }
    }

    fn publish(self, state: State) -> Result<State> {
        let Index { db, .. } = self.index;
        let failed = |e| self.index.failed(e);
        let before = match self.index.state(&self.digest) {
            // The damaged record goes, and with it the number of its rows, which stay.
            Err(Error::Record { .. }) => None,
            before => before?,
        };
        let digest = self.digest.to_string();
        let mut batch = WriteBatch::default();
        // Other processes may read the rows that are replaced: they go at the next start.
        if let Some(State::Ready(Layer { number, .. })) = before {
            batch.put(unused_key(number), &digest);
        }
        let layers = self.index.cf(LAYERS);
        let is_ready = matches!(state, State::Ready(_));
        let number = self.number.to_be_bytes();
        let mut across = Across::new(self.number);
        match self.batch.take() {
            Some(mut gathered) => {
                for (key, value) in gathered.family(ENTRIES).iter().filter(|_| is_ready) {
                    let entry = self.index.decode("an entry", value)?;
                    across.entry(&key[size_of::<u64>()..], &entry, |family, key, value| {
                        batch.put_cf(self.index.cf(family), key, value);
                        Ok(())
                    })?;
                }
                if is_ready {
                    batch.put_cf(self.index.cf(BLOCKS), number, &digest);
                }
                for (family, rows) in ROW_FAMILIES.into_iter().zip(gathered.rows) {
                    for (key, value) in rows {
                        batch.put_cf(self.index.cf(family), key, value);
                    }
                }
                batch.put_cf(layers, &digest, state.encode());
            }
            None => {
                db.write(std::mem::take(&mut batch)).map_err(failed)?;
                let mut rows = self.index.rows(ENTRIES, number.to_vec(), b"");
                let mut sorted = Sorted::new(self.index);
                while let Some(row) = rows.next(|key, value| {
                    let entry = self.index.decode("an entry", value)?;
                    across.entry(key, &entry, |family, key, value| sorted.put(family, key, value))
                }) {
                    row?;
                }
                sorted.put(BLOCKS, &number, digest.as_bytes())?;
                sorted.write()?;
                // These rows share memtables and files with those of other layers. They have to be
                // on the disk before the state is.
                db.flush_wal(true).map_err(failed)?;
                let families = ROW_FAMILIES.map(|family| self.index.cf(family));
                db.flush_cfs_opt(&families, &FlushOptions::default()).map_err(failed)?;
                db.put_cf_opt(layers, &digest, state.encode(), &self.unlogged).map_err(failed)?;
                db.flush_cf(layers).map_err(failed)?;
            }
        }
        batch.delete(unused_key(self.number));
        batch.delete_cf(self.index.cf(UNINDEXED), &digest);
        let writing = self.index.names_written.read().unwrap_or_else(PoisonError::into_inner);
        db.write(batch).map_err(failed)?;
        drop(writing);
        self.index.count_files();
        Ok(state)
    }
}

#[cfg(test)]
mod tests {
    use super::super::records::Kind;
    use super::*;
    use crate::layer::codec::Compression;
    use crate::oci::Algorithm;

    #[test]
    fn keys() {
        assert_eq!(entry_key(1, b""), [0, 0, 0, 0, 0, 0, 0, 1, 0, 0]);
        assert_eq!(entry_key(2, b"a/b"), *b"\0\0\0\0\0\0\0\x02\0\x02a/b");
        assert_eq!(after(vec![1, 2]), [1, 3]);
        assert_eq!(after(vec![1, 255, 255]), [2]);
    }

    fn digest(name: &str) -> Digest {
        Algorithm::Sha256.digest(name.as_bytes())
    }

    fn layer(number: u64) -> Layer {
        Layer {
            number,
            compression: Compression::None,
            copied: false,
            compressed: 0,
            uncompressed: 0,
            diff_id: [0; 32],
            entries: 0,
            spans: Vec::new(),
            cross_layer_links: 0,
        }
    }

    /// A path of 4,000 bytes.
    fn path(number: usize) -> Vec<u8> {
        format!("{number:04000}").into_bytes()
    }

    /// More rows of such paths than fit into a batch.
    const LARGE: usize = BATCH_MAX / 4000 + 10;

    fn write<'a>(index: &'a Index, name: &str, rows: usize) -> LayerWriter<'a> {
        let writer = index.begin_layer(&digest(name)).unwrap();
        for number in 0..rows {
            writer.put_entry(&path(number), &Entry::implicit(Kind::Regular)).unwrap();
            writer.put_name(7, &path(number)).unwrap();
        }
        writer
    }

    fn number_of(index: &Index, name: &str) -> Option<u64> {
        match index.state(&digest(name)).unwrap()? {
            State::Ready(layer) => Some(layer.number),
            State::Refused(_) => None,
        }
    }

    fn count(index: &Index, number: u64) -> (usize, usize) {
        (index.entries(number, None).count(), index.names(number, 7).count())
    }

    /// Files of rows in the database.
    fn files(index: &Index) -> usize {
        index.db.live_files().unwrap().len()
    }

    #[test]
    fn small_and_large_layers_are_read_as_written_and_followed() {
        let dir = tempfile::tempdir().unwrap();
        let path_of_db = dir.path().join("db");
        let index = Index::open(&path_of_db).unwrap();
        let follower = Index::follow(&path_of_db).unwrap();
        for (name, rows) in [("small", 10), ("large", LARGE)] {
            let writer = write(&index, name, rows);
            assert_eq!(writer.batch.borrow().is_some(), name == "small");
            // What is deleted while it is indexed, and what is read by then.
            writer.delete_entry(&path(3)).unwrap();
            writer.delete_name(7, &path(4)).unwrap();
            assert_eq!(writer.entry(&path(3)).unwrap(), None);
            assert!(writer.entry(&path(4)).unwrap().is_some());
            assert_eq!(writer.below(b"", 1).count(), rows - 1);
            assert_eq!(writer.names(7).count(), rows - 1);
            let number = writer.number();
            follower.catch_up().unwrap();
            assert_eq!(number_of(&index, name), None);
            assert_eq!(number_of(&follower, name), None);
            writer.finish(layer(number)).unwrap();
            follower.catch_up().unwrap();
            for reader in [&index, &follower] {
                assert_eq!(number_of(reader, name), Some(number));
                assert_eq!(count(reader, number), (rows - 1, rows - 1));
            }
        }
    }

    #[test]
    fn what_was_interrupted_or_replaced_goes_at_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let path_of_db = dir.path().join("db");
        let reopen = || {
            let index = Index::open(&path_of_db).unwrap();
            index.clean_layers().unwrap();
            index
        };
        for rows in [10, LARGE] {
            let index = reopen();
            let first = write(&index, "a", rows);
            let number = first.number();
            first.finish(layer(number)).unwrap();
            let second = write(&index, "a", rows - 2);
            let replacing = second.number();
            // The process ends here, as far as this layer is concerned.
            drop(second);
            drop(index);

            let index = reopen();
            assert_eq!(number_of(&index, "a"), Some(number));
            assert_eq!(count(&index, number), (rows, rows));
            assert_eq!(count(&index, replacing), (0, 0));
            let third = write(&index, "a", rows - 1);
            let replacing = third.number();
            assert!(replacing > number);
            third.finish(layer(replacing)).unwrap();
            assert_eq!(count(&index, number), (rows, rows), "another process may read it");
            drop(index);

            let index = reopen();
            assert_eq!(number_of(&index, "a"), Some(replacing));
            assert_eq!(count(&index, replacing), (rows - 1, rows - 1));
            assert_eq!(count(&index, number), (0, 0));
            let unused = index.rows("default", UNUSED.to_vec(), b"").next(|_, _| Ok(())).is_some();
            assert!(!unused);
        }
    }

    fn basenames(index: &Index) -> Vec<Vec<u8>> {
        let mut names = Vec::new();
        index
            .basenames(b"", |name| {
                names.push(name.to_vec());
                true
            })
            .unwrap();
        names
    }

    #[test]
    fn base_names_go_with_the_last_layer_that_has_them() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(&dir.path().join("db")).unwrap();
        let add = |name: &str, rows: usize| {
            let writer = write(&index, name, rows);
            writer.put_entry(b"a/both", &Entry::implicit(Kind::Regular)).unwrap();
            let own = format!("b/{name}");
            writer.put_entry(own.as_bytes(), &Entry::implicit(Kind::Regular)).unwrap();
            let number = writer.number();
            writer.finish(layer(number)).unwrap();
        };
        let turn = std::sync::Mutex::new(());
        let remove = |name: &str| {
            // As in `Layers::collect`.
            let _turn = turn.lock().unwrap();
            let numbers = index.retire_layers(|layer| Ok(*layer == digest(name))).unwrap();
            assert_eq!(numbers.len(), 1);
            assert!(index.remove_retired(numbers).unwrap().is_empty());
        };
        add("small", 0);
        add("large", LARGE);
        assert_eq!(basenames(&index).len(), LARGE + 3);
        remove("large");
        assert_eq!(basenames(&index), [b"both".to_vec(), b"small".to_vec()]);
        remove("small");
        assert_eq!(basenames(&index), Vec::<Vec<u8>>::new());

        // Also while layers with the same names come and go.
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (add, remove, index) = (&add, &remove, &index);
                scope.spawn(move || {
                    for round in 0..300 {
                        let name = format!("{thread}-{round}");
                        add(&name, 0);
                        let names = basenames(index);
                        assert!(names.contains(&b"both".to_vec()), "{names:?}");
                        assert!(names.contains(&name.clone().into_bytes()), "{names:?}");
                        remove(&name);
                    }
                });
            }
        });
        assert_eq!(basenames(&index), Vec::<Vec<u8>>::new());
    }

    #[test]
    fn files_follow_bytes_and_not_layers() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(&dir.path().join("db")).unwrap();
        for number in 0..3000 {
            let name = number.to_string();
            let writer = write(&index, &name, 1);
            let number = writer.number();
            writer.finish(layer(number)).unwrap();
        }
        assert!(files(&index) < 50, "{} files", files(&index));
        for number in 0..60 {
            let name = format!("large {number}");
            let writer = write(&index, &name, LARGE);
            let number = writer.number();
            writer.finish(layer(number)).unwrap();
        }
        // Merging happens in the background.
        let start = std::time::Instant::now();
        while files(&index) >= 80 && start.elapsed().as_secs() < 60 {
            std::thread::yield_now();
        }
        assert!(files(&index) < 80, "{} files", files(&index));
    }
}
