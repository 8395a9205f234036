//! From a path to a route. A repository name may hold any of the words that
//! follow it, so a path is read from its end.

use percent_encoding::percent_decode_str;
use uuid::Uuid;

use super::error::Error;
use crate::oci::{Digest, Reference, Repository};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// `/v2/`
    Ping,
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
    Healthz,
    Readyz,
}

impl Route {
    pub fn parse(path: &str) -> Result<Route, Error> {
        let unknown = || Error::RouteUnknown;
        match path {
            "/v2" | "/v2/" => return Ok(Route::Ping),
            "/v2/_catalog" => return Ok(Route::Catalog),
            "/healthz" => return Ok(Route::Healthz),
            "/readyz" => return Ok(Route::Readyz),
            _ => {}
        }
        let path = path.strip_prefix("/v2/").ok_or_else(unknown)?;
        let (rest, last) = path.rsplit_once('/').ok_or_else(unknown)?;
        // Decoded after splitting, so an encoded slash separates nothing.
        let last = percent_decode_str(last)
            .decode_utf8()
            .map_err(|_| unknown())?;
        if let Some(name) = rest.strip_suffix("/blobs/uploads") {
            let name = repository(name)?;
            return if last.is_empty() {
                Ok(Route::Uploads(name))
            } else {
                let id = last
                    .parse()
                    .map_err(|_| Error::UploadId(last.chars().take(64).collect()))?;
                Ok(Route::Upload(name, id))
            };
        }
        let (name, kind) = rest.rsplit_once('/').ok_or_else(unknown)?;
        match kind {
            "blobs" if last == "uploads" => Ok(Route::Uploads(repository(name)?)),
            "blobs" => Ok(Route::Blob(repository(name)?, last.parse()?)),
            "manifests" => Ok(Route::Manifest(repository(name)?, last.parse()?)),
            "tags" if last == "list" => Ok(Route::Tags(repository(name)?)),
            "referrers" => Ok(Route::Referrers(repository(name)?, last.parse()?)),
            _ => Err(unknown()),
        }
    }

    /// For `Allow` and for a request with another method.
    pub fn methods(&self, read_only: bool) -> &'static str {
        match self {
            Route::Uploads(_) if read_only => "",
            _ if read_only => "GET, HEAD",
            Route::Ping
            | Route::Catalog
            | Route::Tags(_)
            | Route::Referrers(..)
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
            Route::Catalog => "catalog",
            Route::Blob(..) => "blob",
            Route::Uploads(_) | Route::Upload(..) => "upload",
            Route::Manifest(..) => "manifest",
            Route::Tags(_) => "tags",
            Route::Referrers(..) => "referrers",
            Route::Healthz | Route::Readyz => "health",
        }
    }
}

fn repository(name: &str) -> Result<Repository, Error> {
    let decoded: Result<Vec<_>, _> = name
        .split('/')
        .map(|part| percent_decode_str(part).decode_utf8())
        .collect();
    match decoded {
        // A part with a slash of its own would be two parts once joined.
        Ok(parts) if parts.iter().all(|part| !part.contains('/')) => Ok(parts.join("/").parse()?),
        _ => Err(crate::oci::NameError::Repository(name.chars().take(255).collect()).into()),
    }
}

/// The parameters of a query string, decoded, in order. `+` is a plus sign:
/// media types have them, and no client writes a blank so.
pub fn query(query: Option<&str>) -> Result<Vec<(String, String)>, Error> {
    let decode = |s: &str| match percent_decode_str(s).decode_utf8() {
        Ok(decoded) => Ok(decoded.into_owned()),
        Err(_) => Err(Error::Query(crate::log::escape(s.as_bytes()))),
    };
    query
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(key)?, decode(value)?))
        })
        .collect()
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
            ("/v2/_catalog".to_owned(), Route::Catalog),
            (
                format!("/v2/a/blobs/{DIGEST}"),
                Route::Blob(name("a"), digest),
            ),
            (
                format!("/v2/a/blobs/{}", DIGEST.replace(':', "%3A")),
                Route::Blob(name("a"), digest),
            ),
            (
                format!("/v2/a/b/c/blobs/{DIGEST}"),
                Route::Blob(name("a/b/c"), digest),
            ),
            (
                format!("/v2/blobs/uploads/blobs/{DIGEST}"),
                Route::Blob(name("blobs/uploads"), digest),
            ),
            ("/v2/a/blobs/uploads/".to_owned(), Route::Uploads(name("a"))),
            ("/v2/a/blobs/uploads".to_owned(), Route::Uploads(name("a"))),
            (
                format!("/v2/a/blobs/uploads/{id}"),
                Route::Upload(name("a"), id),
            ),
            (
                "/v2/a/manifests/v1".to_owned(),
                Route::Manifest(name("a"), Reference::Tag("v1".parse().unwrap())),
            ),
            ("/v2/manifests/manifests/manifests".to_owned(), {
                Route::Manifest(
                    name("manifests"),
                    Reference::Tag("manifests".parse().unwrap()),
                )
            }),
            (
                "/v2/tags/list/tags/list".to_owned(),
                Route::Tags(name("tags/list")),
            ),
            (
                format!("/v2/a/referrers/{DIGEST}"),
                Route::Referrers(name("a"), digest),
            ),
        ] {
            assert_eq!(Route::parse(&path).unwrap(), want, "{path}");
        }
    }

    #[test]
    fn refused() {
        for (path, why) in [
            ("/", "nothing there"),
            ("/v3/", "no such version"),
            ("/v2/a", "no kind"),
            ("/v2//blobs/x", "no name"),
            ("/v2/a/tags/lists", "no such kind"),
            ("/v2/a%2Fb/manifests/v1", "an encoded slash"),
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

    #[test]
    fn queries() {
        let pairs = query(Some(
            "digest=sha256%3Aab&tag=1&tag=2&artifactType=a/b+json&flag&=x&&",
        ))
        .unwrap();
        let want = [
            ("digest", "sha256:ab"),
            ("tag", "1"),
            ("tag", "2"),
            ("artifactType", "a/b+json"),
            ("flag", ""),
            ("", "x"),
        ];
        assert_eq!(pairs, want.map(|(k, v)| (k.to_owned(), v.to_owned())));
        assert!(query(Some("n=%ff")).is_err());
        assert_eq!(query(None).unwrap(), []);
    }
}
