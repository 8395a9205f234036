//! Faults on purpose: kills, full disks, broken connections, hostile clients,
//! and how the server is operated through them.

#[path = "../common/mod.rs"]
mod common;

mod crash;
mod disk;
mod index;
mod mount;
mod net;
mod operation;
mod probe;
mod scrub;
