//! Pages, beside the limits that they have to keep, and beside the same directory as JSON.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use flate2::Compression;
use flate2::write::GzEncoder;
use tempfile::TempDir;

use crate::bench::{Bench, CLIENTS, text};
use crate::client::{self, Connection, Target};
use crate::common::{Registry, eventually};
use crate::report::{Goal, Report, Row, Unit};
use crate::store::Store;
use crate::tar::{self, Text};

/// Requests of one client of which the median counts.
const REQUESTS: usize = 50;
/// Tags of the large repository.
const TAGS: usize = 50_000;

/// A layer with a directory of 300 entries and one of 10,000.
fn layer() -> Result<Vec<u8>> {
    let mut out = GzEncoder::new(Vec::new(), Compression::fast());
    for (directory, files) in [("usr/lib/some", 300), ("usr/lib/many", 10_000)] {
        tar::directory(&mut out, directory)?;
        for number in 0..files {
            let name = format!("{directory}/library-{number:05}.so.3");
            tar::file(&mut out, &name, 0o644, Text { seed: number, size: number % 500 })?;
        }
    }
    tar::end(&mut out)?;
    Ok(out.finish()?)
}

impl Bench {
    pub fn page(&self, report: &Report) -> Result<()> {
        let temp = TempDir::with_prefix_in("page", &self.options.repositories_dir)?;
        let store = Store::new(temp.path().join("store"))?;
        let image = store.image_of(&[store.layer(&layer()?)?])?;
        store.repository("bench/page", &image, &["1"])?;
        let tags: Vec<String> = (0..TAGS).map(|number| format!("v{number}")).collect();
        let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
        store.repository("bench/tags", &image, &tags)?;
        let dir = self.folder();
        fs::create_dir_all(&dir)?;
        let registry = Registry::start_in(&dir, &["--layers", &text(&store.root)]);
        eventually("the catalog is complete", || registry.get("/v2/_catalog").status == 200);
        let target = Target { address: registry.address, tls: None };

        let page = "/ui/bench/page:1/usr/lib/some/";
        let json = "/v2/bench/page/_files/tree/1/usr/lib/some";
        let time = Duration::from_secs(self.options.seconds);
        let (mut first, mut pages, mut trees) = (Vec::new(), Vec::new(), Vec::new());
        let (mut many, mut large, mut home) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..=self.options.rounds {
            let latency = |path: &str| client::latency(&target, path, REQUESTS);
            let speed = |path: &str| {
                client::requests(&target, &client::request("GET", path), CLIENTS, time)
            };
            let measured = [
                latency(page)?[0],
                speed(page)?,
                speed(json)?,
                latency("/ui/bench/page:1/usr/lib/many/")?[1],
                latency("/ui/bench/tags")?[1],
                latency("/ui/")?[1],
            ];
            let series = [&mut first, &mut pages, &mut trees, &mut many, &mut large, &mut home];
            if round > 0 {
                series.into_iter().zip(measured).for_each(|(series, value)| series.push(value));
            }
        }
        let row = |what: &str, unit, ours: &[f64], other: &[f64], goal| {
            report.row(&Row { what: what.to_owned(), unit, ours, other, goal });
        };
        let limit = Goal::AtMost(1.0);
        row("page of 300 entries, first byte", Unit::Seconds, &first, &[5e-3], limit);
        let what = format!("page of 300 entries, {CLIENTS} clients");
        row(&what, Unit::RequestsPerSecond, &pages, &[2000.0], Goal::AtLeast(1.0));
        row(
            "page of 300 entries beside JSON",
            Unit::RequestsPerSecond,
            &pages,
            &trees,
            Goal::AtLeast(0.5),
        );
        let answer = Connection::open(&target)?.get(page, |_| ())?;
        ensure!(answer.status == 200, "{}", answer.head);
        let bytes = answer.length as f64;
        row("page of 300 entries, bytes", Unit::Bytes, &[bytes], &[60e3], limit);
        row("page of a directory of 10,000", Unit::Seconds, &many, &[20e-3], limit);
        row("repository of 50,000 tags", Unit::Seconds, &large, &[20e-3], limit);
        row("home", Unit::Seconds, &home, &[20e-3], limit);
        Ok(())
    }
}
