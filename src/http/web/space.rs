//! What takes the space in an image: a picture and a table of a directory, and what the image ships
//! for nothing.

use std::sync::Arc;

use hyper::Response;
use maud::{Markup, html};

use super::image::{Asked, Seen, open};
use super::questions::stream;
use super::show::{Shown, count, digits, number, plain, size};
use super::{Visit, layout, look};
use crate::http::body::Body;
use crate::http::error::Result;
use crate::http::query::{Begin, End, Writing};
use crate::http::{App, RequestContext};
use crate::image::listing::url_path;
use crate::image::{Image, Opened};
use crate::oci::{Reference, Repository};
use crate::query::space::{Share, Space};
use crate::query::waste::{Report, Waste};
use crate::query::{Answer, Looked, Step};
use crate::registry::StorageError;

/// Rows of the tables.
const ROWS: usize = 100;
/// The picture, in its own units.
const WIDTH: f64 = 1200.0;
const HEIGHT: f64 = 520.0;
/// Smaller parts of the picture are left out, in these units.
const SMALLEST: f64 = 3.0;
/// Parts of a picture.
const PARTS: usize = 40;

/// `/ui/NAME:TAG/DIR?view=space`
pub async fn answer(
    app: &Arc<App>,
    context: &mut RequestContext,
    visit: &Visit,
    (repository, reference): (&Repository, &Reference),
    asked: &Asked,
    path: &[u8],
) -> Result<Response<Body>> {
    let registry = Arc::clone(&app.registry);
    let (name, what) = (repository.clone(), reference.clone());
    let described = look(app, move || {
        let described = registry.images().describe(&name, &what)?;
        let unknown = || StorageError::ManifestUnknown { repository: name, reference: what };
        Ok(described.ok_or_else(unknown)?)
    })
    .await?;
    let seen = Seen {
        visit,
        registry: &app.registry,
        repository,
        reference,
        asked,
        described: &described,
        may_delete: false,
    };
    let path: Vec<u8> = path.strip_suffix(b"/").unwrap_or(path).to_vec();
    let name = seen.name();
    let lines = [
        format!("registry waste{} {name}", seen.flags()),
        layout::curl(visit, &format!("/v2/_query/waste?image={}", super::show::query_value(&name))),
    ];
    let shown = [b"/", path.as_slice()].concat();
    let title = format!("What takes the space in {}", plain(&shown));
    let intro = html! {
        (seen.crumbs(&path))
        div.title { h1 { "What takes the space" } span.mono { (Shown(&shown)) } }
        ul.tabs { li { a href={ (directory_url(&seen, &path)) (asked.query()) } { "Files" } } li { span aria-current="page" { "What takes the space" } } }
    };
    let (registry, (name, what), asked) =
        (Arc::clone(&app.registry), (repository.clone(), reference.clone()), asked.clone());
    let links =
        Links { base: directory_url(&seen, &path), image: seen.url(b""), query: asked.query() };
    let begin: Begin<Box<dyn Answer>> = Box::new(move |turns| {
        let opened = open(&registry, &name, &what, &asked)?;
        turns.take(|| {
            let waste = match &opened {
                Opened::Image(image) if path.is_empty() => {
                    let (images, id) = (registry.images(), image.to_string());
                    let waste = Waste::new(images, Arc::clone(image), id, ROWS as u16)?;
                    Some((Arc::clone(image), waste))
                }
                _ => None,
            };
            let space = Some(Space::new(opened, &path)?);
            Ok(Box::new(SpaceRows { space, waste, links }) as Box<dyn Answer>)
        })
    });
    let (_, end) = layout::around(visit, "");
    let rest = Rest([layout::commands(&lines).0, end].concat());
    stream(app, context, visit, &title, &intro, begin, rest).await
}

fn directory_url(seen: &Seen<'_>, path: &[u8]) -> String {
    match path {
        [] => seen.url(b""),
        _ => format!("{}/", seen.url(path)),
    }
}

