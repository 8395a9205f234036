//! The mount as a tree, without the kernel: names above, images below. What is
//! below an image never changes; what is above is looked up each time.
//!
//! Nothing here waits unless it is told that it may: see [`Patience`].

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::error::{Error, Result};
use super::inodes::{Leaf, Numbers, ROOT, Thing, Unshown, View};
use super::names::{self, NAME_MAX, Name};
use crate::image::{self, At, Image, Images, Node, Platform};
use crate::index::records::{Kind, Time};
use crate::oci::{Reference, Repository};

/// How long the kernel may keep what never changes.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);
/// Bytes of nodes kept, of all images.
const NODES: u64 = 16 << 20;
/// Places in directories kept where somebody may go on reading.
const PLACES: usize = 4096;
/// Listings of names kept for those who are reading them.
const LISTINGS: usize = 32;
/// Tags of one repository that are listed.
const TAGS_MAX: usize = 1 << 20;
/// What a directory takes on most file systems, and is a unit of space there.
const BLOCK: u64 = 4096;
/// Bytes of a unit of `st_blocks`.
const SECTOR: u64 = 512;
/// Symlinks shorter than this take no block on ext4 (`EXT4_N_BLOCKS * 4`).
const FAST_LINK: u64 = 60;

/// Whether a thread has time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// What would have to be indexed, decoded or searched for is
    /// [`Error::Waits`].
    Now,
    Waits,
}

/// How things are shown.
#[derive(Clone, Debug)]
pub struct Look {
    /// Of images for several; otherwise the host's.
    pub platform: Option<Platform>,
    /// Everything's owner.
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// Whose the directories above the images are.
    pub user: (u32, u32),
    /// How long a tag's meaning may be taken for granted.
    pub tag_ttl: Duration,
}

/// What stat shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes {
    pub number: u64,
    pub kind: Kind,
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Time,
    pub size: u64,
    /// Of 512 bytes.
    pub blocks: u64,
    pub links: u32,
    pub device: (u32, u32),
}

impl Attributes {
    /// Of a directory that is no image's.
    fn of_directory(number: u64) -> Attributes {
        Attributes {
            number,
            kind: Kind::Directory,
            mode: 0o555,
            uid: 0,
            gid: 0,
            mtime: Time::default(),
            size: 0,
            blocks: 0,
            links: 1,
            device: (0, 0),
        }
    }
}

/// A child, and how long it stays so.
#[derive(Debug)]
pub struct Found {
    pub attributes: Attributes,
    pub ttl: Duration,
}

/// A child in a listing.
#[derive(Debug)]
pub struct Listed<'a> {
    pub name: &'a [u8],
    /// Where the listing goes on after it.
    pub next: u64,
    pub found: Found,
}

/// What lies at a number inside an image.
#[derive(Debug)]
pub struct Open {
    pub view: Arc<View>,
    pub node: Node,
}

/// A file that has content, in its directory's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InOrder {
    /// Bytes.
    pub size: u64,
    /// Whether it is the first.
    pub first: bool,
    /// The number of the next one; 0: there is none.
    pub next: u64,
}

#[derive(Clone, Debug)]
struct ByBytes;

impl Weighter<u64, Arc<Open>> for ByBytes {
    fn weight(&self, _: &u64, open: &Arc<Open>) -> u64 {
        let entry = &open.node.entry;
        let xattrs = entry.xattrs.iter().map(|(k, v)| 48 + k.len() + v.len());
        let sparse = entry.sparse.iter().flatten().count() * 16;
        let variable = open.node.path.len() + entry.link.len() + xattrs.sum::<usize>() + sparse;
        (size_of::<Open>() + 96 + 8 * open.node.dirs.len() + variable) as u64
    }
}

/// What a listing has of files with content so far, by numbers; 0: none.
#[derive(Clone, Copy, Debug, Default)]
struct Files {
    first: u64,
    last: u64,
}

/// Where a listing goes on.
#[derive(Clone, Debug)]
enum Place {
    From(Arc<[u8]>, Files),
    End(Files),
}

/// The names of a directory above the images, as they were at a time.
#[derive(Debug)]
struct Listing {
    number: u64,
    entries: Vec<(String, Thing)>,
}

