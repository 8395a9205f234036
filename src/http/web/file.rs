//! A file of an image: text with line numbers, bytes in hex, or a picture; a piece a page.

use maud::{Markup, html};

use super::image::{PICTURES, Seen, name_of, of_layer};
use super::layout;
use super::show::{Line, Shown, count, digits, image_url, minute, mode, number, quoted, size};
use crate::http::error::Result;
use crate::image::listing::{Listing, type_name, url_path};
use crate::image::{Kind, Node, Opened};
use crate::oci::Digest;

/// Bytes of text on one page.
const TEXT: usize = 64 << 10;
/// Bytes in hex on one page.
const HEX: usize = 4 << 10;
/// Where a file is looked at to tell text from other content.
const HEAD: usize = 8 << 10;
/// Larger pictures are not shown before they are asked for.
const PICTURE_MAX: u64 = 32 << 20;
/// Bytes of one line that are shown.
const LINE: usize = 16 << 10;

/// How a file is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Text,
    Hex,
    /// With its media type.
    Picture(&'static str),
}

/// The page of what lies at a path and is no directory. `node` is what lies there, and a symbolic
/// link is shown as what it leads to.
pub fn make(seen: &Seen<'_>, opened: &Opened, path: &[u8], node: &Node) -> Result<String> {
    let is_link = node.entry.kind == Kind::Symlink;
    let target = if is_link && !seen.asked.deleted { opened.node(path, true).ok() } else { None };
    let file = target.as_ref().unwrap_or(node);
    let is_file = file.entry.kind == Kind::Regular;
    let content = if is_file { content(seen, opened, file)? } else { nothing(node) };
    let lines = [
        format!("registry cat{} {} {}", seen.flags(), seen.name(), quoted([b"/", path].concat())),
        layout::curl(seen.visit, &seen.call("blobs", path)),
    ];
    let query = seen.asked.query();
    let main = html! {
        (seen.crumbs(&node.path))
        div.title { h1 { (name_of(node)) } (of_layer(seen, opened)) }
        p.facts {
            span { (type_name(file.entry.kind)) }
            @if is_file { span { b title={ (number(file.entry.size)) " bytes" } { (size(file.entry.size)) } } }
            span.mono { (mode(&file.entry)) }
            span { "Owner " b { (file.entry.uid) ":" (file.entry.gid) } }
            span { "Changed " b { (minute(file.entry.mtime)) } }
            @if let (Opened::Image(image), None) = (opened, &seen.asked.layer) {
                @let layer = digits(&image.layers[file.layer].digest);
                span { "From " a href={ (seen.url(&file.path)) (seen.asked.with("layer=")) (layer) } { "layer " (file.layer + 1) } }
            }
        }
        @if is_link {
            p { "A link to " b { (Shown(&node.entry.link)) }
                @match &target {
                    Some(target) => { ", which is " a href={ (seen.url(&target.path)) (query) } { "/" (Shown(&target.path)) } }
                    None => { ", where there is nothing." }
                }
            }
        }
        @if is_file { (tools(seen, file)) }
        (content)
        (history(seen, opened, node)?)
        @if !file.entry.xattrs.is_empty() { (xattrs(file)) }
        (layout::commands(&lines))
    };
    Ok(layout::page(seen.visit, &super::image::title_of(seen, &node.path), &main))
}

fn tools(seen: &Seen<'_>, file: &Node) -> Markup {
    let url = seen.url(&file.path);
    let here = seen.asked.view.as_deref();
    html! {
        ul.tabs {
            @for (view, text) in [("text", "Text"), ("hex", "Hex")] {
                li {
                    @if here == Some(view) { span aria-current="page" { (text) } }
                    @else { a href={ (url) (seen.asked.with("view=")) (view) } { (text) } }
                }
            }
            li { a href={ (url) (seen.asked.with("raw=text")) } { "Raw" } }
            li { a href={ (url) (seen.asked.with("raw=1")) } { "Download" } }
            @if let Some(hash) = file.entry.sha256 {
                li { a href={ "/ui/_find?sha256=" (Digest::Sha256(hash).hex()) } { "In which other images?" } }
            }
        }
    }
}

/// What is told of devices and the like.
fn nothing(node: &Node) -> Markup {
    let (major, minor) = node.entry.device;
    html! {
        @if matches!(node.entry.kind, Kind::Character | Kind::Block) {
            p { "Device number " b { (major) ":" (minor) } "." }
        } @else if node.entry.kind == Kind::CrossLayerLink {
            p { "A hard link to " b { "/" (Shown(&node.entry.link)) } ", which is in a lower layer." }
        } @else if node.entry.kind == Kind::Whiteout {
            p { "This layer deletes what lower layers have here." }
        }
    }
}

