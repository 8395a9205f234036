//! What commands ask a server for, where `--server` names one. The routes are those of
//! `docs/http-api.md`.

use std::sync::Arc;

use anyhow::{Result, ensure};
use serde::Deserialize;

use super::output::complain;
use crate::image::listing::url_path;
use crate::image::{Id, LayerId, Platform};
use crate::remote::{Answer, Query, Server, Url};

/// Makes ready to ask a server about images.
pub fn connect<'a>(url: &Url, images: impl IntoIterator<Item = &'a Id>) -> Result<Arc<Server>> {
    let server = Server::new(url)?;
    for image in images {
        if let Id::Reference { repository, .. } = image {
            server.will_pull(repository);
        }
    }
    Ok(Arc::new(server))
}

/// An image or artifact of a server, which stays the same when its tag moves.
#[derive(Debug)]
pub struct RemoteImage {
    server: Arc<Server>,
    about: About,
    /// Parameters of every request.
    query: Query,
}

/// What the server says of an image.
#[derive(Debug, Deserialize)]
struct About {
    id: String,
    repository: String,
    manifest: String,
    /// `None`: it is an artifact.
    config: Option<String>,
    warnings: Vec<String>,
}

impl RemoteImage {
    /// Asks what a reference or an id means at the moment, and prints the warnings about it.
    pub fn open(server: &Arc<Server>, id: &Id, platform: Option<&Platform>) -> Result<RemoteImage> {
        let mut query = Query::new();
        query.add("image", id);
        query.option("platform", platform);
        let about: About = server.get(&format!("/v2/_query/image?{query}"))?.document()?;
        for warning in &about.warnings {
            complain(format_args!("warning: {warning}"));
        }
        Ok(RemoteImage { server: Arc::clone(server), about, query: Query::new() })
    }

    /// The same for what has to be an image.
    pub fn open_image(
        server: &Arc<Server>,
        id: &Id,
        platform: Option<&Platform>,
    ) -> Result<RemoteImage> {
        let image = RemoteImage::open(server, id, platform)?;
        let About { repository, manifest, config, .. } = &image.about;
        ensure!(config.is_some(), "{repository}@{manifest} is an artifact, which has no layers");
        Ok(image)
    }

    /// What names it from now on.
    pub fn id(&self) -> &str {
        &self.about.id
    }

    /// One of its layers by itself.
    pub fn layer(mut self, layer: Option<&LayerId>) -> RemoteImage {
        self.query.option("layer", layer);
        self
    }

    /// Asks for a view (`tree`, `blobs` or `tar`) of a path. `more` are parameters that are set.
    pub fn get(&self, view: &str, path: &[u8], more: &[&str]) -> Result<Answer> {
        let mut query = self.query.clone();
        more.iter().for_each(|name| query.flag(name, true));
        let start = path.iter().position(|&byte| byte != b'/').unwrap_or(path.len());
        let path = url_path(&path[start..]);
        Ok(self.server.get(&format!("/v1/images/{}/{view}/{path}?{query}", self.about.id))?)
    }
}
