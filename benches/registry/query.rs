//! Questions to stores that the benchmark writes. `find` looks into images of one large layer each:
//! versions of one another, as those of real images are. Most names are in all of them, and a third of
//! the contents is new in each. `grep` looks into a hundred images of Debian packages.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use flate2::Compression;
use flate2::write::GzEncoder;
use registry::oci::Algorithm;
use tempfile::TempDir;

use crate::bench::{Bench, CLIENTS, text};
use crate::common::mount::Mount;
use crate::common::{REGISTRY, Registry, run, send_to};
use crate::image::Layer;
use crate::mount::{cold, timed};
use crate::report::{Goal, Report, Row, Unit};
use crate::servers::peak_memory;
use crate::store::Store;
use crate::tar::{self, Text, splitmix};

/// Images that `grep` looks into.
const IMAGES: u64 = 100;
/// Sets of packages that they have.
const SETS: usize = 5;
const SECOND: Duration = Duration::from_secs(1);
/// What decoded spans may take in the server.
const CACHE: f64 = (256 << 20) as f64;
/// Texts that are in none of them, from one whose words are nowhere to one of common words.
const ABSENT: [&str; 3] =
    ["AKIAIOSFODNN7EXAMPLE", "no-such-text-anywhere", "this text occurs nowhere"];

/// Entries of a layer.
const ENTRIES: usize = 40_000;
/// Files of a folder.
const FOLDER: usize = 40;
/// The image of the middle has this one.
const NEEDLE: &str = "log4j-core-2.14.1.jar";
const ENDINGS: [&str; 8] = ["so", "py", "h", "conf", "mo", "png", "txt", "jar"];

/// A version of the layer that all images have.
fn layer(version: usize, has_needle: bool) -> Result<Vec<u8>> {
    let mut out = GzEncoder::new(Vec::new(), Compression::fast());
    for number in 0..ENTRIES - 1 {
        let folder = format!("usr/lib/package-{}", number / FOLDER);
        if number % FOLDER == 0 {
            tar::directory(&mut out, &folder)?;
            continue;
        }
        let seed = splitmix(number as u64);
        // One name in twenty is of this version only, and one content in three.
        let own = if seed.is_multiple_of(20) { format!("-{version}") } else { String::new() };
        let ending = ENDINGS[seed as usize % ENDINGS.len()];
        let name = format!("{folder}/file-{seed:08x}{own}.{ending}");
        let content = if seed.is_multiple_of(3) { splitmix(seed ^ version as u64) } else { seed };
        tar::file(&mut out, &name, 0o644, Text { seed: content, size: 8 + content % 64 })?;
    }
    let content = Text { seed: 1, size: if has_needle { 1000 } else { 0 } };
    let name = if has_needle { NEEDLE } else { "nothing" };
    tar::file(&mut out, &format!("usr/lib/{name}"), 0o644, content)?;
    tar::end(&mut out)?;
    Ok(out.finish()?)
}

fn needle() -> Result<String> {
    let mut bytes = Vec::new();
    Text { seed: 1, size: 1000 }.pieces(|piece| {
        bytes.extend_from_slice(piece);
        anyhow::Ok(())
    })?;
    Ok(Algorithm::Sha256.digest(&bytes).hex())
}

