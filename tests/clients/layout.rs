//! An OCI layout to push: images for two platforms, made here.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use registry::oci::{Algorithm, Digest};
use serde_json::{Value, json};

use crate::common::{
    OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, descriptor, image_manifest, noise, run,
};

pub const PLATFORMS: [&str; 2] = ["amd64", "arm64"];

#[derive(Debug)]
pub struct Layout {
    dir: PathBuf,
    /// Of both images; the layout calls it `latest`.
    pub index: Digest,
    /// As in [`PLATFORMS`].
    pub images: [Digest; 2],
}

impl Layout {
    /// Two images that share their first layer. Another seed, other digests.
    pub fn make(dir: &str, seed: u64) -> Layout {
        let dir = PathBuf::from(dir);
        fs::create_dir_all(dir.join("blobs/sha256")).expect("a folder");
        fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("a file");
        let shared = layer(&dir, &noise(seed, 300_000));
        let mut children = Vec::new();
        let images = PLATFORMS.map(|architecture| {
            let own = layer(&dir, format!("{architecture} {seed}").as_bytes());
            let config = json!({
                "architecture": architecture,
                "os": "linux",
                "config": {"Cmd": ["/usr/program"], "Labels": {"seed": seed.to_string()}},
                "rootfs": {"type": "layers", "diff_ids": [shared.diff_id, own.diff_id]},
                "history": [{"created_by": "shared"}, {"created_by": architecture}],
            });
            let config = blob(&dir, OCI_CONFIG, config.to_string().as_bytes());
            let manifest = image_manifest(&config, &[shared.descriptor.clone(), own.descriptor]);
            let mut child = blob(&dir, OCI_MANIFEST, manifest.as_bytes());
            child["platform"] = json!({"architecture": architecture, "os": "linux"});
            children.push(child);
            Algorithm::Sha256.digest(manifest.as_bytes())
        });
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": children});
        let mut entry = blob(&dir, OCI_INDEX, index.to_string().as_bytes());
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": "latest"});
        let entry = json!({"schemaVersion": 2, "manifests": [entry]});
        fs::write(dir.join("index.json"), entry.to_string()).expect("a file");
        let index = Algorithm::Sha256.digest(index.to_string().as_bytes());
        Layout { dir, index, images }
    }

    /// For the host's platform.
    pub fn image(&self) -> Digest {
        self.images[usize::from(cfg!(target_arch = "aarch64"))]
    }

    /// As skopeo names it.
    pub fn reference(&self) -> String {
        format!("oci:{}:latest", self.dir.display())
    }

    pub fn read(&self, digest: &Digest) -> Vec<u8> {
        let path = self.dir.join("blobs/sha256").join(digest.hex());
        fs::read(path).expect("a blob")
    }

    pub fn blobs(&self) -> BTreeSet<String> {
        blobs(&self.dir)
    }
}

/// The blobs of any layout, which must be what their names say.
pub fn blobs(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir.join("blobs/sha256"))
        .expect("a layout")
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let name = path.file_name().and_then(|n| n.to_str()).expect("a name");
            let digest = Algorithm::Sha256.digest(&fs::read(&path).expect("a blob"));
            assert_eq!(digest.hex(), name);
            name.to_owned()
        })
        .collect()
}

struct Layer {
    descriptor: Value,
    diff_id: String,
}

/// A layer of one program, with a link of each sort to it.
fn layer(dir: &Path, program: &[u8]) -> Layer {
    let files = tempfile::tempdir().expect("a temporary folder");
    let usr = files.path().join("root/usr");
    fs::create_dir_all(&usr).expect("a folder");
    fs::write(usr.join("program"), program).expect("a file");
    fs::hard_link(usr.join("program"), usr.join("hard")).expect("a hard link");
    std::os::unix::fs::symlink("program", usr.join("soft")).expect("a link");
    let tar = files.path().join("layer.tar");
    let root = files.path().join("root");
    run(Command::new("tar")
        .arg("-cf")
        .arg(&tar)
        .args(["--sort=name", "--mtime=@1700000000", "-C"])
        .arg(root)
        .arg("usr"));
    let diff_id = Algorithm::Sha256.digest(&fs::read(&tar).expect("the tar file"));
    let packed = run(Command::new("gzip").arg("-n").stdin(File::open(&tar).expect("the tar file")));
    Layer { descriptor: blob(dir, OCI_LAYER, &packed.stdout), diff_id: diff_id.to_string() }
}

fn blob(dir: &Path, media_type: &str, bytes: &[u8]) -> Value {
    let digest = Algorithm::Sha256.digest(bytes);
    fs::write(dir.join("blobs/sha256").join(digest.hex()), bytes).expect("a blob");
    descriptor(media_type, &digest, bytes.len())
}
