//! Pushing blobs, in every form the specification has.

use registry::oci::{Algorithm, Digest};

use crate::common::{Registry, Reply, eventually, noise};
use crate::support::{Connection, absent, closing, files, headers, refused, sha256};

const CHUNKED: (&str, &str) = ("Transfer-Encoding", "chunked");

/// Nothing of an upload is left in the store.
#[track_caller]
fn no_upload_left(registry: &Registry, repository: &str, why: &str) {
    let folder = format!("repositories/{repository}/_uploads");
    assert_eq!(files(&registry.store().join(folder)), [], "{why}");
    assert_eq!(files(&registry.store().join("_tmp")), [], "{why}");
}

/// Starts an upload; `parameters` go behind `?`.
fn start(registry: &Registry, parameters: &str) -> String {
    let reply = registry.send("POST", &format!("/v2/a/blobs/uploads/?{parameters}"), &[], b"");
    assert_eq!(reply.status, 202, "{}", reply.text());
    reply.header("location").expect("a location").to_owned()
}

fn patch(registry: &Registry, location: &str, headers: &[(&str, &str)], body: &[u8]) -> String {
    let reply = registry.send("PATCH", location, headers, body);
    assert_eq!(reply.status, 202, "{}", reply.text());
    reply.header("location").expect("a location").to_owned()
}

fn put(registry: &Registry, location: &str, digest: &Digest, body: &[u8]) -> Reply {
    registry.send("PUT", &closing(location, digest), &[], body)
}

/// Sends all but the last of three chunks, each with its range; gives where
/// to go on, and the last one's range and bytes.
fn two_chunks<'a>(
    registry: &Registry,
    mut location: String,
    content: &'a [u8],
    form: fn(usize, usize) -> String,
) -> (String, String, &'a [u8]) {
    let (mut offset, mut rest) = (0, content);
    for _ in 0..2 {
        let (chunk, behind) = rest.split_at(content.len() / 3);
        if !chunk.is_empty() {
            let range = form(offset, offset + chunk.len() - 1);
            location = patch(registry, &location, &[("Content-Range", &range)], chunk);
        }
        (offset, rest) = (offset + chunk.len(), behind);
    }
    (location, form(offset, content.len().saturating_sub(1)), rest)
}

/// A way to push a blob: gets the address of an upload.
type Way = fn(&Registry, String, &[u8], &Digest) -> Reply;

const WAYS: [(&str, Way); 8] = [
    ("all in the PUT", |registry, location, content, digest| {
        put(registry, &location, digest, content)
    }),
    ("all in the PUT, of unknown length", |registry, location, content, digest| {
        registry.send("PUT", &closing(&location, digest), &[CHUNKED], content)
    }),
    ("streamed, of unknown length, as Docker does", |registry, location, content, digest| {
        let location = patch(registry, &location, &[CHUNKED], content);
        put(registry, &location, digest, b"")
    }),
    ("streamed", |registry, location, content, digest| {
        let location = patch(registry, &location, &[], content);
        put(registry, &location, digest, b"")
    }),
    ("streamed in two, the end in the PUT", |registry, location, content, digest| {
        let (first, rest) = content.split_at(content.len() / 2);
        let location = patch(registry, &location, &[], first);
        put(registry, &location, digest, rest)
    }),
    ("chunks", |registry, location, content, digest| {
        let form = |first, last| format!("{first}-{last}");
        let (mut location, range, last) = two_chunks(registry, location, content, form);
        if !last.is_empty() {
            location = patch(registry, &location, &[("Content-Range", &range)], last);
        }
        put(registry, &location, digest, b"")
    }),
    ("chunks, the last in the PUT", |registry, location, content, digest| {
        let form = |first, last| format!("{first}-{last}");
        let (location, range, last) = two_chunks(registry, location, content, form);
        let ranged = [("Content-Range", range.as_str())];
        let headers = if last.is_empty() { &[] } else { &ranged[..] };
        registry.send("PUT", &closing(&location, digest), headers, last)
    }),
    ("chunks, with ranges as HTTP writes them", |registry, location, content, digest| {
        let form = |first, last| format!("bytes {first}-{last}/*");
        let (location, range, last) = two_chunks(registry, location, content, form);
        let ranged = [("Content-Range", range.as_str())];
        let headers = if last.is_empty() { &[] } else { &ranged[..] };
        registry.send("PUT", &closing(&location, digest), headers, last)
    }),
];

