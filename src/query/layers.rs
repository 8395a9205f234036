//! The layers of images, base layers first, each once: what can be indexed.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use super::{Answer, Looked, Permitted, Scope, Skipped, Step, write_line};
use crate::image::listing::url_path;
use crate::image::{Error, Images, Result};
use crate::oci::{Contents, Digest, Reference, Repository};
use crate::storage;

/// A layer, and a repository that has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub layer: Digest,
    /// Bytes of the blob; 0 if it is missing.
    pub size: u64,
    pub repository: Repository,
}

#[derive(Serialize)]
struct FoundJson<'a> {
    layer: String,
    size: u64,
    repository: &'a str,
}

/// The layers of some images, or of all that the asker may pull, also of those without a tag. Of an
/// index, all of its images that are stored are meant.
pub struct Layers {
    images: Arc<Images>,
    /// Repositories to come, and manifests of the one in hand.
    repositories: VecDeque<Repository>,
    manifests: Vec<Wanted>,
    found: VecDeque<Found>,
    seen_layers: HashSet<Digest>,
    seen_manifests: HashSet<(Repository, Digest)>,
    /// The repository that was begun last.
    in_hand: Option<Repository>,
    looked: Looked,
}

/// A manifest to look into.
struct Wanted {
    repository: Repository,
    reference: Reference,
    /// An index names it, so it need not be stored.
    is_child: bool,
}

impl fmt::Debug for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layers").finish_non_exhaustive()
    }
}

impl Layers {
    /// `scope` names images, or means all of the store; the rest of it is not looked at. `after` is
    /// the repository where an earlier answer about all images ended.
    pub fn new(
        images: &Arc<Images>,
        scope: &Scope,
        permitted: &Permitted,
        after: Option<&str>,
    ) -> Result<Layers> {
        scope.check(images, permitted)?;
        let (mut repositories, mut manifests) = (Vec::new(), Vec::new());
        for id in &scope.images {
            let (repository, reference) = images.locate(id, &**permitted)?;
            manifests.push(Wanted { repository, reference, is_child: false });
        }
        manifests.reverse();
        if scope.images.is_empty() {
            images.layers().storage().walk(|repository| {
                if after.is_none_or(|after| repository.as_str() > after) && permitted(repository) {
                    repositories.push(repository.clone());
                }
                Ok::<_, storage::Error>(())
            })?;
            repositories.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        }
        Ok(Layers {
            images: Arc::clone(images),
            repositories: repositories.into(),
            manifests,
            found: VecDeque::new(),
            seen_layers: HashSet::new(),
            seen_manifests: HashSet::new(),
            in_hand: None,
            looked: Looked::default(),
        })
    }

    /// Does a bounded piece of work.
    pub fn step(&mut self) -> Result<Step<Found>> {
        if let Some(found) = self.found.pop_front() {
            return Ok(Step::Hit(found));
        }
        if let Some(wanted) = self.manifests.pop() {
            let image = format!("{}@{}", wanted.repository, wanted.reference);
            return Ok(match self.look(wanted) {
                Ok(()) => self.found.pop_front().map_or(Step::Working, Step::Hit),
                Err(error) => Step::Skipped(Skipped::new(image, error)),
            });
        }
        let Some(repository) = self.repositories.pop_front() else { return Ok(Step::End) };
        let mut digests = match self.images.layers().storage().revisions(&repository) {
            Ok(digests) => digests,
            Err(error) => return Ok(Step::Skipped(Skipped::new(repository, error.into()))),
        };
        digests.sort_unstable_by_key(Digest::to_string);
        self.manifests.extend(digests.into_iter().rev().map(|digest| Wanted {
            repository: repository.clone(),
            reference: Reference::Digest(digest),
            is_child: false,
        }));
        self.in_hand = Some(repository);
        Ok(Step::Working)
    }

    fn look(&mut self, wanted: Wanted) -> Result<()> {
        let Wanted { repository, reference, is_child } = wanted;
        let images = Arc::clone(&self.images);
        let storage = images.layers().storage();
        let stored = match storage.manifest(&repository, &reference) {
            Ok(stored) => stored,
            Err(error) if is_child && error.is_unknown() => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if !self.seen_manifests.insert((repository.clone(), stored.digest)) {
            return Ok(());
        }
        self.looked.images += 1;
        let contents = Contents::parse(&stored.bytes).map_err(|cause| {
            let image = format!("{repository}@{}", stored.digest);
            Error::Manifest { image, cause }
        })?;
        match contents {
            Contents::Index { children } => {
                self.manifests.extend(children.iter().rev().map(|child| Wanted {
                    repository: repository.clone(),
                    reference: Reference::Digest(child.digest),
                    is_child: true,
                }));
            }
            Contents::Image { layers, .. } => {
                for layer in layers {
                    let blob = match storage.open_content(&layer.digest)? {
                        None if layer.foreign => continue,
                        blob => blob,
                    };
                    if self.seen_layers.insert(layer.digest) {
                        let size = blob.map_or(0, |blob| blob.size);
                        let repository = repository.clone();
                        self.found.push_back(Found { layer: layer.digest, size, repository });
                    }
                }
            }
        }
        Ok(())
    }
}

impl Answer for Layers {
    fn step(&mut self, lines: &mut Vec<u8>) -> Result<Step<()>> {
        Ok(match self.step()? {
            Step::Hit(Found { layer, size, repository }) => {
                let (layer, repository) = (layer.to_string(), repository.as_str());
                write_line(lines, &FoundJson { layer, size, repository });
                Step::Hit(())
            }
            Step::Skipped(skipped) => Step::Skipped(skipped),
            Step::Working => Step::Working,
            Step::End => Step::End,
        })
    }

    /// Another answer goes on after a whole repository.
    fn may_pause(&self) -> bool {
        self.found.is_empty() && self.manifests.is_empty() && self.in_hand.is_some()
    }

    fn position(&self) -> Option<String> {
        self.in_hand.as_ref().map(|name| url_path(name.as_str().as_bytes()))
    }

    fn looked(&self) -> Looked {
        self.looked
    }
}