#[derive(Debug)]
pub struct Tree {
    images: Arc<Images>,
    look: Look,
    numbers: Mutex<Numbers>,
    nodes: Cache<u64, Arc<Open>, ByBytes>,
    places: Cache<(u64, u64), Place>,
    listings: Cache<u64, Arc<Listing>>,
    /// Tells listings apart.
    next_listing: AtomicU64,
}

impl Tree {
    /// With `image` its root is the tree's.
    pub fn new(images: Arc<Images>, look: Look, image: Option<(String, Arc<Image>)>) -> Tree {
        const TYPICAL: u64 = 512;
        let root = match image {
            Some((name, image)) => Thing::Directory(Arc::new(View { name, image }), Arc::default()),
            None => Thing::Names("".into()),
        };
        Tree {
            images,
            look,
            numbers: Mutex::new(Numbers::new(root)),
            nodes: Cache::with_weighter((NODES / TYPICAL) as usize, NODES, ByBytes),
            places: Cache::new(PLACES),
            listings: Cache::new(LISTINGS),
            next_listing: AtomicU64::new(1),
        }
    }

    fn numbers(&self) -> MutexGuard<'_, Numbers> {
        // No invariant is broken half way.
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn thing(&self, number: u64) -> Result<Thing> {
        self.numbers().get(number).cloned().ok_or(Error::Stale)
    }

    /// The number of what the kernel is about to be told of.
    fn tell(&self, thing: Thing) -> u64 {
        // What it says of itself is kept with the number.
        let is_leaf = matches!(thing, Thing::Leaf(_));
        let (number, new) = self.numbers().tell(thing);
        if new && !is_leaf {
            // Of what had the number before, if it was forgotten meanwhile.
            self.nodes.remove(&number);
        }
        number
    }

    pub fn forget(&self, number: u64, times: u64) {
        if self.numbers().forget(number, times) {
            self.nodes.remove(&number);
        }
    }

    /// What lies at a number, if that is inside an image.
    fn open(&self, number: u64) -> Result<Option<Arc<Open>>> {
        if let Some(open) = self.nodes.get(&number) {
            return Ok(Some(open));
        }
        let (view, node) = match self.thing(number)? {
            Thing::Names(_) | Thing::Unopened(_) => return Ok(None),
            Thing::Unshown(unshown) => {
                return Err(Error::Unshown {
                    name: unshown.name.clone(),
                    why: unshown.why.clone(),
                });
            }
            Thing::Directory(view, path) => {
                let node = view.image.node(&path, false)?;
                (view, node)
            }
            Thing::Leaf(leaf) => {
                let node = leaf.view.image.node(&leaf.path, false)?;
                (leaf.view, node)
            }
        };
        let open = Arc::new(Open { view, node });
        self.nodes.insert(number, Arc::clone(&open));
        Ok(Some(open))
    }

    pub fn attributes(&self, number: u64, patience: Patience) -> Result<Found> {
        match self.thing(number)? {
            thing @ (Thing::Names(_) | Thing::Unopened(_) | Thing::Unshown(_)) => {
                Ok(self.outside(number, &thing))
            }
            Thing::Directory(..) | Thing::Leaf(_) => match self.open(number)? {
                Some(open) => self.inside(number, &open.view, &open.node, patience),
                None => Err(Error::Stale),
            },
        }
    }

    /// What is no part of an image.
    fn outside(&self, number: u64, thing: &Thing) -> Found {
        let (uid, gid) = self.look.user;
        // A listing that the kernel keeps is made anew when the time differs.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.unwrap_or_default();
        let attributes = Attributes {
            uid: self.look.uid.unwrap_or(uid),
            gid: self.look.gid.unwrap_or(gid),
            mtime: Time {
                seconds: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
                nanoseconds: now.subsec_nanos(),
            },
            ..Attributes::of_directory(number)
        };
        let ttl = match thing {
            Thing::Unopened(_) => Duration::ZERO,
            _ => self.look.tag_ttl,
        };
        Found { attributes, ttl }
    }

