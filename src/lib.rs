//! A container image registry for people who want to look inside images.
//!
//! Dependencies go one way: `cli` -> `http`, `fuse` -> `image` -> `index` -> `storage` -> `oci`;
//! `http` asks `auth`, which knows `oci` only, and tells `events`, which knows no more.

pub mod auth;
pub mod cli;
pub mod config;
pub mod events;
pub mod fuse;
pub mod hooks;
pub mod http;
pub mod image;
pub mod index;
pub mod log;
mod metrics;
pub mod notifications;
pub mod oci;
pub mod storage;
pub mod v1;
