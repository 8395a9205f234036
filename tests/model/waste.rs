//! `waste` against the model: sums over plain maps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence};
use registry::image::Image;
use registry::query::waste::Waste;

use super::layers;
use super::model::{self, Member, Tree, What, content};
use super::store::Store;

/// Path, inode and size of every file, nearest the root first.
fn files(tree: &Tree) -> Vec<(String, (usize, usize), u64, u8)> {
    let file = |(key, thing): (&Vec<String>, &model::Thing)| match &thing.what {
        What::File(seed) => Some((key.join("/"), thing.inode, content(*seed).len() as u64, *seed)),
        _ => None,
    };
    let mut files: Vec<_> = tree.iter().filter_map(file).collect();
    files.sort_by_key(|(path, ..)| (path.matches('/').count(), path.clone()));
    files
}

fn compare(store: &Store, layers: &[Vec<Member>]) {
    let (Ok(tree), Ok(image)) = (model::image(layers), store.image(layers)) else { return };
    let shown: BTreeMap<(usize, usize), u8> =
        files(&tree).into_iter().map(|(_, inode, _, seed)| (inode, seed)).collect();
    let (mut size, mut wasted) = (0, 0);
    let mut by_path: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    // Size and names of each inode.
    let mut names: BTreeMap<(usize, usize), (u64, Vec<String>)> = BTreeMap::new();
    for (number, layer) in layers.iter().enumerate() {
        let alone = model::image(std::slice::from_ref(layer)).expect("the image is not refused");
        let mut counted = BTreeSet::new();
        for (path, (_, place), bytes, _) in files(&alone) {
            by_path.entry(path.clone()).or_default().push(bytes);
            names.entry((number, place)).or_insert((bytes, Vec::new())).1.push(path);
            if counted.insert(place) {
                size += bytes;
                wasted += if shown.contains_key(&(number, place)) { 0 } else { bytes };
            }
        }
    }
    let mut contents: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
    for seed in shown.values() {
        *contents.entry(content(*seed)).or_default() += 1;
    }
    let duplicate: u64 =
        contents.iter().map(|(bytes, files)| bytes.len() as u64 * (files - 1)).sum();
    let smallest: u64 = shown
        .keys()
        .map(|inode| {
            let (bytes, names) = &names[inode];
            let is_own = |path: &&String| {
                tree.get(&model::key(path)).is_some_and(|thing| thing.inode == *inode)
            };
            // Another layer's hard link may be all that shows it.
            names
                .iter()
                .find(is_own)
                .map_or(*bytes, |path| *by_path[path].iter().min().expect("a file"))
        })
        .sum();
    let efficiency = if size == 0 { 1.0 } else { smallest as f64 / size as f64 };

    let new = |image: &Arc<Image>, worst| {
        Waste::new(&store.images, Arc::clone(image), String::new(), worst)
    };
    let report = new(&image, 1000).unwrap().report().unwrap();
    let found = &report.totals;
    let what = format!("{layers:?}: {report:?}");
    assert_eq!((found.size, found.wasted, found.duplicate), (size, wasted, duplicate), "{what}");
    assert!((found.efficiency - efficiency).abs() < 1e-9, "{efficiency}, {what}");
    let sum = |of: fn(&registry::query::waste::LayerWaste) -> u64| {
        report.layers.iter().map(of).sum::<u64>()
    };
    assert_eq!((sum(|layer| layer.size), sum(|layer| layer.wasted)), (size, wasted));
    assert_eq!(report.paths.iter().map(|path| path.wasted).sum::<u64>(), wasted, "{what}");
    assert_eq!(report.duplicates.iter().map(|d| d.wasted).sum::<u64>(), duplicate, "{what}");
    assert!(report.paths.is_sorted_by(|a, b| a.wasted >= b.wasted));
    let fewer = new(&image, 2).unwrap().report().unwrap();
    assert_eq!(fewer.totals, report.totals);
    assert!(fewer.paths.len() <= 2);
    let worst = |paths: &[registry::query::waste::PathWaste]| -> Vec<u64> {
        paths.iter().take(2).map(|path| path.wasted).collect()
    };
    assert_eq!(worst(&fewer.paths), worst(&report.paths));
}

/// Files of 512 bytes.
#[test]
fn efficiencies() {
    let store = Store::new();
    let file = |path: &str| Member::File(path.to_owned(), 3);
    let link = |path: &str, target: &str| Member::Link(path.to_owned(), target.to_owned());
    let symlink = |path: &str| Member::Symlink(path.to_owned(), "x".to_owned());
    let gone = |path: &str| Member::Marker(path.to_owned());
    for (layers, efficiency, wasted, why) in [
        (vec![vec![file("a")]], 1.0, 0, "nothing to save"),
        (vec![vec![file("a")], vec![file("a")]], 0.5, 512, "replaced"),
        (vec![vec![file("a")], vec![gone(".wh.a")]], 0.0, 512, "deleted"),
        (vec![vec![file("a")], vec![symlink("a")]], 0.0, 512, "a symbolic link in its place"),
        (vec![vec![file("a"), link("b", "a")]], 1.0, 0, "two names"),
        (vec![vec![file("a"), link("b", "a")], vec![gone(".wh.a")]], 1.0, 0, "the second is left"),
        (vec![vec![file("a"), link("b", "a")], vec![file("b")]], 1.0, 0, "the first is left"),
        (vec![vec![file("a")], vec![link("b", "a"), gone(".wh.a")]], 1.0, 0, "a link from above"),
    ] {
        let image = store.image(&layers).unwrap();
        let totals =
            Waste::new(&store.images, image, String::new(), 1).unwrap().report().unwrap().totals;
        assert_eq!((totals.efficiency, totals.wasted), (efficiency, wasted), "{why}");
        compare(&store, &layers);
    }
}

#[test]
fn random_images() {
    let store = Store::new();
    let config = Config {
        cases: 150,
        failure_persistence: Some(Box::new(FileFailurePersistence::Off)),
        ..Config::default()
    };
    proptest!(config, |(layers in layers())| compare(&store, &layers));
}
