//! Single layers, and what images do not show of theirs, against the model.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence};
use registry::image::listing::{Listing, Stop};
use registry::image::{Image, Opened, write_tar};
use registry::index::records::{Entry, Kind, State};
use registry::oci::Digest;

use super::model::{self, Found, Key, Member, Row, Tree};
use super::store::Store;

/// An entry as text: its path, and the layer of what is deleted.
type Line = (String, Option<usize>);

fn list(image: &Arc<Image>, path: &str, recursive: bool) -> Listing {
    let opened = Opened::Image(Arc::clone(image));
    Listing::with_deleted(opened, path.as_bytes(), recursive).unwrap()
}

/// The entries up to where the listing stops.
fn lines(listing: &mut Listing) -> (Vec<Line>, Stop) {
    let mut lines = Vec::new();
    let stop = listing.visit(|node, deleted| {
        let path = String::from_utf8(node.path.clone()).unwrap();
        let slash = if node.is_directory() { "/" } else { "" };
        lines.push((path + slash, deleted.then_some(node.layer)));
        true
    });
    (lines, stop.unwrap())
}

/// What is at each path: whether the image shows something, and the layers that ship what it does
/// not show.
fn everything(layers: &[Vec<Member>], tree: &Tree) -> BTreeMap<Key, Vec<Line>> {
    let mut rows: BTreeMap<Key, Vec<(usize, bool)>> = BTreeMap::new();
    for (number, members) in layers.iter().enumerate() {
        for (path, line) in model::layer(number, members).unwrap() {
            let is_directory = match line.row {
                Row::Whiteout | Row::Zero => continue,
                Row::Thing(thing) => model::is_directory(&thing),
                Row::Foreign(_) => false,
            };
            rows.entry(path).or_default().push((number, is_directory));
        }
    }
    let slash = |is_directory| if is_directory { "/" } else { "" };
    let entries = |(path, mut rows): (Key, Vec<(usize, bool)>)| {
        let mut lines = Vec::new();
        let text = path.join("/");
        rows.reverse();
        if let Some(thing) = tree.get(&path) {
            let shown = model::is_directory(thing);
            lines.push((text.clone() + slash(shown), None));
            if shown {
                rows.retain(|(_, is_directory)| !is_directory);
            } else {
                rows.remove(0);
            }
        }
        let deleted = rows.into_iter().map(|(number, is)| (text.clone() + slash(is), Some(number)));
        lines.extend(deleted);
        (path, lines)
    };
    rows.into_iter().map(entries).collect()
}

fn deleted(image: &Arc<Image>, layers: &[Vec<Member>], tree: &Tree) {
    let everything = everything(layers, tree);
    for (path, here) in &everything {
        let text = path.join("/");
        // Elsewhere, links lead to other places. A link that leads to no directory is listed itself.
        let found = match model::follow(tree, &text, true) {
            Found::At(at) if model::is_directory(&tree[&at]) => Found::At(at),
            _ => model::follow(tree, &text, false),
        };
        let literal = match tree.contains_key(path) {
            true => found == Found::At(path.clone()),
            false => matches!(found, Found::Missing | Found::NotADirectory),
        };
        if !literal {
            continue;
        }
        let is_directory = path.is_empty() || here[0].0.ends_with('/');
        for recursive in [false, true] {
            let mut want = Vec::new();
            if !is_directory {
                want.extend(here.iter().cloned());
            }
            if is_directory || recursive {
                let below = everything.iter().filter(|(key, _)| {
                    key.len() > path.len()
                        && key.starts_with(path)
                        && (recursive || key.len() == path.len() + 1)
                });
                want.extend(below.flat_map(|(_, lines)| lines.iter().cloned()));
            }
            let (all, stop) = lines(&mut list(image, &text, recursive));
            assert_eq!((&all, stop), (&want, Stop::End), "/{text} {recursive}");
            for limit in 1..4 {
                pages(image, &text, recursive, limit, &want);
            }
        }
    }
}

