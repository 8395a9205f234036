//! Readers beside pushes, deletes and kills: every call ends, and what is read is right.

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::mount::Mount;
use crate::common::tar::Tar;
use crate::common::{REGISTRY, Registry, SOON, eventually, noise, run};
use crate::support::{layer, list, push, set, xattr};

/// Ends the readers, also when a test fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A layer whose files' contents are known.
fn many(seed: u64) -> Vec<u8> {
    let mut tar = Tar::default();
    for number in 0..200u64 {
        let length = 1000 * (number % 40) as usize;
        tar = tar.file(format!("dir/{number}"), &noise(seed + number, length));
    }
    tar.finish()
}

#[test]
fn readers_and_everything_else() {
    let mut registry = Registry::start(&[]);
    push(&registry, "stays", "1", &[many(0)]);
    push(&registry, "moves", "1", &[many(1000)]);
    let mut mount = Mount::start(&registry.dir, &["--tag-ttl", "50ms", "--cache-size", "32MiB"]);
    let over = AtomicBool::new(false);
    let root = &mount.path.clone();
    thread::scope(|scope| {
        let ends = Ends(&over);
        let readers: Vec<_> = (0..4u64)
            .map(|reader| {
                let over = &over;
                scope.spawn(move || {
                    let mut right = 0;
                    for number in (reader * 50..).map(|n| n % 200) {
                        if over.load(Ordering::Relaxed) {
                            break;
                        }
                        let start = Instant::now();
                        let length = 1000 * (number % 40) as usize;
                        for (name, seeds) in [("stays:1", &[0][..]), ("moves:1", &[1000, 2000])] {
                            // It fails between two moves, and after the mount is killed.
                            if let Ok(found) = fs::read(root.join(format!("{name}/dir/{number}"))) {
                                let right_one = |seed| noise(seed + number, length) == found;
                                assert!(
                                    seeds.iter().any(|&seed| right_one(seed)),
                                    "{name} {number}"
                                );
                                right += 1;
                            }
                        }
                        assert!(start.elapsed() < SOON, "a call that hangs");
                    }
                    right
                })
            })
            .collect();
        for round in 0..6 {
            push(&registry, "moves", "1", &[many(1000 * (round % 2 + 1))]);
            push(&registry, &format!("new/{round}"), "1", &[layer("x", "x")]);
            assert_eq!(fs::read(root.join(format!("new/{round}:1/x"))).unwrap(), b"x");
            assert_eq!(registry.delete(&format!("/v2/new/{round}/manifests/1")).status, 202);
        }
        registry.kill();
        thread::sleep(Duration::from_millis(200));
        mount.signal("KILL");
        mount.wait();
        // The kernel still answers from its caches for a time.
        eventually("a dead mount answers nothing", || fs::metadata(root).is_err());
        drop(ends);
        for reader in readers {
            assert!(reader.join().unwrap() > 0, "nothing was read");
        }
    });
    run(Command::new("umount").arg("-l").arg(root));
}

/// Opening an image waits for its index; readers of other images do not.
#[test]
fn other_images_do_not_wait() {
    let registry = Registry::start(&["--index-jobs", "0"]);
    push(&registry, "small", "1", &[layer("x", "x")]);
    let large = Tar::default().file("large", &noise(3, 200_000_000)).finish();
    push(&registry, "large", "1", &[large]);
    let mount = Mount::start(&registry.dir, &["--tag-ttl", "1ms", "--threads", "1"]);
    assert!(mount.path.join("small:1/x").exists());
    thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let length = fs::metadata(mount.path.join("large:1/large")).unwrap().len();
            (length, Instant::now())
        });
        let start = Instant::now();
        let mut looks = Vec::new();
        while !waiting.is_finished() {
            let look = Instant::now();
            assert_eq!(fs::read(mount.path.join("small:1/x")).unwrap(), b"x");
            looks.push((Instant::now(), look.elapsed()));
        }
        let (length, end) = waiting.join().unwrap();
        assert_eq!(length, 200_000_000);
        let before = looks.iter().filter(|(at, _)| *at < end).count();
        assert!(before > 10, "{before} looks while the index was made");
        let longest = looks.iter().map(|(_, took)| *took).max().unwrap();
        let index = end - start;
        assert!(longest < index / 2, "one look took {longest:?}, the index {index:?}");
    });
}

/// Pushes two images.
fn two_images(registry: &Registry) {
    let one = Tar::default().file("d/a", b"a").file("e/f/g", b"g");
    push(registry, "one", "1", &[one.finish()]);
    push(registry, "two", "1", &[layer("x", "two")]);
}

/// A layer that is indexed again has new rows; the old ones stay for processes that use them.
#[test]
fn indexed_again_beside_it() {
    let mut registry = Registry::start(&[]);
    let dir = registry.dir.clone();
    two_images(&registry);
    let mount = Mount::start(&dir, &[]);
    assert_eq!(list(&mount.path.join("one:1")), set(["d", "e"]));
    let mut index = Command::new(REGISTRY);
    index.args(["index", "--force", "one:1", "--dir"]).arg(&dir);
    run(&mut index);
    registry.stop();
    let again = Registry::start_in(&dir, &[]);
    // The mount sees what the server has indexed meanwhile.
    assert_eq!(fs::read(mount.path.join("two:1/x")).unwrap(), b"two");
    let folder = mount.path.join("one:1/e");
    assert_eq!(list(&folder), set(["f"]));
    assert_eq!(fs::read(folder.join("f/g")).unwrap(), b"g");
    drop(again);
}

/// Rows of an index that was removed are not mixed with those of the next one.
#[test]
fn index_removed_beside_it() {
    let mut registry = Registry::start(&[]);
    let dir = registry.dir.clone();
    two_images(&registry);
    let mount = Mount::start(&dir, &[]);
    assert_eq!(fs::read(mount.path.join("one:1/d/a")).unwrap(), b"a");
    registry.stop();
    fs::remove_dir_all(dir.join("db")).unwrap();
    let again = Registry::start_in(&dir, &[]);
    push(&again, "three", "1", &[layer("d/a", "three")]);
    let folder = mount.path.join("three:1");
    assert_eq!(fs::read(folder.join("d/a")).unwrap_err().raw_os_error(), Some(libc::EIO));
    let reason = xattr(&folder, "user.registry.error").unwrap();
    assert!(reason.contains("made again"), "{reason}");
    assert_eq!(fs::read(mount.path.join("one:1/e/f/g")).unwrap(), b"g");
}
