//! Compressed layers as *spans*: a span is the output between two
//! checkpoints, places in the compressed stream where decoding can start.
//!
//! [`Spans`] goes through a stream once, from its start to its end, verifies
//! what the format lets it verify, and tells where each span starts; [`decode`]
//! gives the bytes of one span. What has no checkpoints (bzip2, xz, one large
//! zstd frame) is [`Error::Unseekable`]: [`Copier`] decodes that and writes a
//! copy in zstd frames of a span each.
//!
//! Bytes decide what a stream is, never its media type. All of it may be an
//! attacker's: memory stays within a few times [`SPAN_MAX`] and work within what
//! the bytes given expand to; who calls limits how many those are.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use serde::{Deserialize, Serialize};

mod copy;
mod gzip;
#[allow(unsafe_code, reason = "zlib-ng is a C library")]
mod inflate;
mod input;
#[cfg(test)]
mod testing;
mod window;
mod zstd;

pub use copy::Copier;
use input::Input;

/// The least output between two checkpoints.
pub const SPAN: usize = 2 << 20;
/// The most: reading one byte costs no more than decoding this.
pub const SPAN_MAX: usize = 16 << 20;
/// How far back deflate refers (RFC 1951, section 2).
pub const WINDOW: usize = 32 << 10;

/// How much of a stream [`Compression::sniff`] wants to see.
pub const HEAD: usize = 10;

/// Kept in records as its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Compression {
    None = 0,
    Gzip = 1,
    Zstd = 2,
    Bzip2 = 3,
    Xz = 4,
}

impl Compression {
    /// By the magic bytes; what has none that is known is `None`.
    pub fn sniff(head: &[u8]) -> Compression {
        match head {
            [0x1f, 0x8b, 8, ..] => Compression::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
            // A skippable frame.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
            // A block's magic number follows, or that of the end: without it
            // a file name at the start of a tar could look the same.
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, 0x59, 0x26, 0x53, 0x59, ..]
            | [b'B', b'Z', b'h', b'1'..=b'9', 0x17, 0x72, 0x45, 0x38, 0x50, 0x90, ..] => {
                Compression::Bzip2
            }
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Compression::Xz,
            _ => Compression::None,
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Compression::None => "uncompressed",
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
            Compression::Bzip2 => "bzip2",
            Compression::Xz => "xz",
        })
    }
}

/// Offsets are those of the compressed stream.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the stream has no checkpoints: only a copy of it can be read from the middle")]
    Unseekable,
    #[error("cannot read the compressed bytes at offset {offset}: {cause}")]
    Read { offset: u64, cause: io::Error },
    #[error("cannot write the seekable copy at offset {offset}: {cause}")]
    Write { offset: u64, cause: io::Error },
    #[error("the {compression} stream ends too early, at offset {offset}")]
    Truncated { compression: Compression, offset: u64 },
    #[error("the {compression} stream is damaged near offset {offset}: {reason}")]
    Damaged { compression: Compression, offset: u64, reason: &'static str },
    #[error(
        "the {compression} stream at offset {offset} needs more than {} MiB of memory to decode",
        limit >> 20
    )]
    Memory { compression: Compression, offset: u64, limit: u64 },
    #[error("a span of {0} bytes: none is longer than {SPAN_MAX}")]
    Length(usize),
    #[error("{0} cannot be set up: {1}")]
    Library(Compression, &'static str),
}

/// Where decoding of a span starts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Offset in the compressed stream.
    pub input: u64,
    /// How many of the highest bits of the byte before `input` belong to the
    /// span; at most 7.
    pub bits: u8,
    /// gzip: the span starts inside a member, at the start of a deflate block.
    pub raw: bool,
    /// gzip inside a member: the output before the span, as far back as the
    /// span refers to it. Bytes that it does not refer to are zero, so that it
    /// compresses well.
    pub window: Vec<u8>,
}

