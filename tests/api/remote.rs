//! Commands with `--server`, beside the same with `--dir`: the same bytes and the same exit code.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::tar::{Member, Tar};
use crate::common::{
    OCI_EMPTY, OCI_INDEX, OCI_MANIFEST, REGISTRY, Registry, descriptor, eventually, need, noise,
};
use crate::files;
use crate::find::push;
use crate::support::{refused, sha256};

/// Runs a command without any login of whoever runs the tests.
fn run(arguments: &[&[u8]], home: &Path) -> Output {
    let mut command = Command::new(REGISTRY);
    command.args(arguments.iter().map(|argument| OsStr::from_bytes(argument)));
    for name in ["DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "SSL_CERT_FILE"] {
        command.env_remove(name);
    }
    command.env("HOME", home).env("NO_PROXY", "*").stdin(Stdio::null());
    command.output().expect("it runs")
}

struct Sides {
    registry: Registry,
    url: String,
    home: TempDir,
}

impl Sides {
    fn new(registry: Registry) -> Sides {
        let url = format!("http://{}", registry.host());
        Sides { registry, url, home: TempDir::new().expect("a temporary folder") }
    }

    /// Runs a command on the folder and on the server. Returns what both print.
    #[track_caller]
    fn same_bytes(&self, arguments: &[&[u8]]) -> Output {
        let (name, rest) = arguments.split_first().expect("a command");
        let dir = self.registry.dir.as_os_str().as_bytes();
        let [local, remote] = [[&b"--dir"[..], dir], [b"--server", self.url.as_bytes()]]
            .map(|place| run(&[&[*name], &place[..], rest].concat(), self.home.path()));
        let shown = arguments.iter().map(|argument| argument.escape_ascii().to_string());
        let shown = shown.collect::<Vec<_>>().join(" ");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert_eq!(text(&remote.stderr), text(&local.stderr), "{shown}");
        if remote.stdout != local.stdout {
            let [remote, local] =
                [&remote, &local].map(|output| output.stdout.split(|b| *b == b'\n'));
            let differs = remote.zip(local).find(|(remote, local)| remote != local);
            let (remote, local) = differs.expect("one is longer");
            panic!("{shown}: {:?} and not {:?}", text(remote), text(local));
        }
        assert_eq!(remote.status.code(), local.status.code(), "{shown}");
        local
    }

    #[track_caller]
    fn same(&self, line: &str) -> Output {
        let arguments: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        self.same_bytes(&arguments)
    }
}

const ODD: [&[u8]; 5] =
    [b"\xff\n.txt", b"100%25 of+it?x=1&y#z", b"caf\xc3\xa9", b"quote\"d\\", b" blank "];

fn base() -> Vec<u8> {
    let setuid = Member { mode: 0o4755, uid: 7, gid: 8, mtime: 1 << 32, ..Member::default() };
    let mut tar = Tar::default()
        .directory("etc/")
        .file("etc/app.conf", b"one\ntwo\nthree\nfour\nfive\nsix\nseven\ntwo\n")
        .file("etc/gone.pem", b"secret two\n")
        .file("etc/utf16", b"\xff\xfet\0w\0o\0\n\0")
        .file("binary", b"two\nmore\0two")
        .file(
            "late",
            &[
                &[&noise(5, 800).escape_ascii().to_string().into_bytes()[..], b"two\n"]
                    .concat()
                    .repeat(40)[..],
                b"\0two",
            ]
            .concat(),
        )
        .file("empty", b"")
        .member("bin/su", &noise(3, 300_000), &setuid)
        .hard_link("bin/same", "bin/su")
        .device("dev/null", b'3', (1, 3))
        .device("dev/pipe", b'6', (0, 0))
        .symlink("link", "etc")
        .symlink("dangling", "nowhere")
        .symlink("loop", "loop");
    for name in ODD {
        tar = tar.file([b"odd/", name].concat(), &[b"two in ", name].concat());
    }
    tar.symlink(b"odd/link\xfe", b"\xff\n.txt").finish()
}

