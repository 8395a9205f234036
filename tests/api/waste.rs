//! `registry waste`, and the same over HTTP.

use serde_json::{Value, json};

use crate::cli::{fails, text};
use crate::common::Registry;
use crate::common::tar::Tar;
use crate::files::body;
use crate::find::push;
use crate::support::sha256;

fn base() -> Vec<u8> {
    Tar::default()
        .file("kept", &[1; 1000])
        .file("twice", &[1; 1000])
        .file("replaced", &[2; 600])
        .file("cache/deleted", &[3; 400])
        .finish()
}

fn upper() -> Vec<u8> {
    Tar::default().file("replaced", &[4; 500]).file(".wh.cache", b"").finish()
}

#[test]
fn reports() {
    let registry = Registry::start(&[]);
    let dir = registry.dir.clone();
    push(&registry, "team/app", "1", "linux/amd64", &[base(), upper()]);
    push(&registry, "clean", "1", "linux/amd64", &[upper()]);

    let report = text(&dir, &["waste", "team/app:1", "--json"]);
    let mut report: Value = serde_json::from_str(&report).expect("JSON");
    let layers = report["layers"].take();
    assert_eq!(
        report,
        json!({
            "image": "team/app:1", "size": 3500, "wasted": 1000, "duplicate": 1000,
            "transferred": base().len() + upper().len(),
            "wasted_transferred": 1000, "wasted_percent": 100.0 * (1000.0 / 3500.0),
            // 1000 and 1000, and 500 of 600 and 500.
            "efficiency": 2500.0 / 3500.0,
            "layers": null,
            "paths": [
                {"path": "/replaced", "wasted": 600, "deleted": false,
                 "layers": [sha256(&base()).to_string()]},
                {"path": "/cache/deleted", "wasted": 400, "deleted": true,
                 "layers": [sha256(&base()).to_string()]},
            ],
            "duplicates": [{
                "path": "/kept", "digest": sha256(&[1; 1000]).to_string(), "files": 2,
                "wasted": 1000,
            }],
        })
    );
    assert_eq!((&layers[0]["wasted"], &layers[1]["wasted"]), (&json!(1000), &json!(0)));

    let reply = registry.get("/v2/_query/waste?image=team%2Fapp:1");
    let answer = String::from_utf8(body(&reply)).expect("UTF-8");
    let (line, end) = answer.split_once('\n').expect("two lines");
    let line: Value = serde_json::from_str(line).expect("JSON");
    assert_eq!(line["paths"], report["paths"]);
    assert!(end.contains("\"bound\":null"), "{end}");
    for (query, status) in [
        ("", 200),
        ("platform=linux%2Famd64", 400),
        ("image=nothing:1", 404),
        ("image=team%2Fapp:1&in=x", 400),
        ("image=team%2Fapp:1&platform=linux", 400),
    ] {
        let reply = registry.get(&format!("/v2/_query/waste?{query}"));
        assert_eq!(reply.status, status, "{query}: {}", reply.text());
    }

    let shown = text(&dir, &["waste", "team/app:1"]);
    for part in
        ["efficiency 0.7143", "1.0 kB of 3.5 kB wasted (28.57 %)", "deleted  /cache/deleted"]
    {
        assert!(shown.contains(part), "{shown}");
    }
    let all = text(&dir, &["waste", "--all"]);
    let names: Vec<&str> = all.lines().filter_map(|line| line.split(": ").next()).collect();
    assert_eq!(names, ["team/app:1", "clean:1"], "the worst first");
    let all = text(&dir, &["waste", "--all", "--in", "clean"]);
    assert!(all.starts_with("clean:1: efficiency 1.0000"), "{all}");

    let passes = "min-efficiency=0.7,max-wasted=1kB,max-wasted-percent=29";
    text(&dir, &["waste", "--check", passes, "team/app:1"]);
    for (limit, complaint) in [
        ("min-efficiency=0.75", "its efficiency is 0.7143, less than 0.75"),
        ("max-wasted=999", "it wastes 1000 bytes, more than 999"),
        ("max-wasted-percent=28", "it wastes 28.57 % of its files, more than 28 %"),
    ] {
        let output = fails(&dir, &["waste", "--check", limit, "team/app:1"], 1, complaint);
        assert!(!output.is_empty(), "the report is printed all the same");
    }
    fails(&dir, &["waste", "--check", "max-waste=1", "team/app:1"], 2, "max-wasted");
    fails(&dir, &["waste", "team/app:2"], 2, "team/app");
    fails(&dir, &["waste"], 2, "required");
    fails(&dir, &["waste", "--all", "team/app:1"], 2, "cannot be used");
}
