//! skopeo and umoci: between layouts and the registry, both ways.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::common::home::Home;
use crate::common::{DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Registry};
use crate::layout::{Layout, PLATFORMS, blobs};
use crate::{await_log, manifest};

/// `docker://127.0.0.1:PORT/NAME`
fn at(registry: &Registry, name: &str) -> String {
    format!("docker://{}/{name}", registry.host())
}

/// An index and all it names, there and back through each transport.
#[test]
fn index_both_ways() {
    let (home, registry) = (Home::new(), Registry::start(crate::COLLECTING));
    let layout = Layout::make(&home.path("layout"), 1);
    let all = &["--all", "--preserve-digests"];
    let pushed = at(&registry, "team/multi:1");
    home.copy(&layout.reference(), &pushed, all);
    let reply = manifest(registry.address, "team/multi", "1");
    assert_eq!(reply.body, layout.read(&layout.index), "bytes are kept");
    assert_eq!(reply.header("content-type"), Some(OCI_INDEX));
    let digest = layout.index.to_string();
    assert_eq!(reply.header("docker-content-digest"), Some(digest.as_str()));

    for transport in ["oci", "dir"] {
        let folder = home.path(&format!("pulled-{transport}"));
        let pulled = match transport {
            "oci" => format!("oci:{folder}:latest"),
            _ => format!("dir:{folder}"),
        };
        home.copy(&pushed, &pulled, all);
        if transport == "oci" {
            assert_eq!(blobs(Path::new(&folder)), layout.blobs());
        }
        let again = format!("team/from-{transport}");
        home.copy(&pulled, &at(&registry, &format!("{again}:1")), all);
        let reply = manifest(registry.address, &again, "1");
        assert_eq!(reply.body, layout.read(&layout.index), "{transport}");
    }

    // From one repository to another of the same registry: layers are mounted.
    home.copy(&pushed, &at(&registry, "team/copy:1"), all);
    assert_eq!(manifest(registry.address, "team/copy", "1").body, layout.read(&layout.index));
    let mount = "/v2/team/copy/blobs/uploads/?from=";
    await_log(&registry, 3, &[mount, "status=201"]);
}

/// A pull is noted, a look at what is there is not.
#[test]
fn pulls_are_noted() {
    let (home, registry) = (Home::new(), Registry::start(crate::COLLECTING));
    let layout = Layout::make(&home.path("layout"), 3);
    let pushed = at(&registry, "team/multi:1");
    home.copy(&layout.reference(), &pushed, &["--all"]);
    let is_pulled = || {
        let tags = registry.get("/v2/_query/tags?repository=team/multi").text();
        let line = tags.lines().find(|line| line.contains("\"tag\"")).expect("a tag");
        let line: Value = serde_json::from_str(line).expect("JSON");
        line["pulled"].is_string()
    };
    assert!(!is_pulled(), "pushed only");
    home.copy(&pushed, &format!("dir:{}", home.path("pulled")), &["--all"]);
    assert!(is_pulled());
}

/// A client that takes one image picks it from the index.
#[test]
fn one_platform() {
    let (home, registry) = (Home::new(), Registry::start(crate::COLLECTING));
    let layout = Layout::make(&home.path("layout"), 2);
    let name = at(&registry, "multi:1");
    home.copy(&layout.reference(), &name, &["--all"]);
    for (architecture, image) in PLATFORMS.into_iter().zip(&layout.images) {
        let override_arch = format!("--override-arch={architecture}");
        let config = home.skopeo(&[&override_arch, "inspect", "--config"], &name);
        let config: Value = serde_json::from_str(&config).expect("JSON");
        assert_eq!(config["architecture"], architecture);
        let one = format!("one:{architecture}");
        home.copy(&name, &at(&registry, &one), &[&override_arch]);
        let reply = manifest(registry.address, "one", architecture);
        assert_eq!(reply.body, layout.read(image));
        assert_eq!(reply.header("content-type"), Some(OCI_MANIFEST));
    }
}

