//! Clients that break off, stall, flood or send nonsense. None of them may
//! leave anything visible, take memory, or be in another's way.

use std::io::Write;
use std::net::Shutdown;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use registry::oci::{Algorithm, Digest};

use crate::common::{OCI_MANIFEST, Registry, SOON, eventually, noise};
use crate::probe::{Wire, assert_sound, files, memory};

/// Bytes of one request head that the server takes.
const HEAD_MAX: usize = 64 << 10;
/// KiB by which the server may seem to grow through what it should not keep:
/// the allocator's slack, not a leak's.
const SLACK: u64 = 8 << 10;

/// A timeout that a test waits out, and what comes on time at the latest.
const TIMEOUT: Duration = Duration::from_secs(1);
const LATEST: Duration = Duration::from_secs(5);

fn blob_path(repository: &str, digest: &Digest) -> String {
    format!("/v2/{repository}/blobs/{digest}")
}

/// The connection is cut in the middle of the body. Nothing is visible; where
/// the upload has an address, it goes on from the last byte that arrived.
#[test]
fn truncated_uploads() {
    const SENT: usize = 300_000;
    let content = noise(1, 1_000_000);
    let digest = Algorithm::Sha256.digest(&content);
    let length = format!("Content-Length: {}", content.len());
    let chunked = "Transfer-Encoding: chunked".to_owned();
    let chunk = format!("{:x}\r\n", content.len());
    let whole = format!("/v2/a/blobs/uploads/?digest={digest}");
    let registry = Registry::start(&[]);
    let uploads = registry.store().join("repositories/a/_uploads");
    for (what, method, headers, before) in [
        ("PATCH with a length", "PATCH", &length, ""),
        ("PATCH in a chunk", "PATCH", &chunked, chunk.as_str()),
        ("PUT with a length", "PUT", &length, ""),
        ("PUT in a chunk", "PUT", &chunked, &chunk),
        ("POST with a length", "POST", &length, ""),
        ("POST in a chunk", "POST", &chunked, &chunk),
    ] {
        let location = (method != "POST").then(|| registry.start_upload("a"));
        let path = match &location {
            Some(location) if method == "PUT" => format!("{location}?digest={digest}"),
            Some(location) => location.clone(),
            None => whole.clone(),
        };
        let mut wire = Wire::new(&registry);
        wire.head(method, &path, headers);
        wire.send(before).expect("the registry reads");
        wire.send(&content[..SENT]).expect("the registry reads");
        drop(wire);
        let reply = registry.get(&blob_path("a", &digest));
        assert_eq!(reply.status, 404, "{what}");
        let Some(location) = location else {
            eventually("an upload that nobody can go on with is gone", || {
                files(&uploads).is_empty()
            });
            continue;
        };
        eventually("what was sent has arrived", || {
            let reply = registry.get(&location);
            reply.status == 204 && reply.header("range") == Some(&format!("0-{}", SENT - 1))
        });
        // The status does not wait for the broken request's end; this does.
        let mut status = 409;
        eventually("the upload is free again", || {
            let path = format!("{location}?digest={digest}");
            status = registry.send("PUT", &path, &[], &content[SENT..]).status;
            status != 409
        });
        assert_eq!(status, 201, "{what}");
        let reply = registry.get(&blob_path("a", &digest));
        assert!(reply.status == 200 && reply.body == content, "{what}");
        assert_eq!(registry.delete(&blob_path("a", &digest)).status, 202);
    }
    assert_eq!(registry.get("/v2/a/tags/list").json()["tags"], serde_json::json!([]));
    assert_sound(&registry);
}

/// Closed by `--header-timeout`, however slowly something comes.
#[test]
fn slow_heads() {
    let registry = Registry::start(&["--header-timeout", "1s"]);
    let head = "GET /v2/ HTTP/1.1\r\nHost: localhost\r\nX-Slow: ";
    for (what, first, drip) in [
        ("nothing comes", "", ""),
        ("half a head comes", head, ""),
        ("a head comes byte by byte", head, "x"),
        ("no second request comes", "GET /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n", ""),
    ] {
        let mut wire = Wire::new(&registry);
        let start = Instant::now();
        wire.send(first).expect("the registry reads");
        if first.ends_with("\r\n\r\n") {
            assert_eq!(wire.reply().expect("an answer").status, 200);
        }
        // An error: closed.
        while !drip.is_empty() && wire.send(drip).is_ok() {
            assert!(start.elapsed() < LATEST, "{what}");
            thread::sleep(Duration::from_millis(50));
        }
        wire.rest();
        let took = start.elapsed();
        assert!(took >= TIMEOUT && took < LATEST, "{what}: {took:?}");
    }
    assert_sound(&registry);
}

