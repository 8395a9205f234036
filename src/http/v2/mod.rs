//! The OCI distribution API, `/v2/`.

pub mod blobs;
pub mod lists;
pub mod manifests;
pub mod uploads;

use hyper::header::HeaderName;

use super::respond::{DOCKER_CONTENT_DIGEST, blob_location, header, upload_location, upload_range};

const DOCKER_UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");
const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const OCI_TAG: HeaderName = HeaderName::from_static("oci-tag");
const OCI_FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");
