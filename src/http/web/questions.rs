//! The pages that ask all images: find, grep and diff. What is found is sent as it is found.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use hyper::Response;
use maud::{Markup, html};

use super::show::{
    Line, Shown, count, digits, image_name, image_url, mode, number, query_value, quoted, size,
};
use super::{Visit, dress, layout, page};
use crate::http::body::Body;
use crate::http::error::Result;
use crate::http::query::{self, Begin, End, Writing};
use crate::http::{App, RequestContext};
use crate::image::listing::type_name;
use crate::image::{Image, Kind, Node, Platform};
use crate::oci::Reference;
use crate::query::diff::{Aspect, Change, Diff};
use crate::query::find::{Find, Hit};
use crate::query::grep::{Found, Grep};
use crate::query::{Answer, InScope, Looked, Step};

/// Lines of an answer on one page.
const LINES: u64 = 500;
/// Bytes of text files that are compared line by line, each.
const PATCH_MAX: u64 = 512 << 10;
/// Bytes of a line that are shown.
const LINE_SHOWN: usize = 2000;

/// The parameters of a request, as forms show them again.
struct Fields(Vec<(String, String)>);

impl Fields {
    fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    fn is_on(&self, name: &str) -> bool {
        !self.get(name).is_empty()
    }

    /// As a query, without a question mark.
    fn query(&self) -> String {
        let pairs = self.0.iter().map(|(key, value)| format!("{key}={}", query_value(value)));
        pairs.collect::<Vec<_>>().join("&")
    }

    /// Words of a command line for those that a command has as flags.
    fn flags(&self, names: &[&str]) -> String {
        let given = self.0.iter().filter(|(key, _)| names.contains(&key.as_str()));
        given
            .map(|(key, value)| match value.as_str() {
                "1" if ["deleted", "untagged", "fixed", "ignore_case", "word"]
                    .contains(&&**key) =>
                {
                    format!(" --{}", key.replace('_', "-"))
                }
                value => format!(" --{key} {}", quoted(value)),
            })
            .collect()
    }
}

/// Takes the parameters of pages out of a request, and fields that were left empty.
fn fields(context: &mut RequestContext) -> Fields {
    context
        .query
        .retain(|(key, value)| !value.is_empty() && !["q", "as", "limit"].contains(&key.as_str()));
    Fields(context.query.clone())
}

/// Sends a page whose rows are made while it is sent.
pub async fn stream(
    app: &Arc<App>,
    context: &RequestContext,
    visit: &Visit,
    title: &str,
    intro: &Markup,
    begin: Begin<Box<dyn Answer>>,
    writing: impl Writing,
) -> Result<Response<Body>> {
    let (start, _) = layout::around(visit, title);
    let first = [start.as_str(), &intro.0].concat();
    let mut response =
        query::stream(app, context, begin, LINES, first.into_bytes(), writing).await?;
    dress(&mut response);
    Ok(response)
}

/// What ends a page of rows.
struct Rows {
    /// What was found, in words: `file`, `files`.
    words: [&'static str; 2],
    /// The address of the page, with a query.
    address: String,
    /// What comes after the table.
    summary: Option<Arc<Mutex<Counts>>>,
    /// The end of the page.
    rest: String,
}

impl Writing for Rows {
    fn skipped(&mut self, image: &str, error: &str, piece: &mut Vec<u8>) {
        let row = html! {
            tr { td colspan="9" { span.tag.mod { "left out" } " " (Shown(image.as_bytes())) ": " (Shown(error.as_bytes())) } }
        };
        piece.extend_from_slice(row.0.as_bytes());
    }

    fn progress(&mut self, _: (u64, u64), _: &mut Vec<u8>) {}

