//! What an image ships and does not show, and what it has twice.
//!
//! All rows of all layers are looked at once, path by path. The bytes of a file count once for its
//! inode, whatever number of names it has in its layer, and only what a sparse file stores.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, HashSet};
use std::sync::Arc;

use serde::de::Error as _;
use serde::{Deserialize, Serialize};

use super::find::{After, Place, place};
use super::{Answer, Indexed, Looked, Permitted, Scope, Skipped, Step, write_line};
use crate::image::listing::{decoded, encoded, url_path};
use crate::image::{Entry, Error, Image, Images, Kind, Node, Opened, Result};
use crate::oci::{Digest, Reference};

/// Paths and contents that a report lists at most.
pub const WORST_MAX: u16 = 10_000;
/// Paths that one step looks at.
const STEP: usize = 4096;
/// What contents may take in memory that are compared with each other. An image with more has more
/// duplicates than it says.
const CONTENTS_BYTES: usize = 64 << 20;
/// What files with several names may take.
const LINKED_BYTES: usize = 64 << 20;
/// What either takes besides its path, about.
const EACH: usize = 128;
/// Entries of a config's history that are read.
const HISTORY: usize = 1000;
/// Characters shown of the command that made a layer.
const CREATED_BY: usize = 200;

/// What a layer of an image wastes.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct LayerWaste {
    pub digest: String,
    /// The line of the history that made it.
    pub created_by: Option<String>,
    /// Bytes of files.
    pub size: u64,
    /// Bytes as transferred.
    pub transferred: u64,
    /// Bytes of files that the image does not show, and what of the transfer they are.
    pub wasted: u64,
    pub wasted_transferred: u64,
}

/// A path with files that the image does not show.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PathWaste {
    pub wasted: u64,
    pub path: Vec<u8>,
    /// Layers that ship a file there which the image does not show, as places in the image.
    pub layers: Vec<usize>,
    /// The image has nothing at this path.
    pub deleted: bool,
}

/// A content that several files have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duplicate {
    /// Bytes beyond those of one of the files.
    pub wasted: u64,
    pub files: u64,
    pub content: [u8; 32],
    /// One of them.
    pub path: Vec<u8>,
}

/// The sums over an image.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Totals {
    /// Bytes of files in all layers, and bytes as transferred.
    pub size: u64,
    pub transferred: u64,
    /// Bytes of files that the image does not show.
    pub wasted: u64,
    pub wasted_transferred: u64,
    /// Bytes of files that the image shows more than once, beyond the first.
    pub duplicate: u64,
    /// Of each file that the image shows the smallest that any layer has at its path, beside all
    /// files. Between 0 and 1.
    pub efficiency: f64,
    /// `wasted` in percent of `size`.
    pub wasted_percent: f64,
}

/// The answer.
#[derive(Clone, Debug)]
pub struct Report {
    pub totals: Totals,
    /// Base first.
    pub layers: Vec<LayerWaste>,
    /// The worst first.
    pub paths: Vec<PathWaste>,
    pub duplicates: Vec<Duplicate>,
}

/// An inode with several names in its layer.
struct Linked {
    bytes: u64,
    /// The first name that the image shows as this inode, or else the first of all.
    path: Vec<u8>,
    content: Option<[u8; 32]>,
    is_shown: bool,
    /// The smallest file that any layer has at the first name that is shown.
    smallest: Option<u64>,
    /// The image has nothing at the first name.
    deleted: bool,
}

/// The work on the report of an image.
pub struct Waste {
    /// What the report calls the image.
    name: String,
    image: Arc<Image>,
    source: Arc<Images>,
    /// The paths that are listed, at most.
    worst: usize,
    at: Option<Place>,
    layers: Vec<LayerWaste>,
    linked: HashMap<(usize, u64), Linked>,
    linked_bytes: usize,
    /// Inodes that other layers' hard links show.
    shown_by_links: HashSet<(usize, u64)>,
    paths: BinaryHeap<Reverse<PathWaste>>,
    /// Size, number of files and a path.
    contents: HashMap<[u8; 32], (u64, u64, Vec<u8>)>,
    contents_bytes: usize,
    smallest: u64,
    report: Option<Report>,
    /// Entries of layers that are looked at.
    done: u64,
}

