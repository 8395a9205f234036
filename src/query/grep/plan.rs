//! What is searched, in order: the layers of all images, each once, and their files by the place
//! where they begin.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::ops::RangeInclusive;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, MutexGuard, OnceLock, PoisonError};

use super::search::{Stop, Worker};
use super::{After, Event, Named, Report, Shared};
use crate::image::{self, Entry, Kind};
use crate::index::IndexedLayer;
use crate::index::records::State;
use crate::oci::{Digest, Reference};
use crate::query::{Images, InScope, Looked, Skipped};

/// Bytes and files of a unit, which one thread searches.
const UNIT_BYTES: u64 = 16 << 20;
const UNIT_FILES: usize = 4096;
/// Bytes of the list of a layer's files. Of a longer one the first part is made, and searched,
/// before the next.
const LIST: usize = 64 << 20;

/// The images of a question and their layers.
#[derive(Default)]
pub struct Table {
    pub images: Vec<Slot>,
    pub stacks: Vec<Stack>,
    /// In the order in which the images have them.
    pub layers: Vec<Layer>,
}

pub struct Slot {
    pub image: InScope,
    /// Known once something was found in it; `None`: it cannot be shown.
    pub named: OnceLock<Option<Arc<Named>>>,
}

/// Layers one over the other: images that have the same show the same.
pub struct Stack {
    /// In [`Table::images`].
    pub images: Vec<usize>,
    /// Layers of it have hard links to others.
    is_linked: bool,
}

pub struct Layer {
    pub digest: Digest,
    /// Bytes of its tar stream.
    bytes: u64,
    /// In [`Table::stacks`]. None: all images that have it wait for others of their layers.
    pub stacks: Vec<usize>,
    /// It is not in the store any more.
    pub is_gone: AtomicBool,
}

/// A regular file of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub inode: u64,
    pub path: Box<[u8]>,
    pub offset: u64,
    pub size: u64,
    /// Names in the layer.
    pub links: u32,
    pub is_sparse: bool,
}

impl File {
    fn new(path: Vec<u8>, entry: &Entry) -> File {
        File {
            inode: entry.inode,
            path: path.into(),
            offset: entry.offset,
            size: entry.size,
            links: entry.links,
            is_sparse: entry.sparse.is_some(),
        }
    }

    fn bytes(&self) -> usize {
        self.path.len() + size_of::<File>() + 16
    }
}

impl Ord for File {
    /// By place. An inode's offset and size are the same under all of its names.
    fn cmp(&self, other: &File) -> Ordering {
        (self.inode, &self.path).cmp(&(other.inode, &other.path))
    }
}

impl PartialOrd for File {
    fn partial_cmp(&self, other: &File) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Files of a layer.
pub struct Unit {
    /// In [`Table::layers`].
    pub layer: usize,
    pub indexed: Arc<IndexedLayer>,
    pub files: Vec<File>,
    /// Bytes of the layer that are done with it.
    pub bytes: u64,
}

/// What is still to search.
pub struct Plan {
    /// Until the table is made.
    scope: Option<Images>,
    after: Option<After>,
    layer: usize,
    indexed: Option<Arc<IndexedLayer>>,
    /// Inodes of the layer, in order, some of which may have a match; `None`: any may.
    wanted: Option<Vec<RangeInclusive<u64>>>,
    /// The files with inodes from this one on are not listed yet; `None`: all are.
    from: Option<u64>,
    files: VecDeque<File>,
    /// Bytes of the layer that are in units.
    bytes: u64,
}

impl Plan {
    pub fn new(scope: Images, after: Option<After>) -> Plan {
        Plan {
            scope: Some(scope),
            after,
            layer: 0,
            indexed: None,
            wanted: None,
            from: Some(0),
            files: VecDeque::new(),
            bytes: 0,
        }
    }