/// A body that stops coming is cut off by `--idle-timeout`, one that comes
/// slowly is not, however long it takes.
#[test]
fn slow_bodies() {
    const PIECE: usize = 3;
    const PIECES: usize = 60;
    let registry = Registry::start(&["--idle-timeout", "1s"]);
    let manifest = "/v2/a/manifests/v1".to_owned();
    let upload = registry.start_upload("a");
    let digest = Algorithm::Sha256.digest(b"never sent whole");
    let whole = format!("/v2/b/blobs/uploads/?digest={digest}");
    for (what, method, path) in [
        ("an upload", "PATCH", &upload),
        ("a manifest", "PUT", &manifest),
        ("a whole blob", "POST", &whole),
    ] {
        let mut wire = Wire::new(&registry);
        wire.head(method, path, "Content-Length: 1000");
        wire.send([b'x'; 10]).expect("the registry reads");
        let start = Instant::now();
        wire.rest();
        let took = start.elapsed();
        // Counted from the last byte, by a clock of whole milliseconds.
        let least = TIMEOUT - Duration::from_millis(100);
        assert!(took >= least && took < LATEST, "{what}: {took:?}");
    }
    eventually("what came stays", || registry.get(&upload).header("range") == Some("0-9"));

    let nameless = registry.store().join("repositories/b/_uploads");
    eventually("an upload that nobody can go on with is gone", || files(&nameless).is_empty());

    let content = noise(1, PIECE * PIECES);
    let digest = Algorithm::Sha256.digest(&content);
    let mut wire = Wire::new(&registry);
    let path = format!("/v2/a/blobs/uploads/?digest={digest}");
    wire.head("POST", &path, &format!("Content-Length: {}", content.len()));
    let start = Instant::now();
    for piece in content.chunks(PIECE) {
        wire.send(piece).expect("the registry reads");
        thread::sleep(Duration::from_millis(50));
    }
    assert!(start.elapsed() > 2 * TIMEOUT, "slow enough to tell");
    assert_eq!(wire.reply().expect("an answer").status, 201);
    assert_eq!(registry.get(&blob_path("a", &digest)).body, content);
    assert_sound(&registry);
}

/// A client that does not read its answer is dropped, and what it did not get
/// is not logged as sent.
#[test]
fn answers_that_nobody_reads() {
    const SIZE: usize = 64 << 20;
    let registry = Registry::start(&["--idle-timeout", "1s"]);
    let digest = registry.push_blob("a", &noise(1, SIZE));
    let path = blob_path("a", &digest);
    let mut wire = Wire::new(&registry);
    wire.head("GET", &path, "User-Agent: stalled");
    let mut line = String::new();
    eventually("the client is dropped", || {
        let log = registry.log();
        let found = log.lines().find(|line| line.contains("stalled"));
        line = found.unwrap_or_default().to_owned();
        !line.is_empty()
    });
    assert!(!line.contains(&format!("bytes={SIZE}")), "{line}");
    assert!(wire.rest().len() < SIZE);
    // One that reads slowly gets everything.
    wire = Wire::new(&registry);
    wire.head("GET", &path, "");
    thread::sleep(TIMEOUT / 2);
    let reply = wire.reply().expect("an answer");
    assert_eq!(Algorithm::Sha256.digest(&reply.body), digest);
    assert_sound(&registry);
}

