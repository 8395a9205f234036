//! `/v2/NAME/manifests/REFERENCE`

use std::sync::Arc;

use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderValue, LOCATION};
use hyper::{Method, Response, StatusCode};

use super::{DOCKER_CONTENT_DIGEST, OCI_SUBJECT, OCI_TAG, header};
use crate::docker1::ImageId;
use crate::events::{Cause, Event, Events, Kind, Pushed};
use crate::http::body::Body;
use crate::http::error::{Error, Result};
use crate::http::limits::{BODY_TIME, TAGS_MAX};
use crate::http::permits::Scarce;
use crate::http::{App, RequestContext, blocking, range};
use crate::index::ids::Ids;
use crate::index::{self, Index};
use crate::oci::manifest::MANIFEST_MAX;
use crate::oci::{Algorithm, Contents, Digest, Manifest, Reference, Repository, Tag};
use crate::storage::{self, Storage, StoredManifest};

pub async fn manifest(
    app: &Arc<App>,
    context: &mut RequestContext,
    repository: Repository,
    reference: Reference,
) -> Result<Response<Body>> {
    match context.method {
        Method::PUT => put(app, context, repository, reference).await,
        Method::DELETE => {
            let (storage, index) = (Arc::clone(&app.storage), Arc::clone(&app.index));
            let (events, cause) = (Arc::clone(&app.events), context.cause());
            blocking(move || match &reference {
                Reference::Tag(tag) => {
                    let digest = storage.delete_tag(&repository, tag)?;
                    let about = About::read(&storage, &repository, digest);
                    let event = about.event(Kind::Untag, &cause);
                    events.publish(event.tag(tag));
                    Ok(())
                }
                Reference::Digest(digest) => {
                    delete_manifest(&storage, &index, &events, &cause, &repository, digest)
                }
            })
            .await?;
            let mut response = Response::new(Body::Empty);
            *response.status_mut() = StatusCode::ACCEPTED;
            Ok(response)
        }
        // GET and HEAD; the router lets nothing else through.
        _ => {
            let storage = Arc::clone(&app.storage);
            let stored = match storage.cached_manifest(&repository, &reference) {
                Some(stored) => stored,
                None => {
                    // Paid for before it is read: its size is not known.
                    context.pay_ahead(app, MANIFEST_MAX).await?;
                    blocking(move || storage.manifest(&repository, &reference)).await?
                }
            };
            Ok(found(context, &stored))
        }
    }
}

fn found(context: &RequestContext, stored: &StoredManifest) -> Response<Body> {
    let digest = stored.digest.to_string();
    let etag = format!("\"{digest}\"");
    let mut response = Response::new(Body::Empty);
    let headers = response.headers_mut();
    if range::not_modified(&context.headers, &etag) {
        headers.insert(ETAG, header(etag));
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return response;
    }
    headers.insert(ETAG, header(etag));
    headers.insert(DOCKER_CONTENT_DIGEST, header(digest));
    headers.insert(CONTENT_LENGTH, stored.bytes.len().into());
    headers.insert(CONTENT_TYPE, header(stored.media_type.clone()));
    *response.body_mut() = Body::from(stored.bytes.clone());
    response
}

/// A manifest that events are about.
struct About<'a> {
    repository: &'a Repository,
    digest: Digest,
    /// `None`: it cannot be read.
    contents: Option<Contents>,
}

impl About<'_> {
    fn read<'a>(storage: &Storage, repository: &'a Repository, digest: Digest) -> About<'a> {
        let stored = storage.manifest(repository, &Reference::Digest(digest));
        let contents = stored.ok().and_then(|stored| Contents::parse(&stored.bytes).ok());
        About { repository, digest, contents }
    }

    fn config(&self) -> Option<&Digest> {
        self.contents.as_ref().and_then(Contents::config)
    }

    fn event(&self, kind: Kind, cause: &Arc<Cause>) -> Event {
        let id = self.config().unwrap_or(&self.digest).hex();
        let event = Event::new(kind, id, cause);
        event.repository(self.repository).digest(&self.digest)
    }
}

fn delete_manifest(
    storage: &Storage,
    index: &Index,
    events: &Events,
    cause: &Arc<Cause>,
    repository: &Repository,
    digest: &Digest,
) -> storage::Result<()> {
    // Before it is gone. One that cannot be read may be deleted.
    let about = About::read(storage, repository, *digest);
    let contents = about.contents.as_ref();
    let ids = contents.map(|contents| index::ids(storage, repository, digest, contents));
    let tags = storage.delete_manifest(repository, digest)?;
    // It is deleted all the same: whoever finds such a row asks the store.
    if let Some(ids) = ids
        && let Err(error) = forget_ids(storage, index, repository, digest, &ids)
    {
        tracing::warn!(%repository, %digest, %error, "cannot remove the ids of a deleted image");
    }
    for tag in &tags {
        events.publish(about.event(Kind::Untag, cause).tag(tag));
    }
    events.publish(about.event(Kind::Delete, cause));
    Ok(())
}

fn forget_ids(
    storage: &Storage,
    index: &Index,
    repository: &Repository,
    digest: &Digest,
    ids: &Ids,
) -> index::Result<()> {
    index.remove_images(repository, digest, ids)?;
    match storage.manifest(repository, &Reference::Digest(*digest)) {
        // Pushed again meanwhile, maybe before the rows went.
        Ok(_) => index.add_images(repository, digest, ids),
        Err(_) => Ok(()),
    }
}

