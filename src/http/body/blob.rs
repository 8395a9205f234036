//! Ranges of a blob, sent slice by slice; the next slice is brought in from the disk while the one
//! before it is sent.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::task::JoinHandle;

use super::{BoxError, Part, Parts, Source};
use crate::http::permits::Permit;
use crate::metrics;
use crate::registry::{Blob, Result};

/// Bytes that are read rather than mapped: for less, copying is cheaper.
pub const SMALL: u64 = 64 << 10;

/// Bytes of blobs mapped at one time for all responses together, two slices each: the one being
/// sent and the next. They count as resident memory.
const MAPPED_MAX: u64 = 24 << 20;
/// The longest slice: more gains nothing.
const SLICE_MAX: u64 = 1 << 20;
/// The shortest slice, however many responses there are: less costs more system calls than it
/// saves memory.
const SLICE_MIN: u64 = 256 << 10;

/// Blob responses under way.
static STREAMS: AtomicU64 = AtomicU64::new(0);

#[derive(Debug)]
pub struct BlobSource {
    blob: Arc<Blob>,
    parts: Parts,
    /// Bytes not yet sent.
    left: u64,
    next: Option<JoinHandle<Result<Bytes>>>,
    _permit: Permit,
}

impl BlobSource {
    /// `permit` is given back when the body ends.
    pub fn new(blob: Blob, parts: Parts, permit: Permit) -> BlobSource {
        STREAMS.fetch_add(1, Ordering::Relaxed);
        let (blob, left) = (Arc::new(blob), parts.length());
        BlobSource { blob, parts, left, next: None, _permit: permit }
    }

    /// Starts bringing in the next slice, unless that is under way or everything is there.
    fn fetch(&mut self) {
        if self.next.is_some() {
            return;
        }
        let share = MAPPED_MAX / 2 / STREAMS.load(Ordering::Relaxed).max(1);
        // Slices end where a page does, so no page is mapped twice.
        let length = share.clamp(SLICE_MIN, SLICE_MAX) / SLICE_MIN * SLICE_MIN;
        let end = |start: u64| (start - start % SLICE_MIN).saturating_add(length);
        let blob = Arc::clone(&self.blob);
        if self.parts.run() > SMALL {
            if let Some(Part::Content(range)) = self.parts.next(end) {
                self.next = Some(tokio::task::spawn_blocking(move || Ok(blob.slice(range)?)));
            }
            return;
        }
        // Many small ranges, and what separates them, go out as one piece.
        let mut parts = Vec::new();
        let mut gathered = 0;
        while gathered < SLICE_MIN && self.parts.run() <= SMALL {
            let Some(part) = self.parts.next(|_| u64::MAX) else {
                break;
            };
            gathered += match &part {
                Part::Text(text) => text.len() as u64,
                Part::Content(range) => range.end - range.start,
            };
            parts.push(part);
        }
        if !parts.is_empty() {
            self.next = Some(tokio::task::spawn_blocking(move || gather(&blob, &parts)));
        }
    }
}

/// The bytes of small parts.
pub fn gather(blob: &Blob, parts: &[Part]) -> Result<Bytes> {
    let mut bytes = Vec::new();
    for part in parts {
        match part {
            Part::Text(text) => bytes.extend_from_slice(text),
            Part::Content(range) => bytes.extend_from_slice(&blob.read(range.clone())?),
        }
    }
    Ok(bytes.into())
}

impl Source for BlobSource {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BoxError>>> {
        self.fetch();
        let Some(next) = &mut self.next else {
            return Poll::Ready(None);
        };
        let slice = ready!(Pin::new(next).poll(cx));
        self.next = None;
        Poll::Ready(Some(match slice {
            Ok(Ok(bytes)) => {
                self.fetch();
                self.left = self.left.saturating_sub(bytes.len() as u64);
                metrics::sent(bytes.len());
                Ok(bytes)
            }
            Ok(Err(error)) => Err(error.into()),
            Err(panic) => Err(panic.into()),
        }))
    }

    fn is_over(&self) -> bool {
        self.left == 0
    }

    fn left(&self) -> Option<u64> {
        Some(self.left)
    }
}

impl Drop for BlobSource {
    fn drop(&mut self) {
        STREAMS.fetch_sub(1, Ordering::Relaxed);
    }
}
