//! Webhooks: what was pushed and deleted, posted to the operator's endpoints in
//! distribution's envelope (its docs, "Work with notifications"), so that what
//! listens to one registry listens to the other.
//!
//! A notification is in the [`journal`] before the push is answered, and each
//! endpoint gets all of them in their order, each at least once, however often the
//! endpoint or this server ends meanwhile.

mod envelope;
mod journal;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hyper::header::{HeaderName, HeaderValue};
use ureq::tls::TlsConfig;

use crate::events::Event;
use crate::metrics;
use crate::oci::Algorithm;
use crate::roots::roots;
use envelope::Source;
use journal::{Cursor, Journal};

const MEDIA_TYPE: &str = "application/vnd.docker.distribution.events.v2+json";
/// What an endpoint gets to answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// From a failure to the next try, doubled with each; a random part of it is left
/// out, so that servers that failed together do not come back together.
const BACKOFF_MIN: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
pub struct Options {
    /// `http://` and `https://` URLs.
    pub endpoints: Vec<String>,
    /// Sent to all of them; secrets among them.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Where the queue lies.
    pub folder: PathBuf,
    /// The certificates to trust, instead of the system's.
    pub roots: Option<PathBuf>,
    /// Scheme and authority at which clients reach this server.
    pub public: (String, String),
}

#[derive(Debug)]
pub struct Notifications {
    shared: Arc<Shared>,
    senders: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    journal: Journal,
    source: Source,
    closed: AtomicBool,
    // Guards nothing: the journal and `closed` do themselves.
    waiting: Mutex<()>,
    changed: Condvar,
}

impl Notifications {
    /// Opens the queue and starts a thread for each endpoint; nothing where there
    /// are none.
    pub fn start(options: &Options) -> Result<Option<Notifications>> {
        if options.endpoints.is_empty() {
            return Ok(None);
        }
        let names: Vec<_> = options.endpoints.iter().map(|url| name(url)).collect();
        let journal = Journal::open(&options.folder, &names)
            .with_context(|| format!("cannot use {}", options.folder.display()))?;
        let shared = Arc::new(Shared {
            journal,
            source: Source::new(options.public.clone()),
            closed: AtomicBool::new(false),
            waiting: Mutex::new(()),
            changed: Condvar::new(),
        });
        let agent = agent(options)?;
        let mut senders = Vec::new();
        for (endpoint, url) in options.endpoints.iter().enumerate() {
            let sender = Sender {
                shared: Arc::clone(&shared),
                agent: agent.clone(),
                cursor: shared.journal.cursor(endpoint),
                host: host(url),
                url: url.clone(),
                headers: options.headers.clone(),
            };
            let thread = thread::Builder::new().name(format!("notify-{endpoint}"));
            senders.push(thread.spawn(move || sender.run())?);
        }
        Ok(Some(Notifications { shared, senders }))
    }

    /// Queues an event, if it is one that is notified of. Writes to a file, and
    /// waits for no disk.
    pub fn hear(&self, event: &Event) {
        let Some(notification) = self.shared.source.notification(event) else {
            return;
        };
        if let Err(error) = self.shared.journal.append(&notification) {
            metrics::notification("lost");
            tracing::error!(%error, "a notification is lost: it cannot be queued");
            return;
        }
        self.shared.wake();
    }

