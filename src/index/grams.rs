//! What text a layer's files have, so that a search passes over files in which nothing can match.
//!
//! The text of a file is what stands before its first NUL byte, since a search ends there. Of every
//! line of it, all runs of [`GRAM`] bytes, with ASCII letters in lower case, are hashed to bits of a
//! bitmap. A row has the bitmap of the files that lie in the layer one after another, until there
//! are [`MIN`] runs in it; a large file that has more is divided between lines. No match goes beyond
//! a line, so if one is in a file, then all runs of its text are in one row.
//!
//! All rows of a layer take at most a part of [`SHARE`] of what the layer takes as it is stored,
//! besides one row. Where text is dense, rows are about more of it, and tell less; so that they do not
//! tell nothing, they may take twice as much.

use std::ops::RangeInclusive;

use super::records::{RecordError, VERSION};

pub const GRAMS: &str = "grams";

/// Bytes of a run.
pub const GRAM: usize = 5;
/// Bits of the largest bitmap, and the logarithm of that.
const BITS: usize = 1 << BITS_LOG;
const BITS_LOG: u32 = 18;
/// Different runs of a row.
const MIN: usize = 1 << 16;
/// Where there are more, too many bits would be set.
const MANY: usize = BITS / 8 * 5;
/// With so many a bitmap tells nothing.
const FULL: usize = BITS / 10 * 9;
const SHARE: u64 = 50;
/// Text after which the runs are counted.
const COUNTED: usize = 256 << 10;
/// Text that is put into lower case at a time.
const PIECE: usize = 4 << 10;

/// The hash of a run, which is the number of its bit. `bytes`: the run in lower case in the lower
/// bytes, anything in the others.
fn hash(bytes: u64) -> u32 {
    const RUN: u32 = 8 * GRAM as u32;
    let hash = (bytes << (u64::BITS - RUN)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (hash >> (u64::BITS - BITS_LOG)) as u32
}

/// What text has to have, so that something can match in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Needs {
    /// A run of bytes, as its hash.
    Run(u32),
    /// All of these. None: anything will do.
    All(Vec<Needs>),
    /// One of these.
    Any(Vec<Needs>),
}

impl Needs {
    /// The runs of a text, in upper or lower case.
    pub fn text(text: &[u8]) -> Needs {
        let run = |run: &[u8]| {
            let mut bytes = [0; 8];
            bytes[..GRAM].copy_from_slice(run);
            bytes.make_ascii_lowercase();
            Needs::Run(hash(u64::from_le_bytes(bytes)))
        };
        Needs::All(text.windows(GRAM).map(run).collect())
    }

    pub fn is_anything(&self) -> bool {
        matches!(self, Needs::All(needs) if needs.is_empty())
    }

    /// Whether a line has it.
    #[cfg(test)]
    pub fn may_match(&self, line: &[u8]) -> bool {
        let mut texts = Texts::new();
        texts.file(0);
        texts.content(line, u64::MAX);
        texts.finish(u64::MAX);
        texts.rows().all(|row| matches!(read(&row, self), Ok(Some(_))))
    }

    fn may_be_in(&self, bitmap: &[u8]) -> bool {
        match self {
            Needs::Run(hash) => {
                // Its length is a power of two; none: anything may be there.
                let bit = *hash as usize & (8 * bitmap.len()).wrapping_sub(1);
                bitmap.get(bit / 8).is_none_or(|byte| byte >> (bit % 8) & 1 == 1)
            }
            Needs::All(needs) => needs.iter().all(|needs| needs.may_be_in(bitmap)),
            Needs::Any(needs) => needs.iter().any(|needs| needs.may_be_in(bitmap)),
        }
    }
}

/// Reads a row: the first and the last inode of its files, if they may have what is needed.
pub fn read(row: &[u8], needs: &Needs) -> Result<Option<RangeInclusive<u64>>, RecordError> {
    let size = || RecordError::Size(row.len());
    let (&version, rest) = row.split_first().ok_or_else(size)?;
    if version != VERSION {
        return Err(RecordError::Version(version));
    }
    let (first, rest) = rest.split_first_chunk().ok_or_else(size)?;
    let (last, bitmap) = rest.split_first_chunk().ok_or_else(size)?;
    if !bitmap.is_empty() && !bitmap.len().is_power_of_two() {
        return Err(size());
    }
    let range = u64::from_be_bytes(*first)..=u64::from_be_bytes(*last);
    Ok(needs.may_be_in(bitmap).then_some(range))
}

