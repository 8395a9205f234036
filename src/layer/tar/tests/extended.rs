//! Extended headers: GNU's long names, PAX.

use super::*;

#[test]
fn extended_headers_that_are_read_in_two_ways_are_refused() {
    let x = |keyword: &str, value: &[u8]| extended(b'x', &record(keyword, value));
    let tail = file(b"x", b"");
    let (long, target) = (extended(b'L', b"l\0"), extended(b'K', b"k\0"));
    let global = |keyword: &str| extended(b'g', &record(keyword, b"1"));
    let mut dirty = x("comment", b"");
    dirty[1023] = b'1';
    let two = |one: &[u8], other: &[u8]| [one, other].concat();
    // Headers, place, problem, why.
    let cases: Vec<(Vec<u8>, u64, Problem, &str)> = vec![
        (
            two(&long, &long),
            1024,
            Problem::Repeated(b'L'),
            "GNU tar takes the last, tarfile the first",
        ),
        (two(&target, &target), 1024, Problem::Repeated(b'K'), "the same"),
        (two(&x("a", b""), &x("b", b"")), 1024, Problem::Repeated(b'x'), "others take both"),
        (
            two(&x("size", b"1"), &global("comment")),
            1024,
            Problem::Repeated(b'g'),
            "Go forgets the x",
        ),
        (two(&x("path", b"p"), &long), 2048, Problem::Conflict, "Go takes the L, GNU tar the x"),
        (two(&target, &x("linkpath", b"p")), 2048, Problem::Conflict, "the same"),
        (extended(b'L', b""), 0, Problem::NoName, "Go takes the header's name"),
        (extended(b'L', b"\0\0"), 512, Problem::NoName, "the same"),
        (dirty, 512 + 12, Problem::ExtensionPadding, "tarfile reads records there"),
        (global("path"), 512, Problem::Global("path".into()), "Go ignores it"),
        (
            global("SCHILY.xattr.user.a"),
            512,
            Problem::Global("SCHILY.xattr.user.a".into()),
            "Go ignores it",
        ),
        (x("size", b"1 "), 512, Problem::PaxValue, "GNU tar fails"),
        (x("size", b"9223372036854775808"), 512, Problem::PaxValue, "over off_t"),
        (x("uid", b"4294967296"), 512, Problem::PaxValue, "over uid_t"),
        (x("gid", b"1_0"), 512, Problem::PaxValue, "Python's own separator"),
        (x("mtime", b"1e3"), 512, Problem::PaxValue, "only tarfile reads it"),
        (x("mtime", b".5"), 512, Problem::PaxValue, "GNU tar fails"),
        (x("path", b""), 512, Problem::PaxValue, "Go takes the header's"),
        (x("path", b"a\0b"), 512, Problem::PaxValue, "GNU tar ends at the NUL"),
        (x("linkpath", b"a\0b"), 512, Problem::PaxValue, "the same"),
        (x("hdrcharset", b"latin-1"), 512, Problem::PaxValue, "not bytes as they are"),
        (x("SCHILY.xattr.", b"1"), 512, Problem::PaxRecord, "an attribute without name"),
        (x(" path", b"p"), 512, Problem::PaxRecord, "GNU tar skips the blank"),
        (x("pa\0th", b"p"), 512, Problem::PaxRecord, "GNU tar ends at the NUL"),
        (x("", b"p"), 512, Problem::PaxRecord, "no keyword"),
        (extended(b'x', b"12 path=name"), 512, Problem::PaxRecord, "no newline"),
        (extended(b'x', b"13 path=name\nx"), 512, Problem::PaxRecord, "something behind it"),
        (extended(b'x', b"14 path=name\n"), 512, Problem::PaxRecord, "longer than the header"),
        (extended(b'x', b"10 path=name\n"), 512, Problem::PaxRecord, "shorter than it is"),
        (extended(b'x', b"0 path=name\n"), 512, Problem::PaxRecord, "an endless loop"),
        (extended(b'x', b"99999999999999999999 a=b\n"), 512, Problem::PaxRecord, "an overflow"),
        (extended(b'x', b"9 comment\n"), 512, Problem::PaxRecord, "no value"),
        (x("GNU.dumpdir", b"Y"), 512, Problem::Volume, "an incremental archive"),
        (global("GNU.volume.label"), 512, Problem::Volume, "a volume's label"),
    ];
    for (headers, place, expected, why) in cases {
        let tar = [&headers[..], &tail].concat();
        assert_eq!(problem(&tar), (place, expected), "{why}");
    }
    // What the member's type makes of them.
    let cases: Vec<(Vec<u8>, Head, Problem, &str)> = vec![
        (
            extended(b'L', b"dir/\0"),
            empty(b"x", 0),
            Problem::Slash,
            "tarfile looks at the header's name",
        ),
        (x("path", b"dir/"), empty(b"x", b'0'), Problem::Slash, "GNU tar takes it for a directory"),
        (long, empty(b"x/", 0), Problem::Slash, "tarfile takes it for a directory"),
        (x("size", b"9"), link(b'1'), Problem::Data(b'1'), "GNU tar skips data"),
        (x("size", b"9"), empty(b"x", b'5'), Problem::Data(b'5'), "not for a directory either"),
    ];
    for (headers, head, expected, why) in cases {
        let tar = two(&headers, &head.with(b""));
        assert_eq!(problem(&tar), (1024, expected), "{why}");
    }
}