fn top() -> Vec<u8> {
    let private = Member { mode: 0o600, ..Member::default() };
    Tar::default()
        .file("etc/app.conf", b"one\n2\nthree\nfour\nfive\nsix\nseven\neight\n")
        .file("etc/.wh.gone.pem", b"")
        .member("binary", b"two\nless\0two", &private)
        .file(".wh.odd", b"")
        .file("new\n/x", b"two\n")
        .hard_link("linked", "empty")
        .finish()
}

/// Images of every kind. All layers have an index.
fn store() -> Sides {
    let registry = Registry::start(&[]);
    files::push(&registry, "team/app", "1.4", &files::layers());
    push(&registry, "team/odd", "1", "linux/amd64", &[base()]);
    push(&registry, "team/odd", "2", "linux/amd64", &[base(), top()]);
    push(&registry, "other", "1", "linux/amd64", &[Tar::default().finish(), base()]);
    push(&registry, "untagged", "", "linux/amd64", &[top()]);
    let mut many = Tar::default();
    for number in 0..9000 {
        many = many.file(format!("many/{:01$}", number, 5 + number % 40), b"x");
    }
    push(
        &registry,
        "many",
        "1",
        "linux/amd64",
        &[many.finish(), Tar::default().file("many/.wh.000007", b"").finish()],
    );
    let mut children = Vec::new();
    for architecture in ["amd64", "arm64"] {
        let tar = Tar::default().file(format!("{architecture}.txt"), b"two\n").finish();
        let manifest = push(&registry, "multi", "", &format!("linux/{architecture}"), &[tar]);
        let mut child = descriptor(OCI_MANIFEST, &sha256(manifest.as_bytes()), manifest.len());
        child["platform"] = json!({"os": "linux", "architecture": architecture});
        children.push(child);
    }
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": children});
    let reply = registry.push_manifest("multi", "1", OCI_INDEX, index.to_string().as_bytes());
    assert_eq!(reply.status, 201, "{}", reply.text());
    registry.push_artifact(
        "artifact",
        "1",
        (OCI_EMPTY, "{}"),
        &[("text/plain", "content", Some("a file.txt"))],
        json!({}),
    );
    eventually("everything is indexed", || {
        registry.get("/v2/_query/find?name=none").text().contains("\"waiting_layers\":0")
    });
    Sides::new(registry)
}

/// The digest of the manifest that a tag leads to.
fn manifest(sides: &Sides, repository: &str, tag: &str) -> String {
    let reply = sides.registry.get(&format!("/v2/{repository}/manifests/{tag}"));
    sha256(&reply.body).to_string()
}

