//! The index for a process beside the server, or without one: it reads what is
//! there, and has indexed what is missing. Only one process writes: a server
//! that runs is asked over the socket `DIR/socket`, otherwise this one takes
//! the lock on DIR and writes, for as long as it takes.

use std::fs::{File, Permissions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::stat::{Mode, umask};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::layers::{Layers, Options, build};
use super::records::State;
use super::{Error, Index, Result};
use crate::oci::Digest;
use crate::storage::{self, Storage};

const SOCKET: &str = "socket";
/// How long another process may hold the lock without a socket: one that indexes
/// a layer, or a server that starts or stops.
const PATIENCE: Duration = Duration::from_secs(60);
const RETRY_EVERY: Duration = Duration::from_millis(20);
/// Bytes of a line on the socket.
const LINE_MAX: u64 = 4096;

/// What the server is asked, in one line.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Request {
    Index { layer: String, force: bool },
    Work { work: String, options: Value },
}

/// What it answers: a line for each step, the last one is neither `Progress` nor `Line`.
#[derive(Serialize, Deserialize)]
enum Answer {
    /// Bytes of the blob that are done.
    Progress(u64),
    /// A part of the result of other work.
    Line(Value),
    Done,
    Failed(String),
}

/// Other work than indexing that a server does for another process: called with its name, its
/// options and a function that sends a part of the result. An error of that function means that the
/// asker is gone. The error that is returned is a message for the asker.
pub type Work = dyn Fn(&str, Value, &mut SendPart<'_>) -> Result<(), String> + Send + Sync;

/// Sends a part of a result, of less than 4 KiB.
pub type SendPart<'a> = dyn FnMut(Value) -> io::Result<()> + 'a;

/// The layers of the registry in `dir`, read and indexed as far as needed.
pub fn open(dir: &Path, storage: Arc<Storage>, options: &Options) -> Result<Layers> {
    let index = Arc::new(open_index(dir)?);
    let writing = Arc::<Writing>::default();
    let idle = {
        let writing = Arc::clone(&writing);
        move || drop(lock(&writing).take())
    };
    let work = {
        let (dir, options) = (dir.to_owned(), options.clone());
        let (storage, index) = (Arc::clone(&storage), Arc::clone(&index));
        move |layer: &Digest, force: bool, progress: &AtomicU64| {
            have_indexed(&writing, &dir, &storage, layer, force, &options, progress)?;
            index.catch_up()?;
            index.state(layer)?.ok_or_else(|| Error::Missing(Box::new(*layer)))
        }
    };
    let failed = |cause| storage::Error::io("start threads for", dir, cause);
    Ok(Layers::with(storage, index, options, work, idle).map_err(failed)?)
}

/// Opens the index to read; makes an empty one where there is none that can be
/// read.
fn open_index(dir: &Path) -> Result<Index> {
    let path = dir.join("db");
    let start = Instant::now();
    loop {
        let error = match Index::follow(&path) {
            Ok(index) => return Ok(index),
            Err(error) => error,
        };
        match storage::lock(dir, false) {
            Ok(_lock) => drop(Index::open(&path)?),
            // A server that is about to make it.
            Err(storage::Error::Locked { .. }) if start.elapsed() < PATIENCE => {
                thread::sleep(RETRY_EVERY);
            }
            Err(storage::Error::Locked { .. }) => return Err(error),
            Err(e) => return Err(e.into()),
        }
    }
}

/// The index that this process writes at the moment, because there is no server. Opening it for
/// every layer would take longer than indexing a small one.
type Writing = Mutex<Option<Arc<Primary>>>;

// No invariant is broken half way through what the lock guards.
fn lock(writing: &Writing) -> MutexGuard<'_, Option<Arc<Primary>>> {
    writing.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The index while this process writes it: closed before the lock is given up.
struct Primary {
    index: Index,
    _lock: File,
}

fn have_indexed(
    writing: &Writing,
    dir: &Path,
    storage: &Storage,
    layer: &Digest,
    force: bool,
    options: &Options,
    progress: &AtomicU64,
) -> Result<()> {
    let start = Instant::now();
    let write =
        |primary: &Primary| build(&primary.index, storage, layer, force, &options.limits, progress);
    loop {
        // A job of this process may have opened it.
        let primary = lock(writing).clone();
        if let Some(primary) = primary {
            write(&primary)?;
            return Ok(());
        }
        if let Some(server) = connect(dir)? {
            return ask(&server, layer, force, progress)
                .map_err(|e| storage::Error::io("ask the server at", &dir.join(SOCKET), e))?
                .map_err(|message| Error::Server(Box::new(*layer), message));
        }
        match storage::lock(dir, false) {
            Ok(locked) => {
                let index = Index::open(&dir.join("db"))?;
                let primary = Arc::new(Primary { index, _lock: locked });
                *lock(writing) = Some(Arc::clone(&primary));
                write(&primary)?;
                return Ok(());
            }
            Err(storage::Error::Locked { .. }) if start.elapsed() < PATIENCE => {
                thread::sleep(RETRY_EVERY);
            }
            Err(e) => return Err(e.into()),
        }
    }
}

/// A connection to the server; `None`: there is none.
fn connect(dir: &Path) -> Result<Option<UnixStream>, storage::Error> {
    let path = dir.join(SOCKET);
    let failed = |e| storage::Error::io("connect to", &path, e);
    // By way of the open folder, since a socket's path may have 107 bytes only.
    let folder = File::open(dir).map_err(failed)?;
    match UnixStream::connect(short(&folder)) {
        Ok(stream) => Ok(Some(stream)),
        Err(e)
            if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) =>
        {
            Ok(None)
        }
        Err(e) => Err(failed(e)),
    }
}

