//! A directory of an image or artifact as a tar stream, as `docker export` gives one: names
//! without `./`, no entry for the directory itself, entries by name, numeric owners
//! only. What a plain ustar header has no room for stands in a PAX header before
//! it (POSIX pax, "pax Extended Header"); xattrs as `SCHILY.xattr.`, sparse files
//! in GNU's PAX format 1.0, names that are not UTF-8 with `hdrcharset=BINARY`.
//! The same image gives the same bytes.
//!
//! One layer by itself becomes a layer again: with whiteouts (image-spec, layer.md), the attributes
//! that it has for the root, and without the directories that it has no entry for.
//!
//! Of a file with several names below the directory the first by order holds the
//! content, the others are links to it.

use std::io::Write;
use std::sync::Arc;

use quick_cache::unsync::Cache;

use super::{Error, FileTree, MayBlock, Node, Result, Walk};
use crate::index::records::{Entry, Extent, Kind, Time};

const BLOCK: usize = 512;
/// Bytes of a file read at a time.
const CHUNK: usize = 256 << 10;
/// Hard-linked inodes of which the first name is remembered; of others it is
/// looked up again.
const FIRST_NAMES: usize = 1 << 14;

/// Largest numbers of a ustar header: 7 and 11 octal digits.
const SMALL_MAX: u64 = 0o7777777;
const LARGE_MAX: u64 = 0o77777777777;

/// image-spec, layer.md, "Whiteouts".
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Writes what lies below a directory, or another node by itself.
pub fn write_tar(tree: &dyn FileTree, node: &Node, to: impl Write) -> Result<()> {
    let mut archive = Archive {
        tree,
        // With its slash.
        prefix: match node.path.len() {
            0 => 0,
            length if node.is_directory() => length + 1,
            length => length - node.name().len(),
        },
        root: node,
        to,
        first_names: Cache::new(FIRST_NAMES),
        buffer: vec![0; CHUNK],
    };
    if node.is_directory() {
        if tree.is_layer() {
            archive.root()?;
        }
        for node in Walk::new(tree, node.clone()) {
            archive.add(&node?)?;
        }
    } else {
        archive.add(node)?;
    }
    archive.write(&[0; 2 * BLOCK])?;
    archive.to.flush().map_err(Error::Write)
}

struct Archive<'a, W> {
    tree: &'a dyn FileTree,
    root: &'a Node,
    /// Bytes of a path that its name in the archive does not have.
    prefix: usize,
    to: W,
    first_names: Cache<(usize, u64), Arc<[u8]>>,
    buffer: Vec<u8>,
}

