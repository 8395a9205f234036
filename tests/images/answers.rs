//! Answers about the real images beyond their content: who is meant by an id, what
//! the head says, what is followed and what is refused.

use std::fs;
use std::path::Path;
use std::sync::Barrier;

use registry::oci::{Algorithm, Digest};
use serde_json::json;
use tempfile::TempDir;

use crate::common::home::Home;
use crate::common::tree::assert_same;
use crate::common::{OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, Registry, Reply, descriptor};
use crate::common::{image_manifest, noise};
use crate::fixture::{Fixture, ODD, SPECIAL, fixture, manifest};
use crate::view::{Client, by_path, rows, shown};

fn list(client: &mut Client, id: &str) -> Reply {
    client.get(&format!("/v1/images/{id}/tree/usr/bin"))
}

/// A refusal in the form of the API it is from.
#[track_caller]
fn refused(reply: &Reply, status: u16, what: &str) -> String {
    assert_eq!(reply.status, status, "{what}: {}", reply.text());
    assert_eq!(reply.header("content-type"), Some("application/json"));
    let json = reply.json();
    let message = match what.starts_with("/v1/") {
        true => &json["error"],
        false => &json["errors"][0]["message"],
    };
    message.as_str().expect("a message").to_owned()
}

/// The digests of an image's config and manifest.
fn digests(registry: &Registry, name: &str) -> [Digest; 2] {
    let config = &manifest(registry, name)["config"]["digest"];
    let config = config.as_str().and_then(|digest| digest.parse().ok());
    let (repository, tag) = name.split_once(':').expect("a tag");
    let path = format!("/v2/{repository}/manifests/{tag}");
    let reply = registry.send("HEAD", &path, &[("Accept", "*/*")], b"");
    let pushed = reply.header("docker-content-digest");
    let pushed = pushed.and_then(|digest| digest.parse().ok());
    [config, pushed].map(|digest| digest.expect("a digest"))
}

/// Every form of an id leads to the same image.
#[test]
fn ids() {
    let registry = &fixture().registry;
    let mut client = Client::new(registry);
    let want = list(&mut client, SPECIAL);
    assert_eq!(want.status, 200, "{}", want.text());
    let mut ids = vec!["special%3A1".to_owned(), "%73pecial:1".to_owned()];
    for digest in digests(registry, SPECIAL) {
        let hex = digest.hex();
        ids.extend([digest.to_string(), format!("sha256%3A{hex}"), hex.clone()]);
        ids.extend([12, 13, 40, 63].map(|length| hex[..length].to_owned()));
        ids.push(format!("sha256:{}", &hex[..12]));
        ids.push(format!("special@{digest}"));
    }
    let [_, pushed] = digests(registry, SPECIAL);
    // The config is no manifest, so it cannot stand in a reference.
    ids.retain(|id| !id.contains('@') || id.ends_with(&pushed.hex()));
    for id in &ids {
        assert_eq!(list(&mut client, id).text(), want.text(), "{id}");
    }

    for (id, status) in [
        ("special:2", 404),
        ("nothing:1", 404),
        ("0123456789ab", 404),
        ("sha256:0123456789ab", 404),
        ("sha256:0123456789", 400),
        ("sp%2F%2Fecial:1", 400),
        ("special:1:2", 400),
    ] {
        for view in ["tree", "blobs", "tar"] {
            let path = format!("/v1/images/{id}/{view}/etc/passwd");
            refused(&client.get(&path), status, &path);
        }
    }
}

