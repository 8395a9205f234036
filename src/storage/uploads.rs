//! Uploads: bytes on their way to become a blob, in `_uploads/UUID/data`.
//!
//! An upload gets its folder with its first byte. Until then it is an entry in memory, because
//! starting uploads costs a client nothing; such entries are bounded for each pusher and repository,
//! and end with the server.
//!
//! The content is hashed as it is written and not read again, except after a restart: what a killed
//! server wrote may not have reached the disk, so a hash saved beside it could vouch for bytes that
//! are not there. Then the first request that goes on with the upload hashes what is there.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use uuid::Uuid;

use super::docker1::{Pusher, entries};
use super::durable::discard;
use super::{Error, Result, Storage};
use crate::oci::{Algorithm, Digest, Hasher, Repository};

/// Uploads whose hash is kept in memory, with an open file each. One more forgets the idle one whose
/// data is the fastest to read again.
const SESSIONS_MAX: usize = 512;
/// Uploads without a byte that one pusher may have in one repository. One more forgets the oldest.
const EMPTY_MAX: usize = 128;
/// Uploads without a byte that all pushers together may have.
const EMPTY_TOTAL: usize = 8192;
/// Uploads with bytes in one repository, which take room on the disk until they expire.
const UPLOADS_MAX: usize = 10_000;
/// Bytes written before the kernel is asked to start writing them out, so that the sync at the end
/// has little left to wait for.
pub(super) const WRITEBACK: u64 = 8 << 20;

pub type Sessions = Mutex<HashMap<(Repository, Uuid), Arc<Session>>>;

#[derive(Debug)]
pub struct Session {
    /// The bytes received, also while a request is writing.
    offset: AtomicU64,
    /// Set while another request may still be writing.
    cancelled: AtomicBool,
    /// It has received no byte in this process, and has no folder. `None`: it has one.
    empty: Mutex<Option<Empty>>,
    slot: Mutex<Slot>,
}

/// Who has started an upload that is still empty, and when.
#[derive(Clone, Copy, Debug)]
struct Empty {
    pusher: Option<Pusher>,
    since: Instant,
}

#[derive(Debug)]
enum Slot {
    /// Not read since this process started, or forgot it.
    Unread,
    /// A request reads it again, or writes.
    Busy,
    Idle(Box<State>),
}

impl Session {
    fn slot(&self) -> std::sync::MutexGuard<'_, Slot> {
        self.slot.lock().expect("never poisoned: no panic inside")
    }

    fn empty(&self) -> Option<Empty> {
        *self.empty.lock().expect("never poisoned: no panic inside")
    }

    /// Whether no request works on it: an upload in a writer's hands has a second owner.
    fn is_idle(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) == 1
    }
}

#[derive(Debug)]
struct State {
    /// `None`: no byte has come.
    file: Option<File>,
    hasher: Hasher,
}

/// The one writer of an upload. When it is dropped, another can go on with the upload.
#[derive(Debug)]
pub struct UploadWriter {
    storage: Arc<Storage>,
    repository: Repository,
    id: Uuid,
    session: Arc<Session>,
    state: Option<Box<State>>,
    /// Where the last started write-out ended.
    written_out: u64,
}

impl Storage {
    /// Starts an upload whose content will be hashed with `algorithm`. Nothing is written yet.
    pub fn start_upload(
        &self,
        pusher: Option<Pusher>,
        repository: &Repository,
        algorithm: Algorithm,
    ) -> Uuid {
        let id = Uuid::new_v4();
        let state = State { file: None, hasher: algorithm.hasher() };
        let session = Session {
            offset: AtomicU64::new(0),
            cancelled: AtomicBool::new(false),
            empty: Mutex::new(Some(Empty { pusher, since: Instant::now() })),
            slot: Mutex::new(Slot::Idle(Box::new(state))),
        };
        let mut sessions = self.sessions.lock().expect("never poisoned: no panic inside");
        // The oldest empty uploads make room: of this pusher in this repository, else of all.
        let mut empty = 0;
        let mut own = Vec::new();
        let mut oldest: Option<(Instant, &(Repository, Uuid))> = None;
        for (key, session) in sessions.iter() {
            let Some(found) = session.empty().filter(|_| session.is_idle()) else { continue };
            empty += 1;
            if oldest.is_none_or(|(since, _)| found.since < since) {
                oldest = Some((found.since, key));
            }
            if key.0 == *repository && found.pusher == pusher {
                own.push((found.since, key));
            }
        }
        let forgotten = match own.len() >= EMPTY_MAX {
            true => own.into_iter().min_by_key(|(since, _)| *since),
            false => oldest.filter(|_| empty >= EMPTY_TOTAL),
        };
        if let Some(key) = forgotten.map(|(_, key)| key.clone()) {
            sessions.remove(&key);
        }
        sessions.insert((repository.clone(), id), Arc::new(session));
        id
    }

