//! Work that no request waits for: a server's background threads, and indexing ahead of time.

mod purge;
pub mod reindex;
mod scan;

use std::io;
use std::thread;

pub use purge::start as start_purge;
pub use scan::{scan, start as start_scan};

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.into()).spawn(work).map(drop)
}
