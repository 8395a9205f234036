//! From a reference or an id to the layers of one image, or to an artifact. The store is asked each
//! time what a tag or digest means and what a repository holds; only what the
//! answer means is kept. Sources: image-spec image-index.md; the choice among
//! platforms is containerd's (`images.Manifest`, `platforms`).

use std::collections::{BTreeSet, HashSet};
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use quick_cache::sync::Cache;

use super::describe::{self, Summaries};
use super::id::{LATEST, digits};
use super::{
    Artifact, Candidate, Error, FOREIGN_LINKS_MAX, FileTree, Id, Image, LAYERS_MAX, LayerId, Node,
    OneLayer, Platform, Result, links, view,
};
use crate::index::Layers;
use crate::index::ids::{IdKind, ImageRow};
use crate::metrics;
use crate::oci::config::CONFIG_MAX;
use crate::oci::manifest::{Child, LayerDescriptor};
use crate::oci::{Algorithm, Contents, Digest, ImageConfig, Reference, Repository};
use crate::storage::{self, StoredManifest};

/// Images kept in memory.
const IMAGES: usize = 64;
/// Candidates that an ambiguous prefix is answered with.
const CANDIDATES: usize = 10;
/// Images that are tried whose config is the one asked for, and whose layers are others.
const UNFIT_MAX: usize = 100;
/// Rows of ids read at a time.
pub(super) const ROWS: usize = 32;
/// Manifests that one index may lead to, those of its indexes included, as far as
/// they are read: for another platform they are not.
const NESTED_MAX: usize = 256;
/// Indexes in indexes.
const DEPTH_MAX: usize = 8;
/// Links between layers times layers, of an image.
const FOREIGN_LOOKUPS_MAX: u64 = 1 << 20;
/// Platforms named when there is none that fits.
const AVAILABLE: usize = 50;

/// What was asked for, with the platform if one was, and how many of its layers
/// if by an id of the first API.
type Asked = (Repository, Digest, Option<Platform>, Option<usize>);
/// And what it means.
type Known = Cache<Asked, Arc<Image>>;

/// What a reference or an id leads to.
#[derive(Clone, Debug)]
pub enum Opened {
    Image(Arc<Image>),
    Artifact(Arc<Artifact>),
    Layer(Arc<OneLayer>),
}

impl Opened {
    /// The repository that it was found in. A user who may pull from that repository may read it.
    pub fn repository(&self) -> &Repository {
        match self {
            Opened::Image(image) => &image.repository,
            Opened::Artifact(artifact) => artifact.repository(),
            Opened::Layer(layer) => &layer.image().repository,
        }
    }

    /// One of its layers by itself.
    pub fn one_layer(self, layer: &LayerId) -> Result<Opened> {
        match self {
            Opened::Image(image) => Ok(Opened::Layer(Arc::new(OneLayer::new(image, layer)?))),
            Opened::Artifact(_) | Opened::Layer(_) => {
                Err(Error::NotALayer { image: self.to_string(), layer: layer.to_string() })
            }
        }
    }

    pub fn into_tree(self) -> Arc<dyn FileTree> {
        match self {
            Opened::Image(image) => image,
            Opened::Artifact(artifact) => artifact,
            Opened::Layer(layer) => layer,
        }
    }
}

impl Deref for Opened {
    type Target = dyn FileTree;

    fn deref(&self) -> &(dyn FileTree + 'static) {
        match self {
            Opened::Image(image) => &**image,
            Opened::Artifact(artifact) => &**artifact,
            Opened::Layer(layer) => &**layer,
        }
    }
}

/// Where an id leads.
struct Located {
    repository: Repository,
    reference: Reference,
    /// How many layers are meant, if not all.
    layers: Option<usize>,
    /// It was found by the digest of its config.
    by_config: bool,
}

/// The images of a store.
#[derive(Debug)]
pub struct Images {
    layers: Arc<Layers>,
    known: Known,
    directories: Arc<view::Directories>,
    pub(super) summaries: Summaries,
    /// Tells images apart.
    next_serial: AtomicU64,
    /// Held while a config is parsed: what JSON becomes in memory is many times
    /// its bytes. Guards nothing else, so a panic under it does no harm.
    parsing: Mutex<()>,
}

