//! Searches the files of one unit after the other, and asks the images which of those they show in
//! which something was found.

use std::cell::{Cell, RefCell};
use std::io;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use grep_matcher::Matcher;
use grep_searcher::{
    BinaryDetection, Searcher, SearcherBuilder, Sink, SinkContext, SinkFinish, SinkMatch,
};

use super::plan::{File, Unit, add};
use super::{At, Event, Found, LineKind, Lines, Named, Report, SUBMATCHES_MAX, Shared, WAITING};
use crate::image::{self, Entry, Image, Opened, pieces};
use crate::index::{self, IndexedLayer};
use crate::oci::Reference;
use crate::query::Skipped;

/// A piece of work: bytes that are searched, and the time that it takes.
const PIECE_BYTES: u64 = 8 << 20;
const PIECE_TIME: Duration = Duration::from_millis(50);
/// Bytes of what was found that are gathered before the images are asked.
const GATHERED: usize = 1 << 20;
/// Names of files in images that are looked up together.
const NAMES: usize = 1 << 16;

/// Why a thread stops.
pub enum Stop {
    /// Nobody waits for results any more.
    Over,
    Failed(image::Error),
}

impl<E: Into<image::Error>> From<E> for Stop {
    fn from(error: E) -> Stop {
        Stop::Failed(error.into())
    }
}

/// One of the threads.
pub struct Worker<'a> {
    pub shared: &'a Shared,
    searcher: RefCell<Searcher>,
    /// The results of the unit in hand.
    events: RefCell<SyncSender<Event>>,
    /// Between two pieces of work it waits for this.
    wait: Option<Receiver<()>>,
    /// All files before this one are done.
    at: Cell<Option<At>>,
    /// Of the piece in hand: bytes, and its beginning.
    bytes: Cell<u64>,
    since: Cell<Instant>,
}

/// Searches until there are no more units.
pub fn run(shared: &Shared, units: &SyncSender<Receiver<Event>>, wait: Option<Receiver<()>>) {
    let (unused, _) = sync_channel(0);
    let worker = Worker {
        shared,
        searcher: RefCell::new(searcher(shared)),
        events: RefCell::new(unused),
        wait,
        at: Cell::new(None),
        bytes: Cell::new(0),
        since: Cell::new(Instant::now()),
    };
    if worker.rest().is_err() {
        return;
    }
    loop {
        // Results are taken in the order in which units are.
        let mut plan = shared.plan.lock().unwrap_or_else(PoisonError::into_inner);
        let (events, results) = sync_channel(WAITING);
        worker.events.replace(events);
        if units.send(results).is_err() {
            return;
        }
        let unit = plan.next(&worker);
        drop(plan);
        let (last, is_end) = match unit.and_then(|unit| worker.search(unit)) {
            Ok(is_end) => (Event::Done, is_end),
            Err(Stop::Failed(error)) => (Event::Failed(error), true),
            Err(Stop::Over) => return,
        };
        if worker.send(last).is_err() || is_end {
            return;
        }
    }
}

fn searcher(shared: &Shared) -> Searcher {
    let asked = &shared.asked;
    SearcherBuilder::new()
        .invert_match(asked.invert)
        .line_number(asked.line_numbers)
        .before_context(asked.before)
        .after_context(asked.after)
        .max_matches(asked.max_lines)
        .heap_limit(Some(asked.line_max))
        .binary_detection(match asked.text {
            true => BinaryDetection::none(),
            false => BinaryDetection::quit(b'\0'),
        })
        .build()
}

/// A file, or a part of one, in which something was found.
struct Matched {
    file: File,
    lines: Lines,
    failure: Option<Failure>,
}

/// Why a file was not searched to its end.
enum Failure {
    Read(index::Error),
    Line,
}

