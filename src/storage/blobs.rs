//! Blobs: read, link into repositories, unlink. A blob lies in the store once; the links of a
//! repository decide whether it may be read there.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use memmap2::{Advice, MmapOptions};

use super::durable::discard;
use super::scrub::{Checked, Piece};
use super::told::NOTE_EVERY;
use super::{Change, Error, Result, Storage, exists, read_link};
use crate::oci::{Digest, Repository};

/// An open blob.
#[derive(Debug)]
pub struct Blob {
    file: File,
    path: PathBuf,
    pub size: u64,
    /// How it is read for a scrub.
    pub(super) checked: Option<Checked>,
}

impl Blob {
    /// A copy of the bytes of `range`.
    pub fn read(&self, range: Range<u64>) -> Result<Bytes> {
        let length =
            usize::try_from(range.end - range.start).expect("asked for what fits into memory");
        let mut bytes = vec![0; length];
        let read = match self.checked {
            Some(_) => io::Read::read_exact(&mut self.reader_from(range.start), &mut bytes),
            None => self.file.read_exact_at(&mut bytes, range.start),
        };
        read.map_err(|e| Error::io("read", &self.path, e))?;
        Ok(bytes.into())
    }

    /// The whole content, from its start. Several readers can read at the same time.
    pub fn reader(&self) -> impl io::Read {
        self.reader_from(0)
    }

    fn reader_from(&self, offset: u64) -> Reader<'_> {
        let piece = self.checked.as_ref().map(|checked| checked.take_piece());
        Reader { blob: self, offset, piece }
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub fn into_file(self) -> File {
        self.file
    }

    /// The error for an I/O error that reading this blob returned.
    pub fn failed(&self, cause: io::Error) -> Error {
        Error::io("read", &self.path, cause)
    }

    /// The bytes of `range`, mapped from the page cache rather than copied, and
    /// unmapped when the last clone is dropped. Waits for the disk: the pages
    /// are brought in here, so that a reader of the slice does not fault.
    pub fn slice(&self, range: Range<u64>) -> Result<Bytes> {
        self.map(range).map_err(|e| Error::io("read", &self.path, e))
    }

    fn map(&self, range: Range<u64>) -> io::Result<Bytes> {
        let length = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
        // SAFETY: the file behind a mapping must not change. A blob gets its name by a rename,
        // complete and synced; from then on this server never opens it for writing, and a second
        // push of the same digest puts another file in its place. Deleting the blob leaves the
        // mapped file alive. A program that truncates a blob behind the server's back breaks the
        // store: populating reports that as an error, a plain send as EFAULT.
        #[allow(unsafe_code)]
        let map = unsafe { MmapOptions::new().offset(range.start).len(length).map(&self.file) }?;
        match map.advise(Advice::PopulateRead) {
            // Before Linux 5.14 the pages come in when they are read.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {}
            other => other?,
        }
        Ok(Bytes::from_owner(map))
    }
}

struct Reader<'a> {
    blob: &'a Blob,
    offset: u64,
    /// Of a blob that is read for a scrub.
    piece: Option<Piece>,
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        if let (Some(checked), Some(piece)) = (&self.blob.checked, self.piece.take()) {
            checked.put_piece(piece);
        }
    }
}

impl io::Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match (&self.blob.checked, &mut self.piece) {
            (Some(checked), Some(piece)) => checked.read(piece, self.offset, buffer)?,
            _ => self.blob.file.read_at(buffer, self.offset)?,
        };
        self.offset += read as u64;
        Ok(read)
    }
}

/// A blob of a repository that is known in memory.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    size: u64,
    /// When a client was last told of it, see [`super::told`].
    told: Option<Instant>,
}

impl Storage {
    fn cached_blob_size(&self, repository: &Repository, digest: &Digest) -> Option<u64> {
        self.blob_sizes.get(&BlobKey(repository, digest)).map(|known| known.size)
    }

