//! What outlives a server: its own store and one that another server wrote;
//! and a server that may not write.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use registry::oci::{Algorithm, Digest};
use serde_json::json;

use crate::common::{
    OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, REGISTRY, Registry, descriptor, eventually,
    image_manifest, noise,
};
use crate::support::{
    EMPTY_JSON, Store, bare_manifest, closing, empty_config, files, header_values, headers,
    refused, sha256,
};

fn artifact(subject: &Digest) -> String {
    json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": "application/x",
        "config": empty_config(), "layers": [], "subject": descriptor(OCI_MANIFEST, subject, 1)})
    .to_string()
}

/// Everything there is to see of a store by reading.
fn reads(registry: &Registry, paths: &[String]) -> Vec<(u16, Option<String>, Vec<u8>)> {
    paths
        .iter()
        .map(|path| {
            let reply = registry.get(path);
            let content_type = reply.header("content-type").map(str::to_owned);
            (reply.status, content_type, reply.body)
        })
        .collect()
}

/// Fills a registry with one of everything; gives the paths to read it by.
fn fill(registry: &Registry) -> Vec<String> {
    let image = registry.push_image("team/app", "v1", "seed");
    registry.push_image("team/app", "deleted", "other seed");
    let reply = registry.delete("/v2/team/app/manifests/deleted");
    assert_eq!(reply.status, 202);
    let large = registry.push_blob("team/app", &noise(40, 300_000));
    let long = Algorithm::Sha512.digest(b"named by sha512");
    let path = format!("/v2/team/app/blobs/uploads/?digest={long}");
    let reply = registry.send("POST", &path, &[], b"named by sha512");
    assert_eq!(reply.status, 201);
    registry.push_blob("team/app", EMPTY_JSON);
    let artifact = artifact(&image);
    let reply = registry.push_manifest("team/app", "sbom", OCI_MANIFEST, artifact.as_bytes());
    assert_eq!(reply.status, 201);
    registry.push_image("team", "v1", "another");
    [
        "/v2/_catalog".to_owned(),
        "/v2/team/app/tags/list".to_owned(),
        "/v2/team/tags/list".to_owned(),
        "/v2/team/app/manifests/v1".to_owned(),
        "/v2/team/app/manifests/deleted".to_owned(),
        "/v2/team/app/manifests/sbom".to_owned(),
        format!("/v2/team/app/manifests/{image}"),
        format!("/v2/team/app/referrers/{image}"),
        format!("/v2/team/app/blobs/{large}"),
        format!("/v2/team/app/blobs/{long}"),
        format!("/v2/team/app/blobs/{}", sha256(b"seed")),
        format!("/v2/team/blobs/{large}"),
    ]
    .to_vec()
}

#[test]
fn restart() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut registry = Registry::start_in(dir.path(), &[]);
    let paths = fill(&registry);
    let location = registry.start_upload("team/app");
    let content = noise(41, 200_000);
    let (half, rest) = content.split_at(100_000);
    assert_eq!(registry.send("PATCH", &location, &[], half).status, 202);
    let before = reads(&registry, &paths);
    let statuses: Vec<u16> = before.iter().map(|(status, ..)| *status).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 404, 200, 200, 200, 200, 200, 200, 404]);
    let catalog = json!({"repositories": ["team", "team/app"]});
    assert_eq!(registry.get("/v2/_catalog").json(), catalog);
    assert_eq!(registry.stop().code(), Some(0));

    let mut registry = Registry::start_in(dir.path(), &[]);
    assert!(reads(&registry, &paths) == before, "after a restart");
    // An upload goes on, too, also with a digest of another algorithm.
    let state = registry.get(&location);
    assert_eq!((state.status, state.header("range")), (204, Some("0-99999")));
    let digest = Algorithm::Sha512.digest(&content);
    let ranged = [("Content-Range", "100000-199999")];
    let reply = registry.send("PUT", &closing(&location, &digest), &ranged, rest);
    assert_eq!(reply.status, 201, "{}", reply.text());
    let blob = registry.get(&format!("/v2/team/app/blobs/{digest}"));
    assert!(blob.body == content);
    assert_eq!(registry.stop().code(), Some(0));

    // The index is derived: without it nothing is lost.
    fs::remove_dir_all(dir.path().join("db")).expect("the index");
    let registry = Registry::start_in(dir.path(), &[]);
    eventually("the catalog is back", || registry.get("/v2/_catalog").status == 200);
    assert!(reads(&registry, &paths) == before, "without the index");
}

