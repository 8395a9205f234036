//! `/v2/NAME/manifests/REFERENCE`

use std::sync::Arc;

use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderValue, LOCATION};
use hyper::{Method, Response, StatusCode};

use super::{DOCKER_CONTENT_DIGEST, OCI_SUBJECT, OCI_TAG, header};
use crate::http::body::Body;
use crate::http::error::{Error, Result};
use crate::http::limits::{BODY_TIME, TAGS_MAX};
use crate::http::permits::Scarce;
use crate::http::respond::status;
use crate::http::{App, RequestContext, blocking, range};
use crate::oci::manifest::MANIFEST_MAX;
use crate::oci::{Reference, Repository, Tag};
use crate::registry::{self, Api, NewManifest, StoredManifest};

pub async fn manifest(
    app: &Arc<App>,
    context: &mut RequestContext,
    repository: Repository,
    reference: Reference,
) -> Result<Response<Body>> {
    match context.method {
        Method::PUT => put(app, context, repository, reference).await,
        Method::DELETE => {
            let (registry, caller) = (Arc::clone(&app.registry), context.caller(app));
            blocking(move || match &reference {
                Reference::Tag(tag) => registry.delete_tag(&caller, &repository, tag, Api::V2),
                Reference::Digest(digest) => registry.delete_manifest(&caller, &repository, digest),
            })
            .await?;
            Ok(status(StatusCode::ACCEPTED))
        }
        // GET and HEAD; the router lets nothing else through.
        _ => {
            let registry = Arc::clone(&app.registry);
            let stored = match registry.cached_manifest(&repository, &reference) {
                Some(stored) => stored,
                None => {
                    // It is paid for before it is read, because its size is not known.
                    context.pay_ahead(app, MANIFEST_MAX).await?;
                    let (repository, reference) = (repository.clone(), reference.clone());
                    blocking(move || registry.manifest(&repository, &reference)).await?
                }
            };
            // Tools that look for updates send HEAD all day, which is no pull.
            if context.method == Method::GET {
                app.registry.note_pull(&repository, &reference);
            }
            Ok(found(context, &stored))
        }
    }
}

fn found(context: &RequestContext, stored: &StoredManifest) -> Response<Body> {
    let digest = stored.digest.to_string();
    let etag = format!("\"{digest}\"");
    let mut response = Response::new(Body::Empty);
    let headers = response.headers_mut();
    if range::not_modified(&context.headers, &etag) {
        headers.insert(ETAG, header(etag));
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return response;
    }
    headers.insert(ETAG, header(etag));
    headers.insert(DOCKER_CONTENT_DIGEST, header(digest));
    headers.insert(CONTENT_LENGTH, stored.bytes.len().into());
    headers.insert(CONTENT_TYPE, header(stored.media_type.clone()));
    *response.body_mut() = Body::from(stored.bytes.clone());
    response
}

async fn put(
    app: &Arc<App>,
    context: &mut RequestContext,
    repository: Repository,
    reference: Reference,
) -> Result<Response<Body>> {
    let mut tags: Vec<Tag> = Vec::new();
    for (_, value) in context.query.iter().filter(|(key, _)| key == "tag") {
        let tag = value.parse()?;
        if !tags.contains(&tag) {
            tags.push(tag);
        }
        if tags.len() > TAGS_MAX {
            return Err(Error::TooManyTags);
        }
    }
    if matches!(reference, Reference::Tag(_)) && !tags.is_empty() {
        return Err(Error::TagWithTag);
    }
    let content_type =
        context.headers.get(CONTENT_TYPE).map(|value| crate::log::escape(value.as_bytes()));
    let body = context.body.collect(MANIFEST_MAX, &app.manifest_buffers);
    let body = tokio::time::timeout(BODY_TIME, body).await.map_err(|_| Error::BodyTimeout)?;
    let (bytes, room) = body?.ok_or(Error::ManifestTooLarge)?;

    let location = header(format!("/v2/{repository}/manifests/{reference}"));
    let accepted = tags.clone();
    if let Reference::Tag(tag) = &reference {
        tags.push(tag.clone());
    }
    let parsing = app.pools.of(Scarce::Parsing).permit().await?;
    let (registry, caller) = (Arc::clone(&app.registry), context.caller(app));
    let (digest, subject) = blocking(move || {
        let _room = room;
        let manifest = NewManifest::parse(bytes.into(), content_type.as_deref(), &reference)?;
        // The disk may be slow, and the next manifest can be parsed meanwhile.
        drop(parsing);
        registry.push_manifest(&caller, &repository, &tags, &manifest)?;
        Ok::<_, registry::Error>((manifest.digest(), manifest.subject()))
    })
    .await?;

    let mut response = status(StatusCode::CREATED);
    let headers = response.headers_mut();
    headers.insert(LOCATION, location);
    headers.insert(DOCKER_CONTENT_DIGEST, header(digest.to_string()));
    headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    for tag in accepted {
        headers.append(OCI_TAG, header(tag.to_string()));
    }
    if let Some(subject) = subject {
        headers.insert(OCI_SUBJECT, header(subject.to_string()));
    }
    Ok(response)
}
