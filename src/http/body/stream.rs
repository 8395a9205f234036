//! A body that is made piece by piece on blocking threads while it is sent.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::sync::Semaphore;

use super::{BoxError, Source, with_permit};
use crate::http::permits::Permit;

/// Bytes of a piece, about.
pub const PIECE: usize = 128 << 10;
/// Pieces of a stream in memory: the one being sent and the next.
const PIECES: usize = 2;

/// Makes the next piece, on a blocking thread; `None` at the end. It is called when there is room,
/// so no thread waits for a client.
pub type Produce = Box<dyn FnMut() -> Result<Option<Vec<u8>>, BoxError> + Send>;

pub struct Stream {
    /// The start, made before the status was decided.
    first: Option<Bytes>,
    produce: Option<Produce>,
    next: Option<Making>,
    /// Bytes to come, where that is known.
    left: Option<u64>,
    /// Pieces give it back when they have been sent.
    room: Arc<Semaphore>,
    _permit: Arc<Permit>,
}

type Made = Result<Option<Bytes>, BoxError>;
type Making = Pin<Box<dyn Future<Output = (Option<Produce>, Made)> + Send>>;

impl Stream {
    /// A body that starts with `first` and goes on with what `produce` makes; of `length` bytes in
    /// all, if that is known. `permit` is given back when it ends.
    pub fn new(
        first: Vec<u8>,
        produce: Produce,
        length: Option<u64>,
        permit: Arc<Permit>,
    ) -> Stream {
        Stream {
            first: (!first.is_empty()).then(|| first.into()),
            produce: Some(produce),
            next: None,
            left: length,
            room: Arc::new(Semaphore::new(PIECES)),
            _permit: permit,
        }
    }

    /// Holds the pieces against the length that the head has promised.
    fn count(&mut self, piece: Option<Bytes>) -> Made {
        if let Some(left) = &mut self.left {
            let length = piece.as_ref().map_or(0, |piece| piece.len() as u64);
            *left = left.checked_sub(length).ok_or("it is longer than its head says")?;
            if piece.is_none() && *left > 0 {
                return Err("it is shorter than its head says".into());
            }
        }
        Ok(piece)
    }
}

impl Source for Stream {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BoxError>>> {
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

    fn is_over(&self) -> bool {
        self.first.is_none() && self.produce.is_none() && self.next.is_none()
    }

    fn left(&self) -> Option<u64> {
        self.left
    }
}

async fn make(mut produce: Produce, room: Arc<Semaphore>) -> (Option<Produce>, Made) {
    let permit = room.acquire_owned().await;
    let permit = permit.expect("the semaphore is never closed");
    let made = tokio::task::spawn_blocking(move || {
        let piece = produce();
        (produce, piece)
    });
    match made.await {
        Ok((produce, Ok(Some(bytes)))) => (Some(produce), Ok(Some(with_permit(bytes, permit)))),
        Ok((_, piece)) => (None, piece.map(|_| None)),
        Err(panic) => (None, Err(panic.into())),
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("left", &self.left).finish_non_exhaustive()
    }
}
