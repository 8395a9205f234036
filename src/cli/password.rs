//! `registry password`

use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::os::fd::AsRawFd;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Args;

use super::output::{Stdout, complain};
use crate::auth;

#[derive(Args, Clone, Debug)]
pub struct PasswordArgs {
    /// How much work a guess costs: each step doubles it; 10 takes some 50 ms
    #[arg(long, value_name = "N", default_value_t = auth::COST,
          value_parser = clap::value_parser!(u32).range(i64::from(auth::COST_MIN)..=i64::from(auth::COST_MAX)))]
    pub cost: u32,

    /// The user
    pub name: String,
}

pub fn run(args: &PasswordArgs) -> Result<ExitCode> {
    let stdin = io::stdin();
    let password = if stdin.is_terminal() {
        let hidden = Hidden::new(stdin.as_raw_fd()).context("cannot hide what is typed")?;
        let first = ask("Password: ")?;
        let again = ask("Again: ")?;
        drop(hidden);
        ensure!(first == again, "the two are not the same");
        first
    } else {
        first_line()?
    };
    let line = auth::line(&args.name, &password, args.cost)?;
    let mut stdout = Stdout::new();
    let written = writeln!(stdout, "{line}").context("cannot write the line");
    stdout.end(written.map(|()| ExitCode::SUCCESS))
}

fn ask(prompt: &str) -> Result<String> {
    let mut stderr = io::stderr();
    write!(stderr, "{prompt}").and_then(|()| stderr.flush()).context("cannot ask")?;
    let line = first_line();
    writeln!(stderr).context("cannot ask")?;
    line
}

fn first_line() -> Result<String> {
    /// More is no password.
    const MAX: u64 = 4096;
    let mut line = String::new();
    let mut stdin = io::stdin().lock().take(MAX);
    stdin.read_line(&mut line).context("cannot read the password from stdin")?;
    let line = line.strip_suffix('\n').unwrap_or(&line);
    Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
}

/// A terminal that does not show what is typed, until this is dropped.
struct Hidden {
    terminal: i32,
    before: libc::termios,
}

impl Hidden {
    fn new(terminal: i32) -> io::Result<Hidden> {
        let mut before = std::mem::MaybeUninit::uninit();
        // SAFETY: it writes a whole termios where it returns 0, and reads one.
        #[allow(unsafe_code)]
        let before = unsafe {
            if libc::tcgetattr(terminal, before.as_mut_ptr()) != 0 {
                return Err(io::Error::last_os_error());
            }
            before.assume_init()
        };
        let mut hidden = before;
        hidden.c_lflag &= !libc::ECHO;
        set(terminal, &hidden)?;
        Ok(Hidden { terminal, before })
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        if let Err(error) = set(self.terminal, &self.before) {
            complain(format_args!("what is typed stays hidden (`stty echo` shows it): {error}"));
        }
    }
}

fn set(terminal: i32, settings: &libc::termios) -> io::Result<()> {
    // SAFETY: it only reads what it is given.
    #[allow(unsafe_code)]
    match unsafe { libc::tcsetattr(terminal, libc::TCSAFLUSH, settings) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
