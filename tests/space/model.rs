//! Random pushes, deletes, mounts and collections, some of them killed, against a naive model.
//! Afterwards exactly what is reachable is there, byte for byte.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use registry::oci::Algorithm;
use serde_json::{Value, json};

use crate::client;
use crate::common::{OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, Registry, run};
use crate::support::{blobs, command, entries, gc, names, subject};
use crate::usage;

/// Steps choose among what there is by a number.
#[derive(Clone, Debug)]
enum Step {
    Blob { repository: usize, content: u8 },
    Image { repository: usize, tag: Option<u8>, layers: Vec<u8>, subject: Option<usize> },
    Index { repository: usize, tag: Option<u8>, children: Vec<usize> },
    Mount { from: usize, to: usize, content: u8 },
    DeleteTag { repository: usize, tag: u8 },
    DeleteManifest { repository: usize, manifest: usize },
    V1 { repository: usize, tag: u8, chain: u8 },
    Collect { untagged: bool, killed: Option<u8> },
}

fn step() -> impl Strategy<Value = Step> {
    let repository = 0..3_usize;
    let content = 0..5_u8;
    let tag = 0..3_u8;
    let maybe_tag = proptest::option::weighted(0.5, tag.clone());
    let layers = proptest::collection::vec(content.clone(), 0..3);
    let children = proptest::collection::vec(any::<usize>(), 0..3);
    prop_oneof![
        2 => (repository.clone(), content.clone())
            .prop_map(|(repository, content)| Step::Blob { repository, content }),
        6 => (repository.clone(), maybe_tag.clone(), layers, proptest::option::of(any::<usize>()))
            .prop_map(|(repository, tag, layers, subject)| Step::Image {
                repository, tag, layers, subject,
            }),
        3 => (repository.clone(), maybe_tag, children)
            .prop_map(|(repository, tag, children)| Step::Index { repository, tag, children }),
        2 => (repository.clone(), repository.clone(), content)
            .prop_map(|(from, to, content)| Step::Mount { from, to, content }),
        3 => (repository.clone(), tag.clone())
            .prop_map(|(repository, tag)| Step::DeleteTag { repository, tag }),
        3 => (repository.clone(), any::<usize>())
            .prop_map(|(repository, manifest)| Step::DeleteManifest { repository, manifest }),
        1 => (repository, tag, 0..2_u8)
            .prop_map(|(repository, tag, chain)| Step::V1 { repository, tag, chain }),
        3 => (any::<bool>(), proptest::option::weighted(0.4, 0..60_u8))
            .prop_map(|(untagged, killed)| Step::Collect { untagged, killed }),
    ]
}

/// What a repository should hold.
#[derive(Debug, Default)]
struct Repository {
    tags: BTreeMap<String, String>,
    /// By digest, the documents.
    manifests: BTreeMap<String, Value>,
    links: BTreeSet<String>,
}

impl Repository {
    fn name(number: usize) -> String {
        ["app", "team/one", "team/one/below"][number].to_owned()
    }

    /// Removes what no tag reaches, if that is asked for, and the links that nothing names.
    fn collect(&mut self, untagged: bool) {
        if untagged {
            let mut reached: BTreeSet<String> = self.tags.values().cloned().collect();
            loop {
                let mut more = reached.clone();
                for (digest, manifest) in &self.manifests {
                    if reached.contains(digest) {
                        more.extend(names(manifest));
                        more.extend(subject(manifest));
                    }
                    if subject(manifest).is_some_and(|subject| {
                        reached.contains(&subject) && self.manifests.contains_key(&subject)
                    }) {
                        more.insert(digest.clone());
                    }
                }
                if more == reached {
                    break;
                }
                reached = more;
            }
            self.manifests.retain(|digest, _| reached.contains(digest));
        }
        let named: BTreeSet<String> = self.manifests.values().flat_map(names).collect();
        self.links.retain(|link| named.contains(link));
    }
}

fn content(number: u8) -> Vec<u8> {
    format!("content {number}").into_bytes()
}

