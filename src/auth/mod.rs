//! Who asks, and what they may do: one decision for every face of the registry,
//! by repository. Nothing here knows of HTTP but the text of an `Authorization`
//! header.

mod identity;

use crate::oci::Repository;

pub use identity::Identity;

/// What one may do with a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Right {
    /// Read its manifests, tags, blobs and files.
    Pull,
    /// Add to it, and move tags.
    Push,
    /// Delete tags, manifests and blobs.
    Delete,
    /// Learn its name from a list: the catalog, a search.
    Catalog,
}

impl Right {
    /// The word for it in scopes and rules.
    pub fn as_str(self) -> &'static str {
        match self {
            Right::Pull => "pull",
            Right::Push => "push",
            Right::Delete => "delete",
            Right::Catalog => "catalog",
        }
    }
}

/// The rules of one server.
#[derive(Debug)]
pub struct Access {}

impl Access {
    /// No users, no tokens: everybody may do everything.
    pub fn open() -> Access {
        Access {}
    }

    /// Whether everybody may do everything.
    pub fn is_open(&self) -> bool {
        true
    }

    /// The decision.
    pub fn may(&self, _identity: &Identity, _repository: &Repository, _right: Right) -> bool {
        self.is_open()
    }

    /// Whether there is nothing at all that `identity` may do unless it says who it
    /// is.
    pub fn is_nobody(&self, identity: &Identity) -> bool {
        !self.is_open() && matches!(identity, Identity::Anonymous)
    }

    /// A token of the first API, with which `identity` may go on.
    pub fn token(&self, _identity: &Identity, repository: &Repository, write: bool) -> String {
        let access = if write { "write" } else { "read" };
        format!("signature=none,repository=\"{repository}\",access={access}")
    }

    /// Whether there may be a repository that `identity` may push to.
    pub fn may_push_somewhere(&self, _identity: &Identity) -> bool {
        self.is_open()
    }

    /// Whether `identity` may read every repository there is and will be.
    pub fn may_read_all(&self, _identity: &Identity) -> bool {
        self.is_open()
    }
}
