//! The notifications that are to be sent, on disk: one queue for all endpoints,
//! and for each of them the place it has come to.
//!
//! Notifications have numbers without gaps. `NUMBER.events` holds them from that
//! number on, one JSON object a line; `NAME.next` the number that an endpoint gets
//! next. A line is written when it is queued and so outlives the process; it is
//! synced before it is sent for the first time, so that queuing waits for no disk. What was
//! sent but not noted is sent again.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes of one file, about.
const SEGMENT: u64 = 1 << 20;
/// Bytes of all of them. Beyond that the oldest are dropped.
const BYTES_MAX: u64 = 64 << 20;
/// Notifications in one envelope, and their bytes, about.
const BATCH: usize = 100;
const BATCH_BYTES: usize = 256 << 10;

#[derive(Debug)]
pub struct Journal {
    folder: PathBuf,
    limits: Limits,
    // Held while a line is written, by none while a disk is waited for.
    state: Mutex<State>,
    /// Of the endpoints, in the order they were given in.
    names: Vec<String>,
}

#[derive(Debug)]
struct Limits {
    segment: u64,
    bytes: u64,
}

#[derive(Debug)]
struct State {
    /// Oldest first; the last is written to.
    segments: VecDeque<Segment>,
    file: File,
    /// Those that are full and not synced yet.
    full: Vec<File>,
    /// The number of the next line.
    next: u64,
    synced: u64,
    /// The number that each endpoint gets next.
    places: Vec<u64>,
}

#[derive(Debug)]
struct Segment {
    first: u64,
    bytes: u64,
}

/// Where one endpoint is.
#[derive(Clone, Debug)]
pub struct Cursor {
    endpoint: usize,
    /// The next to be noted as sent.
    next: u64,
    /// In the segment that starts with this number, so far in.
    segment: u64,
    offset: u64,
    /// What was read, and where it ends.
    read: u64,
    end: u64,
}

#[derive(Debug)]
pub struct Batch {
    pub notifications: Vec<String>,
    /// Those that should have come before them, and are gone.
    pub lost: u64,
}

impl Journal {
    /// Opens the queue in a folder, or makes one, for the endpoints of these
    /// names. New ones get what comes from now on; others are forgotten.
    pub fn open(folder: &Path, names: &[String]) -> io::Result<Journal> {
        let limits = Limits { segment: SEGMENT, bytes: BYTES_MAX };
        Journal::with(folder, names, limits)
    }

