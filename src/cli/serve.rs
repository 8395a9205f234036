//! `registry serve`

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::mount;
use crate::auth::Access;
use crate::cli::args::ServeConfig;
use crate::events::Events;
use crate::fuse;
use crate::http::{App, Server};
use crate::image::Images;
use crate::index::{Index, Layers, shared};
use crate::log;
use crate::oci::Repository;
use crate::storage::{self, Storage};

/// The longest time between two searches for abandoned uploads.
const PURGE_EVERY: Duration = Duration::from_secs(3600);
/// The first waits for the start to be over.
const PURGE_FIRST: Duration = Duration::from_secs(60);

pub fn run(mut config: ServeConfig) -> Result<ExitCode> {
    let start = Instant::now();
    log::start(config.log, config.log_level).context("cannot start the log")?;
    storage::create_root(&config.dir).context("--dir cannot be used")?;
    let _lock = lock(&config.dir)?;
    config.http.max_connections = allow_connections(config.http.max_connections)?;
    let storage = Arc::new(Storage::open(&config.storage)?);
    let private = {
        let storage = Arc::clone(&storage);
        move |repository: &Repository| {
            storage.is_private(repository).unwrap_or_else(|error| {
                tracing::error!(%repository, %error, "taken for private");
                true
            })
        }
    };
    let access = Arc::new(Access::new(&config.access, private)?);
    let index = Arc::new(Index::open(&config.dir.join("db"))?);
    index.clean_layers()?;
    let layers = Layers::new(Arc::clone(&storage), Arc::clone(&index), &config.layers);
    let layers = Arc::new(layers.context("cannot start the threads that index layers")?);
    shared::listen(&config.dir, Arc::clone(&layers))?;
    let events = Arc::new(Events::start(&config.events)?);
    {
        let events = Arc::clone(&events);
        layers.listen(move |layer, ready| events.indexed(layer, ready));
    }

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the threads that serve sockets")?;
    let reloaded = Arc::clone(&access);
    let mounting = Arc::clone(&layers);
    let mut mounted = None;
    let stopped = runtime.block_on(async {
        let app = App::new(
            Arc::clone(&storage),
            Arc::clone(&index),
            layers,
            access,
            Arc::clone(&events),
            config.storage.read_only,
            config.http.max_connections,
        );
        let server = Server::bind(config.http.clone(), app).await?;
        let stop = signals(server.tls_reloader())?;
        if let Some((path, allow_other)) = &config.mount {
            let begin = || mount(&config, path, *allow_other, mounting);
            let (events, thread) = tokio::task::block_in_place(begin)?;
            // Before requests are waited for, which may take long.
            let (mut stopping, stop) = (stop.clone(), events.clone());
            tokio::spawn(async move {
                if stopping.wait_for(|stop| *stop).await.is_ok() {
                    // It may have ended before.
                    let _ = stop.send(fuse::Event::Stop);
                }
            });
            mounted = Some((events, thread));
        }
        announce(&config, &server, start);
        background(&config, storage, index)?;
        watch(Arc::clone(&reloaded))?;
        Ok::<_, anyhow::Error>(server.run(stop).await)
    });
    if let Some((events, thread)) = mounted {
        // It may have ended before.
        let _ = events.send(fuse::Event::Stop);
        let _ = thread.join();
    }
    if stopped.is_ok() {
        events.stop(config.http.drain_timeout);
    }
    // Not waited for: a search of the store can be left at any moment.
    runtime.shutdown_background();
    let drained = stopped?;
    if drained {
        tracing::info!("stopped");
    } else {
        tracing::warn!("stopped before all requests were done: --drain-timeout ran out");
    }
    exit(0)
}

/// Locks the registry's folder. A server that was just killed may still be ending, so this waits for it
/// a moment: a supervisor can start the next one at once.
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

/// Mounts all images, and looks after that on a thread, which ends with the
/// mount.
fn mount(
    config: &ServeConfig,
    path: &Path,
    allow_other: bool,
    layers: Arc<Layers>,
) -> Result<(Sender<fuse::Event>, JoinHandle<()>)> {
    let (images, root) = (Arc::new(Images::new(layers)), &config.storage.root);
    let view = mount::view_options();
    let mount = mount::begin(path, images, view, None, allow_other, None, root)?;
    tracing::info!(path = %mount.path().display(), "mounted");
    let events = mount.sender();
    let watch = move || {
        let event = mount.wait();
        if event == fuse::Event::Ended {
            return tracing::info!("unmounted by somebody else: the server goes on without");
        }
        if event == fuse::Event::Panicked {
            tracing::error!("a bug ended the mount: the server goes on without");
        }
        if let Err(error) = mount.end() {
            tracing::error!(%error, "the mount is left behind");
        }
    };
    let thread = thread::Builder::new().name("mount".into()).spawn(watch);
    Ok((events, thread.context("cannot start a thread")?))
}

