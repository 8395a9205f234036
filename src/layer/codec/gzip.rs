//! gzip (RFC 1952): members one after another, each deflate blocks (RFC 1951)
//! between a header and a trailer.
//!
//! A member's start is a checkpoint that needs nothing, a block's start one
//! that needs the output before it. What follows the last member is treated as
//! GNU gzip does: anything that does not look like compressed data is ignored.

use std::fs::File;
use std::io::Read;

use super::inflate::{Format, Inflater, Status};
use super::input::Input;
use super::window::{self, Tracer};
use super::{Checkpoint, Compression, Error, Part, READ, SPAN, SPAN_MAX, WINDOW};

/// What indexing reads at a time.
const BUFFER: usize = 256 << 10;
/// CRC-32 and length.
const TRAILER: u64 = 8;

/// Members decoded one after another, in steps.
pub(super) struct Members<R> {
    input: Input<R>,
    inflater: Inflater,
    place: Place,
    /// Members that were begun.
    members: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before a member, or before what follows the last one.
    Between,
    Member,
    /// In a member that was entered at a block: its trailer cannot be verified.
    Blocks,
    End,
}

/// Why `Members::advance` stopped.
enum Stop {
    /// The room, or the input at hand, is used up.
    More,
    /// Before a block; so many bits of the last byte belong to it.
    Block { bits: u8 },
    /// After a member.
    Member,
    /// After the last.
    End,
}

impl<R: Read> Members<R> {
    pub fn new(source: R) -> Result<Self, Error> {
        Members::open(source, BUFFER, 0)
    }

    fn open(source: R, buffer: usize, offset: u64) -> Result<Self, Error> {
        Ok(Members {
            input: Input::new(source, buffer, offset),
            inflater: Inflater::new(Format::Member).map_err(library)?,
            place: Place::Between,
            members: 0,
        })
    }

    /// Begins inside a member, after passing over so many bytes.
    fn enter(&mut self, skip: u64, checkpoint: &Checkpoint) -> Result<(), Error> {
        self.input.skip(skip)?;
        self.inflater.reset(Format::Raw).map_err(library)?;
        self.inflater
            .begin(checkpoint.bits, self.input.last(), &checkpoint.window)
            .map_err(library)?;
        self.place = Place::Blocks;
        self.members = 1;
        Ok(())
    }

    /// Appends at most `room` bytes, which is not 0, to the output. Stops at
    /// blocks only if asked.
    fn advance(&mut self, output: &mut Vec<u8>, room: usize, blocks: bool) -> Result<Stop, Error> {
        if self.place == Place::Between {
            self.begin_member()?;
        }
        if self.place == Place::End {
            return Ok(Stop::End);
        }
        if self.input.fill()?.is_empty() {
            return Err(self.truncated());
        }
        let before = output.len();
        let (taken, status) = self
            .inflater
            .run(self.input.available(), output, room, blocks)
            .map_err(|reason| self.damaged(reason))?;
        self.input.consume(taken);
        match status {
            Status::End => {
                if self.place == Place::Blocks && !self.input.skip(TRAILER)? {
                    return Err(self.truncated());
                }
                self.place = Place::Between;
                Ok(Stop::Member)
            }
            Status::Block { bits } if blocks => Ok(Stop::Block { bits }),
            _ if taken == 0 && output.len() == before => Err(self.damaged("it cannot be decoded")),
            _ => Ok(Stop::More),
        }
    }

    /// Appends `length` bytes, or as many as there are.
    pub fn read(&mut self, output: &mut Vec<u8>, length: usize) -> Result<(), Error> {
        let limit = output.len() + length;
        while output.len() < limit {
            let stop = self.advance(output, limit - output.len(), false)?;
            if matches!(stop, Stop::End) {
                break;
            }
        }
        Ok(())
    }

    pub fn consumed(&self) -> u64 {
        self.input.offset()
    }

    fn begin_member(&mut self) -> Result<(), Error> {
        let head = self.input.fill_to(2)?;
        let head = (head.first().copied(), head.get(1).copied());
        self.place = match head {
            (Some(0x1f), Some(0x8b)) => {
                self.inflater.reset(Format::Member).map_err(library)?;
                Place::Member
            }
            (_, Some(_)) if self.members == 0 => return Err(self.damaged("not gzip")),
            _ if self.members == 0 => return Err(self.truncated()),
            (None | Some(0), _) => Place::End,
            // gzip looks for a second byte before it judges.
            (_, None) => return Err(self.truncated()),
            // pack, compress, gzip before 1.0 and LZH, of which gzip takes one
            // for a continuation.
            (Some(0x1f), Some(0x1e | 0x9d | 0x9e | 0xa0)) => {
                return Err(self.damaged("another compression follows"));
            }
            _ => Place::End,
        };
        self.members += 1;
        Ok(())
    }

