//! `GET /v1/events`

use std::io::Write;
use std::process::Command;
use std::thread;

use registry::oci::{Algorithm, Digest};
use serde_json::{Value, json};

use crate::common::{DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Registry, eventually, run};
use crate::support::{Image, Listener, METRICS, bare, fast_folder, metric, push, tag_all};

/// What a push of an image of one layer is told as.
fn pushed(repository: &str, tag: &str, image: &Image, new_layer: bool) -> Vec<Value> {
    let (config, manifest) = (image.config.hex(), image.manifest.to_string());
    let layer = json!({"type": "layer", "id": image.layer.hex(), "checksum": image.layer.to_string(),
        "repository": repository, "digest": image.layer.to_string()});
    let about =
        |kind| json!({"type": kind, "id": config, "repository": repository, "digest": manifest});
    let mut tagged = about("tag");
    tagged["tag"] = format!("{repository}:{tag}").into();
    let layer = new_layer.then_some(layer);
    let rest = [about("verify"), about("image"), tagged];
    layer.into_iter().chain(rest).collect()
}

const ALL_BUT_INDEX: &str = "?type=tag,untag,image,layer&type=verify&type=delete";

#[test]
fn a_push_is_told_in_order() {
    let registry = Registry::start(&[]);
    let mut listener = Listener::new(&registry, ALL_BUT_INDEX);
    let image = push(&registry, "team/app", "1.0", "a", b"1");
    assert_eq!(listener.events(4), pushed("team/app", "1.0", &image, true));
    // The same again: nothing is new but that it was pushed.
    push(&registry, "team/app", "1.0", "a", b"1");
    assert_eq!(listener.events(3), pushed("team/app", "1.0", &image, false));
    // To another repository: there the layer is new, however it comes.
    push(&registry, "other", "x", "a", b"1");
    assert_eq!(listener.events(4), pushed("other", "x", &image, true));
    for digest in [&image.config, &image.layer] {
        let path = format!("/v2/third/blobs/uploads/?mount={digest}&from=other");
        assert_eq!(registry.send("POST", &path, &[], b"").status, 201);
    }
    let manifest = registry.get("/v2/other/manifests/x").body;
    let reply = registry.push_manifest("third", "y", OCI_MANIFEST, &manifest);
    assert_eq!(reply.status, 201);
    assert_eq!(listener.events(4), pushed("third", "y", &image, true));
}

