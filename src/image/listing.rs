//! Listings: a directory's entries by name, or all that is below it, each
//! directory before what it holds.
//!
//! A listing is made in pieces and keeps nothing between them but the path it
//! has come to, so a slow reader holds no thread, iterator or list. The same
//! path, from outside, is where a page goes on.

use std::borrow::Cow;
use std::sync::Arc;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use serde::de::Error as _;
use serde::{Deserialize, Serialize};

use super::deleted::{Group, WithDeleted};
use super::walk::{Item, Items, Tree};
use super::{Node, Opened, Result, Walk};
use crate::index::records::{Entry, Kind, Time};

/// What stands for itself in a path of a URL.
const PATH: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What a listing shows.
#[derive(Clone, Debug)]
pub struct Listing {
    opened: Opened,
    shown: Node,
    /// Where what the image does not show is listed too: all that there is at the path.
    deleted: Option<(WithDeleted, Group)>,
    recursive: bool,
    /// Entries left to show.
    left: u64,
    /// The path of the entry shown last.
    at: Option<Vec<u8>>,
}

/// Why a listing stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Nothing is left.
    End,
    /// The limit is reached, and something is left.
    Limit,
    /// The visitor wants a pause.
    Pause,
}

impl Listing {
    /// What `ls` shows of a path: what is in a directory, also through a symlink;
    /// anything else by itself.
    pub fn new(opened: Opened, path: &[u8], recursive: bool) -> Result<Listing> {
        let shown = match opened.node(path, true) {
            Ok(node) if node.is_directory() => node,
            // The link, whether it leads anywhere or not.
            _ => opened.node(path, false)?,
        };
        Ok(Listing { opened, shown, deleted: None, recursive, left: u64::MAX, at: None })
    }

    /// The same with what the layers of an image ship there and the image does not show.
    pub fn with_deleted(opened: Opened, path: &[u8], recursive: bool) -> Result<Listing> {
        let Opened::Image(image) = &opened else {
            return Listing::new(opened, path, recursive);
        };
        let tree = WithDeleted::new(Arc::clone(image));
        let (shown, group) = tree.group(path)?;
        let deleted = Some((tree, group));
        Ok(Listing { opened, shown, deleted, recursive, left: u64::MAX, at: None })
    }

    pub fn opened(&self) -> &Opened {
        &self.opened
    }

    /// What is listed: a directory, or the one entry.
    pub fn shown(&self) -> &Node {
        &self.shown
    }

    /// At most so many entries, and those besides that have the last one's path.
    pub fn limit(mut self, entries: u64) -> Listing {
        self.left = entries;
        self
    }

    /// Goes on after `path`, which need not exist (any more). `None`: it is not
    /// below what is listed.
    pub fn after(mut self, path: &[u8]) -> Option<Listing> {
        let path = normal(path);
        below(&path, &self.shown.path)?;
        self.at = Some(path);
        Some(self)
    }

    /// The path of the entry shown last.
    pub fn position(&self) -> Option<&[u8]> {
        self.at.as_deref()
    }

    /// Shows entries, and whether each is deleted, until there are no more or `visit` says `false`.
    /// Those of one path are not torn apart.
    pub fn visit(&mut self, mut visit: impl FnMut(&Node, bool) -> bool) -> Result<Stop> {
        let Listing { opened, shown, deleted, recursive, left, at } = self;
        let start = at.clone();
        let mut take = |entries: &mut dyn Iterator<Item = (&Node, bool)>| {
            if *left == 0 {
                return Some(Stop::Limit);
            }
            let mut go_on = true;
            for (node, deleted) in entries {
                *left = left.saturating_sub(1);
                go_on &= visit(node, deleted);
                at.get_or_insert_default().clone_from(&node.path);
            }
            (!go_on).then_some(Stop::Pause)
        };
        let start = start.as_deref();
        if !shown.is_directory() && start.is_none() {
            let stop = match deleted {
                None => take(&mut [(&*shown, false)].into_iter()),
                Some((_, group)) => take(&mut group.entries()),
            };
            if let Some(stop) = stop {
                return Ok(stop);
            }
        }
        // A file may lie over directories that are deleted.
        let hides_directories = deleted.as_ref().is_some_and(|(_, group)| group.is_walked());
        let is_walked = shown.is_directory() || (*recursive && hides_directories);
        let stop =
            match deleted {
                _ if !is_walked => None,
                None => items(&**opened, shown, &shown.path, *recursive, start)?.find_map(|node| {
                    match node {
                        Ok(node) => take(&mut [(&node, false)].into_iter()).map(Ok),
                        Err(error) => Some(Err(error)),
                    }
                }),
                Some((tree, group)) => items(tree, group, &shown.path, *recursive, start)?
                    .find_map(|group| match group {
                        Ok(group) => take(&mut group.entries()).map(Ok),
                        Err(error) => Some(Err(error)),
                    }),
            };
        stop.unwrap_or(Ok(Stop::End))
    }

