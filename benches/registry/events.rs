//! A thousand readers of `/v1/events` while tags are pushed.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tempfile::TempDir;

use crate::bench::{Bench, MB, TAG};
use crate::client::{self, Content, Target};
use crate::common;
use crate::report::{Goal, Report, Row, Unit};
use crate::servers::{Program, Server};
use crate::store::Store;

const READERS: usize = 1000;
/// Pushes a second, and for how many.
const RATE: u32 = 100;
const SECONDS: u32 = 10;
const EVENTS: usize = (RATE * SECONDS) as usize;
/// Clients that push, each to a repository of its own.
const PUSHERS: u32 = 4;

impl Bench {
    /// From the event to its line at each reader; all of them must get all.
    pub fn events(&self, report: &Report) -> Result<()> {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        // How fast a disk syncs is another matter.
        let temp = TempDir::new_in(&self.options.repositories_dir)?;
        let store = Store::new(temp.path().join("layers"))?;
        let layer = store.blob(Content { seed: 1, size: MB })?;
        let image = store.image(&layer, MB)?;
        for pusher in 0..PUSHERS {
            store.repository(&repository(pusher), &image, &[TAG])?;
        }
        let program = Program::Registry(common::REGISTRY.into());
        let server = Server::start(&program, &temp.path().join("dir"), &store.root, None)?;
        let before = server.peak_memory()?;
        let readers = (0..READERS).map(|_| {
            let lines = subscribe(&server.target)?;
            let thread = thread::Builder::new().stack_size(128 << 10);
            Ok(thread.spawn(move || read(lines))?)
        });
        let readers = readers.collect::<Result<Vec<_>>>()?;
        let begin = Instant::now();
        thread::scope(|scope| {
            let target = &server.target;
            let pushers =
                (0..PUSHERS).map(|pusher| scope.spawn(move || push(target, pusher, begin)));
            let pushers: Vec<_> = pushers.collect();
            let mut ends = pushers.into_iter().map(|pusher| pusher.join().expect("no panic"));
            ends.try_for_each(|end| end)
        })?;
        let rate = EVENTS as f64 / begin.elapsed().as_secs_f64();
        let mut delays = Vec::with_capacity(READERS * EVENTS);
        for reader in readers {
            delays.extend(reader.join().expect("a reader does not panic")?);
        }
        let memory = server.peak_memory()? - before;
        drop(server);
        fs::remove_dir_all(temp.path())?;
        delays.sort_by(f64::total_cmp);
        let p99 = delays[delays.len() * 99 / 100];
        let row = |what: &str, unit, ours: f64, limit: f64, goal| {
            report.row(&Row {
                what: format!("{what}, {READERS} readers of events, beside the limit"),
                unit,
                ours: &[ours],
                other: &[limit],
                goal,
            });
        };
        let pushes = f64::from(RATE);
        row("tags pushed", Unit::RequestsPerSecond, rate, pushes, Goal::AtLeast(0.98));
        row("99 % of lines within", Unit::Seconds, p99, 0.1, Goal::AtMost(1.0));
        row("peak memory on top", Unit::Bytes, memory, 64.0 * MB as f64, Goal::AtMost(1.0));
        Ok(())
    }
}

fn repository(pusher: u32) -> String {
    format!("bench/events-{pusher}")
}

/// Sets one pusher's tags at an even pace.
fn push(target: &Target, pusher: u32, begin: Instant) -> Result<()> {
    let repository = repository(pusher);
    let manifest = client::json(target, &format!("/v2/{repository}/manifests/{TAG}"))?;
    let manifest = manifest.to_string();
    let headers = [("Content-Type", common::OCI_MANIFEST)];
    for number in 0..RATE * SECONDS / PUSHERS {
        let due = begin + Duration::from_secs(1) / RATE * (number * PUSHERS + pusher);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let path = format!("/v2/{repository}/manifests/t{number}");
        let reply = common::send_to(target.address, "PUT", &path, &headers, manifest.as_bytes())?;
        ensure!(reply.status == 201, "{path}: {}", reply.text());
    }
    Ok(())
}

fn subscribe(target: &Target) -> Result<BufReader<TcpStream>> {
    let mut stream = TcpStream::connect(target.address)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.write_all(b"GET /v1/events?type=tag HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    let mut lines = BufReader::with_capacity(16 << 10, stream);
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        ensure!(lines.read_line(&mut line)? > 0, "the server closed");
    }
    Ok(lines)
}

/// Seconds from each event to its line. All must come, a repository's in order.
fn read(mut lines: BufReader<TcpStream>) -> Result<Vec<f64>> {
    let mut delays = Vec::with_capacity(EVENTS);
    let mut next = [0; PUSHERS as usize];
    let mut line = String::new();
    while delays.len() < EVENTS {
        line.clear();
        ensure!(lines.read_line(&mut line)? > 0, "the server closed");
        // Chunks' sizes and ends lie between.
        if !line.starts_with('{') {
            continue;
        }
        let now = Timestamp::now();
        let event: serde_json::Value = serde_json::from_str(&line)?;
        let tag = event["tag"].as_str().context("no tag")?;
        let of = (0..PUSHERS).find(|&pusher| tag.starts_with(&(repository(pusher) + ":")));
        let next = &mut next[of.context("a tag of nobody's")? as usize];
        ensure!(tag.ends_with(&format!(":t{next}")), "want t{next}, got {tag}");
        *next += 1;
        let time: Timestamp = event["time"].as_str().context("no time")?.parse()?;
        delays.push(now.duration_since(time).as_secs_f64());
    }
    Ok(delays)
}
