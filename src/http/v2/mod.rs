//! The OCI distribution API, `/v2/`.

pub mod blobs;
pub mod lists;
pub mod manifests;
pub mod uploads;

use hyper::header::{HeaderName, HeaderValue};
use uuid::Uuid;

use crate::oci::{Digest, Repository};

pub const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const DOCKER_UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");
const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const OCI_TAG: HeaderName = HeaderName::from_static("oci-tag");
const OCI_FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

/// A header's value from text that is visible ASCII by construction.
pub fn header(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("made of parsed names, digests and numbers only")
}

// Locations are relative, so they hold behind any proxy and any host name.

fn blob_location(repository: &Repository, digest: &Digest) -> HeaderValue {
    header(format!("/v2/{repository}/blobs/{digest}"))
}

pub fn upload_location(repository: &Repository, id: Uuid) -> HeaderValue {
    header(format!("/v2/{repository}/blobs/uploads/{id}"))
}

/// `0-LAST` for an upload of `offset` bytes. Nothing received is `0-0`, which
/// cannot be told from one byte: distribution's and every client's convention.
pub fn upload_range(offset: u64) -> HeaderValue {
    header(format!("0-{}", offset.saturating_sub(1)))
}