impl Worker<'_> {
    pub fn send(&self, event: Event) -> Result<(), Stop> {
        self.events.borrow().send(event).map_err(|_| Stop::Over)
    }

    /// Notes that all files before this one are done.
    pub fn at(&self, at: At) {
        self.at.set(Some(at));
    }

    /// Counts bytes that were read. At the end of a piece of work it waits for the next.
    pub fn tick(&self, bytes: u64) -> Result<(), Stop> {
        if self.shared.is_over.load(Relaxed) {
            return Err(Stop::Over);
        }
        self.bytes.set(self.bytes.get() + bytes);
        if self.bytes.get() < PIECE_BYTES && self.since.get().elapsed() < PIECE_TIME {
            return Ok(());
        }
        let working = Event::Working(self.at.get());
        match self.wait {
            Some(_) => self.send(working)?,
            // It is told when nothing else is.
            None => drop(self.events.borrow().try_send(working)),
        }
        self.rest()
    }

    fn rest(&self) -> Result<(), Stop> {
        if let Some(wait) = &self.wait {
            wait.recv().map_err(|_| Stop::Over)?;
        }
        self.bytes.set(0);
        self.since.set(Instant::now());
        Ok(())
    }

    /// Searches a unit. `true`: there is none.
    fn search(&self, unit: Option<Unit>) -> Result<bool, Stop> {
        let Some(unit) = unit else { return Ok(true) };
        let layer = &self.shared.table().layers[unit.layer];
        let mut found = Vec::new();
        let (mut names, mut bytes) = (0, 0);
        for file in &unit.files {
            if layer.is_gone.load(Relaxed) {
                break;
            }
            if found.is_empty() {
                (names, bytes) = (0, 0);
                self.at((unit.layer, file.inode));
            }
            self.tick(0)?;
            if let Some(matched) = self.file(&unit, file, &mut found)? {
                names += layer.stacks.len() * file.links.max(1) as usize;
                bytes += matched.lines.bytes() + file.path.len();
                found.push(matched);
            }
            if names >= NAMES || bytes >= GATHERED {
                self.tell(&unit, &mut found)?;
            }
        }
        self.tell(&unit, &mut found)?;
        add(&self.shared.done, unit.bytes);
        Ok(false)
    }

    /// Searches a file. What was found in those before it is told if there is too much in this one.
    fn file(
        &self,
        unit: &Unit,
        file: &File,
        found: &mut Vec<Matched>,
    ) -> Result<Option<Matched>, Stop> {
        let shared = self.shared;
        let entry = match file.is_sparse {
            true => {
                let number = unit.indexed.record.number;
                shared.images.layers().index().entry(number, &file.path)?
            }
            false => None,
        };
        let mut content =
            Content { worker: self, layer: &unit.indexed, file, entry, offset: 0, failure: None };
        let mut lines = Gathered {
            worker: self,
            unit,
            file,
            found,
            lines: Lines::default(),
            gap: shared.asked.before + shared.asked.after > 0,
            count: 0,
            binary: None,
            is_hidden: false,
            stop: None,
        };
        let mut searcher = self.searcher.borrow_mut();
        let result = searcher.search_reader(&shared.matcher, &mut content, &mut lines);
        if file.size > PIECE_BYTES {
            // Its buffer may have grown.
            *searcher = self::searcher(shared);
        }
        let Gathered { mut lines, count, binary, is_hidden, stop, .. } = lines;
        let failure = match (result, stop, content.failure) {
            (_, Some(stop), _) | (Err(_), None, Some(Unread::Stop(stop))) => return Err(stop),
            (Ok(()), ..) => None,
            (Err(_), None, Some(Unread::Failed(error))) => Some(Failure::Read(error)),
            // There is nothing else that it fails with.
            (Err(_), None, None) => Some(Failure::Line),
        };
        lines.count = count;
        let is_told = match shared.asked.report {
            Report::Lines | Report::Matches => {
                lines.binary = binary.filter(|_| count > 0);
                !lines.lines.is_empty() || lines.binary.is_some()
            }
            // What is behind a NUL byte was not searched.
            _ if binary.is_some() => false,
            Report::Count | Report::CountMatches | Report::Files => count > 0,
            Report::FilesWithout => count == 0 && failure.is_none(),
        };
        let is_told = (is_told || failure.is_some()) && !is_hidden;
        Ok(is_told.then(|| Matched { file: file.clone(), lines, failure }))
    }

    /// Asks the images which of the files they show, and tells what was found in those. `false`:
    /// none shows any.
    fn tell(&self, unit: &Unit, found: &mut Vec<Matched>) -> Result<bool, Stop> {
        let stacks = &self.shared.table().layers[unit.layer].stacks;
        let mut is_shown = false;
        if let [_] = found.as_slice()
            && let Some(matched) = found.pop()
        {
            let mut telling = Telling::new(unit, matched);
            for &stack in stacks {
                if let Some(image) = self.open(stack)? {
                    for name in self.names(&image, unit, &telling.file)? {
                        is_shown |= self.tell_name(&mut telling, stack, &name)?;
                    }
                }
            }
            return Ok(is_shown);
        }
        // An image is opened once for all of the files: only some are kept open.
        let mut names = Vec::new();
        names.resize_with(found.len(), Vec::new);
        if !found.is_empty() {
            for &stack in stacks {
                if let Some(image) = self.open(stack)? {
                    for (matched, names) in found.iter().zip(&mut names) {
                        let shown = self.names(&image, unit, &matched.file)?;
                        names.extend(shown.into_iter().map(|name| (stack, name)));
                    }
                }
            }
        }
        for (matched, names) in found.drain(..).zip(names) {
            let mut telling = Telling::new(unit, matched);
            for (stack, name) in names {
                is_shown |= self.tell_name(&mut telling, stack, &name)?;
            }
        }
        Ok(is_shown)
    }

    /// An image with these layers.
    fn open(&self, stack: usize) -> Result<Option<Arc<Image>>, Stop> {
        let table = self.shared.table();
        for &number in &table.stacks[stack].images {
            if self.named(number)?.is_some() {
                let image = &table.images[number].image;
                let reference = Reference::Digest(image.member.manifest);
                match self.shared.images.open_in(&image.repository, &reference, None) {
                    Ok(Opened::Image(image)) => return Ok(Some(image)),
                    // It has been deleted since.
                    Ok(Opened::Layer(_) | Opened::Artifact(_)) | Err(_) => {}
                }
            }
        }
        Ok(None)
    }

    /// An image, if it can be opened. If not, that is told once.
    fn named(&self, number: usize) -> Result<Option<Arc<Named>>, Stop> {
        let slot = &self.shared.table().images[number];
        if let Some(named) = slot.named.get() {
            return Ok(named.clone());
        }
        self.tick(0)?;
        let (images, image) = (&self.shared.images, &slot.image);
        let (repository, manifest) = (&image.repository, image.member.manifest);
        let opened = images.open_in(repository, &Reference::Digest(manifest), None);
        let (mut named, mut skipped) = (None, None);
        match opened {
            Ok(Opened::Image(opened)) => {
                let platform = match &image.member.platform {
                    Some(platform) => Some(platform.clone()),
                    // As in `find`: the image's warnings say why its config cannot be read.
                    None => images.platform(repository, &opened.config).unwrap_or_default(),
                };
                let name = image.to_string();
                named = Some(Arc::new(Named { image: image.clone(), platform, name }));
            }
            Ok(Opened::Layer(_) | Opened::Artifact(_)) => {}
            Err(image::Error::Storage(error)) if error.is_unknown() => {}
            Err(error) => skipped = Some(Skipped::new(image, error)),
        }
        // Another thread may have been faster.
        if slot.named.set(named).is_ok()
            && let Some(skipped) = skipped
        {
            self.send(Event::Skipped(skipped))?;
        }
        Ok(slot.named.get().cloned().flatten())
    }

    /// The names that an image gives to a file of a layer.
    fn names(&self, image: &Image, unit: &Unit, file: &File) -> Result<Vec<Arc<[u8]>>, Stop> {
        self.tick(0)?;
        let wanted = &self.shared.asked.path;
        let mut names: Vec<Arc<[u8]>> = Vec::new();
        let mut take = |name: &[u8]| {
            if wanted.as_ref().is_none_or(|glob| glob.is_match(&[b"/", name].concat())) {
                names.push(name.into());
            }
        };
        for (place, layer) in image.layers.iter().enumerate() {
            if layer.digest == unit.indexed.digest {
                let known = image.names_of(place, file.inode, file.links, &file.path, &mut take);
                if let Err(error) = known {
                    self.send(Event::Skipped(Skipped::new(image, error)))?;
                    break;
                }
            }
        }
        Ok(names)
    }

    /// Tells of a file under one name in each image with these layers.
    fn tell_name(
        &self,
        telling: &mut Telling,
        stack: usize,
        path: &Arc<[u8]>,
    ) -> Result<bool, Stop> {
        let mut is_shown = false;
        for &number in &self.shared.table().stacks[stack].images {
            let Some(image) = self.named(number)? else { continue };
            is_shown = true;
            self.tick(0)?;
            // Once, however many images have it.
            let failure = telling.failure.take();
            let at = || image::At::new(&image.name, path);
            let error = match failure {
                None => None,
                Some(Failure::Line) => {
                    Some(image::Error::LongLine { at: at(), max: self.shared.asked.line_max })
                }
                Some(Failure::Read(cause)) => {
                    if matches!(cause, index::Error::Missing(_)) {
                        let layer = &self.shared.table().layers[telling.at.0];
                        layer.is_gone.store(true, Relaxed);
                    }
                    Some(image::Error::Read { at: at(), cause })
                }
            };
            if telling.is_found {
                let (path, lines) = (Arc::clone(path), Arc::clone(&telling.lines));
                let image = Arc::clone(&image);
                self.send(Event::Found(Found { image, path, lines, at: telling.at }))?;
            }
            if let Some(error) = error {
                self.send(Event::Skipped(Skipped::new(&image.name, error)))?;
            }
        }
        Ok(is_shown)
    }
}

