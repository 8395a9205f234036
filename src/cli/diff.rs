//! `registry diff`

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use similar::{Algorithm, TextDiff};

use super::output::{Stdout, complain};
use crate::cli::args::{IndexArgs, StoreArgs};
use crate::image::{Id, Image, Images, Kind, Node, Opened, Platform};
use crate::query::Step;
use crate::query::diff::{Aspect, Change, Diff};

/// Files that are compared line by line have at most so many bytes.
const TEXT_MAX: u64 = 8 << 20;
/// Beyond this time a comparison of lines gives a longer result instead of the shortest.
const TEXT_TIME: Duration = Duration::from_secs(2);
/// Where a file is looked at for NUL bytes, which text has not, as in diff(1).
const HEAD: usize = 8 << 10;

/// The flags of `registry diff`.
#[derive(Args, Clone, Debug)]
pub struct DiffArgs {
    #[command(flatten)]
    store: StoreArgs,

    /// The platform to choose from multi-platform images [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,

    /// The platform of the second image, if it is another
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform_b: Option<Platform>,

    /// Print how many paths were added, deleted and modified, for each directory at the root
    #[arg(long, conflicts_with_all = ["patch", "json"])]
    stat: bool,

    /// Print unified diffs of text files
    #[arg(short, long, conflicts_with = "json")]
    patch: bool,

    /// Print a JSON object for each path
    #[arg(long)]
    json: bool,

    /// The image before: NAME[:TAG][@DIGEST], the digest of its manifest or config, or at least the first 12 digits of one
    a: Id,

    /// The image after
    b: Id,

    /// Only these files and what is below these directories
    paths: Vec<OsString>,

    #[command(flatten, next_help_heading = "Indexing, for layers that have no index yet")]
    index: IndexArgs,
}

pub fn run(args: &DiffArgs) -> Result<ExitCode> {
    let images = args.store.open(&args.index.check()?)?;
    let before = open(&images, &args.a, args.platform.as_ref())?;
    let platform = args.platform_b.as_ref().or(args.platform.as_ref());
    let after = open(&images, &args.b, platform)?;
    let paths: Vec<Vec<u8>> = args.paths.iter().map(|path| path.as_bytes().to_vec()).collect();
    let mut diff = Diff::new(before, after, &paths)?;
    let mut stdout = Stdout::new();
    let result = print(args, &mut diff, &mut stdout);
    stdout.end(result)
}

fn open(images: &Images, id: &Id, platform: Option<&Platform>) -> Result<Arc<Image>> {
    match images.open(id, platform)? {
        Opened::Image(image) => {
            for warning in &image.warnings {
                complain(format_args!("warning: {warning}"));
            }
            Ok(image)
        }
        other => bail!("{} is an artifact, which has no layers", &*other),
    }
}

fn print(args: &DiffArgs, diff: &mut Diff, stdout: &mut Stdout) -> Result<ExitCode> {
    let (mut total, mut counts) = (Counts::default(), Counts::default());
    // The name at the root that is counted: they come in order.
    let mut counted: Option<Vec<u8>> = None;
    let mut code = ExitCode::SUCCESS;
    loop {
        let change = match diff.step()? {
            Step::Hit(change) => change,
            Step::Skipped(_) | Step::Working => continue,
            Step::End => break,
        };
        code = ExitCode::FAILURE;
        if args.json {
            let mut line = Vec::new();
            diff.write_json(&change, &mut line);
            stdout.write_text(&line)?;
        } else if args.stat {
            let top = change.path.split(|&b| b == b'/').next().unwrap_or_default();
            if counted.as_deref() != Some(top)
                && let Some(name) = counted.replace(top.to_vec())
            {
                total.join(&counts);
                write_counts(&name, &std::mem::take(&mut counts), stdout)?;
            }
            counts.add(&change);
        } else {
            write(&change, stdout)?;
            if args.patch {
                patch(diff, &change, stdout)?;
            }
        }
    }
    if args.stat {
        if let Some(name) = counted {
            total.join(&counts);
            write_counts(&name, &counts, stdout)?;
        }
        writeln!(stdout, "total: {total}")?;
    }
    Ok(code)
}

fn write_counts(name: &[u8], counts: &Counts, stdout: &mut Stdout) -> Result<()> {
    let name = stdout.name(&[b"/", name].concat()).into_owned();
    stdout.write_all(&name)?;
    writeln!(stdout, ": {counts}")?;
    Ok(())
}

