//! Reads the whole store and the whole index, and reports what is not as it was written. Damaged
//! blobs are moved aside, and a damaged index is made again.
//!
//! A scrub may run for days, beside everything else, so that what it reads changes meanwhile. Each
//! part looks once more at what seems damaged while no change can be under way.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::docker1::ImageId;
use crate::image::Images;
use crate::index::shared::{self, Owner, SendPart};
use crate::index::verify::Scratch;
use crate::index::{self, Error as IndexError, Index, LayerOptions, Layers};
use crate::metrics;
use crate::oci::{Contents, Digest, Repository};
use crate::registry::push::ids;
use crate::registry::{OpenError, Registry};
use crate::storage::scrub::{Content, Damage, Pace};
use crate::storage::{self, Storage, StoredManifest};

/// Findings that wait to be told.
const QUEUE: usize = 64;
/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);
/// Bytes of a message as JSON: a line to another process has less than 4 KiB.
const MESSAGE_MAX: usize = 3000;
/// How long a scrub waits until the catalog has been compared with the store.
const PATIENCE: Duration = Duration::from_secs(60);

/// The first scrub of a server waits this long.
const FIRST: Duration = Duration::from_secs(60);
/// How long a server waits after a scrub that failed, or could not begin.
const RETRY: Duration = Duration::from_secs(600);

/// How to scrub.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes read per second; 0 is no limit.
    pub rate: u64,
    /// Damaged blobs are reported and stay where they are.
    pub read_only: bool,
    /// There is no server that compares the catalog with the store when it starts.
    pub alone: bool,
}

/// What kind of damage it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    BlobDamaged,
    BlobMissing,
    LinkDamaged,
    TagDangling,
    ReferrerDangling,
    ImageDamaged,
    IndexDamaged,
    Unreadable,
}

impl Kind {
    pub const ALL: [Kind; 8] = [
        Kind::BlobDamaged,
        Kind::BlobMissing,
        Kind::LinkDamaged,
        Kind::TagDangling,
        Kind::ReferrerDangling,
        Kind::ImageDamaged,
        Kind::IndexDamaged,
        Kind::Unreadable,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Kind::BlobDamaged => "blob-damaged",
            Kind::BlobMissing => "blob-missing",
            Kind::LinkDamaged => "link-damaged",
            Kind::TagDangling => "tag-dangling",
            Kind::ReferrerDangling => "referrer-dangling",
            Kind::ImageDamaged => "image-damaged",
            Kind::IndexDamaged => "index-damaged",
            Kind::Unreadable => "unreadable",
        }
    }
}

/// One piece of damage.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Finding {
    pub kind: Kind,
    /// The repository whose link, tag, referrer or manifest it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// The blob, layer or manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Of damage to the index: how many rows of which families differ.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rows: BTreeMap<String, u64>,
    /// A sentence that names what is damaged and says what to do.
    pub message: String,
    /// It was moved aside or made again.
    pub mended: bool,
}

impl Finding {
    fn new(kind: Kind, message: impl ToString) -> Finding {
        let mut message: String = message.to_string().chars().take(MESSAGE_MAX).collect();
        while serde_json::json!(message).to_string().len() > MESSAGE_MAX {
            message.pop();
        }
        Finding {
            kind,
            repository: None,
            digest: None,
            rows: BTreeMap::new(),
            message,
            mended: false,
        }
    }

    fn repository(self, repository: &Repository) -> Finding {
        Finding { repository: Some(repository.to_string()), ..self }
    }

    fn digest(self, digest: &Digest) -> Finding {
        Finding { digest: Some(digest.to_string()), ..self }
    }
}

impl From<Damage> for Finding {
    fn from(damage: Damage) -> Finding {
        let text = &damage;
        match &damage {
            Damage::Blob { digest, aside, .. } => Finding {
                mended: aside.is_some(),
                ..Finding::new(Kind::BlobDamaged, text).digest(digest)
            },
            Damage::Missing { digest, .. } => Finding::new(Kind::BlobMissing, text).digest(digest),
            Damage::Link { repository, .. } => Finding {
                repository: repository.as_ref().map(ToString::to_string),
                ..Finding::new(Kind::LinkDamaged, text)
            },
            Damage::Tag { repository, manifest, .. } => {
                Finding::new(Kind::TagDangling, text).repository(repository).digest(manifest)
            }
            Damage::Referrer { repository, referrer, .. } => {
                Finding::new(Kind::ReferrerDangling, text).repository(repository).digest(referrer)
            }
            Damage::Image { .. } => Finding::new(Kind::ImageDamaged, text),
            Damage::Unreadable(_) => Finding::new(Kind::Unreadable, text),
        }
    }
}

