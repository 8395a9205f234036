//! Streams made bit by bit, so that they hold what compressors seldom write.

use proptest::prelude::*;

use super::super::testing::{Trickle, crc, file, text};
use super::*;

/// Small, so that small streams have many spans.
const SMALL: Cut = Cut { least: 4 << 10, most: 64 << 10, input: 8 << 10 };

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

/// A member of blocks of 3000 bytes.
pub fn fixed(plain: &[u8]) -> Vec<u8> {
    member(&deflate(plain.chunks(3000).map(|part| (Block::Fixed, part))), plain, false)
}

/// What a stream gives, span by span.
fn spans(stream: impl Read, cut: Cut) -> Result<Vec<(Checkpoint, Vec<u8>)>, Error> {
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
    let list = spans(Trickle::new(stream, 7001), cut).unwrap();
    let whole = list.iter().map(|(_, span)| &span[..]).collect::<Vec<_>>();
    assert!(whole.concat() == plain, "the whole differs");
    let file = file(stream);
    let mut output = Vec::new();
    for (checkpoint, span) in list.iter().rev() {
        output.clear();
        decode(checkpoint, &file, &mut output, span.len()).unwrap();
        assert!(output == *span, "the span at {} differs", checkpoint.input);
    }
    list.into_iter().map(|(checkpoint, _)| checkpoint).collect()
}

