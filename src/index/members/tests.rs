//! Where members come to lie: layers in words, their rows as words.

use super::*;
use crate::index::Index;
use crate::oci::Digest;

/// Members one a word, `-> TARGET` for links: `d:` directory, `f:` file, `l:`
/// symlink, `h:` hard link. The rows, by path: the same letters, `i:` implicit
/// directory, `w:` whiteout, `F:` link to a lower layer; `!` hides;
/// `#N` the member that made it, `*N` its names.
fn rows(members: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let index = Index::open(&dir.path().join("db")).unwrap();
    match place(&index, members) {
        Ok(tree) => show_rows(&tree, b"").join(" "),
        Err(Failure::Refused(reason)) => format!("refused: {reason}"),
        Err(Failure::Error(error)) => panic!("{error}"),
    }
}

fn made(kind: &str, path: &str, link: &str, header_offset: u64) -> Member {
    Member {
        header_offset,
        path: path.into(),
        link: link.into(),
        kind: match kind {
            "d" => tar::Kind::Directory,
            "f" => tar::Kind::Regular,
            "l" => tar::Kind::Symlink,
            "h" => tar::Kind::HardLink,
            other => panic!("{other}"),
        },
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: tar::Time { seconds: 0, nanoseconds: 0 },
        size: 0,
        stored: 0,
        data_offset: 0,
        device: (0, 0),
        xattrs: Vec::new(),
        sparse: None,
    }
}

fn place<'a>(index: &'a Index, members: &str) -> Result<Tree<'a>, Failure> {
    let mut tree = Tree::new(index.begin_layer(&Digest::Sha256([7; 32]))?, 100, 4096)?;
    for (number, member) in members.split_whitespace().enumerate() {
        let (kind, rest) = member.split_once(':').unwrap();
        let (path, link) = rest.split_once("->").unwrap_or((rest, ""));
        let member = made(kind, path, link, number as u64);
        if let Some(placed) = tree.place(member)? {
            tree.put(placed, None)?;
        }
    }
    tree.finish()?;
    Ok(tree)
}

fn show_rows(tree: &Tree<'_>, directory: &[u8]) -> Vec<String> {
    let mut shown = Vec::new();
    let root = tree.row(directory).unwrap().filter(|_| directory.is_empty());
    let children = tree.rows.below(directory, 1).map(Result::unwrap);
    let rows = root.map(|row| (Vec::new(), row)).into_iter().chain(children);
    for (name, row) in rows {
        let path = if name.is_empty() { Vec::new() } else { join(directory, &name) };
        let (letter, link) = match row.kind {
            Kind::Regular => ("f", false),
            Kind::Directory => ("d", false),
            Kind::Symlink => ("l", true),
            Kind::Implicit => ("i", false),
            Kind::Whiteout => ("w", false),
            Kind::CrossLayerLink => ("F", true),
            Kind::Character | Kind::Block | Kind::Fifo => unreachable!("none is made here"),
        };
        let mut text = format!("{letter}:{}", path.escape_ascii());
        if link {
            text += &format!("->{}", row.link.escape_ascii());
        }
        if row.hides {
            text.push('!');
        }
        if matches!(row.kind, Kind::Regular) {
            text += &format!("#{}", row.inode);
        }
        if row.links > 1 {
            text += &format!("*{}", row.links);
        }
        shown.push(text);
        if row.is_directory() && !path.is_empty() {
            shown.extend(show_rows(tree, &path));
        }
    }
    shown
}

