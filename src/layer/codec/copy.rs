//! The slow way: what has no checkpoints is decoded once, and a copy of it
//! written that has them.

use std::fmt;
use std::io::{Read, Write};

use bzip2::Decompress;
use liblzma::stream as xz;
use zstd_safe::{CCtx, CParameter};

use super::gzip::Members;
use super::input::Input;
use super::zstd::{Frames, Spare};
use super::{Checkpoint, Compression, Error, SPAN};

const BUFFER: usize = 256 << 10;
/// Against 3, the default: twice as fast to write, faster to read, an eighth longer.
const LEVEL: i32 = 1;
/// What `xz -9` needs, twice.
const XZ_MEMORY: u64 = 128 << 20;

/// Decodes a stream of any compression in order, and writes it again as
/// independent zstd frames of [`SPAN`] bytes of output each, with checksums.
pub struct Copier<R: Read, W: Write> {
    decoder: Decoder<R>,
    copy: W,
    written: u64,
    context: CCtx<'static>,
    frame: Vec<u8>,
}

enum Decoder<R: Read> {
    None(Input<R>),
    Gzip(Box<Members<R>>),
    Zstd(Frames<R>),
    Slow(Slow<R>),
}

impl<R: Read, W: Write> Copier<R, W> {
    pub fn new(compression: Compression, source: R, copy: W) -> Result<Self, Error> {
        let decoder = match compression {
            Compression::None => Decoder::None(Input::new(source, 0, 0)),
            Compression::Gzip => Decoder::Gzip(Box::new(Members::new(source)?)),
            Compression::Zstd => Decoder::Zstd(Frames::new(source)?),
            Compression::Bzip2 | Compression::Xz => Decoder::Slow(Slow::new(compression, source)?),
        };
        let library = |reason| Error::Library(Compression::Zstd, reason);
        let mut context = CCtx::try_create().ok_or(library("zstd has no memory"))?;
        for parameter in [CParameter::CompressionLevel(LEVEL), CParameter::ChecksumFlag(true)] {
            context
                .set_parameter(parameter)
                .map_err(|code| library(zstd_safe::get_error_name(code)))?;
        }
        Ok(Copier { decoder, copy, written: 0, context, frame: Vec::new() })
    }

    /// Replaces what is in `output` by the next span, which is never empty, and
    /// tells where the copy has it; `None` at the end. After an error there is no next.
    pub fn next(&mut self, output: &mut Vec<u8>) -> Result<Option<Checkpoint>, Error> {
        output.clear();
        match &mut self.decoder {
            Decoder::None(input) => input.read_into(output, SPAN)?,
            Decoder::Gzip(members) => members.read(output, SPAN)?,
            Decoder::Zstd(frames) => frames.read(output, SPAN)?,
            Decoder::Slow(slow) => slow.read(output, SPAN)?,
        }
        let offset = self.written;
        let write = |cause| Error::Write { offset, cause };
        if output.is_empty() {
            self.copy.flush().map_err(write)?;
            return Ok(None);
        }
        self.frame.clear();
        let mut room = Spare::new(&mut self.frame, zstd_safe::compress_bound(output.len()));
        self.context
            .compress2(&mut room, output)
            .map_err(|code| Error::Library(Compression::Zstd, zstd_safe::get_error_name(code)))?;
        self.copy.write_all(&self.frame).map_err(write)?;
        self.written += self.frame.len() as u64;
        Ok(Some(Checkpoint::at(offset)))
    }

    /// How many compressed bytes are behind.
    pub fn consumed(&self) -> u64 {
        match &self.decoder {
            Decoder::None(input) => input.offset(),
            Decoder::Gzip(members) => members.consumed(),
            Decoder::Zstd(frames) => frames.consumed(),
            Decoder::Slow(slow) => slow.input.offset(),
        }
    }

    /// How long the copy is so far.
    pub fn written(&self) -> u64 {
        self.written
    }
}

impl<R: Read, W: Write> fmt::Debug for Copier<R, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Copier")
            .field("consumed", &self.consumed())
            .field("written", &self.written)
            .finish_non_exhaustive()
    }
}

/// bzip2 and xz, which take as long to decode as to go any other way.
struct Slow<R> {
    compression: Compression,
    input: Input<R>,
    engine: Engine,
    /// What the engines write to.
    room: Vec<u8>,
}

enum Engine {
    /// One of the streams, and whether it is the first.
    Bzip2(Decompress, bool),
    Xz(xz::Stream),
    End,
}

enum Step {
    More,
    /// After a stream of bzip2, after all streams of xz.
    End,
    /// What follows is not another stream.
    Garbage,
}

impl<R: Read> Slow<R> {
    fn new(compression: Compression, source: R) -> Result<Self, Error> {
        let engine = if compression == Compression::Xz {
            let stream = xz::Stream::new_stream_decoder(XZ_MEMORY, xz::CONCATENATED);
            let failed = |_| Error::Library(compression, "liblzma has no memory");
            Engine::Xz(stream.map_err(failed)?)
        } else {
            Engine::Bzip2(Decompress::new(false), true)
        };
        Ok(Slow {
            compression,
            input: Input::new(source, BUFFER, 0),
            engine,
            room: vec![0; BUFFER],
        })
    }

