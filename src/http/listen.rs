//! Connections: accept, TLS, limits, and a stop that lets requests finish.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response, header};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use super::body::Body;
use super::idle::{Activity, Watched};
use super::limits::METRICS_CONNECTIONS;
use super::permits::{Client, Requester};
use super::{App, answer};
use crate::metrics;

/// Bytes of one request head.
const HEAD_MAX: usize = 64 << 10;
/// Requests at a time on one HTTP/2 connection.
const H2_STREAMS: u32 = 32;
/// What a client may send ahead, which is held before anybody knows who it is. Windows that adapt
/// would grow by what the client says of the line.
const H2_STREAM_WINDOW: u32 = 256 << 10;
const H2_CONNECTION_WINDOW: u32 = 512 << 10;

/// Bytes encrypted before they are sent, a connection: rustls' own 64 KiB cost
/// more system calls.
const TLS_BUFFER: usize = 512 << 10;
/// What an idle connection gets to close in order.
const GOODBYE: Duration = Duration::from_secs(1);

/// How the server listens, and how long it waits.
#[derive(Clone, Debug)]
pub struct Options {
    pub listen: Vec<SocketAddr>,
    /// Certificate chain and key.
    pub tls: Option<(PathBuf, PathBuf)>,
    pub metrics_listen: Option<SocketAddr>,
    pub drain_timeout: Duration,
    pub header_timeout: Duration,
    pub idle_timeout: Duration,
    pub max_connections: u32,
    /// `None`: as many as there may be.
    pub max_connections_per_address: Option<u32>,
    pub sites: super::Sites,
    /// The proxies whose word on a client's address is believed.
    pub trusted_proxies: Vec<super::Network>,
}

#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    listeners: Vec<TcpListener>,
    metrics: Option<(TcpListener, PrometheusHandle)>,
}

#[derive(Debug)]
struct Shared {
    app: Arc<App>,
    http: Options,
    /// A short section, never held across an await.
    tls: Option<Mutex<Arc<rustls::ServerConfig>>>,
    connections: Arc<Semaphore>,
}

impl Server {
    /// Opens the listening sockets; nothing is answered before [`Server::run`].
    pub async fn bind(http: Options, app: App) -> anyhow::Result<Server> {
        let tls = match &http.tls {
            Some(files) => Some(Mutex::new(Arc::new(load_tls(files)?))),
            None => None,
        };
        let mut listeners = Vec::new();
        for &address in &http.listen {
            listeners.push(listen(address).await?);
        }
        let metrics = match http.metrics_listen {
            Some(address) => {
                let handle = PrometheusBuilder::new()
                    .install_recorder()
                    .context("cannot collect metrics")?;
                metrics::describe();
                Some((listen(address).await?, handle))
            }
            None => None,
        };
        let connections = Arc::new(Semaphore::new(http.max_connections as usize));
        let shared = Shared { app: Arc::new(app), http, tls, connections };
        Ok(Server { shared: Arc::new(shared), listeners, metrics })
    }

    /// Where the server listens, as URLs, with the ports that were chosen.
    pub fn urls(&self) -> Vec<String> {
        let scheme = if self.shared.tls.is_some() { "https" } else { "http" };
        let addresses = self.listeners.iter().filter_map(|listener| listener.local_addr().ok());
        addresses.map(|address| format!("{scheme}://{address}")).collect()
    }

    pub fn metrics_url(&self) -> Option<String> {
        let (listener, _) = self.metrics.as_ref()?;
        Some(format!("http://{}/metrics", listener.local_addr().ok()?))
    }

