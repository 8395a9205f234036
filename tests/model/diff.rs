//! `diff` against the model: two trees compared path by path.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence};
use registry::image::Image;
use registry::query::Step;
use registry::query::diff::Diff;

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
    if let Some(middle) = paths.get(paths.len() / 2) {
        let diff = Diff::new(Arc::clone(a), Arc::clone(b), &[]).unwrap();
        let rest = self::lines(diff.after(middle.as_bytes()).unwrap());
        let rest: Vec<_> = rest.into_iter().map(|(path, ..)| path).collect();
        assert_eq!(rest, paths[paths.len() / 2 + 1..]);
    }
    // A part, which is what of the whole lies there.
    if let Some(part) = paths.iter().find(|path| path.contains('/')) {
        let top = part.split('/').next().unwrap();
        let below = |path: &&String| **path == *top || path.starts_with(&format!("{top}/"));
        let want: Vec<_> = paths.iter().filter(below).cloned().collect();
        let part = found(a, b, &[top.as_bytes().to_vec()]);
        assert_eq!(part.into_iter().map(|(path, ..)| path).collect::<Vec<_>>(), want);
    }
    paths.sort();
    assert_eq!(turned, paths, "the same paths the other way round");
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