impl<W: Write> Archive<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.to.write_all(bytes).map_err(Error::Write)
    }

    /// What a layer says of the directory that is written.
    fn root(&mut self) -> Result<()> {
        let root = self.root;
        if root.path.is_empty() && root.entry.kind == Kind::Directory {
            let header = Header::new(b"./", &root.entry, b'5', 0).xattrs(&root.entry.xattrs);
            self.write(&header.encode())?;
        }
        self.opaque(b"", root)
    }

    /// The mark of a directory that hides what lower layers have in it.
    fn opaque(&mut self, name: &[u8], directory: &Node) -> Result<()> {
        if !self.tree.is_layer() || !directory.entry.hides {
            return Ok(());
        }
        self.marker(&[name, OPAQUE].concat())
    }

    fn marker(&mut self, name: &[u8]) -> Result<()> {
        let plain = Entry { mode: 0o644, ..Entry::implicit(Kind::Regular) };
        self.write(&Header::new(name, &plain, b'0', 0).encode())
    }

    /// A directory of a layer that no member describes. One without anything in it would be lost,
    /// so it is described.
    fn is_left_out(&self, node: &Node) -> Result<bool> {
        if node.entry.kind != Kind::Implicit {
            return Ok(false);
        }
        let child = self.tree.children(node, b"")?.next().transpose()?;
        Ok(child.is_some() || node.entry.hides)
    }

    fn add(&mut self, node: &Node) -> Result<()> {
        let mut name = node.path[self.prefix..].to_vec();
        if node.is_directory() {
            name.push(b'/');
        }
        if let Some(first) = self.first_name(node)?
            && *first != *node.path
        {
            let header = Header::new(&name, &node.entry, b'1', 0).link(&first[self.prefix..]);
            return self.write(&header.encode());
        }
        let entry = &node.entry;
        let header = match entry.kind {
            Kind::Regular => return self.file(&name, node),
            Kind::Symlink => Header::new(&name, entry, b'2', 0).link(&entry.link),
            Kind::Character => Header::new(&name, entry, b'3', 0),
            Kind::Block => Header::new(&name, entry, b'4', 0),
            Kind::Directory | Kind::Implicit => {
                if !self.is_left_out(node)? {
                    let header = Header::new(&name, entry, b'5', 0).xattrs(&entry.xattrs);
                    self.write(&header.encode())?;
                }
                return self.opaque(&name, node);
            }
            Kind::Fifo => Header::new(&name, entry, b'6', 0),
            Kind::CrossLayerLink => Header::new(&name, entry, b'1', 0).link(self.target(entry)),
            Kind::Whiteout => {
                let directory = name.len() - base(&name).len();
                return self.marker(&[&name[..directory], WHITEOUT, &name[directory..]].concat());
            }
        };
        self.write(&header.xattrs(&entry.xattrs).encode())
    }

    /// The target of a hard link to a lower layer: its name in the archive, or its path in the
    /// image where the archive does not have it.
    fn target<'e>(&self, entry: &'e Entry) -> &'e [u8] {
        let directory = &self.root.path[..self.prefix.saturating_sub(1).min(self.root.path.len())];
        match entry.link.strip_prefix(directory) {
            Some(below) if directory.is_empty() => below,
            Some([b'/', below @ ..]) => below,
            _ => &entry.link,
        }
    }

    /// The first name below the root of what has several.
    fn first_name(&mut self, node: &Node) -> Result<Option<Arc<[u8]>>> {
        if node.is_directory()
            || !self.root.is_directory()
            || self.tree.links(node, MayBlock::No)? == Some(1)
        {
            return Ok(None);
        }
        let inode = (node.layer, node.entry.inode);
        if let Some(first) = self.first_names.get(&inode) {
            return Ok(Some(Arc::clone(first)));
        }
        let mut first: Arc<[u8]> = node.path.as_slice().into();
        let (root, prefix) = (&self.root.path, self.prefix);
        self.tree.names(node, &mut |path| {
            let below = path.starts_with(root)
                && path.get(..prefix).is_some_and(|p| p.ends_with(b"/") || p.is_empty());
            if below && before(path, &first) {
                first = path.into();
            }
        })?;
        self.first_names.insert(inode, Arc::clone(&first));
        Ok(Some(first))
    }

    fn file(&mut self, name: &[u8], node: &Node) -> Result<()> {
        let entry = &node.entry;
        let Some(extents) = &entry.sparse else {
            let header = Header::new(name, entry, b'0', entry.size).xattrs(&entry.xattrs);
            self.write(&header.encode())?;
            self.content(node, 0, entry.size)?;
            return self.pad(entry.size);
        };
        let extents: Vec<Extent> = extents.iter().filter(|e| e.length > 0).copied().collect();
        let map = sparse_map(&extents, entry.size);
        let data: u64 = extents.iter().map(|extent| extent.length).sum();
        let stored = map.len() as u64 + data;
        let header = Header::new(&visible(name), entry, b'0', stored)
            .record("GNU.sparse.major", b"1")
            .record("GNU.sparse.minor", b"0")
            .record("GNU.sparse.name", name)
            .record("GNU.sparse.realsize", entry.size.to_string().as_bytes())
            .xattrs(&entry.xattrs);
        self.write(&header.encode())?;
        self.write(&map)?;
        for extent in &extents {
            self.content(node, extent.offset, extent.length)?;
        }
        self.pad(stored)
    }

    fn content(&mut self, node: &Node, mut offset: u64, length: u64) -> Result<()> {
        let end = offset.saturating_add(length).min(node.entry.size);
        while offset < end {
            let want = usize::try_from(end - offset).map_or(CHUNK, |left| left.min(CHUNK));
            let read = self.tree.read(node, offset, &mut self.buffer[..want])?;
            self.to.write_all(&self.buffer[..read]).map_err(Error::Write)?;
            offset += read as u64;
        }
        Ok(())
    }

    fn pad(&mut self, length: u64) -> Result<()> {
        let over = (length % BLOCK as u64) as usize;
        let padding = (BLOCK - over) % BLOCK;
        self.write(&[0; BLOCK][..padding])
    }
}

