//! Clients of others: pushed by the first API and pulled by the second, the other
//! way round, and two libraries that speak both.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::client::{Image, chain, ok, pull, push, put_tag};
use crate::common::engine::{Engine, without_engine_files};
use crate::common::home::Home;
use crate::common::tree::{self, Tree, assert_same};
use crate::common::{Registry, need, run};

/// What `docker save` gives: its layers carry ids and JSON of the first format.
/// Base first.
fn saved(home: &Home, engine: &Engine, image: &str) -> Vec<Image> {
    let [tar, folder] = ["saved.tar", "saved"].map(|name| home.path(name));
    engine.docker(&["save", "--output", &tar, image]);
    fs::create_dir(&folder).expect("a folder");
    home.run("tar", &["-C", &folder, "-xf", &tar]);
    let folder = Path::new(&folder);
    let mut images = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let Ok(json) = fs::read(path.join("json")) else {
            continue;
        };
        let place: Value = serde_json::from_slice(&json).expect("JSON");
        let text = |name: &str| place[name].as_str().unwrap_or_default().to_owned();
        let image = Image {
            id: text("id"),
            json,
            layer: fs::read(path.join("layer.tar")).expect("a layer"),
        };
        images.insert(text("parent"), image);
    }
    let (mut chain, mut parent) = (Vec::new(), String::new());
    while let Some(image) = images.remove(&parent) {
        parent.clone_from(&image.id);
        chain.push(image);
    }
    assert!(!chain.is_empty(), "docker save gave no images");
    chain
}

/// Lays the layers of a chain over each other, as Docker 1 did: by GNU tar, with
/// whiteouts.
fn unpack(home: &Home, name: &str, images: &[Image]) -> Tree {
    let root = home.path(name);
    fs::create_dir(&root).expect("a folder");
    for image in images {
        let file = home.path("layer");
        fs::write(&file, &image.layer).expect("a file");
        let names = home.run("tar", &["-tf", &file]);
        for name in names.lines().map(|name| name.trim_end_matches('/')) {
            let path = Path::new(&root).join(name);
            let last = path.file_name().and_then(|name| name.to_str());
            if let Some(removed) = last.and_then(|name| name.strip_prefix(".wh.")) {
                let removed = path.with_file_name(removed);
                let gone = if removed.is_dir() && !removed.is_symlink() {
                    fs::remove_dir_all(&removed)
                } else {
                    fs::remove_file(&removed)
                };
                gone.unwrap_or_else(|e| panic!("{}: {e}", removed.display()));
            }
        }
        let options = ["--numeric-owner", "--xattrs", "--xattrs-include=*"];
        let files = ["--exclude=.wh.*", "-C", &root, "-xpf", &file];
        home.run("tar", &[&options[..], &files].concat());
    }
    tree::read(Path::new(&root))
}

const DOCKERFILE: &str = r#"FROM debian
SHELL ["/bin/busybox", "sh", "-c"]
ENV A=1
RUN busybox rm -r /etc/issue /usr/share/doc && busybox ln /etc/debian_version /etc/version && busybox mkdir -m 1777 /data && busybox sh -c 'echo content > /data/file' && busybox chmod 4711 /data/file
LABEL last=empty
CMD ["/bin/busybox", "cat", "/data/file"]
"#;

