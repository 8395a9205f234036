//! Read-ahead from file to file. A program that reads the small files of a directory in the order of
//! its listing (`grep -r`, `cp -a`, `tar c`) finds the next ones in the kernel's page cache. That
//! saves a message, and two switches between processes, for each.
//!
//! The kernel takes only files that it knows, and it knows what it has listed; so this never reaches
//! beyond a directory, but starts again as soon as the next one is listed. Files that are not read
//! in the end have cost some memory and time. So this starts only after [`CONFIDENT`] files were
//! read in order, and ends when no file is read in [`CREDIT`] directories: a file in the page cache
//! is not asked for, so of some directories none is given.
//!
//! The kernel locks the pages that it asks for. Giving a file waits for its pages, in a way that no
//! signal ends, not even the one that kills the process. So a file that is asked for is not given,
//! and files are given *before* the request that starts it is answered: until then its reader
//! cannot ask for the next file, so nothing that is given can be locked by it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use fuser::{INodeNo, Notifier};

use super::inodes::Order;
use super::tree::{InOrder, Tree};
use crate::image::MayBlock;

/// Files read in order before any is given.
const CONFIDENT: u32 = 3;
/// Bytes of the largest file that is given: what the kernel asks for at once.
const SMALL: u64 = 128 << 10;
/// Directories whose files are given when they are listed.
const CREDIT: u32 = 4;
/// Files given, or passed over as too large, at a time: few at first, then twice as many each time.
const FILES: std::ops::RangeInclusive<usize> = 16..=64;
/// Bytes given at a time.
const BYTES: u64 = 1 << 20;
/// Places where a reader may go on. A reader has one in each directory on the way to its file.
const STREAMS: usize = 32;

/// A reader in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stream {
    /// The number of the file that it asks for next; 0: none.
    next: u64,
    /// Files to give then.
    files: usize,
}

#[derive(Debug, Default)]
struct Readers {
    /// The one that was used last is in front.
    streams: VecDeque<Stream>,
    /// How many files were read in order.
    in_order: u32,
    /// Directories whose files may still be given.
    credit: u32,
}

#[derive(Debug)]
pub struct ReadAhead {
    readers: Mutex<Readers>,
    /// The numbers of files that are asked for and not answered yet, once for each request.
    asked: Mutex<Vec<u64>>,
    /// Held by the one thread that gives. Giving a file waits while the kernel asks for it, so
    /// another thread must be free to answer.
    buffer: Mutex<Vec<u8>>,
    kernel: Arc<OnceLock<Notifier>>,
}

/// A file that the kernel asks for, until this is dropped.
#[derive(Debug)]
pub struct Asked {
    ahead: Arc<ReadAhead>,
    number: u64,
}

impl Drop for Asked {
    fn drop(&mut self) {
        let mut asked = lock(&self.ahead.asked);
        if let Some(at) = asked.iter().position(|&number| number == self.number) {
            asked.swap_remove(at);
        }
    }
}

/// A panic under any of these locks breaks nothing that they guard.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ReadAhead {
    /// Nothing is given before `kernel` is set.
    pub fn new(kernel: Arc<OnceLock<Notifier>>) -> ReadAhead {
        let (readers, asked, buffer) = Default::default();
        ReadAhead { readers, asked, buffer, kernel }
    }

    /// The kernel asks for a part of a file. The result is to be dropped once it is answered.
    pub fn asks(self: &Arc<ReadAhead>, number: u64) -> Asked {
        lock(&self.asked).push(number);
        Asked { ahead: Arc::clone(self), number }
    }

    /// The kernel asks for the beginning of a file, and is answered after this.
    pub fn reads(&self, tree: &Tree, number: u64) {
        let Some(file) = tree.in_order(number) else {
            return;
        };
        let files = lock(&self.readers).enter(number, file.order);
        if files > 0 {
            self.give(tree, file.order.next, files);
        }
    }

    /// The kernel has listed a directory with this first file in it.
    pub fn listed(&self, tree: &Tree, first: u64) {
        if lock(&self.readers).list() {
            self.give(tree, first, *FILES.start());
        }
    }

    /// Gives up to `files` files, from a number on, to the reader in front.
    fn give(&self, tree: &Tree, from: u64, files: usize) {
        let (Some(kernel), Ok(mut buffer)) = (self.kernel.get(), self.buffer.try_lock()) else {
            return;
        };
        let (mut number, mut bytes) = (from, 0);
        for _ in 0..files {
            let Some(InOrder { size, order }) = tree.in_order(number) else {
                break;
            };
            if bytes >= BYTES || lock(&self.asked).contains(&number) {
                break;
            }
            if size <= SMALL {
                buffer.resize(size as usize, 0);
                // The reader asks for what takes longer, or fails.
                let Ok(length) = tree.read(number, 0, &mut buffer, MayBlock::No) else {
                    break;
                };
                if kernel.store(INodeNo(number), 0, &buffer[..length]).is_err() {
                    break;
                }
                bytes += size;
            }
            number = order.next;
        }
        drop(buffer);
        lock(&self.readers).gave(from, number);
    }
}

