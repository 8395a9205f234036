//! The mount comes back: a killed one is replaced by the same command, at once.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use tempfile::TempDir;

use crate::common::{REGISTRY, Registry, run};
use crate::support::{layer, push};

const ROUNDS: usize = 100;

/// Starts a command that mounts at `path`; waits until it says so.
fn start(command: &mut Command, ready: &str, log: &Path) -> Child {
    let stderr = File::options().create(true).append(true).open(log).unwrap();
    let mut child = command.stdout(Stdio::piped()).stderr(stderr).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    if !line.contains(ready) {
        drop(child.kill());
        panic!("{line:?}; log:\n{}", fs::read_to_string(log).unwrap());
    }
    child
}

/// Kills and starts, again and again, with `readers` that list and read all the time.
fn again(server: bool, readers: usize) {
    let temp = TempDir::new().unwrap();
    let [dir, path, log] = ["dir", "mnt", "log"].map(|name| temp.path().join(name));
    fs::create_dir(&dir).unwrap();
    fs::create_dir(&path).unwrap();
    let mut registry = Registry::start_in(&dir, &[]);
    let content = "x".repeat(20_000);
    for tag in ["1", "2"] {
        push(&registry, "a", tag, &[layer("d/x", &content)]);
    }
    registry.stop();
    let (mut command, ready) = match server {
        true => (Registry::command(&dir, &["--mount", path.to_str().unwrap()]), "is ready"),
        false => {
            let mut command = Command::new(REGISTRY);
            command.arg("mount").arg("--dir").arg(&dir).arg(&path).stdin(Stdio::null());
            (command, "is mounted at")
        }
    };
    let (over, read) = (&AtomicBool::new(false), &AtomicU32::new(0));
    thread::scope(|scope| {
        struct Ends<'a>(&'a AtomicBool);
        impl Drop for Ends<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let ends = Ends(over);
        for _ in 0..readers {
            let path = &path;
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    // Between two mounts, and of one that was killed, it is an error.
                    let listed = fs::read_dir(path.join("a:1")).map(Iterator::count);
                    if listed.is_ok() && fs::read(path.join("a:2/d/x")).is_ok() {
                        read.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        let mut child = start(&mut command, ready, &log);
        for round in 0..ROUNDS {
            // Attributes that the kernel keeps.
            assert!(fs::metadata(path.join("a:1")).unwrap().is_dir(), "round {round}");
            child.kill().unwrap();
            if round % 2 == 0 {
                child.wait().unwrap();
                child = start(&mut command, ready, &log);
            } else {
                // While it is still ending.
                let next = start(&mut command, ready, &log);
                child.wait().unwrap();
                child = next;
            }
            assert_eq!(fs::read(path.join("a:1/d/x")).unwrap(), content.as_bytes());
        }
        drop(ends);
        run(Command::new("kill").args(["-TERM", &child.id().to_string()]));
        assert!(child.wait().unwrap().success());
    });
    assert!(readers == 0 || read.load(Ordering::Relaxed) > 0, "nothing was read");
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!table.contains(path.to_str().unwrap()), "a mount is left behind");
}

#[test]
fn a_mount() {
    again(false, 0);
}

#[test]
fn a_mount_with_readers() {
    again(false, 3);
}

#[test]
fn a_servers_mount() {
    again(true, 0);
}

#[test]
fn a_servers_mount_with_readers() {
    again(true, 3);
}