/// What a scrub has read, and how it ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    pub repositories: u64,
    pub blobs: u64,
    /// Of the blobs, those whose index was compared with them.
    pub layers: u64,
    pub manifests: u64,
    /// Bytes read.
    pub bytes: u64,
    pub findings: u64,
}

/// What is told of a scrub while it runs. The last part is the summary.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// Bytes of blobs that are checked, and of how many.
    Progress {
        done: u64,
        total: u64,
    },
    Finding(Finding),
    Summary(Summary),
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Storage(#[from] storage::Error),
    #[error(transparent)]
    Index(#[from] IndexError),
    #[error("another scrub is running: wait for its end")]
    Running,
    /// The process that asked for it does not listen any more.
    #[error("the scrub was stopped: {0}")]
    Stopped(io::Error),
}

/// How the work is called on the socket.
pub(super) const WORK: &str = "scrub";

/// Scrubs the registry in `dir`, whose blobs are below `root`: by its server, or without one in this
/// process. `rate` is in bytes per second. `tell` hears of progress and findings; the scrub stops
/// when it fails.
pub fn run(
    dir: &Path,
    root: &Path,
    layers: &LayerOptions,
    rate: u64,
    mut tell: impl FnMut(Part) -> io::Result<()>,
) -> Result<Summary, RunError> {
    if !dir.is_dir() || !root.is_dir() {
        return Err(OpenError::Missing(dir.to_owned()).into());
    }
    let mut summary = None;
    let answered = shared::ask_server(dir, WORK, &rate.into(), |answer| {
        match serde_json::from_value(answer)? {
            Part::Summary(end) => summary = Some(end),
            part => tell(part)?,
        }
        Ok(())
    })?;
    let _lock = match answered.map_err(RunError::Server)? {
        Owner::Server => return summary.ok_or(RunError::Broken),
        Owner::Here(lock) => lock,
    };
    let options =
        storage::Options { root: root.to_owned(), read_only: false, sparse_images: false };
    let storage = Arc::new(Storage::open(&options).map_err(Error::from)?);
    let index = Arc::new(Index::open(&dir.join("db"))?);
    index.clean_layers()?;
    let layers = Layers::new(storage, index, layers).map_err(Error::Stopped)?;
    let images = Images::new(Arc::new(layers));
    let options = Options { rate, read_only: false, alone: true };
    Ok(scrub(&images, &options, &Mutex::default(), tell)?)
}

/// Why a scrub that was asked for failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Index(#[from] IndexError),
    #[error(transparent)]
    Scrub(#[from] Error),
    #[error("the server says: {0}")]
    Server(String),
    #[error("the server has ended the scrub without a summary")]
    Broken,
}

/// Scrubs a registry whose store and index this process owns. `collecting` is locked while garbage
/// is collected. `tell` hears of progress and findings; the scrub stops when it fails.
fn scrub(
    images: &Images,
    options: &Options,
    collecting: &Mutex<()>,
    mut tell: impl FnMut(Part) -> io::Result<()>,
) -> Result<Summary, Error> {
    let pace = Arc::new(Pace::new(options.rate));
    let (parts, told) = sync_channel(QUEUE);
    thread::scope(|scope| {
        let worker = {
            let pace = Arc::clone(&pace);
            move || {
                let mut scrub = Scrub {
                    images,
                    options,
                    collecting,
                    orphans: Vec::new(),
                    pace,
                    parts,
                    summary: Summary::default(),
                    before: 0,
                };
                scrub.run().map(|()| scrub.summary)
            }
        };
        let worker = thread::Builder::new().name("scrub".into()).spawn_scoped(scope, worker);
        let worker = worker.map_err(Error::Stopped)?;
        let mut total = None;
        let mut stopped = None;
        loop {
            let part = match told.recv_timeout(PROGRESS_EVERY) {
                Ok(Message::Total(bytes)) => {
                    total = Some((pace.bytes(), bytes));
                    continue;
                }
                Ok(Message::Finding(finding)) => Part::Finding(finding),
                Err(RecvTimeoutError::Timeout) => {
                    let (before, total) = total.unwrap_or((pace.bytes(), 0));
                    Part::Progress { done: (pace.bytes() - before).min(total), total }
                }
                Err(RecvTimeoutError::Disconnected) => break,
            };
            if stopped.is_none()
                && let Err(error) = tell(part)
            {
                pace.stop();
                stopped = Some(error);
            }
        }
        let ended = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        match stopped {
            Some(error) => Err(Error::Stopped(error)),
            None => ended,
        }
    })
}

impl Registry {
    /// Does a scrub that another process asked for.
    pub(super) fn answer_scrub(
        &self,
        read_only: bool,
        rate: serde_json::Value,
        send: &mut SendPart<'_>,
    ) -> Result<(), String> {
        let rate = serde_json::from_value(rate).map_err(|error| error.to_string())?;
        let mut tell = |part: Part| send(serde_json::to_value(part)?);
        let summary = self.scrub(rate, read_only, &mut tell).map_err(|error| error.to_string())?;
        tell(Part::Summary(summary)).map_err(|error| error.to_string())
    }

    /// Scrubs, unless another scrub runs.
    fn scrub(
        &self,
        rate: u64,
        read_only: bool,
        tell: impl FnMut(Part) -> io::Result<()>,
    ) -> Result<Summary, Error> {
        let _scrubbing = match self.scrubbing.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(Error::Running),
        };
        let options = Options { rate, read_only, alone: false };
        let summary = scrub(&self.images, &options, &self.collecting, tell)?;
        if let Some(at) = self.index().scrubbed()? {
            metrics::scrub_ended(at);
        }
        tracing::info!(
            blobs = summary.blobs,
            layers = summary.layers,
            manifests = summary.manifests,
            bytes = summary.bytes,
            findings = summary.findings,
            "scrubbed the store"
        );
        Ok(summary)
    }
}

