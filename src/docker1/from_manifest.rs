//! The chain of images that a manifest is shown as, so that clients of the first API can pull it.
//! Each entry of the config's history is an image. Its id is made of its layer's digest and its
//! parent's id, and the topmost id of the config as well: the way Docker made them for schema 1
//! manifests (distribution, `manifest/schema1`).

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{CHAIN_MAX, Error, ImageId, empty_layer};
use crate::oci::config::CONFIG_MAX;
use crate::oci::{Algorithm, Digest};

/// Go's zero time, for clients of 2014 where no time is known.
const NO_TIME: &str = "0001-01-01T00:00:00Z";

/// An image of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub id: ImageId,
    /// The digest of its layer. `None`: the image changes nothing.
    pub layer: Option<Digest>,
    /// How many of the manifest's layers it consists of, with its ancestors.
    pub layers: usize,
}

/// A chain, base first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain(pub Vec<Link>);

#[derive(Default, Deserialize)]
struct History {
    created: Option<String>,
    author: Option<String>,
    created_by: Option<String>,
    comment: Option<String>,
    empty_layer: Option<bool>,
}

impl History {
    fn is_empty(&self) -> bool {
        self.empty_layer == Some(true)
    }
}

/// The config's history. A history that does not fit the layers is replaced by an entry for each
/// layer. `None`: there is no chain for such a config.
fn history(config: &[u8], layers: usize) -> Option<Vec<History>> {
    #[derive(Deserialize)]
    struct Document {
        rootfs: Option<serde::de::IgnoredAny>,
        created: Option<String>,
        history: Option<Vec<History>>,
    }
    if config.len() > CONFIG_MAX {
        return None;
    }
    let document: Document = serde_json::from_slice(config).ok()?;
    // The config of an artifact has no `rootfs`.
    document.rootfs?;
    let mut history = document.history.unwrap_or_default();
    if history.iter().filter(|entry| !entry.is_empty()).count() != layers {
        history = Vec::new();
        history.resize_with(layers, || History {
            created: document.created.clone(),
            ..History::default()
        });
    }
    (1..=CHAIN_MAX).contains(&history.len()).then_some(history)
}

impl Chain {
    /// The chain for an image of these layers. `None`: it cannot be shown as one, because it is an
    /// artifact.
    pub fn new(config: &[u8], layers: &[Digest]) -> Option<Chain> {
        let history = history(config, layers.len())?;
        let (mut rest, mut parent, mut links) = (layers.iter(), String::new(), Vec::new());
        for (at, entry) in history.iter().enumerate() {
            let layer = if entry.is_empty() { None } else { Some(*rest.next()?) };
            let mut hasher = Algorithm::Sha256.hasher();
            hasher.update(layer.unwrap_or_else(empty_layer).hex().as_bytes());
            hasher.update(b" ");
            hasher.update(parent.as_bytes());
            if at + 1 == history.len() {
                hasher.update(b" ");
                hasher.update(config);
            }
            let Digest::Sha256(id) = hasher.finish() else {
                return None;
            };
            let id = ImageId::from_bytes(id);
            links.push(Link { id, layer, layers: layers.len() - rest.len() });
            parent = id.to_string();
        }
        Some(Chain(links))
    }

    pub fn top(&self) -> &Link {
        self.0.last().expect("a chain is made of one link at least")
    }

    /// Where in the chain an image is.
    pub fn position(&self, id: &ImageId) -> Option<usize> {
        self.0.iter().position(|link| link.id == *id)
    }

    /// The ids of an image and its ancestors, its own first.
    pub fn ancestry(&self, at: usize) -> Vec<ImageId> {
        self.0[..=at].iter().rev().map(|link| link.id).collect()
    }

