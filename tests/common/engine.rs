//! The Docker engine, run by the test with everything it writes in a temporary
//! folder: no bridge, no firewall rules, no settings and no mounts of the
//! machine's.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::home::Home;
use super::tree::{self, Tree};
use super::{SOON, eventually, need, run};

/// Starts the engine. The machine's settings are hidden from it, and so are its
/// mounts from the machine; should this program be killed, the kernel stops it.
const ENGINE: &str =
    r#"mount -t tmpfs tmpfs /etc/docker && exec setpriv --pdeathsig=TERM dockerd "$@""#;

pub struct Engine<'a> {
    home: &'a Home,
    socket: String,
    child: Child,
}

impl<'a> Engine<'a> {
    /// Starts it with a few variables more, such as whom it trusts.
    pub fn start(home: &'a Home, environment: &[(&str, &str)]) -> Engine<'a> {
        let owner = fs::metadata("/proc/self").expect("this process").uid();
        assert_eq!(owner, 0, "the Docker engine must be started by root");
        need("dockerd", "docker.io");
        let socket = format!("unix://{}", home.path("engine.sock"));
        let log = File::create(home.path("engine.log")).expect("a file");
        let mut command = home.command("unshare", &["--mount", "sh", "-c", ENGINE, "sh"]);
        command
            .args(["--data-root", &home.path("engine/data")])
            .args(["--exec-root", &home.path("engine/exec")])
            .args(["--pidfile", &home.path("engine.pid")])
            .args(["--host", &socket])
            .args(["--iptables=false", "--bridge=none"])
            .args(["--insecure-registry", "127.0.0.0/8"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        command.envs(environment.iter().copied());
        let child = command.spawn().expect("unshare, of every Debian");
        let mut engine = Engine { home, socket, child };
        eventually("the Docker engine answers", || {
            let ended = engine.child.try_wait().expect("a status");
            assert!(ended.is_none(), "the engine ended:\n{}", engine.log());
            let mut version = engine.command(&["version"]);
            version.output().is_ok_and(|output| output.status.success())
        });
        engine
    }

    fn log(&self) -> String {
        fs::read_to_string(self.home.path("engine.log")).expect("a log")
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command =
            self.home.command("docker", &[&["--host", &self.socket], arguments].concat());
        // The builder that is part of every engine.
        command.env("DOCKER_BUILDKIT", "0").env_remove("DOCKER_CONTEXT");
        command
    }

    pub fn docker(&self, arguments: &[&str]) -> String {
        let output = run(&mut self.command(arguments));
        String::from_utf8(output.stdout).expect("text")
    }

    pub fn image_id(&self, image: &str) -> String {
        let id = self.docker(&["image", "inspect", "--format={{.Id}}", image]);
        id.trim().to_owned()
    }

    /// The files of an image, without those that the engine adds.
    pub fn files(&self, image: &str) -> Tree {
        without_engine_files(tree::read(Path::new(&self.unpack(image))))
    }

    /// Exports a container that never ran; gives where its files are.
    pub fn unpack(&self, image: &str) -> String {
        let container = self.docker(&["create", "--network=none", image, "never-run"]);
        let container = container.trim();
        let [tar, root] =
            ["tar", "root"].map(|kind| self.home.path(&format!("{container}.{kind}")));
        self.docker(&["export", "--output", &tar, container]);
        self.docker(&["rm", container]);
        fs::create_dir(&root).expect("a folder");
        let options = ["--numeric-owner", "--xattrs", "--xattrs-include=*"];
        let extract = ["-C", &root, "-xf", &tar];
        self.home.run("tar", &[&options[..], &extract].concat());
        fs::remove_file(tar).expect("a file");
        root
    }

    /// Removes every image, so that a pull has nothing to build on.
    pub fn forget(&self) {
        self.docker(&["image", "prune", "--all", "--force"]);
        assert_eq!(self.docker(&["image", "ls", "--all", "--quiet"]), "");
    }
}

impl Drop for Engine<'_> {
    /// Nothing here may panic: a failed test gets here too.
    fn drop(&mut self) {
        let kill = |signal: &str, pid: &str| {
            drop(Command::new("kill").args([signal, pid]).status());
        };
        // It stops its containers and its containerd.
        kill("-TERM", &self.child.id().to_string());
        let deadline = Instant::now() + SOON;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let containerd = self.home.path("engine/exec/containerd/containerd.pid");
                kill("-KILL", fs::read_to_string(containerd).unwrap_or_default().trim());
                drop(self.child.kill());
                drop(self.child.wait());
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Takes out what a container has of its own, and the times of the folders that
/// it is put in.
pub fn without_engine_files(mut tree: Tree) -> Tree {
    const FILES: [&str; 10] = [
        ".dockerenv",
        "dev/console",
        "dev/pts",
        "dev/shm",
        "etc/hostname",
        "etc/hosts",
        "etc/mtab",
        "etc/resolv.conf",
        "proc",
        "sys",
    ];
    const FOLDERS: [&str; 2] = ["dev", "etc"];
    tree.retain(|name, _| !FILES.iter().any(|file| file.as_bytes() == name));
    for folder in FOLDERS {
        tree.entry(folder.into()).and_modify(|file| file.mtime = (0, 0));
    }
    tree
}
