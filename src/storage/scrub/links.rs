//! The links of a store, and the images of the first API.

use std::collections::{BTreeMap, HashSet};
use std::io::Read as _;
use std::path::Path;
use std::sync::{Arc, MutexGuard};

use super::{Damage, HOLDERS, Holders, PIECE, Pace, children};
use crate::docker1::{ImageId, Place, checksum};
use crate::oci::{Algorithm, Digest, Repository, Tag};
use crate::storage::docker1::StoredImage;
use crate::storage::{Error, Result, Storage, exists, read_link};

/// A check of all links.
struct Links<'a> {
    storage: &'a Storage,
    pace: &'a Arc<Pace>,
    wanted: &'a HashSet<Digest>,
    linked: HashSet<Digest>,
    missing: BTreeMap<Digest, Holders>,
    found: &'a mut dyn FnMut(Damage),
}

/// What is wrong with a link.
enum Fault {
    Damage(Damage),
    /// What it leads to is not there.
    Missing(Digest),
}

impl Links<'_> {
    fn step(&self) -> Result<()> {
        let path = self.storage.layout.base();
        self.pace.spend(0).map_err(|e| Error::io("check", path, e))
    }

    /// Goes on after an error, unless the scrub was stopped.
    fn unreadable(&mut self, error: Error) -> Result<()> {
        if self.pace.is_stopped() {
            return Err(error);
        }
        (self.found)(Damage::Unreadable(error));
        Ok(())
    }

    /// Looks at something, and once more under the lock that its changes hold, if it seems damaged.
    /// Returns whether it is sound.
    fn look<'l>(
        &mut self,
        holder: &str,
        lock: impl FnOnce() -> MutexGuard<'l, ()>,
        look: impl Fn() -> Result<Option<Fault>>,
    ) -> Result<bool> {
        if let Ok(None) = look() {
            return Ok(true);
        }
        let looked = {
            let _lock = lock();
            look()
        };
        match looked {
            Ok(None) => return Ok(true),
            Ok(Some(Fault::Damage(damage))) => (self.found)(damage),
            Ok(Some(Fault::Missing(digest))) => {
                let holders = self.missing.entry(digest).or_default();
                if holders.names.last().is_none_or(|last| last != holder) {
                    holders.number += 1;
                    if holders.names.len() < HOLDERS {
                        holders.names.push(holder.to_owned());
                    }
                }
            }
            Err(error) => self.unreadable(error)?,
        }
        self.step().map(|()| false)
    }

    /// Notes what a link leads to, if that lies aside.
    fn links(&mut self, path: &Path) {
        if !self.wanted.is_empty()
            && let Ok(Some(target)) = read_link(path)
            && self.wanted.contains(&target)
        {
            self.linked.insert(target);
        }
    }

    fn repository(&mut self, repository: &Repository) -> Result<()> {
        let (storage, layout) = (self.storage, &self.storage.layout);
        let lock = || storage.lock(repository);
        let damaged = |path: &Path, why: String| damaged(repository, path, why);
        let name = repository.as_str();
        for algorithm in Algorithm::ALL {
            let folder = layout.layers(repository).join(algorithm.as_str());
            for digest in storage.digests_in(&folder, algorithm)? {
                let path = layout.layer_link(repository, &digest);
                self.look(name, lock, || match link_at(&path)? {
                    Found::Nothing => Ok(None),
                    Found::Garbage(why) => damaged(&path, why),
                    // Distribution links what came under another algorithm to its sha256.
                    Found::Link(to) if to != digest && to.algorithm() == algorithm => {
                        damaged(&path, format!("it leads to {to}"))
                    }
                    Found::Link(to) => storage.missing(&to),
                })?;
                self.links(&path);
            }
            for digest in storage.digests_in(&layout.revisions(repository, algorithm), algorithm)? {
                let path = layout.revision_link(repository, &digest);
                self.look(name, lock, || match link_at(&path)? {
                    Found::Nothing => Ok(None),
                    Found::Garbage(why) => damaged(&path, why),
                    Found::Link(to) if to != digest => damaged(&path, format!("it leads to {to}")),
                    Found::Link(to) => storage.missing(&to),
                })?;
                self.links(&path);
            }
        }
        for tag in storage.tag_names(repository)? {
            self.tag(repository, &tag?)?;
        }
        self.referrers(repository)
    }

    fn tag(&mut self, repository: &Repository, tag: &Tag) -> Result<()> {
        let (storage, layout) = (self.storage, &self.storage.layout);
        let lock = || storage.lock(repository);
        let damaged = |path: &Path, why: String| damaged(repository, path, why);
        let path = layout.tag_current(repository, tag);
        self.look(repository.as_str(), lock, || match link_at(&path)? {
            // A crash of distribution leaves folders without a link.
            Found::Nothing => Ok(None),
            Found::Garbage(why) => damaged(&path, why),
            Found::Link(manifest) if storage.holds_manifest(repository, &manifest)? => Ok(None),
            // It is about to be removed.
            Found::Link(manifest) if storage.has_dead_tags(repository, &manifest)? => Ok(None),
            Found::Link(manifest) => {
                let (repository, tag) = (repository.clone(), tag.clone());
                Ok(Some(Fault::Damage(Damage::Tag { repository, tag, manifest })))
            }
        })?;
        // What the tag has named may be gone, but its name says what the link has to hold.
        for algorithm in Algorithm::ALL {
            let folder = layout.tag(repository, tag).join("index").join(algorithm.as_str());
            for digest in storage.digests_in(&folder, algorithm)? {
                let path = layout.tag_index(repository, tag, &digest);
                self.look(repository.as_str(), lock, || match link_at(&path)? {
                    Found::Garbage(why) => damaged(&path, why),
                    Found::Link(to) if to != digest => damaged(&path, format!("it leads to {to}")),
                    Found::Nothing | Found::Link(_) => Ok(None),
                })?;
            }
        }
        Ok(())
    }

    fn referrers(&mut self, repository: &Repository) -> Result<()> {
        let (storage, layout) = (self.storage, &self.storage.layout);
        let folder = layout.repository(repository).join("_referrers");
        for of in Algorithm::ALL {
            for subject in storage.digests_in(&folder.join(of.as_str()), of)? {
                for referrer in storage.referrer_digests(repository, &subject, None)? {
                    let path = layout.referrer_link(repository, &subject, &referrer);
                    let look = || match link_at(&path)? {
                        Found::Nothing => Ok(None),
                        Found::Link(to) if to == referrer => {
                            if storage.holds_manifest(repository, &referrer)? {
                                return Ok(None);
                            }
                            let repository = repository.clone();
                            let damage = Damage::Referrer { repository, subject, referrer };
                            Ok(Some(Fault::Damage(damage)))
                        }
                        Found::Link(to) => damaged(repository, &path, format!("it leads to {to}")),
                        Found::Garbage(why) => damaged(repository, &path, why),
                    };
                    self.look(repository.as_str(), || storage.lock(repository), look)?;
                }
            }
        }
        Ok(())
    }

    fn v1_images(&mut self) -> Result<()> {
        let (storage, layout) = (self.storage, &self.storage.layout);
        for prefix in children(&layout.v1_images())? {
            for folder in children(&prefix)? {
                let name = folder.file_name().and_then(|name| name.to_str());
                if let Some(id) = name.and_then(|name| name.parse::<ImageId>().ok()) {
                    self.v1_image(&id).or_else(|error| self.unreadable(error))?;
                }
            }
        }
        for algorithm in Algorithm::ALL {
            for manifest in storage.digests_in(&layout.v1_manifests(algorithm), algorithm)? {
                // It is written in one step, so it is never seen in part.
                match storage.made_of(&manifest) {
                    Ok(_) => {}
                    Err(Error::Damaged { path, why }) => {
                        (self.found)(Damage::Link { repository: None, path, why });
                    }
                    Err(error) => self.unreadable(error)?,
                }
            }
        }
        Ok(())
    }

    fn v1_image(&mut self, id: &ImageId) -> Result<()> {
        let storage = self.storage;
        let holder = format!("v1 image {id}");
        let lock = || storage.lock_image(id);
        let is_sound = self.look(&holder, lock, || storage.v1_fault(id))?;
        self.links(&storage.layout.v1_layer(id));
        if is_sound { self.v1_checksum(id) } else { Ok(()) }
    }

    /// Checks an image as its push was checked: over its JSON, of which nothing else tells what it
    /// was, and its layer.
    fn v1_checksum(&mut self, id: &ImageId) -> Result<()> {
        let storage = self.storage;
        let Some(image @ StoredImage { checksum: Some(_), .. }) = storage.image(id)? else {
            return Ok(());
        };
        let Some(blob) = storage.open_to_check(&image.layer, self.pace)? else { return Ok(()) };
        let mut sum = checksum(&image.json);
        let mut reader = blob.reader();
        let mut buffer = vec![0; PIECE];
        loop {
            match reader.read(&mut buffer).map_err(|e| blob.failed(e))? {
                0 => break,
                read => sum.update(&buffer[..read]),
            }
        }
        // A damaged layer is reported as a blob.
        let is_layer = blob.actual().map_err(|e| blob.failed(e))? == image.layer;
        // The files of an image do not change, but it may have been replaced.
        let is_sum = Some(sum.finish()) == image.checksum;
        if is_layer && !is_sum && storage.image(id)?.is_some_and(|now| now.json == image.json) {
            let why = "json and the layer do not have the checksum of the push".to_owned();
            (self.found)(Damage::Image { id: *id, why, parent: None });
        }
        Ok(())
    }
}

