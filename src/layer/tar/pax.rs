//! Extended headers: `LENGTH KEYWORD=VALUE\n`, one after another (POSIX.1-2008, `pax`, "pax
//! Extended Header"), and what Go's `archive/tar` makes of them.

use std::collections::BTreeMap;

use super::sparse::Map;
use super::{Problem, Time};

/// Bytes of a member's extended attributes, names included: what Linux takes for one value, and
/// more than most file systems have room for. Every look at the member has them in memory.
const XATTRS_MAX: usize = 64 << 10;

const XATTR: &[u8] = b"SCHILY.xattr.";

/// What an extended header says about the next member. Of records with the same keyword the last
/// counts. A value is looked at only when a member takes it.
#[derive(Debug, Default)]
pub struct Records {
    values: BTreeMap<Vec<u8>, Vec<u8>>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// What the `GNU.sparse.` records say.
#[derive(Debug)]
pub struct SparseFile {
    /// The file's name, which the header has in a mangled form.
    pub name: Option<Vec<u8>>,
    pub size: Option<i64>,
    /// `None`: the map stands before the data.
    pub map: Option<Map>,
}

impl Records {
    pub fn parse(content: &[u8]) -> Result<Records, Problem> {
        let mut records = Records::default();
        // Version 0.0 of sparse files has a record for each number of the map.
        let mut map = Vec::new();
        let mut numbers = 0;
        let mut rest = content;
        while !rest.is_empty() {
            let (keyword, value, after) = split(rest).ok_or(Problem::PaxRecord)?;
            rest = after;
            match keyword {
                b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                    let is_offset = keyword.ends_with(b"offset");
                    if is_offset != (numbers % 2 == 0) || value.contains(&b',') {
                        return Err(Problem::Sparse("its map's records out of order"));
                    }
                    if numbers > 0 {
                        map.push(b',');
                    }
                    map.extend_from_slice(value);
                    numbers += 1;
                }
                b"path" | b"linkpath" | b"uid" | b"gid" | b"size" | b"mtime" | b"atime"
                | b"ctime" => {
                    records.values.insert(keyword.to_vec(), value.to_vec());
                }
                _ if keyword.starts_with(b"GNU.sparse.") => {
                    records.values.insert(keyword.to_vec(), value.to_vec());
                }
                _ => {
                    if let Some(attribute) = keyword.strip_prefix(XATTR) {
                        records.xattrs.insert(attribute.to_vec(), value.to_vec());
                    }
                }
            }
        }
        if numbers > 0 {
            records.values.insert(b"GNU.sparse.map".to_vec(), map);
        }
        let xattrs = records.xattrs.iter().map(|(k, v)| k.len() + v.len());
        if xattrs.sum::<usize>() > XATTRS_MAX {
            return Err(Problem::Xattrs(XATTRS_MAX));
        }
        Ok(records)
    }

    /// An empty value says nothing: what the header has counts.
    pub fn text(&self, keyword: &str) -> Option<&[u8]> {
        let value = self.values.get(keyword.as_bytes())?;
        (!value.is_empty()).then_some(value)
    }

    pub fn integer(&self, keyword: &str) -> Result<Option<i64>, Problem> {
        self.text(keyword).map(|value| integer(value).ok_or(Problem::PaxValue)).transpose()
    }

    pub fn time(&self, keyword: &str) -> Result<Option<Time>, Problem> {
        self.text(keyword).map(|value| time(value).ok_or(Problem::PaxValue)).transpose()
    }

    /// What makes the member a sparse file: a known version, or a map without any.
    pub fn sparse(&self) -> Result<Option<SparseFile>, Problem> {
        let text = |keyword| self.text(keyword).unwrap_or_default();
        let before_data = match (text("GNU.sparse.major"), text("GNU.sparse.minor")) {
            (b"0", b"0" | b"1") => false,
            (b"1", b"0") => true,
            (b"", b"") if !text("GNU.sparse.map").is_empty() => false,
            _ => return Ok(None),
        };
        let size = match self.integer("GNU.sparse.size")? {
            None => self.integer("GNU.sparse.realsize")?,
            size => size,
        };
        Ok(Some(SparseFile {
            name: self.text("GNU.sparse.name").map(<[u8]>::to_vec),
            size,
            map: if before_data { None } else { Some(self.map()?) },
        }))
    }

    fn map(&self) -> Result<Map, Problem> {
        let extents = self.integer("GNU.sparse.numblocks")?.ok_or(Problem::PaxValue)?;
        let text = self.text("GNU.sparse.map").unwrap_or_default();
        let mut numbers = text.split(|&byte| byte == b',').filter(|_| !text.is_empty());
        let mut map = Map::default();
        while let Some(offset) = numbers.next() {
            let length = numbers.next().ok_or(Problem::PaxValue)?;
            let number = |digits| integer(digits).ok_or(Problem::PaxValue);
            map.add(number(offset)?, number(length)?)?;
        }
        match i64::try_from(map.entries()) == Ok(extents) {
            true => Ok(map),
            false => Err(Problem::Sparse("a map of another length than it says")),
        }
    }
}

/// The first record's keyword and value, and what follows it.
fn split(content: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let digits = content.iter().position(|&byte| byte == b' ')?;
    let length = usize::try_from(integer(&content[..digits])?).ok().filter(|&n| n >= 5)?;
    let (record, rest) = content.split_at_checked(length)?;
    let record = record.get(digits + 1..)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|&byte| byte == b'=')?;
    let (keyword, value) = (&record[..equals], &record[equals + 1..]);
    let text = match keyword {
        b"path" | b"linkpath" | b"uname" | b"gname" => value,
        _ => keyword,
    };
    (!keyword.is_empty() && !text.contains(&0)).then_some((keyword, value, rest))
}

/// Decimal, with or without a sign.
pub fn integer(digits: &[u8]) -> Option<i64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// `[-]SECONDS[.FRACTION]`; what is below a nanosecond is cut off.
fn time(value: &[u8]) -> Option<Time> {
    let point = value.iter().position(|&byte| byte == b'.');
    let (whole, fraction) = match point {
        Some(point) => (&value[..point], &value[point + 1..]),
        None => (value, &b""[..]),
    };
    let seconds = integer(whole)?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = fraction.iter().chain(std::iter::repeat(&b'0')).take(9);
    let nanoseconds = digits.fold(0, |value, &digit| value * 10 + u32::from(digit - b'0'));
    if whole.starts_with(b"-") && nanoseconds > 0 {
        let seconds = seconds.checked_sub(1)?;
        return Some(Time { seconds, nanoseconds: 1_000_000_000 - nanoseconds });
    }
    Some(Time { seconds, nanoseconds })
}