#[test]
fn read_only() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut registry = Registry::start_in(dir.path(), &[]);
    let paths = fill(&registry);
    let manifest = bare_manifest(&registry, "team/app");
    let upload = registry.start_upload("team/app");
    let reply = registry.send("PATCH", &upload, &[], b"some");
    assert_eq!(reply.status, 202);
    let before = reads(&registry, &paths);
    assert_eq!(registry.stop().code(), Some(0));
    let layers = dir.path().join("layers");
    let stored = files(&layers);

    let registry = Registry::start_in(dir.path(), &["--read-only"]);
    assert!(registry.ready.contains("(read-only)"), "{}", registry.ready);
    assert!(reads(&registry, &paths) == before, "all can be read");
    let state = registry.get(&upload);
    assert_eq!((state.status, state.header("range")), (204, Some("0-3")));
    let large = sha256(&noise(40, 300_000));
    let blob = format!("/v2/team/app/blobs/{large}");
    let part = registry.send("GET", &blob, &[("Range", "bytes=0-9")], b"");
    assert_eq!((part.status, part.body.len()), (206, 10));

    let digest = sha256(manifest.as_bytes());
    let uploads = "/v2/team/app/blobs/uploads/";
    let (body, none) = (manifest.as_bytes(), &b""[..]);
    for (method, path, body) in [
        ("POST", uploads.to_owned(), none),
        ("POST", format!("{uploads}?digest={digest}"), body),
        ("POST", format!("{uploads}?mount={large}&from=team"), none),
        ("PATCH", upload.clone(), body),
        ("PUT", closing(&upload, &sha256(b"some")), none),
        ("DELETE", upload.clone(), none),
        ("PUT", "/v2/team/app/manifests/v2".to_owned(), body),
        ("PUT", format!("/v2/team/app/manifests/{digest}"), body),
        ("PUT", "/v2/new/manifests/v1".to_owned(), body),
        ("DELETE", "/v2/team/app/manifests/v1".to_owned(), none),
        ("DELETE", format!("/v2/team/app/manifests/{digest}"), none),
        ("DELETE", blob, none),
    ] {
        let typed = [("Content-Type", OCI_MANIFEST)];
        let reply = registry.send(method, &path, &typed, body);
        let why = format!("{method} {path}");
        refused(&reply, 405, "UNSUPPORTED", &why);
        // RFC 9110, 10.2.1: Allow must come, and lists what the resource takes.
        let allow = header_values(&reply, "allow");
        assert!(!allow.is_empty(), "{why}");
        let allowed = allow.iter().flat_map(|value| value.split(", "));
        for allowed in allowed.filter(|method| !method.is_empty()) {
            let status = registry.send(allowed, &path, &[], b"").status;
            assert_ne!(status, 405, "{why} says it takes {allowed}");
        }
    }
    assert!(reads(&registry, &paths) == before, "nothing has changed");
    assert!(files(&layers) == stored, "nor has any file");
}