impl std::fmt::Debug for Waste {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waste").field("image", &self.image).finish_non_exhaustive()
    }
}

/// Bytes that a regular file takes in its layer.
fn stored(entry: &Entry) -> u64 {
    match &entry.sparse {
        Some(extents) => extents.iter().map(|extent| extent.length).sum(),
        None => entry.size,
    }
}

/// The commands that made the layers, base first.
fn history(json: &[u8]) -> Vec<String> {
    #[derive(Deserialize)]
    struct Config {
        #[serde(default)]
        history: Vec<Line>,
    }
    #[derive(Deserialize)]
    struct Line {
        created_by: Option<String>,
        comment: Option<String>,
        #[serde(default)]
        empty_layer: bool,
    }
    // A config without a usable history says nothing of its layers.
    let Ok(config) = serde_json::from_slice::<Config>(json) else { return Vec::new() };
    let lines = config.history.into_iter().take(HISTORY).filter(|line| !line.empty_layer);
    let text = |line: Line| line.created_by.or(line.comment).unwrap_or_default();
    lines.map(|line| text(line).chars().take(CREATED_BY).collect()).collect()
}

impl Waste {
    /// Lists at most `worst` paths and as many contents. `name` is what the report calls the image.
    pub fn new(source: &Arc<Images>, image: Arc<Image>, name: String, worst: u16) -> Result<Waste> {
        let lines = source.config(&image.repository, &image.config, |bytes| history(&bytes));
        // The config may be missing or damaged, which the image's warnings tell.
        let lines = lines.ok().flatten().unwrap_or_default();
        // A history of another length says nothing of these layers.
        let lines = if lines.len() == image.layers.len() { lines } else { Vec::new() };
        let layer = |(number, layer): (usize, &Arc<crate::index::IndexedLayer>)| LayerWaste {
            digest: layer.digest.to_string(),
            created_by: lines.get(number).cloned(),
            size: 0,
            transferred: layer.record.compressed,
            wasted: 0,
            wasted_transferred: 0,
        };
        let layers = image.layers.iter().enumerate().map(layer).collect();
        let mut shown_by_links = HashSet::new();
        for layer in image.layers.iter().filter(|layer| layer.record.cross_layer_links > 0) {
            for path in source.layers().index().cross_layer_links(layer.record.number) {
                // Another layer may have something else there by now.
                if let Some(node) = image.visible(&path?)?
                    && node.entry.kind == Kind::Regular
                {
                    shown_by_links.insert((node.layer, node.entry.inode));
                }
            }
        }
        Ok(Waste {
            name,
            source: Arc::clone(source),
            worst: worst.into(),
            at: None,
            layers,
            linked: HashMap::new(),
            linked_bytes: 0,
            shown_by_links,
            paths: BinaryHeap::new(),
            contents: HashMap::new(),
            contents_bytes: 0,
            smallest: 0,
            report: None,
            done: 0,
            image,
        })
    }

    /// Does all of the work.
    pub fn report(mut self) -> Result<Report> {
        loop {
            if let Some(report) = self.advance()? {
                return Ok(report);
            }
        }
    }

