//! How mounts begin and end.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::common::mount::Mount;
use crate::common::{REGISTRY, Registry, eventually, need, run};
use crate::support::{layer, list, push, set};

fn registry() -> Registry {
    let registry = Registry::start(&[]);
    push(&registry, "a", "1", &[layer("x", "x")]);
    registry
}

fn umount(arguments: &[&str], path: &Path) -> Output {
    let mut command = Command::new(REGISTRY);
    command.arg("umount").args(arguments).arg(path).output().expect("it starts")
}

fn is_mounted(path: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("the table of mounts");
    table.contains(&format!(" {} ", path.display()))
}

#[test]
fn by_signals() {
    let registry = registry();
    for signal in ["TERM", "INT"] {
        let mut mount = Mount::start(&registry.dir, &[]);
        // An open file makes the mount busy.
        let open = File::open(mount.path.join("a:1/x")).unwrap();
        mount.signal(signal);
        let status = mount.wait();
        assert_eq!(status.code(), Some(0), "{}", mount.log());
        assert!(!is_mounted(&mount.path));
        assert_eq!(list(&mount.path), set([]), "the folder below the mount");
        drop(open);
    }
}

#[test]
fn by_umount() {
    let registry = registry();
    let mut mount = Mount::start(&registry.dir, &[]);
    let open = File::open(mount.path.join("a:1/x")).unwrap();
    let busy = umount(&[], &mount.path);
    assert_eq!(busy.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&busy.stderr).contains("--lazy"));
    assert_eq!(list(&mount.path), set(["a:1"]));
    assert!(umount(&["--lazy"], &mount.path).status.success());
    assert!(!is_mounted(&mount.path));
    assert_eq!(std::io::read_to_string(&open).unwrap(), "x", "until it is closed");
    drop(open);
    assert_eq!(mount.wait().code(), Some(0), "{}", mount.log());
    let again = umount(&[], &mount.path);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("no registry is mounted"));

    // Another program unmounts it, and mounts something else in its place.
    let mut mount = Mount::start(&registry.dir, &[]);
    let path = mount.path.clone();
    run(Command::new("sh")
        .args(["-c", r#"umount "$1" && mount -t tmpfs other "$1""#, "sh"])
        .arg(&path));
    assert_eq!(mount.wait().code(), Some(0), "{}", mount.log());
    assert!(is_mounted(&path), "the other mount is left alone");
    assert!(String::from_utf8_lossy(&umount(&[], &path).stderr).contains("no registry is mounted"));
    run(Command::new("umount").arg(&path));
}

#[test]
fn what_a_killed_one_left() {
    let registry = registry();
    let temp = TempDir::new().unwrap();
    let path = temp.path().join("a place");
    fs::create_dir(&path).unwrap();
    let mut command = Command::new(REGISTRY);
    command.arg("mount").arg("--dir").arg(&registry.dir);
    let mut killed = Mount::spawn(TempDir::new().unwrap(), path.clone(), command);
    killed.signal("KILL");
    killed.wait();

    let mut command = Command::new(REGISTRY);
    command.arg("mount").arg("--dir").arg(&registry.dir);
    let mount = Mount::spawn(TempDir::new().unwrap(), path.clone(), command);
    assert_eq!(list(&path), set(["a:1"]));
    mount.assert_logged("replacing");

    let second = run_mount(&registry, &path);
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("already"));
    drop(mount);
    drop(killed);
}

fn run_mount(registry: &Registry, path: &Path) -> Output {
    let mut command = Command::new(REGISTRY);
    command.arg("mount").arg("--dir").arg(&registry.dir).arg(path);
    command.output().expect("it starts")
}

#[test]
fn no_mountpoint() {
    let registry = registry();
    for (path, says) in [
        (registry.dir.join("nothing"), "No such file"),
        (registry.dir.join("log"), "not a directory"),
    ] {
        let output = run_mount(&registry, &path);
        assert_eq!(output.status.code(), Some(1));
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(message.contains(says), "{message}");
    }
}

#[test]
fn in_the_background() {
    let registry = registry();
    let temp = TempDir::new().unwrap();
    let [path, log] = ["mnt", "log"].map(|name| temp.path().join(name));
    let start = || {
        let mut command = Command::new(REGISTRY);
        command.args(["mount", "--background", "--dir"]).arg(&registry.dir);
        command.arg("--log-file").arg(&log).arg(&path).output().unwrap()
    };
    let failed = start();
    assert_eq!(failed.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&failed.stderr).contains("No such file"), "{failed:?}");

    fs::create_dir(&path).unwrap();
    let started = start();
    assert!(started.status.success(), "{started:?}");
    assert_eq!(fs::read_to_string(path.join("a:1/x")).unwrap(), "x");
    assert!(umount(&[], &path).status.success());
    eventually("it ends", || fs::read_to_string(&log).unwrap().contains("unmounted"));
}

