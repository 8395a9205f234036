//! A body of lines that are sent as they come, without an end of its own.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use super::{BoxError, Source};

/// Waits for the lines of a body.
pub trait NextLines: Sized + Send + 'static {
    /// The next lines, and what waits for those after them; `None`: they were the last.
    fn next(self) -> impl Future<Output = (Bytes, Option<Self>)> + Send;
}

type Waiting<N> = Pin<Box<dyn Future<Output = (Bytes, Option<N>)> + Send>>;

pub struct Lines<N>(Option<Waiting<N>>);

impl<N: NextLines> Lines<N> {
    pub fn new(next: N) -> Lines<N> {
        Lines(Some(Box::pin(next.next())))
    }
}

impl<N: NextLines> Source for Lines<N> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BoxError>>> {
        let Some(waiting) = &mut self.0 else {
            return Poll::Ready(None);
        };
        let (lines, next) = ready!(waiting.as_mut().poll(cx));
        self.0 = next.map(|next| Box::pin(next.next()) as Waiting<N>);
        Poll::Ready(Some(Ok(lines)))
    }

    fn is_over(&self) -> bool {
        self.0.is_none()
    }

    fn left(&self) -> Option<u64> {
        None
    }
}

impl<N> fmt::Debug for Lines<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines").finish_non_exhaustive()
    }
}
