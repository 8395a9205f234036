//! Pushing, pulling and deleting manifests and tags.

use registry::oci::{Algorithm, Digest};
use serde_json::{Value, json};

use crate::common::{
    DOCKER_LIST, DOCKER_MANIFEST, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, Registry, Reply,
    descriptor, eventually, image_manifest,
};
use crate::support::{
    Connection, EMPTY_JSON, absent, bare_manifest, empty_config, files, header_values, headers,
    lasting_headers, refused, sha256,
};

const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
const LAYER: &[u8] = b"a layer";

/// A registry whose repository `a` holds [`EMPTY_JSON`] and [`LAYER`].
fn registry(arguments: &[&str]) -> Registry {
    let registry = Registry::start(arguments);
    registry.push_blob("a", EMPTY_JSON);
    registry.push_blob("a", LAYER);
    registry
}

fn config() -> Value {
    descriptor(OCI_CONFIG, &sha256(EMPTY_JSON), EMPTY_JSON.len())
}

fn layer() -> Value {
    descriptor(OCI_LAYER, &sha256(LAYER), LAYER.len())
}

fn put(registry: &Registry, reference: &str, media_type: &str, manifest: &str) -> Reply {
    registry.push_manifest("a", reference, media_type, manifest.as_bytes())
}

/// Pushes to `a` what must be accepted.
#[track_caller]
fn accepted(registry: &Registry, reference: &str, media_type: &str, manifest: &str) -> Reply {
    let reply = put(registry, reference, media_type, manifest);
    assert_eq!(reply.status, 201, "{manifest}: {}", reply.text());
    reply
}

fn get(registry: &Registry, reference: &str) -> Reply {
    registry.get(&format!("/v2/a/manifests/{reference}"))
}

/// Checks that `reference` gives just these bytes.
#[track_caller]
fn pulls(registry: &Registry, reference: &str, media_type: &str, digest: &Digest, bytes: &str) {
    let reply = get(registry, reference);
    assert_eq!(reply.status, 200, "{reference}: {}", reply.text());
    assert_eq!(reply.text(), bytes, "{reference}");
    headers(
        &reply,
        &[
            ("content-type", Some(media_type)),
            ("content-length", Some(&bytes.len().to_string())),
            ("docker-content-digest", Some(&digest.to_string())),
            ("etag", Some(&format!("\"{digest}\""))),
            ("docker-distribution-api-version", Some("registry/2.0")),
        ],
        reference,
    );
    let head = registry.head(&format!("/v2/a/manifests/{reference}"));
    assert_eq!((head.status, head.body.len()), (200, 0), "{reference}");
    assert_eq!(lasting_headers(&head), lasting_headers(&reply));
}

#[test]
fn every_type_by_tag_and_digest() {
    let registry = registry(&[]);
    // Blanks where nobody expects them: the bytes must stay as they are.
    let image = |media_type: &str, config_type: &str, layer_type: &str| {
        let config = descriptor(config_type, &sha256(EMPTY_JSON), EMPTY_JSON.len());
        let layer = descriptor(layer_type, &sha256(LAYER), LAYER.len());
        format!(
            "\n{{ \"layers\":[\t{layer} ],\r\n\"config\":{config} ,\"mediaType\" : \"{media_type}\",  \"schemaVersion\":2}}\n \n"
        )
    };
    let oci = image(OCI_MANIFEST, OCI_CONFIG, OCI_LAYER);
    let docker = image(DOCKER_MANIFEST, DOCKER_CONFIG, DOCKER_LAYER);
    let list = |media_type: &str, child_type: &str, child: &str| {
        let child = descriptor(child_type, &sha256(child.as_bytes()), child.len());
        format!(
            "{{\"schemaVersion\":2,\n   \"mediaType\": \"{media_type}\", \"manifests\":[{child}]}}\t"
        )
    };
    for (media_type, bytes) in [
        (OCI_MANIFEST, &oci),
        (DOCKER_MANIFEST, &docker),
        (OCI_INDEX, &list(OCI_INDEX, OCI_MANIFEST, &oci)),
        (DOCKER_LIST, &list(DOCKER_LIST, DOCKER_MANIFEST, &docker)),
    ] {
        let [short, long] = Algorithm::ALL.map(|algorithm| algorithm.digest(bytes.as_bytes()));
        for (reference, digest) in
            [("tagged".to_owned(), short), (short.to_string(), short), (long.to_string(), long)]
        {
            let parameters = format!("{media_type}; charset=utf-8");
            for content_type in [media_type, &parameters] {
                let reply = accepted(&registry, &reference, content_type, bytes);
                assert_eq!(reply.body.len(), 0, "{reference}");
                headers(
                    &reply,
                    &[
                        ("location", Some(&format!("/v2/a/manifests/{reference}"))),
                        ("docker-content-digest", Some(&digest.to_string())),
                        ("content-length", Some("0")),
                        ("oci-subject", None),
                        ("oci-tag", None),
                    ],
                    &reference,
                );
            }
            pulls(&registry, &reference, media_type, &digest, bytes);
            pulls(&registry, &digest.to_string(), media_type, &digest, bytes);
        }
    }
}