#[test]
fn images() {
    let sides = store();
    for line in [
        "ls team/app:1.4",
        "ls -l team/app:1.4",
        "ls -lR team/app:1.4 /",
        "ls -R team/app:1.4 usr",
        "ls --json team/app:1.4",
        "ls --json -R team/app:1.4 /etc/",
        "ls team/app:1.4 bin",
        "ls -l team/app:1.4 out",
        "ls -l team/app:1.4 etc/passwd",
        "ls --json team/app:1.4 etc/passwd",
        "ls team/app:1.4 empty",
        "ls --json team/app:1.4 empty",
        "ls -l team/app:1.4 dangling",
        "ls -l --deleted team/app:1.4 etc",
        "ls -lR --deleted team/odd:2",
        "ls --json -R --deleted team/odd:2",
        "ls -R --deleted team/odd:2 odd",
        "ls -lR team/odd:1",
        "ls -lR team/odd:2",
        "ls -R --json team/odd:1",
        "ls -l many:1 many",
        "ls -l --deleted many:1 many",
        "ls -R many:1",
        "ls multi:1",
        "ls --platform linux/arm64 multi:1",
        "ls --platform windows/amd64 multi:1",
        "ls --platform linux/s390x team/app:1.4",
        "ls artifact:1",
        "ls -lR artifact:1",
        "ls --json artifact:1",
        "ls --deleted artifact:1",
        "ls team/none",
        "ls 0123456789abcdef",
        "ls team/app:1.4 none",
        "ls team/app:1.4 etc/passwd/x",
        "ls team/app:1.4 loop/x",
        "ls --layer 0123456789ab team/app:1.4",
        "ls --layer 0123456789ab artifact:1",
        "cat team/app:1.4 etc/passwd",
        "cat team/app:1.4 /bin/same etc/new out zero",
        "cat team/app:1.4 etc/new none abs etc dev/null loop",
        "cat artifact:1 manifest.json",
        "cat --platform linux/arm64 multi:1 arm64.txt amd64.txt",
        "cat none:1 x",
        "export team/app:1.4",
        "export team/app:1.4 etc",
        "export team/app:1.4 etc/passwd",
        "export --gzip team/app:1.4",
        "export --gzip many:1",
        "export team/odd:2",
        "export artifact:1",
        "export team/app:1.4 none",
        "export -o /none/x team/app:1.4",
    ] {
        sides.same(line);
    }
    let odd = manifest(&sides, "team/odd", "2");
    let layers = [base(), top()].map(|tar| sha256(&tar).to_string());
    for line in [
        format!("ls {odd}"),
        format!("ls {}", &odd[7..30]),
        format!("ls team/odd@{odd}"),
        format!("ls -lR --layer {} {odd}", layers[1]),
        format!("ls --json -R --layer {} team/odd:2", &layers[0][7..25]),
        format!("cat --layer {} team/odd:2 etc/app.conf linked", layers[0]),
        format!("cat --layer {} team/odd:2 etc/app.conf linked", layers[1]),
        format!("export --layer {} team/odd:2", layers[1]),
        format!("ls --layer {} team/odd:1", layers[1]),
    ] {
        sides.same(&line);
    }
    for name in ODD {
        let path = [b"/odd/", name].concat();
        for command in ["ls", "cat", "export"] {
            let output = sides.same_bytes(&[command.as_bytes(), b"team/odd:1", &path]);
            assert!(output.status.success(), "{command} {}", path.escape_ascii());
        }
    }
    sides.same_bytes(&[b"cat", b"team/odd:1", b"odd/link\xfe", b"odd/none\xfe\x1b"]);
    // A file instead of stdout.
    let file = sides.home.path().join("x.tar");
    let file = file.to_str().expect("UTF-8");
    sides.same(&format!("export -o {file} team/app:1.4 etc"));
    assert_eq!(fs::metadata(file).expect("written").len() % 512, 0);
}

/// Layers of images of Docker's first API are fewer than those of their manifest.
#[test]
fn ids_of_the_first_api() {
    let sides = store();
    let ids = sides.registry.get("/v1/repositories/team/odd/images").json();
    let ids = ids.as_array().expect("a list");
    assert!(ids.len() > 2);
    for id in ids {
        let id = id["id"].as_str().expect("an id");
        let reply = sides.registry.get(&format!("/v1/images/{id}/ancestry"));
        for id in reply.json().as_array().expect("a list") {
            let id = id.as_str().expect("an id");
            sides.same(&format!("ls -lR {id}"));
            sides.same(&format!("ls --json {}", &id[..20]));
            sides.same(&format!("cat {id} etc/app.conf"));
        }
    }
}

#[test]
fn find() {
    let sides = store();
    let list = sides.home.path().join("list");
    let lines: String = (0..500).map(|n| format!("{}  x\n", sha256(&[n as u8]).hex())).collect();
    let lines = lines + &sha256(b"content").hex() + "\n" + &sha256(b"two\n").hex() + "\n";
    fs::write(&list, lines).expect("a file");
    for line in [
        "find *.conf",
        "find *.conf -0",
        "find *.txt --json",
        "find --images *.conf",
        "find --images",
        "find --images --count",
        "find --images --untagged -0",
        "find --layers app.conf",
        "find --layers --count",
        "find --count",
        "find --json --in team/**",
        "find --path /odd/** --in team/*",
        "find --deleted",
        "find --deleted *.pem --json",
        "find --type f --mode /6000",
        "find --mode -600 --type d",
        "find --size +100k",
        "find --size -5 --uid 0 --gid 0 --type f --in team/**",
        "find --newer 2010-01-01",
        "find --newer 2001-09-09T01:46:39.5Z --tag 2",
        "find --xattr user.*",
        "find nothing",
        "find --untagged x --json",
        "find [",
        "find --mode rwx",
        "find --sha256 12",
        "find --sha256 @/none",
        "find 0* --count",
        &format!("find --sha256 @{}", list.display()),
        &format!("find --sha256 {}", sha256(b"two\n")),
    ] {
        sides.same(line);
    }
    sides.same_bytes(&[b"find", "*é".as_bytes()]);
    sides.same_bytes(&[b"find", b"100%25 of+it\\?x=1&y#z"]);
}

