//! `/v2/NAME/blobs/DIGEST`

use std::sync::Arc;

use hyper::{Method, Response, StatusCode};

use super::{DOCKER_CONTENT_DIGEST, header};
use crate::http::body::Body;
use crate::http::error::Result;
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
    let registry = Arc::clone(&app.registry);
    if context.method == Method::DELETE {
        let caller = context.caller(app);
        blocking(move || registry.delete_blob(&caller, &repository, &digest)).await?;
        return Ok(respond::status(StatusCode::ACCEPTED));
    }

    // What is there when the blob is opened counts, so a GET asks the file itself.
    let (size, opened) = match context.method {
        Method::GET => {
            let permit = app.pools.of(Scarce::Blobs).permit().await?;
            let blob = blocking(move || registry.blob(&repository, &digest)).await?;
            (blob.size, Some((blob, permit)))
        }
        _ => match registry.told_blob_size(&repository, &digest) {
            Some(size) => (size, None),
            None => (blocking(move || registry.tell_blob_size(&repository, &digest)).await?, None),
        },
    };
    let mut response = content::blob(context, &digest, size, opened).await?;
    let headers = response.headers_mut();
    headers.insert(DOCKER_CONTENT_DIGEST, header(digest.to_string()));
    Ok(response)
}
