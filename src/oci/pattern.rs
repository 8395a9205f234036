//! Patterns of repository names, as rules and readers of events write them.

use globset::{GlobBuilder, GlobMatcher};

/// Longest pattern in bytes, as that of the names that it matches.
const PATTERN_MAX: usize = 255;

/// A pattern such as `team/**`: `*`, `?` and `[a-z]` stay within a component of a name, `**` stands
/// for any number of components.
///
/// It is matched in time linear in the name's length: a pattern may come from a client, and the
/// name from another one.
#[derive(Clone, Debug)]
pub struct Pattern(GlobMatcher);

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    #[error("it has more than {PATTERN_MAX} bytes")]
    TooLong,
    #[error("`**` must be a whole component, as in `team/**`")]
    Recursive,
    #[error("`{0}` cannot occur in a name")]
    Character(char),
    #[error("{0}")]
    Syntax(String),
}

impl Pattern {
    pub fn matches(&self, name: &str) -> bool {
        self.0.is_match(name)
    }
}

impl std::str::FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Pattern, PatternError> {
        if text.len() > PATTERN_MAX {
            return Err(PatternError::TooLong);
        }
        if let Some(other) = text.chars().find(|c| matches!(c, '{' | '}' | '\\' | '\0')) {
            return Err(PatternError::Character(other));
        }
        if text.split('/').any(|component| component.contains("**") && component != "**") {
            return Err(PatternError::Recursive);
        }
        let glob = GlobBuilder::new(text).literal_separator(true).build();
        let glob = glob.map_err(|error| PatternError::Syntax(error.kind().to_string()))?;
        Ok(Pattern(glob.compile_matcher()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn matches() {
        for (pattern, name, want) in [
            ("a", "a", true),
            ("a", "b", false),
            ("team/*", "team/app", true),
            ("team/*", "team/app/x", false),
            ("team/**", "team/app/x", true),
            ("team/**", "team", false),
            ("team/**", "teams/app", false),
            ("**", "a", true),
            ("**", "a/b/c", true),
            ("**/app", "app", true),
            ("**/app", "a/b/app", true),
            ("a/**/z", "a/z", true),
            ("a/**/z", "a/b/c/z", true),
            ("ann-?/x[0-9]", "ann-1/x7", true),
            ("ann-?/x[0-9]", "ann-12/x7", false),
            ("*", ".hidden", true),
            ("*", "A", true),
        ] {
            let parsed: Pattern = pattern.parse().unwrap();
            assert_eq!(parsed.matches(name), want, "{pattern} {name}");
        }
    }

    #[test]
    fn refused() {
        for pattern in ["a**", "**a/b", "a/***", "[", "[z-a]", "{a,b}", r"a\b", &"a".repeat(256)] {
            assert!(pattern.parse::<Pattern>().is_err(), "{pattern}");
        }
    }

    /// A backtracking matcher would take longer than the age of the universe for these.
    #[test]
    fn linear() {
        let start = Instant::now();
        for (pattern, name) in [
            (format!("bob/{}b/x", "*a".repeat(20)), format!("bob/{}/x", "a".repeat(200))),
            ("ci/*-*-*-*-*-*-*-*-*-*/cache".to_owned(), format!("ci/{}", "-".repeat(240))),
            (format!("{}b", "**/".repeat(80)), "a/".repeat(120) + "a"),
        ] {
            assert!(!pattern.parse::<Pattern>().unwrap().matches(&name));
        }
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    }
}
