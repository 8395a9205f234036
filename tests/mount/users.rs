//! Users other than root.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::common::mount::Mount;
use crate::common::tar::{Member, Tar};
use crate::common::{REGISTRY, Registry, need, run};
use crate::support::push;

const USER: &str = "65534";

/// A command that runs as a user without rights.
fn as_user(program: &str) -> Command {
    need("setpriv", "util-linux");
    let mut command = Command::new("setpriv");
    command.args(["--reuid", USER, "--regid", USER, "--clear-groups", program]);
    command
}

fn may(user: bool, path: &Path) -> bool {
    let mut command = match user {
        true => as_user("cat"),
        false => Command::new("cat"),
    };
    let output = command.arg(path).output().expect("it starts");
    // This is shown when the test fails.
    eprintln!("{output:?}");
    output.status.success()
}

fn image(registry: &Registry) {
    let member = |mode, uid| Member { mode, uid, ..Member::default() };
    let tar = Tar::default()
        .file("all", b"x")
        .member("root", b"x", &member(0o600, 0))
        .member("user", b"x", &member(0o600, 65534))
        .member("null", b"", &Member { kind: b'3', device: (1, 3), ..member(0o666, 0) })
        .member("disk", b"", &Member { kind: b'4', device: (7, 0), ..member(0o666, 0) })
        .finish();
    push(registry, "a", "1", &[tar]);
}

#[test]
fn use_roots_mount() {
    let registry = Registry::start(&[]);
    image(&registry);
    for others in [true, false] {
        let mount = Mount::start(&registry.dir, if others { &["--allow-other"] } else { &[] });
        // Users must be able to reach the mountpoint.
        let folder = mount.path.parent().unwrap();
        fs::set_permissions(folder, Permissions::from_mode(0o755)).unwrap();
        let root = mount.path.join("a:1");
        assert!(may(false, &root.join("all")), "{}", mount.log());
        for (name, user, other) in
            [("all", true, true), ("root", false, true), ("user", true, true)]
        {
            assert_eq!(may(true, &root.join(name)), user && others, "{name} {others}");
            assert_eq!(may(false, &root.join(name)), other, "{name}");
        }
        for name in ["null", "disk"] {
            let error = fs::File::open(root.join(name)).expect_err("no device is opened");
            assert_eq!(error.raw_os_error(), Some(libc::EACCES), "{name}");
        }
    }
}

#[test]
fn mount_themselves() {
    need("fusermount3", "fuse3");
    // Distributions set this mode.
    fs::set_permissions("/dev/fuse", Permissions::from_mode(0o666)).unwrap();
    let mut registry = Registry::start(&[]);
    image(&registry);
    registry.stop();
    let temp = TempDir::new().unwrap();
    let path = temp.path().join("mnt");
    fs::create_dir(&path).unwrap();
    // The program and the folder belong to the user.
    let program = temp.path().join("registry");
    fs::copy(REGISTRY, &program).unwrap();
    for folder in [temp.path(), &registry.dir] {
        run(Command::new("chown").args(["-R", "65534:65534"]).arg(folder));
    }
    let mut command = as_user(program.to_str().unwrap());
    command.arg("mount").arg("--dir").arg(&registry.dir);
    let mut mount = Mount::spawn(temp, path.clone(), command);
    let root = path.join("a:1");
    for (name, user) in [("all", true), ("root", false), ("user", true)] {
        assert_eq!(may(true, &root.join(name)), user, "{name}");
        assert!(!may(false, &root.join(name)), "{name}: not even root may, without --allow-other");
    }
    for name in ["null", "disk"] {
        let mut read = as_user("head");
        let output = read.args(["-c", "1"]).arg(root.join(name)).output().unwrap();
        assert!(!output.status.success(), "{name} is opened");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(complaint.contains("Permission denied"), "{complaint}");
    }
    run(as_user(program.to_str().unwrap()).arg("umount").arg(&path));
    assert_eq!(mount.wait().code(), Some(0), "{}", mount.log());
}

