//! `diff` against the model: two trees compared path by path.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence};
use registry::image::Image;
use registry::query::Step;
use registry::query::diff::{After, Diff};

use super::common::tar::{self, Tar};
use super::layers;
use super::model::{self, Member, Tree, What, content};
use super::store::Store;

/// Path, letter, and the names of what differs.
type Line = (String, char, Vec<&'static str>);

fn found(before: &Arc<Image>, after: &Arc<Image>, paths: &[Vec<u8>]) -> Vec<Line> {
    lines(Diff::new(Arc::clone(before), Arc::clone(after), paths).unwrap())
}

fn lines(mut diff: Diff) -> Vec<Line> {
    let mut lines = Vec::new();
    loop {
        match diff.step().unwrap() {
            Step::Hit(change) => lines.push((
                String::from_utf8(change.path.clone()).unwrap(),
                change.letter(),
                change.aspects.iter().map(|aspect| aspect.name()).collect(),
            )),
            Step::Skipped(skipped) => panic!("{skipped:?}"),
            Step::Working => {}
            Step::End => return lines,
        }
    }
}

/// Type, mode of a directory, content and target.
fn facts(what: &What) -> (u8, u8, Vec<u8>, String) {
    match what {
        What::File(seed) => (0, 0, content(*seed), String::new()),
        What::Directory(mode) => (1, mode.unwrap_or(0o55), Vec::new(), String::new()),
        What::Symlink(target) => (2, 0, Vec::new(), target.clone()),
    }
}

fn want(before: &Tree, after: &Tree) -> Vec<Line> {
    let mut lines = BTreeMap::new();
    for key in before.keys().chain(after.keys()) {
        let line = match (before.get(key), after.get(key)) {
            (None, Some(_)) => ('A', vec![]),
            (Some(_), None) => ('D', vec![]),
            (Some(before), Some(after)) => {
                let (a, b) = (facts(&before.what), facts(&after.what));
                let mut aspects = Vec::new();
                if a.0 == b.0 {
                    aspects.extend((a.2 != b.2).then_some("content"));
                    aspects.extend((a.1 != b.1).then_some("mode"));
                    aspects.extend((a.3 != b.3).then_some("link"));
                } else {
                    aspects.push("type");
                }
                if aspects.is_empty() {
                    continue;
                }
                ('M', aspects)
            }
            (None, None) => continue,
        };
        lines.insert(key.clone(), line);
    }
    lines.into_iter().map(|(key, (letter, what))| (key.join("/"), letter, what)).collect()
}

fn compare(store: &Store, shared: &[Vec<Member>], upper: [&[Vec<Member>]; 2]) {
    let sides = upper.map(|upper| [shared, upper].concat());
    let trees = [&sides[0], &sides[1]].map(|layers| model::image(layers));
    let images = [&sides[0], &sides[1]].map(|layers| store.image(layers));
    let ([Ok(before), Ok(after)], [Ok(a), Ok(b)]) = (&trees, &images) else { return };
    let mut lines = found(a, b, &[]);
    for (path, letter, aspects) in &mut lines {
        // What else a change of the type changes is not the model's to say.
        if *letter == 'M' && aspects.contains(&"type") {
            *aspects = vec!["type"];
        }
        let _ = path;
    }
    assert_eq!(lines, want(before, after), "{sides:?}");
    assert_eq!(found(a, a, &[]), [], "an image is like itself");
    let mut turned: Vec<_> = found(b, a, &[]).into_iter().map(|(path, ..)| path).collect();
    turned.sort();
    let mut paths: Vec<_> = lines.iter().map(|(path, ..)| path.clone()).collect();
    // From the middle on.
    let goes_on = |paths: &[String], top: &str| {
        let roots = if top.is_empty() { vec![] } else { vec![top.as_bytes().to_vec()] };
        if let Some(middle) = paths.get(paths.len() / 2) {
            let diff = Diff::new(Arc::clone(a), Arc::clone(b), &roots).unwrap();
            let after = format!("1/{}", &middle[top.len()..]);
            let diff = diff.after(&After::parse(after.as_bytes()).unwrap()).unwrap();
            let rest: Vec<_> = self::lines(diff).into_iter().map(|(path, ..)| path).collect();
            assert_eq!(rest, paths[paths.len() / 2 + 1..]);
        }
    };
    goes_on(&paths, "");
    // A part, which is what of the whole lies there.
    if let Some(part) = paths.iter().find(|path| path.contains('/')) {
        let top = part.split('/').next().unwrap();
        let below = |path: &&String| **path == *top || path.starts_with(&format!("{top}/"));
        let want: Vec<_> = paths.iter().filter(below).cloned().collect();
        goes_on(&want, top);
        let part = found(a, b, &[top.as_bytes().to_vec()]);
        assert_eq!(part.into_iter().map(|(path, ..)| path).collect::<Vec<_>>(), want);
    }
    paths.sort();
    assert_eq!(turned, paths, "the same paths the other way round");
}

/// A path may lead to different places, of which layers that both images have say the same.
#[test]
fn paths_through_links() {
    let store = Store::new();
    let base = Tar::default().file("a/sub/x", b"").file("b/sub/y", b"").file("c", b"").finish();
    let image = |target| {
        let link = Tar::default().symlink("l", target).finish();
        store.image_of_tars(&[base.clone(), link]).unwrap()
    };
    let (before, after) = (image("a"), image("b"));
    let lines = |path: &[u8]| found(&before, &after, &[path.to_vec()]);
    let line = |path: &str, letter| (path.to_owned(), letter, vec![]);
    assert_eq!(lines(b"l/sub"), [line("a/sub/x", 'D'), line("b/sub/y", 'A')]);
    assert_eq!(lines(b"l"), [("l".to_owned(), 'M', vec!["link"])]);
    assert_eq!(lines(b"a"), []);
    assert_eq!(lines(b"l/../c"), []);
    assert_eq!(lines(b"l/sub/x"), [line("a/sub/x", 'D')]);
}

/// A sparse file in GNU's PAX format 1.0, of pieces that lie at some offsets.
fn sparse(size: u64, pieces: &[(u64, &[u8])]) -> Vec<u8> {
    let mut records = String::new();
    for (key, value) in [
        ("major", "1".to_owned()),
        ("minor", "0".to_owned()),
        ("name", "f".to_owned()),
        ("realsize", size.to_string()),
    ] {
        let rest = format!(" GNU.sparse.{key}={value}\n");
        // Two digits.
        records.push_str(&format!("{}{rest}", rest.len() + 2));
    }
    let mut data = format!("{}\n", pieces.len()).into_bytes();
    for (offset, piece) in pieces {
        data.extend(format!("{offset}\n{}\n", piece.len()).bytes());
    }
    data.resize(data.len().next_multiple_of(512), 0);
    pieces.iter().for_each(|(_, piece)| data.extend_from_slice(piece));
    let header = tar::Member { kind: b'x', ..tar::Member::default() };
    Tar::default().member("h", records.as_bytes(), &header).file("f", &data).finish()
}

/// Files with too many holes to have a digest.
#[test]
fn contents_without_digests() {
    let store = Store::new();
    const SIZE: u64 = 1 << 42;
    let long = vec![7; 3 << 20];
    let mut other = long.clone();
    other[(2 << 20) + 5] = 8;
    let image = |size, pieces: &[(u64, &[u8])]| {
        let image = store.image_of_tars(&[sparse(size, pieces)]).unwrap();
        assert_eq!(image.node(b"f", false).unwrap().entry.sha256, None);
        image
    };
    let end = SIZE - 3;
    let first = image(SIZE, &[(5, b"abcdef"), (end, b"end")]);
    for (pieces, differs, why) in [
        (&[(5, &b"abcdef"[..]), (end, b"end")][..], false, "another layer"),
        (&[(5, b"abc"), (8, b"def"), (end, b"end")], false, "other pieces"),
        (&[(5, b"abcdef"), (100, b"\0\0"), (end, b"end")], false, "zeros in place of a hole"),
        (&[(5, b"abcdef"), (100, b"\0x"), (end, b"end")], true, "data in place of a hole"),
        (&[(5, b"abcdef")], true, "a hole in place of data"),
        (&[(6, b"abcdef"), (end, b"end")], true, "another place"),
    ] {
        // That it is another layer.
        let second = Tar::default().file("other", why.as_bytes()).finish();
        let second = store.image_of_tars(&[sparse(SIZE, pieces), second]).unwrap();
        for (a, b) in [(&first, &second), (&second, &first)] {
            let lines = found(a, b, &[b"f".to_vec()]);
            assert_eq!(lines.len(), usize::from(differs), "{why}: {lines:?}");
            assert!(
                lines.iter().all(|(_, letter, what)| (*letter, &what[..]) == ('M', &["content"]))
            );
        }
    }
    let whole = image(SIZE, &[(end, &long[..3])]);
    assert_eq!(found(&first, &whole, &[]).len(), 1);
    let longer = image(SIZE + 1, &[(5, b"abcdef"), (end, b"end")]);
    assert_eq!(found(&first, &longer, &[]).len(), 1);
    let [a, b] = [&long, &other].map(|data| image(SIZE, &[(9, data)]));
    assert_eq!(found(&a, &b, &[]), [("f".to_owned(), 'M', vec!["content"])]);
    assert_eq!(found(&a, &a, &[]), []);
}

/// In directories of many names those of the upper layers are looked up, whatever they do.
#[test]
fn upper_layers_of_large_directories() {
    let store = Store::new();
    let base = (0..1000).fold(Tar::default(), |tar, n| tar.file(format!("d/{n:03}"), b"base"));
    let base = base.finish();
    let image = |upper: Tar| store.image_of_tars(&[base.clone(), upper.finish()]).unwrap();
    let mut tar = Tar::default().file("d/0005", b"new").hard_link("d/1", "d/004");
    for n in (0..1000).step_by(3) {
        tar = match n % 4 {
            0 => tar.file(format!("d/{n:03}"), b"base"),
            1 => tar.file(format!("d/{n:03}"), b"more"),
            2 => tar.file(format!("d/.wh.{n:03}"), b""),
            _ => tar.file(format!("d/{n:03}/x"), b""),
        };
        // Whiteouts of nothing.
        tar = tar.file(format!("d/.wh.{n:03}-"), b"");
    }
    let changed = image(tar);
    let mut want = vec![("d/0005".to_owned(), 'A', vec![]), ("d/1".to_owned(), 'A', vec![])];
    for n in (0..1000).step_by(3) {
        let path = format!("d/{n:03}");
        match n % 4 {
            0 => {}
            1 => want.push((path, 'M', vec!["content"])),
            2 => want.push((path, 'D', vec![])),
            _ => {
                want.push((format!("{path}/x"), 'A', vec![]));
                want.push((path, 'M', vec!["type", "mode"]));
            }
        }
    }
    want.sort_by_key(|(path, ..)| path.split('/').map(str::to_owned).collect::<Vec<_>>());
    let plain = image(Tar::default());
    assert_eq!(found(&plain, &changed, &[]), want);
    let opaque = image(Tar::default().file("d/.wh..wh..opq", b"").file("d/500", b"base"));
    let lines = found(&plain, &opaque, &[]);
    assert_eq!(lines.len(), 999);
    assert!(lines.iter().all(|(path, letter, _)| *letter == 'D' && path != "d/500"));
}

/// A hard link to the first file of the layer below takes the place of a directory that has no member
/// of its own there, and in the index the number of that file.
#[test]
fn a_link_in_the_place_of_a_directory() {
    let base = [Member::File("a".into(), 0), Member::File("folder/file".into(), 0)];
    let link = vec![Member::Link("folder".into(), "a".into())];
    compare(&Store::new(), &[base.to_vec()], [&[link], &[]]);
}

#[test]
fn random_pairs() {
    let store = Store::new();
    let config = Config {
        cases: 150,
        failure_persistence: Some(Box::new(FileFailurePersistence::Off)),
        ..Config::default()
    };
    proptest!(config, |(shared in layers(), a in layers(), b in layers())| {
        compare(&store, &shared, [&a, &b]);
        compare(&store, &shared, [&[], &b]);
        compare(&store, &[], [&a, &b]);
    });
}
