//! What a user writes to name an image: hex digits of a digest or of an id, or a
//! reference. `team/app`, `team/app:1.4`, `team/app@sha256:…`,
//! `team/app:1.4@sha256:…` (the digest decides), `sha256:0123456789ab…`,
//! `0123456789ab…`.

use std::fmt;
use std::str::FromStr;

use crate::oci::{Algorithm, Digest, DigestError, NameError, Reference, Repository, Tag};

/// Fewest hex digits that are looked up: what `docker images` shows.
pub const PREFIX_MIN: usize = 12;
/// The tag meant where none is named.
pub const LATEST: &str = "latest";

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error(
        "{0:?} is not an id: want at least {PREFIX_MIN}, and of sha256 at most 64, lowercase hex digits"
    )]
    Hex(String),
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Digest(#[from] DigestError),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Id {
    /// The beginning, or all, of a manifest's or config's digest, or of a v1
    /// image's id. Without an algorithm it may also be a repository's name.
    Hex {
        algorithm: Option<Algorithm>,
        hex: String,
    },
    Reference {
        repository: Repository,
        reference: Reference,
    },
}

impl Id {
    /// Whether it always means the same content. Digits alone may be an id that a client of the
    /// first API chose.
    pub fn is_digest(&self) -> bool {
        match self {
            Id::Hex { algorithm, hex } => {
                algorithm.is_some_and(|algorithm| hex.len() == digits(algorithm))
            }
            Id::Reference { reference, .. } => matches!(reference, Reference::Digest(_)),
        }
    }
}

pub(super) fn digits(algorithm: Algorithm) -> usize {
    match algorithm {
        Algorithm::Sha256 => 64,
        Algorithm::Sha512 => 128,
    }
}

fn is_hex(s: &str) -> bool {
    s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

impl FromStr for Id {
    type Err = IdError;

    fn from_str(s: &str) -> Result<Id, IdError> {
        for algorithm in Algorithm::ALL {
            let Some(hex) =
                s.strip_prefix(algorithm.as_str()).and_then(|rest| rest.strip_prefix(':'))
            else {
                continue;
            };
            if !is_hex(hex) || hex.len() < PREFIX_MIN || hex.len() > digits(algorithm) {
                return Err(IdError::Hex(s.chars().take(200).collect()));
            }
            return Ok(Id::Hex { algorithm: Some(algorithm), hex: hex.to_owned() });
        }
        if is_hex(s) && (PREFIX_MIN..=digits(Algorithm::Sha512)).contains(&s.len()) {
            return Ok(Id::Hex { algorithm: None, hex: s.to_owned() });
        }
        let (name, digest) = match s.split_once('@') {
            Some((name, digest)) => (name, Some(digest.parse::<Digest>()?)),
            None => (s, None),
        };
        let (repository, tag) = match name.split_once(':') {
            Some((repository, tag)) => (repository, tag.parse::<Tag>()?),
            None => (name, LATEST.parse()?),
        };
        Ok(Id::Reference {
            repository: repository.parse()?,
            reference: match digest {
                Some(digest) => Reference::Digest(digest),
                None => Reference::Tag(tag),
            },
        })
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Id::Hex { algorithm: Some(algorithm), hex } => {
                write!(f, "{}:{hex}", algorithm.as_str())
            }
            Id::Hex { algorithm: None, hex } => f.write_str(hex),
            Id::Reference { repository, reference: Reference::Tag(tag) } => {
                write!(f, "{repository}:{tag}")
            }
            Id::Reference { repository, reference: Reference::Digest(digest) } => {
                write!(f, "{repository}@{digest}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parsed() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        let hex = &digest[7..];
        for (text, want, is_digest) in [
            ("team/app", "team/app:latest".to_owned(), false),
            ("team/app:1.4", "team/app:1.4".to_owned(), false),
            (&format!("team/app@{digest}"), format!("team/app@{digest}"), true),
            (&format!("team/app:1.4@{digest}"), format!("team/app@{digest}"), true),
            (&digest, digest.clone(), true),
            (hex, hex.to_owned(), false),
            ("0123456789ab", "0123456789ab".to_owned(), false),
            ("sha256:0123456789ab", "sha256:0123456789ab".to_owned(), false),
            ("0123456789a", "0123456789a:latest".to_owned(), false),
        ] {
            let id: Id = text.parse().unwrap();
            assert_eq!(id.to_string(), want, "{text}");
            assert_eq!(id.is_digest(), is_digest, "{text}");
        }
        for (text, why) in [
            ("", "empty"),
            ("sha256:0123", "short"),
            ("sha256:0123456789AB", "uppercase"),
            (&format!("{digest}0"), "long"),
            ("host:5000/app", "a registry's name"),
            ("app:", "no tag"),
            ("app@sha256:0123456789ab", "a reference takes whole digests"),
            ("App", "uppercase"),
        ] {
            assert!(text.parse::<Id>().is_err(), "{why}");
        }
    }
}
