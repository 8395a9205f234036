//! The truth: blobs, uploads, manifests and tags as plain files, in the layout of distribution
//! ([`layout`]). All calls block.
//!
//! One server owns a store and holds a lock on it, so what is cached here is never stale. Code that
//! changes something, or fills a cache, holds the repository's lock; a reader that finds it in the
//! cache takes no lock.

mod blobs;
mod changes;
mod deleted;
pub mod docker1;
mod durable;
mod layout;
mod manifests;
pub mod scrub;
mod sweep;
mod told;
mod uploads;

use std::fs::{self, File, TryLockError};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{self, Mutex, MutexGuard, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use quick_cache::sync::Cache;

use crate::docker1::ImageId;
use crate::oci::{Digest, Reference, Repository, Tag};

pub use blobs::Blob;
pub use changes::Change;
pub use deleted::Tags;
pub use durable::create_root;
pub use manifests::StoredManifest;
pub use sweep::Link;
pub use uploads::UploadWriter;

use durable::Durable;
use layout::Layout;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("repository {0} is not known")]
    RepositoryUnknown(Repository),
    #[error("blob {digest} is not in repository {repository}")]
    BlobUnknown { repository: Repository, digest: Digest },
    #[error("manifest {reference} is not in repository {repository}")]
    ManifestUnknown { repository: Repository, reference: Reference },
    #[error(
        "the manifest names {} blobs that repository {repository} does not hold: push them first", missing.len()
    )]
    ManifestBlobUnknown { repository: Repository, missing: Vec<Digest> },
    #[error(
        "upload {id} is not known in repository {repository}: it was finished, cancelled or has expired; start a new one"
    )]
    UploadUnknown { repository: Repository, id: uuid::Uuid },
    #[error(
        "repository {repository} has {open} unfinished uploads: finish or cancel some, or try again when they have expired"
    )]
    TooManyUploads { repository: Repository, open: usize },
    #[error(
        "tag {repository}:{tag} is immutable and names {digest}: use another tag, or have the registry's operator change the rules of retention"
    )]
    TagImmutable { repository: Repository, tag: Tag, digest: Box<Digest> },
    #[error("another request is writing to upload {id}: wait for it, then ask for its status")]
    UploadBusy { id: uuid::Uuid },
    #[error("the content's digest is {actual}, not {expected}: nothing was stored")]
    // The digests are boxed, because two of them make the error too large to pass around.
    DigestMismatch { expected: Box<Digest>, actual: Box<Digest> },
    #[error("the disk is full: cannot {action} {path}; free space there and push again")]
    DiskFull { action: &'static str, path: PathBuf },
    // The field is not called `source`, because the message includes the cause already.
    #[error("cannot {action} {path}: {cause}")]
    Io { action: &'static str, path: PathBuf, cause: io::Error },
    #[error("image {0} is not known")]
    ImageUnknown(ImageId),
    // Docker 1 looks for this text, and continues with the next image.
    #[error("Image already exists")]
    ImageExists(ImageId),
    #[error("no layer of image {0} waits for its checksum: push its JSON and its layer first")]
    ChecksumUnexpected(ImageId),
    #[error(
        "the checksum of image {image} is not {said}: the push was discarded, push the image again"
    )]
    ChecksumMismatch { image: ImageId, said: String },
    #[error(
        "the JSON of image {0} was pushed again while its layer was received: push the layer again"
    )]
    ImageChanged(ImageId),
    #[error("{path} is damaged: {why}")]
    Damaged { path: PathBuf, why: String },
    #[error("{path} is in use by another server: stop it, or give this one another directory")]
    Locked { path: PathBuf },
}

impl Error {
    /// Whether it says that a repository, or a manifest of it, does not exist.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Error::RepositoryUnknown(_) | Error::ManifestUnknown { .. })
    }

    pub fn digest_mismatch(expected: &Digest, actual: &Digest) -> Error {
        Error::DigestMismatch { expected: Box::new(*expected), actual: Box::new(*actual) }
    }

    pub(crate) fn io(action: &'static str, path: &Path, cause: io::Error) -> Error {
        match cause.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Error::DiskFull { action, path: path.to_owned() }
            }
            _ => Error::Io { action, path: path.to_owned(), cause },
        }
    }
}

