//! Questions across images. Answers are streams of JSON objects, one a line; the last one says
//! whether the answer is complete, and how to go on where it is not.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Method, Response};
use percent_encoding::percent_decode_str;
use serde::Serialize;
use serde_json::json;

use super::body::{Body, PIECE};
use super::error::{Error, Result};
use super::files::{flag, limit, look};
use super::permits::Scarce;
use super::route::Question;
use super::v1::document;
use super::{App, RequestContext, url};
use crate::auth::Right;
use crate::image::{Id, Image, Images, Opened, Platform};
use crate::oci::{Digest, Repository};
use crate::query::diff::{self, Diff};
use crate::query::find::{After, Find, Wanted, time};
use crate::query::grep::{self, Asked, Case, Grep, Pace};
use crate::query::layers::Layers;
use crate::query::tags::{self, Tags};
use crate::query::usage::{self, Usage};
use crate::query::waste::{All, WORST_MAX, Waste};
use crate::query::{Answer, Permitted, Scope, Step};

/// Paths and contents that an answer about waste lists, where the request does not say how many.
const WORST: u16 = 100;
/// Lines of an answer, where the request does not say how many.
const LINES: u64 = 1000;
/// And the most that it may say. They are sent as they are found, so they take no memory.
const LINES_MAX: u64 = 1_000_000;
/// Bytes of parameters in a body, and their number.
const FORM_MAX: usize = 4 << 20;
const PARAMETERS_MAX: usize = 60_000;
/// How long an answer may take to make. Then it ends, and says where the next one goes on.
const TIME: Duration = Duration::from_secs(60);
/// How long a piece of an answer may take before it is sent, also if it is empty: between two
/// pieces it is noticed that the client is gone.
const PIECE_TIME: Duration = Duration::from_millis(500);

/// Bounds the pieces of answers that are made at the same time to half of the cores, so that pushes
/// and pulls go on beside questions.
#[derive(Debug)]
pub struct Turns {
    left: Mutex<usize>,
    freed: Condvar,
}

impl Turns {
    pub fn new() -> Turns {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Turns { left: Mutex::new((cores / 2).max(1)), freed: Condvar::new() }
    }

    /// Waits for a turn, and does a piece of work in it.
    pub fn take<T>(&self, work: impl FnOnce() -> T) -> T {
        struct Turn<'a>(&'a Turns);
        impl Drop for Turn<'_> {
            fn drop(&mut self) {
                *self.0.left.lock().unwrap_or_else(PoisonError::into_inner) += 1;
                self.0.freed.notify_one();
            }
        }
        let left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let left = self.freed.wait_while(left, |left| *left == 0);
        *left.unwrap_or_else(PoisonError::into_inner) -= 1;
        let _turn = Turn(self);
        work()
    }
}

pub async fn answer(
    app: &Arc<App>,
    context: &mut RequestContext,
    question: Question,
) -> Result<Response<Body>> {
    if context.method == Method::POST {
        read_body(app, context).await?;
    }
    let lines = limit(context, LINES_MAX)?.unwrap_or(LINES);
    let tells_progress = flag(context, "progress")?;
    let begin = match question {
        Question::Find => boxed(find(app, context)?),
        Question::Grep => boxed(grep(app, context)?),
        Question::Diff => boxed(diff(app, context)?),
        Question::Waste => waste(app, context)?,
        Question::Layers => layers(app, context)?,
        Question::Usage => boxed(usage(app, context)?),
        Question::Tags => boxed(tags(app, context)?),
        Question::Image => return image(app, context).await,
    };
    let mut response =
        stream(app, context, begin, lines, Vec::new(), Json { tells_progress }).await?;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    Ok(response)
}

/// How an answer is written besides what it finds.
pub trait Writing: Send + 'static {
    /// An image is left out.
    fn skipped(&mut self, image: &str, error: &str, piece: &mut Vec<u8>);

    /// Bytes that are done, and all that are known of.
    fn progress(&mut self, bytes: (u64, u64), piece: &mut Vec<u8>);

    fn end(&mut self, end: &End, piece: &mut Vec<u8>);

    /// The answer breaks off. Returns `false` where only a broken connection can tell.
    fn failed(&mut self, error: &str, piece: &mut Vec<u8>) -> bool;
}

