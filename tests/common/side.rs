//! A file of a mount beside the same file elsewhere: what [`super::tree`] does not
//! compare.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

/// Files up to this are also read byte by byte.
const SMALL: usize = 4096;

/// All paths below a folder, itself first.
pub fn walk(root: &Path) -> Vec<PathBuf> {
    let mut paths = vec![root.to_owned()];
    let mut at = 0;
    while let Some(path) = paths.get(at).cloned() {
        at += 1;
        let metadata = fs::symlink_metadata(&path).expect("its metadata");
        if metadata.is_dir() {
            let entries = fs::read_dir(&path).expect("a folder");
            paths.extend(entries.map(|entry| entry.expect("an entry").path()));
        }
    }
    paths
}

/// What stat shows of a file, but for what each file system has of its own: inode
/// numbers, space taken, sizes and link counts of directories.
#[derive(Debug, PartialEq, Eq)]
pub struct Stat {
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: (i64, i64),
    links: Option<u64>,
    size: Option<u64>,
    device: Option<u64>,
}

impl Stat {
    pub fn read(path: &Path) -> Stat {
        let metadata = fs::symlink_metadata(path).expect("its metadata");
        let sort = metadata.file_type();
        let is_device = sort.is_char_device() || sort.is_block_device();
        Stat {
            mode: metadata.mode(),
            uid: metadata.uid(),
            gid: metadata.gid(),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            links: (!sort.is_dir()).then(|| metadata.nlink()),
            size: (!sort.is_dir()).then(|| metadata.size()),
            device: is_device.then(|| metadata.rdev()),
        }
    }
}

/// Where data and holes begin, in turns, to the end.
pub fn holes(path: &Path) -> Vec<i64> {
    let file = File::open(path).expect("a file");
    let mut places = vec![0];
    for whence in [libc::SEEK_DATA, libc::SEEK_HOLE].into_iter().cycle() {
        // SAFETY: it is open.
        #[allow(unsafe_code)]
        let next = unsafe { libc::lseek(file.as_raw_fd(), places[places.len() - 1], whence) };
        if next < 0 {
            let error = io::Error::last_os_error();
            assert_eq!(error.raw_os_error(), Some(libc::ENXIO), "{error}");
            return places;
        }
        places.push(next);
    }
    places
}

/// Takes the kernel's own copy of a file's content from it.
pub fn forget(file: &File) {
    posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).expect("an open file");
}

/// Each way anew: by 1 byte where it is small, by 4 KiB, by 1 MiB, mapped.
pub fn assert_content(path: &Path, want: &[u8]) {
    let file = File::open(path).expect("a file");
    for size in [1, 4096, 1 << 20] {
        if size == 1 && want.len() > SMALL {
            continue;
        }
        forget(&file);
        let mut piece = vec![0; size];
        let mut at = 0;
        loop {
            let length = file.read_at(&mut piece, at as u64).expect("content");
            if length == 0 {
                break;
            }
            let right = want.get(at..at + length) == Some(&piece[..length]);
            assert!(right, "{path:?} by {size} bytes, at {at}");
            at += length;
        }
        assert_eq!(at, want.len(), "{path:?} by {size} bytes");
    }
    if want.is_empty() {
        return;
    }
    forget(&file);
    // SAFETY: nobody can change it.
    #[allow(unsafe_code)]
    let mapped = unsafe { memmap2::Mmap::map(&file) }.expect("it can be mapped");
    // From its end: no reading ahead helps.
    let last = (want.len() - 1) / SMALL * SMALL;
    for at in (0..=last).rev().step_by(SMALL) {
        assert_eq!(mapped[at], want[at], "{path:?} mapped, at {at}");
    }
    assert!(mapped[..] == want[..], "{path:?} mapped");
}
