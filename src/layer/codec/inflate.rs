//! zlib-ng's inflate, safe to call: it writes into the spare room of a `Vec`.
//! What the fields and results mean: the manual in zlib's `zlib.h`.

use std::ffi::{CStr, c_int};
use std::mem::MaybeUninit;

use libz_ng_sys as zlib;

/// A C structure that knows its own address, so it stays where it is.
pub(super) struct Inflater(*mut zlib::z_stream);

// SAFETY: the structure and what it owns are reached through this value only,
// and zlib keeps nothing by thread.
unsafe impl Send for Inflater {}

#[derive(Clone, Copy)]
pub(super) enum Format {
    /// One member with header and trailer, which are verified.
    Member,
    /// Deflate blocks alone.
    Raw,
}

impl Format {
    /// The window is 32 KiB, whatever a header says: 15 bits; 16 more mean gzip, a
    /// negative number means raw.
    fn window_bits(self) -> c_int {
        match self {
            Format::Member => 15 + 16,
            Format::Raw => -15,
        }
    }
}

pub(super) enum Status {
    /// Input or room is used up.
    More,
    /// Stopped before a block. `bits` of the last byte taken belong to it.
    Block { bits: u8 },
    /// The member, or the last of the blocks, is complete.
    End,
}

impl Inflater {
    pub fn new(format: Format) -> Result<Inflater, &'static str> {
        let stream = Box::into_raw(Box::new(MaybeUninit::<zlib::z_stream>::zeroed())).cast();
        // SAFETY: all zeros is what zlib wants to see of the allocators it is
        // to choose itself and of the input; it fills them in before the
        // structure is taken for an initialised one.
        let code = unsafe { zlib::zng_inflateInit2(stream, format.window_bits()) };
        if code == zlib::Z_OK {
            return Ok(Inflater(stream));
        }
        // SAFETY: made above by `Box`, and not shared.
        drop(unsafe { Box::from_raw(stream.cast::<MaybeUninit<zlib::z_stream>>()) });
        Err("zlib-ng has no memory")
    }

    /// Begins again.
    pub fn reset(&mut self, format: Format) -> Result<(), &'static str> {
        // SAFETY: the stream is initialised.
        let code = unsafe { zlib::inflateReset2(self.0, format.window_bits()) };
        self.check(code)
    }

    /// For raw blocks after a reset: what was before them.
    pub fn begin(&mut self, bits: u8, byte: u8, window: &[u8]) -> Result<(), &'static str> {
        if bits > 0 {
            let bits = bits.min(7);
            let value = c_int::from(byte >> (8 - bits));
            // SAFETY: the stream is initialised.
            let code = unsafe { zlib::inflatePrime(self.0, bits.into(), value) };
            self.check(code)?;
        }
        let window = &window[window.len().saturating_sub(super::WINDOW)..];
        if window.is_empty() {
            return Ok(());
        }
        // SAFETY: the stream is initialised, and zlib copies the window, whose
        // length fits because it was cut.
        let code = unsafe {
            zlib::inflateSetDictionary(self.0, window.as_ptr(), window.len() as zlib::uInt)
        };
        self.check(code)
    }

    /// Appends at most `room` bytes to `output`; says how much of the input was
    /// taken. With `blocks`, stops at the end of each block.
    pub fn run(
        &mut self,
        input: &[u8],
        output: &mut Vec<u8>,
        room: usize,
        blocks: bool,
    ) -> Result<(usize, Status), &'static str> {
        const MOST: usize = 1 << 30;
        let room = room.min(MOST);
        let input = &input[..input.len().min(MOST)];
        output.reserve_exact(room);
        let flush = if blocks { zlib::Z_BLOCK } else { zlib::Z_NO_FLUSH };
        // SAFETY: the stream is initialised and nothing else refers to it.
        // Input and output are as long as said (both fit), do not overlap,
        // and zlib reads nothing of the output that it has not written; so
        // much of it is initialised as it says it has written.
        let (code, taken, bits, boundary) = unsafe {
            let stream = &raw mut *self.0;
            (*stream).next_in = input.as_ptr().cast_mut();
            (*stream).avail_in = input.len() as zlib::uInt;
            (*stream).next_out = output.as_mut_ptr().add(output.len());
            (*stream).avail_out = room as zlib::uInt;
            let code = zlib::inflate(stream, flush);
            output.set_len(output.len() + room - (*stream).avail_out as usize);
            let kind = (*stream).data_type;
            (
                code,
                input.len() - (*stream).avail_in as usize,
                (kind & 7) as u8,
                kind & 128 != 0 && kind & 64 == 0,
            )
        };
        match code {
            zlib::Z_STREAM_END => Ok((taken, Status::End)),
            // It could do nothing with what it got.
            zlib::Z_BUF_ERROR => Ok((taken, Status::More)),
            zlib::Z_OK if boundary => Ok((taken, Status::Block { bits })),
            _ => self.check(code).map(|()| (taken, Status::More)),
        }
    }

    fn check(&self, code: c_int) -> Result<(), &'static str> {
        if code == zlib::Z_OK {
            return Ok(());
        }
        // SAFETY: the stream is initialised, and its message is none or one of
        // the library's constants.
        let message = unsafe {
            let message = (*self.0).msg;
            (!message.is_null()).then(|| CStr::from_ptr(message).to_str().ok())
        };
        Err(message.flatten().unwrap_or("zlib-ng refuses it"))
    }
}

impl Drop for Inflater {
    fn drop(&mut self) {
        // SAFETY: initialised by `new`, made there by `Box`, and used no more.
        unsafe {
            zlib::inflateEnd(self.0);
            drop(Box::from_raw(self.0));
        }
    }
}
