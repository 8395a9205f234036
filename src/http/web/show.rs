//! How names, sizes, times and modes look on a page.
//!
//! Names and contents of images are an attacker's. The template engine escapes what HTML means; what
//! would be invisible, or would change the order of the text around it, is shown as its code.

use std::fmt::Write as _;

use maud::Render;

use crate::image::listing::url_path;
use crate::image::{Entry, Kind, Time};
use crate::oci::{Reference, Repository};
use crate::terminal::{is_control, printable};

/// Bytes as text.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a>(pub &'a [u8]);

/// Bytes of a line of a file: like [`Shown`], but tabs are tabs.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a>(pub &'a [u8]);

impl Render for Shown<'_> {
    fn render_to(&self, html: &mut String) {
        text(self.0, is_hidden, html);
    }
}

impl Render for Line<'_> {
    fn render_to(&self, html: &mut String) {
        text(self.0, |c| c != '\t' && is_hidden(c), html);
    }
}

/// Whether a character is invisible, or changes how others are shown: controls, marks of direction,
/// characters without a width, and tags.
fn is_hidden(c: char) -> bool {
    is_control(c)
        || matches!(
            c,
            '\u{ad}' | '\u{34f}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
                | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2060}'..='\u{206f}'
                | '\u{3164}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e0fff}'
        )
}

fn text(bytes: &[u8], hides: impl Fn(char) -> bool, html: &mut String) {
    for chunk in bytes.utf8_chunks() {
        let valid = chunk.valid();
        let mut plain = 0;
        for (at, c) in valid.char_indices() {
            let escape = match c {
                '&' => "&amp;",
                '<' => "&lt;",
                '>' => "&gt;",
                '"' => "&quot;",
                _ if !hides(c) => continue,
                _ => "",
            };
            html.push_str(&valid[plain..at]);
            plain = at + c.len_utf8();
            match (escape, u32::from(c)) {
                ("", code @ 0..0x80) => write!(html, "<i class=\"c\">\\x{code:02x}</i>"),
                ("", code) => write!(html, "<i class=\"c\">U+{code:04X}</i>"),
                (escape, _) => html.write_str(escape),
            }
            .expect("a String takes every write");
        }
        html.push_str(&valid[plain..]);
        for byte in chunk.invalid() {
            write!(html, "<i class=\"c\">\\x{byte:02x}</i>").expect("a String takes every write");
        }
    }
}

/// Bytes as text for a title or an attribute, which can have no markup.
pub fn plain(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&printable(bytes)).into_owned();
    text.chars().map(|c| if is_hidden(c) { '\u{fffd}' } else { c }).collect()
}

/// The first characters of a text that may be long.
pub fn short(text: &str, characters: usize) -> String {
    let mut short: String = text.chars().take(characters).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// Bytes in units of a thousand, with three digits.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let (mut value, mut unit) = (bytes as f64 / 1000.0, 0);
    // What would be rounded to a thousand has the next unit.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        (value, unit) = (value / 1000.0, unit + 1);
    }
    let digits = match value {
        ..9.995 => 2,
        ..99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {}", UNITS[unit])
}

/// A number with a thin space between its thousands.
pub fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 2);
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// `1 file`, `2 files`.
pub fn count(number_of: u64, one: &str, many: &str) -> String {
    format!("{} {}", number(number_of), if number_of == 1 { one } else { many })
}

/// The day in UTC, `2026-01-31`.
pub fn day(time: Time) -> String {
    formatted(time, "%Y-%m-%d")
}

/// The minute in UTC, `2026-01-31 12:30`.
pub fn minute(time: Time) -> String {
    formatted(time, "%Y-%m-%d %H:%M")
}

fn formatted(time: Time, format: &str) -> String {
    match jiff::Timestamp::from_second(time.seconds) {
        Ok(timestamp) => timestamp.strftime(format).to_string(),
        // A time that no calendar has.
        Err(_) => format!("@{}", time.seconds),
    }
}

