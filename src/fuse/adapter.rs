//! The kernel's requests, answered from the [`Tree`]: the only place that knows
//! fuser's types. Slow answers are given by threads of a [`Pool`]; a panic costs
//! its request and ends the mount.

use std::cell::Cell;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, SystemTime};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};

use super::Event;
use super::error::{Error, Result};
use super::readahead::Ahead;
use super::tree::{Attributes, Patience, Tree};
use super::workers::Pool;
use crate::index::records::{Kind, Time};

/// Numbers are not used for another thing while the kernel knows them.
const GENERATION: Generation = Generation(0);
/// Requests of read-ahead that the kernel may have under way.
const BACKGROUND: u16 = 64;
/// Threads that wait for images to be indexed.
const WAITING: usize = 64;
/// Threads that list, and count the names of files.
const LOOKING: usize = 4;

thread_local! {
    /// What a read fills. As long as the longest before.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// What the kernel is asked to do, where it can.
const CAPABILITIES: [InitFlags; 7] = [
    // A listing says all about its entries: no look-up for each.
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_CACHE_SYMLINKS,
    // No message to open anything; caches outlive the file that is open.
    InitFlags::FUSE_NO_OPEN_SUPPORT,
    InitFlags::FUSE_NO_OPENDIR_SUPPORT,
    // Content is never dropped for a change of time or size.
    InitFlags::FUSE_EXPLICIT_INVAL_DATA,
    InitFlags::FUSE_ASYNC_DIO,
];

#[derive(Debug)]
pub struct Adapter(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    tree: Tree,
    ahead: Arc<Ahead>,
    /// Decodes.
    decode: Pool,
    /// Opens images, which may have to be indexed first.
    open: Pool,
    /// Does what else takes long.
    look: Pool,
    events: Sender<Event>,
    /// A place on the file system that the store is on.
    store: PathBuf,
}

/// Which threads do what takes long.
#[derive(Clone, Copy)]
enum Slow {
    Decode,
    Open,
    Look,
}

/// An answer under way, of any sort.
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
        Adapter(Arc::new(Shared {
            tree,
            ahead: Arc::default(),
            decode: Pool::new("decode", decoders),
            open: Pool::new("open", WAITING),
            look: Pool::new("look", LOOKING),
            events,
            store,
        }))
    }

    /// To be connected with the kernel when it is mounted.
    pub fn ahead(&self) -> Arc<Ahead> {
        Arc::clone(&self.0.ahead)
    }

    /// Does the work at once, or, if it would take long, on another thread, and
    /// gives the answer.
    fn answer<R: Reply, T>(
        &self,
        operation: &'static str,
        number: INodeNo,
        slow: Slow,
        mut reply: R,
        work: impl Fn(&Tree, Patience, &mut R) -> Result<T> + Send + 'static,
        give: impl FnOnce(R, T) + Send + 'static,
    ) {
        let shared = &self.0;
        shared.guard(operation, number, || {
            let result = work(&shared.tree, Patience::Now, &mut reply);
            if !matches!(result, Err(Error::Waits)) {
                return shared.finish(operation, number, reply, result, give);
            }
            let pool = match slow {
                Slow::Decode => &shared.decode,
                Slow::Open => &shared.open,
                Slow::Look => &shared.look,
            };
            let later = Arc::clone(shared);
            let queued = pool.run(move || {
                later.guard(operation, number, || {
                    let result = work(&later.tree, Patience::Waits, &mut reply);
                    later.finish(operation, number, reply, result, give);
                });
            });
            if let Err(error) = queued {
                // Dropped, the reply is EIO.
                tracing::error!(operation, %error, "cannot start a thread");
            }
        });
    }
}

