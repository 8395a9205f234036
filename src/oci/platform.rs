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
    /// What the operating system must have besides, in order.
    os_features: Vec<String>,
}

/// Servers with Windows of such a build run what was made for their predecessor, and for what came
/// between them; those before the first one run nothing but their own.
const LONG_TERM: [u16; 2] = [20348, 26100];

/// Whether a version of Windows runs what was made for another. One that says too little runs all.
fn windows_runs(host: &str, made_for: &str) -> bool {
    let parse = |version: &str| -> Option<(u8, u8, u16)> {
        let mut parts = version.split('.');
        let mut next = || parts.next();
        Some((next()?.parse().ok()?, next()?.parse().ok()?, next()?.parse().ok()?))
    };
    let Some((major, minor, build)) = parse(host).filter(|_| !made_for.is_empty()) else {
        return true;
    };
    let Some((_, _, other)) = parse(made_for).filter(|other| (other.0, other.1) == (major, minor))
    else {
        return false;
    };
    let oldest = match build < LONG_TERM[0] {
        true => build,
        false => LONG_TERM.into_iter().rev().find(|&b| b < build).unwrap_or(LONG_TERM[0]),
    };
    (oldest..=build).contains(&other)
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
            ("arm64" | "aarch64", "9" | "9.0" | "v9" | "v9.0") => ("arm64", "v9"),
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
            os_features: Vec::new(),
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

    /// The same with features of the operating system, as `os.features` has them.
    pub fn with_os_features(mut self, features: impl IntoIterator<Item = String>) -> Platform {
        self.os_features = features.into_iter().filter(|feature| !feature.is_empty()).collect();
        self.os_features.sort_unstable();
        self.os_features.dedup();
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
    /// runs what is made for its predecessors, the nearest one best; what needs more of the features
    /// that are here is better. Nothing is better than exactly what was asked for, so that each
    /// image can be: containerd does not tell it from others that would do.
    pub fn rank(&self, other: &Platform) -> Option<u32> {
        const FEATURES: usize = 64;
        if self == other {
            return Some(0);
        }
        let is_windows = self.os == "windows";
        // Every Windows that runs containers has this one, whatever it says.
        let has = |feature: &String| {
            self.os_features.contains(feature) || (is_windows && feature == "win32k")
        };
        if self.os != other.os
            || !other.os_features.iter().all(has)
            || (is_windows && !windows_runs(&self.os_version, &other.os_version))
        {
            return None;
        }
        let made_for = (other.architecture.as_str(), other.variant.as_str());
        let runs = self.runs();
        let place = runs.iter().position(|(architecture, variant)| {
            (architecture.as_str(), variant.as_str()) == made_for
        })?;
        let lacking = FEATURES.saturating_sub(other.os_features.len());
        u32::try_from(1 + place * (FEATURES + 1) + lacking).ok()
    }

    /// Architectures and variants that run here, the best first.
    fn runs(&self) -> Vec<(String, String)> {
        let name = |architecture: &str, variant: String| {
            let name = Platform::new(&self.os, architecture, &variant);
            (name.architecture, name.variant)
        };
        let mut runs = vec![(self.architecture.clone(), self.variant.clone())];
        let (major, minor) = self.variant.split_once('.').unwrap_or((&self.variant, "0"));
        let number = |text: &str| text.strip_prefix('v').unwrap_or(text).parse::<u32>().ok();
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

    /// Takes our spelling, and containerd's: `windows(10.0.20348+win32k)/amd64`.
    fn from_str(s: &str) -> Result<Platform, PlatformError> {
        let word = |part: &str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        };
        let cut = |text| match str::split_once(text, '+') {
            Some((before, features)) => (before, features.split('+').collect()),
            None => (text, Vec::new()),
        };
        let theirs = s.split_once('(').filter(|(os, _)| !os.contains('/'));
        let theirs = theirs.and_then(|(os, rest)| Some((os, rest.split_once(')')?)));
        let (plain, mut version, features) = match theirs {
            Some((os, (options, rest))) => {
                let (version, features) = cut(options);
                (format!("{os}{rest}"), version, features)
            }
            None => {
                let (plain, features) = cut(s);
                (plain.to_owned(), "", features)
            }
        };
        let mut parts: Vec<&str> = plain.split('/').collect();
        let is_windows = parts[0].eq_ignore_ascii_case("windows");
        let is_version = |last: &&str| {
            last.contains('.') && last.bytes().all(|b| b.is_ascii_digit() || b == b'.')
        };
        if is_windows
            && version.is_empty()
            && parts.len() > 2
            && parts.last().is_some_and(is_version)
        {
            version = parts.pop().unwrap_or_default();
        }
        let versions = [version].into_iter().filter(|version| !version.is_empty());
        let mut words = parts.iter().chain(&features).copied().chain(versions);
        if !words.all(word) || !(2..=3).contains(&parts.len()) {
            return Err(PlatformError(s.chars().take(EXCERPT).collect()));
        }
        let variant = parts.get(2).copied().unwrap_or_default();
        let platform = Platform::new(parts[0], parts[1], variant).with_os_version(version);
        Ok(platform.with_os_features(features.into_iter().map(str::to_owned)))
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        let words = [&self.variant, &self.os_version].into_iter().filter(|word| !word.is_empty());
        words.into_iter().try_for_each(|word| write!(f, "/{word}"))?;
        self.os_features.iter().try_for_each(|feature| write!(f, "+{feature}"))
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
    #[serde(rename = "os.features")]
    pub(super) os_features: Option<Vec<String>>,
}

impl RawPlatform {
    /// `None`: it says nothing. Attestations call theirs "unknown", which is one
    /// that nothing matches.
    pub(super) fn platform(&self) -> Option<Platform> {
        let text = |s: &Option<String>| s.as_deref().unwrap_or_default().to_owned();
        let (os, architecture) = (text(&self.os), text(&self.architecture));
        (!os.is_empty() && !architecture.is_empty()).then(|| {
            let platform = Platform::new(&os, &architecture, &text(&self.variant));
            let features = self.os_features.clone().unwrap_or_default();
            platform.with_os_version(&text(&self.os_version)).with_os_features(features)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

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
            ("windows(10.0.20348+win32k)/amd64", "windows/amd64/10.0.20348+win32k"),
            ("Windows/x86_64/v3/10.0.20348", "windows/amd64/v3/10.0.20348"),
            ("linux(+b+a)/arm64/v8", "linux/arm64+a+b"),
            ("linux/amd64/v2+b-c", "linux/amd64/v2+b-c"),
            ("freebsd(14.1)/amd64", "freebsd/amd64"),
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
        for text in [
            "",
            "linux",
            "linux/",
            "/amd64",
            "a/b/c/d",
            "linux/a b",
            "a//b",
            "linux/a+",
            "linux/a+b++c",
            "+a",
            "linux(+a/amd64",
            "linux(+)a)/amd64",
            "windows(/)/amd64",
            "()/a",
            "linux(+)/amd64",
            "linux/amd64(1)",
        ] {
            assert!(text.parse::<Platform>().is_err(), "{text:?}");
        }
    }

    /// What containerd's `platforms.Only` matches, the best first: see the file.
    #[test]
    fn what_runs_where() {
        let table = include_str!("platforms.txt").lines().filter(|line| !line.starts_with('#'));
        let rows: Vec<(&str, Vec<Vec<&str>>)> = table
            .map(|line| {
                let (wanted, groups) = line.split_once(": ").unwrap();
                let words = |group: &'static str| group.split_whitespace().collect();
                (wanted, groups.split(" > ").map(words).collect())
            })
            .collect();
        assert!(rows.len() > 60);
        for (wanted, want) in &rows {
            let wanted = platform(wanted);
            // Nothing is better here than what was asked for, so something else is.
            let mut more = wanted.clone();
            more.os_features.push("~".to_owned());
            let rank = |other: &Platform| match wanted.rank(other) {
                Some(0) => more.rank(other),
                rank => rank,
            };
            let mut found: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
            for (other, _) in &rows {
                let other_platform = platform(other);
                assert_eq!(wanted.rank(&other_platform) == Some(0), wanted == other_platform);
                if let Some(rank) = rank(&other_platform) {
                    found.entry(rank).or_default().push(other);
                }
            }
            assert_eq!(found.into_values().collect::<Vec<_>>(), *want, "{wanted}");
        }
    }

    #[test]
    fn this_machine() {
        let host = Platform::host();
        assert_eq!(host.to_string().parse(), Ok(host.clone()));
        assert_eq!(host.rank(&host), Some(0));
    }
}