    /// Looks at the next paths; returns the report at the end.
    pub fn advance(&mut self) -> Result<Option<Report>> {
        let (image, source) = (Arc::clone(&self.image), Arc::clone(&self.source));
        let after = self.at.as_ref().map(|(_, path)| &**path);
        let mut rows: Vec<_> = image
            .layers
            .iter()
            .map(|layer| source.layers().index().entries(layer.record.number, after))
            .collect();
        let mut heads = BinaryHeap::new();
        let mut next: Vec<Option<Entry>> = vec![None; rows.len()];
        for number in 0..rows.len() {
            if let Some(row) = rows[number].next() {
                let (path, entry) = row?;
                heads.push(Reverse((place(&path), number)));
                next[number] = Some(entry);
            }
        }
        let mut looked = 0;
        while let Some(Reverse((at, first))) = heads.pop() {
            let mut files = Vec::new();
            let mut same = Some(first);
            while let Some(number) = same {
                self.done += 1;
                if let Some(entry) = next[number].take().filter(|e| e.kind == Kind::Regular) {
                    files.push((number, entry));
                }
                if let Some(row) = rows[number].next() {
                    let (path, entry) = row?;
                    heads.push(Reverse((place(&path), number)));
                    next[number] = Some(entry);
                }
                same = match heads.peek() {
                    Some(Reverse((place, number))) if *place == at => Some(*number),
                    _ => None,
                };
                if same.is_some() {
                    heads.pop();
                }
            }
            if !files.is_empty() {
                self.path(&at.1, files)?;
            }
            self.at = Some(at);
            looked += 1;
            if looked == STEP && !heads.is_empty() {
                return Ok(None);
            }
        }
        Ok(Some(self.finish()))
    }

    /// Counts the files that layers have at a path, base first.
    fn path(&mut self, path: &[u8], files: Vec<(usize, Entry)>) -> Result<()> {
        let node = self.image.visible(path)?;
        let least = files.iter().map(|(_, entry)| stored(entry)).min().unwrap_or(0);
        let mut wasted = PathWaste {
            wasted: 0,
            path: path.to_vec(),
            layers: Vec::new(),
            deleted: node.is_none(),
        };
        for (layer, entry) in files {
            let inode = (layer, entry.inode);
            let is_this = |node: &Node| {
                node.entry.kind == Kind::Regular && (node.layer, node.entry.inode) == inode
            };
            let smallest = node.as_ref().is_some_and(is_this).then_some(least);
            let is_shown = smallest.is_some() || self.shown_by_links.contains(&inode);
            let bytes = stored(&entry);
            if entry.links > 1 {
                let linked = Linked {
                    bytes,
                    path: path.to_vec(),
                    content: entry.sha256,
                    is_shown,
                    smallest,
                    deleted: node.is_none(),
                };
                self.linked(inode, linked)?;
                continue;
            }
            self.layers[layer].size += bytes;
            if is_shown {
                self.smallest += smallest.unwrap_or(bytes);
                self.shown(path, bytes, entry.sha256);
            } else {
                self.layers[layer].wasted += bytes;
                wasted.wasted += bytes;
                wasted.layers.push(layer);
            }
        }
        self.keep(wasted);
        Ok(())
    }

    /// Counts an inode with several names by the first of them. Whether it is shown is known after
    /// the last.
    fn linked(&mut self, inode: (usize, u64), name: Linked) -> Result<()> {
        if let Some(linked) = self.linked.get_mut(&inode) {
            linked.is_shown |= name.is_shown;
            if linked.smallest.is_none() && name.smallest.is_some() {
                (linked.smallest, linked.path) = (name.smallest, name.path);
            }
            return Ok(());
        }
        self.linked_bytes += name.path.len() + EACH;
        if self.linked_bytes > LINKED_BYTES {
            return Err(Error::LinkedFiles { image: self.image.to_string(), max: LINKED_BYTES });
        }
        self.layers[inode.0].size += name.bytes;
        self.linked.insert(inode, name);
        Ok(())
    }

    fn shown(&mut self, path: &[u8], bytes: u64, content: Option<[u8; 32]>) {
        let Some(content) = content.filter(|_| bytes > 0) else { return };
        if let Some((_, files, _)) = self.contents.get_mut(&content) {
            *files += 1;
        } else if self.contents_bytes < CONTENTS_BYTES {
            self.contents_bytes += path.len() + EACH;
            self.contents.insert(content, (bytes, 1, path.to_vec()));
        }
    }

