//! `kill -9` at random moments while clients push, move and delete. After
//! each restart every acknowledged thing is there, byte for byte, what was
//! under way is wholly there or wholly not, and nothing else is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use registry::oci::{Algorithm, Digest};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{
    OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Registry, Reply, descriptor, eventually, noise,
};
use crate::probe::{Wire, assert_sound, files};

/// Kills in all, and on one store: each store starts empty, so that making its
/// folders and its index is killed too, and what a round has to check is bounded.
const ROUNDS: u64 = 208;
const ROUNDS_A_STORE: u64 = 26;
const CLIENTS: usize = 4;
/// A round's work lasts so long at most.
const WORK_MS: u64 = 120;
/// One round in so many has its start killed too, at most so late.
const KILLED_STARTS: u64 = 8;
const START_MS: u64 = 25;

/// Blobs that all clients push, often at the same time.
const SHARED_BLOBS: u64 = 6;
const SHARED_REPOSITORY: &str = "shared/pool";
/// From nothing to more than a few of the server's reads.
const SIZES: [usize; 6] = [0, 1, 100, 5_000, 70_000, 400_000];

/// xorshift64*: the same choices for the same seed.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        // The first ones of neighbouring seeds are alike.
        for _ in 0..8 {
            random.next();
        }
        random
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len() as u64) as usize]
    }
}

type Content = Arc<Vec<u8>>;

/// Something that a client can ask for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    Blob(String, Digest),
    Manifest(String, Digest),
    Tag(String, String),
}

impl Name {
    fn path(&self) -> String {
        match self {
            Name::Blob(repository, digest) => format!("/v2/{repository}/blobs/{digest}"),
            Name::Manifest(repository, digest) => format!("/v2/{repository}/manifests/{digest}"),
            Name::Tag(repository, tag) => format!("/v2/{repository}/manifests/{tag}"),
        }
    }
}

/// What may be found under a name; `None` is nothing.
#[derive(Debug, Default)]
struct Expected {
    acknowledged: Option<Content>,
    /// What requests without an answer asked for.
    under_way: Vec<Option<Content>>,
}

/// What one request changes.
type Changes = Vec<(Name, Option<Content>)>;

/// What the store should hold. A tag belongs to one client; what several
/// clients push is only ever added, so that the order of their answers says
/// nothing.
#[derive(Default)]
struct Model(Mutex<BTreeMap<Name, Expected>>);

impl Model {
    fn under_way(&self, changes: &Changes) {
        let mut names = self.0.lock().unwrap();
        for (name, content) in changes {
            let expected = names.entry(name.clone()).or_default();
            expected.under_way.push(content.clone());
        }
    }

    fn acknowledged(&self, changes: &Changes) {
        let mut names = self.0.lock().unwrap();
        for (name, content) in changes {
            let expected = names.get_mut(name).expect("it was under way");
            let i = expected
                .under_way
                .iter()
                .position(|asked| asked == content)
                .expect("it was under way");
            expected.under_way.swap_remove(i);
            expected.acknowledged.clone_from(content);
        }
    }

    /// What is certainly there, of the names that `wanted` lets through.
    fn present(&self, wanted: impl Fn(&Name) -> bool) -> Vec<(Name, Content)> {
        let names = self.0.lock().unwrap();
        names
            .iter()
            .filter(|(name, expected)| wanted(name) && expected.under_way.is_empty())
            .filter_map(|(name, expected)| {
                Some((name.clone(), Arc::clone(expected.acknowledged.as_ref()?)))
            })
            .collect()
    }

