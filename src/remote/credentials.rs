//! Logins that `docker login` and `podman login` have stored, in the format of Docker's
//! `config.json` (docs.docker.com, "docker login") and of containers-auth.json(5): the password
//! itself, or the name of a program that knows it (docker-credential-helpers).

use std::collections::HashMap;
use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;

/// The user name of a login whose secret is an identity token.
const TOKEN: &str = "<token>";
/// What helpers print to stdout when they know no login.
const UNKNOWN: &str = "credentials not found";

/// What a login consists of.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    Password {
        name: String,
        password: String,
    },
    /// For a token service, which gives tokens for it.
    Identity(String),
    /// A token for the registry itself.
    Token(String),
}

impl fmt::Debug for Credentials {
    /// Shows no secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials")
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read {}: {cause}", file.display())]
    Read { file: PathBuf, cause: io::Error },
    #[error("{} is not a file of logins: {cause}", file.display())]
    Parse { file: PathBuf, cause: serde_json::Error },
    #[error("{} has a login for {host} that is not base64 of NAME:PASSWORD", file.display())]
    Login { file: PathBuf, host: String },
    #[error("{} names {name:?}, which is not a credential helper", file.display())]
    HelperName { file: PathBuf, name: String },
    #[error("cannot run {program}, which {} names: {cause}", file.display())]
    HelperRun { file: PathBuf, program: String, cause: io::Error },
    #[error("{program}, which {} names, failed: {message}", file.display())]
    Helper { file: PathBuf, program: String, message: String },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    #[serde(default)]
    auths: HashMap<String, Auth>,
    #[serde(default)]
    creds_store: String,
    #[serde(default)]
    cred_helpers: HashMap<String, String>,
}

