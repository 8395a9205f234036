//! Files by their names, contents and attributes, in all images.
//!
//! A layer's rows say which paths may match, once for all images that have the layer; the merged
//! view of each image decides. The hits of an image come nearest the root first, then by path.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use quick_cache::Weighter;
use quick_cache::unsync::Cache;
use serde::Serialize;

use super::narrow::{Narrow, count_waiting};
use super::{Answer, Glob, Images, InScope, Indexed, Looked, Permitted, Scope, Skipped, Step};
use crate::image::listing::{encoded, type_name, url_path};
use crate::image::{self, Entry, Image, Kind, Node, Opened, Platform, Time};
use crate::index::IndexedLayer;
use crate::oci::{Digest, Reference, Repository, Tag};

/// Rows of a layer that one step looks at, and matches that it takes.
const ROWS: usize = 16 << 10;
const MATCHES: usize = 1 << 10;
/// Bytes of the matches of one layer that are kept for the next image that has it, and of all.
const KEPT_EACH: u64 = 4 << 20;
const KEPT: u64 = 64 << 20;

/// What files are looked for: those that are all of this.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// The last component of the path.
    pub name: Option<Glob>,
    /// The whole path, from a slash on.
    pub path: Option<Glob>,
    /// The sha256 of a regular file's content: one of these.
    pub contents: HashSet<[u8; 32]>,
    pub kind: Option<FileType>,
    pub mode: Option<Mode>,
    /// Of regular files only.
    pub size: Option<Size>,
    /// Changed after this time.
    pub newer: Option<Time>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// The name of an extended attribute.
    pub xattr: Option<Glob>,
    /// What a layer ships and its image does not show, instead of what the image shows.
    pub deleted: bool,
}

/// A type of files: `f`, `d`, `l`, `c`, `b` or `p`, as find(1) has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileType(Kind);

/// Permission bits: all of `-MODE`, any of `/MODE`, or exactly `MODE`, in octal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    All(u16),
    Any(u16),
    Exactly(u16),
}

/// Bytes: more than `+N`, less than `-N`, or exactly `N`, with `k`, `M` or `G` for powers of 1024.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    More(u64),
    Less(u64),
    Exactly(u64),
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum WantedError {
    #[error("{0:?} is not a type of files: f, d, l, c, b and p are")]
    Type(String),
    #[error("{0:?} is not a mode: want octal digits up to 7777, as in 644, -4000 or /6000")]
    Mode(String),
    #[error("{0:?} is not a size: want a number of bytes, as in 100, +10M or -4k")]
    Size(String),
    #[error("{0:?} is not a time: want a day, as 2026-01-31, or a time, as 2026-01-31T12:00:00Z")]
    Time(String),
}

impl FromStr for FileType {
    type Err = WantedError;

    fn from_str(text: &str) -> Result<FileType, WantedError> {
        Ok(FileType(match text {
            "f" => Kind::Regular,
            "d" => Kind::Directory,
            "l" => Kind::Symlink,
            "c" => Kind::Character,
            "b" => Kind::Block,
            "p" => Kind::Fifo,
            _ => return Err(WantedError::Type(text.to_owned())),
        }))
    }
}

impl FromStr for Mode {
    type Err = WantedError;

    fn from_str(text: &str) -> Result<Mode, WantedError> {
        let (kind, digits): (fn(u16) -> Mode, _) = match text.as_bytes() {
            [b'-', ..] => (Mode::All, &text[1..]),
            [b'/', ..] => (Mode::Any, &text[1..]),
            _ => (Mode::Exactly, text),
        };
        let valid = digits.bytes().all(|digit| digit.is_ascii_digit());
        let bits = u16::from_str_radix(digits, 8).ok().filter(|bits| valid && *bits <= 0o7777);
        bits.map(kind).ok_or_else(|| WantedError::Mode(text.to_owned()))
    }
}

