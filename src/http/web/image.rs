//! An image: what it is, its layers and their history, and its files, a directory a page.

use std::sync::Arc;

use bytes::Bytes;
use hyper::header::{CONTENT_DISPOSITION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use maud::{Markup, PreEscaped, Render, html};
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::show::{
    Shown, count, day, digits, image_name, image_url, minute, mode, plain, query_value, quoted,
    repository_url, short, size,
};
use super::{PAGE_MAX, Visit, about, file, layout, page, redirect, repository};
use crate::auth::Right;
use crate::http::body::Body;
use crate::http::error::{Error, Result};
use crate::http::files::{self, flag, look};
use crate::http::query::permitted;
use crate::http::route::{Files, Scope, View as FilesView};
use crate::http::{App, RequestContext};
use crate::image::listing::{Listing, Stop, url_path};
use crate::image::{
    self, Described, Effect, Id, Image, Kind, LayerId, Node, Opened, Platform, View,
};
use crate::oci::{Digest, Reference, Repository};
use crate::registry::{Registry, StorageError};

/// Entries of a directory on one page.
const ROWS: usize = 300;
/// Entries that can be sorted by size. A directory with more is sorted by name.
const SORTED_MAX: usize = 20_000;
/// And what they may take in memory meanwhile.
const SORTED_BYTES: usize = 16 << 20;

/// Where a page looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub id: Id,
    /// As it stands in the address, decoded.
    pub path: Vec<u8>,
}

/// What the address asks for besides.
#[derive(Clone, Debug)]
pub struct Asked {
    pub platform: Option<Platform>,
    pub layer: Option<LayerId>,
    pub deleted: bool,
    by_size: bool,
    /// Of a directory by size: the number of the first row.
    from: usize,
    after: Option<Vec<u8>>,
    pub offset: u64,
    /// The number of the line at `offset`, as the page before has counted.
    pub line: Option<u64>,
    /// How a file is shown, if not by what it is.
    pub view: Option<String>,
}

impl Asked {
    fn parse(context: &mut RequestContext) -> Result<Asked> {
        let digits = |name: &str| context.parameter(name).and_then(|text| text.parse::<u64>().ok());
        Ok(Asked {
            platform: context.parameter("platform").map(str::parse).transpose()?,
            layer: files::layer(context)?,
            deleted: flag(context, "deleted")?,
            by_size: context.parameter("sort") == Some("size"),
            from: digits("from").map_or(0, |from| from as usize),
            offset: digits("offset").unwrap_or(0),
            line: digits("line"),
            view: context.parameter("view").map(str::to_owned),
            after: context.after.take(),
        })
    }

    /// The parameters that links inside the image keep, with what is in front of them.
    pub fn query(&self) -> String {
        let mut query = String::new();
        let mut add = |text: String| {
            query.push(if query.is_empty() { '?' } else { '&' });
            query.push_str(&text);
        };
        if let Some(platform) = &self.platform {
            add(format!("platform={}", query_value(platform.to_string())));
        }
        if let Some(layer) = &self.layer {
            add(format!("layer={layer}"));
        }
        if self.deleted {
            add("deleted=1".to_owned());
        }
        query
    }

    /// The same of the image as it is shown as a whole.
    pub fn of_image(&self) -> Asked {
        Asked { deleted: false, layer: None, ..self.clone() }
    }

    /// The same with one more.
    pub fn with(&self, more: &str) -> String {
        let query = self.query();
        if query.is_empty() { format!("?{more}") } else { format!("{query}&{more}") }
    }
}

/// What an image page is made of.
pub struct Seen<'a> {
    pub visit: &'a Visit,
    pub registry: &'a Registry,
    pub repository: &'a Repository,
    pub reference: &'a Reference,
    pub asked: &'a Asked,
    pub described: &'a Described,
    /// The user may delete the tag or manifest.
    pub may_delete: bool,
}