/// What is told of a file in every image that shows it.
struct Telling {
    at: At,
    file: File,
    lines: Arc<Lines>,
    /// Not only that it cannot be searched.
    is_found: bool,
    failure: Option<Failure>,
}

impl Telling {
    fn new(unit: &Unit, Matched { file, lines, failure }: Matched) -> Telling {
        let is_found = failure.is_none() || lines.count > 0;
        Telling { at: (unit.layer, file.inode), file, lines: Arc::new(lines), is_found, failure }
    }
}

/// Why the content of a file could not be read.
enum Unread {
    Failed(index::Error),
    Stop(Stop),
}

/// The content of a file, holes as zeros.
struct Content<'a> {
    worker: &'a Worker<'a>,
    layer: &'a Arc<IndexedLayer>,
    file: &'a File,
    /// Of a sparse file.
    entry: Option<Entry>,
    offset: u64,
    failure: Option<Unread>,
}

impl io::Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let failed = || io::Error::other("the content cannot be read");
        let left = self.file.size - self.offset;
        let length = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        if let Err(stop) = self.worker.tick(length as u64) {
            self.failure = Some(Unread::Stop(stop));
            return Err(failed());
        }
        let (buffer, layers) = (&mut buffer[..length], self.worker.shared.images.layers());
        let result = match &self.entry {
            None => layers.read(self.layer, self.file.offset + self.offset, buffer),
            Some(entry) => {
                buffer.fill(0);
                pieces(entry, self.offset, length).try_for_each(|piece| {
                    layers.read(self.layer, piece.from, &mut buffer[piece.to])
                })
            }
        };
        if let Err(error) = result {
            self.failure = Some(Unread::Failed(error));
            return Err(failed());
        }
        self.offset += length as u64;
        Ok(length)
    }
}