#[test]
fn members_have_their_places() {
    for (members, want, why) in [
        ("", "i:", "nothing"),
        ("d:./", "d:", "the root"),
        ("d:/", "d:", "the root"),
        ("f:. f:a", "i: f:a#1", "nothing else takes its place"),
        ("f:./a f:/b f:c//d f:e/./f", "i: f:a#0 f:b#1 i:c f:c/d#2 i:e f:e/f#3", "spellings"),
        ("f:a/../b f:../../c", "i: f:b#0 f:c#1", "never above the root"),
        ("f:a f:a", "i: f:a#1", "the last wins"),
        ("d:a f:a/b d:a", "i: d:a f:a/b#1", "a directory again keeps its children"),
        ("d:a f:a/b f:a", "i: f:a#2", "a file replaces a subtree"),
        ("d:a d:a/b f:a/b/c l:a->x d:a", "i: d:a", "and what it had is gone"),
        ("f:a f:a/b", "i: i:a f:a/b#1", "a directory replaces a file"),
        ("f:a/b/c d:a", "i: d:a i:a/b f:a/b/c#0", "declared later"),
        (
            "d:bin l:bin->usr/bin f:bin/x",
            "i: l:bin->usr/bin i:usr i:usr/bin f:usr/bin/x#2",
            "a parent that is a symlink",
        ),
        (
            "l:a->b f:a/x l:a->c f:a/y",
            "i: l:a->c i:b f:b/x#1 i:c f:c/y#3",
            "a symlink that is replaced by another",
        ),
        ("l:a->b f:a/x d:a f:a/y", "i: d:a f:a/y#3 i:b f:b/x#1", "and by a directory"),
        ("l:a->b f:a/c/x d:a f:a/c/y", "i: d:a i:a/c f:a/c/y#3 i:b i:b/c f:b/c/x#1", "further up"),
        (
            "d:a f:a/b/c/d/e h:x->a/b/c/d/e f:a f:a/z",
            "i: i:a f:a/z#4 f:x#1",
            "a deep subtree that is replaced",
        ),
        (
            "l:a->/b/../../c f:a/x",
            "i: l:a->/b/../../c i:b i:c f:c/x#1",
            "an absolute one, with dots",
        ),
        ("l:a->b l:b->a f:a/x", "refused: /a leads through a loop of symlinks", "a loop"),
    ] {
        assert_eq!(rows(members), want, "{members}: {why}");
    }
}

#[test]
fn whiteouts() {
    for (members, want, why) in [
        ("f:.wh.a", "i: w:a", "of a name"),
        ("f:/d/.wh.a f:./d/.wh.a", "i: i:d w:d/a", "in a directory that is not declared, twice"),
        ("f:d/.wh.a f:d/b", "i: i:d w:d/a f:d/b#1", "which has something after all"),
        ("f:d/b f:d/.wh.a", "i: i:d w:d/a f:d/b#0", "in either order"),
        ("f:.wh.a f:a", "i: f:a#1", "only lower layers"),
        ("f:a f:.wh.a", "i: w:a", "and what the layer had before"),
        ("f:.wh.a d:a f:a/b", "i: d:a f:a/b#2", "a directory takes its place and merges"),
        ("f:a/.wh..wh..opq f:a d:a", "i: d:a", "and does not stay opaque"),
        ("f:.wh.a f:a/b", "i: i:a! f:a/b#1", "and a directory again"),
        ("d:a f:a/b f:.wh.a", "i: w:a", "with its children"),
        ("d:d f:d/.wh..wh..opq f:d/x", "i: d:d! f:d/x#2", "opaque"),
        ("d:d f:d/x f:d/.wh..wh..opq", "i: d:d! f:d/x#1", "opaque after its children"),
        ("f:d/.wh..wh..opq", "i: i:d!", "opaque, not declared"),
        ("f:.wh..wh..opq f:a", "i: f:a#1", "not the root"),
        ("f:d/.wh..wh..opq d:d f:d/.wh.x", "i: d:d! w:d/x", "with another"),
        ("f:.wh. f:.wh.. f:.wh...", "i:", "of no name"),
        ("f:.wh..wh. d:.wh..wh.aufs f:.wh..wh.orph/x", "i:", "AUFS's own"),
        (
            "d:a/.wh..wh.o f:a/.wh..wh.o/x",
            "i: i:a i:a/.wh..wh.o f:a/.wh..wh.o/x#1 w:a/.wh.o",
            "not below the root",
        ),
        (
            "f:.wh..wh.plnk/1.2 h:a->.wh..wh.plnk/1.2 h:b->.wh..wh.plnk/1.2",
            "i: f:a#0*2 f:b#0*2",
            "AUFS's links",
        ),
        ("f:.wh.etc/x", "i: i:.wh.etc f:.wh.etc/x#0", "the prefix on a directory"),
        ("f:a f:a/.wh.b", "i: f:a#0", "below a file of the layer"),
        ("f:.wh.a f:a/.wh.b", "i: w:a", "below a whiteout of the layer"),
        ("l:a->b f:a/.wh.c", "i: l:a->b i:b w:b/c", "below a symlink of the layer"),
    ] {
        assert_eq!(rows(members), want, "{members}: {why}");
    }
}

