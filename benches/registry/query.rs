//! Questions to stores that the benchmark writes. `find` looks into images of one large layer each:
//! versions of one another, as those of real images are. Most names are in all of them, and a third of
//! the contents is new in each. `grep` looks into a hundred images of Debian packages.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use flate2::Compression;
use flate2::write::GzEncoder;
use registry::oci::Algorithm;
use tempfile::TempDir;

use crate::bench::{Bench, text};
use crate::common::{REGISTRY, Registry, send_to};
use crate::mount::cold;
use crate::report::{Goal, Report, Row, Unit};
use crate::store::Store;
use crate::tar::{self, Text, splitmix};

/// Images that `grep` looks into.
const IMAGES: u64 = 100;
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
        let temp = TempDir::with_prefix_in("query", &self.options.dir)?;
        let store = Store::new(temp.path().join("store"))?;
        let images = self.cache()?.fleet(IMAGES)?;
        let mut layers = BTreeMap::new();
        for (number, image) in images.iter().enumerate() {
            let repository = store.repository_named(&format!("team-{}/app", number % 10));
            repository.tag(&store.link_image(image)?, &tag(number))?;
            layers.extend(image.layers.iter().map(|layer| (layer.digest.hex(), layer.size)));
        }
        let stored = layers.values().sum::<u64>() as f64;
        let dir = self.folder();
        fs::create_dir_all(&dir)?;
        drop(self.asked(&dir, &store)?);
        let run = |arguments: &[&str]| {
            let mut command = Command::new(REGISTRY);
            command.args(arguments).arg("--dir").arg(&dir).arg("--layers").arg(&store.root);
            command.stdout(Stdio::null()).stderr(Stdio::null()).status()
        };
        let status = run(&["index", "--all"])?;
        ensure!(status.success(), "indexing: {status}");
        let registry = self.asked(&dir, &store)?;
        let bytes = family_bytes(&registry, &["grams"])?;
        drop(registry);
        let goal = Goal::AtMost(0.03);
        let what = format!("what grep adds to the index, beside {} layers", layers.len());
        report.row(&Row { what, unit: Unit::Bytes, ours: &[bytes], other: &[stored], goal });
        for absent in ABSENT {
            let mut seconds = [const { Vec::new() }; 2];
            for round in 0..=self.options.rounds {
                for (more, seconds) in [&[][..], &["--no-index-skip"]].into_iter().zip(&mut seconds)
                {
                    let begin = Instant::now();
                    let status = run(&[&["grep", "-F", absent], more].concat())?;
                    // Nothing was found.
                    ensure!(status.code() == Some(1), "grep {absent}: {status}");
                    if round > 0 {
                        seconds.push(begin.elapsed().as_secs_f64());
                    }
                }
            }
            report.row(&Row {
                what: format!(
                    "grep for {absent:?} in {IMAGES} images, beside without the skip index"
                ),
                unit: Unit::Seconds,
                ours: &seconds[0],
                other: &seconds[1],
                goal: Goal::AtMost(0.05),
            });
        }
        Ok(())
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
