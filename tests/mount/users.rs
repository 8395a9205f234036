//! Ordinary users.

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

/// A command of a user without rights.
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
    // Shown when the test fails.
    eprintln!("{output:?}");
    output.status.success()
}

fn image(registry: &Registry) {
    let member = |mode, uid| Member {
        mode,
        uid,
        ..Member::default()
    };
    let tar = Tar::default()
        .file("all", b"x")
        .member("root", b"x", &member(0o600, 0))
        .member("user", b"x", &member(0o600, 65534))
        .member(
            "null",
            b"",
            &Member {
                kind: b'3',
                device: (1, 3),
                ..member(0o666, 0)
            },
        )
        .finish();
    push(registry, "a", "1", &[tar]);
}

#[test]
fn look_at_roots_mount() {
    let registry = Registry::start(&[]);
    image(&registry);
    for others in [true, false] {
        let mount = Mount::start(&registry.dir, if others { &["--allow-other"] } else { &[] });
        // The way there.
        let folder = mount.path.parent().unwrap();
        fs::set_permissions(folder, Permissions::from_mode(0o755)).unwrap();
        let root = mount.path.join("a:1");
        assert!(may(false, &root.join("all")), "{}", mount.log());
        for (name, user, other) in [
            ("all", true, true),
            ("root", false, true),
            ("user", true, true),
        ] {
            assert_eq!(
                may(true, &root.join(name)),
                user && others,
                "{name} {others}"
            );
            assert_eq!(may(false, &root.join(name)), other, "{name}");
        }
        let null = fs::File::open(root.join("null")).expect_err("no device is opened");
        assert_eq!(null.raw_os_error(), Some(libc::EACCES));
    }
}

#[test]
fn mount_themselves() {
    need("fusermount3", "fuse3");
    // As distributions have it.
    fs::set_permissions("/dev/fuse", Permissions::from_mode(0o666)).unwrap();
    let mut registry = Registry::start(&[]);
    image(&registry);
    registry.stop();
    let temp = TempDir::new().unwrap();
    let path = temp.path().join("mnt");
    fs::create_dir(&path).unwrap();
    // A program and a folder that the user may use.
    let program = temp.path().join("registry");
    fs::copy(REGISTRY, &program).unwrap();
    for folder in [temp.path(), &registry.dir] {
        run(Command::new("chown")
            .args(["-R", "65534:65534"])
            .arg(folder));
    }
    let mut command = as_user(program.to_str().unwrap());
    command.arg("mount").arg("--dir").arg(&registry.dir);
    let mut mount = Mount::spawn(temp, path.clone(), command);
    let root = path.join("a:1");
    for (name, user) in [("all", true), ("root", false), ("user", true)] {
        assert_eq!(may(true, &root.join(name)), user, "{name}");
        assert!(
            !may(false, &root.join(name)),
            "{name}: root has no business there"
        );
    }
    run(as_user(program.to_str().unwrap()).arg("umount").arg(&path));
    assert_eq!(mount.wait().code(), Some(0), "{}", mount.log());
}