#[test]
fn grep() {
    let sides = store();
    for line in [
        "grep two",
        "grep -n two",
        "grep -n -C 1 two",
        "grep -A 2 two --in team/**",
        "grep -n -B 1 -A 1 t..e -0",
        "grep -l two",
        "grep -L two --path /etc/**",
        "grep -c two",
        "grep -c -o o --in team/**",
        "grep -o t.",
        "grep -n -o -C 1 e",
        "grep -v two --path /etc/*",
        "grep -i TWO",
        "grep -S two -n",
        "grep -S TWO",
        "grep -w wo",
        "grep -F t.o",
        "grep -m 1 -n e --path /etc/*",
        "grep -a two --path /binary",
        "grep -a -c two",
        "grep --max-filesize 1K two -n",
        "grep --json two --in team/**",
        "grep --json -C 1 two --path /etc/**",
        "grep --json -c two",
        "grep --json -l two",
        "grep two team/odd:1 multi:1",
        "grep -e two -e three team/odd:2",
        "grep two team/none",
        "grep two Team",
        "grep ( team/odd:1",
        "grep --untagged -l two",
        "grep nothing-of-this",
        "grep -n -C 3 two --path /late",
    ] {
        sides.same(line);
    }
    sides.same_bytes(&[b"grep", b"in \\s", b"-n"]);
    sides.same_bytes(&[b"grep", b"-F", "caf\u{e9}".as_bytes()]);
    sides.same_bytes(&[b"grep", b"-F", b"x=1&y#z"]);
}

/// A file with more lines than are told at once, in several images.
#[test]
fn grep_in_parts() {
    let registry = Registry::start(&[]);
    let mut text = Vec::new();
    for number in 0..60_000 {
        let line = if number % 3 == 0 { "x match\n" } else { "between the lines there is more\n" };
        text.extend_from_slice(line.as_bytes());
    }
    let tar = Tar::default().file("a", &text).hard_link("b", "a").finish();
    push(&registry, "x", "1", "linux/amd64", std::slice::from_ref(&tar));
    push(&registry, "x", "2", "linux/amd64", &[tar]);
    eventually("everything is indexed", || {
        registry.get("/v2/_query/find?name=none").text().contains("\"waiting_layers\":0")
    });
    let sides = Sides::new(registry);
    for line in ["grep -n match", "grep -C 1 match", "grep -A 0 -B 0 match", "grep -o ma..h"] {
        let output = sides.same(line);
        assert!(output.stdout.len() > 1 << 18, "{line}");
    }
}

#[test]
fn diff() {
    let sides = store();
    for line in [
        "diff team/odd:1 team/odd:2",
        "diff team/odd:2 team/odd:1",
        "diff --stat team/odd:1 team/odd:2",
        "diff --patch team/odd:1 team/odd:2",
        "diff --patch team/odd:1 team/odd:2 /etc /new",
        "diff --json team/odd:1 team/odd:2",
        "diff --json team/odd:1 team/odd:2 etc",
        "diff team/odd:1 other:1",
        "diff --stat team/odd:1 many:1",
        "diff --platform linux/amd64 --platform-b linux/arm64 --patch multi:1 multi:1",
        "diff multi:1 multi:1",
        "diff --platform linux/s390x multi:1 multi:1",
        "diff team/odd:1 team/none",
        "diff team/none team/odd:1",
        "diff artifact:1 team/odd:1",
        "diff team/odd:1 team/odd:2 /none",
        "diff team/odd:1 team/odd:2 link",
    ] {
        sides.same(line);
    }
    for name in ODD {
        let path = [b"/odd/", name].concat();
        sides.same_bytes(&[b"diff", b"-p", b"team/odd:1", b"team/odd:2", &path]);
    }
}