/// A line such as `M /etc/passwd content,mode`.
fn write(change: &Change, stdout: &mut Stdout) -> Result<()> {
    let path = stdout.name(&[b"/", change.path.as_slice()].concat()).into_owned();
    write!(stdout, "{} ", change.letter())?;
    stdout.write_all(&path)?;
    let aspects: Vec<&str> = change.aspects.iter().map(|aspect| aspect.name()).collect();
    if !aspects.is_empty() {
        write!(stdout, " {}", aspects.join(","))?;
    }
    writeln!(stdout)?;
    Ok(())
}

/// Paths that differ, and the bytes of regular files that came and went with them.
#[derive(Default)]
struct Counts {
    added: u64,
    deleted: u64,
    modified: u64,
    more: u64,
    less: u64,
}

impl Counts {
    fn add(&mut self, change: &Change) {
        match change.letter() {
            'A' => self.added += 1,
            'D' => self.deleted += 1,
            _ => self.modified += 1,
        }
        let size = |node: &Option<Node>| {
            let file = node.as_ref().filter(|node| node.entry.kind == Kind::Regular);
            file.map_or(0, |file| file.entry.size)
        };
        let is_other = |aspect| matches!(aspect, &Aspect::Content | &Aspect::Type);
        if change.aspects.is_empty() || change.aspects.iter().any(is_other) {
            self.more += size(&change.after);
            self.less += size(&change.before);
        }
    }

    fn join(&mut self, other: &Counts) {
        self.added += other.added;
        self.deleted += other.deleted;
        self.modified += other.modified;
        self.more += other.more;
        self.less += other.less;
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Counts { added, deleted, modified, more, less } = self;
        write!(f, "{added} added, {deleted} deleted, {modified} modified, +{more} -{less} bytes")
    }
}

/// The unified diff of a regular file whose content came, went or changed.
fn patch(diff: &Diff, change: &Change, stdout: &mut Stdout) -> Result<()> {
    let has_changed = |aspect: &Aspect| matches!(aspect, Aspect::Content | Aspect::Type);
    if !change.aspects.is_empty() && !change.aspects.iter().any(has_changed) {
        return Ok(());
    }
    let sides = [&change.before, &change.after];
    let is_file = |node: &&Node| node.entry.kind == Kind::Regular;
    let files = sides.map(|node| node.as_ref().filter(is_file));
    if files.iter().all(Option::is_none) {
        return Ok(());
    }
    let [a, b] = ["a", "b"].map(|side| format!("{side}/{}", quoted(&change.path)));
    let mut texts = [Vec::new(), Vec::new()];
    for ((image, file), text) in diff.images().iter().zip(files).zip(&mut texts) {
        let Some(file) = file else { continue };
        let is_text = file.entry.size <= TEXT_MAX && {
            text.resize(file.entry.size as usize, 0);
            image.read(file, 0, text)?;
            !text[..text.len().min(HEAD)].contains(&0)
        };
        if !is_text {
            writeln!(stdout, "Binary files {a} and {b} differ")?;
            return Ok(());
        }
    }
    let [before, after] = &texts;
    let mut config = TextDiff::configure();
    config.algorithm(Algorithm::Myers).timeout(TEXT_TIME);
    let lines = config.diff_lines(before.as_slice(), after.as_slice());
    let header = |file: Option<&Node>, name| if file.is_some() { name } else { "/dev/null" };
    let mut text = Vec::new();
    lines
        .unified_diff()
        .header(header(files[0], a.as_str()), header(files[1], b.as_str()))
        .to_writer(&mut text)?;
    stdout.write_text(&text)?;
    Ok(())
}

/// A path as patch(1) reads it: on one line.
fn quoted(path: &[u8]) -> String {
    match std::str::from_utf8(path) {
        Ok(text) if !text.contains(|c: char| c.is_control() || c == '"' || c == '\\') => {
            text.to_owned()
        }
        _ => format!("\"{}\"", path.escape_ascii()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_on_one_line() {
        for (path, want) in
            [(&b"etc/x y"[..], "etc/x y"), (b"a\nb", "\"a\\nb\""), (b"\xff", "\"\\xff\"")]
        {
            assert_eq!(quoted(path), want);
        }
    }
}
