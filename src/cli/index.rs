//! `registry index`

use std::cmp::Reverse;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use indicatif::ProgressBar;
use serde::Serialize;

use super::output::{Stdout, complain, progress_bar};
use crate::cli::args::IndexCommandArgs;
use crate::image::Images;
use crate::oci::Digest;
use crate::registry::maintenance::reindex::{self, Outcome, Selection};

/// What became of a layer, as a line of output.
#[derive(Default, Serialize)]
struct LayerReport {
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

pub fn run(args: &IndexCommandArgs) -> Result<ExitCode> {
    let options = args.index.check()?;
    let images = args.store.open(&options)?;
    let mut selection = Selection::default();
    if args.all {
        selection.add_all(&images, |repository, digest, error| {
            complain(format_args!("skipped {repository}@{digest}: {error:#}"));
        })?;
    }
    for id in &args.references {
        selection.add(&images, id)?;
    }

    // The largest layers come first, so that no thread is still at work on one when the others are
    // done.
    let mut order: Vec<usize> = (0..selection.layers.len()).collect();
    order.sort_by_key(|&place| Reverse(selection.layers[place].1));
    let bar = progress_bar(Some(selection.layers.iter().map(|(_, size)| size).sum()));
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.max(1) {
            scope.spawn(|| {
                while let Some(&place) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (layer, size) = &selection.layers[place];
                    let report = index(&images, layer, *size, args.force, &bar);
                    let mut done = done.lock().expect("no thread panics under the lock");
                    if !args.json {
                        bar.suspend(|| print(&report));
                    }
                    done.push((place, report));
                }
            });
        }
    });
    bar.finish_and_clear();
    let mut done = done.into_inner().expect("no thread panics under the lock");
    done.sort_by_key(|(place, _)| *place);
    let done: Vec<LayerReport> = done.into_iter().map(|(_, report)| report).collect();
    let failed = done.iter().any(|report| report.error.is_some() || report.refused.is_some());
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

fn index(
    images: &Images,
    layer: &Digest,
    size: u64,
    force: bool,
    bar: &ProgressBar,
) -> LayerReport {
    let mut shown = 0;
    let outcome = reindex::index(images, layer, force, |done| {
        // A layer whose indexing starts again reports fewer bytes than before.
        bar.inc(done.saturating_sub(shown));
        shown = shown.max(done);
    });
    bar.inc(size.saturating_sub(shown));
    let mut report = LayerReport { layer: layer.to_string(), ..LayerReport::default() };
    match outcome {
        Ok(Outcome::Indexed { entries, size, diff_id }) => {
            report.entries = Some(entries);
            report.size = Some(size);
            report.diff_id = Some(diff_id.to_string());
        }
        Ok(Outcome::Refused(reason)) => report.refused = Some(reason),
        Err(error) => report.error = Some(error.to_string()),
    }
    report
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
