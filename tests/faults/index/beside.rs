//! Several processes that want the same layers indexed: with a server, which
//! does it for all, and without one, where they take turns.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use tempfile::TempDir;

use super::{command, copies, five_files, gzip, listed, outcome, push, zstd};
use crate::common::{Registry, noise};
use crate::probe::assert_sound;

const PROCESSES: usize = 4;
/// Of each command, while the index is removed again and again.
const RUNS: usize = 15;

/// What each of several processes says that run at a time.
fn together(dir: &Path, arguments: &[&str]) -> Vec<(i32, Value)> {
    let children: Vec<_> = (0..PROCESSES)
        .map(|_| {
            command(dir, arguments)
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("it starts")
        })
        .collect();
    let ends = children.into_iter().map(|child| {
        let output = child.wait_with_output().expect("its end");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let json = serde_json::from_slice(&output.stdout);
        let json = json.unwrap_or_else(|e| panic!("{e}: {stderr}"));
        (output.status.code().expect("no signal ended it"), json)
    });
    ends.collect()
}

#[test]
fn processes_at_a_time() {
    for server in [true, false] {
        let dir = TempDir::new().expect("a temporary folder");
        let mut registry = Registry::start_in(dir.path(), &["--index-jobs", "0"]);
        let sound = [gzip(&five_files()), zstd(&five_files())];
        push(&registry, "sound", &[&sound[0], &sound[1]]);
        push(&registry, "broken", &[&noise(1, 100_000)]);
        if !server {
            assert!(registry.stop().success());
        }
        let ends = together(dir.path(), &["index", "--json", "sound"]);
        for (code, layers) in &ends {
            assert_eq!(*code, 0, "{layers}");
            let mut entries = layers.as_array().expect("an array").iter();
            assert!(entries.all(|layer| layer["entries"] == 5), "{layers}");
        }
        for (code, layers) in together(dir.path(), &["index", "--json", "broken"]) {
            assert_eq!(code, 1);
            assert_eq!(layers[0]["refused"], "not a tar", "{layers}");
        }
        let trees = together(dir.path(), &["ls", "--json", "-R", "sound"]);
        assert!(trees.iter().all(|end| *end == trees[0]), "{trees:?}");
        assert_eq!(trees[0].0, 0);
        // Each was indexed once: nothing is left of a second time.
        assert_eq!(copies(dir.path()).len(), 1);
        if server {
            let log = registry.log();
            assert_eq!(log.matches("a layer has no index").count(), 1, "{log}");
        } else {
            registry = Registry::start_in(dir.path(), &["--index-jobs", "0"]);
        }
        assert_eq!(listed(&registry, "sound"), trees[0].1);
        assert_sound(&registry);
    }
}

/// The index is taken away from under commands, with nobody to make it anew.
#[test]
fn an_index_removed_meanwhile() {
    let dir = TempDir::new().expect("a temporary folder");
    let mut registry = Registry::start_in(dir.path(), &[]);
    push(&registry, "image", &[&gzip(&five_files())]);
    let want = listed(&registry, "image");
    assert!(registry.stop().success());
    let removing = AtomicBool::new(true);
    std::thread::scope(|scope| {
        let commands =
            [&["ls", "--json", "-R", "image"][..], &["index", "image"]].map(|arguments| {
                let dir = dir.path();
                scope.spawn(move || {
                    let run = |_| outcome(dir, arguments);
                    (0..RUNS).map(run).collect::<Vec<_>>()
                })
            });
        let remover = scope.spawn(|| {
            while removing.load(Ordering::Relaxed) {
                // Half of it, or what is being made at the moment.
                let _ = fs::remove_dir_all(dir.path().join("db"));
                std::thread::yield_now();
            }
        });
        let mut failed = 0;
        for (code, stdout, stderr) in commands.into_iter().flat_map(|c| c.join().expect("no panic"))
        {
            match code {
                0 => assert!(!stdout.is_empty()),
                1 => {
                    failed += 1;
                    assert!(stderr.starts_with("registry: "), "{stderr}");
                    assert!(stderr.contains("db"), "{stderr}");
                }
                _ => panic!("{code}: {stderr}"),
            }
        }
        println!("{failed} of {} failed", 2 * RUNS);
        removing.store(false, Ordering::Relaxed);
        remover.join().expect("no panic");
    });
    let _ = fs::remove_dir_all(dir.path().join("db"));
    let registry = Registry::start_in(dir.path(), &[]);
    assert_eq!(listed(&registry, "image"), want);
    assert_sound(&registry);
}
