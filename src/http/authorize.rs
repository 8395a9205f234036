//! The one place that decides what a request may do: each route says what it
//! needs, and what one may not see is answered as if it did not exist.

use std::sync::Arc;

use hyper::header::{AUTHORIZATION, CACHE_CONTROL, HOST, HeaderValue};
use hyper::{Method, Response};
use serde_json::json;

use super::body::Body;
use super::error::{Error, ErrorFormat, Result};
use super::permits::while_wanted;
use super::respond::{header, json};
use super::route::{Route, Scope};
use super::v1::{Topic, V1};
use super::web::{self, Page, Place};
use super::{App, RequestContext};
use crate::auth::{Identity, LOGIN_SECONDS, Login, Proof, Recognised, Refusal, Right};
use crate::image;
use crate::image::Id;
use crate::oci::{Reference, Repository};
use crate::registry::{self, IndexError, StorageError};

/// What a request needs to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need<'a> {
    /// Nothing: who asks is not even looked at.
    Nothing,
    /// Credentials that are right, if there are any.
    Anybody,
    /// Credentials, if the server knows users at all.
    Login,
    /// To be somebody who may see something; the handler leaves out the rest.
    Filtered,
    One(&'a Repository, Right),
    /// To be somebody who may push something.
    Pusher,
}

/// What `method` on `route` needs.
pub fn need<'a>(route: &'a Route, method: &Method) -> Need<'a> {
    let read = matches!(*method, Method::GET | Method::HEAD);
    match route {
        Route::Healthz | Route::Readyz => Need::Nothing,
        Route::Ping => Need::Login,
        Route::Token => Need::Anybody,
        Route::Catalog | Route::Query(_) | Route::Events => Need::Filtered,
        // A user who may read a layer may have its index made.
        Route::Tags(repository) | Route::Referrers(repository, _) | Route::Index(repository, _) => {
            Need::One(repository, Right::Pull)
        }
        Route::Blob(repository, _) | Route::Manifest(repository, _) if read => {
            Need::One(repository, Right::Pull)
        }
        Route::Blob(repository, _) | Route::Manifest(repository, _)
            if *method == Method::DELETE =>
        {
            Need::One(repository, Right::Delete)
        }
        Route::Blob(repository, _) | Route::Manifest(repository, _) => {
            Need::One(repository, Right::Push)
        }
        Route::Uploads(repository) | Route::Upload(repository, _) => {
            Need::One(repository, Right::Push)
        }
        Route::Files(files) => match &files.image {
            Scope::Repository(repository, _) | Scope::Any(Id::Reference { repository, .. }) => {
                Need::One(repository, Right::Pull)
            }
            // Of any of the repositories that one may read.
            Scope::Any(Id::Hex { .. }) => Need::Filtered,
        },
        Route::V1(route) => need_v1(route, method),
        Route::Page(page) => need_page(page),
    }
}

fn need_page(page: &Page) -> Need<'_> {
    match page {
        Page::Asset(_) => Need::Nothing,
        // Those who could not log in otherwise.
        Page::Login | Page::Logout => Need::Anybody,
        Page::Home | Page::Search | Page::Find | Page::Grep | Page::Diff => Need::Filtered,
        Page::Repository(repository)
        | Page::Image(Place { id: Id::Reference { repository, .. }, .. }) => {
            Need::One(repository, Right::Pull)
        }
        // Of any of the repositories that one may read.
        Page::Image(Place { id: Id::Hex { .. }, .. }) => Need::Filtered,
        Page::Delete(repository, _) => Need::One(repository, Right::Delete),
    }
}

fn need_v1<'a>(route: &'a V1, method: &Method) -> Need<'a> {
    let right = match *method {
        Method::GET | Method::HEAD => Right::Pull,
        Method::DELETE => Right::Delete,
        _ => Right::Push,
    };
    match route {
        V1::Info | V1::Ping => Need::Nothing,
        V1::Users | V1::User => Need::Login,
        V1::Search | V1::Repositories => Need::Filtered,
        // In any of the repositories that one may read; the handler sees to that.
        V1::Image(..) if right == Right::Pull => Need::Filtered,
        V1::Image(..) => Need::Pusher,
        V1::Repository(repository, _) => Need::One(repository, right),
    }
}

/// Who sends the request. A password that was not verified before takes its time.
pub async fn identify(app: &Arc<App>, context: &RequestContext, route: &Route) -> Result<Proof> {
    let mut headers = context.headers.get_all(AUTHORIZATION).iter();
    let access = &app.access;
    let (header, false) = (headers.next(), access.is_open()) else {
        return Ok(Proof::anonymous());
    };
    let Some(header) = header else {
        // Cookies count for pages alone: what other sites make a browser send changes nothing else.
        let session = match route {
            Route::Page(_) => web::cookie(context, web::SESSION),
            _ => None,
        };
        let proof = session.and_then(|session| access.by_session(session));
        return Ok(proof.unwrap_or_else(Proof::anonymous));
    };
    let recognised = match headers.next() {
        None => access.recognise(header.as_bytes()),
        Some(_) => Err(Refusal::Malformed),
    };
    let login = match recognised {
        Ok(Recognised::Proof(proof)) => return Ok(proof),
        Ok(Recognised::Login(login)) => login,
        Err(refusal) => return Err(refused(app, context, route, &refusal)),
    };
    verify(app, context, login).await.map_err(|error| match error {
        Unverified::Refused(refusal) => refused(app, context, route, &refusal),
        Unverified::Failed(error) => error,
    })
}

