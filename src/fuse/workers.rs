//! Threads for slow requests, so that those that answer the kernel stay free for the others.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// How long a thread without a job waits for one before it ends.
const IDLE: Duration = Duration::from_secs(10);

type Job = Box<dyn FnOnce() + Send>;

/// Threads that come and go. The kernel bounds the jobs that wait for one: each is a request for
/// which some process waits.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    name: &'static str,
    max: usize,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    more: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} jobs, {} threads", self.jobs.len(), self.threads)
    }
}

impl Pool {
    pub fn new(name: &'static str, max: usize) -> Pool {
        Pool { shared: Arc::default(), name, max: max.max(1) }
    }

    /// Queues a job, which must not panic. An error means that no thread will do it, and that it was
    /// dropped.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let mut state = self.shared.lock();
        if state.jobs.len() >= state.idle && state.threads < self.max {
            let shared = Arc::clone(&self.shared);
            let spawned =
                thread::Builder::new().name(self.name.into()).spawn(move || shared.work());
            match spawned {
                Ok(_) => state.threads += 1,
                // Another thread will take the job.
                Err(_) if state.threads > 0 => {}
                Err(error) => return Err(error),
            }
        }
        state.jobs.push_back(Box::new(job));
        drop(state);
        self.shared.more.notify_one();
        Ok(())
    }
}

impl Shared {
    // A panic under the lock breaks no invariant.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                job();
                state = self.lock();
                continue;
            }
            state.idle += 1;
            let waited = self.more.wait_timeout(state, IDLE);
            let (guard, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            state = guard;
            state.idle -= 1;
            if timeout.timed_out() && state.jobs.is_empty() {
                state.threads -= 1;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn jobs_that_wait_for_each_other() {
        let pool = Pool::new("test", 2);
        let (to_first, at_first) = channel();
        let (done, finished) = channel();
        let first_done = done.clone();
        pool.run(move || {
            at_first.recv().unwrap();
            first_done.send(1).unwrap();
        })
        .unwrap();
        // This one needs a thread of its own.
        pool.run(move || {
            to_first.send(()).unwrap();
            done.send(2).unwrap();
        })
        .unwrap();
        let mut seen = [finished.recv().unwrap(), finished.recv().unwrap()];
        seen.sort_unstable();
        assert_eq!(seen, [1, 2]);
        assert!(pool.shared.lock().threads <= 2);
    }
}
