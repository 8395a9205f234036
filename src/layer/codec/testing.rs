//! What the tests of the formats share.

use std::fs::File;
use std::io::{self, Read, Write};

/// Text of few words: much of it refers back.
pub(super) fn text(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut text = Vec::with_capacity(length + 16);
    while text.len() < length {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let number = state >> 40;
        text.extend_from_slice(format!("{} ", number % 5000 * (number % 7)).as_bytes());
    }
    text.truncate(length);
    text
}

/// CRC-32 as gzip and xz have it.
pub(super) fn crc(data: &[u8]) -> u32 {
    !data.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 * (crc & 1)))
    })
}

/// An open file that has no name any more.
pub(super) fn file(content: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    file
}

/// A source that gives few bytes at a time, and is interrupted in between.
pub(super) struct Trickle<'a> {
    rest: &'a [u8],
    most: usize,
    interrupt: bool,
}

impl<'a> Trickle<'a> {
    pub fn new(rest: &'a [u8], most: usize) -> Self {
        Trickle { rest, most, interrupt: false }
    }
}

impl Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.interrupt = !self.interrupt;
        if self.interrupt {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let most = self.most.min(buffer.len());
        self.rest.read(&mut buffer[..most])
    }
}
