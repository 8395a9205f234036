//! What differs between two images.
//!
//! Two merged views are walked side by side, one directory at a time. Layers that both images have
//! at their bottom look the same in both, so a directory to which only these contribute is not
//! walked.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use super::{Answer, Looked, Step, write_line};
use crate::image::listing::{encoded, type_name, url_path};
use crate::image::{self, At, Entry, Extent, Image, Kind, Node, Result};
use crate::oci::Digest;

/// Pairs of children read at a time. The rest of them is dropped when the walk goes down, so it
/// starts with few.
const PAGE_FIRST: usize = 4;
const PAGE_MAX: usize = 256;
/// Bytes compared at a time where there is no digest.
const PIECE: usize = 1 << 20;

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
#[derive(Clone, Debug)]
struct Level {
    pair: [Option<Node>; 2],
    /// The least name that is still to come; `None`: there is none.
    from: Option<Vec<u8>>,
}

/// The differences of two images, directories before what they hold, names in order.
pub struct Diff {
    images: [Arc<Image>; 2],
    /// Layers that both images have at their bottom.
    shared: usize,
    levels: Vec<Level>,
    /// Read ahead in the last level.
    page: VecDeque<[Option<Node>; 2]>,
    size: usize,
    /// Subtrees to come.
    roots: VecDeque<Vec<u8>>,
    position: Option<Vec<u8>>,
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
        let roots =
            if paths.is_empty() { VecDeque::from([Vec::new()]) } else { paths.to_vec().into() };
        Ok(Diff {
            images,
            shared,
            levels: Vec::new(),
            page: VecDeque::new(),
            size: PAGE_FIRST,
            roots,
            position: None,
        })
    }

    /// Goes on after `path`, with which an earlier answer ended. It need not exist. For a comparison
    /// of whole images.
    pub fn after(mut self, path: &[u8]) -> Result<Diff> {
        self.roots.clear();
        let [before, after] = [&self.images[0], &self.images[1]];
        let mut pair = [Some(before.root().clone()), Some(after.root().clone())];
        for name in path.split(|&b| b == b'/').filter(|name| !name.is_empty()) {
            let mut children = [None, None];
            for ((image, directory), child) in self.images.iter().zip(&pair).zip(&mut children) {
                if let Some(directory) = directory {
                    *child = image.lookup(directory, name)?;
                }
            }
            self.levels.push(Level { pair, from: Some([name, b"\0"].concat()) });
            pair = children.map(directory);
        }
        if pair.iter().any(Option::is_some) && !self.is_same(&pair) {
            self.levels.push(Level { pair, from: Some(Vec::new()) });
        }
        Ok(self)
    }

    /// Whether only layers that both images have at their bottom contribute to both directories.
    fn is_same(&self, pair: &[Option<Node>; 2]) -> bool {
        let [Some(before), Some(after)] = pair else { return false };
        before.dirs == after.dirs && before.dirs.iter().all(|&layer| layer < self.shared)
    }

    /// Does a bounded piece of work.
    pub fn step(&mut self) -> Result<Step<Change>> {
        let Some(level) = self.levels.last_mut() else {
            let Some(root) = self.roots.pop_front() else { return Ok(Step::End) };
            let pair = [at(&self.images[0], &root)?, at(&self.images[1], &root)?];
            return Ok(self.look(pair)?.map_or(Step::Working, Step::Hit));
        };
        if let Some(pair) = self.page.pop_front() {
            if let Some(node) = pair.iter().flatten().next() {
                level.from = Some([node.name(), b"\0"].concat());
            }
            return Ok(self.look(pair)?.map_or(Step::Working, Step::Hit));
        }
        let Some(from) = level.from.take() else {
            self.levels.pop();
            self.size = PAGE_FIRST;
            return Ok(Step::Working);
        };
        let mut sides = [None, None];
        for ((image, directory), side) in self.images.iter().zip(&level.pair).zip(&mut sides) {
            if let Some(directory) = directory {
                *side = Some(image.children(directory, &from)?.peekable());
            }
        }
        let [mut before, mut after] = sides;
        while self.page.len() < self.size {
            let names = [&mut before, &mut after].map(|side| {
                let next = side.as_mut()?.peek()?;
                // An error comes before every name.
                Some(next.as_ref().map_or(Vec::new(), |node| node.name().to_vec()))
            });
            let Some(least) = names.iter().flatten().min() else { break };
            let mut pair = [None, None];
            for (number, side) in [&mut before, &mut after].into_iter().enumerate() {
                if names[number].as_ref() == Some(least)
                    && let Some(next) = side.as_mut().and_then(Iterator::next)
                {
                    pair[number] = Some(next?);
                }
            }
            self.page.push_back(pair);
        }
        if self.page.len() == self.size {
            // There may be more; `from` is set when the last of these is taken.
            level.from = Some(Vec::new());
        }
        self.size = (2 * self.size).min(PAGE_MAX);
        Ok(Step::Working)
    }

    /// Compares a pair, which is walked next if there may be differences below it.
    fn look(&mut self, pair: [Option<Node>; 2]) -> Result<Option<Change>> {
        let Some(path) = pair.iter().flatten().next().map(|node| node.path.clone()) else {
            return Ok(None);
        };
        let aspects = match &pair {
            [Some(before), Some(after)] => self.aspects(before, after)?,
            _ => Vec::new(),
        };
        self.position = Some(path.clone());
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
            self.page.clear();
            self.size = PAGE_FIRST;
            self.levels.push(Level { pair: directories, from: Some(Vec::new()) });
        }
        Ok(change)
    }

    fn aspects(&self, before: &Node, after: &Node) -> Result<Vec<Aspect>> {
        let (a, b) = (&before.entry, &after.entry);
        let is_one_row = before.layer == after.layer
            && before.layer < self.shared
            && a.inode == b.inode
            && !before.is_directory();
        if is_one_row {
            return Ok(Vec::new());
        }
        let mut aspects = Vec::new();
        let mut note = |aspect, differs| {
            if differs {
                aspects.push(aspect);
            }
        };
        let is_device = |kind| matches!(kind, Kind::Character | Kind::Block);
        note(Aspect::Type, a.kind != b.kind);
        note(Aspect::Mode, a.mode != b.mode && a.kind != Kind::Symlink);
        note(Aspect::Owner, (a.uid, a.gid) != (b.uid, b.gid));
        note(Aspect::Link, a.kind == b.kind && a.kind == Kind::Symlink && a.link != b.link);
        note(Aspect::Device, a.kind == b.kind && is_device(a.kind) && a.device != b.device);
        note(Aspect::Xattrs, sorted(a) != sorted(b));
        if a.kind == Kind::Regular
            && b.kind == Kind::Regular
            && self.content_differs(before, after)?
        {
            aspects.insert(0, Aspect::Content);
        }
        Ok(aspects)
    }

    fn content_differs(&self, before: &Node, after: &Node) -> Result<bool> {
        let (a, b) = (&before.entry, &after.entry);
        if let (Some(a), Some(b)) = (&a.sha256, &b.sha256) {
            return Ok(a != b);
        }
        // Holes of terabytes have no digest, and cannot be read in a reasonable time: maps of holes
        // that differ count as contents that differ.
        if a.size != b.size || a.sparse != b.sparse {
            return Ok(true);
        }
        let whole = [Extent { offset: 0, length: a.size }];
        let mut buffers = [vec![0; PIECE], vec![0; PIECE]];
        for extent in a.sparse.as_deref().unwrap_or(&whole) {
            let mut done = 0;
            while done < extent.length {
                let length = (extent.length - done).min(PIECE as u64) as usize;
                let offset = extent.offset + done;
                let [first, second] = &mut buffers;
                self.images[0].read(before, offset, &mut first[..length])?;
                self.images[1].read(after, offset, &mut second[..length])?;
                if first[..length] != second[..length] {
                    return Ok(true);
                }
                done += length as u64;
            }
        }
        Ok(false)
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
    digest: Option<String>,
    layer: Option<String>,
}

impl Side {
    fn new(image: &Image, node: &Node) -> Side {
        let entry = &node.entry;
        let link = (entry.kind == Kind::Symlink).then(|| String::from_utf8_lossy(&entry.link));
        Side {
            r#type: type_name(entry.kind),
            size: entry.size,
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            linkname: link.map(Cow::into_owned),
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

    fn position(&self) -> Option<String> {
        self.position.as_deref().map(|path| url_path(&[b"/", path].concat()))
    }

    fn looked(&self) -> Looked {
        Looked { images: 2, ..Looked::default() }
    }
}
