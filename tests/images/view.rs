//! What the registry answers about files, read into the terms of an unpacked
//! tree. The only place that knows the fields of the JSON.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use serde_json::Value;

use crate::common::tree::{File, Kind, Tree};
use crate::common::{Registry, Reply, SOON};

/// What the JSON can say of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub kind: &'static str,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Milliseconds since 1970, rounded down.
    pub mtime: i64,
    /// Of regular files.
    pub size: Option<u64>,
    pub digest: Option<String>,
    /// Of symlinks.
    pub linkname: Option<Vec<u8>>,
    /// Major and minor number.
    pub device: Option<(u32, u32)>,
}

pub type Rows = BTreeMap<Vec<u8>, Row>;

const KINDS: [&str; 6] =
    ["file", "directory", "symlink", "character-device", "block-device", "fifo"];

/// What the JSON should say.
pub fn rows(tree: &Tree) -> Rows {
    let rows = tree.iter();
    rows.map(|(name, file)| (name.clone(), row(file))).collect()
}

fn row(file: &File) -> Row {
    let kind = match file.kind {
        Kind::Regular { .. } => 0,
        Kind::Directory => 1,
        Kind::Symlink(_) => 2,
        Kind::Character(..) => 3,
        Kind::Block(..) => 4,
        Kind::Fifo => 5,
    };
    let (mut size, mut digest, mut linkname, mut device) = (None, None, None, None);
    match &file.kind {
        Kind::Regular { size: s, digest: d } => (size, digest) = (Some(*s), Some(d.clone())),
        Kind::Symlink(target) => linkname = Some(target.clone()),
        Kind::Character(major, minor) | Kind::Block(major, minor) => {
            device = Some((*major, *minor));
        }
        Kind::Directory | Kind::Fifo => {}
    }
    let (seconds, nanoseconds) = file.mtime;
    Row {
        kind: KINDS[kind],
        mode: file.mode,
        uid: file.uid,
        gid: file.gid,
        mtime: seconds * 1000 + i64::from(nanoseconds / 1_000_000),
        size,
        digest,
        linkname,
        device,
    }
}

/// One entry of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Without the slashes about it.
    pub path: Vec<u8>,
    /// As it goes back into a URL, with the slash before it.
    pub url: String,
    pub row: Row,
    /// Digest of the layer that the entry is from.
    pub layer: String,
    /// Id of the image.
    pub image: String,
}

impl Shown {
    fn parse(value: &Value) -> Shown {
        let text = |key: &str| value[key].as_str();
        let number = |key: &str| {
            value[key].as_i64().unwrap_or_else(|| panic!("{key} is no whole number in {value}"))
        };
        let unsigned = |key: &str| u32::try_from(number(key)).expect("32 bits");
        let path = text("path").expect("a path");
        let url = match text("path_bytes") {
            // Percent-encoded already.
            Some(bytes) => bytes.to_owned(),
            None => encode(path.as_bytes()),
        };
        let linkname: Option<Vec<u8>> = match text("linkname_bytes") {
            Some(bytes) => Some(percent_decode_str(bytes).collect()),
            None => text("linkname").map(Into::into),
        };
        if let Some(linkname) = &linkname {
            let lossy = String::from_utf8_lossy(linkname);
            assert_eq!(Some(lossy.as_ref()), text("linkname"));
        }
        let harmless = |c: u8| c.is_ascii_graphic() && !b"?#\"<>\\".contains(&c);
        assert!(url.bytes().all(harmless), "{url:?} does not fit into a URL");
        let bytes: Vec<u8> = percent_decode_str(&url).collect();
        assert_eq!(String::from_utf8_lossy(&bytes), path, "lossy beside exact");
        let (is_utf8, has_bytes) = (std::str::from_utf8(&bytes), text("path_bytes"));
        assert_eq!(is_utf8.is_err(), has_bytes.is_some(), "{value}");
        let kind = text("type").and_then(|kind| KINDS.into_iter().find(|known| *known == kind));
        let kind = kind.unwrap_or_else(|| panic!("an unknown type in {value}"));
        let path = bytes.strip_prefix(b"/").expect("a path from the root");
        let below = path.strip_suffix(b"/");
        assert_eq!(below.is_some(), kind == "directory", "{value}");
        let regular = kind == "file";
        let size = u64::try_from(number("size")).expect("a size");
        Shown {
            path: below.unwrap_or(path).to_vec(),
            url,
            row: Row {
                kind,
                mode: unsigned("mode"),
                uid: unsigned("uid"),
                gid: unsigned("gid"),
                mtime: number("mtime"),
                size: regular.then_some(size),
                digest: text("digest").map(str::to_owned),
                linkname,
                device: value.get("major").map(|_| (unsigned("major"), unsigned("minor"))),
            },
            layer: text("layer").expect("a layer").to_owned(),
            image: text("image").expect("an image").to_owned(),
        }
    }

