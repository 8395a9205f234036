//! Manifests and indexes: what the registry must know of a document before it
//! accepts it, and the descriptor that other documents use for it. Sources:
//! image-spec manifest.md, image-index.md, descriptor.md; Docker's
//! "Image Manifest V 2, Schema 2". The bytes themselves are kept as sent.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::media_type::{is_non_distributable, is_schema1};
use super::platform::RawPlatform;
use super::{Digest, DigestError, MediaType, Platform};

/// Largest manifest taken, in bytes (distribution-spec, "Pushing Manifests").
pub const MANIFEST_MAX: usize = 4 << 20;

#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("the manifest is not valid JSON of its kind: {0}")]
    Json(#[from] serde_json::Error),
    #[error(
        "Docker schema 1 manifests are not accepted: push with Docker 1.10 or newer, or convert the image with \
         `skopeo copy --format v2s2`"
    )]
    Schema1,
    #[error("schemaVersion is {0}, want 2")]
    SchemaVersion(i64),
    #[error(
        "manifest type {0:?} is not supported: use an OCI image manifest or index, or Docker's schema 2"
    )]
    UnknownType(String),
    #[error("Content-Type is {header:?} but the manifest is {body:?}")]
    TypeMismatch { header: String, body: String },
    #[error("the document is both a manifest (config, layers) and an index (manifests)")]
    Ambiguous,
    #[error("the manifest has no {0}")]
    Missing(&'static str),
    #[error("in {field}: {cause}")]
    Digest { field: &'static str, cause: DigestError },
    #[error("in {field}: size {size} is negative")]
    Size { field: &'static str, size: i64 },
}

/// A descriptor, as this registry writes it in referrers listings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    pub media_type: &'static str,
    pub size: u64,
    #[serde(serialize_with = "serialize_digest")]
    pub digest: Digest,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

fn serialize_digest<S: serde::Serializer>(
    digest: &Digest,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(digest)
}

/// What a pushed document says, checked.
#[derive(Debug)]
pub struct Manifest {
    pub media_type: MediaType,
    /// Blobs that the repository must hold: the config and every layer that
    /// is distributable. The children of an index need not be there.
    pub blobs: Vec<Digest>,
    pub subject: Option<Digest>,
    /// The manifest's own artifactType, or its config's media type. An index
    /// without one has none.
    pub artifact_type: Option<String>,
    pub annotations: BTreeMap<String, String>,
}

/// The document as JSON has it. `null` counts as absent, as in Go's decoder,
/// which wrote most of the manifests there are.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: Option<i64>,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
    manifests: Option<Vec<RawDescriptor>>,
    subject: Option<RawDescriptor>,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    media_type: Option<String>,
    digest: Option<String>,
    size: Option<i64>,
}

impl RawDescriptor {
    fn digest(&self, field: &'static str) -> Result<Digest, ManifestError> {
        let text = self.digest.as_deref().unwrap_or_default();
        let digest = text.parse().map_err(|cause| ManifestError::Digest { field, cause })?;
        match self.size {
            Some(size) if size < 0 => Err(ManifestError::Size { field, size }),
            Some(_) | None => Ok(digest),
        }
    }
}

impl Manifest {
    /// Checks a document. `content_type` is the request's, parameters and all;
    /// without it the document's own `mediaType` or shape decides.
    pub fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<Manifest, ManifestError> {
        let document: Document = serde_json::from_slice(bytes)?;
        let header = content_type.map(without_parameters).filter(|s| !s.is_empty());
        let declared = document.media_type.as_deref().filter(|s| !s.is_empty());

        if [header, declared].into_iter().flatten().any(is_schema1)
            || document.schema_version == Some(1)
        {
            return Err(ManifestError::Schema1);
        }
        if let (Some(header), Some(body)) = (header, declared)
            && header != body
        {
            return Err(ManifestError::TypeMismatch {
                header: header.to_owned(),
                body: body.to_owned(),
            });
        }
        // A document that two readers could take for two different things
        // (CVE-2021-41190).
        if document.manifests.is_some() && (document.config.is_some() || document.layers.is_some())
        {
            return Err(ManifestError::Ambiguous);
        }
        let shape =
            if document.manifests.is_some() { MediaType::OciIndex } else { MediaType::OciManifest };
        let media_type = match declared.or(header) {
            Some(name) => MediaType::from_name(name)
                .ok_or_else(|| ManifestError::UnknownType(name.to_owned()))?,
            None => shape,
        };
        match document.schema_version {
            Some(2) => {}
            Some(other) => return Err(ManifestError::SchemaVersion(other)),
            None => return Err(ManifestError::Missing("schemaVersion")),
        }
        match media_type {
            // What is stored is only the bytes: a Docker type that they do not
            // carry would be lost, and the next pull would see another type.
            MediaType::DockerManifest | MediaType::DockerList if declared.is_none() => {
                return Err(ManifestError::Missing("mediaType"));
            }
            _ => {}
        }

        let subject = document.subject.as_ref().map(|s| s.digest("subject")).transpose()?;
        let artifact_type = document.artifact_type.filter(|s| !s.is_empty());
        let annotations = document.annotations.unwrap_or_default();
        if media_type.is_index() {
            let manifests = document.manifests.ok_or(ManifestError::Missing("manifests"))?;
            for child in &manifests {
                child.digest("manifests")?;
            }
            return Ok(Manifest {
                media_type,
                blobs: Vec::new(),
                subject,
                artifact_type,
                annotations,
            });
        }
        if document.manifests.is_some() {
            return Err(ManifestError::Ambiguous);
        }
        let config = document.config.ok_or(ManifestError::Missing("config"))?;
        let mut blobs = vec![config.digest("config")?];
        for layer in document.layers.iter().flatten() {
            let digest = layer.digest("layers")?;
            if !layer.media_type.as_deref().is_some_and(is_non_distributable) {
                blobs.push(digest);
            }
        }
        let artifact_type = artifact_type.or(config.media_type).filter(|s| !s.is_empty());
        Ok(Manifest { media_type, blobs, subject, artifact_type, annotations })
    }

    /// The descriptor under which a referrers listing shows this manifest.
    pub fn into_descriptor(self, digest: Digest, size: u64) -> Descriptor {
        Descriptor {
            media_type: self.media_type.as_str(),
            size,
            digest,
            artifact_type: self.artifact_type,
            annotations: self.annotations,
        }
    }
}

/// What a stored document is made of, for readers of the image. As lenient with
/// what other servers stored as [`stored_media_type`] is.
#[derive(Debug, PartialEq, Eq)]
pub enum Contents {
    Image {
        config: Digest,
        /// Base first.
        layers: Vec<LayerDescriptor>,
    },
    Index {
        children: Vec<Child>,
    },
}

#[derive(Debug, PartialEq, Eq)]
pub struct LayerDescriptor {
    pub digest: Digest,
    /// Fetched from elsewhere, and seldom here.
    pub foreign: bool,
}

/// A manifest that an index names.
#[derive(Debug, PartialEq, Eq)]
pub struct Child {
    pub digest: Digest,
    pub platform: Option<Platform>,
}

impl Contents {
    /// An index has none.
    pub fn config(&self) -> Option<&Digest> {
        match self {
            Contents::Image { config, .. } => Some(config),
            Contents::Index { .. } => None,
        }
    }

    /// The layers of an image, base first, or the manifests of an index.
    pub fn holds(&self) -> Vec<Digest> {
        match self {
            Contents::Image { layers, .. } => layers.iter().map(|layer| layer.digest).collect(),
            Contents::Index { children } => children.iter().map(|child| child.digest).collect(),
        }
    }

    pub fn parse(bytes: &[u8]) -> Result<Contents, ManifestError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Stored {
            schema_version: Option<i64>,
            config: Option<RawDescriptor>,
            layers: Option<Vec<RawDescriptor>>,
            manifests: Option<Vec<RawChild>>,
        }
        // Nothing is flattened: serde would keep all that is said besides.
        #[derive(Deserialize)]
        struct RawChild {
            digest: Option<String>,
            size: Option<i64>,
            platform: Option<RawPlatform>,
        }
        let document: Stored = serde_json::from_slice(bytes)?;
        if document.schema_version == Some(1) {
            return Err(ManifestError::Schema1);
        }
        match (document.config, document.manifests) {
            (None, None) => Err(ManifestError::Missing("config")),
            (Some(_), Some(_)) => Err(ManifestError::Ambiguous),
            (None, Some(manifests)) => {
                let child = |child: RawChild| {
                    let descriptor =
                        RawDescriptor { media_type: None, digest: child.digest, size: child.size };
                    Ok(Child {
                        digest: descriptor.digest("manifests")?,
                        platform: child.platform.as_ref().and_then(RawPlatform::platform),
                    })
                };
                let children: Result<_, ManifestError> = manifests.into_iter().map(child).collect();
                Ok(Contents::Index { children: children? })
            }
            (Some(config), None) => {
                let layer = |layer: &RawDescriptor| {
                    Ok(LayerDescriptor {
                        digest: layer.digest("layers")?,
                        foreign: layer.media_type.as_deref().is_some_and(is_non_distributable),
                    })
                };
                let layers: Result<_, ManifestError> =
                    document.layers.iter().flatten().map(layer).collect();
                Ok(Contents::Image { config: config.digest("config")?, layers: layers? })
            }
        }
    }
}

