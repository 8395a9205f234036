//! Text that cannot control the terminal that shows it. Names in images, and what clients send, may
//! hold escape sequences, or characters that make a name look like another one.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Whether a character controls a terminal or the order of the text around it: C0, C1 and DEL, the
/// bidirectional controls (Unicode Standard Annex 9, section 2), and the line and paragraph
/// separators.
pub fn is_control(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

/// Returns bytes as UTF-8 text in which control characters, and bytes that are not UTF-8, are
/// escaped byte by byte (`\x1b`).
pub fn printable(bytes: &[u8]) -> Cow<'_, [u8]> {
    escape(bytes, is_control, |text, c| {
        let mut utf8 = [0; 4];
        escape_bytes(text, c.encode_utf8(&mut utf8).as_bytes());
    })
}

/// Like [`printable`], for whole lines of text or JSON: line ends stay, and control characters are
/// escaped as in JSON (`\u009b`).
pub fn printable_lines(bytes: &[u8]) -> Cow<'_, [u8]> {
    escape(bytes, |c| c != '\n' && is_control(c), escape_as_json)
}

/// Like [`printable_lines`], for one line: line ends inside it are escaped too, so that nothing in a
/// log line can look like another line.
pub fn printable_line(line: &[u8]) -> Cow<'_, [u8]> {
    let inner = line.strip_suffix(b"\n").unwrap_or(line);
    match escape(inner, is_control, escape_as_json) {
        Cow::Borrowed(_) => Cow::Borrowed(line),
        Cow::Owned(mut escaped) => {
            escaped.extend_from_slice(&line[inner.len()..]);
            Cow::Owned(escaped)
        }
    }
}

fn escape_as_json(text: &mut String, c: char) {
    write!(text, "\\u{:04x}", u32::from(c)).expect("a String takes every write");
}

fn escape(
    bytes: &[u8],
    is_escaped: impl Fn(char) -> bool,
    write: impl Fn(&mut String, char),
) -> Cow<'_, [u8]> {
    if std::str::from_utf8(bytes).is_ok_and(|text| !text.chars().any(&is_escaped)) {
        return Cow::Borrowed(bytes);
    }
    let mut text = String::with_capacity(bytes.len() + 16);
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if is_escaped(c) {
                write(&mut text, c);
            } else {
                text.push(c);
            }
        }
        escape_bytes(&mut text, chunk.invalid());
    }
    Cow::Owned(text.into_bytes())
}

fn escape_bytes(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        write!(text, "\\x{byte:02x}").expect("a String takes every write");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped() {
        for (name, shown, lines) in [
            (&b"plain"[..], "plain", "plain"),
            ("gr\u{fc}n".as_bytes(), "gr\u{fc}n", "gr\u{fc}n"),
            (b"a b'\"\\", "a b'\"\\", "a b'\"\\"),
            (b"\x1b[31mred\x7f", "\\x1b[31mred\\x7f", "\\u001b[31mred\\u007f"),
            (b"two\nlines\r", "two\\x0alines\\x0d", "two\nlines\\u000d"),
            (b"latin-\xfc", "latin-\\xfc", "latin-\\xfc"),
            // CSI, a control character of two bytes.
            ("\u{9b}m".as_bytes(), "\\xc2\\x9bm", "\\u009bm"),
            // RIGHT-TO-LEFT OVERRIDE shows `exe.txt` for `txt.exe`.
            ("\u{202e}txt.exe".as_bytes(), "\\xe2\\x80\\xaetxt.exe", "\\u202etxt.exe"),
            ("\u{2066}\u{61c}".as_bytes(), "\\xe2\\x81\\xa6\\xd8\\x9c", "\\u2066\\u061c"),
        ] {
            assert_eq!(String::from_utf8_lossy(&printable(name)), shown, "{name:?}");
            assert_eq!(String::from_utf8_lossy(&printable_lines(name)), lines, "{name:?}");
        }
        for (line, shown) in [
            ("INFO a\n", "INFO a\n"),
            ("INFO a\nINFO forged \u{202e}\n", "INFO a\\u000aINFO forged \\u202e\n"),
        ] {
            assert_eq!(String::from_utf8_lossy(&printable_line(line.as_bytes())), shown);
        }
    }
}
