//! Slows down guessing of passwords. A name at an address gets one verification at a time, and after
//! a failure it waits, longer after each. An address as a whole gets several at a time and starts to
//! wait only after many failures, so that a guesser behind a shared address does not keep its
//! neighbours out. Waiting takes no thread, and credentials that were verified before are not
//! verified again (see [`super::Access::recognise`]).

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until, timeout_at};

/// How one kind of source is slowed down.
#[derive(Debug)]
struct Bound {
    /// Verifications at a time.
    turns: usize,
    /// Failures before the first wait.
    free: u32,
    /// The longest wait. The first is [`DELAY`], and it doubles with each failure.
    delay_max: Duration,
}

const DELAY: Duration = Duration::from_millis(100);
const NAME: Bound = Bound { turns: 1, free: 0, delay_max: Duration::from_secs(5) };
const ADDRESS: Bound = Bound { turns: 8, free: 30, delay_max: Duration::from_secs(1) };
/// A source without a failure for this long starts again.
const FORGET: Duration = Duration::from_secs(15 * 60);
/// The number of sources remembered. One more replaces the one that failed longest ago.
const SOURCES: usize = 20_000;
/// How long a login waits for others, and for its own failures.
const PATIENCE: Duration = Duration::from_secs(20);

/// An address, or the hash of a name that is tried there.
type Key = (IpAddr, Option<u64>);

#[derive(Debug)]
pub struct Throttle {
    /// A short section, never held across an await.
    sources: Mutex<HashMap<Key, Entry>>,
    threads: Arc<Semaphore>,
    names: RandomState,
}

#[derive(Debug)]
struct Entry {
    failures: u32,
    last: Instant,
    turn: Arc<Semaphore>,
}

/// The turn of a name at an address. The task that verifies the password keeps it to the end, even if
/// its client has gone meanwhile.
#[derive(Debug)]
pub struct Turn {
    throttle: Arc<Throttle>,
    name: Key,
    until: Instant,
    _turn: OwnedSemaphorePermit,
}

/// The right to verify a password now.
#[derive(Debug)]
pub struct Thread(#[allow(dead_code, reason = "held, not read")] [OwnedSemaphorePermit; 2]);

impl Throttle {
    /// Verifies at most so many passwords at a time.
    pub fn new(threads: usize) -> Arc<Throttle> {
        Arc::new(Throttle {
            sources: Mutex::default(),
            threads: Arc::new(Semaphore::new(threads)),
            names: RandomState::new(),
        })
    }

    /// Waits for the name's turn at this address; `None`: there were too many before.
    pub async fn turn(self: &Arc<Self>, address: IpAddr, name: &str) -> Option<Turn> {
        let name = (network(address), Some(self.names.hash_one(name)));
        let until = Instant::now() + PATIENCE;
        let turn = self.source(name, &NAME).acquire_owned();
        let turn = timeout_at(until, turn).await.ok()?.expect("the semaphore is never closed");
        Some(Turn { throttle: Arc::clone(self), name, until, _turn: turn })
    }

    fn source(&self, key: Key, bound: &Bound) -> Arc<Semaphore> {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        make_room(&mut sources, &key);
        let source = sources.entry(key).or_insert_with(|| Entry {
            failures: 0,
            last: Instant::now(),
            turn: Arc::new(Semaphore::new(bound.turns)),
        });
        Arc::clone(&source.turn)
    }

    fn wait(&self, key: &Key, bound: &Bound) -> Option<Instant> {
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let source = sources.get(key)?;
        let doublings = source.failures.checked_sub(bound.free)?.checked_sub(1)?;
        let delay = DELAY.saturating_mul(1 << doublings.min(16)).min(bound.delay_max);
        Some(source.last + delay)
    }

    async fn slow(&self, key: &Key, bound: &Bound) {
        if let Some(until) = self.wait(key, bound) {
            sleep_until(until).await;
        }
    }
}

impl Turn {
    /// Waits until the last failures are long enough ago, and for a thread to be free; `None`: that
    /// took too long. The address is asked after the name's own wait, which must not hold up others.
    pub async fn thread(&self) -> Option<Thread> {
        let throttle = &self.throttle;
        let address = (self.name.0, None);
        let ready = async {
            throttle.slow(&self.name, &NAME).await;
            let turn = throttle.source(address, &ADDRESS).acquire_owned().await;
            throttle.slow(&address, &ADDRESS).await;
            let thread = Arc::clone(&throttle.threads).acquire_owned().await;
            [turn, thread].map(|permit| permit.expect("the semaphore is never closed"))
        };
        timeout_at(self.until, ready).await.ok().map(Thread)
    }

    /// Remembers that it was a wrong password.
    pub fn failed(self) {
        let mut sources = self.throttle.sources.lock().unwrap_or_else(PoisonError::into_inner);
        for key in [self.name, (self.name.0, None)] {
            if let Some(source) = sources.get_mut(&key) {
                source.failures = source.failures.saturating_add(1);
                source.last = Instant::now();
            }
        }
    }
}

/// Returns the address, or the whole network of an IPv6 address: a user has all of it (RFC 6177).
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = address.to_bits() >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from_bits(network))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