impl Checkpoint {
    /// A checkpoint that needs nothing but its place.
    fn at(input: u64) -> Checkpoint {
        Checkpoint { input, ..Checkpoint::default() }
    }
}

/// Cuts a stream into spans, in order.
pub struct Spans<R: Read> {
    kind: Kind<R>,
}

enum Kind<R: Read> {
    None(Input<R>),
    Gzip(Box<gzip::Spans<R>>),
    Zstd(zstd::Spans<R>),
}

impl<R: Read> Spans<R> {
    pub fn new(compression: Compression, source: R) -> Result<Self, Error> {
        let kind = match compression {
            Compression::None => Kind::None(Input::new(source, 0, 0)),
            Compression::Gzip => Kind::Gzip(Box::new(gzip::Spans::new(source)?)),
            Compression::Zstd => Kind::Zstd(zstd::Spans::new(source)?),
            Compression::Bzip2 | Compression::Xz => return Err(Error::Unseekable),
        };
        Ok(Spans { kind })
    }

    /// Replaces what is in `output` by the next span, which is never empty;
    /// `None` at the end of the stream. After an error there is no next.
    pub fn next(&mut self, output: &mut Vec<u8>) -> Result<Option<Checkpoint>, Error> {
        output.clear();
        match &mut self.kind {
            Kind::None(input) => {
                let start = input.offset();
                input.read_into(output, SPAN)?;
                Ok((!output.is_empty()).then(|| Checkpoint::at(start)))
            }
            Kind::Gzip(spans) => spans.next(output),
            Kind::Zstd(spans) => spans.next(output),
        }
    }

    /// How many compressed bytes are behind: those decoded, not those read ahead.
    pub fn consumed(&self) -> u64 {
        match &self.kind {
            Kind::None(input) => input.offset(),
            Kind::Gzip(spans) => spans.consumed(),
            Kind::Zstd(spans) => spans.consumed(),
        }
    }
}

impl<R: Read> fmt::Debug for Spans<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spans").field("consumed", &self.consumed()).finish_non_exhaustive()
    }
}

/// How much of the file is read at a time for one span.
const READ: usize = 128 << 10;

/// Replaces what is in `output` by the span of `length` bytes that starts at
/// the checkpoint. The checkpoint and the length must be those that [`Spans`] gave
/// for this file: other ones give an error or other bytes, so who keeps
/// them keeps a checksum of the output too.
pub fn decode(
    compression: Compression,
    checkpoint: &Checkpoint,
    source: &File,
    output: &mut Vec<u8>,
    length: usize,
) -> Result<(), Error> {
    output.clear();
    if length > SPAN_MAX {
        return Err(Error::Length(length));
    }
    output.reserve_exact(length);
    match compression {
        Compression::None => {
            let offset = checkpoint.input;
            let source = Part { file: source, offset };
            let mut input = Input::new(source, 0, offset);
            input.read_into(output, length)?;
            if output.len() < length {
                return Err(Error::Truncated { compression, offset: input.offset() });
            }
            Ok(())
        }
        Compression::Gzip => gzip::decode(checkpoint, source, output, length),
        Compression::Zstd => zstd::decode(checkpoint, source, output, length),
        Compression::Bzip2 | Compression::Xz => Err(Error::Unseekable),
    }
}

