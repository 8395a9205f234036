//! On whose behalf the registry reads or changes something.

use std::sync::Arc;

use crate::auth::{Access, Identity, Right};
use crate::events::Cause;
use crate::oci::Repository;
use crate::storage::docker1::Pusher;

/// A client, and the request that it has sent.
///
/// Whether it may do what it asks for in the repository that it names is decided before. What a
/// request reaches in other repositories, by an id or by a mount, is decided here.
#[derive(Clone, Debug)]
pub struct Caller {
    access: Arc<Access>,
    identity: Identity,
    pub(super) cause: Arc<Cause>,
}

impl Caller {
    pub fn new(access: Arc<Access>, identity: Identity, cause: Arc<Cause>) -> Caller {
        Caller { access, identity, cause }
    }

    pub(super) fn may(&self, repository: &Repository, right: Right) -> bool {
        self.access.may(&self.identity, repository, right)
    }

    pub(super) fn may_pull(&self, repository: &Repository) -> bool {
        self.may(repository, Right::Pull)
    }

    pub(super) fn may_read_all(&self) -> bool {
        self.access.may_read_all(&self.identity)
    }

    /// What tells this pusher from others. `None`: it may not push anything, or has no name, so
    /// nothing that was pushed is its own.
    pub(super) fn pusher(&self) -> Option<Pusher> {
        let principal = self.access.principal(&self.identity)?;
        self.access.may_push_somewhere(&self.identity).then(|| Pusher::new(&principal))
    }

    /// The repository that an image of the first API is pushed to, as far as the client's token
    /// says so.
    pub(super) fn pushed_to(&self) -> Option<Repository> {
        match &self.identity {
            Identity::Signed(signed) => Some(signed.repository.clone()),
            Identity::Anonymous | Identity::User(_) | Identity::Scoped(_) => None,
        }
    }
}
