//! The layers of the store, indexed and readable: what the merged view stands on.

use std::sync::Arc;

use super::records::{Layer, State};
use super::{Error, Index, Result};
use crate::oci::Digest;
use crate::storage::Storage;

/// Layers, their index and their bytes.
#[derive(Debug)]
pub struct Layers {
    storage: Arc<Storage>,
    index: Arc<Index>,
}

/// A layer that has an index.
#[derive(Debug)]
pub struct IndexedLayer {
    pub digest: Digest,
    pub record: Layer,
}

impl Layers {
    pub fn new(storage: Arc<Storage>, index: Arc<Index>) -> Layers {
        Layers { storage, index }
    }

    pub fn storage(&self) -> &Storage {
        &self.storage
    }

    pub fn index(&self) -> &Index {
        &self.index
    }

    /// A layer's index. Waits for its job where there is none yet.
    /// [`Error::Refused`]: it cannot have one.
    pub fn ready(&self, digest: &Digest) -> Result<Arc<IndexedLayer>> {
        match self.index.state(digest)? {
            Some(State::Ready(record)) => Ok(Arc::new(IndexedLayer {
                digest: *digest,
                record,
            })),
            Some(State::Refused(reason)) => Err(Error::Refused {
                layer: Box::new(*digest),
                reason,
            }),
            None => unimplemented!(),
        }
    }

    /// Fills `buffer` with the bytes of the layer's tar stream at `offset`.
    pub fn read(&self, _layer: &IndexedLayer, _offset: u64, _buffer: &mut [u8]) -> Result<()> {
        unimplemented!()
    }
}
