//! `/v2/NAME/blobs/uploads/`: pushing blobs, whole or in chunks, and mounting them from another
//! repository.

use std::sync::Arc;

use bytes::Bytes;
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderValue, LOCATION, RANGE};
use hyper::{Method, Response, StatusCode};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::{
    DOCKER_CONTENT_DIGEST, DOCKER_UPLOAD_UUID, blob_location, header, upload_location, upload_range,
};
use crate::http::body::Body;
use crate::http::error::{Error, Result};
use crate::http::request::RequestBody;
use crate::http::respond::status;
use crate::http::{App, RequestContext, blocking};
use crate::metrics;
use crate::oci::{Algorithm, Digest, Repository};
use crate::registry::{self, LayerUpload, Registry, UploadWriter};

/// Bytes of one upload that may wait in memory while others are written.
const BATCH: usize = 1 << 20;

/// `POST`: mounts a blob, takes a whole one, or starts an upload.
pub async fn start(
    app: &Arc<App>,
    context: &mut RequestContext,
    repository: Repository,
) -> Result<Response<Body>> {
    // What cannot be mounted is uploaded instead, also where a name or digest cannot exist
    // (distribution-spec, "Mounting a blob from another repository"). Nothing is mounted from a
    // repository that the client did not name and may not read.
    let mount = context.parameter("mount").and_then(|mount| mount.parse::<Digest>().ok());
    let from = context.parameter("from").and_then(|from| from.parse::<Repository>().ok());
    if let (Some(digest), Some(from)) = (mount, from) {
        let (registry, to) = (Arc::clone(&app.registry), repository.clone());
        let caller = context.caller(app);
        if blocking(move || registry.mount_blob(&caller, &to, &digest, &from)).await? {
            return Ok(created(&repository, &digest));
        }
    }
    let digest: Option<Digest> = context.parameter("digest").map(str::parse).transpose()?;
    let algorithm = match (&digest, context.parameter("digest-algorithm")) {
        (Some(digest), _) => digest.algorithm(),
        (None, Some(name)) => name.parse::<Algorithm>()?,
        (None, None) => Algorithm::Sha256,
    };
    let id = app.registry.start_upload(&context.caller(app), &repository, algorithm);
    let Some(digest) = digest else {
        return Ok(progress(StatusCode::ACCEPTED, &repository, id, 0));
    };
    let nameless =
        Nameless { registry: Some(Arc::clone(&app.registry)), repository: repository.clone(), id };
    let writer = write(app, &repository, id).await?;
    let writer = receive(app, writer, &mut context.body).await?;
    // Finishing it leaves nothing of the upload, whatever comes of it.
    nameless.keep();
    finish(app, writer, digest).await?;
    Ok(created(&repository, &digest))
}

async fn finish(app: &App, writer: UploadWriter, digest: Digest) -> Result<()> {
    let registry = Arc::clone(&app.registry);
    blocking(move || registry.finish_upload(writer, &digest)).await
}

/// An upload in one request, whose client gets no address to go on with. It is cancelled when the
/// request ends, also when that is cut off and never answered.
struct Nameless {
    /// `None`: the upload is kept.
    registry: Option<Arc<Registry>>,
    repository: Repository,
    id: Uuid,
}

impl Nameless {
    fn keep(mut self) {
        self.registry = None;
    }
}

impl Drop for Nameless {
    fn drop(&mut self) {
        let Some(registry) = self.registry.take() else {
            return;
        };
        let (repository, id) = (self.repository.clone(), self.id);
        // Without a runtime the server is stopping; purging finds the upload.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            // A failed write has removed it already.
            runtime.spawn_blocking(move || drop(registry.cancel_upload(&repository, id)));
        }
    }
}

/// Everything else happens at the upload's own address.
pub async fn upload(
    app: &Arc<App>,
    context: &mut RequestContext,
    repository: Repository,
    id: Uuid,
) -> Result<Response<Body>> {
    let (registry, name) = (Arc::clone(&app.registry), repository.clone());
    match context.method {
        Method::PATCH => {
            let writer = write(app, &repository, id).await?;
            check_range(context, &repository, id, &writer)?;
            let writer = receive(app, writer, &mut context.body).await?;
            writer.check()?;
            Ok(progress(StatusCode::ACCEPTED, &repository, id, writer.offset()))
        }
        Method::PUT => {
            let digest: Digest =
                context.parameter("digest").ok_or(Error::DigestMissing)?.parse()?;
            let writer = write(app, &repository, id).await?;
            check_range(context, &repository, id, &writer)?;
            let writer = receive(app, writer, &mut context.body).await?;
            finish(app, writer, digest).await?;
            Ok(created(&repository, &digest))
        }
        Method::DELETE => {
            blocking(move || registry.cancel_upload(&name, id)).await?;
            Ok(status(StatusCode::NO_CONTENT))
        }
        // GET and HEAD; the router lets nothing else through.
        _ => {
            let offset = blocking(move || registry.upload_offset(&name, id)).await?;
            Ok(progress(StatusCode::NO_CONTENT, &repository, id, offset))
        }
    }
}

async fn write(app: &Arc<App>, repository: &Repository, id: Uuid) -> Result<UploadWriter> {
    let (registry, repository) = (Arc::clone(&app.registry), repository.clone());
    blocking(move || registry.write_upload(&repository, id)).await
}

