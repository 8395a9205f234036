//! Garbage collection: a store half of whose images are not named any more, collected beside pushes,
//! and by Debian's `docker-registry garbage-collect`, for which no server may run.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::bench::{Bench, text};
use crate::common::{REGISTRY, Registry, eventually, run};
use crate::report::{Goal, Report, Row, Unit};
use crate::scale::p99;
use crate::servers::{PEER, peak_memory};
use crate::store::Store;

/// Images of a repository.
const OF_ONE: usize = 100;
/// How long a run may take, in seconds, and how much memory the server.
const SECONDS: f64 = 60.0;
/// How long pushes and pulls are measured before.
const QUIET: Duration = Duration::from_secs(15);
const MEMORY: f64 = 150e6;
/// How long it may take to say what takes space.
const USAGE_SECONDS: f64 = 1.0;

impl Bench {
    pub fn space(&self, report: &Report) -> Result<()> {
        let images = self.options.images;
        let row = |what: &str, unit, ours: f64, other: f64, goal| {
            report.row(&Row { what: what.to_owned(), unit, ours: &[ours], other: &[other], goal });
        };
        let garbage = self.half_garbage()?;
        let registry = garbage.serve();
        let begin = Instant::now();
        let quiet = push_and_pull(&registry, "quiet", || begin.elapsed() > QUIET)?;
        // The newest images have to be older than the grace period.
        thread::sleep(Duration::from_secs(3));
        let (seconds, beside) = thread::scope(|scope| {
            let collect = scope.spawn(|| garbage.collect());
            let beside = push_and_pull(&registry, "beside", || collect.is_finished())?;
            anyhow::Ok((collect.join().expect("no panic")?, beside))
        })?;
        let mut usage = Vec::new();
        for _ in 0..3 {
            let begin = Instant::now();
            let output =
                run(Command::new(REGISTRY).args(["usage", "--dir"]).arg(garbage.dir.path()));
            usage.push(begin.elapsed().as_secs_f64());
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            ensure!(said.contains("app-0:v0"), "{said}");
        }
        let memory = peak_memory(registry.pid()).context("no VmHWM")?;
        drop(registry);
        drop(garbage);

        let garbage = self.half_garbage()?;
        let registry = garbage.serve();
        thread::sleep(Duration::from_secs(3));
        let alone = garbage.collect()?;
        drop(registry);
        drop(garbage);

        let garbage = self.half_garbage()?;
        let config = garbage.dir.path().join("config.yml");
        let root = text(&garbage.store.root);
        let lines = "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: ";
        fs::write(&config, format!("{lines}{root}\n"))?;
        let begin = Instant::now();
        run(Command::new(PEER).arg("garbage-collect").arg(&config));
        let theirs = begin.elapsed().as_secs_f64();

        let what = format!("gc of {images} images, half of them garbage");
        row(&what, Unit::Seconds, alone, theirs, Goal::AtMost(1.0));
        row(
            "the same while images are pushed and pulled, beside its limit",
            Unit::Seconds,
            seconds,
            SECONDS,
            Goal::AtMost(1.0),
        );
        row("peak memory of the server", Unit::Bytes, memory, MEMORY, Goal::AtMost(1.0));
        report.row(&Row {
            what: "usage of all repositories and tags, beside its limit".to_owned(),
            unit: Unit::Seconds,
            ours: &usage,
            other: &[USAGE_SECONDS],
            goal: Goal::AtMost(1.0),
        });
        let what = "push of an image meanwhile, p99, beside before";
        row(what, Unit::Seconds, beside[0], quiet[0], Goal::AtMost(1.2));
        let what = "pull of an image meanwhile, p99, beside before";
        row(what, Unit::Seconds, beside[1], quiet[1], Goal::AtMost(1.2));
        Ok(())
    }

    /// A store of images of two layers. Every other one was deleted, so that its manifest, and the
    /// links to its layers, are left.
    fn half_garbage(&self) -> Result<HalfGarbage> {
        let dir = TempDir::with_prefix_in("space", &self.options.repositories_dir)?;
        let store = Store::new(dir.path().join("layers"))?;
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
        Ok(HalfGarbage { store, dir, images: self.options.images })
    }
}

/// A store, and the folder that it lies in.
struct HalfGarbage {
    store: Store,
    dir: TempDir,
    images: usize,
}

impl HalfGarbage {
    /// Starts a server, which knows all of the store when this returns.
    fn serve(&self) -> Registry {
        let registry = Registry::start_in(self.dir.path(), &["--gc-interval", "0"]);
        eventually("the catalog is complete", || registry.get("/v2/_catalog").status == 200);
        registry
    }

    /// Collects what the server's store has too much, and returns the seconds that it takes.
    fn collect(&self) -> Result<f64> {
        let begin = Instant::now();
        let mut gc = Command::new(REGISTRY);
        let output = run(gc.args(["gc", "--grace", "1s", "--dir"]).arg(self.dir.path()));
        let seconds = begin.elapsed().as_secs_f64();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(said.contains(&format!("{} links", self.images / 2 * 2)), "{said}");
        Ok(seconds)
    }
}

/// Pushes an image and pulls it, until `is_over`. Returns the times that a hundredth of the pushes, and
/// of the pulls, exceed.
fn push_and_pull(registry: &Registry, name: &str, is_over: impl Fn() -> bool) -> Result<[f64; 2]> {
    let mut seconds = [const { Vec::new() }; 2];
    while !is_over() {
        let tag = format!("{name}-{}", seconds[0].len());
        let begin = Instant::now();
        registry.push_image("pushed/image", &tag, &tag);
        seconds[0].push(begin.elapsed().as_secs_f64());

        let begin = Instant::now();
        let manifest = registry.get(&format!("/v2/pushed/image/manifests/{tag}")).json();
        let layers = manifest["layers"].as_array().into_iter().flatten();
        for blob in layers.chain([&manifest["config"]]) {
            let digest = blob["digest"].as_str().context("a digest")?;
            let reply = registry.get(&format!("/v2/pushed/image/blobs/{digest}"));
            ensure!(reply.status == 200, "{}", reply.status);
        }
        seconds[1].push(begin.elapsed().as_secs_f64());
    }
    eprintln!("{} pushes and pulls, {name}", seconds[0].len());
    Ok(seconds.map(p99))
}
