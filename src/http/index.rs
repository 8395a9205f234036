//! `/v2/NAME/_index/DIGEST`: has a layer indexed, and tells how far that is, as a stream of lines.

use std::sync::Arc;
use std::time::Duration;

use hyper::Response;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use serde_json::{Value, json};

use super::body::Body;
use super::error::{Error, Result};
use super::files::{flag, look};
use super::permits::Scarce;
use super::{App, RequestContext};
use crate::auth::Right;
use crate::oci::{Digest, Repository};
use crate::registry::maintenance::reindex::{Begun, Outcome, Work, begin};
use crate::registry::{self, IndexError, StorageError};

/// How often the progress is told, which is also when it is noticed that the client is gone.
const TOLD_EVERY: Duration = Duration::from_millis(200);

pub async fn index(
    app: &Arc<App>,
    context: &RequestContext,
    repository: Repository,
    digest: Digest,
) -> Result<Response<Body>> {
    let force = flag(context, "force")?;
    // It takes as much as a push to index a layer again.
    if force && !app.access.may(&context.proof.identity, &repository, Right::Push) {
        return Err(Error::Denied { repository, right: Right::Push });
    }
    let permit = app.pools.of(Scarce::Questions).permit().await?;
    let registry = Arc::clone(&app.registry);
    let begun = look(app, move || {
        // What another repository holds is missing here.
        match registry.tell_blob_size(&repository, &digest) {
            Err(registry::Error::Storage(StorageError::BlobUnknown { .. })) => {
                return Err(IndexError::Missing(Box::new(digest)).into());
            }
            size => size?,
        };
        Ok(begin(registry.images(), &digest, force)?)
    })
    .await?;
    let (first, work) = match begun {
        Begun::Done(outcome) => (line(&told(outcome)), None),
        Begun::Working(work) => (Vec::new(), Some(work)),
    };
    let (mut work, id) = (work, context.id);
    let produce = move || {
        let Some(going_on) = work.take() else { return Ok(None) };
        let (piece, rest) = piece(going_on, id);
        work = rest;
        Ok(Some(piece))
    };
    let mut response = Response::new(Body::Empty);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    *response.body_mut() = Body::stream(first, Box::new(produce), None, Arc::new(permit));
    Ok(response)
}

/// The next line, and the work if it goes on.
fn piece(work: Work, id: u64) -> (Vec<u8>, Option<Work>) {
    match work.wait_for(TOLD_EVERY) {
        None => (line(&json!({"progress": {"done": work.progress()}})), Some(work)),
        Some(Ok(outcome)) => (line(&told(outcome)), None),
        Some(Err(error)) => (line(&json!({"error": Error::from(error).message(id)})), None),
    }
}

fn told(outcome: Outcome) -> Value {
    match outcome {
        Outcome::Indexed { entries, size, diff_id } => {
            json!({"entries": entries, "size": size, "diff_id": diff_id.to_string()})
        }
        Outcome::Refused(reason) => json!({"refused": reason}),
    }
}

fn line(json: &Value) -> Vec<u8> {
    format!("{json}\n").into_bytes()
}
