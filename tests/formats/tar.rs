//! The tar parser reads what Go's `archive/tar` reads, and refuses what it refuses.

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::common::{need, noise, run};
use crate::go::{Row, build, go, ours};
use crate::tar_mangle;

/// Every kind of file that needs no rights, in an order that `tar` keeps.
fn make_tree(root: &Path) {
    let file = |name: &str, size: usize| {
        let path = root.join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, noise(size as u64 + 1, size)).expect("a file");
    };
    for size in [0, 1, 511, 512, 513, 1023, 1024, 1025, 20_000] {
        file(&format!("sizes/{size}"), size);
    }
    file(&"n".repeat(97), 3);
    file("h\u{fc}\n\\%\"' x", 4);
    let odd = root.join(std::ffi::OsStr::from_bytes(b"bytes\xff"));
    fs::write(odd, b"12345").expect("a file");
    symlink("../sizes/1", root.join("symlink")).expect("a link");
    fs::hard_link(root.join("sizes/1"), root.join("zz")).expect("a link");
    run(Command::new("mkfifo").arg(root.join("fifo")));
    fs::create_dir(root.join("empty")).expect("a folder");
    run(Command::new("chmod").arg("7751").arg(root.join("sizes/513")));
    let touch = |date: &str, name: &str| {
        run(Command::new("touch").args(["-h", "-d", date]).arg(root.join(name)));
    };
    touch("1969-12-30 12:00:00.5 UTC", "sizes/0");
    touch("2024-02-29 23:59:59.123456789 UTC", "sizes/1");
    touch("2038-01-20 00:00:00 UTC", "symlink");
}

/// Names and links that V7 has no room for.
fn make_long_names(root: &Path) {
    let deep = root.join("d".repeat(120)).join("e".repeat(200));
    fs::create_dir_all(&deep).expect("folders");
    fs::write(deep.join("f".repeat(101)), b"deep").expect("a file");
    symlink("t".repeat(150), root.join("long link")).expect("a link");
}

/// Extents at the start, in the middle, at the end, none, and too many for one
/// header.
fn make_sparse(root: &Path) {
    let sparse = |name: &str, size: u64, extents: &[u64]| {
        let file = File::create(root.join(name)).expect("a file");
        file.set_len(size).expect("a length");
        for &offset in extents {
            file.write_all_at(&noise(offset + 1, 4096), offset).expect("data");
        }
    };
    let many: Vec<u64> = (0..60).map(|n| n * 16_384).collect();
    sparse("hole", 500_000, &[]);
    sparse("middle", 600_000, &[0, 200_704]);
    sparse("end", 204_800, &[200_704]);
    sparse("many", 1_000_000, &many);
    sparse("odd", 300_001, &[65_536]);
}