    /// The next unit; `None`: there are no more.
    pub fn next(&mut self, worker: &Worker<'_>) -> Result<Option<Unit>, Stop> {
        let shared = worker.shared;
        if let Some(scope) = self.scope.take() {
            let table = list(scope, worker)?;
            // Nothing else sets it: who plans holds the lock.
            let _ = shared.table.set(table);
            if let Some(after) = self.after {
                let layers = &shared.table().layers;
                let place = layers.iter().position(|layer| layer.digest == after.layer);
                let missing = || crate::index::Error::Missing(Box::new(after.layer));
                self.layer = place.ok_or_else(missing)?;
                self.from = Some(after.file);
            }
        }
        let table = shared.table();
        loop {
            if let Some(unit) = self.take() {
                return Ok(Some(unit));
            }
            let Some(layer) = table.layers.get(self.layer) else { return Ok(None) };
            if layer.stacks.is_empty() {
                self.from = None;
            } else if self.indexed.is_none() {
                match shared.images.layers().ready(&layer.digest) {
                    Ok(indexed) => {
                        worker.at((self.layer, self.from.unwrap_or(0)));
                        self.wanted = wanted(&indexed, worker)?;
                        if self.wanted.as_ref().is_some_and(Vec::is_empty) {
                            add(&shared.done, indexed.record.uncompressed);
                            self.from = None;
                        }
                        self.indexed = Some(indexed);
                    }
                    Err(error) => {
                        let image = shared.first_name(layer);
                        let failed = image::Error::Layer { image: image.clone(), cause: error };
                        worker.send(Event::Skipped(Skipped::new(image, failed)))?;
                        self.from = None;
                    }
                }
            }
            match (self.from, self.indexed.clone()) {
                (Some(from), Some(indexed)) => {
                    worker.at((self.layer, from));
                    self.from = self.read(&indexed, from, worker)?;
                }
                _ => {
                    self.layer += 1;
                    (self.indexed, self.from, self.bytes) = (None, Some(0), 0);
                }
            }
        }
    }

    fn take(&mut self) -> Option<Unit> {
        let indexed = self.indexed.clone().filter(|_| !self.files.is_empty())?;
        let (mut files, mut bytes) = (Vec::new(), 0);
        while files.len() < UNIT_FILES
            && bytes < UNIT_BYTES
            && let Some(file) = self.files.pop_front()
        {
            bytes += file.size;
            files.push(file);
        }
        let end = match (self.files.front(), self.from) {
            (None, None) => indexed.record.uncompressed,
            (Some(next), _) => next.inode,
            (None, Some(next)) => next,
        };
        let bytes = end.saturating_sub(self.bytes);
        self.bytes += bytes;
        Some(Unit { layer: self.layer, indexed, files, bytes })
    }

