//! Tells what may have changed in the store, so that what is derived from it can be made again.

use std::fmt;
use std::sync::OnceLock;

use super::Storage;
use crate::oci::{Digest, Repository, Tag};

/// Something that has come, changed or gone. The listener asks the store which of these it was,
/// because another change may have followed, and because a change may have failed half way.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    Blob(&'a Digest),
    /// A repository links a blob that it did not link before.
    Linked(&'a Repository, &'a Digest),
    /// `bytes`: the manifest, where it has come.
    Manifest {
        repository: &'a Repository,
        digest: &'a Digest,
        bytes: Option<&'a [u8]>,
    },
    Tag(&'a Repository, &'a Tag),
    /// The repository held nothing any more, and its folder went.
    Emptied(&'a Repository),
}

type Hear = dyn Fn(Change<'_>) + Send + Sync;

#[derive(Default)]
pub(super) struct Listener(OnceLock<Box<Hear>>);

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Listener").finish_non_exhaustive()
    }
}

impl Storage {
    /// From now on `listener` hears of each change, after it and before the caller of the change
    /// does. It may be called under a repository's lock, so it takes none. The first listener stays.
    pub fn listen(&self, listener: impl Fn(Change<'_>) + Send + Sync + 'static) {
        let _ = self.listener.0.set(Box::new(listener));
    }

    pub(super) fn changed(&self, change: Change<'_>) {
        if let Some(hear) = self.listener.0.get() {
            hear(change);
        }
    }
}