/// What is told at the end of an answer.
#[derive(Clone, Debug, Serialize)]
pub struct End {
    /// Lines that were sent.
    pub lines: u64,
    /// Images that were looked at.
    pub images: u64,
    pub skipped: u64,
    pub waiting_images: u64,
    pub waiting_layers: u64,
    /// Why the answer ends here; `None`: it is complete.
    pub bound: Option<&'static str>,
    /// Where another answer goes on, percent-encoded.
    pub next: Option<String>,
    /// As [`crate::query::Looked::index_skip`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index_skip: Option<bool>,
}

/// A JSON object for each line.
struct Json {
    /// How far the answer is, is told from time to time.
    tells_progress: bool,
}

impl Writing for Json {
    fn skipped(&mut self, image: &str, error: &str, piece: &mut Vec<u8>) {
        let line = json!({"skipped": {"image": image, "error": error}});
        piece.extend_from_slice(format!("{line}\n").as_bytes());
    }

    fn progress(&mut self, (done, total): (u64, u64), piece: &mut Vec<u8>) {
        if self.tells_progress {
            let line = json!({"progress": {"done": done, "total": total}});
            piece.extend_from_slice(format!("{line}\n").as_bytes());
        }
    }

    fn end(&mut self, end: &End, piece: &mut Vec<u8>) {
        piece.extend_from_slice(format!("{}\n", json!({"end": end})).as_bytes());
    }

    fn failed(&mut self, _: &str, _: &mut Vec<u8>) -> bool {
        false
    }
}

/// Sends an answer of at most so many lines as it is made, after the bytes `first`.
pub async fn stream(
    app: &Arc<App>,
    context: &RequestContext,
    begin: Begin<Box<dyn Answer>>,
    lines: u64,
    first: Vec<u8>,
    writing: impl Writing,
) -> Result<Response<Body>> {
    let permit = app.pools.of(Scarce::Questions).permit().await?;
    let turns = Arc::clone(&app.turns);
    let answer = look(app, move || begin(&turns)).await?;
    let mut response = Response::new(Body::Empty);
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // nginx would hold back what is found until it has a buffer full.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    if context.method == Method::HEAD {
        return Ok(response);
    }
    let (turns, id) = (Arc::clone(&app.turns), context.id);
    let mut answering =
        Answering { answer, writing, left: lines, lines: 0, skipped: 0, made: Duration::ZERO };
    let mut is_over = false;
    let produce = move || {
        if is_over {
            return Ok(None);
        }
        let (piece, over) = turns.take(|| answering.piece(id))?;
        is_over = over;
        Ok(Some(piece))
    };
    *response.body_mut() = Body::stream(first, Box::new(produce), None, Arc::new(permit));
    Ok(response)
}

/// Takes the parameters from the body too, because a long list of digests does not fit into a URL.
async fn read_body(app: &App, context: &mut RequestContext) -> Result<()> {
    let (body, _room) = document(app, context, FORM_MAX).await?;
    // Short ones would take many times their bytes in memory.
    if body.iter().filter(|&&byte| byte == b'&').count() >= PARAMETERS_MAX {
        return Err(Error::DocumentTooLarge(FORM_MAX));
    }
    let text = String::from_utf8(body).map_err(|_| Error::Document("percent-encoded"))?;
    context.after = url::path_parameter(Some(&text)).or(context.after.take());
    context.query.extend(url::query(Some(&text))?);
    Ok(())
}