/// The type of what says none itself is the pushed one, or goes by its shape.
#[test]
fn without_media_type() {
    let registry = registry(&[]);
    let image = json!({"schemaVersion": 2, "config": config(), "layers": [layer()]}).to_string();
    let index = json!({"schemaVersion": 2, "manifests": []}).to_string();
    for (bytes, media_type) in [(&image, OCI_MANIFEST), (&index, OCI_INDEX)] {
        let digest = sha256(bytes.as_bytes());
        accepted(&registry, "typed", media_type, bytes);
        pulls(&registry, "typed", media_type, &digest, bytes);
        let reply = registry.send("PUT", "/v2/a/manifests/untyped", &[], bytes.as_bytes());
        assert_eq!(reply.status, 201, "no Content-Type: {}", reply.text());
        pulls(&registry, "untyped", media_type, &digest, bytes);
    }
}

/// Everything the image specification allows, kept byte for byte.
#[test]
fn kinds() {
    let registry = registry(&[]);
    let image = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": config(), "layers": [layer()]});
    let bytes = image.to_string();
    accepted(&registry, "image", OCI_MANIFEST, &bytes);
    let child = descriptor(OCI_MANIFEST, &sha256(bytes.as_bytes()), bytes.len());
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [child]});
    let bytes = index.to_string();
    accepted(&registry, "index", OCI_INDEX, &bytes);
    let nested = descriptor(OCI_INDEX, &sha256(bytes.as_bytes()), bytes.len());
    let nowhere = descriptor(OCI_MANIFEST, &absent(), 1234);

    let with = |base: &Value, changes: Value| {
        let mut document = base.clone();
        for (key, value) in changes.as_object().expect("an object") {
            document[key] = value.clone();
        }
        document
    };
    let platform = json!({"architecture": "arm64", "os": "linux", "variant": "v8"});
    for (tag, media_type, document) in [
        ("nested-index", OCI_INDEX, with(&index, json!({"manifests": [nested, child]}))),
        ("sparse-index", OCI_INDEX, with(&index, json!({"manifests": [child, nowhere]}))),
        ("empty-index", OCI_INDEX, with(&index, json!({"manifests": []}))),
        (
            "platforms",
            OCI_INDEX,
            with(&index, json!({"manifests": [with(&child, json!({"platform": platform}))]})),
        ),
        (
            "index-of-blobs",
            OCI_INDEX,
            with(
                &index,
                json!({"artifactType": "application/vnd.example", "manifests": [layer()]}),
            ),
        ),
        ("no-layers", OCI_MANIFEST, with(&image, json!({"layers": []}))),
        ("layer-twice", OCI_MANIFEST, with(&image, json!({"layers": [layer(), layer()]}))),
        (
            "artifact",
            OCI_MANIFEST,
            with(
                &image,
                json!({"artifactType": "application/vnd.example", "config": empty_config()}),
            ),
        ),
        ("subject-not-here", OCI_MANIFEST, with(&image, json!({"subject": nowhere}))),
        (
            "custom-fields",
            OCI_MANIFEST,
            with(
                &image,
                json!({"org.example": {"any": [1, null, "thing"]}, "config":
                with(&config(), json!({"more": true, "urls": ["https://example.org/"]}))}),
            ),
        ),
        (
            "embedded-data",
            OCI_MANIFEST,
            with(&image, json!({"config": with(&config(), json!({"data": "e30="}))})),
        ),
        (
            "annotations",
            OCI_MANIFEST,
            with(&image, json!({"annotations": {"org.example": "é \u{1f433} \u{0} \" \\"}})),
        ),
        (
            "oci-non-distributable",
            OCI_MANIFEST,
            with(
                &image,
                json!({"layers": [
                descriptor("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", &absent(), 9),
                layer()]}),
            ),
        ),
        (
            "docker-foreign",
            DOCKER_MANIFEST,
            with(
                &image,
                json!({"mediaType": DOCKER_MANIFEST, "layers": [
                descriptor("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", &absent(), 9)]}),
            ),
        ),
        ("nulls", OCI_MANIFEST, with(&image, json!({"subject": null, "annotations": null}))),
    ] {
        let bytes = serde_json::to_string_pretty(&document).expect("JSON");
        let digest = sha256(bytes.as_bytes());
        accepted(&registry, tag, media_type, &bytes);
        pulls(&registry, tag, media_type, &digest, &bytes);
        pulls(&registry, &digest.to_string(), media_type, &digest, &bytes);
    }
}

