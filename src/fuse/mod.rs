//! Images as a file system of the kernel (FUSE): the merged view's second face
//! beside HTTP. [`Tree`] says what there is, [`Adapter`] speaks with the kernel
//! through the `fuser` crate, [`Mount`] comes and goes.
//!
//! What is below an image never changes, so the kernel keeps names, attributes,
//! listings, links and pages as long as it likes, and opens files without
//! asking. What is above is asked for anew after the tag's time to live.

mod adapter;
mod error;
mod inodes;
mod mount;
mod mountinfo;
mod names;
mod readahead;
mod tree;
mod workers;

pub use error::{Error, Result};
pub use mount::{Mount, MountError, Options, unmount};
pub use tree::{Look, Patience, Tree};

/// What a mount has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It was unmounted.
    Ended,
    /// A bug: it must be unmounted.
    Panicked,
    /// Somebody wants it to be unmounted.
    Stop,
    /// Somebody wants that at once.
    StopNow,
}
