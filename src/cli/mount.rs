//! `registry mount` and `registry umount`

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::mpsc::Sender;

use anyhow::{Context, Result, bail};
use nix::unistd::{getgid, getuid, setsid};
use tokio::signal::unix::{SignalKind, signal};

use super::{serve, store};
use crate::cli::args::{MountArgs, UmountArgs};
use crate::fuse::{self, Event, Look, Mount, MountError, Options, Tree};
use crate::image::{Image, Images, Platform};
use crate::log;

/// In the environment of the process that `--background` starts.
const BACKGROUND: &str = "_REGISTRY_MOUNT_BACKGROUND";
/// What that process says on stdout before a reason why it failed.
const FAILED: &str = "failed: ";

pub fn run(args: &MountArgs) -> Result<ExitCode> {
    if !args.background {
        return serve_mount(args);
    }
    if std::env::var_os(BACKGROUND).is_none() {
        return start_background(args);
    }
    // Of a session of its own, so that no terminal takes it along.
    setsid().context("cannot leave the terminal")?;
    serve_mount(args).inspect_err(|error| {
        // Whoever started it is gone, or reads this.
        let _ = writeln!(std::io::stdout(), "{FAILED}{error:#}");
    })
}

/// Starts the same command once more, and waits until its mount answers.
fn start_background(args: &MountArgs) -> Result<ExitCode> {
    let log = match &args.log_file {
        Some(path) => {
            let file = File::options().create(true).append(true).open(path);
            file.with_context(|| format!("cannot write to {}", path.display()))?.into()
        }
        None => Stdio::null(),
    };
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
            .context("cannot hear from the process in the background")?;
    }
    match line.trim_end() {
        "" => bail!("the process in the background ended before it had mounted anything"),
        line => match line.strip_prefix(FAILED) {
            Some(reason) => bail!("{reason}"),
            None => println!("{line}"),
        },
    }
    Ok(ExitCode::SUCCESS)
}

fn serve_mount(args: &MountArgs) -> Result<ExitCode> {
    log::start(args.log, args.log_level).context("cannot start the log")?;
    settle_allocator();
    let options = args.index.check()?;
    raise_file_limit();
    let layers = store::open(&args.store, &options)?;
    let images = Arc::new(Images::new(layers));
    let image = match &args.image {
        Some(id) => {
            let image = images.open(id, args.platform.as_ref())?;
            Some((id.to_string(), image))
        }
        None => None,
    };
    let look = Look {
        platform: args.platform.clone(),
        uid: args.uid,
        gid: args.gid,
        tag_ttl: args.tag_ttl,
        ..look()
    };
    let root = args.store.root()?;
    let mount =
        begin(&args.mountpoint, images, look, image, args.allow_other, args.threads, &root)?;
    signals(mount.sender())?;
    let version = env!("CARGO_PKG_VERSION");
    let path = mount.path().display();
    // Without anybody to hear it, it is mounted all the same.
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
            // Nobody is left to tell when stderr is closed.
            let _ = writeln!(std::io::stderr(), "registry: a bug ended the mount: see the log");
            serve::exit(1);
        }
    }
    serve::exit(0)
}

/// How things are shown when nobody says otherwise.
pub(super) fn look() -> Look {
    Look {
        platform: None::<Platform>,
        uid: None,
        gid: None,
        user: (getuid().as_raw(), getgid().as_raw()),
        tag_ttl: std::time::Duration::from_secs(1),
    }
}

pub(super) fn begin(
    mountpoint: &Path,
    images: Arc<Images>,
    look: Look,
    image: Option<(String, Arc<Image>)>,
    allow_other: bool,
    threads: Option<u16>,
    store: &Path,
) -> Result<Mount, MountError> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let options = Options {
        allow_other,
        threads: threads.map_or(cores, usize::from),
        store: store.to_owned(),
    };
    let tree = Tree::new(images, look, image);
    Mount::begin(mountpoint, tree, &options)
}

/// Has the C library give back what is as large as a part of a layer. Once it has
/// seen some of these freed, it would keep them among its other memory, where
/// they leave gaps of half their size.
fn settle_allocator() {
    #[cfg(target_env = "gnu")]
    {
        /// Above what a single read takes, below almost all parts of layers.
        const LARGE: i32 = 1536 << 10;
        // SAFETY: it changes a number in the allocator, and no other thread is at
        // work yet.
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

/// Turns signals into events. The second one ends the process on the spot.
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
                // Nobody listens any more: it ends already.
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
            bail!("{} is in use: leave it, or give --lazy", path.display())
        }
        other => other?,
    }
    Ok(ExitCode::SUCCESS)
}
