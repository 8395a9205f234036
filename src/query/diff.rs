//! What differs between two images.
//!
//! Two merged views are walked side by side, one directory at a time. Layers that both images have
//! at their bottom look the same in both, so a directory to which only these contribute is not
//! walked, and of one to which others contribute, too, only the names that these have are looked at.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Write};
use std::iter::Peekable;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use similar::{Algorithm, TextDiff};

use super::{Answer, Looked, Step, write_line};
use crate::image::listing::{encoded, type_name, url_path};
use crate::image::{self, At, Entry, Extent, Image, Kind, Node, Result};
use crate::oci::Digest;

/// Pairs of children read at a time. Where there is no room, those that are left are dropped when the
/// walk goes down, so it starts with few.
const PAGE_FIRST: usize = 4;
const PAGE_MAX: usize = 256;
/// Bytes that a page may take in memory, and so may all pages together that wait for the walk to come
/// up again: maps of sparse files are up to 4 MiB each.
const PAGE_BYTES: usize = 1 << 20;
/// Beyond this time a comparison of lines gives a longer result instead of the shortest.
const TEXT_TIME: Duration = Duration::from_secs(2);
/// Lines of two texts that are compared. Each takes some 50 bytes in memory.
const TEXT_LINES: usize = 1 << 20;
/// Lines around those that differ, as of diff(1).
const CONTEXT: usize = 3;
/// Where a file is looked at for NUL bytes, which text has not, as in diff(1).
const HEAD: usize = 8 << 10;
/// Bytes compared at a time where there is no digest.
const PIECE: u64 = 1 << 20;

/// What is different about a path that both images have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aspect {
    Type,
    Content,
    Mode,
    Owner,
    Link,
    Device,
    Xattrs,
}

impl Aspect {
    const ALL: [Aspect; 7] = [
        Aspect::Type,
        Aspect::Content,
        Aspect::Mode,
        Aspect::Owner,
        Aspect::Link,
        Aspect::Device,
        Aspect::Xattrs,
    ];

    /// The reverse of [`Aspect::name`].
    pub fn by_name(name: &str) -> Option<Aspect> {
        Aspect::ALL.into_iter().find(|aspect| aspect.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Aspect::Type => "type",
            Aspect::Content => "content",
            Aspect::Mode => "mode",
            Aspect::Owner => "owner",
            Aspect::Link => "link",
            Aspect::Device => "device",
            Aspect::Xattrs => "xattrs",
        }
    }
}

/// A path that is not the same in both images.
#[derive(Clone, Debug)]
pub struct Change {
    pub path: Vec<u8>,
    pub before: Option<Node>,
    pub after: Option<Node>,
    /// Nothing where one side has no such path.
    pub aspects: Vec<Aspect>,
}

impl Change {
    pub fn letter(&self) -> char {
        match (&self.before, &self.after) {
            (None, _) => 'A',
            (_, None) => 'D',
            _ => 'M',
        }
    }

    fn name(&self) -> &'static str {
        match self.letter() {
            'A' => "added",
            'D' => "deleted",
            _ => "modified",
        }
    }
}

/// Two directories on the way, either of which may be absent.
struct Level {
    pair: [Option<Node>; 2],
    /// The least name that is still to come; `None`: there is none.
    from: Option<Vec<u8>>,
    /// What was read ahead.
    page: Page,
    /// How many names to read next.
    size: usize,
}

impl Level {
    fn new(mut pair: [Option<Node>; 2], from: Vec<u8>) -> Level {
        for directory in pair.iter_mut().flatten() {
            // Of no use on the way, and there may be many levels.
            directory.entry.xattrs = Vec::new();
        }
        Level { pair, from: Some(from), page: Page::default(), size: PAGE_FIRST }
    }
}

/// A name, and what either directory has under it.
type Named = (Vec<u8>, [Option<Node>; 2]);

/// What two directories have, from some name on.
#[derive(Default)]
struct Page {
    named: VecDeque<Named>,
    bytes: usize,
    is_full: bool,
}

impl Page {
    fn push(&mut self, name: Vec<u8>, pair: [Option<Node>; 2], size: usize) {
        self.bytes += pair.iter().flatten().map(Node::bytes).sum::<usize>();
        self.named.push_back((name, pair));
        self.is_full = self.named.len() == size || self.bytes >= PAGE_BYTES;
    }
}

