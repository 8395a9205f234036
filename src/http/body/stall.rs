//! Ends bodies whose clients take nothing of them. On a connection of HTTP/2 other streams, or a
//! ping, keep the connection alive, so its idle timeout does not see a stream that stands still; and
//! such a stream would keep its permit and its memory.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::AbortHandle;

use super::{BoxError, Source};

/// A source that is taken away when its client stands still.
#[derive(Debug)]
pub struct Guarded {
    guard: Arc<Guard>,
    watch: AbortHandle,
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

#[derive(Debug)]
struct Guard {
    source: Mutex<Option<Box<dyn Source>>>,
    start: Instant,
    /// Milliseconds from `start` to when the last bytes were handed out, plus one; 0: the server is
    /// at work on the next.
    waiting_since: AtomicU64,
}

impl Guard {
    fn source(&self) -> MutexGuard<'_, Option<Box<dyn Source>>> {
        self.source.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waited(&self) -> Duration {
        match self.waiting_since.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => self.start.elapsed().saturating_sub(Duration::from_millis(since - 1)),
        }
    }
}

impl Guarded {
    /// `limit`: how long the client may take nothing.
    pub fn new(source: Box<dyn Source>, limit: Duration) -> Guarded {
        let guard = Arc::new(Guard {
            source: Mutex::new(Some(source)),
            start: Instant::now(),
            waiting_since: AtomicU64::new(1),
        });
        let watched = Arc::downgrade(&guard);
        let watch = tokio::spawn(async move {
            loop {
                let Some(left) =
                    watched.upgrade().map(|guard| limit.saturating_sub(guard.waited()))
                else {
                    return;
                };
                if left.is_zero() {
                    let source = watched.upgrade().and_then(|guard| guard.source().take());
                    // Not under the lock: it may have files to close.
                    return drop(source);
                }
                tokio::time::sleep(left).await;
            }
        });
        Guarded { guard, watch: watch.abort_handle() }
    }
}

impl Source for Guarded {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BoxError>>> {
        let Guard { start, waiting_since, .. } = &*self.guard;
        waiting_since.store(0, Ordering::Relaxed);
        let polled = match &mut *self.guard.source() {
            Some(source) => source.poll(cx),
            None => Poll::Ready(Some(Err("the client takes nothing".into()))),
        };
        if polled.is_ready() {
            waiting_since.store(start.elapsed().as_millis() as u64 + 1, Ordering::Relaxed);
        }
        polled
    }

    fn is_over(&self) -> bool {
        // One that was taken away ends with an error, which has to be polled for.
        self.guard.source().as_ref().is_some_and(|source| source.is_over())
    }

    fn left(&self) -> Option<u64> {
        self.guard.source().as_ref().and_then(|source| source.left())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Endless {
        /// Counted from outside.
        _held: Arc<()>,
    }

    impl Source for Endless {
        fn poll(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, BoxError>>> {
            Poll::Ready(Some(Ok(Bytes::from_static(b"x"))))
        }

        fn is_over(&self) -> bool {
            false
        }

        fn left(&self) -> Option<u64> {
            None
        }
    }

    #[test]
    fn taken_from_a_client_that_stands_still() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let held = Arc::new(());
            let source = Box::new(Endless { _held: Arc::clone(&held) });
            let mut guarded = Guarded::new(source, Duration::from_millis(50));
            let first = std::future::poll_fn(|cx| guarded.poll(cx)).await;
            assert!(first.is_some_and(|piece| piece.is_ok()));
            let taken = async {
                while Arc::strong_count(&held) > 1 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(30), taken).await.expect("it is taken away");
            let next = std::future::poll_fn(|cx| guarded.poll(cx)).await;
            assert!(next.is_some_and(|piece| piece.is_err()));
        });
    }
}
