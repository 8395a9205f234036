//! What the index of files costs and gives: indexing, listing, reading.

use std::borrow::BorrowMut;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use registry::oci::{Algorithm, Digest};
use serde_json::Value;

use crate::bench::{Bench, CLIENTS, MB, REPOSITORY, TAG, text};
use crate::client::{self, Body, Target};
use crate::common::{self, OCI_MANIFEST, REGISTRY, Registry};
use crate::image::{self, DATA_LAYER, DataFile, Image, LAST, MODEL};
use crate::npm::Npm;
use crate::report::{Goal, Report, Row, Unit};
use crate::servers;
use crate::store::Store;

/// The directory that is listed.
const TREE: &str = "usr/bin";
/// So many requests of one client give a median; fewer for large directories.
const REQUESTS: usize = 500;

impl Bench {
    /// `registry index` without a server, beside `gzip -dc` of the layers one
    /// after another, both from the page cache.
    pub fn index(&self, report: &Report) -> Result<()> {
        let image = self.cache()?.image()?;
        let size = image.size();
        let (dir, store) = self.stored(&[(TAG, &image)])?;
        let reference = format!("{REPOSITORY}:{TAG}");
        let mut index = index_command(&dir, &store);
        index.args(["--force", &reference]);
        let (mut ours, mut memory, mut gzip) = (Vec::new(), Vec::new(), Vec::new());
        let mut index_size = 0.0;
        for round in 0..=self.options.rounds {
            let (seconds, peak) = run_watched(&mut index)?;
            if round == 0 {
                index_size = folder_size(&dir)? - self.empty_index()?;
            }
            let inflate = |layer: &image::Layer| run_timed(gzip_command(&layer.path));
            let other: f64 = image.layers.iter().map(inflate).sum::<Result<f64>>()?;
            if round > 0 {
                ours.push(seconds);
                memory.push(peak);
                gzip.push(other);
            }
        }
        report.row(&Row {
            what: format!("index {} MB of 5 layers beside gzip -dc", size / MB),
            unit: Unit::Seconds,
            ours: &ours,
            other: &gzip,
            goal: Goal::AtMost(0.35),
        });
        report.row(&Row {
            what: "peak memory: indexing, beside the limit".to_owned(),
            unit: Unit::Bytes,
            ours: &memory,
            other: &[150e6],
            goal: Goal::AtMost(1.0),
        });
        report.row(&Row {
            what: "size of the index beside the layers".to_owned(),
            unit: Unit::Bytes,
            ours: &[index_size],
            other: &[size as f64],
            goal: Goal::AtMost(0.015),
        });
        Ok(())
    }

    /// What an index takes that knows of no layer.
    fn empty_index(&self) -> Result<f64> {
        let (dir, store) = self.stored(&[])?;
        run_timed(index_command(&dir, &store).arg("--all"))?;
        folder_size(&dir)
    }