/// Starts the thread that scrubs every `interval`. `None`: it only says when the last scrub ended.
pub fn start(
    registry: Arc<Registry>,
    interval: Option<Duration>,
    rate: u64,
    read_only: bool,
) -> io::Result<()> {
    Kind::ALL.iter().for_each(|kind| metrics::scrub_findings(kind.as_str(), 0));
    if let Some(at) = ended(&registry) {
        metrics::scrub_ended(at);
    }
    let Some(interval) = interval else { return Ok(()) };
    let retry = RETRY.min(interval);
    super::spawn("scrubs", move || {
        // This does not slow down the start.
        thread::sleep(interval.min(FIRST));
        loop {
            let due = ended(&registry).map_or(0, |at| at.saturating_add(interval.as_secs()));
            let left = due.saturating_sub(now());
            if left > 0 {
                // A scrub that somebody asks for counts too.
                thread::sleep(Duration::from_secs(left).min(RETRY));
                continue;
            }
            match registry.scrub(rate, read_only, |_| Ok(())) {
                Ok(_) => {}
                Err(Error::Running) => thread::sleep(retry),
                Err(error) => {
                    tracing::error!(%error, "cannot scrub the store");
                    thread::sleep(retry);
                }
            }
        }
    })
}

/// When the last scrub ended, in seconds since 1970.
fn ended(registry: &Registry) -> Option<u64> {
    registry.index().scrubbed().unwrap_or_else(|error| {
        tracing::error!(%error, "cannot read when the last scrub ended");
        None
    })
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

enum Message {
    /// Bytes of all blobs, which are read from now on.
    Total(u64),
    Finding(Finding),
}

struct Scrub<'a> {
    images: &'a Images,
    options: &'a Options,
    collecting: &'a Mutex<()>,
    /// Images of the first API that seem to lack their parent.
    orphans: Vec<(ImageId, Damage)>,
    pace: Arc<Pace>,
    parts: SyncSender<Message>,
    summary: Summary,
    /// Bytes that were counted in the metrics.
    before: u64,
}