/// Whether a path comes before another in a walk.
fn before(a: &[u8], b: &[u8]) -> bool {
    a.split(|&b| b == b'/').lt(b.split(|&b| b == b'/'))
}

/// The name of a sparse file in its ustar header. A reader that knows nothing of
/// sparse files sees what it is; cut off, as by GNU tar, since a second name in a
/// `path` record would be one too many for some that do.
fn visible(name: &[u8]) -> Vec<u8> {
    let mut visible = [b"GNUSparseFile.0/", base(name)].concat();
    visible.truncate(field::NAME.len());
    visible
}

/// The last component.
fn base(name: &[u8]) -> &[u8] {
    let name = name.strip_suffix(b"/").unwrap_or(name);
    name.rsplit(|&b| b == b'/').next().unwrap_or(name)
}

/// The map before the data of a sparse file: how many pieces, and of each offset
/// and length, a line each, padded to a block. A hole at the end needs an empty
/// piece there.
fn sparse_map(extents: &[Extent], size: u64) -> Vec<u8> {
    let end = extents.last().map_or(0, |last| last.offset.saturating_add(last.length));
    let mut numbers = vec![extents.len() as u64 + u64::from(end < size)];
    numbers.extend(extents.iter().flat_map(|e| [e.offset, e.length]));
    if end < size {
        numbers.extend([size, 0]);
    }
    let mut map = Vec::new();
    for number in numbers {
        map.extend(number.to_string().bytes());
        map.push(b'\n');
    }
    map.resize(map.len().next_multiple_of(BLOCK), 0);
    map
}

/// A header under way: a ustar block and what does not fit into it.
struct Header {
    block: [u8; BLOCK],
    /// Name and value.
    records: Vec<(Vec<u8>, Vec<u8>)>,
    /// For the PAX header's own name.
    base: Vec<u8>,
}

/// Fields of a ustar header (POSIX pax, "ustar Header Block").
mod field {
    use std::ops::Range;

    pub const NAME: Range<usize> = 0..100;
    pub const MODE: Range<usize> = 100..108;
    pub const UID: Range<usize> = 108..116;
    pub const GID: Range<usize> = 116..124;
    pub const SIZE: Range<usize> = 124..136;
    pub const MTIME: Range<usize> = 136..148;
    pub const CHECKSUM: Range<usize> = 148..156;
    pub const TYPE: usize = 156;
    pub const LINK: Range<usize> = 157..257;
    pub const MAGIC: Range<usize> = 257..265;
    pub const MAJOR: Range<usize> = 329..337;
    pub const MINOR: Range<usize> = 337..345;
    pub const PREFIX: Range<usize> = 345..500;
}

impl Header {
    fn new(name: &[u8], entry: &Entry, kind: u8, size: u64) -> Header {
        let mut header =
            Header { block: [0; BLOCK], records: Vec::new(), base: base(name).to_vec() };
        header.block[field::MAGIC].copy_from_slice(b"ustar\x0000");
        header.block[field::TYPE] = kind;
        header.name(name);
        header.number(field::MODE, u64::from(entry.mode & 0o7777), "");
        header.number(field::UID, u64::from(entry.uid), "uid");
        header.number(field::GID, u64::from(entry.gid), "gid");
        header.number(field::SIZE, size, "size");
        header.mtime(entry.mtime);
        if matches!(kind, b'3' | b'4') {
            header.number(field::MAJOR, u64::from(entry.device.0), "SCHILY.devmajor");
            header.number(field::MINOR, u64::from(entry.device.1), "SCHILY.devminor");
        }
        header
    }

    fn name(&mut self, name: &[u8]) {
        if let Some((prefix, rest)) = split(name) {
            self.block[field::NAME][..rest.len()].copy_from_slice(rest);
            self.block[field::PREFIX][..prefix.len()].copy_from_slice(prefix);
        } else {
            let start = &name[..name.len().min(field::NAME.len())];
            self.block[field::NAME][..start.len()].copy_from_slice(start);
            self.records.push((b"path".to_vec(), name.to_vec()));
        }
    }

    fn link(mut self, target: &[u8]) -> Header {
        let start = &target[..target.len().min(field::LINK.len())];
        self.block[field::LINK][..start.len()].copy_from_slice(start);
        match start.len() == target.len() {
            true => self,
            false => self.record("linkpath", target),
        }
    }

