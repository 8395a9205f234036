//! The byte ranges that an answer holds: one, or several as `multipart/byteranges` (RFC 9110,
//! 15.3.7.2), whose heads are written when their turn comes.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;
use uuid::Uuid;

/// Ranges still to be sent.
#[derive(Clone, Debug)]
pub struct Parts {
    left: VecDeque<Range<u64>>,
    multipart: Option<Multipart>,
}

#[derive(Clone, Debug)]
struct Multipart {
    boundary: String,
    /// Of the whole content, in bytes.
    size: u64,
    started: bool,
    /// The first range's head is written.
    in_part: bool,
}

/// What an answer goes on with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// What separates two ranges.
    Text(Bytes),
    /// Bytes of the content; never empty.
    Content(Range<u64>),
}

impl Parts {
    pub fn one(range: Range<u64>) -> Parts {
        Parts { left: [range].into(), multipart: None }
    }

    /// Several ranges of a content of `size` bytes.
    pub fn several(ranges: Vec<Range<u64>>, size: u64) -> Parts {
        let boundary = Uuid::new_v4().simple().to_string();
        let multipart = Multipart { boundary, size, started: false, in_part: false };
        Parts { left: ranges.into(), multipart: Some(multipart) }
    }

    /// What separates the ranges, if there are several.
    pub fn boundary(&self) -> Option<&str> {
        self.multipart.as_ref().map(|multipart| multipart.boundary.as_str())
    }

    /// Bytes of the whole answer. Asked before the first part is taken.
    pub fn length(&self) -> u64 {
        let mut parts = self.clone();
        let mut length = 0;
        while let Some(part) = parts.next(|_| u64::MAX) {
            length += match part {
                Part::Text(text) => text.len() as u64,
                Part::Content(range) => range.end - range.start,
            };
        }
        length
    }

    /// Bytes of content that come next, without a text between them; 0: a text or nothing.
    pub fn run(&self) -> u64 {
        match (self.left.front(), &self.multipart) {
            (Some(range), None | Some(Multipart { in_part: true, .. })) => range.end - range.start,
            _ => 0,
        }
    }

    /// The next part. Content from `start` on goes up to `end(start)` at most, which is above it.
    pub fn next(&mut self, end: impl Fn(u64) -> u64) -> Option<Part> {
        if let Some(multipart) = self.multipart.as_mut().filter(|multipart| !multipart.in_part) {
            let text = multipart.text(self.left.front());
            if self.left.is_empty() {
                self.multipart = None;
            }
            return Some(Part::Text(text.into()));
        }
        let front = self.left.front_mut()?;
        let range = front.start..end(front.start).min(front.end);
        front.start = range.end;
        if front.is_empty() {
            self.left.pop_front();
            if let Some(multipart) = &mut self.multipart {
                multipart.in_part = false;
            }
        }
        (!range.is_empty()).then_some(Part::Content(range))
    }
}

impl Multipart {
    /// What goes before `range`, or after the last one.
    fn text(&mut self, range: Option<&Range<u64>>) -> String {
        let line = if self.started { "\r\n" } else { "" };
        let (boundary, size) = (&self.boundary, self.size);
        (self.started, self.in_part) = (true, range.is_some());
        match range {
            Some(range) => format!(
                "{line}--{boundary}\r\nContent-Type: application/octet-stream\r\n\
                 Content-Range: bytes {}-{}/{size}\r\n\r\n",
                range.start,
                range.end - 1,
            ),
            None => format!("{line}--{boundary}--\r\n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several() {
        let mut parts = Parts::several(vec![5..8, 0..1], 9);
        let boundary = parts.boundary().unwrap().to_owned();
        let length = parts.length();
        let mut text = String::new();
        while let Some(part) = parts.next(|start| start + 2) {
            text += &match part {
                Part::Text(text) => String::from_utf8(text.to_vec()).unwrap(),
                Part::Content(range) => {
                    "012345678"[range.start as usize..range.end as usize].into()
                }
            };
        }
        let head = "Content-Type: application/octet-stream\r\nContent-Range: bytes";
        let want = format!(
            "--{boundary}\r\n{head} 5-7/9\r\n\r\n567\r\n--{boundary}\r\n{head} 0-0/9\r\n\r\n0\r\n--{boundary}--\r\n"
        );
        assert_eq!(text, want);
        assert_eq!(length, want.len() as u64);
    }

    #[test]
    fn one() {
        let mut parts = Parts::one(3..6);
        assert_eq!((parts.length(), parts.run(), parts.boundary()), (3, 3, None));
        assert_eq!(parts.next(|_| 5), Some(Part::Content(3..5)));
        assert_eq!(parts.next(|_| 9), Some(Part::Content(5..6)));
        assert_eq!(parts.next(|_| 9), None);
        assert_eq!(Parts::one(0..0).next(|_| 9), None);
    }
}
