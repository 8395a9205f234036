//! Paths and contents: symbolic links are followed inside the image, `..` never
//! leads above its root, errors are those of a file system (path_resolution(7)).

use std::io;
use std::sync::Arc;

use quick_cache::sync::Cache;
use quick_cache::{Equivalent, Weighter};

use super::{At, Error, Image, MayBlock, Node, Result};
use crate::index::records::{Entry, Extent, Kind};

/// Longest path in bytes, and longest name that can be missing.
pub(super) const PATH_MAX: usize = 4096;
pub(super) const NAME_MAX: usize = 255;
/// Links followed on one path, as in Linux (`MAXSYMLINKS`).
const LINKS_MAX: u32 = 40;
/// Components looked up on one path, those of links included. A path has room
/// for half of them; links that lead on and on would take minutes.
const STEPS_MAX: u32 = 4096;

/// What one look-up may still cost.
#[derive(Default)]
pub(super) struct Hops {
    links: u32,
    steps: u32,
}

impl Hops {
    /// Counts a component.
    pub(super) fn step(&mut self, at: impl FnOnce() -> At) -> Result<()> {
        self.steps += 1;
        if self.steps > STEPS_MAX {
            return Err(Error::Loop(at()));
        }
        Ok(())
    }

    /// Counts a link.
    pub(super) fn count(&mut self, at: impl FnOnce() -> At) -> Result<()> {
        self.links += 1;
        if self.links > LINKS_MAX {
            return Err(Error::Loop(at()));
        }
        Ok(())
    }
}

/// The directories that paths led through, of all images.
pub(super) type Directories = Cache<Place, Arc<Node>, ByBytes>;

/// What they may take in memory.
const DIRECTORIES: u64 = 16 << 20;

/// A path of an image, which its serial number tells apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place(u64, Box<[u8]>);

/// The same, borrowed.
#[derive(Hash)]
struct PlaceOf<'a>(u64, &'a [u8]);

impl Equivalent<Place> for PlaceOf<'_> {
    fn equivalent(&self, place: &Place) -> bool {
        (self.0, self.1) == (place.0, &*place.1)
    }
}

#[derive(Clone, Debug)]
pub(super) struct ByBytes;

impl Weighter<Place, Arc<Node>> for ByBytes {
    fn weight(&self, place: &Place, node: &Arc<Node>) -> u64 {
        (place.1.len() + 64 + node.bytes()) as u64
    }
}

pub(super) fn directories() -> Directories {
    const TYPICAL: u64 = 512;
    Cache::with_weighter((DIRECTORIES / TYPICAL) as usize, DIRECTORIES, ByBytes)
}

impl Image {
    /// What lies at `path`, with or without slashes at its ends. Symbolic links
    /// on the way are followed; `follow`: also the last one.
    pub fn node(&self, path: &[u8], follow: bool) -> Result<Node> {
        self.resolve(self.layers.len(), path, follow, &mut Hops::default())
    }

    /// What the image shows under exactly this path, with no symbolic link on the way.
    pub fn visible(&self, path: &[u8]) -> Result<Option<Node>> {
        self.beneath(self.layers.len(), path)
    }

