//! Images of Docker's first API, below `docker/registry/v1`. A complete image is a folder that appears
//! in one step and never changes: `json` as it was sent, `ancestry` (ids, its own first), `layer` (a
//! digest; the bytes are a blob like any other) and, if it was pushed, `checksum`. `pushers` has a file
//! for each pusher that has shown to have the image by pushing it.
//!
//! While an image is being pushed it lies apart, in a folder of its pusher, with every layer that
//! came for it: `layers/CHECKSUM.DIGEST`. So it is invisible, survives a restart, and can be pushed by
//! several clients at a time without one wrong push harming another. A push that is never completed
//! is removed as abandoned uploads are.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard};
use std::thread;
use std::time::{Duration, SystemTime};

use super::durable::discard;
use super::uploads::{WRITEBACK, start_writeback};
use super::{Blob, Change, Error, Result, SHARDS, Storage, exists, read_link};
use crate::docker1::{CHAIN_MAX, ImageId, JSON_MAX, Place, checksum};
use crate::oci::{Algorithm, Digest, Hasher, Repository};

/// Layers kept of one image while it is being pushed: more than clients that push it at a time.
const LAYERS_MAX: usize = 4;

/// Bytes from which on a thread of its own for a hash saves more than it costs.
const HASHED_APART: usize = 256 << 10;

/// What tells pushers apart: none of them sees what another one is pushing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Pusher([u8; 32]);

impl Pusher {
    /// `principal` is what the access rules know the pusher by.
    pub fn new(principal: &str) -> Pusher {
        match Algorithm::Sha256.digest(principal.as_bytes()) {
            Digest::Sha256(hash) => Pusher(hash),
            Digest::Sha512(_) => unreachable!("another algorithm"),
        }
    }
}

/// It is safe as the name of a file.
impl fmt::Display for Pusher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Digest::Sha256(self.0).hex())
    }
}

impl fmt::Debug for Pusher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A complete image.
#[derive(Debug)]
pub struct StoredImage {
    pub json: Vec<u8>,
    pub layer: Digest,
    /// What its push was checked against. Images that were derived from a manifest have none.
    pub checksum: Option<Digest>,
}

/// The layer of an image while it is being received. Dropping it removes what has come of it.
#[derive(Debug)]
pub struct LayerUpload {
    storage: Arc<Storage>,
    pusher: Pusher,
    id: ImageId,
    /// The digest of the image's JSON when the layer began.
    json: Digest,
    path: PathBuf,
    file: Option<File>,
    digest: Hasher,
    checksum: Hasher,
    written: u64,
    /// Where the last started write-out ended.
    written_out: u64,
}

impl Storage {
    /// Serialises changes to an image.
    pub(super) fn lock_image(&self, id: &ImageId) -> MutexGuard<'_, ()> {
        // The ids of honest clients are random.
        let shard = usize::from(id.as_bytes()[0]) % SHARDS;
        self.shards[shard].lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A complete image.
    pub fn image(&self, id: &ImageId) -> Result<Option<StoredImage>> {
        let folder = self.layout.v1_image(id);
        let Some(json) = read_small(&folder.join("json"), JSON_MAX)? else {
            return Ok(None);
        };
        let link = folder.join("layer");
        let layer = read_link(&link)?
            .ok_or_else(|| Error::Damaged { path: link, why: "it is missing".to_owned() })?;
        Ok(Some(StoredImage { json, layer, checksum: read_link(&folder.join("checksum"))? }))
    }

    /// The ids of a complete image and its ancestors, its own first.
    pub fn ancestry(&self, id: &ImageId) -> Result<Vec<ImageId>> {
        let path = self.layout.v1_image(id).join("ancestry");
        let text = read_small(&path, CHAIN_MAX * 65)?.ok_or(Error::ImageUnknown(*id))?;
        let damaged =
            || Error::Damaged { path: path.clone(), why: "it is no list of ids".to_owned() };
        let text = String::from_utf8(text).map_err(|_| damaged())?;
        text.lines().map(|line| line.parse().map_err(|_| damaged())).collect()
    }

