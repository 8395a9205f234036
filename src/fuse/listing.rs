//! Listings of directories. The kernel takes one in pieces, and may go on at any place of it at any
//! time. A place in an image's directory is the number of entries before it; a place above the
//! images names the listing too, which is kept as it was when it was made.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quick_cache::sync::Cache;

use super::error::{Error, Result, Slow};
use super::inodes::{Inode, Root};
use super::names::{self, Name};
use super::tree::{Attributes, Found, Open, Tree};
use crate::image::{Folder, MayBlock, Platform, Target};
use crate::oci::{Digest, Reference, Repository};

/// Listings above the images that are kept until they are read to the end.
const LISTINGS: usize = 32;
/// Manifests that are remembered to be no image index.
const SINGLE: usize = 1 << 16;
/// Numbers of listings stay positive for programs that take places as signed.
const LISTING_MAX: u64 = (1 << 31) - 1;

/// A child in a listing.
#[derive(Debug)]
pub struct Listed<'a> {
    pub name: &'a [u8],
    /// Where the listing goes on after it.
    pub next: u64,
    pub found: Found,
}

/// How a piece of a listing ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The listing goes on.
    More,
    /// This was the end of a directory above the images, whose listing may change at any time.
    OfNames,
    /// This was the end of an image's directory: the number of its first file that has content, or 0.
    OfFiles(u64),
}

/// Takes a child. Returns `false` if it does not, which ends the piece.
pub type Take<'a> = dyn FnMut(&Listed) -> bool + 'a;

/// The numbers of the first and last file with content in a listing so far; 0: there is none.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Files {
    first: u64,
    last: u64,
}

/// Where a listing of an image's directory goes on.
#[derive(Clone, Debug)]
pub(super) enum Place {
    From(Arc<[u8]>, Files),
    End(Files),
}

/// The names of a directory above the images at some time, with what those of images mean.
#[derive(Debug)]
pub(super) struct Listing {
    number: u64,
    prefix: Arc<str>,
    entries: Vec<(Box<str>, Option<Target>)>,
}

#[derive(Debug)]
pub(super) struct Listings {
    by_number: Cache<u64, Arc<Listing>>,
    next: AtomicU64,
    /// Manifests that are no image index, so that no other platforms are to be listed for them.
    single: Cache<Digest, ()>,
}

impl Default for Listings {
    fn default() -> Listings {
        let (by_number, single) = (Cache::new(LISTINGS), Cache::new(SINGLE));
        Listings { by_number, next: AtomicU64::new(1), single }
    }
}

impl Tree {
    /// Lists a directory from a place on: 0, or one that it gave before. What `take` takes counts as
    /// a lookup.
    pub fn list(
        &self,
        number: u64,
        place: u64,
        may_block: MayBlock,
        take: &mut Take,
    ) -> Result<End> {
        match self.open(number, may_block)? {
            Some(directory) => self.list_files(number, &directory, place, may_block, take),
            None => self.list_names(number, place, may_block, take),
        }
    }

    /// Lists `.` and `..`, of which the kernel uses the names and the kind alone
    /// (`fuse_direntplus_link`). `base` is added to their places.
    fn list_dots(&self, number: u64, place: u64, base: u64, take: &mut Take) -> bool {
        let names = [b".".as_slice(), b".."].into_iter().zip(1..);
        names.filter(|(_, next)| place < *next).all(|(name, next)| {
            let attributes = Attributes::of_directory(number);
            let found = Found { attributes, ttl: Duration::ZERO };
            take(&Listed { name, next: base | next, found })
        })
    }

    fn list_files(
        &self,
        number: u64,
        directory: &Open,
        place: u64,
        may_block: MayBlock,
        take: &mut Take,
    ) -> Result<End> {
        if !self.list_dots(number, place, 0, take) {
            return Ok(End::More);
        }
        let first = place.max(2);
        let mut at = first;
        let (from, mut files, skip) = match self.places.get(&(number, at)) {
            Some(Place::End(files)) => return Ok(End::OfFiles(files.first)),
            Some(Place::From(from, files)) => (from, files, 0),
            None => (Arc::default(), Files::default(), at - 2),
        };
        let children = directory.image.children(&directory.node, &from)?;
        for child in children.skip(usize::try_from(skip).unwrap_or(usize::MAX)) {
            let child = child?;
            let name = child.name().to_vec();
            let content = child.content().is_some_and(|content| content.size() > 0);
            let found = match self.show(directory, child, may_block) {
                // What was taken so far is an answer. The kernel asks for the rest.
                Err(Error::WouldBlock(_)) if at > first || place < 2 => {
                    self.places.insert((number, at), Place::From(name.into(), files));
                    return Ok(End::More);
                }
                found => found?,
            };
            let child = found.attributes.number;
            if !take(&Listed { name: &name, next: at + 1, found }) {
                self.forget(child, 1);
                self.places.insert((number, at), Place::From(name.into(), files));
                return Ok(End::More);
            }
            if content {
                self.inodes().order(files.last, child);
                files.last = child;
                if files.first == 0 {
                    files.first = child;
                }
            }
            at += 1;
        }
        // The kernel asks once more, and then learns that this is the end.
        self.places.insert((number, at), Place::End(files));
        Ok(End::More)
    }