    fn end(&mut self, end: &End, piece: &mut Vec<u8>) {
        let [one, many] = self.words;
        let summary = self.summary.as_ref().map(|counts| {
            let counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
            counts.table()
        });
        let text = html! {
            p.pages role="status" {
                span {
                    @if end.lines == 0 && end.bound.is_none() { "Nothing was found." } @else { (count(end.lines, one, many)) }
                    " " small { "in " (count(end.images, "image", "images")) }
                }
                @if end.waiting_images > 0 {
                    span.dim { (count(end.waiting_images, "image was", "images were")) " left out, because " (count(end.waiting_layers, "layer has", "layers have")) " no index yet." }
                }
                @if let (Some(_), Some(next)) = (end.bound, &end.next) {
                    a rel="next" href={ (self.address) "&after=" (next) } { "Go on from here" }
                }
            }
            @if let Some(summary) = summary { (summary) }
        };
        piece.extend_from_slice(b"</tbody></table></div>");
        piece.extend_from_slice(text.0.as_bytes());
        piece.extend_from_slice(self.rest.as_bytes());
    }

    fn failed(&mut self, error: &str, piece: &mut Vec<u8>) -> bool {
        let text = html! { p.note.bad role="alert" { "The answer breaks off here: " (Shown(error.as_bytes())) } };
        piece.extend_from_slice(b"</tbody></table></div>");
        piece.extend_from_slice(text.0.as_bytes());
        piece.extend_from_slice(self.rest.as_bytes());
        true
    }
}

/// The beginning of a table whose rows follow.
fn open_table(class: &str, heads: &[(&str, &str)]) -> String {
    let heads = html! { @for (class, text) in heads { th class=(class) { (text) } } };
    format!(
        "<div class=\"table\"><table class=\"rows {class}\"><thead><tr>{}</tr></thead><tbody>",
        heads.0
    )
}

/// Where an image that was found is.
fn found_in(image: &InScope) -> (String, Reference, String) {
    let reference = match &image.tag {
        Some(tag) => Reference::Tag(tag.clone()),
        None => Reference::Digest(image.member.manifest),
    };
    let platform = image.member.platform.as_ref().map(Platform::to_string);
    let query = platform.map_or(String::new(), |p| format!("?platform={}", query_value(p)));
    (image_name(&image.repository, &reference), reference, query)
}

fn input(fields: &Fields, name: &str, label: &str, placeholder: &str, wide: bool) -> Markup {
    html! {
        label class=[wide.then_some("wide")] { (label) input name=(name) value=(fields.get(name)) placeholder=(placeholder) autocapitalize="none" spellcheck="false"; }
    }
}

fn check(fields: &Fields, name: &str, label: &str) -> Markup {
    html! { label.check { input type="checkbox" name=(name) value="1" checked[fields.is_on(name)]; (label) } }
}

/// Which images a question is about.
fn scope(fields: &Fields) -> Markup {
    html! {
        @for (_, image) in fields.0.iter().filter(|(key, _)| key == "image") {
            label { "Image" input name="image" value=(image); }
        }
        (input(fields, "in", "In repositories", "team/**", false))
        (input(fields, "tag", "With tags", "v1.*", false))
        (check(fields, "untagged", "Untagged images too"))
    }
}

/// `/ui/_find`
pub async fn find(app: &Arc<App>, context: &mut RequestContext) -> Result<Response<Body>> {
    const KINDS: [(&str, &str); 7] = [
        ("", "Anything"),
        ("f", "Files"),
        ("d", "Directories"),
        ("l", "Symbolic links"),
        ("c", "Character devices"),
        ("b", "Block devices"),
        ("p", "Fifos"),
    ];
    let visit = Visit::new(app, context);
    let fields = fields(context);
    let address = format!("/ui/_find?{}", fields.query());
    let form = html! {
        h1 { "Find files" }
        form.form action="/ui/_find" {
            (input(&fields, "name", "Name", "*.jar", true))
            (input(&fields, "path", "Path", "/etc/**", true))
            label { "Type" select name="type" {
                @for (kind, text) in KINDS { option value=(kind) selected[fields.get("type") == kind] { (text) } }
            } }
            (input(&fields, "size", "Size", "+10M", false))
            (input(&fields, "mode", "Mode", "-4000", false))
            (input(&fields, "newer", "Newer than", "2026-01-31", false))
            @if fields.is_on("sha256") { (input(&fields, "sha256", "Content (sha256)", "", true)) }
            (scope(&fields))
            (check(&fields, "deleted", "Deleted ones instead"))
            button.main { "Find" }
        }
    };
    let asked = [
        "name", "path", "type", "size", "mode", "newer", "sha256", "uid", "gid", "xattr",
        "deleted", "image",
    ];
    if !asked.iter().any(|name| fields.is_on(name)) {
        let main = html! { (form) p.dim { "Names and paths are globs: " code { "*" } " stands for any characters, in paths " code { "**" } " for any folders." } };
        return Ok(page(context, layout::page(&visit, "Find files", &main)));
    }
    let flags = fields.flags(&[
        "name", "path", "type", "size", "mode", "newer", "sha256", "uid", "gid", "xattr",
        "deleted", "in", "tag", "untagged",
    ]);
    let lines = [
        format!("registry find{flags}"),
        layout::curl(&visit, &format!("/v2/_query/find?{}", fields.query())),
    ];
    let begin = query::find(app, context)?;
    let begin: Begin<Box<dyn Answer>> =
        Box::new(move |turns| Ok(Box::new(FindRows(begin(turns)?))));
    let table = open_table(
        "",
        &[
            ("grow", "Path"),
            ("", "Image"),
            ("n", "Size"),
            ("optional", "Mode"),
            ("optional", "Layer"),
        ],
    );
    let intro = html! { (form) (maud::PreEscaped(table)) };
    let rows =
        Rows { words: ["file", "files"], address, summary: None, rest: rest(&visit, &lines) };
    stream(app, context, &visit, "Find files", &intro, begin, rows).await
}

/// The end of a page of rows.
fn rest(visit: &Visit, lines: &[String]) -> String {
    let (_, end) = layout::around(visit, "");
    [layout::commands(lines).0, end].concat()
}

struct FindRows(Find);

impl FindRows {
    fn row(hit: &Hit) -> Markup {
        let (name, reference, query) = found_in(&hit.image);
        let layer = digits(&hit.layer);
        let url = image_url(&hit.image.repository, &reference, &hit.path);
        let separator = if query.is_empty() { '?' } else { '&' };
        // What the image does not show is shown in its layer.
        let to = match hit.deleted {
            true => format!("{url}{query}{separator}layer={layer}"),
            false => format!("{url}{query}"),
        };
        html! {
            tr class=[hit.deleted.then_some("gone")] {
                td.name { a href=(to) { "/" (Shown(&hit.path)) } @if hit.entry.is_directory() { "/" } }
                td { a href={ (image_url(&hit.image.repository, &reference, b"")) (query) } { (name) }
                    @if let Some(platform) = &hit.platform { " " span.tag.optional { (Shown(platform.to_string().as_bytes())) } } }
                td.n { @if hit.entry.kind == Kind::Regular { (size(hit.entry.size)) } }
                td.mono.optional { (mode(&hit.entry)) }
                td.mono.optional { (layer) }
            }
        }
    }
}

impl Answer for FindRows {
    fn step(&mut self, lines: &mut Vec<u8>) -> crate::image::Result<Step<()>> {
        Ok(match self.0.step()? {
            Step::Hit(hit) => {
                lines.extend_from_slice(FindRows::row(&hit).0.as_bytes());
                Step::Hit(())
            }
            Step::Skipped(skipped) => Step::Skipped(skipped),
            Step::Working => Step::Working,
            Step::End => Step::End,
        })
    }

