//! Who a request comes from.

use std::sync::Arc;

use super::Right;
use super::hmac::Code;
use crate::oci::Repository;

/// What a request's credentials prove, and for how long. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Proof {
    pub identity: Identity,
    /// They are a password, and no token.
    pub(super) by_password: bool,
    /// When their token ends, in seconds since 1970.
    pub(super) until: u64,
    /// Changes with the user's password.
    pub(super) stamp: Option<Code>,
    /// Changes with the keys of the outside service.
    pub(super) keys: u64,
}

impl Proof {
    /// A request without credentials.
    pub fn anonymous() -> Proof {
        Proof {
            identity: Identity::Anonymous,
            by_password: false,
            until: u64::MAX,
            stamp: None,
            keys: 0,
        }
    }
}

/// Who a request comes from, once that is proved. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// Who did not say, and everybody on an open server.
    Anonymous,
    /// A user of this server's.
    User(Arc<str>),
    /// Somebody with a token of this server's (Docker v1).
    Signed(Arc<Signed>),
    /// Somebody with a token of the outside service.
    Scoped(Arc<Scoped>),
}

/// What a token of this server's says. Its user's rights may have changed since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// `None`: it was given to somebody anonymous.
    pub user: Option<Arc<str>>,
    pub repository: Repository,
    pub write: bool,
}

impl Signed {
    /// Whose rights count.
    pub(super) fn by(&self) -> Identity {
        match &self.user {
            Some(user) => Identity::User(Arc::clone(user)),
            None => Identity::Anonymous,
        }
    }

    pub(super) fn covers(&self, repository: &Repository, right: Right) -> bool {
        *repository == self.repository
            && match right {
                Right::Pull | Right::Catalog => true,
                Right::Push | Right::Delete => self.write,
            }
    }
}

/// What the outside token service grants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scoped {
    pub subject: Option<Arc<str>>,
    /// Of few repositories: a token is made for one task.
    pub repositories: Vec<(Repository, Vec<Right>)>,
    /// All names may be listed.
    pub catalog: bool,
}

impl Scoped {
    pub(super) fn covers(&self, repository: &Repository, right: Right) -> bool {
        let granted = |right| {
            self.repositories
                .iter()
                .any(|(name, rights)| name == repository && rights.contains(&right))
        };
        match right {
            Right::Catalog => self.catalog || granted(Right::Pull),
            Right::Pull | Right::Push | Right::Delete => granted(right),
        }
    }
}

impl Scoped {
    pub(super) fn may_push(&self) -> bool {
        let mut granted = self.repositories.iter();
        granted.any(|(_, rights)| rights.contains(&Right::Push))
    }
}

impl Identity {
    /// The user of this server's whose rights count.
    pub(super) fn user(&self) -> Option<&str> {
        match self {
            Identity::User(name) => Some(name),
            Identity::Signed(signed) => signed.user.as_deref(),
            Identity::Anonymous | Identity::Scoped(_) => None,
        }
    }

    /// The user's name, for events, hooks and the log.
    pub fn name(&self) -> Option<&str> {
        match self {
            Identity::Anonymous => None,
            Identity::User(name) => Some(name),
            Identity::Signed(signed) => signed.user.as_deref(),
            Identity::Scoped(scoped) => scoped.subject.as_deref(),
        }
    }
}