impl Readers {
    fn add(&mut self, stream: Stream) {
        self.streams.truncate(STREAMS - 1);
        self.streams.push_front(stream);
    }

    /// A file is read. Returns how many after it are to be given.
    fn enter(&mut self, number: u64, file: Order) -> usize {
        let mut files = *FILES.start();
        let known = self.streams.iter().position(|s| s.next == number);
        if let Some(stream) = known.and_then(|at| self.streams.remove(at)) {
            self.in_order = self.in_order.saturating_add(1);
            files = stream.files;
        } else if file.first {
            self.in_order = self.in_order.saturating_add(1);
        } else {
            self.in_order = 0;
        }
        self.add(Stream { next: file.next, files: (2 * files).min(*FILES.end()) });
        if self.in_order < CONFIDENT {
            return 0;
        }
        self.credit = CREDIT;
        files
    }

    /// A directory was listed. Returns whether its first files are to be given.
    fn list(&mut self) -> bool {
        if self.in_order < CONFIDENT || self.credit == 0 {
            return false;
        }
        self.credit -= 1;
        true
    }

    /// Files from a number on were given, and `next` was not.
    fn gave(&mut self, from: u64, next: u64) {
        match self.streams.iter_mut().find(|s| s.next == from) {
            Some(stream) => stream.next = next,
            None => self.add(Stream { next, files: *FILES.start() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(first: bool, next: u64) -> Order {
        Order { first, next }
    }

    #[test]
    fn readers_in_order() {
        let mut readers = Readers::default();
        let least = *FILES.start();
        assert_eq!(readers.enter(10, file(true, 11)), 0);
        assert_eq!(readers.enter(11, file(false, 12)), 0);
        assert!(!readers.list(), "a program may do nothing but list");
        assert_eq!(readers.enter(12, file(false, 13)), 4 * least);
        readers.gave(13, 20);
        // A directory inside the first, then back.
        assert!(readers.list());
        readers.gave(30, 35);
        assert_eq!(readers.enter(35, file(false, 36)), least);
        assert_eq!(readers.enter(20, file(false, 21)), 4 * least, "at most");
        // Directories in which nothing is read.
        for _ in 0..CREDIT {
            assert!(readers.list());
        }
        assert!(!readers.list());
        assert_eq!(readers.enter(99, file(false, 0)), 0, "in no order");
        assert_eq!(readers.in_order, 0);
    }

    #[test]
    fn asked_for_until_answered() {
        let ahead = Arc::new(ReadAhead::new(Arc::default()));
        let (first, again) = (ahead.asks(7), ahead.asks(7));
        drop(first);
        assert_eq!(*lock(&ahead.asked), [7]);
        drop(again);
        assert!(lock(&ahead.asked).is_empty());
    }

    #[test]
    fn more_readers_than_are_kept() {
        let mut readers = Readers::default();
        for number in 0..100 {
            readers.enter(2 * number, file(true, 2 * number + 1));
        }
        assert_eq!(readers.streams.len(), STREAMS);
        readers.enter(1, file(false, 0));
        assert_eq!(readers.in_order, 0, "forgotten");
        readers.enter(199, file(false, 0));
        assert_eq!(readers.in_order, 1);
    }
}
