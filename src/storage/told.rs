//! What clients were told exists. A client that was told so does not push it again, so the collector
//! ([`super::sweep`]) must leave it alone for a while.
//!
//! The times of files keep this, so that it survives a restart. The time of a link is when a client
//! was last told that the repository holds the blob: by a push, a mount, a HEAD, a manifest that was
//! accepted, or the removal of one that named it. The time of a blob's file is when a link to it last
//! came or was deleted, and of a manifest's also when it lost a tag.
//!
//! To say that something exists and to note it is one step for the collector: it removes names only
//! while nothing is being told.

use std::io;
use std::path::Path;
use std::sync::{PoisonError, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;

use super::{Error, Result, Storage};

/// How long a note is good for: until then the same need not be noted again.
pub(super) const NOTE_EVERY: Duration = Duration::from_secs(1);

impl Storage {
    /// While the result lives, the collector removes nothing. It is for a few system calls, and is
    /// taken after a repository's lock.
    pub(super) fn telling(&self) -> RwLockReadGuard<'_, ()> {
        // The lock guards no data of its own, so a panic under it broke none.
        self.telling.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// While the result lives, no client is told that something exists.
    pub(super) fn silence(&self) -> RwLockWriteGuard<'_, ()> {
        self.telling.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the time of a file to now. `false`: it does not exist. Nothing is written to a store that
    /// is only read, where nothing is collected either.
    pub(super) fn note(&self, path: &Path) -> Result<bool> {
        if !self.is_writable {
            return super::exists(path);
        }
        let (now, follow) = (TimeSpec::UTIME_NOW, UtimensatFlags::FollowSymlink);
        match utimensat(AT_FDCWD, path, &now, &now, follow) {
            Ok(()) => Ok(true),
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(false),
            Err(errno) => Err(Error::io("set the time of", path, io::Error::from(errno))),
        }
    }
}