/// An image of the engine's, from it by each way to each client.
#[test]
fn between_the_worlds() {
    let (home, registry) = (Home::new(), Registry::start(&[]));
    let engine = Engine::start(&home, &[]);
    let host = registry.host();
    let debian = home.debian(&["--variant=extract", "--include=base-files,busybox-static"]);
    engine.docker(&["import", &debian, "debian"]);
    let context = home.path("context");
    fs::create_dir(&context).expect("a folder");
    fs::write(format!("{context}/Dockerfile"), DOCKERFILE).expect("a file");
    let new = format!("{host}/team/new:1");
    engine.docker(&["build", "--network=none", "--tag", &new, &context]);
    let files = engine.files(&new);
    assert!(files.len() > 200, "{}", files.len());

    // By the first API to all others.
    let images = saved(&home, &engine, &new);
    push(&registry, "team/old", "1", &images);
    assert_eq!(pull(&registry, "team/old", "1"), images);
    engine.docker(&["push", &new]);
    engine.forget();
    let old = format!("{host}/team/old:1");
    engine.docker(&["pull", &old]);
    assert_same("pulled by the engine", &files, &engine.files(&old));
    let printed = engine.docker(&["run", "--rm", "--network=none", &old]);
    assert_eq!(printed, "content\n");
    let mounted = tree::read(Path::new(&home.podman_pull(&old)));
    let mounted = without_engine_files(mounted);
    assert_same("pulled by podman", &files, &mounted);
    let [layout, bundle] = ["layout", "bundle"].map(|name| home.path(name));
    home.copy(&format!("docker://{old}"), &format!("oci:{layout}:1"), &[]);
    home.run("umoci", &["unpack", "--image", &format!("{layout}:1"), &bundle]);
    let unpacked = tree::read(&Path::new(&bundle).join("rootfs"));
    assert_same("skopeo and umoci", &files, &without_engine_files(unpacked));

    // Back by the first API: pushed by the engine, skopeo and podman.
    let by_skopeo = format!("{host}/by/skopeo:1");
    home.copy(&format!("docker://{new}"), &format!("docker://{by_skopeo}"), &["--format=oci"]);
    let by_podman = format!("{host}/by/podman:1");
    home.podman(&["tag", &old, &by_podman]);
    home.podman(&["push", "--quiet", "--tls-verify=false", &by_podman]);
    for repository in ["team/new", "by/skopeo", "by/podman"] {
        let images = pull(&registry, repository, "1");
        let name = repository.replace('/', "-");
        let tree = without_engine_files(unpack(&home, &name, &images));
        assert_same(repository, &files, &tree);
        // And on, as if Docker 1 had built it.
        let copy = format!("{repository}-copy");
        let top = &images.last().expect("an image").id;
        ok(put_tag(&registry, &copy, "1", top), "tag");
        assert_eq!(pull(&registry, &copy, "1"), images);
    }
}

/// A script of what each library can do, which prints what it got as JSON.
const NPM: &str = r#"
const drc = require('docker-registry-client');
const [host, repository, tag] = process.argv.slice(2);
const options = {name: host + '/' + repository, insecure: true};
const one = drc.createClientV1(options), two = drc.createClientV2(options);
const call = (client, method, ...given) => new Promise((done, failed) =>
    client[method](...given, (error, value) => error ? failed(error) : done(value)));
const read = stream => new Promise((done, failed) => {
    const pieces = [];
    stream.on('data', piece => pieces.push(piece));
    stream.on('end', () => done(Buffer.concat(pieces)));
    stream.on('error', failed);
    stream.resume();
});
(async () => {
    const got = {};
    got.ping = await call(one, 'ping');
    got.search = await call(one, 'search', {term: 'old'});
    got.images = await call(one, 'listRepoImgs');
    got.tags = await call(one, 'listRepoTags');
    const imgId = got.id = await call(one, 'getImgId', {tag});
    got.ancestry = await call(one, 'getImgAncestry', {imgId});
    got.json = await call(one, 'getImgJson', {imgId});
    got.layer = (await read(await call(one, 'getImgLayerStream', {imgId}))).toString('hex');
    got.list = await call(two, 'listTags');
    got.manifest = await call(two, 'getManifest', {ref: tag, maxSchemaVersion: 2});
    one.close(); two.close();
    console.log(JSON.stringify(got));
})().catch(error => { console.error(error); process.exit(1); });
"#;

