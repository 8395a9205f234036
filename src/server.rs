//! What `registry serve` runs: what is opened in which order, and what stops in which order.
//!
//! Start: the log is running already; the folder is locked, the store, the index and the users are
//! opened, the socket for other processes, hooks and webhooks are started, the sockets are bound,
//! the images are mounted, and only then is the server ready. Stop: no new connections, requests
//! finish, the mount ends, hooks and webhooks finish. What was acknowledged is on disk at all times,
//! so nothing has to be closed.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::stat::{Mode, umask};
use tokio::sync::watch;

use crate::auth::{self, Access, Watched};
use crate::events::{self, Events};
use crate::fuse::{self, Mount, Tree, ViewOptions};
use crate::http::{self, App, Server};
use crate::image::Images;
use crate::index::{Index, LayerOptions, Layers, shared};
use crate::oci::Repository;
use crate::query::usage;
use crate::registry::{Registry, Retention, maintenance, start_pulls};
use crate::storage::{self, Storage};

/// The settings of a server.
#[derive(Clone, Debug)]
pub struct Config {
    /// Holds the index. It is locked against a second server.
    pub dir: PathBuf,
    pub storage: storage::Options,
    pub http: http::Options,
    pub access: auth::Options,
    pub layers: LayerOptions,
    pub events: events::Options,
    /// An upload that receives nothing for this long is removed.
    pub upload_ttl: Duration,
    /// The file with the rules of retention.
    pub retention: Option<PathBuf>,
    pub gc: maintenance::gc::Options,
    /// The time between two collections of garbage. `None`: there are none.
    pub gc_interval: Option<Duration>,
    /// The time between two scrubs. `None`: there are none unless they are asked for.
    pub scrub_interval: Option<Duration>,
    /// Bytes per second that these scrubs read; 0 is no limit.
    pub scrub_rate: u64,
    /// Where images are mounted, and whether other users may read the mount.
    pub mount: Option<(PathBuf, bool)>,
}

/// A server that answers requests.
#[derive(Debug)]
pub struct Ready {
    /// Where it listens, with the ports that were chosen.
    pub urls: Vec<String>,
    pub metrics_url: Option<String>,
    /// The root of the blobs, and the database's folder, as absolute paths.
    pub layers: PathBuf,
    pub db: PathBuf,
    pub read_only: bool,
    /// How long the start took.
    pub took: Duration,
}

/// Makes the allocator give memory back. By default it keeps an arena for every thread, and once a
/// large block was freed it takes blocks of that size from the arenas too, which then stay as large as
/// the busiest moment was.
fn bound_allocator() {
    /// Blocks from here on are mapped, and unmapped when they are freed.
    const MAPPED_FROM: libc::c_int = 256 << 10;
    const ARENAS: libc::c_int = 4;
    #[cfg(target_env = "gnu")]
    for (parameter, value) in [(libc::M_MMAP_THRESHOLD, MAPPED_FROM), (libc::M_ARENA_MAX, ARENAS)] {
        // SAFETY: the call sets a number in the allocator, which has locks of its own.
        #[allow(unsafe_code)]
        let set = unsafe { libc::mallopt(parameter, value) };
        if set == 0 {
            tracing::warn!(
                parameter,
                "the allocator does not take a setting: memory may stay in use"
            );
        }
    }
}

