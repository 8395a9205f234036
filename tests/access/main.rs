//! Who may do what: every route for every kind of user, what must not leak from
//! one repository to another, passwords, tokens, and real clients that log in.

#[path = "../common/mod.rs"]
mod common;

mod clients;
mod identity;
mod leaks;
mod logins;
mod matrix;
mod reload;
mod remote;
mod support;
mod tokens;