#[test]
fn waste() {
    let sides = store();
    for line in [
        "waste team/odd:2",
        "waste team/odd:2 --json",
        "waste team/odd:2 --limit 1",
        "waste team/odd:2 --limit 0 --json",
        "waste team/odd:2 --limit 10001",
        "waste team/odd:1",
        "waste --check min-efficiency=0.999,max-wasted=1 team/odd:2",
        "waste --check max-wasted-percent=100 team/odd:2",
        "waste multi:1 --platform linux/arm64 --json",
        "waste team/none",
        "waste artifact:1",
        "waste --all",
        "waste --all --json",
        "waste --all --json --limit 2 --in team/**",
        "waste --all --untagged",
        "waste --all --tag 2",
        "waste --all --in nothing",
    ] {
        sides.same(line);
    }
}

#[test]
fn index() {
    let registry = Registry::start(&["--index-jobs", "0"]);
    push(&registry, "a", "1", "linux/amd64", &[base()]);
    push(&registry, "a", "2", "linux/amd64", &[base(), top()]);
    registry.push_image("broken", "1", "no tar");
    let sides = Sides::new(registry);
    // Layers that have no index.
    for line in ["find app.conf", "grep two", "waste --all", "find --json --in a"] {
        let output = sides.same(line);
        assert!(
            String::from_utf8_lossy(&output.stderr).contains("registry index --all"),
            "{line}: {output:?}"
        );
    }
    let home = sides.home.path();
    let first = run(&[b"index", b"--server", sides.url.as_bytes(), b"a:1"], home);
    let shown = String::from_utf8_lossy(&first.stdout).into_owned();
    assert!(first.status.success() && shown.contains(" entries, "), "{first:?}");
    sides.same("find app.conf");
    for line in [
        "index a:1",
        "index --json a:2 a:1",
        "index --index-jobs 1 a:2",
        "index --index-jobs 1 --all",
        "index --index-jobs 1 --all --json",
        "index --index-jobs 1 --force a:2",
        "index broken:1",
        "index --json broken:1",
        "index none:1",
    ] {
        sides.same(line);
    }
    sides.same("find app.conf");
}

