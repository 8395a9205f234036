//! Inode numbers. The kernel names everything by number, from when it is told of
//! it until it says that it forgets it; so much is kept here, and no more.
//!
//! A number is a hash of what it stands for, so it is mostly the same after the
//! next mount. Where two things hash alike the later one gets the next number
//! that is free. A file of a layer has one number wherever it is shown, so the
//! kernel keeps its content once; a directory has one for each name of its
//! image, since the kernel takes a directory to be in one place.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3;

use crate::image::{Content, Identity, Image};

/// The root's number (`FUSE_ROOT_ID`).
pub const ROOT: u64 = 1;
/// Nobody else gets these.
const RESERVED: u64 = 2;
/// Numbers stay positive for those who take them as signed.
const MASK: u64 = u64::MAX >> 1;

/// An image under a name.
#[derive(Debug)]
pub struct View {
    /// The path below the mountpoint, which is its reference.
    pub name: String,
    pub image: Arc<Image>,
}

/// An image that cannot be shown.
#[derive(Debug)]
pub struct Unshown {
    pub name: String,
    pub why: String,
}

/// What a number stands for.
#[derive(Clone, Debug)]
pub enum Thing {
    /// Where names of repositories go on: the beginning of them.
    Names(Arc<str>),
    /// An image's name, which was listed but not looked at.
    Unopened(Arc<str>),
    Unshown(Arc<Unshown>),
    Directory(Arc<View>, Arc<[u8]>),
    // Apart: there are many directories, each image has its own.
    Leaf(Box<Leaf>),
}

/// What is no directory.
#[derive(Clone, Debug)]
pub struct Leaf {
    pub view: Arc<View>,
    /// One of its paths; it may have others, in other images too.
    pub path: Box<[u8]>,
    pub identity: Identity,
    pub content: Option<Content>,
    /// Whether it has content and is the first that has in its directory.
    pub first: bool,
    /// The number of the next one that has content, where it was listed last; 0
    /// at the end.
    pub next: u64,
}

impl Thing {
    fn is(&self, other: &Thing) -> bool {
        match (self, other) {
            (Thing::Names(a), Thing::Names(b)) | (Thing::Unopened(a), Thing::Unopened(b)) => a == b,
            (Thing::Unshown(a), Thing::Unshown(b)) => (&a.name, &a.why) == (&b.name, &b.why),
            (Thing::Directory(a, path), Thing::Directory(b, other)) => {
                a.name == b.name && a.image.manifest == b.image.manifest && path == other
            }
            (Thing::Leaf(a), Thing::Leaf(b)) => {
                a.identity == b.identity
                    && match a.identity {
                        Identity::Shared { .. } => true,
                        Identity::Own { .. } => {
                            a.view.image.manifest == b.view.image.manifest
                                && a.view.image.repository == b.view.image.repository
                        }
                    }
            }
            _ => false,
        }
    }

    /// Of what an image's name leads to.
    fn image_name(&self) -> Option<&str> {
        match self {
            Thing::Directory(view, path) if path.is_empty() => Some(&view.name),
            Thing::Unshown(unshown) => Some(&unshown.name),
            _ => None,
        }
    }