    /// Notes an upload that has a folder and that this process does not know.
    fn remember(&self, repository: &Repository, id: Uuid, offset: u64) -> Arc<Session> {
        let session = Arc::new(Session {
            offset: AtomicU64::new(offset),
            cancelled: AtomicBool::new(false),
            empty: Mutex::new(None),
            slot: Mutex::new(Slot::Unread),
        });
        let mut sessions = self.sessions.lock().expect("never poisoned: no panic inside");
        make_room(&mut sessions);
        // If two requests found it forgotten, the first one counts.
        sessions.entry((repository.clone(), id)).or_insert(session).clone()
    }

    /// Gives an upload its folder and file.
    fn create_upload(&self, repository: &Repository, id: Uuid) -> Result<File> {
        let uploads = self.layout.uploads(repository);
        let open = fs::read_dir(&uploads).map_or(0, Iterator::count);
        if open >= UPLOADS_MAX {
            return Err(Error::TooManyUploads { repository: repository.clone(), open });
        }
        let folder = self.layout.upload(repository, id);
        fs::create_dir_all(&folder).map_err(|e| Error::io("create", &folder, e))?;
        let (data, started) = (folder.join("data"), folder.join("startedat"));
        let create = || {
            let file = File::create_new(&data).map_err(|e| Error::io("create", &data, e))?;
            // Distribution's purging of uploads reads this.
            let now = jiff::Timestamp::now().to_string();
            fs::write(&started, now).map_err(|e| Error::io("write", &started, e))?;
            Ok(file)
        };
        create().inspect_err(|_| discard(&folder))
    }

    fn session(&self, repository: &Repository, id: Uuid) -> Option<Arc<Session>> {
        self.sessions
            .lock()
            .expect("never poisoned: no panic inside")
            .get(&(repository.clone(), id))
            .cloned()
    }

    /// Bytes received so far.
    pub fn upload_offset(&self, repository: &Repository, id: Uuid) -> Result<u64> {
        if let Some(session) = self.session(repository, id) {
            return Ok(session.offset.load(Ordering::Acquire));
        }
        let path = self.layout.upload(repository, id).join("data");
        match fs::metadata(&path) {
            Ok(metadata) => Ok(metadata.len()),
            Err(e) => Err(unknown_or("read", &path, e, repository, id)),
        }
    }

    /// Takes an upload to write to it.
    pub fn write_upload(
        self: &Arc<Self>,
        repository: &Repository,
        id: Uuid,
    ) -> Result<UploadWriter> {
        let session = match self.session(repository, id) {
            Some(session) => session,
            None => {
                let offset = self.upload_offset(repository, id)?;
                self.remember(repository, id, offset)
            }
        };
        let slot = std::mem::replace(&mut *session.slot(), Slot::Busy);
        let state = match slot {
            Slot::Idle(state) => state,
            Slot::Busy => return Err(Error::UploadBusy { id }),
            // The file is opened only while no other request can finish the upload: it becomes a
            // blob, and a blob never changes.
            Slot::Unread => match self.reopen(repository, id) {
                Ok((offset, state)) => {
                    session.offset.store(offset, Ordering::Release);
                    state
                }
                Err(error) => {
                    *session.slot() = Slot::Unread;
                    self.forget_upload(repository, id);
                    return Err(error);
                }
            },
        };
        let written_out = session.offset.load(Ordering::Acquire);
        Ok(UploadWriter {
            storage: Arc::clone(self),
            repository: repository.clone(),
            id,
            session,
            state: Some(state),
            written_out,
        })
    }

    /// Finds an upload that this process does not remember.
    fn reopen(&self, repository: &Repository, id: Uuid) -> Result<(u64, Box<State>)> {
        let path = self.layout.upload(repository, id).join("data");
        let mut file = File::options()
            .read(true)
            .append(true)
            .open(&path)
            .map_err(|e| unknown_or("open", &path, e, repository, id))?;
        let mut hasher = Algorithm::Sha256.hasher();
        let offset = hash_file(&mut file, &mut hasher).map_err(|e| Error::io("read", &path, e))?;
        Ok((offset, Box::new(State { file: Some(file), hasher })))
    }

