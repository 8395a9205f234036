//! Layers over layers as containerd, Docker and podman show them on overlayfs, and as umoci unpacks
//! them, against what we show: every order of up to two members over every kind of thing below them.
//! What differs is said here, with the number of pairs; docs/decisions.md says why.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::iter;
use std::mem;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use registry::image::{Error, Image, Walk};
use registry::index::records;
use registry::oci::Algorithm;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::common::engine::Engine;
use super::common::home::Home;
use super::common::tar::{Member, Tar};
use super::common::tree::{self, Kind, Tree};
use super::common::{OCI_CONFIG, OCI_MANIFEST, descriptor, eventually, need, run};
use super::store::Store;

const OCI_TAR: &str = "application/vnd.oci.image.layer.v1.tar";

/// Random images that are unpacked.
const IMAGES: usize = 400;

/// What the members of a layer come to lie on.
const LOWER: [&str; 10] = [
    "",
    "d:a f:a/x f:a/y",
    "d:a d:a/x f:a/x/z d:b",
    "f:a",
    "f:b h:a->b",
    "l:a->b d:b f:b/x",
    "l:a->b",
    "d:a l:a/x->../b d:b f:b/x",
    "d:a z:a/x f:a/y",
    "c:a d:.wh..wh.p f:b",
];

/// `d:` directory, `f:` file, `l:` symlink, `h:` hard link, `c:` device, `p:` FIFO; and in odd
/// headers: `z:` device 0/0, `s:` symlink with a size and a mode, `n:` hard link with a size, `b:`
/// file with blank numbers, `x:` file with empty PAX values; `t:` file
/// with an attribute in `trusted.`.
const UPPER: [&str; 30] = [
    "d:a",
    "f:a",
    "f:a/",
    "l:a->b",
    "s:a->b",
    "h:a->b",
    "n:a->b",
    "z:a",
    "b:a",
    "x:a",
    "t:a",
    "p:a",
    "c:a",
    "k:a",
    "f:b",
    "f:a/x",
    "d:a/x",
    "z:a/x",
    "f:a/x/z",
    "f:.wh.a",
    "d:.wh.a",
    "f:a/.wh.x",
    "f:a/.wh..wh..opq",
    "f:a/x/.wh.z",
    "f:a/x/.wh..wh..opq",
    "f:a/.wh..wh..opq/x",
    "f:.wh..wh..opq",
    "f:.wh.a/x",
    "d:a/.wh..wh.p",
    "f:a/.wh..wh.p/x",
];

/// Adds the member that a word means, below a directory.
fn add(tar: Tar, directory: &str, word: &str) -> Tar {
    let (letter, rest) = word.split_once(':').expect("a letter");
    let (path, link) = rest.split_once("->").unwrap_or((rest, ""));
    let path = format!("{directory}{path}");
    // Hard links name paths of the image, symlinks what lies beside them.
    let target =
        if matches!(letter, "h" | "n") { format!("{directory}{link}") } else { link.into() };
    let kind = match letter {
        "d" => b'5',
        "l" | "s" => b'2',
        "h" | "n" => b'1',
        "z" | "c" => b'3',
        "p" => b'6',
        "k" => b'4',
        _ => b'0',
    };
    let mut member = Member { kind, link: target.into_bytes(), ..Member::default() };
    member.mode = match kind {
        b'5' => 0o1705,
        b'2' if letter == "l" => 0o777,
        _ => 0o640,
    };
    match letter {
        "c" => member.device = (1, 3),
        "k" => member.device = (7, 200),
        "x" | "t" => {
            let records = match letter {
                "x" => "28 SCHILY.xattr.security.x=\n13 linkpath=\n8 path=\n",
                _ => "28 SCHILY.xattr.trusted.x=y\n",
            };
            let extended = Member { kind: b'x', ..Member::default() };
            return tar
                .member("extended", records.as_bytes(), &extended)
                .member(path, b"x", &member);
        }
        "s" | "n" => return tar.member_with(path, b"", &member, &[(124, b"00000000700\0")]),
        "b" => {
            let blank: &[_] = &[(108, &b"        "[..]), (116, b"        ")];
            return tar.member_with(path, b"b", &member, blank);
        }
        _ => {}
    }
    tar.member(path, if kind == b'0' { word.as_bytes() } else { b"" }, &member)
}

