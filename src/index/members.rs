//! A layer's members, put where extracting them in order would leave them: the
//! last of one name wins, what is no directory takes the place of a whole
//! subtree, parents that are symlinks of the same layer are followed, hard links
//! share what they link to. Whiteouts (image-spec, layer.md, "Whiteouts") act on
//! lower layers only, so they are kept as what they are: a row, or a mark on one.
//!
//! The rows in the database are the tree, so memory does not follow the layer.

use std::cell::Cell;

use super::records::{Entry, Extent, Kind};
use super::rows::LayerWriter;
use super::{Error, Result};
use crate::layer::tar::{self, Member};
use crate::storage;

/// image-spec, layer.md: "Whiteouts", "Opaque Whiteout".
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// AUFS's own, at the root of a layer: never part of an image, but for the folder below, whose files
/// hard links name as their targets.
const AUFS: &[u8] = b".wh..wh.";
const AUFS_LINKS: &[u8] = b".wh..wh.plnk";

/// Linux's NAME_MAX: no runtime could unpack a longer one.
const NAME_MAX: usize = 255;
/// Linux's limit of symlinks in one path.
const SYMLINKS_MAX: u32 = 40;
/// Components of parents looked up for a member, on average and beyond the first
/// so many: with symlinks on the way a single member could take 100,000.
const STEPS_MEAN: u64 = 64;
const STEPS_FREE: u64 = 1 << 16;
/// Directories of the layer that its own members may replace by something else.
/// No program writes such tars, and where rows were removed others are found
/// more slowly.
const REPLACED_MAX: u32 = 1000;
/// Bytes that the links to a file repeat of it, its xattrs and holes, for all
/// links of a layer together: a link takes 512 bytes of a tar.
const REPEATED_MAX: u64 = 256 << 20;

/// Why a layer gets no index, or why it could not be made now.
#[derive(Debug)]
pub enum Failure {
    Refused(String),
    Error(Error),
}

impl From<storage::Error> for Failure {
    fn from(error: storage::Error) -> Failure {
        Failure::Error(error.into())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Error(error)
    }
}

fn refused<T>(reason: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Refused(reason.into()))
}

/// A name as a sentence can hold it.
fn show(path: &[u8]) -> String {
    const SHOWN: usize = 100;
    let more = if path.len() > SHOWN { "…" } else { "" };
    format!("/{}{more}", path[..path.len().min(SHOWN)].escape_ascii())
}

/// The components of a name that are some, `..` not going above the root.
fn normalise(name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(name.len());
    for component in name.split(|&b| b == b'/') {
        match component {
            b"" | b"." => {}
            b".." => pop(&mut path),
            _ => {
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend(component);
            }
        }
    }
    path
}

/// The components of a symlink's target or a path, the last one first.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|&b| b == b'/')
        .rev()
        .filter(|&c| !matches!(c, b"" | b"."))
        .map(<[u8]>::to_vec)
        .collect()
}

fn pop(path: &mut Vec<u8>) {
    let end = path.iter().rposition(|&b| b == b'/').unwrap_or(0);
    path.truncate(end);
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() }
}

/// The tree of a layer under way.
pub struct Tree<'a> {
    rows: LayerWriter<'a>,
    max_entries: u64,
    max_path: usize,
    /// Rows made, against `max_entries`.
    made: u64,
    /// Members that are something.
    pub entries: u64,
    cross_layer_links: Cell<u64>,
    has_aufs_links: bool,
    /// The last parent that was looked for, and where it is.
    parent: Option<(Vec<u8>, Vec<u8>)>,
    /// Components looked up, against [`STEPS_MEAN`] and the members so far.
    steps: u64,
    members: u64,
    /// Against [`REPLACED_MAX`] and [`REPEATED_MAX`].
    replaced: u32,
    repeated: Cell<u64>,
}

/// Whose parent directories are looked for. It decides what happens to missing ones.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ParentsOf {
    /// Missing directories are made, and they replace whatever is not a directory.
    Member,
    /// Missing directories are made, but they replace nothing.
    Whiteout,
    /// The target of a hard link: nothing is made.
    Target,
}

const HAS_PLACE: &str = "`walk` finds no place only for a whiteout";

/// A member that has its place; its content may still be read.
pub struct Placed {
    path: Vec<u8>,
    entry: Entry,
}

impl<'a> Tree<'a> {
    pub fn new(rows: LayerWriter<'a>, max_entries: u64, max_path: usize) -> Result<Tree<'a>> {
        rows.put_entry(b"", &Entry::implicit(Kind::Implicit))?;
        Ok(Tree {
            rows,
            max_entries,
            max_path,
            made: 1,
            entries: 0,
            cross_layer_links: Cell::default(),
            has_aufs_links: false,
            parent: None,
            steps: 0,
            members: 0,
            replaced: 0,
            repeated: Cell::default(),
        })
    }

    pub fn max_path(&self) -> usize {
        self.max_path
    }

    pub fn rows(&self) -> &LayerWriter<'a> {
        &self.rows
    }

