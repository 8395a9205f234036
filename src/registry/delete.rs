//! What a delete means: of tags, manifests and blobs.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use serde::{Deserialize, Serialize};

use super::push::ids;
use super::{Api, Caller, Page, Registry, Result, StorageError};
use crate::events::{Cause, Event, Kind};
use crate::index::ids::Ids;
use crate::index::{self, Layers};
use crate::oci::{Contents, Digest, Reference, Repository, Tag};
use crate::storage::Tags;

/// What is kept of a delete until all tags of its manifest are gone.
#[derive(Serialize, Deserialize)]
struct Note {
    /// The `id` of its events.
    id: String,
    user: Option<String>,
}

/// Deletes whose tags are removed in the background.
#[derive(Debug, Default)]
pub(super) struct Deletes(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    waiting: HashSet<Repository>,
    /// A thread works on it.
    is_running: bool,
    /// Who deletes a manifest.
    causes: HashMap<(Repository, Digest), Arc<Cause>>,
}

impl Deletes {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing is broken half way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next repository. `None`: there is none, and the thread that asks has to end.
    fn next(&self) -> Option<Repository> {
        let mut queue = self.queue();
        let next = queue.waiting.iter().next().cloned();
        match &next {
            Some(repository) => drop(queue.waiting.remove(repository)),
            None => queue.is_running = false,
        }
        next
    }
}

/// A manifest that events are about.
struct Subject<'a> {
    repository: &'a Repository,
    digest: Digest,
    /// `None`: it cannot be read.
    contents: Option<Contents>,
}

impl Subject<'_> {
    /// The `id` of the events.
    fn id(&self) -> String {
        let config = self.contents.as_ref().and_then(Contents::config);
        config.unwrap_or(&self.digest).hex()
    }

    fn event(&self, kind: Kind, caller: &Caller) -> Event {
        let event = Event::new(kind, self.id(), &caller.cause);
        event.repository(self.repository).digest(&self.digest)
    }
}

