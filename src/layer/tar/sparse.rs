//! Maps of sparse files: GNU's old type `S`, and the three versions in PAX
//! headers (GNU tar manual, "Storing Sparse Files").
//!
//! A map is taken only when its extents are in order, apart, inside the file,
//! and together as long as the data: anything else is read differently by every
//! program.

use serde::{Deserialize, Serialize};

use super::Problem;
use super::header::{self, BLOCK, Block};

/// More extents than this are refused: 4 MiB of memory.
const EXTENTS_MAX: u64 = 1 << 18;

/// A piece of a sparse file that has data; the rest are zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    pub offset: u64,
    pub length: u64,
}

#[derive(Debug, Default, Clone)]
pub struct Map {
    extents: Vec<Extent>,
    entries: u64,
    end: u64,
    stored: u64,
}

impl Map {
    pub fn add(&mut self, offset: u64, length: u64) -> Result<(), Problem> {
        let end = offset.checked_add(length);
        let end = end.filter(|&end| i64::try_from(end).is_ok());
        let end = end.ok_or(Problem::Sparse("an extent beyond all files"))?;
        if offset < self.end {
            return Err(Problem::Sparse("extents out of order"));
        }
        self.entries += 1;
        if self.entries > EXTENTS_MAX {
            return Err(Problem::Sparse("too many extents"));
        }
        self.end = end;
        self.stored += length;
        // An empty extent marks the end of a file that ends in a hole.
        if length > 0 {
            self.extents.push(Extent { offset, length });
        }
        Ok(())
    }

    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// The whole map of a file of `size` bytes, of which `stored` have data.
    pub fn finish(self, size: u64, stored: u64) -> Result<Vec<Extent>, Problem> {
        if self.end > size {
            return Err(Problem::Sparse("an extent beyond the file's end"));
        }
        if self.stored != stored {
            return Err(Problem::Sparse("a map of more or less data than there is"));
        }
        Ok(self.extents)
    }
}

/// A type `S` header and the blocks that follow it. Entries end at the first
/// that is blank; GNU tar reads no further, but `tarfile` does.
#[derive(Debug, Default)]
pub struct OldGnu {
    map: Map,
    ended: bool,
}

impl OldGnu {
    /// Size of the file, and whether more of the map follows.
    pub fn header(&mut self, block: &Block) -> Result<(u64, bool), Problem> {
        let size = header::size(&block[483..495])?;
        Ok((size, self.entries(&block[386..482], block[482])?))
    }

    /// Whether still more of the map follows.
    pub fn extension(&mut self, block: &Block) -> Result<bool, Problem> {
        self.entries(&block[..504], block[504])
    }

    fn entries(&mut self, entries: &[u8], more: u8) -> Result<bool, Problem> {
        for entry in entries.chunks_exact(24) {
            let (offset, length) = entry.split_at(12);
            self.ended |= length[0] == 0;
            if !self.ended {
                self.map.add(header::size(offset)?, header::size(length)?)?;
            } else if entry.iter().any(|&byte| byte != 0) {
                return Err(Problem::Sparse("an entry behind the map's end"));
            }
        }
        if self.ended && more != 0 {
            return Err(Problem::Sparse("blocks behind the map's end"));
        }
        Ok(more != 0)
    }

    pub fn map(self) -> Map {
        self.map
    }
}

/// A map of version 1.0: at the start of the data, decimal numbers, one a line,
/// first how many extents there are; filled up to a block.
#[derive(Debug, Default)]
pub struct Lines {
    map: Map,
    extents: Option<u64>,
    offset: Option<u64>,
    /// The number so far, and its digits.
    number: Option<(u64, u8)>,
    blocks: u64,
}

impl Lines {
    /// Takes a block; true when the map is whole.
    pub fn block(&mut self, block: &Block) -> Result<bool, Problem> {
        const MALFORMED: Problem = Problem::Sparse("a map that is not of numbers");
        self.blocks += 1;
        for &byte in block {
            if byte != b'\n' {
                let digit = decimal_digit(byte).ok_or(MALFORMED)?;
                let (number, digits) = self.number.unwrap_or_default();
                // GNU tar has room for 20; 19 always fit.
                if digits == 19 {
                    return Err(MALFORMED);
                }
                self.number = Some((number * 10 + digit, digits + 1));
                continue;
            }
            let (number, _) = self.number.take().ok_or(MALFORMED)?;
            match (self.extents, self.offset.take()) {
                (None, _) if number > EXTENTS_MAX => {
                    return Err(Problem::Sparse("too many extents"));
                }
                (None, _) => self.extents = Some(number),
                (Some(_), None) => self.offset = Some(number),
                (Some(_), Some(offset)) => self.map.add(offset, number)?,
            }
            if self.extents == Some(self.map.entries()) && self.offset.is_none() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Bytes of the blocks so far.
    pub fn taken(&self) -> u64 {
        self.blocks * BLOCK as u64
    }

    pub fn map(self) -> Map {
        self.map
    }
}

pub fn decimal_digit(byte: u8) -> Option<u64> {
    byte.is_ascii_digit().then(|| u64::from(byte - b'0'))
}
