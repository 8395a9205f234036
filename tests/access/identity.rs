//! Two promises: who may read something is decided by repository and digest, and what is served
//! under a digest hashes to it. Ids that clients choose, ids derived from content, and digests of
//! configs and manifests are different things, whatever digits they share.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use registry::oci::{Algorithm, Digest};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{
    OCI_CONFIG, OCI_MANIFEST, Registry, Reply, descriptor, eventually, image_manifest, noise,
};
use crate::support::{Pushed, RULES, folder, get_as, path, push, send_as, start, tar_of, user};
use crate::tokens::{Service, grant, start_with};

const FOREIGN: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar";
const OCI_TAR: &str = "application/vnd.oci.image.layer.v1.tar";

fn sha256(bytes: &[u8]) -> Digest {
    Algorithm::Sha256.digest(bytes)
}

fn status(registry: &Registry, who: &str, path: &str) -> u16 {
    get_as(registry, Some(&user(who)), path).status
}

fn put_blob(registry: &Registry, who: &str, repository: &str, bytes: &[u8]) -> Digest {
    let digest = sha256(bytes);
    let path = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
    let reply = send_as(registry, Some(&user(who)), "POST", &path, &[], bytes);
    assert_eq!(reply.status, 201, "{}", reply.text());
    digest
}

fn put_manifest(registry: &Registry, who: &str, repository: &str, bytes: &str) -> Reply {
    let path = format!("/v2/{repository}/manifests/1");
    let document: Value = serde_json::from_str(bytes).expect("a manifest");
    let headers = [("Content-Type", document["mediaType"].as_str().expect("a media type"))];
    send_as(registry, Some(&user(who)), "PUT", &path, &headers, bytes.as_bytes())
}

/// Pushes an image of the first API with one layer; returns the statuses.
fn push_v1(
    registry: &Registry,
    who: &str,
    id: &str,
    parent: Option<&str>,
    layer: &[u8],
) -> Vec<u16> {
    push_v1_as(registry, Some(&user(who)), id, parent, layer)
}

fn push_v1_as(
    registry: &Registry,
    authorization: Option<&str>,
    id: &str,
    parent: Option<&str>,
    layer: &[u8],
) -> Vec<u16> {
    let mut document = json!({"id": id, "created": "2014-10-01T12:00:00Z"});
    if let Some(parent) = parent {
        document["parent"] = parent.into();
    }
    let document = document.to_string();
    let checksum = sha256(&[document.as_bytes(), b"\n", layer].concat()).to_string();
    let put = |part: &str, headers: &[(&str, &str)], body: &[u8]| {
        let path = format!("/v1/images/{id}/{part}");
        send_as(registry, authorization, "PUT", &path, headers, body).status
    };
    vec![
        put("json", &[], document.as_bytes()),
        put("layer", &[], layer),
        put("checksum", &[("X-Docker-Checksum-Payload", &checksum)], b""),
    ]
}

fn tag_v1(registry: &Registry, who: &str, repository: &str, id: &str) -> u16 {
    let path = format!("/v1/repositories/{repository}/tags/1");
    send_as(registry, Some(&user(who)), "PUT", &path, &[], json!(id).to_string().as_bytes()).status
}

/// The id that the first API derives for a base layer.
fn derived(layer: &Digest) -> String {
    sha256(format!("{} ", layer.hex()).as_bytes()).hex()
}

