//! Questions across all images. What a question may look at is its [`Scope`] and the repositories
//! that its asker may pull from; nothing else exists for it. Everything here is blocking code, and
//! every answer can be taken up again between two steps, so that a slow reader keeps no core busy.

pub mod diff;
pub mod find;
mod glob;
pub mod grep;
pub mod layers;
mod narrow;
mod scope;
pub mod space;
pub mod tags;
pub mod usage;
pub mod waste;

use std::sync::Arc;

use serde::Serialize;

use crate::image;
use crate::oci::Repository;

pub use glob::{Glob, GlobError};
pub use scope::{Images, InScope, Indexed, Scope};

/// Says of each repository whether the asker may pull from it.
pub type Permitted = Arc<dyn Fn(&Repository) -> bool + Send + Sync>;

/// What goes wrong with one image does not end a question.
#[derive(Debug)]
pub struct Skipped {
    /// The image, as the mount names it, or its repository.
    pub image: String,
    pub error: Box<image::Error>,
}

impl Skipped {
    pub fn new(image: impl ToString, error: image::Error) -> Skipped {
        Skipped { image: image.to_string(), error: Box::new(error) }
    }
}

/// What a question has come to.
#[derive(Debug)]
pub enum Step<T> {
    Hit(T),
    Skipped(Skipped),
    /// Nothing was found in a while. The caller may leave, or go on.
    Working,
    End,
}

/// What a question has looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Looked {
    pub images: u64,
    /// Images that were left out, because layers of them have no index yet.
    pub waiting_images: u64,
    /// These layers.
    pub waiting_layers: u64,
    /// Whether files were passed over that cannot have what is looked for, as far as the index tells;
    /// `None`: the question has nothing to do with that.
    pub index_skip: Option<bool>,
}

/// An answer that is made in steps.
pub trait Answer: Send {
    /// Does a bounded piece of work. A hit is appended to `lines` as JSON.
    fn step(&mut self, lines: &mut Vec<u8>) -> image::Result<Step<()>>;

    /// Whether another answer could go on here: not between the hits of one path.
    fn may_pause(&self) -> bool {
        true
    }

    /// Where another answer goes on, percent-encoded; `None`: at the beginning.
    fn position(&self) -> Option<String>;

    fn looked(&self) -> Looked;

    /// Bytes that are done, and all that are known of. `None`: nothing is counted.
    fn progress(&self) -> Option<(u64, u64)> {
        None
    }
}

/// Appends a JSON document and the end of its line.
fn write_line(buffer: &mut Vec<u8>, json: &impl Serialize) {
    serde_json::to_writer(&mut *buffer, json)
        .expect("a vector takes every write, and the keys are text");
    buffer.push(b'\n');
}
