//! The Docker engine, run by the test with everything it writes in a temporary
//! folder: no bridge, no firewall rules, no settings and no mounts of the
//! machine's.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use registry::oci::Digest;
use serde_json::Value;

use crate::authority::Authority;
use crate::common::{DOCKER_LIST, DOCKER_MANIFEST, Registry, SOON, eventually, need, run};
use crate::home::{Home, printed_digest};
use crate::layout::Layout;
use crate::tree::{self, Tree};
use crate::{await_log, manifest};

/// Starts the engine. The machine's settings are hidden from it, and so are its
/// mounts from the machine; should this program be killed, the kernel stops it.
const ENGINE: &str =
    r#"mount -t tmpfs tmpfs /etc/docker && exec setpriv --pdeathsig=TERM dockerd "$@""#;

struct Engine<'a> {
    home: &'a Home,
    socket: String,
    child: Child,
}

impl<'a> Engine<'a> {
    /// Trusts `authority`, and no other, for registries outside 127.0.0.0/8.
    fn start(home: &'a Home, authority: Option<&Authority>) -> Engine<'a> {
        let owner = fs::metadata("/proc/self").expect("this process").uid();
        assert_eq!(owner, 0, "the Docker engine must be started by root");
        need("dockerd", "docker.io");
        let socket = format!("unix://{}", home.path("engine.sock"));
        let log = File::create(home.path("engine.log")).expect("a file");
        let mut command = home.command("unshare", &["--mount", "sh", "-c", ENGINE, "sh"]);
        command
            .args(["--data-root", &home.path("engine/data")])
            .args(["--exec-root", &home.path("engine/exec")])
            .args(["--pidfile", &home.path("engine.pid")])
            .args(["--host", &socket])
            .args(["--iptables=false", "--bridge=none"])
            .args(["--insecure-registry", "127.0.0.0/8"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        if let Some(authority) = authority {
            command.env("SSL_CERT_FILE", &authority.file);
            command.env("SSL_CERT_DIR", &authority.folder);
        }
        let child = command.spawn().expect("unshare, of every Debian");
        let mut engine = Engine {
            home,
            socket,
            child,
        };
        eventually("the Docker engine answers", || {
            let ended = engine.child.try_wait().expect("a status");
            assert!(ended.is_none(), "the engine ended:\n{}", engine.log());
            let mut version = engine.command(&["version"]);
            version.output().is_ok_and(|output| output.status.success())
        });
        engine
    }

    fn log(&self) -> String {
        fs::read_to_string(self.home.path("engine.log")).expect("a log")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self
            .home
            .command("docker", &[&["--host", &self.socket], arguments].concat());
        // The builder that is part of every engine.
        command
            .env("DOCKER_BUILDKIT", "0")
            .env_remove("DOCKER_CONTEXT");
        command
    }

    fn docker(&self, arguments: &[&str]) -> String {
        let output = run(&mut self.command(arguments));
        String::from_utf8(output.stdout).expect("text")
    }

    fn image_id(&self, image: &str) -> String {
        let id = self.docker(&["image", "inspect", "--format={{.Id}}", image]);
        id.trim().to_owned()
    }

    /// The files of an image, without those that the engine adds.
    fn files(&self, image: &str) -> Tree {
        let container = self.docker(&["create", "--network=none", image]);
        let container = container.trim();
        let [tar, root] =
            ["tar", "root"].map(|kind| self.home.path(&format!("{container}.{kind}")));
        self.docker(&["export", "--output", &tar, container]);
        self.docker(&["rm", container]);
        fs::create_dir(&root).expect("a folder");
        self.home
            .run("tar", &["-C", &root, "--numeric-owner", "-xf", &tar]);
        without_engine_files(tree::read(Path::new(&root)))
    }

    /// Removes every image, so that a pull has nothing to build on.
    fn forget(&self) {
        self.docker(&["image", "prune", "--all", "--force"]);
        assert_eq!(self.docker(&["image", "ls", "--all", "--quiet"]), "");
    }
}

impl Drop for Engine<'_> {
    /// Nothing here may panic: a failed test gets here too.
    fn drop(&mut self) {
        let kill = |signal: &str, pid: &str| {
            drop(Command::new("kill").args([signal, pid]).status());
        };
        // It stops its containers and its containerd.
        kill("-TERM", &self.child.id().to_string());
        let deadline = Instant::now() + SOON;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let containerd = self.home.path("engine/exec/containerd/containerd.pid");
                kill(
                    "-KILL",
                    fs::read_to_string(containerd).unwrap_or_default().trim(),
                );
                drop(self.child.kill());
                drop(self.child.wait());
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Takes out what a container has of its own, and the folders whose times that
/// changes.
fn without_engine_files(mut tree: Tree) -> Tree {
    const FILES: [&str; 7] = [
        ".dockerenv",
        "dev",
        "etc",
        "etc/hostname",
        "etc/hosts",
        "etc/mtab",
        "etc/resolv.conf",
    ];
    const FOLDERS: [&str; 3] = ["dev/", "proc", "sys"];
    tree.retain(|name, _| {
        !FILES.contains(&name.as_str()) && !FOLDERS.iter().any(|folder| name.starts_with(folder))
    });
    tree
}

/// A root file system of Debian packages, as a tar file.
fn debian(home: &Home) -> String {
    let release = fs::read_to_string("/etc/os-release").expect("a Debian");
    let codename = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .expect("a Debian release");
    let tar = home.path("debian.tar");
    home.run(
        "mmdebstrap",
        &[
            "--quiet",
            "--variant=extract",
            "--include=base-files,busybox-static",
            codename,
            &tar,
        ],
    );
    tar
}

/// Layers that add, remove and replace, with links and a mode of each sort.
const DOCKERFILE: &str = r#"FROM debian
SHELL ["/bin/busybox", "sh", "-c"]
RUN busybox --install -s /bin
RUN rm -r /etc/issue /usr/share/doc && ln /etc/debian_version /etc/version && mkdir -m 1777 /data && echo content > /data/file && chmod 4711 /data/file
CMD ["cat", "/data/file"]
"#;

#[test]
fn build_push_remove_pull_run() {
    let (home, registry) = (Home::new(), Registry::start(&[]));
    let engine = Engine::start(&home, None);
    let image = format!("{}/team/app:1", registry.host());
    engine.docker(&["import", &debian(&home), "debian"]);
    let context = home.path("context");
    fs::create_dir(&context).expect("a folder");
    fs::write(format!("{context}/Dockerfile"), DOCKERFILE).expect("a file");
    engine.docker(&["build", "--network=none", "--tag", &image, &context]);
    let (id, files) = (engine.image_id(&image), engine.files(&image));
    assert!(files.len() > 200, "{}", files.len());

    let pushed = printed_digest(&engine.docker(&["push", &image]));
    let reply = manifest(registry.address, "team/app", "1");
    assert_eq!(reply.header("content-type"), Some(DOCKER_MANIFEST));
    let digest = pushed.to_string();
    assert_eq!(reply.header("docker-content-digest"), Some(digest.as_str()));
    let json = reply.json();
    assert_eq!(json["config"]["digest"], id);
    assert_eq!(json["layers"].as_array().map(Vec::len), Some(3));

    engine.forget();
    let by_digest = format!("{}/team/app@{pushed}", registry.host());
    for name in [&image, &by_digest] {
        assert_eq!(printed_digest(&engine.docker(&["pull", name])), pushed);
        assert_eq!(engine.image_id(name), id);
    }
    let printed = engine.docker(&["run", "--rm", "--network=none", &image]);
    assert_eq!(printed, "content\n");
    tree::assert_same("pushed and pulled", &files, &engine.files(&image));

    pulled_by_others(&home, &image, &reply.body, &files);
    other_repositories(&engine, &registry, &image, &pushed);
}

/// The image that the engine pushed, for clients with an unpacker of their own.
fn pulled_by_others(home: &Home, image: &str, manifest: &[u8], files: &Tree) {
    let from = format!("docker://{image}");
    let [layout, bundle, copy] = ["layout", "bundle", "copy"].map(|name| home.path(name));
    home.copy(&from, &format!("dir:{copy}"), &[]);
    let copied = fs::read(format!("{copy}/manifest.json")).expect("a file");
    assert_eq!(copied, manifest);

    home.copy(&from, &format!("oci:{layout}:1"), &[]);
    let layout = format!("{layout}:1");
    home.run("umoci", &["unpack", "--image", &layout, &bundle]);
    let unpacked = tree::read(&Path::new(&bundle).join("rootfs"));
    let mounted = tree::read(Path::new(&home.podman_pull(image)));
    tree::assert_same("umoci and podman", &unpacked, &mounted);
    let mounted = without_engine_files(mounted);
    tree::assert_same("Docker and podman", files, &mounted);
    let json: Value = serde_json::from_slice(manifest).expect("JSON");
    let id = home.podman(&["image", "inspect", "--format=sha256:{{.Id}}", image]);
    assert_eq!(json["config"]["digest"], id.trim());
}

/// The same image under other names: layers are mounted, not sent again; a
/// manifest list of the client's making; every tag at once.
fn other_repositories(engine: &Engine, registry: &Registry, image: &str, digest: &Digest) {
    let other = format!("{}/other", registry.host());
    let [list, plain] = ["list", "plain"].map(|tag| format!("{other}:{tag}"));
    let id = engine.image_id(image);
    engine.docker(&["tag", image, &plain]);
    let pushed = engine.docker(&["push", "--all-tags", &other]);
    assert_eq!(printed_digest(&pushed), *digest);
    let mount = "/v2/other/blobs/uploads/?from=team%2Fapp&mount=";
    await_log(registry, 3, &[mount, "status=201"]);

    engine.docker(&["manifest", "create", "--insecure", &list, image]);
    engine.docker(&["manifest", "push", "--insecure", &list]);
    let reply = manifest(registry.address, "other", "list");
    assert_eq!(reply.header("content-type"), Some(DOCKER_LIST));
    assert_eq!(reply.json()["manifests"][0]["digest"], digest.to_string());

    engine.forget();
    engine.docker(&["pull", "--all-tags", &other]);
    for name in [&list, &plain] {
        assert_eq!(engine.image_id(name), id);
    }
}

/// The engine takes any certificate from 127.0.0.0/8, and 0.0.0.0 is another
/// name for this machine.
#[test]
fn over_tls() {
    let home = Home::new();
    let [ours, other] = ["ours", "other"].map(|name| Authority::new(&home, name));
    let [registry, stranger] = [ours.registry(), other.registry()];
    let host =
        |registry: &Registry| format!("{}:{}", Ipv4Addr::UNSPECIFIED, registry.address.port());
    let image = format!("{}/team/app:1", host(&registry));
    let layout = Layout::make(&home.path("layout"), 1);
    home.copy(&layout.reference(), &format!("docker://{image}"), &[]);

    let engine = Engine::start(&home, Some(&ours));
    let pulled = engine.docker(&["pull", &image]);
    assert_eq!(printed_digest(&pulled), layout.image());
    let id = engine.image_id(&image);
    let pushed = format!("{}/other:1", host(&registry));
    engine.docker(&["tag", &image, &pushed]);
    let digest = printed_digest(&engine.docker(&["push", &pushed]));
    engine.forget();
    assert_eq!(printed_digest(&engine.docker(&["pull", &pushed])), digest);
    assert_eq!(engine.image_id(&pushed), id);

    let refused = engine
        .command(&["pull", &format!("{}/team/app:1", host(&stranger))])
        .output();
    let refused = refused.expect("docker");
    let complaint = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && complaint.contains("x509"),
        "{complaint}"
    );
}
