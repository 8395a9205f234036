//! Platforms: for what a manifest of an index is made. Names, what matches what and in which order
//! are containerd's (its `platforms` package of 2026: `Normalize` and `Only`), which Docker uses too.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a platform: want OS/ARCH or OS/ARCH/VARIANT, as in linux/arm64 or windows/amd64/10.0.20348"
)]
pub struct PlatformError(String);

/// What an error message repeats of a refused platform, in characters.
const EXCERPT: usize = 100;

/// A platform in its one spelling: `linux/arm/v7`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Platform {
    os: String,
    architecture: String,
    /// Empty for the one that the architecture begins with.
    variant: String,
    /// The version of Windows that it needs; empty where it says nothing.
    os_version: String,
}

/// The parts of a version of Windows that decide what runs where: the last one does not.
fn build(version: &str) -> String {
    version.split('.').take(3).collect::<Vec<_>>().join(".")
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
            ("amd64" | "x86_64" | "x86-64", "v1") => ("amd64", ""),
            ("amd64" | "x86_64" | "x86-64", other) => ("amd64", other),
            ("386" | "i386" | "i486" | "i586" | "i686" | "x86", _) => ("386", ""),
            ("arm64" | "aarch64", "" | "8" | "v8" | "v8.0") => ("arm64", ""),
            ("arm64" | "aarch64", "9" | "v9" | "v9.0") => ("arm64", "v9"),
            ("aarch64", other) => ("arm64", other),
            ("armhf" | "armv7l", _) => ("arm", "v7"),
            ("armel", _) => ("arm", "v6"),
            ("arm", "" | "7" | "v7") => ("arm", "v7"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "6") => ("arm", "v6"),
            ("arm", "8") => ("arm", "v8"),
            other => other,
        };
        Platform {
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
            os,
            os_version: String::new(),
        }
    }

    /// The same for a version of the operating system, as `os.version` has it.
    pub fn with_os_version(mut self, version: &str) -> Platform {
        // Elsewhere versions say nothing of what runs where.
        if self.os == "windows" {
            self.os_version = version.to_owned();
        }
        self
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

    /// How well something made for `other` does here: 0 is best, `None` not at all. A processor
    /// runs what is made for its predecessors, the nearest one best.
    pub fn rank(&self, other: &Platform) -> Option<u32> {
        let versions = [&self.os_version, &other.os_version];
        let fits = versions.iter().any(|version| version.is_empty())
            || build(&self.os_version) == build(&other.os_version);
        if self.os != other.os || !fits {
            return None;
        }
        let made_for = (other.architecture.as_str(), other.variant.as_str());
        let mut runs = self.runs().into_iter().zip(0..);
        let found = runs.find(|((architecture, variant), _)| {
            (architecture.as_str(), variant.as_str()) == made_for
        });
        found.map(|(_, rank)| rank)
    }

    /// Architectures and variants that run here, the best first.
    fn runs(&self) -> Vec<(String, String)> {
        let name = |architecture: &str, variant: String| {
            let name = Platform::new(&self.os, architecture, &variant);
            (name.architecture, name.variant)
        };
        let mut runs = vec![(self.architecture.clone(), self.variant.clone())];
        let (major, minor) = self.variant.split_once('.').unwrap_or((&self.variant, "0"));
        let number = |text: &str| text.trim_start_matches('v').parse::<u32>().ok();
        let (major, minor) = (number(major), number(minor).unwrap_or(0).min(99));
        match (self.architecture.as_str(), major) {
            ("amd64", major) => {
                let below = 1..major.unwrap_or(1).clamp(1, 9);
                runs.extend(below.rev().map(|n| name("amd64", format!("v{n}"))));
                runs.push(name("386", String::new()));
            }
            ("arm", Some(major)) => {
                runs.extend((5..major.clamp(5, 9)).rev().map(|n| name("arm", format!("v{n}"))));
            }
            ("arm64", major) => {
                let variants = |major: u32, minors: std::ops::Range<u32>| {
                    minors.rev().map(move |n| format!("v{major}.{n}"))
                };
                let below = match major {
                    // v9.0 branched off from v8.5.
                    Some(9) => variants(9, 0..minor).chain(variants(8, 0..minor + 6)).collect(),
                    Some(8) => variants(8, 0..minor).collect::<Vec<_>>(),
                    _ => Vec::new(),
                };
                runs.extend(below.into_iter().map(|variant| name("arm64", variant)));
                runs.extend((5..=8).rev().map(|n| name("arm", format!("v{n}"))));
            }
            _ => {}
        }
        runs
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
            [os, architecture, last] if parts.iter().all(word) => {
                let windows = Platform::new(os, architecture, "");
                let version =
                    last.contains('.') && last.bytes().all(|b| b.is_ascii_digit() || b == b'.');
                Ok(match windows.os.as_str() {
                    "windows" if version => windows.with_os_version(last),
                    _ => Platform::new(os, architecture, last),
                })
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
        if !self.os_version.is_empty() {
            write!(f, "/{}", self.os_version)?;
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
    #[serde(rename = "os.version")]
    pub(super) os_version: Option<String>,
}

impl RawPlatform {
    /// `None`: it says nothing. Attestations call theirs "unknown", which is one
    /// that nothing matches.
    pub(super) fn platform(&self) -> Option<Platform> {
        let text = |s: &Option<String>| s.as_deref().unwrap_or_default().to_owned();
        let (os, architecture) = (text(&self.os), text(&self.architecture));
        (!os.is_empty() && !architecture.is_empty()).then(|| {
            let platform = Platform::new(&os, &architecture, &text(&self.variant));
            platform.with_os_version(&text(&self.os_version))
        })
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
            ("Linux/AMD64/v3", "linux/amd64/v3"),
            ("linux/amd64/v1", "linux/amd64"),
            ("windows/amd64/10.0.20348.169", "windows/amd64/10.0.20348.169"),
            ("windows/amd64", "windows/amd64"),
            ("linux/arm64/v9.0", "linux/arm64/v9"),
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

    /// What containerd's own tests say of `Only` (its compare_test.go).
    #[test]
    fn what_runs_where() {
        for (wanted, fitting, others) in [
            (
                "linux/amd64",
                &["linux/amd64", "linux/386"][..],
                &["linux/amd64/v2", "linux/arm/v7", "linux/arm64", "windows/amd64", "windows/arm"]
                    [..],
            ),
            (
                "linux/amd64/v2",
                &["linux/amd64/v2", "linux/amd64", "linux/386"],
                &[
                    "linux/amd64/v3",
                    "linux/amd64/v4",
                    "linux/arm/v7",
                    "linux/arm64",
                    "windows/amd64",
                ],
            ),
            ("linux/386", &["linux/386"], &["linux/amd64", "linux/arm/v7", "windows/amd64"]),
            (
                "windows/amd64",
                &["windows/amd64", "windows/386"],
                &["linux/amd64", "linux/arm64", "windows/arm"],
            ),
            (
                "linux/arm/v8",
                &["linux/arm/v8", "linux/arm", "linux/arm/v6", "linux/arm/v5"],
                &["linux/amd64", "linux/arm/v4", "linux/arm64", "windows/arm"],
            ),
            (
                "linux/arm/v6",
                &["linux/arm/v6", "linux/arm/v5"],
                &["linux/arm", "linux/arm/v4", "linux/arm/v8", "linux/arm64"],
            ),
            ("linux/arm/v5", &["linux/arm/v5"], &["linux/arm", "linux/arm/v4", "linux/arm/v6"]),
            ("linux/arm/v4", &["linux/arm/v4"], &["linux/arm", "linux/arm/v5", "linux/arm64"]),
            (
                "linux/arm64/v9",
                &[
                    "linux/arm64/v9",
                    "linux/arm64/v8.5",
                    "linux/arm64/v8.4",
                    "linux/arm64/v8.3",
                    "linux/arm64/v8.2",
                    "linux/arm64/v8.1",
                    "linux/arm64",
                    "linux/arm/v8",
                    "linux/arm/v7",
                    "linux/arm/v6",
                    "linux/arm/v5",
                ],
                &["linux/amd64", "linux/arm/v4", "windows/arm", "linux/arm64/v8.6"],
            ),
            (
                "linux/arm64/v8.1",
                &["linux/arm64/v8.1", "linux/arm64/v8", "linux/arm/v8", "linux/arm/v7"],
                &["linux/amd64", "linux/arm/v4", "linux/arm/v9", "linux/arm64/v9"],
            ),
            (
                "linux/arm64",
                &["linux/arm64", "linux/arm/v8", "linux/arm", "linux/arm/v6", "linux/arm/v5"],
                &["linux/amd64", "linux/arm/v4", "linux/arm/v9", "linux/arm64/v9", "windows/arm"],
            ),
            ("linux/s390x", &["linux/s390x"], &["linux/amd64", "unknown/unknown"]),
        ] {
            let ranks: Vec<_> =
                fitting.iter().map(|other| platform(wanted).rank(&platform(other))).collect();
            assert!(ranks.iter().all(Option::is_some) && ranks.is_sorted(), "{wanted}: {ranks:?}");
            assert_eq!(ranks[0], Some(0));
            for other in others {
                assert_eq!(platform(wanted).rank(&platform(other)), None, "{other} for {wanted}");
            }
        }
    }

    #[test]
    fn versions_of_windows() {
        for (wanted, there, fits) in [
            ("windows/amd64", "windows/amd64/10.0.17763.1", true),
            ("windows/amd64/10.0.17763", "windows/amd64", true),
            ("windows/amd64/10.0.17763", "windows/amd64/10.0.17763.6", true),
            ("windows/amd64/10.0.17763", "windows/amd64/10.0.20348", false),
        ] {
            let rank = platform(wanted).rank(&platform(there));
            assert_eq!(rank.is_some(), fits, "{there} for {wanted}");
        }
    }

    #[test]
    fn this_machine() {
        let host = Platform::host();
        assert_eq!(host.to_string().parse(), Ok(host.clone()));
        assert_eq!(host.rank(&host), Some(0));
    }
}
