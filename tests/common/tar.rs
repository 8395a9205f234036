//! Writes small tars, header by header (POSIX ustar): what a test's layer holds
//! should be plain to see.

/// A tar being written. Paths have at most 100 bytes.
#[derive(Clone, Debug, Default)]
pub struct Tar(Vec<u8>);

/// What a member is beside its path and content.
#[derive(Clone, Debug)]
pub struct Member {
    pub kind: u8,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: u64,
    pub link: Vec<u8>,
    pub device: (u32, u32),
}

impl Default for Member {
    fn default() -> Member {
        Member {
            kind: b'0',
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: 1_000_000_000,
            link: Vec::new(),
            device: (0, 0),
        }
    }
}

impl Tar {
    pub fn member(self, path: impl AsRef<[u8]>, content: &[u8], member: &Member) -> Tar {
        self.member_with(path, content, member, &[])
    }

    /// The same with other bytes at some places of the header.
    pub fn member_with(
        mut self,
        path: impl AsRef<[u8]>,
        content: &[u8],
        member: &Member,
        odd: &[(usize, &[u8])],
    ) -> Tar {
        const BLOCK: usize = 512;
        let mut header = [0; BLOCK];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        let (path, link) = (path.as_ref(), member.link.as_slice());
        assert!(path.len() <= 100 && link.len() <= 100, "too long for ustar");
        let octal = |number: u64, digits: usize| format!("{number:0digits$o}").into_bytes();
        put(0, path);
        put(100, &octal(member.mode.into(), 7));
        put(108, &octal(member.uid.into(), 7));
        put(116, &octal(member.gid.into(), 7));
        put(124, &octal(content.len() as u64, 11));
        put(136, &octal(member.mtime, 11));
        put(148, b"        ");
        put(156, &[member.kind]);
        put(157, link);
        put(257, b"ustar\x0000");
        put(329, &octal(member.device.0.into(), 7));
        put(337, &octal(member.device.1.into(), 7));
        odd.iter().for_each(|(at, bytes)| put(*at, bytes));
        let sum = header.iter().map(|&byte| u64::from(byte)).sum();
        header[148..155].copy_from_slice(&octal(sum, 7));
        self.0.extend_from_slice(&header);
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
        self
    }

    pub fn file(self, path: impl AsRef<[u8]>, content: &[u8]) -> Tar {
        self.member(path, content, &Member::default())
    }

    pub fn directory(self, path: impl AsRef<[u8]>) -> Tar {
        let member = Member { kind: b'5', mode: 0o755, ..Member::default() };
        self.member(path, b"", &member)
    }

    fn link(self, kind: u8, mode: u32, path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Tar {
        let link = target.as_ref().to_vec();
        let member = Member { kind, mode, link, ..Member::default() };
        self.member(path, b"", &member)
    }

    pub fn symlink(self, path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Tar {
        self.link(b'2', 0o777, path, target)
    }

    pub fn hard_link(self, path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Tar {
        self.link(b'1', 0o644, path, target)
    }

    /// `kind`: `b'3'` character, `b'4'` block, `b'6'` fifo.
    pub fn device(self, path: impl AsRef<[u8]>, kind: u8, device: (u32, u32)) -> Tar {
        let member = Member { kind, device, ..Member::default() };
        self.member(path, b"", &member)
    }

    /// The bytes, with the two blocks that end a tar.
    pub fn finish(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}