/// A file's head: its digest as its tag, and for how long it holds.
#[test]
fn heads() {
    let registry = &fixture().registry;
    let mut client = Client::new(registry);
    let [config, pushed] = digests(registry, ODD);
    let image = fixture().image(ODD);
    let content = fs::read(format!("{}/posix/sizes/3000000", image.root)).expect("a file");
    let etag = format!("\"{}\"", Algorithm::Sha256.digest(&content));
    let by_digest = [config.to_string(), pushed.to_string()];
    // A Docker 1.x client chooses its ids, so bare digits may come to mean another image.
    let by_name = [ODD.to_owned(), config.hex(), config.hex()[..12].to_owned()];
    for id in by_digest.iter().chain(&by_name) {
        let path = format!("/v1/images/{id}/blobs/posix/sizes/3000000");
        let mut got = client.get(&path);
        assert_eq!(got.status, 200, "{path}: {}", got.text());
        assert!(got.body == content, "{path}");
        let lasting = got.header("cache-control").expect("a cache control");
        let lasting = lasting.contains("immutable");
        assert_eq!(lasting, by_digest.contains(id), "{path}");
        for (name, want) in [
            ("content-length", "3000000"),
            ("content-type", "application/octet-stream"),
            ("etag", &etag),
            ("accept-ranges", "bytes"),
            ("x-content-type-options", "nosniff"),
        ] {
            assert_eq!(got.header(name), Some(want), "{path}: {name}");
        }
        let policy = got.header("content-security-policy").expect("a policy");
        assert!(policy.contains("sandbox") && policy.contains("default-src 'none'"));

        let mut head = client.send("HEAD", &path, &[]);
        for reply in [&mut got, &mut head] {
            let passing = ["date", "x-request-id"];
            reply.headers.retain(|(name, _)| !passing.contains(&name.as_str()));
        }
        assert_eq!((head.status, head.headers), (200, got.headers), "{path}");
        for known in [&etag, &format!("\"x\", W/{etag}"), "*"] {
            let reply = client.send("GET", &path, &[("If-None-Match", known)]);
            assert_eq!(reply.status, 304, "{path}: {known}");
            assert_eq!(reply.header("etag"), Some(etag.as_str()));
        }
        let reply = client.send("GET", &path, &[("If-None-Match", "\"x\"")]);
        assert_eq!(reply.status, 200, "{path}");
    }
}

/// Any part of a file, in every compression.
#[test]
fn ranges() {
    let fixture = fixture();
    let root = &fixture.image(ODD).root;
    for name in ["usr/bin/perl", "posix/sizes/sparse", "gnu/sizes/1025"] {
        let content = fs::read(Path::new(root).join(name)).expect("a file");
        let length = content.len();
        let numbers = noise(1, 16 * 60);
        let random = numbers.chunks(16).map(|pair| {
            let number = |bytes: &[u8]| {
                let bytes = bytes.try_into().expect("eight bytes");
                (u64::from_le_bytes(bytes) % length as u64) as usize
            };
            let [one, other] = [number(&pair[..8]), number(&pair[8..])];
            (one.min(other), one.max(other) + 1)
        });
        // Bytes at the end, and at the edges of 2 MiB.
        let edges = [0, 1, 511, 512, 513, length - 1, 2 << 20, (2 << 20) - 1];
        let edges = edges.map(|start| (start, length.min(start + 4096)));
        let parts: Vec<_> = edges.into_iter().chain(random).collect();
        for (what, registry, image) in fixture.all().filter(|(_, _, i)| i.name == ODD) {
            let path = format!("/v1/images/{}/blobs/{name}", image.name);
            let mut client = Client::new(registry);
            for (start, end) in parts.iter().filter(|(start, end)| start < end) {
                let range = format!("bytes={start}-{}", end - 1);
                let reply = client.send("GET", &path, &[("Range", &range)]);
                assert_eq!(reply.status, 206, "{what}: {name} {range}");
                assert!(reply.body == content[*start..*end], "{what}: {name} {range}");
                let part = format!("bytes {start}-{}/{length}", end - 1);
                assert_eq!(reply.header("content-range"), Some(part.as_str()));
            }
            for (range, part) in [
                ("bytes=1000-".to_owned(), 1000..length),
                ("bytes=-1000".to_owned(), length - 1000..length),
                (format!("bytes=5-{}", length * 2), 5..length),
            ] {
                let reply = client.send("GET", &path, &[("Range", &range)]);
                assert_eq!(reply.status, 206, "{what}: {name} {range}");
                assert!(reply.body == content[part], "{what}: {name} {range}");
            }
            let beyond = format!("bytes={length}-");
            let reply = client.send("GET", &path, &[("Range", &beyond)]);
            refused(&reply, 416, &path);
        }
    }
}

/// Symlinks are followed inside the image, and no further than Linux would.
#[test]
fn followed() {
    let fixture = fixture();
    let image = fixture.image(ODD);
    let mut client = Client::new(&fixture.registry);
    let version = fs::read_to_string(format!("{}/etc/debian_version", image.root));
    let version = version.expect("a file");
    for (path, want) in [
        ("posix/follow", "hard"),
        ("posix/absolute", "hard"),
        ("posix/beyond", version.as_str()),
        ("posix/beyond2", &version),
        ("posix/to-dir/x", "content\n"),
        ("posix/chain0", "content\n"),
        // 40 links in all.
        ("posix/chain38", "content\n"),
        ("posix/soft2", "hard"),
        ("posix/hard2", "hard"),
        ("posix/names/hard3", "hard"),
        // Up from where a link led.
        ("posix/to-dir/../../hard1", "hard"),
        ("posix//names/./dir//x", "content\n"),
        ("../../posix/hard1", "hard"),
        // Replaced, each in its way.
        ("edit/to-link/share/base-files/motd", ""),
        ("edit/to-file", "file\n"),
        ("edit/file-to-dir/x", "x\n"),
        ("edit/gone/x", "x\n"),
        ("edit/link-to-file", "f\n"),
        ("edit/twice/sub/file", "again\n"),
        ("edit/opaque/newer", "newer\n"),
        ("edit/version", &version),
        ("edit/h3", "other\n"),
        ("edit/h5", "hard\n"),
        ("podman/names/dir", "again\n"),
        ("gnu/moved/x", "content\n"),
    ] {
        let url = format!("/v1/images/{ODD}/blobs/{path}").replace("..", "%2E%2E");
        let reply = client.get(&url);
        assert_eq!(reply.status, 200, "{url}: {}", reply.text());
        if !want.is_empty() {
            assert_eq!(reply.text(), want, "{url}");
        }
    }
}

