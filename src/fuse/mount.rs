//! A mount's life: what may be in its place, how it begins, how it ends.
//!
//! fuser 0.18 unmounts by path when its session is dropped, also one that ended because another
//! process unmounted it, and so may hit what is mounted there by then. So the session is never
//! dropped; the process ends without that.

use std::fs::{self, File};
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, umount2};
use nix::unistd::{getgid, getuid};

use super::Event;
use super::adapter::Adapter;
use super::mountinfo::{self, SOURCE};
use super::tree::Tree;

/// KiB that the kernel reads ahead. Its default splits large reads into 128.
const READ_AHEAD: &str = "1024";
/// How long requests under way may take when the mount ends.
const DRAIN: Duration = Duration::from_secs(2);
/// How long a mount that is in the place of a new one may take to answer.
const PROBE: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum MountError {
    #[error("{path} cannot be a mountpoint: {cause}")]
    Mountpoint { path: PathBuf, cause: io::Error },
    #[error("{0} is not a directory, so it cannot be a mountpoint")]
    NotADirectory(PathBuf),
    #[error("a registry is mounted at {0} already: `registry umount {0}` ends that")]
    Mounted(PathBuf),
    #[error("the registry that is mounted at {0} does not answer: `umount --force {0}` ends it")]
    Silent(PathBuf),
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
            "; users other than root need fusermount3 (Debian: fuse3) and a /dev/fuse that all may \
             open, and for --allow-other the line user_allow_other in /etc/fuse.conf"
        }
        _ => "",
    }
}

/// How to mount.
#[derive(Clone, Debug)]
pub struct Options {
    /// Other users may use it too.
    pub allow_other: bool,
    /// Threads that answer the kernel, and as many that decode.
    pub threads: usize,
    /// A place on the store's file system.
    pub store: PathBuf,
}

/// A mount. It stays when this is dropped; [`Mount::end`] takes it away.
#[derive(Debug)]
pub struct Mount {
    path: PathBuf,
    /// `MAJOR:MINOR`, which tells it apart from another mount in its place.
    device: Option<String>,
    session: ManuallyDrop<BackgroundSession>,
    sender: Sender<Event>,
    events: Receiver<Event>,
}

impl Mount {
    /// Mounts a tree. The mount answers when this returns.
    pub fn begin(path: &Path, tree: Tree, options: &Options) -> Result<Mount, MountError> {
        let path = prepare(path)?;
        let failed = |cause| MountError::Mount { path: path.clone(), cause };
        let mut config = Config::default();
        config.acl = match options.allow_other {
            true => SessionACL::All,
            false => SessionACL::Owner,
        };
        // One may have to wait for another: see `ReadAhead`.
        config.n_threads = Some(options.threads.max(2));
        config.clone_fd = true;
        let (sender, events) = channel();
        let adapter = Adapter::new(tree, options.threads, options.store.clone(), sender.clone());
        let kernel = adapter.kernel();
        let session = start(&path, adapter, config).map_err(failed)?;
        let session = ManuallyDrop::new(session.spawn().map_err(failed)?);
        // Nothing else sets it.
        let _ = kernel.set(session.notifier());
        let row = mountinfo::at(&path).ok().flatten();
        let mount = Mount { path, device: row.map(|row| row.device), session, sender, events };
        if let Err(cause) = mount.answers() {
            mount.end()?;
            let path = mount.path;
            return Err(MountError::Mount { path, cause });
        }
        mount.read_ahead();
        Ok(mount)
    }

