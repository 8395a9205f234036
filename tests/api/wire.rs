//! HTTP itself: connections, versions, methods of sending a body.

use std::io::{Read, Write};

use crate::common::{DOCKER_MANIFEST, OCI_MANIFEST, Registry, Reply, noise};
use crate::support::{Connection, absent, bare_manifest, headers, refused, sha256};

/// A request on a connection that stays open.
fn request(method: &str, path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = match method {
        "GET" | "HEAD" | "DELETE" => String::new(),
        _ => format!("Content-Length: {}\r\n", body.len()),
    };
    let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{length}{headers}\r\n");
    [head.as_bytes(), body].concat()
}

#[test]
fn ping() {
    let registry = Registry::start(&[]);
    for path in ["/v2/", "/v2", "/v2/?unknown=parameter"] {
        let reply = registry.get(path);
        assert_eq!((reply.status, reply.text().as_str()), (200, "{}"), "{path}");
        let want = [
            ("docker-distribution-api-version", Some("registry/2.0")),
            ("content-type", Some("application/json")),
            ("content-length", Some("2")),
        ];
        headers(&reply, &want, path);
        let head = registry.head(path);
        assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
        headers(&head, &want, path);
    }
}

#[test]
fn health() {
    let registry = Registry::start(&[]);
    for path in ["/healthz", "/readyz"] {
        let reply = registry.get(path);
        assert_eq!((reply.status, reply.text().as_str()), (200, "ok\n"), "{path}");
        let head = registry.head(path);
        assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
    }
}

#[test]
fn absolute_form() {
    let registry = Registry::start(&[]);
    let digest = registry.push_blob("a", b"bytes");
    // RFC 9112, 3.2.2: a server must take a whole URL, as proxies get it.
    let reply = registry.get(&format!("http://localhost/v2/a/blobs/{digest}"));
    assert_eq!((reply.status, reply.text().as_str()), (200, "bytes"));
}

#[test]
fn keep_alive() {
    let registry = Registry::start(&[]);
    let content = noise(1, 200_000);
    let digest = sha256(&content);
    let manifest = bare_manifest(&registry, "a");
    let manifest = manifest.as_bytes();
    let mut connection = Connection::open(&registry);
    let mut ask = |method: &str, path: &str, headers: &str, body: &[u8]| -> Reply {
        connection.write(request(method, path, headers, body));
        connection.reply(method)
    };

    let upload = ask("POST", "/v2/a/blobs/uploads/", "", b"");
    let location = upload.header("location").expect("a location");
    let blob = format!("/v2/a/blobs/{digest}");
    let missing = format!("/v2/a/blobs/{}", absent());
    let closing = format!("{location}?digest={digest}");
    let typed = format!("Content-Type: {OCI_MANIFEST}\r\n");
    let foreign = format!("Content-Type: {DOCKER_MANIFEST}\r\n");
    for (method, path, headers, body, status, why) in [
        ("PATCH", location, "", &content[..], 202, "a large body"),
        ("PUT", &closing, "", b"", 201, "no body"),
        ("HEAD", &blob, "", b"", 200, "a length without a body"),
        ("GET", &blob, "", b"", 200, "a large answer"),
        ("GET", &blob, "Range: bytes=5-6\r\n", b"", 206, "a part"),
        ("GET", &missing, "", b"", 404, "a refusal"),
        ("HEAD", &missing, "", b"", 404, "a refusal without a body"),
        ("PUT", "/v2/a/manifests/v1", &foreign, manifest, 400, "a refusal after the body"),
        ("PATCH", location, "", &content, 404, "a refusal before the body"),
        ("PUT", "/v2/a/manifests/v1", &typed, manifest, 201, "a push"),
        ("DELETE", "/v2/a/manifests/v1", "", b"", 202, "a delete"),
        ("DELETE", "/v2/a/manifests/v1", "", b"", 404, "another"),
        ("GET", "/v2/", "", b"", 200, "the end"),
    ] {
        let reply = ask(method, path, headers, body);
        assert_eq!(reply.status, status, "{why}: {}", reply.text());
        if method == "GET" && path == blob {
            let want = if status == 206 { &content[5..=6] } else { &content };
            assert!(reply.body == want, "{why}");
        }
    }
}

