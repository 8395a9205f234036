//! A container image registry for people who want to look inside images.
//!
//! [`cli`], [`http`] and [`fuse`] are its faces: they translate, and decide nothing. [`server`] wires
//! what `registry serve` runs. [`registry`] knows what a change means, [`image`] shows the layers of
//! one image as a tree, [`query`] answers questions about all of them, [`index`] keeps what is
//! derived from layers in RocksDB, [`storage`] keeps the truth as files. `remote` asks another server. [`layer`], [`docker1`] and [`oci`] are formats without I/O. [`auth`] decides who
//! may do what, [`events`] reports what happened.
//!
//! Dependencies go one way: faces -> `registry` -> `image` -> `index` -> `storage` -> `oci`.
//! `docs/ARCHITECTURE.md` describes each room.

pub mod auth;
mod background;
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
pub mod query;
pub mod registry;
mod remote;
mod roots;
pub mod server;
pub mod storage;
mod terminal;
