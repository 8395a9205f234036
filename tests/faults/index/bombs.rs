//! Layers made to cost more than they are worth: each fails its own index, tells
//! why, and is stored and served like any other blob.

use std::io::Write;
use std::path::PathBuf;

use bzip2::write::BzEncoder;
use flate2::Crc;
use liblzma::write::XzEncoder;
use registry::oci::Algorithm;
use serde_json::json;

use super::{body, copies, gzip, indexed, listed, outcome, push, refusal, tree, zstd};
use crate::common::tar::{Member, Tar};
use crate::common::{OCI_INDEX, OCI_MANIFEST, Registry, descriptor, noise};
use crate::probe::{assert_sound, memory};

/// What the server may need, whatever is pushed, in KiB.
const MEMORY: u64 = 150 << 10;
const RATIO: usize = 500;
const ENTRIES: usize = 100_000;
/// Of zeros that are compressed once, and then repeated.
const PIECE: usize = 64 << 20;

/// The header of a file of `size` bytes, and nothing else.
fn header(path: &[u8], kind: u8, size: u64) -> Vec<u8> {
    let member = Member { kind, ..Member::default() };
    let mut header = Tar::default().member(path, b"", &member).finish();
    header.truncate(512);
    header[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    header[148..156].fill(b' ');
    let sum: u64 = header.iter().map(|&byte| u64::from(byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:07o}").as_bytes());
    header
}

/// A file of 8 GiB less a byte, compressed piece by piece.
fn zeros(compress: fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let header = compress(&header(b"zeros", b'0', (8 << 30) - 1));
    let piece = compress(&vec![0; PIECE]);
    [header, piece.repeat((10 << 30) / PIECE)].concat()
}

fn bzip2(plain: &[u8]) -> Vec<u8> {
    let mut file = BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    file.write_all(plain).expect("memory");
    file.finish().expect("memory")
}

fn xz(plain: &[u8]) -> Vec<u8> {
    let mut file = XzEncoder::new(Vec::new(), 0);
    file.write_all(plain).expect("memory");
    file.finish().expect("memory")
}

/// A PAX header of 1 GiB.
fn extended() -> Vec<u8> {
    let header = gzip(&header(b"pax", b'x', 1 << 30));
    let piece = gzip(&vec![b'x'; PIECE]);
    [header, piece.repeat((1 << 30) / PIECE)].concat()
}

fn empty_files() -> Vec<u8> {
    let mut tar = Tar::default();
    for number in 0..2 * ENTRIES {
        tar = tar.file(format!("{number}"), b"");
    }
    gzip(&tar.finish())
}

/// A path in the way of GNU tar.
fn path(path: &[u8]) -> Vec<u8> {
    let tar =
        Tar::default().member("././@LongLink", path, &Member { kind: b'L', ..Member::default() });
    tar.file("short", b"content").finish()
}

/// The same in that of PAX.
fn pax_path(path: &[u8]) -> Vec<u8> {
    let length = path.len() + " path=\n".len();
    let length = length + (length + 6).to_string().len();
    let record = [length.to_string().as_bytes(), b" path=", path, b"\n"].concat();
    assert_eq!(record.len(), length);
    let tar = Tar::default().member("pax", &record, &Member { kind: b'x', ..Member::default() });
    tar.file("short", b"content").finish()
}

/// An xz file that wants a dictionary of 1.5 GiB (section 5.3.1 of the format).
fn xz_dictionary() -> Vec<u8> {
    let mut file = xz(b"plain");
    file[16] = 37;
    let mut crc = Crc::new();
    crc.update(&file[12..20]);
    file[20..24].copy_from_slice(&crc.sum().to_le_bytes());
    file
}

#[test]
fn bombs() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let registry = Registry::start_in(
        dir.path(),
        &["--index-max-entries", &ENTRIES.to_string(), "--index-max-ratio", &RATIO.to_string()],
    );
    let good = Tar::default().file("etc/passwd", b"root").finish();
    push(&registry, "good", &[&good]);
    let before = listed(&registry, "good");

    let ratio = format!("it unpacks to more than {RATIO} times its size");
    let deep = b"d/".repeat(100_000);
    let long = [b"n".repeat(250).as_slice(), b"/"].concat().repeat(17);
    for (what, layer, reason) in [
        ("10 GiB of zeros, gzip", zeros(gzip), ratio.as_str()),
        ("10 GiB of zeros, zstd", zeros(zstd), &ratio),
        ("10 GiB of zeros, bzip2", zeros(bzip2), &ratio),
        ("10 GiB of zeros, xz", zeros(xz), &ratio),
        ("empty files", empty_files(), "more than 100000 entries"),
        ("a PAX header of 1 GiB", extended(), "an extended header of 1073741824 bytes"),
        (
            "zstd with a window of 2 GiB",
            vec![0x28, 0xb5, 0x2f, 0xfd, 0, 21 << 3, 1, 0, 0],
            "needs more than 128 MiB of memory to decode",
        ),
        (
            "xz with a dictionary of 1.5 GiB",
            xz_dictionary(),
            "needs more than 128 MiB of memory to decode",
        ),
        (
            "100,000 folders in each other",
            pax_path(&deep),
            "a name or link target of more than 4096 bytes",
        ),
        ("the same in GNU tar's way", path(&deep), "a name or link target of more than 4096 bytes"),
        (
            "a path a little too long",
            pax_path(&long),
            "a name or link target of more than 4096 bytes",
        ),
        ("noise", noise(1, 100_000), "not a tar"),
        (
            "a gzip file cut off",
            gzip(&Tar::default().file("f", &noise(1, 100_000)).finish())[..50_000].to_vec(),
            "the gzip stream ends too early",
        ),
    ] {
        let name = &what.replace([' ', ',', '\''], "").to_lowercase();
        let layers = push(&registry, name, &[&good, &layer]);
        let reason_given = refusal(&tree(&registry, name));
        assert!(reason_given.contains(reason), "{what}: {reason_given}");
        assert!(reason_given.contains(&layers[1].to_string()), "{what}: {reason_given}");
        let blob = registry.get(&format!("/v2/{name}/blobs/{}", layers[1]));
        assert!(blob.status == 200 && blob.body == layer, "{what}");
        assert_eq!(listed(&registry, "good"), before, "{what}");
        let (code, lines) = indexed(dir.path(), &[name]);
        assert_eq!((code, &lines[1]["layer"]), (1, &json!(layers[1].to_string())), "{what}");
        assert!(lines[1]["refused"].to_string().contains(reason), "{lines}");
        let peak = memory(&registry, "VmHWM");
        println!("{what}: {} bytes, peak {} MiB: {reason_given}", layer.len(), peak >> 10);
        assert!(peak < MEMORY, "{what}: {peak} KiB");
    }
    assert_eq!(copies(dir.path()), <[PathBuf; 0]>::default());
    assert_sound(&registry);
}

/// Paths of many folders within the limit cost rows, which are counted.
#[test]
fn folders_that_nothing_names() {
    let registry = Registry::start(&["--index-max-entries", "1000"]);
    let fits = pax_path(&[&b"d/".repeat(900)[..], b"f"].concat());
    push(&registry, "fits", &[&fits]);
    assert_eq!(listed(&registry, "fits").as_array().map(Vec::len), Some(901));
    push(&registry, "many", &[&pax_path(&[&b"d/".repeat(1001)[..], b"f"].concat())]);
    let reason = refusal(&tree(&registry, "many"));
    assert!(reason.contains("more than 1000 entries"), "{reason}");
    assert_sound(&registry);
}

/// One deflate block with 256 MiB of output: it cannot be cut, so it is copied.
#[test]
fn one_large_block() {
    const SIZE: usize = 256 << 20;
    /// Bits of a code and its extra bits, from the lowest up.
    #[derive(Default)]
    struct Bits(Vec<u8>, u32, u32);
    impl Bits {
        fn put(&mut self, value: u32, count: u32) {
            self.1 |= value << self.2;
            self.2 += count;
            while self.2 >= 8 {
                self.0.push(self.1 as u8);
                self.1 >>= 8;
                self.2 -= 8;
            }
        }

        /// RFC 1951, section 3.2.6; Huffman codes stand with the highest bit first.
        fn literal(&mut self, byte: u8) {
            let (code, count) = match u32::from(byte) {
                byte @ 0..=143 => (0x30 + byte, 8),
                byte => (0x190 + byte - 144, 9),
            };
            self.put(code.reverse_bits() >> (32 - count), count);
        }
    }
    let mut plain = header(b"zeros", b'0', SIZE as u64);
    let mut bits = Bits::default();
    // The last block, with fixed codes.
    bits.put(0b011, 3);
    plain.iter().for_each(|&byte| bits.literal(byte));
    bits.literal(0);
    let (times, rest) = ((SIZE - 1) / 258, (SIZE - 1) % 258);
    for _ in 0..times {
        // 258 bytes (code 285), one back (code 0).
        bits.put(0b1010_0011, 8);
        bits.put(0, 5);
    }
    (0..rest).for_each(|_| bits.literal(0));
    bits.put(0, 7 + 8);
    plain.resize(512 + SIZE, 0);
    let mut crc = Crc::new();
    crc.update(&plain);
    let layer = [
        &b"\x1f\x8b\x08\0\0\0\0\0\0\xff"[..],
        &bits.0,
        &crc.sum().to_le_bytes(),
        &crc.amount().to_le_bytes(),
    ]
    .concat();

    let dir = tempfile::tempdir().expect("a temporary folder");
    let registry = Registry::start_in(dir.path(), &[]);
    push(&registry, "block", &[&layer]);
    assert_eq!(listed(&registry, "block")[0]["size"], SIZE);
    assert_eq!(copies(dir.path()).len(), 1);
    let range = [("Range", "bytes=268435400-")];
    let reply = registry.send("GET", "/v1/images/block:latest/blobs/zeros", &range, b"");
    assert_eq!(reply.status, 206);
    assert_eq!(body(&reply), vec![0; SIZE - 268_435_400]);
    let peak = memory(&registry, "VmHWM");
    assert!(peak < MEMORY, "{peak} KiB");
    assert_sound(&registry);
}

/// Indexes that name the next one many times each, to no end but themselves.
#[test]
fn nested_indexes() {
    const TIMES: usize = 1000;
    const DEPTH: usize = 20;
    let dir = tempfile::tempdir().expect("a temporary folder");
    let registry = Registry::start_in(dir.path(), &[]);
    let good = Tar::default().file("etc/passwd", b"root").finish();
    let layers = push(&registry, "nested", &[&good]);
    let want = listed(&registry, "nested");
    let mut child = registry.get("/v2/nested/manifests/latest").body;
    let mut media_type = OCI_MANIFEST;
    for depth in 1..=DEPTH {
        let digest = Algorithm::Sha256.digest(&child);
        let one = descriptor(media_type, &digest, child.len());
        let manifests = vec![one; TIMES];
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests});
        child = index.to_string().into_bytes();
        media_type = OCI_INDEX;
        let reply = registry.push_manifest("nested", &format!("d{depth}"), OCI_INDEX, &child);
        assert_eq!(reply.status, 201, "{}", reply.text());
        let reply = registry.get(&format!("/v1/images/nested:d{depth}/tree/?recursive=1"));
        match reply.status {
            200 => assert_eq!(reply.json(), want, "{depth}"),
            status => {
                println!("depth {depth}: {}", reply.text());
                assert_eq!(status, 422, "{depth}: {}", reply.text());
                assert!(depth > 4, "{}", reply.text());
            }
        }
    }
    let (code, lines) = indexed(dir.path(), &["--all"]);
    assert_eq!((code, lines.as_array().map(Vec::len)), (0, Some(1)), "{lines}");
    assert_eq!(lines[0]["layer"], json!(layers[0].to_string()));
    let (code, ..) = outcome(dir.path(), &["ls", "nested:d1"]);
    assert_eq!(code, 0);
    let peak = memory(&registry, "VmHWM");
    assert!(peak < MEMORY, "{peak} KiB");
    assert_sound(&registry);
}