    /// Keeps a path if it is among the worst.
    fn keep(&mut self, path: PathWaste) {
        if path.wasted > 0 {
            self.paths.push(Reverse(path));
            if self.paths.len() > self.worst {
                self.paths.pop();
            }
        }
    }

    fn finish(&mut self) -> Report {
        let mut linked: Vec<_> = std::mem::take(&mut self.linked).into_iter().collect();
        linked.sort_unstable_by_key(|(inode, _)| *inode);
        for ((layer, _), linked) in linked {
            let Linked { bytes, path, content, is_shown, smallest, deleted } = linked;
            if is_shown {
                self.smallest += smallest.unwrap_or(bytes);
                self.shown(&path, bytes, content);
            } else {
                self.layers[layer].wasted += bytes;
                self.keep(PathWaste { wasted: bytes, path, layers: vec![layer], deleted });
            }
        }
        for (layer, waste) in self.image.layers.iter().zip(&mut self.layers) {
            let record = &layer.record;
            let share = waste.wasted as f64 / record.uncompressed.max(1) as f64;
            waste.wasted_transferred = (record.compressed as f64 * share) as u64;
        }
        let sum = |of: fn(&LayerWaste) -> u64| self.layers.iter().map(of).sum::<u64>();
        let (size, wasted) = (sum(|layer| layer.size), sum(|layer| layer.wasted));
        let ratio = |part: u64| if size == 0 { 1.0 } else { part as f64 / size as f64 };
        let contents = std::mem::take(&mut self.contents).into_iter();
        let twice = contents.filter(|(_, (_, files, _))| *files > 1);
        let mut duplicate = 0;
        let mut duplicates = BTreeSet::new();
        for (content, (bytes, files, path)) in twice {
            let wasted = bytes * (files - 1);
            duplicate += wasted;
            duplicates.insert(Duplicate { wasted, files, content, path });
            if duplicates.len() > self.worst {
                duplicates.pop_first();
            }
        }
        let mut paths: Vec<_> = self.paths.drain().map(|Reverse(path)| path).collect();
        // The worst first, and then by path.
        paths.sort_by(|a, b| (Reverse(a.wasted), &a.path).cmp(&(Reverse(b.wasted), &b.path)));
        Report {
            totals: Totals {
                size,
                transferred: sum(|layer| layer.transferred),
                wasted,
                wasted_transferred: sum(|layer| layer.wasted_transferred),
                duplicate,
                efficiency: ratio(self.smallest),
                wasted_percent: if size == 0 { 0.0 } else { 100.0 * ratio(wasted) },
            },
            layers: std::mem::take(&mut self.layers),
            paths,
            duplicates: duplicates.into_iter().rev().collect(),
        }
    }
}

#[derive(Serialize)]
struct ReportJson<'a> {
    image: String,
    #[serde(flatten)]
    totals: &'a Totals,
    layers: &'a [LayerWaste],
    paths: Vec<PathJson>,
    duplicates: Vec<DuplicateJson>,
}

#[derive(Deserialize, Serialize)]
struct PathJson {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_bytes: Option<String>,
    wasted: u64,
    deleted: bool,
    layers: Vec<String>,
}

#[derive(Deserialize, Serialize)]
struct DuplicateJson {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_bytes: Option<String>,
    digest: String,
    files: u64,
    wasted: u64,
}

