//! What the store holds, as numbers: what each manifest names, what each tag names, and how large each
//! blob is. So what takes space is known without a walk through the store.
//!
//! | family | key | value |
//! | --- | --- | --- |
//! | `manifests` | repository, 0, digest | 1 and the digest of its subject, or 0; the number of blobs (4 bytes, big-endian); their digests; other digests that it names |
//! | `tags` | repository, 0, tag | the digest that it names |
//! | `blobs` | digest | bytes (8, big-endian) |
//!
//! A digest is a byte, 0 for sha256 and 1 for sha512, and the hash. The blobs are what the repository
//! links. A client may name anything in a manifest, and must not learn from a size whether another
//! repository has it.
//!
//! A row is written when the store says that something may have changed, and is what the store has at
//! that moment: it is read and the row is written under one lock, so the last row is the last state.
//! What a crash has left undone is made up for by the scan of the next start, and for blobs that no
//! manifest names by the next collection of garbage.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::PoisonError;

use rocksdb::{ColumnFamily, DBIterator, IteratorMode, WriteBatch};

use super::across::{EDGES, edges};
use super::pulled::{PULLED, pull_key};
use super::{Index, Result};
use crate::oci::{Algorithm, Digest, Named, Reference, Repository, Tag};
use crate::storage::{self, Change, Link, Storage};

pub const MANIFESTS: &str = "manifests";
pub const TAGS: &str = "tags";
pub const BLOBS: &str = "blobs";
/// Set once all blobs of the store have a row.
const BLOBS_COMPLETE_KEY: &[u8] = b"blobs-complete";

/// What a repository holds.
#[derive(Debug, Default)]
pub struct Stored {
    pub manifests: Vec<StoredManifest>,
    /// The tags, and the beginnings of the digests that they name.
    pub tags: Vec<(Tag, u128)>,
}

/// A manifest, with the beginnings of digests ([`Digest::beginning`]).
#[derive(Debug)]
pub struct StoredManifest {
    pub digest: u128,
    pub subject: Option<u128>,
    /// Blobs that it names and its repository links. Some may be there several times.
    pub blobs: Vec<u128>,
    /// Other digests that it names: manifests of an index, and blobs that the repository does not link.
    pub others: Vec<u128>,
}

/// What a row of a manifest says.
#[derive(Debug, PartialEq, Eq)]
struct ManifestRow {
    subject: Option<Digest>,
    blobs: Vec<Digest>,
    others: Vec<Digest>,
}

fn put_digest(row: &mut Vec<u8>, digest: &Digest) {
    row.push(match digest {
        Digest::Sha256(_) => 0,
        Digest::Sha512(_) => 1,
    });
    row.extend_from_slice(digest.as_bytes());
}

fn digest_row(digest: &Digest) -> Vec<u8> {
    let mut row = Vec::with_capacity(65);
    put_digest(&mut row, digest);
    row
}

/// Takes a digest from the beginning of `row`. `None`: there is none.
fn take_digest(row: &mut &[u8]) -> Option<Digest> {
    let (&kind, rest) = row.split_first()?;
    let (digest, rest) = match kind {
        0 => rest.split_first_chunk().map(|(hash, rest)| (Digest::Sha256(*hash), rest))?,
        1 => rest.split_first_chunk().map(|(hash, rest)| (Digest::Sha512(*hash), rest))?,
        _ => return None,
    };
    *row = rest;
    Some(digest)
}

impl ManifestRow {
    /// Reads which blobs a manifest keeps in the store. Distribution stores a blob that was pushed under another
    /// algorithm as sha256, and the repository's link says under which digest it lies.
    fn read(storage: &Storage, repository: &Repository, bytes: &[u8]) -> Result<ManifestRow> {
        // What is no JSON names nothing.
        let Named { digests, subject } = Named::parse(bytes).unwrap_or_default();
        let (mut blobs, mut others) = (Vec::new(), Vec::new());
        for digest in digests {
            match storage.link(repository, &digest)? {
                None => others.push(digest),
                Some(Link { target: Some(target @ Digest::Sha256(_)), .. })
                    if digest.algorithm() != Algorithm::Sha256 =>
                {
                    blobs.push(target);
                }
                Some(_) => blobs.push(digest),
            }
        }
        Ok(ManifestRow { subject, blobs, others })
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut row = vec![u8::from(self.subject.is_some())];
        self.subject.iter().for_each(|digest| put_digest(&mut row, digest));
        row.extend_from_slice(&(self.blobs.len() as u32).to_be_bytes());
        self.blobs.iter().chain(&self.others).for_each(|digest| put_digest(&mut row, digest));
        row
    }
}

