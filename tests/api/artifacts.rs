//! Looking into artifacts: signatures, SBOMs, charts and files are directories of their documents.

use registry::oci::{Algorithm, Digest};
use serde_json::{Value, json};

use crate::cli::{fails, printed, text};
use crate::common::{OCI_CONFIG, OCI_EMPTY, OCI_INDEX, OCI_MANIFEST, Registry, descriptor, noise};
use crate::files::{LASTING, body, listing, paged, paths, table};
use crate::support::{headers, lasting_headers, refused, sha256};

const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
/// Both ways to name `app:TAG`.
const PLACES: [(&str, &str); 2] = [("/v1/images/app:", ""), ("/v2/app/_files/", "/")];

/// The address of a path of `app:TAG`, for each of [`PLACES`].
fn urls(view: &str, tag: &str, path: &str) -> [String; 2] {
    PLACES.map(|(start, separator)| match separator {
        "" => format!("{start}{tag}/{view}/{path}"),
        _ => format!("{start}{view}/{tag}/{path}"),
    })
}

/// The name of a blob without a title.
fn dash(content: &str) -> String {
    sha256(content.as_bytes()).to_string().replace(':', "-")
}

fn example() -> Value {
    json!({"artifactType": "application/vnd.example"})
}

/// A signature, a chart, and files as ORAS pushes them; returns the manifest of the files.
fn stock(registry: &Registry) -> Digest {
    let signature = ("application/vnd.dev.cosign.simplesigning.v1+json", "{\"critical\":{}}", None);
    registry.push_artifact("app", "sig", (OCI_CONFIG, "{}"), &[signature], Value::Null);
    let chart = ("application/vnd.cncf.helm.chart.content.v1.tar+gzip", "no real tar", None);
    let config = ("application/vnd.cncf.helm.config.v1+json", "{\"name\":\"app\"}");
    registry.push_artifact("app", "chart", config, &[chart], Value::Null);
    let blobs = [
        (TAR, "a file\n", Some("docs/readme.md")),
        (TAR, "", Some("docs/empty")),
        (TAR, "a note\n", Some("./docs-more")),
        (TAR, "no title\n", None),
    ];
    registry.push_artifact("app", "files", (OCI_EMPTY, "{}"), &blobs, example())
}