#[test]
fn refused_documents() {
    let registry = registry(&[]);
    let image = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": config(), "layers": [layer()]});
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []});
    let changed = |base: &Value, key: &str, value: Value| {
        let mut document = base.clone();
        document[key] = value;
        document.to_string()
    };
    let without = |key: &str| {
        let mut document = image.clone();
        document.as_object_mut().expect("an object").remove(key);
        document.to_string()
    };
    let schema1 = "application/vnd.docker.distribution.manifest.v1+json";
    let signed = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    let old = json!({"schemaVersion": 1, "name": "a", "tag": "v1", "architecture": "amd64",
        "fsLayers": [], "history": []})
    .to_string();
    let bad = |digest: &str| json!({"mediaType": OCI_LAYER, "digest": digest, "size": 1});
    for (media_type, document, why) in [
        (signed, old.clone(), "schema 1, signed"),
        (schema1, old.clone(), "schema 1"),
        ("application/json", old, "schema 1, as its clients sent it"),
        (signed, image.to_string(), "schema 1 by its type alone"),
        (OCI_MANIFEST, String::new(), "nothing"),
        (OCI_MANIFEST, "no JSON".to_owned(), "no JSON"),
        (OCI_MANIFEST, "[]".to_owned(), "no object"),
        (OCI_MANIFEST, "null".to_owned(), "null"),
        (OCI_MANIFEST, "[".repeat(200_000), "deep"),
        (OCI_MANIFEST, format!("{image}{image}"), "two documents"),
        (OCI_MANIFEST, image.to_string().replacen('{', "{\"layers\":[],", 1), "one key twice"),
        (OCI_MANIFEST, changed(&image, "manifests", json!([])), "both a manifest and an index"),
        (OCI_INDEX, changed(&index, "layers", json!([])), "both an index and a manifest"),
        (OCI_INDEX, changed(&index, "config", config()), "an index with a config"),
        (DOCKER_MANIFEST, image.to_string(), "Docker's type, OCI's mediaType"),
        (
            OCI_MANIFEST,
            changed(&image, "mediaType", json!(DOCKER_MANIFEST)),
            "OCI's type, Docker's mediaType",
        ),
        (OCI_INDEX, image.to_string(), "an index's type on a manifest"),
        (OCI_MANIFEST, index.to_string(), "a manifest's type on an index"),
        (OCI_INDEX, without("mediaType"), "an index's type on the shape of a manifest"),
        (
            OCI_MANIFEST,
            json!({"schemaVersion": 2, "manifests": []}).to_string(),
            "a manifest's type on the shape of an index",
        ),
        (
            DOCKER_MANIFEST,
            without("mediaType"),
            "Docker's type that the stored bytes would not tell",
        ),
        ("text/plain", without("mediaType"), "another type"),
        ("text/plain", changed(&image, "mediaType", json!("text/plain")), "another type, agreed"),
        (OCI_MANIFEST, changed(&image, "mediaType", json!(7)), "a number for a type"),
        (OCI_MANIFEST, without("schemaVersion"), "no schemaVersion"),
        (OCI_MANIFEST, changed(&image, "schemaVersion", json!(3)), "schemaVersion 3"),
        (OCI_MANIFEST, without("config"), "no config"),
        (OCI_MANIFEST, changed(&image, "config", json!({})), "an empty config"),
        (OCI_MANIFEST, changed(&image, "config", json!("x")), "a string for a config"),
        (OCI_MANIFEST, changed(&image, "layers", json!({})), "layers that are no list"),
        (OCI_MANIFEST, changed(&image, "layers", json!([bad("sha256:abc")])), "a short digest"),
        (OCI_MANIFEST, changed(&image, "layers", json!([bad("md5:abc")])), "md5"),
        (OCI_MANIFEST, changed(&image, "layers", json!([bad("../../etc")])), "a path"),
        (OCI_MANIFEST, changed(&image, "subject", bad("sha256:abc")), "a bad subject"),
        (OCI_MANIFEST, image.to_string().replace("\"size\":7", "\"size\":-7"), "a negative size"),
        (OCI_INDEX, changed(&index, "manifests", json!([bad("x")])), "a bad child"),
        (OCI_INDEX, changed(&index, "manifests", json!(null)), "an index of nothing"),
    ] {
        let digest = sha256(document.as_bytes());
        for reference in ["v1", &digest.to_string()] {
            let reply = put(&registry, reference, media_type, &document);
            refused(&reply, 400, "MANIFEST_INVALID", why);
            if why.starts_with("schema 1") {
                let text = reply.text();
                assert!(text.contains("schema 1"), "says what is wrong: {text}");
            }
        }
        for reference in ["v1", &digest.to_string()] {
            let reply = get(&registry, reference);
            refused(&reply, 404, "MANIFEST_UNKNOWN", why);
        }
    }
    let left = files(&registry.store().join("repositories/a/_manifests"));
    assert_eq!(left, [], "nothing was stored");
}

