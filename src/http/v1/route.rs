//! The routes of the first API. Any of them may end in a slash; a repository's name
//! may hold any of the words that follow it, so a path is read from its end.

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
    /// `/v1/repositories/NAME`
    Repository(Repository),
    /// `/v1/repositories/NAME/images`
    Images(Repository),
    /// `/v1/repositories/NAME/auth`
    Auth(Repository),
    /// `/v1/repositories/NAME/json`
    RepositoryJson(Repository),
    /// `/v1/repositories/NAME/properties`
    Properties(Repository),
    /// `/v1/repositories/NAME/tags`
    Tags(Repository),
    /// `/v1/repositories/NAME/tags/TAG`
    Tag(Repository, Tag),
    /// `/v1/repositories/NAME/tags/TAG/json`
    TagJson(Repository, Tag),
    /// `/v1/images/ID/…`
    Image(ImageId, Part),
}

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
                return Some(id.parse().map(|id| V1::Image(id, part)).map_err(Error::V1));
            }
            _ => return None,
        }))
    }

    /// What takes which methods, as a header has it.
    pub fn methods(&self, read_only: bool) -> &'static str {
        match self {
            V1::User | V1::Auth(_) | V1::Image(_, Part::Checksum) if read_only => "OPTIONS",
            V1::Users | V1::Repository(_) if read_only => "GET, HEAD, OPTIONS",
            _ if read_only => "GET, HEAD, OPTIONS",
            V1::Info | V1::Ping | V1::Search | V1::Repositories => "GET, HEAD, OPTIONS",
            V1::RepositoryJson(_) | V1::TagJson(..) => "GET, HEAD, OPTIONS",
            V1::Image(_, Part::Ancestry | Part::Files) => "GET, HEAD, OPTIONS",
            V1::Users => "GET, HEAD, POST, OPTIONS",
            V1::User | V1::Auth(_) | V1::Image(_, Part::Checksum) => "PUT, OPTIONS",
            V1::Repository(_) => "PUT, DELETE, OPTIONS",
            V1::Images(_) | V1::Tag(..) => "GET, HEAD, PUT, DELETE, OPTIONS",
            V1::Tags(_) => "GET, HEAD, DELETE, OPTIONS",
            V1::Properties(_) | V1::Image(_, Part::Json | Part::Layer) => "GET, HEAD, PUT, OPTIONS",
        }
    }

    /// The route's name in the metrics.
    pub fn name(&self) -> &'static str {
        match self {
            V1::Info | V1::Ping => "ping",
            V1::Users | V1::User => "v1-users",
            V1::Search | V1::Repositories => "v1-lists",
            V1::Repository(_) | V1::Images(_) | V1::Auth(_) => "v1-repository",
            V1::RepositoryJson(_) | V1::Properties(_) => "v1-repository",
            V1::Tags(_) | V1::Tag(..) | V1::TagJson(..) => "v1-tags",
            V1::Image(_, Part::Layer) => "v1-layer",
            V1::Image(..) => "v1-image",
        }
    }

    /// The repository that it is about.
    pub fn repository(&self) -> Option<&Repository> {
        match self {
            V1::Info | V1::Ping | V1::Users | V1::User => None,
            V1::Search | V1::Repositories | V1::Image(..) => None,
            V1::Repository(repository)
            | V1::Images(repository)
            | V1::Auth(repository)
            | V1::RepositoryJson(repository)
            | V1::Properties(repository)
            | V1::Tags(repository)
            | V1::Tag(repository, _)
            | V1::TagJson(repository, _) => Some(repository),
        }
    }

    /// The same of another repository.
    pub fn with_repository(self, other: Repository) -> V1 {
        match self {
            V1::Info | V1::Ping | V1::Users | V1::User => self,
            V1::Search | V1::Repositories | V1::Image(..) => self,
            V1::Repository(_) => V1::Repository(other),
            V1::Images(_) => V1::Images(other),
            V1::Auth(_) => V1::Auth(other),
            V1::RepositoryJson(_) => V1::RepositoryJson(other),
            V1::Properties(_) => V1::Properties(other),
            V1::Tags(_) => V1::Tags(other),
            V1::Tag(_, tag) => V1::Tag(other, tag),
            V1::TagJson(_, tag) => V1::TagJson(other, tag),
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
    Ok(match parts[1..] {
        [.., "tags", text, "json"] => V1::TagJson(name(n - 3)?, tag(text)?),
        [.., "tags", text] => V1::Tag(name(n - 2)?, tag(text)?),
        [.., "tags"] => V1::Tags(name(n - 1)?),
        [.., "images"] => V1::Images(name(n - 1)?),
        [.., "auth"] => V1::Auth(name(n - 1)?),
        [.., "json"] => V1::RepositoryJson(name(n - 1)?),
        [.., "properties"] => V1::Properties(name(n - 1)?),
        _ => V1::Repository(name(n)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes() {
        let name = |s: &str| s.parse::<Repository>().unwrap();
        let tag = || "1.0".parse::<Tag>().unwrap();
        let id = ImageId::from_bytes([0xab; 32]);
        for (path, want) in [
            ("/v1/_ping", V1::Ping),
            ("/v1/users", V1::Users),
            ("/v1/users/me", V1::User),
            ("/v1/search", V1::Search),
            ("/v1/repositories", V1::Repositories),
            ("/v1/repositories/a", V1::Repository(name("a"))),
            ("/v1/repositories/tags", V1::Repository(name("tags"))),
            ("/v1/repositories/a/b", V1::Repository(name("a/b"))),
            ("/v1/repositories/a/b/c", V1::Repository(name("a/b/c"))),
            ("/v1/repositories/a/images", V1::Images(name("a"))),
            ("/v1/repositories/a/b/auth", V1::Auth(name("a/b"))),
            ("/v1/repositories/a/json", V1::RepositoryJson(name("a"))),
            ("/v1/repositories/a/properties", V1::Properties(name("a"))),
            ("/v1/repositories/a/tags", V1::Tags(name("a"))),
            ("/v1/repositories/a/b/tags/1.0", V1::Tag(name("a/b"), tag())),
            ("/v1/repositories/a%2Db/tags", V1::Tags(name("a-b"))),
            ("/v1/repositories/a%2Fb/tags", V1::Tags(name("a/b"))),
            ("/v1/repositories/tags/tags/1%2E0/json", V1::TagJson(name("tags"), tag())),
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