#[test]
fn trees() {
    let registry = Registry::start(&[]);
    let digest = stock(&registry);
    let manifest = registry.get("/v2/app/manifests/files").body;
    let [empty, untitled] = ["{}", "no title\n"].map(dash);
    for url in urls("tree", "files", "") {
        let reply = registry.get(&url);
        headers(&reply, &[("cache-control", Some("no-cache"))], &url);
        let mut names = vec!["/docs-more", "/docs/", "/manifest.json"];
        let digests = [&untitled, &empty].map(|name| format!("/{name}"));
        names.extend(digests.iter().map(String::as_str));
        // By name in byte order, where directories have no slash.
        names.sort_by_key(|name| name.trim_end_matches('/'));
        assert_eq!(paths(&reply), names, "{url}");
        let all: Vec<&str> = names
            .iter()
            .flat_map(|name| match *name {
                "/docs/" => vec!["/docs/", "/docs/empty", "/docs/readme.md"],
                name => vec![name],
            })
            .collect();
        assert_eq!(paths(&registry.get(&format!("{url}?recursive=1"))), all, "{url}");
        for limit in [1, 2, 3, 7, 100] {
            assert_eq!(paged(&registry, &format!("{url}?limit={limit}"), limit), names, "{limit}");
            let first = format!("{url}?recursive=1&limit={limit}");
            assert_eq!(paged(&registry, &first, limit), all, "{limit}");
        }
        for (place, after) in all.iter().enumerate() {
            let reply = registry.get(&format!("{url}?recursive=1&after={after}"));
            assert_eq!(paths(&reply), all[place + 1..], "{after}");
        }
        let entries = listing(&reply);
        let entry = |path: &str| {
            let mut entry = entries.iter().find(|entry| entry["path"] == path).unwrap().clone();
            let mtime = entry["mtime"].take();
            assert!(mtime.as_u64().is_some_and(|mtime| mtime > 1_600_000_000_000), "{mtime}");
            entry
        };
        let file = |path: &str, content: &[u8], blob: &Digest| {
            json!({"path": path, "type": "file", "size": content.len(), "mode": 0o644,
                "mtime": null, "image": digest.hex(), "uid": 0, "gid": 0,
                "layer": blob.to_string(), "digest": sha256(content).to_string()})
        };
        let note = b"a note\n";
        assert_eq!(entry("/docs-more"), file("/docs-more", note, &sha256(note)));
        assert_eq!(entry("/manifest.json"), file("/manifest.json", &manifest, &digest));
        let directory = json!({"path": "/docs/", "type": "directory", "size": 0, "mode": 0o755,
            "mtime": null, "image": digest.hex(), "uid": 0, "gid": 0});
        assert_eq!(entry("/docs/"), directory);
    }
    let docs = ["/docs/empty", "/docs/readme.md"];
    for path in ["docs", "docs/", "//docs//", "./docs", "docs/../docs/.", "%64ocs", "../docs"] {
        for url in urls("tree", "files", path) {
            assert_eq!(paths(&registry.get(&url)), docs, "{url}");
        }
    }
    for url in urls("tree", "files", "docs/readme.md") {
        assert_eq!(paths(&registry.get(&url)), docs[1..], "{url}");
    }
    // A digest is a name of it, too; a platform makes no difference.
    for id in [digest.to_string(), digest.hex(), digest.hex()[..12].to_owned()] {
        let url = format!("/v1/images/{id}/tree/docs?platform=windows/amd64");
        assert_eq!(paths(&registry.get(&url)), docs, "{url}");
    }
    let chart = ["no real tar", "{\"name\":\"app\"}"].map(|content| format!("/{}", dash(content)));
    let mut want = vec!["/manifest.json".to_owned()];
    want.extend(chart);
    want.sort();
    assert_eq!(paths(&registry.get("/v1/images/app:chart/tree/")), want);
    assert_eq!(registry.get(&format!("/v1/images/app:sig/blobs/{empty}")).text(), "{}");
}

#[test]
fn content() {
    let registry = Registry::start(&[]);
    let digest = stock(&registry);
    let manifest = registry.get("/v2/app/manifests/files").text();
    let untitled = dash("no title\n");
    for (path, want) in [
        ("docs/readme.md", "a file\n"),
        ("/docs//readme.md/", "a file\n"),
        ("docs/empty", ""),
        ("docs-more", "a note\n"),
        (&untitled, "no title\n"),
        ("manifest.json", &manifest),
    ] {
        let by_tag = urls("blobs", "files", path);
        let by_digest = [
            format!("/v1/images/{digest}/blobs/{path}"),
            format!("/v2/app/_files/blobs/{digest}/{path}"),
        ];
        for (urls, caching) in [(by_tag, "no-cache"), (by_digest, LASTING)] {
            for url in urls {
                let reply = registry.get(&url);
                assert_eq!((reply.status, reply.text()), (200, want.to_owned()), "{url}");
                let etag = format!("\"{}\"", sha256(want.as_bytes()));
                let length = want.len().to_string();
                headers(
                    &reply,
                    &[
                        ("content-type", Some("application/octet-stream")),
                        ("content-length", Some(&length)),
                        ("accept-ranges", Some("bytes")),
                        ("etag", Some(&etag)),
                        ("cache-control", Some(caching)),
                        ("content-security-policy", Some("sandbox; default-src 'none'")),
                    ],
                    &url,
                );
                let head = registry.head(&url);
                assert_eq!((head.status, head.body.len()), (200, 0), "HEAD {url}");
                assert_eq!(lasting_headers(&head), lasting_headers(&reply), "HEAD {url}");
                let again = registry.send("GET", &url, &[("If-None-Match", &etag)], b"");
                assert_eq!((again.status, again.body.len()), (304, 0), "{url}");
            }
        }
    }
    for (path, status, code) in [
        ("", 400, "FILE_INVALID"),
        ("docs", 400, "FILE_INVALID"),
        ("none", 404, "FILE_UNKNOWN"),
        ("docs/none", 404, "FILE_UNKNOWN"),
        ("docs-more/x", 404, "FILE_UNKNOWN"),
        (&"x".repeat(256), 400, "FILE_INVALID"),
    ] {
        let reply = registry.get(&format!("/v2/app/_files/blobs/files/{path}"));
        refused(&reply, status, code, path);
        let reply = registry.get(&format!("/v1/images/app:files/blobs/{path}"));
        assert_eq!(reply.status, status, "{path}: {}", reply.text());
    }
}