    /// Asks a restarted server for everything. What was under way has happened
    /// or not, and from here on stays so.
    fn settle(&self, wire: &mut Wire) -> BTreeMap<Name, Content> {
        let mut present = BTreeMap::new();
        for (name, expected) in self.0.lock().unwrap().iter_mut() {
            let reply = wire.get(&name.path());
            let found = match reply.status {
                200 => Some(Arc::new(reply.body)),
                404 => None,
                status => panic!("{name:?}: {status}"),
            };
            assert!(
                found == expected.acknowledged || expected.under_way.contains(&found),
                "{name:?} is {}, want {} or one of {:?}",
                summary(&found),
                summary(&expected.acknowledged),
                expected.under_way.iter().map(summary).collect::<Vec<_>>(),
            );
            expected.under_way.clear();
            expected.acknowledged.clone_from(&found);
            if let Some(content) = found {
                present.insert(name.clone(), content);
            }
        }
        present
    }
}

fn summary(content: &Option<Content>) -> String {
    match content {
        None => "nothing".into(),
        Some(content) => {
            format!("{} bytes of {}", content.len(), Algorithm::Sha256.digest(content))
        }
    }
}

/// A blob on its way in pieces.
struct Upload {
    repository: String,
    location: String,
    content: Content,
    digest: Digest,
    /// Bytes that were acknowledged.
    received: usize,
    /// The last request was sent, and not answered.
    finishing: bool,
}

/// The answer, or why there is none: the server was killed.
type Step<T = ()> = io::Result<T>;

struct Client<'a> {
    registry: &'a Registry,
    model: &'a Model,
    random: Random,
    repositories: [String; 2],
    /// Survives the server.
    upload: &'a mut Option<Upload>,
}

