//! The images whose files are read: of Debian packages and of generated files,
//! made once and kept.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use registry::oci::{Algorithm, Digest, Hasher};
use serde_json::{Value, json};

use crate::bench::MB;
use crate::common::{OCI_CONFIG, OCI_LAYER, descriptor, image_manifest, need, run};
use crate::tar::{self, BLOCK, Text};

/// The release of the packages. Named, so that the image stays what it is.
const DEBIAN: &str = "bookworm";
/// 140 MB as gzip, 480 MB and 43,000 entries unpacked.
const RUNTIME: &str = "cpp,libstdc++-12-dev,perl,python3,libboost1.74-dev,ruby,python3-django,tzdata,\
                       oxygen-icon-theme";

/// Sets of packages that images have on top of the same base.
const SETS: [(&str, &str); 5] = [
    ("runtime", RUNTIME),
    ("node", "nodejs,npm"),
    ("java", "default-jre-headless,maven"),
    ("go", "golang-1.19-src,git"),
    ("web", "nginx,php-cli,postgresql-15"),
];

/// A layer as gzip made it.
#[derive(Clone, Debug)]
pub struct Layer {
    pub path: PathBuf,
    pub digest: Digest,
    pub size: u64,
    diff_id: Digest,
}

#[derive(Clone, Debug)]
pub struct Image {
    /// The base first.
    pub layers: Vec<Layer>,
}

impl Image {
    pub fn size(&self) -> u64 {
        self.layers.iter().map(|layer| layer.size).sum()
    }

    pub fn config(&self) -> String {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let diff_ids: Vec<_> = self.layers.iter().map(|l| l.diff_id.to_string()).collect();
        json!({
            "architecture": architecture,
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        })
        .to_string()
    }

    pub fn manifest(&self) -> String {
        let config = self.config();
        let digest = Algorithm::Sha256.digest(config.as_bytes());
        let layer = |layer: &Layer| descriptor(OCI_LAYER, &layer.digest, layer.size as usize);
        let layers: Vec<Value> = self.layers.iter().map(layer).collect();
        image_manifest(&descriptor(OCI_CONFIG, &digest, config.len()), &layers)
    }
}

/// A file of the data layer. They lie in it in this order.
#[derive(Clone, Copy, Debug)]
pub struct DataFile {
    pub name: &'static str,
    pub content: Text,
}

const fn data(name: &'static str, seed: u64, size: u64) -> DataFile {
    DataFile { name, content: Text { seed, size } }
}

pub const EVENTS: DataFile = data("data/events", 1, 680 * MB);
pub const MODEL: DataFile = data("data/model", 2, 100 * MB);
pub const LAST: DataFile = data("data/last", 3, 4 << 10);
const DATA: [DataFile; 3] = [EVENTS, MODEL, LAST];
/// Place of the data layer in the image.
pub const DATA_LAYER: usize = 2;

/// Where the last file's content ends in the tar stream.
pub fn data_end() -> u64 {
    let padded = |file: DataFile| file.content.size.next_multiple_of(BLOCK);
    BLOCK + DATA.map(|file| BLOCK + padded(file)).iter().sum::<u64>()
}

/// Another name for each change of what is made.
const FOLDER: &str = "layers-1";

/// Keeps what takes minutes to make.
#[derive(Debug)]
pub struct Cache {
    dir: PathBuf,
}

impl Cache {
    pub fn in_folder(folder: &Path) -> Result<Cache> {
        let dir = folder.join(FOLDER);
        fs::create_dir_all(&dir)?;
        Ok(Cache { dir })
    }

    /// Debian, a runtime of its packages, data, and two small layers.
    pub fn image(&self) -> Result<Image> {
        need("mmdebstrap", "mmdebstrap");
        Ok(Image {
            layers: vec![
                self.base()?,
                self.packages(SETS[0])?,
                self.layer("data", data_layer)?,
                self.layer("app", app_layer)?,
                self.settings(0)?,
            ],
        })
    }

    fn base(&self) -> Result<Layer> {
        self.layer("base", |out| debian(out, &self.dir, &["--variant=minbase"]))
    }

    fn packages(&self, (name, packages): (&str, &str)) -> Result<Layer> {
        let include = format!("--include={packages}");
        self.layer(name, |out| debian(out, &self.dir, &["--variant=extract", &include]))
    }

    /// So many images of Debian packages: with one base, a few sets of packages, and a small layer
    /// of their own.
    pub fn fleet(&self, images: u64) -> Result<Vec<Image>> {
        need("mmdebstrap", "mmdebstrap");
        let base = self.base()?;
        let sets = SETS.into_iter().map(|set| self.packages(set)).collect::<Result<Vec<_>>>()?;
        let image = |number: u64| {
            let set = sets[number as usize % sets.len()].clone();
            Ok(Image { layers: vec![base.clone(), set, self.settings(number)?] })
        };
        (0..images).map(image).collect()
    }

    /// The last layer of that image, in its many versions.
    pub fn settings(&self, version: u64) -> Result<Layer> {
        self.layer(&format!("settings-{version}"), |out| {
            tar::directory(out, "etc")?;
            for name in ["a", "b", "c", "d"] {
                let content = Text { seed: version, size: 2000 };
                tar::file(out, &format!("etc/app-{name}.conf"), 0o644, content)?;
            }
            Ok(tar::end(out)?)
        })
    }

