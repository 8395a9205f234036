//! Logging. Every line, the access log's included, goes through one buffer, which a thread writes to
//! stderr. So no request waits for a slow terminal or pipe. If the reader of stderr falls behind by
//! more than the buffer, lines are dropped, and the log says how many.

use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use clap::ValueEnum;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::terminal;

/// The size of the buffer, in bytes of lines.
const BUFFER_MAX: usize = 4 << 20;
/// How long the program waits for a reader of stderr before it ends.
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
    /// The thread is writing the lines that it took out of `lines`.
    busy: bool,
}

static LOG: OnceLock<Log> = OnceLock::new();

/// Starts logging. This has to be called once, before anything is logged.
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

/// Waits until all lines are written, at most [`FLUSH`]. Call this before the program ends.
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
        // There is no place to report that stderr is closed.
        drop(stderr.write_all(&lines));
        lines.clear();
        drop(stderr);
        if dropped > 0 {
            tracing::warn!(lines = dropped, "log lines were dropped: stderr is read too slowly");
        }
    }
}

/// Receives each event of `tracing` as one line.
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

/// A client's address. Its port is unknown if a proxy reports the address alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    pub ip: IpAddr,
    pub port: Option<u16>,
}

impl From<SocketAddr> for Client {
    fn from(address: SocketAddr) -> Client {
        Client { ip: address.ip().to_canonical(), port: Some(address.port()) }
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.ip, port).fmt(f),
            None => self.ip.fmt(f),
        }
    }
}

/// One request in the access log. The line is written when this is dropped, so that each request has
/// exactly one line, however it ends.
#[derive(Debug)]
pub struct Request {
    pub id: u64,
    pub client: Client,
    pub method: hyper::Method,
    pub uri: hyper::Uri,
    pub user_agent: Option<hyper::header::HeaderValue>,
    pub start: Instant,
    /// The status of the answer; [`UNANSWERED`] before there is one.
    pub status: u16,
    /// The number of bytes of the body that were sent.
    pub bytes: u64,
}

/// The length in bytes beyond which a client's field is cut. A few requests with long fields would
/// otherwise push the lines that matter out of the log.
const FIELD_MAX: usize = 1024;

/// The status in the log of a request whose client went away before the answer. nginx uses the same
/// number.
pub const UNANSWERED: u16 = 499;

impl Drop for Request {
    /// Writes a line that looks like an event of `tracing`, so that one parser can read the whole log.
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

/// Returns a client's bytes as text that cannot end a line, leave its quotes (in JSON or text), or
/// control a terminal. Bytes beyond [`FIELD_MAX`] are left out.
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
