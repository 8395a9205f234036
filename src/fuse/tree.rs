//! The mount as a file system, without the kernel: names above, images below. What is below an
//! image never changes; what is above is looked up each time, and opens no image.
//!
//! Nothing here waits unless [`MayBlock`] permits it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::unistd::{getgid, getuid};
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::error::{Error, Result, Slow};
use super::inodes::{Inode, Inodes, Leaf, NUMBERS, NUMBERS_32, Order, Root};
use super::listing::{Listings, Place};
use super::names::{self, NAME_MAX, Name};
use crate::image::{self, At, FileTree, Kind, MayBlock, Node, Platform, Target, Time, View};
use crate::oci::{Digest, Reference, Repository};

/// How long the kernel may keep what never changes.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);
/// Bytes of nodes kept, of all images together.
const NODES: u64 = 16 << 20;
/// Places in directories that are kept because a listing may go on there.
const PLACES: usize = 4096;
/// The size of a directory on most file systems, and their unit of space.
const BLOCK: u64 = 4096;
/// Bytes of a unit of `st_blocks`.
const SECTOR: u64 = 512;
/// Symlinks shorter than this take no block on ext4 (`EXT4_N_BLOCKS * 4`).
const FAST_LINK: u64 = 60;
/// The permissions of directories above the images, and of images' roots.
const NAMES_MODE: u16 = 0o555;
const ROOT_MODE: u16 = 0o755;

/// How images are shown.
#[derive(Clone, Debug)]
pub struct ViewOptions {
    /// The platform shown of images for several; without it, the host's.
    pub platform: Option<Platform>,
    /// The owner and group of everything, instead of the image's.
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// The owner and group of the directories above the images.
    pub user: (u32, u32),
    /// How long the kernel may keep what a tag means.
    pub tag_ttl: Duration,
    /// Whether inode numbers fit in 32 bits.
    pub inode32: bool,
}

impl Default for ViewOptions {
    /// How images are shown to the user of this process.
    fn default() -> ViewOptions {
        ViewOptions {
            platform: None,
            uid: None,
            gid: None,
            user: (getuid().as_raw(), getgid().as_raw()),
            tag_ttl: Duration::from_secs(1),
            inode32: false,
        }
    }
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
    /// Units of 512 bytes.
    pub blocks: u64,
    pub links: u32,
    pub device: (u32, u32),
}

impl Attributes {
    pub(super) fn of_directory(number: u64) -> Attributes {
        Attributes {
            number,
            kind: Kind::Directory,
            mode: NAMES_MODE,
            uid: 0,
            gid: 0,
            mtime: Time::default(),
            size: BLOCK,
            blocks: BLOCK / SECTOR,
            links: 1,
            device: (0, 0),
        }
    }
}

/// A file or directory, and how long the kernel may keep it.
#[derive(Debug)]
pub struct Found {
    pub attributes: Attributes,
    pub ttl: Duration,
}

/// What lies at a number inside an image.
#[derive(Debug)]
pub(super) struct Open {
    pub root: Arc<Root>,
    pub image: Arc<dyn FileTree>,
    pub node: Node,
}

/// A file with content, and its place in its directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InOrder {
    /// Bytes.
    pub size: u64,
    pub order: Order,
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

#[derive(Debug)]
pub struct Tree {
    pub(super) view: Arc<dyn View>,
    pub(super) options: ViewOptions,
    inodes: Mutex<Inodes>,
    nodes: Cache<u64, Arc<Open>, ByBytes>,
    pub(super) places: Cache<(u64, u64), Place>,
    pub(super) listings: Listings,
}

impl Tree {
    /// The tree of all images, or with `image` the tree below the root of one.
    pub fn new(
        view: Arc<dyn View>,
        options: ViewOptions,
        image: Option<(String, Repository, Arc<dyn FileTree>)>,
    ) -> Tree {
        const TYPICAL: u64 = 512;
        let root = match image {
            Some((name, repository, image)) => {
                let target = Target { digest: image.manifest(), changed: Time::default() };
                let root = Root::new(name, repository, target, None);
                root.set_opened(image);
                Inode::Directory(Arc::new(root), Arc::default())
            }
            None => Inode::Names("".into()),
        };
        let mask = if options.inode32 { NUMBERS_32 } else { NUMBERS };
        Tree {
            view,
            options,
            inodes: Mutex::new(Inodes::new(root, mask)),
            nodes: Cache::with_weighter((NODES / TYPICAL) as usize, NODES, ByBytes),
            places: Cache::new(PLACES),
            listings: Listings::default(),
        }
    }

