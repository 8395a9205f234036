//! One header block of 512 bytes: V7, ustar, star and GNU, which share all but the last third.
//!
//! Fields are those of POSIX.1-2008 (`pax`, "ustar Interchange Format") and of the GNU tar manual
//! ("Basic Tar Format"). What stands in them is read as Go's `archive/tar` reads it.

use super::{Problem, Time};

pub const BLOCK: usize = 512;
pub type Block = [u8; BLOCK];

/// What the magic says about the fields behind the link name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// No magic, or an unknown one.
    V7,
    /// ustar and PAX, of any version.
    Ustar,
    /// ustar with times in the last bytes of the prefix.
    Star,
    Gnu,
}

/// The fields that every member has. Text ends at its first NUL.
#[derive(Debug)]
pub struct Header<'a> {
    pub block: &'a Block,
    pub format: Format,
    pub flag: u8,
    /// The name field alone.
    name: &'a [u8],
    /// Stands before the name, with a slash; may be empty.
    prefix: &'a [u8],
    pub link: &'a [u8],
    pub mode: u16,
    pub uid: i64,
    pub gid: i64,
    pub size: i64,
    pub mtime: Time,
    /// Major and minor number. V7 has no fields for them, so they are 0 there.
    pub device: (i64, i64),
}

/// True for a block of the two that end a tar.
pub fn is_zero(block: &Block) -> bool {
    block.iter().all(|&byte| byte == 0)
}

/// Old tars of Sun and NeXT sum signed bytes.
pub fn checksum_holds(block: &Block) -> bool {
    let Some(stored) = octal(&block[148..156]) else {
        return false;
    };
    let (mut unsigned, mut signed) = (0i64, 0i64);
    for (place, &byte) in block.iter().enumerate() {
        let byte = if (148..156).contains(&place) { b' ' } else { byte };
        unsigned += i64::from(byte);
        signed += i64::from(byte.cast_signed());
    }
    stored == unsigned || stored == signed
}

impl<'a> Header<'a> {
    /// Reads a block whose checksum holds.
    pub fn read(block: &'a Block) -> Result<Header<'a>, Problem> {
        let format = match &block[257..265] {
            [b'u', b's', b't', b'a', b'r', 0, ..] if block[508..] == *b"tar\0" => Format::Star,
            [b'u', b's', b't', b'a', b'r', 0, ..] => Format::Ustar,
            b"ustar  \0" => Format::Gnu,
            _ => Format::V7,
        };
        let field =
            |at: usize, length, name| number(&block[at..at + length]).ok_or(Problem::Number(name));
        Ok(Header {
            block,
            format,
            flag: block[156],
            name: text(&block[..100]),
            prefix: prefix(block, format)?,
            link: text(&block[157..257]),
            mode: (field(100, 8, "mode")? & 0o7777) as u16,
            uid: field(108, 8, "uid")?,
            gid: field(116, 8, "gid")?,
            size: field(124, 12, "size")?,
            mtime: Time { seconds: field(136, 12, "mtime")?, nanoseconds: 0 },
            device: match format {
                Format::V7 => (0, 0),
                _ => (field(329, 8, "device")?, field(337, 8, "device")?),
            },
        })
    }

    /// Prefix and name.
    pub fn path(&self) -> Vec<u8> {
        if self.prefix.is_empty() {
            self.name.to_vec()
        } else {
            [self.prefix, b"/", self.name].concat()
        }
    }
}

/// GNU has times in place of a prefix. Writers of before 2017 put a prefix there nevertheless
/// (<https://go.dev/issue/12594>), so ASCII text that is no time is one.
fn prefix(block: &Block, format: Format) -> Result<&[u8], Problem> {
    let time = |at: usize| number(&block[at..at + 12]);
    match format {
        Format::V7 => Ok(b""),
        Format::Ustar => Ok(text(&block[345..500])),
        Format::Star if time(476).and(time(488)).is_some() => Ok(text(&block[345..476])),
        Format::Star => Err(Problem::Number("time")),
        Format::Gnu => {
            let are_times = [345, 357].iter().all(|&at| block[at] == 0 || time(at).is_some());
            let text = text(&block[345..500]);
            Ok(if are_times || !text.is_ascii() { b"" } else { text })
        }
    }
}

pub fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|&byte| byte == 0);
    &field[..end.unwrap_or(field.len())]
}

/// A number in octal digits, or in base 256: the first bit is set, the second is the sign of a
/// big-endian number in two's complement. `None` if it is neither, or does not fit.
pub fn number(field: &[u8]) -> Option<i64> {
    let lead = field[0];
    if lead & 0x80 == 0 {
        return octal(field);
    }
    let sign = if lead & 0x40 == 0 { 0 } else { -1 };
    let first = i128::from(lead & 0x3f) | (sign & !0x3f);
    // At most 11 bytes follow, so nothing is shifted out.
    let value = field[1..].iter().fold(first, |value, &byte| (value << 8) | i128::from(byte));
    i64::try_from(value).ok()
}

/// Octal digits up to a NUL, with spaces and NULs around them. Without any digit it is 0.
fn octal(field: &[u8]) -> Option<i64> {
    let blank = |byte: &u8| matches!(byte, b' ' | 0);
    let Some(start) = field.iter().position(|byte| !blank(byte)) else {
        return Some(0);
    };
    let end = field.iter().rposition(|byte| !blank(byte)).map_or(start, |last| last + 1);
    // At most 12 digits: 36 bits.
    text(&field[start..end]).iter().try_fold(0, |value, &byte| {
        matches!(byte, b'0'..=b'7').then(|| value * 8 + i64::from(byte - b'0'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values are those of Go 1.19's `archive/tar`.
    #[test]
    fn numbers() {
        // Field, value, why.
        let cases: &[(&[u8], Option<i64>, &str)] = &[
            (b"0000644\0", Some(0o644), "as POSIX has it"),
            (b"00000644", Some(0o644), "all digits"),
            (b"   644 \0", Some(0o644), "V7 padded with spaces"),
            (b"644 \0\0\0\0", Some(0o644), "space, then NUL"),
            (b"644\0junk", Some(0o644), "text ends at NUL"),
            (b"\0\0\0\0\0\0\0\0", Some(0), "blank"),
            (b"       \0", Some(0), "spaces and NUL"),
            (b"        ", Some(0), "spaces"),
            (b"\x00000644\0", Some(0o644), "a leading NUL"),
            (b"  \0  644", Some(0o644), "blanks of both kinds before it"),
            (b"644 junk", None, "junk behind a space"),
            (b"0000648\0", None, "8 is no octal digit"),
            (b"-000644\0", None, "a sign"),
            (b"0o00644\0", None, "a prefix"),
            (b"6_40000\0", None, "a separator"),
            (b"\t000644\0", None, "a tab"),
            (b"\x80\0\0\0\0\0\x01\x02", Some(258), "base 256"),
            (b"\x80\xff\xff\xff\xff\xff\xff\xff", Some(0xff_ffff_ffff_ffff), "all of it"),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2), "base 256, negative"),
            (b"\x81\0\0\0\0\0\0\0", Some(1 << 56), "the low bits of the first byte count"),
            (b"\xc0\0\0\0\0\0\0\0", Some(-1 << 62), "as far below zero as 8 bytes go"),
            (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None, "2^63"),
            (b"\xff\xff\xff\xff\x80\0\0\0\0\0\0\0", Some(i64::MIN), "-2^63"),
        ];
        for (field, value, why) in cases {
            assert_eq!(number(field), *value, "{why}: {}", field.escape_ascii());
        }
    }
}
