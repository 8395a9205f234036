//! Lines that match a pattern, in the files of all images.
//!
//! Every layer is read once, whatever number of images have it, and its files in the order in which
//! they lie in it. Only where something matches, the merged view of each image that has the layer
//! says whether, and under which names, the image shows the file. So results come by layer, then by
//! the place in the layer, then by image.
//!
//! The work is done by threads: each takes the next unit of files ([`plan`]) and searches it
//! ([`search`]). Results are taken from them in the order of the units. For an [`Answer`] there is
//! one thread, which does a bounded piece of work whenever it is asked for the next step.

mod needs;
mod plan;
mod search;

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::panic::resume_unwind;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use grep_regex::{RegexMatcher, RegexMatcherBuilder};
use serde::de::Error as _;
use serde::{Deserialize, Serialize};

use super::{Answer, Glob, Images, InScope, Looked, Permitted, Scope, Skipped, Step};
use crate::image::listing::{decoded, encoded};
use crate::image::{self, Platform};
use crate::index::Needs;
use crate::oci::{Digest, Tag};
use plan::{Plan, Table};

/// Bytes that a compiled pattern may take, and the automaton that is built from it on the way.
const PATTERN_SIZE: usize = 10 << 20;
const AUTOMATON_SIZE: usize = 8 << 20;
/// Results of a unit that wait to be taken.
const WAITING: usize = 16;

#[derive(Debug, thiserror::Error)]
#[error("the pattern cannot be used: {0}")]
pub struct PatternError(#[from] grep_regex::Error);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Case {
    #[default]
    Sensitive,
    Insensitive,
    /// Sensitive if a pattern has a capital letter.
    Smart,
}

/// What is told of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Report {
    #[default]
    Lines,
    /// The parts of lines that match.
    Matches,
    /// How many lines match.
    Count,
    /// How many matches there are.
    CountMatches,
    /// That it has a match.
    Files,
    /// That it has none.
    FilesWithout,
}

impl Report {
    const NAMES: [(&'static str, Report); 6] = [
        ("lines", Report::Lines),
        ("matches", Report::Matches),
        ("count", Report::Count),
        ("count_matches", Report::CountMatches),
        ("files", Report::Files),
        ("files_without", Report::FilesWithout),
    ];
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = Report::NAMES.iter().find(|(_, report)| report == self);
        f.write_str(named.map_or("", |(name, _)| name))
    }
}

impl FromStr for Report {
    type Err = String;

    fn from_str(text: &str) -> Result<Report, String> {
        let named = Report::NAMES.iter().find(|(name, _)| *name == text);
        let names = || Report::NAMES.map(|(name, _)| name).join(", ");
        named.map(|(_, report)| *report).ok_or_else(|| format!("want one of {}", names()))
    }
}

/// What is looked for, and what is told of it.
#[derive(Clone, Debug)]
pub struct Asked {
    /// One of these is to match.
    pub patterns: Vec<String>,
    /// The patterns are no expressions but texts.
    pub fixed: bool,
    pub case: Case,
    /// Matches stand between word boundaries.
    pub word: bool,
    /// Lines without a match are meant.
    pub invert: bool,
    pub report: Report,
    pub line_numbers: bool,
    /// Where in its line each match is, up to [`SUBMATCHES_MAX`] for a line.
    pub submatches: bool,
    /// Lines of context.
    pub before: usize,
    pub after: usize,
    /// Of each file.
    pub max_lines: Option<u64>,
    /// Larger files are not looked at.
    pub max_filesize: Option<u64>,
    /// Files with NUL bytes are searched as text.
    pub text: bool,
    /// Only paths in images that match, from a slash on.
    pub path: Option<Glob>,
    /// Files are passed over that cannot have a match, as far as the index tells. The answer is the
    /// same, but what is passed over cannot be found damaged.
    pub index_skip: bool,
    /// Bytes of the longest line that can be searched, context included.
    pub line_max: usize,
}

/// Submatches that are told of a line.
pub const SUBMATCHES_MAX: usize = 1000;