    pub(super) fn inodes(&self) -> MutexGuard<'_, Inodes> {
        // A panic under the lock breaks no invariant.
        self.inodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn inode(&self, number: u64) -> Result<Inode> {
        self.inodes().get(number).cloned().ok_or(Error::Stale)
    }

    /// Counts a lookup that is about to be answered with an inode; returns its number.
    pub(super) fn count(&self, inode: Inode) -> u64 {
        let is_leaf = matches!(inode, Inode::Leaf(..));
        let (number, new) = self.inodes().lookup(inode);
        if new && !is_leaf {
            // The number may have stood for something else, which was forgotten meanwhile.
            self.nodes.remove(&number);
        }
        number
    }

    pub fn forget(&self, number: u64, times: u64) {
        if self.inodes().forget(number, times) {
            self.nodes.remove(&number);
        }
    }

    /// The image below a root.
    fn image(&self, root: &Root, may_block: MayBlock) -> Result<Arc<dyn FileTree>> {
        if let Some(image) = root.opened() {
            return Ok(Arc::clone(image));
        }
        let platform = root.platform().or(self.options.platform.as_ref());
        match self.view.open(&root.repository, &root.digest, platform, may_block) {
            Ok(Some(image)) => Ok(Arc::clone(root.set_opened(image))),
            Ok(None) => Err(Error::WouldBlock(Slow::Open)),
            Err(cause) => {
                Err(Error::Broken { name: root.name.to_string(), cause: Box::new(cause) })
            }
        }
    }

    /// What lies at a number, if that is inside an image.
    pub(super) fn open(&self, number: u64, may_block: MayBlock) -> Result<Option<Arc<Open>>> {
        if let Some(open) = self.nodes.get(&number) {
            return Ok(Some(open));
        }
        let (root, path) = match self.inode(number)? {
            Inode::Names(_) => return Ok(None),
            Inode::Root(root) => (root, Arc::default()),
            Inode::Directory(root, path) => (root, path),
            Inode::Leaf(leaf, _) => (Arc::clone(&leaf.root), leaf.path.as_ref().into()),
        };
        let image = self.image(&root, may_block)?;
        let node = image.node(&path, false)?;
        let open = Arc::new(Open { root, image, node });
        self.nodes.insert(number, Arc::clone(&open));
        Ok(Some(open))
    }

    pub fn attributes(&self, number: u64, may_block: MayBlock) -> Result<Found> {
        match self.inode(number)? {
            Inode::Names(prefix) => self.names(number, &prefix)?.ok_or(Error::Stale),
            Inode::Root(root) => Ok(self.root(number, &root)),
            Inode::Directory(..) | Inode::Leaf(..) => match self.open(number, may_block)? {
                Some(open) => self.inside(number, &*open.image, &open.node, may_block),
                None => Err(Error::Stale),
            },
        }
    }

    /// A directory above the images.
    pub(super) fn names(&self, number: u64, prefix: &str) -> Result<Option<Found>> {
        let (uid, gid) = self.options.user;
        let attributes = self.view.folders_changed(prefix)?.map(|mtime| Attributes {
            uid: self.options.uid.unwrap_or(uid),
            gid: self.options.gid.unwrap_or(gid),
            mtime,
            ..Attributes::of_directory(number)
        });
        let ttl = self.options.tag_ttl;
        Ok(attributes.map(|attributes| Found { attributes, ttl }))
    }

    /// An image's root directory, which shows the same before the image is opened and after.
    pub(super) fn root(&self, number: u64, root: &Root) -> Found {
        let attributes = Attributes {
            mode: ROOT_MODE,
            uid: self.options.uid.unwrap_or(0),
            gid: self.options.gid.unwrap_or(0),
            mtime: root.changed(),
            ..Attributes::of_directory(number)
        };
        Found { attributes, ttl: self.options.tag_ttl }
    }

