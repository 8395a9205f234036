//! Manifests, tags and referrers.
//!
//! A manifest is a blob with a revision link in its repository; a tag is a link to a revision. The
//! order of the steps keeps the store consistent at every moment. A push links blob, referrer,
//! revision and tags; a delete goes the other way. So a tag never names a manifest that is missing,
//! and every manifest is among its subject's referrers. Readers skip a referrer without a revision.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::{Change, Error, Page, Result, Storage, Tags, exists, read_link};
use crate::oci::manifest::stored_media_type;
use crate::oci::{Algorithm, Contents, Descriptor, Digest, Manifest, Reference, Repository, Tag};

/// A manifest as it was pushed.
#[derive(Debug)]
pub struct StoredManifest {
    pub digest: Digest,
    pub media_type: String,
    pub bytes: Bytes,
}

/// Manifests by repository and by what the client asked for, so that a pull by tag is one look-up.
pub type ManifestCache = Cache<(Repository, Reference), Arc<StoredManifest>, ByBytes>;

/// Counts a manifest once for each name under which it is cached.
#[derive(Clone, Debug)]
pub struct ByBytes;

impl Weighter<(Repository, Reference), Arc<StoredManifest>> for ByBytes {
    fn weight(&self, _: &(Repository, Reference), manifest: &Arc<StoredManifest>) -> u64 {
        const OVERHEAD: u64 = 512;
        manifest.bytes.len() as u64 + OVERHEAD
    }
}

pub fn cache(bytes: u64) -> ManifestCache {
    const TYPICAL: u64 = 2048;
    Cache::with_weighter((bytes / TYPICAL) as usize, bytes, ByBytes)
}

#[derive(Hash)]
struct ManifestKey<'a>(&'a Repository, &'a Reference);

impl quick_cache::Equivalent<(Repository, Reference)> for ManifestKey<'_> {
    fn equivalent(&self, key: &(Repository, Reference)) -> bool {
        *self.0 == key.0 && *self.1 == key.1
    }
}

/// Referrers listed on one page.
const REFERRERS_PAGE: usize = 100;
/// Manifests, and bytes of them, that are read for one page, whatever the filter selects.
const REFERRERS_READ: usize = 1000;
const REFERRERS_READ_BYTES: usize = 1 << 20;

