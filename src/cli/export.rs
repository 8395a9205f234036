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

use super::image::{Found, ImageArgs};
use super::output::Stdout;
use crate::image::{Node, Opened, write_tar};
use crate::remote::Answer;

/// Bytes of an archive that are copied at a time.
const PIECE: usize = 1 << 20;

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
    let path = args.path.as_bytes();
    let archive = match args.image.open()? {
        Found::Here(image) => {
            let node = image.node(path, true)?;
            Archive::Here(image, node)
        }
        Found::There(image) => {
            let gzip: &[&str] = if args.gzip { &["gzip"] } else { &[] };
            Archive::There(image.get("tar", path, gzip)?)
        }
    };
    let Some(path) = &args.output else {
        let result = write(archive, args.gzip, &mut stdout);
        return stdout.end(result.map(|()| ExitCode::SUCCESS));
    };
    let failed = || format!("{} is incomplete", path.display());
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    let mut file = BufWriter::new(file);
    write(archive, args.gzip, &mut file).with_context(failed)?;
    file.flush().with_context(failed)?;
    Ok(ExitCode::SUCCESS)
}

/// An archive to be written.
enum Archive {
    Here(Opened, Node),
    /// The server makes it.
    There(Answer),
}

fn write(archive: Archive, gzip: bool, output: &mut impl Write) -> Result<()> {
    match archive {
        Archive::Here(tree, node) if gzip => {
            let mut compressed = GzEncoder::new(output, Compression::fast());
            write_tar(&*tree, &node, &mut compressed)?;
            compressed.finish()?;
        }
        Archive::Here(tree, node) => write_tar(&*tree, &node, output)?,
        Archive::There(mut answer) => {
            let mut buffer = vec![0; PIECE];
            loop {
                let length = answer.read(&mut buffer)?;
                if length == 0 {
                    break;
                }
                output.write_all(&buffer[..length])?;
            }
        }
    }
    Ok(())
}
