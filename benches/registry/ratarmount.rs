//! ratarmount, which mounts tar archives.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::Result;
use tempfile::TempDir;

use crate::common::{need, run};

/// Named, so that the peer stays what it is.
const PACKAGE: &str = "ratarmount==1.3.0";

/// A mounted archive. Dropped, it is unmounted.
#[derive(Debug)]
pub struct Ratarmount {
    pub mount: TempDir,
    /// From its start until it answered.
    pub seconds: f64,
}

impl Ratarmount {
    /// Mounts a layer. The program is in `packages`, once it was installed.
    pub fn start(packages: &Path, layer: &Path) -> Result<Ratarmount> {
        if !packages.join("installed").exists() {
            need("python3", "python3-venv libfuse2");
            run(Command::new("python3").args(["-m", "venv"]).arg(packages));
            let mut pip = Command::new(packages.join("bin/pip"));
            run(pip.args(["install", "--quiet", PACKAGE]));
            fs::write(packages.join("installed"), PACKAGE)?;
        }
        let mount = TempDir::with_prefix("ratarmount")?;
        let begin = Instant::now();
        let mut command = Command::new(packages.join("bin/ratarmount"));
        // A name tells it what a file is.
        let archive = TempDir::with_prefix("archive")?;
        let link = archive.path().join("layer.tar.gz");
        std::os::unix::fs::symlink(layer, &link)?;
        command.args(["--index-file", ":memory:"]).arg(&link);
        run(command.arg(mount.path()));
        fs::read_dir(mount.path())?;
        Ok(Ratarmount { mount, seconds: begin.elapsed().as_secs_f64() })
    }
}

impl Drop for Ratarmount {
    fn drop(&mut self) {
        // What fails leaves its mount, which the next run does not mind.
        drop(Command::new("umount").arg(self.mount.path()).status());
    }
}
