//! Sparse files.

use super::*;

fn extents(member: &Member) -> Vec<(u64, u64)> {
    let extents = member.sparse.as_ref().expect("sparse").iter();
    extents.map(|extent| (extent.offset, extent.length)).collect()
}

#[test]
fn gnu_sparse_files_are_read() {
    // Four extents in the header, the rest in blocks behind it; the last one is
    // empty, as the file ends in a hole.
    let map: Vec<(u64, u64)> = (0..30).map(|n| (n * 1000, 1)).chain([(40_000, 0)]).collect();
    let entries = |map: &[(u64, u64)]| -> Vec<u8> {
        map.iter().flat_map(|&(offset, length)| old_entry(offset, length)).collect()
    };
    let mut tar = old_gnu(40_000, 30).put(386, &entries(&map[..4])).put(482, b"\x01").with(b"");
    let mut block = entries(&map[4..25]);
    block.resize(BLOCK, 0);
    block[504] = 1;
    tar.extend_from_slice(&block);
    block = entries(&map[25..]);
    block.resize(BLOCK, 0);
    tar.extend_from_slice(&block);
    tar.extend_from_slice(&[b'd'; 30]);
    tar.resize(tar.len().next_multiple_of(BLOCK), 0);
    tar.extend_from_slice(&file(b"after", b""));
    let members = read(&tar).expect("a tar");
    let (member, content) = &members[0];
    assert_eq!((member.size, member.stored, member.data_offset), (40_000, 30, 1536));
    assert_eq!(extents(member), map[..30]);
    assert_eq!(content, &[b'd'; 30]);
    assert_eq!(members[1].0.path, b"after");
}

#[test]
fn pax_sparse_files_are_read_in_all_versions() {
    let stored = Head::new(b"GNUSparseFile.0/s", b'0', 3).with(b"abc");
    let lines = b"3\n0\n1\n1000\n2\n5000\n0\n";
    let mut whole = lines.to_vec();
    whole.resize(BLOCK, 0);
    whole.extend_from_slice(b"abc");
    let versions: [(&str, &[u8], u64, Vec<u8>); 3] = [
        (
            "0.0",
            b"GNUSparseFile.0/s",
            1536,
            [
                records(&[
                    ("GNU.sparse.size", "5000"),
                    ("GNU.sparse.numblocks", "3"),
                    ("GNU.sparse.offset", "0"),
                    ("GNU.sparse.numbytes", "1"),
                    ("GNU.sparse.offset", "1000"),
                    ("GNU.sparse.numbytes", "2"),
                    ("GNU.sparse.offset", "5000"),
                    ("GNU.sparse.numbytes", "0"),
                ]),
                stored.clone(),
            ]
            .concat(),
        ),
        (
            "0.1",
            b"s",
            1536,
            [
                records(&[
                    ("GNU.sparse.size", "5000"),
                    ("GNU.sparse.numblocks", "3"),
                    ("GNU.sparse.name", "s"),
                    ("GNU.sparse.map", "0,1,1000,2,5000,0"),
                ]),
                stored,
            ]
            .concat(),
        ),
        (
            "1.0",
            b"s",
            2048,
            [
                records(&[
                    ("GNU.sparse.major", "1"),
                    ("GNU.sparse.minor", "0"),
                    ("GNU.sparse.name", "s"),
                    ("GNU.sparse.realsize", "5000"),
                ]),
                Head::new(b"GNUSparseFile.0/s", b'0', 515).with(&whole),
            ]
            .concat(),
        ),
    ];
    for (version, name, data, tar) in versions {
        let members = read(&tar).unwrap_or_else(|e| panic!("{version}: {e}"));
        let (member, content) = &members[0];
        assert_eq!((&member.path[..], member.size, member.stored), (name, 5000, 3), "{version}");
        assert_eq!(extents(member), [(0, 1), (1000, 2)], "{version}");
        assert_eq!(content, b"abc", "{version}");
        assert_eq!(member.data_offset, data, "{version}");
    }
}