/// The object's first fields are those of the npm server, in its order.
#[test]
fn lines_begin_as_the_npm_servers() {
    let registry = Registry::start(&[]);
    let mut listener = Listener::new(&registry, "?type=tag");
    let image = push(&registry, "a", "1", "a", b"1");
    let line = listener.line().unwrap();
    let want = format!(r#"{{"type":"tag","id":"{}","tag":"a:1","#, image.config.hex());
    assert!(line.starts_with(&want), "{line}");
}

#[test]
fn what_a_layer_holds_is_told_when_it_is_known() {
    let registry = Registry::start(&[]);
    let mut listener = Listener::new(&registry, "?type=index");
    let image = push(&registry, "a", "1", "a", b"1");
    let want = json!({"type": "index", "id": image.layer.hex(), "repository": "a", "digest": image.layer.to_string()});
    assert_eq!(listener.events(1), [want]);
    // No tar, no index, no event; the next one that comes is the other's.
    registry.push_image("a", "2", "not a tar");
    let image = push(&registry, "b", "1", "b", b"2");
    assert_eq!(listener.events(1)[0]["id"], image.layer.hex());
}

#[test]
fn tags_and_deletes() {
    let registry = Registry::start(&[]);
    let image = push(&registry, "a", "1", "a", b"1");
    let other = push(&registry, "a", "2", "b", b"2");
    let mut listener = Listener::new(&registry, ALL_BUT_INDEX);
    let about = |kind: &str, image: &Image| json!({"type": kind, "id": image.config.hex(), "repository": "a", "digest": image.manifest.to_string()});
    let tagged = |kind: &str, image: &Image, tag: &str| {
        let mut event = about(kind, image);
        event["tag"] = tag.into();
        event
    };
    // Moved: the old image hears nothing, as in the npm server.
    let manifest = registry.get("/v2/a/manifests/2").body;
    assert_eq!(registry.push_manifest("a", "1", OCI_MANIFEST, &manifest).status, 201);
    assert_eq!(listener.events(3)[2], tagged("tag", &other, "a:1"));
    assert_eq!(registry.delete("/v2/a/manifests/1").status, 202);
    assert_eq!(listener.events(1), [tagged("untag", &other, "a:1")]);
    assert_eq!(registry.delete("/v2/a/manifests/1").status, 404);
    assert_eq!(registry.delete(&format!("/v2/a/manifests/{}", other.manifest)).status, 202);
    let want = [tagged("untag", &other, "a:2"), about("delete", &other)];
    assert_eq!(listener.events(2), want);
    assert_eq!(registry.delete(&format!("/v2/a/blobs/{}", image.layer)).status, 202);
    let want = json!({"type": "delete", "id": image.layer.hex(), "repository": "a", "digest": image.layer.to_string()});
    assert_eq!(listener.events(1), [want]);
    assert_eq!(registry.delete(&format!("/v2/a/blobs/{}", image.layer)).status, 404);

    // Several at once, and by digest without any.
    let manifest = bare(&registry, "a");
    let digest = Algorithm::Sha256.digest(manifest.as_bytes());
    tag_all(&registry, "a", manifest.as_bytes(), &["x".into(), "y".into()]);
    let kinds = |events: Vec<Value>| -> Vec<(String, Value)> {
        let kind =
            |event: &Value| (event["type"].as_str().unwrap().to_owned(), event["tag"].clone());
        events.iter().map(kind).collect()
    };
    let named = |kind: &str, tag: Value| (kind.to_owned(), tag);
    assert_eq!(
        kinds(listener.events(4)),
        [
            named("verify", Value::Null),
            named("image", Value::Null),
            named("tag", "a:x".into()),
            named("tag", "a:y".into())
        ]
    );
    let reply = registry.push_manifest("a", &digest.to_string(), OCI_MANIFEST, manifest.as_bytes());
    assert_eq!(reply.status, 201);
    assert_eq!(
        kinds(listener.events(2)),
        [named("verify", Value::Null), named("image", Value::Null)]
    );

    // An index has no config: its own digest is its id, and it is no image.
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}).to_string();
    let digest = Algorithm::Sha256.digest(index.as_bytes());
    assert_eq!(registry.push_manifest("a", "i", OCI_INDEX, index.as_bytes()).status, 201);
    let about = |kind: &str| json!({"type": kind, "id": digest.hex(), "repository": "a", "digest": digest.to_string()});
    let mut tag = about("tag");
    tag["tag"] = "a:i".into();
    assert_eq!(listener.events(2), [about("verify"), tag]);

    // What was refused is not told.
    assert_eq!(registry.push_manifest("a", "1", DOCKER_MANIFEST, index.as_bytes()).status, 400);
    registry.push_image("a", "last", "last");
    let last = listener.events(4);
    assert_eq!(last[3]["tag"], "a:last");
}

