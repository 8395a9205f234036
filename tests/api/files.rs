//! Looking into images: listings, files, subtrees.

use std::io::Write;
use std::process::{Command, Stdio};

use registry::oci::Digest;
use serde_json::{Value, json};

use crate::common::tar::{Member, Tar};
use crate::common::{
    OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, Registry, Reply, descriptor, image_manifest, noise,
};
use crate::support::{byte_ranges, headers, lasting_headers, next_page, sha256};

pub const OCI_TAR: &str = "application/vnd.oci.image.layer.v1.tar";
pub const LASTING: &str = "private, max-age=31536000, immutable";
pub const NAME: &str = "team/app";

/// Length of a file that goes out in several pieces.
const LONG: usize = 300_000;

/// An image that was pushed.
pub struct Pushed {
    pub manifest: Digest,
    pub config: Digest,
    pub layers: Vec<Digest>,
}

pub fn push(registry: &Registry, name: &str, tag: &str, layers: &[Vec<u8>]) -> Pushed {
    let digests: Vec<Digest> = layers.iter().map(|layer| registry.push_blob(name, layer)).collect();
    let diff_ids: Vec<String> = digests.iter().map(ToString::to_string).collect();
    let config = json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let config = config.to_string();
    let descriptors: Vec<Value> = digests
        .iter()
        .zip(layers)
        .map(|(digest, layer)| descriptor(OCI_TAR, digest, layer.len()))
        .collect();
    let config_digest = registry.push_blob(name, config.as_bytes());
    let manifest =
        image_manifest(&descriptor(OCI_CONFIG, &config_digest, config.len()), &descriptors);
    let reply = registry.push_manifest(name, tag, OCI_MANIFEST, manifest.as_bytes());
    assert_eq!(reply.status, 201, "{}", reply.text());
    Pushed { manifest: sha256(manifest.as_bytes()), config: config_digest, layers: digests }
}

/// Two layers with one of everything.
pub fn layers() -> Vec<Vec<u8>> {
    let owned = Member { uid: 1, gid: 2, mode: 0o640, mtime: 1_234_567_890, ..Member::default() };
    let setuid = Member { mode: 0o4755, ..Member::default() };
    let base = Tar::default()
        .symlink("abs", "/etc/passwd")
        .symlink("bin", "usr/bin")
        .symlink("dangling", "nowhere")
        .directory("dev/")
        .device("dev/null", b'3', (1, 3))
        .device("dev/pipe", b'6', (0, 0))
        .device("dev/sda", b'4', (8, 0))
        .directory("empty/")
        .directory("etc/")
        .file("etc/old", b"old")
        .member("etc/passwd", b"root:x:0:0\n", &owned)
        .symlink("loop", "loop")
        .symlink("out", "../../etc/passwd")
        .directory("usr/")
        .directory("usr/bin/")
        .member("usr/bin/long", &noise(1, LONG), &setuid)
        .hard_link("usr/bin/same", "usr/bin/long")
        .file("zero", b"");
    let top = Tar::default().file("etc/.wh.old", b"").file("etc/new", b"new");
    vec![base.finish(), top.finish()]
}

/// A registry with [`layers`] as `team/app:1.4`.
pub fn registry() -> (Registry, Pushed) {
    let registry = Registry::start(&[]);
    let pushed = push(&registry, NAME, "1.4", &layers());
    (registry, pushed)
}

/// The body, without the framing of chunks.
pub fn body(reply: &Reply) -> Vec<u8> {
    if reply.header("transfer-encoding") != Some("chunked") {
        return reply.body.clone();
    }
    let mut rest = reply.body.as_slice();
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|pair| pair == b"\r\n");
        let end = end.expect("the length of a chunk");
        let text = std::str::from_utf8(&rest[..end]).expect("digits");
        let length = usize::from_str_radix(text, 16).expect("a length");
        let chunk = &rest[end + 2..];
        body.extend_from_slice(&chunk[..length]);
        rest = &chunk[length + 2..];
        if length == 0 {
            return body;
        }
    }
}

pub fn listing(reply: &Reply) -> Vec<Value> {
    assert_eq!(reply.status, 200, "{}", reply.text());
    serde_json::from_slice(&body(reply)).unwrap_or_else(|e| panic!("{e}: {}", reply.text()))
}

fn field<'a>(entries: &'a [Value], name: &str) -> Vec<&'a str> {
    let text = |entry: &'a Value| entry[name].as_str().expect("text");
    entries.iter().map(text).collect()
}

