//! Deletes the tags that the rules of retention let go, see [`Retention`].

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::gc::RunError;
use super::scan;
use crate::auth;
use crate::events::{Event, Kind};
use crate::image::Images;
use crate::index::shared::{self, Owner};
use crate::index::{Index, LayerOptions, Layers};
use crate::metrics;
use crate::oci::{Digest, Repository, Tag};
use crate::registry::retention::{Retention, TagTimes};
use crate::registry::{self, OpenError, Registry};
use crate::storage::{self, Storage};

/// How the work is called on the socket.
pub(super) const WORK: &str = "retention";

/// What a run is asked for.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Request {
    /// The file with the rules; `None`: the server's own.
    pub file: Option<PathBuf>,
    pub dry_run: bool,
}

/// A part of the result of a run: each tag that goes, then how many.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Part {
    End { end: End },
    Going(Going),
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct End {
    pub tags: u64,
}

/// A tag that goes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Going {
    pub repository: String,
    pub tag: String,
    pub digest: String,
    /// Seconds since 1970.
    pub pushed: u64,
    /// The same; or since when pulls are noted, if it was not pulled since then.
    pub pulled: u64,
    /// The line of the file in which the rule begins that says so.
    pub rule: u64,
}

/// Deletes what the rules let go, in the registry in `dir`, whose blobs are below `root`: by its
/// server, or without one in this process.
pub fn run(
    dir: &Path,
    root: &Path,
    layers: &LayerOptions,
    request: &Request,
    mut part: impl FnMut(Part),
) -> Result<(), RunError> {
    if !dir.is_dir() || !root.is_dir() {
        return Err(OpenError::Missing(dir.to_owned()).into());
    }
    let mut request = request.clone();
    if let Some(file) = &mut request.file {
        *file = std::path::absolute(&*file).map_err(|cause| auth::Error::read(file, cause))?;
    }
    let asked = serde_json::to_value(&request).expect("a request is an object");
    let answered = shared::ask_server(dir, WORK, &asked, |answer| {
        part(serde_json::from_value(answer)?);
        Ok(())
    })?;
    let _lock = match answered.map_err(RunError::Server)? {
        Owner::Server => return Ok(()),
        Owner::Here(lock) => lock,
    };
    let file = request.file.ok_or(RunError::NoRules)?;
    let rules = Retention::read(&file)?;
    let options = storage::Options {
        root: root.to_owned(),
        read_only: request.dry_run,
        sparse_images: false,
    };
    let storage = Arc::new(Storage::open(&options)?);
    let index = Arc::new(Index::open(&dir.join("db"))?);
    let layers = Layers::new(Arc::clone(&storage), index, layers).map_err(RunError::Threads)?;
    let layers = Arc::new(layers);
    registry::record(&storage, &layers);
    let images = Images::new(layers);
    scan(&images, true)?;
    let going =
        |going: &Going, _: &Repository, _: &Tag, _: &Digest| part(Part::Going(going.clone()));
    let tags = apply(&images, &rules, request.dry_run, going)?;
    part(Part::End { end: End { tags } });
    Ok(())
}

impl Registry {
    /// Deletes the tags that the server's own rules let go. Returns their number.
    pub(super) fn retain(&self) -> Result<u64, RunError> {
        match self.retention() {
            Some(rules) => self.retain_by(&rules, false, |_| {}),
            None => Ok(0),
        }
    }

    fn retain_by(
        &self,
        rules: &Retention,
        dry_run: bool,
        mut report: impl FnMut(&Going),
    ) -> Result<u64, RunError> {
        // Without them, what was just pulled could go.
        self.write_pulls()?;
        let tags = apply(&self.images, rules, dry_run, |going, repository, tag, digest| {
            report(going);
            if dry_run {
                return;
            }
            let (tag_name, rule) = (&going.tag, going.rule);
            tracing::info!(%repository, tag = tag_name, %digest, rule, "retention deleted a tag");
            let event = Event::new(Kind::Untag, self.event_id(repository, digest), &Arc::default());
            self.events.publish(event.repository(repository).digest(digest).tag(tag));
        })?;
        if !dry_run {
            metrics::retention(tags);
        }
        Ok(tags)
    }

    /// Does the same for another process. The error is a message for it.
    pub(super) fn answer_retention(
        &self,
        read_only: bool,
        request: serde_json::Value,
        send: &mut shared::SendPart<'_>,
    ) -> Result<(), String> {
        let request: Request = serde_json::from_value(request).map_err(|e| e.to_string())?;
        if read_only && !request.dry_run {
            return Err("it was started with --read-only".to_owned());
        }
        let rules = match &request.file {
            Some(file) => Arc::new(Retention::read(file).map_err(|e| e.to_string())?),
            None => self.retention().ok_or_else(|| RunError::NoRules.to_string())?,
        };
        // An asker that is gone is no reason to stop.
        let mut send = |part| {
            let part = serde_json::to_value(part).expect("a part is an object");
            let _ = send(part);
        };
        let report = |going: &Going| send(Part::Going(going.clone()));
        let tags = self.retain_by(&rules, request.dry_run, report);
        send(Part::End { end: End { tags: tags.map_err(|e| e.to_string())? } });
        Ok(())
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Deletes the tags that the rules let go, and calls `report` for each. A tag that is pushed
/// meanwhile stays. Returns how many went.
fn apply(
    images: &Images,
    rules: &Retention,
    dry_run: bool,
    mut report: impl FnMut(&Going, &Repository, &Tag, &Digest),
) -> Result<u64, RunError> {
    let (storage, index) = (images.layers().storage(), images.layers().index());
    let now = SystemTime::now();
    // Without a record of pulls, every tag counts as pulled just now.
    let since = index.pulls_since()?.map(|since| UNIX_EPOCH + Duration::from_secs(since));
    let since = since.unwrap_or(now);
    let mut repositories = Vec::new();
    storage.walk(|repository| {
        if rules.is_about(repository) {
            repositories.push(repository.clone());
        }
        Ok::<_, storage::Error>(())
    })?;
    repositories.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
    let mut count = 0;
    for repository in &repositories {
        let (mut tags, mut digests) = (Vec::new(), Vec::new());
        for tag in storage.tag_names(repository)? {
            let tag = tag?;
            let Some((digest, pushed)) = storage.tag_target(repository, &tag)? else { continue };
            // A tag that dangles names nothing, and must not count among the newest.
            if !storage.holds_manifest(repository, &digest)? {
                continue;
            }
            let pulled = index.last_pull(repository, &tag, &digest)?;
            let pulled = pulled.map(|at| UNIX_EPOCH + Duration::from_secs(at));
            // Since then later pulls may have been missed.
            let pulled = pulled.map_or(since, |at| at.max(since));
            tags.push(TagTimes { tag, pushed, pulled });
            digests.push(digest);
        }
        for (place, rule) in rules.going(repository, &tags, now) {
            let (TagTimes { tag, pushed, pulled }, digest) = (&tags[place], &digests[place]);
            if !dry_run && !storage.delete_tag_if(repository, tag, digest, *pushed)? {
                continue;
            }
            count += 1;
            let going = Going {
                repository: repository.to_string(),
                tag: tag.to_string(),
                digest: digest.to_string(),
                pushed: seconds(*pushed),
                pulled: seconds(*pulled),
                rule: rule as u64,
            };
            report(&going, repository, tag, digest);
        }
    }
    Ok(count)
}