/// Runs a server until it is asked to stop. Returns false if `--drain-timeout` ran out before all
/// requests were done.
///
/// `signals` is called on the runtime with a function that reads the TLS certificate again; it
/// returns a watch that becomes true when the server has to stop. `ready` is called once, when
/// requests are answered.
pub fn run(
    mut config: Config,
    signals: impl FnOnce(Box<dyn Fn() + Send>) -> Result<watch::Receiver<bool>>,
    ready: impl FnOnce(&Ready),
) -> Result<bool> {
    let start = Instant::now();
    bound_allocator();
    config.events.hooks.umask = restrict_permissions(0o077);
    storage::create_root(&config.dir).context("--dir cannot be used")?;
    restrict_permissions(storage::denied_permissions(&config.storage.root)?);
    let _lock = lock(&config.dir)?;
    config.http.max_connections = allow_connections(config.http.max_connections)?;
    let half = config.http.max_connections.div_ceil(2);
    config.http.max_connections_per_address.get_or_insert(half);
    let storage = Arc::new(Storage::open(&config.storage)?);
    let access = Arc::new(Access::new(&config.access, is_private(&storage))?);
    let index = Arc::new(Index::open(&config.dir.join("db"))?);
    index.clean_layers()?;
    let layers = Layers::new(Arc::clone(&storage), index, &config.layers);
    let layers = Arc::new(layers.context("cannot start the threads that index layers")?);
    let events = Arc::new(Events::start(&config.events)?);
    let retention = config.retention.as_deref();
    let retention = retention.map(|path| Watched::open(path, Retention::parse)).transpose()?;
    let registry =
        Registry::new(Arc::clone(&storage), Arc::clone(&layers), Arc::clone(&events), retention);
    let registry = Arc::new(registry);
    let gc = maintenance::gc::Options { upload_ttl: config.upload_ttl, ..config.gc };
    let work = maintenance::work(Arc::clone(&registry), (!config.storage.read_only).then_some(gc));
    shared::listen(&config.dir, Arc::clone(&layers), work)?;

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the threads that serve sockets")?;
    let mut mounted = None;
    let stopped = runtime.block_on(async {
        let app = App::new(
            Arc::clone(&registry),
            Arc::clone(&access),
            Arc::clone(&events),
            config.storage.read_only,
            &config.http,
        );
        let server = Server::bind(config.http.clone(), app).await?;
        // There are metrics from here on.
        layers.index().count_files();
        let stop = signals(Box::new(server.tls_reloader()))?;
        if let Some((path, allow_other)) = &config.mount {
            let begin = || mount(&config, path, *allow_other, Arc::clone(registry.images()));
            let (events, thread) = tokio::task::block_in_place(begin)?;
            unmount_at(stop.clone(), events.clone());
            mounted = Some((events, thread));
        }
        ready(&Ready {
            urls: server.urls(),
            metrics_url: server.metrics_url(),
            layers: absolute(&config.storage.root),
            db: absolute(&config.dir.join("db")),
            read_only: config.storage.read_only,
            took: start.elapsed(),
        });
        let background = "cannot start a background thread";
        maintenance::start_scan(Arc::clone(&registry), config.storage.read_only)
            .context(background)?;
        maintenance::scrub::start(
            Arc::clone(&registry),
            config.scrub_interval,
            config.scrub_rate,
            config.storage.read_only,
        )
        .context(background)?;
        usage::start(Arc::clone(registry.images())).context(background)?;
        start_pulls(Arc::clone(&registry)).context(background)?;
        if !config.storage.read_only {
            maintenance::start_purge(Arc::clone(&registry), config.upload_ttl)
                .context(background)?;
            if let Some(interval) = config.gc_interval {
                maintenance::gc::start(Arc::clone(&registry), gc, interval).context(background)?;
            }
        }
        auth::start_reload(access).context(background)?;
        Ok::<_, anyhow::Error>(server.run(stop).await)
    });
    if let Some((events, thread)) = mounted {
        // The mount may have ended before.
        let _ = events.send(fuse::Event::Stop);
        let _ = thread.join();
    }
    if let Err(error) = registry.write_pulls() {
        tracing::error!(%error, "cannot write down what was pulled in the last seconds");
    }
    if let Err(error) = layers.index().flush() {
        tracing::warn!(%error, "the next start takes longer");
    }
    if stopped.is_ok() {
        events.stop(config.http.drain_timeout);
    }
    // A search of the store can be interrupted at any moment, so the runtime's threads are not
    // waited for.
    runtime.shutdown_background();
    stopped
}