impl Client<'_> {
    /// Works until the server is gone.
    fn run(mut self, killing: &AtomicBool) {
        let error = loop {
            if let Err(error) = self.step() {
                break error;
            }
        };
        assert!(killing.load(Ordering::SeqCst), "{error}, and nobody killed the server");
    }

    fn step(&mut self) -> Step {
        if self.upload.is_some() {
            return self.resume();
        }
        match self.random.below(16) {
            0..=3 => self.push_whole_blob(),
            4..=5 => self.push_blob_in_pieces(),
            6 => self.mount(),
            7..=11 => self.push_manifest(),
            12 => self.move_tag(),
            13 => self.delete(|name| matches!(name, Name::Tag(..))),
            14 => self.delete(|name| matches!(name, Name::Manifest(..))),
            _ => self.delete(|name| matches!(name, Name::Blob(..))),
        }
    }

    fn repository(&mut self) -> String {
        self.random.pick(&self.repositories).clone()
    }

    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Step<Reply> {
        self.registry.try_send(method, path, headers, body)
    }

    /// Sends a request that makes these changes, and must succeed.
    fn change(
        &self,
        changes: &Changes,
        want: u16,
        send: impl FnOnce(&Self) -> Step<Reply>,
    ) -> Step {
        self.model.under_way(changes);
        let reply = send(self)?;
        assert_eq!(reply.status, want, "{changes:?}: {}", reply.text());
        self.model.acknowledged(changes);
        Ok(())
    }

    /// A repository and what to push to it.
    fn new_blob(&mut self) -> (String, Content, Digest) {
        let (repository, seed) = if self.random.one_in(4) {
            (SHARED_REPOSITORY.into(), self.random.below(SHARED_BLOBS))
        } else {
            (self.repository(), self.random.next())
        };
        let size = SIZES[seed as usize % SIZES.len()];
        let content = Arc::new(noise(seed, size));
        let algorithm = match seed % 5 {
            0 => Algorithm::Sha512,
            _ => Algorithm::Sha256,
        };
        let digest = algorithm.digest(&content);
        (repository, content, digest)
    }

    fn push_whole_blob(&mut self) -> Step {
        let (repository, content, digest) = self.new_blob();
        let path = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
        let change = vec![(Name::Blob(repository, digest), Some(Arc::clone(&content)))];
        self.change(&change, 201, |c| c.send("POST", &path, &[], &content))
    }

    fn push_blob_in_pieces(&mut self) -> Step {
        let (repository, content, digest) = self.new_blob();
        let path = format!("/v2/{repository}/blobs/uploads/");
        let reply = self.send("POST", &path, &[], b"")?;
        assert_eq!(reply.status, 202, "{}", reply.text());
        *self.upload = Some(Upload {
            repository,
            location: reply.header("location").expect("a location").to_owned(),
            content,
            digest,
            received: 0,
            finishing: false,
        });
        self.send_pieces()
    }

    /// Goes on with the upload from where it stands.
    fn send_pieces(&mut self) -> Step {
        let mut upload = self.upload.take().expect("called with an upload");
        let result = self.finish(&mut upload);
        if result.is_err() {
            *self.upload = Some(upload);
        }
        result
    }

    fn finish(&mut self, upload: &mut Upload) -> Step {
        let left = upload.content.len() - upload.received;
        for _ in 0..self.random.below(3) {
            let length = self.random.below(left as u64 / 2 + 1) as usize;
            let end = (upload.received + length).min(upload.content.len());
            let piece = &upload.content[upload.received..end];
            let chunked = [("Transfer-Encoding", "chunked")];
            let headers = &chunked[..self.random.below(2) as usize];
            let reply = self.send("PATCH", &upload.location, headers, piece)?;
            assert_eq!(reply.status, 202, "{}", reply.text());
            upload.received = end;
        }
        upload.finishing = true;
        let path = format!("{}?digest={}", upload.location, upload.digest);
        let rest = &upload.content[upload.received..];
        let name = Name::Blob(upload.repository.clone(), upload.digest);
        let change = vec![(name, Some(Arc::clone(&upload.content)))];
        self.change(&change, 201, |c| c.send("PUT", &path, &[], rest))
    }

    /// Finds an upload after a restart and goes on with it. It may be gone only if its last request
    /// was sent, or if none of its bytes was acknowledged: it has a folder from the first byte on.
    fn resume(&mut self) -> Step {
        let upload = self.upload.as_ref().expect("called with an upload");
        let reply = self.send("GET", &upload.location, &[], b"")?;
        if reply.status == 404 && (upload.finishing || upload.received == 0) {
            *self.upload = None;
            return Ok(());
        }
        assert_eq!(reply.status, 204, "{}", reply.text());
        let last: usize = reply
            .header("range")
            .and_then(|range| range.strip_prefix("0-"))
            .and_then(|last| last.parse().ok())
            .expect("a range");
        let stands = match upload.content.get(..1) {
            None => 0,
            // Nothing and one byte look alike. The first byte is taken if it
            // is missing, and refused if it is not.
            Some(first) if last == 0 => {
                let range = [("Content-Range", "0-0")];
                let reply = self.send("PATCH", &upload.location, &range, first)?;
                assert!(matches!(reply.status, 202 | 416), "{}", reply.text());
                1
            }
            Some(_) => last + 1,
        };
        assert!(
            (upload.received..=upload.content.len()).contains(&stands),
            "{stands} bytes are there, {} were acknowledged of {}",
            upload.received,
            upload.content.len()
        );
        let upload = self.upload.as_mut().expect("still there");
        upload.received = stands;
        upload.finishing = false;
        self.send_pieces()
    }

    fn mount(&mut self) -> Step {
        let to = self.repository();
        let own = self.repositories.clone();
        let blobs =
            self.model.present(|name| matches!(name, Name::Blob(from, _) if own.contains(from)));
        if blobs.is_empty() {
            return Ok(());
        }
        let (name, content) = self.random.pick(&blobs);
        let Name::Blob(from, digest) = name else {
            unreachable!("only blobs were asked for");
        };
        let path = format!("/v2/{to}/blobs/uploads/?mount={digest}&from={from}");
        let change = vec![(Name::Blob(to, *digest), Some(Arc::clone(content)))];
        self.change(&change, 201, |c| c.send("POST", &path, &[], b""))
    }

    /// Pushes a new image by tag, or by digest with or without tags.
    fn push_manifest(&mut self) -> Step {
        let repository = self.repository();
        let Some(manifest) = self.new_manifest(&repository) else {
            return Ok(());
        };
        let mut tags = BTreeSet::new();
        for _ in 0..self.random.below(3) {
            tags.insert(format!("t{}", self.random.below(6)));
        }
        self.put_manifest(&repository, &tags, Arc::new(manifest.into_bytes()))
    }

    fn new_manifest(&mut self, repository: &str) -> Option<String> {
        let blobs = self.model.present(|name| matches!(name, Name::Blob(r, _) if r == repository));
        if blobs.is_empty() {
            return None;
        }
        let part = |client: &mut Self, media_type| {
            let (name, content) = client.random.pick(&blobs);
            let Name::Blob(_, digest) = name else {
                unreachable!("only blobs were asked for");
            };
            descriptor(media_type, digest, content.len())
        };
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": part(self, OCI_CONFIG),
            "layers": [part(self, OCI_LAYER), part(self, OCI_LAYER)],
            "annotations": {"seed": self.random.next().to_string()},
        });
        let subjects =
            self.model.present(|name| matches!(name, Name::Manifest(r, _) if r == repository));
        if !subjects.is_empty() && self.random.one_in(3) {
            let (name, content) = self.random.pick(&subjects);
            let Name::Manifest(_, digest) = name else {
                unreachable!("only manifests were asked for");
            };
            manifest["subject"] = descriptor(OCI_MANIFEST, digest, content.len());
        }
        Some(manifest.to_string())
    }

    fn put_manifest(&self, repository: &str, tags: &BTreeSet<String>, content: Content) -> Step {
        let digest = Algorithm::Sha256.digest(&content);
        let path = match tags.first() {
            Some(tag) if tags.len() == 1 => format!("/v2/{repository}/manifests/{tag}"),
            _ => {
                let tags: Vec<_> = tags.iter().map(|tag| format!("tag={tag}")).collect();
                format!("/v2/{repository}/manifests/{digest}?{}", tags.join("&"))
            }
        };
        let names = [Name::Manifest(repository.into(), digest)]
            .into_iter()
            .chain(tags.iter().map(|tag| Name::Tag(repository.into(), tag.clone())));
        let change = names.map(|name| (name, Some(Arc::clone(&content)))).collect();
        let headers = [("Content-Type", OCI_MANIFEST)];
        self.change(&change, 201, |c| c.send("PUT", &path, &headers, &content))
    }

    /// Points a tag at a manifest that is there already, whose blobs may have
    /// been deleted since: those are pushed again.
    fn move_tag(&mut self) -> Step {
        let repository = self.repository();
        let manifests =
            self.model.present(|name| matches!(name, Name::Manifest(r, _) if *r == repository));
        if manifests.is_empty() {
            return Ok(());
        }
        let (_, content) = self.random.pick(&manifests);
        let manifest: Value = serde_json::from_slice(content).expect("as it was pushed");
        let blobs = self.model.present(|name| matches!(name, Name::Blob(r, _) if *r == repository));
        let is_there = |part: &Value| {
            blobs.iter().any(|(name, _)| {
                matches!(name, Name::Blob(_, digest) if part["digest"] == digest.to_string())
            })
        };
        let layers = manifest["layers"].as_array().expect("its layers");
        if !layers.iter().chain([&manifest["config"]]).all(is_there) {
            return Ok(());
        }
        let tag = format!("t{}", self.random.below(6));
        self.put_manifest(&repository, &BTreeSet::from([tag]), Arc::clone(content))
    }

    /// Deletes something of a kind. With a manifest go the tags that name it.
    fn delete(&mut self, kind: impl Fn(&Name) -> bool) -> Step {
        let own = self.repositories.clone();
        let found = self.model.present(|name| {
            let (Name::Blob(r, _) | Name::Manifest(r, _) | Name::Tag(r, _)) = name;
            kind(name) && own.contains(r)
        });
        if found.is_empty() {
            return Ok(());
        }
        let (name, content) = self.random.pick(&found);
        let mut changes = vec![(name.clone(), None)];
        if let Name::Manifest(repository, _) = name {
            let tags =
                self.model.present(|name| matches!(name, Name::Tag(r, _) if r == repository));
            let named = tags.into_iter().filter(|(_, named)| named == content);
            changes.extend(named.map(|(tag, _)| (tag, None)));
        }
        let path = name.path();
        self.change(&changes, 202, |c| c.send("DELETE", &path, &[], b""))
    }
}

