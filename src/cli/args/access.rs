//! The flags of `registry serve` that say who may do what.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args, ValueEnum};

use crate::auth::{self, User};

#[derive(Args, Clone, Debug)]
pub struct AccessArgs {
    /// A user, who may do everything that --acl does not forbid; may be repeated. Without this flag, the variable
    /// REGISTRY_USERS is used (separated by commas). Other users of the machine can see flags, so prefer --htpasswd
    #[arg(short, long, value_name = "NAME:PASSWORD", value_parser = user)]
    pub user: Vec<User>,

    /// File of users with bcrypt passwords, as written by `registry password` or `htpasswd -B`; reloaded when it changes
    #[arg(long, value_name = "FILE", env = "REGISTRY_HTPASSWD")]
    pub htpasswd: Option<PathBuf>,

    /// What clients may do without a login, if there are users; `pull` includes listing and reading the files of images
    #[arg(
        long,
        value_name = "WHAT",
        env = "REGISTRY_ANONYMOUS",
        value_enum,
        default_value = "none"
    )]
    pub anonymous: Anonymous,

    /// File of rules: who may pull, push and delete in which repositories (TOML, see docs/operations.md); reloaded when it
    /// changes
    #[arg(long, value_name = "FILE", env = "REGISTRY_ACL")]
    pub acl: Option<PathBuf>,

    /// File with the key that signs tokens, at least 32 bytes; with the same key, tokens stay valid after a restart and on
    /// other servers [default: a random key]
    #[arg(long, value_name = "FILE", env = "REGISTRY_SECRET")]
    pub secret: Option<PathBuf>,

    /// Accept tokens of an external service, which clients get at this URL (the Docker token protocol)
    #[arg(long, value_name = "URL", env = "REGISTRY_TOKEN_REALM")]
    pub token_realm: Option<String>,

    /// Name of this registry in the tokens (`aud`)
    #[arg(long, value_name = "NAME", env = "REGISTRY_TOKEN_SERVICE")]
    pub token_service: Option<String>,

    /// Issuer of the tokens (`iss`)
    #[arg(long, value_name = "NAME", env = "REGISTRY_TOKEN_ISSUER")]
    pub token_issuer: Option<String>,

    /// File of the certificates and public keys that verify tokens (PEM: RSA, ECDSA P-256 or Ed25519). A token may carry a
    /// chain of certificates that ends in one of them; reloaded when it changes
    #[arg(long, value_name = "FILE", env = "REGISTRY_TOKEN_CERTS")]
    pub token_certs: Option<PathBuf>,

    /// File of the keys that verify tokens, as a JWK Set; reloaded when it changes
    #[arg(long, value_name = "FILE", env = "REGISTRY_TOKEN_JWKS")]
    pub token_jwks: Option<PathBuf>,

    /// Permit addresses other than loopback although there are no users: every client that reaches the server may then push
    /// and delete
    #[arg(long, env = "REGISTRY_INSECURE_OPEN", action = ArgAction::SetTrue, value_parser = BoolishValueParser::new())]
    pub insecure_open: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Anonymous {
    None,
    Pull,
}

fn user(text: &str) -> Result<User, String> {
    let (name, password) = text.split_once(':').ok_or("want NAME:PASSWORD")?;
    auth::check_name(name)?;
    if password.is_empty() {
        return Err("the password is empty".to_owned());
    }
    Ok(User { name: name.to_owned(), password: password.to_owned() })
}

impl AccessArgs {
    /// The external token service, if there is one.
    fn token_service(&self) -> Result<Option<auth::ServiceOptions>> {
        let given = [
            ("--token-realm", self.token_realm.is_some()),
            ("--token-service", self.token_service.is_some()),
            ("--token-issuer", self.token_issuer.is_some()),
            (
                "--token-certs or --token-jwks",
                self.token_certs.is_some() || self.token_jwks.is_some(),
            ),
        ];
        let (Some(realm), Some(service), Some(issuer), true) = (
            self.token_realm.clone(),
            self.token_service.clone(),
            self.token_issuer.clone(),
            given[3].1,
        ) else {
            let has = given.iter().find(|(_, given)| *given);
            let lacks = given.iter().find(|(_, given)| !given);
            if let (Some((has, _)), Some((lacks, _))) = (has, lacks) {
                bail!("{has} needs {lacks}");
            }
            return Ok(None);
        };
        for (flag, value) in [("--token-realm", &realm), ("--token-service", &service)] {
            let visible = |c: char| c.is_ascii_graphic() && c != '"' && c != '\\';
            ensure!(
                !value.is_empty() && value.chars().all(visible),
                "{flag} is {value:?}, want visible ASCII without quotes and backslashes"
            );
        }
        Ok(Some(auth::ServiceOptions {
            realm,
            service,
            issuer,
            certs: self.token_certs.clone(),
            jwks: self.token_jwks.clone(),
        }))
    }

    /// `users` is the value of `REGISTRY_USERS`.
    pub fn check(self, users: Option<&str>, listen: &[SocketAddr]) -> Result<auth::Options> {
        let mut given = self.user.clone();
        if let (true, Some(users)) = (given.is_empty(), users) {
            for text in users.split(',').filter(|text| !text.is_empty()) {
                match user(text) {
                    Ok(user) => given.push(user),
                    Err(why) => bail!("REGISTRY_USERS: {why}"),
                }
            }
        }
        let service = self.token_service()?;
        for (flag, file) in [
            ("--htpasswd", &self.htpasswd),
            ("--token-certs", &self.token_certs),
            ("--token-jwks", &self.token_jwks),
        ] {
            if let Some(file) = file {
                ensure!(file.is_file(), "{flag} {} is not a file", file.display());
            }
        }
        let users = !given.is_empty() || self.htpasswd.is_some();
        for (given, flag) in [(self.acl.is_some(), "--acl"), (self.secret.is_some(), "--secret")] {
            ensure!(!given || users, "{flag} needs users: give --user or --htpasswd");
        }
        let open = !users && service.is_none();
        if open {
            ensure!(
                self.anonymous == Anonymous::None,
                "--anonymous needs users: without users, every client may do everything. Give --user or --htpasswd"
            );
            let outside = |address: &&SocketAddr| !address.ip().to_canonical().is_loopback();
            if let Some(address) = listen.iter().find(outside)
                && !self.insecure_open
            {
                bail!(
                    "there are no users, so every client that reaches {address} could push and delete: give --user or \
                     --htpasswd, listen on 127.0.0.1, or give --insecure-open if you want that"
                );
            }
        }
        Ok(auth::Options {
            users: given,
            htpasswd: self.htpasswd,
            anonymous_pull: self.anonymous == Anonymous::Pull,
            acl: self.acl,
            secret: self.secret,
            service,
        })
    }
}