/// A manifest that names somebody else's layer as one that clients fetch from elsewhere is no
/// leave to read it.
#[test]
fn a_layer_that_is_only_named() {
    let dir = folder();
    let registry = start(dir.path(), &[]);
    let secret = push(&registry, "team/app", "secret");
    for history in [
        json!([{"created_by": "x"}, {"empty_layer": true}]),
        json!([{"empty_layer": true}, {"created_by": "x"}]),
        json!([{"created_by": "x"}]),
    ] {
        let config = json!({"os": "linux", "architecture": "amd64", "history": history,
            "rootfs": {"type": "layers", "diff_ids": [secret.layer.to_string()]}});
        let config = config.to_string();
        let digest = put_blob(&registry, "stranger", "other/x", config.as_bytes());
        let layers = [descriptor(FOREIGN, &secret.layer, 10_240)];
        let manifest = image_manifest(&descriptor(OCI_CONFIG, &digest, config.len()), &layers);
        assert_eq!(put_manifest(&registry, "stranger", "other/x", &manifest).status, 201);
        let top = get_as(&registry, Some(&user("stranger")), "/v1/repositories/other/x/tags/1");
        let mut ids = vec![derived(&secret.layer), secret.v1.clone()];
        ids.extend(top.json().as_str().map(str::to_owned));
        for id in ids {
            assert_ne!(tag_v1(&registry, "stranger", "other/y", &id), 200, "{id}");
            for part in ["layer", "json", "tree/", "blobs/etc/secret"] {
                let path = format!("/v1/images/{id}/{part}");
                assert_eq!(status(&registry, "stranger", &path), 404, "{path}");
            }
            assert_ne!(push_v1(&registry, "stranger", &"ab".repeat(32), Some(&id), b"x")[0], 200);
        }
        for repository in ["other/x", "other/y"] {
            let path = format!("/v2/{repository}/blobs/{}", secret.layer);
            assert_eq!(status(&registry, "stranger", &path), 404);
        }
    }
}

/// A sparse push of a manifest that was made of images of the first API shows none of them.
#[test]
fn an_image_that_is_only_named() {
    let dir = folder();
    let registry = start(dir.path(), &["--sparse-images"]);
    let id = "cd".repeat(32);
    assert_eq!(push_v1(&registry, "owner", &id, None, &tar_of("secret")), [200; 3]);
    assert_eq!(tag_v1(&registry, "owner", "team/app", &id), 200);
    let manifest = registry.get("/v2/team/app/manifests/1").text();
    let document: Value = serde_json::from_str(&manifest).expect("a manifest");
    let config = document["config"]["digest"].as_str().expect("a digest");
    let config = registry.get(&format!("/v2/team/app/blobs/{config}")).body;
    put_blob(&registry, "stranger", "other/x", &config);
    assert_eq!(put_manifest(&registry, "stranger", "other/x", &manifest).status, 201);
    for part in ["layer", "json", "ancestry", "blobs/etc/secret"] {
        let path = format!("/v1/images/{id}/{part}");
        assert_eq!(status(&registry, "stranger", &path), 404, "{part}");
    }
    assert_ne!(tag_v1(&registry, "stranger", "other/y", &id), 200);
    // What it builds on is no better.
    assert_ne!(push_v1(&registry, "stranger", &"ef".repeat(32), Some(&id), b"x")[0], 200);
    assert_eq!(status(&registry, "owner", &format!("/v1/images/{id}/layer")), 200);
}

/// Under a digest there is what hashes to it, whatever others push under the same digits.
#[test]
fn digits_of_other_things() {
    let dir = folder();
    let registry = start(dir.path(), &[]);
    let victim = push(&registry, "team/app", "real");
    let Pushed { manifest, manifest_bytes, config, .. } = &victim;
    let evil = tar_of("evil");

    // Images of the first API under the digits.
    for digest in [manifest, config] {
        assert_eq!(push_v1(&registry, "stranger", &digest.hex(), None, &evil), [200; 3]);
        let repository = format!("other/{}", &digest.hex()[..8]);
        assert_eq!(tag_v1(&registry, "stranger", &repository, &digest.hex()), 200);
    }
    // The config with other layers.
    let layer = put_blob(&registry, "stranger", "other/config", &evil);
    let bytes = registry.get(&format!("/v2/team/app/blobs/{config}")).body;
    put_blob(&registry, "stranger", "other/config", &bytes);
    let layers = [descriptor(OCI_TAR, &layer, evil.len())];
    let forged = image_manifest(&descriptor(OCI_CONFIG, config, bytes.len()), &layers);
    assert_eq!(put_manifest(&registry, "stranger", "other/config", &forged).status, 201);
    // The manifest's bytes as a config.
    put_blob(&registry, "stranger", "other/manifest", manifest_bytes.as_bytes());
    put_blob(&registry, "stranger", "other/manifest", &evil);
    let as_config = descriptor(OCI_CONFIG, manifest, manifest_bytes.len());
    let forged = image_manifest(&as_config, &layers);
    assert_eq!(put_manifest(&registry, "stranger", "other/manifest", &forged).status, 201);

    for digest in [manifest, config] {
        for id in [digest.to_string(), digest.hex()] {
            let real = registry.get(&format!("/v1/images/{id}/blobs/etc/real"));
            assert_eq!((real.status, real.text().as_str()), (200, "real"), "{id}");
            let path = format!("/v1/images/{id}/blobs/etc/evil");
            assert_eq!(registry.get(&path).status, 404, "{id}");
        }
    }
    // Where nothing else is left to show, nothing is shown.
    let reply = send_as(
        &registry,
        Some(&user("owner")),
        "DELETE",
        &format!("/v2/team/app/manifests/{manifest}"),
        &[],
        b"",
    );
    assert_eq!(reply.status, 202);
    for digest in [manifest, config] {
        let reply = registry.get(&format!("/v1/images/{digest}/blobs/etc/evil"));
        assert!([404, 409].contains(&reply.status), "{digest}: {}", reply.text());
    }
}