/// A manifest that was pushed or made.
pub struct Push<'a> {
    pub repository: &'a Repository,
    pub tags: &'a [Tag],
    pub manifest: Manifest,
    pub digest: &'a Digest,
    pub bytes: &'a [u8],
    /// The image that was tagged by the first API, whose other events have been.
    pub image: Option<&'a ImageId>,
}

/// Stores a manifest, has its tags name it, and makes it known.
pub fn publish(app: &App, cause: &Arc<Cause>, push: Push) -> Result<()> {
    let Push { repository, tags, manifest, digest, bytes, image } = push;
    let (storage, index, layers) = (&app.storage, &app.index, &app.layers);
    // Before the catalog learns the name, which it keeps.
    storage.check_manifest(repository, &manifest)?;
    index.add_repository(repository)?;
    storage.put_manifest(repository, tags, &manifest, digest, bytes)?;
    let known = match Contents::parse(bytes) {
        Ok(contents) => {
            let ids = index::ids(storage, repository, digest, &contents);
            index.add_images(repository, digest, &ids)
        }
        // Nothing that could be looked into.
        Err(_) => Ok(()),
    };
    if let Err(error) = known {
        tracing::error!(%repository, %digest, %error, "a pushed image is not found by its ids until the next start");
    }
    // The first blob is the config.
    let base_first = manifest.blobs.get(1..).unwrap_or_default();
    let missing = layers.missing(base_first.iter().copied()).unwrap_or_else(|error| {
        tracing::error!(%repository, %digest, %error, "cannot have a pushed image indexed");
        Vec::new()
    });
    app.events.indexing(&missing, repository, cause);
    let (media_type, length) = (manifest.media_type.as_str(), bytes.len() as u64);
    if let Some(image) = image {
        for tag in tags {
            let event = Event::new(Kind::Tag, image.to_string(), cause).digest(digest);
            app.events.publish(Event {
                media_type: Some(media_type),
                size: Some(length),
                ..event.repository(repository).tag(tag)
            });
        }
    } else {
        let config = manifest.blobs.first();
        let pushed = Pushed {
            repository,
            digest,
            media_type,
            size: length,
            config: config.filter(|_| !manifest.media_type.is_index()),
            layers: base_first,
            tags,
        };
        let size = |layer: &Digest| storage.blob_size(repository, layer).ok();
        app.events.pushed(pushed, size, cause);
    }
    layers.index_later(missing);
    Ok(())
}

async fn put(
    app: &Arc<App>,
    context: &mut RequestContext,
    repository: Repository,
    reference: Reference,
) -> Result<Response<Body>> {
    let mut tags: Vec<Tag> = Vec::new();
    for (_, value) in context.query.iter().filter(|(key, _)| key == "tag") {
        let tag = value.parse()?;
        if !tags.contains(&tag) {
            tags.push(tag);
        }
        if tags.len() > TAGS_MAX {
            return Err(Error::TooManyTags);
        }
    }
    if matches!(reference, Reference::Tag(_)) && !tags.is_empty() {
        return Err(Error::TagWithTag);
    }
    let content_type =
        context.headers.get(CONTENT_TYPE).map(|value| crate::log::escape(value.as_bytes()));
    let body = context.body.collect(MANIFEST_MAX, &app.manifest_buffers);
    let body = tokio::time::timeout(BODY_TIME, body).await.map_err(|_| Error::BodyTimeout)?;
    let (bytes, room) = body?.ok_or(Error::ManifestTooLarge)?;

    let asked = reference.clone();
    let parsing = app.pools.of(Scarce::Parsing).permit().await?;
    let (digest, manifest, bytes) = blocking(move || {
        let _parsing = parsing;
        let algorithm = match &reference {
            Reference::Digest(digest) => digest.algorithm(),
            Reference::Tag(_) => Algorithm::Sha256,
        };
        let digest = algorithm.digest(&bytes);
        if let Reference::Digest(expected) = &reference
            && *expected != digest
        {
            return Err(Error::Storage(storage::Error::digest_mismatch(expected, &digest)));
        }
        let manifest = Manifest::parse(&bytes, content_type.as_deref())?;
        Ok((digest, manifest, bytes))
    })
    .await?;

    let accepted = tags.clone();
    if let Reference::Tag(tag) = &asked {
        tags.push(tag.clone());
    }
    let subject = manifest.subject;
    let (known, name) = (Arc::clone(app), repository.clone());
    let cause = context.cause();
    blocking(move || {
        let _room = room;
        let push = Push {
            repository: &repository,
            tags: &tags,
            manifest,
            digest: &digest,
            bytes: &bytes,
            image: None,
        };
        publish(&known, &cause, push)
    })
    .await?;

    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::CREATED;
    let headers = response.headers_mut();
    headers.insert(LOCATION, header(format!("/v2/{name}/manifests/{asked}")));
    headers.insert(DOCKER_CONTENT_DIGEST, header(digest.to_string()));
    headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    for tag in accepted {
        headers.append(OCI_TAG, header(tag.to_string()));
    }
    if let Some(subject) = subject {
        headers.insert(OCI_SUBJECT, header(subject.to_string()));
    }
    Ok(response)
}