fn layer(directory: &str, words: &str) -> Vec<u8> {
    words.split_whitespace().fold(Tar::default(), |tar, word| add(tar, directory, word)).finish()
}

/// One member, or two in either order.
fn uppers() -> Vec<String> {
    let pairs = UPPER.iter().flat_map(|one| UPPER.iter().map(move |two| format!("{one} {two}")));
    UPPER.iter().map(|&one| one.to_owned()).chain(pairs).collect()
}

/// An OCI layout of images, each by its name and its layers.
fn layout(dir: &Path, images: &[(String, Vec<Vec<u8>>)]) {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |media_type: &str, bytes: &[u8]| -> Value {
        let digest = Algorithm::Sha256.digest(bytes);
        let hex = digest.to_string().replace("sha256:", "");
        fs::write(blobs.join(hex), bytes).unwrap();
        descriptor(media_type, &digest, bytes.len())
    };
    let manifests: Vec<Value> = images
        .iter()
        .map(|(name, layers)| {
            let diff_ids = layers.iter().map(|layer| Algorithm::Sha256.digest(layer).to_string());
            let config = json!({
                "os": "linux",
                "architecture": "amd64",
                "rootfs": {"type": "layers", "diff_ids": diff_ids.collect::<Vec<_>>()},
            });
            let manifest = json!({
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": put(OCI_CONFIG, config.to_string().as_bytes()),
                "layers": layers.iter().map(|layer| put(OCI_TAR, layer)).collect::<Vec<_>>(),
            });
            let mut image = put(OCI_MANIFEST, manifest.to_string().as_bytes());
            image["annotations"] = json!({"org.opencontainers.image.ref.name": name});
            image
        })
        .collect();
    let index = json!({"schemaVersion": 2, "manifests": manifests});
    fs::write(dir.join("index.json"), index.to_string()).unwrap();
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

/// containerd with a store of its own.
struct Containerd {
    dir: PathBuf,
    child: Child,
}

impl Containerd {
    fn start(dir: &Path) -> Containerd {
        need("containerd", "containerd");
        let config = format!(
            "version = 2\nroot = \"{0}/root\"\nstate = \"{0}/state\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = \"{0}/socket\"\n",
            dir.display()
        );
        fs::write(dir.join("config.toml"), config).unwrap();
        let log = File::create(dir.join("log")).unwrap();
        let child = Command::new("setpriv")
            .args(["--pdeathsig=TERM", "containerd", "--config"])
            .arg(dir.join("config.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("setpriv, of every Debian");
        let containerd = Containerd { dir: dir.to_owned(), child };
        eventually("containerd answers", || containerd.ctr(&["version"]).status.success());
        containerd
    }

    fn ctr(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(self.dir.join("socket")).args(arguments);
        command.output().expect("ctr, which comes with containerd")
    }

    fn import(&self, layout: &Path) {
        let archive = self.dir.join("images.tar");
        run(Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(layout).arg("."));
        let archive = archive.to_str().expect("UTF-8");
        let done = self.ctr(&["images", "import", "--no-unpack", "--base-name=model", archive]);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    /// What a container of the image would see, or why there is none.
    fn tree(&self, image: &str) -> Result<Tree, String> {
        let root = self.dir.join(image.replace(':', "-"));
        fs::create_dir(&root).unwrap();
        let at = root.to_str().expect("UTF-8");
        let done = self.ctr(&["images", "mount", "--rw", image, at]);
        if !done.status.success() {
            return Err(String::from_utf8_lossy(&done.stderr).into_owned());
        }
        let tree = tree::read_overlay(&root);
        let done = self.ctr(&["images", "unmount", "--rm", at]);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        Ok(tree)
    }
}

/// What podman shows of the image of a layout of the same name, beside its own folder.
fn podman(dir: &Path, image: &str) -> Tree {
    need("podman", "podman");
    let podman = |arguments: &[&str]| {
        let mut command = Command::new("podman");
        let at = |name: &str| dir.join(name);
        command.arg("--root").arg(at("root")).arg("--runroot").arg(at("run"));
        command.arg("--tmpdir").arg(at("tmp")).args(["--storage-driver=overlay"]);
        command.arg("--events-backend=none").args(arguments);
        command.current_dir(dir).env("HOME", dir);
        let output = run(command.env_remove("CONTAINERS_STORAGE_CONF"));
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    };
    let policy = r#"{"default": [{"type": "insecureAcceptAnything"}]}"#;
    fs::create_dir_all(dir.join(".config/containers")).unwrap();
    fs::write(dir.join(".config/containers/policy.json"), policy).unwrap();
    // The path becomes a name, which has no capital letters.
    let id = podman(&["pull", "--quiet", &format!("oci:{image}:{image}")]);
    let root = podman(&["image", "mount", &id]);
    let tree = tree::read_overlay(Path::new(&root));
    podman(&["image", "unmount", &id]);
    tree
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What we show.
fn ours(image: &Arc<Image>) -> Tree {
    let mut names: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
    let mut tree = Tree::new();
    for node in Walk::new(&**image, image.root().clone()).map(Result::unwrap) {
        let entry = &node.entry;
        let kind = match entry.kind {
            records::Kind::Regular => {
                let mut content = vec![0; entry.size as usize];
                image.read(&node, 0, &mut content).unwrap();
                let digest = Algorithm::Sha256.digest(&content).to_string();
                Kind::Regular { size: entry.size, digest }
            }
            records::Kind::Directory => Kind::Directory,
            records::Kind::Symlink => Kind::Symlink(entry.link.clone()),
            records::Kind::Character => Kind::Character(entry.device.0, entry.device.1),
            records::Kind::Block => Kind::Block(entry.device.0, entry.device.1),
            records::Kind::Fifo => Kind::Fifo,
            other => panic!("{other:?}"),
        };
        if kind != Kind::Directory {
            let identity = format!("{:?}", image.identity(&node).unwrap());
            names.entry(identity).or_default().push(node.path.clone());
        }
        tree.insert(
            node.path.clone(),
            tree::File {
                kind,
                mode: entry.mode.into(),
                uid: entry.uid,
                gid: entry.gid,
                mtime: (entry.mtime.seconds, entry.mtime.nanoseconds),
                xattrs: entry.xattrs.iter().cloned().collect(),
                first_name: None,
            },
        );
    }
    for names in names.values().filter(|names| names.len() > 1) {
        for name in names {
            tree.get_mut(name).expect("walked").first_name = names.iter().min().cloned();
        }
    }
    tree
}

/// Directories' times are those of unpacking where no member says them.
fn comparable(mut tree: Tree) -> Tree {
    let directories = tree.values_mut().filter(|file| file.kind == Kind::Directory);
    directories.for_each(|file| file.mtime = (0, 0));
    tree
}

/// Docker's archive of an image.
fn docker_archive(path: &Path, name: &str, layers: &[Vec<u8>]) {
    let diff_ids: Vec<String> =
        layers.iter().map(|layer| Algorithm::Sha256.digest(layer).to_string()).collect();
    let config = json!({
        "os": "linux",
        "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let names: Vec<String> = (0..layers.len()).map(|n| format!("{n}/layer.tar")).collect();
    let manifest = json!([{"Config": "config.json", "RepoTags": [name], "Layers": names}]);
    let mut tar = Tar::default()
        .file("manifest.json", manifest.to_string().as_bytes())
        .file("config.json", config.to_string().as_bytes());
    for (name, layer) in names.iter().zip(layers) {
        tar = tar.file(name, layer);
    }
    fs::write(path, tar.finish()).unwrap();
}

/// What umoci unpacks of the image of a layout of the same name, beside it.
fn umoci(dir: &Path, image: &str) -> Tree {
    need("umoci", "umoci");
    let bundle = dir.join("bundle");
    let layout = format!("{}:{image}", dir.join(image).display());
    run(Command::new("umoci").args(["unpack", "--image", &layout]).arg(&bundle));
    tree::read(&bundle.join("rootfs"))
}

/// What Docker exports of an image.
fn docker(engine: &Engine<'_>, dir: &Path, image: &str, layers: &[Vec<u8>]) -> Tree {
    let (archive, name) = (dir.join("archive"), format!("{image}:1"));
    docker_archive(&archive, &name, layers);
    engine.docker(&["load", "--quiet", "--input", archive.to_str().expect("UTF-8")]);
    let mut tree = engine.files(&name);
    // The engine makes these for every container.
    tree.retain(|path, _| ![&b"dev"[..], b"etc"].contains(&path.as_slice()));
    tree
}

/// The words of a layer, each with its kind and the components of its name.
fn parsed(words: &str) -> impl Iterator<Item = (&str, Vec<&str>)> {
    words.split_whitespace().map(|word| {
        let (kind, name) = word.split_once(':').expect("a letter");
        let name = name.split("->").next().expect("a path").trim_end_matches('/');
        (kind, name.split('/').collect())
    })
}

fn has_a_name_twice(words: &str) -> bool {
    let names: Vec<Vec<&str>> = parsed(words).map(|(_, name)| name).collect();
    names.iter().collect::<BTreeSet<_>>().len() < names.len()
}

/// Whether a member lies below what is no directory in the layer below it, or so much deeper.
fn is_below_a_file(under: &str, over: &str, deeper: usize) -> bool {
    let files: Vec<Vec<&str>> =
        parsed(under).filter(|(kind, _)| *kind != "d").map(|(_, name)| name).collect();
    parsed(over).any(|(_, name)| {
        files.iter().any(|file| name.len() > file.len() + deeper && name.starts_with(file))
    })
}

/// A runtime, and how it differs from what we show.
struct Runtime {
    name: &'static str,
    /// Pairs that it fails to unpack.
    fails: fn(under: &str, over: &str) -> bool,
    /// Pairs that it may show in another way.
    why: fn(under: &str, over: &str) -> Option<&'static str>,
    /// How many of them it does show in another way.
    pairs: &'static [(&'static str, usize)],
}

const ATTRIBUTES: &str = "attributes of another directory";
const OWN: &str = "whiteouts remove the layer's own files";
const DEVICES: &str = "devices 0/0 are devices";
const NAMES: &str = "every name below .wh. is a whiteout";
const PARENTS: &str = "whiteouts make no parents";
const ORDER: &str = "a directory replaces what a whiteout or file before it hides";

const RUNTIMES: [Runtime; 4] = [
    Runtime {
        name: "containerd",
        fails: |under, over| {
            let files = under.split_whitespace().filter(|word| !word.starts_with("l:"));
            is_below_a_file(&files.collect::<Vec<_>>().join(" "), over, 1)
        },
        why: |under, over| {
            let reaches = |path: &str| over.contains(path);
            let hides = reaches("f:.wh..wh..opq") && reaches(":a/")
                || reaches("f:a/.wh..wh..opq") && reaches(":a/x/");
            let leads = under.starts_with("l:a->b d:b")
                || under.contains("l:a/x->../b") && reaches(":a/x/");
            (hides || leads).then_some(ATTRIBUTES)
        },
        pairs: &[(ATTRIBUTES, 325)],
    },
    Runtime { name: "podman", fails: of_the_engines, why: own_whiteouts, pairs: &[(OWN, 20)] },
    Runtime { name: "Docker", fails: of_the_engines, why: own_whiteouts, pairs: &[(OWN, 20)] },
    Runtime {
        name: "umoci",
        fails: |under, over| is_below_a_file(under, over, 0),
        why: |under, over| {
            let both = || parsed(under).chain(parsed(over));
            let is_mark = |name: &str| name.starts_with(".wh.");
            let ends = |name: &[&str]| name.last().is_some_and(|last| is_mark(last));
            if both().any(|(kind, _)| kind == "z") {
                Some(DEVICES)
            } else if both().any(|(kind, name)| {
                name[..name.len() - 1].iter().any(|name| is_mark(name))
                    || kind == "d" && ends(&name)
            }) {
                Some(NAMES)
            } else if parsed(over).any(|(_, name)| name.len() > 1 && ends(&name)) {
                Some(PARENTS)
            } else if has_a_name_twice(over) || over.contains("f:.wh.a") {
                Some(ORDER)
            } else {
                None
            }
        },
        pairs: &[(DEVICES, 442), (NAMES, 44), (PARENTS, 71), (ORDER, 34)],
    },
];

/// Docker and podman take no layer that has a name twice, and make no target for a symlink that a
/// member leads through.
fn of_the_engines(_: &str, over: &str) -> bool {
    has_a_name_twice(over) || over.contains("->b") && over.contains(":a/")
}

fn own_whiteouts(_: &str, over: &str) -> Option<&'static str> {
    ["f:.wh.a/x f:.wh.a", "f:a/.wh..wh..opq/x f:a/.wh..wh..opq"].contains(&over).then_some(OWN)
}

/// Two layers with a directory for each pair.
fn pairs(pairs: &[(usize, usize)], uppers: &[&str]) -> Vec<Vec<u8>> {
    let mut layers = [Tar::default(), Tar::default()];
    for &(below, above) in pairs {
        let directory = format!("{below}-{above}/");
        for (layer, words) in layers.iter_mut().zip([LOWER[below], uppers[above]]) {
            let words = std::iter::once("d:.").chain(words.split_whitespace());
            *layer = words.fold(mem::take(layer), |tar, word| add(tar, &directory, word));
        }
    }
    layers.map(Tar::finish).into()
}

/// The trees of pairs, by their directories.
fn by_pair(tree: Tree) -> BTreeMap<(usize, usize), Tree> {
    let mut pairs: BTreeMap<_, Tree> = BTreeMap::new();
    for (path, mut file) in tree {
        let path = String::from_utf8(path).expect("ASCII");
        let (pair, rest) = path.split_once('/').unwrap_or((&path, "."));
        let (below, above) = pair.split_once('-').expect("two numbers");
        let [below, above] = [below, above].map(|text| text.parse().expect("a number"));
        let inside = |name: Vec<u8>| name[pair.len() + 1..].to_vec();
        file.first_name = file.first_name.map(inside);
        pairs.entry((below, above)).or_default().insert(rest.into(), file);
    }
    pairs
}

/// containerd takes no attributes in `trusted.` out of layers.
fn without_trusted(mut tree: Tree) -> Tree {
    for file in tree.values_mut() {
        file.xattrs.retain(|name, _| !name.starts_with(b"trusted."));
    }
    tree
}

/// Those except containerd keep no empty xattrs, since Go's own list of them has none, and give a
/// directory that no member declares no attributes of a lower one.
fn as_others_show(mut tree: Tree) -> Tree {
    for file in tree.values_mut() {
        file.xattrs.retain(|_, value| !value.is_empty());
        if file.kind == Kind::Directory {
            file.mode = 0;
        }
    }
    tree
}

/// One image for each thing to lie on, because a layer may not replace too many directories.
fn compare(
    runtime: &Runtime,
    store: &Store,
    uppers: &[&str],
    show: impl Fn(&Path, &str, &[Vec<u8>]) -> Tree,
) {
    let temp = TempDir::new_in(store.db.parent().expect("a folder")).unwrap();
    let mut found: BTreeMap<&str, usize> = BTreeMap::new();
    let (mut compared, mut wrong) = (0, BTreeMap::new());
    for (below, under) in LOWER.iter().enumerate() {
        let all = (0..uppers.len()).filter(|&above| !(runtime.fails)(under, uppers[above]));
        let all: Vec<(usize, usize)> = all.map(|above| (below, above)).collect();
        let (layers, name) = (pairs(&all, uppers), format!("pairs-{below}"));
        let dir = temp.path().join(&name);
        fs::create_dir(&dir).unwrap();
        layout(&dir.join(&name), &[(name.clone(), layers.clone())]);
        let shown = ours(&store.image_of_tars(&layers).unwrap());
        let [mut theirs, mut ours] = [show(&dir, &name, &layers), shown].map(comparable);
        if runtime.name == "containerd" {
            ours = without_trusted(ours);
        } else {
            [theirs, ours] = [theirs, ours].map(as_others_show);
        }
        if runtime.name == "Docker" {
            // An export has no other attributes than capabilities.
            let files = ours.values_mut().chain(theirs.values_mut());
            files.for_each(|file| file.xattrs.clear());
        }
        let [theirs, ours] = [theirs, ours].map(by_pair);
        assert_eq!(ours.len(), all.len());
        compared += all.len();
        for (pair, ours) in &ours {
            let theirs = theirs.get(pair);
            if theirs == Some(ours) {
                continue;
            }
            let (pair, over) = (*pair, uppers[pair.1]);
            let without = |tree: &Tree| as_others_show(tree.clone());
            match (runtime.why)(under, over) {
                Some(ATTRIBUTES) if theirs.map(without) != Some(without(ours)) => {
                    wrong.insert(pair, (theirs.cloned(), ours.clone()));
                }
                Some(why) => *found.entry(why).or_default() += 1,
                None => drop(wrong.insert(pair, (theirs.cloned(), ours.clone()))),
            }
        }
    }
    let wrong: Vec<String> = wrong
        .into_iter()
        .take(20)
        .map(|((below, above), (theirs, ours))| {
            format!("[{}] under [{}]:\n  {theirs:?}\n  {ours:?}", LOWER[below], uppers[above])
        })
        .collect();
    assert!(wrong.is_empty(), "{}:\n{}", runtime.name, wrong.join("\n"));
    assert!(compared > 3_000, "{}: {compared}", runtime.name);
    let want: BTreeMap<&str, usize> = runtime.pairs.iter().copied().collect();
    assert_eq!(found, want, "{} of {compared} pairs", runtime.name);
}

/// Whether containerd cannot unpack a layer of one or two members at the root: a hard link to what
/// the layer does not have by then, a member below a file or whiteout, a whiteout of what the layer
/// has, a directory that is gone at the end, when it sets the times.
fn containerd_fails(words: &str) -> bool {
    let mut kinds: BTreeMap<Vec<&str>, &str> = BTreeMap::new();
    let mut directories = Vec::new();
    for (kind, name) in parsed(words) {
        let mut is_led_away = false;
        for end in 1..name.len() {
            match *kinds.entry(name[..end].to_vec()).or_insert("d") {
                "d" => {}
                // What it leads to is made.
                "l" => is_led_away = true,
                _ => return true,
            }
        }
        let (last, parents) = name.split_last().expect("a name");
        if *last == ".wh..wh..opq" {
            continue;
        }
        if let Some(removed) = last.strip_prefix(".wh.") {
            if kinds.insert([parents, &[removed]].concat(), "w").is_some() {
                return true;
            }
            continue;
        }
        if matches!(kind, "h" | "n") && kinds.get(&vec!["b"]).is_none_or(|target| *target != "f") {
            return true;
        }
        if kind == "d" && !is_led_away {
            directories.push(name.clone());
        }
        let kind = match kind {
            "d" => "d",
            "l" | "s" => "l",
            _ => "f",
        };
        kinds.insert(name, kind);
    }
    directories.iter().any(|name| {
        let is_directory = |end: usize| kinds[&name[..end]] == "d";
        !(1..name.len()).all(is_directory) || kinds[name] == "l"
    })
}

/// Images of layers that containerd can unpack, over a file: what it shows is what we show. Returns
/// which of them those are.
fn alone(containerd: &Containerd, store: &Store, dir: &Path, images: &[Vec<String>]) -> Vec<bool> {
    let named: Vec<(String, Vec<Vec<u8>>)> = images
        .iter()
        .enumerate()
        .map(|(number, layers)| {
            // The lowest layer is no overlay, so whiteouts in it are something else for containerd.
            let layers = iter::once("f:k").chain(layers.iter().map(String::as_str));
            let name = dir.file_name().expect("a name").to_str().expect("UTF-8");
            (format!("{name}-{number}"), layers.map(|words| layer("", words)).collect())
        })
        .collect();
    layout(dir, &named);
    containerd.import(dir);
    let half = named.len().div_ceil(2);
    let trees: Vec<Result<Tree, String>> = std::thread::scope(|scope| {
        let halves: Vec<_> = named
            .chunks(half)
            .map(|images| {
                let tree = |(name, _): &(String, _)| containerd.tree(&format!("model:{name}"));
                scope.spawn(move || images.iter().map(tree).collect::<Vec<_>>())
            })
            .collect();
        halves.into_iter().flat_map(|half| half.join().expect("no panic")).collect()
    });
    let mut unpacked = Vec::new();
    for ((words, (_, layers)), theirs) in images.iter().zip(&named).zip(trees) {
        unpacked.push(theirs.is_ok());
        let image = store.image_of_tars(layers);
        let (theirs, image) = match (theirs, image) {
            (Ok(theirs), Ok(image)) => (theirs, image),
            (Err(_), Ok(_)) => continue,
            // Hard links to directories, which one member or two cannot make.
            (Err(_), Err(Error::Layer { .. })) if words.len() > 1 => continue,
            (_, Err(error)) => panic!("{words:?}: {error}"),
        };
        let mut trees = [theirs, ours(&image)].map(comparable);
        if images[0].len() > 1 {
            // Of lower directories that are hidden, or that links lead to: see ATTRIBUTES.
            let files = trees.iter_mut().flat_map(|tree| tree.values_mut());
            files.filter(|file| file.kind == Kind::Directory).for_each(|file| file.mode = 0);
        }
        let [theirs, ours] = trees;
        let ours = without_trusted(ours);
        tree::assert_same(&format!("{words:?}"), &theirs, &ours);
    }
    unpacked
}

#[test]
fn layers_over_layers_as_runtimes_show_them() {
    let store = Store::new();
    let temp = TempDir::new_in(store.db.parent().expect("a folder")).unwrap();
    let at = |name: &str| {
        let path = temp.path().join(name);
        fs::create_dir(&path).unwrap();
        path
    };
    let containerd = Containerd::start(&at("containerd"));
    let uppers = uppers();
    let images: Vec<Vec<String>> = uppers.iter().map(|words| vec![words.clone()]).collect();
    let unpacked = alone(&containerd, &store, &at("alone"), &images);
    for (words, unpacked) in uppers.iter().zip(&unpacked) {
        assert_eq!(!unpacked, containerd_fails(words), "{words}");
    }
    let uppers: Vec<&str> = uppers
        .iter()
        .zip(unpacked)
        .filter(|(_, is)| *is)
        .map(|(words, _)| words.as_str())
        .collect();
    assert!(uppers.len() > 500, "{}", uppers.len());

    let home = Home::new();
    let engine = Engine::start(&home, &[]);
    let driver = engine.docker(&["info", "--format={{.Driver}}"]);
    assert_eq!(driver.trim(), "overlay2", "Docker has another way to merge layers");
    let [by_containerd, by_podman, by_docker, by_umoci] = &RUNTIMES;
    compare(by_containerd, &store, &uppers, |dir, name, _| {
        containerd.import(&dir.join(name));
        containerd.tree(&format!("model:{name}")).unwrap()
    });
    compare(by_podman, &store, &uppers, |dir, name, _| podman(dir, name));
    compare(by_docker, &store, &uppers, |dir, name, layers| docker(&engine, dir, name, layers));
    compare(by_umoci, &store, &uppers, |dir, name, _| umoci(dir, name));
}

/// Three layers of up to three members each, at the root.
#[test]
fn random_layers_as_containerd_shows_them() {
    let store = Store::new();
    let temp = TempDir::new_in(store.db.parent().expect("a folder")).unwrap();
    let [dir, random] = ["containerd", "random"].map(|name| temp.path().join(name));
    fs::create_dir(&dir).unwrap();
    fs::create_dir(&random).unwrap();
    let containerd = Containerd::start(&dir);
    let words = prop::collection::vec(prop::sample::select(UPPER.to_vec()), 1..=3);
    let words = words.prop_map(|words| words.join(" "));
    let strategy = prop::collection::vec(words, 3);
    let mut runner = TestRunner::default();
    let images: Vec<Vec<String>> =
        (0..IMAGES).map(|_| strategy.new_tree(&mut runner).unwrap().current()).collect();
    let unpacked = alone(&containerd, &store, &random, &images);
    let unpacked = unpacked.into_iter().filter(|is| *is).count();
    assert!(unpacked * 10 > IMAGES, "{unpacked} of {IMAGES}");
}