    /// A push of the image while its layers are indexed, and not; then how long
    /// its tree, and that of an image with another last layer, is waited for.
    pub fn push_index(&self, report: &Report) -> Result<()> {
        let image = self.cache()?.image()?;
        let flags = [&[][..], &["--index-jobs", "0"]];
        let mut pushes = [const { Vec::new() }; 2];
        let mut answers = [const { Vec::new() }; 2];
        for round in 0..=self.options.rounds {
            for (i, flags) in flags.iter().enumerate() {
                let dir = self.folder();
                fs::create_dir(&dir)?;
                // Else this push waits for the blocks of the one before.
                common::run(&mut Command::new("sync"));
                let registry = Registry::start_in(&dir, flags);
                let begin = Instant::now();
                push(&registry, &image, &image.layers)?;
                let seconds = begin.elapsed().as_secs_f64();
                if round > 0 {
                    pushes[i].push(seconds);
                }
                if i == 0 {
                    let all = first_tree(&registry)?;
                    let mut next = image.clone();
                    let last = next.layers.last_mut().context("five layers")?;
                    *last = self.cache()?.settings(u64::from(round) + 1)?;
                    push(&registry, &next, &next.layers[next.layers.len() - 1..])?;
                    let last = first_tree(&registry)?;
                    if round > 0 {
                        answers[0].push(all);
                        answers[1].push(last);
                    }
                }
                drop(registry);
                fs::remove_dir_all(&dir)?;
            }
        }
        let [ours, other] = &pushes;
        report.row(&Row {
            what: format!("push {} MB, indexing beside not", image.size() / MB),
            unit: Unit::Seconds,
            ours,
            other,
            goal: Goal::AtMost(1.1),
        });
        let what = ["5 new layers", "the last layer new"];
        for (what, ours) in what.into_iter().zip(&answers) {
            report.row(&Row {
                what: format!("tree after a push, {what}, beside the limit"),
                unit: Unit::Seconds,
                ours,
                other: &[1.0],
                goal: Goal::AtMost(1.0),
            });
        }
        Ok(())
    }

    /// A directory of the image, beside the npm server.
    pub fn tree(&self, report: &Report) -> Result<()> {
        let image = self.cache()?.image()?;
        let (dir, store) = self.stored(&[(TAG, &image)])?;
        let registry = start(&dir, &store);
        let npm_dir = self.folder();
        let npm = Npm::start(&self.options.dir.join("npm"), &npm_dir)?;
        let id = npm.push(&image, REPOSITORY, TAG)?;
        let sides = [
            (target(&registry), format!("{}/{TREE}", tree_of(TAG))),
            (npm.target.clone(), format!("/v1/images/{id}/tree/{TREE}")),
        ];
        let [ours, other] = [paths(&sides[0])?, paths(&sides[1])?];
        ensure!(
            ours == other && ours.len() > 100,
            "the servers list other files: {:?}",
            ours.symmetric_difference(&other).collect::<Vec<_>>()
        );
        let time = Duration::from_secs(self.options.seconds);
        let mut values = [const { Vec::new() }; 2];
        let mut first = Vec::new();
        for round in 0..=self.options.rounds {
            for (i, (target, path)) in sides.iter().enumerate() {
                let request = client::request("GET", path);
                let speed = client::requests(target, &request, CLIENTS, time)?;
                if round > 0 {
                    values[i].push(speed);
                }
            }
            let (target, path) = &sides[0];
            let [first_byte, _] = client::latency(target, path, REQUESTS)?;
            if round > 0 {
                first.push(first_byte);
            }
        }
        drop(npm);
        fs::remove_dir_all(npm_dir)?;
        let [ours, other] = &values;
        report.row(&Row {
            what: format!("tree/{TREE}, {CLIENTS} clients, beside npm's"),
            unit: Unit::RequestsPerSecond,
            ours,
            other,
            goal: Goal::AtLeast(20.0),
        });
        report.row(&Row {
            what: format!("tree/{TREE}, first byte, beside the limit"),
            unit: Unit::Seconds,
            ours: &first,
            other: &[1e-3],
            goal: Goal::AtMost(1.0),
        });
        Ok(())
    }