/// A store as another server leaves it: without referrers, and without what
/// this one keeps beside it.
#[test]
fn written_by_another_server() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = Store::new(dir.path());
    let config = store.content(EMPTY_JSON);
    let layer = store.content(b"a layer");
    let image = image_manifest(
        &descriptor(OCI_CONFIG, &config, EMPTY_JSON.len()),
        &[descriptor(OCI_LAYER, &layer, 7)],
    );
    let image_digest = store.content(image.as_bytes());
    let sbom = artifact(&image_digest);
    let sbom_digest = store.content(sbom.as_bytes());
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX,
        "manifests": [descriptor(OCI_MANIFEST, &image_digest, image.len())]})
    .to_string();
    let index_digest = store.content(index.as_bytes());
    // What distribution took before it refused schema 1.
    let schema1 = json!({"schemaVersion": 1, "name": "old", "tag": "v1"}).to_string();
    let schema1_digest = store.content(schema1.as_bytes());
    for repository in ["top", "deep/er/and/deeper"] {
        for blob in [&config, &layer] {
            store.blob(repository, blob, blob);
        }
        for manifest in [&image_digest, &sbom_digest, &index_digest] {
            store.manifest(repository, manifest);
        }
        store.tag(repository, "v1", &image_digest);
        store.tag(repository, "v1.0", &image_digest);
        store.tag(repository, "all", &index_digest);
    }
    store.manifest("old", &schema1_digest);
    store.tag("old", "v1", &schema1_digest);

    let registry = Registry::start_in(dir.path(), &[]);
    for repository in ["top", "deep/er/and/deeper"] {
        let tags = registry.get(&format!("/v2/{repository}/tags/list"));
        assert_eq!(tags.json(), json!({"name": repository, "tags": ["all", "v1", "v1.0"]}));
        for (reference, media_type, bytes) in [
            ("v1".to_owned(), OCI_MANIFEST, &image),
            ("v1.0".to_owned(), OCI_MANIFEST, &image),
            ("all".to_owned(), OCI_INDEX, &index),
            (sbom_digest.to_string(), OCI_MANIFEST, &sbom),
        ] {
            let reply = registry.get(&format!("/v2/{repository}/manifests/{reference}"));
            assert_eq!((reply.status, &reply.text()), (200, bytes), "{reference}");
            assert_eq!(reply.header("content-type"), Some(media_type));
        }
        let reply = registry.get(&format!("/v2/{repository}/blobs/{layer}"));
        assert_eq!((reply.status, reply.text().as_str()), (200, "a layer"));
        let reply = registry.get(&format!("/v2/{repository}/blobs/{image_digest}"));
        refused(&reply, 404, "BLOB_UNKNOWN", "not linked as a blob");

        let want = json!([{"mediaType": OCI_MANIFEST, "digest": sbom_digest.to_string(),
            "size": sbom.len(), "artifactType": "application/x"}]);
        let path = format!("/v2/{repository}/referrers/{image_digest}");
        eventually("the referrers are found", || registry.get(&path).json()["manifests"] == want);
    }
    let catalog = json!({"repositories": ["deep/er/and/deeper", "old", "top"]});
    eventually("the catalog is there", || registry.get("/v2/_catalog").json() == catalog);
    let reply = registry.get("/v2/old/manifests/v1");
    assert_eq!((reply.status, reply.text()), (200, schema1));
    assert_eq!(
        reply.header("content-type"),
        Some("application/vnd.docker.distribution.manifest.v1+prettyjws")
    );

    // It can be written as well.
    let path = format!("/v2/top/manifests/{image_digest}");
    assert_eq!(registry.delete(&path).status, 202);
    let tags = registry.get("/v2/top/tags/list");
    assert_eq!(tags.json(), json!({"name": "top", "tags": ["all"]}));
    registry.push_image("top", "v2", "new");
    let tags = registry.get("/v2/top/tags/list");
    assert_eq!(tags.json(), json!({"name": "top", "tags": ["all", "v2"]}));
}

