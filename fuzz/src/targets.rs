//! What must hold for any bytes. A target panics when it does not.

mod manifests;
mod names;
mod records;
mod streams;
mod tar;

pub use manifests::manifests;
pub use names::names;
pub use records::records;
pub use streams::{gzip, zstd};
pub use tar::tar;