#[test]
fn pipelining() {
    let registry = Registry::start(&[]);
    let content = noise(2, 300_000);
    let blob = format!("/v2/a/blobs/{}", registry.push_blob("a", &content));
    let manifest = bare_manifest(&registry, "a");
    let typed = format!("Content-Type: {OCI_MANIFEST}\r\n");
    let tag = "/v2/a/manifests/v1";

    let requests = [
        ("HEAD", blob.as_str(), request("HEAD", &blob, "", b"")),
        ("GET", &blob, request("GET", &blob, "", b"")),
        ("GET", tag, request("GET", tag, "", b"")),
        ("PUT", tag, request("PUT", tag, &typed, manifest.as_bytes())),
        ("GET", tag, request("GET", tag, "", b"")),
        ("GET", "/nothing", request("GET", "/nothing", "", b"")),
        ("DELETE", tag, request("DELETE", tag, "", b"")),
        ("HEAD", tag, request("HEAD", tag, "", b"")),
        ("GET", "/v2/", request("GET", "/v2/", "", b"")),
    ];
    let mut connection = Connection::open(&registry);
    connection.write(requests.iter().flat_map(|(_, _, bytes)| bytes.clone()).collect::<Vec<u8>>());
    let replies: Vec<Reply> =
        requests.iter().map(|(method, ..)| connection.reply(method)).collect();
    let statuses: Vec<u16> = replies.iter().map(|reply| reply.status).collect();
    assert_eq!(statuses, [200, 200, 404, 201, 200, 404, 202, 404, 200]);
    assert!(replies[1].body == content);
    assert_eq!(replies[4].text(), manifest);
}

#[test]
fn http_1_0() {
    let registry = Registry::start(&[]);
    let content = noise(3, 200_000);
    let digest = registry.push_blob("a", &content);
    // Neither Host nor Connection: the client knows nothing of either.
    let mut pull = registry.connect();
    write!(pull, "GET /v2/a/blobs/{digest} HTTP/1.0\r\n\r\n").expect("the server reads");
    let mut bytes = Vec::new();
    pull.read_to_end(&mut bytes).expect("an answer and the end");
    assert!(bytes.starts_with(b"HTTP/1.0 200 OK\r\n"));
    let reply = Reply::parse(&bytes).expect("an answer");
    assert!(reply.body == content);
    headers(&reply, &[("transfer-encoding", None)], "1.0 has no chunks");

    let other = noise(4, 1000);
    let digest = sha256(&other);
    let mut push = Connection::open(&registry);
    push.write(format!(
        "POST /v2/a/blobs/uploads/?digest={digest} HTTP/1.0\r\nContent-Length: 1000\r\n\r\n"
    ));
    push.write(&other);
    assert_eq!(push.reply("POST").status, 201);
    let pulled = registry.get(&format!("/v2/a/blobs/{digest}"));
    assert!(pulled.body == other);
}

#[test]
fn expect_continue() {
    let registry = Registry::start(&[]);
    let content = noise(5, 100_000);
    let digest = sha256(&content);
    let location = registry.start_upload("a");
    let expecting = |method: &str, path: &str, length: usize| {
        format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
        )
    };

    let mut connection = Connection::open(&registry);
    for (method, path, body, status) in [
        ("PATCH", location.clone(), &content[..60_000], 202),
        ("PUT", format!("{location}?digest={digest}"), &content[60_000..], 201),
    ] {
        connection.write(expecting(method, &path, body.len()));
        assert_eq!(connection.head(), "HTTP/1.1 100 Continue\r\n\r\n");
        connection.write(body);
        assert_eq!(connection.reply(method).status, status, "{method}");
    }
    let pulled = registry.get(&format!("/v2/a/blobs/{digest}"));
    assert!(pulled.body == content);
}

/// RFC 9110, 10.1.1: what the head alone decides is answered at once, and no
/// body is asked for.
#[test]
fn expect_refused() {
    let registry = Registry::start(&[]);
    let location = registry.start_upload("a");
    let gone = registry.start_upload("a");
    assert_eq!(registry.delete(&gone).status, 204);
    for (method, path, length, status, code, why) in [
        ("PATCH", gone.clone(), 10 << 20, 404, "BLOB_UPLOAD_UNKNOWN", "no such upload"),
        (
            "PUT",
            format!("{location}?digest=md5:00"),
            10 << 20,
            400,
            "DIGEST_INVALID",
            "no such algorithm",
        ),
        (
            "PUT",
            "/v2/a/manifests/v1".to_owned(),
            (4 << 20) + 1,
            413,
            "SIZE_INVALID",
            "over the limit",
        ),
        ("PUT", "/v2/A/manifests/v1".to_owned(), 1000, 400, "NAME_INVALID", "a bad name"),
        (
            "PUT",
            "/v2/a/tags/list".to_owned(),
            1000,
            405,
            "UNSUPPORTED",
            "a method that nothing here takes",
        ),
    ] {
        let mut connection = Connection::open(&registry);
        connection.write(format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
        ));
        let reply = connection.reply(method);
        refused(&reply, status, code, why);
    }
}

