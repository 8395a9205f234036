//! Tar files of generated content, no more of the format than that takes.

use std::io::{self, Write};
use std::sync::LazyLock;

use crate::common::noise;

/// Of a header, and what contents are padded to.
pub const BLOCK: u64 = 512;

/// Content that gzip shrinks to four tenths and inflates about as fast as
/// programs and text: pieces of noise beside pieces of a dictionary.
#[derive(Clone, Copy, Debug)]
pub struct Text {
    pub seed: u64,
    pub size: u64,
}

/// No match is found in it: longer than gzip's window.
static NOISE: LazyLock<Vec<u8>> = LazyLock::new(|| noise(2, 1 << 20));
/// Shorter than the window. Of letters, the early ones more often.
static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let pairs = noise(3, 48 << 10);
    let letter = |pair: &[u8]| b'a' + (pair[0] % 26).min(pair[1] % 26);
    pairs.chunks_exact(2).map(letter).collect()
});

impl Text {
    pub fn pieces<E>(self, mut take: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        const PIECE: u64 = 1 << 20;
        let (mut left, mut choice) = (self.size, splitmix(self.seed));
        let mut piece = Vec::new();
        while left > 0 {
            let length = left.min(PIECE);
            piece.clear();
            while (piece.len() as u64) < length {
                choice = choice.wrapping_add(1);
                piece.extend_from_slice(token(splitmix(choice)));
            }
            take(&piece[..length as usize])?;
            left -= length;
        }
        Ok(())
    }
}

/// Half of the pieces are noise, few are long.
fn token(choice: u64) -> &'static [u8] {
    let (kind, extra, place) = (choice % 100, choice >> 8 & 0xff, choice >> 16);
    let (source, length) = match kind {
        0..50 => (&NOISE, 4 + extra % 12),
        50..70 => (&DICTIONARY, 75 + extra * 150 / 256),
        _ => (&DICTIONARY, 3 + extra % 8),
    };
    let start = place % (source.len() as u64 - length);
    &source[start as usize..(start + length) as usize]
}

pub fn splitmix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Writes a header of POSIX's ustar format.
fn header(out: &mut dyn Write, path: &str, kind: u8, mode: u32, size: u64) -> io::Result<()> {
    assert!(path.len() <= 100, "{path} is too long for a tar header");
    let mut header = [0; BLOCK as usize];
    let mut field = |start: usize, text: &str| {
        header[start..start + text.len()].copy_from_slice(text.as_bytes());
    };
    field(0, path);
    field(100, &format!("{mode:07o}\0{:07o}\0{:07o}\0", 0, 0));
    field(124, &format!("{size:011o}\0{:011o}\0", 1_700_000_000));
    // A checksum is counted as spaces.
    field(148, "        ");
    field(257, "ustar\x0000");
    header[156] = kind;
    let sum: u32 = header.iter().copied().map(u32::from).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    out.write_all(&header)
}

pub fn directory(out: &mut dyn Write, path: &str) -> io::Result<()> {
    header(out, &format!("{path}/"), b'5', 0o755, 0)
}

pub fn file(out: &mut dyn Write, path: &str, mode: u32, content: Text) -> io::Result<()> {
    header(out, path, b'0', mode, content.size)?;
    content.pieces(|piece| out.write_all(piece))?;
    let padding = content.size.next_multiple_of(BLOCK) - content.size;
    out.write_all(&[0; BLOCK as usize][..padding as usize])
}

pub fn end(out: &mut dyn Write) -> io::Result<()> {
    out.write_all(&[0; 2 * BLOCK as usize])
}
