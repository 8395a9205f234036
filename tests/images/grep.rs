//! `registry grep` finds what ripgrep does in the same images, unpacked by umoci.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Output};

use crate::common::{REGISTRY, Registry, need};
use crate::fixture::{Fixture, Image, ODD, SPECIAL, fixture};

/// What both programs are asked.
const QUESTIONS: &[&[&str]] = &[
    &["-n", "GNU"],
    &["-n", "-i", "warranty"],
    &["-n", "-w", "root"],
    &["-n", "-S", "debian"],
    &["-n", "-S", "Debian"],
    &["-c", "content"],
    &["-c", "-o", "-i", "e.e"],
    &["-l", "the"],
    // For ripgrep, -L means to follow links.
    &["--files-without-match", "e"],
    &["-n", "-o", "[0-9]+\\.[0-9]+\\.[0-9]+"],
    &["-F", "-n", "a+b"],
    &["-F", "-c", "*"],
    &["-n", "-A", "2", "main"],
    &["-n", "-B", "3", "main"],
    &["-n", "-C", "1", "import os"],
    &["-n", "-v", "-m", "2", "[a-z]"],
    &["-n", "-m", "1", "in"],
    &["-n", "-e", "named", "-e", "hard"],
    &["-c", "-a", "ELF"],
    &["-l", "-a", "-i", "gcc"],
    &["-n", "-a", "-o", "GLIBC_[0-9.]+"],
    &["-n", "--max-filesize", "2K", "e"],
    &["-n", "^$"],
    &["-n", "\u{e9}"],
    &["-o", "\\bcaf\\w*"],
    &["-c", ""],
    &["-n", "no line of any file has this, or so one hopes"],
    &["-n", "-i", "PERMISSION is (hereby )?granted"],
    &["-l", "import (os|sys|re)$"],
    &["-c", "-w", "version[0-9]*"],
];