    /// What lies at a path in the lowest `top` layers.
    pub(super) fn resolve(
        &self,
        top: usize,
        path: &[u8],
        follow: bool,
        hops: &mut Hops,
    ) -> Result<Node> {
        let at = || At::new(self, path);
        if path.len() > PATH_MAX {
            return Err(Error::NameTooLong(at()));
        }
        let whole = top == self.layers.len();
        let root = || match whole {
            true => Ok(Arc::clone(&self.root)),
            false => self.merged_root(top).map(Arc::new),
        };
        let (mut current, mut next) = match self.known_parent(path).filter(|_| whole) {
            Some((directory, length)) => (directory, length),
            None => (root()?, 0),
        };
        // What is left to walk starts at `next`.
        let mut rest = path.to_vec();
        loop {
            next += slashes(&rest[next..]);
            if next == rest.len() {
                return Ok(Arc::unwrap_or_clone(current));
            }
            let end = next + rest[next..].iter().take_while(|&&b| b != b'/').count();
            let name = &rest[next..end];
            hops.step(at)?;
            if !current.is_directory() {
                return Err(Error::NotADirectory(at()));
            }
            match name {
                b"." => {}
                b".." => {
                    let end = current.path.iter().rposition(|&b| b == b'/').unwrap_or(0);
                    let parent = current.path[..end].to_owned();
                    // Counted whether it is known or has to be walked to.
                    hops.steps += parent.iter().filter(|&&b| b == b'/').count() as u32;
                    // Links are behind us: this meets none.
                    current = Arc::new(self.resolve(top, &parent, false, &mut Hops::default())?);
                }
                _ => {
                    // A link between layers is followed the same way wherever one
                    // comes from: it is counted from 0, but not inside another.
                    let mut anew = Hops::default();
                    let hops_inside = if whole { &mut anew } else { &mut *hops };
                    let Some(child) = self.child(&current, name, hops_inside)? else {
                        return Err(match name.len() {
                            0..=NAME_MAX => Error::NotFound(at()),
                            _ => Error::NameTooLong(at()),
                        });
                    };
                    let last = end + slashes(&rest[end..]) == rest.len();
                    if child.entry.kind == Kind::Symlink && (follow || !last) {
                        hops.count(at)?;
                        let link = &child.entry.link;
                        if link.is_empty() {
                            return Err(Error::NotFound(at()));
                        }
                        if link.len() > PATH_MAX {
                            return Err(Error::NameTooLong(at()));
                        }
                        if link.starts_with(b"/") {
                            current = root()?;
                        }
                        rest = [link, b"/".as_slice(), &rest[end..]].concat();
                        next = 0;
                        continue;
                    }
                    current = Arc::new(child);
                    if whole && current.is_directory() && !last {
                        let place = Place(self.serial, current.path.as_slice().into());
                        self.directories.insert(place, Arc::clone(&current));
                    }
                }
            }
            next = end;
        }
    }

    /// The directory of a path, where it is known, and how much of the path that
    /// is.
    fn known_parent(&self, path: &[u8]) -> Option<(Arc<Node>, usize)> {
        let start = slashes(path);
        let end = path.len() - slashes_at_end(&path[start..]);
        let slash = path[start..end].iter().rposition(|&b| b == b'/')?;
        let place = PlaceOf(self.serial, &path[start..start + slash]);
        let directory = self.directories.get(&place)?;
        Some((directory, start + slash))
    }

    /// A symbolic link's target as stored.
    pub fn readlink<'a>(&self, node: &'a Node) -> Result<&'a [u8]> {
        match node.entry.kind {
            Kind::Symlink => Ok(&node.entry.link),
            _ => Err(Error::NotALink(At::new(self, &node.path))),
        }
    }

    fn check_file(&self, node: &Node) -> Result<()> {
        match node.entry.kind {
            Kind::Regular => Ok(()),
            _ if node.is_directory() => Err(Error::IsDirectory(At::new(self, &node.path))),
            _ => Err(Error::NotAFile(At::new(self, &node.path))),
        }
    }

    /// Content of a regular file from `offset` on, holes as zeros. Fills `buffer`
    /// unless the file ends; how many bytes that is.
    pub fn read(&self, node: &Node, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.check_file(node)?;
        if let Some(content) = node.content() {
            let (from, length) = content.part(offset, buffer.len());
            self.read_layer(content.layer, &node.path, from, &mut buffer[..length])?;
            return Ok(length);
        }
        let left = node.entry.size.saturating_sub(offset);
        let length = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let buffer = &mut buffer[..length];
        buffer.fill(0);
        for piece in pieces(&node.entry, offset, length) {
            self.read_layer(node.layer, &node.path, piece.from, &mut buffer[piece.to])?;
        }
        Ok(length)
    }

    /// Reads the content that the node at `path` has, as [`Image::read`] does. Returns `None` where
    /// it would have to decode something and `may_block` does not permit that.
    pub fn read_content(
        &self,
        content: &Content,
        path: &[u8],
        offset: u64,
        buffer: &mut [u8],
        may_block: MayBlock,
    ) -> Result<Option<usize>> {
        let (from, length) = content.part(offset, buffer.len());
        let buffer = &mut buffer[..length];
        let layer = &self.layers[content.layer];
        let read = match may_block {
            MayBlock::Yes => self.source.read(layer, from, buffer).map(|()| true),
            MayBlock::No => self.source.try_read(layer, from, buffer),
        };
        let read = read.map_err(|cause| Error::Read { at: At::new(self, path), cause })?;
        Ok(read.then_some(length))
    }

    fn read_layer(&self, layer: usize, path: &[u8], from: u64, to: &mut [u8]) -> Result<()> {
        let read = self.source.read(&self.layers[layer], from, to);
        read.map_err(|cause| Error::Read { at: At::new(self, path), cause })
    }

    /// A regular file's content, from its beginning.
    pub fn open(self: &Arc<Image>, node: &Node) -> Result<Reader> {
        self.check_file(node)?;
        Ok(Reader { image: Arc::clone(self), node: node.clone(), offset: 0 })
    }
}

