//! The layers of the store, indexed and readable: what the merged view stands on.

use std::collections::hash_map::{Entry, HashMap};
use std::fmt;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use super::jobs::{Job, Jobs};
use super::records::{Layer, State};
use super::spans::Spans;
use super::{Error, Index, Limits, Result, builder};
use crate::oci::Digest;
use crate::storage::{self, Storage};

/// How layers are indexed and read.
#[derive(Clone, Debug)]
pub struct Options {
    /// Threads that index. 0: pushed layers are not indexed until they are
    /// looked into, and then by one.
    pub jobs: usize,
    pub limits: Limits,
    /// Bytes of decoded spans kept in memory.
    pub cache: u64,
}

/// Layers, their index and their bytes.
#[derive(Debug)]
pub struct Layers {
    storage: Arc<Storage>,
    index: Arc<Index>,
    jobs: Jobs,
    spans: Spans,
    index_pushed: bool,
    limits: Limits,
    /// Layers indexed again although they were.
    renewed: AtomicU64,
    /// Threads that wait for a layer to be indexed.
    waiting: AtomicUsize,
    uses: Arc<Uses>,
    /// Numbers of the rows of layers that are gone, and still in use when that was last looked at.
    retired: Mutex<Vec<u64>>,
    listener: Arc<Listener>,
}

/// Hears of the end of the work on a layer's index; `true`: it has one.
#[derive(Default)]
struct Listener(OnceLock<Box<Hear>>);

type Hear = dyn Fn(&Digest, bool) + Send + Sync;

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Listener").finish_non_exhaustive()
    }
}

/// A layer that is being indexed.
#[derive(Debug)]
pub struct Indexing {
    layers: Arc<Layers>,
    job: Arc<Job>,
    force: bool,
}

impl Indexing {
    /// Bytes of the blob that are done.
    pub fn progress(&self) -> u64 {
        self.job.progress.load(Ordering::Relaxed)
    }

    /// Waits for the end, at most `time`. `None`: it has not come.
    pub fn wait_for(&self, time: Duration) -> Option<Result<State>> {
        let result = self.job.wait_for(time)?;
        if result.is_ok() {
            self.layers.renewed.fetch_add(u64::from(self.force), Ordering::Release);
        }
        Some(result)
    }
}

/// Waiting threads are taken from those who look into what is indexed.
const WAITING_MAX: usize = 64;

/// The layers that this process looks into, by their numbers. Their rows stay as long.
#[derive(Debug, Default)]
struct Uses(Mutex<InUse>);

#[derive(Debug, Default)]
struct InUse {
    /// How many [`IndexedLayer`]s there are of a number.
    times: HashMap<u64, usize>,
    /// Blobs that the collector removes, or may remove, while they are in use.
    blobs: HashMap<u64, Arc<File>>,
}

/// Blobs that a process keeps open which the collector cannot tell what it removes.
const KEPT_MAX: usize = 256;

impl Uses {
    fn lock(&self) -> MutexGuard<'_, InUse> {
        // Nothing is broken half way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A layer that has an index.
#[derive(Debug)]
pub struct IndexedLayer {
    pub digest: Digest,
    pub record: Layer,
    /// Where in the tar stream each span starts.
    starts: Vec<u64>,
    uses: Arc<Uses>,
}

impl Drop for IndexedLayer {
    fn drop(&mut self) {
        let mut in_use = self.uses.lock();
        if let Entry::Occupied(mut times) = in_use.times.entry(self.record.number) {
            *times.get_mut() -= 1;
            if *times.get() == 0 {
                times.remove();
                in_use.blobs.remove(&self.record.number);
            }
        }
    }
}

impl IndexedLayer {
    fn new(digest: Digest, record: Layer, uses: Arc<Uses>) -> IndexedLayer {
        *uses.lock().times.entry(record.number).or_default() += 1;
        let starts = record.spans.iter().scan(0, |end, &length| {
            let start = *end;
            *end += u64::from(length);
            Some(start)
        });
        IndexedLayer { digest, starts: starts.collect(), record, uses }
    }

    /// The layer's blob, if it was removed while the layer was in use.
    pub(super) fn kept_blob(&self) -> Option<Arc<File>> {
        self.uses.lock().blobs.get(&self.record.number).cloned()
    }

