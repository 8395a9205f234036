//! Pulling and deleting blobs.

use std::ops::Range;

use registry::oci::Algorithm;

use crate::common::{Registry, noise};
use crate::support::{absent, byte_ranges, closing, headers, lasting_headers, refused};

/// A page of memory, the size up to which blobs are copied, a mapped slice:
/// sizes around which something could go wrong.
const SIZES: [usize; 9] =
    [0, 1, 4096, 64 << 10, (64 << 10) + 1, 256 << 10, (4 << 20) - 1, 4 << 20, (9 << 20) + 123];

#[test]
fn get_and_head() {
    let registry = Registry::start(&[]);
    for size in SIZES {
        let content = noise(size as u64, size);
        let digest = registry.push_blob("team/app", &content);
        let path = format!("/v2/team/app/blobs/{digest}");
        let why = format!("{size} bytes");
        let get = registry.get(&path);
        assert_eq!(get.status, 200, "{why}: {}", get.text());
        assert!(get.body == content, "{why}");
        headers(
            &get,
            &[
                ("content-length", Some(&size.to_string())),
                ("content-type", Some("application/octet-stream")),
                ("docker-content-digest", Some(&digest.to_string())),
                ("etag", Some(&format!("\"{digest}\""))),
                ("accept-ranges", Some("bytes")),
                ("content-range", None),
                ("transfer-encoding", None),
                ("docker-distribution-api-version", Some("registry/2.0")),
            ],
            &why,
        );
        let head = registry.head(&path);
        assert_eq!((head.status, head.body.len()), (200, 0), "{why}");
        assert_eq!(lasting_headers(&head), lasting_headers(&get), "{why}");
        // Clients escape the colon, or not.
        let escaped = registry.get(&path.replace(':', "%3A"));
        assert!(escaped.body == content, "{why}");
    }
}

#[test]
fn sha512() {
    let registry = Registry::start(&[]);
    let content = b"named by sha512";
    let digest = Algorithm::Sha512.digest(content);
    let reply =
        registry.send("POST", &format!("/v2/a/blobs/uploads/?digest={digest}"), &[], content);
    assert_eq!(reply.status, 201, "{}", reply.text());
    let reply = registry.get(&format!("/v2/a/blobs/{digest}"));
    assert_eq!((reply.status, reply.body.as_slice()), (200, &content[..]));
    headers(
        &reply,
        &[("docker-content-digest", Some(&digest.to_string()))],
        "the digest that was asked for",
    );
    let other = Algorithm::Sha256.digest(content);
    refused(
        &registry.get(&format!("/v2/a/blobs/{other}")),
        404,
        "BLOB_UNKNOWN",
        "nobody pushed it under that name",
    );
}

enum Want {
    Part(Range<usize>),
    Whole,
    Unsatisfiable,
}

