//! A bug costs its request and ends the mount; nothing hangs. None is known, so
//! one is made: the clock fails once, for which Rust's library panics.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use tempfile::TempDir;

use crate::common::mount::Mount;
use crate::common::{REGISTRY, Registry, SOON, eventually, need, run};
use crate::support::{layer, push};

/// Fails on a thread of the name in `$BUG_THREAD`, once for each time that the
/// file `$BUG_FILE` is made.
const CLOCK: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
    char name[16] = "";
    const char *thread = getenv("BUG_THREAD"), *file = getenv("BUG_FILE");
    if (clock == CLOCK_REALTIME && thread && file && prctl(PR_GET_NAME, name) == 0
        && strncmp(name, thread, strlen(thread)) == 0 && unlink(file) == 0) {
        errno = EINVAL;
        return -1;
    }
    return syscall(SYS_clock_gettime, clock, now);
}
"#;

struct Bug {
    temp: TempDir,
}

impl Bug {
    fn new() -> Bug {
        need("cc", "gcc");
        let bug = Bug { temp: TempDir::new().unwrap() };
        let source = bug.path("clock.c");
        fs::write(&source, CLOCK).unwrap();
        let mut compiler = Command::new("cc");
        run(compiler.args(["-shared", "-fPIC", "-o"]).arg(bug.path("clock.so")).arg(source));
        bug
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    /// Has a command's threads of a name run into it.
    fn put_in(&self, command: &mut Command, thread: &str) {
        command
            .env("LD_PRELOAD", self.path("clock.so"))
            .env("BUG_THREAD", thread)
            .env("BUG_FILE", self.path("now"));
    }

    /// What a look at a path gives that runs into it.
    fn meet(&self, path: &Path) -> std::io::Error {
        let now = self.path("now");
        fs::write(&now, "").unwrap();
        let start = Instant::now();
        loop {
            let looked = fs::metadata(path);
            assert!(start.elapsed() < SOON, "nobody runs into it");
            if !now.exists() {
                return looked.expect_err("it ran into a bug");
            }
        }
    }
}

fn is_mounted(path: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.contains(&format!(" {} ", path.display()))
}

#[test]
fn of_a_mount() {
    let bug = Bug::new();
    let registry = Registry::start(&[]);
    push(&registry, "good", "1", &[layer("x", "x")]);
    push(&registry, "bad", "1", &[b"this is no tar".to_vec()]);
    // One on a thread that answers at once, and one where somebody waits.
    for (thread, name) in [("fuser", ""), ("open", "bad:1")] {
        let mut command = Command::new(REGISTRY);
        command.args(["mount", "--tag-ttl", "1ms", "--dir"]).arg(&registry.dir);
        bug.put_in(&mut command, thread);
        let temp = TempDir::new().unwrap();
        let path = temp.path().join("mnt");
        fs::create_dir(&path).unwrap();
        let mut mount = Mount::spawn(temp, path.clone(), command);
        assert_eq!(fs::read(path.join("good:1/x")).unwrap(), b"x");
        let error = bug.meet(&path.join(name));
        assert_eq!(error.raw_os_error(), Some(libc::EIO), "{thread}");
        assert_eq!(mount.wait().code(), Some(1), "{}", mount.log());
        assert!(!is_mounted(&path), "{thread}");
        let log = mount.log();
        for part in ["a bug: the mount ends", "a bug ended the mount", "panicked at"] {
            assert!(log.contains(part), "{thread}: {part}; log:\n{log}");
        }
    }
}

#[test]
fn of_a_servers_mount() {
    let bug = Bug::new();
    let temp = TempDir::new().unwrap();
    let path = temp.path().join("mnt");
    fs::create_dir(&path).unwrap();
    let folder = TempDir::new().unwrap();
    let mut command = Registry::command(folder.path(), &["--mount", path.to_str().unwrap()]);
    bug.put_in(&mut command, "fuser");
    let registry = Registry::spawn(folder.path(), command);
    let error = bug.meet(&path);
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    eventually("it is unmounted", || !is_mounted(&path));
    eventually("it is told", || registry.log().contains("goes on without"));
    push(&registry, "good", "1", &[layer("x", "x")]);
    let mount = Mount::start(&registry.dir, &[]);
    assert_eq!(fs::read(mount.path.join("good:1/x")).unwrap(), b"x");
}
