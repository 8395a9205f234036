//! What is in an image or artifact: directories, files, and whole subtrees as tars. The same answers
//! for what is found anywhere (`/v1/images/ID/…`) and for what one repository holds
//! (`/v2/NAME/_files/…`).

use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::header::{CACHE_CONTROL, CONTENT_LOCATION, CONTENT_TYPE, HeaderValue, LINK};
use hyper::{Method, Response};
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::body::{Body, PIECE, Part, Parts, Produce};
use super::content::content;
use super::error::{Error, Result};
use super::permits::Scarce;
use super::respond::{header, json};
use super::route::{Files, Scope, View};
use super::{App, RequestContext, blocking};
use crate::auth::{Access, Identity, Right};
use crate::image::listing::{JsonListing, Listing, Stop, url_path};
use crate::image::{FileTree, Images, LayerId, Node, Opened, Platform, write_tar};
use crate::oci::{Digest, Reference, Repository};

pub async fn answer(
    app: &Arc<App>,
    context: &mut RequestContext,
    files: Files,
) -> Result<Response<Body>> {
    let wanted = Place {
        access: Arc::clone(&app.access),
        identity: context.proof.identity.clone(),
        images: Arc::clone(app.registry.images()),
        platform: context.parameter("platform").map(str::parse).transpose()?,
        layer: layer(context)?,
        files,
    };
    match wanted.files.view {
        View::Tree => tree(app, context, wanted).await,
        View::Blob => file(app, context, wanted).await,
        View::Tar => tar(app, context, wanted).await,
    }
}

/// Where a request looks.
struct Place {
    access: Arc<Access>,
    identity: Identity,
    images: Arc<Images>,
    platform: Option<Platform>,
    /// The one layer that is shown as it is.
    layer: Option<LayerId>,
    files: Files,
}

impl Place {
    /// May wait for the index of a layer to be made.
    fn open(&self) -> Result<Opened> {
        let platform = self.platform.as_ref();
        let opened = match &self.files.image {
            Scope::Any(id) => {
                let permitted = |repository: &Repository| {
                    self.access.may(&self.identity, repository, Right::Pull)
                };
                self.images.open_where(id, platform, &permitted)?
            }
            Scope::Repository(repository, reference) => {
                self.images.open_in(repository, reference, platform)?
            }
        };
        Ok(match &self.layer {
            Some(layer) => opened.one_layer(layer)?,
            None => opened,
        })
    }

    /// Whether what the request names can never change.
    fn is_lasting(&self) -> bool {
        match &self.files.image {
            Scope::Any(id) => id.is_digest(),
            Scope::Repository(_, reference) => matches!(reference, Reference::Digest(_)),
        }
    }

    /// The address of what is listed at `path`.
    fn location(&self, path: &[u8], is_directory: bool) -> String {
        let slash = if is_directory && !path.is_empty() { "/" } else { "" };
        self.tree(path) + slash
    }

    /// The address of the listing of `directory`.
    fn tree(&self, directory: &[u8]) -> String {
        let directory = url_path(directory);
        match &self.files.image {
            Scope::Any(id) => {
                let id = percent_encode(id.to_string().as_bytes(), NON_ALPHANUMERIC).to_string();
                format!("/v1/images/{id}/tree/{directory}")
            }
            Scope::Repository(repository, reference) => {
                format!("/v2/{repository}/_files/tree/{reference}/{directory}")
            }
        }
    }
}

/// Looks into images, off the threads that serve sockets.
pub async fn look<T: Send + 'static>(
    app: &App,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let permit = app.pools.of(Scarce::Looks).permit().await?;
    // With the work, which goes on when the request is cancelled.
    blocking(move || {
        let _permit = permit;
        work()
    })
    .await
}

/// A parameter that is on or off.
pub fn flag(context: &RequestContext, name: &'static str) -> Result<bool> {
    match context.parameter(name) {
        None | Some("0" | "false") => Ok(false),
        Some("" | "1" | "true") => Ok(true),
        Some(value) => Err(parameter(name, value, "1 or 0")),
    }
}

pub fn layer(context: &RequestContext) -> Result<Option<LayerId>> {
    let Some(value) = context.parameter("layer") else {
        return Ok(None);
    };
    let layer = value.parse().map_err(|_| parameter("layer", value, "the digest of a layer"))?;
    Ok(Some(layer))
}

fn parameter(name: &'static str, value: &str, want: &'static str) -> Error {
    Error::Parameter { name, value: value.chars().take(32).collect(), want }
}

/// The most entries on a page: where it ends may have to be looked for first.
const LIMIT_MAX: u64 = 10_000;

