//! A mount's life: what may be in its place, how it begins, how it ends.
//!
//! fuser 0.18 unmounts by path when its session is dropped, also one that ended
//! because somebody else unmounted it, and so may hit what is mounted there by
//! then. So the session is never dropped; the process ends without that.

use std::fs;
use std::io;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

use super::Event;
use super::adapter::Adapter;
use super::mountinfo::{self, SOURCE};
use super::tree::Tree;

/// KiB that the kernel reads ahead: its default splits large reads into 128.
const READ_AHEAD: &str = "1024";
/// How long requests under way may take when the mount ends.
const DRAIN: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
pub enum MountError {
    #[error("{path} cannot be a mountpoint: {cause}")]
    Mountpoint { path: PathBuf, cause: io::Error },
    #[error("{0} is not a directory, so it cannot be a mountpoint")]
    NotADirectory(PathBuf),
    #[error("a registry is mounted at {0} already: `registry umount` ends that")]
    Mounted(PathBuf),
    #[error("no registry is mounted at {0}")]
    NotMounted(PathBuf),
    #[error("cannot mount at {path}: {cause}{}", hint(cause))]
    Mount { path: PathBuf, cause: io::Error },
    #[error("cannot unmount {path}: {cause}")]
    Unmount { path: PathBuf, cause: io::Error },
}

/// What helps in the usual cases.
fn hint(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::NotFound => {
            "; it needs /dev/fuse (`modprobe fuse`; in a container `--device /dev/fuse`), and \
             fusermount3 (Debian: fuse3) unless you are root"
        }
        io::ErrorKind::PermissionDenied => {
            "; whoever is not root needs fusermount3 (Debian: fuse3) and a /dev/fuse that all may \
             open, and for --allow-other the line user_allow_other in /etc/fuse.conf"
        }
        _ => "",
    }
}

/// How to mount.
#[derive(Clone, Debug)]
pub struct Options {
    /// Other users may look too.
    pub allow_other: bool,
    /// Threads that answer the kernel, and as many that decode.
    pub threads: usize,
    /// A place on the file system that the store is on.
    pub store: PathBuf,
}

/// What is mounted. It stays so when this is dropped: see [`Mount::end`].
#[derive(Debug)]
pub struct Mount {
    path: PathBuf,
    /// `MAJOR:MINOR`, by which it is told from another at its place.
    device: Option<String>,
    session: ManuallyDrop<BackgroundSession>,
    sender: Sender<Event>,
    events: Receiver<Event>,
}

