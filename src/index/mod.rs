//! What is derived from the store and kept in RocksDB for speed. Losing it
//! costs time, never data: what is missing is made again from the store.

mod across;
mod builder;
mod catalog;
mod grams;
pub mod ids;
mod jobs;
mod layers;
mod members;
mod pulled;
pub mod records;
mod rows;
pub mod shared;
mod spans;
mod stored;
pub mod verify;

use std::fs::{DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, DBCompactionStyle, DBCompressionType,
    FlushOptions, Options,
};

use crate::metrics;
use crate::oci::Digest;

pub use across::Block;
pub use builder::Limits;
pub use catalog::Scanned;
pub use grams::{GRAM, Needs};
pub use layers::{IndexedLayer, Indexing, Layers, Options as LayerOptions};
pub use pulled::Pulls;
pub use rows::{Children, LayerWriter, Names};
pub use stored::{Stored, StoredManifest};

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "the index in {path} cannot be used: {cause}; if that stays so, stop the server and remove {path}, it is made again"
    )]
    Db { path: PathBuf, cause: rocksdb::Error },
    #[error(
        "the disk is full: cannot write to the index in {path}; free space there and push again"
    )]
    DiskFull { path: PathBuf },
    #[error(
        "this process may open too few files to read the index in {path}: raise its limit (`ulimit -n`)"
    )]
    Descriptors { path: PathBuf },
    #[error(
        "the catalog is being built from the store ({0} repositories so far): try again in a moment"
    )]
    CatalogIncomplete(u64),
    #[error(
        "{what} in the index in {path} cannot be read: {cause}; `registry index --force` makes it again"
    )]
    Record { path: PathBuf, what: &'static str, cause: records::RecordError },
    #[error("layer {layer} has no index, its files cannot be shown: {reason}")]
    Refused { layer: Box<Digest>, reason: String },
    #[error(
        "layer {layer} is damaged at byte {offset} of its tar stream: {why}; push it again, or restore it"
    )]
    Damaged { layer: Box<Digest>, offset: u64, why: String },
    #[error(
        "the index in {0} has another format: start the server of this version once, or remove it"
    )]
    Format(PathBuf),
    #[error(
        "the index in {0} was removed and made again: this process has to be started again too"
    )]
    Replaced(PathBuf),
    #[error("layer {0} is being indexed, and many wait for that: try again in a moment")]
    Indexing(Box<Digest>),
    #[error("layer {0} is not in the store: push it again, or restore it")]
    Missing(Box<Digest>),
    /// A bug: a panic while a layer was indexed or read.
    #[error("the work on layer {0} failed")]
    Panicked(Box<Digest>),
    #[error("the server cannot index layer {0}: {1}")]
    Server(Box<Digest>, String),
    /// What stopped a job that several wait for.
    #[error(transparent)]
    Job(#[from] Arc<Error>),
    #[error(transparent)]
    Storage(#[from] crate::storage::Error),
}

/// The encoding of everything in the database. Another version found on disk
/// is removed and made again, never read.
const FORMAT: &[u8] = b"6";
const FORMAT_KEY: &[u8] = b"format";

/// RocksDB's own file, made with a database and removed with it. Whoever reads
/// what another process writes holds a shared lock on it, so that no rows are
/// removed under its eyes.
const IDENTITY: &str = "IDENTITY";

#[derive(Debug)]
pub struct Index {
    db: DB,
    path: PathBuf,
    catalog: catalog::Progress,
    numbers: Mutex<rows::Numbers>,
    /// Held for reading while rows of layers with base names are written, and for writing while a base
    /// name is removed that no layer has.
    names_written: RwLock<()>,
    /// See [`Index::changing`].
    changing: RwLock<()>,
    /// See [`Index::record`].
    recording: Mutex<()>,
    /// When the files were last counted.
    counted: Mutex<Option<Instant>>,
    /// Where another process writes it: [`IDENTITY`], with a shared lock.
    following: Option<File>,
    /// It is of use for a moment only, see [`verify`]: no copies are kept and nothing is counted.
    is_scratch: bool,
}

impl Index {
    /// Opens the database in `path`, or makes it.
    pub fn open(path: &Path) -> Result<Index> {
        let failed = |cause| failed(path, cause);
        private_folder(path)?;
        // RocksDB opens nothing that has families it is not told of. Without a
        // database there are none, and one that cannot be read says why when it
        // is opened.
        let families = DB::list_cf(&Options::default(), path).unwrap_or_default();
        if families.iter().any(|family| !FAMILIES.contains(&family.as_str())) {
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
            // Layers are numbered from the start again.
            remove_folder(&copies(path))?;
        }
        let index = Index {
            db,
            path: path.to_owned(),
            catalog: catalog::Progress::default(),
            numbers: Mutex::default(),
            names_written: RwLock::default(),
            changing: RwLock::default(),
            recording: Mutex::default(),
            counted: Mutex::default(),
            following: None,
            is_scratch: false,
        };
        index.read_next_layer()?;
        Ok(index)
    }

    /// Opens the database in `path` to read, while another process may write to it.
    pub fn follow(path: &Path) -> Result<Index> {
        let failed = |cause| Error::Db { path: path.to_owned(), cause };
        // Before any row is read.
        let identity = path.join(IDENTITY);
        let following = File::open(&identity)
            .and_then(|file| file.lock_shared().map(|()| file))
            .map_err(|e| crate::storage::Error::io("open", &identity, e))?;
        let log = std::env::temp_dir().join(format!("registry-{}", uuid::Uuid::new_v4()));
        let (mut options, families) = families();
        options.create_if_missing(false);
        // Files that the writer removes must stay readable here.
        options.set_max_open_files(-1);
        // RocksDB starts so many threads for each family whenever this process catches up.
        options.set_max_file_opening_threads(1);
        let opened = DB::open_cf_descriptors_as_secondary(&options, path, &log, families);
        // RocksDB's log of a few lines, which are never read. Now, since a command
        // may end at any time.
        let _ = std::fs::remove_dir_all(&log);
        let index = Index {
            db: opened.map_err(failed)?,
            path: path.to_owned(),
            catalog: catalog::Progress::default(),
            numbers: Mutex::default(),
            names_written: RwLock::default(),
            changing: RwLock::default(),
            recording: Mutex::default(),
            counted: Mutex::default(),
            following: Some(following),
            is_scratch: false,
        };
        let found = index.db.get(FORMAT_KEY).map_err(failed)?;
        match found.as_deref() {
            Some(FORMAT) => Ok(index),
            _ => Err(Error::Format(path.to_owned())),
        }
    }

    /// Whether another process writes it.
    pub fn is_following(&self) -> bool {
        self.following.is_some()
    }

    /// Fails if this process follows a database that was removed since: another one in its place
    /// has other layers by the same numbers.
    pub fn check_identity(&self) -> Result<()> {
        let metadata = self.following.as_ref().map(File::metadata);
        match metadata {
            Some(Ok(metadata)) if metadata.nlink() == 0 => Err(Error::Replaced(self.path.clone())),
            _ => Ok(()),
        }
    }

    /// Sees what the writer has written until now.
    pub fn catch_up(&self) -> Result<()> {
        self.check_identity()?;
        tracing::debug!("caught up with the index");
        self.db.try_catch_up_with_primary().map_err(|e| self.failed(e))
    }

    /// Where the seekable copy of a layer lies that cannot be sought in as it is.
    pub fn copy_path(&self, layer: u64) -> PathBuf {
        copies(&self.path).join(format!("{layer:016x}"))
    }

    /// Reports the number of the database's files and their bytes, at most once a second, since listing them takes
    /// longer than indexing a small layer.
    pub fn count_files(&self) {
        const EVERY: Duration = Duration::from_secs(1);
        if self.is_scratch {
            return;
        }
        let mut counted = self.counted.lock().unwrap_or_else(|e| e.into_inner());
        if counted.is_none_or(|at| at.elapsed() >= EVERY) {
            *counted = Some(Instant::now());
            if let Ok(files) = self.db.live_files() {
                metrics::index_files(files.len());
                for family in FAMILIES {
                    let files = files.iter().filter(|file| file.column_family_name == family);
                    metrics::index_bytes(family, files.map(|file| file.size).sum());
                }
            }
        }
    }

    /// Makes files of the rows that are in memory and in the log, so that opening the database need not
    /// replay them. Nothing is lost without it.
    pub fn flush(&self) -> Result<()> {
        if self.is_following() {
            return Ok(());
        }
        let families =
            FAMILIES.map(|name| self.db.cf_handle(name).expect("opened with the database"));
        self.db.flush_cfs_opt(&families, &FlushOptions::default()).map_err(|e| self.failed(e))
    }

    fn failed(&self, cause: rocksdb::Error) -> Error {
        failed(&self.path, cause)
    }
}

fn failed(path: &Path, cause: rocksdb::Error) -> Error {
    let path = path.to_owned();
    if cause.as_ref().contains("Too many open files") {
        return Error::Descriptors { path };
    }
    // The binding keeps of RocksDB's kinds the coarse one only.
    if cause.as_ref().contains("No space left on device") {
        return Error::DiskFull { path };
    }
    Error::Db { path, cause }
}

/// The folder of seekable copies, beside the database.
fn copies(path: &Path) -> PathBuf {
    path.with_file_name("seekable")
}

fn remove_folder(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(crate::storage::Error::io("remove", folder, e).into())
        }
        _ => Ok(()),
    }
}

