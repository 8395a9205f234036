//! `/v1/repositories/NAME`: its tags and images.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use hyper::{Method, Response};
use serde::Deserialize;
use serde_json::json;

use super::lists::TAGS_MAX;
use super::{document, done, no_content, pusher, text, with_token};
use crate::auth::{Identity, Right};
use crate::docker1::to_manifest::{self, Builder};
use crate::docker1::{ImageId, JSON_MAX};
use crate::events::{Cause, Event, Kind};
use crate::http::body::Body;
use crate::http::error::{Error, Result};
use crate::http::files::look;
use crate::http::v2::manifests::{Push, publish};
use crate::http::{App, RequestContext, blocking};
use crate::image::{LATEST, Shown, V1};
use crate::index;
use crate::index::records::Layer;
use crate::layer::codec::Compression;
use crate::oci::config::CONFIG_MAX;
use crate::oci::{Algorithm, Contents, Digest, Manifest, Reference, Repository, Tag};
use crate::storage::docker1::Pusher;
use crate::storage::{self, Storage};

/// Ids in the list of a repository's images.
const IDS_MAX: usize = 10_000;
/// Bytes of a tag's body: an id in quotes, and blanks.
const TAG_BODY_MAX: usize = 1 << 10;

/// `/v1/repositories/NAME`: what begins a push, and what removes all tags.
pub async fn repository(
    app: &Arc<App>,
    context: &mut RequestContext,
    repository: Repository,
) -> Result<Response<Body>> {
    if context.method == Method::DELETE {
        return delete_tags(app, context, repository).await;
    }
    image_list(app, context).await?;
    Ok(with_token(app, context, &repository, true, text("\"\"")))
}

/// The list of images that begins and ends a push. All that it says comes again
/// with the images themselves.
async fn image_list(app: &App, context: &mut RequestContext) -> Result<()> {
    #[derive(Deserialize)]
    struct Item {
        id: String,
    }
    let (bytes, _room) = document(app, context, JSON_MAX).await?;
    blocking(move || {
        let items: Vec<Item> = serde_json::from_slice(&bytes)
            .map_err(|_| Error::Document("a JSON array of objects with an id"))?;
        for item in items {
            item.id.parse::<ImageId>()?;
        }
        Ok::<_, Error>(())
    })
    .await
}

/// `/v1/repositories/NAME/images`
pub async fn images(
    app: &Arc<App>,
    context: &mut RequestContext,
    repository: Repository,
) -> Result<Response<Body>> {
    match context.method {
        Method::PUT => {
            image_list(app, context).await?;
            return Ok(no_content());
        }
        // The images go when nothing names them.
        Method::DELETE => return Ok(no_content()),
        _ => {}
    }
    let (known, name) = (Arc::clone(app), repository.clone());
    let ids = look(app, move || all_ids(&known, &name)).await?;
    let ids: Vec<_> = ids.iter().map(|id| json!({"id": id.to_string()})).collect();
    let list = text(json!(ids).to_string());
    Ok(with_token(app, context, &repository, false, list))
}

/// The ids of what a repository's tags name, and of their ancestors.
fn all_ids(app: &App, repository: &Repository) -> Result<Vec<ImageId>> {
    let (mut ids, mut seen) = (Vec::new(), std::collections::HashSet::new());
    for tag in app.storage.tags(repository, "", TAGS_MAX)?.items {
        for id in chain(app, repository, &tag)?.into_iter().rev() {
            if seen.insert(id) {
                ids.push(id);
            }
        }
        if ids.len() >= IDS_MAX {
            tracing::warn!(%repository, "the list of images in the v1 API is cut short");
            break;
        }
    }
    Ok(ids)
}

