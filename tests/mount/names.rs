//! Names above the images: repositories, tags, digests, platforms.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use registry::oci::Platform;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::mount::Mount;
use crate::common::{OCI_INDEX, OCI_MANIFEST, Registry, descriptor, eventually, need, run};
use crate::support::{errno, layer, list, peak, push, push_for, push_index, set, xattr};

#[test]
fn layout() {
    let registry = Registry::start(&[]);
    let digest = push(&registry, "team/app", "1.4.2", &[layer("a", "1")]);
    push(&registry, "team/app/tool", "x", &[layer("a", "2")]);
    push(&registry, "top", "latest", &[layer("a", "3")]);
    let host = Platform::host();
    let host = host.to_string();
    let ours = push_for(&registry, &host, "multi", "ours", &[layer("for", "us")]);
    let other = push_for(&registry, "linux/s390x", "multi", "other", &[layer("for", "them")]);
    // buildx adds an attestation to each image. It is no image, so it is not listed.
    let attestation = push_for(&registry, "unknown/unknown", "multi", "about", &[]);
    let children =
        [(host.as_str(), ours), ("linux/s390x", other), ("unknown/unknown", attestation)];
    push_index(&registry, "multi", "1", &children);

    let mount = Mount::start(&registry.dir, &[]);
    let root = &mount.path;
    assert_eq!(
        list(root),
        set([
            "multi:1",
            "multi:1@linux-s390x",
            "multi:about",
            "multi:other",
            "multi:ours",
            "team",
            "top:latest"
        ])
    );
    assert_eq!(list(&root.join("team")), set(["app", "app:1.4.2"]));
    assert_eq!(list(&root.join("team/app")), set(["tool:x"]));
    for (path, want) in [
        ("top:latest/a", "3"),
        ("team/app:1.4.2/a", "1"),
        (&format!("team/app@{digest}/a"), "1"),
        ("team/app/tool:x/a", "2"),
        ("multi:1/for", "us"),
        ("multi:1@linux-s390x/for", "them"),
        (&format!("multi@{other}/for"), "them"),
    ] {
        assert_eq!(fs::read_to_string(root.join(path)).unwrap(), want, "{path}");
    }
    for path in [
        "nothing",
        "nothing:1",
        "top",
        "top:none",
        "team/app:1.4.2@linux-s390x",
        "multi:1@linux-arm64",
        "multi:1@linux-x86_64",
        "Top:latest",
        "top:",
        "..:1",
        "_uploads",
        &format!("top@{digest}"),
    ] {
        assert!(!root.join(path).exists(), "{path}");
    }
    let image = root.join("team/app:1.4.2");
    assert_eq!(xattr(&image, "user.registry.digest"), Ok(digest.to_string()));
    assert_eq!(xattr(&image, "user.registry.reference"), Ok("team/app:1.4.2".to_owned()));
    let layer = registry::oci::Algorithm::Sha256.digest(&layer("a", "1"));
    assert_eq!(xattr(&image.join("a"), "user.registry.layer"), Ok(layer.to_string()));
    let content = registry::oci::Algorithm::Sha256.digest(b"1").hex();
    assert_eq!(xattr(&image.join("a"), "user.registry.sha256"), Ok(content));
}

/// Whatever tells the images of an index apart: variants, versions of Windows, features, or the
/// configs alone.
#[test]
fn every_image_of_an_index() {
    let registry = Registry::start(&[]);
    let push = |platform: &str, tag: &str| {
        let digest = push_for(&registry, platform, "a", tag, &[layer("for", tag)]);
        let size = registry.get(&format!("/v2/a/manifests/{digest}")).body.len();
        descriptor(OCI_MANIFEST, &digest, size)
    };
    let with = |mut child: Value, platform: Value| {
        child["platform"] = platform;
        child
    };
    let windows = |version: &str, tag: &str| {
        let platform = json!({"os": "windows", "architecture": "amd64", "os.version": version});
        with(push("windows/amd64", tag), platform)
    };
    let variant = json!({"os": "linux", "architecture": "amd64", "variant": "v3"});
    let features = json!({"os": "linux", "architecture": "amd64", "os.features": ["a-b"]});
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [
        windows("10.0.20348.1", "w1"),
        windows("10.0.20348.2", "w2"),
        with(push("linux/amd64", "v3"), variant),
        with(push("linux/amd64", "features"), features),
        push("linux/s390x", "config"),
    ]})
    .to_string();
    let reply = registry.push_manifest("a", "all", OCI_INDEX, index.as_bytes());
    assert_eq!(reply.status, 201, "{}", reply.text());
    let mount = Mount::start(&registry.dir, &["--platform", "linux/amd64"]);
    let mut names = list(&mount.path);
    names.retain(|name| name.contains('@'));
    let want = [
        ("a:all@windows-amd64-10.0.20348.1", "w1"),
        ("a:all@windows-amd64-10.0.20348.2", "w2"),
        ("a:all@linux-amd64-v3", "v3"),
        ("a:all@linux-amd64+a-b", "features"),
        ("a:all@linux-s390x", "config"),
    ];
    assert_eq!(names, set(want.map(|(name, _)| name)));
    for (name, want) in want {
        let path = mount.path.join(name).join("for");
        assert_eq!(fs::read_to_string(path).unwrap(), want, "{name}");
    }
    let why = xattr(&mount.path.join("a:all"), "user.registry.error").unwrap();
    assert!(why.contains("linux/amd64/v3"), "{why}");
}

