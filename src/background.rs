//! How work that no request waits for keeps out of the way of requests.

use std::thread;

/// Where cores are scarce, what this thread does waits for requests. Linux keeps the niceness for each
/// thread (sched(7), "The nice value").
pub fn let_requests_go_first() {
    const NICENESS: i32 = 10;
    if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
        tracing::warn!(%error, "requests may wait for background work");
    }
}

/// Gives the core to a request that waits for it. A nice thread, too, keeps its core for up to a few
/// milliseconds before the kernel looks whether another one wants to run, which is longer than most
/// requests take. So this is called after every few system calls, and never under a lock that a
/// request may wait for.
pub fn give_way() {
    thread::yield_now();
}
