//! `registry usage` against a naive count of the files of the store.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::common::{
    OCI_EMPTY, OCI_INDEX, OCI_MANIFEST, REGISTRY, Registry, descriptor, eventually, run, send_to,
};
use crate::support::{blobs, entries, names, subject, text};

/// The lines of `registry usage --json`, without sizes that are not those of blobs.
pub fn usage(dir: &Path, options: &[&str]) -> Vec<Value> {
    let mut command = Command::new(REGISTRY);
    command.args(["usage", "--json", "--dir"]).arg(dir).args(options);
    lines(&text(&run(&mut command).stdout))
}

fn lines(text: &str) -> Vec<Value> {
    // Between the pieces of an answer over HTTP stand their lengths.
    let objects = text.lines().filter(|line| line.starts_with('{'));
    let parsed = objects.map(|line| serde_json::from_str(line).expect("a line of JSON"));
    parsed.filter(|line: &Value| line.get("end").is_none()).collect()
}

/// What a repository holds, read from its files.
#[derive(Default)]
struct Repository {
    manifests: BTreeMap<String, Value>,
    links: BTreeSet<String>,
    tags: BTreeMap<String, String>,
}

fn read(store: &Path, name: &str) -> Repository {
    let folder = store.join("repositories").join(name);
    let mut repository = Repository::default();
    for algorithm in ["sha256", "sha512"] {
        for hex in entries(&folder.join("_manifests/revisions").join(algorithm)) {
            let digest = format!("{algorithm}:{hex}");
            let bytes = fs::read(blob(store, &digest)).expect("a manifest");
            let document = serde_json::from_slice(&bytes).expect("a document");
            repository.manifests.insert(digest, document);
        }
        let links = entries(&folder.join("_layers").join(algorithm));
        repository.links.extend(links.into_iter().map(|hex| format!("{algorithm}:{hex}")));
    }
    for tag in entries(&folder.join("_manifests/tags")) {
        let link = folder.join("_manifests/tags").join(&tag).join("current/link");
        repository.tags.insert(tag, fs::read_to_string(link).expect("a link"));
    }
    repository
}

fn blob(store: &Path, digest: &str) -> std::path::PathBuf {
    let (algorithm, hex) = digest.split_once(':').expect("a digest");
    store.join("blobs").join(algorithm).join(&hex[..2]).join(hex).join("data")
}

impl Repository {
    /// The manifests that these lead to, themselves included.
    fn reached(&self, from: &BTreeSet<String>) -> BTreeSet<String> {
        let mut reached: BTreeSet<String> =
            from.iter().filter(|digest| self.manifests.contains_key(*digest)).cloned().collect();
        loop {
            let mut more = reached.clone();
            for (digest, manifest) in &self.manifests {
                let leads_to = names(manifest).into_iter().chain(subject(manifest));
                for other in leads_to.filter(|other| self.manifests.contains_key(other)) {
                    if reached.contains(digest) {
                        more.insert(other);
                    } else if subject(manifest).as_ref() == Some(&other) && reached.contains(&other)
                    {
                        more.insert(digest.clone());
                    }
                }
            }
            if more == reached {
                return reached;
            }
            reached = more;
        }
    }

    /// The blobs of manifests.
    fn blobs(&self, manifests: &BTreeSet<String>) -> BTreeSet<String> {
        let names = manifests.iter().flat_map(|digest| names(&self.manifests[digest]));
        let linked =
            names.filter(|name| self.links.contains(name) && !self.manifests.contains_key(name));
        linked.chain(manifests.iter().cloned()).collect()
    }
}

