//! Checks that what lies in the store is what it was: every blob against its digest, every link,
//! every image of the first API. It runs beside everything else. Whatever seems damaged is looked at
//! once more while no change can be under way, so that a push or a delete is never taken for damage.
//!
//! A damaged blob is moved aside into `_damaged`, and its links stay. From then on it does not exist
//! for clients, so the next one that pushes it heals all repositories that link it.

mod links;

use std::collections::HashSet;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{
    AT_FDCWD, FcntlArg, OFlag, PosixFadviseAdvice, RenameFlags, fcntl, posix_fadvise, renameat2,
};

use super::blobs::Blob;
use super::{Change, Error, Result, Storage, exists};
use crate::docker1::ImageId;
use crate::oci::{Algorithm, Digest, Hasher, Repository, Tag};

/// Bytes read at a time, and what they are aligned to, as reading past the page cache demands.
const PIECE: usize = 1 << 20;
const ALIGNMENT: usize = 4096;
/// How long a wait for the rate may last until it is seen that the scrub has to stop.
const STEP: Duration = Duration::from_millis(50);
/// Holders of a missing blob that are named.
const HOLDERS: usize = 3;

/// How fast a scrub reads, how far it is, and whether it has to stop.
#[derive(Debug)]
pub struct Pace {
    /// Bytes per second; 0 is no limit.
    rate: u64,
    /// When the next bytes may be read.
    due: Mutex<Instant>,
    bytes: AtomicU64,
    stopped: AtomicBool,
}

impl Pace {
    /// `rate` is in bytes per second; 0 is no limit.
    pub fn new(rate: u64) -> Pace {
        Pace {
            rate,
            due: Mutex::new(Instant::now()),
            bytes: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
        }
    }

    /// Fails if the scrub has to stop.
    pub fn go_on(&self) -> io::Result<()> {
        match self.is_stopped() {
            true => Err(io::Error::other("the scrub was stopped")),
            false => Ok(()),
        }
    }

    /// Makes every reader fail.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// The bytes read so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Counts bytes that were read, and waits for as long as they may take.
    pub fn spend(&self, bytes: u64) -> io::Result<()> {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let until = {
            let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
            let took = Duration::from_secs_f64(bytes as f64 / self.rate.max(1) as f64);
            // What was not read in time is not caught up with.
            *due = (*due).max(Instant::now()) + took;
            *due
        };
        loop {
            self.go_on()?;
            let left = until.saturating_duration_since(Instant::now());
            if self.rate == 0 || left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(STEP));
        }
    }
}

/// Something in the store that is not as it was written.
#[derive(Debug)]
pub enum Damage {
    /// A blob that is not what its digest says.
    Blob {
        digest: Digest,
        why: String,
        /// Where it lies now. `None`: it was left where it is.
        aside: Option<PathBuf>,
    },
    /// A blob that is linked, and is not there.
    Missing { digest: Digest, holders: Holders },
    /// A link, or a file of the first API, that cannot be what was written.
    Link { repository: Option<Repository>, path: PathBuf, why: String },
    /// A tag of a manifest that the repository does not hold.
    Tag { repository: Repository, tag: Tag, manifest: Digest },
    /// A referrer that the repository does not hold.
    Referrer { repository: Repository, subject: Digest, referrer: Digest },
    /// An image of the first API.
    Image {
        id: ImageId,
        why: String,
        /// Nothing is wrong with it but that this image is missing, on which it is built.
        parent: Option<ImageId>,
    },
    /// It could not be read, so it is not known.
    Unreadable(Error),
}

/// What links a blob.
#[derive(Debug, Default)]
pub struct Holders {
    /// Repositories and images of the first API, at most [`HOLDERS`].
    pub names: Vec<String>,
    pub number: usize,
}