pub fn paths(reply: &Reply) -> Vec<String> {
    let entries = listing(reply);
    let paths = field(&entries, "path");
    paths.into_iter().map(str::to_owned).collect()
}

#[test]
fn a_directory() {
    let (registry, pushed) = registry();
    let reply = registry.get("/v1/images/team%2Fapp:1.4/tree/etc");
    let image = pushed.config.hex();
    let want = json!([
        {
            "path": "/etc/new", "type": "file", "size": 3, "mode": 0o644, "mtime": 1_000_000_000_000_u64,
            "uid": 0, "gid": 0, "image": image, "layer": pushed.layers[1].to_string(),
            "digest": sha256(b"new").to_string(),
        },
        {
            "path": "/etc/passwd", "type": "file", "size": 11, "mode": 0o640, "mtime": 1_234_567_890_000_u64,
            "uid": 1, "gid": 2, "image": image, "layer": pushed.layers[0].to_string(),
            "digest": sha256(b"root:x:0:0\n").to_string(),
        },
    ]);
    assert_eq!(reply.json(), want);
    let length = reply.body.len().to_string();
    headers(
        &reply,
        &[
            ("content-type", Some("application/json")),
            ("content-length", Some(&length)),
            ("cache-control", Some("no-cache")),
            ("x-content-type-options", Some("nosniff")),
            ("content-security-policy", Some("sandbox; default-src 'none'")),
            ("link", None),
        ],
        "a listing",
    );

    let root = registry.get("/v1/images/team%2Fapp:1.4/tree/");
    let entries = listing(&root);
    let shown: Vec<String> = entries
        .iter()
        .map(|entry| {
            let text = |name: &str| entry[name].as_str().map(str::to_owned);
            let link = text("linkname").map(|link| format!(" -> {link}"));
            format!(
                "{} {}{}",
                text("type").expect("a type"),
                text("path").expect("a path"),
                link.unwrap_or_default()
            )
        })
        .collect();
    let want = [
        "symlink /abs -> /etc/passwd",
        "symlink /bin -> usr/bin",
        "symlink /dangling -> nowhere",
        "directory /dev/",
        "directory /empty/",
        "directory /etc/",
        "symlink /loop -> loop",
        "symlink /out -> ../../etc/passwd",
        "directory /usr/",
        "file /zero",
    ];
    assert_eq!(shown, want);

    let devices = listing(&registry.get("/v1/images/team%2Fapp:1.4/tree/dev/"));
    let device = |entry: &Value| {
        let fields = ["path", "type", "major", "minor", "digest"];
        fields.map(|name| entry[name].clone())
    };
    let devices: Vec<[Value; 5]> = devices.iter().map(device).collect();
    let none = Value::Null;
    let want = [
        ["/dev/null".into(), "character-device".into(), 1.into(), 3.into(), none.clone()],
        ["/dev/pipe".into(), "fifo".into(), none.clone(), none.clone(), none.clone()],
        ["/dev/sda".into(), "block-device".into(), 8.into(), 0.into(), none],
    ];
    assert_eq!(devices, want);

    let tools = listing(&registry.get("/v1/images/team%2Fapp:1.4/tree/usr/bin"));
    assert_eq!(field(&tools, "path"), ["/usr/bin/long", "/usr/bin/same"]);
    assert_eq!(field(&tools, "type"), ["file", "file"]);
    let digest = sha256(&noise(1, LONG)).to_string();
    assert_eq!(field(&tools, "digest"), [&digest, &digest], "hard links");
    for tool in &tools {
        assert_eq!((&tool["size"], &tool["mode"]), (&json!(LONG), &json!(0o4755)));
    }
}