    fn may_pause(&self) -> bool {
        self.0.may_pause()
    }

    fn position(&self) -> Option<String> {
        self.0.position()
    }

    fn looked(&self) -> Looked {
        self.0.looked()
    }
}

/// `/ui/_grep`
pub async fn grep(app: &Arc<App>, context: &mut RequestContext) -> Result<Response<Body>> {
    let visit = Visit::new(app, context);
    let fields = fields(context);
    let address = format!("/ui/_grep?{}", fields.query());
    let form = html! {
        h1 { "Search text" }
        form.form action="/ui/_grep" {
            (input(&fields, "pattern", "Pattern", "PRIVATE KEY", true))
            (input(&fields, "path", "In paths", "/etc/**", true))
            (check(&fields, "fixed", "As plain text"))
            (check(&fields, "ignore_case", "Ignore case"))
            (check(&fields, "word", "Whole words"))
            (scope(&fields))
            button.main { "Search" }
        }
    };
    if !fields.is_on("pattern") {
        let main =
            html! { (form) p.dim { "Patterns are regular expressions, as ripgrep has them." } };
        return Ok(page(context, layout::page(&visit, "Search text", &main)));
    }
    let flags = fields.flags(&["fixed", "ignore_case", "word", "path", "in", "tag", "untagged"]);
    let flags = flags.replace(" --fixed", " --fixed-strings").replace(" --word", " --word-regexp");
    let lines = [
        format!("registry grep{flags} -e {}", quoted(fields.get("pattern"))),
        layout::curl(&visit, &format!("/v2/_query/grep?{}", fields.query())),
    ];
    let begin = query::grep(app, context)?;
    let begin: Begin<Box<dyn Answer>> =
        Box::new(move |turns| Ok(Box::new(GrepRows { grep: begin(turns)?, file: None })));
    let table = open_table("found", &[("n", "Line"), ("grow", "Text")]);
    let intro = html! { (form) (maud::PreEscaped(table)) };
    let rows =
        Rows { words: ["line", "lines"], address, summary: None, rest: rest(&visit, &lines) };
    stream(app, context, &visit, "Search text", &intro, begin, rows).await
}

struct GrepRows {
    grep: Grep,
    /// The file whose lines are being told.
    file: Option<Vec<u8>>,
}

impl GrepRows {
    fn row(&mut self, found: &Found, at: usize) -> Markup {
        let image = &found.image.image;
        let (name, reference, query) = found_in(image);
        let url = image_url(&image.repository, &reference, &found.path);
        let place = found.place();
        let is_new = self.file.as_ref() != Some(&place);
        self.file = Some(place);
        let separator = if query.is_empty() { '?' } else { '&' };
        let line = found.lines.lines.get(at);
        html! {
            @if is_new {
                tr { th colspan="2" {
                    a href={ (url) (query) } { "/" (Shown(&found.path)) } " in "
                    a href={ (image_url(&image.repository, &reference, b"")) (query) } { (name) }
                    @if let Some(platform) = &found.image.platform { " " span.tag { (Shown(platform.to_string().as_bytes())) } }
                } }
            }
            @match line {
                Some(line) => tr {
                    td.n {
                        @if let Some(number) = line.number {
                            // The page of a file begins with some of it.
                            @let place = if line.offset < 32 << 10 { format!("{query}#L{number}") } else { format!("{query}{separator}offset={}&line={number}#L{number}", line.offset) };
                            a href={ (url) (place) } { (number) }
                        }
                    }
                    td.mono { (marked(found.lines.text(line), found.lines.submatches(line))) }
                },
                None => tr { td.n {} td { small { "The file has binary content, and it matches." } } },
            }
        }
    }
}

/// A line in which the matches are marked.
fn marked(text: &[u8], matches: &[(usize, usize)]) -> Markup {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    // Where a line is long, what is around the first match is shown.
    let first = matches.first().map_or(0, |(start, _)| *start);
    let from = if first > LINE_SHOWN / 2 { first - LINE_SHOWN / 4 } else { 0 }.min(text.len());
    let to = text.len().min(from + LINE_SHOWN);
    // What is between matches, and what they are.
    let (mut at, mut parts) = (from, Vec::new());
    for (start, end) in matches {
        let (start, end) = ((*start).clamp(at, to), (*end).clamp(at, to));
        parts.push((&text[at..start], &text[start..end]));
        at = end;
    }
    html! {
        @if from > 0 { "…" }
        @for (between, found) in parts {
            (Line(between))
            @if !found.is_empty() { mark { (Line(found)) } }
        }
        (Line(&text[at..to]))
        @if to < text.len() { "…" }
    }
}

impl Answer for GrepRows {
    fn step(&mut self, lines: &mut Vec<u8>) -> crate::image::Result<Step<()>> {
        Ok(match self.grep.next_object()? {
            Step::Hit((found, at)) => {
                lines.extend_from_slice(self.row(&found, at).0.as_bytes());
                Step::Hit(())
            }
            Step::Skipped(skipped) => Step::Skipped(skipped),
            Step::Working => Step::Working,
            Step::End => Step::End,
        })
    }

