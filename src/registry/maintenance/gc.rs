//! Gives back the space of what nothing names any more, beside pushes and pulls.
//!
//! Mark: each repository is listed, and its manifests are read for what they name. Sweep: links that
//! no manifest of their repository names go, then the blobs that no repository links, then what the
//! index has of them. What a client was told of within the grace period stays, see
//! [`crate::storage`]'s `told`; so there is no lock, and a push that meets a collection wins.
//!
//! Killed at any point it leaves a correct store: manifests are gone for good before what they named
//! goes, and what is left over is found by the next run.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use crate::auth;
use crate::background::{give_way, let_requests_go_first};
use crate::events::{Event, Kind};
use crate::image::Images;
use crate::index::shared::{self, Owner};
use crate::index::{self, Index, LayerOptions, Layers};
use crate::metrics;
use crate::oci::{Contents, Digest, Named, Reference, Repository};
use crate::registry::delete::forget_ids;
use crate::registry::push::ids;
use crate::registry::{self, OpenError, Registry, Retention};
use crate::storage::{self, Link, Storage};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Storage(#[from] storage::Error),
    #[error(transparent)]
    Index(#[from] index::Error),
    /// Blobs may be linked there that would be taken for garbage.
    #[error(
        "{} is in the way, so nothing was collected: {why}; what it links cannot be known, so move \
         it out of the store, or make it readable", path.display()
    )]
    Unknown { path: PathBuf, why: String },
}

/// What to collect.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// What nothing has named for this long goes.
    pub grace: Duration,
    /// Also manifests go that no tag, no index and no subject reaches.
    pub untagged: bool,
    /// Uploads that received nothing for this long go.
    pub upload_ttl: Duration,
    /// Change nothing, only say what would go.
    pub dry_run: bool,
}

impl Default for Options {
    /// What a server does that is not told otherwise.
    fn default() -> Options {
        const HOUR: u64 = 3600;
        Options {
            grace: Duration::from_secs(24 * HOUR),
            untagged: false,
            upload_ttl: Duration::from_secs(7 * 24 * HOUR),
            dry_run: false,
        }
    }
}

/// What a run is asked for that may go beyond the settings of the server.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Request {
    pub grace: Option<Duration>,
    pub untagged: bool,
    pub dry_run: bool,
}

impl Options {
    fn with(self, request: &Request) -> Options {
        Options {
            grace: request.grace.unwrap_or(self.grace),
            untagged: self.untagged || request.untagged,
            dry_run: request.dry_run,
            ..self
        }
    }
}

/// A part of the result of a run: what went of each repository, then the totals.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Part {
    End { end: Totals },
    Removed(Removed),
}

/// How the work is called on the socket.
pub(super) const WORK: &str = "gc";

/// Collects garbage in the registry in `dir`, whose blobs are below `root`: by its server, or without
/// one in this process.
pub fn run(
    dir: &Path,
    root: &Path,
    layers: &LayerOptions,
    request: &Request,
    mut part: impl FnMut(Part),
) -> Result<(), RunError> {
    if !dir.is_dir() || !root.is_dir() {
        return Err(OpenError::Missing(dir.to_owned()).into());
    }
    let asked = serde_json::to_value(request).expect("a request is an object");
    let answered = shared::ask_server(dir, WORK, &asked, |answer| {
        part(serde_json::from_value(answer)?);
        Ok(())
    })?;
    let _lock = match answered.map_err(RunError::Server)? {
        Owner::Server => return Ok(()),
        Owner::Here(lock) => lock,
    };
    let options =
        storage::Options { root: root.to_owned(), read_only: false, sparse_images: false };
    let storage = Arc::new(Storage::open(&options).map_err(Error::from)?);
    let images = match Index::open(&dir.join("db")) {
        Ok(index) => {
            index.clean_layers().map_err(Error::from)?;
            let layers = Layers::new(Arc::clone(&storage), Arc::new(index), layers)
                .map_err(RunError::Threads)?;
            let layers = Arc::new(layers);
            registry::record(&storage, &layers);
            Some(Images::new(layers))
        }
        // It cannot even be opened before space has come back.
        Err(index::Error::DiskFull { .. }) => None,
        Err(error) => return Err(Error::from(error).into()),
    };
    let options = Options::default().with(request);
    let report = |removed: &Removed| part(Part::Removed(removed.clone()));
    let totals = collect(&storage, images.as_ref(), None, &options, |_, _| {}, report)?;
    part(Part::End { end: totals });
    Ok(())
}