    fn inside(&self, number: u64, view: &View, node: &Node, patience: Patience) -> Result<Found> {
        if patience == Patience::Now && !view.image.knows_links(node) {
            return Err(Error::Waits);
        }
        let entry = &node.entry;
        let space = |bytes: u64| bytes.div_ceil(BLOCK).saturating_mul(BLOCK / SECTOR);
        let (size, blocks) = match entry.kind {
            Kind::Regular => {
                let stored = match &entry.sparse {
                    None => space(entry.size),
                    Some(extents) => extents.iter().map(|extent| space(extent.length)).sum(),
                };
                (entry.size, stored)
            }
            Kind::Symlink if entry.size < FAST_LINK => (entry.size, 0),
            Kind::Symlink => (entry.size, space(entry.size)),
            _ if node.is_directory() => (BLOCK, BLOCK / SECTOR),
            _ => (0, 0),
        };
        let attributes = Attributes {
            number,
            kind: entry.kind,
            mode: entry.mode & 0o7777,
            uid: self.look.uid.unwrap_or(entry.uid),
            gid: self.look.gid.unwrap_or(entry.gid),
            mtime: entry.mtime,
            size,
            blocks,
            links: view.image.links(node)?,
            device: entry.device,
        };
        let ttl = FOREVER;
        Ok(Found { attributes, ttl })
    }

    /// What a directory has under a name. What is found counts as told.
    pub fn lookup(&self, parent: u64, name: &[u8], patience: Patience) -> Result<Option<Found>> {
        if name.len() > NAME_MAX {
            let at = At::new("the mount", name);
            return Err(image::Error::NameTooLong(at).into());
        }
        if let Some(directory) = self.open(parent)? {
            let image = &directory.view.image;
            return match image.lookup(&directory.node, name)? {
                Some(node) => self.show(&directory.view, node, patience).map(Some),
                None => Ok(None),
            };
        }
        let Thing::Names(prefix) = self.thing(parent)? else {
            return Err(Error::Stale);
        };
        match names::parse(&prefix, name) {
            None => Ok(None),
            Some(Name::Below(below)) => {
                if !self.images.layers().storage().has_below(&below)? {
                    return Ok(None);
                }
                let thing = Thing::Names(below.as_str().into());
                Ok(Some(self.outside(self.tell(thing.clone()), &thing)))
            }
            Some(Name::Image { repository, reference, platform }) => {
                let name = names::join(&prefix, &String::from_utf8_lossy(name));
                self.look_up_image(name, &repository, &reference, platform, patience)
            }
        }
    }

    /// How long a look-up that found nothing may be remembered.
    pub fn absence(&self, parent: u64) -> Option<Duration> {
        match self.thing(parent) {
            Ok(Thing::Directory(..)) => Some(FOREVER),
            _ => None,
        }
    }

    fn look_up_image(
        &self,
        name: String,
        repository: &Repository,
        reference: &Reference,
        platform: Option<Platform>,
        patience: Patience,
    ) -> Result<Option<Found>> {
        let by_platform = platform.is_some();
        let platform = platform.or_else(|| self.look.platform.clone());
        let platform = platform.as_ref();
        let opened = match patience {
            Patience::Now => match self.images.opened_in(repository, reference, platform) {
                Ok(Some(image)) => Ok(image),
                Ok(None) => return Err(Error::Waits),
                Err(error) => Err(error),
            },
            Patience::Waits => self.images.open_in(repository, reference, platform),
        };
        let error = match opened {
            Ok(image) => {
                let root = image.root().clone();
                let view = Arc::new(View { name, image });
                let mut found = self.show(&view, root, patience)?;
                found.ttl = self.look.tag_ttl;
                return Ok(Some(found));
            }
            Err(error) => Error::from(error),
        };
        let no_platform = matches!(&error, Error::Image(image::Error::NoPlatform { .. }));
        if error.errno() == libc::ENOENT && (by_platform || !no_platform) {
            return Ok(None);
        }
        tracing::warn!(image = name, %error, "an image cannot be shown");
        let unshown = Unshown { name, why: error.to_string() };
        let thing = Thing::Unshown(Arc::new(unshown));
        Ok(Some(self.outside(self.tell(thing.clone()), &thing)))
    }

    /// Tells of a part of an image.
    fn show(&self, view: &Arc<View>, node: Node, patience: Patience) -> Result<Found> {
        // Before it is told of: an error tells of nothing.
        let mut found = self.inside(0, view, &node, patience)?;
        if !node.is_directory() {
            let leaf = Leaf {
                identity: view.image.identity(&node)?,
                view: Arc::clone(view),
                content: node.content(),
                path: node.path.into(),
                first: false,
                next: 0,
            };
            found.attributes.number = self.tell(Thing::Leaf(Box::new(leaf)));
            return Ok(found);
        }
        let path = node.path.as_slice().into();
        let number = self.tell(Thing::Directory(Arc::clone(view), path));
        found.attributes.number = number;
        // It will be listed, or looked up in.
        if self.nodes.peek(&number).is_none() {
            let view = Arc::clone(view);
            self.nodes.insert(number, Arc::new(Open { view, node }));
        }
        Ok(found)
    }

