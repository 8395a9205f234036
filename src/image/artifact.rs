//! What a repository holds besides images (signatures, SBOMs, charts, wasm), as a directory: its
//! `manifest.json`, and its blobs as files. Images that cannot be merged although nothing is damaged
//! are shown in the same way. Sources: image-spec manifest.md, "Guidelines for Artifact Usage", and
//! annotations.md (`org.opencontainers.image.title`).

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use serde::Deserialize;

use super::source::{Nodes, time};
use super::view::{NAME_MAX, PATH_MAX};
use super::{At, Content, Entry, Error, FileTree, Identity, Kind, MayBlock, Node, Result, Time};
use crate::index::Layers;
use crate::oci::{Digest, Reference, Repository};
use crate::storage::StoredManifest;

const MANIFEST: &[u8] = b"manifest.json";
/// Files of one artifact that are shown.
const FILES_MAX: usize = 1 << 16;
/// Components of a title. Without a limit, the directories of one manifest could fill the memory.
const TITLE_DEPTH_MAX: usize = 16;

/// The descriptors of a manifest, as far as they matter here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: Option<String>,
    digest: Option<String>,
    annotations: Option<BTreeMap<String, serde_json::Value>>,
}

impl Descriptor {
    fn is_layer(&self) -> bool {
        // Media types are not always true: what may be a tar is looked into. Encrypted layers cannot
        // be (github.com/containers/ocicrypt).
        self.media_type.as_deref().is_none_or(|name| {
            (name.starts_with("application/vnd.docker.image.rootfs.")
                || name.contains("tar")
                || name == "application/octet-stream")
                && !name.ends_with("+encrypted")
        })
    }

    /// Whether the specifications say that it is a layer.
    fn is_layer_by_name(&self) -> bool {
        self.media_type.as_deref().is_some_and(|name| {
            name.starts_with("application/vnd.docker.image.rootfs.")
                || name.starts_with("application/vnd.oci.image.layer.")
        })
    }

    fn is_image_config(&self) -> bool {
        const CONFIGS: [&str; 3] = [
            "application/vnd.oci.image.config.v1+json",
            "application/vnd.docker.container.image.v1+json",
            "application/vnd.docker.plugin.v1+json",
        ];
        self.media_type.as_deref().is_none_or(|name| CONFIGS.contains(&name))
    }

    /// The path that its title gives it, if it can be one. The name of a digest always means the blob
    /// that has it.
    fn title(&self) -> Option<&[u8]> {
        let title = self.annotations.as_ref()?.get("org.opencontainers.image.title")?.as_str()?;
        let title = title.strip_prefix("./").unwrap_or(title).as_bytes();
        let component = |name: &[u8]| {
            !matches!(name, b"" | b"." | b"..") && name.len() <= NAME_MAX && !name.contains(&0)
        };
        let names = || title.split(|&b| b == b'/');
        let is_path = title.len() < PATH_MAX
            && names().count() <= TITLE_DEPTH_MAX
            && names().all(component)
            && !names().next().is_some_and(is_digest_name);
        is_path.then_some(title)
    }
}

/// The name of a blob without a title.
fn digest_name(digest: &Digest) -> String {
    digest.to_string().replace(':', "-")
}

fn is_digest_name(name: &[u8]) -> bool {
    let as_digest = |name: &str| name.replacen('-', ":", 1).parse::<Digest>();
    std::str::from_utf8(name).is_ok_and(|name| as_digest(name).is_ok())
}

/// A file: a blob, or the manifest itself.
#[derive(Debug)]
struct File {
    digest: Digest,
    size: u64,
    /// Tells the artifact's files apart. One blob may have several paths.
    inode: u64,
}

/// A directory of documents.
#[derive(Debug)]
pub struct Artifact {
    repository: Repository,
    manifest: Digest,
    changed: Time,
    /// Files by their paths. `None`: a directory; the root's path is empty.
    files: BTreeMap<Vec<u8>, Option<File>>,
    /// Why it is shown so, if it is an image.
    reason: Option<String>,
    source: Arc<Layers>,
}

