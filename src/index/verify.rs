//! Compares what is known of a layer with the layer. It is indexed once more, by the same code, into
//! a database of its own, and then all rows are compared. A row of the layer that differs, is
//! missing, or is there and should not be, is a difference.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use xxhash_rust::xxh3::xxh3_64;

use super::across::{Across, BASENAMES, BLOCKS, CONTENTS, NAMED};
use super::layers::Layers;
use super::records::{Entry, Layer, Record, Span, State};
use super::rows::{ENTRIES, LAYERS, ROW_FAMILIES, SPANS};
use super::{Error, Index, Result, builder};
use crate::layer::codec::{self, Compression};
use crate::oci::Digest;
use crate::storage::scrub::Pace;
use crate::storage::{self, Blob};

/// Rows after which the database is made new, so that it stays small.
const ROWS_MAX: u64 = 1 << 20;
/// Rows looked up at a time.
const BATCH: usize = 1 << 12;
/// How seekable copies are called among the families.
const COPY: &str = "seekable";

/// A database for layers that are indexed to be compared. It is removed when it is dropped.
#[derive(Debug)]
pub struct Scratch {
    folder: PathBuf,
    index: Option<Index>,
    rows: u64,
}

impl Scratch {
    /// `folder` is removed first: a process that was killed may have left it.
    fn new(folder: PathBuf) -> Result<Scratch> {
        let mut scratch = Scratch { folder, index: None, rows: 0 };
        scratch.clear()?;
        Ok(scratch)
    }

    fn clear(&mut self) -> Result<()> {
        self.index = None;
        self.rows = 0;
        super::remove_folder(&self.folder)
    }

    fn index(&mut self) -> Result<&Index> {
        if self.rows > ROWS_MAX {
            self.clear()?;
        }
        if self.index.is_none() {
            let mut index = Index::open(&self.folder.join("db"))?;
            index.is_scratch = true;
            self.index = Some(index);
        }
        Ok(self.index.as_ref().expect("made above"))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = self.clear() {
            tracing::warn!(%error, "cannot remove the database of a scrub");
        }
    }
}

/// A layer as it was known, and as it was indexed now.
#[derive(Debug)]
pub struct Indexed {
    known: Layer,
    now: Layer,
}

/// How many rows of which families differ.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Differences(pub BTreeMap<&'static str, u64>);

impl Differences {
    fn add(&mut self, family: &'static str) {
        *self.0.entry(family).or_default() += 1;
    }
}

impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (family, number)) in self.0.iter().enumerate() {
            let comma = if place > 0 { ", " } else { "" };
            write!(f, "{comma}{number} of {family}")?;
        }
        Ok(())
    }
}

impl Layers {
    /// Makes a database for [`Layers::index_aside`].
    pub fn scratch(&self) -> Result<Scratch> {
        Scratch::new(self.index().scratch_folder())
    }