/// Two files whose bytes are compared.
#[derive(Debug)]
struct Bytes {
    pair: [Node; 2],
    /// What else differs.
    aspects: Vec<Aspect>,
    /// Pieces that are still to be compared.
    left: VecDeque<Extent>,
}

/// The differences of two images, directories before what they hold, names in order.
pub struct Diff {
    images: [Arc<Image>; 2],
    /// Layers that both images have at their bottom.
    shared: usize,
    levels: Vec<Level>,
    /// Bytes of the pages above the last level.
    waiting: usize,
    /// In hand, a piece at a time.
    bytes: Option<Bytes>,
    /// Subtrees to come.
    roots: VecDeque<Vec<u8>>,
    /// How many are done or in hand.
    begun: usize,
    position: Option<After>,
}

/// Where an answer goes on: behind a path in the subtree of this number, counted from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct After {
    root: usize,
    /// From the top of the subtree on: the two images may have it at different paths.
    names: Vec<Vec<u8>>,
}

impl After {
    /// Parses [`Answer::position`]. `None`: it is none.
    pub fn parse(text: &[u8]) -> Option<After> {
        let mut names = text.split(|&b| b == b'/').map(<[u8]>::to_vec);
        let root = std::str::from_utf8(&names.next()?).ok()?.parse().ok()?;
        Some(After { root, names: names.filter(|name| !name.is_empty()).collect() })
    }
}

impl fmt::Debug for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Diff").field("images", &self.images).finish_non_exhaustive()
    }
}

