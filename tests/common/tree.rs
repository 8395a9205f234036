//! File trees, compared.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{CString, OsStr};
use std::fmt::Debug;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use registry::oci::Algorithm;

/// Files by their path below the root, which has no part in it.
pub type Tree = BTreeMap<Vec<u8>, File>;

/// All that a layer says of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    pub kind: Kind,
    /// With setuid, setgid and sticky.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds, and nanoseconds after them.
    pub mtime: (i64, u32),
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Where it has several names: the first of them.
    pub first_name: Option<Vec<u8>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Regular {
        size: u64,
        digest: String,
    },
    Directory,
    Symlink(Vec<u8>),
    /// Major and minor number.
    Character(u32, u32),
    Block(u32, u32),
    Fifo,
}

/// Reads a tree. The root itself belongs to whoever unpacked it.
pub fn read(root: &Path) -> Tree {
    read_all(root, |_| true)
}

/// Reads a tree on overlayfs, which lists whiteouts where it has nothing to merge, and then does not
/// find them.
pub fn read_overlay(root: &Path) -> Tree {
    read_all(root, |path| {
        let found = fs::symlink_metadata(path);
        !found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    })
}

fn read_all(root: &Path, is_there: impl Fn(&Path) -> bool) -> Tree {
    let mut tree = Tree::new();
    let mut inodes: HashMap<(u64, u64), Vec<Vec<u8>>> = HashMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if !is_there(&path) {
                continue;
            }
            let file = read_file(&path);
            let name = path.strip_prefix(root).expect("below the root");
            let name = name.as_os_str().as_bytes().to_vec();
            if file.kind == Kind::Directory {
                folders.push(path);
            } else {
                let metadata = fs::symlink_metadata(&path).expect("its metadata");
                let inode = (metadata.dev(), metadata.ino());
                inodes.entry(inode).or_default().push(name.clone());
            }
            tree.insert(name, file);
        }
    }
    for names in inodes.values().filter(|names| names.len() > 1) {
        for name in names {
            let file = tree.get_mut(name).expect("read above");
            file.first_name = names.iter().min().cloned();
        }
    }
    tree
}

fn read_file(path: &Path) -> File {
    let metadata = fs::symlink_metadata(path).expect("its metadata");
    let sort = metadata.file_type();
    let [major, minor] = [libc::major(metadata.rdev()), libc::minor(metadata.rdev())];
    let kind = if sort.is_dir() {
        Kind::Directory
    } else if sort.is_symlink() {
        let target = fs::read_link(path).expect("a link");
        Kind::Symlink(target.into_os_string().as_bytes().to_vec())
    } else if sort.is_char_device() {
        Kind::Character(major, minor)
    } else if sort.is_block_device() {
        Kind::Block(major, minor)
    } else if sort.is_fifo() {
        Kind::Fifo
    } else {
        let content = fs::read(path).expect("a file");
        Kind::Regular {
            size: metadata.len(),
            digest: Algorithm::Sha256.digest(&content).to_string(),
        }
    };
    File {
        kind,
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        mtime: (metadata.mtime(), metadata.mtime_nsec() as u32),
        xattrs: read_xattrs(path),
        first_name: None,
    }
}

fn read_xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let path = CString::new(path.as_os_str().as_bytes()).expect("no NUL in a path");
    let names = grow(|buffer| {
        // SAFETY: the path ends in NUL; the buffer is as long as is said.
        #[allow(unsafe_code)]
        unsafe {
            libc::llistxattr(path.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len())
        }
    });
    names
        .split(|byte| *byte == 0)
        // A label of the machine's, not of the layer's.
        .filter(|name| !name.is_empty() && *name != b"security.selinux")
        .map(|name| {
            let c_name = CString::new(name).expect("split at NUL");
            let value = grow(|buffer| {
                // SAFETY: as above.
                #[allow(unsafe_code)]
                unsafe {
                    let into = buffer.as_mut_ptr().cast();
                    libc::lgetxattr(path.as_ptr(), c_name.as_ptr(), into, buffer.len())
                }
            });
            (name.to_vec(), value)
        })
        .collect()
}

/// What a call writes to a buffer as large as Linux lets it be.
fn grow(call: impl FnOnce(&mut [u8]) -> libc::ssize_t) -> Vec<u8> {
    let mut buffer = vec![0; 65536];
    let length = call(&mut buffer);
    let length =
        usize::try_from(length).unwrap_or_else(|_| panic!("{}", io::Error::last_os_error()));
    buffer.truncate(length);
    buffer
}

/// For clients that set no times.
pub fn without_times(mut tree: Tree) -> Tree {
    tree.values_mut().for_each(|file| file.mtime = (0, 0));
    tree
}

/// Shows the differences alone.
#[track_caller]
pub fn assert_same<K: Ord + AsRef<[u8]>, V: PartialEq + Debug>(
    what: &str,
    left: &BTreeMap<K, V>,
    right: &BTreeMap<K, V>,
) {
    let names: std::collections::BTreeSet<&K> = left.keys().chain(right.keys()).collect();
    let differences: Vec<String> = names
        .into_iter()
        .filter(|name| left.get(*name) != right.get(*name))
        .map(|name| {
            let shown = OsStr::from_bytes(name.as_ref());
            format!("{shown:?}:\n  {:?}\n  {:?}", left.get(name), right.get(name))
        })
        .collect();
    // The first say enough where everything differs.
    let shown = &differences[..differences.len().min(40)];
    assert!(
        differences.is_empty(),
        "{what}: {} differences\n{}",
        differences.len(),
        shown.join("\n")
    );
}
