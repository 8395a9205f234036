use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match registry::cli::run(registry::cli::Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            registry::log::flush();
            registry::cli::complain(format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}