/// A blob that goes out in several pieces.
#[test]
fn ranges() {
    let registry = Registry::start(&[]);
    let long: String = noise(5, 400_000).iter().map(|byte| char::from(b'a' + byte % 26)).collect();
    let blobs = [("text/spdx+json", long.as_str(), Some("sbom.json"))];
    registry.push_artifact("app", "sbom", (OCI_EMPTY, "{}"), &blobs, example());
    for url in urls("blobs", "sbom", "sbom.json") {
        assert!(registry.get(&url).text() == long, "{url}");
        for (range, want) in [
            ("bytes=0-0", 0..1),
            ("bytes=100-280000", 100..280_001),
            ("bytes=-3", 399_997..400_000),
        ] {
            let reply = registry.send("GET", &url, &[("Range", range)], b"");
            assert_eq!(reply.status, 206, "{url} {range}");
            assert!(reply.text() == long[want.clone()], "{url} {range}");
            let content_range = format!("bytes {}-{}/400000", want.start, want.end - 1);
            headers(&reply, &[("content-range", Some(&content_range))], range);
        }
        let reply = registry.send("GET", &url, &[("Range", "bytes=400000-")], b"");
        assert_eq!(reply.status, 416, "{url}");
    }
    let archive = body(&registry.get("/v1/images/app:sbom/tar/sbom.json"));
    assert!(archive.windows(long.len()).any(|bytes| bytes == long.as_bytes()));
}

#[test]
fn archives() {
    let registry = Registry::start(&[]);
    stock(&registry);
    let names = |archive: &[u8], gzip: bool| -> Vec<String> {
        let name = |line: String| line.rsplit(' ').next().expect("a name").to_owned();
        table(archive, gzip).into_iter().map(name).collect()
    };
    let [empty, untitled] = ["{}", "no title\n"].map(dash);
    let mut want = vec!["docs/", "docs/empty", "docs/readme.md", "docs-more", "manifest.json"];
    let mut digests = [empty.as_str(), untitled.as_str()];
    digests.sort_unstable();
    want.extend(digests);
    for url in urls("tar", "files", "") {
        let reply = registry.get(&url);
        headers(&reply, &[("content-type", Some("application/x-tar"))], &url);
        let archive = body(&reply);
        assert_eq!(names(&archive, false), want, "{url}");
        assert!(body(&registry.get(&url)) == archive, "the same bytes again");
        assert_eq!(names(&body(&registry.get(&format!("{url}?gzip=1"))), true), want, "{url}");
        let head = registry.head(&url);
        assert_eq!((head.status, head.body.len()), (200, 0));
    }
    for (path, want) in [("docs", &["empty", "readme.md"][..]), ("docs/empty", &["empty"])] {
        for url in urls("tar", "files", path) {
            assert_eq!(names(&body(&registry.get(&url)), false), want, "{url}");
        }
    }
}