    /// Waits until it answers. When its threads could not be started it never does, and fuser does
    /// not report that.
    fn answers(&self) -> io::Result<()> {
        const EVERY: Duration = Duration::from_millis(100);
        let answer = probe(&self.path)?;
        loop {
            match answer.recv_timeout(EVERY) {
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

    /// Where to send the mount an event.
    pub fn sender(&self) -> Sender<Event> {
        self.sender.clone()
    }

    /// Waits for the next event.
    pub fn wait(&self) -> Event {
        // The mount has a sender itself, so there is always one.
        self.events.recv().unwrap_or(Event::Ended)
    }

    /// Takes it away, busy or not, and waits a short time for requests under way. Files that are open
    /// give errors once the process ends.
    pub fn end(&self) -> Result<(), MountError> {
        // Another mount may be in its place by now.
        let row = mountinfo::at(&self.path).ok().flatten();
        if row.is_some_and(|row| Some(row.device) == self.device) {
            detach(&self.path, MntFlags::MNT_DETACH)?;
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

    /// Raises the kernel's read-ahead. Only root may, and it only makes large reads faster.
    fn read_ahead(&self) {
        if let Some(device) = &self.device {
            let file = format!("/sys/class/bdi/{device}/read_ahead_kb");
            if let Err(error) = fs::write(&file, READ_AHEAD) {
                tracing::debug!(file, %error, "the kernel's read-ahead stays at its default");
            }
        }
    }
}

/// Mounts with the type `fuse.registry`, by which tools such as updatedb can leave the mount out.
fn start(path: &Path, adapter: Adapter, mut config: Config) -> io::Result<Session<Adapter>> {
    // fuser's own mount(2) call cannot name a type below `fuse`.
    if let Some(device) = mount(path, config.acl == SessionACL::All)? {
        return Session::from_fd(adapter, device, config.acl, config).inspect_err(|_| {
            // The error counts, not whether the mount that nothing serves is left behind.
            let _ = umount2(path, MntFlags::MNT_DETACH);
        });
    }
    // Not root: fuser has fusermount3 mount it.
    config.mount_options = vec![
        MountOption::RO,
        MountOption::FSName(SOURCE.to_owned()),
        MountOption::Subtype(SOURCE.to_owned()),
        MountOption::DefaultPermissions,
    ];
    Session::new(adapter, path, &config)
}

/// Mounts at a path, and returns the device that its requests are read from. `None`: only root may.
/// Source of the options: mount.fuse3(8).
fn mount(path: &Path, allow_other: bool) -> io::Result<Option<OwnedFd>> {
    let device = match File::options().read(true).write(true).open("/dev/fuse") {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return Ok(None),
        device => device?,
    };
    let data = format!(
        "fd={},rootmode={:o},user_id={},group_id={},default_permissions{}",
        device.as_raw_fd(),
        fs::metadata(path)?.mode(),
        getuid(),
        getgid(),
        if allow_other { ",allow_other" } else { "" },
    );
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let kind = format!("fuse.{SOURCE}");
    match nix::mount::mount(Some(SOURCE), path, Some(kind.as_str()), flags, Some(data.as_str())) {
        Ok(()) => Ok(Some(device.into())),
        Err(Errno::EPERM) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Asks a mount something that the kernel never answers itself. The answer comes from a thread,
/// since a mount that hangs gives none.
fn probe(path: &Path) -> io::Result<Receiver<io::Result<()>>> {
    let (sender, receiver) = channel();
    let path = path.to_owned();
    let ask = move || {
        let answer = nix::sys::statfs::statfs(&path).map(drop);
        // The caller may have stopped waiting.
        let _ = sender.send(answer.map_err(io::Error::from));
    };
    thread::Builder::new().name("probe".into()).spawn(ask)?;
    Ok(receiver)
}

/// Makes sure that a place is free. A mount whose process has died is taken away.
fn prepare(path: &Path) -> Result<PathBuf, MountError> {
    let failed = |cause| MountError::Mountpoint { path: path.to_owned(), cause };
    let absolute = mountinfo::absolute(path).map_err(failed)?;
    // Several may lie over each other.
    while mountinfo::at(&absolute).map_err(failed)?.is_some_and(|row| row.ours) {
        // The kernel may answer for the attributes of a mount without its process. While a killed
        // process is still ending, the answer waits for that.
        match probe(&absolute).map_err(failed)?.recv_timeout(PROBE) {
            Ok(Ok(())) => return Err(MountError::Mounted(absolute)),
            Ok(Err(e)) if mountinfo::is_dead(&e) => {
                tracing::info!(path = %absolute.display(), "replacing the mount of a process that died");
                detach(&absolute, MntFlags::MNT_DETACH)?;
            }
            Ok(Err(e)) => return Err(failed(e)),
            Err(_) => return Err(MountError::Silent(absolute)),
        }
    }
    match fs::metadata(&absolute) {
        Ok(metadata) if metadata.is_dir() => Ok(absolute),
        Ok(_) => Err(MountError::NotADirectory(absolute)),
        Err(e) => Err(failed(e)),
    }
}

/// Unmounts a registry; `lazily`: also while it is in use.
pub fn unmount(path: &Path, lazily: bool) -> Result<(), MountError> {
    let absolute = mountinfo::absolute(path)
        .map_err(|cause| MountError::Unmount { path: path.to_owned(), cause })?;
    let flags = if lazily { MntFlags::MNT_DETACH } else { MntFlags::empty() };
    match mountinfo::at(&absolute) {
        Ok(Some(row)) if row.ours => detach(&absolute, flags),
        Ok(_) => Err(MountError::NotMounted(absolute)),
        Err(cause) => Err(MountError::Unmount { path: absolute, cause }),
    }
}

fn detach(path: &Path, flags: MntFlags) -> Result<(), MountError> {
    let failed = |cause| MountError::Unmount { path: path.to_owned(), cause };
    match umount2(path, flags) {
        Ok(()) => return Ok(()),
        // Not root. fusermount3 may unmount what its user has mounted.
        Err(Errno::EPERM) => {}
        Err(errno) => return Err(failed(errno.into())),
    }
    let mut command = Command::new("fusermount3");
    let lazily = flags.contains(MntFlags::MNT_DETACH);
    command.arg("-u").args(lazily.then_some("-z")).arg("--");
    let output = command.arg(path).output().map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(failed(io::Error::other(message)))
}
