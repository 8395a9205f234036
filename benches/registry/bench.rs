//! What the measurements share: options, stores, and two servers that are measured in turns.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use clap::Parser;
use clap::builder::RangedU64ValueParser;
use registry::oci::Digest;
use tempfile::TempDir;

use crate::client::{Content, Target};
use crate::common;
use crate::image::Cache;
use crate::report::{Goal, Report, Row, Unit};
use crate::servers::{Program, Server};
use crate::store::Store;
use crate::tls::Certificate;

/// Measure this build of registry beside Debian's docker-registry
#[derive(Debug, Parser)]
pub struct Options {
    /// Only the measurements with this in their name
    pub filter: Option<String>,

    /// Rounds of which the median counts, after one to warm up
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,

    /// Print JSON lines
    #[arg(long)]
    pub json: bool,

    /// Size of the blob that is pulled and pushed
    #[arg(long, value_name = "MB", default_value_t = 343)]
    pub size: u64,

    /// Size of the blob whose push must not cost more memory than one of 10 MB
    #[arg(long, value_name = "MB", default_value_t = 10_000)]
    pub large: u64,

    /// Length of a round of small requests
    #[arg(long, value_name = "SECONDS", default_value_t = 3)]
    pub seconds: u64,

    /// Repositories, of ten tags each, in the store that is started on
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub repositories: usize,

    /// Images of the store with many small layers; 100,000 take 4 GB where it lies
    #[arg(long, value_name = "N", default_value_t = 100_000,
          value_parser = RangedU64ValueParser::<usize>::new().range(1000..))]
    pub images: usize,

    /// Entries of the store that questions are asked of; 10,000,000 take 4 GB where it lies
    #[arg(long, value_name = "N", default_value_t = 10_000_000,
          value_parser = RangedU64ValueParser::<usize>::new().range(100_000..))]
    pub entries: usize,

    /// Files in the image whose directories must not cost more to list than those of one with 1,000
    #[arg(long, value_name = "N", default_value_t = 1_000_000,
          value_parser = RangedU64ValueParser::<usize>::new().range(20_000..10_000_000))]
    pub files: usize,

    /// Where the stores lie while it runs, and what was made for it stays: on a disk, and not one in memory
    #[arg(long, value_name = "DIR", default_value = env!("CARGO_TARGET_TMPDIR"))]
    pub dir: PathBuf,

    /// Where the store of many repositories lies: on ext4 it takes minutes to make and to remove
    #[arg(long, value_name = "DIR", default_value = "/dev/shm")]
    pub repositories_dir: PathBuf,

    /// Measure beside this other build of registry in the peer's place
    #[arg(long, value_name = "PROGRAM")]
    pub beside: Option<PathBuf>,

    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    pub bench: bool,
}

pub const MB: u64 = 1_000_000;
/// Of every request for a number of requests, and of blobs at a time.
pub const CLIENTS: usize = 32;
pub const REPOSITORY: &str = "bench/image";
pub const TAG: &str = "latest";
/// Of the peer's memory, at most so much.
const MEMORY: Goal = Goal::AtMost(1.0 / 3.0);

/// What the measurements share.
pub struct Bench {
    pub options: Options,
    pub temp: TempDir,
    pub folders: Cell<u32>,
    pub certificate: Certificate,
    /// Of one content, by hard links, so that both servers read the same pages
    /// of the page cache.
    pub roots: [PathBuf; 2],
    pub blob: Digest,
}

impl Bench {
    pub fn new(options: Options) -> Result<Bench> {
        fs::create_dir_all(&options.dir)?;
        let temp = TempDir::with_prefix_in("bench", &options.dir)?;
        let roots = ["ours", "beside"].map(|name| temp.path().join(name));
        let store = Store::new(roots[0].clone())?;
        let size = options.size * MB;
        let blob = store.blob(Content { seed: 0, size })?;
        store.repository(REPOSITORY, &store.image(&blob, size)?, &[TAG])?;
        common::run(Command::new("cp").arg("-al").args(&roots));
        Ok(Bench {
            certificate: Certificate::write(temp.path())?,
            folders: Cell::new(0),
            options,
            temp,
            roots,
            blob,
        })
    }

    /// Outlives the run.
    pub fn cache(&self) -> Result<Cache> {
        Cache::in_folder(&self.options.dir)
    }

    pub fn folder(&self) -> PathBuf {
        self.folders.set(self.folders.get() + 1);
        self.temp.path().join(self.folders.get().to_string())
    }

    /// Starts both on `roots`, ours first, and measures them by turns: speed,
    /// and what memory that took.
    pub fn compare(
        &self,
        report: &Report,
        (what, unit, goal): (String, Unit, Goal),
        roots: [&Path; 2],
        tls: bool,
        mut measure: impl FnMut(&Target, u32) -> Result<f64>,
    ) -> Result<()> {
        let ours = Program::Registry(common::REGISTRY.into());
        let peer = match &self.options.beside {
            Some(path) => Program::Registry(path.clone()),
            None => Program::Peer,
        };
        let tls = tls.then_some(&self.certificate);
        let start = |program, root| Server::start(program, &self.folder(), root, tls);
        let servers = [start(&ours, roots[0])?, start(&peer, roots[1])?];
        let mut values = [const { Vec::new() }; 2];
        for round in 0..=self.options.rounds {
            for (server, values) in servers.iter().zip(&mut values) {
                let value = measure(&server.target, round)?;
                if round > 0 {
                    values.push(value);
                }
            }
        }
        let [ours, other] = &values;
        let memory = format!("peak memory: {what}");
        report.row(&Row { what, unit, ours, other, goal });
        report.row(&Row {
            what: memory,
            unit: Unit::Bytes,
            ours: &[servers[0].peak_memory()?],
            other: &[servers[1].peak_memory()?],
            goal: MEMORY,
        });
        Ok(())
    }
}

/// A path as an argument.
pub fn text(path: &Path) -> String {
    path.display().to_string()
}