impl Bench {
    pub fn query_find(&self, report: &Report) -> Result<()> {
        let temp = TempDir::with_prefix_in("query", &self.options.repositories_dir)?;
        let store = Store::new(temp.path().join("store"))?;
        let layers = self.options.entries.div_ceil(ENTRIES);
        for version in 0..layers {
            let layer = store.layer(&layer(version, version == layers / 2)?)?;
            let repository = format!("team-{}/app", version / 10);
            store.repository_named(&repository).tag(&store.image_of(&[layer])?, &tag(version))?;
        }
        let dir = self.folder();
        fs::create_dir_all(&dir)?;
        // The server first, which learns the store's repositories.
        drop(self.asked(&dir, &store)?);
        let begin = Instant::now();
        let mut command = Command::new(REGISTRY);
        command.args(["index", "--all", "--dir"]).arg(&dir).arg("--layers").arg(&store.root);
        let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status()?;
        ensure!(status.success(), "{command:?}: {status}");
        let entries = (layers * ENTRIES) as f64;
        let row = |what: String, unit, ours: &[f64], other: f64| {
            report.row(&Row { what, unit, ours, other: &[other], goal: Goal::AtMost(1.0) });
        };
        eprintln!("{entries} entries indexed in {:.0} s", begin.elapsed().as_secs_f64());

        let mut registry = self.asked(&dir, &store)?;
        let bytes = family_bytes(&registry, &FIND)?;
        row("bytes that find adds for each entry".into(), Unit::Bytes, &[bytes / entries], 40.0);
        let sha256 = needle()?;
        for (what, query, warm, first) in [
            ("a name", format!("name={NEEDLE}"), 5e-3, 50e-3),
            ("a prefix", "name=log4j-*".to_owned(), 5e-3, 50e-3),
            ("a content", format!("sha256={sha256}"), 5e-3, 50e-3),
            ("a suffix", "name=*4.1.jar".to_owned(), 500e-3, 500e-3),
            ("an infix", "name=*j-core*".to_owned(), 500e-3, 500e-3),
        ] {
            registry.stop();
            drop(registry);
            cold()?;
            registry = self.asked(&dir, &store)?;
            cold()?;
            let seconds = ask(&registry, &query)?;
            row(format!("find by {what}, cold, first hit"), Unit::Seconds, &[seconds], first);
            let mut seconds = Vec::new();
            for round in 0..=self.options.rounds {
                let measured = ask(&registry, &query)?;
                if round > 0 {
                    seconds.push(measured);
                }
            }
            row(format!("find by {what}, warm, first hit"), Unit::Seconds, &seconds, warm);
        }
        Ok(())
    }

    pub fn query_grep(&self, report: &Report) -> Result<()> {
        let fleet = self.fleet()?;
        let row = |what: &str, unit, ours: &[f64], other: &[f64], goal| {
            let what = what.to_owned();
            report.row(&Row { what, unit, ours, other, goal: Goal::AtMost(goal) });
        };
        let registry = self.asked(&fleet.dir, &fleet.store)?;
        let grams = family_bytes(&registry, &["grams"])?;
        let find = family_bytes(&registry, &FIND)?;
        let bytes = find + grams;
        drop(registry);
        let stored = fleet.layers.values().map(|layer| layer.size).sum::<u64>() as f64;
        row(
            "what grep adds to the index, beside the layers",
            Unit::Bytes,
            &[grams],
            &[stored],
            0.03,
        );
        row("what find and grep add to it", Unit::Bytes, &[bytes], &[stored], 0.03);
        row(
            "what find adds for each entry, limit",
            Unit::Bytes,
            &[find / fleet.entries],
            &[40.0],
            1.0,
        );
        row(
            "what both add for each entry, limit",
            Unit::Bytes,
            &[bytes / fleet.entries],
            &[40.0],
            1.0,
        );
        for absent in ABSENT {
            let mut seconds = [const { Vec::new() }; 2];
            for round in 0..=self.options.rounds {
                for (more, seconds) in [&[][..], &["--no-index-skip"]].into_iter().zip(&mut seconds)
                {
                    let found = fleet.grep(&[&["-F", absent], more].concat())?;
                    if round > 0 {
                        seconds.push(found);
                    }
                }
            }
            let what = format!("grep for {absent:?}, beside without the skip index");
            row(&what, Unit::Seconds, &seconds[0], &seconds[1], 0.05);
        }

        let registry = self.asked(&fleet.dir, &fleet.store)?;
        let query = |more: &str| {
            let begin = Instant::now();
            whole(&registry, &format!("grep?pattern=no-such-text-anywhere&fixed=1{more}"))?;
            anyhow::Ok(begin.elapsed().as_secs_f64())
        };
        query("")?;
        let (with, without) = (query("")?, query("&index_skip=0")?);
        row("the same over HTTP, one run", Unit::Seconds, &[with], &[without], 0.05);
        let peak = peak_memory(registry.pid()).context("no VmHWM")? - CACHE;
        row("peak memory of its server less the cache, limit", Unit::Bytes, &[peak], &[150e6], 1.0);
        drop(registry);

        // As it is done without a registry that can be asked.
        let folder = self.folder();
        let (mut ours, mut other) = (Vec::new(), Vec::new());
        for _ in 0..self.options.rounds {
            cold()?;
            ours.push(fleet.grep(&["-F", "--no-index-skip", ABSENT[0]])?);
            cold()?;
            let begin = Instant::now();
            for (digest, layer) in &fleet.layers {
                let to = folder.join(digest);
                fs::create_dir_all(&to)?;
                run(Command::new("tar").arg("xzf").arg(&layer.path).arg("-C").arg(to));
            }
            timed(rg(ABSENT[0]).arg(&folder), 1)?;
            other.push(begin.elapsed().as_secs_f64());
            fs::remove_dir_all(&folder)?;
        }
        let what = "grep of all layers, cold, beside tar xzf + rg";
        row(what, Unit::Seconds, &ours, &other, 0.35);

        // One image for each set of packages.
        let names: Vec<String> = (0..SETS).map(|n| format!("team-{n}/app:{}", tag(n))).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut times = [const { Vec::new() }; 4];
        for _ in 0..self.options.rounds {
            let question = [&["-F", "--no-index-skip", ABSENT[0]], &names[..]].concat();
            cold()?;
            for times in &mut times[..2] {
                times.push(fleet.grep(&question)?);
            }
            let mount = Mount::start(&fleet.dir, &["--layers", &text(&fleet.store.root)]);
            cold()?;
            for times in &mut times[2..] {
                let mut rg = rg(ABSENT[0]);
                rg.args(names.iter().map(|name| mount.path.join(name)));
                times.push(timed(&mut rg, 1)?);
            }
        }
        let what = "grep of 5 images, cold, beside rg on the mount";
        row(what, Unit::Seconds, &times[0], &times[2], 0.7);
        row("the same, warm", Unit::Seconds, &times[1], &times[3], 1.0);
        Ok(())
    }