fn chain(app: &App, repository: &Repository, tag: &Tag) -> Result<Vec<ImageId>> {
    match app.images.v1_ids(repository, &Reference::Tag(tag.clone())) {
        Ok(ids) => Ok(ids),
        // It went meanwhile.
        Err(error) if is_unknown(&error) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

fn is_unknown(error: &crate::image::Error) -> bool {
    matches!(error, crate::image::Error::Storage(storage::Error::ManifestUnknown { .. }))
}

/// The id of what a tag names. `None`: there is no such tag, or it names what
/// cannot be shown here.
pub fn tag_id(app: &App, repository: &Repository, tag: &Tag) -> Result<Option<ImageId>> {
    match app.images.v1_id(repository, &Reference::Tag(tag.clone())) {
        Ok(id) => Ok(id),
        Err(error) if is_unknown(&error) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// `/v1/repositories/NAME/tags`
pub async fn tags(
    app: &Arc<App>,
    context: &mut RequestContext,
    repository: Repository,
) -> Result<Response<Body>> {
    if context.method == Method::DELETE {
        return delete_tags(app, context, repository).await;
    }
    let known = Arc::clone(app);
    let tags = look(app, move || {
        let mut tags = BTreeMap::new();
        for tag in known.storage.tags(&repository, "", TAGS_MAX)?.items {
            if let Some(id) = tag_id(&known, &repository, &tag)? {
                tags.insert(tag.as_str().to_owned(), id.to_string());
            }
        }
        Ok(tags)
    });
    Ok(text(json!(tags.await?).to_string()))
}

async fn delete_tags(
    app: &Arc<App>,
    context: &RequestContext,
    repository: Repository,
) -> Result<Response<Body>> {
    let (known, cause) = (Arc::clone(app), context.cause());
    look(app, move || {
        for tag in known.storage.tags(&repository, "", TAGS_MAX)?.items {
            match untag(&known, &cause, &repository, &tag) {
                Err(Error::Storage(storage::Error::ManifestUnknown { .. })) => {}
                other => other?,
            }
        }
        Ok(())
    })
    .await?;
    Ok(done())
}

fn untag(app: &App, cause: &Arc<Cause>, repository: &Repository, tag: &Tag) -> Result<()> {
    // Before nobody can tell.
    let id = tag_id(app, repository, tag)?;
    let digest = app.storage.delete_tag(repository, tag)?;
    let id = id.map_or_else(|| digest.hex(), |id| id.to_string());
    let event = Event::new(Kind::Untag, id, cause).repository(repository);
    app.events.publish(event.tag(tag).digest(&digest));
    Ok(())
}

/// `/v1/repositories/NAME/tags/TAG`
pub async fn tag(
    app: &Arc<App>,
    context: &mut RequestContext,
    repository: Repository,
    tag: Tag,
) -> Result<Response<Body>> {
    let (known, cause) = (Arc::clone(app), context.cause());
    match context.method {
        Method::PUT => {
            let (body, _room) = document(app, context, TAG_BODY_MAX).await?;
            // The npm server's clients may send it bare.
            let id = match serde_json::from_slice::<String>(&body) {
                Ok(id) => id,
                Err(_) => String::from_utf8(body).unwrap_or_default(),
            };
            let id: ImageId = id.trim().parse()?;
            let (identity, pusher) = (context.proof.identity.clone(), pusher(app, context));
            look(app, move || {
                let tagging = Tagging {
                    app: &known,
                    cause: &cause,
                    repository: &repository,
                    tag: &tag,
                    id: &id,
                };
                tagging.run(&identity, pusher.as_ref())
            })
            .await?;
            Ok(done())
        }
        Method::DELETE => {
            look(app, move || untag(&known, &cause, &repository, &tag)).await?;
            Ok(done())
        }
        _ => {
            let id = look(app, move || {
                let id = tag_id(&known, &repository, &tag)?;
                id.ok_or_else(|| unknown(&repository, &tag))
            });
            Ok(text(json!(id.await?.to_string()).to_string()))
        }
    }
}

fn unknown(repository: &Repository, tag: &Tag) -> Error {
    Error::Storage(storage::Error::ManifestUnknown {
        repository: repository.clone(),
        reference: Reference::Tag(tag.clone()),
    })
}

/// A tag that is to name an image.
struct Tagging<'a> {
    app: &'a App,
    cause: &'a Arc<Cause>,
    repository: &'a Repository,
    tag: &'a Tag,
    id: &'a ImageId,
}

impl Tagging<'_> {
    /// The image must be one that this identity may read somewhere, or has pushed.
    fn run(&self, identity: &Identity, pusher: Option<&Pusher>) -> Result<()> {
        if let Some(pusher) = pusher
            && self.app.storage.has_pushed(pusher, self.id)?
        {
            return self.made();
        }
        let permitted = |other: &Repository| self.app.access.may(identity, other, Right::Pull);
        // The image of a manifest that is made of images builds on all of their layers.
        let layers = layers_of(&self.app.storage, self.id)?;
        let shows = |repository: &Repository| {
            let mut held = layers.iter().map(|layer| holds(self.app, repository, layer));
            held.try_fold(!layers.is_empty(), |all, held| Ok::<_, Error>(all && held?))
        };
        match self.app.images.find_v1(self.id, &permitted, &shows)? {
            Some(Shown { what: V1::Made, .. }) => self.made(),
            Some(shown) => self.derived(&shown),
            None => Err(self.unknown().into()),
        }
    }

    fn unknown(&self) -> storage::Error {
        storage::Error::ImageUnknown(*self.id)
    }

    /// Makes a manifest for an image that was pushed as such.
    fn made(&self) -> Result<()> {
        let (app, storage) = (self.app, &self.app.storage);
        let ancestry = storage.ancestry(self.id)?;
        let image = |id: &ImageId| -> storage::Result<_> {
            storage.image(id)?.ok_or(storage::Error::ImageUnknown(*id))
        };
        let mut digests = Vec::new();
        for id in ancestry.iter().rev() {
            digests.push(image(id)?.layer);
        }
        // All at once, if there are threads for it; then each is waited for.
        app.layers.pushed(digests)?;
        let mut builder = Builder::default();
        for id in ancestry.iter().rev() {
            let image = image(id)?;
            let layer = app.layers.ready(&image.layer)?;
            builder.add(&image.json, described(&image.layer, &layer.record))?;
        }
        let made = builder.finish(self.id, &image(self.id)?.json)?;
        storage.put_blob(self.repository, &made.config)?;
        for id in &ancestry {
            let image = image(id)?;
            if made.layers.contains(&image.layer) {
                storage.link_layer(self.repository, &image)?;
            }
        }
        let digest = Algorithm::Sha256.digest(&made.manifest);
        // Before anybody asks what its id is.
        storage.set_made_of(&digest, self.id)?;
        self.publish(&digest, &made.manifest)
    }

    /// Tags what was pushed by the second API: the same manifest if it is all of it,
    /// else one made for the image.
    fn derived(&self, shown: &Shown) -> Result<()> {
        let (storage, from) = (&self.app.storage, &shown.repository);
        let stored = storage.manifest(from, &Reference::Digest(shown.manifest))?;
        let contents = Contents::parse(&stored.bytes)?;
        let chain = storage.chain(from, &contents)?;
        let (chain, config) = chain.ok_or_else(|| self.unknown())?;
        let at = chain.0.iter().position(|link| link.id == *self.id);
        let at = at.ok_or_else(|| self.unknown())?;
        if at + 1 < chain.0.len() {
            storage.adopt(&chain, at, &config)?;
            return self.made();
        }
        for blob in &Manifest::parse(&stored.bytes, None)?.blobs {
            storage.mount_blob(self.repository, blob, from)?;
        }
        self.publish(&stored.digest, &stored.bytes)
    }

    fn publish(&self, digest: &Digest, bytes: &[u8]) -> Result<()> {
        let push = Push {
            repository: self.repository,
            tags: std::slice::from_ref(self.tag),
            manifest: Manifest::parse(bytes, None)?,
            digest,
            bytes,
            image: Some(self.id),
        };
        publish(self.app, self.cause, push)
    }
}

/// The layers of an image that was pushed as such, and of those that it builds on. None where there
/// is no such image.
fn layers_of(storage: &Storage, id: &ImageId) -> Result<Vec<Digest>> {
    let mut layers = Vec::new();
    if storage.image(id)?.is_none() {
        return Ok(layers);
    }
    for id in storage.ancestry(id)? {
        let image = storage.image(&id)?.ok_or(storage::Error::ImageUnknown(id))?;
        layers.push(image.layer);
    }
    Ok(layers)
}

/// Whether a repository holds the layer of an image that it shows. Layers without members are left
/// out of manifests that are made of images, and hold nothing to hide.
pub fn holds(app: &App, repository: &Repository, layer: &Digest) -> Result<bool> {
    match app.storage.blob_size(repository, layer) {
        Ok(_) => Ok(true),
        Err(storage::Error::BlobUnknown { .. }) => match app.layers.ready(layer) {
            Ok(indexed) => Ok(described(layer, &indexed.record).empty),
            Err(index::Error::Refused { .. } | index::Error::Missing(_)) => Ok(false),
            Err(e) => Err(e.into()),
        },
        Err(e) => Err(e.into()),
    }
}

fn described(digest: &Digest, record: &Layer) -> to_manifest::Layer {
    let diff_id = Digest::Sha256(record.diff_id);
    to_manifest::Layer {
        digest: *digest,
        size: record.compressed,
        compressed: record.compression != Compression::None,
        diff_id,
        empty: record.entries == 0 && is_zeros(record.uncompressed, &diff_id),
    }
}

/// Whether a tar stream of this length and digest is one without members.
/// Whiteouts are no entries, but members.
fn is_zeros(length: u64, diff_id: &Digest) -> bool {
    const LONGEST: u64 = 1 << 20;
    let length = usize::try_from(length.min(LONGEST + 1)).unwrap_or(usize::MAX);
    length as u64 <= LONGEST && Algorithm::Sha256.digest(&vec![0; length]) == *diff_id
}

/// `…/json`: what is known of a tag, or of `latest`.
pub async fn json(
    app: &Arc<App>,
    repository: Repository,
    tag: Option<Tag>,
) -> Result<Response<Body>> {
    let known = Arc::clone(app);
    let facts = look(app, move || {
        let storage = &known.storage;
        let wanted = match &tag {
            Some(tag) => tag.clone(),
            None if storage.repository_exists(&repository)? => LATEST.parse()?,
            None => return Err(storage::Error::RepositoryUnknown(repository).into()),
        };
        match (facts(storage, &repository, &wanted), tag) {
            (Err(Error::Storage(storage::Error::ManifestUnknown { .. })), None) => {
                Ok((None, Facts::default()))
            }
            (facts, _) => facts.map(|(time, facts)| (Some(time), facts)),
        }
    });
    let (last_update, facts) = facts.await?;
    let document = json!({
        "last_update": last_update,
        "docker_version": facts.docker_version,
        "docker_go_version": null,
        "arch": facts.architecture.as_deref().unwrap_or("amd64"),
        "os": facts.os.as_deref().unwrap_or("linux"),
        "kernel": null,
    });
    Ok(text(document.to_string()))
}

#[derive(Default, Deserialize)]
struct Facts {
    docker_version: Option<String>,
    architecture: Option<String>,
    os: Option<String>,
}

/// When a tag was set, and what its config says.
fn facts(storage: &Storage, repository: &Repository, tag: &Tag) -> Result<(u64, Facts)> {
    let time = storage.tag_time(repository, tag)?;
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let stored = storage.manifest(repository, &Reference::Tag(tag.clone()))?;
    let contents = Contents::parse(&stored.bytes);
    let config = contents.ok().and_then(|contents| contents.config().copied());
    let mut facts = Facts::default();
    if let Some(config) = config {
        let blob = storage.open_blob(repository, &config)?;
        if blob.size <= CONFIG_MAX as u64 {
            // What is no image's config says nothing.
            facts = serde_json::from_slice(&blob.read(0..blob.size)?).unwrap_or_default();
        }
    }
    Ok((seconds.as_secs(), facts))
}

/// `/v1/repositories/NAME/properties`
pub async fn properties(
    app: &Arc<App>,
    context: &mut RequestContext,
    repository: Repository,
) -> Result<Response<Body>> {
    #[derive(Deserialize)]
    struct Properties {
        access: String,
    }
    let known = Arc::clone(app);
    let exists = move |repository: &Repository| -> Result<()> {
        match known.storage.repository_exists(repository)? {
            true => Ok(()),
            false => Err(storage::Error::RepositoryUnknown(repository.clone()).into()),
        }
    };
    let storage = Arc::clone(&app.storage);
    let private = if context.method == Method::PUT {
        let (body, _room) = document(app, context, TAG_BODY_MAX).await?;
        let wanted = serde_json::from_slice(&body).map(|Properties { access }| access);
        let private = match wanted.as_deref() {
            Ok("private") => true,
            Ok("public") => false,
            _ => return Err(Error::Document(r#"{"access": "public"} or "private""#)),
        };
        blocking(move || {
            exists(&repository)?;
            storage.set_private(&repository, private)?;
            Ok::<_, Error>(private)
        })
        .await?
    } else {
        blocking(move || {
            exists(&repository)?;
            Ok::<_, Error>(storage.is_private(&repository)?)
        })
        .await?
    };
    let access = if private { "private" } else { "public" };
    Ok(text(json!({"access": access}).to_string()))
}
