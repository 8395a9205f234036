//! A registry with users and rules, and what is in it.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use registry::oci::{Algorithm, Digest};
use serde_json::json;
use std::io::Write;
use tempfile::TempDir;

use crate::common::{
    OCI_CONFIG, OCI_EMPTY, OCI_MANIFEST, REGISTRY, Registry, Reply, descriptor, run,
};

const OCI_TAR: &str = "application/vnd.oci.image.layer.v1.tar";

/// Everybody's password is the name with this.
const PASSWORD: &str = "'s password";

pub const RULES: &str = r#"
[groups]
staff = ["reader", "writer", "deleter"]

[[rules]]
groups = ["anonymous"]
repositories = ["public/**"]
rights = ["pull"]

[[rules]]
groups = ["staff"]
repositories = ["team/**"]
rights = ["pull"]

[[rules]]
users = ["writer"]
repositories = ["team/**"]
rights = ["push"]

[[rules]]
users = ["deleter"]
repositories = ["team/**"]
rights = ["delete"]

[[rules]]
users = ["stranger"]
repositories = ["other/**"]
rights = ["pull", "push", "delete"]

[[rules]]
users = ["owner"]
repositories = ["**"]
rights = ["pull", "push", "delete"]
"#;

pub const USERS: [&str; 5] = ["owner", "reader", "writer", "deleter", "stranger"];

pub fn basic(name: &str, password: &str) -> String {
    format!("Basic {}", BASE64.encode(format!("{name}:{password}")))
}

/// The `Authorization` of one of [`USERS`].
pub fn user(name: &str) -> String {
    basic(name, &password(name))
}

pub fn password(name: &str) -> String {
    format!("{name}{PASSWORD}")
}

/// A line of a htpasswd file, by `registry password`, at the lowest cost.
pub fn htpasswd_line(name: &str, password: &str) -> String {
    let mut child = Command::new(REGISTRY)
        .args(["password", "--cost", "4", name])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("registry starts");
    let mut stdin = child.stdin.take().expect("piped");
    writeln!(stdin, "{password}").expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("its end");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// Folder of a registry with all [`USERS`] and [`RULES`], not yet started.
pub fn folder() -> TempDir {
    let dir = TempDir::new().expect("a temporary folder");
    let users = USERS.map(|name| htpasswd_line(name, &password(name)));
    fs::write(dir.path().join("users"), users.concat()).expect("a file");
    fs::write(dir.path().join("rules"), RULES).expect("a file");
    dir
}

/// Starts it. Requests come from the owner unless they say otherwise.
pub fn start(dir: &Path, more: &[&str]) -> Registry {
    let [users, rules] = ["users", "rules"].map(|name| path(dir, name));
    let arguments = ["--htpasswd", &users, "--acl", &rules];
    let mut registry = Registry::start_in(dir, &[&arguments, more].concat());
    registry.authorization = Some(user("owner"));
    registry
}

pub fn path(dir: &Path, name: &str) -> String {
    let path = dir.join(name).into_os_string();
    path.into_string().expect("the temporary folder's name is UTF-8")
}

/// A request by somebody; `None`: by who sends no credentials.
pub fn send_as(
    registry: &Registry,
    authorization: Option<&str>,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Reply {
    let mut headers = headers.to_vec();
    headers.extend(authorization.map(|value| ("Authorization", value)));
    let sent = crate::common::send_to(registry.address, method, path, &headers, body);
    sent.unwrap_or_else(|e| panic!("{method} {path}: {e}"))
}

pub fn get_as(registry: &Registry, authorization: Option<&str>, path: &str) -> Reply {
    send_as(registry, authorization, "GET", path, &[], b"")
}

/// What is pushed of an image, with an artifact that refers to it.
pub struct Pushed {
    pub layer: Digest,
    pub config: Digest,
    pub manifest: Digest,
    pub manifest_bytes: String,
    /// Its id in the first API.
    pub v1: String,
}

/// Pushes an image of one file `etc/NAME`, tagged `1`, and an artifact that
/// refers to it.
pub fn push(registry: &Registry, repository: &str, name: &str) -> Pushed {
    let tar = tar_of(name);
    let layer = registry.push_blob(repository, &tar);
    let config = json!({"os": "linux", "architecture": "amd64", "name": name,
        "rootfs": {"type": "layers", "diff_ids": [layer.to_string()]}});
    let config_bytes = config.to_string();
    let config = registry.push_blob(repository, config_bytes.as_bytes());
    let manifest_bytes = crate::common::image_manifest(
        &descriptor(OCI_CONFIG, &config, config_bytes.len()),
        &[descriptor(OCI_TAR, &layer, tar.len())],
    );
    let manifest = Algorithm::Sha256.digest(manifest_bytes.as_bytes());
    let empty = registry.push_blob(repository, b"{}");
    let artifact = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": "application/x.test",
        "config": descriptor(OCI_EMPTY, &empty, 2), "layers": [],
        "subject": descriptor(OCI_MANIFEST, &manifest, manifest_bytes.len())});
    for (reference, bytes) in [("1", &manifest_bytes), ("artifact", &artifact.to_string())] {
        let reply = registry.push_manifest(repository, reference, OCI_MANIFEST, bytes.as_bytes());
        assert_eq!(reply.status, 201, "{}", reply.text());
    }
    let path = format!("/v1/repositories/{repository}/tags/1");
    let v1 = registry.get(&path).json();
    Pushed { v1: v1.as_str().expect("an id").to_owned(), layer, config, manifest, manifest_bytes }
}

pub fn tar_of(name: &str) -> Vec<u8> {
    let dir = TempDir::new().expect("a temporary folder");
    fs::create_dir(dir.path().join("etc")).expect("a folder");
    fs::write(dir.path().join("etc").join(name), name).expect("a file");
    let mut tar = Command::new("tar");
    tar.args(["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "-C"]);
    run(tar.arg(dir.path()).args(["-c", "etc"])).stdout
}
