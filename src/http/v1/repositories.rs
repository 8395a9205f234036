//! `/v1/repositories/NAME`: its tags and images.

use std::collections::BTreeMap;
use std::sync::Arc;

use hyper::{Method, Response};
use serde::Deserialize;
use serde_json::json;

use super::{document, done, no_content, text, with_token};
use crate::docker1::{ImageId, JSON_MAX};
use crate::http::body::Body;
use crate::http::error::{Error, Result};
use crate::http::files::look;
use crate::http::{App, RequestContext, blocking};
use crate::oci::{Reference, Repository, Tag};
use crate::registry::{Api, StorageError};

/// Bytes of a tag's body: an id in quotes, and blanks.
const TAG_BODY_MAX: usize = 1 << 10;

/// `/v1/repositories/NAME`: a push begins, or all tags are deleted.
pub async fn repository(
    app: &Arc<App>,
    context: &mut RequestContext,
    repository: Repository,
) -> Result<Response<Body>> {
    if context.method == Method::DELETE {
        return delete_tags(app, context, repository).await;
    }
    image_list(app, context).await?;
    Ok(with_token(app, context, &repository, true, text("\"\"")))
}

/// The list of images that begins and ends a push. All that it says comes again with the images
/// themselves.
async fn image_list(app: &App, context: &mut RequestContext) -> Result<()> {
    #[derive(Deserialize)]
    struct Item {
        id: String,
    }
    let (bytes, _room) = document(app, context, JSON_MAX).await?;
    blocking(move || {
        let items: Vec<Item> = serde_json::from_slice(&bytes)
            .map_err(|_| Error::Document("a JSON array of objects with an id"))?;
        for item in items {
            item.id.parse::<ImageId>()?;
        }
        Ok::<_, Error>(())
    })
    .await
}

/// `/v1/repositories/NAME/images`
pub async fn images(
    app: &Arc<App>,
    context: &mut RequestContext,
    repository: Repository,
) -> Result<Response<Body>> {
    match context.method {
        Method::PUT => {
            image_list(app, context).await?;
            return Ok(no_content());
        }
        // Images that no tag names any more are removed without this.
        Method::DELETE => return Ok(no_content()),
        _ => {}
    }
    let (registry, name) = (Arc::clone(&app.registry), repository.clone());
    let ids = look(app, move || Ok(registry.v1_ids(&name)?)).await?;
    let ids: Vec<_> = ids.iter().map(|id| json!({"id": id.to_string()})).collect();
    let list = text(json!(ids).to_string());
    Ok(with_token(app, context, &repository, false, list))
}

/// `/v1/repositories/NAME/tags`
pub async fn tags(
    app: &Arc<App>,
    context: &mut RequestContext,
    repository: Repository,
) -> Result<Response<Body>> {
    if context.method == Method::DELETE {
        return delete_tags(app, context, repository).await;
    }
    let registry = Arc::clone(&app.registry);
    let tags = look(app, move || Ok(registry.v1_tags(&repository)?)).await?;
    let tags: BTreeMap<_, _> = tags.iter().map(|(tag, id)| (tag, id.to_string())).collect();
    Ok(text(json!(tags).to_string()))
}

async fn delete_tags(
    app: &Arc<App>,
    context: &RequestContext,
    repository: Repository,
) -> Result<Response<Body>> {
    let (registry, caller) = (Arc::clone(&app.registry), context.caller(app));
    look(app, move || Ok(registry.delete_tags(&caller, &repository, Api::V1)?)).await?;
    Ok(done())
}

/// `/v1/repositories/NAME/tags/TAG`
pub async fn tag(
    app: &Arc<App>,
    context: &mut RequestContext,
    repository: Repository,
    tag: Tag,
) -> Result<Response<Body>> {
    let (registry, caller) = (Arc::clone(&app.registry), context.caller(app));
    match context.method {
        Method::PUT => {
            let (body, _room) = document(app, context, TAG_BODY_MAX).await?;
            // The npm server's clients may send it without quotes.
            let id = match serde_json::from_slice::<String>(&body) {
                Ok(id) => id,
                Err(_) => String::from_utf8(body).unwrap_or_default(),
            };
            let id: ImageId = id.trim().parse()?;
            look(app, move || Ok(registry.tag_image(&caller, &repository, &tag, &id)?)).await?;
            Ok(done())
        }
        Method::DELETE => {
            let delete = move || Ok(registry.delete_tag(&caller, &repository, &tag, Api::V1)?);
            look(app, delete).await?;
            Ok(done())
        }
        _ => {
            let is_pull = context.method == Method::GET;
            let id = look(app, move || {
                let reference = Reference::Tag(tag.clone());
                match registry.v1_id(&repository, &tag)? {
                    Some(id) => {
                        if is_pull {
                            registry.note_pull(&repository, &reference);
                        }
                        Ok(id)
                    }
                    None => Err(StorageError::ManifestUnknown { repository, reference }.into()),
                }
            });
            Ok(text(json!(id.await?.to_string()).to_string()))
        }
    }
}

/// `…/json`: what is known of a tag, or of `latest`.
pub async fn json(
    app: &Arc<App>,
    repository: Repository,
    tag: Option<Tag>,
) -> Result<Response<Body>> {
    let registry = Arc::clone(&app.registry);
    let facts = look(app, move || Ok(registry.tag_facts(&repository, tag.as_ref())?)).await?;
    let document = json!({
        "last_update": facts.set,
        "docker_version": facts.docker_version,
        "docker_go_version": null,
        "arch": facts.architecture.as_deref().unwrap_or("amd64"),
        "os": facts.os.as_deref().unwrap_or("linux"),
        "kernel": null,
    });
    Ok(text(document.to_string()))
}

/// `/v1/repositories/NAME/properties`
pub async fn properties(
    app: &Arc<App>,
    context: &mut RequestContext,
    repository: Repository,
) -> Result<Response<Body>> {
    #[derive(Deserialize)]
    struct Properties {
        access: String,
    }
    let registry = Arc::clone(&app.registry);
    let private = if context.method == Method::PUT {
        let (body, _room) = document(app, context, TAG_BODY_MAX).await?;
        let wanted = serde_json::from_slice(&body).map(|Properties { access }| access);
        let private = match wanted.as_deref() {
            Ok("private") => true,
            Ok("public") => false,
            _ => return Err(Error::Document(r#"{"access": "public"} or "private""#)),
        };
        blocking(move || registry.set_private(&repository, private)).await?;
        private
    } else {
        blocking(move || registry.is_private(&repository)).await?
    };
    let access = if private { "private" } else { "public" };
    Ok(text(json!({"access": access}).to_string()))
}
