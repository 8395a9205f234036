//! Inode numbers. The kernel names everything by its number, from the lookup that returned it until
//! it forgets it; only what it knows is kept here.
//!
//! A number is a hash of what it stands for, so it is mostly the same after the next mount. Where
//! two inodes hash alike the later one gets the next free number. A file of a layer has one number
//! wherever it is shown, so the kernel keeps its content once; a directory has one for each name of
//! its image, because the kernel takes a directory to be in one place.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use xxhash_rust::xxh3::Xxh3;

use super::error::{Error, Result};
use crate::image::{Content, FileTree, Identity, Platform, Target, Time};
use crate::oci::{Digest, Repository};

/// The root's number (`FUSE_ROOT_ID`).
pub const ROOT: u64 = 1;
/// The first number that is not reserved.
const FIRST: u64 = 2;
/// The largest number: programs that take it for signed see it as positive.
pub const NUMBERS: u64 = u64::MAX >> 1;
/// The largest number that 32-bit programs without large-file support can take.
pub const NUMBERS_32: u64 = u32::MAX as u64;

/// An image under a name. It is opened when something below its root is needed.
#[derive(Debug)]
pub struct Root {
    /// The path below the mountpoint, which is the image's reference.
    pub name: Box<str>,
    pub repository: Repository,
    /// The digest of the manifest or image index that the name stands for.
    pub digest: Digest,
    // Boxed: there are many roots, and few with a platform.
    platform: Option<Box<Platform>>,
    changed: Mutex<Time>,
    image: OnceLock<Arc<dyn FileTree>>,
}

impl Root {
    pub fn new(
        name: String,
        repository: Repository,
        target: Target,
        platform: Option<Platform>,
    ) -> Root {
        let Target { digest, changed } = target;
        let (name, platform) = (name.into(), platform.map(Box::new));
        let (changed, image) = (Mutex::new(changed), OnceLock::new());
        Root { name, repository, digest, platform, changed, image }
    }

    /// The platform in the name.
    pub fn platform(&self) -> Option<&Platform> {
        self.platform.as_deref()
    }

    /// When the name was last given to the image.
    pub fn changed(&self) -> Time {
        *self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_changed(&self, time: Time) {
        *self.changed.lock().unwrap_or_else(PoisonError::into_inner) = time;
    }

    /// The image, if it was opened. It was if the kernel knows anything below its root.
    pub fn opened(&self) -> Option<&Arc<dyn FileTree>> {
        self.image.get()
    }

    pub fn set_opened(&self, image: Arc<dyn FileTree>) -> &Arc<dyn FileTree> {
        self.image.get_or_init(|| image)
    }

    fn is(&self, other: &Root) -> bool {
        self.name == other.name && self.digest == other.digest
    }

    fn hash_into(&self, hash: &mut Xxh3) {
        hash.update(self.name.as_bytes());
        hash.update(b"\0");
        hash.update(self.digest.to_string().as_bytes());
    }

    fn image_name(&self) -> Option<String> {
        self.opened().map(|image| image.to_string())
    }
}

/// What a number stands for.
#[derive(Clone, Debug)]
pub enum Inode {
    /// A directory above the images: the beginning of repositories' names.
    Names(Arc<str>),
    /// An image's root directory, which need not be opened to be shown.
    Root(Arc<Root>),
    /// A directory of an image that is open, by its path.
    Directory(Arc<Root>, Arc<[u8]>),
    Leaf(Arc<Leaf>, Order),
}

/// Anything of an image but a directory.
#[derive(Debug)]
pub struct Leaf {
    pub root: Arc<Root>,
    /// One of its paths; it may have others, in other images too.
    pub path: Box<[u8]>,
    pub identity: Identity,
    pub content: Option<Content>,
}

impl Leaf {
    pub fn image(&self) -> Result<&Arc<dyn FileTree>> {
        self.root.opened().ok_or(Error::Stale)
    }
}

/// Where a file with content stands among those of its directory, as they were last listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Order {
    /// Whether it is the first.
    pub first: bool,
    /// The number of the next one; 0 at the end.
    pub next: u64,
}