/// Idle connections cost little and keep nobody waiting.
#[test]
fn idle_connections() {
    const IDLE: usize = 2000;
    /// KiB for one, its buffers in the server included.
    const EACH: u64 = 16;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    assert!(hard > 2 * IDLE as u64, "allow more open files: ulimit -Hn");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("up to the hard limit");
    let registry = Registry::start(&[]);
    let content = noise(1, 2 << 20);
    let digest = registry.push_blob("a", &content);
    let image = registry.push_image("a", "v1", "idle");
    let pull = || {
        let reply = registry.get("/v2/a/manifests/v1");
        assert_eq!(Algorithm::Sha256.digest(&reply.body), image);
        let reply = registry.get(&blob_path("a", &digest));
        assert!(reply.status == 200 && reply.body == content);
    };
    pull();
    let before = memory(&registry, "VmRSS");
    let mut idle: Vec<Wire> = Vec::with_capacity(IDLE);
    thread::scope(|scope| {
        let pulls = [(); 2].map(|()| scope.spawn(|| (0..50).for_each(|_| pull())));
        for i in 0..IDLE {
            let mut wire = Wire::new(&registry);
            // Half of them have been of use before.
            if i % 2 == 0 {
                assert_eq!(wire.get("/v2/").status, 200);
            }
            idle.push(wire);
        }
        for pull in pulls {
            pull.join().expect("pulls go on");
        }
    });
    pull();
    let grown = memory(&registry, "VmRSS").saturating_sub(before);
    assert!(grown < IDLE as u64 * EACH + 2 * SLACK, "grown by {grown} KiB");
    for wire in idle.iter_mut().step_by(100) {
        assert_eq!(wire.get("/v2/").status, 200, "still of use");
    }
    assert_sound(&registry);
}

/// Past `--max-connections`, clients wait and are then served.
#[test]
fn connection_limit() {
    let both = ["--max-connections", "2", "--max-connections-per-address", "3"];
    let registry = Registry::start(&both);
    let mut first = Wire::new(&registry);
    let mut second = Wire::new(&registry);
    for wire in [&mut first, &mut second] {
        assert_eq!(wire.get("/v2/").status, 200);
    }
    let mut third = Wire::new(&registry);
    third.head("GET", "/healthz", "");
    assert!(third.is_silent(Duration::from_millis(300)));
    assert_eq!(second.get("/v2/").status, 200, "those within the limit go on");
    drop(first);
    assert_eq!(third.reply().expect("an answer").text(), "ok\n");
    drop(second);
    assert_sound(&registry);
}

/// A registry with a certificate of its own, and more arguments.
fn start_tls(more: &[&str]) -> Registry {
    // Read at the start only.
    let temp = tempfile::tempdir().expect("a temporary folder");
    let made = rcgen::generate_simple_self_signed(["localhost".into()]).expect("a certificate");
    let (cert, key) = (temp.path().join("cert.pem"), temp.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).expect("a file");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("a file");
    let [cert, key] = [&cert, &key].map(|path| path.to_str().expect("UTF-8"));
    Registry::start(&[&["--tls-cert", cert, "--tls-key", key], more].concat())
}