fn stored_manifest(digest: &Digest, row: &[u8]) -> Option<StoredManifest> {
    let (&has_subject, mut row) = row.split_first()?;
    let subject = if has_subject == 1 { Some(take_digest(&mut row)?.beginning()) } else { None };
    let (blobs, mut row) = row.split_first_chunk()?;
    let mut names = Vec::with_capacity(row.len() / 33);
    while !row.is_empty() {
        names.push(take_digest(&mut row)?.beginning());
    }
    let blobs = u32::from_be_bytes(*blobs) as usize;
    let others = if blobs <= names.len() { names.split_off(blobs) } else { return None };
    Some(StoredManifest { digest: digest.beginning(), subject, blobs: names, others })
}

fn manifest_key(repository: &Repository, digest: &Digest) -> Vec<u8> {
    let mut key = [repository.as_str().as_bytes(), &[0]].concat();
    put_digest(&mut key, digest);
    key
}

fn tag_key(repository: &Repository, tag: &Tag) -> Vec<u8> {
    [repository.as_str().as_bytes(), &[0], tag.as_str().as_bytes()].concat()
}

/// The repository of a key, and the rest.
fn split(key: &[u8]) -> Option<(&str, &[u8])> {
    let at = key.iter().position(|&byte| byte == 0)?;
    Some((std::str::from_utf8(&key[..at]).ok()?, &key[at + 1..]))
}

impl Index {
    fn stored(&self, family: &str) -> &ColumnFamily {
        self.db.cf_handle(family).expect("opened with the database")
    }

    /// Makes the rows of what may have changed what the store has now.
    pub fn record(&self, storage: &Storage, change: Change<'_>) -> Result<()> {
        if let Change::Linked(repository, digest) = change {
            return self.record_linked(storage, repository, digest);
        }
        // The lock guards no data of its own, so a panic under it broke none.
        let _lock = self.recording.lock().unwrap_or_else(PoisonError::into_inner);
        match change {
            Change::Blob(digest) => self.record_blob(storage, digest),
            Change::Manifest { repository, digest, bytes } => {
                let key = manifest_key(repository, digest);
                match (storage.holds_manifest(repository, digest)?, bytes) {
                    (false, _) => {
                        self.forget_pulls(repository, Reference::Digest(*digest))?;
                        self.set_row(MANIFESTS, &key, None)
                    }
                    (true, Some(bytes)) => {
                        let row = ManifestRow::read(storage, repository, bytes)?;
                        self.set_row(MANIFESTS, &key, Some(&row.to_bytes()))
                    }
                    // It was pushed again meanwhile, and that push has written the row, or will.
                    (true, None) => Ok(()),
                }
            }
            Change::Tag(repository, tag) => {
                let digest = match storage.tag_digest(repository, tag) {
                    // A damaged tag names nothing.
                    Err(storage::Error::Damaged { .. }) => None,
                    digest => digest?,
                };
                if digest.is_none() {
                    self.forget_pulls(repository, Reference::Tag(tag.clone()))?;
                }
                let row = digest.map(|digest| digest_row(&digest));
                self.set_row(TAGS, &tag_key(repository, tag), row.as_deref())
            }
            Change::Linked(..) => Ok(()),
            Change::Emptied(repository) => {
                if storage.repository_exists(repository)? {
                    return Ok(());
                }
                let mut batch = WriteBatch::default();
                let [from, to] =
                    [0, 1].map(|end| [repository.as_str().as_bytes(), &[end]].concat());
                for family in [MANIFESTS, TAGS, PULLED] {
                    batch.delete_range_cf(self.stored(family), &from, &to);
                }
                self.db.write(batch).map_err(|e| self.failed(e))
            }
        }
    }

