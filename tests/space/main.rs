//! What the store holds, and how space comes back: `registry gc` beside pushes, pulls, deletes and
//! kills, with stores of other servers.

#[path = "../v1/client.rs"]
mod client;
#[path = "../common/mod.rs"]
mod common;

mod gc;
mod kept;
mod model;
mod race;
mod retention;
mod support;
mod tags;
mod usage;
