//! Pulls, pushes and starts, beside distribution.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use tempfile::TempDir;

use crate::bench::{Bench, CLIENTS, MB, REPOSITORY, TAG, text};
use crate::client::{self, Content, Target};
use crate::common::{self, Registry};
use crate::report::{Goal, Report, Row, Unit};
use crate::servers::{Program, Server};
use crate::store::Store;

impl Bench {
    /// A blob for so many clients at a time.
    pub fn get(&self, report: &Report, clients: usize, tls: bool, goal: Goal) -> Result<()> {
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
    pub fn push(&self, report: &Report, goal: Goal) -> Result<()> {
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

    pub fn manifest(&self, report: &Report, goal: Goal) -> Result<()> {
        let path = format!("/v2/{REPOSITORY}/manifests/{TAG}");
        let what = format!("manifest GET by tag, {CLIENTS} clients");
        self.requests(report, what, &client::request("GET", &path), goal)
    }

    /// With a password, by a server with users, beside without, by one without.
    pub fn users(&self, report: &Report, goal: Goal) -> Result<()> {
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

    pub fn head(&self, report: &Report, goal: Goal) -> Result<()> {
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
    pub fn memory(&self, report: &Report, goal: Goal) -> Result<()> {
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
    pub fn start(&self, report: &Report, goal: Goal) -> Result<()> {
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