    /// Whether an image is complete and this pusher has pushed it.
    pub fn has_pushed(&self, pusher: &Pusher, id: &ImageId) -> Result<bool> {
        exists(&self.layout.v1_pusher(id, pusher))
    }

    /// Begins the push of an image, or begins it again. Its parent is complete.
    pub fn put_image_json(&self, pusher: &Pusher, place: &Place, json: &[u8]) -> Result<()> {
        let _lock = self.lock_image(&place.id);
        let folder = self.layout.v1_pushing(pusher, &place.id);
        let path = folder.join("json");
        if read_small(&path, JSON_MAX)?.is_some_and(|before| before != json) {
            // The checksums of these layers cover the JSON that is replaced.
            self.durable.remove(&folder.join("layers"))?;
        }
        self.durable.write(&path, json)
    }

    /// Begins to receive a layer of an image whose JSON was pushed.
    pub fn write_layer(self: &Arc<Self>, pusher: &Pusher, id: &ImageId) -> Result<LayerUpload> {
        let path = self.layout.v1_pushing(pusher, id).join("json");
        let json = read_small(&path, JSON_MAX)?.ok_or(Error::ImageUnknown(*id))?;
        let path = self.durable.scratch_path();
        let file = File::create_new(&path).map_err(|e| Error::io("create", &path, e))?;
        Ok(LayerUpload {
            storage: Arc::clone(self),
            pusher: *pusher,
            id: *id,
            json: Algorithm::Sha256.digest(&json),
            path,
            file: Some(file),
            digest: Algorithm::Sha256.hasher(),
            checksum: checksum(&json),
            written: 0,
            written_out: 0,
        })
    }

    /// Ends the push of an image. From now on the image is visible, and does not change any more.
    /// Returns its layer. If no layer with this checksum was pushed, all of the push is removed.
    pub fn complete_image(&self, pusher: &Pusher, id: &ImageId, said: &str) -> Result<Digest> {
        let _lock = self.lock_image(id);
        let folder = self.layout.v1_pushing(pusher, id);
        let layers = folder.join("layers");
        let pushed = pushed_layers(&layers)?;
        let json = read_small(&folder.join("json"), JSON_MAX)?;
        let (Some(json), false) = (json, pushed.is_empty()) else {
            return Err(Error::ChecksumUnexpected(*id));
        };
        let checksum: Option<Digest> = said.parse().ok();
        let wanted = |(found, _): &&(Digest, Digest)| Some(*found) == checksum;
        let Some((checksum, layer)) = pushed.iter().find(wanted) else {
            self.durable.remove(&folder)?;
            return Err(Error::ChecksumMismatch {
                image: *id,
                said: said.chars().take(80).collect(),
            });
        };
        let file = layers.join(layer_name(checksum, layer));
        if let Some(there) = self.image(id)? {
            // Another pusher was first. A pusher that has the same bytes may use the image.
            let same = there.json == json && there.layer == *layer;
            if same {
                // This also restores a lost layer.
                self.install_layer(id, &file, layer)?;
                self.add_pusher(pusher, id)?;
            }
            self.durable.remove(&folder)?;
            return same.then_some(*layer).ok_or(Error::ImageExists(*id));
        }
        let place = Place::parse(&json, id)
            .map_err(|e| Error::Damaged { path: folder.join("json"), why: e.to_string() })?;
        self.install_layer(id, &file, layer)?;
        self.install_image(&place, &json, layer, Some(checksum))?;
        self.add_pusher(pusher, id)?;
        self.durable.remove(&folder)?;
        Ok(*layer)
    }

    /// Gives a layer that came the name of its digest.
    fn install_layer(&self, id: &ImageId, file: &Path, layer: &Digest) -> Result<()> {
        // It may have come long ago, and the collector goes by its time.
        self.note(file)?;
        self.durable.install(file, &self.layout.blob_data(layer))?;
        self.changed(Change::Blob(layer));
        self.note(&self.layout.v1_layer(id)).map(drop)
    }

