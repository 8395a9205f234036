//! A source of compressed bytes with a look ahead, which knows its offset.

use std::io::{ErrorKind, Read};

use super::Error;

pub(super) struct Input<R> {
    source: R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Of `start` in the stream.
    offset: u64,
    /// The byte before `start`: a deflate block may begin in it.
    last: u8,
    ended: bool,
}

impl<R: Read> Input<R> {
    /// `offset` is where in the stream the source starts.
    pub fn new(source: R, capacity: usize, offset: u64) -> Self {
        Input { source, buffer: vec![0; capacity], start: 0, end: 0, offset, last: 0, ended: false }
    }

    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// How far the source was read.
    pub fn end(&self) -> u64 {
        self.offset + self.available().len() as u64
    }

    /// The byte before `offset`.
    pub fn last(&self) -> u8 {
        self.last
    }

    pub fn available(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    pub fn consume(&mut self, count: usize) {
        if let Some(last) = self.available()[..count].last() {
            self.last = *last;
        }
        self.start += count;
        self.offset += count as u64;
    }

    /// What is available; nothing only at the end of the source.
    pub fn fill(&mut self) -> Result<&[u8], Error> {
        self.fill_to(1)
    }

    /// Like `fill`, but less than `count` bytes only at the end of the source.
    /// `count` is at most the capacity.
    pub fn fill_to(&mut self, count: usize) -> Result<&[u8], Error> {
        if self.end - self.start < count && !self.ended {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            while self.end < count && !self.ended {
                match self.source.read(&mut self.buffer[self.end..]) {
                    Ok(0) => self.ended = true,
                    Ok(read) => self.end += read,
                    Err(cause) if cause.kind() == ErrorKind::Interrupted => {}
                    Err(cause) => {
                        let offset = self.end();
                        return Err(Error::Read { offset, cause });
                    }
                }
            }
        }
        Ok(self.available())
    }

    /// Passes over `count` bytes, or as many as there are; says whether there
    /// were so many.
    pub fn skip(&mut self, mut count: u64) -> Result<bool, Error> {
        while count > 0 {
            let available = self.fill()?.len();
            if available == 0 {
                return Ok(false);
            }
            let step = usize::try_from(count).map_or(available, |count| count.min(available));
            self.consume(step);
            count -= step as u64;
        }
        Ok(true)
    }

    /// Appends `count` bytes, or as many as there are, straight from the
    /// source: for an input of which nothing else is asked.
    pub fn read_into(&mut self, output: &mut Vec<u8>, count: usize) -> Result<(), Error> {
        let before = output.len();
        output.reserve_exact(count);
        let read = self.source.by_ref().take(count as u64).read_to_end(output);
        self.offset += (output.len() - before) as u64;
        let offset = self.offset;
        read.map(drop).map_err(|cause| Error::Read { offset, cause })
    }
}