    /// Files of the data layer by a server that has just been started, the layer
    /// in the page cache: the last one beside gunzipping up to it, the large one
    /// beside gunzipping it alone.
    pub fn read(&self, report: &Report) -> Result<()> {
        let image = self.cache()?.image()?;
        let alone = self.cache()?.alone(MODEL)?;
        let (dir, store) = self.stored(&[(TAG, &image)])?;
        let layer = &image.layers[DATA_LAYER].path;
        let (mut last, mut up_to, mut large, mut gzip) = (vec![], vec![], vec![], vec![]);
        for file in [LAST, MODEL] {
            // Also indexes the image.
            let registry = start(&dir, &store);
            client::check_blob(&target(&registry), &blob_path(file), &digest(file))?;
        }
        for round in 0..=self.options.rounds {
            let fetch = |file: DataFile| {
                let registry = start(&dir, &store);
                client::fetch(&target(&registry), &blob_path(file), file.content.size)
            };
            let seconds = [
                fetch(LAST)?,
                run_timed(&mut gunzip_to(layer, image::data_end()))?,
                fetch(MODEL)?,
                run_timed(gzip_command(&alone))?,
            ];
            if round > 0 {
                let speed = |seconds| MODEL.content.size as f64 / seconds;
                last.push(seconds[0]);
                up_to.push(seconds[1]);
                large.push(speed(seconds[2]));
                gzip.push(speed(seconds[3]));
            }
        }
        report.row(&Row {
            what: "4 KiB at a layer's end, cold, beside gzip -dc".to_owned(),
            unit: Unit::Seconds,
            ours: &last,
            other: &up_to,
            goal: Goal::AtMost(1.0 / 50.0),
        });
        report.row(&Row {
            what: "100 MB of a layer, cold, beside gzip -dc".to_owned(),
            unit: Unit::BytesPerSecond,
            ours: &large,
            other: &gzip,
            goal: Goal::AtLeast(0.8),
        });
        Ok(())
    }

    /// What a listing costs by the size of the image, and of the directory.
    pub fn list(&self, report: &Report) -> Result<()> {
        const SMALL: usize = 1000;
        const TIMES: usize = 10;
        let files = self.options.files;
        let small = self.cache()?.files(SMALL, &[])?;
        let large = self.cache()?.files(files, &[SMALL, TIMES * SMALL])?;
        let (dir, store) = self.stored(&[("small", &small), ("large", &large)])?;
        let registry = start(&dir, &store);
        let lists = [
            ("large", "same".to_owned(), 100),
            ("small", "same".to_owned(), 100),
            ("large", (TIMES * SMALL).to_string(), TIMES * SMALL),
            ("large", SMALL.to_string(), SMALL),
        ];
        let target = target(&registry);
        let mut values = [const { Vec::new() }; 4];
        for round in 0..=self.options.rounds {
            for ((tag, directory, entries), values) in lists.iter().zip(&mut values) {
                let side = (target.clone(), format!("{}/{directory}", tree_of(tag)));
                if round == 0 {
                    let found = paths(&side)?.len();
                    ensure!(found == *entries, "{}: {found} files", side.1);
                }
                let [_, whole] =
                    client::latency(&target, &side.1, REQUESTS * 10 / entries.ilog2() as usize)?;
                if round > 0 {
                    values.push(whole);
                }
            }
        }
        let [large, small, times, once] = &values;
        report.row(&Row {
            what: format!("list 100 files of {files} beside of {SMALL}"),
            unit: Unit::Seconds,
            ours: large,
            other: small,
            goal: Goal::AtMost(1.2),
        });
        report.row(&Row {
            what: format!("list {} files beside {SMALL}", TIMES * SMALL),
            unit: Unit::Seconds,
            ours: times,
            other: once,
            goal: Goal::AtMost(1.2 * TIMES as f64),
        });
        Ok(())
    }

    /// A folder for a server, and a store with images of one repository.
    pub fn stored(&self, images: &[(&str, &Image)]) -> Result<(PathBuf, Store)> {
        let (dir, store) = (self.folder(), Store::new(self.folder())?);
        fs::create_dir(&dir)?;
        for (tag, image) in images {
            store.repository(REPOSITORY, &store.link_image(image)?, &[tag])?;
        }
        Ok((dir, store))
    }
}

fn start(dir: &Path, store: &Store) -> Registry {
    Registry::start_in(dir, &["--layers", &text(&store.root)])
}

fn target(registry: &Registry) -> Target {
    Target { address: registry.address, tls: None }
}

fn tree_of(tag: &str) -> String {
    let repository = REPOSITORY.replace('/', "%2F");
    format!("/v1/images/{repository}:{tag}/tree")
}