    fn record(mut self, name: &str, value: &[u8]) -> Header {
        self.records.push((name.into(), value.to_vec()));
        self
    }

    /// Octal digits and a zero byte, as many as there is room for.
    fn number(&mut self, field: std::ops::Range<usize>, value: u64, record: &str) {
        let digits = field.len() - 1;
        let max = if digits == 7 { SMALL_MAX } else { LARGE_MAX };
        let shown = if value > max { 0 } else { value };
        let text = format!("{shown:0digits$o}\0");
        self.block[field].copy_from_slice(text.as_bytes());
        if shown != value {
            self.records.push((record.into(), value.to_string().into()));
        }
    }

    fn mtime(&mut self, time: Time) {
        let whole = u64::try_from(time.seconds).ok().filter(|&s| s <= LARGE_MAX);
        self.number(field::MTIME, whole.unwrap_or(0), "");
        if time.nanoseconds > 0 || whole.is_none() {
            self.records.push((b"mtime".to_vec(), decimal(time).into()));
        }
    }

    /// GNU tar's spelling: a key of a record cannot have a `=`.
    fn xattrs(mut self, xattrs: &[(Vec<u8>, Vec<u8>)]) -> Header {
        for (name, value) in xattrs {
            let mut key = b"SCHILY.xattr.".to_vec();
            for (i, &byte) in name.iter().enumerate() {
                match byte {
                    b'=' => key.extend(b"%3D"),
                    b'%' if matches!(name.get(i + 1..i + 3), Some(b"3D" | b"25")) => {
                        key.extend(b"%25");
                    }
                    _ => key.push(byte),
                }
            }
            self.records.push((key, value.clone()));
        }
        self
    }

    /// The blocks of the header, the PAX header first.
    fn encode(mut self) -> Vec<u8> {
        let mut blocks = Vec::new();
        if !self.records.is_empty() {
            let text = |(name, value): &(Vec<u8>, Vec<u8>)| {
                let binary = name.starts_with(b"SCHILY.xattr.");
                std::str::from_utf8(name).is_ok() && (binary || std::str::from_utf8(value).is_ok())
            };
            let mut body = Vec::new();
            if !self.records.iter().all(text) {
                body.extend(pax_record(b"hdrcharset", b"BINARY"));
            }
            for (name, value) in &self.records {
                body.extend(pax_record(name, value));
            }
            let name = [b"PaxHeaders.0/", self.base.as_slice()].concat();
            let name = &name[..name.len().min(field::NAME.len())];
            let plain = Entry { mode: 0o644, ..Entry::implicit(Kind::Regular) };
            let mut header = Header::new(name, &plain, b'x', body.len() as u64);
            header.seal();
            blocks.extend(header.block);
            body.resize(body.len().next_multiple_of(BLOCK), 0);
            blocks.extend(body);
        }
        self.seal();
        blocks.extend(self.block);
        blocks
    }

