//! A manifest for a chain of images, so that it can be pulled as any other. The same chain gives
//! the same bytes on every server: keys are sorted, or in the order of the structs here, and
//! nothing depends on the clock.
//!
//! The config is the topmost image's JSON without the fields that belong to the chain, with a
//! history of the chain and the layers' diff_ids (as Docker 1.10 migrated its images; Docker image
//! spec v1.2). [`ID`] is added, so that two images that differ only in their ids do not become one.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{CHAIN_MAX, Error, ImageId};
use crate::oci::config::CONFIG_MAX;
use crate::oci::{Algorithm, Digest, MediaType};

/// The config's field that holds the id of the topmost image.
const ID: &str = "v1_id";
/// The platform of an image that does not name one.
const ARCHITECTURE: &str = "amd64";
const OS: &str = "linux";

const CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// Clients look at the bytes to find out how they are compressed.
const LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
const LAYER_TAR: &str = "application/vnd.docker.image.rootfs.diff.tar";

/// Fields of an image's JSON that do not belong into the config.
const CHAINS: [&str; 9] =
    ["id", "parent", "parent_id", "layer_id", "throwaway", "Size", "rootfs", "history", "checksum"];

/// An image's layer.
#[derive(Clone, Debug)]
pub struct Layer {
    pub digest: Digest,
    pub size: u64,
    pub compressed: bool,
    pub diff_id: Digest,
    /// It changes nothing, so the manifest leaves it out.
    pub empty: bool,
}

/// A manifest and its config, as they are stored.
#[derive(Debug, PartialEq, Eq)]
pub struct Made {
    pub config: Vec<u8>,
    pub manifest: Vec<u8>,
    /// The layers that the manifest names.
    pub layers: Vec<Digest>,
}

#[derive(Debug, Serialize)]
struct History {
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    created_by: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    author: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comment: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    empty_layer: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor<'a> {
    media_type: &'a str,
    size: u64,
    digest: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest<'a> {
    schema_version: u8,
    media_type: &'a str,
    config: Descriptor<'a>,
    layers: Vec<Descriptor<'a>>,
}

/// A chain that becomes a manifest, base first.
#[derive(Debug, Default)]
pub struct Builder {
    history: Vec<History>,
    layers: Vec<Layer>,
    size: usize,
}

fn invalid(error: serde_json::Error) -> Error {
    Error::Json(error.to_string())
}

impl Builder {
    /// Adds the next image.
    pub fn add(&mut self, json: &[u8], layer: Layer) -> Result<(), Error> {
        let history = History::parse(json, layer.empty)?;
        self.size += history.size();
        if self.size > CONFIG_MAX {
            return Err(Error::Size);
        }
        if self.history.len() == CHAIN_MAX {
            return Err(Error::Depth);
        }
        self.history.push(history);
        if !layer.empty {
            self.layers.push(layer);
        }
        Ok(())
    }

    /// The manifest of the chain, whose topmost image is `id` and has this JSON.
    pub fn finish(self, id: &ImageId, json: &[u8]) -> Result<Made, Error> {
        let mut config: Map<String, Value> = serde_json::from_slice(json).map_err(invalid)?;
        config.retain(|key, value| !CHAINS.contains(&key.as_str()) && !value.is_null());
        for (key, default) in [("architecture", ARCHITECTURE), ("os", OS)] {
            let said = config.get(key).and_then(Value::as_str);
            if said.is_none_or(str::is_empty) {
                config.insert(key.into(), default.into());
            }
        }
        let diff_ids: Vec<String> = self.layers.iter().map(|l| l.diff_id.to_string()).collect();
        config.insert("rootfs".into(), json!({"type": "layers", "diff_ids": diff_ids}));
        let history = serde_json::to_value(self.history).map_err(invalid)?;
        config.insert("history".into(), history);
        config.insert(ID.into(), id.to_string().into());
        // The map is sorted by its keys.
        let config = serde_json::to_vec(&config).map_err(invalid)?;
        if config.len() > CONFIG_MAX {
            return Err(Error::Size);
        }
        let layers = self.layers.iter().map(|layer| Descriptor {
            media_type: if layer.compressed { LAYER } else { LAYER_TAR },
            size: layer.size,
            digest: layer.digest.to_string(),
        });
        let manifest = Manifest {
            schema_version: 2,
            media_type: MediaType::DockerManifest.as_str(),
            config: Descriptor {
                media_type: CONFIG,
                size: config.len() as u64,
                digest: Algorithm::Sha256.digest(&config).to_string(),
            },
            layers: layers.collect(),
        };
        let manifest = serde_json::to_vec(&manifest).map_err(invalid)?;
        Ok(Made {
            config,
            manifest,
            layers: self.layers.iter().map(|layer| layer.digest).collect(),
        })
    }
}