    /// The path of the last entry within the limit, if something is left after
    /// it.
    pub fn last(mut self) -> Result<Option<Vec<u8>>> {
        let stop = self.visit(|_, _| true)?;
        Ok(self.at.filter(|_| stop == Stop::Limit))
    }
}

/// What comes in or below the directory at `path` after the path `at`.
fn items<'a, T: Tree + ?Sized>(
    tree: &'a T,
    directory: &T::Item,
    path: &[u8],
    recursive: bool,
    at: Option<&[u8]>,
) -> Result<Items<'a, T::Item>> {
    if recursive {
        return Ok(Box::new(match at {
            Some(at) => Walk::after(tree, directory.clone(), at)?,
            None => Walk::new(tree, directory.clone()),
        }));
    }
    let rest = at.and_then(|at| below(at, path));
    let name = rest.and_then(|rest| rest.split(|&b| b == b'/').next());
    let from = match name.unwrap_or_default() {
        b"" => Vec::new(),
        // The first name after it.
        name => [name, b"\0"].concat(),
    };
    tree.items(directory, &from)
}

/// Without slashes at the ends or twice.
fn normal(path: &[u8]) -> Vec<u8> {
    let parts: Vec<&[u8]> = path.split(|&b| b == b'/').filter(|part| !part.is_empty()).collect();
    parts.join(&b'/')
}

/// `path` seen from `directory`, if it is that or below.
fn below<'a>(path: &'a [u8], directory: &[u8]) -> Option<&'a [u8]> {
    let rest = path.strip_prefix(directory)?;
    match rest {
        [b'/', rest @ ..] => Some(rest),
        _ if rest.is_empty() || directory.is_empty() => Some(rest),
        _ => None,
    }
}

/// A listing as a JSON array, an entry a line.
#[derive(Debug)]
pub struct JsonListing {
    listing: Listing,
    /// The id of what is listed.
    id: String,
    /// The digests of an image's layers, and the images they came with where that was asked for.
    layers: Vec<(String, Option<String>)>,
    state: JsonState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum JsonState {
    Start,
    Middle,
    End,
}

impl JsonListing {
    pub fn new(listing: Listing) -> JsonListing {
        let image = match &listing.opened {
            Opened::Image(image) => Some(image),
            Opened::Layer(layer) => Some(layer.image()),
            Opened::Artifact(_) => None,
        };
        let (id, layers) = match image {
            Some(image) => {
                let layers = image.layers.iter().enumerate().map(|(at, layer)| {
                    let ids = image.ids.as_ref();
                    let id = ids.and_then(|ids| ids.get(at)).cloned();
                    (layer.digest.to_string(), id)
                });
                (image.config.hex(), layers.collect())
            }
            // Artifacts often share one empty config, which identifies none of them.
            None => (listing.opened.manifest().hex(), Vec::new()),
        };
        JsonListing { listing, id, layers, state: JsonState::Start }
    }

    /// Appends about `size` bytes of the array; `None` when it is complete already.
    pub fn write(&mut self, size: usize, buffer: &mut Vec<u8>) -> Result<Option<Stop>> {
        let JsonListing { listing, id, layers, state } = self;
        if *state == JsonState::End {
            return Ok(None);
        }
        let mut separator = match state {
            JsonState::Start => "[",
            JsonState::Middle | JsonState::End => ",\n",
        };
        let opened = listing.opened.clone();
        let is_layer = opened.is_layer();
        let stop = listing.visit(|node, deleted| {
            buffer.extend_from_slice(separator.as_bytes());
            separator = ",\n";
            let (layer, image) = match layers.get(node.layer) {
                Some((layer, image)) => (Some(Cow::from(layer)), image.as_ref()),
                None => (opened.layer(node).map(|blob| blob.to_string().into()), None),
            };
            let marks = Marks { opaque: is_layer && node.entry.hides, deleted };
            let image = image.unwrap_or(id);
            write_entry(buffer, &node.path, &node.entry, image, layer.as_deref(), marks);
            buffer.len() < size
        })?;
        if stop == Stop::Pause {
            *state = JsonState::Middle;
        } else {
            // Nothing was written of an empty directory.
            if separator == "[" {
                buffer.push(b'[');
            }
            buffer.extend_from_slice(b"]\n");
            *state = JsonState::End;
        }
        Ok(Some(stop))
    }

    /// What is still to be listed.
    pub fn listing(&self) -> &Listing {
        &self.listing
    }
}

/// An entry as JSON shows it; `docs/http-api.md` says what the fields mean.
#[derive(Serialize)]
struct EntryJson<'a> {
    path: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_bytes: Option<String>,
    r#type: &'static str,
    size: u64,
    mode: u16,
    mtime: i64,
    image: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    linkname: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    linkname_bytes: Option<String>,
    uid: u32,
    gid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    major: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    minor: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    layer: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    opaque: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    deleted: bool,
}