/// A TLS handshake that does not come, breaks off, or is none.
#[test]
fn handshakes() {
    let registry = start_tls(&["--header-timeout", "1s"]);
    for (what, bytes, waits) in [
        ("nothing", &b""[..], true),
        ("the start of a record", b"\x16\x03\x01\x02\x00\x01", true),
        ("plain HTTP", b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n", false),
        ("noise", &noise(1, 4096), false),
    ] {
        let mut wire = Wire::new(&registry);
        let start = Instant::now();
        wire.send(bytes).expect("the registry reads");
        wire.rest();
        let took = start.elapsed();
        assert!(took < LATEST && (took >= TIMEOUT) == waits, "{what}: {took:?}");
    }
    let log = registry.log();
    assert!(!log.contains("panicked"), "{log}");
    let mut wire = Wire::new(&registry);
    assert!(wire.is_silent(Duration::from_millis(50)), "it still accepts");
}

/// Nothing was asked on a connection without a handshake, so that a stop need
/// not wait for `--header-timeout`.
#[test]
fn handshakes_do_not_delay_the_stop() {
    for (what, bytes) in
        [("nothing", &b""[..]), ("the start of a record", b"\x16\x03\x01\x02\x00\x01")]
    {
        let mut registry = start_tls(&[]);
        let mut silent = Wire::new(&registry);
        silent.send(bytes).expect("the registry reads");
        // Connections are taken in order: after this one, the first was too.
        let mut next = Wire::new(&registry);
        next.send("no TLS\r\n\r\n").expect("the registry reads");
        next.rest();
        let start = Instant::now();
        let status = registry.stop();
        let took = start.elapsed();
        assert_eq!(status.code(), Some(0), "{what}: {}", registry.log());
        assert!(took < Duration::from_secs(3), "{what}: {took:?}");
        silent.rest();
    }
}

/// Many more uploads than files may be open: those begun first are forgotten
/// in memory, not lost.
#[test]
fn more_uploads_than_files() {
    const UPLOADS: usize = 3000;
    let temp = tempfile::tempdir().expect("a temporary folder");
    let serve = Registry::command(temp.path(), &[]);
    let mut command = Command::new("prlimit");
    command.arg("--nofile=1024:1024").arg(serve.get_program());
    command.args(serve.get_args());
    let registry = Registry::spawn(temp.path(), command);
    let mut wire = Wire::new(&registry);
    let mut ask = |method: &str, path: &str, body: &[u8]| {
        let length = body.len();
        // In one piece: a small second one may wait for an acknowledgement.
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n"
        );
        wire.send([head.as_bytes(), body].concat()).expect("the registry reads");
        let reply = wire.reply().expect("an answer");
        assert_eq!(reply.status, 202, "{method} {path}: {}", reply.text());
        reply.header("location").expect("a location").to_owned()
    };
    let digest = registry.push_blob("a", b"pushed before");
    let locations: Vec<String> = (0..UPLOADS)
        .map(|i| {
            let location = ask("POST", "/v2/a/blobs/uploads/", b"");
            // All of one length, so that none is worth more than another.
            ask("PATCH", &location, format!("{i:04}, ").as_bytes())
        })
        .collect();
    assert_eq!(registry.get(&blob_path("a", &digest)).text(), "pushed before");
    registry.push_image("a", "v1", "pushed after");
    for i in [0, 1, UPLOADS / 2, UPLOADS - 1] {
        ask("PATCH", &locations[i], b"continued, ");
        let content = format!("{i:04}, continued, ended");
        let digest = Algorithm::Sha256.digest(content.as_bytes());
        let path = format!("{}?digest={digest}", locations[i]);
        let reply = registry.send("PUT", &path, &[], b"ended");
        assert_eq!(reply.status, 201, "{i}: {}", reply.text());
        assert_eq!(registry.get(&blob_path("a", &digest)).text(), content);
    }
    assert_sound(&registry);
}

/// Heads that are too large are refused while they come, not kept.
#[test]
fn huge_heads() {
    let registry = Registry::start(&[]);
    let padded = |start: &str| {
        let mut head = start.as_bytes().to_vec();
        // Not a byte more: a close with bytes unread would drop the answer.
        head.resize(HEAD_MAX, b'x');
        head
    };
    let lines = "X: y\r\n".repeat(200);
    for (what, head, statuses) in [
        ("a long header", padded("GET /v2/ HTTP/1.1\r\nHost: localhost\r\nX: "), &[431][..]),
        // The limit is the head's, so hyper cannot always tell which part it was.
        ("a long path", padded("GET /v2/"), &[414, 431]),
        ("a long method", padded("X"), &[400, 431]),
        (
            "many headers",
            format!("GET /v2/ HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n").into_bytes(),
            &[431],
        ),
    ] {
        let mut wire = Wire::new(&registry);
        wire.send(&head).expect("the registry reads");
        let status = wire.reply().unwrap_or_else(|e| panic!("{what}: {e}")).status;
        assert!(statuses.contains(&status), "{what}: {status}");
        assert_eq!(wire.rest(), b"", "{what}: closed");
    }

    let flood = vec![b'x'; 4 << 20];
    let send = || {
        let mut wire = Wire::new(&registry);
        wire.send("GET /v2/ HTTP/1.1\r\nX: ").expect("a short head");
        // Cut short by the close.
        drop(wire.send(&flood));
        wire.rest();
    };
    (0..10).for_each(|_| send());
    let before = memory(&registry, "VmRSS");
    (0..40).for_each(|_| send());
    let after = memory(&registry, "VmRSS");
    assert!(after < before + SLACK, "{before} KiB became {after} KiB");
    assert_sound(&registry);
}

