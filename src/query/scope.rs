//! Which images a question is about, in the order of their names.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::Arc;

use super::{Glob, Looked, Permitted, Skipped};
use crate::image::{self, Id, Member, Platform, View, tagged_name};
use crate::oci::{Digest, Reference, Repository, Tag};
use crate::storage;

/// Names of repositories read from the catalog at a time.
const READ: usize = 1000;

/// The images that a question is about. Artifacts are not among them.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// Repositories by their names; `None`: all.
    pub repositories: Option<Glob>,
    /// Tags; `None`: all.
    pub tags: Option<Glob>,
    /// Images too that no tag leads to.
    pub untagged: bool,
    /// These images and no others, in this order.
    pub images: Vec<Id>,
}

impl Scope {
    /// Checks that the images that are named exist, before an answer begins.
    pub fn check(&self, images: &image::Images, permitted: &Permitted) -> image::Result<()> {
        for image in &self.images {
            let (repository, reference) = images.locate(image, &**permitted)?;
            if images.target(&repository, &reference)?.is_none() {
                return Err(match image {
                    Id::Hex { .. } => image::Error::Unknown(image.to_string()),
                    Id::Reference { .. } => {
                        storage::Error::ManifestUnknown { repository, reference }.into()
                    }
                });
            }
        }
        Ok(())
    }
}

/// An image, and how it is named.
#[derive(Clone, Debug)]
pub struct InScope {
    pub repository: Repository,
    /// `None`: it is named by its digest.
    pub tag: Option<Tag>,
    pub member: Member,
}

impl fmt::Display for InScope {
    /// Its path in the mount.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let InScope { repository, tag, member } = self;
        let tagged = tag
            .as_ref()
            .and_then(|tag| tagged_name(repository.as_str(), tag, member.platform.as_ref()));
        match tagged {
            Some(name) => f.write_str(&name),
            None => write!(f, "{repository}@{}", member.manifest),
        }
    }
}

/// Where the names of repositories come from.
#[derive(Debug)]
enum Names {
    /// The catalog, which a server keeps complete.
    Catalog { page: VecDeque<Repository>, next: Option<String> },
    /// The store, where no server runs: another one may have changed it since.
    Listed(VecDeque<Repository>),
}

/// The images of a scope, one after the other.
pub struct Images {
    images: Arc<image::Images>,
    permitted: Permitted,
    scope: Scope,
    names: Names,
    asked: VecDeque<Id>,
    /// The repository in hand, its tags to come, and the images of the tag in hand.
    repository: Option<Repository>,
    tags: VecDeque<Tag>,
    ready: VecDeque<InScope>,
    /// Of the repository in hand: what its tags lead to.
    tagged: HashSet<Digest>,
}

impl fmt::Debug for Images {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Images").field("scope", &self.scope).finish_non_exhaustive()
    }
}

impl Images {
    /// `from`: the repository to begin with, which need not exist; all of its images come. `only`:
    /// repositories besides which none has what is looked for.
    pub fn new(
        images: &Arc<image::Images>,
        scope: &Scope,
        permitted: &Permitted,
        from: Option<&Repository>,
        only: Option<BTreeSet<Repository>>,
    ) -> image::Result<Images> {
        let storage = images.layers().storage();
        let names = if !scope.images.is_empty() {
            Names::Listed(VecDeque::new())
        } else if let Some(only) = only {
            let is_to_come = |name: &Repository| from.is_none_or(|from| from <= name);
            Names::Listed(only.into_iter().filter(is_to_come).collect())
        } else if is_complete(images)? {
            let before = from.map_or_else(String::new, |from| before(from.as_str()));
            Names::Catalog { page: VecDeque::new(), next: Some(before) }
        } else {
            let mut names = Vec::new();
            storage.walk(|repository| {
                if from.is_none_or(|from| from.as_str() <= repository.as_str()) {
                    names.push(repository.clone());
                }
                Ok::<_, image::Error>(())
            })?;
            names.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
            Names::Listed(names.into())
        };
        Ok(Images {
            images: Arc::clone(images),
            permitted: Arc::clone(permitted),
            names,
            asked: scope.images.iter().cloned().collect(),
            scope: scope.clone(),
            repository: None,
            tags: VecDeque::new(),
            ready: VecDeque::new(),
            tagged: HashSet::new(),
        })
    }

