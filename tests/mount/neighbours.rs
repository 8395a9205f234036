//! The mount beside ordinary tools: it looks and behaves as any read-only file system.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use crate::common::mount::{Mount, Unmount};
use crate::common::tar::{Member, Tar};
use crate::common::{REGISTRY, Registry, eventually, need, run};
use crate::support::{layer, list, push, set};

type Stat = (u32, u32, u32, (i64, i64), u64, u64, u64);

/// All that stat shows of a directory but its inode number.
fn stat(path: &Path) -> Stat {
    let metadata = fs::symlink_metadata(path).unwrap();
    let time = (metadata.mtime(), metadata.mtime_nsec());
    assert_eq!((metadata.ctime(), metadata.ctime_nsec()), time);
    assert_eq!((metadata.atime(), metadata.atime_nsec()), time);
    let (mode, uid, gid) = (metadata.mode() & 0o7777, metadata.uid(), metadata.gid());
    (mode, uid, gid, time, metadata.size(), metadata.blocks(), metadata.nlink())
}

/// A folder that holds images has the time of the last change of what it lists.
#[test]
fn times_above_the_images() {
    let registry = Registry::start(&[]);
    for name in ["team/app", "team/tool", "other/app"] {
        push(&registry, name, "1", &[layer("x", name)]);
    }
    let mount = Mount::start(&registry.dir, &["--tag-ttl", "1ms"]);
    let folder = |name: &str| stat(&mount.path.join(name));
    let [root, team, other] = ["", "team", "other"].map(folder);
    assert_eq!((team.4, team.5, team.6), (4096, 8, 1), "a directory as any other");
    // What is only read does not change.
    list(&mount.path.join("team/app:1"));
    thread::sleep(Duration::from_millis(1100));
    assert_eq!(["", "team", "other"].map(folder), [root, team, other]);

    let times = || ["", "team", "other"].map(|name| folder(name).3);
    // Waits until a folder changes, and then says which have.
    let changed = |what: &str, change: &dyn Fn()| {
        let before = times();
        change();
        eventually(what, || times() != before);
        let after = times();
        assert!(after.iter().zip(before).all(|(after, before)| *after >= before), "{what}");
        [0, 1, 2].map(|at| after[at] != before[at])
    };
    let only_team = [false, true, false];
    let push = |name: &str, tag: &str, content: &str| {
        push(&registry, name, tag, &[layer("x", content)]);
    };
    let pushed = || push("team/app", "2", "2");
    assert_eq!(changed("a pushed tag", &pushed), only_team);
    let moved = || push("team/app", "1", "2");
    assert_eq!(changed("a tag that moves to what was there", &moved), only_team);
    let deleted = || assert_eq!(registry.delete("/v2/team/app/manifests/1").status, 202);
    assert_eq!(changed("a deleted tag", &deleted), only_team);
    let below = || push("team/app/below", "1", "3");
    assert!(changed("a name that goes on below", &below)[1]);
    assert_eq!(list(&mount.path.join("team")), set(["app", "app:2", "tool:1"]));
}

/// A tar of several images is the same again, and tar does not find that it changed meanwhile.
#[test]
fn archives_twice() {
    let registry = Registry::start(&[]);
    for name in ["app", "tool", "lib"] {
        push(&registry, &format!("team/{name}"), "1", &[layer("dir/x", name)]);
    }
    let mount = Mount::start(&registry.dir, &["--tag-ttl", "1ms"]);
    let tar = || {
        // It looks at a folder before its entries and after them.
        let slow = "--checkpoint=1 --checkpoint-action=exec='sleep 0.2'";
        let script = format!("exec tar -C \"$0\" {slow} -cf - team");
        let mut command = Command::new("sh");
        run(command.args(["-c", &script]).arg(&mount.path)).stdout
    };
    let first = tar();
    assert!(first == tar(), "other bytes");
}

/// Layers that were indexed since the server started.
fn indexed(registry: &Registry) -> u64 {
    let url = registry.ready.split("metrics on http://").nth(1).expect("a metrics URL");
    let address = url.split('/').next().unwrap().parse().expect("an address");
    let text = crate::common::send_to(address, "GET", "/metrics", &[], b"").unwrap().text();
    let name = "registry_events_total{type=\"index\"} ";
    let value = text.lines().find_map(|line| line.strip_prefix(name));
    value.map_or(0, |value| value.parse().expect("a number"))
}

