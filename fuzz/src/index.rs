//! What of the main crate's `index` does no I/O.

#[path = "../../src/index/records.rs"]
pub mod records;
