use std::io::Write;
use std::sync::Arc;

use super::{Image, Node, Result};

impl Image {
    /// Writes what lies at and below `node` as a tar stream. Names are relative to `node`, which has no
    /// entry itself if it is a directory.
    pub fn write_tar(self: &Arc<Image>, _node: &Node, _to: impl Write) -> Result<()> {
        unimplemented!()
    }
}
