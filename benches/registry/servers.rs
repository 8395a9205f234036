//! The servers, each as its package starts it but for address and folders.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

use crate::client::Target;
use crate::common;
use crate::tls::Certificate;

/// Debian's package of the same name.
pub const PEER: &str = "docker-registry";

#[derive(Clone, Debug)]
pub enum Program {
    /// A build of `registry`.
    Registry(PathBuf),
    Peer,
}

/// A running server. Dropped, it is killed.
#[derive(Debug)]
pub struct Server {
    pub target: Target,
    process: Child,
}

impl Server {
    /// Starts a server with its log in `dir` and its blobs in `root`.
    pub fn start(
        program: &Program,
        dir: &Path,
        root: &Path,
        tls: Option<&Certificate>,
    ) -> Result<Server> {
        fs::create_dir_all(dir)?;
        let mut command = match program {
            Program::Registry(path) => registry(path, dir, root, tls),
            Program::Peer => peer(dir, root, tls)?,
        };
        // What servers log costs them something, so it is neither switched off
        // nor thrown away.
        let log = dir.join("log");
        let output = File::create(&log)?;
        let process = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {program:?}"))?;
        let mut server = Server {
            target: Target {
                address: SocketAddr::from(([0, 0, 0, 0], 0)),
                tls: tls.map(|tls| tls.client.clone()),
            },
            process,
        };
        common::eventually("the server says where it listens", || {
            let log = fs::read_to_string(&log).unwrap_or_default();
            let address = address(&log);
            server.target.address = address.unwrap_or(server.target.address);
            address.is_some()
        });
        Ok(server)
    }

    /// The most memory the process has had resident, in bytes.
    pub fn peak_memory(&self) -> Result<f64> {
        peak_memory(self.process.id()).context("the kernel says no VmHWM")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Ended already if it failed.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// `None` once the process has ended.
pub fn peak_memory(process: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let mut lines = status.lines();
    let peak = lines.find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix("kB"))?;
    let kib: f64 = peak.trim().parse().ok()?;
    Some(kib * 1024.0)
}

/// The address both say they listen on, once all of it is in the log.
fn address(log: &str) -> Option<SocketAddr> {
    let said = log.split("listening on ").nth(1)?;
    let said = said
        .split_once("//")
        .filter(|(scheme, _)| scheme.len() <= 6)
        .map_or(said, |(_, rest)| rest);
    let end = said.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == ':'))?;
    said[..end].parse().ok()
}

fn registry(path: &Path, dir: &Path, root: &Path, tls: Option<&Certificate>) -> Command {
    let mut command = Command::new(path);
    command.args(["serve", "--port", "0", "--dir"]).arg(dir);
    command.arg("--layers").arg(root);
    if let Some(tls) = tls {
        command.arg("--tls-cert").arg(&tls.cert);
        command.arg("--tls-key").arg(&tls.key);
    }
    command
}

/// With the package's `/etc/docker/registry/config.yml`, less its password.
fn peer(dir: &Path, root: &Path, tls: Option<&Certificate>) -> Result<Command> {
    let root = root.display();
    let tls = tls.map_or_else(String::new, |tls| {
        let (cert, key) = (tls.cert.display(), tls.key.display());
        format!("  tls:\n    certificate: {cert}\n    key: {key}\n")
    });
    let config = format!(
        "version: 0.1
log:
  fields:
    service: registry
storage:
  cache:
    blobdescriptor: inmemory
  filesystem:
    rootdirectory: {root}
  delete:
    enabled: true
http:
  addr: 127.0.0.1:0
  headers:
    X-Content-Type-Options: [nosniff]
{tls}health:
  storagedriver:
    enabled: true
    interval: 10s
    threshold: 3
"
    );
    let path = dir.join("config.yml");
    fs::write(&path, config)?;
    let mut command = Command::new(PEER);
    command.arg("serve").arg(path);
    Ok(command)
}
