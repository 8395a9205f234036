//! What the tests of the API share beyond the harness.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::path::{Path, PathBuf};

use registry::oci::{Algorithm, Digest};
use serde_json::{Value, json};

use crate::common::{OCI_CONFIG, OCI_EMPTY, Registry, Reply, descriptor, image_manifest};

/// The content of most configs here.
pub const EMPTY_JSON: &[u8] = b"{}";

pub fn sha256(bytes: &[u8]) -> Digest {
    Algorithm::Sha256.digest(bytes)
}

/// A digest that nothing pushed here has.
pub fn absent() -> Digest {
    sha256(b"never pushed")
}

/// Checks a refusal: its status, and a body that is one error in the OCI form.
#[track_caller]
pub fn refused(reply: &Reply, status: u16, code: &str, why: &str) {
    let text = reply.text();
    assert_eq!(reply.status, status, "{why}: {text}");
    let length = reply.body.len().to_string();
    headers(
        reply,
        &[("content-type", Some("application/json")), ("content-length", Some(&length))],
        why,
    );
    let document = reply.json();
    let message = document["errors"][0]["message"].as_str().unwrap_or("");
    assert!(!message.is_empty(), "{why}: {text}");
    assert_eq!(document, json!({"errors": [{"code": code, "message": message}]}), "{why}");
}

/// Checks several headers at once.
#[track_caller]
pub fn headers(reply: &Reply, want: &[(&str, Option<&str>)], why: &str) {
    for (name, value) in want {
        assert_eq!(reply.header(name), *value, "{name}, {why}");
    }
}

/// The ranges of a `multipart/byteranges` answer, whose bytes must be those of `content`.
#[track_caller]
pub fn byte_ranges(reply: &Reply, content: &[u8]) -> Vec<Range<usize>> {
    let media_type = reply.header("content-type").expect("a type");
    let boundary = media_type.strip_prefix("multipart/byteranges; boundary=").expect(media_type);
    let head = "\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes ";
    let mut rest = after(&reply.body, &format!("--{boundary}"));
    let mut ranges = Vec::new();
    while !rest.starts_with(b"--") {
        rest = after(rest, head);
        let end =
            rest.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("an end of the head");
        let range = std::str::from_utf8(&rest[..end]).expect("text");
        let (range, size) = range.split_once('/').expect("a size");
        let (first, last) = range.split_once('-').expect("two numbers");
        let [first, last, size]: [usize; 3] =
            [first, last, size].map(|number| number.parse().expect("a number"));
        assert_eq!(size, content.len());
        rest = &rest[end + 4..];
        assert!(rest[..last + 1 - first] == content[first..=last], "{range}");
        rest = after(&rest[last + 1 - first..], &format!("\r\n--{boundary}"));
        ranges.push(first..last + 1);
    }
    assert_eq!(rest, b"--\r\n");
    ranges
}

#[track_caller]
fn after<'a>(bytes: &'a [u8], text: &str) -> &'a [u8] {
    let rest = bytes.strip_prefix(text.as_bytes());
    rest.unwrap_or_else(|| panic!("want {text:?}"))
}

/// All values of a header, in order.
pub fn header_values<'a>(reply: &'a Reply, name: &str) -> Vec<&'a str> {
    let named = reply.headers.iter().filter(|(key, _)| key == name);
    named.map(|(_, value)| value.as_str()).collect()
}

/// The headers that a GET and a HEAD of one thing must have in common.
pub fn lasting_headers(reply: &Reply) -> Vec<(String, String)> {
    let mut headers = reply.headers.clone();
    headers.retain(|(name, _)| name != "date" && name != "x-request-id");
    headers.sort();
    headers
}

/// What the answer's `Link` names as the next page.
#[track_caller]
pub fn next_page(reply: &Reply) -> Option<String> {
    let link = reply.header("link")?;
    let target = link.strip_prefix('<').and_then(|rest| rest.strip_suffix(">; rel=\"next\""));
    Some(target.unwrap_or_else(|| panic!("{link}")).to_owned())
}

/// All pages of a listing, from `path` on.
#[track_caller]
pub fn pages(registry: &Registry, path: &str) -> Vec<Reply> {
    const MAX: usize = 20;
    let mut pages: Vec<Reply> = Vec::new();
    let mut next = Some(path.to_owned());
    while let Some(path) = next {
        assert!(pages.len() < MAX, "the pages do not end: {path}");
        let page = registry.get(&path);
        assert_eq!(page.status, 200, "{path}: {}", page.text());
        next = next_page(&page);
        pages.push(page);
    }
    pages
}

