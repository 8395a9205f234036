//! `registry cat`

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::image::{Found, ImageArgs};
use super::output::{Stdout, complain};
use crate::image::{Node, Opened};
use crate::remote::Answer;

/// Bytes that are read at a time.
const PIECE: usize = 1 << 20;

/// The flags of `registry cat`.
#[derive(Args, Clone, Debug)]
pub struct CatArgs {
    #[command(flatten)]
    image: ImageArgs,

    /// Files in the image
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<OsString>,
}

pub fn run(args: &CatArgs) -> Result<ExitCode> {
    let image = args.image.open()?;
    let mut stdout = Stdout::new();
    let mut buffer = vec![0; PIECE];
    let mut code = ExitCode::SUCCESS;
    for path in &args.paths {
        if let Err(error) = print(&image, path.as_bytes(), &mut buffer, &mut stdout) {
            if stdout.is_closed() {
                break;
            }
            // The other files may still be readable.
            stdout.flush()?;
            complain(format_args!("{error:#}"));
            code = ExitCode::FAILURE;
        }
    }
    stdout.end(Ok(code))
}

/// A file that is printed.
enum File<'a> {
    Here(&'a Opened, Node),
    There(Answer),
}

fn print(image: &Found, path: &[u8], buffer: &mut [u8], stdout: &mut Stdout) -> Result<()> {
    let mut file = match image {
        Found::Here(tree) => File::Here(tree, tree.file(path)?),
        Found::There(image) => File::There(image.get("blobs", path, &[])?),
    };
    let mut offset = 0;
    loop {
        let read = match &mut file {
            File::Here(tree, node) => tree.read(node, offset, buffer)?,
            File::There(answer) => answer.read(buffer)?,
        };
        if read == 0 {
            return Ok(());
        }
        stdout.write_all(&buffer[..read])?;
        offset += read as u64;
    }
}
