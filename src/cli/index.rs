//! `registry index`

use std::cmp::Reverse;
use std::collections::HashSet;
use std::io::Write;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::Result;
use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};

use super::output::{Stdout, complain, progress_bar};
use super::question::{self, RemoteLines, Step};
use super::scope::everything;
use super::server::connect;
use crate::cli::args::IndexCommandArgs;
use crate::image::Images;
use crate::query;
use crate::registry::maintenance::reindex::{self, Outcome};
use crate::remote::{Query, Server};

/// What became of a layer, as a line of output.
#[derive(Default, Deserialize, Serialize)]
struct LayerReport {
    #[serde(default)]
    layer: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    entries: Option<u64>,
    /// In bytes of the layer's tar stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    diff_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// A layer to be indexed.
struct Wanted {
    layer: String,
    /// Bytes of the blob.
    size: u64,
    repository: String,
}

/// Where layers are indexed.
enum Place {
    Here(Arc<Images>),
    There(Arc<Server>),
}

/// Who asks for the layers of images.
enum Layers {
    Here(Box<query::layers::Layers>),
    There(Box<RemoteLines>),
}

impl Layers {
    fn step(&mut self) -> Result<Step<Wanted>> {
        #[derive(Deserialize)]
        struct Json {
            layer: String,
            size: u64,
            repository: String,
        }
        Ok(match self {
            Layers::Here(layers) => question::step(layers.step()?, |found| Wanted {
                layer: found.layer.to_string(),
                size: found.size,
                repository: found.repository.to_string(),
            }),
            Layers::There(lines) => match lines.step()? {
                Step::Hit(line) => {
                    let Json { layer, size, repository } = lines.parse(&line)?;
                    Step::Hit(Wanted { layer, size, repository })
                }
                Step::Skipped(message) => Step::Skipped(message),
                Step::Working => Step::Working,
                Step::End => Step::End,
            },
        })
    }
}

pub fn run(args: &IndexCommandArgs) -> Result<ExitCode> {
    let options = args.index.check()?;
    let (place, mut layers) = match &args.source.server {
        Some(url) => {
            let server = connect(url, &args.references)?;
            let mut query = Query::new();
            args.references.iter().for_each(|id| query.add("image", id));
            let lines = RemoteLines::ask(&server, "layers", query)?;
            (Place::There(server), Layers::There(Box::new(lines)))
        }
        None => {
            let images = args.source.store.open(&options)?;
            let ids = args.references.clone();
            let layers = query::layers::Layers::new(&images, ids, &everything(), None)?;
            (Place::Here(images), Layers::Here(Box::new(layers)))
        }
    };
    let (mut wanted, mut seen) = (Vec::new(), HashSet::new());
    let mut has_failed = false;
    loop {
        match layers.step()? {
            // Another part of an answer may name it again.
            Step::Hit(layer) if !seen.insert(layer.layer.clone()) => {}
            Step::Hit(layer) => wanted.push(layer),
            Step::Skipped(message) => {
                // Of all images, some are of a kind that has no layers.
                has_failed |= !args.all;
                complain(format_args!("skipped {message}"));
            }
            Step::Working => {}
            Step::End => break,
        }
    }

    // The largest layers come first, so that no thread is still at work on one when the others are
    // done.
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by_key(|&number| Reverse(wanted[number].size));
    let bar = progress_bar(Some(wanted.iter().map(|layer| layer.size).sum()));
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.max(1) {
            scope.spawn(|| {
                while let Some(&number) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let report = index(&place, &wanted[number], args.force, &bar);
                    let mut done = done.lock().expect("no thread panics under the lock");
                    if !args.json {
                        bar.suspend(|| print(&report));
                    }
                    done.push((number, report));
                }
            });
        }
    });
    if let Place::Here(images) = &place {
        reindex::finish(images)?;
    }
    bar.finish_and_clear();
    let mut done = done.into_inner().expect("no thread panics under the lock");
    done.sort_by_key(|(number, _)| *number);
    let done: Vec<LayerReport> = done.into_iter().map(|(_, report)| report).collect();
    let failed =
        has_failed || done.iter().any(|report| report.error.is_some() || report.refused.is_some());
    let code = if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    if !args.json {
        return Ok(code);
    }
    let mut stdout = Stdout::new();
    let mut json = serde_json::to_vec_pretty(&done)?;
    json.push(b'\n');
    let written = stdout.write_text(&json);
    stdout.end(written.map(|()| code).map_err(Into::into))
}

fn index(place: &Place, wanted: &Wanted, force: bool, bar: &ProgressBar) -> LayerReport {
    let mut shown = 0;
    let progress = |done: u64| {
        // A layer whose indexing starts again reports fewer bytes than before.
        bar.inc(done.saturating_sub(shown));
        shown = shown.max(done);
    };
    let report = match place {
        Place::Here(images) => index_here(images, wanted, force, progress),
        Place::There(server) => index_there(server, wanted, force, progress),
    };
    bar.inc(wanted.size.saturating_sub(shown));
    let failed = |error: anyhow::Error| LayerReport {
        error: Some(error.to_string()),
        ..LayerReport::default()
    };
    LayerReport { layer: wanted.layer.clone(), ..report.unwrap_or_else(failed) }
}

fn index_here(
    images: &Images,
    wanted: &Wanted,
    force: bool,
    progress: impl FnMut(u64),
) -> Result<LayerReport> {
    let mut report = LayerReport::default();
    match reindex::index(images, &wanted.layer.parse()?, force, progress)? {
        Outcome::Indexed { entries, size, diff_id } => {
            report.entries = Some(entries);
            report.size = Some(size);
            report.diff_id = Some(diff_id.to_string());
        }
        Outcome::Refused(reason) => report.refused = Some(reason),
    }
    Ok(report)
}

fn index_there(
    server: &Server,
    wanted: &Wanted,
    force: bool,
    mut progress: impl FnMut(u64),
) -> Result<LayerReport> {
    #[derive(Deserialize)]
    struct Line {
        progress: Option<Progress>,
        #[serde(flatten)]
        report: LayerReport,
    }
    #[derive(Deserialize)]
    struct Progress {
        done: u64,
    }
    let Wanted { layer, repository, .. } = wanted;
    let mut query = Query::new();
    query.flag("force", force);
    let mut answer = server.post(&format!("/v2/{repository}/_index/{layer}?{query}"), "")?;
    let mut line = Vec::new();
    while answer.line(&mut line)? {
        match answer.parse(&line)? {
            Line { progress: Some(Progress { done }), .. } => progress(done),
            Line { progress: None, report } => return Ok(report),
        }
    }
    Err(answer.unreadable("it has no end").into())
}

fn print(report: &LayerReport) {
    let layer = &report.layer;
    let line = match (&report.refused, &report.error, report.entries, report.size) {
        (_, Some(error), ..) => format!("{layer} failed: {error}\n"),
        (Some(reason), ..) => format!("{layer} refused: {reason}\n"),
        (_, _, Some(entries), Some(size)) => format!("{layer} {entries} entries, {size} bytes\n"),
        _ => return,
    };
    // The exit code and stderr say what failed, also when nothing reads stdout.
    let mut stdout = Stdout::new();
    let _ = stdout.write_text(line.as_bytes()).and_then(|()| stdout.flush());
}
