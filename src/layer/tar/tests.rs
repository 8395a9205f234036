mod extended;
mod sparse;

use proptest::prelude::*;

use super::*;

/// A header in ustar form; fields are then put over it.
struct Head(Block);

impl Head {
    fn new(name: &[u8], flag: u8, size: u64) -> Head {
        let head = Head([0; BLOCK]);
        head.put(0, name)
            .put(100, b"0000644\0")
            .put(108, b"0001750\0")
            .put(116, b"0000144\0")
            .put(124, format!("{size:011o}\0").as_bytes())
            .put(136, b"14524770400\0")
            .put(156, &[flag])
            .put(257, b"ustar\x0000")
    }

    fn put(mut self, at: usize, bytes: &[u8]) -> Head {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn gnu(self) -> Head {
        self.put(257, b"ustar  \0")
    }

    fn v7(self) -> Head {
        self.put(257, &[0; 8])
    }

    fn unsigned(self) -> Block {
        let mut block = self.0;
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }

    fn with(self, content: &[u8]) -> Vec<u8> {
        let mut bytes = self.unsigned().to_vec();
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        bytes
    }
}

fn file(name: &[u8], content: &[u8]) -> Vec<u8> {
    Head::new(name, b'0', content.len() as u64).with(content)
}

fn empty(name: &[u8], flag: u8) -> Head {
    Head::new(name, flag, 0)
}

fn link(flag: u8) -> Head {
    empty(b"link", flag).put(157, b"target")
}

/// An extended header.
fn extended(flag: u8, content: &[u8]) -> Vec<u8> {
    Head::new(b"extended", flag, content.len() as u64).with(content)
}

fn record(keyword: &str, value: &[u8]) -> Vec<u8> {
    let rest = keyword.len() + value.len() + 3;
    let length = (rest + 1..).find(|length| length.to_string().len() + rest == *length);
    let length = length.expect("some length fits");
    [format!("{length} {keyword}=").as_bytes(), value, b"\n"].concat()
}

fn records(records: &[(&str, &str)]) -> Vec<u8> {
    let records = records.iter();
    let records = records.map(|(keyword, value)| record(keyword, value.as_bytes()));
    extended(b'x', &records.collect::<Vec<_>>().concat())
}

fn old_gnu(size: u64, stored: u64) -> Head {
    let head = Head::new(b"sparse", b'S', stored).gnu();
    head.put(483, format!("{size:011o}\0").as_bytes())
}

fn old_entry(offset: u64, length: u64) -> Vec<u8> {
    format!("{offset:011o}\0{length:011o}\0").into_bytes()
}

/// A member and its content.
type Read = (Member, Vec<u8>);

fn read_with(limits: Limits, tar: &[u8], piece: usize) -> Result<Vec<Read>, Error> {
    let mut parser = Parser::new(limits);
    let mut members: Vec<Read> = Vec::new();
    let mut ended = 0;
    for mut input in tar.chunks(piece) {
        while let Some(event) = parser.next(&mut input)? {
            match event {
                Event::Member(member) => members.push((*member, Vec::new())),
                Event::Content(bytes) => {
                    members.last_mut().expect("a member").1.extend_from_slice(bytes);
                }
                Event::MemberEnd => ended += 1,
            }
        }
    }
    parser.finish()?;
    assert_eq!(ended, members.len());
    assert_eq!(parser.offset(), tar.len() as u64);
    Ok(members)
}

fn read(tar: &[u8]) -> Result<Vec<Read>, Error> {
    read_with(Limits::default(), tar, usize::MAX)
}

fn only(tar: &[u8]) -> Member {
    let mut members = read(tar).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(members.len(), 1);
    members.remove(0).0
}

fn problem(tar: &[u8]) -> (u64, Problem) {
    match read(tar) {
        Err(Error::At { offset, problem }) => (offset, problem),
        other => panic!("no problem: {other:?}"),
    }
}

#[test]
fn a_plain_file_has_all_fields() {
    let tar = [file(b"first", b"1"), file(b"dir/name", b"content")].concat();
    let members = read(&tar).expect("a tar");
    assert_eq!(
        members[1],
        (
            Member {
                header_offset: 1024,
                path: b"dir/name".to_vec(),
                link: Vec::new(),
                kind: Kind::Regular,
                mode: 0o644,
                uid: 1000,
                gid: 100,
                mtime: Time { seconds: 1_700_000_000, nanoseconds: 0 },
                size: 7,
                stored: 7,
                data_offset: 1536,
                device: (0, 0),
                xattrs: Vec::new(),
                sparse: None,
            },
            b"content".to_vec()
        )
    );
}

#[test]
fn types_are_told_apart() {
    let device = |flag| empty(b"a", flag).put(329, b"0000010\0").put(337, b"0000003\0");
    // Header, type, size as `stat` shows it, why.
    let cases = [
        (empty(b"a", b'0'), Kind::Regular, 0, "POSIX"),
        (empty(b"a", 0), Kind::Regular, 0, "V7"),
        (empty(b"a", b'7'), Kind::Regular, 0, "contiguous is regular"),
        (empty(b"a", b'5'), Kind::Directory, 0, "a directory needs no slash"),
        (empty(b"a/", 0), Kind::Directory, 0, "V7's directories have a slash"),
        (Head::new(b"a/", b'5', 700), Kind::Directory, 0, "some note a directory's size; no data"),
        (
            Head::new(b"a", b'1', 700).put(157, b"t"),
            Kind::HardLink,
            0,
            "and a hard link's; no data",
        ),
        (link(b'2'), Kind::Symlink, 6, "its size is its target's"),
        (device(b'3'), Kind::Character, 0, "character device"),
        (device(b'4'), Kind::Block, 0, "block device"),
        (empty(b"a", b'6'), Kind::Fifo, 0, "fifo"),
    ];
    for (head, kind, size, why) in cases {
        let member = only(&head.unsigned());
        assert_eq!((member.kind, member.size, member.stored), (kind, size, 0), "{why}");
        let numbers = matches!(kind, Kind::Character | Kind::Block);
        assert_eq!(member.device, if numbers { (8, 3) } else { (0, 0) }, "{why}");
    }
}

/// What no runtime can unpack.
#[test]
fn headers_that_are_refused() {
    let cases = [
        (empty(b"a", b'1'), Problem::NoTarget, "a link to nothing"),
        (empty(b"a", b'0').put(100, b"644 junk"), Problem::Number("mode"), "no number"),
        (
            empty(b"a", b'0').put(108, b"\xff\xff\xff\xff\xff\xff\xff\xff"),
            Problem::Number("uid"),
            "negative",
        ),
        (
            empty(b"a", b'0').put(116, b"\x80\0\0\x01\0\0\0\0"),
            Problem::Number("gid"),
            "over 32 bits",
        ),
        (
            empty(b"a", b'0').put(136, b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
            Problem::Number("mtime"),
            "over 64 bits",
        ),
        (empty(b"a", b'0').put(124, b"1 1"), Problem::Number("size"), "two numbers"),
        (empty(b"a", b'0').put(329, b"junk"), Problem::Number("device"), "also of a file"),
        (
            empty(b"a", b'0').put(476, b"junk").put(508, b"tar\0"),
            Problem::Number("time"),
            "star's times",
        ),
        (empty(b"a", b'D').gnu(), Problem::Type(b'D'), "GNU dumpdir"),
        (empty(b"a", b'M').gnu(), Problem::Type(b'M'), "GNU multi-volume"),
        (empty(b"a", b'V').gnu(), Problem::Type(b'V'), "GNU volume label"),
        (empty(b"a", b'N').gnu(), Problem::Type(b'N'), "old GNU long name"),
        (empty(b"a", b'X'), Problem::Type(b'X'), "Solaris's x"),
        (empty(b"a", b'S'), Problem::Type(b'S'), "sparse, but not GNU's"),
        (empty(b"a", b'9'), Problem::Type(b'9'), "no known type"),
    ];
    for (head, expected, why) in cases {
        let tar = [file(b"first", b""), head.unsigned().to_vec()].concat();
        assert_eq!(problem(&tar), (512, expected), "{why}");
    }
}

/// Headers that GNU tar or `tarfile` read in another way, or not at all, and runtimes without ado.
#[test]
fn odd_headers_are_read_as_runtimes_read_them() {
    let blanks = &[b' '; 8];
    // Header, kind, path, why.
    let cases: [(Head, Kind, &[u8], &str); 13] = [
        (Head::new(b"a", b'2', 9).put(157, b"t"), Kind::Symlink, b"a", "a link with a size"),
        (Head::new(b"a", b'6', 9), Kind::Fifo, b"a", "a FIFO with one"),
        (Head::new(b"a", b'3', 9), Kind::Character, b"a", "a device with one"),
        (Head::new(b"a/", 0, 9), Kind::Directory, b"a/", "a directory of V7 with one"),
        (empty(b"a/", b'0'), Kind::Regular, b"a/", "a file with a slash"),
        (empty(b"a/", b'7'), Kind::Regular, b"a/", "a contiguous one"),
        (empty(b"a", b'3').v7().put(329, b"1\0"), Kind::Character, b"a", "V7 has no numbers"),
        (empty(b"a", b'0').put(108, blanks).put(116, blanks), Kind::Regular, b"a", "blanks"),
        (empty(b"a", b'0').v7().put(345, b"p"), Kind::Regular, b"a", "V7 has no prefix"),
        (empty(b"a", b'0').gnu().put(345, b"p"), Kind::Regular, b"p/a", "GNU's old mistake"),
        (empty(b"a", b'0').gnu().put(345, b"\xff"), Kind::Regular, b"a", "neither"),
        (empty(b"a", b'0').put(263, b"  ").put(345, b"p"), Kind::Regular, b"p/a", "version"),
        (
            empty(b"a", b'0').put(345, &[b'p'; 155]).put(476, &[0; 24]).put(508, b"tar\0"),
            Kind::Regular,
            &[&[b'p'; 131][..], b"/a"].concat(),
            "star's prefix is shorter",
        ),
    ];
    for (head, kind, path, why) in cases {
        let tar = [head.unsigned().to_vec(), file(b"last", b"")].concat();
        let members = read(&tar).unwrap_or_else(|error| panic!("{why}: {error}"));
        let member = &members[0].0;
        assert_eq!((member.kind, &member.path[..], member.stored), (kind, path, 0), "{why}");
        assert_eq!((member.device, members.len()), ((0, 0), 2), "{why}");
    }
}

#[test]
fn names_are_put_together() {
    let (hundred, wide) = ([b'n'; 100], [b'p'; 155]);
    let long = [b'l'; 300];
    let whole = [&wide[..], b"/", &hundred].concat();
    let gnu = |flag, text: &[u8]| extended(flag, text);
    // Tar, path, link, why.
    type Named<'a> = (Vec<u8>, &'a [u8], &'a [u8], &'a str);
    let cases: [Named; 20] = [
        (empty(&hundred, b'0').with(b""), &hundred, b"", "exactly 100 bytes"),
        (empty(&hundred, b'0').put(345, &wide).with(b""), &whole, b"", "ustar prefix"),
        (
            empty(b"a", b'0').gnu().put(345, b"14524770400\x0014524770400\0").with(b""),
            b"a",
            b"",
            "GNU has times there",
        ),
        (empty(b"n\xff\n\\%\"", b'0').with(b""), b"n\xff\n\\%\"", b"", "any bytes"),
        (empty(b"/a//b/./../c", b'0').with(b""), b"/a//b/./../c", b"", "as it stands"),
        (empty(b"", b'5').with(b""), b"", b"", "even without a name"),
        (empty(b"a", b'2').put(157, &hundred).with(b""), b"a", &hundred, "a target of 100 bytes"),
        ([gnu(b'L', &long), file(b"x", b"")].concat(), &long, b"", "L, without NUL"),
        (
            [gnu(b'L', b"long\0"), empty(b"x", b'0').put(345, b"p").with(b"")].concat(),
            b"long",
            b"",
            "L, no prefix",
        ),
        ([gnu(b'K', &long), link(b'1').with(b"")].concat(), b"link", &long, "K"),
        (
            [gnu(b'K', b"k\0"), gnu(b'L', b"l\0"), link(b'2').with(b"")].concat(),
            b"l",
            b"k",
            "K and L",
        ),
        ([gnu(b'K', b"k\0"), file(b"x", b"")].concat(), b"x", b"", "a target for no link"),
        (
            [records(&[("path", "p"), ("linkpath", "t")]), link(b'2').with(b"")].concat(),
            b"p",
            b"t",
            "PAX",
        ),
        (
            [records(&[("path", "p")]), gnu(b'L', b"p\0"), file(b"x", b"")].concat(),
            b"p",
            b"",
            "twice the same",
        ),
        (
            [records(&[("path", "p")]), gnu(b'L', b"l\0"), file(b"x", b"")].concat(),
            b"l",
            b"",
            "L before PAX",
        ),
        ([gnu(b'L', b"l\0"), gnu(b'L', b"m\0"), file(b"x", b"")].concat(), b"m", b"", "L twice"),
        ([gnu(b'L', b""), file(b"x", b"")].concat(), b"x", b"", "an empty L"),
        ([records(&[("path", "")]), file(b"x", b"")].concat(), b"x", b"", "an empty PAX path"),
        ([records(&[("linkpath", "")]), file(b"x", b"")].concat(), b"x", b"", "and an empty link"),
        (
            [records(&[("linkpath", "")]), link(b'2').with(b"")].concat(),
            b"link",
            b"target",
            "the header's counts",
        ),
    ];
    for (tar, path, target, why) in cases {
        let member = only(&tar);
        assert_eq!((&member.path[..], &member.link[..]), (path, target), "{why}");
        assert_eq!(member.header_offset, 0, "{why}");
        assert_eq!(member.data_offset, tar.len() as u64, "{why}");
    }
}

#[test]
fn odd_fields_are_read() {
    let high = |bytes: &[u8]| only(&empty(b"a", b'0').put(136, bytes).with(b""));
    assert_eq!(
        high(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xae").mtime.seconds,
        -338,
        "before 1970"
    );
    assert_eq!(high(&[0; 12]).mtime.seconds, 0, "blank");
    let member = only(
        &empty(b"a", b'0').put(100, b"0104755\0").put(108, b"\x80\0\0\0\xff\xff\xff\xff").with(b""),
    );
    assert_eq!(member.mode, 0o4755, "Go wrote type bits before 1.9");
    assert_eq!(member.uid, u32::MAX, "base-256");
    assert_eq!(
        only(&empty(b"a", b'0').put(329, &[b' '; 16]).with(b"")).device,
        (0, 0),
        "blank, and no device"
    );
    let size = Head::new(b"a", b'0', 0).put(124, b"\x80\0\0\0\0\0\0\0\0\0\0\x03").with(b"abc");
    assert_eq!(only(&size).stored, 3, "base-256");

    // Sun and NeXT summed signed bytes.
    let mut block = empty(b"\xff\xfe", b'0').unsigned();
    let sum: i32 = (0..BLOCK)
        .map(|at| if (148..156).contains(&at) { 32 } else { i32::from(block[at].cast_signed()) })
        .sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    assert_eq!(only(&block).path, b"\xff\xfe");
}

#[test]
fn sizes_around_a_block_are_padded() {
    for size in [0, 1, 511, 512, 513, 1023, 1024, 1025] {
        let content = vec![b'c'; size];
        let tar = [file(b"x", &content), file(b"last", b"")].concat();
        let members = read(&tar).expect("a tar");
        assert_eq!((members.len(), &members[0].1), (2, &content), "{size}");
    }
}

#[test]
fn tars_end_in_many_ways() {
    let (one, zero) = (file(b"x", b"1"), [0; BLOCK]);
    // Tar, members, why.
    let cases: [(Vec<u8>, usize, &str); 10] = [
        (Vec::new(), 0, "no bytes at all: old Dockers have such layers"),
        (vec![0; 1024], 0, "an empty tar"),
        (vec![0; 512], 0, "a single block of zeros"),
        (one.clone(), 1, "no end"),
        ([&one[..], &zero].concat(), 1, "half an end"),
        ([&one[..], &zero, &zero].concat(), 1, "as it should be"),
        ([&one[..], &zero, &zero, b"junk"].concat(), 1, "junk behind it"),
        ([&one[..], &zero, &zero, &one].concat(), 1, "tars in a row: only the first counts"),
        ([&one[..], &one].concat(), 2, "members in a row"),
        ([one.clone(), records(&[("path", "p")])].concat(), 1, "a last header for no member"),
    ];
    for (tar, members, why) in cases {
        assert_eq!(read(&tar).map(|members| members.len()), Ok(members), "{why}");
    }
    let half = [&one[..], &zero, &one].concat();
    assert_eq!(problem(&half), (1536, Problem::End), "a header where the end goes on");
    let cut = [&one[..], &zero, b"junk"].concat();
    assert_eq!(problem(&cut), (1540, Problem::Truncated("header")), "junk where it goes on");
}

#[test]
fn truncated_tars_are_errors() {
    let tar = [records(&[("path", "long")]), file(b"x", &[1; 700]), file(b"y", b"")].concat();
    let truncated = Problem::Truncated;
    let cases = [
        (513, truncated("extended header"), "content of the extended header"),
        (1025, truncated("header"), "header"),
        (1536, truncated("member's content"), "no content"),
        (2235, truncated("member's content"), "content"),
        (2561, truncated("header"), "the next header"),
    ];
    for (length, expected, why) in cases {
        assert_eq!(problem(&tar[..length]), (length as u64, expected), "{why}");
    }
    assert_eq!(read(&tar[..2560]).map(|members| members.len()), Ok(1), "between members");
    for length in [1000, 1024] {
        assert_eq!(read(&tar[..length]), Ok(Vec::new()), "behind the extended header's content");
    }
    for length in [2236, 2559] {
        let members = read(&tar[..length]).map(|members| members.len());
        assert_eq!(members, Ok(1), "umoci leaves off the last padding");
    }
    let sparse = old_gnu(9, 3).put(386, &old_entry(0, 1).repeat(1)).put(482, b"\x01");
    let sparse =
        sparse.put(410, &old_entry(1, 1)).put(434, &old_entry(2, 1)).put(458, &old_entry(3, 0));
    assert_eq!(problem(&sparse.with(b"")), (512, truncated("sparse file's map")));
}

#[test]
fn what_is_no_tar_is_told_apart() {
    for bytes in [&b"{}"[..], &[0; 511], &[b'x'; 512], b"\x1f\x8b\x08"] {
        assert_eq!(read(bytes), Err(Error::NotTar), "{}", bytes.len());
    }
    let mut tar = [file(b"x", b""), file(b"y", b"")].concat();
    tar[512] ^= 1;
    assert_eq!(problem(&tar), (512, Problem::Checksum), "later it is damage");
    assert_eq!(
        read(&tar).expect_err("damage").to_string(),
        "at byte 512 of the layer's tar: a header with a wrong checksum"
    );
}

#[test]
fn limits_hold_before_memory_is_taken() {
    let limits = Limits { path: 300 };
    let refused = |tar: &[u8]| match read_with(limits, tar, usize::MAX) {
        Err(Error::At { problem, .. }) => problem,
        other => panic!("no problem: {other:?}"),
    };
    let long = "n".repeat(301);
    for (tar, why) in [
        ([records(&[("path", &long)]), file(b"x", b"")].concat(), "path"),
        ([records(&[("linkpath", &long)]), link(b'2').with(b"")].concat(), "linkpath"),
        ([extended(b'L', long.as_bytes()), file(b"x", b"")].concat(), "L"),
        ([extended(b'K', long.as_bytes()), link(b'1').with(b"")].concat(), "K"),
    ] {
        assert_eq!(refused(&tar), Problem::TooLong(300), "{why}");
    }
    let fits = [extended(b'L', &[&long.as_bytes()[1..], b"\0"].concat()), file(b"x", b"")].concat();
    assert_eq!(read_with(limits, &fits, 7).expect("fits")[0].0.path.len(), 300);
    // Refused by the header, whatever follows.
    for (flag, size) in [(b'x', (1 << 20) + 1), (b'g', 1 << 30), (b'L', 1 << 21), (b'K', 1 << 33)] {
        let head = Head::new(b"x", flag, 0).put(124, format!("{size:012o}").as_bytes());
        assert_eq!(refused(&head.unsigned()), Problem::ExtensionSize(size));
    }
    let head = Head::new(b"x", b'0', 0).put(124, b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff");
    let tar = head.unsigned();
    assert_eq!(
        problem(&tar),
        (512, Problem::Truncated("member's content")),
        "8 EiB are counted, not taken"
    );
}

#[test]
fn a_failed_parser_stays_failed() {
    let mut parser = Parser::new(Limits::default());
    let mut input = &[1; BLOCK][..];
    assert_eq!(parser.next(&mut input), Err(Error::NotTar));
    let good = file(b"x", b"");
    assert_eq!(parser.next(&mut &good[..]), Err(Error::NotTar));
    assert_eq!(parser.finish(), Err(Error::NotTar));
}

/// Tars of a few members of all kinds, often damaged in one byte.
fn any_tar() -> impl Strategy<Value = Vec<u8>> {
    let name = "[a-z/]{0,12}".prop_map(String::into_bytes);
    let member = (name, 0..700usize, 0..9u8).prop_map(|(name, size, kind)| {
        let content = vec![b'c'; size];
        match kind {
            0 => empty(&name, b'5').with(b""),
            1 => link(b'2').with(b""),
            2 => [extended(b'L', &[&name[..], b"long\0"].concat()), file(b"x", &content)].concat(),
            3 => [records(&[("path", "p"), ("size", "3")]), file(b"x", b"123")].concat(),
            4 => old_gnu(9000, 3).put(386, &old_entry(512, 3)).with(b"abc"),
            5 => vec![0; BLOCK],
            6 => extended(b'g', &record("comment", b"c")),
            _ => file(&[b"f", &name[..]].concat(), &content),
        }
    });
    let members = prop::collection::vec(member, 0..6);
    (members, any::<prop::sample::Index>(), any::<Option<u8>>()).prop_map(|(members, at, byte)| {
        let mut tar = members.concat();
        if let Some(byte) = byte
            && !tar.is_empty()
        {
            let at = at.index(tar.len());
            tar[at] = byte;
        }
        tar
    })
}

proptest! {
    /// However the bytes come, they say the same.
    #[test]
    fn pieces_make_no_difference(tar in any_tar(), piece in 1..1500usize) {
        let whole = read(&tar);
        prop_assert_eq!(read_with(Limits::default(), &tar, piece), whole);
    }

    /// Any bytes end in an answer.
    #[test]
    fn any_bytes_end(bytes in prop::collection::vec(any::<u8>(), 0..3000), signed in any::<bool>()) {
        let mut bytes = bytes;
        if signed && let Some(block) = bytes.first_chunk_mut::<BLOCK>() {
            *block = Head(*block).unsigned();
        }
        drop(read(&bytes));
    }
}
