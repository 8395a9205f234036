//! How the clients are run.

use std::process::Command;

use registry::oci::Digest;
use tempfile::TempDir;

use super::{need, run};

/// The Debian packages of the clients.
const PACKAGES: &[(&str, &str)] = &[
    ("curl", "curl"),
    ("docker", "docker.io"),
    ("docker-registry", "docker-registry"),
    ("mmdebstrap", "mmdebstrap"),
    ("podman", "podman"),
    ("skopeo", "skopeo"),
    ("umoci", "umoci"),
];

/// A home of the clients' own, and a folder for what a test makes. So the
/// settings and logins of whoever runs the tests do not matter.
pub struct Home(TempDir);

impl Home {
    pub fn new() -> Home {
        let home = Home(TempDir::new().expect("a temporary folder"));
        // Without a policy, skopeo and podman trust no image.
        let containers = home.0.path().join(".config/containers");
        std::fs::create_dir_all(&containers).expect("a folder");
        let policy = r#"{"default": [{"type": "insecureAcceptAnything"}]}"#;
        std::fs::write(containers.join("policy.json"), policy).expect("a file");
        home
    }

    pub fn path(&self, name: &str) -> String {
        let path = self.0.path().join(name);
        path.into_os_string().into_string().expect("the temporary folder's name is UTF-8")
    }

    pub fn command(&self, program: &str, arguments: &[&str]) -> Command {
        if let Some((_, package)) = PACKAGES.iter().find(|(name, _)| *name == program) {
            need(program, package);
        }
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.0.path()).env("HOME", self.0.path());
        // All but the Debian mirror are on this machine.
        if program != "mmdebstrap" {
            command.env("NO_PROXY", "*");
        }
        command
    }

    /// Runs a client that must succeed; gives what it printed.
    pub fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = run(&mut self.command(program, arguments));
        String::from_utf8(output.stdout).expect("text")
    }

    /// Runs a client that must fail; gives its complaint.
    pub fn refused(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.command(program, arguments).output().expect(program);
        let [stdout, stderr] =
            [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).expect("text"));
        assert!(!output.status.success(), "{program} {arguments:?} succeeded:\n{stdout}\n{stderr}");
        stderr
    }

    /// podman whose images lie as plain folders.
    pub fn podman(&self, arguments: &[&str]) -> String {
        let [root, runroot, tmpdir] =
            ["podman/root", "podman/run", "podman/tmp"].map(|name| self.path(name));
        let own = [
            "--root",
            &root,
            "--runroot",
            &runroot,
            "--tmpdir",
            &tmpdir,
            "--storage-driver=vfs",
            "--events-backend=none",
        ];
        self.run("podman", &[&own, arguments].concat())
    }

    /// Pulls an image and gives where its files are.
    pub fn podman_pull(&self, name: &str) -> String {
        self.podman(&["pull", "--quiet", "--tls-verify=false", name]);
        self.podman(&["image", "mount", name]).trim().to_owned()
    }

    /// `skopeo copy` between a layout and a registry without TLS.
    pub fn copy(&self, from: &str, to: &str, options: &[&str]) {
        const PLAIN: [&str; 2] = ["--src-tls-verify=false", "--dest-tls-verify=false"];
        let arguments = [&["copy", "--quiet"], &PLAIN[..], options, &[from, to]];
        self.run("skopeo", &arguments.concat());
    }

    /// Another command of skopeo, about one name in a registry without TLS.
    pub fn skopeo(&self, command: &[&str], name: &str) -> String {
        self.run("skopeo", &[command, &["--tls-verify=false", name]].concat())
    }

    /// A root file system of Debian packages, made by mmdebstrap, as a tar file.
    pub fn debian(&self, options: &[&str]) -> String {
        let release = std::fs::read_to_string("/etc/os-release").expect("a Debian");
        let codename = release
            .lines()
            .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
            .expect("a Debian release");
        let tar = self.path("debian.tar");
        let arguments = [&["--quiet"], options, &[codename, &tar]];
        self.run("mmdebstrap", &arguments.concat());
        tar
    }
}

/// What a Docker client prints after a push or a pull: `Digest: sha256:…`.
pub fn printed_digest(output: &str) -> Digest {
    output
        .split_once("igest: ")
        .and_then(|(_, rest)| rest.split_whitespace().next())
        .and_then(|digest| digest.parse().ok())
        .unwrap_or_else(|| panic!("no digest in {output:?}"))
}