/// Names, attributes and completion wait for no index and start no job.
#[test]
fn names_open_nothing() {
    let registry = Registry::start(&["--index-jobs", "0", "--metrics-listen", "127.0.0.1:0"]);
    for tag in ["1", "2", "3"] {
        push(&registry, "app", tag, &[layer("x", tag)]);
    }
    let root = Member { kind: b'5', mode: 0o700, uid: 7, ..Member::default() };
    let odd = Tar::default().member("./", b"", &root).file("x", b"x");
    push(&registry, "odd", "1", &[odd.finish()]);
    let mount = Mount::start(&registry.dir, &[]);
    let images = ["app:1", "app:2", "app:3", "odd:1"];
    let before = images.map(|image| stat(&mount.path.join(image)));
    for (program, arguments) in [
        ("ls", &["-l"][..]),
        ("ls", &["-lZ"]),
        ("find", &[".", "-maxdepth", "1", "-ls"]),
        ("bash", &["-c", "compgen -f app: && compgen -d app:"]),
    ] {
        let output = run(Command::new(program).args(arguments).current_dir(&mount.path));
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("app:3"), "{program}: {text}");
    }
    assert_eq!(indexed(&registry), 0);
    let opened = images.map(|image| {
        assert_eq!(list(&mount.path.join(image)), set(["x"]));
        stat(&mount.path.join(image))
    });
    assert_eq!(indexed(&registry), 4);
    assert_eq!(before, opened, "they are the same when it is open");
    assert_eq!((opened[3].0, opened[3].1), (0o755, 0), "not those of its layer");
    // Alone, it is opened at the start.
    let alone = Mount::start(&registry.dir, &["--image", "odd:1"]);
    let alone = stat(&alone.path);
    assert_eq!((alone.0, alone.1), (0o700, 7));
}

/// What df, stat, findmnt and lsof show.
#[test]
fn a_file_system_of_its_own_type() {
    need("findmnt", "util-linux");
    let registry = Registry::start(&[]);
    push(&registry, "app", "1", &[layer("x", "x")]);
    let mount = Mount::start(&registry.dir, &[]);
    let text = |command: &mut Command| {
        String::from_utf8(run(command).stdout).unwrap().trim_end().to_owned()
    };
    let mut findmnt = Command::new("findmnt");
    let row = text(findmnt.args(["-n", "-o", "FSTYPE,SOURCE,OPTIONS"]).arg(&mount.path));
    let row: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(row[..2], ["fuse.registry", "registry"]);
    for option in ["ro", "nosuid", "nodev", "default_permissions"] {
        assert!(row[2].split(',').any(|found| found == option), "{option}: {row:?}");
    }
    // As for a read-only bind mount: no monitor takes it for a full disk.
    let df = |path: &Path| {
        let row = text(Command::new("df").args(["--output=size,used,avail"]).arg(path));
        let numbers = row.lines().nth(1).unwrap().split_whitespace();
        numbers.map(|number| number.parse::<u64>().unwrap()).collect::<Vec<_>>()
    };
    let (ours, store) = (df(&mount.path), df(&registry.dir));
    assert_eq!(ours[0], store[0]);
    for at in [1, 2] {
        // Other programs write to the disk meanwhile.
        assert!(ours[at].abs_diff(store[at]) < store[0] / 100, "{ours:?} {store:?}");
    }
    let kind = text(Command::new("stat").args(["-f", "-c", "%T %l %S"]).arg(&mount.path));
    assert_eq!(kind, "fuseblk 255 4096");
    // What keeps it busy.
    need("lsof", "lsof");
    let open = fs::File::open(mount.path.join("app:1/x")).unwrap();
    let mut lsof = Command::new("lsof");
    let named = text(lsof.args(["-w", "-F", "pn", "-p", &std::process::id().to_string()]));
    let path = format!("n{}/app:1/x", mount.path.display());
    assert!(named.lines().any(|line| line == path), "{named}");
    drop(open);
    // A find that leaves it out, as updatedb does with this type in its PRUNEFS.
    let folder = mount.path.parent().unwrap();
    let mut find = Command::new("find");
    find.arg(folder).args(["-fstype", "fuse.registry", "-prune", "-o", "-print"]);
    assert!(!text(&mut find).contains("mnt"));
}

