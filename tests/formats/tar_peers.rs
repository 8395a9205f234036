//! What a tar holds, by our parser, by GNU tar and by Python's `tarfile`, in
//! one form.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use registry::layer::tar::{Error, Event, Kind, Limits, Member, Parser};
use registry::oci::Algorithm;
use serde_json::Value;

/// Longer files are not compared byte by byte.
const WHOLE: u64 = 1 << 20;

/// A member, as far as a listing shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Without slashes at its end: everybody leaves off others.
    pub name: String,
    pub kind: char,
    /// Of files; listings show anything for others.
    pub size: u64,
    pub mode: u16,
    pub owner: (u64, u64),
    pub mtime: (i64, u32),
    pub link: String,
    pub device: (u64, u64),
}

/// What only we and `tarfile` show.
#[derive(Debug, PartialEq)]
pub struct Inside {
    pub xattrs: BTreeMap<String, String>,
    /// sha256 of the whole file, holes and all.
    pub content: String,
}

/// One member by our parser.
#[derive(Debug, PartialEq)]
pub struct Ours {
    pub row: Row,
    pub inside: Inside,
    /// Where its padding ends, or would.
    pub end: usize,
    /// Times in place of a prefix, which `tarfile` takes for one.
    pub times: Option<String>,
}

pub type Listing = Result<Vec<Row>, String>;

fn without_slashes(name: &[u8]) -> String {
    let end = name.iter().rposition(|&byte| byte != b'/');
    printable(&name[..end.map_or(0, |end| end + 1)])
}

fn printable(name: &[u8]) -> String {
    name.escape_ascii().to_string()
}

/// Our parser, given `piece` bytes at a time.
pub fn ours(tar: &[u8], piece: usize) -> Result<Vec<Ours>, Error> {
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
                    members.push(Ours {
                        row: row(&member),
                        inside: inside(&member, &content),
                        end: (start + content.len()).next_multiple_of(512),
                        times: times(&tar[..start]),
                    });
                }
            }
        }
        assert_eq!(piece, b"", "all is used up");
    }
    parser.finish()?;
    assert_eq!(parser.offset(), tar.len() as u64);
    Ok(members)
}

/// The header ends where the data starts; a sparse file's map may come between,
/// but those keep their times elsewhere.
fn times(before: &[u8]) -> Option<String> {
    let header = &before[before.len() - 512..];
    if &header[257..265] != b"ustar  \0" || header[156] == b'S' {
        return None;
    }
    let end = header[345..500].iter().position(|&byte| byte == 0);
    let times = &header[345..500][..end.unwrap_or(155)];
    (!times.is_empty()).then(|| printable(times))
}

fn row(member: &Member) -> Row {
    let kind = match member.kind {
        Kind::Regular => '-',
        Kind::Directory => 'd',
        Kind::Symlink => 'l',
        Kind::HardLink => 'h',
        Kind::Character => 'c',
        Kind::Block => 'b',
        Kind::Fifo => 'p',
    };
    Row {
        name: without_slashes(&member.path),
        kind,
        size: if kind == '-' { member.size } else { 0 },
        mode: member.mode,
        owner: (member.uid.into(), member.gid.into()),
        mtime: (member.mtime.seconds, member.mtime.nanoseconds),
        link: printable(&member.link),
        device: (member.device.0.into(), member.device.1.into()),
    }
}

