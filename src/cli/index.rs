//! `registry index`

use std::cmp::Reverse;
use std::collections::HashSet;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::cli::args::IndexCommandArgs;
use crate::cli::output::complain;
use crate::cli::store;
use crate::image::Images;
use crate::index::Layers;
use crate::index::records::State;
use crate::oci::{Contents, Digest, Reference, Repository};
use crate::storage::{self, Storage};

/// A layer that is done.
#[derive(Serialize)]
struct Done {
    layer: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    entries: Option<u64>,
    /// Bytes of its tar stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    diff_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

pub fn run(args: &IndexCommandArgs) -> Result<ExitCode> {
    let options = args.index.check()?;
    let layers = store::open(&args.store, &options)?;
    let mut wanted = Wanted::default();
    if args.all {
        wanted.all(layers.storage())?;
    }
    let images = Images::new(Arc::clone(&layers));
    for id in &args.references {
        let (repository, reference) = images.locate(id, &|_| true)?;
        wanted.manifest(layers.storage(), &repository, &reference)?;
    }

    // The longest first, so that no thread is left alone with it at the end.
    let mut order: Vec<usize> = (0..wanted.layers.len()).collect();
    order.sort_by_key(|&place| Reverse(wanted.layers[place].1));
    let total: u64 = wanted.layers.iter().map(|(_, size)| size).sum();
    let bar = progress_bar(total);
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.max(1) {
            scope.spawn(|| {
                while let Some(&place) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (layer, size) = &wanted.layers[place];
                    let line = index(&layers, layer, *size, args.force, &bar);
                    if !args.json {
                        bar.suspend(|| print(&line));
                    }
                    done.lock().expect("no panic inside").push((place, line));
                }
            });
        }
    });
    bar.finish_and_clear();
    let mut done = done.into_inner().expect("no panic inside");
    done.sort_by_key(|(place, _)| *place);
    let done: Vec<Done> = done.into_iter().map(|(_, line)| line).collect();
    if args.json {
        let mut stdout = std::io::stdout().lock();
        serde_json::to_writer_pretty(&mut stdout, &done)?;
        writeln!(stdout)?;
    }
    let failed = done.iter().any(|line| line.error.is_some() || line.refused.is_some());
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Drawn on stderr when that is a terminal.
fn progress_bar(total: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    let style =
        ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left");
    bar.set_style(style.expect("the template is fixed, and valid"));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn index(layers: &Layers, layer: &Digest, size: u64, force: bool, bar: &ProgressBar) -> Done {
    let mut shown = 0;
    let state = layers.index_now(layer, force, |done| {
        // A layer that is started anew goes back to the start.
        bar.inc(done.saturating_sub(shown));
        shown = shown.max(done);
    });
    bar.inc(size.saturating_sub(shown));
    let mut line = Done {
        layer: layer.to_string(),
        entries: None,
        size: None,
        diff_id: None,
        refused: None,
        error: None,
    };
    match state {
        Ok(State::Ready(record)) => {
            line.entries = Some(record.entries);
            line.size = Some(record.uncompressed);
            line.diff_id = Some(Digest::Sha256(record.diff_id).to_string());
        }
        Ok(State::Refused(reason)) => line.refused = Some(reason),
        Err(error) => line.error = Some(error.to_string()),
    }
    line
}

fn print(line: &Done) {
    let layer = &line.layer;
    match (&line.refused, &line.error, line.entries, line.size) {
        (_, Some(error), ..) => println!("{layer} failed: {error}"),
        (Some(reason), ..) => println!("{layer} refused: {reason}"),
        (_, _, Some(entries), Some(size)) => println!("{layer} {entries} entries, {size} bytes"),
        _ => {}
    }
}

/// The layers of images, base layers first, each once, with their sizes.
#[derive(Default)]
struct Wanted {
    layers: Vec<(Digest, u64)>,
    seen_layers: HashSet<Digest>,
    seen_manifests: HashSet<(Repository, Digest)>,
}

impl Wanted {
    fn all(&mut self, storage: &Storage) -> Result<()> {
        let mut repositories = Vec::new();
        storage.walk(|repository| {
            repositories.push(repository.clone());
            Ok::<_, storage::Error>(())
        })?;
        repositories.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        for repository in repositories {
            for digest in storage.revisions(&repository)? {
                let found = self.manifest(storage, &repository, &Reference::Digest(digest));
                // One that is damaged, or of a kind that has no layers.
                if let Err(error) = found {
                    complain(format_args!("passed over {repository}@{digest}: {error:#}"));
                }
            }
        }
        Ok(())
    }

    fn manifest(
        &mut self,
        storage: &Storage,
        repository: &Repository,
        reference: &Reference,
    ) -> Result<()> {
        let mut left = vec![reference.clone()];
        while let Some(next) = left.pop() {
            let stored = match storage.manifest(repository, &next) {
                Ok(stored) => stored,
                // An index may name what is not here.
                Err(storage::Error::ManifestUnknown { .. }) if next != *reference => continue,
                Err(error) => return Err(error.into()),
            };
            if !self.seen_manifests.insert((repository.clone(), stored.digest)) {
                continue;
            }
            let contents = Contents::parse(&stored.bytes)
                .with_context(|| format!("{repository}@{}", stored.digest))?;
            match contents {
                Contents::Index { children } => {
                    left.extend(children.iter().rev().map(|c| Reference::Digest(c.digest)));
                }
                Contents::Image { layers, .. } => {
                    for layer in layers {
                        let blob = match storage.open_content(&layer.digest)? {
                            None if layer.foreign => continue,
                            blob => blob,
                        };
                        if self.seen_layers.insert(layer.digest) {
                            self.layers.push((layer.digest, blob.map_or(0, |blob| blob.size)));
                        }
                    }
                }
            }
        }
        Ok(())
    }
}
