//! Which tags stay (`--retention FILE`, TOML):
//!
//! ```toml
//! [[rules]]
//! repositories = ["team/**"]
//! tags = ["pr-*"]
//! newest = 10
//! younger = "30d"
//! ```
//!
//! A tag goes if a rule with a condition (`newest`, `younger`, `pulled`) is about it, no such rule keeps
//! it, and no rule has it in `keep`. What no rule is about stays. In patterns `*` and `?` stay within a part of a
//! name, `**` stands for any number of parts.

use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use toml::Spanned;

use crate::auth::{self, Error as FileError, line_of};
use crate::oci::{Pattern, Repository, Tag};

#[derive(Debug, Default)]
pub struct Retention(Vec<Rule>);

#[derive(Debug)]
struct Rule {
    /// The line of the file that it begins in.
    line: usize,
    repositories: Vec<Pattern>,
    /// The tags that it is about.
    tags: Vec<Pattern>,
    keep: Vec<Pattern>,
    newest: Option<usize>,
    younger: Option<Duration>,
    pulled: Option<Duration>,
    untagged: Option<Duration>,
    immutable: Vec<Pattern>,
}

/// What is known of a tag.
#[derive(Clone, Debug)]
pub struct TagTimes {
    pub tag: Tag,
    pub pushed: SystemTime,
    /// When it was last pulled, or since when pulls are noted, if it was not since then.
    pub pulled: SystemTime,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    rules: Vec<Spanned<RuleDocument>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleDocument {
    repositories: Vec<Spanned<String>>,
    tags: Option<Vec<Spanned<String>>>,
    #[serde(default)]
    keep: Vec<Spanned<String>>,
    newest: Option<usize>,
    younger: Option<Spanned<String>>,
    pulled: Option<Spanned<String>>,
    untagged: Option<Spanned<String>>,
    #[serde(default)]
    immutable: Vec<Spanned<String>>,
}

impl Retention {
    pub fn parse(path: &Path, text: &str) -> Result<Retention, FileError> {
        let failed =
            |span: Range<usize>, why: String| FileError::line(path, line_of(text, span.start), why);
        let document: Document = toml::from_str(text).map_err(|error| {
            let at = error.span().unwrap_or_default();
            failed(at, error.message().to_owned())
        })?;
        let patterns = |texts: &[Spanned<String>]| {
            let parse = |text: &Spanned<String>| {
                text.get_ref().parse::<Pattern>().map_err(|error| {
                    failed(text.span(), format!("{:?} is not a pattern: {error}", text.get_ref()))
                })
            };
            texts.iter().map(parse).collect::<Result<Vec<_>, _>>()
        };
        let time = |text: &Option<Spanned<String>>| {
            let parse = |text: &Spanned<String>| {
                let why = || {
                    let what = "is not a time: want days or hours, such as \"30d\" or \"12h\"";
                    failed(text.span(), format!("{:?} {what}", text.get_ref()))
                };
                parse_time(text.get_ref()).ok_or_else(why)
            };
            text.as_ref().map(parse).transpose()
        };
        let mut rules = Vec::new();
        for rule in document.rules {
            let (span, rule) = (rule.span(), rule.into_inner());
            let all = vec![Spanned::new(0..0, "*".to_owned())];
            let parsed = Rule {
                line: line_of(text, span.start),
                repositories: patterns(&rule.repositories)?,
                tags: patterns(rule.tags.as_ref().unwrap_or(&all))?,
                keep: patterns(&rule.keep)?,
                newest: rule.newest,
                younger: time(&rule.younger)?,
                pulled: time(&rule.pulled)?,
                untagged: time(&rule.untagged)?,
                immutable: patterns(&rule.immutable)?,
            };
            let says_something = parsed.has_condition()
                || parsed.untagged.is_some()
                || !parsed.immutable.is_empty()
                || !parsed.keep.is_empty();
            if parsed.repositories.is_empty() || !says_something {
                let why = "the rule says nothing: want repositories, and keep, newest, younger, \
                           pulled, untagged or immutable";
                return Err(failed(span, why.to_owned()));
            }
            if rule.tags.is_some() && !parsed.has_condition() {
                let why = "tags are chosen, but nothing says which of them stay: want newest, younger \
                           or pulled";
                return Err(failed(span, why.to_owned()));
            }
            rules.push(parsed);
        }
        Ok(Retention(rules))
    }