/// Denies permissions to all files that this process creates from now on, beside those that its
/// umask denied at its start. Returns the umask of the start.
fn restrict_permissions(denied: u32) -> u32 {
    static AT_START: OnceLock<Mode> = OnceLock::new();
    let before = umask(Mode::from_bits_truncate(denied));
    let at_start = *AT_START.get_or_init(|| before);
    umask(at_start | Mode::from_bits_truncate(denied));
    at_start.bits()
}

/// Locks the registry's folder. A server that was just killed may still be ending, so this waits for
/// it a moment: a supervisor can start the next one at once.
fn lock(dir: &Path) -> Result<fs::File, storage::Error> {
    const ENDING: Duration = Duration::from_secs(2);
    /// How long a process takes to close its other files after the lock.
    const CLOSING: Duration = Duration::from_millis(50);
    let start = Instant::now();
    let mut waited = false;
    loop {
        match storage::lock(dir, false) {
            Err(storage::Error::Locked { .. }) if start.elapsed() < ENDING => waited = true,
            locked => {
                if waited && locked.is_ok() {
                    thread::sleep(CLOSING);
                }
                return locked;
            }
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Tells whether a repository is private. One that cannot be read is taken for private.
fn is_private(storage: &Arc<Storage>) -> impl Fn(&Repository) -> bool + Send + Sync + 'static {
    let storage = Arc::clone(storage);
    move |repository| {
        storage.is_private(repository).unwrap_or_else(|error| {
            tracing::error!(
                %repository, %error, "cannot read whether the repository is private: assuming it is"
            );
            true
        })
    }
}

/// Mounts all images. The thread that is returned watches the mount, and ends with it.
fn mount(
    config: &Config,
    path: &Path,
    allow_other: bool,
    images: Arc<Images>,
) -> Result<(Sender<fuse::Event>, JoinHandle<()>)> {
    let tree = Tree::new(images, ViewOptions::default(), None);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let options = fuse::Options { allow_other, threads, store: config.storage.root.clone() };
    let mount = Mount::begin(path, tree, &options)?;
    tracing::info!(path = %mount.path().display(), "mounted");
    let events = mount.sender();
    let watch = move || {
        let event = mount.wait();
        if event == fuse::Event::Ended {
            return tracing::info!("unmounted by another program; the server continues without it");
        }
        if event == fuse::Event::Panicked {
            tracing::error!("a bug ended the mount; the server continues without it");
        }
        if let Err(error) = mount.end() {
            tracing::error!(%error, "cannot unmount");
        }
    };
    let thread = thread::Builder::new().name("mount".into()).spawn(watch);
    Ok((events, thread.context("cannot start a thread")?))
}

/// Unmounts as soon as the server has to stop: its requests may take long to finish.
fn unmount_at(mut stop: watch::Receiver<bool>, events: Sender<fuse::Event>) {
    tokio::spawn(async move {
        if stop.wait_for(|stop| *stop).await.is_ok() {
            // The mount may have ended before.
            let _ = events.send(fuse::Event::Stop);
        }
    });
}

/// Raises the process's limit of open files to what this many connections need. Returns the number
/// of connections that the limit allows.
fn allow_connections(wanted: u32) -> Result<u32> {
    /// The database's files, the blobs being read and written, the listeners.
    const OTHERS: u64 = 1024;
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) =
        getrlimit(Resource::RLIMIT_NOFILE).context("cannot read the limit of open files")?;
    // Each connection may have a blob open.
    let need = (2 * u64::from(wanted) + OTHERS).min(hard).max(soft);
    setrlimit(Resource::RLIMIT_NOFILE, need, hard)
        .context("cannot raise the limit of open files")?;
    let allowed = need.saturating_sub(OTHERS).max(need / 2) / 2;
    let allowed = u32::try_from(allowed).unwrap_or(wanted).clamp(1, wanted);
    if allowed < wanted {
        tracing::warn!(
            wanted,
            allowed,
            "serving fewer connections than --max-connections: only {hard} files may be open"
        );
    }
    Ok(allowed)
}

fn absolute(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}