#[derive(Deserialize)]
struct Auth {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    identitytoken: String,
    #[serde(default)]
    registrytoken: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// Looks for the login of `host` (with its port, if the URL has one) in the first of the files that
/// has one. `None`: none has.
pub fn find(host: &str) -> Result<Option<Credentials>, Error> {
    for file in files() {
        let text = match std::fs::read(&file) {
            Ok(text) => text,
            Err(cause) if cause.kind() == ErrorKind::NotFound => continue,
            Err(cause) => return Err(Error::Read { file, cause }),
        };
        if let Some(found) = find_in(&file, &text, host)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// The files that may have logins. The one in `REGISTRY_AUTH_FILE` replaces the others, as for
/// podman and skopeo.
pub fn files() -> Vec<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(file) = variable("REGISTRY_AUTH_FILE") {
        return vec![file.into()];
    }
    let below = |folder: &str, rest: &str| Some(Path::new(&variable(folder)?).join(rest));
    let docker = || below("HOME", ".docker/config.json");
    [
        below("DOCKER_CONFIG", "config.json").or_else(docker),
        below("XDG_RUNTIME_DIR", "containers/auth.json"),
        below("HOME", ".config/containers/auth.json"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn find_in(file: &Path, text: &[u8], host: &str) -> Result<Option<Credentials>, Error> {
    let config: Config = serde_json::from_slice(text)
        .map_err(|cause| Error::Parse { file: file.to_owned(), cause })?;
    let helper = config.cred_helpers.get(host).unwrap_or(&config.creds_store);
    if !helper.is_empty()
        && let Some(found) = ask(file, helper, host)?
    {
        return Ok(Some(found));
    }
    let auth = config.auths.get(host).or_else(|| {
        let mut named = config.auths.iter().filter(|(key, _)| host_of(key) == host);
        named.next().map(|(_, auth)| auth)
    });
    auth.map_or(Ok(None), |auth| stored(file, auth, host))
}

/// The host of a key, which older versions wrote as a URL.
fn host_of(key: &str) -> &str {
    let rest = key.split_once("://").map_or(key, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

fn stored(file: &Path, auth: &Auth, host: &str) -> Result<Option<Credentials>, Error> {
    /// Some programs leave the padding out.
    const BASE64: GeneralPurpose = GeneralPurpose::new(
        &STANDARD,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    let (mut name, mut password) = (auth.username.clone(), auth.password.clone());
    if !auth.auth.is_empty() {
        let failed = || Error::Login { file: file.to_owned(), host: host.to_owned() };
        let bytes = BASE64.decode(&auth.auth).map_err(|_| failed())?;
        let text = String::from_utf8(bytes).map_err(|_| failed())?;
        let (user, secret) = text.split_once(':').ok_or_else(failed)?;
        // Docker has padded short ones with NUL bytes.
        (name, password) = (user.to_owned(), secret.trim_end_matches('\0').to_owned());
    }
    Ok(if !auth.registrytoken.is_empty() {
        Some(Credentials::Token(auth.registrytoken.clone()))
    } else if !auth.identitytoken.is_empty() {
        Some(Credentials::Identity(auth.identitytoken.clone()))
    } else if name.is_empty() {
        // With a credential helper, an entry says only that there is a login.
        None
    } else {
        Some(credentials(name, password))
    })
}

fn credentials(name: String, secret: String) -> Credentials {
    match name.as_str() {
        TOKEN => Credentials::Identity(secret),
        _ => Credentials::Password { name, password: secret },
    }
}

/// Asks a credential helper. `None`: it knows no login for the host.
fn ask(file: &Path, name: &str, host: &str) -> Result<Option<Credentials>, Error> {
    if name.contains('/') {
        return Err(Error::HelperName { file: file.to_owned(), name: name.to_owned() });
    }
    let program = format!("docker-credential-{name}");
    let run = || {
        let mut child = Command::new(&program)
            .arg("get")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            match stdin.write_all(host.as_bytes()) {
                // It may answer without reading.
                Err(error) if error.kind() != ErrorKind::BrokenPipe => return Err(error),
                _ => {}
            }
        }
        child.wait_with_output()
    };
    let output = run().map_err(|cause| Error::HelperRun {
        file: file.to_owned(),
        program: program.clone(),
        cause,
    })?;
    let failed = |message: String| Error::Helper {
        file: file.to_owned(),
        program: program.clone(),
        message,
    };
    if output.status.success() {
        let answer: Answer = serde_json::from_slice(&output.stdout)
            .map_err(|_| failed("its answer is not JSON with Username and Secret".to_owned()))?;
        return Ok(Some(credentials(answer.username, answer.secret)));
    }
    // Helpers report errors on stdout.
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    if said.contains(UNKNOWN) {
        return Ok(None);
    }
    let said = said.trim();
    Err(failed(if said.is_empty() { output.status.to_string() } else { said.to_owned() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(name: &str, password: &str) -> Option<Credentials> {
        Some(Credentials::Password { name: name.to_owned(), password: password.to_owned() })
    }

    #[test]
    fn logins_in_files() {
        let text = br#"{"auths": {
            "a:5000": {"auth": "YW5uOnNlOmNyZXQ="},
            "b": {"auth": "YW5uOngAAA=="},
            "c": {"username": "bob", "password": "p"},
            "https://d/v1/": {"auth": "YW5uOngK"},
            "e": {"auth": "YW5uOnNlOmNyZXQ"},
            "f": {"auth": "PHRva2VuPjp0"},
            "g": {"auth": "YW5uOngK", "identitytoken": "i"},
            "h": {"registrytoken": "r"},
            "i": {}}}"#;
        let found = |host: &str| find_in(Path::new("x"), text, host).unwrap();
        for (host, want) in [
            ("a:5000", password("ann", "se:cret")),
            ("a", None),
            ("b", password("ann", "x")),
            ("c", password("bob", "p")),
            ("d", password("ann", "x\n")),
            ("e", password("ann", "se:cret")),
            ("f", Some(Credentials::Identity("t".to_owned()))),
            ("g", Some(Credentials::Identity("i".to_owned()))),
            ("h", Some(Credentials::Token("r".to_owned()))),
            ("i", None),
        ] {
            assert!(found(host) == want, "{host}");
        }
        assert_eq!(format!("{:?}", found("a:5000").unwrap()), "Credentials");
    }

    #[test]
    fn files_that_are_refused() {
        for (text, names) in [
            (r#"{"auths": []}"#, "x is not a file of logins"),
            (r#"{"auths": {"a": {"auth": "!"}}}"#, "a login for a"),
            (r#"{"auths": {"a": {"auth": "YW5u"}}}"#, "a login for a"),
            (r#"{"credsStore": "../x"}"#, "\"../x\""),
            (r#"{"credHelpers": {"a": "none-of-this-name"}}"#, "docker-credential-none"),
        ] {
            let error = find_in(Path::new("x"), text.as_bytes(), "a").unwrap_err().to_string();
            assert!(error.contains(names), "{error}");
        }
    }
}