/// Every way to name the image and the path.
#[test]
fn names() {
    let (registry, pushed) = registry();
    let want = registry.get("/v1/images/team%2Fapp:1.4/tree/etc");
    let (manifest, config) = (pushed.manifest.hex(), pushed.config.hex());
    for image in [
        "team%2fapp%3A1.4",
        &format!("sha256:{manifest}"),
        &format!("sha256:{config}"),
        &manifest,
        &config,
        &manifest[..12],
        &config[..20],
        &format!("sha256:{}", &manifest[..12]),
        &format!("team%2Fapp@sha256:{manifest}"),
        &format!("team%2Fapp:other@sha256:{manifest}"),
    ] {
        let reply = registry.get(&format!("/v1/images/{image}/tree/etc"));
        assert_eq!((reply.status, reply.text()), (200, want.text()), "{image}");
    }
    for path in ["etc/", "/etc", "//etc//", "e%74c", "%2Fetc%2F", "usr/../etc", "./etc"] {
        let reply = registry.get(&format!("/v1/images/{manifest}/tree/{path}"));
        assert_eq!((reply.status, reply.text()), (200, want.text()), "{path}");
    }
    for reference in ["1.4", &format!("sha256:{manifest}"), &format!("sha256%3A{manifest}")] {
        let reply = registry.get(&format!("/v2/team/app/_files/tree/{reference}/etc"));
        assert_eq!((reply.status, reply.text()), (200, want.text()), "{reference}");
    }
    let roots = ["/tree", "/tree/", "/tree//"].map(|end| {
        let reply = registry.get(&format!("/v1/images/{manifest}{end}"));
        paths(&reply)
    });
    assert_eq!(roots[0].len(), 10);
    assert!(roots.iter().all(|root| *root == roots[0]));
    assert_eq!(paths(&registry.get("/v2/team/app/_files/tree/1.4")), roots[0]);

    // A repository may be called as a part of the address is.
    push(&registry, "a/manifests", "tree", &layers());
    let reply = registry.get("/v2/a/manifests/_files/tree/tree/etc");
    assert_eq!(paths(&reply), ["/etc/new", "/etc/passwd"]);
    assert_eq!(registry.get("/v2/a/manifests/_files/blobs/tree/etc/new").text(), "new");
}

/// A listing shows what `ls` would: what is in a directory, also through a link;
/// anything else by itself.
#[test]
fn what_is_listed() {
    let (registry, _) = registry();
    for (path, want) in [
        ("etc/passwd", &["/etc/passwd"][..]),
        ("zero", &["/zero"]),
        ("dev/null", &["/dev/null"]),
        ("abs", &["/abs"]),
        ("dangling", &["/dangling"]),
        ("loop", &["/loop"]),
        ("bin", &["/usr/bin/long", "/usr/bin/same"]),
        ("bin/long", &["/usr/bin/long"]),
        ("empty", &[]),
    ] {
        for query in ["", "?recursive=1"] {
            let reply = registry.get(&format!("/v1/images/team%2Fapp:1.4/tree/{path}{query}"));
            assert_eq!(paths(&reply), want, "{path}{query}");
        }
    }
    let empty = registry.get("/v1/images/team%2Fapp:1.4/tree/empty");
    assert_eq!(empty.text(), "[]\n");
}

const ALL: [&str; 18] = [
    "/abs",
    "/bin",
    "/dangling",
    "/dev/",
    "/dev/null",
    "/dev/pipe",
    "/dev/sda",
    "/empty/",
    "/etc/",
    "/etc/new",
    "/etc/passwd",
    "/loop",
    "/out",
    "/usr/",
    "/usr/bin/",
    "/usr/bin/long",
    "/usr/bin/same",
    "/zero",
];

/// All pages, each of at most `limit` entries.
pub fn paged(registry: &Registry, first: &str, limit: usize) -> Vec<String> {
    let mut all = Vec::new();
    let mut next = Some(first.to_owned());
    while let Some(path) = next {
        let page = registry.get(&path);
        let entries = paths(&page);
        next = next_page(&page);
        if next.is_some() {
            assert_eq!(entries.len(), limit, "{path}");
            let head = registry.head(&path);
            assert_eq!(next_page(&head), next, "HEAD {path}");
        }
        assert!(!entries.is_empty() && entries.len() <= limit, "{path}");
        all.extend(entries);
        assert!(all.len() <= 100, "the pages do not end: {path}");
    }
    all
}

