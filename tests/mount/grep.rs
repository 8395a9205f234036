//! `grep -r` beside everything that can happen to its mount. It ends within seconds, its lines are
//! right, and the next mount works.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use crate::common::mount::Mount;
use crate::common::tar::Tar;
use crate::common::{REGISTRY, Registry, eventually, need, run};
use crate::support::{layer, push};

const FILES: usize = 150;
/// The versions of an image among which its tag moves.
const VERSIONS: [usize; 2] = [1, 2];
const GREPS: usize = 3;

/// A layer whose lines say where they stand.
fn image(version: usize) -> Vec<u8> {
    let mut tar = Tar::default();
    for file in 0..FILES {
        let lines = (0..lines(file)).map(|line| format!("{version}/{file}/{line}\n"));
        tar = tar.file(format!("dir/{file}"), lines.collect::<String>().as_bytes());
    }
    tar.finish()
}

/// The number of a file's lines. Some files are larger than what one read returns.
fn lines(file: usize) -> usize {
    1 + file % 10 * 3000
}

/// The result of a `grep -r`.
struct Found {
    status: ExitStatus,
    complaints: String,
    /// Files of which it printed all lines.
    whole: usize,
}

/// Greps all lines of an image, and checks every one.
fn grep(image: &Path) -> Found {
    let mut command = Command::new("timeout");
    command.args(["--signal=KILL", "20", "grep", "-r", ""]).arg(image);
    let output = command.output().expect("it starts");
    let text = String::from_utf8(output.stdout).expect("text");
    let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code().is_some_and(|code| code < 124), "it hangs:\n{complaints}");
    let mut next: BTreeMap<usize, usize> = BTreeMap::new();
    let mut versions = BTreeSet::new();
    for line in text.lines() {
        let (path, line) =
            line.strip_prefix(image.to_str().unwrap()).unwrap().split_once(':').unwrap();
        let mut parts = line.split('/').map(|part| part.parse::<usize>().unwrap());
        let [version, file, number] = [0; 3].map(|_| parts.next().unwrap());
        assert_eq!(path, format!("/dir/{file}"), "{line}");
        assert_eq!(next.insert(file, number + 1).unwrap_or(0), number, "{path}: {line}");
        versions.insert((file, version));
    }
    let files = next.len();
    assert_eq!(versions.len(), files, "a file of two versions");
    let whole = next.iter().filter(|(file, next)| lines(**file) == **next);
    let whole = whole.count();
    if complaints.is_empty() {
        assert_eq!(whole, files, "a file that ends early");
    }
    Found { status: output.status, complaints, whole }
}

/// Checks that all files of an image are found.
#[track_caller]
fn assert_whole(image: &Path) {
    let found = grep(image);
    assert_eq!(found.complaints, "");
    assert!(found.status.success());
    assert_eq!(found.whole, FILES);
}

/// Ends the greps, also when a test fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Pushes, moves and deletes images while greps run, and then calls `event`, which the mount
/// `survives` or not.
fn beside(registry: &Registry, root: &Path, survives: bool, event: impl FnOnce()) {
    let (over, ending) = (&AtomicBool::new(false), &AtomicBool::new(false));
    thread::scope(|scope| {
        let ends = Ends(over);
        let greps: Vec<_> = (0..GREPS)
            .map(|number| {
                scope.spawn(move || {
                    let mut whole = 0;
                    while !over.load(Ordering::Relaxed) {
                        let stays = number % 2 == 0;
                        let found = grep(&root.join(if stays { "stays:1" } else { "moves:1" }));
                        whole += found.whole;
                        if stays && !ending.load(Ordering::Relaxed) {
                            assert_eq!((found.complaints.as_str(), found.whole), ("", FILES));
                        }
                    }
                    whole
                })
            })
            .collect();
        for round in 0..4 {
            push(registry, "moves", "1", &[image(VERSIONS[round % 2])]);
            let new = format!("new/{round}");
            push(registry, &new, "1", &[layer("x", "x")]);
            assert_eq!(fs::read(root.join(format!("{new}:1/x"))).unwrap(), b"x");
            let delete = registry.delete(&format!("/v2/{new}/manifests/1"));
            assert_eq!(delete.status, 202);
            thread::sleep(Duration::from_millis(100));
        }
        ending.store(!survives, Ordering::Relaxed);
        event();
        thread::sleep(Duration::from_millis(200));
        drop(ends);
        for grep in greps {
            assert!(grep.join().unwrap() > 0, "nothing was read");
        }
    });
}