/// Ends the process at once. The C++ library's clean-up, which returning would
/// start, takes away what threads still at work on the index stand on, and so
/// ends some stops with an abort. Nobody needs it: what was acknowledged is on
/// disk.
pub(super) fn exit(code: i32) -> ! {
    log::flush();
    // SAFETY: it asks for nothing, and nothing comes after it.
    #[allow(unsafe_code)]
    unsafe {
        libc::_exit(code)
    }
}

/// Raises the process's limit of open files to what the limit of connections
/// needs, or lowers the connections to what it allows.
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
            "fewer connections than --max-connections: the limit of open files is {hard}"
        );
    }
    Ok(allowed)
}

/// Turns signals into a stop and a reload. The second signal to stop ends the
/// process on the spot, which no acknowledged push minds.
fn signals(reload: impl Fn() + Send + 'static) -> Result<watch::Receiver<bool>> {
    let (stop, receiver) = watch::channel(false);
    let listen = |kind| signal(kind).context("cannot listen for signals");
    let (mut term, mut int, mut hup) = (
        listen(SignalKind::terminate())?,
        listen(SignalKind::interrupt())?,
        listen(SignalKind::hangup())?,
    );
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
                _ = hup.recv() => {
                    reload();
                    continue;
                }
            }
            if stop.send_replace(true) {
                tracing::warn!("stopped at once by a second signal");
                exit(1);
            }
            tracing::info!("stopping: waiting for requests under way");
        }
    });
    Ok(receiver)
}

/// The ready line, on stdout.
fn announce(config: &ServeConfig, server: &Server, start: Instant) {
    let absolute = |path: &Path| {
        fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
    };
    let layers = absolute(&config.storage.root);
    let db = absolute(&config.dir.join("db"));
    let ms = start.elapsed().as_secs_f64() * 1e3;
    let version = env!("CARGO_PKG_VERSION");
    let line = match config.log {
        log::Format::Text => {
            let metrics =
                server.metrics_url().map(|url| format!(", metrics on {url}")).unwrap_or_default();
            let mode = if config.storage.read_only { " (read-only)" } else { "" };
            format!(
                "registry {version} is ready in {ms:.0} ms: listening on {}{metrics}, blobs in {layers}{mode}, index in {db}",
                server.urls().join(" and "),
            )
        }
        log::Format::Json => json!({
            "message": "ready",
            "version": version,
            "ms": (ms * 1e3).round() / 1e3,
            "listen": server.urls(),
            "metrics": server.metrics_url(),
            "layers": layers,
            "db": db,
            "read_only": config.storage.read_only,
        })
        .to_string(),
    };
    let mut stdout = std::io::stdout().lock();
    if let Err(error) = writeln!(stdout, "{line}").and_then(|()| stdout.flush()) {
        tracing::warn!(%error, "cannot write the ready line to stdout: {line}");
    }
}

/// Looks every second whether files of users and rules have changed.
fn watch(access: Arc<Access>) -> Result<()> {
    const EVERY: Duration = Duration::from_secs(1);
    let watch = move || {
        loop {
            thread::sleep(EVERY);
            access.reload();
        }
    };
    let thread = thread::Builder::new().name("reload".into()).spawn(watch);
    thread.context("cannot start a thread")?;
    Ok(())
}

/// Work that no request waits for: the catalog's look at the store, and the
/// search for abandoned uploads.
fn background(config: &ServeConfig, storage: Arc<Storage>, index: Arc<Index>) -> Result<()> {
    let read_only = config.storage.read_only;
    {
        let storage = Arc::clone(&storage);
        let scan = move || {
            if let Err(error) = index.scan(&storage, read_only) {
                tracing::error!(%error, "cannot bring the catalog up to date: it may lack repositories until the next start");
            }
        };
        thread::Builder::new().name("scan".into()).spawn(scan).context("cannot start a thread")?;
    }
    if !read_only {
        let ttl = config.upload_ttl;
        let purge = move || {
            thread::sleep(ttl.min(PURGE_FIRST));
            loop {
                match storage.purge_uploads(ttl) {
                    Ok(0) => {}
                    Ok(uploads) => tracing::info!(uploads, "removed abandoned uploads"),
                    Err(error) => tracing::error!(%error, "cannot remove abandoned uploads"),
                }
                thread::sleep(ttl.min(PURGE_EVERY));
            }
        };
        thread::Builder::new()
            .name("purge".into())
            .spawn(purge)
            .context("cannot start a thread")?;
    }
    Ok(())
}
