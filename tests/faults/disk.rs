//! Disks that are full, have no inode left, or may not be written: a clear
//! answer, nothing visible, nothing in the way, and reads go on. The tests
//! mount small file systems, so they run as root.

use std::borrow::Borrow;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use registry::oci::{Algorithm, Digest};
use serde_json::Value;
use tempfile::TempDir;

use crate::common::{
    OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, REGISTRY, Registry, Reply, descriptor, eventually,
    image_manifest, need, noise, run,
};
use crate::probe::{assert_sound, files, outcome};

/// The size of a full disk, an upload that cannot fit, and one that fits only
/// if nothing of the other was left.
const DISK: u64 = 32 << 20;
const TOO_LARGE: usize = 40 << 20;
const FITS: usize = 20 << 20;

/// A mounted file system. Dropped, it is unmounted.
pub struct Mount {
    folder: TempDir,
    /// Where its content lies, if in a file or another folder.
    _backing: Option<TempDir>,
}

impl Mount {
    fn new(what: &Path, options: &[&str], backing: Option<TempDir>) -> Mount {
        need("mount", "mount");
        let folder = TempDir::new().expect("a temporary folder");
        let mut mount = Command::new("mount");
        run(mount.args(options).arg(what).arg(folder.path()));
        Mount { folder, _backing: backing }
    }

    fn tmpfs(options: &str) -> Mount {
        let options = format!("{options},mode=755");
        Mount::new(Path::new("tmpfs"), &["-t", "tmpfs", "-o", &options], None)
    }

    pub fn ext4() -> Mount {
        need("mkfs.ext4", "e2fsprogs");
        let backing = TempDir::new().expect("a temporary folder");
        let image = backing.path().join("image");
        let file = File::create_new(&image).expect("the image of a disk");
        file.set_len(DISK).expect("a sparse file");
        // No blocks kept back for root.
        run(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&image));
        Mount::new(&image, &["-o", "loop"], Some(backing))
    }

    /// A folder of its own, seen through a mount that can become read-only.
    fn bind() -> Mount {
        let backing = TempDir::new().expect("a temporary folder");
        let of = backing.path().to_owned();
        Mount::new(&of, &["--bind"], Some(backing))
    }

    /// `ro` or `rw`.
    fn remount(&self, mode: &str) {
        let options = format!("remount,bind,{mode}");
        run(Command::new("mount").args(["-o", &options]).arg(self.path()));
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    fn text(&self) -> &str {
        self.path().to_str().expect("UTF-8")
    }

    fn store(&self) -> PathBuf {
        self.path().join("docker/registry/v2")
    }

    /// Takes all the space there is, until the result is dropped.
    pub fn fill(&self) -> Filler {
        let mut file = self.unnamed().expect("an inode");
        for size in [64 << 10, 1 << 10, 1] {
            let zeros = vec![0; size];
            while has_room(file.write_all(&zeros)) {}
        }
        // On ext4, what was written is promised space only when synced.
        file.sync_all().expect("space was there");
        vec![file]
    }

    /// Takes all the inodes there are, until the result is dropped.
    fn fill_inodes(&self) -> Filler {
        let mut files = Vec::new();
        loop {
            let file = self.unnamed();
            if !has_room(file.as_ref()) {
                return files;
            }
            files.extend(file);
        }
    }

    fn unnamed(&self) -> io::Result<File> {
        tempfile::tempfile_in(self.path())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: after a failed test a server may still be there.
        run(Command::new("umount").arg("-l").arg(self.path()));
    }
}

fn has_room<T, E: Borrow<io::Error>>(result: Result<T, E>) -> bool {
    match result {
        Ok(_) => true,
        Err(e) if e.borrow().kind() == ErrorKind::StorageFull => false,
        Err(e) => panic!("{}", e.borrow()),
    }
}

/// Files without a name, which take up room until they are dropped.
pub type Filler = Vec<File>;

/// A registry whose blobs lie there, and whatever else elsewhere.
fn registry_on(mount: &Mount) -> Registry {
    Registry::start(&["--layers", mount.text()])
}

