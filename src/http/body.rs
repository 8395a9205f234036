//! Request and response bodies. Neither is ever held whole: a blob is a handful
//! of mapped slices, what is made for a response two pieces of it, a request a
//! few frames on their way to the disk.

use std::fmt;
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

use super::error::{Error, Result};
use super::events::Lines;
use super::idle::Activity;
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
    Stream(Box<Stream>),
    Lines(Box<Lines>),
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

/// Bytes of a piece of a [`Stream`], about.
pub const PIECE: usize = 128 << 10;
/// Pieces of a stream in memory: the one being sent and the next.
const PIECES: usize = 2;

/// Makes the next piece of a stream, on a blocking thread; `None` at the end. It
/// is asked when there is room, so no thread waits for a client.
pub type Produce = Box<dyn FnMut() -> Result<Option<Vec<u8>>> + Send>;

/// A body that is made while it is sent.
pub struct Stream {
    /// The start, made before the status was decided.
    first: Option<Bytes>,
    produce: Option<Produce>,
    next: Option<Making>,
    /// Bytes to come, where that is known.
    left: Option<u64>,
    /// Pieces give it back when they have been sent.
    room: Arc<Semaphore>,
    /// Goes to the access log with the body, ended or given up.
    request: Option<log::Request>,
    _permit: OwnedSemaphorePermit,
}

type Making = Pin<Box<dyn Future<Output = (Option<Produce>, Result<Option<Bytes>>)> + Send>>;

/// A piece, and the room it takes until it is sent.
struct Piece {
    bytes: Vec<u8>,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Body {
    /// A body that starts with `first` and goes on with what `produce` makes; of
    /// `length` bytes in all, if that is known. `permit` is given back when it
    /// ends.
    pub fn stream(
        first: Vec<u8>,
        produce: Produce,
        length: Option<u64>,
        permit: OwnedSemaphorePermit,
    ) -> Body {
        Body::Stream(Box::new(Stream {
            first: (!first.is_empty()).then(|| first.into()),
            produce: Some(produce),
            next: None,
            left: length,
            room: Arc::new(Semaphore::new(PIECES)),
            request: None,
            _permit: permit,
        }))
    }

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
            Body::Stream(stream) => stream.request = Some(request),
            Body::Lines(lines) => lines.log(request),
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
        let end = (start - start % SLICE_MIN).saturating_add(length).min(self.left.end);
        self.left.start = end;
        let blob = Arc::clone(&self.blob);
        self.next = Some(tokio::task::spawn_blocking(move || blob.slice(start..end)));
    }
}

impl Stream {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        let piece = match self.first.take() {
            Some(first) => Ok(Some(first)),
            None => {
                if let Some(produce) = self.produce.take() {
                    self.next = Some(Box::pin(make(produce, Arc::clone(&self.room))));
                }
                let Some(next) = &mut self.next else {
                    return Poll::Ready(None);
                };
                let (produce, piece) = ready!(next.as_mut().poll(cx));
                self.next = None;
                self.produce = produce;
                piece
            }
        };
        let piece = piece.and_then(|piece| self.count(piece));
        if !matches!(piece, Ok(Some(_))) || self.left == Some(0) {
            self.produce = None;
        }
        Poll::Ready(piece.transpose())
    }

    /// Holds the pieces against the length that the head has promised.
    fn count(&mut self, piece: Option<Bytes>) -> Result<Option<Bytes>> {
        let length = piece.as_ref().map_or(0, |piece| piece.len() as u64);
        if let Some(left) = &mut self.left {
            let ends = piece.is_none();
            *left = left.checked_sub(length).ok_or(Error::BodyLength)?;
            if ends && *left > 0 {
                return Err(Error::BodyLength);
            }
        }
        if let Some(request) = &mut self.request {
            request.bytes += length;
        }
        Ok(piece)
    }

    fn is_over(&self) -> bool {
        self.first.is_none() && self.produce.is_none() && self.next.is_none()
    }
}

async fn make(
    mut produce: Produce,
    room: Arc<Semaphore>,
) -> (Option<Produce>, Result<Option<Bytes>>) {
    let permit = room.acquire_owned().await;
    let permit = permit.expect("the semaphore is never closed");
    let made = tokio::task::spawn_blocking(move || {
        let piece = produce();
        (produce, piece)
    });
    match made.await {
        Ok((produce, Ok(Some(bytes)))) => {
            let piece = Bytes::from_owner(Piece { bytes, _room: permit });
            (Some(produce), Ok(Some(piece)))
        }
        Ok((_, piece)) => (None, piece.map(|_| None)),
        Err(panic) => (None, Err(Error::Panicked(panic))),
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("left", &self.left).finish_non_exhaustive()
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
                        crate::metrics::sent(bytes.len());
                        if let Some(request) = &mut blob.request {
                            request.bytes += bytes.len() as u64;
                        }
                    }
                    // The client sees the connection close; the cause is ours.
                    Err(error) => tracing::error!(%error, "cannot read a blob"),
                }
                Poll::Ready(Some(slice.map(Frame::data)))
            }
            Body::Stream(stream) => {
                let piece = ready!(stream.poll(cx));
                if let Some(Err(error)) = &piece {
                    tracing::error!(%error, "cannot go on with an answer");
                }
                let frame = |piece: Result<Bytes>| piece.map(Frame::data).map_err(io::Error::other);
                Poll::Ready(piece.map(frame))
            }
            Body::Lines(lines) => lines.poll(cx).map(|text| text.map(|text| Ok(Frame::data(text)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Empty => true,
            Body::Full(bytes) => bytes.is_empty(),
            Body::Blob(blob) => blob.left.is_empty() && blob.next.is_none(),
            Body::Stream(stream) => stream.is_over(),
            Body::Lines(lines) => lines.is_over(),
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
            Body::Stream(stream) => {
                stream.left.map_or_else(SizeHint::default, SizeHint::with_exact)
            }
            Body::Blob(_) | Body::Lines(_) => SizeHint::default(),
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
        RequestBody { incoming, started: false, activity }
    }

    pub fn activity(&self) -> &Arc<Activity> {
        &self.activity
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
            Arc::clone(memory).try_acquire_many_owned(size).map_err(|_| Error::Busy)
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
