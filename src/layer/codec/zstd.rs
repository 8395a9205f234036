//! zstd (RFC 8878): frames one after another, each of them independent, with
//! skippable frames between them.
//!
//! A frame's start is a checkpoint that needs nothing; inside a frame there is
//! none. Programs that write several frames (pzstd, zstd:chunked) write small ones,
//! everything else one as large as the layer.

use std::fs::File;
use std::io::Read;

use zstd_safe::zstd_sys::ZSTD_ErrorCode as Code;
use zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer, WriteBuf};

use super::input::Input;
use super::{Checkpoint, Compression, Error, Part, READ, SPAN, SPAN_MAX};

const BUFFER: usize = 256 << 10;
/// The most that a frame header takes (section 3.1.1.1), with its magic number.
const HEADER: usize = 18;
/// What the zstd program accepts unless told otherwise: 128 MiB.
const WINDOW_LOG: u32 = 27;

/// Frames decoded one after another, in steps.
pub(super) struct Frames<R> {
    input: Input<R>,
    context: DCtx<'static>,
    /// Inside a frame.
    inside: bool,
}

/// Why `Frames::advance` stopped.
#[derive(PartialEq, Eq)]
pub(super) enum Stop {
    Room,
    /// After a frame.
    Frame,
}

impl<R: Read> Frames<R> {
    pub fn new(source: R) -> Result<Self, Error> {
        Frames::open(source, BUFFER, 0)
    }

    fn open(source: R, buffer: usize, offset: u64) -> Result<Self, Error> {
        let library = |reason| Error::Library(Compression::Zstd, reason);
        let mut context = DCtx::try_create().ok_or(library("zstd has no memory"))?;
        context
            .set_parameter(DParameter::WindowLogMax(WINDOW_LOG))
            .map_err(|code| library(zstd_safe::get_error_name(code)))?;
        Ok(Frames { input: Input::new(source, buffer, offset), context, inside: false })
    }

    pub fn consumed(&self) -> u64 {
        self.input.offset()
    }

    /// Between frames: goes to the start of the next one. `None` at the end, else
    /// the size of its output where the frame says it.
    fn seek_frame(&mut self) -> Result<Option<Option<u64>>, Error> {
        loop {
            let head = self.input.fill_to(HEADER)?;
            match *head {
                [] => return Ok(None),
                [0x28, 0xb5, 0x2f, 0xfd, ..] => {
                    return match zstd_safe::get_frame_content_size(head) {
                        Ok(size) => Ok(Some(size)),
                        Err(_) if head.len() < HEADER => Err(self.truncated()),
                        Err(_) => Err(self.damaged("the frame header is invalid")),
                    };
                }
                // Section 3.1.2: a skippable frame and its size.
                [0x50..=0x5f, 0x2a, 0x4d, 0x18, a, b, c, d, ..] => {
                    let size = u32::from_le_bytes([a, b, c, d]);
                    if !self.input.skip(8 + u64::from(size))? {
                        return Err(self.truncated());
                    }
                }
                [_, _, _, _, _, _, _, _, ..] => return Err(self.damaged("not a zstd frame")),
                _ => return Err(self.truncated()),
            }
        }
    }

    /// Inside a frame, or at its start: appends at most `room` bytes to the output.
    fn advance(&mut self, output: &mut Vec<u8>, room: usize) -> Result<Stop, Error> {
        let limit = output.len() + room;
        self.inside = true;
        while output.len() < limit {
            self.input.fill()?;
            let mut input = InBuffer::around(self.input.available());
            let before = output.len();
            let mut spare = Spare::new(output, limit);
            let result = self
                .context
                .decompress_stream(&mut OutBuffer::around_pos(&mut spare, before), &mut input);
            let taken = input.pos();
            self.input.consume(taken);
            match result {
                Ok(0) => {
                    self.inside = false;
                    return Ok(Stop::Frame);
                }
                Ok(_) if taken == 0 && output.len() == before => {
                    return Err(match self.input.available() {
                        [] => self.truncated(),
                        _ => self.damaged("it cannot be decoded"),
                    });
                }
                Ok(_) => {}
                Err(code) => return Err(self.failed(code)),
            }
        }
        Ok(Stop::Room)
    }