/// Compares what `registry usage` says with the files of a store.
pub fn check(dir: &Path, repositories: &[String]) {
    let store = dir.join("layers/docker/registry/v2");
    let sizes: BTreeMap<String, u64> = blobs(&store)
        .into_iter()
        .filter_map(|digest| {
            Some((digest.clone(), fs::metadata(blob(&store, &digest)).ok()?.len()))
        })
        .collect();
    let sum =
        |blobs: &BTreeSet<String>| blobs.iter().filter_map(|blob| sizes.get(blob)).sum::<u64>();
    let mut of_repositories = Vec::new();
    let mut of_roots = Vec::new();
    let mut named = BTreeSet::new();
    for name in repositories {
        let repository = read(&store, name);
        if repository.manifests.is_empty() {
            continue;
        }
        let all: BTreeSet<String> = repository.manifests.keys().cloned().collect();
        named.extend(repository.manifests.values().flat_map(names));
        let mut tags = 0;
        let mut untagged = all.clone();
        for (tag, digest) in &repository.tags {
            let reached = repository.reached(&BTreeSet::from([digest.clone()]));
            if reached.is_empty() {
                continue;
            }
            tags += 1;
            untagged.retain(|digest| !reached.contains(digest));
            let blobs = repository.blobs(&reached);
            of_roots
                .push((json!({"repository": name, "tag": tag, "manifests": reached.len()}), blobs));
        }
        if !untagged.is_empty() {
            let line = json!({"repository": name, "untagged": true, "manifests": untagged.len()});
            of_roots.push((line, repository.blobs(&untagged)));
        }
        let line = json!({"repository": name, "manifests": all.len(), "tags": tags});
        of_repositories.push((line, repository.blobs(&all)));
    }
    let mut want = Vec::new();
    for group in [&of_repositories, &of_roots] {
        for (place, (line, blobs)) in group.iter().enumerate() {
            let others: BTreeSet<String> = group
                .iter()
                .enumerate()
                .filter(|(other, _)| *other != place)
                .flat_map(|(_, (_, blobs))| blobs.iter().cloned())
                .collect();
            let unique = sum(&blobs.difference(&others).cloned().collect());
            let mut line = line.clone();
            line["size"] = sum(blobs).into();
            line["unique"] = unique.into();
            line["shared"] = (sum(blobs) - unique).into();
            want.push(line);
        }
    }
    let reached: BTreeSet<String> =
        of_repositories.iter().flat_map(|(_, blobs)| blobs.iter().cloned()).chain(named).collect();
    let unreferenced: BTreeSet<String> =
        sizes.keys().filter(|digest| !reached.contains(*digest)).cloned().collect();
    let total = json!({
        "repositories": of_repositories.len(),
        "blobs": sizes.len(),
        "blob_bytes": sizes.values().sum::<u64>(),
        "unreferenced": unreferenced.len(),
        "unreferenced_bytes": sum(&unreferenced),
    });
    let mut lines = usage(dir, &[]);
    let said = lines.pop().expect("the totals")["total"].take();
    for (name, value) in total.as_object().expect("an object") {
        assert_eq!(&said[name], value, "{name}: {said}");
    }
    sorted(&lines);
    let key = |line: &Value| line.to_string();
    lines.sort_by_key(key);
    want.sort_by_key(key);
    assert_eq!(lines, want);
}

/// What comes back the most stands first, and tags stand below their repository.
fn sorted(lines: &[Value]) {
    let groups: Vec<&[Value]> = lines.chunk_by(|a, b| a["repository"] == b["repository"]).collect();
    let unique = |line: &Value| line["unique"].as_u64().expect("a number");
    assert!(groups.is_sorted_by(|a, b| unique(&a[0]) >= unique(&b[0])), "{lines:?}");
    for group in groups {
        assert!(
            group[0].get("tags").is_some() && group[1..].iter().all(|of| of.get("tags").is_none())
        );
        assert!(group[1..].is_sorted_by(|a, b| unique(a) >= unique(b)), "{group:?}");
    }
}

/// Two repositories that share a layer, an index, a signature, and what no tag reaches.
fn pushed(registry: &Registry) -> [String; 2] {
    let first = registry.push_image("team/app", "1", "one");
    registry.push_image("team/app", "2", "two");
    registry.push_image("team/app", "moved", "three");
    registry.push_image("team/app", "moved", "four");
    registry.push_image("other/app", "1", "one");
    let child = registry.head("/v2/team/app/manifests/1");
    let size = child.header("content-length").expect("a length").parse().expect("a number");
    let child = descriptor(OCI_MANIFEST, &first, size);
    let signature = [("application/x.signature", "signature", None)];
    let subject = json!({"subject": child});
    registry.push_artifact("team/app", "sig", (OCI_EMPTY, "{}"), &signature, subject);
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [child]});
    let reply = registry.push_manifest("team/app", "all", OCI_INDEX, index.to_string().as_bytes());
    assert_eq!(reply.status, 201);
    registry.push_blob("third/app", b"nothing names this one");
    ["team/app".to_owned(), "other/app".to_owned()]
}