impl fmt::Display for Artifact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.repository, self.manifest)
    }
}

impl Artifact {
    /// Whether a manifest says that it is no image.
    pub(super) fn is_one(stored: &StoredManifest) -> bool {
        serde_json::from_slice::<Manifest>(&stored.bytes).is_ok_and(|manifest| {
            let image = |config: &Descriptor| {
                manifest.artifact_type.is_none()
                    && config.is_image_config()
                    && manifest.layers.iter().all(Descriptor::is_layer)
            };
            manifest.config.as_ref().is_some_and(|config| !image(config))
        })
    }

    /// Whether a layer of a manifest may be something else than a tar.
    pub(super) fn may_have(stored: &StoredManifest, layer: &Digest) -> bool {
        serde_json::from_slice::<Manifest>(&stored.bytes).is_ok_and(|manifest| {
            let layer = layer.to_string();
            let mut named = manifest.layers.iter();
            named.any(|blob| blob.digest.as_ref() == Some(&layer) && !blob.is_layer_by_name())
        })
    }

    /// The documents of a manifest; blobs that the repository does not hold are left out.
    pub(super) fn new(
        source: &Arc<Layers>,
        repository: &Repository,
        stored: &StoredManifest,
        reason: Option<String>,
    ) -> Result<Artifact> {
        let storage = source.storage();
        let target = storage.target(repository, &Reference::Digest(stored.digest))?;
        let changed = target.map_or(Time::default(), |(_, changed)| time(changed));
        let own = File { digest: stored.digest, size: stored.bytes.len() as u64, inode: 0 };
        let mut files = BTreeMap::from([(Vec::new(), None), (MANIFEST.to_vec(), Some(own))]);
        let mut missing = Vec::new();
        // What cannot be parsed has its own text alone.
        let manifest = serde_json::from_slice::<Manifest>(&stored.bytes);
        let descriptors = manifest.into_iter().flat_map(|m| m.config.into_iter().chain(m.layers));
        for (descriptor, inode) in descriptors.take(FILES_MAX).zip(1..) {
            let digest = descriptor.digest.as_deref().and_then(|digest| digest.parse().ok());
            let Some(digest) = digest else { continue };
            let by_title = descriptor.title().filter(|title| add_directories(&mut files, title));
            let path = by_title.map_or_else(|| digest_name(&digest).into_bytes(), <[u8]>::to_vec);
            let size = match storage.blob_size(repository, &digest) {
                Ok(size) => size,
                // It keeps its path, which would mean another blob otherwise until this one comes.
                Err(crate::storage::Error::BlobUnknown { .. }) => {
                    missing.push(path.clone());
                    0
                }
                Err(error) => return Err(error.into()),
            };
            files.entry(path).or_insert(Some(File { digest, size, inode }));
        }
        for path in missing {
            files.remove(&path);
        }
        let (repository, manifest) = (repository.clone(), stored.digest);
        Ok(Artifact { repository, manifest, changed, files, reason, source: Arc::clone(source) })
    }

    pub(super) fn repository(&self) -> &Repository {
        &self.repository
    }

    fn document(&self, node: &Node) -> Result<&File> {
        match self.files.get(&node.path) {
            Some(Some(file)) => Ok(file),
            Some(None) => Err(Error::IsDirectory(At::new(self, &node.path))),
            None => Err(Error::NotFound(At::new(self, &node.path))),
        }
    }

    fn show(&self, path: &[u8], file: Option<&File>) -> Node {
        let mut entry = Entry::implicit(Kind::Directory);
        entry.mtime = self.changed;
        if let Some(file) = file {
            entry.kind = Kind::Regular;
            entry.mode = 0o644;
            entry.size = file.size;
            if let Digest::Sha256(digest) = file.digest {
                entry.sha256 = Some(digest);
            }
            entry.inode = file.inode;
        }
        Node { path: path.to_vec(), layer: 0, entry, dirs: Vec::new(), target: None }
    }
}

