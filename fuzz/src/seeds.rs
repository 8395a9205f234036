//! What the targets start from: small and sound.

use std::io::Write;

use bzip2::write::BzEncoder;
use flate2::write::{DeflateEncoder, GzEncoder};
use liblzma::write::XzEncoder;

use crate::index::records::{Entry, Extent, Kind, Layer, Record, Span, State};
use crate::layer::codec::{Checkpoint, Compression};

pub fn of(target: &str) -> Vec<Vec<u8>> {
    match target {
        "gzip" => gzip(),
        "manifests" => manifests(),
        "names" => names(),
        "records" => records(),
        "tar" => tars().iter().map(|tar| [b"\0", &tar[..]].concat()).collect(),
        "zstd" => zstd(),
        _ => panic!("no target {target}"),
    }
}

fn names() -> Vec<Vec<u8>> {
    let digest = format!("sha256:{}", "0a".repeat(32));
    [
        "team/**\0team/app/x",
        "a/**/z\0a/b/z",
        "ann-?/x[0-9]\0ann-1/x7",
        "v1.0-rc",
        "linux/arm64/v8",
        &digest,
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

fn text() -> Vec<u8> {
    (0..300).flat_map(|n| format!("etc/{} {}\n", n * n, n % 7).into_bytes()).collect()
}

fn gzip() -> Vec<Vec<u8>> {
    let text = text();
    let mut seeds = Vec::new();
    for level in [0, 1, 9] {
        let level = flate2::Compression::new(level);
        let mut file = GzEncoder::new(vec![0], level);
        file.write_all(&text).expect("memory");
        seeds.push(file.finish().expect("memory"));
        for (mode, plain) in [(1, &text[..]), (1, &[0; 100_000]), (2, &text), (3, b"text")] {
            let mut blocks = DeflateEncoder::new(vec![mode], level);
            // Two blocks and an empty one.
            let (one, other) = plain.split_at(plain.len() / 2);
            blocks.write_all(one).expect("memory");
            blocks.flush().expect("memory");
            blocks.write_all(other).expect("memory");
            seeds.push(blocks.finish().expect("memory"));
        }
    }
    // Fixed codes: "a", and the 258 bytes 32,768 back, twice.
    seeds.push(b"\x02\x4b\x1c\x05\xa3\x60\x14\x0c\x77\x00\x00".to_vec());
    // A header with every field.
    seeds.push(
        b"\0\x1f\x8b\x08\x1f\0\0\0\0\0\xff\x02\0xxname\0comment\0\0\0\x03\0\0\0\0\0\0\0\0\0"
            .to_vec(),
    );
    seeds
}

fn zstd() -> Vec<Vec<u8>> {
    let frame = |plain: &[u8], level| {
        let mut frame = vec![0; zstd_safe::compress_bound(plain.len())];
        let length = zstd_safe::compress(&mut frame[..], plain, level).expect("room");
        frame.truncate(length);
        frame
    };
    let text = text();
    let mut bzip2 = BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bzip2.write_all(&text).expect("memory");
    let mut xz = XzEncoder::new(Vec::new(), 0);
    xz.write_all(&text).expect("memory");
    vec![
        frame(&text, 1),
        frame(&text, 19),
        frame(&vec![0; 3 << 20], 1),
        [&frame(&text, 1)[..], b"\x50\x2a\x4d\x18\x02\0\0\0xx", &frame(b"a", 1)].concat(),
        frame(b"", 1),
        bzip2.finish().expect("memory"),
        xz.finish().expect("memory"),
    ]
}

fn records() -> Vec<Vec<u8>> {
    let mut entry = Entry::implicit(Kind::Regular);
    entry.link = b"target".to_vec();
    entry.xattrs = vec![(b"user.x".to_vec(), b"value".to_vec())];
    entry.sparse = Some(vec![Extent { offset: 4096, length: 512 }]);
    entry.sha256 = Some([7; 32]);
    let span = Span {
        checkpoint: Checkpoint { input: 1 << 40, bits: 3, raw: true, window: text() },
        length: 2 << 20,
        checksum: u64::MAX,
    };
    let layer = Layer {
        number: 1,
        compression: Compression::Zstd,
        copied: true,
        compressed: 100,
        uncompressed: 300,
        diff_id: [1; 32],
        entries: 3,
        spans: vec![100, 200],
        cross_layer_links: 1,
    };
    vec![
        entry.encode(),
        span.encode(),
        State::Ready(layer).encode(),
        State::Refused("not a tar".into()).encode(),
    ]
}

fn manifests() -> Vec<Vec<u8>> {
    let digest = format!("sha256:{}", "0a".repeat(32));
    let part = |media_type: &str| {
        format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":7}}"#)
    };
    let config = part("application/vnd.oci.image.config.v1+json");
    let layer = part("application/vnd.oci.image.layer.v1.tar+gzip");
    let foreign = part("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
    let manifest = part("application/vnd.oci.image.manifest.v1+json");
    [
        format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layer},{foreign}]}}"#),
        format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json","config":{config},"layers":[{layer}]}}"#
        ),
        format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{{"digest":"{digest}","size":7,"platform":{{"os":"linux","architecture":"arm","variant":"v7"}}}}],"annotations":{{"a":"b"}}}}"#
        ),
        format!(
            r#"{{"schemaVersion":2,"artifactType":"a/b","config":{config},"layers":null,"subject":{manifest}}}"#
        ),
        format!(
            r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{digest}"]}}}}"#
        ),
        r#"{"schemaVersion":1,"name":"a","fsLayers":[]}"#.to_owned(),
    ]
    .map(String::into_bytes)
    .to_vec()
}