fn lines(output: &Output, prefix: &[u8]) -> Vec<Vec<u8>> {
    assert!(output.status.code() < Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = output.stdout.split_inclusive(|&byte| byte == b'\n');
    let mut lines: Vec<_> = lines
        .map(|line| line.strip_prefix(prefix).unwrap_or(line).to_owned())
        // Between files, which come in another order.
        .filter(|line| line != b"--\n")
        .collect();
    lines.sort();
    lines
}

fn rg(root: &Path, question: &[&str]) -> Output {
    need("rg", "ripgrep");
    let mut command = Command::new("rg");
    command.args([
        "--no-config",
        "--no-heading",
        "--color=never",
        "--hidden",
        "--no-ignore",
        "-uu",
    ]);
    // By default only where a person reads it.
    if !question.contains(&"-n") {
        command.arg("--no-line-number");
    }
    command.args(question).arg("./").current_dir(root).output().expect("rg runs")
}

fn grep(registry: &Registry, question: &[&str], image: &str) -> Output {
    let mut command = Command::new(REGISTRY);
    command.arg("grep").arg("--dir").arg(&registry.dir).args(question).arg(image);
    command.output().expect("registry runs")
}

fn index(registry: &Registry) {
    let mut command = Command::new(REGISTRY);
    let output = command.args(["index", "--all", "--dir"]).arg(&registry.dir).output();
    let output = output.expect("registry runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[track_caller]
fn compare(what: &str, registry: &Registry, image: &Image, question: &[&str]) {
    let found = grep(registry, question, image.name);
    let unskipped = grep(registry, &[question, &["--no-index-skip"]].concat(), image.name);
    assert!(found == unskipped, "{question:?} in {what}: the index changes the answer");
    let want = rg(Path::new(&image.root), question);
    let (found_lines, want_lines) =
        (lines(&found, format!("{}/", image.name).as_bytes()), lines(&want, b"./"));
    let differs = found_lines.iter().zip(&want_lines).find(|(found, want)| found != want);
    let text = |line: &Vec<u8>| String::from_utf8_lossy(line).into_owned();
    let differs = differs.map(|(found, want)| (text(found), text(want)));
    assert_eq!(differs, None, "{question:?} in {what}");
    assert_eq!(found_lines.len(), want_lines.len(), "{question:?} in {what}");
    let found_some = !found_lines.is_empty();
    assert_eq!(found.status.code(), Some(i32::from(!found_some)), "{question:?} in {what}");
}

fn all() -> (&'static Fixture, Vec<(String, &'static Registry, &'static Image)>) {
    let fixture = fixture();
    let all: Vec<_> = fixture.all().collect();
    all.iter().for_each(|(_, registry, _)| index(registry));
    (fixture, all)
}

/// Every question about the image with the oddest files.
#[test]
fn same_as_ripgrep() {
    let (fixture, _) = all();
    for question in QUESTIONS {
        compare(SPECIAL, &fixture.registry, fixture.image(SPECIAL), question);
    }
}

/// However an image is compressed.
#[test]
fn all_images_and_compressions() {
    let (_, all) = all();
    for (what, registry, image) in all {
        for question in [&["-n", "-i", "copyright"][..], &["-n", "-a", "-o", "named .*"]] {
            compare(&what, registry, image, question);
        }
    }
}

/// What is found in one image is found in all of them at a time, and in JSON.
#[test]
fn many_images() {
    let (fixture, _) = all();
    let registry = &fixture.registry;
    let question = ["-n", "-w", "hard"];
    let run = |arguments: &[&str]| {
        let mut command = Command::new(REGISTRY);
        command.arg("grep").arg("--dir").arg(&registry.dir).args(question).args(arguments);
        lines(&command.output().expect("registry runs"), b"")
    };
    let mut want = Vec::new();
    for name in ["debian:1", "edited:1", ODD, "python:1", SPECIAL, "umoci:1"] {
        want.extend(run(&[name]));
    }
    want.sort();
    assert!(!want.is_empty());
    assert_eq!(run(&[]), want);
    assert_eq!(run(&["--in", "**"]), want);

    let path =
        |line: &[u8]| line.starts_with(b"odd:1/podman/") || line.starts_with(b"special:1/podman/");
    want.retain(|line| path(line));
    assert!(!want.is_empty());
    assert_eq!(run(&["--in", "{odd,special}", "--path", "/podman/**"]), want);

    let mut json = Vec::new();
    for line in run(&["--in", "{odd,special}", "--path", "/podman/**", "--json"]) {
        let object: serde_json::Value = serde_json::from_slice(&line).expect("JSON");
        let image = object["image"].as_str().expect("a name").as_bytes();
        let path = match object["path_bytes"].as_str() {
            Some(path) => percent_encoding::percent_decode_str(path).collect(),
            None => object["path"].as_str().expect("a path").as_bytes().to_owned(),
        };
        let number = object["line_number"].to_string();
        let text = object["line"].as_str().expect("UTF-8");
        for submatch in object["submatches"].as_array().expect("a list") {
            let place = |name: &str| submatch[name].as_u64().expect("a place") as usize;
            assert_eq!(&text[place("start")..place("end")], "hard");
        }
        let rest = format!(":{number}:{text}\n");
        json.extend(lines(
            &Output { stdout: [image, &path, rest.as_bytes()].concat(), ..ok() },
            b"",
        ));
    }
    json.sort();
    assert_eq!(json, want);
}

fn ok() -> Output {
    Command::new("true").output().expect("a program of every Debian")
}

/// A NUL byte behind a path tells it from the rest, whatever is in it.
#[test]
fn names() {
    let (fixture, _) = all();
    let image = fixture.image(SPECIAL);
    let found = grep(&fixture.registry, &["-l", "-0", "^named "], SPECIAL);
    let paths = |output: &[u8], prefix: &[u8]| {
        let mut paths: Vec<Vec<u8>> = output
            .split(|&byte| byte == 0)
            .filter(|path| !path.is_empty())
            .map(|path| path.strip_prefix(prefix).expect("a path").to_owned())
            .collect();
        paths.sort();
        paths
    };
    let found = paths(&found.stdout, b"special:1/");
    let want = rg(Path::new(&image.root), &["-l", "-0", "^named "]);
    assert_eq!(found, paths(&want.stdout, b"./"));
    for path in &found {
        let path = Path::new(&image.root).join(std::ffi::OsStr::from_bytes(path));
        assert!(path.is_file(), "{}", path.display());
    }
    assert!(found.iter().any(|path| path.ends_with(b"new\nline")), "{found:?}");
}