impl fmt::Display for Holders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names.join(", "))?;
        match self.number - self.names.len() {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Damage::Blob { digest, why, aside: Some(aside) } => write!(
                f,
                "blob {digest} {why}: moved to {}; push an image that has it, or restore it",
                aside.display()
            ),
            Damage::Blob { digest, why, aside: None } => {
                write!(f, "blob {digest} {why}: push an image that has it, or restore it")
            }
            Damage::Missing { digest, holders } => write!(
                f,
                "blob {digest} is missing, and {holders} has it: push an image that has it, or \
                 restore it"
            ),
            Damage::Link { path, why, .. } => {
                write!(f, "{} is damaged: {why}; push again what it leads to", path.display())
            }
            Damage::Tag { repository, tag, manifest } => write!(
                f,
                "tag {repository}:{tag} names {manifest}, which the repository does not hold: push \
                 the image again, or delete the tag"
            ),
            Damage::Referrer { repository, subject, referrer } => write!(
                f,
                "{repository}@{subject} has the referrer {referrer}, which the repository does not \
                 hold: push the referrer again"
            ),
            Damage::Image { id, why, .. } => {
                write!(f, "v1 image {id} is damaged: {why}; push it again")
            }
            Damage::Unreadable(error) => write!(f, "{error}"),
        }
    }
}

/// What is read of a blob for a scrub: past the page cache, which belongs to pulls, at a scrub's
/// pace, and hashed.
#[derive(Debug)]
pub(super) struct Checked {
    file: File,
    pace: Arc<Pace>,
    /// The hash, and the bytes that are in it.
    hashed: Mutex<(Hasher, u64)>,
    /// The piece that the last reader had, for the next one.
    piece: Mutex<Option<Piece>>,
}

impl Checked {
    fn open(file: &File, path: &Path, hasher: Hasher, pace: &Arc<Pace>) -> io::Result<Checked> {
        // The same file, whatever has the name by now.
        let same = format!("/proc/self/fd/{}", file.as_raw_fd());
        let mut options = File::options();
        options.read(true);
        let direct = options.clone().custom_flags(libc::O_DIRECT).open(&same);
        let file = match direct {
            // This file system cannot do it.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => options.open(&same),
            // Without /proc.
            Err(e) if e.kind() == io::ErrorKind::NotFound => options.open(path),
            opened => opened,
        }?;
        let hashed = Mutex::new((hasher, 0));
        Ok(Checked { file, pace: Arc::clone(pace), hashed, piece: Mutex::default() })
    }

    pub(super) fn take_piece(&self) -> Piece {
        self.piece.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default()
    }

    pub(super) fn put_piece(&self, piece: Piece) {
        *self.piece.lock().unwrap_or_else(PoisonError::into_inner) = Some(piece);
    }

    fn hashed(&self) -> MutexGuard<'_, (Hasher, u64)> {
        self.hashed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fills `piece` with what is at its offset.
    fn fill(&self, piece: &mut Piece) -> io::Result<()> {
        let space = piece.space.as_ptr().align_offset(ALIGNMENT);
        let buffer = &mut piece.space[space..space + PIECE];
        let read = match self.file.read_at(buffer, piece.offset) {
            // It can open files so, but not read them.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
                fcntl(&self.file, FcntlArg::F_SETFL(OFlag::empty()))?;
                self.file.read_at(buffer, piece.offset)
            }
            read => read,
        }?;
        (piece.start, piece.length) = (space, read);
        let mut hashed = self.hashed();
        // Another reader may have been here before.
        let known = usize::try_from(hashed.1.saturating_sub(piece.offset)).unwrap_or(read);
        if piece.offset <= hashed.1 && known < read {
            hashed.0.update(&buffer[known..read]);
            hashed.1 += (read - known) as u64;
        }
        drop(hashed);
        if !is_direct(&self.file)? {
            let (from, length) = (piece.offset as i64, read as i64);
            // A hint, and what was read before is of no use any more.
            let _ =
                posix_fadvise(&self.file, from, length, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
        }
        self.pace.spend(read as u64)
    }

