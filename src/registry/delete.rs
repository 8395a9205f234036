//! What a delete means: of tags, manifests and blobs.

use super::push::ids;
use super::{Api, Caller, Page, Registry, Result};
use crate::events::{Event, Kind};
use crate::index::ids::Ids;
use crate::index::{self, Layers};
use crate::oci::{Contents, Digest, Reference, Repository, Tag};

/// A manifest that events are about.
struct Subject<'a> {
    repository: &'a Repository,
    digest: Digest,
    /// `None`: it cannot be read.
    contents: Option<Contents>,
}

impl Subject<'_> {
    fn event(&self, kind: Kind, caller: &Caller) -> Event {
        let config = self.contents.as_ref().and_then(Contents::config);
        let event = Event::new(kind, config.unwrap_or(&self.digest).hex(), &caller.cause);
        event.repository(self.repository).digest(&self.digest)
    }
}

impl Registry {
    fn subject<'a>(&self, repository: &'a Repository, digest: Digest) -> Subject<'a> {
        let stored = self.storage.manifest(repository, &Reference::Digest(digest));
        let contents = stored.ok().and_then(|stored| Contents::parse(&stored.bytes).ok());
        Subject { repository, digest, contents }
    }

    /// Deletes a tag, and not the manifest that it names.
    pub fn delete_tag(
        &self,
        caller: &Caller,
        repository: &Repository,
        tag: &Tag,
        api: Api,
    ) -> Result<()> {
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
        &self,
        caller: &Caller,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<()> {
        // It is read first. A manifest that cannot be read can be deleted.
        let subject = self.subject(repository, *digest);
        let contents = subject.contents.as_ref();
        let ids = contents.map(|contents| ids(&self.images, repository, digest, contents));
        let tags = self.storage.delete_manifest(repository, digest)?;
        // A row that is left does no harm, because its readers ask the store for the manifest.
        if let Some(ids) = ids
            && let Err(error) = forget_ids(self.layers(), repository, digest, &ids)
        {
            tracing::warn!(
                %repository, %digest, %error, "cannot remove the ids of a deleted image"
            );
        }
        for tag in &tags {
            self.events.publish(subject.event(Kind::Untag, caller).tag(tag));
        }
        self.events.publish(subject.event(Kind::Delete, caller));
        Ok(())
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
