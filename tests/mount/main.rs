//! `registry mount` through the kernel: what it shows beside what was packed, names, errors, other
//! programs, and how it ends. These tests run as root.

#[path = "../common/mod.rs"]
mod common;

mod ahead;
mod artifacts;
mod bugs;
mod damage;
mod ends;
mod files;
mod grep;
mod names;
mod neighbours;
mod restart;
mod shared;
mod support;
mod together;
mod users;