/// A file from an offset on, read without its cursor: many read it at a time.
struct Part<'a> {
    file: &'a File,
    offset: u64,
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{Trickle, file, text};
    use super::*;

    #[test]
    fn magic_bytes() {
        for (head, want) in [
            (&b""[..], Compression::None),
            (b"\x1f", Compression::None),
            (b"\x1f\x8b", Compression::None),
            (b"\x1f\x8b\x07", Compression::None),
            (b"\x1f\x8b\x08", Compression::Gzip),
            (b"\x28\xb5\x2f\xfd", Compression::Zstd),
            (b"\x28\xb5\x2f", Compression::None),
            (b"\x50\x2a\x4d\x18\0", Compression::Zstd),
            (b"\x5f\x2a\x4d\x18\0", Compression::Zstd),
            (b"\x60\x2a\x4d\x18\0", Compression::None),
            (b"BZh91AY&SY", Compression::Bzip2),
            (b"BZh1\x17\x72\x45\x38\x50\x90", Compression::Bzip2),
            (b"BZh01AY&SY", Compression::None),
            (b"BZh9.txt\0\0", Compression::None),
            (b"\xfd7zXZ\0\0", Compression::Xz),
            (b"\xfd7zXZ", Compression::None),
            (b"etc/passwd", Compression::None),
        ] {
            assert_eq!(Compression::sniff(head), want, "{head:?}");
        }
    }

    /// They stand in records.
    #[test]
    fn numbers_of_the_compressions() {
        use Compression::{Bzip2, Gzip, None, Xz, Zstd};
        for (number, compression) in [None, Gzip, Zstd, Bzip2, Xz].into_iter().enumerate() {
            assert_eq!(compression as usize, number);
            assert_eq!(postcard::to_stdvec(&compression).unwrap(), [number as u8]);
        }
    }

    #[test]
    fn plain_layers() {
        for length in [0, 1, SPAN - 1, SPAN, SPAN + 1, 3 * SPAN] {
            let plain = text(1, length);
            let source = Trickle::new(&plain, 1_000_003);
            let mut spans = Spans::new(Compression::None, source).unwrap();
            let file = file(&plain);
            let (mut span, mut again) = (Vec::new(), Vec::new());
            let mut offset = 0;
            while let Some(checkpoint) = spans.next(&mut span).unwrap() {
                assert_eq!(checkpoint, Checkpoint::at(offset));
                assert_eq!(span.len(), SPAN.min(length - offset as usize));
                assert!(span == plain[offset as usize..][..span.len()]);
                decode(Compression::None, &checkpoint, &file, &mut again, span.len()).unwrap();
                assert!(span == again);
                offset += span.len() as u64;
                assert_eq!(spans.consumed(), offset);
            }
            assert_eq!(offset, length as u64);
        }
    }

    #[test]
    fn what_cannot_be_decoded() {
        let file = file(b"0123456789");
        let at = Checkpoint::at(5);
        let mut output = Vec::new();
        for (compression, length, want) in [
            (Compression::None, 6, "the uncompressed stream ends too early, at offset 10"),
            (
                Compression::None,
                SPAN_MAX + 1,
                "a span of 16777217 bytes: none is longer than 16777216",
            ),
            (Compression::Gzip, 5, "the gzip stream is damaged near offset 5: not gzip"),
            (
                Compression::Bzip2,
                5,
                "the stream has no checkpoints: only a copy of it can be read from the middle",
            ),
        ] {
            let error = decode(compression, &at, &file, &mut output, length).unwrap_err();
            assert_eq!(error.to_string(), want);
        }
        for compression in [Compression::Bzip2, Compression::Xz] {
            let spans = Spans::new(compression, &b""[..]);
            assert!(matches!(spans, Err(Error::Unseekable)));
        }
    }

    #[test]
    fn a_source_that_fails_is_told() {
        struct Broken(usize);
        impl Read for Broken {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let length = self.0.min(buffer.len());
                self.0 -= length;
                buffer[..length].copy_from_slice(&b"\x1f\x8b\x08\0\0\0\0"[..length]);
                match length {
                    0 => Err(io::Error::other("broken")),
                    _ => Ok(length),
                }
            }
        }
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let error = Spans::new(compression, Broken(7))
                .and_then(|mut spans| spans.next(&mut Vec::new()))
                .unwrap_err();
            assert_eq!(
                error.to_string(),
                "cannot read the compressed bytes at offset 7: broken",
                "{compression}"
            );
        }
    }
}
