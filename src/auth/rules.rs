//! Rules by repository (`--acl FILE`, TOML):
//!
//! ```toml
//! [groups]
//! developers = ["ann", "bob"]
//!
//! [[rules]]
//! groups = ["developers"]
//! repositories = ["team/**"]
//! rights = ["pull", "push"]
//! ```
//!
//! What no rule grants is not allowed. In a pattern `*` and `?` stay within a part
//! of a name, `**` stands for any number of parts.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use toml::Spanned;

use super::users::check_name;
use super::{Error, Right};
use crate::oci::{Pattern, Repository};

/// The group of everybody, also of who did not log in.
const ANONYMOUS: &str = "anonymous";
/// The group of all users.
const USERS: &str = "users";

#[derive(Debug, Default)]
pub struct Rules(Vec<Rule>);

#[derive(Debug)]
struct Rule {
    users: HashSet<String>,
    all_users: bool,
    anonymous: bool,
    repositories: Vec<Pattern>,
    rights: Vec<Right>,
}

impl Rules {
    pub fn parse(path: &Path, text: &str) -> Result<Rules, Error> {
        let failed =
            |span: Range<usize>, why: String| Error::line(path, line_of(text, span.start), why);
        let document: Document = toml::from_str(text).map_err(|error| {
            let at = error.span().unwrap_or_default();
            failed(at, error.message().to_owned())
        })?;
        for (name, members) in &document.groups {
            let (span, name) = (name.span(), name.get_ref());
            if [ANONYMOUS, USERS].contains(&name.as_str()) {
                return Err(failed(span, format!("the group {name:?} is there by itself")));
            }
            for member in members {
                check_name(member.get_ref())
                    .map_err(|why| failed(member.span(), why.to_owned()))?;
            }
        }
        let groups: HashMap<&str, &Vec<Spanned<String>>> = document
            .groups
            .iter()
            .map(|(name, members)| (name.get_ref().as_str(), members))
            .collect();
        let mut rules = Vec::new();
        for rule in document.rules {
            let (span, rule) = (rule.span(), rule.into_inner());
            let mut users = HashSet::new();
            for user in &rule.users {
                check_name(user.get_ref()).map_err(|why| failed(user.span(), why.to_owned()))?;
                users.insert(user.get_ref().clone());
            }
            let (mut all_users, mut anonymous) = (false, false);
            for group in &rule.groups {
                match group.get_ref().as_str() {
                    USERS => all_users = true,
                    ANONYMOUS => anonymous = true,
                    name => {
                        let members = groups.get(name).ok_or_else(|| {
                            failed(group.span(), format!("there is no group {name:?}"))
                        })?;
                        users.extend(members.iter().map(|member| member.get_ref().clone()));
                    }
                }
            }
            if rule.users.is_empty() && rule.groups.is_empty() {
                return Err(failed(
                    span,
                    "the rule is for nobody: want users or groups".to_owned(),
                ));
            }
            if rule.repositories.is_empty() || rule.rights.is_empty() {
                return Err(failed(
                    span,
                    "the rule grants nothing: want repositories and rights".to_owned(),
                ));
            }
            if anonymous && rule.rights.iter().any(|right| *right != Granted::Pull) {
                let why = format!("the group {ANONYMOUS:?} can be granted \"pull\" only");
                return Err(failed(span, why));
            }
            let mut repositories = Vec::new();
            for pattern in &rule.repositories {
                let parsed = pattern.get_ref().parse::<Pattern>().map_err(|error| {
                    let why = format!("{:?} is not a pattern: {error}", pattern.get_ref());
                    failed(pattern.span(), why)
                })?;
                repositories.push(parsed);
            }
            rules.push(Rule {
                users,
                all_users,
                anonymous,
                repositories,
                rights: rule.rights.into_iter().map(Right::from).collect(),
            });
        }
        Ok(Rules(rules))
    }

    /// Whether a rule grants the user this right to any repository.
    pub fn allow_somewhere(&self, user: &str, right: Right) -> bool {
        let mut rules = self.0.iter().filter(|rule| rule.rights.contains(&right));
        rules.any(|rule| rule.all_users || rule.users.contains(user))
    }

    /// Whether a rule grants it. `user`: `None` for who did not log in.
    pub fn allow(&self, user: Option<&str>, repository: &Repository, right: Right) -> bool {
        // Who may read a repository finds it in lists.
        let right = if right == Right::Catalog { Right::Pull } else { right };
        self.0.iter().any(|rule| {
            rule.rights.contains(&right)
                && (rule.anonymous
                    || user.is_some_and(|user| rule.all_users || rule.users.contains(user)))
                && rule.repositories.iter().any(|pattern| pattern.matches(repository.as_str()))
        })
    }
}