#[test]
fn every_way() {
    let registry = Registry::start(&[]);
    for (seed, (way, push)) in WAYS.into_iter().enumerate() {
        for size in [0, 1, 200_000] {
            for (algorithm, parameters) in [
                (Algorithm::Sha256, ""),
                (Algorithm::Sha512, "digest-algorithm=sha512"),
                // Said only when the upload ends.
                (Algorithm::Sha512, ""),
            ] {
                let why = format!("{way}, {size} bytes, {algorithm:?}, {parameters:?}");
                let content = noise(seed as u64, size);
                let digest = algorithm.digest(&content);
                let location = start(&registry, parameters);
                let reply = push(&registry, location, &content, &digest);
                pushed(&registry, &reply, &content, &digest, &why);
                let path = format!("/v2/a/blobs/{digest}");
                assert_eq!(registry.delete(&path).status, 202, "for the next: {why}");
            }
        }
    }
    no_upload_left(&registry, "a", "all are finished");
}

/// Checks the answer to a push to repository `a`, and what can be pulled.
#[track_caller]
fn pushed(registry: &Registry, reply: &Reply, content: &[u8], digest: &Digest, why: &str) {
    assert_eq!(reply.status, 201, "{why}: {}", reply.text());
    let path = format!("/v2/a/blobs/{digest}");
    headers(
        reply,
        &[
            ("location", Some(&path)),
            ("docker-content-digest", Some(&digest.to_string())),
            ("content-length", Some("0")),
        ],
        why,
    );
    let pulled = registry.get(&path);
    assert_eq!(pulled.status, 200, "{why}");
    assert!(pulled.body == content, "{why}");
}

#[test]
fn single_post() {
    let registry = Registry::start(&[]);
    for size in [0, 1, 200_000] {
        for algorithm in Algorithm::ALL {
            for headers in [&[][..], &[CHUNKED]] {
                let content = noise(20, size);
                let digest = algorithm.digest(&content);
                let path = format!("/v2/a/blobs/uploads/?digest={digest}");
                let reply = registry.send("POST", &path, headers, &content);
                let why = format!("{size} bytes, {algorithm:?}, {headers:?}");
                pushed(&registry, &reply, &content, &digest, &why);
            }
        }
    }
    no_upload_left(&registry, "a", "all are finished");
}

#[test]
fn progress() {
    let registry = Registry::start(&[]);
    for path in ["/v2/team/app/blobs/uploads/", "/v2/team/app/blobs/uploads"] {
        let reply = registry.send("POST", path, &[], b"");
        assert_eq!((reply.status, reply.body.len()), (202, 0), "{path}");
        let location = reply.header("location").expect("a location").to_owned();
        let id = reply.header("docker-upload-uuid").expect("an id").to_owned();
        assert_eq!(location, format!("/v2/team/app/blobs/uploads/{id}"));
        id.parse::<uuid::Uuid>().expect("a UUID");
        let check = |reply: &Reply, status: u16, range: &str| {
            assert_eq!((reply.status, reply.body.len()), (status, 0));
            headers(
                reply,
                &[
                    ("location", Some(&location)),
                    ("range", Some(range)),
                    ("docker-upload-uuid", Some(&id)),
                ],
                range,
            );
        };
        check(&reply, 202, "0-0");
        check(&registry.get(&location), 204, "0-0");
        let mut received = 0;
        for body in [&b"12345"[..], b"", b"67890"] {
            received += body.len();
            let range = format!("0-{}", received - 1);
            check(&registry.send("PATCH", &location, &[], body), 202, &range);
            check(&registry.get(&location), 204, &range);
            check(&registry.head(&location), 204, &range);
        }
        let digest = sha256(b"1234567890");
        assert_eq!(put(&registry, &location, &digest, b"").status, 201);
        refused(&registry.get(&location), 404, "BLOB_UPLOAD_UNKNOWN", "finished");
    }
}