/// Where `path` is in an image, with no symbolic link at its end followed.
fn at(image: &Image, path: &[u8]) -> Result<Option<Node>> {
    match image.node(path, false) {
        Ok(node) => Ok(Some(node)),
        Err(image::Error::NotFound(_) | image::Error::NotADirectory(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Diff {
    /// Below each of `paths`, which have to be in one of the images; without any, of all.
    pub fn new(before: Arc<Image>, after: Arc<Image>, paths: &[Vec<u8>]) -> Result<Diff> {
        let layers = before.layers.iter().zip(&after.layers);
        let shared = layers.take_while(|(a, b)| a.digest == b.digest).count();
        let images = [before, after];
        for path in paths {
            if at(&images[0], path)?.is_none() && at(&images[1], path)?.is_none() {
                return Err(image::Error::NotFound(At::new(&images[1], path)));
            }
        }
        let roots = if paths.is_empty() { VecDeque::from([Vec::new()]) } else { subtrees(paths) };
        Ok(Diff {
            images,
            shared,
            levels: Vec::new(),
            waiting: 0,
            bytes: None,
            roots,
            begun: 0,
            position: None,
        })
    }

    /// Goes on where an earlier answer about the same paths ended. What it told of last need not
    /// exist any more.
    pub fn after(mut self, after: &After) -> Result<Diff> {
        let Some(last) = after.root.checked_sub(1).and_then(|last| self.roots.get(last)) else {
            self.roots.clear();
            return Ok(self);
        };
        let mut pair = [at(&self.images[0], last)?, at(&self.images[1], last)?].map(directory);
        self.roots.drain(..after.root);
        self.begun = after.root;
        self.position = Some(after.clone());
        for name in &after.names {
            let mut children = [None, None];
            for ((image, directory), child) in self.images.iter().zip(&pair).zip(&mut children) {
                if let Some(directory) = directory {
                    *child = image.lookup(directory, name)?;
                }
            }
            self.levels.push(Level::new(pair, [&name[..], b"\0"].concat()));
            pair = children.map(directory);
        }
        if pair.iter().any(Option::is_some) && !self.is_same(&pair) {
            self.levels.push(Level::new(pair, Vec::new()));
        }
        Ok(self)
    }

    /// Whether only layers that both images have at their bottom contribute to both directories.
    fn is_same(&self, pair: &[Option<Node>; 2]) -> bool {
        let [Some(before), Some(after)] = pair else { return false };
        // A path that was asked for may lead to different places, through symbolic links.
        before.path == after.path
            && before.dirs == after.dirs
            && before.dirs.iter().all(|&layer| layer < self.shared)
    }

    /// Does a bounded piece of work.
    pub fn step(&mut self) -> Result<Step<Change>> {
        if let Some(bytes) = self.bytes.take() {
            return Ok(self.compare(bytes)?.map_or(Step::Working, Step::Hit));
        }
        let Some(level) = self.levels.last_mut() else {
            let Some(root) = self.roots.pop_front() else { return Ok(Step::End) };
            self.begun += 1;
            let pair = [at(&self.images[0], &root)?, at(&self.images[1], &root)?];
            return Ok(self.look(pair)?.map_or(Step::Working, Step::Hit));
        };
        if let Some((name, pair)) = level.page.named.pop_front() {
            let may_be_more = level.page.is_full || !level.page.named.is_empty();
            level.from = may_be_more.then(|| [name.as_slice(), b"\0"].concat());
            return Ok(self.look(pair)?.map_or(Step::Working, Step::Hit));
        }
        let Some(from) = level.from.take() else {
            self.levels.pop();
            self.waiting -= self.levels.last().map_or(0, |level| level.page.bytes);
            return Ok(Step::Working);
        };
        // Where to go on is noted as names are taken.
        level.page = read(&self.images, self.shared, &level.pair, &from, level.size)?;
        level.size = (2 * level.size).min(PAGE_MAX);
        Ok(Step::Working)
    }

    /// Compares a pair.
    fn look(&mut self, pair: [Option<Node>; 2]) -> Result<Option<Change>> {
        let mut aspects = Vec::new();
        if let [Some(before), Some(after)] = &pair
            && !self.is_one_row(before, after)
        {
            aspects = differences(before, after);
            let (a, b) = (&before.entry, &after.entry);
            if a.kind == Kind::Regular && b.kind == Kind::Regular {
                match (a.sha256, b.sha256) {
                    (Some(a), Some(b)) if a == b => {}
                    (None, _) | (_, None) if a.size == b.size => {
                        let (left, pair) = (data(a, b), [before.clone(), after.clone()]);
                        self.bytes = Some(Bytes { pair, aspects, left });
                        return Ok(None);
                    }
                    _ => aspects.insert(0, Aspect::Content),
                }
            }
        }
        Ok(self.compared(pair, aspects))
    }

    /// Whether two nodes are the same row of a layer that both images have.
    fn is_one_row(&self, before: &Node, after: &Node) -> bool {
        before.layer == after.layer
            && before.layer < self.shared
            && before.entry.inode == after.entry.inode
            // A directory that has no member of its own has a number that a file may have, too.
            && !before.is_directory()
            && !after.is_directory()
    }

    /// Compares the next bytes of two files.
    fn compare(&mut self, mut bytes: Bytes) -> Result<Option<Change>> {
        let mut differs = false;
        if let Some(Extent { offset, length }) = bytes.left.pop_front() {
            let now = length.min(PIECE);
            let mut buffers = [vec![0; now as usize], vec![0; now as usize]];
            for ((image, node), buffer) in self.images.iter().zip(&bytes.pair).zip(&mut buffers) {
                image.read(node, offset, buffer)?;
            }
            differs = buffers[0] != buffers[1];
            if now < length {
                bytes.left.push_front(Extent { offset: offset + now, length: length - now });
            }
        }
        if !differs && !bytes.left.is_empty() {
            self.bytes = Some(bytes);
            return Ok(None);
        }
        let Bytes { pair, mut aspects, .. } = bytes;
        if differs {
            aspects.insert(0, Aspect::Content);
        }
        Ok(self.compared(pair.map(Some), aspects))
    }

    /// Ends the comparison of a pair, which is walked next if there may be differences below it.
    fn compared(&mut self, pair: [Option<Node>; 2], aspects: Vec<Aspect>) -> Option<Change> {
        let path = pair.iter().flatten().next()?.path.clone();
        // Below the top of the subtree there is one name for each level.
        let mut names: Vec<_> = path.rsplit(|&b| b == b'/').take(self.levels.len()).collect();
        names.reverse();
        let names = names.into_iter().map(<[u8]>::to_vec).collect();
        self.position = Some(After { root: self.begun, names });
        let is_changed = pair.iter().any(Option::is_none) || !aspects.is_empty();
        let [before, after] = &pair;
        let change = is_changed.then(|| Change {
            path,
            before: before.clone(),
            after: after.clone(),
            aspects,
        });
        let directories = pair.map(directory);
        if directories.iter().any(Option::is_some) && !self.is_same(&directories) {
            if let Some(level) = self.levels.last_mut() {
                if self.waiting + level.page.bytes > PAGE_BYTES {
                    (level.page, level.size) = (Page::default(), PAGE_FIRST);
                }
                self.waiting += level.page.bytes;
            }
            self.levels.push(Level::new(directories, Vec::new()));
        }
        change
    }

    /// The unified diff of a regular file whose content came, went or changed, if both sides are text
    /// of at most `max` bytes; otherwise a line that says that they differ. `None`: the change is
    /// another one.
    pub fn patch(&self, change: &Change, max: u64) -> Result<Option<Vec<u8>>> {
        let has_changed = |aspect: &Aspect| matches!(aspect, Aspect::Content | Aspect::Type);
        if !change.aspects.is_empty() && !change.aspects.iter().any(has_changed) {
            return Ok(None);
        }
        let sides = [&change.before, &change.after];
        let is_file = |node: &&Node| node.entry.kind == Kind::Regular;
        let files = sides.map(|node| node.as_ref().filter(is_file));
        if files.iter().all(Option::is_none) {
            return Ok(None);
        }
        let mut texts = [None, None];
        for ((image, file), text) in self.images.iter().zip(files).zip(&mut texts) {
            let Some(file) = file else { continue };
            let mut content = Vec::new();
            if file.entry.size <= max {
                content.resize(file.entry.size as usize, 0);
                image.read(file, 0, &mut content)?;
            }
            if file.entry.size > max || !is_text(&content) {
                return Ok(Some(binary(&change.path).into_bytes()));
            }
            *text = Some(content);
        }
        let text = unified(&change.path, texts.each_ref().map(Option::as_deref));
        Ok(Some(text.map_err(image::Error::Write)?))
    }

    /// The images, the one before first.
    pub fn images(&self) -> &[Arc<Image>; 2] {
        &self.images
    }

    /// Appends a change as JSON and the end of its line.
    pub fn write_json(&self, change: &Change, buffer: &mut Vec<u8>) {
        let path = [b"/", change.path.as_slice()].concat();
        let side = |image: &Image, node: &Option<Node>| node.as_ref().map(|n| Side::new(image, n));
        let json = ChangeJson {
            change: change.name(),
            path: String::from_utf8_lossy(&path),
            path_bytes: encoded(&path),
            what: change.aspects.iter().map(|aspect| aspect.name()).collect(),
            a: side(&self.images[0], &change.before),
            b: side(&self.images[1], &change.after),
        };
        write_line(buffer, &json);
    }
}

/// Reads `size` names of two directories, of which `shared` layers are the same.
fn read(
    images: &[Arc<Image>; 2],
    shared: usize,
    pair: &[Option<Node>; 2],
    from: &[u8],
    size: usize,
) -> Result<Page> {
    let mut page = Page::default();
    if let [Some(before), Some(after)] = pair
        && before.path == after.path
        && let Some(layers) = other_layers([&before.dirs, &after.dirs], shared)
    {
        let mut before_names = images[0].names_in(before, &layers[0], from)?.peekable();
        let mut after_names = images[1].names_in(after, &layers[1], from)?.peekable();
        while !page.is_full
            && let Some(name) = next(&mut before_names, &mut after_names, |name| name)?
        {
            let ([Some(name), _] | [_, Some(name)]) = name else { break };
            let pair = [images[0].lookup(before, &name)?, images[1].lookup(after, &name)?];
            page.push(name, pair, size);
        }
        return Ok(page);
    }
    let children = |side: usize| match &pair[side] {
        Some(directory) => images[side].children(directory, from).map(Some),
        None => Ok(None),
    };
    let mut before = children(0)?.into_iter().flatten().peekable();
    let mut after = children(1)?.into_iter().flatten().peekable();
    while !page.is_full
        && let Some(pair) = next(&mut before, &mut after, Node::name)?
        && let Some(name) = pair.iter().flatten().next().map(|node| node.name().to_vec())
    {
        page.push(name, pair, size);
    }
    Ok(page)
}

/// Of either directory the layers above those that both images have at their bottom. Only the names
/// in these can differ, if what lies below is the same and not nothing: all have to be looked up.
fn other_layers(dirs: [&[usize]; 2], shared: usize) -> Option<[Vec<usize>; 2]> {
    let split = |dirs: &[usize]| -> (Vec<usize>, Vec<usize>) {
        dirs.iter().partition(|layer| **layer >= shared)
    };
    let [(before, lower), (after, other_lower)] = dirs.map(split);
    (lower == other_lower && !lower.is_empty()).then_some([before, after])
}

/// What has the least name of those that come next on either side.
fn next<T>(
    before: &mut Peekable<impl Iterator<Item = Result<T>>>,
    after: &mut Peekable<impl Iterator<Item = Result<T>>>,
    name: impl Fn(&T) -> &[u8],
) -> Result<Option<[Option<T>; 2]>> {
    let order = match (before.peek(), after.peek()) {
        (None, None) => return Ok(None),
        (Some(Ok(a)), Some(Ok(b))) => name(a).cmp(name(b)),
        // An error ends the walk.
        (Some(Err(_)), _) | (_, None) => Ordering::Less,
        (_, Some(_)) => Ordering::Greater,
    };
    let a = if order.is_le() { before.next().transpose()? } else { None };
    let b = if order.is_ge() { after.next().transpose()? } else { None };
    Ok(Some([a, b]))
}

/// Paths in the order of the walk, without those that lie below others.
fn subtrees(paths: &[Vec<u8>]) -> VecDeque<Vec<u8>> {
    let names = |path: &Vec<u8>| -> Vec<Vec<u8>> {
        let names = path.split(|&b| b == b'/').filter(|name| !matches!(*name, b"" | b"."));
        names.map(<[u8]>::to_vec).collect()
    };
    let mut subtrees: Vec<_> = paths.iter().map(names).collect();
    subtrees.sort_unstable();
    subtrees.dedup_by(|next, kept| next.starts_with(kept));
    subtrees.iter().map(|names| names.join(&b'/')).collect()
}

/// What differs between two nodes, but for their contents.
fn differences(before: &Node, after: &Node) -> Vec<Aspect> {
    let (a, b) = (&before.entry, &after.entry);
    let is_device = |kind| matches!(kind, Kind::Character | Kind::Block);
    let same_kind = a.kind == b.kind;
    let noted = [
        (Aspect::Type, !same_kind),
        (Aspect::Mode, a.mode != b.mode && a.kind != Kind::Symlink),
        (Aspect::Owner, (a.uid, a.gid) != (b.uid, b.gid)),
        (Aspect::Link, same_kind && a.kind == Kind::Symlink && a.link != b.link),
        (Aspect::Device, same_kind && is_device(a.kind) && a.device != b.device),
        (Aspect::Xattrs, sorted(a) != sorted(b)),
    ];
    noted.into_iter().filter(|(_, differs)| *differs).map(|(aspect, _)| aspect).collect()
}

/// Where either of two files of one size has data. Elsewhere both have holes: there may be terabytes
/// of them.
fn data(a: &Entry, b: &Entry) -> VecDeque<Extent> {
    match (&a.sparse, &b.sparse) {
        (Some(a), Some(b)) if a == b => a.iter().copied().collect(),
        (Some(a), Some(b)) => a.iter().chain(b).copied().collect(),
        _ => VecDeque::from([Extent { offset: 0, length: a.size }]),
    }
}

/// Only directories are walked.
fn directory(node: Option<Node>) -> Option<Node> {
    node.filter(Node::is_directory)
}

fn sorted(entry: &Entry) -> Vec<&(Vec<u8>, Vec<u8>)> {
    let mut xattrs: Vec<_> = entry.xattrs.iter().collect();
    xattrs.sort_unstable();
    xattrs
}

#[derive(Serialize)]
struct ChangeJson<'a> {
    change: &'static str,
    path: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_bytes: Option<String>,
    what: Vec<&'static str>,
    a: Option<Side>,
    b: Option<Side>,
}

/// A path in one of the images; the fields are those of a listing.
#[derive(Serialize)]
struct Side {
    r#type: &'static str,
    size: u64,
    mode: u16,
    uid: u32,
    gid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    linkname: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    linkname_bytes: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    major: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    minor: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    layer: Option<String>,
}

impl Side {
    fn new(image: &Image, node: &Node) -> Side {
        let entry = &node.entry;
        let link = (entry.kind == Kind::Symlink).then_some(entry.link.as_slice());
        let device = matches!(entry.kind, Kind::Character | Kind::Block).then_some(entry.device);
        Side {
            r#type: type_name(entry.kind),
            size: entry.size,
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            linkname: link.map(|link| String::from_utf8_lossy(link).into_owned()),
            linkname_bytes: link.and_then(encoded),
            major: device.map(|(major, _)| major),
            minor: device.map(|(_, minor)| minor),
            digest: entry.sha256.map(|hash| Digest::Sha256(hash).to_string()),
            layer: image.layers.get(node.layer).map(|layer| layer.digest.to_string()),
        }
    }
}

impl Answer for Diff {
    fn step(&mut self, lines: &mut Vec<u8>) -> Result<Step<()>> {
        Ok(match self.step()? {
            Step::Hit(change) => {
                self.write_json(&change, lines);
                Step::Hit(())
            }
            Step::Skipped(skipped) => Step::Skipped(skipped),
            Step::Working => Step::Working,
            Step::End => Step::End,
        })
    }

    fn may_pause(&self) -> bool {
        self.bytes.is_none()
    }

    fn position(&self) -> Option<String> {
        let After { root, names } = self.position.as_ref()?;
        let names =
            names.iter().flat_map(|name| [&b"/"[..], &name[..]]).collect::<Vec<_>>().concat();
        Some(format!("{root}{}", url_path(&names)))
    }

    fn looked(&self) -> Looked {
        Looked { images: 2, ..Looked::default() }
    }
}

/// Whether diff(1) would take it for text.
pub fn is_text(content: &[u8]) -> bool {
    !content[..content.len().min(HEAD)].contains(&0)
}

/// The line for files that are not both text.
pub fn binary(path: &[u8]) -> String {
    format!("Binary files a/{0} and b/{0} differ\n", quoted(path))
}

/// The unified diff of the text of a file in two images, either of which may not have it.
pub fn unified(path: &[u8], sides: [Option<&[u8]>; 2]) -> io::Result<Vec<u8>> {
    let [before, after] = sides.map(Option::unwrap_or_default);
    let header = |side: &str, text: Option<&[u8]>| match text {
        Some(_) => format!("{side}/{}", quoted(path)),
        None => "/dev/null".to_owned(),
    };
    let mut text = Vec::new();
    let (a, b) = (header("a", sides[0]), header("b", sides[1]));
    if [before, after].map(|text| memchr::memchr_iter(b'\n', text).count()).iter().sum::<usize>()
        > TEXT_LINES
    {
        writeln!(text, "--- {a}\n+++ {b}")?;
        hunk(before, after, &mut text);
        return Ok(text);
    }
    let mut config = TextDiff::configure();
    config.algorithm(Algorithm::Myers).timeout(TEXT_TIME);
    let lines = config.diff_lines(before, after);
    lines.unified_diff().header(&a, &b).to_writer(&mut text)?;
    Ok(text)
}

/// Appends one hunk with all lines from the first that differs to the last that does.
fn hunk(before: &[u8], after: &[u8], text: &mut Vec<u8>) {
    fn lines(text: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
        text.split_inclusive(|&b| b == b'\n')
    }
    let same = |(a, b): &(&[u8], &[u8])| a == b;
    let above = lines(before).zip(lines(after)).take_while(same).count();
    let start: usize = lines(before).take(above).map(<[u8]>::len).sum();
    let (a, b) = (&before[start..], &after[start..]);
    let below = lines(a).rev().zip(lines(b).rev()).take_while(same);
    let (below, end) = below.fold((0, 0), |(count, end), (line, _)| (count + 1, end + line.len()));
    let (a, b) = (&a[..a.len() - end], &b[..b.len() - end]);
    let (head, tail) = (above.min(CONTEXT), below.min(CONTEXT));
    let range = |text: &[u8]| {
        let length = head + lines(text).count() + tail;
        // The line before, where there is none.
        (above - head + usize::from(length > 0), length)
    };
    let ((from, length), (to, new_length)) = (range(a), range(b));
    text.extend_from_slice(format!("@@ -{from},{length} +{to},{new_length} @@\n").as_bytes());
    let above = lines(before).skip(above - head).take(head);
    let below = lines(&before[before.len() - end..]).take(tail);
    let context = |line| (b' ', line);
    let changed = lines(a).map(|line| (b'-', line)).chain(lines(b).map(|line| (b'+', line)));
    for (sign, line) in above.map(context).chain(changed).chain(below.map(context)) {
        text.push(sign);
        text.extend_from_slice(line);
        if !line.ends_with(b"\n") {
            text.extend_from_slice(b"\n\\ No newline at end of file\n");
        }
    }
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

    fn file(size: u64, extents: Option<&[(u64, u64)]>) -> Entry {
        let extent = |&(offset, length): &(u64, u64)| Extent { offset, length };
        Entry {
            size,
            sparse: extents.map(|extents| extents.iter().map(extent).collect()),
            ..Entry::implicit(Kind::Regular)
        }
    }

    /// patch(1) makes one text from the other, however long they are.
    #[test]
    fn hunks_of_long_texts() {
        let dir = tempfile::tempdir().unwrap();
        for (before, after, want) in [
            ("", "", "@@ -0,0 +0,0 @@\n"),
            ("", "a\nb", "@@ -0,0 +1,2 @@\n+a\n+b\n\\ No newline at end of file\n"),
            ("a\n", "", "@@ -1,1 +0,0 @@\n-a\n"),
            ("1\n2\n3\n4\n5\n", "1\n2\n3\n4\nx\n5\n", "@@ -2,4 +2,5 @@\n 2\n 3\n 4\n+x\n 5\n"),
            ("a\na\n", "a\n", "@@ -1,2 +1,1 @@\n a\n-a\n"),
            ("a", "a\n", "@@ -1,1 +1,1 @@\n-a\n\\ No newline at end of file\n+a\n"),
        ] {
            let mut text = Vec::new();
            hunk(before.as_bytes(), after.as_bytes(), &mut text);
            assert_eq!(String::from_utf8(text).unwrap(), want, "{before:?} {after:?}");
        }
        let lines = |first: &str| format!("{first}\n{}", "x\n".repeat(TEXT_LINES / 2));
        let (before, after) = (lines("a\nb\nc\nd\ne"), lines("a\nb\nc\nd\nnew"));
        let diff = unified(b"file", [Some(before.as_bytes()), Some(after.as_bytes())]).unwrap();
        let want = "--- a/file\n+++ b/file\n@@ -2,7 +2,7 @@\n b\n c\n d\n-e\n+new\n x\n x\n x\n";
        assert_eq!(String::from_utf8(diff).unwrap(), want);
        let (before, after) = (lines("old"), format!("x\n{}\ntail", lines("y").trim_end()));
        let diff = unified(b"file", [Some(before.as_bytes()), Some(after.as_bytes())]).unwrap();
        std::fs::write(dir.path().join("file"), &before).unwrap();
        std::fs::write(dir.path().join("diff"), diff).unwrap();
        let mut patch = std::process::Command::new("patch");
        let status = patch.args(["-s", "-i", "diff"]).current_dir(dir.path()).status().unwrap();
        assert!(status.success());
        assert!(std::fs::read_to_string(dir.path().join("file")).unwrap() == after);
    }

    #[test]
    fn where_data_is() {
        let (some, other) = ([(0, 4), (10, 2)], [(2, 3)]);
        for (a, b, want) in [
            (None, None, vec![(0, 20)]),
            (Some(&some[..]), None, vec![(0, 20)]),
            (Some(&some), Some(&some[..]), vec![(0, 4), (10, 2)]),
            (Some(&some), Some(&other), vec![(0, 4), (10, 2), (2, 3)]),
            (Some(&[]), Some(&[]), vec![]),
        ] {
            let found = data(&file(20, a), &file(20, b));
            let found: Vec<_> = found.iter().map(|e| (e.offset, e.length)).collect();
            assert_eq!(found, want);
        }
    }

    #[test]
    fn subtrees_in_order() {
        for (paths, want) in [
            (vec!["usr", "/etc/"], vec!["etc", "usr"]),
            (vec!["a/b", "a", "a/b/c", "a-b", "./a"], vec!["a", "a-b"]),
            (vec!["a-b", "a/b", "ab"], vec!["a/b", "a-b", "ab"]),
            (vec!["x", "/"], vec![""]),
            (vec!["../a", "a"], vec!["../a", "a"]),
        ] {
            let paths: Vec<Vec<u8>> = paths.into_iter().map(|path| path.into()).collect();
            assert_eq!(
                subtrees(&paths),
                want.iter().map(|path| path.as_bytes()).collect::<Vec<_>>()
            );
        }
    }

    #[test]
    fn layers_that_differ() {
        for (before, after, want) in [
            (&[1, 0][..], &[3, 2, 1, 0][..], Some([vec![], vec![3, 2]])),
            (&[1, 0], &[1, 0], Some([vec![], vec![]])),
            // One hides a layer.
            (&[2, 0], &[2, 1, 0], None),
            // Nothing could be left out.
            (&[2], &[3], None),
        ] {
            assert_eq!(other_layers([before, after], 2), want);
        }
    }
}
