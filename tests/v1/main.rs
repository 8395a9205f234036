//! Docker's first API: a client of our own that follows it step by step, every kind
//! of bad step, and one world with the second, as real clients of both see it. Runs
//! as root, as the Docker engine must.

#[path = "../common/mod.rs"]
mod common;

mod access;
mod client;
mod lists;
mod others;
mod push;
mod refused;
mod worlds;