    /// Pushes and pulls while so many clients ask questions that read every layer.
    pub fn query_beside(&self, report: &Report) -> Result<()> {
        let fleet = self.fleet()?;
        let registry = self.asked(&fleet.dir, &fleet.store)?;
        let pulled = vec![7; 20_000_000];
        let digest = registry.push_blob("pulled/image", &pulled);
        let path = format!("/v2/pulled/image/blobs/{digest}");
        let [mut pushes, mut pulls] = [(); 2].map(|()| [const { Vec::new() }; 2]);
        for round in 0..=self.options.rounds {
            for is_asked in [0, 1] {
                let is_over = AtomicBool::new(false);
                thread::scope(|scope| {
                    for client in 0..CLIENTS * is_asked {
                        let (registry, is_over) = (&registry, &is_over);
                        scope.spawn(move || {
                            let question = match client % 4 {
                                0 => "find?size=%2B100000000".to_owned(),
                                1 => format!("grep?pattern={client}no-such-text"),
                                _ => format!("grep?pattern={client}no-such-text&index_skip=0"),
                            };
                            while !is_over.load(Relaxed) {
                                // A client that leaves after a second, and asks again.
                                let _ = part(registry, &question, 64 << 10, Some(SECOND));
                            }
                        });
                    }
                    let begin = Instant::now();
                    for number in 0..100 {
                        let seed = format!("{round}-{is_asked}-{number}");
                        registry.push_image("pushed/image", &format!("tag-{number}"), &seed);
                    }
                    let pushed = begin.elapsed().as_secs_f64();
                    let begin = Instant::now();
                    for _ in 0..20 {
                        assert_eq!(registry.get(&path).body.len(), pulled.len());
                    }
                    let pulled = begin.elapsed().as_secs_f64();
                    if round > 0 {
                        pushes[is_asked].push(pushed);
                        pulls[is_asked].push(pulled);
                    }
                    is_over.store(true, Relaxed);
                });
            }
        }
        for (what, [quiet, asked]) in
            [("100 pushes of small images", &pushes), ("20 pulls of 20 MB", &pulls)]
        {
            report.row(&Row {
                what: format!("{what} beside 32 questions, and without"),
                unit: Unit::Seconds,
                ours: asked,
                other: quiet,
                goal: Goal::AtMost(1.33),
            });
        }
        Ok(())
    }

