//! The images, made once for all tests of this program, and their unpacked
//! files.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

use serde_json::Value;

use crate::common::engine::Engine;
use crate::common::home::Home;
use crate::common::tree::{self, Tree};
use crate::common::{OCI_MANIFEST, Registry};

pub struct Fixture {
    #[expect(dead_code, reason = "it sees this process end by what it holds")]
    cleaner: Child,
    pub home: Home,
    /// The images as they were made, compressed by gzip.
    pub registry: Registry,
    pub images: Vec<Image>,
    /// The image of all sorts of files, packed by other means, each in a registry of
    /// its own.
    pub packings: Vec<(&'static str, Registry)>,
}

pub struct Image {
    /// Repository and tag.
    pub name: &'static str,
    /// By `umoci unpack`, which keeps all that a layer says.
    pub unpacked: Tree,
    /// By another client.
    pub other: Tree,
    /// The folder that umoci unpacked to.
    pub root: String,
}

impl Image {
    /// Where in the home its layout is.
    pub fn layout(&self) -> String {
        format!("{}-layout", self.name).replace(':', "-")
    }

    fn read(name: &'static str, root: String, other: String) -> Image {
        Image {
            name,
            unpacked: tree::read(Path::new(&root)),
            other: tree::read(Path::new(&other)),
            root,
        }
    }
}

/// The image that is there in every packing.
pub const ODD: &str = "odd:1";
/// The image with layers that Docker cannot unpack.
pub const SPECIAL: &str = "special:1";

/// What makes the files of odd sorts.
pub const ODD_FILES: &str = include_str!("odd.py");

/// Downloads a language runtime into the context of the next image.
const RUNTIME_HOOKS: [&str; 2] = [
    r#"--customize-hook=chroot "$1" sh -c "apt-get clean && apt-get --yes --download-only install --no-install-recommends python3""#,
    r#"--customize-hook=cp "$1"/var/cache/apt/archives/*.deb "$DEBS""#,
];

const PYTHON: &str = "FROM debian
COPY debs /debs
RUN cd /debs && dpkg --install $(ls | grep -v -e ^python3-minimal_ -e ^python3_) \\
 && dpkg --install python3-minimal_* && dpkg --install python3_*
";

/// Folders, links and files that give way to one another; with overlays, Docker
/// marks a folder that was made anew as opaque.
const EDITED: &str = "FROM python
RUN rm -r /debs /usr/share/doc /etc/issue && mkdir /edit && cd /edit \\
 && for d in to-link to-file opaque gone twice; do mkdir -p $d/sub && echo $d >$d/file && echo sub >$d/sub/file; done \\
 && ln -s gone link-to-dir && ln -s gone link-to-file && echo file >file-to-dir && echo file >file-to-link \\
 && echo hard >h1 && ln h1 h2 && ln h1 h3 && ln h1 h4 && ln -s h1 soft && ln soft soft2
RUN cd /edit && rm -r to-link && ln -s ../usr to-link && rm -r to-file && echo file >to-file \\
 && rm -r opaque && mkdir opaque && touch opaque/new && rm -r gone twice \\
 && rm link-to-dir && mkdir link-to-dir && echo x >link-to-dir/x && rm link-to-file && echo f >link-to-file \\
 && rm file-to-dir && mkdir file-to-dir && echo x >file-to-dir/x && ln -sf twice file-to-link \\
 && rm h2 && echo other >new && mv new h3 && ln /etc/debian_version version
RUN cd /edit && mkdir -p gone twice/sub && echo again >twice/sub/file && rm opaque/new && echo newer >opaque/newer \\
 && chmod 2750 /usr/share/perl5 && chown 12:34 /usr/share/perl5 && rm -r link-to-dir
";

/// The last of the layers: files of odd sorts, some of which give way.
fn podman_layers(from: &str) -> String {
    format!(
        "FROM {from}
RUN python3 /context/odd.py /podman
RUN cd /podman && rm hard2 names/hard3 && rm -r empty names/dir && echo again >names/dir \\
 && chmod 700 modes && rm /umoci/hard1 && touch -d @1 /posix/xattrs/file && mv /gnu/names/dir /gnu/moved
"
    )
}

/// Made by the first that asks; if that fails, nobody tries again.
pub fn fixture() -> &'static Fixture {
    static FIXTURE: LazyLock<Fixture> = LazyLock::new(build);
    &FIXTURE
}

/// Statics are never dropped. So a process of its own waits for the end of this
/// one, and cleans up.
const CLEAN_UP: &str = r#"while read -r pid; do pids="$pids $pid"; done
kill -KILL $pids
rm -rf "$1" || { sleep 1; rm -rf "$1"; }"#;

