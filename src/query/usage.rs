//! What takes the space of the store: of each repository and tag the bytes of the blobs that it
//! reaches, and how many of them nothing else reaches.
//!
//! A manifest reaches what it names, its referrers and its subject, as for the collection of garbage.
//! All is computed from the numbers that the index keeps ([`crate::index`]'s `stored`), in one pass.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Answer, Glob, Looked, Permitted, Step, write_line};
use crate::image::listing::url_path;
use crate::image::{Error, Images, Result};
use crate::index::{self, Stored};
use crate::metrics;
use crate::oci::{Repository, Tag};

/// A line of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Line {
    Total { total: Total },
    Of(Share),
}

/// What a repository, a tag or the manifests without a tag take.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    pub repository: String,
    /// Of a tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// Of all manifests of the repository that no tag reaches.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub untagged: bool,
    /// Manifests that it reaches.
    pub manifests: u64,
    /// Of a repository: its tags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<u64>,
    /// Bytes of the blobs that it reaches, each counted once.
    pub size: u64,
    /// Bytes of those among them that something else reaches too.
    pub shared: u64,
    /// The other bytes. They come back when it is deleted, with what only it reaches.
    pub unique: u64,
}

/// What the store takes, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Total {
    pub repositories: u64,
    pub blobs: u64,
    pub blob_bytes: u64,
    /// Blobs that no manifest reaches. A collection of garbage removes them when their time has come.
    pub unreferenced: u64,
    pub unreferenced_bytes: u64,
    pub uploads: u64,
    pub upload_bytes: u64,
    pub index_bytes: u64,
    /// Copies of layers that cannot be sought in as they are.
    pub copy_bytes: u64,
}

/// A blob that nothing has reached so far.
const NOTHING: u32 = u32::MAX;
/// A blob that several have reached.
const SEVERAL: u32 = u32::MAX - 1;

/// What reaches each blob: one of many owners, [`NOTHING`] or [`SEVERAL`].
#[derive(Default)]
struct Owners(Vec<u32>);

impl Owners {
    fn reach(&mut self, blob: usize, owner: u32) {
        let before = &mut self.0[blob];
        *before = if *before == NOTHING || *before == owner { owner } else { SEVERAL };
    }
}

/// A manifest of a repository, by the places of what it leads to.
#[derive(Default)]
struct Node {
    /// Manifests of the repository.
    leads_to: Vec<u32>,
    /// Its own bytes, and what else it names.
    blobs: Vec<u32>,
}

/// Shares while they are counted. A blob, a repository and a root, which is a tag or the like, are
/// their places in these lists.
#[derive(Default)]
struct Counting {
    blobs: HashMap<u128, u32>,
    sizes: Vec<u64>,
    /// The number of the count in which a blob was counted last.
    counted: Vec<u32>,
    counts: u32,
    /// A manifest names it, whose repository does not link it.
    is_named: Vec<bool>,
    of_repositories: Owners,
    of_roots: Owners,
    repositories: Vec<Share>,
    /// Each with its repository, in their order.
    roots: Vec<(u32, Share)>,
}

impl Counting {
    fn new(index: &index::Index) -> index::Result<Counting> {
        let mut counting = Counting::default();
        index.each_blob(|digest, size| {
            counting.blobs.insert(digest.beginning(), counting.sizes.len() as u32);
            counting.sizes.push(size);
        })?;
        let blobs = counting.sizes.len();
        counting.counted = vec![0; blobs];
        counting.is_named = vec![false; blobs];
        counting.of_repositories = Owners(vec![NOTHING; blobs]);
        counting.of_roots = Owners(vec![NOTHING; blobs]);
        Ok(counting)
    }

    fn nodes(&self, stored: &Stored, places: &HashMap<u128, u32>) -> Vec<Node> {
        let mut nodes: Vec<Node> = Vec::new();
        nodes.resize_with(stored.manifests.len(), Node::default);
        for (manifest, place) in stored.manifests.iter().zip(0_u32..) {
            let node = &mut nodes[place as usize];
            node.blobs.extend(self.blobs.get(&manifest.digest));
            for name in &manifest.blobs {
                match places.get(name) {
                    Some(child) => node.leads_to.push(*child),
                    None => node.blobs.extend(self.blobs.get(name)),
                }
            }
            node.leads_to.extend(manifest.others.iter().filter_map(|name| places.get(name)));
            if let Some(subject) = manifest.subject.and_then(|subject| places.get(&subject)) {
                node.leads_to.push(*subject);
                nodes[*subject as usize].leads_to.push(place);
            }
        }
        nodes
    }

