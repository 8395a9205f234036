//! Maps of sparse files: GNU's old type `S`, and the three versions in PAX
//! headers (GNU tar manual, "Storing Sparse Files").
//!
//! A map is taken only when its extents are in order, apart, inside the file, and together as long
//! as the data: Go's `archive/tar` reads no other, so no runtime unpacks one.

use serde::{Deserialize, Serialize};

use super::Problem;
use super::header::{self, BLOCK, Block};
use super::pax::integer;

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
    pub fn add(&mut self, offset: i64, length: i64) -> Result<(), Problem> {
        let beyond = Problem::Sparse("an extent beyond all files");
        let end = offset.checked_add(length).ok_or(beyond)?;
        let below = |_| Problem::Sparse("an extent before the file");
        let offset = u64::try_from(offset).map_err(below)?;
        let length = u64::try_from(length).map_err(below)?;
        if offset < self.end {
            return Err(Problem::Sparse("extents out of order"));
        }
        self.entries += 1;
        if self.entries > EXTENTS_MAX {
            return Err(Problem::Sparse("too many extents"));
        }
        self.end = end.cast_unsigned();
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

/// A type `S` header and the blocks that follow it. The entries of a block end at the first whose
/// offset is blank.
#[derive(Debug, Default)]
pub struct OldGnu {
    map: Map,
}

impl OldGnu {
    /// Size of the file, and whether more of the map follows.
    pub fn header(&mut self, block: &Block) -> Result<(i64, bool), Problem> {
        let size = header::number(&block[483..495]).ok_or(Problem::Number("size"))?;
        Ok((size, self.entries(&block[386..482], block[482])?))
    }

    /// Whether still more of the map follows.
    pub fn extension(&mut self, block: &Block) -> Result<bool, Problem> {
        self.entries(&block[..504], block[504])
    }

    fn entries(&mut self, entries: &[u8], more: u8) -> Result<bool, Problem> {
        let number = |field| header::number(field).ok_or(Problem::Number("extent"));
        for entry in entries.chunks_exact(24).take_while(|entry| entry[0] != 0) {
            let (offset, length) = entry.split_at(12);
            self.map.add(number(offset)?, number(length)?)?;
        }
        Ok(more != 0)
    }

    pub fn map(self) -> Map {
        self.map
    }
}

/// A map of version 1.0: at the start of the data, decimal numbers, one a line, first how many
/// extents there are; filled up to a block.
#[derive(Debug, Default)]
pub struct Lines {
    map: Map,
    extents: Option<u64>,
    offset: Option<i64>,
    /// The line so far.
    line: Vec<u8>,
    blocks: u64,
}

impl Lines {
    /// Takes a block; true when the map is whole.
    pub fn block(&mut self, block: &Block) -> Result<bool, Problem> {
        const MALFORMED: Problem = Problem::Sparse("a map that is not of numbers");
        self.blocks += 1;
        for &byte in block {
            if byte != b'\n' {
                // A number has 20 characters; there may be zeros before it.
                if self.line.len() == BLOCK {
                    return Err(MALFORMED);
                }
                self.line.push(byte);
                continue;
            }
            let number = integer(&self.line).ok_or(MALFORMED)?;
            self.line.clear();
            match (self.extents, self.offset.take()) {
                (None, _) => {
                    let extents = u64::try_from(number).map_err(|_| MALFORMED)?;
                    if extents > EXTENTS_MAX {
                        return Err(Problem::Sparse("too many extents"));
                    }
                    self.extents = Some(extents);
                }
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