#[test]
fn pages() {
    let (registry, pushed) = registry();
    let images = [
        "/v1/images/team%2Fapp:1.4/tree".to_owned(),
        format!("/v1/images/{}/tree", pushed.config),
        "/v2/team/app/_files/tree/1.4".to_owned(),
    ];
    for image in images {
        let whole = registry.get(&format!("{image}/?recursive=1"));
        assert_eq!(paths(&whole), ALL);
        for limit in [1, 2, 5, 17, 18, 19, 1000] {
            let first = format!("{image}/?recursive=1&limit={limit}");
            assert_eq!(paged(&registry, &first, limit), ALL, "{first}");
        }
        let children = paths(&registry.get(&format!("{image}/")));
        for limit in [1, 3, 9, 10, 11] {
            let first = format!("{image}/?limit={limit}");
            assert_eq!(paged(&registry, &first, limit), children, "{first}");
        }
        // Through a link, the pages go on where it leads.
        let first = format!("{image}/bin?limit=1");
        assert_eq!(paged(&registry, &first, 1), ["/usr/bin/long", "/usr/bin/same"]);
        // After any path there is, and some that are not.
        for (i, after) in ALL.iter().enumerate() {
            let reply = registry.get(&format!("{image}/?recursive=1&after={after}"));
            assert_eq!(paths(&reply), ALL[i + 1..], "{after}");
        }
        for (after, want) in [
            ("/", &ALL[..]),
            ("/a", &ALL),
            ("/dev/o", &ALL[5..]),
            ("/dev/null/x", &ALL[5..]),
            ("/zz", &[]),
            ("etc", &ALL[9..]),
        ] {
            let reply = registry.get(&format!("{image}/?recursive=1&after={after}"));
            assert_eq!(paths(&reply), want, "{after}");
        }
        let reply = registry.get(&format!("{image}/?after=/etc/new"));
        assert_eq!(paths(&reply), ["/loop", "/out", "/usr/", "/zero"]);
        let reply = registry.get(&format!("{image}/etc/?after=/etc"));
        assert_eq!(paths(&reply), ["/etc/new", "/etc/passwd"]);
        let reply = registry.get(&format!("{image}/?limit=99999999999999999999999999"));
        assert_eq!(paths(&reply).len(), 10, "any number");
    }
}

/// Names that mean something in URLs, JSON or terminals, or are no text at all.
#[test]
fn odd_names() {
    const NAMES: [&[u8]; 9] = [
        b"\x01\x1b[31m",
        b" blank ",
        b"\"quote\"",
        b"a%62",
        b"line\nbreak",
        b"q?x=1&y#z;+",
        "\u{fc}\u{1f980}".as_bytes(),
        b"\\",
        b"\xff\xfe",
    ];
    let mut names = NAMES.to_vec();
    names.sort_unstable();
    let mut tar = Tar::default().directory(b"d\xe4/");
    for name in &names {
        tar = tar.file([b"d\xe4/", *name].concat(), name);
    }
    let registry = Registry::start(&[]);
    push(&registry, "odd", "latest", &[tar.finish()]);
    let entries = listing(&registry.get("/v1/images/odd/tree/?recursive=1"));
    assert_eq!(entries[0]["path"], "/d\u{fffd}/");
    assert_eq!(entries[0]["path_bytes"], "/d%E4/");
    assert_eq!(entries.len(), names.len() + 1);
    for (entry, name) in entries[1..].iter().zip(&names) {
        let path = format!("/d\u{fffd}/{}", String::from_utf8_lossy(name));
        assert_eq!(entry["path"], *path);
        let bytes = entry["path_bytes"].as_str().expect("the folder is not UTF-8");
        let reply = registry.get(&format!("/v1/images/odd/blobs{bytes}"));
        assert_eq!((reply.status, reply.body.as_slice()), (200, *name), "{bytes}");
        let reply = registry.get(&format!("/v1/images/odd/tree{bytes}"));
        assert_eq!(listing(&reply), std::slice::from_ref(entry), "{bytes}");
        // What comes after it.
        let reply = registry.get(&format!("/v1/images/odd/tree/?recursive=1&after={bytes}"));
        let rest = listing(&reply);
        let place = entries.iter().position(|e| e == entry).expect("it is there");
        assert_eq!(rest, entries[place + 1..], "{bytes}");
    }
    for limit in [1, 4] {
        let first = format!("/v1/images/odd/tree/d%e4?limit={limit}");
        let paths = paged(&registry, &first, limit);
        assert_eq!(paths, field(&entries[1..], "path"));
    }
}