/// A mount in the background keeps no file system busy, and says where its log is.
#[test]
fn in_the_background() {
    let registry = Registry::start(&[]);
    push(&registry, "bad", "1", &[b"this is no tar".to_vec()]);
    let temp = TempDir::new().unwrap();
    let disk = temp.path().join("disk");
    fs::create_dir(&disk).unwrap();
    run(Command::new("mount").args(["-t", "tmpfs", "other"]).arg(&disk));
    let path = temp.path().join("mnt");
    fs::create_dir(&path).unwrap();
    let _unmount = [Unmount(path.clone()), Unmount(disk.clone())];
    // By paths from where it is started.
    let up = "../".repeat(disk.components().count());
    let relative = |path: &Path| format!("{up}{}", path.strip_prefix("/").unwrap().display());
    let mut command = Command::new(REGISTRY);
    command.args(["mount", "--background", "--dir", &relative(&registry.dir), &relative(&path)]);
    let started = command.current_dir(&disk).stdin(Stdio::null()).output().unwrap();
    let unmounted = Command::new("umount").arg(&disk).status().unwrap();
    let read = fs::read_dir(path.join("bad:1")).unwrap().next().unwrap();
    let log = registry.dir.join("mount.log");
    let logged = || fs::read_to_string(&log).unwrap_or_default().contains("bad:1");
    if started.status.success() {
        eventually("the log has it", logged);
    }
    run(Command::new(REGISTRY).arg("umount").arg(&path));
    assert!(started.status.success(), "{started:?}");
    assert!(unmounted.success(), "the file system is in use");
    assert_eq!(read.unwrap_err().raw_os_error(), Some(libc::EIO));
    let said = String::from_utf8(started.stdout).unwrap();
    let named = said.trim_end().rsplit(' ').next().unwrap();
    assert_eq!(Path::new(named), log, "{said}");
    assert_eq!(fs::metadata(&log).unwrap().mode() & 0o777, 0o600);
}

/// The log is never written through a link that another user may have put there, and nothing is left
/// where no registry is.
#[test]
fn a_log_of_its_own() {
    let registry = Registry::start(&[]);
    let temp = TempDir::new().unwrap();
    let [path, other] = ["mnt", "other"].map(|name| temp.path().join(name));
    fs::create_dir(&path).unwrap();
    fs::write(&other, "").unwrap();
    std::os::unix::fs::symlink(&other, registry.dir.join("mount.log")).unwrap();
    let start = |dir: &Path| {
        let mut command = Command::new(REGISTRY);
        command.env("TMPDIR", temp.path()).args(["mount", "--background", "--dir"]);
        command.arg(dir).arg(&path).output().unwrap()
    };
    let started = start(&registry.dir);
    let _unmount = Unmount(path.clone());
    assert!(started.status.success(), "{started:?}");
    run(Command::new(REGISTRY).arg("umount").arg(&path));
    let said = String::from_utf8(started.stdout).unwrap();
    let log = Path::new(said.trim_end().rsplit(' ').next().unwrap());
    assert_eq!(log.parent(), Some(temp.path()), "{said}");
    eventually("it is unmounted", || fs::read_to_string(log).unwrap().contains("unmounted"));
    assert_eq!(fs::read(&other).unwrap(), b"");

    let empty = temp.path().join("empty");
    fs::create_dir(&empty).unwrap();
    assert_eq!(start(&empty).status.code(), Some(1));
    assert_eq!(list(&empty), set([]));
}

/// Numbers that programs of 32 bits can take, also of many files.
#[test]
fn small_inode_numbers() {
    let registry = Registry::start(&[]);
    let file = |tar: Tar, number: u32| tar.file(format!("d/{number}"), b"x");
    push(&registry, "app", "1", &[(0..3000).fold(Tar::default(), file).finish()]);
    let mount = Mount::start(&registry.dir, &["--inode32"]);
    let output = run(Command::new("find").arg(&mount.path).args(["-printf", "%i\\n"]));
    let numbers = String::from_utf8(output.stdout).unwrap();
    let numbers: std::collections::HashSet<u64> =
        numbers.lines().map(|number| number.parse().unwrap()).collect();
    assert_eq!(numbers.len(), 3003);
    assert!(numbers.iter().all(|&number| number <= u32::MAX.into()));
}
