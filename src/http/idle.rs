//! Whether a connection is alive: on one where no byte moves while the server
//! waits for the client, the client is gone or means harm. A connection is
//! judged by its bytes, not by the length of a request, so a slow push of
//! 10 GB lives and a stalled one does not.

use std::io::{self, IoSlice};
use std::os::fd::RawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

#[derive(Debug)]
pub struct Activity {
    /// The connection's socket; -1 once it is closed.
    socket: AtomicI32,
    start: Instant,
    /// Milliseconds from `start` to the last byte moved.
    last: AtomicU64,
    /// Requests that the server works on, not waiting for the client.
    working: AtomicUsize,
}

impl Activity {
    /// `socket` is the connection's file descriptor.
    pub fn new(socket: RawFd) -> Arc<Activity> {
        Arc::new(Activity {
            socket: AtomicI32::new(socket),
            start: Instant::now(),
            last: AtomicU64::new(0),
            working: AtomicUsize::new(0),
        })
    }

    fn touch(&self) {
        self.last.store(self.start.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// How long the client has kept the server waiting.
    pub fn idle(&self) -> Duration {
        if self.working.load(Ordering::Relaxed) > 0 {
            return Duration::ZERO;
        }
        self.start
            .elapsed()
            .saturating_sub(Duration::from_millis(self.last.load(Ordering::Relaxed)))
    }

    /// Returns when the client has closed the connection, or its half of it. For waits: hyper does not
    /// look while a request is worked on.
    pub async fn gone(&self) {
        const EVERY: Duration = Duration::from_millis(250);
        while !self.is_closed() {
            tokio::time::sleep(EVERY).await;
        }
    }

    fn is_closed(&self) -> bool {
        let socket = self.socket.load(Ordering::Relaxed);
        let mut asked = libc::pollfd { fd: socket, events: libc::POLLRDHUP, revents: 0 };
        // SAFETY: the call writes to this one structure alone, and does not wait. Of a descriptor
        // that was closed meanwhile it says so, and of one that was opened in its place it says
        // something about a request whose client is gone.
        #[allow(unsafe_code)]
        let ready = unsafe { libc::poll(&mut asked, 1, 0) };
        socket >= 0 && ready > 0 && asked.revents != 0
    }

    /// Held while a request is worked on.
    pub fn working(self: &Arc<Self>) -> Working {
        self.working.fetch_add(1, Ordering::Relaxed);
        Working(Arc::clone(self))
    }

    /// Held while the work waits for the client's next bytes.
    pub fn waiting(&self) -> Waiting<'_> {
        self.working.fetch_sub(1, Ordering::Relaxed);
        Waiting(self)
    }
}

#[derive(Debug)]
pub struct Working(Arc<Activity>);

impl Drop for Working {
    fn drop(&mut self) {
        // The client's time starts when the server's work ends.
        self.0.touch();
        self.0.working.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
pub struct Waiting<'a>(&'a Activity);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.working.fetch_add(1, Ordering::Relaxed);
    }
}

/// A stream that notes when bytes move.
#[derive(Debug)]
pub struct Watched<S> {
    stream: S,
    activity: Arc<Activity>,
}

impl<S> Watched<S> {
    pub fn new(stream: S, activity: Arc<Activity>) -> Watched<S> {
        Watched { stream, activity }
    }

    fn note(&self, written: &Poll<io::Result<usize>>) {
        if matches!(written, Poll::Ready(Ok(1..))) {
            self.activity.touch();
        }
    }
}

impl<S> Drop for Watched<S> {
    fn drop(&mut self) {
        self.activity.socket.store(-1, Ordering::Relaxed);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.activity.touch();
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.note(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.note(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_clients_time_counts() {
        let activity = Activity::new(-1);
        let working = activity.working();
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(activity.idle(), Duration::ZERO, "the server is at work");
        let waiting = activity.waiting();
        assert!(activity.idle() >= Duration::from_millis(20), "the client is not sending");
        drop(waiting);
        drop(working);
        assert!(activity.idle() < Duration::from_millis(20), "its time starts with the answer");
    }
}
