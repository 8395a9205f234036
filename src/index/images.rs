//! The `images` family: what the hex digits of an id lead to. Key: the digits,
//! 0, repository, 0, the digest of the manifest that the id leads to there.
//! Value: [`IdKind`], a byte.
//!
//! Rows are written after the manifest and removed after it, so the store is
//! asked whether a row's manifest is still there. What a crash or another server
//! left undone is made up for by the next [`Index::scan`].

use rocksdb::{ColumnFamily, Direction, IteratorMode, ReadOptions, WriteBatch};

use super::{Index, Result};
use crate::oci::{Digest, Repository};

pub const FAMILY: &str = "images";

/// Of what an id's digits are the digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum IdKind {
    Manifest = 0,
    Index = 1,
    Config = 2,
}

/// A meaning of an id in a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRow {
    /// All hex digits, without the algorithm.
    pub id: String,
    pub repository: Repository,
    pub manifest: Digest,
    pub kind: IdKind,
}

impl ImageRow {
    fn key(&self) -> String {
        format!("{}\0{}\0{}", self.id, self.repository, self.manifest)
    }

    fn parse(key: &[u8], value: &[u8]) -> Option<ImageRow> {
        let mut parts = std::str::from_utf8(key).ok()?.splitn(3, '\0');
        Some(ImageRow {
            id: parts.next()?.to_owned(),
            repository: parts.next()?.parse().ok()?,
            manifest: parts.next()?.parse().ok()?,
            kind: match value {
                [0] => IdKind::Manifest,
                [1] => IdKind::Index,
                [2] => IdKind::Config,
                _ => return None,
            },
        })
    }

    /// Where the rows after this one start.
    pub fn after(&self) -> String {
        self.key() + "\0"
    }

    /// Where the rows of the next id start.
    pub fn after_id(&self) -> String {
        format!("{}\x01", self.id)
    }
}

/// The ids that lead to a manifest; without a config it is an index.
fn rows(repository: &Repository, manifest: &Digest, config: Option<&Digest>) -> Vec<ImageRow> {
    let row = |digest: &Digest, kind| ImageRow {
        id: digest.hex(),
        repository: repository.clone(),
        manifest: *manifest,
        kind,
    };
    match config {
        None => vec![row(manifest, IdKind::Index)],
        Some(config) => vec![row(manifest, IdKind::Manifest), row(config, IdKind::Config)],
    }
}

impl Index {
    fn images(&self) -> &ColumnFamily {
        self.db.cf_handle(FAMILY).expect("opened with the database")
    }

    /// Makes the ids known that lead to a manifest of the repository; without a
    /// config it is an index.
    pub fn add_images(
        &self,
        repository: &Repository,
        manifest: &Digest,
        config: Option<&Digest>,
    ) -> Result<()> {
        let mut batch = WriteBatch::default();
        for row in rows(repository, manifest, config) {
            batch.put_cf(self.images(), row.key(), [row.kind as u8]);
        }
        self.db.write(batch).map_err(|e| self.failed(e))
    }

    /// Forgets them.
    pub fn remove_images(
        &self,
        repository: &Repository,
        manifest: &Digest,
        config: Option<&Digest>,
    ) -> Result<()> {
        let mut batch = WriteBatch::default();
        for row in rows(repository, manifest, config) {
            batch.delete_cf(self.images(), row.key());
        }
        self.db.write(batch).map_err(|e| self.failed(e))
    }

    /// At most `n` rows of the ids that begin with `prefix`, from `from` on, which
    /// is `prefix`, [`ImageRow::after`] or [`ImageRow::after_id`].
    pub fn find_images(&self, prefix: &str, from: &str, n: usize) -> Result<Vec<ImageRow>> {
        let mut options = ReadOptions::default();
        // Digits sort below this.
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
        index.add_images(&a, &digest(1), Some(&digest(2))).unwrap();
        index.add_images(&b, &digest(1), Some(&digest(2))).unwrap();
        index.add_images(&b, &digest(3), None).unwrap();

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

        index
            .remove_images(&a, &digest(1), Some(&digest(2)))
            .unwrap();
        let want = ("a/b".to_owned(), digest(1), IdKind::Config);
        assert_eq!(find(&config, &config, 9), [want]);
    }
}
