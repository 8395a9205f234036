//! What images share: numbers, content, memory.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use registry::oci::Platform;

use crate::common::mount::Mount;
use crate::common::side::forget;
use crate::common::tar::Tar;
use crate::common::{Registry, noise, run};
use crate::support::{layer, list, peak, push_of, set};

/// Pushes images as tags of `app`; each has the base and a layer of its own.
fn push_many(registry: &Registry, base: &[u8], tags: usize) {
    let host = Platform::host().to_string();
    let push = |bytes: &[u8]| (registry.push_blob("app", bytes), bytes.len());
    let base = push(base);
    for tag in 0..tags {
        let own = push(&layer(&format!("dir/own/{tag}"), &format!("of {tag}")));
        push_of(registry, &host, "app", &tag.to_string(), &[base, own]);
    }
}

/// Which pages of a file are in the page cache.
fn resident(file: &File) -> Vec<bool> {
    const PAGE: usize = 4096;
    // SAFETY: the file cannot change.
    #[allow(unsafe_code)]
    let mapped = unsafe { memmap2::Mmap::map(file) }.expect("it can be mapped");
    let mut pages = vec![0u8; mapped.len().div_ceil(PAGE)];
    // SAFETY: the place is mapped, and there is a byte for each of its pages.
    #[allow(unsafe_code)]
    let result = unsafe {
        let start = mapped.as_ptr().cast_mut().cast();
        libc::mincore(start, mapped.len(), pages.as_mut_ptr())
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    pages.into_iter().map(|page| page & 1 == 1).collect()
}

/// A file of the base is one file in all images, and in memory once.
#[test]
fn ten_images() {
    const LARGE: usize = 3_000_000;
    let mut base = Tar::default()
        .file("large", &noise(1, LARGE))
        .file("cold", &noise(2, LARGE))
        .symlink("link", "large")
        .device("fifo", b'6', (0, 0));
    for number in 0..20 {
        base = base.file(format!("dir/{number}"), b"small");
    }
    let registry = Registry::start(&[]);
    push_many(&registry, &base.finish(), 10);
    let mount = Mount::start(&registry.dir, &[]);
    let roots: Vec<_> = (0..10).map(|tag| mount.path.join(format!("app:{tag}"))).collect();
    let number = |path: &Path| fs::symlink_metadata(path).unwrap().ino();
    let mut directories = std::collections::HashSet::new();
    for (tag, root) in roots.iter().enumerate() {
        for name in ["large", "cold", "link", "fifo", "dir/0", "dir/19"] {
            assert_eq!(number(&root.join(name)), number(&roots[0].join(name)), "{name} in {tag}");
        }
        for name in ["", "dir", "dir/own"] {
            assert!(directories.insert(number(&root.join(name))), "{name} in {tag}");
        }
        assert_eq!(list(&root.join("dir/own")), set([&tag.to_string()]));
    }

    assert!(fs::read(roots[0].join("large")).unwrap() == noise(1, LARGE));
    for root in &roots {
        let [large, cold] = ["large", "cold"].map(|name| File::open(root.join(name)).unwrap());
        assert!(resident(&large).into_iter().all(|page| page), "{root:?}");
        assert!(!resident(&cold).into_iter().any(|page| page), "{root:?}");
    }
    forget(&File::open(roots[3].join("large")).unwrap());
    let large = File::open(roots[7].join("large")).unwrap();
    assert!(!resident(&large).into_iter().any(|page| page), "it is kept twice");
    assert!(fs::read(roots[7].join("large")).unwrap() == noise(1, LARGE));
}

/// Memory does not grow with what is walked and read.
#[test]
fn memory() {
    const IMAGES: usize = 200;
    const FOLDERS: usize = 2000;
    const FILES: usize = 2;
    const CACHE: u64 = 32 << 10;
    const BESIDES: u64 = 100 << 10;
    let mut base = Tar::default();
    for folder in 0..FOLDERS {
        base = base.directory(format!("some-folders/folder-{folder:04}/"));
        for file in 0..FILES {
            let seed = (folder * FILES + file) as u64;
            let path = format!("some-folders/folder-{folder:04}/file-{file}.txt");
            base = base.file(path, &noise(seed, 5000));
        }
    }
    let registry = Registry::start(&[]);
    push_many(&registry, &base.finish(), IMAGES);
    let mount = Mount::start(&registry.dir, &["--cache-size", "32MiB"]);
    let before = peak(mount.pid());
    let mut find = Command::new("find");
    find.arg(&mount.path).args(["-printf", "%s %m\n"]);
    let found = run(&mut find).stdout;
    let lines = found.iter().filter(|&&byte| byte == b'\n').count();
    // Each image has its root, the folder of folders, and its own file below two folders.
    assert_eq!(lines, 1 + IMAGES * (5 + FOLDERS * (1 + FILES)));
    let walked = peak(mount.pid());
    let mut grep = Command::new("grep");
    grep.args(["-r", "--count", "nowhere"]).stdout(Stdio::null());
    for image in (0..IMAGES).step_by(20) {
        grep.arg(mount.path.join(format!("app:{image}")));
    }
    assert_eq!(grep.status().expect("it starts").code(), Some(1));
    let read = peak(mount.pid());
    println!("KiB at most: {before} mounted, {walked} walked, {read} read");
    assert!(read < CACHE + BESIDES, "{before} KiB mounted, {walked} walked, {read} read");
}
