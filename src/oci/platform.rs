//! Platforms: for what a manifest of an index is made. Names and defaults are
//! Go's, normalised as containerd's `platforms` package does it: aliases, `arm64`
//! is v8, `arm` without a variant is v7, variants of amd64 say nothing here.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a platform: want OS/ARCH or OS/ARCH/VARIANT, as in linux/arm64")]
pub struct PlatformError(String);

/// What an error message repeats of a refused platform, in characters.
const EXCERPT: usize = 100;

/// A platform in its one spelling: `linux/arm/v7`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Platform {
    os: String,
    architecture: String,
    /// Empty where the architecture has none that matter.
    variant: String,
}

impl Platform {
    pub fn new(os: &str, architecture: &str, variant: &str) -> Platform {
        let lower = |s: &str| s.to_ascii_lowercase();
        let (os, architecture, variant) = (lower(os), lower(architecture), lower(variant));
        let os = match os.as_str() {
            "macos" => "darwin".to_owned(),
            _ => os,
        };
        let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
            ("amd64" | "x86_64" | "x86-64", _) => ("amd64", ""),
            ("386" | "i386" | "i486" | "i586" | "i686" | "x86", _) => ("386", ""),
            ("arm64" | "aarch64", "" | "8" | "v8") => ("arm64", ""),
            ("aarch64", other) => ("arm64", other),
            ("armhf" | "armv7l", _) => ("arm", "v7"),
            ("armel", _) => ("arm", "v6"),
            ("arm", "" | "7" | "v7") => ("arm", "v7"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "6") => ("arm", "v6"),
            ("arm", "8") => ("arm", "v8"),
            other => other,
        };
        Platform { architecture: architecture.to_owned(), variant: variant.to_owned(), os }
    }

    /// What attestations, which are no images, say of theirs.
    pub fn is_unknown(&self) -> bool {
        self.os == "unknown" && self.architecture == "unknown"
    }

    /// The one that this program runs on.
    pub fn host() -> Platform {
        let architecture = match std::env::consts::ARCH {
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "powerpc64" => "ppc64",
            "loongarch64" => "loong64",
            other => other,
        };
        Platform::new(std::env::consts::OS, architecture, "")
    }

    /// How well something made for `other` does here: 0 is best, `None` not at
    /// all. An ARM processor runs what is made for its predecessors.
    pub fn rank(&self, other: &Platform) -> Option<u32> {
        if self == other {
            return Some(0);
        }
        if self.os != other.os || self.architecture != "arm" || other.architecture != "arm" {
            return None;
        }
        let number = |p: &Platform| p.variant.strip_prefix('v')?.parse::<u32>().ok();
        number(self)?.checked_sub(number(other)?)
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(s: &str) -> Result<Platform, PlatformError> {
        let word = |part: &&str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        };
        let parts: Vec<&str> = s.split('/').collect();
        match parts[..] {
            [os, architecture] if parts.iter().all(word) => Ok(Platform::new(os, architecture, "")),
            [os, architecture, variant] if parts.iter().all(word) => {
                Ok(Platform::new(os, architecture, variant))
            }
            _ => Err(PlatformError(s.chars().take(EXCERPT).collect())),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// As documents have it: fields may be absent or `null`.
#[derive(Debug, Default, Deserialize)]
pub(super) struct RawPlatform {
    pub(super) os: Option<String>,
    pub(super) architecture: Option<String>,
    pub(super) variant: Option<String>,
}

impl RawPlatform {
    /// `None`: it says nothing. Attestations call theirs "unknown", which is one
    /// that nothing matches.
    pub(super) fn platform(&self) -> Option<Platform> {
        let text = |s: &Option<String>| s.as_deref().unwrap_or_default().to_owned();
        let (os, architecture) = (text(&self.os), text(&self.architecture));
        (!os.is_empty() && !architecture.is_empty())
            .then(|| Platform::new(&os, &architecture, &text(&self.variant)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(s: &str) -> Platform {
        s.parse().unwrap()
    }

    #[test]
    fn one_spelling() {
        for (text, want) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("Linux/AMD64/v3", "linux/amd64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v9", "linux/arm64/v9"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/6", "linux/arm/v6"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/i386", "linux/386"),
            ("macos/arm64", "darwin/arm64"),
            ("linux/s390x", "linux/s390x"),
        ] {
            assert_eq!(platform(text).to_string(), want, "{text}");
        }
        for text in ["", "linux", "linux/", "/amd64", "a/b/c/d", "linux/a b", "a//b"] {
            assert!(text.parse::<Platform>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn ranks() {
        for (wanted, there, rank) in [
            ("linux/amd64", "linux/amd64/v2", Some(0)),
            ("linux/amd64", "linux/386", None),
            ("linux/amd64", "windows/amd64", None),
            ("linux/arm64", "linux/arm64/v8", Some(0)),
            ("linux/arm/v7", "linux/arm", Some(0)),
            ("linux/arm/v7", "linux/arm/v6", Some(1)),
            ("linux/arm/v7", "linux/arm/v5", Some(2)),
            ("linux/arm/v6", "linux/arm/v7", None),
            ("linux/arm64", "linux/arm/v7", None),
            ("linux/amd64", "unknown/unknown", None),
        ] {
            let rank_found = platform(wanted).rank(&platform(there));
            assert_eq!(rank_found, rank, "{there} for {wanted}");
        }
    }

    #[test]
    fn this_machine() {
        let host = Platform::host();
        assert_eq!(host.to_string().parse(), Ok(host.clone()));
        assert_eq!(host.rank(&host), Some(0));
    }
}
