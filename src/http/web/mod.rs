//! Pages for browsers, under `/ui/`. They show what the calls that answer in JSON tell, by the same
//! decisions about access; nothing is decided here. They work without the script.
//!
//! What images have in them is an attacker's: the template engine escapes it, `show.rs` makes hidden
//! characters visible, and the policy in the head lets a browser load and run nothing but the style
//! sheet and the script of this program.

mod about;
mod assets;
mod delete;
mod file;
mod home;
mod image;
mod layout;
mod questions;
mod repository;
mod route;
mod session;
mod show;
mod space;

use std::sync::Arc;

use hyper::Response;
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, LOCATION,
    REFERRER_POLICY, SET_COOKIE, VARY,
};
use hyper::{Method, StatusCode};
use xxhash_rust::xxh3::xxh3_64;

use super::body::Body;
use super::error::{Error, Result};
use super::files::look;
use super::respond::{header, status};
use super::{App, RequestContext, range};

pub use image::{Fragments, Place, fragments};
pub use route::Page;
pub use session::{SESSION, cookie};

/// Bytes that a page takes at most while it is made, about.
const PAGE_MAX: usize = 512 << 10;

/// What a page may load: the style sheet, the script, and pictures of this server.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

pub async fn answer(
    app: &Arc<App>,
    context: &mut RequestContext,
    page: Page,
) -> Result<Response<Body>> {
    match page {
        Page::Asset(name) => assets::answer(&name),
        Page::Home => home::home(app, context).await,
        Page::Search => home::search(app, context).await,
        Page::Login => session::login(app, context).await,
        Page::Logout => session::logout(app, context).await,
        Page::Repository(name) => repository::answer(app, context, name).await,
        Page::Image(place) => image::answer(app, context, place).await,
        Page::Find => questions::find(app, context).await,
        Page::Grep => questions::grep(app, context).await,
        Page::Diff => questions::diff(app, context).await,
        Page::Delete(name, reference) => delete::answer(app, context, name, reference).await,
    }
}

/// Who looks at a page, and what its forms need.
#[derive(Clone, Debug)]
pub struct Visit {
    /// `None`: who looks has not logged in.
    user: Option<String>,
    /// A cookie says who it is, so they can log out.
    by_cookie: bool,
    may_log_in: bool,
    /// There are no users, and everyone may do everything.
    is_open: bool,
    /// What forms send back, to show that a page of this server made them.
    token: String,
    /// The cookie that `token` belongs to, if the browser has none yet.
    cookie: Option<HeaderValue>,
    /// This server's address, for command lines.
    origin: String,
    /// What was searched for, and what it was taken for, in words.
    asked: String,
    taken: Option<&'static str>,
}

impl Visit {
    pub fn new(app: &App, context: &RequestContext) -> Visit {
        let (bound, cookie) = session::bound(context);
        let taken = context.parameter("as").and_then(|taken| {
            home::TAKEN.iter().find(|(name, _)| *name == taken).map(|(_, words)| *words)
        });
        let by_cookie = session::cookie(context, SESSION).is_some();
        Visit {
            user: context.proof.identity.name().map(str::to_owned),
            by_cookie,
            may_log_in: app.access.takes_passwords(),
            is_open: app.access.is_open(),
            token: app.access.form_token(&bound),
            cookie,
            origin: super::authorize::origin(context)
                .unwrap_or_else(|| "http://localhost:8000".to_owned()),
            asked: context.parameter("q").unwrap_or_default().to_owned(),
            taken,
        }
    }

    /// Gives the browser the cookie to which the forms of a page belong.
    fn keep(&self, response: &mut Response<Body>) {
        if let Some(cookie) = &self.cookie {
            response.headers_mut().append(SET_COOKIE, cookie.clone());
        }
    }
}

/// A page whose text is complete. Browsers ask each time whether it is still the same.
fn page(context: &RequestContext, html: String) -> Response<Body> {
    let etag = format!("\"{:016x}\"", xxh3_64(html.as_bytes()));
    let mut response = if range::not_modified(&context.headers, &etag) {
        status(StatusCode::NOT_MODIFIED)
    } else {
        Response::new(Body::from(html))
    };
    dress(&mut response);
    response.headers_mut().insert(ETAG, header(etag));
    response
}

/// Adds the headers that every page has.
fn dress(response: &mut Response<Body>) {
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (CACHE_CONTROL, "private, no-cache"),
        (VARY, "Cookie"),
        (REFERRER_POLICY, "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

/// Sends the browser to another page.
fn redirect(code: StatusCode, to: &str) -> Response<Body> {
    let mut response = status(code);
    // An address is ASCII: everything else in it is percent-encoded.
    let to = HeaderValue::try_from(to).unwrap_or(HeaderValue::from_static("/ui/"));
    response.headers_mut().insert(LOCATION, to);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    response
}

/// `/` for who asks for a page.
pub fn from_root() -> Response<Body> {
    let mut response = redirect(StatusCode::SEE_OTHER, "/ui/");
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    response
}

/// Whether a browser asks, which wants a page: other clients do not name HTML.
pub fn is_wanted(context: &RequestContext) -> bool {
    let accepted = context.headers.get_all(hyper::header::ACCEPT).iter();
    accepted.filter_map(|value| value.to_str().ok()).any(|value| value.contains("text/html"))
}

/// Makes a page of the answer to a request that failed.
pub fn failed(app: &App, context: &RequestContext, error: &Error, response: &mut Response<Body>) {
    let visit = Visit::new(app, context);
    let message = error.message(context.id);
    let html = match error {
        Error::Unauthorized(_) if visit.may_log_in => {
            visit.keep(response);
            let to = if context.method == Method::GET { context.target.as_str() } else { "/ui/" };
            session::form(&visit, to, None)
        }
        _ => layout::error(&visit, response.status(), &message, context.id),
    };
    *response.body_mut() = Body::from(html);
    dress(response);
}
