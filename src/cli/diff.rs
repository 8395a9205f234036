//! `registry diff`

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Result, bail};
use clap::Args;
use serde::Deserialize;
use serde::de::Error as _;

use super::output::{Stdout, complain};
use super::question::{self, Answer, RemoteLines, Step};
use super::server::{RemoteImage, connect};
use crate::cli::args::{IndexArgs, SourceArgs};
use crate::image::listing::{decoded, kind, url_path};
use crate::image::{Id, Image, Images, Kind, Node, Opened, Platform};
use crate::query::diff::{Aspect, Change, Diff, binary, is_text, unified};
use crate::remote::Query;

/// Files that are compared line by line have at most so many bytes.
const TEXT_MAX: u64 = 8 << 20;

/// The flags of `registry diff`.
#[derive(Args, Clone, Debug)]
pub struct DiffArgs {
    #[command(flatten)]
    source: SourceArgs,

    /// The platform to choose from multi-platform images [default: this machine's, or the server's]
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
    let other = args.platform_b.as_ref().or(args.platform.as_ref());
    let sides = [(&args.a, args.platform.as_ref()), (&args.b, other)];
    let paths: Vec<&[u8]> = args.paths.iter().map(|path| path.as_bytes()).collect();
    let mut diff: Box<dyn Comparison<Hit = Shown>> = match &args.source.server {
        Some(url) => {
            let server = connect(url, [&args.a, &args.b])?;
            let open = |(id, platform)| RemoteImage::open_image(&server, id, platform);
            let images = [open(sides[0])?, open(sides[1])?];
            let mut query = Query::new();
            query.add("a", images[0].id());
            query.add("b", images[1].id());
            for path in paths {
                // Percent-encoded, because it need not be UTF-8.
                query.add("path_bytes", url_path(path));
            }
            let lines = RemoteLines::ask(&server, "diff", query)?;
            Box::new(Remote { lines, images, json: args.json })
        }
        None => {
            let images = args.source.store.open(&args.index.check()?)?;
            let open = |(id, platform)| open(&images, id, platform);
            let (before, after) = (open(sides[0])?, open(sides[1])?);
            let paths: Vec<Vec<u8>> = paths.into_iter().map(<[u8]>::to_vec).collect();
            Box::new(Local { diff: Diff::new(before, after, &paths)?, json: args.json })
        }
    };
    let mut stdout = Stdout::new();
    let result = print(args, &mut *diff, &mut stdout);
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

/// A path that is not the same in both images.
struct Shown {
    letter: char,
    /// From a slash on.
    path: Vec<u8>,
    aspects: Vec<Aspect>,
    sides: [Option<Side>; 2],
    /// Only if it is wanted.
    json: Vec<u8>,
}

/// What one of the images has at a path.
struct Side {
    kind: Kind,
    size: u64,
    /// Of an image in the store.
    node: Option<Node>,
}

impl Shown {
    /// Whether there is another content than before, and not only other attributes.
    fn has_content(&self) -> bool {
        let is_other = |aspect: &Aspect| matches!(aspect, Aspect::Content | Aspect::Type);
        self.aspects.is_empty() || self.aspects.iter().any(is_other)
    }
}

/// The answer, and the files that it is about.
trait Comparison: Answer {
    /// The content of a regular file of one of the images.
    fn read(&self, side: usize, shown: &Shown) -> Result<Vec<u8>>;
}

struct Local {
    diff: Diff,
    json: bool,
}

impl Answer for Local {
    type Hit = Shown;

    fn step(&mut self) -> Result<Step<Shown>> {
        let step = self.diff.step()?;
        Ok(question::step(step, |change: Change| {
            let mut json = Vec::new();
            if self.json {
                self.diff.write_json(&change, &mut json);
            }
            let side = |node: Option<Node>| {
                node.map(|node| Side {
                    kind: node.entry.kind,
                    size: node.entry.size,
                    node: Some(node),
                })
            };
            Shown {
                letter: change.letter(),
                path: [b"/", change.path.as_slice()].concat(),
                aspects: change.aspects,
                sides: [side(change.before), side(change.after)],
                json,
            }
        }))
    }

