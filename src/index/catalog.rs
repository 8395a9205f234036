//! The `repositories` family: the names of all repositories, in order, so that a page of the catalog
//! does not walk the store. Key: the name. Value: the state of the repository whose manifests have
//! been read ([`Scanned`]: the time, 8 bytes, big-endian; a byte, [`READ`] or [`IDS_READ`]), or
//! nothing. What an older version read for less is read again.
//!
//! A name is added before the first manifest of its repository is stored, and once more afterwards,
//! and goes when the collector removes the empty repository. So the catalog lacks no push, and its
//! readers ask the store whether a repository still holds something.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rocksdb::{ColumnFamily, Direction, IteratorMode, WriteOptions};

use super::{Index, Result};
use crate::oci::Repository;
use crate::storage::Page;

pub const FAMILY: &str = "repositories";
const READ: u8 = b'3';
const IDS_READ: u8 = b'k';
/// Set once the whole store has been walked.
const COMPLETE_KEY: &[u8] = b"catalog-complete";

#[derive(Debug, Default)]
pub struct Progress {
    complete: AtomicBool,
    found: AtomicU64,
    /// This process has compared the catalog with the store.
    compared: AtomicBool,
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

    /// Takes a repository that holds nothing out of the catalog.
    pub fn remove_repository(&self, repository: &Repository) -> Result<()> {
        let removed = self.db.delete_cf(self.family(), repository.as_str());
        removed.map_err(|e| self.failed(e))
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

    /// Whether every repository of the store is in the catalog. The error says how many are so far.
    pub fn catalog_complete(&self) -> Result<(), u64> {
        if self.catalog.complete.load(Ordering::Acquire) {
            Ok(())
        } else {
            Err(self.catalog.found.load(Ordering::Relaxed))
        }
    }

    /// Whether the catalog was complete once, in this process or before.
    pub fn catalog_was_complete(&self) -> Result<bool> {
        if self.catalog.complete.load(Ordering::Acquire) {
            return Ok(true);
        }
        let complete = self.db.get(COMPLETE_KEY).map_err(|e| self.failed(e))?;
        Ok(complete.is_some())
    }

    /// Begins to compare the catalog with the store. A catalog that an earlier run completed can be
    /// read meanwhile.
    pub fn begin_scan(&self) -> Result<()> {
        let complete = self.db.get(COMPLETE_KEY).map_err(|e| self.failed(e))?;
        self.catalog.complete.store(complete.is_some(), Ordering::Release);
        Ok(())
    }

    /// In which state a repository was when its manifests were read.
    pub fn scanned(&self, repository: &Repository) -> Result<Option<Scanned>> {
        let value = self.repository_value(repository)?;
        Ok(value.as_deref().and_then(Scanned::parse))
    }

    /// Notes that the manifests of a repository have been read.
    pub fn set_scanned(&self, repository: &Repository, scanned: Scanned) -> Result<()> {
        self.put_repository(repository, &scanned.value(), false)
    }

    /// Counts a repository that has been compared with the store.
    pub fn count_scanned(&self) {
        self.catalog.found.fetch_add(1, Ordering::Relaxed);
    }

    /// Ends a comparison of the whole store: the catalog is complete. It is on disk when this
    /// returns, with all that was written before.
    pub fn end_scan(&self) -> Result<()> {
        self.db.put_opt(COMPLETE_KEY, b"", &write_options(true)).map_err(|e| self.failed(e))?;
        self.catalog.complete.store(true, Ordering::Release);
        self.catalog.compared.store(true, Ordering::Release);
        Ok(())
    }

    /// Whether this process has compared the catalog with the store, so that no row may be missing.
    pub fn is_compared(&self) -> bool {
        self.catalog.compared.load(Ordering::Acquire)
    }

    /// Whether a repository is in the catalog.
    pub fn is_in_catalog(&self, repository: &Repository) -> Result<bool> {
        self.repository_value(repository).map(|value| value.is_some())
    }
}

/// The state of a repository whose manifests have been read for their ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scanned {
    /// [`crate::storage::Storage::manifests_changed`] at that time.
    pub changed: u64,
    /// They were read for their subjects too, which a store that is read-only does not need.
    pub subjects: bool,
}

impl Scanned {
    fn parse(value: &[u8]) -> Option<Scanned> {
        let (changed, kind) = value.split_first_chunk::<8>()?;
        let subjects = match kind {
            [READ] => true,
            [IDS_READ] => false,
            _ => return None,
        };
        Some(Scanned { changed: u64::from_be_bytes(*changed), subjects })
    }

    fn value(self) -> Vec<u8> {
        let kind = if self.subjects { READ } else { IDS_READ };
        [&self.changed.to_be_bytes()[..], &[kind]].concat()
    }
}

fn write_options(sync: bool) -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(sync);
    options
}
