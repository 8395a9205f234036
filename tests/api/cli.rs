//! The commands that look into images, on a registry's folder: beside its server
//! and without one.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::common::tar::Tar;
use crate::common::{REGISTRY, Registry, need, noise};
use crate::files::{body, push, registry};

fn command(dir: &Path, arguments: &[&str]) -> Command {
    let (name, rest) = arguments.split_first().expect("a command");
    let mut command = Command::new(REGISTRY);
    command.arg(name).arg("--dir").arg(dir).args(rest);
    command.stdin(Stdio::null());
    command
}

fn output(dir: &Path, arguments: &[&str]) -> Output {
    command(dir, arguments).output().expect("it runs")
}

/// What a command prints that must succeed and not complain.
#[track_caller]
pub fn printed(dir: &Path, arguments: &[&str]) -> Vec<u8> {
    let output = output(dir, arguments);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {complaint}");
    assert_eq!(complaint, "", "{arguments:?}");
    output.stdout
}

#[track_caller]
pub fn text(dir: &Path, arguments: &[&str]) -> String {
    String::from_utf8(printed(dir, arguments)).expect("UTF-8")
}

/// Checks a failure: its exit code, and what stderr says.
#[track_caller]
pub fn fails(dir: &Path, arguments: &[&str], code: i32, complaint: &str) -> Vec<u8> {
    let output = output(dir, arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
    assert!(stderr.contains(complaint), "{arguments:?}: {stderr}");
    output.stdout
}

const APP: &str = "team/app:1.4";

fn listings(dir: &Path) {
    assert_eq!(
        text(dir, &["ls", APP]),
        "abs\nbin\ndangling\ndev\nempty\netc\nloop\nout\nusr\nzero\n"
    );
    for path in ["etc", "/etc/", "//etc"] {
        assert_eq!(text(dir, &["ls", APP, path]), "new\npasswd\n", "{path}");
    }
    assert_eq!(text(dir, &["ls", APP, "/bin"]), "long\nsame\n", "a link");
    assert_eq!(text(dir, &["ls", APP, "/abs"]), "/abs\n");
    assert_eq!(text(dir, &["ls", APP, "/empty"]), "");
    assert_eq!(text(dir, &["ls", "-R", APP, "usr"]), "/usr/bin\n/usr/bin/long\n/usr/bin/same\n");
    assert_eq!(
        text(dir, &["ls", "--long", APP, "dev"]),
        "crw-r--r-- 0 0 1, 3 2001-09-09 01:46 null\n\
         prw-r--r-- 0 0    0 2001-09-09 01:46 pipe\n\
         brw-r--r-- 0 0 8, 0 2001-09-09 01:46 sda\n"
    );
    assert_eq!(
        text(dir, &["ls", "-l", APP, "/etc"]),
        "-rw-r--r-- 0 0  3 2001-09-09 01:46 new\n\
         -rw-r----- 1 2 11 2009-02-13 23:31 passwd\n"
    );
    assert_eq!(
        text(dir, &["ls", "-lR", APP, "usr"]),
        "drwxr-xr-x 0 0      0 2001-09-09 01:46 /usr/bin\n\
         -rwsr-xr-x 0 0 300000 2001-09-09 01:46 /usr/bin/long\n\
         -rwsr-xr-x 0 0 300000 2001-09-09 01:46 /usr/bin/same\n"
    );
    let links = text(dir, &["ls", "-l", APP, "out"]);
    assert!(links.ends_with(" /out -> ../../etc/passwd\n"), "{links}");
}

fn contents(dir: &Path) {
    assert_eq!(printed(dir, &["cat", APP, "etc/passwd"]), b"root:x:0:0\n");
    let both = printed(dir, &["cat", APP, "/etc/new", "zero", "out"]);
    assert_eq!(both, b"newroot:x:0:0\n");
    assert!(printed(dir, &["cat", APP, "/bin/same"]) == noise(1, 300_000));

    let stdout = fails(dir, &["cat", APP, "etc/new", "none", "abs"], 1, "/none");
    assert_eq!(stdout, b"newroot:x:0:0\n", "the others are printed");
    fails(dir, &["cat", APP, "etc"], 1, "is a directory");
    fails(dir, &["cat", APP, "dev/null"], 1, "not a regular file");
}

fn failures(dir: &Path) {
    fails(dir, &["ls", APP, "none"], 1, "/none in team/app");
    fails(dir, &["ls", "team/none"], 1, "team/none");
    fails(dir, &["ls", "0123456789abcdef"], 1, "0123456789abcdef");
    for (arguments, complaint) in [
        (&["ls"][..], "REFERENCE"),
        (&["ls", "Team"], "Team"),
        (&["ls", "--nonsense", APP], "--nonsense"),
        (&["ls", "--platform", "x", APP], "--platform"),
        (&["ls", "--json", "--long", APP], "--json"),
        (&["cat", APP], "PATH"),
        (&["export"], "REFERENCE"),
    ] {
        fails(dir, arguments, 2, complaint);
    }
    fails(&dir.join("none"), &["ls", APP], 1, "--dir");
}

#[test]
fn commands() {
    let (mut registry, pushed) = registry();
    let json = ["", "?recursive=1"].map(|query| {
        let reply = registry.get(&format!("/v1/images/team%2Fapp:1.4/tree/{query}"));
        String::from_utf8(body(&reply)).expect("UTF-8")
    });
    let [tar, part] = ["", "etc"]
        .map(|path| body(&registry.get(&format!("/v1/images/team%2Fapp:1.4/tar/{path}"))));
    let dir = registry.dir.clone();
    let out = tempfile::TempDir::new().expect("a temporary folder");
    let file = out.path().join("x.tar");
    let file_name = file.to_str().expect("UTF-8");
    for running in [true, false] {
        if !running {
            assert!(registry.stop().success());
        }
        listings(&dir);
        contents(&dir);
        failures(&dir);
        assert_eq!(text(&dir, &["ls", "--json", APP]), json[0]);
        assert_eq!(text(&dir, &["ls", "--json", "-R", APP]), json[1]);
        for id in
            [pushed.manifest.to_string(), pushed.config.hex(), pushed.config.hex()[..12].to_owned()]
        {
            assert_eq!(text(&dir, &["ls", &id, "etc"]), "new\npasswd\n", "{id}");
        }

        assert!(printed(&dir, &["export", APP]) == tar);
        assert!(printed(&dir, &["export", APP, "/etc"]) == part);
        assert_eq!(text(&dir, &["export", "-o", file_name, APP, "etc"]), "");
        assert!(fs::read(&file).expect("written") == part);
        let gzip = printed(&dir, &["export", "--gzip", APP]);
        assert_eq!(gzip[..2], [0x1f, 0x8b]);
        fs::write(&file, &gzip).expect("writable");
        let gunzip = Command::new("gzip").arg("-dc").arg(&file).output();
        assert!(gunzip.expect("gzip runs").stdout == tar);
        fails(&dir, &["export", APP, "none"], 1, "/none");
        fails(&dir, &["export", "-o", "/none/x", APP], 1, "/none/x");
    }
}

/// `registry … | head` has seen enough, which is no failure.
#[test]
fn a_reader_that_leaves() {
    let registry = Registry::start(&[]);
    let mut tar = Tar::default().file("big", &noise(3, 8 << 20));
    for i in 0..5000 {
        tar = tar.file(format!("{i:050}"), b"");
    }
    push(&registry, "big", "latest", &[tar.finish()]);
    for arguments in [
        &["ls", "-l", "big"][..],
        &["ls", "--json", "big"],
        &["cat", "big", "big", "none"],
        &["export", "big"],
        &["export", "--gzip", "big"],
    ] {
        let mut child = command(&registry.dir, arguments)
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

/// Names in images cannot control a terminal, or show as another name there.
#[test]
fn terminals() {
    need("script", "bsdutils");
    let registry = Registry::start(&[]);
    let tar = Tar::default().file("\x1b]0;owned\x07", b"").symlink("link\n", "\x1b[2J");
    push(&registry, "odd", "latest", &[tar.finish()]);
    let dir = registry.dir.to_str().expect("UTF-8");
    let on_terminal = |command: &str| {
        let command = format!("{REGISTRY} {command}");
        let output = Command::new("script")
            .args(["--quiet", "--return", "--command", &command, "/dev/null"])
            .stdin(Stdio::null())
            .output()
            .expect("script runs");
        let code = output.status.code().expect("an exit code");
        (code, String::from_utf8_lossy(&output.stdout).replace("\r\n", "\n"))
    };
    let (code, shown) = on_terminal(&format!("ls --dir {dir} odd"));
    assert_eq!((code, shown.as_str()), (0, "\\x1b]0;owned\\x07\nlink\\x0a\n"));
    let (code, shown) = on_terminal(&format!("ls -l --dir {dir} odd"));
    assert!(code == 0 && shown.ends_with(" link\\x0a -> \\x1b[2J\n"), "{shown}");
    let (code, shown) = on_terminal(&format!("export --dir {dir} odd"));
    assert!(code == 1 && shown.contains("--output"), "{shown}");

    // CSI in one character, and RIGHT-TO-LEFT OVERRIDE.
    let names = ["\u{9b}31m", "\u{202e}txt.exe"];
    let tar = names.iter().fold(Tar::default(), |tar, name| tar.file(name, b""));
    push(&registry, "more", "latest", &[tar.finish()]);
    let raw = |shown: &str| shown.contains(['\u{9b}', '\u{202e}']);
    let (code, shown) = on_terminal(&format!("ls --dir {dir} more"));
    assert_eq!((code, shown.as_str()), (0, "\\xc2\\x9b31m\n\\xe2\\x80\\xaetxt.exe\n"));
    let (code, shown) = on_terminal(&format!("ls --json --dir {dir} more"));
    assert!(code == 0 && !raw(&shown), "{shown:?}");
    let json: serde_json::Value = serde_json::from_str(&shown).expect("it is JSON all the same");
    let rows = json.as_array().expect("entries");
    let listed: Vec<_> = rows.iter().map(|row| row["path"].as_str().expect("a path")).collect();
    assert_eq!(listed, names.map(|name| format!("/{name}")));
    text(&registry.dir, &["index", "--all"]);
    let url = format!("http://{}", registry.host());
    let coloured = Tar::default().file("red\x1b[31m", b"\x1b[31mred\ttab \xff\n").finish();
    push(&registry, "coloured", "latest", &[coloured]);
    text(&registry.dir, &["index", "--all"]);
    for place in [format!("--dir {dir}"), format!("--server {url}")] {
        for (command, want) in [
            ("ls coloured", "red\\x1b[31m\n"),
            ("find --in odd -0", "odd:latest/\\x1b]0;owned\\x07\0odd:latest/link\\x0a\0"),
            ("find --in coloured", "coloured:latest/red\\x1b[31m\n"),
            ("grep -n red", "coloured:latest/red\\x1b[31m:1:\\x1b[31mred\ttab \\xff\n"),
            ("grep -l red", "coloured:latest/red\\x1b[31m\n"),
            ("grep -c red", "coloured:latest/red\\x1b[31m:1\n"),
            ("grep -o 31mred", "coloured:latest/red\\x1b[31m:31mred\n"),
            ("diff coloured coloured", ""),
        ] {
            // Progress is shown on stderr.
            let (name, rest) = command.split_once(' ').expect("arguments");
            let (_, shown) = on_terminal(&format!("{name} {place} {rest} 2>/dev/null"));
            assert_eq!(shown, want, "{command} {place}");
        }
        for command in [
            "find --json --in coloured",
            "grep --json red",
            "diff more coloured",
            "diff -p more coloured",
        ] {
            let (name, rest) = command.split_once(' ').expect("arguments");
            let (_, shown) = on_terminal(&format!("{name} {place} {rest} 2>/dev/null"));
            assert!(
                shown.contains("red") && !shown.contains('\x1b'),
                "{command} {place}: {shown:?}"
            );
        }
    }
    for command in ["cat", "export --output /dev/null"] {
        let command = format!("{command} --dir {dir} more '/none\u{202e}\u{9b}'");
        let (code, shown) = on_terminal(&command);
        assert!(code == 1 && shown.contains("none") && !raw(&shown), "{command}: {shown:?}");
    }

    // In a pipe, names are shown as they are.
    let piped = printed(&registry.dir, &["ls", "odd"]);
    assert_eq!(piped, b"\x1b]0;owned\x07\nlink\n\n");
}

/// Runs a command on a terminal of its own and answers each prompt once the terminal hides input.
const ASK: &str = r#"
import os, pty, sys, termios, time
command, answers = sys.argv[1:4], sys.argv[4:]
pid, terminal = pty.fork()
if pid == 0:
    os.execvp(command[0], command)
shown = b""
def read():
    global shown
    try:
        data = os.read(terminal, 4096)
    except OSError:
        data = b""
    shown += data
    return data
for number, answer in enumerate(answers, 1):
    while shown.count(b": ") < number:
        if not read():
            sys.exit("it ended without a prompt: " + repr(shown))
    deadline = time.monotonic() + 30
    while termios.tcgetattr(terminal)[3] & termios.ECHO:
        if time.monotonic() > deadline:
            sys.exit("input is not hidden")
    os.write(terminal, answer.encode() + b"\n")
while read():
    pass
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
sys.stdout.buffer.write(shown)
sys.exit(status)
"#;

#[test]
fn passwords_on_a_terminal() {
    need("python3", "python3");
    let ask = |answers: [&str; 2]| {
        let output = Command::new("python3")
            .args(["-c", ASK, REGISTRY, "password", "ann"])
            .args(answers)
            .output()
            .expect("python3 runs");
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), shown, complaint)
    };
    let (code, shown, complaint) = ask(["hidden secret", "hidden secret"]);
    assert_eq!((code, complaint.as_str()), (Some(0), ""), "{shown}");
    assert!(shown.contains("ann:$2") && !shown.contains("hidden"), "{shown}");
    let (code, shown, _) = ask(["hidden secret", "another"]);
    assert_eq!(code, Some(1), "{shown}");
    assert!(shown.contains("the passwords do not match") && !shown.contains("ann:$2"), "{shown}");
}
