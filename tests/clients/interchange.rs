//! One store, two servers: what `docker-registry` (distribution, `registry:2`)
//! wrote is served by ours as it is, and the other way round.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Stdio};

use registry::oci::{Algorithm, Digest};
use serde_json::{Value, json};

use crate::common::home::Home;
use crate::common::tree::{self, assert_same};
use crate::common::{
    OCI_EMPTY, OCI_INDEX, OCI_MANIFEST, Registry, Reply, descriptor, eventually, image_manifest,
    send_to,
};
use crate::layout::{Layout, blobs};
use crate::manifest;

/// A running `docker-registry`. Dropped, it is killed.
struct Peer {
    address: SocketAddr,
    child: Child,
}

/// Its settings for a store.
fn settings(home: &Home, store: &str) -> String {
    let file = home.path("config.yml");
    let text = format!(
        "version: 0.1\n\
         storage:\n  filesystem:\n    rootdirectory: {store}\n  delete:\n    enabled: true\n\
         http:\n  addr: 127.0.0.1:0\n"
    );
    fs::write(&file, text).expect("a file");
    file
}

impl Peer {
    fn start(home: &Home, store: &str) -> Peer {
        let log = home.path("peer.log");
        let mut command = home.command("docker-registry", &["serve", &settings(home, store)]);
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).expect("a file"))
            .spawn()
            .expect("docker-registry");
        // Before the wait, which may panic.
        let mut peer = Peer { address: SocketAddr::from(([127, 0, 0, 1], 0)), child };
        eventually("docker-registry listens", || {
            let log = fs::read_to_string(&log).expect("its log");
            let address = log
                .split_once("listening on ")
                .and_then(|(_, rest)| rest.split_once('"'))
                .and_then(|(address, _)| address.parse().ok());
            peer.address = address.unwrap_or(peer.address);
            address.is_some()
        });
        peer
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn get(address: SocketAddr, path: &str) -> Reply {
    send_to(address, "GET", path, &[], b"").expect("an answer")
}

/// Everything that a client can find in a registry, by path.
type Seen = BTreeMap<String, String>;

fn seen(address: SocketAddr) -> Seen {
    let mut seen = Seen::new();
    // Ours walks a store that is new to it first.
    eventually("the catalog is there", || get(address, "/v2/_catalog").status == 200);
    let catalog = get(address, "/v2/_catalog").json();
    seen.insert("/v2/_catalog".to_owned(), catalog.to_string());
    for name in strings(&catalog["repositories"]) {
        let path = format!("/v2/{name}/tags/list");
        let tags = get(address, &path).json();
        // distribution 2 gives them as the file system does.
        let tags: BTreeSet<&str> = strings(&tags["tags"]).collect();
        seen.insert(path, format!("{tags:?}"));
        for tag in tags {
            see_manifest(&mut seen, address, name, tag);
        }
    }
    seen
}

fn strings(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().map(|item| item.as_str().expect("a string"))
}

fn parse(digest: Option<&str>) -> Digest {
    digest.and_then(|d| d.parse().ok()).expect("a digest")
}

fn see_manifest(seen: &mut Seen, address: SocketAddr, name: &str, reference: &str) {
    let path = format!("/v2/{name}/manifests/{reference}");
    let reply = manifest(address, name, reference);
    let digest = parse(reply.header("docker-content-digest"));
    assert_eq!(digest.algorithm().digest(&reply.body), digest, "{path}");
    let media_type = reply.header("content-type").expect("a type");
    seen.insert(path, format!("{media_type} {digest}"));
    let json = reply.json();
    for child in json["manifests"].as_array().into_iter().flatten() {
        see_manifest(seen, address, name, child["digest"].as_str().expect("a digest"));
    }
    let layers = json["layers"].as_array().into_iter().flatten();
    for blob in layers.chain(json.get("config")) {
        let digest = parse(blob["digest"].as_str());
        let path = format!("/v2/{name}/blobs/{digest}");
        let reply = get(address, &path);
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        assert_eq!(digest.algorithm().digest(&reply.body), digest, "{path}");
        seen.insert(path, format!("{} bytes", reply.body.len()));
    }
}

const ARTIFACT_TYPE: &str = "application/vnd.example.signature";