/// What the searcher finds in a file.
struct Gathered<'a> {
    worker: &'a Worker<'a>,
    unit: &'a Unit,
    file: &'a File,
    /// In the files before it.
    found: &'a mut Vec<Matched>,
    /// That was not told yet.
    lines: Lines,
    /// The next line does not follow the last one.
    gap: bool,
    count: u64,
    binary: Option<u64>,
    /// No image shows the file.
    is_hidden: bool,
    stop: Option<Stop>,
}

impl Gathered<'_> {
    /// Tells what was found so far, if it is much. `false`: nothing else of the file is needed.
    fn part(&mut self) -> io::Result<bool> {
        if self.lines.bytes() < GATHERED {
            return Ok(true);
        }
        let mut lines = std::mem::take(&mut self.lines);
        lines.count = self.count;
        let told = match self.worker.tell(self.unit, self.found) {
            Ok(_) => {
                self.found.push(Matched { file: self.file.clone(), lines, failure: None });
                self.worker.tell(self.unit, self.found)
            }
            Err(stop) => Err(stop),
        };
        match told {
            Ok(is_shown) => {
                self.is_hidden = !is_shown;
                Ok(is_shown)
            }
            Err(stop) => {
                self.stop = Some(stop);
                Err(io::Error::other("the search is over"))
            }
        }
    }
}