/// Hidden manifests that share a base must not use up the bound of what is looked at.
#[test]
fn hidden_rows_do_not_count() {
    let dir = folder();
    let registry = start(dir.path(), &[]);
    let base = tar_of("base");
    let layer = descriptor(OCI_TAR, &sha256(&base), base.len());
    let image = |repository: &str, number: usize| {
        registry.push_blob(repository, &base);
        let config = json!({"os": "linux", "architecture": "amd64", "number": number,
            "history": [{"created_by": "x"}, {"created_by": "y", "empty_layer": true}],
            "rootfs": {"type": "layers", "diff_ids": [sha256(&base).to_string()]}});
        let config = config.to_string();
        let digest = registry.push_blob(repository, config.as_bytes());
        let described = descriptor(OCI_CONFIG, &digest, config.len());
        let manifest = image_manifest(&described, std::slice::from_ref(&layer));
        let tag = format!("{number}");
        let reply = registry.push_manifest(repository, &tag, OCI_MANIFEST, manifest.as_bytes());
        assert_eq!(reply.status, 201, "{}", reply.text());
    };
    for number in 0..1030 {
        image("other/many", number);
    }
    image("team/app", 2000);
    let path = format!("/v1/images/{}/json", derived(&sha256(&base)));
    eventually("the reader finds the image", || status(&registry, "reader", &path) == 200);
}

/// Whose an image of the first API is until it has a tag. Users here, subjects of tokens, and clients
/// of a server without users are different, whatever they are called.
#[test]
fn pushers_of_different_realms() {
    let dir = folder();
    let layer = tar_of("pushed");
    let ids = ["a1", "b2", "c3"].map(|pair| pair.repeat(32));
    let open = Registry::start_in(dir.path(), &[]);
    assert_eq!(push_v1_as(&open, None, &ids[0], None, &layer), [200; 3]);
    let json = |id: &str| format!("/v1/images/{id}/json");
    assert_eq!(get_as(&open, None, &json(&ids[0])).status, 200);
    drop(open);

    let service = Service::new();
    let users = path(dir.path(), "users");
    let more = ["--htpasswd", &users, "--anonymous", "pull"];
    let registry = start_with(&dir, &service, &more);
    let access = grant("team/app", &["pull", "push"]);
    let [owner, ann] = ["owner", "ann"].map(|subject| service.token_of(Some(subject), &access));
    let nameless = service.token_of(None, &access);
    assert_eq!(push_v1_as(&registry, Some(&owner), &ids[1], None, &layer), [200; 3]);
    assert_eq!(push_v1(&registry, "owner", &ids[2], None, &layer), [200; 3]);
    let all = [None, Some(user("owner")), Some(owner), Some(ann), Some(nameless.clone())];
    for (id, pusher) in ids.iter().zip([None, Some(2), Some(1)]) {
        for (place, who) in all.iter().enumerate() {
            let want = if Some(place) == pusher { 200 } else { 404 };
            let status = get_as(&registry, who.as_deref(), &json(id)).status;
            assert_eq!(status, want, "{id} by {who:?}");
        }
    }
    let id = "d4".repeat(32);
    assert_eq!(push_v1_as(&registry, Some(&nameless), &id, None, &layer), [403; 3]);
}

