//! Indexes a layer ahead of time, or again.

use std::time::Duration;

use crate::image::Images;
use crate::index::records::State;
use crate::index::{self, Indexing};
use crate::oci::Digest;

/// How often the progress of a layer is told.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// What became of a layer.
#[derive(Debug)]
pub enum Outcome {
    /// `size` is in bytes of the tar stream.
    Indexed { entries: u64, size: u64, diff_id: Digest },
    /// The layer is no tar archive, or is beyond a limit; the reason is a sentence for users.
    Refused(String),
}

impl From<State> for Outcome {
    fn from(state: State) -> Outcome {
        match state {
            State::Ready(record) => Outcome::Indexed {
                entries: record.entries,
                size: record.uncompressed,
                diff_id: Digest::Sha256(record.diff_id),
            },
            State::Refused(reason) => Outcome::Refused(reason),
        }
    }
}

/// Indexes a layer, also one that has an index already if `force` is set. `progress` is called with
/// the number of the blob's bytes that are done.
pub fn index(
    images: &Images,
    layer: &Digest,
    force: bool,
    mut progress: impl FnMut(u64),
) -> index::Result<Outcome> {
    let work = match begin(images, layer, force)? {
        Begun::Done(outcome) => return Ok(outcome),
        Begun::Working(work) => work,
    };
    loop {
        if let Some(outcome) = work.wait_for(PROGRESS_EVERY) {
            return outcome;
        }
        progress(work.progress());
    }
}

/// Ends the work of this process on layers: the next one opens the index quickly.
pub fn finish(images: &Images) -> index::Result<()> {
    images.layers().index().flush()
}

/// The work on a layer.
#[derive(Debug)]
pub struct Work(Indexing);

/// What [`begin`] has found.
#[derive(Debug)]
pub enum Begun {
    /// The layer has an index already.
    Done(Outcome),
    Working(Work),
}

/// Does the same without waiting.
pub fn begin(images: &Images, layer: &Digest, force: bool) -> index::Result<Begun> {
    if !force && let Some(state) = images.layers().index().state(layer)? {
        return Ok(Begun::Done(state.into()));
    }
    Ok(Begun::Working(Work(images.layers().index_soon(layer, force))))
}

impl Work {
    /// Bytes of the blob that are done.
    pub fn progress(&self) -> u64 {
        self.0.progress()
    }

    /// Waits for the end, at most `time`. `None`: it has not come.
    pub fn wait_for(&self, time: Duration) -> Option<index::Result<Outcome>> {
        Some(self.0.wait_for(time)?.map(Outcome::from))
    }
}