impl Default for Asked {
    fn default() -> Asked {
        Asked {
            patterns: Vec::new(),
            fixed: false,
            case: Case::default(),
            word: false,
            invert: false,
            report: Report::default(),
            line_numbers: false,
            submatches: false,
            before: 0,
            after: 0,
            max_lines: None,
            max_filesize: None,
            text: false,
            path: None,
            index_skip: true,
            line_max: 64 << 20,
        }
    }
}

impl Asked {
    /// Checks the patterns.
    pub fn compile(self) -> Result<Compiled, PatternError> {
        let mut builder = RegexMatcherBuilder::new();
        builder
            .multi_line(true)
            .fixed_strings(self.fixed)
            .case_insensitive(self.case == Case::Insensitive)
            .case_smart(self.case == Case::Smart)
            .word(self.word)
            .line_terminator(Some(b'\n'))
            .ban_byte((!self.text).then_some(b'\0'))
            .size_limit(PATTERN_SIZE)
            .dfa_size_limit(AUTOMATON_SIZE);
        let matcher = builder.build_many(&self.patterns)?;
        Ok(Compiled { matcher, needs: needs::needs(&self), asked: self })
    }
}

/// A question whose patterns are valid.
#[derive(Clone, Debug)]
pub struct Compiled {
    asked: Asked,
    matcher: RegexMatcher,
    /// What files have to have; `None`: all are searched.
    needs: Option<Needs>,
}

impl Compiled {
    /// Whether files can be passed over that cannot have a match.
    pub fn is_narrow(&self) -> bool {
        self.needs.is_some()
    }
}

/// An image in which something was found.
#[derive(Debug)]
pub struct Named {
    pub image: InScope,
    /// The platform that it is for, if that is known.
    pub platform: Option<Platform>,
    /// As the mount names it.
    pub name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineKind {
    Match,
    Context,
}

#[derive(Clone, Debug)]
pub struct Line {
    pub kind: LineKind,
    pub number: Option<u64>,
    /// Where it begins in the file.
    pub offset: u64,
    /// With lines of context: the line before it is not told, or it is the first of its file that is.
    pub gap: bool,
    text: (usize, usize),
    submatches: (usize, usize),
}

/// What was found in a file, or the next part of it.
#[derive(Debug, Default)]
pub struct Lines {
    pub lines: Vec<Line>,
    texts: Vec<u8>,
    submatches: Vec<(usize, usize)>,
    /// Lines that match, or matches. With [`Report::Count`] and the like that is all.
    pub count: u64,
    /// The search has ended there, because of a NUL byte behind matches.
    pub binary: Option<u64>,
}

impl Lines {
    /// With its end, unless the file has none there.
    pub fn text(&self, line: &Line) -> &[u8] {
        &self.texts[line.text.0..line.text.1]
    }

    /// Where in its text the matches are.
    pub fn submatches(&self, line: &Line) -> &[(usize, usize)] {
        &self.submatches[line.submatches.0..line.submatches.1]
    }

    fn push(
        &mut self,
        kind: LineKind,
        (number, offset): (Option<u64>, u64),
        gap: bool,
        text: &[u8],
    ) {
        let start = self.texts.len();
        self.texts.extend_from_slice(text);
        let submatches = (self.submatches.len(), self.submatches.len());
        let text = (start, self.texts.len());
        self.lines.push(Line { kind, number, offset, gap, text, submatches });
    }

    /// Parses an object that [`Found::write_json`] has written: returns the place of the file in the
    /// mount, and what was found there. Where in a line the matches are is left out.
    pub fn parse(json: &[u8]) -> serde_json::Result<(Vec<u8>, Lines)> {
        #[derive(Deserialize)]
        struct Json {
            image: String,
            path: String,
            path_bytes: Option<String>,
            #[serde(default)]
            count: u64,
            binary_offset: Option<u64>,
            line_number: Option<u64>,
            #[serde(default)]
            absolute_offset: u64,
            line: Option<String>,
            line_bytes: Option<String>,
            #[serde(default)]
            context: bool,
            #[serde(default)]
            gap: bool,
        }
        let json: Json = serde_json::from_slice(json)?;
        let line = match (json.line, json.line_bytes) {
            (Some(line), _) => Some(line.into_bytes()),
            (None, Some(bytes)) => Some(STANDARD.decode(bytes).map_err(serde_json::Error::custom)?),
            (None, None) => None,
        };
        let mut lines = Lines { count: json.count, binary: json.binary_offset, ..Lines::default() };
        if let Some(line) = line {
            let kind = if json.context { LineKind::Context } else { LineKind::Match };
            lines.push(kind, (json.line_number, json.absolute_offset), json.gap, &line);
        }
        let path = decoded(json.path, json.path_bytes);
        Ok(([json.image.as_bytes(), &path].concat(), lines))
    }