fn blob_path(file: DataFile) -> String {
    let repository = REPOSITORY.replace('/', "%2F");
    format!("/v1/images/{repository}:{TAG}/blobs/{}", file.name)
}

fn digest(file: DataFile) -> Digest {
    let mut hasher = Algorithm::Sha256.hasher();
    let Ok(()) = file.content.pieces(|piece| {
        hasher.update(piece);
        Ok::<_, std::convert::Infallible>(())
    });
    hasher.finish()
}

/// The paths in a listing, which must have some.
fn paths((target, path): &(Target, String)) -> Result<BTreeSet<String>> {
    let listing = client::json(target, path)?;
    let path_of = |entry: &Value| Some(entry["path"].as_str()?.to_owned());
    let entries = listing.as_array().context("no array")?;
    let paths: Option<BTreeSet<_>> = entries.iter().map(path_of).collect();
    paths.with_context(|| format!("GET {path}: an entry without a path"))
}

/// Seconds until the tree of the image just pushed is answered.
fn first_tree(registry: &Registry) -> Result<f64> {
    let begin = Instant::now();
    client::json(&target(registry), &format!("{}/", tree_of(TAG)))?;
    Ok(begin.elapsed().as_secs_f64())
}

/// Pushes an image of which only `layers` are new.
fn push(registry: &Registry, image: &Image, layers: &[image::Layer]) -> Result<()> {
    for layer in layers {
        let body = Body::File { path: &layer.path, size: layer.size };
        client::push_blob(&target(registry), REPOSITORY, &layer.digest, body)?;
    }
    registry.push_blob(REPOSITORY, image.config().as_bytes());
    let manifest = image.manifest();
    let reply = registry.push_manifest(REPOSITORY, TAG, OCI_MANIFEST, manifest.as_bytes());
    ensure!(reply.status == 201, "PUT manifest: {}", reply.text());
    Ok(())
}

fn index_command(dir: &Path, store: &Store) -> Command {
    let mut command = Command::new(REGISTRY);
    command.args(["index", "--dir"]).arg(dir);
    command.arg("--layers").arg(&store.root);
    command
}

fn gzip_command(path: &Path) -> Command {
    let mut command = Command::new("gzip");
    command.arg("-dc").arg(path);
    command
}

/// Gunzips so many bytes.
fn gunzip_to(path: &Path, end: u64) -> Command {
    let mut command = Command::new("sh");
    let script = r#"gzip -dc "$0" | head -c "$1" >/dev/null"#;
    command.args(["-c", script]).arg(path).arg(end.to_string());
    command
}

fn run_timed(mut command: impl BorrowMut<Command>) -> Result<f64> {
    run_watched(command.borrow_mut()).map(|(seconds, _)| seconds)
}

/// Runs a command that must succeed. Gives the seconds that took, and the most
/// memory it had resident, looked at every few milliseconds: what the kernel
/// says at the end counts memory of the parent too.
fn run_watched(command: &mut Command) -> Result<(f64, f64)> {
    let begin = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
    let process = child.id();
    let watch = thread::spawn(move || {
        let mut peak = 0f64;
        while let Some(now) = servers::peak_memory(process) {
            peak = peak.max(now);
            thread::sleep(Duration::from_millis(5));
        }
        peak
    });
    let status = child.wait()?;
    let seconds = begin.elapsed().as_secs_f64();
    let peak = watch.join().expect("reading a file does not panic");
    ensure!(status.success(), "{command:?}: {status}");
    Ok((seconds, peak))
}

/// Bytes in the files of a folder.
fn folder_size(folder: &Path) -> Result<f64> {
    let mut size = 0.0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        size += match entry.file_type()?.is_dir() {
            true => folder_size(&entry.path())?,
            false => entry.metadata()?.len() as f64,
        };
    }
    Ok(size)
}