/// What the commands ask, as docs/http-api.md has it.
#[test]
fn over_http() {
    let sides = store();
    let get = |path: &str| {
        let reply = sides.registry.get(path);
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        let text = String::from_utf8(files::body(&reply)).expect("UTF-8");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect::<Vec<Value>>()
    };
    let (manifest, layers) =
        (manifest(&sides, "team/odd", "2"), [base(), top()].map(|tar| sha256(&tar).to_string()));
    let image = get("/v2/_query/image?image=team/odd:2").remove(0);
    assert_eq!(
        image,
        json!({
            "id": format!("team/odd@{manifest}"), "repository": "team/odd", "manifest": manifest,
            "config": image["config"], "layers": layers, "warnings": [],
        })
    );
    assert!(image["config"].as_str().is_some_and(|config| config.starts_with("sha256:")));
    let artifact = get("/v2/_query/image?image=artifact:1").remove(0);
    assert_eq!((&artifact["config"], &artifact["layers"]), (&json!(null), &json!([])));
    let arm = get("/v2/_query/image?image=multi:1&platform=linux/arm64").remove(0);
    assert_ne!(arm["manifest"], get("/v2/_query/image?image=multi:1").remove(0)["manifest"]);

    let mut found = get("/v2/_query/layers?image=team/odd:2&image=team/odd:1");
    let end = found.pop().expect("an end");
    assert_eq!(end["end"]["lines"], 2);
    let layer =
        |layer: &str, size: usize| json!({"layer": layer, "size": size, "repository": "team/odd"});
    assert_eq!(found, [layer(&layers[0], base().len()), layer(&layers[1], top().len())]);
    assert!(get("/v2/_query/layers").len() > 6);

    for query in ["", "?force=1"] {
        let path = format!("/v2/team/odd/_index/{}{query}", layers[1]);
        let reply = sides.registry.send("POST", &path, &[], b"");
        let text = String::from_utf8(files::body(&reply)).expect("UTF-8");
        let last: Value = serde_json::from_str(text.lines().last().expect("a line")).expect("JSON");
        assert_eq!(last["entries"], 4, "{text}");
        assert_eq!(last["diff_id"], layers[1], "{text}");
    }
    for (method, path, status, code) in [
        ("POST", format!("/v2/other/none/_index/{}", layers[0]), 404, "BLOB_UNKNOWN"),
        ("POST", format!("/v2/team/app/_index/{}", layers[1]), 404, "BLOB_UNKNOWN"),
        ("POST", "/v2/team/odd/_index/sha256:12".to_owned(), 400, "DIGEST_INVALID"),
        ("POST", format!("/v2/team/odd/_index/{}?force=2", layers[1]), 400, "UNSUPPORTED"),
        ("GET", format!("/v2/team/odd/_index/{}", layers[1]), 405, "UNSUPPORTED"),
        ("GET", "/v2/_query/image".to_owned(), 400, "UNSUPPORTED"),
        ("GET", "/v2/_query/image?image=none:1".to_owned(), 404, "MANIFEST_UNKNOWN"),
        ("GET", "/v2/_query/image?image=multi:1&in=x".to_owned(), 400, "UNSUPPORTED"),
        ("GET", "/v2/_query/layers?image=none:1".to_owned(), 404, "MANIFEST_UNKNOWN"),
        ("GET", "/v2/_query/layers?in=x".to_owned(), 400, "UNSUPPORTED"),
        ("GET", "/v2/_query/grep?pattern=x&report=words".to_owned(), 400, "UNSUPPORTED"),
        ("GET", "/v2/_query/grep?pattern=x&max_count=-1".to_owned(), 400, "UNSUPPORTED"),
        ("GET", "/v2/_query/waste?platform=linux/amd64".to_owned(), 400, "UNSUPPORTED"),
        ("GET", "/v2/_query/waste?worst=x".to_owned(), 400, "UNSUPPORTED"),
    ] {
        refused(&sides.registry.send(method, &path, &[], b""), status, code, &path);
    }

    for (path, want) in [
        ("team%2Fodd:1/tree/link", "/v1/images/team%2Fodd%3A1/tree/etc/".to_owned()),
        ("team%2Fodd:1/tree/", "/v1/images/team%2Fodd%3A1/tree/".to_owned()),
        ("team%2Fodd:1/tree/odd/link%FE", "/v1/images/team%2Fodd%3A1/tree/odd/link%FE".to_owned()),
        ("team%2Fodd:1/tree/empty", "/v1/images/team%2Fodd%3A1/tree/empty".to_owned()),
    ] {
        for _ in 0..2 {
            let reply = sides.registry.get(&format!("/v1/images/{path}"));
            assert_eq!(reply.header("content-location"), Some(want.as_str()), "{path}");
            let head = sides.registry.head(&format!("/v1/images/{path}"));
            assert_eq!(head.header("content-location"), Some(want.as_str()), "{path}");
        }
    }

    // Reports on all images, a page for each.
    let mut whole = get("/v2/_query/waste?worst=1");
    whole.pop();
    let (mut paged, mut after) = (Vec::new(), String::new());
    loop {
        let mut page = get(&format!("/v2/_query/waste?worst=1&limit=1{after}"));
        let end = page.pop().expect("an end");
        paged.extend(page);
        let Some(next) = end["end"]["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    assert_eq!(paged, whole);
    assert!(
        whole.len() > 5
            && whole.iter().all(|report| report["paths"].as_array().expect("a list").len() < 2)
    );
}

/// Clients that leave while a layer is indexed give back what they had.
#[test]
fn clients_that_leave() {
    let sides = store();
    let layer = sha256(&base());
    for _ in 0..200 {
        let mut stream = sides.registry.connect();
        let request = format!(
            "POST /v2/team/odd/_index/{layer}?force=1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).expect("it reads");
        let _ = stream.read(&mut [0; 16]).expect("an answer");
    }
    sides.same("index --all --json --index-jobs 1");
}

/// More digests than a URL takes.
#[test]
fn a_long_list() {
    let sides = store();
    let list = sides.home.path().join("list");
    let lines = (0..20_000).map(|n: u32| sha256(&n.to_be_bytes()).hex() + "\n").collect::<String>();
    fs::write(&list, lines + &sha256(b"two\n").hex() + "\n").expect("a file");
    let output = sides.same(&format!("find --sha256 @{}", list.display()));
    assert!(output.stdout.starts_with(b"multi:1/amd64.txt\n"), "{output:?}");
}

/// A file of 10 GB, of which a few bytes are stored.
#[test]
fn a_sparse_file() {
    need("tar", "tar");
    const SIZE: u64 = 10 << 30;
    let temp = TempDir::new().expect("a temporary folder");
    let file = fs::File::create(temp.path().join("big")).expect("a file");
    // As many bytes as are looked at before a line is told.
    let text = b"needle at the beginning\n".repeat(4000);
    file.write_all_at(&text, 0).expect("space");
    file.write_all_at(b"\nneedle in the middle\n", SIZE / 2).expect("space");
    file.write_all_at(b"\nneedle at the end\n", SIZE - 19).expect("space");
    let mut tar = Command::new("tar");
    tar.args(["--sparse", "--format=gnu", "-C"]).arg(temp.path()).args(["-c", "big"]);
    let tar = tar.output().expect("tar runs").stdout;
    assert!(tar.len() < 1 << 20, "{} bytes", tar.len());
    let registry = Registry::start(&[]);
    push(&registry, "sparse", "1", "linux/amd64", &[tar]);
    eventually("it is indexed", || {
        registry.get("/v2/_query/find?name=none").text().contains("\"waiting_layers\":0")
    });
    let sides = Sides::new(registry);
    let start = Instant::now();
    let found = sides.same("find --size +9G");
    assert_eq!(found.stdout, b"sparse:1/big\n");
    assert!(sides.same("find --size 10G --type f --json").status.success());
    let lines = sides.same("grep -n needle");
    let shown = String::from_utf8(lines.stdout).expect("text");
    let lines = shown.lines().filter(|line| line.ends_with(":needle at the beginning")).count();
    // Those of the first 64 KiB.
    assert_eq!(lines, 2730);
    assert!(shown.ends_with("WARNING: stopped searching binary file after match (found \"\\0\" byte around offset 96000)\n"), "{}", &shown[shown.len() - 200..]);
    sides.same("grep -l nothing-of-this");
    sides.same("waste sparse:1");
    // As text it has lines of gigabytes, which are too long: the bounds are not the same.
    let dir = sides.registry.dir.to_str().expect("UTF-8").to_owned();
    for place in [["--dir", &dir], ["--server", &sides.url]] {
        let arguments = ["grep", place[0], place[1], "-a", "-c", "needle"];
        let output = run(&arguments.map(str::as_bytes), sides.home.path());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains("/big in sparse:1 cannot be searched"), "{stderr}");
    }
    assert!(start.elapsed() < Duration::from_secs(120), "{:?}", start.elapsed());
}

/// Questions whose answers have more than one part.
#[test]
fn parts() {
    let sides = store();
    // A server in between asks for two lines at a time.
    let proxy = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = proxy.local_addr().expect("an address");
    let server = sides.registry.address;
    std::thread::spawn(move || {
        for stream in proxy.incoming() {
            let mut stream = stream.expect("a connection");
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).expect("a request") > 0 {
                head.push(byte[0]);
            }
            let head = String::from_utf8(head).expect("text");
            let head = head.replace("limit=1000000", "limit=2");
            let head = head.replacen("\r\n", "\r\nConnection: close\r\n", 1);
            let mut upstream = std::net::TcpStream::connect(server).expect("the server");
            upstream.write_all(head.as_bytes()).expect("it reads");
            // The client may have left.
            let _ = std::io::copy(&mut upstream, &mut stream);
        }
    });
    let Sides { registry, home, .. } = sides;
    let sides = Sides { registry, home, url: format!("http://{address}") };
    for line in [
        "find --in team/**",
        "find --images --untagged",
        "find --json --deleted",
        "grep -n -C 1 two --in team/**",
        "grep -c two",
        "diff team/odd:1 team/odd:2",
        "diff --stat team/odd:1 team/odd:2",
        "waste --all --json",
        "index --all --index-jobs 1 --json",
    ] {
        sides.same(line);
    }
}

/// `registry … | head` has seen enough, which is no failure.
#[test]
fn a_reader_that_leaves() {
    let sides = store();
    for arguments in
        [&["ls", "-l", "many:1", "many"][..], &["find"], &["grep", "two"], &["export", "many:1"]]
    {
        let mut child = Command::new(REGISTRY)
            .arg(arguments[0])
            .args(["--server", &sides.url])
            .args(&arguments[1..])
            .env("HOME", sides.home.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it runs");
        let mut stdout = child.stdout.take().expect("piped");
        stdout.read_exact(&mut [0; 100]).expect("the start");
        drop(stdout);
        let output = child.wait_with_output().expect("its end");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), &*stderr), (Some(0), ""), "{arguments:?}");
    }
}