/// The end of the page.
struct Rest(String);

impl Writing for Rest {
    fn skipped(&mut self, _: &str, _: &str, _: &mut Vec<u8>) {}

    fn progress(&mut self, _: (u64, u64), _: &mut Vec<u8>) {}

    fn end(&mut self, _: &End, piece: &mut Vec<u8>) {
        piece.extend_from_slice(self.0.as_bytes());
    }

    fn failed(&mut self, error: &str, piece: &mut Vec<u8>) -> bool {
        let text = html! { p.note.bad role="alert" { "The answer breaks off here: " (Shown(error.as_bytes())) } };
        piece.extend_from_slice(text.0.as_bytes());
        piece.extend_from_slice(self.0.as_bytes());
        true
    }
}

/// Where links lead.
struct Links {
    /// The directory.
    base: String,
    /// The root of the image.
    image: String,
    query: String,
}

impl Links {
    fn with(&self, more: &str) -> String {
        let separator = if self.query.is_empty() { '?' } else { '&' };
        format!("{}{separator}{more}", self.query)
    }
}

struct SpaceRows {
    space: Option<Space>,
    waste: Option<(Arc<Image>, Waste)>,
    links: Links,
}

impl Answer for SpaceRows {
    fn step(&mut self, lines: &mut Vec<u8>) -> crate::image::Result<Step<()>> {
        if let Some(space) = &mut self.space {
            let Some(sum) = space.advance()? else { return Ok(Step::Working) };
            self.space = None;
            lines.extend_from_slice(picture(&self.links, &sum).0.as_bytes());
            return Ok(Step::Hit(()));
        }
        if let Some((image, waste)) = &mut self.waste {
            let Some(report) = waste.advance()? else { return Ok(Step::Working) };
            lines.extend_from_slice(wasted(&self.links, image, &report).0.as_bytes());
            self.waste = None;
            return Ok(Step::Hit(()));
        }
        Ok(Step::End)
    }

    fn may_pause(&self) -> bool {
        false
    }

    fn position(&self) -> Option<String> {
        None
    }

    fn looked(&self) -> Looked {
        Looked { images: 1, ..Looked::default() }
    }
}

/// The shares of a directory, the largest first.
fn largest(share: &Share) -> Vec<(&Vec<u8>, &Share)> {
    let mut shares: Vec<_> = share.below.iter().collect();
    shares.sort_by(|(a, x), (b, y)| (y.size, a).cmp(&(x.size, b)));
    shares
}

#[derive(Clone, Copy, Debug)]
struct Area {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
}

/// Divides an area among sizes, the largest first, into parts that are as square as rows of them can
/// be (Bruls, Huizing, van Wijk: Squarified Treemaps).
fn divide(sizes: &[u64], mut area: Area) -> Vec<Area> {
    let total: u64 = sizes.iter().sum();
    let mut areas = Vec::with_capacity(sizes.len());
    if total == 0 {
        return areas;
    }
    let scale = area.width * area.height / total as f64;
    let mut left = sizes;
    while !left.is_empty() {
        let side = area.width.min(area.height);
        let worst = |row: &[u64]| {
            let sum = row.iter().sum::<u64>() as f64 * scale;
            let (largest, smallest) = (row[0] as f64 * scale, row[row.len() - 1] as f64 * scale);
            let square = side * side;
            (square * largest / (sum * sum)).max(sum * sum / (square * smallest.max(1e-9)))
        };
        let mut length = 1;
        while length < left.len() && worst(&left[..length + 1]) <= worst(&left[..length]) {
            length += 1;
        }
        let (row, rest) = left.split_at(length);
        let sum = row.iter().sum::<u64>() as f64 * scale;
        let thickness = if side > 0.0 { sum / side } else { 0.0 };
        let mut at = 0.0;
        for &size in row {
            let extent = if thickness > 0.0 { size as f64 * scale / thickness } else { 0.0 };
            areas.push(match area.width >= area.height {
                true => Area { x: area.x, y: area.y + at, width: thickness, height: extent },
                false => Area { x: area.x + at, y: area.y, width: extent, height: thickness },
            });
            at += extent;
        }
        if area.width >= area.height {
            area = Area { x: area.x + thickness, width: (area.width - thickness).max(0.0), ..area };
        } else {
            area =
                Area { y: area.y + thickness, height: (area.height - thickness).max(0.0), ..area };
        }
        left = rest;
    }
    areas
}

