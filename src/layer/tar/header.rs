//! One header block of 512 bytes: V7, ustar and GNU, which share all but the
//! last third.
//!
//! Fields are those of POSIX.1-2008 (`pax`, "ustar Interchange Format") and of
//! the GNU tar manual ("Basic Tar Format"). GNU tar, Python's `tarfile` and Go's
//! `archive/tar` read malformed numbers each in its own way, so a number is
//! taken only in a form in which they agree.

use super::{Problem, Time};

pub const BLOCK: usize = 512;
pub type Block = [u8; BLOCK];

/// What the magic says about the fields behind the link name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// No magic; or one that Go takes for none.
    V7,
    Ustar,
    Gnu,
}

/// The fields that every member has. Text ends at its first NUL.
#[derive(Debug)]
pub struct Header<'a> {
    pub block: &'a Block,
    pub format: Format,
    pub flag: u8,
    /// The name field alone.
    pub name: &'a [u8],
    /// Stands before the name, with a slash; may be empty.
    pub prefix: &'a [u8],
    pub link: &'a [u8],
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    pub mtime: Time,
}

/// True for the block that ends a tar.
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
    i64::try_from(stored).is_ok_and(|stored| stored == unsigned || stored == signed)
}

impl<'a> Header<'a> {
    /// Reads a block whose checksum holds.
    pub fn read(block: &'a Block) -> Result<Header<'a>, Problem> {
        let format = match &block[257..265] {
            b"ustar\x0000" => Format::Ustar,
            b"ustar  \0" => Format::Gnu,
            _ => Format::V7,
        };
        // `tarfile` reads these of every member, and stops where it cannot.
        for field in [&block[329..337], &block[337..345]] {
            if number(field).is_none() && field.iter().any(|&byte| byte != b' ') {
                return Err(Problem::Number("device"));
            }
        }
        let id = |field, name| {
            let value = number(field).and_then(|value| u32::try_from(value).ok());
            value.ok_or(Problem::Number(name))
        };
        let mode = number(&block[100..108]).filter(|&mode| u64::try_from(mode).is_ok());
        let seconds = number(&block[136..148]).and_then(|time| i64::try_from(time).ok());
        let flag = block[156];
        Ok(Header {
            block,
            format,
            flag,
            name: text(&block[..100]),
            prefix: prefix(block, format, flag)?,
            link: text(&block[157..257]),
            mode: (mode.ok_or(Problem::Number("mode"))? & 0o7777) as u16,
            uid: id(&block[108..116], "uid")?,
            gid: id(&block[116..124], "gid")?,
            size: size(&block[124..136])?,
            mtime: Time { seconds: seconds.ok_or(Problem::Number("mtime"))?, nanoseconds: 0 },
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

    /// Major and minor number of a device, which must be there.
    pub fn device(&self) -> Result<(u32, u32), Problem> {
        let part = |field: &[u8]| {
            let given = field[0] & 0x80 != 0 || field.iter().any(u8::is_ascii_digit);
            let value = number(field).and_then(|value| i32::try_from(value).ok());
            match value.map(u32::try_from) {
                Some(Ok(value)) if given => Ok(value),
                _ => Err(Problem::Device),
            }
        };
        if self.format == Format::V7 {
            return Err(Problem::Device);
        }
        Ok((part(&self.block[329..337])?, part(&self.block[337..345])?))
    }
}

/// Only ustar has a prefix. `tarfile` takes whatever stands there for one, so
/// other formats must have nothing there; but GNU's, made with `--incremental`,
/// has times, and whoever reads images (Go, GNU tar) knows that.
fn prefix(block: &Block, format: Format, flag: u8) -> Result<&[u8], Problem> {
    let field = text(&block[345..500]);
    let harmless = match format {
        // star's prefix is shorter, and its own times follow.
        Format::Ustar => field.len() <= 131 || block[508..] != *b"tar\0",
        Format::Gnu => {
            field.is_empty() || [345, 357].iter().all(|&at| number(&block[at..at + 12]).is_some())
        }
        Format::V7 => field.is_empty(),
    };
    match format {
        // The names of extension headers mean nothing.
        _ if !harmless && !matches!(flag, b'L' | b'K' | b'x' | b'g') => Err(Problem::Prefix),
        Format::Ustar => Ok(field),
        _ => Ok(b""),
    }
}

pub fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|&byte| byte == 0);
    &field[..end.unwrap_or(field.len())]
}

pub fn size(field: &[u8]) -> Result<u64, Problem> {
    number(field)
        .and_then(|size| i64::try_from(size).ok())
        .and_then(|size| u64::try_from(size).ok())
        .ok_or(Problem::Number("size"))
}

/// Octal, or GNU's base-256: 0x80 or 0xff, then a big-endian number, in two's
/// complement. Only what GNU tar, `tarfile` and Go all read, and alike.
fn number(field: &[u8]) -> Option<i128> {
    match field[0] {
        lead @ (0x80 | 0xff) => {
            let start = if lead == 0xff { -1 } else { 0 };
            // At most 11 bytes follow, so nothing is shifted out.
            let digits = field[1..].iter();
            Some(digits.fold(start, |value: i128, &byte| (value << 8) | i128::from(byte)))
        }
        _ => octal(field).map(i128::from),
    }
}

/// Spaces, digits, spaces, then NUL or the field's end. Without digits it must
/// be NULs to the end: blanks alone GNU tar refuses, and what stands behind a
/// leading NUL only some read.
fn octal(field: &[u8]) -> Option<u64> {
    let spaces = |bytes: &[u8]| bytes.iter().take_while(|&&byte| byte == b' ').count();
    let field = &field[spaces(field)..];
    let digits = field.iter().take_while(|byte| matches!(byte, b'0'..=b'7'));
    let digits = &field[..digits.count()];
    let rest = &field[digits.len()..];
    if digits.is_empty() {
        return (!rest.is_empty() && rest.iter().all(|&byte| byte == 0)).then_some(0);
    }
    let rest = &rest[spaces(rest)..];
    if !matches!(rest.first(), None | Some(0)) {
        return None;
    }
    // At most 12 digits: 36 bits.
    let digits = digits.iter();
    Some(digits.fold(0, |value, &digit| value * 8 + u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_gnu_tar_tarfile_and_go_agree() {
        // Field, value, why.
        let cases: &[(&[u8], Option<i128>, &str)] = &[
            (b"0000644\0", Some(0o644), "as POSIX has it"),
            (b"00000644", Some(0o644), "all digits"),
            (b"   644 \0", Some(0o644), "V7 padded with spaces"),
            (b"644 \0\0\0\0", Some(0o644), "space, then NUL"),
            (b"644\0junk", Some(0o644), "text ends at NUL"),
            (b"\0\0\0\0\0\0\0\0", Some(0), "blank"),
            (b"       \0", Some(0), "spaces and NUL"),
            (b"        ", None, "GNU tar: blanks where a number is expected"),
            (b"\x00000644\0", None, "GNU tar skips one leading NUL"),
            (b"  \0  644", None, "Go trims NULs on the left"),
            (b"644 junk", None, "GNU tar takes it, tarfile does not"),
            (b"0000648\0", None, "8 is no octal digit"),
            (b"-000644\0", None, "tarfile takes signs, GNU tar base 64"),
            (b"0o00644\0", None, "Python's own prefix"),
            (b"6_40000\0", None, "Python's own separator"),
            (b"\t000644\0", None, "Go trims no tabs"),
            (b"\x80\0\0\0\0\0\x01\x02", Some(258), "base-256"),
            (b"\x80\xff\xff\xff\xff\xff\xff\xff", Some(0xff_ffff_ffff_ffff), "base-256, all of it"),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2), "base-256, negative"),
            (b"\x81\0\0\0\0\0\0\0", None, "only Go reads the seventh bit"),
            (b"\xc0\0\0\0\0\0\0\0", None, "negative for Go only"),
        ];
        for (field, value, why) in cases {
            assert_eq!(number(field), *value, "{why}: {}", field.escape_ascii());
        }
        assert_eq!(
            size(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
            Err(Problem::Number("size")),
            "below zero"
        );
        assert_eq!(size(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff"), Ok(i64::MAX as u64));
        assert_eq!(
            size(b"\x80\0\0\0\x80\0\0\0\0\0\0\0"),
            Err(Problem::Number("size")),
            "over off_t"
        );
    }
}