#[test]
fn hard_links() {
    for (members, want, why) in [
        ("f:a h:b->a h:c->b", "i: f:a#0*3 f:b#0*3 f:c#0*3", "share an inode"),
        ("f:d/a h:b->./d//a h:c->/d/a", "i: f:b#0*3 f:c#0*3 i:d f:d/a#0*3", "spellings"),
        ("h:b->a f:a", "i: f:a#1*2 f:b#1*2", "the target comes later"),
        ("h:b->a", "i: F:b->a", "the target is elsewhere"),
        ("h:b->a h:c->b", "i: F:b->a F:c->a", "a link to such a link"),
        ("f:a h:a->a", "i: f:a#0", "to itself"),
        ("f:a h:b->a f:a", "i: f:a#2 f:b#0*1", "the target is replaced: the content stays"),
        ("f:a h:b->a f:c h:b->c", "i: f:a#0*1 f:b#2*2 f:c#2*2", "the link is replaced"),
        ("l:a->x h:b->a", "i: l:a->x*2 l:b->x*2", "to the symlink itself"),
        ("d:a h:b->a", "refused: /b is a hard link to a directory", "to a directory"),
        ("f:d/a l:e->d/f h:b->e/../a", "i: f:b#0*2 i:d f:d/a#0*2 l:e->d/f", "and back"),
        ("f:d/a l:e->d h:b->e/a", "i: f:b#0*2 i:d f:d/a#0*2 l:e->d", "through a symlink"),
        ("f:a h:b->a f:.wh.a", "i: w:a f:b#0", "whose target is whited out"),
        ("f:a f:.wh.a h:b->a", "i: w:a F:b->a", "to what was"),
        ("f:.wh.a h:b->a", "i: w:a F:b->a", "what is removed is below"),
        ("d:d f:d/a h:b->d/a f:d", "i: f:b#1*1 f:d#3", "the target's directory is replaced"),
        ("h:b->a f:b", "i: f:b#1", "a link that is replaced"),
    ] {
        let want = want.replace("*1", "");
        assert_eq!(rows(members), want, "{members}: {why}");
    }
}

/// What a few bytes of a tar can make the indexer do, or keep.
#[test]
fn members_that_cost_too_much() {
    let deep = vec!["a"; 90].join("/");
    // Each `t` leads back to the bottom, 90 directories down.
    let far = format!("f:s/{}x f:y ", "t/".repeat(38));
    let looked = format!("d:{deep} l:s->{deep} l:s/t->/{deep} {}", far.repeat(25));
    let shown = rows(&looked);
    assert!(shown.contains("lead through too many"), "{shown}");

    let shown = rows(&"d:a f:a ".repeat(REPLACED_MAX as usize));
    assert_eq!(shown, "i: f:a#1999");
    let shown = rows(&"d:a f:a ".repeat(REPLACED_MAX as usize + 1));
    assert!(shown.contains("replaces more than 1000"), "{shown}");

    let dir = tempfile::tempdir().unwrap();
    let index = Index::open(&dir.path().join("db")).unwrap();
    for link in ["a", "c"] {
        let mut tree =
            Tree::new(index.begin_layer(&Digest::Sha256([7; 32])).unwrap(), 100, 4096).unwrap();
        tree.repeated.set(REPEATED_MAX - 8);
        let mut place = |kind, path: &str, link: &str| {
            let mut member = made(kind, path, link, 0);
            member.xattrs = vec![(b"user.x".to_vec(), b"yz".to_vec())];
            let placed = tree.place(member)?;
            placed.map_or(Ok(()), |placed| tree.put(placed, None))?;
            Ok(())
        };
        place("f", "a", "").unwrap();
        place("h", "b", link).unwrap();
        let second: Result<(), Failure> = place("h", "c", "a");
        let end = second.and_then(|()| tree.finish().map(drop));
        match end {
            Err(Failure::Refused(reason)) => assert!(reason.contains("repeat"), "{reason}"),
            other => panic!("{link}: {other:?}"),
        }
    }
}

#[test]
fn limits() {
    let long = |n| "x".repeat(n);
    let deep = format!("f:{}", vec![long(255); 17].join("/"));
    for (members, want) in [
        (format!("f:{}", long(255)), ""),
        (format!("f:{}", long(256)), "more than 255"),
        (format!("f:{}/a", long(256)), "more than 255"),
        (format!("f:.wh.{}", long(255)), ""),
        (format!("f:.wh.{}", long(256)), "more than 255"),
        (deep, "more than 4096"),
        ((0..99).map(|n| format!("f:{n} ")).collect(), ""),
        ((0..100).map(|n| format!("f:{n} ")).collect(), "more than 100 entries"),
        ((0..100).map(|n| format!("f:.wh.{n} ")).collect(), "more than 100 entries"),
    ] {
        let shown = rows(&members);
        assert_eq!(shown.starts_with("refused: "), !want.is_empty(), "{shown}");
        assert!(shown.contains(want), "{shown}");
    }
}
