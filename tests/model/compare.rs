//! Everything that an image shows, against the model.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::Arc;

use registry::image::{Error, Image, Node, Walk, write_tar};
use registry::index;
use registry::index::records::Kind;

use super::model::{self, Found, Member, Thing, Tree, What, content, key};
use super::store::Store;

pub fn compare(store: &Store, layers: &[Vec<Member>]) {
    let image = store.image(layers);
    let tree = match (model::image(layers), &image) {
        (Ok(tree), Ok(_)) => tree,
        (Err(model::Refused), Err(Error::Layer { cause: index::Error::Refused { .. }, .. })) => {
            return;
        }
        (want, found) => panic!("want {want:?}, found {found:?}"),
    };
    let image = image.expect("matched above");
    assert!(image.warnings.is_empty(), "{:?}", image.warnings);

    let nodes = walk(&image);
    listing(&image, &nodes, &tree);
    lookups(&image, layers, &tree);
    pages(&image, &nodes);
    archive(store, &image, &tree);
}

fn walk(image: &Arc<Image>) -> Vec<Node> {
    let root = image.root().clone();
    Walk::new(&**image, root).collect::<Result<_, _>>().unwrap()
}

fn text(path: &[u8]) -> &str {
    std::str::from_utf8(path).expect("the alphabet is ASCII")
}

/// How many names a thing has; directories have one.
fn links(tree: &Tree, thing: &Thing) -> usize {
    match thing.what {
        What::Directory(_) => 1,
        _ => tree.values().filter(|t| t.inode == thing.inode).count(),
    }
}

fn same(image: &Arc<Image>, node: &Node, thing: &Thing) {
    let entry = &node.entry;
    match &thing.what {
        What::File(seed) => {
            let want = content(*seed);
            assert_eq!((entry.kind, entry.size), (Kind::Regular, want.len() as u64));
            let mut found = Vec::new();
            image.open(node).unwrap().read_to_end(&mut found).unwrap();
            assert!(found == want, "content of {}", text(&node.path));
            let (mut part, from) = ([0; 100], want.len() / 2);
            let read = image.read(node, from as u64, &mut part).unwrap();
            assert_eq!(part[..read], want[from..][..read]);
            assert_eq!(read, 100.min(want.len() - from));
            assert_eq!(image.read(node, want.len() as u64 + 1, &mut part).unwrap(), 0);
        }
        What::Directory(mode) => {
            let want = mode.map_or(0o755, |bits| 0o700 | u16::from(bits));
            assert_eq!((entry.kind, entry.mode), (Kind::Directory, want));
            assert!(matches!(image.read(node, 0, &mut []), Err(Error::IsDirectory(_))));
        }
        What::Symlink(target) => {
            assert_eq!(text(image.readlink(node).unwrap()), target);
            assert!(matches!(image.read(node, 0, &mut []), Err(Error::NotAFile(_))));
        }
    }
}

fn listing(image: &Arc<Image>, nodes: &[Node], tree: &Tree) {
    let found: Vec<&str> = nodes.iter().map(|node| text(&node.path)).collect();
    let root = [model::key("")];
    let want: Vec<String> =
        tree.keys().filter(|path| !root.contains(path)).map(|path| path.join("/")).collect();
    assert_eq!(found, want);
    same(image, image.root(), &tree[&root[0]]);
    let mut groups = BTreeMap::new();
    for node in nodes {
        let thing = &tree[&key(text(&node.path))];
        same(image, node, thing);
        let count = image.links(node).unwrap() as usize;
        assert_eq!(count, links(tree, thing), "links of {}", text(&node.path));
        if !node.is_directory() {
            let identity = format!("{:?}", image.identity(node).unwrap());
            let inode: &mut BTreeSet<_> = groups.entry(identity).or_default();
            inode.insert(thing.inode);
        }
    }
    let inodes: BTreeSet<_> = groups.values().flatten().collect();
    assert!(groups.values().all(|inodes| inodes.len() == 1), "{groups:?}");
    assert_eq!(groups.len(), inodes.len(), "{groups:?}");
}

