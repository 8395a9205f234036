//! What the index stores, and how it is encoded: a version byte, then the
//! record in postcard's wire format (<https://postcard.jamesmunns.com/wire-format>).
//! A change of a record changes [`VERSION`], with which the whole index is
//! made again; the golden bytes below tell when that is forgotten.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::layer::codec::{Checkpoint, Compression};
pub use crate::layer::tar::{Extent, Time};

/// The version of every record.
pub const VERSION: u8 = 1;
/// Larger values are not decoded. An entry has at most a path's length of link,
/// xattrs and holes, all of which a layer's limits bound below this.
pub const RECORD_MAX: usize = 8 << 20;

/// A span's window, compressed, may not claim to be larger.
const WINDOW_MAX: usize = crate::layer::codec::WINDOW;

#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("it has version {0}, want {VERSION}")]
    Version(u8),
    #[error("it is {0} bytes long")]
    Size(usize),
    #[error("{0}")]
    Encoding(#[from] postcard::Error),
    #[error("its window cannot be decompressed")]
    Window,
    #[error("its spans do not make up its tar stream")]
    Spans,
}

/// What is known of a layer, under its digest. Written last: without it nothing
/// else of the layer is visible.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    Ready(Layer),
    /// Why there is no index of it: a sentence for users.
    Refused(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// Stands for the layer in the keys of its rows.
    pub number: u64,
    pub compression: Compression,
    /// The spans lie in the seekable copy, not in the blob.
    pub copied: bool,
    /// Bytes of the blob.
    pub compressed: u64,
    /// Bytes of the tar stream.
    pub uncompressed: u64,
    /// sha256 of the tar stream.
    pub diff_id: [u8; 32],
    /// Members that are something: no whiteouts.
    pub entries: u64,
    /// Bytes of the tar stream in each span.
    pub spans: Vec<u32>,
    /// Hard links to what a layer below may hold.
    pub cross_layer_links: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Kind {
    Regular,
    Directory,
    Symlink,
    Character,
    Block,
    Fifo,
    /// A hard link whose target is not in its layer: `link` is the target's path.
    CrossLayerLink,
    /// A directory that the layer has entries or whiteouts below, but none for itself.
    Implicit,
    /// Removes what lower layers have under its path.
    Whiteout,
}

/// One path of one layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub kind: Kind,
    /// Permission bits, with setuid, setgid and sticky.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Time,
    /// What stat shows: bytes of a file, of a symlink's target.
    pub size: u64,
    /// Where the content lies in the tar stream.
    pub offset: u64,
    /// Tells the layer's inodes apart: where the member that made it starts in the
    /// tar stream. A hard link has its target's.
    pub inode: u64,
    /// Names of the inode in this layer.
    pub links: u32,
    /// Hides what lower layers have below its path: an opaque directory, or one with a whiteout of
    /// the same name beside it.
    pub hides: bool,
    /// Major and minor.
    pub device: (u32, u32),
    /// A symlink's target as stored; a [`Kind::CrossLayerLink`]'s as a path of the image.
    pub link: Vec<u8>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The pieces that lie, one after the other, at `offset`; without it the
    /// whole file does.
    pub sparse: Option<Vec<Extent>>,
    /// Of a regular file's content, holes as zeros.
    pub sha256: Option<[u8; 32]>,
}

impl Entry {
    /// A directory that nothing describes.
    pub fn implicit(kind: Kind) -> Entry {
        Entry {
            kind,
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: Time::default(),
            size: 0,
            offset: 0,
            inode: 0,
            links: 1,
            hides: false,
            device: (0, 0),
            link: Vec::new(),
            xattrs: Vec::new(),
            sparse: None,
            sha256: None,
        }
    }

    /// Whether it removes its name from an image: also a device with the number 0/0 does, because
    /// overlayfs takes it for a whiteout.
    pub fn is_whiteout(&self) -> bool {
        self.kind == Kind::Whiteout || (self.kind == Kind::Character && self.device == (0, 0))
    }

    /// Whether something may lie below it.
    pub fn is_directory(&self) -> bool {
        matches!(self.kind, Kind::Directory | Kind::Implicit)
    }
}

/// A piece of the tar stream that can be decoded by itself. Its key says which
/// one of the layer's it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    pub checkpoint: Checkpoint,
    /// Bytes of the tar stream.
    pub length: u32,
    /// XXH3 (64 bits) of these bytes.
    pub checksum: u64,
}

#[derive(Serialize, Deserialize)]
struct StoredSpan {
    input: u64,
    bits: u8,
    raw: bool,
    length: u32,
    checksum: u64,
    window_length: u32,
    /// A zstd frame; nothing for an empty window.
    window: Vec<u8>,
}

