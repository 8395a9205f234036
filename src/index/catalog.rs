//! The `repositories` family: the names of all repositories, in order, so that
//! a page of the catalog does not walk the store. Key: the name. Value: the time
//! ([`Storage::manifests_changed`], 8 bytes, big-endian) of the state whose
//! manifests have been read, or nothing; and a byte, [`READ`]: for their subjects
//! and ids, or [`IDS_READ`]: for their ids only, the store being read-only. What
//! was read for less (by a version before there were such ids) is read again.
//!
//! A name is added before the first manifest of its repository is stored, and
//! stays. So no push is ever missing from the catalog, and whoever reads it
//! asks the store whether a repository still holds something.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rocksdb::{ColumnFamily, Direction, IteratorMode, WriteOptions};

use super::ids::Ids;
use super::{Error, Index, Result};
use crate::oci::{Contents, Digest, Repository};
use crate::storage::{Page, Storage, StoredManifest};

pub const FAMILY: &str = "repositories";
const READ: u8 = b'2';
const IDS_READ: u8 = b'j';
/// Set once the whole store has been walked.
const COMPLETE_KEY: &[u8] = b"catalog-complete";

#[derive(Debug, Default)]
pub struct Progress {
    complete: AtomicBool,
    found: AtomicU64,
}

impl Index {
    fn family(&self) -> &ColumnFamily {
        self.db.cf_handle(FAMILY).expect("opened with the database")
    }

    /// Adds a repository to the catalog; on disk when this returns.
    pub fn add_repository(&self, repository: &Repository) -> Result<()> {
        match self.repository_value(repository)? {
            Some(_) => Ok(()),
            None => self.put_repository(repository, b"", true),
        }
    }

    fn repository_value(&self, repository: &Repository) -> Result<Option<Vec<u8>>> {
        self.db.get_cf(self.family(), repository.as_str()).map_err(|e| self.failed(e))
    }

    fn put_repository(&self, repository: &Repository, value: &[u8], sync: bool) -> Result<()> {
        self.db
            .put_cf_opt(self.family(), repository.as_str(), value, &write_options(sync))
            .map_err(|e| self.failed(e))
    }

    /// The names after `last`, at most `n`, in order.
    pub fn repositories(&self, last: &str, n: usize) -> Result<Page<Repository>> {
        let start = IteratorMode::From(last.as_bytes(), Direction::Forward);
        let mut page = Page { items: Vec::new(), next: None };
        for item in self.db.iterator_cf(self.family(), start) {
            let (key, _) = item.map_err(|e| self.failed(e))?;
            let Some(repository) =
                std::str::from_utf8(&key).ok().and_then(|name| name.parse().ok())
            else {
                continue;
            };
            if *key == *last.as_bytes() {
                continue;
            }
            if page.items.len() == n {
                page.next = page.items.last().map(|r: &Repository| r.as_str().to_owned());
                break;
            }
            page.items.push(repository);
        }
        Ok(page)
    }

    /// Whether every repository of the store is in the catalog; otherwise how
    /// many are so far.
    pub fn catalog_complete(&self) -> Result<(), u64> {
        if self.catalog.complete.load(Ordering::Acquire) {
            Ok(())
        } else {
            Err(self.catalog.found.load(Ordering::Relaxed))
        }
    }

    /// Whether it once was, in this process or before.
    pub fn catalog_was_complete(&self) -> Result<bool> {
        if self.catalog.complete.load(Ordering::Acquire) {
            return Ok(true);
        }
        let complete = self.db.get(COMPLETE_KEY).map_err(|e| self.failed(e))?;
        Ok(complete.is_some())
    }

    /// Brings the catalog and the ids of images up to date with the store, which
    /// another server may have written since. Takes a folder listing a
    /// repository. Where manifests came or went they are read for their ids, and
    /// where the store may be changed also for their subjects. Meant for a thread
    /// of its own.
    pub fn scan(&self, storage: &Storage, read_only: bool) -> Result<()> {
        let complete = self.db.get(COMPLETE_KEY).map_err(|e| self.failed(e))?;
        // Known from an earlier run: good enough while this one looks again.
        self.catalog.complete.store(complete.is_some(), Ordering::Release);
        storage.walk(|repository| {
            let Some(changed) = storage.manifests_changed(repository)? else {
                return Ok(());
            };
            let known = self.repository_value(repository)?;
            let [now, ids_only] =
                [READ, IDS_READ].map(|what| [&changed.to_be_bytes()[..], &[what]].concat());
            let add = |stored: &StoredManifest| match Contents::parse(&stored.bytes) {
                Ok(contents) => {
                    let ids = ids(storage, repository, &stored.digest, &contents);
                    self.add_images(repository, &stored.digest, &ids)
                }
                // Nothing that could be looked into.
                Err(_) => Ok(()),
            };
            match known.as_deref() {
                Some(known) if known == now => {}
                Some(known) if read_only && known == ids_only => {}
                _ if read_only => {
                    storage.read_manifests(repository, add)?;
                    self.put_repository(repository, &ids_only, false)?;
                }
                _ => {
                    storage.read_manifests(repository, |stored| {
                        storage.link_referrer(repository, stored)?;
                        add(stored)
                    })?;
                    self.put_repository(repository, &now, false)?;
                }
            }
            self.catalog.found.fetch_add(1, Ordering::Relaxed);
            Ok::<_, Error>(())
        })?;
        // Synced, and with it all that was written before.
        self.db.put_opt(COMPLETE_KEY, b"", &write_options(true)).map_err(|e| self.failed(e))?;
        self.catalog.complete.store(true, Ordering::Release);
        Ok(())
    }
}

/// The ids that lead to a manifest. One that cannot be shown in the first API has
/// those of the others.
pub fn ids(
    storage: &Storage,
    repository: &Repository,
    manifest: &Digest,
    contents: &Contents,
) -> Ids {
    let chain = storage.chain_ids(repository, manifest, contents);
    let chain = chain.unwrap_or_else(|error| {
        tracing::warn!(%repository, %manifest, %error, "an image is not shown in the v1 API");
        Vec::new()
    });
    Ids { config: contents.config().copied(), chain }
}

fn write_options(sync: bool) -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(sync);
    options
}