/// A title is a name inside the artifact, or none at all.
#[test]
fn titles_that_try_to_break_out() {
    let registry = Registry::start(&[]);
    let victim = dash("victim");
    let (long, deep) = ("x".repeat(256), "d/".repeat(16) + "x");
    let under_digest = format!("{victim}/x");
    let titles = [
        "../above",
        "/etc/passwd",
        "a/../../b",
        "..",
        ".",
        "",
        "a//b",
        "a\0b",
        "manifest.json",
        "manifest.json/x",
        &victim,
        &under_digest,
        &long,
        &deep,
    ];
    let contents: Vec<String> = titles.iter().map(|title| format!("of {title:?}")).collect();
    let mut blobs: Vec<_> = titles
        .iter()
        .zip(&contents)
        .map(|(title, content)| (TAR, content.as_str(), Some(*title)))
        .collect();
    blobs.push((TAR, "victim", None));
    // One path for two files, and a file in the way of a directory.
    blobs.extend([
        (TAR, "first", Some("f")),
        (TAR, "second", Some("f")),
        (TAR, "below", Some("f/g")),
    ]);
    registry.push_artifact("app", "odd", (OCI_EMPTY, "{}"), &blobs, example());
    let mut want: Vec<String> = contents.iter().map(|content| dash(content)).collect();
    want.extend(["victim", "second", "below", "{}"].map(dash));
    want.extend(["f".to_owned(), "manifest.json".to_owned()]);
    want.sort();
    let want: Vec<String> = want.iter().map(|name| format!("/{name}")).collect();
    let manifest = registry.get("/v2/app/manifests/odd").text();
    for url in urls("tree", "odd", "?recursive=1") {
        assert_eq!(paths(&registry.get(&url)), want, "{url}");
    }
    let mut documents = vec![
        (victim.clone(), "victim"),
        ("f".to_owned(), "first"),
        (dash("second"), "second"),
        ("manifest.json".to_owned(), &manifest),
    ];
    documents.extend(contents.iter().map(|content| (dash(content), content.as_str())));
    for (path, want) in documents {
        for url in urls("blobs", "odd", &path) {
            assert_eq!(registry.get(&url).text(), want, "{url}");
        }
    }
    for url in urls("tar", "odd", "") {
        let listed = table(&body(&registry.get(&url)), false);
        assert_eq!(listed.len(), want.len(), "{listed:#?}");
        assert!(
            !listed.iter().any(|line| line.contains("..") || line.contains(" /")),
            "{listed:#?}"
        );
    }
}

/// A blob that is gone takes its name with it, so that no other blob is found under it.
#[test]
fn blobs_that_are_gone() {
    let registry = Registry::start(&[]);
    let blobs = [(TAR, "one", Some("name")), (TAR, "two", Some("name"))];
    registry.push_artifact("app", "twins", (OCI_EMPTY, "{}"), &blobs, example());
    let url = "/v1/images/app:twins/blobs/name";
    assert_eq!(registry.get(url).text(), "one");
    let reply = registry.delete(&format!("/v2/app/blobs/{}", sha256(b"one")));
    assert_eq!(reply.status, 202, "{}", reply.text());
    assert_eq!(registry.get(url).status, 404);
    let second = format!("/v1/images/app:twins/blobs/{}", dash("two"));
    assert_eq!(registry.get(&second).text(), "two");
    let mut want =
        [dash("two"), dash("{}"), "manifest.json".to_owned()].map(|name| format!("/{name}"));
    want.sort();
    assert_eq!(paths(&registry.get("/v1/images/app:twins/tree/")), want);
    registry.push_blob("app", b"one");
    assert_eq!(registry.get(url).text(), "one");
}

