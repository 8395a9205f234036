//! What the tests share beyond the harness.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use registry::oci::Digest;
use serde_json::Value;

use crate::common::{REGISTRY, Registry, run};

/// Runs `registry gc --json` on a registry's folder. Returns what went of each repository, and the
/// totals.
pub fn gc(dir: &Path, options: &[&str]) -> (Vec<Value>, Value) {
    let output = run(&mut command(dir, options));
    let mut lines: Vec<Value> = text(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .collect();
    let end = lines.pop().expect("a line with the totals")["end"].take();
    assert!(end.is_object(), "{end}");
    (lines, end)
}

pub fn command(dir: &Path, options: &[&str]) -> Command {
    let mut command = Command::new(REGISTRY);
    command.args(["gc", "--json", "--dir"]).arg(dir).args(options);
    command
}

/// What a manifest names besides its subject.
pub fn names(manifest: &Value) -> Vec<String> {
    let lists = ["layers", "manifests"].map(|list| manifest[list].as_array().cloned());
    let all = lists.into_iter().flatten().flatten().chain([manifest["config"].clone()]);
    all.filter_map(|descriptor| Some(descriptor["digest"].as_str()?.to_owned())).collect()
}

pub fn subject(manifest: &Value) -> Option<String> {
    Some(manifest["subject"]["digest"].as_str()?.to_owned())
}

/// Runs a command that must fail; gives its message.
pub fn fails(mut command: Command) -> String {
    let Output { status, stderr, .. } = command.output().expect("the command runs");
    assert_eq!(status.code(), Some(1), "{}", text(&stderr));
    text(&stderr)
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The digests of all blobs of a store.
pub fn blobs(store: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for algorithm in ["sha256", "sha512"] {
        for prefix in entries(&store.join("blobs").join(algorithm)) {
            for hex in entries(&store.join("blobs").join(algorithm).join(prefix)) {
                found.insert(format!("{algorithm}:{hex}"));
            }
        }
    }
    found
}

pub fn entries(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
        .collect()
}

/// Makes all of a store look as if nothing had happened to it for so long.
pub fn age(folder: &Path, by: Duration) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let entry = entry.expect("an entry");
        if entry.file_type().expect("a type").is_dir() {
            age(&entry.path(), by);
        } else {
            let time = SystemTime::now() - by;
            File::open(entry.path()).and_then(|file| file.set_modified(time)).expect("its time");
        }
    }
}

pub fn is_there(registry: &Registry, repository: &str, blob: &Digest) -> bool {
    match registry.head(&format!("/v2/{repository}/blobs/{blob}")).status {
        200 => true,
        404 => false,
        status => panic!("{status}"),
    }
}

/// Makes a tag look as if it had been pushed so long ago.
pub fn set_time(registry: &Registry, repository: &str, tag: &str, ago: Duration) {
    let manifests = registry.store().join("repositories").join(repository).join("_manifests");
    let link = manifests.join("tags").join(tag).join("current/link");
    let time = SystemTime::now() - ago;
    File::open(link).and_then(|file| file.set_modified(time)).expect("its time");
}
