//! Rules of retention: which tags they delete, which they protect, and what a file of them may say.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::client;
use crate::common::{OCI_MANIFEST, REGISTRY, Registry, eventually, run};
use crate::support::{age, gc, set_time, text};
use crate::tags::tags;

const DAY: u64 = 86_400;

/// Runs `registry retention --json`. Returns what went, as `repository:tag@line`.
fn retention(dir: &Path, options: &[&str]) -> Vec<String> {
    let mut command = Command::new(REGISTRY);
    let output = run(command.args(["retention", "--json", "--dir"]).arg(dir).args(options));
    let parse = |line: &str| serde_json::from_str::<Value>(line).expect("a line of JSON");
    let mut lines: Vec<Value> = text(&output.stdout).lines().map(parse).collect();
    let end = lines.pop().expect("an end");
    assert_eq!(end["end"]["tags"], lines.len(), "{end}");
    let text = |line: &Value, field: &str| line[field].as_str().expect("text").to_owned();
    let line = |line: &Value| {
        format!("{}:{}@{}", text(line, "repository"), text(line, "tag"), line["rule"])
    };
    lines.iter().map(line).collect()
}

fn names(registry: &Registry, repository: &str) -> Vec<String> {
    let tags = registry.get(&format!("/v2/{repository}/tags/list")).json()["tags"].clone();
    let tags: Vec<String> = serde_json::from_value(tags).expect("a list");
    tags
}

fn stocked(arguments: &[&str]) -> Registry {
    let registry = Registry::start(arguments);
    for repository in ["team/app", "other/app"] {
        for (tag, days) in [("v1", 100), ("v2", 50), ("pr-1", 20), ("pr-2", 10), ("latest", 1)] {
            registry.push_image(repository, tag, &format!("{repository} {tag}"));
            set_time(&registry, repository, tag, Duration::from_secs(days * DAY));
        }
    }
    registry
}

#[test]
fn tags_go_by_the_rules() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("rules.toml");
    let path = file.to_str().expect("UTF-8");
    fs::write(
        &file,
        "[[rules]]\nrepositories = [\"team/**\"]\ntags = [\"pr-*\"]\nyounger = \"15d\"\n",
    )
    .expect("a file");
    let mut registry = stocked(&["--gc-interval", "0", "--retention", path]);
    let dir = registry.dir.clone();
    assert_eq!(retention(&dir, &["--dry-run"]), ["team/app:pr-1@1"]);
    assert_eq!(names(&registry, "team/app").len(), 5);
    let said = run(Command::new(REGISTRY).args(["retention", "--dry-run", "--dir"]).arg(&dir));
    let said = text(&said.stdout);
    assert!(
        said.contains("team/app:pr-1 pushed ") && said.contains("would delete 1 tags"),
        "{said}"
    );

    // The file is read again, and another one can be tried.
    let other = folder.path().join("other.toml");
    fs::write(&other, "[[rules]]\nrepositories = [\"**\"]\nnewest = 1\nkeep = [\"v*\"]\n")
        .expect("a file");
    let other = ["--dry-run", "--retention", other.to_str().expect("UTF-8")];
    let want = ["other/app:pr-1@1", "other/app:pr-2@1", "team/app:pr-1@1", "team/app:pr-2@1"];
    let mut found = retention(&dir, &other);
    found.sort();
    assert_eq!(found, want);
    fs::write(&file, "[[rules]]\nrepositories = [\"team/*\"]\nnewest = 2\nimmutable = [\"v1\"]\n")
        .expect("a file");
    // A tag that is deleted counts for events.
    let mut found = retention(&dir, &["--dry-run"]);
    found.sort();
    assert_eq!(found, ["team/app:pr-1@1", "team/app:v2@1"]);
    fs::write(&file, "[[rules]]\nrepositories = 3\n").expect("a file");
    assert_eq!(retention(&dir, &["--dry-run"]).len(), 2, "the old rules stay");
    assert!(registry.log().contains("stays in force"), "{}", registry.log());
    gc(&dir, &[]);
    assert_eq!(names(&registry, "team/app"), ["latest", "pr-2", "v1"]);
    assert_eq!(names(&registry, "other/app").len(), 5);
    assert!(registry.log().contains("retention deleted a tag"), "{}", registry.log());

    // Without a server.
    registry.stop();
    let (code, message) = fails(&dir, &[]);
    assert_eq!(code, 1);
    assert!(message.contains("--retention"), "{message}");
    fs::write(&file, "[[rules]]\nrepositories = [\"other/**\"]\nnewest = 0\nkeep = [\"latest\"]\n")
        .expect("a file");
    assert_eq!(retention(&dir, &["--retention", path, "--dry-run"]).len(), 4);
    assert_eq!(retention(&dir, &["--retention", path]).len(), 4);
    assert_eq!(tags(&dir, "other/app", &[]).len(), 1);
    fs::write(&file, "[[rules]]\nrepositories = [\"a\"]\nolder = \"1d\"\n").expect("a file");
    let (code, message) = fails(&dir, &["--retention", path]);
    assert_eq!(code, 1);
    assert!(message.contains("line 3") && message.contains("older"), "{message}");
    let output = Registry::command(&dir, &["--retention", path]).output().expect("it runs");
    assert!(!output.status.success());
}

