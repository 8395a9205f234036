//! When tags and manifests were pulled. A pull only notes its time in memory; a thread writes the notes
//! to the index every few seconds, so that no pull waits for a disk. A server that is killed loses
//! those of the last seconds.

use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Registry, maintenance};
use crate::index::Pulls;
use crate::oci::{Reference, Repository};

const EVERY: Duration = Duration::from_secs(10);
/// Notes in memory. The thread writes them ahead of its time when there are half as many. Where so
/// many different images are pulled at once that this is not enough, further pulls are not noted.
const NOTES_MAX: usize = 100_000;

#[derive(Debug, Default)]
pub(super) struct Noted {
    notes: Mutex<Notes>,
    many: Condvar,
}

#[derive(Debug, Default)]
struct Notes {
    pulls: Pulls,
    count: usize,
}

impl Registry {
    /// Notes that a client has pulled a manifest. Never waits for a disk.
    pub fn note_pull(&self, repository: &Repository, reference: &Reference) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut notes = self.pulls.notes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = notes.pulls.get_mut(repository).and_then(|of| of.get_mut(reference)) {
            *at = now;
            return;
        }
        if notes.count < NOTES_MAX {
            notes.count += 1;
            notes.pulls.entry(repository.clone()).or_default().insert(reference.clone(), now);
        }
        if notes.count >= NOTES_MAX / 2 {
            self.pulls.many.notify_one();
        }
    }

    /// Writes the pulls that were noted to the index.
    pub fn write_pulls(&self) {
        let notes =
            std::mem::take(&mut *self.pulls.notes.lock().unwrap_or_else(PoisonError::into_inner));
        if notes.count > 0
            && let Err(error) = self.index().record_pulls(&self.storage, &notes.pulls)
        {
            tracing::error!(%error, pulls = notes.count, "pulls are not known any more");
        }
    }
}

/// Starts the thread that writes pulls to the index.
pub fn start_pulls(registry: Arc<Registry>) -> io::Result<()> {
    maintenance::spawn("pulls", move || {
        if let Err(error) = registry.index().begin_pulls() {
            tracing::error!(%error, "cannot note since when pulls are known");
        }
        loop {
            let notes = registry.pulls.notes.lock().unwrap_or_else(PoisonError::into_inner);
            let few = |notes: &mut Notes| notes.count < NOTES_MAX / 2;
            drop(registry.pulls.many.wait_timeout_while(notes, EVERY, few));
            registry.write_pulls();
        }
    })
}