/// Locks, which repositories share by their hash.
const SHARDS: usize = 64;
/// Bytes of manifests kept in memory.
const MANIFEST_CACHE: u64 = 16 << 20;
/// Blob sizes kept in memory. An entry takes about 200 bytes.
const BLOB_CACHE: usize = 32 << 10;

#[derive(Debug)]
pub struct Storage {
    layout: Layout,
    durable: Durable,
    sparse_images: bool,
    shards: [Mutex<()>; SHARDS],
    hash: RandomState,
    manifests: manifests::ManifestCache,
    blob_sizes: Cache<(Repository, Digest), blobs::Known>,
    sessions: uploads::Sessions,
    /// Whether repositories are private, as far as that is known.
    private: Cache<Repository, bool>,
    /// Held by the collector while it removes names, see [`told`].
    telling: RwLock<()>,
    is_writable: bool,
    listener: changes::Listener,
    /// `None`: another process may be writing, so nothing is cached.
    lock: Option<File>,
}

/// How to open a store.
#[derive(Clone, Debug)]
pub struct Options {
    /// Distribution's `rootdirectory`.
    pub root: PathBuf,
    /// Change nothing on disk; the root must exist.
    pub read_only: bool,
    /// Accept image manifests whose layers are not all here.
    pub sparse_images: bool,
}