/// An index can lead to an artifact as to an image. One without any is refused as before.
#[test]
fn indexes() {
    let registry = Registry::start(&[]);
    let (tool, config) = ([(TAR, "no tar", Some("tool"))], (OCI_EMPTY, "{}"));
    let child = registry.push_artifact("app", "tool", config, &tool, example());
    let size = registry.get("/v2/app/manifests/tool").body.len();
    let mut descriptor_of_child = descriptor(OCI_MANIFEST, &child, size);
    descriptor_of_child["platform"] = json!({"os": "linux", "architecture": "s390x"});
    let index = |children: Value| {
        json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": children}).to_string()
    };
    let all = index(json!([descriptor_of_child]));
    assert_eq!(registry.push_manifest("app", "all", OCI_INDEX, all.as_bytes()).status, 201);
    for url in urls("blobs", "all", "tool?platform=linux/s390x") {
        assert_eq!(registry.get(&url).text(), "no tar", "{url}");
    }
    let other = registry.get("/v2/app/_files/tree/all/?platform=linux/amd64");
    refused(&other, 404, "MANIFEST_UNKNOWN", "another platform");
    let blob = registry.push_blob("app", b"cached");
    let cache = index(json!([descriptor(TAR, &blob, 6)]));
    assert_eq!(registry.push_manifest("app", "cache", OCI_INDEX, cache.as_bytes()).status, 201);
    let reply = registry.get("/v2/app/_files/tree/cache/");
    refused(&reply, 404, "MANIFEST_UNKNOWN", "a build cache");
    assert!(reply.text().contains("build cache"), "{}", reply.text());
}

/// A config names the images whose layers it describes, and no artifact that has it too.
#[test]
fn configs_of_artifacts() {
    let registry = Registry::start(&[]);
    let pushed = crate::files::push(&registry, "app", "image", &crate::files::layers());
    let config = registry.get(&format!("/v2/app/blobs/{}", pushed.config)).text();
    for number in 0..3 {
        let blobs = [(TAR, "something else", Some("etc"))];
        let mut kind = example();
        kind["annotations"] = json!({"number": number.to_string()});
        registry.push_artifact("app", "artifact", (OCI_CONFIG, &config), &blobs, kind);
    }
    for id in [pushed.config.to_string(), pushed.config.hex()] {
        let url = format!("/v1/images/{id}/tree/etc");
        assert_eq!(paths(&registry.get(&url)), ["/etc/new", "/etc/passwd"], "{url}");
    }
    stock(&registry);
    let empty = Algorithm::Sha256.digest(b"{}");
    let reply = registry.get(&format!("/v1/images/{empty}/tree/"));
    assert_eq!(reply.status, 409, "{}", reply.text());
}

#[test]
fn commands() {
    let mut registry = Registry::start(&[]);
    let digest = stock(&registry);
    let dir = registry.dir.clone();
    let manifest = registry.get("/v2/app/manifests/files").body;
    let json = body(&registry.get("/v1/images/app:files/tree/?recursive=1"));
    let [tar, part] =
        ["", "docs"].map(|path| body(&registry.get(&format!("/v1/images/app:files/tar/{path}"))));
    for running in [true, false] {
        if !running {
            assert!(registry.stop().success());
        }
        for id in ["app:files", &digest.to_string(), &digest.hex()[..12]] {
            assert_eq!(text(&dir, &["ls", id, "docs"]), "empty\nreadme.md\n", "{id}");
            assert_eq!(text(&dir, &["ls", "-R", id, "docs"]), "/docs/empty\n/docs/readme.md\n");
            assert!(printed(&dir, &["ls", "--json", "-R", id]) == json, "{id}");
            assert_eq!(
                printed(&dir, &["cat", id, "docs/readme.md", "docs-more"]),
                b"a file\na note\n"
            );
            assert_eq!(printed(&dir, &["cat", id, "/manifest.json"]), manifest);
            assert!(printed(&dir, &["export", id]) == tar, "{id}");
            assert!(printed(&dir, &["export", id, "docs"]) == part, "{id}");
        }
        let long = text(&dir, &["ls", "-l", "app:files", "docs"]);
        assert!(long.starts_with("-rw-r--r-- 0 0 0 20"), "{long}");
        assert!(text(&dir, &["ls", "app:sig"]).contains("manifest.json\n"));
        fails(&dir, &["cat", "app:files", "docs"], 1, "is a directory");
        fails(&dir, &["cat", "app:files", "none"], 1, "/none in app@sha256:");
    }
}
