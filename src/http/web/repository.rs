//! A repository: its tags, and all its manifests.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use hyper::Response;
use maud::{Markup, html};

use super::show::{
    Shown, count, digits, image_name, image_url, minute, number, query_value, repository_url, size,
};
use super::{PAGE_MAX, Visit, layout, page};
use crate::auth::Right;
use crate::http::body::Body;
use crate::http::error::Result;
use crate::http::files::look;
use crate::http::{App, RequestContext};
use crate::image::{Described, Time, View};
use crate::oci::{Digest, ManifestKind, Reference, Repository, Summary, Tag};
use crate::registry::{Overview, Registry, StorageError};

/// Rows of a page.
const ROWS: usize = 100;
/// Tags that can be sorted by time or size. More are sorted by name.
const SORTED_MAX: usize = 1000;
/// Platforms that a row names.
const PLATFORMS: usize = 4;

/// How tags are sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Name,
    Time,
    Size,
}

impl Order {
    const ALL: [(Order, &'static str, &'static str); 3] = [
        (Order::Time, "time", "Newest first"),
        (Order::Name, "name", "By name"),
        (Order::Size, "size", "Largest first"),
    ];
}

/// A row, and how it is named.
struct Row {
    reference: Reference,
    described: Described,
    /// Bytes of layers that another row has too.
    shared: u64,
    /// Tags that lead to a manifest, where manifests are listed.
    tags: Vec<String>,
}

impl Row {
    /// Whether clients run it, rather than read it.
    fn is_image(&self) -> bool {
        matches!(
            self.described.summary.kind,
            ManifestKind::Image { .. } | ManifestKind::Index { artifact_type: None, .. }
        )
    }
}

/// What one list of a repository has.
struct List {
    rows: Vec<Row>,
    overview: Overview,
    order: Order,
    /// The parameter with which the next page begins.
    next: Option<String>,
    /// There are too many tags to sort them as was asked.
    is_unsorted: bool,
}

/// `/ui/NAME?sort=&view=&from=&after_name=`
pub async fn answer(
    app: &Arc<App>,
    context: &mut RequestContext,
    repository: Repository,
) -> Result<Response<Body>> {
    let visit = Visit::new(app, context);
    let order = context.parameter("sort");
    let order =
        Order::ALL.iter().find(|(_, name, _)| Some(*name) == order).map(|(order, ..)| *order);
    let manifests = context.parameter("view") == Some("manifests");
    let from = context.parameter("from").and_then(|text| text.parse().ok()).unwrap_or(0);
    let after = context.parameter("after_name").unwrap_or_default().to_owned();
    let may = |right| app.access.may(&context.proof.identity, &repository, right);
    let rights = [Right::Pull, Right::Push, Right::Delete].map(may);
    let may_delete = rights[2] && !app.read_only;
    context.pay_ahead(app, PAGE_MAX).await?;
    let registry = Arc::clone(&app.registry);
    let name = repository.clone();
    let list = look(app, move || match manifests {
        true => all_manifests(&registry, &name, &after),
        false => tags(&registry, &name, order, from, &after),
    })
    .await?;
    let main = html! {
        (layout::crumbs(Some(&repository), &[]))
        div.title { h1 { (repository) } }
        p.facts {
            @if let Some(tags) = list.overview.tags { span { b { (count(tags, "tag", "tags")) } } }
            @if let Some(changed) = list.overview.changed { span { "Newest push " b { (minute(changed)) } " UTC" } }
            span { "You may " b { (allowed(rights, app.read_only)) } }
        }
        (content(&visit, &repository, &list, manifests, may_delete))
    };
    Ok(page(context, layout::page(&visit, repository.as_str(), &main)))
}

fn allowed([pull, push, delete]: [bool; 3], read_only: bool) -> String {
    let writes = [(push, "push"), (delete, "delete")];
    let writes = writes.into_iter().filter(|(may, _)| *may && !read_only).map(|(_, verb)| verb);
    let verbs: Vec<&str> = pull.then_some("pull").into_iter().chain(writes).collect();
    verbs.join(", ")
}