fn pages(image: &Arc<Image>, path: &str, recursive: bool, limit: usize, want: &[Line]) {
    let bare = |line: &Line| line.0.trim_end_matches('/').to_owned();
    let mut found: Vec<Line> = Vec::new();
    loop {
        let mut page = list(image, path, recursive).limit(limit as u64);
        if let Some(last) = found.last() {
            page = page.after(bare(last).as_bytes()).unwrap();
        }
        let (entries, stop) = lines(&mut page);
        if let (Some(last), Some(first)) = (found.last(), entries.first()) {
            assert_ne!(bare(last), bare(first), "one path on two pages");
        }
        let paths: BTreeSet<String> = entries.iter().map(bare).collect();
        assert!(paths.len() <= limit, "{paths:?}");
        found.extend(entries);
        if stop == Stop::End {
            break;
        }
        assert!(found.len() < want.len(), "{stop:?} after all of it");
    }
    assert_eq!(found, want, "/{path} {recursive} by {limit}");
}

/// What the index has of a layer, without where it lies in the tar.
fn rows(store: &Store, layer: &Digest) -> BTreeMap<Vec<u8>, Entry> {
    let Some(State::Ready(record)) = store.index.state(layer).unwrap() else {
        panic!("{layer} is not indexed");
    };
    let rows = store.index.entries(record.number, None).map(Result::unwrap);
    rows.map(|(path, entry)| (path, Entry { inode: 0, offset: 0, ..entry })).collect()
}

/// Layers that no sorted tar can say.
fn is_odd(rows: &BTreeMap<Vec<u8>, Entry>) -> bool {
    rows.iter().any(|(path, entry)| {
        // Links to what the layer has by another member, later or by then another thing.
        let ends = |link: &[u8]| {
            let slashes = (0..=link.len()).filter(|&at| link.get(at).is_none_or(|&b| b == b'/'));
            slashes.map(|at| link[..at].to_vec()).collect::<Vec<_>>()
        };
        let crossed = entry.kind == Kind::CrossLayerLink
            && ends(&entry.link).iter().any(|path| {
                rows.get(path).is_some_and(|row| !path.is_empty() && !row.is_directory())
                    || (*path == entry.link && rows.contains_key(path))
            });
        // Made by a path such as `link/..`.
        let prefix = [path.as_slice(), b"/"].concat();
        let empty = entry.kind == Kind::Implicit
            && !path.is_empty()
            && !entry.hides
            && !rows.keys().any(|other| other.starts_with(&prefix));
        // Whiteouts that AUFS has another meaning for at the root.
        crossed || empty || path.starts_with(b".wh.")
    })
}

/// The tar of a layer is that layer.
fn again(store: &Store, image: &Arc<Image>) -> usize {
    let mut compared = 0;
    for layer in &image.layers {
        let want = rows(store, &layer.digest);
        if is_odd(&want) {
            continue;
        }
        let id = layer.digest.to_string().parse().unwrap();
        let opened = Opened::Image(Arc::clone(image)).one_layer(&id).unwrap();
        let mut tar = Vec::new();
        write_tar(&*opened, &opened.node(b"/", true).unwrap(), &mut tar).unwrap();
        let again = store.image_of_tars(&[tar]).unwrap();
        assert_eq!(rows(store, &again.layers[0].digest), want);
        compared += 1;
    }
    compared
}

#[test]
fn random_layers() {
    let store = Store::new();
    let config = Config {
        cases: 200,
        failure_persistence: Some(Box::new(FileFailurePersistence::Off)),
        ..Config::default()
    };
    let compared = Cell::new(0);
    proptest!(config, |(layers in super::layers())| {
        let Ok(tree) = model::image(&layers) else { return Ok(()) };
        let image = store.image(&layers).unwrap();
        deleted(&image, &layers, &tree);
        compared.update(|n| n + again(&store, &image));
    });
    assert!(compared.get() > 200, "{compared:?}");
}

/// What random layers once found.
#[test]
fn regressions() {
    let store = Store::new();
    let file = |path: &str| Member::File(path.to_owned(), 1);
    let symlink = |path: &str, target: &str| Member::Symlink(path.to_owned(), target.to_owned());
    for layers in [
        // A deleted path that leads through a link to a link that leads nowhere.
        vec![vec![file("a./-")], vec![symlink("a.", "/"), symlink("-", "a")]],
        // A link to itself over a directory.
        vec![vec![file("a/b")], vec![symlink("a", "a")]],
    ] {
        let tree = model::image(&layers).unwrap();
        deleted(&store.image(&layers).unwrap(), &layers, &tree);
    }
}