    fn may_pause(&self) -> bool {
        self.grep.may_pause()
    }

    fn position(&self) -> Option<String> {
        self.grep.position()
    }

    fn looked(&self) -> Looked {
        self.grep.looked()
    }
}

/// `/ui/_diff?a=&b=`, or `?image=` twice
pub async fn diff(app: &Arc<App>, context: &mut RequestContext) -> Result<Response<Body>> {
    let visit = Visit::new(app, context);
    fields(context);
    let patch = context.parameter("patch").is_some();
    // The newest tag comes first in lists, and what is newer is compared with what is older.
    let mut sides = ["b", "a"].into_iter();
    for (key, _) in context.query.iter_mut().filter(|(key, _)| key == "image") {
        if let Some(side) = sides.next() {
            *key = side.to_owned();
        }
    }
    context.query.retain(|(key, _)| !["image", "patch"].contains(&key.as_str()));
    let fields = Fields(context.query.clone());
    let more = if patch { "&patch=1" } else { "" };
    let address = format!("/ui/_diff?{}{more}", fields.query());
    let form = html! {
        h1 { "Compare two images" }
        form.form action="/ui/_diff" {
            (input(&fields, "a", "Before", "team/app:1.3", true))
            (input(&fields, "b", "After", "team/app:1.4", true))
            (input(&fields, "path", "Below a path", "/etc", false))
            (input(&fields, "platform", "Platform", "linux/amd64", false))
            label.check { input type="checkbox" name="patch" value="1" checked[patch]; "Lines of text files" }
            button.main { "Compare" }
        }
    };
    if !fields.is_on("a") || !fields.is_on("b") {
        return Ok(page(context, layout::page(&visit, "Compare two images", &form)));
    }
    let [a, b] = ["a", "b"].map(|side| fields.get(side).to_owned());
    let flags = fields.flags(&["platform"]);
    let path = if fields.is_on("path") {
        format!(" {}", quoted(fields.get("path")))
    } else {
        String::new()
    };
    let lines = [
        format!(
            "registry diff{}{flags} {} {}{path}",
            if patch { " --patch" } else { "" },
            quoted(&a),
            quoted(&b)
        ),
        layout::curl(&visit, &format!("/v2/_query/diff?{}", fields.query())),
    ];
    let begin = query::diff(app, context)?;
    let counts = Arc::new(Mutex::new(Counts::default()));
    let known = Arc::clone(&counts);
    let begin: Begin<Box<dyn Answer>> =
        Box::new(move |turns| Ok(Box::new(DiffRows { diff: begin(turns)?, patch, counts: known })));
    let table = open_table(
        "",
        &[("", "Change"), ("grow", "Path"), ("optional", "What"), ("n", "Before"), ("n", "After")],
    );
    let intro = html! { (form) (maud::PreEscaped(table)) };
    let rows = Rows {
        words: ["path differs", "paths differ"],
        address,
        summary: Some(counts),
        rest: rest(&visit, &lines),
    };
    stream(app, context, &visit, "Compare two images", &intro, begin, rows).await
}

struct DiffRows {
    diff: Diff,
    patch: bool,
    counts: Arc<Mutex<Counts>>,
}

/// What differs below each directory at the root.
#[derive(Debug, Default)]
struct Counts(BTreeMap<Vec<u8>, Count>);

#[derive(Debug, Default)]
struct Count {
    added: u64,
    deleted: u64,
    modified: u64,
    more: u64,
    less: u64,
}

impl Counts {
    /// Directories that are told apart.
    const MAX: usize = 200;

