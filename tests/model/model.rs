//! What an image shows, said a second time and as plainly as possible: a layer is
//! a map of what its members leave, an image is a map that layers are applied
//! to, base first. Paths are strings without slashes at their ends.

use std::collections::BTreeMap;

/// A member of a layer.
#[derive(Clone, Debug)]
pub enum Member {
    File(String, u8),
    /// The lowest bits of its mode.
    Directory(String, u8),
    Symlink(String, String),
    Link(String, String),
    Marker(String),
    /// A character device with the number 0/0, which overlayfs takes for a whiteout.
    Zero(String),
}

impl Member {
    pub fn path(&self) -> &str {
        match self {
            Member::File(path, _)
            | Member::Directory(path, _)
            | Member::Symlink(path, _)
            | Member::Link(path, _)
            | Member::Marker(path)
            | Member::Zero(path) => path,
        }
    }
}

/// A file's content: of all lengths around a tar's block.
pub fn content(seed: u8) -> Vec<u8> {
    let length = [0, 1, 511, 512, 513, 1025, 3, 4][usize::from(seed % 8)];
    (0..length).map(|i| (i % 251) as u8 ^ seed).collect()
}

/// What lies at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    File(u8),
    /// Its mode; `None` where no layer declares it.
    Directory(Option<u8>),
    Symlink(String),
}

/// Members tell inodes apart: layer and place in it.
type Inode = (usize, usize);

#[derive(Clone, Debug)]
pub struct Thing {
    pub what: What,
    pub inode: Inode,
}

/// What a layer has at a path.
#[derive(Clone, Debug)]
pub enum Row {
    Thing(Thing),
    Whiteout,
    Zero,
    /// A link to what the layer does not have.
    Foreign(String),
}

#[derive(Clone, Debug)]
pub struct Line {
    pub row: Row,
    hides: bool,
}

/// By components, so that a directory is followed by what is below it.
pub type Key = Vec<String>;
pub type Tree = BTreeMap<Key, Thing>;
pub type Layer = BTreeMap<Key, Line>;

pub fn key(path: &str) -> Key {
    let mut key = Key::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => drop(key.pop()),
            _ => key.push(name.to_owned()),
        }
    }
    key
}

fn below<T>(map: &mut BTreeMap<Key, T>, path: &[String]) {
    map.retain(|key, _| key.len() <= path.len() || !key.starts_with(path));
}

pub fn is_directory(thing: &Thing) -> bool {
    matches!(thing.what, What::Directory(_))
}

const IMPLICIT: What = What::Directory(None);
const LINKS: usize = 40;

/// Why the index refuses a layer.
#[derive(Debug)]
pub struct Refused;

/// Whose parents are looked for.
#[derive(Clone, Copy, PartialEq)]
enum ParentsOf {
    Member,
    Whiteout,
    Target,
}

/// Where a directory of a layer is, the layer's own symlinks followed. What is missing is made, but
/// not for a target. `Ok(None)`: a whiteout has no place below a file.
fn walk(layer: &mut Layer, path: &[String], parents: ParentsOf) -> Result<Option<Key>, Refused> {
    let mut left: Vec<String> = path.iter().rev().cloned().collect();
    let (mut at, mut links) = (Key::new(), 0);
    while let Some(name) = left.pop() {
        if name == ".." {
            at.pop();
            continue;
        }
        at.push(name);
        let line = layer.get(&at).cloned();
        if let Some(Row::Thing(Thing { what: What::Symlink(target), .. })) =
            line.as_ref().map(|line| &line.row)
        {
            at.pop();
            links += 1;
            if links > LINKS {
                return Err(Refused);
            }
            if target.starts_with('/') {
                at.clear();
            }
            let names = target.split('/').filter(|name| !matches!(*name, "" | "."));
            left.extend(names.rev().map(str::to_owned));
            continue;
        }
        let hides = match &line {
            _ if parents == ParentsOf::Target => continue,
            None => false,
            Some(Line { row: Row::Thing(thing), .. }) if is_directory(thing) => continue,
            Some(_) if parents == ParentsOf::Whiteout => return Ok(None),
            Some(line) => matches!(line.row, Row::Whiteout),
        };
        let row = Row::Thing(Thing { what: IMPLICIT, inode: (0, usize::MAX) });
        layer.insert(at.clone(), Line { row, hides });
    }
    Ok(Some(at))
}

