//! The load: clients that cost as little as they can, because they run on the
//! cores of the servers they measure, and are the same for every server.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Arc, Barrier, LazyLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use registry::oci::{Algorithm, Digest};
use rustls::ClientConfig;

use crate::common::noise;
use crate::image;
use crate::report::median;
use crate::tls::Tls;

/// One read asks for so much.
const BUFFER: usize = 512 << 10;
/// Silence of a server that ends a measurement. The npm server reads all of an
/// image before it lists a directory of it.
const TIMEOUT: Duration = Duration::from_secs(300);
/// An answer in chunks ends so. In JSON these bytes do not occur, and nothing
/// else is read from connections that know no length.
const LAST_CHUNK: &[u8] = b"\r\n0\r\n\r\n";

/// Longer than the window of any compressor in use.
static NOISE: LazyLock<Vec<u8>> = LazyLock::new(|| noise(1, 16 << 20));

/// The bytes of a blob: the noise again and again, each time with another
/// stamp before it. Never the same for two seeds, and never held.
#[derive(Clone, Copy, Debug)]
pub struct Content {
    pub seed: u64,
    pub size: u64,
}

impl Content {
    pub fn pieces<E>(self, mut take: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let (mut left, mut number) = (self.size, 0u64);
        while left > 0 {
            let stamp = [self.seed.to_le_bytes(), number.to_le_bytes()].concat();
            for piece in [&stamp[..], &NOISE] {
                let length = left.min(piece.len() as u64);
                take(&piece[..length as usize])?;
                left -= length;
            }
            number += 1;
        }
        Ok(())
    }

    pub fn digest(self) -> Digest {
        let mut hasher = Algorithm::Sha256.hasher();
        let Ok(()) = self.pieces(|piece| {
            hasher.update(piece);
            Ok::<_, std::convert::Infallible>(())
        });
        hasher.finish()
    }
}

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub enum Body<'a> {
    Bytes(&'a [u8]),
    Content(Content),
    File { path: &'a Path, size: u64 },
}

impl Body<'_> {
    fn size(&self) -> u64 {
        match self {
            Body::Bytes(bytes) => bytes.len() as u64,
            Body::Content(content) => content.size,
            Body::File { size, .. } => *size,
        }
    }

    fn pieces(self, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        match self {
            Body::Bytes(bytes) => take(bytes),
            Body::Content(content) => content.pieces(take),
            Body::File { path, .. } => image::pieces(path, take),
        }
    }
}

/// Where a server listens, and how to speak to it.
#[derive(Clone, Debug)]
pub struct Target {
    pub address: SocketAddr,
    pub tls: Option<Arc<ClientConfig>>,
}

/// Fetches a blob with so many clients at a time, each all of it, one client
/// alone several times. Gives the bytes a second of all together.
pub fn blob(target: &Target, path: &str, size: u64, clients: usize) -> Result<f64> {
    /// A round of fewer would be too short to be measured.
    const FETCHES: usize = 8;
    let each = FETCHES.div_ceil(clients);
    let start = Barrier::new(clients + 1);
    let fetch = || {
        let connection = Connection::open(target);
        start.wait();
        let mut connection = connection?;
        for _ in 0..each {
            let answer = connection.get(path, |_| ())?;
            ensure!(answer.length == size, "GET {path}: {}", answer.head);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..clients).map(|_| scope.spawn(fetch)).collect();
        let number = (clients.len() * each) as f64;
        start.wait();
        let begin = Instant::now();
        for client in clients {
            client.join().expect("a client does not panic")?;
        }
        Ok(size as f64 * number / begin.elapsed().as_secs_f64())
    })
}

/// Fetches a blob once and looks at every byte of it.
pub fn check_blob(target: &Target, path: &str, digest: &Digest) -> Result<()> {
    let mut hasher = Algorithm::Sha256.hasher();
    Connection::open(target)?.get(path, |piece| hasher.update(piece))?;
    let actual = hasher.finish();
    ensure!(actual == *digest, "GET {path}: the content is {actual}");
    Ok(())
}

/// Fetches a blob and throws it away. Gives the seconds that took, with those of
/// the connection.
pub fn fetch(target: &Target, path: &str, size: u64) -> Result<f64> {
    let begin = Instant::now();
    let answer = Connection::open(target)?.get(path, |_| ())?;
    ensure!(answer.length == size, "GET {path}: {}", answer.head);
    Ok(begin.elapsed().as_secs_f64())
}

/// Fetches a JSON document.
pub fn json(target: &Target, path: &str) -> Result<serde_json::Value> {
    let mut body = Vec::new();
    Connection::open(target)?.get(path, |piece| body.extend_from_slice(piece))?;
    serde_json::from_slice(&body).with_context(|| format!("GET {path}"))
}

