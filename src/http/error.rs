//! What went wrong, as clients see it: the one map from errors to HTTP status and OCI error code
//! (distribution-spec, "Error Codes").
//!
//! 1. An error that a layer below can name is passed on (`#[error(transparent)]`), never as text.
//! 2. `status_and_code` has no wildcard, so a new variant does not compile before it has a status.
//! 3. 4xx: the client can mend it. 422: what was pushed is at fault. 5xx: the operator can.
//! 4. A message names the image, path or digest, and what to do next.
//! 5. What the user may not see is answered with the error of what does not exist.
//! 6. Paths, system errors and bugs go to the log, under the request's id; clients get that id.
//! 7. What a client sent is quoted (`{:?}`) and cut before it becomes part of a message.

use hyper::header::{
    ALLOW, CONTENT_RANGE, CONTENT_TYPE, HeaderValue, LOCATION, RANGE, RETRY_AFTER, WWW_AUTHENTICATE,
};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use super::body::Body;
use super::limits::TAGS_MAX;
use crate::auth::Right;
use crate::docker1;
use crate::image;
use crate::oci::manifest::MANIFEST_MAX;
use crate::oci::{Digest, DigestError, NameError, PlatformError, Repository};
use crate::registry::{self, IndexError, StorageError};

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Registry(#[from] registry::Error),
    #[error(transparent)]
    Platform(#[from] PlatformError),
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Digest(#[from] DigestError),
    #[error(
        "the header X-Docker-Checksum-Payload is missing: sha256: and the hash of the image's JSON, a line feed and its layer"
    )]
    ChecksumMissing,
    #[error("the body is not {0}")]
    Document(&'static str),
    #[error("the body is larger than {0} bytes")]
    DocumentTooLarge(usize),
    #[error("there is nothing here; the API starts at /v2/ and /v1/")]
    RouteUnknown,
    #[error(
        "images are read at /v1/images/ID/tree/PATH, …/blobs/PATH and …/tar/PATH; in an ID without a tag or digest, write the slashes of the name as %2F"
    )]
    ImageRouteUnknown,
    #[error("the request needs exactly one Host header")]
    Host,
    #[error(
        "this registry has no users, so it answers only to IP addresses, localhost and the names given with --host, not to {0:?}"
    )]
    HostUnknown(String),
    #[error(
        "a page of another site sent this request; --cors-origin names the sites that may use this registry"
    )]
    CrossSite,
    /// With the challenge that says how to log in.
    #[error("authentication required")]
    Unauthorized(HeaderValue),
    #[error("too many failed logins with this name or from this address: try again later")]
    Logins,
    #[error("this login may not {} repository {repository}", verb(*right))]
    Denied { repository: Repository, right: Right },
    #[error("this resource takes {0} only")]
    MethodNotAllowed(&'static str),
    #[error("this registry is read-only")]
    ReadOnly(&'static str),
    #[error("{0:?} is not the id of an upload")]
    UploadId(String),
    #[error("the query {0:?} is not UTF-8")]
    Query(String),
    #[error("n is {0:?}, want a number from 0 on")]
    PageSize(String),
    #[error("{name} is {value:?}, want {want}")]
    Parameter { name: &'static str, value: String, want: &'static str },
    #[error("{name}: {cause}")]
    ParameterInvalid { name: &'static str, cause: String },
    #[error("{0} is an artifact, which has no layers to compare")]
    Artifact(String),
    #[error("{name:?} is not a parameter of this question: {known} are")]
    ParameterUnknown { name: String, known: String },
    /// A page of a listing goes on after something outside of it.
    #[error("after is /{after}, which is not below /{directory}")]
    After { after: String, directory: String },
    #[error("the query lacks digest=: the upload ends with the digest of the whole blob")]
    DigestMissing,
    #[error("tag= goes with a push by digest only")]
    TagWithTag,
    #[error("one push sets at most {TAGS_MAX} tags")]
    TooManyTags,
    #[error("the manifest took too long to arrive")]
    BodyTimeout,
    #[error("this form is out of date, or another site made it: reload the page and send it again")]
    FormStale,
    /// Nobody reads this.
    #[error("the client is gone")]
    Gone,
    #[error("the server is busy: try again in a moment")]
    Overloaded,
    #[error("too many manifests are being pushed at this moment: try again")]
    Busy,
    #[error("the manifest is larger than {MANIFEST_MAX} bytes")]
    ManifestTooLarge,
    #[error("Content-Range is {0:?}, want FIRST-LAST with as many bytes as the body")]
    ContentRange(String),
    /// The client goes on from `offset`, not from where it said.
    #[error("the chunk does not start at byte {offset}, where the upload stands")]
    OutOfOrder { repository: Repository, id: Uuid, offset: u64 },
    #[error("the range lies outside the blob's {size} bytes")]
    Range { size: u64 },
    #[error("the request's body broke off: {0}")]
    BodyBroken(hyper::Error),
    /// A bug: a panic on a thread that made a body.
    #[error("the work on an answer's body ended before the body did")]
    BodyLost,
    /// A bug: a panic on a thread that worked for the request.
    #[error("the work on this request failed: {0}")]
    Panicked(tokio::task::JoinError),
}

fn verb(right: Right) -> &'static str {
    match right {
        Right::Pull => "pull from",
        Right::Push => "push to",
        Right::Delete => "delete from",
        Right::Catalog => "list",
    }
}

/// Distribution's code for what the specification has none for.
const UNKNOWN: &str = "UNKNOWN";

impl From<image::Error> for Error {
    fn from(error: image::Error) -> Error {
        Error::Registry(error.into())
    }
}

impl From<image::IdError> for Error {
    fn from(error: image::IdError) -> Error {
        image::Error::from(error).into()
    }
}

impl From<docker1::Error> for Error {
    fn from(error: docker1::Error) -> Error {
        Error::Registry(error.into())
    }
}

impl From<IndexError> for Error {
    fn from(error: IndexError) -> Error {
        Error::Registry(error.into())
    }
}

impl From<StorageError> for Error {
    fn from(error: StorageError) -> Error {
        Error::Registry(error.into())
    }
}

impl Error {
    /// The one place that knows status and code.
    pub fn status_and_code(&self) -> (StatusCode, &'static str) {
        use StatusCode as S;
        match self {
            Error::Registry(e) => registry_error(e),
            Error::Name(e) => match e {
                NameError::Repository(_) => (S::BAD_REQUEST, "NAME_INVALID"),
                NameError::Tag(_) => (S::BAD_REQUEST, "MANIFEST_INVALID"),
                NameError::Digest(_) => (S::BAD_REQUEST, "DIGEST_INVALID"),
            },
            Error::Digest(_) | Error::DigestMissing => (S::BAD_REQUEST, "DIGEST_INVALID"),
            Error::TagWithTag => (S::BAD_REQUEST, "MANIFEST_INVALID"),
            Error::RouteUnknown | Error::ImageRouteUnknown => (S::NOT_FOUND, "UNSUPPORTED"),
            Error::Host => (S::BAD_REQUEST, "UNSUPPORTED"),
            Error::HostUnknown(_) => (S::MISDIRECTED_REQUEST, "DENIED"),
            Error::CrossSite | Error::FormStale => (S::FORBIDDEN, "DENIED"),
            Error::MethodNotAllowed(_) | Error::ReadOnly(_) => {
                (S::METHOD_NOT_ALLOWED, "UNSUPPORTED")
            }
            Error::Document(_) => (S::BAD_REQUEST, "MANIFEST_INVALID"),
            Error::ChecksumMissing => (S::PRECONDITION_FAILED, "MANIFEST_INVALID"),
            Error::DocumentTooLarge(_) => (S::PAYLOAD_TOO_LARGE, "SIZE_INVALID"),
            Error::Unauthorized(_) => (S::UNAUTHORIZED, "UNAUTHORIZED"),
            Error::Denied { .. } => (S::FORBIDDEN, "DENIED"),
            Error::UploadId(_) => (S::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN"),
            Error::Query(_)
            | Error::PageSize(_)
            | Error::Parameter { .. }
            | Error::ParameterInvalid { .. }
            | Error::ParameterUnknown { .. }
            | Error::Artifact(_)
            | Error::Platform(_)
            | Error::After { .. } => (S::BAD_REQUEST, "UNSUPPORTED"),
            Error::TooManyTags => (S::URI_TOO_LONG, "UNSUPPORTED"),
            Error::BodyTimeout => (S::REQUEST_TIMEOUT, "MANIFEST_INVALID"),
            Error::Gone | Error::Overloaded => (S::SERVICE_UNAVAILABLE, "TOOMANYREQUESTS"),
            Error::Busy | Error::Logins => (S::TOO_MANY_REQUESTS, "TOOMANYREQUESTS"),
            Error::ManifestTooLarge => (S::PAYLOAD_TOO_LARGE, "SIZE_INVALID"),
            Error::ContentRange(_) => (S::BAD_REQUEST, "BLOB_UPLOAD_INVALID"),
            Error::OutOfOrder { .. } => (S::RANGE_NOT_SATISFIABLE, "BLOB_UPLOAD_INVALID"),
            Error::Range { .. } => (S::RANGE_NOT_SATISFIABLE, "SIZE_INVALID"),
            Error::BodyBroken(_) => (S::BAD_REQUEST, "SIZE_INVALID"),
            Error::BodyLost | Error::Panicked(_) => (S::INTERNAL_SERVER_ERROR, UNKNOWN),
        }
    }

    /// The message for the client. What concerns the operator alone (paths,
    /// system errors) goes to the log, under the request's id.
    pub fn message(&self, id: u64) -> String {
        match self {
            _ if self.status_and_code().0 == StatusCode::INSUFFICIENT_STORAGE => {
                "the registry's disk is full, nothing was stored: tell its operator".to_owned()
            }
            _ if self.status_and_code().0 == StatusCode::INTERNAL_SERVER_ERROR => {
                format!("internal error: the server's log says more under request id {id:016x}")
            }
            _ => self.to_string(),
        }
    }

    fn document(&self, id: u64, code: &str, format: ErrorFormat) -> Value {
        let candidates = match self {
            Error::Registry(registry::Error::Image(image::Error::Ambiguous {
                candidates, ..
            })) => Some(candidates.iter().map(candidate).collect::<Value>()),
            _ => None,
        };
        match (format, self) {
            (ErrorFormat::V1, _) => {
                let mut document = json!({"error": self.message(id)});
                if let Some(candidates) = candidates {
                    document["candidates"] = candidates;
                }
                document
            }
            (
                ErrorFormat::Oci,
                Error::Registry(registry::Error::Storage(StorageError::ManifestBlobUnknown {
                    repository,
                    missing,
                })),
            ) => json!({"errors": missing_blobs(code, repository, missing)}),
            (ErrorFormat::Oci | ErrorFormat::Page, _) => {
                let mut error = json!({"code": code, "message": self.message(id)});
                if let Some(candidates) = candidates {
                    error["detail"] = json!({"candidates": candidates});
                }
                json!({"errors": [error]})
            }
        }
    }

    /// Makes the answer, and logs what the operator should know.
    pub fn response(&self, id: u64, format: ErrorFormat) -> Response<Body> {
        let (status, code) = self.status_and_code();
        // A client that is gone, and one that has to wait, are no faults of the server.
        if status.is_server_error() && !matches!(self, Error::Gone | Error::Overloaded) {
            tracing::error!(id = format_args!("{id:016x}"), error = %self, "request failed");
        } else {
            tracing::debug!(id = format_args!("{id:016x}"), error = %self, "request refused");
        }
        let mut response = Response::new(Body::from(self.document(id, code, format).to_string()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        match self {
            Error::MethodNotAllowed(methods) | Error::ReadOnly(methods) => {
                headers.insert(ALLOW, HeaderValue::from_static(methods));
            }
            Error::Unauthorized(challenge) => {
                headers.insert(WWW_AUTHENTICATE, challenge.clone());
            }
            Error::OutOfOrder { repository, id, offset } => {
                headers.insert(LOCATION, super::respond::upload_location(repository, *id));
                headers.insert(RANGE, super::respond::upload_range(*offset));
            }
            Error::Range { size } => {
                headers.insert(CONTENT_RANGE, super::respond::header(format!("bytes */{size}")));
            }
            _ if matches!(
                status,
                StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS
            ) =>
            {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response
    }
}

fn registry_error(error: &registry::Error) -> (StatusCode, &'static str) {
    use StatusCode as S;
    match error {
        registry::Error::Storage(e) => storage_error(e),
        registry::Error::Index(e) => index_error(e),
        registry::Error::Image(e) => image_error(e),
        registry::Error::Manifest(_)
        | registry::Error::Docker1(_)
        | registry::Error::ParentUnknown(_) => (S::BAD_REQUEST, "MANIFEST_INVALID"),
        registry::Error::Nameless => (S::FORBIDDEN, "DENIED"),
    }
}

fn storage_error(error: &StorageError) -> (StatusCode, &'static str) {
    use StatusCode as S;
    match error {
        StorageError::RepositoryUnknown(_) => (S::NOT_FOUND, "NAME_UNKNOWN"),
        StorageError::BlobUnknown { .. } => (S::NOT_FOUND, "BLOB_UNKNOWN"),
        StorageError::ManifestUnknown { .. } => (S::NOT_FOUND, "MANIFEST_UNKNOWN"),
        StorageError::ManifestBlobUnknown { .. } => (S::NOT_FOUND, "MANIFEST_BLOB_UNKNOWN"),
        StorageError::UploadUnknown { .. } => (S::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN"),
        StorageError::TooManyUploads { .. } => (S::TOO_MANY_REQUESTS, "TOOMANYREQUESTS"),
        StorageError::TagImmutable { .. } => (S::CONFLICT, "TAG_IMMUTABLE"),
        StorageError::UploadBusy { .. } => (S::CONFLICT, "BLOB_UPLOAD_INVALID"),
        StorageError::ImageUnknown(_) => (S::NOT_FOUND, "MANIFEST_UNKNOWN"),
        StorageError::ImageExists(_)
        | StorageError::ChecksumUnexpected(_)
        | StorageError::ImageChanged(_) => (S::CONFLICT, "MANIFEST_INVALID"),
        StorageError::ChecksumMismatch { .. } => (S::BAD_REQUEST, "MANIFEST_INVALID"),
        StorageError::DigestMismatch { .. } => (S::BAD_REQUEST, "DIGEST_INVALID"),
        StorageError::DiskFull { .. } => (S::INSUFFICIENT_STORAGE, UNKNOWN),
        StorageError::Io { .. } | StorageError::Damaged { .. } | StorageError::Locked { .. } => {
            (S::INTERNAL_SERVER_ERROR, UNKNOWN)
        }
    }
}

fn index_error(error: &IndexError) -> (StatusCode, &'static str) {
    use StatusCode as S;
    match error {
        IndexError::CatalogIncomplete(_) | IndexError::Indexing(_) => {
            (S::SERVICE_UNAVAILABLE, UNKNOWN)
        }
        IndexError::DiskFull { .. } => (S::INSUFFICIENT_STORAGE, UNKNOWN),
        IndexError::Refused { .. } => (S::UNPROCESSABLE_ENTITY, "UNSUPPORTED"),
        IndexError::Storage(e) => storage_error(e),
        IndexError::Missing(_) => (S::NOT_FOUND, "BLOB_UNKNOWN"),
        IndexError::Job(error) => index_error(error),
        IndexError::Db { .. }
        | IndexError::Descriptors { .. }
        | IndexError::Record { .. }
        | IndexError::Damaged { .. }
        | IndexError::Panicked(_)
        | IndexError::Server(..)
        | IndexError::Replaced(_)
        | IndexError::Format(_) => (S::INTERNAL_SERVER_ERROR, UNKNOWN),
    }
}

fn image_error(error: &image::Error) -> (StatusCode, &'static str) {
    use StatusCode as S;
    match error {
        image::Error::Id(_) => (S::BAD_REQUEST, "MANIFEST_INVALID"),
        image::Error::ConfigMismatch(_) => (S::CONFLICT, "MANIFEST_INVALID"),
        image::Error::Unknown(_) | image::Error::NoPlatform { .. } => {
            (S::NOT_FOUND, "MANIFEST_UNKNOWN")
        }
        image::Error::NotALayer { .. } => (S::NOT_FOUND, "BLOB_UNKNOWN"),
        image::Error::Ambiguous { .. } => (S::CONFLICT, "MANIFEST_INVALID"),
        image::Error::AmbiguousLayer { .. } => (S::CONFLICT, "DIGEST_INVALID"),
        // What was pushed is at fault, and stays so.
        image::Error::Nesting { .. }
        | image::Error::TooManyLayers { .. }
        | image::Error::TooManyLinks { .. }
        | image::Error::LongLinks { .. }
        | image::Error::LinkedFiles { .. }
        | image::Error::Manifest { .. }
        | image::Error::ForeignLayer { .. } => (S::UNPROCESSABLE_ENTITY, "UNSUPPORTED"),
        // A link that leads round in circles leads to nothing.
        image::Error::NotFound(_) | image::Error::NotADirectory(_) | image::Error::Loop(_) => {
            (S::NOT_FOUND, "FILE_UNKNOWN")
        }
        image::Error::NameTooLong(_)
        | image::Error::IsDirectory(_)
        | image::Error::NotAFile(_)
        | image::Error::LowerTarget { .. }
        | image::Error::NotALink(_) => (S::BAD_REQUEST, "FILE_INVALID"),
        image::Error::Layer { cause, .. }
        | image::Error::Read { cause, .. }
        | image::Error::Index(cause) => index_error(cause),
        image::Error::Storage(e) => storage_error(e),
        image::Error::LongLine { .. } => (S::UNPROCESSABLE_ENTITY, "UNSUPPORTED"),
        image::Error::Write(_) | image::Error::Thread(_) => (S::INTERNAL_SERVER_ERROR, UNKNOWN),
    }
}

/// How an API writes its errors.
#[derive(Clone, Copy, Debug)]
pub enum ErrorFormat {
    /// `{"errors": [{"code", "message"}]}`
    Oci,
    /// `{"error": "…"}`
    V1,
    /// A page; `web` makes it.
    Page,
}

impl ErrorFormat {
    pub fn of(path: &str) -> ErrorFormat {
        if path == "/" || path == "/v1" || path.starts_with("/v1/") {
            ErrorFormat::V1
        } else if path == "/ui" || path.starts_with("/ui/") {
            ErrorFormat::Page
        } else {
            ErrorFormat::Oci
        }
    }
}

/// What an ambiguous id may mean: an id that is not, and where it leads.
fn candidate(candidate: &image::Candidate) -> Value {
    json!({
        "id": candidate.id,
        "repository": candidate.repository.as_str(),
        "manifest": candidate.manifest.to_string(),
    })
}

/// An error for each missing blob. A manifest may name 50,000 of them, and the
/// client may be slow to read of them, so only the first have their own.
fn missing_blobs(code: &str, repository: &Repository, missing: &[Digest]) -> Vec<Value> {
    const LISTED: usize = 100;
    let listed = missing.iter().take(LISTED).map(|digest| {
        let message = format!("{digest} is not in repository {repository}: push it first");
        json!({"code": code, "message": message, "detail": {"digest": digest.to_string()}})
    });
    let more = missing.len().saturating_sub(LISTED);
    let rest = (more > 0).then(|| json!({"code": code, "message": format!("and {more} more")}));
    listed.chain(rest).collect()
}