#[test]
fn pax_records_override_the_header() {
    let time = |seconds, nanoseconds| Time { seconds, nanoseconds };
    let with = |keyword, value| only(&[records(&[(keyword, value)]), file(b"x", b"")].concat());
    assert_eq!(with("uid", "4294967295").uid, u32::MAX);
    assert_eq!(with("gid", "3000000").gid, 3_000_000);
    assert_eq!(with("atime", "1").mtime, time(1_700_000_000, 0));
    // POSIX: a fraction of any length; the past is a negative number.
    let cases = [
        ("1.5", time(1, 500_000_000)),
        ("0012.000000001999", time(12, 1)),
        ("7.", time(7, 0)),
        ("-1.5", time(-2, 500_000_000)),
        ("-0.25", time(-1, 750_000_000)),
        ("-1.0000000001", time(-2, 999_999_999)),
        ("-0", time(0, 0)),
        ("-3.000", time(-3, 0)),
    ];
    for (value, expected) in cases {
        assert_eq!(with("mtime", value).mtime, expected, "{value}");
    }

    // The size of the data is PAX's, whatever the header says: more than one
    // parser went on in the middle of a file here.
    let hidden = file(b"hidden", b"");
    let tar = [
        records(&[("size", "512"), ("size", "1024")]),
        Head::new(b"x", b'0', 0).with(b""),
        hidden.clone(),
        hidden,
        file(b"last", b""),
    ];
    let members = read(&tar.concat()).expect("a tar");
    let names = members.iter().map(|(member, _)| &member.path[..]);
    assert_eq!(names.collect::<Vec<_>>(), [&b"x"[..], b"last"]);
    // An L between does not take the size for its own.
    let tar = [
        records(&[("size", "3")]),
        extended(b'L', b"long\0"),
        Head::new(b"x", b'0', 0).with(b"abc"),
        file(b"last", b""),
    ];
    let members = read(&tar.concat()).expect("a tar");
    assert_eq!((&members[0].0.path[..], &members[0].1[..]), (&b"long"[..], &b"abc"[..]));
    assert_eq!((members[0].0.header_offset, members[1].0.header_offset), (0, 3072));
}

#[test]
fn xattrs_have_a_limit() {
    let tar = |lengths: &[usize]| {
        let records: Vec<Vec<u8>> = lengths
            .iter()
            .enumerate()
            .map(|(number, &length)| {
                let name = format!("SCHILY.xattr.user.{number}");
                record(&name, &vec![b'v'; length])
            })
            .collect();
        [extended(b'x', &records.concat()), file(b"x", b"")].concat()
    };
    // Names count: six bytes each.
    for lengths in [&[(64 << 10) - 6][..], &[32 << 10, (32 << 10) - 12]] {
        assert_eq!(only(&tar(lengths)).xattrs.len(), lengths.len());
    }
    for lengths in [&[(64 << 10) - 5][..], &[32 << 10, (32 << 10) - 11]] {
        assert_eq!(problem(&tar(lengths)), (512, Problem::Xattrs(64 << 10)));
    }
}

#[test]
fn xattrs_are_bytes_by_name() {
    let content = [
        record("SCHILY.xattr.user.z", b"early"),
        record("SCHILY.xattr.security.capability", b"\x01\0\0\x02=\n\xff"),
        record("SCHILY.xattr.user.empty", b""),
        record("SCHILY.xattr.user.z", b"last"),
        record("LIBARCHIVE.xattr.user.other", b"dmFsdWU="),
        record("hdrcharset", b"BINARY"),
    ];
    let member = only(&[extended(b'x', &content.concat()), link(b'2').with(b"")].concat());
    let pair = |name: &[u8], value: &[u8]| (name.to_vec(), value.to_vec());
    assert_eq!(
        member.xattrs,
        [pair(b"security.capability", b"\x01\0\0\x02=\n\xff"), pair(b"user.z", b"last"),]
    );
}

#[test]
fn global_headers_without_effect_are_skipped() {
    let tar = [extended(b'g', &record("comment", b"a commit")), file(b"x", b"1")].concat();
    assert_eq!(only(&tar).header_offset, 1024, "not the member's own");
    // `tarfile` fails when nothing follows.
    assert_eq!(problem(&tar[..1024]), (1024, Problem::Dangling));
}