/// Type and permissions as `ls -l` shows them.
pub fn mode(entry: &Entry) -> String {
    let letter = match entry.kind {
        Kind::Directory | Kind::Implicit => 'd',
        Kind::Symlink => 'l',
        Kind::Character => 'c',
        Kind::Block => 'b',
        Kind::Fifo => 'p',
        Kind::Regular | Kind::CrossLayerLink => '-',
        Kind::Whiteout => '×',
    };
    let mut text = String::with_capacity(10);
    text.push(letter);
    // Read, write and execute of owner, group and others, with setuid, setgid and sticky.
    for (shift, special, marks) in
        [(6, 0o4000, ['s', 'S']), (3, 0o2000, ['s', 'S']), (0, 0o1000, ['t', 'T'])]
    {
        let bits = entry.mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (entry.mode & special != 0, bits & 1 != 0) {
            (true, true) => marks[0],
            (true, false) => marks[1],
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// The first digits of a digest, which are enough to tell it from others.
pub fn digits(digest: &impl ToString) -> String {
    let text = digest.to_string();
    let hex = text.split_once(':').map_or(text.as_str(), |(_, hex)| hex);
    hex.chars().take(12).collect()
}

/// The address of a repository's page.
pub fn repository_url(repository: &Repository) -> String {
    format!("/ui/{repository}")
}

/// `NAME:TAG` or `NAME@DIGEST`.
pub fn image_name(repository: &Repository, reference: &Reference) -> String {
    match reference {
        Reference::Tag(tag) => format!("{repository}:{tag}"),
        Reference::Digest(digest) => format!("{repository}@{digest}"),
    }
}

/// The address of what lies at a path of an image. A directory's ends in a slash.
pub fn image_url(repository: &Repository, reference: &Reference, path: &[u8]) -> String {
    format!("/ui/{}/{}", image_name(repository, reference), url_path(path))
}

/// A value of a query: what [`url_path`] leaves as it is means nothing there.
pub fn query_value(text: impl AsRef<[u8]>) -> String {
    url_path(text.as_ref())
}

/// A word of a shell's command line.
pub fn quoted(word: impl AsRef<[u8]>) -> String {
    let bytes = word.as_ref();
    let is_plain = |b: &u8| b.is_ascii_alphanumeric() || b"-_./:@%+=,".contains(b);
    if !bytes.is_empty() && bytes.iter().all(is_plain) {
        return String::from_utf8_lossy(bytes).into_owned();
    }
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(is_hidden) => format!("'{}'", text.replace('\'', r"'\''")),
        _ => format!("$'{}'", bytes.escape_ascii()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_page_shows() {
        for (bytes, want) in [
            (&b"a b"[..], "a b"),
            (b"<script>\"&'", "&lt;script&gt;&quot;&amp;'"),
            (
                b"\x1b[31m\n\t",
                r#"<i class="c">\x1b</i>[31m<i class="c">\x0a</i><i class="c">\x09</i>"#,
            ),
            (
                "\u{202e}txt\u{200b}".as_bytes(),
                r#"<i class="c">U+202E</i>txt<i class="c">U+200B</i>"#,
            ),
            (b"\xff\xfe", r#"<i class="c">\xff</i><i class="c">\xfe</i>"#),
            ("grün \u{1f600}".as_bytes(), "grün \u{1f600}"),
        ] {
            assert_eq!(Shown(bytes).render().0, want);
        }
        assert_eq!(Line(b"a\tb\r").render().0, "a\tb<i class=\"c\">\\x0d</i>");
        assert_eq!(plain("\u{202e}a\u{200b}\x1b".as_bytes()), "\\xe2\\x80\\xaea\u{fffd}\\x1b");
    }

    #[test]
    fn sizes() {
        for (bytes, want) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (9_994, "9.99 kB"),
            (9_996, "10.0 kB"),
            (99_960, "100 kB"),
            (999_600, "1.00 MB"),
            (123_456_789, "123 MB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(size(bytes), want);
        }
        assert_eq!(number(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!((number(12), number(123)), ("12".to_owned(), "123".to_owned()));
    }

    #[test]
    fn modes() {
        let mut entry = Entry::implicit(Kind::Regular);
        for (kind, bits, want) in [
            (Kind::Directory, 0o1777, "drwxrwxrwt"),
            (Kind::Regular, 0o4755, "-rwsr-xr-x"),
            (Kind::Regular, 0o2644, "-rw-r-Sr--"),
            (Kind::Symlink, 0o777, "lrwxrwxrwx"),
        ] {
            (entry.kind, entry.mode) = (kind, bits);
            assert_eq!(mode(&entry), want);
        }
    }

    #[test]
    fn words_of_a_shell() {
        for (word, want) in [
            (&b"/etc/hosts"[..], "/etc/hosts"),
            (b"", "''"),
            (b"a b", "'a b'"),
            (b"it's $(x)", r"'it'\''s $(x)'"),
            (b"a\x1b'\\", r"$'a\x1b\'\\'"),
        ] {
            assert_eq!(quoted(word), want);
        }
    }
}
