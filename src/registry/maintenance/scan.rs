//! Brings the catalog up to date with a store that another server may have changed.

use std::io;
use std::sync::Arc;

use crate::index::Index;
use crate::storage::Storage;

/// Starts the thread that compares the catalog with the store once.
pub fn start(index: Arc<Index>, storage: Arc<Storage>, read_only: bool) -> io::Result<()> {
    super::spawn("scan", move || {
        if let Err(error) = index.scan(&storage, read_only) {
            tracing::error!(
                %error,
                "cannot bring the catalog up to date: it may lack repositories until the next start"
            );
        }
    })
}
