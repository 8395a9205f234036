//! What the registry tells of what happens: the stream of events, hooks,
//! webhooks, and the sample hooks.

mod access;
#[path = "../common/mod.rs"]
mod common;
mod deletes;
mod hooks;
mod samples;

mod stream;
mod support;
mod webhooks;