#[test]
fn sparse_maps_that_do_not_fit_are_refused() {
    let sparse = |what| Problem::Sparse(what);
    let one = &old_entry(0, 3)[..];
    let two = &[old_entry(0, 1), old_entry(0, 2)].concat()[..];
    let old = [
        (old_gnu(9, 3).put(386, two), "extents out of order", "one over the other"),
        (old_gnu(2, 3).put(386, one), "an extent beyond the file's end", "no room"),
        (old_gnu(9, 4).put(386, one), "a map of more or less data than there is", "too little"),
        (old_gnu(9, 3).put(410, one), "a map of more or less data than there is", "blank first"),
    ];
    for (head, expected, why) in old {
        assert_eq!(problem(&head.with(b"abc")), (0, sparse(expected)), "{why}");
    }
    let of = [("GNU.sparse.size", "9"), ("GNU.sparse.numblocks", "1")];
    let map = ("GNU.sparse.map", "0,3");
    let length = "a map of another length than it says";
    let order = "its map's records out of order";
    type Records<'a> = Vec<(&'a str, &'a str)>;
    let pax: [(Records, u64, &str, &str); 5] = [
        (vec![of[0], ("GNU.sparse.numblocks", "2"), map], 1024, length, "wrong count"),
        (vec![of[0], of[1], ("GNU.sparse.numbytes", "1")], 512, order, "a length without offset"),
        (
            vec![of[0], of[1], ("GNU.sparse.offset", "1"), ("GNU.sparse.offset", "1")],
            512,
            order,
            "an offset without length",
        ),
        (
            vec![of[0], of[1], ("GNU.sparse.map", "-1,3")],
            1024,
            "an extent before the file",
            "below zero",
        ),
        (
            vec![of[0], of[1], ("GNU.sparse.map", "9223372036854775807,3")],
            1024,
            "an extent beyond all files",
            "over off_t",
        ),
    ];
    let tail = Head::new(b"s", b'0', 3).with(b"abc");
    for (list, place, expected, why) in pax {
        let tar = [records(&list), tail.clone()].concat();
        assert_eq!(problem(&tar), (place, sparse(expected)), "{why}");
    }
    let right = records(&[of[0], of[1], map]);
    let tar = [right.clone(), empty(b"s", b'5').with(b"")].concat();
    assert_eq!(problem(&tar), (1024, sparse("a type that has no data")));
    for (list, why) in [
        (vec![of[0], of[1]], "no map"),
        (vec![("GNU.sparse.major", "2"), ("GNU.sparse.minor", "0")], "the future"),
        (vec![("GNU.sparse.new", "2")], "the future"),
    ] {
        let member = only(&[records(&list), tail.clone()].concat());
        assert_eq!((member.size, member.sparse), (3, None), "no sparse file: {why}");
    }
    for head in [Head::new(b"s", b'0', 3).gnu(), Head::new(b"s", 0, 3), Head::new(b"s", b'0', 3)] {
        let member = only(&[right.clone(), head.with(b"abc")].concat());
        assert_eq!((member.size, extents(&member)), (9, vec![(0, 3)]), "headers of any format");
    }
    let lines: [(&[u8], &str, &str); 6] = [
        (b"x\n", "a map that is not of numbers", "text"),
        (b"\n", "a map that is not of numbers", "no number"),
        (b"300000\n", "too many extents", "memory"),
        (b"1\n0\n4\n", "a map of more or less data than there is", "too much"),
        (
            &[
                &b"300
"[..],
                &b"0
"
                .repeat(256)[..511],
            ]
            .concat(),
            "a map longer than its member",
            "it would take the next member for numbers",
        ),
        (&[b'1'; 515], "a map longer than its member", "endless"),
    ];
    for (text, expected, why) in lines {
        let head = records(&[
            ("GNU.sparse.major", "1"),
            ("GNU.sparse.minor", "0"),
            ("GNU.sparse.realsize", "9"),
        ]);
        let mut content = text.to_vec();
        content.resize(515, 0);
        let tar = [head, Head::new(b"s", b'0', 515).with(&content)].concat();
        assert_eq!(problem(&tar).1, sparse(expected), "{why}");
    }
}
