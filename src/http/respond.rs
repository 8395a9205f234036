//! Parts of answers that several handlers use.

use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use uuid::Uuid;

use super::body::Body;
use crate::oci::{Digest, Repository};

pub const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// An answer without a body.
pub fn status(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = status;
    response
}

/// A JSON document.
pub fn json(text: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(Body::from(text.into()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A header's value from text that is visible ASCII by construction.
pub fn header(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("made of parsed names, digests and numbers only")
}

// Locations are relative, so they hold behind any proxy and any host name.

pub fn blob_location(repository: &Repository, digest: &Digest) -> HeaderValue {
    header(format!("/v2/{repository}/blobs/{digest}"))
}

pub fn upload_location(repository: &Repository, id: Uuid) -> HeaderValue {
    header(format!("/v2/{repository}/blobs/uploads/{id}"))
}

/// `0-LAST` for an upload of `offset` bytes. Nothing received is `0-0`, which cannot be told from
/// one byte: distribution's and every client's convention.
pub fn upload_range(offset: u64) -> HeaderValue {
    header(format!("0-{}", offset.saturating_sub(1)))
}