    /// Indexes a layer that has an index, to be compared. `None`: it has none, or is beyond a limit
    /// by now.
    pub fn index_aside(
        &self,
        scratch: &mut Scratch,
        layer: &Digest,
        blob: &Blob,
    ) -> Result<Option<Indexed>> {
        let known = match self.index().state(layer) {
            Ok(Some(State::Ready(known))) => known,
            Ok(Some(State::Refused(_)) | None) | Err(Error::Record { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let index = scratch.index()?;
        let built = builder::build(index, layer, blob, self.limits(), &AtomicU64::new(0))?;
        let State::Ready(now) = built else { return Ok(None) };
        scratch.rows += now.entries + now.spans.len() as u64;
        Ok(Some(Indexed { known, now }))
    }

    /// What differs between the index of a layer and the layer. Nothing does if the layer has no
    /// index, or was indexed again meanwhile.
    pub fn differences(
        &self,
        scratch: &Scratch,
        layer: &Digest,
        indexed: Option<&Indexed>,
        pace: &Pace,
    ) -> Result<Differences> {
        let mut differences = Differences::default();
        let (Some(Indexed { known, now }), Some(fresh)) = (indexed, &scratch.index) else {
            if let Err(Error::Record { .. }) = self.index().state(layer) {
                differences.add(LAYERS);
            }
            return Ok(differences);
        };
        let index = self.index();
        if (Layer { number: known.number, ..now.clone() }) != *known {
            differences.add(LAYERS);
        }
        for family in ROW_FAMILIES {
            compare(index, fresh, family, known, now, &mut differences)?;
        }
        index.look_up(fresh, known, now, &mut differences)?;
        if known.copied {
            index.compare_copy(fresh, known, now, pace, &mut differences)?;
        }
        match index.state(layer) {
            Ok(Some(State::Ready(still))) if still.number == known.number => Ok(differences),
            Err(error @ Error::Db { .. }) => Err(error),
            _ => Ok(Differences::default()),
        }
    }
}

/// Compares the rows of a family that have the layer's number first.
fn compare(
    index: &Index,
    fresh: &Index,
    family: &'static str,
    known: &Layer,
    now: &Layer,
    differences: &mut Differences,
) -> Result<()> {
    type Row = (Vec<u8>, Vec<u8>);
    let copied = |key: &[u8], value: &[u8]| -> Result<Row> { Ok((key.to_vec(), value.to_vec())) };
    let mut stored = index.rows(family, known.number.to_be_bytes().to_vec(), b"");
    let mut wanted = fresh.rows(family, now.number.to_be_bytes().to_vec(), b"");
    let (mut have, mut want) = (stored.next(copied).transpose()?, wanted.next(copied).transpose()?);
    loop {
        let order = match (&have, &want) {
            (None, None) => return Ok(()),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some((have, _)), Some((want, _))) => have.cmp(want),
        };
        let same = match (&have, &want) {
            (Some((_, have)), Some((_, want))) if order.is_eq() => {
                if family == SPANS {
                    is_same_span(have, want, known.copied)
                } else {
                    have == want
                }
            }
            _ => false,
        };
        if !same {
            differences.add(family);
        }
        if order.is_le() {
            have = stored.next(copied).transpose()?;
        }
        if order.is_ge() {
            want = wanted.next(copied).transpose()?;
        }
    }
}

/// Another version of zstd may pack a window, or a seekable copy, in other bytes.
fn is_same_span(have: &[u8], want: &[u8], copied: bool) -> bool {
    match (Span::decode(have), Span::decode(want)) {
        (Ok(have), Ok(mut want)) => {
            if copied {
                want.checkpoint.input = have.checkpoint.input;
            }
            have == want
        }
        _ => false,
    }
}

/// In the default family: when a scrub last came to its end, in seconds since 1970 (8 bytes).
const SCRUBBED_KEY: &[u8] = b"scrubbed";

impl Index {
    /// When a scrub last came to its end, in seconds since 1970.
    pub fn scrubbed(&self) -> Result<Option<u64>> {
        let value = self.db.get(SCRUBBED_KEY).map_err(|e| self.failed(e))?;
        Ok(value.and_then(|bytes| Some(u64::from_be_bytes(bytes.try_into().ok()?))))
    }

    pub fn set_scrubbed(&self, at: u64) -> Result<()> {
        self.db.put(SCRUBBED_KEY, at.to_be_bytes()).map_err(|e| self.failed(e))
    }

    /// Where [`Scratch`] is.
    pub(super) fn scratch_folder(&self) -> PathBuf {
        self.path.with_file_name("scrub")
    }

    /// Looks for the rows of a layer in the families that are not ordered by layers.
    fn look_up(
        &self,
        fresh: &Index,
        known: &Layer,
        now: &Layer,
        differences: &mut Differences,
    ) -> Result<()> {
        let mut across = Across::new(known.number);
        let mut wanted: BTreeMap<&'static str, Vec<Vec<u8>>> = BTreeMap::new();
        let mut rows = fresh.rows(ENTRIES, now.number.to_be_bytes().to_vec(), b"");
        while let Some(row) = rows.next(|key, value| {
            let entry: Entry = fresh.decode("an entry", value)?;
            across.entry(key, &entry, |family, key, _| {
                // Its values were compared.
                if family != BLOCKS {
                    wanted.entry(family).or_default().push(key.to_vec());
                }
                Ok(())
            })
        }) {
            row?;
            for (family, keys) in &mut wanted {
                if keys.len() >= BATCH {
                    self.look_up_batch(family, std::mem::take(keys), differences)?;
                }
            }
        }
        for (family, keys) in wanted {
            self.look_up_batch(family, keys, differences)?;
        }
        Ok(())
    }

    fn look_up_batch(
        &self,
        family: &'static str,
        mut keys: Vec<Vec<u8>>,
        differences: &mut Differences,
    ) -> Result<()> {
        debug_assert!([BASENAMES, NAMED, CONTENTS].contains(&family));
        keys.sort_unstable();
        keys.dedup();
        for found in self.db.batched_multi_get_cf(self.cf(family), &keys, true) {
            if found.map_err(|e| self.failed(e))?.is_none() {
                differences.add(family);
            }
        }
        Ok(())
    }

    /// Decodes a seekable copy and compares it with the layer.
    fn compare_copy(
        &self,
        fresh: &Index,
        known: &Layer,
        now: &Layer,
        pace: &Pace,
        differences: &mut Differences,
    ) -> Result<()> {
        let path = self.copy_path(known.number);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                differences.add(COPY);
                return Ok(());
            }
            Err(e) => return Err(storage::Error::io("open", &path, e).into()),
        };
        let mut output = Vec::new();
        for number in 0..now.spans.len() as u64 {
            let (Ok(Some(have)), Some(want)) =
                (self.span(known.number, number), fresh.span(now.number, number)?)
            else {
                // The row was reported.
                continue;
            };
            let length = want.length as usize;
            let decoded =
                codec::decode(Compression::Zstd, &have.checkpoint, &file, &mut output, length);
            if decoded.is_err() || xxh3_64(&output) != want.checksum {
                differences.add(COPY);
            }
            pace.spend(length as u64).map_err(|e| storage::Error::io("read", &path, e))?;
        }
        // A hint: pulls have no use for these pages.
        let _ = posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
        Ok(())
    }
}
