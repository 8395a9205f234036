//! Layers over layers as containerd and podman show them on overlayfs, against what we show: every
//! order of up to two members over every kind of thing below them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;

use registry::image::{Image, Walk};
use registry::index::records;
use registry::oci::Algorithm;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::common::tar::{Member, Tar};
use super::common::tree::{self, Kind, Tree};
use super::common::{OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, descriptor, eventually, need, run};
use super::store::Store;

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
/// file with blank numbers, `x:` file with empty PAX values.
const UPPER: [&str; 23] = [
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
    "p:a",
    "f:b",
    "f:a/x",
    "d:a/x",
    "z:a/x",
    "f:.wh.a",
    "d:.wh.a",
    "f:a/.wh.x",
    "f:a/.wh..wh..opq",
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
        _ => b'0',
    };
    let mut member = Member { kind, link: target.into_bytes(), ..Member::default() };
    member.mode = match kind {
        b'5' => 0o2705,
        b'2' if letter == "l" => 0o777,
        _ => 0o640,
    };
    match letter {
        "c" => member.device = (1, 3),
        "x" => {
            let records = "28 SCHILY.xattr.trusted.x=\n12 linkpath=\n8 path=\n";
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
                "layers": layers.iter().map(|layer| put(OCI_LAYER, layer)).collect::<Vec<_>>(),
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
        command.current_dir(dir.parent().expect("a folder")).env("HOME", dir);
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

    // Each at the root, over nothing that matters: what can be unpacked, and what it is. The lowest
    // layer is no overlay, so whiteouts in it are something else for containerd.
    let uppers = uppers();
    let alone: Vec<(String, Vec<Vec<u8>>)> = uppers
        .iter()
        .enumerate()
        .map(|(number, words)| {
            (format!("alone-{number}"), vec![layer("", "f:k"), layer("", words)])
        })
        .collect();
    layout(&at("alone"), &alone);
    containerd.import(&temp.path().join("alone"));
    let half = alone.len().div_ceil(2);
    let trees: Vec<Result<Tree, String>> = std::thread::scope(|scope| {
        let halves: Vec<_> = alone
            .chunks(half)
            .map(|images| {
                let tree = |(name, _): &(String, _)| containerd.tree(&format!("model:{name}"));
                scope.spawn(move || images.iter().map(tree).collect::<Vec<_>>())
            })
            .collect();
        halves.into_iter().flat_map(|half| half.join().expect("no panic")).collect()
    });
    let mut unpacked = Vec::new();
    for ((words, (_, layers)), theirs) in uppers.iter().zip(&alone).zip(trees) {
        let Ok(theirs) = theirs else {
            continue;
        };
        let image = store.image_of_tars(layers).unwrap_or_else(|e| panic!("{words}: {e}"));
        tree::assert_same(words, &comparable(theirs), &comparable(ours(&image)));
        unpacked.push(words.as_str());
    }
    assert!(unpacked.len() * 2 > uppers.len(), "{} of {}", unpacked.len(), uppers.len());

    // Over everything else, each pair in a directory of its own.
    let layers = pairs(&unpacked);
    layout(&at("pairs"), &[("pairs".to_owned(), layers.clone())]);
    containerd.import(&temp.path().join("pairs"));
    let [theirs, shown] =
        [containerd.tree("model:pairs").unwrap(), ours(&store.image_of_tars(&layers).unwrap())]
            .map(|tree| named(comparable(tree), &unpacked));
    assert!(shown.len() > 5_000, "{}", shown.len());
    tree::assert_same("containerd", &theirs, &shown);

    // podman takes no layer that has a name twice, makes no target for a symlink that a member leads
    // through, and gives directories that no member declares no attributes of lower ones.
    let through = |words: &str| words.contains("->b") && words.contains(":a/");
    // It lets a whiteout `.wh.a` also remove a directory `.wh.a`.
    let own = |words: &str| words == "f:.wh.a/x f:.wh.a";
    unpacked.retain(|words| !has_a_name_twice(words) && !through(words) && !own(words));
    let layers = pairs(&unpacked);
    layout(&at("once"), &[("once".to_owned(), layers.clone())]);
    let [theirs, shown] =
        [podman(&at("podman"), "once"), ours(&store.image_of_tars(&layers).unwrap())].map(|tree| {
            let kinds = named(tree, &unpacked).into_iter().map(|(name, file)| (name, file.kind));
            kinds.collect::<BTreeMap<String, Kind>>()
        });
    tree::assert_same("podman", &theirs, &shown);
}

fn has_a_name_twice(words: &str) -> bool {
    let names = words.split_whitespace().map(|word| {
        let (_, name) = word.split_once(':').expect("a letter");
        name.split("->").next().expect("a path").trim_end_matches('/')
    });
    let names: Vec<&str> = names.collect();
    names.iter().collect::<BTreeSet<_>>().len() < names.len()
}

/// Whether containerd gives the directory `a`, which no member declares, attributes that are not of
/// what it is merged with: of a lower directory that an opaque one hides, or that a symlink leads to.
fn borrows(under: &str, over: &str) -> bool {
    let hides = over.contains("f:.wh..wh..opq") && over.contains(":a/");
    hides || under.starts_with("l:a->b d:b")
}

/// Two layers with a directory for each of [`LOWER`] and of `uppers`.
fn pairs(uppers: &[&str]) -> Vec<Vec<u8>> {
    let (mut lower, mut upper) = (Tar::default(), Tar::default());
    for (below, under) in LOWER.iter().enumerate() {
        for (above, over) in uppers.iter().enumerate() {
            // containerd fails to make a directory two levels below a lower file.
            let below_file = ["f:a", "c:a", "f:b h:a"].iter().any(|file| under.starts_with(file));
            if below_file && over.contains("f:a/.wh..wh.p/x") {
                continue;
            }
            let directory = format!("{below}-{above}/");
            lower = add(lower, &directory, "d:.");
            lower = under.split_whitespace().fold(lower, |tar, word| add(tar, &directory, word));
            upper = over.split_whitespace().fold(upper, |tar, word| add(tar, &directory, word));
        }
    }
    vec![lower.finish(), upper.finish()]
}

/// The files of such an image, by names that say what the pair is.
fn named(tree: Tree, uppers: &[&str]) -> BTreeMap<String, tree::File> {
    let files = tree.into_iter().map(|(name, mut file)| {
        let name = String::from_utf8(name).expect("ASCII");
        let pair = name.split('/').next().expect("a directory");
        let (below, above) = pair.split_once('-').expect("two numbers");
        let number = |text: &str| text.parse::<usize>().expect("a number");
        let (under, over) = (LOWER[number(below)], uppers[number(above)]);
        if borrows(under, over) && file.kind == Kind::Directory {
            file.mode = 0;
        }
        (format!("[{under}] under [{over}]: {name}"), file)
    });
    files.collect()
}
