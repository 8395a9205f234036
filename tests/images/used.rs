//! What people do with a mounted image: run it, build on it, copy from it.

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::common::mount::Mount;
use crate::common::tree::{self, assert_same};
use crate::common::{need, run};
use crate::fixture::{SPECIAL, fixture};

const PYTHON: &str = "python:1";

fn text(command: &mut Command) -> String {
    String::from_utf8(run(command).stdout).expect("text")
}

/// What a program says of a mount and of the unpacked files.
#[track_caller]
fn assert_same_lines(what: &str, ours: &[u8], unpacked: &[u8]) {
    let [ours, unpacked] = [ours, unpacked].map(|text| text.split(|&b| b == b'\n'));
    let counts = (ours.clone().count(), unpacked.clone().count());
    let differ = ours.zip(unpacked).filter(|(ours, unpacked)| ours != unpacked);
    let differ = differ.map(|(a, b)| format!("{}\n{}", a.escape_ascii(), b.escape_ascii()));
    let differ: Vec<String> = differ.take(10).collect();
    let same = differ.is_empty() && counts.0 == counts.1;
    assert!(same, "{what}: {counts:?} lines\n{}", differ.join("\n"));
}

/// Its programs run in it, and say what they say in the unpacked files.
#[test]
fn chroot() {
    let mount = Mount::start(&fixture().registry.dir, &[]);
    let (root, image) = (mount.path.join(PYTHON), fixture().image(PYTHON));
    let script = "import ssl, sqlite3
print(ssl.OPENSSL_VERSION, sqlite3.connect(':memory:').execute('select 6 * 7').fetchone())";
    for command in [
        &["python3", "-B", "-c", script][..],
        &["sh", "-ec", "ls -AR /usr/lib && cat /etc/os-release && command -v dpkg && echo /e*/h*"],
        &["dpkg", "--list"],
        &["dpkg", "--verify"],
        &["sh", "-ec", "find / -xdev ! -type d -printf '%p %s %m %n %t %l\n' | sort"],
    ] {
        let [ours, unpacked] = [root.as_path(), Path::new(&image.root)].map(|root| {
            let mut chroot = Command::new("chroot");
            run(chroot.arg(root).args(command).env("LC_ALL", "C")).stdout
        });
        assert_same_lines(&format!("{command:?}"), &ours, &unpacked);
        assert!(!ours.is_empty() || command.contains(&"--verify"), "{command:?}");
    }
    // It writes where it may.
    let mut chroot = Command::new("chroot");
    let listed = text(chroot.arg(&root).args(["apt", "list", "--installed"]));
    assert!(listed.contains("python3/"), "{listed}");
}

