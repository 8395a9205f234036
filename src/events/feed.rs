//! The newest events, as the lines that readers are sent: one copy for all, in
//! bounded memory. A reader is a place in it, and one that falls behind the
//! oldest line is told how many it has missed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::{Event, Kind};
use crate::oci::Repository;

/// Lines kept for readers that are behind, and their bytes.
const LINES_MAX: usize = 32 << 10;
const BYTES_MAX: usize = 8 << 20;
/// Lines looked at in one go.
const LOOKED_AT: usize = 256;

#[derive(Debug)]
struct Line {
    kind: Kind,
    repository: Option<Repository>,
    text: String,
}

#[derive(Debug, Default)]
struct Lines {
    lines: VecDeque<Arc<Line>>,
    bytes: usize,
    /// The number of the first of them.
    first: u64,
}

impl Lines {
    fn end(&self) -> u64 {
        self.first + self.lines.len() as u64
    }
}

#[derive(Debug)]
pub struct Feed {
    // A short section, never held across an await.
    lines: Mutex<Lines>,
    bytes_max: usize,
    /// Between two signs of life where nothing happens.
    pub heartbeat: Duration,
    /// The number of the next line; `None` once the feed is closed.
    end: watch::Sender<Option<u64>>,
}

/// Why a reader gets no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The server is stopping.
    Closed,
    /// So many lines were gone before they could be sent.
    Behind { missed: u64 },
}

impl Feed {
    pub(super) fn new(heartbeat: Duration) -> Feed {
        Feed {
            lines: Mutex::default(),
            bytes_max: BYTES_MAX,
            heartbeat,
            end: watch::Sender::new(Some(0)),
        }
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        // No invariant is broken half way.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, event: &Event) {
        // Who comes later hears of later events only.
        if self.end.receiver_count() == 0 {
            return;
        }
        let line = Arc::new(Line {
            kind: event.kind,
            repository: event.repository.clone(),
            text: event.line(),
        });
        let mut lines = self.lines();
        lines.bytes += line.text.len();
        lines.lines.push_back(line);
        while lines.bytes > self.bytes_max || lines.lines.len() > LINES_MAX {
            let Some(oldest) = lines.lines.pop_front() else {
                break;
            };
            lines.bytes -= oldest.text.len();
            lines.first += 1;
        }
        let now = lines.end();
        // Under the lock, so that the number only grows.
        self.end.send_if_modified(|end| match end {
            Some(end) => {
                *end = now;
                true
            }
            None => false,
        });
    }

    /// Reads what comes from now on.
    pub fn subscribe(&self) -> Reader {
        let end = self.end.subscribe();
        Reader { next: self.lines().end(), end }
    }

    /// Ends all readers, once they have what there is.
    pub fn close(&self) {
        let _lines = self.lines();
        self.end.send_replace(None);
    }
}

/// A place in the feed.
#[derive(Debug)]
pub struct Reader {
    next: u64,
    end: watch::Receiver<Option<u64>>,
}

impl Reader {
    /// Waits until there is something to [`Reader::read`].
    pub async fn ready(&mut self) {
        let next = self.next;
        // The sender outlives every request.
        drop(self.end.wait_for(|end| end.is_none_or(|end| end > next)).await);
    }

    /// Whether there is something to [`Reader::read`].
    pub fn is_behind(&self) -> bool {
        self.end.borrow().is_none_or(|end| end > self.next)
    }

