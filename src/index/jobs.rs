//! Jobs that index layers: one a layer at a time, on threads of their own.

use std::collections::VecDeque;
use std::collections::hash_map::{Entry, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{io, thread};

use super::records::State;
use super::{Error, Result};
use crate::metrics;
use crate::oci::Digest;

/// Layers that wait for a thread. What is pushed beyond that is indexed when it
/// is first looked into.
const QUEUE_MAX: usize = 10_000;
/// How long the threads wait for another job before they call themselves idle.
const LINGER: Duration = Duration::from_millis(100);
/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// One layer's job, for all who wait for it.
#[derive(Debug, Default)]
pub struct Job {
    /// Bytes of the blob that are done.
    pub progress: AtomicU64,
    /// Index it although it is indexed.
    force: AtomicBool,
    result: Mutex<Option<Result<State, Arc<Error>>>>,
    finished: Condvar,
}

impl Job {
    /// The job's end. Meanwhile `progress` hears of the bytes that are done.
    pub fn wait(&self, mut progress: impl FnMut(u64)) -> Result<State> {
        let mut time = Duration::ZERO;
        loop {
            if let Some(result) = self.wait_for(time) {
                return result;
            }
            // Not under the lock: its listener may be slow, or stopped.
            progress(self.progress.load(Ordering::Relaxed));
            time = PROGRESS_EVERY;
        }
    }

    /// Waits for the job's end, at most `time`. `None`: it has not come.
    pub fn wait_for(&self, time: Duration) -> Option<Result<State>> {
        let result = lock(&self.result);
        let waited = self.finished.wait_timeout_while(result, time, |result| result.is_none());
        match &*waited.unwrap_or_else(PoisonError::into_inner).0 {
            Some(Ok(state)) => Some(Ok(state.clone())),
            Some(Err(error)) => Some(Err(Arc::clone(error).into())),
            None => None,
        }
    }
}

#[derive(Debug)]
pub struct Jobs {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    /// Those that wait and those under way.
    jobs: HashMap<Digest, Arc<Job>>,
    waiting: VecDeque<Digest>,
}

// No invariant is broken half way through what the locks guard.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Jobs {
    /// Starts `threads` threads. `work` indexes a layer; with `true` also one that is indexed.
    /// `idle` is called when there has been no job for a moment.
    pub fn start(
        threads: usize,
        work: impl Fn(&Digest, bool, &AtomicU64) -> Result<State> + Send + Sync + 'static,
        idle: impl Fn() + Send + Sync + 'static,
    ) -> io::Result<Jobs> {
        let (shared, work) = (Arc::new(Shared::default()), Arc::new((work, idle)));
        for number in 0..threads {
            let (shared, work) = (Arc::clone(&shared), Arc::clone(&work));
            thread::Builder::new()
                .name(format!("index-{number}"))
                .spawn(move || run(&shared, &work.0, &work.1))?;
        }
        Ok(Jobs { shared })
    }

    /// Has layers indexed when there is time, in their order.
    pub fn later(&self, layers: impl IntoIterator<Item = Digest>) {
        let mut queue = lock(&self.shared.queue);
        for layer in layers {
            let Queue { jobs, waiting } = &mut *queue;
            if waiting.len() >= QUEUE_MAX {
                tracing::warn!(%layer, "too many layers wait to be indexed: from this one on they will be when they are first looked into");
                break;
            } else if let Entry::Vacant(job) = jobs.entry(layer) {
                job.insert(Arc::default());
                waiting.push_back(layer);
            }
        }
        metrics::index_queue(queue.waiting.len());
        self.shared.more.notify_all();
    }

    /// Has a layer indexed before those that no reader waits for.
    pub fn now(&self, layer: &Digest, force: bool) -> Arc<Job> {
        let mut queue = lock(&self.shared.queue);
        let job = match queue.jobs.get(layer) {
            Some(job) => {
                let job = Arc::clone(job);
                if let Some(place) = queue.waiting.iter().position(|d| d == layer) {
                    queue.waiting.remove(place);
                    queue.waiting.push_front(*layer);
                }
                job
            }
            None => {
                let job = Arc::<Job>::default();
                queue.jobs.insert(*layer, Arc::clone(&job));
                queue.waiting.push_front(*layer);
                job
            }
        };
        job.force.fetch_or(force, Ordering::Relaxed);
        self.shared.more.notify_all();
        job
    }
}

