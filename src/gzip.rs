//! Compresses what is written to it as one gzip member (RFC 1952), with
//! zlib-ng. What the fields and results mean: the manual in zlib's `zlib.h`.

use std::ffi::{c_int, c_uint};
use std::io::{self, Write};
use std::mem::MaybeUninit;

use libz_ng_sys as zlib;

/// zlib-ng's quick side: whoever asks for an export waits for it.
const LEVEL: c_int = 3;
/// The window is 32 KiB: 15 bits; 16 more mean gzip.
const WINDOW_BITS: c_int = 15 + 16;
/// zlib's default.
const MEMORY_LEVEL: c_int = 8;
/// Compressed bytes gathered before they are written on.
const BUFFER: usize = 64 << 10;

/// Writes compressed to `inner`. Without [`GzipWriter::finish`] the member has no
/// end.
pub struct GzipWriter<W> {
    inner: W,
    /// It knows its own address, so it stays where it is.
    stream: *mut zlib::z_stream,
    buffer: Vec<u8>,
}

// SAFETY: the structure and what it owns are reached through this value only,
// and zlib keeps nothing by thread.
#[allow(unsafe_code)]
unsafe impl<W: Send> Send for GzipWriter<W> {}

impl<W: Write> GzipWriter<W> {
    pub fn new(inner: W) -> io::Result<GzipWriter<W>> {
        let stream = Box::into_raw(Box::new(MaybeUninit::<zlib::z_stream>::zeroed())).cast();
        // SAFETY: all zeros is what zlib wants to see of the allocators it is to
        // choose itself; it fills the rest in before the structure is taken for an
        // initialised one.
        #[allow(unsafe_code)]
        let code = unsafe {
            zlib::zng_deflateInit2(
                stream,
                LEVEL,
                zlib::Z_DEFLATED,
                WINDOW_BITS,
                MEMORY_LEVEL,
                zlib::Z_DEFAULT_STRATEGY,
            )
        };
        if code == zlib::Z_OK {
            return Ok(GzipWriter {
                inner,
                stream,
                buffer: Vec::with_capacity(BUFFER),
            });
        }
        // SAFETY: made above by `Box`, given to nobody.
        #[allow(unsafe_code)]
        drop(unsafe { Box::from_raw(stream.cast::<MaybeUninit<zlib::z_stream>>()) });
        Err(io::Error::from(io::ErrorKind::OutOfMemory))
    }

    /// Writes the member's end.
    pub fn finish(mut self) -> io::Result<()> {
        while self.step(&[], zlib::Z_FINISH)?.1 != zlib::Z_STREAM_END {}
        self.drain()?;
        self.inner.flush()
    }

    /// Compresses some of `input`; gives how much, and zlib's code.
    fn step(&mut self, input: &[u8], flush: c_int) -> io::Result<(usize, c_int)> {
        if self.buffer.len() == self.buffer.capacity() {
            self.drain()?;
        }
        let length = c_uint::try_from(input.len()).unwrap_or(c_uint::MAX);
        let room = self.buffer.spare_capacity_mut();
        let space = c_uint::try_from(room.len()).unwrap_or(c_uint::MAX);
        // SAFETY: `stream` is initialised and this value's own. zlib reads at most
        // `avail_in` bytes of `input` and writes at most `avail_out` bytes of the
        // spare room, and says in both fields what it left; neither pointer is used
        // after the call.
        #[allow(unsafe_code)]
        let (taken, made, code) = unsafe {
            let stream = &mut *self.stream;
            stream.next_in = input.as_ptr().cast_mut();
            stream.avail_in = length;
            stream.next_out = room.as_mut_ptr().cast();
            stream.avail_out = space;
            let code = zlib::deflate(stream, flush);
            let made = (space - stream.avail_out) as usize;
            self.buffer.set_len(self.buffer.len() + made);
            ((length - stream.avail_in) as usize, made, code)
        };
        match code {
            zlib::Z_OK | zlib::Z_STREAM_END => Ok((taken, code)),
            // Nothing to do, or no room: not with what it was given here.
            zlib::Z_BUF_ERROR if taken + made > 0 => Ok((taken, code)),
            _ => Err(io::Error::other(format!("zlib-ng gives code {code}"))),
        }
    }

    fn drain(&mut self) -> io::Result<()> {
        let written = self.inner.write_all(&self.buffer);
        self.buffer.clear();
        written
    }
}

impl<W: Write> Write for GzipWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        loop {
            // A full buffer may take nothing in.
            let (taken, _) = self.step(bytes, zlib::Z_NO_FLUSH)?;
            if taken > 0 {
                return Ok(taken);
            }
        }
    }

    /// What zlib holds back stays there: cutting it off would cost compression.
    fn flush(&mut self) -> io::Result<()> {
        self.drain()?;
        self.inner.flush()
    }
}

impl<W> Drop for GzipWriter<W> {
    fn drop(&mut self) {
        // SAFETY: initialised by `new`, which also made the box; nobody else has
        // the pointer.
        #[allow(unsafe_code)]
        unsafe {
            // Its code tells only that a stream was left unfinished.
            zlib::deflateEnd(self.stream);
            drop(Box::from_raw(
                self.stream.cast::<MaybeUninit<zlib::z_stream>>(),
            ));
        }
    }
}

impl<W> std::fmt::Debug for GzipWriter<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GzipWriter").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 1952, 2.3.1: the trailer ends with the length; system gzip checks the
    /// rest.
    fn unzip(bytes: &[u8]) -> Vec<u8> {
        let mut gzip = std::process::Command::new("gzip")
            .arg("-dc")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("gzip is part of every Debian");
        let mut stdin = gzip.stdin.take().expect("piped");
        let bytes = bytes.to_vec();
        let writing = std::thread::spawn(move || stdin.write_all(&bytes));
        let output = gzip.wait_with_output().expect("its output");
        writing.join().expect("no panic").expect("it reads all");
        assert!(output.status.success());
        output.stdout
    }

    #[test]
    fn round_trips() {
        // Neither fits the buffer: one shrinks, the other does not.
        let text: Vec<u8> = (0..400_000u32).flat_map(u32::to_le_bytes).collect();
        let noise: Vec<u8> = (0..40_000u32)
            .flat_map(|n| {
                crate::oci::Algorithm::Sha256
                    .digest(&n.to_le_bytes())
                    .hex()
                    .into_bytes()
            })
            .collect();
        for (plain, pieces) in [
            (&b""[..], 1),
            (b"x", 1),
            (&text, 100_000),
            (&noise, 777),
            (&noise, 1 << 30),
        ] {
            let mut compressed = Vec::new();
            let mut writer = GzipWriter::new(&mut compressed).unwrap();
            for piece in plain.chunks(pieces) {
                writer.write_all(piece).unwrap();
            }
            writer.finish().unwrap();
            assert!(unzip(&compressed) == plain, "{} bytes", plain.len());
        }
    }

    #[test]
    fn a_failing_writer_ends_it() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let writer = GzipWriter::new(Full).unwrap();
        let error = writer.finish().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