/// An entry of a listing, read from JSON. What JSON has not is as in [`Entry::implicit`].
#[derive(Clone, Debug)]
pub struct Listed {
    /// Without slashes at either end.
    pub path: Vec<u8>,
    pub entry: Entry,
    pub layer: Option<String>,
    pub deleted: bool,
}

impl Listed {
    /// Parses what [`JsonListing`] writes of one entry.
    pub fn parse(json: &[u8]) -> serde_json::Result<Listed> {
        #[derive(Deserialize)]
        struct Json {
            path: String,
            path_bytes: Option<String>,
            r#type: String,
            size: u64,
            mode: u16,
            mtime: i64,
            linkname: Option<String>,
            linkname_bytes: Option<String>,
            uid: u32,
            gid: u32,
            #[serde(default)]
            major: u32,
            #[serde(default)]
            minor: u32,
            layer: Option<String>,
            #[serde(default)]
            deleted: bool,
        }
        let json: Json = serde_json::from_slice(json)?;
        let kind = kind(&json.r#type)
            .ok_or_else(|| serde_json::Error::custom(format!("unknown type {:?}", json.r#type)))?;
        let link = decoded(json.linkname.unwrap_or_default(), json.linkname_bytes);
        let link = match kind {
            Kind::CrossLayerLink => normal(&link),
            _ => link,
        };
        Ok(Listed {
            path: normal(&decoded(json.path, json.path_bytes)),
            entry: Entry {
                size: json.size,
                mode: json.mode,
                mtime: Time { seconds: json.mtime.div_euclid(1000), nanoseconds: 0 },
                link,
                uid: json.uid,
                gid: json.gid,
                device: (json.major, json.minor),
                ..Entry::implicit(kind)
            },
            layer: json.layer,
            deleted: json.deleted,
        })
    }
}

/// The bytes of a text in JSON, which `bytes` has where the text is not UTF-8: the reverse of
/// [`encoded`].
pub fn decoded(text: String, bytes: Option<String>) -> Vec<u8> {
    match bytes {
        Some(bytes) => percent_decode_str(&bytes).collect(),
        None => text.into_bytes(),
    }
}

/// The reverse of [`type_name`].
pub fn kind(name: &str) -> Option<Kind> {
    let kinds = [
        Kind::Directory,
        Kind::Symlink,
        Kind::Character,
        Kind::Block,
        Kind::Fifo,
        Kind::Regular,
        Kind::CrossLayerLink,
        Kind::Whiteout,
    ];
    kinds.into_iter().find(|&kind| type_name(kind) == name)
}

/// What an entry is besides.
#[derive(Clone, Copy)]
struct Marks {
    opaque: bool,
    deleted: bool,
}

fn write_entry(
    buffer: &mut Vec<u8>,
    path: &[u8],
    entry: &Entry,
    image: &str,
    layer: Option<&str>,
    marks: Marks,
) {
    let path = absolute(path, entry);
    let device = matches!(entry.kind, Kind::Character | Kind::Block).then_some(entry.device);
    let linkname = match entry.kind {
        Kind::Symlink => Some(Cow::from(&entry.link)),
        Kind::CrossLayerLink => Some(absolute(&entry.link, entry).into()),
        _ => None,
    };
    let linkname = linkname.as_deref();
    let mut digest = [0; DIGEST];
    let json = EntryJson {
        path: String::from_utf8_lossy(&path),
        path_bytes: encoded(&path),
        r#type: type_name(entry.kind),
        size: entry.size,
        mode: entry.mode,
        mtime: milliseconds(entry.mtime),
        image,
        linkname: linkname.map(String::from_utf8_lossy),
        linkname_bytes: linkname.and_then(encoded),
        uid: entry.uid,
        gid: entry.gid,
        major: device.map(|(major, _)| major),
        minor: device.map(|(_, minor)| minor),
        layer,
        digest: entry.sha256.map(|hash| digest_text(&hash, &mut digest)),
        opaque: marks.opaque,
        deleted: marks.deleted,
    };
    serde_json::to_writer(buffer, &json)
        .expect("a vector takes every write, and the keys are text");
}

/// Bytes of a sha256 digest as text.
const DIGEST: usize = 7 + 64;

fn digest_text<'a>(hash: &[u8; 32], text: &'a mut [u8; DIGEST]) -> &'a str {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let (algorithm, hex) = text.split_at_mut(7);
    algorithm.copy_from_slice(b"sha256:");
    for (byte, pair) in hash.iter().zip(hex.chunks_exact_mut(2)) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    std::str::from_utf8(text).expect("ASCII")
}

/// The path from the image's root; a directory's ends in a slash.
fn absolute(path: &[u8], entry: &Entry) -> Vec<u8> {
    let mut absolute = Vec::with_capacity(path.len() + 2);
    absolute.push(b'/');
    absolute.extend_from_slice(path);
    if entry.is_directory() && !path.is_empty() {
        absolute.push(b'/');
    }
    absolute
}

/// As it stands in a URL's path, if it is not UTF-8.
pub fn encoded(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).is_err().then(|| url_path(bytes))
}

/// Bytes as they stand in a URL's path.
pub fn url_path(bytes: &[u8]) -> String {
    percent_encode(bytes, PATH).to_string()
}

/// The names that docker-registry-server gave the types of entries.
pub fn type_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Directory | Kind::Implicit => "directory",
        Kind::Symlink => "symlink",
        Kind::Character => "character-device",
        Kind::Block => "block-device",
        Kind::Fifo => "fifo",
        Kind::Regular => "file",
        // These two are shown of layers only.
        Kind::CrossLayerLink => "hard-link",
        Kind::Whiteout => "whiteout",
    }
}