/// A part of the picture.
struct Part<'a> {
    /// Below the directory: one name or two.
    path: Vec<&'a [u8]>,
    share: &'a Share,
    area: Area,
    color: usize,
}

/// The parts of the picture: what the directory has, and of large directories what they have.
fn parts(sum: &Share) -> Vec<Part<'_>> {
    /// Areas from here on are divided once more, in the picture's units.
    const DIVIDED: f64 = 90.0;
    let whole = Area { x: 0.0, y: 0.0, width: WIDTH, height: HEIGHT };
    let is_seen = |area: &Area| area.width >= SMALLEST && area.height >= SMALLEST;
    let mut parts = Vec::new();
    for (at, (name, share, area)) in divided(sum, whole).into_iter().enumerate() {
        let is_large = area.width >= DIVIDED && area.height >= DIVIDED;
        if is_large && share.below.values().any(|below| below.size > 0) {
            for (inner, (below, share, area)) in divided(share, area).into_iter().enumerate() {
                let path = vec![name.as_slice(), below];
                parts.push(Part { path, share, area, color: (at + inner) % 8 });
            }
        } else {
            parts.push(Part { path: vec![name], share, area, color: at % 8 });
        }
    }
    parts.retain(|part| is_seen(&part.area));
    parts
}

/// The largest of a directory's shares, with an area for each.
fn divided(share: &Share, area: Area) -> Vec<(&Vec<u8>, &Share, Area)> {
    let mut shares = largest(share);
    shares.retain(|(_, share)| share.size > 0);
    shares.truncate(PARTS);
    let sizes: Vec<u64> = shares.iter().map(|(_, share)| share.size).collect();
    let areas = divide(&sizes, area);
    shares.into_iter().zip(areas).map(|((name, share), area)| (name, share, area)).collect()
}

fn picture(links: &Links, sum: &Share) -> Markup {
    let shares = largest(sum);
    let to_space = links.with("view=space");
    html! {
        p.facts { span { b { (size(sum.size)) } " in files" } span { b { (count(sum.entries, "entry", "entries")) } } }
        @if sum.size > 0 {
            svg.map viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="group" aria-label="Areas as large as what directories and files take; the table below has the numbers" {
                @for part in parts(sum) {
                    @let path = part.path.join(&b'/');
                    a href={ (links.base) (url_path(&path)) @if part.share.is_directory { "/" (to_space) } @else { (links.query) } } {
                        title { (plain(&path)) ": " (size(part.share.size)) }
                        rect class={ "t" (part.color) } x=(round(part.area.x)) y=(round(part.area.y)) width=(round(part.area.width)) height=(round(part.area.height)) {}
                        (label(&path, part.share.size, part.area))
                    }
                }
            }
        }
        h2 { "By size" }
        div.table { table.rows {
            thead { tr { th { "Name" } th.n { "Bytes" } th.n { "Part" } th.n.optional { "Entries" } } }
            tbody {
                @for (name, share) in shares.iter().take(ROWS) {
                    tr {
                        td.name { a href={ (links.base) (url_path(name)) @if share.is_directory { "/" (to_space) } @else { (links.query) } } { (Shown(name)) @if share.is_directory { "/" } } }
                        td.n { (size(share.size)) }
                        td.n { meter max=(sum.size.max(1)) value=(share.size) title={ (size(share.size)) " of " (size(sum.size)) } {} }
                        td.n.optional { (number(share.entries)) }
                    }
                }
            }
        } }
        @if shares.len() > ROWS { p.dim { "And " (count((shares.len() - ROWS) as u64, "smaller one", "smaller ones")) "." } }
    }
}

