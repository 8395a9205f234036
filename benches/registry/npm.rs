//! docker-registry-server, the npm package that lists and reads files of images
//! by the same paths, and the client's part of a push to it.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Result, ensure};
use registry::oci::Algorithm;
use serde_json::json;

use crate::client::{Body, Connection, Target};
use crate::common::{eventually, need, run, send_to};
use crate::image::{Image, pieces};

/// Its leveldown does not build for any Node.js of today. A later one has the
/// same functions and comes built.
const PACKAGE: &str = r#"{
  "private": true,
  "dependencies": {"docker-registry-server": "2.2.0"},
  "overrides": {"leveldown": "5.6.0"}
}
"#;
/// What else it needs that later Node.js does not have.
const SHIM: &str = "process.EventEmitter = require('events')\n";

/// A running server. Dropped, it is killed.
#[derive(Debug)]
pub struct Npm {
    pub target: Target,
    process: Child,
}

impl Npm {
    /// Starts a server that keeps all in `dir`. Its program is in `packages`,
    /// once it was installed.
    pub fn start(packages: &Path, dir: &Path) -> Result<Npm> {
        install(packages)?;
        // It ends when this is missing.
        fs::create_dir_all(dir.join("db"))?;
        // It takes no port 0.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, listener.local_addr()?.port()));
        drop(listener);
        let output = dir.join("log");
        let log = File::create(&output)?;
        let process = Command::new("node")
            .args(["--require", "./shim.js"])
            .arg("node_modules/docker-registry-server/bin.js")
            .arg("--dir")
            .arg(dir)
            .arg("--port")
            .arg(address.port().to_string())
            .current_dir(packages)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let target = Target { address, tls: None };
        let server = Npm { target, process };
        eventually("the npm server says that it listens", || {
            fs::read_to_string(&output).is_ok_and(|log| log.contains("listening on port"))
        });
        Ok(server)
    }

    /// Pushes an image as Docker 1 does; gives the id of its last layer.
    pub fn push(&self, image: &Image, repository: &str, tag: &str) -> Result<String> {
        let mut parent = String::new();
        for layer in &image.layers {
            let id = layer.digest.hex();
            let config = if parent.is_empty() {
                json!({"id": id})
            } else {
                json!({"id": id, "parent": parent})
            }
            .to_string();
            self.put(&format!("/v1/images/{id}/json"), &[], config.as_bytes())?;
            let body = Body::File { path: &layer.path, size: layer.size };
            let path = format!("/v1/images/{id}/layer");
            Connection::open(&self.target)?.send_body("PUT", &path, "", Some(body), 200)?;
            let mut hasher = Algorithm::Sha256.hasher();
            hasher.update(config.as_bytes());
            hasher.update(b"\n");
            pieces(&layer.path, |piece| {
                hasher.update(piece);
                Ok(())
            })?;
            let checksum = hasher.finish().to_string();
            let header = [("X-Docker-Checksum-Payload", checksum.as_str())];
            self.put(&format!("/v1/images/{id}/checksum"), &header, b"")?;
            parent = id;
        }
        let path = format!("/v1/repositories/{repository}/tags/{tag}");
        self.put(&path, &[], json!(parent).to_string().as_bytes())?;
        Ok(parent)
    }

    fn put(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<()> {
        let reply = send_to(self.target.address, "PUT", path, headers, body)?;
        ensure!(reply.status == 200, "PUT {path}: {}", reply.text());
        Ok(())
    }
}

impl Drop for Npm {
    fn drop(&mut self) {
        // Ended already if it failed.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn install(packages: &Path) -> Result<()> {
    need("npm", "npm");
    let package = packages.join("package.json");
    let complete = packages.join("shim.js");
    if !complete.exists() {
        fs::create_dir_all(packages)?;
        fs::write(package, PACKAGE)?;
        let mut npm = Command::new("npm");
        npm.args(["install", "--ignore-scripts", "--no-audit", "--no-fund"]);
        run(npm.current_dir(packages));
        fs::write(complete, SHIM)?;
    }
    Ok(())
}