/// Why a run that was asked for failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Collect(#[from] Error),
    #[error(transparent)]
    Index(#[from] index::Error),
    #[error("cannot start threads: {0}")]
    Threads(io::Error),
    #[error("the server says: {0}")]
    Server(String),
    #[error(transparent)]
    Storage(#[from] storage::Error),
    #[error(transparent)]
    File(#[from] auth::Error),
    #[error("there are no rules of retention: --retention FILE names them")]
    NoRules,
}

impl Registry {
    /// Collects garbage. Events are published for the manifests that go. One run waits for another.
    fn collect_garbage(
        &self,
        options: &Options,
        report: impl FnMut(&Removed),
    ) -> Result<Totals, Error> {
        let _turn = self.collecting.lock().unwrap_or_else(PoisonError::into_inner);
        let deleted = |repository: &Repository, digest: &Digest| {
            let event = Event::new(Kind::Delete, digest.hex(), &Arc::default());
            self.events.publish(event.repository(repository).digest(digest));
        };
        if !options.dry_run
            && let Err(error) = self.retain()
        {
            metrics::collecting_failed();
            tracing::error!(%error, "cannot delete the tags that no rule of retention keeps");
        }
        let (rules, images) = (self.retention(), Some(&*self.images));
        let totals = collect(&self.storage, images, rules.as_deref(), options, deleted, report)?;
        if !options.dry_run {
            tracing::info!(
                manifests = totals.manifests,
                blobs = totals.blobs,
                bytes = totals.bytes,
                uploads = totals.uploads,
                seconds = totals.seconds,
                index_behind = totals.index_behind,
                "collected garbage"
            );
        }
        Ok(totals)
    }

    /// Collects garbage for another process. The error is a message for it.
    pub(super) fn answer_gc(
        &self,
        settings: &Options,
        request: serde_json::Value,
        send: &mut shared::SendPart<'_>,
    ) -> Result<(), String> {
        let request: Request = serde_json::from_value(request).map_err(|e| e.to_string())?;
        // The thread answers nothing else.
        let_requests_go_first();
        // An asker that is gone is no reason to stop.
        let mut send = |part| {
            let part = serde_json::to_value(part).expect("a part is an object");
            let _ = send(part);
        };
        let report = |removed: &Removed| send(Part::Removed(removed.clone()));
        let totals = self.collect_garbage(&settings.with(&request), report);
        send(Part::End { end: totals.map_err(|e| e.to_string())? });
        Ok(())
    }
}

/// Starts the thread that collects garbage every `interval`.
pub fn start(registry: Arc<Registry>, options: Options, interval: Duration) -> io::Result<()> {
    /// The first run does not slow down the start.
    const FIRST: Duration = Duration::from_secs(60);
    super::spawn("gc", move || {
        thread::sleep(interval.min(FIRST));
        loop {
            if let Err(error) = registry.collect_garbage(&options, |_| {}) {
                metrics::collecting_failed();
                tracing::error!(%error, "cannot collect garbage");
            }
            thread::sleep(interval);
        }
    })
}

/// What went of a repository; without a name, of what belonged to none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    pub manifests: u64,
    /// Links to blobs: a blob that other repositories link stays for them.
    pub links: u64,
    /// Blobs that went from the store, manifests included.
    pub blobs: u64,
    /// Bytes of these blobs.
    pub bytes: u64,
    /// The repository held nothing any more.
    pub emptied: bool,
}

impl Removed {
    fn is_nothing(&self) -> bool {
        *self == Removed { repository: self.repository.clone(), ..Removed::default() }
    }
}

/// What a run removed in all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    pub repositories: u64,
    pub manifests: u64,
    pub links: u64,
    pub blobs: u64,
    pub bytes: u64,
    /// Images of Docker's first API.
    pub images: u64,
    pub uploads: u64,
    /// Layers whose index went.
    pub layers: u64,
    /// The disk was full, so the index still has rows of what went. The next run removes them.
    pub index_behind: bool,
    pub seconds: f64,
}

