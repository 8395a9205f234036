//! Who asks, and what they may do: one decision for every face of the registry,
//! by repository. Nothing here knows of HTTP but the text of an `Authorization`
//! header (RFC 9110, 11.6.2).

mod der;
mod hmac;
mod identity;
mod jwt;
mod rules;
mod throttle;
mod tokens;
mod users;
mod watched;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD as BASE64, URL_SAFE_NO_PAD as URL_SAFE};
use quick_cache::sync::Cache;

use crate::oci::Repository;
use hmac::{Code, Key};
use jwt::Service;
use rules::Rules;
use tokens::Signer;
use users::Users;

pub use identity::{Identity, Proof, Scoped, Signed};
pub use jwt::Options as ServiceOptions;
pub use rules::line_of;
pub use throttle::Throttle;
pub use tokens::{LOGIN_SECONDS, SESSION_SECONDS};
pub use users::{COST, COST_MAX, COST_MIN, User, check_name, line};
pub use watched::{Watched, read};

/// Longest credentials that are looked at.
const CREDENTIALS_MAX: usize = 16 << 10;
/// Verified credentials that are remembered: some 100 bytes each.
const KNOWN: usize = 10_000;
/// Tokens that grant more repositories are verified each time.
const GRANTS_KNOWN: usize = 16;
/// Fewest bytes of a secret.
const SECRET_MIN: usize = 32;

/// What is wrong with the settings.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read {}: {cause}", path.display())]
    Read { path: PathBuf, cause: io::Error },
    #[error("{}, line {line}: {why}", path.display())]
    Line { path: PathBuf, line: usize, why: String },
    #[error("the user {0:?} is there twice")]
    UserTwice(String),
    #[error("{} has {bytes} bytes, a secret has at least {SECRET_MIN}: for instance `openssl rand -hex 32`", path.display())]
    Secret { path: PathBuf, bytes: usize },
    #[error("{}: {why}", path.display())]
    Keys { path: PathBuf, why: String },
    #[error("{0}")]
    Password(String),
    #[error("the system gives no random bytes")]
    Random,
}

impl Error {
    pub fn read(path: &Path, cause: io::Error) -> Error {
        Error::Read { path: path.to_owned(), cause }
    }

    /// What is wrong in a line of a file.
    pub fn line(path: &Path, line: usize, why: impl Into<String>) -> Error {
        Error::Line { path: path.to_owned(), line, why: why.into() }
    }
}

/// Why credentials are not taken. What a client is told is less.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the Authorization header is not one that this server understands")]
    Malformed,
    #[error("the Authorization header has more than {CREDENTIALS_MAX} bytes")]
    TooLong,
    #[error("wrong name or password for {0:?}")]
    Password(String),
    #[error("the token is not one of this server's, or holds no more")]
    Token,
    #[error("the token is refused: {0}")]
    Service(#[from] jwt::Refusal),
}

/// What one may do with a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Right {
    /// Read its manifests, tags, blobs and files.
    Pull,
    /// Add to it, and move tags.
    Push,
    /// Delete tags, manifests and blobs.
    Delete,
    /// Learn its name from a list: the catalog, a search.
    Catalog,
}

impl Right {
    /// The word for it in a scope (distribution's docs/content/spec/auth/scope.md).
    pub fn action(self) -> &'static str {
        match self {
            Right::Pull => "pull",
            Right::Push => "push",
            Right::Delete => "delete",
            Right::Catalog => "*",
        }
    }
}

/// Where users and rules come from.
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub users: Vec<User>,
    pub htpasswd: Option<PathBuf>,
    /// Who does not log in may pull.
    pub anonymous_pull: bool,
    pub acl: Option<PathBuf>,
    /// Holds the key that tokens are signed with.
    pub secret: Option<PathBuf>,
    /// Who else makes tokens for this server.
    pub service: Option<ServiceOptions>,
}

/// The rules of one server.
#[derive(Debug)]
pub struct Access {
    /// `None`: there are no users who log in with a password.
    users: Option<Users>,
    anonymous_pull: bool,
    rules: Option<Watched<Rules>>,
    signer: Signer,
    service: Option<Service>,
    /// Credentials that were verified, by their code. Those that failed are not
    /// remembered: they cost what they cost.
    known: Cache<Code, Known>,
    key: Key,
    private: Private,
}

#[derive(Clone, Debug)]
struct Known {
    proof: Proof,
    /// [`Access::generation`] when it was verified.
    generation: u64,
}

/// Whether a repository is for those with a name alone, which the store knows.
struct Private(Box<dyn Fn(&Repository) -> bool + Send + Sync>);

impl std::fmt::Debug for Private {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Private")
    }
}

