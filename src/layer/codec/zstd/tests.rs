use proptest::prelude::*;
use zstd_safe::{CCtx, CParameter};

use super::super::testing::{Trickle, file, text};
use super::super::{Spans, decode};
use super::*;

/// A frame with a checksum, and with the size of its content or without.
pub fn frame(plain: &[u8], size: bool) -> Vec<u8> {
    let mut context = CCtx::create();
    for parameter in [
        CParameter::CompressionLevel(1),
        CParameter::ChecksumFlag(true),
        CParameter::ContentSizeFlag(size),
    ] {
        context.set_parameter(parameter).unwrap();
    }
    let mut frame = Vec::new();
    let mut room = Spare::new(&mut frame, zstd_safe::compress_bound(plain.len()));
    context.compress2(&mut room, plain).unwrap();
    frame
}

fn skippable(length: usize) -> Vec<u8> {
    let mut frame = vec![0x5a, 0x2a, 0x4d, 0x18];
    frame.extend((length as u32).to_le_bytes());
    frame.resize(8 + length, 0xfd);
    frame
}

/// Where the spans start, and how long they are; each was decoded alone too.
fn check(stream: &[u8], plain: &[u8]) -> Result<Vec<(u64, usize)>, Error> {
    let mut spans = Spans::new(Compression::Zstd, Trickle::new(stream, 100_003))?;
    let (mut whole, mut output) = (Vec::new(), Vec::new());
    let mut list = Vec::new();
    while let Some(checkpoint) = spans.next(&mut output)? {
        assert!(!output.is_empty() && output.len() <= SPAN_MAX);
        list.push((checkpoint, output.len()));
        whole.append(&mut output);
    }
    assert!(whole == plain, "the whole differs");
    assert_eq!(spans.consumed(), stream.len() as u64);
    let file = file(stream);
    let mut end = whole.len();
    for (checkpoint, length) in list.iter().rev() {
        decode(Compression::Zstd, checkpoint, &file, &mut output, *length)?;
        assert!(output == plain[end - length..end]);
        end -= length;
    }
    Ok(list.into_iter().map(|(at, length)| (at.input, length)).collect())
}

#[test]
fn spans_of_frames() {
    let plain = text(1, SPAN_MAX);
    const M: usize = 1 << 20;
    // Lengths of frames, whether they tell their size, and of the spans.
    for (frames, size, want) in [
        (&[][..], true, &[][..]),
        (&[0], true, &[]),
        (&[1], false, &[1]),
        (&[0, 5, 0, 0], false, &[5]),
        (&[M, M, M, M, M], true, &[2 * M, 2 * M, M]),
        (&[M, M, M], false, &[2 * M, M]),
        (&[3 * M, 1, 3 * M], true, &[3 * M, 3 * M + 1]),
        (&[SPAN_MAX], true, &[SPAN_MAX]),
        (&[SPAN_MAX], false, &[SPAN_MAX]),
        (&[M, SPAN_MAX - M], true, &[SPAN_MAX]),
        (&[M, SPAN_MAX - M + 1], true, &[M, SPAN_MAX - M + 1]),
    ] {
        let stream: Vec<u8> = frames.iter().flat_map(|&n| frame(&plain[..n], size)).collect();
        let whole: Vec<u8> = frames.iter().flat_map(|&n| plain[..n].to_vec()).collect();
        let spans = check(&stream, &whole).unwrap();
        let lengths: Vec<usize> = spans.iter().map(|(_, length)| *length).collect();
        assert_eq!(lengths, want, "{frames:?}, {size}");
    }
}

#[test]
fn skippable_frames_belong_to_nothing() {
    let plain = text(1, SPAN);
    let frame = frame(&plain, true);
    let stream =
        [&skippable(0)[..], &skippable(300_000), &frame, &skippable(9), &frame, &skippable(20)]
            .concat();
    let first = 8 + 300_008;
    let second = first + frame.len() as u64 + 17;
    let spans = check(&stream, &[&plain[..], &plain].concat()).unwrap();
    assert_eq!(spans, [(first, SPAN), (second, SPAN)]);
    assert_eq!(check(&skippable(5), b"").unwrap(), []);
}