impl Shared {
    /// Runs what must not end the thread.
    fn guard(&self, operation: &'static str, number: INodeNo, work: impl FnOnce()) {
        // What the work holds is dropped with it: its answer becomes EIO.
        if catch_unwind(AssertUnwindSafe(work)).is_err() {
            tracing::error!(operation, number = number.0, "a bug: the mount ends");
            // Nobody listens any more: it ends already.
            let _ = self.events.send(Event::Panicked);
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
                if error.is_news() {
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
        // The rest are no things of an image, or directories.
        Kind::Directory
        | Kind::Implicit
        | Kind::WhiteoutParent
        | Kind::CrossLayerLink
        | Kind::Whiteout => FileType::Directory,
    }
}

/// As the kernel decodes it (`new_decode_dev`).
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

/// What says that there is nothing, and that this may be remembered.
fn nothing() -> FileAttr {
    attributes(&Attributes {
        number: 0,
        kind: Kind::Regular,
        mode: 0,
        uid: 0,
        gid: 0,
        mtime: Time::default(),
        size: 0,
        blocks: 0,
        links: 0,
        device: (0, 0),
    })
}

/// Answers with a value of any length, or with its length where nothing was
/// asked for.
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
                // It is offered.
                let _ = config.add_capabilities(capability);
            }
        }
        let _ = config.set_max_background(BACKGROUND);
        Ok(())
    }

    fn destroy(&mut self) {
        // Nobody listens any more: it ends already.
        let _ = self.0.events.send(Event::Ended);
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.as_bytes().to_vec();
        let work = move |tree: &Tree, patience, _: &mut ReplyEntry| {
            let found = tree.lookup(parent.0, &name, patience)?;
            let absent = match found {
                Some(_) => None,
                None => tree.absence(parent.0),
            };
            Ok((found, absent))
        };
        self.answer("lookup", parent, Slow::Open, reply, work, |reply, answer| match answer {
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
            move |tree: &Tree, patience, _: &mut ReplyAttr| tree.attributes(number.0, patience);
        self.answer("getattr", number, Slow::Look, reply, work, |reply, found| {
            reply.attr(&found.ttl, &attributes(&found.attributes));
        });
    }

    fn readlink(&self, _: &Request, number: INodeNo, reply: ReplyData) {
        let work = move |tree: &Tree, _, _: &mut ReplyData| tree.link(number.0);
        self.answer("readlink", number, Slow::Look, reply, work, |reply, link| {
            reply.data(&link);
        });
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // "Not at all": from now on the kernel opens without asking.
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
        let work = move |tree: &Tree, patience, _: &mut ReplyData| {
            let (mut buffer, size) = (BUFFER.take(), size as usize);
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            let length = tree.read(number.0, offset, &mut buffer[..size], patience)?;
            Ok((buffer, length))
        };
        let give = move |reply: ReplyData, (buffer, length): (Vec<u8>, usize)| {
            reply.data(&buffer[..length]);
            BUFFER.set(buffer);
            drop(asked);
        };
        self.answer("read", number, Slow::Decode, reply, work, give);
    }

    fn readdir(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        let work = move |tree: &Tree, patience, reply: &mut ReplyDirectory| {
            let mut any = false;
            let mut told = Vec::new();
            let listed = tree.list(number.0, offset, patience, &mut |child| {
                let attributes = &child.found.attributes;
                let ino = INodeNo(attributes.number);
                let name = OsStr::from_bytes(child.name);
                let full = reply.add(ino, child.next, kind(attributes.kind), name);
                any |= !full;
                if !full && !is_dot(child.name) {
                    told.push(attributes.number);
                }
                !full
            });
            // By this the kernel is told of names alone.
            told.into_iter().for_each(|child| tree.forget(child, 1));
            // What was listed is given; the error comes again with the rest.
            if any { Ok(()) } else { listed.map(drop) }
        };
        self.answer("readdir", number, Slow::Look, reply, work, |reply, ()| {
            reply.ok();
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
        let work = move |tree: &Tree, patience, reply: &mut ReplyDirectoryPlus| {
            let mut any = false;
            let listed = tree.list(number.0, offset, patience, &mut |child| {
                let attributes = attributes(&child.found.attributes);
                let name = OsStr::from_bytes(child.name);
                let ttl = &child.found.ttl;
                let full =
                    reply.add(attributes.ino, child.next, name, ttl, &attributes, GENERATION);
                any |= !full;
                !full
            });
            if any { Ok(0) } else { listed }
        };
        let shared = Arc::clone(&self.0);
        self.answer("readdir", number, Slow::Look, reply, work, move |reply, first| {
            if first != 0 {
                shared.ahead.listed(&shared.tree, first);
            }
            reply.ok();
        });
    }

    fn statfs(&self, _: &Request, number: INodeNo, reply: ReplyStatfs) {
        let store = self.0.store.clone();
        // The store's disk may not answer.
        let work = move |_: &Tree, patience, _: &mut ReplyStatfs| match patience {
            Patience::Now => Err(Error::Waits),
            Patience::Waits => Ok(nix::sys::statvfs::statvfs(&store)),
        };
        self.answer("statfs", number, Slow::Look, reply, work, |reply, answer| match answer {
            // As large as what the store is on, and full, since nothing can be
            // added.
            Ok(stat) => {
                let unit = u32::try_from(stat.fragment_size()).unwrap_or(4096);
                reply.statfs(stat.blocks(), 0, 0, 0, 0, unit, 255, unit);
            }
            Err(error) => reply.error(Errno::from_i32(error as i32)),
        });
    }

    fn getxattr(&self, _: &Request, number: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let name = name.as_bytes().to_vec();
        let work = move |tree: &Tree, _, _: &mut ReplyXattr| tree.xattr(number.0, &name);
        self.answer("getxattr", number, Slow::Look, reply, work, move |reply, value| {
            give_sized(reply, size, &value);
        });
    }

    fn listxattr(&self, _: &Request, number: INodeNo, size: u32, reply: ReplyXattr) {
        let work = move |tree: &Tree, _, _: &mut ReplyXattr| tree.xattrs(number.0);
        self.answer("listxattr", number, Slow::Look, reply, work, move |reply, names| {
            give_sized(reply, size, &names);
        });
    }

    fn access(&self, _: &Request, _: INodeNo, _: fuser::AccessFlags, reply: ReplyEmpty) {
        // The kernel has looked at the modes.
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
        let work = move |tree: &Tree, _, _: &mut ReplyLseek| {
            let offset = u64::try_from(offset).map_err(|_| Error::Seek)?;
            match whence {
                libc::SEEK_DATA => tree.seek(number.0, offset, false),
                libc::SEEK_HOLE => tree.seek(number.0, offset, true),
                // The kernel does the others itself.
                _ => Err(Error::Seek),
            }
        };
        self.answer("lseek", number, Slow::Look, reply, work, |reply, offset| {
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