/// What cannot be read is an error that says so, by both ways.
#[test]
fn not_read() {
    let mut client = Client::new(&fixture().registry);
    for (path, status) in [
        ("", 400),
        ("usr", 400),
        ("posix/to-dir", 400),
        ("dev/null", 400),
        ("posix/block", 400),
        ("posix/fifo", 400),
        ("posix/gone", 404),
        ("posix/modes/symlink", 404),
        ("posix/loop1", 404),
        ("posix/loop3", 404),
        // One link more than Linux follows.
        ("posix/chain39", 404),
        ("posix/through-file", 404),
        ("posix/hard1/x", 404),
        // Taken away by an upper layer.
        ("etc/issue", 404),
        ("usr/share/doc/base-files", 404),
        ("edit/opaque/file", 404),
        ("edit/opaque/sub/file", 404),
        ("edit/opaque/new", 404),
        ("edit/twice/file", 404),
        ("edit/link-to-dir/x", 404),
        ("edit/h1", 404),
        ("podman/hard2", 404),
        ("podman/empty", 404),
        ("podman/names/dir/x", 404),
        ("gnu/names/dir/x", 404),
        // The marks of that.
        ("etc/.wh.issue", 404),
        ("edit/opaque/.wh..wh..opq", 404),
        ("posix/%00", 404),
    ] {
        for url in
            [format!("/v1/images/{ODD}/blobs/{path}"), format!("/v2/odd/_files/blobs/1/{path}")]
        {
            let reply = client.get(&url);
            assert!(!refused(&reply, status, &url).is_empty());
            assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
            assert_eq!(client.send("HEAD", &url, &[]).status, status, "{url}");
        }
        if status == 404 && !path.contains('%') {
            for view in ["tree", "tar"] {
                let url = format!("/v1/images/{ODD}/{view}/{path}");
                let reply = client.get(&url);
                // A listing and a tar can show a link that leads nowhere.
                let link = fixture().image(ODD).unpacked.contains_key(path.as_bytes());
                assert_eq!(reply.status, if link && view == "tree" { 200 } else { 404 }, "{url}");
            }
        }
    }
}

/// The repository's own addresses give the same.
#[test]
fn by_repository() {
    let registry = &fixture().registry;
    let mut client = Client::new(registry);
    let [_, pushed] = digests(registry, ODD);
    for (view, path) in [
        ("tree", ""),
        ("tree", "usr/bin?recursive=1"),
        ("tree", "posix/names"),
        ("blobs", "usr/bin/passwd"),
        ("tar", "umoci?gzip=1"),
        ("tar", "umoci"),
    ] {
        let want = client.get(&format!("/v1/images/{ODD}/{view}/{path}"));
        assert_eq!(want.status, 200, "{}", want.text());
        for reference in ["1", &pushed.to_string()] {
            let url = format!("/v2/odd/_files/{view}/{reference}/{path}");
            let reply = client.get(&url);
            assert_eq!(reply.status, 200, "{url}: {}", reply.text());
            assert!(reply.body == want.body, "{url}");
        }
        // Access is by repository: it is not in this one.
        let url = format!("/v2/debian/_files/{view}/{pushed}/{path}");
        refused(&client.get(&url), 404, &url);
    }
}

