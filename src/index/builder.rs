//! Indexes a layer: one pass over its bytes as stored.
//!
//! One thread decodes, another does all the rest (digests, tar, rows), a few
//! spans behind. Each takes about half of the time.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use sha2::{Digest as _, Sha256};
use xxhash_rust::xxh3::xxh3_64;

use super::grams::Texts;
use super::members::{Failure, Placed, Tree};
use super::records::{Extent, Layer, Span, State};
use super::{Index, Result};
use crate::layer::codec::{self, Checkpoint, Compression, Copier, SPAN, Spans};
use crate::layer::tar::{self, Event, Parser};
use crate::oci::Digest;
use crate::storage;

/// What a layer may cost before it is refused.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Rows.
    pub entries: u64,
    /// Bytes of the tar stream.
    pub output: u64,
    /// Bytes of the tar stream for a byte of the blob, beyond [`RATIO_FROM`].
    pub ratio: u64,
    /// Bytes of a path.
    pub path: usize,
}

/// Output up to here may come of anything: two bytes of a good compressor's are
/// a megabyte of zeros.
const RATIO_FROM: u64 = 100_000_000;
/// Zeros hashed for the holes of a layer's sparse files, in bytes. A file with
/// more gets no digest: a hole costs nothing to write.
const HOLES_HASHED: u64 = 16 << 30;
/// How much longer than the blob its seekable copy may be, beyond the first so
/// many bytes. Repetitions further apart than a span are stored again each time,
/// so the copy of a small blob could fill the disk.
const COPY_RATIO: u64 = 16;
const COPY_FREE: u64 = 64 << 20;
/// Spans under way between two threads.
const QUEUE: usize = 8;
/// What [`Compression::sniff`] looks at.
const HEAD: usize = codec::HEAD;

/// Indexes `blob`, which is the layer `digest`. `progress` counts its bytes.
pub fn build(
    index: &Index,
    digest: &Digest,
    blob: &storage::Blob,
    limits: &Limits,
    progress: &AtomicU64,
) -> Result<State> {
    let mut rows = index.begin_layer(digest)?;
    let mut copied = false;
    loop {
        let path = if copied && !index.is_scratch { Some(rows.copy_path()?) } else { None };
        let copy = copied.then_some(path.as_deref());
        let tree = Tree::new(rows, limits.entries, limits.path)?;
        progress.store(0, Ordering::Relaxed);
        let (tree, result) = pass(tree, blob, copy, limits, progress);
        match result {
            Ok(layer) => return tree.into_rows().finish(layer),
            Err(Stop::Unseekable) if !copied => {
                tree.into_rows().abandon()?;
                rows = index.begin_layer(digest)?;
                copied = true;
            }
            Err(Stop::Unseekable) => unreachable!("a copy is cut into spans"),
            Err(Stop::Failure(Failure::Refused(reason))) => {
                return tree.into_rows().refuse(reason);
            }
            Err(Stop::Failure(Failure::Error(error))) => {
                // The first error is the one to tell; what is left goes at the next start.
                let _ = tree.into_rows().abandon();
                return Err(error);
            }
        }
    }
}

/// Why a pass came to no end.
enum Stop {
    Unseekable,
    Failure(Failure),
}

impl<T: Into<Failure>> From<T> for Stop {
    fn from(failure: T) -> Stop {
        Stop::Failure(failure.into())
    }
}

fn refused<T>(reason: String) -> Result<T, Stop> {
    Err(Stop::Failure(Failure::Refused(reason)))
}

/// A span on its way from the thread that decodes to the one that reads it.
type Decoded = (Checkpoint, Vec<u8>);

/// Whether a seekable copy is made, and where it is kept, if it is.
type Copy<'a> = Option<Option<&'a Path>>;

fn pass<'a>(
    mut tree: Tree<'a>,
    blob: &storage::Blob,
    copy: Copy<'_>,
    limits: &Limits,
    progress: &AtomicU64,
) -> (Tree<'a>, Result<Layer, Stop>) {
    let (output, decoded) = sync_channel::<Decoded>(QUEUE);
    let (spare, recycled) = sync_channel(QUEUE + 2);
    let result = thread::scope(|scope| {
        let outputs = Outputs { output, recycled };
        let decoder = scope.spawn(move || decode(blob, copy, limits, progress, &outputs));
        let consumed = consume(&mut tree, &decoded, &spare, blob.size);
        // With it the decoder would wait for ever.
        drop(decoded);
        let decoded = decoder.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // A consumer that stopped is why the decoder did.
        let (spans, diff_id, mut parser) = consumed?;
        // A decoder that stopped is why the tar ends there.
        let (compression, compressed, uncompressed) = decoded?;
        parser.finish().map_err(tar_error)?;
        Ok(Layer {
            number: tree.rows().number(),
            compression,
            copied: copy.is_some(),
            compressed,
            uncompressed,
            diff_id,
            entries: tree.entries,
            spans,
            cross_layer_links: tree.finish()?,
        })
    });
    (tree, result)
}