fn inside(member: &Member, stored: &[u8]) -> Inside {
    let content = match &member.sparse {
        _ if member.kind != Kind::Regular || member.size > WHOLE => String::new(),
        None => sha256(stored),
        Some(extents) => {
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
    };
    let pairs = member.xattrs.iter();
    Inside { xattrs: pairs.map(|(name, value)| (hex(name), hex(value))).collect(), content }
}

fn sha256(bytes: &[u8]) -> String {
    let digest = Algorithm::Sha256.digest(bytes).to_string();
    digest.trim_start_matches("sha256:").to_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let pairs = (0..text.len()).step_by(2);
    pairs.map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex")).collect()
}

/// `tar --list`. An error is what it says and exits with.
pub fn gnu(path: &Path) -> Listing {
    let output = Command::new("tar")
        .args(["--list", "--verbose", "--numeric-owner", "--full-time", "--utc"])
        .args(["--quoting-style=escape", "--quote-chars= ", "--absolute-names"])
        .args(["--warning=no-unknown-keyword", "--file"])
        .arg(path)
        .env("LC_ALL", "C")
        .output()
        .expect("GNU tar runs");
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let text = String::from_utf8(output.stdout).expect("all else is escaped");
    Ok(text.lines().map(gnu_row).collect())
}

fn gnu_row(line: &str) -> Row {
    let mut words = words(line).into_iter().filter(|word| !word.is_empty());
    let mut word = || words.next().unwrap_or_else(|| panic!("a short line: {line:?}"));
    let pair = |text: &str, by| {
        let (one, two) = text.split_once(by).expect("a pair");
        (one.parse().expect("a number"), two.parse().expect("a number"))
    };
    let (mode, owner, size, date) = (word(), word(), word(), word());
    let letter = mode.chars().next().expect("a letter");
    let mut row = Row {
        name: String::new(),
        // Contiguous files are files.
        kind: if letter == 'C' { '-' } else { letter },
        size: 0,
        mode: mode_bits(&mode[1..]),
        owner: pair(owner, '/'),
        mtime: match date.split_once('.').unwrap_or((date, "")) {
            // Years that do not fit.
            (seconds, fraction) if seconds.parse::<i64>().is_ok() => {
                (seconds.parse().expect("seconds"), nanoseconds(fraction))
            }
            _ => time(date, word()),
        },
        link: String::new(),
        device: (0, 0),
    };
    if let 'c' | 'b' = row.kind {
        row.device = pair(size, ',');
    } else if row.kind == '-' {
        row.size = size.parse().expect("a size");
    }
    // Spaces in names are escaped, so these are none of theirs; an empty name
    // leaves nothing.
    let names: Vec<&str> = words.collect();
    let (name, link) = match (row.kind, &names[..]) {
        ('l', ["->", link]) | ('h', ["link", "to", link]) => ("", *link),
        ('l', [name, "->", link]) | ('h', [name, "link", "to", link]) => (*name, *link),
        ('l', [name, "->"]) | ('h', [name, "link", "to"]) => (*name, ""),
        (_, []) => ("", ""),
        (_, [name]) => (*name, ""),
        _ => panic!("an odd line: {line:?}"),
    };
    row.name = without_slashes(&unescape(name));
    row.link = printable(&unescape(link));
    row
}

/// Split at spaces that are not escaped.
fn words(line: &str) -> Vec<&str> {
    let mut escaped = false;
    line.split(|letter| {
        let splits = letter == ' ' && !escaped;
        escaped = letter == '\\' && !escaped;
        splits
    })
    .collect()
}

fn mode_bits(text: &str) -> u16 {
    let bits = text.chars().enumerate().map(|(place, letter)| {
        let bit = 0o400 >> place;
        let special = 0o4000 >> (place / 3);
        match letter {
            '-' => 0,
            's' | 't' => bit | special,
            'S' | 'T' => special,
            _ => bit,
        }
    });
    bits.sum()
}

fn nanoseconds(fraction: &str) -> u32 {
    format!("{fraction:0<9}").parse().expect("a fraction")
}

fn time(date: &str, clock: &str) -> (i64, u32) {
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, ""));
    let [hour, minute, second] = [0, 1, 2].map(|at| {
        let part = clock.split(':').nth(at).expect("a clock");
        part.parse::<i64>().expect("a clock")
    });
    let mut parts = date.rsplitn(3, '-');
    let mut part = || parts.next().expect("a date").parse::<i64>().expect("a date");
    let (day, month, year) = (part(), part(), part());
    // Days of the Gregorian calendar, in years that begin in March.
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    (((days * 24 + hour) * 60 + minute) * 60 + second, nanoseconds(fraction))
}

/// Of a time before 1970 GNU tar prints the fraction as if it counted back.
pub fn as_gnu_prints(mut row: Row) -> Row {
    if row.mtime.0 < 0 && row.mtime.1 != 0 {
        row.mtime = (row.mtime.0 + 1, 1_000_000_000 - row.mtime.1);
    }
    row
}