/// A client in the middle of sending gets to read why it is refused.
#[test]
fn refused_while_sending() {
    let registry = Registry::start(&[]);
    let location = registry.start_upload("a");
    let digest = absent();
    let body = noise(6, 8 << 20);
    let range = format!("5-{}", body.len() + 4);
    for (method, path, headers, status, code, why) in [
        (
            "PATCH",
            "/v2/a/blobs/uploads/00000000-0000-0000-0000-000000000000".to_owned(),
            &[][..],
            404,
            "BLOB_UPLOAD_UNKNOWN",
            "no such upload",
        ),
        (
            "PATCH",
            location,
            &[("Content-Range", range.as_str())],
            416,
            "BLOB_UPLOAD_INVALID",
            "out of order",
        ),
        (
            "POST",
            format!("/v2/A/blobs/uploads/?digest={digest}"),
            &[],
            400,
            "NAME_INVALID",
            "a bad name",
        ),
        (
            "POST",
            "/v2/a/blobs/uploads/?digest=md5:00".to_owned(),
            &[],
            400,
            "DIGEST_INVALID",
            "no such algorithm",
        ),
        (
            "POST",
            "/v2/a/blobs/uploads/?digest=%ff".to_owned(),
            &[],
            400,
            "UNSUPPORTED",
            "a query that is not UTF-8",
        ),
        (
            "PUT",
            format!("/v2/a/blobs/{digest}"),
            &[],
            405,
            "UNSUPPORTED",
            "a method that a blob does not take",
        ),
        ("PUT", "/v2/a/manifests/v1".to_owned(), &[], 413, "SIZE_INVALID", "over the limit"),
        ("POST", "/v2/nothing".to_owned(), &[], 404, "UNSUPPORTED", "no such route"),
    ] {
        refused(&registry.send(method, &path, headers, &body), status, code, why);
    }
}

/// Browsers and proxies write the slashes of a name as `%2F`, and add one at the end.
#[test]
fn spellings() {
    let registry = Registry::start(&[]);
    let digest = registry.push_blob("team/app", b"bytes");
    let manifest = bare_manifest(&registry, "team/app");
    let typed = [("Content-Type", OCI_MANIFEST)];
    for name in ["team%2Fapp", "team%2fapp"] {
        let path = format!("/v2/{name}/manifests/v1");
        let put = registry.send("PUT", &path, &typed, manifest.as_bytes());
        assert_eq!(put.status, 201, "{}", put.text());
    }
    for rest in
        ["tags/list", "manifests/v1", &format!("blobs/{digest}"), &format!("referrers/{digest}")]
    {
        let want = registry.get(&format!("/v2/team/app/{rest}"));
        assert_eq!(want.status, 200, "{rest}");
        for path in [
            format!("/v2/team%2Fapp/{rest}"),
            format!("/v2/team/app/{rest}/"),
            format!("/v2/team%2Fapp/{rest}/"),
        ] {
            let reply = registry.get(&path);
            assert_eq!((reply.status, &reply.body), (200, &want.body), "{path}");
        }
    }
    for path in ["/v2/_catalog/", "/healthz/", "/readyz/"] {
        assert_eq!(registry.get(path).status, 200, "{path}");
    }
}

/// RFC 9112, 3.2: a request of HTTP/1.1 has one `Host`.
#[test]
fn hosts() {
    let registry = Registry::start(&[]);
    for (head, status, why) in [
        ("HTTP/1.1\r\nHost: localhost", 200, "one"),
        ("HTTP/1.1\r\nX: y", 400, "none"),
        ("HTTP/1.1\r\nHost: localhost\r\nHost: localhost", 400, "two"),
        ("HTTP/1.0\r\nX: y", 200, "none, by HTTP/1.0"),
        ("HTTP/1.0\r\nHost: localhost\r\nHost: other", 400, "two, by HTTP/1.0"),
    ] {
        let mut connection = Connection::open(&registry);
        connection.write(format!("GET /v2/ {head}\r\n\r\n"));
        let reply = connection.reply("GET");
        assert_eq!(reply.status, status, "{why}: {}", reply.text());
    }
}

#[test]
fn not_http() {
    let registry = Registry::start(&[]);
    for (bytes, why) in [
        (
            &b"GET /v2/a/manifests/\xff HTTP/1.1\r\nHost: localhost\r\n\r\n"[..],
            "raw bytes that are not UTF-8",
        ),
        (b"GET /v2/a/manifests/\0 HTTP/1.1\r\nHost: localhost\r\n\r\n", "a raw NUL"),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", "a TLS hello"),
        (
            b"PUT /v2/a/manifests/v1 HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n",
            "two lengths",
        ),
        (b"PUT /v2/a/manifests/v1 HTTP/1.1\r\nContent-Length: -1\r\n\r\n", "a negative length"),
    ] {
        let mut connection = Connection::open(&registry);
        connection.write(bytes);
        let head = connection.head();
        assert!(head.starts_with("HTTP/1.1 400 "), "{why}: {head}");
        assert!(connection.closes(), "{why}");
    }
    assert_eq!(registry.get("/v2/").status, 200, "it lives");
}