    fn push_submatch(&mut self, start: usize, end: usize) {
        if let Some(line) = self.lines.last_mut() {
            self.submatches.push((start, end));
            line.submatches.1 += 1;
        }
    }

    /// About what it takes in memory.
    fn bytes(&self) -> usize {
        self.texts.len()
            + self.lines.len() * size_of::<Line>()
            + size_of_val(self.submatches.as_slice())
    }
}

/// A file in an image, and what was found in it.
#[derive(Clone, Debug)]
pub struct Found {
    pub image: Arc<Named>,
    /// Without a slash at the beginning.
    pub path: Arc<[u8]>,
    pub lines: Arc<Lines>,
    at: At,
}

/// A place in the order of the search: a layer in [`Table::layers`], and an inode of it.
type At = (usize, u64);

/// What is found, as JSON; `docs/http-api.md` says what the fields mean.
#[derive(Serialize)]
struct FoundJson<'a> {
    image: &'a str,
    repository: &'a str,
    tag: Option<&'a str>,
    manifest: String,
    platform: Option<String>,
    path: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_bytes: Option<String>,
    #[serde(flatten)]
    what: What<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum What<'a> {
    File {},
    Count {
        count: u64,
    },
    Binary {
        binary_offset: u64,
    },
    Line {
        line_number: Option<u64>,
        absolute_offset: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        line: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        line_bytes: Option<String>,
        #[serde(skip_serializing_if = "is_false")]
        context: bool,
        #[serde(skip_serializing_if = "is_false")]
        gap: bool,
        submatches: Vec<Submatch>,
    },
}

#[derive(Serialize)]
struct Submatch {
    start: usize,
    end: usize,
}

fn is_false(value: &bool) -> bool {
    !value
}

impl Found {
    /// Where the file is in the mount.
    pub fn place(&self) -> Vec<u8> {
        [self.image.name.as_bytes(), b"/", &self.path].concat()
    }

    /// JSON objects that it makes.
    fn objects(&self) -> usize {
        (self.lines.lines.len() + usize::from(self.lines.binary.is_some())).max(1)
    }

    /// Appends a JSON object and the end of its line for everything that was found.
    pub fn write_json(&self, report: Report, buffer: &mut Vec<u8>) {
        (0..self.objects()).for_each(|number| self.write_object(report, number, buffer));
    }

    fn write_object(&self, report: Report, number: usize, buffer: &mut Vec<u8>) {
        let Found { image, lines, .. } = self;
        let what = match (report, lines.lines.get(number), lines.binary) {
            (_, Some(line), _) => {
                let bytes = lines.text(line);
                let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
                let text = std::str::from_utf8(bytes).ok();
                let (start, end) = line.submatches;
                let submatch = |&(start, end): &(usize, usize)| Submatch { start, end };
                What::Line {
                    line_number: line.number,
                    absolute_offset: line.offset,
                    line: text,
                    line_bytes: text.is_none().then(|| STANDARD.encode(bytes)),
                    context: line.kind == LineKind::Context,
                    gap: line.gap,
                    submatches: lines.submatches[start..end].iter().map(submatch).collect(),
                }
            }
            (_, None, Some(binary_offset)) => What::Binary { binary_offset },
            (Report::Count | Report::CountMatches, ..) => What::Count { count: lines.count },
            _ => What::File {},
        };
        let path = [b"/", &*self.path].concat();
        let json = FoundJson {
            image: &image.name,
            repository: image.image.repository.as_str(),
            tag: image.image.tag.as_ref().map(Tag::as_str),
            manifest: image.image.member.manifest.to_string(),
            platform: image.platform.as_ref().map(ToString::to_string),
            path: String::from_utf8_lossy(&path),
            path_bytes: encoded(&path),
            what,
        };
        super::write_line(buffer, &json);
    }
}