/// Messages name the URL, and say what to do.
#[test]
fn servers_that_do_not_answer() {
    let home = TempDir::new().expect("a temporary folder");
    let closed =
        TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let answering = |answer: &'static str| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        format!("http://{address}")
    };
    let text = answering(
        "HTTP/1.1 404 Not Found\r\nContent-Length: 18\r\nConnection: close\r\n\r\n404 page not found",
    );
    let none = answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}");
    let digest = answering(
        "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\nWWW-Authenticate: Digest realm=\"x\"\r\n\r\n",
    );
    let basic = answering(
        "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\nWWW-Authenticate: Basic realm=\"x\"\r\n\r\n",
    );
    let broken = answering(
        "HTTP/1.1 503 Busy\r\nContent-Length: 44\r\nConnection: close\r\n\r\n{\"errors\":[{\"code\":\"UNKNOWN\",\"message\":\"m\"}]}",
    );
    let no_http = answering("SSH-2.0-OpenSSH_9.2\r\n");
    for (url, complaint) in [
        (format!("http://{closed}"), "does `registry serve` run?"),
        (text, "does not answer as `registry serve` does"),
        (none, "cannot be read"),
        (digest, "a login of a kind that is not known here"),
        (basic, "`docker login 127.0.0.1:"),
        (broken, "503"),
        (no_http, "cannot connect"),
        ("https://none.invalid".to_owned(), "https://none.invalid"),
    ] {
        for (command, code) in [("ls", 1), ("waste", 2)] {
            let output =
                run(&[command.as_bytes(), b"--server", url.as_bytes(), b"x:1"], home.path());
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(code), "{stderr}");
            assert!(stderr.contains(complaint) && stderr.contains(&url), "{url}: {stderr}");
        }
    }
    for (url, complaint) in [
        ("localhost:8000", "want http://HOST"),
        ("http://ann:secret@localhost", "docker login"),
        ("http://localhost/registry", "want http://HOST"),
    ] {
        let output = run(&[b"ls", b"--server", url.as_bytes(), b"x:1"], home.path());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(complaint), "{stderr}");
    }
}

