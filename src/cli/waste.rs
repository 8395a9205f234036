//! `registry waste`

use std::cmp::Reverse;
use std::io::Write;
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::{Result, bail, ensure};
use bytesize::ByteSize;
use clap::Args;

use super::output::{Stdout, complain, counter};
use super::question::{self, Answer, RemoteLines, Step, complain_of_waiting};
use super::scope::{ScopeArgs, everything};
use super::server::{RemoteImage, connect};
use crate::image::{Id, Opened, Platform};
use crate::query::waste::{All, Report, Totals, WORST_MAX, Waste};
use crate::remote;

/// The flags of `registry waste`.
#[derive(Args, Clone, Debug)]
pub struct WasteArgs {
    #[command(flatten)]
    scope: ScopeArgs,

    /// The platform to choose from a multi-platform image [default: this machine's, or the server's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,

    /// Report on all images, a line each; --in and --tag select them. Nothing is printed before the last one is looked at,
    /// because the worst come first
    #[arg(long, conflicts_with_all = ["reference", "check"])]
    all: bool,

    /// Exit with 1 if a limit is broken: min-efficiency=0.95, max-wasted=20MB, max-wasted-percent=20
    #[arg(long, value_name = "LIMIT,…", value_delimiter = ',')]
    check: Vec<Limit>,

    /// List at most this many paths and contents
    #[arg(long, value_name = "N", default_value_t = 20,
          value_parser = clap::value_parser!(u16).range(..=i64::from(WORST_MAX)))]
    limit: u16,

    /// Print a JSON object for each image
    #[arg(long)]
    json: bool,

    /// The image: NAME[:TAG][@DIGEST], the digest of its manifest or config, or at least the first 12 digits of one
    #[arg(required_unless_present = "all")]
    reference: Option<Id>,
}

/// What an image may waste.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Limit {
    MinEfficiency(f64),
    MaxWasted(u64),
    MaxWastedPercent(f64),
}

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Limit, String> {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        let number = |max: f64| {
            let number = value.parse().ok().filter(|number| (0.0..=max).contains(number));
            number.ok_or_else(|| format!("{name} is {value:?}, want a number from 0 to {max}"))
        };
        match name {
            "min-efficiency" => Ok(Limit::MinEfficiency(number(1.0)?)),
            "max-wasted-percent" => Ok(Limit::MaxWastedPercent(number(100.0)?)),
            "max-wasted" => match value.parse::<ByteSize>() {
                Ok(size) => Ok(Limit::MaxWasted(size.as_u64())),
                Err(_) => Err(format!("max-wasted is {value:?}, want a size such as 20MB")),
            },
            _ => Err("want min-efficiency, max-wasted or max-wasted-percent".to_owned()),
        }
    }
}

impl Limit {
    /// What is wrong; `None`: the limit holds.
    fn broken(self, totals: &Totals) -> Option<String> {
        match self {
            Limit::MinEfficiency(limit) => (totals.efficiency < limit)
                .then(|| format!("its efficiency is {:.4}, less than {limit}", totals.efficiency)),
            Limit::MaxWasted(limit) => (totals.wasted > limit)
                .then(|| format!("it wastes {} bytes, more than {limit}", totals.wasted)),
            Limit::MaxWastedPercent(limit) => (totals.wasted_percent > limit).then(|| {
                format!(
                    "it wastes {:.2} % of its files, more than {limit} %",
                    totals.wasted_percent
                )
            }),
        }
    }
}

pub fn run(args: &WasteArgs) -> Result<ExitCode> {
    let Some(id) = &args.reference else { return all(args) };
    let (report, json) = match &args.scope.source.server {
        Some(url) => remote_report(args, url, id)?,
        None => local_report(args, id)?,
    };
    let mut stdout = Stdout::new();
    let result = one(args, id, &report, &json, &mut stdout);
    stdout.end(result)
}

