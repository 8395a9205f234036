//! The images that a question is about.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::Result;
use clap::Args;

use crate::cli::args::{IndexArgs, SourceArgs};
use crate::image;
use crate::query::{Glob, Permitted, Scope};
use crate::remote::Query;

/// Where the images are stored, and which of them are meant.
#[derive(Args, Clone, Debug)]
pub struct ScopeArgs {
    #[command(flatten)]
    pub source: SourceArgs,

    /// Only repositories whose name matches this glob, such as 'team/**'
    #[arg(long = "in", value_name = "GLOB")]
    repositories: Option<Given<Glob>>,

    /// Only tags that match this glob, such as 'release-*'
    #[arg(long, value_name = "GLOB")]
    tag: Option<Given<Glob>>,

    /// Also images that no tag leads to, as NAME@sha256:…
    #[arg(long)]
    untagged: bool,

    #[command(flatten, next_help_heading = "Indexing, for layers that have no index yet")]
    pub index: IndexArgs,
}

impl ScopeArgs {
    pub fn open(&self) -> Result<Arc<image::Images>> {
        self.source.store.open(&self.index.check()?)
    }

    pub fn scope(&self) -> Scope {
        Scope {
            repositories: value(&self.repositories),
            tags: value(&self.tag),
            untagged: self.untagged,
            images: Vec::new(),
        }
    }

    /// The same as parameters for a server.
    pub fn query(&self) -> Query {
        let mut query = Query::new();
        query.option("in", self.repositories.as_ref());
        query.option("tag", self.tag.as_ref());
        query.flag("untagged", self.untagged);
        query
    }
}

/// The command line may read everything that its user can read in the store.
pub fn everything() -> Permitted {
    Arc::new(|_| true)
}

/// The value of a flag, and its text, which a server is sent.
#[derive(Clone, Debug)]
pub struct Given<T> {
    text: String,
    pub value: T,
}

impl<T> Given<T> {
    /// For values whose parser is a function.
    pub fn by<E>(parse: impl FnOnce(&str) -> Result<T, E>, text: &str) -> Result<Given<T>, E> {
        Ok(Given { value: parse(text)?, text: text.to_owned() })
    }
}

impl<T: FromStr> FromStr for Given<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Given<T>, T::Err> {
        Given::by(T::from_str, text)
    }
}

impl<T> fmt::Display for Given<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The value of a flag that may be missing.
pub fn value<T: Clone>(given: &Option<Given<T>>) -> Option<T> {
    given.as_ref().map(|given| given.value.clone())
}
