//! What pages of other sites can do through a user's browser.

use crate::common::{OCI_MANIFEST, Registry, Reply};
use crate::support::{Connection, bare_manifest, header_values, refused};

fn as_host(registry: &Registry, method: &str, path: &str, host: &str) -> Reply {
    let mut connection = Connection::open(registry);
    connection
        .write(format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n"));
    connection.reply(method)
}

/// A page can let its own name lead to any address (DNS rebinding), so a server that asks for no
/// password answers to names that it knows.
#[test]
fn rebinding() {
    let registry = Registry::start(&["--host", "Named.example"]);
    let manifest = bare_manifest(&registry, "a");
    let typed = [("Content-Type", OCI_MANIFEST)];
    let put = registry.send("PUT", "/v2/a/manifests/v1", &typed, manifest.as_bytes());
    assert_eq!(put.status, 201);
    for host in ["127.0.0.1:8000", "[::1]", "localhost:8000", "LOCALHOST", "named.example:80"] {
        let reply = as_host(&registry, "GET", "/v2/a/tags/list", host);
        assert_eq!(reply.status, 200, "{host}: {}", reply.text());
    }
    for host in ["rebind.evil.example", "localhost.evil.example:8000", "127.0.0.1.evil.example"] {
        for (method, path) in [
            ("GET", "/v2/a/tags/list"),
            ("GET", "/v2/"),
            ("DELETE", "/v2/a/manifests/v1"),
            ("POST", "/v2/a/blobs/uploads/"),
            ("GET", "/v2/a/_files/tree/v1"),
            ("OPTIONS", "/v2/a/tags/list"),
        ] {
            let reply = as_host(&registry, method, path, host);
            refused(&reply, 421, "DENIED", &format!("{method} {path} as {host}"));
            assert!(reply.text().contains("--host"), "{}", reply.text());
        }
        let reply = as_host(&registry, "GET", "/v1/repositories/a/tags", host);
        assert_eq!(reply.status, 421, "{}", reply.text());
        assert_eq!(as_host(&registry, "GET", "/healthz", host).status, 200, "a probe");
    }
    // A whole URL counts for more than the header.
    let url = "http://evil.example/v2/a/tags/list";
    assert_eq!(as_host(&registry, "GET", url, "localhost").status, 421);
    assert_eq!(registry.get("/v2/a/manifests/v1").status, 200, "nothing was deleted");

    let users = Registry::start(&["--user", "ann:secret"]);
    assert_eq!(as_host(&users, "GET", "/v2/", "registry.example").status, 401, "passwords protect");
}

#[test]
fn writes_of_other_sites() {
    let registry = Registry::start(&["--cors-origin", "https://ui.example"]);
    let manifest = bare_manifest(&registry, "a");
    let own = registry.host();
    let (own_http, own_https) = (format!("http://{own}"), format!("https://{own}"));
    let put = |headers: &[(&str, &str)]| {
        let headers = [&[("Content-Type", OCI_MANIFEST)], headers].concat();
        registry.send("PUT", "/v2/a/manifests/v1", &headers, manifest.as_bytes())
    };
    for (headers, status) in [
        (&[][..], 201),
        (&[("Origin", own_http.as_str())], 201),
        (&[("Origin", own_https.as_str())], 201),
        (&[("Origin", "https://ui.example")], 201),
        (&[("Origin", "https://ui.example"), ("Sec-Fetch-Site", "cross-site")], 201),
        (&[("Sec-Fetch-Site", "same-origin")], 201),
        (&[("Sec-Fetch-Site", "none")], 201),
        (&[("Origin", "https://evil.example")], 403),
        (&[("Origin", "http://localhost:1")], 403),
        (&[("Origin", "null")], 403),
        (&[("Origin", "http://ui.example")], 403),
        (&[("Sec-Fetch-Site", "cross-site")], 403),
        (&[("Sec-Fetch-Site", "same-site")], 403),
        (&[("Origin", own_http.as_str()), ("Sec-Fetch-Site", "cross-site")], 403),
    ] {
        let reply = put(headers);
        assert_eq!(reply.status, status, "{headers:?}: {}", reply.text());
        if status == 403 {
            refused(&reply, 403, "DENIED", "another site");
        }
    }
    let evil = [("Origin", "https://evil.example")];
    for (method, path) in [
        ("DELETE", "/v2/a/manifests/v1"),
        ("POST", "/v2/a/blobs/uploads/"),
        ("DELETE", "/v1/repositories/a/tags"),
        ("PUT", "/v1/repositories/a/images"),
    ] {
        assert_eq!(registry.send(method, path, &evil, b"").status, 403, "{method} {path}");
    }
    // Links from other sites still work.
    let linked = [("Sec-Fetch-Site", "cross-site")];
    assert_eq!(registry.send("GET", "/v2/a/manifests/v1", &linked, b"").status, 200);
}

#[test]
fn cors() {
    let closed = Registry::start(&[]);
    let open = Registry::start(&["--cors-origin", "https://UI.example:443/,http://localhost:3000"]);
    let asked = ("Access-Control-Request-Method", "DELETE");
    for path in ["/v1/_ping", "/v2/", "/v2/_catalog", "/v1/nothing"] {
        for (registry, origin, allowed) in [
            (&closed, "https://ui.example", false),
            (&open, "https://evil.example", false),
            (&open, "https://ui.example.evil.example", false),
            (&open, "null", false),
            (&open, "https://ui.example", true),
            (&open, "http://localhost:3000", true),
        ] {
            let want = allowed.then_some(origin);
            let reply = registry.send("GET", path, &[("Origin", origin)], b"");
            assert_eq!(reply.header("access-control-allow-origin"), want, "{path} {origin}");
            assert_eq!(reply.header("access-control-allow-credentials"), None);
            let vary = header_values(&reply, "vary").contains(&"Origin");
            assert_eq!(vary, std::ptr::eq(registry, &raw const open), "caches keep origins apart");
            if path == "/v1/nothing" {
                continue;
            }
            let reply = registry.send("OPTIONS", path, &[("Origin", origin), asked], b"");
            assert_eq!(reply.header("access-control-allow-origin"), want, "{path} {origin}");
            let methods = reply.header("access-control-allow-methods");
            assert_eq!(methods.is_some(), allowed, "{path} {origin}");
            assert!(!allowed || reply.status == 204, "{path} {origin}");
        }
    }
}