/// What content a file has, by its first bytes.
fn look(head: &[u8], is_whole: bool) -> Look {
    let picture = match head {
        [0x89, b'P', b'N', b'G', b'\r', b'\n', ..] => Some(0),
        [0xff, 0xd8, 0xff, ..] => Some(1),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some(2),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some(3),
        [0, 0, 1, 0, _, 0, ..] => Some(5),
        [_, _, _, _, b'f', b't', b'y', b'p', b'a', b'v', b'i', b'f', ..] => Some(6),
        [b'B', b'M', _, _, _, _, 0, 0, 0, 0, ..] => Some(7),
        _ if is_svg(head) => Some(4),
        _ => None,
    };
    if let Some(picture) = picture {
        return Look::Picture(PICTURES[picture]);
    }
    // A character may be torn apart where the bytes end.
    let broken: usize = head.utf8_chunks().map(|chunk| chunk.invalid().len()).sum();
    let allowed = if is_whole { 0 } else { 3 } + head.len() / 50;
    if head.contains(&0) || broken > allowed { Look::Hex } else { Look::Text }
}

fn is_svg(head: &[u8]) -> bool {
    let text = String::from_utf8_lossy(&head[..head.len().min(1024)]);
    let text = text.trim_start_matches('\u{feff}').trim_start();
    (text.starts_with("<?xml") || text.starts_with("<!--") || text.starts_with("<svg"))
        && text.contains("<svg")
}

fn content(seen: &Seen<'_>, opened: &Opened, file: &Node) -> Result<Markup> {
    let total = file.entry.size;
    let mut head = vec![0; HEAD.min(usize::try_from(total).unwrap_or(HEAD))];
    let read = opened.read(file, 0, &mut head)?;
    head.truncate(read);
    let found = look(&head, head.len() as u64 == total);
    let look = match (seen.asked.view.as_deref(), found) {
        (Some("text"), _) => Look::Text,
        (Some("hex"), _) => Look::Hex,
        (_, Look::Picture(_)) if total > PICTURE_MAX => Look::Hex,
        (_, found) => found,
    };
    if total == 0 {
        return Ok(html! { p.empty { "The file is empty." } });
    }
    Ok(match look {
        Look::Picture(kind) => html! {
            div.picture {
                img src={ (seen.url(&file.path)) (seen.asked.with("raw=")) (url_path(kind.as_bytes())) } alt="The picture that the file has";
            }
        },
        Look::Text => text(seen, opened, file)?,
        Look::Hex => hex(seen, opened, file)?,
    })
}

