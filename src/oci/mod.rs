//! Pure types of the OCI image and distribution specifications. Parsers take
//! bytes and give a value or a typed error; nothing here does I/O.

pub mod config;
pub mod digest;
pub mod manifest;
pub mod media_type;
pub mod name;
mod named;
mod pattern;
pub mod platform;
mod summary;

pub use config::ImageConfig;
pub use digest::{Algorithm, Digest, DigestError, Hasher};
pub use manifest::{Contents, Descriptor, Manifest, ManifestError};
pub use media_type::MediaType;
pub use name::{NameError, Reference, Repository, Tag};
pub use named::Named;
pub use pattern::{Pattern, PatternError};
pub use platform::{Platform, PlatformError};
pub use summary::{ManifestKind, Summary};