impl Mode {
    fn is_match(self, mode: u16) -> bool {
        match self {
            Mode::All(bits) => mode & bits == bits,
            Mode::Any(bits) => bits == 0 || mode & bits != 0,
            Mode::Exactly(bits) => mode == bits,
        }
    }
}

impl FromStr for Size {
    type Err = WantedError;

    fn from_str(text: &str) -> Result<Size, WantedError> {
        let failed = || WantedError::Size(text.to_owned());
        let (kind, rest): (fn(u64) -> Size, _) = match text.as_bytes() {
            [b'+', ..] => (Size::More, &text[1..]),
            [b'-', ..] => (Size::Less, &text[1..]),
            _ => (Size::Exactly, text),
        };
        let end = rest.bytes().take_while(u8::is_ascii_digit).count();
        let unit = match &rest[end..] {
            "" => 1,
            "k" | "K" => 1 << 10,
            "M" => 1 << 20,
            "G" => 1 << 30,
            _ => return Err(failed()),
        };
        let number: u64 = rest[..end].parse().map_err(|_| failed())?;
        number.checked_mul(unit).map(kind).ok_or_else(failed)
    }
}

impl Size {
    fn is_match(self, size: u64) -> bool {
        match self {
            Size::More(limit) => size > limit,
            Size::Less(limit) => size < limit,
            Size::Exactly(limit) => size == limit,
        }
    }
}

/// A day, or a time with its time zone, as RFC 3339 writes them. A day begins in UTC.
pub fn time(text: &str) -> Result<Time, WantedError> {
    let timestamp = text.parse::<jiff::Timestamp>().or_else(|_| {
        let day = text.parse::<jiff::civil::Date>()?;
        day.to_zoned(jiff::tz::TimeZone::UTC).map(|zoned| zoned.timestamp())
    });
    let timestamp = timestamp.map_err(|_| WantedError::Time(text.to_owned()))?;
    let nanoseconds = timestamp.as_nanosecond().rem_euclid(1_000_000_000) as u32;
    let seconds = timestamp.as_nanosecond().div_euclid(1_000_000_000) as i64;
    Ok(Time { seconds, nanoseconds })
}

impl Wanted {
    fn path_matches(&self, path: &[u8]) -> bool {
        let name = path.rsplit(|&b| b == b'/').next().unwrap_or_default();
        // The root of an image has no name.
        !path.is_empty()
            && self.name.as_ref().is_none_or(|glob| glob.is_match(name))
            && self.path.as_ref().is_none_or(|glob| glob.is_match(&[b"/", path].concat()))
    }

    fn entry_matches(&self, entry: &Entry) -> bool {
        let kind = if entry.is_directory() { Kind::Directory } else { entry.kind };
        let content = || entry.sha256.is_some_and(|hash| self.contents.contains(&hash));
        let xattr = |glob: &Glob| entry.xattrs.iter().any(|(name, _)| glob.is_match(name));
        let time = |time: Time| (time.seconds, time.nanoseconds);
        self.kind.is_none_or(|wanted| wanted.0 == kind)
            && self.mode.is_none_or(|mode| mode.is_match(entry.mode))
            && self.size.is_none_or(|size| kind == Kind::Regular && size.is_match(entry.size))
            && self.newer.is_none_or(|newer| time(entry.mtime) > time(newer))
            && self.uid.is_none_or(|uid| uid == entry.uid)
            && self.gid.is_none_or(|gid| gid == entry.gid)
            && self.xattr.as_ref().is_none_or(xattr)
            && (self.contents.is_empty() || content())
    }

    /// Whether the row of a layer can lead to a hit. The attributes of a hard link to a lower layer
    /// are those of its target.
    pub fn may_match(&self, path: &[u8], entry: &Entry) -> bool {
        let known = match entry.kind {
            Kind::CrossLayerLink => !self.deleted,
            _ => !entry.is_whiteout() && self.entry_matches(entry),
        };
        known && self.path_matches(path)
    }
}