/// Returns the report, and the same as JSON.
fn local_report(args: &WasteArgs, id: &Id) -> Result<(Report, Vec<u8>)> {
    let images = args.scope.open()?;
    let image = match images.open(id, args.platform.as_ref())? {
        Opened::Image(image) => image,
        other => bail!("{} is an artifact, which has no layers", &*other),
    };
    for warning in &image.warnings {
        complain(format_args!("warning: {warning}"));
    }
    let report = Waste::new(&images, image, id.to_string(), args.limit)?.report()?;
    let mut json = Vec::new();
    report.write_json(&id.to_string(), &mut json);
    Ok((report, json))
}

fn remote_report(args: &WasteArgs, url: &remote::Url, id: &Id) -> Result<(Report, Vec<u8>)> {
    let server = connect(url, [id])?;
    RemoteImage::open_image(&server, id, args.platform.as_ref())?;
    let mut query = remote::Query::new();
    query.add("image", id);
    query.option("platform", args.platform.as_ref());
    query.add("worst", args.limit);
    let mut lines = RemoteLines::ask(&server, "waste", query)?;
    loop {
        match lines.step()? {
            Step::Hit(json) => {
                let (_, report) = Report::parse(&json).map_err(|cause| lines.unreadable(cause))?;
                return Ok((report, json));
            }
            Step::Working => {}
            Step::Skipped(message) => bail!(message),
            Step::End => bail!("{} has no report on {id}", server.url()),
        }
    }
}