/// Bytes that are no request, or none that one may act on: refused or cut off.
#[test]
fn garbage() {
    let registry = Registry::start(&[]);
    let noise = noise(7, 1000);
    let upload = registry.start_upload("a");
    let patch = |headers: &str, body: &str| {
        format!("PATCH {upload} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n\r\n{body}")
            .into_bytes()
    };
    for (what, bytes, statuses) in [
        ("noise", noise, &[400][..]),
        ("NULs", vec![0; 100], &[400]),
        ("no path", b"GET\r\n\r\n".to_vec(), &[400]),
        ("a NUL in the path", b"GET /v2/\0 HTTP/1.1\r\n\r\n".to_vec(), &[400]),
        ("a blank in the path", b"GET /v2/ a HTTP/1.1\r\n\r\n".to_vec(), &[400]),
        ("a path without a slash", b"GET v2/.. HTTP/1.1\r\n\r\n".to_vec(), &[400, 404]),
        ("no such version", b"GET /v2/ HTTP/7.7\r\n\r\n".to_vec(), &[400]),
        ("HTTP/2 with no TLS", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), &[400]),
        ("a TLS hello", b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00".to_vec(), &[400]),
        ("a header without a colon", b"GET /v2/ HTTP/1.1\r\nHost\r\n\r\n".to_vec(), &[400]),
        ("an escape in a header", b"GET /v2/ HTTP/1.1\r\nX: \x1b[2J\r\n\r\n".to_vec(), &[400]),
        ("a negative length", patch("Content-Length: -1", ""), &[400]),
        ("two lengths", patch("Content-Length: 1\r\nContent-Length: 2", "xx"), &[400]),
        ("a length past 64 bits", patch("Content-Length: 99999999999999999999", "x"), &[400]),
        ("a chunk that is none", patch("Transfer-Encoding: chunked", "zz\r\n"), &[400]),
        (
            "a chunk past 64 bits",
            patch("Transfer-Encoding: chunked", "fffffffffffffffff\r\n"),
            &[400],
        ),
        ("another coding", patch("Transfer-Encoding: gzip", "x"), &[400]),
    ] {
        let mut wire = Wire::new(&registry);
        wire.send(&bytes).expect("the registry reads");
        wire.half_close();
        let reply = wire.rest();
        // Some are cut off without a word.
        if !reply.is_empty() {
            let status = String::from_utf8_lossy(&reply)[9..12].parse().expect("a status");
            assert!(statuses.contains(&status), "{what}: {status}");
        }
        assert_sound(&registry);
    }
    let reply = registry.get(&upload);
    assert_eq!((reply.status, reply.header("range")), (204, Some("0-0")), "nothing was taken");
}

/// A client that has sent everything may say so, and is answered.
#[test]
fn half_closed() {
    let registry = Registry::start(&[]);
    let content = noise(1, 200_000);
    let digest = Algorithm::Sha256.digest(&content);
    let mut wire = Wire::new(&registry);
    let path = format!("/v2/a/blobs/uploads/?digest={digest}");
    wire.head("POST", &path, &format!("Content-Length: {}", content.len()));
    wire.send(&content).expect("the registry reads");
    wire.half_close();
    assert_eq!(wire.reply().expect("an answer").status, 201);
    assert_eq!(wire.rest(), b"");

    wire = Wire::new(&registry);
    wire.head("GET", &blob_path("a", &digest), "");
    wire.half_close();
    assert!(wire.reply().expect("an answer").body == content);
    assert_eq!(wire.rest(), b"");

    // Nothing at all, and gone in the middle of an answer.
    wire = Wire::new(&registry);
    wire.half_close();
    assert_eq!(wire.rest(), b"");
    wire = Wire::new(&registry);
    wire.head("GET", &blob_path("a", &digest), "");
    wire.stream().shutdown(Shutdown::Both).expect("an open connection");
    assert_sound(&registry);
}

