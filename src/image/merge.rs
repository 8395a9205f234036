use std::marker::PhantomData;

use super::{Image, Node, Result};

/// The children of a directory, by name.
#[allow(missing_debug_implementations)]
pub struct Children<'a>(PhantomData<&'a Image>);

impl Iterator for Children<'_> {
    type Item = Result<Node>;

    fn next(&mut self) -> Option<Result<Node>> {
        unimplemented!()
    }
}

impl Image {
    pub fn root(&self) -> Result<Node> {
        unimplemented!()
    }

    /// What a directory has under a name.
    pub fn lookup(&self, _directory: &Node, _name: &[u8]) -> Result<Option<Node>> {
        unimplemented!()
    }

    /// The children of a directory, from the name `from` on, which need not exist. To go on
    /// after a name, append a zero byte to it.
    pub fn children(&self, _directory: &Node, _from: &[u8]) -> Result<Children<'_>> {
        unimplemented!()
    }
}