    /// A complete image, for a client. A client that hears of it does not push it, so the collector
    /// leaves it alone for a while.
    pub fn tell_image(&self, id: &ImageId) -> Result<Option<StoredImage>> {
        let _telling = self.telling();
        let Some(image) = self.image(id)? else { return Ok(None) };
        // It is of no use without those that it is built on.
        for id in self.ancestry(id)? {
            if !self.note(&self.layout.v1_layer(&id))? {
                return Ok(None);
            }
        }
        Ok(Some(image))
    }

    /// The parent of an image that is being pushed in `folder`.
    pub(super) fn pushed_parent(&self, folder: &Path) -> Result<Option<ImageId>> {
        let json = read_small(&folder.join("json"), JSON_MAX)?;
        let id = folder.file_name().and_then(|name| name.to_str()?.parse().ok());
        let (Some(json), Some(id)) = (json, id) else { return Ok(None) };
        Ok(Place::parse(&json, &id).ok().and_then(|place| place.parent))
    }

    fn add_pusher(&self, pusher: &Pusher, id: &ImageId) -> Result<()> {
        self.durable.write(&self.layout.v1_pusher(id, pusher), b"")
    }

    fn install_image(
        &self,
        place: &Place,
        json: &[u8],
        layer: &Digest,
        checksum: Option<&Digest>,
    ) -> Result<()> {
        let mut ancestry = vec![place.id];
        if let Some(parent) = &place.parent {
            ancestry.extend(self.ancestry(parent)?);
        }
        let ancestry: String = ancestry.iter().map(|id| format!("{id}\n")).collect();
        let (layer, checksum) = (layer.to_string(), checksum.map(Digest::to_string));
        let mut files =
            vec![("json", json), ("ancestry", ancestry.as_bytes()), ("layer", layer.as_bytes())];
        files.extend(checksum.as_ref().map(|text| ("checksum", text.as_bytes())));
        let folder = self.layout.v1_image(&place.id);
        self.durable.write_folder(&folder, &files)
    }

    /// Makes an image complete that was derived from a manifest, so that others can build on it.
    /// `ancestry` has its id first. `json` is called if the image is not here already.
    ///
    /// A client may have pushed something under the id, perhaps the same layer with another history.
    /// The id is derived from the manifest's layers, so the manifest's image replaces that.
    pub fn install_derived<E: From<Error>>(
        &self,
        ancestry: &[ImageId],
        layer: &Digest,
        json: impl FnOnce() -> Result<Vec<u8>, E>,
    ) -> Result<(), E> {
        let [id, ancestors @ ..] = ancestry else {
            return Ok(());
        };
        let _lock = self.lock_image(id);
        let found = self.image(id)?;
        if let Some(found) = &found
            && found.checksum.is_none()
            && found.layer == *layer
            && self.ancestry(id)? == ancestry
        {
            return Ok(());
        }
        let json = json()?;
        if found.is_some() {
            self.durable.remove(&self.layout.v1_image(id))?;
        }
        let place = Place { id: *id, parent: ancestors.first().copied() };
        Ok(self.install_image(&place, &json, layer, None)?)
    }

    /// Notes the image that a manifest was made of.
    pub fn set_made_of(&self, manifest: &Digest, id: &ImageId) -> Result<()> {
        let path = self.layout.v1_manifest(manifest);
        self.durable.write(&path, id.to_string().as_bytes())
    }

    /// The image that a manifest was made of.
    pub fn made_of(&self, manifest: &Digest) -> Result<Option<ImageId>> {
        let path = self.layout.v1_manifest(manifest);
        let Some(text) = read_small(&path, 64)? else {
            return Ok(None);
        };
        let id = String::from_utf8(text).ok().and_then(|id| id.parse().ok());
        id.map(Some).ok_or_else(|| Error::Damaged { path, why: "it holds no id".to_owned() })
    }