    fn hash(&self) -> u64 {
        let mut hash = Xxh3::new();
        // A sort's letter, and zeros where names end.
        match self {
            Thing::Names(name) => {
                hash.update(b"n");
                hash.update(name.as_bytes());
            }
            Thing::Unopened(name) => {
                hash.update(b"u");
                hash.update(name.as_bytes());
            }
            Thing::Unshown(unshown) => {
                hash.update(b"x");
                hash.update(unshown.name.as_bytes());
                hash.update(b"\0");
                hash.update(unshown.why.as_bytes());
            }
            Thing::Directory(view, path) => {
                hash.update(b"d");
                hash.update(view.name.as_bytes());
                hash.update(b"\0");
                hash.update(view.image.manifest.to_string().as_bytes());
                hash.update(path);
            }
            Thing::Leaf(leaf) => {
                let (layer, inode) = match leaf.identity {
                    Identity::Shared { layer, inode } => (layer, inode),
                    Identity::Own { layer, inode } => {
                        hash.update(leaf.view.image.to_string().as_bytes());
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
    thing: Thing,
    /// How often the kernel was told of it; as often as can be counted is for ever.
    told: u32,
}

#[derive(Debug)]
pub struct Numbers {
    slots: HashMap<u64, Slot>,
    /// Of directories. Most images have the same.
    paths: HashSet<Arc<[u8]>>,
    /// What an image's name led to last.
    images: HashMap<String, u64>,
}

impl Numbers {
    pub fn new(root: Thing) -> Numbers {
        let root = Slot { thing: root, told: u32::MAX };
        Numbers {
            slots: HashMap::from([(ROOT, root)]),
            paths: HashSet::new(),
            images: HashMap::new(),
        }
    }

    pub fn get(&self, number: u64) -> Option<&Thing> {
        self.slots.get(&number).map(|slot| &slot.thing)
    }

    /// The number of something that the kernel is about to be told of, and
    /// whether it is new.
    pub fn tell(&mut self, thing: Thing) -> (u64, bool) {
        let name = thing.image_name().map(str::to_owned);
        let (number, new) = self.tell_thing(thing);
        if let Some(name) = name {
            self.images.insert(name, number);
        }
        (number, new)
    }

    /// The same for what an image's name led to last, if the kernel still knows
    /// that.
    pub fn tell_again(&mut self, name: &str) -> Option<u64> {
        let number = *self.images.get(name)?;
        let slot = self.slots.get_mut(&number)?;
        slot.told = slot.told.saturating_add(1);
        Some(number)
    }

    /// Says what was listed before and after a leaf. Who follows that comes to an
    /// end: each time it is the leaf at the end that is put behind another.
    pub fn order(&mut self, before: u64, number: u64) {
        if before == number {
            // Another name of it.
            return;
        }
        if let Some(leaf) = self.leaf_mut(number) {
            leaf.first = before == 0;
            leaf.next = 0;
        }
        if let Some(leaf) = self.leaf_mut(before) {
            leaf.next = number;
        }
    }

    pub fn leaf(&self, number: u64) -> Option<&Leaf> {
        match &self.slots.get(&number)?.thing {
            Thing::Leaf(leaf) => Some(leaf),
            _ => None,
        }
    }

    fn leaf_mut(&mut self, number: u64) -> Option<&mut Leaf> {
        match &mut self.slots.get_mut(&number)?.thing {
            Thing::Leaf(leaf) => Some(leaf),
            _ => None,
        }
    }

    fn tell_thing(&mut self, mut thing: Thing) -> (u64, bool) {
        let mut number = (thing.hash() & MASK).max(RESERVED);
        loop {
            match self.slots.entry(number) {
                Entry::Vacant(free) => {
                    if let Thing::Directory(_, path) = &mut thing {
                        match self.paths.get(path) {
                            Some(known) => *path = Arc::clone(known),
                            None => drop(self.paths.insert(Arc::clone(path))),
                        }
                    }
                    free.insert(Slot { thing, told: 1 });
                    return (number, true);
                }
                Entry::Occupied(mut slot) if slot.get().thing.is(&thing) => {
                    let told = &mut slot.get_mut().told;
                    *told = told.saturating_add(1);
                    return (number, false);
                }
                Entry::Occupied(_) => number = ((number + 1) & MASK).max(RESERVED),
            }
        }
    }

    /// The kernel forgets some of what it was told; whether that was all.
    pub fn forget(&mut self, number: u64, times: u64) -> bool {
        let Entry::Occupied(mut slot) = self.slots.entry(number) else {
            return false;
        };
        let told = &mut slot.get_mut().told;
        if *told == u32::MAX {
            return false;
        }
        *told = told.saturating_sub(u32::try_from(times).unwrap_or(u32::MAX));
        if *told > 0 {
            return false;
        }
        let thing = slot.remove().thing;
        if let Some(name) = thing.image_name()
            && self.images.get(name) == Some(&number)
        {
            self.images.remove(name);
        }
        if let Thing::Directory(_, path) = thing {
            // Its own and the set's: nobody else has it.
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

    fn names(name: &str) -> Thing {
        Thing::Names(name.into())
    }

    #[test]
    fn told_and_forgotten() {
        let mut numbers = Numbers::new(names(""));
        let (a, new) = numbers.tell(names("a"));
        assert!(new && (RESERVED..=MASK).contains(&a));
        assert_eq!(numbers.tell(names("a")), (a, false));
        let (b, _) = numbers.tell(Thing::Unopened("a".into()));
        assert_ne!(a, b, "of another sort");
        assert!(!numbers.forget(a, 1));
        assert!(numbers.get(a).is_some());
        assert!(numbers.forget(a, 1));
        assert!(numbers.get(a).is_none());
        assert!(!numbers.forget(a, 1), "nothing is forgotten twice");
        assert!(!numbers.forget(ROOT, u64::MAX), "the root stays");
        assert_eq!(numbers.tell(names("a")), (a, true), "the same again");
        assert_eq!(numbers.slots.len(), 3);
    }

    #[test]
    fn where_names_lead() {
        let mut numbers = Numbers::new(names(""));
        let unshown = |why: &str| {
            let (name, why) = ("a:1".to_owned(), why.to_owned());
            Thing::Unshown(Arc::new(Unshown { name, why }))
        };
        assert_eq!(numbers.tell_again("a:1"), None);
        let (first, _) = numbers.tell(unshown("x"));
        assert_eq!(numbers.tell_again("a:1"), Some(first));
        let (second, _) = numbers.tell(unshown("y"));
        assert!(numbers.forget(first, 2));
        assert_eq!(numbers.tell_again("a:1"), Some(second));
        assert!(numbers.forget(second, 2));
        assert_eq!(numbers.tell_again("a:1"), None);
        assert!(numbers.images.is_empty());
    }

    #[test]
    fn two_that_hash_alike() {
        let mut numbers = Numbers::new(names(""));
        let (a, _) = numbers.tell(names("a"));
        // Something else in its place.
        numbers.slots.get_mut(&a).unwrap().thing = names("b");
        assert_eq!(numbers.tell(names("a")), (a + 1, true));
        assert_eq!(numbers.tell(names("a")), (a + 1, false));
    }
}
