//! Deleting a tag or a manifest, which is asked once more.

use std::sync::Arc;

use hyper::{Method, Response, StatusCode};
use maud::html;

use super::repository::unknown;
use super::show::{Shown, image_name, image_url, repository_url, size};
use super::{Visit, layout, page, redirect, session};
use crate::http::body::Body;
use crate::http::error::Result;
use crate::http::files::look;
use crate::http::{App, RequestContext, blocking};
use crate::image::View;
use crate::oci::{Reference, Repository};
use crate::registry::Api;

/// Tags that are looked at for those that lead to a manifest.
const TAGS: usize = 10_000;

/// `/ui/_delete/NAME:TAG`, `/ui/_delete/NAME@DIGEST`
pub async fn answer(
    app: &Arc<App>,
    context: &mut RequestContext,
    repository: Repository,
    reference: Reference,
) -> Result<Response<Body>> {
    let visit = Visit::new(app, context);
    let registry = Arc::clone(&app.registry);
    let (repository, reference, described, tags) = look(app, move || {
        let described = registry.images().describe(&repository, &reference)?;
        let described = described.ok_or_else(|| unknown(&repository, &reference))?;
        let mut tags = Vec::new();
        for tag in registry.tags(&repository, "", TAGS)?.items {
            let target = registry.images().target(&repository, &Reference::Tag(tag.clone()))?;
            if target.is_some_and(|target| target.digest == described.digest) {
                tags.push(tag);
            }
        }
        Ok((repository, reference, described, tags))
    })
    .await?;
    if context.method == Method::POST {
        session::fields(app, context).await?;
        let (registry, caller) = (Arc::clone(&app.registry), context.caller(app));
        let to = repository_url(&repository);
        blocking(move || match &reference {
            Reference::Tag(tag) => registry.delete_tag(&caller, &repository, tag, Api::V2),
            Reference::Digest(digest) => registry.delete_manifest(&caller, &repository, digest),
        })
        .await?;
        return Ok(redirect(StatusCode::SEE_OTHER, &to));
    }
    let name = image_name(&repository, &reference);
    let others = match &reference {
        Reference::Tag(own) => tags.iter().filter(|tag| *tag != own).count(),
        Reference::Digest(_) => tags.len(),
    };
    let main = html! {
        (layout::crumbs(Some(&repository), &[(repository_url(&repository), html! { (repository.as_str().rsplit('/').next().unwrap_or_default()) })]))
        h1 { "Delete " bdi { (Shown(name.as_bytes())) } "?" }
        p {
            @match &reference {
                Reference::Tag(_) => {
                    "The tag goes. The manifest " code { (described.digest) } " stays, "
                    @if others == 0 { "but no tag leads to it any more." }
                    @else { "and " (super::show::count(others as u64, "other tag leads", "other tags lead")) " to it." }
                }
                Reference::Digest(_) => {
                    "The manifest goes"
                    @if others > 0 { ", and with it " (super::show::count(others as u64, "tag", "tags")) ": " @for tag in tags.iter().take(50) { span.tag { (tag) } " " } }
                    @else { "." }
                }
            }
        }
        p { "Clients that pull it take " b { (size(described.size)) } ". Blobs stay in the store until they are collected, so nothing else is lost." }
        p.note { "This cannot be undone: to have it back, it has to be pushed again." }
        form.form method="post" {
            input type="hidden" name="token" value=(visit.token);
            button.danger { "Delete" }
            a href=(image_url(&repository, &reference, b"")) { "Keep it" }
        }
        (layout::commands(&[delete_line(&visit, &repository, &reference)]))
    };
    let mut response = page(context, layout::page(&visit, &format!("Delete {name}"), &main));
    visit.keep(&mut response);
    Ok(response)
}

fn delete_line(visit: &Visit, repository: &Repository, reference: &Reference) -> String {
    let line = layout::curl(visit, &format!("/v2/{repository}/manifests/{reference}"));
    line.replacen("curl -s", "curl -X DELETE", 1)
}