/// The strings of a JSON array.
pub fn strings(value: &Value) -> Vec<&str> {
    let items = value.as_array().unwrap_or_else(|| panic!("{value}"));
    items.iter().map(|item| item.as_str().expect("a string")).collect()
}

/// The address that ends an upload.
pub fn closing(location: &str, digest: &Digest) -> String {
    let separator = if location.contains('?') { '&' } else { '?' };
    format!("{location}{separator}digest={digest}")
}

/// The smallest image there is: an empty config and no layers. Pushes the
/// config.
pub fn bare_manifest(registry: &Registry, repository: &str) -> String {
    let config = registry.push_blob(repository, EMPTY_JSON);
    image_manifest(&descriptor(OCI_CONFIG, &config, EMPTY_JSON.len()), &[])
}

/// The descriptor of the empty config of artifacts.
pub fn empty_config() -> Value {
    descriptor(OCI_EMPTY, &sha256(EMPTY_JSON), EMPTY_JSON.len())
}

/// A connection that stays open, for what shows on one only.
pub struct Connection(BufReader<TcpStream>);

impl Connection {
    pub fn open(registry: &Registry) -> Connection {
        Connection(BufReader::new(registry.connect()))
    }

    pub fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.get_mut().write_all(bytes.as_ref()).expect("the server reads");
    }

    /// The next head, with the empty line that ends it.
    pub fn head(&mut self) -> String {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let read = self.0.read_line(&mut head).expect("an answer");
            assert_ne!(read, 0, "the server closed after {head:?}");
        }
        head
    }

    /// The next answer, to a request with `method`.
    pub fn reply(&mut self, method: &str) -> Reply {
        let head = self.head();
        let mut reply = Reply::parse(head.as_bytes()).expect("an answer");
        if method != "HEAD" && !matches!(reply.status, 204 | 304) {
            let length = reply.header("content-length").expect("a length");
            reply.body = vec![0; length.parse().expect("a number")];
            self.0.read_exact(&mut reply.body).expect("the whole body");
        }
        reply
    }

    /// Whether the server closes, and sends nothing more before it does.
    pub fn closes(&mut self) -> bool {
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest).is_ok() && rest.is_empty()
    }
}

/// A store written by hand, as distribution lays it out.
pub struct Store(PathBuf);

impl Store {
    /// In the folder of a registry.
    pub fn new(dir: &Path) -> Store {
        Store(dir.join("layers/docker/registry/v2"))
    }

    fn write(&self, path: String, content: &[u8]) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("writable");
        fs::write(path, content).expect("writable");
    }

    fn link(&self, folder: String, name: &Digest, target: &Digest) {
        let (algorithm, hex) = (name.algorithm().as_str(), name.hex());
        self.write(
            format!("repositories/{folder}/{algorithm}/{hex}/link"),
            target.to_string().as_bytes(),
        );
    }

    /// Content that belongs to no repository yet.
    pub fn content(&self, bytes: &[u8]) -> Digest {
        let digest = sha256(bytes);
        self.data(&digest, bytes);
        digest
    }

    /// Content under a digest that need not be its own.
    pub fn data(&self, digest: &Digest, bytes: &[u8]) {
        let hex = digest.hex();
        self.write(format!("blobs/sha256/{}/{hex}/data", &hex[..2]), bytes);
    }

    /// Lets a repository serve `target` as the blob `name`.
    pub fn blob(&self, repository: &str, name: &Digest, target: &Digest) {
        self.link(format!("{repository}/_layers"), name, target);
    }

    pub fn manifest(&self, repository: &str, digest: &Digest) {
        let folder = format!("{repository}/_manifests/revisions");
        self.link(folder, digest, digest);
    }

    pub fn tag(&self, repository: &str, tag: &str, digest: &Digest) {
        let folder = format!("{repository}/_manifests/tags/{tag}");
        self.link(format!("{folder}/index"), digest, digest);
        self.write(format!("repositories/{folder}/current/link"), digest.to_string().as_bytes());
    }
}

/// Every file below a folder, with its content.
pub fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let content = fs::read(&path).expect("readable");
                found.push((path, content));
            }
        }
    }
    found.sort();
    found
}
