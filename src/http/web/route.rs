//! The addresses of pages. What follows `/ui/` is a repository's name unless it begins with an
//! underscore, which no name does. A colon or an at sign, which no name has, ends the name.

use percent_encoding::percent_decode_str;

use super::image::Place;
use crate::http::error::Error;
use crate::http::url::{decoded, repository};
use crate::image::Id;
use crate::oci::{Reference, Repository};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Page {
    /// `/ui/`
    Home,
    /// `/ui/_search`
    Search,
    /// `/ui/_assets/NAME`
    Asset(String),
    /// `/ui/_login`
    Login,
    /// `/ui/_logout`
    Logout,
    /// `/ui/_find`
    Find,
    /// `/ui/_grep`
    Grep,
    /// `/ui/_diff`
    Diff,
    /// `/ui/_delete/NAME:TAG`
    Delete(Repository, Reference),
    /// `/ui/NAME`
    Repository(Repository),
    /// `/ui/NAME:TAG/PATH`
    Image(Place),
}

impl Page {
    /// `None`: it is not below `/ui/`.
    pub fn parse(path: &str) -> Option<Result<Page, Error>> {
        match path.strip_prefix("/ui") {
            Some("") => Some(Ok(Page::Home)),
            Some(rest) => Some(Page::below(rest.strip_prefix('/')?)),
            None => None,
        }
    }

    fn below(path: &str) -> Result<Page, Error> {
        match path {
            "" => return Ok(Page::Home),
            "_search" => return Ok(Page::Search),
            "_login" => return Ok(Page::Login),
            "_logout" => return Ok(Page::Logout),
            "_find" => return Ok(Page::Find),
            "_grep" => return Ok(Page::Grep),
            "_diff" => return Ok(Page::Diff),
            _ => {}
        }
        if let Some(name) = path.strip_prefix("_assets/") {
            return Ok(Page::Asset(decoded(name)?.into_owned()));
        }
        if let Some(image) = path.strip_prefix("_delete/") {
            return match Page::image(image)? {
                Some(Place { id: Id::Reference { repository, reference }, path })
                    if path.is_empty() =>
                {
                    Ok(Page::Delete(repository, reference))
                }
                _ => Err(Error::RouteUnknown),
            };
        }
        if path.starts_with('_') {
            return Err(Error::RouteUnknown);
        }
        Ok(match Page::image(path)? {
            Some(place) => Page::Image(place),
            None => Page::Repository(repository(path.trim_end_matches('/'))?),
        })
    }

    /// An image, and a path in it. `None`: nothing ends the name of a repository.
    fn image(path: &str) -> Result<Option<Place>, Error> {
        // Browsers leave these two as they are, proxies may not.
        let ends = [":", "@", "%3A", "%3a", "%40"].into_iter().filter_map(|end| path.find(end));
        let Some(end) = ends.min() else {
            return Ok(None);
        };
        let end = path[end..].find('/').map_or(path.len(), |slash| end + slash);
        let (id, path) = (&path[..end], path[end..].strip_prefix('/').unwrap_or_default());
        Ok(Some(Place { id: decoded(id)?.parse()?, path: percent_decode_str(path).collect() }))
    }

    pub fn methods(&self, read_only: bool) -> &'static str {
        match self {
            Page::Login => "GET, HEAD, POST",
            Page::Logout => "POST",
            Page::Delete(..) if !read_only => "GET, HEAD, POST",
            Page::Home
            | Page::Search
            | Page::Asset(_)
            | Page::Find
            | Page::Grep
            | Page::Diff
            | Page::Delete(..)
            | Page::Repository(_)
            | Page::Image(_) => "GET, HEAD",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages() {
        let image = |id: &str, path: &[u8]| {
            Page::Image(Place { id: id.parse().unwrap(), path: path.to_vec() })
        };
        let digest = format!("sha256:{}", "0a".repeat(32));
        for (path, want) in [
            ("/ui", Page::Home),
            ("/ui/", Page::Home),
            ("/ui/_find", Page::Find),
            ("/ui/_assets/style.css", Page::Asset("style.css".to_owned())),
            ("/ui/find", Page::Repository("find".parse().unwrap())),
            ("/ui/team/app", Page::Repository("team/app".parse().unwrap())),
            ("/ui/team%2Fapp/", Page::Repository("team/app".parse().unwrap())),
            ("/ui/team/app:1.4", image("team/app:1.4", b"")),
            ("/ui/team/app:1.4/", image("team/app:1.4", b"")),
            ("/ui/team/app%3A1.4/x", image("team/app:1.4", b"x")),
            ("/ui/a:1/etc/b:c@d/", image("a:1", b"etc/b:c@d/")),
            ("/ui/a:1/%ff%2F_find", image("a:1", b"\xff/_find")),
            (&format!("/ui/a@{digest}/x"), image(&format!("a@{digest}"), b"x")),
            (&format!("/ui/{digest}/"), image(&digest, b"")),
            ("/ui/_delete/a:1", Page::Delete("a".parse().unwrap(), "1".parse().unwrap())),
        ] {
            assert_eq!(Page::parse(path).unwrap().unwrap(), want, "{path}");
        }
        for path in [
            "/ui/_nothing",
            "/ui/A",
            "/ui/a:",
            "/ui/a//b",
            "/ui/..",
            "/ui/_delete/a",
            "/ui/_delete/a:1/x",
        ] {
            assert!(Page::parse(path).unwrap().is_err(), "{path}");
        }
        for path in ["/u", "/uix", "/v2/", "/"] {
            assert!(Page::parse(path).is_none(), "{path}");
        }
    }
}