/// `limit`, at most `max`. Any number above zero is one, however long.
pub fn limit(context: &RequestContext, max: u64) -> Result<Option<u64>> {
    let Some(value) = context.parameter("limit") else {
        return Ok(None);
    };
    let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    match value.parse().unwrap_or(u64::MAX) {
        number if digits && number > 0 => Ok(Some(number.min(max))),
        _ => Err(parameter("limit", value, "a number from 1 on")),
    }
}

/// Listings that are sent in one piece, kept as they go out: what a manifest's
/// layers hold never changes. In bytes.
const LISTINGS: u64 = 16 << 20;

/// Listings by what they are of.
pub type Listings = Cache<Key, Arc<Listed>, ByBytes>;

/// What decides a listing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    manifest: Digest,
    /// How many of its layers, if it was asked for by an id of the first API.
    layers: Option<usize>,
    /// The one layer that is shown, as its place among them.
    layer: Option<usize>,
    deleted: bool,
    path: Vec<u8>,
    recursive: bool,
    limit: Option<u64>,
    after: Option<Vec<u8>>,
}

/// A listing, complete.
#[derive(Debug)]
pub struct Listed {
    json: Bytes,
    /// What was listed, links followed.
    directory: Vec<u8>,
    is_directory: bool,
    /// The last entry of a page that is not the last.
    last: Option<Vec<u8>>,
}

#[derive(Clone, Debug)]
pub struct ByBytes;

impl Weighter<Key, Arc<Listed>> for ByBytes {
    fn weight(&self, key: &Key, listed: &Arc<Listed>) -> u64 {
        let lengths = [
            listed.json.len(),
            listed.directory.len(),
            listed.last.as_ref().map_or(0, Vec::len),
            key.path.len(),
            key.after.as_ref().map_or(0, Vec::len),
            size_of::<Key>() + size_of::<Listed>(),
        ];
        lengths.iter().sum::<usize>() as u64
    }
}

pub fn listings() -> Listings {
    const TYPICAL: u64 = 16 << 10;
    Cache::with_weighter((LISTINGS / TYPICAL) as usize, LISTINGS, ByBytes)
}

/// What a request wants listed.
struct Asked {
    deleted: bool,
    recursive: bool,
    limit: Option<u64>,
    after: Option<Vec<u8>>,
    head: bool,
}

/// A listing, begun.
enum ListingBody {
    /// Of a length that only making it would tell.
    Head,
    Whole(Bytes),
    Long(Box<Long>),
}

/// What is too long for one piece.
struct Long {
    first: Vec<u8>,
    rest: JsonListing,
    /// Makes both again.
    listing: Listing,
}

async fn tree(
    app: &Arc<App>,
    context: &mut RequestContext,
    place: Place,
) -> Result<Response<Body>> {
    let deleted = flag(context, "deleted")?;
    if deleted && place.layer.is_some() {
        return Err(parameter("deleted", "1", "0 beside layer, which shows all that a layer has"));
    }
    let asked = Asked {
        deleted,
        recursive: flag(context, "recursive")?,
        limit: limit(context, LIMIT_MAX)?,
        after: context.after.take(),
        head: context.method == Method::HEAD,
    };
    let known = Arc::clone(app);
    let Page { body, location, next } =
        look(app, move || begin(&place, asked, &known.listings)).await?;
    let mut response = json(String::new());
    let headers = response.headers_mut();
    headers.insert(CONTENT_LOCATION, header(location));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if let Some(next) = next {
        headers.insert(LINK, header(format!("<{next}>; rel=\"next\"")));
    }
    *response.body_mut() = match body {
        ListingBody::Head => Body::Empty,
        ListingBody::Whole(json) => json.into(),
        ListingBody::Long(part) => {
            let Long { first, rest, listing } = *part;
            let again = || (Vec::new(), JsonListing::new(listing));
            stream(app, (first, rest), again, lines, None).await?
        }
    };
    Ok(response)
}

/// A page of a listing.
struct Page {
    body: ListingBody,
    /// The address of what is listed, links followed; a directory's ends in a slash.
    location: String,
    /// The address of the next page.
    next: Option<String>,
}