/// Checks the refusal of a manifest because of these blobs, in this order.
#[track_caller]
fn blobs_unknown(reply: &Reply, missing: &[Digest], why: &str) {
    assert_eq!(reply.status, 404, "{why}: {}", reply.text());
    headers(reply, &[("content-type", Some("application/json"))], why);
    let mut document = reply.json();
    for error in document["errors"].as_array_mut().expect("a list") {
        let message = error["message"].take();
        assert!(message.as_str().is_some_and(|m| !m.is_empty()), "{why}");
    }
    let errors: Vec<Value> = missing
        .iter()
        .map(|digest| {
            json!({"code": "MANIFEST_BLOB_UNKNOWN", "message": null,
                "detail": {"digest": digest.to_string()}})
        })
        .collect();
    assert_eq!(document, json!({"errors": errors}), "{why}");
}

#[test]
fn missing_blobs() {
    let registry = registry(&[]);
    let elsewhere = registry.push_blob("b", b"in another repository");
    let deleted = registry.push_blob("a", b"deleted");
    let path = format!("/v2/a/blobs/{deleted}");
    assert_eq!(registry.delete(&path).status, 202);
    let (x, y) = (sha256(b"x"), sha256(b"y"));
    let missing = |digest: &Digest| descriptor(OCI_LAYER, digest, 1);
    for (config, layers, want, why) in [
        (config(), vec![missing(&x)], vec![x], "a layer"),
        (descriptor(OCI_CONFIG, &y, 1), vec![layer()], vec![y], "the config"),
        (descriptor(OCI_CONFIG, &y, 1), vec![layer(), missing(&x)], vec![y, x], "both"),
        (
            config(),
            vec![missing(&x), missing(&y), missing(&x)],
            vec![x, y],
            "one error a digest, however often it is named",
        ),
        (config(), vec![missing(&elsewhere)], vec![elsewhere], "what another repository holds"),
        (config(), vec![missing(&deleted)], vec![deleted], "what was deleted"),
        (
            config(),
            vec![missing(&Algorithm::Sha512.digest(LAYER))],
            vec![Algorithm::Sha512.digest(LAYER)],
            "what is here under another name",
        ),
    ] {
        let document = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": config, "layers": layers})
        .to_string();
        let reply = put(&registry, "v1", OCI_MANIFEST, &document);
        blobs_unknown(&reply, &want, why);
        refused(&get(&registry, "v1"), 404, "MANIFEST_UNKNOWN", why);
        let digest = sha256(document.as_bytes()).to_string();
        refused(&get(&registry, &digest), 404, "MANIFEST_UNKNOWN", why);
    }
    // Once they are there, the same manifest is taken.
    let document = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": config(), "layers": [missing(&x)]})
    .to_string();
    registry.push_blob("a", b"x");
    accepted(&registry, "v1", OCI_MANIFEST, &document);
}

