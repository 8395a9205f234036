//! The first page: the repositories, as a list and as a tree; and what a search is taken for.

use std::sync::Arc;

use hyper::{Response, StatusCode};
use maud::{Markup, html};

use super::repository::when;
use super::show::{Shown, image_url, query_value, repository_url};
use super::{Visit, layout, page, redirect};
use crate::http::body::Body;
use crate::http::error::Result;
use crate::http::files::look;
use crate::http::query::permitted;
use crate::http::{App, RequestContext};
use crate::image::{Id, View};
use crate::oci::{Digest, Repository};
use crate::query::Permitted;
use crate::registry::{Below, Caller, Overview, Page, Registry};

/// Rows of a page.
const ROWS: usize = 100;

/// What the page lists.
enum Asked {
    All,
    /// What is directly below this part of names, which is empty or ends in a slash.
    Below(String),
    /// Repositories with this in their names.
    Named(String),
}

enum Row {
    Repository(Repository, Overview),
    Folder(String),
}

/// `/ui/?view=&below=&named=&after=`
pub async fn home(app: &Arc<App>, context: &mut RequestContext) -> Result<Response<Body>> {
    let visit = Visit::new(app, context);
    let parameter = |name| context.parameter(name).filter(|text| !text.is_empty());
    let asked = match (parameter("named"), parameter("below"), parameter("view")) {
        (Some(text), ..) => Asked::Named(text.to_lowercase()),
        (None, Some(folder), _) => Asked::Below(format!("{}/", folder.trim_end_matches('/'))),
        (None, None, Some("tree")) => Asked::Below(String::new()),
        (None, None, _) => Asked::All,
    };
    let after = parameter("after_name").unwrap_or_default().to_owned();
    app.registry.wait_for_catalog().await?;
    let (registry, caller) = (Arc::clone(&app.registry), context.caller(app));
    let (asked, rows, next) = look(app, move || {
        let below = match &asked {
            Asked::Below(folder) => registry.below(&caller, folder, &after, ROWS)?,
            Asked::All => repositories(registry.catalog(&caller, after, ROWS)?),
            Asked::Named(text) => {
                let wanted = |name: &str| name.contains(text.as_str());
                repositories(registry.catalog_where(&caller, after, ROWS, &wanted)?)
            }
        };
        let rows = below.items.into_iter().map(|item| {
            Ok(match item {
                Below::Folder(name) => Row::Folder(name),
                Below::Repository(name) => {
                    let overview = registry.overview(&name)?;
                    Row::Repository(name, overview)
                }
            })
        });
        let rows = rows.collect::<Result<Vec<_>>>()?;
        Ok((asked, rows, below.next))
    })
    .await?;
    let html = layout::page(&visit, "Repositories", &list(&visit, &asked, &rows, next));
    Ok(page(context, html))
}

fn repositories(page: Page<Repository>) -> Page<Below> {
    let items = page.items.into_iter().map(Below::Repository).collect();
    Page { items, next: page.next }
}

fn list(visit: &Visit, asked: &Asked, rows: &[Row], next: Option<String>) -> Markup {
    let (below, address) = match asked {
        Asked::All => ("", "/ui/?".to_owned()),
        Asked::Below(folder) if folder.is_empty() => ("", "/ui/?view=tree&".to_owned()),
        Asked::Below(folder) => (folder.as_str(), format!("/ui/?below={}&", query_value(folder))),
        Asked::Named(text) => ("", format!("/ui/?named={}&", query_value(text))),
    };
    html! {
        @if let Some((folders, last)) = folders(below) {
            nav.crumbs aria-label="Where this is" { ol {
                li { a rel="up" href="/ui/?view=tree" { "Repositories" } }
                @for folder in folders { li { a href={ "/ui/?below=" (folder) } { (last_part(folder)) } } }
            } }
            h1 { (last) "/" }
        } @else {
            h1 { "Repositories" @if let Asked::Named(text) = asked { " with “" (Shown(text.as_bytes())) "”" } }
        }
        ul.tabs {
            @for (is_here, url, text) in [
                (matches!(asked, Asked::All), "/ui/", "List"),
                (matches!(asked, Asked::Below(_)), "/ui/?view=tree", "Tree"),
            ] {
                li { @if is_here { span aria-current="page" { (text) } } @else { a href=(url) { (text) } } }
            }
        }
        @if rows.is_empty() {
            div.card { p.empty { (nothing(asked)) } @if matches!(asked, Asked::All) { (how_to_push(visit)) } }
        } @else {
            div.table { table.rows {
                thead { tr { th { "Name" } th.n { "Tags" } th.n { "Newest push (UTC)" } } }
                tbody { @for row in rows { tr { (cells(row, below)) } } }
            } }
        }
        @if let Some(next) = next {
            p.pages { a rel="next" href={ (address) "after_name=" (query_value(&next)) } { "More repositories" } }
        }
        (layout::commands(&[layout::curl(visit, "/v2/_catalog")]))
    }
}