impl Seen<'_> {
    pub fn name(&self) -> String {
        image_name(self.repository, self.reference)
    }

    pub fn url(&self, path: &[u8]) -> String {
        image_url(self.repository, self.reference, path)
    }

    /// The address of the call that answers in JSON or with bytes.
    pub fn call(&self, view: &str, path: &[u8]) -> String {
        let query = self.asked.query();
        format!(
            "/v2/{}/_files/{view}/{}/{}{query}",
            self.repository,
            self.reference,
            url_path(path)
        )
    }

    /// The flags of a command that looks into this image.
    pub fn flags(&self) -> String {
        let mut flags = String::new();
        if let Some(platform) = &self.asked.platform {
            flags.push_str(&format!(" --platform {}", quoted(platform.to_string())));
        }
        if let Some(layer) = &self.asked.layer {
            flags.push_str(&format!(" --layer {layer}"));
        }
        if self.asked.deleted {
            flags.push_str(" --deleted");
        }
        flags
    }

    /// The way to what lies at a path.
    pub fn crumbs(&self, path: &[u8]) -> Markup {
        let query = self.asked.query();
        let mut more = vec![(
            repository_url(self.repository),
            html! { (self.repository.as_str().rsplit('/').next().unwrap_or_default()) },
        )];
        let reference = match self.reference {
            Reference::Tag(tag) => tag.to_string(),
            Reference::Digest(digest) => format!("@{}", digits(digest)),
        };
        more.push((format!("{}{query}", self.url(b"")), html! { (reference) }));
        let ends = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at);
        let mut start = 0;
        for end in ends {
            let url = format!("{}/{query}", self.url(&path[..end]));
            more.push((url, Shown(&path[start..end]).render()));
            start = end + 1;
        }
        layout::crumbs(Some(self.repository), &more)
    }
}

pub async fn answer(
    app: &Arc<App>,
    context: &mut RequestContext,
    place: Place,
) -> Result<Response<Body>> {
    let Id::Reference { repository, reference } = &place.id else {
        return located(app, context, place).await;
    };
    if let Some(raw) = context.parameter("raw").map(str::to_owned) {
        return self::raw(app, context, place, &raw).await;
    }
    let visit = Visit::new(app, context);
    let asked = Asked::parse(context)?;
    if asked.view.as_deref() == Some("space") {
        return super::space::answer(
            app,
            context,
            &visit,
            (repository, reference),
            &asked,
            &place.path,
        )
        .await;
    }
    let may_delete =
        !app.read_only && app.access.may(&context.proof.identity, repository, Right::Delete);
    context.pay_ahead(app, PAGE_MAX).await?;
    let (registry, app_too) = (Arc::clone(&app.registry), Arc::clone(app));
    let (repository, reference) = (repository.clone(), reference.clone());
    let address = context.target.split('?').next().unwrap_or_default().to_owned();
    let path = place.path;
    let made = look(app, move || {
        let described = registry.images().describe(&repository, &reference)?;
        let described = described.ok_or_else(|| StorageError::ManifestUnknown {
            repository: repository.clone(),
            reference: reference.clone(),
        })?;
        let seen = Seen {
            visit: &visit,
            registry: &registry,
            repository: &repository,
            reference: &reference,
            asked: &asked,
            described: &described,
            may_delete,
        };
        make(&app_too.fragments, &seen, &path, &address)
    });
    Ok(match made.await? {
        Made::Page(html) => page(context, html),
        Made::Elsewhere(to) => redirect(StatusCode::TEMPORARY_REDIRECT, &to),
    })
}

enum Made {
    Page(String),
    Elsewhere(String),
}

/// Opens the image for the platform that is asked for, or else for the server's, or else the first.
pub fn open(
    registry: &Registry,
    repository: &Repository,
    reference: &Reference,
    asked: &Asked,
) -> Result<Opened> {
    let images = registry.images();
    let opened = match images.open_in(repository, reference, asked.platform.as_ref()) {
        Err(error @ image::Error::NoPlatform { .. }) if asked.platform.is_none() => {
            let platforms = images.platforms(repository, reference)?.unwrap_or_default();
            match platforms.into_iter().find(|platform| !platform.is_unknown()) {
                Some(first) => images.open_in(repository, reference, Some(&first)),
                None => Err(error),
            }
        }
        opened => opened,
    };
    Ok(match &asked.layer {
        Some(layer) => opened?.one_layer(layer)?,
        None => opened?,
    })
}