/// Where an answer goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct After {
    layer: Digest,
    /// The inode of the file.
    file: u64,
    /// Objects of the file that were told.
    told: u64,
}

impl After {
    /// Parses [`Answer::position`]. `None`: it is none.
    pub fn parse(text: &[u8]) -> Option<After> {
        let mut parts = std::str::from_utf8(text).ok()?.rsplitn(3, ':');
        let (told, file) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        Some(After { layer: parts.next()?.parse().ok()?, file, told })
    }
}

/// What the threads send.
enum Event {
    Found(Found),
    Skipped(Skipped),
    /// All files before this one are done. `None`: nothing is searched yet.
    Working(Option<At>),
    /// The question ends with this.
    Failed(image::Error),
    /// The unit is done.
    Done,
}

/// What the threads share.
struct Shared {
    images: Arc<image::Images>,
    asked: Asked,
    matcher: RegexMatcher,
    needs: Option<Needs>,
    plan: Mutex<Plan>,
    table: OnceLock<Table>,
    looked: Mutex<Looked>,
    /// Nobody waits for an answer any more.
    is_over: AtomicBool,
    /// Bytes of layers: to search, and done.
    total: AtomicU64,
    done: AtomicU64,
}

/// The answer to a question, on its way.
pub struct Grep {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// The results of one unit after the other.
    units: Option<Receiver<Receiver<Event>>>,
    unit: Option<Receiver<Event>>,
    /// Lets the only thread do its next piece of work. `None`: the threads do not wait.
    go: Option<SyncSender<()>>,
    is_waiting: bool,
    /// What is being told, and how many objects of it were.
    found: Option<(Found, usize)>,
    /// The file that was told of last and how many objects, or the first that is not done.
    position: Option<(At, u64)>,
    after: Option<After>,
}

impl fmt::Debug for Grep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grep").field("asked", &self.shared.asked).finish_non_exhaustive()
    }
}

/// How the work on an answer is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// In pieces, each when it is asked for.
    Steps,
    /// On all cores, without a rest.
    AllCores,
}

impl Grep {
    /// `after`: where an earlier answer to the same question ended.
    pub fn new(
        images: &Arc<image::Images>,
        scope: &Scope,
        permitted: &Permitted,
        question: Compiled,
        after: Option<After>,
        pace: Pace,
    ) -> image::Result<Grep> {
        let index = images.layers().index();
        if index.is_following() {
            index.catch_up()?;
        }
        let Compiled { asked, matcher, needs } = question;
        let scope = Images::new(images, scope, permitted, None, None)?;
        let shared = Arc::new(Shared {
            images: Arc::clone(images),
            asked,
            matcher,
            looked: Mutex::new(Looked { index_skip: Some(needs.is_some()), ..Looked::default() }),
            needs,
            plan: Mutex::new(Plan::new(scope, after)),
            table: OnceLock::new(),
            is_over: AtomicBool::new(false),
            total: AtomicU64::new(0),
            done: AtomicU64::new(0),
        });
        let number = match pace {
            Pace::Steps => 1,
            Pace::AllCores => thread::available_parallelism().map_or(1, usize::from),
        };
        let (sender, units) = sync_channel(2 * number);
        let mut grep = Grep {
            shared,
            threads: Vec::new(),
            units: Some(units),
            unit: None,
            go: None,
            is_waiting: false,
            found: None,
            position: None,
            after,
        };
        for _ in 0..number {
            let mut wait = None;
            if pace == Pace::Steps {
                let (go, waiting) = sync_channel(1);
                (grep.go, grep.is_waiting, wait) = (Some(go), true, Some(waiting));
            }
            let (shared, sender) = (Arc::clone(&grep.shared), sender.clone());
            let thread = thread::Builder::new().name("grep".to_owned());
            let thread = thread.spawn(move || search::run(&shared, &sender, wait));
            grep.threads.push(thread.map_err(no_thread)?);
        }
        Ok(grep)
    }