    pub fn cancel_upload(&self, repository: &Repository, id: Uuid) -> Result<()> {
        let session = self.session(repository, id);
        if let Some(session) = &session {
            session.cancelled.store(true, Ordering::SeqCst);
        }
        let folder = self.layout.upload(repository, id);
        let removed = match fs::remove_dir_all(&folder) {
            Err(e)
                if e.kind() == io::ErrorKind::NotFound
                    && session.is_some_and(|session| session.empty().is_some()) =>
            {
                Ok(())
            }
            removed => removed.map_err(|e| unknown_or("remove", &folder, e, repository, id)),
        };
        // It is forgotten last: a session made before could not be told from a live one.
        if let Some(session) = self.forget_upload(repository, id) {
            session.cancelled.store(true, Ordering::SeqCst);
        }
        removed
    }

    fn forget_upload(&self, repository: &Repository, id: Uuid) -> Option<Arc<Session>> {
        self.sessions
            .lock()
            .expect("never poisoned: no panic inside")
            .remove(&(repository.clone(), id))
    }

    /// The uploads with bytes, and the images being pushed: their number and bytes.
    pub fn upload_bytes(&self) -> Result<(u64, u64)> {
        let mut folders = Vec::new();
        self.walk(|repository| {
            folders.extend(entries(&self.layout.uploads(repository))?);
            Ok::<_, Error>(())
        })?;
        for pusher in entries(&self.layout.v1_pushing_all())? {
            folders.extend(entries(&pusher)?);
        }
        let uploads = folders.len() as u64;
        let mut bytes = 0;
        while let Some(folder) = folders.pop() {
            for path in entries(&folder)? {
                match fs::symlink_metadata(&path) {
                    Ok(metadata) if metadata.is_dir() => folders.push(path),
                    Ok(metadata) => bytes += metadata.len(),
                    // It was finished meanwhile.
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    Err(e) => return Err(Error::io("read", &path, e)),
                }
            }
        }
        Ok((uploads, bytes))
    }

    /// Removes the uploads, and the images being pushed, that received nothing for `ttl`. Returns
    /// their number.
    pub fn purge_uploads(&self, ttl: Duration) -> Result<usize> {
        let mut purged = {
            let mut sessions = self.sessions.lock().expect("never poisoned: no panic inside");
            let before = sessions.len();
            sessions.retain(|_, session| {
                let expired = session.empty().is_some_and(|empty| empty.since.elapsed() > ttl);
                !(expired && session.is_idle())
            });
            before - sessions.len()
        };
        self.walk(|repository| {
            let folder = self.layout.uploads(repository);
            let entries = match fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(e) => return Err(Error::io("list", &folder, e)),
            };
            for entry in entries {
                let path = entry.map_err(|e| Error::io("list", &folder, e))?.path();
                let Some(id) =
                    path.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse().ok())
                else {
                    continue;
                };
                let touched = fs::metadata(path.join("data")).or_else(|_| fs::metadata(&path));
                let modified = match touched.and_then(|m| m.modified()) {
                    Ok(modified) => modified,
                    Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                    Err(e) => return Err(Error::io("read", &path, e)),
                };
                if SystemTime::now().duration_since(modified).is_ok_and(|age| age > ttl) {
                    match self.cancel_upload(repository, id) {
                        Ok(()) => purged += 1,
                        // Another request has just finished or cancelled it.
                        Err(Error::UploadUnknown { .. }) => {}
                        Err(e) => return Err(e),
                    }
                }
            }
            Ok::<_, Error>(())
        })?;
        Ok(purged + self.purge_images(ttl)?)
    }
}

/// Makes room for one more session that has a file.
fn make_room(sessions: &mut HashMap<(Repository, Uuid), Arc<Session>>) {
    let with_file = || sessions.iter().filter(|(_, session)| session.empty().is_none());
    if with_file().count() < SESSIONS_MAX {
        return;
    }
    let idle = with_file().filter(|(_, session)| session.is_idle());
    let least = idle.min_by_key(|(_, session)| session.offset.load(Ordering::Relaxed));
    if let Some(key) = least.map(|(key, _)| key.clone()) {
        sessions.remove(&key);
    }
}

fn unknown_or(
    action: &'static str,
    path: &Path,
    e: io::Error,
    repository: &Repository,
    id: Uuid,
) -> Error {
    match e.kind() {
        io::ErrorKind::NotFound => Error::UploadUnknown { repository: repository.clone(), id },
        _ => Error::io(action, path, e),
    }
}

fn hash_file(file: &mut File, hasher: &mut Hasher) -> io::Result<u64> {
    let mut buffer = vec![0; 1 << 20];
    let mut total = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(total),
            n => {
                hasher.update(&buffer[..n]);
                total += n as u64;
            }
        }
    }
}

impl UploadWriter {
    /// Where the content goes.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// Bytes received so far.
    pub fn offset(&self) -> u64 {
        self.session.offset.load(Ordering::Acquire)
    }