/// What skopeo converts images to before it pushes.
#[test]
fn docker_types() {
    let (home, registry) = (Home::new(), Registry::start(crate::COLLECTING));
    let layout = Layout::make(&home.path("layout"), 3);
    for (tag, options, want) in [
        ("image", &["--format=v2s2"][..], DOCKER_MANIFEST),
        ("list", &["--format=v2s2", "--all"], DOCKER_LIST),
    ] {
        let name = at(&registry, &format!("docker:{tag}"));
        home.copy(&layout.reference(), &name, options);
        let reply = manifest(registry.address, "docker", tag);
        assert_eq!(reply.header("content-type"), Some(want));
        assert_eq!(home.skopeo(&["inspect", "--raw"], &name), reply.text());
    }
    let schema1 = ["copy", "--dest-tls-verify=false", "--format=v2s1"];
    let names = [&layout.reference()[..], &at(&registry, "docker:schema1")];
    let refused = home.refused("skopeo", &[&schema1[..], &names].concat());
    assert!(refused.contains("schema 1"), "{refused}");
}

#[test]
fn inspect_list_delete() {
    let (home, registry) = (Home::new(), Registry::start(crate::COLLECTING));
    let kept = Layout::make(&home.path("kept"), 4);
    let deleted = Layout::make(&home.path("deleted"), 5);
    for (tag, layout) in [("1.0", &kept), ("1", &kept), ("old", &deleted), ("older", &deleted)] {
        let name = at(&registry, &format!("team/app:{tag}"));
        home.copy(&layout.reference(), &name, &[]);
    }
    let inspect = |tag: &str| {
        let name = at(&registry, &format!("team/app:{tag}"));
        serde_json::from_str::<Value>(&home.skopeo(&["inspect"], &name)).expect("JSON")
    };
    let found = inspect("old");
    assert_eq!(found["Digest"], deleted.image().to_string());
    assert_eq!(found["Labels"]["seed"], "5");
    assert_eq!(found["RepoTags"], json!(["1", "1.0", "old", "older"]));

    let name = at(&registry, "team/app:old");
    home.skopeo(&["delete"], &name);
    let list = home.skopeo(&["list-tags"], &at(&registry, "team/app"));
    let list: Value = serde_json::from_str(&list).expect("JSON");
    // skopeo deletes by digest, and every tag that names it goes.
    assert_eq!(list["Tags"], json!(["1", "1.0"]));
    let refused = home.refused("skopeo", &["inspect", "--tls-verify=false", &name]);
    assert!(refused.contains("manifest unknown"), "{refused}");
    assert_eq!(inspect("1")["Digest"], kept.image().to_string());
}

/// An image that umoci makes from a pulled one.
#[test]
fn umoci_repacks() {
    let (home, registry) = (Home::new(), Registry::start(crate::COLLECTING));
    let layout = Layout::make(&home.path("layout"), 6);
    let name = at(&registry, "team/app:1");
    home.copy(&layout.reference(), &name, &[]);
    let image = format!("{}:1", home.path("pulled"));
    home.copy(&name, &format!("oci:{image}"), &[]);
    let bundle = home.path("bundle");
    home.run("umoci", &["unpack", "--image", &image, &bundle]);
    let usr = Path::new(&bundle).join("rootfs/usr");
    fs::remove_file(usr.join("hard")).expect("a file of the image");
    fs::write(usr.join("added"), "by umoci").expect("a file");
    home.run("umoci", &["repack", "--image", &image, &bundle]);

    let changed = at(&registry, "team/app:2");
    home.copy(&format!("oci:{image}"), &changed, &[]);
    let layers = |tag: &str| {
        let manifest = manifest(registry.address, "team/app", tag).json();
        manifest["layers"].as_array().expect("layers").clone()
    };
    assert_eq!(layers("1"), layers("2")[..2]);
    assert_eq!(layers("2").len(), 3);

    let image = format!("{}:2", home.path("pulled-again"));
    home.copy(&changed, &format!("oci:{image}"), &[]);
    let bundle = home.path("bundle-again");
    home.run("umoci", &["unpack", "--image", &image, &bundle]);
    let names: BTreeSet<_> = fs::read_dir(Path::new(&bundle).join("rootfs/usr"))
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    assert_eq!(names, ["added", "program", "soft"].map(Into::into).into());
}