#[test]
fn filters() {
    let registry = Registry::start(&[]);
    let tags = |query: &str| (query.to_owned(), Listener::new(&registry, query));
    let mut listeners = [
        (tags("?type=tag"), &["a:1", "team/b:1", "team/sub/c:1"][..]),
        (tags("?type=tag&repository=a"), &["a:1"]),
        (tags("?type=tag&repository=team/*"), &["team/b:1"]),
        (tags("?type=tag&repository=team/**"), &["team/b:1", "team/sub/c:1"]),
        (tags("?type=tag&repository=a,team/b"), &["a:1", "team/b:1"]),
        (tags("?type=tag&repository=a&repository=*/*/c"), &["a:1", "team/sub/c:1"]),
        (tags("?type=tag&type="), &["a:1", "team/b:1", "team/sub/c:1"]),
    ];
    for repository in ["a", "team/b", "team/sub/c"] {
        push(&registry, repository, "1", "a", b"1");
    }
    for ((query, listener), want) in &mut listeners {
        let events = listener.events(want.len());
        let got: Vec<_> = events.iter().map(|event| event["tag"].as_str().unwrap()).collect();
        assert_eq!(got, *want, "{query}");
    }
    for query in [
        "type=tags",
        "type=tag,Tag",
        "repository=***",
        &format!("repository={}", "a".repeat(256)),
        &"repository=a&".repeat(17),
    ] {
        let reply = registry.get(&format!("/v1/events?{query}"));
        assert_eq!(reply.status, 400, "{query}");
        assert!(reply.json()["error"].is_string(), "{query}: {}", reply.text());
    }
    let reply = registry.send("POST", "/v1/events", &[], b"");
    assert_eq!((reply.status, reply.header("allow")), (405, Some("GET, HEAD")));
    let reply = registry.head("/v1/events");
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), Some("application/x-ndjson"));
}

/// A stream where nothing happens is not an idle connection, and says so often
/// enough for whatever lies between.
#[test]
fn a_quiet_stream_goes_on() {
    let quiet = Registry::start(&["--event-heartbeat", "3s", "--idle-timeout", "1s"]);
    let mut listener = Listener::new(&quiet, "");
    assert_eq!(listener.line().as_deref(), Some(""));
    assert_eq!(listener.line().as_deref(), Some(""));
    quiet.push_image("a", "1", "x");
    assert_eq!(listener.events(1)[0]["type"], "layer");
}

#[test]
fn a_stop_ends_the_stream() {
    let mut registry = Registry::start(&[]);
    let mut listener = Listener::new(&registry, "?type=tag");
    push(&registry, "a", "1", "a", b"1");
    registry.signal("TERM");
    assert_eq!(listener.event().unwrap()["tag"], "a:1");
    let want = json!({"type": "end", "reason": "the server is stopping", "missed": 0});
    assert_eq!(listener.event(), Some(want));
    assert_eq!(listener.event(), None);
    // Long before --drain-timeout.
    assert!(registry.wait().success());
}