    /// A store that takes sparse images gets a blob after the manifest that names it. A client may have
    /// thousands of these, so the lock is taken for each of them, and not while they are read.
    fn record_linked(
        &self,
        storage: &Storage,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<()> {
        let mut manifests = Vec::new();
        self.scan(EDGES, &edges(digest, repository), |key, _| {
            let text = std::str::from_utf8(key).ok().and_then(|key| key.rsplit('\0').next());
            manifests.extend(text.and_then(|text| text.parse::<Digest>().ok()));
            true
        })?;
        for digest in &manifests {
            match storage.read_manifest(repository, &Reference::Digest(*digest)) {
                Ok(stored) => {
                    let bytes = Some(&stored.bytes[..]);
                    self.record(storage, Change::Manifest { repository, digest, bytes })?;
                }
                // Its own change is told too.
                Err(error) if error.is_unknown() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn forget_pulls(&self, repository: &Repository, reference: Reference) -> Result<()> {
        self.set_row(PULLED, &pull_key(repository, &reference), None)
    }

    fn record_blob(&self, storage: &Storage, digest: &Digest) -> Result<()> {
        let size = storage.content_size(digest)?.map(u64::to_be_bytes);
        self.set_row(BLOBS, &digest_row(digest), size.as_ref().map(|size| &size[..]))
    }

    fn set_row(&self, family: &str, key: &[u8], row: Option<&[u8]>) -> Result<()> {
        let set = match row {
            Some(row) => self.db.put_cf(self.stored(family), key, row),
            None => self.db.delete_cf(self.stored(family), key),
        };
        set.map_err(|e| self.failed(e))
    }

    fn row(&self, family: &str, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.db.get_cf(self.stored(family), key).map_err(|e| self.failed(e))
    }

    /// Records a manifest of a store that another server may have written, with the blobs that it
    /// names.
    pub fn record_found(
        &self,
        storage: &Storage,
        repository: &Repository,
        digest: &Digest,
        bytes: &[u8],
    ) -> Result<()> {
        self.record(storage, Change::Manifest { repository, digest, bytes: Some(bytes) })?;
        let row = ManifestRow::read(storage, repository, bytes)?;
        for blob in row.blobs.iter().chain(&row.others).chain([digest]) {
            if self.row(BLOBS, &digest_row(blob))?.is_none() {
                self.record(storage, Change::Blob(blob))?;
            }
        }
        Ok(())
    }

    /// Which rows of a manifest, which the repository holds, and of the blobs that it names are
    /// missing or cannot be: their families. Damage to the store is no damage to its rows, so links
    /// and sizes may differ.
    pub fn check_found(
        &self,
        storage: &Storage,
        repository: &Repository,
        digest: &Digest,
        bytes: &[u8],
    ) -> Result<Vec<&'static str>> {
        let mut families = Vec::new();
        let row = ManifestRow::read(storage, repository, bytes)?;
        let stored = self.row(MANIFESTS, &manifest_key(repository, digest))?;
        let names = |row: &[u8]| {
            let StoredManifest { subject, blobs, others, .. } = stored_manifest(digest, row)?;
            Some((subject, blobs.into_iter().chain(others).collect::<BTreeSet<_>>()))
        };
        if stored.as_deref().and_then(names) != names(&row.to_bytes()) {
            families.push(MANIFESTS);
        }
        for blob in row.blobs.iter().chain([digest]) {
            let size = self.row(BLOBS, &digest_row(blob))?;
            if size.is_none_or(|size| size.len() != 8) && storage.holds_content(blob)? {
                families.push(BLOBS);
                break;
            }
        }
        Ok(families)
    }

    /// Makes the rows of a manifest and of the blobs that it names again.
    pub fn mend_found(
        &self,
        storage: &Storage,
        repository: &Repository,
        digest: &Digest,
        bytes: &[u8],
    ) -> Result<()> {
        self.record(storage, Change::Manifest { repository, digest, bytes: Some(bytes) })?;
        let row = ManifestRow::read(storage, repository, bytes)?;
        let mut blobs = row.blobs.iter().chain([digest]);
        blobs.try_for_each(|blob| self.record(storage, Change::Blob(blob)))
    }

    /// The tags of a repository whose rows are not what the store has, or have just been changed.
    pub fn stale_tags(&self, storage: &Storage, repository: &Repository) -> Result<Vec<Tag>> {
        let prefix = [repository.as_str().as_bytes(), &[0]].concat();
        let mut rows = HashMap::new();
        self.scan(TAGS, &prefix, |key, row| {
            rows.insert(key[prefix.len()..].to_vec(), row.to_vec());
            true
        })?;
        let mut stale = Vec::new();
        for tag in storage.tag_names(repository)? {
            let tag = tag?;
            let row = rows.remove(tag.as_str().as_bytes());
            // That a tag is damaged, or dangling, is no damage to its row.
            let digest = match storage.tag_digest(repository, &tag) {
                Err(storage::Error::Damaged { .. }) => continue,
                digest => digest?,
            };
            let is_dangling = match &digest {
                Some(digest) => !storage.holds_manifest(repository, digest)?,
                None => false,
            };
            if row != digest.map(|digest| digest_row(&digest)) && !is_dangling {
                stale.push(tag);
            }
        }
        let gone = rows.into_keys().filter_map(|tag| String::from_utf8(tag).ok()?.parse().ok());
        stale.extend(gone);
        Ok(stale)
    }

    /// Makes the row of a tag again. `false`: it was right.
    pub fn mend_tag(&self, storage: &Storage, repository: &Repository, tag: &Tag) -> Result<bool> {
        let row = || self.row(TAGS, &tag_key(repository, tag));
        let before = row()?;
        self.record(storage, Change::Tag(repository, tag))?;
        Ok(row()? != before)
    }

    /// Compares a repository's tags with their rows, and its manifests with theirs as far as these
    /// are gone: those that came are [found](Index::record_found) by reading them.
    pub fn record_repository(&self, storage: &Storage, repository: &Repository) -> Result<()> {
        for tag in self.stale_tags(storage, repository)? {
            self.record(storage, Change::Tag(repository, &tag))?;
        }
        let prefix = [repository.as_str().as_bytes(), &[0]].concat();
        let held: HashSet<Digest> = storage.revisions(repository)?.into_iter().collect();
        let mut stale = Vec::new();
        self.scan(MANIFESTS, &prefix, |key, _| {
            let digest = take_digest(&mut &key[prefix.len()..]);
            stale.extend(digest.filter(|digest| !held.contains(digest)));
            true
        })?;
        for digest in &stale {
            self.record(storage, Change::Manifest { repository, digest, bytes: None })?;
        }
        Ok(())
    }

    /// Removes the rows of repositories that the store does not have any more.
    pub fn forget_emptied(&self, storage: &Storage) -> Result<()> {
        for family in [MANIFESTS, TAGS, PULLED] {
            let mut from = Vec::new();
            loop {
                let start = IteratorMode::From(&from, rocksdb::Direction::Forward);
                let Some(row) = self.db.iterator_cf(self.stored(family), start).next() else {
                    break;
                };
                let (key, _) = row.map_err(|e| self.failed(e))?;
                let name = key.split(|&byte| byte == 0).next().unwrap_or_default();
                from = [name, &[1]].concat();
                let repository = std::str::from_utf8(name).ok().and_then(|name| name.parse().ok());
                if let Some(repository) = repository {
                    self.record(storage, Change::Emptied(&repository))?;
                }
            }
        }
        Ok(())
    }

    /// Gives each blob of the store its row, unless that was done once.
    pub fn record_all_blobs(&self, storage: &Storage) -> Result<()> {
        if self.db.get(BLOBS_COMPLETE_KEY).map_err(|e| self.failed(e))?.is_some() {
            return Ok(());
        }
        let mut recorded = self.recorded_blobs()?;
        storage.each_blob(|digest, _| recorded.visit(storage, digest))?;
        recorded.end(storage)?;
        self.db.put(BLOBS_COMPLETE_KEY, b"").map_err(|e| self.failed(e))
    }

    /// Begins to compare the blobs' rows with the store.
    pub fn recorded_blobs(&self) -> Result<RecordedBlobs<'_>> {
        let mut left = HashSet::new();
        self.each_blob(|digest, _| {
            left.insert(digest.beginning());
        })?;
        Ok(RecordedBlobs { index: self, left })
    }

    /// Calls `visit` with each blob that the store has, and its bytes, by digest.
    pub fn each_blob(&self, mut visit: impl FnMut(&Digest, u64)) -> Result<()> {
        self.scan(BLOBS, &[], |mut key, size| {
            if let (Some(digest), Ok(size)) = (take_digest(&mut key), size.try_into()) {
                visit(&digest, u64::from_be_bytes(size));
            }
            true
        })
    }

    /// Calls `visit` with each repository and what it holds, in the order of their names.
    pub fn each_repository(&self, mut visit: impl FnMut(Repository, Stored)) -> Result<()> {
        let rows = |family| Rows {
            index: self,
            rows: self.db.iterator_cf(self.stored(family), IteratorMode::Start),
            ahead: None,
        };
        let (mut manifests, mut tags) = (rows(MANIFESTS), rows(TAGS));
        while let Some(name) = manifests.repository()? {
            let mut stored = Stored::default();
            manifests.take(&name, |mut key, row| {
                let digest = take_digest(&mut key);
                stored.manifests.extend(digest.and_then(|digest| stored_manifest(&digest, row)));
            })?;
            // Tags without any manifest name nothing.
            while tags.repository()?.is_some_and(|other| other < name) {
                tags.ahead = None;
            }
            tags.take(&name, |key, mut row| {
                let tag = std::str::from_utf8(key).ok().and_then(|tag| tag.parse().ok());
                if let (Some(tag), Some(digest)) = (tag, take_digest(&mut row)) {
                    stored.tags.push((tag, digest.beginning()));
                }
            })?;
            if let Ok(repository) = name.parse() {
                visit(repository, stored);
            }
        }
        Ok(())
    }

    /// The bytes of the database's files and of the seekable copies of layers.
    pub fn bytes(&self) -> Result<(u64, u64)> {
        let files = self.db.live_files().map_err(|e| self.failed(e))?;
        let files = files.iter().map(|file| file.size as u64).sum();
        let folder = super::copies(&self.path);
        let failed = |e| crate::storage::Error::io("list", &folder, e);
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok((files, 0)),
            Err(e) => return Err(failed(e).into()),
        };
        let mut copies = 0;
        for entry in entries {
            match entry.and_then(|entry| entry.metadata()) {
                Ok(metadata) => copies += metadata.len(),
                // It was replaced meanwhile.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(failed(e).into()),
            }
        }
        Ok((files, copies))
    }
}

/// The rows of blobs while they are compared with the store.
#[derive(Debug)]
pub struct RecordedBlobs<'a> {
    index: &'a Index,
    /// Rows whose blob was not met, by [`Digest::beginning`].
    left: HashSet<u128>,
}