    /// The JSON of the image `at` a place of the chain. `config` is what the chain was made of. It
    /// says `Size` only where nothing was changed, because other sizes are known only when the
    /// layers were read.
    pub fn json(&self, at: usize, config: &[u8]) -> Result<Vec<u8>, Error> {
        #[derive(Serialize)]
        struct Image<'a> {
            id: String,
            #[serde(skip_serializing_if = "Option::is_none")]
            parent: Option<String>,
            #[serde(skip_serializing_if = "str::is_empty")]
            comment: &'a str,
            created: &'a str,
            container_config: Container<'a>,
            #[serde(skip_serializing_if = "str::is_empty")]
            author: &'a str,
            #[serde(skip_serializing_if = "std::ops::Not::not")]
            throwaway: bool,
            #[serde(rename = "Size", skip_serializing_if = "Option::is_none")]
            size: Option<u8>,
        }
        #[derive(Serialize)]
        struct Container<'a> {
            #[serde(rename = "Cmd")]
            command: [&'a str; 1],
        }
        let invalid = |error: serde_json::Error| Error::Json(error.to_string());
        let id = self.0[at].id.to_string();
        let parent = at.checked_sub(1).map(|below| self.0[below].id.to_string());
        let throwaway = self.0[at].layer.is_none();
        let size = throwaway.then_some(0);
        if at + 1 == self.0.len() {
            let mut image: Map<String, Value> = serde_json::from_slice(config).map_err(invalid)?;
            image.retain(|key, _| !["rootfs", "history", "parent", "Size"].contains(&key.as_str()));
            image.insert("id".into(), id.into());
            if let Some(parent) = parent {
                image.insert("parent".into(), parent.into());
            }
            if throwaway {
                image.insert("throwaway".into(), true.into());
            }
            if let Some(size) = size {
                image.insert("Size".into(), size.into());
            }
            if !image.get("created").is_some_and(Value::is_string) {
                image.insert("created".into(), NO_TIME.into());
            }
            return serde_json::to_vec(&image).map_err(invalid);
        }
        let layers = self.top().layers;
        let history = history(config, layers).unwrap_or_default();
        let entry = history.get(at).ok_or(Error::Depth)?;
        let created = entry.created.as_deref().filter(|text| !text.is_empty());
        let image = Image {
            id,
            parent,
            comment: entry.comment.as_deref().unwrap_or_default(),
            created: created.unwrap_or(NO_TIME),
            container_config: Container {
                command: [entry.created_by.as_deref().unwrap_or_default()],
            },
            author: entry.author.as_deref().unwrap_or_default(),
            throwaway,
            size,
        };
        serde_json::to_vec(&image).map_err(invalid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"{"architecture":"amd64","config":{"Cmd":["x"]},"created":"2020-01-02T03:04:05Z","history":[{"created":"2020-01-01T00:00:00Z","created_by":"ADD","comment":"c"},{"created_by":"ENV","empty_layer":true,"author":"me"},{"created_by":"RUN"}],"os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:00","sha256:11"]}}"#;

    fn layers() -> [Digest; 2] {
        [Digest::Sha256([1; 32]), Digest::Sha256([2; 32])]
    }

    fn sha256(text: String) -> String {
        Algorithm::Sha256.digest(text.as_bytes()).hex()
    }

    #[test]
    fn ids_as_dockers() {
        let chain = Chain::new(CONFIG.as_bytes(), &layers()).unwrap();
        let [one, two] = layers().map(|layer| layer.hex());
        let empty = "a3ed95caeb02ffe68cdd9fd84406680ae93d633cb16422d00e8a7c22955b46d4";
        let base = sha256(format!("{one} "));
        let middle = sha256(format!("{empty} {base}"));
        let top = sha256(format!("{two} {middle} {CONFIG}"));
        let ids: Vec<String> = chain.0.iter().map(|link| link.id.to_string()).collect();
        assert_eq!(ids, [base.as_str(), &middle, &top]);
        let layers_of: Vec<_> = chain.0.iter().map(|link| (link.layer, link.layers)).collect();
        let [one, two] = layers();
        assert_eq!(layers_of, [(Some(one), 1), (None, 1), (Some(two), 2)]);
        let ancestry: Vec<String> = chain.ancestry(1).iter().map(ImageId::to_string).collect();
        assert_eq!(ancestry, [middle.as_str(), &base]);

        let json = |at| {
            let json = chain.json(at, CONFIG.as_bytes()).unwrap();
            String::from_utf8(json).unwrap()
        };
        assert_eq!(
            json(0),
            format!(
                r#"{{"id":"{base}","comment":"c","created":"2020-01-01T00:00:00Z","container_config":{{"Cmd":["ADD"]}}}}"#
            )
        );
        assert_eq!(
            json(1),
            format!(
                r#"{{"id":"{middle}","parent":"{base}","created":"{NO_TIME}","container_config":{{"Cmd":["ENV"]}},"author":"me","throwaway":true,"Size":0}}"#
            )
        );
        assert_eq!(
            json(2),
            format!(
                r#"{{"architecture":"amd64","config":{{"Cmd":["x"]}},"created":"2020-01-02T03:04:05Z","id":"{top}","os":"linux","parent":"{middle}"}}"#
            )
        );
    }

    #[test]
    fn odd_histories() {
        let chain = |config: &str| Chain::new(config.as_bytes(), &layers());
        let places = |config: &str| {
            let links = chain(config).unwrap().0;
            links.iter().map(|link| link.layers).collect::<Vec<_>>()
        };
        assert_eq!(places(r#"{"rootfs":{}}"#), [1, 2], "none");
        assert_eq!(places(r#"{"rootfs":{},"history":[{}]}"#), [1, 2], "fewer than layers");
        assert_eq!(places(r#"{"rootfs":{},"history":[{},{},{}]}"#), [1, 2], "more than layers");
        assert_eq!(
            places(r#"{"rootfs":{},"history":[{"empty_layer":true},{},{"empty_layer":null}]}"#),
            [0, 1, 2]
        );
        for (config, why) in [
            ("{}", "an artifact"),
            ("", "nothing"),
            (r#"{"rootfs":null}"#, "no root file system"),
            (r#"{"rootfs":{},"history":1}"#, "no list"),
        ] {
            assert_eq!(chain(config), None, "{why}");
        }
        assert_eq!(Chain::new(br#"{"rootfs":{}}"#, &[]), None, "no image at all");
        let long = |n: usize| {
            let entries = vec![r#"{"empty_layer":true}"#; n].join(",");
            format!(r#"{{"rootfs":{{}},"history":[{entries}]}}"#)
        };
        assert!(Chain::new(long(CHAIN_MAX).as_bytes(), &[]).is_some());
        assert!(Chain::new(long(CHAIN_MAX + 1).as_bytes(), &[]).is_none());
    }
}
