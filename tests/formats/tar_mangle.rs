//! Tars that are nearly right, the same ones in every run: odd chains of
//! headers, odd fields, broken bytes. Data and the end of most hide a header,
//! so that who takes a wrong length finds other members.

const BLOCK: usize = 512;

/// Place and length of the fields.
const FIELDS: [(&str, usize, usize); 20] = [
    ("name", 0, 100),
    ("mode", 100, 8),
    ("uid", 108, 8),
    ("gid", 116, 8),
    ("size", 124, 12),
    ("mtime", 136, 12),
    ("checksum", 148, 8),
    ("type", 156, 1),
    ("link", 157, 100),
    ("magic", 257, 8),
    ("major", 329, 8),
    ("minor", 337, 8),
    ("prefix", 345, 155),
    ("ctime", 357, 12),
    ("extent", 386, 24),
    ("second extent", 410, 24),
    ("extended", 482, 1),
    ("real size", 483, 12),
    ("star time", 476, 24),
    ("star", 508, 4),
];

const VALUES: [&[u8]; 40] = [
    b"",
    b"0",
    b"1\0",
    b"0000644\0",
    b"00000000001\0",
    b"00000000003\0",
    b"00000001000 ",
    b"00000001001\0",
    b"     1 \0",
    b"        ",
    b"            ",
    b"\0      1",
    b"\x00000001",
    b"1\0junk",
    b"1 junk",
    b"77777777",
    b"777777777777",
    b"-1\0",
    b"+1\0",
    b"0o1\0",
    b"0_1\0",
    b"8\0",
    b"\t1\0",
    b"\x80\0\0\0\0\0\0\x05",
    b"\x80\0\0\0\0\0\0\0\0\0\0\x01",
    b"\x80\0\0\xff\xff\xff\xff\xff",
    b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x81\0\0\0\0\0\0\x05",
    b"\xc0\0\0\0\0\0\0\0\0\0\0\0",
    b"dir/",
    b"/",
    b"a/../b",
    b"ustar\x0000",
    b"ustar  \0",
    b"ustar\0  ",
    b"ustar\0\0\0",
    b"tar\0",
    b"\xff\xfe",
];

const TYPES: &[u8] = b"\x000123456789ADKLMNSVXghxz ";

pub fn all() -> impl Iterator<Item = (String, Vec<u8>)> {
    let chains = (1..=1_200).map(|seed| (format!("chain {seed}"), chain(&mut Random(seed))));
    let sparse = (1..=400).map(|seed| (format!("sparse {seed}"), sparse(&mut Random(seed))));
    let damaged = (1..=700).map(|seed| (format!("damage {seed}"), damage(&mut Random(seed))));
    chains.chain(sparse).chain(fields()).chain(damaged)
}

/// xorshift64*
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        // Small seeds are much alike.
        for _ in 0..if self.0 < 1 << 32 { 9 } else { 1 } {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
        }
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize) % end
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }
}

type Block = [u8; BLOCK];

fn header(name: &[u8], flag: u8, size: usize) -> Block {
    let mut block = [0; BLOCK];
    put(&mut block, "name", name);
    put(&mut block, "mode", b"0000644\0");
    put(&mut block, "uid", b"0001750\0");
    put(&mut block, "gid", b"0000144\0");
    put(&mut block, "size", format!("{size:011o}\0").as_bytes());
    put(&mut block, "mtime", b"14524770400\0");
    put(&mut block, "type", &[flag]);
    put(&mut block, "magic", b"ustar\x0000");
    sign(&mut block);
    block
}

fn put(block: &mut [u8], field: &str, value: &[u8]) {
    let (_, at, length) = FIELDS.iter().find(|(name, ..)| *name == field).expect("a field");
    block[*at..at + length].fill(0);
    let value = &value[..value.len().min(*length)];
    block[*at..at + value.len()].copy_from_slice(value);
}

