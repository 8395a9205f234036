//! podman, with a store of its own in the temporary folder.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::common::home::Home;
use crate::common::{OCI_LAYER, Registry, noise, tree};
use crate::{await_log, manifest};

const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
const ZSTD_MAGIC: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// A tar file of a small root file system, and the folder that unpacking it
/// gives. Files of the same seed are the same.
fn root_files(home: &Home, name: &str, seeds: &[u64]) -> (String, String) {
    let [made, tar, unpacked] =
        ["made", "tar", "unpacked"].map(|what| home.path(&format!("{name}-{what}")));
    let usr = Path::new(&made).join("usr");
    fs::create_dir_all(&usr).expect("a folder");
    for seed in seeds {
        fs::write(usr.join(seed.to_string()), noise(*seed, 500_000)).expect("a file");
    }
    fs::hard_link(usr.join(seeds[0].to_string()), usr.join("hard")).expect("a hard link");
    std::os::unix::fs::symlink("hard", usr.join("soft")).expect("a link");
    home.run("tar", &["-C", &made, "-cf", &tar, "usr"]);
    fs::create_dir(&unpacked).expect("a folder");
    home.run("tar", &["-C", &unpacked, "-xf", &tar]);
    (tar, unpacked)
}

/// Imports a tar file as an image, pushes it, and gives its one layer's
/// descriptor in the registry.
fn push(home: &Home, registry: &Registry, tar: &str, name: &str, compression: &str) -> Value {
    let reference = format!("{}/{name}", registry.host());
    home.podman(&["import", "--quiet", tar, &reference]);
    let digest_file = home.path("digest");
    home.podman(&[
        "push",
        "--quiet",
        "--tls-verify=false",
        "--format=oci",
        &format!("--compression-format={compression}"),
        &format!("--digestfile={digest_file}"),
        &reference,
    ]);
    let (repository, tag) = name.split_once(':').expect("a tag");
    let reply = manifest(registry.address, repository, tag);
    assert_eq!(
        reply.header("docker-content-digest"),
        Some(fs::read_to_string(digest_file).expect("a file").as_str())
    );
    let layers = reply.json()["layers"].clone();
    assert_eq!(layers.as_array().map(Vec::len), Some(1));
    layers[0].clone()
}

#[test]
fn compressions() {
    for (compression, media_type, magic, chunked) in [
        ("gzip", OCI_LAYER, &[0x1f, 0x8b][..], false),
        ("zstd", OCI_LAYER_ZSTD, ZSTD_MAGIC, false),
        ("zstd:chunked", OCI_LAYER_ZSTD, ZSTD_MAGIC, true),
    ] {
        // A registry each, as podman pushes a layer it knows to be there in
        // whatever compression it is.
        let (home, registry) = (Home::new(), Registry::start(crate::COLLECTING));
        let (tar, unpacked) = root_files(&home, "image", &[1, 2]);
        let layer = push(&home, &registry, &tar, "team/app:1", compression);
        assert_eq!(layer["mediaType"], media_type, "{compression}");
        assert_eq!(layer["annotations"].is_object(), chunked, "{compression}");
        let digest = layer["digest"].as_str().expect("a digest");
        let blob = registry.get(&format!("/v2/team/app/blobs/{digest}")).body;
        assert!(blob.starts_with(magic), "{compression}");

        home.podman(&["rmi", "--all"]);
        let pulled = home.podman_pull(&format!("{}/team/app:1", registry.host()));
        let [pulled, unpacked] = [pulled, unpacked].map(|root| tree::read(Path::new(&root)));
        tree::assert_same(compression, &pulled, &unpacked);
    }
}

/// podman that keeps images as overlays can fetch the files it lacks alone, by
/// ranges. An overlay needs a file system that can carry it, so the store is on
/// a tmpfs which goes with the namespace.
const PARTIAL_PULL: &str = r#"set -e
mkdir store
mount -t tmpfs tmpfs store
export CONTAINERS_STORAGE_CONF=$PWD/storage.conf
for image; do
    podman --tmpdir "$PWD/store/tmp" --events-backend=none pull --quiet --tls-verify=false "$image"
done
root=$(podman --tmpdir "$PWD/store/tmp" --events-backend=none image mount "$image")
cp -a "$root" pulled
umount "$root"
"#;

#[test]
fn partial_pull() {
    let (home, registry) = (Home::new(), Registry::start(crate::COLLECTING));
    let [store, run] = ["store/root", "store/run"].map(|name| home.path(name));
    let settings = format!(
        "[storage]\ndriver = \"overlay\"\ngraphroot = \"{store}\"\nrunroot = \"{run}\"\n\
         [storage.options]\npull_options = {{enable_partial_images = \"true\"}}\n"
    );
    fs::write(home.path("storage.conf"), settings).expect("a file");
    let (old, _) = root_files(&home, "old", &[1, 2, 3, 4, 5]);
    let (new, unpacked) = root_files(&home, "new", &[1, 6, 3, 7, 5]);
    push(&home, &registry, &old, "team/app:1", "zstd:chunked");
    push(&home, &registry, &new, "team/app:2", "zstd:chunked");
    let names = ["1", "2"].map(|tag| format!("{}/team/app:{tag}", registry.host()));
    let script = ["--mount", "sh", "-c", PARTIAL_PULL, "sh"];
    home.run("unshare", &[&script[..], &[&names[0], &names[1]]].concat());
    // This way of pulling leaves the times to chance, in podman 4.
    let [pulled, unpacked] = [home.path("pulled"), unpacked]
        .map(|root| tree::without_times(tree::read(Path::new(&root))));
    tree::assert_same("pulled in part", &pulled, &unpacked);
    // The table of contents at the end of each layer, at least.
    await_log(&registry, 2, &["/v2/team/app/blobs/", "status=206"]);
}

/// The catalog and the tags, as podman shows them.
#[test]
fn search() {
    let (home, registry) = (Home::new(), Registry::start(crate::COLLECTING));
    for name in ["tool:1", "team/app:2", "team/app:1", "app:1"] {
        let (repository, tag) = name.split_once(':').expect("a tag");
        registry.push_image(repository, tag, name);
    }
    let host = registry.host();
    let search = |name: &str, options: &[&str]| {
        let name = format!("{host}/{name}");
        let search = ["search", "--tls-verify=false"];
        home.podman(&[&search, options, &[&name]].concat())
    };
    for (term, want) in
        [("", &["app", "team/app", "tool"][..]), ("app", &["app", "team/app"]), ("nothing", &[])]
    {
        let found = search(term, &["--format={{.Name}}"]);
        let found = found.replace(&format!("{host}/"), "");
        assert_eq!(found.lines().collect::<Vec<_>>(), want, "{term:?}");
    }
    // A table, below a line of titles.
    let tags = search("team/app", &["--list-tags"]);
    let tags = tags.lines().skip(1).flat_map(|line| line.split_whitespace().next_back());
    assert_eq!(tags.collect::<Vec<_>>(), ["1", "2"]);
}
