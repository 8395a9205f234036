//! Many small layers: few files and few descriptors, whatever is killed meanwhile.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use registry::oci::{Algorithm, Digest};
use tempfile::TempDir;

use super::{command, gzip};
use crate::common::mount::Mount;
use crate::common::tar::Tar;
use crate::common::{OCI_CONFIG, OCI_LAYER, REGISTRY, Registry, SOON, descriptor, image_manifest};
use crate::probe::files;

const IMAGES: usize = 3000;
const KILLS: usize = 8;
/// What many systems allow by default.
const DESCRIPTORS: &str = "--nofile=1024:1024";

/// Writes images of one small layer each in the store's layout, as tags of `many`.
fn write_images(root: &Path) {
    let base = root.join("docker/registry/v2");
    let blob = |bytes: &[u8]| {
        let digest = Algorithm::Sha256.digest(bytes);
        let folder = base.join(format!("blobs/sha256/{}/{}", &digest.hex()[..2], digest.hex()));
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(folder.join("data"), bytes).expect("a blob");
        digest
    };
    let link = |folder: String, digest: &Digest| {
        let folder = base.join("repositories/many").join(folder);
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(folder.join("link"), digest.to_string()).expect("a link");
    };
    let config = blob(b"{}");
    link(format!("_layers/sha256/{}", config.hex()), &config);
    for number in 0..IMAGES {
        let bytes = gzip(&Tar::default().file("d/number", number.to_string().as_bytes()).finish());
        let layer = blob(&bytes);
        let layers = [descriptor(OCI_LAYER, &layer, bytes.len())];
        let manifest =
            blob(image_manifest(&descriptor(OCI_CONFIG, &config, 2), &layers).as_bytes());
        link(format!("_layers/sha256/{}", layer.hex()), &layer);
        link(format!("_manifests/revisions/sha256/{}", manifest.hex()), &manifest);
        let tag = format!("_manifests/tags/{number}");
        link(format!("{tag}/index/sha256/{}", manifest.hex()), &manifest);
        link(format!("{tag}/current"), &manifest);
    }
}

/// The same command with few descriptors.
fn limited(command: &Command) -> Command {
    let mut limited = Command::new("prlimit");
    limited.arg(DESCRIPTORS).arg(command.get_program()).args(command.get_args());
    limited
}

fn index_all(dir: &Path) -> Child {
    let mut index = limited(&command(dir, &["index", "--all"]));
    index.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts")
}

fn bytes(db: &Path) -> u64 {
    files(db).iter().filter_map(|path| fs::metadata(path).ok()).map(|file| file.len()).sum()
}

#[test]
fn few_descriptors_and_kills() {
    let dir = TempDir::new().expect("a temporary folder");
    write_images(&dir.path().join("layers"));
    let db = dir.path().join("db");
    let serve = || Registry::spawn(dir.path(), limited(&Registry::command(dir.path(), &[])));
    for kill in 0..KILLS {
        let mut registry = serve();
        let (mut index, before) = (index_all(dir.path()), bytes(&db));
        let more = before + 20_000 * (kill as u64 + 1);
        let deadline = Instant::now() + SOON;
        while bytes(&db) < more && index.try_wait().expect("a status").is_none() {
            assert!(Instant::now() < deadline, "{} of {more} bytes", bytes(&db));
            std::thread::yield_now();
        }
        registry.kill();
        drop(index.kill());
        drop(index.wait());
    }
    let registry = serve();
    assert!(index_all(dir.path()).wait().expect("its end").success());
    let number = files(&db).len();
    assert!(number < 100, "{number} files");

    // Through the mount, by a follower of the server.
    let mut mount = Command::new(REGISTRY);
    mount.arg("mount").arg("--dir").arg(dir.path());
    let temp = TempDir::new().expect("a temporary folder");
    let path = temp.path().join("mnt");
    fs::create_dir(&path).expect("a folder");
    let mount = Mount::spawn(temp, path, limited(&mount));
    for number in 0..IMAGES {
        let file = mount.path.join(format!("many:{number}/d/number"));
        let content = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{number}: {e}"));
        assert_eq!(content, number.to_string());
    }
    drop(mount);
    let image = |number| {
        let reply = registry.get(&format!("/v1/images/many:{number}/tree/d"));
        assert_eq!(reply.status, 200, "{number}: {}", reply.text());
        reply.json()
    };
    for number in (0..IMAGES).step_by(100) {
        assert_eq!(image(number).as_array().map(Vec::len), Some(1));
    }
}
