//! The HTTP face: connections ([`listen`]), routes ([`route`]), answers.

mod authorize;
mod body;
mod content;
mod error;
mod events;
mod files;
mod idle;
mod index;
mod limits;
mod listen;
mod permits;
mod proxy;
mod query;
mod range;
mod request;
mod respond;
mod route;
mod sites;
mod url;
mod v1;
mod v2;
mod web;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use hyper::body::Incoming;
use hyper::header::{
    CONTENT_LENGTH, CONTENT_SECURITY_POLICY, EXPECT, HOST, HeaderName, HeaderValue, USER_AGENT,
};
use hyper::http::uri::Authority;
use hyper::{Method, Request, Response, StatusCode, Version};
use tokio::sync::Semaphore;

use crate::auth::{Access, Proof, Throttle};
use crate::events::{Cause, Events};
use crate::registry::{Caller, Registry};
use crate::{log, metrics};
use body::Body;
use error::{Error, ErrorFormat, Result};
use idle::Activity;
use limits::{
    BODIES, BODY_FREE, EXPORTS, LIST_MAX, LOOKING, MANIFEST_BUFFERS, PARSING, QUESTIONS,
    REFERRERS_MAX, STREAMS, UPLOAD_BUFFERS,
};
use permits::{Permit, Pools, Scarce};
use request::RequestBody;
use respond::{header, json};
use route::Route;
use v1::V1;

pub use listen::{Options, Server};
pub use proxy::Network;
pub use sites::Sites;

/// What requests work with.
#[derive(Debug)]
pub struct App {
    pub registry: Arc<Registry>,
    pub access: Arc<Access>,
    pub events: Arc<Events>,
    pub read_only: bool,
    sites: Sites,
    trusted_proxies: Vec<Network>,
    /// Passwords being verified.
    logins: Arc<Throttle>,
    /// Set when the server is about to stop.
    draining: AtomicBool,
    upload_buffers: Arc<Semaphore>,
    manifest_buffers: Arc<Semaphore>,
    listings: files::Listings,
    fragments: web::Fragments,
    turns: Arc<query::Turns>,
    pools: Pools,
    next_id: AtomicU64,
}

impl App {
    pub fn new(
        registry: Arc<Registry>,
        access: Arc<Access>,
        events: Arc<Events>,
        read_only: bool,
        options: &Options,
    ) -> App {
        // Ids of two runs should not meet in one log.
        let start = uuid::Uuid::new_v4().as_u64_pair().0;
        App {
            registry,
            access,
            events,
            read_only,
            sites: options.sites.clone(),
            trusted_proxies: options.trusted_proxies.clone(),
            logins: Throttle::new(logins()),
            draining: AtomicBool::new(false),
            upload_buffers: Arc::new(Semaphore::new(UPLOAD_BUFFERS)),
            manifest_buffers: Arc::new(Semaphore::new(MANIFEST_BUFFERS)),
            listings: files::listings(),
            fragments: web::fragments(),
            turns: Arc::new(query::Turns::new()),
            pools: Pools::new(|kind| match kind {
                Scarce::Looks => LOOKING,
                Scarce::Streams => STREAMS,
                Scarce::Exports => EXPORTS,
                Scarce::Questions => QUESTIONS,
                Scarce::Blobs => options.max_connections as usize,
                Scarce::Parsing => PARSING,
                Scarce::Bodies => BODIES >> 10,
            }),
            next_id: AtomicU64::new(start),
        }
    }
}

/// Passwords verified at a time, a core each: half of them, so that requests of
/// those who are known go on.
fn logins() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (cores / 2).max(1)
}

/// A request on its way through the handlers.
struct RequestContext {
    id: u64,
    client: log::Client,
    /// What the credentials prove; [`authorize`] decides what that allows.
    proof: Proof,
    tls: bool,
    format: ErrorFormat,
    method: Method,
    /// Path and query, as they were sent.
    target: String,
    /// HTTP/2's place for the host's name.
    authority: Option<Authority>,
    headers: hyper::HeaderMap,
    query: Vec<(String, String)>,
    /// The parameter that is a path.
    after: Option<Vec<u8>>,
    body: RequestBody,
    /// What the answer's body takes in memory, if that is paid for.
    paid: Option<Permit>,
}