    fn repository(&mut self, repository: &Repository, stored: Stored) {
        let digests = stored.manifests.iter().map(|manifest| manifest.digest);
        let places: HashMap<u128, u32> = digests.zip(0..).collect();
        let nodes = self.nodes(&stored, &places);
        for name in stored.manifests.iter().flat_map(|manifest| &manifest.others) {
            if let Some(blob) = self.blobs.get(name) {
                self.is_named[*blob as usize] = true;
            }
        }
        let mut tags: BTreeMap<u32, Vec<Tag>> = BTreeMap::new();
        for (tag, digest) in stored.tags {
            if let Some(place) = places.get(&digest) {
                tags.entry(*place).or_default().push(tag);
            }
        }
        let here = self.repositories.len() as u32;
        let share = Share { repository: repository.as_str().to_owned(), ..Share::default() };
        let all: Vec<u32> = (0..nodes.len() as u32).collect();
        let size = self.count(&nodes, &all, here, |counting| &mut counting.of_repositories);
        self.repositories.push(Share {
            manifests: all.len() as u64,
            tags: Some(tags.values().map(|tags| tags.len() as u64).sum()),
            size,
            ..share.clone()
        });
        let mut is_reached = vec![false; nodes.len()];
        for (place, tags) in tags {
            let reached = reached(&nodes, vec![place]);
            for place in &reached {
                is_reached[*place as usize] = true;
            }
            // Without one of several tags, the others still reach all of it.
            let root = if tags.len() > 1 { SEVERAL } else { self.roots.len() as u32 };
            let size = self.count(&nodes, &reached, root, |counting| &mut counting.of_roots);
            let manifests = reached.len() as u64;
            self.roots.extend(tags.into_iter().map(|tag| {
                let tag = Some(tag.as_str().to_owned());
                (here, Share { tag, manifests, size, ..share.clone() })
            }));
        }
        let untagged: Vec<u32> =
            all.into_iter().filter(|place| !is_reached[*place as usize]).collect();
        if !untagged.is_empty() {
            let root = self.roots.len() as u32;
            let size = self.count(&nodes, &untagged, root, |counting| &mut counting.of_roots);
            let manifests = untagged.len() as u64;
            self.roots.push((here, Share { untagged: true, manifests, size, ..share }));
        }
    }

    /// Notes what these manifests reach, and returns the bytes of that.
    fn count(
        &mut self,
        nodes: &[Node],
        reached: &[u32],
        owner: u32,
        owners: impl Fn(&mut Counting) -> &mut Owners,
    ) -> u64 {
        self.counts += 1;
        let mut size = 0;
        for blob in reached.iter().flat_map(|place| &nodes[*place as usize].blobs) {
            let blob = *blob as usize;
            if std::mem::replace(&mut self.counted[blob], self.counts) != self.counts {
                size += self.sizes[blob];
                owners(self).reach(blob, owner);
            }
        }
        size
    }

    /// Finds out which bytes nothing else reaches. Returns the blobs that nothing reaches, and their
    /// bytes.
    fn end(&mut self) -> (u64, u64) {
        let mut unreferenced = (0, 0);
        for (blob, size) in self.sizes.iter().enumerate() {
            let (repository, root) = (self.of_repositories.0[blob], self.of_roots.0[blob]);
            if let Some(repository) = self.repositories.get_mut(repository as usize) {
                repository.unique += size;
            }
            if let Some((_, root)) = self.roots.get_mut(root as usize) {
                root.unique += size;
            }
            if repository == NOTHING && !self.is_named[blob] {
                unreferenced = (unreferenced.0 + 1, unreferenced.1 + size);
            }
        }
        let roots = self.roots.iter_mut().map(|(_, share)| share);
        for share in self.repositories.iter_mut().chain(roots) {
            share.shared = share.size - share.unique;
        }
        unreferenced
    }
}

/// The manifests that some reach, themselves included.
fn reached(nodes: &[Node], mut left: Vec<u32>) -> Vec<u32> {
    let mut reached = HashSet::new();
    while let Some(place) = left.pop() {
        if reached.insert(place) {
            left.extend(&nodes[place as usize].leads_to);
        }
    }
    reached.into_iter().collect()
}

/// What an answer is about.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Repositories by their names; `None`: all, and the totals of the store.
    pub repositories: Option<Glob>,
    /// Leave out the tags.
    pub repositories_only: bool,
}

/// The work on an answer: repositories, those first that nothing else shares the most bytes of. Each
/// is followed by its tags, and by what no tag reaches, in the same order.
#[derive(Debug)]
pub struct Usage {
    groups: VecDeque<Vec<Share>>,
    group: VecDeque<Share>,
    total: Option<Total>,
    /// The repository that was begun last.
    position: Option<After>,
}

/// Where an answer goes on: after the repository with so many bytes and this name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct After(Reverse<u64>, String);

impl After {
    fn of(repository: &Share) -> After {
        After(Reverse(repository.unique), repository.repository.clone())
    }

    pub fn parse(text: &[u8]) -> Option<After> {
        let (unique, name) = std::str::from_utf8(text).ok()?.split_once(':')?;
        Some(After(Reverse(unique.parse().ok()?), name.to_owned()))
    }
}

