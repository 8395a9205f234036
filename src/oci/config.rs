//! The image config (image-spec, config.md; Docker's is the same in what is read
//! here): what it says of the layers, and the platform.

use serde::Deserialize;

use super::platform::RawPlatform;
use super::{Digest, Platform};

/// Largest config read, in bytes. Real ones have some 10 kB.
pub const CONFIG_MAX: usize = 4 << 20;

/// Twice what any runtime can lay over each other.
const DIFF_IDS_MAX: usize = 1000;

#[derive(Debug)]
pub struct ImageConfig {
    /// The sha256 of each layer's tar stream, base first. `None` in a place: not
    /// a digest.
    pub diff_ids: Vec<Option<Digest>>,
    pub platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Document {
    rootfs: Option<RootFs>,
    // Not flattened: serde would keep all that is said besides.
    os: Option<String>,
    architecture: Option<String>,
    variant: Option<String>,
    #[serde(rename = "os.version")]
    os_version: Option<String>,
    #[serde(rename = "os.features")]
    os_features: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Option<Vec<String>>,
}

impl ImageConfig {
    /// `None`: this is no image's config, as with artifacts.
    pub fn parse(bytes: &[u8]) -> Option<ImageConfig> {
        let document: Document = serde_json::from_slice(bytes).ok()?;
        let diff_ids = document.rootfs?.diff_ids.unwrap_or_default();
        if diff_ids.len() > DIFF_IDS_MAX {
            return None;
        }
        let platform = RawPlatform {
            os: document.os,
            architecture: document.architecture,
            variant: document.variant,
            os_version: document.os_version,
            os_features: document.os_features,
        };
        Some(ImageConfig {
            diff_ids: diff_ids.iter().map(|text| text.parse().ok()).collect(),
            platform: platform.platform(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configs() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let text = format!(
            r#"{{"architecture":"arm","os":"linux","variant":"v6","config":{{"Env":[]}},
            "rootfs":{{"type":"layers","diff_ids":["{digest}","x"]}}}}"#
        );
        let config = ImageConfig::parse(text.as_bytes()).unwrap();
        assert_eq!(config.diff_ids, [digest.parse().ok(), None]);
        assert_eq!(config.platform, "linux/arm/v6".parse().ok());

        let config = ImageConfig::parse(br#"{"rootfs":{"diff_ids":null},"os":null}"#).unwrap();
        assert_eq!(config.diff_ids, []);
        assert_eq!(config.platform, None);

        let many = |n| format!(r#"{{"rootfs":{{"diff_ids":{:?}}}}}"#, vec![""; n]);
        let config = ImageConfig::parse(many(1000).as_bytes()).unwrap();
        assert_eq!(config.diff_ids, vec![None; 1000]);
        for (text, why) in [
            (many(1001).as_str(), "no image has so many layers"),
            ("{}", "an artifact's empty config"),
            ("[]", "no object"),
            ("", "nothing"),
            (r#"{"rootfs":{"diff_ids":[1]}}"#, "not text"),
        ] {
            assert!(ImageConfig::parse(text.as_bytes()).is_none(), "{why}");
        }
    }
}