    /// The next file in which something was found.
    pub fn next_file(&mut self) -> image::Result<Step<Found>> {
        Ok(match self.event()? {
            None => Step::End,
            Some(Event::Found(found)) => Step::Hit(found),
            Some(Event::Skipped(skipped)) => Step::Skipped(skipped),
            Some(Event::Failed(error)) => return Err(error),
            Some(Event::Working(at)) => {
                if let Some(at) = at
                    && self.position.is_none_or(|(told, _)| told < at)
                {
                    self.position = Some((at, 0));
                }
                Step::Working
            }
            Some(Event::Done) => Step::Working,
        })
    }

    /// Bytes of layers that are searched, and those to search, as far as they are known.
    pub fn progress(&self) -> (u64, u64) {
        let load = |bytes: &AtomicU64| bytes.load(Ordering::Relaxed);
        (load(&self.shared.done), load(&self.shared.total))
    }

    fn event(&mut self) -> image::Result<Option<Event>> {
        let Some(units) = &self.units else { return Ok(None) };
        if self.is_waiting
            && let Some(go) = &self.go
        {
            // If the thread is gone, it is seen below.
            let _ = go.send(());
            self.is_waiting = false;
        }
        if self.unit.is_none() {
            self.unit = units.recv().ok();
        }
        let event = match &self.unit {
            None => {
                self.join();
                return Ok(None);
            }
            Some(unit) => unit.recv().ok(),
        };
        match &event {
            Some(Event::Working(_)) => self.is_waiting = true,
            Some(Event::Done) => self.unit = None,
            Some(Event::Failed(_)) => self.units = None,
            Some(Event::Found(_) | Event::Skipped(_)) => {}
            // It has panicked.
            None => self.join(),
        }
        Ok(event)
    }

    fn join(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        // So that none waits for its results to be taken.
        (self.units, self.unit, self.go) = (None, None, None);
        for thread in self.threads.drain(..) {
            if let Err(panic) = thread.join() {
                resume_unwind(panic);
            }
        }
    }
}

fn no_thread(cause: io::Error) -> image::Error {
    image::Error::Thread(cause)
}

impl Drop for Grep {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
    }
}

impl Grep {
    /// The next object, as the number of it in what was found in a file. `Working` stands for
    /// objects, too, that an earlier answer has told.
    pub fn next_object(&mut self) -> image::Result<Step<(Found, usize)>> {
        let (found, number) = match self.found.take() {
            Some(found) => found,
            None => match self.next_file()? {
                Step::Hit(found) => (found, 0),
                Step::Skipped(skipped) => return Ok(Step::Skipped(skipped)),
                Step::Working => return Ok(Step::Working),
                Step::End => return Ok(Step::End),
            },
        };
        let told = match self.position {
            Some((at, told)) if at == found.at => told + 1,
            _ => 1,
        };
        self.position = Some((found.at, told));
        let layer = &self.shared.table().layers[found.at.0].digest;
        let is_told = self.after.as_ref().is_some_and(|after| {
            (after.layer, after.file) == (*layer, found.at.1) && told <= after.told
        });
        if number + 1 < found.objects() {
            self.found = Some((found.clone(), number + 1));
        }
        Ok(if is_told { Step::Working } else { Step::Hit((found, number)) })
    }
}

impl Answer for Grep {
    fn step(&mut self, lines: &mut Vec<u8>) -> image::Result<Step<()>> {
        Ok(match self.next_object()? {
            Step::Hit((found, number)) => {
                found.write_object(self.shared.asked.report, number, lines);
                Step::Hit(())
            }
            Step::Skipped(skipped) => Step::Skipped(skipped),
            Step::Working => Step::Working,
            Step::End => Step::End,
        })
    }

    fn position(&self) -> Option<String> {
        let after = match self.position {
            Some(((layer, file), told)) => {
                let layer = self.shared.table().layers.get(layer)?.digest;
                After { layer, file, told }
            }
            None => self.after?,
        };
        Some(format!("{}:{}:{}", after.layer, after.file, after.told))
    }

    fn progress(&self) -> Option<(u64, u64)> {
        Some(self.progress())
    }

    fn looked(&self) -> Looked {
        *self.shared.looked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
