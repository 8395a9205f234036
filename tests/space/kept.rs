//! What is in use while it is collected: downloads, open files of a mount, pushes of real clients.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use registry::oci::Algorithm;

use crate::common::mount::Mount;
use crate::common::tar::Tar;
use crate::common::{
    OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, REGISTRY, Registry, descriptor, eventually,
    image_manifest, noise,
};
use crate::support::{blobs, gc};

const NOW: &[&str] = &["--grace", "0"];

/// Pushes an image of one layer; returns its digest and the path of its blob's bytes.
fn push(registry: &Registry, layer: &[u8]) -> String {
    let config = registry.push_blob("app", b"{}");
    let layer = descriptor(OCI_LAYER, &registry.push_blob("app", layer), layer.len());
    let manifest = image_manifest(&descriptor(OCI_CONFIG, &config, 2), &[layer]);
    let reply = registry.push_manifest("app", "1", OCI_MANIFEST, manifest.as_bytes());
    assert_eq!(reply.status, 201, "{}", reply.text());
    Algorithm::Sha256.digest(manifest.as_bytes()).to_string()
}

#[test]
fn a_download_goes_on_to_its_end() {
    let registry = Registry::start(&[]);
    let content = noise(1, 32 << 20);
    let digest = registry.push_blob("app", &content);
    let mut stream = registry.connect();
    let request = format!(
        "GET /v2/app/blobs/{digest} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
        registry.host()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut start = [0; 1000];
    stream.read_exact(&mut start).unwrap();
    gc(&registry.dir, NOW);
    assert!(blobs(&registry.store()).is_empty());
    let mut answer = start.to_vec();
    stream.read_to_end(&mut answer).unwrap();
    assert!(answer.ends_with(&content), "{} bytes", answer.len());
}

#[test]
fn an_open_file_of_the_server_s_mount_stays_readable() {
    let temp = tempfile::tempdir().unwrap();
    let point = temp.path().to_str().unwrap();
    let registry = Registry::start(&["--mount", point]);
    stays_readable(&registry, temp.path());
}

#[test]
fn an_open_file_of_another_mount_stays_readable() {
    let registry = Registry::start(&[]);
    let mount = Mount::start(&registry.dir, &[]);
    stays_readable(&registry, &mount.path);
}

fn stays_readable(registry: &Registry, mount: &std::path::Path) {
    // More than the kernel reads ahead, and than the cache of decoded parts holds at first.
    let content = noise(2, 24 << 20);
    let digest = push(registry, &Tar::default().file("dir/big", &content).finish());
    let path = mount.join("app:1/dir/big");
    eventually("the mount shows the image", || path.exists());
    let open = File::open(&path).unwrap();
    let mut start = vec![0; 4096];
    open.read_exact_at(&mut start, 0).unwrap();
    assert_eq!(start, content[..4096]);
    assert_eq!(registry.delete(&format!("/v2/app/manifests/{digest}")).status, 202);
    gc(&registry.dir, NOW);
    assert!(blobs(&registry.store()).is_empty());
    let mut all = vec![0; content.len()];
    open.read_exact_at(&mut all, 0).unwrap();
    assert!(all == content, "other bytes");
    drop(open);
    eventually("the image leaves the mount", || fs::metadata(mount.join("app:1")).is_err());
}

/// Questions meet images that go in the middle of the answer: what they find is right, and what they
/// cannot read any more they leave out.
#[test]
fn questions_about_what_goes() {
    const ROUNDS: usize = 30;
    let registry = Registry::start(&[]);
    let is_over = AtomicBool::new(false);
    let line = |round: usize| format!("needle of {round}\n");
    thread::scope(|scope| {
        let ask = scope.spawn(|| {
            let mut found = 0;
            while !is_over.load(Ordering::Relaxed) {
                for command in [&["grep", "needle"][..], &["find", "note"]] {
                    let mut asked = Command::new(REGISTRY);
                    let output = asked.args(command).arg("--dir").arg(&registry.dir).output();
                    let output = output.expect("it runs");
                    let said = String::from_utf8(output.stdout).expect("UTF-8");
                    for hit in said.lines() {
                        found += 1;
                        let (place, text) = hit.split_once("/note").expect("a file");
                        let round = place.strip_prefix("app:t").expect("an image");
                        let whole = line(round.parse().expect("a number"));
                        let is_whole = text.strip_prefix(':') == Some(whole.trim_end());
                        assert!(is_whole || command[0] == "find" && text.is_empty(), "{hit}");
                    }
                    assert!(output.status.code().is_some_and(|code| code <= 2), "{said}");
                }
            }
            found
        });
        for round in 0..ROUNDS {
            let tar = Tar::default().file("note", line(round).as_bytes());
            let layer = tar.file("noise", &noise(round as u64, 1 << 20)).finish();
            let config = registry.push_blob("app", b"{}");
            let layer = descriptor(OCI_LAYER, &registry.push_blob("app", &layer), layer.len());
            let manifest = image_manifest(&descriptor(OCI_CONFIG, &config, 2), &[layer]);
            let tag = format!("t{round}");
            let reply = registry.push_manifest("app", &tag, OCI_MANIFEST, manifest.as_bytes());
            assert_eq!(reply.status, 201, "{}", reply.text());
            if let Some(before) = round.checked_sub(2) {
                let digest = registry.head(&format!("/v2/app/manifests/t{before}"));
                let digest = digest.header("docker-content-digest").expect("a digest").to_owned();
                assert_eq!(registry.delete(&format!("/v2/app/manifests/{digest}")).status, 202);
                gc(&registry.dir, NOW);
            }
        }
        is_over.store(true, Ordering::Relaxed);
        assert!(ask.join().expect("no panic") > 0);
    });
    assert!(!registry.log().contains("panicked"), "{}", registry.log());
}
