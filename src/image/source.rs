//! What the faces stand on: a [`View`] names images for the mount, a [`FileTree`] is an image or an
//! [`Artifact`]. [`Images`] and [`Image`] implement them over a local store; a view of another server
//! can implement them too.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::{
    Artifact, At, Content, Error, Folder, Identity, Image, Images, Kind, Node, Opened, Platform,
    Result, Time,
};
use crate::oci::{Digest, ManifestError, Reference, Repository, Tag};
use crate::{index, storage};

/// Tags of one repository that are listed.
const TAGS_MAX: usize = 1 << 20;

/// Whether a call may wait for something to be indexed, decoded or searched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MayBlock {
    Yes,
    No,
}

/// What a reference means at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The digest of the manifest or image index.
    pub digest: Digest,
    /// When the tag was set, or the manifest came.
    pub changed: Time,
}

/// Images by their names. Nothing here opens an image but [`View::open`].
pub trait View: fmt::Debug + Send + Sync {
    /// The next components of the names that begin with `prefix`, in no order. `prefix` is empty
    /// or ends before a slash.
    fn folders(&self, prefix: &str) -> Result<Vec<Folder>>;

    /// When the folders or tags that stand directly below `prefix` last changed; `None`: there are
    /// no names below it.
    fn folders_changed(&self, prefix: &str) -> Result<Option<Time>>;

    /// The tags of a repository.
    fn tags(&self, repository: &Repository) -> Result<Vec<Tag>>;

    /// What a reference means; `None`: nothing.
    fn target(&self, repository: &Repository, reference: &Reference) -> Result<Option<Target>>;

    /// The platforms of an image index; `None` for anything else.
    fn platforms(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Option<BTreeSet<Platform>>>;

    /// The manifest that a manifest or image index means on a platform.
    fn manifest_for(
        &self,
        repository: &Repository,
        digest: &Digest,
        platform: Option<&Platform>,
    ) -> Result<Digest>;

    /// Opens an image, which may wait for its layers to be indexed. `None`: it would. Artifacts, and
    /// images that are not here as a whole, are directories of their documents.
    fn open(
        &self,
        repository: &Repository,
        digest: &Digest,
        platform: Option<&Platform>,
        may_block: MayBlock,
    ) -> Result<Option<Arc<dyn FileTree>>>;
}

/// The files of one image or artifact. What they say never changes.
pub trait FileTree: fmt::Debug + fmt::Display + Send + Sync {
    /// The digest of the image's own manifest.
    fn manifest(&self) -> Digest;

    /// What lies at a path, with or without slashes at its ends. Symbolic links on the way are
    /// followed; with `follow`, the last one too.
    fn node(&self, path: &[u8], follow: bool) -> Result<Node>;

    /// The regular file at a path, symbolic links followed.
    fn file(&self, path: &[u8]) -> Result<Node> {
        let node = self.node(path, true)?;
        match node.entry.kind {
            Kind::Regular => Ok(node),
            _ if node.is_directory() => Err(Error::IsDirectory(At::new(self, path))),
            _ => Err(Error::NotAFile(At::new(self, path))),
        }
    }

    fn lookup(&self, directory: &Node, name: &[u8]) -> Result<Option<Node>>;

    /// The children of a directory by name, from the name `from` on, which need not exist.
    fn children<'a>(&'a self, directory: &Node, from: &[u8]) -> Result<Nodes<'a>>;

    /// Which inode a node is, unless it is a directory.
    fn identity(&self, node: &Node) -> Result<Identity>;

    /// How many names lead to a node's inode. `None`: they would have to be counted.
    fn links(&self, node: &Node, may_block: MayBlock) -> Result<Option<u32>>;

    /// Calls `visit` with every name of the inode of a node that is no directory, in no order.
    fn names(&self, node: &Node, visit: &mut dyn FnMut(&[u8])) -> Result<()> {
        visit(&node.path);
        Ok(())
    }

    /// The digest of the layer or blob that a node comes from.
    fn layer(&self, node: &Node) -> Option<Digest>;

    /// Reads a regular file from `offset` on, holes as zeros. Fills `buffer` unless the file ends;
    /// returns how many bytes that is.
    fn read(&self, node: &Node, offset: u64, buffer: &mut [u8]) -> Result<usize>;

    /// Does the same for the node at `path` by its content alone. `None`: something would have to
    /// be decoded.
    fn read_content(
        &self,
        content: &Content,
        path: &[u8],
        offset: u64,
        buffer: &mut [u8],
        may_block: MayBlock,
    ) -> Result<Option<usize>>;

    /// Whether it is one layer by itself, whose whiteouts and opaque directories are shown.
    fn is_layer(&self) -> bool {
        false
    }

    /// Why an image is shown by its documents; `None`: it is not.
    fn reason(&self) -> Option<&str> {
        None
    }
}

/// What [`FileTree::children`] returns. After an error there are no more.
pub type Nodes<'a> = Box<dyn Iterator<Item = Result<Node>> + 'a>;

