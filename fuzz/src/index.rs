//! What of the main crate's `index` does no I/O.

#[path = "../../src/index/codec/mod.rs"]
pub mod codec;
#[path = "../../src/index/records.rs"]
pub mod records;
#[path = "../../src/index/tar/mod.rs"]
pub mod tar;