/// Packages come and go in an overlay, with a package of the test's own that
/// needs those of the image.
const INSTALL: &str = r##"set -e
escaped=$(printf %s "$1" | sed 's/[:,\\]/\\&/g')
mkdir "$2/upper" "$2/work" "$2/merged"
mount -t overlay overlay -o "lowerdir=$escaped,upperdir=$2/upper,workdir=$2/work" "$2/merged"
mount -t proc proc "$2/merged/proc"
mount --bind /dev "$2/merged/dev"
exec chroot "$2/merged" sh -ec '
mkdir -p /repo/probe/DEBIAN /repo/probe/usr/bin
printf "#!/bin/sh\necho probed\n" > /repo/probe/usr/bin/probe
chmod 755 /repo/probe/usr/bin/probe
cat > /repo/probe/DEBIAN/control << END
Package: probe
Version: 1
Architecture: all
Maintainer: nobody <nobody@example.org>
Depends: python3, libsqlite3-0
Description: a package
END
cd /repo
dpkg-deb --root-owner-group --build probe probe.deb
dpkg-deb --field probe.deb > Packages
echo "Filename: ./probe.deb" >> Packages
echo "Size: $(stat -c %s probe.deb)" >> Packages
echo "SHA256: $(sha256sum probe.deb | cut -d " " -f 1)" >> Packages
rm -rf /etc/apt/sources.list.d/*
echo "deb [trusted=yes] file:/repo ./" > /etc/apt/sources.list
export DEBIAN_FRONTEND=noninteractive
apt() { apt-get -q -o APT::Sandbox::User=root "$@"; }
apt update
apt --simulate install probe
test ! -e /usr/bin/probe
apt --yes install probe
probe
dpkg --verify
apt --yes purge probe
test ! -e /usr/bin/probe
'"##;

#[test]
fn overlay() {
    let mount = Mount::start(&fixture().registry.dir, &[]);
    let root = mount.path.join(PYTHON);
    let temp = TempDir::new().expect("a temporary folder");
    // What it mounts is gone with it.
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", INSTALL, "sh"]).arg(&root).arg(temp.path());
    let said = text(&mut command);
    for line in ["Inst probe (1 ", "\nprobed\n", "Removing probe"] {
        assert!(said.contains(line), "{line:?} is not in\n{said}");
    }
    assert!(temp.path().join("upper/repo/probe.deb").is_file());
    assert_same(PYTHON, &tree::read(&root), &fixture().image(PYTHON).unpacked);
}

/// Copies have all there is.
#[test]
fn copies() {
    need("rsync", "rsync");
    let mount = Mount::start(&fixture().registry.dir, &[]);
    let (root, image) = (mount.path.join(SPECIAL), fixture().image(SPECIAL));
    let temp = TempDir::new().expect("a temporary folder");
    let copy = |program: &str, arguments: &[&str], source: &Path| {
        let to = temp.path().join(program);
        fs::create_dir(&to).expect("a folder");
        run(Command::new(program).args(arguments).arg(source.join(".")).arg(&to));
        assert_same(program, &tree::read(&to), &image.unpacked);
        fs::remove_dir_all(&to).expect("the copy");
    };
    copy("rsync", &["-aHAX", "--numeric-ids"], &root);
    copy("cp", &["-a"], &root);
    let mut compare = Command::new("rsync");
    compare.args(["-aHAX", "--numeric-ids", "--omit-dir-times", "--delete"]);
    compare.args(["--dry-run", "--itemize-changes", "--checksum"]);
    compare.arg(root.join(".")).arg(&image.root);
    assert_eq!(text(&mut compare), "", "what rsync would change");
}

/// The members of a tar, with attributes in an order of their own.
const MEMBERS: &str = r#"
import hashlib, sys, tarfile
with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as tar:
    for member in tar:
        content = tar.extractfile(member) if member.isreg() else None
        digest = content and hashlib.sha256(content.read()).hexdigest()
        print(ascii((member.name, member.type, member.mode, member.uid, member.gid, member.size,
            member.linkname, member.devmajor, member.devminor, int(member.mtime // 1),
            sorted(member.pax_headers.items()), digest)))
"#;

/// Programs that walk say the same of the mount and of the unpacked files.
#[test]
fn walks() {
    let mount = Mount::start(&fixture().registry.dir, &[]);
    for image in &fixture().images {
        let root = mount.path.join(image.name);
        let same = |what: &str, command: &str| {
            let [ours, unpacked] = [root.as_path(), Path::new(&image.root)].map(|root| {
                let mut shell = Command::new("sh");
                shell.args(["-ec", command]).current_dir(root).env("LC_ALL", "C");
                run(&mut shell).stdout
            });
            assert_same_lines(&format!("{what} of {}", image.name), &ours, &unpacked);
        };
        same(
            "find",
            r"find . -mindepth 1 \( -type d -printf '%p %y %m %U %G %T@\n' \
              -o -printf '%p %y %m %U %G %T@ %s %n %l\n' \) | sort",
        );
        same("du", "find . ! -type d -print0 | sort -z | du --bytes --files0-from=- | sort");
        // What is below the root, which belongs to whoever unpacked it.
        same(
            "tar",
            &format!(
                "ls -A -1 | tar --create --verbatim-files-from --files-from=- --sort=name \
                  --format=posix --numeric-owner --xattrs '--xattrs-include=*' \
                  --pax-option=delete=atime,delete=ctime | python3 -c '{MEMBERS}'"
            ),
        );
    }
}