impl Inode {
    fn is(&self, other: &Inode) -> bool {
        match (self, other) {
            (Inode::Names(a), Inode::Names(b)) => a == b,
            (Inode::Root(a), Inode::Root(b)) => a.is(b),
            (Inode::Directory(a, path), Inode::Directory(b, other)) => a.is(b) && path == other,
            (Inode::Leaf(a, _), Inode::Leaf(b, _)) => {
                a.identity == b.identity
                    && match a.identity {
                        Identity::Shared { .. } => true,
                        Identity::Own { .. } => a.root.image_name() == b.root.image_name(),
                    }
            }
            _ => false,
        }
    }

    fn hash(&self) -> u64 {
        let mut hash = Xxh3::new();
        // A letter for the kind, and zeros where names end.
        match self {
            Inode::Names(name) => {
                hash.update(b"n");
                hash.update(name.as_bytes());
            }
            Inode::Root(root) => {
                hash.update(b"r");
                root.hash_into(&mut hash);
            }
            Inode::Directory(root, path) => {
                hash.update(b"d");
                root.hash_into(&mut hash);
                hash.update(path);
            }
            Inode::Leaf(leaf, _) => {
                let (layer, inode) = match leaf.identity {
                    Identity::Shared { layer, inode } => (layer, inode),
                    Identity::Own { layer, inode } => {
                        hash.update(leaf.root.image_name().unwrap_or_default().as_bytes());
                        (layer as u64, inode)
                    }
                };
                hash.update(b"f");
                hash.update(&layer.to_be_bytes());
                hash.update(&inode.to_be_bytes());
            }
        }
        hash.digest()
    }
}

#[derive(Debug)]
struct Slot {
    inode: Inode,
    /// How many of the kernel's lookups returned it. The maximum stands for ever.
    nlookup: u32,
}

#[derive(Debug)]
pub struct Inodes {
    slots: HashMap<u64, Slot>,
    /// The paths of directories, of which most images have the same.
    paths: HashSet<Arc<[u8]>>,
    /// The largest number, one less than a power of two.
    mask: u64,
}

impl Inodes {
    /// `mask`: [`NUMBERS`] or [`NUMBERS_32`].
    pub fn new(root: Inode, mask: u64) -> Inodes {
        let root = Slot { inode: root, nlookup: u32::MAX };
        Inodes { slots: HashMap::from([(ROOT, root)]), paths: HashSet::new(), mask }
    }

    pub fn get(&self, number: u64) -> Option<&Inode> {
        self.slots.get(&number).map(|slot| &slot.inode)
    }

    pub fn leaf(&self, number: u64) -> Option<(&Arc<Leaf>, Order)> {
        match self.get(number)? {
            Inode::Leaf(leaf, order) => Some((leaf, *order)),
            _ => None,
        }
    }

    fn order_mut(&mut self, number: u64) -> Option<&mut Order> {
        match &mut self.slots.get_mut(&number)?.inode {
            Inode::Leaf(_, order) => Some(order),
            _ => None,
        }
    }

    /// Counts a lookup. Returns the number, and whether it is new to the kernel.
    pub fn lookup(&mut self, mut inode: Inode) -> (u64, bool) {
        let mut number = (inode.hash() & self.mask).max(FIRST);
        loop {
            match self.slots.entry(number) {
                Entry::Vacant(free) => {
                    if let Inode::Directory(_, path) = &mut inode {
                        match self.paths.get(path) {
                            Some(known) => *path = Arc::clone(known),
                            None => drop(self.paths.insert(Arc::clone(path))),
                        }
                    }
                    free.insert(Slot { inode, nlookup: 1 });
                    return (number, true);
                }
                Entry::Occupied(mut slot) if slot.get().inode.is(&inode) => {
                    let slot = slot.get_mut();
                    if let (Inode::Root(known), Inode::Root(root)) = (&slot.inode, &inode) {
                        known.set_changed(root.changed());
                    }
                    slot.nlookup = slot.nlookup.saturating_add(1);
                    return (number, false);
                }
                Entry::Occupied(_) => number = ((number + 1) & self.mask).max(FIRST),
            }
        }
    }

