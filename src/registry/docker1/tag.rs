//! A tag that the first API sets: it names an image, which becomes a manifest.

use super::described;
use crate::docker1::from_manifest::Chain;
use crate::docker1::to_manifest::Builder;
use crate::docker1::{EMPTY_LAYER, ImageId, empty_layer};
use crate::image::{Origin, Shown};
use crate::oci::{Algorithm, Contents, Digest, Reference, Repository, Tag};
use crate::registry::{Caller, Error, NewManifest, Registry, Result, StorageError};
use crate::storage::docker1::StoredImage;

impl Registry {
    /// Points a tag at an image, which the caller has pushed, or may read in some repository.
    pub fn tag_image(
        &self,
        caller: &Caller,
        repository: &Repository,
        tag: &Tag,
        id: &ImageId,
    ) -> Result<()> {
        let manifest = match self.readable(caller, id)? {
            Some(shown) => self.shown_manifest(repository, id, &shown)?,
            None => self.made_manifest(repository, id)?,
        };
        self.publish(caller, repository, std::slice::from_ref(tag), &manifest, Some(id))
    }

    /// Where the caller may read an image that is derived from a manifest. `None`: the image was
    /// pushed as such, by the caller or where the caller may read it.
    fn readable(&self, caller: &Caller, id: &ImageId) -> Result<Option<Shown>> {
        if let Some(pusher) = caller.pusher()
            && self.storage.has_pushed(&pusher, id)?
        {
            return Ok(None);
        }
        // The manifest that is made of an image names the layers of all its ancestors, so the
        // repository that shows the image has to hold all of them.
        let mut layers = Vec::new();
        if self.storage.image(id)?.is_some() {
            for id in self.storage.ancestry(id)? {
                layers.push(self.image(&id)?.layer);
            }
        }
        let shows = |repository: &Repository| {
            let mut held = layers.iter().map(|layer| self.holds(repository, layer));
            held.try_fold(!layers.is_empty(), |all, held| Ok::<_, Error>(all && held?))
        };
        let found = self.images.find_v1(id, &|other| caller.may_pull(other), &shows)?;
        let shown = found.ok_or(StorageError::ImageUnknown(*id))?;
        Ok((shown.origin == Origin::Derived).then_some(shown))
    }

    fn image(&self, id: &ImageId) -> Result<StoredImage> {
        Ok(self.storage.tell_image(id)?.ok_or(StorageError::ImageUnknown(*id))?)
    }

    /// The manifest of an image that was pushed as such. Its blobs are linked in the repository.
    fn made_manifest(&self, repository: &Repository, id: &ImageId) -> Result<NewManifest> {
        let ancestry = self.storage.ancestry(id)?;
        let base_first: Vec<&ImageId> = ancestry.iter().rev().collect();
        let layers = base_first.iter().map(|id| Ok(self.image(id)?.layer));
        // All are queued first, so that they are indexed in parallel; then each is waited for.
        self.layers().pushed(layers.collect::<Result<Vec<Digest>>>()?)?;
        let mut builder = Builder::default();
        for id in base_first {
            let image = self.image(id)?;
            let layer = self.layers().ready(&image.layer)?;
            builder.add(&image.json, described(&image.layer, &layer.record))?;
        }
        let made = builder.finish(id, &self.image(id)?.json)?;
        self.storage.put_blob(repository, &made.config)?;
        for layer in &made.layers {
            self.storage.link_layer(repository, layer)?;
        }
        let tagged = Reference::Digest(Algorithm::Sha256.digest(&made.manifest));
        let manifest = NewManifest::parse(made.manifest.into(), None, &tagged)?;
        // This is stored before the manifest is visible. Otherwise a reader could see the manifest
        // and derive another id from it.
        self.storage.set_made_of(&manifest.digest(), id)?;
        Ok(manifest)
    }

    /// The manifest of an image that was pushed by the second API: the one that shows it if the
    /// image is all of that, else one that is made for the image. Its blobs are linked in the
    /// repository.
    fn shown_manifest(
        &self,
        repository: &Repository,
        id: &ImageId,
        shown: &Shown,
    ) -> Result<NewManifest> {
        let (from, reference) = (&shown.repository, Reference::Digest(shown.manifest));
        let stored = self.storage.manifest(from, &reference)?;
        let contents = Contents::parse(&stored.bytes)?;
        let chain = self.images.chain(from, &contents)?;
        let unknown = StorageError::ImageUnknown(*id);
        let (Some((chain, bytes)), Contents::Image { config, layers }) = (chain, contents) else {
            return Err(unknown.into());
        };
        let Some(at) = chain.position(id) else { return Err(unknown.into()) };
        if at + 1 < chain.0.len() {
            self.adopt(&chain, at, &bytes)?;
            return self.made_manifest(repository, id);
        }
        // All layers, also those that are not for distribution and that a push may lack.
        for blob in layers.iter().map(|layer| &layer.digest).chain([&config]) {
            self.storage.mount_blob(repository, blob, from)?;
        }
        NewManifest::parse(stored.bytes.clone(), None, &reference)
    }

    /// Makes the images of a chain up to the one `at` a place complete, as if they had been pushed
    /// as such, so that others can build on them. The caller of the chain may read its layers.
    pub(super) fn adopt(&self, chain: &Chain, at: usize, config: &[u8]) -> Result<()> {
        for at in 0..=at {
            let layer = chain.0[at].layer;
            self.storage.install_derived(
                &chain.ancestry(at),
                &layer.unwrap_or_else(empty_layer),
                || {
                    if layer.is_none() {
                        self.storage.write_content(&EMPTY_LAYER)?;
                    }
                    Ok::<_, Error>(chain.json(at, config)?)
                },
            )?;
        }
        Ok(())
    }
}
