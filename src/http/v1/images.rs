//! `/v1/images/ID`: an image's parts, one by one. They belong to no repository, so
//! an image can be read by those who may read a repository that has it, and by
//! those who have pushed it.

use std::sync::Arc;

use bytes::Bytes;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, Response};
use serde_json::json;

use super::repositories::holds;
use super::{Part, document, done, lists, pusher, text};
use crate::auth::{Identity, Right};
use crate::docker1::from_manifest::Chain;
use crate::docker1::{CHAIN_MAX, EMPTY_LAYER, ImageId, JSON_MAX, Place, empty_layer};
use crate::events::{Event, Kind};
use crate::http::body::Body;
use crate::http::error::{Error, Result};
use crate::http::files::look;
use crate::http::permits::Scarce;
use crate::http::respond::header;
use crate::http::v2::uploads::receive;
use crate::http::{App, RequestContext, blocking, content};
use crate::image::{Shown, V1};
use crate::oci::{Contents, Digest, Reference, Repository};
use crate::storage::docker1::{Pusher, StoredImage};
use crate::storage::{self, Blob};

const SIZE: HeaderName = HeaderName::from_static("x-docker-size");
const CHECKSUM: HeaderName = HeaderName::from_static("x-docker-checksum");
const CHECKSUM_PAYLOAD: HeaderName = HeaderName::from_static("x-docker-checksum-payload");

pub async fn image(
    app: &Arc<App>,
    context: &mut RequestContext,
    id: ImageId,
    part: Part,
) -> Result<Response<Body>> {
    let put = context.method == Method::PUT;
    match part {
        Part::Json if put => put_json(app, context, id).await,
        Part::Layer if put => put_layer(app, context, id).await,
        Part::Json => json(app, context, id).await,
        Part::Layer => layer(app, context, id).await,
        Part::Checksum => put_checksum(app, context, id).await,
        Part::Ancestry => {
            let reader = Reader::new(app, context);
            let ids = look(app, move || reader.open(&id)?.ancestry(&reader, &id)).await?;
            let ids: Vec<String> = ids.iter().map(ImageId::to_string).collect();
            Ok(text(json!(ids).to_string()))
        }
        Part::Files => {
            let reader = Reader::new(app, context);
            let layer = look(app, move || {
                let found = reader.open(&id)?;
                // Else it is the empty one, which need not be in the store.
                match found.read_layer(&reader, &id)? {
                    Some(_) => Ok(Some(reader.app.layers.ready(&found.layer())?)),
                    None => Ok(None),
                }
            });
            match layer.await? {
                Some(layer) => lists::files(app, layer).await,
                None => Ok(text("[]")),
            }
        }
    }
}

/// Somebody who wants to read images.
struct Reader {
    app: Arc<App>,
    identity: Identity,
    /// `None`: the client has no name, so it has pushed nothing that it could read.
    pusher: Option<Pusher>,
}

/// An image that its reader may see.
enum Found {
    /// Pushed as such; with the repository that shows it, or without one if this client has pushed
    /// it and it has no tag yet.
    Stored(StoredImage, Option<Repository>),
    /// Of a manifest: which one of the images that were derived of it.
    Derived { repository: Repository, chain: Chain, config: Bytes, at: usize },
}

impl Reader {
    fn new(app: &Arc<App>, context: &RequestContext) -> Reader {
        Reader {
            app: Arc::clone(app),
            identity: context.proof.identity.clone(),
            pusher: pusher(app, context),
        }
    }