fn fails(stream: &[u8]) -> String {
    spans(stream, SMALL).unwrap_err().to_string()
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

#[test]
fn a_member_start_needs_no_window() {
    let parts: Vec<Vec<u8>> = (0..20).map(|n| text(n, 1000 * n as usize)).collect();
    let stream: Vec<u8> = parts.iter().flat_map(|part| fixed(part)).collect();
    let checkpoints = check(&stream, &parts.concat(), SMALL);
    let (inside, starts): (Vec<_>, Vec<_>) = checkpoints.iter().partition(|one| one.raw);
    assert!(!inside.is_empty() && starts.len() > 4);
    for checkpoint in starts {
        assert_eq!((checkpoint.bits, checkpoint.window.len()), (0, 0));
        assert_eq!(stream[checkpoint.input as usize..][..2], [0x1f, 0x8b]);
    }
}

/// The window's bytes are those that the span refers to, and no more.
#[test]
fn a_window_keeps_what_is_referred_to() {
    let before: Vec<u8> = (0..40_000u32).map(|n| (n % 250 + 1) as u8).collect();
    let (mut bits, mut plain) = (Bits::default(), before.clone());
    bits.put(0, 3);
    bits.align();
    bits.bytes.extend([0x40, 0x9c, !0x40, !0x9c]);
    bits.bytes.extend(&before);
    bits.put(0b011, 3);
    let mut want = vec![0; WINDOW];
    // (length, distance), and whether that is before the span.
    for (length, distance) in [(5, 32_768), (3, 100), (258, 1), (4, 266 + 2), (6, 30_000)] {
        bits.reference(length, distance);
        for _ in 0..length {
            let from = plain.len() - distance;
            if let Some(at) = (from + WINDOW).checked_sub(before.len())
                && at < WINDOW
            {
                want[at] = plain[from];
            }
            plain.push(plain[from]);
        }
    }
    bits.symbol(256);
    bits.align();
    let stream = member(&bits.bytes, &plain, false);
    let list = spans(&stream[..], SMALL).unwrap();
    assert_eq!(list.len(), 2);
    let window = &list[1].0.window;
    let referred = want.iter().filter(|byte| **byte != 0).count();
    assert_eq!(referred, 5 + 3 + 2 + 6);
    assert!(*window == want, "it begins with the first byte referred to");
    check(&stream, &plain, SMALL);

    // With nothing referred to there is none.
    let stream = stored(&[&before[..], &before].concat());
    for (checkpoint, _) in spans(&stream[..], SMALL).unwrap() {
        assert_eq!(checkpoint.window, [0; 0]);
    }
}

#[test]
fn nothing_in_it() {
    let empty = fixed(b"");
    assert_eq!(check(&empty, b"", SMALL), []);
    assert_eq!(check(&empty.repeat(3), b"", SMALL), []);
    let plain = text(1, 10);
    let stream = [&empty[..], &empty, &fixed(&plain), &empty, &empty].concat();
    let start = 2 * empty.len() as u64;
    assert_eq!(check(&stream, &plain, SMALL), [Checkpoint::at(start)]);
}

#[test]
fn header_fields() {
    let plain = text(1, 20_000);
    let blocks = deflate([(Block::Fixed, &plain[..])]);
    let one = member(&blocks, &plain, true);
    check(&one.repeat(3), &plain.repeat(3), SMALL);

    let header = one.len() - blocks.len() - TRAILER as usize;
    for length in 0..header {
        let ends = format!("the gzip stream ends too early, at offset {length}");
        assert_eq!(fails(&one[..length]), ends);
    }
    for (at, reason) in [
        (2, "unknown compression method"),
        (5, "header crc mismatch"),
        (header - 1, "header crc mismatch"),
        (one.len() - 1, "incorrect length check"),
        (one.len() - 5, "incorrect data check"),
    ] {
        let mut stream = one.clone();
        stream[at] ^= 1;
        let error = fails(&stream);
        assert!(error.ends_with(reason), "{at}: {error}");
    }
}

/// As GNU gzip 1.12 does it.
#[test]
fn what_follows_the_last_member() {
    let plain = text(1, 10_000);
    let one = fixed(&plain);
    for (rest, taken) in [
        (&b""[..], true),
        (b"\0", true),
        (&[0; 5000], true),
        (b"\0garbage", true),
        (b"garbage", true),
        (b"\0\x1f\x8b", true),
        (b"PK\x03\x04", true),
        (b"\x1f\0", true),
        (b"g", false),
        (b"\x1f", false),
        (b"\x1f\x8b", false),
        (b"\x1f\x8b\x07 other method", false),
        (b"\x1f\x9d\x90 compress", false),
        (b"\x1f\x9e\x08 old gzip", false),
    ] {
        let stream = [&one[..], rest].concat();
        match spans(&stream[..], SMALL) {
            Ok(_) => {
                assert!(taken, "{rest:?}");
                check(&stream, &plain, SMALL);
            }
            Err(error) => assert!(!taken, "{rest:?}: {error}"),
        }
    }
    assert!(fails(b"").ends_with("ends too early, at offset 0"));
    assert!(fails(b"\x1f").ends_with("ends too early, at offset 1"));
    assert!(fails(b"garbage").ends_with("near offset 0: not gzip"));
}

/// References to the byte before, in one block.
fn zeros(length: usize) -> Vec<u8> {
    let mut bits = Bits::default();
    bits.put(0b011, 3);
    bits.symbol(0);
    for _ in 0..length / 258 {
        bits.reference(258, 1);
    }
    for _ in 0..(length - 1) % 258 {
        bits.symbol(0);
    }
    bits.symbol(256);
    bits.align();
    bits.bytes
}

#[test]
fn one_large_block() {
    // A length that is one more than a multiple of the longest reference.
    let length = SMALL.most / 258 * 258 + 1;
    let plain = vec![0; length];
    let fits = member(&zeros(length), &plain, false);
    assert_eq!(check(&fits, &plain, SMALL), [Checkpoint::at(0)]);
    let larger = vec![0; length + 258];
    let stream = member(&zeros(length + 258), &larger, false);
    assert!(matches!(spans(&stream[..], SMALL), Err(Error::Unseekable)));
    // Beside output of the same span.
    let stream = [fixed(&text(1, 1000)), fits].concat();
    assert!(matches!(spans(&stream[..], SMALL), Err(Error::Unseekable)));
}

/// Compressed bytes that give no output make no span long.
#[test]
fn a_span_is_short_where_the_stream_is_long() {
    let block = [0, 0, 0, 0xff, 0xff].repeat(10_000);
    let mut bits = Bits::default();
    let mut blocks = Vec::new();
    for byte in 1..=4 {
        blocks.extend(&block);
        blocks.extend([0, 1, 0, 0xfe, 0xff, byte]);
        blocks.extend(&block);
    }
    bits.put(0b011, 3);
    bits.symbol(256);
    bits.align();
    blocks.extend(&bits.bytes);
    let stream = member(&blocks, &[1, 2, 3, 4], false);
    let checkpoints = check(&stream, &[1, 2, 3, 4], SMALL);
    assert_eq!(checkpoints.len(), 4);
    for pair in checkpoints.windows(2) {
        assert!(pair[1].input - pair[0].input > 90_000);
    }
    // The last checkpoint lies near the byte, not where the one before ended.
    assert!(checkpoints[3].input > 350_000 - 2 * SMALL.input);
    // Too far ahead to see that nothing of it is needed.
    assert_eq!(checkpoints[3].window, [1, 2, 3]);
}

#[test]
fn the_sizes_in_use() {
    let plain = text(1, 3 * SPAN);
    let stream = fixed(&plain);
    let mut spans = Spans::new(&stream[..]).unwrap();
    let mut output = Vec::new();
    let (mut lengths, mut offset) = (Vec::new(), 0);
    while spans.next(&mut output).unwrap().is_some() {
        assert!(output == plain[offset..][..output.len()]);
        lengths.push(output.len());
        offset += output.len();
        output.clear();
    }
    let block = SPAN.next_multiple_of(3000);
    assert_eq!(lengths, [block, block, 3 * SPAN - 2 * block]);

    let plain = vec![0; SPAN_MAX + 258];
    let stream = member(&zeros(SPAN_MAX / 258 * 258 + 259), &plain, false);
    let mut spans = Spans::new(&stream[..]).unwrap();
    assert!(matches!(spans.next(&mut output), Err(Error::Unseekable)));
}

/// Bytes of a span before damage can be read, although zlib sees the damage.
#[test]
fn a_span_that_damage_follows() {
    let header = b"\x1f\x8b\x08\0\0\0\0\0\0\xff";
    // A stored block, and one of the type that there is not.
    let stream = [&header[..], b"\0\x05\0\xfa\xff", b"plain", b"\x07"].concat();
    let (file, start) = (file(&stream), Checkpoint::at(0));
    let mut output = Vec::new();
    decode(&start, &file, &mut output, 5).unwrap();
    assert_eq!(output, b"plain");
    output.clear();
    assert!(decode(&start, &file, &mut output, 6).is_err());
}

#[test]
fn every_truncation_is_an_error() {
    let plain = text(1, 3000);
    let blocks = plain.chunks(500).map(|part| (Block::Fixed, part));
    let one = member(&deflate(blocks), &plain, false);
    let stream = one.repeat(2);
    let cut = Cut { least: 1000, ..SMALL };
    for length in 1..stream.len() {
        let result = spans(&stream[..length], cut);
        if length == one.len() {
            assert_eq!(result.unwrap().len(), 2);
        } else {
            let error = result.unwrap_err();
            let Error::Truncated { offset, .. } = error else {
                panic!("{length}: {error}");
            };
            assert!(offset <= length as u64);
        }
    }
}

/// A part of a stream: its block, or a new member, and its data.
#[derive(Debug, Clone)]
enum Part {
    Block(Block, u64, usize),
    /// The data again that begins so far back.
    Again(Block, usize, usize),
    Member,
}

fn part() -> impl Strategy<Value = Part> {
    let block = prop_oneof![Just(Block::Stored), Just(Block::Fixed), Just(Block::Fixed)];
    prop_oneof![
        4 => (block.clone(), any::<u64>(), 0..6000usize)
            .prop_map(|(block, seed, length)| Part::Block(block, seed, length)),
        4 => (block, 1..WINDOW + 9, 0..3000usize)
            .prop_map(|(block, back, length)| Part::Again(block, back, length)),
        1 => Just(Part::Member),
    ]
}

/// The stream, and what is in it.
fn build(parts: &[Part], fields: bool) -> (Vec<u8>, Vec<u8>) {
    let (mut stream, mut whole) = (Vec::new(), Vec::new());
    for parts in parts.split(|part| matches!(part, Part::Member)) {
        let mut plain: Vec<u8> = Vec::new();
        let mut ends = Vec::new();
        for part in parts {
            let block = match *part {
                Part::Block(block, seed, length) => {
                    plain.extend(text(seed, length));
                    block
                }
                Part::Again(block, back, length) => {
                    let from = plain.len().saturating_sub(back);
                    let to = plain.len().min(from + length);
                    plain.extend_from_within(from..to);
                    block
                }
                Part::Member => continue,
            };
            ends.push((block, plain.len()));
        }
        let starts = [0].into_iter().chain(ends.iter().map(|(_, end)| *end));
        let blocks = starts.zip(&ends).map(|(from, (block, to))| (*block, &plain[from..*to]));
        stream.extend(member(&deflate(blocks), &plain, fields));
        whole.extend(plain);
    }
    (stream, whole)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_span_decodes_alone(
        parts in prop::collection::vec(part(), 1..40),
        fields: bool,
        garbage in prop::sample::select(vec![vec![], b"garbage".to_vec(), vec![0; 512]]),
    ) {
        let (mut stream, plain) = build(&parts, fields);
        stream.extend(garbage);
        check(&stream, &plain, SMALL);
    }

    /// All that comes out, up to an error or not, is what went in: a member whose
    /// magic number is damaged counts as garbage, all else has a checksum.
    #[test]
    fn damage_is_found(
        parts in prop::collection::vec(part(), 1..12),
        changes in prop::collection::vec((any::<prop::sample::Index>(), 1..=255u8), 1..4),
    ) {
        let (mut stream, plain) = build(&parts, true);
        for (at, change) in changes {
            *at.get_mut(&mut stream) ^= change;
        }
        if let Ok(list) = spans(&stream[..], SMALL) {
            let whole = list.iter().map(|(_, span)| &span[..]).collect::<Vec<_>>();
            prop_assert!(plain.starts_with(&whole.concat()));
        }
    }

    #[test]
    fn any_bytes(tail in prop::collection::vec(any::<u8>(), 0..300)) {
        let stream = [&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0][..], &tail].concat();
        let mut spans = Spans::with_cut(&stream[..], SMALL).unwrap();
        let mut output = Vec::new();
        while let Ok(Some(_)) = spans.next(&mut output) {
            prop_assert!(output.len() <= SMALL.most);
        }
    }

    /// Records may be damaged too.
    #[test]
    fn any_checkpoint(
        input in 0..30_000u64,
        bits: u8,
        raw: bool,
        window in prop::collection::vec(any::<u8>(), 0..2 * WINDOW),
        length in 0..50_000usize,
    ) {
        let file = file(&fixed(&text(1, 60_000)));
        let mut output = Vec::with_capacity(length);
        let checkpoint = Checkpoint { input, bits, raw, window };
        let result = decode(&checkpoint, &file, &mut output, length);
        prop_assert!(output.len() <= length);
        prop_assert_eq!(result.is_ok(), output.len() == length);
    }
}
