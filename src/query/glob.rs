//! Glob patterns over bytes: names in images need not be UTF-8.

use std::str::FromStr;

use globset::{Candidate, GlobBuilder, GlobMatcher};

/// Bytes of the longest pattern.
const PATTERN_MAX: usize = 4096;

#[derive(Debug, thiserror::Error)]
pub enum GlobError {
    #[error("the pattern {pattern:?} is not a glob: {cause}")]
    Invalid { pattern: String, cause: globset::ErrorKind },
    #[error("the pattern has {0} bytes, at most {PATTERN_MAX} are allowed")]
    Long(usize),
}

/// A glob: `*` and `?` do not match a slash, `**` does; `[…]` and `{a,b}` as in a shell.
#[derive(Clone, Debug)]
pub struct Glob {
    matcher: GlobMatcher,
    pattern: String,
}

/// Characters that do not stand for themselves.
const SPECIAL: [char; 7] = ['*', '?', '[', ']', '{', '}', '\\'];

impl Glob {
    pub fn is_match(&self, text: &[u8]) -> bool {
        self.matcher.is_match_candidate(&Candidate::from_bytes(text))
    }

    /// What every match starts with, and whether that is the whole of it.
    pub fn prefix(&self) -> (&str, bool) {
        let end = self.pattern.find(SPECIAL).unwrap_or(self.pattern.len());
        (&self.pattern[..end], end == self.pattern.len())
    }

    /// A glob that the last component of every path matches which this one matches. `None`: every
    /// name may be the last.
    pub fn base(&self) -> Option<Glob> {
        let (_, last) = self.pattern.rsplit_once('/').unwrap_or(("", &self.pattern));
        let open = self.pattern.contains(['{', '[', '\\']);
        if open || last.is_empty() || last.chars().all(|c| c == '*') {
            return None;
        }
        // A `**` inside of a component may still match slashes.
        if last.contains("**") { None } else { last.parse().ok() }
    }
}

impl FromStr for Glob {
    type Err = GlobError;

    fn from_str(pattern: &str) -> Result<Glob, GlobError> {
        if pattern.len() > PATTERN_MAX {
            return Err(GlobError::Long(pattern.len()));
        }
        let glob = GlobBuilder::new(pattern).literal_separator(true).backslash_escape(true).build();
        let glob = glob.map_err(|error| GlobError::Invalid {
            pattern: pattern.to_owned(),
            cause: error.kind().clone(),
        })?;
        Ok(Glob { matcher: glob.compile_matcher(), pattern: pattern.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches() {
        for (pattern, text, want) in [
            ("log4j-core-*.jar", &b"log4j-core-2.17.jar"[..], true),
            ("*.jar", b"\xff\xfe.jar", true),
            ("*", b"a\nb", true),
            ("??.txt", "\u{e9}.txt".as_bytes(), true),
            ("*.jar", b"x/y.jar", false),
            ("/usr/lib/**/libssl.so*", b"/usr/lib/x86_64-linux-gnu/libssl.so.3", true),
            ("/usr/lib/**/libssl.so*", b"/usr/lib/libssl.so.3", true),
            ("{a,b}*", b"bc", true),
        ] {
            assert_eq!(pattern.parse::<Glob>().unwrap().is_match(text), want, "{pattern}");
        }
        for pattern in ["[", "{a", "a**{"] {
            assert!(pattern.parse::<Glob>().is_err(), "{pattern}");
        }
        assert!("a".repeat(PATTERN_MAX + 1).parse::<Glob>().is_err());
    }

    #[test]
    fn what_is_known_of_matches() {
        for (pattern, prefix, base) in [
            ("libssl.so", ("libssl.so", true), Some("libssl.so")),
            ("lib*.so", ("lib", false), Some("lib*.so")),
            ("/usr/**/libssl.so*", ("/usr/", false), Some("libssl.so*")),
            ("/usr/**", ("/usr/", false), None),
            ("/a/*", ("/a/", false), None),
            ("/{a,b/c}", ("/", false), None),
        ] {
            let glob: Glob = pattern.parse().unwrap();
            assert_eq!(glob.prefix(), prefix, "{pattern}");
            assert_eq!(glob.base().map(|base| base.pattern).as_deref(), base, "{pattern}");
        }
    }
}
