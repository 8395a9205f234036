//! Docker's v1 API: a push beside docker-registry-server, whose only API it is, and
//! a pull beside that of a blob by v2.

use std::fs;
use std::process::Command;
use std::time::Instant;

use anyhow::Result;
use registry::oci::Algorithm;
use serde_json::json;

use crate::bench::{Bench, MB, REPOSITORY};
use crate::client::{self, Body, Connection, Content, Target};
use crate::common;
use crate::npm::Npm;
use crate::report::{Goal, Report, Row, Unit};
use crate::servers::{Program, Server};
use crate::store::Store;

/// The layer that is pushed.
const LAYER: u64 = 300 * MB;

impl Bench {
    /// JSON, layer and checksum of an image that is new every time.
    pub fn v1_push(&self, report: &Report) -> Result<()> {
        let (dir, npm_dir) = (self.folder(), self.folder());
        let store = Store::new(self.folder())?;
        let program = Program::Registry(common::REGISTRY.into());
        let server = Server::start(&program, &dir, &store.root, None)?;
        let npm = Npm::start(&self.options.dir.join("npm"), &npm_dir)?;
        let mut values = [const { Vec::new() }; 2];
        for round in 0..=self.options.rounds {
            for (target, values) in [&server.target, &npm.target].iter().zip(&mut values) {
                // Else this push waits for the blocks of the one before.
                common::run(&mut Command::new("sync"));
                let seed = u64::from(round) + 1;
                let value = push(target, Content { seed, size: LAYER })?.1;
                if round > 0 {
                    values.push(value);
                }
            }
        }
        let peaks = [server.peak_memory()?];
        drop((server, npm));
        fs::remove_dir_all(&store.root)?;
        fs::remove_dir_all(npm_dir)?;
        let [ours, other] = &values;
        report.row(&Row {
            what: format!("v1 push of {} MB, beside npm's", LAYER / MB),
            unit: Unit::Seconds,
            ours,
            other,
            goal: Goal::AtMost(0.5),
        });
        report.row(&Row {
            what: "peak memory: v1 push, beside the limit".to_owned(),
            unit: Unit::Bytes,
            ours: &peaks,
            other: &[64.0 * MB as f64],
            goal: Goal::AtMost(1.0),
        });
        Ok(())
    }

    /// A layer by v1 beside a blob of the same size by v2, of one server.
    pub fn v1_pull(&self, report: &Report) -> Result<()> {
        let size = self.options.size * MB;
        let program = Program::Registry(common::REGISTRY.into());
        let server = Server::start(&program, &self.folder(), &self.roots[0], None)?;
        let (id, _) = push(&server.target, Content { seed: 1, size })?;
        let paths =
            [format!("/v1/images/{id}/layer"), format!("/v2/{REPOSITORY}/blobs/{}", self.blob)];
        let mut values = [const { Vec::new() }; 2];
        for round in 0..=self.options.rounds {
            for (path, values) in paths.iter().zip(&mut values) {
                let value = client::blob(&server.target, path, size, 1)?;
                if round > 0 {
                    values.push(value);
                }
            }
        }
        let [ours, other] = &values;
        report.row(&Row {
            what: format!("v1 layer GET, {} MB, beside v2's", self.options.size),
            unit: Unit::BytesPerSecond,
            ours,
            other,
            goal: Goal::AtLeast(0.95),
        });
        Ok(())
    }
}

/// Pushes an image as Docker 1 does; gives its id and the seconds that took.
fn push(target: &Target, layer: Content) -> Result<(String, f64)> {
    let id = layer.digest().hex();
    let json = json!({"id": id}).to_string();
    let mut hasher = Algorithm::Sha256.hasher();
    hasher.update(json.as_bytes());
    hasher.update(b"\n");
    let Ok(()) = layer.pieces(|piece| {
        hasher.update(piece);
        Ok::<_, std::convert::Infallible>(())
    });
    let checksum = format!("X-Docker-Checksum-Payload: {}\r\n", hasher.finish());
    let path = |part: &str| format!("/v1/images/{id}/{part}");
    let mut connection = Connection::open(target)?;
    let begin = Instant::now();
    let body = Some(Body::Bytes(json.as_bytes()));
    connection.send_body("PUT", &path("json"), "", body, 200)?;
    connection.send_body("PUT", &path("layer"), "", Some(Body::Content(layer)), 200)?;
    connection.send_body("PUT", &path("checksum"), &checksum, None, 200)?;
    Ok((id.clone(), begin.elapsed().as_secs_f64()))
}