fn short(folder: &File) -> PathBuf {
    format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd()).into()
}

fn ask(
    mut server: &UnixStream,
    layer: &Digest,
    force: bool,
    progress: &AtomicU64,
) -> io::Result<Result<(), String>> {
    let layer = layer.to_string();
    send(server, &Request::Index { layer, force })?;
    let mut lines = BufReader::new(&mut server);
    loop {
        match receive(&mut lines)? {
            Answer::Progress(done) => progress.store(done, Ordering::Relaxed),
            Answer::Line(_) => {}
            Answer::Done => return Ok(Ok(())),
            Answer::Failed(message) => return Ok(Err(message)),
        }
    }
}

/// Who does work that only the owner of a registry may do.
#[derive(Debug)]
pub enum Owner {
    /// The server, which has done it.
    Server,
    /// This process, for as long as it keeps the lock.
    Here(File),
}

/// Asks the server of the registry in `dir` to do work, and calls `line` with each part of the
/// result. Without a server it returns the lock on the registry, and nothing has been done. The
/// inner error is the server's message.
pub fn ask_server(
    dir: &Path,
    work: &str,
    options: &Value,
    mut line: impl FnMut(Value) -> io::Result<()>,
) -> Result<Result<Owner, String>> {
    let failed = |e| Error::from(storage::Error::io("ask the server at", &dir.join(SOCKET), e));
    let start = Instant::now();
    loop {
        if let Some(server) = connect(dir)? {
            let request = Request::Work { work: work.to_owned(), options: options.clone() };
            send(&server, &request).map_err(failed)?;
            let mut lines = BufReader::new(&server);
            loop {
                match receive(&mut lines).map_err(failed)? {
                    Answer::Progress(_) => {}
                    Answer::Line(part) => line(part).map_err(failed)?,
                    Answer::Done => return Ok(Ok(Owner::Server)),
                    Answer::Failed(message) => return Ok(Err(message)),
                }
            }
        }
        match storage::lock(dir, false) {
            Ok(lock) => return Ok(Ok(Owner::Here(lock))),
            Err(storage::Error::Locked { .. }) if start.elapsed() < PATIENCE => {
                thread::sleep(RETRY_EVERY);
            }
            Err(e) => return Err(e.into()),
        }
    }
}

fn send<T: Serialize>(mut stream: &UnixStream, message: &T) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line)
}

fn receive<T: for<'a> Deserialize<'a>>(stream: &mut impl BufRead) -> io::Result<T> {
    let mut line = Vec::new();
    stream.take(LINE_MAX).read_until(b'\n', &mut line)?;
    if line.last() != Some(&b'\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&line)?)
}

/// Answers other processes for as long as this one lives. Connecting allows all that a server does
/// for its operator, so only the owner of the socket may connect.
pub fn listen(dir: &Path, layers: Arc<Layers>, work: Arc<Work>) -> Result<(), storage::Error> {
    let path = dir.join(SOCKET);
    let failed = |e| storage::Error::io("listen at", &path, e);
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    let folder = File::open(dir).map_err(failed)?;
    // A socket gets its mode when it is bound, so that other users cannot connect in between.
    let before = umask(Mode::from_bits_truncate(0o077));
    let bound = UnixListener::bind(short(&folder));
    umask(before);
    let listener = bound.map_err(failed)?;
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(failed)?;
    let accept = move || {
        for stream in listener.incoming() {
            let (layers, work) = (Arc::clone(&layers), Arc::clone(&work));
            let answered = stream.and_then(|stream| {
                let answer = move || answer(&stream, &layers, &*work);
                thread::Builder::new().name("socket".into()).spawn(answer)
            });
            if let Err(error) = answered {
                tracing::warn!(%error, "cannot answer at DIR/{SOCKET}");
                thread::sleep(RETRY_EVERY);
            }
        }
    };
    thread::Builder::new().name("listen".into()).spawn(accept).map_err(failed)?;
    Ok(())
}

/// What fits into a line, escapes included.
fn failed(message: String) -> Answer {
    const SHOWN: usize = LINE_MAX as usize / 8;
    Answer::Failed(message.chars().take(SHOWN).collect())
}

fn answer(stream: &UnixStream, layers: &Layers, work: &Work) {
    let mut lines = BufReader::new(stream);
    // An asker that is gone, or talks nonsense, is of no concern.
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let _ = stream.set_write_timeout(Some(PATIENCE));
    let answer = match receive(&mut lines) {
        Ok(Request::Index { layer, force }) => index(stream, layers, &layer, force),
        Ok(Request::Work { work: name, options }) => {
            work(&name, options, &mut |part| send(stream, &Answer::Line(part)))
        }
        Err(_) => return,
    };
    let _ = send(stream, &answer.map_or_else(failed, |()| Answer::Done));
}

fn index(stream: &UnixStream, layers: &Layers, layer: &str, force: bool) -> Result<(), String> {
    let layer = layer.parse::<Digest>().map_err(|e| e.to_string())?;
    let progress = |done| {
        let _ = send(stream, &Answer::Progress(done));
    };
    match layers.index_now(&layer, force, progress) {
        Ok(State::Ready(_) | State::Refused(_)) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}
