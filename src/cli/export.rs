//! `registry export`

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Args;
use flate2::Compression;
use flate2::write::GzEncoder;

use super::image::ImageArgs;
use super::output::Stdout;
use crate::image::{FileTree, Node, write_tar};

/// The flags of `registry export`.
#[derive(Args, Clone, Debug)]
pub struct ExportArgs {
    #[command(flatten)]
    image: ImageArgs,

    /// Write to this file instead of stdout
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Compress the archive with gzip
    #[arg(long)]
    gzip: bool,

    /// A directory or file in the image
    #[arg(default_value = "/")]
    path: OsString,
}

pub fn run(args: &ExportArgs) -> Result<ExitCode> {
    let mut stdout = Stdout::new();
    ensure!(
        args.output.is_some() || !stdout.is_terminal(),
        "refusing to write a tar archive to a terminal: give --output FILE, or pipe it to a program"
    );
    let image = args.image.open()?;
    let node = image.node(args.path.as_bytes(), true)?;
    let Some(path) = &args.output else {
        let result = write(&*image, &node, args.gzip, &mut stdout);
        return stdout.end(result.map(|()| ExitCode::SUCCESS));
    };
    let failed = || format!("{} is incomplete", path.display());
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    let mut file = BufWriter::new(file);
    write(&*image, &node, args.gzip, &mut file).with_context(failed)?;
    file.flush().with_context(failed)?;
    Ok(ExitCode::SUCCESS)
}

fn write(tree: &dyn FileTree, node: &Node, gzip: bool, output: &mut impl Write) -> Result<()> {
    if gzip {
        let mut compressed = GzEncoder::new(output, Compression::fast());
        write_tar(tree, node, &mut compressed)?;
        compressed.finish()?;
    } else {
        write_tar(tree, node, output)?;
    }
    Ok(())
}