impl Registry {
    fn subject<'a>(&self, repository: &'a Repository, digest: Digest) -> Subject<'a> {
        let stored = self.storage.manifest(repository, &Reference::Digest(digest));
        let contents = stored.ok().and_then(|stored| Contents::parse(&stored.bytes).ok());
        Subject { repository, digest, contents }
    }

    /// The `id` of events about a manifest.
    pub(super) fn event_id(&self, repository: &Repository, digest: &Digest) -> String {
        self.subject(repository, *digest).id()
    }

    /// Deletes a tag, and not the manifest that it names.
    pub fn delete_tag(
        &self,
        caller: &Caller,
        repository: &Repository,
        tag: &Tag,
        api: Api,
    ) -> Result<()> {
        if self.retention().is_some_and(|rules| rules.is_immutable(repository, tag))
            && let Some((digest, _)) = self.storage.tag_target(repository, tag)?
        {
            let (repository, tag) = (repository.clone(), tag.clone());
            return Err(
                StorageError::TagImmutable { repository, tag, digest: digest.into() }.into()
            );
        }
        // The id is looked up first: after the delete it cannot be found.
        let id = match api {
            Api::V1 => self.v1_id(repository, tag)?,
            Api::V2 => None,
        };
        let digest = self.storage.delete_tag(repository, tag)?;
        let event = self.subject(repository, digest).event(Kind::Untag, caller).tag(tag);
        self.events.publish(match id {
            Some(id) => Event { id: id.to_string(), ..event },
            None => event,
        });
        Ok(())
    }

    /// Deletes all tags of a repository.
    pub fn delete_tags(&self, caller: &Caller, repository: &Repository, api: Api) -> Result<()> {
        /// Tags read at a time.
        const PAGE: usize = 10_000;
        let mut last = String::new();
        if let Some(rules) = self.retention().filter(|rules| rules.has_immutable(repository)) {
            // All of them, or none.
            for tag in self.storage.tag_names(repository)? {
                let tag = tag?;
                if rules.is_immutable(repository, &tag)
                    && let Some((digest, _)) = self.storage.tag_target(repository, &tag)?
                {
                    let (repository, digest) = (repository.clone(), Box::new(digest));
                    return Err(StorageError::TagImmutable { repository, tag, digest }.into());
                }
            }
        }
        loop {
            let Page { items, next } = self.tags(repository, &last, PAGE)?;
            for tag in items {
                match self.delete_tag(caller, repository, &tag, api) {
                    // Another request was faster.
                    Err(error) if error.is_manifest_unknown() => {}
                    other => other?,
                }
            }
            match next {
                Some(next) => last = next,
                None => return Ok(()),
            }
        }
    }

    /// Deletes a manifest, and the tags that name it.
    pub fn delete_manifest(
        self: &Arc<Self>,
        caller: &Caller,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<()> {
        // It is read first. A manifest that cannot be read can be deleted.
        let subject = self.subject(repository, *digest);
        let contents = subject.contents.as_ref();
        let ids = contents.map(|contents| ids(&self.images, repository, digest, contents));
        let note = Note { id: subject.id(), user: caller.cause.user.clone() };
        let note = serde_json::to_vec(&note).expect("a note is an object");
        let key = (repository.clone(), *digest);
        let rules = self.retention().filter(|rules| rules.has_immutable(repository));
        let is_immutable =
            rules.as_ref().map(|rules| |tag: &Tag| rules.is_immutable(repository, tag));
        let is_immutable = is_immutable.as_ref().map(|of| of as &dyn Fn(&Tag) -> bool);
        // It is known before the first event may need it.
        self.deletes.queue().causes.insert(key.clone(), Arc::clone(&caller.cause));
        let tags = self.storage.delete_manifest(repository, digest, &note, is_immutable);
        if !matches!(tags, Ok(Tags::Left)) {
            self.deletes.queue().causes.remove(&key);
        }
        let tags = tags.inspect_err(|_| {
            // One that is noted and has failed goes on.
            if matches!(self.storage.has_dead_tags(repository, digest), Ok(true)) {
                self.finish_deletes_later(repository);
            }
        })?;
        // A row that is left does no harm, because its readers ask the store for the manifest.
        if let Some(ids) = ids
            && let Err(error) = forget_ids(self.layers(), repository, digest, &ids)
        {
            tracing::warn!(
                %repository, %digest, %error, "cannot remove the ids of a deleted image"
            );
        }
        match tags {
            Tags::Removed(tags) => {
                for tag in &tags {
                    self.events.publish(subject.event(Kind::Untag, caller).tag(tag));
                }
                self.events.publish(subject.event(Kind::Delete, caller));
            }
            Tags::Left => self.finish_deletes_later(repository),
        }
        Ok(())
    }

    /// Removes the tags of deleted manifests in the background, of one repository after the other.
    fn finish_deletes_later(self: &Arc<Self>, repository: &Repository) {
        let mut queue = self.deletes.queue();
        queue.waiting.insert(repository.clone());
        if queue.is_running {
            return;
        }
        let registry = Arc::clone(self);
        let work = move || {
            while let Some(repository) = registry.deletes.next() {
                if let Err(error) = registry.finish_deletes(&repository) {
                    tracing::error!(
                        %repository, %error,
                        "the other tags of a deleted manifest are removed at the next start"
                    );
                }
            }
        };
        match thread::Builder::new().name("untag".into()).spawn(work) {
            Ok(_) => queue.is_running = true,
            Err(error) => tracing::error!(
                %repository, %error, "the tags of a deleted manifest are removed at the next start"
            ),
        }
    }

    /// Removes the tags of a repository's deleted manifests, and publishes the events of that.
    pub(super) fn finish_deletes(&self, repository: &Repository) -> Result<()> {
        self.storage.remove_dead_tags(repository, |digest, note, tag| {
            let note = serde_json::from_slice(note);
            let Note { id, user } = note.unwrap_or_else(|_| Note { id: digest.hex(), user: None });
            let key = (repository.clone(), *digest);
            let cause = self.deletes.queue().causes.get(&key).cloned();
            // After a restart no more is known.
            let cause = cause.unwrap_or_else(|| Arc::new(Cause { user, ..Cause::default() }));
            let kind = if tag.is_some() { Kind::Untag } else { Kind::Delete };
            let event = Event::new(kind, id, &cause).repository(repository).digest(digest);
            match tag {
                Some(tag) => self.events.publish(event.tag(tag)),
                None => {
                    self.deletes.queue().causes.remove(&key);
                    self.events.publish(event);
                }
            }
        })?;
        Ok(())
    }

    /// Goes on with the deletes that a server which was stopped has left.
    pub(super) fn finish_all_deletes(&self) -> Result<()> {
        self.storage.walk(|repository| self.finish_deletes(repository))
    }

    /// Takes a blob out of a repository. Other repositories keep it.
    pub fn delete_blob(
        &self,
        caller: &Caller,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<()> {
        self.storage.delete_blob(repository, digest)?;
        let event = Event::new(Kind::Delete, digest.hex(), &caller.cause);
        self.events.publish(event.repository(repository).digest(digest));
        Ok(())
    }
}

/// Forgets how a deleted manifest is found.
pub(super) fn forget_ids(
    layers: &Layers,
    repository: &Repository,
    digest: &Digest,
    ids: &Ids,
) -> index::Result<()> {
    let _changing = layers.index().changing();
    layers.index().remove_images(repository, digest, ids)?;
    match layers.storage().manifest(repository, &Reference::Digest(*digest)) {
        // It was pushed again meanwhile, perhaps before the rows went.
        Ok(_) => layers.index().add_images(repository, digest, ids),
        Err(_) => Ok(()),
    }
}