    /// Appends `length` bytes, or as many as there are.
    fn read(&mut self, output: &mut Vec<u8>, length: usize) -> Result<(), Error> {
        let limit = output.len() + length;
        while output.len() < limit {
            let input = self.input.fill()?;
            let ended = input.is_empty();
            let room = self.room.len().min(limit - output.len());
            let room = &mut self.room[..room];
            let (taken, made, step) = match &mut self.engine {
                Engine::Bzip2(engine, _) => bzip2_step(engine, input, room),
                Engine::Xz(engine) => xz_step(engine, input, room),
                Engine::End => return Ok(()),
            };
            output.extend_from_slice(&self.room[..made]);
            self.input.consume(taken);
            match step {
                Ok(Step::More) if taken > 0 || made > 0 => {}
                Ok(Step::More) if ended => return Err(self.truncated()),
                Ok(Step::More) => return Err(self.damaged("it cannot be decoded")),
                Ok(Step::End) => self.engine = self.after()?,
                // As the bzip2 program does it.
                Ok(Step::Garbage) if matches!(self.engine, Engine::Bzip2(_, false)) => {
                    self.engine = Engine::End;
                }
                Ok(Step::Garbage) => return Err(self.damaged("not a stream")),
                Err(Fault::Damaged(reason)) => return Err(self.damaged(reason)),
                Err(Fault::Memory) => {
                    return Err(Error::Memory {
                        compression: self.compression,
                        offset: self.input.offset(),
                        limit: XZ_MEMORY,
                    });
                }
            }
        }
        Ok(())
    }

    /// What comes after the end of a stream.
    fn after(&mut self) -> Result<Engine, Error> {
        Ok(match self.engine {
            Engine::Bzip2(..) if !self.input.fill()?.is_empty() => {
                Engine::Bzip2(Decompress::new(false), false)
            }
            _ => Engine::End,
        })
    }

    fn truncated(&self) -> Error {
        Error::Truncated { compression: self.compression, offset: self.input.end() }
    }

    fn damaged(&self, reason: &'static str) -> Error {
        Error::Damaged { compression: self.compression, offset: self.input.offset(), reason }
    }
}

enum Fault {
    Damaged(&'static str),
    Memory,
}

type Stepped = (usize, usize, Result<Step, Fault>);

fn bzip2_step(engine: &mut Decompress, input: &[u8], room: &mut [u8]) -> Stepped {
    let (taken, made) = (engine.total_in(), engine.total_out());
    let step = match engine.decompress(input, room) {
        Ok(bzip2::Status::StreamEnd) => Ok(Step::End),
        Ok(_) => Ok(Step::More),
        Err(bzip2::Error::DataMagic) => Ok(Step::Garbage),
        Err(_) => Err(Fault::Damaged("a block or its checksum is wrong")),
    };
    let taken = engine.total_in() - taken;
    let made = engine.total_out() - made;
    (taken as usize, made as usize, step)
}

/// `input` is empty only at the end of the file.
fn xz_step(engine: &mut xz::Stream, input: &[u8], room: &mut [u8]) -> Stepped {
    let (taken, made) = (engine.total_in(), engine.total_out());
    let action = if input.is_empty() { xz::Action::Finish } else { xz::Action::Run };
    let step = match engine.process(input, room, action) {
        Ok(xz::Status::StreamEnd) => Ok(Step::End),
        Ok(_) => Ok(Step::More),
        Err(xz::Error::Format) => Ok(Step::Garbage),
        Err(xz::Error::MemLimit | xz::Error::Mem) => Err(Fault::Memory),
        Err(xz::Error::Options) => Err(Fault::Damaged("it has options that are not supported")),
        Err(_) => Err(Fault::Damaged("a block or its checksum is wrong")),
    };
    let taken = engine.total_in() - taken;
    let made = engine.total_out() - made;
    (taken as usize, made as usize, step)
}

#[cfg(test)]
mod tests {
    use bzip2::write::BzEncoder;
    use liblzma::write::XzEncoder;
    use proptest::prelude::*;

    use super::super::testing::{Trickle, crc, file, text};
    use super::super::{decode, gzip};
    use super::*;

