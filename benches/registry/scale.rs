//! A store of many images with small layers, which the benchmark writes in the store's layout: one
//! repository with half of the images as its tags, and repositories of ten tags each for the rest.
//! Each image has one small layer of its own above three that it shares; how many images share a
//! layer follows Zipf's law. The same number of entries in few large layers stands beside it.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use flate2::Compression;
use flate2::write::GzEncoder;
use registry::oci::Digest;
use tempfile::TempDir;

use crate::bench::{Bench, CLIENTS, text};
use crate::client::{Connection, Target};
use crate::common::mount::Mount;
use crate::common::{self, REGISTRY, Registry};
use crate::report::{Goal, Report, Row, Unit};
use crate::store::Store;
use crate::tar::{self, Text, splitmix};

/// The repository that half of the images belong to.
const LARGE: &str = "one/image";
/// The tags of every other repository.
const TAGS: usize = 10;
/// Entries of an image's own layer, its folder included.
const OWN: usize = 90;
/// Entries of a layer that images share.
const SHARED: usize = 3333;
/// Images for each layer that they share.
const IMAGES_EACH: usize = 333;
/// Images of ten files each.
const SMALL: usize = 1000;
/// Large layers with as many entries as all small ones.
const LARGE_LAYERS: usize = 100;
/// What the decoded spans may take, less than the default so that it is filled.
const CACHE: &str = "64MiB";
const CACHE_BYTES: f64 = (64 << 20) as f64;
/// Pushes of which the slowest hundredth counts.
const PUSHES: usize = 300;

/// A gzipped tar of a folder with small files.
fn layer(folder: &str, entries: usize) -> Result<Vec<u8>> {
    let mut out = GzEncoder::new(Vec::new(), Compression::fast());
    tar::directory(&mut out, "etc")?;
    tar::directory(&mut out, folder)?;
    for number in 2..entries {
        let seed = splitmix(number as u64);
        // With those of the other layers, /etc has a hundred names, as in images of Debian.
        let parent = if number % 10 == 0 && number < 300 { "etc" } else { folder };
        let name = format!("{parent}/{folder}-{number}.conf");
        tar::file(&mut out, &name, 0o644, Text { seed, size: seed % 64 })?;
    }
    tar::end(&mut out)?;
    out.flush()?;
    Ok(out.finish()?)
}

/// One of `layers`, the first ones far more often.
fn zipf(seed: u64, layers: usize) -> usize {
    let uniform = splitmix(seed) as f64 / u64::MAX as f64;
    ((layers as f64).powf(uniform) as usize - 1).min(layers - 1)
}

struct Many {
    _temp: TempDir,
    store: Store,
    images: usize,
    entries: usize,
    layers: usize,
}

impl Many {
    fn write(folder: &Path, images: usize) -> Result<Many> {
        let temp = TempDir::with_prefix_in("scale", folder)?;
        let store = Store::new(temp.path().join("store"))?;
        let shared = (images / IMAGES_EACH).max(3);
        let shared: Vec<(Digest, u64)> = (0..shared)
            .map(|number| store.layer(&layer(&format!("base-{number}"), SHARED)?))
            .collect::<Result<_>>()?;
        let large = store.repository_named(LARGE);
        for number in 0..images {
            let mut layers: Vec<_> = (0..3u64)
                .map(|place| shared[zipf(number as u64 * 3 + place, shared.len())])
                .collect();
            layers.push(store.layer(&layer(&format!("app-{number}"), OWN)?)?);
            let image = store.image_of(&layers)?;
            let tag = format!("tag-{number}");
            if number < images / 2 {
                large.tag(&image, &tag)?;
            } else {
                store.repository_named(&repository(number)).tag(&image, &tag)?;
            }
        }
        let small = store.repository_named("ten/image");
        for number in 0..SMALL.min(images) {
            let layers = [store.layer(&layer(&format!("ten-{number}"), 10)?)?];
            small.tag(&store.image_of(&layers)?, &format!("tag-{number}"))?;
        }
        let layers = images + shared.len() + SMALL.min(images);
        let entries = images * OWN + shared.len() * SHARED + SMALL.min(images) * 10;
        Ok(Many { _temp: temp, store, images, entries, layers })
    }

    /// The same number of entries in [`LARGE_LAYERS`] layers.
    fn write_large(folder: &Path, entries: usize) -> Result<Many> {
        let temp = TempDir::with_prefix_in("scale", folder)?;
        let store = Store::new(temp.path().join("store"))?;
        let repository = store.repository_named(LARGE);
        for number in 0..LARGE_LAYERS {
            let layers = [store.layer(&layer(&format!("l-{number}"), entries / LARGE_LAYERS)?)?];
            repository.tag(&store.image_of(&layers)?, &format!("tag-{number}"))?;
        }
        Ok(Many { _temp: temp, store, images: LARGE_LAYERS, entries, layers: LARGE_LAYERS })
    }
}

