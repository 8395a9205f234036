//! `registry waste`

use std::cmp::Reverse;
use std::io::Write;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use bytesize::ByteSize;
use clap::Args;

use super::output::{Stdout, complain};
use super::scope::{ScopeArgs, everything};
use crate::image::{Id, Image, Images, Opened, Platform};
use crate::oci::Reference;
use crate::query::waste::{Report, Totals, Waste};
use crate::query::{self, Skipped};

/// The flags of `registry waste`.
#[derive(Args, Clone, Debug)]
pub struct WasteArgs {
    #[command(flatten)]
    scope: ScopeArgs,

    /// The platform to choose from a multi-platform image [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,

    /// Report on all images, a line each, the worst first; --in and --tag select them
    #[arg(long, conflicts_with_all = ["reference", "check"])]
    all: bool,

    /// Exit with 1 if a limit is broken: min-efficiency=0.95, max-wasted=20MB, max-wasted-percent=20
    #[arg(long, value_name = "LIMIT,…", value_delimiter = ',')]
    check: Vec<Limit>,

    /// List at most this many paths and contents
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,

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
    let images = args.scope.open()?;
    let mut stdout = Stdout::new();
    let result = match &args.reference {
        Some(id) => one(args, &images, id, &mut stdout),
        None => all(args, &images, &mut stdout),
    };
    stdout.end(result)
}

fn one(args: &WasteArgs, images: &Arc<Images>, id: &Id, stdout: &mut Stdout) -> Result<ExitCode> {
    let image = match images.open(id, args.platform.as_ref())? {
        Opened::Image(image) => image,
        other => bail!("{} is an artifact, which has no layers", &*other),
    };
    for warning in &image.warnings {
        complain(format_args!("warning: {warning}"));
    }
    let report = Waste::new(images, image, args.limit)?.report()?;
    if args.json {
        let mut line = Vec::new();
        report.write_json(&id.to_string(), &mut line);
        stdout.write_text(&line)?;
    } else {
        write(&report, &id.to_string(), stdout)?;
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

/// All images of the scope, the worst first.
fn all(args: &WasteArgs, images: &Arc<Images>, stdout: &mut Stdout) -> Result<ExitCode> {
    ensure!(args.platform.is_none(), "--all reports on every platform: leave --platform out");
    let mut scope = query::Images::new(images, &args.scope.scope(), &everything(), None, None)?;
    let (mut reports, mut has_failed) = (Vec::new(), false);
    while let Some(next) = scope.next_image()? {
        let report = next.and_then(|named| {
            let reference = Reference::Digest(named.member.manifest);
            let name = named.to_string();
            let report = || {
                let opened = images.open_in(&named.repository, &reference, None)?;
                let Opened::Image(image) = opened else { return Ok(None) };
                Ok(Some(reported(args, images, image)?))
            };
            report().map(|report| Some((name.clone(), report?))).map_err(|e| Skipped::new(name, e))
        });
        match report {
            Ok(report) => reports.extend(report),
            Err(skipped) => {
                has_failed = true;
                complain(format_args!("{}: {}", skipped.image, skipped.error));
            }
        }
    }
    reports.sort_by(|a, b| {
        (Reverse(a.1.totals.wasted), &a.0).cmp(&(Reverse(b.1.totals.wasted), &b.0))
    });
    for (name, report) in &reports {
        let mut line = Vec::new();
        if args.json {
            report.write_json(name, &mut line);
        } else {
            line = format!("{name}: {}\n", summary(&report.totals)).into_bytes();
        }
        stdout.write_text(&line)?;
    }
    Ok(if has_failed { ExitCode::from(2) } else { ExitCode::SUCCESS })
}

/// Of many images only the JSON has paths.
fn reported(
    args: &WasteArgs,
    images: &Arc<Images>,
    image: Arc<Image>,
) -> crate::image::Result<Report> {
    let listed = if args.json { args.limit } else { 0 };
    Waste::new(images, image, listed)?.report()
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
