//! Files of every kind: the mount beside the folder that was packed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::common::mount::Mount;
use crate::common::side::{holes, walk};
use crate::common::tar::Tar;
use crate::common::{Registry, need, noise, run, tree};
use crate::support::{layer, list, push, set, xattr};

/// The program that creates the files.
const ODD_FILES: &str = include_str!("../images/odd.py");

/// A folder of odd files, and a tar of it by GNU tar.
fn odd() -> (TempDir, Vec<u8>) {
    need("python3", "python3");
    let temp = TempDir::new().unwrap();
    let root = temp.path().join("root");
    fs::create_dir(&root).unwrap();
    run(Command::new("python3").args(["-c", ODD_FILES]).arg(root.join("odd")));
    // umoci drops empty attributes, so the files that it packs elsewhere have none.
    let empty = "import os, sys; os.setxattr(sys.argv[1], 'user.empty', b'')";
    run(Command::new("python3").args(["-c", empty]).arg(root.join("odd/xattrs/file")));
    // GNU tar keeps hard links of regular files and symlinks only.
    for name in ["fifo2", "char2"] {
        fs::remove_file(root.join("odd").join(name)).unwrap();
    }
    // This one spans several parts of a layer.
    fs::write(root.join("large"), noise(7, 9_000_001)).unwrap();
    let tar = run(Command::new("tar")
        .args(["--create", "--format=posix", "--sparse", "--xattrs", "--xattrs-include=*"])
        .args(["--numeric-owner", "--sort=name", "--directory"])
        .arg(&root)
        .arg("."));
    (temp, tar.stdout)
}

#[test]
fn equal_what_was_packed() {
    let (temp, tar) = odd();
    let root = temp.path().join("root");
    let registry = Registry::start(&[]);
    push(&registry, "odd", "1", &[tar]);
    let mount = Mount::start(&registry.dir, &[]);
    let mounted = mount.path.join("odd:1");
    // This compares kinds, modes, owners, times, links, devices, attributes and contents.
    tree::assert_same("the mount", &tree::read(&mounted), &tree::read(&root));
    // The second time the kernel answers from its caches.
    tree::assert_same("the mount", &tree::read(&mounted), &tree::read(&root));

    // This compares links, sizes and holes, and about the space: ext4 needs some for itself.
    type More = (u64, u64, Vec<i64>);
    let mut space: BTreeMap<Vec<u8>, Vec<u64>> = BTreeMap::new();
    let mut more = |root: &Path| {
        let mut found: BTreeMap<Vec<u8>, More> = BTreeMap::new();
        for path in walk(root) {
            let metadata = fs::symlink_metadata(&path).unwrap();
            // Sizes of directories differ between file systems.
            if metadata.is_dir() {
                continue;
            }
            let holes = match metadata.is_file() {
                true => holes(&path),
                false => Vec::new(),
            };
            let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes();
            space.entry(name.to_vec()).or_default().push(metadata.blocks());
            found.insert(name.to_vec(), (metadata.nlink(), metadata.size(), holes));
        }
        found
    };
    tree::assert_same("the mount", &more(&mounted), &more(&root));
    for (name, blocks) in space {
        let difference = blocks[0].abs_diff(blocks[1]);
        assert!(difference <= 16, "{}: {blocks:?}", name.escape_ascii());
    }
}

#[test]
fn read_in_every_way() {
    let (temp, tar) = odd();
    let registry = Registry::start(&[]);
    push(&registry, "odd", "1", &[tar]);
    for path in ["large", "odd/sizes/3000000", "odd/sizes/sparse", "odd/sizes/1"] {
        // Nothing is decoded or kept yet.
        let mount = Mount::start(&registry.dir, &["--cache-size", "32MiB"]);
        let want = fs::read(temp.path().join("root").join(path)).unwrap();
        let file = File::open(mount.path.join("odd:1").join(path)).unwrap();
        // SAFETY: nobody can change it.
        #[allow(unsafe_code)]
        let mapped = unsafe { memmap2::Mmap::map(&file) }.unwrap();
        let last = want.len() - 1;
        for at in [last, 0, last / 2, last / 3] {
            assert_eq!(mapped[at], want[at], "{path} at {at}");
        }
        let mut piece = vec![0; 4096];
        for at in (0..want.len()).step_by(50_021).rev() {
            let length = file.read_at(&mut piece, at as u64).unwrap();
            let end = want.len().min(at + 4096);
            assert!(piece[..length] == want[at..end], "{path} from {at}");
        }
        assert!(mapped[..] == want[..], "{path} mapped");
        let mut piece = vec![0; 1 << 20];
        let (mut file, mut whole) = (file, Vec::new());
        loop {
            match file.read(&mut piece).unwrap() {
                0 => break,
                length => whole.extend_from_slice(&piece[..length]),
            }
        }
        assert!(whole == want, "{path} by 1 MiB");
    }
}

