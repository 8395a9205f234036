//! The command line: one file for each subcommand; [`args`] has the flags they share.

pub mod args;
mod cat;
mod diff;
mod export;
mod find;
mod gc;
mod grep;
mod image;
mod index;
mod ls;
mod mount;
mod output;
mod password;
mod question;
mod retention;
mod scope;
mod scrub;
mod serve;
mod server;
mod tags;
mod usage;
mod waste;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

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
    /// Each flag can also be set by the environment variable that is shown beside it; the flag wins.
    ///
    /// Signals: SIGTERM and SIGINT stop the server after its requests have finished; a second one stops it at once.
    /// SIGHUP reloads the TLS certificate.
    ///
    /// Exit codes: 0 stopped by a signal, 1 failed, 2 wrong flags.
    Serve(Box<ServeArgs>),

    /// Index layers ahead of time, so that the first reader of an image does not wait
    ///
    /// The server indexes layers by itself when an image is pushed, or when it is first read. This command works
    /// beside a running server, which then does the work, without one, and with --server on another machine.
    ///
    /// Exit codes: 0 all layers are indexed, 1 some could not be indexed, 2 wrong flags.
    Index(IndexCommandArgs),

    /// Give back the space of what no tag, manifest or repository names any more
    ///
    /// Removes blobs that no manifest of a repository names, empty repositories, abandoned uploads, images of Docker
    /// 1.x without a tag, and what the index has of all these. What was named, or a client was told of, within the
    /// grace period stays. Prints what went of each repository and the bytes that came back. Works beside a running
    /// server, which then does the work while it serves, and without one.
    ///
    /// Exit codes: 0 done, 1 failed, 2 wrong flags.
    Gc(gc::GcArgs),

    /// Delete the tags that no rule of retention keeps
    ///
    /// The rules are in a file, which docs/operations.md describes; `registry serve --retention FILE` does this before
    /// each collection of garbage. Prints the tags that go, each with the line of the rule that says so. Manifests that
    /// then have no tag stay, unless a rule has `untagged`, and go with a collection of garbage. Works beside a running
    /// server, which then does the work, and without one.
    ///
    /// Exit codes: 0 done, 1 failed, 2 wrong flags.
    Retention(retention::RetentionArgs),

    /// Show what takes space: repositories, tags and the store
    ///
    /// UNIQUE is what would come back if the repository or tag were deleted, with all that nothing else reaches;
    /// SHARED is what something else needs too. Those come first that have the most of UNIQUE. The numbers are
    /// exact and are kept with each push, so the store is not walked. Works on the registry's folder, beside a
    /// running server, without one, or from another machine with --server, where only a user who may pull everything
    /// sees the totals.
    ///
    /// Exit codes: 0 done, 1 failed, 2 wrong flags.
    Usage(usage::UsageArgs),

    /// List the tags of a repository, with sizes, platforms, and when they were last pushed and pulled
    ///
    /// A tag counts as pulled when a client gets its manifest, by the tag or by the digest that it names. Works on the
    /// registry's folder, beside a running server, without one, or from another machine with --server.
    ///
    /// Exit codes: 0 done, 1 failed, also in part, 2 wrong flags.
    Tags(tags::TagsArgs),

    /// List a directory of an image or artifact
    ///
    /// Lists the entries of a directory by name; a file is listed by itself. Works on the registry's folder, beside
    /// a running server, without one, or from another machine with --server. On a terminal, characters that could
    /// control it are escaped (`\x1b`).
    ///
    /// With --layer, `w` in the long format is a whiteout, and `h` a hard link to a file of a lower layer. With
    /// --deleted, a line of what the image does not show begins with D and the digits that name its layer to --layer.
    ///
    /// Exit codes: 0 done, 1 failed, 2 wrong flags.
    Ls(ls::LsArgs),

    /// Print files of an image or artifact
    ///
    /// Symlinks are followed inside the image. Works on the registry's folder, beside a running server,
    /// without one, or from another machine with --server.
    ///
    /// Exit codes: 0 done, 1 at least one file could not be read, 2 wrong flags.
    Cat(cat::CatArgs),

    /// Write the file system of an image or artifact, or one of its directories, as a tar archive
    ///
    /// The archive has owners, times, links and extended attributes. Works on the registry's folder, beside a
    /// running server, without one, or from another machine with --server.
    ///
    /// Exit codes: 0 done, 1 failed, 2 wrong flags.
    Export(export::ExportArgs),

    /// Find files in all images by name, content or attributes
    ///
    /// Prints a line for each file, which is its path in the mount: `team/app:1.4/usr/lib/x.jar`. A file counts
    /// where the merged file system of an image shows it. Images whose layers have no index yet are left out, and a
    /// message says how many; `registry index --all` indexes them. Works on the registry's folder, beside a running
    /// server, without one, or from another machine with --server.
    ///
    /// Exit codes: 0 found, 1 nothing found, 2 failed, also in part, or wrong flags.
    Find(Box<find::FindArgs>),

    /// Print the lines of files in all images that match a pattern
    ///
    /// A line begins with the file's path in the mount: `team/app:1.4/etc/hosts:127.0.0.1 localhost`. Patterns,
    /// options and the treatment of binary files are those of ripgrep: a file ends, for the search, at its first NUL
    /// byte. Each layer is read once, whatever number of images have it; a file counts where the merged file system
    /// of an image shows it. Images whose layers have no index yet are left out, and a message says how many;
    /// `registry index --all` indexes them. Works on the registry's folder, beside a running server, without one,
    /// or from another machine with --server.
    ///
    /// Exit codes: 0 found, 1 nothing found, 2 failed, also in part, or wrong flags.
    Grep(Box<grep::GrepArgs>),

    /// Compare two images
    ///
    /// Prints a line for each path that is not the same in both: `A` for one that only the second image has, `D` for
    /// one that only the first has, and `M` with what differs (content, type, mode, owner, link, device, xattrs).
    /// Contents are compared by their digests; times are not compared. Works on the registry's folder, beside a
    /// running server, without one, or from another machine with --server.
    ///
    /// Exit codes: 0 the images are the same, 1 they differ, 2 failed or wrong flags.
    Diff(Box<diff::DiffArgs>),

    /// Mount all images, each as a directory
    ///
    /// NAME:TAG is the image for this machine, NAME:TAG@OS-ARCH[-VARIANT] is the one for another platform, and
    /// NAME@sha256:… is any stored manifest, which can be opened by name but is not listed. Repositories are nested
    /// directories. Nothing is pulled or unpacked.
    ///
    /// Works beside a running server or without one. Users other than root need fusermount3 (Debian: fuse3).
    /// Absolute symlinks are relative to the image's root, so use `chroot` to follow them. SIGTERM and SIGINT
    /// unmount, even while the mount is in use.
    ///
    /// Exit codes: 0 unmounted, 1 failed, 2 wrong flags.
    Mount(MountArgs),

    /// Unmount a mount of `registry mount`
    ///
    /// Exit codes: 0 unmounted, 1 failed (for example because it is in use), 2 wrong flags.
    Umount(UmountArgs),

    /// Report what an image ships and does not show, and what it has twice
    ///
    /// A file that a layer ships and a layer above deletes or replaces takes space in every pull. The report has the
    /// layers with the commands that made them, the paths that waste the most, and contents that several files have.
    /// docs/questions.md says how the numbers are computed. Works on the registry's folder, beside a running server,
    /// without one, or from another machine with --server.
    ///
    /// Exit codes: 0 reported, 1 a limit of --check is broken, 2 failed, also in part, or wrong flags.
    Waste(Box<waste::WasteArgs>),

    /// Check everything that is stored, and the index
    ///
    /// Reads every blob and compares it with its digest, follows every link, and compares the index of every layer with
    /// what indexing the layer now gives. Prints a line for each piece of damage. A damaged blob is moved aside, so that
    /// the next push of an image that has it heals the store, and a damaged index is made again. Works beside a running
    /// server, which then does the work and goes on serving, and without one. Ctrl-C stops it at any time.
    ///
    /// Exit codes: 0 everything is as it was written, 1 damage was found, 2 failed or wrong flags.
    Scrub(scrub::ScrubArgs),

    /// Print a line for the --htpasswd file
    ///
    /// Asks for the password on a terminal; otherwise the first line of stdin is the password.
    ///
    /// Exit codes: 0 printed, 1 failed, 2 wrong flags.
    Password(password::PasswordArgs),
}