/// Times before 1970 count as 1970.
pub(super) fn time(time: SystemTime) -> Time {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Time {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanoseconds: since.subsec_nanos(),
    }
}

impl View for Images {
    fn folders(&self, prefix: &str) -> Result<Vec<Folder>> {
        Ok(self.layers().storage().folders(prefix)?.unwrap_or_default())
    }

    fn folders_changed(&self, prefix: &str) -> Result<Option<Time>> {
        Ok(self.layers().storage().folders_changed(prefix)?.map(time))
    }

    fn tags(&self, repository: &Repository) -> Result<Vec<Tag>> {
        Ok(self.layers().storage().tags(repository, "", TAGS_MAX)?.items)
    }

    fn target(&self, repository: &Repository, reference: &Reference) -> Result<Option<Target>> {
        let target = self.layers().storage().target(repository, reference)?;
        Ok(target.map(|(digest, changed)| Target { digest, changed: time(changed) }))
    }

    fn platforms(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Option<BTreeSet<Platform>>> {
        self.platforms(repository, &Reference::Digest(*digest))
    }

    fn manifest_for(
        &self,
        repository: &Repository,
        digest: &Digest,
        platform: Option<&Platform>,
    ) -> Result<Digest> {
        let stored = self.layers().storage().manifest(repository, &Reference::Digest(*digest))?;
        Ok(self.leaf(repository, &stored, platform)?.digest)
    }

    fn open(
        &self,
        repository: &Repository,
        digest: &Digest,
        platform: Option<&Platform>,
        may_block: MayBlock,
    ) -> Result<Option<Arc<dyn FileTree>>> {
        let reference = Reference::Digest(*digest);
        let opened = match may_block {
            MayBlock::Yes => self.open_in(repository, &reference, platform).map(Some),
            MayBlock::No => self.opened_in(repository, &reference, platform),
        };
        match opened {
            Ok(opened) => Ok(opened.map(Opened::into_tree)),
            Err(error) => match self.documents(repository, &reference, platform, &error)? {
                Some(documents) => Ok(Some(Arc::new(documents))),
                None => Err(error),
            },
        }
    }
}

impl Images {
    /// The documents of an image that cannot be merged although nothing is damaged: some of it is
    /// elsewhere, or a layer is no tar and its media type does not say that it is one.
    fn documents(
        &self,
        repository: &Repository,
        reference: &Reference,
        platform: Option<&Platform>,
        error: &Error,
    ) -> Result<Option<Artifact>> {
        let storage = self.layers().storage();
        let stored = match error {
            Error::NoPlatform { .. }
            | Error::ForeignLayer { .. }
            | Error::Manifest { cause: ManifestError::Schema1, .. } => {
                storage.manifest(repository, reference)?
            }
            // What an index names need not be here.
            Error::Storage(storage::Error::ManifestUnknown { reference: missing, .. })
                if missing != reference =>
            {
                storage.manifest(repository, reference)?
            }
            Error::Layer { cause: index::Error::Refused { layer, .. }, .. } => {
                let stored = storage.manifest(repository, reference)?;
                let leaf = Reference::Digest(self.leaf(repository, &stored, platform)?.digest);
                let stored = storage.manifest(repository, &leaf)?;
                if !Artifact::may_have(&stored, layer) {
                    return Ok(None);
                }
                stored
            }
            _ => return Ok(None),
        };
        Artifact::new(self.layers(), repository, &stored, Some(error.to_string())).map(Some)
    }
}

impl FileTree for Image {
    fn manifest(&self) -> Digest {
        self.manifest
    }

    fn node(&self, path: &[u8], follow: bool) -> Result<Node> {
        self.node(path, follow)
    }

    fn lookup(&self, directory: &Node, name: &[u8]) -> Result<Option<Node>> {
        self.lookup(directory, name)
    }

    fn children<'a>(&'a self, directory: &Node, from: &[u8]) -> Result<Nodes<'a>> {
        Ok(Box::new(self.children(directory, from)?))
    }

    fn identity(&self, node: &Node) -> Result<Identity> {
        self.identity(node)
    }

    fn links(&self, node: &Node, may_block: MayBlock) -> Result<Option<u32>> {
        match may_block {
            MayBlock::No if !self.knows_links(node) => Ok(None),
            _ => self.links(node).map(Some),
        }
    }

    fn names(&self, node: &Node, visit: &mut dyn FnMut(&[u8])) -> Result<()> {
        self.names(node, visit)
    }

    fn layer(&self, node: &Node) -> Option<Digest> {
        self.layers.get(node.layer).map(|layer| layer.digest)
    }

    fn read(&self, node: &Node, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.read(node, offset, buffer)
    }

    fn read_content(
        &self,
        content: &Content,
        path: &[u8],
        offset: u64,
        buffer: &mut [u8],
        may_block: MayBlock,
    ) -> Result<Option<usize>> {
        self.read_content(content, path, offset, buffer, may_block)
    }
}