    fn with(folder: &Path, names: &[String], limits: Limits) -> io::Result<Journal> {
        DirBuilder::new().mode(0o700).recursive(true).create(folder)?;
        let mut segments = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let file_name = entry.file_name();
            let Some((stem, kind)) = file_name.to_str().and_then(|name| name.rsplit_once('.'))
            else {
                continue;
            };
            match kind {
                "events" => {
                    if let Ok(first) = stem.parse() {
                        let bytes = entry.metadata()?.len();
                        segments.push(Segment { first, bytes });
                    }
                }
                "next" if !names.iter().any(|name| name == stem) => {
                    tracing::warn!("an endpoint is no longer notified: its place is forgotten");
                    fs::remove_file(entry.path())?;
                }
                _ => {}
            }
        }
        segments.sort_unstable_by_key(|segment| segment.first);
        let first = segments.last().map_or(1, |last| last.first);
        let path = segment_path(folder, first);
        let mut file = File::options().read(true).append(true).create(true).open(&path)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        // A power cut may leave part of a line.
        let whole = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        file.set_len(whole as u64)?;
        let lines = text[..whole].iter().filter(|&&byte| byte == b'\n').count();
        let next = first + lines as u64;
        match segments.last_mut() {
            Some(last) => last.bytes = whole as u64,
            None => segments.push(Segment { first, bytes: 0 }),
        }
        let mut places = Vec::new();
        for name in names {
            let place = match fs::read_to_string(folder.join(format!("{name}.next"))) {
                // Beyond what there is, or torn, after a power cut.
                Ok(text) => {
                    let oldest = segments.first().map_or(next, |first| first.first);
                    text.trim().parse().unwrap_or(oldest).min(next)
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => next,
                Err(e) => return Err(e),
            };
            note(folder, name, place)?;
            places.push(place);
        }
        let state =
            State { segments: segments.into(), file, full: Vec::new(), next, synced: 0, places };
        Ok(Journal {
            folder: folder.to_owned(),
            limits,
            state: Mutex::new(state),
            names: names.to_vec(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What is remembered follows what was written.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a notification: a line without its end.
    pub fn append(&self, notification: &str) -> io::Result<()> {
        let mut state = self.state();
        let full = |segment: &Segment| segment.bytes >= self.limits.segment;
        if state.segments.back().is_none_or(full) {
            let first = state.next;
            let path = segment_path(&self.folder, first);
            let file = File::options().append(true).create_new(true).open(path)?;
            let full = std::mem::replace(&mut state.file, file);
            state.full.push(full);
            state.segments.push_back(Segment { first, bytes: 0 });
            self.drop_oldest(&mut state);
        }
        let line = format!("{notification}\n");
        let State { segments, file, .. } = &mut *state;
        if let Some(last) = segments.back_mut() {
            if let Err(error) = file.write_all(line.as_bytes()) {
                // Nothing may come after part of a line.
                file.set_len(last.bytes)?;
                return Err(error);
            }
            last.bytes += line.len() as u64;
            state.next += 1;
        }
        Ok(())
    }

    fn drop_oldest(&self, state: &mut State) {
        let total = |state: &State| state.segments.iter().map(|s| s.bytes).sum::<u64>();
        while state.segments.len() > 1 && total(state) + self.limits.segment > self.limits.bytes {
            self.drop_first(state);
        }
    }

    fn drop_first(&self, state: &mut State) {
        let Some(segment) = state.segments.pop_front() else {
            return;
        };
        let path = segment_path(&self.folder, segment.first);
        if let Err(error) = fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), %error, "cannot remove old notifications");
        }
    }

    /// Where an endpoint, by its number, goes on.
    pub fn cursor(&self, endpoint: usize) -> Cursor {
        let next = self.state().places[endpoint];
        Cursor { endpoint, next, segment: 0, offset: 0, read: next, end: 0 }
    }

    pub fn has_more(&self, cursor: &Cursor) -> bool {
        self.state().next > cursor.next
    }

    /// The next notifications from what was noted as sent, in their order. They
    /// come again until [`Journal::done`].
    pub fn read(&self, cursor: &mut Cursor) -> io::Result<Batch> {
        self.sync()?;
        let mut batch = Batch { notifications: Vec::new(), lost: 0 };
        let (segment, last) = {
            let state = self.state();
            let after = state.segments.partition_point(|s| s.first <= cursor.next);
            let at = after.saturating_sub(1);
            let Some(segment) = state.segments.get(at) else {
                return Ok(batch);
            };
            let last = state.segments.get(at + 1).map_or(state.next, |s| s.first);
            (segment.first, last)
        };
        if segment > cursor.next {
            batch.lost = segment - cursor.next;
            cursor.next = segment;
        }
        let mut file = match File::open(segment_path(&self.folder, segment)) {
            Ok(file) => file,
            // Dropped just now: the next look finds that out.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(batch),
            Err(e) => return Err(e),
        };
        if cursor.segment != segment {
            // Once a segment, and a start.
            (cursor.segment, cursor.offset) = (segment, 0);
            let mut text = Vec::new();
            (&file).take(self.limits.segment * 2).read_to_end(&mut text)?;
            let skipped = text.split_inclusive(|&byte| byte == b'\n');
            let skipped = skipped.take((cursor.next - segment) as usize);
            cursor.offset = skipped.map(|line| line.len() as u64).sum();
        }
        file.seek(SeekFrom::Start(cursor.offset))?;
        let mut text = Vec::new();
        // One line is less than this, whatever it is about.
        file.take(BATCH_BYTES as u64).read_to_end(&mut text)?;
        (cursor.read, cursor.end) = (cursor.next, cursor.offset);
        for line in text.split_inclusive(|&byte| byte == b'\n').take(BATCH) {
            if cursor.read == last || line.last() != Some(&b'\n') {
                break;
            }
            cursor.read += 1;
            cursor.end += line.len() as u64;
            match str::from_utf8(&line[..line.len() - 1]) {
                Ok(line) if serde_json::from_str::<serde::de::IgnoredAny>(line).is_ok() => {
                    batch.notifications.push(line.to_owned());
                }
                // Damaged: an endpoint would refuse it for ever.
                _ => batch.lost += 1,
            }
        }
        if cursor.read == cursor.next && cursor.next < last {
            // The file is shorter than it was: what is missing will not come.
            batch.lost += last - cursor.next;
            (cursor.read, cursor.end) = (last, 0);
        }
        if batch.notifications.is_empty() {
            self.done(cursor)?;
        }
        Ok(batch)
    }

    /// Notes that what was read is sent, and drops what is not needed any more.
    pub fn done(&self, cursor: &mut Cursor) -> io::Result<()> {
        (cursor.next, cursor.offset) = (cursor.read, cursor.end);
        note(&self.folder, &self.names[cursor.endpoint], cursor.next)?;
        let mut state = self.state();
        state.places[cursor.endpoint] = cursor.next;
        let needed = state.places.iter().copied().min().unwrap_or(state.next);
        while state.segments.get(1).is_some_and(|second| second.first <= needed) {
            self.drop_first(&mut state);
        }
        Ok(())
    }

    /// Brings what was queued to the disk.
    fn sync(&self) -> io::Result<()> {
        let (full, file, next) = {
            let mut state = self.state();
            if state.synced == state.next {
                return Ok(());
            }
            let file = state.file.try_clone()?;
            (std::mem::take(&mut state.full), file, state.next)
        };
        for file in full.iter().chain([&file]) {
            file.sync_data()?;
        }
        let mut state = self.state();
        state.synced = state.synced.max(next);
        Ok(())
    }
}

fn segment_path(folder: &Path, first: u64) -> PathBuf {
    folder.join(format!("{first:020}.events"))
}

/// Not synced: a place that is lost is an older one, from which is sent again.
fn note(folder: &Path, name: &str, next: u64) -> io::Result<()> {
    let path = folder.join(format!("{name}.next"));
    let aside = folder.join(format!("{name}.next.new"));
    fs::write(&aside, format!("{next}\n"))?;
    fs::rename(aside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Limits = Limits { segment: 100, bytes: 1000 };

    fn open(folder: &Path, names: &[&str]) -> Journal {
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        Journal::with(folder, &names, SMALL).unwrap()
    }

    fn append(journal: &Journal, numbers: std::ops::Range<u64>) {
        for number in numbers {
            journal.append(&format!("{{\"n\":{number}}}")).unwrap();
        }
    }

    /// All there is to read, taken.
    fn take(journal: &Journal, cursor: &mut Cursor) -> (Vec<u64>, u64) {
        let (mut numbers, mut lost) = (Vec::new(), 0);
        while journal.has_more(cursor) {
            let batch = journal.read(cursor).unwrap();
            lost += batch.lost;
            numbers.extend(batch.notifications.iter().map(|line| {
                let value: serde_json::Value = serde_json::from_str(line).unwrap();
                value["n"].as_u64().unwrap()
            }));
            journal.done(cursor).unwrap();
        }
        (numbers, lost)
    }

    fn files(folder: &Path) -> usize {
        let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        names.filter(|path| path.extension().is_some_and(|e| e == "events")).count()
    }

    #[test]
    fn in_order_across_files_and_restarts() {
        let temp = tempfile::tempdir().unwrap();
        let journal = open(temp.path(), &["a"]);
        let mut cursor = journal.cursor(0);
        assert!(!journal.has_more(&cursor));
        append(&journal, 0..50);
        assert!(files(temp.path()) > 3);
        let first = journal.read(&mut cursor).unwrap();
        let again = journal.read(&mut cursor).unwrap();
        assert_eq!(first.notifications, again.notifications, "not done yet");
        journal.done(&mut cursor).unwrap();
        let sent = first.notifications.len() as u64;
        assert!(sent > 1 && sent < 50);
        drop(journal);

        let journal = open(temp.path(), &["a"]);
        append(&journal, 50..60);
        let got = take(&journal, &mut journal.cursor(0));
        assert_eq!(got, ((sent..60).collect(), 0));
        assert_eq!(files(temp.path()), 1);
    }

    #[test]
    fn each_endpoint_has_its_place() {
        let temp = tempfile::tempdir().unwrap();
        let journal = open(temp.path(), &["a", "b"]);
        append(&journal, 0..20);
        let all: Vec<_> = (0..20).collect();
        assert_eq!(take(&journal, &mut journal.cursor(0)), (all.clone(), 0));
        let kept = files(temp.path());
        assert!(kept > 1, "b needs them");
        drop(journal);
        // One goes, one comes.
        let journal = open(temp.path(), &["c", "b"]);
        assert_eq!(take(&journal, &mut journal.cursor(0)), (vec![], 0));
        assert_eq!(take(&journal, &mut journal.cursor(1)), (all, 0));
        assert_eq!(files(temp.path()), 1);
        assert!(!temp.path().join("a.next").exists());
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many() {
        let temp = tempfile::tempdir().unwrap();
        let journal = open(temp.path(), &["a"]);
        append(&journal, 0..1000);
        let bytes: u64 = journal.state().segments.iter().map(|s| s.bytes).sum();
        assert!(bytes <= SMALL.bytes, "{bytes}");
        let (numbers, lost) = take(&journal, &mut journal.cursor(0));
        assert_eq!(lost + numbers.len() as u64, 1000);
        assert_eq!(numbers, (lost..1000).collect::<Vec<_>>());
        assert!(numbers.len() > 50);
    }

    #[test]
    fn damage_costs_what_it_hits() {
        for (what, damage, want, lost) in [
            ("part of a line at the end", &b"{\"n\":7"[..], 0..5, 0),
            ("a line that is none", b"nonsense\n", 0..5, 1),
            ("not even text", b"\xff\n", 0..5, 1),
        ] {
            let temp = tempfile::tempdir().unwrap();
            let journal = open(temp.path(), &["a"]);
            append(&journal, 0..4);
            let path = segment_path(temp.path(), 1);
            drop(journal);
            let mut file = File::options().append(true).open(path).unwrap();
            file.write_all(damage).unwrap();
            let journal = open(temp.path(), &["a"]);
            append(&journal, 4..5);
            let got = take(&journal, &mut journal.cursor(0));
            assert_eq!(got, (want.collect(), lost), "{what}");
        }
    }

    #[test]
    fn a_file_that_was_cut_short_holds_up_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let journal = open(temp.path(), &["a"]);
        append(&journal, 0..30);
        let file = File::options().write(true).open(segment_path(temp.path(), 1)).unwrap();
        file.set_len(8).unwrap();
        let (numbers, lost) = take(&journal, &mut journal.cursor(0));
        assert_eq!(lost + numbers.len() as u64, 30);
        assert_eq!(numbers[0], 0);
        assert_eq!(numbers.last(), Some(&29));
    }
}
