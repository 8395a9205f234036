//! Clients that are told of a blob in the moment in which it would go.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use registry::oci::Digest;

use crate::common::{OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Registry, descriptor, image_manifest};
use crate::support::{age, gc};

const CLIENTS: usize = 8;
const ROUNDS: usize = 20;
const BLOBS: usize = 500;
const GRACE: &[&str] = &["--grace", "1m"];

/// Blobs lie there, unnamed and long past the grace period, and a collection begins. Clients ask for
/// them meanwhile. If a client is told that a blob exists, the manifest that names it is accepted and
/// everything can be pulled.
#[test]
fn what_a_client_was_told_exists_is_there_ten_thousand_times() {
    let registry = Registry::start(&["--gc-interval", "0", "--index-jobs", "0"]);
    let told = AtomicUsize::new(0);
    for round in 0..ROUNDS {
        let layers = (0..BLOBS).map(|number| format!("layer {round} {number}"));
        let layers: Vec<(String, Digest)> = layers
            .map(|layer| {
                let digest = registry.push_blob(repository(&layer), layer.as_bytes());
                (layer, digest)
            })
            .collect();
        age(&registry.store(), Duration::from_secs(3600));
        thread::scope(|scope| {
            scope.spawn(|| gc(&registry.dir, GRACE));
            for client in 0..CLIENTS {
                let (registry, layers, told) = (&registry, &layers, &told);
                scope.spawn(move || {
                    // Some are early, some late.
                    thread::sleep(Duration::from_millis((7 * client + round) as u64));
                    for (layer, digest) in layers.iter().skip(client).step_by(CLIENTS) {
                        let is_told = ask_and_push(registry, layer, digest);
                        told.fetch_add(usize::from(is_told), Ordering::Relaxed);
                    }
                });
            }
        });
    }
    let (told, times) = (told.into_inner(), ROUNDS * BLOBS);
    // Both outcomes have to occur, or the test says nothing.
    assert!((times / 100..times * 99 / 100).contains(&told), "told {told} times of {times}");
}

/// One of several repositories.
fn repository(layer: &str) -> &'static str {
    ["a", "b/c", "b/d"][layer.len() % 3]
}

/// Whether the client was told that the blob exists.
fn ask_and_push(registry: &Registry, layer: &str, digest: &Digest) -> bool {
    let repository = repository(layer);
    let blob = format!("/v2/{repository}/blobs/{digest}");
    let reply = registry.head(&blob);
    if reply.status == 404 {
        return false;
    }
    assert_eq!(reply.status, 200);
    let config = registry.push_blob(repository, b"{}");
    let manifest = image_manifest(
        &descriptor(OCI_CONFIG, &config, 2),
        &[descriptor(OCI_LAYER, digest, layer.len())],
    );
    let reply = registry.push_manifest(repository, "1", OCI_MANIFEST, manifest.as_bytes());
    assert_eq!(reply.status, 201, "the manifest: {}", reply.text());
    let reply = registry.get(&blob);
    assert_eq!((reply.status, reply.text().as_str()), (200, layer));
    true
}
