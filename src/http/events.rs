//! `/v1/events`: what happens, as it happens, one JSON object a line, as the npm
//! server has it.
//!
//! A reader holds one frame until the socket has taken it. What it cannot take
//! waits in the feed that all readers share; a reader that falls behind that gets a
//! last line that says so. Each reader gets only what it may pull.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::Response;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::body::{Body, Lines, NextLines, with_permit};
use super::error::{Error, Result};
use super::idle::Activity;
use super::{App, RequestContext};
use crate::auth::{Access, Proof, Right};
use crate::events::{self as feed, Events, Kind, Reader};
use crate::metrics;
use crate::oci::{Pattern, Repository};

/// Bytes of lines in one frame, about.
const FRAME: usize = 16 << 10;
/// From one look at what there is to the next where all was sent, so that a burst
/// of events costs a few writes a reader and not one each.
const PAUSE: Duration = Duration::from_millis(25);
/// What one request may filter by.
const PATTERNS_MAX: usize = 16;

pub fn stream(app: &Arc<App>, context: &RequestContext) -> Result<Response<Body>> {
    let waiting = Waiting {
        filter: Filter::parse(context)?,
        proof: context.proof.clone(),
        access: Arc::clone(&app.access),
        events: Arc::clone(&app.events),
        // Before the head goes out: who has it misses nothing.
        reader: app.events.feed().subscribe(),
        activity: Arc::clone(context.body.activity()),
        room: Arc::new(Semaphore::new(1)),
        next_look: Instant::now(),
        _counted: metrics::Reader::new(),
    };
    let mut response = Response::new(Body::from_source(Lines::new(waiting)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // nginx would hold lines back until it has a buffer full of them.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(response)
}

/// What a reader wants; empty sets are everything.
#[derive(Debug, Default)]
struct Filter {
    kinds: HashSet<Kind>,
    repositories: Vec<Pattern>,
}

impl Filter {
    fn parse(context: &RequestContext) -> Result<Filter> {
        let mut filter = Filter::default();
        for (name, values) in &context.query {
            for value in values.split(',').filter(|value| !value.is_empty()) {
                match name.as_str() {
                    "type" => {
                        let kind = Kind::from_name(value).ok_or_else(|| Error::Parameter {
                            name: "type",
                            value: value.chars().take(64).collect(),
                            want: "tag, untag, image, layer, verify, index or delete",
                        })?;
                        filter.kinds.insert(kind);
                    }
                    "repository" => {
                        let refused = |want| Error::Parameter {
                            name: "repository",
                            value: value.chars().take(255).collect(),
                            want,
                        };
                        if filter.repositories.len() == PATTERNS_MAX {
                            return Err(refused("at most 16 of them"));
                        }
                        let pattern = value.parse::<Pattern>();
                        let want = "a name or a pattern such as team/* or **";
                        filter.repositories.push(pattern.map_err(|_| refused(want))?);
                    }
                    _ => {}
                }
            }
        }
        Ok(filter)
    }

    fn wants_kind(&self, kind: Kind) -> bool {
        self.kinds.is_empty() || self.kinds.contains(&kind)
    }

    fn wants_repository(&self, repository: Option<&Repository>) -> bool {
        let matches =
            |pattern: &Pattern| repository.is_some_and(|name| pattern.matches(name.as_str()));
        self.repositories.is_empty() || self.repositories.iter().any(matches)
    }
}

/// Makes a reader's lines.
struct Waiting {
    filter: Filter,
    proof: Proof,
    access: Arc<Access>,
    events: Arc<Events>,
    reader: Reader,
    activity: Arc<Activity>,
    /// Given back by a frame that the socket has taken.
    room: Arc<Semaphore>,
    next_look: Instant,
    _counted: metrics::Reader,
}

impl NextLines for Waiting {
    /// The next frame, and what makes the one after it.
    async fn next(mut self) -> (Bytes, Option<Waiting>) {
        let room = Arc::clone(&self.room).acquire_owned().await;
        let room = room.expect("the semaphore is never closed");
        // So far the client kept the server waiting, from here on it is the
        // other way round: a quiet stream is not an idle connection.
        let working = self.activity.working();
        let heartbeat = self.events.feed().heartbeat;
        let silent = tokio::time::sleep(heartbeat);
        let mut silent = std::pin::pin!(silent);
        let (text, ended) = loop {
            tokio::select! {
                () = self.reader.ready() => {}
                () = &mut silent => {
                    let holds = self.access.still_holds(&self.proof);
                    break if holds {
                        (b"\n".to_vec(), false)
                    } else {
                        (last_line(Ended::Credentials), true)
                    };
                }
            }
            tokio::time::sleep_until(self.next_look).await;
            let (filter, access) = (&self.filter, &self.access);
            if !access.still_holds(&self.proof) {
                break (last_line(Ended::Credentials), true);
            }
            let identity = &self.proof.identity;
            // The access question comes before the pattern: nothing is matched for a reader who may
            // not see it.
            let wanted = |kind, repository: Option<&Repository>| {
                filter.wants_kind(kind)
                    && match repository {
                        Some(repository) => access.may(identity, repository, Right::Pull),
                        None => access.may_read_all(identity),
                    }
                    && filter.wants_repository(repository)
            };
            let read = self.reader.read(self.events.feed(), FRAME, wanted);
            if !self.reader.is_behind() {
                self.next_look = Instant::now() + PAUSE;
            }
            match read {
                Ok(text) if text.is_empty() => {}
                Ok(text) => break (text, false),
                Err(ended) => break (last_line(Ended::Feed(ended)), true),
            }
        };
        let frame = with_permit(text, room);
        drop(working);
        (frame, (!ended).then_some(self))
    }
}

/// Why a stream ends.
enum Ended {
    Feed(feed::Ended),
    /// The credentials that it was opened with hold no longer.
    Credentials,
}

fn last_line(ended: Ended) -> Vec<u8> {
    let (reason, missed) = match ended {
        Ended::Credentials => ("the credentials hold no longer: connect again", 0),
        Ended::Feed(feed::Ended::Closed) => ("the server is stopping", 0),
        Ended::Feed(feed::Ended::Behind { missed }) => {
            metrics::Reader::dropped();
            ("too slow: events were lost, connect again", missed)
        }
    };
    let line = format!(r#"{{"type":"end","reason":"{reason}","missed":{missed}}}"#);
    (line + "\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters() {
        let filter = |kinds: &[Kind], patterns: &[&str]| Filter {
            kinds: kinds.iter().copied().collect(),
            repositories: patterns.iter().map(|p| p.parse().unwrap()).collect(),
        };
        for (kinds, patterns, kind, repository, want) in [
            (&[][..], &[][..], Kind::Tag, Some("a"), true),
            (&[], &[], Kind::Index, None, true),
            (&[Kind::Tag], &[], Kind::Tag, Some("a"), true),
            (&[Kind::Tag], &[], Kind::Untag, Some("a"), false),
            (&[], &["team/*"], Kind::Tag, Some("team/app"), true),
            (&[], &["team/*"], Kind::Tag, Some("team/app/x"), false),
            (&[], &["team/**"], Kind::Tag, Some("team/app/x"), true),
            (&[], &["b", "a"], Kind::Tag, Some("a"), true),
            (&[], &["**"], Kind::Index, None, false),
        ] {
            let repository: Option<Repository> = repository.map(|name| name.parse().unwrap());
            let filter = filter(kinds, patterns);
            let wants = filter.wants_kind(kind) && filter.wants_repository(repository.as_ref());
            assert_eq!(wants, want, "{kinds:?} {patterns:?} {kind:?} {repository:?}");
        }
    }
}
