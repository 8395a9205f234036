//! `registry mount` and `registry umount`

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc::Sender;

use anyhow::{Context, Result, bail};
use nix::unistd::setsid;
use tokio::signal::unix::{SignalKind, signal};

use super::serve;
use crate::cli::args::{MountArgs, UmountArgs};
use crate::fuse::{self, Event, Mount, MountError, Options, Tree, ViewOptions};
use crate::log;

/// Set in the environment of the process that `--background` starts.
const BACKGROUND: &str = "_REGISTRY_MOUNT_BACKGROUND";
/// What that process prints before the reason why it failed.
const FAILED: &str = "failed: ";

pub fn run(args: &MountArgs) -> Result<ExitCode> {
    if !args.background {
        return serve_mount(args);
    }
    if std::env::var_os(BACKGROUND).is_none() {
        return start_background(args);
    }
    background(args).inspect_err(|error| {
        // The process that started this one may be gone.
        let _ = writeln!(std::io::stdout(), "{FAILED}{error:#}");
    })
}

/// Starts the same command once more, and waits until its mount answers.
fn start_background(args: &MountArgs) -> Result<ExitCode> {
    let (log, path) = open_log(args)?;
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut child = Command::new(program)
        .args(std::env::args_os().skip(1))
        .env(BACKGROUND, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .context("cannot start a process in the background")?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout)
            .read_line(&mut line)
            .context("cannot read from the process in the background")?;
    }
    let path = path.display();
    match line.trim_end() {
        "" => bail!("the process in the background ended before it mounted anything: see {path}"),
        line => match line.strip_prefix(FAILED) {
            Some(reason) => bail!("{reason}"),
            None => println!("{line}, its log is {path}"),
        },
    }
    Ok(ExitCode::SUCCESS)
}

/// The log of a process in the background: `--log-file`, or `mount.log` in the registry's folder,
/// or a new file among the temporary ones where that cannot be written.
fn open_log(args: &MountArgs) -> Result<(File, PathBuf)> {
    let mut options = File::options();
    options.append(true).mode(0o600);
    let mut open = |path: &Path, create: bool, flags: i32| {
        let file = options.create(create).create_new(!create).custom_flags(flags).open(path)?;
        Ok::<_, std::io::Error>((file, path.canonicalize()?))
    };
    if let Some(path) = &args.log_file {
        return open(path, true, 0).with_context(|| format!("cannot write to {}", path.display()));
    }
    // Without a registry the mount fails, and must leave nothing behind. A link in the folder of
    // another user must not lead root to other files, nor a pipe make it wait.
    const PLAIN: i32 = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    if args.store.root().is_ok_and(|root| root.is_dir())
        && let Ok(opened) = open(&args.store.dir.join("mount.log"), true, PLAIN)
    {
        return Ok(opened);
    }
    let path = std::env::temp_dir().join(format!("registry-mount-{}.log", std::process::id()));
    open(&path, false, 0).with_context(|| {
        format!("cannot write a log to {} or {}", args.store.dir.display(), path.display())
    })
}

/// Runs as a daemon: in a session of its own, which no terminal ends, and in `/`, so that the file
/// system in which it was started can be unmounted.
fn background(args: &MountArgs) -> Result<ExitCode> {
    let mut args = args.clone();
    let paths = [&mut args.mountpoint, &mut args.store.dir];
    for path in paths.into_iter().chain(&mut args.store.layers) {
        *path = std::path::absolute(&*path).context("cannot find the working directory")?;
    }
    setsid().context("cannot leave the terminal")?;
    std::env::set_current_dir("/").context("cannot leave the working directory")?;
    serve_mount(&args)
}

fn serve_mount(args: &MountArgs) -> Result<ExitCode> {
    log::start(args.log, args.log_level).context("cannot start the log")?;
    settle_allocator();
    let options = args.index.check()?;
    raise_file_limit();
    let images = args.store.open(&options)?;
    let image = match &args.image {
        Some(id) => {
            let opened = images.open(id, args.platform.as_ref())?;
            Some((id.to_string(), opened.repository().clone(), opened.into_tree()))
        }
        None => None,
    };
    let view = ViewOptions {
        platform: args.platform.clone(),
        uid: args.uid,
        gid: args.gid,
        tag_ttl: args.tag_ttl,
        inode32: args.inode32,
        ..ViewOptions::default()
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let options = Options {
        allow_other: args.allow_other,
        threads: args.threads.map_or(cores, usize::from),
        store: args.store.root()?,
    };
    let mount = Mount::begin(&args.mountpoint, Tree::new(images, view, image), &options)?;
    signals(mount.sender())?;
    let version = env!("CARGO_PKG_VERSION");
    let path = mount.path().display();
    // The mount is of use even if nothing reads that it is ready.
    if let Err(error) = writeln!(std::io::stdout(), "registry {version} is mounted at {path}") {
        tracing::warn!(%error, "cannot write to stdout that it is mounted at {path}");
    }
    match mount.wait() {
        Event::Ended => tracing::info!("unmounted"),
        Event::Stop => {
            mount.end()?;
            tracing::info!("stopped");
        }
        Event::StopNow => serve::exit(1),
        Event::Panicked => {
            mount.end()?;
            // Nothing is left to do when stderr is closed.
            let _ = writeln!(std::io::stderr(), "registry: a bug ended the mount: see the log");
            serve::exit(1);
        }
    }
    serve::exit(0)
}

/// Makes the C library return memory that is as large as a part of a layer to the kernel. Once it has
/// seen some of these freed, it would keep them among its other memory, where they leave gaps of half
/// their size.
fn settle_allocator() {
    #[cfg(target_env = "gnu")]
    {
        /// Above what a single read takes, below almost all parts of layers.
        const LARGE: i32 = 1536 << 10;
        // SAFETY: it changes a number in the allocator before any other thread is started.
        #[allow(unsafe_code)]
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
        }
    }
}

/// The database keeps all its files open beside a server.
fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

/// Turns signals into events. The second one ends the process at once.
fn signals(events: Sender<Event>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot listen for signals")?;
    let (mut term, mut int) = runtime
        .block_on(async {
            let term = signal(SignalKind::terminate())?;
            Ok::<_, std::io::Error>((term, signal(SignalKind::interrupt())?))
        })
        .context("cannot listen for signals")?;
    let listen = move || {
        runtime.block_on(async {
            for event in [Event::Stop, Event::StopNow] {
                tokio::select! {
                    _ = term.recv() => {}
                    _ = int.recv() => {}
                }
                // Without a receiver the mount is ending already.
                let _ = events.send(event);
            }
        });
    };
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(listen)
        .context("cannot start a thread")?;
    Ok(())
}

pub fn end(args: &UmountArgs) -> Result<ExitCode> {
    match fuse::unmount(&args.mountpoint, args.lazy) {
        Err(MountError::Unmount { path, cause })
            if cause.raw_os_error() == Some(nix::libc::EBUSY) =>
        {
            bail!("{} is in use: close what uses it, or give --lazy", path.display())
        }
        other => other?,
    }
    Ok(ExitCode::SUCCESS)
}
