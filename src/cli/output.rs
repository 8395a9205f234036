//! Where commands write: stdout, fit for a terminal if it is one, and silent
//! when its reader has had enough.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};
use std::process::ExitCode;

use anyhow::Result;

/// Bytes gathered before they are written.
const BUFFER: usize = 64 << 10;

/// Standard output.
#[derive(Debug)]
pub struct Stdout {
    inner: BufWriter<Pipe>,
    terminal: bool,
}

/// Notes that its reader went away.
#[derive(Debug)]
struct Pipe {
    stdout: StdoutLock<'static>,
    closed: bool,
}

impl Stdout {
    pub fn new() -> Stdout {
        let stdout = io::stdout().lock();
        Stdout {
            terminal: stdout.is_terminal(),
            inner: BufWriter::with_capacity(BUFFER, Pipe { stdout, closed: false }),
        }
    }

    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// A name as it may be shown here.
    pub fn name<'a>(&self, name: &'a [u8]) -> Cow<'a, [u8]> {
        if self.terminal { printable(name) } else { Cow::Borrowed(name) }
    }

    /// Whether its reader went away (`registry ls … | head`), which is no failure.
    pub fn is_closed(&self) -> bool {
        self.inner.get_ref().closed
    }

    /// Ends a command whose work came to `result`.
    pub fn end(mut self, result: Result<ExitCode>) -> Result<ExitCode> {
        let result = result.and_then(|code| {
            self.flush()?;
            Ok(code)
        });
        if self.is_closed() {
            return Ok(ExitCode::SUCCESS);
        }
        result
    }
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.stdout.write(bytes);
        self.closed |= matches!(&written, Err(e) if e.kind() == io::ErrorKind::BrokenPipe);
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stdout.flush()
    }
}

/// Says on stderr what went wrong. Messages repeat what stands in images, such as
/// the platforms that configs name.
pub fn complain(message: impl fmt::Display) {
    let message = message.to_string();
    let message = printable(message.as_bytes());
    eprintln!("registry: {}", String::from_utf8_lossy(&message));
}

/// Bytes as text that does not speak to a terminal.
pub fn printable(bytes: &[u8]) -> Cow<'_, [u8]> {
    let harmless = |text: &str| !text.chars().any(char::is_control);
    if std::str::from_utf8(bytes).is_ok_and(harmless) {
        return Cow::Borrowed(bytes);
    }
    let mut text = String::with_capacity(bytes.len() + 16);
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() {
                let mut utf8 = [0; 4];
                escape(&mut text, c.encode_utf8(&mut utf8).as_bytes());
            } else {
                text.push(c);
            }
        }
        escape(&mut text, chunk.invalid());
    }
    Cow::Owned(text.into_bytes())
}

fn escape(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        write!(text, "\\x{byte:02x}").expect("a String takes every write");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_are_spared() {
        for (name, shown) in [
            (&b"plain"[..], "plain"),
            ("gr\u{fc}n".as_bytes(), "gr\u{fc}n"),
            (b"a b'\"\\", "a b'\"\\"),
            (b"\x1b[31mred\x7f", "\\x1b[31mred\\x7f"),
            (b"two\nlines\r", "two\\x0alines\\x0d"),
            (b"latin-\xfc", "latin-\\xfc"),
            // A control character of two bytes: CSI.
            ("\u{9b}m".as_bytes(), "\\xc2\\x9bm"),
        ] {
            assert_eq!(String::from_utf8_lossy(&printable(name)), shown, "{name:?}");
        }
    }
}