fn unescape(text: &str) -> Vec<u8> {
    let mut name = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            name.push(byte);
            continue;
        }
        name.push(match bytes.next().expect("an escape") {
            b'a' => 7,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'v' => 11,
            high @ b'0'..=b'3' => {
                let mut digit = || bytes.next().expect("three digits") - b'0';
                (high - b'0') << 6 | digit() << 3 | digit()
            }
            other => other,
        });
    }
    name
}

/// A listing by `tarfile`. Some broken tars it leaves silently.
pub type PythonListing = Result<Vec<(PythonRow, Inside)>, String>;

/// Its numbers may have any size, and its times are floating.
#[derive(Debug)]
pub struct PythonRow {
    name: String,
    kind: char,
    size: String,
    mode: u64,
    owner: [String; 2],
    mtime: f64,
    link: String,
    device: [String; 2],
}

impl PythonRow {
    pub fn is(&self, ours: &Ours) -> bool {
        let row = &ours.row;
        let is_link = matches!(row.kind, 'l' | 'h');
        let is_device = matches!(row.kind, 'c' | 'b');
        let mtime = row.mtime.0 as f64 + f64::from(row.mtime.1) / 1e9;
        let joined = ours.times.as_ref().map(|times| format!("{times}/{}", row.name));
        let joined = joined.as_ref().map(|name| name.trim_end_matches('/'));
        // A name from an extended header has no prefix.
        (self.name == row.name || Some(self.name.as_str()) == joined)
            && self.kind == row.kind
            && (row.kind != '-' || self.size == row.size.to_string())
            && self.mode == u64::from(row.mode)
            && self.owner == [row.owner.0.to_string(), row.owner.1.to_string()]
            && (self.mtime - mtime).abs() <= 1e-6 + mtime.abs() * 1e-15
            && (!is_link || self.link == row.link)
            && (!is_device || self.device == [row.device.0.to_string(), row.device.1.to_string()])
    }
}

/// All of them in one process.
pub fn tarfile(paths: &[PathBuf]) -> Vec<PythonListing> {
    let mut child = Command::new("python3")
        .args(["-c", include_str!("tarfile_list.py")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 runs");
    let mut stdin = child.stdin.take().expect("piped");
    let lines: String = paths.iter().map(|path| format!("{}\n", path.display())).collect();
    let writer = std::thread::spawn(move || stdin.write_all(lines.as_bytes()));
    let output = child.wait_with_output().expect("python3 ends");
    assert!(output.status.success(), "tarfile_list.py: {}", output.status);
    writer.join().expect("no panic").expect("python3 reads");
    let listings: Vec<PythonListing> = output
        .stdout
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(python_listing)
        .collect();
    assert_eq!(listings.len(), paths.len());
    listings
}

fn python_listing(line: &[u8]) -> PythonListing {
    let listing: Value = serde_json::from_slice(line).expect("JSON");
    if let Some(error) = listing["error"].as_str() {
        return Err(error.to_owned());
    }
    let members = listing["members"].as_array().expect("members");
    Ok(members.iter().map(python_member).collect())
}

fn python_member(member: &Value) -> (PythonRow, Inside) {
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let bytes = |field: &str| unhex(&text(&member[field]));
    let kind = text(&member["kind"]).chars().next().expect("a letter");
    let xattrs = member["xattrs"].as_object().expect("an object");
    (
        PythonRow {
            name: without_slashes(&bytes("name")),
            kind,
            size: text(&member["size"]),
            mode: member["mode"].as_u64().expect("a mode"),
            owner: [text(&member["uid"]), text(&member["gid"])],
            mtime: text(&member["mtime"]).parse().expect("a float"),
            link: printable(&bytes("link")),
            device: [0, 1].map(|at| text(&member["device"][at])),
        },
        Inside {
            xattrs: xattrs.iter().map(|(name, value)| (name.clone(), text(value))).collect(),
            content: text(&member["content"]),
        },
    )
}