/// What an `Authorization` header turned out to be.
#[derive(Debug)]
pub enum Recognised {
    Proof(Proof),
    /// It takes a while to find out: see [`Access::verify`].
    Login(Login),
}

/// A name and a password, not yet verified.
pub struct Login {
    name: String,
    password: String,
    code: Code,
}

impl Login {
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Login").field(&self.name).finish()
    }
}

impl Access {
    /// `private`: whether a repository is for those with a name alone.
    pub fn new(
        options: &Options,
        private: impl Fn(&Repository) -> bool + Send + Sync + 'static,
    ) -> Result<Access, Error> {
        let users = if options.users.is_empty() && options.htpasswd.is_none() {
            None
        } else {
            Some(Users::new(&options.users, options.htpasswd.as_deref())?)
        };
        let rules = options.acl.as_deref();
        let rules = rules.map(|path| Watched::open(path, Rules::parse)).transpose()?;
        let secret = match &options.secret {
            None => Key::random()?,
            Some(path) => {
                let secret = watched::read(path)?;
                let secret = secret.trim();
                if secret.len() < SECRET_MIN {
                    return Err(Error::Secret { path: path.clone(), bytes: secret.len() });
                }
                Key::from_bytes(secret.as_bytes())
            }
        };
        Ok(Access {
            users,
            anonymous_pull: options.anonymous_pull,
            rules,
            signer: Signer::new(secret),
            service: options.service.as_ref().map(Service::new).transpose()?,
            known: Cache::new(KNOWN),
            key: Key::random()?,
            private: Private(Box::new(private)),
        })
    }

    /// Reads files again that have changed. [`start_reload`] calls this every second.
    pub fn reload(&self) {
        if let Some(users) = &self.users {
            users.reload();
        }
        if let Some(rules) = &self.rules {
            rules.reload();
        }
        if let Some(service) = &self.service {
            service.reload();
        }
    }

    /// Whether everybody may do everything: there are neither users nor tokens.
    pub fn is_open(&self) -> bool {
        self.users.is_none() && self.service.is_none()
    }

    /// The decision.
    pub fn may(&self, identity: &Identity, repository: &Repository, right: Right) -> bool {
        if self.is_open() {
            return true;
        }
        match identity {
            Identity::Anonymous => {
                self.anonymous_pull
                    && matches!(right, Right::Pull | Right::Catalog)
                    && self.rules_allow(None, repository, right)
                    && !(self.private.0)(repository)
            }
            Identity::User(name) => self.rules_allow(Some(name), repository, right),
            Identity::Signed(signed) => {
                signed.covers(repository, right) && self.may(&signed.by(), repository, right)
            }
            Identity::Scoped(scoped) => scoped.covers(repository, right),
        }
    }

    fn rules_allow(&self, user: Option<&str>, repository: &Repository, right: Right) -> bool {
        let rules = self.rules.as_ref().map(Watched::get);
        rules.is_none_or(|rules| rules.allow(user, repository, right))
    }

    /// Whether there is nothing at all that `identity` may do unless it says who it
    /// is.
    pub fn is_nobody(&self, identity: &Identity) -> bool {
        !self.is_open() && !self.anonymous_pull && matches!(identity, Identity::Anonymous)
    }

    /// Whether `identity` may ask for a list of names; which, [`Access::may`] says.
    pub fn may_list(&self, identity: &Identity) -> bool {
        match identity {
            Identity::Scoped(scoped) => self.is_open() || scoped.catalog,
            Identity::Anonymous | Identity::User(_) | Identity::Signed(_) => {
                !self.is_nobody(identity)
            }
        }
    }

    /// Whether there may be a repository that `identity` may push to.
    pub fn may_push_somewhere(&self, identity: &Identity) -> bool {
        let user = |name: &str| {
            let rules = self.rules.as_ref().map(Watched::get);
            rules.is_none_or(|rules| rules.allow_somewhere(name, Right::Push))
        };
        self.is_open()
            || match identity {
                Identity::Anonymous => false,
                Identity::User(name) => user(name),
                Identity::Signed(signed) => self.may(identity, &signed.repository, Right::Push),
                Identity::Scoped(scoped) => scoped.may_push(),
            }
    }

    /// Whether `identity` may read every repository there is and will be.
    pub fn may_read_all(&self, identity: &Identity) -> bool {
        self.is_open()
            || self.rules.is_none()
                && match identity {
                    Identity::User(_) => true,
                    // There may be private ones.
                    Identity::Anonymous | Identity::Signed(_) | Identity::Scoped(_) => false,
                }
    }

