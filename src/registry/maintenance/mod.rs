//! Work that no request waits for: a server's background threads, and indexing ahead of time.

pub mod gc;
mod purge;
pub mod reindex;
pub mod retention;
mod scan;
pub mod scrub;

use std::io;
use std::sync::Arc;
use std::thread;

use crate::background;
use crate::index::shared;
use crate::registry::Registry;

pub use purge::start as start_purge;
pub use scan::{scan, start as start_scan};

pub(super) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let work = move || {
        background::let_requests_go_first();
        work();
    };
    thread::Builder::new().name(name.into()).spawn(work).map(drop)
}

/// What a server does for other processes, which ask it on its socket. `None`: the store is only
/// read, so nothing is collected or moved.
pub fn work(registry: Arc<Registry>, gc: Option<gc::Options>) -> Arc<shared::Work> {
    Arc::new(move |name, options, send| match (name, &gc) {
        (scrub::WORK, _) => registry.answer_scrub(gc.is_none(), options, send),
        (gc::WORK, Some(settings)) => registry.answer_gc(settings, options, send),
        (retention::WORK, _) => registry.answer_retention(gc.is_none(), options, send),
        (gc::WORK, None) => Err("it was started with --read-only".to_owned()),
        _ => Err(format!("this server is of another version: it does not know {name:?}")),
    })
}