    pub(super) fn read(
        &self,
        piece: &mut Piece,
        offset: u64,
        buffer: &mut [u8],
    ) -> io::Result<usize> {
        let start = offset / PIECE as u64 * PIECE as u64;
        if piece.length == 0 || start != piece.offset {
            // After an error it has nothing.
            (piece.offset, piece.length) = (start, 0);
            self.fill(piece)?;
        }
        let from = ((offset - start) as usize).min(piece.length);
        let bytes = &piece.space[piece.start + from..piece.start + piece.length];
        let length = bytes.len().min(buffer.len());
        buffer[..length].copy_from_slice(&bytes[..length]);
        Ok(length)
    }
}

fn is_direct(file: &File) -> io::Result<bool> {
    Ok(OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?).contains(OFlag::O_DIRECT))
}

/// A piece of a blob in memory.
#[derive(Debug)]
pub(super) struct Piece {
    space: Vec<u8>,
    /// Where in `space` it is.
    start: usize,
    length: usize,
    /// Where in the blob it is.
    offset: u64,
}

impl Default for Piece {
    fn default() -> Piece {
        Piece { space: vec![0; PIECE + ALIGNMENT], start: 0, length: 0, offset: 0 }
    }
}

impl Blob {
    /// What the content hashes to. What was read before is not read again.
    ///
    /// # Panics
    ///
    /// If the blob was not opened by [`Storage::open_to_check`].
    pub fn actual(&self) -> io::Result<Digest> {
        let checked = self.checked.as_ref().expect("opened to be checked");
        let mut piece = checked.take_piece();
        loop {
            let (hasher, at) = {
                let hashed = checked.hashed();
                (hashed.0.clone(), hashed.1)
            };
            if at >= self.size || checked.read(&mut piece, at, &mut [0])? == 0 {
                return Ok(hasher.finish());
            }
        }
    }
}

/// What a blob turns out to be.
#[derive(Debug)]
pub enum Content {
    Good,
    /// It is gone, or another file has its name by now.
    Changed,
    Damaged {
        why: String,
    },
}

impl Storage {
    /// Calls `visit` with the digest and the size of each blob, in the order of their digests.
    pub fn each_blob<E: From<Error>>(
        &self,
        mut visit: impl FnMut(&Digest, u64) -> Result<(), E>,
    ) -> Result<(), E> {
        for algorithm in Algorithm::ALL {
            let mut prefixes = children(&self.layout.blobs(algorithm))?;
            prefixes.sort_unstable();
            for prefix in prefixes {
                let mut digests = self.digests_in(&prefix, algorithm)?;
                digests.sort_unstable();
                for digest in digests {
                    match fs::metadata(self.layout.blob_data(&digest)) {
                        Ok(metadata) => visit(&digest, metadata.len())?,
                        // A push that was cut off leaves the folder; others may have just gone. What
                        // links one that is missing says so.
                        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                        // Opening it says why.
                        Err(_) => visit(&digest, 0)?,
                    }
                }
            }
        }
        Ok(())
    }

    /// Opens a blob to read all of it past the page cache, and to hash what is read.
    pub fn open_to_check(&self, digest: &Digest, pace: &Arc<Pace>) -> Result<Option<Blob>> {
        let Some(mut blob) = self.open_content(digest)? else { return Ok(None) };
        let hasher = digest.algorithm().hasher();
        let checked = Checked::open(blob.file(), blob.path(), hasher, pace);
        blob.checked = Some(checked.map_err(|e| blob.failed(e))?);
        Ok(Some(blob))
    }

    /// Checks a blob against its digest. What seems damaged is read once more.
    pub fn check_content(&self, digest: &Digest, blob: &Blob, pace: &Arc<Pace>) -> Result<Content> {
        let why = match blob.actual() {
            Ok(actual) if actual == *digest => return Ok(Content::Good),
            Ok(_) => None,
            Err(e) if e.raw_os_error() == Some(libc::EIO) => Some(e),
            Err(e) => return Err(blob.failed(e)),
        };
        tracing::debug!(%digest, ?why, "a blob seems damaged and is read again");
        let Some(again) = self.open_to_check(digest, pace)? else { return Ok(Content::Changed) };
        if !is_same(blob.file(), again.file()).map_err(|e| blob.failed(e))? {
            return Ok(Content::Changed);
        }
        match again.actual() {
            Ok(actual) if actual == *digest => {
                tracing::warn!(
                    %digest, "a blob was read with errors and then without: check memory and disk"
                );
                Ok(Content::Good)
            }
            Ok(actual) => {
                Ok(Content::Damaged { why: format!("has {} bytes that are {actual}", again.size) })
            }
            Err(e) if e.raw_os_error() == Some(libc::EIO) => {
                Ok(Content::Damaged { why: format!("cannot be read ({e})") })
            }
            Err(e) => Err(again.failed(e)),
        }
    }