    /// Lists the files with inodes from `from` on, as far as there is room. Returns where to go on.
    fn read(
        &mut self,
        layer: &IndexedLayer,
        from: u64,
        worker: &Worker<'_>,
    ) -> Result<Option<u64>, Stop> {
        let shared = worker.shared;
        let (asked, table) = (&shared.asked, shared.table());
        let is_linked =
            table.layers[self.layer].stacks.iter().any(|&stack| table.stacks[stack].is_linked);
        let may_show = |path: &[u8], entry: &Entry| {
            let Some(glob) = &asked.path else { return true };
            // It may have other names, which are looked up when something is found.
            entry.links > 1 || is_linked || glob.is_match(&[b"/", path].concat())
        };
        let may_match = |inode| {
            let Some(wanted) = &self.wanted else { return true };
            let place = wanted.partition_point(|range| *range.end() < inode);
            wanted.get(place).is_some_and(|range| range.contains(&inode))
        };
        let mut first = BinaryHeap::new();
        let (mut bytes, mut next) = (0, None);
        for row in shared.images.layers().index().entries(layer.record.number, None) {
            let (path, entry) = row?;
            worker.tick(0)?;
            if entry.kind != Kind::Regular
                || entry.inode < from
                || next.is_some_and(|next| entry.inode >= next)
                || entry.size == 0 && asked.report != Report::FilesWithout
                || asked.max_filesize.is_some_and(|max| entry.size > max)
                || !may_match(entry.inode)
                || !may_show(&path, &entry)
            {
                continue;
            }
            let file = File::new(path, &entry);
            bytes += file.bytes();
            first.push(file);
            while bytes > LIST
                && first.len() > 1
                && let Some(last) = first.pop()
            {
                bytes -= last.bytes();
                next = Some(last.inode);
            }
        }
        let mut files = first.into_sorted_vec();
        files.dedup_by_key(|file| file.inode);
        // Some names of the last inode had room, others had not.
        if files.last().is_some_and(|last| Some(last.inode) == next) {
            next = next.map(|next| next + 1);
        }
        self.files = files.into();
        Ok(next)
    }
}

/// The files of a layer that may have a match, as far as the index tells.
fn wanted(
    layer: &IndexedLayer,
    worker: &Worker<'_>,
) -> Result<Option<Vec<RangeInclusive<u64>>>, Stop> {
    let Some(needs) = &worker.shared.needs else { return Ok(None) };
    let index = worker.shared.images.layers().index();
    let mut wanted = Vec::new();
    for files in index.files_with(layer.record.number, needs) {
        wanted.extend(files?);
        worker.tick(0)?;
    }
    Ok(Some(wanted))
}

/// Finds the images of a question whose layers all have an index.
fn list(mut scope: Images, worker: &Worker<'_>) -> Result<Table, Stop> {
    let shared = worker.shared;
    let index = shared.images.layers().index();
    let mut table = Table::default();
    // `None`: not indexed.
    let mut known: HashMap<Digest, Option<(usize, bool)>> = HashMap::new();
    let mut stacks: HashMap<Vec<usize>, usize> = HashMap::new();
    while let Some(found) = scope.next_image()? {
        worker.tick(0)?;
        let mut image = match found {
            Ok(image) => image,
            Err(skipped) => {
                worker.send(Event::Skipped(skipped))?;
                continue;
            }
        };
        let (mut layers, mut is_linked) = (Vec::new(), false);
        let (mut waits, mut is_refused) = (false, false);
        for digest in std::mem::take(&mut image.member.layers) {
            let state = match known.get(&digest) {
                Some(known) => *known,
                None => {
                    let state = match index.state(&digest)? {
                        Some(State::Ready(record)) => {
                            let layer = Layer {
                                digest,
                                bytes: record.uncompressed,
                                stacks: Vec::new(),
                                is_gone: AtomicBool::new(false),
                            };
                            table.layers.push(layer);
                            Some((table.layers.len() - 1, record.cross_layer_links > 0))
                        }
                        Some(State::Refused(_)) => {
                            is_refused = true;
                            None
                        }
                        None => {
                            shared.looked().waiting_layers += 1;
                            waits = true;
                            None
                        }
                    };
                    if !is_refused {
                        known.insert(digest, state);
                    }
                    state
                }
            };
            match state {
                Some((layer, links)) => {
                    layers.push(layer);
                    is_linked |= links;
                }
                None => waits |= !is_refused,
            }
        }
        if is_refused {
            // Opening it tells why it cannot be shown.
            let reference = Reference::Digest(image.member.manifest);
            if let Err(error) = shared.images.open_in(&image.repository, &reference, None) {
                worker.send(Event::Skipped(Skipped::new(image, error)))?;
            }
            continue;
        }
        if waits {
            shared.looked().waiting_images += 1;
            continue;
        }
        shared.looked().images += 1;
        let number = table.images.len();
        table.images.push(Slot { image, named: OnceLock::new() });
        let stack = *stacks.entry(layers).or_insert_with_key(|layers| {
            let stack = table.stacks.len();
            table.stacks.push(Stack { images: Vec::new(), is_linked });
            for &layer in layers {
                let stacks = &mut table.layers[layer].stacks;
                // A layer may be there twice.
                if stacks.last() != Some(&stack) {
                    stacks.push(stack);
                }
            }
            stack
        });
        table.stacks[stack].images.push(number);
    }
    let layers = table.layers.iter().filter(|layer| !layer.stacks.is_empty());
    add(&shared.total, layers.map(|layer| layer.bytes).sum());
    Ok(table)
}

pub fn add(bytes: &AtomicU64, more: u64) {
    bytes.fetch_add(more, Relaxed);
}

impl Shared {
    /// The images and layers, which are known before anything is searched.
    pub fn table(&self) -> &Table {
        self.table.get().expect("the images are listed before anything is searched")
    }

    /// An image that has a layer, as the mount names it.
    pub fn first_name(&self, layer: &Layer) -> String {
        let table = self.table();
        let images = layer.stacks.first().and_then(|&stack| table.stacks[stack].images.first());
        images.map_or_else(
            || layer.digest.to_string(),
            |&image| table.images[image].image.to_string(),
        )
    }

    pub fn looked(&self) -> MutexGuard<'_, Looked> {
        self.looked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
