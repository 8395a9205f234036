//! `registry scrub`

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use bytesize::ByteSize;
use clap::Args;
use serde_json::json;

use super::output::{Stdout, progress_bar};
use crate::cli::args::{IndexArgs, StoreArgs, rate};
use crate::registry::maintenance::scrub::{self, Finding, Part, Summary};

/// The flags of `registry scrub`.
#[derive(Args, Clone, Debug)]
pub struct ScrubArgs {
    #[command(flatten)]
    store: StoreArgs,

    /// Read at most this many bytes per second; 0 reads as fast as possible
    #[arg(long, value_name = "BYTES/s", default_value = "50MB/s", value_parser = rate)]
    rate: u64,

    /// Print a JSON object with the findings at the end
    #[arg(long)]
    json: bool,

    #[command(flatten, next_help_heading = "How layers are indexed again")]
    index: IndexArgs,
}

pub fn run(args: &ScrubArgs) -> Result<ExitCode> {
    let options = args.index.check()?;
    let bar = progress_bar(None);
    let mut findings: Vec<Finding> = Vec::new();
    let mut stdout = Stdout::new();
    let summary = scrub::run(&args.store.dir, &args.store.root()?, &options, args.rate, |part| {
        match part {
            Part::Progress { done, total } => {
                bar.set_length(total);
                bar.set_position(done);
            }
            Part::Finding(finding) if args.json => findings.push(finding),
            Part::Finding(finding) => {
                let line = format!("{}: {}\n", finding.kind.as_str(), finding.message);
                // The scrub goes on without a reader, for the sake of what it mends.
                bar.suspend(|| {
                    let _ = stdout.write_text(line.as_bytes()).and_then(|()| stdout.flush());
                });
            }
            Part::Summary(_) => {}
        }
        Ok(())
    });
    bar.finish_and_clear();
    let summary = summary?;
    let code = if summary.findings == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    let text = if args.json { as_json(&summary, &findings)? } else { as_text(&summary) };
    let written = stdout.write_text(text.as_bytes());
    // Damage is damage, also if nothing reads the report.
    stdout.end(written.map(|()| code).map_err(Into::into))?;
    Ok(code)
}

fn as_json(summary: &Summary, findings: &[Finding]) -> Result<String> {
    let mut document = json!(summary);
    document["findings"] = json!(findings);
    Ok(serde_json::to_string_pretty(&document)? + "\n")
}

fn as_text(summary: &Summary) -> String {
    let Summary { repositories, blobs, layers, manifests, bytes, findings } = summary;
    let bytes = ByteSize(*bytes).display().si();
    format!(
        "checked {blobs} blobs, the index of {layers} layers, {manifests} manifests in \
         {repositories} repositories, reading {bytes}: {findings} findings\n"
    )
}