fn one(
    args: &WasteArgs,
    id: &Id,
    report: &Report,
    json: &[u8],
    stdout: &mut Stdout,
) -> Result<ExitCode> {
    if args.json {
        stdout.write_text(json)?;
    } else {
        write(report, &id.to_string(), stdout)?;
    }
    let broken: Vec<String> =
        args.check.iter().filter_map(|limit| limit.broken(&report.totals)).collect();
    stdout.flush()?;
    for what in &broken {
        complain(format_args!("{id}: {what}"));
    }
    Ok(if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn size(bytes: u64) -> String {
    ByteSize(bytes).display().si().to_string()
}

fn summary(totals: &Totals) -> String {
    format!(
        "efficiency {:.4}, {} of {} wasted ({:.2} %), {} of {} transferred, {} twice",
        totals.efficiency,
        size(totals.wasted),
        size(totals.size),
        totals.wasted_percent,
        size(totals.wasted_transferred),
        size(totals.transferred),
        size(totals.duplicate),
    )
}

fn write(report: &Report, image: &str, stdout: &mut Stdout) -> Result<()> {
    let mut text = format!("{image}: {}\n", summary(&report.totals));
    text.push_str("\n  LAYER          FILES        WASTED       TRANSFERRED  CREATED BY\n");
    for layer in &report.layers {
        let digits = layer.digest.split(':').next_back().unwrap_or_default();
        text.push_str(&format!(
            "  {:<13.12}  {:<11}  {:<11}  {:<11}  {}\n",
            digits,
            size(layer.size),
            size(layer.wasted),
            size(layer.transferred),
            layer.created_by.as_deref().unwrap_or("-").replace(['\n', '\r'], " "),
        ));
    }
    stdout.write_text(text.as_bytes())?;
    if !report.paths.is_empty() {
        stdout.write_all(b"\n  WASTED       BY       PATH\n")?;
    }
    for path in &report.paths {
        let by = if path.deleted { "deleted" } else { "replaced" };
        write!(stdout, "  {:<11}  {by:<8} ", size(path.wasted))?;
        name(&path.path, stdout)?;
    }
    if !report.duplicates.is_empty() {
        stdout.write_all(b"\n  TWICE        FILES    ONE OF THEM\n")?;
    }
    for duplicate in &report.duplicates {
        write!(stdout, "  {:<11}  {:<8} ", size(duplicate.wasted), duplicate.files)?;
        name(&duplicate.path, stdout)?;
    }
    Ok(())
}

fn name(path: &[u8], stdout: &mut Stdout) -> Result<()> {
    let path = stdout.name(&[b"/", path].concat()).into_owned();
    stdout.write_all(&path)?;
    stdout.write_all(b"\n")?;
    Ok(())
}

/// What is printed of one of many images.
struct Shown {
    name: String,
    totals: Totals,
    /// Only if it is wanted.
    json: Vec<u8>,
}

struct Local {
    all: All,
    json: bool,
}

impl Answer for Local {
    type Hit = Shown;

    fn step(&mut self) -> Result<Step<Shown>> {
        let is_json = self.json;
        Ok(question::step(self.all.step()?, |(name, report)| {
            let mut json = Vec::new();
            if is_json {
                report.write_json(&name, &mut json);
            }
            Shown { name, totals: report.totals, json }
        }))
    }

    fn waiting(&self) -> (u64, u64) {
        let looked = self.all.looked();
        (looked.waiting_images, looked.waiting_layers)
    }
}

struct Remote {
    lines: RemoteLines,
    json: bool,
}

impl Answer for Remote {
    type Hit = Shown;

    fn step(&mut self) -> Result<Step<Shown>> {
        Ok(match self.lines.step()? {
            Step::Hit(line) => {
                let parsed = Report::parse(&line);
                let (name, report) = parsed.map_err(|cause| self.lines.unreadable(cause))?;
                let json = if self.json { line } else { Vec::new() };
                Step::Hit(Shown { name, totals: report.totals, json })
            }
            Step::Skipped(message) => Step::Skipped(message),
            Step::Working => Step::Working,
            Step::End => Step::End,
        })
    }

    fn waiting(&self) -> (u64, u64) {
        self.lines.waiting()
    }
}

/// All images of the scope, the worst first.
fn all(args: &WasteArgs) -> Result<ExitCode> {
    ensure!(args.platform.is_none(), "--all reports on every platform: leave --platform out");
    // Of many images only the JSON has paths.
    let worst = if args.json { args.limit } else { 0 };
    let mut answer: Box<dyn Answer<Hit = Shown>> = match &args.scope.source.server {
        Some(url) => {
            let mut query = args.scope.query();
            query.add("worst", worst);
            let lines = RemoteLines::ask(&connect(url, [])?, "waste", query)?;
            Box::new(Remote { lines, json: args.json })
        }
        None => {
            let images = args.scope.open()?;
            let all = All::new(&images, &args.scope.scope(), &everything(), worst, None)?;
            Box::new(Local { all, json: args.json })
        }
    };
    let (mut reports, mut has_failed) = (Vec::new(), false);
    let bar = counter("images");
    loop {
        match answer.step()? {
            Step::Hit(report) => {
                bar.inc(1);
                reports.push(report);
            }
            Step::Skipped(message) => {
                has_failed = true;
                bar.suspend(|| complain(message));
            }
            Step::Working => {}
            Step::End => break,
        }
    }
    bar.finish_and_clear();
    complain_of_waiting(answer.waiting());
    reports.sort_by(|a, b| {
        (Reverse(a.totals.wasted), &a.name).cmp(&(Reverse(b.totals.wasted), &b.name))
    });
    let mut stdout = Stdout::new();
    let result = print_all(args, &reports, &mut stdout);
    let code = if has_failed { ExitCode::from(2) } else { ExitCode::SUCCESS };
    stdout.end(result.map(|()| code))
}

fn print_all(args: &WasteArgs, reports: &[Shown], stdout: &mut Stdout) -> Result<()> {
    for Shown { name, totals, json } in reports {
        if args.json {
            stdout.write_text(json)?;
        } else {
            stdout.write_text(format!("{name}: {}\n", summary(totals)).as_bytes())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits() {
        let totals = Totals {
            size: 1000,
            wasted: 100,
            efficiency: 0.9,
            wasted_percent: 10.0,
            ..Totals::default()
        };
        for (text, holds) in [
            ("min-efficiency=0.9", true),
            ("min-efficiency=0.91", false),
            ("max-wasted=100B", true),
            ("max-wasted=99", false),
            ("max-wasted=1kB", true),
            ("max-wasted-percent=10", true),
            ("max-wasted-percent=9.9", false),
        ] {
            let limit: Limit = text.parse().unwrap();
            assert_eq!(limit.broken(&totals).is_none(), holds, "{text}");
        }
        for text in ["", "max-wasted", "min-efficiency=2", "max-wasted-percent=x", "other=1"] {
            assert!(text.parse::<Limit>().is_err(), "{text}");
        }
    }
}