    fn bzip2(plain: &[u8]) -> Vec<u8> {
        let mut encoder = BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    fn xz(plain: &[u8]) -> Vec<u8> {
        let mut encoder = XzEncoder::new(Vec::new(), 0);
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    fn encode(compression: Compression, plain: &[u8]) -> Vec<u8> {
        match compression {
            Compression::None => plain.to_vec(),
            Compression::Gzip => gzip::tests::fixed(plain),
            Compression::Zstd => super::super::zstd::tests::frame(plain, true),
            Compression::Bzip2 => bzip2(plain),
            Compression::Xz => xz(plain),
        }
    }

    const ALL: [Compression; 5] = [
        Compression::None,
        Compression::Gzip,
        Compression::Zstd,
        Compression::Bzip2,
        Compression::Xz,
    ];

    type Copied = (Vec<u8>, Vec<u8>, Vec<(Checkpoint, usize)>);

    /// What was decoded, the copy, and its spans.
    fn copy(compression: Compression, stream: impl Read) -> Result<Copied, Error> {
        let (mut whole, mut copy, mut spans) = Copied::default();
        let mut output = Vec::new();
        let mut copier = Copier::new(compression, stream, &mut copy)?;
        while let Some(checkpoint) = copier.next(&mut output)? {
            assert!(!output.is_empty() && output.len() <= SPAN);
            spans.push((checkpoint, output.len()));
            whole.append(&mut output);
        }
        drop(copier);
        Ok((whole, copy, spans))
    }

    #[test]
    fn a_copy_has_a_checkpoint_each_span() {
        let plain = text(3, 2 * SPAN + 12_345);
        for compression in ALL {
            let stream = encode(compression, &plain);
            let (whole, copied, spans) = copy(compression, Trickle::new(&stream, 70_001)).unwrap();
            assert!(whole == plain, "{compression}");
            let lengths: Vec<usize> = spans.iter().map(|(_, length)| *length).collect();
            assert_eq!(lengths, [SPAN, SPAN, 12_345], "{compression}");
            let copied = file(&copied);
            let mut output = Vec::new();
            for (number, (checkpoint, length)) in spans.iter().enumerate().rev() {
                decode(Compression::Zstd, checkpoint, &copied, &mut output, *length).unwrap();
                assert!(output == plain[number * SPAN..][..*length], "{compression} {number}");
            }
        }
    }

    #[test]
    fn streams_one_after_another() {
        let (one, other) = (text(1, 5000), text(2, 300));
        for compression in ALL {
            let stream = [&one[..], b"", &other].map(|plain| encode(compression, plain)).concat();
            let (whole, ..) = copy(compression, &stream[..]).unwrap();
            assert!(whole == [&one[..], &other].concat(), "{compression}");
        }
    }

    #[test]
    fn nothing_compressed() {
        for compression in ALL {
            let stream = encode(compression, b"");
            let (whole, copied, spans) = copy(compression, &stream[..]).unwrap();
            assert!(whole.is_empty() && copied.is_empty() && spans.is_empty());
        }
    }

    #[test]
    fn what_follows_the_last_stream() {
        let plain = text(1, 100);
        let bzip2 = |rest: &[u8]| copy(Compression::Bzip2, &[&bzip2(&plain), rest].concat()[..]);
        assert!(bzip2(b"garbage").unwrap().0 == plain, "as the program does");
        assert!(matches!(bzip2(b"BZ"), Err(Error::Truncated { .. })));
        assert!(matches!(bzip2(b"BZh1garbage"), Err(Error::Damaged { .. })));
        let xz = |rest: &[u8]| copy(Compression::Xz, &[&xz(&plain), rest].concat()[..]);
        assert!(xz(&[0; 8]).unwrap().0 == plain, "padding");
        assert!(matches!(xz(b"garbage in place of a header"), Err(Error::Damaged { .. })));
    }

    #[test]
    fn a_stream_cut_off_is_an_error() {
        let plain = text(5, 3000);
        for compression in &ALL[1..] {
            let stream = encode(*compression, &plain);
            for length in (0..stream.len()).filter(|n| n % 7 == 0 || n + 20 > stream.len()) {
                // Of zstd nothing at all is no frame.
                if *compression == Compression::Zstd && length == 0 {
                    continue;
                }
                match copy(*compression, &stream[..length]) {
                    Err(Error::Truncated { offset, .. }) => assert!(offset <= length as u64),
                    other => panic!("{compression}, {length}: {:?}", other.map(|(_, _, s)| s)),
                }
            }
        }
    }

    /// A dictionary of 1.5 GiB, in the block header of section 3.1 of the format.
    #[test]
    fn memory_has_a_limit() {
        let mut stream = xz(b"plain");
        stream[16] = 37;
        let sum = crc(&stream[12..20]);
        stream[20..24].copy_from_slice(&sum.to_le_bytes());
        let error = copy(Compression::Xz, &stream[..]).unwrap_err();
        assert!(matches!(error, Error::Memory { limit: XZ_MEMORY, .. }), "{error}");
    }

    #[test]
    fn a_full_disk_is_told() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let stream = bzip2(b"plain");
        let mut copier = Copier::new(Compression::Bzip2, &stream[..], Full).unwrap();
        let error = copier.next(&mut Vec::new()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot write the seekable copy at offset 0: no storage space"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        /// No panic and no wrong bytes: all these formats have checksums.
        #[test]
        fn damage_is_found(
            which in 1..ALL.len(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), 1..=255u8), 1..4),
        ) {
            let plain = text(4, 20_000);
            let mut stream = encode(ALL[which], &plain);
            for (at, change) in changes {
                *at.get_mut(&mut stream) ^= change;
            }
            if let Ok((whole, ..)) = copy(ALL[which], &stream[..]) {
                prop_assert!(whole == plain || whole.is_empty());
            }
        }
    }
}