#[test]
fn sparse_images() {
    let registry = registry(&["--sparse-images"]);
    let nowhere = descriptor(OCI_LAYER, &absent(), 9);
    let image = |config: Value, layers: &[Value]| {
        json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers})
            .to_string()
    };
    let sparse = image(config(), &[layer(), nowhere.clone()]);
    accepted(&registry, "sparse", OCI_MANIFEST, &sparse);
    let digest = sha256(sparse.as_bytes());
    pulls(&registry, "sparse", OCI_MANIFEST, &digest, &sparse);

    let headless = image(descriptor(OCI_CONFIG, &absent(), 9), &[layer()]);
    let reply = put(&registry, "headless", OCI_MANIFEST, &headless);
    blobs_unknown(&reply, &[absent()], "the config must be there");
    refused(&get(&registry, "headless"), 404, "MANIFEST_UNKNOWN", "refused");
}

#[test]
fn largest_manifest() {
    const MAX: usize = 4 << 20;
    let registry = registry(&[]);
    let padded = |size: usize| {
        let document = |pad: &str| {
            json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config(),
                "layers": [], "annotations": {"pad": pad}})
            .to_string()
        };
        document(&"x".repeat(size - document("").len()))
    };
    let chunked = ("Transfer-Encoding", "chunked");
    for (size, extra, status, why) in [
        (MAX, None, 201, "exactly 4 MiB"),
        (MAX, Some(chunked), 201, "exactly 4 MiB, said by nobody"),
        (MAX + 1, None, 413, "one byte more"),
        (MAX + 1, Some(chunked), 413, "one byte more, said by nobody"),
        (3 * MAX, None, 413, "much more"),
    ] {
        let document = padded(size);
        assert_eq!(document.len(), size);
        let sent: Vec<_> =
            [Some(("Content-Type", OCI_MANIFEST)), extra].into_iter().flatten().collect();
        let path = "/v2/a/manifests/large";
        let reply = registry.send("PUT", path, &sent, document.as_bytes());
        if status == 413 {
            refused(&reply, 413, "SIZE_INVALID", why);
            refused(&registry.get(path), 404, "MANIFEST_UNKNOWN", why);
        } else {
            assert_eq!(reply.status, status, "{why}: {}", reply.text());
            assert!(registry.get(path).body == document.as_bytes(), "{why}");
            assert_eq!(registry.delete(path).status, 202, "for the next");
        }
    }
}

/// Manifests under way take 64 MiB of memory at most; then clients are told to
/// come back.
#[test]
fn too_many_at_once() {
    const MAX: usize = 4 << 20;
    let registry = registry(&[]);
    let document = bare_manifest(&registry, "a");
    let stall = || {
        let mut connection = Connection::open(&registry);
        connection.write(format!(
            "PUT /v2/a/manifests/v2 HTTP/1.1\r\nHost: localhost\r\nContent-Length: {MAX}\r\n\r\n"
        ));
        connection.write(vec![b' '; MAX - 1]);
        connection
    };
    let mut unfinished: Vec<Connection> = (0..16).map(|_| stall()).collect();
    eventually("the memory for manifests is taken", || {
        let reply = put(&registry, "v1", OCI_MANIFEST, &document);
        if reply.status == 429 {
            refused(&reply, 429, "TOOMANYREQUESTS", "no memory is left");
            headers(&reply, &[("retry-after", Some("1"))], "it says when");
        } else {
            assert_eq!(reply.status, 201, "{}", reply.text());
            // This push may have been in the way of one of them.
            unfinished.push(stall());
        }
        reply.status == 429
    });
    assert_eq!(registry.get("/v2/").status, 200, "all else goes on");
    drop(unfinished);
    eventually("the memory is free again", || {
        put(&registry, "v1", OCI_MANIFEST, &document).status == 201
    });
}