impl Totals {
    fn count(&self) {
        let kinds = [
            ("repository", self.repositories),
            ("manifest", self.manifests),
            ("link", self.links),
            ("blob", self.blobs),
            ("image", self.images),
            ("upload", self.uploads),
            ("layer", self.layers),
        ];
        metrics::collected(self.seconds, self.bytes, &kinds);
    }
}

/// [`Digest::beginning`]. Two that were made to look the same would keep each other.
type Key = u128;

/// A manifest, as far as collecting needs it.
struct Node {
    digest: Digest,
    subject: Option<Digest>,
    /// What it names: blobs, or manifests of an index.
    names: Vec<Key>,
}

/// Collects garbage. Without `images` the index is left as it is. `rules` say in which repositories
/// manifests go that no tag reaches, besides. `deleted` hears of each manifest that went, `report` of each repository that
/// lost something, in order, at the end.
pub fn collect(
    storage: &Storage,
    images: Option<&Images>,
    rules: Option<&Retention>,
    options: &Options,
    mut deleted: impl FnMut(&Repository, &Digest),
    mut report: impl FnMut(&Removed),
) -> Result<Totals, Error> {
    let start = Instant::now();
    let mut run = Run {
        images,
        index_behind: Cell::new(images.is_none()),
        storage,
        rules,
        options,
        start: SystemTime::now(),
        cutoff: storage.cutoff(options.grace),
        marked: HashSet::new(),
        unlinked_by: HashMap::new(),
        removed: Vec::new(),
        totals: Totals::default(),
    };
    if !options.dry_run {
        run.totals.uploads = storage.purge_uploads(options.upload_ttl)? as u64;
    }
    for repository in repositories(storage)? {
        run.repository(&repository, &mut deleted)?;
    }
    let manifests = run.v1_images()?;
    run.blobs()?;
    if !options.dry_run {
        // The manifests' own bytes are gone by now, so a run that is killed before finds them again.
        for manifest in manifests {
            storage.sweep_made_manifest(&manifest, run.cutoff)?;
        }
        let layers = run.in_index(|images| {
            // Images that are kept for the next reader must not keep the rows of their layers.
            images.forget_opened();
            images.layers().collect(|layer| Ok(!storage.holds_content(layer)?))
        })?;
        run.totals.layers = layers.unwrap_or_default() as u64;
    }
    run.totals.index_behind = run.index_behind.get();
    let Run { mut totals, mut removed, .. } = run;
    removed.retain(|removed| !removed.is_nothing());
    removed.sort_by(|a, b| a.repository.cmp(&b.repository));
    for part in &removed {
        totals.manifests += part.manifests;
        totals.links += part.links;
        totals.blobs += part.blobs;
        totals.bytes += part.bytes;
        totals.repositories += u64::from(part.emptied);
        report(part);
    }
    totals.seconds = start.elapsed().as_secs_f64();
    if !options.dry_run {
        totals.count();
    }
    Ok(totals)
}

/// All repositories. A folder that cannot be read, or is no repository, may link blobs all the same.
fn repositories(storage: &Storage) -> Result<Vec<Repository>, Error> {
    let mut repositories = Vec::new();
    let unknown = |path: &Path, error: &dyn std::error::Error| {
        Err(Error::Unknown { path: path.to_owned(), why: error.to_string() })
    };
    let visit = |repository: &Repository| {
        repositories.push(repository.clone());
        Ok(())
    };
    storage.walk_strictly(visit, unknown)?;
    Ok(repositories)
}

struct Run<'a> {
    images: Option<&'a Images>,
    /// See [`Totals::index_behind`].
    index_behind: Cell<bool>,
    storage: &'a Storage,
    rules: Option<&'a Retention>,
    options: &'a Options,
    start: SystemTime,
    cutoff: SystemTime,
    /// Blobs that stay.
    marked: HashSet<Key>,
    /// By blob: the place in `removed` of the repository that unlinked it last.
    unlinked_by: HashMap<Key, usize>,
    removed: Vec<Removed>,
    totals: Totals,
}