    /// The rows, to be made visible or taken back.
    pub fn into_rows(self) -> LayerWriter<'a> {
        self.rows
    }

    /// Finds a member's place. `None`: it has none, or is a marker and done with.
    pub fn place(&mut self, member: Member) -> Result<Option<Placed>, Failure> {
        self.members += 1;
        let name = normalise(&member.path);
        if name.len() > self.max_path {
            return refused(format!(
                "{} is a path of {} bytes, more than {}",
                show(&name),
                name.len(),
                self.max_path
            ));
        }
        let (parent, base) = split(&name);
        // A whiteout never becomes a file, so its prefix does not count.
        let last = base.strip_prefix(WHITEOUT).unwrap_or(base);
        let mut names = parent.split(|&b| b == b'/').chain([last]);
        if let Some(long) = names.find(|name| name.len() > NAME_MAX) {
            return refused(format!(
                "{} has a name of {} bytes, more than {NAME_MAX}",
                show(&name),
                long.len()
            ));
        }
        if name.is_empty() {
            // Runtimes skip such a member, because the root exists already.
            if member.kind != tar::Kind::Directory {
                return Ok(None);
            }
            return Ok(Some(self.placed(Vec::new(), entry_of(member))));
        }
        let aufs_link =
            name.starts_with(AUFS_LINKS) && matches!(name.get(AUFS_LINKS.len()), None | Some(b'/'));
        self.has_aufs_links |= aufs_link;
        if name.starts_with(AUFS) && !aufs_link && name != OPAQUE {
            return Ok(None);
        }
        if base.starts_with(WHITEOUT) && !aufs_link {
            self.marker(parent, base)?;
            return Ok(None);
        }

        let parent = self.parent(parent, ParentsOf::Member)?.expect(HAS_PLACE);
        let path = join(&parent, base);
        let before = self.row(&path)?;
        let mut entry = match member.kind {
            tar::Kind::HardLink => match self.link(&path, &member)? {
                Some(entry) => entry,
                // To itself: what has the name already stays.
                None => return Ok(None),
            },
            _ => entry_of(member),
        };
        match before {
            Some(before) => {
                // A directory that takes the place of a whiteout merges with what lower layers have:
                // runtimes on overlayfs unpack it over the mark that the whiteout left.
                entry.hides = entry.is_directory() && before.is_directory() && before.hides;
                if !(before.is_directory() && entry.is_directory()) {
                    self.clear(&path, &before)?;
                }
            }
            None => {
                entry.hides = false;
                self.count()?;
            }
        }
        if entry.kind == Kind::CrossLayerLink {
            self.rows.put_foreign_link(&path)?;
            self.cross_layer_links.update(|n| n + 1);
        } else if entry.links > 1 {
            self.rows.put_name(entry.inode, &path)?;
        }
        Ok(Some(self.placed(path, entry)))
    }

    fn placed(&mut self, path: Vec<u8>, entry: Entry) -> Placed {
        self.entries += 1;
        Placed { path, entry }
    }

    /// Writes a member whose content has been read.
    pub fn put(&mut self, mut placed: Placed, sha256: Option<[u8; 32]>) -> Result<()> {
        if placed.entry.kind == Kind::Regular && placed.entry.sha256.is_none() {
            placed.entry.sha256 = sha256;
        }
        self.rows.put_entry(&placed.path, &placed.entry)
    }

    fn row(&self, path: &[u8]) -> Result<Option<Entry>> {
        self.rows.entry(path)
    }

    fn count(&mut self) -> Result<(), Failure> {
        self.made += 1;
        if self.made > self.max_entries {
            return refused(format!("it has more than {} entries", self.max_entries));
        }
        Ok(())
    }

    fn marker(&mut self, parent: &[u8], base: &[u8]) -> Result<(), Failure> {
        let removed = &base[WHITEOUT.len()..];
        if matches!(removed, b"" | b"." | b"..") {
            return Ok(());
        }
        let Some(parent) = self.parent(parent, ParentsOf::Whiteout)? else {
            return Ok(());
        };
        if base == OPAQUE {
            // overlayfs does not look for the mark on a layer's root.
            if !parent.is_empty()
                && let Some(row) = self.row(&parent)?
            {
                self.rows.put_entry(&parent, &Entry { hides: true, ..row })?;
            }
            return Ok(());
        }
        let path = join(&parent, removed);
        match self.row(&path)? {
            Some(row) => self.clear(&path, &row)?,
            None => self.count()?,
        }
        Ok(self.rows.put_entry(&path, &Entry::implicit(Kind::Whiteout))?)
    }

    /// Removes what this layer has at `path` so far, because another member replaces it.
    fn clear(&mut self, path: &[u8], row: &Entry) -> Result<(), Failure> {
        // The way to the last parent may lead through it.
        if row.kind == Kind::Symlink || row.is_directory() {
            self.parent = None;
        }
        if row.is_directory() {
            self.replaced += 1;
            if self.replaced > REPLACED_MAX {
                return refused(format!(
                    "it replaces more than {REPLACED_MAX} directories of its own"
                ));
            }
            self.remove_below(path)?;
        }
        Ok(self.unlink(path, row)?)
    }

    /// The path of a parent directory in this layer. It is `None` for a whiteout below something
    /// that is not a directory, because there is nothing for that whiteout to hide.
    fn parent(&mut self, name: &[u8], parents: ParentsOf) -> Result<Option<Vec<u8>>, Failure> {
        if let Some((known, path)) = &self.parent
            && known == name
        {
            return Ok(Some(path.clone()));
        }
        let path = self.walk(name, parents)?;
        if let Some(path) = &path {
            self.parent = Some((name.to_vec(), path.clone()));
        }
        Ok(path)
    }

    /// A directory's path with the layer's own symlinks followed; `None` as for [`Tree::parent`].
    fn walk(&mut self, name: &[u8], parents: ParentsOf) -> Result<Option<Vec<u8>>, Failure> {
        let mut left = components(name);
        let (mut path, mut symlinks) = (Vec::new(), 0);
        while let Some(component) = left.pop() {
            self.steps += 1;
            if self.steps > STEPS_FREE + STEPS_MEAN * self.members {
                return refused(format!(
                    "{} and others lead through too many directories and symlinks",
                    show(name)
                ));
            }
            if component == b".." {
                pop(&mut path);
                continue;
            }
            let next = join(&path, &component);
            let row = self.row(&next)?;
            if let Some(row) = &row
                && row.kind == Kind::Symlink
            {
                symlinks += 1;
                left.extend(components(&row.link));
                if symlinks > SYMLINKS_MAX || left.len() > self.max_path {
                    return refused(format!("{} leads through a loop of symlinks", show(name)));
                }
                if row.link.starts_with(b"/") {
                    path.clear();
                }
                continue;
            }
            if next.len() > self.max_path {
                return refused(format!(
                    "{} leads through symlinks to too long a path",
                    show(name)
                ));
            }
            path = next;
            let made = Entry::implicit(Kind::Implicit);
            let row = match row {
                _ if parents == ParentsOf::Target => continue,
                Some(row) if row.is_directory() => continue,
                Some(_) if parents == ParentsOf::Whiteout => return Ok(None),
                Some(row) => {
                    self.unlink(&path, &row)?;
                    Entry { hides: row.kind == Kind::Whiteout, ..made }
                }
                None => {
                    self.count()?;
                    made
                }
            };
            self.rows.put_entry(&path, &row)?;
        }
        Ok(Some(path))
    }

    /// What a hard link at `path` is. `None`: it links to itself.
    fn link(&mut self, path: &[u8], member: &Member) -> Result<Option<Entry>, Failure> {
        // Symlinks are followed before `..`, but the last component is not.
        let (parent, base) = split(&member.link);
        let parent = self.walk(parent, ParentsOf::Target)?.expect(HAS_PLACE);
        let target = normalise(&join(&parent, base));
        if target == path {
            return Ok(None);
        }
        let mut foreign = Entry {
            mode: member.mode,
            uid: member.uid,
            gid: member.gid,
            mtime: member.mtime,
            inode: member.header_offset,
            ..Entry::implicit(Kind::CrossLayerLink)
        };
        match self.row(&target)? {
            None => foreign.link = target,
            Some(row) if row.kind == Kind::Whiteout => foreign.link = target,
            Some(row) if row.is_directory() => {
                return refused(format!("{} is a hard link to a directory", show(path)));
            }
            Some(row) if row.kind == Kind::CrossLayerLink => foreign.link = row.link,
            Some(mut row) => {
                self.repeat(&row)?;
                if row.links == 1 {
                    // The true number is known at the end.
                    row.links = 2;
                    self.rows.put_entry(&target, &row)?;
                    self.rows.put_name(row.inode, &target)?;
                }
                return Ok(Some(row));
            }
        }
        Ok(Some(foreign))
    }

    /// Counts what a link repeats of its target.
    fn repeat(&self, target: &Entry) -> Result<(), Failure> {
        let xattrs = target.xattrs.iter().map(|(k, v)| k.len() + v.len());
        let extents = target.sparse.as_ref().map_or(0, Vec::len);
        let size = target.link.len() + xattrs.sum::<usize>() + extents * size_of::<Extent>();
        self.repeated.update(|repeated| repeated + size as u64);
        if self.repeated.get() > REPEATED_MAX {
            return refused(format!(
                "its hard links repeat more than {REPEATED_MAX} bytes of attributes"
            ));
        }
        Ok(())
    }

    /// Forgets what is known of a row's inode before another row takes its place.
    fn unlink(&self, path: &[u8], row: &Entry) -> Result<()> {
        if row.kind == Kind::CrossLayerLink {
            self.rows.delete_foreign_link(path)?;
            self.cross_layer_links.update(|n| n - 1);
        } else if row.links > 1 {
            self.rows.delete_name(row.inode, path)?;
        }
        Ok(())
    }

    /// Removes what lies below a directory. What it hides in lower layers stays
    /// hidden by what takes its place.
    fn remove_below(&self, directory: &[u8]) -> Result<()> {
        // A level after the other, so nothing has to be remembered of them.
        for levels in 1.. {
            let mut found = false;
            // Rows removed while they are read: the iterator sees what was there.
            for row in self.rows.below(directory, levels) {
                let (name, row) = row?;
                let path = join(directory, &name);
                self.unlink(&path, &row)?;
                self.rows.delete_entry(&path)?;
                found = true;
            }
            if !found {
                break;
            }
        }
        Ok(())
    }

    /// What can only be known when all members are there. Gives the number of
    /// links to what a lower layer may hold.
    pub fn finish(&mut self) -> Result<u64, Failure> {
        self.resolve_foreign()?;
        if self.has_aufs_links {
            self.remove_below(AUFS_LINKS)?;
            self.rows.delete_entry(AUFS_LINKS)?;
        }
        self.count_links()?;
        Ok(self.cross_layer_links.get())
    }

    /// Links whose target came after them.
    fn resolve_foreign(&self) -> Result<(), Failure> {
        if self.cross_layer_links.get() == 0 {
            return Ok(());
        }
        for path in self.rows.cross_layer_links() {
            let path = path?;
            let Some(link) = self.row(&path)? else {
                continue;
            };
            let Some(mut target) = self.row(&link.link)? else {
                continue;
            };
            let is_file = !target.is_directory()
                && !matches!(target.kind, Kind::Whiteout | Kind::CrossLayerLink);
            if !is_file || link.link == path {
                continue;
            }
            self.repeat(&target)?;
            self.unlink(&path, &link)?;
            target.links = 2;
            self.rows.put_name(target.inode, &link.link)?;
            self.rows.put_name(target.inode, &path)?;
            self.rows.put_entry(&link.link, &target)?;
            let hides = link.hides;
            self.rows.put_entry(&path, &Entry { hides, ..target })?;
        }
        Ok(())
    }

    fn count_links(&self) -> Result<()> {
        let mut group = (0, 0);
        self.rows.linked(|inode, _| {
            if inode != group.0 {
                self.set_links(group)?;
                group = (inode, 0);
            }
            group.1 += 1;
            Ok(())
        })?;
        self.set_links(group)
    }

    fn set_links(&self, (inode, links): (u64, u32)) -> Result<()> {
        if links == 0 {
            return Ok(());
        }
        for path in self.rows.names(inode) {
            let path = path?;
            if let Some(row) = self.row(&path)?
                && row.inode == inode
            {
                self.rows.put_entry(&path, &Entry { links, ..row })?;
            }
        }
        Ok(())
    }
}

fn entry_of(member: Member) -> Entry {
    let kind = match member.kind {
        tar::Kind::Regular | tar::Kind::HardLink => Kind::Regular,
        tar::Kind::Directory => Kind::Directory,
        tar::Kind::Symlink => Kind::Symlink,
        tar::Kind::Character => Kind::Character,
        tar::Kind::Block => Kind::Block,
        tar::Kind::Fifo => Kind::Fifo,
    };
    let symlink = kind == Kind::Symlink;
    Entry {
        kind,
        // Linux shows no other mode of a symlink.
        mode: if symlink { 0o777 } else { member.mode },
        uid: member.uid,
        gid: member.gid,
        mtime: member.mtime,
        size: if symlink { member.link.len() as u64 } else { member.size },
        offset: member.data_offset,
        inode: member.header_offset,
        links: 1,
        hides: false,
        // As many bits as mknod(2) takes.
        device: (member.device.0 & 0xfff, member.device.1 & 0xf_ffff),
        link: if symlink { member.link } else { Vec::new() },
        xattrs: member.xattrs,
        sparse: member.sparse,
        sha256: None,
    }
}

#[cfg(test)]
mod tests;