    /// Lists a directory from a place on: 0, or one that it gave before. `take`
    /// says whether it took the child, which then counts as told; the first that
    /// it does not take is the last it is asked for. At the end of a directory
    /// that was listed before gives the first file with content; otherwise 0.
    pub fn list(
        &self,
        number: u64,
        place: u64,
        patience: Patience,
        take: &mut dyn FnMut(&Listed) -> bool,
    ) -> Result<u64> {
        match self.open(number)? {
            Some(directory) => self.list_inside(number, &directory, place, patience, take),
            None => self.list_names(number, place, patience, take).map(|()| 0),
        }
    }

    /// `.` and `..`, of which the kernel takes the names and the kind alone
    /// (`fuse_direntplus_link`).
    fn list_dots(&self, number: u64, place: u64, take: &mut dyn FnMut(&Listed) -> bool) -> bool {
        let names = [b".".as_slice(), b".."].into_iter().zip(1..);
        names.filter(|(_, next)| place < *next).all(|(name, next)| {
            let attributes = Attributes::of_directory(number);
            let ttl = Duration::ZERO;
            let found = Found { attributes, ttl };
            take(&Listed { name, next, found })
        })
    }

    fn list_inside(
        &self,
        number: u64,
        directory: &Open,
        place: u64,
        patience: Patience,
        take: &mut dyn FnMut(&Listed) -> bool,
    ) -> Result<u64> {
        if !self.list_dots(number, place, take) {
            return Ok(0);
        }
        // Children are counted from 2 on.
        let first = place.max(2);
        let mut at = first;
        let (from, mut files, skip) = match self.places.get(&(number, at)) {
            Some(Place::End(files)) => return Ok(files.first),
            Some(Place::From(from, files)) => (from, files, 0),
            None => (Arc::default(), Files::default(), at - 2),
        };
        let (view, image) = (&directory.view, &directory.view.image);
        let children = image.children(&directory.node, &from)?;
        let mut children = children.skip(usize::try_from(skip).unwrap_or(usize::MAX));
        for child in &mut children {
            let child = child?;
            let name = child.name().to_vec();
            let content = child.content().is_some_and(|content| content.size() > 0);
            let found = match self.show(view, child, patience) {
                // What was taken is given; the rest is asked for.
                Err(Error::Waits) if at > first || place < 2 => {
                    let place = Place::From(name.into(), files);
                    self.places.insert((number, at), place);
                    return Ok(0);
                }
                found => found?,
            };
            let child = found.attributes.number;
            let next = at + 1;
            let listed = Listed { name: &name, next, found };
            if !take(&listed) {
                self.forget(child, 1);
                let place = Place::From(name.into(), files);
                self.places.insert((number, at), place);
                return Ok(0);
            }
            if content {
                self.numbers().order(files.last, child);
                files.last = child;
                if files.first == 0 {
                    files.first = child;
                }
            }
            at = next;
        }
        self.places.insert((number, at), Place::End(files));
        Ok(0)
    }

    fn list_names(
        &self,
        number: u64,
        place: u64,
        patience: Patience,
        take: &mut dyn FnMut(&Listed) -> bool,
    ) -> Result<()> {
        // A listing's number, and a place in it.
        let (id, mut at) = (place >> 32, place & u64::from(u32::MAX));
        let known = self.listings.get(&id).filter(|l| l.number == number);
        let (id, listing) = match known {
            Some(listing) => (id, listing),
            None if patience == Patience::Now => return Err(Error::Waits),
            None => self.list_anew(number)?,
        };
        let dots = self.list_dots(number, at, &mut |dot| {
            let attributes = dot.found.attributes.clone();
            let ttl = dot.found.ttl;
            take(&Listed {
                name: dot.name,
                next: id << 32 | dot.next,
                found: Found { attributes, ttl },
            })
        });
        if !dots {
            return Ok(());
        }
        at = at.max(2);
        let rest = listing.entries.get((at - 2) as usize..).unwrap_or_default();
        for (name, thing) in rest {
            at += 1;
            let found = self.list_name(thing)?;
            let child = found.attributes.number;
            let listed = Listed { name: name.as_bytes(), next: id << 32 | at, found };
            if !take(&listed) {
                self.forget(child, 1);
                break;
            }
        }
        Ok(())
    }

