//! Questions whose answers come in steps: from the store, or from a server.

use std::collections::HashSet;
use std::sync::Arc;

use anyhow::{Result, bail};
use serde::Deserialize;

use super::output::complain;
use crate::query;
use crate::remote::{self, Query, Server};

/// Lines that a server is asked for at a time, which is the most that it takes.
const LINES: u64 = 1_000_000;

/// What an answer comes to.
pub enum Step<T> {
    Hit(T),
    /// An image is left out; the message says which and why.
    Skipped(String),
    /// Nothing was found in a while.
    Working,
    End,
}

/// An answer on its way, whose hits are ready to be printed.
pub trait Answer {
    type Hit;

    fn step(&mut self) -> Result<Step<Self::Hit>>;

    /// Images that were left out, and layers that have no index yet. At the end it is complete.
    fn waiting(&self) -> (u64, u64);

    /// Bytes that are done, and all that are known of.
    fn progress(&self) -> Option<(u64, u64)> {
        None
    }
}

/// A step of an answer from the store. `show` makes of a hit what is printed.
pub fn step<T, U>(step: query::Step<T>, show: impl FnOnce(T) -> U) -> Step<U> {
    match step {
        query::Step::Hit(hit) => Step::Hit(show(hit)),
        query::Step::Skipped(skipped) => {
            Step::Skipped(format!("{}: {}", skipped.image, skipped.error))
        }
        query::Step::Working => Step::Working,
        query::Step::End => Step::End,
    }
}

/// Says how many images were left out because of layers without an index.
pub fn complain_of_waiting((images, layers): (u64, u64)) {
    if images > 0 {
        complain(format_args!(
            "{images} images were left out, because {layers} layers have no index yet: `registry index --all` indexes them"
        ));
    }
}

/// An answer from a server: an object a line, in as many parts as the server makes.
pub struct RemoteLines {
    server: Arc<Server>,
    path: String,
    /// The parameters, but for `after`.
    query: Query,
    part: remote::Answer,
    after: Option<String>,
    line: Vec<u8>,
    is_flushed: bool,
    /// What was said of images that are left out: the next part may say it again.
    skipped: HashSet<String>,
    waiting: (u64, u64),
    progress: Option<(u64, u64)>,
}

fn ask(server: &Server, path: &str, query: &Query) -> remote::Result<remote::Answer> {
    match query.is_long() {
        true => server.post(path, &query.to_string()),
        false => server.get(&format!("{path}?{query}")),
    }
}

/// A line that is no hit.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Control {
    Skipped { image: String, error: String },
    Progress { done: u64, total: u64 },
    End { waiting_images: u64, waiting_layers: u64, bound: Option<String>, next: Option<String> },
}

impl RemoteLines {
    /// Asks `find`, `grep` and the like.
    pub fn ask(server: &Arc<Server>, question: &str, mut query: Query) -> Result<RemoteLines> {
        query.add("limit", LINES);
        query.flag("progress", true);
        let path = format!("/v2/_query/{question}");
        Ok(RemoteLines {
            part: ask(server, &path, &query)?,
            server: Arc::clone(server),
            path,
            query,
            after: None,
            line: Vec::new(),
            is_flushed: false,
            skipped: HashSet::new(),
            waiting: (0, 0),
            progress: None,
        })
    }

    /// The next line, which is an object of the answer.
    pub fn step(&mut self) -> Result<Step<Vec<u8>>> {
        loop {
            if self.part.is_waiting() && !self.is_flushed {
                self.is_flushed = true;
                return Ok(Step::Working);
            }
            self.is_flushed = false;
            if !self.part.line(&mut self.line)? {
                return Err(self.part.unreadable("it has no end").into());
            }
            let is_control = [&b"{\"skipped\""[..], b"{\"progress\"", b"{\"end\""]
                .iter()
                .any(|start| self.line.starts_with(start));
            if !is_control {
                return Ok(Step::Hit(std::mem::take(&mut self.line)));
            }
            match self.part.parse(&self.line)? {
                Control::Skipped { image, error } => {
                    let message = format!("{image}: {error}");
                    if self.skipped.insert(message.clone()) {
                        return Ok(Step::Skipped(message));
                    }
                }
                Control::Progress { done, total } => {
                    self.progress = Some((done, total));
                    return Ok(Step::Working);
                }
                Control::End { waiting_images, waiting_layers, bound, next } => {
                    self.waiting = (waiting_images, waiting_layers);
                    let Some(bound) = bound else { return Ok(Step::End) };
                    // Otherwise the next part would be the same.
                    if next.is_none() || next == self.after {
                        bail!(
                            "{} stopped at its bound ({bound}), from which it cannot go on: ask about less",
                            self.server.url()
                        );
                    }
                    let mut query = self.query.clone();
                    query.add_encoded("after", next.as_deref().unwrap_or_default());
                    self.part = ask(&self.server, &self.path, &query)?;
                    self.after = next;
                }
            }
        }
    }

    pub fn parse<T: serde::de::DeserializeOwned>(&self, line: &[u8]) -> Result<T> {
        Ok(self.part.parse(line)?)
    }

    pub fn unreadable(&self, cause: serde_json::Error) -> anyhow::Error {
        self.part.unreadable(cause).into()
    }

    pub fn waiting(&self) -> (u64, u64) {
        self.waiting
    }

    pub fn progress(&self) -> Option<(u64, u64)> {
        self.progress
    }
}