    fn inside(
        &self,
        number: u64,
        image: &dyn FileTree,
        node: &Node,
        may_block: MayBlock,
    ) -> Result<Found> {
        let links = image.links(node, may_block)?.ok_or(Error::WouldBlock(Slow::List))?;
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
            uid: self.options.uid.unwrap_or(entry.uid),
            gid: self.options.gid.unwrap_or(entry.gid),
            mtime: entry.mtime,
            size,
            blocks,
            links,
            device: entry.device,
        };
        Ok(Found { attributes, ttl: FOREVER })
    }

    /// What a directory has under a name. What is found counts as a lookup.
    pub fn lookup(&self, parent: u64, name: &[u8], may_block: MayBlock) -> Result<Option<Found>> {
        if name.len() > NAME_MAX {
            let at = At::new("the mount", name);
            return Err(image::Error::NameTooLong(at).into());
        }
        if let Some(directory) = self.open(parent, may_block)? {
            return match directory.image.lookup(&directory.node, name)? {
                Some(node) => self.show(&directory, node, may_block).map(Some),
                None => Ok(None),
            };
        }
        let Inode::Names(prefix) = self.inode(parent)? else {
            return Err(Error::Stale);
        };
        match names::parse(&prefix, name) {
            None => Ok(None),
            Some(Name::Below(below)) => self.show_names(below.as_str()),
            Some(Name::Image { repository, reference, platform }) => {
                let name = names::join(&prefix, &String::from_utf8_lossy(name));
                self.look_up_image(name, repository, &reference, platform)
            }
        }
    }

    /// How long the kernel may remember that a directory lacks a name.
    pub fn absence(&self, parent: u64) -> Option<Duration> {
        match self.inode(parent) {
            Ok(Inode::Root(_) | Inode::Directory(..)) => Some(FOREVER),
            _ => None,
        }
    }

    fn look_up_image(
        &self,
        name: String,
        repository: Repository,
        reference: &Reference,
        platform: Option<Platform>,
    ) -> Result<Option<Found>> {
        let Some(target) = self.view.target(&repository, reference)? else {
            return Ok(None);
        };
        if platform.is_some() {
            let found = self.view.manifest_for(&repository, &target.digest, platform.as_ref());
            match found.map_err(Error::from) {
                Ok(_) => {}
                Err(error) if error.errno() == libc::ENOENT => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        let root = Arc::new(Root::new(name, repository, target, platform));
        Ok(Some(self.show_root(root)))
    }

    pub(super) fn show_names(&self, prefix: &str) -> Result<Option<Found>> {
        let mut found = self.names(0, prefix)?;
        if let Some(found) = &mut found {
            found.attributes.number = self.count(Inode::Names(prefix.into()));
        }
        Ok(found)
    }

    pub(super) fn show_root(&self, root: Arc<Root>) -> Found {
        let mut found = self.root(0, &root);
        found.attributes.number = self.count(Inode::Root(root));
        found
    }

    /// Shows something in a directory of an image.
    pub(super) fn show(&self, directory: &Open, node: Node, may_block: MayBlock) -> Result<Found> {
        let (root, image) = (&directory.root, &directory.image);
        // First what may fail: an error must count as no lookup.
        let mut found = self.inside(0, &**image, &node, may_block)?;
        if !node.is_directory() {
            let leaf = Leaf {
                identity: image.identity(&node)?,
                root: Arc::clone(root),
                content: node.content(),
                path: node.path.into(),
            };
            found.attributes.number = self.count(Inode::Leaf(Arc::new(leaf), Order::default()));
            return Ok(found);
        }
        let path = node.path.as_slice().into();
        let number = self.count(Inode::Directory(Arc::clone(root), path));
        found.attributes.number = number;
        // It will soon be listed, or looked up in.
        if self.nodes.peek(&number).is_none() {
            let (root, image) = (Arc::clone(root), Arc::clone(image));
            self.nodes.insert(number, Arc::new(Open { root, image, node }));
        }
        Ok(found)
    }

    /// Reads a file's content. `buffer` is as long as what was asked for; returns how much of it was
    /// filled.
    pub fn read(
        &self,
        number: u64,
        offset: u64,
        buffer: &mut [u8],
        may_block: MayBlock,
    ) -> Result<usize> {
        let leaf = self.inodes().leaf(number).map(|(leaf, _)| Arc::clone(leaf));
        if let Some(leaf) = leaf
            && let Some(content) = &leaf.content
        {
            let image = leaf.image()?;
            let read = image.read_content(content, &leaf.path, offset, buffer, may_block)?;
            return read.ok_or(Error::WouldBlock(Slow::Decode));
        }
        let open = self.inside_image(number, may_block)?;
        if may_block == MayBlock::No && !open.node.is_directory() {
            return Err(Error::WouldBlock(Slow::Decode));
        }
        Ok(open.image.read(&open.node, offset, buffer)?)
    }

    pub fn in_order(&self, number: u64) -> Option<InOrder> {
        let inodes = self.inodes();
        let (leaf, order) = inodes.leaf(number)?;
        Some(InOrder { size: leaf.content?.size(), order })
    }

    fn inside_image(&self, number: u64, may_block: MayBlock) -> Result<Arc<Open>> {
        let outside = || image::Error::IsDirectory(At::new("the mount", b"")).into();
        self.open(number, may_block)?.ok_or_else(outside)
    }

    /// The target of a symbolic link, as stored.
    pub fn link(&self, number: u64, may_block: MayBlock) -> Result<Vec<u8>> {
        let open = self.inside_image(number, may_block)?;
        match open.node.entry.kind {
            Kind::Symlink => Ok(open.node.entry.link.clone()),
            _ => Err(image::Error::NotALink(At::new(&open.image, &open.node.path)).into()),
        }
    }

    /// The value of an extended attribute: the image's own, or one that says where a file comes from.
    pub fn xattr(&self, number: u64, name: &[u8], may_block: MayBlock) -> Result<Vec<u8>> {
        let about = name.strip_prefix(b"user.registry.");
        let text = |text: &str| Ok(text.as_bytes().to_vec());
        match &self.inode(number)? {
            Inode::Names(_) | Inode::Root(_) if !name.starts_with(b"user.") => {
                return Err(Error::NoAttributes);
            }
            Inode::Names(_) => return Err(Error::NoAttribute),
            Inode::Root(root) => return self.root_xattr(root, about, may_block),
            Inode::Directory(root, path)
                if path.is_empty() && matches!(about, Some(b"reference" | b"digest")) =>
            {
                return self.root_xattr(root, about, may_block);
            }
            Inode::Directory(..) | Inode::Leaf(..) => {}
        }
        let open = self.inside_image(number, may_block)?;
        let entry = &open.node.entry;
        match (about, entry.sha256, open.image.layer(&open.node)) {
            (Some(b"sha256"), Some(digest), _) => return text(&Digest::Sha256(digest).hex()),
            (Some(b"layer"), _, Some(layer)) => return text(&layer.to_string()),
            _ => {}
        }
        let own = entry.xattrs.iter().find(|(own, _)| own == name);
        own.map(|(_, value)| value.clone()).ok_or(Error::NoAttribute)
    }

    fn root_xattr(
        &self,
        root: &Root,
        about: Option<&[u8]>,
        may_block: MayBlock,
    ) -> Result<Vec<u8>> {
        match about {
            Some(b"reference") => Ok(root.name.as_bytes().to_vec()),
            Some(b"digest") => {
                let manifest = match root.opened() {
                    Some(image) => image.manifest(),
                    None => {
                        let platform = root.platform().or(self.options.platform.as_ref());
                        let found =
                            self.view.manifest_for(&root.repository, &root.digest, platform);
                        // Without an image for the platform, the index is shown.
                        found.unwrap_or(root.digest)
                    }
                };
                Ok(manifest.to_string().into_bytes())
            }
            Some(b"error") => match self.image(root, may_block) {
                Ok(image) => image.reason().map(|reason| reason.into()).ok_or(Error::NoAttribute),
                Err(Error::Broken { cause, .. }) => Ok(cause.to_string().into_bytes()),
                Err(error) => Err(error),
            },
            _ => Err(Error::NoAttribute),
        }
    }

    /// The names of the image's own extended attributes, each with a zero behind it. Those that say
    /// where a file comes from are not listed, so that a copy has what the image has.
    pub fn xattrs(&self, number: u64, may_block: MayBlock) -> Result<Vec<u8>> {
        if matches!(self.inode(number)?, Inode::Names(_) | Inode::Root(_)) {
            return Ok(Vec::new());
        }
        let open = self.inside_image(number, may_block)?;
        let names = open.node.entry.xattrs.iter().flat_map(|(name, _)| [name.as_slice(), b"\0"]);
        Ok(names.collect::<Vec<_>>().concat())
    }

    /// Where data or a hole is next (`SEEK_DATA`, `SEEK_HOLE`).
    pub fn seek(&self, number: u64, offset: u64, hole: bool, may_block: MayBlock) -> Result<u64> {
        let open = self.inside_image(number, may_block)?;
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
        let below = |root: &Root, path: &[u8]| format!("/{}/{}", root.name, path.escape_ascii());
        match self.inode(number) {
            Ok(Inode::Names(name)) => format!("/{name}"),
            Ok(Inode::Root(root)) => format!("/{}", root.name),
            Ok(Inode::Directory(root, path)) => below(&root, &path),
            Ok(Inode::Leaf(leaf, _)) => below(&leaf.root, &leaf.path),
            Err(_) => format!("inode {number}"),
        }
    }
}