/// Makes room for a file. Returns `false` where another file is in the way.
fn add_directories(files: &mut BTreeMap<Vec<u8>, Option<File>>, path: &[u8]) -> bool {
    let slashes = (0..path.len()).filter(|&at| path[at] == b'/');
    let above: Vec<&[u8]> = slashes.map(|at| &path[..at]).collect();
    if files.contains_key(path)
        || above.iter().any(|path| matches!(files.get(*path), Some(Some(_))))
    {
        return false;
    }
    files.extend(above.into_iter().map(|path| (path.to_vec(), None)));
    true
}

impl FileTree for Artifact {
    fn manifest(&self) -> Digest {
        self.manifest
    }

    fn node(&self, path: &[u8], _: bool) -> Result<Node> {
        if path.len() > PATH_MAX {
            return Err(Error::NameTooLong(At::new(self, path)));
        }
        let mut node = self.show(b"", None);
        for name in path.split(|&b| b == b'/') {
            if !name.is_empty() && !node.is_directory() {
                return Err(Error::NotADirectory(At::new(self, path)));
            }
            match name {
                b"" | b"." => {}
                b".." => {
                    let parent = node.path.iter().rposition(|&b| b == b'/').unwrap_or(0);
                    node = self.show(&node.path[..parent], None);
                }
                _ => match self.lookup(&node, name)? {
                    Some(child) => node = child,
                    None if name.len() > NAME_MAX => {
                        return Err(Error::NameTooLong(At::new(self, path)));
                    }
                    None => return Err(Error::NotFound(At::new(self, path))),
                },
            }
        }
        Ok(node)
    }

    fn lookup(&self, directory: &Node, name: &[u8]) -> Result<Option<Node>> {
        let path = super::merge::join(&directory.path, name);
        Ok(self.files.get(&path).map(|file| self.show(&path, file.as_ref())))
    }

