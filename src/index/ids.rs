//! The `images` family: what the hex digits of an id lead to. Key: the digits, 0, [`IdKind`] as a
//! digit, repository, 0, the digest of the manifest that the id leads to there. Value: for a
//! manifest's own digest its id in the first API, if it has one; for such ids the number of the
//! manifest's layers that are theirs (2 bytes, big-endian).
//!
//! The kinds are kept apart, in the order in which they count: a client chooses the ids of the
//! first API, and may push any document as a config, so neither may stand before a manifest.
//!
//! Rows are written after the manifest and removed after it, so readers ask the store whether a
//! row's manifest is still there. The next scan of the store (`registry::maintenance`) completes
//! what a crash, or another server, has left undone.

use std::sync::{PoisonError, RwLockReadGuard};

use rocksdb::{ColumnFamily, Direction, IteratorMode, ReadOptions, WriteBatch};

use super::{Index, Result};
use crate::docker1::ImageId;
use crate::oci::{Digest, Repository};

pub const FAMILY: &str = "images";

/// What the id is a digest of, in the order in which the kinds count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum IdKind {
    Manifest = b'0',
    Index = b'1',
    Config = b'2',
    /// It is no digest, but an id of the first API.
    V1 = b'3',
}

impl IdKind {
    fn from_digit(digit: char) -> Option<IdKind> {
        [IdKind::Manifest, IdKind::Index, IdKind::Config, IdKind::V1]
            .into_iter()
            .find(|kind| kind.digit() == digit)
    }

    fn digit(self) -> char {
        char::from(self as u8)
    }
}

fn key(id: &str, kind: IdKind, repository: &Repository, manifest: &Digest) -> String {
    format!("{id}\0{}{repository}\0{manifest}", kind.digit())
}

/// What an id means in a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRow {
    /// All hex digits, without the algorithm.
    pub id: String,
    pub repository: Repository,
    pub manifest: Digest,
    pub kind: IdKind,
    /// For an id of the first API: how many of the manifest's layers it means.
    pub layers: Option<usize>,
}

impl ImageRow {
    fn parse(key: &[u8], value: &[u8]) -> Option<ImageRow> {
        let mut parts = std::str::from_utf8(key).ok()?.splitn(3, '\0');
        let (id, held) = (parts.next()?.to_owned(), parts.next()?);
        let kind = IdKind::from_digit(held.chars().next()?)?;
        Some(ImageRow {
            id,
            repository: held[1..].parse().ok()?,
            manifest: parts.next()?.parse().ok()?,
            kind,
            layers: match (kind, value) {
                (IdKind::V1, &[high, low]) => Some(u16::from_be_bytes([high, low]).into()),
                (IdKind::V1, _) => return None,
                _ => None,
            },
        })
    }

    /// Where the rows after this one start.
    pub fn after(&self) -> String {
        key(&self.id, self.kind, &self.repository, &self.manifest) + "\0"
    }

    /// Where the rows of the next repository start, of the same id and kind.
    pub fn after_repository(&self) -> String {
        format!("{}\0{}{}\x01", self.id, self.kind.digit(), self.repository)
    }

    /// Where the rows of the next id start.
    pub fn after_id(&self) -> String {
        format!("{}\x01", self.id)
    }
}

/// The ids that lead to a manifest.
#[derive(Clone, Debug, Default)]
pub struct Ids {
    /// `None`: the manifest is an index.
    pub config: Option<Digest>,
    /// The ids of the first API, base first, with their numbers of layers.
    pub chain: Vec<(ImageId, usize)>,
    /// The layers of an image, base first, or the manifests of an index.
    pub holds: Vec<Digest>,
}

impl Ids {
    fn rows(&self, repository: &Repository, manifest: &Digest) -> Vec<(String, Vec<u8>)> {
        let key = |id: &str, kind| key(id, kind, repository, manifest);
        let Some(config) = &self.config else {
            return vec![(key(&manifest.hex(), IdKind::Index), Vec::new())];
        };
        let own = self.chain.last().map_or(Vec::new(), |(top, _)| top.as_bytes().to_vec());
        let mut rows = vec![
            (key(&manifest.hex(), IdKind::Manifest), own),
            (key(&config.hex(), IdKind::Config), Vec::new()),
        ];
        for (id, layers) in &self.chain {
            let [high, low] = u16::try_from(*layers).unwrap_or(u16::MAX).to_be_bytes();
            rows.push((key(&id.to_string(), IdKind::V1), vec![high, low]));
        }
        rows
    }
}

impl Index {
    fn images(&self) -> &ColumnFamily {
        self.db.cf_handle(FAMILY).expect("opened with the database")
    }

