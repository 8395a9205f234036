//! Listing what refers to a manifest.

use std::collections::BTreeSet;

use registry::oci::{Algorithm, Digest};
use serde_json::{Value, json};

use crate::common::{OCI_CONFIG, OCI_EMPTY, OCI_INDEX, OCI_MANIFEST, Registry, Reply, descriptor};
use crate::support::{
    EMPTY_JSON, absent, bare_manifest, empty_config, headers, next_page, pages, refused, sha256,
};

const SBOM: &str = "application/vnd.example.sbom.v1+json";
const SIGNATURE: &str = "application/vnd.example.signature.v1";

/// Pushes a manifest to `a`; gives its descriptor.
#[track_caller]
fn push(registry: &Registry, media_type: &str, document: &Value) -> Value {
    let bytes = document.to_string();
    let digest = sha256(bytes.as_bytes());
    let reference = digest.to_string();
    let reply = registry.push_manifest("a", &reference, media_type, bytes.as_bytes());
    assert_eq!(reply.status, 201, "{}", reply.text());
    descriptor(media_type, &digest, bytes.len())
}

fn subject(digest: &Digest) -> Value {
    descriptor(OCI_MANIFEST, digest, 1234)
}

fn list(registry: &Registry, digest: &Digest, query: &str) -> Reply {
    registry.get(&format!("/v2/a/referrers/{digest}{query}"))
}

/// Checks a whole listing, whatever its order.
#[track_caller]
fn listed(reply: &Reply, want: &[&Value], why: &str) {
    assert_eq!(reply.status, 200, "{why}: {}", reply.text());
    headers(reply, &[("content-type", Some(OCI_INDEX)), ("link", None)], why);
    let mut document = reply.json();
    let manifests = document["manifests"].as_array_mut().expect("a list");
    manifests.sort_by_key(|manifest| manifest["digest"].to_string());
    let mut want = want.to_vec();
    want.sort_by_key(|manifest| manifest["digest"].to_string());
    assert_eq!(
        document,
        json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": want}),
        "{why}"
    );
}

#[test]
fn nothing_refers() {
    let registry = Registry::start(&[]);
    let manifest = bare_manifest(&registry, "a");
    let reply = registry.push_manifest("a", "v1", OCI_MANIFEST, manifest.as_bytes());
    assert_eq!(reply.status, 201);
    for (repository, digest, why) in [
        ("a", sha256(manifest.as_bytes()), "an image"),
        ("a", absent(), "no manifest here"),
        ("a", Algorithm::Sha512.digest(b"x"), "no manifest, sha512"),
        ("nowhere", absent(), "no repository"),
    ] {
        let reply = registry.get(&format!("/v2/{repository}/referrers/{digest}"));
        listed(&reply, &[], why);
        headers(&reply, &[("oci-filters-applied", None)], why);
        let head = registry.head(&format!("/v2/{repository}/referrers/{digest}"));
        assert_eq!((head.status, head.body.len()), (200, 0), "{why}");
    }
    for (last, why) in [("x", "no digest"), ("md5:00", "md5")] {
        let reply = list(&registry, &absent(), &format!("?last={last}"));
        refused(&reply, 400, "DIGEST_INVALID", why);
    }
}

#[test]
fn descriptors_and_filter() {
    let registry = Registry::start(&[]);
    registry.push_blob("a", EMPTY_JSON);
    let image = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config":
        descriptor(OCI_CONFIG, &sha256(EMPTY_JSON), 2), "layers": []});
    let to = sha256(image.to_string().as_bytes());
    let artifact = |changes: Value| {
        let mut document = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": empty_config(), "layers": [], "subject": subject(&to)});
        for (key, value) in changes.as_object().expect("an object") {
            document[key] = value.clone();
        }
        document
    };
    let with = |mut descriptor: Value, key: &str, value: Value| {
        descriptor[key] = value;
        descriptor
    };
    let annotations = json!({"org.example.format": "json", "created": "2022-01-01T14:42:55Z"});

    let sbom = push(
        &registry,
        OCI_MANIFEST,
        &artifact(json!({"artifactType": SBOM, "annotations": annotations})),
    );
    let sbom = with(sbom, "artifactType", json!(SBOM));
    let sbom = with(sbom, "annotations", annotations.clone());
    let signature = push(&registry, OCI_MANIFEST, &artifact(json!({"artifactType": SIGNATURE})));
    let signature = with(signature, "artifactType", json!(SIGNATURE));
    // The config's type stands in for a missing artifactType, and an empty one.
    let config = json!({"mediaType": SBOM, "digest": sha256(EMPTY_JSON).to_string(), "size": 2});
    let by_config = push(&registry, OCI_MANIFEST, &artifact(json!({"config": config})));
    let by_config = with(by_config, "artifactType", json!(SBOM));
    let empty = push(&registry, OCI_MANIFEST, &artifact(json!({"artifactType": ""})));
    let empty = with(empty, "artifactType", json!(OCI_EMPTY));
    // An index without one has none.
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [],
        "subject": subject(&to), "annotations": annotations});
    let plain_index = push(&registry, OCI_INDEX, &index);
    let plain_index = with(plain_index, "annotations", annotations);
    let mut typed = index.clone();
    typed["artifactType"] = json!(SIGNATURE);
    typed["annotations"] = json!({});
    let typed_index = push(&registry, OCI_INDEX, &typed);
    let typed_index = with(typed_index, "artifactType", json!(SIGNATURE));
    // These refer to something else, or to nothing.
    push(&registry, OCI_MANIFEST, &image);
    push(&registry, OCI_MANIFEST, &artifact(json!({"subject": subject(&absent())})));

    let all = [&sbom, &signature, &by_config, &empty, &plain_index, &typed_index];
    let reply = list(&registry, &to, "");
    listed(&reply, &all, "all");
    headers(&reply, &[("oci-filters-applied", None)], "no filter");
    let escaped = "application%2Fvnd.example.sbom.v1%2Bjson";
    for (filter, want, why) in [
        (SBOM, &[&sbom, &by_config][..], "a plus sign"),
        (escaped, &[&sbom, &by_config], "escaped"),
        (SIGNATURE, &[&signature, &typed_index], "also an index"),
        (OCI_EMPTY, &[&empty], "the empty config's type"),
        ("application/vnd.example", &[], "no prefixes"),
    ] {
        let reply = list(&registry, &to, &format!("?artifactType={filter}"));
        listed(&reply, want, why);
        let applied = [("oci-filters-applied", Some("artifactType"))];
        headers(&reply, &applied, why);
    }

    // Another repository has referrers of its own.
    let reply = registry.get(&format!("/v2/b/referrers/{to}"));
    listed(&reply, &[], "another repository");

    // What is deleted refers no more; a deleted subject is still referred to.
    let path = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().expect("a digest");
        format!("/v2/a/manifests/{digest}")
    };
    assert_eq!(registry.delete(&path(&sbom)).status, 202);
    assert_eq!(registry.delete(&path(&typed_index)).status, 202);
    let left = [&signature, &by_config, &empty, &plain_index];
    listed(&list(&registry, &to, ""), &left, "two are deleted");
    let reply = registry.delete(&format!("/v2/a/manifests/{to}"));
    assert_eq!(reply.status, 202);
    listed(&list(&registry, &to, ""), &left, "the subject is deleted");
}

