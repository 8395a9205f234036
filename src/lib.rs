//! A container image registry for people who want to look inside images.
//!
//! Dependencies go one way: `cli` -> `http`, `fuse` -> `image` -> `index` -> `storage` -> `oci`;
//! `http` asks `auth`, which knows `oci` only, and tells `events`, which knows no more.

pub mod auth;
pub mod cli;
pub mod docker1;
pub mod events;
pub mod fuse;
pub mod http;
pub mod image;
pub mod index;
pub mod layer;
pub mod log;
mod metrics;
pub mod oci;
pub mod storage;