fn make(known: &Fragments, seen: &Seen<'_>, path: &[u8], address: &str) -> Result<Made> {
    let opened = match open(seen.registry, seen.repository, seen.reference, seen.asked) {
        Ok(opened) => opened,
        // What the image is can be told all the same.
        Err(error) if path.is_empty() && seen.asked.layer.is_none() => {
            let note = html! { p.note.bad { "Its files cannot be shown: " (Shown(error.to_string().as_bytes())) } };
            let main = overview(seen, None, &note)?;
            return Ok(Made::Page(layout::page(seen.visit, &seen.name(), &main)));
        }
        Err(error) => return Err(error),
    };
    let list = if seen.asked.deleted { Listing::with_deleted } else { Listing::new };
    let listing = list(opened, path, false)?;
    let shown = listing.shown().clone();
    if !shown.is_directory() {
        // What the image does not show is read in its layer.
        if let (true, Opened::Image(image)) = (seen.asked.deleted, listing.opened())
            && image.remover(&shown)?.is_some()
        {
            let layer = digits(&image.layers[shown.layer].digest).parse().ok();
            let asked = Asked { layer, deleted: false, ..seen.asked.clone() };
            return Ok(Made::Elsewhere(format!("{address}{}", asked.query())));
        }
        let html = file::make(seen, listing.opened(), path, &shown)?;
        return Ok(Made::Page(html));
    }
    // Links from a directory are relative to its address.
    if !address.ends_with('/') {
        return Ok(Made::Elsewhere(format!("{address}/{}", seen.asked.query())));
    }
    let opened = listing.opened().clone();
    let fragment = fragment(known, seen.asked, listing)?;
    let table = table(seen, &opened, &shown, &fragment);
    let main = match path.is_empty() && seen.asked.layer.is_none() {
        true => overview(seen, Some(&opened), &table)?,
        false => directory(seen, &opened, &shown, path, &table),
    };
    let title = match path.is_empty() {
        true => seen.name(),
        false => format!("/{} in {}", String::from_utf8_lossy(&shown.path), seen.name()),
    };
    Ok(Made::Page(layout::page(seen.visit, &title, &main)))
}

/// A directory below the root, or one layer.
fn directory(
    seen: &Seen<'_>,
    opened: &Opened,
    shown: &Node,
    path: &[u8],
    table: &Markup,
) -> Markup {
    let lines = [
        format!("registry ls -l{} {} {}", seen.flags(), seen.name(), quoted([b"/", path].concat())),
        layout::curl(seen.visit, &seen.call("tree", path)),
        format!("{} | tar x", layout::curl(seen.visit, &seen.call("tar", path))),
    ];
    html! {
        (seen.crumbs(&shown.path))
        div.title { h1 { (name_of(shown)) } (of_layer(seen, opened)) }
        (tools(seen, opened, path))
        (table)
        (layout::commands(&lines))
    }
}

/// The name at the end of a path, with a slash for the root.
pub fn name_of(node: &Node) -> Markup {
    html! { bdi { @if node.path.is_empty() { "/" } @else { (Shown(node.name())) } } }
}

/// Says that one layer is shown, and how to get back.
pub fn of_layer(seen: &Seen<'_>, opened: &Opened) -> Markup {
    let Opened::Layer(layer) = opened else { return html! {} };
    html! {
        span.mono { "layer " (layer.place() + 1) " of " (layer.image().layers.len()) ", " (layer.digest()) }
        " " a href={ (seen.url(b"")) } { "The whole image" }
    }
}

/// The views of a directory, and the search in it.
fn tools(seen: &Seen<'_>, opened: &Opened, path: &[u8]) -> Markup {
    let asked = seen.asked;
    let is_image = matches!(opened, Opened::Image(_));
    let url = seen.url(path);
    let url = if path.is_empty() { url } else { format!("{}/", url.trim_end_matches('/')) };
    let other = |change: &dyn Fn(&mut Asked)| {
        let mut asked = asked.clone();
        change(&mut asked);
        format!("{url}{}", asked.query())
    };
    let choice = |is_here: bool, to: String, text: &str| {
        html! {
            li { @if is_here { span aria-current="page" { (text) } } @else { a href=(to) { (text) } } }
        }
    };
    let below = [b"/".as_slice(), path].concat();
    let below = String::from_utf8_lossy(&below).trim_end_matches('/').to_owned();
    html! {
        ul.tabs {
            (choice(!asked.deleted && !asked.by_size, other(&|asked| asked.deleted = false), "Files"))
            (choice(asked.by_size, format!("{url}{}", asked.with("sort=size")), "By size"))
            @if is_image {
                (choice(asked.deleted && !asked.by_size, other(&|asked| asked.deleted = true), "With deleted ones"))
                (choice(false, format!("{url}{}", asked.with("view=space")), "What takes the space"))
            }
            (choice(false, format!("{url}{}", asked.with("raw=tar")), "Download as tar"))
        }
        @if is_image && seen.asked.layer.is_none() {
            form.form action="/ui/_find" {
                input type="hidden" name="image" value=(seen.name());
                input type="hidden" name="path" value={ (below) "/**" };
                label.wide { "Find files below this directory" input name="name" placeholder="*.so*"; }
                button { "Find" }
            }
        }
    }
}

