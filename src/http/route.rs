//! From a path to a route. A repository name may hold any of the words that
//! follow it, so a path is read from its end.

use percent_encoding::percent_decode_str;
use uuid::Uuid;

use super::error::Error;
use super::url::{decoded, part, repository};
use super::v1::V1;
use super::web::Page;
use crate::image::Id;
use crate::oci::{Digest, Reference, Repository};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// `/v2/`
    Ping,
    /// `/v2/token`
    Token,
    /// `/v2/_catalog`
    Catalog,
    /// `/v2/NAME/blobs/DIGEST`
    Blob(Repository, Digest),
    /// `/v2/NAME/blobs/uploads/`
    Uploads(Repository),
    /// `/v2/NAME/blobs/uploads/UUID`
    Upload(Repository, Uuid),
    /// `/v2/NAME/manifests/REFERENCE`
    Manifest(Repository, Reference),
    /// `/v2/NAME/tags/list`
    Tags(Repository),
    /// `/v2/NAME/referrers/DIGEST`
    Referrers(Repository, Digest),
    /// `/v1/images/ID/tree/PATH` and the like, and the same under `/v2/NAME/_files/`
    Files(Files),
    /// `/v2/_query/…`
    Query(Question),
    /// `/v2/NAME/_index/DIGEST`
    Index(Repository, Digest),
    /// Docker's first API, `/v1/`
    V1(V1),
    /// `/ui/…`
    Page(Page),
    /// `/v1/events`
    Events,
    Healthz,
    Readyz,
}

/// What is asked of all images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    Find,
    Diff,
    Waste,
    Grep,
    /// The layers of images.
    Layers,
    /// Which image a reference or an id means.
    Image,
    /// What takes space.
    Usage,
    /// The tags of a repository.
    Tags,
}

/// A place in an image's file system, and what is wanted of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    pub image: Scope,
    pub view: View,
    /// Bytes, as tar has them: a name need not be UTF-8.
    pub path: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Of any repository.
    Any(Id),
    Repository(Repository, Reference),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    Tree,
    Blob,
    Tar,
}

impl View {
    fn parse(word: &str) -> Result<View, Error> {
        match word {
            "tree" => Ok(View::Tree),
            "blobs" => Ok(View::Blob),
            "tar" => Ok(View::Tar),
            _ => Err(Error::RouteUnknown),
        }
    }
}

impl Route {
    pub fn parse(path: &str) -> Result<Route, Error> {
        // A final slash makes no difference, except where a path inside of an image follows.
        let whole = path;
        let path = path.strip_suffix('/').unwrap_or(path);
        match path {
            "/v2" => return Ok(Route::Ping),
            "/v2/token" => return Ok(Route::Token),
            "/v2/_catalog" => return Ok(Route::Catalog),
            "/v2/_query/find" => return Ok(Route::Query(Question::Find)),
            "/v2/_query/diff" => return Ok(Route::Query(Question::Diff)),
            "/v2/_query/waste" => return Ok(Route::Query(Question::Waste)),
            "/v2/_query/grep" => return Ok(Route::Query(Question::Grep)),
            "/v2/_query/tags" => return Ok(Route::Query(Question::Tags)),
            "/v2/_query/usage" => return Ok(Route::Query(Question::Usage)),
            "/v2/_query/layers" => return Ok(Route::Query(Question::Layers)),
            "/v2/_query/image" => return Ok(Route::Query(Question::Image)),
            "/v1/events" => return Ok(Route::Events),
            "/healthz" => return Ok(Route::Healthz),
            "/readyz" => return Ok(Route::Readyz),
            _ => {}
        }
        if let Some(page) = Page::parse(whole) {
            return page.map(Route::Page);
        }
        if let Some(route) = V1::parse(whole) {
            return route.map(Route::V1);
        }
        if let Some(rest) = whole.strip_prefix("/v1/images/") {
            return v1_files(rest);
        }
        // No part of a name starts so, and what follows may hold any word.
        let files = whole.strip_prefix("/v2/").and_then(|path| path.split_once("/_files/"));
        if let Some((name, rest)) = files {
            return v2_files(name, rest);
        }
        match Route::of_repository(path) {
            // Without a reference the slash is not a final one.
            Err(Error::RouteUnknown) if path != whole => Route::of_repository(whole),
            route => route,
        }
    }

