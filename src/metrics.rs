//! The names of the metrics, all in one place; `docs/operations.md` lists them.

use std::time::Duration;

use metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

use crate::log;

const REQUESTS: &str = "registry_http_requests_total";
const SECONDS: &str = "registry_http_request_seconds";
const CONNECTIONS: &str = "registry_http_connections";
const UPLOADED: &str = "registry_upload_bytes_total";
const SENT: &str = "registry_blob_bytes_total";
const EVENTS: &str = "registry_events_total";
const HOOKS: &str = "registry_hooks_total";
const NOTIFICATIONS: &str = "registry_notifications_total";
const INDEXED: &str = "registry_index_layers_total";
const INDEX_SECONDS: &str = "registry_index_seconds";
const INDEXED_BYTES: &str = "registry_index_bytes_total";
const INDEX_QUEUE: &str = "registry_index_queue";
const INDEX_FILES: &str = "registry_index_files";
const INDEX_BYTES: &str = "registry_index_bytes";
const STORE_BYTES: &str = "registry_store_bytes";
const IMAGES_OPENED: &str = "registry_images_opened_total";
const COLLECTIONS: &str = "registry_gc_runs_total";
const COLLECTION_SECONDS: &str = "registry_gc_seconds";
const COLLECTED: &str = "registry_gc_removed_total";
const COLLECTED_BYTES: &str = "registry_gc_freed_bytes_total";
const RETENTION: &str = "registry_retention_tags_total";
const SCRUB_BYTES: &str = "registry_scrub_bytes_total";
const SCRUB_FINDINGS: &str = "registry_scrub_findings_total";
const SCRUB_ENDED: &str = "registry_scrub_ended_seconds";
const READERS: &str = "registry_event_readers";
const READERS_DROPPED: &str = "registry_event_readers_dropped_total";

/// Says what the metrics mean. Called once, when a recorder is there.
pub fn describe() {
    describe_counter!(REQUESTS, Unit::Count, "Requests answered, by route, method and status");
    describe_histogram!(SECONDS, Unit::Seconds, "Time until the answer's head was ready, by route");
    describe_gauge!(CONNECTIONS, Unit::Count, "Open connections");
    describe_counter!(UPLOADED, Unit::Bytes, "Bytes of blobs received");
    describe_counter!(SENT, Unit::Bytes, "Bytes of blobs sent");
    describe_counter!(EVENTS, Unit::Count, "Events published, by type");
    describe_counter!(HOOKS, Unit::Count, "Hooks run, by event and result");
    describe_counter!(
        NOTIFICATIONS,
        Unit::Count,
        "Notifications sent, tries that failed, and notifications lost, by result"
    );
    describe_counter!(INDEXED, Unit::Count, "Layers whose indexing ended, by result");
    describe_histogram!(INDEX_SECONDS, Unit::Seconds, "Time that indexing a layer took");
    describe_counter!(INDEXED_BYTES, Unit::Bytes, "Bytes of stored layers that were indexed");
    describe_gauge!(INDEX_QUEUE, Unit::Count, "Layers that wait to be indexed");
    describe_gauge!(INDEX_FILES, Unit::Count, "Files of the index, when a layer was last indexed");
    describe_gauge!(STORE_BYTES, Unit::Bytes, "What the store takes, by kind, every five minutes");
    describe_counter!(IMAGES_OPENED, Unit::Count, "Images opened to look inside");
    describe_counter!(COLLECTIONS, Unit::Count, "Collections of garbage, by result");
    describe_histogram!(
        COLLECTION_SECONDS,
        Unit::Seconds,
        "Time that a collection of garbage took"
    );
    describe_counter!(COLLECTED, Unit::Count, "What collections of garbage removed, by kind");
    describe_counter!(COLLECTED_BYTES, Unit::Bytes, "Bytes of blobs that came back");
    describe_counter!(RETENTION, Unit::Count, "Tags that the rules of retention deleted");
    describe_counter!(SCRUB_BYTES, Unit::Bytes, "Bytes that scrubs have read");
    describe_counter!(SCRUB_FINDINGS, Unit::Count, "Damage that scrubs have found, by kind");
    describe_gauge!(SCRUB_ENDED, Unit::Seconds, "When the last scrub ended, since 1970");
    describe_gauge!(READERS, Unit::Count, "Readers of /v1/events");
    describe_counter!(READERS_DROPPED, Unit::Count, "Readers of /v1/events that were too slow");
    gauge!(CONNECTIONS).set(0);
    gauge!(READERS).set(0);
    gauge!(INDEX_QUEUE).set(0);
    counter!(INDEXED_BYTES).absolute(0);
    counter!(IMAGES_OPENED).absolute(0);
    counter!(COLLECTED_BYTES).absolute(0);
    counter!(READERS_DROPPED).absolute(0);
    counter!(SCRUB_BYTES).absolute(0);
    counter!(UPLOADED).absolute(0);
    counter!(SENT).absolute(0);
}