/// Requests that are well-formed and mean harm.
#[test]
fn hostile_requests() {
    let registry = Registry::start(&[]);
    registry.push_image("a", "v1", "hostile");
    let long = |n: usize| "x".repeat(n);
    let max = u64::MAX;
    let zeros = "0".repeat(1000);
    let many = "1".repeat(1000);
    let mut cases = Vec::new();
    for list in ["/v2/_catalog", "/v2/a/tags/list"] {
        for (query, status) in [
            ("n=0".to_owned(), 200),
            ("n=9223372036854775807".into(), 200),
            (format!("n={max}"), 200),
            (format!("n={many}"), 200),
            (format!("n={zeros}1"), 200),
            ("n=-1".into(), 400),
            ("n=".into(), 400),
            ("n=1e9".into(), 400),
            ("n=%00".into(), 400),
            ("n=%ff".into(), 400),
            ("last=%00".into(), 200),
            ("last=%2e%2e%2f".into(), 200),
            (format!("last={}", long(10_000)), 200),
        ] {
            cases.push((format!("{list}?{query}"), status));
        }
    }
    let sha256 = "0".repeat(64);
    for (path, status) in [
        ("/v2/%2e%2e/manifests/v1".to_owned(), 400),
        ("/v2/../manifests/v1".into(), 400),
        ("/v2/a/%2e%2e/b/manifests/v1".into(), 400),
        ("/v2/a%2f..%2fb/manifests/v1".into(), 400),
        ("/v2/a%00/manifests/v1".into(), 400),
        ("/v2/a/manifests/%00".into(), 400),
        ("/v2/a/manifests/%2e%2e".into(), 400),
        ("/v2/a/manifests/..%2f..%2fv1".into(), 400),
        ("/v2/a/manifests/sha256:%2e%2e".into(), 400),
        ("/v2/_layers/manifests/v1".into(), 400),
        (format!("/v2/{}/manifests/v1", long(256)), 400),
        (format!("/v2/{}/manifests/v1", long(60_000)), 400),
        (format!("/v2/{}manifests/v1", "x/".repeat(20_000)), 400),
        (format!("/v2/a/manifests/{}", long(129)), 400),
        (format!("/v2/a/manifests/{}", long(60_000)), 400),
        (format!("/v2/a/manifests/{}", long(128)), 404),
        (format!("/v2/a/blobs/sha256:{sha256}"), 404),
        (format!("/v2/a/blobs/sha256:{sha256}0"), 400),
        (format!("/v2/a/blobs/sha256:{}", long(60_000)), 400),
        (format!("/v2/a/blobs/{}:{sha256}", long(1000)), 400),
        ("/v2/a/blobs/sha256:%2e%2e%2f".into(), 400),
        (format!("/v2/a/blobs/uploads/{}", long(1000)), 404),
        ("/v2/a/blobs/uploads/%2e%2e".into(), 404),
        ("/v2/a/referrers/sha256:..".into(), 400),
        (format!("/v2/a/referrers/sha256:{sha256}?artifactType={}", long(1000)), 200),
        ("/../../../../etc/passwd".into(), 404),
        ("/%2e%2e/%2e%2e/etc/passwd".into(), 404),
        ("/v2/%".into(), 404),
        ("/nothing".into(), 404),
    ] {
        cases.push((path, status));
    }
    let mut wire = Wire::new(&registry);
    let mut round = || {
        for (path, status) in &cases {
            let reply = wire.get(path);
            let shown = path.get(..200).unwrap_or(path);
            assert_eq!(reply.status, *status, "{shown}: {}", reply.text());
            if reply.status >= 400 {
                reply.code();
                assert!(reply.body.len() < 2000, "{shown}: an echo");
            }
        }
    };
    (0..5).for_each(|_| round());
    let before = memory(&registry, "VmRSS");
    (0..20).for_each(|_| round());
    let after = memory(&registry, "VmRSS");
    assert!(after < before + SLACK, "{before} KiB became {after} KiB");

    // A body of any length costs what it may be, not what it says.
    let mut large = Wire::new(&registry);
    let header = format!("Content-Type: {OCI_MANIFEST}\r\nContent-Length: {}", 1u64 << 60);
    large.head("PUT", "/v2/a/manifests/v2", &header);
    large.stream().set_write_timeout(Some(SOON)).expect("a timeout");
    drop(large.stream().write_all(&vec![b' '; 1 << 20]));
    large.half_close();
    let reply = large.rest();
    assert!(reply.is_empty() || reply.starts_with(b"HTTP/1.1 413 "), "{reply:?}");
    let after = memory(&registry, "VmRSS");
    assert!(after < before + SLACK, "{before} KiB became {after} KiB");
    assert_sound(&registry);
}