fn run(
    shared: &Shared,
    work: &impl Fn(&Digest, bool, &AtomicU64) -> Result<State>,
    idle: &impl Fn(),
) {
    loop {
        let mut queue = lock(&shared.queue);
        let mut idled = false;
        let (layer, job) = loop {
            let next = queue.waiting.pop_front();
            if let Some(next) =
                next.and_then(|layer| Some((layer, Arc::clone(queue.jobs.get(&layer)?))))
            {
                break next;
            }
            if idled {
                queue = shared.more.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let waited = shared.more.wait_timeout(queue, LINGER);
            let (waited, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            queue = waited;
            if timeout.timed_out() && queue.jobs.is_empty() {
                idled = true;
                drop(queue);
                idle();
                queue = lock(&shared.queue);
            }
        };
        drop(queue);
        let force = job.force.load(Ordering::Relaxed);
        let start = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| work(&layer, force, &job.progress)))
            .unwrap_or_else(|_| Err(Error::Panicked(Box::new(layer))));
        match &result {
            Ok(State::Ready(_)) => {}
            Ok(State::Refused(reason)) => {
                // An artifact's, most often: not even a tar.
                tracing::info!(%layer, reason, "a layer has no index");
            }
            // As sparse images have it.
            Err(error @ Error::Missing(_)) => tracing::warn!(%error, "cannot index a layer"),
            Err(error) => tracing::error!(%layer, %error, "cannot index a layer"),
        }
        let outcome = match &result {
            Ok(State::Ready(_)) => "ready",
            Ok(State::Refused(_)) => "refused",
            Err(_) => "failed",
        };
        metrics::indexed(outcome, job.progress.load(Ordering::Relaxed), start.elapsed());
        // Remove the job first: later requests find what it has written.
        let mut queue = lock(&shared.queue);
        queue.jobs.remove(&layer);
        metrics::index_queue(queue.waiting.len());
        drop(queue);
        *lock(&job.result) = Some(result.map_err(Arc::new));
        job.finished.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn one_job_a_layer_and_who_waits_comes_first() {
        let (go, gate) = mpsc::channel::<()>();
        let (gate, done) = (Mutex::new(gate), Arc::new(Mutex::new(Vec::new())));
        let seen = Arc::clone(&done);
        let jobs = Jobs::start(
            1,
            move |layer, _, _| {
                lock(&gate).recv().unwrap();
                lock(&seen).push(*layer);
                Ok(State::Refused(String::new()))
            },
            || {},
        )
        .unwrap();
        let [a, b, c] = [b"a", b"b", b"c"].map(|bytes| Algorithm::Sha256.digest(bytes));
        jobs.later([a]);
        // Taken by the thread, so the order below is the queue's own.
        while !lock(&jobs.shared.queue).waiting.is_empty() {
            thread::yield_now();
        }
        jobs.later([b, c, b]);
        let (first, same) = (jobs.now(&c, false), jobs.now(&c, false));
        assert!(Arc::ptr_eq(&first, &same));
        for _ in 0..3 {
            go.send(()).unwrap();
        }
        first.wait(|_| {}).unwrap();
        jobs.now(&b, false);
        drop(go);
        while !lock(&jobs.shared.queue).jobs.is_empty() {
            thread::yield_now();
        }
        assert_eq!(lock(&done)[..3], [a, c, b]);
    }

    #[test]
    fn who_does_not_listen_holds_up_nobody() {
        let (go, gate) = mpsc::channel::<()>();
        let gate = Mutex::new(gate);
        let jobs = Jobs::start(
            1,
            move |_, _, _| {
                lock(&gate).recv().unwrap();
                Ok(State::Refused(String::new()))
            },
            || {},
        )
        .unwrap();
        let layer = Algorithm::Sha256.digest(b"");
        let job = jobs.now(&layer, false);
        let (told, hears) = mpsc::channel();
        let (resume, stopped) = mpsc::channel::<()>();
        let deaf = Arc::clone(&job);
        let deaf = thread::spawn(move || {
            deaf.wait(|_| {
                let _ = told.send(());
                let _ = stopped.recv();
            })
        });
        hears.recv().unwrap();
        go.send(()).unwrap();
        let (done, end) = mpsc::channel();
        thread::spawn(move || done.send(job.wait(|_| {}).is_ok()));
        let ended = end.recv_timeout(Duration::from_secs(60));
        assert!(ended.expect("the other waiter hears of the end"));
        drop(resume);
        assert!(deaf.join().unwrap().is_ok());
    }

    #[test]
    fn a_panic_ends_its_job_alone() {
        let jobs = Jobs::start(
            1,
            |_, force, _| {
                assert!(!force, "on purpose");
                Ok(State::Refused("no".into()))
            },
            || {},
        )
        .unwrap();
        let layer = Algorithm::Sha256.digest(b"");
        let failed = jobs.now(&layer, true).wait(|_| {});
        assert!(matches!(failed, Err(Error::Job(e)) if matches!(*e, Error::Panicked(_))));
        assert_eq!(jobs.now(&layer, false).wait(|_| {}).unwrap(), State::Refused("no".into()));
    }
}