    /// Whether the image is all here. One whose layer was lost may be pushed again.
    fn has(&self, id: &ImageId) -> Result<bool> {
        let Some(found) = self.find(id)? else {
            return Ok(false);
        };
        match found.open_layer(self, id) {
            Ok(_) => Ok(true),
            Err(Error::Storage(storage::Error::ImageUnknown(_))) => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn open(&self, id: &ImageId) -> Result<Found> {
        let found = self.find(id)?;
        found.ok_or_else(|| storage::Error::ImageUnknown(*id).into())
    }

    fn has_pushed(&self, id: &ImageId) -> Result<bool> {
        match &self.pusher {
            Some(pusher) if self.app.access.may_push_somewhere(&self.identity) => {
                Ok(self.app.storage.has_pushed(pusher, id)?)
            }
            _ => Ok(false),
        }
    }

    fn pusher(&self) -> Result<&Pusher> {
        self.pusher.as_ref().ok_or(Error::DeniedImages)
    }

    fn find(&self, id: &ImageId) -> Result<Option<Found>> {
        let storage = &self.app.storage;
        let permitted =
            |repository: &Repository| self.app.access.may(&self.identity, repository, Right::Pull);
        let image = storage.image(id)?;
        let shows = |repository: &Repository| match &image {
            Some(image) => holds(&self.app, repository, &image.layer),
            None => Ok(false),
        };
        let shown = self.app.images.find_v1(id, &permitted, &shows)?;
        let Some(Shown { repository, manifest, what: V1::Derived }) = shown else {
            let Some(image) = image else { return Ok(None) };
            let shown = shown.map(|shown| shown.repository);
            let readable = shown.is_some() || self.has_pushed(id)?;
            return Ok(readable.then_some(Found::Stored(image, shown)));
        };
        let stored = storage.manifest(&repository, &Reference::Digest(manifest))?;
        let contents = Contents::parse(&stored.bytes)?;
        let chain = storage.chain(&repository, &contents)?;
        Ok(chain.and_then(|(chain, config)| {
            let at = chain.0.iter().position(|link| link.id == *id)?;
            Some(Found::Derived { repository, chain, config, at })
        }))
    }
}

impl Found {
    fn layer(&self) -> Digest {
        match self {
            Found::Stored(image, _) => image.layer,
            Found::Derived { chain, at, .. } => chain.0[*at].layer.unwrap_or_else(empty_layer),
        }
    }

    fn ancestry(&self, reader: &Reader, id: &ImageId) -> Result<Vec<ImageId>> {
        Ok(match self {
            Found::Stored(..) => reader.app.storage.ancestry(id)?,
            Found::Derived { chain, at, .. } => chain.ancestry(*at),
        })
    }

    /// The layer's content, for a client that may read it in a repository: to have pushed it is not
    /// enough, since its tag or the client's rights may be gone. `None`: that of the empty one.
    fn read_layer(&self, reader: &Reader, id: &ImageId) -> Result<Option<Blob>> {
        match self {
            Found::Stored(_, None) if !reader.app.access.may_read_all(&reader.identity) => {
                Err(storage::Error::ImageUnknown(*id).into())
            }
            Found::Stored(..) | Found::Derived { .. } => self.open_layer(reader, id),
        }
    }

    /// The layer, to tell whether it is there and its size; `None`: it is the empty one, which need
    /// not be in the store.
    fn open_layer(&self, reader: &Reader, id: &ImageId) -> Result<Option<Blob>> {
        let storage = &reader.app.storage;
        Ok(match self {
            Found::Stored(image, _) => Some(storage.open_layer(id, &image.layer)?),
            Found::Derived { repository, chain, at, .. } => match &chain.0[*at].layer {
                Some(layer) => Some(storage.open_blob(repository, layer)?),
                None => None,
            },
        })
    }
}

/// `GET …/json`
async fn json(app: &Arc<App>, context: &RequestContext, id: ImageId) -> Result<Response<Body>> {
    let reader = Reader::new(app, context);
    let (json, size, checksum) = look(app, move || {
        let found = reader.open(&id)?;
        let layer = found.open_layer(&reader, &id)?;
        let size = layer.map_or(EMPTY_LAYER.len() as u64, |layer| layer.size);
        Ok(match found {
            Found::Stored(image, _) => (image.json, size, image.checksum),
            Found::Derived { chain, config, at, .. } => (chain.json(at, &config)?, size, None),
        })
    })
    .await?;
    let mut response = text("");
    *response.body_mut() = Body::from(json);
    let headers = response.headers_mut();
    headers.insert(SIZE, size.into());
    if let Some(checksum) = checksum {
        let checksum = header(checksum.to_string());
        headers.insert(CHECKSUM, checksum.clone());
        headers.insert(CHECKSUM_PAYLOAD, checksum);
    }
    Ok(response)
}

/// `GET …/layer`
async fn layer(app: &Arc<App>, context: &RequestContext, id: ImageId) -> Result<Response<Body>> {
    let reader = Reader::new(app, context);
    let permit = app.pools.of(Scarce::Blobs).permit().await?;
    let (digest, blob) = look(app, move || {
        let found = reader.open(&id)?;
        Ok((found.layer(), found.read_layer(&reader, &id)?))
    })
    .await?;
    let Some(blob) = blob else {
        let mut response = Response::new(Body::from(&EMPTY_LAYER[..]));
        response.headers_mut().insert(
            hyper::header::CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        );
        return Ok(response);
    };
    let size = blob.size;
    let opened = (context.method == Method::GET).then_some((blob, permit));
    content::blob(context, &digest, size, opened).await
}

/// The repository that an image is pushed to, as far as its client's token says so.
fn pushed_to(context: &RequestContext) -> Option<Repository> {
    match &context.proof.identity {
        Identity::Signed(signed) => Some(signed.repository.clone()),
        Identity::Anonymous | Identity::User(_) | Identity::Scoped(_) => None,
    }
}

/// `PUT …/json`: begins the push of an image.
async fn put_json(
    app: &Arc<App>,
    context: &mut RequestContext,
    id: ImageId,
) -> Result<Response<Body>> {
    let (json, room) = document(app, context, JSON_MAX).await?;
    let reader = Reader::new(app, context);
    let (cause, repository) = (context.cause(), pushed_to(context));
    look(app, move || {
        let _room = room;
        let place = Place::parse(&json, &id)?;
        let storage = &reader.app.storage;
        if reader.has(&id)? {
            return Err(storage::Error::ImageExists(id).into());
        }
        if let Some(parent) = &place.parent {
            match reader.find(parent)? {
                None => return Err(Error::ParentUnknown(*parent)),
                Some(Found::Stored(..)) => {
                    // The child's layers will be those of all of them.
                    for ancestor in storage.ancestry(parent)? {
                        if reader.find(&ancestor)?.is_none() {
                            return Err(Error::ParentUnknown(*parent));
                        }
                    }
                }
                Some(Found::Derived { chain, config, at, .. }) => {
                    storage.adopt(&chain, at, &config)?
                }
            }
            if storage.ancestry(parent)?.len() >= CHAIN_MAX {
                return Err(crate::docker1::Error::Depth.into());
            }
        }
        storage.put_image_json(reader.pusher()?, &place, &json)?;
        reader
            .app
            .events
            .publish(Event { repository, ..Event::new(Kind::Image, id.to_string(), &cause) });
        Ok(())
    })
    .await?;
    Ok(done())
}

/// `PUT …/layer`
async fn put_layer(
    app: &Arc<App>,
    context: &mut RequestContext,
    id: ImageId,
) -> Result<Response<Body>> {
    let reader = Reader::new(app, context);
    let writer = look(app, move || {
        if reader.has(&id)? {
            return Err(storage::Error::ImageExists(id).into());
        }
        Ok(reader.app.storage.write_layer(reader.pusher()?, &id)?)
    })
    .await?;
    let writer = receive(app, writer, &mut context.body).await?;
    let (checksum, digest) = blocking(move || writer.finish()).await?;
    let event = Event::new(Kind::Layer, id.to_string(), &context.cause()).digest(&digest);
    app.events.publish(Event {
        checksum: Some(checksum.to_string()),
        repository: pushed_to(context),
        ..event
    });
    Ok(done())
}

/// `PUT …/checksum`: ends the push of an image.
async fn put_checksum(
    app: &Arc<App>,
    context: &RequestContext,
    id: ImageId,
) -> Result<Response<Body>> {
    let said = context.headers.get(CHECKSUM_PAYLOAD);
    let said = said.ok_or(Error::ChecksumMissing)?;
    let said = crate::log::escape(said.as_bytes());
    let (known, pusher) = (Arc::clone(app), pusher(app, context).ok_or(Error::DeniedImages)?);
    let (cause, repository) = (context.cause(), pushed_to(context));
    blocking(move || {
        let layer = known.storage.complete_image(&pusher, &id, said.trim())?;
        let event = Event::new(Kind::Verify, id.to_string(), &cause);
        known.events.publish(Event { repository, ..event.digest(&layer) });
        // While the next one comes.
        if let Err(error) = known.layers.pushed([layer]) {
            tracing::error!(image = %id, %error, "cannot have a pushed image indexed");
        }
        Ok::<_, Error>(())
    })
    .await?;
    Ok(done())
}
