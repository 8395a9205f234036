//! One layer of an image as it is: the rows that the index has of it, with nothing merged.
//! Whiteouts are entries, and hard links to what lower layers have lead to no content.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::merge::join;
use super::view::{Hops, NAME_MAX, PATH_MAX};
use super::{
    At, Content, Entry, Error, FileTree, Id, IdError, Identity, Image, Kind, MayBlock, Node, Nodes,
    Result,
};
use crate::oci::Digest;

/// The digest of a layer, or at least its first 12 digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerId(Id);

impl FromStr for LayerId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<LayerId, IdError> {
        match text.parse()? {
            id @ Id::Hex { .. } => Ok(LayerId(id)),
            Id::Reference { .. } => Err(IdError::Hex(text.chars().take(200).collect())),
        }
    }
}

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl LayerId {
    fn means(&self, digest: &Digest) -> bool {
        match &self.0 {
            Id::Hex { algorithm, hex } => {
                algorithm.is_none_or(|algorithm| algorithm == digest.algorithm())
                    && digest.hex().starts_with(hex)
            }
            Id::Reference { .. } => false,
        }
    }
}

/// A layer of an image.
#[derive(Debug)]
pub struct OneLayer {
    image: Arc<Image>,
    /// In [`Image::layers`].
    place: usize,
}

impl fmt::Display for OneLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "layer {} of {}", self.digest(), self.image)
    }
}

impl OneLayer {
    /// The image's own layers are all that it can be: access to others is not decided here.
    pub(super) fn new(image: Arc<Image>, id: &LayerId) -> Result<OneLayer> {
        let means = |digest: &Digest| id.means(digest);
        let mut found = image.layers.iter().enumerate().filter(|(_, layer)| means(&layer.digest));
        let Some((place, layer)) = found.next() else {
            return Err(Error::NotALayer { image: image.to_string(), layer: id.to_string() });
        };
        if found.any(|(_, other)| other.digest != layer.digest) {
            let (image, prefix) = (image.to_string(), id.to_string());
            return Err(Error::AmbiguousLayer { image, prefix });
        }
        Ok(OneLayer { image, place })
    }

    pub fn image(&self) -> &Arc<Image> {
        &self.image
    }

    /// Where it is in [`Image::layers`].
    pub fn place(&self) -> usize {
        self.place
    }

    pub fn digest(&self) -> Digest {
        self.image.layers[self.place].digest
    }

    fn number(&self) -> u64 {
        self.image.layers[self.place].record.number
    }

    fn show(&self, path: Vec<u8>, mut entry: Entry) -> Node {
        if entry.kind == Kind::Whiteout {
            entry.mode = 0;
        }
        let dirs = if entry.is_directory() { vec![self.place] } else { Vec::new() };
        Node { path, layer: self.place, entry, dirs, target: None }
    }

    /// What lies at exactly this path.
    fn at(&self, path: Vec<u8>) -> Result<Option<Node>> {
        let entry = self.image.entry(self.place, &path)?;
        Ok(entry.map(|entry| self.show(path, entry)))
    }

    fn root(&self) -> Result<Node> {
        let root = self.at(Vec::new())?;
        Ok(root.unwrap_or_else(|| self.show(Vec::new(), Entry::implicit(Kind::Implicit))))
    }
}

/// What a layer does to an image at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    Adds,
    Changes,
    Deletes,
}

/// Compares the entries of one directory with what the layers below have there.
#[derive(Debug)]
pub struct Effects<'a> {
    layer: &'a OneLayer,
    below: Option<Node>,
}

impl OneLayer {
    /// Compares what the layer has in a directory with the layers below.
    pub fn effects(&self, directory: &[u8]) -> Result<Effects<'_>> {
        let below = self.image.beneath(self.place, directory)?.filter(Node::is_directory);
        Ok(Effects { layer: self, below })
    }
}

impl Effects<'_> {
    pub fn of(&self, node: &Node) -> Result<Effect> {
        let below = match &self.below {
            Some(below) => self.layer.image.lookup(below, node.name())?,
            None => None,
        };
        Ok(match below {
            _ if node.entry.is_whiteout() => Effect::Deletes,
            Some(_) => Effect::Changes,
            None => Effect::Adds,
        })
    }
}

/// The components of a path, the last one first.
fn components(path: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    path.split(|&b| b == b'/').rev().filter(|name| !name.is_empty()).map(<[u8]>::to_vec)
}

impl FileTree for OneLayer {
    fn manifest(&self) -> Digest {
        self.image.manifest
    }