    /// The size of a blob of which a client was told a moment ago. Never blocks.
    pub fn told_blob_size(&self, repository: &Repository, digest: &Digest) -> Option<u64> {
        let known = self.blob_sizes.get(&BlobKey(repository, digest))?;
        let is_told = known.told.is_some_and(|told| told.elapsed() < NOTE_EVERY);
        (is_told || !self.is_writable).then_some(known.size)
    }

    /// The size of a blob, for a client that then knows that the repository holds it.
    pub fn tell_blob_size(&self, repository: &Repository, digest: &Digest) -> Result<u64> {
        let lock = self.try_lock(repository).filter(|_| self.is_owned());
        let told = Instant::now();
        let _telling = self.telling();
        if !self.note(&self.layout.layer_link(repository, digest))? {
            return Err(Error::BlobUnknown { repository: repository.clone(), digest: *digest });
        }
        let size = self.open_blob(repository, digest)?.size;
        if lock.is_some() {
            let known = Known { size, told: Some(told) };
            self.blob_sizes.insert((repository.clone(), *digest), known);
        }
        Ok(size)
    }

    /// The size of a blob, or [`Error::BlobUnknown`].
    pub fn blob_size(&self, repository: &Repository, digest: &Digest) -> Result<u64> {
        if let Some(size) = self.cached_blob_size(repository, digest) {
            return Ok(size);
        }
        // While a change holds the lock, the size is read without keeping it, as for manifests.
        match self.try_lock(repository) {
            Some(_lock) => self.blob_size_locked(repository, digest),
            None => Ok(self.open_blob(repository, digest)?.size),
        }
    }

    pub(super) fn blob_size_locked(&self, repository: &Repository, digest: &Digest) -> Result<u64> {
        if let Some(size) = self.cached_blob_size(repository, digest) {
            return Ok(size);
        }
        let size = self.open_blob(repository, digest)?.size;
        self.blob_sizes.insert((repository.clone(), *digest), Known { size, told: None });
        Ok(size)
    }

    /// Opens a blob that the repository links. Distribution links a blob that was pushed under
    /// another algorithm to its sha256, so the link says where the content lies.
    pub fn open_blob(&self, repository: &Repository, digest: &Digest) -> Result<Blob> {
        let unknown = || Error::BlobUnknown { repository: repository.clone(), digest: *digest };
        let target = read_link(&self.layout.layer_link(repository, digest))?.ok_or_else(unknown)?;
        self.open_content(&target)?.ok_or_else(unknown)
    }

