//! Names, references and patterns: a text that is taken is written back as it was, and a pattern
//! is matched without a panic.

use crate::oci::{Digest, Pattern, Platform, Reference, Repository, Tag};

/// `PATTERN NUL NAME`, or a name alone.
pub fn names(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (pattern, name) = text.split_once('\0').unwrap_or(("**", text));
    if let Ok(repository) = name.parse::<Repository>() {
        assert_eq!(repository.as_str(), name);
        assert!("**".parse::<Pattern>().unwrap().matches(name));
        assert!(name.parse::<Pattern>().unwrap().matches(name));
    }
    if let Ok(pattern) = pattern.parse::<Pattern>() {
        pattern.matches(name);
    }
    if let Ok(tag) = name.parse::<Tag>() {
        assert_eq!(tag.as_str(), name);
    }
    if let Ok(digest) = name.parse::<Digest>() {
        assert_eq!(digest.to_string(), name);
    }
    if let Ok(reference) = name.parse::<Reference>() {
        assert_eq!(reference.to_string(), name);
    }
    if let Ok(platform) = name.parse::<Platform>() {
        assert_eq!(platform.to_string().parse::<Platform>(), Ok(platform));
    }
}
