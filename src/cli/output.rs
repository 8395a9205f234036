//! Where commands write: to stdout without an error when its reader has left, and to terminals
//! without the characters that could control them.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::terminal::{self, printable};

/// Bytes gathered before they are written.
const BUFFER: usize = 64 << 10;

/// Standard output.
#[derive(Debug)]
pub struct Stdout {
    inner: BufWriter<Pipe>,
    terminal: bool,
}

/// Remembers that its reader went away.
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

    /// Returns a name as it may be shown here.
    pub fn name<'a>(&self, name: &'a [u8]) -> Cow<'a, [u8]> {
        if self.terminal { printable(name) } else { Cow::Borrowed(name) }
    }

    /// Writes lines of text or JSON. On a terminal, characters that could control it are escaped as
    /// in JSON (`\u009b`); line ends stay.
    pub fn write_text(&mut self, text: &[u8]) -> io::Result<()> {
        if self.terminal {
            self.write_all(&terminal::printable_lines(text))
        } else {
            self.write_all(text)
        }
    }

    /// Whether its reader went away (`registry ls … | head`), which is no failure.
    pub fn is_closed(&self) -> bool {
        self.inner.get_ref().closed
    }

    /// Ends a command with its result.
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

/// Writes a message to stderr. Messages may repeat what is in images, such as the platforms that
/// their configs name.
pub fn complain(message: impl fmt::Display) {
    let message = message.to_string();
    let message = printable(message.as_bytes());
    eprintln!("registry: {}", String::from_utf8_lossy(&message));
}

/// A count of `things` on stderr, if that is a terminal.
pub fn counter(things: &str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template(&format!("{{spinner}} {{pos}} {things}"));
    bar.set_style(style.expect("the template is constant and valid"));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// A progress bar in bytes on stderr, if that is a terminal. `None`: how many is not known yet.
pub fn progress_bar(total: Option<u64>) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
    let style =
        ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left");
    bar.set_style(style.expect("the template is constant and valid"));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
