//! The command line, a file a subcommand.

pub mod args;
mod cat;
mod export;
mod image;
mod index;
mod ls;
mod mount;
mod output;
mod password;
mod serve;
mod store;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use args::{IndexCommandArgs, MountArgs, ServeArgs, UmountArgs};

pub use output::complain;

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
    Serve(Box<ServeArgs>),

    /// Index layers, so that their files can be found and read at once
    ///
    /// The server does this by itself when an image is pushed, or first looked into. Works beside a running server,
    /// which then does the work, and without one.
    /// Exit codes: 0 all is indexed, 1 some could not be, 2 wrong flags.
    Index(IndexCommandArgs),
    /// List a directory of an image
    ///
    /// Shows what is in a directory, by name, or a file by itself. Works on the registry's folder, beside a
    /// running server or without one. On a terminal what could control it is shown escaped (`\x1b`).
    /// Exit codes: 0 done, 1 failed, 2 wrong flags.
    Ls(ls::LsArgs),

    /// Print files of an image
    ///
    /// Symlinks are followed inside the image. Works on the registry's folder, beside a running server or
    /// without one. Exit codes: 0 done, 1 failed for at least one file, 2 wrong flags.
    Cat(cat::CatArgs),

    /// Write an image's file system, or what is below one of its directories, as a tar
    ///
    /// With owners, times, links and extended attributes. Works on the registry's folder, beside a running
    /// server or without one. Exit codes: 0 done, 1 failed, 2 wrong flags.
    Export(export::ExportArgs),

    /// Mount all images, each a directory
    ///
    /// NAME:TAG is the image for this machine, NAME:TAG@OS-ARCH[-VARIANT] the one for another, NAME@sha256:… any stored
    /// manifest, found by name and not listed. Repositories nest as directories. Nothing is pulled or unpacked.
    /// Works beside a running server or without one; whoever is not root needs fusermount3 (Debian: fuse3).
    /// Absolute symlinks are the image's own: `chroot` makes them right. SIGTERM and SIGINT unmount, busy or not.
    /// Exit codes: 0 unmounted, 1 failed, 2 wrong flags.
    Mount(MountArgs),

    /// Unmount what `registry mount` has mounted
    ///
    /// Exit codes: 0 unmounted, 1 failed, as when it is in use, 2 wrong flags.
    Umount(UmountArgs),

    /// Print a line for the file of --htpasswd
    ///
    /// Asks for the password, or takes the first line of stdin where that is no terminal.
    /// Exit codes: 0 printed, 1 failed, 2 wrong flags.
    Password(password::PasswordArgs),
}

/// Runs a command to its end.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Serve(args) => serve::run(args.check(std::env::vars_os())?),
        Command::Index(args) => index::run(&args),
        Command::Ls(args) => ls::run(&args),
        Command::Cat(args) => cat::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Mount(args) => mount::run(&args),
        Command::Umount(args) => mount::end(&args),
        Command::Password(args) => password::run(&args),
    }
}
