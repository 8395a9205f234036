//! A tar, as its bytes come: members, and where their content lies. No I/O; the
//! caller gives bytes in pieces of any size and gets the same events.
//!
//! Read are V7, ustar, star, GNU and PAX, as Go's `archive/tar` reads them, because Docker,
//! containerd and podman unpack layers by it, and users shall see here what a container sees. What
//! it refuses is refused, and so is what the runtimes cannot make of what it reads, such as types
//! that only GNU's backups have. In detail:
//! - Two blocks of zeros end a tar, and whatever follows is skipped. A tar may also end without
//!   them, without its last member's padding (`umoci insert` writes such layers), or be empty.
//! - Global extended headers change nothing.
//! - `LIBARCHIVE.xattr.` records are ignored: runtimes apply `SCHILY.xattr.` only, which libarchive
//!   writes beside them.

mod header;
mod pax;
mod sparse;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use header::{BLOCK, Block, Format, Header};
pub use sparse::Extent;

/// Bytes of an extended header, as in Go. Writers need a few hundred; attackers send what they like.
const EXTENSION_MAX: u64 = 1 << 20;

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
    #[error("a header between the two blocks of zeros that end a tar")]
    End,
    #[error("a header whose {0} is no number, or out of range")]
    Number(&'static str),
    #[error("a member of type {:?}", char::from(*.0))]
    Type(u8),
    #[error("a link without target")]
    NoTarget,
    #[error("a name or link target of more than {0} bytes")]
    TooLong(usize),
    #[error("an extended header of {0} bytes")]
    ExtensionSize(u64),
    #[error("a malformed record in a PAX header")]
    PaxRecord,
    #[error("a malformed value in a PAX header")]
    PaxValue,
    #[error("extended attributes of more than {0} bytes")]
    Xattrs(usize),
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
    /// After a block of zeros.
    HalfEnded,
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
            State::Ended | State::Padding { .. } | State::Content { left: 0, .. } => return Ok(()),
            State::Header | State::HalfEnded if self.filled == 0 => return Ok(()),
            State::Header if self.offset < BLOCK as u64 => {
                return Err(self.fail(Error::NotTar));
            }
            // What an extended header has announced need not come, nor its padding.
            State::Extension { content, size, .. } if content.len() as u64 == *size => {
                return Ok(());
            }
            State::Header | State::HalfEnded => "header",
            State::Extension { .. } => "extended header",
            State::OldGnuMap(..) | State::LinesMap(..) => "sparse file's map",
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
                State::Header | State::HalfEnded | State::OldGnuMap(..) | State::LinesMap(..) => {
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

    fn whole_block(&mut self) -> Result<Option<Box<Member>>, Error> {
        let start = self.offset - BLOCK as u64;
        let done = match std::mem::replace(&mut self.state, State::Header) {
            State::OldGnuMap(member, map) => self.old_gnu_map(member, map),
            State::LinesMap(member, map) => self.lines_map(member, map),
            State::HalfEnded if header::is_zero(&self.block) => {
                self.state = State::Ended;
                return Ok(None);
            }
            State::HalfEnded => Err(Problem::End),
            _ if header::is_zero(&self.block) => {
                self.state = State::HalfEnded;
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
        if !matches!(flag, b'L' | b'K' | b'x' | b'g') {
            return self.member(&header, start);
        }
        let size = u64::try_from(header.size).map_err(|_| Problem::Number("size"))?;
        if size > EXTENSION_MAX {
            return Err(Problem::ExtensionSize(size));
        }
        self.pending.start.get_or_insert(start);
        self.state = State::Extension {
            flag,
            start: self.offset,
            content: Vec::new(),
            size,
            padding: padding(size),
        };
        if size == 0 {
            // Nothing will come that would end it.
            self.extension_end(flag, &[])?;
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
            padding - self.take(input, padding)?.len() as u64
        };
        if padding == 0 && content.len() as u64 == size {
            let done = self.extension_end(flag, &content);
            return done.map_err(|problem| at(start, problem));
        }
        self.state = State::Extension { flag, start, content, size, padding };
        Ok(())
    }

    fn extension_end(&mut self, flag: u8, content: &[u8]) -> Result<(), Problem> {
        self.state = State::Header;
        let pending = &mut self.pending;
        let text = || Some(header::text(content).to_vec()).filter(|text| !text.is_empty());
        match flag {
            b'x' => pending.pax = Some(pax::Records::parse(content)?),
            b'L' => pending.name = text(),
            b'K' => pending.link = text(),
            _ => {
                pax::Records::parse(content)?;
                // Go takes it for a member, so what came before it is spent.
                *pending = Pending::default();
            }
        }
        Ok(())
    }

    fn member(&mut self, header: &Header, start: u64) -> Result<Option<Box<Member>>, Problem> {
        let pending = std::mem::take(&mut self.pending);
        let pax = pending.pax.unwrap_or_default();
        let either =
            |long: Option<Vec<u8>>, keyword| long.or_else(|| pax.text(keyword).map(<[u8]>::to_vec));
        let path = either(pending.name, "path").unwrap_or_else(|| header.path());
        let link = either(pending.link, "linkpath").unwrap_or_else(|| header.link.to_vec());
        let kind = kind(header, &path)?;
        let size = pax.integer("size")?.unwrap_or(header.size);
        let stored = match kind {
            Kind::Regular => u64::try_from(size).map_err(|_| Problem::Number("size"))?,
            // Whatever the header says.
            _ => 0,
        };
        // These two must be times, and have no use.
        pax.time("atime")?;
        pax.time("ctime")?;
        let id = |keyword: &'static str, header: i64| {
            let id = pax.integer(keyword)?.unwrap_or(header);
            u32::try_from(id).map_err(|_| Problem::Number(keyword))
        };
        let number = |part| u32::try_from(part).map_err(|_| Problem::Number("device"));
        let mut member = Box::new(Member {
            header_offset: pending.start.unwrap_or(start),
            kind,
            mode: header.mode,
            uid: id("uid", header.uid)?,
            gid: id("gid", header.gid)?,
            mtime: pax.time("mtime")?.unwrap_or(header.mtime),
            size: stored,
            stored,
            data_offset: self.offset,
            device: match kind {
                Kind::Character | Kind::Block => {
                    (number(header.device.0)?, number(header.device.1)?)
                }
                _ => (0, 0),
            },
            link: Vec::new(),
            path,
            sparse: None,
            xattrs: Vec::new(),
        });
        if matches!(kind, Kind::Symlink | Kind::HardLink) {
            if link.is_empty() {
                return Err(Problem::NoTarget);
            }
            if kind == Kind::Symlink {
                member.size = link.len() as u64;
            }
            member.link = link;
        }
        let sparse = if header.flag == b'S' { None } else { pax.sparse()? };
        if sparse.is_some() && kind != Kind::Regular {
            return Err(Problem::Sparse("a type that has no data"));
        }
        if let Some(name) = sparse.as_ref().and_then(|sparse| sparse.name.as_ref()) {
            member.path.clone_from(name);
        }
        if member.path.contains(&0) {
            return Err(Problem::PaxValue);
        }
        if member.path.len() > self.limits.path || member.link.len() > self.limits.path {
            return Err(Problem::TooLong(self.limits.path));
        }
        // All of it can be counted, so what follows need not care.
        let end = stored.checked_next_multiple_of(BLOCK as u64);
        if end.and_then(|length| self.offset.checked_add(length)).is_none() {
            return Err(Problem::Overflow);
        }
        // No runtime can set one without a name.
        if pax.xattrs.contains_key(&b""[..]) {
            return Err(Problem::PaxRecord);
        }
        member.xattrs = pax.xattrs.into_iter().collect();
        let real = |size: i64| u64::try_from(size).map_err(|_| Problem::Number("size"));
        match sparse {
            _ if header.flag == b'S' => {
                let mut map = sparse::OldGnu::default();
                let (size, more) = map.header(header.block)?;
                member.size = real(size)?;
                if more {
                    self.state = State::OldGnuMap(member, map);
                    return Ok(None);
                }
                member.sparse = Some(map.map().finish(member.size, stored)?);
            }
            Some(file) => {
                member.size = real(file.size.unwrap_or(size))?;
                let Some(map) = file.map else {
                    self.state = State::LinesMap(member, sparse::Lines::default());
                    return Ok(None);
                };
                member.sparse = Some(map.finish(member.size, stored)?);
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

fn kind(header: &Header, path: &[u8]) -> Result<Kind, Problem> {
    match header.flag {
        // V7 has no directories but these.
        0 if path.ends_with(b"/") => Ok(Kind::Directory),
        0 | b'0' | b'7' => Ok(Kind::Regular),
        // Others than GNU tar's own have another layout.
        b'S' if header.format == Format::Gnu => Ok(Kind::Regular),
        b'1' => Ok(Kind::HardLink),
        b'2' => Ok(Kind::Symlink),
        b'3' => Ok(Kind::Character),
        b'4' => Ok(Kind::Block),
        b'5' => Ok(Kind::Directory),
        b'6' => Ok(Kind::Fifo),
        flag => Err(Problem::Type(flag)),
    }
}
