//! `waste` against the model: sums over plain maps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence};
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
    for (number, layer) in layers.iter().enumerate() {
        let alone = model::image(std::slice::from_ref(layer)).expect("the image is not refused");
        let mut counted = BTreeSet::new();
        for (path, (_, place), bytes, _) in files(&alone) {
            let is_first = counted.insert(place);
            let bytes = if is_first { bytes } else { 0 };
            by_path.entry(path).or_default().push(bytes);
            size += bytes;
            if !shown.contains_key(&(number, place)) {
                wasted += bytes;
            }
        }
    }
    let mut contents: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
    for seed in shown.values() {
        *contents.entry(content(*seed)).or_default() += 1;
    }
    let duplicate: u64 =
        contents.iter().map(|(bytes, files)| bytes.len() as u64 * (files - 1)).sum();
    let smallest: u64 = by_path
        .iter()
        .filter(|(path, _)| tree.contains_key(&model::key(path)))
        .map(|(_, sizes)| sizes.iter().min().expect("a file"))
        .sum();
    let efficiency = if size == 0 { 1.0 } else { smallest as f64 / size as f64 };

    let report = Waste::new(&store.images, Arc::clone(&image), 1000).unwrap().report().unwrap();
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
    let fewer = Waste::new(&store.images, image, 2).unwrap().report().unwrap();
    assert_eq!(fewer.totals, report.totals);
    assert!(fewer.paths.len() <= 2);
    let worst = |paths: &[registry::query::waste::PathWaste]| -> Vec<u64> {
        paths.iter().take(2).map(|path| path.wasted).collect()
    };
    assert_eq!(worst(&fewer.paths), worst(&report.paths));
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
