//! What is derived from the store and kept in RocksDB for speed. Losing it
//! costs time, never data: what is missing is made again from the store.

mod catalog;
pub mod tar;

use std::path::{Path, PathBuf};

use rocksdb::{ColumnFamilyDescriptor, DB, Options};

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "the index in {path} cannot be used: {cause}; if that stays so, stop the server and remove {path}, it is made anew"
    )]
    Db {
        path: PathBuf,
        cause: rocksdb::Error,
    },
    #[error(
        "the disk is full: cannot write to the index in {path}; free space there and push again"
    )]
    DiskFull { path: PathBuf },
    #[error(
        "the catalog is being built from the store ({0} repositories so far): try again in a moment"
    )]
    CatalogIncomplete(u64),
    #[error(transparent)]
    Storage(#[from] crate::storage::Error),
}

/// The encoding of everything in the database. Another version found on disk
/// is removed and made anew, never read.
const FORMAT: &[u8] = b"1";
const FORMAT_KEY: &[u8] = b"format";

#[derive(Debug)]
pub struct Index {
    db: DB,
    path: PathBuf,
    catalog: catalog::Progress,
}

impl Index {
    /// Opens the database in `path`, or makes it.
    pub fn open(path: &Path) -> Result<Index> {
        let failed = |cause| Error::Db {
            path: path.to_owned(),
            cause,
        };
        // RocksDB opens nothing that has families it is not told of. Without a
        // database there are none, and one that cannot be read says why when it
        // is opened.
        let families = DB::list_cf(&Options::default(), path).unwrap_or_default();
        if families
            .iter()
            .any(|family| !FAMILIES.contains(&family.as_str()))
        {
            remove(path).map_err(failed)?;
        }
        let mut db = open(path).map_err(failed)?;
        let found = db.get(FORMAT_KEY).map_err(failed)?;
        if found.as_deref() != Some(FORMAT) {
            if found.is_some() {
                drop(db);
                remove(path).map_err(failed)?;
                db = open(path).map_err(failed)?;
            }
            db.put(FORMAT_KEY, FORMAT).map_err(failed)?;
        }
        Ok(Index {
            db,
            path: path.to_owned(),
            catalog: catalog::Progress::default(),
        })
    }

    fn failed(&self, cause: rocksdb::Error) -> Error {
        let path = self.path.clone();
        // The binding keeps of RocksDB's kinds the coarse one only.
        if cause.as_ref().contains("No space left on device") {
            return Error::DiskFull { path };
        }
        Error::Db { path, cause }
    }
}

fn remove(path: &Path) -> Result<(), rocksdb::Error> {
    tracing::info!(path = %path.display(), "the index has another format and is made anew");
    DB::destroy(&Options::default(), path)
}

/// The default family is named too: left out, it gets buffers of 64 MiB, and
/// after a full disk RocksDB waits for as much space before it writes again.
const FAMILIES: [&str; 2] = ["default", catalog::FAMILY];

fn open(path: &Path) -> Result<DB, rocksdb::Error> {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    // The defaults are made for machines that do nothing else.
    options.set_write_buffer_size(4 << 20);
    options.set_max_open_files(256);
    options.set_keep_log_file_num(2);
    let families = FAMILIES.map(|family| ColumnFamilyDescriptor::new(family, options.clone()));
    DB::open_cf_descriptors(&options, path, families)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_format_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let repository = "a/b".parse().unwrap();
        let listed = |index: &Index| index.repositories("", 10).unwrap().items;
        let index = Index::open(&path).unwrap();
        index.add_repository(&repository).unwrap();
        drop(index);
        let index = Index::open(&path).unwrap();
        assert_eq!(listed(&index), std::slice::from_ref(&repository));

        index.db.put(FORMAT_KEY, b"0").unwrap();
        drop(index);
        let index = Index::open(&path).unwrap();
        assert_eq!(listed(&index), [], "another version");

        index.add_repository(&repository).unwrap();
        drop(index);
        let mut options = Options::default();
        options.create_missing_column_families(true);
        let later = ["default", catalog::FAMILY, "later"];
        drop(DB::open_cf(&options, &path, later).unwrap());
        let index = Index::open(&path).unwrap();
        assert_eq!(listed(&index), [], "a family of a later version");
    }
}
