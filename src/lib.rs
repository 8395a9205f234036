//! A container registry whose images are also file systems.
//!
//! Dependencies go one way: `cli` -> `http` -> `index` -> `storage` -> `oci`.

pub mod cli;
pub mod config;
pub mod http;
pub mod index;
pub mod log;
pub mod oci;
pub mod storage;