    /// Notes that a file was listed directly after the one with the number `before`; 0: it is the
    /// first. Following the order always ends, because each file that is noted is the last.
    pub fn order(&mut self, before: u64, number: u64) {
        if before == number {
            // Another name of the same file.
            return;
        }
        if let Some(order) = self.order_mut(number) {
            *order = Order { first: before == 0, next: 0 };
        }
        if let Some(order) = self.order_mut(before) {
            order.next = number;
        }
    }

    /// The kernel forgets so many lookups. Returns whether those were all.
    pub fn forget(&mut self, number: u64, times: u64) -> bool {
        let Entry::Occupied(mut slot) = self.slots.entry(number) else {
            return false;
        };
        let nlookup = &mut slot.get_mut().nlookup;
        if *nlookup == u32::MAX {
            return false;
        }
        *nlookup = nlookup.saturating_sub(u32::try_from(times).unwrap_or(u32::MAX));
        if *nlookup > 0 {
            return false;
        }
        if let Inode::Directory(_, path) = slot.remove().inode {
            // This one and the set's are the last two.
            if Arc::strong_count(&path) == 2 {
                self.paths.remove(&path);
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(name: &str) -> Inode {
        Inode::Names(name.into())
    }

    fn root(name: &str, content: &str, seconds: i64) -> Inode {
        let digest = crate::oci::Algorithm::Sha256.digest(content.as_bytes());
        let changed = Time { seconds, nanoseconds: 0 };
        let repository = "a".parse().unwrap();
        Inode::Root(Arc::new(Root::new(name.into(), repository, Target { digest, changed }, None)))
    }

    #[test]
    fn looked_up_and_forgotten() {
        let mut inodes = Inodes::new(names(""), NUMBERS);
        let (a, new) = inodes.lookup(names("a"));
        assert!(new && (FIRST..=NUMBERS).contains(&a));
        assert_eq!(inodes.lookup(names("a")), (a, false));
        assert!(!inodes.forget(a, 1));
        assert!(inodes.get(a).is_some());
        assert!(inodes.forget(a, 1));
        assert!(inodes.get(a).is_none());
        assert!(!inodes.forget(a, 1), "nothing is forgotten twice");
        assert!(!inodes.forget(ROOT, u64::MAX), "the root stays");
        assert_eq!(inodes.lookup(names("a")), (a, true), "the same again");
        assert_eq!(inodes.slots.len(), 2);
    }

    #[test]
    fn roots() {
        let mut inodes = Inodes::new(names(""), NUMBERS);
        let (first, _) = inodes.lookup(root("a:1", "x", 5));
        assert_eq!(inodes.lookup(root("a:1", "x", 7)), (first, false), "pushed again");
        let Some(Inode::Root(known)) = inodes.get(first) else { panic!("it is a root") };
        assert_eq!(known.changed().seconds, 7);
        for other in [root("a:1", "y", 5), root("a:2", "x", 5), names("a:1")] {
            assert!(inodes.lookup(other).1, "another image, another name, another kind");
        }
    }

    #[test]
    fn two_that_hash_alike() {
        let mut inodes = Inodes::new(names(""), NUMBERS_32);
        let (a, _) = inodes.lookup(names("a"));
        assert!(a <= NUMBERS_32);
        inodes.slots.get_mut(&a).unwrap().inode = names("b");
        assert_eq!(inodes.lookup(names("a")), (a + 1, true));
        assert_eq!(inodes.lookup(names("a")), (a + 1, false));
    }
}
