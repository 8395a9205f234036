//! The HTTP API, case by case: statuses, codes, headers and bytes, from the
//! distribution specification's text, RFC 9110 and what Docker clients need.

#[path = "../common/mod.rs"]
mod common;

mod artifacts;
mod blobs;
mod browser;
mod catalog;
mod cli;
mod diff;
mod errors;
mod files;
mod files_refused;
mod find;
mod grep;
mod house;
mod layers;
mod manifests;
mod nginx;
mod page;
mod partial;
mod referrers;
mod remote;
mod stores;
mod support;
mod tags;
mod uploads;
mod waste;
mod wire;