/// What the files of a store say is in it, after checking that they fit
/// together.
fn walk(store: &Path) -> BTreeSet<Name> {
    let blob = |digest: &Digest| {
        let (algorithm, hex) = (digest.algorithm().as_str(), digest.hex());
        store.join(format!("blobs/{algorithm}/{}/{hex}/data", &hex[..2]))
    };
    for path in files(&store.join("blobs")) {
        let [algorithm, _, hex, "data"] = parts(&path, &store.join("blobs"))[..] else {
            panic!("{} is no blob", path.display());
        };
        let digest: Digest = format!("{algorithm}:{hex}").parse().expect("a digest");
        assert_eq!(path, blob(&digest));
        let content = fs::read(&path).expect("a readable blob");
        assert_eq!(digest.algorithm().digest(&content), digest, "a torn blob");
    }

    let repositories = store.join("repositories");
    let mut names = BTreeSet::new();
    for path in files(&repositories) {
        let parts = parts(&path, &repositories);
        let kind = parts
            .iter()
            .position(|part| part.starts_with('_'))
            .unwrap_or_else(|| panic!("{} belongs to nothing", path.display()));
        let repository = parts[..kind].join("/");
        let folder = repositories.join(&repository);
        let target = || -> Digest {
            let text = fs::read_to_string(&path).expect("a readable link");
            let digest = text.parse().expect("a digest");
            assert!(blob(&digest).is_file(), "{} leads nowhere", path.display());
            digest
        };
        let named = |algorithm: &str, hex: &str| {
            let digest = target();
            assert_eq!(digest.to_string(), format!("{algorithm}:{hex}"));
            digest
        };
        match parts[kind..] {
            ["_layers", algorithm, hex, "link"] => {
                names.insert(Name::Blob(repository, named(algorithm, hex)));
            }
            ["_manifests", "revisions", algorithm, hex, "link"] => {
                names.insert(Name::Manifest(repository, named(algorithm, hex)));
            }
            ["_manifests", "tags", tag, "current", "link"] => {
                let digest = target();
                let (algorithm, hex) = (digest.algorithm().as_str(), digest.hex());
                let revision = format!("_manifests/revisions/{algorithm}/{hex}/link");
                assert!(folder.join(revision).is_file(), "{tag} names {digest}");
                names.insert(Name::Tag(repository, tag.to_owned()));
            }
            // What the tag has named: history, like distribution's.
            ["_manifests", "tags", _, "index", algorithm, hex, "link"]
            // Whether it shows is the revision's to say.
            | ["_referrers", _, _, algorithm, hex, "link"] => {
                named(algorithm, hex);
            }
            ["_uploads", _, "data" | "startedat"] => {}
            _ => panic!("{} has no place in a store", path.display()),
        }
    }
    names
}

