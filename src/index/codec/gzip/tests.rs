//! Streams made bit by bit, so that they hold what compressors seldom write.

use std::io::Write;

use proptest::prelude::*;
use tempfile::NamedTempFile;

use super::*;

/// Small, so that small streams have many spans.
const SMALL: Cut = Cut {
    least: 4 << 10,
    most: 64 << 10,
    input: 8 << 10,
};

/// RFC 1951, section 3.1.1: bits from the lowest up.
#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    held: u64,
    count: u32,
}

impl Bits {
    fn put(&mut self, value: u32, count: u32) {
        self.held |= u64::from(value) << self.count;
        self.count += count;
        while self.count >= 8 {
            self.bytes.push(self.held as u8);
            self.held >>= 8;
            self.count -= 8;
        }
    }

    /// Huffman codes stand with their highest bit first.
    fn code(&mut self, code: u32, count: u32) {
        self.put(code.reverse_bits() >> (32 - count), count);
    }

    fn align(&mut self) {
        self.put(0, (8 - self.count) % 8);
    }

    /// Section 3.2.6: the fixed codes.
    fn symbol(&mut self, symbol: u32) {
        match symbol {
            0..=143 => self.code(0x30 + symbol, 8),
            144..=255 => self.code(0x190 + symbol - 144, 9),
            256..=279 => self.code(symbol - 256, 7),
            _ => self.code(0xc0 + symbol - 280, 8),
        }
    }

    /// Section 3.2.5.
    fn reference(&mut self, length: usize, distance: usize) {
        if length == 258 {
            self.symbol(285);
        } else {
            let (code, extra, rest) = class(length as u32 - 3, 4);
            self.symbol(257 + code);
            self.put(rest, extra);
        }
        let (code, extra, rest) = class(distance as u32 - 1, 2);
        self.code(code, 5);
        self.put(rest, extra);
    }
}

/// Lengths and distances come in classes, `step` of them to each number of
/// extra bits: the class, its extra bits, and what they hold.
fn class(value: u32, step: u32) -> (u32, u32, u32) {
    if value < 2 * step {
        return (value, 0, 0);
    }
    let extra = value.ilog2() - step.ilog2();
    let code = step * extra + (value >> extra);
    (code, extra, value & ((1 << extra) - 1))
}

#[derive(Debug, Clone, Copy)]
enum Block {
    Stored,
    Fixed,
}

/// Deflate, a block for each part of the data, which refers as far back as it can.
fn deflate<'a>(parts: impl IntoIterator<Item = (Block, &'a [u8])>) -> Vec<u8> {
    let mut bits = Bits::default();
    let mut data: Vec<u8> = Vec::new();
    let mut seen = std::collections::HashMap::new();
    for (block, part) in parts {
        let mut at = data.len();
        data.extend_from_slice(part);
        match block {
            Block::Stored => {
                for piece in part.chunks(0xffff) {
                    bits.put(0, 3);
                    bits.align();
                    bits.put(piece.len() as u32, 16);
                    bits.put(!piece.len() as u32 & 0xffff, 16);
                    bits.bytes.extend_from_slice(piece);
                }
                continue;
            }
            Block::Fixed => bits.put(0b010, 3),
        }
        while at < data.len() {
            let key = data[at..].first_chunk::<3>().copied();
            // The oldest place that can still be referred to.
            let from = key.and_then(|key| {
                let from = seen.entry(key).or_insert(at);
                if at - *from > WINDOW {
                    *from = at;
                }
                (*from < at).then_some(*from)
            });
            match from {
                Some(from) => {
                    let length = (at..data.len().min(at + 258))
                        .take_while(|&to| data[to] == data[from + to - at])
                        .count();
                    bits.reference(length, at - from);
                    at += length;
                }
                None => {
                    bits.symbol(data[at].into());
                    at += 1;
                }
            }
        }
        bits.symbol(256);
    }
    // An empty last block.
    bits.put(0b011, 3);
    bits.symbol(256);
    bits.align();
    bits.bytes
}

fn crc(data: &[u8]) -> u32 {
    !data.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            crc >> 1 ^ 0xedb8_8320 * (crc & 1)
        })
    })
}

/// Around deflated data; the header with every field that there is.
fn member(deflated: &[u8], plain: &[u8], fields: bool) -> Vec<u8> {
    let mut member = vec![0x1f, 0x8b, 8, 0, 1, 2, 3, 4, 0, 255];
    if fields {
        member[3] = 0b11111;
        member.extend(b"\x05\0extra".iter());
        member.extend(b"name\0and comment\0");
        member.extend(&crc(&member).to_le_bytes()[..2]);
    }
    member.extend(deflated);
    member.extend(crc(plain).to_le_bytes());
    member.extend((plain.len() as u32).to_le_bytes());
    member
}

fn stored(plain: &[u8]) -> Vec<u8> {
    member(&deflate([(Block::Stored, plain)]), plain, false)
}

fn fixed(plain: &[u8]) -> Vec<u8> {
    member(
        &deflate(plain.chunks(3000).map(|part| (Block::Fixed, part))),
        plain,
        false,
    )
}

/// What a stream gives, span by span.
fn spans(stream: &[u8], cut: Cut) -> Result<Vec<(Checkpoint, Vec<u8>)>, Error> {
    let mut spans = Spans::with_cut(stream, cut)?;
    let mut list = Vec::new();
    let mut output = Vec::new();
    while let Some(checkpoint) = spans.next(&mut output)? {
        assert!(!output.is_empty() && output.len() <= cut.most);
        list.push((checkpoint, std::mem::take(&mut output)));
    }
    assert!(spans.next(&mut output)?.is_none(), "the end stays the end");
    Ok(list)
}

/// The spans, of which each was decoded alone as well, last to first.
fn check(stream: &[u8], plain: &[u8], cut: Cut) -> Vec<Checkpoint> {
    let list = spans(stream, cut).unwrap();
    let whole: Vec<u8> = list.iter().flat_map(|(_, output)| output.clone()).collect();
    assert!(whole == plain, "the whole differs");
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(stream).unwrap();
    let mut output = Vec::new();
    for (checkpoint, span) in list.iter().rev() {
        let length = span.len();
        output.clear();
        decode(checkpoint, file.as_file(), &mut output, length).unwrap();
        assert!(output == *span, "the span at {} differs", checkpoint.input);
    }
    list.into_iter().map(|(checkpoint, _)| checkpoint).collect()
}

/// Text of few words: much of it refers back.
fn text(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut text = Vec::with_capacity(length + 16);
    while text.len() < length {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let number = state >> 40;
        text.extend_from_slice(format!("{} ", number % 5000 * (number % 7)).as_bytes());
    }
    text.truncate(length);
    text
}

#[test]
fn spans_inside_a_member() {
    let plain = text(1, 300_000);
    let checkpoints = check(&fixed(&plain), &plain, SMALL);
    assert!(checkpoints.len() > 40, "{}", checkpoints.len());
    assert_eq!(checkpoints[0], Checkpoint::at(0));
    for checkpoint in &checkpoints[1..] {
        assert!(checkpoint.raw && checkpoint.bits < 8);
        assert_ne!(checkpoint.window.first(), Some(&0), "the text has no zeros");
    }
    assert!(checkpoints.iter().any(|checkpoint| checkpoint.bits > 0));
}