fn assert_full(what: &str, reply: &Reply) {
    assert_eq!(reply.status, 507, "{what}: {}", reply.text());
    assert_eq!(reply.code(), "UNKNOWN", "{what}");
    let message = reply.json()["errors"][0]["message"].to_string();
    assert!(message.contains("disk is full"), "{what}: {message}");
}

/// A way to push a blob; gives the answer that ends it.
type Push = fn(&Registry, &[u8], &Digest) -> Reply;

const CHUNKED: (&str, &str) = ("Transfer-Encoding", "chunked");

const PUSHES: [(&str, Push); 5] = [
    ("POST of all", |registry, bytes, digest| {
        let path = format!("/v2/a/blobs/uploads/?digest={digest}");
        registry.send("POST", &path, &[], bytes)
    }),
    ("PATCH of all, streamed", |registry, bytes, _| {
        registry.send("PATCH", &registry.start_upload("a"), &[CHUNKED], bytes)
    }),
    ("PATCH of a second chunk", |registry, bytes, _| {
        let (location, rest) = first_chunk(registry, bytes);
        let range = format!("{}-{}", bytes.len() - rest.len(), bytes.len() - 1);
        registry.send("PATCH", &location, &[("Content-Range", &range)], rest)
    }),
    ("PUT of all", |registry, bytes, digest| {
        let location = registry.start_upload("a");
        registry.send("PUT", &format!("{location}?digest={digest}"), &[], bytes)
    }),
    ("PUT of the last chunk", |registry, bytes, digest| {
        let (location, rest) = first_chunk(registry, bytes);
        let path = format!("{location}?digest={digest}");
        registry.send("PUT", &path, &[CHUNKED], rest)
    }),
];

fn first_chunk<'a>(registry: &Registry, bytes: &'a [u8]) -> (String, &'a [u8]) {
    let (first, rest) = bytes.split_at(bytes.len() / 4);
    let location = registry.start_upload("a");
    let reply = registry.send("PATCH", &location, &[], first);
    assert_eq!(reply.status, 202, "{}", reply.text());
    (location, rest)
}

#[test]
fn uploads_that_do_not_fit_on_tmpfs() {
    uploads_that_do_not_fit(|| Mount::tmpfs(&format!("size={DISK}")));
}

#[test]
fn uploads_that_do_not_fit_on_ext4() {
    uploads_that_do_not_fit(Mount::ext4);
}

fn uploads_that_do_not_fit(disk: fn() -> Mount) {
    let content = noise(1, TOO_LARGE);
    let digest = Algorithm::Sha256.digest(&content);
    for (what, push) in PUSHES {
        let mount = disk();
        let registry = registry_on(&mount);
        assert_full(what, &push(&registry, &content, &digest));
        let reply = registry.get(&format!("/v2/a/blobs/{digest}"));
        assert_eq!((reply.status, reply.code()), (404, "BLOB_UNKNOWN".into()));
        assert_eq!(files(&mount.store()), <[PathBuf; 0]>::default(), "{what}");

        let smaller = &content[..FITS];
        let digest = registry.push_blob("a", smaller);
        let reply = registry.get(&format!("/v2/a/blobs/{digest}"));
        assert!(reply.status == 200 && reply.body == smaller, "{what}");
        assert_sound(&registry);
    }
}

/// A registry that holds an image, and the parts of another.
struct Stocked {
    registry: Registry,
    image: Digest,
    layer: Digest,
    next: String,
}

const LAYER: &[u8] = b"layer";

fn stock(registry: Registry) -> Stocked {
    let image = registry.push_image("a", "v1", std::str::from_utf8(LAYER).expect("ASCII"));
    let layer = Algorithm::Sha256.digest(LAYER);
    let part = |media_type| descriptor(media_type, &layer, LAYER.len());
    Stocked { registry, image, layer, next: image_manifest(&part(OCI_CONFIG), &[part(OCI_LAYER)]) }
}

impl Stocked {
    fn push_next(&self) -> Reply {
        let next = self.next.as_bytes();
        self.registry.push_manifest("a", "v2", OCI_MANIFEST, next)
    }