/// Another server adds a repository, and a referrer to an image of ours, while
/// this one is stopped.
#[test]
fn written_by_two_servers_in_turn() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut registry = Registry::start_in(dir.path(), &[]);
    let digest = registry.push_image("ours", "v1", "seed");
    assert_eq!(registry.stop().code(), Some(0));
    let store = Store::new(dir.path());
    store.manifest("theirs", &digest);
    store.tag("theirs", "v1", &digest);
    let sbom = artifact(&digest);
    let sbom_digest = store.content(sbom.as_bytes());
    store.manifest("ours", &sbom_digest);
    let registry = Registry::start_in(dir.path(), &[]);
    let catalog = json!({"repositories": ["ours", "theirs"]});
    eventually("the catalog shows both", || registry.get("/v2/_catalog").json() == catalog);
    assert_eq!(registry.get("/v2/theirs/manifests/v1").status, 200);
    let path = format!("/v2/ours/referrers/{digest}");
    let sbom_digest = sbom_digest.to_string();
    eventually("the referrer is found", || {
        registry.get(&path).json()["manifests"][0]["digest"] == *sbom_digest
    });
}

/// Distribution keeps all content under its sha256, and links other digests
/// to that.
#[test]
fn linked_to_another_digest() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = Store::new(dir.path());
    let content = "kept under its sha256";
    let long = Algorithm::Sha512.digest(content.as_bytes());
    let short = store.content(content.as_bytes());
    store.blob("theirs", &long, &short);
    let registry = Registry::start_in(dir.path(), &[]);
    let blob = |repository| registry.get(&format!("/v2/{repository}/blobs/{long}"));
    assert_eq!(blob("theirs").text(), content);

    let path = format!("/v2/ours/blobs/uploads/?mount={long}&from=theirs");
    let reply = registry.send("POST", &path, &[], b"");
    assert_eq!(reply.status, 201, "{}", reply.text());
    assert_eq!(blob("ours").text(), content);
}

/// Every stop in order ends with 0, whatever the server has just done.
#[test]
fn stops_in_order() {
    const ROUNDS: usize = 20;
    let dir = tempfile::tempdir().expect("a folder");
    for round in 0..ROUNDS {
        let mut registry = Registry::start_in(dir.path(), &[]);
        if round % 2 == 0 {
            registry.push_image("a", "v1", &round.to_string());
        }
        let status = registry.stop();
        assert_eq!(status.code(), Some(0), "{status}, round {round}; log:\n{}", registry.log());
    }
}

/// A blob is mended by pushing it again, to whatever repository: all that link
/// it then serve it whole, those too that have served it damaged.
#[test]
fn mended_blob() {
    let dir = tempfile::tempdir().expect("a folder");
    // More than is copied, and little.
    for content in [noise(50, 300_000), noise(51, 1000)] {
        let store = Store::new(dir.path());
        let digest = sha256(&content);
        store.data(&digest, &content[..content.len() / 3]);
        for repository in ["a", "mounted"] {
            store.blob(repository, &digest, &digest);
        }
        let registry = Registry::start_in(dir.path(), &[]);
        let blob = |repository: &str| format!("/v2/{repository}/blobs/{digest}");
        for repository in ["a", "mounted"] {
            registry.head(&blob(repository));
            assert!(registry.get(&blob(repository)).body != content);
        }
        assert_eq!(registry.push_blob("b", &content), digest);
        let length = content.len().to_string();
        for repository in ["a", "mounted", "b"] {
            for reply in [registry.head(&blob(repository)), registry.get(&blob(repository))] {
                assert_eq!(reply.status, 200, "{repository}");
                headers(&reply, &[("content-length", Some(&length))], repository);
                assert!(reply.body.is_empty() || reply.body == content);
            }
            assert!(registry.get(&blob(repository)).body == content, "{repository}");
            let end = content.len() - 1;
            let range = format!("bytes={end}-");
            let part = registry.send("GET", &blob(repository), &[("Range", &range)], b"");
            assert_eq!((part.status, &part.body[..]), (206, &content[end..]));
        }
    }
}