struct Outputs {
    output: SyncSender<Decoded>,
    /// Buffers to be used again.
    recycled: Receiver<Vec<u8>>,
}

/// Decodes the blob. Gives what it is, its bytes and the tar stream's; less when
/// no more is wanted.
fn decode(
    blob: &storage::Blob,
    copy: Copy<'_>,
    limits: &Limits,
    progress: &AtomicU64,
    outputs: &Outputs,
) -> Result<(Compression, u64, u64), Stop> {
    let mut head = [0; HEAD];
    let known = blob.size.min(HEAD as u64) as usize;
    head[..known].copy_from_slice(&blob.read(0..known as u64)?);
    let compression = Compression::sniff(&head[..known]);
    let failed = |error| stop(error, blob, copy);
    let mut total = 0;
    let mut pass_on = |checkpoint, buffer: Vec<u8>, consumed: u64| -> Result<bool, Stop> {
        total += buffer.len() as u64;
        progress.store(consumed, Ordering::Relaxed);
        if total > limits.output {
            return refused(format!("it unpacks to more than {} bytes", limits.output));
        }
        if total > RATIO_FROM && total / limits.ratio > consumed {
            return refused(format!("it unpacks to more than {} times its size", limits.ratio));
        }
        let wanted = outputs.output.send((checkpoint, buffer)).is_ok();
        Ok(wanted)
    };
    let buffer = || {
        let spare = outputs.recycled.try_recv();
        spare.unwrap_or_else(|_| Vec::with_capacity(SPAN + SPAN / 4))
    };
    match copy {
        None => {
            let mut spans = Spans::new(compression, blob.reader()).map_err(failed)?;
            loop {
                let mut output = buffer();
                let next = spans.next(&mut output).map_err(failed)?;
                let Some(checkpoint) = next else { break };
                if !pass_on(checkpoint, output, spans.consumed())? {
                    break;
                }
            }
        }
        Some(path) => {
            let file = path.map(create).transpose()?;
            let output: Box<dyn Write + '_> = match &file {
                Some(file) => Box::new(file),
                None => Box::new(io::sink()),
            };
            let mut copier = Copier::new(compression, blob.reader(), output).map_err(failed)?;
            loop {
                let mut output = buffer();
                let next = copier.next(&mut output).map_err(failed)?;
                let Some(checkpoint) = next else { break };
                if copier.written() > COPY_FREE + COPY_RATIO * blob.size {
                    return refused(format!(
                        "it can be read from a copy only, which would have more than {COPY_RATIO} times its size"
                    ));
                }
                if !pass_on(checkpoint, output, copier.consumed())? {
                    break;
                }
            }
            drop(copier);
            if let (Some(file), Some(path)) = (&file, path) {
                sync(file, path).map_err(|e| storage::Error::io("write", path, e))?;
            }
        }
    }
    Ok((compression, blob.size, total))
}

fn create(path: &Path) -> Result<File, storage::Error> {
    let io = |e| storage::Error::io("create", path, e);
    if let Some(folder) = path.parent() {
        super::private_folder(folder)?;
    }
    File::create(path).map_err(io)
}