    /// An image of one layer with so many empty files: 100 in `same`, for each
    /// of `more` so many in a directory with that name, the others elsewhere,
    /// 1,000 a directory.
    pub fn files(&self, total: usize, more: &[usize]) -> Result<Image> {
        let layer = self.layer(&format!("files-{total}"), |out| {
            let mut directory = |path: &str, files: usize| {
                tar::directory(out, path)?;
                let content = Text { seed: 0, size: 0 };
                (0..files).try_for_each(|number| {
                    tar::file(out, &format!("{path}/file-{number:06}"), 0o644, content)
                })
            };
            directory("same", 100)?;
            for &files in more {
                directory(&files.to_string(), files)?;
            }
            let mut left = total - 100 - more.iter().sum::<usize>();
            for number in 0.. {
                let files = left.min(1000);
                directory(&format!("other-{number:06}"), files)?;
                left -= files;
                if left == 0 {
                    break;
                }
            }
            Ok(tar::end(out)?)
        })?;
        Ok(Image { layers: vec![layer] })
    }

    /// A file of the data layer alone, as gzip makes it.
    pub fn alone(&self, file: DataFile) -> Result<PathBuf> {
        let name = file.name.replace('/', "-");
        let layer =
            self.layer(&name, |out| Ok(file.content.pieces(|piece| out.write_all(piece))?))?;
        Ok(layer.path)
    }

    /// Gives a layer, after it was made if it is not there: gzip's output of
    /// what `make` writes.
    fn layer(&self, name: &str, make: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<Layer> {
        let path = self.dir.join(format!("{name}.gz"));
        // Written last: what it describes is complete.
        let facts = self.dir.join(format!("{name}.json"));
        if !facts.exists() {
            let diff_id = compress(&path, make).with_context(|| format!("cannot make {name}"))?;
            let digests =
                json!({"digest": digest(&path)?.to_string(), "diff_id": diff_id.to_string()});
            fs::write(&facts, digests.to_string())?;
        }
        let digests: Value = serde_json::from_slice(&fs::read(&facts)?)?;
        let known = |key| -> Result<Digest> {
            let digest: Option<&str> = digests[key].as_str();
            let parsed = digest.and_then(|digest| digest.parse().ok());
            parsed.with_context(|| format!("no {key} in {}", facts.display()))
        };
        Ok(Layer {
            size: fs::metadata(&path)?.len(),
            digest: known("digest")?,
            diff_id: known("diff_id")?,
            path,
        })
    }
}

/// Gives the digest of what was compressed.
fn compress(path: &Path, make: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<Digest> {
    struct Hashed<W> {
        out: W,
        hasher: Hasher,
    }
    impl<W: Write> Write for Hashed<W> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let n = self.out.write(bytes)?;
            self.hasher.update(&bytes[..n]);
            Ok(n)
        }

        fn flush(&mut self) -> io::Result<()> {
            self.out.flush()
        }
    }
    let mut gzip =
        Command::new("gzip").arg("-n").stdin(Stdio::piped()).stdout(File::create(path)?).spawn()?;
    let stdin = gzip.stdin.take().context("piped above")?;
    let mut out = io::BufWriter::with_capacity(
        1 << 16,
        Hashed { out: stdin, hasher: Algorithm::Sha256.hasher() },
    );
    make(&mut out)?;
    let hashed = out.into_inner().map_err(|e| e.into_error())?;
    drop(hashed.out);
    ensure!(gzip.wait()?.success(), "gzip failed");
    Ok(hashed.hasher.finish())
}

fn digest(path: &Path) -> Result<Digest> {
    let mut hasher = Algorithm::Sha256.hasher();
    pieces(path, |piece| {
        hasher.update(piece);
        Ok(())
    })?;
    Ok(hasher.finish())
}

/// Hands over a file piece by piece.
pub fn pieces(path: &Path, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(()),
            n => take(&buffer[..n])?,
        }
    }
}

/// The tar of a root file system that mmdebstrap makes, less its devices, which
/// only root may unpack. Names begin as in Docker's layers, not with `./`: the
/// npm server finds no others.
fn debian(out: &mut dyn Write, dir: &Path, arguments: &[&str]) -> Result<()> {
    let temp = tempfile::TempDir::with_prefix_in("debian", dir)?;
    let (packed, root) = (temp.path().join("root.tar"), temp.path().join("root"));
    fs::create_dir(&root)?;
    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap.arg("--quiet").args(arguments).arg(DEBIAN);
    run(mmdebstrap.arg(&packed));
    let mut unpack = Command::new("tar");
    unpack.args(["--extract", "--numeric-owner", "--exclude=./dev/*", "--file"]);
    run(unpack.arg(&packed).arg("--directory").arg(&root));
    let names = fs::read_dir(&root)?.map(|entry| Ok(entry?.file_name()));
    let mut names = names.collect::<io::Result<Vec<_>>>()?;
    names.sort();
    let mut tar = Command::new("tar")
        .args(["--create", "--numeric-owner", "--sort=name", "--directory"])
        .arg(&root)
        .args(names)
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdout = tar.stdout.take().context("piped above")?;
    io::copy(&mut stdout, out)?;
    ensure!(tar.wait()?.success(), "tar failed");
    Ok(())
}

fn data_layer(out: &mut dyn Write) -> Result<()> {
    tar::directory(out, "data")?;
    for file in DATA {
        tar::file(out, file.name, 0o644, file.content)?;
    }
    Ok(tar::end(out)?)
}

/// A program in many small files, with commands.
fn app_layer(out: &mut dyn Write) -> Result<()> {
    tar::directory(out, "app")?;
    for number in 0..300 {
        let content = Text { seed: number, size: 8000 };
        tar::file(out, &format!("app/module-{number}.js"), 0o644, content)?;
    }
    tar::directory(out, "usr")?;
    tar::directory(out, "usr/bin")?;
    for number in 0..5 {
        let content = Text { seed: number, size: 1000 };
        tar::file(out, &format!("usr/bin/app-{number}"), 0o755, content)?;
    }
    Ok(tar::end(out)?)
}