#[test]
fn ranges() {
    use Want::{Part, Unsatisfiable, Whole};
    let registry = Registry::start(&[]);
    let (small, large) = (1000, (9 << 20) + 123);
    let contents = [0, small, large].map(|size| (size, noise(7, size)));
    let paths = contents.each_ref().map(|(size, content)| {
        let digest = registry.push_blob("a", content);
        (*size, format!("/v2/a/blobs/{digest}"))
    });
    for (size, range, want, why) in [
        (small, "bytes=0-0", Part(0..1), "one byte"),
        (small, "bytes=0-999", Part(0..small), "all of it"),
        (small, "bytes=10-19", Part(10..20), "the middle"),
        (small, "bytes=999-999", Part(999..1000), "the last byte"),
        (small, "bytes=10-", Part(10..small), "open"),
        (small, "bytes=0-", Part(0..small), "open, all of it"),
        (small, "bytes=-1", Part(999..small), "suffix"),
        (small, "bytes=-1000", Part(0..small), "suffix, all of it"),
        (small, "bytes=-5000", Part(0..small), "a suffix longer than the blob"),
        (small, "bytes=900-5000", Part(900..small), "clipped at the end"),
        (
            small,
            "bytes=5-99999999999999999999999999",
            Part(5..small),
            "clipped, beyond any integer",
        ),
        (small, "bytes=5-18446744073709551615", Part(5..small), "clipped at the largest integer"),
        (small, "BYTES=1-2", Part(1..3), "a unit in capitals"),
        (small, "bytes=1000-", Unsatisfiable, "from the end on"),
        (small, "bytes=1000-1001", Unsatisfiable, "behind the end"),
        (small, "bytes=500-0", Unsatisfiable, "backwards"),
        (small, "bytes=-0", Unsatisfiable, "the last no bytes"),
        (small, "bytes=99999999999999999999999999-", Unsatisfiable, "beyond any integer"),
        (small, "bytes=0-1,1-6", Part(0..7), "several ranges that overlap"),
        (small, "bytes=0-1,1000-", Part(0..2), "several ranges, one of them there"),
        (small, "bytes=0-1,x", Whole, "one of several that is no range"),
        (small, "lines=0-1", Whole, "another unit"),
        (small, "bytes=a-b", Whole, "no numbers"),
        (small, "bytes=-", Whole, "nothing"),
        (small, "bytes 0-1", Whole, "no equals sign"),
        (0, "bytes=0-", Whole, "the empty blob has no byte"),
        (0, "bytes=0-1048575", Whole, "the first piece of an empty blob"),
        (large, "bytes=1-1", Part(1..2), "one byte of a large blob"),
        (large, "bytes=4194303-4194304", Part(4_194_303..4_194_305), "across a slice's end"),
        (
            large,
            "bytes=100001-9000000",
            Part(100_001..9_000_001),
            "several slices, from no page's start",
        ),
        (large, "bytes=-7000000", Part(large - 7_000_000..large), "a long suffix"),
        (large, "bytes=9437307-", Unsatisfiable, "from the end on"),
    ] {
        let at = paths.iter().position(|(s, _)| *s == size).expect("pushed");
        let reply = registry.send("GET", &paths[at].1, &[("Range", range)], b"");
        let content = &contents[at].1;
        let (status, bytes, content_range) = match want {
            Part(part) => {
                let content_range = format!("bytes {}-{}/{size}", part.start, part.end - 1);
                (206, &content[part], Some(content_range))
            }
            Whole => (200, &content[..], None),
            Unsatisfiable => {
                refused(&reply, 416, "SIZE_INVALID", why);
                headers(&reply, &[("content-range", Some(&format!("bytes */{size}")))], why);
                continue;
            }
        };
        assert_eq!(reply.status, status, "{why}");
        assert!(reply.body == bytes, "{why}");
        headers(
            &reply,
            &[
                ("content-range", content_range.as_deref()),
                ("content-length", Some(&bytes.len().to_string())),
                ("accept-ranges", Some("bytes")),
            ],
            why,
        );
        assert!(reply.header("etag").is_some(), "for If-Range: {why}");
    }
}

/// Several ranges come as `multipart/byteranges`, in the order asked for, of small blobs and of
/// large ones, with small parts and large ones mixed.
#[test]
fn several_ranges() {
    let registry = Registry::start(&[]);
    let content = noise(11, (9 << 20) + 123);
    let small = &content[..1000];
    let many: Vec<Range<usize>> = (0..1024).map(|i| i * 9000..i * 9000 + 7).collect();
    for (content, ranges) in [
        (small, vec![10..20, 0..1, 999..1000]),
        (small, vec![0..10, 10..20]),
        (&content[..], vec![5..6, 100_000..4_000_000, 4_000_000..4_000_001, 8_000_000..8_300_000]),
        (&content[..], many),
    ] {
        let digest = registry.push_blob("a", content);
        let asked: Vec<String> =
            ranges.iter().map(|range| format!("{}-{}", range.start, range.end - 1)).collect();
        let asked = format!("bytes={}", asked.join(","));
        let path = format!("/v2/a/blobs/{digest}");
        let reply = registry.send("GET", &path, &[("Range", &asked)], b"");
        assert_eq!(reply.status, 206, "{asked}");
        assert_eq!(byte_ranges(&reply, content), ranges, "{asked}");
        let length = reply.body.len().to_string();
        let want = [("content-range", None), ("content-length", Some(length.as_str()))];
        headers(&reply, &want, &asked);
    }
    // More than any client sends: the whole.
    let digest = registry.push_blob("a", small);
    let asked = format!("bytes=0-0{}", ",5-5".repeat(1024));
    let path = format!("/v2/a/blobs/{digest}");
    let reply = registry.send("GET", &path, &[("Range", &asked)], b"");
    assert_eq!((reply.status, reply.body.as_slice()), (200, small));
}

/// RFC 9110, 14.2: Range means something for GET alone.
#[test]
fn head_knows_no_ranges() {
    let registry = Registry::start(&[]);
    let digest = registry.push_blob("a", &noise(8, 1000));
    let path = format!("/v2/a/blobs/{digest}");
    let plain = registry.head(&path);
    for range in ["bytes=0-9", "bytes=1000-"] {
        let reply = registry.send("HEAD", &path, &[("Range", range)], b"");
        assert_eq!(reply.status, 200, "{range}");
        assert_eq!(lasting_headers(&reply), lasting_headers(&plain), "{range}");
    }
}

