//! What a tag or manifest is, in short, and what the config of an image says of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use quick_cache::Weighter;
use quick_cache::sync::Cache;
use serde::Deserialize;

use super::source::time;
use super::{Artifact, Images, Platform, Result, Time};
use crate::oci::{Digest, ManifestKind, Reference, Repository, Summary};
use crate::storage;

/// What summaries may take in memory.
const SUMMARIES: u64 = 8 << 20;
/// Manifests of an index that are looked at, and bytes of them.
const CHILDREN_MAX: usize = 64;
const CHILDREN_BYTES: u64 = 4 << 20;

/// Summaries of manifests, by what holds them.
pub(super) type Summaries = Cache<(Repository, Digest), Known, ByBytes>;

/// A manifest's summary, and the platform that its config names.
pub(super) type Known = (Arc<Summary>, Option<Platform>);

#[derive(Clone, Debug)]
pub(super) struct ByBytes;

impl Weighter<(Repository, Digest), Known> for ByBytes {
    fn weight(&self, _: &(Repository, Digest), (summary, _): &Known) -> u64 {
        let children = match &summary.kind {
            ManifestKind::Index { children, .. } => size_of_val(children.as_slice()),
            _ => 0,
        };
        (512 + size_of_val(summary.layers.as_slice()) + children) as u64
    }
}

pub(super) fn summaries() -> Summaries {
    const TYPICAL: u64 = 1024;
    Cache::with_weighter((SUMMARIES / TYPICAL) as usize, SUMMARIES, ByBytes)
}

/// What a tag or digest leads to.
#[derive(Clone, Debug)]
pub struct Described {
    pub digest: Digest,
    /// When the tag was set, or the manifest came.
    pub changed: Time,
    pub summary: Arc<Summary>,
    /// Of an image the one that its config names, of an index those of its images that are here.
    pub platforms: Vec<Platform>,
    /// Bytes that clients pull; of an index, of all its images that are here.
    pub size: u64,
}

impl Images {
    /// Says in short what a reference means; `None`: nothing.
    pub fn describe(
        &self,
        repository: &Repository,
        reference: &Reference,
    ) -> Result<Option<Described>> {
        let Some((digest, changed)) = self.layers().storage().target(repository, reference)? else {
            return Ok(None);
        };
        let Some((summary, platform)) = self.summary(repository, &digest)? else {
            return Ok(None);
        };
        let (mut size, mut platforms) = (summary.size, Vec::from_iter(platform));
        if let ManifestKind::Index { children, .. } = &summary.kind {
            let mut left = CHILDREN_BYTES;
            for (child, platform) in children.iter().take(CHILDREN_MAX) {
                if left == 0 {
                    break;
                }
                if !self.layers().storage().holds_manifest(repository, child)? {
                    continue;
                }
                let Some((child, found)) = self.summary(repository, child)? else { continue };
                left = left.saturating_sub(child.own_size);
                size = size.saturating_add(child.size);
                platforms.extend(platform.clone().or(found).filter(|p| !p.is_unknown()));
            }
        }
        Ok(Some(Described { digest, changed: time(changed), summary, platforms, size }))
    }

    fn summary(&self, repository: &Repository, digest: &Digest) -> Result<Option<Known>> {
        let key = (repository.clone(), *digest);
        // It may have been deleted since.
        if let Some(known) = self.summaries.get(&key)
            && self.layers().storage().holds_manifest(repository, digest)?
        {
            return Ok(Some(known));
        }
        let stored = match self.layers().storage().manifest(repository, &Reference::Digest(*digest))
        {
            Ok(stored) => stored,
            Err(storage::Error::ManifestUnknown { .. }) => return Ok(None),
            // Lists show the others all the same.
            Err(error @ storage::Error::Damaged { .. }) => {
                tracing::error!(%repository, %digest, %error, "a manifest cannot be read");
                return Ok(Some((Arc::new(Summary::parse(b"", false)), None)));
            }
            Err(error) => return Err(error.into()),
        };
        let summary = Summary::parse(&stored.bytes, Artifact::is_one(&stored));
        let platform = match &summary.kind {
            // A config that is missing or damaged says nothing here; opening the image tells more.
            ManifestKind::Image { config } => self.platform(repository, config).ok().flatten(),
            _ => None,
        };
        let known = (Arc::new(summary), platform);
        self.summaries.insert(key, known.clone());
        Ok(Some(known))
    }

    /// What the config of an image says of how it runs and how it was made. `None`: it cannot be
    /// understood.
    pub fn about(&self, repository: &Repository, config: &Digest) -> Result<Option<About>> {
        let parsed =
            self.config(repository, config, |bytes| serde_json::from_slice(&bytes).ok())?;
        Ok(parsed.flatten())
    }
}

/// The config of an image (image-spec, config.md), as far as people read it.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct About {
    pub created: Option<String>,
    pub author: Option<String>,
    pub docker_version: Option<String>,
    pub config: Option<Runs>,
    pub history: Option<Vec<Made>>,
}

/// How a container of an image runs.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Runs {
    pub user: Option<String>,
    pub working_dir: Option<String>,
    pub entrypoint: Option<Vec<String>>,
    pub cmd: Option<Vec<String>>,
    pub env: Option<Vec<String>>,
    pub exposed_ports: Option<BTreeMap<String, serde::de::IgnoredAny>>,
    pub volumes: Option<BTreeMap<String, serde::de::IgnoredAny>>,
    pub labels: Option<BTreeMap<String, String>>,
    pub stop_signal: Option<String>,
}

/// A line of the history.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Made {
    pub created: Option<String>,
    pub created_by: Option<String>,
    pub comment: Option<String>,
    /// It made no layer.
    #[serde(default)]
    pub empty_layer: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configs() {
        let json = br#"{"created":"2026-01-31T12:00:00Z","config":{"Env":["A=1"],"Cmd":null,
            "ExposedPorts":{"80/tcp":{}},"Labels":{"a":"b"},"Entrypoint":["/x"]},
            "history":[{"created_by":"RUN x"},{"empty_layer":true}]}"#;
        let about: About = serde_json::from_slice(json).unwrap();
        let runs = about.config.unwrap();
        assert_eq!(runs.entrypoint.unwrap(), ["/x"]);
        assert_eq!(runs.cmd, None);
        assert_eq!(runs.exposed_ports.unwrap().len(), 1);
        assert!(about.history.unwrap()[1].empty_layer);
        assert!(serde_json::from_slice::<About>(b"{}").is_ok());
    }
}