/// Every path that any layer names, as it spells it, and some that none does.
fn lookups(image: &Arc<Image>, layers: &[Vec<Member>], tree: &Tree) {
    let mut paths = BTreeSet::from(
        ["", "/", "a/..", "a/b/../-", "no", "a/no", "../..", "a/."].map(str::to_owned),
    );
    for member in layers.iter().flatten() {
        let path = member.path();
        paths.insert(path.to_owned());
        paths.insert(path.replace(".wh.", ""));
        if let Member::Symlink(_, target) | Member::Link(_, target) = member {
            paths.insert(target.clone());
            paths.insert(format!("{path}/../{target}/"));
        }
    }
    for path in paths {
        for last in [false, true] {
            let found = match image.node(path.as_bytes(), last) {
                Ok(node) => {
                    same(image, &node, &tree[&key(text(&node.path))]);
                    Found::At(key(text(&node.path)))
                }
                Err(Error::NotFound(_)) => Found::Missing,
                Err(Error::NotADirectory(_)) => Found::NotADirectory,
                Err(Error::Loop(_)) => Found::Loop,
                Err(error) => panic!("{path}: {error}"),
            };
            assert_eq!(found, model::follow(tree, &path, last), "{path} {last}");
        }
    }
}

/// Directories page by page, and walks taken up after each name.
fn pages(image: &Arc<Image>, nodes: &[Node]) {
    let directories = nodes.iter().filter(|node| node.is_directory());
    for directory in directories.chain([image.root()]) {
        let all: Vec<Vec<u8>> = nodes
            .iter()
            .filter(|node| {
                let name = node.name().len();
                let parent = &node.path[..node.path.len() - name];
                parent.strip_suffix(b"/").unwrap_or(parent) == directory.path
            })
            .map(|node| node.path.clone())
            .collect();
        for size in 1..4 {
            let (mut found, mut from) = (Vec::new(), Vec::new());
            loop {
                let page: Vec<Node> = image
                    .children(directory, &from)
                    .unwrap()
                    .take(size)
                    .collect::<Result<_, _>>()
                    .unwrap();
                let Some(last) = page.last() else { break };
                from = [last.name(), b"\0"].concat();
                found.extend(page.into_iter().map(|node| node.path));
            }
            assert_eq!(found, all, "{size} of {}", text(&directory.path));
        }
    }
    for (place, node) in nodes.iter().enumerate() {
        let root = image.root().clone();
        let rest: Vec<Vec<u8>> = Walk::after(&**image, root, &node.path)
            .unwrap()
            .map(|node| node.unwrap().path)
            .collect();
        let want: Vec<Vec<u8>> = nodes[place + 1..].iter().map(|n| n.path.clone()).collect();
        assert_eq!(rest, want, "after {}", text(&node.path));
    }
}

/// What is exported is the layer of an image that shows the same.
fn archive(store: &Store, image: &Arc<Image>, tree: &Tree) {
    let export = |image: &Arc<Image>| {
        let mut tar = Vec::new();
        write_tar(&**image, image.root(), &mut tar).unwrap();
        tar
    };
    let tar = export(image);
    let again = store.image_of_tars(std::slice::from_ref(&tar)).unwrap();
    let nodes = walk(&again);
    let found: Vec<&[u8]> = nodes.iter().map(|node| node.path.as_slice()).collect();
    let want: Vec<String> = tree.keys().skip(1).map(|path| path.join("/")).collect();
    assert_eq!(found, want.iter().map(|p| p.as_bytes()).collect::<Vec<_>>());
    for node in &nodes {
        let thing = &tree[&key(text(&node.path))];
        same(&again, node, thing);
        let count = again.links(node).unwrap() as usize;
        assert_eq!(count, links(tree, thing), "links of {}", text(&node.path));
    }
    assert!(export(&again) == tar, "an export of itself is the same");
}

/// An image in one line.
pub fn show(image: &Arc<Image>) -> String {
    let one = |node: Node| {
        let path = text(&node.path).to_owned();
        match (node.entry.kind, image.links(&node).unwrap()) {
            (Kind::Directory, _) => path + "/",
            (Kind::Symlink, _) => path + ">" + text(&node.entry.link),
            (_, 1) => path,
            (_, links) => format!("{path}={links}"),
        }
    };
    walk(image).into_iter().map(one).collect::<Vec<_>>().join(" ")
}