/// Over TLS and HTTP/2, where the frames go another way.
#[test]
fn over_http2() {
    crate::common::need("curl", "curl");
    let folder = fast_folder();
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let [cert, private] = ["cert", "key"].map(|name| folder.path().join(name));
    std::fs::write(&cert, key.cert.pem()).unwrap();
    std::fs::write(&private, key.signing_key.serialize_pem()).unwrap();
    let [cert, private] = [&cert, &private].map(|path| path.to_str().unwrap());
    let mut registry = Registry::start(&["--tls-cert", cert, "--tls-key", private]);
    let url = format!("https://localhost:{}/v1/events", registry.address.port());
    let out = folder.path().join("out");
    let mut curl = Command::new("curl")
        .args([
            "-sSN",
            "--http2",
            "--noproxy",
            "*",
            "--cacert",
            cert,
            "-o",
            out.to_str().unwrap(),
            &url,
        ])
        .args(["-w", "%{http_version} %{http_code}"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let log = registry.dir.join("log");
    // A second one, since its own line in the log comes at the end only.
    eventually("curl listens", || {
        run(Command::new("curl").args(["-sS", "--noproxy", "*", "--cacert", cert, "-X", "POST", "-o", "/dev/null"])
            .arg(format!("https://localhost:{}/v2/a/blobs/uploads/?digest=sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a", registry.address.port()))
            .args(["--data-binary", "{}"]));
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{{"mediaType":"x/y","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2}},"layers":[]}}"#
        );
        run(Command::new("curl")
            .args(["-sS", "--noproxy", "*", "--cacert", cert, "-X", "PUT", "-o", "/dev/null"])
            .arg(format!("https://localhost:{}/v2/a/manifests/1", registry.address.port()))
            .args(["-H", &format!("Content-Type: {OCI_MANIFEST}"), "--data-binary", &manifest]));
        std::fs::read_to_string(&out).is_ok_and(|text| text.contains("\"a:1\""))
    });
    registry.signal("TERM");
    assert!(registry.wait().success());
    let output = curl.wait().unwrap();
    assert!(output.success(), "{}", std::fs::read_to_string(log).unwrap());
    let text = std::fs::read_to_string(out).unwrap();
    assert!(
        text.ends_with("{\"type\":\"end\",\"reason\":\"the server is stopping\",\"missed\":0}\n"),
        "{text}"
    );
}

/// Readers that do not read hold up neither pushes nor other readers, and hear
/// what they have missed.
#[test]
fn stuck_readers() {
    const ROUNDS: usize = 250;
    let folder = fast_folder();
    let arguments = [&["--event-heartbeat", "200ms"], &METRICS[..]].concat();
    let registry = Registry::start_in(folder.path(), &arguments);
    // Long names, so that the sockets' buffers are full soon.
    let repository = format!("{}/{}", "r".repeat(120), "s".repeat(120));
    let manifest = bare(&registry, &repository);
    let mut stuck: Vec<_> = (0..3).map(|_| Listener::new(&registry, "?type=tag")).collect();
    let reader = {
        let mut listener = Listener::new(&registry, "?type=tag");
        thread::spawn(move || listener.events(ROUNDS * 64))
    };
    let tags: Vec<_> = (0..64).map(|n| format!("{}{n:02}", "t".repeat(120))).collect();
    for _ in 0..ROUNDS {
        tag_all(&registry, &repository, manifest.as_bytes(), &tags);
    }
    let read = reader.join().expect("the one that reads gets everything");
    for (event, tag) in read.iter().zip(tags.iter().cycle()) {
        assert_eq!(event["tag"], format!("{repository}:{tag}"));
    }
    for listener in &mut stuck {
        let mut got = 0;
        let end = loop {
            let event = listener.event().expect("a last line");
            if event["type"] == "end" {
                break event;
            }
            assert_eq!(event["tag"], format!("{repository}:{}", tags[got % tags.len()]));
            got += 1;
        };
        assert_eq!(listener.event(), None);
        let missed = end["missed"].as_u64().unwrap() as usize;
        assert!(missed > 0 && got + missed <= ROUNDS * 66, "{got} and {end}");
        assert_eq!(end["reason"], "too slow: events were lost, connect again");
    }
    assert_eq!(metric(&registry, "registry_event_readers_dropped_total"), 3);
    eventually("all have gone", || metric(&registry, "registry_event_readers") == 0);
}

/// One whose client has gone is forgotten, once that is noticed: by a heartbeat.
#[test]
fn readers_that_leave() {
    let arguments = [&["--event-heartbeat", "200ms"], &METRICS[..]].concat();
    let registry = Registry::start(&arguments);
    let mut listeners: Vec<_> = (0..20).map(|_| Listener::new(&registry, "")).collect();
    assert_eq!(metric(&registry, "registry_event_readers"), 20);
    listeners.truncate(5);
    eventually("15 have gone", || metric(&registry, "registry_event_readers") == 5);
    let mut stream = registry.connect();
    stream.write_all(b"GET /v1/events HTTP/1.0\r\n\r\n").unwrap();
    eventually("one came", || metric(&registry, "registry_event_readers") == 6);
    drop((listeners, stream));
    eventually("all have gone", || metric(&registry, "registry_event_readers") == 0);
}

/// `id` of the tag event is what `docker images` shows.
#[test]
fn ids_are_those_of_configs() {
    let registry = Registry::start(&[]);
    let mut listener = Listener::new(&registry, "?type=tag");
    let image = push(&registry, "a", "1", "a", b"1");
    let id = listener.events(1)[0]["id"].as_str().unwrap().to_owned();
    let config: Digest = format!("sha256:{id}").parse().unwrap();
    assert_eq!(config, image.config);
    assert_eq!(registry.get(&format!("/v1/images/{id}/blobs/a")).text(), "1");
}
