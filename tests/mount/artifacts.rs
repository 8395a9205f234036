//! What a repository holds besides images: directories too, so that a walk over a healthy store meets
//! no error.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use registry::oci::{Algorithm, Platform};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::mount::Mount;
use crate::common::{OCI_CONFIG, OCI_EMPTY, OCI_INDEX, Registry, descriptor, need, run};
use crate::support::{layer, list, push, push_for, push_index, set, xattr};

/// Pushes an image with all that tools put beside it.
fn stock(registry: &Registry) {
    let image = push(registry, "app", "1.0", &[layer("etc/motd", "hello\n")]);
    let tag = |suffix: &str| format!("{}{suffix}", image.to_string().replace(':', "-"));
    // As cosign makes them.
    let config = r#"{"architecture":"","os":"","rootfs":{"type":"layers","diff_ids":[]}}"#;
    let signature = "application/vnd.dev.cosign.simplesigning.v1+json";
    let blobs = [(signature, r#"{"critical":{"type":"cosign"}}"#, None)];
    registry.push_artifact("app", &tag(".sig"), (OCI_CONFIG, config), &blobs, Value::Null);
    let blobs = [("text/spdx+json", r#"{"spdxVersion":"SPDX-2.3"}"#, None)];
    registry.push_artifact("app", &tag(".sbom"), (OCI_CONFIG, config), &blobs, Value::Null);
    // As Helm makes it.
    let chart = "application/vnd.cncf.helm.chart.content.v1.tar+gzip";
    let config = ("application/vnd.cncf.helm.config.v1+json", r#"{"name":"app"}"#);
    registry.push_artifact("app", "chart", config, &[(chart, "no real tar", None)], Value::Null);
    // As ORAS makes it, of files and with titles that no path can be.
    let tar = "application/vnd.oci.image.layer.v1.tar";
    let blobs = [
        (tar, "a file\n", Some("docs/readme.md")),
        (tar, "a twin\n", Some("docs/readme.md")),
        (tar, "above\n", Some("../above")),
        (tar, "a fake\n", Some("manifest.json")),
    ];
    let kind = json!({"artifactType": "application/vnd.example"});
    registry.push_artifact("app", "files", (OCI_EMPTY, "{}"), &blobs, kind);
    // An index with nothing for this machine, and one as old clients make it of referrers.
    let other = push_for(registry, "linux/s390x", "app", "s390x", &[layer("for", "them")]);
    push_index(registry, "app", "other", &[("linux/s390x", other)]);
    // Encrypted as by skopeo, a layer that is something else, and an index of a mirror that keeps
    // other platforms.
    let encrypted = "application/vnd.oci.image.layer.v1.tar+gzip+encrypted";
    let config =
        r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
    for (tag, kind) in [("encrypted", encrypted), ("other-type", "application/octet-stream")] {
        let blobs = [(kind, "no tar", None)];
        registry.push_artifact("app", tag, (OCI_CONFIG, config), &blobs, Value::Null);
    }
    let host = Platform::host().to_string();
    let absent = Algorithm::Sha256.digest(b"absent");
    push_index(registry, "app", "mirror", &[(&host, absent), ("linux/s390x", other)]);
    // One of BuildKit's caches: its entries are layers.
    let layer = layer("cached", "x");
    let blob = registry.push_blob("app", &layer);
    let cache = json!({"schemaVersion": 2, "mediaType": OCI_INDEX,
        "manifests": [descriptor(tar, &blob, layer.len())]});
    let cache = cache.to_string();
    let reply = registry.push_manifest("app", "cache", OCI_INDEX, cache.as_bytes());
    assert_eq!(reply.status, 201, "{}", reply.text());
}

#[test]
fn artifacts_are_directories() {
    let registry = Registry::start(&[]);
    stock(&registry);
    let mount = Mount::start(&registry.dir, &[]);
    let files = mount.path.join("app:files");
    let dash =
        |content: &str| Algorithm::Sha256.digest(content.as_bytes()).to_string().replace(':', "-");
    let (empty, twin, above, fake) =
        (dash("{}"), dash("a twin\n"), dash("above\n"), dash("a fake\n"));
    assert_eq!(list(&files), set(["docs", "manifest.json", &empty, &twin, &above, &fake]));
    assert_eq!(list(&files.join("docs")), set(["readme.md"]));
    for (path, content) in
        [("docs/readme.md", "a file\n"), (&twin, "a twin\n"), (&above, "above\n"), (&empty, "{}")]
    {
        assert_eq!(fs::read_to_string(files.join(path)).unwrap(), content, "{path}");
        let digest = Algorithm::Sha256.digest(content.as_bytes());
        assert_eq!(xattr(&files.join(path), "user.registry.sha256"), Ok(digest.hex()));
    }
    for name in [
        "app:files",
        "app:chart",
        "app:other",
        "app:cache",
        "app:encrypted",
        "app:other-type",
        "app:mirror",
    ] {
        let manifest = fs::read(mount.path.join(name).join("manifest.json")).unwrap();
        let tag = name.strip_prefix("app:").unwrap();
        assert!(manifest == registry.get(&format!("/v2/app/manifests/{tag}")).body, "{name}");
    }
    assert_eq!(fs::metadata(files.join("manifest.json")).unwrap().mode() & 0o7777, 0o644);
    assert!(!files.join("nothing").exists());
    assert!(!files.join("docs/nothing").exists());
    // Why an image is shown by its documents.
    let why = xattr(&mount.path.join("app:other"), "user.registry.error").unwrap();
    assert!(why.contains("linux/s390x"), "{why}");
    for (name, want) in [("app:mirror", "is not in repository"), ("app:other-type", "not a tar")] {
        let why = xattr(&mount.path.join(name), "user.registry.error").unwrap();
        assert!(why.contains(want), "{name}: {why}");
    }
    assert_eq!(xattr(&files, "user.registry.error"), Err(libc::ENODATA));
    assert_eq!(fs::read(mount.path.join("app:other@linux-s390x/for")).unwrap(), b"them");
}

/// The tools that walk a whole tree end well, twice, with equal bytes.
#[test]
fn a_walk_meets_no_error() {
    need("rsync", "rsync");
    let registry = Registry::start(&[]);
    stock(&registry);
    let mount = Mount::start(&registry.dir, &["--tag-ttl", "1ms"]);
    let temp = TempDir::new().unwrap();
    let mut first: Option<Vec<Vec<u8>>> = None;
    for _ in 0..2 {
        let mut outputs = Vec::new();
        for script in [
            "find . -ls",
            "grep -r -e '\"cosign\"' -e SPDX -e hello . | sort",
            "du -s .",
            "tar -cf - .",
            "rsync -a --delete ./ \"$0\"",
            "diff -r . \"$0\"",
            "rsync -a --delete --itemize-changes ./ \"$0\"",
        ] {
            let mut command = Command::new("sh");
            command.args(["-c", script]).arg(temp.path()).current_dir(&mount.path);
            let output = run(&mut command);
            assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{script}");
            outputs.push(output.stdout);
        }
        let found = String::from_utf8_lossy(&outputs[1]);
        assert_eq!(found.lines().count(), 3, "{found}");
        assert_eq!(outputs.last().unwrap(), b"", "rsync finds a change");
        let first = first.get_or_insert_with(|| outputs.clone());
        assert!(*first == outputs, "other bytes");
    }
    assert!(!mount.log().contains("ERROR"), "{}", mount.log());
}
