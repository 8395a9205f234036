//! Extended headers: `LENGTH KEYWORD=VALUE\n`, one after another (POSIX.1-2008,
//! `pax`, "pax Extended Header").
//!
//! Other programs take some malformed records, each its own; here a record is
//! well-formed or the layer is refused.

use std::collections::BTreeMap;

use super::sparse::{Map, decimal_digit};
use super::{Problem, Time};

/// Bytes of a member's extended attributes, names included: what Linux takes for
/// one value, and more than most file systems have room for. Every look at the
/// member has them in memory.
const XATTRS_MAX: usize = 64 << 10;

/// What an extended header says about the next member. Of records with the same
/// keyword the last counts.
#[derive(Debug, Default)]
pub struct Records {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub mtime: Option<Time>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub sparse: Option<Sparse>,
}

/// The `GNU.sparse.` records, before it is known of which version they are.
#[derive(Debug, Default)]
pub struct Sparse {
    version: (Option<u64>, Option<u64>),
    name: Option<Vec<u8>>,
    size: Option<u64>,
    real_size: Option<u64>,
    blocks: Option<u64>,
    /// Version 0.0: extents, each in two records.
    pairs: Option<Map>,
    offset: Option<u64>,
    /// Version 0.1: extents in one record.
    map: Option<Map>,
}

/// A sparse file as one of the three versions has it.
#[derive(Debug)]
pub struct SparseFile {
    /// The file's name, which the header has in a mangled form.
    pub name: Option<Vec<u8>>,
    pub size: u64,
    /// `None`: the map stands before the data.
    pub map: Option<Map>,
}

impl Records {
    pub fn parse(content: &[u8]) -> Result<Records, Problem> {
        let mut records = Records::default();
        each(content, |keyword, value| records.add(keyword, value))?;
        let xattrs = records.xattrs.iter().map(|(k, v)| k.len() + v.len());
        if xattrs.sum::<usize>() > XATTRS_MAX {
            return Err(Problem::Xattrs(XATTRS_MAX));
        }
        Ok(records)
    }

    fn add(&mut self, keyword: &[u8], value: &[u8]) -> Result<(), Problem> {
        let id = || u32::try_from(decimal(value)?).map_err(|_| Problem::PaxValue);
        match keyword {
            b"path" => self.path = Some(name(value)?),
            b"linkpath" => self.link = Some(name(value)?),
            b"size" => self.size = Some(decimal(value)?),
            b"uid" => self.uid = Some(id()?),
            b"gid" => self.gid = Some(id()?),
            b"mtime" => self.mtime = Some(time(value).ok_or(Problem::PaxValue)?),
            // Names are bytes in either; others nobody knows.
            b"hdrcharset" if value != b"BINARY" && value != b"ISO-IR 10646 2000 UTF-8" => {
                return Err(Problem::PaxValue);
            }
            // Go takes none with a NUL.
            b"uname" | b"gname" if value.contains(&0) => return Err(Problem::PaxValue),
            _ => {
                if let Some(attribute) = keyword.strip_prefix(b"SCHILY.xattr.") {
                    if attribute.is_empty() {
                        return Err(Problem::PaxRecord);
                    }
                    // Go takes an empty value for none, and so do the runtimes.
                    if value.is_empty() {
                        self.xattrs.remove(attribute);
                    } else {
                        self.xattrs.insert(attribute.to_vec(), value.to_vec());
                    }
                } else if let Some(keyword) = keyword.strip_prefix(b"GNU.sparse.") {
                    let sparse = self.sparse.get_or_insert_default();
                    sparse.add(keyword, value)?;
                } else if is_volume(keyword) {
                    return Err(Problem::Volume);
                }
            }
        }
        Ok(())
    }
}