#[test]
fn wrong_digest() {
    let registry = registry(&[]);
    let document = bare_manifest(&registry, "a");
    let bytes = document.as_bytes();
    for (digest, why) in [
        (absent(), "sha256"),
        (Algorithm::Sha512.digest(b"never pushed"), "sha512"),
        (sha256(document.trim_end_matches('}').as_bytes()), "cut short"),
    ] {
        let path = format!("/v2/a/manifests/{digest}?tag=v1");
        let reply = registry.send("PUT", &path, &[("Content-Type", OCI_MANIFEST)], bytes);
        refused(&reply, 400, "DIGEST_INVALID", why);
        for reference in ["v1".to_owned(), digest.to_string(), sha256(bytes).to_string()] {
            let reply = get(&registry, &reference);
            refused(&reply, 404, "MANIFEST_UNKNOWN", why);
        }
    }
}

#[test]
fn tag_parameters() {
    let registry = registry(&[]);
    let document = bare_manifest(&registry, "a");
    let bytes = document.as_bytes();
    let typed = [("Content-Type", OCI_MANIFEST)];
    let tags = ["1.2.3", "1.2", "1", "latest", "A", "_", "a-b", "a.b", "a_b", "0", "x1", "x2"];
    let query: Vec<String> = tags.iter().map(|tag| format!("tag={tag}")).collect();
    for algorithm in Algorithm::ALL {
        let digest = algorithm.digest(bytes);
        let path = format!("/v2/a/manifests/{digest}?{}", query.join("&"));
        let reply = registry.send("PUT", &path, &typed, bytes);
        assert_eq!(reply.status, 201, "{}", reply.text());
        // One line with commas, or a line a tag: RFC 9110, 5.3.
        let named: Vec<&str> =
            header_values(&reply, "oci-tag").iter().flat_map(|value| value.split(", ")).collect();
        assert_eq!(named, tags);
        headers(
            &reply,
            &[
                ("docker-content-digest", Some(&digest.to_string())),
                ("location", Some(&format!("/v2/a/manifests/{digest}"))),
            ],
            "by digest",
        );
        for tag in tags {
            pulls(&registry, tag, OCI_MANIFEST, &digest, &document);
        }
    }

    let digest = sha256(bytes);
    let long = "t".repeat(129);
    for (path, why) in [
        (format!("{digest}?tag=new&tag=.bad"), "one bad tag refuses all"),
        (format!("{digest}?tag=new&tag="), "an empty tag"),
        (format!("{digest}?tag=new&tag=..%2f.."), "a path"),
        (format!("{digest}?tag=new&tag={long}"), "an overlong tag"),
        (format!("{digest}?tag=new&tag={digest}"), "a digest"),
        ("new?tag=newer".to_owned(), "tags go with a digest only"),
    ] {
        let path = format!("/v2/a/manifests/{path}");
        let reply = registry.send("PUT", &path, &typed, bytes);
        refused(&reply, 400, "MANIFEST_INVALID", why);
        refused(&get(&registry, "new"), 404, "MANIFEST_UNKNOWN", why);
    }
}