/// Which image or artifact a reference or an id means at the moment.
async fn image(app: &Arc<App>, context: &RequestContext) -> Result<Response<Body>> {
    known(context, &["image", "platform"])?;
    let id = id(context, "image")?;
    let asked = id.to_string();
    let platform: Option<Platform> = parsed(context, "platform")?;
    let (images, permitted) = (Arc::clone(app.registry.images()), permitted(app, context));
    let opened =
        look(app, move || Ok(images.open_where(&id, platform.as_ref(), &*permitted)?)).await?;
    let (repository, manifest) = (opened.repository().to_string(), opened.manifest().to_string());
    let mut document = json!({
        "id": format!("{repository}@{manifest}"),
        "repository": repository,
        "manifest": manifest,
        "config": null,
        "layers": [],
        "warnings": [],
    });
    if let Opened::Image(image) = &opened {
        let layers = image.layers.iter().map(|layer| layer.digest.to_string());
        document["config"] = json!(image.config.to_string());
        document["layers"] = layers.collect();
        document["warnings"] = json!(image.warnings);
        // An image of the first API may have fewer layers than its manifest, and its id lasts.
        if image.ids.is_some() {
            document["id"] = json!(asked);
        }
    }
    let mut response = super::respond::json(document.to_string());
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

/// Begins an answer, on a thread that may block. To begin may take as long as any other piece: a glob
/// is tried on every name of the index. So it waits for a turn, but not with a turn for the index of a
/// layer to be made.
pub type Begin<T> = Box<dyn FnOnce(&Turns) -> Result<T> + Send>;

fn boxed<T: Answer + 'static>(begin: Begin<T>) -> Begin<Box<dyn Answer>> {
    Box::new(move |turns| Ok(Box::new(begin(turns)?)))
}

pub fn find(app: &App, context: &mut RequestContext) -> Result<Begin<Find>> {
    known(context, &[&FIND[..], &SCOPE].concat())?;
    let (wanted, scope) = (wanted(context)?, scope(context)?);
    let first_only = flag(context, "images")?;
    let after = after(context, After::parse)?;
    let (images, permitted) = (Arc::clone(app.registry.images()), permitted(app, context));
    Ok(Box::new(move |turns| {
        let find = turns.take(|| {
            scope.check(&images, &permitted)?;
            Find::new(&images, &scope, &permitted, wanted, after)
        })?;
        Ok(if first_only { find.first_only() } else { find })
    }))
}

pub fn grep(app: &App, context: &mut RequestContext) -> Result<Begin<Grep>> {
    known(context, &[&GREP[..], &SCOPE].concat())?;
    let values = |name| {
        let parameters = context.query.iter();
        parameters.filter(move |(key, _)| key == name).map(|(_, value)| value)
    };
    let asked = Asked {
        patterns: values("pattern").cloned().collect(),
        fixed: flag(context, "fixed")?,
        case: match (flag(context, "ignore_case")?, flag(context, "smart_case")?) {
            (true, _) => Case::Insensitive,
            (false, true) => Case::Smart,
            (false, false) => Case::Sensitive,
        },
        word: flag(context, "word")?,
        invert: flag(context, "invert")?,
        report: parsed(context, "report")?.unwrap_or_default(),
        line_numbers: true,
        submatches: context.parameter("submatches").is_none() || flag(context, "submatches")?,
        before: parsed(context, "before_context")?.unwrap_or(0),
        after: parsed(context, "after_context")?.unwrap_or(0),
        max_lines: parsed(context, "max_count")?,
        max_filesize: parsed(context, "max_filesize")?,
        text: flag(context, "text")?,
        path: parsed(context, "path")?,
        index_skip: context.parameter("index_skip").is_none() || flag(context, "index_skip")?,
        line_max: LINE_MAX,
    };
    let invalid = |cause| Error::ParameterInvalid { name: "pattern", cause };
    if asked.patterns.is_empty() {
        return Err(invalid("want a regular expression".to_owned()));
    }
    let question = asked.compile().map_err(|error| invalid(error.to_string()))?;
    let scope = scope(context)?;
    let after = after(context, grep::After::parse)?;
    let (images, permitted) = (Arc::clone(app.registry.images()), permitted(app, context));
    Ok(Box::new(move |turns| {
        let grep = turns.take(|| {
            scope.check(&images, &permitted)?;
            Grep::new(&images, &scope, &permitted, question, after, Pace::Steps)
        })?;
        Ok(grep)
    }))
}

