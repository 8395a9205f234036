//! `registry tags`: what it tells of each tag, and what counts as a pull.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::client;
use crate::common::{OCI_INDEX, OCI_MANIFEST, REGISTRY, Registry, descriptor, eventually, run};
use crate::support::{set_time, text};

pub fn tags(dir: &Path, repository: &str, options: &[&str]) -> Vec<Value> {
    let mut command = Command::new(REGISTRY);
    command.args(["tags", "--json", "--dir"]).arg(dir).arg(repository).args(options);
    lines(&text(&run(&mut command).stdout))
}

fn lines(text: &str) -> Vec<Value> {
    // Between the pieces of an answer over HTTP stand their lengths.
    let objects = text.lines().filter(|line| line.starts_with("{\"repository\""));
    objects.map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

fn names(lines: &[Value]) -> String {
    lines.iter().map(|line| line["tag"].as_str().expect("a tag")).collect::<Vec<_>>().join(" ")
}

/// The tags that were pulled.
fn pulled(lines: &[Value]) -> String {
    let pulled: Vec<Value> =
        lines.iter().filter(|line| !line["pulled"].is_null()).cloned().collect();
    names(&pulled)
}

#[test]
fn what_is_told() {
    let mut registry = Registry::start(&[]);
    let name = "team/app";
    let first = registry.push_image(name, "a", "one");
    registry.push_image(name, "b", "two");
    registry.push_image(name, "c", "three");
    let size =
        registry.head("/v2/team/app/manifests/a").header("content-length").map(str::to_owned);
    let size: usize = size.expect("a length").parse().expect("a number");
    let mut child = descriptor(OCI_MANIFEST, &first, size);
    child["platform"] = json!({"os": "linux", "architecture": "arm64"});
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [child]});
    registry.push_manifest(name, "all", OCI_INDEX, index.to_string().as_bytes());
    for (tag, days) in [("a", 1), ("b", 3), ("c", 2), ("all", 4)] {
        set_time(&registry, name, tag, Duration::from_secs(days * 86_400));
    }
    let dir = registry.dir.clone();
    let all = tags(&dir, name, &[]);
    assert_eq!(names(&all), "a all b c");
    assert_eq!(all[0]["digest"], first.to_string());
    assert_eq!(all[1]["media_type"], OCI_INDEX);
    assert_eq!(all[1]["platforms"], json!(["linux/arm64"]));
    assert!(all[1]["size"].as_u64() > all[0]["size"].as_u64(), "{all:?}");
    assert!(all[0]["pushed"].as_str().is_some_and(|time| time.ends_with('Z')), "{all:?}");
    assert_eq!(pulled(&all), "");
    assert_eq!(names(&tags(&dir, name, &["--order", "desc"])), "c b all a");
    assert_eq!(names(&tags(&dir, name, &["--sort", "pushed"])), "a c b all");
    assert_eq!(names(&tags(&dir, name, &["--sort", "pushed", "--order", "asc"])), "all b c a");
    assert_eq!(tags(&dir, name, &["--sort", "size"])[0]["tag"], "all");
    // Page by page.
    for sort in ["name", "pushed", "pulled", "size"] {
        let (mut found, mut after) = (Vec::new(), String::new());
        loop {
            let query = format!("repository={name}&sort={sort}&limit=1{after}");
            let page = registry.get(&format!("/v2/_query/tags?{query}")).text();
            found.extend(lines(&page));
            let end = page.lines().find(|line| line.starts_with("{\"end\"")).expect("an end");
            let end: Value = serde_json::from_str(end).expect("JSON");
            match end["end"]["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => break,
            }
        }
        assert_eq!(found, tags(&dir, name, &["--sort", sort]), "{sort}");
    }
    let url = format!("http://{}", registry.host());
    for options in [&[][..], &["--json"], &["--sort", "pushed", "--order", "asc"]] {
        let of = |place: &[&str]| {
            let mut command = Command::new(REGISTRY);
            command.args(["tags", name]).args(place).args(options).env("NO_PROXY", "*");
            text(&run(&mut command).stdout)
        };
        let dir = dir.to_str().expect("UTF-8");
        assert_eq!(of(&["--server", &url]), of(&["--dir", dir]), "{options:?}");
    }
    for (query, status) in [
        ("repository=nothing", 404),
        ("", 400),
        ("repository=team/app&sort=x", 400),
        ("repository=team/app&order=up", 400),
        ("repository=team/app&after=x", 400),
        ("repository=team/app&x=1", 400),
    ] {
        assert_eq!(registry.get(&format!("/v2/_query/tags?{query}")).status, status, "{query}");
    }
    registry.stop();
    assert_eq!(tags(&dir, name, &[]), all);
}

#[test]
fn what_is_a_pull() {
    let mut registry = Registry::start(&[]);
    let dir = registry.dir.clone();
    for tag in ["tag", "digest", "head", "none", "missing"] {
        registry.push_image("team/app", tag, tag);
    }
    let digest = |tag: &str| {
        let reply = registry.head(&format!("/v2/team/app/manifests/{tag}"));
        reply.header("docker-content-digest").expect("a digest").to_owned()
    };
    let (by_digest, missing) = (digest("digest"), digest("missing"));
    registry.get("/v2/team/app/manifests/tag");
    registry.get(&format!("/v2/team/app/manifests/{by_digest}"));
    // What is in memory counts too.
    registry.get("/v2/team/app/manifests/tag");
    registry.get("/v2/team/app/manifests/nothing");
    registry.delete(&format!("/v2/team/app/manifests/{missing}"));
    registry.get(&format!("/v2/team/app/manifests/{missing}"));
    client::push(&registry, "old/image", "v1", &client::chain("pulled"));
    registry.get("/v1/repositories/old/image/tags/v1");
    assert!(registry.stop().success());
    let all = tags(&dir, "team/app", &[]);
    assert_eq!(pulled(&all), "digest tag");
    assert_eq!(tags(&dir, "team/app", &["--sort", "pulled"]).len(), 4);
    assert_eq!(pulled(&tags(&dir, "old/image", &[])), "v1");

    // What is deleted and comes back was not pulled.
    registry.start_again(&[]);
    assert_eq!(registry.delete("/v2/team/app/manifests/tag").status, 202);
    registry.push_image("team/app", "tag", "another");
    assert_eq!(pulled(&tags(&dir, "team/app", &[])), "digest");

    // A server that is killed has written them after some seconds.
    registry.get("/v2/team/app/manifests/none");
    eventually("it is written down", || pulled(&tags(&dir, "team/app", &[])) == "digest none");
    registry.kill();
    assert_eq!(pulled(&tags(&dir, "team/app", &[])), "digest none");
}
