//! The Docker engine: what it pushes, and what it pulls.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use registry::oci::Digest;
use serde_json::Value;

use crate::authority::Authority;
use crate::common::engine::{Engine, without_engine_files};
use crate::common::home::{Home, printed_digest};
use crate::common::tree::{self, Tree};
use crate::common::{DOCKER_LIST, DOCKER_MANIFEST, Registry, eventually};
use crate::layout::Layout;
use crate::{await_log, manifest};

/// Layers that add, remove and replace, with links and a mode of each sort.
const DOCKERFILE: &str = r#"FROM debian
SHELL ["/bin/busybox", "sh", "-c"]
RUN busybox --install -s /bin
RUN rm -r /etc/issue /usr/share/doc && ln /etc/debian_version /etc/version && mkdir -m 1777 /data && echo content > /data/file && chmod 4711 /data/file
CMD ["cat", "/data/file"]
"#;

#[test]
fn build_push_remove_pull_run() {
    let (home, registry) = (Home::new(), Registry::start(crate::COLLECTING));
    let engine = Engine::start(&home, &[]);
    let image = format!("{}/team/app:1", registry.host());
    let debian = home.debian(&["--variant=extract", "--include=base-files,busybox-static"]);
    engine.docker(&["import", &debian, "debian"]);
    let context = home.path("context");
    fs::create_dir(&context).expect("a folder");
    fs::write(format!("{context}/Dockerfile"), DOCKERFILE).expect("a file");
    engine.docker(&["build", "--network=none", "--tag", &image, &context]);
    let (id, files) = (engine.image_id(&image), engine.files(&image));
    assert!(files.len() > 200, "{}", files.len());

    let pushed = printed_digest(&engine.docker(&["push", &image]));
    let reply = manifest(registry.address, "team/app", "1");
    assert_eq!(reply.header("content-type"), Some(DOCKER_MANIFEST));
    let digest = pushed.to_string();
    assert_eq!(reply.header("docker-content-digest"), Some(digest.as_str()));
    let json = reply.json();
    assert_eq!(json["config"]["digest"], id);
    assert_eq!(json["layers"].as_array().map(Vec::len), Some(3));

    engine.forget();
    let pulls = || registry.get("/v2/_query/tags?repository=team/app").text();
    let before = pulls();
    let second = jiff::Timestamp::now().as_second();
    eventually("pulls of another second", || jiff::Timestamp::now().as_second() > second);
    let by_digest = format!("{}/team/app@{pushed}", registry.host());
    for name in [&image, &by_digest] {
        assert_eq!(printed_digest(&engine.docker(&["pull", name])), pushed);
        assert_eq!(engine.image_id(name), id);
    }
    assert_ne!(pulls(), before, "the pull is noted");
    let printed = engine.docker(&["run", "--rm", "--network=none", &image]);
    assert_eq!(printed, "content\n");
    tree::assert_same("pushed and pulled", &files, &engine.files(&image));

    pulled_by_others(&home, &image, &reply.body, &files);
    other_repositories(&engine, &registry, &image, &pushed);
}

/// The image that the engine pushed, for clients with an unpacker of their own.
fn pulled_by_others(home: &Home, image: &str, manifest: &[u8], files: &Tree) {
    let from = format!("docker://{image}");
    let [layout, bundle, copy] = ["layout", "bundle", "copy"].map(|name| home.path(name));
    home.copy(&from, &format!("dir:{copy}"), &[]);
    let copied = fs::read(format!("{copy}/manifest.json")).expect("a file");
    assert_eq!(copied, manifest);

    home.copy(&from, &format!("oci:{layout}:1"), &[]);
    let layout = format!("{layout}:1");
    home.run("umoci", &["unpack", "--image", &layout, &bundle]);
    let unpacked = tree::read(&Path::new(&bundle).join("rootfs"));
    let mounted = tree::read(Path::new(&home.podman_pull(image)));
    tree::assert_same("umoci and podman", &unpacked, &mounted);
    let mounted = without_engine_files(mounted);
    tree::assert_same("Docker and podman", files, &mounted);
    let json: Value = serde_json::from_slice(manifest).expect("JSON");
    let id = home.podman(&["image", "inspect", "--format=sha256:{{.Id}}", image]);
    assert_eq!(json["config"]["digest"], id.trim());
}

/// The same image under other names: layers are mounted, not sent again; a
/// manifest list of the client's making; every tag at once.
fn other_repositories(engine: &Engine, registry: &Registry, image: &str, digest: &Digest) {
    let other = format!("{}/other", registry.host());
    let [list, plain] = ["list", "plain"].map(|tag| format!("{other}:{tag}"));
    let id = engine.image_id(image);
    engine.docker(&["tag", image, &plain]);
    let pushed = engine.docker(&["push", "--all-tags", &other]);
    assert_eq!(printed_digest(&pushed), *digest);
    let mount = "/v2/other/blobs/uploads/?from=team%2Fapp&mount=";
    await_log(registry, 3, &[mount, "status=201"]);

    engine.docker(&["manifest", "create", "--insecure", &list, image]);
    engine.docker(&["manifest", "push", "--insecure", &list]);
    let reply = manifest(registry.address, "other", "list");
    assert_eq!(reply.header("content-type"), Some(DOCKER_LIST));
    assert_eq!(reply.json()["manifests"][0]["digest"], digest.to_string());

    engine.forget();
    engine.docker(&["pull", "--all-tags", &other]);
    for name in [&list, &plain] {
        assert_eq!(engine.image_id(name), id);
    }
}

/// The engine takes any certificate from 127.0.0.0/8, and 0.0.0.0 is another
/// name for this machine.
#[test]
fn over_tls() {
    let home = Home::new();
    let [ours, other] = ["ours", "other"].map(|name| Authority::new(&home, name));
    let [registry, stranger] = [ours.registry(), other.registry()];
    let host =
        |registry: &Registry| format!("{}:{}", Ipv4Addr::UNSPECIFIED, registry.address.port());
    let image = format!("{}/team/app:1", host(&registry));
    let layout = Layout::make(&home.path("layout"), 1);
    home.copy(&layout.reference(), &format!("docker://{image}"), &[]);

    let trusted = [("SSL_CERT_FILE", ours.file.as_str()), ("SSL_CERT_DIR", ours.folder.as_str())];
    let engine = Engine::start(&home, &trusted);
    let pulled = engine.docker(&["pull", &image]);
    assert_eq!(printed_digest(&pulled), layout.image());
    let id = engine.image_id(&image);
    let pushed = format!("{}/other:1", host(&registry));
    engine.docker(&["tag", &image, &pushed]);
    let digest = printed_digest(&engine.docker(&["push", &pushed]));
    engine.forget();
    assert_eq!(printed_digest(&engine.docker(&["pull", &pushed])), digest);
    assert_eq!(engine.image_id(&pushed), id);

    let refused = engine.command(&["pull", &format!("{}/team/app:1", host(&stranger))]).output();
    let refused = refused.expect("docker");
    let complaint = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && complaint.contains("x509"), "{complaint}");
}