pub fn request(route: &'static str, line: &log::Request) {
    // A client may send any method; the series must not grow with its fancy.
    let method = match line.method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        _ => "other",
    };
    counter!(REQUESTS, "route" => route, "method" => method, "status" => line.status.to_string())
        .increment(1);
    histogram!(SECONDS, "route" => route).record(line.start.elapsed());
}

pub fn uploaded(bytes: usize) {
    counter!(UPLOADED).increment(bytes as u64);
}

pub fn sent(bytes: usize) {
    counter!(SENT).increment(bytes as u64);
}

pub fn event(kind: &'static str) {
    counter!(EVENTS, "type" => kind).increment(1);
}

pub fn hook(kind: &'static str, result: &'static str) {
    counter!(HOOKS, "event" => kind, "result" => result).increment(1);
}

pub fn notification(result: &'static str) {
    notifications(result, 1);
}

pub fn notifications(result: &'static str, number: u64) {
    counter!(NOTIFICATIONS, "result" => result).increment(number);
}

/// Counts a layer whose indexing ended: `bytes` of its blob were read.
pub fn indexed(result: &'static str, bytes: u64, time: Duration) {
    counter!(INDEXED, "result" => result).increment(1);
    counter!(INDEXED_BYTES).increment(bytes);
    histogram!(INDEX_SECONDS).record(time);
}

pub fn index_queue(layers: usize) {
    gauge!(INDEX_QUEUE).set(layers as f64);
}

pub fn index_files(files: usize) {
    gauge!(INDEX_FILES).set(files as f64);
}

pub fn index_bytes(family: &str, bytes: usize) {
    gauge!(INDEX_BYTES, "family" => family.to_owned()).set(bytes as f64);
}

/// Counts tags that went because no rule of retention keeps them.
pub fn retention(tags: u64) {
    counter!(RETENTION).increment(tags);
}

/// What takes the space of the store, by kind.
pub fn store_bytes(kinds: [(&'static str, u64); 5]) {
    for (kind, bytes) in kinds {
        gauge!(STORE_BYTES, "kind" => kind).set(bytes as f64);
    }
}

/// Counts a collection of garbage: what it removed by kind, and the bytes that came back.
pub fn collected(seconds: f64, bytes: u64, kinds: &[(&'static str, u64)]) {
    counter!(COLLECTIONS, "result" => "done").increment(1);
    histogram!(COLLECTION_SECONDS).record(seconds);
    counter!(COLLECTED_BYTES).increment(bytes);
    for (kind, count) in kinds {
        counter!(COLLECTED, "kind" => *kind).increment(*count);
    }
}

pub fn collecting_failed() {
    counter!(COLLECTIONS, "result" => "failed").increment(1);
}

pub fn image_opened() {
    counter!(IMAGES_OPENED).increment(1);
}

pub fn scrubbed(bytes: u64) {
    counter!(SCRUB_BYTES).increment(bytes);
}

pub fn scrub_findings(kind: &'static str, number: u64) {
    counter!(SCRUB_FINDINGS, "kind" => kind).increment(number);
}

/// `at` is in seconds since 1970.
pub fn scrub_ended(at: u64) {
    gauge!(SCRUB_ENDED).set(at as f64);
}

/// Counts a reader of events while it lives.
#[derive(Debug)]
pub struct Reader(());

impl Reader {
    pub fn new() -> Reader {
        gauge!(READERS).increment(1);
        Reader(())
    }

    pub fn dropped() {
        counter!(READERS_DROPPED).increment(1);
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        gauge!(READERS).decrement(1);
    }
}

/// Counts a connection while it lives.
#[derive(Debug)]
pub struct Connection(());

impl Connection {
    pub fn new() -> Connection {
        gauge!(CONNECTIONS).increment(1);
        Connection(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        gauge!(CONNECTIONS).decrement(1);
    }
}