fn round(number: f64) -> String {
    format!("{number:.1}")
}

/// The name of an area, where it has room.
fn label(name: &[u8], bytes: u64, area: Area) -> Markup {
    /// How wide a character is, about.
    const CHARACTER: f64 = 7.0;
    let text = plain(name);
    let room = ((area.width - 12.0) / CHARACTER).max(0.0) as usize;
    html! {
        @if room >= 3 && area.height >= 20.0 {
            text x=(round(area.x + 6.0)) y=(round(area.y + 16.0)) { (super::show::short(&text, room)) }
            @if area.height >= 38.0 && room >= 6 {
                text x=(round(area.x + 6.0)) y=(round(area.y + 32.0)) { (size(bytes)) }
            }
        }
    }
}

/// What the image ships for nothing.
fn wasted(links: &Links, image: &Image, report: &Report) -> Markup {
    let totals = &report.totals;
    let percent = format!("{:.1} %", totals.efficiency * 100.0);
    html! {
        h2 #waste { "What is shipped for nothing" }
        p.facts {
            span { b.big { (percent) } " efficient" }
            span { b { (size(totals.wasted)) } " of files are not shown" }
            span { b { (size(totals.wasted_transferred)) } " of the transfer" }
            span { b { (size(totals.duplicate)) } " are there more than once" }
        }
        @if !report.paths.is_empty() {
            h3 { "Deleted or replaced files" }
            div.table { table.rows {
                thead { tr { th { "Path" } th.n { "Bytes" } th { "Shipped by" } } }
                tbody {
                    @for path in &report.paths {
                        tr {
                            td.name {
                                @if path.deleted { del { "/" (Shown(&path.path)) } }
                                @else { a href={ (links.image) (url_path(&path.path)) (links.query) } { "/" (Shown(&path.path)) } }
                            }
                            td.n { (size(path.wasted)) }
                            td {
                                @for layer in &path.layers {
                                    a href={ (links.image) (url_path(&path.path)) (links.with("layer=")) (digits(&image.layers[*layer].digest)) } { "layer " (layer + 1) } " "
                                }
                            }
                        }
                    }
                }
            } }
        }
        @if !report.duplicates.is_empty() {
            h3 { "Files that are there more than once" }
            div.table { table.rows {
                thead { tr { th { "One of them" } th.n { "Files" } th.n { "Bytes too many" } } }
                tbody {
                    @for twice in &report.duplicates {
                        tr {
                            td.name { a href={ (links.image) (url_path(&twice.path)) (links.query) } { "/" (Shown(&twice.path)) } }
                            td.n { (number(twice.files)) }
                            td.n { (size(twice.wasted)) }
                        }
                    }
                }
            } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas() {
        let whole = Area { x: 0.0, y: 0.0, width: 600.0, height: 400.0 };
        let sizes = [6, 6, 4, 3, 2, 2, 1];
        let areas = divide(&sizes, whole);
        assert_eq!(areas.len(), sizes.len());
        let unit = 600.0 * 400.0 / 24.0;
        for (size, area) in sizes.iter().zip(&areas) {
            let covered = area.width * area.height;
            assert!((covered - *size as f64 * unit).abs() < 1.0, "{area:?}");
            assert!(area.x >= 0.0 && area.x + area.width < 600.1, "{area:?}");
            assert!(area.y >= 0.0 && area.y + area.height < 400.1, "{area:?}");
            let ratio = area.width / area.height;
            assert!((0.2..5.0).contains(&ratio), "{area:?}");
        }
        assert!(divide(&[0, 0], whole).is_empty());
        assert_eq!(divide(&[5, 0], whole).len(), 2);
    }
}
