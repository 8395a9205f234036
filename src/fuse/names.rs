//! Names in the directories above the images: the path is the reference. A
//! repository's name is the directories on the way, its last component stands
//! before `:TAG`, `@DIGEST` or `:TAG@OS-ARCH[-VARIANT]`. What has neither `:` nor
//! `@` is the beginning of longer names.

use std::fmt::Write;

use crate::image::Platform;
use crate::oci::{Reference, Repository, Tag};

/// Longest name that programs expect (`NAME_MAX`). Longer ones are not listed.
pub const NAME_MAX: usize = 255;

/// What a name means.
#[derive(Debug, PartialEq, Eq)]
pub enum Name {
    Below(Repository),
    Image {
        repository: Repository,
        reference: Reference,
        /// Another one than the mount's.
        platform: Option<Platform>,
    },
}

/// `prefix/name`
pub fn join(prefix: &str, name: &str) -> String {
    match prefix {
        "" => name.to_owned(),
        _ => format!("{prefix}/{name}"),
    }
}

/// `None`: nothing can have this name.
pub fn parse(prefix: &str, name: &[u8]) -> Option<Name> {
    let name = std::str::from_utf8(name).ok()?;
    let Some(end) = name.find([':', '@']) else {
        return Some(Name::Below(join(prefix, name).parse().ok()?));
    };
    let repository: Repository = join(prefix, &name[..end]).parse().ok()?;
    let rest = &name[end + 1..];
    let (reference, platform) = if name[end..].starts_with('@') {
        (Reference::Digest(rest.parse().ok()?), None)
    } else if let Some((tag, platform)) = rest.split_once('@') {
        let found: Platform = platform.replace('-', "/").parse().ok()?;
        // Each platform has one name.
        if dashed(&found) != platform {
            return None;
        }
        (Reference::Tag(tag.parse().ok()?), Some(found))
    } else {
        (Reference::Tag(rest.parse().ok()?), None)
    };
    Some(Name::Image { repository, reference, platform })
}

fn dashed(platform: &Platform) -> String {
    platform.to_string().replace('/', "-")
}

/// The name of an image; `None`: it can have none.
pub fn image(base: &str, tag: &Tag, platform: Option<&Platform>) -> Option<String> {
    let mut name = format!("{base}:{tag}");
    if let Some(platform) = platform {
        let dashed = dashed(platform);
        // Words of an index may be anything.
        if dashed.replace('-', "/").parse().as_ref() != Ok(platform) {
            return None;
        }
        write!(name, "@{dashed}").ok()?;
    }
    (name.len() <= NAME_MAX).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parsed() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        let image = |repository: &str, reference: &str, platform: Option<&str>| Name::Image {
            repository: repository.parse().unwrap(),
            reference: reference.parse().unwrap(),
            platform: platform.map(|p| p.parse().unwrap()),
        };
        for (prefix, name, want) in [
            ("", "debian:12", Some(image("debian", "12", None))),
            ("library", "debian:12", Some(image("library/debian", "12", None))),
            ("", &format!("a@{digest}"), Some(image("a", &digest, None))),
            ("", "a:1@linux-arm64", Some(image("a", "1", Some("linux/arm64")))),
            ("", "a:1@linux-arm-v6", Some(image("a", "1", Some("linux/arm/v6")))),
            ("", "a:1@linux-x86_64", None),
            ("", "a:1@linux", None),
            ("", "a:1@", None),
            ("", "a:", None),
            ("", "a@12", None),
            ("", ":1", None),
            ("", "A:1", None),
            ("", "..", None),
            ("", "_uploads", None),
            ("a", "b", Some(Name::Below("a/b".parse().unwrap()))),
        ] {
            assert_eq!(parse(prefix, name.as_bytes()), want, "{prefix} {name}");
        }
        assert_eq!(parse("", b"\xff:1"), None);
    }

    #[test]
    fn of_images() {
        let tag: Tag = "1".parse().unwrap();
        let platform = |p: &str| p.parse::<Platform>().unwrap();
        assert_eq!(image("a", &tag, None).as_deref(), Some("a:1"));
        for (text, want) in [("linux/arm/v6", Some("a:1@linux-arm-v6")), ("linux/a-b", None)] {
            assert_eq!(image("a", &tag, Some(&platform(text))).as_deref(), want);
        }
        let long = "a".repeat(NAME_MAX - 1);
        assert_eq!(image(&long, &tag, None), None);
        assert!(image(&long[1..], &tag, None).is_some());
    }
}