fn tags(
    registry: &Registry,
    repository: &Repository,
    order: Option<Order>,
    from: usize,
    after: &str,
) -> Result<List> {
    let overview = registry.overview(repository)?;
    let few = overview.tags.is_some_and(|tags| tags <= SORTED_MAX as u64);
    let is_unsorted = !few && order.is_some_and(|order| order != Order::Name);
    let order = if few { order.unwrap_or(Order::Time) } else { Order::Name };
    let describe = |tag: &Tag| -> Result<Option<(Tag, Described)>> {
        let described = registry.images().describe(repository, &Reference::Tag(tag.clone()))?;
        // It may have been deleted meanwhile.
        Ok(described.map(|described| (tag.clone(), described)))
    };
    let (found, next) = if order == Order::Name {
        let page = registry.tags(repository, after, ROWS)?;
        let found = page.items.iter().filter_map(|tag| describe(tag).transpose());
        let next = page.next.map(|last| format!("after_name={}", query_value(last)));
        (found.collect::<Result<Vec<_>>>()?, next)
    } else {
        let all = registry.tags(repository, "", SORTED_MAX)?.items;
        sorted(registry, repository, all, order, from, &describe)?
    };
    Ok(List { rows: rows(found), overview, order, next, is_unsorted })
}

type Found = Vec<(Tag, Described)>;
/// Says what a tag leads to; `None`: it is gone.
type Describe<'a> = dyn Fn(&Tag) -> Result<Option<(Tag, Described)>> + 'a;

/// Some tags in the order of time or size.
fn sorted(
    registry: &Registry,
    repository: &Repository,
    tags: Vec<Tag>,
    order: Order,
    from: usize,
    describe: &Describe<'_>,
) -> Result<(Found, Option<String>)> {
    let mut keyed: Vec<(u64, i64, u32, Tag)> = Vec::with_capacity(tags.len());
    for tag in tags {
        let (size, changed) = match order {
            Order::Size => match describe(&tag)? {
                Some((_, described)) => (described.size, described.changed),
                None => continue,
            },
            _ => match registry.images().target(repository, &Reference::Tag(tag.clone()))? {
                Some(target) => (0, target.changed),
                None => continue,
            },
        };
        keyed.push((size, changed.seconds, changed.nanoseconds, tag));
    }
    let total = keyed.len();
    keyed.sort_by(|a, b| (b.0, b.1, b.2).cmp(&(a.0, a.1, a.2)).then_with(|| a.3.cmp(&b.3)));
    let part = keyed.into_iter().skip(from).take(ROWS).map(|(.., tag)| tag);
    let found = part.filter_map(|tag| describe(&tag).transpose()).collect::<Result<Vec<_>>>()?;
    let end = from.saturating_add(ROWS);
    let name =
        Order::ALL.iter().find(|(known, ..)| *known == order).map_or("", |(_, name, _)| name);
    Ok((found, (end < total).then(|| format!("sort={name}&from={end}"))))
}

/// Rows of tags, with what each shares with the others.
fn rows(found: Found) -> Vec<Row> {
    let mut holders: HashMap<Digest, usize> = HashMap::new();
    // Tags of one manifest share everything, which says nothing.
    let mut seen = HashSet::new();
    for (_, described) in &found {
        if seen.insert(described.digest) {
            let layers: HashSet<Digest> =
                described.summary.layers.iter().map(|(digest, _)| *digest).collect();
            layers.into_iter().for_each(|layer| *holders.entry(layer).or_default() += 1);
        }
    }
    let row = |(tag, described): (Tag, Described)| {
        let mut counted = HashSet::new();
        let layers = described.summary.layers.iter();
        let shared = layers
            .filter(|(digest, _)| {
                holders.get(digest).is_some_and(|n| *n > 1) && counted.insert(*digest)
            })
            .map(|(_, size)| *size)
            .fold(0, u64::saturating_add);
        Row { reference: Reference::Tag(tag), described, shared, tags: Vec::new() }
    };
    found.into_iter().map(row).collect()
}

