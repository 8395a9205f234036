//! Who a request comes from.

use std::sync::Arc;

/// Who a request comes from, once that is proved. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// Who did not say, and everybody on an open server.
    Anonymous,
    /// A user of this server's.
    User(Arc<str>),
}

impl Identity {
    /// The user's name, for events, hooks and the log.
    pub fn name(&self) -> Option<&str> {
        match self {
            Identity::Anonymous => None,
            Identity::User(name) => Some(name),
        }
    }
}
