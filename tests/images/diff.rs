//! `registry diff` against diff(1), and against what both unpacked trees say of their files.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use serde_json::Value;

use crate::common::REGISTRY;
use crate::common::tree::{self, File, Kind, Tree, assert_same};
use crate::fixture::{Image, ODD, SPECIAL, fixture};

/// A letter, and what differs.
type Changes = BTreeMap<Vec<u8>, (char, Vec<String>)>;

/// The answer, in the order in which it is given.
fn answered(before: &str, after: &str, paths: &[&str]) -> Vec<(Vec<u8>, char, Vec<String>)> {
    let mut command = Command::new(REGISTRY);
    command.args(["diff", "--json", "--dir"]).arg(&fixture().registry.dir);
    let output = command.args([before, after]).args(paths).output().expect("it runs");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!(complaint, "", "{before} {after}");
    assert_eq!(output.status.code(), Some(i32::from(!output.stdout.is_empty())));
    let lines = output.stdout.split(|&b| b == b'\n').filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let line: Value = serde_json::from_slice(line).expect("JSON");
            let path = line["path"].as_str().expect("a path");
            let path = match line["path_bytes"].as_str() {
                Some(bytes) => percent_encoding::percent_decode_str(bytes).collect(),
                None => path.as_bytes().to_vec(),
            };
            let letter = match line["change"].as_str() {
                Some("added") => 'A',
                Some("deleted") => 'D',
                Some("modified") => 'M',
                _ => panic!("{line}"),
            };
            assert_eq!((line["a"].is_null(), line["b"].is_null()), (letter == 'A', letter == 'D'));
            let what = line["what"].as_array().expect("an array");
            let what = what.iter().map(|what| what.as_str().expect("a word").to_owned()).collect();
            (path[1..].to_vec(), letter, what)
        })
        .collect()
}

/// All but the root, which belongs to the program that unpacked.
fn found(before: &str, after: &str) -> Changes {
    let answered = answered(before, after, &[]);
    let parts =
        |path: &[u8]| -> Vec<Vec<u8>> { path.split(|b| *b == b'/').map(<[u8]>::to_vec).collect() };
    for pair in answered.windows(2) {
        assert!(parts(&pair[0].0) < parts(&pair[1].0), "{pair:?}");
    }
    answered
        .into_iter()
        .filter(|(path, ..)| !path.is_empty())
        .map(|(path, letter, what)| (path, (letter, what)))
        .collect()
}

/// What the unpacked trees say.
fn want(before: &Tree, after: &Tree) -> Changes {
    let paths: BTreeSet<&Vec<u8>> = before.keys().chain(after.keys()).collect();
    paths
        .into_iter()
        .filter_map(|path| {
            let change = match (before.get(path), after.get(path)) {
                (None, _) => ('A', Vec::new()),
                (_, None) => ('D', Vec::new()),
                (Some(a), Some(b)) => ('M', differences(a, b)),
            };
            (change.0 != 'M' || !change.1.is_empty()).then(|| (path.clone(), change))
        })
        .collect()
}

fn differences(a: &File, b: &File) -> Vec<String> {
    let mut what = Vec::new();
    match (&a.kind, &b.kind) {
        (Kind::Regular { digest: a, .. }, Kind::Regular { digest: b, .. }) if a != b => {
            what.push("content");
        }
        (a, b) if std::mem::discriminant(a) != std::mem::discriminant(b) => what.push("type"),
        _ => {}
    }
    let is_link = matches!(a.kind, Kind::Symlink(_));
    what.extend((a.mode != b.mode && !is_link).then_some("mode"));
    what.extend(((a.uid, a.gid) != (b.uid, b.gid)).then_some("owner"));
    match (&a.kind, &b.kind) {
        (Kind::Symlink(a), Kind::Symlink(b)) if a != b => what.push("link"),
        (Kind::Character(..), Kind::Character(..)) | (Kind::Block(..), Kind::Block(..))
            if a.kind != b.kind =>
        {
            what.push("device");
        }
        _ => {}
    }
    what.extend((a.xattrs != b.xattrs).then_some("xattrs"));
    what.into_iter().map(str::to_owned).collect()
}

/// An image, and what umoci unpacked of it.
struct Unpacked {
    name: &'static str,
    root: String,
    tree: Tree,
}

/// The images of the fixture, and one on which two of them stand.
fn images() -> &'static [Unpacked] {
    static IMAGES: LazyLock<Vec<Unpacked>> = LazyLock::new(|| {
        let fixture = fixture();
        let of = |image: &Image| Unpacked {
            name: image.name,
            root: image.root.clone(),
            tree: image.unpacked.clone(),
        };
        let mut images: Vec<Unpacked> = fixture.images.iter().map(of).collect();
        let (home, name) = (&fixture.home, "edited:1");
        let layout = format!("{}:1", home.path("edited-layout"));
        let from = format!("docker://{}/{name}", fixture.registry.host());
        home.copy(&from, &format!("oci:{layout}"), &[]);
        let bundle = home.path("edited-bundle");
        home.run("umoci", &["unpack", "--image", &layout, &bundle]);
        let root = format!("{bundle}/rootfs");
        images.push(Unpacked { name, tree: tree::read(Path::new(&root)), root });
        images
    });
    &IMAGES
}

/// Every two images, in both directions.
fn pairs() -> impl Iterator<Item = (&'static Unpacked, &'static Unpacked)> {
    images().iter().flat_map(|before| images().iter().map(move |after| (before, after)))
}