    fn seal(&mut self) {
        self.block[field::CHECKSUM].fill(b' ');
        let sum: u32 = self.block.iter().map(|&b| u32::from(b)).sum();
        self.block[field::CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

/// A name as prefix and rest, where it fits into a header.
fn split(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if name.len() <= field::NAME.len() {
        return Some((b"", name));
    }
    // The slash between them is not stored. One at the end is the name's.
    let inner = &name[..name.len() - 1];
    let slashes = inner.iter().enumerate().filter(|&(_, &b)| b == b'/');
    slashes.map(|(at, _)| (&name[..at], &name[at + 1..])).find(|(prefix, rest)| {
        !prefix.is_empty() && prefix.len() <= field::PREFIX.len() && rest.len() <= field::NAME.len()
    })
}

/// Seconds, and what is left of one without its zeros at the end. Nanoseconds
/// count forward, decimals of a negative number backward.
fn decimal(time: Time) -> String {
    let (mut seconds, mut nanoseconds) = (i128::from(time.seconds), time.nanoseconds);
    let sign = if seconds < 0 { "-" } else { "" };
    if seconds < 0 && nanoseconds > 0 {
        seconds += 1;
        nanoseconds = 1_000_000_000 - nanoseconds;
    }
    let seconds = seconds.abs();
    let fraction = format!(".{nanoseconds:09}");
    format!("{sign}{seconds}{}", fraction.trim_end_matches('0').trim_end_matches('.'))
}

/// `LENGTH NAME=VALUE\n`; the length counts itself.
fn pax_record(name: &[u8], value: &[u8]) -> Vec<u8> {
    // A blank, an equals sign, a newline.
    let rest = name.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    let mut record = format!("{length} ").into_bytes();
    record.extend(name);
    record.push(b'=');
    record.extend(value);
    record.push(b'\n');
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_count_themselves() {
        for (name, value, want) in [
            ("a", "b", "6 a=b\n"),
            ("abc", "de", "9 abc=de\n"),
            ("abcd", "ef", "11 abcd=ef\n"),
            ("a", "bcd", "8 a=bcd\n"),
            ("a", "bcde", "9 a=bcde\n"),
            ("a", "bcdef", "11 a=bcdef\n"),
        ] {
            let record = pax_record(name.as_bytes(), value.as_bytes());
            assert_eq!(String::from_utf8(record).unwrap(), want);
        }
        for length in 0..1200 {
            let record = pax_record(b"k", &vec![b'v'; length]);
            let digits = record.iter().take_while(|b| b.is_ascii_digit()).count();
            let said = std::str::from_utf8(&record[..digits]).unwrap();
            assert_eq!(said.parse(), Ok(record.len()));
        }
    }

    #[test]
    fn times() {
        for (seconds, nanoseconds, want) in [
            (0, 0, "0"),
            (1, 500_000_000, "1.5"),
            (1, 1, "1.000000001"),
            (-1, 0, "-1"),
            (-1, 500_000_000, "-0.5"),
            (-2, 750_000_000, "-1.25"),
            (i64::MIN, 0, "-9223372036854775808"),
        ] {
            let time = Time { seconds, nanoseconds };
            assert_eq!(decimal(time), want);
        }
    }

    #[test]
    fn long_names() {
        let (a, b) = ("a".repeat(100), "b".repeat(155));
        let joined = format!("{b}/{a}");
        let directory = format!("{b}/{}/", &a[1..]);
        for (name, prefix) in [
            (a.clone(), Some("")),
            (joined.clone(), Some(b.as_str())),
            (directory.clone(), Some(b.as_str())),
            (format!("x{joined}"), None),
            (format!("{joined}x"), None),
            (format!("{a}x"), None),
            (format!("{a}/"), None),
            (format!("/{a}"), None),
        ] {
            let found = split(name.as_bytes());
            let found_prefix = found.map(|(prefix, _)| std::str::from_utf8(prefix).unwrap());
            assert_eq!(found_prefix, prefix, "{name}");
            if let Some((prefix @ [_, ..], rest)) = found {
                assert_eq!([prefix, rest].join(&b'/'), name.as_bytes());
            }
        }
    }

    #[test]
    fn a_sparse_file_has_one_name() {
        let long = [b"d/".as_slice(), &[b'x'; 200]].concat();
        for (name, length) in [(b"d/x".as_slice(), 17), (&long, 100)] {
            let visible = visible(name);
            assert_eq!(visible.len(), length);
            let entry = Entry::implicit(Kind::Regular);
            let header = Header::new(&visible, &entry, b'0', 0);
            assert!(header.records.is_empty());
        }
    }

    #[test]
    fn maps_of_sparse_files() {
        let extent = |offset, length| Extent { offset, length };
        for (extents, size, want) in [
            (vec![], 10, "1\n10\n0\n"),
            (vec![], 0, "0\n"),
            (vec![extent(0, 10)], 10, "1\n0\n10\n"),
            (vec![extent(5, 5)], 20, "2\n5\n5\n20\n0\n"),
        ] {
            let map = sparse_map(&extents, size);
            assert_eq!(map.len(), BLOCK);
            let text = String::from_utf8(map).unwrap();
            assert_eq!(text.trim_end_matches('\0'), want);
        }
    }

    #[test]
    fn order() {
        for (a, b) in [("a", "a/b"), ("a/b", "a-b"), ("a", "a-b"), ("a/z", "b")] {
            assert!(before(a.as_bytes(), b.as_bytes()), "{a} {b}");
            assert!(!before(b.as_bytes(), a.as_bytes()), "{b} {a}");
        }
    }
}