/// To have pushed an image is no right to read its layer once its tag, its blob or the pusher's
/// rights are gone.
#[test]
fn pushers_without_rights() {
    let dir = folder();
    let registry = start(dir.path(), &[]);
    let (id, layer) = ("ab".repeat(32), tar_of("x"));
    assert_eq!(push_v1(&registry, "writer", &id, None, &layer), [200; 3]);
    let path = format!("/v1/images/{id}/layer");
    assert_eq!(status(&registry, "writer", &path), 404, "it has no tag yet");
    let blob = format!("/v2/team/app/blobs/{}", sha256(&layer));
    let manifest = "/v2/team/app/manifests/1";
    for gone in [blob.as_str(), manifest] {
        assert_eq!(tag_v1(&registry, "writer", "team/app", &id), 200);
        assert_eq!(status(&registry, "writer", &path), 200);
        let digest = registry.head(manifest).header("docker-content-digest").map(str::to_owned);
        let gone = match gone == manifest {
            true => format!("/v2/team/app/manifests/{}", digest.expect("a digest")),
            false => gone.to_owned(),
        };
        assert_eq!(registry.delete(&gone).status, 202);
        assert_eq!(status(&registry, "writer", &path), 404, "{gone}");
    }
    assert_eq!(tag_v1(&registry, "writer", "team/app", &id), 200);
    assert_eq!(status(&registry, "writer", &path), 200);
    fs::write(dir.path().join("rules"), RULES.replace("\"team/**\"", "\"no/**\"")).expect("a file");
    eventually("the rules are read again", || status(&registry, "writer", &path) == 404);
    assert_eq!(status(&registry, "owner", &path), 200);
}

/// A push under the id that a manifest will derive does not stand in its owner's way.
#[test]
fn ids_that_a_manifest_will_derive() {
    let dir = folder();
    let registry = start(dir.path(), &[]);
    let base = tar_of("base");
    let id = derived(&sha256(&base));
    let forged = json!({"id": id, "author": "stranger"}).to_string();
    let checksum = sha256(&[forged.as_bytes(), b"\n", &base].concat()).to_string();
    let put = |part: &str, headers: &[(&str, &str)], body: &[u8]| {
        let path = format!("/v1/images/{id}/{part}");
        send_as(&registry, Some(&user("stranger")), "PUT", &path, headers, body).status
    };
    assert_eq!(put("json", &[], forged.as_bytes()), 200);
    assert_eq!(put("layer", &[], &base), 200);
    assert_eq!(put("checksum", &[("X-Docker-Checksum-Payload", &checksum)], b""), 200);
    assert_eq!(tag_v1(&registry, "stranger", "other/forged", &id), 200);

    // The owner's image: a base, and a history that ends without a layer.
    let config = json!({"os": "linux", "architecture": "amd64", "author": "owner",
        "history": [{"created_by": "base"}, {"created_by": "top", "empty_layer": true}],
        "rootfs": {"type": "layers", "diff_ids": [sha256(&base).to_string()]}});
    let config = config.to_string();
    put_blob(&registry, "owner", "team/app", &base);
    let digest = put_blob(&registry, "owner", "team/app", config.as_bytes());
    let layers = [descriptor(OCI_TAR, &sha256(&base), base.len())];
    let manifest = image_manifest(&descriptor(OCI_CONFIG, &digest, config.len()), &layers);
    assert_eq!(put_manifest(&registry, "owner", "team/app", &manifest).status, 201);

    let child = "ef".repeat(32);
    assert_eq!(push_v1(&registry, "owner", &child, Some(&id), &tar_of("child")), [200; 3]);
    assert_eq!(tag_v1(&registry, "owner", "team/child", &child), 200);
    for who in ["owner", "reader"] {
        let json = get_as(&registry, Some(&user(who)), &format!("/v1/images/{id}/json"));
        assert_eq!(json.json()["container_config"]["Cmd"], json!(["base"]), "{}", json.text());
        let layer = get_as(&registry, Some(&user(who)), &format!("/v1/images/{id}/layer"));
        assert_eq!(layer.body, base);
        let path = format!("/v1/images/{child}/blobs/etc/base");
        assert_eq!(status(&registry, who, &path), 200);
    }
}

