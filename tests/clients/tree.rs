//! File trees, compared.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use registry::oci::Algorithm;

/// What a file is, by its path.
pub type Tree = BTreeMap<String, String>;

/// Reads a tree: all that a layer says of a file, but for extended attributes.
/// The root itself belongs to whoever unpacked it.
pub fn read(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let metadata = fs::symlink_metadata(&path).expect("its metadata");
            let kind = metadata.file_type();
            let mut what = if kind.is_dir() {
                folders.push(path.clone());
                "folder".to_owned()
            } else if kind.is_symlink() {
                format!("link to {:?}", fs::read_link(&path).expect("a link"))
            } else if kind.is_char_device() {
                format!("device {:x}", metadata.rdev())
            } else {
                let digest = Algorithm::Sha256.digest(&fs::read(&path).expect("a file"));
                format!("file {digest}, {} names", metadata.nlink())
            };
            what.push_str(&format!(
                ", mode {:o}, owner {}:{}, time {}.{:09}",
                metadata.mode(),
                metadata.uid(),
                metadata.gid(),
                metadata.mtime(),
                metadata.mtime_nsec()
            ));
            let name = path.strip_prefix(root).expect("below the root");
            tree.insert(name.to_str().expect("a UTF-8 name").to_owned(), what);
        }
    }
    tree
}

/// For clients that set no times.
pub fn without_times(tree: Tree) -> Tree {
    let strip = |what: String| what.split(", time").next().unwrap_or_default().to_owned();
    tree.into_iter()
        .map(|(name, what)| (name, strip(what)))
        .collect()
}

/// Shows the differences alone.
pub fn assert_same(what: &str, left: &Tree, right: &Tree) {
    let names: std::collections::BTreeSet<&String> = left.keys().chain(right.keys()).collect();
    let differences: Vec<String> = names
        .into_iter()
        .filter(|name| left.get(*name) != right.get(*name))
        .map(|name| format!("{name}: {:?} or {:?}", left.get(name), right.get(name)))
        .collect();
    assert!(
        differences.is_empty(),
        "{what}:\n{}",
        differences.join("\n")
    );
}