    fn add(&mut self, change: &Change) {
        let top = change.path.split(|&b| b == b'/').next().unwrap_or_default();
        if self.0.len() == Counts::MAX && !self.0.contains_key(top) {
            return;
        }
        let count = self.0.entry(top.to_vec()).or_default();
        match change.letter() {
            'A' => count.added += 1,
            'D' => count.deleted += 1,
            _ => count.modified += 1,
        }
        let is_other = |aspect: &Aspect| matches!(aspect, Aspect::Content | Aspect::Type);
        if change.aspects.is_empty() || change.aspects.iter().any(is_other) {
            count.more += bytes(change.after.as_ref());
            count.less += bytes(change.before.as_ref());
        }
    }

    fn table(&self) -> Markup {
        html! {
            @if !self.0.is_empty() {
                h2 #directories { "By directory" }
                div.table tabindex="0" role="region" aria-labelledby="directories" { table.rows {
                    thead { tr { th { "Directory" } th.n { "Added" } th.n { "Deleted" } th.n { "Changed" } th.n { "Bytes" } } }
                    tbody {
                        @for (name, count) in &self.0 {
                            tr {
                                td { "/" (Shown(name)) }
                                td.n { (number(count.added)) } td.n { (number(count.deleted)) } td.n { (number(count.modified)) }
                                td.n { @if count.more >= count.less { "+" (size(count.more - count.less)) } @else { "−" (size(count.less - count.more)) } }
                            }
                        }
                    }
                } }
            }
        }
    }
}

fn bytes(node: Option<&Node>) -> u64 {
    node.filter(|node| node.entry.kind == Kind::Regular).map_or(0, |node| node.entry.size)
}

impl DiffRows {
    fn row(&self, change: &Change) -> crate::image::Result<Markup> {
        let patch = if self.patch { self.diff.patch(change, PATCH_MAX)? } else { None };
        let [before, after] = self.diff.images();
        let side = |image: &Arc<Image>, node: &Option<Node>| {
            html! {
                @if let Some(node) = node {
                    a href=(image_url(&image.repository, &Reference::Digest(image.manifest), &node.path)) {
                        @if node.entry.kind == Kind::Regular { (size(node.entry.size)) } @else { (type_name(node.entry.kind)) }
                    }
                }
            }
        };
        let is_directory =
            [&change.before, &change.after].into_iter().flatten().all(Node::is_directory);
        let what: Vec<&str> = change.aspects.iter().map(|aspect| aspect.name()).collect();
        let (class, word) = match change.letter() {
            'A' => ("tag add", "added"),
            'D' => ("tag del", "deleted"),
            _ => ("tag mod", "changed"),
        };
        Ok(html! {
            tr {
                td { span class=(class) { (word) } }
                td.name { "/" (Shown(&change.path)) @if is_directory { "/" } }
                td.optional.dim { (what.join(", ")) }
                td.n { (side(before, &change.before)) }
                td.n { (side(after, &change.after)) }
            }
            @if let Some(patch) = &patch { tr { td colspan="5" { (lines_of(patch)) } } }
        })
    }
}

/// A unified diff, a line a row, without its heads.
fn lines_of(patch: &[u8]) -> Markup {
    /// Lines that are shown.
    const SHOWN: usize = 400;
    let lines = || {
        patch
            .split(|&b| b == b'\n')
            .skip_while(|line| line.starts_with(b"--- ") || line.starts_with(b"+++ "))
    };
    let class = |line: &[u8]| match line.first() {
        Some(b'+') => "add",
        Some(b'-') => "del",
        Some(b'@') => "hunk",
        _ => "",
    };
    html! {
        div.text.wrap.patch { table { tbody {
            @for line in lines().take(SHOWN).filter(|line| !line.is_empty()) {
                tr class=(class(line)) { td {} td { (Line(&line[..line.len().min(LINE_SHOWN)])) } }
            }
            @if lines().nth(SHOWN).is_some() { tr { td {} td { "…" } } }
        } } }
    }
}

impl Answer for DiffRows {
    fn step(&mut self, lines: &mut Vec<u8>) -> crate::image::Result<Step<()>> {
        Ok(match self.diff.step()? {
            Step::Hit(change) => {
                self.counts.lock().unwrap_or_else(PoisonError::into_inner).add(&change);
                lines.extend_from_slice(self.row(&change)?.0.as_bytes());
                Step::Hit(())
            }
            Step::Skipped(skipped) => Step::Skipped(skipped),
            Step::Working => Step::Working,
            Step::End => Step::End,
        })
    }

    fn may_pause(&self) -> bool {
        self.diff.may_pause()
    }

    fn position(&self) -> Option<String> {
        self.diff.position()
    }

    fn looked(&self) -> Looked {
        self.diff.looked()
    }
}