/// Makes the rows of a layer from the content of its files, in their order.
pub struct Texts {
    /// 1 for every bit that is set: to set bits takes longer.
    bits: Box<[u8; BITS]>,
    /// Text in lower case; in front of it the end of the text before it, of the same line, and
    /// behind it room to read beyond its end.
    window: Box<[u8; GRAM - 1 + PIECE + 8]>,
    held: usize,
    /// The inode of the file, and how much of it was there.
    file: u64,
    length: u64,
    /// Its first two bytes.
    mark: u16,
    /// There was a NUL byte.
    is_over: bool,
    /// The inodes that the next row is about; `None`: none yet.
    inodes: Option<(u64, u64)>,
    /// They have text that is not in the bitmap.
    has_more: bool,
    /// Bytes of text since the runs were counted.
    uncounted: usize,
    /// Bytes of all rows so far.
    written: u64,
    rows: Vec<Vec<u8>>,
}

impl Texts {
    pub fn new() -> Texts {
        Texts {
            bits: Box::new([0; BITS]),
            window: Box::new([0; GRAM - 1 + PIECE + 8]),
            held: 0,
            file: 0,
            length: 0,
            mark: 0,
            is_over: false,
            inodes: None,
            has_more: false,
            uncounted: 0,
            written: 0,
            rows: Vec::new(),
        }
    }

    /// Begins a file.
    pub fn file(&mut self, inode: u64) {
        (self.file, self.length, self.mark, self.is_over) = (inode, 0, 0, false);
        self.held = 0;
    }

    /// A hole in the file: NUL bytes.
    pub fn hole(&mut self) {
        self.is_over = true;
    }

    /// The next bytes of the file. `stored`: bytes of the layer, as it is stored, up to about here.
    pub fn content(&mut self, bytes: &[u8], stored: u64) {
        if self.is_over || bytes.is_empty() {
            return;
        }
        let end = memchr::memchr(0, bytes);
        let text = &bytes[..end.unwrap_or(bytes.len())];
        self.inodes.get_or_insert((self.file, self.file)).1 = self.file;
        for &byte in bytes.iter().take(2_usize.saturating_sub(self.length as usize)) {
            self.mark = self.mark << 8 | u16::from(byte);
        }
        // UTF-16 is searched after it was decoded.
        self.has_more |= matches!(self.mark, 0xfffe | 0xfeff);
        self.length += bytes.len() as u64;
        for piece in text.chunks(PIECE) {
            self.piece(piece, stored);
        }
        self.is_over = end.is_some();
    }

    fn piece(&mut self, piece: &[u8], stored: u64) {
        let end = self.held + piece.len();
        let new = &mut self.window[self.held..end];
        new.copy_from_slice(piece);
        new.make_ascii_lowercase();
        let mut start = 0;
        while let Some(length) = memchr::memchr(b'\n', &self.window[start..end]) {
            self.line(start, start + length);
            start += length + 1;
            if self.uncounted >= COUNTED {
                self.count(stored);
            }
        }
        self.line(start, end);
        let from = start.max(end.saturating_sub(GRAM - 1));
        self.window.copy_within(from..end, 0);
        self.held = end - from;
    }

    /// Takes the runs of a line in the window.
    fn line(&mut self, start: usize, end: usize) {
        self.uncounted += end - start;
        if end - start < GRAM {
            return;
        }
        for bytes in self.window[start..end + 8 - GRAM].windows(8) {
            let bytes = bytes.try_into().expect("windows of eight bytes");
            self.bits[hash(u64::from_le_bytes(bytes)) as usize] = 1;
        }
    }

    /// Ends the file.
    pub fn end(&mut self, stored: u64) {
        self.is_over = true;
        if self.uncounted >= COUNTED {
            self.count(stored);
        }
    }

    fn runs(&self) -> usize {
        let sum = |bits: &[u8]| bits.iter().sum::<u8>() as usize;
        self.bits.chunks(128).map(sum).sum()
    }

    /// Ends the row if there is enough in it, and room for it.
    fn count(&mut self, stored: u64) {
        self.uncounted = 0;
        let runs = self.runs();
        let share = stored / SHARE * if runs < MANY { 1 } else { 2 };
        if runs >= FULL || runs >= MIN && self.written + size(runs) <= share {
            self.row(size(runs));
        }
    }