fn digest(bytes: &[u8]) -> String {
    Algorithm::Sha256.digest(bytes).to_string()
}

struct World {
    registry: Registry,
    repositories: [Repository; 3],
    /// The bytes of everything that was pushed.
    pushed: BTreeMap<String, Vec<u8>>,
}

impl World {
    fn new() -> World {
        let registry = Registry::start(&["--gc-interval", "0"]);
        World { registry, repositories: Default::default(), pushed: BTreeMap::new() }
    }

    fn push_blob(&mut self, repository: usize, bytes: Vec<u8>) -> Value {
        let digest = digest(&bytes);
        self.registry.push_blob(&Repository::name(repository), &bytes);
        self.repositories[repository].links.insert(digest.clone());
        let descriptor = json!({"mediaType": OCI_LAYER, "digest": digest, "size": bytes.len()});
        self.pushed.insert(digest, bytes);
        descriptor
    }

    fn push_manifest(&mut self, repository: usize, tag: Option<u8>, kind: &str, manifest: Value) {
        let bytes = manifest.to_string().into_bytes();
        let digest = digest(&bytes);
        let reference = tag.map_or(digest.clone(), |tag| format!("t{tag}"));
        let name = Repository::name(repository);
        let reply = self.registry.push_manifest(&name, &reference, kind, &bytes);
        assert_eq!(reply.status, 201, "{}", reply.text());
        self.pushed.insert(digest.clone(), bytes);
        let repository = &mut self.repositories[repository];
        if tag.is_some() {
            repository.tags.insert(reference, digest.clone());
        }
        repository.manifests.insert(digest, manifest);
    }

    /// A descriptor of one of the manifests of a repository.
    fn pick(&self, repository: usize, choice: usize) -> Option<Value> {
        let manifests = &self.repositories[repository].manifests;
        let digest = manifests.keys().nth(choice % manifests.len().max(1))?;
        let size = self.pushed[digest].len();
        Some(json!({"mediaType": OCI_MANIFEST, "digest": digest, "size": size}))
    }