/// Why a password was not verified.
pub enum Unverified {
    /// It is wrong.
    Refused(Refusal),
    Failed(Error),
}

impl From<Error> for Unverified {
    fn from(error: Error) -> Unverified {
        Unverified::Failed(error)
    }
}

/// Verifies a password, when it is its turn.
pub async fn verify(
    app: &Arc<App>,
    context: &RequestContext,
    login: Login,
) -> Result<Proof, Unverified> {
    let turn = while_wanted(app.logins.turn(context.client.ip, login.name())).await?;
    let turn = turn.ok_or(Error::Logins)?;
    // Somebody with the same password may have had the turn before.
    if let Some(proof) = app.access.recall(&login) {
        return Ok(proof);
    }
    let thread = while_wanted(turn.thread()).await?.ok_or(Error::Logins)?;
    let access = Arc::clone(&app.access);
    let verify = move || {
        let verified = access.verify(&login);
        if verified.is_err() {
            turn.failed();
        }
        drop(thread);
        verified
    };
    let verified = tokio::task::spawn_blocking(verify).await.map_err(Error::Panicked)?;
    verified.map_err(Unverified::Refused)
}

fn refused(app: &App, context: &RequestContext, route: &Route, refusal: &Refusal) -> Error {
    tracing::warn!(client = %context.client, error = %refusal, "login failed");
    unauthorized(app, context, route, Some(Problem::Token))
}

/// Refuses what the context's identity may not do.
pub fn check(app: &Arc<App>, route: &Route, context: &RequestContext) -> Result<()> {
    let checked = decide(app, route, context);
    if let Err(error) = &checked {
        let (client, user) = (context.client, context.proof.identity.name());
        tracing::debug!(%client, user, %error, "access refused");
    }
    checked
}

fn decide(app: &App, route: &Route, context: &RequestContext) -> Result<()> {
    let (access, identity) = (&app.access, &context.proof.identity);
    let ask = || {
        let sent = context.headers.contains_key(AUTHORIZATION);
        unauthorized(app, context, route, sent.then_some(Problem::Scope))
    };
    match need(route, &context.method) {
        Need::Nothing | Need::Anybody => Ok(()),
        Need::Login if access.is_open() || *identity != Identity::Anonymous => Ok(()),
        // By a token, which says that he has tried to log in.
        Need::Login if sent_by(context, b"bearer ") => Ok(()),
        Need::Filtered if *route == Route::Catalog && !access.may_list(identity) => Err(ask()),
        Need::Filtered if !access.is_nobody(identity) => Ok(()),
        Need::Pusher if access.may_push_somewhere(identity) => Ok(()),
        Need::One(repository, right) if access.may(identity, repository, right) => Ok(()),
        // Who is anonymous may log in, and who has a token may get a better one.
        _ if matches!(identity, Identity::Anonymous | Identity::Scoped(_)) => Err(ask()),
        Need::Pusher => Err(registry::Error::Nameless.into()),
        Need::Login | Need::Filtered => Err(ask()),
        Need::One(repository, right) if access.may(identity, repository, Right::Pull) => {
            Err(Error::Denied { repository: repository.clone(), right })
        }
        Need::One(repository, _) => match route {
            // A repository that is not there has none.
            Route::Referrers(..) => Ok(()),
            _ => Err(absent(route, repository)),
        },
    }
}

/// What the route's handler answers where there is nothing.
fn absent(route: &Route, repository: &Repository) -> Error {
    let manifest = |reference: &Reference| StorageError::ManifestUnknown {
        repository: repository.clone(),
        reference: reference.clone(),
    };
    match route {
        Route::Blob(_, digest) => {
            StorageError::BlobUnknown { repository: repository.clone(), digest: *digest }.into()
        }
        Route::Index(_, digest) => IndexError::Missing(Box::new(*digest)).into(),
        Route::Manifest(_, reference) => manifest(reference).into(),
        Route::Upload(_, id) => {
            StorageError::UploadUnknown { repository: repository.clone(), id: *id }.into()
        }
        Route::Files(files) => match &files.image {
            Scope::Repository(_, reference) | Scope::Any(Id::Reference { reference, .. }) => {
                manifest(reference).into()
            }
            Scope::Any(id @ Id::Hex { .. }) => image::Error::Unknown(id.to_string()).into(),
        },
        Route::V1(V1::Repository(_, Topic::Tag(tag) | Topic::TagJson(tag))) => {
            manifest(&Reference::Tag(tag.clone())).into()
        }
        Route::Page(
            Page::Image(Place { id: Id::Reference { reference, .. }, .. })
            | Page::Delete(_, reference),
        ) => manifest(reference).into(),
        Route::V1(_)
        | Route::Page(_)
        | Route::Ping
        | Route::Token
        | Route::Catalog
        | Route::Query(_)
        | Route::Events
        | Route::Uploads(_)
        | Route::Tags(_)
        | Route::Referrers(..)
        | Route::Healthz
        | Route::Readyz => StorageError::RepositoryUnknown(repository.clone()).into(),
    }
}