    /// What a listing of names says of one. Where images are looked into already
    /// the kernel must not be told of anything else, or it would take it for
    /// another and drop what it knows.
    fn list_name(&self, thing: &Thing) -> Result<Found> {
        if let Thing::Unopened(name) = thing {
            let known = self.numbers().tell_again(name);
            if let Some(number) = known {
                let mut found = self.attributes(number, Patience::Waits)?;
                found.ttl = Duration::ZERO;
                return Ok(found);
            }
        }
        Ok(self.outside(self.tell(thing.clone()), thing))
    }

    fn list_anew(&self, number: u64) -> Result<(u64, Arc<Listing>)> {
        let Thing::Names(prefix) = self.thing(number)? else {
            return Err(Error::Stale);
        };
        let storage = self.images.layers().storage();
        let mut entries = Vec::new();
        for folder in storage.folders(&prefix)?.unwrap_or_default() {
            let Ok(repository) = names::join(&prefix, &folder.name).parse::<Repository>() else {
                continue;
            };
            if folder.repository {
                self.list_tags(&prefix, &folder.name, &repository, &mut entries)?;
            }
            if folder.below {
                entries.push((folder.name, Thing::Names(repository.as_str().into())));
            }
        }
        entries.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let listing = Arc::new(Listing { number, entries });
        // Places stay positive for those who take them as signed.
        const IDS: u64 = (1 << 31) - 1;
        let id = self.next_listing.fetch_add(1, Ordering::Relaxed) % IDS + 1;
        self.listings.insert(id, Arc::clone(&listing));
        Ok((id, listing))
    }

    fn list_tags(
        &self,
        prefix: &str,
        base: &str,
        repository: &Repository,
        entries: &mut Vec<(String, Thing)>,
    ) -> Result<()> {
        let storage = self.images.layers().storage();
        let unopened = |name: String| {
            let path = names::join(prefix, &name);
            (name, Thing::Unopened(path.into()))
        };
        let wanted = self.look.platform.clone().unwrap_or_else(Platform::host);
        for tag in storage.tags(repository, "", TAGS_MAX)?.items {
            entries.extend(names::image(base, &tag, None).map(unopened));
            let reference = Reference::Tag(tag.clone());
            // One that is gone or cannot be read is listed by its tag alone.
            let platforms: BTreeSet<Platform> =
                self.images.platforms(repository, &reference).unwrap_or_default();
            let others = |platform: &&Platform| **platform != wanted && !platform.is_unknown();
            for platform in platforms.iter().filter(others) {
                entries.extend(names::image(base, &tag, Some(platform)).map(unopened));
            }
        }
        Ok(())
    }

    /// Content of a file. `buffer` is as long as what was asked for; how much of
    /// it was filled.
    pub fn read(
        &self,
        number: u64,
        offset: u64,
        buffer: &mut [u8],
        patience: Patience,
    ) -> Result<usize> {
        let leaf = self.numbers().leaf(number).cloned();
        if let Some(leaf) = leaf
            && let Some(content) = &leaf.content
        {
            let image = &leaf.view.image;
            if patience == Patience::Now && !image.is_decoded(content, offset, buffer.len()) {
                return Err(Error::Waits);
            }
            return Ok(image.read_content(content, &leaf.path, offset, buffer)?);
        }
        let open = self.inside_image(number)?;
        if patience == Patience::Now && !open.node.is_directory() {
            return Err(Error::Waits);
        }
        Ok(open.view.image.read(&open.node, offset, buffer)?)
    }

    pub fn in_order(&self, number: u64) -> Option<InOrder> {
        let numbers = self.numbers();
        let leaf = numbers.leaf(number)?;
        Some(InOrder { size: leaf.content?.size(), first: leaf.first, next: leaf.next })
    }

    fn inside_image(&self, number: u64) -> Result<Arc<Open>> {
        let outside = || image::Error::IsDirectory(At::new("the mount", b"")).into();
        self.open(number)?.ok_or_else(outside)
    }