impl Scrub<'_> {
    fn run(&mut self) -> Result<(), Error> {
        let storage = self.images.layers().storage();
        let aside = storage.aside()?;
        let pace = Arc::clone(&self.pace);
        let linked = storage.check_links(&pace, &aside, &mut |damage| match damage {
            Damage::Image { id, parent: Some(_), .. } => self.orphans.push((id, damage)),
            damage => self.found(damage.into()),
        })?;
        let mut total = 0;
        storage.each_blob(|_, size| {
            total += size;
            Ok::<_, storage::Error>(())
        })?;
        self.send(Message::Total(total));
        let mut scratch = self.images.layers().scratch()?;
        storage.each_blob(|digest, _| self.blob(digest, &mut scratch))?;
        drop(scratch);
        self.manifests()?;
        // The collector may remove an image after the one that it is built on.
        for (id, damage) in std::mem::take(&mut self.orphans) {
            drop(self.collecting.lock().unwrap_or_else(PoisonError::into_inner));
            if storage.is_orphan(&id)? {
                self.found(damage.into());
            }
        }
        if !self.options.read_only {
            storage.remove_aside(&aside, &linked)?;
        }
        self.summary.bytes = self.pace.bytes();
        Ok(self.images.layers().index().set_scrubbed(now())?)
    }

    /// The receiver lives until this thread ends.
    fn send(&self, message: Message) {
        let _ = self.parts.send(message);
    }

    fn found(&mut self, finding: Finding) {
        let (kind, message) = (finding.kind.as_str(), &finding.message);
        tracing::error!(kind, mended = finding.mended, "scrub: {message}");
        metrics::scrub_findings(kind, 1);
        self.summary.findings += 1;
        self.send(Message::Finding(finding));
    }

    /// Goes on after an error, unless the scrub was stopped.
    fn unreadable(&mut self, error: impl Into<Error>) -> Result<(), Error> {
        let error = error.into();
        if self.pace.is_stopped() {
            return Err(error);
        }
        self.found(Finding::new(Kind::Unreadable, error));
        Ok(())
    }

    fn blob(&mut self, digest: &Digest, scratch: &mut Scratch) -> Result<(), Error> {
        let checked = self.check_blob(digest, scratch);
        metrics::scrubbed(self.pace.bytes() - self.before);
        self.before = self.pace.bytes();
        checked.or_else(|error| self.unreadable(error))
    }

    fn check_blob(&mut self, digest: &Digest, scratch: &mut Scratch) -> Result<(), Error> {
        let layers = self.images.layers();
        let storage = layers.storage();
        let Some(blob) = storage.open_to_check(digest, &self.pace)? else { return Ok(()) };
        self.summary.blobs += 1;
        let indexed = layers.index_aside(scratch, digest, &blob);
        let why = match storage.check_content(digest, &blob, &self.pace)? {
            // What the index would be of other bytes means nothing.
            Content::Changed => return Ok(()),
            Content::Damaged { why } => why,
            Content::Good => {
                let indexed = indexed?;
                self.summary.layers += u64::from(indexed.is_some());
                let found = layers.differences(scratch, digest, indexed.as_ref(), &self.pace)?;
                if !found.0.is_empty() {
                    self.layer(digest, &found);
                }
                return Ok(());
            }
        };
        let aside = match self.options.read_only {
            true => None,
            false => match storage.set_damaged_aside(digest, &blob)? {
                None => return Ok(()),
                aside => aside,
            },
        };
        self.found(Damage::Blob { digest: *digest, why, aside }.into());
        Ok(())
    }

    /// Has the damaged index of a layer made again.
    fn layer(&mut self, digest: &Digest, found: &index::verify::Differences) {
        let made = self.images.layers().index_now(digest, true, |_| {});
        let end = match &made {
            Ok(_) => "it was made again".to_owned(),
            Err(error) => format!("it could not be made again: {error}"),
        };
        let message = format!("the index of layer {digest} is damaged ({found}): {end}");
        let rows = found.0.iter().map(|(family, number)| ((*family).to_owned(), *number));
        self.found(Finding {
            rows: rows.collect(),
            mended: made.is_ok(),
            ..Finding::new(Kind::IndexDamaged, message).digest(digest)
        });
    }

    /// Checks the rows that lead to manifests, and to the layers that they name.
    fn manifests(&mut self) -> Result<(), Error> {
        let index = self.images.layers().index();
        let start = Instant::now();
        if self.options.alone && !index.catalog_was_complete()? {
            return Ok(());
        }
        // Another server may have changed the store before this one started.
        while !self.options.alone && !index.is_compared() && !self.pace.is_stopped() {
            if start.elapsed() > PATIENCE {
                tracing::warn!(
                    "scrub: the rows of manifests are not checked, because the store is still \
                     compared with the catalog"
                );
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        }
        let storage = self.images.layers().storage();
        storage.walk(|repository| {
            self.summary.repositories += 1;
            self.repository(repository).or_else(|error| self.unreadable(error))
        })
    }

    fn repository(&mut self, repository: &Repository) -> Result<(), Error> {
        let (images, pace) = (self.images, Arc::clone(&self.pace));
        let (storage, index) = (images.layers().storage(), images.layers().index());
        let mut seeming = HashSet::new();
        let (mut read, mut bytes) = (0, 0);
        storage.read_manifests(repository, |stored| {
            // Nothing is waited for here, because the repository is locked.
            pace.go_on().map_err(Error::Stopped)?;
            read += 1;
            bytes += stored.bytes.len() as u64;
            if !Rows::check(images, repository, stored)?.is_sound() {
                seeming.insert(stored.digest);
            }
            Ok::<_, Error>(())
        })?;
        pace.spend(bytes).map_err(Error::Stopped)?;
        self.summary.manifests += read;
        self.tags(repository)?;
        if seeming.is_empty() {
            return Ok(());
        }
        // A push writes the rows after its manifest.
        index.settle();
        let mut found = Vec::new();
        storage.read_manifests(repository, |stored| {
            if !seeming.contains(&stored.digest) {
                return Ok(());
            }
            let rows = Rows::check(images, repository, stored)?;
            if rows.is_sound() {
                return Ok(());
            }
            if rows.unlisted {
                index.add_repository(repository)?;
            }
            index.add_images(repository, &stored.digest, &rows.ids)?;
            index.mend_found(storage, repository, &stored.digest, &stored.bytes)?;
            found.push((stored.digest, rows));
            Ok::<_, Error>(())
        })?;
        if found.iter().any(|(_, rows)| rows.unlisted) {
            let message =
                format!("repository {repository} was missing in the catalog: it was added again");
            self.found(Finding {
                rows: BTreeMap::from([("repositories".to_owned(), 1)]),
                mended: true,
                ..Finding::new(Kind::IndexDamaged, message).repository(repository)
            });
        }
        for (manifest, rows) in found {
            if !rows.families.is_empty() {
                let families = rows.families.join(", ");
                let message = format!(
                    "the rows of manifest {repository}@{manifest} are damaged ({families}): they \
                     were written again"
                );
                let rows = rows.families.iter().map(|family| ((*family).to_owned(), 1));
                self.found(Finding {
                    rows: rows.collect(),
                    mended: true,
                    ..Finding::new(Kind::IndexDamaged, message)
                        .repository(repository)
                        .digest(&manifest)
                });
            }
            for layer in rows.lost {
                let mut lost = index::verify::Differences::default();
                lost.0.insert("layers", 1);
                // Another manifest may have led to it before.
                if index.state(&layer)?.is_none() {
                    self.layer(&layer, &lost);
                }
            }
        }
        Ok(())
    }
}

