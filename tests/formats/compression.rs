//! Compressed streams as the usual programs write them: what spans give equals
//! what went in, each of them alone too, and what the programs refuse is refused.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use proptest::prelude::*;
use proptest::sample::Index;
use registry::layer::codec::{
    Checkpoint, Compression, Copier, Error, HEAD, SPAN, SPAN_MAX, Spans, decode,
};

use crate::common::{REGISTRY, need, noise};

/// The programs and their packages.
const PROGRAMS: [(&str, &str); 7] = [
    ("gzip", "gzip"),
    ("pigz", "pigz"),
    ("bgzip", "tabix"),
    ("zstd", "zstd"),
    ("pzstd", "zstd"),
    ("bzip2", "bzip2"),
    ("xz", "xz-utils"),
];

fn need_all() {
    for (program, package) in PROGRAMS {
        need(program, package);
    }
}

/// What layers hold, a little more than one span may: a program, zeros, text, noise.
fn sample() -> Vec<u8> {
    let program = fs::read(REGISTRY).expect("the program");
    let text: String = (0..200_000u32)
        .map(|n| format!("line {n} of {}\n", n.wrapping_mul(2_654_435_761) >> 20))
        .collect();
    let mut sample = program[..4 << 20].to_vec();
    sample.resize(sample.len() + (5 << 20), 0);
    sample.extend_from_slice(text.as_bytes());
    sample.extend(noise(1, 1 << 20));
    sample.extend_from_slice(&program[1 << 20..4 << 20]);
    assert!(sample.len() > SPAN_MAX);
    sample
}