    /// Appends `length` bytes, or as many as there are.
    pub fn read(&mut self, output: &mut Vec<u8>, length: usize) -> Result<(), Error> {
        let limit = output.len() + length;
        while output.len() < limit {
            if !self.inside && self.seek_frame()?.is_none() {
                break;
            }
            self.advance(output, limit - output.len())?;
        }
        Ok(())
    }

    fn failed(&self, code: usize) -> Error {
        let too_large = Code::ZSTD_error_frameParameter_windowTooLarge;
        if zstd_safe::is_error_kind(code, too_large) {
            return Error::Memory {
                compression: Compression::Zstd,
                offset: self.input.offset(),
                limit: 1 << WINDOW_LOG,
            };
        }
        self.damaged(zstd_safe::get_error_name(code))
    }

    fn truncated(&self) -> Error {
        Error::Truncated { compression: Compression::Zstd, offset: self.input.end() }
    }

    fn damaged(&self, reason: &'static str) -> Error {
        Error::Damaged { compression: Compression::Zstd, offset: self.input.offset(), reason }
    }
}

pub(super) struct Spans<R>(Frames<R>);

impl<R: Read> Spans<R> {
    pub fn new(source: R) -> Result<Self, Error> {
        Ok(Spans(Frames::new(source)?))
    }

    pub fn consumed(&self) -> u64 {
        self.0.consumed()
    }

    /// `output` is empty.
    pub fn next(&mut self, output: &mut Vec<u8>) -> Result<Option<Checkpoint>, Error> {
        let frames = &mut self.0;
        let mut start = frames.consumed();
        loop {
            if !frames.inside {
                let Some(size) = frames.seek_frame()? else {
                    break;
                };
                let size = size.unwrap_or(0);
                if size > SPAN_MAX as u64 {
                    return Err(Error::Unseekable);
                }
                let place = frames.consumed();
                if output.is_empty() {
                    start = place;
                } else if output.len() >= SPAN
                    || output.len() as u64 + size > SPAN_MAX as u64
                    // A span of little output could else be as long as the stream.
                    || place - start >= 2 * SPAN as u64
                {
                    break;
                }
            }
            let room = SPAN.min(SPAN_MAX + 1 - output.len());
            frames.advance(output, room)?;
            if output.len() > SPAN_MAX {
                return Err(Error::Unseekable);
            }
        }
        Ok((!output.is_empty()).then(|| Checkpoint::at(start)))
    }
}

/// `output` is empty and has room for `length` bytes.
pub(super) fn decode(
    checkpoint: &Checkpoint,
    file: &File,
    output: &mut Vec<u8>,
    length: usize,
) -> Result<(), Error> {
    let offset = checkpoint.input;
    let mut frames = Frames::open(Part { file, offset }, READ, offset)?;
    frames.read(output, length)?;
    if output.len() < length {
        return Err(frames.truncated());
    }
    Ok(())
}

/// A `Vec` that zstd may fill up to a limit, without its room being zeroed before.
pub(super) struct Spare<'a> {
    output: &'a mut Vec<u8>,
    limit: usize,
}

impl<'a> Spare<'a> {
    pub fn new(output: &'a mut Vec<u8>, limit: usize) -> Self {
        output.reserve_exact(limit.saturating_sub(output.len()));
        Spare { output, limit }
    }
}

#[allow(unsafe_code, reason = "zstd writes to memory by its address")]
// SAFETY: the room up to `limit` was reserved, and what is in the `Vec` is
// initialised.
unsafe impl WriteBuf for Spare<'_> {
    fn as_slice(&self) -> &[u8] {
        self.output
    }

    fn capacity(&self) -> usize {
        self.limit
    }

    fn as_mut_ptr(&mut self) -> *mut u8 {
        self.output.as_mut_ptr()
    }

    unsafe fn filled_until(&mut self, length: usize) {
        // SAFETY: the caller's promise, and `length` is at most `limit`.
        unsafe { self.output.set_len(length) }
    }
}

#[cfg(test)]
pub(super) mod tests;