    /// Keeps the layer's blob for as long as the layer is in use, unless many are kept.
    pub(super) fn keep_blob(&self, blob: &Arc<File>) {
        let mut in_use = self.uses.lock();
        if in_use.blobs.len() < KEPT_MAX {
            in_use.blobs.insert(self.record.number, Arc::clone(blob));
        }
    }

    /// The span that holds a byte of the tar stream, and where it starts.
    pub(super) fn span_at(&self, offset: u64) -> Option<(usize, u64)> {
        if offset >= self.record.uncompressed {
            return None;
        }
        let number = self.starts.partition_point(|&start| start <= offset) - 1;
        Some((number, self.starts[number]))
    }

    /// Bytes of the blob that so much of the tar stream takes, about and rather more.
    pub(super) fn stored_length(&self, length: usize) -> u64 {
        let ratio = self.record.compressed as f64 / self.record.uncompressed.max(1) as f64;
        (length as f64 * ratio * 1.25) as u64
    }

    pub(super) fn start_of(&self, number: usize) -> u64 {
        self.starts[number]
    }
}

/// Indexes a layer of the store unless it is, or all the same if `force`.
pub(super) fn build(
    index: &Index,
    storage: &Storage,
    layer: &Digest,
    force: bool,
    limits: &Limits,
    progress: &AtomicU64,
) -> Result<State> {
    // By force also where what is known cannot be read.
    if !force && let Some(state) = index.state(layer)? {
        return Ok(state);
    }
    let blob = storage.open_content(layer)?;
    let blob = blob.ok_or_else(|| Error::Missing(Box::new(*layer)))?;
    builder::build(index, layer, &blob, limits, progress)
}

impl Layers {
    /// Layers whose index this process writes.
    pub fn new(storage: Arc<Storage>, index: Arc<Index>, options: &Options) -> io::Result<Layers> {
        let work = {
            let (storage, index) = (Arc::clone(&storage), Arc::clone(&index));
            let limits = options.limits.clone();
            move |layer: &Digest, force: bool, progress: &AtomicU64| {
                build(&index, &storage, layer, force, &limits, progress)
            }
        };
        Layers::with(storage, index, options, work, || {})
    }

    /// Layers that `work` indexes; `idle` is called when it has had nothing to do for a moment.
    pub(super) fn with(
        storage: Arc<Storage>,
        index: Arc<Index>,
        options: &Options,
        work: impl Fn(&Digest, bool, &AtomicU64) -> Result<State> + Send + Sync + 'static,
        idle: impl Fn() + Send + Sync + 'static,
    ) -> io::Result<Layers> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let listener = Arc::<Listener>::default();
        let work = {
            let listener = Arc::clone(&listener);
            move |layer: &Digest, force: bool, progress: &AtomicU64| {
                let result = work(layer, force, progress);
                if let Some(listener) = listener.0.get() {
                    listener(layer, matches!(result, Ok(State::Ready(_))));
                }
                result
            }
        };
        Ok(Layers {
            jobs: Jobs::start(options.jobs.max(1), work, idle)?,
            spans: Spans::new(Arc::clone(&storage), Arc::clone(&index), options.cache, cores)?,
            storage,
            index,
            index_pushed: options.jobs > 0,
            limits: options.limits.clone(),
            renewed: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            uses: Arc::default(),
            retired: Mutex::default(),
            listener,
        })
    }

    /// Has `listener` told of every layer whose work is done: `true` if it has an
    /// index now. Only the first one set is.
    pub fn listen(&self, listener: impl Fn(&Digest, bool) + Send + Sync + 'static) {
        self.listener.0.get_or_init(|| Box::new(listener));
    }

    pub fn storage(&self) -> &Storage {
        &self.storage
    }