/// Of an index, the host's image or the one that is asked for.
#[test]
fn platforms() {
    let (fixture, registry) = (fixture(), Registry::start(&[]));
    let host = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let other = if host == "arm64" { "amd64" } else { "arm64" };
    let images = [(host, ODD), (other, "debian:1")];
    let children = images.map(|(architecture, name)| {
        let from = format!("docker://{}/{name}", fixture.registry.host());
        let to = format!("docker://{}/multi:{architecture}", registry.host());
        fixture.home.copy(&from, &to, &["--preserve-digests"]);
        let [_, digest] = digests(&registry, &format!("multi:{architecture}"));
        let reply = registry.send(
            "GET",
            &format!("/v2/multi/manifests/{digest}"),
            &[("Accept", "*/*")],
            b"",
        );
        let media_type = reply.header("content-type").expect("a type");
        let mut child = descriptor(media_type, &digest, reply.body.len());
        child["platform"] = json!({"os": "linux", "architecture": architecture});
        child
    });
    // The host's is not the first.
    let [ours, others] = children;
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [others, ours]});
    let index = index.to_string();
    let reply = registry.push_manifest("multi", "1", OCI_INDEX, index.as_bytes());
    assert_eq!(reply.status, 201, "{}", reply.text());
    let digest = Algorithm::Sha256.digest(index.as_bytes());

    let mut client = Client::new(&registry);
    let [one, two] = images.map(|(_, name)| rows(&fixture.image(name).unpacked));
    for id in ["multi:1".to_owned(), digest.to_string(), digest.hex()[..12].to_owned()] {
        for (platform, want) in [
            (String::new(), &one),
            (format!("&platform=linux/{host}"), &one),
            (format!("&platform=linux%2F{other}"), &two),
        ] {
            let path = format!("/v1/images/{id}/tree/?recursive=1{platform}");
            assert_same(&path, &by_path(&shown(&client.get(&path))), want);
        }
        let path = format!("/v1/images/{id}/tree/?platform=linux/s390x");
        refused(&client.get(&path), 404, &path);
    }
    let path = format!("/v2/multi/_files/blobs/1/etc/issue?platform=linux/{other}");
    assert_eq!(client.get(&path).status, 200);
    let path = "/v2/multi/_files/blobs/1/etc/issue";
    refused(&client.get(path), 404, path);
}

/// A layer that is no tar is refused, with the reason, and served all the same.
#[test]
fn artifact() {
    let registry = Registry::start(&[]);
    let bytes = noise(7, 5000);
    let layer = registry.push_blob("artifact", &bytes);
    let config = registry.push_blob("artifact", b"{}");
    let manifest = image_manifest(
        &descriptor(OCI_CONFIG, &config, 2),
        &[descriptor("application/octet-stream", &layer, bytes.len())],
    );
    let reply = registry.push_manifest("artifact", "1", OCI_MANIFEST, manifest.as_bytes());
    assert_eq!(reply.status, 201, "{}", reply.text());
    let mut client = Client::new(&registry);
    for path in [
        "/v1/images/artifact:1/tree/",
        "/v1/images/artifact:1/blobs/file",
        "/v1/images/artifact:1/tar/",
        "/v2/artifact/_files/tree/1/",
        "/v2/artifact/_files/blobs/1/file",
    ] {
        let reason = refused(&client.get(path), 422, path);
        assert!(reason.contains("not a tar"), "{path}: {reason}");
        assert!(reason.contains(&layer.hex()), "{path}: {reason}");
    }
    let pulled = client.get(&format!("/v2/artifact/blobs/{layer}"));
    assert!(pulled.status == 200 && pulled.body == bytes);
}

/// An index that is lost is made again by those who come first.
#[test]
fn index_lost() {
    let (fixture, folder) = (fixture(), TempDir::new().expect("a temporary folder"));
    let mut registry = Registry::start_in(folder.path(), &[]);
    copy(fixture, &fixture.home, ODD, &registry);
    assert!(registry.stop().success());
    fs::remove_dir_all(folder.path().join("db")).expect("the index");
    let registry = Registry::start_in(folder.path(), &[]);
    // All at once.
    const READERS: usize = 8;
    let barrier = Barrier::new(READERS);
    let path = format!("/v1/images/{ODD}/tree/?recursive=1");
    let replies: Vec<Reply> = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = Client::new(&registry);
                    barrier.wait();
                    client.get(&path)
                })
            })
            .collect();
        let replies = readers.into_iter().map(|reader| reader.join());
        replies.map(|reply| reply.expect("an answer")).collect()
    });
    for reply in &replies {
        let ours = by_path(&shown(reply));
        assert_same("after the loss", &ours, &rows(&fixture.image(ODD).unpacked));
        assert!(reply.body == replies[0].body);
    }
}

fn copy(fixture: &Fixture, home: &Home, name: &str, to: &Registry) {
    let from = format!("docker://{}/{name}", fixture.registry.host());
    let to = format!("docker://{}/{name}", to.host());
    home.copy(&from, &to, &["--preserve-digests"]);
}