/// Ten bytes are there; five more come, said to lie somewhere. Whatever is
/// refused, the upload stays as it was.
#[test]
fn content_ranges() {
    const THERE: &[u8] = b"0123456789";
    const CHUNK: &[u8] = b"abcde";
    let registry = Registry::start(&[]);
    let content = [THERE, CHUNK].concat();
    let digest = sha256(&content);
    let location = patch(&registry, &start(&registry, ""), &[], THERE);
    for (range, status, why) in [
        ("11-15", 416, "a gap"),
        ("99999-100003", 416, "far off"),
        ("0-4", 416, "a chunk again"),
        ("9-13", 416, "an overlap"),
        ("18446744073709551615-18446744073709551615", 416, "the largest integer"),
        ("", 400, "nothing"),
        ("10", 400, "no end"),
        ("10-", 400, "an open end"),
        ("-14", 400, "no start"),
        ("a-b", 400, "no numbers"),
        ("+10-14", 400, "a sign"),
        ("10-14-18", 400, "three numbers"),
        ("10-9", 400, "it ends before it starts"),
        ("10-13", 400, "fewer than the body has"),
        ("10-15", 400, "more than the body has"),
        ("10-18446744073709551615", 400, "the largest integer"),
        ("10-99999999999999999999", 400, "beyond any integer"),
        ("bytes=10-14", 400, "another header's form"),
    ] {
        for (method, path) in [("PATCH", location.clone()), ("PUT", closing(&location, &digest))] {
            let reply = registry.send(method, &path, &[("Content-Range", range)], CHUNK);
            let why = format!("{method}, {range:?}: {why}");
            refused(&reply, status, "BLOB_UPLOAD_INVALID", &why);
            let there = (status == 416).then_some("0-9");
            let goes_on = there.map(|_| location.as_str());
            headers(&reply, &[("range", there), ("location", goes_on)], &why);
            let state = registry.get(&location);
            assert_eq!((state.status, state.header("range")), (204, Some("0-9")));
        }
    }
    let location = patch(&registry, &location, &[("Content-Range", "10-14")], CHUNK);
    let reply = put(&registry, &location, &digest, b"");
    pushed(&registry, &reply, &content, &digest, "the right chunk");
}

#[test]
fn first_chunk_starts_at_zero() {
    let registry = Registry::start(&[]);
    let location = start(&registry, "");
    let reply = registry.send("PATCH", &location, &[("Content-Range", "1-3")], b"abc");
    refused(&reply, 416, "BLOB_UPLOAD_INVALID", "a gap at the start");
    // Distribution's convention for nothing received.
    headers(&reply, &[("range", Some("0-0")), ("location", Some(&location))], "nothing is there");
    let location = patch(&registry, &location, &[("Content-Range", "0-2")], b"abc");
    let digest = sha256(b"abc");
    let reply = put(&registry, &location, &digest, b"");
    pushed(&registry, &reply, b"abc", &digest, "from the start");
}

#[test]
fn wrong_digest() {
    let registry = Registry::start(&[]);
    let content = b"not what it says";
    for said in [absent(), Algorithm::Sha512.digest(b"never pushed")] {
        let location = patch(&registry, &start(&registry, ""), &[], content);
        refused(&put(&registry, &location, &said, b""), 400, "DIGEST_INVALID", "POST, PATCH, PUT");
        for (method, path) in [
            ("GET", location.clone()),
            ("PATCH", location.clone()),
            ("PUT", closing(&location, &sha256(content))),
            ("DELETE", location),
        ] {
            let reply = registry.send(method, &path, &[], b"");
            refused(&reply, 404, "BLOB_UPLOAD_UNKNOWN", method);
        }
        let path = format!("/v2/a/blobs/uploads/?digest={said}");
        let reply = registry.send("POST", &path, &[], content);
        refused(&reply, 400, "DIGEST_INVALID", "POST alone");
        for digest in [said, sha256(content)] {
            let reply = registry.get(&format!("/v2/a/blobs/{digest}"));
            refused(&reply, 404, "BLOB_UNKNOWN", "nothing is stored");
        }
    }
    no_upload_left(&registry, "a", "all are freed");
    assert_eq!(files(&registry.store().join("blobs")), []);
    let reply = registry.get("/v2/a/tags/list");
    refused(&reply, 404, "NAME_UNKNOWN", "no repository came to be");
}

