//! `make bench`: `registry` beside Debian's `docker-registry`, in one run, on
//! one machine, by turns. docs/benchmarks.md tells how and what came out.

#[path = "../../tests/common/mod.rs"]
mod common;

mod client;
mod events;
mod files;
mod image;
mod mount;
mod npm;
mod ratarmount;
mod report;
mod scale;
mod servers;
mod store;
mod tar;
mod tls;
mod v1;

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::Parser;
use clap::builder::RangedU64ValueParser;
use registry::oci::Digest;
use tempfile::TempDir;

use client::{Content, Target};
use common::Registry;
use image::Cache;
use report::{Goal, Report, Row, Unit};
use servers::{Program, Server};
use store::Store;
use tls::Certificate;

/// Measure this build of registry beside Debian's docker-registry
#[derive(Debug, Parser)]
struct Options {
    /// Only the measurements with this in their name
    filter: Option<String>,

    /// Rounds of which the median counts, after one to warm up
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// Print JSON lines
    #[arg(long)]
    json: bool,

    /// Size of the blob that is pulled and pushed
    #[arg(long, value_name = "MB", default_value_t = 343)]
    size: u64,

    /// Size of the blob whose push must not cost more memory than one of 10 MB
    #[arg(long, value_name = "MB", default_value_t = 10_000)]
    large: u64,

    /// Length of a round of small requests
    #[arg(long, value_name = "SECONDS", default_value_t = 3)]
    seconds: u64,

    /// Repositories, of ten tags each, in the store that is started on
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    repositories: usize,

    /// Images of the store with many small layers; 100,000 take 4 GB where it lies
    #[arg(long, value_name = "N", default_value_t = 100_000,
          value_parser = RangedU64ValueParser::<usize>::new().range(1000..))]
    images: usize,

    /// Files in the image whose directories must not cost more to list than those of one with 1,000
    #[arg(long, value_name = "N", default_value_t = 1_000_000,
          value_parser = RangedU64ValueParser::<usize>::new().range(20_000..10_000_000))]
    files: usize,

    /// Where the stores lie while it runs, and what was made for it stays: on a disk, and not one in memory
    #[arg(long, value_name = "DIR", default_value = env!("CARGO_TARGET_TMPDIR"))]
    dir: PathBuf,

    /// Where the store of many repositories lies: on ext4 it takes minutes to make and to remove
    #[arg(long, value_name = "DIR", default_value = "/dev/shm")]
    repositories_dir: PathBuf,

    /// Measure beside this other build of registry in the peer's place
    #[arg(long, value_name = "PROGRAM")]
    beside: Option<PathBuf>,

    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

const MB: u64 = 1_000_000;
/// Of every request for a number of requests, and of blobs at a time.
const CLIENTS: usize = 32;
const REPOSITORY: &str = "bench/image";
const TAG: &str = "latest";
/// Of the peer's memory, at most so much.
const MEMORY: Goal = Goal::AtMost(1.0 / 3.0);

type Measure = fn(&Bench, &Report) -> Result<()>;

/// All there is to measure, with the targets.
const MEASUREMENTS: [(&str, Measure); 22] = [
    ("get-1", |b, r| b.get(r, 1, false, Goal::AtLeast(1.5))),
    ("get-16", |b, r| b.get(r, 16, false, Goal::AtLeast(1.25))),
    ("get-tls-1", |b, r| b.get(r, 1, true, Goal::AtLeast(1.2))),
    ("get-tls-16", |b, r| b.get(r, 16, true, Goal::AtLeast(1.2))),
    ("push", |b, r| b.push(r, Goal::AtMost(0.7))),
    ("manifest", |b, r| b.manifest(r, Goal::AtLeast(10.0))),
    ("users", |b, r| b.users(r, Goal::AtLeast(0.8))),
    ("head", |b, r| b.head(r, Goal::AtLeast(10.0))),
    ("memory", |b, r| b.memory(r, Goal::AtMost(1.1))),
    ("start", |b, r| b.start(r, Goal::AtMost(1.2))),
    ("files-index", Bench::index),
    ("files-push", Bench::push_index),
    ("files-tree", Bench::tree),
    ("files-read", Bench::read),
    ("files-list", Bench::list),
    ("events", Bench::events),
    ("mount-ready", Bench::mount_ready),
    ("mount-walk", Bench::mount_walk),
    ("mount-read", Bench::mount_read),
    ("scale", Bench::scale),
    ("v1-push", Bench::v1_push),
    ("v1-pull", Bench::v1_pull),
];

