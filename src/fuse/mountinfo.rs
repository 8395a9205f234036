//! The kernel's table of mounts, and which of them are ours. Source: proc_pid_mountinfo(5).

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// The source of our mounts, and their type below `fuse`.
pub const SOURCE: &str = "registry";

/// A mount in the table.
#[derive(Debug, PartialEq, Eq)]
pub struct Row {
    pub path: PathBuf,
    /// `MAJOR:MINOR`
    pub device: String,
    pub ours: bool,
}

/// The topmost mount at a path, which has no symbolic links in it.
pub fn at(path: &Path) -> io::Result<Option<Row>> {
    let text = fs::read("/proc/self/mountinfo")?;
    let mut rows = text.split(|&b| b == b'\n').filter_map(parse);
    // A later one lies over an earlier one.
    Ok(rows.rfind(|row| row.path == path))
}

/// `36 35 98:0 /root /mnt rw,noatime master:1 - fuse source rw`
fn parse(line: &[u8]) -> Option<Row> {
    let mut fields = line.split(|&b| b == b' ');
    let device = String::from_utf8(fields.nth(2)?.to_vec()).ok()?;
    let path = unescape(fields.nth(1)?);
    fields.find(|field| *field == b"-")?;
    let (kind, source) = (fields.next()?, fields.next()?);
    Some(Row {
        path: OsString::from_vec(path).into(),
        device,
        ours: kind.starts_with(b"fuse") && source == SOURCE.as_bytes(),
    })
}

/// Decodes a field, in which blanks and other separators are `\` and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        if let (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..]) =
            (first, tail)
        {
            bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
            rest = tail;
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    bytes
}

/// Makes a path absolute and resolves its symbolic links, also where a dead mount is at its end.
pub fn absolute(path: &Path) -> io::Result<PathBuf> {
    match fs::canonicalize(path) {
        Err(e) if is_dead(&e) => {
            let name = path.file_name().ok_or(e)?;
            let folder = match path.parent() {
                Some(folder) if !folder.as_os_str().as_bytes().is_empty() => folder,
                _ => Path::new("."),
            };
            Ok(fs::canonicalize(folder)?.join(name))
        }
        other => other,
    }
}

/// Whether an error comes from a mount whose process is gone.
pub fn is_dead(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows() {
        let row = |path: &str, device: &str, ours| {
            Some(Row { path: path.into(), device: device.into(), ours })
        };
        for (line, want) in [
            (
                "36 35 98:0 /a /mnt/b rw shared:1 master:2 - ext3 /dev/root rw",
                row("/mnt/b", "98:0", false),
            ),
            (
                r"40 35 0:52 / /mnt/a\040b\134 ro - fuse registry ro,user_id=0",
                row(r"/mnt/a b\", "0:52", true),
            ),
            ("40 35 0:52 / /mnt ro - fuse.registry registry ro", row("/mnt", "0:52", true)),
            ("40 35 0:52 / /mnt ro - fuse sshfs ro", row("/mnt", "0:52", false)),
            ("40 35 0:52 / /mnt ro", None),
            ("", None),
        ] {
            assert_eq!(parse(line.as_bytes()), want, "{line}");
        }
        assert!(at(Path::new("/")).unwrap().is_some());
        assert_eq!(at(Path::new("/no such place")).unwrap(), None);
    }
}
