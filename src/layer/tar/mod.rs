//! A tar, as its bytes come: members, and where their content lies. No I/O; the
//! caller gives bytes in pieces of any size and gets the same events.
//!
//! Read are V7, ustar, GNU and PAX. A tar that GNU tar, Python's `tarfile` or
//! Go's `archive/tar` (Docker, containerd) would clearly read differently is
//! refused, so that nobody sees other files here than in a container. What that
//! means for single cases stands where they are decided, here and in the
//! submodules; these are the ones without a place of their own:
//! - The first block of zeros ends the tar, as for GNU tar and `tarfile`, also
//!   when no second one follows; whatever follows is skipped.
//! - A tar may end without such a block, and without its last member's padding:
//!   `umoci insert` writes such layers, which Docker and containerd take; the
//!   others list all members before they complain. No bytes at all are no tar.
//! - `LIBARCHIVE.xattr.` records are ignored: runtimes apply `SCHILY.xattr.`
//!   only, which libarchive writes beside them.
//! - Types that only GNU's backups have, and unknown ones, are refused, as
//!   runtimes do.

mod header;
mod pax;
mod sparse;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use header::{BLOCK, Block, Format, Header};
pub use sparse::Extent;

/// GNU tar and others write a few hundred bytes; an attacker, what he likes.
const PAX_MAX: u64 = 1 << 20;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not even the first block is a header, or zeros.
    #[error("not a tar")]
    NotTar,
    #[error("at byte {offset} of the layer's tar: {problem}")]
    At { offset: u64, problem: Problem },
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("the stream ends in the middle of a {0}")]
    Truncated(&'static str),
    #[error("a header with a wrong checksum")]
    Checksum,
    #[error("a header whose {0} is no number, or out of range")]
    Number(&'static str),
    #[error("a device without numbers")]
    Device,
    #[error("something in place of the name's prefix")]
    Prefix,
    #[error("a member of type {:?}", char::from(*.0))]
    Type(u8),
    #[error("data after a header of type {:?}", char::from(*.0))]
    Data(u8),
    #[error("a file whose name ends in a slash")]
    Slash,
    #[error("a link without target")]
    NoTarget,
    #[error("a name or link target of more than {0} bytes")]
    TooLong(usize),
    #[error("an extended header of {0} bytes")]
    ExtensionSize(u64),
    #[error("a second extended header of type {:?} for one member", char::from(*.0))]
    Repeated(u8),
    #[error("two different names, or link targets, for one member")]
    Conflict,
    #[error("an extended header with an empty name")]
    NoName,
    #[error("an extended header without a member")]
    Dangling,
    #[error("something between an extended header and the next block")]
    ExtensionPadding,
    #[error("a malformed record in a PAX header")]
    PaxRecord,
    #[error("a malformed value in a PAX header")]
    PaxValue,
    #[error("extended attributes of more than {0} bytes")]
    Xattrs(usize),
    #[error("a global PAX header that sets {0}, which only some programs heed")]
    Global(String),
    #[error("part of an incremental or multi-volume archive")]
    Volume,
    #[error("a sparse file with {0}")]
    Sparse(&'static str),
    #[error("a tar of more bytes than can be counted")]
    Overflow,
}

#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of a name or a link target.
    pub path: usize,
}

impl Default for Limits {
    /// Linux's PATH_MAX.
    fn default() -> Limits {
        Limits { path: 4096 }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<'a> {
    Member(Box<Member>),
    /// A piece of the member's data as stored: without padding, and of a sparse
    /// file without its map.
    Content(&'a [u8]),
    MemberEnd,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its first block, which may be that of an extended header.
    pub header_offset: u64,
    /// As it stands in the tar.
    pub path: Vec<u8>,
    /// Target of a symbolic or hard link, else empty.
    pub link: Vec<u8>,
    pub kind: Kind,
    /// Permissions, setuid, setgid, sticky.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Time,
    /// What `stat` shows; of a hard link 0, as it has no data of its own.
    pub size: u64,
    /// Bytes of data in the tar.
    pub stored: u64,
    pub data_offset: u64,
    /// Major and minor number, of a device.
    pub device: (u32, u32),
    /// By name, each once.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Of a sparse file, where its data belongs; the rest is zeros.
    pub sparse: Option<Vec<Extent>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Regular,
    Directory,
    Symlink,
    HardLink,
    Character,
    Block,
    Fifo,
}

/// Since 1970; `nanoseconds` count forward, also from a negative second. Part of
/// the index's records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Time {
    pub seconds: i64,
    pub nanoseconds: u32,
}

/// Once it has failed, it fails the same way for ever.
#[derive(Debug)]
pub struct Parser {
    limits: Limits,
    offset: u64,
    state: State,
    /// The block being gathered.
    block: Block,
    filled: usize,
    pending: Pending,
}

#[derive(Debug)]
enum State {
    Header,
    /// Content of an extended header.
    Extension {
        flag: u8,
        start: u64,
        content: Vec<u8>,
        size: u64,
        padding: u64,
    },
    /// Blocks that continue a type `S` header.
    OldGnuMap(Box<Member>, sparse::OldGnu),
    /// Blocks before the data of a PAX 1.0 sparse file.
    LinesMap(Box<Member>, sparse::Lines),
    /// Left of the member's content, then of its padding.
    Content {
        left: u64,
        padding: u64,
    },
    Padding {
        left: u64,
    },
    Ended,
    Failed(Error),
}

/// What extended headers said about the member to come.
#[derive(Debug, Default)]
struct Pending {
    start: Option<u64>,
    pax: Option<pax::Records>,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    /// A global header has no effect, but `tarfile` fails when it is the last.
    global: bool,
}

impl Parser {
    pub fn new(limits: Limits) -> Parser {
        Parser {
            limits,
            offset: 0,
            state: State::Header,
            block: [0; BLOCK],
            filled: 0,
            pending: Pending::default(),
        }
    }

    /// Bytes taken so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Takes what it needs from the front of `input`. `None`: all is used up,
    /// give more, or call `finish`.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Event<'a>>, Error> {
        self.step(input).map_err(|error| self.fail(error))
    }

    /// The stream ended, and `next` gave `None`.
    pub fn finish(&mut self) -> Result<(), Error> {
        let part = match &self.state {
            State::Failed(error) => return Err(error.clone()),
            State::Ended => return Ok(()),
            State::Header if self.offset < BLOCK as u64 => {
                return Err(self.fail(Error::NotTar));
            }
            State::Header if self.filled == 0 => {
                return self.check_boundary(self.offset).map_err(|error| self.fail(error));
            }
            State::Header => "header",
            State::Extension { .. } => "extended header",
            State::OldGnuMap(..) | State::LinesMap(..) => "sparse file's map",
            State::Content { left: 0, .. } | State::Padding { .. } => return Ok(()),
            State::Content { .. } => "member's content",
        };
        Err(self.fail(at(self.offset, Problem::Truncated(part))))
    }

    fn fail(&mut self, error: Error) -> Error {
        self.state = State::Failed(error.clone());
        error
    }

    fn step<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Event<'a>>, Error> {
        loop {
            match &mut self.state {
                State::Failed(error) => return Err(error.clone()),
                State::Ended => {
                    let rest = input.len() as u64;
                    self.take(input, rest)?;
                    return Ok(None);
                }
                State::Padding { left: 0 } => self.state = State::Header,
                State::Content { left: 0, padding } => {
                    self.state = State::Padding { left: *padding };
                    return Ok(Some(Event::MemberEnd));
                }
                _ if input.is_empty() => return Ok(None),
                State::Padding { left } => {
                    let wanted = *left;
                    let taken = self.take(input, wanted)?.len() as u64;
                    self.state = State::Padding { left: wanted - taken };
                }
                State::Content { left, padding } => {
                    let (wanted, padding) = (*left, *padding);
                    let piece = self.take(input, wanted)?;
                    let left = wanted - piece.len() as u64;
                    self.state = State::Content { left, padding };
                    return Ok(Some(Event::Content(piece)));
                }
                State::Extension { .. } => self.extension(input)?,
                State::Header | State::OldGnuMap(..) | State::LinesMap(..) => {
                    let wanted = (BLOCK - self.filled) as u64;
                    let piece = self.take(input, wanted)?;
                    self.block[self.filled..][..piece.len()].copy_from_slice(piece);
                    self.filled += piece.len();
                    if self.filled < BLOCK {
                        return Ok(None);
                    }
                    self.filled = 0;
                    if let Some(member) = self.whole_block()? {
                        return Ok(Some(Event::Member(member)));
                    }
                }
            }
        }
    }

    /// Takes at most `wanted` bytes.
    fn take<'a>(&mut self, input: &mut &'a [u8], wanted: u64) -> Result<&'a [u8], Error> {
        let length = usize::try_from(wanted).map_or(input.len(), |wanted| wanted.min(input.len()));
        let (piece, rest) = input.split_at(length);
        let offset = self.offset.checked_add(length as u64);
        self.offset = offset.ok_or_else(|| at(self.offset, Problem::Overflow))?;
        *input = rest;
        Ok(piece)
    }

    /// No extended header may come last.
    fn check_boundary(&self, offset: u64) -> Result<(), Error> {
        if self.pending.start.is_some() || self.pending.global {
            return Err(at(offset, Problem::Dangling));
        }
        Ok(())
    }

    fn whole_block(&mut self) -> Result<Option<Box<Member>>, Error> {
        let start = self.offset - BLOCK as u64;
        let done = match std::mem::replace(&mut self.state, State::Header) {
            State::OldGnuMap(member, map) => self.old_gnu_map(member, map),
            State::LinesMap(member, map) => self.lines_map(member, map),
            _ if header::is_zero(&self.block) => {
                self.check_boundary(start)?;
                self.state = State::Ended;
                return Ok(None);
            }
            _ if !header::checksum_holds(&self.block) => {
                return Err(if start == 0 { Error::NotTar } else { at(start, Problem::Checksum) });
            }
            _ => self.header(start),
        };
        done.map_err(|problem| at(start, problem))
    }

    fn header(&mut self, start: u64) -> Result<Option<Box<Member>>, Problem> {
        let block = self.block;
        let header = Header::read(&block)?;
        let flag = header.flag;
        let pending = &mut self.pending;
        let longest = match flag {
            // Room for the NUL, and for those who fill up a block.
            b'L' | b'K' => (self.limits.path as u64 + 1).next_multiple_of(BLOCK as u64),
            b'x' | b'g' => PAX_MAX,
            _ => return self.member(&header, start),
        };
        let again = match flag {
            b'L' => pending.name.is_some(),
            b'K' => pending.link.is_some(),
            b'x' => pending.pax.is_some(),
            // Go forgets what came before.
            _ => pending.start.is_some(),
        };
        if again {
            return Err(Problem::Repeated(flag));
        }
        if header.size > longest {
            return Err(Problem::ExtensionSize(header.size));
        }
        if flag != b'g' {
            pending.start.get_or_insert(start);
        }
        self.state = State::Extension {
            flag,
            start: self.offset,
            content: Vec::new(),
            size: header.size,
            padding: padding(header.size),
        };
        if header.size == 0 {
            // Nothing will come that would end it.
            self.extension_end(flag, Vec::new())?;
        }
        Ok(None)
    }

    fn extension(&mut self, input: &mut &[u8]) -> Result<(), Error> {
        let State::Extension { flag, start, mut content, size, padding } =
            std::mem::replace(&mut self.state, State::Header)
        else {
            return Ok(());
        };
        let missing = size - content.len() as u64;
        let padding = if missing > 0 {
            content.extend_from_slice(self.take(input, missing)?);
            padding
        } else {
            let piece = self.take(input, padding)?;
            // GNU tar and `tarfile` look there for more.
            if piece.iter().any(|&byte| byte != 0) {
                return Err(at(start + size, Problem::ExtensionPadding));
            }
            padding - piece.len() as u64
        };
        if padding == 0 && content.len() as u64 == size {
            let done = self.extension_end(flag, content);
            return done.map_err(|problem| at(start, problem));
        }
        self.state = State::Extension { flag, start, content, size, padding };
        Ok(())
    }

    fn extension_end(&mut self, flag: u8, content: Vec<u8>) -> Result<(), Problem> {
        self.state = State::Header;
        let pending = &mut self.pending;
        match flag {
            b'x' => pending.pax = Some(pax::Records::parse(&content)?),
            b'g' => {
                pax::check_global(&content)?;
                pending.global = true;
            }
            _ => {
                let text = header::text(&content);
                // Go takes an empty one for none.
                if text.is_empty() {
                    return Err(Problem::NoName);
                }
                let field = if flag == b'L' { &mut pending.name } else { &mut pending.link };
                *field = Some(text.to_vec());
            }
        }
        Ok(())
    }

    fn member(&mut self, header: &Header, start: u64) -> Result<Option<Box<Member>>, Problem> {
        let pending = std::mem::take(&mut self.pending);
        let pax = pending.pax.unwrap_or_default();
        let sparse = pax.sparse.map(pax::Sparse::file).transpose()?;
        // GNU tar looks for sparse files in headers of this kind only, and takes
        // those with something at the prefix's end for star's; others in all.
        let plain = header.flag == b'0' && header.format == Format::Ustar;
        if sparse.is_some() && !(plain && header.block[475..500] == [0; 25]) {
            return Err(Problem::Sparse("a header of another format"));
        }
        if pax.size.is_some() && (sparse.is_some() || header.flag == b'S') {
            return Err(Problem::Sparse("two sizes"));
        }
        let (map, real_size, real_name) = match sparse {
            Some(file) => (Some(file.map), file.size, file.name),
            None => (None, 0, None),
        };

        let path = one_of([pending.name, pax.path, real_name])?.unwrap_or_else(|| header.path());
        let link = one_of([pending.link, pax.link, None])?.unwrap_or_else(|| header.link.to_vec());
        if path.len() > self.limits.path || link.len() > self.limits.path {
            return Err(Problem::TooLong(self.limits.path));
        }
        let size = pax.size.unwrap_or(header.size);
        let kind = kind(header, &path, size, pax.size.is_some_and(|size| size > 0))?;
        let is_link = matches!(kind, Kind::Symlink | Kind::HardLink);
        if is_link && link.is_empty() {
            return Err(Problem::NoTarget);
        }
        let stored = if kind == Kind::Regular { size } else { 0 };
        // All of it can be counted, so what follows need not care.
        let end = stored.checked_next_multiple_of(BLOCK as u64);
        if end.and_then(|length| self.offset.checked_add(length)).is_none() {
            return Err(Problem::Overflow);
        }
        let mut member = Box::new(Member {
            header_offset: pending.start.unwrap_or(start),
            path,
            kind,
            mode: header.mode,
            uid: pax.uid.unwrap_or(header.uid),
            gid: pax.gid.unwrap_or(header.gid),
            mtime: pax.mtime.unwrap_or(header.mtime),
            size: if kind == Kind::Symlink { link.len() as u64 } else { stored },
            link: if is_link { link } else { Vec::new() },
            stored,
            data_offset: self.offset,
            device: match kind {
                Kind::Character | Kind::Block => header.device()?,
                _ => (0, 0),
            },
            xattrs: pax.xattrs.into_iter().collect(),
            sparse: None,
        });
        match map {
            _ if header.flag == b'S' => {
                let mut map = sparse::OldGnu::default();
                let (size, more) = map.header(header.block)?;
                member.size = size;
                if more {
                    self.state = State::OldGnuMap(member, map);
                    return Ok(None);
                }
                member.sparse = Some(map.map().finish(size, stored)?);
            }
            Some(Some(map)) => {
                member.size = real_size;
                member.sparse = Some(map.finish(real_size, stored)?);
            }
            Some(None) => {
                member.size = real_size;
                self.state = State::LinesMap(member, sparse::Lines::default());
                return Ok(None);
            }
            None => (),
        }
        Ok(Some(self.begin(member)))
    }

    fn begin(&mut self, mut member: Box<Member>) -> Box<Member> {
        member.data_offset = self.offset;
        self.state = State::Content { left: member.stored, padding: padding(member.stored) };
        member
    }

    fn old_gnu_map(
        &mut self,
        mut member: Box<Member>,
        mut map: sparse::OldGnu,
    ) -> Result<Option<Box<Member>>, Problem> {
        if map.extension(&self.block)? {
            self.state = State::OldGnuMap(member, map);
            return Ok(None);
        }
        member.sparse = Some(map.map().finish(member.size, member.stored)?);
        Ok(Some(self.begin(member)))
    }

    fn lines_map(
        &mut self,
        mut member: Box<Member>,
        mut map: sparse::Lines,
    ) -> Result<Option<Box<Member>>, Problem> {
        // The map is part of what the header counts.
        let stored = member.stored.checked_sub(map.taken() + BLOCK as u64);
        let stored = stored.ok_or(Problem::Sparse("a map longer than its member"))?;
        let whole = map.block(&self.block)?;
        if !whole {
            self.state = State::LinesMap(member, map);
            return Ok(None);
        }
        member.stored = stored;
        member.sparse = Some(map.map().finish(member.size, stored)?);
        Ok(Some(self.begin(member)))
    }
}