    /// Moves a damaged blob aside, so that it does not exist any more for clients. Returns where it
    /// lies; `None`: another file has its name by now.
    pub fn set_damaged_aside(&self, digest: &Digest, damaged: &Blob) -> Result<Option<PathBuf>> {
        let (path, aside) = (self.layout.blob_data(digest), self.layout.damaged(digest));
        let io = |e| Error::io("move aside", &path, e);
        let folder = aside.parent().expect("a file of the store lies in a folder");
        self.durable.directory(folder)?;
        // Caches are filled, links are made and manifests are checked only under these locks.
        let _locks = self.lock_all();
        let is_damaged = |path: &Path| -> io::Result<bool> {
            match File::open(path) {
                Ok(file) => is_same(&file, damaged.file()),
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
                Err(e) => Err(e),
            }
        };
        if !is_damaged(&path).map_err(io)? {
            return Ok(None);
        }
        match fs::rename(&path, &aside) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            renamed => renamed.map_err(io)?,
        }
        // An upload gets the name of its digest without a lock. One that came in between, of which
        // no client was told yet, gets its name back.
        if !is_damaged(&aside).map_err(io)? {
            let back = renameat2(AT_FDCWD, &aside, AT_FDCWD, &path, RenameFlags::RENAME_NOREPLACE);
            match back {
                Ok(()) => return Ok(None),
                // Yet another upload of it came.
                Err(nix::errno::Errno::EEXIST) => {
                    fs::remove_file(&aside).map_err(io)?;
                    return Ok(None);
                }
                Err(errno) => return Err(io(errno.into())),
            }
        }
        self.blob_sizes.clear();
        self.manifests.clear();
        self.changed(Change::Blob(digest));
        for folder in [folder, path.parent().expect("a file of the store lies in a folder")] {
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(io)?;
        }
        Ok(Some(aside))
    }

    /// Locks all repositories, for a moment.
    fn lock_all(&self) -> Vec<MutexGuard<'_, ()>> {
        let locks = self.shards.iter();
        locks.map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner)).collect()
    }

    /// Removes those of the blobs that lie `aside` which nothing links any more, or which are whole
    /// again. `linked` has those that something links.
    pub fn remove_aside(&self, aside: &HashSet<Digest>, linked: &HashSet<Digest>) -> Result<()> {
        for digest in aside {
            if !linked.contains(digest) || exists(&self.layout.blob_data(digest))? {
                let aside = self.layout.damaged(digest);
                match fs::remove_file(&aside) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => {
                        return Err(Error::io("remove", &aside, e));
                    }
                    _ => tracing::info!(
                        %digest, "removed a damaged blob that is whole again or not needed"
                    ),
                }
            }
        }
        Ok(())
    }

    /// The damaged blobs that lie aside.
    pub fn aside(&self) -> Result<HashSet<Digest>> {
        let mut digests = HashSet::new();
        for algorithm in Algorithm::ALL {
            digests.extend(self.digests_in(&self.layout.damaged_all(algorithm), algorithm)?);
        }
        Ok(digests)
    }
}

fn is_same(a: &File, b: &File) -> io::Result<bool> {
    let (a, b) = (a.metadata()?, b.metadata()?);
    Ok((a.dev(), a.ino()) == (b.dev(), b.ino()))
}

/// The entries of a folder. Empty if the folder does not exist.
fn children(folder: &Path) -> Result<Vec<PathBuf>> {
    super::docker1::entries(folder)
}
