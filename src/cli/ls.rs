//! `registry ls`

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use percent_encoding::percent_decode_str;

use super::image::{Found, ImageArgs};
use super::output::Stdout;
use super::server::RemoteImage;
use crate::image::listing::{JsonListing, Listed, Listing, Stop};
use crate::image::{Entry, Kind, Opened, Time};
use crate::remote::Answer;

/// Bytes of JSON that are written at a time.
const PIECE: usize = 64 << 10;
/// Rows whose columns get the same width. Most directories have fewer.
const ALIGNED: usize = 4096;

/// The flags of `registry ls`.
#[derive(Args, Clone, Debug)]
pub struct LsArgs {
    #[command(flatten)]
    image: ImageArgs,

    /// Show one line per entry: mode, owner, group, size, time (UTC), name
    #[arg(short, long)]
    long: bool,

    /// List everything below the directory, with paths
    #[arg(short = 'R', long)]
    recursive: bool,

    /// Print the same JSON as the HTTP API, with the layer and digest of each file
    #[arg(long, conflicts_with = "long")]
    json: bool,

    /// Also list what layers ship and the image does not show, because a layer above deletes or replaces it
    #[arg(long, conflicts_with = "layer")]
    deleted: bool,

    /// A directory or file in the image
    #[arg(default_value = "/")]
    path: OsString,
}

pub fn run(args: &LsArgs) -> Result<ExitCode> {
    let place = match args.image.open()? {
        Found::Here(image) => Place::Here(Box::new(listing(image, args)?)),
        Found::There(image) => Place::There(Box::new(remote(&image, args)?)),
    };
    let mut stdout = Stdout::new();
    let result = match place {
        Place::Here(listing) if args.json => json(*listing, &mut stdout),
        Place::Here(listing) => text(*listing, args, &mut stdout),
        Place::There(answer) if args.json => remote_json(*answer, &mut stdout),
        Place::There(answer) => remote_text(*answer, args, &mut stdout),
    };
    stdout.end(result.map(|()| ExitCode::SUCCESS))
}

/// Where the entries come from.
enum Place {
    Here(Box<Listing>),
    There(Box<Answer>),
}

fn listing(image: Opened, args: &LsArgs) -> Result<Listing> {
    let list = if args.deleted { Listing::with_deleted } else { Listing::new };
    Ok(list(image, args.path.as_bytes(), args.recursive)?)
}

fn remote(image: &RemoteImage, args: &LsArgs) -> Result<Answer> {
    let flags = [("recursive", args.recursive), ("deleted", args.deleted)];
    let flags: Vec<&str> = flags.iter().filter(|(_, set)| *set).map(|(name, _)| *name).collect();
    image.get("tree", args.path.as_bytes(), &flags)
}

fn json(listing: Listing, stdout: &mut Stdout) -> Result<()> {
    let mut listing = JsonListing::new(listing);
    let mut buffer = Vec::new();
    while listing.write(PIECE, &mut buffer)?.is_some() {
        stdout.write_text(&buffer)?;
        buffer.clear();
    }
    Ok(())
}

/// The server's JSON is the same, so it is passed on.
fn remote_json(mut answer: Answer, stdout: &mut Stdout) -> Result<()> {
    let mut line = Vec::new();
    while answer.line(&mut line)? {
        stdout.write_text(&line)?;
    }
    Ok(())
}

fn text(mut listing: Listing, args: &LsArgs, stdout: &mut Stdout) -> Result<()> {
    let tree = listing.opened().clone();
    let shown = listing.shown();
    let mut table = Table::new(args, &shown.path, shown.is_directory());
    loop {
        let stop = listing.visit(|node, deleted| {
            let layer = tree.layer(node).filter(|_| deleted).map(|layer| layer.hex());
            table.push(&node.path, &node.entry, layer.as_deref());
            !table.is_full()
        })?;
        table.write(stdout)?;
        if stop != Stop::Pause {
            return Ok(());
        }
    }
}

