//! Layers over layers. A directory of the image is the list of layers that
//! contribute to it; a child is found in its parent's layers only. Sources:
//! image-spec layer.md, "Representing Changes" and "Whiteouts"; where that is
//! silent, what containerd and Docker show on overlayfs.
//!
//! What the layers say of one path, from the topmost down ([`Fold`]):
//!
//! | row | effect |
//! | --- | --- |
//! | `Directory` | a directory; the topmost one gives the attributes |
//! | `Implicit` | a directory with the attributes of a lower one, if there is one; replaces what else lies below |
//! | `hides` on one of these | children of lower layers are gone, attributes may still come from there |
//! | a whiteout | nothing below matters |
//! | anything else | stands if no directory is above it; nothing below matters |
//!
//! A path through a lower layer's symbolic link replaces the link by a directory,
//! as on overlayfs; only inside one layer are such paths resolved. A hard link
//! to what its layer does not have means what the layers below it show there,
//! links in the target's parents followed, the last not. One that leads to
//! nothing or to a directory is not there, and what it replaced is gone.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::view::Hops;
use super::{At, Error, Image, Node, Result};
use crate::index;
use crate::index::records::{Entry, Kind};

/// A layer, and what it says of a path.
pub(super) type Row = (usize, Entry);

/// An entry without what may be long and no listing shows: hundreds of layers can have one path.
pub(super) fn light(entry: Entry) -> Entry {
    Entry { xattrs: Vec::new(), sparse: None, ..entry }
}

/// What the layers say of one path.
#[derive(Default)]
struct Fold {
    /// The layer and the row that gives the attributes.
    found: Option<(usize, Entry)>,
    dirs: Vec<usize>,
    hidden: bool,
}

impl Fold {
    /// Takes what the next lower layer says. `false`: nothing below matters.
    fn add(&mut self, layer: usize, entry: Entry) -> bool {
        if entry.is_whiteout() {
            return false;
        }
        match entry.kind {
            Kind::Directory | Kind::Implicit => {
                if !self.hidden {
                    self.dirs.push(layer);
                }
                self.hidden |= entry.hides;
            }
            Kind::Regular
            | Kind::Symlink
            | Kind::Character
            | Kind::Block
            | Kind::Fifo
            | Kind::CrossLayerLink
            | Kind::Whiteout => {
                if self.found.is_none() {
                    self.dirs.clear();
                    self.found = Some((layer, entry));
                }
                return false;
            }
        }
        let better = match (&self.found, entry.kind) {
            (None, _) => true,
            (Some((_, above)), kind) => above.kind == Kind::Implicit && kind == Kind::Directory,
        };
        if better {
            self.found = Some((layer, entry));
        }
        let declared = |(_, found): &(usize, Entry)| found.kind == Kind::Directory;
        !(self.hidden && self.found.as_ref().is_some_and(declared))
    }
}

/// `directory/name`
pub(super) fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() {
        return name.to_vec();
    }
    let mut path = Vec::with_capacity(directory.len() + 1 + name.len());
    path.extend(directory);
    path.push(b'/');
    path.extend(name);
    path
}

impl Image {
    pub fn root(&self) -> &Node {
        &self.root
    }

    /// What a layer has at a path.
    pub(super) fn entry(&self, layer: usize, path: &[u8]) -> Result<Option<Entry>> {
        let number = self.layers[layer].record.number;
        Ok(self.source.index().entry(number, path)?)
    }

    /// The root of the lowest `top` layers.
    pub(super) fn merged_root(&self, top: usize) -> Result<Node> {
        let mut fold = Fold::default();
        for layer in (0..top).rev() {
            if let Some(entry) = self.entry(layer, b"")?
                && !fold.add(layer, entry)
            {
                break;
            }
        }
        let (layer, entry) = match fold.found {
            Some((layer, entry)) if entry.is_directory() => (layer, entry),
            // Nobody has to declare it.
            _ => (top.saturating_sub(1), Entry::implicit(Kind::Directory)),
        };
        Ok(Node::directory(Vec::new(), layer, entry, fold.dirs))
    }