/// Checks where a chunk belongs. A streamed body does not say so, and is appended.
fn check_range(
    context: &RequestContext,
    repository: &Repository,
    id: Uuid,
    writer: &UploadWriter,
) -> Result<()> {
    let Some(value) = context.headers.get(CONTENT_RANGE) else {
        return Ok(());
    };
    let refused = || Error::ContentRange(crate::log::escape(value.as_bytes()));
    let text = value.to_str().map_err(|_| refused())?;
    let number =
        |s: &str| -> Option<u64> { s.bytes().all(|b| b.is_ascii_digit()).then(|| s.parse().ok())? };
    // Some clients write it in the form that HTTP defines.
    let text = text.strip_prefix("bytes ").unwrap_or(text);
    let text = text.split_once('/').map_or(text, |(range, _)| range);
    let (first, last) = text
        .split_once('-')
        .and_then(|(a, b)| Some((number(a)?, number(b)?)))
        .ok_or_else(refused)?;
    let offset = writer.offset();
    if first != offset {
        return Err(Error::OutOfOrder { repository: repository.clone(), id, offset });
    }
    let length = context.headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(number);
    match (last.checked_sub(first).and_then(|n| n.checked_add(1)), length) {
        (None, _) => Err(refused()),
        (Some(said), Some(length)) if said != length => Err(refused()),
        _ => Ok(()),
    }
}

/// Where a body goes, piece by piece, on a blocking thread.
pub trait Sink: Sized + Send + 'static {
    fn append(self, pieces: &[Bytes]) -> registry::Result<Self>;
}

impl Sink for UploadWriter {
    fn append(self, pieces: &[Bytes]) -> registry::Result<UploadWriter> {
        Ok(UploadWriter::append(self, pieces)?)
    }
}

impl Sink for LayerUpload {
    fn append(self, pieces: &[Bytes]) -> registry::Result<LayerUpload> {
        Ok(LayerUpload::append(self, pieces)?)
    }
}

/// Writes a body to its sink. While one batch is hashed and written, the next one is gathered; no
/// thread waits for a slow client.
pub async fn receive<W: Sink>(app: &App, writer: W, body: &mut RequestBody) -> Result<W> {
    let mut idle = Some(writer);
    let mut writing: Option<JoinHandle<registry::Result<W>>> = None;
    let mut batch = Batch::default();
    // A piece that waits for room among the uploads' buffers.
    let mut arrived: Option<Bytes> = None;
    let mut end: Option<Result<()>> = None;
    loop {
        if !batch.pieces.is_empty()
            && let Some(writer) = idle.take()
        {
            let batch = std::mem::take(&mut batch);
            writing = Some(tokio::task::spawn_blocking(move || writer.append(&batch.pieces)));
        }
        tokio::select! {
            written = async { writing.as_mut().expect("guarded").await }, if writing.is_some() => {
                writing = None;
                idle = Some(written.map_err(Error::Panicked)??);
            }
            piece = body.next(), if end.is_none() && arrived.is_none() && batch.size < BATCH => match piece {
                Ok(Some(piece)) => arrived = Some(piece),
                Ok(None) => end = Some(Ok(())),
                Err(e) => end = Some(Err(e)),
            },
            permit = room(app, arrived.as_ref()), if arrived.is_some() => {
                let piece = arrived.take().expect("guarded");
                metrics::uploaded(piece.len());
                batch.add(piece, permit);
            }
            else => break,
        }
    }
    // The end is reported only after all that came is written, so that the client can continue from
    // there.
    end.expect("the loop ends after the body")?;
    Ok(idle.expect("the loop ends when nothing is being written"))
}

/// The pieces that are written in one go, and the room that they take in memory.
#[derive(Default)]
struct Batch {
    pieces: Vec<Bytes>,
    size: usize,
    room: Option<OwnedSemaphorePermit>,
}

impl Batch {
    fn add(&mut self, piece: Bytes, room: OwnedSemaphorePermit) {
        self.size += piece.len();
        self.pieces.push(piece);
        match &mut self.room {
            Some(held) => held.merge(room),
            None => self.room = Some(room),
        }
    }
}

async fn room(app: &App, piece: Option<&Bytes>) -> OwnedSemaphorePermit {
    let size = piece.map_or(0, Bytes::len);
    let size = u32::try_from(size).expect("hyper's frames are no larger than its buffer");
    Arc::clone(&app.upload_buffers)
        .acquire_many_owned(size)
        .await
        .expect("the semaphore is never closed")
}

fn created(repository: &Repository, digest: &Digest) -> Response<Body> {
    let mut response = status(StatusCode::CREATED);
    let headers = response.headers_mut();
    headers.insert(LOCATION, blob_location(repository, digest));
    headers.insert(DOCKER_CONTENT_DIGEST, header(digest.to_string()));
    headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    response
}

fn progress(code: StatusCode, repository: &Repository, id: Uuid, offset: u64) -> Response<Body> {
    let mut response = status(code);
    let headers = response.headers_mut();
    headers.insert(LOCATION, upload_location(repository, id));
    headers.insert(RANGE, upload_range(offset));
    headers.insert(DOCKER_UPLOAD_UUID, header(id.to_string()));
    response
}