fn remote_text(mut answer: Answer, args: &LsArgs, stdout: &mut Stdout) -> Result<()> {
    let place = answer.header("content-location").and_then(|place| place.split_once("/tree/"));
    let (_, shown) = place.ok_or_else(|| answer.unreadable("it lacks Content-Location"))?;
    let path: Vec<u8> = percent_decode_str(shown.trim_end_matches('/')).collect();
    let mut table = Table::new(args, &path, shown.is_empty() || shown.ends_with('/'));
    let (mut line, mut last) = (Vec::new(), Vec::new());
    while answer.line(&mut line)? {
        // An array, with an entry on each line.
        let text = line.trim_ascii_end();
        let text = text.strip_prefix(b"[").unwrap_or(text);
        let text = text.strip_suffix(b"]").or(text.strip_suffix(b",")).unwrap_or(text);
        if text.is_empty() {
            continue;
        }
        let Listed { path, entry, layer, deleted } =
            Listed::parse(text).map_err(|cause| answer.unreadable(cause))?;
        // Entries of one path are not torn apart.
        if table.is_full() && path != last {
            table.write(stdout)?;
        }
        let layer = layer.as_deref().and_then(|digest| digest.split(':').next_back());
        table.push(&path, &entry, layer.filter(|_| deleted));
        last = path;
    }
    table.write(stdout)
}

/// Rows of text, and the widths of their columns.
struct Table<'a> {
    args: &'a LsArgs,
    /// Bytes of each path that are not shown, because the directory is clear. `None`: all are shown.
    directory: Option<usize>,
    rows: Vec<Row>,
    widths: Widths,
}

impl<'a> Table<'a> {
    /// `path` is what is listed.
    fn new(args: &'a LsArgs, path: &[u8], is_directory: bool) -> Table<'a> {
        let directory = match path {
            _ if args.recursive || !is_directory => None,
            [] => Some(0),
            path => Some(path.len() + 1),
        };
        Table { args, directory, rows: Vec::new(), widths: Widths::default() }
    }

    /// Adds an entry. `layer` is the layer that ships it, in hex, if the image does not show it.
    fn push(&mut self, path: &[u8], entry: &Entry, layer: Option<&str>) {
        let name = match self.directory {
            Some(length) => path.get(length..).unwrap_or_default().to_vec(),
            None => [b"/", path].concat(),
        };
        self.rows.push(Row {
            mark: self.args.deleted.then(|| mark(layer)),
            ..Row::new(entry, name, self.args.long)
        });
    }

    fn is_full(&self) -> bool {
        self.rows.len() >= ALIGNED
    }

    fn write(&mut self, stdout: &mut Stdout) -> Result<()> {
        for row in &self.rows {
            self.widths.fit(row);
        }
        for row in self.rows.drain(..) {
            row.write(&self.widths, stdout)?;
        }
        Ok(())
    }
}

struct Row {
    /// Whether it is deleted, and by which layer it is shipped.
    mark: Option<String>,
    /// Mode, owner, group, size and time.
    columns: Option<[String; 5]>,
    name: Vec<u8>,
    /// What links to a target, and the target.
    target: Option<(&'static str, Vec<u8>)>,
}

/// Digits of a layer's digest that are shown, which are enough to name it.
const DIGITS: usize = 12;

fn mark(layer: Option<&str>) -> String {
    match layer {
        Some(layer) => format!("D {:.DIGITS$} ", layer),
        None => " ".repeat(DIGITS + 3),
    }
}

#[derive(Default)]
struct Widths([usize; 5]);

impl Widths {
    fn fit(&mut self, row: &Row) {
        for (width, column) in self.0.iter_mut().zip(row.columns.iter().flatten()) {
            *width = column.len().max(*width);
        }
    }
}

impl Row {
    fn new(entry: &Entry, name: Vec<u8>, long: bool) -> Row {
        let size = match entry.kind {
            Kind::Character | Kind::Block => format!("{}, {}", entry.device.0, entry.device.1),
            _ => entry.size.to_string(),
        };
        let target = match entry.kind {
            Kind::Symlink => Some((" -> ", entry.link.clone())),
            Kind::CrossLayerLink => Some((" link to ", [b"/", entry.link.as_slice()].concat())),
            _ => None,
        };
        Row {
            mark: None,
            columns: long.then(|| {
                [mode(entry), entry.uid.to_string(), entry.gid.to_string(), size, time(entry.mtime)]
            }),
            name,
            target: target.filter(|_| long),
        }
    }