    fn list_names(
        &self,
        number: u64,
        place: u64,
        may_block: MayBlock,
        take: &mut Take,
    ) -> Result<End> {
        let (id, at) = (place >> 32, place & u64::from(u32::MAX));
        let known = self.listings.by_number.get(&id).filter(|listing| listing.number == number);
        let (id, listing) = match known {
            Some(listing) => (id, listing),
            None if may_block == MayBlock::No => return Err(Error::WouldBlock(Slow::List)),
            None => self.make_listing(number)?,
        };
        if !self.list_dots(number, at, id << 32, take) {
            return Ok(End::More);
        }
        let first = at.max(2);
        let rest = listing.entries.get((first - 2) as usize..).unwrap_or_default();
        for ((name, target), next) in rest.iter().zip(first + 1..) {
            let Some(found) = self.show_name(&listing.prefix, name, *target)? else {
                continue;
            };
            let child = found.attributes.number;
            if !take(&Listed { name: name.as_bytes(), next: id << 32 | next, found }) {
                self.forget(child, 1);
                return Ok(End::More);
            }
        }
        if !rest.is_empty() {
            return Ok(End::More);
        }
        // A reader that goes back takes a new one.
        self.listings.by_number.remove(&id);
        Ok(End::OfNames)
    }

    /// Shows a name of a listing. `None`: it is gone.
    fn show_name(&self, prefix: &str, name: &str, target: Option<Target>) -> Result<Option<Found>> {
        match (names::parse(prefix, name.as_bytes()), target) {
            (Some(Name::Below(below)), _) => self.show_names(below.as_str()),
            (Some(Name::Image { repository, platform, .. }), Some(target)) => {
                let root = Root::new(names::join(prefix, name), repository, target, platform);
                Ok(Some(self.show_root(Arc::new(root))))
            }
            _ => Ok(None),
        }
    }

    fn make_listing(&self, number: u64) -> Result<(u64, Arc<Listing>)> {
        let Inode::Names(prefix) = self.inode(number)? else {
            return Err(Error::Stale);
        };
        let mut entries = Vec::new();
        for Folder { name, repository: tagged, below } in self.view.folders(&prefix)? {
            let Ok(repository) = names::join(&prefix, &name).parse::<Repository>() else {
                continue;
            };
            if tagged {
                self.list_tags(&name, &repository, &mut entries)?;
            }
            if below {
                entries.push((name.into(), None));
            }
        }
        entries.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let listing = Arc::new(Listing { number, prefix, entries });
        let id = self.listings.next.fetch_add(1, Ordering::Relaxed) % LISTING_MAX + 1;
        self.listings.by_number.insert(id, Arc::clone(&listing));
        Ok((id, listing))
    }

    /// Lists the names of a repository's images. `base` is the last component of its name.
    fn list_tags(
        &self,
        base: &str,
        repository: &Repository,
        entries: &mut Vec<(Box<str>, Option<Target>)>,
    ) -> Result<()> {
        let wanted = self.options.platform.clone().unwrap_or_else(Platform::host);
        for tag in self.view.tags(repository)? {
            let target = match self.view.target(repository, &Reference::Tag(tag.clone())) {
                Ok(Some(target)) => target,
                Ok(None) => continue,
                Err(error) => {
                    tracing::error!(%repository, %tag, %error, "a tag cannot be listed");
                    continue;
                }
            };
            let platforms = self.platforms(repository, &target.digest);
            let others = platforms.iter().filter(|p| **p != wanted && !p.is_unknown());
            let names = std::iter::once(None).chain(others.map(Some));
            let names = names.filter_map(|platform| names::image(base, &tag, platform));
            entries.extend(names.map(|name| (name.into(), Some(target))));
        }
        Ok(())
    }

    /// The platforms of an image index. An image that cannot be read is listed by its tag alone.
    fn platforms(&self, repository: &Repository, digest: &Digest) -> BTreeSet<Platform> {
        let single = &self.listings.single;
        if single.get(digest).is_some() {
            return BTreeSet::new();
        }
        match self.view.platforms(repository, digest) {
            Ok(Some(platforms)) => platforms,
            Ok(None) => {
                single.insert(*digest, ());
                BTreeSet::new()
            }
            Err(_) => BTreeSet::new(),
        }
    }
}