    /// Two tags that differ in their top layer.
    pub fn query_diff(&self, report: &Report) -> Result<()> {
        let temp = TempDir::with_prefix_in("query", &self.options.dir)?;
        let store = Store::new(temp.path().join("store"))?;
        let base = store.layer(&layer(0, false)?)?;
        for (name, folders) in [("few", 1), ("many", ENTRIES / FOLDER)] {
            for version in [1, 2] {
                let mut top = GzEncoder::new(Vec::new(), Compression::fast());
                for number in 0..100.max(folders) {
                    let path = format!("usr/lib/package-{}/new-{number}", number % folders);
                    let content = Text { seed: version + number as u64, size: 100 };
                    tar::file(&mut top, &path, 0o644, content)?;
                }
                tar::end(&mut top)?;
                let image = store.image_of(&[base, store.layer(&top.finish()?)?])?;
                store.repository_named(name).tag(&image, &format!("{version}"))?;
            }
        }
        let dir = self.folder();
        fs::create_dir_all(&dir)?;
        drop(self.asked(&dir, &store)?);
        let mut command = Command::new(REGISTRY);
        command.args(["index", "--all", "--dir"]).arg(&dir).arg("--layers").arg(&store.root);
        run(command.stdout(Stdio::null()).stderr(Stdio::null()));
        let registry = self.asked(&dir, &store)?;
        let mount = Mount::start(&dir, &["--layers", &text(&store.root)]);
        for (name, what) in
            [("few", "100 files of one folder"), ("many", "a file of 1,000 folders")]
        {
            let (mut ours, mut other) = (Vec::new(), Vec::new());
            for round in 0..=self.options.rounds {
                let begin = Instant::now();
                whole(&registry, &format!("diff?a={name}:1&b={name}:2&limit=100000"))?;
                let seconds = begin.elapsed().as_secs_f64();
                let mut diff = Command::new("diff");
                diff.arg("-rq").args([1, 2].map(|tag| mount.path.join(format!("{name}:{tag}"))));
                let beside = timed(&mut diff, 1)?;
                if round > 0 {
                    ours.push(seconds);
                    other.push(beside);
                }
            }
            let row = |what: String, other: &[f64]| {
                let unit = Unit::Seconds;
                report.row(&Row { what, unit, ours: &ours, other, goal: Goal::AtMost(1.0) });
            };
            row(format!("diff of images of 40,000 entries: {what}, limit"), &[20e-3]);
            row("the same, beside diff -rq of the two in the mount".to_owned(), &other);
        }
        Ok(())
    }

    /// Indexing, beside another build: one without what only questions need.
    pub fn query_index(&self, report: &Report) -> Result<()> {
        let Some(beside) = &self.options.beside else {
            eprintln!("query-index is left out: --beside names a build without the skip index");
            return Ok(());
        };
        let fleet = self.fleet()?;
        let dirs = [self.folder(), self.folder()];
        for (set, what) in [(0, "perl, python3 …"), (1, "node"), (2, "java"), (3, "go"), (4, "web")]
        {
            let mut seconds = [const { Vec::new() }; 2];
            for round in 0..=self.options.rounds {
                let programs = [Path::new(REGISTRY), beside];
                for ((program, dir), seconds) in programs.into_iter().zip(&dirs).zip(&mut seconds) {
                    let mut command = Command::new(program);
                    command.args(["index", "--force", "--dir"]).arg(dir).arg("--layers");
                    command.arg(&fleet.store.root).arg(format!("team-{set}/app:{}", tag(set)));
                    fs::create_dir_all(dir)?;
                    let measured = timed(command.stderr(Stdio::null()), 0)?;
                    if round > 0 {
                        seconds.push(measured);
                    }
                }
            }
            report.row(&Row {
                what: format!("indexing an image ({what}), beside the other build"),
                unit: Unit::Seconds,
                ours: &seconds[0],
                other: &seconds[1],
                goal: Goal::AtMost(1.2),
            });
        }
        Ok(())
    }