    /// Opens the blob with this digest. It does not check that a repository links the blob, so the
    /// caller must have checked access.
    pub fn open_content(&self, digest: &Digest) -> Result<Option<Blob>> {
        let path = self.layout.blob_data(digest);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io("open", &path, e)),
        };
        let size = file.metadata().map_err(|e| Error::io("read", &path, e))?.len();
        Ok(Some(Blob { file, path, size, checked: None }))
    }

    /// The size of content in bytes, of whatever repository. `None`: the store does not have it.
    pub fn content_size(&self, digest: &Digest) -> Result<Option<u64>> {
        size(&self.layout.blob_data(digest))
    }

    /// Whether the store has content, of whatever repository.
    pub fn holds_content(&self, digest: &Digest) -> Result<bool> {
        exists(&self.layout.blob_data(digest))
    }

    /// Makes a blob of the repository `from` readable in another. `None`: `from` does not hold it;
    /// `true`: the other did not hold it before.
    pub fn mount_blob(
        &self,
        to: &Repository,
        digest: &Digest,
        from: &Repository,
    ) -> Result<Option<bool>> {
        // The content does not always lie under `digest`, see [`Storage::open_blob`].
        match read_link(&self.layout.layer_link(from, digest))? {
            Some(target) => self.link_blob(to, digest, &target),
            None => Ok(None),
        }
    }

    /// Makes content of the store readable in a repository, as [`Storage::mount_blob`] does. The
    /// caller has made sure that the content may be read there.
    pub(super) fn link_blob(
        &self,
        to: &Repository,
        digest: &Digest,
        target: &Digest,
    ) -> Result<Option<bool>> {
        let link = self.layout.layer_link(to, digest);
        let _lock = self.lock(to);
        {
            let _telling = self.telling();
            if !self.note(&self.layout.blob_data(target))? {
                return Ok(None);
            }
        }
        self.blob_sizes.remove(&BlobKey(to, digest));
        let new = !exists(&link)?;
        self.durable.write(&link, target.to_string().as_bytes())?;
        if new {
            self.changed(Change::Linked(to, digest));
        }
        Ok(Some(new))
    }

    /// Gives the synced file `data` the name of its digest, and links it in the repository. A copy
    /// that exists is replaced: the bytes are the same, and are sound even if the copy was not.
    /// `true`: the repository had no link.
    pub(super) fn install_blob(
        &self,
        repository: &Repository,
        data: &Path,
        digest: &Digest,
    ) -> Result<bool> {
        let link = self.layout.layer_link(repository, digest);
        let blob = self.layout.blob_data(digest);
        // The file may have come long ago, and the collector goes by its time.
        File::open(data)
            .and_then(|file| file.set_modified(SystemTime::now()))
            .map_err(|e| Error::io("set the time of", data, e))?;
        let there = size(&blob)?;
        let mended = there.is_some() && there != size(data)?;
        // The link is written before the blob gets its name, so that nothing of the blob is kept if
        // the disk is full by now.
        let aside = {
            let _lock = self.lock(repository);
            self.durable.prepare(&link, digest.to_string().as_bytes())?
        };
        let installed = self.durable.install(data, &blob).and_then(|()| {
            self.changed(Change::Blob(digest));
            // Other repositories link it too, perhaps under another digest.
            if mended {
                self.blob_sizes.clear();
            }
            let _lock = self.lock(repository);
            self.blob_sizes.remove(&BlobKey(repository, digest));
            let new = !exists(&link)?;
            self.durable.install(&aside, &link)?;
            if new {
                self.changed(Change::Linked(repository, digest));
            }
            // Without a grace period the collector may have come between the two.
            if !self.note(&blob)? {
                let gone = io::Error::new(io::ErrorKind::NotFound, "it was collected meanwhile");
                return Err(Error::io("keep", &blob, gone));
            }
            Ok(new)
        });
        installed.inspect_err(|_| discard(&aside))
    }

    /// Takes a blob out of a repository. The store keeps the content, which
    /// other repositories may link.
    pub fn delete_blob(&self, repository: &Repository, digest: &Digest) -> Result<()> {
        let _lock = self.lock(repository);
        let link = self.layout.layer_link(repository, digest);
        let folder = link.parent().expect("a link lies in a folder of its own");
        if let Ok(Some(target)) = read_link(&link) {
            self.note(&self.layout.blob_data(&target))?;
        }
        let removed = self.durable.remove(folder);
        // The link may be gone even if there was an error.
        self.blob_sizes.remove(&BlobKey(repository, digest));
        if removed? {
            Ok(())
        } else {
            Err(Error::BlobUnknown { repository: repository.clone(), digest: *digest })
        }
    }
}

/// The size of a file. `None`: it does not exist.
fn size(path: &Path) -> Result<Option<u64>> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata.len())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("read", path, e)),
    }
}

/// Looks up `(repository, digest)` without cloning them.
#[derive(Hash)]
pub struct BlobKey<'a>(pub &'a Repository, pub &'a Digest);

impl quick_cache::Equivalent<(Repository, Digest)> for BlobKey<'_> {
    fn equivalent(&self, key: &(Repository, Digest)) -> bool {
        *self.0 == key.0 && *self.1 == key.1
    }
}
