//! A file that is read again when it changes. One that cannot be used any more
//! changes nothing: what was read before stays in force, and the log says so.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::Error;

/// Larger files are refused.
const SIZE_MAX: u64 = 16 << 20;

#[derive(Debug)]
pub struct Watched<T> {
    path: PathBuf,
    parse: fn(&Path, &str) -> Result<T, Error>,
    current: RwLock<Arc<T>>,
    /// Grows with every change.
    generation: AtomicU64,
    /// What was found when it was looked at last.
    stamp: Mutex<Option<Stamp>>,
}

/// What changes when a file does, be it written, replaced, or a symbolic link to
/// it turned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> io::Result<Stamp> {
        let metadata = fs::metadata(path)?;
        Ok(Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

impl<T> Watched<T> {
    pub fn open(
        path: &Path,
        parse: fn(&Path, &str) -> Result<T, Error>,
    ) -> Result<Watched<T>, Error> {
        // Before it is read, so that a change meanwhile is seen later.
        let stamp = Stamp::of(path).map_err(|cause| Error::read(path, cause))?;
        let value = parse(path, &read(path)?)?;
        Ok(Watched {
            path: path.to_owned(),
            parse,
            current: RwLock::new(Arc::new(value)),
            generation: AtomicU64::new(0),
            stamp: Mutex::new(Some(stamp)),
        })
    }

    /// What the file says.
    pub fn get(&self) -> Arc<T> {
        // Nothing panics while it is written.
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&current)
    }

    /// Another number after every change. Asked before [`Watched::get`], what is
    /// derived from both is never newer than it says.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Reads the file again if it has changed.
    pub fn reload(&self) {
        let mut stamp = self.stamp.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Stamp::of(&self.path).ok();
        if *stamp == now {
            return;
        }
        *stamp = now;
        let path = self.path.display();
        match read(&self.path).and_then(|text| (self.parse)(&self.path, &text)) {
            Ok(value) => {
                let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
                *current = Arc::new(value);
                self.generation.fetch_add(1, Ordering::Release);
                tracing::info!(%path, "read again after a change");
            }
            Err(error) => {
                tracing::error!(%error, "a changed file cannot be used: what it said before stays in force");
            }
        }
    }
}

/// Reads a file of settings, without the byte order mark that some editors put before the first
/// line, where it would become part of a name.
pub fn read(path: &Path) -> Result<String, Error> {
    let failed = |cause| Error::read(path, cause);
    let size = fs::metadata(path).map_err(failed)?.len();
    if size > SIZE_MAX {
        return Err(failed(io::Error::other("it is larger than 16 MiB")));
    }
    let mut text = fs::read_to_string(path).map_err(failed)?;
    if text.starts_with('\u{feff}') {
        text.drain(..'\u{feff}'.len_utf8());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(path: &Path, text: &str) -> Result<u32, Error> {
        text.trim().parse().map_err(|_| Error::line(path, 1, "not a number"))
    }

    #[test]
    fn a_byte_order_mark_is_no_text() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "\u{feff}ann:x\n\u{feff}bob").unwrap();
        assert_eq!(read(&path).unwrap(), "ann:x\n\u{feff}bob");
    }

    #[test]
    fn changes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        assert!(Watched::open(&path, number).is_err(), "no file");
        fs::write(&path, "1").unwrap();
        let watched = Watched::open(&path, number).unwrap();
        fs::write(&path, "22").unwrap();
        assert_eq!((*watched.get(), watched.generation()), (1, 0), "not yet");
        watched.reload();
        assert_eq!((*watched.get(), watched.generation()), (22, 1));
        fs::write(&path, "x").unwrap();
        watched.reload();
        assert_eq!((*watched.get(), watched.generation()), (22, 1), "broken");
        fs::remove_file(&path).unwrap();
        watched.reload();
        assert_eq!((*watched.get(), watched.generation()), (22, 1), "gone");
        fs::write(dir.path().join("new"), "33").unwrap();
        std::os::unix::fs::symlink("new", &path).unwrap();
        watched.reload();
        assert_eq!((*watched.get(), watched.generation()), (33, 2), "replaced");
    }
}
