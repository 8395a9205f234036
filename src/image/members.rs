//! The images that a tag or digest leads to: itself, or those of an index.

use std::collections::HashSet;

use super::resolve::{Leaf, parse};
use super::{Artifact, Error, Images, Platform, Result};
use crate::oci::{Contents, Digest, Reference, Repository, Tag};
use crate::storage;

/// An image that a manifest or image index leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// What tells it from the others of its index. `None`: it is the image for this host, or the
    /// only one.
    pub platform: Option<Platform>,
    /// The digest of the image's own manifest.
    pub manifest: Digest,
    /// Base first.
    pub layers: Vec<Digest>,
}

impl Member {
    fn new(platform: Option<Platform>, leaf: &Leaf) -> Member {
        let layers = leaf.layers.iter().map(|layer| layer.digest).collect();
        Member { platform, manifest: leaf.digest, layers }
    }
}

impl Images {
    /// The images that a manifest or image index means, each once: the one for this host first, the
    /// others by their platforms. Those that are not stored are left out, and so are artifacts.
    pub fn members(&self, repository: &Repository, digest: &Digest) -> Result<Vec<Member>> {
        let stored = self.layers().storage().manifest(repository, &Reference::Digest(*digest))?;
        if Artifact::is_one(&stored) {
            return Ok(Vec::new());
        }
        let mut members = Vec::new();
        match self.leaf(repository, &stored, None) {
            Ok(leaf) => members.push(Member::new(None, &leaf)),
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(error),
        }
        if matches!(parse(repository, &stored)?, Contents::Image { .. }) {
            return Ok(members);
        }
        let platforms = self.platforms(repository, &Reference::Digest(*digest))?;
        let mut seen: HashSet<Digest> = members.iter().map(|member| member.manifest).collect();
        for platform in platforms.into_iter().flatten().filter(|p| !p.is_unknown()) {
            match self.leaf(repository, &stored, Some(&platform)) {
                Ok(leaf) if seen.insert(leaf.digest) => {
                    members.push(Member::new(Some(platform), &leaf));
                }
                Ok(_) => {}
                Err(error) if is_absent(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(members)
    }
}

/// Whether an index does not name such an image, or names one that is not stored.
fn is_absent(error: &Error) -> bool {
    matches!(
        error,
        Error::NoPlatform { .. } | Error::Storage(storage::Error::ManifestUnknown { .. })
    )
}

/// A platform as names in the mount have it, such as `linux-arm64`.
pub fn dashed(platform: &Platform) -> String {
    platform.to_string().replace('/', "-")
}

/// The platform of such a name. Features of an operating system may have dashes of their own.
pub fn undashed(name: &str) -> Option<Platform> {
    let features = name.find('+').unwrap_or(name.len());
    let (platform, features) = name.split_at(features);
    (platform.replace('-', "/") + features).parse().ok()
}

/// The name that the mount gives to an image of a tag: `BASE:TAG`, or `BASE:TAG@OS-ARCH[-VARIANT]`.
/// `None`: the platform's words would mean another platform there.
pub fn tagged_name(base: &str, tag: &Tag, platform: Option<&Platform>) -> Option<String> {
    let Some(platform) = platform else {
        return Some(format!("{base}:{tag}"));
    };
    let dashed = dashed(platform);
    // The words of an index may be anything.
    let same = undashed(&dashed).as_ref() == Some(platform);
    same.then(|| format!("{base}:{tag}@{dashed}"))
}