fn parts<'a>(path: &'a Path, folder: &Path) -> Vec<&'a str> {
    path.strip_prefix(folder)
        .expect("found below it")
        .iter()
        .map(|part| part.to_str().expect("ASCII"))
        .collect()
}

/// Checks a restarted server against the model, through the API and on disk.
/// Gives the number of things that are there.
fn check(registry: &Registry, model: &Model) -> usize {
    eventually("the scratch folder is empty after a start", || {
        fs::read_dir(registry.store().join("_tmp")).is_ok_and(|mut left| left.next().is_none())
    });
    let mut wire = Wire::new(registry);
    let present = model.settle(&mut wire);
    assert_eq!(
        walk(&registry.store()),
        present.keys().cloned().collect(),
        "on disk, and as the clients know it"
    );

    let mut catalog = BTreeSet::new();
    let mut tags: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut referrers: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, content) in &present {
        match name {
            Name::Blob(..) => {}
            Name::Tag(repository, tag) => tags.entry(repository).or_default().push(tag),
            Name::Manifest(repository, digest) => {
                catalog.insert(repository.as_str());
                tags.entry(repository).or_default();
                let of = format!("/v2/{repository}/referrers/{digest}");
                referrers.entry(of).or_default();
                let manifest: Value = serde_json::from_slice(content).expect("as it was pushed");
                if let Some(subject) = manifest["subject"]["digest"].as_str() {
                    let of = format!("/v2/{repository}/referrers/{subject}");
                    referrers.entry(of).or_default().insert(digest.to_string());
                }
            }
        }
    }
    for (repository, tags) in tags {
        let list = wire.get(&format!("/v2/{repository}/tags/list")).json();
        assert_eq!(list, json!({"name": repository, "tags": tags}));
    }
    for (path, digests) in referrers {
        let index = wire.get(&path).json();
        let listed = index["manifests"].as_array().expect("an index").iter();
        let listed: BTreeSet<_> = listed
            .map(|manifest| manifest["digest"].as_str().expect("a digest").to_owned())
            .collect();
        assert_eq!(listed, digests, "{path}");
    }
    let list = wire.get("/v2/_catalog").json();
    assert_eq!(list, json!({"repositories": catalog}));
    present.len()
}