impl Storage {
    pub fn open(options: &Options) -> Result<Storage> {
        let layout = Layout::new(&options.root);
        let scratch = layout.scratch();
        if !options.read_only {
            durable::create_root(layout.base())?;
        }
        let lock = lock(layout.base(), options.read_only)?;
        if !options.read_only {
            // A killed server may have left files here. The lock says that no other server uses
            // them.
            match fs::remove_dir_all(&scratch) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::io("clear", &scratch, e));
                }
                _ => fs::create_dir(&scratch).map_err(|e| Error::io("create", &scratch, e))?,
            }
        }
        let mut storage = Storage::with(layout, options.sparse_images, Some(lock));
        storage.is_writable = !options.read_only;
        Ok(storage)
    }

    /// Opens a store to read it while a server may be writing to it.
    pub fn observe(root: &Path) -> Result<Storage> {
        let layout = Layout::new(root);
        let base = layout.base();
        fs::read_dir(base).map_err(|e| Error::io("open", base, e))?;
        Ok(Storage::with(layout, false, None))
    }

    fn with(layout: Layout, sparse_images: bool, lock: Option<File>) -> Storage {
        Storage {
            durable: Durable::new(layout.root().to_owned(), layout.scratch()),
            layout,
            sparse_images,
            shards: [const { Mutex::new(()) }; SHARDS],
            hash: RandomState::new(),
            manifests: manifests::cache(MANIFEST_CACHE),
            blob_sizes: Cache::new(BLOB_CACHE),
            sessions: uploads::Sessions::default(),
            private: Cache::new(BLOB_CACHE),
            telling: RwLock::new(()),
            is_writable: false,
            listener: changes::Listener::default(),
            lock,
        }
    }

    /// Whether what is cached stays true.
    fn is_owned(&self) -> bool {
        self.lock.is_some()
    }

    /// Serialises changes to a repository, and cache fills with them.
    fn lock(&self, repository: &Repository) -> MutexGuard<'_, ()> {
        let shard = self.hash.hash_one(repository) as usize % SHARDS;
        // The lock guards no data of its own, so a panic under it broke none.
        self.shards[shard].lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Does something while no manifest or tag of a repository changes. It must be short.
    pub fn without_changes<T>(&self, repository: &Repository, work: impl FnOnce() -> T) -> T {
        let _lock = self.lock(repository);
        work()
    }

    /// [`Storage::lock`], unless another holds it.
    fn try_lock(&self, repository: &Repository) -> Option<MutexGuard<'_, ()>> {
        let shard = self.hash.hash_one(repository) as usize % SHARDS;
        match self.shards[shard].try_lock() {
            Ok(guard) => Some(guard),
            Err(sync::TryLockError::Poisoned(e)) => Some(e.into_inner()),
            Err(sync::TryLockError::WouldBlock) => None,
        }
    }

    /// Whether anything was ever pushed to the repository.
    pub fn repository_exists(&self, repository: &Repository) -> Result<bool> {
        Ok(exists(&self.layout.manifests(repository))? || exists(&self.layout.layers(repository))?)
    }

    /// Whether the repository holds a manifest, and so belongs in the catalog.
    pub fn has_manifests(&self, repository: &Repository) -> Result<bool> {
        for algorithm in crate::oci::Algorithm::ALL {
            let folder = self.layout.revisions(repository, algorithm);
            let entries = match fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(Error::io("list", &folder, e)),
            };
            for entry in entries {
                // A push that was cut off may leave a folder without its link.
                let link = entry.map_err(|e| Error::io("list", &folder, e))?.path().join("link");
                if exists(&link)? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// When a manifest was last added to the repository or removed from it, in nanoseconds since
    /// 1970. `None`: it holds none.
    pub fn manifests_changed(&self, repository: &Repository) -> Result<Option<u64>> {
        if !self.has_manifests(repository)? {
            return Ok(None);
        }
        let mut changed = 0;
        for algorithm in crate::oci::Algorithm::ALL {
            let folder = self.layout.revisions(repository, algorithm);
            match fs::metadata(&folder).and_then(|metadata| metadata.modified()) {
                Ok(time) => {
                    // Times before 1970 count as 1970.
                    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
                    changed = changed.max(since.as_nanos() as u64);
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(Error::io("read", &folder, e)),
            }
        }
        Ok(Some(changed))
    }

    /// Calls `visit` for every repository of the store, in no order. This lists one folder for each
    /// repository, and reads nothing in the `_` folders. Folders that no registry made are logged
    /// and skipped.
    pub fn walk<E: From<Error>>(
        &self,
        visit: impl FnMut(&Repository) -> Result<(), E>,
    ) -> Result<(), E> {
        self.walk_strictly(visit, |path, error| {
            tracing::warn!(path = %path.display(), %error, "skipped a folder in the store");
            Ok(())
        })
    }

    /// Does the same. `unknown` hears of each folder that cannot be read, or is no repository.
    pub fn walk_strictly<E: From<Error>>(
        &self,
        mut visit: impl FnMut(&Repository) -> Result<(), E>,
        mut unknown: impl FnMut(&Path, &dyn std::error::Error) -> Result<(), E>,
    ) -> Result<(), E> {
        let root = self.layout.repositories();
        let mut stack = vec![String::new()];
        while let Some(name) = stack.pop() {
            let path = root.join(&name);
            let entries = match fs::read_dir(&path) {
                Ok(entries) => entries,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    unknown(&path, &error)?;
                    continue;
                }
                Err(e) => return Err(Error::io("list", &path, e).into()),
            };
            let mut is_repository = false;
            for entry in entries {
                let entry = entry.map_err(|e| Error::io("list", &path, e))?;
                let Ok(child) = entry.file_name().into_string() else {
                    continue;
                };
                if child.starts_with('_') {
                    is_repository = true;
                } else if entry.file_type().is_ok_and(|t| t.is_dir()) {
                    stack.push(if name.is_empty() { child } else { format!("{name}/{child}") });
                }
            }
            if is_repository {
                match name.parse() {
                    Ok(repository) => visit(&repository)?,
                    Err(error) => unknown(&path, &error)?,
                }
            }
        }
        Ok(())
    }
}

/// What exists under a part of repositories' names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    /// One component of a name.
    pub name: String,
    /// Something was pushed to the repository of this name.
    pub repository: bool,
    /// There are longer names below.
    pub below: bool,
}

