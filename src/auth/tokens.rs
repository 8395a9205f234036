//! Tokens of this server's own, signed with a key that it alone has:
//!
//! - Docker v1's, for one repository:
//!   `signature=EXPIRY.USER.CODE,repository="team/app",access=write`, which is sent
//!   back as `Authorization: Token …`. Clients take the text as it is.
//! - Bearer tokens that tell who somebody is, for clients that log in the Docker
//!   token way: `registry.EXPIRY.USER.CODE`.
//! - Sessions of browsers: `EXPIRY.USER.CODE`.
//!
//! `EXPIRY` is in seconds since 1970, `USER` is base64url and empty for who is
//! anonymous, `CODE` covers all of it and the user's password. So a token ends
//! with its time, its user, or his password.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;

use super::hmac::{Code, Key};
use super::identity::Signed;
use crate::oci::Repository;

/// How long a v1 token holds: a push of many large layers long.
pub const V1_SECONDS: u64 = 6 * 3600;
/// How long a login holds before its client asks for another.
pub const LOGIN_SECONDS: u64 = 300;

/// How long a browser stays logged in: a working day.
pub const SESSION_SECONDS: u64 = 12 * 3600;

/// What a login's token begins with, and a JWT never.
const LOGIN: &str = "registry.";

#[derive(Debug)]
pub struct Signer {
    key: Key,
}

/// Gives [`super::users::Users::stamp`]'s answer for a user.
pub type Stamp<'a> = &'a dyn Fn(&str) -> Option<Code>;

impl Signer {
    pub fn new(key: Key) -> Signer {
        Signer { key }
    }

    /// `EXPIRY.USER.CODE`; `purpose` is what else is signed. `None`: there is no
    /// such user.
    fn seal(
        &self,
        expiry: u64,
        user: Option<&str>,
        purpose: &[&str],
        stamp: Stamp<'_>,
    ) -> Option<String> {
        let stamp = user.map_or(Some([0; 32]), stamp)?;
        let user = user.unwrap_or_default();
        let expiry = expiry.to_string();
        let code = self.key.code(&parts(&expiry, user, &stamp, purpose));
        let [user, code] = [user.as_bytes(), &code].map(|bytes| BASE64.encode(bytes));
        Some(format!("{expiry}.{user}.{code}"))
    }

    /// The user in what was sealed, and until when it holds, in seconds since 1970. `None`: it was
    /// not sealed here, or it holds no longer.
    fn open(
        &self,
        sealed: &str,
        now: u64,
        purpose: &[&str],
        stamp: Stamp<'_>,
    ) -> Option<(Option<Arc<str>>, u64)> {
        let (expiry, rest) = sealed.split_once('.')?;
        let (user, code) = rest.split_once('.')?;
        let [user, code] = [user, code].map(|text| BASE64.decode(text));
        let (user, code) = (String::from_utf8(user.ok()?).ok()?, code.ok()?);
        let known = if user.is_empty() { Some([0; 32]) } else { stamp(&user) };
        let stamp = known.unwrap_or([0; 32]);
        let genuine = self.key.verifies(&parts(expiry, &user, &stamp, purpose), &code);
        let expiry = expiry.parse::<u64>().ok()?;
        let user = (!user.is_empty()).then(|| user.into());
        (genuine && now < expiry && known.is_some()).then_some((user, expiry))
    }

    pub fn v1(&self, now: u64, signed: &Signed, stamp: Stamp<'_>) -> Option<String> {
        let (repository, access) = (signed.repository.as_str(), access(signed.write));
        let expiry = now + V1_SECONDS;
        let sealed =
            self.seal(expiry, signed.user.as_deref(), &["v1", repository, access], stamp)?;
        Some(format!(r#"signature={sealed},repository="{repository}",access={access}"#))
    }

    /// What a v1 token says, and until when.
    pub fn open_v1(&self, now: u64, token: &str, stamp: Stamp<'_>) -> Option<(Signed, u64)> {
        let field = |name: &str| {
            let mut values = token.split(',').filter_map(|field| {
                let (key, value) = field.trim().split_once('=')?;
                (key == name).then_some(value)
            });
            values.next().filter(|_| values.next().is_none())
        };
        let repository = field("repository")?.strip_prefix('"')?.strip_suffix('"')?;
        let access_field = field("access")?;
        let purpose = ["v1", repository, access_field];
        let (user, until) = self.open(field("signature")?, now, &purpose, stamp)?;
        let repository = repository.parse::<Repository>().ok()?;
        Some((Signed { user, repository, write: access_field == access(true) }, until))
    }

    pub fn login(&self, now: u64, user: Option<&str>, stamp: Stamp<'_>) -> Option<String> {
        let sealed = self.seal(now + LOGIN_SECONDS, user, &["login"], stamp)?;
        Some(format!("{LOGIN}{sealed}"))
    }

    /// The user of a login's token, and until when it holds. `None`: it is no such token, or it
    /// holds no longer.
    pub fn open_login(
        &self,
        now: u64,
        token: &str,
        stamp: Stamp<'_>,
    ) -> Option<(Option<Arc<str>>, u64)> {
        self.open(token.strip_prefix(LOGIN)?, now, &["login"], stamp)
    }

    pub fn session(&self, now: u64, user: &str, stamp: Stamp<'_>) -> Option<String> {
        self.seal(now + SESSION_SECONDS, Some(user), &["session"], stamp)
    }

    /// The user of a session, and until when it holds. `None`: it is none, or it holds no longer.
    pub fn open_session(
        &self,
        now: u64,
        session: &str,
        stamp: Stamp<'_>,
    ) -> Option<(Arc<str>, u64)> {
        let (user, until) = self.open(session, now, &["session"], stamp)?;
        Some((user?, until))
    }
}

fn access(write: bool) -> &'static str {
    if write { "write" } else { "read" }
}

fn parts<'a>(
    expiry: &'a str,
    user: &'a str,
    stamp: &'a Code,
    purpose: &[&'a str],
) -> Vec<&'a [u8]> {
    let mut parts = vec![expiry.as_bytes(), user.as_bytes(), stamp];
    parts.extend(purpose.iter().map(|part| part.as_bytes()));
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(user: &str) -> Option<Code> {
        (user == "änn").then_some([1; 32])
    }

