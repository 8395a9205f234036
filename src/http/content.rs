//! Answers with content that has a size: blobs, layers of the first API and files of images. The
//! entity tag, `Range` and the conditional headers work in one way for all of them.

use hyper::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap,
    HeaderValue,
};
use hyper::{Method, Response, StatusCode};

use super::body::{Body, Parts, SMALL, gather};
use super::error::{Error, Result};
use super::permits::Permit;
use super::range::{self, Wanted};
use super::respond::{header, status};
use super::{RequestContext, blocking};
use crate::oci::Digest;
use crate::registry::Blob;

/// The head of an answer with `size` bytes of content, and the ranges of them that go out; `None`:
/// the answer has no body. `etag` is without quotes. `lasting`: the address never means anything
/// else.
pub fn content(
    request: &HeaderMap,
    head: bool,
    etag: Option<String>,
    size: u64,
    lasting: bool,
) -> Result<(Response<Body>, Option<Parts>)> {
    let etag = etag.map(|etag| format!("\"{etag}\""));
    // Without a tag no condition can hold: no tag is empty.
    let tag = etag.as_deref().unwrap_or_default();
    let wanted = match head {
        // Range means something for GET alone (RFC 9110, 14.2).
        true if !range::not_modified(request, tag) => Wanted::All,
        _ => range::wanted(request, tag, size),
    };
    let mut response = status(StatusCode::OK);
    let mut content_type = HeaderValue::from_static("application/octet-stream");
    let parts = match wanted {
        Wanted::All => Some(Parts::one(0..size)),
        Wanted::Parts(ranges) => {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            Some(match <[_; 1]>::try_from(ranges) {
                Ok([range]) => {
                    let value = format!("bytes {}-{}/{size}", range.start, range.end - 1);
                    response.headers_mut().insert(CONTENT_RANGE, header(value));
                    Parts::one(range)
                }
                Err(ranges) => {
                    let parts = Parts::several(ranges, size);
                    let boundary = parts.boundary().unwrap_or_default();
                    content_type = header(format!("multipart/byteranges; boundary={boundary}"));
                    parts
                }
            })
        }
        Wanted::NotModified => {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            None
        }
        Wanted::Unsatisfiable => return Err(Error::Range { size }),
    };
    let headers = response.headers_mut();
    if let Some(parts) = &parts {
        headers.insert(CONTENT_TYPE, content_type);
        headers.insert(CONTENT_LENGTH, parts.length().into());
    }
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(
        CACHE_CONTROL,
        HeaderValue::from_static(if lasting {
            "private, max-age=31536000, immutable"
        } else {
            "no-cache"
        }),
    );
    if let Some(etag) = etag {
        headers.insert(ETAG, header(etag));
    }
    Ok((response, parts.filter(|_| !head)))
}

/// Answers with a blob, or with what of it is asked for. `opened`: nothing for HEAD.
pub async fn blob(
    context: &RequestContext,
    digest: &Digest,
    size: u64,
    opened: Option<(Blob, Permit)>,
) -> Result<Response<Body>> {
    let head = context.method == Method::HEAD;
    let etag = Some(digest.to_string());
    let (mut response, parts) = content(&context.headers, head, etag, size, true)?;
    if let (Some((blob, permit)), Some(mut parts)) = (opened, parts) {
        *response.body_mut() = if parts.length() > SMALL {
            Body::blob(blob, parts, permit)
        } else {
            let whole = std::iter::from_fn(move || parts.next(|_| u64::MAX));
            blocking(move || gather(&blob, &whole.collect::<Vec<_>>())).await?.into()
        };
    }
    Ok(response)
}