#[test]
fn tags_come_move_and_go() {
    let registry = Registry::start(&[]);
    push(&registry, "a", "1", &[layer("x", "one")]);
    let mount = Mount::start(&registry.dir, &["--tag-ttl", "100ms"]);
    let (root, x) = (&mount.path, mount.path.join("a:1/x"));
    assert_eq!(list(root), set(["a:1"]));
    assert_eq!(fs::read_to_string(&x).unwrap(), "one");
    let open = fs::File::open(&x).unwrap();

    push(&registry, "a", "2", &[layer("x", "two")]);
    push(&registry, "b/c", "1", &[layer("x", "three")]);
    eventually("a pushed tag shows", || list(root) == set(["a:1", "a:2", "b"]));
    assert_eq!(fs::read_to_string(root.join("b/c:1/x")).unwrap(), "three");

    push(&registry, "a", "1", &[layer("x", "moved")]);
    eventually("a tag moves", || fs::read_to_string(&x).unwrap() == "moved");
    assert_eq!(std::io::read_to_string(&open).unwrap(), "one", "what is open stays");

    assert_eq!(registry.delete("/v2/a/manifests/2").status, 202);
    eventually("a deleted tag goes", || list(root) == set(["a:1", "b"]));
    eventually("by name too", || !root.join("a:2").exists());
}

/// A listing opens no image, and leaves alone those that are open.
#[test]
fn listings_are_only_names() {
    let registry = Registry::start(&[]);
    push(&registry, "a", "1", &[layer("dir/x", "x")]);
    push(&registry, "b", "1", &[b"this is no tar".to_vec()]);
    let mount = Mount::start(&registry.dir, &["--tag-ttl", "100ms"]);
    let inside = mount.path.join("a:1/dir");
    let number = fs::metadata(&inside).unwrap().ino();
    for _ in 0..3 {
        assert_eq!(list(&mount.path), set(["a:1", "b:1"]));
        let pwd =
            run(Command::new("sh").args(["-c", "ls ../.. >&2; exec pwd -P"]).current_dir(&inside));
        assert_eq!(String::from_utf8_lossy(&pwd.stdout).trim_end(), inside.to_str().unwrap());
        assert_eq!(fs::metadata(&inside).unwrap().ino(), number);
    }
    fs::metadata(mount.path.join("b:1")).unwrap();
    let why = "cannot be shown";
    assert!(!mount.log().contains(why), "names open images");
    fs::read_dir(mount.path.join("b:1")).unwrap().next().unwrap().unwrap_err();
    mount.assert_logged(why);
}

#[test]
fn what_cannot_be_shown() {
    let registry = Registry::start(&[]);
    push(&registry, "good", "1", &[layer("x", "x")]);
    let digest = push(&registry, "bad", "1", &[b"this is no tar".to_vec()]);
    let mount = Mount::start(&registry.dir, &[]);
    assert_eq!(list(&mount.path), set(["bad:1", "good:1"]));
    for name in ["bad:1", &format!("bad@{digest}")] {
        let bad = mount.path.join(name);
        assert!(fs::metadata(&bad).unwrap().is_dir());
        let error = fs::read_dir(&bad).and_then(|mut dir| dir.next().unwrap()).expect_err("no tar");
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
        let error = fs::metadata(bad.join("x")).expect_err("no tar");
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
        let why = xattr(&bad, "user.registry.error").unwrap();
        assert!(why.contains("not a tar"), "{why}");
        assert_eq!(xattr(&bad, "user.registry.digest"), Ok(digest.to_string()));
        mount.assert_logged(&why);
    }
    let good = mount.path.join("good:1");
    assert_eq!(xattr(&good, "user.registry.error"), Err(libc::ENODATA));
    assert_eq!(fs::read_to_string(good.join("x")).unwrap(), "x");
}

/// Names without the colon that other programs take for a separator.
#[test]
fn names_without_colons() {
    need("rsync", "rsync");
    let registry = Registry::start(&[]);
    let digest = push(&registry, "team/app", "v1", &[layer("x", "x")]);
    let mount = Mount::start(&registry.dir, &[]);
    let team = mount.path.join("team");
    let dash = format!("app@{}", digest.to_string().replace(':', "-"));
    let number = |name: &str| fs::metadata(team.join(name).join("x")).unwrap().ino();
    let temp = TempDir::new().unwrap();
    for name in ["app@v1", &dash] {
        assert_eq!(number(name), number("app:v1"), "{name}");
        // It takes a name with a colon for a host.
        let mut rsync = Command::new("rsync");
        rsync.args(["-a", &format!("{name}/")]).arg(temp.path().join(name)).current_dir(&team);
        run(&mut rsync);
        assert_eq!(fs::read(temp.path().join(name).join("x")).unwrap(), b"x");
    }
    assert_eq!(list(&team), set(["app:v1"]), "they are not listed");
    for name in ["app@v2", "app@sha256-12", &dash.replace('a', "b")] {
        assert!(!team.join(name).exists(), "{name}");
    }
}