    /// The next repository that the question is about; `None` at the end, and where images are named.
    pub(super) fn next_repository(&mut self) -> image::Result<Option<Repository>> {
        loop {
            let name = match &mut self.names {
                Names::Listed(names) => names.pop_front(),
                Names::Catalog { page, next } => {
                    if page.is_empty()
                        && let Some(after) = next.take()
                    {
                        let read = self.images.layers().index().repositories(&after, READ)?;
                        *page = read.items.into();
                        *next = read.next;
                    }
                    page.pop_front()
                }
            };
            let Some(name) = name else { return Ok(None) };
            let wanted = &self.scope.repositories;
            if wanted.as_ref().is_none_or(|glob| glob.is_match(name.as_str().as_bytes()))
                && (self.permitted)(&name)
            {
                return Ok(Some(name));
            }
        }
    }

    /// The next image, or why one is left out. `None` at the end.
    pub fn next_image(&mut self) -> image::Result<Option<Result<InScope, Skipped>>> {
        loop {
            if let Some(found) = self.ready.pop_front() {
                return Ok(Some(Ok(found)));
            }
            let skipped = match &self.repository {
                Some(repository) => {
                    let repository = repository.clone();
                    match self.tags.pop_front() {
                        Some(tag) => self.tag(&repository, tag),
                        None => self.end_repository(&repository),
                    }
                }
                None => match self.asked.pop_front() {
                    Some(id) => return self.asked(&id).map(|found| Some(Ok(found))),
                    None => match self.next_repository()? {
                        Some(repository) => self.begin_repository(repository),
                        None => return Ok(None),
                    },
                },
            };
            if let Err(skipped) = skipped {
                return Ok(Some(Err(skipped)));
            }
        }
    }

    fn asked(&self, id: &Id) -> image::Result<InScope> {
        let permitted = &*self.permitted;
        let (repository, reference) = self.images.locate(id, &permitted)?;
        let digest = self.images.layers().storage().manifest(&repository, &reference)?.digest;
        let manifest = self.images.manifest_for(&repository, &digest, None)?;
        let members = self.images.members(&repository, &manifest)?;
        let member = members.into_iter().next();
        let member = member.ok_or_else(|| image::Error::Unknown(id.to_string()))?;
        let tag = match reference {
            Reference::Tag(tag) => Some(tag),
            Reference::Digest(_) => None,
        };
        Ok(InScope { repository, tag, member })
    }

    fn begin_repository(&mut self, repository: Repository) -> Result<(), Skipped> {
        self.tagged.clear();
        let tags = self.images.tags(&repository);
        let failed = |error| Skipped::new(&repository, error);
        let mut tags = match tags {
            Ok(tags) => tags,
            // The catalog keeps the names of repositories that are gone.
            Err(image::Error::Storage(error)) if error.is_unknown() => return Ok(()),
            Err(error) => return Err(failed(error)),
        };
        if let Some(glob) = &self.scope.tags {
            // What other tags lead to is not untagged.
            if !self.scope.untagged {
                tags.retain(|tag| glob.is_match(tag.as_str().as_bytes()));
            }
        }
        self.tags = tags.into();
        self.repository = Some(repository);
        Ok(())
    }

