//! The merged view against a model of it: layers applied in order to a map, as
//! naively as can be ([`model`]). The layers are tars over a tiny alphabet, so that
//! names collide, pushed through the store and the index.

#[path = "../common/mod.rs"]
mod common;
mod compare;
mod diff;
mod export;
mod find;
mod grep;
mod layers;
mod model;
mod resolve;
mod runtimes;
mod store;
mod waste;

use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence};

use compare::compare;
use model::Member;
use model::Member::*;
use store::Store;

/// Paths as tars spell them: few, and odd.
fn path() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec!["a", "b", "-", "a.", ".wh"]);
    let names = prop::collection::vec(name, 1..=3);
    let prefix = prop::sample::select(vec!["", "", "./", "/", "a/../", "../", ".//"]);
    (prefix, names).prop_map(|(prefix, names)| format!("{prefix}{}", names.join("/")))
}

fn marker() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec![
        ".wh.a",
        ".wh.b",
        ".wh.-",
        ".wh.a.",
        ".wh..wh..opq",
        ".wh..wh..opq",
        ".wh.",
        ".wh...",
        ".wh..wh",
        ".wh..wh.a",
    ]);
    let directory = prop_oneof![Just(String::new()), path().prop_map(|path| path + "/")];
    (directory, name).prop_map(|(directory, name)| directory + name)
}

fn target() -> impl Strategy<Value = String> {
    let odd = prop::sample::select(vec![".", "..", "/", "a/../b", "../a", "/a/b", "../../-"]);
    prop_oneof![path(), path(), odd.prop_map(str::to_owned)]
}

fn member() -> impl Strategy<Value = Member> {
    prop_oneof![
        4 => (path(), any::<u8>()).prop_map(|(path, content)| File(path, content)),
        3 => (path(), any::<bool>(), 0u8..8).prop_map(|(path, slash, mode)| {
            Directory(if slash { path + "/" } else { path }, mode)
        }),
        1 => (0u8..8).prop_map(|mode| Directory("./".to_owned(), mode)),
        2 => (path(), target()).prop_map(|(path, target)| Symlink(path, target)),
        2 => (path(), path()).prop_map(|(path, target)| Link(path, target)),
        3 => marker().prop_map(Marker),
        1 => path().prop_map(Zero),
    ]
}

pub fn layers() -> impl Strategy<Value = Vec<Vec<Member>>> {
    prop::collection::vec(prop::collection::vec(member(), 0..10), 1..5)
}

#[test]
fn random_layers() {
    let store = Store::new();
    let config = Config {
        cases: 200,
        failure_persistence: Some(Box::new(FileFailurePersistence::Off)),
        ..Config::default()
    };
    // Shown in a form that can stand below as a regression test.
    proptest!(config, |(layers in layers())| compare(&store, &layers));
}

fn file(path: &str) -> Member {
    File(path.to_owned(), 1)
}

fn directory(path: &str) -> Member {
    Directory(path.to_owned(), 5)
}

fn symlink(path: &str, target: &str) -> Member {
    Symlink(path.to_owned(), target.to_owned())
}

fn link(path: &str, target: &str) -> Member {
    Link(path.to_owned(), target.to_owned())
}

fn marker_at(path: &str) -> Member {
    Marker(path.to_owned())
}