impl RequestContext {
    /// The first parameter of that name.
    fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// What is to be said of the request where it makes something happen.
    fn cause(&self) -> Arc<Cause> {
        /// Characters that are told of what a client says of itself.
        const TOLD: usize = 256;
        let short = |text: &str| text.chars().take(TOLD).collect::<String>();
        let text = |value: &HeaderValue| short(&String::from_utf8_lossy(value.as_bytes()));
        let header = |name| self.headers.get(name).map(text).unwrap_or_default();
        let authority = self.authority.as_ref();
        Arc::new(Cause {
            user: self.proof.identity.name().map(short),
            address: Some(self.client),
            request: self.id,
            method: self.method.to_string(),
            host: authority.map_or_else(|| header(HOST), |authority| short(authority.as_str())),
            user_agent: header(USER_AGENT),
        })
    }

    /// On whose behalf the registry answers the request.
    fn caller(&self, app: &App) -> Caller {
        Caller::new(Arc::clone(&app.access), self.proof.identity.clone(), self.cause())
    }

    fn is_read(&self) -> bool {
        matches!(self.method, Method::GET | Method::HEAD)
    }

    /// Takes what the answer's body may cost before it is made.
    async fn pay_ahead(&mut self, app: &App, bytes: usize) -> Result<()> {
        let permit = app.pools.of(Scarce::Bodies).permits(bytes.div_ceil(1024)).await?;
        self.paid = Some(permit);
        Ok(())
    }
}

