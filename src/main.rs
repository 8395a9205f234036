use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match registry::cli::run(registry::cli::Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            registry::log::flush();
            eprintln!("registry: {error:#}");
            ExitCode::FAILURE
        }
    }
}
