//! Records: what was encoded decodes to the same; anything else decodes to an
//! error, or to what can be encoded again.

use std::fmt::Debug;

use arbitrary::{Result, Unstructured};

use crate::index::records::{Entry, Extent, Kind, Layer, Record, Span, State, Time};
use crate::layer::codec::{Checkpoint, Compression};

pub fn records(data: &[u8]) {
    again::<Entry>(data);
    again::<State>(data);
    again::<Span>(data);
    let mut bytes = Unstructured::new(data);
    // Too few bytes for a record are no fault.
    for made in [made::<Entry>, made::<Span>, made::<Layer>] {
        if made(&mut bytes).is_err() {
            return;
        }
    }
}

fn again<T: Record + PartialEq + Debug>(data: &[u8]) {
    if let Ok(record) = T::decode(data) {
        assert_eq!(T::decode(&record.encode()).expect("encoded above"), record);
    }
}

trait Made: Sized {
    type As: Record + PartialEq + Debug;
    fn make(bytes: &mut Unstructured<'_>) -> Result<Self::As>;
}

fn made<T: Made>(bytes: &mut Unstructured<'_>) -> Result<()> {
    let record = T::make(bytes)?;
    assert_eq!(T::As::decode(&record.encode()).expect("encoded above"), record);
    Ok(())
}

impl Made for Layer {
    type As = State;

    fn make(bytes: &mut Unstructured<'_>) -> Result<State> {
        if bytes.arbitrary()? {
            return Ok(State::Refused(bytes.arbitrary()?));
        }
        use Compression::{Bzip2, Gzip, None, Xz, Zstd};
        let spans: Vec<u32> = bytes.arbitrary()?;
        Ok(State::Ready(Layer {
            number: bytes.arbitrary()?,
            compression: *bytes.choose(&[None, Gzip, Zstd, Bzip2, Xz])?,
            copied: bytes.arbitrary()?,
            compressed: bytes.arbitrary()?,
            uncompressed: spans.iter().map(|&length| u64::from(length)).sum(),
            diff_id: bytes.arbitrary()?,
            entries: bytes.arbitrary()?,
            spans,
            cross_layer_links: bytes.arbitrary()?,
        }))
    }
}

impl Made for Entry {
    type As = Entry;

    fn make(bytes: &mut Unstructured<'_>) -> Result<Entry> {
        let kind = *bytes.choose(&[
            Kind::Regular,
            Kind::Directory,
            Kind::Symlink,
            Kind::Character,
            Kind::Block,
            Kind::Fifo,
            Kind::CrossLayerLink,
            Kind::Implicit,
            Kind::Whiteout,
        ])?;
        let sparse: Option<Vec<(u64, u64)>> = bytes.arbitrary()?;
        Ok(Entry {
            kind,
            mode: bytes.arbitrary()?,
            uid: bytes.arbitrary()?,
            gid: bytes.arbitrary()?,
            mtime: Time { seconds: bytes.arbitrary()?, nanoseconds: bytes.arbitrary()? },
            size: bytes.arbitrary()?,
            offset: bytes.arbitrary()?,
            inode: bytes.arbitrary()?,
            links: bytes.arbitrary()?,
            hides: bytes.arbitrary()?,
            device: bytes.arbitrary()?,
            link: bytes.arbitrary()?,
            xattrs: bytes.arbitrary()?,
            sparse: sparse.map(|extents| {
                let extent = |(offset, length)| Extent { offset, length };
                extents.into_iter().map(extent).collect()
            }),
            sha256: bytes.arbitrary()?,
        })
    }
}

impl Made for Span {
    type As = Span;

    fn make(bytes: &mut Unstructured<'_>) -> Result<Span> {
        Ok(Span {
            checkpoint: Checkpoint {
                input: bytes.arbitrary()?,
                bits: bytes.int_in_range(0..=7)?,
                raw: bytes.arbitrary()?,
                window: bytes.arbitrary()?,
            },
            length: bytes.arbitrary()?,
            checksum: bytes.arbitrary()?,
        })
    }
}