fn make_room(sources: &mut HashMap<Key, Entry>, key: &Key) {
    let idle = |source: &Entry| Arc::strong_count(&source.turn) == 1;
    if let Some(source) = sources.get_mut(key) {
        if source.last.elapsed() > FORGET {
            source.failures = 0;
        }
        return;
    }
    if sources.len() < SOURCES {
        return;
    }
    sources.retain(|_, source| {
        !idle(source) || (source.failures > 0 && source.last.elapsed() <= FORGET)
    });
    if sources.len() >= SOURCES {
        let oldest = sources.iter().min_by_key(|(_, source)| source.last);
        if let Some(oldest) = oldest.map(|(key, _)| *key) {
            sources.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(test);
    }

    const ADDR: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

    fn wait(throttle: &Throttle, key: Key, bound: &Bound) -> u128 {
        let Some(until) = throttle.wait(&key, bound) else {
            return 0;
        };
        (until - throttle.sources.lock().unwrap()[&key].last).as_millis()
    }

    #[test]
    fn delays_grow() {
        run(async {
            let throttle = Throttle::new(1);
            let mut waits = Vec::new();
            for _ in 0..9 {
                let turn = throttle.turn(ADDR, "ann").await.unwrap();
                waits.push(wait(&throttle, turn.name, &NAME));
                turn.failed();
            }
            assert_eq!(waits, [0, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
            let begun = Instant::now();
            for (address, name) in [(ADDR, "bob"), ("::1".parse().unwrap(), "ann")] {
                let turn = throttle.turn(address, name).await.unwrap();
                assert!(turn.thread().await.is_some());
            }
            assert!(begun.elapsed() < DELAY, "other names and addresses do not wait");
        });
    }

    #[test]
    fn an_address_that_tries_many_names_is_slowed_too() {
        run(async {
            let throttle = Throttle::new(1);
            let mut waits = Vec::new();
            for n in 0..36 {
                waits.push(wait(&throttle, (ADDR, None), &ADDRESS));
                let turn = throttle.turn(ADDR, &format!("user{n}")).await.unwrap();
                throttle.source((ADDR, None), &ADDRESS);
                turn.failed();
            }
            assert_eq!(waits[..31], [0; 31]);
            assert_eq!(waits[31..], [100, 200, 400, 800, 1000]);
            let turn = throttle.turn(ADDR, "ann").await.unwrap();
            let thread = tokio::time::timeout(Duration::from_millis(500), turn.thread()).await;
            assert!(thread.is_err(), "a name that never failed waits with its address");
        });
    }

    #[test]
    fn one_at_a_time() {
        run(async {
            let throttle = Throttle::new(1);
            let [address, neighbour] =
                ["2001:db8::1", "2001:db8::2"].map(|text| text.parse::<IpAddr>().unwrap());
            let mut ann = throttle.turn(address, "ann").await.unwrap();
            let bob = throttle.turn(neighbour, "bob").await.expect("another name");
            let again = throttle.turn(neighbour, "ann");
            let again = tokio::time::timeout(Duration::from_millis(50), again).await;
            assert!(again.is_err(), "the same network and name");

            let thread = bob.thread().await.unwrap();
            ann.until = Instant::now() + Duration::from_millis(50);
            assert!(ann.thread().await.is_none(), "the only thread is taken");
            drop(thread);
            ann.until = Instant::now() + PATIENCE;
            assert!(ann.thread().await.is_some());
            drop(ann);
            assert!(throttle.turn(address, "ann").await.is_some());
        });
    }

    #[test]
    fn bounded() {
        run(async {
            let throttle = Throttle::new(1);
            for n in 0..SOURCES as u32 + 100 {
                let turn = throttle.turn(IpAddr::V4(n.into()), "ann").await.unwrap();
                turn.failed();
            }
            assert_eq!(throttle.sources.lock().unwrap().len(), SOURCES);
            let first = (IpAddr::V4(0.into()), Some(throttle.names.hash_one("ann")));
            assert!(throttle.wait(&first, &NAME).is_none(), "the oldest was replaced");
        });
    }
}
