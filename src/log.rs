//! Logging: every line, the access log's included, goes through one buffer that
//! a thread writes to stderr. So no request waits for a slow terminal or pipe;
//! when the reader falls behind by more than the buffer, lines are dropped and
//! the log says how many.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use clap::ValueEnum;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::terminal;

/// Bytes of lines that wait for the writing thread.
const BUFFER_MAX: usize = 4 << 20;
/// How long the end of the program waits for a reader of stderr.
const FLUSH: std::time::Duration = std::time::Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Debug)]
struct Log {
    format: Format,
    requests: bool,
    pending: Mutex<Pending>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Pending {
    lines: Vec<u8>,
    dropped: u64,
    /// The thread is writing what it took.
    busy: bool,
}

static LOG: OnceLock<Log> = OnceLock::new();

/// Starts logging. Called once, before anything is logged.
pub fn start(format: Format, level: Level) -> io::Result<()> {
    let log = Log {
        format,
        requests: level >= Level::Info,
        pending: Mutex::default(),
        changed: Condvar::new(),
    };
    if LOG.set(log).is_err() {
        return Err(io::Error::other("logging was started twice"));
    }
    std::thread::Builder::new().name("log".into()).spawn(write_lines)?;
    let filter = match level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    };
    let lines = tracing_subscriber::fmt()
        .with_max_level(filter)
        .with_writer(Writer)
        .with_ansi(false)
        .with_target(false);
    match format {
        Format::Text => lines.init(),
        Format::Json => lines.json().flatten_event(true).init(),
    }
    Ok(())
}

/// Waits until what was logged is written; for the end of the program.
pub fn flush() {
    if let Some(log) = LOG.get() {
        let mut pending = log.pending();
        let deadline = Instant::now() + FLUSH;
        while pending.busy || !pending.lines.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            (pending, _) =
                log.changed.wait_timeout(pending, left).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Log {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn line(&self, line: &[u8]) {
        let mut pending = self.pending();
        if pending.lines.len() + line.len() > BUFFER_MAX {
            pending.dropped += 1;
            return;
        }
        pending.lines.extend_from_slice(line);
        if !pending.busy {
            self.changed.notify_all();
        }
    }
}

fn write_lines() {
    let log = LOG.get().expect("set before this thread is started");
    let mut lines = Vec::new();
    loop {
        let mut pending = log.pending();
        pending.busy = false;
        log.changed.notify_all();
        while pending.lines.is_empty() {
            pending = log.changed.wait(pending).unwrap_or_else(PoisonError::into_inner);
        }
        pending.busy = true;
        std::mem::swap(&mut lines, &mut pending.lines);
        let dropped = std::mem::take(&mut pending.dropped);
        drop(pending);
        let mut stderr = io::stderr().lock();
        // Nobody is left to tell when stderr is closed.
        drop(stderr.write_all(&lines));
        lines.clear();
        drop(stderr);
        if dropped > 0 {
            tracing::warn!(lines = dropped, "log lines were dropped: stderr is read too slowly");
        }
    }
}

/// Collects one event of tracing into one line.
struct Writer;

impl<'a> MakeWriter<'a> for Writer {
    type Writer = Writer;

    fn make_writer(&'a self) -> Writer {
        Writer
    }
}

impl Write for Writer {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Some(log) = LOG.get() {
            log.line(&terminal::printable_line(line));
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One request, as the access log tells it. The line is written when this is
/// dropped, so that a request has exactly one, however it ends.
#[derive(Debug)]
pub struct Request {
    pub id: u64,
    pub client: SocketAddr,
    pub method: hyper::Method,
    pub uri: hyper::Uri,
    pub user_agent: Option<hyper::header::HeaderValue>,
    pub start: Instant,
    /// [`UNANSWERED`] until there is an answer.
    pub status: u16,
    /// Bytes of the body sent.
    pub bytes: u64,
}

/// Bytes of a field that a client chose, beyond which it is cut: a few requests with long fields
/// would otherwise push the lines that matter out of the log.
const FIELD_MAX: usize = 1024;

/// The status, in the log alone, of a request whose client went away before its
/// answer: nginx's number for it.
pub const UNANSWERED: u16 = 499;

impl Drop for Request {
    /// Text looks like an event of tracing's, so that one parser reads the
    /// whole log.
    fn drop(&mut self) {
        let Some(log) = LOG.get().filter(|log| log.requests) else {
            return;
        };
        let now = jiff::Timestamp::now();
        let ms = self.start.elapsed().as_secs_f64() * 1e3;
        let path = self.uri.path_and_query().map_or("*", |p| p.as_str());
        let agent = self.user_agent.as_ref().map_or(&b""[..], |value| value.as_bytes());
        let Request { id, client, method, status, bytes, .. } = self;
        let mut line = String::with_capacity(256);
        let (open, close) = match log.format {
            Format::Text => ("  INFO request ", "\n"),
            Format::Json => (r#"{"timestamp":""#, "}\n"),
        };
        let written = match log.format {
            Format::Text => write!(
                line,
                "{now:.6}{open}id={id:016x} client={client} method={method} path=\"{}\" status={status} bytes={bytes} \
                 ms={ms:.3} user_agent=\"{}\"{close}",
                escape(path.as_bytes()),
                escape(agent),
            ),
            Format::Json => write!(
                line,
                r#"{open}{now:.6}","level":"INFO","message":"request","id":"{id:016x}","client":"{client}","method":"{method}","path":"{}","status":{status},"bytes":{bytes},"ms":{ms:.3},"user_agent":"{}"{close}"#,
                escape(path.as_bytes()),
                escape(agent),
            ),
        };
        written.expect("a String takes every write");
        log.line(line.as_bytes());
    }
}

/// A client's bytes as text that neither ends a line, nor leaves its quotes (in JSON or text), nor
/// controls a terminal. Bytes beyond [`FIELD_MAX`] are left out.
pub fn escape(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(FIELD_MAX)];
    let mut text = String::with_capacity(shown.len());
    for &byte in shown {
        match byte {
            b'"' | b'\\' | 0..0x20 | 0x7f.. => {
                write!(text, "\\u{byte:04x}").expect("a String takes every write");
            }
            _ => text.push(char::from(byte)),
        }
    }
    if shown.len() < bytes.len() {
        text.push_str("...");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped() {
        assert_eq!(escape(b"curl/8.1 (x)"), "curl/8.1 (x)");
        assert_eq!(
            escape(b"a\"b\\c\r\n\x1b[0m\xff"),
            r"a\u0022b\u005cc\u000d\u000a\u001b[0m\u00ff"
        );
        let long = escape(&[0xff; 60_000]);
        assert!(long.len() == 6 * FIELD_MAX + 3 && long.ends_with(r"\u00ff..."), "{}", long.len());
    }
}
