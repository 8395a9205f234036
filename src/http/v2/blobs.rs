//! `/v2/NAME/blobs/DIGEST`

use std::sync::Arc;

use hyper::{Method, Response, StatusCode};

use super::{DOCKER_CONTENT_DIGEST, header};
use crate::events::{Event, Kind};
use crate::http::body::Body;
use crate::http::error::{Error, Result};
use crate::http::permits::Scarce;
use crate::http::{App, RequestContext, blocking};
use crate::http::{content, respond};
use crate::oci::{Digest, Repository};

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
        return Ok(respond::status(StatusCode::ACCEPTED));
    }

    // What is there when it is opened counts, so a GET asks the file itself.
    let (size, opened) = match context.method {
        Method::GET => {
            let permit = app.pools.of(Scarce::Blobs).permit().await?;
            let blob = blocking(move || storage.open_blob(&repository, &digest)).await?;
            (blob.size, Some((blob, permit)))
        }
        _ => match storage.cached_blob_size(&repository, &digest) {
            Some(size) => (size, None),
            None => (blocking(move || storage.blob_size(&repository, &digest)).await?, None),
        },
    };
    let mut response = content::blob(context, &digest, size, opened).await?;
    let headers = response.headers_mut();
    headers.insert(DOCKER_CONTENT_DIGEST, header(digest.to_string()));
    Ok(response)
}