/// Tars by every program at hand; each must be read, and alike.
#[test]
fn tars_of_every_writer_are_read_as_go_reads_them() {
    need("tar", "tar");
    need("busybox", "busybox-static");
    need("bsdtar", "libarchive-tools");
    need("python3", "python3");
    need("pax", "pax");
    need("cpio", "cpio");
    need("7zz", "7zip");
    let temp = TempDir::new().expect("a temporary folder");
    let at = |name: &str| temp.path().join(name);
    for name in ["plain", "long", "sparse"] {
        fs::create_dir(at(name)).expect("a folder");
    }
    make_tree(&at("plain"));
    make_long_names(&at("long"));
    make_sparse(&at("sparse"));

    let mut tars: Vec<PathBuf> = Vec::new();
    let mut tar = |name: &str, arguments: &[&str], root: &str| {
        let path = at(&format!("{name}.tar"));
        let mut command = Command::new("tar");
        command.arg("--create").arg("--file").arg(&path).args(arguments);
        run(command.arg("--directory").arg(at(root)).arg("."));
        tars.push(path);
    };
    for format in ["v7", "oldgnu", "gnu", "ustar", "posix"] {
        let option = format!("--format={format}");
        // Neither V7 nor ustar has a time before 1970.
        let options: &[&str] = match format {
            "v7" | "ustar" => &[&option, "--mtime=2001-01-01", "--exclude=fifo"],
            _ => &[&option],
        };
        tar(format, options, "plain");
    }
    for format in ["oldgnu", "gnu", "posix"] {
        tar(&format!("{format}-long"), &[&format!("--format={format}")], "long");
    }
    tar("sparse-old", &["--format=gnu", "--sparse"], "sparse");
    for version in ["0.0", "0.1", "1.0"] {
        let option = format!("--sparse-version={version}");
        let options = ["--format=posix", "--sparse", &option];
        tar(&format!("sparse-{version}"), &options, "sparse");
    }
    let busybox = at("busybox.tar");
    run(Command::new("busybox")
        .arg("tar")
        .arg("-cf")
        .arg(&busybox)
        .arg("-C")
        .arg(at("long"))
        .arg("."));
    tars.push(busybox);
    for (format, root) in
        [("pax", "long"), ("gnutar", "long"), ("pax", "sparse"), ("ustar", "sparse")]
    {
        let path = at(&format!("bsdtar-{format}-{root}.tar"));
        let mut command = Command::new("bsdtar");
        command.arg("-cf").arg(&path).args(["--format", format]);
        run(command.arg("-C").arg(at(root)).arg("."));
        tars.push(path);
    }
    for format in ["ustar", "gnu", "pax"] {
        let path = at(&format!("python-{format}.tar"));
        run(Command::new("python3")
            .args(["-c", include_str!("tarfile_write.py")])
            .arg(&path)
            .arg(format));
        tars.push(path);
    }

    let writer = build(&temp, "write", include_str!("write.go"));
    for (format, root) in [("pax", "plain"), ("pax", "long"), ("gnu", "long")] {
        let path = at(&format!("go-{format}-{root}.tar"));
        run(Command::new(&writer).arg(&path).arg(at(root)).arg(format));
        tars.push(path);
    }
    // Of files that the two old formats can hold; neither has room for a time before 1970.
    for (name, script) in [
        ("pax-ustar", r#"pax -w -x ustar -f "$0" sizes/5* sizes/1* zz symlink fifo empty"#),
        ("pax-tar", r#"pax -w -x tar -f "$0" sizes/5* sizes/1* zz symlink empty"#),
        ("cpio-ustar", r#"find sizes/1* zz symlink fifo empty | cpio -o -H ustar > "$0""#),
        ("cpio-tar", r#"find sizes/1* zz symlink empty | cpio -o -H tar > "$0""#),
        ("7z", r#"7zz a -ttar -snl -snh "$0" sizes symlink zz empty"#),
    ] {
        let path = at(&format!("{name}.tar"));
        let mut shell = Command::new("sh");
        run(shell.args(["-c", script]).arg(&path).current_dir(at("plain")));
        tars.push(path);
    }

    // Times where ustar has a prefix.
    let path = at("times.tar");
    let mut command = Command::new("tar");
    command.arg("--create").arg("--file").arg(&path);
    command.args(["--format=gnu", "--incremental", "--directory"]);
    run(command.arg(at("plain")).args(["sizes/1", "sizes/513"]));
    tars.push(path);

    let read = go(&build(&temp, "list", include_str!("list.go")), &tars);
    for (path, go) in tars.iter().zip(read) {
        let bytes = fs::read(path).expect("a tar");
        let ours = ours(&bytes, 509).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(Ok(ours), go, "{}", path.display());
    }
}

/// Thousands of tars that are nearly right.
#[test]
fn mangled_tars_are_read_as_go_reads_them_or_refused_as_go_refuses_them() {
    let temp = TempDir::new().expect("a temporary folder");
    let tars: Vec<(String, PathBuf, Vec<u8>)> = tar_mangle::all()
        .enumerate()
        .map(|(number, (what, bytes))| {
            let path = temp.path().join(format!("{number}.tar"));
            fs::write(&path, &bytes).expect("a tar");
            (what, path, bytes)
        })
        .collect();
    let paths: Vec<PathBuf> = tars.iter().map(|(_, path, _)| path.clone()).collect();
    let theirs = go(&build(&temp, "list", include_str!("list.go")), &paths);
    let (mut read, mut wrong) = (0, Vec::new());
    for ((what, _, bytes), theirs) in tars.iter().zip(&theirs) {
        let mine = ours(bytes, bytes.len().max(1));
        assert_eq!(ours(bytes, 509), mine, "{what}: in pieces, and as a whole");
        match (&mine, theirs) {
            (Ok(mine), Ok(theirs)) if mine == theirs => read += 1,
            (Err(_), Err(_)) => {}
            // Go has not read the whole file, which may have another map than it says.
            (Err(_), Ok(theirs)) if theirs.iter().any(Row::is_long) => {}
            _ => wrong.push(format!("{what}: Go has {theirs:#?}, we {mine:#?}")),
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), tars.len(), wrong.join("\n"));
    // Else the test would compare nothing.
    assert!(tars.len() >= 2_500, "{}", tars.len());
    assert!(read * 5 > tars.len(), "only {read} of {} are read", tars.len());
    assert!(read * 5 < tars.len() * 4, "as many as {read} of {} are read", tars.len());
}
