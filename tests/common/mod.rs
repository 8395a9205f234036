//! What the tests share: a running `registry`, a plain HTTP/1.1 client that
//! shows exactly what is on the wire, and small images.

#![allow(dead_code, reason = "every test program uses its own part of this")]

pub mod engine;
pub mod home;
pub mod mount;
pub mod side;
pub mod tar;
pub mod tree;

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use registry::oci::{Algorithm, Digest};
use serde_json::{Value, json};
use tempfile::TempDir;

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub const OCI_EMPTY: &str = "application/vnd.oci.empty.v1+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// The program under test.
pub const REGISTRY: &str = env!("CARGO_BIN_EXE_registry");

/// Longest wait for anything that should come at once.
pub const SOON: Duration = Duration::from_secs(30);

/// A running `registry serve`. Dropped, it is killed.
pub struct Registry {
    pub dir: PathBuf,
    pub address: SocketAddr,
    /// What it printed when it was ready.
    pub ready: String,
    /// Sent with every request that has no `Authorization` of its own.
    pub authorization: Option<String>,
    child: Child,
    _temp: Option<TempDir>,
}

impl Registry {
    /// Starts a registry in a folder of its own, on a free port.
    pub fn start(arguments: &[&str]) -> Registry {
        let temp = TempDir::new().expect("a temporary folder");
        let dir = temp.path().to_owned();
        let mut registry = Registry::start_in(&dir, arguments);
        registry._temp = Some(temp);
        registry
    }

    /// Starts a registry on a folder that outlives it.
    pub fn start_in(dir: &Path, arguments: &[&str]) -> Registry {
        Registry::spawn(dir, Registry::command(dir, arguments))
    }

    /// Starts a registry by a command of the test's own, which serves `dir`.
    pub fn spawn(dir: &Path, mut command: Command) -> Registry {
        let log =
            File::options().create(true).append(true).open(dir.join("log")).expect("the log file");
        let mut child =
            command.stdout(Stdio::piped()).stderr(log).spawn().expect("the registry starts");
        let mut ready = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        stdout.read_line(&mut ready).expect("the ready line");
        let log = fs::read_to_string(dir.join("log")).unwrap_or_default();
        let address = ready
            .split("//")
            .nth(1)
            .unwrap_or_else(|| panic!("no ready line but {ready:?}; log:\n{log}"));
        let end = address
            .find(|c: char| !(c.is_ascii_digit() || c == '.' || c == ':'))
            .expect("text follows");
        let address = address[..end].parse().expect("an address");
        Registry { dir: dir.to_owned(), address, ready, authorization: None, child, _temp: None }
    }