    fn write(&self, widths: &Widths, stdout: &mut Stdout) -> std::io::Result<()> {
        if let Some(mark) = &self.mark {
            stdout.write_all(mark.as_bytes())?;
        }
        if let Some(columns) = &self.columns {
            let mut line = String::new();
            for (column, &width) in columns.iter().zip(&widths.0) {
                write!(line, "{column:>width$} ").expect("a String takes every write");
            }
            stdout.write_all(line.as_bytes())?;
        }
        let name = stdout.name(&self.name).into_owned();
        stdout.write_all(&name)?;
        if let Some((arrow, target)) = &self.target {
            let target = stdout.name(target).into_owned();
            stdout.write_all(arrow.as_bytes())?;
            stdout.write_all(&target)?;
        }
        stdout.write_all(b"\n")
    }
}

/// A mode as `ls -l` shows it, such as `-rwsr-xr-t`.
fn mode(entry: &Entry) -> String {
    let kind = match entry.kind {
        Kind::Directory | Kind::Implicit => 'd',
        Kind::Symlink => 'l',
        Kind::Character => 'c',
        Kind::Block => 'b',
        Kind::Fifo => 'p',
        Kind::Regular => '-',
        // As GNU tar and the BSDs show them.
        Kind::CrossLayerLink => 'h',
        Kind::Whiteout => 'w',
    };
    let mut text = String::from(kind);
    // Shift, the special bit, and its letter.
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = entry.mode >> shift;
        let executable = bits & 1 != 0;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (entry.mode & special != 0, executable) {
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// A time to the minute, in UTC, so that the output does not depend on the time zone.
fn time(time: Time) -> String {
    // As far as JSON has them, which counts milliseconds.
    let seconds = time.seconds.clamp(i64::MIN / 1000, i64::MAX / 1000);
    match jiff::Timestamp::from_second(seconds) {
        Ok(timestamp) => timestamp.strftime("%Y-%m-%d %H:%M").to_string(),
        // The time is beyond the years that the calendar covers.
        Err(_) => format!("@{seconds}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes() {
        for (kind, bits, want) in [
            (Kind::Regular, 0o644, "-rw-r--r--"),
            (Kind::Directory, 0o1777, "drwxrwxrwt"),
            (Kind::Implicit, 0o755, "drwxr-xr-x"),
            (Kind::Regular, 0o4755, "-rwsr-xr-x"),
            (Kind::Regular, 0o6640, "-rwSr-S---"),
            (Kind::Directory, 0o1770, "drwxrwx--T"),
            (Kind::Symlink, 0o777, "lrwxrwxrwx"),
            (Kind::Character, 0o620, "crw--w----"),
            (Kind::Block, 0o660, "brw-rw----"),
            (Kind::Fifo, 0o600, "prw-------"),
            (Kind::CrossLayerLink, 0o644, "hrw-r--r--"),
            (Kind::Whiteout, 0, "w---------"),
        ] {
            let mut entry = Entry::implicit(kind);
            entry.mode = bits;
            assert_eq!(mode(&entry), want);
        }
    }

    #[test]
    fn times() {
        for (seconds, want) in [
            (0, "1970-01-01 00:00"),
            (-1, "1969-12-31 23:59"),
            (1_700_000_000, "2023-11-14 22:13"),
            (i64::MAX, "@9223372036854775"),
        ] {
            let nanoseconds = 0;
            assert_eq!(time(Time { seconds, nanoseconds }), want);
        }
    }
}