/// Answers one request; logs and counts it.
async fn answer(
    app: Arc<App>,
    activity: Arc<Activity>,
    peer: SocketAddr,
    tls: bool,
    request: Request<Incoming>,
) -> Response<Body> {
    let _working = activity.working();
    let start = Instant::now();
    let id = app.next_id.fetch_add(1, Ordering::Relaxed);
    let (parts, incoming) = request.into_parts();
    let client = proxy::client(&app.trusted_proxies, peer, &parts.headers);
    let mut line = log::Request {
        id,
        client,
        method: parts.method.clone(),
        uri: parts.uri.clone(),
        user_agent: parts.headers.get(USER_AGENT).cloned(),
        start,
        status: log::UNANSWERED,
        bytes: 0,
    };
    let body = RequestBody::new(incoming, Arc::clone(&activity));
    let route = Route::parse(parts.uri.path());
    let format = ErrorFormat::of(parts.uri.path());
    let of_an_image = matches!(route, Ok(Route::Files(_)));
    let name = route.as_ref().map_or("unknown", Route::name);
    let head = parts.method == Method::HEAD;

    let mut context = RequestContext {
        id,
        client,
        proof: Proof::anonymous(),
        tls,
        format,
        method: parts.method,
        target: parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
        authority: parts.uri.authority().cloned(),
        headers: parts.headers,
        query: Vec::new(),
        after: url::path_parameter(parts.uri.query()),
        body,
        paid: None,
    };
    let origin = app.sites.allowed(&context.headers);
    let is_page = matches!(format, ErrorFormat::Page);
    let query = if is_page { url::form } else { url::query };
    let result = match (route, query(parts.uri.query())) {
        (Ok(_), Ok(_)) if !hosts_hold(parts.version, &context.headers) => Err(Error::Host),
        (Ok(route), Ok(query)) => {
            context.query = query;
            dispatch(&app, route, &mut context).await
        }
        (Err(e), _) | (_, Err(e)) => Err(e),
    };
    if result.is_err() && !context.is_read() {
        let expects_continue = context.headers.contains_key(EXPECT);
        context.body.drain(expects_continue).await;
    }
    let paid = match result {
        Ok(response) => pay(&app, &mut context, head, response).await,
        Err(error) => Err(error),
    };
    let mut response = paid.unwrap_or_else(|error| {
        let mut response = error.response(id, format);
        if is_page {
            web::failed(&app, &context, &error, &mut response);
        }
        response
    });

    let headers = response.headers_mut();
    if line.uri.path().starts_with("/v2") {
        headers.insert(
            HeaderName::from_static("docker-distribution-api-version"),
            HeaderValue::from_static("registry/2.0"),
        );
    }
    app.sites.permit(origin, headers);
    if of_an_image {
        // The maker of the image chose every byte, of names too.
        headers.insert(
            CONTENT_SECURITY_POLICY,
            HeaderValue::from_static("sandbox; default-src 'none'"),
        );
    }
    headers.insert(
        HeaderName::from_static("x-content-type-options"),
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(HeaderName::from_static("x-request-id"), header(format!("{id:016x}")));
    if let Body::Full(bytes) = response.body()
        && !response.headers().contains_key(CONTENT_LENGTH)
    {
        let length = bytes.len();
        response.headers_mut().insert(CONTENT_LENGTH, length.into());
    }
    if head {
        *response.body_mut() = Body::Empty;
    }
    line.status = response.status().as_u16();
    metrics::request(name, &line);
    response.body_mut().log(line);
    response
}

/// Whether there is one `Host`, or none where HTTP/1.0 or HTTP/2 needs none (RFC 9112, 3.2).
fn hosts_hold(version: Version, headers: &hyper::HeaderMap) -> bool {
    match headers.get_all(HOST).iter().count() {
        0 => version != Version::HTTP_11,
        hosts => hosts == 1,
    }
}

/// Takes what a body in memory costs out of the one budget for all, until it is sent: a client may
/// ask for many, and read none.
async fn pay(
    app: &App,
    context: &mut RequestContext,
    head: bool,
    mut response: Response<Body>,
) -> Result<Response<Body>> {
    let paid = context.paid.take();
    if let Body::Full(bytes) = response.body_mut()
        && bytes.len() > BODY_FREE
        && !head
    {
        let size = bytes.len().div_ceil(1024);
        let permit = match paid {
            Some(mut permit) => {
                permit.shrink(size);
                permit
            }
            None => app.pools.of(Scarce::Bodies).permits(size).await?,
        };
        *bytes = body::with_permit(std::mem::take(bytes), permit);
    }
    Ok(response)
}

async fn dispatch(
    app: &Arc<App>,
    route: Route,
    context: &mut RequestContext,
) -> Result<Response<Body>> {
    let takes = |methods: &str| methods.split(", ").any(|m| m == context.method.as_str());
    if !matches!(route, Route::Healthz | Route::Readyz) {
        app.sites.check(context, app.access.is_open())?;
    }
    let allowed = route.methods(app.read_only);
    let from_page = app.sites.allowed(&context.headers).is_some();
    if context.method == Method::OPTIONS && (from_page || matches!(route, Route::V1(_))) {
        return Ok(sites::preflight(allowed, from_page));
    }
    if !takes(allowed) {
        return Err(if takes(route.methods(false)) {
            Error::ReadOnly(allowed)
        } else {
            Error::MethodNotAllowed(allowed)
        });
    }
    if authorize::need(&route, &context.method) != authorize::Need::Nothing {
        context.proof = authorize::identify(app, context, &route).await?;
    }
    let route = match route {
        Route::V1(route) => Route::V1(v1::fallback(app, context, route).await?),
        route => route,
    };
    authorize::check(app, &route, context)?;
    match route {
        Route::Token => authorize::token(app, context),
        Route::Ping => Ok(json("{}")),
        Route::Catalog => {
            context.pay_ahead(app, LIST_MAX).await?;
            v2::lists::catalog(app, context).await
        }
        Route::Tags(repository) => {
            context.pay_ahead(app, LIST_MAX).await?;
            v2::lists::tags(app, context, repository).await
        }
        Route::Referrers(repository, subject) => {
            context.pay_ahead(app, REFERRERS_MAX).await?;
            v2::lists::referrers(app, context, repository, subject).await
        }
        Route::Blob(repository, digest) => v2::blobs::blob(app, context, repository, digest).await,
        Route::Uploads(repository) => v2::uploads::start(app, context, repository).await,
        Route::Upload(repository, id) => v2::uploads::upload(app, context, repository, id).await,
        Route::Manifest(repository, reference) => {
            v2::manifests::manifest(app, context, repository, reference).await
        }
        Route::Files(files) => files::answer(app, context, files).await,
        Route::Query(question) => query::answer(app, context, question).await,
        Route::Index(repository, digest) => index::index(app, context, repository, digest).await,
        Route::V1(V1::Info) if web::is_wanted(context) => Ok(web::from_root()),
        Route::V1(route) => v1::answer(app, context, route).await,
        Route::Page(page) => web::answer(app, context, page).await,
        Route::Events => events::stream(app, context),
        Route::Healthz => Ok(Response::new(Body::from("ok\n"))),
        Route::Readyz => Ok(ready(app)),
    }
}

/// Ready from the first request on, until the server is about to stop.
fn ready(app: &App) -> Response<Body> {
    let draining = app.draining.load(Ordering::Relaxed);
    let mut response = Response::new(Body::from(if draining { "stopping\n" } else { "ok\n" }));
    if draining {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    response
}

/// Runs blocking work (files, the database) off the threads that serve
/// sockets.
async fn blocking<T: Send + 'static, E: Into<Error> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(Error::Panicked)?.map_err(Into::into)
}