    /// Reads a file once.
    pub fn read(path: &Path) -> Result<Retention, FileError> {
        Retention::parse(path, &auth::read(path)?)
    }

    fn of<'a>(&'a self, repository: &'a Repository) -> impl Iterator<Item = &'a Rule> {
        self.0.iter().filter(|rule| matches(&rule.repositories, repository.as_str()))
    }

    /// Whether a tag must not be deleted, nor moved to another manifest.
    pub fn is_immutable(&self, repository: &Repository, tag: &Tag) -> bool {
        self.of(repository).any(|rule| matches(&rule.immutable, tag.as_str()))
    }

    /// Whether some tags of a repository may be immutable.
    pub fn has_immutable(&self, repository: &Repository) -> bool {
        self.of(repository).any(|rule| !rule.immutable.is_empty())
    }

    /// When manifests of a repository go that no tag reaches. `None`: they stay.
    pub fn untagged(&self, repository: &Repository) -> Option<Duration> {
        self.of(repository).filter_map(|rule| rule.untagged).max()
    }

    /// Whether a tag of a repository may go.
    pub fn is_about(&self, repository: &Repository) -> bool {
        self.of(repository).any(Rule::has_condition)
    }

    /// Which of all the tags of a repository go: their places in `tags`, each with the line of the
    /// first rule that says so.
    pub fn going(
        &self,
        repository: &Repository,
        tags: &[TagTimes],
        now: SystemTime,
    ) -> Vec<(usize, usize)> {
        let mut said_by = vec![None; tags.len()];
        let mut kept = HashSet::new();
        for rule in self.of(repository) {
            let of_rule = |place: &usize| matches(&rule.tags, tags[*place].tag.as_str());
            let mut about: Vec<usize> = (0..tags.len()).filter(of_rule).collect();
            if rule.has_condition() {
                // The newest first; among equals by name, so that it is the same each time.
                about.sort_by(|a, b| {
                    let (a, b) = (&tags[*a], &tags[*b]);
                    b.pushed.cmp(&a.pushed).then_with(|| a.tag.cmp(&b.tag))
                });
                for (rank, place) in about.into_iter().enumerate() {
                    said_by[place].get_or_insert(rule.line);
                    if rule.keeps(&tags[place], rank, now) {
                        kept.insert(place);
                    }
                }
            }
            let protects = |place: &usize| {
                let tag = tags[*place].tag.as_str();
                matches(&rule.keep, tag) || matches(&rule.immutable, tag)
            };
            kept.extend((0..tags.len()).filter(protects));
        }
        let said = said_by.into_iter().enumerate();
        said.filter_map(|(place, line)| Some((place, line?)))
            .filter(|(place, _)| !kept.contains(place))
            .collect()
    }
}

impl Rule {
    /// Whether tags go that it does not keep.
    fn has_condition(&self) -> bool {
        self.newest.is_some() || self.younger.is_some() || self.pulled.is_some()
    }

    fn keeps(&self, tag: &TagTimes, rank: usize, now: SystemTime) -> bool {
        // A time that is still to come is young.
        let is_within = |time: SystemTime, limit: Option<Duration>| {
            let age = now.duration_since(time).unwrap_or_default();
            limit.is_some_and(|limit| age <= limit)
        };
        self.newest.is_some_and(|newest| rank < newest)
            || is_within(tag.pushed, self.younger)
            || is_within(tag.pulled, self.pulled)
    }
}

fn matches(patterns: &[Pattern], name: &str) -> bool {
    patterns.iter().any(|pattern| pattern.matches(name))
}

/// `30d`, `1d 12h`, `90m`.
fn parse_time(text: &str) -> Option<Duration> {
    const DAY: f64 = 86_400.0;
    let span: jiff::Span = text.parse().ok()?;
    let is_calendar = span.get_years() != 0 || span.get_months() != 0;
    let seconds =
        span.total((jiff::Unit::Second, jiff::SpanRelativeTo::days_are_24_hours())).ok()?;
    let is_valid = !is_calendar && (0.0..=DAY * 365_000.0).contains(&seconds);
    is_valid.then(|| Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const HOUR: u64 = 3600;

    fn parse(text: &str) -> Result<Retention, String> {
        Retention::parse(Path::new("file"), text).map_err(|error| error.to_string())
    }

    fn tag(name: &str, pushed: u64, pulled: u64) -> TagTimes {
        let ago = |hours: u64| SystemTime::UNIX_EPOCH + Duration::from_secs((1000 - hours) * HOUR);
        TagTimes { tag: name.parse().unwrap(), pushed: ago(pushed), pulled: ago(pulled) }
    }

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1000 * HOUR)
    }

