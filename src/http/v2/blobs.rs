//! `/v2/NAME/blobs/DIGEST`

use std::sync::Arc;

use hyper::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderValue,
};
use hyper::{Method, Response, StatusCode};
use tokio::sync::OwnedSemaphorePermit;

use super::{DOCKER_CONTENT_DIGEST, header};
use crate::events::{Event, Kind};
use crate::http::body::Body;
use crate::http::error::{Error, Result};
use crate::http::range::{self, Wanted};
use crate::http::{App, RequestContext, blocking};
use crate::oci::{Digest, Repository};
use crate::storage::Blob;

/// Bytes that are read rather than mapped: for less, copying is cheaper.
const SMALL: u64 = 64 << 10;

pub async fn blob(
    app: &Arc<App>,
    context: &RequestContext,
    repository: Repository,
    digest: Digest,
) -> Result<Response<Body>> {
    let storage = Arc::clone(&app.storage);
    if context.method == Method::DELETE {
        let (events, cause) = (Arc::clone(&app.events), context.cause());
        blocking(move || {
            storage.delete_blob(&repository, &digest)?;
            let event = Event::new(Kind::Delete, digest.hex(), &cause);
            events.publish(event.repository(&repository).digest(&digest));
            Ok::<_, Error>(())
        })
        .await?;
        let mut response = Response::new(Body::Empty);
        *response.status_mut() = StatusCode::ACCEPTED;
        return Ok(response);
    }

    // What is there when it is opened counts, so a GET asks the file itself.
    let (size, opened) = match context.method {
        Method::GET => {
            let permit = Arc::clone(&app.blob_responses).acquire_owned().await;
            let permit = permit.expect("the semaphore is never closed");
            let blob = blocking(move || storage.open_blob(&repository, &digest)).await?;
            (blob.size, Some((blob, permit)))
        }
        _ => match storage.cached_blob_size(&repository, &digest) {
            Some(size) => (size, None),
            None => (blocking(move || storage.blob_size(&repository, &digest)).await?, None),
        },
    };
    let mut response = content(context, &digest, size, opened).await?;
    let headers = response.headers_mut();
    headers.insert(DOCKER_CONTENT_DIGEST, header(digest.to_string()));
    Ok(response)
}

/// Answers with content that never changes, or with what of it is asked for.
/// `opened`: nothing for HEAD.
pub async fn content(
    context: &RequestContext,
    digest: &Digest,
    size: u64,
    opened: Option<(Blob, OwnedSemaphorePermit)>,
) -> Result<Response<Body>> {
    let etag = format!("\"{digest}\"");
    let mut response = Response::new(Body::Empty);
    let headers = response.headers_mut();
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, max-age=31536000, immutable"));

    let wanted = match context.method {
        // Range means something for GET alone (RFC 9110, 14.2).
        Method::HEAD if !range::not_modified(&context.headers, &etag) => Wanted::All,
        _ => range::wanted(&context.headers, &etag, size),
    };
    let range = match wanted {
        Wanted::All => 0..size,
        Wanted::Part(part) => {
            headers.insert(
                CONTENT_RANGE,
                header(format!("bytes {}-{}/{size}", part.start, part.end - 1)),
            );
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            part
        }
        Wanted::NotModified => {
            headers.insert(ETAG, header(etag));
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return Ok(response);
        }
        Wanted::Unsatisfiable => return Err(Error::Range { size }),
    };
    let headers = response.headers_mut();
    headers.insert(ETAG, header(etag));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(CONTENT_LENGTH, (range.end - range.start).into());
    if let Some((blob, permit)) = opened {
        *response.body_mut() = if range.end - range.start > SMALL {
            Body::blob(blob, range, permit)
        } else {
            blocking(move || blob.read(range)).await?.into()
        };
    }
    Ok(response)
}