pub fn diff(app: &App, context: &mut RequestContext) -> Result<Begin<Diff>> {
    known(context, &DIFF)?;
    let compared = Compared::parse(context)?;
    let (images, permitted) = (Arc::clone(app.registry.images()), permitted(app, context));
    Ok(Box::new(move |turns| compared.begin(&images, &permitted, turns)))
}

fn waste(app: &App, context: &mut RequestContext) -> Result<Begin<Box<dyn Answer>>> {
    let worst: Option<u64> = parsed(context, "worst")?;
    let worst = worst.map_or(WORST, |worst| worst.min(WORST_MAX.into()) as u16);
    let (images, permitted) = (Arc::clone(app.registry.images()), permitted(app, context));
    if context.parameter("image").is_none() {
        known(context, &[&["worst"], &SCOPE[..]].concat())?;
        let scope = scope(context)?;
        let after = after(context, After::parse)?;
        return Ok(Box::new(move |turns| {
            let all = turns.take(|| All::new(&images, &scope, &permitted, worst, after))?;
            Ok(Box::new(all))
        }));
    }
    known(context, &["image", "platform", "worst"])?;
    let id = id(context, "image")?;
    let platform: Option<Platform> = parsed(context, "platform")?;
    Ok(Box::new(move |turns| {
        let image = open(&images, &id, &platform, &permitted)?;
        let waste = turns.take(|| Waste::new(&images, image, id.to_string(), worst))?;
        Ok(Box::new(waste))
    }))
}

fn usage(app: &App, context: &mut RequestContext) -> Result<Begin<Usage>> {
    known(context, &["in", "repositories"])?;
    let wanted = usage::Wanted {
        repositories: parsed(context, "in")?,
        repositories_only: flag(context, "repositories")?,
    };
    let after = after(context, usage::After::parse)?;
    let (images, permitted) = (Arc::clone(app.registry.images()), permitted(app, context));
    Ok(Box::new(move |turns| {
        Ok(turns.take(|| Usage::new(&images, &permitted, &wanted, after.as_ref()))?)
    }))
}

fn tags(app: &App, context: &mut RequestContext) -> Result<Begin<Tags>> {
    known(context, &["repository", "sort", "order"])?;
    let missing = || Error::ParameterInvalid {
        name: "repository",
        cause: "want the name of a repository".to_owned(),
    };
    let repository: Repository = parsed(context, "repository")?.ok_or_else(missing)?;
    let sort = parsed(context, "sort")?.unwrap_or_default();
    let order = parsed(context, "order")?;
    let after = after(context, tags::After::parse)?;
    let (images, permitted) = (Arc::clone(app.registry.images()), permitted(app, context));
    let registry = Arc::clone(&app.registry);
    Ok(Box::new(move |turns| {
        // They are told of all the same, but not those of the last seconds.
        if let Err(error) = registry.write_pulls() {
            tracing::warn!(%error, "cannot write down what was pulled");
        }
        Ok(turns.take(|| Tags::new(&images, &permitted, repository, sort, order, after))?)
    }))
}

fn layers(app: &App, context: &mut RequestContext) -> Result<Begin<Box<dyn Answer>>> {
    known(context, &["image"])?;
    let images = context.query.iter().filter(|(key, _)| key == "image");
    let ids = images.map(|(_, image)| image.parse()).collect::<Result<Vec<Id>, _>>()?;
    let after = after(context, |after| std::str::from_utf8(after).ok()?.parse().ok())?;
    let (images, permitted) = (Arc::clone(app.registry.images()), permitted(app, context));
    Ok(Box::new(move |turns| {
        let layers = turns.take(|| Layers::new(&images, ids, &permitted, after))?;
        Ok(Box::new(layers))
    }))
}

/// The parameters of questions about several images.
const SCOPE: [&str; 3] = ["in", "tag", "untagged"];
/// The parameters of `diff`.
const DIFF: [&str; 6] = ["a", "b", "path", "path_bytes", "platform", "platform_b"];
/// The parameters of `find`, besides.
const FIND: [&str; 13] = [
    "name", "path", "sha256", "type", "mode", "size", "newer", "uid", "gid", "xattr", "deleted",
    "images", "image",
];

