//! `registry grep`

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use clap::Args;
use indicatif::ProgressBar;

use super::output::{Stdout, complain, progress_bar};
use super::question::{self, Answer, RemoteLines, Step, complain_of_waiting};
use super::scope::{Given, ScopeArgs, everything, value};
use super::server::connect;
use crate::image::Id;
use crate::query::grep::{Asked, Case, Grep, Line, LineKind, Lines, Pace, Report};
use crate::query::{Answer as _, Glob};
use crate::remote::Query;

/// The flags of `registry grep`.
#[derive(Args, Clone, Debug)]
pub struct GrepArgs {
    /// A regular expression, in the syntax of Rust's regex crate
    #[arg(required_unless_present = "regexp")]
    pattern: Option<String>,

    /// Only these images; with -e, the first argument is an image, too
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,

    /// A pattern; may be repeated, and lines match that match any
    #[arg(short = 'e', long, value_name = "PATTERN", allow_hyphen_values = true)]
    regexp: Vec<String>,

    /// Patterns are no regular expressions but texts
    #[arg(short = 'F', long)]
    fixed_strings: bool,

    /// Case does not matter
    #[arg(short, long, overrides_with = "smart_case")]
    ignore_case: bool,

    /// Case matters only if a pattern has a capital letter
    #[arg(short = 'S', long, overrides_with = "ignore_case")]
    smart_case: bool,

    /// Only matches between word boundaries
    #[arg(short, long)]
    word_regexp: bool,

    /// Lines that do not match
    #[arg(short = 'v', long)]
    invert_match: bool,

    /// Print line numbers
    #[arg(short = 'n', long)]
    line_number: bool,

    /// Print only the parts of lines that match, each on a line
    #[arg(short = 'o', long, conflicts_with = "json")]
    only_matching: bool,

    /// Print the number of lines that match in each file that has some; with -o, of matches
    #[arg(short, long)]
    count: bool,

    /// Print the paths of files that have a match
    #[arg(short = 'l', long, conflicts_with = "count")]
    files_with_matches: bool,

    /// Print the paths of files that have no match
    #[arg(short = 'L', long, conflicts_with_all = ["count", "files_with_matches"])]
    files_without_match: bool,

    /// Print so many lines after each that matches
    #[arg(short = 'A', long, value_name = "N")]
    after_context: Option<usize>,

    /// Print so many lines before each that matches
    #[arg(short = 'B', long, value_name = "N")]
    before_context: Option<usize>,

    /// Print so many lines before and after each that matches
    #[arg(short = 'C', long, value_name = "N")]
    context: Option<usize>,

    /// No more than so many lines that match of each file
    #[arg(short, long, value_name = "N")]
    max_count: Option<u64>,

    /// No files of more bytes, with K, M or G for powers of 1024
    #[arg(long, value_name = "N", value_parser = size)]
    max_filesize: Option<u64>,

    /// Search files with NUL bytes to their end
    #[arg(short = 'a', long)]
    text: bool,

    /// Only files whose whole path matches this glob, such as '/etc/**'
    #[arg(long, value_name = "GLOB")]
    path: Option<Given<Glob>>,

    /// Read every file, also where the index tells that nothing can match in it
    #[arg(long)]
    no_index_skip: bool,

    /// Print a JSON object for each line
    #[arg(long)]
    json: bool,

    /// Print a NUL byte after each path, in place of what separates it from the rest
    #[arg(short = '0', long, conflicts_with = "json")]
    null: bool,

    #[command(flatten)]
    scope: ScopeArgs,
}

fn size(text: &str) -> Result<u64> {
    let end = text.bytes().take_while(u8::is_ascii_digit).count();
    let unit = match &text[end..] {
        "" => Some(1),
        "k" | "K" => Some(1 << 10),
        "m" | "M" => Some(1 << 20),
        "g" | "G" => Some(1 << 30),
        _ => None,
    };
    let number: Option<u64> = text[..end].parse().ok();
    let size = number.zip(unit).and_then(|(number, unit): (u64, u64)| number.checked_mul(unit));
    size.ok_or_else(|| anyhow!("want a number of bytes, as in 100, 64K or 10M"))
}

