//! Answers the kernel's requests from the [`Tree`]. Nothing else knows fuser's types. Slow answers are
//! given by threads of a [`Pool`]. A panic fails its request and ends the mount.

use std::cell::Cell;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, Notifier, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyXattr,
    Request,
};

use super::Event;
use super::error::{Error, Result, Slow};
use super::listing::{End, Listed};
use super::readahead::ReadAhead;
use super::tree::{Attributes, Tree};
use super::workers::Pool;
use crate::image::{Kind, MayBlock, Time};

/// A number stands for nothing else while the kernel knows it, so all have one generation.
const GENERATION: Generation = Generation(0);
/// Read-ahead requests that the kernel may have under way.
const BACKGROUND: u16 = 64;
/// Threads that open images, and wait for them to be indexed.
const OPENING: usize = 64;
/// Threads that list names and count links.
const LISTING: usize = 4;

thread_local! {
    /// The buffer of reads, as long as the longest so far.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// What the kernel is asked to do, where it can.
const CAPABILITIES: [InitFlags; 7] = [
    // A listing has the attributes of its entries, which saves a lookup for each.
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_CACHE_SYMLINKS,
    // Opening sends no message, and caches outlive the open file.
    InitFlags::FUSE_NO_OPEN_SUPPORT,
    InitFlags::FUSE_NO_OPENDIR_SUPPORT,
    // A change of time or size drops no content.
    InitFlags::FUSE_EXPLICIT_INVAL_DATA,
    InitFlags::FUSE_ASYNC_DIO,
];

#[derive(Debug)]
pub struct Adapter(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    tree: Tree,
    ahead: Arc<ReadAhead>,
    /// Where the kernel is told of changes, once it is mounted.
    kernel: Arc<OnceLock<Notifier>>,
    decode: Pool,
    open: Pool,
    list: Pool,
    events: Sender<Event>,
    /// A place on the store's file system.
    store: PathBuf,
}

/// An answer that was not given yet.
trait Reply: Send + 'static {
    fn fail(self, errno: Errno);
}

macro_rules! replies {
    ($($reply:ty),*) => {
        $(impl Reply for $reply {
            fn fail(self, errno: Errno) {
                self.error(errno);
            }
        })*
    };
}

replies!(
    ReplyAttr,
    ReplyData,
    ReplyDirectory,
    ReplyDirectoryPlus,
    ReplyEntry,
    ReplyLseek,
    ReplyStatfs,
    ReplyXattr
);

impl Adapter {
    /// `decoders`: threads that decode.
    pub fn new(tree: Tree, decoders: usize, store: PathBuf, events: Sender<Event>) -> Adapter {
        let kernel = Arc::default();
        Adapter(Arc::new(Shared {
            tree,
            ahead: Arc::new(ReadAhead::new(Arc::clone(&kernel))),
            kernel,
            decode: Pool::new("decode", decoders),
            open: Pool::new("open", OPENING),
            list: Pool::new("list", LISTING),
            events,
            store,
        }))
    }

    /// Where to put the connection to the kernel when it is mounted.
    pub fn kernel(&self) -> Arc<OnceLock<Notifier>> {
        Arc::clone(&self.0.kernel)
    }

    /// Does the work and gives the answer: at once, or on another thread if the work would block.
    fn answer<R: Reply, T>(
        &self,
        operation: &'static str,
        number: INodeNo,
        mut reply: R,
        work: impl Fn(&Tree, MayBlock, &mut R) -> Result<T> + Send + 'static,
        give: impl FnOnce(R, T) + Send + 'static,
    ) {
        let shared = &self.0;
        shared.guard(operation, number, || {
            let result = work(&shared.tree, MayBlock::No, &mut reply);
            let pool = match result {
                Err(Error::WouldBlock(Slow::Decode)) => &shared.decode,
                Err(Error::WouldBlock(Slow::Open)) => &shared.open,
                Err(Error::WouldBlock(Slow::List)) => &shared.list,
                result => return shared.finish(operation, number, reply, result, give),
            };
            let later = Arc::clone(shared);
            let queued = pool.run(move || {
                later.guard(operation, number, || {
                    let result = work(&later.tree, MayBlock::Yes, &mut reply);
                    later.finish(operation, number, reply, result, give);
                });
            });
            if let Err(error) = queued {
                // The reply is dropped, which answers EIO.
                tracing::error!(operation, %error, "cannot start a thread");
            }
        });
    }
}