    /// `/v2/NAME/…`
    fn of_repository(path: &str) -> Result<Route, Error> {
        let unknown = || Error::RouteUnknown;
        let path = path.strip_prefix("/v2/").ok_or_else(unknown)?;
        let (rest, last) = path.rsplit_once('/').ok_or_else(unknown)?;
        let last = decoded(last)?;
        if let Some(name) = rest.strip_suffix("/blobs/uploads") {
            let name = repository(name)?;
            let id = last.parse().map_err(|_| Error::UploadId(last.chars().take(64).collect()))?;
            return Ok(Route::Upload(name, id));
        }
        let (name, kind) = rest.rsplit_once('/').ok_or_else(unknown)?;
        match kind {
            "blobs" if last == "uploads" => Ok(Route::Uploads(repository(name)?)),
            "blobs" => Ok(Route::Blob(repository(name)?, last.parse()?)),
            "manifests" => Ok(Route::Manifest(repository(name)?, last.parse()?)),
            "tags" if last == "list" => Ok(Route::Tags(repository(name)?)),
            "referrers" => Ok(Route::Referrers(repository(name)?, last.parse()?)),
            "_index" => Ok(Route::Index(repository(name)?, last.parse()?)),
            _ => Err(unknown()),
        }
    }

    /// For `Allow` and for a request with another method.
    pub fn methods(&self, read_only: bool) -> &'static str {
        match self {
            Route::V1(route) => route.methods(read_only),
            Route::Query(Question::Find) => "GET, HEAD, POST",
            // The index is not part of what a read-only registry keeps.
            Route::Index(..) => "POST",
            Route::Page(page) => page.methods(read_only),
            Route::Uploads(_) if read_only => "",
            _ if read_only => "GET, HEAD",
            Route::Ping
            | Route::Token
            | Route::Catalog
            | Route::Tags(_)
            | Route::Referrers(..)
            | Route::Files(_)
            | Route::Query(_)
            | Route::Events
            | Route::Healthz
            | Route::Readyz => "GET, HEAD",
            Route::Blob(..) => "GET, HEAD, DELETE",
            Route::Uploads(_) => "POST",
            Route::Upload(..) => "GET, HEAD, PATCH, PUT, DELETE",
            Route::Manifest(..) => "GET, HEAD, PUT, DELETE",
        }
    }

    /// The route's name in the metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Route::Ping => "ping",
            Route::Token => "token",
            Route::Catalog => "catalog",
            Route::Blob(..) => "blob",
            Route::Uploads(_) | Route::Upload(..) => "upload",
            Route::Manifest(..) => "manifest",
            Route::Tags(_) => "tags",
            Route::Referrers(..) => "referrers",
            Route::Files(files) => match files.view {
                View::Tree => "tree",
                View::Blob => "file",
                View::Tar => "tar",
            },
            Route::Query(Question::Find) => "find",
            Route::Query(Question::Diff) => "diff",
            Route::Query(Question::Waste) => "waste",
            Route::Query(Question::Grep) => "grep",
            Route::Query(Question::Image) => "image",
            Route::Query(Question::Usage) => "usage",
            Route::Query(Question::Tags) => "tags",
            Route::Query(Question::Layers) => "layers",
            Route::Index(..) => "index",
            Route::V1(route) => route.name(),
            Route::Page(_) => "page",
            Route::Events => "events",
            Route::Healthz | Route::Readyz => "health",
        }
    }
}