    fn state(&mut self) -> &mut State {
        self.state.as_mut().expect("taken only by commit and discard, which consume the writer")
    }

    fn data(&self) -> PathBuf {
        self.storage.layout.upload(&self.repository, self.id).join("data")
    }

    /// Adds bytes. After an error the upload is gone, and so are its bytes, because on a full disk
    /// they would be in everybody's way.
    pub fn append(mut self, pieces: &[bytes::Bytes]) -> Result<UploadWriter> {
        self.check()?;
        match self.write(pieces) {
            Ok(()) => Ok(self),
            Err(error) => {
                self.discard();
                Err(error)
            }
        }
    }

    fn write(&mut self, pieces: &[bytes::Bytes]) -> Result<()> {
        let data = self.data();
        for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
            self.file()?.write_all(piece).map_err(|e| Error::io("write", &data, e))?;
            self.state().hasher.update(piece);
            self.session.offset.fetch_add(piece.len() as u64, Ordering::AcqRel);
        }
        let (start, end) = (self.written_out, self.offset());
        if end - start >= WRITEBACK {
            start_writeback(self.file()?, start, end - start);
            self.written_out = end;
        }
        Ok(())
    }

    /// The file, which is made for the first byte.
    fn file(&mut self) -> Result<&mut File> {
        if self.state().file.is_none() {
            let file = self.storage.create_upload(&self.repository, self.id)?;
            self.state().file = Some(file);
            let mut sessions =
                self.storage.sessions.lock().expect("never poisoned: no panic inside");
            *self.session.empty.lock().expect("never poisoned: no panic inside") = None;
            make_room(&mut sessions);
            drop(sessions);
            // A request that cancelled the upload meanwhile may have found no folder.
            if self.session.cancelled.load(Ordering::SeqCst) {
                discard(&self.storage.layout.upload(&self.repository, self.id));
            }
            self.check()?;
        }
        Ok(self.state().file.as_mut().expect("made above"))
    }

    /// Ends the upload: the content gets the name `digest` and the repository a link to it, all of it
    /// synced. After an error nothing of it is left. `true`: the repository did not hold it before.
    pub fn commit(mut self, digest: &Digest) -> Result<bool> {
        let result = self.publish(digest);
        // If it was cancelled meanwhile, it failed because its file was gone.
        let result = result.or_else(|error| self.check().and(Err(error)));
        self.discard();
        result
    }

    /// Fails once the upload is cancelled.
    pub fn check(&self) -> Result<()> {
        if self.session.cancelled.load(Ordering::Acquire) {
            return Err(Error::UploadUnknown { repository: self.repository.clone(), id: self.id });
        }
        Ok(())
    }

    fn publish(&mut self, digest: &Digest) -> Result<bool> {
        let data = self.data();
        self.file()?;
        let state = self.state();
        let mut hasher = state.hasher.clone();
        if hasher.algorithm() != digest.algorithm() {
            // The client has named the algorithm only now.
            hasher = digest.algorithm().hasher();
            File::open(&data)
                .and_then(|mut file| hash_file(&mut file, &mut hasher))
                .map_err(|e| Error::io("read", &data, e))?;
        }
        let actual = hasher.finish();
        if actual != *digest {
            return Err(Error::digest_mismatch(digest, &actual));
        }
        self.file()?.sync_all().map_err(|e| Error::io("sync", &data, e))?;
        self.storage.install_blob(&self.repository, &data, digest)
    }

    /// Forgets the upload and removes what is left of it.
    pub fn discard(mut self) {
        self.state = None;
        match self.storage.cancel_upload(&self.repository, self.id) {
            // Cancelled by another request.
            Ok(()) | Err(Error::UploadUnknown { .. }) => {}
            Err(error) => tracing::warn!(%error, "cannot remove an upload"),
        }
    }
}

impl Drop for UploadWriter {
    fn drop(&mut self) {
        if let Some(state) = self.state.take() {
            *self.session.slot() = Slot::Idle(state);
        }
    }
}

/// Asks the kernel to start writing a range out. This is a hint: the sync at the end decides, and
/// reports what fails.
pub(super) fn start_writeback(file: &File, offset: u64, length: u64) {
    let (Ok(offset), Ok(length)) = (i64::try_from(offset), i64::try_from(length)) else {
        return;
    };
    // SAFETY: the descriptor is open for as long as `file` is borrowed.
    #[allow(unsafe_code)]
    unsafe {
        libc::sync_file_range(file.as_raw_fd(), offset, length, libc::SYNC_FILE_RANGE_WRITE);
    }
}
