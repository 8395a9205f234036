//! Which repositories there are, for a caller that may know of them.

use std::sync::Arc;
use std::time::Duration;

use super::{Caller, Page, Registry, Result};
use crate::auth::Right;
use crate::image::Time;
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
    pub fn catalog(&self, caller: &Caller, last: String, n: usize) -> Result<Page<Repository>> {
        self.catalog_where(caller, last, n, &|_| true)
    }

    /// [`Registry::catalog`] with nothing but the names that are `wanted`. A page may have fewer
    /// names and still have a next one.
    pub fn catalog_where(
        &self,
        caller: &Caller,
        mut last: String,
        n: usize,
        wanted: &dyn Fn(&str) -> bool,
    ) -> Result<Page<Repository>> {
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
                if !caller.may(&repository, Right::Catalog) || !wanted(repository.as_str()) {
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

    /// What is directly below `folder` in the names of the repositories that the caller may list and
    /// that hold a manifest. `folder` is empty or ends in a slash. At most `n`, after `after`.
    pub fn below(
        &self,
        caller: &Caller,
        folder: &str,
        after: &str,
        n: usize,
    ) -> Result<Page<Below>> {
        /// What comes behind everything below a folder: no name has a byte as high as this one.
        const BEHIND: char = '\u{7f}';
        let behind = |folder: &str| format!("{folder}{BEHIND}");
        let mut page = Page { items: Vec::new(), next: None };
        let mut from = match after {
            "" => folder.to_owned(),
            _ if after.ends_with('/') => behind(after),
            _ => after.to_owned(),
        };
        let mut last = after.to_owned();
        let mut looked_at = 0;
        'pages: loop {
            let names = self.index().repositories(&from, READ)?;
            for repository in names.items {
                let name = repository.as_str();
                let Some(rest) = name.strip_prefix(folder) else {
                    return Ok(page);
                };
                if !caller.may(&repository, Right::Catalog) {
                    continue;
                }
                if page.items.len() == n || looked_at == LOOKED_AT {
                    page.next = Some(last);
                    return Ok(page);
                }
                looked_at += 1;
                let slash = rest.find('/').map(|at| folder.len() + at + 1);
                if self.storage.has_manifests(&repository)? {
                    last = name[..slash.unwrap_or(name.len())].to_owned();
                    let Some(slash) = slash else {
                        page.items.push(Below::Repository(repository));
                        continue;
                    };
                    page.items.push(Below::Folder(name[..slash - 1].to_owned()));
                    from = behind(&name[..slash]);
                    continue 'pages;
                }
                last = name.to_owned();
            }
            match names.next {
                Some(next) => from = next,
                None => return Ok(page),
            }
        }
    }

    /// What lists say of a repository.
    pub fn overview(&self, repository: &Repository) -> Result<Overview> {
        /// Tags that are counted.
        const COUNTED: usize = 1000;
        let changed = self.storage.manifests_changed(repository)?;
        let changed = changed.map(|nanoseconds| Time {
            seconds: (nanoseconds / 1_000_000_000) as i64,
            nanoseconds: (nanoseconds % 1_000_000_000) as u32,
        });
        let tags = self.storage.count_tags(repository, COUNTED)?;
        Ok(Overview { changed, tags: (tags < COUNTED).then_some(tags as u64) })
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

/// What is directly below a part of repositories' names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Below {
    Repository(Repository),
    /// The beginning of longer names, without a slash at its end.
    Folder(String),
}

/// What lists say of a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overview {
    /// When a manifest was last added or deleted. `None`: it holds none.
    pub changed: Option<Time>,
    /// `None`: a thousand or more.
    pub tags: Option<u64>,
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
