//! `registry gc`

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use bytesize::ByteSize;
use clap::Args;

use super::output::Stdout;
use crate::cli::args::{IndexArgs, StoreArgs, duration_or_zero};
use crate::registry::maintenance::gc::{self, Part, Removed, Request, Totals};

/// The flags of `registry gc`.
#[derive(Args, Clone, Debug)]
pub struct GcArgs {
    #[command(flatten)]
    store: StoreArgs,

    /// Say what would go, and change nothing
    #[arg(long)]
    dry_run: bool,

    /// Collect only what nothing has named, and no client was told of, for this long; with 0, a push that is under way may
    /// have to be repeated [default: --gc-grace of the server, or 24h]
    #[arg(long, value_name = "TIME", value_parser = duration_or_zero)]
    grace: Option<Duration>,

    /// Collect manifests too that no tag, image index or referrer's subject leads to
    #[arg(long, alias = "gc-untagged")]
    untagged: bool,

    /// Print a JSON object for each repository that lost something, and at the end one with the totals
    #[arg(long)]
    json: bool,

    #[command(flatten, next_help_heading = "Indexing")]
    index: IndexArgs,
}

pub fn run(args: &GcArgs) -> Result<ExitCode> {
    let request = Request { grace: args.grace, untagged: args.untagged, dry_run: args.dry_run };
    let options = args.index.check()?;
    let mut stdout = Stdout::new();
    let mut written = Ok(());
    let result = gc::run(&args.store.dir, &args.store.root()?, &options, &request, |part| {
        let line = if args.json { json(&part) } else { text(&part, args.dry_run) };
        // The work goes on without a reader.
        if written.is_ok() {
            written = stdout.write_text(line.as_bytes());
        }
    });
    let result = result.map_err(anyhow::Error::from);
    stdout.end(result.and_then(|()| Ok(written.map(|()| ExitCode::SUCCESS)?)))
}

fn json(part: &Part) -> String {
    serde_json::to_string(part).expect("a part is an object") + "\n"
}

fn text(part: &Part, dry_run: bool) -> String {
    let size = |bytes| ByteSize(bytes).display().si();
    match part {
        Part::Removed(Removed { repository, manifests, links, blobs, bytes, emptied }) => {
            let name = repository.as_deref().unwrap_or("(in no repository)");
            let emptied = if *emptied { ", now empty and removed" } else { "" };
            let bytes = size(*bytes);
            format!(
                "{name}: {manifests} manifests, {links} links, {blobs} blobs, {bytes}{emptied}\n"
            )
        }
        Part::End { end } => {
            let Totals { manifests, links, blobs, images, uploads, repositories, .. } = end;
            let verb = if dry_run { "would remove" } else { "removed" };
            let mut counts = String::new();
            for (count, what) in [
                (manifests, "manifests"),
                (links, "links"),
                (images, "Docker 1.x images"),
                (uploads, "uploads"),
                (repositories, "repositories"),
            ] {
                if *count > 0 {
                    counts += &format!(", {count} {what}");
                }
            }
            let (bytes, seconds) = (size(end.bytes), end.seconds);
            let behind = match end.index_behind {
                true => "; the index could not be written, the next collection cleans it",
                false => "",
            };
            format!("{verb} {blobs} blobs of {bytes}{counts} in {seconds:.1} s{behind}\n")
        }
    }
}