/// Pushes what stores are made of, to repositories under `prefix`.
fn push_all_sorts(home: &Home, address: SocketAddr, prefix: &str, layout: &Layout) {
    let from = layout.reference();
    for (name, options) in [
        // An index and its children, by digest.
        ("/multi:latest", &["--all"][..]),
        // The same blobs again, and a tag that is a prefix of another.
        ("/multi:1", &[]),
        ("/multi:1.0", &[]),
        ("/list:1", &["--all", "--format=v2s2"]),
        // A name that is a prefix of others.
        (":1", &["--format=v2s2"]),
        ("/deeper/than/usual:1", &[]),
    ] {
        let to = format!("docker://{address}/{prefix}{name}");
        home.copy(&from, &to, options);
    }
    // An artifact about the image.
    let bytes = layout.read(&layout.image());
    let mut artifact: Value = serde_json::from_slice(&bytes).expect("JSON");
    artifact["artifactType"] = json!(ARTIFACT_TYPE);
    artifact["subject"] = descriptor(OCI_MANIFEST, &layout.image(), bytes.len());
    let artifact = artifact.to_string();
    let path = format!("/v2/{prefix}/multi/manifests/artifact");
    let media_type = [("Content-Type", OCI_MANIFEST)];
    let reply = send_to(address, "PUT", &path, &media_type, artifact.as_bytes());
    assert_eq!(reply.expect("an answer").status, 201);
}

fn has_referrer(registry: &Registry, prefix: &str, layout: &Layout) -> bool {
    let path = format!("/v2/{prefix}/multi/referrers/{}", layout.image());
    registry.get(&path).json()["manifests"][0]["artifactType"] == ARTIFACT_TYPE
}

/// What [`push_all_sorts`] makes visible: catalog and tags; manifests by tag
/// and as children; blobs by repository.
const ALL_SORTS: usize = 5 + (7 + 4) + (5 + 5 + 3 + 3);

/// Pushes what distribution 2 would not have stored in this way.
fn push_novelties(registry: &Registry) {
    let put = |repository: &str, reference: &str, media_type: &str, manifest: &str| {
        let reply = registry.push_manifest(repository, reference, media_type, manifest.as_bytes());
        assert_eq!(reply.status, 201, "{}", reply.text());
    };
    let repository = "ours/new";
    let empty = registry.push_blob(repository, b"{}");
    let config = descriptor(OCI_EMPTY, &empty, 2);
    let untyped = json!({"schemaVersion": 2, "config": config, "layers": [config]});
    put(repository, "untyped", OCI_MANIFEST, &untyped.to_string());

    let long = Algorithm::Sha512.digest(b"sha512");
    let path = format!("/v2/{repository}/blobs/uploads/?digest={long}");
    assert_eq!(registry.send("POST", &path, &[], b"sha512").status, 201);
    let image = image_manifest(&config, &[descriptor("text/plain", &long, 6)]);
    let digest = Algorithm::Sha512.digest(image.as_bytes());
    let reference = format!("{digest}?tag=sha512");
    put(repository, &reference, OCI_MANIFEST, &image);

    // A repository without a blob.
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []});
    put("ours/index", "empty", OCI_INDEX, &index.to_string());
}

/// Pulls the index with all it names.
fn pull(home: &Home, address: SocketAddr, name: &str, layout: &Layout) {
    let name_of_folder = format!("{address}-{name}").replace(['/', ':'], "-");
    let folder = home.path(&name_of_folder);
    let to = format!("oci:{folder}:latest");
    home.copy(&format!("docker://{address}/{name}"), &to, &["--all"]);
    assert_eq!(blobs(Path::new(&folder)), layout.blobs(), "{name}");
}