fn at(offset: u64, problem: Problem) -> Error {
    Error::At { offset, problem }
}

fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

/// Of several names for a member each program has its own favourite.
fn one_of(names: [Option<Vec<u8>>; 3]) -> Result<Option<Vec<u8>>, Problem> {
    let mut names = names.into_iter().flatten();
    let first = names.next();
    match names.all(|name| first.as_ref() == Some(&name)) {
        true => Ok(first),
        false => Err(Problem::Conflict),
    }
}

fn kind(header: &Header, path: &[u8], size: u64, pax_size: bool) -> Result<Kind, Problem> {
    let flag = header.flag;
    let kind = match flag {
        0 | b'0' | b'7' => Kind::Regular,
        // Others than GNU tar's own are read in two ways.
        b'S' if header.format == Format::Gnu => Kind::Regular,
        b'1' => Kind::HardLink,
        b'2' => Kind::Symlink,
        b'3' => Kind::Character,
        b'4' => Kind::Block,
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        _ => return Err(Problem::Type(flag)),
    };
    match kind {
        Kind::Regular => {
            // V7 has no directories but these. `tarfile` looks at the header's
            // name field, Go at the name, GNU tar whatever the type is.
            let slash = path.ends_with(b"/");
            let old = flag == 0 && header.name.ends_with(b"/");
            match (slash, old) {
                (false, false) => Ok(Kind::Regular),
                (true, true) if size == 0 => Ok(Kind::Directory),
                (true, true) => Err(Problem::Data(flag)),
                _ => Err(Problem::Slash),
            }
        }
        // All agree that there is no data, unless a PAX header says so.
        Kind::HardLink | Kind::Directory if !pax_size => Ok(kind),
        // GNU tar skips so many bytes, the others none.
        _ if size > 0 => Err(Problem::Data(flag)),
        _ => Ok(kind),
    }
}