impl Run<'_> {
    /// Changes something in the index. `None`: it cannot be written, because the disk is full, which
    /// must not keep the collection from freeing space.
    fn in_index<T>(
        &self,
        change: impl FnOnce(&Images) -> index::Result<T>,
    ) -> Result<Option<T>, Error> {
        match self.images.map(change).transpose() {
            Err(index::Error::DiskFull { .. }) => {
                self.index_behind.set(true);
                Ok(None)
            }
            changed => Ok(changed?),
        }
    }

    fn mark(&mut self, digest: &Digest) {
        self.marked.insert(digest.beginning());
    }

    fn repository(
        &mut self,
        repository: &Repository,
        deleted: &mut impl FnMut(&Repository, &Digest),
    ) -> Result<(), Error> {
        let holdings = self.storage.holdings(repository)?;
        let place = self.removed.len();
        self.removed
            .push(Removed { repository: Some(repository.to_string()), ..Removed::default() });
        let named = self.manifests(repository, &holdings.manifests, place, deleted)?;
        let mut unnamed = Vec::new();
        for digest in &holdings.links {
            give_way();
            let Some(link) = self.storage.link(repository, digest)? else { continue };
            let is_named = named.as_ref().is_none_or(|named| named.contains(&digest.beginning()));
            if is_named || !self.storage.is_link_old(repository, digest, self.cutoff)? {
                self.mark_link(&link);
            } else {
                unnamed.push(link);
            }
        }
        let swept = match self.options.dry_run {
            true => unnamed.clone(),
            false => self.storage.sweep_links(repository, &unnamed, self.cutoff)?,
        };
        let gone: HashSet<Key> = swept.iter().map(|link| link.digest.beginning()).collect();
        for link in &unnamed {
            if !gone.contains(&link.digest.beginning()) {
                self.mark_link(link);
            } else if let Some(target) = link.target {
                self.unlinked_by.insert(target.beginning(), place);
            }
        }
        self.removed[place].links = swept.len() as u64;
        if !self.options.dry_run {
            let forget = || {
                self.in_index(|images| images.layers().index().remove_repository(repository))
                    .map(drop)
            };
            self.removed[place].emptied = self.storage.sweep_repository(repository, forget)?;
        }
        if self.removed[place].is_nothing() {
            self.removed.pop();
        }
        Ok(())
    }

    fn mark_link(&mut self, link: &Link) {
        self.mark(&link.digest);
        if let Some(target) = link.target {
            self.mark(&target);
        }
    }

    /// Marks a repository's manifests that stay, and removes the others. Returns what those that
    /// stay name; `None`: that cannot be known, so everything that the repository links stays.
    fn manifests(
        &mut self,
        repository: &Repository,
        manifests: &[Digest],
        place: usize,
        deleted: &mut impl FnMut(&Repository, &Digest),
    ) -> Result<Option<HashSet<Key>>, Error> {
        let mut nodes = Vec::new();
        let mut unreadable = Vec::new();
        for digest in manifests {
            give_way();
            match self.node(repository, digest) {
                Ok(node) => nodes.extend(node),
                Err(Unreadable::Manifest(error)) => {
                    tracing::warn!(
                        %repository, manifest = %digest, %error,
                        "nothing of the repository is collected, because a manifest cannot be read"
                    );
                    unreadable.push(*digest);
                }
                Err(Unreadable::Store(error)) => return Err(error.into()),
            }
        }
        let all_known = unreadable.is_empty();
        if let Some(cutoff) = self.untagged_cutoff(repository)
            && all_known
        {
            let unreached = self.take_unreached(repository, &mut nodes, cutoff)?;
            let swept = self.sweep_manifests(repository, &unreached, cutoff, deleted)?;
            self.removed[place].manifests = swept.len() as u64;
            for node in unreached {
                if swept.contains(&node.digest) {
                    self.unlinked_by.insert(node.digest.beginning(), place);
                } else {
                    nodes.push(node);
                }
            }
        }
        for digest in nodes.iter().map(|node| &node.digest).chain(&unreadable) {
            give_way();
            self.mark(digest);
            if let Some(target) = self.storage.manifest_target(repository, digest)? {
                self.mark(&target);
            }
        }
        let names: HashSet<Key> = nodes.into_iter().flat_map(|node| node.names).collect();
        // Content that was deleted, and that something names still, stays, as with distribution.
        self.marked.extend(&names);
        Ok(all_known.then_some(names))
    }

    /// Since when no tag reaches the manifests of a repository that go. `None`: they all stay.
    fn untagged_cutoff(&self, repository: &Repository) -> Option<SystemTime> {
        match self.rules.and_then(|rules| rules.untagged(repository)) {
            Some(age) => {
                let since = self.start.checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
                Some(since.min(self.cutoff))
            }
            None => self.options.untagged.then_some(self.cutoff),
        }
    }

    /// Reads a manifest. `None`: the store lacks it.
    fn node(&self, repository: &Repository, digest: &Digest) -> Result<Option<Node>, Unreadable> {
        let reference = Reference::Digest(*digest);
        let bytes = match self.storage.read_manifest(repository, &reference) {
            Ok(stored) => stored.bytes.clone(),
            Err(error @ storage::Error::ManifestUnknown { .. }) => {
                // A scrub has moved its bytes aside, or they are lost.
                return match self.storage.holds_manifest(repository, digest) {
                    Ok(true) => {
                        Err(Unreadable::Manifest(format!("{error}: its bytes are missing")))
                    }
                    Ok(false) => Ok(None),
                    Err(error) => Err(Unreadable::Store(error)),
                };
            }
            Err(error @ storage::Error::Damaged { .. }) => {
                return Err(Unreadable::Manifest(error.to_string()));
            }
            Err(error) => return Err(Unreadable::Store(error)),
        };
        let named =
            Named::parse(&bytes).map_err(|error| Unreadable::Manifest(error.to_string()))?;
        let names = named.digests.iter().map(Digest::beginning).collect();
        Ok(Some(Node { digest: *digest, subject: named.subject, names }))
    }

    /// Takes those of a repository's manifests out of `nodes` that no tag reaches, through indexes,
    /// from a referrer to its subject or from a subject to its referrers. What came, or lost a tag,
    /// since the cutoff counts as tagged.
    fn take_unreached(
        &self,
        repository: &Repository,
        nodes: &mut Vec<Node>,
        cutoff: SystemTime,
    ) -> Result<Vec<Node>, Error> {
        let tagged = self.storage.tagged(repository)?;
        let mut referrers: HashMap<Key, Vec<usize>> = HashMap::new();
        let mut places = HashMap::new();
        let mut left = Vec::new();
        for (place, node) in nodes.iter().enumerate() {
            places.insert(node.digest.beginning(), place);
            if let Some(subject) = &node.subject {
                referrers.entry(subject.beginning()).or_default().push(place);
            }
            if tagged.contains(&node.digest)
                || !self.storage.is_manifest_old(repository, &node.digest, cutoff)?
            {
                left.push(place);
            }
        }
        let mut reached = vec![false; nodes.len()];
        while let Some(place) = left.pop() {
            if std::mem::replace(&mut reached[place], true) {
                continue;
            }
            let node = &nodes[place];
            let named =
                node.names.iter().copied().chain(node.subject.as_ref().map(Digest::beginning));
            left.extend(named.filter_map(|name| places.get(&name)));
            left.extend(referrers.get(&node.digest.beginning()).into_iter().flatten());
        }
        let (mut kept, mut unreached) = (Vec::new(), Vec::new());
        for (node, reached) in nodes.drain(..).zip(reached) {
            if reached { kept.push(node) } else { unreached.push(node) }
        }
        *nodes = kept;
        Ok(unreached)
    }

    fn sweep_manifests(
        &self,
        repository: &Repository,
        unreached: &[Node],
        cutoff: SystemTime,
        deleted: &mut impl FnMut(&Repository, &Digest),
    ) -> Result<HashSet<Digest>, Error> {
        if self.options.dry_run {
            return Ok(unreached.iter().map(|node| node.digest).collect());
        }
        let mut all = HashSet::new();
        for batch in unreached.chunks(100) {
            // What leads to a manifest is read from it, so before it goes.
            let known = batch.iter().map(|node| {
                let stored =
                    self.storage.read_manifest(repository, &Reference::Digest(node.digest)).ok();
                let contents = stored.and_then(|stored| Contents::parse(&stored.bytes).ok());
                let images = self.images?;
                contents.map(|contents| ids(images, repository, &node.digest, &contents))
            });
            let known: Vec<_> = known.collect();
            let names: Vec<_> = batch.iter().map(|node| (node.digest, node.subject)).collect();
            let swept = self.storage.sweep_manifests(repository, &names, cutoff)?;
            all.extend(&swept);
            for (node, ids) in batch.iter().zip(known) {
                if !all.contains(&node.digest) {
                    continue;
                }
                if let Some(ids) = ids {
                    self.in_index(|images| {
                        forget_ids(images.layers(), repository, &node.digest, &ids)
                    })?;
                }
                deleted(repository, &node.digest);
            }
        }
        Ok(all)
    }

    /// Marks the layers of the images of the first API that stay, and removes the others. An image
    /// stays if a manifest was made of it, or of one that is built on it, or while it is pushed.
    /// Returns the manifests that are gone, and that images were made into.
    fn v1_images(&mut self) -> Result<Vec<Digest>, Error> {
        let images = self.storage.v1_images()?;
        let (made, gone): (Vec<Digest>, Vec<Digest>) = self
            .storage
            .made_manifests()?
            .into_iter()
            .partition(|manifest| self.marked.contains(&manifest.beginning()));
        let mut roots = self.storage.v1_parents()?;
        for manifest in &made {
            roots.extend(self.storage.made_of(manifest)?);
        }
        for id in &images {
            if !self.storage.is_image_old(id, self.cutoff)? {
                roots.push(*id);
            }
        }
        let mut kept = HashSet::new();
        for id in roots {
            if kept.contains(&id) {
                continue;
            }
            match self.storage.ancestry(&id) {
                Ok(ancestry) => kept.extend(ancestry),
                Err(storage::Error::ImageUnknown(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        for id in images {
            let stays = kept.contains(&id)
                || !self.options.dry_run && !self.storage.sweep_image(&id, self.cutoff)?;
            match stays {
                true => {
                    if let Some(layer) = self.storage.image(&id)?.map(|image| image.layer) {
                        self.mark(&layer);
                    }
                }
                false => self.totals.images += 1,
            }
        }
        Ok(gone)
    }

    fn blobs(&mut self) -> Result<(), Error> {
        let mut orphans = Removed::default();
        let mut swept = Vec::new();
        let about_to_go = |digest: &Digest| {
            if let Some(images) = self.images
                && let Err(error) = images.layers().keep_open(digest)
            {
                tracing::warn!(layer = %digest, %error, "a layer that is in use is collected");
            }
        };
        let index = self.images.map(|images| images.layers().index());
        let mut recorded = index.map(Index::recorded_blobs).transpose()?;
        let is_kept = |digest: &Digest| {
            give_way();
            if let Some(recorded) = &mut recorded {
                self.in_index(|_| recorded.visit(self.storage, digest))?;
            }
            Ok::<_, Error>(self.marked.contains(&digest.beginning()))
        };
        self.storage.sweep_blobs(
            self.cutoff,
            self.options.dry_run,
            is_kept,
            about_to_go,
            |digest, size| swept.push((digest.beginning(), size)),
        )?;
        for (digest, size) in swept {
            let of = match self.unlinked_by.get(&digest) {
                Some(place) => &mut self.removed[*place],
                None => &mut orphans,
            };
            of.blobs += 1;
            of.bytes += size;
        }
        self.removed.push(orphans);
        if let Some(recorded) = recorded {
            self.in_index(|_| recorded.end(self.storage))?;
        }
        Ok(())
    }
}

/// Why a manifest cannot be read.
enum Unreadable {
    /// It is damaged, or no document.
    Manifest(String),
    Store(storage::Error),
}
