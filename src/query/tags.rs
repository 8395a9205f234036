//! The tags of a repository, with what they name, how large that is, and when they were last pushed
//! and pulled.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Answer, Looked, Permitted, Skipped, Step, write_line};
use crate::image::listing::url_path;
use crate::image::{Error, Images, Result, Time, View};
use crate::oci::{Digest, Reference, Repository, Tag};
use crate::storage;

/// Tags that one step looks at.
const STEP: usize = 256;

/// What tags are sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    #[default]
    Name,
    Pushed,
    Pulled,
    Size,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Ascending,
    Descending,
}

impl Sort {
    /// Names from a to z, and of all else the most first.
    pub fn order(self) -> Order {
        if self == Sort::Name { Order::Ascending } else { Order::Descending }
    }
}

impl FromStr for Sort {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Sort, &'static str> {
        match text {
            "name" => Ok(Sort::Name),
            "pushed" => Ok(Sort::Pushed),
            "pulled" => Ok(Sort::Pulled),
            "size" => Ok(Sort::Size),
            _ => Err("want name, pushed, pulled or size"),
        }
    }
}

impl fmt::Display for Sort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Sort::Name => "name",
            Sort::Pushed => "pushed",
            Sort::Pulled => "pulled",
            Sort::Size => "size",
        })
    }
}

impl FromStr for Order {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Order, &'static str> {
        match text {
            "asc" => Ok(Order::Ascending),
            "desc" => Ok(Order::Descending),
            _ => Err("want asc or desc"),
        }
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Order::Ascending { "asc" } else { "desc" })
    }
}

/// A tag, as a line of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    pub repository: String,
    pub tag: String,
    pub digest: String,
    pub media_type: String,
    /// Bytes that clients pull; of an index, of all its images that are here.
    pub size: u64,
    pub platforms: Vec<String>,
    /// When the tag was last set, as RFC 3339 writes times.
    pub pushed: String,
    /// When it was last pulled, by its name or by its digest. `None`: never since pulls are noted.
    pub pulled: Option<String>,
}

/// A time in UTC, as RFC 3339 writes it, in whole seconds.
pub fn written(seconds: i64) -> String {
    // Times that are out of its range are as good as its first and last.
    let timestamp = jiff::Timestamp::from_second(seconds);
    timestamp.map_or_else(|_| jiff::Timestamp::MAX.to_string(), |time| time.to_string())
}

/// Where a tag stands: what it is sorted by, and its name.
type Key = (i128, Tag);

/// The work on an answer: all tags are looked at for what they are sorted by, then they are described
/// one after the other.
pub struct Tags {
    images: Arc<Images>,
    repository: Repository,
    sort: Sort,
    order: Order,
    after: Option<After>,
    /// Tags to look at.
    names: VecDeque<Tag>,
    keys: Vec<Key>,
    sorted: Option<VecDeque<Key>>,
    position: Option<After>,
}

impl fmt::Debug for Tags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tags").field("repository", &self.repository).finish_non_exhaustive()
    }
}

/// Where an answer goes on: after the tag that stood here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct After(Key);

impl After {
    pub fn parse(text: &[u8]) -> Option<After> {
        let (key, tag) = std::str::from_utf8(text).ok()?.split_once(':')?;
        Some(After((key.parse().ok()?, tag.parse().ok()?)))
    }
}

fn nanoseconds(time: Time) -> i128 {
    i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanoseconds)
}

impl Tags {
    pub fn new(
        images: &Arc<Images>,
        permitted: &Permitted,
        repository: Repository,
        sort: Sort,
        order: Option<Order>,
        after: Option<After>,
    ) -> Result<Tags> {
        let unknown = || Error::from(storage::Error::RepositoryUnknown(repository.clone()));
        if !permitted(&repository) {
            return Err(unknown());
        }
        let index = images.layers().index();
        if index.is_following() {
            index.catch_up()?;
        }
        let names = images.tags(&repository)?.into();
        let order = order.unwrap_or(sort.order());
        let (keys, sorted, position) = (Vec::new(), None, after.clone());
        let images = Arc::clone(images);
        Ok(Tags { images, repository, sort, order, after, names, keys, sorted, position })
    }

