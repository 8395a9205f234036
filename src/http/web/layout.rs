//! What all pages have in common.

use hyper::StatusCode;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::Visit;
use super::assets::{ICON, SCRIPT, STYLE};
use super::home::TAKEN;
use super::show::{Shown, plain, query_value, quoted, short};
use crate::oci::{Reference, Repository};

/// A whole page.
pub fn page(visit: &Visit, title: &str, main: &Markup) -> String {
    let (start, end) = around(visit, title);
    [start.as_str(), &main.0, &end].concat()
}

/// What comes before and after the content of a page, for those that are sent while they are made.
pub fn around(visit: &Visit, title: &str) -> (String, String) {
    // No page has a NUL: it is shown as its code.
    const CONTENT: PreEscaped<&str> = PreEscaped("\0");
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                title { (plain(title.as_bytes())) " · registry" }
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                link rel="icon" href=(ICON.url);
                link rel="stylesheet" href=(STYLE.url);
                script src=(SCRIPT.url) defer {}
            }
            body {
                a.skip href="#main" { "Skip to the content" }
                header { div {
                    a.brand href="/ui/" { img src=(ICON.url) alt="" width="26" height="26"; "registry" }
                    form.search action="/ui/_search" role="search" {
                        input type="search" name="q" value=(visit.asked) maxlength="1000"
                            placeholder="A name, digest, file or text" aria-label="Search";
                        kbd aria-hidden="true" { "/" }
                    }
                    nav aria-label="Main" {
                        a href="/ui/_find" { "Find files" }
                        a href="/ui/_grep" { "Search text" }
                        (who(visit))
                    }
                } }
                main #main tabindex="-1" {
                    @if let Some(taken) = visit.taken { (understood(&visit.asked, taken)) }
                    (CONTENT)
                }
            }
        }
    };
    match page.0.split_once('\0') {
        Some((start, end)) => (start.to_owned(), end.to_owned()),
        None => (page.0, String::new()),
    }
}

/// What a search was taken for, and what else it can be.
fn understood(asked: &str, taken: &str) -> Markup {
    html! {
        p.note {
            "“" bdi { (Shown(short(asked, 100).as_bytes())) } "” was taken for " (taken) "."
            @for (name, words) in TAKEN.iter().filter(|(name, words)| {
                *words != taken && matches!(*name, "repository" | "file" | "text")
            }) {
                " " a href={ "/ui/_search?as=" (name) "&q=" (query_value(asked)) } { "Look for " (words) } "."
            }
        }
    }
}

fn who(visit: &Visit) -> Markup {
    html! {
        @match &visit.user {
            Some(name) => {
                a href="/ui/_login" title="Who you are and what you may do" { bdi { (Shown(name.as_bytes())) } }
                @if visit.by_cookie {
                    form method="post" action="/ui/_logout" {
                        input type="hidden" name="token" value=(visit.token);
                        button.link { "Log out" }
                    }
                }
            }
            None if visit.may_log_in => a href="/ui/_login" { "Log in" },
            None => {}
        }
    }
}

/// The way to a repository: a link to each folder of its name.
pub fn crumbs(repository: Option<&Repository>, more: &[(String, Markup)]) -> Markup {
    let name = repository.map(Repository::as_str).unwrap_or_default();
    let folders = name.match_indices('/').map(|(at, _)| &name[..at]);
    html! {
        nav.crumbs aria-label="Where this is" { ol {
            li { a href="/ui/" { "Repositories" } }
            @for folder in folders {
                li { a href={ "/ui/?below=" (folder) } { (folder.rsplit('/').next().unwrap_or(folder)) } }
            }
            @for (url, text) in more {
                li { a href=(url) { (text) } }
            }
        } }
    }
}

/// A command line, to copy.
pub fn line(line: &str) -> Markup {
    html! { div.copy { pre tabindex="0" { code { (Shown(line.as_bytes())) } } } }
}

/// Command lines that give what a page shows.
pub fn commands(lines: &[String]) -> Markup {
    html! {
        details.commands {
            summary { "The same on the command line" }
            @for text in lines { (line(text)) }
        }
    }
}

/// The command line of `curl` for an address of this server, which is percent-encoded.
pub fn curl(visit: &Visit, address: &str) -> String {
    let user = match &visit.user {
        Some(name) => format!("-u {} ", quoted(name)),
        None => String::new(),
    };
    format!("curl -s {user}{}", quoted(format!("{}{address}", visit.origin)))
}

/// The server as it stands in names of images.
pub fn host(visit: &Visit) -> &str {
    visit.origin.split_once("://").map_or(&visit.origin, |(_, host)| host)
}

/// The name under which clients pull an image.
pub fn pulled(visit: &Visit, repository: &Repository, reference: &Reference) -> String {
    format!("{}/{}", host(visit), super::show::image_name(repository, reference))
}

/// The page that says what went wrong.
pub fn error(visit: &Visit, code: StatusCode, message: &str, id: u64) -> String {
    let what = match code {
        StatusCode::NOT_FOUND => "Not found",
        StatusCode::UNAUTHORIZED => "Log in first",
        StatusCode::FORBIDDEN => "Not allowed",
        StatusCode::METHOD_NOT_ALLOWED => "Not possible here",
        StatusCode::UNPROCESSABLE_ENTITY => "This cannot be shown",
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => "Try again in a moment",
        code if code.is_server_error() => "Something went wrong",
        _ => "This address cannot be answered",
    };
    let hint = match code {
        StatusCode::NOT_FOUND if visit.user.is_none() && visit.may_log_in => {
            "It does not exist, or you have to log in to see it."
        }
        StatusCode::NOT_FOUND => "It may have been deleted, or the name is spelled in another way.",
        StatusCode::UNAUTHORIZED => {
            "This registry takes tokens of another service, so its pages have no login. \
             Clients log in with `docker login`."
        }
        _ => "",
    };
    let main = html! {
        h1 { (what) }
        p.note.bad role="alert" { (Shown(sentence(message).as_bytes())) }
        p { (hint) }
        p { a href="/ui/" { "All repositories" } }
        p { small { "Status " (code.as_u16()) ", request " code { (format!("{id:016x}")) } } }
    };
    page(visit, what, &main)
}

/// A message as a sentence.
fn sentence(message: &str) -> String {
    let mut characters = message.chars();
    let first = characters.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", characters.as_str())
}