/// Fetches the same again and again over one connection. Gives the medians of
/// the seconds to the first byte and to the last.
pub fn latency(target: &Target, path: &str, number: usize) -> Result<[f64; 2]> {
    let mut connection = Connection::open(target)?;
    let mut times = [const { Vec::new() }; 2];
    for _ in 0..number {
        let begin = Instant::now();
        let answer = connection.get(path, |_| ())?;
        times[0].push(answer.first.duration_since(begin).as_secs_f64());
        times[1].push(begin.elapsed().as_secs_f64());
    }
    Ok(times.map(|times| median(&times)))
}

/// Pushes a blob: POST, one PATCH, PUT. Gives the seconds that took.
pub fn push(target: &Target, repository: &str, content: Content) -> Result<f64> {
    push_blob(target, repository, &content.digest(), Body::Content(content))
}

/// The same for a blob whose digest is known.
pub fn push_blob(target: &Target, repository: &str, digest: &Digest, body: Body) -> Result<f64> {
    let mut connection = Connection::open(target)?;
    let begin = Instant::now();
    let start = format!("/v2/{repository}/blobs/uploads/");
    let answer = connection.send_body("POST", &start, "", None, 202)?;
    let answer = connection.send_body("PATCH", &answer.location()?, "", Some(body), 202)?;
    let location = answer.location()?;
    let and = if location.contains('?') { '&' } else { '?' };
    let end = format!("{location}{and}digest={digest}");
    connection.send_body("PUT", &end, "", None, 201)?;
    Ok(begin.elapsed().as_secs_f64())
}

/// Sends the same request on so many connections again and again. Gives the
/// answers a second of all together.
///
/// One thread goes round the connections: takes the answer, sends the next
/// request. Two system calls a request and no waiting for readiness; the server
/// has a request of every other connection before it. A request costs less than
/// one of wrk's, which waits for the body that an answer to HEAD does not have.
pub fn requests(target: &Target, request: &str, clients: usize, time: Duration) -> Result<f64> {
    let mut connections =
        (0..clients).map(|_| Repeated::open(target, request)).collect::<Result<Vec<_>>>()?;
    let begin = Instant::now();
    for connection in &mut connections {
        connection.send()?;
    }
    let mut answers = 0;
    while begin.elapsed() < time {
        for connection in &mut connections {
            connection.receive()?;
            connection.send()?;
        }
        answers += clients;
    }
    for connection in &mut connections {
        connection.receive()?;
    }
    Ok((answers + clients) as f64 / begin.elapsed().as_secs_f64())
}

/// A connection that asks for one thing again and again. Every answer must have
/// the status of the first, and its length if the first had one.
struct Repeated<'a> {
    stream: TcpStream,
    request: &'a [u8],
    buffer: Vec<u8>,
    length: Option<usize>,
}

impl<'a> Repeated<'a> {
    fn open(target: &Target, request: &'a str) -> Result<Repeated<'a>> {
        let mut connection = Connection::open(target)?;
        connection.send(request.as_bytes())?;
        let answer = connection.answer(!request.starts_with("HEAD "), |_| ())?;
        ensure!(answer.status == 200, "{request}: {}", answer.head);
        let body = if request.starts_with("HEAD ") { 0 } else { answer.length };
        let length = answer.head.len() + body as usize;
        Ok(Repeated {
            stream: connection.stream,
            request: request.as_bytes(),
            // One in chunks may come in more of them another time.
            buffer: vec![0; if answer.chunked { 2 * length } else { length }],
            length: (!answer.chunked).then_some(length),
        })
    }

    fn send(&mut self) -> io::Result<()> {
        self.stream.write_all(self.request)
    }

    fn receive(&mut self) -> Result<()> {
        match self.length {
            Some(length) => self.stream.read_exact(&mut self.buffer[..length])?,
            None => {
                let mut end = 0;
                while !self.buffer[..end].ends_with(LAST_CHUNK) {
                    let n = self.stream.read(&mut self.buffer[end..])?;
                    ensure!(n > 0, "an answer without end, or twice as long");
                    end += n;
                }
            }
        }
        ensure!(self.buffer.starts_with(b"HTTP/1.1 200 "), "another answer than the first");
        Ok(())
    }
}

/// A connection for one request at a time.
pub struct Connection {
    stream: TcpStream,
    tls: Option<Tls>,
    buffer: Vec<u8>,
}

/// The head of an answer, and how many bytes followed it.
pub struct Answer {
    pub status: u16,
    pub head: String,
    /// With what marks the chunks.
    pub length: u64,
    pub chunked: bool,
    /// When it began to come.
    pub first: Instant,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
    }