#[test]
fn conditions() {
    let registry = Registry::start(&[]);
    let content = noise(9, 1000);
    let digest = registry.push_blob("a", &content);
    let path = format!("/v2/a/blobs/{digest}");
    let tag = format!("\"{digest}\"");
    let (weak, listed) = (format!("W/{tag}"), format!("\"x\", {tag}"));
    for (name, value, whole, part, why) in [
        ("If-None-Match", tag.as_str(), 304, 304, "the client has it"),
        ("If-None-Match", &weak, 304, 304, "weakly compared"),
        ("If-None-Match", &listed, 304, 304, "one of several"),
        ("If-None-Match", "*", 304, 304, "anything"),
        ("If-None-Match", "\"x\"", 200, 206, "the client has another"),
        ("If-Range", &tag, 200, 206, "still the same"),
        ("If-Range", &weak, 200, 200, "strongly compared"),
        ("If-Range", "\"x\"", 200, 200, "another content"),
        ("If-Range", "Sat, 29 Oct 1994 19:43:31 GMT", 200, 200, "blobs have no date"),
    ] {
        for (range, want) in [(None, whole), (Some(("Range", "bytes=10-19")), part)] {
            let sent: Vec<_> = [Some((name, value)), range].into_iter().flatten().collect();
            let reply = registry.send("GET", &path, &sent, b"");
            assert_eq!(reply.status, want, "{why}, {range:?}");
            let bytes = match want {
                304 => &[],
                206 => &content[10..20],
                _ => &content[..],
            };
            assert!(reply.body == bytes, "{why}, {range:?}");
            headers(&reply, &[("etag", Some(&tag))], why);
        }
        let head = registry.send("HEAD", &path, &[(name, value)], b"");
        assert_eq!(head.status, whole, "HEAD, {why}");
    }
}

/// A repository shows its own blobs, whatever else lies in the store.
#[test]
fn isolation() {
    let registry = Registry::start(&[]);
    let content = b"of team/a alone";
    let digest = registry.push_blob("team/a", content);
    registry.push_blob("team/b", b"another");
    for repository in ["team/b", "team", "team/a/b", "a", "team/ab"] {
        let path = format!("/v2/{repository}/blobs/{digest}");
        for method in ["GET", "DELETE"] {
            let reply = registry.send(method, &path, &[], b"");
            refused(&reply, 404, "BLOB_UNKNOWN", repository);
        }
        let head = registry.head(&path);
        assert_eq!((head.status, head.body.len()), (404, 0), "{repository}");
    }
    let path = format!("/v2/team/a/blobs/{digest}");
    assert_eq!(registry.get(&path).body, content);
}

#[test]
fn delete() {
    let registry = Registry::start(&[]);
    let content = b"to be deleted";
    let digest = registry.push_blob("a", content);
    registry.push_blob("b", content);
    let [in_a, in_b] = ["a", "b"].map(|name| format!("/v2/{name}/blobs/{digest}"));
    // It is known in memory, too.
    assert_eq!(registry.get(&in_a).body, content);
    let reply = registry.delete(&in_a);
    assert_eq!((reply.status, reply.body.len()), (202, 0));
    refused(&registry.get(&in_a), 404, "BLOB_UNKNOWN", "deleted");
    assert_eq!(registry.head(&in_a).status, 404, "deleted");
    refused(&registry.delete(&in_a), 404, "BLOB_UNKNOWN", "deleted");
    assert_eq!(registry.get(&in_b).body, content, "another repository's");
    registry.push_blob("a", content);
    assert_eq!(registry.get(&in_a).body, content, "pushed again");

    let unknown = format!("/v2/a/blobs/{}", absent());
    refused(&registry.delete(&unknown), 404, "BLOB_UNKNOWN", "never was");
}

/// Two clients push the same blob at once: both succeed, one copy stays.
#[test]
fn pushed_by_several_at_once() {
    let registry = Registry::start(&[]);
    let content = noise(10, 300_000);
    let digest = crate::support::sha256(&content);
    std::thread::scope(|scope| {
        for repository in ["a", "a", "b", "b"] {
            let (registry, content) = (&registry, &content);
            scope.spawn(move || {
                let location = registry.start_upload(repository);
                let reply = registry.send("PUT", &closing(&location, &digest), &[], content);
                assert_eq!(reply.status, 201, "{}", reply.text());
            });
        }
    });
    for repository in ["a", "b"] {
        let reply = registry.get(&format!("/v2/{repository}/blobs/{digest}"));
        assert!(reply.body == content, "{repository}");
    }
    let copies = crate::support::files(&registry.store().join("blobs"));
    assert_eq!(copies.len(), 1);
}