    /// Makes a way to have the certificate read again while the server runs.
    pub fn tls_reloader(&self) -> impl Fn() + Send + 'static {
        let shared = Arc::clone(&self.shared);
        move || {
            let (Some(files), Some(tls)) = (&shared.http.tls, &shared.tls) else {
                tracing::info!("nothing to reload: there is no certificate");
                return;
            };
            match load_tls(files) {
                Ok(config) => {
                    *tls.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
                    tracing::info!("the certificate was reloaded");
                }
                Err(error) => tracing::error!("the old certificate stays in use: {error:#}"),
            }
        }
    }

    /// Serves until `stop` turns true, then lets what is under way finish.
    /// `false`: the time for that ran out.
    pub async fn run(self, mut stop: watch::Receiver<bool>) -> bool {
        let mut tasks = tokio::task::JoinSet::new();
        for listener in self.listeners {
            tasks.spawn(accept(Arc::clone(&self.shared), listener, stop.clone()));
        }
        if let Some((listener, handle)) = self.metrics {
            tasks.spawn(upkeep(handle.clone()));
            tasks.spawn(serve_metrics(listener, handle));
        }
        // An error means that the sender is gone, which asks for a stop too.
        drop(stop.wait_for(|&stop| stop).await);
        self.shared.app.draining.store(true, std::sync::atomic::Ordering::Relaxed);
        // Their requests would never end.
        self.shared.app.events.feed().close();
        tasks.shutdown().await;
        let all = self.shared.http.max_connections;
        let drained = Arc::clone(&self.shared.connections).acquire_many_owned(all);
        tokio::time::timeout(self.shared.http.drain_timeout, drained).await.is_ok()
    }
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

