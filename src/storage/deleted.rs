//! Tags of deleted manifests. A manifest may have ten thousand of them, and to remove each takes
//! longer than a client waits. So where a repository has many tags, a delete notes the digest below
//! `_manifests/deleted`, and takes away the manifest's own link. From then on nothing shows its tags:
//! readers find no manifest, and lists leave out tags of what is noted. The tags are removed later,
//! after a restart too, and the note goes last. A push of the same manifest waits for that.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;

use super::durable::discard;
use super::{Change, Error, Result, Storage, exists, read_link};
use crate::oci::{Algorithm, Digest, Repository, Tag};

/// Tags of a repository up to which a delete removes tags at once.
const AT_ONCE: usize = 64;
/// Tags removed under the repository's lock, for which pushes wait.
const BATCH: usize = 16;

/// What a delete has done with a manifest's tags.
#[derive(Debug, PartialEq, Eq)]
pub enum Tags {
    /// These were removed.
    Removed(Vec<Tag>),
    /// They are removed by [`Storage::remove_dead_tags`].
    Left,
}

impl Storage {
    /// Whether a delete removes tags later, because there are many.
    pub(super) fn has_many_tags(&self, repository: &Repository) -> Result<bool> {
        Ok(self.tag_names(repository)?.take(AT_ONCE + 1).count() > AT_ONCE)
    }

    /// Notes that a manifest is deleted, while its tags are not. `note` is kept until they are.
    pub(super) fn note_deleted(
        &self,
        repository: &Repository,
        digest: &Digest,
        note: &[u8],
    ) -> Result<()> {
        self.durable.write(&self.layout.deleted(repository, digest), note)
    }

    /// Whether a manifest is deleted, and its tags are not yet.
    pub fn has_dead_tags(&self, repository: &Repository, digest: &Digest) -> Result<bool> {
        exists(&self.layout.deleted(repository, digest))
    }

    /// The manifests that are deleted and whose tags are not yet.
    pub fn dead(&self, repository: &Repository) -> Result<HashSet<Digest>> {
        let mut dead = HashSet::new();
        for algorithm in Algorithm::ALL {
            let folder = self.layout.deleted_all(repository, algorithm);
            for digest in self.digests_in(&folder, algorithm)? {
                // A crash may have left a folder without its note.
                if self.has_dead_tags(repository, &digest)? {
                    dead.insert(digest);
                }
            }
        }
        Ok(dead)
    }

    /// Removes the tags of the manifests that are deleted. `removed` hears of each tag with its
    /// manifest and the note of its delete, and at the end of each manifest without a tag.
    pub fn remove_dead_tags(
        &self,
        repository: &Repository,
        mut removed: impl FnMut(&Digest, &[u8], Option<&Tag>),
    ) -> Result<()> {
        let mut dead = HashMap::new();
        for digest in self.dead(repository)? {
            let _lock = self.lock(repository);
            // Another run may be faster, and the manifest pushed again.
            let Some(note) = self.note_of(repository, &digest)? else { continue };
            // The delete may have been cut off between its two steps.
            self.remove_link(&self.layout.revision_link(repository, &digest))?;
            self.forget_manifest(repository, &digest);
            self.changed(Change::Manifest { repository, digest: &digest, bytes: None });
            dead.insert(digest, note);
        }
        if dead.is_empty() {
            return Ok(());
        }
        let named = |tag: &Tag| match read_link(&self.layout.tag_current(repository, tag)) {
            // A damaged tag names nothing.
            Err(Error::Damaged { .. }) => Ok(None),
            named => named.map(|named| named.filter(|named| dead.contains_key(named))),
        };
        let mut batch = Vec::new();
        let mut names = self.tag_names(repository)?;
        let mut is_last = false;
        while !is_last {
            match names.next().transpose()? {
                Some(tag) if named(&tag)?.is_some() => batch.push(tag),
                Some(_) => {}
                None => is_last = true,
            }
            if batch.len() < BATCH && !is_last {
                continue;
            }
            let (mut aside, mut gone) = (Vec::new(), Vec::new());
            let lock = self.lock(repository);
            for tag in batch.drain(..) {
                // It may name another manifest by now, or the same that was pushed again.
                if let Some(digest) = named(&tag)?
                    && self.has_dead_tags(repository, &digest)?
                {
                    aside.extend(self.durable.set_aside(&self.layout.tag(repository, &tag))?);
                    self.changed(Change::Tag(repository, &tag));
                    gone.push((digest, tag));
                }
            }
            self.durable.sync_if_there(&self.layout.tags(repository))?;
            drop(lock);
            aside.iter().for_each(|path| discard(path));
            for (digest, tag) in &gone {
                removed(digest, &dead[digest], Some(tag));
            }
        }
        for (digest, note) in &dead {
            let _lock = self.lock(repository);
            let path = self.layout.deleted(repository, digest);
            if self.durable.remove(path.parent().expect("a note lies in a folder of its own"))? {
                removed(digest, note, None);
            }
        }
        self.touch(repository, false);
        Ok(())
    }

    fn note_of(&self, repository: &Repository, digest: &Digest) -> Result<Option<Vec<u8>>> {
        let path = self.layout.deleted(repository, digest);
        match fs::read(&path) {
            Ok(note) => Ok(Some(note)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("read", &path, e)),
        }
    }
}