    /// Whether clients log in by a token of this server's: so that those that have
    /// no password know to go on without.
    pub fn gives_logins(&self) -> bool {
        self.users.is_some() && self.anonymous_pull && self.service.is_none()
    }

    /// Whether one can log in with a password.
    pub fn takes_passwords(&self) -> bool {
        self.users.is_some()
    }

    /// Realm and name for the challenge, where an outside service makes the tokens.
    pub fn service(&self) -> Option<(&str, &str)> {
        let service = self.service.as_ref()?;
        Some((&service.realm, &service.service))
    }

    /// Who sends this `Authorization` header, as far as that can be told at once.
    pub fn recognise(&self, header: &[u8]) -> Result<Recognised, Refusal> {
        if header.len() > CREDENTIALS_MAX {
            return Err(Refusal::TooLong);
        }
        let text = std::str::from_utf8(header).map_err(|_| Refusal::Malformed)?;
        let (scheme, value) = text.split_once(' ').ok_or(Refusal::Malformed)?;
        let value = value.trim();
        if scheme.eq_ignore_ascii_case("basic") {
            return self.basic(value);
        }
        let stamp = |name: &str| self.stamp(name);
        let proof = if scheme.eq_ignore_ascii_case("token") {
            let signed = self.signer.open_v1(now(), value, &stamp);
            signed.map(|(signed, until)| self.by_token(Identity::Signed(Arc::new(signed)), until))
        } else if scheme.eq_ignore_ascii_case("bearer") {
            match (self.signer.open_login(now(), value, &stamp), &self.service) {
                (Some((user, until)), _) => {
                    let identity = user.map_or(Identity::Anonymous, Identity::User);
                    Some(self.by_token(identity, until))
                }
                (None, Some(service)) => Some(self.bearer(service, value)?),
                (None, None) => None,
            }
        } else {
            return Err(Refusal::Malformed);
        };
        proof.map(Recognised::Proof).ok_or(Refusal::Token)
    }

    fn stamp(&self, name: &str) -> Option<Code> {
        self.users.as_ref()?.stamp(name)
    }

    fn by_token(&self, identity: Identity, until: u64) -> Proof {
        let stamp = identity.user().and_then(|name| self.stamp(name));
        Proof { identity, by_password: false, until, stamp, keys: self.keys() }
    }

    /// Another number whenever the keys of the outside service have changed.
    fn keys(&self) -> u64 {
        self.service.as_ref().map_or(0, Service::generation)
    }

    /// Whether what credentials proved is still so: their user has the same password, their token
    /// has not ended, and the keys that it is signed with are the same.
    pub fn still_holds(&self, proof: &Proof) -> bool {
        let user = proof.identity.user();
        now() < proof.until
            && user.is_none_or(|name| proof.stamp.is_some() && self.stamp(name) == proof.stamp)
            && (!matches!(proof.identity, Identity::Scoped(_)) || self.keys() == proof.keys)
    }

    /// What a pusher is known by where pushes are kept apart; `None`: those who are not named
    /// cannot be told apart. A user here and the subject of a token are different, whatever they
    /// are called, and so are those who pushed while the server was open to everybody.
    pub fn principal(&self, identity: &Identity) -> Option<String> {
        if self.is_open() {
            return Some("open".to_owned());
        }
        match identity {
            Identity::Anonymous => None,
            Identity::User(name) => Some(format!("user {name}")),
            Identity::Signed(signed) => Some(format!("user {}", signed.user.as_deref()?)),
            Identity::Scoped(scoped) => Some(format!("token {}", scoped.subject.as_deref()?)),
        }
    }

    fn basic(&self, value: &str) -> Result<Recognised, Refusal> {
        let code = self.key.code(&[b"basic", value.as_bytes()]);
        if let Some(proof) = self.known(&code) {
            return Ok(Recognised::Proof(proof));
        }
        let decoded = BASE64.decode(value).map_err(|_| Refusal::Malformed)?;
        let text = String::from_utf8(decoded).map_err(|_| Refusal::Malformed)?;
        let (name, password) = text.split_once(':').ok_or(Refusal::Malformed)?;
        // What some clients send when they have neither.
        if name.is_empty() && password.is_empty() {
            return Ok(Recognised::Proof(Proof::anonymous()));
        }
        Ok(Recognised::Login(Login { name: name.to_owned(), password: password.to_owned(), code }))
    }

    /// A name and a password that a form has sent.
    pub fn login(&self, name: &str, password: &str) -> Login {
        let value = BASE64.encode(format!("{name}:{password}"));
        let code = self.key.code(&[b"basic", value.as_bytes()]);
        Login { name: name.to_owned(), password: password.to_owned(), code }
    }