fn build() -> Fixture {
    let home = Home::new();
    let mut cleaner = Command::new("setsid")
        .args(["sh", "-c", CLEAN_UP, "sh", &home.path("")])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("setsid, of every Debian");
    let mut registry = |name: &str| {
        let dir = home.path(name);
        fs::create_dir(&dir).expect("a folder");
        let registry = Registry::start_in(Path::new(&dir), &[]);
        let stdin = cleaner.stdin.as_mut().expect("piped");
        writeln!(stdin, "{}", registry.pid()).expect("the cleaner reads");
        registry
    };
    let made = registry("made");
    let engine = Engine::start(&home, &[]);
    build_by_docker(&home, &engine, &made);
    add_by_umoci(&home, &made);
    add_by_podman(&home, &made);
    add_for_umoci(&home, &made);

    let packings = ["docker", "gzip", "zstd", "zstd:chunked", "uncompressed"];
    let packings: Vec<_> = packings.map(|packing| (packing, registry(packing))).into();
    let images =
        ["debian:1", "python:1", ODD, SPECIAL].map(|name| unpack(&home, &engine, &made, name));
    for (packing, registry) in &packings {
        push(&home, &engine, &made, packing, registry);
    }
    drop(engine);
    Fixture { cleaner, home, registry: made, images: images.into(), packings }
}

fn build_by_docker(home: &Home, engine: &Engine, registry: &Registry) {
    let context = home.path("context");
    let debs = format!("{context}/debs");
    fs::create_dir_all(&debs).expect("a folder");
    fs::write(format!("{context}/odd.py"), ODD_FILES).expect("a file");
    let [download, keep] = RUNTIME_HOOKS;
    let keep = keep.replace("$DEBS", &debs);
    let debian = home.debian(&["--variant=minbase", download, &keep]);
    engine.docker(&["import", &debian, "debian"]);
    for (name, text) in [("python", PYTHON), ("edited", EDITED)] {
        let file = home.path(name);
        fs::write(&file, text).expect("a file");
        let build = ["build", "--network=none", "--tag", name, "--file", &file];
        engine.docker(&[&build[..], &[&context]].concat());
    }
    for name in ["debian", "python", "edited"] {
        let pushed = format!("{}/{name}:1", registry.host());
        engine.docker(&["tag", name, &pushed]);
        engine.docker(&["push", &pushed]);
    }
}

/// Layers that GNU tar writes, in two formats, and one that umoci writes.
fn add_by_umoci(home: &Home, registry: &Registry) {
    let (bundle, root) = (home.path("bundle"), home.path("bundle/rootfs"));
    let from = format!("docker://{}/edited:1", registry.host());
    let image = format!("{}:umoci", home.path("layout"));
    home.copy(&from, &format!("oci:{image}"), &[]);
    home.run("umoci", &["unpack", "--image", &image, &bundle]);
    run_odd(home, "umoci");
    let edit = |name: &str| Path::new(&root).join("edit").join(name);
    fs::remove_dir_all(edit("gone")).expect("a folder");
    std::os::unix::fs::symlink("file-to-dir", edit("gone")).expect("a link");
    fs::remove_file(edit("h1")).expect("a file");
    fs::hard_link(edit("h4"), edit("h5")).expect("a link");
    home.run("umoci", &["repack", "--image", &image, &bundle]);
    for (format, options) in [("gnu", &[][..]), ("posix", &XATTRS)] {
        run_odd(home, format);
        add_layer(home, &image, &tar_up(home, format, format, options));
    }
    let to = format!("docker://{}/umoci:1", registry.host());
    home.copy(&format!("oci:{image}"), &to, &[]);
}

/// Makes the files of odd sorts in the bundle, by its own Python.
fn run_odd(home: &Home, folder: &str) {
    let root = home.path("bundle/rootfs");
    let script = format!("{root}/odd.py");
    fs::write(&script, ODD_FILES).expect("a file");
    home.run("chroot", &[&root, "python3", "/odd.py", &format!("/{folder}")]);
    fs::remove_file(script).expect("the script");
}

const XATTRS: [&str; 2] = ["--xattrs", "--xattrs-include=*"];

/// Moves a folder of the bundle into a tar file.
fn tar_up(home: &Home, format: &str, folder: &str, arguments: &[&str]) -> String {
    let (tar, root) = (home.path("layer.tar"), home.path("bundle/rootfs"));
    let format = format!("--format={format}");
    let create = ["-C", &root, "--sort=name", &format, "-cf", &tar];
    home.run("tar", &[&create, arguments, &[folder]].concat());
    home.run("rm", &["-r", &format!("{root}/{folder}")]);
    tar
}

fn add_layer(home: &Home, image: &str, tar: &str) {
    home.run("umoci", &["raw", "add-layer", "--image", image, tar]);
}