    /// Held while a manifest is in the store whose rows are not, so that they are not taken for
    /// lost, see [`Index::settle`].
    pub fn changing(&self) -> RwLockReadGuard<'_, ()> {
        // The lock guards no data of its own, so a panic under it broke none.
        self.changing.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the changes that are under way have their rows.
    pub fn settle(&self) {
        drop(self.changing.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Adds the ids that lead to a manifest of the repository.
    pub fn add_images(&self, repository: &Repository, manifest: &Digest, ids: &Ids) -> Result<()> {
        let mut batch = WriteBatch::default();
        for (key, value) in ids.rows(repository, manifest) {
            batch.put_cf(self.images(), key, value);
        }
        self.put_edges(&mut batch, repository, manifest, &ids.holds, ids.config.is_some())?;
        self.db.write(batch).map_err(|e| self.failed(e))
    }

    /// Removes the ids that lead to a manifest of the repository.
    pub fn remove_images(
        &self,
        repository: &Repository,
        manifest: &Digest,
        ids: &Ids,
    ) -> Result<()> {
        let mut batch = WriteBatch::default();
        for (key, _) in ids.rows(repository, manifest) {
            batch.delete_cf(self.images(), key);
        }
        self.delete_edges(&mut batch, repository, manifest, &ids.holds);
        self.db.write(batch).map_err(|e| self.failed(e))
    }

    /// Which rows of a manifest are missing or wrong: their family, if there are such rows.
    ///
    /// The ids of the first API depend on what the repository held when they were made, so they count
    /// only if the manifest's row has the same id.
    pub fn check_images(
        &self,
        repository: &Repository,
        manifest: &Digest,
        ids: &Ids,
    ) -> Result<Vec<&'static str>> {
        let get = |key: &str| self.db.get_cf(self.images(), key).map_err(|e| self.failed(e));
        let rows = ids.rows(repository, manifest);
        let (own, own_value) = rows.first().expect("every manifest has a row for itself");
        let stored = get(own)?;
        let is_same = stored.as_ref() == Some(own_value);
        let is_id = |value: &Vec<u8>| matches!(value.len(), 0 | 32);
        let mut sound = stored.as_ref().is_some_and(is_id);
        for (key, value) in &rows[1..] {
            let found = get(key)?;
            // A config's row has no value.
            let counts = is_same || value.is_empty();
            sound &= !counts || found.as_ref() == Some(value);
        }
        let mut families = Vec::new();
        if !sound {
            families.push(FAMILY);
        }
        if !self.has_edges(repository, manifest, &ids.holds)? {
            families.push(super::across::EDGES);
        }
        Ok(families)
    }

    /// The id in the first API of a manifest's image, if it is known.
    pub fn v1_id(&self, repository: &Repository, manifest: &Digest) -> Result<Option<ImageId>> {
        let key = key(&manifest.hex(), IdKind::Manifest, repository, manifest);
        let value = self.db.get_cf(self.images(), key);
        let value = value.map_err(|e| self.failed(e))?.unwrap_or_default();
        let id = value.as_slice().try_into().ok();
        Ok(id.map(ImageId::from_bytes))
    }

    /// At most `n` rows of the ids that begin with `prefix`, from `from` on, which
    /// is `prefix`, [`ImageRow::after`] or [`ImageRow::after_id`].
    pub fn find_images(&self, prefix: &str, from: &str, n: usize) -> Result<Vec<ImageRow>> {
        let mut options = ReadOptions::default();
        // Hex digits sort below this character.
        options.set_iterate_upper_bound(format!("{prefix}\x7f"));
        let start = IteratorMode::From(from.as_bytes(), Direction::Forward);
        let mut found = Vec::new();
        for item in self.db.iterator_cf_opt(self.images(), options, start) {
            if found.len() == n {
                break;
            }
            let (key, value) = item.map_err(|e| self.failed(e))?;
            found.extend(ImageRow::parse(&key, &value));
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn found_by_their_beginning() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(&dir.path().join("db")).unwrap();
        let digest = |n: u8| Algorithm::Sha256.digest(&[n]);
        let [a, b] = ["a", "a/b"].map(|name| name.parse::<Repository>().unwrap());
        let v1 = ImageId::from_bytes([7; 32]);
        let ids = Ids {
            config: Some(digest(2)),
            chain: vec![(ImageId::from_bytes([6; 32]), 1), (v1, 300)],
            holds: Vec::new(),
        };
        index.add_images(&a, &digest(1), &ids).unwrap();
        index.add_images(&b, &digest(1), &ids).unwrap();
        index.add_images(&b, &digest(3), &Ids::default()).unwrap();

        let find = |prefix: &str, from: &str, n| {
            let rows = index.find_images(prefix, from, n).unwrap();
            let text = |row: ImageRow| {
                assert!(row.id.starts_with(prefix));
                (row.repository.to_string(), row.manifest, row.kind)
            };
            rows.into_iter().map(text).collect::<Vec<_>>()
        };
        let first = digest(1).hex();
        let in_a = ("a".to_owned(), digest(1), IdKind::Manifest);
        let in_b = ("a/b".to_owned(), digest(1), IdKind::Manifest);
        assert_eq!(find(&first, &first, 9), [in_a.clone(), in_b.clone()]);
        assert_eq!(find(&first[..12], &first[..12], 1), [in_a]);
        let row = &index.find_images(&first, &first, 1).unwrap()[0];
        assert_eq!(find(&first, &row.after(), 9), [in_b]);
        assert_eq!(find(&first, &row.after_id(), 9), []);
        let config = digest(2).hex();
        let want = ["a", "a/b"].map(|name| (name.to_owned(), digest(1), IdKind::Config));
        assert_eq!(find(&config[..20], &config[..20], 9), want);
        let third = digest(3).hex();
        let want = ("a/b".to_owned(), digest(3), IdKind::Index);
        assert_eq!(find(&third, &third, 9), [want]);

        let row = &index.find_images("0707", "0707", 9).unwrap()[1];
        assert_eq!((row.kind, row.layers), (IdKind::V1, Some(300)));
        assert_eq!((&row.repository, row.manifest), (&b, digest(1)));
        assert_eq!(index.v1_id(&a, &digest(1)).unwrap(), Some(v1));
        assert_eq!(index.v1_id(&a, &digest(3)).unwrap(), None);
        assert_eq!(index.v1_id(&b, &digest(3)).unwrap(), None, "an index");

        index.remove_images(&a, &digest(1), &ids).unwrap();
        let want = ("a/b".to_owned(), digest(1), IdKind::Config);
        assert_eq!(find(&config, &config, 9), [want]);
        assert_eq!(index.find_images("0707", "0707", 9).unwrap().len(), 1);
    }
}