impl Report {
    /// Parses what [`Report::write_json`] has written: returns the name of the image, and its report.
    pub fn parse(json: &[u8]) -> serde_json::Result<(String, Report)> {
        #[derive(Deserialize)]
        struct Json {
            image: String,
            #[serde(flatten)]
            totals: Totals,
            layers: Vec<LayerWaste>,
            paths: Vec<PathJson>,
            duplicates: Vec<DuplicateJson>,
        }
        let Json { image, totals, layers, paths, duplicates } = serde_json::from_slice(json)?;
        let relative = |path, bytes| {
            let path = decoded(path, bytes);
            path.strip_prefix(b"/").unwrap_or(&path).to_vec()
        };
        let paths = paths.into_iter().map(|path| PathWaste {
            wasted: path.wasted,
            path: relative(path.path, path.path_bytes),
            layers: (0..layers.len())
                .filter(|&place| path.layers.contains(&layers[place].digest))
                .collect(),
            deleted: path.deleted,
        });
        let paths = paths.collect();
        let duplicates = duplicates.into_iter().map(|duplicate| {
            let content = match duplicate.digest.parse() {
                Ok(Digest::Sha256(content)) => content,
                _ => return Err(serde_json::Error::custom("a digest is not sha256")),
            };
            Ok(Duplicate {
                wasted: duplicate.wasted,
                files: duplicate.files,
                content,
                path: relative(duplicate.path, duplicate.path_bytes),
            })
        });
        let duplicates = duplicates.collect::<serde_json::Result<_>>()?;
        Ok((image, Report { totals, layers, paths, duplicates }))
    }

    /// Appends the report of `image` as JSON and the end of its line.
    pub fn write_json(&self, image: &str, buffer: &mut Vec<u8>) {
        let absolute = |path: &[u8]| [b"/", path].concat();
        let text = |path: &[u8]| String::from_utf8_lossy(&absolute(path)).into_owned();
        let paths = self.paths.iter().map(|path| PathJson {
            path: text(&path.path),
            path_bytes: encoded(&absolute(&path.path)),
            wasted: path.wasted,
            deleted: path.deleted,
            layers: path.layers.iter().map(|&at| self.layers[at].digest.clone()).collect(),
        });
        let duplicates = self.duplicates.iter().map(|duplicate| DuplicateJson {
            path: text(&duplicate.path),
            path_bytes: encoded(&absolute(&duplicate.path)),
            digest: Digest::Sha256(duplicate.content).to_string(),
            files: duplicate.files,
            wasted: duplicate.wasted,
        });
        let json = ReportJson {
            image: image.to_owned(),
            totals: &self.totals,
            layers: &self.layers,
            paths: paths.collect(),
            duplicates: duplicates.collect(),
        };
        write_line(buffer, &json);
    }
}

impl Answer for Waste {
    fn step(&mut self, lines: &mut Vec<u8>) -> Result<Step<()>> {
        if self.report.is_some() {
            return Ok(Step::End);
        }
        let Some(report) = self.advance()? else { return Ok(Step::Working) };
        report.write_json(&self.name, lines);
        self.report = Some(report);
        Ok(Step::Hit(()))
    }

    /// What is known of an image half way is too much to be told.
    fn may_pause(&self) -> bool {
        self.report.is_some()
    }

    fn position(&self) -> Option<String> {
        None
    }

    fn looked(&self) -> Looked {
        Looked { images: 1, ..Looked::default() }
    }

    fn progress(&self) -> Option<(u64, u64)> {
        let total = self.image.layers.iter().map(|layer| layer.record.entries).sum();
        Some((self.done.min(total), total))
    }
}

/// Reports on all images of a scope, in the order of their names.
pub struct All {
    source: Arc<Images>,
    scope: super::Images,
    asked: (Scope, Permitted),
    worst: u16,
    /// Where an earlier answer ended.
    after: Option<After>,
    is_continued: bool,
    current: Option<Waste>,
    /// The image that was reported on last.
    position: Option<String>,
    looked: Looked,
    indexed: Indexed,
}

impl std::fmt::Debug for All {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("All").field("scope", &self.asked.0).finish_non_exhaustive()
    }
}