    /// Writes a blob that this server has made. It belongs to no repository yet.
    pub fn write_content(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = Algorithm::Sha256.digest(bytes);
        self.durable.write(&self.layout.blob_data(&digest), bytes)?;
        self.changed(Change::Blob(&digest));
        Ok(digest)
    }

    /// Writes a blob that this server has made, and links it in a repository.
    pub fn put_blob(&self, repository: &Repository, bytes: &[u8]) -> Result<Digest> {
        let digest = self.write_content(bytes)?;
        self.link_blob(repository, &digest, &digest)?;
        Ok(digest)
    }

    /// Links the layer of an image that was pushed as such in a repository. The caller has made
    /// sure that the layer may be read there.
    pub fn link_layer(&self, repository: &Repository, layer: &Digest) -> Result<()> {
        self.link_blob(repository, layer, layer).map(drop)
    }

    /// Opens the layer of an image, which belongs to no repository.
    pub fn open_layer(&self, id: &ImageId, layer: &Digest) -> Result<Blob> {
        self.open_content(layer)?.ok_or(Error::ImageUnknown(*id))
    }

    /// Whether only clients with a name may read a repository.
    pub fn is_private(&self, repository: &Repository) -> Result<bool> {
        if let Some(private) = self.private.get(repository) {
            return Ok(private);
        }
        let _lock = self.try_lock(repository).filter(|_| self.is_owned());
        let private = exists(&self.layout.private(repository))?;
        if _lock.is_some() {
            self.private.insert(repository.clone(), private);
        }
        Ok(private)
    }

    pub fn set_private(&self, repository: &Repository, private: bool) -> Result<()> {
        let _lock = self.lock(repository);
        let path = self.layout.private(repository);
        let changed = if private {
            self.durable.write(&path, b"")
        } else if exists(&path)? {
            self.durable.remove(&path).map(|_| ())
        } else {
            Ok(())
        };
        self.private.remove(repository);
        changed
    }

    /// Removes the pushes of images that received nothing for `ttl`. Returns their number.
    pub(super) fn purge_images(&self, ttl: Duration) -> Result<usize> {
        let mut purged = 0;
        for pusher in entries(&self.layout.v1_pushing_all())? {
            for image in entries(&pusher)? {
                // The folder changes when a layer is added.
                let newest = [image.join("layers"), image.clone()]
                    .iter()
                    .filter_map(|path| fs::metadata(path).ok()?.modified().ok())
                    .max();
                let age = newest.and_then(|time| SystemTime::now().duration_since(time).ok());
                if age.is_some_and(|age| age > ttl) && self.durable.remove(&image)? {
                    purged += 1;
                }
            }
        }
        Ok(purged)
    }
}

impl LayerUpload {
    /// Adds bytes.
    pub fn append(mut self, pieces: &[bytes::Bytes]) -> Result<LayerUpload> {
        let length: usize = pieces.iter().map(bytes::Bytes::len).sum();
        let LayerUpload { file, digest, checksum, path, .. } = &mut self;
        let file = file.as_mut().expect("taken only by finish");
        // Two hashes over all bytes take longer than everything else, so where there is much to
        // hash each of them gets a core.
        let written = thread::scope(|scope| {
            if length >= HASHED_APART {
                thread::Builder::new().spawn_scoped(scope, || update(checksum, pieces))?;
            } else {
                update(checksum, pieces);
            }
            for piece in pieces {
                file.write_all(piece)?;
            }
            update(digest, pieces);
            Ok(())
        });
        written.map_err(|e| Error::io("write", path, e))?;
        self.written += length as u64;
        let (start, end) = (self.written_out, self.written);
        if end - start >= WRITEBACK {
            if let Some(file) = &self.file {
                start_writeback(file, start, end - start);
            }
            self.written_out = end;
        }
        Ok(self)
    }