/// Mounts as one user, with an `/etc/fuse.conf` that only this script sees, and reads a file as
/// another. `$0` is the text of the settings; then come the program, the registry, the mountpoint.
const ALLOW_OTHER: &str = r#"
conf=$(mktemp) && printf %s "$0" > "$conf" && chmod 644 "$conf"
mount --bind "$conf" /etc/fuse.conf && rm "$conf"
user="setpriv --reuid 65534 --regid 65534 --clear-groups"
$user "$1" mount --dir "$2" --allow-other --background "$3" || exit 3
setpriv --reuid 65533 --regid 65533 --clear-groups cat "$3/a:1/all" || exit 4
cat "$3/a:1/root" || exit 5
setpriv --reuid 65533 --regid 65533 --clear-groups cat "$3/a:1/user" && exit 6
$user "$1" umount "$3" || exit 7
"#;

#[test]
fn let_others_use_it() {
    need("fusermount3", "fuse3");
    fs::set_permissions("/dev/fuse", Permissions::from_mode(0o666)).unwrap();
    let mut registry = Registry::start(&[]);
    image(&registry);
    registry.stop();
    let temp = TempDir::new().unwrap();
    let [path, program] = ["mnt", "registry"].map(|name| temp.path().join(name));
    fs::create_dir(&path).unwrap();
    fs::copy(REGISTRY, &program).unwrap();
    for folder in [temp.path(), &registry.dir] {
        run(Command::new("chown").args(["-R", "65534:65534"]).arg(folder));
        fs::set_permissions(folder, Permissions::from_mode(0o755)).unwrap();
    }
    for (settings, code, says) in [("user_allow_other\n", 0, ""), ("", 3, "user_allow_other")] {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", ALLOW_OTHER, settings]);
        let output = command.arg(&program).arg(&registry.dir).arg(&path).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{settings:?}: {output:?}");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(complaint.contains(says), "{settings:?}: {complaint}");
    }
}

/// Setuid bits and file capabilities have no effect on the mount.
#[test]
fn no_rights_by_programs() {
    need("setcap", "libcap2-bin");
    let temp = TempDir::new().unwrap();
    let packed = temp.path().join("packed");
    fs::create_dir(&packed).unwrap();
    for name in ["id", "cat"] {
        fs::copy(format!("/usr/bin/{name}"), packed.join(name)).unwrap();
    }
    for (name, mode) in [("id", 0o6755), ("cat", 0o755)] {
        fs::set_permissions(packed.join(name), Permissions::from_mode(mode)).unwrap();
    }
    run(Command::new("setcap").arg("cap_dac_override=ep").arg(packed.join("cat")));
    let tar = run(Command::new("tar")
        .args(["--create", "--format=posix", "--xattrs", "--xattrs-include=*"])
        .arg("--directory")
        .arg(&packed)
        .arg("."));
    let registry = Registry::start(&[]);
    push(&registry, "a", "1", &[tar.stdout]);
    let mount = Mount::start(&registry.dir, &["--allow-other"]);
    let secret = temp.path().join("secret");
    fs::write(&secret, "secret").unwrap();
    fs::set_permissions(&secret, Permissions::from_mode(0o600)).unwrap();
    for folder in [temp.path(), mount.path.parent().unwrap()] {
        fs::set_permissions(folder, Permissions::from_mode(0o755)).unwrap();
    }
    for (root, rights) in [(packed, true), (mount.path.join("a:1"), false)] {
        // The mode is still the one that was packed.
        let mode = fs::metadata(root.join("id")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o6755);
        let id = run(as_user(root.join("id").to_str().unwrap()).arg("-u"));
        let who = String::from_utf8_lossy(&id.stdout).trim().to_owned();
        assert_eq!(who == "0", rights, "{root:?}: {who}");
        let mut cat = as_user(root.join("cat").to_str().unwrap());
        let output = cat.arg(&secret).output().unwrap();
        assert_eq!(output.status.success(), rights, "{root:?}: {output:?}");
    }
}