/// What the query alone shows to be wrong harms no upload.
#[test]
fn refused_parameters() {
    let registry = Registry::start(&[]);
    let content = b"content";
    let location = patch(&registry, &start(&registry, ""), &[], content);
    let upper = sha256(content).to_string().replace('a', "A");
    for (digest, why) in [
        ("", "no digest"),
        ("?digest=", "an empty one"),
        ("?digest=sha256", "no hex"),
        ("?digest=sha256:abc", "too short"),
        ("?digest=md5:9a0364b9e99bb480dd25e1f0284c8555", "md5"),
        (&format!("?digest={upper}"), "uppercase"),
        ("?digest=..%2f..%2fetc", "a path"),
    ] {
        let path = format!("{location}{digest}");
        let reply = registry.send("PUT", &path, &[], b"");
        refused(&reply, 400, "DIGEST_INVALID", why);
    }
    assert_eq!(registry.get(&location).header("range"), Some("0-6"));
    let digest = sha256(content);
    let reply = put(&registry, &location, &digest, b"");
    pushed(&registry, &reply, content, &digest, "the right digest");

    for (parameters, code, why) in [
        ("digest=sha256:abc", "DIGEST_INVALID", "too short"),
        ("digest=md5:00", "DIGEST_INVALID", "md5"),
        ("digest-algorithm=md5", "DIGEST_INVALID", "md5"),
        ("digest-algorithm=", "DIGEST_INVALID", "no algorithm"),
    ] {
        let path = format!("/v2/a/blobs/uploads/?{parameters}");
        let reply = registry.send("POST", &path, &[], b"");
        refused(&reply, 400, code, &format!("{parameters}: {why}"));
    }
    no_upload_left(&registry, "a", "none was started");
}

/// What cannot be mounted is uploaded instead, as distribution does it.
#[test]
fn mounts_that_cannot_be() {
    let registry = Registry::start(&[]);
    let content = b"in b";
    let digest = registry.push_blob("b", content);
    for parameters in [
        format!("mount={digest}&from="),
        format!("mount={digest}&from=B"),
        format!("mount={digest}&from=Bad/Name"),
        format!("mount={digest}&from=..%2f.."),
        "mount=sha256:abc&from=b".to_owned(),
        "mount=md5:00&from=b".to_owned(),
        "mount=&from=b".to_owned(),
    ] {
        let path = format!("/v2/a/blobs/uploads/?{parameters}");
        let reply = registry.send("POST", &path, &[], b"");
        assert_eq!(reply.status, 202, "{parameters}: {}", reply.text());
        assert_eq!(registry.head(&format!("/v2/a/blobs/{digest}")).status, 404, "{parameters}");
        let location = reply.header("location").expect("a location");
        let end = registry.send("PUT", &closing(location, &digest), &[], content);
        assert_eq!(end.status, 201, "{parameters}: {}", end.text());
        assert_eq!(registry.delete(&format!("/v2/a/blobs/{digest}")).status, 202);
    }
}

#[test]
fn strangers() {
    let registry = Registry::start(&[]);
    let location = patch(&registry, &start(&registry, ""), &[], b"mine");
    let id = location.rsplit('/').next().expect("an id");
    let digest = sha256(b"mine");
    for (path, why) in [
        (format!("/v2/b/blobs/uploads/{id}"), "another repository's upload"),
        (format!("/v2/a/b/blobs/uploads/{id}"), "a repository below it"),
        ("/v2/a/blobs/uploads/2f6b6d0a-7a05-4f3c-9d2e-0c5b7f8f1a11".to_owned(), "nobody's upload"),
        ("/v2/a/blobs/uploads/1".to_owned(), "no UUID"),
        (format!("/v2/a/blobs/uploads/{id}%2f..%2f{id}"), "a path for an id"),
    ] {
        for (method, path) in [
            ("GET", path.clone()),
            ("HEAD", path.clone()),
            ("PATCH", path.clone()),
            ("PUT", closing(&path, &digest)),
            ("DELETE", path),
        ] {
            let reply = registry.send(method, &path, &[], b"");
            if method == "HEAD" {
                assert_eq!((reply.status, reply.body.len()), (404, 0), "{why}");
            } else {
                refused(&reply, 404, "BLOB_UPLOAD_UNKNOWN", why);
            }
        }
    }
    let reply = put(&registry, &location, &digest, b"");
    pushed(&registry, &reply, b"mine", &digest, "untouched by all that");
}

