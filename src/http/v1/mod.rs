//! Docker's first API, `/v1/`, as its clients and servers spoke it. What it tags is a manifest like
//! any other, and what the second API pushes has images here.

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

pub use route::{Part, Topic, V1};

const TOKEN: HeaderName = HeaderName::from_static("x-docker-token");
const ENDPOINTS: HeaderName = HeaderName::from_static("x-docker-endpoints");
const VERSION: HeaderName = HeaderName::from_static("x-docker-registry-version");
const STANDALONE: HeaderName = HeaderName::from_static("x-docker-registry-standalone");

/// Where a name without a namespace is looked for if there is no repository of that name.
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
        V1::Repository(repository, topic) => match topic {
            Topic::Whole => repositories::repository(app, context, repository).await,
            Topic::Images => repositories::images(app, context, repository).await,
            Topic::Auth => Ok(text("\"OK\"")),
            Topic::Json => repositories::json(app, repository, None).await,
            Topic::TagJson(tag) => repositories::json(app, repository, Some(tag)).await,
            Topic::Properties => repositories::properties(app, context, repository).await,
            Topic::Tags => repositories::tags(app, context, repository).await,
            Topic::Tag(tag) => repositories::tag(app, context, repository, tag).await,
        },
        V1::Image(id, part) => images::image(app, context, id, part).await,
    }
}

/// The route to read instead, if there is no repository of a name without a namespace. One that
/// this client may not read is taken for one that does not exist.
pub async fn fallback(app: &Arc<App>, context: &RequestContext, route: V1) -> Result<V1> {
    let V1::Repository(name, topic) = route else {
        return Ok(route);
    };
    let other = format!("{LIBRARY}/{name}").parse::<Repository>();
    let (true, false, Ok(other)) = (context.is_read(), name.as_str().contains('/'), other) else {
        return Ok(V1::Repository(name, topic));
    };
    let there = app.access.may(&context.proof.identity, &name, Right::Pull) && {
        let (registry, name) = (Arc::clone(&app.registry), name.clone());
        blocking(move || registry.repository_exists(&name)).await?
    };
    Ok(V1::Repository(if there { name } else { other }, topic))
}

/// A whole document, with the room it takes in memory.
pub(super) async fn document(
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

/// The answer to most writes.
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
