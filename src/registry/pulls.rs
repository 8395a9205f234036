//! When tags and manifests were pulled. A pull only notes its time in memory; a thread writes the notes
//! to the index every few seconds, so that no pull waits for a disk. A server that is killed loses
//! those of the last seconds.

use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{IndexError, Registry, maintenance};
use crate::index::Pulls;
use crate::oci::{Reference, Repository};

const EVERY: Duration = Duration::from_secs(10);
/// Notes in memory. The thread writes them ahead of its time when there are half as many. Where so
/// many different images are pulled at once that this is not enough, further pulls are not noted, and
/// the record of pulls begins again, so that retention deletes nothing for lack of them.
const NOTES_MAX: usize = 100_000;

#[derive(Debug, Default)]
pub(super) struct Noted {
    notes: Mutex<Notes>,
    many: Condvar,
    /// Held while notes become rows, so that after a wait for it they are in the index.
    writing: Mutex<()>,
}

#[derive(Debug, Default)]
struct Notes {
    pulls: Pulls,
    count: usize,
    /// When a pull was last not noted.
    missed: Option<u64>,
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
        } else {
            notes.missed = Some(now);
        }
        if notes.count >= NOTES_MAX / 2 {
            self.pulls.many.notify_one();
        }
    }

    /// Writes the pulls that were noted to the index. Those that cannot be written stay in memory, as
    /// far as there is room.
    pub fn write_pulls(&self) -> Result<(), IndexError> {
        let _writing = self.pulls.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let noted = || self.pulls.notes.lock().unwrap_or_else(PoisonError::into_inner);
        let Notes { pulls, count, missed } = std::mem::take(&mut *noted());
        if count == 0 && missed.is_none() {
            return Ok(());
        }
        self.index().record_pulls(&self.storage, &pulls, missed).inspect_err(|_| {
            let mut notes = noted();
            notes.missed = notes.missed.max(missed);
            for (repository, references) in pulls {
                for (reference, at) in references {
                    let is_full = notes.count >= NOTES_MAX;
                    let of = notes.pulls.entry(repository.clone()).or_default();
                    // A pull that was noted meanwhile is newer.
                    if of.contains_key(&reference) {
                        continue;
                    }
                    if is_full {
                        notes.missed = notes.missed.max(Some(at));
                        continue;
                    }
                    of.insert(reference, at);
                    notes.count += 1;
                }
            }
        })
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
            if let Err(error) = registry.write_pulls() {
                tracing::error!(%error, "cannot write down what was pulled: trying again");
                thread::sleep(EVERY);
            }
        }
    })
}
