//! The tar parser sees what GNU tar and Python's `tarfile` both see, or refuses.

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::common::{need, noise, run};
use crate::tar_mangle;
use crate::tar_peers::{PythonListing, as_gnu_prints, gnu, ours, tarfile};

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
fn tars_of_other_programs_are_read_as_they_read_them() {
    need("tar", "tar");
    need("busybox", "busybox-static");
    need("bsdtar", "libarchive-tools");
    need("python3", "python3");
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

    // Times where ustar has a prefix.
    let path = at("times.tar");
    let mut command = Command::new("tar");
    command.arg("--create").arg("--file").arg(&path);
    command.args(["--format=gnu", "--incremental", "--directory"]);
    run(command.arg(at("plain")).args(["sizes/1", "sizes/513"]));
    tars.push(path);

    let python = tarfile(&tars);
    for (path, python) in tars.iter().zip(python) {
        let bytes = fs::read(path).expect("a tar");
        let verdict = compare(path, &bytes, &python);
        assert_eq!(verdict, Ok(true), "{}", path.display());
    }
}

/// Thousands of tars that are nearly right.
#[test]
fn mangled_tars_are_read_as_gnu_tar_and_tarfile_agree_or_refused() {
    need("tar", "tar");
    need("python3", "python3");
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
    let python = tarfile(&paths);
    // Most of the time is GNU tar's starting.
    let half = tars.len().div_ceil(2);
    let pairs: Vec<_> = tars.iter().zip(&python).collect();
    let verdicts: Vec<_> = std::thread::scope(|scope| {
        let halves: Vec<_> = pairs
            .chunks(half)
            .map(|pairs| {
                let compare = |((what, path, bytes), python): &(
                    &(String, PathBuf, Vec<u8>),
                    &PythonListing,
                )| {
                    let verdict = compare(path, bytes, python);
                    verdict.map_err(|difference| format!("{what}: {difference}"))
                };
                scope.spawn(move || pairs.iter().map(compare).collect::<Vec<_>>())
            })
            .collect();
        let halves = halves.into_iter();
        halves.flat_map(|half| half.join().expect("no panic")).collect()
    });
    let read = verdicts.iter().filter(|verdict| **verdict == Ok(true)).count();
    let wrong: Vec<String> = verdicts.into_iter().filter_map(Result::err).collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), tars.len(), wrong.join("\n"));
    // Else the test would compare nothing.
    assert!(tars.len() >= 2_500, "{}", tars.len());
    assert!(read * 5 > tars.len(), "only {read} of {} are read", tars.len());
    assert!(read * 5 < tars.len() * 4, "as many as {read} of {} are read", tars.len());
}

/// Whether it is read; an error when it is, but not alike.
fn compare(path: &Path, bytes: &[u8], python: &PythonListing) -> Result<bool, String> {
    let mine = ours(bytes, bytes.len().max(1));
    let pieced = ours(bytes, 509);
    if pieced != mine {
        return Err(format!("in pieces {pieced:?}, as a whole {mine:?}"));
    }
    let Ok(mine) = mine else {
        return Ok(false);
    };
    // The last padding may be missing, as from `umoci insert`.
    if mine.last().is_some_and(|last| last.end > bytes.len()) {
        return match (gnu(path), python) {
            (Err(_), Err(_)) => Ok(true),
            _ => Err("the others read a tar without its last padding".to_owned()),
        };
    }
    let gnu = gnu(path).map_err(|error| format!("GNU tar fails: {error}"))?;
    let as_printed: Vec<_> = mine.iter().map(|member| as_gnu_prints(member.row.clone())).collect();
    if gnu != as_printed {
        return Err(format!("GNU tar sees {gnu:#?}, we {as_printed:#?}"));
    }
    let python = python.as_ref().map_err(|error| format!("tarfile fails: {error}"))?;
    let alike = python.len() == mine.len()
        && python
            .iter()
            .zip(&mine)
            .all(|((row, inside), mine)| row.is(mine) && *inside == mine.inside);
    if !alike {
        return Err(format!("tarfile sees {python:#?}, we {mine:#?}"));
    }
    Ok(true)
}