impl Scrub<'_> {
    fn tags(&mut self, repository: &Repository) -> Result<(), Error> {
        let (storage, index) = (self.images.layers().storage(), self.images.layers().index());
        let mut mended = 0;
        for tag in index.stale_tags(storage, repository)? {
            // Under the lock no change is under way, whose row would come in a moment.
            let mend = || index.mend_tag(storage, repository, &tag);
            mended += u64::from(storage.without_changes(repository, mend)?);
        }
        if mended > 0 {
            let message = format!(
                "the rows of {mended} tags of repository {repository} are damaged: they were \
                 written again"
            );
            self.found(Finding {
                rows: BTreeMap::from([("tags".to_owned(), mended)]),
                mended: true,
                ..Finding::new(Kind::IndexDamaged, message).repository(repository)
            });
        }
        Ok(())
    }
}

/// What is wrong with the rows of a manifest.
struct Rows {
    ids: index::ids::Ids,
    /// Its repository is not in the catalog.
    unlisted: bool,
    families: Vec<&'static str>,
    /// Layers in the store that have no record.
    lost: Vec<Digest>,
}

impl Rows {
    fn check(
        images: &Images,
        repository: &Repository,
        stored: &StoredManifest,
    ) -> Result<Rows, Error> {
        let (storage, index) = (images.layers().storage(), images.layers().index());
        let mut rows = Rows {
            ids: index::ids::Ids::default(),
            unlisted: !index.is_in_catalog(repository)?,
            families: Vec::new(),
            lost: Vec::new(),
        };
        rows.families = index.check_found(storage, repository, &stored.digest, &stored.bytes)?;
        // Without contents there is nothing to look into.
        let Ok(contents) = Contents::parse(&stored.bytes) else { return Ok(rows) };
        rows.ids = ids(images, repository, &stored.digest, &contents);
        rows.families.extend(index.check_images(repository, &stored.digest, &rows.ids)?);
        if rows.ids.config.is_some() {
            for layer in &rows.ids.holds {
                if index.is_lost(layer)? && storage.open_content(layer)?.is_some() {
                    rows.lost.push(*layer);
                }
            }
        }
        Ok(rows)
    }

    fn is_sound(&self) -> bool {
        !self.unlisted && self.families.is_empty() && self.lost.is_empty()
    }
}