impl Mount {
    /// Mounts a tree. When this returns it answers.
    pub fn begin(path: &Path, tree: Tree, options: &Options) -> Result<Mount, MountError> {
        let path = prepare(path)?;
        let failed = |cause| MountError::Mount { path: path.clone(), cause };
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::RO,
            MountOption::FSName(SOURCE.to_owned()),
            // The kernel looks at the modes, as of any file system.
            MountOption::DefaultPermissions,
        ];
        config.acl = match options.allow_other {
            true => SessionACL::All,
            false => SessionACL::Owner,
        };
        // One may wait for another: see `Ahead`.
        config.n_threads = Some(options.threads.max(2));
        config.clone_fd = true;
        let (sender, events) = channel();
        let adapter = Adapter::new(tree, options.threads, options.store.clone(), sender.clone());
        let ahead = adapter.ahead();
        let session = Session::new(adapter, &path, &config).map_err(failed)?;
        let session = ManuallyDrop::new(session.spawn().map_err(failed)?);
        ahead.connect(session.notifier());
        let row = mountinfo::at(&path).ok().flatten();
        let mount = Mount { path, device: row.map(|row| row.device), session, sender, events };
        if let Err(cause) = mount.look() {
            mount.end()?;
            let path = mount.path;
            return Err(MountError::Mount { path, cause });
        }
        mount.read_ahead();
        Ok(mount)
    }

    /// Whether it answers. Where its threads could not be started, nobody does, and
    /// fuser says nothing of it.
    fn look(&self) -> io::Result<()> {
        const EVERY: Duration = Duration::from_millis(100);
        let (path, (tell, told)) = (self.path.clone(), channel());
        thread::Builder::new()
            .name("first-look".into())
            .spawn(move || tell.send(fs::metadata(path).map(drop)))?;
        loop {
            match told.recv_timeout(EVERY) {
                Ok(answer) => return answer,
                Err(_) if self.session.guard.is_finished() => {
                    return Err(io::Error::other(
                        "the process may not have so many open files or threads: \
                         raise its limits, or give fewer --threads",
                    ));
                }
                Err(_) => {}
            }
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where what it is to hear is sent.
    pub fn sender(&self) -> Sender<Event> {
        self.sender.clone()
    }

    /// What it says next.
    pub fn wait(&self) -> Event {
        // It has a sender itself, so there is always one.
        self.events.recv().unwrap_or(Event::Ended)
    }

    /// Takes it away, busy or not, and waits a short time for requests under way.
    /// Files that are open end with errors when the process does.
    pub fn end(&self) -> Result<(), MountError> {
        // What is there by now may be another one's.
        let row = mountinfo::at(&self.path).ok().flatten();
        if row.is_some_and(|row| Some(row.device) == self.device) {
            detach(&self.path, true)?;
        }
        let deadline = Instant::now() + DRAIN;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(Event::Stop | Event::Panicked) => {}
                Ok(Event::Ended | Event::StopNow) => return Ok(()),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    }

    /// Only root may, and it only makes large reads faster.
    fn read_ahead(&self) {
        if let Some(device) = &self.device {
            let file = format!("/sys/class/bdi/{device}/read_ahead_kb");
            if let Err(error) = fs::write(&file, READ_AHEAD) {
                tracing::debug!(file, %error, "the kernel reads ahead what it does by default");
            }
        }
    }
}

/// Makes sure that a place is free. What a process left there that died is taken
/// away.
fn prepare(path: &Path) -> Result<PathBuf, MountError> {
    let failed = |cause| MountError::Mountpoint { path: path.to_owned(), cause };
    let absolute = mountinfo::absolute(path).map_err(failed)?;
    // Several may lie over each other.
    loop {
        let ours = mountinfo::at(&absolute).map_err(failed)?;
        let ours = ours.is_some_and(|row| row.ours);
        match fs::metadata(&absolute) {
            Ok(_) if ours => return Err(MountError::Mounted(absolute)),
            Ok(metadata) if metadata.is_dir() => return Ok(absolute),
            Ok(_) => return Err(MountError::NotADirectory(absolute)),
            Err(e) if ours && mountinfo::is_dead(&e) => {
                tracing::info!(path = %absolute.display(), "replacing the mount of a process that died");
                detach(&absolute, true)?;
            }
            Err(e) => return Err(failed(e)),
        }
    }
}

/// Unmounts a registry. `lazily`: also while it is in use.
pub fn unmount(path: &Path, lazily: bool) -> Result<(), MountError> {
    let absolute = mountinfo::absolute(path)
        .map_err(|cause| MountError::Unmount { path: path.to_owned(), cause })?;
    match mountinfo::at(&absolute) {
        Ok(Some(row)) if row.ours => detach(&absolute, lazily),
        Ok(_) => Err(MountError::NotMounted(absolute)),
        Err(cause) => Err(MountError::Unmount { path: absolute, cause }),
    }
}

fn detach(path: &Path, lazily: bool) -> Result<(), MountError> {
    let failed = |cause| MountError::Unmount { path: path.to_owned(), cause };
    let flags = match lazily {
        true => MntFlags::MNT_DETACH,
        false => MntFlags::empty(),
    };
    match umount2(path, flags) {
        Ok(()) => return Ok(()),
        // Not root: fusermount3 may, of what the user has mounted.
        Err(Errno::EPERM) => {}
        Err(errno) => return Err(failed(errno.into())),
    }
    let mut command = Command::new("fusermount3");
    command.arg("-u").args(lazily.then_some("-z")).arg("--");
    let output = command.arg(path).output().map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(failed(io::Error::other(message)))
}