fn repository(number: usize) -> String {
    format!("team-{}/app-{}", number / 1000, number / TAGS)
}

impl Bench {
    /// What an index of many small layers costs, and what is quick with it.
    pub fn scale(&self, report: &Report) -> Result<()> {
        let many = Many::write(&self.options.repositories_dir, self.options.images)?;
        let dir = self.folder();
        fs::create_dir_all(&dir)?;
        let images = many.images;
        let row = |what: String, unit, ours: &[f64], other: &[f64], goal| {
            report.row(&Row { what, unit, ours, other, goal });
        };
        let limit = Goal::AtMost(1.0);

        // Before anything is indexed; looking at names indexes nothing.
        let registry =
            Registry::start_in(&dir, &["--layers", &text(&many.store.root), "--index-jobs", "0"]);
        common::eventually("the catalog is complete", || {
            registry.get("/v2/_catalog").status == 200
        });
        let mount = self.mounted(&dir, &many.store);
        let large = mount.path.join("one");
        let names = [list(&large)?, list(&large)?];
        drop(mount);
        drop(registry);
        let tags = images / 2;
        row(format!("ls -l of {tags} tags, first"), Unit::Seconds, &names[..1], &[2.0], limit);
        row(format!("ls -l of {tags} tags, again"), Unit::Seconds, &names[1..], &[1.0], limit);

        let seconds = index(&dir, &many.store)?;
        let rate = many.layers as f64 / seconds;
        let what = format!("{} small layers indexed, beside the limit", many.layers);
        row(what, Unit::RequestsPerSecond, &[rate], &[1000.0], Goal::AtLeast(1.0));
        let few = Many::write_large(&self.options.repositories_dir, many.entries)?;
        let beside = self.folder();
        fs::create_dir_all(&beside)?;
        let large_seconds = index(&beside, &few.store)?;
        drop(few);
        let what = format!("the same beside as many entries in {LARGE_LAYERS} layers");
        row(what, Unit::Seconds, &[seconds], &[large_seconds], Goal::AtMost(1.3));
        let (files, bytes) = size(&dir.join("db"))?;
        let each = bytes / many.entries as f64;
        row("bytes of the index for each entry".into(), Unit::Bytes, &[each], &[130.0], limit);
        row("files of the index".into(), Unit::Number, &[files], &[500.0], limit);

        self.scale_start(report, &dir, &many)?;

        let registry =
            Registry::start_in(&dir, &["--layers", &text(&many.store.root), "--cache-size", CACHE]);
        let target = Target { address: registry.address, tls: None };
        let time = Duration::from_secs(self.options.seconds);
        let rate = trees(&target, images, time)?;
        let what = "tree/etc of a random image, 32 clients, beside the limit".to_owned();
        row(what, Unit::RequestsPerSecond, &[rate], &[5000.0], Goal::AtLeast(1.0));
        let memory = crate::servers::peak_memory(registry.pid()).context("no VmHWM")?;
        let what = "peak memory less the cache, after that".to_owned();
        row(what, Unit::Bytes, &[memory - CACHE_BYTES], &[150e6], limit);

        let small = SMALL.min(images) as f64;
        let beside_server = self.mounted(&dir, &many.store);
        let seconds = find(&beside_server.path.join("ten"))? / small;
        let what = "find of an image of 10 files, cold, beside a server".to_owned();
        row(what, Unit::Seconds, &[seconds], &[1e-3], limit);
        drop(beside_server);

        let pushes = push_p99(&registry)?;
        drop(registry);
        let few_dir = self.folder();
        fs::create_dir_all(&few_dir)?;
        let few = Many::write(&self.options.repositories_dir, 100)?;
        let few = Registry::start_in(&few_dir, &["--layers", &text(&few.store.root)]);
        let other = push_p99(&few)?;
        let what = format!("push of an image, p99, at {images} images beside 100");
        row(what, Unit::Seconds, &[pushes], &[other], Goal::AtMost(1.2));
        drop(few);

        let alone = self.mounted(&dir, &many.store);
        let seconds = find(&alone.path.join("ten"))? / small;
        let what = "find of an image of 10 files, cold, no server".to_owned();
        row(what, Unit::Seconds, &[seconds], &[1e-3], limit);
        list(&alone.path.join("one"))?;
        for number in 0..(images / 10).min(tags) {
            find(&alone.path.join(format!("{LARGE}:tag-{number}")))?;
        }
        let memory = crate::servers::peak_memory(alone.pid()).context("no VmHWM")?;
        let what =
            format!("peak memory of the mount less the cache, {} images walked", images / 10);
        row(what, Unit::Bytes, &[memory - CACHE_BYTES], &[150e6], limit);
        Ok(())
    }

