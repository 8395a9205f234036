//! The routes of the first API. Any of them may end in a slash. A repository's name may hold any of
//! the words that follow it, so a path is read from its end.

use percent_encoding::percent_decode_str;

use crate::docker1::ImageId;
use crate::http::error::Error;
use crate::http::url::repository;
use crate::oci::{Repository, Tag};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum V1 {
    /// `/`
    Info,
    /// `/v1/_ping`
    Ping,
    /// `/v1/users`
    Users,
    /// `/v1/users/NAME`
    User,
    /// `/v1/search`
    Search,
    /// `/v1/repositories`
    Repositories,
    /// `/v1/repositories/NAME…`
    Repository(Repository, Topic),
    /// `/v1/images/ID/…`
    Image(ImageId, Part),
}

/// What of a repository a route is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topic {
    /// `/v1/repositories/NAME`: a push begins, or all tags are deleted.
    Whole,
    /// `…/images`
    Images,
    /// `…/auth`
    Auth,
    /// `…/json`
    Json,
    /// `…/properties`
    Properties,
    /// `…/tags`
    Tags,
    /// `…/tags/TAG`
    Tag(Tag),
    /// `…/tags/TAG/json`
    TagJson(Tag),
}

/// What of an image a route is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Json,
    Layer,
    Checksum,
    Ancestry,
    Files,
}

impl V1 {
    /// `None`: it is none of these routes.
    pub fn parse(path: &str) -> Option<Result<V1, Error>> {
        if path == "/" {
            return Some(Ok(V1::Info));
        }
        let path = path.strip_prefix("/v1/")?;
        let path = path.strip_suffix('/').unwrap_or(path);
        Some(Ok(match path.split_once('/') {
            None => match path {
                "_ping" => V1::Ping,
                "users" => V1::Users,
                "search" => V1::Search,
                "repositories" => V1::Repositories,
                _ => return None,
            },
            Some(("users", name)) if !name.is_empty() && !name.contains('/') => V1::User,
            Some(("repositories", rest)) => return Some(of_repository(rest)),
            Some(("images", rest)) => {
                let (id, part) = rest.split_once('/')?;
                let part = match part {
                    "json" => Part::Json,
                    "layer" => Part::Layer,
                    "checksum" => Part::Checksum,
                    "ancestry" => Part::Ancestry,
                    "files" => Part::Files,
                    _ => return None,
                };
                return Some(id.parse().map(|id| V1::Image(id, part)).map_err(Error::from));
            }
            _ => return None,
        }))
    }

    /// The methods that the route takes, as the header `Allow` has them.
    pub fn methods(&self, read_only: bool) -> &'static str {
        use Topic as T;
        match self {
            V1::User | V1::Repository(_, T::Auth) | V1::Image(_, Part::Checksum) if read_only => {
                "OPTIONS"
            }
            _ if read_only => "GET, HEAD, OPTIONS",
            V1::Info | V1::Ping | V1::Search | V1::Repositories => "GET, HEAD, OPTIONS",
            V1::Repository(_, T::Json | T::TagJson(_)) => "GET, HEAD, OPTIONS",
            V1::Image(_, Part::Ancestry | Part::Files) => "GET, HEAD, OPTIONS",
            V1::Users => "GET, HEAD, POST, OPTIONS",
            V1::User | V1::Repository(_, T::Auth) | V1::Image(_, Part::Checksum) => "PUT, OPTIONS",
            V1::Repository(_, T::Whole) => "PUT, DELETE, OPTIONS",
            V1::Repository(_, T::Images | T::Tag(_)) => "GET, HEAD, PUT, DELETE, OPTIONS",
            V1::Repository(_, T::Tags) => "GET, HEAD, DELETE, OPTIONS",
            V1::Repository(_, T::Properties) | V1::Image(_, Part::Json | Part::Layer) => {
                "GET, HEAD, PUT, OPTIONS"
            }
        }
    }

    /// The route's name in the metrics.
    pub fn name(&self) -> &'static str {
        match self {
            V1::Info | V1::Ping => "ping",
            V1::Users | V1::User => "v1-users",
            V1::Search | V1::Repositories => "v1-lists",
            V1::Repository(_, Topic::Tags | Topic::Tag(_) | Topic::TagJson(_)) => "v1-tags",
            V1::Repository(..) => "v1-repository",
            V1::Image(_, Part::Layer) => "v1-layer",
            V1::Image(..) => "v1-image",
        }
    }
}