#[test]
fn cancel() {
    let registry = Registry::start(&[]);
    let location = patch(&registry, &start(&registry, ""), &[], b"some");
    let reply = registry.delete(&location);
    assert_eq!((reply.status, reply.body.len()), (204, 0));
    no_upload_left(&registry, "a", "its space is free");
    for (method, path) in [
        ("GET", location.clone()),
        ("PATCH", location.clone()),
        ("PUT", closing(&location, &sha256(b"some"))),
        ("DELETE", location),
    ] {
        let reply = registry.send(method, &path, &[], b"");
        refused(&reply, 404, "BLOB_UPLOAD_UNKNOWN", method);
    }
}

#[test]
fn mount() {
    let registry = Registry::start(&[]);
    let content = b"mounted";
    let digest = registry.push_blob("a", content);
    let long = Algorithm::Sha512.digest(content);
    let path = format!("/v2/a/blobs/uploads/?digest={long}");
    assert_eq!(registry.send("POST", &path, &[], content).status, 201);
    registry.push_blob("c", b"another");
    let lost: [&[u8]; 2] = [b"nobody's", b"nobody's either"];

    for (to, digest, from, mounted, why) in [
        ("to/1", digest, "&from=a", true, "from where it is"),
        ("to/2", digest, "", false, "from no place that is named"),
        ("to/a", digest, "&from=", false, "from an empty name"),
        ("to/b", digest, "&from=Bad/Name", false, "from what is no name"),
        ("to/c", digest, "&from=..%2f..", false, "from a path"),
        ("to/3", long, "&from=a", true, "sha512"),
        ("to/4", long, "", false, "sha512 from no place that is named"),
        ("a", digest, "&from=a", true, "to where it is"),
        ("to/5", digest, "&from=to%2f1", true, "from where it was mounted"),
        ("to/6", digest, "&from=c", false, "from where it is not"),
        ("to/7", digest, "&from=nowhere", false, "from no repository"),
        ("to/8", sha256(lost[0]), "&from=a", false, "it is nowhere"),
        ("to/9", sha256(lost[1]), "", false, "it is nowhere at all"),
    ] {
        let start = format!("/v2/{to}/blobs/uploads/?mount={digest}{from}");
        let reply = registry.send("POST", &start, &[], b"");
        let blob = format!("/v2/{to}/blobs/{digest}");
        if mounted {
            assert_eq!(reply.status, 201, "{why}: {}", reply.text());
            headers(
                &reply,
                &[("location", Some(&blob)), ("docker-content-digest", Some(&digest.to_string()))],
                why,
            );
            assert_eq!(registry.get(&blob).body, content, "{why}");
        } else {
            assert_eq!(reply.status, 202, "{why}: {}", reply.text());
            refused(&registry.get(&blob), 404, "BLOB_UNKNOWN", why);
            // The client sends what could not be mounted.
            let location = reply.header("location").expect("a location");
            let is = |bytes: &&[u8]| sha256(bytes) == digest;
            let content = lost.into_iter().find(is).unwrap_or(content);
            let reply = put(&registry, location, &digest, content);
            assert_eq!(reply.status, 201, "{why}: {}", reply.text());
            assert_eq!(registry.get(&blob).body, content, "{why}");
        }
        no_upload_left(&registry, to, why);
    }
}

/// A push request that stops after half of its body.
fn half_sent(registry: &Registry, method: &str, path: &str, half: &[u8]) -> Connection {
    let mut connection = Connection::open(registry);
    let length = 2 * half.len();
    connection.write(format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n"
    ));
    connection.write(half);
    connection
}

fn eventually_received(registry: &Registry, location: &str, bytes: usize) {
    let range = format!("0-{}", bytes - 1);
    eventually(&format!("{location} has received {range}"), || {
        registry.get(location).header("range") == Some(&range)
    });
}