/// The number of the line that has the byte at `offset`.
pub fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().iter().take(offset);
    before.filter(|&&byte| byte == b'\n').count() + 1
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    groups: HashMap<Spanned<String>, Vec<Spanned<String>>>,
    #[serde(default)]
    rules: Vec<Spanned<RuleDocument>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleDocument {
    #[serde(default)]
    users: Vec<Spanned<String>>,
    #[serde(default)]
    groups: Vec<Spanned<String>>,
    repositories: Vec<Spanned<String>>,
    rights: Vec<Granted>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Granted {
    Pull,
    Push,
    Delete,
}

impl From<Granted> for Right {
    fn from(granted: Granted) -> Right {
        match granted {
            Granted::Pull => Right::Pull,
            Granted::Push => Right::Push,
            Granted::Delete => Right::Delete,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = r#"
[groups]
developers = ["ann", "bob"]

[[rules]]                       # everybody reads what is public
groups = ["anonymous"]
repositories = ["public/**", "library/*"]
rights = ["pull"]

[[rules]]
groups = ["developers"]
repositories = ["team/**"]
rights = ["pull", "push"]

[[rules]]
users = ["ann"]
repositories = ["team/app", "ann-?/x[0-9]"]
rights = ["delete"]

[[rules]]
groups = ["users"]
repositories = ["shared"]
rights = ["pull"]

[[rules]]
users = ["root"]
repositories = ["**"]
rights = ["pull", "push", "delete"]
"#;

    #[test]
    fn decisions() {
        let rules = Rules::parse(Path::new("x"), EXAMPLE).unwrap();
        use Right::{Catalog, Delete, Pull, Push};
        for (user, repository, want) in [
            (None, "public/a", &[Pull, Catalog][..]),
            (None, "public/a/b/c", &[Pull, Catalog]),
            (None, "library/debian", &[Pull, Catalog]),
            (None, "library/debian/slim", &[]),
            (None, "library", &[]),
            (None, "team/app", &[]),
            (None, "shared", &[]),
            (Some("ann"), "public/a", &[Pull, Catalog]),
            (Some("ann"), "team/app", &[Pull, Push, Delete, Catalog]),
            (Some("ann"), "team/app/x", &[Pull, Push, Catalog]),
            (Some("ann"), "ann-1/x7", &[Delete]),
            (Some("ann"), "ann-12/x7", &[]),
            (Some("bob"), "team/app", &[Pull, Push, Catalog]),
            (Some("bob"), "teams/app", &[]),
            (Some("bob"), "other/team/app", &[]),
            (Some("carl"), "shared", &[Pull, Catalog]),
            (Some("carl"), "team/app", &[]),
            (Some("anonymous"), "team/app", &[]),
            (Some("users"), "team/app", &[]),
            (Some("developers"), "team/app", &[]),
            (Some("root"), "a", &[Pull, Push, Delete, Catalog]),
            (Some("root"), "a/b/c", &[Pull, Push, Delete, Catalog]),
        ] {
            let repository: Repository = repository.parse().unwrap();
            for right in [Pull, Push, Delete, Catalog] {
                let allowed = rules.allow(user, &repository, right);
                assert_eq!(allowed, want.contains(&right), "{user:?} {right:?} {repository}");
            }
        }
        let empty = Rules::parse(Path::new("x"), "").unwrap();
        assert!(!empty.allow(Some("root"), &"a".parse().unwrap(), Pull));
    }

    #[test]
    fn refused() {
        for (text, line, why) in [
            ("[[rules]\n", 1, ""),
            ("\n[group]\n", 2, "unknown field `group`"),
            ("[[rules]]\nuser = ['a']\n", 2, "unknown field `user`"),
            ("[[rules]]\nusers = ['a']\nrights = ['pull']\n", 1, "missing field `repositories`"),
            (
                "[[rules]]\nusers=['a']\nrepositories=['x']\nrights=['read']",
                4,
                "unknown variant `read`",
            ),
            ("[[rules]]\nusers=['a']\nrepositories=['x']\nrights=[]", 1, "grants nothing"),
            ("[[rules]]\nrepositories=['x']\nrights=['pull']", 1, "for nobody"),
            (
                "[[rules]]\n\ngroups=['devs']\nrepositories=['x']\nrights=['pull']",
                3,
                "no group \"devs\"",
            ),
            (
                "[[rules]]\nusers=['a']\nrepositories=['x',\n'a**']\nrights=['pull']",
                4,
                "not a pattern",
            ),
            (
                "[[rules]]\ngroups=['anonymous']\nrepositories=['x']\nrights=['push']",
                1,
                "\"pull\" only",
            ),
            ("[groups]\nusers=['a']", 2, "by itself"),
            ("[groups]\na=['x:y']", 2, "colons"),
            ("[groups]\na='x'", 2, "expected a sequence"),
        ] {
            let error = Rules::parse(Path::new("acl"), text).unwrap_err().to_string();
            assert!(error.starts_with(&format!("acl, line {line}: ")), "{text}: {error}");
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