    #[test]
    fn v1_tokens() {
        let signer = Signer::new(Key::from_bytes(b"key"));
        for (user, write) in [(Some("änn"), true), (Some("änn"), false), (None, false)] {
            let signed = Signed {
                user: user.map(Arc::from),
                repository: "team/app".parse().unwrap(),
                write,
            };
            let token = signer.v1(1000, &signed, &stamp).unwrap();
            let open = |now, token: &str| {
                let (signed, until) = signer.open_v1(now, token, &stamp)?;
                assert_eq!(until, 1000 + V1_SECONDS);
                Some(signed)
            };
            assert_eq!(open(1000, &token), Some(signed.clone()), "{token}");
            assert_eq!(open(1000 + V1_SECONDS - 1, &token), Some(signed.clone()));
            let swapped: Vec<&str> = token.split(',').rev().collect();
            assert_eq!(open(1000, &swapped.join(", ")), Some(signed), "another order");
            for (broken, why) in [
                (token.replace("team/app", "team/other"), "another repository"),
                (
                    token
                        .replace("access=read", "access=write")
                        .replace("access=write", "access=read"),
                    "access",
                ),
                (token.replace("signature=2", "signature=3"), "later"),
                (format!("{token},access=write"), "two answers"),
                (token.replace('"', ""), "no quotes"),
                (token[..token.len() / 3].to_owned(), "cut"),
                (String::new(), "empty"),
                (token.replace('.', ".AAAA"), "another user"),
            ] {
                // A reader's token reads all the same after the second case.
                if broken != token {
                    assert_eq!(open(1000, &broken), None, "{why}: {broken}");
                }
            }
            assert_eq!(open(1000 + V1_SECONDS, &token), None, "expired");
            let other = Signer::new(Key::from_bytes(b"another key"));
            assert_eq!(other.open_v1(1000, &token, &stamp), None);
            if user.is_some() {
                let changed = |_: &str| Some([2; 32]);
                assert_eq!(signer.open_v1(1000, &token, &changed), None, "another password");
                assert_eq!(signer.open_v1(1000, &token, &|_| None), None, "the user is gone");
            }
        }
        let unknown =
            Signed { user: Some("bob".into()), repository: "a".parse().unwrap(), write: true };
        assert_eq!(signer.v1(0, &unknown, &stamp), None);
    }

    #[test]
    fn logins() {
        let signer = Signer::new(Key::from_bytes(b"key"));
        for user in [Some("änn"), None] {
            let token = signer.login(7, user, &stamp).unwrap();
            let want = Some((user.map(Arc::from), 7 + LOGIN_SECONDS));
            assert_eq!(signer.open_login(7, &token, &stamp), want);
            assert_eq!(signer.open_login(7 + LOGIN_SECONDS, &token, &stamp), None);
            assert_eq!(signer.open_login(7, &token[1..], &stamp), None);
            let v1 = format!(r#"signature={},repository="a",access=read"#, &token[LOGIN.len()..]);
            assert_eq!(signer.open_v1(7, &v1, &stamp), None, "made for something else");
            let session = &token[LOGIN.len()..];
            assert_eq!(signer.open_session(7, session, &stamp), None, "made for a client");
        }
    }

    #[test]
    fn sessions() {
        let signer = Signer::new(Key::from_bytes(b"key"));
        let session = signer.session(7, "änn", &stamp).unwrap();
        let open = |now, session: &str| signer.open_session(now, session, &stamp);
        assert_eq!(open(7, &session), Some(("änn".into(), 7 + SESSION_SECONDS)));
        assert_eq!(open(7 + SESSION_SECONDS, &session), None, "expired");
        assert_eq!(open(7, &format!("9{session}")), None, "longer than it was made for");
        assert_eq!(open(7, &session[..session.len() - 1]), None, "cut");
        assert_eq!(signer.open_session(7, &session, &|_| Some([2; 32])), None, "new password");
        assert_eq!(signer.open_session(7, &session, &|_| None), None, "the user is gone");
        assert_eq!(signer.open_login(7, &format!("{LOGIN}{session}"), &stamp), None);
        assert_eq!(signer.session(7, "bob", &stamp), None);
    }
}