fn main() -> ExitCode {
    let options = Options::parse();
    let wanted = |name: &str| options.filter.as_ref().is_none_or(|filter| name.contains(filter));
    let chosen: Vec<_> = MEASUREMENTS.into_iter().filter(|(name, _)| wanted(name)).collect();
    if chosen.is_empty() {
        let names = MEASUREMENTS.map(|(name, _)| name).join(", ");
        eprintln!("no measurement has that in its name; there are {names}");
        return ExitCode::FAILURE;
    }
    common::need(servers::PEER, "docker-registry");
    let report = Report::start(options.json);
    let mut code = ExitCode::SUCCESS;
    match Bench::new(options) {
        Ok(bench) => {
            for (name, measure) in chosen {
                if let Err(error) = measure(&bench, &report) {
                    eprintln!("{name} failed: {error:#}");
                    code = ExitCode::FAILURE;
                }
            }
        }
        Err(error) => {
            eprintln!("cannot make the store to measure on: {error:#}");
            code = ExitCode::FAILURE;
        }
    }
    code
}

/// What the measurements share.
struct Bench {
    options: Options,
    temp: TempDir,
    folders: Cell<u32>,
    certificate: Certificate,
    /// Of one content, by hard links, so that both servers read the same pages
    /// of the page cache.
    roots: [PathBuf; 2],
    blob: Digest,
}

