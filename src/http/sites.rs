//! What pages of other sites may do through the browser of a user who can reach this server.
//!
//! A browser sends the requests of any page to any address, loopback included, and a page can let
//! its own host name lead to that address (DNS rebinding). So a server that asks for no password
//! answers to known names only, and writes that another site sent are refused. Clients that are no
//! browsers send neither `Origin` nor `Sec-Fetch-Site`.

use std::net::IpAddr;

use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ALLOW, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN, VARY,
};
use hyper::{Method, Response, StatusCode};

use super::RequestContext;
use super::body::Body;
use super::error::{Error, Result};
use super::respond::status;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The flags about names and sites.
#[derive(Clone, Debug, Default)]
pub struct Sites {
    /// Names, in lower case and without a port, that a server without users answers to, beside IP
    /// addresses and localhost.
    pub hosts: Vec<String>,
    /// Origins, such as `https://ui.example.com`, whose pages may use this server.
    pub origins: Vec<HeaderValue>,
}

impl Sites {
    /// Refuses what a page of another site may have sent. `open`: the server has no users.
    pub(super) fn check(&self, context: &RequestContext, open: bool) -> Result<()> {
        let host = match &context.authority {
            Some(authority) => authority.as_str(),
            None => text(context.headers.get(HOST)).unwrap_or_default(),
        };
        if open && !self.knows(host) {
            return Err(Error::HostUnknown(host.chars().take(255).collect()));
        }
        let reads = context.is_read() || context.method == Method::OPTIONS;
        if !reads && self.is_foreign(&context.headers, host) {
            return Err(Error::CrossSite);
        }
        Ok(())
    }

    /// The request's origin, if its pages may use this server.
    pub(super) fn allowed(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        headers.get(ORIGIN).filter(|origin| self.origins.contains(origin)).cloned()
    }

    /// Whether a server without users answers to `host`. Only HTTP/1.0, which no browser speaks,
    /// sends none.
    fn knows(&self, host: &str) -> bool {
        let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((address, _)) => address,
            None => host.split_once(':').map_or(host, |(name, _)| name),
        };
        let name = name.to_ascii_lowercase();
        let name = name.strip_suffix('.').unwrap_or(&name);
        host.is_empty()
            || name.parse::<IpAddr>().is_ok()
            || name == "localhost"
            || name.ends_with(".localhost")
            || self.hosts.iter().any(|known| known == name)
    }

    fn is_foreign(&self, headers: &HeaderMap, host: &str) -> bool {
        if self.allowed(headers).is_some() {
            return false;
        }
        match (text(headers.get(SEC_FETCH_SITE)), headers.get(ORIGIN)) {
            // The browser itself says that the page is ours, or that there is no page.
            (Some("same-origin" | "none"), _) | (None, None) => false,
            (Some(_), _) => true,
            (None, origin) => {
                let origin = text(origin).and_then(|origin| origin.split_once("://"));
                // Behind a proxy the scheme of the request is not known.
                origin.is_none_or(|(_, origin)| !origin.eq_ignore_ascii_case(host))
            }
        }
    }

    /// Lets a page of `origin` read the answer.
    pub(super) fn permit(&self, origin: Option<HeaderValue>, headers: &mut HeaderMap) {
        if !self.origins.is_empty() {
            headers.append(VARY, HeaderValue::from_static("Origin"));
        }
        if let Some(origin) = origin {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(
                ACCESS_CONTROL_EXPOSE_HEADERS,
                HeaderValue::from_static(
                    "Content-Range, Docker-Content-Digest, ETag, Link, Location, Range, \
                     WWW-Authenticate, X-Docker-Token",
                ),
            );
        }
    }
}

fn text(value: Option<&HeaderValue>) -> Option<&str> {
    // What is not text matches nothing.
    value.map(|value| value.to_str().unwrap_or("?"))
}

/// Answers OPTIONS. A browser sends it before a request of a page that `--cors-origin` names.
pub(super) fn preflight(methods: &'static str, allowed: bool) -> Response<Body> {
    let mut response = status(StatusCode::NO_CONTENT);
    let headers = response.headers_mut();
    headers.insert(ALLOW, HeaderValue::from_static(methods));
    if allowed {
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(methods));
        headers.insert(
            ACCESS_CONTROL_ALLOW_HEADERS,
            HeaderValue::from_static(
                "Authorization, Content-Range, Content-Type, If-None-Match, Range, X-Docker-Token",
            ),
        );
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        let sites = Sites { hosts: vec!["named.example".to_owned()], origins: Vec::new() };
        for (host, want) in [
            ("127.0.0.1:8000", true),
            ("10.0.0.1", true),
            ("[::1]:8000", true),
            ("[::1]", true),
            ("localhost", true),
            ("LocalHost.:8000", true),
            ("a.localhost", true),
            ("named.example:443", true),
            ("NAMED.EXAMPLE", true),
            ("", true),
            ("evil.example", false),
            ("evil.example:8000", false),
            ("localhost.evil.example", false),
            ("evillocalhost", false),
            ("127.0.0.1.evil.example", false),
            ("sub.named.example", false),
            ("evil.example:127.0.0.1", false),
            ("[evil.example]", false),
            ("?", false),
        ] {
            assert_eq!(sites.knows(host), want, "{host}");
        }
    }
}