    /// Ends the last row. `stored`: bytes of the layer.
    pub fn finish(&mut self, stored: u64) {
        if self.inodes.is_some() {
            let runs = self.runs();
            let mut bytes = size(runs);
            // As much as there is room for, and not so little that it tells nothing.
            while bytes > 8 && self.written + bytes > stored / SHARE && bytes * 8 > runs as u64 {
                bytes /= 2;
            }
            self.row(bytes);
        }
    }

    fn row(&mut self, bytes: u64) {
        let Some((first, last)) = self.inodes.take() else { return };
        let mut row = vec![VERSION];
        row.extend(first.to_be_bytes());
        row.extend(last.to_be_bytes());
        if !self.has_more && self.runs() < FULL {
            let mut bits = &mut self.bits[..];
            while bits.len() as u64 > 8 * bytes {
                let (low, high) = bits.split_at_mut(bits.len() / 2);
                low.iter_mut().zip(high).for_each(|(low, high)| *low |= *high);
                bits = low;
            }
            row.extend(bits.chunks_exact(8).map(pack));
        }
        self.written += row.len() as u64;
        self.rows.push(row);
        self.bits.fill(0);
        self.has_more = false;
        // The rest of the file is in the next.
        if !self.is_over {
            self.inodes = Some((self.file, self.file));
        }
    }

    /// The rows that were made since.
    pub fn rows(&mut self) -> impl Iterator<Item = Vec<u8>> {
        self.rows.drain(..)
    }
}

/// A byte of which each bit is the lowest of one of the bytes, the first of them below.
fn pack(bytes: &[u8]) -> u8 {
    let bytes = u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
    (bytes.wrapping_mul(0x0102_0408_1020_4080) >> 56) as u8
}