/// What a layer's members leave.
pub fn layer(number: usize, members: &[Member]) -> Result<Layer, Refused> {
    let thing = |what, place| Row::Thing(Thing { what, inode: (number, place) });
    let mut layer =
        Layer::from([(Key::new(), Line { row: thing(IMPLICIT, usize::MAX), hides: false })]);
    for (place, member) in members.iter().enumerate() {
        let mut path = key(member.path());
        let Some(name) = path.pop() else {
            let Member::Directory(_, mode) = member else {
                continue;
            };
            let root = layer.get_mut(&Key::new()).expect("made first");
            root.row = thing(What::Directory(Some(*mode)), place);
            continue;
        };
        if let Some(removed) = name.strip_prefix(".wh.") {
            let aufs = path.is_empty() && removed.starts_with(".wh.") && removed != ".wh..opq";
            if !aufs
                && !matches!(removed, "" | "." | "..")
                && let Some(mut at) = walk(&mut layer, &path, ParentsOf::Whiteout)?
            {
                if removed == ".wh..opq" {
                    // Not of the root.
                    layer.get_mut(&at).expect("made").hides = !at.is_empty();
                } else {
                    at.push(removed.to_owned());
                    below(&mut layer, &at);
                    layer.insert(at, Line { row: Row::Whiteout, hides: false });
                }
            }
            continue;
        }
        if path.first().is_some_and(|first| first.starts_with(".wh..wh.")) {
            continue;
        }
        let mut at = walk(&mut layer, &path, ParentsOf::Member)?.expect("made");
        at.push(name);
        let row = match member {
            Member::File(_, seed) => thing(What::File(*seed), place),
            Member::Directory(_, mode) => thing(What::Directory(Some(*mode)), place),
            Member::Symlink(_, target) => thing(What::Symlink(target.clone()), place),
            Member::Link(_, target) => {
                let (parent, base) = target.rsplit_once('/').unwrap_or(("", target));
                let names = parent.split('/').filter(|name| !matches!(*name, "" | "."));
                let names: Vec<String> = names.map(str::to_owned).collect();
                let parent = walk(&mut layer, &names, ParentsOf::Target)?.expect("as named");
                let target = key(&format!("{}/{base}", parent.join("/")));
                if target == at {
                    continue;
                }
                match layer.get(&target).map(|line| &line.row) {
                    None | Some(Row::Whiteout) => Row::Foreign(target.join("/")),
                    Some(Row::Thing(thing)) if is_directory(thing) => return Err(Refused),
                    Some(row) => row.clone(),
                }
            }
            Member::Zero(_) => Row::Zero,
            Member::Marker(_) => unreachable!("their names begin with .wh."),
        };
        let directory = matches!(&row, Row::Thing(thing) if is_directory(thing));
        if !directory {
            below(&mut layer, &at);
        }
        let merges = |line: &Line| matches!(&line.row, Row::Thing(thing) if is_directory(thing));
        let hides = directory && layer.get(&at).is_some_and(|line| line.hides && merges(line));
        layer.insert(at, Line { row, hides });
    }
    // Links whose targets came later.
    let names: Vec<Key> = layer.keys().cloned().collect();
    for name in names {
        let Row::Foreign(target) = &layer[&name].row else {
            continue;
        };
        let row = layer.get(&key(target)).map(|line| line.row.clone());
        if let Some(row @ (Row::Thing(_) | Row::Zero)) = row
            && !matches!(&row, Row::Thing(thing) if is_directory(thing))
        {
            layer.get_mut(&name).expect("one of its names").row = row;
        }
    }
    Ok(layer)
}

/// Follows a path in a tree: what a kernel would find.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    At(Key),
    Missing,
    NotADirectory,
    Loop,
}

pub fn follow(tree: &Tree, path: &str, last: bool) -> Found {
    let mut left: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
    let (mut at, mut links) = (Key::new(), 0);
    while let Some(name) = left.pop() {
        if name.is_empty() {
            continue;
        }
        match tree.get(&at) {
            None => return Found::Missing,
            Some(thing) if !is_directory(thing) => return Found::NotADirectory,
            Some(_) => {}
        }
        if name == "." {
            continue;
        }
        if name == ".." {
            at.pop();
            continue;
        }
        at.push(name);
        match tree.get(&at).map(|thing| &thing.what) {
            None => return Found::Missing,
            Some(What::Symlink(target)) if last || left.iter().any(|name| !name.is_empty()) => {
                links += 1;
                if links > LINKS {
                    return Found::Loop;
                }
                at.pop();
                if target.starts_with('/') {
                    at.clear();
                }
                left.extend(target.split('/').rev().map(str::to_owned));
            }
            Some(_) => {}
        }
    }
    Found::At(at)
}

/// The image that layers make.
pub fn image(layers: &[Vec<Member>]) -> Result<Tree, Refused> {
    let root = Thing { what: IMPLICIT, inode: (0, usize::MAX) };
    let mut tree = Tree::from([(Key::new(), root)]);
    for (number, members) in layers.iter().enumerate() {
        let lower = tree.clone();
        for (path, line) in layer(number, members)? {
            let there = tree.get(&path).map(is_directory);
            if line.hides || matches!(line.row, Row::Whiteout | Row::Zero) {
                below(&mut tree, &path);
            }
            let thing = match line.row {
                Row::Whiteout | Row::Zero => {
                    tree.remove(&path);
                    continue;
                }
                Row::Foreign(target) => match follow(&lower, &target, false) {
                    Found::At(at) if !is_directory(&lower[&at]) => lower[&at].clone(),
                    _ => {
                        below(&mut tree, &path);
                        tree.remove(&path);
                        continue;
                    }
                },
                Row::Thing(thing) if thing.what == IMPLICIT && there == Some(true) => continue,
                Row::Thing(thing) => thing,
            };
            if !(is_directory(&thing) && there == Some(true)) {
                below(&mut tree, &path);
            }
            tree.insert(path, thing);
        }
    }
    Ok(tree)
}