    fn node(&self, path: &[u8], follow: bool) -> Result<Node> {
        let at = || At::new(self, path);
        if path.len() > PATH_MAX {
            return Err(Error::NameTooLong(at()));
        }
        let (mut current, mut hops) = (self.root()?, Hops::default());
        let mut left: Vec<Vec<u8>> = components(path).collect();
        while let Some(name) = left.pop() {
            hops.step(at)?;
            if !current.is_directory() {
                return Err(Error::NotADirectory(at()));
            }
            match name.as_slice() {
                b"." => {}
                b".." => {
                    let end = current.path.iter().rposition(|&b| b == b'/').unwrap_or(0);
                    let parent = self.at(current.path[..end].to_vec())?;
                    current = parent.ok_or_else(|| Error::NotFound(at()))?;
                }
                _ => {
                    let Some(child) = self.lookup(&current, &name)? else {
                        return Err(match name.len() {
                            0..=NAME_MAX => Error::NotFound(at()),
                            _ => Error::NameTooLong(at()),
                        });
                    };
                    if child.entry.kind != Kind::Symlink || (left.is_empty() && !follow) {
                        current = child;
                        continue;
                    }
                    hops.count(at)?;
                    let link = &child.entry.link;
                    match link.len() {
                        0 => return Err(Error::NotFound(at())),
                        1..=PATH_MAX => {}
                        _ => return Err(Error::NameTooLong(at())),
                    }
                    if link.starts_with(b"/") {
                        current = self.root()?;
                    }
                    left.extend(components(link));
                }
            }
        }
        Ok(current)
    }

    fn file(&self, path: &[u8]) -> Result<Node> {
        let node = self.node(path, true)?;
        match node.entry.kind {
            Kind::Regular => Ok(node),
            Kind::CrossLayerLink => {
                Err(Error::LowerTarget { at: At::new(self, path), target: node.entry.link })
            }
            _ if node.is_directory() => Err(Error::IsDirectory(At::new(self, path))),
            _ => Err(Error::NotAFile(At::new(self, path))),
        }
    }

    fn lookup(&self, directory: &Node, name: &[u8]) -> Result<Option<Node>> {
        self.at(join(&directory.path, name))
    }

    fn children<'a>(&'a self, directory: &Node, from: &[u8]) -> Result<Nodes<'a>> {
        if !directory.is_directory() {
            return Err(Error::NotADirectory(At::new(self, &directory.path)));
        }
        let directory = directory.path.clone();
        let rows = self.image.source.index().children(self.number(), &directory, from);
        Ok(Box::new(rows.map(move |row| {
            let (name, entry) = row?;
            Ok(self.show(join(&directory, &name), entry))
        })))
    }

    fn identity(&self, node: &Node) -> Result<Identity> {
        Ok(Identity::Shared { layer: self.number(), inode: node.entry.inode })
    }

    fn links(&self, node: &Node, _: MayBlock) -> Result<Option<u32>> {
        Ok(Some(if node.is_directory() { 1 } else { node.entry.links }))
    }

    fn names(&self, node: &Node, visit: &mut dyn FnMut(&[u8])) -> Result<()> {
        if node.entry.links <= 1 {
            visit(&node.path);
            return Ok(());
        }
        for path in self.image.source.index().names(self.number(), node.entry.inode) {
            visit(&path?);
        }
        Ok(())
    }

    fn layer(&self, _: &Node) -> Option<Digest> {
        Some(self.digest())
    }

    fn read(&self, node: &Node, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.image.read(node, offset, buffer)
    }

    fn read_content(
        &self,
        content: &Content,
        path: &[u8],
        offset: u64,
        buffer: &mut [u8],
        may_block: MayBlock,
    ) -> Result<Option<usize>> {
        self.image.read_content(content, path, offset, buffer, may_block)
    }

    fn is_layer(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_of_layers() {
        let digest: Digest =
            format!("sha256:{}", "0123456789ab".repeat(6)[..64].to_owned()).parse().unwrap();
        let means = |text: &str| text.parse::<LayerId>().map(|id| id.means(&digest));
        let whole = digest.to_string();
        for (text, want) in [
            (whole.as_str(), Some(true)),
            (&whole[7..], Some(true)),
            (&whole[..19], Some(true)),
            (&whole[7..19], Some(true)),
            ("123456789abc", Some(false)),
            (&format!("sha512:{}", &whole[7..]), Some(false)),
            (&whole[7..18], None),
            ("", None),
            ("team/app", None),
            (&format!("team/app@{whole}"), None),
            (&format!("{whole}0"), None),
        ] {
            assert_eq!(means(text).ok(), want, "{text}");
        }
    }
}