    /// What a directory has under a name.
    pub fn lookup(&self, directory: &Node, name: &[u8]) -> Result<Option<Node>> {
        self.child(directory, name, &mut Hops::default())
    }

    pub(super) fn child(
        &self,
        directory: &Node,
        name: &[u8],
        hops: &mut Hops,
    ) -> Result<Option<Node>> {
        let path = join(&directory.path, name);
        let mut fold = Fold::default();
        for &layer in &directory.dirs {
            if let Some(entry) = self.entry(layer, &path)?
                && !fold.add(layer, entry)
            {
                break;
            }
        }
        self.folded(path, fold, hops)
    }

    /// What the image shows at `path`, of whose parent `rows` are: layers and their rows, the topmost
    /// first.
    pub(super) fn merged(
        &self,
        path: Vec<u8>,
        rows: impl Iterator<Item = Row>,
    ) -> Result<Option<Node>> {
        let mut fold = Fold::default();
        for (layer, entry) in rows {
            if !fold.add(layer, entry) {
                break;
            }
        }
        self.folded(path, fold, &mut Hops::default())
    }

    fn folded(&self, path: Vec<u8>, fold: Fold, hops: &mut Hops) -> Result<Option<Node>> {
        let Some((layer, entry)) = fold.found else {
            return Ok(None);
        };
        if entry.is_directory() {
            return Ok(Some(Node::directory(path, layer, entry, fold.dirs)));
        }
        if entry.kind != Kind::CrossLayerLink {
            return Ok(Some(Node { path, layer, entry, dirs: Vec::new(), target: None }));
        }
        let mut node = match hops.count(|| At::new(self, &path)) {
            Ok(()) => self.resolve(layer, &entry.link, false, hops),
            Err(e) => Err(e),
        };
        if let Ok(found) = &node
            && found.is_directory()
        {
            node = Err(Error::IsDirectory(At::new(self, &entry.link)));
        }
        match node {
            Ok(found) => {
                let own = found.target.unwrap_or_else(|| found.path.into());
                Ok(Some(Node { target: (*own != *path).then_some(own), path, ..found }))
            }
            Err(
                Error::NotFound(_)
                | Error::NotADirectory(_)
                | Error::IsDirectory(_)
                | Error::Loop(_)
                | Error::NameTooLong(_),
            ) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The children of a directory by name, from the name `from` on, which need
    /// not exist. To go on after a name, append a zero byte to it.
    pub fn children(&self, directory: &Node, from: &[u8]) -> Result<Children<'_>> {
        if !directory.is_directory() {
            return Err(Error::NotADirectory(At::new(self, &directory.path)));
        }
        self.children_in(&directory.path, &directory.dirs, from)
    }

    /// The names under which `layers`, some of a directory's, have something, be it a whiteout; from
    /// the name `from` on.
    pub fn names_in(
        &self,
        directory: &Node,
        layers: &[usize],
        from: &[u8],
    ) -> Result<impl Iterator<Item = Result<Vec<u8>>> + '_> {
        let mut children = self.children_in(&directory.path, layers, from)?;
        Ok(std::iter::from_fn(move || children.next_name().transpose()))
    }

    /// What `layers` have in a directory, the topmost of them first.
    pub(super) fn children_in(
        &self,
        directory: &[u8],
        layers: &[usize],
        from: &[u8],
    ) -> Result<Children<'_>> {
        let mut children = Children {
            image: self,
            directory: directory.to_vec(),
            heads: BinaryHeap::with_capacity(layers.len()),
        };
        for (position, &layer) in layers.iter().enumerate() {
            let number = self.layers[layer].record.number;
            let rest = self.source.index().children(number, directory, from);
            children.advance(position, layer, rest)?;
        }
        Ok(children)
    }
}