/// A file that was looked for.
#[derive(Clone, Debug)]
pub struct Hit {
    pub image: Arc<InScope>,
    /// The platform that the image is for, if it is known.
    pub platform: Option<Platform>,
    /// In the image, without a slash at the beginning.
    pub path: Vec<u8>,
    pub entry: Entry,
    /// The layer that it comes from.
    pub layer: Digest,
    pub deleted: bool,
}

/// A place in the order of paths: their depth, then the path.
pub type Place = (u16, Box<[u8]>);

pub fn place(path: &[u8]) -> Place {
    let depth = match path {
        [] => 0,
        _ => 1 + path.iter().filter(|&&b| b == b'/').count(),
    };
    // Paths are shorter than this.
    (u16::try_from(depth).unwrap_or(u16::MAX), path.into())
}

/// The paths of a layer that may match, in order. `None`: too many to keep.
type Matches = Option<Arc<[Place]>>;

#[derive(Clone, Debug)]
struct ByBytes;

fn bytes(places: &[Place]) -> u64 {
    let each = |place: &Place| (place.1.len() + size_of::<Place>() + 16) as u64;
    places.iter().map(each).sum::<u64>() + 64
}

impl Weighter<Digest, Matches> for ByBytes {
    fn weight(&self, _: &Digest, matches: &Matches) -> u64 {
        bytes(matches.as_deref().unwrap_or_default())
    }
}

/// The next paths of an image that may match.
struct Candidates {
    /// Each with the layers that say so, base first.
    paths: BTreeMap<Place, Vec<usize>>,
    /// The place up to which there are no others; `None`: there are no others at all.
    end: Option<Place>,
}

/// The image in hand.
struct Current {
    named: Arc<InScope>,
    image: Arc<Image>,
    platform: Option<Platform>,
    /// The last place that was looked at.
    at: Option<Place>,
}

/// The answer to a question, on its way.
pub struct Find {
    images: Arc<image::Images>,
    wanted: Wanted,
    scope: Images,
    asked: (Scope, Permitted),
    /// Where an earlier answer ended.
    after: Option<After>,
    known: Cache<Digest, Matches, ByBytes>,
    /// The layers that have what is looked for, where the index says so.
    narrow: Option<Narrow>,
    current: Option<Current>,
    found: VecDeque<Hit>,
    /// The hit, or the image, that was done with last.
    position: Option<Vec<u8>>,
    pub looked: Looked,
    indexed: Indexed,
    /// Only the first hit of each image is wanted.
    first_only: bool,
    /// An earlier answer has looked at the images before.
    is_continued: bool,
}

impl fmt::Debug for Find {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Find").field("wanted", &self.wanted).finish_non_exhaustive()
    }
}

/// Where an answer goes on: after a path in the mount, or after a whole image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct After {
    pub(super) repository: Repository,
    /// The image's name behind that of the repository.
    rest: String,
    path: Option<Vec<u8>>,
}

impl After {
    /// Parses [`Hit::place`] or [`Answer::position`]. `None`: it names no image.
    pub fn parse(place: &[u8]) -> Option<After> {
        let start = place.iter().position(|b| b":@".contains(b))?;
        let slash = place[start..].iter().position(|&b| b == b'/');
        let end = slash.map_or(place.len(), |length| start + length);
        let text = |bytes| std::str::from_utf8(bytes).ok();
        Some(After {
            repository: text(&place[..start])?.parse().ok()?,
            rest: text(&place[start..end])?.to_owned(),
            path: slash.map(|_| place[end + 1..].to_owned()),
        })
    }

    /// Whether an image comes before the one that is named.
    pub(super) fn is_behind(&self, image: &InScope) -> bool {
        let repository = image.repository.as_str();
        if repository != self.repository.as_str() {
            return repository < self.repository.as_str();
        }
        let tag = self.rest.strip_prefix(':').map(|rest| rest.split('@').next().unwrap_or(rest));
        match (&image.tag, tag) {
            (Some(found), Some(tag)) if found.as_str() == tag => !self.is_at(image),
            (Some(found), Some(tag)) => found.as_str() < tag,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (None, None) => image.member.manifest.to_string().as_str() < &self.rest[1..],
        }
    }