#[test]
fn other_views() {
    let registry = Registry::start(&[]);
    let other = push_for(&registry, "linux/s390x", "a", "s390x", &[layer("for", "them")]);
    push_index(&registry, "a", "1", &[("linux/s390x", other)]);
    let read = |mount: &Mount, path: &str| fs::read_to_string(mount.path.join(path)).unwrap();

    let mount =
        Mount::start(&registry.dir, &["--platform", "linux/s390x", "--uid", "7", "--gid", "8"]);
    assert_eq!(read(&mount, "a:1/for"), "them");
    for path in ["", "a:1", "a:1/for"] {
        let metadata = fs::metadata(mount.path.join(path)).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (7, 8), "{path}");
    }
    let mount = Mount::start(&registry.dir, &["--image", &format!("a@{other}")]);
    assert_eq!(list(&mount.path), set(["for"]));
    assert_eq!(read(&mount, "for"), "them");
    let mount = Mount::start(&registry.dir, &["--threads", "1"]);
    assert_eq!(read(&mount, "a:1@linux-s390x/for"), "them");
    // Nothing in the index is for this machine, so its documents are shown, with the reason.
    let why = xattr(&mount.path.join("a:1"), "user.registry.error").unwrap();
    assert!(why.contains("linux/s390x"), "{why}");
    assert_eq!(
        registry.get(&format!("/v2/a/manifests/{other}")).header("content-type"),
        Some(OCI_MANIFEST)
    );
}

/// Notices which of some folders are opened.
struct Watch(OwnedFd);

impl Watch {
    fn new(folders: &[&Path]) -> Watch {
        // SAFETY: it takes flags alone.
        #[allow(unsafe_code)]
        let fd = unsafe { libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC) };
        assert!(fd >= 0, "{}", errno());
        // SAFETY: nothing else owns the descriptor.
        #[allow(unsafe_code)]
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        for folder in folders {
            let path = CString::new(folder.as_os_str().as_bytes()).unwrap();
            // SAFETY: the path ends in NUL.
            #[allow(unsafe_code)]
            let watch =
                unsafe { libc::inotify_add_watch(fd.as_raw_fd(), path.as_ptr(), libc::IN_OPEN) };
            assert!(watch >= 0, "{folder:?}: {}", errno());
        }
        Watch(fd)
    }

    fn is_open(&self) -> bool {
        let file = File::from(self.0.try_clone().unwrap());
        match (&file).read(&mut [0; 4096]) {
            Ok(length) => length > 0,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                false
            }
        }
    }
}

/// Mounting looks at no tag, however many there are.
#[test]
fn ten_thousand_tags() {
    const TAGS: usize = 10_000;
    // On a disk, creating and removing them would take half a minute.
    let folder = TempDir::new_in("/dev/shm").unwrap();
    let mut registry = Registry::start_in(folder.path(), &[]);
    push(&registry, "a", "0", &[layer("x", "x")]);
    registry.stop();
    let repository = registry.store().join("repositories/a");
    let tags = repository.join("_manifests/tags");
    let link = fs::read(tags.join("0/current/link")).unwrap();
    for tag in 1..TAGS {
        let current = tags.join(format!("{tag}/current"));
        fs::create_dir_all(&current).unwrap();
        fs::write(current.join("link"), &link).unwrap();
    }
    let [first, last] = [0, TAGS - 1].map(|tag| tags.join(format!("{tag}/current")));
    let manifests = repository.join("_manifests/revisions/sha256");
    let watch = Watch::new(&[&repository, &tags, &first, &last, &manifests]);
    let mount = Mount::start(&registry.dir, &[]);
    assert!(fs::metadata(&mount.path).unwrap().is_dir());
    assert!(!mount.path.join("b:1").exists());
    assert!(!watch.is_open(), "mounting looks at tags");
    assert_eq!(fs::read(mount.path.join(format!("a:{}/x", TAGS - 1))).unwrap(), b"x");
    assert!(watch.is_open(), "the watch notices nothing");
    let watch = Watch::new(&[&first]);
    assert_eq!(list(&mount.path).len(), TAGS);
    // A listing reads each tag, for its platforms.
    assert!(watch.is_open(), "the watch notices nothing");
    let before = peak(mount.pid());
    for _ in 0..30 {
        assert_eq!(list(&mount.path).len(), TAGS);
    }
    let after = peak(mount.pid());
    assert!(after < before + (8 << 10), "listings are kept: {before} KiB, then {after}");
}