impl History {
    fn parse(json: &[u8], empty_layer: bool) -> Result<History, Error> {
        #[derive(Deserialize)]
        struct Document {
            created: Option<String>,
            author: Option<String>,
            comment: Option<String>,
            container_config: Option<Container>,
        }
        #[derive(Deserialize)]
        struct Container {
            #[serde(rename = "Cmd")]
            command: Option<Command>,
        }
        // Docker before 1.0 wrote some commands as one string.
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Command {
            Words(Vec<String>),
            Line(String),
        }
        let document: Document = serde_json::from_slice(json).map_err(invalid)?;
        let text = |text: Option<String>| text.filter(|text| !text.is_empty());
        let command = document.container_config.and_then(|c| c.command);
        Ok(History {
            created: text(document.created),
            created_by: match command {
                Some(Command::Words(words)) => words.join(" "),
                Some(Command::Line(line)) => line,
                None => String::new(),
            },
            author: text(document.author),
            comment: text(document.comment),
            empty_layer,
        })
    }

    /// The number of bytes that it takes as JSON, about.
    fn size(&self) -> usize {
        let texts = [&self.created, &self.author, &self.comment];
        let texts = texts.into_iter().flatten().map(String::len);
        64 + self.created_by.len() + texts.sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker1::empty_layer;

    fn id(n: u8) -> ImageId {
        ImageId::from_bytes([n; 32])
    }

    fn layer(n: u8, compressed: bool) -> Layer {
        Layer {
            digest: Digest::Sha256([n; 32]),
            size: u64::from(n),
            compressed,
            diff_id: Digest::Sha256([n + 0x10; 32]),
            empty: false,
        }
    }

    /// Golden bytes: two servers must make the same bytes, so a change here gives the same images
    /// other digests.
    #[test]
    fn manifest_of_a_chain() {
        let empty = Layer {
            digest: empty_layer(),
            size: 32,
            compressed: true,
            diff_id: Digest::Sha256([0xee; 32]),
            empty: true,
        };
        let base = format!(
            r##"{{"id":"{}","created":"2014-01-01T00:00:00Z","container_config":{{"Cmd":["/bin/sh","-c","#(nop) ADD"]}},"Size":7}}"##,
            id(1)
        );
        let middle = format!(
            r#"{{"id":"{}","parent":"{}","container_config":{{"Cmd":null}}}}"#,
            id(2),
            id(1)
        );
        let top = format!(
            r#"{{"os":"","id":"{}","parent":"{}","Size":9,"throwaway":null,"config":{{"Env":["b=1","a=2"],"Cmd":["x"]}},"author":"me","comment":"why","container_config":{{"Cmd":"one line"}},"created":"2014-01-02T00:00:00Z"}}"#,
            id(3),
            id(2)
        );
        let mut builder = Builder::default();
        builder.add(base.as_bytes(), layer(1, true)).unwrap();
        builder.add(middle.as_bytes(), empty).unwrap();
        builder.add(top.as_bytes(), layer(3, false)).unwrap();
        let made = builder.finish(&id(3), top.as_bytes()).unwrap();
        let [diff1, diff3] = ["11", "13"].map(|pair| pair.repeat(32));
        assert_eq!(
            String::from_utf8(made.config.clone()).unwrap(),
            format!(
                concat!(
                    r#"{{"architecture":"amd64","author":"me","comment":"why","config":{{"Cmd":["x"],"Env":["b=1","a=2"]}},"#,
                    r#""container_config":{{"Cmd":"one line"}},"created":"2014-01-02T00:00:00Z","history":["#,
                    r#"{{"created":"2014-01-01T00:00:00Z","created_by":"/bin/sh -c #(nop) ADD"}},"#,
                    r#"{{"empty_layer":true}},"#,
                    r#"{{"author":"me","comment":"why","created":"2014-01-02T00:00:00Z","created_by":"one line"}}],"#,
                    r#""os":"linux","rootfs":{{"diff_ids":["sha256:{}","sha256:{}"],"type":"layers"}},"v1_id":"{}"}}"#
                ),
                diff1,
                diff3,
                id(3)
            )
        );
        let digest = |n: &str| format!("sha256:{}", n.repeat(32));
        assert_eq!(
            String::from_utf8(made.manifest).unwrap(),
            format!(
                concat!(
                    r#"{{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json","#,
                    r#""config":{{"mediaType":"application/vnd.docker.container.image.v1+json","size":{},"digest":"{}"}},"#,
                    r#""layers":[{{"mediaType":"application/vnd.docker.image.rootfs.diff.tar.gzip","size":1,"digest":"{}"}},"#,
                    r#"{{"mediaType":"application/vnd.docker.image.rootfs.diff.tar","size":3,"digest":"{}"}}]}}"#
                ),
                made.config.len(),
                Algorithm::Sha256.digest(&made.config),
                digest("01"),
                digest("03")
            )
        );
        assert_eq!(made.layers, [layer(1, true).digest, layer(3, true).digest]);
    }

    #[test]
    fn limits() {
        let mut builder = Builder::default();
        for _ in 0..CHAIN_MAX {
            builder.add(b"{}", layer(1, true)).unwrap();
        }
        assert_eq!(builder.add(b"{}", layer(1, true)), Err(Error::Depth));

        let long = format!(r#"{{"comment":"{}"}}"#, "x".repeat(CONFIG_MAX / 2));
        let mut builder = Builder::default();
        builder.add(long.as_bytes(), layer(1, true)).unwrap();
        assert_eq!(builder.add(long.as_bytes(), layer(1, true)), Err(Error::Size));
    }
}