    pub fn link(&self, number: u64) -> Result<Vec<u8>> {
        let open = self.inside_image(number)?;
        Ok(open.view.image.readlink(&open.node)?.to_vec())
    }

    /// The value of an extended attribute: the image's, or one that says where
    /// things are from.
    pub fn xattr(&self, number: u64, name: &[u8]) -> Result<Vec<u8>> {
        let thing = self.thing(number)?;
        let about = name.strip_prefix(b"user.registry.");
        let text = |text: &str| Ok(text.as_bytes().to_vec());
        let view = match &thing {
            Thing::Names(_) => return Err(Error::NoAttribute),
            Thing::Unopened(name) => {
                return match about {
                    Some(b"reference") => text(name),
                    _ => Err(Error::NoAttribute),
                };
            }
            Thing::Unshown(unshown) => {
                return match about {
                    Some(b"reference") => text(&unshown.name),
                    Some(b"error") => text(&unshown.why),
                    _ => Err(Error::NoAttribute),
                };
            }
            Thing::Directory(view, path) if path.is_empty() => Some(view),
            Thing::Directory(..) | Thing::Leaf(_) => None,
        };
        let open = self.inside_image(number)?;
        let (image, entry) = (&open.view.image, &open.node.entry);
        match (about, view, entry.sha256) {
            (Some(b"reference"), Some(view), _) => return text(&view.name),
            (Some(b"digest"), Some(view), _) => return text(&view.image.manifest.to_string()),
            (Some(b"sha256"), None, Some(digest)) => {
                return text(&crate::oci::Digest::Sha256(digest).hex());
            }
            (Some(b"layer"), None, _) => {
                if let Some(layer) = image.layers.get(open.node.layer) {
                    return text(&layer.digest.to_string());
                }
            }
            _ => {}
        }
        let mut own = entry.xattrs.iter();
        match own.find(|(own, _)| own == name) {
            Some((_, value)) => Ok(value.clone()),
            None => Err(Error::NoAttribute),
        }
    }

    /// The names of the image's own extended attributes, each with a zero behind
    /// it. Those that say where things are from are not listed, so that a copy
    /// has what the image has.
    pub fn xattrs(&self, number: u64) -> Result<Vec<u8>> {
        let open = match self.open(number) {
            Ok(Some(open)) => open,
            Ok(None) => return Ok(Vec::new()),
            Err(Error::Unshown { .. }) => return Ok(b"user.registry.error\0".to_vec()),
            Err(error) => return Err(error),
        };
        let mut names = Vec::new();
        for (name, _) in &open.node.entry.xattrs {
            names.extend(name);
            names.push(0);
        }
        Ok(names)
    }

    /// Where data or a hole is next (`SEEK_DATA`, `SEEK_HOLE`).
    pub fn seek(&self, number: u64, offset: u64, hole: bool) -> Result<u64> {
        let open = self.inside_image(number)?;
        let entry = &open.node.entry;
        if offset >= entry.size {
            return Err(Error::Seek);
        }
        let Some(extents) = &entry.sparse else {
            return Ok(if hole { entry.size } else { offset });
        };
        let mut at = offset;
        for extent in extents.iter().filter(|extent| extent.length > 0) {
            let end = extent.offset.saturating_add(extent.length);
            if at < extent.offset {
                return Ok(if hole { at } else { extent.offset });
            }
            if at < end {
                if !hole {
                    return Ok(at);
                }
                at = end;
            }
        }
        match hole {
            true => Ok(at.min(entry.size)),
            false => Err(Error::Seek),
        }
    }

    /// Names a number in messages.
    pub fn describe(&self, number: u64) -> String {
        match self.thing(number) {
            Ok(Thing::Names(name)) if number == ROOT && name.is_empty() => "/".to_owned(),
            Ok(Thing::Names(name) | Thing::Unopened(name)) => format!("/{name}"),
            Ok(Thing::Unshown(unshown)) => format!("/{}", unshown.name),
            Ok(Thing::Directory(view, path)) => format!("/{}/{}", view.name, path.escape_ascii()),
            Ok(Thing::Leaf(leaf)) => format!("/{}/{}", leaf.view.name, leaf.path.escape_ascii()),
            Err(_) => format!("number {number}"),
        }
    }
}