#[test]
fn as_unpacked() {
    let mut seen = BTreeSet::new();
    for (before, after) in pairs() {
        let changes = found(before.name, after.name);
        let what = format!("{} {}", before.name, after.name);
        assert_same(&what, &changes, &want(&before.tree, &after.tree));
        assert_eq!(changes.is_empty(), before.name == after.name, "{what}");
        seen.extend(changes.into_values().flat_map(|(_, what)| what));
    }
    for what in ["content", "type", "mode", "owner"] {
        assert!(seen.contains(what), "no pair of images differs in {what}");
    }
}

/// The parts that are asked for are those of the whole.
#[test]
fn parts() {
    let whole = answered(SPECIAL, "debian:1", &[]);
    for paths in [vec!["etc"], vec!["/usr/", "/edit"], vec!["umoci", "usr/bin", "usr", "links"]] {
        let is_below = |path: &[u8]| {
            paths.iter().any(|asked| {
                let rest = path.strip_prefix(asked.trim_matches('/').as_bytes());
                rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
            })
        };
        let want: Vec<_> = whole.iter().filter(|(path, ..)| is_below(path)).cloned().collect();
        assert!(!want.is_empty(), "{paths:?}");
        assert_eq!(answered(SPECIAL, "debian:1", &paths), want);
    }
}

/// `diff -rq` names what is only on one side, and what differs in content, target or type.
#[test]
fn as_diff_says() {
    for (before, after) in pairs() {
        let mut command = Command::new("diff");
        command.args(["-rq", "--no-dereference", &before.root, &after.root]).env("LC_ALL", "C");
        let output = command.output().expect("diff, of every Debian");
        assert!(output.status.code() < Some(2), "{}", String::from_utf8_lossy(&output.stderr));
        let changes = found(before.name, after.name);
        let mut want: Vec<Vec<u8>> = lines(&output.stdout);
        // It never finds that two fifos or devices are the same.
        want.retain(|line| {
            !["fifo", "character special file", "block special file"].iter().any(|kind| {
                let both = format!(" is a {kind} while file ").into_bytes();
                line.windows(both.len()).any(|part| part == both)
                    && line.ends_with(format!(" is a {kind}").as_bytes())
            })
        });
        want.sort();
        let mut said = Vec::new();
        for (path, (letter, what)) in &changes {
            if let Some(line) = as_diff(path, *letter, what, before, after, &changes) {
                said.extend(lines(&line));
            }
        }
        said.sort();
        let count = |lines: Vec<Vec<u8>>| {
            let mut counts: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
            lines.into_iter().for_each(|line| *counts.entry(line).or_default() += 1);
            counts
        };
        let what = format!("{} {}", before.name, after.name);
        assert_same(&what, &count(said), &count(want));
    }
}

/// Names with line ends make several.
fn lines(text: &[u8]) -> Vec<Vec<u8>> {
    let lines = text.split(|&b| b == b'\n').filter(|line| !line.is_empty());
    lines.map(<[u8]>::to_vec).collect()
}

fn as_diff(
    path: &[u8],
    letter: char,
    what: &[String],
    before: &Unpacked,
    after: &Unpacked,
    changes: &Changes,
) -> Option<Vec<u8>> {
    let at = |image: &Unpacked| {
        let path = Path::new(&image.root).join(OsStr::from_bytes(path));
        path.as_os_str().as_bytes().to_vec()
    };
    let [a, b] = [at(before), at(after)];
    if letter != 'M' {
        let side = if letter == 'A' { &b } else { &a };
        let split = side.iter().rposition(|&byte| byte == b'/')?;
        let parent = path.iter().rposition(|&byte| byte == b'/').map(|slash| &path[..slash]);
        // It says nothing more below what it has named.
        let is_named = |(letter, what): &(char, Vec<String>)| {
            *letter != 'M' || what.iter().any(|what| what == "type")
        };
        if parent.and_then(|parent| changes.get(parent)).is_some_and(is_named) {
            return None;
        }
        return Some([b"Only in ", &side[..split], b": ", &side[split + 1..], b"\n"].concat());
    }
    let has = |name: &str| what.iter().any(|what| what == name);
    let kind = |image: &Unpacked| match &image.tree[path].kind {
        Kind::Regular { size: 0, .. } => "regular empty file",
        Kind::Regular { .. } => "regular file",
        Kind::Directory => "directory",
        Kind::Symlink(_) => "symbolic link",
        Kind::Character(..) => "character special file",
        Kind::Block(..) => "block special file",
        Kind::Fifo => "fifo",
    };
    if has("type") {
        let [first, second] = [kind(before), kind(after)];
        let parts: [&[u8]; 8] = [
            b"File ",
            &a,
            b" is a ",
            first.as_bytes(),
            b" while file ",
            &b,
            b" is a ",
            second.as_bytes(),
        ];
        return Some(parts.concat());
    }
    if has("link") {
        return Some([b"Symbolic links ", &a[..], b" and ", &b, b" differ"].concat());
    }
    has("content").then(|| [b"Files ", &a[..], b" and ", &b, b" differ"].concat())
}

/// The other platform is no other image here, and the digest of the same image names it too.
#[test]
fn by_digest() {
    let manifest = crate::fixture::manifest(&fixture().registry, ODD);
    let config = manifest["config"]["digest"].as_str().expect("a digest");
    assert_eq!(answered(ODD, config, &[]), []);
}