/// Milliseconds from 1970, rounded down.
fn milliseconds(time: Time) -> i64 {
    time.seconds.saturating_mul(1000).saturating_add(i64::from(time.nanoseconds / 1_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_below() {
        for (path, directory, want) in [
            ("a/b", "a", Some("b")),
            ("a", "a", Some("")),
            ("a/b/c", "a", Some("b/c")),
            ("ab", "a", None),
            ("b", "a", None),
            ("", "a", None),
            ("a/b", "", Some("a/b")),
            ("", "", Some("")),
        ] {
            let found = below(path.as_bytes(), directory.as_bytes());
            assert_eq!(found, want.map(str::as_bytes), "{path} in {directory}");
        }
        assert_eq!(normal(b"//a///b/"), b"a/b");
        assert_eq!(normal(b"/"), b"");
    }

    #[test]
    fn an_entry_as_json() {
        let json = |path: &[u8], change: &dyn Fn(&mut Entry)| {
            let mut entry = Entry::implicit(Kind::Regular);
            change(&mut entry);
            let mut buffer = Vec::new();
            let marks = Marks { opaque: entry.hides, deleted: entry.links == 0 };
            write_entry(&mut buffer, path, &entry, "c0", Some("sha256:00"), marks);
            String::from_utf8(buffer).expect("JSON")
        };
        let common = r#""image":"c0""#;
        let rest = r#""uid":0,"gid":0"#;
        let end = r#""layer":"sha256:00""#;
        let lossy = '\u{fffd}';
        assert_eq!(
            json(b"etc/a\"\n", &|e| {
                e.mode = 0o4755;
                e.size = 3;
                e.mtime = Time { seconds: -1, nanoseconds: 999_999_999 };
                e.sha256 = Some([0xab; 32]);
            }),
            format!(
                r#"{{"path":"/etc/a\"\n","type":"file","size":3,"mode":2541,"mtime":-1,{common},{rest},{end},"digest":"sha256:{}"}}"#,
                "ab".repeat(32)
            )
        );
        assert_eq!(
            json(b"\xff %", &|e| e.kind = Kind::Directory),
            format!(
                r#"{{"path":"/{lossy} %/","path_bytes":"/%FF%20%25/","type":"directory","size":0,"mode":493,"mtime":0,{common},{rest},{end}}}"#
            )
        );
        assert_eq!(
            json(b"l", &|e| {
                e.kind = Kind::Symlink;
                e.link = b"\xfe".to_vec();
            }),
            format!(
                r#"{{"path":"/l","type":"symlink","size":0,"mode":493,"mtime":0,{common},"linkname":"{lossy}","linkname_bytes":"%FE",{rest},{end}}}"#
            )
        );
        assert_eq!(
            json(b"n", &|e| {
                e.kind = Kind::Character;
                e.device = (1, 3);
            }),
            format!(
                r#"{{"path":"/n","type":"character-device","size":0,"mode":493,"mtime":0,{common},{rest},"major":1,"minor":3,{end}}}"#
            )
        );
        assert_eq!(
            json(b"h", &|e| {
                e.kind = Kind::CrossLayerLink;
                e.link = b"d/x".to_vec();
                e.links = 0;
            }),
            format!(
                r#"{{"path":"/h","type":"hard-link","size":0,"mode":493,"mtime":0,{common},"linkname":"/d/x",{rest},{end},"deleted":true}}"#
            )
        );
        assert_eq!(
            json(b"d", &|e| {
                e.kind = Kind::Implicit;
                e.hides = true;
            }),
            format!(
                r#"{{"path":"/d/","type":"directory","size":0,"mode":493,"mtime":0,{common},{rest},{end},"opaque":true}}"#
            )
        );
    }
}