fn add_by_podman(home: &Home, registry: &Registry) {
    let file = home.path("podman-layers");
    let from = format!("{}/umoci:1", registry.host());
    fs::write(&file, podman_layers(&from)).expect("a file");
    let context = home.path("context");
    let tag = format!("{}/{ODD}", registry.host());
    home.podman(&[
        "build",
        "--quiet",
        "--isolation=chroot",
        "--cap-add=all",
        "--tls-verify=false",
        &format!("--volume={context}:/context:ro"),
        "--layers",
        "--tag",
        &tag,
        "--file",
        &file,
        &context,
    ]);
    home.podman(&["push", "--quiet", "--tls-verify=false", "--format=oci", &tag]);
}

/// Layers that Docker and podman unpack at best, but cannot push again: links to
/// files of lower layers without any such file, as Docker wrote them on aufs,
/// and sparse files.
fn add_for_umoci(home: &Home, registry: &Registry) {
    const TARGETS: [&str; 4] =
        ["etc/debian_version", "umoci/hard2", "umoci/soft1", "usr/bin/passwd"];
    let image = format!("{}:special", home.path("layout"));
    let from = format!("docker://{}/{ODD}", registry.host());
    home.copy(&from, &format!("oci:{image}"), &[]);
    let root = home.path("bundle/rootfs");
    fs::create_dir(format!("{root}/links")).expect("a folder");
    for target in TARGETS {
        let link = target.rsplit('/').next().expect("a name");
        let [target, link] =
            [target, &format!("links/{link}")].map(|name| format!("{root}/{name}"));
        fs::hard_link(target, link).expect("a link");
    }
    let tar = tar_up(home, "gnu", "links", &TARGETS);
    home.run("tar", &[&["--delete", "-f", &tar][..], &TARGETS].concat());
    add_layer(home, &image, &tar);
    run_odd(home, "sparse");
    let sparse = tar_up(home, "posix", "sparse", &[&["--sparse"], &XATTRS[..]].concat());
    add_layer(home, &image, &sparse);
    let to = format!("docker://{}/{SPECIAL}", registry.host());
    home.copy(&format!("oci:{image}"), &to, &[]);
}

/// Two independent unpacks of what the registry serves.
fn unpack(home: &Home, engine: &Engine, registry: &Registry, name: &'static str) -> Image {
    let at = format!("{}/{name}", registry.host());
    let [layout, bundle] = ["layout", "bundle"]
        .map(|what| home.path(&format!("{name}-{what}")))
        .map(|path| path.replace(':', "-"));
    home.copy(&format!("docker://{at}"), &format!("oci:{layout}:1"), &[]);
    let layout = format!("{layout}:1");
    home.run("umoci", &["unpack", "--image", &layout, &bundle]);
    let other = if name == SPECIAL {
        home.podman_pull(&at)
    } else {
        engine.docker(&["pull", &at]);
        engine.unpack(&at)
    };
    Image::read(name, format!("{bundle}/rootfs"), other)
}

/// Pushes the image of all sorts in some packing.
fn push(home: &Home, engine: &Engine, from: &Registry, packing: &str, to: &Registry) {
    let [from, to] = [from, to].map(|registry| format!("{}/{ODD}", registry.host()));
    match packing {
        "docker" => {
            engine.docker(&["tag", &from, &to]);
            engine.docker(&["push", &to]);
        }
        "uncompressed" => {
            let dir = format!("dir:{}", home.path("uncompressed-image"));
            home.copy(&format!("docker://{from}"), &dir, &["--dest-decompress"]);
            home.copy(&dir, &format!("docker://{to}"), &["--preserve-digests"]);
        }
        compression => {
            let compression = format!("--compression-format={compression}");
            let push = ["push", "--quiet", "--tls-verify=false", "--format=oci"];
            home.podman(&[&push[..], &[&compression, &from, &to]].concat());
        }
    }
}

/// The manifest of an image, as the registry has it.
pub fn manifest(registry: &Registry, name: &str) -> Value {
    let (repository, tag) = name.split_once(':').expect("a tag");
    let accept = format!("{OCI_MANIFEST}, {}", crate::common::DOCKER_MANIFEST);
    let path = format!("/v2/{repository}/manifests/{tag}");
    let reply = registry.send("GET", &path, &[("Accept", &accept)], b"");
    assert_eq!(reply.status, 200, "{path}: {}", reply.text());
    reply.json()
}

impl Fixture {
    /// Every image, in every registry that has it.
    pub fn all(&self) -> impl Iterator<Item = (String, &Registry, &Image)> {
        let images = self.images.iter();
        let made = images.map(|image| (image.name.to_owned(), &self.registry, image));
        let packings = self
            .packings
            .iter()
            .map(|(packing, registry)| (format!("{ODD}, {packing}"), registry, self.image(ODD)));
        made.chain(packings)
    }

    pub fn image(&self, name: &str) -> &Image {
        let mut images = self.images.iter();
        images.find(|image| image.name == name).expect("one of them")
    }
}