    /// Whether an image is the one that is named.
    pub(super) fn is_at(&self, image: &InScope) -> bool {
        image.to_string().strip_prefix(self.repository.as_str()) == Some(&self.rest)
    }
}

/// A hit as JSON; `docs/http-api.md` says what the fields mean.
#[derive(Serialize)]
struct HitJson<'a> {
    image: String,
    repository: &'a str,
    tag: Option<&'a str>,
    manifest: String,
    platform: Option<String>,
    path: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_bytes: Option<String>,
    r#type: &'static str,
    size: u64,
    mode: u16,
    digest: Option<String>,
    layer: String,
    deleted: bool,
}

impl Hit {
    /// Where the file is in the mount.
    pub fn place(&self) -> Vec<u8> {
        [self.image.to_string().as_bytes(), b"/", &self.path].concat()
    }

    /// Appends a JSON object and the end of its line.
    pub fn write_json(&self, buffer: &mut Vec<u8>) {
        let path = [b"/", self.path.as_slice()].concat();
        let json = HitJson {
            image: self.image.to_string(),
            repository: self.image.repository.as_str(),
            tag: self.image.tag.as_ref().map(Tag::as_str),
            manifest: self.image.member.manifest.to_string(),
            platform: self.platform.as_ref().map(ToString::to_string),
            path: String::from_utf8_lossy(&path),
            path_bytes: encoded(&path),
            r#type: type_name(self.entry.kind),
            size: self.entry.size,
            mode: self.entry.mode,
            digest: self.entry.sha256.map(|hash| Digest::Sha256(hash).to_string()),
            layer: self.layer.to_string(),
            deleted: self.deleted,
        };
        super::write_line(buffer, &json);
    }
}

impl Find {
    /// `after`: the last line of an earlier answer.
    pub fn new(
        images: &Arc<image::Images>,
        scope: &Scope,
        permitted: &Permitted,
        wanted: Wanted,
        after: Option<After>,
    ) -> image::Result<Find> {
        let index = images.layers().index();
        if index.is_following() {
            index.catch_up()?;
        }
        let from = after.as_ref().map(|after| &after.repository);
        let narrow = Narrow::new(images, &wanted, scope)?;
        let only = narrow.as_ref().and_then(|narrow| narrow.repositories.clone());
        Ok(Find {
            is_continued: after.is_some(),
            scope: Images::new(images, scope, permitted, from, only)?,
            narrow,
            asked: (scope.clone(), Arc::clone(permitted)),
            images: Arc::clone(images),
            wanted,
            after,
            known: Cache::with_weighter(1024, KEPT, ByBytes),
            current: None,
            found: VecDeque::new(),
            position: None,
            looked: Looked::default(),
            indexed: Indexed::default(),
            first_only: false,
        })
    }

    /// Only the first hit of each image.
    pub fn first_only(mut self) -> Find {
        self.first_only = true;
        self
    }

    /// Does a bounded piece of work.
    pub fn step(&mut self) -> image::Result<Step<Hit>> {
        if let Some(hit) = self.next_found() {
            return Ok(Step::Hit(hit));
        }
        let Some(mut current) = self.current.take() else {
            return match self.scope.next_image()? {
                None => {
                    let (images, looked) = (&self.images, &mut self.looked);
                    let (scope, permitted) = &self.asked;
                    if self.narrow.as_ref().is_some_and(|narrow| narrow.repositories.is_some()) {
                        count_waiting(images, scope, permitted, looked)?;
                    } else if self.is_continued {
                        Indexed::count_all(images, scope, permitted, looked)?;
                    }
                    Ok(Step::End)
                }
                Some(Err(skipped)) => Ok(Step::Skipped(skipped)),
                Some(Ok(named)) => Ok(self.begin(named)),
            };
        };
        match self.look(&mut current) {
            Ok(true) => self.position = Some(current.named.to_string().into_bytes()),
            Ok(false) => {
                let at = current.at.as_ref().map_or(&b""[..], |(_, path)| path);
                self.position = Some([current.named.to_string().as_bytes(), b"/", at].concat());
                self.current = Some(current);
            }
            Err(error) => {
                return Ok(Step::Skipped(Skipped::new(&current.named, error)));
            }
        }
        Ok(self.next_found().map_or(Step::Working, Step::Hit))
    }

