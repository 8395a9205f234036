//! What happens in the registry, told to all who want to know: the readers of
//! `/v1/events` ([`Feed`]), hooks, and the endpoints of notifications.
//!
//! Publishing never fails and never waits for who listens: each of them has a
//! bound of its own, beyond which it loses events and says so.

mod feed;
pub mod hooks;
pub mod webhooks;

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use quick_cache::sync::Cache;
use serde::Serialize;

use crate::log::Client;
use crate::metrics;
use crate::oci::{Digest, Repository, Tag};
use hooks::Hooks;
use webhooks::Notifications;

pub use feed::{Ended, Feed, Reader};

/// Blobs that have come and that no manifest has named yet.
const ARRIVED_MAX: usize = 32 << 10;
/// Layers whose index is being made, as many as may wait for it and more.
const INDEXING_MAX: usize = 16 << 10;
/// Repositories that hear of one layer's index.
const INDEXING_REPOSITORIES: usize = 16;

/// The kinds of events, by the npm server's names where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A tag was set, for the first time or to another image.
    Tag,
    /// A tag was taken away.
    Untag,
    /// An image is there: its JSON (v1), or its manifest (v2).
    Image,
    /// A layer that the repository did not hold before is there.
    Layer,
    /// What was pushed has the digests that it should have.
    Verify,
    /// A layer was indexed.
    Index,
    /// A manifest or blob was deleted.
    Delete,
}

impl Kind {
    pub const ALL: [Kind; 7] =
        [Kind::Tag, Kind::Untag, Kind::Image, Kind::Layer, Kind::Verify, Kind::Index, Kind::Delete];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Tag => "tag",
            Kind::Untag => "untag",
            Kind::Image => "image",
            Kind::Layer => "layer",
            Kind::Verify => "verify",
            Kind::Index => "index",
            Kind::Delete => "delete",
        }
    }

    pub fn from_name(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// Who made it happen, and by what request.
#[derive(Clone, Debug, Default)]
pub struct Cause {
    pub user: Option<String>,
    pub address: Option<Client>,
    /// The request's id, as in the log.
    pub request: u64,
    pub method: String,
    /// The registry's name, as the client has it.
    pub host: String,
    pub user_agent: String,
}

#[derive(Clone, Debug)]
pub struct Event {
    pub kind: Kind,
    /// `None`: it belongs to no repository, so it is shown only where everybody may read
    /// everything.
    pub repository: Option<Repository>,
    pub tag: Option<Tag>,
    /// Of what it is about: a v1 id, or hex digits: the config's for an image
    /// that has one, else the digest's own.
    pub id: String,
    pub digest: Option<Digest>,
    /// Of a layer, what v1 clients check it by.
    pub checksum: Option<String>,
    /// Of what `digest` names, where that is known.
    pub media_type: Option<&'static str>,
    pub size: Option<u64>,
    /// The repository that a blob was mounted from.
    pub from: Option<Repository>,
    /// What was pushed or deleted, for those who hear of that alone: an image
    /// with a tag is told of once, with its tag.
    pub notable: bool,
    pub cause: Arc<Cause>,
    pub time: Timestamp,
}

impl Event {
    pub fn new(kind: Kind, id: String, cause: &Arc<Cause>) -> Event {
        Event {
            kind,
            repository: None,
            tag: None,
            id,
            digest: None,
            checksum: None,
            media_type: None,
            size: None,
            from: None,
            notable: matches!(kind, Kind::Tag | Kind::Untag | Kind::Layer | Kind::Delete),
            cause: Arc::clone(cause),
            time: Timestamp::now(),
        }
    }

    pub fn repository(mut self, repository: &Repository) -> Event {
        self.repository = Some(repository.clone());
        self
    }

    pub fn tag(mut self, tag: &Tag) -> Event {
        self.tag = Some(tag.clone());
        self
    }

    pub fn digest(mut self, digest: &Digest) -> Event {
        self.digest = Some(*digest);
        self
    }

    /// `REPOSITORY:TAG`, as the npm server tells it.
    pub fn full_tag(&self) -> Option<String> {
        let (repository, tag) = (self.repository.as_ref()?, self.tag.as_ref()?);
        Some(format!("{repository}:{tag}"))
    }

    /// One line of `/v1/events`. Without who made it happen: that concerns the
    /// operator, who has hooks, and not everybody who may pull.
    fn line(&self) -> String {
        let shown = Shown {
            kind: self.kind.name(),
            id: &self.id,
            tag: self.full_tag(),
            checksum: self.checksum.as_deref(),
            repository: self.repository.as_ref().map(Repository::as_str),
            digest: self.digest.as_ref().map(Digest::to_string),
            time: self.time.to_string(),
        };
        let mut line = serde_json::to_string(&shown).expect("text becomes JSON");
        line.push('\n');
        line
    }
}

/// The npm server's fields in its order, then ours.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tag: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    checksum: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repository: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    time: String,
}