/// A model of who links what, against a server that users push to in every way there is.
struct World {
    registry: Registry,
    /// Blobs, and the users who have their bytes.
    blobs: BTreeMap<Digest, (Vec<u8>, BTreeSet<&'static str>)>,
    /// Manifests and configs that were pushed, each with its layer.
    images: BTreeMap<Digest, Digest>,
    v1_ids: BTreeSet<String>,
    /// Rights by user and repository.
    rules: BTreeSet<(&'static str, &'static str)>,
    random: u64,
    history: Vec<String>,
}

const READERS: [&str; 4] = ["owner", "reader", "writer", "stranger"];
const PUSHERS: [&str; 2] = ["writer", "stranger"];
const REPOSITORIES: [&str; 4] = ["other/one", "other/two", "team/one", "team/two"];

impl World {
    /// Users with random rights to pull; of the pushers, each pushes where it may pull.
    fn new(dir: &TempDir, seed: u64) -> World {
        let mut random = seed;
        let mut rules = BTreeSet::new();
        let mut text = RULES.to_owned();
        text.truncate(text.find("[[rules]]").expect("there are some"));
        text += "[[rules]]\nusers = [\"owner\"]\nrepositories = [\"**\"]\n\
                 rights = [\"pull\", \"push\", \"delete\"]\n";
        for (place, repository) in REPOSITORIES.into_iter().enumerate() {
            rules.insert(("owner", repository));
            for who in &READERS[1..] {
                // Each pusher has one repository at least, and there is one that it may not read.
                let own = PUSHERS.iter().position(|pusher| pusher == who);
                let may = match own {
                    Some(own) if place == own => true,
                    Some(own) if place == 1 - own => false,
                    _ => next(&mut random).is_multiple_of(2),
                };
                if may {
                    rules.insert((who, repository));
                    let rights = if own.is_some() { "\"pull\", \"push\"" } else { "\"pull\"" };
                    text += &format!(
                        "[[rules]]\nusers = [\"{who}\"]\nrepositories = [\"{repository}\"]\n\
                         rights = [{rights}]\n"
                    );
                }
            }
        }
        fs::write(dir.path().join("rules"), text).expect("a file");
        let registry = start(dir.path(), &["--sparse-images"]);
        let mut world = World {
            registry,
            blobs: BTreeMap::new(),
            images: BTreeMap::new(),
            v1_ids: BTreeSet::new(),
            rules,
            random,
            history: Vec::new(),
        };
        for (own, who) in PUSHERS.into_iter().enumerate() {
            for bytes in [noise(own as u64, 100), tar_of(who)] {
                let digest = put_blob(&world.registry, who, REPOSITORIES[own], &bytes);
                world.blobs.insert(digest, (bytes, [who].into()));
            }
        }
        world
    }

    fn below(&mut self, bound: usize) -> usize {
        next(&mut self.random) as usize % bound
    }

    fn may(&self, who: &'static str, repository: &'static str) -> bool {
        self.rules.contains(&(who, repository))
    }

    fn has(&self, path: &str) -> bool {
        send_as(&self.registry, Some(&user("owner")), "HEAD", path, &[], b"").status == 200
    }

    fn links(&self) -> BTreeMap<&'static str, BTreeSet<Digest>> {
        let held = |repository| {
            let has = |digest: &&Digest| self.has(&format!("/v2/{repository}/blobs/{digest}"));
            self.blobs.keys().filter(has).copied().collect()
        };
        REPOSITORIES.map(|repository| (repository, held(repository))).into()
    }

    /// What a user can get the bytes of: what it has itself, and what it may pull.
    fn could_read(
        &self,
        who: &'static str,
        links: &BTreeMap<&'static str, BTreeSet<Digest>>,
    ) -> BTreeSet<Digest> {
        let own = self.blobs.iter().filter(|(_, (_, known))| known.contains(who));
        let pulled = links.iter().filter(|(repository, _)| self.may(who, repository));
        own.map(|(digest, _)| *digest)
            .chain(pulled.flat_map(|(_, digests)| digests.clone()))
            .collect()
    }

