//! The style sheet, the script and the icon. They are part of the program, and their names have a
//! hash of their content, so that browsers can keep them for ever.

use std::sync::LazyLock;

use hyper::Response;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use xxhash_rust::xxh3::xxh3_64;

use crate::http::body::Body;
use crate::http::error::{Error, Result};

/// A file that pages load.
#[derive(Debug)]
pub struct Asset {
    /// Where it is, for pages.
    pub url: String,
    media_type: &'static str,
    content: &'static str,
}

impl Asset {
    fn new(name: &str, media_type: &'static str, content: &'static str) -> Asset {
        let (stem, ending) = name.rsplit_once('.').unwrap_or((name, ""));
        let hash = xxh3_64(content.as_bytes());
        let url = format!("/ui/_assets/{stem}.{hash:016x}.{ending}");
        Asset { url, media_type, content }
    }
}

pub static STYLE: LazyLock<Asset> = LazyLock::new(|| {
    Asset::new("style.css", "text/css; charset=utf-8", include_str!("assets/style.css"))
});
pub static SCRIPT: LazyLock<Asset> = LazyLock::new(|| {
    Asset::new("page.js", "text/javascript; charset=utf-8", include_str!("assets/page.js"))
});
pub static ICON: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("icon.svg", "image/svg+xml", include_str!("assets/icon.svg")));

/// Answers with the asset of this name.
pub fn answer(name: &str) -> Result<Response<Body>> {
    let url = format!("/ui/_assets/{name}");
    let asset = [&STYLE, &SCRIPT, &ICON].into_iter().find(|asset| asset.url == url);
    let asset = asset.ok_or(Error::RouteUnknown)?;
    let mut response = Response::new(Body::from(asset.content));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(asset.media_type));
    let cached = HeaderValue::from_static("public, max-age=31536000, immutable");
    headers.insert(CACHE_CONTROL, cached);
    Ok(response)
}
