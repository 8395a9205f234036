//! What a registry can list: its repositories, a repository's tags, a manifest's referrers. Every
//! list comes in pages of bounded size.

use std::sync::Arc;

use hyper::Response;
use hyper::header::{CONTENT_TYPE, HeaderValue, LINK};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;

use super::{OCI_FILTERS_APPLIED, header};
use crate::auth::Right;
use crate::http::body::Body;
use crate::http::error::{Error, Result};
use crate::http::respond::json;
use crate::http::{App, RequestContext, blocking};
use crate::oci::{Digest, MediaType, Repository};
use crate::registry::Page;

/// Names on a page: at most, and where the request does not say how many.
const PAGE_MAX: usize = 1000;

/// The characters that need no escape in the value of a query parameter.
const VALUE: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'/').remove(b':');

/// `n`, clamped. Any number is valid, however many digits it has.
fn page_size(context: &RequestContext) -> Result<usize> {
    match context.parameter("n") {
        None => Ok(PAGE_MAX),
        Some(n) if !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()) => {
            Ok(n.parse().map_or(PAGE_MAX, |n: usize| n.min(PAGE_MAX)))
        }
        Some(n) => Err(Error::PageSize(n.chars().take(32).collect())),
    }
}

/// RFC 8288. Relative, like every location.
fn link_next(response: &mut Response<Body>, path: &str, parameters: &[(&str, &str)]) {
    let query: Vec<String> =
        parameters.iter().map(|(k, v)| format!("{k}={}", utf8_percent_encode(v, VALUE))).collect();
    response
        .headers_mut()
        .insert(LINK, header(format!("<{path}?{}>; rel=\"next\"", query.join("&"))));
}

/// `GET /v2/_catalog`
pub async fn catalog(app: &Arc<App>, context: &RequestContext) -> Result<Response<Body>> {
    let n = page_size(context)?;
    app.registry.wait_for_catalog().await?;
    let last = context.parameter("last").unwrap_or_default().to_owned();
    let (registry, caller) = (Arc::clone(&app.registry), context.caller(app));
    let page = blocking(move || registry.catalog(&caller, last, n)).await?;
    let names: Vec<&str> = page.items.iter().map(Repository::as_str).collect();
    let mut response = json(json!({"repositories": names}).to_string());
    if let Some(last) = page.next {
        link_next(&mut response, "/v2/_catalog", &[("last", &last), ("n", &n.to_string())]);
    }
    Ok(response)
}

/// `GET /v2/NAME/tags/list`
pub async fn tags(
    app: &Arc<App>,
    context: &RequestContext,
    repository: Repository,
) -> Result<Response<Body>> {
    let n = page_size(context)?;
    let last = context.parameter("last").unwrap_or_default().to_owned();
    let (registry, name) = (Arc::clone(&app.registry), repository.clone());
    let page = blocking(move || registry.tags(&name, &last, n)).await?;
    let tags: Vec<&str> = page.items.iter().map(|tag| tag.as_str()).collect();
    let mut response = json(json!({"name": repository.as_str(), "tags": tags}).to_string());
    if let Some(last) = page.next {
        let path = format!("/v2/{repository}/tags/list");
        link_next(&mut response, &path, &[("last", &last), ("n", &n.to_string())]);
    }
    Ok(response)
}

/// `GET /v2/NAME/referrers/DIGEST`
pub async fn referrers(
    app: &Arc<App>,
    context: &RequestContext,
    repository: Repository,
    subject: Digest,
) -> Result<Response<Body>> {
    let artifact_type = context.parameter("artifactType").map(str::to_owned);
    let last: Option<Digest> = context.parameter("last").map(str::parse).transpose()?;
    let (registry, name, filter) =
        (Arc::clone(&app.registry), repository.clone(), artifact_type.clone());
    let page = if app.access.may(&context.proof.identity, &repository, Right::Pull) {
        blocking(move || registry.referrers(&name, &subject, filter.as_deref(), last)).await?
    } else {
        Page { items: Vec::new(), next: None }
    };
    let media_type = MediaType::OciIndex.as_str();
    let document = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": page.items});
    let mut response = json(document.to_string());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    let path = format!("/v2/{repository}/referrers/{subject}");
    let mut parameters = Vec::new();
    if let Some(artifact_type) = &artifact_type {
        parameters.push(("artifactType", artifact_type.as_str()));
        response
            .headers_mut()
            .insert(OCI_FILTERS_APPLIED, HeaderValue::from_static("artifactType"));
    }
    if let Some(last) = &page.next {
        parameters.push(("last", last));
        link_next(&mut response, &path, &parameters);
    }
    Ok(response)
}
