//! The command line, a file a subcommand.

mod serve;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::ServeArgs;

/// A container image registry for people who want to look inside images.
#[derive(Debug, Parser)]
#[command(name = "registry", version, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the registry: clients push to it and pull from it
    ///
    /// Every flag can also be given as the environment variable that stands beside it; the flag wins.
    /// Signals: SIGTERM and SIGINT stop the server once its requests are done, a second one at once;
    /// SIGHUP reads the TLS certificate again.
    /// Exit codes: 0 stopped on a signal, 1 failed, 2 wrong flags.
    Serve(ServeArgs),
}

/// Runs a command to its end.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Serve(args) => serve::run(args.check(std::env::vars_os())?),
    }
}
