//! Files that the kernel is given before it asks for them.

use std::path::Path;
use std::process::Command;

use crate::common::mount::Mount;
use crate::common::tar::Tar;
use crate::common::{Registry, noise};
use crate::support::{list, push};

/// Whether files can be read, one after the other, within ten seconds.
fn readable(folder: &Path, names: impl IntoIterator<Item = String>) -> bool {
    let mut cat = Command::new("timeout");
    cat.args(["10", "cat"]);
    cat.args(names.into_iter().map(|name| folder.join(name)));
    let output = cat.output().expect("timeout starts");
    output.status.success()
}

/// The kernel has them: they can be read while the mount's process is stopped.
#[test]
fn files_read_in_order_are_given_ahead() {
    let registry = Registry::start(&[]);
    let name = |number: u64| format!("{number:03}");
    let file = |tar: Tar, number| tar.file(format!("d/{}", name(number)), &noise(number, 100));
    push(&registry, "a", "1", &[(0..120).fold(Tar::default(), file).finish()]);
    let mount = Mount::start(&registry.dir, &[]);
    let folder = mount.path.join("a:1/d");
    assert_eq!(list(&folder).len(), 120);
    // These are more than are given the first time.
    assert!(readable(&folder, (0..70).map(name)));
    mount.signal("STOP");
    let read = readable(&folder, (70..120).map(name));
    mount.signal("CONT");
    assert!(read, "they were not given");
}

/// A file may stand in a listing again under another name. It must not be given while it is asked
/// for, and following the order must end.
#[test]
fn other_names_of_a_file() {
    let registry = Registry::start(&[]);
    for (name, length) in [("small", 1000), ("large", 300_000)] {
        let tar =
            Tar::default().file("d/a", b"a").file("d/b", &noise(1, length)).hard_link("d/c", "d/b");
        push(&registry, name, "1", &[tar.finish()]);
    }
    let mount = Mount::start(&registry.dir, &[]);
    for name in ["small", "large"] {
        let folder = mount.path.join(format!("{name}:1/d"));
        assert_eq!(list(&folder).len(), 3);
        for file in ["a", "b", "c"] {
            if !readable(&folder, [file.to_owned()]) {
                // A thread that waits for itself could not even be killed.
                drop(Command::new("umount").arg("-f").arg(&mount.path).output());
                panic!("{name}: {file} is not answered");
            }
        }
    }
}