    /// The image is served, and nothing but it.
    fn assert_as_before(&self) {
        let registry = &self.registry;
        for (path, want) in [
            (format!("/v2/a/blobs/{}", self.layer), LAYER),
            ("/v2/a/tags/list".into(), br#"{"name":"a","tags":["v1"]}"#),
            ("/v2/_catalog".into(), br#"{"repositories":["a"]}"#),
        ] {
            let reply = registry.get(&path);
            assert_eq!((reply.status, reply.text().as_bytes()), (200, want), "{path}");
        }
        for reference in ["v1", &self.image.to_string()] {
            let reply = registry.get(&format!("/v2/a/manifests/{reference}"));
            assert_eq!(reply.status, 200, "{reference}");
            assert_eq!(Algorithm::Sha256.digest(&reply.body), self.image);
        }
        let next = Algorithm::Sha256.digest(self.next.as_bytes());
        for reference in ["v2", &next.to_string()] {
            let reply = registry.get(&format!("/v2/a/manifests/{reference}"));
            assert_eq!(reply.status, 404, "{reference}");
        }
    }
}

/// Without space, or without inodes.
#[test]
fn full() {
    let inodes = || Mount::tmpfs("size=8m,nr_inodes=200");
    type Case = (&'static str, fn() -> Mount, fn(&Mount) -> Filler);
    let cases: [Case; 3] = [
        ("tmpfs", || Mount::tmpfs("size=8m"), Mount::fill),
        ("ext4", Mount::ext4, Mount::fill),
        ("inodes", inodes, Mount::fill_inodes),
    ];
    for (disk, mount, fill) in cases {
        let mount = mount();
        let stocked = stock(registry_on(&mount));
        let registry = &stocked.registry;
        let filler = fill(&mount);
        let before = files(&mount.store());

        assert_full(disk, &stocked.push_next());
        let content = noise(2, 1 << 20);
        let digest = Algorithm::Sha256.digest(&content);
        let path = format!("/v2/b/blobs/uploads/?digest={digest}");
        assert_full(disk, &registry.send("POST", &path, &[], &content));
        stocked.assert_as_before();
        assert_eq!(files(&mount.store()), before, "{disk}: nothing is left");

        drop(filler);
        // On ext4 the space comes back with the journal's next commit.
        eventually("pushes work again", || stocked.push_next().status == 201);
        assert_eq!(registry.push_blob("b", &content), digest, "{disk}");

        // Deleting makes room, so it must not need any.
        let filler = fill(&mount);
        for reference in ["v2", &stocked.image.to_string()] {
            let reply = registry.delete(&format!("/v2/a/manifests/{reference}"));
            assert_eq!(reply.status, 202, "{disk}: {}", reply.text());
        }
        let tags = registry.get("/v2/a/tags/list").json();
        assert_eq!(tags["tags"], serde_json::json!([]), "{disk}");
        drop(filler);
        assert_sound(registry);
    }
}

/// A push needs several inodes, for its upload, its link, its blob and the
/// folders of each, which stay: whichever is the first one missing, nothing is visible and
/// no file is left.
#[test]
fn every_inode_missing_in_turn() {
    const ENOUGH: usize = 40;
    let mount = Mount::tmpfs("size=8m,nr_inodes=1000");
    let registry = registry_on(&mount);
    let mut refused = 0;
    loop {
        // A repository and a blob of their own, so that no folder is there yet.
        let name = format!("r{refused}");
        let content = noise(refused as u64, 100);
        let digest = Algorithm::Sha256.digest(&content);
        let before = files(&mount.store());
        let mut filler = mount.fill_inodes();
        assert!(filler.len() > refused, "the disk is too small");
        filler.truncate(filler.len() - refused);
        let path = format!("/v2/{name}/blobs/uploads/?digest={digest}");
        let reply = registry.send("POST", &path, &[], &content);
        let blob = registry.get(&format!("/v2/{name}/blobs/{digest}"));
        if reply.status == 201 {
            assert!(blob.status == 200 && blob.body == content);
            break;
        }
        let what = format!("{refused} inodes");
        assert_full(&what, &reply);
        assert_eq!(blob.status, 404, "{what}");
        assert_eq!(files(&mount.store()), before, "{what}");
        refused += 1;
        assert!(refused < ENOUGH, "a push needs no more");
    }
    // The upload's, the link's and the blob's own files at the least.
    assert!(refused > 3, "{refused}");
    assert_sound(&registry);
}

#[test]
fn collection_on_tmpfs() {
    collects(|| Mount::tmpfs(&format!("size={DISK}")));
}

#[test]
fn collection_on_ext4() {
    collects(Mount::ext4);
}

/// Garbage is collected where store and index have no free byte, by the server and without one.
fn collects(disk: fn() -> Mount) {
    const GARBAGE: usize = 2 << 20;
    const REPOSITORIES: usize = 40;
    let mount = disk();
    let options = ["--gc-interval", "0"];
    let mut registry = Registry::start_in(mount.path(), &options);
    let kept = registry.push_image("kept", "1", "kept");
    for round in 0..2_u64 {
        let name = |number| format!("garbage/{round}-{number}");
        for number in 0..REPOSITORIES {
            registry.push_image(&name(number), "1", &format!("{round} {number}"));
        }
        registry.push_blob(&name(0), &noise(round, GARBAGE));
        for number in 0..REPOSITORIES {
            let path = format!("/v2/{}/manifests/1", name(number));
            let digest = registry.head(&path).header("docker-content-digest").map(str::to_owned);
            let path = format!("/v2/{}/manifests/{}", name(number), digest.expect("a digest"));
            assert_eq!(registry.delete(&path).status, 202);
        }
        if round == 1 {
            registry.stop();
        }
        let filler = mount.fill();
        let mut gc = Command::new(REGISTRY);
        gc.args(["gc", "--json", "--grace", "0", "--dir"]).arg(mount.path());
        let said = String::from_utf8(run(&mut gc).stdout).expect("UTF-8");
        let end: Value = serde_json::from_str(said.lines().last().expect("an end")).expect("JSON");
        let bytes = end["end"]["bytes"].as_u64().expect("a number");
        assert!(bytes > GARBAGE as u64, "round {round}: {said}");
        // Without a server the index could not even be opened.
        assert!(round == 0 || end["end"]["index_behind"] == true, "{said}");
        let free = nix::sys::statvfs::statvfs(mount.path()).expect("a file system");
        let free = free.blocks_available() * free.fragment_size();
        assert!(free > GARBAGE as u64 / 2, "round {round}: {free}");
        drop(filler);
        if round == 1 {
            registry.start_again(&options);
        }
        // What the index has left goes with the next run.
        run(&mut gc);
        let manifest = registry.get("/v2/kept/manifests/1");
        assert_eq!(manifest.header("docker-content-digest"), Some(&*kept.to_string()));
        eventually("nothing else is counted", || {
            let mut usage = Command::new(REGISTRY);
            usage.args(["usage", "--json", "--dir"]).arg(mount.path());
            let said = String::from_utf8(run(&mut usage).stdout).expect("UTF-8");
            said.contains("\"repositories\":1,") && said.contains("\"unreferenced\":0,")
        });
        let catalog = registry.get("/v2/_catalog").json();
        assert_eq!(catalog["repositories"], serde_json::json!(["kept"]));
    }
    assert_sound(&registry);
}

/// The index needs space too: for the name of a new repository.
#[test]
fn index_on_a_full_disk() {
    /// What the database needs to start, and less than it asks for ahead.
    const LEFT: u64 = 1 << 20;
    /// More than fit into what is left of a page.
    const NAMES: usize = 100;
    let mount = Mount::tmpfs(&format!("size={DISK}"));
    let filler = mount.fill();
    filler[0].set_len(DISK - LEFT).expect("a shorter file");
    let layers = TempDir::new().expect("a temporary folder");
    let arguments = ["--layers", layers.path().to_str().expect("UTF-8")];
    let stocked = stock(Registry::start_in(mount.path(), &arguments));
    let registry = &stocked.registry;
    let name = |i| format!("{}/{i}", "x".repeat(200));
    for i in 0..NAMES {
        registry.push_blob(&name(i), LAYER);
    }
    let push = |i| {
        let next = stocked.next.as_bytes();
        registry.push_manifest(&name(i), "v2", OCI_MANIFEST, next)
    };
    let rest = mount.fill();
    let mut pushed = 0;
    let refused = loop {
        let reply = push(pushed);
        if reply.status != 201 {
            break reply;
        }
        pushed += 1;
        assert!(pushed < NAMES, "the index needs no space");
    };
    assert_full("a new repository", &refused);
    // A second time: the database may have stopped working at the first.
    assert_full("a new repository again", &push(pushed));
    assert_eq!(stocked.push_next().status, 201, "a known one needs no space");
    let catalog = || registry.get("/v2/_catalog").json()["repositories"].clone();
    assert_eq!(catalog().as_array().map(Vec::len), Some(pushed + 1));
    drop((filler, rest));
    eventually("pushes work again once there is space", || push(pushed).status == 201);
    assert_eq!(catalog().as_array().map(Vec::len), Some(pushed + 2));
    assert_sound(registry);
}

#[test]
fn starts_that_fail() {
    let full = Mount::tmpfs("size=1m");
    let _filler = full.fill();
    let read_only = Mount::bind();
    read_only.remount("ro");
    let elsewhere = TempDir::new().expect("a temporary folder");
    for (dir, arguments, names) in [
        (full.path(), &[][..], full.text()),
        (read_only.path(), &[], read_only.text()),
        (elsewhere.path(), &["--layers", read_only.text()], read_only.text()),
        // Without a store there is nothing to read.
        (elsewhere.path(), &["--read-only", "--layers", read_only.text()], read_only.text()),
    ] {
        let (code, stdout, stderr) = outcome(Registry::command(dir, arguments));
        assert_eq!((code, stdout.as_str()), (1, ""), "{arguments:?}: {stderr}");
        assert!(stderr.contains(names), "{names} in {stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
}

/// A store on a read-only file system is served when nothing else is asked of
/// it; one that becomes read-only refuses to write, and recovers.
#[test]
fn read_only_file_system() {
    let mount = Mount::bind();
    let mut stocked = stock(registry_on(&mount));
    mount.remount("ro");
    let registry = &stocked.registry;
    let upload = registry.send("PATCH", &registry.start_upload("a"), &[], b"x");
    let delete = registry.delete("/v2/a/manifests/v1");
    for reply in [stocked.push_next(), upload, delete] {
        assert_eq!((reply.status, reply.code()), (500, "UNKNOWN".into()));
        // The operator reads more under the id that the client is told.
        let id = reply.header("x-request-id").expect("an id");
        assert!(reply.text().contains(id), "{}", reply.text());
        assert!(!reply.text().contains(mount.text()), "{}", reply.text());
        let line = format!("request failed id={id}");
        eventually("the log says why", || {
            let log = registry.log();
            let mut lines = log.lines().filter(|l| l.contains(&line));
            lines.any(|l| l.contains(mount.text()) && l.contains("Read-only file system"))
        });
    }
    stocked.assert_as_before();
    assert_sound(registry);

    mount.remount("rw");
    assert_eq!(stocked.push_next().status, 201);
    assert_eq!(registry.delete("/v2/a/manifests/v2").status, 202);
    let next = Algorithm::Sha256.digest(stocked.next.as_bytes());
    let path = format!("/v2/a/manifests/{next}");
    assert_eq!(registry.delete(&path).status, 202);
    assert!(stocked.registry.stop().success());

    mount.remount("ro");
    stocked.registry = Registry::start(&["--read-only", "--layers", mount.text()]);
    stocked.assert_as_before();
    let reply = stocked.push_next();
    assert_eq!((reply.status, reply.code()), (405, "UNSUPPORTED".into()));
    assert_sound(&stocked.registry);
}