/// All manifests by digest, with the tags that lead to them.
fn all_manifests(registry: &Registry, repository: &Repository, after: &str) -> Result<List> {
    /// Tags that are followed.
    const FOLLOWED: usize = 10_000;
    let overview = registry.overview(repository)?;
    let mut tags: HashMap<Digest, Vec<String>> = HashMap::new();
    for tag in registry.tags(repository, "", FOLLOWED)?.items {
        let target = registry.images().target(repository, &Reference::Tag(tag.clone()))?;
        if let Some(target) = target {
            tags.entry(target.digest).or_default().push(tag.to_string());
        }
    }
    let listed = registry.manifests(repository, after, ROWS)?;
    let mut rows = Vec::new();
    for digest in listed.items {
        let reference = Reference::Digest(digest);
        if let Some(described) = registry.images().describe(repository, &reference)? {
            let tags = tags.remove(&digest).unwrap_or_default();
            rows.push(Row { reference, described, shared: 0, tags });
        }
    }
    let next = listed.next.map(|last| format!("after_name={}", query_value(last)));
    Ok(List { rows, overview, order: Order::Name, next, is_unsorted: false })
}

fn content(
    visit: &Visit,
    repository: &Repository,
    list: &List,
    manifests: bool,
    may_delete: bool,
) -> Markup {
    let url = repository_url(repository);
    let first = list.rows.iter().find(|row| row.is_image());
    let pulled = first.map(|row| layout::pulled(visit, repository, &row.reference));
    let lines = [
        layout::curl(visit, &format!("/v2/{repository}/tags/list")),
        format!("skopeo list-tags docker://{}/{repository}", layout::host(visit)),
    ];
    let next = list.next.as_ref().map(|next| match manifests {
        true => format!("{url}?view=manifests&{next}"),
        false => format!("{url}?{next}"),
    });
    html! {
        @if let (Some(pulled), false) = (&pulled, manifests) {
            (layout::line(&format!("docker pull {pulled}")))
            (layout::line(&format!("podman pull {pulled}")))
        }
        ul.tabs {
            @for (order, name, text) in Order::ALL {
                li {
                    @if !manifests && order == list.order { span aria-current="page" { (text) } }
                    @else { a href={ (url) "?sort=" (name) } { (text) } }
                }
            }
            li {
                @if manifests { span aria-current="page" { "All manifests" } }
                @else { a href={ (url) "?view=manifests" } { "All manifests" } }
            }
        }
        @if list.is_unsorted {
            p.note { "The repository has more than " (number(SORTED_MAX as u64)) " tags, so they are sorted by name." }
        }
        @if list.rows.is_empty() {
            div.card { p.empty { @if manifests { "There is no manifest." } @else { "There is no tag." } } }
        } @else if manifests {
            (manifest_table(repository, &list.rows, may_delete))
        } @else {
            (tag_table(repository, &list.rows, may_delete))
        }
        @if let Some(next) = next { p.pages { a rel="next" href=(next) { "More" } } }
        (layout::commands(&lines))
    }
}

fn tag_table(repository: &Repository, rows: &[Row], may_delete: bool) -> Markup {
    html! {
        form action="/ui/_diff" {
            div.table { table.rows {
                thead { tr {
                    th { span title="Tick two to compare them" { "Tick" } } th { "Tag" } th.optional { "Platforms" } th.n { "Size" }
                    th.n.optional { span title="Bytes of layers that another tag of this page has too" { "Shared" } }
                    th.n { "Pushed (UTC)" } th.optional { "Digest" } @if may_delete { td.optional {} }
                } }
                tbody {
                    @for row in rows {
                        @let name = image_name(repository, &row.reference);
                        @let is_image = row.is_image();
                        tr {
                            td { @if is_image { input type="checkbox" name="image" value=(name) aria-label={ "Compare " (row.reference) }; } }
                            td.name { a href=(image_url(repository, &row.reference, b"")) { (row.reference) } @if !is_image { " " span.tag { (kind(&row.described.summary)) } } }
                            td.optional { (platforms(&row.described)) }
                            td.n { (size(row.described.size)) }
                            td.n.optional { @if row.shared > 0 { (size(row.shared)) } }
                            td.n { (when(row.described.changed)) }
                            td.w.mono.optional { a href=(image_url(repository, &Reference::Digest(row.described.digest), b"")) title=(row.described.digest) { (digits(&row.described.digest)) } }
                            @if may_delete { td.optional { a href={ "/ui/_delete/" (name) } aria-label={ "Delete " (row.reference) } { "Delete…" } } }
                        }
                    }
                }
            } }
            p { button { "Compare the two that are ticked" } }
        }
    }
}