    fn next_found(&mut self) -> Option<Hit> {
        let hit = self.found.pop_front()?;
        self.position = Some(match self.first_only {
            true => hit.image.to_string().into_bytes(),
            false => hit.place(),
        });
        Some(hit)
    }

    fn begin(&mut self, named: InScope) -> Step<Hit> {
        let mut at = None;
        if let Some(after) = &self.after {
            if after.is_behind(&named) {
                return Step::Working;
            }
            let is_at = after.is_at(&named);
            let path = self.after.take().and_then(|after| after.path);
            match path {
                _ if !is_at => {}
                Some(path) => at = Some(place(&path)),
                None => return Step::Working,
            }
        }
        match self.open(&named) {
            Ok(None) => Step::Working,
            Ok(Some((image, platform))) => {
                self.looked.images += 1;
                self.current = Some(Current { named: Arc::new(named), image, platform, at });
                Step::Working
            }
            Err(image::Error::Storage(error)) if error.is_unknown() => Step::Working,
            Err(error) => Step::Skipped(Skipped::new(named, error)),
        }
    }

    /// Opens an image whose layers all have an index.
    fn open(&mut self, named: &InScope) -> image::Result<Option<(Arc<Image>, Option<Platform>)>> {
        let layers = &named.member.layers;
        let waits = self.indexed.waits(&self.images, named, &mut self.looked)?;
        let has_some =
            |narrow: &Narrow| layers.iter().any(|layer| narrow.layers.contains_key(layer));
        if waits || !self.narrow.as_ref().is_none_or(has_some) {
            return Ok(None);
        }
        let reference = Reference::Digest(named.member.manifest);
        let opened = self.images.open_in(&named.repository, &reference, None)?;
        let Opened::Image(image) = opened else { return Ok(None) };
        let platform = match &named.member.platform {
            Some(platform) => Some(platform.clone()),
            // A config that cannot be read is among the image's warnings, which are logged. Its files
            // can be found all the same.
            None => self.images.platform(&named.repository, &image.config).unwrap_or_default(),
        };
        Ok(Some((image, platform)))
    }

    /// Looks at the next paths of an image. `true`: there are no more.
    fn look(&mut self, current: &mut Current) -> image::Result<bool> {
        let Candidates { paths, end } = self.candidates(&current.image, current.at.as_ref())?;
        for (place, layers) in paths {
            let before = self.found.len();
            self.check(current, &place.1, &layers)?;
            if self.first_only && self.found.len() > before {
                self.found.truncate(before + 1);
                return Ok(true);
            }
        }
        let is_done = end.is_none();
        current.at = end;
        Ok(is_done)
    }

