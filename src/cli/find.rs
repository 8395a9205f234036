//! `registry find`

use std::collections::HashSet;
use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, ensure};
use clap::Args;
use serde::Deserialize;

use super::output::{Stdout, complain};
use super::question::{self, Answer, RemoteLines, Step, complain_of_waiting};
use super::scope::{Given, ScopeArgs, everything, value};
use super::server::connect;
use crate::image::Time;
use crate::image::listing::decoded;
use crate::oci::Digest;
use crate::query::Glob;
use crate::query::find::{FileType, Find, Hit, Mode, Size, Wanted, time};
use crate::remote::Query;

/// The flags of `registry find`.
#[derive(Args, Clone, Debug)]
pub struct FindArgs {
    /// Files whose name matches this glob, such as 'log4j-core-*.jar'
    name: Option<Given<Glob>>,

    /// Only files whose whole path matches this glob, such as '/usr/lib/**/libssl.so*'
    #[arg(long, value_name = "GLOB")]
    path: Option<Given<Glob>>,

    /// Only files whose content has this digest; may be repeated, and @FILE is a list, as sha256sum prints it
    #[arg(long, value_name = "HEX|@FILE")]
    sha256: Vec<String>,

    /// Only files of this type: f, d, l, c, b or p
    #[arg(long, value_name = "TYPE")]
    r#type: Option<Given<FileType>>,

    /// Only files with all bits of -MODE, any of /MODE, or exactly MODE, such as /6000
    #[arg(long, value_name = "MODE", allow_hyphen_values = true)]
    mode: Option<Given<Mode>>,

    /// Only files of more than +N, less than -N or exactly N bytes, with k, M or G for powers of 1024, such as +10M
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    size: Option<Given<Size>>,

    /// Only files changed after this time, such as 2026-01-31 or 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = |text: &str| Given::by(time, text))]
    newer: Option<Given<Time>>,

    /// Only files of this owner
    #[arg(long, value_name = "UID")]
    uid: Option<u32>,

    /// Only files of this group
    #[arg(long, value_name = "GID")]
    gid: Option<u32>,

    /// Only files with an extended attribute whose name matches this glob, such as security.capability
    #[arg(long, value_name = "GLOB")]
    xattr: Option<Given<Glob>>,

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
            name: value(&self.name),
            path: value(&self.path),
            contents,
            kind: value(&self.r#type),
            mode: value(&self.mode),
            size: value(&self.size),
            newer: value(&self.newer),
            uid: self.uid,
            gid: self.gid,
            xattr: value(&self.xattr),
            deleted: self.deleted,
        })
    }

    /// The same as parameters for a server.
    fn query(&self, wanted: &Wanted) -> Query {
        let mut query = self.scope.query();
        query.option("name", self.name.as_ref());
        query.option("path", self.path.as_ref());
        for content in &wanted.contents {
            query.add("sha256", Digest::Sha256(*content).hex());
        }
        query.option("type", self.r#type.as_ref());
        query.option("mode", self.mode.as_ref());
        query.option("size", self.size.as_ref());
        query.option("newer", self.newer.as_ref());
        query.option("uid", self.uid);
        query.option("gid", self.gid);
        query.option("xattr", self.xattr.as_ref());
        query.flag("deleted", self.deleted);
        query.flag("images", self.images);
        query
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
    let mut answer: Box<dyn Answer<Hit = Shown>> = match &args.scope.source.server {
        Some(url) => {
            let server = connect(url, [])?;
            let lines = RemoteLines::ask(&server, "find", args.query(&wanted))?;
            Box::new(Remote { lines, json: args.json })
        }
        None => {
            let images = args.scope.open()?;
            let find = Find::new(&images, &args.scope.scope(), &everything(), wanted, None)?;
            let find = if args.images { find.first_only() } else { find };
            Box::new(Local { find, json: args.json })
        }
    };
    let mut stdout = Stdout::new();
    let result = print(args, &mut *answer, &mut stdout);
    complain_of_waiting(answer.waiting());
    stdout.end(result)
}

/// What is printed of a file.
#[derive(Default)]
struct Shown {
    image: String,
    layer: String,
    /// In the image, from a slash on.
    path: Vec<u8>,
    /// Only if it is wanted.
    json: Vec<u8>,
}

struct Local {
    find: Find,
    json: bool,
}

impl Local {
    fn show(hit: &Hit, json: bool) -> Shown {
        if json {
            let mut json = Vec::new();
            hit.write_json(&mut json);
            return Shown { json, ..Shown::default() };
        }
        Shown {
            image: hit.image.to_string(),
            layer: hit.layer.to_string(),
            path: [b"/", hit.path.as_slice()].concat(),
            json: Vec::new(),
        }
    }
}

impl Answer for Local {
    type Hit = Shown;

    fn step(&mut self) -> Result<Step<Shown>> {
        Ok(question::step(self.find.step()?, |hit| Local::show(&hit, self.json)))
    }

    fn waiting(&self) -> (u64, u64) {
        (self.find.looked.waiting_images, self.find.looked.waiting_layers)
    }
}

struct Remote {
    lines: RemoteLines,
    json: bool,
}

impl Answer for Remote {
    type Hit = Shown;

    fn step(&mut self) -> Result<Step<Shown>> {
        #[derive(Deserialize)]
        struct Json {
            image: String,
            layer: String,
            path: String,
            path_bytes: Option<String>,
        }
        Ok(match self.lines.step()? {
            Step::Hit(json) if self.json => Step::Hit(Shown { json, ..Shown::default() }),
            Step::Hit(json) => {
                let Json { image, layer, path, path_bytes } = self.lines.parse(&json)?;
                let path = decoded(path, path_bytes);
                Step::Hit(Shown { image, layer, path, json: Vec::new() })
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

fn print(
    args: &FindArgs,
    answer: &mut dyn Answer<Hit = Shown>,
    stdout: &mut Stdout,
) -> Result<ExitCode> {
    let (mut lines, mut has_failed, mut layers) = (0_u64, false, HashSet::new());
    loop {
        match answer.step()? {
            Step::Hit(hit) => {
                if args.layers && !layers.insert(hit.layer.clone()) {
                    continue;
                }
                lines += 1;
                if !args.count {
                    write(args, &hit, stdout)?;
                }
            }
            Step::Skipped(message) => {
                has_failed = true;
                // What was found so far comes before the message on a terminal.
                stdout.flush()?;
                complain(message);
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

fn write(args: &FindArgs, hit: &Shown, stdout: &mut Stdout) -> Result<()> {
    if args.json {
        return Ok(stdout.write_text(&hit.json)?);
    }
    let place;
    let line = match () {
        () if args.images => hit.image.as_bytes(),
        () if args.layers => hit.layer.as_bytes(),
        () => {
            place = [hit.image.as_bytes(), &hit.path].concat();
            &place
        }
    };
    let line = stdout.name(line).into_owned();
    stdout.write_all(&line)?;
    stdout.write_all(if args.nul { b"\0" } else { b"\n" })?;
    Ok(())
}
