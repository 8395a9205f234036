//! The images, mounted.

use std::collections::HashMap;

use crate::common::mount::Mount;
use crate::common::tree::{self, assert_same};
use crate::fixture::fixture;

/// All that an unpacked tree shows, of every packing, through the kernel.
#[test]
fn mounted() {
    let mut mounts: HashMap<u32, Mount> = HashMap::new();
    for (what, registry, image) in fixture().all() {
        let mount = mounts
            .entry(registry.pid())
            .or_insert_with(|| Mount::start(&registry.dir, &[]));
        let found = tree::read(&mount.path.join(image.name));
        assert_same(&what, &found, &image.unpacked);
    }
}