/// Those of `grep`.
const GREP: [&str; 16] = [
    "submatches",
    "pattern",
    "fixed",
    "ignore_case",
    "smart_case",
    "word",
    "invert",
    "report",
    "before_context",
    "after_context",
    "max_count",
    "max_filesize",
    "text",
    "path",
    "image",
    "index_skip",
];
/// Bytes of the longest line that is searched: many questions may meet one at the same time.
const LINE_MAX: usize = 4 << 20;

/// Refuses parameters that the question does not know: left out, they would mean more files.
fn known(context: &RequestContext, names: &[&str]) -> Result<()> {
    const ALWAYS: [&str; 3] = ["limit", "after", "progress"];
    let names = [names, &ALWAYS].concat();
    match context.query.iter().find(|(key, _)| !names.contains(&&**key)) {
        None => Ok(()),
        Some((key, _)) => Err(Error::ParameterUnknown {
            name: key.chars().take(32).collect(),
            known: names.join(", "),
        }),
    }
}

fn parsed<T: FromStr<Err: fmt::Display>>(
    context: &RequestContext,
    name: &'static str,
) -> Result<Option<T>> {
    read(context, name, str::parse::<T>)
}

fn read<T, E: fmt::Display>(
    context: &RequestContext,
    name: &'static str,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<Option<T>> {
    let value = context.parameter(name).map(parse).transpose();
    value.map_err(|cause| Error::ParameterInvalid { name, cause: cause.to_string() })
}

fn scope(context: &RequestContext) -> Result<Scope> {
    let images = context.query.iter().filter(|(key, _)| key == "image");
    Ok(Scope {
        repositories: parsed(context, "in")?,
        tags: parsed(context, "tag")?,
        untagged: flag(context, "untagged")?,
        images: images.map(|(_, image)| image.parse()).collect::<Result<_, _>>()?,
    })
}

fn wanted(context: &RequestContext) -> Result<Wanted> {
    let mut contents = HashSet::new();
    for (_, hex) in context.query.iter().filter(|(key, _)| key == "sha256") {
        match format!("sha256:{}", hex.strip_prefix("sha256:").unwrap_or(hex)).parse() {
            Ok(Digest::Sha256(hash)) => contents.insert(hash),
            _ => {
                let cause = "want 64 hex digits".to_owned();
                return Err(Error::ParameterInvalid { name: "sha256", cause });
            }
        };
    }
    Ok(Wanted {
        name: parsed(context, "name")?,
        path: parsed(context, "path")?,
        contents,
        kind: parsed(context, "type")?,
        mode: parsed(context, "mode")?,
        size: parsed(context, "size")?,
        newer: read(context, "newer", time)?,
        uid: parsed(context, "uid")?,
        gid: parsed(context, "gid")?,
        xattr: parsed(context, "xattr")?,
        deleted: flag(context, "deleted")?,
    })
}

fn after<T>(
    context: &mut RequestContext,
    parse: impl FnOnce(&[u8]) -> Option<T>,
) -> Result<Option<T>> {
    let invalid = || Error::ParameterInvalid {
        name: "after",
        cause: "want what the end of an earlier answer has as `next`".to_owned(),
    };
    let after = context.after.take();
    after.map(|after| parse(&after).ok_or_else(invalid)).transpose()
}

/// What is compared.
struct Compared {
    ids: [Id; 2],
    platforms: [Option<Platform>; 2],
    paths: Vec<Vec<u8>>,
    after: Option<diff::After>,
}

impl Compared {
    fn parse(context: &mut RequestContext) -> Result<Compared> {
        let ids = [id(context, "a")?, id(context, "b")?];
        let platform: Option<Platform> = parsed(context, "platform")?;
        let other = parsed(context, "platform_b")?.or_else(|| platform.clone());
        let paths = context.query.iter().filter_map(|(key, path)| match key.as_str() {
            "path" => Some(path.clone().into_bytes()),
            "path_bytes" => Some(percent_decode_str(path).collect()),
            _ => None,
        });
        let paths: Vec<Vec<u8>> = paths.collect();
        let after = after(context, diff::After::parse)?;
        Ok(Compared { ids, platforms: [platform, other], paths, after })
    }