impl RecordedBlobs<'_> {
    /// The store has this blob.
    pub fn visit(&mut self, storage: &Storage, digest: &Digest) -> Result<()> {
        match self.left.remove(&digest.beginning()) {
            true => Ok(()),
            false => self.index.record(storage, Change::Blob(digest)),
        }
    }

    /// All blobs of the store were visited.
    pub fn end(self, storage: &Storage) -> Result<()> {
        if self.left.is_empty() {
            return Ok(());
        }
        let mut stale = Vec::new();
        self.index.each_blob(|digest, _| {
            if self.left.contains(&digest.beginning()) {
                stale.push(*digest);
            }
        })?;
        stale.iter().try_for_each(|digest| self.index.record(storage, Change::Blob(digest)))
    }
}

/// A key and a value.
type Row = (Box<[u8]>, Box<[u8]>);

/// The rows of a family whose keys begin with repositories.
struct Rows<'a> {
    index: &'a Index,
    rows: DBIterator<'a>,
    ahead: Option<Row>,
}

impl Rows<'_> {
    /// The repository of the next row. `None` at the end.
    fn repository(&mut self) -> Result<Option<String>> {
        loop {
            if self.ahead.is_none() {
                let next = self.rows.next().transpose();
                self.ahead = next.map_err(|e| self.index.failed(e))?;
            }
            let Some((key, _)) = &self.ahead else { return Ok(None) };
            match split(key) {
                Some((name, _)) => return Ok(Some(name.to_owned())),
                // It is no row of this version.
                None => self.ahead = None,
            }
        }
    }

    /// Takes the rows of a repository, if they come next.
    fn take(&mut self, repository: &str, mut visit: impl FnMut(&[u8], &[u8])) -> Result<()> {
        while self.repository()?.is_some_and(|name| name == repository) {
            if let Some((key, row)) = self.ahead.take()
                && let Some((_, rest)) = split(&key)
            {
                visit(rest, &row);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_manifests() {
        let digest = |n: u8| Algorithm::Sha256.digest(&[n]);
        let long = Algorithm::Sha512.digest(b"long");
        let beginnings =
            |digests: &[Digest]| digests.iter().map(Digest::beginning).collect::<Vec<_>>();
        for subject in [None, Some(digest(1)), Some(long)] {
            let (blobs, others) = (vec![digest(2), long, digest(2)], vec![digest(3)]);
            let row = ManifestRow { subject, blobs, others };
            let read = stored_manifest(&digest(9), &row.to_bytes()).unwrap();
            assert_eq!(read.subject, subject.map(|subject| subject.beginning()));
            assert_eq!(read.blobs, beginnings(&row.blobs));
            assert_eq!(read.others, beginnings(&row.others));
        }
        for row in [&b""[..], &[1], &[0, 0], &[0, 0, 0, 0, 1], &[0, 0, 0, 0, 0, 2], &[1, 1, 7]] {
            assert!(stored_manifest(&digest(9), row).is_none(), "{row:?}");
        }
    }
}