impl GrepArgs {
    fn asked(&self) -> Asked {
        let context = self.context.unwrap_or(0);
        let mut asked = Asked {
            patterns: self.regexp.clone(),
            fixed: self.fixed_strings,
            case: match (self.ignore_case, self.smart_case) {
                (true, _) => Case::Insensitive,
                (false, true) => Case::Smart,
                (false, false) => Case::Sensitive,
            },
            word: self.word_regexp,
            invert: self.invert_match,
            report: match () {
                () if self.files_with_matches => Report::Files,
                () if self.files_without_match => Report::FilesWithout,
                () if self.count && self.only_matching => Report::CountMatches,
                () if self.count => Report::Count,
                () if self.only_matching => Report::Matches,
                () => Report::Lines,
            },
            line_numbers: self.line_number || self.json,
            submatches: self.json,
            before: self.before_context.unwrap_or(context),
            after: self.after_context.unwrap_or(context),
            max_lines: self.max_count,
            max_filesize: self.max_filesize,
            text: self.text,
            path: value(&self.path),
            index_skip: !self.no_index_skip,
            ..Asked::default()
        };
        if asked.patterns.is_empty() {
            asked.patterns.extend(self.pattern.clone());
        }
        asked
    }

    /// The images that are named.
    fn images(&self) -> Result<Vec<Id>> {
        let first = self.pattern.as_ref().filter(|_| !self.regexp.is_empty());
        let images = first.into_iter().chain(&self.images);
        images
            .map(|image| image.parse().with_context(|| format!("{image:?} is not an image")))
            .collect()
    }

    /// What is asked, as parameters for a server.
    fn query(&self, asked: &Asked, images: &[Id]) -> Query {
        let mut query = self.scope.query();
        for pattern in &asked.patterns {
            query.add("pattern", pattern);
        }
        query.flag("fixed", asked.fixed);
        query.flag("ignore_case", asked.case == Case::Insensitive);
        query.flag("smart_case", asked.case == Case::Smart);
        query.flag("word", asked.word);
        query.flag("invert", asked.invert);
        query.add("report", asked.report);
        query.add("before_context", asked.before);
        query.add("after_context", asked.after);
        query.option("max_count", asked.max_lines);
        query.option("max_filesize", asked.max_filesize);
        query.flag("text", asked.text);
        query.add("submatches", u8::from(asked.submatches));
        query.option("path", self.path.as_ref());
        query.option("index_skip", (!asked.index_skip).then_some(0));
        for image in images {
            query.add("image", image);
        }
        query
    }
}

pub fn run(args: &GrepArgs) -> Result<ExitCode> {
    let asked = args.asked();
    let report = asked.report;
    let question = asked.clone().compile()?;
    let ids = args.images()?;
    let bar = progress_bar(None);
    if !bar.is_hidden() && !args.no_index_skip && !question.is_narrow() {
        complain("the index cannot tell which files may match, so that all of them are read");
    }
    let mut answer: Box<dyn Answer<Hit = Shown>> = match &args.scope.source.server {
        Some(url) => {
            let server = connect(url, &ids)?;
            let lines = RemoteLines::ask(&server, "grep", args.query(&asked, &ids))?;
            Box::new(Remote { lines, json: args.json })
        }
        None => {
            let mut scope = args.scope.scope();
            scope.images = ids;
            let images = args.scope.open()?;
            scope.check(&images, &everything())?;
            let grep = Grep::new(&images, &scope, &everything(), question, None, Pace::AllCores)?;
            Box::new(Local { grep, report, json: args.json })
        }
    };
    let mut printer = Printer { args, report, stdout: Stdout::new(), is_first: true };
    let result = print(&mut *answer, &mut printer, &bar);
    bar.finish_and_clear();
    printer.stdout.end(result)
}

/// What is printed of a file, or of a part of it.
#[derive(Default)]
struct Shown {
    /// Where it is in the mount.
    place: Vec<u8>,
    lines: Arc<Lines>,
    /// Only if it is wanted.
    json: Vec<u8>,
}

struct Local {
    grep: Grep,
    report: Report,
    json: bool,
}

impl Answer for Local {
    type Hit = Shown;

    fn step(&mut self) -> Result<Step<Shown>> {
        let (report, is_json) = (self.report, self.json);
        Ok(question::step(self.grep.next_file()?, |found| {
            if is_json {
                let mut json = Vec::new();
                found.write_json(report, &mut json);
                return Shown { json, ..Shown::default() };
            }
            Shown { place: found.place(), lines: found.lines, json: Vec::new() }
        }))
    }

    fn waiting(&self) -> (u64, u64) {
        let looked = self.grep.looked();
        (looked.waiting_images, looked.waiting_layers)
    }

    fn progress(&self) -> Option<(u64, u64)> {
        Some(self.grep.progress())
    }
}

struct Remote {
    lines: RemoteLines,
    json: bool,
}

impl Answer for Remote {
    type Hit = Shown;

