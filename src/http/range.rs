//! `Range` and the conditional headers (RFC 9110, sections 13 and 14), for
//! content that never changes and whose entity tag is its digest.

use std::ops::Range;

use hyper::HeaderMap;
use hyper::header::{IF_NONE_MATCH, IF_RANGE, RANGE};

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Wanted {
    All,
    /// One range or several, none of which is empty or overlaps another.
    Parts(Vec<Range<u64>>),
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

/// Ranges of one request; a header with more of them is ignored. containers/storage, whose partial
/// pulls ask for the most, sends up to 1024.
const RANGES_MAX: usize = 1024;

/// Another unit, and what is not a range, are ignored, as the RFC allows. A range that ends before
/// it starts is refused rather than ignored: distribution's and the conformance program's reading.
fn parse(value: &str, size: u64) -> Wanted {
    let ranges =
        value.split_once('=').filter(|(unit, _)| unit.trim().eq_ignore_ascii_case("bytes"));
    // Readers of pieces ask for the first one of an empty file too (RFC 9110, 14.2 permits it).
    let (Some((_, ranges)), 1..) = (ranges, size) else {
        return Wanted::All;
    };
    if ranges.bytes().filter(|b| *b == b',').count() >= RANGES_MAX {
        return Wanted::All;
    }
    let Some(ranges) = ranges.split(',').map(|range| one(range.trim(), size)).collect() else {
        return Wanted::All;
    };
    let mut ranges: Vec<Range<u64>> = ranges;
    ranges.retain(|range| !range.is_empty());
    merge(&mut ranges);
    if ranges.is_empty() { Wanted::Unsatisfiable } else { Wanted::Parts(ranges) }
}

/// `FIRST-LAST`, `FIRST-` or `-LENGTH`; empty if it lies outside of `size` bytes. `None`: it is not
/// a range.
fn one(range: &str, size: u64) -> Option<Range<u64>> {
    // Digits alone, and a number too large to hold is larger than any blob.
    let number = |s: &str| -> Option<u64> {
        (!s.is_empty() && s.bytes().all(|b| b.is_ascii_digit()))
            .then(|| s.parse().unwrap_or(u64::MAX))
    };
    Some(match range.split_once('-')? {
        ("", suffix) => size.saturating_sub(number(suffix)?)..size,
        (first, "") => number(first)?..size,
        (first, last) => number(first)?..size.min(number(last)?.saturating_add(1)),
    })
}

/// Joins ranges that overlap, so that no byte is sent twice. Those that only touch stay apart and
/// in their order: containers/image refuses an answer with fewer parts than it asked for.
fn merge(ranges: &mut Vec<Range<u64>>) {
    let mut sorted = ranges.clone();
    sorted.sort_unstable_by_key(|range| range.start);
    if sorted.windows(2).all(|pair| pair[0].end <= pair[1].start) {
        return;
    }
    sorted.dedup_by(|next, before| {
        let overlap = next.start < before.end;
        if overlap {
            before.end = before.end.max(next.end);
        }
        overlap
    });
    *ranges = sorted;
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        use Wanted::{All, Unsatisfiable};
        #[allow(non_snake_case)]
        let Part = |range| Wanted::Parts(vec![range]);
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
            ("bytes=0-", 0, All),
            ("bytes=0-1048575", 0, All),
            ("bytes=5-0", 0, All),
            ("bytes=99999999999999999999999-", 10, Unsatisfiable),
            ("bytes=0-1,3-4", 10, Wanted::Parts(vec![0..2, 3..5])),
            ("bytes=7-8, 0-1 ,-1", 10, Wanted::Parts(vec![7..9, 0..2, 9..10])),
            ("bytes=0-1,2-4", 10, Wanted::Parts(vec![0..2, 2..5])),
            ("bytes=4-6,0-4,9-", 10, Wanted::Parts(vec![0..7, 9..10])),
            ("bytes=0-,0-,0-", 10, Part(0..10)),
            ("bytes=0-8,2-3,8-9", 10, Part(0..10)),
            ("bytes=0-1,10-", 10, Part(0..2)),
            ("bytes=10-,5-4", 10, Unsatisfiable),
            ("bytes=0-1,x", 10, All),
            ("bytes=0-1,", 10, All),
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
    fn too_many() {
        let ranges = |n: u64| {
            let ranges: Vec<String> = (0..n).map(|i| format!("{0}-{0}", 2 * i)).collect();
            parse(&format!("bytes={}", ranges.join(",")), 10_000)
        };
        assert_eq!(ranges(1024), Wanted::Parts((0..1024).map(|i| 2 * i..2 * i + 1).collect()));
        assert_eq!(ranges(1025), Wanted::All);
    }

    #[test]
    fn conditions() {
        let etag = "\"sha256:00\"";
        for (name, value, want) in [
            (IF_NONE_MATCH, "\"sha256:00\"", Wanted::NotModified),
            (IF_NONE_MATCH, "W/\"sha256:00\"", Wanted::NotModified),
            (IF_NONE_MATCH, "\"x\", \"sha256:00\"", Wanted::NotModified),
            (IF_NONE_MATCH, "*", Wanted::NotModified),
            (IF_NONE_MATCH, "\"x\"", Wanted::Parts(vec![0..1])),
            (IF_RANGE, "\"sha256:00\"", Wanted::Parts(vec![0..1])),
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
