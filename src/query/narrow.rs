//! Where the index says which layers have what is looked for, only they are looked at, and only the
//! repositories that hold them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::find::{Place, Wanted, place};
use super::scope::is_complete;
use super::{Glob, Looked, Permitted, Scope};
use crate::image;
use crate::index::{Block, Index, IndexedLayer};
use crate::oci::{Digest, Repository};

/// Names that a glob may match, and blocks that may have what is looked for. With more of them
/// everything is looked at.
const NAMES: usize = 1 << 16;
const BLOCKS: usize = 1 << 18;
/// Layers whose repositories are looked for. With more of them all repositories are visited.
const LAYERS: usize = 1 << 12;

/// The layers that have what is looked for.
#[derive(Debug)]
pub struct Narrow {
    pub layers: HashMap<Digest, Vec<Block>>,
    /// The repositories that hold them; `None`: any may.
    pub repositories: Option<BTreeSet<Repository>>,
}

impl Narrow {
    /// `None`: the index does not tell, or it would be too much.
    pub fn new(
        images: &image::Images,
        wanted: &Wanted,
        scope: &Scope,
    ) -> image::Result<Option<Narrow>> {
        let index = images.layers().index();
        let Some(blocks) = blocks(index, wanted)? else { return Ok(None) };
        let mut by_number: BTreeMap<u64, Vec<Block>> = BTreeMap::new();
        for block in blocks {
            by_number.entry(block.layer).or_default().push(block);
        }
        let mut layers = HashMap::new();
        for (number, blocks) in by_number {
            if let Some(digest) = index.layer_of(number)? {
                layers.insert(digest, blocks);
            }
        }
        let mut narrow = Narrow { layers, repositories: None };
        if scope.images.is_empty() && narrow.layers.len() <= LAYERS && is_complete(images)? {
            let mut repositories = BTreeSet::new();
            for layer in narrow.layers.keys() {
                index.holders(layer, |repository, _| {
                    repositories.insert(repository);
                    true
                })?;
            }
            narrow.repositories = Some(repositories);
        }
        Ok(Some(narrow))
    }

    /// The paths of a layer that may match, in order.
    pub fn matches(
        &self,
        images: &image::Images,
        layer: &IndexedLayer,
        wanted: &Wanted,
    ) -> image::Result<Arc<[Place]>> {
        let (index, number) = (images.layers().index(), layer.record.number);
        let mut places = BTreeSet::new();
        let blocks = self.layers.get(&layer.digest).map(Vec::as_slice).unwrap_or_default();
        for block in blocks.iter().filter(|block| block.layer == number) {
            for (path, entry) in index.block(*block)? {
                if wanted.may_match(&path, &entry) {
                    places.insert(place(&path));
                }
            }
        }
        // A link to what a lower layer has does not have its content in its own layer.
        if !wanted.contents.is_empty() && layer.record.cross_layer_links > 0 && !wanted.deleted {
            for path in index.cross_layer_links(number) {
                places.insert(place(&path?));
            }
        }
        Ok(places.into_iter().collect())
    }
}

/// The blocks that may have what is looked for; `None`: too many, or all.
fn blocks(index: &Index, wanted: &Wanted) -> image::Result<Option<BTreeSet<Block>>> {
    let mut blocks = BTreeSet::new();
    let mut take = |block| {
        blocks.insert(block);
        blocks.len() <= BLOCKS
    };
    if !wanted.contents.is_empty() {
        for hash in &wanted.contents {
            index.blocks_with(hash, &mut take)?;
        }
    } else {
        let base = wanted.path.as_ref().and_then(Glob::base);
        let Some(glob) = wanted.name.as_ref().or(base.as_ref()) else { return Ok(None) };
        let (prefix, is_whole) = glob.prefix();
        let mut names = Vec::new();
        if is_whole {
            names.push(prefix.as_bytes().to_vec());
        } else {
            index.basenames(prefix.as_bytes(), |name| {
                if glob.is_match(name) {
                    names.push(name.to_vec());
                }
                names.len() <= NAMES
            })?;
        }
        if names.len() > NAMES {
            return Ok(None);
        }
        for name in names {
            index.blocks_named(&name, &mut take)?;
        }
    }
    Ok(Some(blocks).filter(|blocks| blocks.len() <= BLOCKS))
}

/// Counts what is not looked at since it has no index yet, where only some repositories are visited.
pub fn count_waiting(
    images: &image::Images,
    scope: &Scope,
    permitted: &Permitted,
    looked: &mut Looked,
) -> image::Result<()> {
    let index = images.layers().index();
    let mut layers = Vec::new();
    index.unindexed(|layer| {
        layers.push(layer);
        layers.len() < LAYERS
    })?;
    let wanted = &scope.repositories;
    let mut waiting = HashSet::new();
    looked.waiting_layers = 0;
    for layer in layers {
        let before = waiting.len();
        let mut is_held = false;
        index.holders(&layer, |repository, manifest| {
            let is_meant =
                wanted.as_ref().is_none_or(|glob| glob.is_match(repository.as_str().as_bytes()));
            if is_meant && permitted(&repository) {
                is_held = true;
                waiting.insert((repository, manifest));
            }
            waiting.len() - before < LAYERS
        })?;
        looked.waiting_layers += u64::from(is_held);
    }
    looked.waiting_images = waiting.len() as u64;
    Ok(())
}