    /// The names of the tags that go, and the lines that say so.
    fn going(rules: &str, repository: &str, tags: &[TagTimes]) -> String {
        let going = parse(rules).unwrap().going(&repository.parse().unwrap(), tags, now());
        let going = going.iter().map(|(place, line)| format!("{}@{line}", tags[*place].tag));
        going.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_goes() {
        let tags = [
            tag("latest", 1, 1),
            tag("v1", 900, 10),
            tag("v2", 800, 800),
            tag("pr-1", 100, 100),
            tag("pr-2", 50, 50),
            tag("pr-3", 2, 900),
        ];
        for (rule, want) in [
            ("tags = [\"pr-*\"]\nnewest = 1", "pr-1@1 pr-2@1"),
            ("newest = 2", "v1@1 v2@1 pr-1@1 pr-2@1"),
            ("newest = 0", "latest@1 v1@1 v2@1 pr-1@1 pr-2@1 pr-3@1"),
            ("tags = [\"pr-*\"]\nyounger = \"3d\"", "pr-1@1"),
            ("younger = \"2h\"", "v1@1 v2@1 pr-1@1 pr-2@1"),
            ("keep = [\"v*\", \"latest\"]", ""),
            ("newest = 0\nkeep = [\"v*\", \"latest\"]", "pr-1@1 pr-2@1 pr-3@1"),
            // What one rule keeps in any case, no other deletes.
            (
                "newest = 0\n[[rules]]\nrepositories = [\"**\"]\nkeep = [\"v*\"]",
                "latest@1 pr-1@1 pr-2@1 pr-3@1",
            ),
            ("pulled = \"20h\"", "v2@1 pr-1@1 pr-2@1 pr-3@1"),
            ("newest = 1\nimmutable = [\"v?\"]", "pr-1@1 pr-2@1 pr-3@1"),
            ("untagged = \"7d\"", ""),
            ("immutable = [\"v*\"]", ""),
            // Another rule may keep what one lets go.
            (
                "newest = 1\n[[rules]]\nrepositories = [\"**\"]\ntags = [\"v*\"]\npulled = \"1d\"",
                "v2@1 pr-1@1 pr-2@1 pr-3@1",
            ),
            // The first that says so.
            (
                "tags = [\"v*\"]\nnewest = 0\n[[rules]]\nrepositories = [\"team/*\"]\nnewest = 2",
                "v1@1 v2@1 pr-1@5 pr-2@5",
            ),
        ] {
            let rules = format!("[[rules]]\nrepositories = [\"team/**\"]\n{rule}\n");
            assert_eq!(going(&rules, "team/app", &tags), want, "{rule}");
            assert!(!going(&rules, "other", &tags).contains("pr-1"), "{rule}");
        }
        assert_eq!(going("", "team/app", &tags), "", "no rule");
        let coming = [tag("young", 0, 0)];
        let rules = "[[rules]]\nrepositories = [\"**\"]\nyounger = \"0s\"";
        assert_eq!(going(rules, "a", &coming), "");
    }

    #[test]
    fn refused() {
        for (rule, names) in [
            ("repositories = [\"a\"]", "line 1"),
            ("newest = 1", "repositories"),
            ("repositories = []\nnewest = 1", "says nothing"),
            ("repositories = [\"a\"]\nnewest = -1", "line 3"),
            ("repositories = [\"a\"]\nyounger = \"month\"", "month"),
            ("repositories = [\"a\"]\nyounger = \"1mo\"", "1mo"),
            ("repositories = [\"a\"]\nyounger = \"-1d\"", "-1d"),
            ("repositories = [\"a\"]\nolder = \"1d\"", "older"),
            ("repositories = [\"a**\"]\nnewest = 1", "a**"),
            ("repositories = [\"a\"]\ntags = [\"x\"]\nimmutable = [\"x\"]", "which of them stay"),
        ] {
            let error = parse(&format!("[[rules]]\n{rule}\n")).expect_err(rule);
            assert!(error.contains(names), "{rule}: {error}");
        }
        for (text, hours) in [("30d", 720), ("1d 12h", 36), ("60m", 1), ("2w", 336)] {
            assert_eq!(parse_time(text), Some(Duration::from_secs(hours * HOUR)), "{text}");
        }
    }

    /// A rule of the naive model: tags by their first letter.
    #[derive(Clone, Debug)]
    struct Naive {
        tags: Option<char>,
        keep: Option<char>,
        newest: Option<usize>,
        younger: Option<u64>,
        pulled: Option<u64>,
        immutable: Option<char>,
    }

    impl Naive {
        fn text(&self) -> String {
            let mut text = "[[rules]]\nrepositories = [\"**\"]\n".to_owned();
            let has_condition =
                self.newest.is_some() || self.younger.is_some() || self.pulled.is_some();
            let letters = [
                ("tags", self.tags.filter(|_| has_condition)),
                ("keep", self.keep),
                ("immutable", self.immutable),
            ];
            for (key, letter) in letters {
                if let Some(letter) = letter {
                    text += &format!("{key} = [\"{letter}*\"]\n");
                }
            }
            let hours = |hours: Option<u64>| hours.map(|hours| format!("\"{hours}h\""));
            for (key, value) in [
                ("newest", self.newest.map(|newest| newest.to_string())),
                ("younger", hours(self.younger)),
                ("pulled", hours(self.pulled)),
            ] {
                if let Some(value) = value {
                    text += &format!("{key} = {value}\n");
                }
            }
            text + "untagged = \"1d\"\n"
        }
    }

    fn naive() -> impl Strategy<Value = Naive> {
        use proptest::option::of;
        let letter = || of(proptest::char::range('a', 'c'));
        (letter(), letter(), of(0..4_usize), of(0..9_u64), of(0..9_u64), letter()).prop_map(
            |(tags, keep, newest, younger, pulled, immutable)| Naive {
                tags,
                keep,
                newest,
                younger,
                pulled,
                immutable,
            },
        )
    }

    proptest! {
        #[test]
        fn as_the_naive_model(
            rules in proptest::collection::vec(naive(), 0..4),
            tags in proptest::collection::btree_map("[a-c][0-9]", (0..9_u64, 0..9_u64), 0..8),
        ) {
            let times: Vec<TagTimes> =
                tags.iter().map(|(name, (pushed, pulled))| tag(name, *pushed, *pulled)).collect();
            let text: String = rules.iter().map(Naive::text).collect();
            let retention = parse(&text).unwrap();
            let going = retention.going(&"a/b".parse().unwrap(), &times, now());
            let found: BTreeSet<String> =
                going.iter().map(|(place, _)| times[*place].tag.to_string()).collect();
            let mut want = BTreeSet::new();
            for (name, (pushed, pulled)) in &tags {
                let (mut about, mut stays) = (false, false);
                for rule in &rules {
                    let begins = |letter: Option<char>| {
                        letter.is_some_and(|letter| name.starts_with(letter))
                    };
                    stays |= begins(rule.immutable) || begins(rule.keep);
                    let has_condition = rule.newest.is_some()
                        || rule.younger.is_some()
                        || rule.pulled.is_some();
                    if !has_condition || (rule.tags.is_some() && !begins(rule.tags)) {
                        continue;
                    }
                    about = true;
                    let newer = tags.iter().filter(|(other, (other_pushed, _))| {
                        (rule.tags.is_none() || other.starts_with(rule.tags.unwrap()))
                            && (other_pushed, *other) < (pushed, name)
                    });
                    stays |= rule.newest.is_some_and(|newest| newer.count() < newest)
                        || rule.younger.is_some_and(|limit| *pushed <= limit)
                        || rule.pulled.is_some_and(|limit| *pulled <= limit);
                }
                if about && !stays {
                    want.insert(name.clone());
                }
            }
            prop_assert_eq!(found, want);
        }
    }
}