    fn waiting(&self) -> (u64, u64) {
        (0, 0)
    }
}

impl Comparison for Local {
    fn read(&self, side: usize, shown: &Shown) -> Result<Vec<u8>> {
        let mut content = Vec::new();
        if let Some(Side { node: Some(node), .. }) = &shown.sides[side] {
            content.resize(node.entry.size as usize, 0);
            self.diff.images()[side].read(node, 0, &mut content)?;
        }
        Ok(content)
    }
}

struct Remote {
    lines: RemoteLines,
    images: [RemoteImage; 2],
    json: bool,
}

impl Remote {
    fn parse(&self, line: Vec<u8>) -> Result<Shown> {
        #[derive(Deserialize)]
        struct Json {
            change: String,
            path: String,
            path_bytes: Option<String>,
            what: Vec<String>,
            a: Option<JsonSide>,
            b: Option<JsonSide>,
        }
        #[derive(Deserialize)]
        struct JsonSide {
            r#type: String,
            size: u64,
        }
        let unknown = |what: &str| {
            let cause = serde_json::Error::custom(format!("{what:?} is not known here"));
            self.lines.unreadable(cause)
        };
        let json: Json = self.lines.parse(&line)?;
        let side = |side: Option<JsonSide>| match side {
            None => Ok(None),
            Some(JsonSide { r#type, size }) => {
                let kind = kind(&r#type).ok_or_else(|| unknown(&r#type))?;
                Ok::<_, anyhow::Error>(Some(Side { kind, size, node: None }))
            }
        };
        let aspect = |name: &String| Aspect::by_name(name).ok_or_else(|| unknown(name));
        Ok(Shown {
            letter: match json.change.as_str() {
                "added" => 'A',
                "deleted" => 'D',
                _ => 'M',
            },
            path: decoded(json.path, json.path_bytes),
            aspects: json.what.iter().map(aspect).collect::<Result<_>>()?,
            sides: [side(json.a)?, side(json.b)?],
            json: if self.json { line } else { Vec::new() },
        })
    }
}

impl Answer for Remote {
    type Hit = Shown;

    fn step(&mut self) -> Result<Step<Shown>> {
        Ok(match self.lines.step()? {
            Step::Hit(line) => Step::Hit(self.parse(line)?),
            Step::Skipped(message) => Step::Skipped(message),
            Step::Working => Step::Working,
            Step::End => Step::End,
        })
    }

    fn waiting(&self) -> (u64, u64) {
        self.lines.waiting()
    }
}

impl Comparison for Remote {
    fn read(&self, side: usize, shown: &Shown) -> Result<Vec<u8>> {
        let Some(Side { size, .. }) = shown.sides[side] else { return Ok(Vec::new()) };
        let mut answer = self.images[side].get("blobs", &shown.path, &[])?;
        let mut content = vec![0; size as usize];
        let mut length = 0;
        loop {
            match answer.read(&mut content[length..])? {
                0 => break,
                read => length += read,
            }
        }
        content.truncate(length);
        Ok(content)
    }
}

fn print(
    args: &DiffArgs,
    diff: &mut dyn Comparison<Hit = Shown>,
    stdout: &mut Stdout,
) -> Result<ExitCode> {
    let (mut total, mut counts) = (Counts::default(), Counts::default());
    // The name at the root that is counted: they come in order.
    let mut counted: Option<Vec<u8>> = None;
    let mut code = ExitCode::SUCCESS;
    loop {
        let change = match diff.step()? {
            Step::Hit(change) => change,
            Step::Skipped(message) => bail!(message),
            Step::Working => continue,
            Step::End => break,
        };
        code = ExitCode::FAILURE;
        if args.json {
            stdout.write_text(&change.json)?;
        } else if args.stat {
            let top = change.path.split(|&b| b == b'/').nth(1).unwrap_or_default();
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
fn write(change: &Shown, stdout: &mut Stdout) -> Result<()> {
    let path = stdout.name(&change.path).into_owned();
    write!(stdout, "{} ", change.letter)?;
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
    fn add(&mut self, change: &Shown) {
        match change.letter {
            'A' => self.added += 1,
            'D' => self.deleted += 1,
            _ => self.modified += 1,
        }
        let size = |side: &Option<Side>| {
            let file = side.as_ref().filter(|side| side.kind == Kind::Regular);
            file.map_or(0, |file| file.size)
        };
        if change.has_content() {
            self.less += size(&change.sides[0]);
            self.more += size(&change.sides[1]);
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
fn patch(diff: &dyn Comparison<Hit = Shown>, change: &Shown, stdout: &mut Stdout) -> Result<()> {
    let files = change.sides.each_ref().map(|side| {
        let file = side.as_ref().filter(|side| side.kind == Kind::Regular);
        file.map(|file| file.size)
    });
    if !change.has_content() || files.iter().all(Option::is_none) {
        return Ok(());
    }
    let path = &change.path[1..];
    let mut texts = [None, None];
    for (side, text) in texts.iter_mut().enumerate() {
        let Some(size) = files[side] else { continue };
        let content = if size <= TEXT_MAX { Some(diff.read(side, change)?) } else { None };
        *text = content.filter(|content| is_text(content));
        if text.is_none() {
            return Ok(stdout.write_text(binary(path).as_bytes())?);
        }
    }
    Ok(stdout.write_text(&unified(path, texts.each_ref().map(Option::as_deref))?)?)
}
