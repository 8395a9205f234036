//! A partial pull of a layer in zstd:chunked form: one zstd frame for each file, and a table of
//! contents in a skippable frame, whose place is in the layer's annotations. The requests are those
//! of containers/storage (pkg/chunked) and containers/image (docker/docker_image_src.go): the table
//! by one range, then all missing frames by one request with a range for each. The answer must have
//! a part for each range, also where two frames touch.

use std::io::Write;
use std::ops::Range;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::common::{OCI_CONFIG, OCI_MANIFEST, Registry, descriptor, noise};
use crate::support::{EMPTY_JSON, byte_ranges, sha256};

const POSITION: &str = "io.github.containers.zstd-chunked.manifest-position";

fn zstd(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("zstd")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("install Debian's package zstd");
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_vec();
    let writing = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().expect("its output");
    writing.join().expect("no panic").expect("zstd reads everything");
    assert!(output.status.success());
    output.stdout
}

/// Pushes an image whose layer holds `files`, and returns the layer.
fn push(registry: &Registry, tag: &str, files: &[Vec<u8>]) -> Vec<u8> {
    let mut layer = Vec::new();
    let mut entries = Vec::new();
    for (i, file) in files.iter().enumerate() {
        let start = layer.len();
        layer.extend(zstd(&["-q", "-c"], file));
        entries.push(json!({"type": "reg", "name": format!("file{i}"), "size": file.len(),
            "digest": sha256(file).to_string(), "offset": start, "endOffset": layer.len()}));
    }
    let table = json!({"version": 1, "entries": entries}).to_string();
    let packed = zstd(&["-q", "-c"], table.as_bytes());
    layer.extend(0x184d_2a50_u32.to_le_bytes());
    layer.extend(u32::try_from(packed.len()).expect("a short table").to_le_bytes());
    let position = format!("{}:{}:{}:1", layer.len(), packed.len(), table.len());
    layer.extend(packed);

    let config = registry.push_blob("a", EMPTY_JSON);
    let digest = registry.push_blob("a", &layer);
    let media_type = "application/vnd.oci.image.layer.v1.tar+zstd";
    let mut descriptor_of_layer = descriptor(media_type, &digest, layer.len());
    descriptor_of_layer["annotations"] = json!({POSITION: position});
    let manifest = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": descriptor(OCI_CONFIG, &config, EMPTY_JSON.len()), "layers": [descriptor_of_layer]});
    let typed = [("Content-Type", OCI_MANIFEST)];
    let path = format!("/v2/a/manifests/{tag}");
    let put = registry.send("PUT", &path, &typed, manifest.to_string().as_bytes());
    assert_eq!(put.status, 201, "{}", put.text());
    layer
}

#[test]
fn changed_files_alone() {
    const FILES: usize = 60;
    const CHANGED: [usize; 4] = [3, 20, 21, 59];
    let registry = Registry::start(&[]);
    let old: Vec<Vec<u8>> = (0..FILES).map(|i| noise(i as u64 + 1, 50_000)).collect();
    let mut new = old.clone();
    for i in CHANGED {
        new[i] = noise(1000 + i as u64, 20_000);
    }
    push(&registry, "v1", &old);
    let layer = push(&registry, "v2", &new);

    let manifest = registry.get("/v2/a/manifests/v2").json();
    let described = &manifest["layers"][0];
    let blob = format!("/v2/a/blobs/{}", described["digest"].as_str().expect("a digest"));
    let position = described["annotations"][POSITION].as_str().expect("a position");
    let [start, length]: [usize; 2] =
        [0, 1].map(|i| position.split(':').nth(i).expect("a part").parse().expect("a number"));
    let asked = format!("bytes={start}-{}", start + length - 1);
    let reply = registry.send("GET", &blob, &[("Range", &asked)], b"");
    assert_eq!(reply.status, 206);
    let mut transferred = reply.body.len();
    let table: Value =
        serde_json::from_slice(&zstd(&["-q", "-d", "-c"], &reply.body)).expect("a table");

    let known: Vec<String> = old.iter().map(|file| sha256(file).to_string()).collect();
    let missing: Vec<Range<usize>> = table["entries"]
        .as_array()
        .expect("entries")
        .iter()
        .filter(|entry| !known.iter().any(|digest| entry["digest"] == digest.as_str()))
        .map(|entry| {
            let number = |name: &str| entry[name].as_u64().expect("a number") as usize;
            number("offset")..number("endOffset")
        })
        .collect();
    assert_eq!(missing.len(), CHANGED.len());
    assert_eq!(missing[1].end, missing[2].start, "two that touch");
    let ranges: Vec<String> =
        missing.iter().map(|range| format!("{}-{}", range.start, range.end - 1)).collect();
    let asked = format!("bytes={}", ranges.join(","));
    let reply = registry.send("GET", &blob, &[("Range", &asked)], b"");
    assert_eq!(reply.status, 206);
    transferred += reply.body.len();
    assert_eq!(byte_ranges(&reply, &layer), missing, "a part for each");
    for (range, i) in missing.iter().zip(CHANGED) {
        assert!(zstd(&["-q", "-d", "-c"], &layer[range.clone()]) == new[i], "file{i}");
    }
    // The changed files, the table, and little else of 2.9 MB.
    let changed: usize = missing.iter().map(|range| range.end - range.start).sum();
    assert!(transferred < changed + length + 1000, "{transferred} bytes for {changed}");
    assert!(transferred < layer.len() / 20, "{transferred} of {}", layer.len());
}