fn damaged(repository: &Repository, path: &Path, why: String) -> Result<Option<Fault>> {
    let repository = Some(repository.clone());
    Ok(Some(Fault::Damage(Damage::Link { repository, path: path.to_owned(), why })))
}

/// What is at the path of a link.
enum Found {
    Nothing,
    Link(Digest),
    /// Why it is none.
    Garbage(String),
}

fn link_at(path: &Path) -> Result<Found> {
    match read_link(path) {
        Ok(found) => Ok(found.map_or(Found::Nothing, Found::Link)),
        Err(Error::Damaged { why, .. }) => Ok(Found::Garbage(why)),
        Err(e) => Err(e),
    }
}

impl Storage {
    /// Checks every link of the store and every image of the first API. `found` hears of the damage.
    /// Returns those of the blobs in `wanted` that something links.
    pub fn check_links(
        &self,
        pace: &Arc<Pace>,
        wanted: &HashSet<Digest>,
        found: &mut dyn FnMut(Damage),
    ) -> Result<HashSet<Digest>> {
        let mut links = Links {
            storage: self,
            pace,
            wanted,
            linked: HashSet::new(),
            missing: BTreeMap::new(),
            found,
        };
        self.walk(|repository| {
            links.step()?;
            links.repository(repository).or_else(|error| links.unreadable(error))
        })?;
        links.v1_images().or_else(|error| links.unreadable(error))?;
        for (digest, holders) in std::mem::take(&mut links.missing) {
            (links.found)(Damage::Missing { digest, holders });
        }
        Ok(links.linked)
    }