#[test]
fn subject_is_acknowledged() {
    let registry = registry(&[]);
    let image = bare_manifest(&registry, "a");
    let short = sha256(image.as_bytes());
    let long = Algorithm::Sha512.digest(image.as_bytes());
    for (subject, why) in [(absent(), "not pushed yet"), (short, "sha256"), (long, "sha512")] {
        let subject_descriptor = descriptor(OCI_MANIFEST, &subject, image.len());
        let artifact = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": config(), "layers": [], "subject": subject_descriptor});
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX,
            "manifests": [], "subject": subject_descriptor});
        for (media_type, document) in [(OCI_MANIFEST, artifact), (OCI_INDEX, index)] {
            let document = document.to_string();
            for reference in ["v1", &sha256(document.as_bytes()).to_string()] {
                let reply = accepted(&registry, reference, media_type, &document);
                headers(&reply, &[("oci-subject", Some(&subject.to_string()))], why);
            }
        }
    }
}

#[test]
fn conditions() {
    let registry = registry(&[]);
    let document = bare_manifest(&registry, "a");
    accepted(&registry, "v1", OCI_MANIFEST, &document);
    let digest = sha256(document.as_bytes());
    let tag = format!("\"{digest}\"");
    for (name, value, status, why) in [
        ("If-None-Match", tag.as_str(), 304, "the client has it"),
        ("If-None-Match", "\"x\"", 200, "the client has another"),
        ("Accept", DOCKER_MANIFEST, 200, "there is only the one form"),
        ("Accept", "text/html, */*;q=0.1", 200, "anything"),
    ] {
        for reference in ["v1", &digest.to_string()] {
            let path = format!("/v2/a/manifests/{reference}");
            for method in ["GET", "HEAD"] {
                let reply = registry.send(method, &path, &[(name, value)], b"");
                assert_eq!(reply.status, status, "{why}");
                headers(&reply, &[("etag", Some(&tag))], why);
                let full = method == "GET" && status == 200;
                assert_eq!(reply.text(), if full { &document } else { "" }, "{why}");
            }
        }
    }
}

#[test]
fn isolation() {
    let registry = registry(&[]);
    let document = bare_manifest(&registry, "a");
    accepted(&registry, "v1", OCI_MANIFEST, &document);
    let digest = sha256(document.as_bytes()).to_string();
    bare_manifest(&registry, "b");
    for repository in ["b", "a/b", "nowhere"] {
        for reference in ["v1", &digest] {
            let path = format!("/v2/{repository}/manifests/{reference}");
            for method in ["GET", "DELETE"] {
                let reply = registry.send(method, &path, &[], b"");
                refused(&reply, 404, "MANIFEST_UNKNOWN", &path);
            }
            let head = registry.head(&path);
            assert_eq!((head.status, head.body.len()), (404, 0), "{path}");
        }
    }
    assert_eq!(get(&registry, "v1").status, 200);
}

#[test]
fn tags_move() {
    let registry = registry(&[]);
    let [old, new] = [json!([]), json!([layer()])].map(|layers| {
        json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config(), "layers": layers})
            .to_string()
    });
    let [old_digest, new_digest] = [&old, &new].map(|text| sha256(text.as_bytes()));
    accepted(&registry, "v1", OCI_MANIFEST, &old);
    accepted(&registry, "stays", OCI_MANIFEST, &old);
    pulls(&registry, "v1", OCI_MANIFEST, &old_digest, &old);
    accepted(&registry, "v1", OCI_MANIFEST, &new);
    pulls(&registry, "v1", OCI_MANIFEST, &new_digest, &new);
    pulls(&registry, "stays", OCI_MANIFEST, &old_digest, &old);
    let reference = old_digest.to_string();
    pulls(&registry, &reference, OCI_MANIFEST, &old_digest, &old);

    // The old manifest goes, and the tag that left it stays.
    let path = format!("/v2/a/manifests/{old_digest}");
    assert_eq!(registry.delete(&path).status, 202);
    pulls(&registry, "v1", OCI_MANIFEST, &new_digest, &new);
    refused(&get(&registry, "stays"), 404, "MANIFEST_UNKNOWN", "gone");
}