#[test]
fn npm_docker_registry_client() {
    need("npm", "npm");
    let (home, registry) = (Home::new(), Registry::start(&[]));
    let images = chain("a");
    push(&registry, "team/old", "1", &images);
    let mut npm = Command::new("npm");
    npm.args(["install", "--no-audit", "--no-fund", "--prefix"])
        .arg(home.path("npm"))
        .arg("docker-registry-client@3.4.0");
    run(&mut npm);
    fs::write(home.path("npm/client.js"), NPM).expect("a file");
    let script = home.path("npm/client.js");
    let got = home.run("node", &[&script, &registry.host(), "team/old", "1"]);
    let got: Value = serde_json::from_str(&got).expect("JSON");
    let [base, middle, top] = [0, 1, 2].map(|n| images[n].id.as_str());
    assert_eq!(got["ping"], true);
    assert_eq!(got["search"]["results"][0]["name"], "team/old");
    assert_eq!(got["images"], json!([{"id": top}, {"id": middle}, {"id": base}]));
    assert_eq!(got["tags"], json!({"1": top}));
    assert_eq!(got["id"], top);
    assert_eq!(got["ancestry"], json!([top, middle, base]));
    assert_eq!(got["json"]["id"], top);
    let hex: String = images[2].layer.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(got["layer"], hex);
    assert_eq!(got["list"]["tags"], json!(["1"]));
    assert_eq!(got["manifest"]["schemaVersion"], 2);
}

const PYTHON: &str = r#"
import json, sys
from docker_registry_client import DockerRegistryClient
from docker_registry_client._BaseClient import BaseClientV1
url, top = sys.argv[1:]
low = BaseClientV1(url)
got = {'status': low.check_status(), 'search': low.search('old')}
got['id'] = low.get_image_id('team', 'old', '1')
got['ancestry'] = low.get_image_ancestry(top)
got['json'] = low.get_image_layer(top)
got['about'] = low.get_tag_json('team', 'old', '1')
low.set_tag('team', 'old', '2', top)
got['tags'] = low.get_repository_tags('team', 'old')
low.delete_repository_tag('team', 'old', '1')
got['left'] = low.get_repository_tags('team', 'old')
high = DockerRegistryClient(url, api_version=1)
repository = high.repository('old', 'team')
got['high'] = [sorted(repository.tags()), repository.image('2').get_json()['id']]
two = DockerRegistryClient(url, api_version=2)
got['catalog'] = sorted(two.repositories())
got['list'] = two.repository('team/old').tags()
low.delete_repository('team', 'old')
got['none'] = low.get_repository_tags('team', 'old')
print(json.dumps(got))
"#;

#[test]
fn pypi_docker_registry_client() {
    need("python3", "python3");
    let (home, registry) = (Home::new(), Registry::start(&[]));
    let images = chain("a");
    push(&registry, "team/old", "1", &images);
    let venv = home.path("venv");
    run(Command::new("python3").args(["-m", "venv", &venv]));
    let python = format!("{venv}/bin/python");
    let package = "docker-registry-client==0.5.2";
    run(Command::new(&python).args(["-m", "pip", "install", "--quiet", package]));
    let [base, middle, top] = [0, 1, 2].map(|n| images[n].id.as_str());
    let url = format!("http://{}", registry.host());
    let got = run(Command::new(&python).args(["-c", PYTHON, &url, top]).env("NO_PROXY", "*"));
    let got: Value = serde_json::from_slice(&got.stdout).expect("JSON");
    assert_eq!(got["status"], true);
    assert_eq!(got["search"]["num_results"], 1);
    assert_eq!(got["id"], top);
    assert_eq!(got["ancestry"], json!([top, middle, base]));
    assert_eq!(got["json"]["id"], top);
    assert_eq!(got["about"]["arch"], "amd64");
    assert_eq!(got["tags"], json!({"1": top, "2": top}));
    assert_eq!(got["left"], json!({"2": top}));
    assert_eq!(got["high"], json!([["2"], top]));
    assert_eq!(got["catalog"], json!(["team/old"]));
    assert_eq!(got["list"], json!(["2"]));
    assert_eq!(got["none"], json!({}));
}