    fn tag(&mut self, repository: &Repository, tag: Tag) -> Result<(), Skipped> {
        let failed = |error| Skipped::new(format!("{repository}:{tag}"), error);
        let target = self.images.target(repository, &Reference::Tag(tag.clone()));
        // It may have been deleted meanwhile.
        let Some(target) = target.map_err(failed)? else { return Ok(()) };
        let members = match self.images.members(repository, &target.digest) {
            Ok(members) => members,
            Err(image::Error::Storage(error)) if error.is_unknown() => return Ok(()),
            Err(error) => return Err(failed(error)),
        };
        if self.scope.untagged {
            self.tagged.insert(target.digest);
            self.tagged.extend(members.iter().map(|member| member.manifest));
        }
        let wanted = &self.scope.tags;
        if wanted.as_ref().is_none_or(|glob| glob.is_match(tag.as_str().as_bytes())) {
            let found = members.into_iter().map(|member| InScope {
                repository: repository.clone(),
                tag: Some(tag.clone()),
                member,
            });
            self.ready.extend(found);
        }
        Ok(())
    }

    /// After its tags come the images without one.
    fn end_repository(&mut self, repository: &Repository) -> Result<(), Skipped> {
        self.repository = None;
        if !self.scope.untagged {
            return Ok(());
        }
        let failed = |error| Skipped::new(repository, error);
        let revisions = self.images.layers().storage().revisions(repository);
        let mut revisions = revisions.map_err(|error| failed(error.into()))?;
        revisions.retain(|digest| !self.tagged.contains(digest));
        revisions.sort_unstable_by_key(Digest::to_string);
        for digest in revisions {
            let members = match self.images.members(repository, &digest) {
                Ok(members) => members,
                Err(image::Error::Storage(error)) if error.is_unknown() => continue,
                Err(error) => return Err(failed(error)),
            };
            for mut member in members {
                if self.tagged.insert(member.manifest) {
                    // It is named by its own digest.
                    member.platform = None::<Platform>;
                    let repository = repository.clone();
                    self.ready.push_back(InScope { repository, tag: None, member });
                }
            }
        }
        Ok(())
    }
}

/// Which layers have an index: each is asked for once.
#[derive(Debug, Default)]
pub struct Indexed(HashMap<Digest, bool>);

impl Indexed {
    /// Whether layers of an image have no index yet. Counts them.
    pub fn waits(
        &mut self,
        images: &image::Images,
        image: &InScope,
        looked: &mut Looked,
    ) -> image::Result<bool> {
        let mut waits = false;
        for layer in &image.member.layers {
            let is_ready = match self.0.get(layer) {
                Some(is_ready) => *is_ready,
                None => {
                    // For a layer that is refused, opening the image tells why.
                    let is_ready = images.layers().index().state(layer)?.is_some();
                    looked.waiting_layers += u64::from(!is_ready);
                    self.0.insert(*layer, is_ready);
                    is_ready
                }
            };
            waits |= !is_ready;
        }
        looked.waiting_images += u64::from(waits);
        Ok(waits)
    }

    /// Counts what waits for an index in a whole scope. An answer that goes on where another one
    /// ended has not looked at all of it.
    pub fn count_all(
        images: &Arc<image::Images>,
        scope: &Scope,
        permitted: &Permitted,
        looked: &mut Looked,
    ) -> image::Result<()> {
        let mut scope = Images::new(images, scope, permitted, None, None)?;
        (looked.waiting_images, looked.waiting_layers) = (0, 0);
        let mut indexed = Indexed::default();
        while let Some(named) = scope.next_image()? {
            if let Ok(named) = named {
                indexed.waits(images, &named, looked)?;
            }
        }
        Ok(())
    }
}

/// Whether the index knows all repositories and what they hold, as it does where a server keeps it.
/// Otherwise another server may have changed the store.
pub fn is_complete(images: &image::Images) -> image::Result<bool> {
    let index = images.layers().index();
    Ok(index.catalog_complete().is_ok() || index.is_following() && index.catalog_was_complete()?)
}

/// A text after which `name` comes, and no other name does before it.
fn before(name: &str) -> String {
    let mut text = name.to_owned();
    // Names are ASCII letters, digits and a few marks, so the character before the last one is one
    // byte, and what begins with it is smaller than `name` only if it is continued by more.
    match text.pop() {
        Some(last) => {
            text.push(char::from(last as u8 - 1));
            text.push('\x7f');
            text
        }
        None => text,
    }
}