fn stock(registry: &Registry) {
    need("grep", "grep");
    push(registry, "stays", "1", &[image(VERSIONS[0])]);
    push(registry, "moves", "1", &[image(VERSIONS[1])]);
}

fn command(registry: &Registry) -> Command {
    let mut command = Command::new(REGISTRY);
    command.args(["mount", "--tag-ttl", "50ms", "--cache-size", "32MiB", "--dir"]);
    command.arg(&registry.dir);
    command
}

/// A folder for mounts, one after another.
fn place() -> (TempDir, PathBuf) {
    let temp = TempDir::new().unwrap();
    let path = temp.path().join("mnt");
    fs::create_dir(&path).unwrap();
    (temp, path)
}

fn mount(registry: &Registry, path: &Path) -> Mount {
    Mount::spawn(TempDir::new().unwrap(), path.to_owned(), command(registry))
}

fn umount(arguments: &[&str], path: &Path) -> bool {
    let mut command = Command::new(REGISTRY);
    let output = command.arg("umount").args(arguments).arg(path).output();
    output.expect("it starts").status.success()
}

/// Unmounts whatever is mounted there.
fn detach(path: &Path) {
    run(Command::new("umount").arg("-l").arg(path));
}

#[test]
fn unmounted() {
    let registry = Registry::start(&[]);
    stock(&registry);
    let (_temp, path) = place();
    let mut first = mount(&registry, &path);
    beside(&registry, &path, false, || {
        // It is in use most of the time. The greps that are in it go on.
        if !umount(&[], &path) {
            assert!(umount(&["--lazy"], &path));
        }
    });
    assert_eq!(first.wait().code(), Some(0), "{}", first.log());
    let _second = mount(&registry, &path);
    assert_whole(&path.join("stays:1"));
}

#[test]
fn stopped() {
    let registry = Registry::start(&[]);
    stock(&registry);
    let (_temp, path) = place();
    let mut first = mount(&registry, &path);
    beside(&registry, &path, false, || {
        first.signal("TERM");
        assert_eq!(first.wait().code(), Some(0), "{}", first.log());
    });
    let _second = mount(&registry, &path);
    assert_whole(&path.join("stays:1"));
}

#[test]
fn killed() {
    let registry = Registry::start(&[]);
    stock(&registry);
    let (_temp, path) = place();
    let mut first = mount(&registry, &path);
    beside(&registry, &path, false, || {
        first.signal("KILL");
        first.wait();
    });
    let second = mount(&registry, &path);
    second.assert_logged("replacing");
    assert_whole(&path.join("stays:1"));
}

/// The mount survives its server, and works with the next one.
#[test]
fn server_killed() {
    let mut registry = Registry::start(&[]);
    stock(&registry);
    let (_temp, path) = place();
    let mount = mount(&registry, &path);
    let pid = registry.pid().to_string();
    beside(&registry, &path, true, || {
        run(Command::new("kill").args(["-KILL", &pid]));
    });
    registry.wait();
    assert_whole(&path.join("stays:1"));
    let next = Registry::start_in(&registry.dir, &[]);
    beside(&next, &path, true, || {});
    push(&next, "late", "1", &[image(VERSIONS[0])]);
    assert_whole(&path.join("late:1"));
    drop(mount);
}

/// The mount of `registry serve --mount`.
#[test]
fn within_the_server() {
    let (_temp, path) = place();
    let arguments = ["--mount", path.to_str().unwrap(), "--cache-size", "32MiB"];
    let folder = TempDir::new().unwrap();
    let mut first = Registry::start_in(folder.path(), &arguments);
    stock(&first);
    let pid = first.pid().to_string();
    beside(&first, &path, false, || {
        run(Command::new("kill").args(["-KILL", &pid]));
    });
    first.wait();
    eventually("it is dead", || fs::metadata(&path).is_err());

    let mut second = Registry::start_in(folder.path(), &arguments);
    assert_whole(&path.join("stays:1"));
    beside(&second, &path, false, || {
        run(Command::new("kill").args(["-TERM", &second.pid().to_string()]));
    });
    assert!(second.wait().success(), "{}", second.log());

    let third = Registry::start_in(folder.path(), &arguments);
    beside(&third, &path, false, || detach(&path));
    eventually("it is noticed", || third.log().matches("continues without it").count() > 0);
    assert_eq!(third.get("/v2/").status, 200);
    let _mount = mount(&third, &path);
    assert_whole(&path.join("stays:1"));
}