    fn step(&mut self, number: usize, step: &Step) {
        match step {
            Step::Blob { repository, content: which } => {
                self.push_blob(*repository, content(*which));
            }
            Step::Image { repository, tag, layers, subject } => {
                let config = format!(r#"{{"step":{number}}}"#).into_bytes();
                let mut config = self.push_blob(*repository, config);
                config["mediaType"] = OCI_CONFIG.into();
                let layers: Vec<Value> = layers
                    .iter()
                    .map(|which| self.push_blob(*repository, content(*which)))
                    .collect();
                let mut manifest = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST,
                    "config": config, "layers": layers});
                if let Some(subject) = subject.and_then(|choice| self.pick(*repository, choice)) {
                    manifest["subject"] = subject;
                }
                self.push_manifest(*repository, *tag, OCI_MANIFEST, manifest);
            }
            Step::Index { repository, tag, children } => {
                let children: Vec<Value> =
                    children.iter().filter_map(|child| self.pick(*repository, *child)).collect();
                let manifest = json!({"schemaVersion": 2, "mediaType": OCI_INDEX,
                    "manifests": children, "annotations": {"step": number.to_string()}});
                self.push_manifest(*repository, *tag, OCI_INDEX, manifest);
            }
            Step::Mount { from, to, content: which } => {
                let digest = digest(&content(*which));
                let (from, name) = (*from, Repository::name(*to));
                let source = Repository::name(from);
                let path = format!("/v2/{name}/blobs/uploads/?mount={digest}&from={source}");
                let status = self.registry.send("POST", &path, &[], b"").status;
                let is_there = self.repositories[from].links.contains(&digest);
                assert_eq!(status, if is_there { 201 } else { 202 });
                if is_there {
                    self.repositories[*to].links.insert(digest);
                }
            }
            Step::DeleteTag { repository, tag } => {
                let (name, tag) = (Repository::name(*repository), format!("t{tag}"));
                let status = self.registry.delete(&format!("/v2/{name}/manifests/{tag}")).status;
                let is_there = self.repositories[*repository].tags.remove(&tag).is_some();
                assert_eq!(status, if is_there { 202 } else { 404 });
            }
            Step::DeleteManifest { repository, manifest } => {
                let Some(picked) = self.pick(*repository, *manifest) else { return };
                let digest = picked["digest"].as_str().unwrap().to_owned();
                let name = Repository::name(*repository);
                let reply = self.registry.delete(&format!("/v2/{name}/manifests/{digest}"));
                assert_eq!(reply.status, 202);
                let repository = &mut self.repositories[*repository];
                repository.manifests.remove(&digest);
                repository.tags.retain(|_, named| *named != digest);
            }
            Step::V1 { repository, tag, chain } => self.push_v1(*repository, *tag, *chain),
            Step::Collect { untagged, killed } => self.collect(*untagged, *killed),
        }
    }

    /// Docker 1.x pushes an image, which becomes a manifest.
    fn push_v1(&mut self, repository: usize, tag: u8, chain: u8) {
        let (name, tag) = (Repository::name(repository), format!("t{tag}"));
        // The first API knows names of at most two parts.
        if name.matches('/').count() > 1 {
            return;
        }
        client::push(&self.registry, &name, &tag, &client::chain(&format!("chain {chain}")));
        let reply = self.registry.get(&format!("/v2/{name}/manifests/{tag}"));
        let (digest, manifest) = (digest(&reply.body), reply.json());
        self.pushed.insert(digest.clone(), reply.body);
        for blob in names(&manifest) {
            let reply = self.registry.get(&format!("/v2/{name}/blobs/{blob}"));
            assert_eq!(reply.status, 200);
            self.pushed.insert(blob.clone(), reply.body);
            self.repositories[repository].links.insert(blob);
        }
        self.repositories[repository].tags.insert(tag, digest.clone());
        self.repositories[repository].manifests.insert(digest, manifest);
    }

    fn collect(&mut self, untagged: bool, killed: Option<u8>) {
        let dir = self.registry.dir.clone();
        let mut options = vec!["--grace", "0"];
        if untagged {
            options.push("--untagged");
        }
        if let Some(after) = killed {
            let mut child = command(&dir, &options).spawn().expect("gc starts");
            thread::sleep(Duration::from_millis(after.into()));
            self.registry.kill();
            // It may have been done before.
            child.wait().expect("an end");
            self.registry.start_again(&["--gc-interval", "0"]);
        }
        gc(&dir, &options);
        self.repositories.iter_mut().for_each(|repository| repository.collect(untagged));
        self.check();
    }

    fn check(&self) {
        let store = self.registry.store();
        let mut wanted = BTreeSet::new();
        for (number, repository) in self.repositories.iter().enumerate() {
            let folder = store.join("repositories").join(Repository::name(number));
            let links = hex(&folder.join("_layers/sha256"));
            assert_eq!(links, repository.links, "links of {number}");
            let manifests = hex(&folder.join("_manifests/revisions/sha256"));
            let want: BTreeSet<String> = repository.manifests.keys().cloned().collect();
            assert_eq!(manifests, want, "manifests of {number}");
            wanted.extend(links.into_iter().chain(manifests));
            // The bytes of a manifest that was deleted stay while an index names it.
            wanted.extend(repository.manifests.values().flat_map(names));
        }
        // The empty layers of images of the first API are in no manifest.
        let images = self.registry.dir.join("layers/docker/registry/v1/images");
        for prefix in entries(&images) {
            for image in entries(&images.join(&prefix)) {
                let layer = images.join(&prefix).join(image).join("layer");
                wanted.insert(fs::read_to_string(layer).expect("a layer"));
            }
        }
        assert_eq!(blobs(&store), wanted);
        usage::check(&self.registry.dir, &[0, 1, 2].map(Repository::name));
        self.read_everything();
    }

    fn read_everything(&self) {
        for (number, repository) in self.repositories.iter().enumerate() {
            let name = Repository::name(number);
            for digest in repository.manifests.keys() {
                let reply = self.registry.get(&format!("/v2/{name}/manifests/{digest}"));
                assert_eq!((reply.status, &reply.body), (200, &self.pushed[digest]));
            }
            for (tag, digest) in &repository.tags {
                let reply = self.registry.get(&format!("/v2/{name}/manifests/{tag}"));
                assert_eq!((reply.status, &reply.body), (200, &self.pushed[digest]));
            }
            for digest in &repository.links {
                let reply = self.registry.get(&format!("/v2/{name}/blobs/{digest}"));
                assert_eq!((reply.status, &reply.body), (200, &self.pushed[digest]));
            }
        }
    }
}