#[test]
fn nothing_acknowledged_is_lost() {
    let seed = match std::env::var("CRASH_SEED") {
        Ok(seed) => seed.parse().expect("CRASH_SEED is a number"),
        Err(_) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            now.expect("after 1970").as_secs()
        }
    };
    println!("to make the same choices again: CRASH_SEED={seed}");
    let mut random = Random::new(seed);
    for store in 0..ROUNDS / ROUNDS_A_STORE {
        let temp = TempDir::new().expect("a temporary folder");
        let model = Model::default();
        let mut uploads: [Option<Upload>; CLIENTS] = Default::default();
        let mut registry = Registry::start_in(temp.path(), &["--log-level", "warn"]);
        for round in 0..ROUNDS_A_STORE {
            let killing = AtomicBool::new(false);
            std::thread::scope(|scope| {
                for (i, upload) in uploads.iter_mut().enumerate() {
                    let client = Client {
                        registry: &registry,
                        model: &model,
                        random: Random::new(random.next()),
                        repositories: [format!("c{i}"), format!("c{i}/deep/er")],
                        upload,
                    };
                    let killing = &killing;
                    scope.spawn(move || client.run(killing));
                }
                // The random moment itself, not a wait for something.
                std::thread::sleep(Duration::from_micros(random.below(WORK_MS * 1000)));
                killing.store(true, Ordering::SeqCst);
                registry.signal("KILL");
            });
            registry.wait();
            if random.one_in(KILLED_STARTS) {
                kill_start(temp.path(), Duration::from_micros(random.below(START_MS * 1000)));
            }
            registry = Registry::start_in(temp.path(), &["--log-level", "warn"]);
            println!("store {store}, round {round}");
            let things = check(&registry, &model);
            println!("{things} things are there");
        }
        assert_sound(&registry);
    }
}

/// Kills a server that has hardly started.
fn kill_start(dir: &Path, after: Duration) {
    let mut child = Registry::command(dir, &[])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the registry starts");
    std::thread::sleep(after);
    child.kill().expect("a running registry");
    child.wait().expect("its end");
}

