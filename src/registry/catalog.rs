//! Which repositories there are, for a caller that may know of them.

use std::sync::Arc;
use std::time::Duration;

use super::{Caller, Page, Registry, Result};
use crate::auth::Right;
use crate::index;
use crate::oci::Repository;

/// Names read from the catalog at a time.
const READ: usize = 1000;
/// Repositories looked at for one page: those that hold nothing are skipped.
const LOOKED_AT: usize = 10 * READ;
/// How long a request waits for a catalog that is being built.
const WAIT: Duration = Duration::from_secs(5);

impl Registry {
    /// Waits a moment for the catalog to be complete, which takes a walk through the store at the
    /// first start.
    pub async fn wait_for_catalog(&self) -> Result<()> {
        const STEP: Duration = Duration::from_millis(50);
        let deadline = tokio::time::Instant::now() + WAIT;
        loop {
            match self.index().catalog_complete() {
                Ok(()) => return Ok(()),
                Err(found) if tokio::time::Instant::now() >= deadline => {
                    return Err(index::Error::CatalogIncomplete(found).into());
                }
                Err(_) => tokio::time::sleep(STEP).await,
            }
        }
    }

    /// The repositories after `last` that the caller may list and that hold a manifest, at most `n`.
    pub fn catalog(&self, caller: &Caller, mut last: String, n: usize) -> Result<Page<Repository>> {
        let mut page = Page { items: Vec::new(), next: None };
        let mut looked_at = 0;
        if n == 0 {
            return Ok(page);
        }
        let mut from = last.clone();
        loop {
            let names = self.index().repositories(&from, READ)?;
            for repository in names.items {
                // Hidden names must not become page boundaries, because that would leak them.
                if !caller.may(&repository, Right::Catalog) {
                    continue;
                }
                // One more than asked for shows that there is a next page.
                if page.items.len() == n || looked_at == LOOKED_AT {
                    page.next = Some(last);
                    return Ok(page);
                }
                looked_at += 1;
                last = repository.as_str().to_owned();
                if self.storage.has_manifests(&repository)? {
                    page.items.push(repository);
                }
            }
            match names.next {
                Some(next) => from = next,
                None => return Ok(page),
            }
        }
    }

    /// All repositories on which the caller has a right and that hold a manifest, in order.
    pub fn names(self: &Arc<Self>, caller: Caller, right: Right) -> Names {
        Names {
            registry: Arc::clone(self),
            caller,
            right,
            page: Vec::new().into_iter(),
            next: Some(String::new()),
        }
    }
}

/// Goes through the names of repositories, see [`Registry::names`].
#[derive(Debug)]
pub struct Names {
    registry: Arc<Registry>,
    caller: Caller,
    right: Right,
    page: std::vec::IntoIter<Repository>,
    /// The name after which the next page begins, if there is one.
    next: Option<String>,
}

impl Names {
    /// The next name that is `wanted`; `None` at the end.
    pub fn next(&mut self, wanted: impl Fn(&str) -> bool) -> Result<Option<Repository>> {
        loop {
            for repository in self.page.by_ref() {
                if wanted(repository.as_str())
                    && self.caller.may(&repository, self.right)
                    && self.registry.storage.has_manifests(&repository)?
                {
                    return Ok(Some(repository));
                }
            }
            let Some(after) = &self.next else {
                return Ok(None);
            };
            let page = self.registry.index().repositories(after, READ)?;
            self.next = page.next;
            self.page = page.items.into_iter();
        }
    }
}