/// Looks through a global header. GNU tar and `tarfile` apply it to all that
/// follows; Docker and containerd (Go) to nothing. So it may hold only what
/// changes nothing, such as `git archive`'s comment.
pub fn check_global(content: &[u8]) -> Result<(), Problem> {
    // Malformed values are found as well.
    Records::parse(content)?;
    each(content, |keyword, _| {
        let known: [&[u8]; 6] = [b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime"];
        let prefixes: [&[u8]; 2] = [b"SCHILY.xattr.", b"GNU.sparse."];
        if known.contains(&keyword) || prefixes.iter().any(|p| keyword.starts_with(p)) {
            return Err(Problem::Global(keyword.escape_ascii().to_string()));
        }
        Ok(())
    })
}

/// Parts of GNU's incremental and multi-volume archives.
fn is_volume(keyword: &[u8]) -> bool {
    keyword == b"GNU.dumpdir" || keyword.starts_with(b"GNU.volume.")
}

fn each(
    mut content: &[u8],
    mut take: impl FnMut(&[u8], &[u8]) -> Result<(), Problem>,
) -> Result<(), Problem> {
    while !content.is_empty() {
        let (record, rest) = split(content).ok_or(Problem::PaxRecord)?;
        let equals = record.iter().position(|&byte| byte == b'=');
        let equals = equals.ok_or(Problem::PaxRecord)?;
        let (keyword, value) = (&record[..equals], &record[equals + 1..]);
        // GNU tar skips blanks before a keyword, and ends it at a NUL.
        if matches!(keyword, [] | [b' ' | b'\t', ..]) || keyword.contains(&0) {
            return Err(Problem::PaxRecord);
        }
        take(keyword, value)?;
        content = rest;
    }
    Ok(())
}

/// The first record, without length and newline, and what follows it.
fn split(content: &[u8]) -> Option<(&[u8], &[u8])> {
    // A header has at most 1 MiB: 7 digits.
    let digits = content.iter().take(8).take_while(|b| b.is_ascii_digit());
    let digits = digits.count();
    let length = usize::try_from(decimal(&content[..digits]).ok()?).ok()?;
    let (record, rest) = content.split_at_checked(length)?;
    let record = record.get(digits..)?.strip_prefix(b" ")?;
    Some((record.strip_suffix(b"\n")?, rest))
}

/// An empty value takes the header's in Go, an empty name elsewhere; a NUL ends
/// a name for GNU tar only.
fn name(value: &[u8]) -> Result<Vec<u8>, Problem> {
    if value.is_empty() || value.contains(&0) {
        return Err(Problem::PaxValue);
    }
    Ok(value.to_vec())
}

/// A file size, or less.
fn decimal(digits: &[u8]) -> Result<u64, Problem> {
    let value = digits
        .iter()
        .try_fold(0u64, |value, &byte| value.checked_mul(10)?.checked_add(decimal_digit(byte)?));
    match value {
        Some(value) if !digits.is_empty() && i64::try_from(value).is_ok() => Ok(value),
        _ => Err(Problem::PaxValue),
    }
}

/// `[-]SECONDS[.FRACTION]`; what is below a nanosecond is cut towards the past.
fn time(value: &[u8]) -> Option<Time> {
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(value) => (true, value),
        None => (false, value),
    };
    let point = value.iter().position(|&byte| byte == b'.');
    let (seconds, fraction) = match point {
        Some(point) => (&value[..point], &value[point + 1..]),
        None => (value, &b""[..]),
    };
    let seconds = i64::try_from(decimal(seconds).ok()?).ok()?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = fraction.iter().chain(std::iter::repeat(&b'0')).take(9);
    let nanoseconds = digits.fold(0, |value, &digit| value * 10 + u32::from(digit - b'0'));
    if !negative {
        return Some(Time { seconds, nanoseconds });
    }
    let finer = fraction.iter().skip(9).any(|&digit| digit != b'0');
    let back = nanoseconds + u32::from(finer);
    Some(match back {
        0 => Time { seconds: -seconds, nanoseconds: 0 },
        _ => Time { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - back },
    })
}

impl Sparse {
    fn add(&mut self, keyword: &[u8], value: &[u8]) -> Result<(), Problem> {
        const TWICE: Problem = Problem::Sparse("the same record twice");
        fn once<T>(field: &mut Option<T>, value: T) -> Result<(), Problem> {
            field.replace(value).map_or(Ok(()), |_| Err(TWICE))
        }
        // GNU tar makes room for as many extents as it was told of.
        if self.blocks.is_none() && matches!(keyword, b"offset" | b"map") {
            return Err(Problem::Sparse("a map before its length"));
        }
        match keyword {
            b"major" => once(&mut self.version.0, decimal(value)?),
            b"minor" => once(&mut self.version.1, decimal(value)?),
            b"name" => once(&mut self.name, name(value)?),
            b"size" => once(&mut self.size, decimal(value)?),
            b"realsize" => once(&mut self.real_size, decimal(value)?),
            b"numblocks" => once(&mut self.blocks, decimal(value)?),
            b"offset" => once(&mut self.offset, decimal(value)?),
            b"numbytes" => {
                let offset = self.offset.take();
                let offset = offset.ok_or(Problem::Sparse("a length without offset"))?;
                let pairs = self.pairs.get_or_insert_default();
                pairs.add(offset, decimal(value)?)
            }
            b"map" => {
                let mut map = Map::default();
                let mut numbers = value.split(|&byte| byte == b',');
                while let Some(offset) = numbers.next() {
                    let length = numbers.next().ok_or(Problem::PaxValue)?;
                    map.add(decimal(offset)?, decimal(length)?)?;
                }
                once(&mut self.map, map)
            }
            _ => Err(Problem::Sparse("an unknown record")),
        }
    }

    /// Exactly the records of one version. GNU tar takes a file without extents
    /// for a whole one.
    pub fn file(self) -> Result<SparseFile, Problem> {
        let counted = |map: &Map| Some(map.entries()) == self.blocks && map.entries() > 0;
        let Sparse { version, name, size, real_size, blocks, pairs, offset, map } = &self;
        let is = match (version, size, real_size, &pairs, &map) {
            ((None, None), Some(_), None, Some(map), None) => counted(map) && name.is_none(),
            ((None, None), Some(_), None, None, Some(map)) => counted(map),
            ((Some(1), Some(0)), None, Some(_), None, None) => blocks.is_none(),
            _ => false,
        };
        match size.or(*real_size) {
            Some(size) if is && offset.is_none() => {
                Ok(SparseFile { name: self.name, size, map: self.pairs.or(self.map) })
            }
            _ => Err(Problem::Sparse("records of no one version")),
        }
    }
}