fn remove(path: &Path) -> Result<(), rocksdb::Error> {
    tracing::info!(path = %path.display(), "the index has another format and is made again");
    DB::destroy(&Options::default(), path)
}

/// The default family is named too: left out, it gets buffers of 64 MiB, and
/// after a full disk RocksDB waits for as much space before it writes again.
const FAMILIES: [&str; 18] = [
    "default",
    catalog::FAMILY,
    ids::FAMILY,
    rows::LAYERS,
    rows::ENTRIES,
    rows::NAMES,
    rows::SPANS,
    grams::GRAMS,
    across::BASENAMES,
    across::NAMED,
    across::CONTENTS,
    across::BLOCKS,
    across::EDGES,
    across::UNINDEXED,
    stored::MANIFESTS,
    stored::TAGS,
    stored::BLOBS,
    pulled::PULLED,
];

/// Bytes of a family's rows in memory, before they become a file. After a full disk RocksDB waits
/// for as much space for each family before it writes again.
const WRITE_BUFFER: usize = 4 << 20;
/// Bytes of the log, beyond which the oldest rows in memory become files.
const LOG_MAX: u64 = 8 << 20;
/// Files of a family of [`across`] that wait to be merged.
const ACROSS_FILES: i32 = 10;
/// Blocks of all families kept in memory, in bytes.
const BLOCK_CACHE: usize = 32 << 20;

