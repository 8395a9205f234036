//! What lists and pages tell of a stored manifest. As lenient as other readers of stored documents:
//! what cannot be understood is left out.

use serde::Deserialize;

use super::manifest::stored_media_type;
use super::platform::RawPlatform;
use super::{Digest, Platform};

/// Layers and manifests that a summary names; more are counted only.
const PARTS_MAX: usize = 1000;
/// Bytes of a text that is kept.
const TEXT_MAX: usize = 256;

/// A manifest or image index, in short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    pub media_type: String,
    pub kind: ManifestKind,
    /// Bytes of the manifest itself.
    pub own_size: u64,
    /// What it refers to, if it is a signature, an SBOM or the like.
    pub subject: Option<Digest>,
    /// Bytes that a client pulls: the manifest, its config and its layers. Of an index its own.
    pub size: u64,
    /// The first of the layers of an image or blobs of an artifact, base first, and their bytes.
    pub layers: Vec<(Digest, u64)>,
    pub layers_count: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ManifestKind {
    Image {
        config: Digest,
    },
    /// The first of its manifests.
    Index {
        children: Vec<(Digest, Option<Platform>)>,
        /// Its `artifactType`.
        artifact_type: Option<String>,
    },
    /// Its `artifactType`, or the media type of its config.
    Artifact {
        artifact_type: String,
    },
    /// It cannot be understood.
    Unknown,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    artifact_type: Option<String>,
    config: Option<Part>,
    layers: Option<Vec<Part>>,
    manifests: Option<Vec<Part>>,
    subject: Option<Part>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Part {
    media_type: Option<String>,
    digest: Option<String>,
    size: Option<u64>,
    platform: Option<RawPlatform>,
}

impl Part {
    fn digest(&self) -> Option<Digest> {
        self.digest.as_deref()?.parse().ok()
    }
}

fn cut(text: String) -> String {
    match text.char_indices().nth(TEXT_MAX) {
        Some((end, _)) => text[..end].to_owned(),
        None => text,
    }
}

impl Summary {
    /// Of a manifest's bytes. `is_artifact`: it is one, whatever its config says.
    pub fn parse(bytes: &[u8], is_artifact: bool) -> Summary {
        let mut summary = Summary {
            media_type: cut(stored_media_type(bytes)),
            kind: ManifestKind::Unknown,
            own_size: bytes.len() as u64,
            subject: None,
            size: bytes.len() as u64,
            layers: Vec::new(),
            layers_count: 0,
        };
        let Ok(document) = serde_json::from_slice::<Document>(bytes) else {
            return summary;
        };
        let artifact_type = document.artifact_type.filter(|text| !text.is_empty()).map(cut);
        summary.subject = document.subject.as_ref().and_then(Part::digest);
        if let Some(manifests) = document.manifests {
            let children = manifests.iter().take(PARTS_MAX).filter_map(|part| {
                let platform = part.platform.as_ref().and_then(RawPlatform::platform);
                Some((part.digest()?, platform))
            });
            let children = children.collect();
            summary.kind = ManifestKind::Index { children, artifact_type };
            return summary;
        }
        let layers = document.layers.unwrap_or_default();
        let parts = layers.iter().chain(&document.config);
        let sizes = parts.map(|part| part.size.unwrap_or(0));
        summary.size = sizes.fold(summary.size, u64::saturating_add);
        summary.layers_count = layers.len();
        let named = layers.iter().take(PARTS_MAX);
        summary.layers =
            named.filter_map(|part| Some((part.digest()?, part.size.unwrap_or(0)))).collect();
        let Some(config) = document.config else {
            return summary;
        };
        summary.kind = match config.digest() {
            _ if is_artifact => ManifestKind::Artifact {
                artifact_type: artifact_type
                    .or_else(|| config.media_type.map(cut))
                    .unwrap_or_default(),
            },
            Some(config) => ManifestKind::Image { config },
            None => ManifestKind::Unknown,
        };
        summary
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n: u8) -> Digest {
        format!("sha256:{}", format!("{n:02x}").repeat(32)).parse().unwrap()
    }

    #[test]
    fn summaries() {
        let part = |n: u8, size: u64| format!(r#"{{"digest":"{}","size":{size}}}"#, digest(n));
        let image = format!(
            r#"{{"schemaVersion":2,"config":{},"layers":[{},{}],"subject":{}}}"#,
            part(1, 10),
            part(2, 200),
            part(3, 3000),
            part(4, 1)
        );
        let summary = Summary::parse(image.as_bytes(), false);
        assert_eq!(summary.kind, ManifestKind::Image { config: digest(1) });
        assert_eq!(summary.size, 3210 + image.len() as u64);
        assert_eq!(summary.layers, [(digest(2), 200), (digest(3), 3000)]);
        assert_eq!(summary.subject, Some(digest(4)));

        let artifact = image.replace("{\"schema", "{\"artifactType\":\"a/b\",\"schema");
        let summary = Summary::parse(artifact.as_bytes(), true);
        assert_eq!(summary.kind, ManifestKind::Artifact { artifact_type: "a/b".to_owned() });

        let index = format!(
            r#"{{"manifests":[{{"digest":"{}","size":1,"platform":{{"os":"linux","architecture":"amd64"}}}},{{"digest":"x"}}]}}"#,
            digest(5)
        );
        let children = vec![(digest(5), "linux/amd64".parse().ok())];
        let want = ManifestKind::Index { children, artifact_type: None };
        assert_eq!(Summary::parse(index.as_bytes(), false).kind, want);

        for bytes in ["", "[]", "{}", r#"{"layers":[{"size":-1}]}"#, r#"{"config":{}}"#] {
            let summary = Summary::parse(bytes.as_bytes(), false);
            assert_eq!(summary.kind, ManifestKind::Unknown, "{bytes}");
        }
    }
}