/// The manifest of one image.
pub(super) struct Leaf {
    pub digest: Digest,
    pub config: Digest,
    pub layers: Vec<LayerDescriptor>,
}

fn name(repository: &Repository, manifest: &Digest) -> String {
    format!("{repository}@{manifest}")
}

pub(super) fn parse(repository: &Repository, stored: &StoredManifest) -> Result<Contents> {
    Contents::parse(&stored.bytes)
        .map_err(|cause| Error::Manifest { image: name(repository, &stored.digest), cause })
}

impl Images {
    pub fn new(layers: Arc<Layers>) -> Images {
        Images {
            layers,
            known: Cache::new(IMAGES),
            directories: Arc::new(view::directories()),
            summaries: describe::summaries(),
            next_serial: AtomicU64::new(0),
            parsing: Mutex::new(()),
        }
    }

    pub fn layers(&self) -> &Arc<Layers> {
        &self.layers
    }

    /// The image or artifact that `id` means, wherever it is. Without a platform, an index stands
    /// for its image for the host. Waits for layers that have to be indexed first.
    pub fn open(&self, id: &Id, platform: Option<&Platform>) -> Result<Opened> {
        self.open_where(id, platform, &|_| true)
    }

    /// [`Images::open`] with nothing but the repositories that are `permitted`.
    pub fn open_where(
        &self,
        id: &Id,
        platform: Option<&Platform>,
        permitted: &dyn Fn(&Repository) -> bool,
    ) -> Result<Opened> {
        let mut unfit = HashSet::new();
        let mut lacking = None;
        loop {
            // A layer that is missing says more than that no other manifest fits.
            let located = self.locate_part(id, permitted, &unfit);
            let located = located.map_err(|error| match lacking.take() {
                Some(lacking) if matches!(error, Error::ConfigMismatch(_)) => lacking,
                _ => error,
            });
            let Located { repository, reference, layers, by_config } = located?;
            match (self.open_part(&repository, &reference, platform, layers), id, &reference) {
                // Anybody may push a config of somebody else's with other layers. Under the config's
                // digest only the layers that it describes are shown, and so nothing of an artifact.
                (Ok(opened), ..)
                    if by_config
                        && !matches!(&opened, Opened::Image(image) if image.is_described) =>
                {
                    unfit.insert((repository, opened.manifest()));
                }
                (Ok(opened), ..) => return Ok(opened),
                // As hex digits, it is an id that no image has.
                (
                    Err(Error::Storage(storage::Error::ManifestUnknown { .. })),
                    Id::Hex { .. },
                    _,
                ) => {
                    return Err(Error::Unknown(id.to_string()));
                }
                // A repository may lack layers that another one has.
                (Err(error), Id::Hex { .. }, Reference::Digest(manifest))
                    if error.lacks_layer() =>
                {
                    unfit.insert((repository, *manifest));
                    lacking.get_or_insert(error);
                }
                (Err(error), ..) => return Err(error),
            }
            if unfit.len() == UNFIT_MAX {
                return Err(lacking.unwrap_or_else(|| Error::ConfigMismatch(id.to_string())));
            }
        }
    }

    /// Where what `id` means is, as far as repositories are `permitted`.
    pub fn locate(
        &self,
        id: &Id,
        permitted: &dyn Fn(&Repository) -> bool,
    ) -> Result<(Repository, Reference)> {
        let located = self.locate_part(id, permitted, &HashSet::new())?;
        Ok((located.repository, located.reference))
    }

    /// [`Images::locate`] without the images that are `unfit`.
    fn locate_part(
        &self,
        id: &Id,
        permitted: &dyn Fn(&Repository) -> bool,
        unfit: &HashSet<(Repository, Digest)>,
    ) -> Result<Located> {
        let unknown = || Error::Unknown(id.to_string());
        let (mut layers, mut by_config) = (None, false);
        let (repository, reference) = match id {
            Id::Reference { repository, reference } => (repository.clone(), reference.clone()),
            Id::Hex { algorithm, hex } => {
                if let Some((found, row)) = self.find(hex, *algorithm, permitted, unfit)? {
                    layers = row.layers;
                    by_config = row.kind == IdKind::Config;
                    (found.repository, Reference::Digest(found.manifest))
                } else if !unfit.is_empty() {
                    return Err(Error::ConfigMismatch(id.to_string()));
                } else {
                    if let (false, Err(found)) = (
                        self.layers.index().catalog_was_complete()?,
                        self.layers.index().catalog_complete(),
                    ) {
                        return Err(crate::index::Error::CatalogIncomplete(found).into());
                    }
                    // A repository may have such a name too.
                    match (hex.parse(), LATEST.parse()) {
                        (Ok(repository), Ok(tag)) if algorithm.is_none() => {
                            (repository, Reference::Tag(tag))
                        }
                        _ => return Err(unknown()),
                    }
                }
            }
        };
        if permitted(&repository) {
            return Ok(Located { repository, reference, layers, by_config });
        }
        // Not to be told from one that does not exist.
        match id {
            Id::Hex { .. } => Err(unknown()),
            Id::Reference { .. } => {
                Err(Error::Storage(storage::Error::ManifestUnknown { repository, reference }))
            }
        }
    }

