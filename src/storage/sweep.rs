//! What the collector lists and removes. It decides elsewhere what is named by what
//! (`registry::maintenance::gc`); here each removal checks once more, in one step with it, that what
//! goes was not told to a client since the cutoff, see [`super::told`].
//!
//! A collection begins with its cutoff. What a push links or names after that is newer than the
//! cutoff, and what came before is found when the repository is listed, because a push holds the
//! repository's lock from its check to its link. So a push that meets a collection wins.
//!
//! A name is taken away by a rename into the scratch folder. What is freed there cannot be reached
//! any more, and the next start clears it.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use super::blobs::BlobKey;
use super::durable::discard;
use super::told::NOTE_EVERY;
use super::{Change, Error, Result, Storage, read_link};
use crate::background::give_way;
use crate::docker1::ImageId;
use crate::oci::{Algorithm, Digest, Reference, Repository};

/// Names removed while no client may be told that something exists.
const BATCH: usize = 32;
/// The kernel sets the times of files by a clock that lags behind by up to this.
const CLOCK_LAG: Duration = Duration::from_millis(20);

/// What a repository holds at a moment at which no push to it is under way.
#[derive(Debug)]
pub struct Holdings {
    /// The digests of its manifests.
    pub manifests: Vec<Digest>,
    /// The digests of the blobs that it links.
    pub links: Vec<Digest>,
}

/// A blob that a repository links.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    pub digest: Digest,
    /// Where the content lies, see [`Storage::open_blob`]. `None`: the link is damaged.
    pub target: Option<Digest>,
}

/// Whether the time of a file is before the cutoff.
fn is_older(path: &Path, cutoff: SystemTime) -> Result<bool> {
    match fs::metadata(path).and_then(|metadata| metadata.modified()) {
        Ok(time) => Ok(time < cutoff),
        // What is not there has nothing to wait for.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(e) => Err(Error::io("read", path, e)),
    }
}

