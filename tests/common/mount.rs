//! A running `registry mount`.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{REGISTRY, SOON, run};

/// Dropped, it is killed and what it left is unmounted.
pub struct Mount {
    /// The mountpoint.
    pub path: PathBuf,
    child: Child,
    temp: TempDir,
}

impl Mount {
    /// Mounts a registry's folder at a place of its own.
    pub fn start(dir: &Path, arguments: &[&str]) -> Mount {
        let mut command = Command::new(REGISTRY);
        command.arg("mount").arg("--dir").arg(dir).args(arguments);
        let temp = TempDir::new().expect("a temporary folder");
        let path = temp.path().join("mnt");
        fs::create_dir(&path).expect("a folder");
        Mount::spawn(temp, path, command)
    }

    /// Runs a command of the test's own, which is to mount at `path` in `temp`.
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
        assert!(
            ready.contains("is mounted at"),
            "{ready:?}; log:\n{}",
            mount.log()
        );
        mount
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.temp.path().join("log")).expect("the log file")
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: &str) {
        run(Command::new("kill").args([&format!("-{signal}"), &self.pid().to_string()]));
    }

    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + SOON;
        loop {
            match self.child.try_wait().expect("a status") {
                Some(status) => return status,
                None if Instant::now() > deadline => {
                    panic!("the mount does not end; log:\n{}", self.log())
                }
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Ended already, in the tests that end it.
        drop(self.child.kill());
        drop(self.child.wait());
        let mut unmount = Command::new("umount");
        unmount.arg("-l").arg(&self.path).stderr(Stdio::null());
        drop(unmount.status());
    }
}
