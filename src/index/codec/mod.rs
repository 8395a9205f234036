//! Compressed layers and the spans they are cut into.

use serde::{Deserialize, Serialize};

/// How a stream is compressed, by its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum Compression {
    None = 0,
    Gzip = 1,
    Zstd = 2,
    Bzip2 = 3,
    Xz = 4,
}

/// Where decoding of a span starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    pub input: u64,
    pub bits: u8,
    pub window: Vec<u8>,
    pub raw: bool,
}

pub const SPAN: usize = 2 << 20;
pub const SPAN_MAX: usize = 16 << 20;
pub const WINDOW: usize = 32 << 10;