    /// Ends the layer, which waits for its checksum from now on. Returns the checksum and the
    /// layer's digest.
    pub fn finish(mut self) -> Result<(Digest, Digest)> {
        let file = self.file.take().expect("taken here only");
        file.sync_all().map_err(|e| Error::io("sync", &self.path, e))?;
        drop(file);
        let storage = Arc::clone(&self.storage);
        let _lock = storage.lock_image(&self.id);
        let folder = storage.layout.v1_pushing(&self.pusher, &self.id);
        let json = read_small(&folder.join("json"), JSON_MAX)?;
        if json.map(|json| Algorithm::Sha256.digest(&json)) != Some(self.json) {
            return Err(Error::ImageChanged(self.id));
        }
        let layers = folder.join("layers");
        let checksum = self.checksum.clone().finish();
        let digest = self.digest.clone().finish();
        if pushed_layers(&layers)?.len() >= LAYERS_MAX {
            storage.durable.remove(&layers)?;
        }
        let name = layers.join(layer_name(&checksum, &digest));
        storage.durable.install(&self.path, &name)?;
        Ok((checksum, digest))
    }
}

impl Drop for LayerUpload {
    fn drop(&mut self) {
        // `finish()` has already moved the file.
        discard(&self.path);
    }
}

fn update(hasher: &mut Hasher, pieces: &[bytes::Bytes]) {
    pieces.iter().for_each(|piece| hasher.update(piece));
}

fn layer_name(checksum: &Digest, layer: &Digest) -> String {
    format!("{}.{}", checksum.hex(), layer.hex())
}

/// The checksums and digests of the layers that came for an image.
fn pushed_layers(folder: &Path) -> Result<Vec<(Digest, Digest)>> {
    let digest = |hex: &str| format!("sha256:{hex}").parse().ok();
    let parse = |path: PathBuf| {
        let (checksum, layer) = path.file_name()?.to_str()?.split_once('.')?;
        Some((digest(checksum)?, digest(layer)?))
    };
    Ok(entries(folder)?.into_iter().filter_map(parse).collect())
}

/// The entries of a folder. Empty if the folder does not exist.
pub(super) fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |e| Error::io("list", folder, e);
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry.map_err(failed)?.path())).collect(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(failed(e)),
    }
}