/// The cases that implementations get wrong, by what they show: names in order,
/// directories with a slash, links as `name>target`, hard links as `name=count`.
#[test]
fn merged() {
    let store = Store::new();
    let base = || {
        vec![
            directory("d/"),
            file("d/x"),
            file("d/y"),
            directory("e/"),
            file("e/z"),
            symlink("s", "d"),
            file("f"),
        ]
    };
    for (upper, want, why) in [
        (vec![], "d/ d/x d/y e/ e/z f s>d", "nothing"),
        (vec![marker_at("d/.wh.x")], "d/ d/y e/ e/z f s>d", "whiteout"),
        (vec![marker_at(".wh.d")], "e/ e/z f s>d", "of a directory"),
        (vec![marker_at("/./e/../.wh.d")], "e/ e/z f s>d", "other spellings"),
        (vec![marker_at("n/.wh.x")], "d/ d/x d/y e/ e/z f n/ s>d", "a whiteout makes its parents"),
        (vec![marker_at("d/.wh.x"), file("d/x")], "d/ d/x d/y e/ e/z f s>d", "re-added"),
        (vec![file("d/x"), marker_at("d/.wh.x")], "d/ d/y e/ e/z f s>d", "other order"),
        (vec![marker_at("d/.wh..wh..opq")], "d/ e/ e/z f s>d", "opaque, not declared"),
        (vec![file("d/n"), marker_at("d/.wh..wh..opq")], "d/ d/n e/ e/z f s>d", "opaque last"),
        (vec![marker_at(".wh..wh..opq"), file("n")], "d/ d/x d/y e/ e/z f n s>d", "opaque root"),
        (vec![marker_at("s/.wh.x")], "d/ d/x d/y e/ e/z f s/", "in place of a lower symlink"),
        (vec![marker_at("s/.wh..wh..opq")], "d/ d/x d/y e/ e/z f s/", "opaque, the same"),
        (vec![marker_at("f/.wh.x")], "d/ d/x d/y e/ e/z f/ s>d", "and of a lower file"),
        (vec![marker_at(".wh.d"), directory("d/")], "d/ d/x d/y e/ e/z f s>d", "and again"),
        (vec![marker_at(".wh.d"), file("d/n")], "d/ d/n e/ e/z f s>d", "again, not declared"),
        (vec![Zero("d".into())], "e/ e/z f s>d", "a device that is a whiteout"),
        (vec![Zero("n".into())], "d/ d/x d/y e/ e/z f s>d", "of nothing"),
        (vec![file("s/n")], "d/ d/x d/y e/ e/z f s/ s/n", "the symlink is replaced"),
        (vec![file("f/n")], "d/ d/x d/y e/ e/z f/ f/n s>d", "the file is replaced"),
        (vec![file("d")], "d e/ e/z f s>d", "file over directory"),
        (vec![symlink("d", "e")], "d>e e/ e/z f s>d", "symlink over directory"),
        (vec![directory("f/")], "d/ d/x d/y e/ e/z f/ s>d", "directory over file"),
        (vec![directory("d/")], "d/ d/x d/y e/ e/z f s>d", "directory over directory"),
        (vec![link("l", "f")], "d/ d/x d/y e/ e/z f=2 l=2 s>d", "link to a lower layer"),
        (vec![link("l", "s/x")], "d/ d/x=2 d/y e/ e/z f l=2 s>d", "through a lower symlink"),
        (vec![link("l", "s")], "d/ d/x d/y e/ e/z f l>d s>d", "to the symlink itself"),
        (vec![link("l", "f"), marker_at(".wh.f")], "d/ d/x d/y e/ e/z l s>d", "and its name taken"),
        (vec![link("f", "d/x")], "d/ d/x=2 d/y e/ e/z f=2 s>d", "over a file"),
        (vec![link("f", "f")], "d/ d/x d/y e/ e/z f s>d", "to itself"),
        (vec![link("f", "n")], "d/ d/x d/y e/ e/z s>d", "to nothing"),
        (vec![link("f", "d")], "d/ d/x d/y e/ e/z s>d", "to a directory"),
        (vec![marker_at(".wh..wh.")], "d/ d/x d/y e/ e/z f s>d", "AUFS's own"),
        (vec![file(".wh..wh.orph/x")], "d/ d/x d/y e/ e/z f s>d", "and what is below"),
        (
            vec![directory("d/.wh..wh.p/"), file("d/.wh..wh.p/x")],
            "d/ d/.wh..wh.p/ d/.wh..wh.p/x d/x d/y e/ e/z f s>d",
            "but not further down",
        ),
        (vec![file(".wh.d/x")], ".wh.d/ .wh.d/x d/ d/x d/y e/ e/z f s>d", "on a directory"),
    ] {
        let layers = [base(), upper];
        compare(&store, &layers);
        let image = store.image(&layers).unwrap();
        assert_eq!(compare::show(&image), want, "{why}");
    }
}

/// What random layers or a person once found.
#[test]
fn regressions() {
    let store = Store::new();
    for layers in [
        // A name taken away, and given back by a link from above.
        vec![vec![file("a"), link("b", "a")], vec![marker_at(".wh.a")], vec![link("a", "b")]],
        // A name that is a link to another name of its own inode.
        vec![vec![file("a"), link("b", "a")], vec![link("a", "b")]],
        // The same layer twice.
        vec![
            vec![file("a"), link("b", "a")],
            vec![link("c", "a")],
            vec![file("a"), link("b", "a")],
        ],
        // Links between three layers.
        vec![vec![file("a")], vec![link("b", "a")], vec![link("c", "b")]],
        // Links that lead to each other through symlinks.
        vec![
            vec![symlink("a", "b"), symlink("b", "a"), file("c")],
            vec![link("d", "a/c"), link("e", "b")],
        ],
        // A parent that was a symlink and is a directory by now.
        vec![vec![symlink("s", "."), directory("s/s"), symlink("s/a", "a")]],
        vec![],
        vec![vec![]],
    ] {
        compare(&store, &layers);
    }
}