pub trait Record: Sized {
    fn encode(&self) -> Vec<u8>;
    fn decode(bytes: &[u8]) -> Result<Self, RecordError>;
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_extend(value, vec![VERSION]).expect("a vector takes whatever it is given")
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, RecordError> {
    match bytes {
        [VERSION, rest @ ..] if rest.len() <= RECORD_MAX => {
            match postcard::take_from_bytes(rest)? {
                (value, []) => Ok(value),
                _ => Err(RecordError::Size(bytes.len())),
            }
        }
        [VERSION, ..] | [] => Err(RecordError::Size(bytes.len())),
        [version, ..] => Err(RecordError::Version(*version)),
    }
}

impl Record for State {
    fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    fn decode(bytes: &[u8]) -> Result<State, RecordError> {
        let state = decode(bytes)?;
        if let State::Ready(layer) = &state {
            let sum: u64 = layer.spans.iter().map(|&length| u64::from(length)).sum();
            if sum != layer.uncompressed {
                return Err(RecordError::Spans);
            }
        }
        Ok(state)
    }
}

impl Record for Entry {
    fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    fn decode(bytes: &[u8]) -> Result<Entry, RecordError> {
        decode(bytes)
    }
}

/// Windows are mostly zeros and text, and there is one for every 2 MiB: worth
/// some time.
const WINDOW_LEVEL: i32 = 9;

impl Record for Span {
    fn encode(&self) -> Vec<u8> {
        let window = &self.checkpoint.window;
        let mut packed = Vec::new();
        if !window.is_empty() {
            packed.resize(zstd_safe::compress_bound(window.len()), 0);
            let length = zstd_safe::compress(&mut packed[..], window, WINDOW_LEVEL)
                .expect("there is room for what the library says it may need");
            packed.truncate(length);
        }
        encode(&StoredSpan {
            input: self.checkpoint.input,
            bits: self.checkpoint.bits,
            raw: self.checkpoint.raw,
            length: self.length,
            checksum: self.checksum,
            window_length: window.len() as u32,
            window: packed,
        })
    }

    fn decode(bytes: &[u8]) -> Result<Span, RecordError> {
        let stored: StoredSpan = decode(bytes)?;
        let length = stored.window_length as usize;
        if length > WINDOW_MAX || stored.bits > 7 {
            return Err(RecordError::Window);
        }
        let mut window = vec![0; length];
        if length > 0 && zstd_safe::decompress(&mut window[..], &stored.window) != Ok(length) {
            return Err(RecordError::Window);
        }
        Ok(Span {
            checkpoint: Checkpoint {
                input: stored.input,
                bits: stored.bits,
                window,
                raw: stored.raw,
            },
            length: stored.length,
            checksum: stored.checksum,
        })
    }
}
#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// Another encoding under the same version would be misread.
    #[test]
    fn golden_bytes() {
        let entry = Entry {
            kind: Kind::Regular,
            mode: 0o4755,
            uid: 1000,
            gid: 100,
            mtime: Time { seconds: -1, nanoseconds: 5 },
            size: 300,
            offset: 512,
            inode: 0,
            links: 2,
            hides: true,
            device: (8, 1),
            link: b"a".to_vec(),
            xattrs: vec![(b"user.x".to_vec(), vec![0, 255])],
            sparse: Some(vec![Extent { offset: 0, length: 1 }]),
            sha256: Some([7; 32]),
        };
        let layer = Layer {
            number: 3,
            compression: Compression::Gzip,
            copied: false,
            compressed: 1000,
            uncompressed: 5000,
            diff_id: [9; 32],
            entries: 2,
            spans: vec![4096, 904],
            cross_layer_links: 0,
        };
        let span = Span {
            checkpoint: Checkpoint { input: 77, bits: 3, window: b"abc".to_vec(), raw: true },
            length: 4096,
            checksum: u64::MAX,
        };
        let [seven, nine] = [7, 9].map(|n: u8| hex(&[n; 32]));
        for (bytes, want) in [
            (
                entry.encode(),
                format!(
                    "0100ed13e8076401 05ac028004000201080101610106757365722e780200ff01010001 01{seven}"
                ),
            ),
            (
                State::Ready(layer.clone()).encode(),
                format!("0100030100e8078827{nine}020280208807 00"),
            ),
            (State::Refused("no".into()).encode(), "0101026e6f".into()),
            (span.encode(), "014d03018020ffffffffffffffffff01030c28b52ffd2003190000616263".into()),
        ] {
            assert_eq!(hex(&bytes), want.replace(' ', ""));
        }
        assert_eq!(Entry::decode(&entry.encode()).unwrap(), entry);
        assert_eq!(
            State::decode(&State::Ready(layer.clone()).encode()).unwrap(),
            State::Ready(layer)
        );
        assert_eq!(Span::decode(&span.encode()).unwrap(), span);
    }

    #[test]
    fn what_is_no_record() {
        let good = Entry::implicit(Kind::Directory).encode();
        let mut other = good.clone();
        other[0] = VERSION + 1;
        assert!(matches!(Entry::decode(&other), Err(RecordError::Version(v)) if v == VERSION + 1));
        for length in 0..good.len() {
            assert!(Entry::decode(&good[..length]).is_err(), "{length} bytes of it");
        }
        assert!(matches!(Entry::decode(&[&good[..], b"x"].concat()), Err(RecordError::Size(_))));
        for (spans, uncompressed) in [(vec![], 1), (vec![5, 6], 10), (vec![5, 6], 12)] {
            let layer = State::Ready(Layer {
                number: 0,
                compression: Compression::None,
                copied: false,
                compressed: 0,
                uncompressed,
                diff_id: [0; 32],
                entries: 0,
                spans,
                cross_layer_links: 0,
            });
            let decoded = State::decode(&layer.encode());
            assert!(matches!(decoded, Err(RecordError::Spans)), "{layer:?}");
        }
    }
}
