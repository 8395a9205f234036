//! How the clients are run.

use std::process::Command;

use registry::oci::Digest;
use tempfile::TempDir;

use crate::common::{need, run};

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
        path.into_os_string()
            .into_string()
            .expect("the temporary folder's name is UTF-8")
    }

    pub fn command(&self, program: &str, arguments: &[&str]) -> Command {
        if let Some((_, package)) = PACKAGES.iter().find(|(name, _)| *name == program) {
            need(program, package);
        }
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(self.0.path())
            .env("HOME", self.0.path());
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
        assert!(
            !output.status.success(),
            "{program} {arguments:?} succeeded:\n{stdout}\n{stderr}"
        );
        stderr
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