fn sign(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block[..BLOCK].iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// Content that is a header, filled up to a block with what `fill` says.
fn content(tar: &mut Vec<u8>, size: usize, fill: u8) {
    let mut hidden = header(b"hidden", b'0', 0).to_vec();
    hidden.resize(size.next_multiple_of(BLOCK).max(BLOCK), b'.');
    hidden.truncate(size);
    text(tar, &hidden, fill);
}

fn text(tar: &mut Vec<u8>, content: &[u8], fill: u8) {
    tar.extend_from_slice(content);
    tar.resize(tar.len().next_multiple_of(BLOCK), fill);
}

fn end(tar: &mut Vec<u8>) {
    tar.extend_from_slice(&header(b"after", b'0', 5));
    content(tar, 5, 0);
    tar.extend_from_slice(&[0; 2 * BLOCK]);
}

fn record(keyword: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = keyword.len() + value.len() + 3;
    let mut length = rest + 1;
    while length.to_string().len() + rest != length {
        length = length.to_string().len() + rest;
    }
    [length.to_string().as_bytes(), b" ", keyword, b"=", value, b"\n"].concat()
}

/// Up to three extended headers, a member, another one.
fn chain(random: &mut Random) -> Vec<u8> {
    let mut tar = Vec::new();
    if random.once_in(4) {
        tar.extend_from_slice(&header(b"before", b'0', 0));
    }
    for _ in 0..random.pick(&[0, 1, 1, 1, 2, 2, 3]) {
        extension(random, &mut tar);
    }
    let types: &[u8] = b"00000000\0\0\x00111222345567S";
    let flag = if random.once_in(20) { random.pick(TYPES) } else { random.pick(types) };
    let name: &[u8] =
        random.pick(&[b"file", b"file", b"file", b"dir/", b"a//b/./../c", b"/abs", b""]);
    let odd_size = if matches!(flag, b'0' | 0 | b'7') { 1 } else { 6 };
    let size = if random.once_in(odd_size) { random.pick(&[0, 1, 511, 512, 513]) } else { 0 };
    let mut block = header(name, flag, size);
    if matches!(flag, b'1' | b'2') || random.once_in(10) {
        put(&mut block, "link", random.pick(&[b"target", b"../up", b"target/"]));
    }
    if matches!(flag, b'3' | b'4') || random.once_in(10) {
        put(&mut block, "major", b"0000010\0");
        put(&mut block, "minor", b"0000003\0");
    }
    if random.once_in(3) {
        put(&mut block, "magic", random.pick(&[b"ustar  \0", b"\0\0\0\0\0\0\0\0", b"ustar\0  "]));
    }
    if random.once_in(6) {
        put(&mut block, "prefix", random.pick(&[b"prefix", b"up/to/", b"1452477"]));
    }
    sign(&mut block);
    tar.extend_from_slice(&block);
    content(&mut tar, size, random.pick(&[0, b'.']));
    end(&mut tar);
    tar
}

fn extension(random: &mut Random, tar: &mut Vec<u8>) {
    let flag = random.pick(b"LLLKKKxxxxxxxgX");
    let mut body = Vec::new();
    if let b'L' | b'K' = flag {
        let names: [&[u8]; 8] =
            [b"long\0", b"long\0", b"long\0", b"long", b"long/\0", b"", b"long\0junk", b"\0"];
        body.extend_from_slice(random.pick(&names));
    } else {
        for _ in 0..random.pick(&[0, 1, 1, 1, 2, 3]) {
            body.extend_from_slice(&odd_record(random));
        }
    }
    let mut block = header(b"././@Extension", flag, body.len());
    if random.once_in(25) {
        put(&mut block, "size", random.pick(&VALUES));
        sign(&mut block);
    }
    tar.extend_from_slice(&block);
    text(tar, &body, if random.once_in(12) { random.pick(b"1. ") } else { 0 });
}

fn odd_record(random: &mut Random) -> Vec<u8> {
    let records: [(&[u8], &[&[u8]]); 18] = [
        (b"path", &[b"pax", b"pax", b"pax/name", b"pax/", b"", b"a\0b", b"\xff\n"]),
        (b"linkpath", &[b"pax target", b"pax target", b"", b"a\0b"]),
        (
            b"size",
            &[b"0", b"1", b"513", b"512", b"0512", b" 1", b"-1", b"1.5", b"9223372036854775808"],
        ),
        (b"uid", &[b"7", b"4294967295", b"4294967296", b"-1", b"", b"1_0", b"+1"]),
        (b"gid", &[b"8", b"3000000", b"0x10", b"1 "]),
        (
            b"mtime",
            &[
                b"5",
                b"1.5",
                b"-1.5",
                b"-0.25",
                b"1700000000.123456789123",
                b"1.",
                b"1e3",
                b"nan",
                b".5",
                b"-",
                b"",
            ],
        ),
        (b"atime", &[b"5", b"5.5"]),
        (b"comment", &[b"", b"a\n12 path=hidden\nb", b"=", b"\0"]),
        (b"hdrcharset", &[b"BINARY", b"ISO-IR 10646 2000 UTF-8", b"latin-1", b"\xff"]),
        (b"uname", &[b"user", b"", b"us\0er"]),
        (b"SCHILY.xattr.user.a", &[b"value", b"", b"\0\xff\n"]),
        (b"SCHILY.xattr.", &[b"value"]),
        (b"LIBARCHIVE.xattr.user.a", &[b"dmFsdWU="]),
        (b"GNU.sparse.name", &[b"name"]),
        (b"GNU.volume.label", &[b"label"]),
        (b"GNU.dumpdir", &[b"Yfile\0\0"]),
        (b" path", &[b"blank"]),
        (b"path\0", &[b"nul"]),
    ];
    // The first ones more often.
    let last = random.pick(&[6, 11, 18]);
    let (keyword, values) = records[random.below(last)];
    let mut record = record(keyword, random.pick(values));
    if random.once_in(15) {
        let lengths: [&[u8]; 7] =
            [b"0", b"5", b"99999999999999999999", b"012", b"-12", b"", b" 12"];
        let blank = record.iter().position(|&byte| byte == b' ').expect("a blank");
        record.splice(..blank, random.pick(&lengths).iter().copied());
    }
    if random.once_in(25) {
        record.pop();
    }
    record
}

/// Sparse files of all versions, with a number or a record gone wrong.
fn sparse(random: &mut Random) -> Vec<u8> {
    let version = random.below(4);
    let (mut offset, mut map) = (0u64, Vec::new());
    for _ in 0..random.pick(&[0, 1, 1, 2, 3, 4, 5, 26, 60]) {
        let length = random.pick(&[0u64, 1, 100, 512, 700]);
        offset += random.pick(&[0u64, 512, 1000]);
        map.push((offset, length));
        offset += length;
    }
    let stored: u64 = map.iter().map(|(_, length)| length).sum();
    let mut size = offset + random.pick(&[0u64, 0, 5000]);
    let mut stored = stored as usize;
    match random.below(8) {
        0 => size = size.saturating_sub(1),
        1 => stored += 1,
        2 => stored = stored.saturating_sub(512),
        3 if !map.is_empty() => {
            let at = random.below(map.len());
            map[at].0 = random.pick(&[0, 3, 1 << 20, i64::MAX as u64]);
        }
        _ => (),
    }
    let mut tar = Vec::new();
    if version == 3 {
        old_gnu(random, &mut tar, &map, size, stored);
    } else {
        let mut records: Vec<(String, String)> = Vec::new();
        let mut add = |keyword: &str, value: String| {
            records.push((format!("GNU.sparse.{keyword}"), value));
        };
        if version == 2 {
            add("major", "1".into());
            add("minor", "0".into());
            add("name", "sparse".into());
            add("realsize", size.to_string());
        } else {
            add("size", size.to_string());
            add("numblocks", map.len().to_string());
        }
        if version == 1 {
            let numbers = map.iter().flat_map(|(offset, length)| [offset, length]);
            let numbers: Vec<String> = numbers.map(u64::to_string).collect();
            add("name", "sparse".into());
            add("map", numbers.join(","));
        } else if version == 0 {
            for (offset, length) in &map {
                add("offset", offset.to_string());
                add("numbytes", length.to_string());
            }
        }
        match random.below(12) {
            0 => drop(records.remove(random.below(records.len()))),
            1 => records.push(("path".into(), "another".into())),
            2 => records.push(("size".into(), "512".into())),
            3 => {
                let (at, to) = (random.below(records.len()), random.below(records.len()));
                records.swap(at, to);
            }
            _ => (),
        }
        let body: Vec<u8> = records
            .iter()
            .flat_map(|(keyword, value)| record(keyword.as_bytes(), value.as_bytes()))
            .collect();
        tar.extend_from_slice(&header(b"pax", b'x', body.len()));
        text(&mut tar, &body, 0);
        let mut lines = String::new();
        if version == 2 {
            lines = format!("{}\n", map.len());
            for (offset, length) in &map {
                lines += &format!("{offset}\n{length}\n");
            }
            if random.once_in(8) {
                let at = random.below(lines.len());
                lines.replace_range(at..=at, random.pick(&["", "-", "\n", "0", " "]));
            }
        }
        let whole = lines.len().next_multiple_of(BLOCK) + stored;
        let mut block = header(b"GNUSparseFile.0/sparse", random.pick(b"00000000\x005"), whole);
        if random.once_in(10) {
            put(&mut block, "magic", random.pick(&VALUES[34..38]));
        }
        if random.once_in(15) {
            put(&mut block, "star time", b"14524770400 14524770400 ");
        }
        sign(&mut block);
        tar.extend_from_slice(&block);
        text(&mut tar, lines.as_bytes(), 0);
    }
    content(&mut tar, stored, b'.');
    end(&mut tar);
    tar
}

fn old_gnu(random: &mut Random, tar: &mut Vec<u8>, map: &[(u64, u64)], size: u64, stored: usize) {
    let entries = |entries: &[(u64, u64)], into: &mut [u8]| {
        for ((offset, length), into) in entries.iter().zip(into.chunks_exact_mut(24)) {
            let octal = format!("{offset:011o}\0{length:011o}\0");
            into.copy_from_slice(&octal.as_bytes()[..24]);
        }
    };
    let mut block = header(b"sparse", b'S', stored);
    put(&mut block, "magic", b"ustar  \0");
    let (first, rest) = map.split_at(map.len().min(4));
    entries(first, &mut block[386..482]);
    block[482] = u8::from(!rest.is_empty() || random.once_in(10));
    put(&mut block, "real size", format!("{size:011o}\0").as_bytes());
    sign(&mut block);
    tar.extend_from_slice(&block);
    let mut rest = rest.chunks(21).peekable();
    while let Some(part) = rest.next() {
        let mut block = [0; BLOCK];
        entries(part, &mut block[..504]);
        block[504] = u8::from(rest.peek().is_some() || random.once_in(20));
        if random.once_in(10) {
            block[random.below(504)] = 0;
        }
        tar.extend_from_slice(&block);
    }
}

/// Every value in every field of every kind of header.
fn fields() -> Vec<(String, Vec<u8>)> {
    let seeds: Vec<(&str, Vec<u8>)> = vec![
        ("ustar", seed(b'0', b"ustar\x0000", b"")),
        ("gnu", seed(b'0', b"ustar  \0", b"")),
        ("v7", seed(0, b"", b"")),
        ("device", seed(b'3', b"ustar\x0000", b"")),
        ("sparse", seed(b'S', b"ustar  \0", b"")),
        ("prefixed", seed(b'2', b"ustar\x0000", b"prefix")),
    ];
    let long = {
        let mut tar = header(b"././@LongLink", b'L', 5).to_vec();
        text(&mut tar, b"long\0", 0);
        tar.extend_from_slice(&seed(b'0', b"ustar  \0", b""));
        ("long", tar)
    };
    let mut tars = Vec::new();
    for (what, seed) in seeds.into_iter().chain([long]) {
        for (field, _, length) in FIELDS {
            let types = TYPES.iter().map(std::slice::from_ref);
            let values: Vec<&[u8]> = match field {
                "type" => types.collect(),
                _ => VALUES.to_vec(),
            };
            for value in values.into_iter().filter(|value| value.len() <= length) {
                let mut tar = seed.clone();
                put(&mut tar, field, value);
                if field != "checksum" {
                    sign(&mut tar);
                }
                tars.push((format!("{what}, {field} {}", value.escape_ascii()), tar));
            }
        }
    }
    tars
}

fn seed(flag: u8, magic: &[u8], prefix: &[u8]) -> Vec<u8> {
    let size = if matches!(flag, b'0' | 0 | b'S') { 513 } else { 0 };
    let mut block = header(b"member", flag, size);
    put(&mut block, "magic", magic);
    put(&mut block, "prefix", prefix);
    match flag {
        b'1' | b'2' => put(&mut block, "link", b"target"),
        b'3' => {
            put(&mut block, "major", b"0000005\0");
            put(&mut block, "minor", b"0000001\0");
        }
        b'S' => {
            put(&mut block, "extent", b"00000000000\x0000000001001\0");
            put(&mut block, "real size", b"00000002000\0");
        }
        _ => (),
    }
    sign(&mut block);
    let mut tar = block.to_vec();
    content(&mut tar, size, b'.');
    end(&mut tar);
    tar
}

/// Bytes, bits, blocks and ends.
fn damage(random: &mut Random) -> Vec<u8> {
    let mut tar = match random.below(3) {
        0 => sparse(random),
        _ => chain(random),
    };
    let blocks = tar.len() / BLOCK;
    let at = random.below(blocks) * BLOCK;
    match random.below(7) {
        0 => tar.truncate(random.below(tar.len())),
        1 => tar.truncate(at),
        2 => drop(tar.drain(at..at + BLOCK)),
        3 => {
            let block = tar[at..at + BLOCK].to_vec();
            tar.splice(at..at, block);
        }
        4 => tar[at..at + BLOCK].fill(0),
        5 => {
            let at = random.below(tar.len());
            tar[at] ^= 1 << random.below(8);
        }
        // The bytes of one header, not its checksum.
        _ => {
            for _ in 0..1 + random.below(3) {
                tar[random.below(BLOCK)] = random.pick(b"\0\x01 0179/xL\x80\xff");
            }
            sign(&mut tar);
        }
    }
    tar
}
