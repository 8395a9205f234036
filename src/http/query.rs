//! Questions across images. Answers are streams of JSON objects, one a line; the last one says
//! whether the answer is complete, and how to go on where it is not.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Response};
use serde_json::json;

use super::body::{Body, PIECE};
use super::error::{Error, Result};
use super::files::{flag, limit, look};
use super::permits::Scarce;
use super::route::Question;
use super::{App, RequestContext};
use crate::auth::Right;
use crate::image::{self, Id, Image, Images, Opened, Platform, View};
use crate::oci::{Digest, Repository};
use crate::query::diff::Diff;
use crate::query::find::{After, Find, Wanted, time};
use crate::query::grep::{self, Asked, Case, Grep, Pace};
use crate::query::waste::Waste;
use crate::query::{Answer, Permitted, Scope, Step};

/// Paths and contents that an answer about waste lists.
const WORST: usize = 100;
/// Lines of an answer, where the request does not say how many.
const LINES: u64 = 1000;
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

    fn take<T>(&self, work: impl FnOnce() -> T) -> T {
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
    let lines = limit(context)?.unwrap_or(LINES);
    let begin = match question {
        Question::Find => find(app, context)?,
        Question::Grep => grep(app, context)?,
        Question::Diff => diff(app, context)?,
        Question::Waste => waste(app, context)?,
    };
    let permit = app.pools.of(Scarce::Questions).permit().await?;
    // To begin may take as long as any other piece: a glob is tried on every name of the index.
    let turns = Arc::clone(&app.turns);
    let answer = look(app, move || turns.take(begin)).await?;
    let mut response = Response::new(Body::Empty);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if context.method == Method::HEAD {
        return Ok(response);
    }
    let (turns, id) = (Arc::clone(&app.turns), context.id);
    let mut answering =
        Answering { answer, left: lines, lines: 0, skipped: 0, made: Duration::ZERO };
    let mut is_over = false;
    let produce = move || {
        if is_over {
            return Ok(None);
        }
        let (piece, over) = turns.take(|| answering.piece(id))?;
        is_over = over;
        Ok(Some(piece))
    };
    *response.body_mut() = Body::stream(Vec::new(), Box::new(produce), None, Arc::new(permit));
    Ok(response)
}

/// Begins an answer, on a thread that may block.
type Begin = Box<dyn FnOnce() -> Result<Box<dyn Answer>> + Send>;

fn find(app: &App, context: &mut RequestContext) -> Result<Begin> {
    known(context, &[&FIND[..], &SCOPE].concat())?;
    let (wanted, scope) = (wanted(context)?, scope(context)?);
    let after = after(context, After::parse)?;
    let (images, permitted) = (Arc::clone(app.registry.images()), permitted(app, context));
    Ok(Box::new(move || Ok(Box::new(Find::new(&images, &scope, &permitted, wanted, after)?))))
}

fn grep(app: &App, context: &mut RequestContext) -> Result<Begin> {
    known(context, &[&GREP[..], &SCOPE].concat())?;
    let values = |name| {
        let parameters = context.query.iter();
        parameters.filter(move |(key, _)| key == name).map(|(_, value)| value)
    };
    let asked = Asked {
        patterns: values("pattern").cloned().collect(),
        fixed: flag(context, "fixed")?,
        case: match flag(context, "ignore_case")? {
            true => Case::Insensitive,
            false => Case::Sensitive,
        },
        word: flag(context, "word")?,
        line_numbers: true,
        submatches: true,
        path: parsed(context, "path")?,
        line_max: LINE_MAX,
        ..Asked::default()
    };
    let invalid = |cause| Error::ParameterInvalid { name: "pattern", cause };
    if asked.patterns.is_empty() {
        return Err(invalid("want a regular expression".to_owned()));
    }
    let question = asked.compile().map_err(|error| invalid(error.to_string()))?;
    let mut scope = scope(context)?;
    for image in values("image") {
        scope.images.push(image.parse()?);
    }
    let after = after(context, grep::After::parse)?;
    let (images, permitted) = (Arc::clone(app.registry.images()), permitted(app, context));
    Ok(Box::new(move || {
        for image in &scope.images {
            // One that is not there is an error before the answer begins.
            let (repository, reference) = images.locate(image, &*permitted)?;
            if images.target(&repository, &reference)?.is_none() {
                return Err(image::Error::Unknown(image.to_string()).into());
            }
        }
        let grep = Grep::new(&images, &scope, &permitted, question, after, Pace::Steps)?;
        Ok(Box::new(grep))
    }))
}

fn diff(app: &App, context: &mut RequestContext) -> Result<Begin> {
    known(context, &DIFF)?;
    let compared = Compared::parse(context)?;
    let (images, permitted) = (Arc::clone(app.registry.images()), permitted(app, context));
    Ok(Box::new(move || Ok(Box::new(compared.begin(&images, &permitted)?))))
}