/// The answer that asks for credentials.
///
/// A client that gets `Basic` stops when it has no password. So where one may pull
/// without, `/v2/` asks for a token instead, which this server gives to anybody.
fn unauthorized(
    app: &App,
    context: &RequestContext,
    route: &Route,
    error: Option<Problem>,
) -> Error {
    let access = &app.access;
    if matches!(context.format, ErrorFormat::Page) {
        // A scheme that browsers do not know, so that they show the page and not a dialog of theirs
        // (draft-broyer-http-cookie-auth has the parameters).
        return Error::Unauthorized(HeaderValue::from_static(
            "Cookie realm=\"registry\", form-action=\"/ui/_login\", cookie-name=registry-session",
        ));
    }
    let by_password = access.takes_passwords() && sent_by(context, b"basic ");
    let tokens = match access.service() {
        _ if by_password || matches!(context.format, ErrorFormat::V1) => None,
        Some((realm, service)) => Some((realm.to_owned(), service)),
        None if access.gives_logins() => {
            origin(context).map(|origin| (format!("{origin}/v2/token"), SERVICE))
        }
        None => None,
    };
    let Some((realm, service)) = tokens else {
        return Error::Unauthorized(HeaderValue::from_static("Basic realm=\"registry\""));
    };
    let mut challenge = format!(r#"Bearer realm="{realm}",service="{service}""#);
    if let Some(scope) = scope(route, &context.method) {
        challenge.push_str(&format!(r#",scope="{scope}""#));
    }
    match error {
        Some(Problem::Token) => challenge.push_str(r#",error="invalid_token""#),
        Some(Problem::Scope) => challenge.push_str(r#",error="insufficient_scope""#),
        None => {}
    }
    Error::Unauthorized(header(challenge))
}

/// What is wrong with a token that was sent (RFC 6750, 3.1).
enum Problem {
    Token,
    Scope,
}

/// Whether credentials of that scheme were sent.
fn sent_by(context: &RequestContext, scheme: &[u8]) -> bool {
    let sent = context.headers.get(AUTHORIZATION).map(|sent| sent.as_bytes());
    sent.and_then(|sent| sent.get(..scheme.len()))
        .is_some_and(|sent| sent.eq_ignore_ascii_case(scheme))
}

/// What this server calls itself in challenges.
const SERVICE: &str = "registry";

/// The scope that a client asks for to be let in (distribution's
/// docs/content/spec/auth/scope.md).
fn scope(route: &Route, method: &Method) -> Option<String> {
    match need(route, method) {
        Need::One(repository, right) => {
            let pull = if right == Right::Push { "pull," } else { "" };
            Some(format!("repository:{repository}:{pull}{}", right.action()))
        }
        Need::Filtered if *route == Route::Catalog => Some("registry:catalog:*".to_owned()),
        Need::Nothing | Need::Anybody | Need::Login | Need::Filtered | Need::Pusher => None,
    }
}

/// Where the client finds this server, as far as it says so itself.
pub fn origin(context: &RequestContext) -> Option<String> {
    let headers = &context.headers;
    let host = match &context.authority {
        Some(authority) => authority.as_str(),
        None => headers.get(HOST)?.to_str().ok()?,
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~:[]".contains(&b);
    let forwarded = headers.get("x-forwarded-proto");
    let tls = context.tls
        || forwarded.is_some_and(|proto| proto.as_bytes().eq_ignore_ascii_case(b"https"));
    let scheme = if tls { "https" } else { "http" };
    (!host.is_empty() && host.bytes().all(plain)).then(|| format!("{scheme}://{host}"))
}

/// `GET /v2/token`: a token that says who has sent the password, or that nobody has
/// (distribution's docs/content/spec/auth/token.md). What it lets one do is
/// decided when it is used, so the scopes asked for do not matter.
pub fn token(app: &App, context: &RequestContext) -> Result<Response<Body>> {
    if !app.access.gives_logins() {
        return Err(Error::RouteUnknown);
    }
    let token = app.access.login_token(&context.proof);
    let token =
        token.ok_or_else(|| unauthorized(app, context, &Route::Token, Some(Problem::Token)))?;
    let document = json!({"token": token, "access_token": token, "expires_in": LOGIN_SECONDS});
    let mut response = json(document.to_string());
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

#[cfg(test)]
mod tests;