    fn missing(&self, digest: &Digest) -> Result<Option<Fault>> {
        let there = exists(&self.layout.blob_data(digest))?;
        Ok((!there).then_some(Fault::Missing(*digest)))
    }

    /// Whether an image of the first API lacks the one that it is built on.
    pub fn is_orphan(&self, id: &ImageId) -> Result<bool> {
        let _lock = self.lock_image(id);
        let fault = self.v1_fault(id)?;
        Ok(matches!(fault, Some(Fault::Damage(Damage::Image { parent: Some(_), .. }))))
    }

    /// What is wrong with an image of the first API, as far as its files say.
    fn v1_fault(&self, id: &ImageId) -> Result<Option<Fault>> {
        let broken = |why, parent| Ok(Some(Fault::Damage(Damage::Image { id: *id, why, parent })));
        let damaged = |why: String| broken(why, None);
        let image = match self.image(id) {
            Ok(Some(image)) => image,
            Ok(None) if !exists(&self.layout.v1_image(id))? => return Ok(None),
            Ok(None) => return damaged("json is missing".to_owned()),
            Err(Error::Damaged { path, why }) => {
                let file = path.file_name().unwrap_or_default().to_string_lossy();
                return damaged(format!("{file}: {why}"));
            }
            Err(e) => return Err(e),
        };
        let ancestry = match self.ancestry(id) {
            Ok(ancestry) => ancestry,
            Err(Error::ImageUnknown(_)) => return damaged("ancestry is missing".to_owned()),
            Err(Error::Damaged { why, .. }) => return damaged(format!("ancestry: {why}")),
            Err(e) => return Err(e),
        };
        let (own, parent) = (ancestry.first(), ancestry.get(1));
        match Place::parse(&image.json, id) {
            Err(error) => return damaged(format!("json: {error}")),
            Ok(place) if own != Some(id) || place.parent.as_ref() != parent => {
                return damaged("ancestry and json name different parents".to_owned());
            }
            Ok(_) => {}
        }
        if let Some(parent) = parent
            && !exists(&self.layout.v1_image(parent))?
        {
            return broken(format!("its parent {parent} is missing"), Some(*parent));
        }
        self.missing(&image.layer)
    }
}
