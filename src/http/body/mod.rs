//! Response bodies. None is ever held whole unless it is small: a blob is a handful of mapped
//! slices, and of what is made for a response two pieces are in memory.

mod blob;
mod lines;
mod parts;
mod stall;
mod stream;

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

use super::permits::{Permit, Requester};
use crate::log;
use crate::registry::Blob;

pub use blob::{BlobSource, SMALL, gather};
pub use lines::{Lines, NextLines};
pub use parts::{Part, Parts};
use stall::Guarded;

pub use stream::{PIECE, Produce, Stream};

/// What ends a body early. The client sees the connection close; the log says why.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A response's body.
#[derive(Debug, Default)]
pub enum Body {
    #[default]
    Empty,
    Full(Bytes),
    Dyn(Box<Counted>),
}

/// Makes a body while it is sent.
pub trait Source: fmt::Debug + Send {
    /// The next bytes; `None` at the end.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BoxError>>>;

    /// Whether nothing is left to send.
    fn is_over(&self) -> bool;

    /// Bytes to come, where that is known.
    fn left(&self) -> Option<u64>;
}

/// A source, and the line of the access log that counts what is sent of it.
#[derive(Debug)]
pub struct Counted {
    source: Box<dyn Source>,
    /// Written to the log when the body is dropped, at its end or before.
    request: Option<log::Request>,
}

impl<T: Into<Bytes>> From<T> for Body {
    fn from(bytes: T) -> Body {
        Body::Full(bytes.into())
    }
}

impl Body {
    pub fn from_source(source: impl Source + 'static) -> Body {
        let source: Box<dyn Source> = Box::new(source);
        let source = match Requester::current().and_then(|requester| requester.stall) {
            Some(limit) => Box::new(Guarded::new(source, limit)),
            None => source,
        };
        Body::Dyn(Box::new(Counted { source, request: None }))
    }

    /// Ranges of a blob. `permit` is given back when the body ends.
    pub fn blob(blob: Blob, parts: Parts, permit: Permit) -> Body {
        Body::from_source(BlobSource::new(blob, parts, permit))
    }

    /// See [`Stream::new`].
    pub fn stream(
        first: Vec<u8>,
        produce: Produce,
        length: Option<u64>,
        permit: Arc<Permit>,
    ) -> Body {
        Body::from_source(Stream::new(first, produce, length, permit))
    }

    /// Hands the request's line for the access log to the body, which counts the bytes sent.
    pub fn log(&mut self, mut request: log::Request) {
        match self {
            Body::Empty => {}
            Body::Full(bytes) => request.bytes = bytes.len() as u64,
            Body::Dyn(counted) => counted.request = Some(request),
        }
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
            Body::Dyn(counted) => {
                let next = ready!(counted.source.poll(cx));
                match &next {
                    Some(Ok(bytes)) => {
                        if let Some(request) = &mut counted.request {
                            request.bytes += bytes.len() as u64;
                        }
                    }
                    Some(Err(error)) => tracing::error!(%error, "a response broke off"),
                    None => {}
                }
                Poll::Ready(next.map(|next| next.map(Frame::data).map_err(io::Error::other)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Empty => true,
            Body::Full(bytes) => bytes.is_empty(),
            Body::Dyn(counted) => counted.source.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Empty => SizeHint::with_exact(0),
            Body::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Body::Dyn(counted) => {
                counted.source.left().map_or_else(SizeHint::default, SizeHint::with_exact)
            }
        }
    }
}

/// Bytes that give `permit` back when they have been sent.
pub fn with_permit<B, P>(bytes: B, permit: P) -> Bytes
where
    B: AsRef<[u8]> + Send + 'static,
    P: Send + 'static,
{
    struct Held<B, P> {
        bytes: B,
        _permit: P,
    }
    impl<B: AsRef<[u8]>, P> AsRef<[u8]> for Held<B, P> {
        fn as_ref(&self) -> &[u8] {
            self.bytes.as_ref()
        }
    }
    Bytes::from_owner(Held { bytes, _permit: permit })
}
