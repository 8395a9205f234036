//! Compressed streams: decoding each span by itself gives what decoding the
//! whole gave, from the stream and from its seekable copy.

use std::cell::RefCell;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::LazyLock;

use flate2::{Crc, Decompress, FlushDecompress, Status};

use crate::layer::codec::{Checkpoint, Compression, Copier, Error, SPAN, SPAN_MAX, Spans, decode};

/// What is decoded of one input.
const OUTPUT_MAX: usize = 48 << 20;

/// The first byte chooses what the rest is: a file, or deflate blocks, which are
/// given a header and a trailer that a fuzzer would not find.
pub fn gzip(data: &[u8]) {
    let Some((&mode, data)) = data.split_first() else {
        return;
    };
    match mode & 3 {
        0 => drop(check(Compression::Gzip, data)),
        1 => blocks(b"", b"", data, 1),
        // The first checkpoint is before the input's first block, which may
        // refer to the window.
        2 => blocks(&FIRST_SPAN.0, &FIRST_SPAN.1, data, 1),
        _ => blocks(b"", b"", data, 2),
    }
}

/// A span's blocks and their output, which ends with a window of text.
static FIRST_SPAN: LazyLock<(Vec<u8>, Vec<u8>)> = LazyLock::new(|| {
    let mut plain = vec![0; SPAN];
    let mut state = 1_u32;
    for byte in &mut plain[SPAN - (32 << 10)..] {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = b"etaoin shrdlu\n/="[(state >> 28) as usize];
    }
    let mut blocks = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
    blocks.write_all(&plain).expect("memory");
    blocks.flush().expect("memory");
    let first = blocks.get_ref().clone();
    (first, plain)
});

/// Members of `before`, whose output is known, and `after`. Another inflater
/// says whether they are sound.
fn blocks(before: &[u8], output: &[u8], after: &[u8], members: usize) {
    let all = [before, after].concat();
    let mut plain = Vec::with_capacity(output.len() + SPAN);
    let mut inflater = Decompress::new(false);
    let sound = loop {
        let from = inflater.total_in() as usize;
        plain.reserve(SPAN);
        let made = plain.len();
        let status = inflater.decompress_vec(&all[from..], &mut plain, FlushDecompress::None);
        match status {
            Ok(Status::StreamEnd) => break true,
            Err(_) => break false,
            _ if plain.len() > OUTPUT_MAX / members => return,
            Ok(_) if plain.len() == made && inflater.total_in() as usize == from => break false,
            Ok(_) => {}
        }
    };
    let used = if sound { inflater.total_in() as usize } else { all.len() };
    let mut crc = Crc::new();
    crc.update(&plain);
    let mut stream = Vec::new();
    for _ in 0..members {
        stream.extend(b"\x1f\x8b\x08\0\0\0\0\0\0\xff");
        stream.extend(&all[..used]);
        stream.extend(crc.sum().to_le_bytes());
        stream.extend(crc.amount().to_le_bytes());
    }
    match check(Compression::Gzip, &stream) {
        None => {}
        Some((whole, Ok(()))) => {
            assert!(sound, "taken for sound");
            assert!(whole == plain.repeat(members), "other bytes");
        }
        Some((whole, Err(error))) => {
            assert!(!sound || matches!(error, Error::Unseekable), "taken for damaged: {error}");
            // The other inflater may have given less before it failed.
            let same = plain.iter().zip(&whole).all(|(one, other)| one == other);
            assert!(same, "other bytes");
        }
    }
}

/// A file of one of the compressions but gzip: what the first bytes say.
pub fn zstd(data: &[u8]) {
    match Compression::sniff(data) {
        Compression::None | Compression::Gzip => drop(check(Compression::Zstd, data)),
        other => drop(check(other, data)),
    }
}

/// What the spans before an error hold, and the error; `None`: too much.
fn check(compression: Compression, stream: &[u8]) -> Option<(Vec<u8>, Result<(), Error>)> {
    let mut list = Vec::new();
    let (whole, result) = match Spans::new(compression, stream) {
        Ok(mut spans) => gather(|output| spans.next(output), SPAN_MAX, &mut list)?,
        Err(error) => (Vec::new(), Err(error)),
    };
    each_alone(compression, stream, &whole, &list);

    list.clear();
    let mut copy = Vec::new();
    let (copied, other) = match Copier::new(compression, stream, &mut copy) {
        Ok(mut copier) => gather(|output| copier.next(output), SPAN, &mut list)?,
        Err(error) => (Vec::new(), Err(error)),
    };
    each_alone(Compression::Zstd, &copy, &copied, &list);
    match (&result, &other) {
        (Ok(()), _) => assert!(other.is_ok() && whole == copied, "the copy differs"),
        (Err(Error::Unseekable), _) => {
            assert!(copied.starts_with(&whole) || other.is_err(), "the copy differs");
        }
        (Err(error), Ok(())) => panic!("the copy ends well: {error}"),
        (Err(_), Err(_)) => {}
    }
    Some((whole, result))
}

fn gather(
    mut next: impl FnMut(&mut Vec<u8>) -> Result<Option<Checkpoint>, Error>,
    longest: usize,
    list: &mut Vec<(Checkpoint, usize)>,
) -> Option<(Vec<u8>, Result<(), Error>)> {
    let (mut whole, mut output) = (Vec::new(), Vec::new());
    loop {
        match next(&mut output) {
            Ok(Some(checkpoint)) => {
                assert!(!output.is_empty() && output.len() <= longest);
                list.push((checkpoint, output.len()));
                whole.append(&mut output);
            }
            Ok(None) => return Some((whole, Ok(()))),
            Err(error) => return Some((whole, Err(error))),
        }
        if whole.len() > OUTPUT_MAX {
            return None;
        }
    }
}

fn each_alone(compression: Compression, stream: &[u8], whole: &[u8], list: &[(Checkpoint, usize)]) {
    thread_local! {
        static FILE: RefCell<File> = RefCell::new(tempfile::tempfile().expect("a file"));
    }
    if list.is_empty() {
        return;
    }
    FILE.with_borrow(|file| {
        file.set_len(0).expect("an empty file");
        file.write_all_at(stream, 0).expect("a file");
        let mut output = Vec::new();
        let mut end = whole.len();
        for (checkpoint, length) in list.iter().rev() {
            decode(compression, checkpoint, file, &mut output, *length)
                .unwrap_or_else(|error| panic!("{checkpoint:?}: {error}"));
            let start = end - length;
            assert!(output == whole[start..end], "{checkpoint:?}: other bytes");
            end = start;
        }
    });
}