/// Creates a folder that only this user can enter, where there is none.
fn private_folder(path: &Path) -> Result<(), crate::storage::Error> {
    let created = DirBuilder::new().mode(0o700).recursive(true).create(path);
    created.map_err(|e| crate::storage::Error::io("create", path, e))
}

fn open(path: &Path) -> Result<DB, rocksdb::Error> {
    let (options, families) = families();
    DB::open_cf_descriptors(&options, path, families)
}

fn families() -> (Options, Vec<ColumnFamilyDescriptor>) {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    // The defaults are made for machines that do nothing else.
    options.set_write_buffer_size(WRITE_BUFFER);
    // Opening the database, here or in a follower, replays the log.
    options.set_max_total_wal_size(LOG_MAX);
    options.set_max_open_files(256);
    // Levels would only move files whose keys do not overlap, and those of layers never do. This
    // style merges them, so that the number of files follows their bytes.
    options.set_compaction_style(DBCompactionStyle::Universal);
    // Directories lie in the tables in their order: the kernel's read-ahead helps.
    options.set_advise_random_on_open(false);
    options.set_keep_log_file_num(2);
    options.set_compression_type(DBCompressionType::Zstd);
    let cache = Cache::new_lru_cache(BLOCK_CACHE);
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(&cache);
    // Most look-ups of a path find nothing in most layers.
    blocks.set_bloom_filter(10.0, false);
    blocks.set_block_size(16 << 10);
    options.set_block_based_table_factory(&blocks);
    let mut across = options.clone();
    // These are read by prefixes, which filters of whole keys do not help.
    let mut plain = BlockBasedOptions::default();
    plain.set_block_cache(&cache);
    plain.set_block_size(16 << 10);
    across.set_block_based_table_factory(&plain);
    // Every layer has rows everywhere in them, so merging costs the most of all.
    across.set_compression_options(-14, 1, 0, 0);
    across.set_level_zero_file_num_compaction_trigger(ACROSS_FILES);
    // Half of the bits of a bitmap are set.
    let mut grams = options.clone();
    grams.set_block_based_table_factory(&plain);
    grams.set_compression_type(DBCompressionType::None);
    let family = |name| {
        let options = match name {
            grams::GRAMS => &grams,
            _ if across::FAMILIES.contains(&name) => &across,
            _ => &options,
        };
        ColumnFamilyDescriptor::new(name, options.clone())
    };
    let families = FAMILIES.into_iter().map(family).collect();
    (options, families)
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
        let later = FAMILIES.into_iter().chain(["later"]);
        drop(DB::open_cf(&options, &path, later).unwrap());
        let index = Index::open(&path).unwrap();
        assert_eq!(listed(&index), [], "a family of a later version");
    }
}