/// An answer that breaks off is an error, whatever has been printed.
#[test]
fn an_answer_that_breaks_off() {
    let home = TempDir::new().expect("a temporary folder");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut request = [0; 4096];
            let length = stream.read(&mut request).unwrap_or(0);
            let request = String::from_utf8_lossy(&request[..length]).into_owned();
            let path = request.split(' ').nth(1).unwrap_or_default();
            let whole = |body: &str| format!("Content-Length: {}\r\n\r\n{body}", body.len());
            let chunk = "Transfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n".to_owned();
            let rest = match path {
                "/v2/" => whole("{}"),
                _ if path.starts_with("/v2/_query/image") => whole(
                    r#"{"id":"x:1","repository":"x","manifest":"m","config":"c","warnings":[]}"#,
                ),
                _ if path.contains("/blobs/") => "Content-Length: 100\r\n\r\nsome".to_owned(),
                _ => chunk,
            };
            let head =
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Location: /v1/images/x/tree/";
            let _ = stream.write_all(format!("{head}\r\n{rest}").as_bytes());
        }
    });
    for (line, code) in [
        ("ls --json x:1", 1),
        ("ls x:1", 1),
        ("cat x:1 a", 1),
        ("export x:1", 1),
        ("export -o /dev/null x:1", 1),
        ("find x", 2),
        ("grep x", 2),
        ("diff x:1 x:1", 2),
        ("waste x:1", 2),
        ("waste --all", 2),
        ("index --all", 1),
    ] {
        let (command, rest) = line.split_once(' ').expect("arguments");
        let rest = rest.split(' ').map(str::as_bytes);
        let arguments = [command.as_bytes(), b"--server", url.as_bytes()];
        let arguments: Vec<&[u8]> = arguments.into_iter().chain(rest).collect();
        let output = run(&arguments, home.path());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{line}: {stderr}");
        assert!(stderr.contains("broke off") && stderr.contains(&url), "{line}: {stderr}");
    }
}