/// The media type of a stored document. Stores of other servers hold only the
/// bytes too, among them schema 1 manifests, so this is lenient: it answers
/// what distribution would.
pub fn stored_media_type(bytes: &[u8]) -> String {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Peek {
        schema_version: Option<i64>,
        media_type: Option<String>,
        manifests: Option<serde::de::IgnoredAny>,
    }
    match serde_json::from_slice::<Peek>(bytes) {
        // A header value is made of it, so nothing but visible ASCII.
        Ok(Peek { media_type: Some(name), .. })
            if !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic()) =>
        {
            name
        }
        Ok(Peek { schema_version: Some(1), .. }) => {
            "application/vnd.docker.distribution.manifest.v1+prettyjws".to_owned()
        }
        Ok(Peek { manifests: Some(_), .. }) => MediaType::OciIndex.as_str().to_owned(),
        _ => MediaType::OciManifest.as_str().to_owned(),
    }
}

/// `text/plain; charset=utf-8` without what follows the type.
fn without_parameters(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OCI: &str = "application/vnd.oci.image.manifest.v1+json";
    const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";

    fn digest(n: u8) -> String {
        format!("sha256:{}", format!("{n:02x}").repeat(32))
    }

    fn descriptor(n: u8, media_type: &str) -> String {
        format!(r#"{{"mediaType":"{media_type}","digest":"{}","size":{n}}}"#, digest(n))
    }

    fn image(extra: &str) -> String {
        let config = descriptor(1, "application/vnd.example+json");
        let layer = descriptor(2, "application/vnd.oci.image.layer.v1.tar");
        let foreign = descriptor(3, "application/vnd.oci.image.layer.nondistributable.v1.tar");
        format!(r#"{{"schemaVersion":2,{extra}"config":{config},"layers":[{layer},{foreign}]}}"#)
    }

    #[test]
    fn image_manifest() {
        let text = image(&format!(
            r#""subject":{},"annotations":{{"k":"v"}},"custom":[1],"#,
            descriptor(9, "x")
        ));
        let manifest =
            Manifest::parse(text.as_bytes(), Some(&format!("{OCI}; charset=utf-8"))).unwrap();
        assert_eq!(manifest.media_type, MediaType::OciManifest);
        assert_eq!(
            manifest.blobs,
            [digest(1).parse().unwrap(), digest(2).parse().unwrap()],
            "no foreign layer"
        );
        assert_eq!(manifest.subject, Some(digest(9).parse().unwrap()));
        assert_eq!(
            manifest.artifact_type.as_deref(),
            Some("application/vnd.example+json"),
            "the config's type"
        );
        assert_eq!(manifest.annotations["k"], "v");
    }

    #[test]
    fn index_needs_no_children() {
        let text = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, descriptor(1, OCI));
        let index = Manifest::parse(text.as_bytes(), None).unwrap();
        assert_eq!(index.media_type, MediaType::OciIndex);
        assert_eq!(index.blobs, []);
        assert_eq!(index.artifact_type, None);
    }

    #[test]
    fn refused() {
        let index_and_layers =
            format!(r#"{{"schemaVersion":2,"manifests":[],"layers":[{}]}}"#, descriptor(1, "x"));
        let typed = |t: &str| image(&format!(r#""mediaType":"{t}","#));
        for (body, header, want, why) in [
            ("".to_owned(), OCI, "valid JSON", "empty"),
            ("[]".to_owned(), OCI, "valid JSON", "not an object"),
            ("[".repeat(100_000), OCI, "valid JSON", "depth"),
            (index_and_layers, INDEX, "both", "two readings"),
            (typed(OCI), DOCKER, "Content-Type", "header and body differ"),
            (typed(DOCKER), OCI, "Content-Type", "header and body differ"),
            (typed(INDEX), INDEX, "no manifests", "an index without manifests"),
            (image(""), DOCKER, "no mediaType", "the type would be lost"),
            (typed("text/plain"), "text/plain", "not supported", "foreign type"),
            (r#"{"schemaVersion":1}"#.to_owned(), "", "schema 1", "schema 1"),
            (image("").replace(":2,", ":3,"), OCI, "schemaVersion is 3", "version"),
            (image("").replace(r#""schemaVersion":2,"#, ""), OCI, "no schemaVersion", "no version"),
            (r#"{"schemaVersion":2,"layers":[]}"#.to_owned(), OCI, "no config", "no config"),
            (image("").replace("sha256:02", "sha256:zz"), OCI, "in layers", "bad digest"),
            (image("").replace(r#""size":2"#, r#""size":-1"#), OCI, "negative", "bad size"),
            (image(r#""layers":[],"#), OCI, "duplicate", "one key twice"),
        ] {
            let error = Manifest::parse(body.as_bytes(), Some(header)).expect_err(why).to_string();
            assert!(error.contains(want), "{why}: {error}");
        }
    }

    #[test]
    fn contents() {
        let parsed = |n| digest(n).parse().unwrap();
        let contents = Contents::parse(image("").as_bytes()).unwrap();
        let layer = |n, foreign| LayerDescriptor { digest: parsed(n), foreign };
        let want =
            Contents::Image { config: parsed(1), layers: vec![layer(2, false), layer(3, true)] };
        assert_eq!(contents, want);

        let text = format!(
            r#"{{"manifests":[{{"digest":"{}","size":1,"platform":{{"os":"linux","architecture":"arm64","variant":"v8"}}}},
            {{"digest":"{}","size":2,"platform":null}}]}}"#,
            digest(4),
            digest(5)
        );
        let contents = Contents::parse(text.as_bytes()).unwrap();
        let child = |n, platform: Option<&str>| Child {
            digest: parsed(n),
            platform: platform.map(|text| text.parse().unwrap()),
        };
        let children = vec![child(4, Some("linux/arm64")), child(5, None)];
        assert_eq!(contents, Contents::Index { children });

        for (text, want) in [
            ("{}", "no config"),
            (r#"{"schemaVersion":1,"config":{}}"#, "schema 1"),
            (r#"{"config":{},"manifests":[]}"#, "both"),
            (r#"{"config":{}}"#, "in config"),
            (r#"{"manifests":[{"digest":"x"}]}"#, "in manifests"),
        ] {
            let error = Contents::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(want), "{text}: {error}");
        }
    }

    #[test]
    fn type_of_stored_bytes() {
        for (body, want) in [
            (format!(r#"{{"mediaType":"{DOCKER}"}}"#), DOCKER),
            (r#"{"manifests":[]}"#.to_owned(), INDEX),
            (r#"{"schemaVersion":2}"#.to_owned(), OCI),
            (r#"{"mediaType":"a\r\nb: c"}"#.to_owned(), OCI),
            (
                r#"{"schemaVersion":1}"#.to_owned(),
                "application/vnd.docker.distribution.manifest.v1+prettyjws",
            ),
            ("no json".to_owned(), OCI),
        ] {
            assert_eq!(stored_media_type(body.as_bytes()), want);
        }
    }
}
