//! Removes abandoned uploads.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::registry::Registry;

/// The longest time between two searches for abandoned uploads.
const EVERY: Duration = Duration::from_secs(3600);
/// The first search waits this long, so that it does not slow down the start.
const FIRST: Duration = Duration::from_secs(60);

/// Starts the thread that removes uploads which received nothing for `ttl`.
pub fn start(registry: Arc<Registry>, ttl: Duration) -> io::Result<()> {
    super::spawn("purge", move || {
        thread::sleep(ttl.min(FIRST));
        loop {
            match registry.storage.purge_uploads(ttl) {
                Ok(0) => {}
                Ok(uploads) => tracing::info!(uploads, "removed abandoned uploads"),
                Err(error) => tracing::error!(%error, "cannot remove abandoned uploads"),
            }
            thread::sleep(ttl.min(EVERY));
        }
    })
}