/// The modes of a folder and of everything below it, by path.
fn modes(folder: &Path) -> BTreeMap<PathBuf, u32> {
    let mut found = BTreeMap::new();
    let mut left = vec![folder.to_owned()];
    while let Some(path) = left.pop() {
        let metadata = fs::symlink_metadata(&path).expect("it exists");
        if metadata.is_dir() {
            let entries = fs::read_dir(&path).expect("a folder");
            left.extend(entries.map(|entry| entry.expect("an entry").path()));
        }
        found.insert(path, metadata.permissions().mode() & 0o777);
    }
    found
}

/// Starts a server with a umask that permits other users to read what it creates.
fn start_with_umask(logs: &Path, arguments: &[&str]) -> Registry {
    let mut command = Command::new("sh");
    command
        .args(["-c", "umask 022; exec \"$0\" serve --port 0 \"$@\"", REGISTRY])
        .args(arguments)
        .stdin(Stdio::null());
    Registry::spawn(logs, command)
}

/// What a server creates can be read by its user alone, whatever its umask is.
#[test]
fn private_files() {
    let temp = tempfile::tempdir().expect("a folder");
    let dir = temp.path().join("registry");
    let said = temp.path().join("umask");
    let hook = format!("umask > {}", said.display());
    let dir_name = dir.to_str().expect("UTF-8");
    let arguments =
        ["--dir", dir_name, "--on-tag", &hook, "--notify", "http://127.0.0.1:9/", "--index-jobs=1"];
    let registry = start_with_umask(temp.path(), &arguments);
    registry.push_image("team/app", "v1", "seed");
    let location = registry.start_upload("team/app");
    assert_eq!(registry.send("PATCH", &location, &[], b"some").status, 202);
    eventually("the hook has run", || fs::read(&said).is_ok_and(|text| text == b"0022\n"));
    let found = modes(&dir);
    for name in ["socket", "db", "db/CURRENT", "notifications", "layers/docker/registry/v2/blobs"] {
        assert!(found.contains_key(&dir.join(name)), "{name}: {found:?}");
    }
    for (path, mode) in found {
        assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", path.display());
    }
}

/// An existing store may be shared with other programs, so its modes stay, and new files get the
/// same. The index beside it is private.
#[test]
fn modes_of_an_existing_store() {
    let temp = tempfile::tempdir().expect("a folder");
    let store = Store::new(temp.path());
    store.content(b"there before");
    let layers = temp.path().join("layers");
    for (path, mode) in modes(&layers) {
        let mode = if mode & 0o100 != 0 { 0o755 } else { 0o644 };
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("our own");
    }
    let before = modes(&layers);
    let dir = temp.path().join("registry");
    let arguments =
        ["--dir", dir.to_str().expect("UTF-8"), "--layers", layers.to_str().expect("UTF-8")];
    let mut registry = start_with_umask(temp.path(), &arguments);
    registry.push_image("team/app", "v1", "seed");
    let after = modes(&layers);
    assert!(after.len() > before.len());
    for (path, mode) in after {
        let want = if path.is_dir() { 0o755 } else { 0o644 };
        assert_eq!(mode, want, "{} has mode {mode:o}", path.display());
    }
    let private = |name: &str| {
        let mode = fs::metadata(dir.join(name)).expect(name).permissions().mode();
        assert_eq!(mode & 0o077, 0, "{name} has mode {mode:o}");
    };
    for name in ["", "db", "socket"] {
        private(name);
    }

    // A command without a server makes the index private as well.
    assert_eq!(registry.stop().code(), Some(0));
    fs::remove_dir_all(dir.join("db")).expect("the index");
    let command = format!("umask 022; exec {REGISTRY} index --all \"$@\"");
    let status = Command::new("sh").args(["-c", &command, "sh"]).args(arguments).status();
    // The layer that was pushed is no tar, so indexing it fails.
    assert_eq!(status.expect("sh runs").code(), Some(1));
    private("db");
}
