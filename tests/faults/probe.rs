//! What the fault tests share: a connection driven by hand, starts that must
//! fail, and a look at the server from outside.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{Registry, Reply, SOON};

/// A connection that is kept.
#[derive(Debug)]
pub struct Wire(BufReader<TcpStream>);

impl Wire {
    pub fn new(registry: &Registry) -> Wire {
        Wire(BufReader::new(registry.connect()))
    }

    pub fn stream(&self) -> &TcpStream {
        self.0.get_ref()
    }

    /// Sends bytes as they are. An error is for the reader to meet: a server
    /// may close before it has taken everything.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.0.get_mut().write_all(bytes.as_ref())
    }

    /// The head of a request; `headers` without the last line's end.
    pub fn head(&mut self, method: &str, path: &str, headers: &str) {
        let end = if headers.is_empty() { "" } else { "\r\n" };
        self.send(format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}{end}\r\n"))
            .expect("the registry reads");
    }

    pub fn get(&mut self, path: &str) -> Reply {
        self.head("GET", path, "");
        self.reply().unwrap_or_else(|e| panic!("the answer to GET {path}: {e}"))
    }

    /// Nothing more will be sent, but an answer is waited for.
    pub fn half_close(&self) {
        self.stream().shutdown(Shutdown::Write).expect("an open connection");
    }

    /// The next answer, which must say its length.
    pub fn reply(&mut self) -> io::Result<Reply> {
        let mut bytes = Vec::new();
        let mut length = 0;
        while !bytes.ends_with(b"\r\n\r\n") {
            let start = bytes.len();
            if self.0.read_until(b'\n', &mut bytes)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let line = String::from_utf8_lossy(&bytes[start..]).to_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length");
            }
        }
        let head = bytes.len();
        bytes.resize(head + length, 0);
        self.0.read_exact(&mut bytes[head..])?;
        Reply::parse(&bytes)
    }

    /// What comes until the server closes, which it must do soon.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self.0.read_to_end(&mut bytes) {
            // A close with bytes of ours unread is a reset.
            Err(e) if e.kind() != io::ErrorKind::ConnectionReset => {
                panic!("the connection stays open: {e}")
            }
            _ => bytes,
        }
    }

    /// Whether nothing comes for a while, not even the end.
    pub fn is_silent(&mut self, time: Duration) -> bool {
        self.stream().set_read_timeout(Some(time)).expect("a timeout");
        let silent = matches!(self.0.fill_buf(), Err(e) if e.kind() == io::ErrorKind::WouldBlock);
        self.stream().set_read_timeout(Some(SOON)).expect("a timeout");
        silent
    }
}

/// A field of `/proc/PID/status` in KiB: `VmRSS`, `VmHWM`.
pub fn memory(registry: &Registry, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", registry.pid()))
        .expect("the registry is alive");
    let line = status
        .lines()
        .find(|line| line.starts_with(field))
        .unwrap_or_else(|| panic!("{field} in {status}"));
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number of KiB")
}

/// Fails unless the registry still serves and nothing in it panicked.
pub fn assert_sound(registry: &Registry) {
    assert_eq!(registry.get("/v2/").status, 200);
    let log = registry.log();
    assert!(!log.contains("panicked"), "{log}");
}

/// The entries below a folder that are files, for a store that should hold
/// nothing.
pub fn files(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for entry in entries.map(|entry| entry.expect("an entry")) {
        let path = entry.path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found
}

/// Runs a command that must end soon; gives its exit code, stdout and stderr.
pub fn outcome(mut command: Command) -> (i32, String, String) {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let deadline = Instant::now() + SOON;
    while child.try_wait().expect("a status").is_none() {
        if Instant::now() > deadline {
            child.kill().expect("a running process");
            panic!("{command:?} does not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().expect("its output");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code().expect("no signal ended it"), text(output.stdout), text(output.stderr))
}