/// The entries of a directory as HTML, and where the next page begins.
pub struct Fragment {
    html: Bytes,
    next: Option<String>,
    /// A note about the order.
    is_unsorted: bool,
    is_empty: bool,
}

/// What decides the entries of a directory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    manifest: Digest,
    path: Vec<u8>,
    /// What links keep.
    query: String,
    by_size: bool,
    from: usize,
    after: Option<Vec<u8>>,
}

#[derive(Clone, Debug)]
pub struct ByBytes;

impl Weighter<Key, Arc<Fragment>> for ByBytes {
    fn weight(&self, key: &Key, fragment: &Arc<Fragment>) -> u64 {
        let lengths = [
            fragment.html.len(),
            fragment.next.as_ref().map_or(0, String::len),
            key.path.len() + key.query.len(),
            key.after.as_ref().map_or(0, Vec::len),
            size_of::<Key>() + size_of::<Fragment>(),
        ];
        lengths.iter().sum::<usize>() as u64
    }
}

/// Directories as pages have them. What a manifest's layers hold never changes.
pub type Fragments = Cache<Key, Arc<Fragment>, ByBytes>;

/// In bytes.
const FRAGMENTS: u64 = 16 << 20;

pub fn fragments() -> Fragments {
    const TYPICAL: u64 = 16 << 10;
    Cache::with_weighter((FRAGMENTS / TYPICAL) as usize, FRAGMENTS, ByBytes)
}

fn fragment(known: &Fragments, asked: &Asked, listing: Listing) -> Result<Arc<Fragment>> {
    let opened = listing.opened().clone();
    let key = Key {
        manifest: opened.manifest(),
        path: listing.shown().path.clone(),
        query: asked.query(),
        by_size: asked.by_size,
        from: asked.from,
        after: asked.after.clone(),
    };
    // What an artifact shows depends on the blobs that its repository holds.
    let is_lasting = !matches!(opened, Opened::Artifact(_));
    if let Some(fragment) = known.get(&key).filter(|_| is_lasting) {
        return Ok(fragment);
    }
    let fragment = Arc::new(rows(&opened, listing, asked)?);
    if is_lasting {
        known.insert(key, Arc::clone(&fragment));
    }
    Ok(fragment)
}