fn read(opened: &Opened, file: &Node, offset: u64, length: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let read = opened.read(file, offset, &mut bytes)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// The links to other pieces of a file. `next` is where the next piece begins.
fn pages(
    seen: &Seen<'_>,
    file: &Node,
    from: u64,
    next: Option<(u64, Option<u64>)>,
    piece: u64,
) -> Markup {
    let total = file.entry.size;
    if from == 0 && next.is_none() {
        return html! {};
    }
    let url = seen.url(&file.path);
    let view = seen
        .asked
        .view
        .as_ref()
        .map_or(String::new(), |view| format!("&view={}", super::show::query_value(view)));
    let to = |offset: u64, line: Option<u64>| {
        let line = line.map_or(String::new(), |line| format!("&line={line}"));
        format!("{url}{}{view}", seen.asked.with(&format!("offset={offset}{line}")))
    };
    let end = next.map_or(total, |(next, _)| next);
    html! {
        p.pages {
            span { "Bytes " (number(from)) " to " (number(end)) " of " (number(total)) }
            @if from > 0 { a href=(to(0, Some(1))) { "Beginning" } }
            @if let Some((next, line)) = next {
                a rel="next" href=(to(next, line)) { "Next" }
                a href=(to(total.saturating_sub(1) / piece * piece, None)) { "End" }
            }
        }
    }
}

fn text(seen: &Seen<'_>, opened: &Opened, file: &Node) -> Result<Markup> {
    let from = seen.asked.offset.min(file.entry.size);
    let mut bytes = read(opened, file, from, TEXT)?;
    let is_last = from + bytes.len() as u64 >= file.entry.size;
    if !is_last {
        // The piece ends with a line, if there is an end of a line in its second half.
        if let Some(end) = bytes.iter().rposition(|&b| b == b'\n').filter(|end| *end >= TEXT / 2) {
            bytes.truncate(end + 1);
        }
    }
    let first = if from == 0 { Some(1) } else { seen.asked.line };
    let ends = bytes.iter().filter(|&&b| b == b'\n').count() as u64;
    let next = from + bytes.len() as u64;
    let next = (!is_last).then(|| (next, first.map(|first| first + ends)));
    let body = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let pages = pages(seen, file, from, next, TEXT as u64);
    Ok(html! {
        (pages)
        @if first.is_none() { p.note { "The lines before this piece were not counted, so these have no numbers." } }
        div.text.wrap { table { tbody {
            @for (at, line) in body.split(|&b| b == b'\n').enumerate() {
                @let number = first.map(|first| first + at as u64);
                @let line = line.strip_suffix(b"\r").unwrap_or(line);
                tr id=[number.map(|number| format!("L{number}"))] {
                    td { @if let Some(number) = number { a href={ "#L" (number) } { (number) } } }
                    td { (Line(&line[..line.len().min(LINE)])) @if line.len() > LINE { span.tag { "the line goes on for " (count((line.len() - LINE) as u64, "byte", "bytes")) } } }
                }
            }
        } } }
        (pages)
    })
}

fn hex(seen: &Seen<'_>, opened: &Opened, file: &Node) -> Result<Markup> {
    const ROW: usize = 16;
    let from = seen.asked.offset.min(file.entry.size) / ROW as u64 * ROW as u64;
    let bytes = read(opened, file, from, HEX)?;
    let next = from + bytes.len() as u64;
    let next = (next < file.entry.size).then_some((next, None));
    let pages = pages(seen, file, from, next, HEX as u64);
    let digits = |row: &[u8]| {
        let pairs: Vec<String> = row.iter().map(|byte| format!("{byte:02x}")).collect();
        let (a, b) = pairs.split_at(pairs.len().min(ROW / 2));
        format!("{}  {}", a.join(" "), b.join(" "))
    };
    let letters = |row: &[u8]| {
        let shown = |&byte: &u8| if (0x20..0x7f).contains(&byte) { char::from(byte) } else { '·' };
        row.iter().map(shown).collect::<String>()
    };
    Ok(html! {
        (pages)
        div.text { table { tbody {
            @for (at, row) in bytes.chunks(ROW).enumerate() {
                @let offset = from + (at * ROW) as u64;
                tr id={ "x" (format!("{offset:x}")) } {
                    td { a href={ "#x" (format!("{offset:x}")) } { (format!("{offset:08x}")) } }
                    td { (digits(row)) }
                    td { (letters(row)) }
                }
            }
        } } }
        (pages)
    })
}

/// The layers that have something at the path, the topmost first.
fn history(seen: &Seen<'_>, opened: &Opened, node: &Node) -> Result<Markup> {
    /// Layers that are listed.
    const LISTED: usize = 100;
    let Opened::Image(image) = opened else { return Ok(html! {}) };
    let mut found = Vec::new();
    let mut listing = Listing::with_deleted(opened.clone(), &node.path, false)?;
    listing.visit(|node, deleted| {
        found.push((node.clone(), deleted));
        found.len() < LISTED
    })?;
    let mut rows = Vec::new();
    for (node, deleted) in found {
        let by = if deleted { image.remover(&node)? } else { None };
        rows.push((node, deleted, by));
    }
    if rows.len() < 2 && !rows.iter().any(|(_, deleted, _)| *deleted) {
        return Ok(html! {});
    }
    let query = seen.asked.of_image().with("layer=");
    Ok(html! {
        h2 { "This path in the layers" }
        div.table { table.rows {
            thead { tr { th { "Layer" } th { "What it has" } th.n { "Size" } th.n.optional { "Changed" } th { "What became of it" } } }
            tbody {
                @for (node, deleted, by) in &rows {
                    tr class=[deleted.then_some("gone")] {
                        td { a href={ (image_url(seen.repository, seen.reference, &node.path)) (query) (digits(&image.layers[node.layer].digest)) } { "Layer " (node.layer + 1) } }
                        td { (type_name(node.entry.kind)) }
                        td.n { (size(node.entry.size)) }
                        td.n.optional { (minute(node.entry.mtime)) }
                        td {
                            @if !deleted { span.tag.add { "shown" } }
                            @if let Some(by) = by { span.tag.del { "taken away by layer " (by + 1) } }
                        }
                    }
                }
            }
        } }
    })
}

fn xattrs(file: &Node) -> Markup {
    html! {
        h2 { "Extended attributes" }
        div.card { dl {
            @for (name, value) in file.entry.xattrs.iter().take(100) {
                dt.mono { (Shown(name)) } dd.mono { (Shown(&value[..value.len().min(1000)])) }
            }
        } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_content_is() {
        for (head, want) in [
            (&b"#!/bin/sh\n"[..], Look::Text),
            (b"\x7fELF\x02\x01\x01\0", Look::Hex),
            (b"\x89PNG\r\n\x1a\n", Look::Picture("image/png")),
            (b"GIF89a", Look::Picture("image/gif")),
            (b"RIFF....WEBPVP8 ", Look::Picture("image/webp")),
            (b"\0\0\x01\0\x01\0", Look::Picture("image/x-icon")),
            (b"<?xml version='1.0'?><svg xmlns='x'>", Look::Picture("image/svg+xml")),
            (b"<?xml version='1.0'?><html>", Look::Text),
            (b"\xff\xfe\xfd\xfc", Look::Hex),
            ("grün".as_bytes(), Look::Text),
        ] {
            assert_eq!(look(head, true), want, "{head:?}");
        }
        assert_eq!(look(&"ü".as_bytes()[..1], false), Look::Text, "cut");
    }
}
