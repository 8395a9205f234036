//! Several ranges in one request, as partial pulls ask for them, beside a single one.

use std::time::Instant;

use anyhow::{Result, ensure};

use crate::bench::{Bench, MB, REPOSITORY};
use crate::client::Connection;
use crate::common;
use crate::report::{Goal, Report, Row, Unit};
use crate::servers::{Program, Server};

/// As many as one request may have.
const RANGES: u64 = 1024;
/// A round of fewer would be too short to be measured.
const FETCHES: usize = 8;

impl Bench {
    /// Many ranges with gaps between them beside one range of as many bytes, of one server.
    pub fn get_ranges(&self, report: &Report) -> Result<()> {
        let program = Program::Registry(common::REGISTRY.into());
        let server = Server::start(&program, &self.folder(), &self.roots[0], None)?;
        let path = format!("/v2/{REPOSITORY}/blobs/{}", self.blob);
        let step = self.options.size * MB / RANGES;
        let length = step - step / 16;
        let range = |number| format!("{}-{}", number * step, number * step + length - 1);
        let many: Vec<String> = (0..RANGES).map(range).collect();
        let asked = [many.join(","), format!("0-{}", RANGES * length - 1)];
        let mut values = [const { Vec::new() }; 2];
        for round in 0..=self.options.rounds {
            for (ranges, values) in asked.iter().zip(&mut values) {
                let header = format!("Range: bytes={ranges}\r\n");
                let mut connection = Connection::open(&server.target)?;
                let begin = Instant::now();
                for _ in 0..FETCHES {
                    let answer = connection.send_body("GET", &path, &header, None, 206)?;
                    ensure!(answer.length >= RANGES * length, "{}", answer.head);
                }
                let bytes = (RANGES * length * FETCHES as u64) as f64;
                if round > 0 {
                    values.push(bytes / begin.elapsed().as_secs_f64());
                }
            }
        }
        let [ours, other] = &values;
        report.row(&Row {
            what: format!("{RANGES} ranges of {} kB, beside one of them all", length / 1000),
            unit: Unit::BytesPerSecond,
            ours,
            other,
            goal: Goal::AtLeast(0.9),
        });
        Ok(())
    }
}