impl Storage {
    /// The next components of the names that begin with `prefix`, which is empty, or the beginning
    /// of a name up to a slash, without the slash. In no order. `None`: there are none. This lists
    /// one folder for each.
    pub fn folders(&self, prefix: &str) -> Result<Option<Vec<Folder>>> {
        let path = self.layout.repositories().join(prefix);
        let Some(children) = folders_in(path.clone())? else {
            // Nothing was ever pushed below this prefix.
            return Ok(prefix.is_empty().then(Vec::new));
        };
        let mut folders = Vec::new();
        for name in children {
            let name = name?;
            // Invalid names were not made by a registry.
            if name.starts_with('_') || name.parse::<Repository>().is_err() {
                continue;
            }
            let Some(inner) = folders_in(path.join(&name))? else {
                continue;
            };
            let inner = inner.collect::<Result<Vec<_>>>()?;
            folders.push(Folder {
                repository: inner.iter().any(|inner| inner == "_manifests"),
                below: inner.iter().any(|inner| !inner.starts_with('_')),
                name,
            });
        }
        Ok(Some(folders))
    }

    /// When [`Storage::folders`] last changed for `prefix`. `None`: no names continue below it. A
    /// server keeps this time exact, see [`Storage::touch`]. Before its first push it is the time
    /// at which the last repository was created.
    pub fn folders_changed(&self, prefix: &str) -> Result<Option<SystemTime>> {
        let path = self.layout.repositories().join(prefix);
        if !prefix.is_empty() {
            let Some(mut inner) = folders_in(path.clone())? else {
                return Ok(None);
            };
            let below = |name: &Result<String>| !matches!(name, Ok(name) if name.starts_with('_'));
            if inner.find(below).transpose()?.is_none() {
                return Ok(None);
            }
        }
        match fs::metadata(&path).and_then(|metadata| metadata.modified()) {
            Ok(time) => Ok(Some(time)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Ok(prefix.is_empty().then_some(UNIX_EPOCH))
            }
            Err(e) => Err(Error::io("read", &path, e)),
        }
    }

    /// Notes that what a mount lists of a repository has changed: in the folder that the
    /// repository's folder lies in and, if the repository is new, in all folders above.
    fn touch(&self, repository: &Repository, new: bool) {
        let root = self.layout.repositories();
        let path = self.layout.repository(repository);
        let above = path.ancestors().skip(1).take_while(|path| path.starts_with(&root));
        for folder in above.take(if new { usize::MAX } else { 1 }) {
            let touched = File::open(folder).and_then(|file| file.set_modified(SystemTime::now()));
            if let Err(error) = touched {
                tracing::warn!(path = %folder.display(), %error, "cannot set the time of a folder");
            }
        }
    }
}

/// The folders in a folder. `None`: it does not exist, or may not be read.
fn folders_in(path: PathBuf) -> Result<Option<impl Iterator<Item = Result<String>>>> {
    use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    let entries = match fs::read_dir(&path) {
        Ok(entries) => entries,
        Err(e) if matches!(e.kind(), NotFound | NotADirectory | PermissionDenied) => {
            return Ok(None);
        }
        Err(e) => return Err(Error::io("list", &path, e)),
    };
    Ok(Some(entries.filter_map(move |entry| match entry {
        Ok(entry) if entry.file_type().is_ok_and(|kind| kind.is_dir()) => {
            entry.file_name().into_string().ok().map(Ok)
        }
        Ok(_) => None,
        Err(e) => Some(Err(Error::io("list", &path, e))),
    })))
}

/// Locks a folder itself, so that no lock file lies in it, until the result is
/// dropped or the process ends. Servers that only read share the lock.
pub fn lock(base: &Path, shared: bool) -> Result<File> {
    let folder = File::open(base).map_err(|e| Error::io("open", base, e))?;
    let locked = if shared { folder.try_lock_shared() } else { folder.try_lock() };
    match locked {
        Ok(()) => Ok(folder),
        Err(TryLockError::WouldBlock) => Err(Error::Locked { path: base.to_owned() }),
        Err(TryLockError::Error(e)) => Err(Error::io("lock", base, e)),
    }
}