impl Bench {
    fn new(options: Options) -> Result<Bench> {
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
    fn cache(&self) -> Result<Cache> {
        Cache::in_folder(&self.options.dir)
    }

    fn folder(&self) -> PathBuf {
        self.folders.set(self.folders.get() + 1);
        self.temp.path().join(self.folders.get().to_string())
    }

    /// Starts both on `roots`, ours first, and measures them by turns: speed,
    /// and what memory that took.
    fn compare(
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

    /// A blob for so many clients at a time.
    fn get(&self, report: &Report, clients: usize, tls: bool, goal: Goal) -> Result<()> {
        let path = format!("/v2/{REPOSITORY}/blobs/{}", self.blob);
        let size = self.options.size * MB;
        let what = format!(
            "blob GET, {} MB{}, {clients} client{}",
            self.options.size,
            if tls { ", TLS" } else { "" },
            if clients > 1 { "s" } else { "" },
        );
        let roots = self.roots.each_ref().map(PathBuf::as_path);
        let what = (what, Unit::BytesPerSecond, goal);
        self.compare(report, what, roots, tls, |target, round| {
            if round == 0 {
                client::check_blob(target, &path, &self.blob)?;
            }
            client::blob(target, &path, size, clients)
        })
    }

    /// A blob that is new every time.
    fn push(&self, report: &Report, goal: Goal) -> Result<()> {
        let size = self.options.size * MB;
        let stores = [Store::new(self.folder())?, Store::new(self.folder())?];
        let what = format!("blob push, {} MB, one PATCH", self.options.size);
        let what = (what, Unit::Seconds, goal);
        let roots = stores.each_ref().map(|store| store.root.as_path());
        self.compare(report, what, roots, false, |target, round| {
            let seed = u64::from(round) + 1;
            // Else this push waits for the blocks of the one before.
            common::run(&mut Command::new("sync"));
            client::push(target, REPOSITORY, Content { seed, size })
        })?;
        for root in roots {
            fs::remove_dir_all(root)?;
        }
        Ok(())
    }

    fn manifest(&self, report: &Report, goal: Goal) -> Result<()> {
        let path = format!("/v2/{REPOSITORY}/manifests/{TAG}");
        let what = format!("manifest GET by tag, {CLIENTS} clients");
        self.requests(report, what, &client::request("GET", &path), goal)
    }

    /// With a password, by a server with users, beside without, by one without.
    fn users(&self, report: &Report, goal: Goal) -> Result<()> {
        const PASSWORD: &str = "a password";
        let path = format!("/v2/{REPOSITORY}/manifests/{TAG}");
        let open = client::request("GET", &path);
        let credentials = BASE64.encode(format!("ann:{PASSWORD}"));
        let header = format!("Authorization: Basic {credentials}\r\n\r\n");
        let head = open.strip_suffix("\r\n").unwrap_or(&open);
        let with_password = format!("{head}{header}");
        let folders = [self.folder(), self.folder()];
        for folder in &folders {
            fs::create_dir_all(folder)?;
        }
        let users = folders[0].join("users");
        let line = registry::auth::line("ann", PASSWORD, registry::auth::COST)?;
        fs::write(&users, line)?;
        let (roots, users) = (self.roots.each_ref().map(|root| text(root)), text(&users));
        let servers = [
            Registry::start_in(&folders[0], &["--layers", &roots[0], "--htpasswd", &users]),
            Registry::start_in(&folders[1], &["--layers", &roots[1]]),
        ];
        let time = Duration::from_secs(self.options.seconds);
        let mut values = [const { Vec::new() }; 2];
        for round in 0..=self.options.rounds {
            for (i, request) in [&with_password, &open].into_iter().enumerate() {
                let target = Target { address: servers[i].address, tls: None };
                let value = client::requests(&target, request, CLIENTS, time)?;
                if round > 0 {
                    values[i].push(value);
                }
            }
        }
        report.row(&Row {
            what: format!("manifest GET with a bcrypt user beside open, {CLIENTS} clients"),
            unit: Unit::RequestsPerSecond,
            ours: &values[0],
            other: &values[1],
            goal,
        });
        Ok(())
    }

    fn head(&self, report: &Report, goal: Goal) -> Result<()> {
        let path = format!("/v2/{REPOSITORY}/blobs/{}", self.blob);
        let what = format!("blob HEAD, {CLIENTS} clients");
        self.requests(report, what, &client::request("HEAD", &path), goal)
    }

    fn requests(&self, report: &Report, what: String, request: &str, goal: Goal) -> Result<()> {
        let time = Duration::from_secs(self.options.seconds);
        let roots = self.roots.each_ref().map(PathBuf::as_path);
        let what = (what, Unit::RequestsPerSecond, goal);
        self.compare(report, what, roots, false, |target, _| {
            client::requests(target, request, CLIENTS, time)
        })
    }

    /// What a long push costs beside a short one, each by a server of its own.
    fn memory(&self, report: &Report, goal: Goal) -> Result<()> {
        const SMALL: u64 = 10;
        let program = Program::Registry(common::REGISTRY.into());
        let peak = |size| {
            let (dir, store) = (self.folder(), Store::new(self.folder())?);
            let server = Server::start(&program, &dir, &store.root, None)?;
            let content = Content { seed: 0, size: size * MB };
            client::push(&server.target, REPOSITORY, content)?;
            let peak = server.peak_memory()?;
            drop(server);
            fs::remove_dir_all(&store.root)?;
            Ok::<_, anyhow::Error>(peak)
        };
        report.row(&Row {
            what: format!("peak memory, push of {} MB beside {SMALL} MB", self.options.large),
            unit: Unit::Bytes,
            ours: &[peak(self.options.large)?],
            other: &[peak(SMALL)?],
            goal,
        });
        Ok(())
    }

    /// A start on a full store beside one on an empty store: on an index that
    /// knows it already, and, as after a move from another server, without one.
    fn start(&self, report: &Report, goal: Goal) -> Result<()> {
        const TAGS: [&str; 10] = ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10"];
        let temp = TempDir::with_prefix_in("bench", &self.options.repositories_dir)?;
        let full = Store::new(temp.path().join("full"))?;
        let blob = full.blob(Content { seed: 0, size: MB })?;
        let image = full.image(&blob, MB)?;
        for number in 0..self.options.repositories {
            full.repository(&name(number), &image, &TAGS)?;
        }
        let empty = Store::new(temp.path().join("empty"))?;
        // Else the starts wait for the blocks of the store.
        common::run(&mut Command::new("sync"));
        let stores = [(&full, self.folder()), (&empty, self.folder())];
        for (store, dir) in &stores {
            fs::create_dir_all(dir)?;
            let registry = Registry::start_in(dir, &["--layers", &text(&store.root)]);
            common::eventually("the catalog is complete", || {
                registry.get("/v2/_catalog").status == 200
            });
        }
        for (how, fresh) in [("start", false), ("first start", true)] {
            let mut ready = [const { Vec::new() }; 2];
            let mut answered = [const { Vec::new() }; 2];
            for round in 0..=self.options.rounds.max(10) {
                for (i, (store, dir)) in stores.iter().enumerate() {
                    if fresh {
                        fs::remove_dir_all(dir.join("db"))?;
                    }
                    let times = start(dir, &store.root)?;
                    if round > 0 {
                        ready[i].push(times[0]);
                        answered[i].push(times[1]);
                    }
                }
            }
            let repositories = self.options.repositories;
            for (until, values) in [("ready", &ready), ("an answer", &answered)] {
                report.row(&Row {
                    what: format!("{how} to {until}, {repositories} repositories beside 0"),
                    unit: Unit::Seconds,
                    ours: &values[0],
                    other: &values[1],
                    goal,
                });
            }
        }
        Ok(())
    }
}

/// A hundred repositories a folder.
fn name(number: usize) -> String {
    format!("team-{}/app-{}", number / 100, number % 100)
}

/// Seconds from the start of the program to its ready line, and to an answer.
fn start(dir: &Path, root: &Path) -> Result<[f64; 2]> {
    let begin = Instant::now();
    let registry = Registry::start_in(dir, &["--layers", &text(root)]);
    let ready = begin.elapsed().as_secs_f64();
    let reply = registry.get("/v2/");
    let answered = begin.elapsed().as_secs_f64();
    ensure!(reply.status == 200, "GET /v2/: {}", reply.text());
    Ok([ready, answered])
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
