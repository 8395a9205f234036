//! Changes to the store that survive power loss. A file is written aside, synced and renamed to its
//! name, and the directories that now name it are synced before the client gets an answer.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use uuid::Uuid;

use super::{Error, Result};

/// Directories remembered as synced. Beyond this number all are forgotten.
const KNOWN_MAX: usize = 16 << 10;

#[derive(Debug)]
pub struct Durable {
    /// This was synced when the store was opened, with everything above it.
    root: PathBuf,
    scratch: PathBuf,
    /// Directories whose entry in their parent this process has synced. It is not enough that a
    /// directory exists: another thread, or a process that was killed, may have made it and not yet
    /// synced it.
    known: Mutex<HashSet<PathBuf>>,
}

impl Durable {
    /// Both folders lie on one file system.
    pub fn new(root: PathBuf, scratch: PathBuf) -> Durable {
        Durable { root, scratch, known: Mutex::default() }
    }

    /// A path in the scratch folder that nothing else uses.
    pub fn scratch_path(&self) -> PathBuf {
        self.scratch.join(Uuid::new_v4().simple().to_string())
    }

    /// Makes `path` and the folders above it that are missing.
    pub fn directory(&self, path: &Path) -> Result<()> {
        if self.known.lock().expect("never poisoned: no panic inside").contains(path) {
            return Ok(());
        }
        let Some(parent) = path.parent() else {
            return Ok(());
        };
        match fs::create_dir(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.directory(parent)?;
                match fs::create_dir(path) {
                    Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                        return Err(Error::io("create", path, e));
                    }
                    _ => {}
                }
            }
            // Opening the store has synced what is above it.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.starts_with(&self.root) => {
                self.directory(parent)?;
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            Err(e) => return Err(Error::io("create", path, e)),
            Ok(()) => self.directory(parent)?,
        }
        sync_directory(parent)?;
        let mut known = self.known.lock().expect("never poisoned: no panic inside");
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(path.to_owned());
        Ok(())
    }

    /// Renames the synced file `from` to `to`, replacing what is there.
    pub fn install(&self, from: &Path, to: &Path) -> Result<()> {
        let parent = to.parent().expect("a file of the store lies in a folder");
        self.directory(parent)?;
        match fs::rename(from, to) {
            // The collector has removed an empty folder meanwhile.
            Err(e) if e.kind() == io::ErrorKind::NotFound && from.exists() => {
                self.forget(parent);
                self.directory(parent)?;
                fs::rename(from, to)
            }
            renamed => renamed,
        }
        .map_err(|e| Error::io("rename into", to, e))?;
        sync_directory(parent)
    }

    /// Forgets that a folder, and those above it, are there and synced.
    fn forget(&self, folder: &Path) {
        let mut known = self.known.lock().expect("never poisoned: no panic inside");
        for path in folder.ancestors() {
            known.remove(path);
        }
    }

    /// Takes a tree away in one step and returns where it lies now, to be discarded. Nothing is
    /// synced. On a full disk it is removed in place, file by file. `None`: nothing is left of it.
    pub fn set_aside(&self, path: &Path) -> Result<Option<PathBuf>> {
        let aside = self.scratch_path();
        let result = match fs::rename(path, &aside) {
            Ok(()) => Ok(Some(aside)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
                ) =>
            {
                fs::remove_dir_all(path).map(|()| None).map_err(|e| Error::io("remove", path, e))
            }
            Err(e) => Err(Error::io("remove", path, e)),
        };
        self.known.lock().expect("never poisoned: no panic inside").remove(path);
        result
    }

    /// Forgets all folders: trees with folders in them were taken away.
    pub fn forget_all(&self) {
        self.known.lock().expect("never poisoned: no panic inside").clear();
    }

    /// Removes a folder if it is empty. `false`: it is not.
    pub fn remove_empty(&self, folder: &Path) -> Result<bool> {
        match fs::remove_dir(folder) {
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => return Ok(false),
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io("remove", folder, e));
            }
            _ => {}
        }
        self.known.lock().expect("never poisoned: no panic inside").remove(folder);
        Ok(true)
    }

    /// Makes the removal of names from a folder survive power loss.
    pub fn sync_if_there(&self, folder: &Path) -> Result<()> {
        match sync_directory(folder) {
            Err(Error::Io { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Makes a folder of small files, which appears in one step. Fails if there is one already.
    pub fn write_folder(&self, to: &Path, files: &[(&str, &[u8])]) -> Result<()> {
        let aside = self.scratch_path();
        let made = fs::create_dir(&aside)
            .and_then(|()| {
                for (name, bytes) in files {
                    let mut file = File::create_new(aside.join(name))?;
                    file.write_all(bytes)?;
                    file.sync_all()?;
                }
                File::open(&aside)?.sync_all()
            })
            .map_err(|e| Error::io("write", to, e));
        made.and_then(|()| self.install(&aside, to)).inspect_err(|_| discard(&aside))
    }

    /// Writes a small file in one step: readers see the old or the new.
    pub fn write(&self, to: &Path, bytes: &[u8]) -> Result<()> {
        let aside = self.prepare(to, bytes)?;
        self.install(&aside, to).inspect_err(|_| discard(&aside))
    }

    /// Does the part of [`Durable::write`] that takes space on the disk. The file that it returns
    /// has to be installed as `to`, or discarded.
    pub fn prepare(&self, to: &Path, bytes: &[u8]) -> Result<PathBuf> {
        self.directory(to.parent().expect("a file of the store lies in a folder"))?;
        let aside = self.scratch_path();
        File::create_new(&aside)
            .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
            .map_err(|e| Error::io("write", to, e))
            .inspect_err(|_| discard(&aside))?;
        Ok(aside)
    }

    /// Removes a tree in one step, then frees its space. `false`: it was not there.
    pub fn remove(&self, path: &Path) -> Result<bool> {
        let folder = path.parent().expect("a folder of the store lies in a folder");
        let removed = self.remove_all(folder, [path.to_owned()])?;
        Ok(removed > 0)
    }

    /// Removes trees of one folder, each in one step, with one sync for all of them. Returns their
    /// number.
    pub fn remove_all(
        &self,
        folder: &Path,
        trees: impl IntoIterator<Item = PathBuf>,
    ) -> Result<usize> {
        let mut removed = HashSet::new();
        let mut aside = Vec::new();
        let mut result = Ok(());
        for path in trees {
            let to = self.scratch_path();
            match fs::rename(&path, &to) {
                Ok(()) => {
                    removed.insert(path);
                    aside.push(to);
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => {
                    result = Err(Error::io("remove", &path, e));
                    break;
                }
            }
        }
        if !removed.is_empty() {
            self.known
                .lock()
                .expect("never poisoned: no panic inside")
                .retain(|known| !known.ancestors().any(|path| removed.contains(path)));
            sync_directory(folder)?;
            for path in &aside {
                discard(path);
            }
        }
        result.map(|()| removed.len())
    }
}

/// Frees the space of a tree that has no name in the store any more. A failure costs only space,
/// and the next start clears the scratch folder.
pub fn discard(path: &Path) {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), error = %e, "cannot remove a discarded file");
        }
        _ => {}
    }
}