fn fails(dir: &Path, options: &[&str]) -> (i32, String) {
    let mut command = Command::new(REGISTRY);
    let output = command.args(["retention", "--dir"]).arg(dir).args(options).output();
    let output = output.expect("it runs");
    (output.status.code().expect("a code"), text(&output.stderr))
}

/// What was pulled lately stays, and what was never pulled counts from when pulls are noted on.
#[test]
fn pulls_keep_tags() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("rules.toml");
    let path = file.to_str().expect("UTF-8");
    fs::write(&file, "[[rules]]\nrepositories = [\"team/**\"]\npulled = \"1s\"\n").expect("a file");
    let registry = stocked(&["--gc-interval", "0", "--retention", path]);
    let dir = registry.dir.clone();
    eventually("nobody has pulled them", || retention(&dir, &["--dry-run"]).len() == 5);
    registry.get("/v2/team/app/manifests/v1");
    let stays = retention(&dir, &["--dry-run"]);
    assert_eq!(stays.len(), 4, "{stays:?}");
    fs::write(&file, "[[rules]]\nrepositories = [\"team/**\"]\npulled = \"1d\"\n").expect("a file");
    assert_eq!(retention(&dir, &[]), [""; 0]);
}

#[test]
fn immutable_tags() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("rules.toml");
    let path = file.to_str().expect("UTF-8");
    fs::write(&file, "[[rules]]\nrepositories = [\"team/**\", \"old/*\"]\nimmutable = [\"v*\"]\n")
        .expect("a file");
    let registry = stocked(&["--gc-interval", "0", "--retention", path]);
    let bytes = registry.get("/v2/team/app/manifests/v1").body;
    let other = registry.get("/v2/team/app/manifests/v2").body;
    let digest = registry.head("/v2/team/app/manifests/v1");
    let digest = digest.header("docker-content-digest").expect("a digest").to_owned();
    let push = |reference: &str, bytes: &[u8]| {
        registry.push_manifest("team/app", reference, OCI_MANIFEST, bytes)
    };
    assert_eq!(push("v1", &bytes).status, 201, "the same manifest");
    let reply = push("v1", &other);
    assert_eq!((reply.status, reply.code().as_str()), (409, "TAG_IMMUTABLE"));
    assert!(reply.text().contains("team/app:v1 is immutable"), "{}", reply.text());
    let other_digest = registry.head("/v2/team/app/manifests/v2");
    let other_digest = other_digest.header("docker-content-digest").expect("a digest").to_owned();
    let reply = push(&format!("{other_digest}?tag=new&tag=v1"), &other);
    assert_eq!(reply.status, 409);
    assert!(!names(&registry, "team/app").contains(&"new".to_owned()), "all or nothing");
    assert_eq!(push("latest", &other).status, 201, "another tag");
    for reference in ["v1", &digest] {
        let reply = registry.delete(&format!("/v2/team/app/manifests/{reference}"));
        assert_eq!((reply.status, reply.code().as_str()), (409, "TAG_IMMUTABLE"), "{reference}");
    }
    assert_eq!(registry.delete("/v2/team/app/manifests/v9").status, 404);
    assert_eq!(registry.get("/v2/team/app/manifests/v1").body, bytes);
    assert_eq!(registry.delete("/v2/other/app/manifests/v1").status, 202, "no rule is about it");

    let chain = client::chain("immutable");
    client::push(&registry, "old/image", "v1", &chain);
    let id = &client::chain("another");
    client::push(&registry, "old/image", "other", id);
    let image = registry.get("/v1/repositories/old/image/tags/other").text();
    let path = "/v1/repositories/old/image/tags/v1";
    assert_eq!(registry.send("PUT", path, &[], image.as_bytes()).status, 409);
    assert_eq!(registry.delete(path).status, 409);
    assert_eq!(registry.delete("/v1/repositories/old/image/tags").status, 409);
    assert_eq!(names(&registry, "old/image"), ["other", "v1"], "all or nothing");
}

#[test]
fn untagged_manifests() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("rules.toml");
    let path = file.to_str().expect("UTF-8");
    fs::write(&file, "[[rules]]\nrepositories = [\"team/**\"]\nuntagged = \"7d\"\n")
        .expect("a file");
    let registry = stocked(&["--gc-interval", "0", "--retention", path]);
    let dir = registry.dir.clone();
    let mut digests = Vec::new();
    for repository in ["team/app", "other/app"] {
        let reply = registry.head(&format!("/v2/{repository}/manifests/v1"));
        let digest = reply.header("docker-content-digest").expect("a digest").to_owned();
        assert_eq!(registry.delete(&format!("/v2/{repository}/manifests/v1")).status, 202);
        digests.push(format!("/v2/{repository}/manifests/{digest}"));
    }
    age(&registry.store(), Duration::from_secs(3 * DAY));
    gc(&dir, &[]);
    assert_eq!(registry.get(&digests[0]).status, 200, "not yet");
    age(&registry.store(), Duration::from_secs(8 * DAY));
    gc(&dir, &[]);
    assert_eq!(registry.get(&digests[0]).status, 404);
    assert_eq!(registry.get(&digests[1]).status, 200, "no rule is about it");
    assert_eq!(names(&registry, "team/app").len(), 4);
}
