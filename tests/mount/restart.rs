//! The mount comes back: a killed one is replaced by the same command, at once.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use tempfile::TempDir;

use crate::common::mount::Unmount;
use crate::common::tar::Tar;
use crate::common::{REGISTRY, Registry, eventually, run};
use crate::support::{layer, push};

const ROUNDS: usize = 100;

/// A process that is killed when this is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already unless the test failed.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Starts a command, and waits until it says that it is ready.
fn start(command: &mut Command, ready: &str, log: &Path) -> Running {
    let stderr = File::options().create(true).append(true).open(log).unwrap();
    let child = command.stdout(Stdio::piped()).stderr(stderr).spawn().unwrap();
    let mut running = Running(child);
    let mut line = String::new();
    BufReader::new(running.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let log = fs::read_to_string(log).unwrap();
    assert!(line.contains(ready), "{line:?}; log:\n{log}");
    running
}

/// Kills and starts, again and again, with `readers` that list and read all the time.
fn again(server: bool, readers: usize) {
    let temp = TempDir::new().unwrap();
    let [dir, path, log] = ["dir", "mnt", "log"].map(|name| temp.path().join(name));
    fs::create_dir(&dir).unwrap();
    fs::create_dir(&path).unwrap();
    let mut registry = Registry::start_in(&dir, &[]);
    let content = "x".repeat(20_000);
    push(&registry, "a", "1", &[layer("d/x", &content)]);
    // Read in order, files are given to the kernel ahead.
    let names: Vec<String> = (0..60).map(|number| format!("d/{number:02}")).collect();
    let small = |tar: Tar, name: &String| tar.file(name, b"small");
    push(&registry, "a", "2", &[names.iter().fold(Tar::default(), small).finish()]);
    registry.stop();
    let (mut command, ready) = match server {
        true => (Registry::command(&dir, &["--mount", path.to_str().unwrap()]), "is ready"),
        false => {
            let mut command = Command::new(REGISTRY);
            command.arg("mount").arg("--dir").arg(&dir).arg(&path).stdin(Stdio::null());
            (command, "is mounted at")
        }
    };
    let _unmount = Unmount(path.clone());
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
            let (path, names) = (&path, &names);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    // Between two mounts, and of one that was killed, it is an error.
                    let listed = fs::read_dir(path.join("a:2/d")).map(Iterator::count);
                    for name in names.iter().take_while(|_| listed.is_ok()) {
                        if fs::read(path.join("a:2").join(name)).is_ok_and(|c| c == b"small") {
                            read.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
        let mut child = start(&mut command, ready, &log);
        for round in 0..ROUNDS {
            // Attributes that the kernel keeps.
            assert!(fs::metadata(path.join("a:1")).unwrap().is_dir(), "round {round}");
            let before = read.load(Ordering::Relaxed);
            let busy = || readers == 0 || read.load(Ordering::Relaxed) > before + 100;
            eventually("the readers are at work", busy);
            child.0.kill().unwrap();
            if round % 2 == 0 {
                child.0.wait().unwrap();
            }
            // Otherwise while it is still ending.
            child = start(&mut command, ready, &log);
            assert_eq!(fs::read(path.join("a:1/d/x")).unwrap(), content.as_bytes());
        }
        drop(ends);
        run(Command::new("kill").args(["-TERM", &child.0.id().to_string()]));
        assert!(child.0.wait().unwrap().success());
    });
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