impl Storage {
    /// A manifest that is in memory. Never blocks.
    pub fn cached_manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
    ) -> Option<Arc<StoredManifest>> {
        self.manifests.get(&ManifestKey(repository, reference))
    }

    pub fn manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
    ) -> Result<Arc<StoredManifest>> {
        if let Some(manifest) = self.cached_manifest(repository, reference) {
            return Ok(manifest);
        }
        // While a change holds the lock, the manifest is read without keeping it: a reader that
        // waited would take a thread from all others.
        let Some(_lock) = self.try_lock(repository).filter(|_| self.is_owned()) else {
            return self.load(repository, reference);
        };
        let manifest = self.load(repository, reference)?;
        self.manifests.insert((repository.clone(), reference.clone()), Arc::clone(&manifest));
        Ok(manifest)
    }

    /// Whether the repository has a manifest. The manifest is not read.
    pub fn holds_manifest(&self, repository: &Repository, digest: &Digest) -> Result<bool> {
        exists(&self.layout.revision_link(repository, digest))
    }

    /// Reads a manifest past the cache, for readers of all manifests.
    pub fn read_manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
    ) -> Result<Arc<StoredManifest>> {
        self.load(repository, reference)
    }

    fn load(&self, repository: &Repository, reference: &Reference) -> Result<Arc<StoredManifest>> {
        let unknown = || Error::ManifestUnknown {
            repository: repository.clone(),
            reference: reference.clone(),
        };
        let digest = match reference {
            Reference::Digest(digest) => *digest,
            Reference::Tag(tag) => {
                read_link(&self.layout.tag_current(repository, tag))?.ok_or_else(unknown)?
            }
        };
        let revision = self.layout.revision_link(repository, &digest);
        let target = read_link(&revision)?.ok_or_else(unknown)?;
        let path = self.layout.blob_data(&target);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(unknown()),
            Err(e) => return Err(Error::io("read", &path, e)),
        };
        let actual = digest.algorithm().digest(&bytes);
        if actual != digest {
            return Err(Error::Damaged {
                path,
                why: format!("it is {actual}: push the manifest again"),
            });
        }
        let media_type = stored_media_type(&bytes);
        Ok(Arc::new(StoredManifest { digest, media_type, bytes: bytes.into() }))
    }

    /// Stores `bytes`, which are `manifest` and hash to `digest`, and points
    /// `tags` at them, unless one that is immutable names another manifest.
    pub fn put_manifest(
        &self,
        repository: &Repository,
        tags: &[Tag],
        manifest: &Manifest,
        digest: &Digest,
        bytes: &[u8],
        is_immutable: &dyn Fn(&Tag) -> bool,
    ) -> Result<()> {
        // What was deleted with its tags must not come back with them.
        let _lock = loop {
            let lock = self.lock(repository);
            if !self.has_dead_tags(repository, digest)? {
                break lock;
            }
            drop(lock);
            self.remove_dead_tags(repository, |_, _, _| {})?;
        };
        for tag in tags {
            match self.tag_target(repository, tag)? {
                Some((named, _)) if named != *digest && is_immutable(tag) => {
                    return Err(Error::TagImmutable {
                        repository: repository.clone(),
                        tag: tag.clone(),
                        digest: Box::new(named),
                    });
                }
                _ => {}
            }
        }
        self.note_named(repository, bytes)?;
        self.check_blobs(repository, manifest)?;
        let new = !exists(&self.layout.manifests(repository))?;
        let link = digest.to_string();
        // Distribution knows a repository by this folder. Without it, its garbage-collect would
        // remove the manifest.
        self.durable.directory(&self.layout.layers(repository))?;
        self.durable.write(&self.layout.blob_data(digest), bytes)?;
        self.changed(Change::Blob(digest));
        // The referrer comes before the revision, so that a manifest that exists is listed among
        // the referrers.
        if let Some(subject) = &manifest.subject {
            self.durable
                .write(&self.layout.referrer_link(repository, subject, digest), link.as_bytes())?;
        }
        let revision = self.layout.revision_link(repository, digest);
        let written = self.durable.write(&revision, link.as_bytes());
        self.changed(Change::Manifest { repository, digest, bytes: Some(bytes) });
        written?;
        self.forget(repository, &Reference::Digest(*digest));
        for tag in tags {
            self.durable.write(&self.layout.tag_index(repository, tag, digest), link.as_bytes())?;
            match read_link(&self.layout.tag_current(repository, tag)) {
                Ok(Some(before)) if before != *digest => self.note_manifest(repository, &before)?,
                // A damaged tag names nothing.
                Ok(_) | Err(Error::Damaged { .. }) => {}
                Err(e) => return Err(e),
            }
            let moved =
                self.durable.write(&self.layout.tag_current(repository, tag), link.as_bytes());
            // The rename may have happened even if there was an error.
            self.forget(repository, &Reference::Tag(tag.clone()));
            self.changed(Change::Tag(repository, tag));
            moved?;
        }
        self.touch(repository, new);
        Ok(())
    }

    /// Notes what a manifest names that a client has just pushed, or that is about to go.
    fn note_named(&self, repository: &Repository, bytes: &[u8]) -> Result<()> {
        match Contents::parse(bytes) {
            Ok(Contents::Image { config, layers }) => {
                let _telling = self.telling();
                for digest in layers.iter().map(|layer| &layer.digest).chain([&config]) {
                    self.note(&self.layout.layer_link(repository, digest))?;
                }
                Ok(())
            }
            Ok(Contents::Index { children }) => {
                children.iter().try_for_each(|child| self.note_manifest(repository, &child.digest))
            }
            // It names nothing that can be looked into.
            Err(_) => Ok(()),
        }
    }

    /// Notes a manifest, if the repository holds it.
    fn note_manifest(&self, repository: &Repository, digest: &Digest) -> Result<()> {
        let _telling = self.telling();
        if self.holds_manifest(repository, digest)? {
            self.note(&self.layout.blob_data(digest))?;
        }
        Ok(())
    }

    /// Fails unless the repository holds what the manifest needs.
    pub fn check_manifest(&self, repository: &Repository, manifest: &Manifest) -> Result<()> {
        let _lock = self.lock(repository);
        self.check_blobs(repository, manifest)
    }

    fn check_blobs(&self, repository: &Repository, manifest: &Manifest) -> Result<()> {
        // The config describes the image, so it is required even where layers may be absent.
        let required = if self.sparse_images {
            manifest.blobs.get(..1).unwrap_or_default()
        } else {
            &manifest.blobs
        };
        let mut missing = Vec::new();
        let mut seen = HashSet::new();
        for digest in required.iter().filter(|&digest| seen.insert(digest)) {
            match self.blob_size_locked(repository, digest) {
                Ok(_) => {}
                Err(Error::BlobUnknown { digest, .. }) => missing.push(digest),
                Err(e) => return Err(e),
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        Err(Error::ManifestBlobUnknown { repository: repository.clone(), missing })
    }

    pub(super) fn forget(&self, repository: &Repository, reference: &Reference) {
        self.manifests.remove(&ManifestKey(repository, reference));
    }

    /// The manifest that a reference names, and when the tag was set or the manifest came.
    /// `None`: there is no such manifest.
    pub fn target(
        &self,
        repository: &Repository,
        reference: &Reference,
    ) -> Result<Option<(Digest, SystemTime)>> {
        let (digest, link) = match reference {
            Reference::Digest(digest) => (*digest, self.layout.revision_link(repository, digest)),
            Reference::Tag(tag) => {
                let link = self.layout.tag_current(repository, tag);
                match read_link(&link)? {
                    // A manifest may have been deleted without its tags.
                    Some(digest) if self.holds_manifest(repository, &digest)? => (digest, link),
                    _ => return Ok(None),
                }
            }
        };
        match fs::metadata(&link).and_then(|metadata| metadata.modified()) {
            Ok(time) => Ok(Some((digest, time))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("read", &link, e)),
        }
    }

    /// What a tag names, whether or not the repository holds that manifest. `None`: there is no such
    /// tag.
    pub fn tag_digest(&self, repository: &Repository, tag: &Tag) -> Result<Option<Digest>> {
        read_link(&self.layout.tag_current(repository, tag))
    }

    pub fn has_tag(&self, repository: &Repository, tag: &Tag) -> Result<bool> {
        exists(&self.layout.tag_current(repository, tag))
    }

    /// When a tag was last set.
    pub fn tag_time(&self, repository: &Repository, tag: &Tag) -> Result<SystemTime> {
        let link = self.layout.tag_current(repository, tag);
        match fs::metadata(&link).and_then(|metadata| metadata.modified()) {
            Ok(time) => Ok(time),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(Error::ManifestUnknown {
                repository: repository.clone(),
                reference: Reference::Tag(tag.clone()),
            }),
            Err(e) => Err(Error::io("read", &link, e)),
        }
    }

    /// What a tag names, and when it was set. `None`: there is no such tag, or it is damaged.
    pub fn tag_target(
        &self,
        repository: &Repository,
        tag: &Tag,
    ) -> Result<Option<(Digest, SystemTime)>> {
        let digest = match self.tag_digest(repository, tag) {
            Ok(Some(digest)) => digest,
            Ok(None) | Err(Error::Damaged { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        match self.tag_time(repository, tag) {
            Ok(time) => Ok(Some((digest, time))),
            // It was deleted meanwhile.
            Err(Error::ManifestUnknown { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Deletes a tag if it still names this manifest, and was not set again since this time.
    /// `false`: it stays.
    pub fn delete_tag_if(
        &self,
        repository: &Repository,
        tag: &Tag,
        digest: &Digest,
        set: SystemTime,
    ) -> Result<bool> {
        let _lock = self.lock(repository);
        if self.tag_target(repository, tag)? != Some((*digest, set)) {
            return Ok(false);
        }
        self.note_manifest(repository, digest)?;
        self.remove_tag(repository, tag).map(|()| true)
    }

    fn remove_tag(&self, repository: &Repository, tag: &Tag) -> Result<()> {
        let removed = self.durable.remove(&self.layout.tag(repository, tag));
        self.forget(repository, &Reference::Tag(tag.clone()));
        self.changed(Change::Tag(repository, tag));
        self.touch(repository, false);
        removed.map(drop)
    }

    /// Deletes a tag, and nothing else. Returns the manifest that it named.
    pub fn delete_tag(&self, repository: &Repository, tag: &Tag) -> Result<Digest> {
        let _lock = self.lock(repository);
        let reference = Reference::Tag(tag.clone());
        let Some(named) = read_link(&self.layout.tag_current(repository, tag))? else {
            return Err(Error::ManifestUnknown { repository: repository.clone(), reference });
        };
        if self.has_dead_tags(repository, &named)? {
            return Err(Error::ManifestUnknown { repository: repository.clone(), reference });
        }
        self.note_manifest(repository, &named)?;
        self.remove_tag(repository, tag).map(|()| named)
    }

    pub(super) fn forget_manifest(&self, repository: &Repository, digest: &Digest) {
        self.manifests.retain(|(of, _), stored| of != repository || stored.digest != *digest);
    }

    /// Deletes a manifest and the tags that name it. Where there are many tags, they are left for
    /// [`Storage::remove_dead_tags`], to which `note` is given. `is_immutable`: tags whose manifest
    /// stays; `None`: there are none.
    pub fn delete_manifest(
        &self,
        repository: &Repository,
        digest: &Digest,
        note: &[u8],
        is_immutable: Option<&dyn Fn(&Tag) -> bool>,
    ) -> Result<Tags> {
        let _lock = self.lock(repository);
        if let Some(is_immutable) = is_immutable {
            for tag in self.tag_names(repository)? {
                let tag = tag?;
                if is_immutable(&tag)
                    && self.tag_target(repository, &tag)?.is_some_and(|(named, _)| named == *digest)
                {
                    return Err(Error::TagImmutable {
                        repository: repository.clone(),
                        tag,
                        digest: Box::new(*digest),
                    });
                }
            }
        }
        let reference = Reference::Digest(*digest);
        // It is read for its subject. A manifest that cannot be read can be deleted.
        let subject = match self.load(repository, &reference) {
            Ok(stored) => {
                self.note_named(repository, &stored.bytes)?;
                self.note_manifest(repository, digest)?;
                Manifest::parse(&stored.bytes, None).ok().and_then(|manifest| manifest.subject)
            }
            Err(Error::Damaged { .. }) => None,
            // Its bytes are gone, and its link is not.
            Err(Error::ManifestUnknown { .. }) if self.holds_manifest(repository, digest)? => None,
            Err(e) => return Err(e),
        };
        let tags = match self.has_many_tags(repository)? {
            true => match self.note_deleted(repository, digest, note) {
                Ok(()) => Tags::Left,
                // A delete has to work all the same.
                Err(Error::DiskFull { .. }) => {
                    Tags::Removed(self.remove_tags_of(repository, digest)?)
                }
                Err(e) => return Err(e),
            },
            false => Tags::Removed(self.remove_tags_of(repository, digest)?),
        };
        let removed = self.remove_link(&self.layout.revision_link(repository, digest));
        self.forget_manifest(repository, digest);
        self.changed(Change::Manifest { repository, digest, bytes: None });
        self.touch(repository, false);
        removed?;
        if let Some(subject) = subject {
            self.remove_link(&self.layout.referrer_link(repository, &subject, digest))?;
        }
        Ok(tags)
    }

    fn remove_tags_of(&self, repository: &Repository, digest: &Digest) -> Result<Vec<Tag>> {
        let mut tags = Vec::new();
        for tag in self.tag_names(repository)? {
            let tag = tag?;
            match read_link(&self.layout.tag_current(repository, &tag)) {
                Ok(Some(named)) if named == *digest => tags.push(tag),
                // A damaged tag names nothing.
                Ok(_) | Err(Error::Damaged { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        let paths = tags.iter().map(|tag| self.layout.tag(repository, tag));
        let removed = self.durable.remove_all(&self.layout.tags(repository), paths);
        for tag in &tags {
            self.forget(repository, &Reference::Tag(tag.clone()));
            self.changed(Change::Tag(repository, tag));
        }
        removed.map(|_| tags)
    }

    pub(super) fn remove_link(&self, link: &std::path::Path) -> Result<()> {
        self.durable.remove(link.parent().expect("a link lies in a folder of its own")).map(|_| ())
    }

    /// The repository's tags after `last`, at most `n`.
    pub fn tags(&self, repository: &Repository, last: &str, n: usize) -> Result<Page<Tag>> {
        if !self.repository_exists(repository)? {
            return Err(Error::RepositoryUnknown(repository.clone()));
        }
        let dead = self.dead(repository)?;
        let wanted = |tag: &Tag| {
            let link = self.layout.tag_current(repository, tag);
            if dead.is_empty() {
                // A crash of distribution leaves folders without a link.
                return exists(&link);
            }
            match read_link(&link) {
                Err(Error::Damaged { .. }) => Ok(true),
                named => named.map(|named| named.is_some_and(|named| !dead.contains(&named))),
            }
        };
        // It costs a system call to see that, so it is asked for the names that would be on the page,
        // one more included; only where one of them is not wanted, it is asked for others.
        let names = self.tag_names(repository)?;
        let mut page = Page::smallest(names, last, n.saturating_add(1), |_| Ok(true))?;
        for tag in &page.items {
            if !wanted(tag)? {
                return Page::smallest(self.tag_names(repository)?, last, n, wanted);
            }
        }
        let more = page.items.len() > n;
        page.items.truncate(n);
        page.next = page.items.last().filter(|_| more).map(|tag| tag.as_str().to_owned());
        Ok(page)
    }

    /// The number of the repository's tags; `max` if there are more. Folders without a link, which a
    /// crash of distribution leaves, count too.
    pub fn count_tags(&self, repository: &Repository, max: usize) -> Result<usize> {
        let mut count = 0;
        for tag in self.tag_names(repository)?.take(max) {
            tag?;
            count += 1;
        }
        Ok(count)
    }

    /// The folder names below `tags`, in no order.
    pub fn tag_names(
        &self,
        repository: &Repository,
    ) -> Result<impl Iterator<Item = Result<Tag>> + use<>> {
        let folder = self.layout.tags(repository);
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => Some(entries),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(Error::io("list", &folder, e)),
        };
        Ok(entries.into_iter().flatten().filter_map(move |entry| match entry {
            Ok(entry) => entry.file_name().to_str()?.parse().ok().map(Ok),
            Err(e) => Some(Err(Error::io("list", &folder, e))),
        }))
    }

    /// A page of the manifests whose subject is `subject`, by digest. A page
    /// may hold fewer than there are and still name a next one.
    pub fn referrers(
        &self,
        repository: &Repository,
        subject: &Digest,
        artifact_type: Option<&str>,
        last: Option<Digest>,
    ) -> Result<Page<Descriptor>> {
        let mut digests = self.referrer_digests(repository, subject, last)?;
        digests.sort_unstable();
        let mut page = Page { items: Vec::new(), next: None };
        let (mut size, mut read) = (0, 0);
        for digest in digests {
            // This bypasses the cache: a long list would push out what is pulled.
            let stored = match self.load(repository, &Reference::Digest(digest)) {
                Ok(stored) => stored,
                Err(Error::ManifestUnknown { .. }) => continue,
                Err(e) => return Err(e),
            };
            let Ok(manifest) = Manifest::parse(&stored.bytes, None) else {
                continue;
            };
            let wanted = artifact_type
                .is_none_or(|wanted| manifest.artifact_type.as_deref() == Some(wanted));
            size += stored.bytes.len();
            read += 1;
            let full = page.items.len() >= REFERRERS_PAGE || read > REFERRERS_READ;
            // The first manifest is read whatever its size, so that every page makes progress.
            if full || (size > REFERRERS_READ_BYTES && page.next.is_some()) {
                return Ok(page);
            }
            page.next = Some(digest.to_string());
            if wanted {
                page.items.push(manifest.into_descriptor(digest, stored.bytes.len() as u64));
            }
        }
        page.next = None;
        Ok(page)
    }

    pub(super) fn referrer_digests(
        &self,
        repository: &Repository,
        subject: &Digest,
        last: Option<Digest>,
    ) -> Result<Vec<Digest>> {
        let mut digests = Vec::new();
        for algorithm in Algorithm::ALL {
            for digest in
                self.digests_in(&self.layout.referrers(repository, subject, algorithm), algorithm)?
            {
                if last.is_none_or(|last| digest > last) {
                    digests.push(digest);
                }
            }
        }
        Ok(digests)
    }

    /// The digests of the repository's manifests, in no order.
    pub fn revisions(&self, repository: &Repository) -> Result<Vec<Digest>> {
        let mut digests = Vec::new();
        for algorithm in Algorithm::ALL {
            let folder = self.layout.revisions(repository, algorithm);
            digests.extend(self.digests_in(&folder, algorithm)?);
        }
        Ok(digests)
    }

    /// The digests of a folder of `HEX/link`s, in no order.
    pub(super) fn digests_in(
        &self,
        folder: &std::path::Path,
        algorithm: Algorithm,
    ) -> Result<Vec<Digest>> {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::io("list", folder, e)),
        };
        let mut digests = Vec::new();
        for entry in entries {
            let name = entry.map_err(|e| Error::io("list", folder, e))?.file_name();
            let parse = |hex| format!("{}:{hex}", algorithm.as_str()).parse::<Digest>().ok();
            digests.extend(name.to_str().and_then(parse));
        }
        Ok(digests)
    }

    /// Calls `visit` with every manifest of a repository that can be read, in no
    /// order, each under the repository's lock.
    pub fn read_manifests<E: From<Error>>(
        &self,
        repository: &Repository,
        mut visit: impl FnMut(&StoredManifest) -> Result<(), E>,
    ) -> Result<(), E> {
        for algorithm in Algorithm::ALL {
            let revisions = self.layout.revisions(repository, algorithm);
            for digest in self.digests_in(&revisions, algorithm)? {
                let _lock = self.lock(repository);
                match self.load(repository, &Reference::Digest(digest)) {
                    Ok(stored) => visit(&stored)?,
                    Err(Error::ManifestUnknown { .. }) => {}
                    Err(error @ Error::Damaged { .. }) => {
                        tracing::warn!(%repository, %error, "skipped a manifest");
                    }
                    Err(e) => return Err(e.into()),
                }
            }
        }
        Ok(())
    }

    /// Links a manifest to its subject, if it has one. A store that was written by a server without
    /// the referrers API lacks such links (distribution-spec, "Enabling the Referrers API"). The
    /// caller holds the repository's lock, see [`Storage::read_manifests`].
    pub fn link_referrer(&self, repository: &Repository, stored: &StoredManifest) -> Result<()> {
        let subject =
            Manifest::parse(&stored.bytes, None).ok().and_then(|manifest| manifest.subject);
        if let Some(subject) = subject {
            let link = self.layout.referrer_link(repository, &subject, &stored.digest);
            if !link.is_file() {
                self.durable.write(&link, stored.digest.to_string().as_bytes())?;
            }
        }
        Ok(())
    }
}