#[test]
fn sha512() {
    let registry = Registry::start(&[]);
    registry.push_blob("a", EMPTY_JSON);
    let to = Algorithm::Sha512.digest(b"a subject");
    let document = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": SBOM,
        "config": empty_config(), "layers": [], "subject": subject(&to)});
    let bytes = document.to_string();
    let names = Algorithm::ALL.map(|algorithm| algorithm.digest(bytes.as_bytes()));
    let want = names.map(|digest| {
        let reference = digest.to_string();
        let reply = registry.push_manifest("a", &reference, OCI_MANIFEST, bytes.as_bytes());
        assert_eq!(reply.status, 201, "{}", reply.text());
        let mut descriptor = descriptor(OCI_MANIFEST, &digest, bytes.len());
        descriptor["artifactType"] = json!(SBOM);
        descriptor
    });
    // Pushed under two names, it is two manifests.
    listed(&list(&registry, &to, ""), &want.each_ref(), "both names");
    let path = format!("/v2/a/manifests/{}", names[1]);
    assert_eq!(registry.delete(&path).status, 202);
    listed(&list(&registry, &to, ""), &[&want[0]], "one is deleted");
}

#[test]
fn more_than_a_page() {
    const SBOMS: usize = 105;
    const SIGNATURES: usize = 25;
    let registry = Registry::start(&[]);
    registry.push_blob("a", EMPTY_JSON);
    let to = sha256(b"a subject");
    let mut digests = [SBOM, SIGNATURE].map(|_| BTreeSet::new());
    let types = std::iter::repeat_n(0, SBOMS).chain(std::iter::repeat_n(1, SIGNATURES));
    for (i, kind) in types.enumerate() {
        let artifact_type = [SBOM, SIGNATURE][kind];
        let document = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "artifactType": artifact_type, "config": empty_config(), "layers": [],
            "subject": subject(&to), "annotations": {"number": i.to_string()}});
        let pushed = push(&registry, OCI_MANIFEST, &document);
        digests[kind].insert(pushed["digest"].as_str().expect("a digest").to_owned());
    }
    let [sboms, signatures] = &digests;
    let all: BTreeSet<String> = sboms.union(signatures).cloned().collect();

    let filter = |kind: &str| format!("?artifactType={}", kind.replace('+', "%2B"));
    for (query, want, applied, why) in [
        (String::new(), &all, None, "all"),
        (filter(SBOM), sboms, Some("artifactType"), "more than a page of them"),
        (filter(SIGNATURE), signatures, Some("artifactType"), "few among many"),
    ] {
        let path = format!("/v2/a/referrers/{to}{query}");
        let pages = pages(&registry, &path);
        let mut found = Vec::new();
        for page in &pages {
            let document = page.json();
            assert_eq!(document["schemaVersion"], 2, "{why}");
            assert_eq!(document["mediaType"], OCI_INDEX, "{why}");
            headers(
                page,
                &[("content-type", Some(OCI_INDEX)), ("oci-filters-applied", applied)],
                why,
            );
            let manifests = document["manifests"].as_array().expect("a list").clone();
            found.extend(manifests.iter().map(|manifest| {
                let digest = manifest["digest"].as_str().expect("a digest");
                digest.to_owned()
            }));
        }
        assert_eq!(found.len(), want.len(), "each once: {why}");
        assert_eq!(&found.into_iter().collect::<BTreeSet<_>>(), want, "{why}");
        if want.len() > 100 {
            assert!(pages.len() > 1, "{why}");
            let next = next_page(&pages[0]).expect("a next page");
            assert!(next.starts_with(&path), "it keeps the filter: {next}");
        }
    }
}
