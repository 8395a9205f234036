//! Decoded spans, kept within a budget and shared by all who read. A span is
//! decoded once for all who wait for it, and checked against its checksum, so
//! damage becomes an error and never wrong bytes. Whoever goes from one span
//! into the next has the ones after that decoded ahead.

use std::fs::File;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::{io, thread};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use quick_cache::sync::Cache;
use quick_cache::{DefaultHashBuilder, Lifecycle, OptionsBuilder, Weighter};
use xxhash_rust::xxh3::xxh3_64;

use super::layers::IndexedLayer;
use super::{Error, Index, Result};
use crate::layer::codec::{self, Compression};
use crate::storage::{self, Storage};

/// Spans decoded ahead of who reads forward.
const AHEAD: usize = 2;
/// Spans that wait to be decoded ahead; more are forgotten.
const QUEUE: usize = 64;

/// Spans decoded at a time for each core: some wait for the disk.
const TURNS: usize = 4;

type Bytes = Arc<Vec<u8>>;
/// Layer number and span number.
type Key = (u64, usize);
type SpanCache = Cache<Key, Bytes, BySize, DefaultHashBuilder, Recycle>;

#[derive(Clone, Debug)]
struct BySize;

impl Weighter<Key, Bytes> for BySize {
    fn weight(&self, _: &Key, bytes: &Bytes) -> u64 {
        bytes.capacity() as u64 + 128
    }
}

/// Buffers of spans that were dropped, for the next ones: to get memory from the
/// kernel, page by page, takes a quarter of the time that decoding does.
#[derive(Clone, Debug, Default)]
struct Recycle(Arc<Mutex<Vec<Vec<u8>>>>);

/// Buffers kept so, and what their sizes are multiples of.
const SPARE: usize = 4;
const GRAIN: usize = 256 << 10;

impl Recycle {
    // Nothing is broken half way.
    fn spare(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn buffer(&self, length: usize) -> Vec<u8> {
        let mut spare = self.spare();
        // The spans of a layer are of about one size, so others are of no use. In a
        // much larger one a small span would keep what it does not need.
        let capacity = match length {
            ..GRAIN => length,
            _ => length.next_multiple_of(GRAIN),
        };
        let fitting = |buffer: &Vec<u8>| (length..=2 * capacity).contains(&buffer.capacity());
        let fitting = spare.pop().filter(fitting);
        drop(spare);
        fitting.unwrap_or_else(|| Vec::with_capacity(capacity))
    }
}

impl Lifecycle<Key, Bytes> for Recycle {
    type RequestState = ();

    fn on_evict(&self, (): &mut (), _: Key, bytes: Bytes) {
        // Unless somebody still reads it.
        if let Some(buffer) = Arc::into_inner(bytes) {
            let mut spare = self.spare();
            if spare.len() < SPARE {
                spare.push(buffer);
            }
        }
    }
}

#[derive(Debug)]
pub struct Spans {
    shared: Arc<Shared>,
    ahead: SyncSender<(Arc<IndexedLayer>, usize)>,
}

#[derive(Debug)]
struct Shared {
    storage: Arc<Storage>,
    index: Arc<Index>,
    cache: SpanCache,
    recycle: Recycle,
    /// Spans that may still be decoded at the same time: each takes up to 16 MiB
    /// beyond the budget.
    turns: Mutex<usize>,
    turn: Condvar,
}

/// Leave to decode a span, given back when dropped.
struct Turn<'a>(&'a Shared);

impl<'a> Turn<'a> {
    fn wait(shared: &'a Shared) -> Turn<'a> {
        let turns = shared.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let turns = shared.turn.wait_while(turns, |turns| *turns == 0);
        *turns.unwrap_or_else(PoisonError::into_inner) -= 1;
        Turn(shared)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let turns = self.0.turns.lock();
        *turns.unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.turn.notify_one();
    }
}

impl Spans {
    /// `budget`: bytes of decoded spans to keep. `threads` decode ahead.
    pub fn new(
        storage: Arc<Storage>,
        index: Arc<Index>,
        budget: u64,
        threads: usize,
    ) -> io::Result<Spans> {
        let options = OptionsBuilder::new()
            .estimated_items_capacity((budget / codec::SPAN as u64) as usize + 1)
            .weight_capacity(budget)
            // Of a few large things, no shard's share could be too small for one.
            .shards(1)
            .build()
            .map_err(io::Error::other)?;
        let recycle = Recycle::default();
        let cache =
            Cache::with_options(options, BySize, DefaultHashBuilder::default(), recycle.clone());
        let shared = Arc::new(Shared {
            storage,
            index,
            cache,
            recycle,
            turns: Mutex::new(TURNS * threads.max(1)),
            turn: Condvar::new(),
        });
        let (ahead, queue) = sync_channel(QUEUE);
        let queue = Arc::new(Mutex::new(queue));
        for number in 0..threads {
            let (shared, queue) = (Arc::clone(&shared), Arc::clone(&queue));
            thread::Builder::new()
                .name(format!("decode-{number}"))
                .spawn(move || decode_ahead(&shared, &queue))?;
        }
        Ok(Spans { shared, ahead })
    }