    /// A hundred images of Debian packages, indexed.
    fn fleet(&self) -> Result<Fleet> {
        let temp = TempDir::with_prefix_in("query", &self.options.dir)?;
        let store = Store::new(temp.path().join("store"))?;
        let images = self.cache()?.fleet(IMAGES)?;
        let mut layers = BTreeMap::new();
        for (number, image) in images.iter().enumerate() {
            let repository = store.repository_named(&format!("team-{}/app", number % 10));
            repository.tag(&store.link_image(image)?, &tag(number))?;
            layers.extend(image.layers.iter().map(|layer| (layer.digest.hex(), layer.clone())));
        }
        let dir = self.folder();
        fs::create_dir_all(&dir)?;
        drop(self.asked(&dir, &store)?);
        let mut fleet = Fleet { _temp: temp, store, dir, layers, entries: 0.0 };
        let output = run(&mut fleet.command(&["index", "--all", "--json"]));
        let indexed: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout)?;
        for layer in indexed {
            fleet.entries += layer["entries"].as_f64().context("no entries")?;
        }
        Ok(fleet)
    }

    fn asked(&self, dir: &Path, store: &Store) -> Result<Registry> {
        let root = text(&store.root);
        let registry = Registry::start_in(
            dir,
            &["--layers", &root, "--index-jobs", "0", "--metrics-listen", METRICS],
        );
        crate::common::eventually("the catalog is complete", || {
            registry.get("/v2/_catalog").status == 200
        });
        Ok(registry)
    }
}

struct Fleet {
    _temp: TempDir,
    store: Store,
    dir: PathBuf,
    /// By digest.
    layers: BTreeMap<String, Layer>,
    entries: f64,
}

impl Fleet {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(REGISTRY);
        command.args(arguments).arg("--dir").arg(&self.dir).arg("--layers").arg(&self.store.root);
        command
    }

    /// Seconds in which nothing is found.
    fn grep(&self, arguments: &[&str]) -> Result<f64> {
        timed(self.command(&[&["grep"], arguments].concat()).stderr(Stdio::null()), 1)
    }
}

fn rg(text: &str) -> Command {
    let mut rg = Command::new("rg");
    rg.args(["--no-config", "--hidden", "--no-ignore", "-uu", "-F", text]);
    rg
}

/// Asks a question, and takes so many bytes of the answer.
fn part(
    registry: &Registry,
    question: &str,
    bytes: u64,
    patience: Option<Duration>,
) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(registry.address)?;
    stream.set_read_timeout(patience)?;
    let host = registry.address;
    write!(stream, "GET /v2/_query/{question} HTTP/1.0\r\nHost: {host}\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(bytes).read_to_end(&mut answer)?;
    Ok(answer)
}

/// Asks a question, again where its answer has to go on.
fn whole(registry: &Registry, question: &str) -> Result<()> {
    let mut after = String::new();
    loop {
        let answer = part(registry, &format!("{question}{after}"), u64::MAX, None)?;
        let last = answer.split(|&byte| byte == b'\n').rfind(|line| !line.is_empty());
        let end: serde_json::Value = serde_json::from_slice(last.unwrap_or_default())?;
        match end["end"]["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return Ok(()),
        }
    }
}

const METRICS: &str = "127.0.0.1:19099";

fn tag(version: usize) -> String {
    format!("v{version}")
}

/// The families that only `find` needs.
const FIND: [&str; 6] = ["basenames", "named", "contents", "blocks", "edges", "unindexed"];

/// Bytes of families of the index.
fn family_bytes(registry: &Registry, families: &[&str]) -> Result<f64> {
    let address = METRICS.parse()?;
    let reply = send_to(address, "GET", "/metrics", &[], b"")?;
    let text = reply.text();
    let mut bytes = 0.0;
    for family in families {
        let name = format!("registry_index_bytes{{family=\"{family}\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&name));
        let line = line.with_context(|| format!("no {name} of process {}", registry.pid()))?;
        eprintln!("{family}: {line} bytes");
        bytes += line.parse::<f64>()?;
    }
    Ok(bytes)
}

/// Seconds until the first hit of a question, of which there is one.
fn ask(registry: &Registry, query: &str) -> Result<f64> {
    let begin = Instant::now();
    let mut stream = TcpStream::connect(registry.address)?;
    let host = registry.address;
    write!(stream, "GET /v2/_query/find?{query} HTTP/1.0\r\nHost: {host}\r\n\r\n")?;
    let mut lines = BufReader::new(stream).lines();
    for line in &mut lines {
        if line?.starts_with("{\"image\"") {
            return Ok(begin.elapsed().as_secs_f64());
        }
    }
    anyhow::bail!("nothing was found for {query}")
}