    /// What the digits are the beginning of, in one of the repositories that hold it. With an
    /// `algorithm` they are the beginning of a digest, which an id of the first API never is.
    fn find(
        &self,
        prefix: &str,
        algorithm: Option<Algorithm>,
        permitted: &dyn Fn(&Repository) -> bool,
        unfit: &HashSet<(Repository, Digest)>,
    ) -> Result<Option<(Candidate, ImageRow)>> {
        let length = algorithm.map(digits);
        let mut found = Vec::new();
        let mut from = prefix.to_owned();
        'pages: loop {
            let rows = self.layers.index().find_images(prefix, &from, ROWS)?;
            if rows.is_empty() {
                break;
            }
            for row in rows {
                from = row.after();
                let wanted = length.is_none_or(|length| row.id.len() == length)
                    && (algorithm.is_none() || row.kind != IdKind::V1);
                if !wanted {
                    continue;
                }
                // Hidden repositories are skipped as a whole, however many manifests they have.
                if !permitted(&row.repository) {
                    from = row.after_repository();
                    continue 'pages;
                }
                if unfit.contains(&(row.repository.clone(), row.manifest)) {
                    continue;
                }
                let held = Reference::Digest(row.manifest);
                match self.layers.storage().manifest(&row.repository, &held) {
                    Ok(_) => {}
                    Err(storage::Error::ManifestUnknown { .. }) => continue,
                    Err(e) => return Err(e.into()),
                }
                from = row.after_id();
                let candidate = Candidate {
                    id: row.id.clone(),
                    repository: row.repository.clone(),
                    manifest: row.manifest,
                };
                // All the digits of an id mean nothing else.
                if candidate.id == prefix {
                    return Ok(Some((candidate, row)));
                }
                found.push((candidate, row));
                if found.len() == CANDIDATES {
                    break 'pages;
                }
                continue 'pages;
            }
        }
        match found.len() {
            0 | 1 => Ok(found.pop()),
            _ => Err(Error::Ambiguous {
                prefix: prefix.to_owned(),
                candidates: found.into_iter().map(|(found, _)| found).collect(),
            }),
        }
    }

    /// What was opened before, if its layers' rows are the same and the repository
    /// still holds it all.
    fn recall(&self, asked: &Asked) -> Result<Option<Arc<Image>>> {
        let Some(image) = self.known(asked) else {
            return Ok(None);
        };
        let ((repository, digest, ..), storage) = (asked, self.layers.storage());
        if image.manifest != *digest {
            storage.manifest(repository, &Reference::Digest(image.manifest))?;
        }
        for layer in &image.layers {
            storage.blob_size(repository, &layer.digest)?;
        }
        Ok(Some(image))
    }

    /// Forgets the images that are kept for the next reader.
    pub fn forget_opened(&self) {
        self.known.clear();
    }

    fn known(&self, asked: &Asked) -> Option<Arc<Image>> {
        let renewed = self.layers.renewed();
        let known = self.known.get(asked);
        known.filter(|image| image.renewed == renewed)
    }

    /// [`Images::open_in`], if that waits for nothing: an artifact, or an image that was opened a
    /// short time ago.
    pub fn opened_in(
        &self,
        repository: &Repository,
        reference: &Reference,
        platform: Option<&Platform>,
    ) -> Result<Option<Opened>> {
        let stored = self.layers.storage().manifest(repository, reference)?;
        let asked = (repository.clone(), stored.digest, platform.cloned(), None);
        match self.recall(&asked)? {
            Some(image) => Ok(Some(Opened::Image(image))),
            None => self.artifact(repository, &stored),
        }
    }

    /// The artifact that a manifest is; `None`: it says that it is an image.
    fn artifact(&self, repository: &Repository, stored: &StoredManifest) -> Result<Option<Opened>> {
        if !Artifact::is_one(stored) {
            return Ok(None);
        }
        let artifact = Artifact::new(&self.layers, repository, stored, None)?;
        Ok(Some(Opened::Artifact(Arc::new(artifact))))
    }

    /// The platforms of an index whose images are here, as the index says, or else their configs;
    /// `None` for anything else.
    pub fn platforms(
        &self,
        repository: &Repository,
        reference: &Reference,
    ) -> Result<Option<BTreeSet<Platform>>> {
        let storage = self.layers.storage();
        let stored = storage.manifest(repository, reference)?;
        let Contents::Index { mut children } = parse(repository, &stored)? else {
            return Ok(None);
        };
        let mut platforms = BTreeSet::new();
        let mut seen = HashSet::from([stored.digest]);
        children.reverse();
        for _ in 0..NESTED_MAX {
            let Some(child) = children.pop() else {
                break;
            };
            if let Some(platform) = child.platform {
                if storage.holds_manifest(repository, &child.digest)? {
                    platforms.insert(platform);
                }
                continue;
            }
            if !seen.insert(child.digest) {
                continue;
            }
            let stored = match storage.manifest(repository, &Reference::Digest(child.digest)) {
                Ok(stored) => stored,
                Err(storage::Error::ManifestUnknown { .. }) => continue,
                Err(error) => return Err(error.into()),
            };
            match parse(repository, &stored)? {
                Contents::Index { children: below } => children.extend(below),
                // A config that cannot be read says nothing; opening the image tells why.
                Contents::Image { config, .. } => {
                    platforms.extend(self.platform(repository, &config).ok().flatten());
                }
            }
        }
        Ok(Some(platforms))
    }

    /// An image or artifact of one repository.
    pub fn open_in(
        &self,
        repository: &Repository,
        reference: &Reference,
        platform: Option<&Platform>,
    ) -> Result<Opened> {
        self.open_part(repository, reference, platform, None)
    }

    fn open_part(
        &self,
        repository: &Repository,
        reference: &Reference,
        platform: Option<&Platform>,
        layers: Option<usize>,
    ) -> Result<Opened> {
        let storage = self.layers.storage();
        let stored = storage.manifest(repository, reference)?;
        let asked = (repository.clone(), stored.digest, platform.cloned(), layers);
        if let Some(image) = self.recall(&asked)? {
            return Ok(Opened::Image(image));
        }
        // An id of the first API means an image, whatever the manifest says of itself: otherwise a
        // pushed artifact with the same layers would show in the image's place.
        if layers.is_none()
            && let Some(artifact) = self.artifact(repository, &stored)?
        {
            return Ok(artifact);
        }
        let leaf = self.leaf(repository, &stored, platform)?;
        let opened = match platform {
            None if leaf.digest == stored.digest => {
                Opened::Image(Arc::new(self.load(repository, leaf, layers)?))
            }
            // The same image has other names: it is kept once.
            _ => self.open_part(repository, &Reference::Digest(leaf.digest), None, layers)?,
        };
        if let Opened::Image(image) = &opened {
            self.known.insert(asked, Arc::clone(image));
        }
        Ok(opened)
    }

    /// The image manifest that a manifest is or leads to.
    pub(super) fn leaf(
        &self,
        repository: &Repository,
        stored: &StoredManifest,
        platform: Option<&Platform>,
    ) -> Result<Leaf> {
        let image = || name(repository, &stored.digest);
        match parse(repository, stored)? {
            Contents::Image { config, layers } => {
                if let Some(wanted) = platform
                    && let Some(there) = self.platform(repository, &config)?
                    && wanted.rank(&there).is_none()
                {
                    return Err(Error::NoPlatform {
                        image: image(),
                        wanted: Box::new(wanted.clone()),
                        available: vec![there.to_string()],
                    });
                }
                Ok(Leaf { digest: stored.digest, config, layers })
            }
            Contents::Index { children } => {
                let mut choice = Choice {
                    images: self,
                    repository,
                    index: stored.digest,
                    wanted: platform.cloned().unwrap_or_else(Platform::host),
                    seen: HashSet::from([stored.digest]),
                    available: BTreeSet::new(),
                    missing: None,
                };
                if let Some(leaf) = choice.among(children, 1)? {
                    return Ok(leaf);
                }
                Err(match choice.missing {
                    Some(missing) => missing.into(),
                    None => Error::NoPlatform {
                        image: image(),
                        wanted: Box::new(choice.wanted),
                        available: choice.available.into_iter().collect(),
                    },
                })
            }
        }
    }

    /// Reads a config blob, checks its digest, and returns what `parse` makes of it. `None`: it is
    /// larger than the config of an image can be. Only one config is parsed at a time.
    pub fn config<T>(
        &self,
        repository: &Repository,
        config: &Digest,
        parse: impl FnOnce(Bytes) -> T,
    ) -> Result<Option<T>, storage::Error> {
        let blob = self.layers.storage().open_blob(repository, config)?;
        if blob.size > CONFIG_MAX as u64 {
            return Ok(None);
        }
        let _turn = self.parsing.lock();
        let bytes = blob.read(0..blob.size)?;
        let actual = config.algorithm().digest(&bytes);
        if actual != *config {
            return Err(storage::Error::digest_mismatch(config, &actual));
        }
        Ok(Some(parse(bytes)))
    }

    /// What an image's config says. `Ok(None)`: it is not the config of an image.
    fn image_config(
        &self,
        repository: &Repository,
        config: &Digest,
    ) -> Result<Option<ImageConfig>, storage::Error> {
        let parsed = self.config(repository, config, |bytes| ImageConfig::parse(&bytes))?;
        Ok(parsed.flatten())
    }

    /// The platform that the config of an image names, if it names one.
    pub fn platform(&self, repository: &Repository, config: &Digest) -> Result<Option<Platform>> {
        Ok(self.image_config(repository, config)?.and_then(|c| c.platform))
    }

    fn load(&self, repository: &Repository, mut leaf: Leaf, part: Option<usize>) -> Result<Image> {
        let storage = self.layers.storage();
        let ids = match part {
            Some(part) => {
                let ids = self.layer_ids(repository, &leaf)?;
                leaf.layers.truncate(part);
                Some(ids)
            }
            None => None,
        };
        metrics::image_opened();
        let renewed = self.layers.renewed();
        let image = || name(repository, &leaf.digest);
        if leaf.layers.len() > LAYERS_MAX {
            return Err(Error::TooManyLayers {
                image: image(),
                layers: leaf.layers.len(),
                max: LAYERS_MAX,
            });
        }
        for layer in &leaf.layers {
            match storage.blob_size(repository, &layer.digest) {
                Ok(_) => {}
                Err(storage::Error::BlobUnknown { .. }) if layer.foreign => {
                    return Err(Error::ForeignLayer {
                        image: image(),
                        layer: Box::new(layer.digest),
                    });
                }
                Err(e) => return Err(e.into()),
            }
        }
        let failed = |cause| Error::Layer { image: image(), cause };
        // All at once, if there are threads for it; then each is waited for.
        let digests = leaf.layers.iter().map(|layer| layer.digest);
        self.layers.pushed(digests.clone()).map_err(failed)?;
        let layers = digests.map(|digest| self.layers.ready(&digest));
        let layers = layers.collect::<Result<Vec<_>, _>>().map_err(failed)?;
        let links: u64 = layers.iter().map(|layer| layer.record.cross_layer_links).sum();
        // Each is looked for in all layers below it.
        if links > FOREIGN_LINKS_MAX || links * layers.len() as u64 > FOREIGN_LOOKUPS_MAX {
            return Err(Error::TooManyLinks { image: image(), links, max: FOREIGN_LINKS_MAX });
        }
        let (mut warnings, mut is_described) = (Vec::new(), false);
        match self.image_config(repository, &leaf.config) {
            Ok(Some(mut config)) => {
                if let Some(part) = part {
                    config.diff_ids.truncate(part);
                }
                let found = layers.iter().map(|layer| {
                    let diff_id = Digest::Sha256(layer.record.diff_id);
                    (layer.digest, diff_id)
                });
                compare(&config.diff_ids, found, &mut warnings);
                is_described = warnings.is_empty();
            }
            // An artifact, which says nothing of its layers.
            Ok(None) => {}
            Err(error) => warnings.push(format!("the config cannot be read: {error}")),
        }
        for warning in &warnings {
            tracing::warn!(image = image(), "{warning}");
        }
        let mut image = Image {
            repository: repository.clone(),
            manifest: leaf.digest,
            config: leaf.config,
            layers,
            ids,
            warnings,
            is_described,
            source: Arc::clone(&self.layers),
            renewed,
            root: Arc::new(Node::bare_root()),
            serial: self.next_serial.fetch_add(1, Ordering::Relaxed),
            directories: Arc::clone(&self.directories),
            links: links::Links::default(),
        };
        image.root = Arc::new(image.merged_root(image.layers.len())?);
        Ok(image)
    }
}

