//! Real clients against a running `registry`. They run as root, as the Docker
//! engine must, and leave nothing behind.

#[path = "../common/mod.rs"]
mod common;

mod authority;
mod docker;
mod interchange;
mod layout;
mod podman;
mod skopeo;
mod tls;

/// Clients push and pull beside a collector of garbage that never rests. What a client was told of, or
/// pushed, within the last minute is safe.
const COLLECTING: &[&str] = &["--gc-interval", "1s", "--gc-grace", "1m", "--gc-untagged"];

use std::net::SocketAddr;

use common::{
    DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Registry, Reply, eventually, send_to,
};

/// A manifest, asked for as a client does that knows every type.
fn manifest(address: SocketAddr, repository: &str, reference: &str) -> Reply {
    let accept = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST].join(", ");
    let path = format!("/v2/{repository}/manifests/{reference}");
    let reply = send_to(address, "GET", &path, &[("Accept", &accept)], b"").expect("an answer");
    assert_eq!(reply.status, 200, "{path}: {}", reply.text());
    reply
}

/// Waits until so many lines of the access log say all of this.
fn await_log(registry: &Registry, lines: usize, what: &[&str]) {
    eventually(&format!("{lines} requests with {what:?}"), || {
        let log = registry.log();
        let found = |line: &&str| what.iter().all(|part| line.contains(part));
        log.lines().filter(found).count() >= lines
    });
}