/// Runs a command until it ends.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Serve(args) => serve::run(args.check(std::env::vars_os(), &variables())?),
        Command::Index(args) => index::run(&args),
        Command::Gc(args) => gc::run(&args),
        Command::Retention(args) => retention::run(&args),
        Command::Usage(args) => usage::run(&args),
        Command::Tags(args) => tags::run(&args),
        Command::Ls(args) => ls::run(&args),
        Command::Cat(args) => cat::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Diff(args) => trouble(diff::run(&args)),
        Command::Find(args) => trouble(find::run(&args)),
        Command::Grep(args) => trouble(grep::run(&args)),
        Command::Waste(args) => trouble(waste::run(&args)),
        Command::Scrub(args) => trouble(scrub::run(&args)),
        Command::Mount(args) => mount::run(&args),
        Command::Umount(args) => mount::end(&args),
        Command::Password(args) => password::run(&args),
    }
}

/// Failures of commands whose exit code 1 has another meaning.
fn trouble(result: anyhow::Result<ExitCode>) -> anyhow::Result<ExitCode> {
    Ok(result.unwrap_or_else(|error| {
        complain(format_args!("{error:#}"));
        ExitCode::from(2)
    }))
}

/// The environment variables of all flags.
fn variables() -> Vec<OsString> {
    Cli::command()
        .get_subcommands()
        .flat_map(clap::Command::get_arguments)
        .filter_map(|argument| argument.get_env().map(ToOwned::to_owned))
        .collect()
}
