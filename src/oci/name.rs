//! Repository names, tags and references (distribution-spec, "Pulling
//! manifests"). A value of these types has passed the grammar, so it can be
//! put into a path: no empty part, no `.`, `..`, NUL, blank or uppercase.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::{Digest, DigestError};

/// Longest repository name in bytes: what Docker's and other clients take.
pub const REPOSITORY_MAX: usize = 255;
/// Longest tag in bytes.
pub const TAG_MAX: usize = 128;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error(
        "{0:?} is not a repository name: want parts of a-z and 0-9, joined inside by '.', '_', '__' or dashes, \
         separated by '/', at most {REPOSITORY_MAX} bytes"
    )]
    Repository(String),
    #[error(
        "{0:?} is not a tag: want A-Z, a-z, 0-9, '_', '.', '-', not starting with '.' or '-', at most {TAG_MAX} bytes"
    )]
    Tag(String),
    #[error(transparent)]
    Digest(#[from] DigestError),
}

/// What an error message repeats of a refused name.
fn excerpt(s: &str) -> String {
    s.chars().take(REPOSITORY_MAX).collect()
}

/// A repository name such as `library/debian`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Repository(Arc<str>);

impl Repository {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Repository {
    type Err = NameError;

    fn from_str(s: &str) -> Result<Self, NameError> {
        if s.len() <= REPOSITORY_MAX && s.split('/').all(is_path_component) {
            Ok(Repository(s.into()))
        } else {
            Err(NameError::Repository(excerpt(s)))
        }
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(s: &str) -> bool {
    let alphanumeric = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9');
    let mut rest = s.as_bytes();
    loop {
        let run = rest.iter().take_while(|&&b| alphanumeric(b)).count();
        if run == 0 {
            return false;
        }
        rest = &rest[run..];
        let separator = match rest {
            [] => return true,
            [b'_', b'_', ..] => 2,
            [b'.' | b'_', ..] => 1,
            _ => rest.iter().take_while(|&&b| b == b'-').count(),
        };
        if separator == 0 {
            return false;
        }
        rest = &rest[separator..];
    }
}

/// A tag such as `1.4.2`: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(Box<str>);

impl Tag {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = NameError;

    fn from_str(s: &str) -> Result<Self, NameError> {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        match s.as_bytes() {
            [first, rest @ ..]
                if s.len() <= TAG_MAX
                    && word(*first)
                    && rest.iter().all(|&b| word(b) || b == b'.' || b == b'-') =>
            {
                Ok(Tag(s.into()))
            }
            _ => Err(NameError::Tag(excerpt(s))),
        }
    }
}

/// What names a manifest inside a repository. A digest has a colon, a tag
/// never, so one text is never both.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Reference {
    Tag(Tag),
    Digest(Digest),
}

impl FromStr for Reference {
    type Err = NameError;

    fn from_str(s: &str) -> Result<Self, NameError> {
        if s.contains(':') {
            Ok(Reference::Digest(s.parse()?))
        } else {
            Ok(Reference::Tag(s.parse()?))
        }
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reference::Tag(tag) => tag.fmt(f),
            Reference::Digest(digest) => digest.fmt(f),
        }
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories() {
        for name in [
            "a",
            "0",
            "library/debian",
            "a/b/c/d",
            "a.b",
            "a_b",
            "a__b",
            "a-b",
            "a---b",
            "tags/list",
            "x9/y-z.w__v",
        ] {
            assert_eq!(name.parse::<Repository>().unwrap().as_str(), name);
        }
        assert!("a".repeat(255).parse::<Repository>().is_ok());
        for (name, why) in [
            ("", "empty"),
            ("/", "empty parts"),
            ("/a", "leading slash"),
            ("a/", "trailing slash"),
            ("a//b", "empty part"),
            ("A", "uppercase"),
            (".", "dot"),
            ("..", "parent"),
            ("a/../b", "parent inside"),
            ("a..b", "two dots"),
            ("a___b", "three underscores"),
            ("a._b", "mixed separators"),
            ("-a", "leading dash"),
            ("a-", "trailing dash"),
            ("_layers", "distribution's own folder"),
            ("a/_uploads", "distribution's own folder"),
            ("a\0", "NUL"),
            ("a b", "blank"),
            ("a:b", "colon"),
            ("ä", "not ASCII"),
            (&"a".repeat(256), "too long"),
        ] {
            assert!(name.parse::<Repository>().is_err(), "{why}");
        }
    }

    #[test]
    fn tags() {
        for tag in ["latest", "1.4.2", "_", "A-b.C_d", &"t".repeat(128), "0..1"] {
            assert_eq!(tag.parse::<Tag>().unwrap().as_str(), tag);
        }
        for tag in ["", ".", "..", ".a", "-a", "a/b", "a:b", "a b", "a\0", "ü", &"t".repeat(129)] {
            assert!(tag.parse::<Tag>().is_err(), "{tag:?}");
        }
    }

    #[test]
    fn references() {
        assert!(matches!("v1".parse(), Ok(Reference::Tag(_))));
        let digest = format!("sha256:{}", "0".repeat(64));
        assert!(matches!(digest.parse(), Ok(Reference::Digest(_))));
        assert!("sha256:zz".parse::<Reference>().is_err());
    }
}