    /// Path and query of where to go on.
    fn location(&self) -> Result<String> {
        let location = self.header("location").context("an answer without Location")?;
        let path = match location.split_once("://") {
            Some((_, rest)) => &rest[rest.find('/').unwrap_or(rest.len())..],
            None => location,
        };
        Ok(path.to_owned())
    }
}

impl Connection {
    pub fn open(target: &Target) -> Result<Connection> {
        let mut stream = TcpStream::connect(target.address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        let tls = match &target.tls {
            Some(config) => Some(Tls::handshake(Arc::clone(config), &mut stream)?),
            None => None,
        };
        let buffer = vec![0; BUFFER];
        Ok(Connection { stream, tls, buffer })
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.tls {
            Some(tls) => tls.send(&mut self.stream, bytes),
            None => Ok(self.stream.write_all(bytes)?),
        }
    }

    /// Waits for bytes and hands them over.
    fn receive(&mut self, mut take: impl FnMut(&[u8])) -> Result<()> {
        match &mut self.tls {
            Some(tls) => tls.receive(&mut self.stream, take),
            None => {
                let n = self.stream.read(&mut self.buffer)?;
                ensure!(n > 0, "the server closed the connection");
                take(&self.buffer[..n]);
                Ok(())
            }
        }
    }

    pub fn get(&mut self, path: &str, body: impl FnMut(&[u8])) -> Result<Answer> {
        self.send(request("GET", path).as_bytes())?;
        let answer = self.answer(true, body)?;
        ensure!(answer.status == 200, "GET {path}: {}", answer.head);
        Ok(answer)
    }

    /// `headers` are lines, each with its end.
    pub fn send_body(
        &mut self,
        method: &str,
        path: &str,
        headers: &str,
        body: Option<Body>,
        status: u16,
    ) -> Result<Answer> {
        let length = body.map_or(0, |body| body.size());
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\
             Content-Type: application/octet-stream\r\n{headers}\r\n"
        );
        self.send(head.as_bytes())?;
        if let Some(body) = body {
            body.pieces(|piece| self.send(piece))?;
        }
        let answer = self.answer(true, |_| ())?;
        ensure!(answer.status == status, "{method} {path}: {}", answer.head);
        Ok(answer)
    }

    /// Takes an answer, its body piece by piece; one in chunks once it is whole.
    fn answer(&mut self, has_body: bool, mut body: impl FnMut(&[u8])) -> Result<Answer> {
        const HEAD_MAX: usize = 64 << 10;
        let mut head = Vec::new();
        let (mut first, mut end) = (None, None);
        while end.is_none() {
            self.receive(|piece| head.extend_from_slice(piece))?;
            first.get_or_insert_with(Instant::now);
            end = head.windows(4).position(|w| w == b"\r\n\r\n");
            if end.is_none() && head.len() > HEAD_MAX {
                bail!("an answer without end of its head");
            }
        }
        let mut rest = head.split_off(end.context("found above")? + 4);
        let mut answer = Answer {
            status: 0,
            head: String::from_utf8(head)?,
            length: 0,
            chunked: false,
            first: first.context("set above")?,
        };
        answer.status = answer
            .head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .with_context(|| format!("no status in {:?}", answer.head))?;
        answer.chunked = answer.header("transfer-encoding") == Some("chunked");
        answer.length = match answer.header("content-length") {
            Some(length) => length.parse()?,
            None => 0,
        };
        if has_body && answer.chunked {
            // An empty one has no chunk before the last.
            while !rest.ends_with(LAST_CHUNK) && rest != LAST_CHUNK[2..] {
                self.receive(|piece| rest.extend_from_slice(piece))?;
            }
            answer.length = rest.len() as u64;
            chunks(&rest, body).context("broken chunks")?;
        } else if has_body {
            let mut received = rest.len() as u64;
            body(&rest);
            while received < answer.length {
                self.receive(|piece| {
                    received += piece.len() as u64;
                    body(piece);
                })?;
            }
            ensure!(received == answer.length, "more bytes than Content-Length says");
        }
        Ok(answer)
    }
}

/// Hands over what is in the chunks; `None` if they are none.
fn chunks(mut bytes: &[u8], mut body: impl FnMut(&[u8])) -> Option<()> {
    loop {
        let end = bytes.windows(2).position(|w| w == b"\r\n")?;
        let size = std::str::from_utf8(&bytes[..end]).ok()?;
        let size = usize::from_str_radix(size, 16).ok()?;
        if size == 0 {
            return Some(());
        }
        body(bytes.get(end + 2..end + 2 + size)?);
        bytes = bytes.get(end + 2 + size + 2..)?;
    }
}

/// A request without a body.
pub fn request(method: &str, path: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bench\r\nAccept: {}\r\n\r\n",
        crate::common::OCI_MANIFEST
    )
}