#[test]
fn delete() {
    let registry = registry(&[]);
    let document = bare_manifest(&registry, "a");
    let digest = sha256(document.as_bytes());
    let by_digest = format!("/v2/a/manifests/{digest}");
    let push = || {
        let path = format!("{by_digest}?tag=one&tag=two");
        let typed = [("Content-Type", OCI_MANIFEST)];
        let reply = registry.send("PUT", &path, &typed, document.as_bytes());
        assert_eq!(reply.status, 201, "{}", reply.text());
    };
    let statuses =
        || ["one", "two", &digest.to_string()].map(|reference| get(&registry, reference).status);
    push();
    assert_eq!(statuses(), [200, 200, 200]);

    let reply = registry.delete("/v2/a/manifests/one");
    assert_eq!((reply.status, reply.body.len()), (202, 0));
    assert_eq!(statuses(), [404, 200, 200], "the tag only");
    let again = registry.delete("/v2/a/manifests/one");
    refused(&again, 404, "MANIFEST_UNKNOWN", "the tag is gone");

    push();
    assert_eq!(statuses(), [200, 200, 200], "pushed again");
    let reply = registry.delete(&by_digest);
    assert_eq!((reply.status, reply.body.len()), (202, 0));
    assert_eq!(statuses(), [404, 404, 404], "the manifest and its tags");
    let again = registry.delete(&by_digest);
    refused(&again, 404, "MANIFEST_UNKNOWN", "the manifest is gone");
    let again = registry.delete("/v2/a/manifests/two");
    refused(&again, 404, "MANIFEST_UNKNOWN", "the tag went along");
    let config = registry.get(&format!("/v2/a/blobs/{}", sha256(EMPTY_JSON)));
    assert_eq!(config.status, 200, "blobs stay");

    push();
    assert_eq!(statuses(), [200, 200, 200], "pushed again");
}

/// A manifest can name more layers than an answer should list.
#[test]
fn thousands_of_missing_layers() {
    const LAYERS: usize = 2000;
    const LISTED: usize = 100;
    let registry = registry(&[]);
    let layers: Vec<Value> =
        (0..LAYERS).map(|i| descriptor(OCI_LAYER, &sha256(&i.to_le_bytes()), 8)).collect();
    let document = image_manifest(&config(), &layers);
    let reply = registry.push_manifest("a", "v1", OCI_MANIFEST, document.as_bytes());
    assert_eq!(reply.status, 404);
    let document = reply.json();
    let errors = document["errors"].as_array().expect("errors");
    assert_eq!(errors.len(), LISTED + 1);
    for (i, error) in errors.iter().enumerate() {
        assert_eq!(error["code"], "MANIFEST_BLOB_UNKNOWN", "{error}");
        let message = error["message"].as_str().expect("a message");
        let says = match layers.get(i).filter(|_| i < LISTED) {
            Some(layer) => layer["digest"].as_str().expect("a digest").to_owned(),
            None => (LAYERS - LISTED).to_string(),
        };
        assert!(message.contains(&says), "{says} in {message}");
    }
    refused(&get(&registry, "v1"), 404, "MANIFEST_UNKNOWN", "nothing is stored");
}

/// Every tag costs its own waits for the disk, so one push sets so many only.
#[test]
fn many_tag_parameters() {
    const MAX: usize = 64;
    let registry = registry(&[]);
    let document = bare_manifest(&registry, "a");
    let bytes = document.as_bytes();
    let digest = sha256(bytes);
    let tags: Vec<String> = (0..=MAX).map(|i| format!("t{i}")).collect();
    let push = |tags: &[&[String]]| {
        let query: Vec<String> = tags.concat().iter().map(|tag| format!("tag={tag}")).collect();
        let reference = format!("{digest}?{}", query.join("&"));
        registry.push_manifest("a", &reference, OCI_MANIFEST, bytes)
    };
    refused(&push(&[&tags]), 414, "UNSUPPORTED", "one too many");
    for reference in ["t0", "t64", &digest.to_string()] {
        refused(&get(&registry, reference), 404, "MANIFEST_UNKNOWN", reference);
    }
    let repeated = push(&[&tags[..3], &tags[..MAX], &tags[5..7]]);
    assert_eq!(repeated.status, 201, "{}", repeated.text());
    assert_eq!(header_values(&repeated, "oci-tag"), tags[..MAX], "each once, in order");
    pulls(&registry, "t63", OCI_MANIFEST, &digest, &document);
}