    /// `registry serve` on a free port, not yet started.
    pub fn command(dir: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(REGISTRY);
        command
            .arg("serve")
            .arg("--dir")
            .arg(dir)
            .args(["--port", "0"])
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `127.0.0.1:PORT`, as it stands in image references.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).expect("the log file")
    }

    /// Where the blobs lie, unless `--layers` says otherwise.
    pub fn store(&self) -> PathBuf {
        self.dir.join("layers/docker/registry/v2")
    }

    pub fn signal(&self, signal: &str) {
        run(Command::new("kill").args([&format!("-{signal}"), &self.pid().to_string()]));
    }

    pub fn kill(&mut self) {
        self.child.kill().expect("a running registry");
        self.child.wait().expect("its end");
    }

    /// Starts it again on the same folder, after its end.
    pub fn start_again(&mut self, arguments: &[&str]) {
        let temp = self._temp.take();
        *self = Registry::start_in(&self.dir.clone(), arguments);
        self._temp = temp;
    }

    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + SOON;
        loop {
            match self.child.try_wait().expect("a status") {
                Some(status) => return status,
                None if Instant::now() > deadline => {
                    panic!("the registry does not end; log:\n{}", self.log())
                }
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    /// SIGTERM, and the end.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.wait()
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("the registry listens");
        stream.set_read_timeout(Some(SOON)).expect("a timeout");
        stream.set_write_timeout(Some(SOON)).expect("a timeout");
        stream
    }

    /// Sends one request on a connection of its own.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        self.try_send(method, path, headers, body)
            .unwrap_or_else(|e| panic!("{method} {path}: {e}"))
    }

    /// The same for a server that may be killed meanwhile.
    pub fn try_send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Reply> {
        let mut headers = headers.to_vec();
        let own = |(name, _): &(&str, &str)| name.eq_ignore_ascii_case("authorization");
        if let Some(authorization) = &self.authorization
            && !headers.iter().any(own)
        {
            headers.push(("Authorization", authorization));
        }
        send_to(self.address, method, path, &headers, body)
    }

    pub fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], b"")
    }

    pub fn head(&self, path: &str) -> Reply {
        self.send("HEAD", path, &[], b"")
    }

    pub fn delete(&self, path: &str) -> Reply {
        self.send("DELETE", path, &[], b"")
    }

    /// Starts an upload; gives its location.
    pub fn start_upload(&self, repository: &str) -> String {
        let reply = self.send("POST", &format!("/v2/{repository}/blobs/uploads/"), &[], b"");
        assert_eq!(reply.status, 202, "{}", reply.text());
        reply.header("location").expect("a location").to_owned()
    }

    /// Pushes a blob in one request.
    pub fn push_blob(&self, repository: &str, bytes: &[u8]) -> Digest {
        let digest = Algorithm::Sha256.digest(bytes);
        let path = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
        let reply = self.send("POST", &path, &[], bytes);
        assert_eq!(reply.status, 201, "{}", reply.text());
        digest
    }

    pub fn push_manifest(
        &self,
        repository: &str,
        reference: &str,
        media_type: &str,
        manifest: &[u8],
    ) -> Reply {
        let path = format!("/v2/{repository}/manifests/{reference}");
        self.send("PUT", &path, &[("Content-Type", media_type)], manifest)
    }

    /// Pushes an image of one layer, different for every `seed`; gives the
    /// digest of its manifest.
    pub fn push_image(&self, repository: &str, tag: &str, seed: &str) -> Digest {
        let config = self.push_blob(repository, format!(r#"{{"seed":"{seed}"}}"#).as_bytes());
        let layer = self.push_blob(repository, seed.as_bytes());
        let manifest = image_manifest(
            &descriptor(OCI_CONFIG, &config, 11 + seed.len()),
            &[descriptor(OCI_LAYER, &layer, seed.len())],
        );
        let reply = self.push_manifest(repository, tag, OCI_MANIFEST, manifest.as_bytes());
        assert_eq!(reply.status, 201, "{}", reply.text());
        Algorithm::Sha256.digest(manifest.as_bytes())
    }

    /// Pushes a manifest of blobs: their media types, contents and titles. `more` is added to the
    /// manifest.
    pub fn push_artifact(
        &self,
        repository: &str,
        tag: &str,
        config: (&str, &str),
        blobs: &[(&str, &str, Option<&str>)],
        more: Value,
    ) -> Digest {
        let blob = |kind: &str, content: &str| {
            descriptor(kind, &self.push_blob(repository, content.as_bytes()), content.len())
        };
        let layers = blobs.iter().map(|(kind, content, title)| {
            let mut layer = blob(kind, content);
            if let Some(title) = title {
                layer["annotations"] = json!({"org.opencontainers.image.title": title});
            }
            layer
        });
        let mut manifest = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": blob(config.0, config.1), "layers": layers.collect::<Vec<_>>()});
        if let Value::Object(more) = more {
            manifest.as_object_mut().expect("an object").extend(more);
        }
        let text = manifest.to_string();
        let reply = self.push_manifest(repository, tag, OCI_MANIFEST, text.as_bytes());
        assert_eq!(reply.status, 201, "{}", reply.text());
        Algorithm::Sha256.digest(text.as_bytes())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // Ended already, in the tests that end it.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Sends one request on a connection of its own, to any server.
pub fn send_to(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<Reply> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(SOON))?;
    stream.set_write_timeout(Some(SOON))?;
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    let chunked = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("transfer-encoding"));
    let bodiless = body.is_empty() && matches!(method, "GET" | "HEAD" | "DELETE");
    if !chunked && !bodiless {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    if chunked {
        // Two chunks, so that more than one is seen to work.
        for piece in body.chunks(body.len().div_ceil(2).max(1)) {
            stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes())?;
            stream.write_all(piece)?;
            stream.write_all(b"\r\n")?;
        }
        stream.write_all(b"0\r\n\r\n")?;
    } else {
        stream.write_all(body)?;
    }
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    Reply::parse(&bytes)
}

pub fn descriptor(media_type: &str, digest: &Digest, size: usize) -> Value {
    json!({"mediaType": media_type, "digest": digest.to_string(), "size": size})
}

pub fn image_manifest(config: &Value, layers: &[Value]) -> String {
    json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers})
        .to_string()
}

/// An answer, as it came.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn parse(bytes: &[u8]) -> io::Result<Reply> {
        let broken = || io::Error::new(io::ErrorKind::UnexpectedEof, "the answer broke off");
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").ok_or_else(broken)?;
        let head = std::str::from_utf8(&bytes[..end]).expect("an ASCII head");
        let body = bytes[end + 4..].to_vec();
        let mut lines = head.split("\r\n");
        let status: u16 = lines
            .next()
            .and_then(|l| l.split(' ').nth(1))
            .and_then(|s| s.parse().ok())
            .expect("a status");
        if status == 100 {
            return Reply::parse(&body);
        }
        let headers = lines
            .filter_map(|l| l.split_once(": "))
            .map(|(k, v)| (k.to_lowercase(), v.to_owned()))
            .collect();
        let reply = Reply { status, headers, body };
        let length: Option<usize> =
            reply.header("content-length").map(|n| n.parse().expect("a length"));
        match length {
            Some(length) if !reply.body.is_empty() && reply.body.len() < length => Err(broken()),
            _ => Ok(reply),
        }
    }

    /// The value of a header that comes at most once.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values =
            self.headers.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let value = values.next();
        assert_eq!(values.next(), None, "{name} comes twice");
        value
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e} in {:?}", self.text()))
    }

    /// The code of the one error, in the OCI form.
    pub fn code(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/json"), "{}", self.text());
        self.json()["errors"][0]["code"].as_str().expect("a code").to_owned()
    }
}

/// Runs a command that must succeed.
pub fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let [stdout, stderr] =
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    assert!(output.status.success(), "{command:?}: {}\n{stdout}\n{stderr}", output.status);
    output
}

/// Fails with what to install when a program of a Debian package is missing.
pub fn need(program: &str, package: &str) {
    let found = std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
    });
    assert!(
        found,
        "{program} is missing: run `apt-get install {package}`, or `make deps` for all there is to install"
    );
}

/// Waits until something holds.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < deadline, "still not so: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Bytes that no compressor shrinks, the same for the same seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        // xorshift64*
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
