//! A client of another registry: who to log in as, and what its answers mean. What is asked is up to
//! the caller. Everything here is blocking code.
//!
//! `/v2/` is asked first, as Docker does it, because it says how to log in even where a server
//! answers without a login, but tells less then.

mod credentials;
mod login;

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use ureq::http::StatusCode;
use ureq::http::header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use ureq::tls::TlsConfig;
use ureq::{Body, BodyReader, http};

use crate::oci::Repository;
use crate::roots::roots;
use credentials::Credentials;
use login::Challenge;

/// How long a connection may take to be made. An answer may take longer: a layer that has no index
/// yet is indexed first.
const CONNECT: Duration = Duration::from_secs(30);
/// Bytes of a document that is read as a whole: an error, or a token.
const DOCUMENT: u64 = 1 << 20;
/// Bytes of the longest line of an answer.
const LINE: u64 = 1 << 30;
/// Bytes of the longest query of a URL: nginx takes 8 KiB for the whole line.
const URL: usize = 6 << 10;
/// What stands for itself in a query: nothing that separates, and no `+`.
const QUERY: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/').remove(b':');

/// `http://HOST[:PORT]` or `https://HOST[:PORT]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url(String);

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UrlError {
    #[error("want http://HOST[:PORT] or https://HOST[:PORT]")]
    Invalid,
    #[error("the URL has a password in it: store it with `docker login` or `podman login`")]
    Password,
}

impl Url {
    /// The host, and the port if the URL has one.
    fn host(&self) -> &str {
        self.0.split_once("://").map_or("", |(_, host)| host)
    }

    fn is_loopback(&self) -> bool {
        let name = match self.host().strip_prefix('[') {
            Some(rest) => rest.split(']').next(),
            None => self.host().split(':').next(),
        };
        let name = name.unwrap_or_default();
        name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Url, UrlError> {
        let text = text.strip_suffix('/').unwrap_or(text).to_ascii_lowercase();
        let (scheme, host) = text.split_once("://").ok_or(UrlError::Invalid)?;
        if host.contains('@') {
            return Err(UrlError::Password);
        }
        let plain =
            |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
        let valid = ["http", "https"].contains(&scheme) && host.chars().all(plain);
        let valid = valid && !host.is_empty() && text.parse::<http::Uri>().is_ok();
        if valid { Ok(Url(text)) } else { Err(UrlError::Invalid) }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot connect to {url}: {cause}")]
    Connect { url: String, cause: String },
    #[error(
        "the certificate of {url} is not trusted: {cause}; SSL_CERT_FILE names a file with the certificate of its authority"
    )]
    Certificate { url: String, cause: String },
    #[error("{url} wants a login: `docker login {host}` or `podman login {host}` stores one")]
    LoginMissing { url: Url, host: String },
    #[error(
        "{url} refuses the login that is stored for {host}: `docker login {host}` or `podman login {host}` stores another one"
    )]
    LoginRefused { url: Url, host: String },
    #[error("{url} wants a login of a kind that is not known here")]
    Challenge { url: Url },
    #[error("{url} sends the password to {realm}, which has no TLS")]
    PlainRealm { url: Url, realm: String },
    #[error("{realm}, which gives tokens for {url}, does not answer with a token")]
    Token { url: Url, realm: String },
    #[error(transparent)]
    Credentials(#[from] credentials::Error),
    /// In the words of the server, which are those of the command beside the store.
    #[error("{0}")]
    Refused(String),
    #[error("{url}: {message}")]
    Denied { url: Url, message: String },
    #[error("{url} answers with {status}: {message}")]
    Failed { url: Url, status: StatusCode, message: String },
    #[error(
        "{url} does not answer as `registry serve` does: --server wants the URL of a registry of this program, of this version or later"
    )]
    NotOurs { url: Url },
    #[error("the answer of {url} broke off: {cause}")]
    Broken { url: Url, cause: io::Error },
    #[error("the answer of {url} cannot be read: {cause}")]
    Answer { url: Url, cause: String },
    #[error("{0}")]
    Roots(String),
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A server that is asked.
pub struct Server {
    url: Url,
    agent: ureq::Agent,
    login: Mutex<Login>,
}