/// `ID/tree/PATH`
fn v1_files(rest: &str) -> Result<Route, Error> {
    let (mut id, inside) = part(rest);
    let (mut view, mut path) = part(inside);
    if View::parse(view).is_err() {
        // A proxy may have decoded the slashes of a name. Its tag or digest tells where it ends.
        let end = rest.find([':', '@']).ok_or(Error::ImageRouteUnknown)?;
        let end = rest[end..].find('/').map_or(rest.len(), |slash| end + slash);
        id = &rest[..end];
        (view, path) = part(rest[end..].strip_prefix('/').unwrap_or_default());
    }
    let view = View::parse(view).map_err(|_| Error::ImageRouteUnknown)?;
    Ok(Route::Files(Files {
        image: Scope::Any(decoded(id)?.parse()?),
        view,
        path: percent_decode_str(path).collect(),
    }))
}

/// `tree/REFERENCE/PATH`, in a repository
fn v2_files(name: &str, rest: &str) -> Result<Route, Error> {
    let (view, rest) = part(rest);
    let (reference, path) = part(rest);
    let view = View::parse(view)?;
    Ok(Route::Files(Files {
        image: Scope::Repository(repository(name)?, decoded(reference)?.parse()?),
        view,
        path: percent_decode_str(path).collect(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn routes() {
        let name = |s: &str| s.parse::<Repository>().unwrap();
        let digest = DIGEST.parse().unwrap();
        let id = Uuid::nil();
        for (path, want) in [
            ("/v2".to_owned(), Route::Ping),
            ("/v2/".to_owned(), Route::Ping),
            ("/v2/token".to_owned(), Route::Token),
            ("/v2/_query/find".to_owned(), Route::Query(Question::Find)),
            ("/v2/_query/grep".to_owned(), Route::Query(Question::Grep)),
            ("/v2/_query/image".to_owned(), Route::Query(Question::Image)),
            ("/v2/_catalog".to_owned(), Route::Catalog),
            ("/v1/events".to_owned(), Route::Events),
            (format!("/v2/a/blobs/{DIGEST}"), Route::Blob(name("a"), digest)),
            (format!("/v2/a/blobs/{}", DIGEST.replace(':', "%3A")), Route::Blob(name("a"), digest)),
            (format!("/v2/a/b/c/blobs/{DIGEST}"), Route::Blob(name("a/b/c"), digest)),
            (
                format!("/v2/blobs/uploads/blobs/{DIGEST}"),
                Route::Blob(name("blobs/uploads"), digest),
            ),
            ("/v2/a/blobs/uploads/".to_owned(), Route::Uploads(name("a"))),
            ("/v2/a/blobs/uploads".to_owned(), Route::Uploads(name("a"))),
            (format!("/v2/a/blobs/uploads/{id}"), Route::Upload(name("a"), id)),
            (
                "/v2/a/manifests/v1".to_owned(),
                Route::Manifest(name("a"), Reference::Tag("v1".parse().unwrap())),
            ),
            ("/v2/manifests/manifests/manifests".to_owned(), {
                Route::Manifest(name("manifests"), Reference::Tag("manifests".parse().unwrap()))
            }),
            ("/v2/_catalog/".to_owned(), Route::Catalog),
            ("/v2/token/".to_owned(), Route::Token),
            ("/v2/a/tags/list/".to_owned(), Route::Tags(name("a"))),
            ("/v2/a%2Fb%2fc/tags/list".to_owned(), Route::Tags(name("a/b/c"))),
            (format!("/v2/a%2Fb/blobs/{DIGEST}/"), Route::Blob(name("a/b"), digest)),
            (format!("/v2/a/referrers/{DIGEST}/"), Route::Referrers(name("a"), digest)),
            (format!("/v2/a/blobs/uploads/{id}/"), Route::Upload(name("a"), id)),
            ("/v2/a/manifests/blobs/uploads/".to_owned(), Route::Uploads(name("a/manifests"))),
            (
                "/v2/a/manifests/v1/".to_owned(),
                Route::Manifest(name("a"), Reference::Tag("v1".parse().unwrap())),
            ),
            ("/v2/tags/list/tags/list".to_owned(), Route::Tags(name("tags/list"))),
            (format!("/v2/a/referrers/{DIGEST}"), Route::Referrers(name("a"), digest)),
            (format!("/v2/a/b/_index/{DIGEST}"), Route::Index(name("a/b"), digest)),
        ] {
            assert_eq!(Route::parse(&path).unwrap(), want, "{path}");
        }
    }

    #[test]
    fn files() {
        let any = |id: &str| Scope::Any(id.parse().unwrap());
        let one = |name: &str, reference: &str| {
            Scope::Repository(name.parse().unwrap(), reference.parse().unwrap())
        };
        for (path, image, view, inside) in [
            ("/v1/images/a:1/tree", any("a:1"), View::Tree, &b""[..]),
            ("/v1/images/a:1/tree/", any("a:1"), View::Tree, b""),
            ("/v1/images/a%2Fb:1/blobs/c/d", any("a/b:1"), View::Blob, b"c/d"),
            ("/v1/images/a/b:1/blobs/c/d", any("a/b:1"), View::Blob, b"c/d"),
            ("/v1/images/a/b/c:1/tree", any("a/b/c:1"), View::Tree, b""),
            ("/v1/images/a/tree/x:1/y", any("a"), View::Tree, b"x:1/y"),
            ("/v2/a%2Fb/_files/tree/1/x/", one("a/b", "1"), View::Tree, b"x/"),
            ("/v1/images/tree/tree/tree", any("tree"), View::Tree, b"tree"),
            ("/v1/images/a/tar//x/%ff%00/", any("a"), View::Tar, b"/x/\xff\0/"),
            ("/v2/a/b/_files/tree/1", one("a/b", "1"), View::Tree, b""),
            ("/v2/a/_files/blobs/1/x%20y", one("a", "1"), View::Blob, b"x y"),
            (
                "/v2/a/_files/tar/1/_files/tar/2/manifests/3",
                one("a", "1"),
                View::Tar,
                b"_files/tar/2/manifests/3",
            ),
        ] {
            let want = Files { image, view, path: inside.to_vec() };
            assert_eq!(Route::parse(path).unwrap(), Route::Files(want), "{path}");
        }
    }

    #[test]
    fn refused() {
        for (path, why) in [
            ("/v1/images/a", "no view"),
            ("/v1/images/a/layers/x", "no such view"),
            ("/v1/images//tree/x", "no id"),
            ("/v1/images/%ff/tree/x", "not UTF-8"),
            ("/v1/images/A/tree/x", "uppercase"),
            ("/v2/a/_files/tree", "no reference"),
            ("/v2/a/_files/tree/a%2Fb/x", "a slash in the tag"),
            ("/v2/_files/tree/1/x", "no name"),
            ("/v3/", "no such version"),
            ("/v2/a", "no kind"),
            ("/v2/_query/guess", "no such question"),
            ("/v2//blobs/x", "no name"),
            ("/v2/a/tags/lists", "no such kind"),
            ("/v2/a%2F%2Fb/manifests/v1", "an empty part"),
            ("/v2/a%2F..%2Fb/manifests/v1", "encoded dots in a name"),
            ("/v2/a%252Fb/manifests/v1", "encoded twice"),
            ("/v2/a/manifests//", "no reference"),
            ("/v2/a/blobs//", "no digest"),
            ("/v2/a/tags/list//", "two slashes"),
            ("/v1/images/a/b/tree/x", "a decoded name without a tag"),
            ("/v1/images/a/b:1/layers/x", "no such view of a decoded name"),
            ("/v1/images/a/b:1", "no view of a decoded name"),
            ("/v2/%2e%2e/manifests/v1", "encoded dots"),
            ("/v2/a/../b/manifests/v1", "dots"),
            ("/v2/a%00/manifests/v1", "NUL"),
            ("/v2/a/manifests/%2e%2e", "dots as tag"),
            ("/v2/a/manifests/v1%2fx", "a slash in the tag"),
            ("/v2/a/manifests/%ff", "not UTF-8"),
            ("/v2/a/manifests/", "no reference"),
            ("/v2/A/manifests/v1", "uppercase"),
            ("/v2/a/blobs/sha256:..%2f..%2fetc", "a path for a digest"),
            ("/v2/a/blobs/uploads/..%2f..", "a path for an upload"),
        ] {
            assert!(Route::parse(path).is_err(), "{why}");
        }
    }
}
