use std::sync::Arc;

use super::{Image, Node, Result};

/// Everything below a directory, each directory before what it has, by name.
/// Holds nothing of the database between two steps.
#[derive(Debug)]
pub struct Walk;

impl Walk {
    pub fn new(_image: Arc<Image>, _directory: Node) -> Walk {
        unimplemented!()
    }

    /// As [`Walk::new`], after the node with `path`, a path of the image, which need not exist.
    pub fn after(_image: Arc<Image>, _directory: Node, _path: &[u8]) -> Result<Walk> {
        unimplemented!()
    }
}

impl Iterator for Walk {
    type Item = Result<Node>;

    fn next(&mut self) -> Option<Result<Node>> {
        unimplemented!()
    }
}
