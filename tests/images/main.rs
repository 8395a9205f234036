//! What the registry shows of real images is what other programs unpack: Debian
//! packages below layers by Docker, umoci, GNU tar and podman, compressed in
//! every way, against `umoci unpack` and `docker export`. Run as root.

#[path = "../common/mod.rs"]
mod common;

mod answers;
mod diff;
mod find;
mod fixture;
mod grep;
mod mount;
mod names;
mod tars;
mod trees;
mod used;
mod view;
