//! `Range` and the conditional headers (RFC 9110, sections 13 and 14), for
//! content that never changes and whose entity tag is its digest.

use std::ops::Range;

use hyper::HeaderMap;
use hyper::header::{IF_NONE_MATCH, IF_RANGE, RANGE};

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Wanted {
    All,
    Part(Range<u64>),
    /// 304
    NotModified,
    /// 416
    Unsatisfiable,
}

/// `etag` with its quotes.
pub fn wanted(headers: &HeaderMap, etag: &str, size: u64) -> Wanted {
    if not_modified(headers, etag) {
        return Wanted::NotModified;
    }
    // A date cannot match: content has no time here.
    let if_range = headers.get(IF_RANGE).is_none_or(|tag| tag.as_bytes() == etag.as_bytes());
    match headers.get(RANGE).filter(|_| if_range) {
        Some(value) => value.to_str().map_or(Wanted::All, |value| parse(value, size)),
        None => Wanted::All,
    }
}

/// Whether `If-None-Match` names the entity tag, weakly compared.
pub fn not_modified(headers: &HeaderMap, etag: &str) -> bool {
    headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|tag| {
            let tag = tag.trim();
            tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag
        })
}

/// Another unit and several ranges in one request get the whole, as the RFC
/// allows. A range that ends before it starts is refused rather than ignored:
/// distribution's and the conformance program's reading.
fn parse(value: &str, size: u64) -> Wanted {
    let Some((unit, ranges)) = value.split_once('=') else {
        return Wanted::All;
    };
    if !unit.trim().eq_ignore_ascii_case("bytes") || ranges.contains(',') {
        return Wanted::All;
    }
    let Some((first, last)) = ranges.trim().split_once('-') else {
        return Wanted::All;
    };
    // Digits alone, and a number too large to hold is larger than any blob.
    let number = |s: &str| -> Option<u64> {
        (!s.is_empty() && s.bytes().all(|b| b.is_ascii_digit()))
            .then(|| s.parse().unwrap_or(u64::MAX))
    };
    let range = match (first, last) {
        ("", suffix) => match number(suffix) {
            Some(length) => size.saturating_sub(length)..size,
            None => return Wanted::All,
        },
        (first, "") => match number(first) {
            Some(first) => first..size,
            None => return Wanted::All,
        },
        (first, last) => match (number(first), number(last)) {
            (Some(first), Some(last)) => first..size.min(last.saturating_add(1)),
            _ => return Wanted::All,
        },
    };
    if range.is_empty() { Wanted::Unsatisfiable } else { Wanted::Part(range) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        use Wanted::{All, Part, Unsatisfiable};
        for (value, size, want) in [
            ("bytes=0-0", 10, Part(0..1)),
            ("bytes=2-5", 10, Part(2..6)),
            ("bytes=2-", 10, Part(2..10)),
            ("bytes=-3", 10, Part(7..10)),
            ("bytes=-30", 10, Part(0..10)),
            ("bytes=8-99", 10, Part(8..10)),
            ("Bytes = 1-2", 10, Part(1..3)),
            ("bytes=0-99999999999999999999999", 10, Part(0..10)),
            ("bytes=0-18446744073709551615", 10, Part(0..10)),
            ("bytes=10-", 10, Unsatisfiable),
            ("bytes=10-20", 10, Unsatisfiable),
            ("bytes=5-0", 10, Unsatisfiable),
            ("bytes=-0", 10, Unsatisfiable),
            ("bytes=0-", 0, Unsatisfiable),
            ("bytes=99999999999999999999999-", 10, Unsatisfiable),
            ("bytes=0-1,3-4", 10, All),
            ("lines=0-1", 10, All),
            ("bytes=", 10, All),
            ("bytes=-", 10, All),
            ("bytes=a-b", 10, All),
            ("bytes=+1-2", 10, All),
            ("", 10, All),
        ] {
            assert_eq!(parse(value, size), want, "{value} of {size}");
        }
    }

    #[test]
    fn conditions() {
        let etag = "\"sha256:00\"";
        for (name, value, want) in [
            (IF_NONE_MATCH, "\"sha256:00\"", Wanted::NotModified),
            (IF_NONE_MATCH, "W/\"sha256:00\"", Wanted::NotModified),
            (IF_NONE_MATCH, "\"x\", \"sha256:00\"", Wanted::NotModified),
            (IF_NONE_MATCH, "*", Wanted::NotModified),
            (IF_NONE_MATCH, "\"x\"", Wanted::Part(0..1)),
            (IF_RANGE, "\"sha256:00\"", Wanted::Part(0..1)),
            (IF_RANGE, "W/\"sha256:00\"", Wanted::All),
            (IF_RANGE, "\"x\"", Wanted::All),
            (IF_RANGE, "Sat, 29 Oct 1994 19:43:31 GMT", Wanted::All),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RANGE, "bytes=0-0".parse().unwrap());
            headers.insert(name, value.parse().unwrap());
            assert_eq!(wanted(&headers, etag, 10), want, "{value}");
        }
    }
}