    /// Fills `buffer` with the bytes of the layer's tar stream from `offset` on.
    pub fn read(&self, layer: &Arc<IndexedLayer>, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.fill(layer, offset, buffer, |number| self.shared.get(layer, number).map(Some))?;
        Ok(())
    }

    /// Does the same where nothing has to be decoded. Returns `false` where something has to be.
    pub fn try_read(
        &self,
        layer: &Arc<IndexedLayer>,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<bool> {
        let number = layer.record.number;
        self.fill(layer, offset, buffer, |span| Ok(self.shared.cache.get(&(number, span))))
    }

    /// Copies from the spans that `get` returns. Stops with `false` at the first that it does not.
    fn fill(
        &self,
        layer: &Arc<IndexedLayer>,
        offset: u64,
        buffer: &mut [u8],
        get: impl Fn(usize) -> Result<Option<Bytes>>,
    ) -> Result<bool> {
        let mut filled = 0;
        while filled < buffer.len() {
            let at = offset + filled as u64;
            let Some((number, start)) = layer.span_at(at) else {
                return Err(Error::Damaged {
                    layer: Box::new(layer.digest),
                    offset: at,
                    why: "it ends here".to_owned(),
                });
            };
            let Some(span) = get(number)? else {
                return Ok(false);
            };
            let from = (at - start) as usize;
            if from < buffer.len() - filled || from == 0 {
                self.go_ahead(layer, number);
            }
            let length = (span.len() - from).min(buffer.len() - filled);
            buffer[filled..filled + length].copy_from_slice(&span[from..from + length]);
            filled += length;
        }
        Ok(true)
    }

    /// Called when a reader enters a span.
    fn go_ahead(&self, layer: &Arc<IndexedLayer>, number: usize) {
        let key = |number| (layer.record.number, number);
        let comes_from_before = number
            .checked_sub(1)
            .is_some_and(|before| self.shared.cache.peek(&key(before)).is_some());
        if !comes_from_before {
            return;
        }
        for next in number + 1..=number + AHEAD {
            if next < layer.record.spans.len() && self.shared.cache.peek(&key(next)).is_none() {
                // With so many waiting already, this one is decoded when it is read.
                let _ = self.ahead.try_send((Arc::clone(layer), next));
            }
        }
    }
}

fn decode_ahead(shared: &Shared, queue: &Mutex<Receiver<(Arc<IndexedLayer>, usize)>>) {
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((layer, number)) = next else { return };
        // The next reader of the span gets the same error.
        let _ = shared.get(&layer, number);
    }
}

impl Shared {
    fn get(&self, layer: &IndexedLayer, number: usize) -> Result<Bytes> {
        self.cache.get_or_insert_with(&(layer.record.number, number), || {
            let _turn = Turn::wait(self);
            self.decode(layer, number).map(Arc::new)
        })
    }

    fn decode(&self, layer: &IndexedLayer, number: usize) -> Result<Vec<u8>> {
        let damaged = |why: String| Error::Damaged {
            layer: Box::new(layer.digest),
            offset: layer.start_of(number),
            why,
        };
        let span = self.index.span(layer.record.number, number as u64)?;
        let span = span.ok_or_else(|| damaged("its index lacks a span".to_owned()))?;
        if span.length != layer.record.spans[number] {
            return Err(damaged("its index has two lengths of a span".to_owned()));
        }
        let length = span.length as usize;
        let (compression, file) = self.open(layer)?;
        // All at once, not piece by piece; without it the same is read.
        let _ = posix_fadvise(
            &*file,
            span.checkpoint.input as i64,
            layer.stored_length(length) as i64,
            PosixFadviseAdvice::POSIX_FADV_WILLNEED,
        );
        let mut output = self.recycle.buffer(length);
        codec::decode(compression, &span.checkpoint, &file, &mut output, length)
            .map_err(|e| damaged(e.to_string()))?;
        if output.len() != length || xxh3_64(&output) != span.checksum {
            return Err(damaged("its bytes are not those that were indexed".to_owned()));
        }
        Ok(output)
    }

    fn open(&self, layer: &IndexedLayer) -> Result<(Compression, Arc<File>)> {
        if layer.record.copied {
            let path = self.index.copy_path(layer.record.number);
            let file = File::open(&path).map_err(|e| storage::Error::io("open", &path, e))?;
            return Ok((Compression::Zstd, Arc::new(file)));
        }
        let blob = self.storage.open_content(&layer.digest)?;
        let blob = match blob {
            Some(blob) => {
                let blob = Arc::new(blob.into_file());
                // The server, which collects, does not know what is in use here.
                if self.index.is_following() {
                    layer.keep_blob(&blob);
                }
                blob
            }
            None => layer.kept_blob().ok_or_else(|| Error::Missing(Box::new(layer.digest)))?,
        };
        Ok((layer.record.compression, blob))
    }
}