/// Calls `take` with where each match in a line is, until it returns `false`.
fn each_match(
    worker: &Worker<'_>,
    line: &[u8],
    mut take: impl FnMut(usize, usize) -> bool,
) -> io::Result<()> {
    let text = line.strip_suffix(b"\n").unwrap_or(line);
    let found = worker.shared.matcher.find_iter(text, |found| {
        // An empty match behind all text of the file is none.
        found.is_empty() && found.start() >= line.len() || take(found.start(), found.end())
    });
    found.map_err(io::Error::other)
}

impl Sink for &mut Gathered<'_> {
    type Error = io::Error;

    fn matched(&mut self, _: &Searcher, found: &SinkMatch<'_>) -> io::Result<bool> {
        let (worker, bytes) = (self.worker, found.bytes());
        let (number, offset) = (found.line_number(), found.absolute_byte_offset());
        let asked = &worker.shared.asked;
        let mut gap = std::mem::take(&mut self.gap);
        self.count += 1;
        match asked.report {
            Report::Files | Report::FilesWithout => return Ok(false),
            Report::Count => return Ok(true),
            Report::CountMatches => {
                let mut matches = 0_u64;
                each_match(worker, bytes, |_, _| {
                    matches += 1;
                    true
                })?;
                self.count += matches.saturating_sub(1);
                return Ok(true);
            }
            Report::Matches => {
                let (mut is_whole, mut goes_on) = (true, Ok(true));
                each_match(worker, bytes, |start, end| {
                    is_whole = false;
                    let offset = offset + start as u64;
                    let (at, gap) = ((number, offset), std::mem::take(&mut gap));
                    self.lines.push(LineKind::Match, at, gap, &bytes[start..end]);
                    goes_on = self.part();
                    matches!(goes_on, Ok(true))
                })?;
                if !is_whole {
                    return goes_on;
                }
                self.lines.push(LineKind::Match, (number, offset), gap, bytes);
            }
            Report::Lines => {
                self.lines.push(LineKind::Match, (number, offset), gap, bytes);
                if asked.submatches {
                    let mut left = SUBMATCHES_MAX;
                    each_match(worker, bytes, |start, end| {
                        self.lines.push_submatch(start, end);
                        left -= 1;
                        left > 0
                    })?;
                }
            }
        }
        self.part()
    }

    fn context(&mut self, _: &Searcher, context: &SinkContext<'_>) -> io::Result<bool> {
        let at = (context.line_number(), context.absolute_byte_offset());
        let gap = std::mem::take(&mut self.gap);
        self.lines.push(LineKind::Context, at, gap, context.bytes());
        self.part()
    }

    fn context_break(&mut self, _: &Searcher) -> io::Result<bool> {
        self.gap = true;
        Ok(true)
    }

    fn finish(&mut self, _: &Searcher, finish: &SinkFinish) -> io::Result<()> {
        self.binary = finish.binary_byte_offset();
        Ok(())
    }
}
