#[path = "../common/mod.rs"]
mod common;

use common::Registry;

#[test]
fn ping() {
    let registry = Registry::start(&[]);
    let reply = registry.get("/v2/");
    assert_eq!(reply.status, 200);
    assert_eq!(
        reply.header("docker-distribution-api-version"),
        Some("registry/2.0")
    );
}
