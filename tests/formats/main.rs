//! Our parsers of foreign formats against the programs that define them.

#[path = "../common/mod.rs"]
mod common;

mod compression;
mod go;
mod tar;
mod tar_mangle;
