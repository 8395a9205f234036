//! A scrub beside everything else: pushes, pulls, deletes and another scrub.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::common::{eventually, send_to};

/// What others change meanwhile is never taken for damage.
#[test]
fn pushes_and_deletes_are_no_damage() {
    let dir = TempDir::new().expect("a temporary folder");
    let registry = Registry::start_in(dir.path(), &[]);
    let (done, pushes) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for worker in 0..3 {
            let (registry, done, pushes) = (&registry, &done, &pushes);
            scope.spawn(move || {
                for round in 0.. {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    let name = format!("team/app{}", (worker + round) % 2);
                    let layer = gzip(
                        &Tar::default()
                            .file(format!("f{}", round % 7), &noise(round, 9000))
                            .finish(),
                    );
                    let digest = registry.push_blob(&name, &layer);
                    let config = registry.push_blob(&name, CONFIG.as_bytes());
                    let text = image_manifest(
                        &descriptor(OCI_CONFIG, &config, CONFIG.len()),
                        &[descriptor(OCI_LAYER, &digest, layer.len())],
                    );
                    let tag = format!("t{}", round % 5);
                    registry.push_manifest(&name, &tag, OCI_MANIFEST, text.as_bytes());
                    let manifest = Algorithm::Sha256.digest(text.as_bytes());
                    let child = descriptor(OCI_MANIFEST, &manifest, text.len());
                    registry.push_artifact(
                        &name,
                        &format!("s{}", round % 3),
                        ("application/vnd.example", "{}"),
                        &[("text/plain", &round.to_string(), None)],
                        json!({"subject": child}),
                    );
                    let mount = format!(
                        "/v2/team/app{}/blobs/uploads/?mount={digest}&from={name}",
                        round % 2
                    );
                    registry.send("POST", &mount, &[], b"");
                    if round % 2 == 0 {
                        registry.delete(&format!("/v2/{name}/manifests/{manifest}"));
                        registry.delete(&format!("/v2/{name}/blobs/{digest}"));
                    }
                    let images = v1::chain(&format!("{worker} {round}"));
                    v1::push(registry, "old", &tag, &images);
                    pushes.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let start = Instant::now();
        let mut scrubs = 0;
        let found = loop {
            let findings = scrub(dir.path()).findings;
            scrubs += 1;
            if !findings.is_empty() || start.elapsed() > Duration::from_secs(10) {
                break findings;
            }
        };
        done.store(true, Ordering::Relaxed);
        println!("{scrubs} scrubs");
        assert!(found.is_empty(), "{found:#?}");
    });
    println!("{} pushes", pushes.load(Ordering::Relaxed));
    assert!(pushes.load(Ordering::Relaxed) > 10);
    sound(dir.path());
}

/// A push that was answered while the damaged blob is moved aside keeps its blob.
#[test]
fn a_push_that_meets_the_move_wins() {
    let dir = TempDir::new().expect("a temporary folder");
    let registry = Registry::start_in(dir.path(), &[]);
    let content = noise(1, 100_000);
    let digest = registry.push_blob("a", &content);
    let hex = digest.hex();
    let path = registry.store().join(format!("blobs/sha256/{}/{hex}/data", &hex[..2]));
    for round in 0..40 {
        if path.exists() {
            flip(&path, round);
        }
        thread::scope(|scope| {
            let scrubbed = scope.spawn(|| scrub(dir.path()));
            thread::sleep(Duration::from_millis(3 * (round as u64 % 20)));
            registry.push_blob("b", &content);
            let findings = scrubbed.join().expect("no panic").findings;
            assert!(findings.len() <= 1, "{findings:#?}");
        });
        // The scrub may have found the damage before the push, never the push.
        let reply = registry.get(&format!("/v2/a/blobs/{digest}"));
        assert!(reply.status == 200 && reply.body == content, "{round}: {}", reply.status);
    }
    sound(dir.path());
}

#[test]
fn the_rate_and_a_client_that_leaves() {
    let dir = TempDir::new().expect("a temporary folder");
    let registry = Registry::start_in(dir.path(), &[]);
    registry.push_blob("a", &noise(1, 8 << 20));
    let start = Instant::now();
    let status = command(dir.path(), &["--rate", "4MiB/s"]).stdout(Stdio::null()).status();
    assert!(status.expect("it runs").success());
    let took = start.elapsed();
    assert!((Duration::from_millis(1700)..Duration::from_secs(10)).contains(&took), "{took:?}");

    for with_server in [true, false] {
        let store = Store::copy();
        let dir = store.dir.path();
        let beside = with_server.then(|| Registry::start_in(dir, &[]));
        let slow = command(dir, &["--rate", "10kB/s"]).stdout(Stdio::null()).spawn();
        let mut slow = slow.expect("it starts");
        eventually("it has begun", || store.path("scrub").exists());
        if beside.is_some() {
            // Two at a time would read twice as fast as they may.
            let output = command(dir, &["--rate", "0"]).output().expect("it runs");
            let text = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{text}");
            assert!(text.contains("another scrub is running"), "{text}");
        }
        slow.kill().expect("it runs");
        slow.wait().expect("its end");
        eventually("what was begun has ended", || {
            command(dir, &["--rate", "0"]).output().expect("it runs").status.code() == Some(0)
        });
        assert!(!store.path("scrub").exists());
    }
}

/// A server scrubs by itself, counts what it finds, and remembers when it did.
#[test]
fn every_interval() {
    let store = Store::copy();
    let dir = store.dir.path();
    flip(&store.blob(&store.gzip), 100);
    let listen = ["--metrics-listen", "127.0.0.1:0"];
    let often = ["--scrub-interval", "1s", "--scrub-rate", "0"];
    let mut registry = Registry::start_in(dir, &[&listen[..], &often].concat());
    let metrics = |registry: &Registry| {
        let address = registry.ready.split("metrics on http://").nth(1).expect("an address");
        let address = address.split('/').next().expect("an address").parse().expect("an address");
        let reply = send_to(address, "GET", "/metrics", &[], b"").expect("an answer");
        reply.text()
    };
    let value = |text: &str, name: &str| -> Option<f64> {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.rsplit(' ').next()?.parse().ok()
    };
    let damaged = r#"registry_scrub_findings_total{kind="blob-damaged"}"#;
    let missing = r#"registry_scrub_findings_total{kind="blob-missing"}"#;
    eventually("it has scrubbed twice", || {
        value(&metrics(&registry), missing).is_some_and(|number| number >= 1.0)
    });
    let text = metrics(&registry);
    assert_eq!(value(&text, damaged), Some(1.0), "{text}");
    let read = value(&text, "registry_scrub_bytes_total").expect("a number");
    assert!(read > 1e6, "{read}");
    let ended = value(&text, "registry_scrub_ended_seconds").expect("a time");
    assert!(ended > 1.7e9, "{ended}");
    let log = registry.log();
    assert!(log.contains("scrubbed the store"), "{log}");
    assert!(log.contains("blob-damaged") && log.contains(&store.gzip.to_string()), "{log}");
    assert!(registry.stop().success());
    let registry = Registry::start_in(dir, &listen);
    let text = metrics(&registry);
    assert!(value(&text, "registry_scrub_ended_seconds").expect("a time") >= ended, "{text}");
}