/// How requests are let in.
#[derive(Default)]
struct Login {
    /// It was asked how to log in.
    is_known: bool,
    /// The value of `Authorization`.
    header: Option<String>,
    /// What a token service is asked for.
    scopes: BTreeSet<String>,
    credentials: Option<Option<Credentials>>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Server {
    /// Connects to nothing yet.
    pub fn new(url: &Url) -> Result<Server> {
        let mut tls = TlsConfig::builder().unversioned_rustls_crypto_provider(Arc::new(
            rustls::crypto::aws_lc_rs::default_provider(),
        ));
        if url.0.starts_with("https:") {
            let file = std::env::var_os("SSL_CERT_FILE").filter(|file| !file.is_empty());
            let roots = roots(file.as_ref().map(AsRef::as_ref));
            tls = tls.root_certs(roots.map_err(|error| Error::Roots(format!("{error:#}")))?);
        }
        let mut config = ureq::Agent::config_builder();
        if url.is_loopback() {
            // As Docker has it: no proxy reaches this machine.
            config = config.proxy(None);
        }
        let config = config
            .tls_config(tls.build())
            .timeout_resolve(Some(CONNECT))
            .timeout_connect(Some(CONNECT))
            .user_agent(concat!("registry/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            .build();
        Ok(Server { url: url.clone(), agent: config.into(), login: Mutex::default() })
    }

    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Says which repository will be asked for, so that a token can be had for all of them.
    pub fn will_pull(&self, repository: &Repository) {
        self.lock().scopes.insert(format!("repository:{repository}:pull"));
    }

    /// Gets `path`, which may have a query.
    pub fn get(&self, path: &str) -> Result<Answer> {
        self.send(path, |url, authorization| {
            let request = self.agent.get(url);
            authorized(request, authorization).call()
        })
    }

    /// Posts parameters to `path`, which may have others.
    pub fn post(&self, path: &str, form: &str) -> Result<Answer> {
        self.send(path, |url, authorization| {
            let request = authorized(self.agent.post(url), authorization);
            request.content_type("application/x-www-form-urlencoded").send(form)
        })
    }

    fn lock(&self) -> MutexGuard<'_, Login> {
        // A panic under it leaves nothing half done.
        self.login.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logs in as far as it is necessary, and sends a request.
    fn send(
        &self,
        path: &str,
        request: impl Fn(&str, Option<&str>) -> Result<http::Response<Body>, ureq::Error>,
    ) -> Result<Answer> {
        let url = format!("{}{path}", self.url);
        let send = |header: Option<&str>| {
            request(&url, header).map_err(|error| connect_error(self.url.to_string(), error))
        };
        let header = self.header()?;
        let mut response = send(header.as_deref())?;
        if response.status() == StatusCode::UNAUTHORIZED {
            // The token may be too old, or for too little.
            let header = self.answer(&response, header.as_deref())?;
            response = send(Some(&header))?;
        }
        self.check(response)
    }

    /// The `Authorization` of requests.
    fn header(&self) -> Result<Option<String>> {
        if self.lock().is_known {
            return Ok(self.lock().header.clone());
        }
        let response = self.agent.get(format!("{}/v2/", self.url)).call();
        let response = response.map_err(|error| connect_error(self.url.to_string(), error))?;
        let header = match response.status() {
            StatusCode::UNAUTHORIZED => Some(self.answer(&response, None)?),
            _ => {
                self.check(response)?;
                None
            }
        };
        self.lock().is_known = true;
        Ok(header)
    }

    /// Answers a 401: returns the `Authorization` for requests from now on. `sent` is the one that
    /// was refused.
    fn answer(&self, response: &http::Response<Body>, sent: Option<&str>) -> Result<String> {
        let host = || self.url.host().to_owned();
        let values = response.headers().get_all(WWW_AUTHENTICATE).iter();
        let challenge = Challenge::parse(values.filter_map(|value| value.to_str().ok()))
            .ok_or_else(|| Error::Challenge { url: self.url.clone() })?;
        let credentials = self.credentials()?;
        let header = match (challenge, credentials) {
            (Challenge::Basic, Some(Credentials::Password { name, password })) => {
                basic(&name, &password)
            }
            (Challenge::Basic, None) => {
                return Err(Error::LoginMissing { url: self.url.clone(), host: host() });
            }
            (Challenge::Basic, Some(Credentials::Identity(_))) => {
                return Err(Error::Challenge { url: self.url.clone() });
            }
            (_, Some(Credentials::Token(token))) => format!("Bearer {token}"),
            (Challenge::Bearer { realm, service, scope }, credentials) => {
                let mut scopes = self.lock();
                scopes.scopes.extend(scope);
                let wanted: Vec<String> = scopes.scopes.iter().cloned().collect();
                drop(scopes);
                let token = self.token(&realm, service.as_deref(), &wanted, credentials)?;
                format!("Bearer {token}")
            }
        };
        // What was refused once is refused again. Tokens are new each time.
        if sent == Some(header.as_str()) {
            return Err(Error::LoginRefused { url: self.url.clone(), host: host() });
        }
        self.lock().header = Some(header.clone());
        Ok(header)
    }

    fn credentials(&self) -> Result<Option<Credentials>> {
        if let Some(known) = &self.lock().credentials {
            return Ok(known.clone());
        }
        let found = credentials::find(self.url.host())?;
        self.lock().credentials = Some(found.clone());
        Ok(found)
    }

    /// Gets a token of a token service.
    fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        scopes: &[String],
        credentials: Option<Credentials>,
    ) -> Result<String> {
        #[derive(Deserialize)]
        struct Document {
            token: Option<String>,
            access_token: Option<String>,
        }
        let is_plain = realm.starts_with("http:") && self.url.0.starts_with("https:");
        if is_plain && credentials.is_some() {
            return Err(Error::PlainRealm { url: self.url.clone(), realm: realm.to_owned() });
        }
        let failed = || Error::Token { url: self.url.clone(), realm: realm.to_owned() };
        let sent = match &credentials {
            Some(Credentials::Identity(token)) => {
                let scope = scopes.join(" ");
                self.agent.post(realm).send_form([
                    ("grant_type", "refresh_token"),
                    ("service", service.unwrap_or_default()),
                    ("client_id", "registry"),
                    ("scope", scope.as_str()),
                    ("refresh_token", token.as_str()),
                ])
            }
            _ => {
                let mut query = Query::new();
                if let Some(service) = service {
                    query.add("service", service);
                }
                for scope in scopes {
                    query.add("scope", scope);
                }
                let header = match &credentials {
                    Some(Credentials::Password { name, password }) => {
                        query.add("account", name);
                        Some(basic(name, password))
                    }
                    _ => None,
                };
                let separator = if realm.contains('?') { '&' } else { '?' };
                let request = self.agent.get(format!("{realm}{separator}{query}"));
                authorized(request, header.as_deref()).call()
            }
        };
        let response = sent.map_err(|error| connect_error(realm.to_owned(), error))?;
        match response.status() {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let (url, host) = (self.url.clone(), self.url.host().to_owned());
                return Err(match credentials {
                    Some(_) => Error::LoginRefused { url, host },
                    None => Error::LoginMissing { url, host },
                });
            }
            status if !status.is_success() => return Err(failed()),
            _ => {}
        }
        let mut body = response.into_body();
        let text = body.with_config().limit(DOCUMENT).read_to_vec().map_err(|_| failed())?;
        let document: Document = serde_json::from_slice(&text).map_err(|_| failed())?;
        let token = document.token.or(document.access_token).ok_or_else(failed)?;
        // It becomes a header.
        let is_valid = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
        if is_valid { Ok(token) } else { Err(failed()) }
    }

    /// What an answer means.
    fn check(&self, response: http::Response<Body>) -> Result<Answer> {
        let (head, body) = response.into_parts();
        let (status, url) = (head.status, self.url.clone());
        if status.is_success() {
            let body = body.into_with_config().limit(u64::MAX).reader();
            return Ok(Answer { url, head, body: BufReader::with_capacity(64 << 10, body) });
        }
        let mut text = Vec::new();
        // An error whose text breaks off is one all the same.
        let _ = body.into_reader().take(DOCUMENT).read_to_end(&mut text);
        let said = said(&text);
        let unknown_route = said.as_ref().is_some_and(|(code, _)| code == "UNSUPPORTED");
        Err(match (status, said) {
            (StatusCode::UNAUTHORIZED, _) => {
                let host = url.host().to_owned();
                match self.lock().credentials {
                    Some(Some(_)) => Error::LoginRefused { url, host },
                    _ => Error::LoginMissing { url, host },
                }
            }
            (StatusCode::NOT_FOUND, None) => Error::NotOurs { url },
            (StatusCode::NOT_FOUND, _) if unknown_route => Error::NotOurs { url },
            (StatusCode::FORBIDDEN | StatusCode::MISDIRECTED_REQUEST, Some((_, message))) => {
                Error::Denied { url, message }
            }
            (
                StatusCode::BAD_REQUEST
                | StatusCode::NOT_FOUND
                | StatusCode::CONFLICT
                | StatusCode::UNPROCESSABLE_ENTITY,
                Some((_, message)),
            ) => Error::Refused(self.explained(status, message)),
            (status, Some((_, message))) => Error::Failed { url, status, message },
            (status, None) => {
                let kind = head.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
                let message = format!("its body is {}", kind.unwrap_or("not said to be anything"));
                Error::Failed { url, status, message }
            }
        })
    }
}

impl Server {
    /// Where a server shows something without a login, the rest does not exist.
    fn explained(&self, status: StatusCode, message: String) -> String {
        let login = self.lock();
        if status == StatusCode::NOT_FOUND
            && login.header.is_some()
            && login.credentials == Some(None)
        {
            let host = self.url.host();
            return format!("{message}, as far as it can be seen without a login for {host}");
        }
        message
    }
}

fn authorized<T>(
    request: ureq::RequestBuilder<T>,
    header: Option<&str>,
) -> ureq::RequestBuilder<T> {
    match header {
        Some(header) => request.header(AUTHORIZATION, header),
        None => request,
    }
}

fn basic(name: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{name}:{password}")))
}

/// The code and the message of an error in one of the forms of `docs/http-api.md`.
fn said(text: &[u8]) -> Option<(String, String)> {
    #[derive(Deserialize)]
    struct Document {
        error: Option<String>,
        #[serde(default)]
        errors: Vec<One>,
    }
    #[derive(Deserialize)]
    struct One {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let document: Document = serde_json::from_slice(text).ok()?;
    let first = document.errors.into_iter().next().map(|error| (error.code, error.message));
    first.or(document.error.map(|message| (String::new(), message)))
}

fn connect_error(url: String, error: ureq::Error) -> Error {
    let certificate = |cause: &rustls::Error| match cause {
        rustls::Error::InvalidCertificate(cause) => Some(cause.to_string()),
        _ => None,
    };
    let cause = match &error {
        ureq::Error::Io(cause) => {
            let tls = cause.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
            if let Some(cause) = tls.and_then(certificate) {
                return Error::Certificate { url, cause };
            }
            match (cause.kind(), tls) {
                (ErrorKind::ConnectionRefused, _) => {
                    "nothing listens there: does `registry serve` run?".to_owned()
                }
                (_, Some(tls)) => format!("{tls}; if it has no TLS, write http://"),
                (_, None) => cause.to_string(),
            }
        }
        ureq::Error::Rustls(cause) => match certificate(cause) {
            Some(cause) => return Error::Certificate { url, cause },
            None => format!("{cause}; if it has no TLS, write http://"),
        },
        ureq::Error::HostNotFound => "the host is not known".to_owned(),
        ureq::Error::Timeout(_) => format!("no connection within {} s", CONNECT.as_secs()),
        ureq::Error::Protocol(cause) if url.starts_with("http:") => {
            format!("{cause}; if it has TLS, write https://")
        }
        error => error.to_string(),
    };
    Error::Connect { url, cause }
}

/// Parameters of a URL.
#[derive(Clone, Debug, Default)]
pub struct Query(String);

impl Query {
    pub fn new() -> Query {
        Query::default()
    }

    pub fn add(&mut self, name: &str, value: impl fmt::Display) {
        let value = value.to_string();
        self.add_encoded(name, &utf8_percent_encode(&value, QUERY).to_string());
    }

    /// Adds a value that is percent-encoded already.
    pub fn add_encoded(&mut self, name: &str, value: &str) {
        let separator = if self.0.is_empty() { "" } else { "&" };
        self.0.push_str(&format!("{separator}{name}={value}"));
    }

    /// Adds a parameter that is there or not.
    pub fn flag(&mut self, name: &str, is_set: bool) {
        if is_set {
            self.add(name, 1);
        }
    }

    /// Adds a parameter that may have a value.
    pub fn option(&mut self, name: &str, value: Option<impl fmt::Display>) {
        if let Some(value) = value {
            self.add(name, value);
        }
    }
}

impl Query {
    /// Whether it is too long for a URL that every proxy passes on.
    pub fn is_long(&self) -> bool {
        self.0.len() > URL
    }
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An answer, of which the head has arrived.
pub struct Answer {
    url: Url,
    head: http::response::Parts,
    body: BufReader<BodyReader<'static>>,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.headers.get(name)?.to_str().ok()
    }

    /// Reads the next bytes; 0 at the end.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        self.body.read(buffer).map_err(|cause| Error::Broken { url: self.url.clone(), cause })
    }

    /// Reads the next line, with its end, into `line`. `false`: there is none.
    pub fn line(&mut self, line: &mut Vec<u8>) -> Result<bool> {
        line.clear();
        let read = (&mut self.body).take(LINE).read_until(b'\n', line);
        let read = read.map_err(|cause| Error::Broken { url: self.url.clone(), cause })?;
        if read as u64 == LINE {
            return Err(self.unreadable(format!("a line has more than {LINE} bytes")));
        }
        Ok(read > 0)
    }

    /// Whether the next line would have to be waited for.
    pub fn is_waiting(&self) -> bool {
        !self.body.buffer().contains(&b'\n')
    }

    /// Parses a document, or a line.
    pub fn parse<T: serde::de::DeserializeOwned>(&self, text: &[u8]) -> Result<T> {
        serde_json::from_slice(text).map_err(|cause| self.unreadable(cause))
    }

    /// The whole body as a document.
    pub fn document<T: serde::de::DeserializeOwned>(mut self) -> Result<T> {
        let mut text = Vec::new();
        let read = (&mut self.body).take(DOCUMENT).read_to_end(&mut text);
        read.map_err(|cause| Error::Broken { url: self.url.clone(), cause })?;
        self.parse(&text)
    }

    /// The error of an answer that is not what the API says.
    pub fn unreadable(&self, cause: impl fmt::Display) -> Error {
        Error::Answer { url: self.url.clone(), cause: cause.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        for (text, want) in [
            ("http://localhost:8000", Some("http://localhost:8000")),
            ("https://Registry.example.com/", Some("https://registry.example.com")),
            ("https://[::1]:5000", Some("https://[::1]:5000")),
            ("registry.example.com", None),
            ("ftp://a", None),
            ("http://", None),
            ("http://a/b", None),
            ("http://a?b", None),
            ("http://a b", None),
            ("http://a:b:c", None),
        ] {
            assert_eq!(text.parse().ok(), want.map(|url| Url(url.to_owned())), "{text}");
        }
        for (url, want) in [
            ("http://localhost:8000", true),
            ("http://127.1.2.3", true),
            ("https://[::1]:5000", true),
            ("http://10.0.0.1", false),
            ("https://localhost.example.com", false),
        ] {
            assert_eq!(url.parse::<Url>().unwrap().is_loopback(), want, "{url}");
        }
        assert_eq!("https://ann:x@a".parse::<Url>(), Err(UrlError::Password));
    }

    #[test]
    fn queries() {
        let mut query = Query::new();
        query.add("name", "a&b=c d+*é");
        query.flag("x", true);
        query.flag("y", false);
        query.option("z", None::<u32>);
        query.add_encoded("after", "/%FF");
        assert_eq!(query.to_string(), "name=a%26b%3Dc%20d%2B%2A%C3%A9&x=1&after=/%FF");
    }

    #[test]
    fn errors_of_both_forms() {
        for (text, want) in [
            (r#"{"errors": [{"code": "X", "message": "m"}, {}]}"#, Some(("X", "m"))),
            (r#"{"error": "m"}"#, Some(("", "m"))),
            ("{}", None),
            ("404 page not found", None),
        ] {
            let want = want.map(|(code, message)| (code.to_owned(), message.to_owned()));
            assert_eq!(said(text.as_bytes()), want, "{text}");
        }
    }
}
