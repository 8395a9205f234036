//! A request's body, of which a few frames at a time are in memory on their way to the disk.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::{Error, Result};
use super::idle::Activity;

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