#[test]
fn content() {
    let (registry, pushed) = registry();
    let long = noise(1, LONG);
    for image in [
        "/v1/images/team%2Fapp:1.4/blobs".to_owned(),
        format!("/v1/images/{}/blobs", pushed.manifest),
        format!("/v1/images/{}/blobs", pushed.config),
        format!("/v1/images/{}/blobs", pushed.config.hex()),
        format!("/v1/images/{}/blobs", &pushed.config.hex()[..12]),
        "/v2/team/app/_files/blobs/1.4".to_owned(),
        format!("/v2/team/app/_files/blobs/{}", pushed.manifest),
    ] {
        // Digits alone may be an id that a client chose.
        let lasting = image.contains(&pushed.manifest.to_string())
            || image.contains(&pushed.config.to_string());
        for (path, want) in [
            ("etc/passwd", &b"root:x:0:0\n"[..]),
            ("/etc//passwd/", b"root:x:0:0\n"),
            ("etc/new", b"new"),
            ("zero", b""),
            ("abs", b"root:x:0:0\n"),
            ("out", b"root:x:0:0\n"),
            ("usr/bin/long", &long),
            ("usr/bin/same", &long),
            ("bin/same", &long),
        ] {
            let url = format!("{image}/{path}");
            let reply = registry.get(&url);
            assert_eq!(reply.status, 200, "{url}: {}", reply.text());
            assert!(reply.body == want, "{url}");
            let (length, etag) = (want.len().to_string(), format!("\"{}\"", sha256(want)));
            headers(
                &reply,
                &[
                    ("content-type", Some("application/octet-stream")),
                    ("content-length", Some(&length)),
                    ("accept-ranges", Some("bytes")),
                    ("etag", Some(&etag)),
                    ("cache-control", Some(if lasting { LASTING } else { "no-cache" })),
                    ("x-content-type-options", Some("nosniff")),
                    ("content-security-policy", Some("sandbox; default-src 'none'")),
                ],
                &url,
            );
            let head = registry.head(&url);
            assert_eq!((head.status, head.body.len()), (200, 0), "HEAD {url}");
            assert_eq!(lasting_headers(&head), lasting_headers(&reply), "HEAD {url}");
        }
    }
}

/// A proxy may have decoded the slashes of a name; its tag or digest tells where it ends.
#[test]
fn decoded_names() {
    let (registry, _) = registry();
    let long = noise(1, LONG);
    for id in ["team%2Fapp:1.4", "team/app:1.4", "team/app%3A1.4"] {
        let reply = registry.get(&format!("/v1/images/{id}/blobs/usr/bin/long"));
        let found = id != "team/app%3A1.4";
        assert_eq!(reply.status, if found { 200 } else { 404 }, "{id}: {}", reply.text());
        assert!(!found || reply.body == long, "{id}");
    }
    let reply = registry.get("/v1/images/team/app/tree/usr");
    assert_eq!(reply.status, 404, "a name without a tag");
    assert!(reply.text().contains("%2F"), "{}", reply.text());
    let reply = registry.get("/v2/team%2Fapp/_files/blobs/1.4/usr/bin/long");
    assert!(reply.body == long);
}

#[test]
fn ranges() {
    let (registry, _) = registry();
    let long = noise(1, LONG);
    let url = "/v1/images/team%2Fapp:1.4/blobs/usr/bin/long";
    const END: usize = LONG;
    for (range, want) in [
        ("bytes=0-0", 0..1),
        ("bytes=0-", 0..END),
        ("bytes=5-9", 5..10),
        ("bytes=131071-131072", 131_071..131_073),
        ("bytes=100-280000", 100..280_001),
        ("bytes=-10", END - 10..END),
        ("bytes=299999-400000", END - 1..END),
    ] {
        let reply = registry.send("GET", url, &[("Range", range)], b"");
        assert_eq!(reply.status, 206, "{range}");
        assert!(reply.body == long[want.clone()], "{range}");
        let content_range = format!("bytes {}-{}/{END}", want.start, want.end - 1);
        let length = want.len().to_string();
        headers(
            &reply,
            &[("content-range", Some(content_range.as_str())), ("content-length", Some(&length))],
            range,
        );
    }
    let several = [("Range", "bytes=9-9,100-280000,0-0")];
    let reply = registry.send("GET", url, &several, b"");
    assert_eq!(reply.status, 206);
    assert_eq!(byte_ranges(&reply, &long), [9..10, 100..280_001, 0..1]);
    let reply = registry.send("GET", url, &[("Range", "bytes=300000-")], b"");
    assert_eq!(reply.status, 416);
    headers(&reply, &[("content-range", Some("bytes */300000"))], "behind the end");
    assert!(reply.json()["error"].is_string());
    let reply = registry.send("HEAD", url, &[("Range", "bytes=0-0")], b"");
    assert_eq!(reply.status, 200, "HEAD takes no range");

    let etag = format!("\"{}\"", sha256(&long));
    for method in ["GET", "HEAD"] {
        let reply = registry.send(method, url, &[("If-None-Match", &etag)], b"");
        assert_eq!((reply.status, reply.body.len()), (304, 0), "{method}");
        headers(
            &reply,
            &[
                ("etag", Some(etag.as_str())),
                ("cache-control", Some("no-cache")),
                ("content-length", None),
                ("content-type", None),
            ],
            method,
        );
        let reply = registry.send(method, url, &[("If-None-Match", "\"other\"")], b"");
        assert_eq!(reply.status, 200, "{method}");
    }
    for (tag, status) in [(etag.as_str(), 206), ("\"other\"", 200)] {
        let conditions = [("Range", "bytes=0-0"), ("If-Range", tag)];
        assert_eq!(registry.send("GET", url, &conditions, b"").status, status);
    }
}