fn rows(opened: &Opened, listing: Listing, asked: &Asked) -> Result<Fragment> {
    let directory = listing.shown().path.clone();
    let mut rows = Rows::new(opened, asked, &directory)?;
    let mut is_unsorted = false;
    if asked.by_size {
        let (mut nodes, mut bytes): (Vec<(Node, bool)>, usize) = (Vec::new(), 0);
        let stop = listing.clone().visit(|node, deleted| {
            bytes += node.bytes();
            nodes.push((node.clone(), deleted));
            nodes.len() <= SORTED_MAX && bytes < SORTED_BYTES
        })?;
        if stop == Stop::End {
            nodes.sort_by(|(a, _), (b, _)| (b.entry.size, &a.path).cmp(&(a.entry.size, &b.path)));
            let mut shown = 0;
            for (node, deleted) in nodes.iter().skip(asked.from).take(ROWS) {
                rows.push(node, *deleted)?;
                shown += 1;
                if rows.html.len() > PAGE_MAX {
                    break;
                }
            }
            let end = asked.from.saturating_add(shown);
            let next = (end < nodes.len()).then(|| asked.with(&format!("sort=size&from={end}")));
            return Ok(rows.end(next, false));
        }
        is_unsorted = true;
    }
    let mut listing = listing.limit(ROWS as u64);
    if let Some(after) = &asked.after {
        let text = |path: &[u8]| String::from_utf8_lossy(path).chars().take(256).collect();
        let (after, directory) = (text(after), text(&directory));
        let at = asked.after.as_deref().unwrap_or_default();
        listing = listing.after(at).ok_or(Error::After { after, directory })?;
    }
    let mut failed = None;
    let stop = listing.visit(|node, deleted| match rows.push(node, deleted) {
        Ok(()) => rows.html.len() < PAGE_MAX,
        Err(error) => {
            failed = Some(error);
            false
        }
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    let next = listing.position().filter(|_| stop != Stop::End);
    let next = next.map(|last| asked.with(&format!("after=/{}", url_path(last))));
    Ok(rows.end(next, is_unsorted))
}

/// Rows of a directory while they are made.
struct Rows<'a> {
    image: Option<&'a Arc<Image>>,
    effects: Option<image::Effects<'a>>,
    asked: &'a Asked,
    /// Bytes of the directory's path with the slash after it.
    prefix: usize,
    query: String,
    layers: Vec<String>,
    /// What a link to one layer begins with.
    to_layer: String,
    html: String,
}

impl<'a> Rows<'a> {
    fn new(opened: &'a Opened, asked: &'a Asked, directory: &[u8]) -> Result<Rows<'a>> {
        let (image, effects) = match opened {
            Opened::Image(image) => (Some(image), None),
            Opened::Layer(layer) => (None, Some(layer.effects(directory)?)),
            Opened::Artifact(_) => (None, None),
        };
        let layers = image.map(|image| image.layers.iter().map(|layer| digits(&layer.digest)));
        Ok(Rows {
            image,
            effects,
            asked,
            prefix: if directory.is_empty() { 0 } else { directory.len() + 1 },
            query: asked.query(),
            layers: layers.into_iter().flatten().collect(),
            to_layer: Asked { deleted: false, ..asked.clone() }.with("layer="),
            html: String::new(),
        })
    }

    fn push(&mut self, node: &Node, deleted: bool) -> Result<()> {
        let entry = &node.entry;
        let name = node.path.get(self.prefix..).unwrap_or_default();
        let slash = if node.is_directory() { "/" } else { "" };
        let layer = self.layers.get(node.layer);
        // A deleted file is shown in its layer.
        let query = match layer.filter(|_| deleted && !node.is_directory()) {
            Some(layer) => {
                let layer = layer.parse().ok();
                let asked = Asked { layer, deleted: false, ..self.asked.clone() };
                asked.query()
            }
            None => self.query.clone(),
        };
        let gone_by = match (deleted, self.image) {
            (true, Some(image)) => image.remover(node)?,
            _ => None,
        };
        let effect = self.effects.as_ref().map(|effects| effects.of(node)).transpose()?;
        let is_link = matches!(entry.kind, Kind::Symlink | Kind::CrossLayerLink);
        let is_sized = matches!(entry.kind, Kind::Regular);
        let row = html! {
            tr class=[deleted.then_some("gone")] {
                td {
                    @if effect == Some(Effect::Deletes) {
                        del { (Shown(name)) }
                    } @else {
                        a class=[is_link.then_some("u")] href={ (url_path(name)) (slash) (query) } { (Shown(name)) (slash) }
                    }
                    @if is_link {
                        " → " (Shown(cut(&entry.link)))
                    }
                    @if let Some(by) = gone_by { " " span.tag.del { "taken away by layer " (by + 1) } }
                }
                td { @if is_sized { (size(entry.size)) } }
                td { (mode(entry)) }
                td { (entry.uid) ":" (entry.gid) }
                td { (day(entry.mtime)) }
                td {
                    @match effect {
                        Some(Effect::Adds) => span.tag.add { "added" },
                        Some(Effect::Changes) if node.is_directory() && !entry.hides => {},
                        Some(Effect::Changes) => span.tag.mod { @if entry.hides { "replaced" } @else { "changed" } },
                        Some(Effect::Deletes) => span.tag.del { "deleted" },
                        None => @if let Some(layer) = layer {
                            a href={ (self.to_layer) (layer) } { (node.layer + 1) }
                        },
                    }
                }
            }
        };
        self.html.push_str(&row.0);
        Ok(())
    }

    fn end(self, next: Option<String>, is_unsorted: bool) -> Fragment {
        let is_empty = self.html.is_empty();
        Fragment { html: self.html.into(), next, is_unsorted, is_empty }
    }
}