/// A member of a tar; `field` sets more of its header.
fn member(name: &str, flag: u8, content: &[u8], field: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut tar = vec![0; 512];
    tar[..name.len()].copy_from_slice(name.as_bytes());
    tar[100..107].copy_from_slice(b"0000644");
    tar[108..115].copy_from_slice(b"0001750");
    tar[116..123].copy_from_slice(b"0001750");
    tar[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
    tar[136..147].copy_from_slice(b"14700000000");
    tar[156] = flag;
    tar[257..265].copy_from_slice(b"ustar\x0000");
    field(&mut tar);
    tar.extend(content);
    tar.resize(tar.len().next_multiple_of(512), 0);
    tar
}

fn file(name: &str, content: &[u8]) -> Vec<u8> {
    member(name, b'0', content, |_| {})
}

fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let mut content = String::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        // The length counts its own digits.
        let length = (1..).map(|digits| rest + digits).find(|n| n.to_string().len() == n - rest);
        content += &format!("{} {key}={value}\n", length.expect("one of the first few"));
    }
    member("pax", b'x', content.as_bytes(), |_| {})
}

fn tars() -> Vec<Vec<u8>> {
    let link = |name, flag, target: &[u8]| {
        member(name, flag, b"", |header| header[157..157 + target.len()].copy_from_slice(target))
    };
    let gnu = |header: &mut [u8]| header[257..265].copy_from_slice(b"ustar  \0");
    let long = "d/".repeat(60) + "name";
    let end = vec![0; 1024];
    // The map of a PAX 1.0 sparse file, then its data.
    let mut sparse = b"1\n4096\n512\n".to_vec();
    sparse.resize(512, 0);
    sparse.resize(1024, b'x');
    vec![
        [
            member("d/", b'5', b"", |_| {}),
            file("d/file", b"content"),
            link("d/symlink", b'2', b"../file"),
            link("d/hard", b'1', b"d/file"),
            member("d/dev", b'3', b"", |header| {
                header[329..336].copy_from_slice(b"0000010");
                header[337..344].copy_from_slice(b"0000001");
            }),
            member("d/fifo", b'6', b"", |_| {}),
            end.clone(),
        ]
        .concat(),
        [
            member("././@LongLink", b'L', format!("{long}\0").as_bytes(), gnu),
            member("././@LongLink", b'K', format!("{long}\0").as_bytes(), gnu),
            member("short", b'2', b"", gnu),
            end.clone(),
        ]
        .concat(),
        [
            pax(&[
                ("path", &long),
                ("uid", "4000000"),
                ("mtime", "-1.25"),
                ("SCHILY.xattr.user.x", "value"),
            ]),
            file("short", b"content"),
            end.clone(),
        ]
        .concat(),
        [pax(&[("size", "600")]), member("f", b'0', &[b'x'; 600], |_| {}), end.clone()].concat(),
        // GNU's old sparse file: a hole, 512 bytes, a hole.
        [
            member("s", b'S', &[b'x'; 512], |header| {
                gnu(header);
                header[386..397].copy_from_slice(b"00000010000");
                header[398..409].copy_from_slice(b"00000001000");
                header[410..421].copy_from_slice(b"00000020000");
                header[422..433].copy_from_slice(b"00000000000");
                header[483..494].copy_from_slice(b"00000020000");
            }),
            end.clone(),
        ]
        .concat(),
        [
            pax(&[
                ("GNU.sparse.major", "1"),
                ("GNU.sparse.minor", "0"),
                ("GNU.sparse.name", "s"),
                ("GNU.sparse.realsize", "8192"),
            ]),
            file("./GNUSparseFile.0/s", &sparse),
            end.clone(),
        ]
        .concat(),
        file("unterminated", b"x"),
        end.clone(),
    ]
}
