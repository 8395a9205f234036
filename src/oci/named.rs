//! What a stored document keeps in the store.

use super::{Contents, Digest, Manifest, ManifestError};

/// What a manifest names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// Blobs, and the manifests of an index. Some may be named several times.
    pub digests: Vec<Digest>,
    pub subject: Option<Digest>,
}

impl Named {
    /// Fails if the bytes are not JSON.
    pub fn parse(bytes: &[u8]) -> Result<Named, ManifestError> {
        let digests = match Contents::parse(bytes) {
            Ok(contents) => {
                contents.config().copied().into_iter().chain(contents.holds()).collect()
            }
            // A document of another kind, such as Docker's schema 1: whatever looks like a digest
            // may be a blob that it needs.
            Err(_) => {
                let mut found = Vec::new();
                digests_in(&serde_json::from_slice(bytes)?, &mut found);
                found
            }
        };
        let subject = Manifest::parse(bytes, None).ok().and_then(|manifest| manifest.subject);
        Ok(Named { digests, subject })
    }
}

/// All strings of a document that are digests.
fn digests_in(document: &serde_json::Value, found: &mut Vec<Digest>) {
    match document {
        serde_json::Value::String(text) => found.extend(text.parse::<Digest>().ok()),
        serde_json::Value::Array(items) => items.iter().for_each(|item| digests_in(item, found)),
        serde_json::Value::Object(members) => {
            members.values().for_each(|member| digests_in(member, found));
        }
        _ => {}
    }
}
