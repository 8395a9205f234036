//! `registry tags`

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use bytesize::ByteSize;
use clap::Args;

use super::output::{Stdout, complain};
use super::question::{self, RemoteLines, Step};
use super::scope::everything;
use super::server::connect;
use crate::cli::args::{IndexArgs, SourceArgs};
use crate::oci::Repository;
use crate::query::tags::{Line, Order, Sort, Tags};
use crate::remote::{self, Query};

/// The flags of `registry tags`.
#[derive(Args, Clone, Debug)]
pub struct TagsArgs {
    #[command(flatten)]
    source: SourceArgs,

    /// Sort by name, pushed, pulled or size
    #[arg(long, value_name = "FIELD", default_value_t)]
    sort: Sort,

    /// asc or desc [default: asc by name, desc by all else]
    #[arg(long, value_name = "ORDER")]
    order: Option<Order>,

    /// Print a JSON object for each tag
    #[arg(long)]
    json: bool,

    /// The repository
    repository: Repository,

    #[command(flatten, next_help_heading = "Indexing")]
    index: IndexArgs,
}

pub fn run(args: &TagsArgs) -> Result<ExitCode> {
    let mut stdout = Stdout::new();
    let result = match &args.source.server {
        Some(url) => remote(args, url, &mut stdout),
        None => local(args, &mut stdout),
    };
    stdout.end(result)
}

fn local(args: &TagsArgs, stdout: &mut Stdout) -> Result<ExitCode> {
    let images = args.source.store.open(&args.index.check()?)?;
    let repository = args.repository.clone();
    let permitted = everything();
    let mut tags =
        Tags::new(&Arc::clone(&images), &permitted, repository, args.sort, args.order, None)?;
    print(args, stdout, || Ok(question::step(tags.step()?, |line| line)))
}

fn remote(args: &TagsArgs, url: &remote::Url, stdout: &mut Stdout) -> Result<ExitCode> {
    let mut query = Query::new();
    query.add("repository", &args.repository);
    query.add("sort", args.sort);
    query.option("order", args.order.as_ref());
    let mut lines = RemoteLines::ask(&connect(url, [])?, "tags", query)?;
    print(args, stdout, || {
        Ok(match lines.step()? {
            Step::Hit(line) => Step::Hit(lines.parse(&line)?),
            Step::Skipped(message) => Step::Skipped(message),
            Step::Working => Step::Working,
            Step::End => Step::End,
        })
    })
}

fn print(
    args: &TagsArgs,
    stdout: &mut Stdout,
    mut step: impl FnMut() -> Result<Step<Line>>,
) -> Result<ExitCode> {
    let (mut has_begun, mut has_failed) = (false, false);
    loop {
        match step()? {
            Step::Hit(line) if args.json => {
                let json = serde_json::to_string(&line).expect("a line is an object");
                stdout.write_text(format!("{json}\n").as_bytes())?;
            }
            Step::Hit(line) => {
                if !std::mem::replace(&mut has_begun, true) {
                    stdout.write_text(HEAD)?;
                }
                stdout.write_text(text(&line).as_bytes())?;
            }
            Step::Skipped(message) => {
                has_failed = true;
                complain(message);
            }
            Step::Working => {}
            Step::End if has_failed => return Ok(ExitCode::FAILURE),
            Step::End => return Ok(ExitCode::SUCCESS),
        }
    }
}

const HEAD: &[u8] = b"PUSHED                PULLED                      SIZE  DIGEST        TAG\n";

fn text(line: &Line) -> String {
    let size = ByteSize(line.size).display().si().to_string();
    let digits = line.digest.split(':').next_back().unwrap_or_default();
    let (pushed, pulled) = (&line.pushed, line.pulled.as_deref().unwrap_or("-"));
    let platforms = match line.platforms.is_empty() {
        true => String::new(),
        false => format!("  {}", line.platforms.join(", ")),
    };
    format!("{pushed:<20}  {pulled:<20}  {size:>10}  {digits:.12}  {}{platforms}\n", line.tag)
}