/// The folders above the last one, and its name.
fn folders(below: &str) -> Option<(Vec<&str>, &str)> {
    let folder = below.strip_suffix('/')?;
    let above = folder.match_indices('/').map(|(at, _)| &folder[..at]).collect();
    Some((above, last_part(folder)))
}

fn last_part(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

fn cells(row: &Row, below: &str) -> Markup {
    html! {
        @match row {
            Row::Folder(name) => {
                td.name { a href={ "/ui/?below=" (name) } { b { (name[below.len()..]) "/" } } }
                td.n {} td.n {}
            }
            Row::Repository(name, overview) => {
                td.name { a href=(repository_url(name)) { (name.as_str()[below.len()..]) } }
                td.n { (tags(overview)) }
                td.n { @if let Some(changed) = overview.changed { (when(changed)) } }
            }
        }
    }
}

fn tags(overview: &Overview) -> String {
    match overview.tags {
        Some(tags) => super::show::number(tags),
        None => "1000 and more".to_owned(),
    }
}

fn nothing(asked: &Asked) -> String {
    match asked {
        Asked::All => "There is no repository that you can see.".to_owned(),
        Asked::Below(folder) => format!("There is no repository below {folder}"),
        Asked::Named(text) => format!("No repository has {text} in its name."),
    }
}

fn how_to_push(visit: &Visit) -> Markup {
    let host = layout::host(visit);
    html! {
        p { "Push an image:" }
        (layout::line(&format!("docker tag IMAGE {host}/NAME:TAG")))
        (layout::line(&format!("docker push {host}/NAME:TAG")))
    }
}

/// What a search can be taken for, as the parameter `as` has it, and in words.
pub const TAKEN: [(&str, &str); 5] = [
    ("image", "an image"),
    ("repository", "a repository"),
    ("digest", "the digest of a file"),
    ("file", "the name of a file"),
    ("text", "text in files"),
];

/// `/ui/_search?q=&as=`: leads to what was meant. The page there says what it was taken for.
pub async fn search(app: &Arc<App>, context: &mut RequestContext) -> Result<Response<Body>> {
    let text = context.parameter("q").unwrap_or_default().trim().to_owned();
    let wanted = context.parameter("as").unwrap_or_default().to_owned();
    if text.is_empty() {
        return Ok(redirect(StatusCode::SEE_OTHER, "/ui/"));
    }
    app.registry.wait_for_catalog().await?;
    let registry = Arc::clone(&app.registry);
    let permitted = permitted(app, context);
    let caller = context.caller(app);
    let to = look(app, move || {
        let (taken, to) = match wanted.as_str() {
            "repository" => ("repository", named(&text)),
            "file" => ("file", file(&text)),
            "text" => ("text", lines(&text)),
            _ => guess(&registry, &caller, &permitted, &text)?,
        };
        let separator = if to.contains('?') { '&' } else { '?' };
        Ok(format!("{to}{separator}as={taken}&q={}", query_value(&text)))
    })
    .await?;
    Ok(redirect(StatusCode::SEE_OTHER, &to))
}

fn named(text: &str) -> String {
    format!("/ui/?named={}", query_value(text))
}

fn file(text: &str) -> String {
    let is_glob = text.contains(['*', '?', '[']);
    let glob = if is_glob { text.to_owned() } else { format!("*{text}*") };
    let parameter = if text.contains('/') { "path" } else { "name" };
    format!("/ui/_find?{parameter}={}", query_value(glob))
}

fn lines(text: &str) -> String {
    format!("/ui/_grep?fixed=1&pattern={}", query_value(text))
}

/// Images and repositories go first, then what looks like a file's name.
fn guess(
    registry: &Arc<Registry>,
    caller: &Caller,
    permitted: &Permitted,
    text: &str,
) -> Result<(&'static str, String)> {
    let images = registry.images();
    if let Ok(id) = text.parse::<Id>()
        && (text.contains([':', '@']) || matches!(id, Id::Hex { .. }))
        && let Ok((repository, reference)) = images.locate(&id, &**permitted)
        && images.target(&repository, &reference)?.is_some()
    {
        return Ok(("image", image_url(&repository, &reference, b"")));
    }
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    if format!("sha256:{hex}").parse::<Digest>().is_ok() {
        return Ok(("digest", format!("/ui/_find?sha256={hex}")));
    }
    if let Ok(repository) = text.parse::<Repository>()
        && permitted(&repository)
        && registry.overview(&repository)?.changed.is_some()
    {
        return Ok(("repository", repository_url(&repository)));
    }
    let wanted = text.to_lowercase();
    let found =
        registry.catalog_where(caller, String::new(), 1, &|name: &str| name.contains(&wanted))?;
    if !found.items.is_empty() {
        return Ok(("repository", named(text)));
    }
    let is_name = |text: &str| !text.contains(char::is_whitespace);
    let looks_like_file = text.contains(['/', '*', '?']) || text.trim_matches('.').contains('.');
    Ok(match is_name(text) && looks_like_file {
        true => ("file", file(text)),
        false => ("text", lines(text)),
    })
}