impl Storage {
    /// Begins a collection. What no client was told of since the result, and is not named, may go.
    pub fn cutoff(&self, grace: Duration) -> SystemTime {
        let start = SystemTime::now();
        thread::sleep(CLOCK_LAG);
        start.checked_sub(grace + grace.min(NOTE_EVERY)).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// Lists a repository.
    pub fn holdings(&self, repository: &Repository) -> Result<Holdings> {
        let _lock = self.lock(repository);
        let mut links = Vec::new();
        for algorithm in Algorithm::ALL {
            let folder = self.layout.layers(repository).join(algorithm.as_str());
            links.extend(self.digests_in(&folder, algorithm)?);
        }
        Ok(Holdings { manifests: self.revisions(repository)?, links })
    }

    /// Reads a link. `None`: it is gone.
    pub fn link(&self, repository: &Repository, digest: &Digest) -> Result<Option<Link>> {
        match read_link(&self.layout.layer_link(repository, digest)) {
            Ok(target) => Ok(target.map(|target| Link { digest: *digest, target: Some(target) })),
            Err(Error::Damaged { .. }) => Ok(Some(Link { digest: *digest, target: None })),
            Err(e) => Err(e),
        }
    }

    /// Where the bytes of a manifest lie, as the repository's link says. `None`: it is gone.
    pub fn manifest_target(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Option<Digest>> {
        read_link(&self.layout.revision_link(repository, digest))
    }

    /// The manifests that a repository's tags name.
    pub fn tagged(&self, repository: &Repository) -> Result<HashSet<Digest>> {
        let mut tagged = HashSet::new();
        for tag in self.tag_names(repository)? {
            tagged.extend(read_link(&self.layout.tag_current(repository, &tag?))?);
        }
        Ok(tagged)
    }

    /// Whether no client was told of a blob's link since the cutoff.
    pub fn is_link_old(
        &self,
        repository: &Repository,
        digest: &Digest,
        cutoff: SystemTime,
    ) -> Result<bool> {
        is_older(&self.layout.layer_link(repository, digest), cutoff)
    }

    /// Whether a manifest was neither pushed nor lost a tag since the cutoff.
    pub fn is_manifest_old(
        &self,
        repository: &Repository,
        digest: &Digest,
        cutoff: SystemTime,
    ) -> Result<bool> {
        Ok(is_older(&self.layout.revision_link(repository, digest), cutoff)?
            && is_older(&self.layout.blob_data(digest), cutoff)?)
    }

    /// Takes blobs out of a repository, unless somebody was told of them since the cutoff. Returns
    /// those that went.
    pub fn sweep_links(
        &self,
        repository: &Repository,
        links: &[Link],
        cutoff: SystemTime,
    ) -> Result<Vec<Link>> {
        let mut swept = Vec::new();
        for batch in links.chunks(BATCH) {
            let mut aside = Vec::new();
            let lock = self.lock(repository);
            let silence = self.silence();
            for link in batch {
                if !self.is_link_old(repository, &link.digest, cutoff)? {
                    continue;
                }
                let path = self.layout.layer_link(repository, &link.digest);
                aside.extend(self.durable.set_aside(folder_of(&path))?);
                self.blob_sizes.remove(&BlobKey(repository, &link.digest));
                swept.push(*link);
            }
            drop((silence, lock));
            free(&aside);
        }
        Ok(swept)
    }

    /// Takes manifests that no tag names out of a repository, each with its subject, unless they were
    /// pushed, or lost a tag, since the cutoff. On disk when this returns: what they named must not
    /// go before. Returns those that went.
    pub fn sweep_manifests(
        &self,
        repository: &Repository,
        manifests: &[(Digest, Option<Digest>)],
        cutoff: SystemTime,
    ) -> Result<Vec<Digest>> {
        let mut swept = Vec::new();
        for batch in manifests.chunks(BATCH) {
            let mut aside = Vec::new();
            let lock = self.lock(repository);
            let silence = self.silence();
            for (digest, subject) in batch {
                if !self.is_manifest_old(repository, digest, cutoff)? {
                    continue;
                }
                let path = self.layout.revision_link(repository, digest);
                aside.extend(self.durable.set_aside(folder_of(&path))?);
                self.forget(repository, &Reference::Digest(*digest));
                self.changed(Change::Manifest { repository, digest, bytes: None });
                if let Some(subject) = subject {
                    let path = self.layout.referrer_link(repository, subject, digest);
                    aside.extend(self.durable.set_aside(folder_of(&path))?);
                }
                swept.push(*digest);
            }
            drop(silence);
            for algorithm in Algorithm::ALL {
                self.durable.sync_if_there(&self.layout.revisions(repository, algorithm))?;
            }
            self.touch(repository, false);
            drop(lock);
            free(&aside);
        }
        Ok(swept)
    }

    /// Removes a repository that holds nothing, also no upload and no mark that it is private.
    /// `forget` is called while no push to it is under way. `false`: it stays.
    pub fn sweep_repository<E: From<Error>>(
        &self,
        repository: &Repository,
        forget: impl FnOnce() -> Result<(), E>,
    ) -> Result<bool, E> {
        let _lock = self.lock(repository);
        if !self.is_empty(repository)? {
            return Ok(false);
        }
        forget()?;
        let folder = self.layout.repository(repository);
        let mut aside = Vec::new();
        for part in [
            self.layout.manifests(repository),
            self.layout.layers(repository),
            folder.join("_referrers"),
        ] {
            aside.extend(self.durable.set_aside(&part)?);
        }
        self.durable.forget_all();
        self.changed(Change::Emptied(repository));
        aside.iter().for_each(|path| discard(path));
        let root = self.layout.repositories();
        let above = folder.ancestors().take_while(|path| *path != root && path.starts_with(&root));
        for path in std::iter::once(self.layout.uploads(repository).as_path()).chain(above) {
            // Another repository lies below it, or an upload has just begun.
            if !self.durable.remove_empty(path)? && path != self.layout.uploads(repository) {
                break;
            }
        }
        self.private.remove(repository);
        Ok(true)
    }

    fn is_empty(&self, repository: &Repository) -> Result<bool> {
        if super::exists(&self.layout.private(repository))? {
            return Ok(false);
        }
        let mut folders = vec![self.layout.uploads(repository)];
        for algorithm in Algorithm::ALL {
            folders.push(self.layout.revisions(repository, algorithm));
            folders.push(self.layout.deleted_all(repository, algorithm));
            folders.push(self.layout.layers(repository).join(algorithm.as_str()));
        }
        for folder in folders {
            if !children(&folder)?.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Removes the blobs that are not kept, unless one was linked or lost a link since the cutoff.
    /// `is_kept` is asked for every blob of the store.
    /// `about_to_go` hears of each that probably goes, `swept` of each that went, with its size. With
    /// `dry_run` they stay.
    pub fn sweep_blobs<E: From<Error>>(
        &self,
        cutoff: SystemTime,
        dry_run: bool,
        mut is_kept: impl FnMut(&Digest) -> Result<bool, E>,
        about_to_go: impl Fn(&Digest),
        mut swept: impl FnMut(&Digest, u64),
    ) -> Result<(), E> {
        for algorithm in Algorithm::ALL {
            for prefix in children(&self.layout.blobs(algorithm))? {
                let mut garbage = Vec::new();
                for digest in self.digests_in(&prefix, algorithm)? {
                    if !is_kept(&digest)? {
                        garbage.push(digest);
                    }
                }
                for batch in garbage.chunks(BATCH) {
                    if !dry_run {
                        batch.iter().for_each(&about_to_go);
                    }
                    self.sweep_batch(batch, cutoff, dry_run, &mut swept)?;
                }
            }
        }
        Ok(())
    }

    fn sweep_batch(
        &self,
        batch: &[Digest],
        cutoff: SystemTime,
        dry_run: bool,
        swept: &mut impl FnMut(&Digest, u64),
    ) -> Result<()> {
        let mut gone = Vec::new();
        let silence = self.silence();
        for digest in batch {
            let path = self.layout.blob_data(digest);
            let size = match fs::metadata(&path) {
                Ok(metadata) if is_older(&path, cutoff)? => metadata.len(),
                Ok(_) => continue,
                // A push that was cut off has left the folder.
                Err(e) if e.kind() == io::ErrorKind::NotFound => 0,
                Err(e) => return Err(Error::io("read", &path, e)),
            };
            let aside = if dry_run { None } else { self.durable.set_aside(folder_of(&path))? };
            gone.push((*digest, size, aside));
        }
        drop(silence);
        for (digest, size, aside) in gone {
            free(aside.as_slice());
            if !dry_run {
                self.changed(Change::Blob(&digest));
            }
            swept(&digest, size);
        }
        Ok(())
    }

    /// The manifests that images of the first API were made into, with these images.
    pub fn made_manifests(&self) -> Result<Vec<Digest>> {
        let mut manifests = Vec::new();
        for algorithm in Algorithm::ALL {
            let folder = self.layout.v1_manifests(algorithm);
            manifests.extend(self.digests_in(&folder, algorithm)?);
        }
        Ok(manifests)
    }

    /// Forgets the image that a manifest was made of, unless that was noted since the cutoff.
    pub fn sweep_made_manifest(&self, manifest: &Digest, cutoff: SystemTime) -> Result<()> {
        let path = self.layout.v1_manifest(manifest);
        let silence = self.silence();
        let aside = match is_older(&path, cutoff)? {
            true => self.durable.set_aside(folder_of(&path))?,
            false => None,
        };
        drop(silence);
        aside.iter().for_each(|path| discard(path));
        Ok(())
    }

    /// The complete images of the first API.
    pub fn v1_images(&self) -> Result<Vec<ImageId>> {
        let mut images = Vec::new();
        for prefix in children(&self.layout.v1_images())? {
            for folder in children(&prefix)? {
                let name = folder.file_name().and_then(|name| name.to_str());
                images.extend(name.and_then(|name| name.parse::<ImageId>().ok()));
            }
        }
        Ok(images)
    }

    /// The parents of the images that are being pushed.
    pub fn v1_parents(&self) -> Result<Vec<ImageId>> {
        let mut parents = Vec::new();
        for pusher in children(&self.layout.v1_pushing_all())? {
            for image in children(&pusher)? {
                parents.extend(self.pushed_parent(&image)?);
            }
        }
        Ok(parents)
    }

    /// Whether no client was told of an image of the first API since the cutoff.
    pub fn is_image_old(&self, id: &ImageId, cutoff: SystemTime) -> Result<bool> {
        is_older(&self.layout.v1_layer(id), cutoff)
    }

    /// Removes an image of the first API, unless somebody was told of it since the cutoff. `false`:
    /// it stays.
    pub fn sweep_image(&self, id: &ImageId, cutoff: SystemTime) -> Result<bool> {
        let lock = self.lock_image(id);
        let silence = self.silence();
        if !self.is_image_old(id, cutoff)? {
            return Ok(false);
        }
        let aside = self.durable.set_aside(&self.layout.v1_image(id))?;
        drop((silence, lock));
        aside.iter().for_each(|path| discard(path));
        Ok(true)
    }
}

/// Frees the space of what was set aside.
fn free(aside: &[PathBuf]) {
    for path in aside {
        discard(path);
        give_way();
    }
}

/// The folder that a link or a blob has to itself.
fn folder_of(path: &Path) -> &Path {
    path.parent().expect("a file of the store lies in a folder")
}

/// The entries of a folder. Empty if the folder does not exist.
fn children(folder: &Path) -> Result<Vec<PathBuf>> {
    super::docker1::entries(folder)
}