/// An upload that the kill interrupted, in the middle of a request or between
/// two, goes on from the byte where it stands.
#[test]
fn uploads_survive() {
    const SIZE: usize = 3 << 20;
    const SENT: usize = 2 << 20;
    for (reason, answered, algorithm) in [
        ("the request was answered", true, Algorithm::Sha256),
        ("the request was under way", false, Algorithm::Sha256),
        ("the algorithm is not the usual one", true, Algorithm::Sha512),
    ] {
        let temp = TempDir::new().expect("a temporary folder");
        let mut registry = Registry::start_in(temp.path(), &[]);
        let content = noise(1, SIZE);
        let digest = algorithm.digest(&content);
        let location = registry.start_upload("a/b");
        let stands = |registry: &Registry| {
            let reply = registry.get(&location);
            assert_eq!(reply.status, 204, "{reason}: {}", reply.text());
            reply.header("range").expect("a range").to_owned()
        };
        let all = format!("0-{}", SENT - 1);
        let mut wire = Wire::new(&registry);
        let announced = if answered { SENT } else { SIZE };
        wire.head("PATCH", &location, &format!("Content-Length: {announced}"));
        wire.send(&content[..SENT]).expect("the registry reads");
        if answered {
            assert_eq!(wire.reply().expect("an answer").status, 202, "{reason}");
        }
        eventually("what was sent has arrived", || stands(&registry) == all);
        registry.kill();

        registry = Registry::start_in(temp.path(), &[]);
        assert_eq!(stands(&registry), all, "{reason}");
        let rest = format!("{SENT}-{}", SIZE - 1);
        let range = [("Content-Range", rest.as_str())];
        let reply = registry.send("PATCH", &location, &range, &content[SENT..]);
        assert_eq!(reply.status, 202, "{reason}: {}", reply.text());
        let reply = registry.send("PUT", &format!("{location}?digest={digest}"), &[], b"");
        assert_eq!(reply.status, 201, "{reason}: {}", reply.text());
        let reply = registry.get(&format!("/v2/a/b/blobs/{digest}"));
        assert!(reply.status == 200 && reply.body == content, "{reason}");
        assert_eq!(
            files(&registry.store().join("repositories/a/b/_uploads")),
            <[PathBuf; 0]>::default()
        );
        assert_sound(&registry);
    }
}

/// After a kill an upload is read again, which takes its time: meanwhile it
/// has one writer, for a blob never changes once it has its name.
#[test]
fn one_writer_while_an_upload_is_read_again() {
    /// Mostly a hole: slow to hash, quick to write.
    const SIZE: usize = 256 << 20;
    let temp = TempDir::new().expect("a temporary folder");
    let mut registry = Registry::start_in(temp.path(), &[]);
    let mut content = noise(1, 100_000);
    let location = registry.start_upload("a");
    assert_eq!(registry.send("PATCH", &location, &[], &content).status, 202);
    registry.kill();
    content.resize(SIZE, 0);
    let digest = Algorithm::Sha256.digest(&content);
    let uploads = registry.store().join("repositories/a/_uploads");
    let data = files(&uploads).into_iter().find(|p| p.ends_with("data"));
    let data = fs::canonicalize(data.expect("the upload")).expect("a path");
    let file = fs::File::options().append(true).open(&data);
    let file = file.expect("the upload");
    file.set_len(SIZE as u64).expect("space for a hole");

    registry = Registry::start_in(temp.path(), &[]);
    let put = format!("{location}?digest={digest}");
    let mut first = Wire::new(&registry);
    first.head("PUT", &put, "Content-Length: 0");
    let descriptors = format!("/proc/{}/fd", registry.pid());
    eventually("the upload is being read", || {
        let mut open = fs::read_dir(&descriptors).expect("a running registry");
        open.any(|fd| fs::read_link(fd.expect("an entry").path()).is_ok_and(|path| path == data))
    });
    for (method, path, body) in [("PATCH", &location, &b"other bytes"[..]), ("PUT", &put, b"")] {
        let reply = registry.send(method, path, &[], body);
        assert!(matches!(reply.status, 404 | 409), "{method}: {}", reply.text());
    }
    assert_eq!(first.reply().expect("an answer").status, 201);
    let reply = registry.get(&format!("/v2/a/blobs/{digest}"));
    assert!(reply.status == 200 && reply.body == content);
    let reply = registry.send("PUT", &put, &[], b"");
    assert_eq!((reply.status, reply.code()), (404, "BLOB_UPLOAD_UNKNOWN".into()));
    assert_sound(&registry);
}