fn of_repository(path: &str) -> Result<V1, Error> {
    let tag = |text: &str| -> Result<Tag, Error> {
        let text = percent_decode_str(text).decode_utf8();
        Ok(text.map_err(|_| Error::RouteUnknown)?.parse()?)
    };
    let parts: Vec<&str> = path.split('/').collect();
    // A name has one part at least.
    let name = |length: usize| repository(&parts[..length].join("/"));
    let n = parts.len();
    let (length, topic) = match parts[1..] {
        [.., "tags", text, "json"] => (n - 3, Topic::TagJson(tag(text)?)),
        [.., "tags", text] => (n - 2, Topic::Tag(tag(text)?)),
        [.., "tags"] => (n - 1, Topic::Tags),
        [.., "images"] => (n - 1, Topic::Images),
        [.., "auth"] => (n - 1, Topic::Auth),
        [.., "json"] => (n - 1, Topic::Json),
        [.., "properties"] => (n - 1, Topic::Properties),
        _ => (n, Topic::Whole),
    };
    Ok(V1::Repository(name(length)?, topic))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes() {
        let of = |name: &str, topic| V1::Repository(name.parse().unwrap(), topic);
        let tag = || "1.0".parse::<Tag>().unwrap();
        let id = ImageId::from_bytes([0xab; 32]);
        for (path, want) in [
            ("/v1/_ping", V1::Ping),
            ("/v1/users", V1::Users),
            ("/v1/users/me", V1::User),
            ("/v1/search", V1::Search),
            ("/v1/repositories", V1::Repositories),
            ("/v1/repositories/a", of("a", Topic::Whole)),
            ("/v1/repositories/tags", of("tags", Topic::Whole)),
            ("/v1/repositories/a/b", of("a/b", Topic::Whole)),
            ("/v1/repositories/a/b/c", of("a/b/c", Topic::Whole)),
            ("/v1/repositories/a/images", of("a", Topic::Images)),
            ("/v1/repositories/a/b/auth", of("a/b", Topic::Auth)),
            ("/v1/repositories/a/json", of("a", Topic::Json)),
            ("/v1/repositories/a/properties", of("a", Topic::Properties)),
            ("/v1/repositories/a/tags", of("a", Topic::Tags)),
            ("/v1/repositories/a/b/tags/1.0", of("a/b", Topic::Tag(tag()))),
            ("/v1/repositories/a%2Db/tags", of("a-b", Topic::Tags)),
            ("/v1/repositories/a%2Fb/tags", of("a/b", Topic::Tags)),
            ("/v1/repositories/tags/tags/1%2E0/json", of("tags", Topic::TagJson(tag()))),
            (&format!("/v1/images/{id}/json"), V1::Image(id, Part::Json)),
            (&format!("/v1/images/{id}/layer"), V1::Image(id, Part::Layer)),
        ] {
            for path in [path.to_owned(), format!("{path}/")] {
                assert_eq!(V1::parse(&path).unwrap().unwrap(), want, "{path}");
            }
        }
        assert_eq!(V1::parse("/").unwrap().unwrap(), V1::Info);
        for (path, why) in [
            ("/v1", "no route"),
            ("/v1/", "no route"),
            ("/v1/x", "no route"),
            ("/v1/users/a/b", "no route"),
            (&format!("/v1/images/{id}"), "no part"),
            (&format!("/v1/images/{id}/tree/json"), "the other routes of images"),
        ] {
            assert!(V1::parse(path).is_none(), "{path}: {why}");
        }
        for (path, why) in [
            ("/v1/repositories/", "the list, once the slash is gone"),
            ("/v1/repositories/A", "uppercase"),
            ("/v1/repositories/a//tags", "an empty part"),
            ("/v1/repositories/a/../b/tags", "a path"),
            ("/v1/repositories/a%2F..%2Fb/tags", "an encoded path"),
            ("/v1/repositories/a/tags/-x", "no tag"),
            ("/v1/images/abc/json", "short"),
            ("/v1/images/..%2f..%2fetc/json", "a path"),
        ] {
            let route = V1::parse(path);
            let list = matches!(route, Some(Ok(V1::Repositories)));
            assert!(list || matches!(route, Some(Err(_))), "{path}: {why}");
        }
    }
}