impl Node {
    fn directory(path: Vec<u8>, layer: usize, mut entry: Entry, dirs: Vec<usize>) -> Node {
        entry.kind = Kind::Directory;
        Node { path, layer, entry, dirs, target: None }
    }
}

/// The children of a directory, by name. After an error there are no more.
// RocksDB's parts cannot be printed.
#[allow(missing_debug_implementations)]
pub struct Children<'a> {
    image: &'a Image,
    directory: Vec<u8>,
    heads: BinaryHeap<Head<'a>>,
}

/// The next row of one layer.
struct Head<'a> {
    name: Vec<u8>,
    /// 0 is the topmost layer.
    position: usize,
    layer: usize,
    entry: Entry,
    rest: index::Children<'a>,
}

impl Ord for Head<'_> {
    /// The first is the largest, as the heap wants it.
    fn cmp(&self, other: &Head<'_>) -> Ordering {
        (&other.name, other.position).cmp(&(&self.name, self.position))
    }
}

impl PartialOrd for Head<'_> {
    fn partial_cmp(&self, other: &Head<'_>) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Head<'_> {
    fn eq(&self, other: &Head<'_>) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Head<'_> {}

impl<'a> Children<'a> {
    fn advance(
        &mut self,
        position: usize,
        layer: usize,
        mut rest: index::Children<'a>,
    ) -> Result<()> {
        if let Some(row) = rest.next() {
            let (name, entry) = row?;
            self.heads.push(Head { name, position, layer, entry, rest });
        }
        Ok(())
    }

    /// What comes next by name, whether it is something or not. After an error there are no more.
    fn next_name(&mut self) -> Result<Option<Vec<u8>>> {
        let rows = self.rows();
        if rows.is_err() {
            self.heads.clear();
        }
        let name = |path: Vec<u8>| match path.iter().rposition(|&b| b == b'/') {
            Some(slash) => path[slash + 1..].to_vec(),
            None => path,
        };
        Ok(rows?.map(|(path, _)| name(path)))
    }

    /// What comes next by name: its path, and all that the layers have there, the topmost first and
    /// [`light`].
    pub(super) fn rows(&mut self) -> Result<Option<(Vec<u8>, Vec<Row>)>> {
        let mut found: Option<(Vec<u8>, Vec<Row>)> = None;
        while let Some(head) = self.heads.peek()
            && found.as_ref().is_none_or(|(name, _)| *name == head.name)
            && let Some(head) = self.heads.pop()
        {
            let (_, rows) = found.get_or_insert_with(|| (head.name, Vec::new()));
            rows.push((head.layer, light(head.entry)));
            self.advance(head.position, head.layer, head.rest)?;
        }
        Ok(found.map(|(name, rows)| (join(&self.directory, &name), rows)))
    }

    /// What comes next by name, if it is something.
    fn step(&mut self, first: Head<'a>) -> Result<Option<Node>> {
        let path = join(&self.directory, &first.name);
        let mut fold = Fold::default();
        let mut below = fold.add(first.layer, first.entry);
        self.advance(first.position, first.layer, first.rest)?;
        while let Some(head) = self.heads.peek()
            && head.name == first.name
            && let Some(head) = self.heads.pop()
        {
            if below {
                below = fold.add(head.layer, head.entry);
            }
            self.advance(head.position, head.layer, head.rest)?;
        }
        self.image.folded(path, fold, &mut Hops::default())
    }
}

impl Iterator for Children<'_> {
    type Item = Result<Node>;

    fn next(&mut self) -> Option<Result<Node>> {
        while let Some(first) = self.heads.pop() {
            match self.step(first) {
                Ok(None) => {}
                Ok(Some(node)) => return Some(Ok(node)),
                Err(e) => {
                    self.heads.clear();
                    return Some(Err(e));
                }
            }
        }
        None
    }
}