    /// A push of some kind. Returns who did it.
    fn push(&mut self) -> &'static str {
        let who = PUSHERS[self.below(2)];
        let repositories = REPOSITORIES.map(|name| self.may(who, name).then_some(name));
        let repositories: Vec<_> = repositories.into_iter().flatten().collect();
        let repository = repositories[self.below(repositories.len())];
        let place = self.below(self.blobs.len());
        let some = *self.blobs.keys().nth(place).expect("there are some");
        let (kind, coin) = (self.below(8), self.below(2) == 0);
        let from = REPOSITORIES[self.below(4)];
        let place = self.below(self.v1_ids.len().max(1));
        let id = self.v1_ids.iter().nth(place).cloned();
        let random = self.random;
        let uploads = format!("/v2/{repository}/blobs/uploads/");
        let what = match (kind, id) {
            (0, _) => {
                let bytes = tar_of(&format!("file-{random}"));
                let digest = put_blob(&self.registry, who, repository, &bytes);
                self.blobs.entry(digest).or_insert_with(|| (bytes, BTreeSet::new())).1.insert(who);
                format!("pushes {digest}")
            }
            (1, _) => {
                let mut path = format!("{uploads}?mount={some}");
                if coin {
                    path += &format!("&from={from}");
                }
                let reply = send_as(&self.registry, Some(&user(who)), "POST", &path, &[], b"");
                format!("mounts {path}: {}", reply.status)
            }
            (2..=4, _) => {
                let media_type = if coin { OCI_TAR } else { FOREIGN };
                let config = json!({"os": "linux", "architecture": "amd64", "random": random,
                    "history": [{"created_by": "x"}],
                    "rootfs": {"type": "layers", "diff_ids": [some.to_string()]}});
                let config = config.to_string();
                let digest = put_blob(&self.registry, who, repository, config.as_bytes());
                let described = descriptor(OCI_CONFIG, &digest, config.len());
                let manifest = image_manifest(&described, &[descriptor(media_type, &some, 10_240)]);
                let reply = put_manifest(&self.registry, who, repository, &manifest);
                if reply.status == 201 {
                    self.images.insert(sha256(manifest.as_bytes()), some);
                    self.images.insert(digest, some);
                }
                self.v1_ids.insert(derived(&some));
                self.v1_ids.insert(derived_top(&some, config.as_bytes()));
                format!("names {some} as {media_type}: {}", reply.status)
            }
            (5 | 6, parent) if self.blobs[&some].1.contains(who) => {
                let id = match self.below(3) {
                    0 => some.hex(),
                    1 => derived(&some),
                    _ => sha256(&random.to_le_bytes()).hex(),
                };
                let parent = parent.filter(|parent| *parent != id && coin);
                let layer = &self.blobs[&some].0;
                let pushed = push_v1(&self.registry, who, &id, parent.as_deref(), layer);
                let tagged = tag_v1(&self.registry, who, repository, &id);
                self.v1_ids.insert(id.clone());
                format!("pushes v1 {id} upon {parent:?}: {pushed:?}, {tagged}")
            }
            (_, Some(id)) => {
                format!("tags v1 {id}: {}", tag_v1(&self.registry, who, repository, &id))
            }
            _ => "does nothing".to_owned(),
        };
        self.history.push(format!("{who} in {repository} {what}"));
        who
    }

    fn delete(&mut self) {
        let repository = REPOSITORIES[self.below(4)];
        let digests: Vec<Digest> = self.blobs.keys().chain(self.images.keys()).copied().collect();
        let digest = digests[self.below(digests.len())];
        for kind in ["manifests", "blobs"] {
            let path = format!("/v2/{repository}/{kind}/{digest}");
            let reply = self.registry.delete(&path);
            self.history.push(format!("delete {path}: {}", reply.status));
        }
    }

    /// Every blob and every id, on every face, for everybody: readable if and only if a repository
    /// that the user may pull links it.
    fn check(&self) {
        let (links, history) = (self.links(), &self.history);
        for who in READERS {
            let get = |path: &str| get_as(&self.registry, Some(&user(who)), path);
            let pulled = REPOSITORIES.iter().filter(|repository| self.may(who, repository));
            let pulled: Vec<&str> = pulled.copied().collect();
            for (repository, digests) in &links {
                for (digest, (bytes, _)) in &self.blobs {
                    let path = format!("/v2/{repository}/blobs/{digest}");
                    let reply = get(&path);
                    let want = pulled.contains(repository) && digests.contains(digest);
                    assert_eq!(reply.status == 200, want, "{who} {path}: {history:#?}");
                    assert!(reply.status != 200 || reply.body == *bytes);
                }
            }
            for (digest, layer) in &self.images {
                // Bytes that are no tar have no files to show.
                let is_tar = self.blobs[layer].0.len() > 1000;
                let manifest =
                    |repository: &&str| self.has(&format!("/v2/{repository}/manifests/{digest}"));
                let named: Vec<&&str> = pulled
                    .iter()
                    .filter(|repository| is_tar && links[**repository].contains(layer))
                    .filter(|repository| manifest(repository) || self.names(repository, digest))
                    .collect();
                // A config that was deleted says no more which layers it describes. An image that
                // was opened before may still be shown.
                let must = named.iter().any(|repository| {
                    manifest(repository) || self.has(&format!("/v2/{repository}/blobs/{digest}"))
                });
                for id in [digest.to_string(), digest.hex()] {
                    let path = format!("/v1/images/{id}/tree/");
                    let reply = get(&path);
                    let (text, is_shown) = (reply.text(), reply.status == 200);
                    assert!(!must || is_shown, "{who} {path} of {layer}: {text} {history:#?}");
                    assert!(
                        !is_shown || !named.is_empty(),
                        "{who} {path} of {layer}: {text} {history:#?}"
                    );
                }
            }
            let mut shown = BTreeSet::new();
            for repository in &pulled {
                let list = get(&format!("/v1/repositories/{repository}/images"));
                if list.status == 200 {
                    let ids = list.json();
                    let ids = ids.as_array().expect("a list").iter();
                    shown.extend(ids.map(|id| id["id"].as_str().expect("an id").to_owned()));
                }
            }
            for id in &self.v1_ids {
                let reply = get(&format!("/v1/images/{id}/layer"));
                let held = |digest: &Digest| {
                    pulled.iter().any(|repository| links[*repository].contains(digest))
                };
                match reply.status {
                    200 => assert!(held(&sha256(&reply.body)), "{who} {id}: {history:#?}"),
                    404 => {}
                    status => panic!("{status} for {who} {id}: {history:#?}"),
                }
                // A tag that shows an image leads to its layer, unless that was deleted.
                if shown.contains(id) && !history.iter().any(|what| what.starts_with("delete")) {
                    assert_eq!(reply.status, 200, "{who} {id}: {history:#?}");
                }
            }
        }
    }

    /// Whether a manifest of the repository that was pushed has this config.
    fn names(&self, repository: &str, config: &Digest) -> bool {
        self.images.keys().any(|digest| {
            let path = format!("/v2/{repository}/manifests/{digest}");
            let manifest = get_as(&self.registry, Some(&user("owner")), &path);
            manifest.status == 200 && manifest.json()["config"]["digest"] == config.to_string()
        })
    }
}

/// The id that the first API derives for an image of one layer.
fn derived_top(layer: &Digest, config: &[u8]) -> String {
    sha256(&[layer.hex().as_bytes(), b"  ", config].concat()).hex()
}

/// The next of a sequence of random numbers (Knuth's constants for a linear congruence).
fn next(random: &mut u64) -> u64 {
    *random =
        random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *random >> 33
}

#[test]
fn readable_where_it_is_linked_and_nowhere_else() {
    for seed in [1, 2, 3] {
        let dir = folder();
        let mut world = World::new(&dir, seed);
        let mut before = world.links();
        for _ in 0..60 {
            let readable: BTreeMap<_, _> =
                PUSHERS.map(|who| (who, world.could_read(who, &before))).into();
            let who = world.push();
            let after = world.links();
            // Nothing is linked that its pusher did not have, and could not read.
            for (repository, digests) in &after {
                for digest in digests.difference(&before[repository]) {
                    let could =
                        readable[who].contains(digest) || world.blobs[digest].1.contains(who);
                    assert!(could, "{digest} in {repository}: {:#?}", world.history);
                }
            }
            before = after;
        }
        world.check();
        for _ in 0..40 {
            world.delete();
        }
        world.check();
    }
}