    fn truncated(&self) -> Error {
        Error::Truncated { compression: Compression::Gzip, offset: self.input.end() }
    }

    fn damaged(&self, reason: &'static str) -> Error {
        Error::Damaged { compression: Compression::Gzip, offset: self.input.offset(), reason }
    }
}

fn library(reason: &'static str) -> Error {
    Error::Library(Compression::Gzip, reason)
}

/// Where a stream is cut.
#[derive(Clone, Copy)]
struct Cut {
    /// Output from which on a checkpoint is taken where one can be.
    least: usize,
    most: usize,
    /// Compressed bytes from which on the same holds: a span of little output
    /// could else be as long as the stream.
    input: u64,
}

pub(super) struct Spans<R> {
    members: Members<R>,
    cut: Cut,
    /// Where the next span starts; none when there is none.
    start: Option<Checkpoint>,
    /// The member's last output, at most a window of it.
    window: Vec<u8>,
    tracer: Tracer,
}

impl<R: Read> Spans<R> {
    pub fn new(source: R) -> Result<Self, Error> {
        let cut = Cut { least: SPAN, most: SPAN_MAX, input: 2 * SPAN as u64 };
        Spans::with_cut(source, cut)
    }

    fn with_cut(source: R, cut: Cut) -> Result<Self, Error> {
        Ok(Spans {
            members: Members::new(source)?,
            cut,
            start: Some(Checkpoint::at(0)),
            window: Vec::with_capacity(WINDOW),
            tracer: Tracer::new().map_err(library)?,
        })
    }

    pub fn consumed(&self) -> u64 {
        self.members.consumed()
    }

    /// `output` is empty.
    pub fn next(&mut self, output: &mut Vec<u8>) -> Result<Option<Checkpoint>, Error> {
        let Some(mut start) = self.start.clone() else {
            return Ok(None);
        };
        // Room for what the last block has beyond the least.
        output.reserve_exact(2 * self.cut.least);
        // Where in the output the member in hand starts.
        let mut member = 0;
        let next = loop {
            let due =
                output.len() >= self.cut.least || self.consumed() - start.input >= self.cut.input;
            // As much as possible in one go, then block by block.
            let room = if output.len() < self.cut.least {
                self.cut.least - output.len()
            } else {
                self.cut.least.min(self.cut.most + 1 - output.len())
            };
            let stop = self.members.advance(output, room, due)?;
            if output.len() > self.cut.most {
                return Err(Error::Unseekable);
            }
            let place = self.consumed();
            match stop {
                Stop::More => {}
                Stop::End => break None,
                Stop::Member => {
                    member = output.len();
                    self.window.clear();
                    if output.is_empty() {
                        start = Checkpoint::at(place);
                    } else if due || output.len() >= self.cut.least {
                        break Some(Checkpoint::at(place));
                    }
                }
                Stop::Block { bits } if output.is_empty() => {
                    start.input = place;
                    start.bits = bits;
                    start.raw = true;
                }
                Stop::Block { bits } => {
                    window::append(&mut self.window, &output[member..]);
                    let last = self.members.input.last();
                    let ahead = self.members.input.fill_to(window::AHEAD)?;
                    break Some(Checkpoint {
                        input: place,
                        bits,
                        raw: true,
                        window: self.tracer.trim(&self.window, bits, last, ahead),
                    });
                }
            }
        };
        self.start = next;
        Ok((!output.is_empty()).then_some(start))
    }
}

/// `output` is empty and has room for `length` bytes.
pub(super) fn decode(
    checkpoint: &Checkpoint,
    file: &File,
    output: &mut Vec<u8>,
    length: usize,
) -> Result<(), Error> {
    // The byte that the first block begins in is read too.
    let before = u64::from(checkpoint.bits > 0);
    let offset = checkpoint.input.saturating_sub(before);
    let mut members = Members::open(Part { file, offset }, READ, offset)?;
    if checkpoint.raw {
        members.enter(before, checkpoint)?;
    }
    match members.read(output, length) {
        // zlib may have looked at the block after the span too.
        Err(error) if output.len() < length => Err(error),
        _ if output.len() < length => Err(members.truncated()),
        _ => Ok(()),
    }
}

#[cfg(test)]
pub(super) mod tests;
