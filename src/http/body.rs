//! Request and response bodies. Neither is ever held whole: a response is a
//! handful of mapped slices, a request a few frames on their way to the disk.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;

use super::activity::Activity;
use super::error::{Error, Result};
use crate::log;
use crate::storage::{self, Blob};

/// Bytes of blobs mapped at one time for all responses together, two slices
/// each: the one being sent and the next. They count as resident memory.
const MAPPED_MAX: u64 = 24 << 20;
/// A slice is at most so long: more gains nothing,
const SLICE_MAX: u64 = 1 << 20;
/// and at least so long, however many responses there are: less costs more
/// system calls than it saves memory.
const SLICE_MIN: u64 = 256 << 10;

/// Blob responses under way.
static STREAMS: AtomicU64 = AtomicU64::new(0);

/// A response's body.
#[derive(Debug, Default)]
pub enum Body {
    #[default]
    Empty,
    Full(Bytes),
    Blob(Box<BlobBody>),
}

impl<T: Into<Bytes>> From<T> for Body {
    fn from(bytes: T) -> Body {
        Body::Full(bytes.into())
    }
}

/// Part of a blob, sent slice by slice; the next slice is brought in from the
/// disk while the one before is sent.
#[derive(Debug)]
pub struct BlobBody {
    blob: Arc<Blob>,
    left: Range<u64>,
    next: Option<JoinHandle<storage::Result<Bytes>>>,
    /// Goes to the access log with the body, ended or given up.
    request: Option<log::Request>,
    _permit: OwnedSemaphorePermit,
}

impl Body {
    /// `permit` is given back when the body ends.
    pub fn blob(blob: Blob, range: Range<u64>, permit: OwnedSemaphorePermit) -> Body {
        STREAMS.fetch_add(1, Ordering::Relaxed);
        Body::Blob(Box::new(BlobBody {
            blob: Arc::new(blob),
            left: range,
            next: None,
            request: None,
            _permit: permit,
        }))
    }

    /// Lets the request's line in the access log tell what is sent of the body.
    pub fn log(&mut self, mut request: log::Request) {
        match self {
            Body::Empty => {}
            Body::Full(bytes) => request.bytes = bytes.len() as u64,
            Body::Blob(blob) => blob.request = Some(request),
        }
    }
}

impl BlobBody {
    /// Starts bringing in the next slice, unless that is under way or all is.
    fn fetch(&mut self) {
        if self.next.is_some() || self.left.is_empty() {
            return;
        }
        let share = MAPPED_MAX / 2 / STREAMS.load(Ordering::Relaxed).max(1);
        // Slices end where a page does, so no page is mapped twice.
        let length = share.clamp(SLICE_MIN, SLICE_MAX) / SLICE_MIN * SLICE_MIN;
        let start = self.left.start;
        let end = (start - start % SLICE_MIN)
            .saturating_add(length)
            .min(self.left.end);
        self.left.start = end;
        let blob = Arc::clone(&self.blob);
        self.next = Some(tokio::task::spawn_blocking(move || blob.slice(start..end)));
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut *self {
            Body::Empty => Poll::Ready(None),
            Body::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Body::Empty;
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Body::Blob(blob) => {
                blob.fetch();
                let Some(next) = &mut blob.next else {
                    return Poll::Ready(None);
                };
                let slice = ready!(Pin::new(next).poll(cx)).map_err(io::Error::other);
                let slice = slice.and_then(|read| read.map_err(io::Error::other));
                blob.next = None;
                match &slice {
                    Ok(bytes) => {
                        blob.fetch();
                        super::metrics::sent(bytes.len());
                        if let Some(request) = &mut blob.request {
                            request.bytes += bytes.len() as u64;
                        }
                    }
                    // The client sees the connection close; the cause is ours.
                    Err(error) => tracing::error!(%error, "cannot read a blob"),
                }
                Poll::Ready(Some(slice.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Empty => true,
            Body::Full(bytes) => bytes.is_empty(),
            Body::Blob(blob) => blob.left.is_empty() && blob.next.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Empty => SizeHint::with_exact(0),
            Body::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            // Asked before the first slice is fetched.
            Body::Blob(blob) if blob.next.is_none() => {
                SizeHint::with_exact(blob.left.end - blob.left.start)
            }
            Body::Blob(_) => SizeHint::default(),
        }
    }
}

impl Drop for BlobBody {
    fn drop(&mut self) {
        STREAMS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request's body.
#[derive(Debug)]
pub struct RequestBody {
    incoming: Incoming,
    /// Somebody has asked for the body, which tells a client that waits for
    /// `100 Continue` to send it.
    started: bool,
    activity: Arc<Activity>,
}

impl RequestBody {
    pub fn new(incoming: Incoming, activity: Arc<Activity>) -> RequestBody {
        RequestBody {
            incoming,
            started: false,
            activity,
        }
    }

    /// The next piece; `None` at the end. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        self.started = true;
        loop {
            let waiting = self.activity.waiting();
            let frame = self.incoming.frame().await;
            drop(waiting);
            match frame {
                None => return Ok(None),
                Some(Err(e)) => return Err(Error::BodyBroken(e)),
                Some(Ok(frame)) => {
                    // Trailers carry nothing for us.
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// The whole body, if it is not longer than `limit`, with the room it takes
    /// in `memory`.
    pub async fn collect(
        &mut self,
        limit: usize,
        memory: &Arc<Semaphore>,
    ) -> Result<Option<(Vec<u8>, OwnedSemaphorePermit)>> {
        use hyper::body::Body as _;
        let reserve = |size: usize| {
            let size = u32::try_from(size).expect("hyper's frames are no larger than its buffer");
            // Not waited for: slow clients would keep the others waiting.
            Arc::clone(memory)
                .try_acquire_many_owned(size)
                .map_err(|_| Error::Busy)
        };
        if self.incoming.size_hint().lower() > limit as u64 {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        let mut room = reserve(0)?;
        while let Some(piece) = self.next().await? {
            if bytes.len() + piece.len() > limit {
                return Ok(None);
            }
            room.merge(reserve(piece.len())?);
            bytes.extend_from_slice(&piece);
        }
        Ok(Some((bytes, room)))
    }

    /// Reads on for a while after an error, so that a client in the middle of
    /// sending gets to read the answer rather than a broken connection. One that
    /// waits for leave to send (`Expect: 100-continue`) is left waiting.
    pub async fn drain(&mut self, expects_continue: bool) {
        if expects_continue && !self.started {
            return;
        }
        const BYTES: usize = 64 << 20;
        const TIME: std::time::Duration = std::time::Duration::from_secs(5);
        let mut left = BYTES;
        let reading = async {
            while let Ok(Some(piece)) = self.next().await {
                left = left.saturating_sub(piece.len());
                if left == 0 {
                    break;
                }
            }
        };
        // Out of time: the client has had its chance.
        drop(tokio::time::timeout(TIME, reading).await);
    }
}