/// The beginning of a link's target, which may be long.
fn cut(link: &[u8]) -> &[u8] {
    const TARGET: usize = 200;
    &link[..link.len().min(TARGET)]
}

/// The table of a directory.
fn table(seen: &Seen<'_>, opened: &Opened, shown: &Node, fragment: &Fragment) -> Markup {
    let last = match opened {
        Opened::Image(_) => "Layer",
        Opened::Layer(_) => "What it does",
        Opened::Artifact(_) => "",
    };
    // Made of HTML that the template engine has escaped.
    let rows = PreEscaped(String::from_utf8_lossy(&fragment.html));
    let up = !shown.path.is_empty();
    html! {
        @if fragment.is_unsorted {
            p.note { "The directory has too many entries to sort them by size, so they are sorted by name." }
        }
        div.table { table.files.rows {
            thead { tr { th { "Name" } th { "Size" } th { "Mode" } th { "Owner" } th { "Changed" } @if last.is_empty() { td {} } @else { th { (last) } } } }
            tbody {
                @if up { tr { td { a rel="up" href={ "../" (seen.asked.query()) } { "../" } } td {} td {} td {} td {} td {} } }
                (rows)
                @if fragment.is_empty { tr { td.empty colspan="6" { "There is nothing in this directory." } } }
            }
        } }
        @if let Some(next) = &fragment.next { p.pages { a rel="next" href=(next) { "More entries" } } }
    }
}

/// The page of an image as a whole. `files` is its root directory, or why it cannot be shown.
fn overview(seen: &Seen<'_>, opened: Option<&Opened>, files: &Markup) -> Result<Markup> {
    let Seen { visit, repository, reference, described, .. } = seen;
    let image = match opened {
        Some(Opened::Image(image)) => Some(image),
        _ => None,
    };
    let config = match (image, &described.summary.kind) {
        (Some(image), _) => Some(image.config),
        (None, crate::oci::ManifestKind::Image { config }) => Some(*config),
        _ => None,
    };
    let about = config.map(|config| seen.registry.images().about(repository, &config));
    let about = about.and_then(Result::ok).flatten();
    let shown = image.map_or(described.digest, |image| image.manifest);
    let platform = match image {
        Some(image) => seen.registry.images().platform(repository, &image.config)?,
        None => None,
    };
    let referrers = seen.registry.referrers(repository, &described.digest, None, None)?;
    let of_this = if shown == described.digest {
        Vec::new()
    } else {
        seen.registry.referrers(repository, &shown, None, None)?.items
    };
    let referrers: Vec<_> = referrers.items.into_iter().chain(of_this).collect();
    let pulled = layout::pulled(visit, repository, reference);
    let lines = [
        format!("registry ls -l{} {}", seen.flags(), seen.name()),
        layout::curl(visit, &seen.call("tree", b"")),
        layout::curl(visit, &format!("/v2/{repository}/manifests/{reference}")),
    ];
    Ok(html! {
        (layout::crumbs(Some(repository), &[(repository_url(repository), html! { (repository.as_str().rsplit('/').next().unwrap_or_default()) })]))
        div.title { h1 { (repository) (image_title(reference)) } span.mono { (described.digest) } }
        p.facts {
            span { b { (repository::kind(&described.summary)) } }
            @if let Some(image) = image {
                @let bytes: u64 = image.layers.iter().map(|layer| layer.record.compressed).sum();
                @let unpacked: u64 = image.layers.iter().map(|layer| layer.record.uncompressed).sum();
                span { b { (size(bytes)) } " to pull" }
                span { b { (size(unpacked)) } " unpacked" }
                span { b { (count(image.layers.len() as u64, "layer", "layers")) } }
            } @else {
                span { b { (size(described.size)) } }
            }
            @if let Some(platform) = &platform { span { b { (Shown(platform.to_string().as_bytes())) } } }
            @if let Some(created) = about.as_ref().and_then(|about| about.created.as_deref()) {
                span { "Made " b { (Shown(day_of(created).as_bytes())) } }
            }
            span { "Pushed " b { (minute(described.changed)) } }
        }
        @if described.platforms.len() > 1 {
            ul.tabs aria-label="Platforms" {
                @for other in &described.platforms {
                    @let text = other.to_string();
                    li {
                        @if platform.as_ref() == Some(other) { span aria-current="page" { (Shown(text.as_bytes())) } }
                        @else { a href={ (seen.url(b"")) "?platform=" (query_value(&text)) } { (Shown(text.as_bytes())) } }
                    }
                }
            }
        }
        @for warning in image.iter().flat_map(|image| &image.warnings) {
            p.note { (Shown(warning.as_bytes())) }
        }
        @if let Some(subject) = &described.summary.subject {
            p { "It belongs to " a href=(image_url(repository, &Reference::Digest(*subject), b"")) { span.mono { (subject) } } }
        }
        (layout::line(&format!("docker pull {pulled}")))
        @if let Some(opened) = opened { (tools(seen, opened, b"")) }
        (files)
        @if let Some(image) = image { (about::layers(seen, image, about.as_ref())) }
        @if let Some(about) = &about { (about::config(about)) }
        @if !referrers.is_empty() { (about::referrers(repository, &referrers)) }
        (layout::commands(&lines))
        @if seen.may_delete {
            p.pages { a href={ "/ui/_delete/" (seen.name()) } { "Delete " (repository) (image_title(reference)) "…" } }
        }
    })
}

