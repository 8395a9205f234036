//! Docker's first API, `/v1/`, as its clients and servers spoke it. What is tagged
//! by it is a manifest like any other, and what is pushed by the second API has
//! images here.

mod images;
mod lists;
mod repositories;
mod route;

use std::sync::Arc;

use hyper::header::{HeaderName, HeaderValue, WWW_AUTHENTICATE};
use hyper::{Method, Response, StatusCode};
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;

use super::body::Body;
use super::error::{Error, Result};
use super::limits::BODY_TIME;
use super::respond::json as json_response;
use super::{App, RequestContext, blocking};
use crate::auth::Right;
use crate::oci::Repository;
use crate::storage::docker1::Pusher;

pub use route::{Part, V1};

const TOKEN: HeaderName = HeaderName::from_static("x-docker-token");
const ENDPOINTS: HeaderName = HeaderName::from_static("x-docker-endpoints");
const VERSION: HeaderName = HeaderName::from_static("x-docker-registry-version");
const STANDALONE: HeaderName = HeaderName::from_static("x-docker-registry-standalone");

/// Where names without a namespace are looked for when there is nothing under the
/// name as it is written.
const LIBRARY: &str = "library";

pub async fn answer(
    app: &Arc<App>,
    context: &mut RequestContext,
    route: V1,
) -> Result<Response<Body>> {
    match route {
        V1::Info => Ok(text(
            json!({
                "name": env!("CARGO_PKG_NAME"),
                "version": env!("CARGO_PKG_VERSION"),
                "status": "running",
            })
            .to_string(),
        )),
        V1::Ping => {
            let mut response = text("true");
            let headers = response.headers_mut();
            headers.insert(VERSION, HeaderValue::from_static(env!("CARGO_PKG_VERSION")));
            headers.insert(STANDALONE, HeaderValue::from_static("True"));
            Ok(response)
        }
        V1::Users if context.method == Method::POST => {
            Ok(with_status(text("\"User created\""), StatusCode::CREATED))
        }
        V1::Users => {
            let name = context.proof.identity.name().unwrap_or("anonymous");
            Ok(text(json!({"username": name}).to_string()))
        }
        V1::User => Ok(no_content()),
        V1::Search => lists::search(app, context).await,
        V1::Repositories => lists::repositories(app, context).await,
        V1::Repository(repository) => repositories::repository(app, context, repository).await,
        V1::Images(repository) => repositories::images(app, context, repository).await,
        V1::Auth(_) => Ok(text("\"OK\"")),
        V1::RepositoryJson(repository) => repositories::json(app, repository, None).await,
        V1::TagJson(repository, tag) => repositories::json(app, repository, Some(tag)).await,
        V1::Properties(repository) => repositories::properties(app, context, repository).await,
        V1::Tags(repository) => repositories::tags(app, context, repository).await,
        V1::Tag(repository, tag) => repositories::tag(app, context, repository, tag).await,
        V1::Image(id, part) => images::image(app, context, id, part).await,
    }
}

/// The route to read instead, where a name without a namespace means nothing as it
/// is written: not there, or not for this reader, which nobody can tell apart.
pub async fn fallback(app: &Arc<App>, context: &RequestContext, route: V1) -> Result<V1> {
    let Some(name) = route.repository() else {
        return Ok(route);
    };
    if !context.is_read() || name.as_str().contains('/') {
        return Ok(route);
    }
    let Ok(other) = format!("{LIBRARY}/{name}").parse::<Repository>() else {
        return Ok(route);
    };
    let (known, name, identity) = (Arc::clone(app), name.clone(), context.proof.identity.clone());
    let there = blocking(move || {
        Ok::<_, Error>(
            known.storage.repository_exists(&name)?
                && known.access.may(&identity, &name, Right::Pull),
        )
    });
    Ok(if there.await? { route } else { route.with_repository(other) })
}

/// The pusher, to keep apart what is being pushed; `None`: the client has no name.
fn pusher(app: &App, context: &RequestContext) -> Option<Pusher> {
    app.access.principal(&context.proof.identity).map(|principal| Pusher::new(&principal))
}

/// A whole JSON document, with the room it takes in memory.
async fn document(
    app: &App,
    context: &mut RequestContext,
    limit: usize,
) -> Result<(Vec<u8>, OwnedSemaphorePermit)> {
    let body = context.body.collect(limit, &app.manifest_buffers);
    let body = tokio::time::timeout(BODY_TIME, body).await.map_err(|_| Error::BodyTimeout)?;
    body?.ok_or(Error::DocumentTooLarge(limit))
}

/// A JSON document as an answer.
fn text(json: impl Into<String>) -> Response<Body> {
    json_response(json.into())
}

/// What there is to say of most that went well.
fn done() -> Response<Body> {
    text("true")
}

fn no_content() -> Response<Body> {
    with_status(Response::new(Body::Empty), StatusCode::NO_CONTENT)
}

fn with_status(mut response: Response<Body>, status: StatusCode) -> Response<Body> {
    *response.status_mut() = status;
    response
}

/// Adds the token that the client may send from now on, and where to.
fn with_token(
    app: &App,
    context: &RequestContext,
    repository: &Repository,
    write: bool,
    mut response: Response<Body>,
) -> Response<Body> {
    let token = app.access.token(&context.proof, repository, write);
    let headers = response.headers_mut();
    if let Some(token) = token
        && let Ok(challenge) = HeaderValue::try_from(format!("Token {token}"))
        && let Ok(token) = HeaderValue::try_from(token)
    {
        headers.insert(TOKEN, token);
        headers.insert(WWW_AUTHENTICATE, challenge);
    }
    if let Ok(host) = HeaderValue::try_from(&context.cause().host) {
        headers.insert(ENDPOINTS, host);
    }
    response
}
