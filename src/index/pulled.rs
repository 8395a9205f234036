//! The `pulled` family: when tags and manifests were last pulled. Key: repository, 0, a tag or digest
//! as text. Value: seconds since 1970 (8 bytes, big-endian).
//!
//! The store does not have this, so it is lost with the index. Since when it is kept is therefore
//! noted too.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::time::{SystemTime, UNIX_EPOCH};

use rocksdb::WriteBatch;

use super::{Index, Result};
use crate::oci::{Digest, Reference, Repository, Tag};
use crate::storage::Storage;

pub const PULLED: &str = "pulled";
const SINCE_KEY: &[u8] = b"pulls-since";

/// Pulls, with their times in seconds since 1970.
pub type Pulls = HashMap<Repository, HashMap<Reference, u64>>;

pub(super) fn pull_key(repository: &Repository, reference: &Reference) -> Vec<u8> {
    format!("{repository}\0{reference}").into_bytes()
}

fn seconds(value: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(value.try_into().ok()?))
}

impl Index {
    /// Notes pulls of what the store still has. `missed`: when one was last missed, so that all pulls
    /// are known from then on only.
    pub fn record_pulls(
        &self,
        storage: &Storage,
        pulls: &Pulls,
        missed: Option<u64>,
    ) -> Result<()> {
        // What is deleted meanwhile waits, and then removes the row.
        let _lock = self.recording.lock().unwrap_or_else(PoisonError::into_inner);
        let family = self.db.cf_handle(PULLED).expect("opened with the database");
        let mut batch = WriteBatch::default();
        for (repository, references) in pulls {
            for (reference, at) in references {
                let is_there = match reference {
                    Reference::Tag(tag) => storage.has_tag(repository, tag)?,
                    Reference::Digest(digest) => storage.holds_manifest(repository, digest)?,
                };
                if is_there {
                    batch.put_cf(family, pull_key(repository, reference), at.to_be_bytes());
                }
            }
        }
        if let Some(missed) = missed {
            batch.put(SINCE_KEY, missed.to_be_bytes());
        }
        self.db.write(batch).map_err(|e| self.failed(e))
    }

    /// When a tag was last pulled, by its name or by the digest that it names, in seconds since 1970.
    /// `None`: never, since [`Index::pulls_since`].
    pub fn last_pull(
        &self,
        repository: &Repository,
        tag: &Tag,
        digest: &Digest,
    ) -> Result<Option<u64>> {
        let family = self.db.cf_handle(PULLED).expect("opened with the database");
        let mut last = None;
        for reference in [Reference::Tag(tag.clone()), Reference::Digest(*digest)] {
            let value = self.db.get_cf(family, pull_key(repository, &reference));
            last = last.max(value.map_err(|e| self.failed(e))?.as_deref().and_then(seconds));
        }
        Ok(last)
    }

    /// Since when pulls are noted, in seconds since 1970. `None`: they are not yet.
    pub fn pulls_since(&self) -> Result<Option<u64>> {
        let value = self.db.get(SINCE_KEY).map_err(|e| self.failed(e))?;
        Ok(value.as_deref().and_then(seconds))
    }

    /// Pulls are noted from now on, if they were not before.
    pub fn begin_pulls(&self) -> Result<()> {
        if self.pulls_since()?.is_some() {
            return Ok(());
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.db.put(SINCE_KEY, now.to_be_bytes()).map_err(|e| self.failed(e))
    }
}
