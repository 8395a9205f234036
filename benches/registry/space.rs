//! Garbage collection: a store half of whose images are not named any more, collected beside pushes,
//! and by Debian's `docker-registry garbage-collect`, for which no server may run.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::bench::{Bench, text};
use crate::common::{REGISTRY, Registry, run};
use crate::report::{Goal, Report, Row, Unit};
use crate::scale::{pull_p99, push_p99};
use crate::servers::{PEER, peak_memory};
use crate::store::Store;

/// Images of a repository.
const OF_ONE: usize = 100;
/// How long a run may take, in seconds, and how much memory the server.
const SECONDS: f64 = 60.0;
const MEMORY: f64 = 150e6;
/// How long it may take to say what takes space.
const USAGE_SECONDS: f64 = 1.0;

impl Bench {
    pub fn space(&self, report: &Report) -> Result<()> {
        let images = self.options.images;
        let row = |what: &str, unit, ours: f64, other: f64, goal| {
            report.row(&Row { what: what.to_owned(), unit, ours: &[ours], other: &[other], goal });
        };
        let dir = TempDir::with_prefix_in("space", &self.options.repositories_dir)?;
        let store = self.half_garbage(&dir.path().join("layers"))?;
        let registry = Registry::start_in(dir.path(), &["--gc-interval", "0"]);
        let quiet = (push_p99(&registry)?, pull_p99(&registry)?);
        // The newest images have to be older than the grace period.
        thread::sleep(Duration::from_secs(3));
        let (seconds, beside) = thread::scope(|scope| {
            let collect = scope.spawn(|| {
                let begin = Instant::now();
                let mut gc = Command::new(REGISTRY);
                let output = run(gc.args(["gc", "--grace", "1s", "--dir"]).arg(dir.path()));
                (begin.elapsed().as_secs_f64(), output)
            });
            let beside = (push_p99(&registry)?, pull_p99(&registry)?);
            ensure!(!collect.is_finished(), "the collection was over before the pulls");
            let (seconds, output) = collect.join().expect("no panic");
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            ensure!(said.contains(&format!("{} links", images / 2 * 2)), "{said}");
            Ok((seconds, beside))
        })?;
        let mut usage = Vec::new();
        for _ in 0..3 {
            let begin = Instant::now();
            let output = run(Command::new(REGISTRY).args(["usage", "--dir"]).arg(dir.path()));
            usage.push(begin.elapsed().as_secs_f64());
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            ensure!(said.contains("app-0:v0"), "{said}");
        }
        let memory = peak_memory(registry.pid()).context("no VmHWM")?;
        drop(registry);
        drop((store, dir));

        let dir = TempDir::with_prefix_in("space", &self.options.repositories_dir)?;
        let store = self.half_garbage(&dir.path().join("layers"))?;
        let config = dir.path().join("config.yml");
        let root = text(&store.root);
        let lines = "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: ";
        fs::write(&config, format!("{lines}{root}\n"))?;
        let begin = Instant::now();
        run(Command::new(PEER).arg("garbage-collect").arg(&config));
        let theirs = begin.elapsed().as_secs_f64();

        let what = format!("gc of {images} images, half of them garbage");
        row(&what, Unit::Seconds, seconds, theirs, Goal::AtMost(1.0));
        row("the same, beside its limit", Unit::Seconds, seconds, SECONDS, Goal::AtMost(1.0));
        row("peak memory of the server", Unit::Bytes, memory, MEMORY, Goal::AtMost(1.0));
        report.row(&Row {
            what: "usage of all repositories and tags, beside its limit".to_owned(),
            unit: Unit::Seconds,
            ours: &usage,
            other: &[USAGE_SECONDS],
            goal: Goal::AtMost(1.0),
        });
        let what = "push of an image meanwhile, p99, beside before";
        row(what, Unit::Seconds, beside.0, quiet.0, Goal::AtMost(1.2));
        let what = "pull of an image meanwhile, p99, beside before";
        row(what, Unit::Seconds, beside.1, quiet.1, Goal::AtMost(1.2));
        Ok(())
    }

    /// A store of images of two layers. Every other one was deleted, so that its manifest, and the
    /// links to its layers, are left.
    fn half_garbage(&self, root: &Path) -> Result<Store> {
        let store = Store::new(root.to_owned())?;
        for number in 0..self.options.images {
            let layers = ["base", "top"].map(|part| format!("{part} of {number}"));
            let layers = layers.map(|layer| store.layer(layer.as_bytes()));
            let layers = layers.into_iter().collect::<Result<Vec<_>>>()?;
            let image = store.image_of(&layers)?;
            let repository = store.repository_named(&format!("team/app-{}", number / OF_ONE));
            match number % 2 {
                0 => repository.tag(&image, &format!("v{number}"))?,
                _ => repository.link(&image)?,
            }
        }
        Ok(store)
    }
}