    /// The last part of the path.
    pub fn name(&self) -> &[u8] {
        self.path.rsplit(|byte| *byte == b'/').next().expect("one")
    }
}

/// What `tree` answered.
#[track_caller]
pub fn shown(reply: &Reply) -> Vec<Shown> {
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.header("content-type"), Some("application/json"));
    let json = reply.json();
    let entries = json.as_array().expect("an array");
    entries.iter().map(Shown::parse).collect()
}

/// By path, each of which comes once.
pub fn by_path(entries: &[Shown]) -> Rows {
    let rows: Rows = entries.iter().map(|entry| (entry.path.clone(), entry.row.clone())).collect();
    assert_eq!(rows.len(), entries.len(), "a path comes twice");
    rows
}

/// A path in a URL, with nothing left to chance.
pub fn encode(path: &[u8]) -> String {
    const ESCAPED: &AsciiSet =
        &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    percent_encode(path, ESCAPED).to_string()
}

/// A client that keeps its connection.
pub struct Client {
    address: SocketAddr,
    stream: BufReader<TcpStream>,
}

impl Client {
    pub fn new(registry: &Registry) -> Client {
        Client { address: registry.address, stream: BufReader::new(registry.connect()) }
    }

    pub fn get(&mut self, path: &str) -> Reply {
        self.send("GET", path, &[])
    }

    pub fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", self.address);
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        self.stream
            .get_mut()
            .write_all(head.as_bytes())
            .unwrap_or_else(|e| panic!("{method} {path}: {e}"));
        let reply = self.receive(method);
        let reply = reply.unwrap_or_else(|e| panic!("{method} {path}: {e}"));
        if reply.header("connection") == Some("close") {
            let stream = TcpStream::connect(self.address).expect("the registry listens");
            stream.set_read_timeout(Some(SOON)).expect("a timeout");
            self.stream = BufReader::new(stream);
        }
        reply
    }

    fn receive(&mut self, method: &str) -> std::io::Result<Reply> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if self.stream.read_until(b'\n', &mut head)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        let mut reply = Reply::parse(&head)?;
        if method == "HEAD" || matches!(reply.status, 204 | 304) {
            return Ok(reply);
        }
        if reply.header("transfer-encoding") == Some("chunked") {
            loop {
                let mut line = String::new();
                self.stream.read_line(&mut line)?;
                let length = usize::from_str_radix(line.trim_end(), 16);
                let length = length.unwrap_or_else(|e| panic!("{e} in a chunk's length {line:?}"));
                let start = reply.body.len();
                reply.body.resize(start + length + 2, 0);
                self.stream.read_exact(&mut reply.body[start..])?;
                reply.body.truncate(start + length);
                if length == 0 {
                    return Ok(reply);
                }
            }
        }
        let length = reply.header("content-length").expect("a length");
        let length = length.parse().expect("a number");
        reply.body.resize(length, 0);
        self.stream.read_exact(&mut reply.body)?;
        Ok(reply)
    }
}
