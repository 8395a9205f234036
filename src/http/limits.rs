//! How much requests may take.

use std::time::Duration;

/// Bytes of uploads that wait in memory to be written, for all requests together.
pub const UPLOAD_BUFFERS: usize = 32 << 20;
/// Bytes of manifests being received and checked, for all requests together.
pub const MANIFEST_BUFFERS: usize = 64 << 20;
/// Manifests parsed at a time.
pub const PARSING: usize = 2;
/// Threads that look into images: well below the 512 that tokio has for all blocking work, so that
/// pushes and pulls always find one.
pub const LOOKING: usize = 128;
/// Listings and files longer than a piece being sent: 64 MiB of pieces.
pub const STREAMS: usize = 256;
/// Exports under way.
pub const EXPORTS: usize = 32;
/// Questions across images being answered.
pub const QUESTIONS: usize = 64;

/// Tags that one push sets.
pub const TAGS_MAX: usize = 64;
/// The time in which a document has to arrive.
pub const BODY_TIME: Duration = Duration::from_secs(60);
/// Bytes of bodies that are whole in memory until they are sent, for all requests together.
pub const BODIES: usize = 64 << 20;
/// Bodies up to here are not counted: their number is bounded by those of requests.
pub const BODY_FREE: usize = 16 << 10;
/// Connections to the metrics at a time.
pub const METRICS_CONNECTIONS: usize = 64;
/// Bytes that a page of the catalog or of tags takes at most: names have 255.
pub const LIST_MAX: usize = 10_000 * 260;
/// Bytes that a page of referrers takes at most: a manifest's annotations beyond the page's bound.
pub const REFERRERS_MAX: usize = 6 << 20;
