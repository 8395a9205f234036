//! What a tar holds, by our parser and by Go's `archive/tar`, which Docker, containerd and podman
//! unpack with.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use registry::layer::tar::{Error, Event, Kind, Limits, Member, Parser};
use registry::oci::Algorithm;
use serde::Deserialize;
use tempfile::TempDir;

use crate::common::{need, run};

/// Longer files are not compared byte by byte.
const WHOLE: u64 = 1 << 20;

/// A member as `list.go` writes it.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Row {
    name: String,
    link: String,
    kind: String,
    size: u64,
    mode: u16,
    owner: (u32, u32),
    time: (i64, u32),
    device: (u32, u32),
    xattrs: BTreeMap<String, String>,
    content: String,
}

impl Row {
    /// Go has not read all of it.
    pub fn is_long(&self) -> bool {
        self.kind == "file" && self.content.is_empty()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Members(Vec<Row>),
    Error(String),
}

/// Our parser, given `piece` bytes at a time.
pub fn ours(tar: &[u8], piece: usize) -> Result<Vec<Row>, Error> {
    let mut parser = Parser::new(Limits::default());
    let mut members = Vec::new();
    let mut open: Option<(Member, Vec<u8>)> = None;
    for mut piece in tar.chunks(piece) {
        while let Some(event) = parser.next(&mut piece)? {
            match event {
                Event::Member(member) => {
                    assert!(open.is_none(), "a member inside a member");
                    open = Some((*member, Vec::new()));
                }
                Event::Content(bytes) => {
                    let (_, content) = open.as_mut().expect("content belongs to a member");
                    assert!(!bytes.is_empty(), "a piece of nothing");
                    content.extend_from_slice(bytes);
                }
                Event::MemberEnd => {
                    let (member, content) = open.take().expect("a member ends");
                    assert_eq!(content.len() as u64, member.stored);
                    let start = usize::try_from(member.data_offset).expect("a small tar");
                    assert_eq!(content, tar[start..start + content.len()], "data_offset");
                    members.push(row(&member, &content));
                }
            }
        }
        assert_eq!(piece, b"", "all is used up");
    }
    parser.finish()?;
    assert_eq!(parser.offset(), tar.len() as u64);
    Ok(members)
}

fn row(member: &Member, stored: &[u8]) -> Row {
    let kind = match member.kind {
        Kind::Regular => "file",
        Kind::Directory => "directory",
        Kind::Symlink => "symlink",
        Kind::HardLink => "hard link",
        Kind::Character => "character",
        Kind::Block => "block",
        Kind::Fifo => "fifo",
    };
    let is_file = member.kind == Kind::Regular;
    let xattrs = member.xattrs.iter();
    Row {
        name: hex(&member.path),
        link: hex(&member.link),
        kind: kind.to_owned(),
        size: if is_file { member.size } else { 0 },
        mode: member.mode,
        owner: (member.uid, member.gid),
        time: (member.mtime.seconds, member.mtime.nanoseconds),
        device: member.device,
        xattrs: xattrs.map(|(name, value)| (hex(name), hex(value))).collect(),
        content: if is_file && member.size < WHOLE {
            content(member, stored)
        } else {
            String::new()
        },
    }
}

fn content(member: &Member, stored: &[u8]) -> String {
    let Some(extents) = &member.sparse else {
        return sha256(stored);
    };
    let mut whole = vec![0; member.size as usize];
    let mut rest = stored;
    for extent in extents {
        let (data, after) = rest.split_at(extent.length as usize);
        whole[extent.offset as usize..][..data.len()].copy_from_slice(data);
        rest = after;
    }
    assert_eq!(rest, b"", "the extents are the data");
    sha256(&whole)
}

fn sha256(bytes: &[u8]) -> String {
    let digest = Algorithm::Sha256.digest(bytes).to_string();
    digest.trim_start_matches("sha256:").to_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A Go program of one file, built.
pub fn build(temp: &TempDir, name: &str, source: &str) -> PathBuf {
    need("go", "golang-go");
    let (file, program) = (temp.path().join(format!("{name}.go")), temp.path().join(name));
    std::fs::write(&file, source).expect("a file");
    let mut go = Command::new("go");
    go.args(["build", "-o"]).arg(&program).arg(&file);
    run(go.env("GOCACHE", temp.path().join("cache")).env("GO111MODULE", "off"));
    program
}

/// What Go reads in each tar, by `program`, which was built from `list.go`.
pub fn go(program: &Path, paths: &[PathBuf]) -> Vec<Result<Vec<Row>, String>> {
    let mut child = Command::new(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a program");
    let mut stdin = child.stdin.take().expect("piped");
    let lines: String = paths.iter().map(|path| format!("{}\n", path.display())).collect();
    let writer = std::thread::spawn(move || stdin.write_all(lines.as_bytes()));
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "list.go: {}", output.status);
    writer.join().expect("no panic").expect("it reads");
    let answers = serde_json::Deserializer::from_slice(&output.stdout).into_iter::<Answer>();
    let answers: Vec<_> = answers
        .map(|answer| match answer.expect("JSON") {
            Answer::Members(rows) => Ok(rows),
            Answer::Error(error) => Err(error),
        })
        .collect();
    assert_eq!(answers.len(), paths.len());
    answers
}
