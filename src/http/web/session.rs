//! Logging in and out, and what shows that a form was sent by a page of this server.

use std::sync::Arc;

use hyper::header::{AUTHORIZATION, COOKIE, HeaderValue, SET_COOKIE};
use hyper::{Method, Response, StatusCode};
use maud::html;
use uuid::Uuid;

use super::show::Shown;
use super::{Visit, layout, page, redirect};
use crate::auth::SESSION_SECONDS;
use crate::http::body::Body;
use crate::http::error::{Error, Result};
use crate::http::limits::BODY_TIME;
use crate::http::{App, RequestContext, authorize, url};

/// The cookie that says who somebody is.
pub const SESSION: &str = "registry-session";
/// The cookie that forms of those belong to who have not logged in.
const VISIT: &str = "registry-visit";
/// Bytes of a form that is sent.
const FORM_MAX: usize = 16 << 10;

/// The value of a cookie.
pub fn cookie<'a>(context: &'a RequestContext, name: &str) -> Option<&'a str> {
    let cookies = context.headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    cookies
        .flat_map(|cookies| cookies.split(';'))
        .find_map(|cookie| cookie.trim().strip_prefix(name)?.strip_prefix('='))
}

/// A cookie for pages alone, which other sites' pages cannot have sent.
fn set_cookie(context: &RequestContext, name: &str, value: &str, seconds: u64) -> HeaderValue {
    let is_tls = authorize::origin(context).is_some_and(|origin| origin.starts_with("https:"));
    let secure = if is_tls { "; Secure" } else { "" };
    let text =
        format!("{name}={value}; Path=/ui; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}");
    crate::http::respond::header(text)
}

/// What forms for this browser are bound to, which other sites do not know; and the cookie to give
/// it, if it has nothing such yet.
pub fn bound(context: &RequestContext) -> (Vec<u8>, Option<HeaderValue>) {
    let known = cookie(context, SESSION).or_else(|| cookie(context, VISIT)).map(str::as_bytes);
    let header = context.headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
    if let Some(known) = known.or(header) {
        return (known.to_vec(), None);
    }
    let visit = Uuid::new_v4().simple().to_string();
    let cookie = set_cookie(context, VISIT, &visit, SESSION_SECONDS);
    (visit.into_bytes(), Some(cookie))
}

/// The fields of a form, if a page of this server for this browser made it.
pub async fn fields(app: &App, context: &mut RequestContext) -> Result<Vec<(String, String)>> {
    let body = context.body.collect(FORM_MAX, &app.manifest_buffers);
    let body = tokio::time::timeout(BODY_TIME, body).await.map_err(|_| Error::BodyTimeout)?;
    let (bytes, _room) = body?.ok_or(Error::DocumentTooLarge(FORM_MAX))?;
    let text = std::str::from_utf8(&bytes).map_err(|_| Error::Document("a form"))?;
    let fields = url::form(Some(text))?;
    let (bound, _) = bound(context);
    if !app.access.is_form_token(&bound, field(&fields, "token")) {
        return Err(Error::FormStale);
    }
    Ok(fields)
}

/// A field's value; nothing if it was not sent.
pub fn field<'a>(fields: &'a [(String, String)], name: &str) -> &'a str {
    fields.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.as_str())
}

/// `/ui/_login`: the form, who has logged in, and the answer to the form.
pub async fn login(app: &Arc<App>, context: &mut RequestContext) -> Result<Response<Body>> {
    let visit = Visit::new(app, context);
    if context.method != Method::POST {
        let html = match &visit.user {
            None if visit.may_log_in => form(&visit, "/ui/", None),
            _ => me(&visit, app.read_only),
        };
        let mut response = page(context, html);
        visit.keep(&mut response);
        return Ok(response);
    }
    let fields = fields(app, context).await?;
    let to = Some(field(&fields, "to")).filter(|to| is_page(to)).unwrap_or("/ui/");
    let login = app.access.login(field(&fields, "name"), field(&fields, "password"));
    let proof = match authorize::verify(app, context, login).await {
        Ok(proof) => proof,
        Err(authorize::Unverified::Refused(refusal)) => {
            tracing::warn!(client = %context.client, error = %refusal, "login failed");
            let html = form(&visit, to, Some("The name or the password is wrong."));
            let mut response = page(context, html);
            *response.status_mut() = StatusCode::UNAUTHORIZED;
            return Ok(response);
        }
        Err(authorize::Unverified::Failed(error)) => return Err(error),
    };
    let mut response = redirect(StatusCode::SEE_OTHER, to);
    // Users may have changed in this moment.
    let session = app.access.session(&proof).ok_or(Error::Logins)?;
    let cookie = set_cookie(context, SESSION, &session, SESSION_SECONDS);
    response.headers_mut().append(SET_COOKIE, cookie);
    Ok(response)
}

/// `/ui/_logout`
pub async fn logout(app: &Arc<App>, context: &mut RequestContext) -> Result<Response<Body>> {
    fields(app, context).await?;
    let mut response = redirect(StatusCode::SEE_OTHER, "/ui/");
    response.headers_mut().append(SET_COOKIE, set_cookie(context, SESSION, "", 0));
    Ok(response)
}

/// Whether an address is one of these pages and nothing else.
fn is_page(address: &str) -> bool {
    address.starts_with("/ui/") && address.bytes().all(|b| b.is_ascii_graphic() && b != b'\\')
}

/// The page with the form. `to` is where to go on after it.
pub fn form(visit: &Visit, to: &str, wrong: Option<&str>) -> String {
    let main = html! {
        div.narrow {
            h1 { "Log in" }
            @if let Some(wrong) = wrong { p.note.bad role="alert" { (wrong) } }
            form.form method="post" action="/ui/_login" {
                input type="hidden" name="token" value=(visit.token);
                input type="hidden" name="to" value=(to);
                label { "Name" input name="name" autocomplete="username" required autofocus autocapitalize="none"; }
                label { "Password" input type="password" name="password" autocomplete="current-password" required; }
                button.main { "Log in" }
            }
        }
    };
    layout::page(visit, "Log in", &main)
}

fn me(visit: &Visit, read_only: bool) -> String {
    let main = html! {
        @match &visit.user {
            Some(name) => {
                h1 { bdi { (Shown(name.as_bytes())) } }
                p { "The page of each repository says what you may do in it." }
            }
            None if visit.is_open => {
                h1 { "No login is needed" }
                p { "This registry has no users: all who can reach it may do everything." }
            }
            None => {
                h1 { "There is no login on these pages" }
                p { "This registry takes the tokens of another service. Clients log in with " code { "docker login" } "." }
            }
        }
        @if read_only { p.note { "This registry is read-only." } }
        p { a href="/ui/" { "All repositories" } }
    };
    layout::page(visit, "Who you are", &main)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_login_leads() {
        for (address, want) in [
            ("/ui/", true),
            ("/ui/team/app:1/etc/?deleted=1", true),
            ("//evil.example/ui/", false),
            ("https://evil.example/", false),
            ("/ui", false),
            ("/v2/", false),
            ("/ui/\\evil", false),
            ("/ui/a\r\nSet-Cookie: x", false),
            ("", false),
        ] {
            assert_eq!(is_page(address), want, "{address:?}");
        }
    }
}