impl All {
    pub fn new(
        source: &Arc<Images>,
        scope: &Scope,
        permitted: &Permitted,
        worst: u16,
        after: Option<After>,
    ) -> Result<All> {
        let index = source.layers().index();
        if index.is_following() {
            index.catch_up()?;
        }
        let from = after.as_ref().map(|after| &after.repository);
        Ok(All {
            source: Arc::clone(source),
            scope: super::Images::new(source, scope, permitted, from, None)?,
            asked: (scope.clone(), Arc::clone(permitted)),
            worst,
            is_continued: after.is_some(),
            after,
            current: None,
            position: None,
            looked: Looked::default(),
            indexed: Indexed::default(),
        })
    }

    /// Does a bounded piece of work; a hit is the name of an image and its report.
    pub fn step(&mut self) -> Result<Step<(String, Report)>> {
        if let Some(mut waste) = self.current.take() {
            return Ok(match waste.advance() {
                Ok(None) => {
                    self.current = Some(waste);
                    Step::Working
                }
                Ok(Some(report)) => {
                    self.position = Some(waste.name.clone());
                    Step::Hit((waste.name, report))
                }
                Err(error) => Step::Skipped(Skipped::new(waste.name, error)),
            });
        }
        let named = match self.scope.next_image()? {
            None => {
                if self.is_continued {
                    let (scope, permitted) = &self.asked;
                    Indexed::count_all(&self.source, scope, permitted, &mut self.looked)?;
                }
                return Ok(Step::End);
            }
            Some(Err(skipped)) => return Ok(Step::Skipped(skipped)),
            Some(Ok(named)) => named,
        };
        if let Some(after) = &self.after {
            if after.is_behind(&named) {
                return Ok(Step::Working);
            }
            let is_at = after.is_at(&named);
            self.after = None;
            if is_at {
                return Ok(Step::Working);
            }
        }
        if self.indexed.waits(&self.source, &named, &mut self.looked)? {
            return Ok(Step::Working);
        }
        let name = named.to_string();
        let reference = Reference::Digest(named.member.manifest);
        let begun = match self.source.open_in(&named.repository, &reference, None) {
            Ok(Opened::Image(image)) => Waste::new(&self.source, image, name.clone(), self.worst),
            Ok(Opened::Layer(_) | Opened::Artifact(_)) => return Ok(Step::Working),
            // It may have been deleted meanwhile.
            Err(Error::Storage(error)) if error.is_unknown() => return Ok(Step::Working),
            Err(error) => Err(error),
        };
        Ok(match begun {
            Ok(waste) => {
                self.looked.images += 1;
                self.current = Some(waste);
                Step::Working
            }
            Err(error) => Step::Skipped(Skipped::new(name, error)),
        })
    }

    pub fn looked(&self) -> Looked {
        self.looked
    }
}

impl Answer for All {
    fn step(&mut self, lines: &mut Vec<u8>) -> Result<Step<()>> {
        Ok(match self.step()? {
            Step::Hit((name, report)) => {
                report.write_json(&name, lines);
                Step::Hit(())
            }
            Step::Skipped(skipped) => Step::Skipped(skipped),
            Step::Working => Step::Working,
            Step::End => Step::End,
        })
    }

    fn may_pause(&self) -> bool {
        self.current.is_none()
    }

    fn position(&self) -> Option<String> {
        self.position.as_ref().map(|name| url_path(name.as_bytes()))
    }

    fn looked(&self) -> Looked {
        self.looked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_history() {
        let json =
            br#"{"history": [{"created_by": "ADD x"}, {"created_by": "ENV", "empty_layer": true},
            {"comment": "by hand"}, {}]}"#;
        assert_eq!(history(json), ["ADD x", "by hand", ""]);
        for json in [&b"{}"[..], b"", b"[]", br#"{"history": 1}"#] {
            assert_eq!(history(json), [""; 0]);
        }
    }
}
