//! Hooks

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;

use tempfile::TempDir;

use crate::common::{Registry, eventually};
use crate::support::{METRICS, bare, fast_folder, metric, push, tag_all};

/// A folder with an executable file.
fn script(folder: &Path, name: &str, text: &str) -> PathBuf {
    fs::create_dir_all(folder).unwrap();
    let path = folder.join(name);
    fs::write(&path, format!("#!/bin/bash\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// What a hook wrote, once it is all there.
fn written(path: &Path) -> String {
    eventually(&format!("{} is there", path.display()), || path.exists());
    fs::read_to_string(path).unwrap()
}

/// A script that writes what it is given to the file at `$OUT/EVENT`.
const RECORD: &str = r#"
{ printf '%s\n' "$#" "$@"; env | grep ^REGISTRY_ | LC_ALL=C sort; } > "$OUT/$REGISTRY_EVENT.new"
mv "$OUT/$REGISTRY_EVENT.new" "$OUT/$REGISTRY_EVENT""#;

#[test]
fn arguments_and_environment() {
    let out = TempDir::new().unwrap();
    let temp = TempDir::new().unwrap();
    let kinds = ["tag", "untag", "image", "layer", "verify", "index", "delete"];
    let flags: Vec<_> = kinds.iter().map(|kind| format!("--on-{kind}")).collect();
    let script = format!("test \"$0\" = \"$REGISTRY_EVENT\" || exit 1\n{RECORD}");
    let arguments: Vec<_> =
        flags.iter().flat_map(|flag| [flag.as_str(), script.as_str()]).collect();
    let mut command = Registry::command(temp.path(), &arguments);
    // Secrets among them are not the hooks' business.
    command.env("OUT", out.path()).env("REGISTRY_DRAIN_TIMEOUT", "17s");
    let registry = Registry::spawn(temp.path(), command);
    let image = push(&registry, "team/app", "1.0", "a", b"1");
    let (config, layer) = (image.config.hex(), image.layer.hex());
    let dir = temp.path().display();
    let about = |kind: &str, id: &str, digest: &str, tag: &str| {
        format!(
            "REGISTRY_ADDRESS=127.0.0.1\nREGISTRY_DIGEST={digest}\nREGISTRY_DIR={dir}\nREGISTRY_EVENT={kind}\n\
            REGISTRY_ID={id}\nREGISTRY_REPOSITORY=team/app\nREGISTRY_TAG={tag}\nREGISTRY_USER=\n"
        )
    };
    let check = |kind: &str| {
        let (id, digest) = match kind {
            "layer" | "index" => (&layer, image.layer.to_string()),
            _ => (&config, image.manifest.to_string()),
        };
        let tag = "team/app:1.0";
        let want = match kind {
            "tag" | "untag" => format!("2\n{id}\n{tag}\n{}", about(kind, id, &digest, tag)),
            _ => format!("1\n{id}\n{}", about(kind, id, &digest, "")),
        };
        assert_eq!(written(&out.path().join(kind)), want, "{kind}");
    };
    ["tag", "image", "layer", "verify", "index"].iter().for_each(|kind| check(kind));
    let path = format!("/v2/team/app/manifests/{}", image.manifest);
    assert_eq!(registry.delete(&path).status, 202);
    ["untag", "delete"].iter().for_each(|kind| check(kind));
}

/// Files named like events are run directly, whatever their folder is called;
/// a script on the command line goes before them.
#[test]
fn a_folder_of_hooks() {
    let temp = TempDir::new().unwrap();
    let folder = temp.path().join("it's \"here\"\n$(touch x) `touch y`");
    let out = temp.path().join("out");
    fs::create_dir(&out).unwrap();
    script(&folder, "tag", RECORD);
    script(&folder, "image", "echo the folder's > \"$OUT/wrong\"");
    let passed_over = script(&folder, "layer", RECORD);
    fs::set_permissions(&passed_over, fs::Permissions::from_mode(0o644)).unwrap();
    let arguments = ["--hooks", folder.to_str().unwrap(), "--on-image", RECORD];
    let dir = temp.path().join("registry");
    fs::create_dir(&dir).unwrap();
    let mut command = Registry::command(&dir, &arguments);
    command.env("OUT", &out).current_dir(&dir);
    let registry = Registry::spawn(&dir, command);
    let image = push(&registry, "a", "1", "a", b"1");
    let tag = written(&out.join("tag"));
    assert!(tag.starts_with(&format!("2\n{}\na:1\n", image.config.hex())), "{tag}");
    written(&out.join("image"));
    // In order: the layer's hook would have been the first.
    assert!(!out.join("layer").exists() && !out.join("wrong").exists());
    let log = registry.log();
    assert!(log.contains("no hook: it is not an executable file"), "{log}");
    assert!(!dir.join("x").exists() && !dir.join("y").exists());
}

/// `DIR/hooks` is taken without being named, as by the npm server; the working directory, which
/// may belong to anybody, is not looked at.
#[test]
fn the_folder_beside() {
    let [temp, elsewhere] = [(); 2].map(|()| TempDir::new().unwrap());
    script(&temp.path().join("hooks"), "tag", RECORD);
    script(&elsewhere.path().join("hooks"), "image", "touch \"$OUT/wrong\"");
    let mut command = Registry::command(temp.path(), &[]);
    command.env("OUT", temp.path()).current_dir(elsewhere.path());
    let registry = Registry::spawn(temp.path(), command);
    push(&registry, "a", "1", "a", b"1");
    assert!(written(&temp.path().join("tag")).starts_with("2\n"));
    assert!(!temp.path().join("wrong").exists());
}

/// A hook that other users can change would run their commands as the server.
#[test]
fn hooks_that_others_can_change() {
    for (what, mode) in [("hooks", 0o777), ("hooks", 0o775), ("hooks/tag", 0o757)] {
        let temp = TempDir::new().unwrap();
        script(&temp.path().join("hooks"), "tag", RECORD);
        let path = temp.path().join(what);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let output = Registry::command(temp.path(), &[]).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        let says = format!("{} can be changed by other users", path.display());
        assert!(!output.status.success() && text.contains(&says), "{text}");
    }
}

/// More than a thousand at once: none is lost, those of a repository are in
/// order, and those of several run beside each other.
#[test]
fn a_thousand_at_once() {
    let folder = fast_folder();
    let out = TempDir::new().unwrap();
    let script = r#"printf '%s %s\n' "$1" "$2" >> "$OUT/${REGISTRY_REPOSITORY//\//_}""#;
    let mut command = Registry::command(folder.path(), &["--on-tag", script]);
    command.env("OUT", out.path());
    let registry = Registry::spawn(folder.path(), command);
    let tags: Vec<_> = (0..320).map(|n| format!("t{n}")).collect();
    let repositories = ["a", "team/b", "c", "d"];
    thread::scope(|scope| {
        for repository in repositories {
            let (registry, tags) = (&registry, &tags);
            scope.spawn(move || {
                let manifest = bare(registry, repository);
                tag_all(registry, repository, manifest.as_bytes(), tags);
            });
        }
    });
    for repository in repositories {
        let path = out.path().join(repository.replace('/', "_"));
        let lines = || fs::read_to_string(&path).unwrap_or_default();
        eventually("all hooks ran", || lines().lines().count() == tags.len());
        let id = registry::oci::Algorithm::Sha256.digest(b"{}").hex();
        let want: String = tags.iter().map(|tag| format!("{id} {repository}:{tag}\n")).collect();
        assert_eq!(lines(), want);
    }
}

/// Whatever a hook does, the push is not told of it; the log and the metrics are.
#[test]
fn bad_hooks() {
    let cases = [
        ("exit 3", "failed: exit status: 3", "failed"),
        ("kill -9 $$", "failed: signal: 9", "failed"),
        ("/does/not/exist", "No such file or directory", "failed"),
        ("if", "syntax error", "failed"),
        ("echo $$ > \"$OUT/pid\"; sleep 1000", "it took longer than --hook-timeout", "timeout"),
        (
            "trap '' TERM; echo $$ > \"$OUT/pid\"; sleep 1000 & wait; sleep 1000",
            "it took longer than --hook-timeout",
            "timeout",
        ),
    ];
    thread::scope(|scope| {
        for (script, logged, result) in cases {
            scope.spawn(move || {
                let out = TempDir::new().unwrap();
                let arguments =
                    [&["--on-tag", script, "--hook-timeout", "300ms"], &METRICS[..]].concat();
                let mut command = Registry::command(out.path(), &arguments);
                command.env("OUT", out.path());
                let registry = Registry::spawn(out.path(), command);
                push(&registry, "a", "1", "a", b"1");
                let counted = format!("registry_hooks_total{{event=\"tag\",result=\"{result}\"}}");
                eventually("it is counted", || metric(&registry, &counted) == 1);
                let what = format!("{script}: the log says {logged:?}");
                eventually(&what, || registry.log().contains(logged));
                if let Ok(pid) = fs::read_to_string(out.path().join("pid")) {
                    eventually("its processes are gone", || group(pid.trim()).is_empty());
                }
                // And the next one comes.
                push(&registry, "a", "2", "a", b"2");
                eventually("it is counted", || metric(&registry, &counted) == 2);
            });
        }
    });
}

/// The processes of a group.
fn group(leader: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap() {
        let path = entry.unwrap().path();
        let Ok(stat) = fs::read_to_string(path.join("stat")) else {
            continue;
        };
        // `PID (NAME) STATE PPID PGRP …`, and a name may hold anything.
        let after = stat.rsplit(')').next().unwrap();
        let fields: Vec<_> = after.split_whitespace().collect();
        if fields.get(2) == Some(&leader) && fields.first() != Some(&"Z") {
            found.push(stat.clone());
        }
    }
    found
}

/// A hook has its own files and none of the server's, whose sockets it would
/// keep open.
#[test]
fn nothing_is_inherited() {
    let out = TempDir::new().unwrap();
    let script = r#"ls -l /proc/$$/fd > "$OUT/fds.new"; readlink /proc/$$/fd/0 > "$OUT/stdin"; mv "$OUT/fds.new" "$OUT/fds""#;
    let mut command = Registry::command(out.path(), &["--on-tag", script]);
    command.env("OUT", out.path());
    let registry = Registry::spawn(out.path(), command);
    let _open: Vec<_> = (0..5).map(|_| registry.connect()).collect();
    push(&registry, "a", "1", "a", b"1");
    let fds = written(&out.path().join("fds"));
    let dir = out.path().to_str().unwrap();
    let ours = ["socket:", "anon_inode:", dir];
    assert!(!ours.iter().any(|ours| fds.contains(ours)), "{fds}");
    // Who starts the server may have left it some of his own.
    assert!(fds.matches(" -> ").count() >= 3, "{fds}");
    assert_eq!(fs::read_to_string(out.path().join("stdin")).unwrap(), "/dev/null\n");
}

#[test]
fn output_goes_to_the_log_by_line() {
    let script = r#"echo one; echo two >&2; printf '\033[31mred\r\n'; head -c 3000 /dev/zero | tr '\0' x; echo; printf end; exit 1"#;
    let registry = Registry::start(&["--on-tag", script]);
    let image = push(&registry, "a", "1", "a", b"1");
    eventually("it failed", || registry.log().contains("failed: exit status: 1"));
    let log = registry.log();
    let id = &image.config.hex()[..12];
    let prefix = format!("INFO hook tag {id}: ");
    let lines: Vec<_> = log.lines().filter_map(|line| line.split(&prefix).nth(1)).collect();
    let long = "x".repeat(1024);
    let want = ["one", "two", r"\u{1b}[31mred\r", &long, &long, &long[..952], "end"];
    assert_eq!(lines, want);
}

/// At a stop, hooks get what is left of the time that requests get, and then end.
#[test]
fn stopping() {
    let out = TempDir::new().unwrap();
    let script = r#"if test $REGISTRY_TAG = a:hangs; then echo $$ > "$OUT/pid.new"; mv "$OUT/pid.new" "$OUT/pid"; sleep 1000
        else sleep 1; echo "$2" >> "$OUT/done"; fi"#;
    let start = |arguments: &[&str]| {
        let mut command =
            Registry::command(out.path(), &[&["--on-tag", script], arguments].concat());
        command.env("OUT", out.path());
        Registry::spawn(out.path(), command)
    };
    let mut registry = start(&[]);
    push(&registry, "a", "1", "a", b"1");
    push(&registry, "a", "2", "a", b"1");
    assert!(registry.stop().success());
    assert_eq!(fs::read_to_string(out.path().join("done")).unwrap(), "a:1\na:2\n");

    let mut registry = start(&["--drain-timeout", "200ms"]);
    push(&registry, "a", "hangs", "a", b"1");
    push(&registry, "a", "3", "a", b"1");
    let pid = written(&out.path().join("pid"));
    assert!(registry.stop().success());
    assert_eq!(group(pid.trim()), [""; 0]);
    let log = registry.log();
    assert!(log.contains("stopped before the hooks of all events ran events=1"), "{log}");
    assert_eq!(fs::read_to_string(out.path().join("done")).unwrap(), "a:1\na:2\n");
}

#[test]
fn wrong_flags() {
    for (arguments, says) in [
        (&["--hooks", "/does/not/exist"][..], "--hooks /does/not/exist is not a folder"),
        (&["--hook-jobs", "0"], "--hook-jobs"),
        (&["--notify", "ftp://a/b"], "--notify wants URLs that start with http:// or https://"),
        (&["--notify", "http://me:secret@a/"], "--notify does not take a password in the URL"),
        (&["--notify", "http://a", "--notify", "http://a"], "--notify names a URL on a twice"),
        (&["--notify-header", "A: b"], "--notify-header needs --notify"),
        (
            &["--notify", "http://a", "--notify-header", "secret"],
            "--notify-header wants NAME: VALUE",
        ),
        (
            &["--notify", "http://a", "--notify-header", "@/does/not/exist"],
            "cannot read /does/not/exist",
        ),
    ] {
        let temp = TempDir::new().unwrap();
        let output = Registry::command(temp.path(), arguments).output().unwrap();
        assert!(!output.status.success());
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains(says) && !text.contains("secret"), "{arguments:?}: {text}");
    }
}