    /// `None`: the tag is gone.
    fn key(&self, tag: &Tag) -> Result<Option<i128>> {
        let reference = Reference::Tag(tag.clone());
        Ok(match self.sort {
            Sort::Name => Some(0),
            Sort::Size => {
                let described = self.images.describe(&self.repository, &reference)?;
                described.map(|described| described.size.into())
            }
            Sort::Pushed => {
                let target = self.images.target(&self.repository, &reference)?;
                target.map(|target| nanoseconds(target.changed))
            }
            Sort::Pulled => match self.images.target(&self.repository, &reference)? {
                Some(target) => Some(self.pulled(tag, &target.digest)?.map_or(-1, i128::from)),
                None => None,
            },
        })
    }

    fn pulled(&self, tag: &Tag, digest: &Digest) -> Result<Option<u64>> {
        Ok(self.images.layers().index().last_pull(&self.repository, tag, digest)?)
    }

    fn describe(&self, tag: &Tag) -> Result<Option<Line>> {
        let reference = Reference::Tag(tag.clone());
        let described = match self.images.describe(&self.repository, &reference)? {
            Some(described) => described,
            None => return Ok(None),
        };
        let pulled = self.pulled(tag, &described.digest)?;
        Ok(Some(Line {
            repository: self.repository.to_string(),
            tag: tag.to_string(),
            digest: described.digest.to_string(),
            media_type: described.summary.media_type.clone(),
            size: described.size,
            platforms: described.platforms.iter().map(ToString::to_string).collect(),
            pushed: written(described.changed.seconds),
            pulled: pulled.map(|seconds| written(i64::try_from(seconds).unwrap_or(i64::MAX))),
        }))
    }

    /// Does a bounded piece of work.
    pub fn step(&mut self) -> Result<Step<Line>> {
        let Some(sorted) = &mut self.sorted else {
            for _ in 0..STEP {
                let Some(tag) = self.names.pop_front() else {
                    self.sorted = Some(self.in_order());
                    break;
                };
                match self.key(&tag) {
                    Ok(Some(key)) => self.keys.push((key, tag)),
                    Ok(None) => {}
                    // That is told when its line comes.
                    Err(Error::Storage(storage::Error::Damaged { .. })) => {
                        self.keys.push((-1, tag))
                    }
                    Err(error) => return Err(error),
                }
            }
            return Ok(Step::Working);
        };
        let Some((key, tag)) = sorted.pop_front() else { return Ok(Step::End) };
        self.position = Some(After((key, tag.clone())));
        Ok(match self.describe(&tag) {
            Ok(Some(line)) => Step::Hit(line),
            // It was deleted meanwhile.
            Ok(None) => Step::Working,
            Err(error) => Step::Skipped(Skipped::new(format!("{}:{tag}", self.repository), error)),
        })
    }

    /// The tags that are to come, in order. Among equals, names go from a to z.
    fn in_order(&mut self) -> VecDeque<Key> {
        let (order, sort) = (self.order, self.sort);
        let compare = move |a: &Key, b: &Key| {
            let by_key = a.0.cmp(&b.0);
            match (order, sort) {
                (Order::Ascending, _) => by_key.then_with(|| a.1.cmp(&b.1)),
                (Order::Descending, Sort::Name) => b.1.cmp(&a.1),
                (Order::Descending, _) => by_key.reverse().then_with(|| a.1.cmp(&b.1)),
            }
        };
        let mut keys = std::mem::take(&mut self.keys);
        if let Some(After(after)) = &self.after {
            keys.retain(|key| compare(key, after).is_gt());
        }
        keys.sort_by(compare);
        keys.into()
    }
}

impl Answer for Tags {
    fn step(&mut self, lines: &mut Vec<u8>) -> Result<Step<()>> {
        Ok(match self.step()? {
            Step::Hit(line) => {
                write_line(lines, &line);
                Step::Hit(())
            }
            Step::Skipped(skipped) => Step::Skipped(skipped),
            Step::Working => Step::Working,
            Step::End => Step::End,
        })
    }

    /// Before the tags are sorted, another answer would have to look at all of them again.
    fn may_pause(&self) -> bool {
        self.sorted.as_ref().is_some_and(|sorted| !sorted.is_empty())
    }

    fn position(&self) -> Option<String> {
        let After((key, tag)) = self.position.as_ref()?;
        Some(url_path(format!("{key}:{tag}").as_bytes()))
    }

    fn looked(&self) -> Looked {
        Looked::default()
    }
}