    fn step(&mut self) -> Result<Step<Shown>> {
        Ok(match self.lines.step()? {
            Step::Hit(json) if self.json => Step::Hit(Shown { json, ..Shown::default() }),
            Step::Hit(json) => {
                let (place, lines) =
                    Lines::parse(&json).map_err(|cause| self.lines.unreadable(cause))?;
                Step::Hit(Shown { place, lines: Arc::new(lines), json: Vec::new() })
            }
            Step::Skipped(message) => Step::Skipped(message),
            Step::Working => Step::Working,
            Step::End => Step::End,
        })
    }

    fn waiting(&self) -> (u64, u64) {
        self.lines.waiting()
    }

    fn progress(&self) -> Option<(u64, u64)> {
        self.lines.progress()
    }
}

fn print(
    answer: &mut dyn Answer<Hit = Shown>,
    printer: &mut Printer<'_>,
    bar: &ProgressBar,
) -> Result<ExitCode> {
    let (mut is_found, mut has_failed) = (false, false);
    loop {
        let step = answer.step()?;
        if !bar.is_hidden()
            && let Some((done, total)) = answer.progress()
        {
            bar.set_length(total);
            bar.set_position(done);
        }
        match step {
            Step::Hit(found) => {
                is_found = true;
                let has_bar = !bar.is_hidden();
                bar.suspend(|| {
                    printer.print(&found)?;
                    // Otherwise the bar would be drawn in the middle of a line.
                    if has_bar { printer.stdout.flush() } else { Ok(()) }
                })?;
            }
            Step::Skipped(message) => {
                has_failed = true;
                // What was found so far comes before the message on a terminal.
                printer.stdout.flush()?;
                bar.suspend(|| complain(message));
            }
            Step::Working => {
                // A reader that waits sees what was found, and one that has left ends the work.
                printer.stdout.flush()?;
            }
            Step::End => break,
        }
    }
    bar.suspend(|| complain_of_waiting(answer.waiting()));
    Ok(match (has_failed, is_found) {
        (true, _) => ExitCode::from(2),
        (false, false) => ExitCode::FAILURE,
        (false, true) => ExitCode::SUCCESS,
    })
}

struct Printer<'a> {
    args: &'a GrepArgs,
    report: Report,
    stdout: Stdout,
    is_first: bool,
}

impl Printer<'_> {
    fn print(&mut self, found: &Shown) -> io::Result<()> {
        if self.args.json {
            return self.stdout.write_text(&found.json);
        }
        let (place, lines) = (self.stdout.name(&found.place).into_owned(), &found.lines);
        match self.report {
            Report::Files | Report::FilesWithout => {
                self.stdout.write_all(&place)?;
                return self.stdout.write_all(if self.args.null { b"\0" } else { b"\n" });
            }
            Report::Count | Report::CountMatches => {
                self.begin(&place, b":")?;
                return writeln!(self.stdout, "{}", lines.count);
            }
            Report::Lines | Report::Matches => {}
        }
        for line in &lines.lines {
            self.line(&place, line, lines.text(line))?;
        }
        if let Some(offset) = lines.binary {
            self.stdout.write_all(&place)?;
            writeln!(
                self.stdout,
                ": WARNING: stopped searching binary file after match (found \"\\0\" byte around offset {offset})"
            )?;
        }
        Ok(())
    }

    fn begin(&mut self, place: &[u8], separator: &[u8]) -> io::Result<()> {
        self.stdout.write_all(place)?;
        self.stdout.write_all(if self.args.null { b"\0" } else { separator })
    }

    fn line(&mut self, place: &[u8], line: &Line, text: &[u8]) -> io::Result<()> {
        let separator: &[u8] = match line.kind {
            LineKind::Match => b":",
            LineKind::Context => b"-",
        };
        if line.gap && !self.is_first {
            self.stdout.write_all(b"--\n")?;
        }
        self.is_first = false;
        self.begin(place, separator)?;
        if let Some(number) = line.number.filter(|_| self.args.line_number) {
            write!(self.stdout, "{number}")?;
            self.stdout.write_all(separator)?;
        }
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        let mut rest = text;
        // A tab controls nothing.
        while self.stdout.is_terminal()
            && let Some(tab) = rest.iter().position(|&byte| byte == b'\t')
        {
            let part = self.stdout.name(&rest[..tab]).into_owned();
            self.stdout.write_all(&part)?;
            self.stdout.write_all(b"\t")?;
            rest = &rest[tab + 1..];
        }
        let rest = self.stdout.name(rest).into_owned();
        self.stdout.write_all(&rest)?;
        self.stdout.write_all(b"\n")
    }
}