/// Makes a folder and those above it, so that they survive power loss.
pub fn create_root(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|e| Error::io("create", path, e))?;
    for folder in path.ancestors().skip(1) {
        // The parent of a relative path of one part is the current folder.
        let current = folder.as_os_str().is_empty();
        match sync_directory(if current { Path::new(".") } else { folder }) {
            // This process did not make a folder that it cannot read or sync.
            Err(Error::Io { cause, .. })
                if matches!(
                    cause.kind(),
                    io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput
                ) => {}
            other => other?,
        }
    }
    Ok(())
}

fn sync_directory(path: &Path) -> Result<()> {
    File::open(path).and_then(|d| d.sync_all()).map_err(|e| Error::io("sync", path, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn write_replace_remove() {
        let root = tempfile::tempdir().unwrap();
        let scratch = root.path().join("_tmp");
        fs::create_dir(&scratch).unwrap();
        let durable = Durable::new(root.path().to_owned(), scratch.clone());
        let path = root.path().join("a/b/c/link");
        for text in ["one", "two"] {
            durable.write(&path, text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert!(durable.remove(&root.path().join("a/b")).unwrap());
        assert!(!durable.remove(&root.path().join("a/b")).unwrap(), "gone already");
        durable.write(&path, b"three").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"three", "a removed folder is made again");
        assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0, "nothing is left aside");
    }

    #[test]
    fn failure_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let scratch = root.path().join("_tmp");
        fs::create_dir(&scratch).unwrap();
        fs::write(root.path().join("file"), "").unwrap();
        let durable = Durable::new(root.path().to_owned(), scratch.clone());
        let error = durable.write(&root.path().join("file/link"), b"x").unwrap_err();
        assert!(error.to_string().contains("file"), "{error}");
        assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0);
    }
}