/// The permissions that new files of a store must not have. A store that this server creates is
/// private to its user. Files in an existing store are as accessible as its base folder, because
/// other programs may read the store too.
pub fn denied_permissions(root: &Path) -> Result<u32> {
    const OTHER_USERS: u32 = 0o077;
    let layout = Layout::new(root);
    match fs::metadata(layout.base()) {
        Ok(base) => Ok(OTHER_USERS & !base.permissions().mode()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(OTHER_USERS),
        Err(e) => Err(Error::io("read", layout.base(), e)),
    }
}

/// Whether there is a file of that name. An error does not count as absence.
fn exists(path: &Path) -> Result<bool> {
    path.try_exists().map_err(|e| Error::io("read", path, e))
}

/// The digest in a link file. `None`: the file does not exist.
fn read_link(path: &Path) -> Result<Option<Digest>> {
    match fs::read_to_string(path) {
        Ok(text) => match text.trim().parse() {
            Ok(digest) => Ok(Some(digest)),
            Err(e) => {
                Err(Error::Damaged { path: path.to_owned(), why: format!("a link file: {e}") })
            }
        },
        // NotADirectory: a tag cannot exist if its name leads through a file.
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(e) if e.kind() == io::ErrorKind::InvalidData => {
            Err(Error::Damaged { path: path.to_owned(), why: format!("a link file: {e}") })
        }
        Err(e) => Err(Error::io("read", path, e)),
    }
}

/// A page of sorted names.
#[derive(Debug, PartialEq, Eq)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Where the next page starts, exclusively; `None` on the last page.
    pub next: Option<String>,
}

impl Page<Tag> {
    /// The `n` smallest of `names` above `last` that are `wanted`, whatever order they come in.
    /// Memory follows `n`, not the number of names. `wanted` is called only for names that would be
    /// on the page.
    fn smallest(
        names: impl Iterator<Item = Result<Tag>>,
        last: &str,
        n: usize,
        wanted: impl Fn(&Tag) -> Result<bool>,
    ) -> Result<Page<Tag>> {
        let mut kept = std::collections::BTreeSet::new();
        for name in names {
            let name = name?;
            let full = kept.len() > n;
            if name.as_str() <= last || (full && kept.last().is_some_and(|largest| name > *largest))
            {
                continue;
            }
            if wanted(&name)? {
                kept.insert(name);
                if kept.len() > n + 1 {
                    kept.pop_last();
                }
            }
        }
        let more = kept.len() > n;
        let items: Vec<Tag> = kept.into_iter().take(n).collect();
        let next = items.last().filter(|_| more).map(|tag| tag.as_str().to_owned());
        Ok(Page { items, next })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages() {
        let names = ["b", "a", "gone", "ab", "a-1", "c"];
        let page = |last: &str, n| {
            let page =
                Page::smallest(names.iter().map(|s| Ok(s.parse().unwrap())), last, n, |tag| {
                    Ok(tag.as_str() != "gone")
                })
                .unwrap();
            (
                page.items.iter().map(|t| t.as_str().to_owned()).collect::<Vec<_>>().join(" "),
                page.next,
            )
        };
        assert_eq!(
            page("", 2),
            ("a a-1".into(), Some("a-1".into())),
            "a prefix is a name of its own"
        );
        assert_eq!(page("a-1", 2), ("ab b".into(), Some("b".into())));
        assert_eq!(page("b", 2), ("c".into(), None));
        assert_eq!(page("zz", 2), (String::new(), None));
        assert_eq!(page("", 5), ("a a-1 ab b c".into(), None), "exactly n is the last page");
        assert_eq!(page("", 0), (String::new(), None));
    }

    #[test]
    fn one_server_a_store() {
        let root = tempfile::tempdir().unwrap();
        let open = |read_only| {
            Storage::open(&Options {
                root: root.path().to_owned(),
                read_only,
                sparse_images: false,
            })
        };
        let writer = open(false).unwrap();
        assert!(matches!(open(false), Err(Error::Locked { .. })));
        assert!(matches!(open(true), Err(Error::Locked { .. })));
        drop(writer);
        let _readers = [open(true).unwrap(), open(true).unwrap()];
        assert!(matches!(open(false), Err(Error::Locked { .. })));
    }
}
