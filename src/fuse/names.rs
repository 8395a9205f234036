//! Names in the directories above the images: the path is the reference. The components of a
//! repository's name are the directories on the way. Its last component stands before `:TAG` or
//! `@DIGEST`, to which `@OS-ARCH[-VARIANT]` may be added. A name without `:` and `@` is the beginning
//! of longer ones.
//!
//! `@TAG` and `@ALGORITHM-HEX` are further names of the same images, without the colon that many
//! programs take for a separator. They are found, but not listed.

use crate::image::{Platform, dashed, tagged_name, undashed};
use crate::oci::{Algorithm, Digest, Reference, Repository, Tag};

/// Bytes of the longest name that programs expect (`NAME_MAX`). Longer ones are not listed.
pub const NAME_MAX: usize = 255;

/// What a name means.
#[derive(Debug, PartialEq, Eq)]
pub enum Name {
    /// The beginning of longer names.
    Below(Repository),
    Image {
        repository: Repository,
        reference: Reference,
        /// Not the mount's platform, but this one.
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

/// What a name below `prefix` means. `None`: nothing can have this name.
pub fn parse(prefix: &str, name: &[u8]) -> Option<Name> {
    let name = std::str::from_utf8(name).ok()?;
    let Some(end) = name.find([':', '@']) else {
        return Some(Name::Below(join(prefix, name).parse().ok()?));
    };
    let repository: Repository = join(prefix, &name[..end]).parse().ok()?;
    let rest = &name[end + 1..];
    let (reference, platform) = match rest.split_once('@') {
        None => (rest, None),
        Some((reference, dashes)) => {
            let platform = undashed(dashes)?;
            // Each platform has one name.
            if dashed(&platform) != dashes {
                return None;
            }
            (reference, Some(platform))
        }
    };
    let digest = match name[end..].starts_with('@') {
        true => digest(reference),
        false => None,
    };
    let reference = match digest {
        Some(digest) => Reference::Digest(digest),
        None => Reference::Tag(reference.parse().ok()?),
    };
    Some(Name::Image { repository, reference, platform })
}

/// `sha256:HEX`, or the same with a dash.
fn digest(text: &str) -> Option<Digest> {
    let dash = Algorithm::ALL.iter().find_map(|algorithm| {
        let hex = text.strip_prefix(algorithm.as_str())?.strip_prefix('-')?;
        format!("{}:{hex}", algorithm.as_str()).parse().ok()
    });
    dash.or_else(|| text.parse().ok())
}

/// The name of an image that a tag names; `None`: it cannot have one.
pub fn image(base: &str, tag: &Tag, platform: Option<&Platform>) -> Option<String> {
    tagged_name(base, tag, platform).filter(|name| name.len() <= NAME_MAX)
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
            ("", "a@1", Some(image("a", "1", None))),
            ("", "a@1@linux-arm64", Some(image("a", "1", Some("linux/arm64")))),
            ("", &format!("a@{}", digest.replace(':', "-")), Some(image("a", &digest, None))),
            (
                "",
                &format!("a@{digest}@linux-arm64"),
                Some(image("a", &digest, Some("linux/arm64"))),
            ),
            ("", "a:1@linux-amd64+b-c", Some(image("a", "1", Some("linux/amd64+b-c")))),
            ("", "a:1@linux(+b)-amd64", None),
            ("", "a:1@linux-x86_64", None),
            ("", "a:1@linux", None),
            ("", "a:1@", None),
            ("", "a:", None),
            ("", "a@sha256:12", None),
            ("", "a@", None),
            ("", &format!("a:{digest}"), None),
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
        for (text, want) in [
            ("linux/arm/v6", Some("a:1@linux-arm-v6")),
            ("linux/arm+b-c", Some("a:1@linux-arm-v7+b-c")),
            ("linux/a-b", None),
        ] {
            assert_eq!(image("a", &tag, Some(&platform(text))).as_deref(), want);
        }
        let long = "a".repeat(NAME_MAX - 1);
        assert_eq!(image(&long, &tag, None), None);
        assert!(image(&long[1..], &tag, None).is_some());
    }
}