#[test]
fn with_the_server() {
    let temp = TempDir::new().unwrap();
    let path = temp.path().join("mnt");
    fs::create_dir(&path).unwrap();
    let arguments = ["--mount", path.to_str().unwrap()];
    let mut registry = Registry::start(&arguments);
    push(&registry, "a", "1", &[layer("x", "x")]);
    eventually("it shows", || path.join("a:1/x").exists());
    assert!(registry.stop().success(), "{}", registry.log());
    assert!(!is_mounted(&path));

    // The server continues without it its mount.
    let registry = Registry::start(&arguments);
    assert!(is_mounted(&path));
    assert!(umount(&[], &path).status.success());
    eventually("it is noticed", || registry.log().contains("continues without it"));
    assert_eq!(registry.get("/v2/").status, 200);
}

/// A mount needs no server, and goes on when its server is killed.
#[test]
fn without_the_server() {
    let mut registry = Registry::start(&["--index-jobs", "0"]);
    push(&registry, "a", "1", &[layer("x", "x")]);
    push(&registry, "b", "1", &[layer("y", "y")]);
    let mount = Mount::start(&registry.dir, &[]);
    let read = |path: &str| fs::read_to_string(mount.path.join(path)).unwrap();
    assert_eq!(read("a:1/x"), "x");
    registry.kill();
    // The mount indexes this one itself.
    assert_eq!(read("b:1/y"), "y");
    assert_eq!(read("a:1/x"), "x");
}

/// A mount whose ready line cannot be written works all the same.
#[test]
fn ready_line_cannot_be_written() {
    let registry = registry();
    let temp = TempDir::new().unwrap();
    let path = temp.path().join("mnt");
    fs::create_dir(&path).unwrap();
    let mut command = Command::new(REGISTRY);
    command.arg("mount").arg("--dir").arg(&registry.dir).arg(&path);
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut child = command.stdout(full).stderr(Stdio::null()).spawn().unwrap();
    eventually("it is mounted", || is_mounted(&path));
    std::thread::sleep(Duration::from_millis(300));
    let read = fs::read(path.join("a:1/x"));
    run(Command::new("kill").args(["-TERM", &child.id().to_string()]).stderr(Stdio::null()));
    let status = child.wait().unwrap();
    drop(Command::new("umount").arg("-l").arg(&path).stderr(Stdio::null()).status());
    assert_eq!(read.unwrap(), b"x");
    assert_eq!(status.code(), Some(0));
}

/// A mount namespace that was created meanwhile has the mount too, and keeps it alive.
#[test]
fn in_another_namespace() {
    need("nsenter", "util-linux");
    let registry = registry();
    let mut mount = Mount::start(&registry.dir, &[]);
    let mut holder = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", "echo; exec cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = [0];
    holder.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    assert!(umount(&[], &mount.path).status.success());
    assert!(!is_mounted(&mount.path));
    let there = run(Command::new("nsenter")
        .arg("--target")
        .arg(holder.id().to_string())
        .args(["--mount", "cat"])
        .arg(mount.path.join("a:1/x")));
    assert_eq!(there.stdout, b"x");
    assert!(mount.is_running(), "{}", mount.log());
    drop(holder.stdin.take());
    assert!(holder.wait().unwrap().success());
    assert_eq!(mount.wait().code(), Some(0), "{}", mount.log());
}

/// A mount that lives on because it is in use does not take away its successor.
#[test]
fn another_in_its_place() {
    let registry = registry();
    let mut first = Mount::start(&registry.dir, &[]);
    let open = File::open(first.path.join("a:1/x")).unwrap();
    assert!(umount(&["--lazy"], &first.path).status.success());
    let mut command = Command::new(REGISTRY);
    command.arg("mount").arg("--dir").arg(&registry.dir);
    let second = Mount::spawn(TempDir::new().unwrap(), first.path.clone(), command);
    first.signal("TERM");
    assert_eq!(first.wait().code(), Some(0), "{}", first.log());
    assert_eq!(list(&second.path), set(["a:1"]));
    drop(open);
}

/// When the threads that answer cannot be started, the command fails instead of waiting for them.
#[test]
fn too_few_open_files() {
    let registry = registry();
    let temp = TempDir::new().unwrap();
    let path = temp.path();
    let script = r#"ulimit -n 60 && exec timeout 30 "$0" mount --threads 64 --dir "$1" "$2""#;
    let mut command = Command::new("sh");
    command.args(["-c", script, REGISTRY]);
    let output = command.arg(&registry.dir).arg(path).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("--threads"));
    assert!(!is_mounted(path));
}