    /// Ends the senders, once what they are sending is answered. The rest is sent
    /// by the next server.
    pub fn stop(&self) {
        self.shared.closed.store(true, Ordering::Release);
        self.shared.wake();
        let deadline = Instant::now() + TIMEOUT;
        while self.senders.iter().any(|sender| !sender.is_finished()) {
            if Instant::now() > deadline {
                tracing::warn!("an endpoint did not answer a notification: it will get it again");
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Shared {
    fn wake(&self) {
        drop(self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }

    fn closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Waits until `ready` or the end, at most `time`.
    fn wait(&self, time: Duration, ready: impl Fn() -> bool) {
        let deadline = Instant::now() + time;
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        while !self.closed() && !ready() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.changed.wait_timeout(waiting, left);
            waiting = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// What an endpoint's file is called: its URL may hold secrets.
fn name(url: &str) -> String {
    let mut hex = Algorithm::Sha256.digest(url.as_bytes()).hex();
    hex.truncate(16);
    hex
}

/// What the log calls it, for the same reason.
fn host(url: &str) -> String {
    let authority = url.split("://").nth(1).unwrap_or_default();
    authority.split(['/', '?', '#']).next().unwrap_or_default().to_owned()
}

fn agent(options: &Options) -> Result<ureq::Agent> {
    let mut tls = TlsConfig::builder().unversioned_rustls_crypto_provider(Arc::new(
        rustls::crypto::aws_lc_rs::default_provider(),
    ));
    if options.endpoints.iter().any(|url| url.starts_with("https:")) {
        let roots = roots(options.roots.as_deref()).context("--notify")?;
        tls = tls.root_certs(roots);
    }
    let config = ureq::Agent::config_builder()
        .tls_config(tls.build())
        .timeout_global(Some(TIMEOUT))
        .user_agent(concat!("registry/", env!("CARGO_PKG_VERSION")))
        // What a redirect leads to is not what the operator has named.
        .max_redirects(0)
        .http_status_as_error(false)
        .build();
    Ok(config.into())
}

/// Sends to one endpoint.
struct Sender {
    shared: Arc<Shared>,
    agent: ureq::Agent,
    cursor: Cursor,
    host: String,
    url: String,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Sender {
    fn run(mut self) {
        let mut failures = 0;
        while !self.shared.closed() {
            let journal = &self.shared.journal;
            if !journal.has_more(&self.cursor) {
                self.shared.wait(BACKOFF_MAX, || journal.has_more(&self.cursor));
                continue;
            }
            let (sent, count) = match journal.read(&mut self.cursor) {
                Ok(batch) => {
                    if batch.lost > 0 {
                        metrics::notifications("lost", batch.lost);
                        tracing::error!(
                            endpoint = self.host,
                            notifications = batch.lost,
                            "notifications are lost: the endpoint was away for too long, or the queue is damaged"
                        );
                    }
                    if batch.notifications.is_empty() {
                        continue;
                    }
                    (self.send(&batch.notifications), batch.notifications.len() as u64)
                }
                Err(error) => (Err(format!("cannot read the queue: {error}")), 0),
            };
            let sent = sent.and_then(|()| {
                metrics::notifications("sent", count);
                let done = self.shared.journal.done(&mut self.cursor);
                done.map_err(|error| format!("cannot note what was sent: {error}"))
            });
            match sent {
                Ok(()) => {
                    if failures > 0 {
                        tracing::info!(endpoint = self.host, "notifications are taken again");
                    }
                    failures = 0;
                }
                Err(error) => {
                    metrics::notification("failed");
                    let pause = backoff(failures);
                    let ms = pause.as_millis() as u64;
                    tracing::warn!(
                        endpoint = self.host,
                        error,
                        ms,
                        "a notification is tried again"
                    );
                    failures += 1;
                    self.shared.wait(pause, || false);
                }
            }
        }
    }

    fn send(&self, notifications: &[String]) -> Result<(), String> {
        let body = format!("{{\"events\":[{}]}}", notifications.join(","));
        let mut request = self.agent.post(&self.url).content_type(MEDIA_TYPE);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let mut response = request.send(body.as_bytes()).map_err(|error| error.to_string())?;
        let status = response.status();
        // Read, so that the connection can be used again; it says nothing to us.
        drop(response.body_mut().with_config().limit(64 << 10).read_to_vec());
        match status.is_success() {
            true => Ok(()),
            false => Err(format!("the answer is {status}")),
        }
    }
}

/// Half of it for sure, the rest by chance.
fn backoff(failures: u32) -> Duration {
    let whole = BACKOFF_MIN.saturating_mul(1 << failures.min(16)).min(BACKOFF_MAX);
    let chance = (uuid::Uuid::new_v4().as_u128() & 0xffff) as u32;
    whole / 2 + whole / 2 * chance / 0xffff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow() {
        for (failures, whole) in [(0, 500), (1, 1000), (2, 2000), (7, 60_000), (u32::MAX, 60_000)] {
            let pause = backoff(failures);
            let whole = Duration::from_millis(whole);
            assert!(pause >= whole / 2 && pause <= whole, "{failures}: {pause:?}");
        }
    }

    #[test]
    fn endpoints_are_named_without_their_secrets() {
        assert_eq!(host("https://hooks.example.org/T0/secret?x"), "hooks.example.org");
        assert_eq!(host("http://a:81"), "a:81");
        assert_eq!(name("http://a").len(), 16);
        assert_ne!(name("http://a"), name("http://b"));
    }
}