    /// Starts beside those on an empty store, and the memory after that.
    fn scale_start(&self, report: &Report, dir: &Path, many: &Many) -> Result<()> {
        let empty = (self.folder(), Store::new(self.folder())?);
        fs::create_dir_all(&empty.0)?;
        let pairs = [(dir, &many.store), (empty.0.as_path(), &empty.1)];
        let (mut serve, mut mount) = ([const { Vec::new() }; 2], [const { Vec::new() }; 2]);
        let mut memory = [0.0; 2];
        for round in 0..=self.options.rounds {
            for (place, (dir, store)) in pairs.into_iter().enumerate() {
                let begin = Instant::now();
                let registry = Registry::start_in(dir, &["--layers", &text(&store.root)]);
                let served = begin.elapsed().as_secs_f64();
                memory[0] = resident(registry.pid())?;
                drop(registry);
                let begin = Instant::now();
                let mounted = self.mounted(dir, store);
                let ready = begin.elapsed().as_secs_f64();
                if place == 0 {
                    memory[1] = resident(mounted.pid())?;
                }
                drop(mounted);
                if round > 0 {
                    serve[place].push(served);
                    mount[place].push(ready);
                }
            }
        }
        for (what, seconds) in [("serve", &serve), ("mount", &mount)] {
            report.row(&Row {
                what: format!("{what} ready, {} images beside none", many.images),
                unit: Unit::Seconds,
                ours: &seconds[0],
                other: &seconds[1],
                goal: Goal::AtMost(1.2),
            });
        }
        for (what, memory) in ["serve", "mount"].into_iter().zip(memory) {
            report.row(&Row {
                what: format!("memory of {what} after the start, beside the limit"),
                unit: Unit::Bytes,
                ours: &[memory],
                other: &[64e6],
                goal: Goal::AtMost(1.0),
            });
        }
        Ok(())
    }

    fn mounted(&self, dir: &Path, store: &Store) -> Mount {
        Mount::start(dir, &["--layers", &text(&store.root), "--cache-size", CACHE])
    }
}

/// Seconds of `registry index --all`.
fn index(dir: &Path, store: &Store) -> Result<f64> {
    let begin = Instant::now();
    let mut command = Command::new(REGISTRY);
    command.args(["index", "--all", "--dir"]).arg(dir).arg("--layers").arg(&store.root);
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(begin.elapsed().as_secs_f64())
}

fn list(folder: &Path) -> Result<f64> {
    timed(Command::new("ls").arg("-l").arg(folder))
}

fn find(folder: &Path) -> Result<f64> {
    timed(Command::new("find").arg(folder).args(["-printf", "%s %m\n"]))
}

fn timed(command: &mut Command) -> Result<f64> {
    let begin = Instant::now();
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status()?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(begin.elapsed().as_secs_f64())
}

/// Files, and their bytes.
fn size(folder: &Path) -> Result<(f64, f64)> {
    let (mut files, mut bytes) = (0, 0);
    for entry in fs::read_dir(folder)? {
        files += 1;
        bytes += entry?.metadata()?.len();
    }
    Ok((f64::from(files), bytes as f64))
}

fn resident(process: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let mut lines = status.lines();
    let line = lines.find_map(|line| line.strip_prefix("VmRSS:")?.strip_suffix("kB"));
    let kib: f64 = line.context("no VmRSS")?.trim().parse()?;
    Ok(kib * 1024.0)
}

/// Listings a second, each of an image chosen at random.
fn trees(target: &Target, images: usize, time: Duration) -> Result<f64> {
    let (done, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let client = |seed: u64| -> Result<()> {
        let mut connection = Connection::open(target)?;
        let mut number = splitmix(seed);
        while !stop.load(Ordering::Relaxed) {
            number = splitmix(number);
            let image = number as usize % (images / 2);
            let name = LARGE.replace('/', "%2F");
            connection.get(&format!("/v1/images/{name}:tag-{image}/tree/etc"), |_| ())?;
            done.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> =
            (0..CLIENTS as u64).map(|seed| scope.spawn(move || client(seed))).collect();
        // The first second warms up.
        std::thread::sleep(Duration::from_secs(1));
        let (begin, before) = (Instant::now(), done.load(Ordering::Relaxed));
        std::thread::sleep(time);
        let rate = (done.load(Ordering::Relaxed) - before) as f64 / begin.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().expect("a client does not panic")?;
        }
        Ok(rate)
    })
}

/// The time that a hundredth of the pushes exceed.
pub fn push_p99(registry: &Registry) -> Result<f64> {
    let mut seconds = Vec::new();
    for number in 0..PUSHES {
        let seed = format!("{number}");
        let begin = Instant::now();
        registry.push_image("pushed/image", &format!("tag-{number}"), &seed);
        seconds.push(begin.elapsed().as_secs_f64());
    }
    Ok(p99(seconds))
}

/// The time that a hundredth exceeds.
pub fn p99(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() * 99 / 100]
}