fn load_tls((cert, key): &(PathBuf, PathBuf)) -> anyhow::Result<rustls::ServerConfig> {
    let unreadable = |path: &Path| format!("cannot read {}", path.display());
    let certs = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| unreadable(cert))?;
    anyhow::ensure!(!certs.is_empty(), "{} holds no certificate in PEM form", cert.display());
    let private = PrivateKeyDer::from_pem_file(key).with_context(|| unreadable(key))?;
    let mut config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(certs, private)
        .with_context(|| format!("{} and {} do not go together", cert.display(), key.display()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

async fn accept(shared: Arc<Shared>, listener: TcpListener, stop: watch::Receiver<bool>) {
    loop {
        match listener.accept().await {
            Ok((stream, client)) => {
                let address = shared.app.pools.client(client.ip());
                let http = &shared.http;
                let max = http.max_connections_per_address.unwrap_or(http.max_connections);
                let Some(connected) = address.connect(max) else {
                    tracing::debug!(%client, "connection refused: its address has too many");
                    continue;
                };
                // At the limit this one waits, and more in the kernel's queue.
                let permit = Arc::clone(&shared.connections).acquire_owned().await;
                let permit = permit.expect("the semaphore is never closed");
                let (shared, stop) = (Arc::clone(&shared), stop.clone());
                tokio::spawn(async move {
                    connection(shared, stream, client, address, stop).await;
                    drop((connected, permit));
                });
            }
            Err(error) => {
                // Mostly: out of file descriptors. Give them time to come back.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(
    shared: Arc<Shared>,
    stream: TcpStream,
    client: SocketAddr,
    address: Arc<Client>,
    mut stop: watch::Receiver<bool>,
) {
    let _counted = metrics::Connection::new();
    // Without it a small answer may wait for the acknowledgement of another.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%client, %error, "connection lost at once");
        return;
    }
    let activity = Activity::new(stream.as_raw_fd());
    let stream = Watched::new(stream, Arc::clone(&activity));
    let serve = |stall| {
        let (app, tls) = (Arc::clone(&shared.app), shared.tls.is_some());
        let requester =
            Requester { client: Arc::clone(&address), activity: Arc::clone(&activity), stall };
        service_fn(move |request: Request<Incoming>| {
            let (app, requester) = (Arc::clone(&app), requester.clone());
            let activity = Arc::clone(&requester.activity);
            // On the heap, so that an idle connection does not hold the room for it.
            let answered = Box::pin(answer(app, activity, client, tls, request));
            async move { Ok::<_, Infallible>(requester.scope(answered).await) }
        })
    };
    let http = &shared.http;
    let mut http1 = http1::Builder::new();
    http1
        .timer(TokioTimer::new())
        .header_read_timeout(http.header_timeout)
        // A client that has sent everything may say so and still be answered.
        .half_close(true)
        .max_header_size(HEAD_MAX);

    let ended = match &shared.tls {
        None => {
            drive(
                http1.serve_connection(TokioIo::new(stream), serve(None)),
                &activity,
                http.idle_timeout,
                stop,
            )
            .await
        }
        Some(tls) => {
            let config = Arc::clone(&tls.lock().unwrap_or_else(PoisonError::into_inner));
            let handshake = TlsAcceptor::from(config).accept_with(stream, |tls| {
                tls.set_buffer_limit(Some(TLS_BUFFER));
            });
            let handshake = tokio::time::timeout(http.header_timeout, handshake);
            let shaken = tokio::select! {
                shaken = handshake => shaken,
                _ = stop.wait_for(|&stop| stop) => return,
            };
            let stream = match shaken {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    tracing::debug!(%client, %error, "TLS handshake failed");
                    return;
                }
                Err(_) => return,
            };
            if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                let mut http2 = http2::Builder::new(TokioExecutor::new());
                http2
                    .timer(TokioTimer::new())
                    .max_concurrent_streams(H2_STREAMS)
                    .initial_stream_window_size(H2_STREAM_WINDOW)
                    .initial_connection_window_size(H2_CONNECTION_WINDOW)
                    .max_header_list_size(HEAD_MAX as u32);
                let served =
                    http2.serve_connection(TokioIo::new(stream), serve(Some(http.idle_timeout)));
                drive(served, &activity, http.idle_timeout, stop).await
            } else {
                drive(
                    http1.serve_connection(TokioIo::new(stream), serve(None)),
                    &activity,
                    http.idle_timeout,
                    stop,
                )
                .await
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%client, %error, "connection ended");
    }
}

/// Runs a connection to its end: the client's, the server's stop, or the idle
/// timeout.
async fn drive<C: GracefulConnection<Error = hyper::Error>>(
    connection: C,
    activity: &Activity,
    idle_timeout: Duration,
    mut stop: watch::Receiver<bool>,
) -> Result<(), hyper::Error> {
    let mut connection = pin!(connection);
    let mut stopping = false;
    loop {
        let left = idle_timeout.saturating_sub(activity.idle());
        if left.is_zero() {
            // HTTP/2 says goodbye; a request that stands still is cut off.
            connection.as_mut().graceful_shutdown();
            return tokio::time::timeout(GOODBYE, connection).await.unwrap_or(Ok(()));
        }
        tokio::select! {
            ended = connection.as_mut() => return ended,
            // An error means that the sender is gone, which asks for a stop too.
            _ = stop.wait_for(|&stop| stop), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
            // Not before this can the connection have been idle for too long.
            () = tokio::time::sleep(left) => {}
        }
    }
}

/// Folds what was measured together, so that it does not grow until somebody
/// asks for it.
async fn upkeep(handle: PrometheusHandle) {
    let mut every = tokio::time::interval(Duration::from_secs(5));
    loop {
        every.tick().await;
        handle.run_upkeep();
    }
}

async fn serve_metrics(listener: TcpListener, handle: PrometheusHandle) {
    let render = |handle: PrometheusHandle, request: Request<Incoming>| async move {
        let mut response = if request.uri().path() == "/metrics" {
            Response::new(Body::from(handle.render()))
        } else {
            let mut response = Response::new(Body::from("the metrics are at /metrics\n"));
            *response.status_mut() = hyper::StatusCode::NOT_FOUND;
            response
        };
        let plain = header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, plain);
        Ok::<_, io::Error>(response)
    };
    let connections = Arc::new(Semaphore::new(METRICS_CONNECTIONS));
    loop {
        let Ok((stream, client)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        // Idle connections here must not use up the descriptors of the registry.
        let Ok(permit) = Arc::clone(&connections).try_acquire_owned() else {
            continue;
        };
        let handle = handle.clone();
        tokio::spawn(async move {
            let _permit = permit;
            let service = service_fn(move |request| render(handle.clone(), request));
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(30))
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(error) = served {
                tracing::debug!(%client, %error, "metrics connection ended");
            }
        });
    }
}