#[test]
fn to_and_fro() {
    let home = Home::new();
    let [store, dir] = ["store", "registry"].map(|name| home.path(name));
    fs::create_dir(&store).expect("a folder");
    fs::create_dir(&dir).expect("a folder");
    // What it has of its own it keeps while the other server is at work.
    let start = |options: &[&str]| {
        Registry::start_in(Path::new(&dir), &[&["--layers", &store], options].concat())
    };
    let [first, second, third] =
        [1, 2, 3].map(|n| Layout::make(&home.path(&format!("layout-{n}")), n));

    let peer = Peer::start(&home, &store);
    push_all_sorts(&home, peer.address, "theirs", &first);
    let theirs = seen(peer.address);
    assert_eq!(theirs.len(), ALL_SORTS, "{theirs:#?}");
    drop(peer);

    let files = tree::read(Path::new(&store));
    let registry = start(&["--read-only"]);
    assert_same("theirs, read-only", &theirs, &seen(registry.address));
    drop(registry);
    let files_after = tree::read(Path::new(&store));
    assert_same("a store that is only read", &files, &files_after);

    let mut registry = start(&[]);
    assert_same("theirs", &theirs, &seen(registry.address));
    eventually("referrers are found", || has_referrer(&registry, "theirs", &first));
    pull(&home, registry.address, "theirs/multi:latest", &first);
    push_all_sorts(&home, registry.address, "ours", &second);
    push_novelties(&registry);
    // Into their repositories: a new tag, a moved one, a deleted one.
    let copy = |layout: &Layout, address: SocketAddr, name: &str| {
        let to = format!("docker://{address}/{name}");
        home.copy(&layout.reference(), &to, &["--all"]);
        to
    };
    let delete = |name: &str| home.skopeo(&["delete"], name);
    copy(&second, registry.address, "theirs/multi:2");
    copy(&second, registry.address, "theirs/list:1");
    delete(&copy(&third, registry.address, "theirs/list:gone"));
    let ours = seen(registry.address);
    assert!(registry.stop().success());

    let peer = Peer::start(&home, &store);
    assert_same("ours", &ours, &seen(peer.address));
    pull(&home, peer.address, "ours/multi:latest", &second);
    pull(&home, peer.address, "theirs/multi:2", &second);
    push_all_sorts(&home, peer.address, "again", &third);
    copy(&third, peer.address, "ours/multi:latest");
    delete(&copy(&first, peer.address, "ours/list:gone"));
    let both = seen(peer.address);
    drop(peer);

    let registry = start(&[]);
    // At first it shows the catalog that it had.
    let catalog = "/v2/_catalog";
    eventually("the catalog is up to date", || {
        get(registry.address, catalog).text() == both[catalog]
    });
    assert_same("both", &both, &seen(registry.address));
    pull(&home, registry.address, "ours/multi:latest", &third);
}

/// distribution's collector understands what ours wrote: it removes what was
/// deleted, and nothing else.
#[test]
fn garbage_collect() {
    let home = Home::new();
    let store = home.path("store");
    fs::create_dir(&store).expect("a folder");
    let [kept, deleted] = [1, 2].map(|n| Layout::make(&home.path(&format!("layout-{n}")), n));
    let mut registry = Registry::start(&["--layers", &store]);
    push_all_sorts(&home, registry.address, "ours", &kept);
    let gone = format!("docker://{}/ours/multi:gone", registry.host());
    home.copy(&deleted.reference(), &gone, &[]);
    home.skopeo(&["delete"], &gone);

    push_novelties(&registry);
    // An upload under way.
    let upload = registry.start_upload("ours/multi");
    let reply = registry.send("PATCH", &upload, &[], b"first ");
    assert_eq!(reply.status, 202, "{}", reply.text());

    let before = seen(registry.address);
    assert!(has_referrer(&registry, "ours", &kept));
    assert!(registry.stop().success());

    let own_layer = |layout: &Layout| {
        let manifest: Value = serde_json::from_slice(&layout.read(&layout.image())).expect("JSON");
        let hex = parse(manifest["layers"][1]["digest"].as_str()).hex();
        let blobs = Path::new(&store).join("docker/registry/v2/blobs/sha256");
        blobs.join(&hex[..2]).join(&hex).join("data")
    };
    assert!(own_layer(&deleted).exists(), "a delete leaves the blobs");
    let collect = ["garbage-collect", &settings(&home, &store)];
    home.run("docker-registry", &collect);
    assert!(!own_layer(&deleted).exists(), "nothing names it");
    assert!(own_layer(&kept).exists());

    let registry = Registry::start(&["--layers", &store]);
    assert_same("after the collection", &before, &seen(registry.address));
    assert!(has_referrer(&registry, "ours", &kept));
    pull(&home, registry.address, "ours/multi:latest", &kept);
    let digest = Algorithm::Sha256.digest(b"first second");
    let reply = registry.send("PUT", &format!("{upload}?digest={digest}"), &[], b"second");
    assert_eq!(reply.status, 201, "{}", reply.text());
}