impl Shared {
    /// Runs work that must not end the thread when it panics.
    fn guard(&self, operation: &'static str, number: INodeNo, work: impl FnOnce()) {
        // The work's reply is dropped with it, which answers EIO.
        if catch_unwind(AssertUnwindSafe(work)).is_err() {
            tracing::error!(operation, inode = number.0, "a bug: the mount ends");
            // Without a receiver the mount is ending already.
            let _ = self.events.send(Event::Panicked);
        }
    }

    /// Called when a listing was answered. The kernel keeps listings until a directory's time
    /// changes. One above the images may change without that, when another program writes to the
    /// store, so the kernel must not keep it.
    fn listed(&self, number: INodeNo, end: End) {
        if let (End::OfNames, Some(kernel)) = (end, self.kernel.get())
            && let Err(error) = kernel.inval_inode(number, 0, 0)
        {
            tracing::debug!(%error, "the kernel has forgotten a directory meanwhile");
        }
    }

    fn finish<R: Reply, T>(
        &self,
        operation: &'static str,
        number: INodeNo,
        reply: R,
        result: Result<T>,
        give: impl FnOnce(R, T),
    ) {
        match result {
            Ok(answer) => give(reply, answer),
            Err(error) => {
                if error.is_fault() {
                    let path = self.tree.describe(number.0);
                    tracing::error!(operation, path, %error, "a request failed");
                }
                reply.fail(Errno::from_i32(error.errno()));
            }
        }
    }
}

fn time(time: Time) -> SystemTime {
    let nanoseconds = Duration::from_nanos(time.nanoseconds.into());
    let seconds = Duration::from_secs(time.seconds.unsigned_abs());
    let whole = match time.seconds {
        0.. => SystemTime::UNIX_EPOCH.checked_add(seconds),
        _ => SystemTime::UNIX_EPOCH.checked_sub(seconds),
    };
    whole.and_then(|whole| whole.checked_add(nanoseconds)).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn kind(kind: Kind) -> FileType {
    match kind {
        Kind::Regular => FileType::RegularFile,
        Kind::Symlink => FileType::Symlink,
        Kind::Character => FileType::CharDevice,
        Kind::Block => FileType::BlockDevice,
        Kind::Fifo => FileType::NamedPipe,
        // The other kinds are directories, or are never shown.
        Kind::Directory | Kind::Implicit | Kind::CrossLayerLink | Kind::Whiteout => {
            FileType::Directory
        }
    }
}

/// Encodes a device as the kernel decodes it (`new_decode_dev`).
fn device((major, minor): (u32, u32)) -> u32 {
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xf_ff00) << 12)
}

fn attributes(from: &Attributes) -> FileAttr {
    let mtime = time(from.mtime);
    FileAttr {
        ino: INodeNo(from.number),
        size: from.size,
        blocks: from.blocks,
        atime: mtime,
        mtime,
        ctime: mtime,
        crtime: mtime,
        kind: kind(from.kind),
        perm: from.mode,
        nlink: from.links,
        uid: from.uid,
        gid: from.gid,
        rdev: device(from.device),
        blksize: 4096,
        flags: 0,
    }
}

/// The attributes that say that a name does not exist, which the kernel may remember.
fn nothing() -> FileAttr {
    attributes(&Attributes { kind: Kind::Regular, ..Attributes::of_directory(0) })
}

