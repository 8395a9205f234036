//! `registry find`

use std::collections::HashSet;
use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, ensure};
use clap::Args;

use super::output::{Stdout, complain};
use super::scope::{ScopeArgs, everything};
use crate::image::Time;
use crate::oci::Digest;
use crate::query::find::{FileType, Find, Hit, Mode, Size, Wanted, time};
use crate::query::{Glob, Step};

/// The flags of `registry find`.
#[derive(Args, Clone, Debug)]
pub struct FindArgs {
    /// Files whose name matches this glob, such as 'log4j-core-*.jar'
    name: Option<Glob>,

    /// Only files whose whole path matches this glob, such as '/usr/lib/**/libssl.so*'
    #[arg(long, value_name = "GLOB")]
    path: Option<Glob>,

    /// Only files whose content has this digest; may be repeated, and @FILE is a list, as sha256sum prints it
    #[arg(long, value_name = "HEX|@FILE")]
    sha256: Vec<String>,

    /// Only files of this type: f, d, l, c, b or p
    #[arg(long, value_name = "TYPE")]
    r#type: Option<FileType>,

    /// Only files with all bits of -MODE, any of /MODE, or exactly MODE, such as /6000
    #[arg(long, value_name = "MODE", allow_hyphen_values = true)]
    mode: Option<Mode>,

    /// Only files of more than +N, less than -N or exactly N bytes, with k, M or G for powers of 1024, such as +10M
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    size: Option<Size>,

    /// Only files changed after this time, such as 2026-01-31 or 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = time)]
    newer: Option<Time>,

    /// Only files of this owner
    #[arg(long, value_name = "UID")]
    uid: Option<u32>,

    /// Only files of this group
    #[arg(long, value_name = "GID")]
    gid: Option<u32>,

    /// Only files with an extended attribute whose name matches this glob, such as security.capability
    #[arg(long, value_name = "GLOB")]
    xattr: Option<Glob>,

    /// Instead of what images show, what their layers ship although it is deleted or overwritten by a layer above
    #[arg(long)]
    deleted: bool,

    /// Print the names of the images that have such files
    #[arg(long, conflicts_with_all = ["layers", "json"])]
    images: bool,

    /// Print the digests of the layers that have such files, each once
    #[arg(long, conflicts_with = "json")]
    layers: bool,

    /// Print the number of lines that would be printed
    #[arg(long)]
    count: bool,

    /// Print a JSON object for each file
    #[arg(long)]
    json: bool,

    /// End lines with a NUL byte, which no name has
    #[arg(short = '0', conflicts_with_all = ["json", "count"])]
    nul: bool,

    #[command(flatten)]
    scope: ScopeArgs,
}

impl FindArgs {
    fn wanted(&self) -> Result<Wanted> {
        let mut contents = HashSet::new();
        for text in &self.sha256 {
            match text.strip_prefix('@') {
                None => {
                    contents.insert(sha256(text)?);
                }
                Some(file) => {
                    let list = std::fs::read_to_string(file);
                    let list = list.with_context(|| format!("cannot read {file}"))?;
                    let lines = list.lines().filter_map(|line| line.split_whitespace().next());
                    for hex in lines {
                        contents.insert(sha256(hex).with_context(|| format!("in {file}"))?);
                    }
                    // Otherwise an empty list would mean every file.
                    ensure!(!contents.is_empty(), "{file} has no digest");
                }
            }
        }
        Ok(Wanted {
            name: self.name.clone(),
            path: self.path.clone(),
            contents,
            kind: self.r#type,
            mode: self.mode,
            size: self.size,
            newer: self.newer,
            uid: self.uid,
            gid: self.gid,
            xattr: self.xattr.clone(),
            deleted: self.deleted,
        })
    }
}

fn sha256(text: &str) -> Result<[u8; 32]> {
    let hex = text.strip_prefix("sha256:").unwrap_or(text).to_ascii_lowercase();
    match format!("sha256:{hex}").parse() {
        Ok(Digest::Sha256(hash)) => Ok(hash),
        _ => Err(anyhow!("{text:?} is not a sha256 digest: want 64 hex digits")),
    }
}

pub fn run(args: &FindArgs) -> Result<ExitCode> {
    let wanted = args.wanted()?;
    let images = args.scope.open()?;
    let mut find = Find::new(&images, &args.scope.scope(), &everything(), wanted, None)?;
    if args.images {
        find = find.first_only();
    }
    let mut stdout = Stdout::new();
    let result = print(args, &mut find, &mut stdout);
    let (images, layers) = (find.looked.waiting_images, find.looked.waiting_layers);
    if images > 0 {
        complain(format_args!(
            "{images} images were left out, because {layers} layers have no index yet: `registry index --all` indexes them"
        ));
    }
    stdout.end(result)
}

fn print(args: &FindArgs, find: &mut Find, stdout: &mut Stdout) -> Result<ExitCode> {
    let (mut lines, mut has_failed, mut layers) = (0_u64, false, HashSet::new());
    loop {
        match find.step()? {
            Step::Hit(hit) => {
                if args.layers && !layers.insert(hit.layer) {
                    continue;
                }
                lines += 1;
                if !args.count {
                    write(args, &hit, stdout)?;
                }
            }
            Step::Skipped(skipped) => {
                has_failed = true;
                // What was found so far comes before the message on a terminal.
                stdout.flush()?;
                complain(format_args!("{}: {}", skipped.image, skipped.error));
            }
            Step::Working => {
                // A reader that waits sees what was found, and one that has left ends the work.
                stdout.flush()?;
            }
            Step::End => break,
        }
    }
    if args.count {
        writeln!(stdout, "{lines}")?;
    }
    Ok(match (has_failed, lines) {
        (true, _) => ExitCode::from(2),
        (false, 0) => ExitCode::FAILURE,
        (false, _) => ExitCode::SUCCESS,
    })
}

fn write(args: &FindArgs, hit: &Hit, stdout: &mut Stdout) -> Result<()> {
    if args.json {
        let mut line = Vec::new();
        hit.write_json(&mut line);
        return Ok(stdout.write_text(&line)?);
    }
    let line = match () {
        () if args.images => hit.image.to_string().into_bytes(),
        () if args.layers => hit.layer.to_string().into_bytes(),
        () => hit.place(),
    };
    let line = stdout.name(&line).into_owned();
    stdout.write_all(&line)?;
    stdout.write_all(if args.nul { b"\0" } else { b"\n" })?;
    Ok(())
}