/// The first piece of a listing, so that what goes wrong at once has a status.
fn begin(place: &Place, asked: Asked, known: &Listings) -> Result<Page> {
    let opened = place.open()?;
    // The listings of an artifact depend on the blobs that its repository holds, so they are not kept.
    let (image, layer) = match &opened {
        Opened::Image(image) => (Some(image), None),
        Opened::Layer(layer) => (Some(layer.image()), Some(layer.place())),
        Opened::Artifact(_) => (None, None),
    };
    let is_image = image.is_some();
    let key = Key {
        manifest: opened.manifest(),
        layers: image.filter(|image| image.ids.is_some()).map(|image| image.layers.len()),
        layer,
        deleted: asked.deleted,
        path: place.files.path.clone(),
        recursive: asked.recursive,
        limit: asked.limit,
        after: asked.after,
    };
    let next = |directory: &[u8], last: &[u8]| next_page(place, &key, directory, last);
    if let Some(listed) = known.get(&key).filter(|_| is_image && !asked.head) {
        let last = listed.last.as_ref();
        let next = last.map(|last| next(&listed.directory, last));
        let location = place.location(&listed.directory, listed.is_directory);
        return Ok(Page { body: ListingBody::Whole(listed.json.clone()), location, next });
    }

    let list = if key.deleted { Listing::with_deleted } else { Listing::new };
    let mut listing = list(opened, &key.path, key.recursive)?;
    let directory = listing.shown().path.clone();
    let is_directory = listing.shown().is_directory();
    let location = place.location(&directory, is_directory);
    if let Some(limit) = key.limit {
        listing = listing.limit(limit);
    }
    if let Some(after) = &key.after {
        let text = |path: &[u8]| String::from_utf8_lossy(path).chars().take(256).collect();
        listing = listing
            .after(after)
            .ok_or_else(|| Error::After { after: text(after), directory: text(&directory) })?;
    }
    // Where a page ends that is not made here, since the head goes out first.
    let look_ahead = |listing: &Listing| match key.limit {
        Some(_) => listing.clone().last(),
        None => Ok(None),
    };
    if asked.head {
        let last = look_ahead(&listing)?;
        let next = last.map(|last| next(&directory, &last));
        return Ok(Page { body: ListingBody::Head, location, next });
    }
    let mut json = JsonListing::new(listing.clone());
    let mut first = Vec::new();
    let last = match json.write(PIECE, &mut first)? {
        Some(Stop::Pause) => {
            let last = look_ahead(json.listing())?;
            let next = last.map(|last| next(&directory, &last));
            let part = Long { first, rest: json, listing };
            return Ok(Page { body: ListingBody::Long(Box::new(part)), location, next });
        }
        Some(Stop::Limit) => json.listing().position().map(<[u8]>::to_vec),
        Some(Stop::End) | None => None,
    };
    let next = last.as_ref().map(|last| next(&directory, last));
    // Without the room it grew into.
    first.shrink_to_fit();
    let first = Bytes::from(first);
    let listed = Listed { json: first.clone(), directory, is_directory, last };
    if is_image {
        known.insert(key, Arc::new(listed));
    }
    Ok(Page { body: ListingBody::Whole(first), location, next })
}

/// The address of the page after the entry `last`.
fn next_page(place: &Place, key: &Key, directory: &[u8], last: &[u8]) -> String {
    let mut query = String::new();
    if key.recursive {
        query.push_str("recursive=1&");
    }
    if key.deleted {
        query.push_str("deleted=1&");
    }
    if let Some(layer) = &place.layer {
        query.push_str(&format!("layer={layer}&"));
    }
    if let Some(platform) = &place.platform {
        let platform = url_path(platform.to_string().as_bytes());
        query.push_str(&format!("platform={platform}&"));
    }
    if let Some(limit) = key.limit {
        query.push_str(&format!("limit={limit}&"));
    }
    let (tree, last) = (place.tree(directory), url_path(last));
    format!("{tree}?{query}after=/{last}")
}

fn lines(json: &mut JsonListing) -> Result<Option<Vec<u8>>> {
    let mut piece = Vec::with_capacity(PIECE + PIECE / 8);
    let stop = json.write(PIECE, &mut piece)?;
    Ok(stop.map(|_| piece))
}

/// A body whose first piece and the state that makes the rest are at hand. Where
/// too many are being sent already it waits, and since what waits should not
/// take room, is made `again` then.
pub async fn stream<S: Send + 'static>(
    app: &App,
    begun: (Vec<u8>, S),
    again: impl FnOnce() -> (Vec<u8>, S),
    make: impl Fn(&mut S) -> Result<Option<Vec<u8>>> + Send + 'static,
    length: Option<u64>,
) -> Result<Body> {
    let streams = app.pools.of(Scarce::Streams);
    let (permit, (first, mut state)) = match streams.try_permit() {
        Some(permit) => (permit, begun),
        None => {
            drop(begun);
            (streams.permit().await?, again())
        }
    };
    let produce: Produce = Box::new(move || Ok(make(&mut state)?));
    Ok(Body::stream(first, produce, length, Arc::new(permit)))
}

/// Content being read.
#[derive(Clone)]
struct Reading {
    opened: Opened,
    node: Arc<Node>,
    parts: Parts,
}

