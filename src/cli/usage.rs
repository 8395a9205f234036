//! `registry usage`

use std::process::ExitCode;

use anyhow::Result;
use bytesize::ByteSize;
use clap::Args;

use super::output::{Stdout, complain};
use super::question::{RemoteLines, Step};
use super::scope::{Given, everything, value};
use super::server::connect;
use crate::cli::args::{IndexArgs, SourceArgs};
use crate::query::usage::{Line, Share, Total, Usage, Wanted};
use crate::query::{self, Glob};
use crate::registry;
use crate::remote::{self, Query};

/// The flags of `registry usage`.
#[derive(Args, Clone, Debug)]
pub struct UsageArgs {
    #[command(flatten)]
    source: SourceArgs,

    /// Leave out the tags
    #[arg(long)]
    repositories: bool,

    /// Print a JSON object for each line, with sizes in bytes
    #[arg(long)]
    json: bool,

    /// Only repositories whose name matches this glob, such as 'team/**', and not the totals of the store
    #[arg(value_name = "REPOSITORY")]
    repository: Option<Given<Glob>>,

    #[command(flatten, next_help_heading = "Indexing")]
    index: IndexArgs,
}

pub fn run(args: &UsageArgs) -> Result<ExitCode> {
    let mut stdout = Stdout::new();
    let result = match &args.source.server {
        Some(url) => remote(args, url, &mut stdout),
        None => local(args, &mut stdout),
    };
    stdout.end(result.map(|()| ExitCode::SUCCESS))
}

fn local(args: &UsageArgs, stdout: &mut Stdout) -> Result<()> {
    let images = args.source.store.open_with(registry::open_complete, &args.index.check()?)?;
    let wanted =
        Wanted { repositories: value(&args.repository), repositories_only: args.repositories };
    let mut usage = Usage::new(&images, &everything(), &wanted, None)?;
    let mut printer = Printer { json: args.json, has_begun: false };
    while let query::Step::Hit(line) = usage.step() {
        printer.print(&line, stdout)?;
    }
    Ok(())
}

fn remote(args: &UsageArgs, url: &remote::Url, stdout: &mut Stdout) -> Result<()> {
    let mut query = Query::new();
    query.option("in", args.repository.as_ref());
    query.flag("repositories", args.repositories);
    let mut lines = RemoteLines::ask(&connect(url, [])?, "usage", query)?;
    let mut printer = Printer { json: args.json, has_begun: false };
    loop {
        match lines.step()? {
            Step::Hit(line) => printer.print(&lines.parse(&line)?, stdout)?,
            Step::Skipped(message) => complain(message),
            Step::Working => {}
            Step::End => return Ok(()),
        }
    }
}

struct Printer {
    json: bool,
    has_begun: bool,
}

impl Printer {
    fn print(&mut self, line: &Line, stdout: &mut Stdout) -> Result<()> {
        if self.json {
            let json = serde_json::to_string(line).expect("a line is an object");
            return Ok(stdout.write_text(format!("{json}\n").as_bytes())?);
        }
        let text = match line {
            Line::Of(share) => self.share(share),
            Line::Total { total } => total_text(total, self.has_begun),
        };
        Ok(stdout.write_text(text.as_bytes())?)
    }

    fn share(&mut self, share: &Share) -> String {
        let head = match std::mem::replace(&mut self.has_begun, true) {
            true => "",
            false => "    UNIQUE     SHARED       SIZE  NAME\n",
        };
        let name = &share.repository;
        let name = match (&share.tag, share.untagged) {
            (Some(tag), _) => format!("  {name}:{tag}"),
            (None, true) => format!("  {name}, {} manifests without a tag", share.manifests),
            (None, false) => name.clone(),
        };
        let [unique, shared, size] = [share.unique, share.shared, share.size].map(bytes);
        format!("{head}{unique:>10} {shared:>10} {size:>10}  {name}\n")
    }
}

fn total_text(total: &Total, is_after_others: bool) -> String {
    let mut text = if is_after_others { "\n".to_owned() } else { String::new() };
    for (size, what) in [
        (total.blob_bytes, format!("{} blobs", total.blobs)),
        (
            total.unreferenced_bytes,
            format!("of these, {} that no manifest names", total.unreferenced),
        ),
        (total.upload_bytes, format!("{} unfinished uploads", total.uploads)),
        (total.index_bytes, "index".to_owned()),
        (total.copy_bytes, "seekable copies of layers".to_owned()),
    ] {
        text += &format!("{:>10}  {what}\n", bytes(size));
    }
    text
}

fn bytes(bytes: u64) -> String {
    ByteSize(bytes).display().si().to_string()
}