/// What `tar -tv` says of an archive.
pub fn table(archive: &[u8], gzip: bool) -> Vec<String> {
    let mut tar = Command::new("tar")
        .args(["--utc", "--full-time", "--numeric-owner"])
        .arg(if gzip { "-tzvf" } else { "-tvf" })
        .arg("-")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("tar is part of every Debian");
    let mut stdin = tar.stdin.take().expect("piped");
    let archive = archive.to_vec();
    let writing = std::thread::spawn(move || stdin.write_all(&archive));
    let output = tar.wait_with_output().expect("its output");
    // It may end before it has read the last blocks.
    drop(writing.join().expect("no panic"));
    assert!(output.status.success(), "tar refuses the archive");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    text.lines().map(words).collect()
}

#[test]
fn subtrees() {
    let (registry, pushed) = registry();
    let image = "/v1/images/team%2Fapp:1.4/tar";
    let whole = registry.get(&format!("{image}/"));
    assert_eq!(whole.status, 200, "{}", whole.text());
    headers(
        &whole,
        &[
            ("content-type", Some("application/x-tar")),
            ("cache-control", Some("no-cache")),
            ("transfer-encoding", Some("chunked")),
            ("content-security-policy", Some("sandbox; default-src 'none'")),
        ],
        "a tar",
    );
    let archive = body(&whole);
    let listed = table(&archive, false);
    assert_eq!(listed.len(), ALL.len(), "{listed:#?}");
    for line in [
        "-rw-r----- 1/2 11 2009-02-13 23:31:30 etc/passwd",
        "-rwsr-xr-x 0/0 300000 2001-09-09 01:46:40 usr/bin/long",
        "lrwxrwxrwx 0/0 0 2001-09-09 01:46:40 bin -> usr/bin",
        "crw-r--r-- 0/0 1,3 2001-09-09 01:46:40 dev/null",
        "drwxr-xr-x 0/0 0 2001-09-09 01:46:40 empty/",
    ] {
        assert!(listed.iter().any(|l| l.replace(" ./", " ") == line), "{line} in {listed:#?}");
    }
    for other in [
        format!("/v1/images/{}/tar", pushed.manifest.hex()),
        format!("/v1/images/{}/tar/?gzip=0", pushed.config),
        "/v2/team/app/_files/tar/1.4".to_owned(),
        format!("/v2/team/app/_files/tar/{}/", pushed.manifest),
    ] {
        assert!(body(&registry.get(&other)) == archive, "{other}");
    }

    let compressed = registry.get(&format!("{image}/?gzip=1"));
    headers(&compressed, &[("content-type", Some("application/gzip"))], "gzip");
    assert_eq!(table(&body(&compressed), true), listed);

    for part in ["usr/bin", "bin", "/usr//bin/"] {
        let listed = table(&body(&registry.get(&format!("{image}/{part}"))), false);
        assert_eq!(listed.len(), 2, "{part}: {listed:#?}");
    }
    let listed = table(&body(&registry.get(&format!("{image}/etc/new"))), false);
    assert_eq!(listed.len(), 1, "a file: {listed:#?}");

    for (query, media_type) in [("", "application/x-tar"), ("?gzip=1", "application/gzip")] {
        let head = registry.head(&format!("{image}/{query}"));
        assert_eq!((head.status, head.body.len()), (200, 0));
        headers(&head, &[("content-type", Some(media_type)), ("content-length", None)], "HEAD");
    }
}