/// A manifest that was accepted.
#[derive(Debug)]
pub struct Pushed<'a> {
    pub repository: &'a Repository,
    pub digest: &'a Digest,
    pub media_type: &'static str,
    pub size: u64,
    /// Not for an index.
    pub config: Option<&'a Digest>,
    /// Base first.
    pub layers: &'a [Digest],
    /// Those that it was pushed under.
    pub tags: &'a [Tag],
}

/// A repository that waits for a layer's index, and why.
type Waiting = Arc<Mutex<Vec<(Repository, Arc<Cause>)>>>;

#[derive(Debug)]
pub struct Events {
    feed: Feed,
    /// What manifests that come next bring new, and where it was mounted from.
    arrived: Cache<(Repository, Digest), Option<Repository>>,
    indexing: Cache<Digest, Waiting>,
    hooks: Option<Arc<Hooks>>,
    notifications: Option<Notifications>,
}

/// How events are told.
#[derive(Clone, Debug)]
pub struct Options {
    /// Between two signs of life for who reads a feed where nothing happens.
    pub heartbeat: Duration,
    pub hooks: hooks::Options,
    pub notifications: webhooks::Options,
}

impl Events {
    /// Starts what listens.
    pub fn start(options: &Options) -> anyhow::Result<Events> {
        Ok(Events {
            feed: Feed::new(options.heartbeat),
            arrived: Cache::new(ARRIVED_MAX),
            indexing: Cache::new(INDEXING_MAX),
            hooks: Hooks::start(&options.hooks).context("cannot start hooks")?,
            notifications: Notifications::start(&options.notifications)?,
        })
    }

    /// Lets who listens finish, for the end of the program.
    pub fn stop(&self, time: Duration) {
        if let Some(hooks) = &self.hooks {
            hooks.stop(time);
        }
        if let Some(notifications) = &self.notifications {
            notifications.stop();
        }
    }

    pub fn feed(&self) -> &Feed {
        &self.feed
    }

    /// Tells everybody. What one thread publishes is told in that order.
    pub fn publish(&self, event: Event) {
        metrics::event(event.kind.name());
        let event = Arc::new(event);
        self.feed.add(&event);
        if let Some(hooks) = &self.hooks {
            hooks.hear(&event);
        }
        if let Some(notifications) = &self.notifications {
            notifications.hear(&event);
        }
    }

    /// A blob came to a repository that did not hold it. Whether it is a layer
    /// only a manifest can tell.
    pub fn arrived(&self, repository: &Repository, digest: &Digest, from: Option<Repository>) {
        self.arrived.insert((repository.clone(), *digest), from);
    }

    /// Publishes what a pushed manifest means: the layers that came with it,
    /// then that all is sound, the image, its tags.
    pub fn pushed(
        &self,
        pushed: Pushed,
        size: impl Fn(&Digest) -> Option<u64>,
        cause: &Arc<Cause>,
    ) {
        let Pushed { repository, digest, config, tags, .. } = pushed;
        for layer in pushed.layers {
            let Some((_, from)) = self.arrived.remove(&(repository.clone(), *layer)) else {
                continue;
            };
            let event = Event::new(Kind::Layer, layer.hex(), cause).repository(repository);
            self.publish(Event {
                checksum: Some(layer.to_string()),
                media_type: Some("application/octet-stream"),
                size: size(layer),
                from,
                ..event.digest(layer)
            });
        }
        if let Some(config) = config {
            self.arrived.remove(&(repository.clone(), *config));
        }
        let about = |kind| {
            let id = config.unwrap_or(digest).hex();
            let event = Event::new(kind, id, cause).repository(repository);
            Event {
                media_type: Some(pushed.media_type),
                size: Some(pushed.size),
                ..event.digest(digest)
            }
        };
        let notable = tags.is_empty();
        self.publish(Event { notable, ..about(Kind::Verify) });
        if config.is_some() {
            self.publish(about(Kind::Image));
        }
        for tag in tags {
            self.publish(about(Kind::Tag).tag(tag));
        }
    }

    /// These layers will be indexed, for what was pushed to a repository.
    pub fn indexing(&self, layers: &[Digest], repository: &Repository, cause: &Arc<Cause>) {
        for layer in layers {
            let waiting =
                self.indexing.get_or_insert_with(layer, || Ok::<_, Infallible>(Waiting::default()));
            let Ok(waiting) = waiting;
            let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if waiting.len() < INDEXING_REPOSITORIES {
                waiting.push((repository.clone(), Arc::clone(cause)));
            }
        }
    }

    /// The work on a layer's index is over.
    pub fn indexed(&self, layer: &Digest, ready: bool) {
        let waiting = self.indexing.remove(layer);
        if !ready {
            return;
        }
        let event = |cause: &Arc<Cause>| Event::new(Kind::Index, layer.hex(), cause).digest(layer);
        let Some((_, waiting)) = waiting else {
            // Somebody looked into it.
            return self.publish(event(&Arc::default()));
        };
        let waiting = std::mem::take(&mut *waiting.lock().unwrap_or_else(PoisonError::into_inner));
        for (repository, cause) in waiting {
            self.publish(event(&cause).repository(&repository));
        }
    }
}