/// Where a regular file's content lies, in one piece: all that reading it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// A place in [`Image::layers`].
    layer: usize,
    /// In the layer's tar stream.
    extent: Extent,
}

impl Content {
    /// Bytes.
    pub fn size(&self) -> u64 {
        self.extent.length
    }

    /// What of `length` bytes from `offset` on there is: where it lies in the tar
    /// stream, and its length.
    fn part(&self, offset: u64, length: usize) -> (u64, usize) {
        let left = self.extent.length.saturating_sub(offset);
        let length = usize::try_from(left).map_or(length, |left| left.min(length));
        (self.extent.offset.saturating_add(offset), length)
    }
}

impl Node {
    /// The content of a regular file without holes.
    pub fn content(&self) -> Option<Content> {
        let whole = self.entry.kind == Kind::Regular && self.entry.sparse.is_none();
        whole.then_some(Content {
            layer: self.layer,
            extent: Extent { offset: self.entry.offset, length: self.entry.size },
        })
    }
}

/// Data of a sparse file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Where it lies in the tar stream.
    pub from: u64,
    /// Where it goes in the buffer.
    pub to: std::ops::Range<usize>,
}

/// What `length` bytes of a sparse file from `offset` on have that is no hole.
pub(crate) fn pieces(entry: &Entry, offset: u64, length: usize) -> impl Iterator<Item = Piece> {
    let end = offset.saturating_add(length as u64).min(entry.size);
    let mut stored = entry.offset;
    entry.sparse.iter().flatten().filter_map(move |extent| {
        let from = stored;
        stored = stored.saturating_add(extent.length);
        let first = extent.offset.max(offset);
        let last = extent.offset.saturating_add(extent.length).min(end);
        (first < last).then(|| Piece {
            from: from.saturating_add(first - extent.offset),
            // Both lie within `length` of `offset`.
            to: (first - offset) as usize..(last - offset) as usize,
        })
    })
}

fn slashes(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|&&b| b == b'/').count()
}

fn slashes_at_end(bytes: &[u8]) -> usize {
    bytes.iter().rev().take_while(|&&b| b == b'/').count()
}

/// Reads a file from front to back. Its errors hold an [`Error`].
#[derive(Debug)]
pub struct Reader {
    image: Arc<Image>,
    node: Node,
    offset: u64,
}

impl io::Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.image.read(&self.node, self.offset, buffer).map_err(io::Error::other)?;
        self.offset += length as u64;
        Ok(length)
    }
}

impl io::Seek for Reader {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        let offset = match to {
            io::SeekFrom::Start(offset) => Some(offset),
            io::SeekFrom::Current(by) => self.offset.checked_add_signed(by),
            io::SeekFrom::End(by) => self.node.entry.size.checked_add_signed(by),
        };
        self.offset = offset.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::records::Extent;

    #[test]
    fn pieces_of_sparse_files() {
        let extents = [(0, 4), (10, 2), (12, 3), (20, 0)];
        let extent = |&(offset, length)| Extent { offset, length };
        let entry = Entry {
            kind: Kind::Regular,
            size: 20,
            offset: 100,
            sparse: Some(extents.iter().map(extent).collect()),
            ..Entry::implicit(Kind::Regular)
        };
        for (offset, length, want) in [
            (0, 20, vec![(100, 0..4), (104, 10..12), (106, 12..15)]),
            (2, 9, vec![(102, 0..2), (104, 8..9)]),
            (4, 6, vec![]),
            (14, 6, vec![(108, 0..1)]),
            (11, 2, vec![(105, 0..1), (106, 1..2)]),
        ] {
            let want: Vec<Piece> = want.into_iter().map(|(from, to)| Piece { from, to }).collect();
            let found: Vec<Piece> = pieces(&entry, offset, length).collect();
            assert_eq!(found, want, "{offset} {length}");
        }
    }
}