/// Reading a directory can go on at any place of it.
#[test]
fn seek_in_directories() {
    need("python3", "python3");
    let mut tar = Tar::default();
    for number in 0..3000 {
        tar = tar.file(format!("many/file-{number:04}"), b"x");
    }
    let registry = Registry::start(&[]);
    push(&registry, "many", "1", &[tar.finish()]);
    let mount = Mount::start(&registry.dir, &[]);
    let folder = mount.path.join("many:1/many");
    let script = "
import ctypes, os, sys
c = ctypes.CDLL(None, use_errno=True)
c.opendir.restype = c.readdir64.restype = ctypes.c_void_p
c.telldir.restype = ctypes.c_long
class Entry(ctypes.Structure):
    _fields_ = [('ino', ctypes.c_uint64), ('off', ctypes.c_int64), ('len', ctypes.c_uint16),
                ('type', ctypes.c_uint8), ('name', ctypes.c_char * 256)]
d = ctypes.c_void_p(c.opendir(sys.argv[1].encode()))
def next():
    entry = c.readdir64(d)
    return entry and Entry.from_address(entry).name.decode()
names, places = [], []
while True:
    places.append(c.telldir(d))
    name = next()
    if not name: break
    names.append(name)
assert len(names) == 3002 and names[:2] == ['.', '..'] and names[2:] == sorted(names[2:]), names[:9]
for at in (3001, 0, 17, 1500, 2, 1, 2999):
    c.seekdir(d, ctypes.c_long(places[at]))
    assert next() == names[at], at
c.rewinddir(d)
assert [next() for _ in names] == names and next() is None
";
    run(Command::new("python3").args(["-c", script]).arg(&folder));
    assert_eq!(list(&folder).len(), 3000);
}

#[test]
fn refused_as_by_a_file_system() {
    let tar = Tar::default()
        .directory("dir/")
        .file("dir/file", b"x")
        .symlink("loop", "loop")
        .symlink("absolute", "/dir/file");
    let registry = Registry::start(&[]);
    push(&registry, "a", "1", &[tar.finish()]);
    let mount = Mount::start(&registry.dir, &[]);
    let root = mount.path.join("a:1");
    let open = |path: &str| File::open(root.join(path)).map(drop);
    let write = |path: &str| File::options().write(true).open(root.join(path)).map(drop);
    let long = "n".repeat(256);
    for (what, result, want) in [
        ("nothing", open("nothing"), libc::ENOENT),
        ("nothing, again", open("nothing"), libc::ENOENT),
        ("below a file", open("dir/file/x"), libc::ENOTDIR),
        ("a loop", open("loop"), libc::ELOOP),
        ("a long name", open(&long), libc::ENAMETOOLONG),
        ("a directory, read", fs::read(root.join("dir")).map(drop), libc::EISDIR),
        ("writing", write("dir/file"), libc::EROFS),
        ("making", File::create(root.join("new")).map(drop), libc::EROFS),
        ("making above", fs::create_dir(mount.path.join("new")), libc::EROFS),
        ("removing", fs::remove_file(root.join("dir/file")), libc::EROFS),
        ("renaming", fs::rename(root.join("dir"), root.join("d")), libc::EROFS),
        (
            "modes",
            fs::set_permissions(root.join("dir/file"), PermissionsExt::from_mode(0o000)),
            libc::EROFS,
        ),
    ] {
        let error = result.expect_err(what);
        assert_eq!(error.raw_os_error(), Some(want), "{what}: {error}");
    }
    assert_eq!(fs::read_link(root.join("absolute")).unwrap(), Path::new("/dir/file"));
    assert_eq!(xattr(&root, "user.nothing"), Err(libc::ENODATA));
}

/// Layers over layers, and the same file in two images.
#[test]
fn merged() {
    let base = Tar::default()
        .directory("dir/")
        .file("dir/gone", b"gone")
        .file("dir/kept", b"kept")
        .file("h1", b"hard")
        .hard_link("h2", "h1")
        .hard_link("h3", "h1")
        .finish();
    let top = Tar::default()
        .file("dir/.wh.gone", b"")
        .file("dir/new", b"new")
        .file(".wh.h3", b"")
        .finish();
    let registry = Registry::start(&[]);
    push(&registry, "base", "1", std::slice::from_ref(&base));
    push(&registry, "app", "1", &[base, top]);
    let mount = Mount::start(&registry.dir, &[]);
    let (old, new) = (mount.path.join("base:1"), mount.path.join("app:1"));
    assert_eq!(list(&old.join("dir")), set(["gone", "kept"]));
    assert_eq!(list(&new.join("dir")), set(["kept", "new"]));
    let number = |path: PathBuf| fs::symlink_metadata(path).unwrap().ino();
    assert_eq!(number(old.join("dir/kept")), number(new.join("dir/kept")), "one file");
    assert_ne!(number(old.join("dir")), number(new.join("dir")), "directories differ");
    assert_eq!(number(new.join("h1")), number(new.join("h2")));
    let links = |path: PathBuf| fs::symlink_metadata(path).unwrap().nlink();
    assert_eq!(links(old.join("h1")), 3);
    assert_eq!(links(new.join("h1")), 2, "a name was taken away");
    assert_ne!(number(old.join("h1")), number(new.join("h1")), "the counts differ");
    let only = layer("x", "x");
    push(&registry, "only", "1", &[only]);
    assert_eq!(fs::read(mount.path.join("only:1/x")).unwrap(), b"x");
}