    fn children<'a>(&'a self, directory: &Node, from: &[u8]) -> Result<Nodes<'a>> {
        let mut prefix = directory.path.clone();
        if !prefix.is_empty() {
            prefix.push(b'/');
        }
        let start = [prefix.as_slice(), from].concat();
        let below =
            self.files.range::<[u8], _>((Bound::Included(start.as_slice()), Bound::Unbounded));
        let length = prefix.len();
        let below = below.take_while(move |(path, _)| path.starts_with(&prefix));
        let children =
            below.filter(move |(path, _)| path.len() > length && !path[length..].contains(&b'/'));
        Ok(Box::new(children.map(|(path, file)| Ok(self.show(path, file.as_ref())))))
    }

    fn identity(&self, node: &Node) -> Result<Identity> {
        Ok(Identity::Own { layer: 0, inode: node.entry.inode })
    }

    fn links(&self, _: &Node, _: MayBlock) -> Result<Option<u32>> {
        Ok(Some(1))
    }

    fn layer(&self, node: &Node) -> Option<Digest> {
        self.document(node).ok().map(|file| file.digest)
    }

    fn read(&self, node: &Node, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let file = self.document(node)?;
        let end = offset.saturating_add(buffer.len() as u64).min(file.size);
        let (Some(length), storage) = (end.checked_sub(offset), self.source.storage()) else {
            return Ok(0);
        };
        let buffer = &mut buffer[..length as usize];
        if node.path == MANIFEST {
            let reference = Reference::Digest(self.manifest);
            let stored = storage.manifest(&self.repository, &reference)?;
            buffer.copy_from_slice(&stored.bytes[offset as usize..end as usize]);
        } else {
            let blob = storage.open_blob(&self.repository, &file.digest)?;
            buffer.copy_from_slice(&blob.read(offset..end)?);
        }
        Ok(buffer.len())
    }

    fn read_content(
        &self,
        _: &Content,
        path: &[u8],
        offset: u64,
        buffer: &mut [u8],
        may_block: MayBlock,
    ) -> Result<Option<usize>> {
        match may_block {
            MayBlock::No => Ok(None),
            MayBlock::Yes => self.read(&self.node(path, false)?, offset, buffer).map(Some),
        }
    }

    fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn told_by_media_types() {
        let layer = |kind: &str| format!(r#"{{"mediaType":"{kind}","digest":"x"}}"#);
        let is_one = |config: &str, layers: &[&str], more: &str| {
            let layers: Vec<String> = layers.iter().map(|kind| layer(kind)).collect();
            let (config, layers) = (layer(config), layers.join(","));
            let bytes = format!(r#"{{"config":{config},"layers":[{layers}]{more}}}"#).into_bytes();
            let digest = crate::oci::Algorithm::Sha256.digest(&bytes);
            Artifact::is_one(&StoredManifest {
                digest,
                media_type: String::new(),
                bytes: bytes.into(),
            })
        };
        const IMAGE: &str = "application/vnd.oci.image.config.v1+json";
        const TAR: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
        for (config, layers, more, want) in [
            (IMAGE, &[TAR][..], "", false),
            (IMAGE, &[], "", false),
            (IMAGE, &["application/vnd.docker.image.rootfs.diff.tar.gzip"], "", false),
            ("application/vnd.docker.plugin.v1+json", &[TAR], "", false),
            (IMAGE, &["application/vnd.dev.cosign.simplesigning.v1+json"], "", true),
            (IMAGE, &[TAR, "application/vnd.in-toto+json"], "", true),
            (IMAGE, &[TAR], r#","artifactType":"text/x""#, true),
            ("application/vnd.oci.empty.v1+json", &[TAR], "", true),
            (
                "application/vnd.cncf.helm.config.v1+json",
                &["application/vnd.cncf.helm.chart.content.v1.tar+gzip"],
                "",
                true,
            ),
        ] {
            assert_eq!(is_one(config, layers, more), want, "{config} {layers:?} {more}");
        }
    }

    #[test]
    fn titles() {
        let title = |text: &str| {
            let text = serde_json::to_string(text).unwrap();
            let text = format!(r#"{{"annotations":{{"org.opencontainers.image.title":{text}}}}}"#);
            let descriptor: Descriptor = serde_json::from_str(&text).unwrap();
            descriptor.title().map(|title| String::from_utf8(title.to_vec()).unwrap())
        };
        for (text, want) in [
            ("chart.tgz", Some("chart.tgz")),
            ("./a/b", Some("a/b")),
            ("", None),
            ("/etc/passwd", None),
            ("../x", None),
            ("a/../x", None),
            ("a//b", None),
            ("a/", None),
            ("a\0b", None),
            (&format!("sha256-{}", "0a".repeat(32)), None),
            (&format!("sha256-{}/x", "0a".repeat(32)), None),
            ("sha256-0a", Some("sha256-0a")),
            (
                &format!("{}x", "d/".repeat(TITLE_DEPTH_MAX - 1)),
                Some(&format!("{}x", "d/".repeat(15))),
            ),
            (&format!("{}x", "d/".repeat(TITLE_DEPTH_MAX)), None),
        ] {
            assert_eq!(title(text).as_deref(), want, "{text:?}");
        }
        let digest = crate::oci::Algorithm::Sha256.digest(b"");
        let own = File { digest, size: 0, inode: 0 };
        let mut files = BTreeMap::from([(MANIFEST.to_vec(), Some(own))]);
        for (path, want) in
            [("a/b", true), ("a", false), ("manifest.json", false), ("manifest.json/x", false)]
        {
            assert_eq!(add_directories(&mut files, path.as_bytes()), want, "{path}");
        }
    }
}
