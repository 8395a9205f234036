//! `make bench`: `registry` beside Debian's `docker-registry`, in turns, in one run on one machine.
//! docs/benchmarks.md has the method and the results.

#[path = "../../tests/common/mod.rs"]
mod common;

mod bench;
mod client;
mod distribution;
mod events;
mod files;
mod image;
mod mount;
mod npm;
mod page;
mod query;
mod ranges;
mod ratarmount;
mod report;
mod scale;
mod servers;
mod space;
mod store;
mod tar;
mod tls;
mod v1;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use bench::{Bench, Options};
use report::{Goal, Report};

type Measure = fn(&Bench, &Report) -> Result<()>;

/// All there is to measure, with the targets.
const MEASUREMENTS: [(&str, Measure); 30] = [
    ("get-1", |b, r| b.get(r, 1, false, Goal::AtLeast(1.5))),
    ("get-16", |b, r| b.get(r, 16, false, Goal::AtLeast(1.25))),
    ("get-tls-1", |b, r| b.get(r, 1, true, Goal::AtLeast(1.2))),
    ("get-tls-16", |b, r| b.get(r, 16, true, Goal::AtLeast(1.2))),
    ("get-ranges", Bench::get_ranges),
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
    ("space", Bench::space),
    ("query-find", Bench::query_find),
    ("query-grep", Bench::query_grep),
    ("query-beside", Bench::query_beside),
    ("query-diff", Bench::query_diff),
    ("query-index", Bench::query_index),
    ("page", Bench::page),
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
