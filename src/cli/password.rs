//! `registry password`

use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Args;

use super::output::Stdout;
use crate::auth;

#[derive(Args, Clone, Debug)]
pub struct PasswordArgs {
    /// Cost of the bcrypt hash; each step doubles the time of a guess, and 10 takes about 50 ms
    #[arg(long, value_name = "N", default_value_t = auth::COST,
          value_parser = clap::value_parser!(u32).range(i64::from(auth::COST_MIN)..=i64::from(auth::COST_MAX)))]
    pub cost: u32,

    /// The name of the user
    pub name: String,
}

pub fn run(args: &PasswordArgs) -> Result<ExitCode> {
    let password = if io::stdin().is_terminal() { ask()? } else { first_line()? };
    let line = auth::line(&args.name, &password, args.cost)?;
    let mut stdout = Stdout::new();
    let written = writeln!(stdout, "{line}").context("cannot write the line to stdout");
    stdout.end(written.map(|()| ExitCode::SUCCESS))
}

/// Asks twice on the terminal, which does not show what is typed.
fn ask() -> Result<String> {
    let prompt = |text| rpassword::prompt_password(text).context("cannot read from the terminal");
    let first = prompt("Password: ")?;
    ensure!(first == prompt("Password again: ")?, "the passwords do not match");
    Ok(first)
}

fn first_line() -> Result<String> {
    /// Longer input is not a password.
    const MAX: u64 = 4096;
    let mut line = String::new();
    let mut stdin = io::stdin().lock().take(MAX);
    stdin.read_line(&mut line).context("cannot read the password from stdin")?;
    let line = line.strip_suffix('\n').unwrap_or(&line);
    Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
}