/// Answers with a value, or with its length where no buffer was offered.
fn give_sized(reply: ReplyXattr, size: u32, value: &[u8]) {
    match (size as usize, u32::try_from(value.len())) {
        (0, Ok(length)) => reply.size(length),
        (size, _) if value.len() <= size => reply.data(value),
        _ => reply.error(Errno::ERANGE),
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for capability in CAPABILITIES {
            if config.capabilities().contains(capability) {
                // It cannot fail for what the kernel offers.
                let _ = config.add_capabilities(capability);
            }
        }
        let _ = config.set_max_background(BACKGROUND);
        Ok(())
    }

    fn destroy(&mut self) {
        // Without a receiver the mount is ending already.
        let _ = self.0.events.send(Event::Ended);
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.as_bytes().to_vec();
        let work = move |tree: &Tree, may_block, _: &mut ReplyEntry| {
            let found = tree.lookup(parent.0, &name, may_block)?;
            let absent = match found {
                Some(_) => None,
                None => tree.absence(parent.0),
            };
            Ok((found, absent))
        };
        self.answer("lookup", parent, reply, work, |reply, answer| match answer {
            (Some(found), _) => {
                reply.entry(&found.ttl, &attributes(&found.attributes), GENERATION);
            }
            (None, Some(ttl)) => reply.entry(&ttl, &nothing(), GENERATION),
            (None, None) => reply.error(Errno::ENOENT),
        });
    }

    fn forget(&self, _: &Request, number: INodeNo, times: u64) {
        let shared = &self.0;
        shared.guard("forget", number, || shared.tree.forget(number.0, times));
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let work =
            move |tree: &Tree, may_block, _: &mut ReplyAttr| tree.attributes(number.0, may_block);
        self.answer("getattr", number, reply, work, |reply, found| {
            reply.attr(&found.ttl, &attributes(&found.attributes));
        });
    }

    fn readlink(&self, _: &Request, number: INodeNo, reply: ReplyData) {
        let work = move |tree: &Tree, may_block, _: &mut ReplyData| tree.link(number.0, may_block);
        self.answer("readlink", number, reply, work, |reply, link| reply.data(&link));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // From now on the kernel opens without asking.
        reply.error(Errno::ENOSYS);
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn read(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let asked = self.0.ahead.asks(number.0);
        if offset == 0 {
            let shared = &self.0;
            shared.guard("read", number, || shared.ahead.reads(&shared.tree, number.0));
        }
        let work = move |tree: &Tree, may_block, _: &mut ReplyData| {
            let (mut buffer, size) = (BUFFER.take(), size as usize);
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            match tree.read(number.0, offset, &mut buffer[..size], may_block) {
                Ok(length) => Ok((buffer, length)),
                Err(error) => {
                    BUFFER.set(buffer);
                    Err(error)
                }
            }
        };
        let give = move |reply: ReplyData, (buffer, length): (Vec<u8>, usize)| {
            reply.data(&buffer[..length]);
            BUFFER.set(buffer);
            drop(asked);
        };
        self.answer("read", number, reply, work, give);
    }

    fn readdir(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        let work = move |tree: &Tree, may_block, reply: &mut ReplyDirectory| {
            let mut any = false;
            let mut counted = Vec::new();
            let listed = tree.list(number.0, offset, may_block, &mut |child| {
                let attributes = &child.found.attributes;
                let ino = INodeNo(attributes.number);
                let name = OsStr::from_bytes(child.name);
                let full = reply.add(ino, child.next, kind(attributes.kind), name);
                any |= !full;
                if !full && !is_dot(child.name) {
                    counted.push(attributes.number);
                }
                !full
            });
            // For the kernel these names are no lookups.
            counted.into_iter().for_each(|child| tree.forget(child, 1));
            // What was listed is an answer; the error comes again with the rest.
            if any { Ok(End::More) } else { listed }
        };
        let shared = Arc::clone(&self.0);
        self.answer("readdir", number, reply, work, move |reply, end| {
            reply.ok();
            shared.listed(number, end);
        });
    }

    fn readdirplus(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        let work = move |tree: &Tree, may_block, reply: &mut ReplyDirectoryPlus| {
            let mut any = false;
            let listed = tree.list(number.0, offset, may_block, &mut |child: &Listed| {
                let attributes = attributes(&child.found.attributes);
                let name = OsStr::from_bytes(child.name);
                let ttl = &child.found.ttl;
                let full =
                    reply.add(attributes.ino, child.next, name, ttl, &attributes, GENERATION);
                any |= !full;
                !full
            });
            if any { Ok(End::More) } else { listed }
        };
        let shared = Arc::clone(&self.0);
        self.answer("readdir", number, reply, work, move |reply, end| {
            if let End::OfFiles(first @ 1..) = end {
                shared.ahead.listed(&shared.tree, first);
            }
            reply.ok();
            shared.listed(number, end);
        });
    }

    fn statfs(&self, _: &Request, number: INodeNo, reply: ReplyStatfs) {
        let store = self.0.store.clone();
        // The store's disk may be slow to answer.
        let work = move |_: &Tree, may_block, _: &mut ReplyStatfs| match may_block {
            MayBlock::No => Err(Error::WouldBlock(Slow::List)),
            MayBlock::Yes => Ok(nix::sys::statvfs::statvfs(&store)),
        };
        self.answer("statfs", number, reply, work, |reply, answer| match answer {
            // The space of the store's file system, as a read-only bind mount of it shows.
            Ok(stat) => {
                let unit = u32::try_from(stat.fragment_size()).unwrap_or(4096);
                let (free, available) = (stat.blocks_free(), stat.blocks_available());
                reply.statfs(stat.blocks(), free, available, 0, 0, unit, 255, unit);
            }
            Err(error) => reply.error(Errno::from_i32(error as i32)),
        });
    }

    fn getxattr(&self, _: &Request, number: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let name = name.as_bytes().to_vec();
        let work = move |tree: &Tree, may_block, _: &mut ReplyXattr| {
            tree.xattr(number.0, &name, may_block)
        };
        self.answer("getxattr", number, reply, work, move |reply, value| {
            give_sized(reply, size, &value);
        });
    }

    fn listxattr(&self, _: &Request, number: INodeNo, size: u32, reply: ReplyXattr) {
        let work =
            move |tree: &Tree, may_block, _: &mut ReplyXattr| tree.xattrs(number.0, may_block);
        self.answer("listxattr", number, reply, work, move |reply, names| {
            give_sized(reply, size, &names);
        });
    }

    fn access(&self, _: &Request, _: INodeNo, _: fuser::AccessFlags, reply: ReplyEmpty) {
        // The kernel has checked the modes itself.
        reply.ok();
    }

    fn lseek(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let work = move |tree: &Tree, may_block, _: &mut ReplyLseek| {
            let offset = u64::try_from(offset).map_err(|_| Error::Seek)?;
            match whence {
                libc::SEEK_DATA => tree.seek(number.0, offset, false, may_block),
                libc::SEEK_HOLE => tree.seek(number.0, offset, true, may_block),
                // The kernel does the others itself.
                _ => Err(Error::Seek),
            }
        };
        self.answer("lseek", number, reply, work, |reply, offset| {
            reply.offset(i64::try_from(offset).unwrap_or(i64::MAX));
        });
    }
}

fn is_dot(name: &[u8]) -> bool {
    matches!(name, b"." | b"..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let at = |seconds, nanoseconds| time(Time { seconds, nanoseconds });
        let epoch = SystemTime::UNIX_EPOCH;
        assert_eq!(at(1, 5), epoch + Duration::new(1, 5));
        assert_eq!(at(-1, 250_000_000), epoch - Duration::from_millis(750));
        assert_eq!(at(-1, 0), epoch - Duration::from_secs(1));
    }

    #[test]
    fn devices() {
        for (numbers, want) in
            [((1, 3), 0x103), ((8, 0x123), 0x10_0823), ((0xfff, 0xf_ffff), 0xffff_ffff)]
        {
            assert_eq!(device(numbers), want);
        }
    }
}