fn hex(folder: &Path) -> BTreeSet<String> {
    entries(folder).into_iter().map(|hex| format!("sha256:{hex}")).collect()
}

#[test]
fn exactly_what_is_reachable_is_left() {
    let config = ProptestConfig { cases: 40, ..ProptestConfig::default() };
    let steps = proptest::collection::vec(step(), 1..40);
    let mut runner = TestRunner::new(config);
    let result = runner.run(&steps, |steps| {
        let mut world = World::new();
        for (number, step) in steps.iter().enumerate() {
            world.step(number, step);
        }
        usage::check(&world.registry.dir, &[0, 1, 2].map(Repository::name));
        world.collect(false, None);
        world.collect(true, None);
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}

/// Distribution's own collector agrees on what a store needs.
#[test]
fn distribution_collects_the_same() {
    crate::common::need("docker-registry", "docker-registry");
    let mut runner = TestRunner::new(ProptestConfig { cases: 10, ..ProptestConfig::default() });
    // It knows no referrers, and counts a manifest as named only by a tag or an index.
    let steps = proptest::collection::vec(step(), 10..40).prop_map(|steps| {
        let plain = steps.into_iter().filter(|step| match step {
            Step::Image { subject, .. } => subject.is_none(),
            Step::V1 { .. } | Step::Collect { .. } => false,
            _ => true,
        });
        plain.collect::<Vec<_>>()
    });
    let result = runner.run(&steps, |steps| {
        let mut world = World::new();
        for (number, step) in steps.iter().enumerate() {
            world.step(number, step);
        }
        let store = world.registry.store();
        world.registry.stop();
        for untagged in [false, true] {
            let theirs = tempfile::tempdir().expect("a folder");
            let layers = world.registry.dir.join("layers");
            run(std::process::Command::new("cp").arg("-a").arg(&layers).arg(theirs.path()));
            let root = theirs.path().join("layers");
            // Its collector fails at a repository that never had a tag.
            for number in 0..3 {
                let name = Repository::name(number);
                let manifests =
                    root.join("docker/registry/v2/repositories").join(name).join("_manifests");
                if manifests.exists() {
                    fs::create_dir_all(manifests.join("tags")).expect("a folder");
                }
            }
            let config = theirs.path().join("config.yml");
            let text = format!(
                "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\n",
                root.display()
            );
            fs::write(&config, text).expect("the configuration");
            let mut collect = std::process::Command::new("docker-registry");
            collect.arg("garbage-collect");
            if untagged {
                collect.arg("--delete-untagged");
            }
            run(collect.arg(&config));
            let mut options = vec!["--grace", "0"];
            if untagged {
                options.push("--untagged");
            }
            gc(&world.registry.dir, &options);
            let [ours, theirs] =
                [store.clone(), root.join("docker/registry/v2")].map(|s| blobs(&s));
            // It takes the images of an index away, because no tag names them (distribution#3178).
            let wrong = untagged && steps.iter().any(|step| matches!(step, Step::Index { .. }));
            let different: Vec<_> = match wrong {
                true => theirs.difference(&ours).collect(),
                false => ours.symmetric_difference(&theirs).collect(),
            };
            assert!(different.is_empty(), "untagged {untagged}: {different:?} of {ours:?}");
        }
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}