/// A small file. `None`: it does not exist.
fn read_small(path: &Path, limit: usize) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) if bytes.len() > limit => Err(Error::Damaged {
            path: path.to_owned(),
            why: format!("it has more than {limit} bytes"),
        }),
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("read", path, e)),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::storage::Options;

    const ID: [u8; 32] = [0xab; 32];

    fn open(root: &Path) -> Arc<Storage> {
        let options = Options { root: root.to_owned(), read_only: false, sparse_images: false };
        Arc::new(Storage::open(&options).unwrap())
    }

    fn place(parent: Option<ImageId>) -> Place {
        Place { id: ImageId::from_bytes(ID), parent }
    }

    /// Pushes JSON and a layer; returns the checksum.
    fn push(storage: &Arc<Storage>, pusher: &Pusher, layer: &'static [u8]) -> String {
        let json = format!(r#"{{"id":"{}"}}"#, ImageId::from_bytes(ID));
        let place = place(None);
        storage.put_image_json(pusher, &place, json.as_bytes()).unwrap();
        let writer = storage.write_layer(pusher, &place.id).unwrap();
        let writer = writer.append(&[Bytes::from_static(layer)]).unwrap();
        let (sum, digest) = writer.finish().unwrap();
        assert_eq!(digest, Algorithm::Sha256.digest(layer));
        let mut wanted = checksum(json.as_bytes());
        wanted.update(layer);
        assert_eq!(sum, wanted.finish());
        sum.to_string()
    }

    #[test]
    fn complete_in_one_step_and_for_good() {
        let root = tempfile::tempdir().unwrap();
        let [a, b] = ["user a", "user b"].map(Pusher::new);
        let id = place(None).id;
        let storage = open(root.path());
        let sum = push(&storage, &a, b"layer");
        assert!(storage.image(&id).unwrap().is_none(), "not yet");
        // What came before a restart counts.
        drop(storage);
        let storage = open(root.path());
        let layer = storage.complete_image(&a, &id, &sum).unwrap();
        let image = storage.image(&id).unwrap().unwrap();
        assert_eq!((image.layer, image.checksum), (layer, sum.parse().ok()));
        assert_eq!(storage.ancestry(&id).unwrap(), [id]);
        let mut content = Vec::new();
        let blob = storage.open_layer(&id, &layer).unwrap();
        io::Read::read_to_end(&mut blob.reader(), &mut content).unwrap();
        assert_eq!(content, b"layer");
        assert!(storage.has_pushed(&a, &id).unwrap());
        assert!(!storage.has_pushed(&b, &id).unwrap());

        // The same bytes make another pusher; another layer changes nothing.
        let other = push(&storage, &b, b"other");
        let refused = storage.complete_image(&b, &id, &other);
        assert!(matches!(refused, Err(Error::ImageExists(_))), "{refused:?}");
        assert!(!storage.has_pushed(&b, &id).unwrap());
        let sum = push(&storage, &b, b"layer");
        assert_eq!(storage.complete_image(&b, &id, &sum).unwrap(), layer);
        assert!(storage.has_pushed(&b, &id).unwrap());
        assert_eq!(storage.image(&id).unwrap().unwrap().layer, layer);
    }

    #[test]
    fn abandoned_pushes_are_removed() {
        let root = tempfile::tempdir().unwrap();
        let storage = open(root.path());
        let pusher = Pusher::new("open");
        let sum = push(&storage, &pusher, b"layer");
        assert_eq!(storage.purge_uploads(Duration::from_secs(3600)).unwrap(), 0);
        assert_eq!(storage.purge_uploads(Duration::ZERO).unwrap(), 1);
        let gone = storage.complete_image(&pusher, &place(None).id, &sum);
        assert!(matches!(gone, Err(Error::ChecksumUnexpected(_))));
        // Many layers for one image do not add up.
        for layer in [&b"1"[..], b"2", b"3", b"4", b"5", b"6"] {
            push(&storage, &pusher, layer);
        }
        let folder = storage.layout.v1_pushing(&pusher, &place(None).id);
        assert_eq!(pushed_layers(&folder.join("layers")).unwrap().len(), 2);
    }

    /// Anybody may push an image under the id that a manifest's layers lead to, before or after.
    #[test]
    fn what_is_derived_replaces_what_was_pushed() {
        let root = tempfile::tempdir().unwrap();
        let storage = open(root.path());
        let layers = [[1; 32], [2; 32]].map(Digest::Sha256);
        let [base, top] = [[4; 32], [5; 32]].map(ImageId::from_bytes);
        let checksum = Digest::Sha256([3; 32]);
        let derive = |ancestry: &[ImageId], layer| {
            storage
                .install_derived(ancestry, layer, || Ok::<_, Error>(b"derived".to_vec()))
                .unwrap();
        };
        for (parent, layer) in [(None, &layers[1]), (Some(base), &layers[1]), (None, &layers[0])] {
            derive(&[base], &layers[0]);
            storage.durable.remove(&storage.layout.v1_image(&top)).unwrap();
            let forged = Place { id: top, parent };
            storage.install_image(&forged, b"{}", layer, Some(&checksum)).unwrap();
            for _ in 0..2 {
                derive(&[top, base], &layers[1]);
            }
            assert_eq!(storage.ancestry(&top).unwrap(), [top, base]);
            let image = storage.image(&top).unwrap().unwrap();
            assert_eq!(image.json, b"derived");
            assert_eq!((image.layer, image.checksum), (layers[1], None));
        }
    }

    #[test]
    fn private() {
        let root = tempfile::tempdir().unwrap();
        let storage = open(root.path());
        let repository = "a/b".parse().unwrap();
        assert!(!storage.is_private(&repository).unwrap());
        for private in [true, true, false, false] {
            storage.set_private(&repository, private).unwrap();
            assert_eq!(storage.is_private(&repository).unwrap(), private);
        }
    }
}
