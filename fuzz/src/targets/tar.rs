//! The tar parser: the same members in whatever pieces the bytes come, each
//! within its limits and with the content that lies where it says.

use crate::layer::tar::{Error, Event, Kind, Limits, Member, Parser};

const BLOCK: usize = 512;

/// The first byte chooses; the rest is the tar.
pub fn tar(data: &[u8]) {
    let Some((&mode, tar)) = data.split_first() else {
        return;
    };
    let mut tar = tar.to_vec();
    if mode & 1 == 0 {
        sign(&mut tar);
    }
    let path = if mode & 2 == 0 { 4096 } else { 64 };
    let (members, result) = parse(&tar, path, usize::MAX);
    for piece in [usize::from(mode >> 2) + 1, BLOCK] {
        assert!((&members, &result) == (&parse(&tar, path, piece).0, &parse(&tar, path, piece).1));
    }
    let mut before = None;
    for (member, content, complete) in &members {
        check(member, path);
        assert!(before < Some(member.header_offset), "members out of order");
        before = Some(member.header_offset);
        assert!(member.data_offset > member.header_offset);
        let stored = &tar[member.data_offset as usize..][..content.len()];
        assert!(content == stored, "content from elsewhere");
        assert_eq!(*complete, content.len() as u64 == member.stored);
    }
}

fn check(member: &Member, path: usize) {
    assert!(member.path.len() <= path && member.link.len() <= path);
    assert!(member.mode <= 0o7777);
    assert!(member.mtime.nanoseconds < 1_000_000_000);
    assert!(member.xattrs.is_sorted_by(|a, b| a.0 < b.0));
    match (&member.sparse, member.kind) {
        (Some(extents), Kind::Regular) => {
            let mut end = 0;
            for extent in extents {
                assert!(extent.length > 0 && extent.offset >= end);
                end = extent.offset + extent.length;
            }
            assert!(end <= member.size);
            let data: u64 = extents.iter().map(|extent| extent.length).sum();
            assert_eq!(data, member.stored);
        }
        (None, Kind::Regular) => assert_eq!(member.size, member.stored),
        (None, Kind::Symlink) => {
            assert_eq!((member.size, member.stored), (member.link.len() as u64, 0));
        }
        (None, _) => assert_eq!((member.size, member.stored), (0, 0)),
        (Some(_), _) => panic!("a sparse {:?}", member.kind),
    }
}

/// Members with what was seen of their content, and whether it came to its end.
type Members = Vec<(Member, Vec<u8>, bool)>;

fn parse(tar: &[u8], path: usize, piece: usize) -> (Members, Result<(), Error>) {
    let mut parser = Parser::new(Limits { path });
    let mut members = Members::new();
    let mut all = || {
        for mut input in tar.chunks(piece) {
            while let Some(event) = parser.next(&mut input)? {
                match (event, members.last_mut()) {
                    (Event::Member(member), _) => members.push((*member, Vec::new(), false)),
                    (Event::Content(bytes), Some((.., content, false))) => {
                        content.extend_from_slice(bytes);
                    }
                    (Event::MemberEnd, Some((.., complete @ false))) => *complete = true,
                    (event, _) => panic!("{event:?} outside a member"),
                }
            }
            assert!(input.is_empty());
        }
        parser.finish()
    };
    let result = all();
    (members, result)
}

/// Gives every block that looks like a header the right checksum, which a
/// fuzzer would not find.
fn sign(tar: &mut [u8]) {
    for block in tar.chunks_exact_mut(BLOCK) {
        if &block[257..262] == b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
            block[148..154].copy_from_slice(format!("{sum:06o}").as_bytes());
            block[154] = 0;
        }
    }
}
