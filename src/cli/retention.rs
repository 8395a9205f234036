//! `registry retention`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::output::Stdout;
use crate::cli::args::{IndexArgs, StoreArgs};
use crate::query::tags::written;
use crate::registry::maintenance::retention::{self, Part, Request};

/// The flags of `registry retention`.
#[derive(Args, Clone, Debug)]
pub struct RetentionArgs {
    #[command(flatten)]
    store: StoreArgs,

    /// File with the rules [default: --retention of the server]
    #[arg(long = "retention", value_name = "FILE")]
    file: Option<PathBuf>,

    /// Say what would go, and change nothing
    #[arg(long)]
    dry_run: bool,

    /// Print a JSON object for each tag that goes, and at the end one with their number
    #[arg(long)]
    json: bool,

    #[command(flatten, next_help_heading = "Indexing")]
    index: IndexArgs,
}

pub fn run(args: &RetentionArgs) -> Result<ExitCode> {
    let request = Request { file: args.file.clone(), dry_run: args.dry_run };
    let options = args.index.check()?;
    let mut stdout = Stdout::new();
    let mut written = Ok(());
    let result = retention::run(&args.store.dir, &args.store.root()?, &options, &request, |part| {
        let line = match args.json {
            true => serde_json::to_string(&part).expect("a part is an object") + "\n",
            false => text(&part, args.dry_run),
        };
        // The work goes on without a reader.
        if written.is_ok() {
            written = stdout.write_text(line.as_bytes());
        }
    });
    let result = result.map_err(anyhow::Error::from);
    stdout.end(result.and_then(|()| Ok(written.map(|()| ExitCode::SUCCESS)?)))
}

fn text(part: &Part, dry_run: bool) -> String {
    let time = |seconds: u64| written(i64::try_from(seconds).unwrap_or(i64::MAX));
    match part {
        Part::Going(going) => format!(
            "{}:{} pushed {}, pulled {}, by the rule in line {}\n",
            going.repository,
            going.tag,
            time(going.pushed),
            time(going.pulled),
            going.rule
        ),
        Part::End { end } => {
            let verb = if dry_run { "would delete" } else { "deleted" };
            format!("{verb} {} tags\n", end.tags)
        }
    }
}