    pub fn index(&self) -> &Index {
        &self.index
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// A layer's index. Waits for its job where there is none yet.
    /// [`Error::Refused`]: it cannot have one.
    pub fn ready(&self, digest: &Digest) -> Result<Arc<IndexedLayer>> {
        self.index.check_identity()?;
        let mut state = self.index.state(digest)?;
        if state.is_none() && self.index.is_following() {
            self.index.catch_up()?;
            state = self.index.state(digest)?;
        }
        let mut state = match state {
            Some(state) => state,
            None => self.wait(digest)?,
        };
        if let State::Ready(record) = &state
            && record.copied
            && !self.index.copy_path(record.number).exists()
        {
            tracing::warn!(layer = %digest, "a layer is indexed again: its seekable copy is gone");
            state = self.index_now(digest, true, |_| {})?;
        }
        match state {
            State::Ready(record) => {
                let layer = IndexedLayer::new(*digest, record, Arc::clone(&self.uses));
                // The collector leaves its rows alone from now on, but may have come before.
                match self.index.state(digest)? {
                    Some(State::Ready(found)) if found.number == layer.record.number => {
                        Ok(Arc::new(layer))
                    }
                    _ => Err(Error::Missing(Box::new(*digest))),
                }
            }
            State::Refused(reason) => Err(Error::Refused { layer: Box::new(*digest), reason }),
        }
    }

    /// Has a layer indexed and waits, unless too many do.
    fn wait(&self, layer: &Digest) -> Result<State> {
        let waiting = self.waiting.fetch_add(1, Ordering::Relaxed);
        let result = if waiting < WAITING_MAX {
            self.jobs.now(layer, false).wait(|_| {})
        } else {
            Err(Error::Indexing(Box::new(*layer)))
        };
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        result
    }

    /// Indexes a layer, again if `force`; `progress` hears of the bytes of the
    /// blob that are done.
    pub fn index_now(
        &self,
        layer: &Digest,
        force: bool,
        progress: impl FnMut(u64),
    ) -> Result<State> {
        if !force && let Some(state) = self.index.state(layer)? {
            return Ok(state);
        }
        let state = self.jobs.now(layer, force).wait(progress)?;
        self.renewed.fetch_add(u64::from(force), Ordering::Release);
        Ok(state)
    }

    /// Has a layer indexed as [`Layers::index_now`] does, without waiting for it.
    pub fn index_soon(self: &Arc<Layers>, layer: &Digest, force: bool) -> Indexing {
        let job = self.jobs.now(layer, force);
        Indexing { layers: Arc::clone(self), job, force }
    }

    /// Keeps a layer readable where this process looks into it, although its blob is about to be
    /// removed from the store. Nothing needs to be done where the layer has a seekable copy.
    pub fn keep_open(&self, layer: &Digest) -> Result<()> {
        let number = match self.index.state(layer) {
            Ok(Some(State::Ready(record))) if !record.copied => record.number,
            Ok(_) | Err(Error::Record { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut in_use = self.uses.lock();
        if in_use.times.contains_key(&number)
            && let Some(blob) = self.storage.open_content(layer)?
        {
            in_use.blobs.insert(number, Arc::new(blob.into_file()));
        }
        Ok(())
    }

    /// Removes the index of the layers that are `gone` from the store, except of those that somebody
    /// looks into. Their turn comes at the next call, or at the next start.
    pub fn collect(&self, gone: impl FnMut(&Digest) -> storage::Result<bool>) -> Result<usize> {
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        let numbers = self.index.retire_layers(gone)?;
        let removed = numbers.len();
        retired.extend(numbers);
        let (used, unused) = {
            let in_use = self.uses.lock();
            retired.drain(..).partition(|number| in_use.times.contains_key(number))
        };
        *retired = used;
        retired.extend(self.index.remove_retired(unused)?);
        Ok(removed)
    }

    /// Changes when a layer has been indexed again: what was made of its index
    /// before is out of date.
    pub fn renewed(&self) -> u64 {
        self.renewed.load(Ordering::Acquire)
    }

    /// Has the layers of a pushed image indexed in the background, unless that
    /// is switched off.
    pub fn pushed(&self, layers: impl IntoIterator<Item = Digest>) -> Result<()> {
        self.index_later(self.missing(layers)?);
        Ok(())
    }

    /// Those of the layers of a pushed image that are to be indexed.
    pub fn missing(&self, layers: impl IntoIterator<Item = Digest>) -> Result<Vec<Digest>> {
        let mut missing = Vec::new();
        if self.index_pushed {
            for layer in layers {
                if self.index.state(&layer)?.is_none() {
                    missing.push(layer);
                }
            }
        }
        Ok(missing)
    }

    /// Has layers indexed when there is time.
    pub fn index_later(&self, layers: Vec<Digest>) {
        self.jobs.later(layers);
    }

    /// Fills `buffer` with the bytes of the layer's tar stream from `offset` on.
    pub fn read(&self, layer: &Arc<IndexedLayer>, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.spans.read(layer, offset, buffer)
    }

    /// Does the same where nothing has to be decoded. Returns `false` where something has to be.
    pub fn try_read(
        &self,
        layer: &Arc<IndexedLayer>,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<bool> {
        self.spans.try_read(layer, offset, buffer)
    }
}
