//! `/v1/images/ID`: an image's parts, one by one.

use std::sync::Arc;

use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Method, Response};
use serde_json::json;

use super::{Part, document, done, lists, text};
use crate::docker1::{EMPTY_LAYER, ImageId, JSON_MAX};
use crate::http::body::Body;
use crate::http::error::{Error, Result};
use crate::http::files::look;
use crate::http::permits::Scarce;
use crate::http::respond::header;
use crate::http::v2::uploads::receive;
use crate::http::{App, RequestContext, blocking, content};
use crate::registry::ImageJson;

const SIZE: HeaderName = HeaderName::from_static("x-docker-size");
const CHECKSUM: HeaderName = HeaderName::from_static("x-docker-checksum");
const CHECKSUM_PAYLOAD: HeaderName = HeaderName::from_static("x-docker-checksum-payload");

pub async fn image(
    app: &Arc<App>,
    context: &mut RequestContext,
    id: ImageId,
    part: Part,
) -> Result<Response<Body>> {
    let put = context.method == Method::PUT;
    let (registry, caller) = (Arc::clone(&app.registry), context.caller(app));
    match part {
        Part::Json if put => {
            let (json, room) = document(app, context, JSON_MAX).await?;
            look(app, move || {
                let _room = room;
                Ok(registry.put_image_json(&caller, &id, &json)?)
            })
            .await?;
            Ok(done())
        }
        Part::Layer if put => put_layer(app, context, id).await,
        Part::Checksum => {
            let checksum = context.headers.get(CHECKSUM_PAYLOAD).ok_or(Error::ChecksumMissing)?;
            let checksum = crate::log::escape(checksum.as_bytes());
            blocking(move || registry.complete_image(&caller, &id, checksum.trim())).await?;
            Ok(done())
        }
        Part::Json => {
            let found = look(app, move || Ok(registry.image_json(&caller, &id)?));
            Ok(image_json(found.await?))
        }
        Part::Layer => layer(app, context, id).await,
        Part::Ancestry => {
            let ids = look(app, move || Ok(registry.image_ancestry(&caller, &id)?)).await?;
            let ids: Vec<String> = ids.iter().map(ImageId::to_string).collect();
            Ok(text(json!(ids).to_string()))
        }
        Part::Files => {
            let files = look(app, move || Ok(registry.image_files(&caller, &id)?));
            lists::files(app, files.await?).await
        }
    }
}

fn image_json(found: ImageJson) -> Response<Body> {
    let mut response = text("");
    *response.body_mut() = Body::from(found.json);
    let headers = response.headers_mut();
    headers.insert(SIZE, found.size.into());
    if let Some(checksum) = found.checksum {
        let checksum = header(checksum.to_string());
        headers.insert(CHECKSUM, checksum.clone());
        headers.insert(CHECKSUM_PAYLOAD, checksum);
    }
    response
}

/// `GET …/layer`
async fn layer(app: &Arc<App>, context: &RequestContext, id: ImageId) -> Result<Response<Body>> {
    let (registry, caller) = (Arc::clone(&app.registry), context.caller(app));
    let permit = app.pools.of(Scarce::Blobs).permit().await?;
    let (digest, blob) = look(app, move || Ok(registry.image_layer(&caller, &id)?)).await?;
    let Some(blob) = blob else {
        let mut response = Response::new(Body::from(&EMPTY_LAYER[..]));
        let media_type = HeaderValue::from_static("application/octet-stream");
        response.headers_mut().insert(CONTENT_TYPE, media_type);
        return Ok(response);
    };
    let size = blob.size;
    let opened = (context.method == Method::GET).then_some((blob, permit));
    content::blob(context, &digest, size, opened).await
}

/// `PUT …/layer`
async fn put_layer(
    app: &Arc<App>,
    context: &mut RequestContext,
    id: ImageId,
) -> Result<Response<Body>> {
    let (registry, caller) = (Arc::clone(&app.registry), context.caller(app));
    let (known, pusher) = (Arc::clone(&registry), caller.clone());
    let upload = look(app, move || Ok(known.put_image_layer(&pusher, &id)?)).await?;
    let upload = receive(app, upload, &mut context.body).await?;
    blocking(move || registry.finish_image_layer(&caller, &id, upload)).await?;
    Ok(done())
}
