//! What was measured, as a table or as JSON lines.

use std::fs;
use std::process::Command;

use serde_json::json;

use crate::common::REGISTRY;
use crate::servers::PEER;

/// What a ratio, ours to the other's, should be.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

impl Goal {
    fn met(self, ratio: f64) -> bool {
        match self {
            Goal::AtLeast(bound) => ratio >= bound,
            Goal::AtMost(bound) => ratio <= bound,
        }
    }
}

impl std::fmt::Display for Goal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Goal::AtLeast(bound) => write!(f, ">= {}", digits(*bound, *bound)),
            Goal::AtMost(bound) => write!(f, "<= {}", digits(*bound, *bound)),
        }
    }
}

/// A ratio, as exact as the bound it is held against.
fn digits(ratio: f64, bound: f64) -> String {
    let digits = if bound < 0.1 { 4 } else { 2 };
    format!("{ratio:.digits$}")
}

#[derive(Clone, Copy, Debug)]
pub enum Unit {
    BytesPerSecond,
    RequestsPerSecond,
    Seconds,
    Bytes,
    Number,
}

impl Unit {
    fn show(self, value: f64) -> String {
        match self {
            Unit::BytesPerSecond => format!("{:.2} GB/s", value / 1e9),
            Unit::RequestsPerSecond => format!("{value:.0} /s"),
            Unit::Seconds if value < 1e-3 => format!("{:.0} µs", value * 1e6),
            Unit::Seconds if value < 1.0 => format!("{:.1} ms", value * 1e3),
            Unit::Seconds => format!("{value:.2} s"),
            Unit::Bytes if value < 1e3 => format!("{value:.0} B"),
            Unit::Bytes => format!("{:.1} MB", value / 1e6),
            Unit::Number => format!("{value:.0}"),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Unit::BytesPerSecond => "bytes/s",
            Unit::RequestsPerSecond => "requests/s",
            Unit::Seconds => "s",
            Unit::Bytes => "bytes",
            Unit::Number => "",
        }
    }
}

/// One number, of ours and of what it is compared with.
#[derive(Debug)]
pub struct Row<'a> {
    pub what: String,
    pub unit: Unit,
    /// A value a round.
    pub ours: &'a [f64],
    pub other: &'a [f64],
    pub goal: Goal,
}

/// Prints rows as they come.
#[derive(Debug)]
pub struct Report {
    json: bool,
}

impl Report {
    /// Says first on what machine, and with which programs.
    pub fn start(json: bool) -> Report {
        let facts = facts();
        if json {
            let facts: serde_json::Map<_, _> =
                facts.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect();
            println!("{}", json!({ "facts": facts }));
        } else {
            for (key, value) in facts {
                println!("{key}: {value}");
            }
            println!(
                "\n{:<54} {:>12} {:>12} {:>7} {:>9}  met",
                "", "ours", "beside", "ratio", "target"
            );
        }
        Report { json }
    }

    pub fn row(&self, row: &Row) {
        let (ours, other) = (median(row.ours), median(row.other));
        let ratio = ours / other;
        let met = row.goal.met(ratio);
        let (Goal::AtLeast(bound) | Goal::AtMost(bound)) = row.goal;
        if self.json {
            let line = json!({
                "what": row.what,
                "unit": row.unit.name(),
                "ours": ours,
                "beside": other,
                "ratio": ratio,
                "target": row.goal.to_string(),
                "met": met,
                "ours_rounds": row.ours,
                "beside_rounds": row.other,
            });
            println!("{line}");
        } else {
            println!(
                "{:<54} {:>12} {:>12} {:>7} {:>9}  {}",
                row.what,
                row.unit.show(ours),
                row.unit.show(other),
                digits(ratio, bound),
                row.goal.to_string(),
                if met { "yes" } else { "NO" },
            );
        }
    }
}

/// The middle value.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) {
        (sorted[middle - 1] + sorted[middle]) / 2.0
    } else {
        sorted[middle]
    }
}

fn facts() -> Vec<(&'static str, String)> {
    let field = |file: &str, name: &str| {
        let text = fs::read_to_string(file).ok()?;
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let unknown = || "unknown".to_owned();
    let cores = std::thread::available_parallelism().map_or_else(|_| unknown(), |n| n.to_string());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease");
    vec![
        ("date", jiff::Timestamp::now().strftime("%F %H:%M UTC").to_string()),
        ("commit", output("git", &["describe", "--always", "--dirty"]).unwrap_or_else(unknown)),
        ("ours", output(REGISTRY, &["--version"]).unwrap_or_else(unknown)),
        ("peer", output(PEER, &["--version"]).unwrap_or_else(unknown)),
        ("cpu", field("/proc/cpuinfo", "model name").unwrap_or_else(unknown)),
        ("cores", cores),
        ("memory", field("/proc/meminfo", "MemTotal").unwrap_or_else(unknown)),
        ("kernel", kernel.map_or_else(|_| unknown(), |text| text.trim().to_owned())),
    ]
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}
