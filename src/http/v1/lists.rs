//! Long lists: search, all tags of all repositories, a layer's files.

use std::sync::Arc;

use hyper::Response;
use hyper::header::HeaderValue;
use serde_json::{Value, json};

use super::text;
use crate::auth::Right;
use crate::http::body::{Body, PIECE, Produce};
use crate::http::error::{Error, Result};
use crate::http::files::look;
use crate::http::permits::Scarce;
use crate::http::{App, RequestContext};
use crate::image::{Entry, Kind};
use crate::oci::{Repository, Tag};
use crate::registry::{LayerFiles, TAGS_MAX};

/// Results of a search on one page, where the request does not say how many, and at most.
const RESULTS: usize = 25;
const RESULTS_MAX: usize = 100;
/// Repositories that one search counts.
const FOUND_MAX: usize = 10_000;

fn number(context: &RequestContext, name: &'static str, default: usize) -> Result<usize> {
    let Some(text) = context.parameter(name).filter(|text| !text.is_empty()) else {
        return Ok(default);
    };
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(Error::Parameter {
            name,
            value: text.chars().take(32).collect(),
            want: "a number from 1 on",
        }),
    }
}

/// `/v1/search?q=&page=&n=`
pub async fn search(app: &Arc<App>, context: &RequestContext) -> Result<Response<Body>> {
    let size = number(context, "n", RESULTS)?.min(RESULTS_MAX);
    let page = number(context, "page", 1)?;
    let query = context.parameter("q").unwrap_or_default().to_owned();
    app.registry.wait_for_catalog().await?;
    let mut names = app.registry.names(context.caller(app), Right::Catalog);
    let wanted = query.to_lowercase();
    let found = look(app, move || {
        let (mut found, mut count) = (Vec::new(), 0);
        let start = (page - 1).saturating_mul(size);
        while let Some(name) = names.next(|name| name.contains(&wanted))? {
            if count >= start && found.len() < size {
                found.push(json!({"name": name.as_str(), "description": ""}));
            }
            count += 1;
            if count == FOUND_MAX {
                break;
            }
        }
        Ok((found, count))
    });
    let (results, count) = found.await?;
    let document = json!({
        "query": query,
        "num_results": count,
        "num_pages": count.div_ceil(size),
        "page": page,
        "page_size": size,
        "results": results,
    });
    Ok(text(document.to_string()))
}

/// `/v1/repositories`: all tags there are, `{"NAME:TAG": "id"}`.
pub async fn repositories(app: &Arc<App>, context: &RequestContext) -> Result<Response<Body>> {
    app.registry.wait_for_catalog().await?;
    let registry = Arc::clone(&app.registry);
    let mut names = registry.names(context.caller(app), Right::Pull);
    let mut tags: Option<(Repository, std::vec::IntoIter<Tag>)> = None;
    let write = move |buffer: &mut Vec<u8>, separator: &mut &[u8]| -> Result<bool> {
        loop {
            let Some((repository, rest)) = &mut tags else {
                let Some(repository) = names.next(|_| true)? else {
                    return Ok(false);
                };
                let page = registry.tags(&repository, "", TAGS_MAX)?;
                tags = Some((repository, page.items.into_iter()));
                continue;
            };
            let Some(tag) = rest.next() else {
                tags = None;
                continue;
            };
            if let Some(id) = registry.v1_id(repository, &tag)? {
                buffer.extend_from_slice(separator);
                // Neither names nor ids need escapes.
                buffer.extend_from_slice(format!("\"{repository}:{tag}\":\"{id}\"").as_bytes());
                *separator = b",";
                return Ok(true);
            }
        }
    };
    stream(app, b'{', b'}', Box::new(write)).await
}

/// `/v1/images/ID/files`: what the image's own layer has, as the Python registry listed it: path,
/// type, whether it removes that path, size, time, mode, owner and group.
pub async fn files(app: &Arc<App>, mut files: LayerFiles) -> Result<Response<Body>> {
    let write = move |buffer: &mut Vec<u8>, separator: &mut &[u8]| -> Result<bool> {
        for entry in files.by_ref() {
            let (path, entry) = entry?;
            if let Some(row) = file(&path, &entry) {
                buffer.extend_from_slice(separator);
                buffer.extend_from_slice(row.to_string().as_bytes());
                *separator = b",\n";
                return Ok(true);
            }
        }
        Ok(false)
    };
    stream(app, b'[', b']', Box::new(write)).await
}

fn file(path: &[u8], entry: &Entry) -> Option<Value> {
    let letter = match entry.kind {
        Kind::Regular | Kind::Whiteout => "f",
        Kind::Directory => "d",
        Kind::Symlink => "s",
        Kind::CrossLayerLink => "l",
        Kind::Character => "c",
        Kind::Block => "b",
        Kind::Fifo => "i",
        // It is no member of the layer.
        Kind::Implicit => return None,
    };
    let path = format!("/{}", String::from_utf8_lossy(path));
    let removed = entry.kind == Kind::Whiteout;
    Some(json!([
        path,
        letter,
        removed,
        entry.size,
        entry.mtime.seconds,
        entry.mode,
        entry.uid,
        entry.gid
    ]))
}

/// Writes the next item after the separator, which it sets for the one after that. `false`: there
/// was no next item.
type Write = Box<dyn FnMut(&mut Vec<u8>, &mut &'static [u8]) -> Result<bool> + Send>;

/// A JSON array or object that is made while it is sent.
async fn stream(app: &Arc<App>, open: u8, close: u8, mut write: Write) -> Result<Response<Body>> {
    let permit = app.pools.of(Scarce::Streams).permit().await?;
    let mut separator: &'static [u8] = b"";
    // The next piece, and whether it is the last.
    let mut piece = move || -> Result<(Vec<u8>, bool)> {
        let mut buffer = Vec::new();
        while buffer.len() < PIECE {
            if !write(&mut buffer, &mut separator)? {
                buffer.push(close);
                return Ok((buffer, true));
            }
        }
        Ok((buffer, false))
    };
    // The first piece is made before the head goes out, so that its errors have a status.
    let (first, mut ended, mut piece) = look(app, move || {
        let (rest, ended) = piece()?;
        Ok(([vec![open], rest].concat(), ended, piece))
    })
    .await?;
    if ended {
        return Ok(text(String::from_utf8_lossy(&first)));
    }
    let produce: Produce = Box::new(move || {
        if ended {
            return Ok(None);
        }
        let (bytes, last) = piece()?;
        ended = last;
        Ok(Some(bytes))
    });
    let mut response = text("");
    response
        .headers_mut()
        .insert(hyper::header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    *response.body_mut() = Body::stream(first, produce, None, Arc::new(permit));
    Ok(response)
}