    /// The next lines that are `wanted`, about `size` bytes of them at most. None
    /// where none of those that came were.
    pub fn read(
        &mut self,
        feed: &Feed,
        size: usize,
        wanted: impl Fn(Kind, Option<&Repository>) -> bool,
    ) -> Result<Vec<u8>, Ended> {
        let mut text = Vec::new();
        loop {
            let (some, closed) = {
                let lines = feed.lines();
                let closed = feed.end.borrow().is_none();
                if self.next < lines.first {
                    let missed = lines.first - self.next;
                    return if text.is_empty() { Err(Ended::Behind { missed }) } else { Ok(text) };
                }
                let skip = (self.next - lines.first) as usize;
                let some = lines.lines.iter().skip(skip).take(LOOKED_AT);
                (some.cloned().collect::<Vec<_>>(), closed)
            };
            if some.is_empty() {
                return match closed && text.is_empty() {
                    true => Err(Ended::Closed),
                    false => Ok(text),
                };
            }
            for line in some {
                if !text.is_empty() && text.len() + line.text.len() > size {
                    return Ok(text);
                }
                self.next += 1;
                if wanted(line.kind, line.repository.as_ref()) {
                    text.extend_from_slice(line.text.as_bytes());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: Kind, id: &str) -> Event {
        Event {
            // The text of others is shorter or longer.
            time: jiff::Timestamp::UNIX_EPOCH,
            ..Event::new(kind, id.to_owned(), &Arc::default())
        }
    }

    fn ids(text: &[u8]) -> Vec<String> {
        let lines = text.split(|&byte| byte == b'\n').filter(|l| !l.is_empty());
        lines
            .map(|line| {
                let event: serde_json::Value = serde_json::from_slice(line).unwrap();
                event["id"].as_str().unwrap().to_owned()
            })
            .collect()
    }

    fn feed() -> Feed {
        Feed::new(Duration::MAX)
    }

    const ALL: fn(Kind, Option<&Repository>) -> bool = |_, _| true;

    #[test]
    fn readers_get_what_comes_after_them_in_order() {
        let feed = feed();
        feed.add(&event(Kind::Tag, "nobody reads"));
        let mut early = feed.subscribe();
        feed.add(&event(Kind::Tag, "1"));
        feed.add(&event(Kind::Layer, "2"));
        let mut late = feed.subscribe();
        feed.add(&event(Kind::Tag, "3"));
        let tags = |kind, _: Option<&Repository>| kind == Kind::Tag;
        assert_eq!(ids(&early.read(&feed, 1 << 20, tags).unwrap()), ["1", "3"]);
        assert_eq!(ids(&late.read(&feed, 1 << 20, ALL).unwrap()), ["3"]);
        assert_eq!(early.read(&feed, 1 << 20, ALL).unwrap(), b"");
    }

    #[test]
    fn in_pieces_of_a_size() {
        let feed = feed();
        let mut reader = feed.subscribe();
        for id in 0..1000 {
            feed.add(&event(Kind::Tag, &id.to_string()));
        }
        let mut got = Vec::new();
        loop {
            let piece = reader.read(&feed, 1000, ALL).unwrap();
            if piece.is_empty() {
                break;
            }
            assert!(piece.len() <= 1000);
            got.extend(ids(&piece));
        }
        let want: Vec<_> = (0..1000).map(|id| id.to_string()).collect();
        assert_eq!(got, want);
        feed.add(&event(Kind::Tag, "large"));
        assert_eq!(ids(&reader.read(&feed, 1, ALL).unwrap()), ["large"]);
    }

    #[test]
    fn who_is_too_slow_hears_how_much_is_lost() {
        let line = event(Kind::Tag, "0").line().len();
        let feed = Feed { bytes_max: 10 * line, ..feed() };
        let mut slow = feed.subscribe();
        for id in 0..10 {
            feed.add(&event(Kind::Tag, &id.to_string()));
        }
        assert_eq!(ids(&slow.read(&feed, line, ALL).unwrap()), ["0"]);
        for id in 0..9 {
            feed.add(&event(Kind::Tag, &id.to_string()));
        }
        let ended = slow.read(&feed, line, ALL);
        assert_eq!(ended, Err(Ended::Behind { missed: 8 }));
        assert!(feed.lines().bytes <= 10 * line);
    }

    #[test]
    fn the_end_comes_after_the_last_line() {
        let feed = feed();
        let mut reader = feed.subscribe();
        feed.add(&event(Kind::Tag, "last"));
        feed.close();
        assert_eq!(ids(&reader.read(&feed, 1 << 20, ALL).unwrap()), ["last"]);
        assert_eq!(reader.read(&feed, 1 << 20, ALL), Err(Ended::Closed));
    }
}
