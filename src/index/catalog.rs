//! The `repositories` family: the names of all repositories, in order, so that
//! a page of the catalog does not walk the store. Key: the name; no value.
//!
//! A name is added before the first manifest of its repository is stored, and
//! stays. So no push is ever missing from the catalog, and whoever reads it
//! asks the store whether a repository still holds something.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rocksdb::{ColumnFamily, Direction, IteratorMode, WriteOptions};

use super::{Error, Index, Result};
use crate::oci::Repository;
use crate::storage::{Page, Storage};

pub const FAMILY: &str = "repositories";
/// Set once the whole store has been walked.
const COMPLETE_KEY: &[u8] = b"catalog-complete";
/// Set once the store's manifests have been read for their subjects.
const REFERRERS_KEY: &[u8] = b"referrers-linked";

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
        self.insert(repository, true)
    }

    fn insert(&self, repository: &Repository, sync: bool) -> Result<()> {
        let name = repository.as_str();
        let known = self
            .db
            .get_pinned_cf(self.family(), name)
            .map_err(|e| self.failed(e))?;
        if known.is_some() {
            return Ok(());
        }
        self.db
            .put_cf_opt(self.family(), name, b"", &write_options(sync))
            .map_err(|e| self.failed(e))
    }

    /// The names after `last`, at most `n`, in order.
    pub fn repositories(&self, last: &str, n: usize) -> Result<Page<Repository>> {
        let start = IteratorMode::From(last.as_bytes(), Direction::Forward);
        let mut page = Page {
            items: Vec::new(),
            next: None,
        };
        for item in self.db.iterator_cf(self.family(), start) {
            let (key, _) = item.map_err(|e| self.failed(e))?;
            let Some(repository) = std::str::from_utf8(&key)
                .ok()
                .and_then(|name| name.parse().ok())
            else {
                continue;
            };
            if *key == *last.as_bytes() {
                continue;
            }
            if page.items.len() == n {
                page.next = page
                    .items
                    .last()
                    .map(|r: &Repository| r.as_str().to_owned());
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

    /// Brings the catalog up to date with the store, which another server may
    /// have written since. Takes a folder listing a repository and, the first
    /// time that the store may be changed, a reading of every manifest for its
    /// subject. Meant for a thread of its own.
    pub fn scan(&self, storage: &Storage, read_only: bool) -> Result<()> {
        let has = |key| Ok::<_, Error>(self.db.get(key).map_err(|e| self.failed(e))?.is_some());
        // Known from an earlier run: good enough while this one looks again.
        self.catalog
            .complete
            .store(has(COMPLETE_KEY)?, Ordering::Release);
        let link_referrers = !read_only && !has(REFERRERS_KEY)?;
        storage.walk(|repository| {
            if storage.has_manifests(repository) {
                self.insert(repository, false)?;
                if link_referrers {
                    storage.link_referrers(repository)?;
                }
                self.catalog.found.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<_, Error>(())
        })?;
        if link_referrers {
            self.db
                .put(REFERRERS_KEY, b"")
                .map_err(|e| self.failed(e))?;
        }
        // Synced, and with it all that was written before.
        self.db
            .put_opt(COMPLETE_KEY, b"", &write_options(true))
            .map_err(|e| self.failed(e))?;
        self.catalog.complete.store(true, Ordering::Release);
        Ok(())
    }
}

fn write_options(sync: bool) -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(sync);
    options
}