#[test]
fn counted_by_files() {
    let mut registry = Registry::start(&["--gc-interval", "0"]);
    let names = pushed(&registry);
    let dir = registry.dir.clone();
    check(&dir, &names);
    let said = text(&run(Command::new(REGISTRY).args(["usage", "--dir"]).arg(&dir)).stdout);
    assert!(said.contains("team/app, 1 manifests without a tag"), "{said}");
    assert!(said.contains(" 1 that no manifest names"), "{said}");

    // Only some, and only repositories.
    let some = usage(&dir, &["other/*"]);
    assert!(some.iter().all(|line| line["repository"] == "other/app"), "{some:?}");
    assert_eq!(some.len(), 2);
    let few = usage(&dir, &["--repositories"]);
    assert_eq!(few.len(), 3, "{few:?}");
    assert_eq!(usage(&dir, &["nothing/**"]), [Value::Null; 0]);

    // What goes is not counted any more.
    assert_eq!(registry.delete("/v2/team/app/manifests/2").status, 202);
    check(&dir, &names);
    crate::support::gc(&dir, &["--grace", "0", "--untagged"]);
    check(&dir, &names);

    // An upload that is not finished.
    let upload = registry.start_upload("team/app");
    let reply = registry.send("PATCH", &upload, &[("Content-Range", "0-3")], b"part");
    assert_eq!(reply.status, 202);
    let total = usage(&dir, &[]).pop().expect("the totals")["total"].take();
    assert_eq!(total["uploads"], 1);
    assert!(total["upload_bytes"].as_u64() >= Some(4), "{total}");
    assert!(total["index_bytes"].is_u64() && total["copy_bytes"].is_u64(), "{total}");

    registry.stop();
    check(&dir, &names);
    // Another server changed the store, and the index is gone.
    fs::remove_dir_all(registry.store().join("repositories/other/app")).expect("it goes");
    check(&dir, &names);
    fs::remove_dir_all(dir.join("db")).expect("it goes");
    check(&dir, &names);
}

#[test]
fn over_http() {
    let registry = Registry::start(&["--gc-interval", "0", "--metrics-listen", "127.0.0.1:0"]);
    pushed(&registry);
    let whole = registry.get("/v2/_query/usage");
    assert_eq!(whole.status, 200);
    assert_eq!(lines(&whole.text()), usage(&registry.dir, &[]));
    let url = format!("http://{}", registry.host());
    for options in [&[][..], &["--json"], &["--repositories"], &["team/**", "--json"]] {
        let of = |place: &[&str]| {
            let mut command = Command::new(REGISTRY);
            command.arg("usage").args(place).args(options).env("NO_PROXY", "*");
            text(&run(&mut command).stdout)
        };
        let dir = registry.dir.to_str().expect("UTF-8");
        assert_eq!(of(&["--server", &url]), of(&["--dir", dir]), "{options:?}");
    }
    // Page by page.
    let (mut all, mut after) = (Vec::new(), String::new());
    loop {
        let page = registry.get(&format!("/v2/_query/usage?limit=1{after}")).text();
        all.extend(lines(&page));
        let end = page.lines().find(|line| line.starts_with("{\"end\"")).expect("an end");
        let end: Value = serde_json::from_str(end).expect("JSON");
        match end["end"]["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(all, lines(&whole.text()));
    for (query, names) in [("x=1", "x"), ("after=nothing", "after"), ("in=[", "in")] {
        let reply = registry.get(&format!("/v2/_query/usage?{query}"));
        assert_eq!(reply.status, 400, "{query}");
        assert!(reply.text().contains(names), "{}", reply.text());
    }
    let address = registry.ready.split("metrics on http://").nth(1).expect("an address");
    let address = address.split('/').next().expect("an address").trim().parse().expect("one");
    eventually("metrics of the totals", || {
        let reply = send_to(address, "GET", "/metrics", &[], b"").expect("metrics");
        reply.text().contains("registry_store_bytes{kind=\"blobs\"}")
    });
}