/// Bytes of a bitmap for so many runs: about half of its bits are set.
fn size(runs: usize) -> u64 {
    let bits = runs.next_power_of_two().clamp(64, BITS);
    bits as u64 / 8
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Files, in pieces of these lengths, again and again.
    fn rows(files: &[(&[u8], &[usize])], stored: u64) -> Vec<Vec<u8>> {
        let mut texts = Texts::new();
        let mut rows = Vec::new();
        for (inode, &(content, lengths)) in files.iter().enumerate() {
            texts.file(inode as u64);
            let (mut rest, mut lengths) = (content, lengths.iter().cycle());
            while !rest.is_empty() {
                let (piece, after) = rest.split_at((*lengths.next().unwrap()).min(rest.len()));
                texts.content(piece, stored);
                rows.extend(texts.rows());
                rest = after;
            }
            texts.end(stored);
        }
        texts.finish(stored);
        rows.extend(texts.rows());
        rows
    }

    fn found(rows: &[Vec<u8>], inode: usize, text: &[u8]) -> bool {
        let needs = Needs::text(text);
        let mut found = rows.iter().filter_map(|row| read(row, &needs).unwrap());
        found.any(|files| files.contains(&(inode as u64)))
    }

    /// Lines that are not repeated, of 1 to 100 bytes.
    fn lines(mut seed: u64, bytes: usize) -> Vec<u8> {
        let mut text = Vec::new();
        while text.len() < bytes {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let line = format!("{seed:016X}").repeat(7);
            text.extend_from_slice(&line.as_bytes()[..1 + (seed >> 40) as usize % 99]);
            text.push(b'\n');
        }
        text
    }

    #[test]
    fn every_text_is_found_however_it_comes() {
        let piece = prop::collection::vec(
            prop_oneof![
                8 => Just(&b"some"[..]), 8 => Just(&b"TEXT-"[..]), 4 => Just(&b"\n"[..]),
                2 => Just(&b"\xc3\xa9"[..]), 1 => Just(&b"\0"[..]),
            ],
            0..40,
        );
        let file = (piece, prop::collection::vec(1..9_usize, 1..4));
        proptest!(|(files in prop::collection::vec(file, 1..6), stored in 0..100_000_u64)| {
            let files: Vec<_> = files.into_iter().map(|(pieces, lengths)| (pieces.concat(), lengths)).collect();
            let given: Vec<_> = files.iter().map(|(file, lengths)| (&file[..], &lengths[..])).collect();
            let rows = rows(&given, stored);
            for (inode, (file, _)) in files.iter().enumerate() {
                let text = file.split(|&byte| byte == 0).next().unwrap();
                for line in text.split(|&byte| byte == b'\n') {
                    for length in GRAM..line.len() {
                        for text in line.windows(length) {
                            prop_assert!(found(&rows, inode, text));
                        }
                    }
                }
            }
        });
    }

    #[test]
    fn rows_of_much_text() {
        let sizes = [3_000_000, 10, 0, 70_000, 200_000, 300_000, 1_000_000, 5_000];
        let mut files: Vec<_> = (0..).zip(sizes).map(|(seed, bytes)| lines(seed, bytes)).collect();
        // All of it is text, until a row was ended.
        files[5].extend_from_slice(b"\0binary");
        let given: Vec<_> = files.iter().map(|file| (&file[..], &[400_003, 1][..])).collect();
        let all = rows(&given, 1 << 40);
        assert!(all.len() > 8, "{} rows", all.len());
        for (inode, file) in files.iter().enumerate() {
            let text = file.split(|&byte| byte == 0).next().unwrap();
            for line in text.split(|&byte| byte == b'\n').step_by(17) {
                assert!(line.is_empty() || found(&all, inode, line), "{inode}: {line:?}");
            }
        }
        // All that is known of the last file.
        let others = files[0].split(|&byte| byte == b'\n').filter(|line| line.len() > 20);
        let (mut passed, mut count) = (0, 0);
        for line in others.step_by(100) {
            passed += usize::from(found(&all, files.len() - 1, line));
            count += 1;
        }
        assert!(passed * 20 < count, "{passed} of {count}");

        // With less room there are fewer, and then less in them.
        let bytes = |rows: &[Vec<u8>]| rows.iter().map(Vec::len).sum::<usize>() as u64;
        for stored in [100_000_000, 20_000_000, 5_000_000, 1_000_000, 0] {
            let rows = rows(&given, stored);
            let most = 2 * stored / SHARE + BITS as u64 / 8 + 17;
            assert!(bytes(&rows) <= most, "{} of {most} bytes", bytes(&rows));
            let mut lines = files[0].split(|&byte| byte == b'\n');
            assert!(lines.all(|line| line.len() != 50 || found(&rows, 0, line)));
        }
    }

    #[test]
    fn what_a_search_reads_in_another_way() {
        let lengths = &[1][..];
        let has = |content: &[u8], text: &[u8]| found(&rows(&[(content, lengths)], 0), 0, text);
        assert!(has(b"abcdefg", b"BCDEF"));
        assert!(!has(b"abcdefg", b"other"));
        assert!(!has(b"abcde\0other", b"other"), "behind a NUL byte");
        assert!(!has(b"\0other", b"other"));
        assert!(has(b"\xff\xfeo\0t\0h\0e\0r\0", b"other"), "UTF-16");
        assert!(has(b"\xfe\xff\0o\0t\0h\0e\0r", b"other"), "UTF-16");
        assert!(has(b"\xef\xbb\xbfother", b"other"));
        assert!(!has(b"abc\ndefg", b"cdefg"), "no match goes beyond a line");
        assert!(has(b"", b"") || rows(&[(b"", lengths)], 0).is_empty());

        let mut texts = Texts::new();
        texts.file(7);
        texts.content(b"abcdefg", 0);
        texts.hole();
        texts.content(b"other", 0);
        texts.end(0);
        texts.finish(0);
        let rows: Vec<_> = texts.rows().collect();
        assert!(found(&rows, 7, b"abcde"));
        assert!(!found(&rows, 7, b"other"), "behind a hole");
        assert!(!found(&rows, 6, b"abcde"));
    }

    /// Another encoding under the same version would be misread.
    #[test]
    fn golden_bytes() {
        let rows = rows(&[(b"abcdefg", &[9]), (b"\xff\xfe", &[9])], 0);
        let row = |bitmap: &[u8]| [&[VERSION][..], &[0; 8], &1_u64.to_be_bytes(), bitmap].concat();
        assert_eq!(rows, [row(&[])]);
        let rows = self::rows(&[(b"abcdefg", &[9]), (b"xyzXYZ", &[9])], 0);
        assert_eq!(rows, [row(&[1, 0, 4, 0, 64, 0, 0, 8])]);
    }

    #[test]
    fn what_is_no_row() {
        let row = rows(&[(b"abcdefg", &[9])], 0).remove(0);
        let needs = Needs::text(b"abcde");
        for length in (0..17).chain([20]) {
            assert!(read(&row[..length], &needs).is_err(), "{length} bytes of it");
        }
        let other = [&[VERSION + 1], &row[1..]].concat();
        assert!(matches!(read(&other, &needs), Err(RecordError::Version(_))));
    }
}