    /// What a browser keeps to stay logged in, for [`SESSION_SECONDS`] or until the user or the
    /// password changes. `None`: the credentials were no password.
    pub fn session(&self, proof: &Proof) -> Option<String> {
        match &proof.identity {
            Identity::User(name) if proof.by_password => {
                self.signer.session(now(), name, &|name| self.stamp(name))
            }
            _ => None,
        }
    }

    /// Who has that session; `None`: it holds no longer.
    pub fn by_session(&self, session: &str) -> Option<Proof> {
        let (user, until) = self.signer.open_session(now(), session, &|name| self.stamp(name))?;
        Some(self.by_token(Identity::User(user), until))
    }

    /// What a form has in it so that it can be told from one that another site made. `bound` is
    /// something of the browser's that other sites do not know.
    pub fn form_token(&self, bound: &[u8]) -> String {
        URL_SAFE.encode(self.key.code(&[b"form", bound]))
    }

    pub fn is_form_token(&self, bound: &[u8], token: &str) -> bool {
        let code = URL_SAFE.decode(token).unwrap_or_default();
        self.key.verifies(&[b"form", bound], &code)
    }

    fn bearer(&self, service: &Service, token: &str) -> Result<Proof, Refusal> {
        let code = self.key.code(&[b"bearer", token.as_bytes()]);
        if let Some(proof) = self.known(&code) {
            return Ok(proof);
        }
        let generation = self.generation();
        let (scoped, until) = service.verify(token, now())?;
        let grants = scoped.repositories.len();
        let proof = self.by_token(Identity::Scoped(Arc::new(scoped)), until);
        if grants <= GRANTS_KNOWN {
            self.known.insert(code, Known { proof: proof.clone(), generation });
        }
        Ok(proof)
    }

    fn known(&self, code: &Code) -> Option<Proof> {
        let known = self.known.get(code)?;
        let holds = known.generation == self.generation() && now() < known.proof.until;
        holds.then_some(known.proof)
    }

    /// Another number whenever users or keys have changed.
    fn generation(&self) -> u64 {
        self.users.as_ref().map_or(0, Users::generation) + self.keys()
    }

    /// Who logs in so, if somebody else has verified it meanwhile.
    pub fn recall(&self, login: &Login) -> Option<Proof> {
        self.known(&login.code)
    }

    /// Verifies a password, which takes a core some 50 ms. Blocks.
    pub fn verify(&self, login: &Login) -> Result<Proof, Refusal> {
        let refused = || Refusal::Password(login.name.chars().take(64).collect());
        let users = self.users.as_ref().ok_or_else(refused)?;
        let generation = self.generation();
        if !users.verify(&login.name, &login.password) {
            return Err(refused());
        }
        let identity = Identity::User(login.name.as_str().into());
        let proof = Proof { by_password: true, ..self.by_token(identity, u64::MAX) };
        self.known.insert(login.code, Known { proof: proof.clone(), generation });
        Ok(proof)
    }

    /// A Docker v1 token for the repository, as it stands in `X-Docker-Token` and
    /// after `Token` in `WWW-Authenticate`. It holds for six hours, and lets its
    /// bearer do no more than the identity may.
    ///
    /// `None`: the credentials were a token themselves. Only a password makes a token, because
    /// otherwise a token could be renewed for ever.
    pub fn token(&self, proof: &Proof, repository: &Repository, write: bool) -> Option<String> {
        let user = match &proof.identity {
            Identity::User(name) if proof.by_password => Some(Arc::clone(name)),
            Identity::Anonymous => None,
            Identity::User(_) | Identity::Signed(_) | Identity::Scoped(_) => return None,
        };
        let signed = Signed { user, repository: repository.clone(), write };
        self.signer.v1(now(), &signed, &|name| self.stamp(name))
    }

    /// A Bearer token that says who the identity is, for [`LOGIN_SECONDS`]. `None`: it
    /// is no user of this server's any more, or came by a token itself.
    pub fn login_token(&self, proof: &Proof) -> Option<String> {
        let user = match &proof.identity {
            Identity::Anonymous => None,
            Identity::User(name) if proof.by_password => Some(&**name),
            Identity::User(_) | Identity::Signed(_) | Identity::Scoped(_) => return None,
        };
        self.signer.login(now(), user, &|name| self.stamp(name))
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}
/// Starts the thread that looks every second whether files of users, rules or keys have changed, and
/// reads those again that have.
pub fn start_reload(access: Arc<Access>) -> io::Result<()> {
    const EVERY: Duration = Duration::from_secs(1);
    let watch = move || {
        loop {
            thread::sleep(EVERY);
            access.reload();
        }
    };
    thread::Builder::new().name("reload".into()).spawn(watch).map(drop)
}
