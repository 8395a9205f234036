//! The layers of images, base layers first, each once: what can be indexed.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use super::{Answer, Looked, Permitted, Scope, Skipped, Step, write_line};
use crate::image::listing::url_path;
use crate::image::{Error, Id, Images, Result};
use crate::oci::{Contents, Digest, Reference, Repository};

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
    repositories: super::Images,
    manifests: Vec<Wanted>,
    found: VecDeque<Found>,
    seen_layers: HashSet<Digest>,
    seen_manifests: HashSet<(Repository, Digest)>,
    /// The repository that was begun last, by this answer or an earlier one.
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
    /// `ids` names images; without any, all are meant. `after` is the repository where an earlier
    /// answer about all of them ended.
    pub fn new(
        images: &Arc<Images>,
        ids: Vec<Id>,
        permitted: &Permitted,
        after: Option<Repository>,
    ) -> Result<Layers> {
        let index = images.layers().index();
        if index.is_following() {
            index.catch_up()?;
        }
        let scope = Scope { images: ids, ..Scope::default() };
        scope.check(images, permitted)?;
        let mut manifests = Vec::new();
        for id in &scope.images {
            let (repository, reference) = images.locate(id, &**permitted)?;
            manifests.push(Wanted { repository, reference, is_child: false });
        }
        manifests.reverse();
        Ok(Layers {
            images: Arc::clone(images),
            repositories: super::Images::new(images, &scope, permitted, after.as_ref(), None)?,
            manifests,
            found: VecDeque::new(),
            seen_layers: HashSet::new(),
            seen_manifests: HashSet::new(),
            in_hand: after,
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
        let Some(repository) = self.repositories.next_repository()? else { return Ok(Step::End) };
        // There an earlier answer has ended.
        if self.in_hand.as_ref() == Some(&repository) {
            return Ok(Step::Working);
        }
        let mut digests = match self.images.layers().storage().revisions(&repository) {
            Ok(digests) => digests,
            // The catalog keeps the names of repositories that are gone.
            Err(error) if error.is_unknown() => return Ok(Step::Working),
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