fn manifest_table(repository: &Repository, rows: &[Row], may_delete: bool) -> Markup {
    html! {
        div.table { table.rows {
            thead { tr { th { "Digest" } th { "What it is" } th.optional { "Platforms" } th.n { "Size" } th { "Tags" } th.n.optional { "Pushed (UTC)" } @if may_delete { td.optional {} } } }
            tbody {
                @for row in rows {
                    tr {
                        td.w.mono { a href=(image_url(repository, &row.reference, b"")) title=(row.described.digest) { (digits(&row.described.digest)) } }
                        td {
                            (kind(&row.described.summary))
                            @if let Some(subject) = &row.described.summary.subject {
                                " of " a.mono href=(image_url(repository, &Reference::Digest(*subject), b"")) { (digits(subject)) }
                            }
                        }
                        td.optional { (platforms(&row.described)) }
                        td.n { (size(row.described.size)) }
                        td {
                            @for tag in row.tags.iter().take(10) { span.tag { (tag) } " " }
                            @if row.tags.len() > 10 { "and " (row.tags.len() - 10) " more" }
                            @if row.tags.is_empty() { small { "untagged" } }
                        }
                        td.n.optional { (minute(row.described.changed)) }
                        @if may_delete { td.optional { a href={ "/ui/_delete/" (image_name(repository, &row.reference)) } aria-label={ "Delete " (digits(&row.described.digest)) } { "Delete…" } } }
                    }
                }
            }
        } }
    }
}

/// A minute, of which narrow screens show the day.
pub fn when(time: Time) -> Markup {
    let text = minute(time);
    let (day, time) = text.split_once(' ').unwrap_or((&text, ""));
    html! { (day) span.optional { " " (time) } }
}

fn platforms(described: &Described) -> Markup {
    let platforms = &described.platforms;
    html! {
        @for platform in platforms.iter().take(PLATFORMS) { span.tag { (Shown(platform.to_string().as_bytes())) } " " }
        @if platforms.len() > PLATFORMS { "and " (platforms.len() - PLATFORMS) " more" }
    }
}

/// What a manifest is, in words.
pub fn kind(summary: &Summary) -> Markup {
    match &summary.kind {
        ManifestKind::Image { .. } => html! { "image" },
        ManifestKind::Index { artifact_type: Some(kind), .. } => artifact(kind),
        ManifestKind::Index { .. } => html! { "images for several platforms" },
        ManifestKind::Artifact { artifact_type } => artifact(artifact_type),
        ManifestKind::Unknown => html! { "manifest" },
    }
}

/// What an artifact is by its type. Only the words that tools use for theirs are known.
pub fn artifact(artifact_type: &str) -> Markup {
    let lower = artifact_type.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    let known = if has(&["sigstore", "cosign", "signature", "notary"]) {
        "signature"
    } else if has(&["spdx", "cyclonedx", "syft", "sbom"]) {
        "SBOM"
    } else if has(&["in-toto", "attestation", "provenance", "slsa"]) {
        "attestation"
    } else if has(&["helm"]) {
        "Helm chart"
    } else if has(&["wasm"]) {
        "WebAssembly module"
    } else {
        return html! { "artifact" @if !artifact_type.is_empty() { " " small { bdi { (Shown(artifact_type.as_bytes())) } } } };
    };
    html! { (known) }
}

/// The error for a manifest that is not there.
pub fn unknown(repository: &Repository, reference: &Reference) -> StorageError {
    StorageError::ManifestUnknown { repository: repository.clone(), reference: reference.clone() }
}