#[test]
fn resumes_after_a_broken_connection() {
    let registry = Registry::start(&[]);
    let content = noise(30, 400_000);
    let (half, rest) = content.split_at(200_000);
    let digest = sha256(&content);
    for (method, why) in [("PATCH", "in a chunk"), ("PUT", "in the closing request")] {
        let location = start(&registry, "");
        let path = closing(&location, &digest);
        let connection = half_sent(&registry, method, &path, half);
        eventually_received(&registry, &location, half.len());
        drop(connection);
        // The server has yet to notice that its client is gone.
        eventually("the rest is taken", || {
            let reply = registry.send("PUT", &path, &[("Content-Range", "200000-399999")], rest);
            match reply.status {
                409 => refused(&reply, 409, "BLOB_UPLOAD_INVALID", why),
                _ => pushed(&registry, &reply, &content, &digest, why),
            }
            reply.status == 201
        });
    }
    no_upload_left(&registry, "a", "all are finished");
}

#[test]
fn one_writer_at_a_time() {
    let registry = Registry::start(&[]);
    let content = noise(31, 200_000);
    let (half, rest) = content.split_at(100_000);
    let digest = sha256(&content);
    let location = start(&registry, "");
    let mut first = half_sent(&registry, "PATCH", &location, half);
    eventually_received(&registry, &location, half.len());
    for (method, path) in [("PATCH", location.clone()), ("PUT", closing(&location, &digest))] {
        let reply = registry.send(method, &path, &[], b"mixed in");
        refused(&reply, 409, "BLOB_UPLOAD_INVALID", method);
    }
    first.write(rest);
    let reply = first.reply("PATCH");
    assert_eq!((reply.status, reply.header("range")), (202, Some("0-199999")));
    let reply = put(&registry, &location, &digest, b"");
    pushed(&registry, &reply, &content, &digest, "one client's bytes");
}

/// Whoever still sends learns that the upload is gone.
#[test]
fn cancelled_while_sending() {
    let registry = Registry::start(&[]);
    let content = noise(32, 200_000);
    let (half, rest) = content.split_at(100_000);
    let digest = sha256(&content);
    for method in ["PATCH", "PUT"] {
        let location = start(&registry, "");
        let mut sender = half_sent(&registry, method, &closing(&location, &digest), half);
        eventually_received(&registry, &location, half.len());
        assert_eq!(registry.delete(&location).status, 204, "{method}");
        sender.write(rest);
        refused(&sender.reply(method), 404, "BLOB_UPLOAD_UNKNOWN", method);
        let blob = registry.get(&format!("/v2/a/blobs/{digest}"));
        refused(&blob, 404, "BLOB_UNKNOWN", method);
    }
    no_upload_left(&registry, "a", "all are cancelled");
}

/// Starting an upload takes nothing on the disk, and what it takes in memory is bounded: the oldest
/// upload without a byte makes room.
#[test]
fn many_that_are_only_started() {
    let registry = Registry::start(&[]);
    let elsewhere = registry.start_upload("b");
    let begun = patch(&registry, &start(&registry, ""), &[CHUNKED], b"begun, ");
    let started: Vec<String> = (0..200).map(|_| start(&registry, "")).collect();
    let folder = registry.store().join("repositories/a/_uploads");
    assert_eq!(files(&folder).len(), 2, "the data and the start of one upload");
    assert!(!registry.store().join("repositories/b").exists());
    let known = |location: &String| registry.get(location).status == 204;
    assert_eq!(started.iter().filter(|location| known(location)).count(), 128);
    assert!(!known(&started[0]) && known(&started[199]), "the oldest made room");
    assert!(known(&elsewhere) && known(&begun), "other uploads stay");
    let digest = sha256(b"begun, ended");
    assert_eq!(put(&registry, &begun, &digest, b"ended").status, 201);
    let digest = sha256(b"newest");
    assert_eq!(put(&registry, &started[199], &digest, b"newest").status, 201);
    assert_eq!(put(&registry, &started[0], &digest, b"oldest").status, 404);
    assert_eq!(registry.send("DELETE", &started[198], &[], b"").status, 204);
    assert!(!known(&started[198]));
    no_upload_left(&registry, "a", "all are finished, cancelled or empty");
}
