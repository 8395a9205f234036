//! Brings what is derived from the store up to date, because another server may have changed the
//! store, and a crash may have come between the store and the index.

use std::io;
use std::sync::Arc;

use crate::image::Images;
use crate::index::{Error, Result, Scanned};
use crate::oci::Contents;
use crate::registry::Registry;
use crate::registry::push::ids;
use crate::storage::StoredManifest;

/// Starts the thread that compares the catalog with the store once.
pub fn start(registry: Arc<Registry>, read_only: bool) -> io::Result<()> {
    super::spawn("scan", move || {
        match scan(registry.images(), read_only) {
            Ok(()) => tracing::info!("the index knows what is stored"),
            Err(error) => tracing::error!(
                %error,
                "cannot bring the catalog up to date: it may lack repositories until the next start"
            ),
        }
        if !read_only && let Err(error) = registry.finish_all_deletes() {
            tracing::error!(%error, "cannot remove the tags of deleted manifests before the next start");
        }
    })
}

/// Brings the catalog, the ids of images and the numbers of what is stored up to date. It lists each
/// repository once, and reads its tags. Where
/// manifests came or went, they are read for their ids, and, unless the store is read-only, each is
/// linked to its subject: a server without the referrers API did not do that (distribution-spec,
/// "Enabling the Referrers API").
pub fn scan(images: &Images, read_only: bool) -> Result<()> {
    let (storage, index) = (images.layers().storage(), images.layers().index());
    index.begin_scan()?;
    storage.walk(|repository| {
        let Some(changed) = storage.manifests_changed(repository)? else {
            return Ok(());
        };
        let known = index.scanned(repository)?;
        let known = known.filter(|known| known.changed == changed && (known.subjects || read_only));
        if known.is_none() {
            storage.read_manifests(repository, |stored: &StoredManifest| {
                if !read_only {
                    storage.link_referrer(repository, stored)?;
                }
                index.record_found(storage, repository, &stored.digest, &stored.bytes)?;
                match Contents::parse(&stored.bytes) {
                    Ok(contents) => {
                        let ids = ids(images, repository, &stored.digest, &contents);
                        index.add_images(repository, &stored.digest, &ids)
                    }
                    // It has nothing to look into.
                    Err(_) => Ok(()),
                }
            })?;
            index.set_scanned(repository, Scanned { changed, subjects: !read_only })?;
        }
        index.record_repository(storage, repository)?;
        index.count_scanned();
        Ok::<_, Error>(())
    })?;
    index.forget_emptied(storage)?;
    index.record_all_blobs(storage)?;
    index.end_scan()
}