/// What a shell command makes of `plain` in the folder.
fn compress(folder: &Path, command: &str) -> Vec<u8> {
    let output =
        Command::new("sh").args(["-ec", command]).current_dir(folder).output().expect("a shell");
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn sniff(stream: &[u8]) -> Compression {
    Compression::sniff(&stream[..stream.len().min(HEAD)])
}

/// A stream's spans, and where to decode them from.
struct Cut {
    compression: Compression,
    source: File,
    copied: bool,
    whole: Vec<u8>,
    spans: Vec<(Checkpoint, usize)>,
}

fn cut(folder: &Path, stream: &[u8]) -> Result<Cut, Error> {
    let compression = sniff(stream);
    let path = folder.join("stream");
    fs::write(&path, stream).expect("the stream is written");
    let source = File::open(&path).expect("it opens");
    let (mut whole, mut spans, mut output) = (Vec::new(), Vec::new(), Vec::new());
    let direct = Spans::new(compression, &source).and_then(|mut cutter| {
        while let Some(checkpoint) = cutter.next(&mut output)? {
            spans.push((checkpoint, output.len()));
            whole.append(&mut output);
        }
        Ok(())
    });
    let (compression, source, copied) = match direct {
        Ok(()) => (compression, source, false),
        Err(Error::Unseekable) => {
            whole.clear();
            spans.clear();
            let path = folder.join("copy");
            let copy = File::create(&path).expect("the copy is made");
            let source = File::open(folder.join("stream")).expect("it opens");
            let mut copier = Copier::new(compression, source, copy)?;
            while let Some(checkpoint) = copier.next(&mut output)? {
                spans.push((checkpoint, output.len()));
                whole.append(&mut output);
            }
            let copy = File::open(&path).expect("it opens");
            (Compression::Zstd, copy, true)
        }
        Err(error) => return Err(error),
    };
    Ok(Cut { compression, source, copied, whole, spans })
}

const PIECES: &str = "split -b 3000000 plain piece. && for piece in piece.*; do";

#[test]
fn spans_of_what_programs_write() {
    use Compression::{Gzip, None, Zstd};
    need_all();
    let folder = tempfile::tempdir().unwrap();
    let plain = sample();
    fs::write(folder.path().join("plain"), &plain).unwrap();
    // What it is, and whether it has checkpoints of its own.
    for (command, compression, seekable) in [
        ("cat plain", None, true),
        ("gzip -1 -c plain", Gzip, true),
        ("gzip -9 < plain", Gzip, true),
        ("gzip -3 --rsyncable -c plain", Gzip, true),
        (&format!("{PIECES} gzip -c $piece; done"), Gzip, true),
        ("pigz -p 4 -c plain", Gzip, true),
        ("pigz -p 2 -i -0 -c plain", Gzip, true),
        ("bgzip -@ 2 -c plain", Gzip, true),
        ("zstd -q -c plain", Zstd, false),
        ("zstd -q < plain", Zstd, false),
        ("zstd -q --long=27 -T2 < plain", Zstd, false),
        ("zstd -q -1 --no-check -c plain", Zstd, false),
        (&format!("{PIECES} zstd -q -1 -c $piece; done"), Zstd, true),
        (&format!("{PIECES} zstd -q -1 < $piece; done"), Zstd, true),
        ("pzstd -q -1 -p 2 -c plain", Zstd, true),
    ] {
        check(folder.path(), command, &plain, compression, seekable);
    }
}

/// These are slow, and have no checkpoints whatever their size.
#[test]
fn copies_of_what_slow_programs_write() {
    use Compression::{Bzip2, Xz};
    need_all();
    let folder = tempfile::tempdir().unwrap();
    let sample = sample();
    let plain = &sample[sample.len() - (6 << 20)..];
    fs::write(folder.path().join("plain"), plain).unwrap();
    for (command, compression) in [
        ("bzip2 -9 -c plain", Bzip2),
        (&format!("{PIECES} bzip2 -1 -c $piece; done"), Bzip2),
        ("xz -0 -c plain", Xz),
        ("xz -0 -T2 --block-size=3000000 --check=sha256 -c plain", Xz),
        (&format!("{PIECES} xz -0 -C crc32 -c $piece; done"), Xz),
    ] {
        check(folder.path(), command, plain, compression, false);
    }
}

#[track_caller]
fn check(folder: &Path, command: &str, plain: &[u8], compression: Compression, seekable: bool) {
    let stream = compress(folder, command);
    assert_eq!(sniff(&stream), compression, "{command}");
    let cut = cut(folder, &stream).unwrap_or_else(|e| panic!("{command}: {e}"));
    assert_eq!(cut.copied, !seekable, "{command}");
    assert!(cut.whole == plain, "{command}: the whole differs");
    // gzip's blocks are of 32,768 symbols, each of which may be 258 zeros;
    // the frames of pzstd here are of 8 MiB.
    let most = SPAN + (32 << 10) * 258;
    let (last, others) = cut.spans.split_last().expect("spans");
    assert!(last.1 <= most, "{command}");
    for (checkpoint, length) in others {
        assert!((SPAN..=most).contains(length), "{command}: {checkpoint:?}");
    }

    let mut spans = Vec::new();
    let mut offset = 0;
    for (checkpoint, length) in &cut.spans {
        spans.push((checkpoint, offset, *length));
        offset += length;
    }
    // In no order, by a file that was read to its end.
    spans.sort_by_key(|(_, offset, _)| offset.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut output = Vec::new();
    for (checkpoint, offset, length) in spans {
        decode(cut.compression, checkpoint, &cut.source, &mut output, length)
            .unwrap_or_else(|e| panic!("{command}, span at {offset}: {e}"));
        assert!(output == plain[offset..][..length], "{command}: the span at {offset} differs");
    }
}

/// More memory than we give, and than the program itself would.
#[test]
fn a_window_too_large_is_refused() {
    need("zstd", "zstd");
    let folder = tempfile::tempdir().unwrap();
    let stream = compress(folder.path(), "printf plain | zstd -q --long=28");
    let error = cut(folder.path(), &stream).err().map(|error| error.to_string());
    assert_eq!(
        error.as_deref(),
        Some("the zstd stream at offset 0 needs more than 128 MiB of memory to decode")
    );
}

/// What a program decodes, if it does not refuse. `gzip` tells by 2 that it
/// ignored something.
fn decoded(program: &str, stream: &[u8], folder: &Path) -> Option<Vec<u8>> {
    let path = folder.join("stream");
    fs::write(&path, stream).expect("the stream is written");
    let output = Command::new(program)
        .args(["-d", "-c", "-q"])
        .stdin(File::open(&path).expect("it opens"))
        .stderr(Stdio::null())
        .output()
        .expect("the program runs");
    let fine = output.status.success() || program == "gzip" && output.status.code() == Some(2);
    fine.then_some(output.stdout)
}

#[track_caller]
fn compare(program: &str, stream: &[u8], folder: &Path) {
    let theirs = decoded(program, stream, folder);
    let ours = cut(folder, stream);
    match (&ours, &theirs) {
        (Ok(ours), Some(theirs)) => assert!(ours.whole == *theirs, "{program}: {stream:?}"),
        (Err(_), None) => {}
        (Ok(_), None) => panic!("{program} refuses: {stream:?}"),
        (Err(error), Some(_)) => panic!("{program} accepts, but {error}: {stream:?}"),
    }
}

#[test]
fn what_follows_a_member_is_taken_as_gzip_takes_it() {
    need("gzip", "gzip");
    let folder = tempfile::tempdir().unwrap();
    let member = compress(folder.path(), "printf hello | gzip");
    for rest in [
        &b""[..],
        b"\0",
        &[0; 1024],
        b"\0x",
        b"x",
        b"xy",
        b"\x1f",
        b"\x1fx",
        b"\x1f\x8b",
        b"\x1f\x8b\x07 another method",
        b"\x1f\x9d\x90abc",
        b"PK\x03\x04",
        b"\0\x1f\x8b",
        b"\x28\xb5\x2f\xfd",
    ] {
        compare("gzip", &[&member[..], rest].concat(), folder.path());
    }
    for length in 3..member.len() {
        compare("gzip", &member[..length], folder.path());
        compare("gzip", &member.repeat(2)[..member.len() + length], folder.path());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Damaged, we accept what the program accepts, and see the same in it.
    #[test]
    fn damage_is_found_where_the_program_finds_it(
        changes in prop::collection::vec((any::<Index>(), 1..=255u8), 1..3),
        end in prop::option::weighted(0.2, any::<Index>()),
    ) {
        need_all();
        let folder = tempfile::tempdir().unwrap();
        for (program, flags) in [("gzip", "-6"), ("zstd", "-3"), ("bzip2", "-1"), ("xz", "-0")] {
            let command = format!("(seq 1 2000; seq 1 3000) | {program} {flags}; seq 9 | {program}");
            let mut stream = compress(folder.path(), &command);
            let kind = sniff(&stream);
            if let Some(end) = end {
                stream.truncate(end.index(stream.len()).max(1));
            }
            for (at, change) in &changes {
                *at.get_mut(&mut stream) ^= change;
            }
            // The programs know each other's formats and older ones of their own.
            if sniff(&stream) == kind && !stream.windows(2).any(|pair| pair == [0x1f, 0x9e]) {
                compare(program, &stream, folder.path());
            }
        }
    }
}