/// What follows the name of the repository in the title of an image.
fn image_title(reference: &Reference) -> Markup {
    match reference {
        Reference::Tag(tag) => html! { ":" (tag) },
        Reference::Digest(digest) => html! { "@" (digits(digest)) },
    }
}

/// The day of a time in the text of a config.
fn day_of(text: &str) -> String {
    short(text.split('T').next().unwrap_or_default(), 40)
}

/// An image by its digest alone is shown where it is.
async fn located(
    app: &Arc<App>,
    context: &mut RequestContext,
    place: Place,
) -> Result<Response<Body>> {
    let permitted = permitted(app, context);
    let registry = Arc::clone(&app.registry);
    let to = look(app, move || {
        let (repository, reference) = registry.images().locate(&place.id, &*permitted)?;
        if registry.images().target(&repository, &reference)?.is_none() {
            return Err(image::Error::Unknown(place.id.to_string()).into());
        }
        Ok(image_url(&repository, &reference, &place.path))
    });
    Ok(redirect(StatusCode::SEE_OTHER, &to.await?))
}

/// Types that a browser shows as what they are.
pub const PICTURES: [&str; 8] = [
    "image/png",
    "image/jpeg",
    "image/gif",
    "image/webp",
    "image/svg+xml",
    "image/x-icon",
    "image/avif",
    "image/bmp",
];

/// `?raw=`: the bytes themselves. Nothing in them can run.
async fn raw(
    app: &Arc<App>,
    context: &mut RequestContext,
    place: Place,
    kind: &str,
) -> Result<Response<Body>> {
    let name = place.path.rsplit(|&b| b == b'/').find(|name| !name.is_empty());
    let name = url_path(name.unwrap_or(b"image"));
    let view = if kind == "tar" { FilesView::Tar } else { FilesView::Blob };
    let files = Files { image: Scope::Any(place.id), view, path: place.path };
    let mut response = files::answer(app, context, files).await?;
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("sandbox; default-src 'none'; frame-ancestors 'none'"),
    );
    let is_whole =
        !headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"multipart"));
    let media_type = PICTURES.iter().find(|picture| **picture == kind).copied();
    let media_type = media_type.or((kind == "text").then_some("text/plain; charset=utf-8"));
    if let Some(media_type) = media_type.filter(|_| is_whole) {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    } else {
        let ending = if kind == "tar" { ".tar" } else { "" };
        let value = format!("attachment; filename*=UTF-8''{name}{ending}");
        headers.insert(CONTENT_DISPOSITION, crate::http::respond::header(value));
    }
    Ok(response)
}

/// The name of a file for a title.
pub fn title_of(seen: &Seen<'_>, path: &[u8]) -> String {
    format!("{} in {}", plain(path), seen.name())
}