    fn begin(self, images: &Images, permitted: &Permitted, turns: &Turns) -> Result<Diff> {
        let side = |side: usize| open(images, &self.ids[side], &self.platforms[side], permitted);
        let (a, b) = (side(0)?, side(1)?);
        turns.take(|| {
            let diff = Diff::new(a, b, &self.paths)?;
            Ok(match &self.after {
                Some(after) => diff.after(after)?,
                None => diff,
            })
        })
    }
}

/// A parameter that names an image.
fn id(context: &RequestContext, name: &'static str) -> Result<Id> {
    let missing = || Error::ParameterInvalid { name, cause: "want an image".to_owned() };
    parsed(context, name)?.ok_or_else(missing)
}

fn open(
    images: &Images,
    id: &Id,
    platform: &Option<Platform>,
    permitted: &Permitted,
) -> Result<Arc<Image>> {
    match images.open_where(id, platform.as_ref(), &**permitted)? {
        Opened::Image(image) => Ok(image),
        Opened::Layer(_) | Opened::Artifact(_) => Err(Error::Artifact(id.to_string())),
    }
}

/// What the client may pull.
pub fn permitted(app: &App, context: &RequestContext) -> Permitted {
    let (access, identity) = (Arc::clone(&app.access), context.proof.identity.clone());
    Arc::new(move |repository: &Repository| access.may(&identity, repository, Right::Pull))
}

/// An answer while it is sent.
struct Answering<W> {
    answer: Box<dyn Answer>,
    writing: W,
    /// Lines that may still be sent.
    left: u64,
    lines: u64,
    skipped: u64,
    /// How long it has taken so far, without the waits for the client.
    made: Duration,
}

impl<W: Writing> Answering<W> {
    /// The next piece, and whether it is the last.
    fn piece(&mut self, id: u64) -> Result<(Vec<u8>, bool)> {
        let start = Instant::now();
        let mut piece = Vec::new();
        let bound = loop {
            if self.left == 0 && self.answer.may_pause() {
                break Some("limit");
            }
            let step = match self.answer.step(&mut piece) {
                Ok(step) => step,
                Err(error) => {
                    let error = Error::from(error);
                    return match self.writing.failed(&error.message(id), &mut piece) {
                        true => {
                            tracing::error!(id = format_args!("{id:016x}"), %error, "an answer broke off");
                            Ok((piece, true))
                        }
                        false => Err(error),
                    };
                }
            };
            match step {
                Step::Hit(()) => {
                    self.left = self.left.saturating_sub(1);
                    self.lines += 1;
                }
                Step::Skipped(skipped) => {
                    self.skipped += 1;
                    tracing::warn!(image = skipped.image, error = %skipped.error, "left out of an answer");
                    let error = Error::from(*skipped.error).message(id);
                    self.writing.skipped(&skipped.image, &error, &mut piece);
                }
                Step::Working => {}
                Step::End => break None,
            }
            let elapsed = start.elapsed();
            if self.made + elapsed > TIME && self.answer.may_pause() {
                break Some("time");
            }
            if piece.len() >= PIECE || elapsed > PIECE_TIME {
                self.made += elapsed;
                if let Some(progress) = self.answer.progress() {
                    self.writing.progress(progress, &mut piece);
                }
                return Ok((piece, false));
            }
        };
        let looked = self.answer.looked();
        let next = bound.and_then(|_| self.answer.position());
        let end = End {
            lines: self.lines,
            images: looked.images,
            skipped: self.skipped,
            waiting_images: looked.waiting_images,
            waiting_layers: looked.waiting_layers,
            bound,
            next,
            index_skip: looked.index_skip,
        };
        self.writing.end(&end, &mut piece);
        Ok((piece, true))
    }
}