impl Reading {
    /// About [`PIECE`] bytes, or what is left.
    fn piece(&mut self) -> Result<Option<Vec<u8>>> {
        let mut piece = Vec::new();
        while piece.len() < PIECE {
            let room = (PIECE - piece.len()) as u64;
            match self.parts.next(|start| start.saturating_add(room)) {
                Some(Part::Text(text)) => piece.extend_from_slice(&text),
                Some(Part::Content(range)) => {
                    let start = piece.len();
                    let length = (range.end - range.start) as usize;
                    piece.resize(start + length, 0);
                    let read = self.opened.read(&self.node, range.start, &mut piece[start..])?;
                    if read < length {
                        // A file that ends too early is noticed by the body.
                        piece.truncate(start + read);
                        return Ok(Some(piece).filter(|piece| !piece.is_empty()));
                    }
                }
                None => break,
            }
        }
        Ok(Some(piece).filter(|piece| !piece.is_empty()))
    }
}

/// What a request gets of a file.
enum Begun {
    Nothing,
    Whole(Vec<u8>),
    /// The first piece; what goes on after it; and the same from the start.
    Piece(Vec<u8>, Reading, Reading),
}

async fn file(
    app: &Arc<App>,
    context: &mut RequestContext,
    place: Place,
) -> Result<Response<Body>> {
    let request = std::mem::take(&mut context.headers);
    let head = context.method == Method::HEAD;
    let (mut response, begun) = look(app, move || {
        let opened = place.open()?;
        let node = Arc::new(opened.file(&place.files.path)?);
        let etag = node.entry.sha256.map(|hash| Digest::Sha256(hash).to_string());
        let (response, parts) = content(&request, head, etag, node.entry.size, place.is_lasting())?;
        let Some(parts) = parts else {
            return Ok((response, Begun::Nothing));
        };
        let length = parts.length();
        let mut reading = Reading { opened, node, parts };
        let again = reading.clone();
        let first = reading.piece()?.unwrap_or_default();
        let begun = if first.len() as u64 == length {
            Begun::Whole(first)
        } else {
            Begun::Piece(first, reading, again)
        };
        Ok((response, begun))
    })
    .await?;
    *response.body_mut() = match begun {
        Begun::Nothing => Body::Empty,
        Begun::Whole(bytes) => bytes.into(),
        Begun::Piece(first, reading, again) => {
            let length = again.parts.length();
            let again = || (Vec::new(), again);
            stream(app, (first, reading), again, Reading::piece, Some(length)).await?
        }
    };
    Ok(response)
}

async fn tar(app: &Arc<App>, context: &mut RequestContext, place: Place) -> Result<Response<Body>> {
    let gzip = flag(context, "gzip")?;
    let (opened, node) = look(app, move || {
        let opened = place.open()?;
        let node = opened.node(&place.files.path, true)?;
        Ok((opened, node))
    })
    .await?;
    let mut response = Response::new(Body::Empty);
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    let media_type = if gzip { "application/gzip" } else { "application/x-tar" };
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    if context.method == Method::HEAD {
        return Ok(response);
    }
    let permit = app.pools.of(Scarce::Exports).permit().await?;
    let (pieces, mut tar) = sync_channel(1);
    // With the thread, which goes on for a while when the request is cancelled.
    let permit = Arc::new(permit);
    let exporting = Arc::clone(&permit);
    tokio::task::spawn_blocking(move || {
        export(&*opened, &node, gzip, pieces);
        drop(exporting);
    });
    let (first, tar) = blocking(move || Ok::<_, Error>((receive(&mut tar)?, tar))).await?;
    *response.body_mut() = match first {
        None => Body::Empty,
        Some(first) => {
            let mut tar = tar;
            Body::stream(first, Box::new(move || Ok(receive(&mut tar)?)), None, permit)
        }
    };
    Ok(response)
}

/// A piece; `None` at the end.
type Sent = Result<Option<Vec<u8>>>;

/// Works on a thread of its own, since a tar is written from front to back and
/// cannot be left and taken up again. It ends when its receiver is gone.
fn export(tree: &dyn FileTree, node: &Node, gzip: bool, pieces: SyncSender<Sent>) {
    let write = || {
        let mut buffer = BufWriter::with_capacity(PIECE, Pieces(&pieces));
        if gzip {
            let mut compressed = GzEncoder::new(&mut buffer, Compression::fast());
            write_tar(tree, node, &mut compressed)?;
            compressed.finish().map_err(crate::image::Error::Write)?;
        } else {
            write_tar(tree, node, &mut buffer)?;
        }
        buffer.flush().map_err(crate::image::Error::Write)?;
        Ok(None)
    };
    let end = write();
    // A receiver that is gone by now has given up before the end.
    drop(pieces.send(end));
}

fn receive(pieces: &mut Receiver<Sent>) -> Sent {
    // A thread that panics sends no end.
    pieces.recv().unwrap_or(Err(Error::BodyLost))
}

struct Pieces<'a>(&'a SyncSender<Sent>);

impl Write for Pieces<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = bytes[..bytes.len().min(PIECE)].to_vec();
        let length = piece.len();
        let sent = self.0.send(Ok(Some(piece)));
        sent.map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
