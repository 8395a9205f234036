//! Images as a file system of the kernel (FUSE): the merged view's second face beside HTTP. [`Tree`]
//! says what there is, [`Adapter`](adapter::Adapter) speaks with the kernel through the `fuser`
//! crate, [`Mount`] begins and ends.
//!
//! What is below an image never changes, so the kernel keeps names, attributes, listings, links and
//! pages as long as it likes, and opens files without asking. What is above is asked for again after
//! the tag's time to live.

mod adapter;
mod error;
mod inodes;
mod listing;
mod mount;
mod mountinfo;
mod names;
mod readahead;
mod tree;
mod workers;

pub use error::{Error, Result};
pub use mount::{Mount, MountError, Options, unmount};
pub use tree::{Tree, ViewOptions};

/// What happens to a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It was unmounted.
    Ended,
    /// A bug was met, so it has to be unmounted.
    Panicked,
    /// It is asked to unmount.
    Stop,
    /// It is asked to end at once.
    StopNow,
}