#[test]
fn a_span_is_short_where_the_stream_is_long() {
    let skipped = skippable(2 * SPAN);
    let frame = frame(b"plain", true);
    let stream = [&frame[..], &skipped, &frame, &skipped, &frame].concat();
    let spans = check(&stream, b"plainplainplain").unwrap();
    assert_eq!(spans.len(), 3);
}

#[test]
fn one_large_frame_is_unseekable() {
    let plain = vec![0; SPAN_MAX + 1];
    for size in [true, false] {
        let stream = frame(&plain, size);
        assert!(matches!(check(&stream, &plain), Err(Error::Unseekable)), "{size}");
    }
    // Told by its header, of whatever follows.
    let stream = frame(&plain, true);
    assert!(matches!(check(&stream[..20], &plain), Err(Error::Unseekable)));
}

#[test]
fn errors() {
    let frame = frame(b"plain text", true);
    let with = |at: usize, value: u8| {
        let mut frame = frame.clone();
        frame[at] = value;
        frame
    };
    // A window of 2^28 bytes.
    let window = [0x28, 0xb5, 0x2f, 0xfd, 0, 18 << 3, 1, 0, 0];
    for (stream, want) in [
        (
            window.to_vec(),
            "the zstd stream at offset 0 needs more than 128 MiB of memory to decode",
        ),
        (
            with(frame.len() - 1, frame[frame.len() - 1] ^ 1),
            "the zstd stream is damaged near offset 0: Restored data doesn't match checksum",
        ),
        (
            [&frame[..], b"not a frame"].concat(),
            "the zstd stream is damaged near offset 23: not a zstd frame",
        ),
        (frame[..10].to_vec(), "the zstd stream ends too early, at offset 10"),
        (skippable(100)[..50].to_vec(), "the zstd stream ends too early, at offset 50"),
    ] {
        let error = check(&stream, b"").unwrap_err();
        assert_eq!(error.to_string(), want);
    }
}

#[test]
fn every_truncation_is_an_error() {
    let plain = text(9, 4000);
    let one = frame(&plain, true);
    let stream = [&one[..], &skippable(3), &frame(&plain, false)].concat();
    for length in 1..stream.len() {
        let result = check(&stream[..length], &plain);
        if length == one.len() || length == one.len() + 11 {
            assert_eq!(result.unwrap().len(), 1);
        } else {
            assert!(matches!(result, Err(Error::Truncated { .. })), "{length}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn damage_is_found(
        changes in prop::collection::vec((any::<prop::sample::Index>(), 1..=255u8), 1..4),
    ) {
        let plain = text(4, 30_000);
        let parts = plain.chunks(10_000);
        let mut stream: Vec<u8> = parts.flat_map(|part| frame(part, true)).collect();
        for (at, change) in changes {
            *at.get_mut(&mut stream) ^= change;
        }
        let mut spans = Spans::new(Compression::Zstd, &stream[..]).unwrap();
        let (mut whole, mut output) = (Vec::new(), Vec::new());
        while let Ok(Some(_)) = spans.next(&mut output) {
            whole.append(&mut output);
        }
        // A frame may have become a skippable one.
        for part in whole.chunks(10_000) {
            prop_assert!(plain.chunks(10_000).any(|plain| plain == part));
        }
    }

    #[test]
    fn any_bytes(tail in prop::collection::vec(any::<u8>(), 0..200)) {
        let stream = [&[0x28, 0xb5, 0x2f, 0xfd][..], &tail].concat();
        let mut spans = Spans::new(Compression::Zstd, &stream[..]).unwrap();
        let mut output = Vec::new();
        while let Ok(Some(_)) = spans.next(&mut output) {
            prop_assert!(output.len() <= SPAN_MAX);
        }
    }
}