/// Brings a new file to the disk, its name and its folder's too.
fn sync(file: &File, path: &Path) -> io::Result<()> {
    file.sync_all()?;
    for folder in path.ancestors().skip(1).take(2) {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

fn stop(error: codec::Error, blob: &storage::Blob, copy: Copy<'_>) -> Stop {
    match (error, copy) {
        (codec::Error::Unseekable, _) => Stop::Unseekable,
        (codec::Error::Read { cause, .. }, _) => blob.failed(cause).into(),
        (codec::Error::Write { cause, .. }, Some(Some(copy))) => {
            storage::Error::io("write", copy, cause).into()
        }
        // No memory for it now: nothing that the layer is to blame for.
        (error @ codec::Error::Library(..), _) => blob.failed(io::Error::other(error)).into(),
        (error, _) => Stop::Failure(Failure::Refused(error.to_string())),
    }
}

/// Does with each span what is to be done. Gives the spans' lengths, the diff_id
/// and the parser, to be told that the tar ends.
fn consume(
    tree: &mut Tree<'_>,
    spans: &Receiver<Decoded>,
    spare: &SyncSender<Vec<u8>>,
    stored: u64,
) -> Result<(Vec<u32>, [u8; 32], Parser), Stop> {
    let (mut lengths, mut diff_id) = (Vec::new(), Sha256::new());
    let mut parser = Parser::new(tar::Limits { path: tree.max_path() });
    let mut files =
        Files { open: None, holes: HOLES_HASHED, texts: Texts::new(), stored: 0, rows: 0 };
    for (checkpoint, output) in spans {
        diff_id.update(&output);
        let length = output.len() as u32;
        files.stored = checkpoint.input;
        let span = Span { checkpoint, length, checksum: xxh3_64(&output) };
        tree.rows().put_span(lengths.len() as u64, &span)?;
        lengths.push(length);
        let mut input = &output[..];
        while let Some(event) = parser.next(&mut input).map_err(tar_error)? {
            files.take(tree, event)?;
        }
        files.put_rows(tree)?;
        // One buffer too many is freed.
        let _ = spare.try_send(output);
    }
    files.texts.finish(stored);
    files.put_rows(tree)?;
    Ok((lengths, diff_id.finalize().into(), parser))
}

fn tar_error(error: tar::Error) -> Stop {
    Stop::Failure(Failure::Refused(error.to_string()))
}

/// The files' digests, and what text they have.
struct Files {
    open: Option<(Placed, Content)>,
    /// Bytes of holes that may still be hashed.
    holes: u64,
    texts: Texts,
    /// Where in the layer, as it is stored, the span begins that is being read.
    stored: u64,
    /// Rows about text that were written.
    rows: u64,
}

impl Files {
    fn take(&mut self, tree: &mut Tree<'_>, event: Event<'_>) -> Result<(), Failure> {
        match event {
            Event::Member(member) => {
                let sparse = member.sparse.clone();
                let (size, inode) = (member.size, member.header_offset);
                self.open = tree.place(*member)?.map(|placed| {
                    self.texts.file(inode);
                    let content = Content::new(size, sparse, &mut self.holes);
                    (placed, content)
                });
            }
            Event::Content(bytes) => {
                if let Some((_, content)) = &mut self.open {
                    content.update(bytes, &mut self.texts, self.stored);
                }
            }
            Event::MemberEnd => {
                if let Some((placed, content)) = self.open.take() {
                    self.texts.end(self.stored);
                    tree.put(placed, content.finish())?;
                }
            }
        }
        Ok(())
    }

    fn put_rows(&mut self, tree: &Tree<'_>) -> Result<()> {
        for row in self.texts.rows() {
            tree.rows().put_grams(self.rows, &row)?;
            self.rows += 1;
        }
        Ok(())
    }
}

/// The digest of a file's content under way, its holes read as zeros.
struct Content {
    /// `None`: too many holes.
    hash: Option<Sha256>,
    size: u64,
    /// Bytes of the file hashed.
    at: u64,
    /// What is left of the pieces that hold data; for a file without holes the
    /// whole of it.
    extents: std::vec::IntoIter<Extent>,
    extent: Option<Extent>,
}

impl Content {
    fn new(size: u64, sparse: Option<Vec<Extent>>, budget: &mut u64) -> Content {
        let whole = || vec![Extent { offset: 0, length: size }];
        let extents = sparse.unwrap_or_else(whole);
        let data: u64 = extents.iter().map(|e| e.length).sum();
        let holes = size.saturating_sub(data);
        let hashed = holes <= *budget;
        if hashed {
            *budget -= holes;
        }
        Content {
            hash: hashed.then(Sha256::new),
            size,
            at: 0,
            extents: extents.into_iter(),
            extent: None,
        }
    }

    fn update(&mut self, mut bytes: &[u8], texts: &mut Texts, stored: u64) {
        while !bytes.is_empty() {
            let extent = match self.extent.take().filter(|e| e.length > 0) {
                Some(extent) => extent,
                None => match self.extents.next() {
                    Some(extent) => extent,
                    None => return,
                },
            };
            if extent.offset > self.at {
                texts.hole();
            }
            self.zeros(extent.offset);
            let taken = extent.length.min(bytes.len() as u64);
            let (piece, rest) = bytes.split_at(taken as usize);
            texts.content(piece, stored);
            if let Some(hash) = &mut self.hash {
                hash.update(piece);
            }
            self.at += taken;
            bytes = rest;
            self.extent =
                Some(Extent { offset: extent.offset + taken, length: extent.length - taken });
        }
    }

    /// Hashes the hole from where the content is up to `offset`.
    fn zeros(&mut self, offset: u64) {
        const ZEROS: [u8; 16 << 10] = [0; 16 << 10];
        while let Some(hash) = &mut self.hash
            && self.at < offset
        {
            let length = (offset - self.at).min(ZEROS.len() as u64);
            hash.update(&ZEROS[..length as usize]);
            self.at += length;
        }
    }

    fn finish(mut self) -> Option<[u8; 32]> {
        self.zeros(self.size);
        self.hash.map(|hash| hash.finalize().into())
    }
}
