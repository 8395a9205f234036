//! `registry find` against find(1) over the unpacked files.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Output};

use registry::oci::Algorithm;

use crate::common::{REGISTRY, run};
use crate::fixture::{ODD, fixture};

fn find(dir: &Path, image: &str, arguments: &[&str]) -> Output {
    let (repository, tag) = image.split_once(':').expect("a tag");
    let mut command = Command::new(REGISTRY);
    command.args(["find", "--dir"]).arg(dir).args(["--in", repository, "--tag", tag, "-0"]);
    command.args(arguments).output().expect("it runs")
}

fn paths(output: &[u8], prefix: &[u8]) -> BTreeSet<Vec<u8>> {
    let lines: Vec<&[u8]> = output.split(|&b| b == 0).filter(|line| !line.is_empty()).collect();
    let paths: BTreeSet<Vec<u8>> = lines
        .iter()
        .map(|line| line.strip_prefix(prefix).expect("below the image").to_vec())
        .collect();
    assert_eq!(paths.len(), lines.len(), "a path is printed once");
    paths
}

/// The same questions, in the words of both.
const QUESTIONS: [(&[&str], &[&str]); 14] = [
    (&["passwd"], &["-name", "passwd"]),
    (&["lib*.so*"], &["-name", "lib*.so*"]),
    (&["*.conf"], &["-name", "*.conf"]),
    (&["*ssl*"], &["-name", "*ssl*"]),
    (&["--path", "/etc/*"], &["-path", "./etc/*", "!", "-path", "./etc/*/*"]),
    (&["--path", "/usr/**/libc.so*"], &["-path", "./usr/*", "-name", "libc.so*"]),
    (&["--type", "l"], &["-type", "l"]),
    (&["--type", "d", "[a-c]*"], &["-type", "d", "-name", "[a-c]*"]),
    (&["--mode", "/6000"], &["-perm", "/6000"]),
    (&["--mode", "-4000"], &["-perm", "-4000"]),
    (&["--mode", "1777"], &["-perm", "1777"]),
    (&["--size", "+100k"], &["-type", "f", "-size", "+102400c"]),
    (&["--uid", "12"], &["-uid", "12"]),
    (&["--newer", "2024-01-01"], &["-newermt", "2024-01-01 UTC"]),
];

#[test]
fn what_find_finds() {
    let fixture = fixture();
    for image in &fixture.images {
        let prefix = format!("{}/", image.name);
        for (ours, theirs) in QUESTIONS {
            let output = find(&fixture.registry.dir, image.name, ours);
            let complaint = String::from_utf8_lossy(&output.stderr);
            assert_eq!(complaint, "", "{} {ours:?}", image.name);
            let found = paths(&output.stdout, prefix.as_bytes());
            let mut command = Command::new("find");
            command.current_dir(&image.root).args([".", "-mindepth", "1"]).args(theirs);
            // In this locale names that are no text match globs, too.
            let want = run(command.args(["-printf", "%P\\0"]).env("LC_ALL", "C"));
            let want = paths(&want.stdout, b"");
            assert_eq!(output.status.code(), Some(i32::from(want.is_empty())), "{ours:?}");
            assert!(found == want, "{} {ours:?}: {}", image.name, differ(&found, &want));
        }
    }
}

fn differ(found: &BTreeSet<Vec<u8>>, want: &BTreeSet<Vec<u8>>) -> String {
    let show = |path: &Vec<u8>| path.escape_ascii().to_string();
    let more: Vec<_> = found.difference(want).map(show).take(5).collect();
    let less: Vec<_> = want.difference(found).map(show).take(5).collect();
    format!("{} and {}, too much {more:?}, missing {less:?}", found.len(), want.len())
}

/// Every file by its content: all names that have it, and no others.
#[test]
fn contents() {
    let fixture = fixture();
    let image = fixture.image(ODD);
    let mut by_content = std::collections::BTreeMap::<_, BTreeSet<Vec<u8>>>::new();
    for (path, file) in &image.unpacked {
        let full = Path::new(&image.root).join(std::ffi::OsStr::from_bytes(path));
        if let crate::common::tree::Kind::Regular { .. } = file.kind {
            let bytes = std::fs::read(full).expect("readable");
            let digest = Algorithm::Sha256.digest(&bytes).hex();
            by_content.entry(digest).or_default().insert(path.clone());
        }
    }
    assert!(by_content.len() > 10, "the image has all sorts of files");
    let several: Vec<_> = by_content.iter().filter(|(_, paths)| paths.len() > 1).collect();
    let single: Vec<_> = by_content.iter().filter(|(_, paths)| paths.len() == 1).collect();
    for (digest, want) in several.into_iter().take(20).chain(single.into_iter().take(20)) {
        let output = find(&fixture.registry.dir, ODD, &["--sha256", digest]);
        let found = paths(&output.stdout, format!("{ODD}/").as_bytes());
        assert!(found == *want, "{digest}: {}", differ(&found, want));
    }
}
