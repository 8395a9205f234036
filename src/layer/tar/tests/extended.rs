//! Extended headers: GNU's long names, PAX.

use super::*;

#[test]
fn extended_headers_that_are_refused() {
    let x = |keyword: &str, value: &[u8]| extended(b'x', &record(keyword, value));
    let tail = file(b"x", b"");
    // Headers, place, problem, why.
    let cases: Vec<(Vec<u8>, u64, Problem, &str)> = vec![
        (x("size", b"1 "), 1024, Problem::PaxValue, "no number"),
        (x("size", b"9223372036854775808"), 1024, Problem::PaxValue, "over off_t"),
        (x("size", b"-1"), 1024, Problem::Number("size"), "below zero"),
        (x("uid", b"4294967296"), 1024, Problem::Number("uid"), "over uid_t"),
        (x("gid", b"1_0"), 1024, Problem::PaxValue, "a separator"),
        (x("mtime", b"1e3"), 1024, Problem::PaxValue, "an exponent"),
        (x("mtime", b".5"), 1024, Problem::PaxValue, "no seconds"),
        (x("atime", b"x"), 1024, Problem::PaxValue, "also where it does not matter"),
        (x("SCHILY.xattr.", b"1"), 1024, Problem::PaxRecord, "an attribute without name"),
        (x("path", b"a\0b"), 512, Problem::PaxRecord, "a NUL in a name"),
        (x("linkpath", b"a\0b"), 512, Problem::PaxRecord, "the same"),
        (x("uname", b"a\0b"), 512, Problem::PaxRecord, "the same"),
        (x("pa\0th", b"p"), 512, Problem::PaxRecord, "a NUL in a keyword"),
        (x("", b"p"), 512, Problem::PaxRecord, "no keyword"),
        (extended(b'x', b"12 path=name"), 512, Problem::PaxRecord, "no newline"),
        (extended(b'x', b"13 path=name\nx"), 512, Problem::PaxRecord, "something behind it"),
        (extended(b'x', b"14 path=name\n"), 512, Problem::PaxRecord, "longer than the header"),
        (extended(b'x', b"10 path=name\n"), 512, Problem::PaxRecord, "shorter than it is"),
        (extended(b'x', b"0 path=name\n"), 512, Problem::PaxRecord, "an endless loop"),
        (extended(b'x', b"99999999999999999999 a=b\n"), 512, Problem::PaxRecord, "an overflow"),
        (extended(b'x', b"9 comment\n"), 512, Problem::PaxRecord, "no value"),
        (extended(b'g', b"9 comment\n"), 512, Problem::PaxRecord, "also for all members"),
    ];
    for (headers, place, expected, why) in cases {
        let tar = [&headers[..], &tail].concat();
        assert_eq!(problem(&tar), (place, expected), "{why}");
    }
}

#[test]
fn pax_records_override_the_header() {
    let time = |seconds, nanoseconds| Time { seconds, nanoseconds };
    let with = |keyword, value| only(&[records(&[(keyword, value)]), file(b"x", b"")].concat());
    assert_eq!(with("uid", "4294967295").uid, u32::MAX);
    assert_eq!(with("gid", "3000000").gid, 3_000_000);
    assert_eq!(with("atime", "1").mtime, time(1_700_000_000, 0));
    // A fraction of any length, which is cut off; the past is a negative number.
    let cases = [
        ("1.5", time(1, 500_000_000)),
        ("0012.000000001999", time(12, 1)),
        ("7.", time(7, 0)),
        ("-1.5", time(-2, 500_000_000)),
        ("-0.25", time(-1, 750_000_000)),
        ("-1.0000000001", time(-1, 0)),
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
    // A link has none, whatever PAX says.
    let tar = [records(&[("size", "512")]), link(b'1').with(b""), file(b"last", b"")];
    assert_eq!(read(&tar.concat()).expect("a tar").len(), 2);
    // Of two extended headers the second counts alone.
    let tar = [records(&[("uid", "7"), ("path", "p")]), records(&[("gid", "8")]), file(b"x", b"")];
    let member = only(&tar.concat());
    assert_eq!((member.uid, member.gid, &member.path[..]), (1000, 8, &b"x"[..]));
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
        [
            pair(b"security.capability", b"\x01\0\0\x02=\n\xff"),
            pair(b"user.empty", b""),
            pair(b"user.z", b"last"),
        ]
    );
}

#[test]
fn global_headers_change_nothing() {
    for keyword in ["comment", "path", "SCHILY.xattr.user.a", "GNU.volume.label"] {
        let tar = [extended(b'g', &record(keyword, b"1")), file(b"x", b"1")].concat();
        let member = only(&tar);
        assert_eq!((&member.path[..], member.xattrs.len()), (&b"x"[..], 0), "{keyword}");
        assert_eq!(member.header_offset, 1024, "not the member's own");
    }
    let tar = [
        records(&[("path", "p")]),
        extended(b'g', &record("comment", b"a commit")),
        file(b"x", b"1"),
    ];
    assert_eq!(only(&tar.concat()).path, b"x", "what came before it is spent");
}
