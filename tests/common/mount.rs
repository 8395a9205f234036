//! A running `registry mount`.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{REGISTRY, SOON, run};

/// It is killed when this is dropped, and what it leaves is unmounted.
pub struct Mount {
    /// The mountpoint.
    pub path: PathBuf,
    child: Child,
    temp: TempDir,
}

impl Mount {
    /// Mounts the registry in a folder, at a new mountpoint.
    pub fn start(dir: &Path, arguments: &[&str]) -> Mount {
        let mut command = Command::new(REGISTRY);
        command.arg("mount").arg("--dir").arg(dir).args(arguments);
        let temp = TempDir::new().expect("a temporary folder");
        let path = temp.path().join("mnt");
        fs::create_dir(&path).expect("a folder");
        Mount::spawn(temp, path, command)
    }

    /// Runs a command that mounts at `path`, which lies in `temp`.
    pub fn spawn(temp: TempDir, path: PathBuf, mut command: Command) -> Mount {
        let log = File::create(temp.path().join("log")).expect("the log file");
        let mut child = command
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("the mount starts");
        let mut ready = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        stdout.read_line(&mut ready).expect("the ready line");
        let mount = Mount { path, child, temp };
        assert!(ready.contains("is mounted at"), "{ready:?}; log:\n{}", mount.log());
        mount
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.temp.path().join("log")).expect("the log file")
    }

    /// Waits for a text in the log, which is written by another thread.
    #[track_caller]
    pub fn assert_logged(&self, what: &str) {
        let deadline = Instant::now() + SOON;
        while !self.log().contains(what) {
            let log = self.log();
            assert!(Instant::now() < deadline, "{what:?} is not in the log:\n{log}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: &str) {
        run(Command::new("kill").args([&format!("-{signal}"), &self.pid().to_string()]));
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a status").is_none()
    }

    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + SOON;
        let mut patience = Instant::now() + Duration::from_secs(1);
        loop {
            match self.child.try_wait().expect("a status") {
                Some(status) => return status,
                None if Instant::now() > deadline => {
                    panic!("the mount does not end; log:\n{}", self.log())
                }
                None => std::thread::sleep(Duration::from_millis(10)),
            }
            if Instant::now() > patience {
                unmount_elsewhere(&self.path);
                patience = Instant::now() + Duration::from_secs(1);
            }
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Some tests have ended it already.
        drop(self.child.kill());
        drop(self.child.wait());
        drop(Unmount(self.path.clone()));
    }
}

/// Unmounts what is mounted at a path, if anything is, when it is dropped.
pub struct Unmount(pub PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let mut unmount = Command::new("umount");
        unmount.arg("-l").arg(&self.0).stderr(Stdio::null());
        drop(unmount.status());
    }
}

/// Unmounts it in other mount namespaces too. Containers of other tests, or other programs of this
/// machine, may have created one meanwhile, and keep the mount alive.
fn unmount_elsewhere(path: &Path) {
    let ours = fs::read_link("/proc/self/ns/mnt").expect("a namespace");
    let named = format!(" {} ", path.display());
    let mut seen = HashSet::from([ours]);
    for process in fs::read_dir("/proc").expect("the processes").flatten() {
        // It is no process, or has ended meanwhile.
        let Ok(namespace) = fs::read_link(process.path().join("ns/mnt")) else {
            continue;
        };
        let mounts = fs::read_to_string(process.path().join("mountinfo"));
        if mounts.is_ok_and(|mounts| mounts.contains(&named)) && seen.insert(namespace) {
            let mut unmount = Command::new("nsenter");
            unmount
                .arg("--target")
                .arg(process.file_name())
                .args(["--mount", "umount", "-l"])
                .arg(path);
            drop(unmount.stderr(Stdio::null()).status());
        }
    }
}