/// An index has an image for each platform.
#[test]
fn platforms() {
    let registry = Registry::start(&[]);
    let mut children = Vec::new();
    for platform in ["amd64", "arm64", "s390x"] {
        let tar = Tar::default().file("which", platform.as_bytes()).finish();
        let pushed = push(&registry, "many", platform, &[tar]);
        let size = registry.get(&format!("/v2/many/manifests/{platform}")).body.len();
        let mut child = descriptor(OCI_MANIFEST, &pushed.manifest, size);
        child["platform"] = json!({"os": "linux", "architecture": platform});
        children.push(child);
    }
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": children});
    let index = index.to_string();
    let reply = registry.push_manifest("many", "all", OCI_INDEX, index.as_bytes());
    assert_eq!(reply.status, 201, "{}", reply.text());
    let host = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let digest = sha256(index.as_bytes());
    for image in ["/v1/images/many:all".to_owned(), format!("/v1/images/{digest}")] {
        for (query, want) in [
            ("", host),
            ("?platform=linux/arm64", "arm64"),
            ("?platform=linux%2Farm64%2Fv8", "arm64"),
            ("?platform=linux/s390x", "s390x"),
        ] {
            let reply = registry.get(&format!("{image}/blobs/which{query}"));
            assert_eq!((reply.status, reply.text()), (200, want.to_owned()), "{query}");
        }
        let next = format!("{image}/tree/?platform=linux/s390x&limit=1&after=/a");
        assert_eq!(paths(&registry.get(&next)), ["/which"]);
    }
    let reply = registry.get("/v2/many/_files/blobs/all/which?platform=linux/arm64");
    assert_eq!(reply.text(), "arm64");

    let reply = registry.get("/v1/images/many:all/tree/?platform=windows/amd64");
    assert_eq!(reply.status, 404);
    let error = reply.json()["error"].to_string();
    for there in ["linux/amd64", "linux/arm64", "linux/s390x"] {
        assert!(error.contains(there), "{error}");
    }
    let reply = registry.get("/v1/images/many:all/tree/?platform=windows");
    assert_eq!(reply.status, 400);
}

/// A listing that does not fit into memory at once goes out in pieces.
#[test]
fn long_listings() {
    const FILES: usize = 3000;
    let mut tar = Tar::default();
    let mut want = Vec::new();
    for i in 0..FILES {
        tar = tar.file(format!("f{i:05}"), b"");
        want.push(format!("/f{i:05}"));
    }
    let registry = Registry::start(&[]);
    push(&registry, "long", "latest", &[tar.finish()]);
    for query in ["", "?recursive=1"] {
        let url = format!("/v1/images/long/tree/{query}");
        let reply = registry.get(&url);
        headers(&reply, &[("transfer-encoding", Some("chunked")), ("content-length", None)], query);
        assert_eq!(paths(&reply), want);
        let head = registry.head(&url);
        assert_eq!((head.status, head.body.len()), (200, 0));
        headers(&head, &[("content-length", None)], "a length nobody knows");
    }
    // A page that goes out in pieces says where the next one starts before.
    let page = registry.get("/v1/images/long/tree/?limit=2999");
    assert_eq!(paths(&page), want[..2999]);
    let next = next_page(&page).expect("one is left");
    let last = registry.get(&next);
    assert_eq!(paths(&last), want[2999..]);
    assert_eq!(next_page(&last), None);
    let page = registry.get("/v1/images/long/tree/?limit=3000");
    assert_eq!(paths(&page), want);
    assert_eq!(next_page(&page), None);
}

/// More clients than there may be downloads, each of which leaves in the middle.
#[test]
fn clients_that_leave() {
    const SIZE: usize = 24 << 20;
    const CLIENTS: usize = 40;
    let registry = Registry::start(&[]);
    let content = noise(2, SIZE);
    let tar = Tar::default().file("big", &content).finish();
    push(&registry, "big", "latest", &[tar]);
    for _ in 0..CLIENTS {
        for path in ["tar/", "blobs/big"] {
            use std::io::Read;
            let mut stream = registry.connect();
            let request = format!("GET /v1/images/big/{path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            stream.write_all(request.as_bytes()).expect("it listens");
            stream.read_exact(&mut [0; 1000]).expect("the start");
        }
    }
    let reply = registry.get("/v1/images/big/blobs/big");
    assert!(reply.body == content);
    let archive = body(&registry.get("/v1/images/big/tar/"));
    assert_eq!(table(&archive, false).len(), 1);
    assert!(!registry.log().contains("ERROR"), "{}", registry.log());
}