impl Usage {
    /// Counts everything, which takes a second for some 100,000 images. What the asker may not pull
    /// does not exist, so it shares nothing. The totals are only for an asker that may pull everything.
    pub fn new(
        images: &Images,
        permitted: &Permitted,
        wanted: &Wanted,
        after: Option<&After>,
    ) -> Result<Usage> {
        let (storage, index) = (images.layers().storage(), images.layers().index());
        if index.is_following() {
            index.catch_up()?;
        }
        if !super::scope::is_complete(images)? {
            let found = index.catalog_complete().err().unwrap_or_default();
            return Err(index::Error::CatalogIncomplete(found).into());
        }
        let mut counting = Counting::new(index)?;
        let mut sees_all = true;
        index.each_repository(|repository, stored| match permitted(&repository) {
            true => counting.repository(&repository, stored),
            false => sees_all = false,
        })?;
        let (blobs, blob_bytes) = (counting.sizes.len() as u64, counting.sizes.iter().sum());
        let (unreferenced, unreferenced_bytes) = counting.end();
        let Counting { repositories, roots, .. } = counting;
        let wants_total = sees_all && wanted.repositories.is_none();
        let total = if wants_total {
            let (uploads, upload_bytes) = storage.upload_bytes()?;
            let (index_bytes, copy_bytes) = index.bytes()?;
            Some(Total {
                repositories: repositories.len() as u64,
                blobs,
                blob_bytes,
                unreferenced,
                unreferenced_bytes,
                uploads,
                upload_bytes,
                index_bytes,
                copy_bytes,
            })
        } else {
            None
        };
        let mut roots = roots.into_iter().peekable();
        let mut groups = Vec::new();
        for (here, repository) in repositories.into_iter().enumerate() {
            let mut group = vec![repository];
            while let Some((_, share)) = roots.next_if(|(of, _)| *of as usize == here) {
                group.push(share);
            }
            let repository = &group[0];
            let glob = wanted.repositories.as_ref();
            let is_wanted = glob.is_none_or(|glob| glob.is_match(repository.repository.as_bytes()))
                && after.is_none_or(|after| After::of(repository) > *after);
            if !is_wanted {
                continue;
            }
            if wanted.repositories_only {
                group.truncate(1);
            }
            group[1..].sort_by(|a, b| (b.unique, &a.tag).cmp(&(a.unique, &b.tag)));
            groups.push(group);
        }
        groups.sort_by_cached_key(|group| After::of(&group[0]));
        Ok(Usage { groups: groups.into(), group: VecDeque::new(), total, position: after.cloned() })
    }

    /// The next line.
    pub fn step(&mut self) -> Step<Line> {
        if self.group.is_empty()
            && let Some(group) = self.groups.pop_front()
        {
            self.position = Some(After::of(&group[0]));
            self.group = group.into();
        }
        if let Some(share) = self.group.pop_front() {
            return Step::Hit(Line::Of(share));
        }
        self.total.take().map_or(Step::End, |total| Step::Hit(Line::Total { total }))
    }
}

/// Starts the thread that reports the totals as metrics.
pub fn start(images: Arc<Images>) -> io::Result<()> {
    const EVERY: Duration = Duration::from_secs(300);
    /// While the catalog is being built.
    const AGAIN: Duration = Duration::from_secs(1);
    let wanted = Wanted { repositories: None, repositories_only: true };
    let permitted: Permitted = Arc::new(|_| true);
    let report = move || loop {
        thread::sleep(match Usage::new(&images, &permitted, &wanted, None) {
            Ok(Usage { total: Some(total), .. }) => {
                metrics::store_bytes([
                    ("blobs", total.blob_bytes),
                    ("unreferenced", total.unreferenced_bytes),
                    ("uploads", total.upload_bytes),
                    ("index", total.index_bytes),
                    ("copies", total.copy_bytes),
                ]);
                EVERY
            }
            Ok(_) | Err(Error::Index(index::Error::CatalogIncomplete(_))) => AGAIN,
            Err(error) => {
                tracing::error!(%error, "cannot count what takes space");
                EVERY
            }
        });
    };
    thread::Builder::new().name("usage".into()).spawn(report).map(drop)
}

impl Answer for Usage {
    fn step(&mut self, lines: &mut Vec<u8>) -> Result<Step<()>> {
        Ok(match self.step() {
            Step::Hit(line) => {
                write_line(lines, &line);
                Step::Hit(())
            }
            Step::Skipped(skipped) => Step::Skipped(skipped),
            Step::Working => Step::Working,
            Step::End => Step::End,
        })
    }

    /// Another answer goes on after a whole repository, and has the totals at its end.
    fn may_pause(&self) -> bool {
        self.group.is_empty() && !self.groups.is_empty() && self.position.is_some()
    }

    fn position(&self) -> Option<String> {
        let After(Reverse(unique), name) = self.position.as_ref()?;
        Some(url_path(format!("{unique}:{name}").as_bytes()))
    }

    fn looked(&self) -> Looked {
        Looked::default()
    }
}
