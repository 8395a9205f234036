//! Fuzz targets for what reads an attacker's bytes. `make fuzz` runs them under
//! libFuzzer, `make test` builds them and runs each on damaged seeds.
//!
//! The modules under test are included as source and not linked: the main crate
//! needs RocksDB, which takes long to compile and longer with the fuzzer's
//! instrumentation, and none of these modules need it. They stand where they do
//! in the main crate, so that their `super::` means the same.

pub mod index;
#[path = "../../src/layer/mod.rs"]
pub mod layer;
#[path = "../../src/oci/mod.rs"]
pub mod oci;
pub mod seeds;
pub mod targets;

/// A target and its name.
pub type Target = (&'static str, fn(&[u8]));

pub const TARGETS: [Target; 6] = [
    ("gzip", targets::gzip),
    ("manifests", targets::manifests),
    ("names", targets::names),
    ("records", targets::records),
    ("tar", targets::tar),
    ("zstd", targets::zstd),
];
