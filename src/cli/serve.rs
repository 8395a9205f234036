//! `registry serve`: signals, the ready line, exit codes. The server itself is [`crate::server`].

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::cli::args::ServeConfig;
use crate::log;
use crate::server::{self, Ready};

pub fn run(config: ServeConfig) -> Result<ExitCode> {
    log::start(config.log, config.log_level).context("cannot start the log")?;
    let drained = server::run(config.server, signals, |ready| announce(ready, config.log))?;
    if drained {
        tracing::info!("stopped");
    } else {
        tracing::warn!("stopped before all requests were done: --drain-timeout ran out");
    }
    exit(0)
}

/// Ends the process at once. Returning would run RocksDB's static destructors while threads still
/// work on the index, which ends some stops with an abort. Nothing is lost: what was acknowledged
/// is on disk.
pub(super) fn exit(code: i32) -> ! {
    log::flush();
    // SAFETY: `_exit` has no preconditions, and no code runs after it.
    #[allow(unsafe_code)]
    unsafe {
        libc::_exit(code)
    }
}

/// Turns signals into a stop and a reload. The second signal to stop ends the process at once, which
/// loses no acknowledged push.
fn signals(reload: Box<dyn Fn() + Send>) -> Result<watch::Receiver<bool>> {
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
            tracing::info!("stopping: waiting for requests to finish");
        }
    });
    Ok(receiver)
}

/// Prints the ready line to stdout.
fn announce(ready: &Ready, format: log::Format) {
    let ms = ready.took.as_secs_f64() * 1e3;
    let version = env!("CARGO_PKG_VERSION");
    let (layers, db) = (ready.layers.display(), ready.db.display());
    let line = match format {
        log::Format::Text => {
            let metrics = ready
                .metrics_url
                .as_ref()
                .map(|url| format!(", metrics on {url}"))
                .unwrap_or_default();
            let mode = if ready.read_only { " (read-only)" } else { "" };
            format!(
                "registry {version} is ready in {ms:.0} ms: listening on {}{metrics}, blobs in \
                 {layers}{mode}, index in {db}",
                ready.urls.join(" and "),
            )
        }
        log::Format::Json => json!({
            "message": "ready",
            "version": version,
            "ms": (ms * 1e3).round() / 1e3,
            "listen": ready.urls,
            "metrics": ready.metrics_url,
            "layers": layers.to_string(),
            "db": db.to_string(),
            "read_only": ready.read_only,
        })
        .to_string(),
    };
    let mut stdout = std::io::stdout().lock();
    if let Err(error) = writeln!(stdout, "{line}").and_then(|()| stdout.flush()) {
        tracing::warn!(%error, "cannot write the ready line to stdout: {line}");
    }
}
