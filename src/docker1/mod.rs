//! Docker's first image format, in which an image is a chain: each image has an id, a JSON
//! document, one layer and a parent. [`to_manifest`] turns such chains into manifests, and
//! [`from_manifest`] manifests into such chains. Nothing here does I/O.

pub mod from_manifest;
pub mod to_manifest;

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

use crate::oci::{Algorithm, Digest};

/// Maximum number of images of a chain. Docker 1 stopped at 127.
pub const CHAIN_MAX: usize = 500;
/// Maximum size of an image's JSON document, in bytes.
pub const JSON_MAX: usize = 4 << 20;

/// A tar without members, compressed by gzip: the layer of an image that changes no file. The bytes
/// are Docker's own, because ids are made of their digest.
pub const EMPTY_LAYER: [u8; 32] = [
    0x1f, 0x8b, 8, 0, 0, 9, 0x6e, 0x88, 0, 0xff, 0x62, 0x18, 5, 0xa3, 0x60, 0x14, 0x8c, 0x58, 0, 8,
    0, 0, 0xff, 0xff, 0x2e, 0xaf, 0xb5, 0xef, 0, 4, 0, 0,
];

/// The digest of [`EMPTY_LAYER`].
pub fn empty_layer() -> Digest {
    Algorithm::Sha256.digest(&EMPTY_LAYER)
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{0:?} is not the id of an image, which has 64 lowercase hex digits")]
    Id(String),
    #[error("the image's JSON is not valid: {0}")]
    Json(String),
    #[error("the image's JSON has the id {found:?}, but the URL has {wanted}")]
    OtherId { found: String, wanted: ImageId },
    #[error("the image has more than {CHAIN_MAX} ancestors")]
    Depth,
    #[error("the JSON documents of the images together are longer than a config may be")]
    Size,
}

/// The id of an image: 256 bits that the client which made it has chosen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageId([u8; 32]);

impl ImageId {
    pub fn from_bytes(bytes: [u8; 32]) -> ImageId {
        ImageId(bytes)
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for ImageId {
    type Err = Error;

    fn from_str(s: &str) -> Result<ImageId, Error> {
        match format!("sha256:{s}").parse() {
            Ok(Digest::Sha256(bytes)) => Ok(ImageId(bytes)),
            _ => Err(Error::Id(s.chars().take(80).collect())),
        }
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Digest::Sha256(self.0).hex())
    }
}

impl fmt::Debug for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The place of a pushed image in its chain, as its JSON says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub id: ImageId,
    pub parent: Option<ImageId>,
}

impl Place {
    /// Checks the JSON that was pushed as image `wanted`.
    pub fn parse(json: &[u8], wanted: &ImageId) -> Result<Place, Error> {
        #[derive(Deserialize)]
        struct Document {
            id: Option<String>,
            parent: Option<String>,
        }
        let document: Document =
            serde_json::from_slice(json).map_err(|e| Error::Json(e.to_string()))?;
        let found = document.id.unwrap_or_default();
        if found.parse() != Ok(*wanted) {
            return Err(Error::OtherId {
                found: found.chars().take(80).collect(),
                wanted: *wanted,
            });
        }
        let parent = document.parent.filter(|parent| !parent.is_empty());
        Ok(Place { id: *wanted, parent: parent.map(|parent| parent.parse()).transpose()? })
    }
}

/// The checksum that clients send of an image: over its JSON, a line feed and the layer, both as
/// they were sent.
pub fn checksum(json: &[u8]) -> crate::oci::Hasher {
    let mut hasher = Algorithm::Sha256.hasher();
    hasher.update(json);
    hasher.update(b"\n");
    hasher
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_empty_layer_is_dockers() {
        assert_eq!(
            empty_layer().to_string(),
            "sha256:a3ed95caeb02ffe68cdd9fd84406680ae93d633cb16422d00e8a7c22955b46d4"
        );
    }

    #[test]
    fn places() {
        let [a, b] = ["0a", "0b"].map(|pair| pair.repeat(32));
        let id: ImageId = a.parse().unwrap();
        assert_eq!(id.to_string(), a);
        let parse = |json: &str| Place::parse(json.as_bytes(), &id);
        let place = |parent| Place { id, parent };
        for (json, want) in [
            (format!(r#"{{"id":"{a}"}}"#), place(None)),
            (format!(r#"{{"id":"{a}","parent":""}}"#), place(None)),
            (format!(r#"{{"id":"{a}","parent":null,"x":[{{}}]}}"#), place(None)),
            (format!(r#"{{"parent":"{b}","id":"{a}"}}"#), place(b.parse().ok())),
        ] {
            assert_eq!(parse(&json), Ok(want), "{json}");
        }
        for (json, why) in [
            (String::new(), "nothing"),
            ("[]".into(), "no object"),
            ("{}".into(), "no id"),
            (format!(r#"{{"id":"{b}"}}"#), "another id"),
            (format!(r#"{{"id":"{}"}}"#, a.to_uppercase()), "uppercase"),
            (format!(r#"{{"id":"{a}","parent":"../{b}"}}"#), "no id for a parent"),
            (format!(r#"{{"id":"{a}"}}x"#), "more than an object"),
        ] {
            assert!(parse(&json).is_err(), "{why}");
        }
        for id in [&a[1..], &format!("{a}0"), &a.to_uppercase(), "", "../x"] {
            assert!(id.parse::<ImageId>().is_err(), "{id}");
        }
    }
}