fn waste(app: &App, context: &mut RequestContext) -> Result<Begin> {
    known(context, &["image", "platform"])?;
    let id = id(context, "image")?;
    let platform: Option<Platform> = parsed(context, "platform")?;
    let (images, permitted) = (Arc::clone(app.registry.images()), permitted(app, context));
    Ok(Box::new(move || {
        let image = open(&images, &id, &platform, &permitted)?;
        Ok(Box::new(Waste::new(&images, image, WORST)?))
    }))
}

/// The parameters of questions about several images.
const SCOPE: [&str; 3] = ["in", "tag", "untagged"];
/// The parameters of `diff`.
const DIFF: [&str; 5] = ["a", "b", "path", "platform", "platform_b"];
/// The parameters of `find`, besides.
const FIND: [&str; 11] =
    ["name", "path", "sha256", "type", "mode", "size", "newer", "uid", "gid", "xattr", "deleted"];

/// Those of `grep`.
const GREP: [&str; 6] = ["pattern", "fixed", "ignore_case", "word", "path", "image"];
/// Bytes of the longest line that is searched: many questions may meet one at the same time.
const LINE_MAX: usize = 4 << 20;

/// Refuses parameters that the question does not know: left out, they would mean more files.
fn known(context: &RequestContext, names: &[&str]) -> Result<()> {
    match context.query.iter().find(|(key, _)| !names.contains(&&**key) && key != "limit") {
        None => Ok(()),
        Some((key, _)) => Err(Error::ParameterUnknown {
            name: key.chars().take(32).collect(),
            known: [names, &["limit", "after"]].concat().join(", "),
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
    Ok(Scope {
        repositories: parsed(context, "in")?,
        tags: parsed(context, "tag")?,
        untagged: flag(context, "untagged")?,
        images: Vec::new(),
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
    after: Option<Vec<u8>>,
}

impl Compared {
    fn parse(context: &mut RequestContext) -> Result<Compared> {
        let ids = [id(context, "a")?, id(context, "b")?];
        let platform: Option<Platform> = parsed(context, "platform")?;
        let other = parsed(context, "platform_b")?.or_else(|| platform.clone());
        let paths = context.query.iter().filter(|(key, _)| key == "path");
        let paths: Vec<Vec<u8>> = paths.map(|(_, path)| path.clone().into_bytes()).collect();
        let after = context.after.take();
        if after.is_some() && !paths.is_empty() {
            let cause = "an answer about paths cannot go on".to_owned();
            return Err(Error::ParameterInvalid { name: "after", cause });
        }
        Ok(Compared { ids, platforms: [platform, other], paths, after })
    }

    fn begin(self, images: &Images, permitted: &Permitted) -> Result<Diff> {
        let side = |side: usize| open(images, &self.ids[side], &self.platforms[side], permitted);
        let [a, b] = [side(0), side(1)];
        let diff = Diff::new(a?, b?, &self.paths)?;
        Ok(match &self.after {
            Some(after) => diff.after(after)?,
            None => diff,
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
fn permitted(app: &App, context: &RequestContext) -> Permitted {
    let (access, identity) = (Arc::clone(&app.access), context.proof.identity.clone());
    Arc::new(move |repository: &Repository| access.may(&identity, repository, Right::Pull))
}

/// An answer while it is sent.
struct Answering {
    answer: Box<dyn Answer>,
    /// Lines that may still be sent.
    left: u64,
    lines: u64,
    skipped: u64,
    /// How long it has taken so far, without the waits for the client.
    made: Duration,
}

impl Answering {
    /// The next piece, and whether it is the last.
    fn piece(&mut self, id: u64) -> Result<(Vec<u8>, bool)> {
        let start = Instant::now();
        let mut piece = Vec::new();
        let bound = loop {
            if self.left == 0 && self.answer.may_pause() {
                break Some("limit");
            }
            match self.answer.step(&mut piece)? {
                Step::Hit(()) => {
                    self.left = self.left.saturating_sub(1);
                    self.lines += 1;
                }
                Step::Skipped(skipped) => {
                    self.skipped += 1;
                    tracing::warn!(image = skipped.image, error = %skipped.error, "left out of an answer");
                    let error = Error::from(*skipped.error).message(id);
                    let line = json!({"skipped": {"image": skipped.image, "error": error}});
                    piece.extend_from_slice(format!("{line}\n").as_bytes());
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
                return Ok((piece, false));
            }
        };
        let looked = self.answer.looked();
        let next = bound.and_then(|_| self.answer.position());
        let end = json!({"end": {
            "lines": self.lines,
            "images": looked.images,
            "skipped": self.skipped,
            "waiting_images": looked.waiting_images,
            "waiting_layers": looked.waiting_layers,
            "bound": bound,
            "next": next,
        }});
        piece.extend_from_slice(format!("{end}\n").as_bytes());
        Ok((piece, true))
    }
}
