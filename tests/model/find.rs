//! `find` against the model: a pattern tried on every path of every image.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence};
use registry::image::Images;
use registry::query::find::{After, Find, Hit, Wanted};
use registry::query::{Permitted, Scope, Step};

use super::layers;
use super::model::{self, Member, Tree, What};
use super::store::Store;

/// Whether a glob of `*`, `?` and `**` matches a path, tried in every way.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    match pattern {
        [] => text.is_empty(),
        // `/**/` is any number of directories, none included.
        [b'/', b'*', b'*', b'/', rest @ ..] => {
            let slashes = (0..text.len()).filter(|&at| text[at] == b'/');
            text.first() == Some(&b'/')
                && slashes.into_iter().any(|at| matches(rest, &text[at + 1..]))
        }
        [b'/', b'*', b'*'] => text.len() > 1 && text[0] == b'/',
        [b'*', rest @ ..] => (0..=text.len())
            .take_while(|&taken| !text[..taken].contains(&b'/'))
            .any(|taken| matches(rest, &text[taken..])),
        [b'?', rest @ ..] => {
            matches!(text, [first, after @ ..] if *first != b'/' && matches(rest, after))
        }
        [byte, rest @ ..] => text.first() == Some(byte) && matches(rest, &text[1..]),
    }
}

/// A question, as text and as a test of a thing.
struct Asked {
    name: &'static str,
    path: &'static str,
    kind: &'static str,
}

const ASKED: [Asked; 9] = [
    Asked { name: "", path: "", kind: "" },
    Asked { name: "a", path: "", kind: "" },
    Asked { name: "a*", path: "", kind: "" },
    Asked { name: "?", path: "", kind: "f" },
    Asked { name: "*.", path: "", kind: "" },
    Asked { name: "", path: "/a/**", kind: "" },
    Asked { name: "", path: "/**/b", kind: "d" },
    Asked { name: "", path: "/*/a*", kind: "" },
    Asked { name: "-", path: "/**/-", kind: "l" },
];

impl Asked {
    fn wanted(&self, deleted: bool) -> Wanted {
        let some = |text: &'static str| (!text.is_empty()).then_some(text);
        Wanted {
            name: some(self.name).map(|glob| glob.parse().unwrap()),
            path: some(self.path).map(|glob| glob.parse().unwrap()),
            kind: some(self.kind).map(|kind| kind.parse().unwrap()),
            deleted,
            ..Wanted::default()
        }
    }

    fn takes(&self, path: &str, what: &What) -> bool {
        let name = path.rsplit('/').next().unwrap_or_default();
        let kind = match what {
            What::File(_) => "f",
            What::Directory(_) => "d",
            What::Symlink(_) => "l",
        };
        !path.is_empty()
            && (self.name.is_empty() || matches(self.name.as_bytes(), name.as_bytes()))
            && (self.path.is_empty()
                || matches(self.path.as_bytes(), format!("/{path}").as_bytes()))
            && (self.kind.is_empty() || self.kind == kind)
    }
}

fn everything() -> Permitted {
    Arc::new(|_| true)
}

fn ask(images: &Arc<Images>, scope: &Scope, wanted: &Wanted, after: Option<&[u8]>) -> Vec<Hit> {
    let after = after.map(|after| After::parse(after).unwrap());
    let find = Find::new(images, scope, &everything(), wanted.clone(), after);
    let (mut find, mut hits) = (find.unwrap(), Vec::new());
    loop {
        match find.step().unwrap() {
            Step::Hit(hit) => hits.push(hit),
            Step::Skipped(skipped) => panic!("{}: {}", skipped.image, skipped.error),
            Step::Working => {}
            Step::End => return hits,
        }
    }
}

/// Path, layer from the base, and whether it is deleted.
type Line = (String, usize, bool);

fn want(asked: &Asked, layers: &[Vec<Member>], tree: &Tree, deleted: bool) -> BTreeSet<Line> {
    let mut lines = BTreeSet::new();
    if !deleted {
        for (key, thing) in tree {
            let path = key.join("/");
            if asked.takes(&path, &thing.what) {
                // The layer of a directory is not the model's to say.
                lines.insert((path, 0, false));
            }
        }
        return lines;
    }
    for (number, layer) in layers.iter().enumerate() {
        let alone = model::image(std::slice::from_ref(layer)).expect("the image is not refused");
        for (key, thing) in alone {
            let shown = match (&thing.what, tree.get(&key)) {
                (What::Directory(None), _) => true,
                (_, None) => false,
                (What::Directory(_), Some(shown)) => matches!(shown.what, What::Directory(_)),
                (_, Some(shown)) => shown.inode == (number, thing.inode.1),
            };
            let path = key.join("/");
            if !shown && asked.takes(&path, &thing.what) {
                lines.insert((path, number, true));
            }
        }
    }
    lines
}

fn compare(store: &Store, layers: &[Vec<Member>]) {
    let (Ok(tree), Ok(image)) = (model::image(layers), store.image(layers)) else { return };
    let scope = Scope {
        images: vec![format!("model@{}", image.manifest).parse().unwrap()],
        ..Scope::default()
    };
    for asked in &ASKED {
        for deleted in [false, true] {
            let wanted = asked.wanted(deleted);
            let hits = ask(&store.images, &scope, &wanted, None);
            let line = |hit: &Hit| {
                let path = String::from_utf8(hit.path.clone()).unwrap();
                let layer = image.layers.iter().position(|layer| layer.digest == hit.layer);
                (path, if deleted { layer.unwrap() } else { 0 }, hit.deleted)
            };
            let mut found: Vec<Line> = hits.iter().map(line).collect();
            let (name, path, kind) = (asked.name, asked.path, asked.kind);
            let order = |path: &str| (path.matches('/').count(), path.to_owned());
            assert!(found.is_sorted_by_key(|(path, ..)| order(path)), "{found:?}");
            // The same layer may be there twice, and then a digest does not tell which is meant.
            let distinct: BTreeSet<_> = image.layers.iter().map(|layer| layer.digest).collect();
            if distinct.len() == image.layers.len() {
                let want = want(asked, layers, &tree, deleted);
                found.sort();
                let want: Vec<Line> = want.into_iter().collect();
                assert_eq!(found, want, "{name:?} {path:?} {kind:?} in {layers:?}");
            }
            // From the middle on.
            if let Some(middle) = hits.get(hits.len() / 2) {
                let rest = ask(&store.images, &scope, &wanted, Some(&middle.place()));
                let after = hits.iter().rposition(|hit| hit.path == middle.path).unwrap() + 1;
                let places = |hits: &[Hit]| hits.iter().map(Hit::place).collect::<Vec<_>>();
                assert_eq!(places(&rest), places(&hits[after..]));
            }
        }
    }
}

#[test]
fn random_questions() {
    let store = Store::new();
    let config = Config {
        cases: 100,
        failure_persistence: Some(Box::new(FileFailurePersistence::Off)),
        ..Config::default()
    };
    proptest!(config, |(layers in layers())| compare(&store, &layers));
}
