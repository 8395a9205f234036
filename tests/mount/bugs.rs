//! A bug fails its request and ends the mount; nothing hangs. None is known, so one is made: the clock
//! fails once, when a request that failed is logged, and Rust's library panics.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use tempfile::TempDir;

use crate::common::mount::Mount;
use crate::common::{REGISTRY, Registry, SOON, eventually, need, run};
use crate::support::{layer, push};

/// A clock that fails on threads with the name in `$BUG_THREAD`, once for each time that the file
/// `$BUG_FILE` is created.
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

    /// Makes the threads of a command that have this name meet the bug.
    fn put_in(&self, command: &mut Command, thread: &str) {
        command
            .env("LD_PRELOAD", self.path("clock.so"))
            .env("BUG_THREAD", thread)
            .env("BUG_FILE", self.path("now"));
    }

    /// Looks until that meets the bug; returns the error.
    fn meet<T>(&self, look: impl Fn() -> io::Result<T>) -> io::Error {
        let now = self.path("now");
        fs::write(&now, "").unwrap();
        let start = Instant::now();
        loop {
            let looked = look().map(drop);
            assert!(start.elapsed() < SOON, "nothing meets it");
            if !now.exists() {
                return looked.expect_err("it met a bug");
            }
        }
    }
}

/// Pushes an image that can be shown, one that cannot, and one whose tag is damaged.
fn stock(registry: &Registry) {
    push(registry, "good", "1", &[layer("x", "x")]);
    push(registry, "bad", "1", &[b"this is no tar".to_vec()]);
    push(registry, "damaged", "1", &[layer("x", "x")]);
    let link = "repositories/damaged/_manifests/tags/1/current/link";
    fs::write(registry.store().join(link), "this is no digest").unwrap();
}

fn is_mounted(path: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.contains(&format!(" {} ", path.display()))
}

#[test]
fn of_a_mount() {
    let bug = Bug::new();
    let registry = Registry::start(&[]);
    stock(&registry);
    // The first thread answers the kernel, the second opens images.
    for (thread, name) in [("fuser", "damaged:1"), ("open", "bad:1/x")] {
        let mut command = Command::new(REGISTRY);
        command.args(["mount", "--tag-ttl", "1ms", "--dir"]).arg(&registry.dir);
        bug.put_in(&mut command, thread);
        let temp = TempDir::new().unwrap();
        let path = temp.path().join("mnt");
        fs::create_dir(&path).unwrap();
        let mut mount = Mount::spawn(temp, path.clone(), command);
        assert_eq!(fs::read(path.join("good:1/x")).unwrap(), b"x");
        let error = bug.meet(|| fs::metadata(path.join(name)));
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
    stock(&registry);
    let error = bug.meet(|| fs::metadata(path.join("damaged:1")));
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    eventually("it is unmounted", || !is_mounted(&path));
    eventually("it is logged", || registry.log().contains("continues without it"));
    let mount = Mount::start(&registry.dir, &[]);
    assert_eq!(fs::read(mount.path.join("good:1/x")).unwrap(), b"x");
}