    /// The paths after `at` that may match.
    fn candidates(&mut self, image: &Image, at: Option<&Place>) -> image::Result<Candidates> {
        let mut paths: BTreeMap<Place, Vec<usize>> = BTreeMap::new();
        let mut end: Option<Place> = None;
        for (number, layer) in image.layers.iter().enumerate() {
            let stopped = match self.matches(layer)? {
                Some(matches) => {
                    let start = at.map_or(0, |at| matches.partition_point(|place| place <= at));
                    let taken = &matches[start..matches.len().min(start + MATCHES)];
                    for place in taken {
                        paths.entry(place.clone()).or_default().push(number);
                    }
                    let more = start + taken.len() < matches.len();
                    taken.last().filter(|_| more).cloned()
                }
                None => {
                    let after = at.map(|at| &*at.1);
                    let rows = self.images.layers().index().entries(layer.record.number, after);
                    let (mut looked, mut taken, mut last) = (0, 0, None);
                    for row in rows {
                        let (path, entry) = row?;
                        looked += 1;
                        if self.wanted.may_match(&path, &entry) {
                            taken += 1;
                            paths.entry(place(&path)).or_default().push(number);
                        }
                        if looked == ROWS || taken == MATCHES {
                            last = Some(place(&path));
                            break;
                        }
                    }
                    last
                }
            };
            end = match (end, stopped) {
                (Some(end), Some(stopped)) => Some(end.min(stopped)),
                (end, stopped) => end.or(stopped),
            };
        }
        if let Some(end) = &end {
            let mut beyond = paths.split_off(end);
            if let Some(layers) = beyond.remove(end) {
                paths.insert(end.clone(), layers);
            }
        }
        Ok(Candidates { paths, end })
    }

    /// The paths of a layer that may match, if they are few.
    fn matches(&mut self, layer: &IndexedLayer) -> image::Result<Matches> {
        if let Some(known) = self.known.get(&layer.digest) {
            return Ok(known.clone());
        }
        if let Some(narrow) = &self.narrow {
            let matches = narrow.matches(&self.images, layer, &self.wanted)?;
            self.known.insert(layer.digest, Some(Arc::clone(&matches)));
            return Ok(Some(matches));
        }
        let (mut places, mut size) = (Vec::new(), 0);
        let mut matches = None;
        for row in self.images.layers().index().entries(layer.record.number, None) {
            let (path, entry) = row?;
            if self.wanted.may_match(&path, &entry) {
                places.push(place(&path));
                size += bytes(&places[places.len() - 1..]);
                if size > KEPT_EACH {
                    break;
                }
            }
        }
        if size <= KEPT_EACH {
            matches = Some(Arc::from(places));
        }
        self.known.insert(layer.digest, matches.clone());
        Ok(matches)
    }

    /// Takes a path if the image shows it, or does not where that is asked.
    fn check(&mut self, current: &Current, path: &[u8], layers: &[usize]) -> image::Result<()> {
        let image = &current.image;
        let node = image.visible(path)?;
        let hit = |entry: Entry, layer: usize, deleted| Hit {
            image: Arc::clone(&current.named),
            platform: current.platform.clone(),
            path: path.to_vec(),
            entry,
            layer: image.layers[layer].digest,
            deleted,
        };
        if !self.wanted.deleted {
            if let Some(Node { entry, layer, .. }) = node
                && self.wanted.entry_matches(&entry)
            {
                self.found.push_back(hit(entry, layer, false));
            }
            return Ok(());
        }
        let distinct: BTreeSet<usize> = layers.iter().copied().collect();
        for layer in distinct.into_iter().rev() {
            let number = image.layers[layer].record.number;
            let Some(entry) = self.images.layers().index().entry(number, path)? else { continue };
            let shown = match &node {
                Some(node) if entry.is_directory() => node.is_directory(),
                Some(node) => node.layer == layer && node.entry.inode == entry.inode,
                None => false,
            };
            if !shown && entry.kind != Kind::Implicit {
                self.found.push_back(hit(entry, layer, true));
            }
        }
        Ok(())
    }
}

impl Answer for Find {
    fn step(&mut self, lines: &mut Vec<u8>) -> image::Result<Step<()>> {
        Ok(match self.step()? {
            Step::Hit(hit) => {
                hit.write_json(lines);
                Step::Hit(())
            }
            Step::Skipped(skipped) => Step::Skipped(skipped),
            Step::Working => Step::Working,
            Step::End => Step::End,
        })
    }

    fn may_pause(&self) -> bool {
        let next = self.found.front().map(Hit::place);
        next.is_none() || next != self.position
    }

    fn position(&self) -> Option<String> {
        self.position.as_deref().map(url_path)
    }

    fn looked(&self) -> Looked {
        self.looked
    }
}