/// Compares what the config says of the layers with what they are.
fn compare(
    said: &[Option<Digest>],
    found: impl ExactSizeIterator<Item = (Digest, Digest)>,
    warnings: &mut Vec<String>,
) {
    if said.len() != found.len() {
        let (said, found) = (said.len(), found.len());
        warnings.push(format!("the config has {said} diff_ids, the manifest {found} layers"));
        return;
    }
    for (said, (layer, found)) in said.iter().zip(found) {
        match said {
            // Only sha256 is computed.
            Some(Digest::Sha512(_)) => {}
            Some(said) if *said == found => {}
            Some(said) => warnings
                .push(format!("layer {layer} has the diff_id {found}, the config says {said}")),
            None => warnings.push(format!(
                "layer {layer} has the diff_id {found}, what the config says is not a digest"
            )),
        }
    }
}

/// A search through an index for one platform.
struct Choice<'a> {
    images: &'a Images,
    repository: &'a Repository,
    index: Digest,
    wanted: Platform,
    seen: HashSet<Digest>,
    available: BTreeSet<String>,
    /// What the index says would fit, but is not here.
    missing: Option<storage::Error>,
}

impl Choice<'_> {
    /// The best of `children`, depth first. Those that say nothing of their
    /// platform come last: they are indexes, or their configs say it.
    fn among(&mut self, children: Vec<Child>, depth: usize) -> Result<Option<Leaf>> {
        let mut fitting: Vec<(Option<u32>, Digest)> = Vec::new();
        for child in children {
            match &child.platform {
                None => fitting.push((None, child.digest)),
                Some(platform) => match self.wanted.rank(platform) {
                    Some(rank) => fitting.push((Some(rank), child.digest)),
                    None => self.note(platform.to_string()),
                },
            }
        }
        fitting.sort_by_key(|(rank, _)| rank.unwrap_or(u32::MAX));
        for (rank, digest) in fitting {
            if !self.seen.insert(digest) {
                continue;
            }
            if self.seen.len() > NESTED_MAX || depth > DEPTH_MAX {
                return Err(Error::Nesting {
                    image: name(self.repository, &self.index),
                    max: NESTED_MAX,
                });
            }
            let storage = self.images.layers.storage();
            let stored = match storage.manifest(self.repository, &Reference::Digest(digest)) {
                Ok(stored) => stored,
                Err(error @ storage::Error::ManifestUnknown { .. }) => {
                    if rank.is_some() {
                        self.missing.get_or_insert(error);
                    }
                    continue;
                }
                Err(e) => return Err(e.into()),
            };
            match parse(self.repository, &stored)? {
                Contents::Index { children } => {
                    if let Some(leaf) = self.among(children, depth + 1)? {
                        return Ok(Some(leaf));
                    }
                }
                Contents::Image { config, layers } => {
                    if rank.is_none() && !self.fits(&config)? {
                        continue;
                    }
                    return Ok(Some(Leaf { digest, config, layers }));
                }
            }
        }
        Ok(None)
    }

    fn fits(&mut self, config: &Digest) -> Result<bool> {
        let platform = self.images.platform(self.repository, config)?;
        match &platform {
            Some(platform) if self.wanted.rank(platform).is_some() => return Ok(true),
            Some(platform) => self.note(platform.to_string()),
            None => self.note("unknown".to_owned()),
        }
        Ok(false)
    }

    fn note(&mut self, platform: String) {
        if self.available.len() < AVAILABLE {
            self.available.insert(platform);
        }
    }
}
