//! Slows down who tries passwords. What is slowed is the address: it gets one
//! verification at a time, and after a failure it waits, longer after each. Nobody
//! waits on a thread, and who was let in before is not asked again (see
//! [`super::Access::recognise`]), so neighbours behind one address notice little.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// The wait after the first failure. It doubles with each,
const DELAY: Duration = Duration::from_millis(100);
/// up to this.
const DELAY_MAX: Duration = Duration::from_secs(5);
/// An address without a failure for so long starts anew.
const FORGET: Duration = Duration::from_secs(15 * 60);
/// Addresses remembered. One more forgets the one that failed longest ago.
const ADDRESSES: usize = 10_000;
/// How long one waits for others at the same address.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub struct Throttle {
    /// A short section, never held across an await.
    addresses: Mutex<HashMap<IpAddr, Address>>,
    threads: Arc<Semaphore>,
}

#[derive(Debug)]
struct Address {
    failures: u32,
    last: Instant,
    turn: Arc<Semaphore>,
}

/// An address' turn to try a password. Kept by who verifies it to the end, also
/// when its client has gone meanwhile.
#[derive(Debug)]
pub struct Turn {
    throttle: Arc<Throttle>,
    source: IpAddr,
    _turn: OwnedSemaphorePermit,
}

impl Throttle {
    /// Verifies at most so many passwords at a time.
    pub fn new(threads: usize) -> Arc<Throttle> {
        Arc::new(Throttle {
            addresses: Mutex::default(),
            threads: Arc::new(Semaphore::new(threads)),
        })
    }

    /// Waits for the address' turn; `None`: there were too many before.
    pub async fn turn(self: &Arc<Self>, address: IpAddr) -> Option<Turn> {
        let source = source(address);
        let turn = {
            let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
            make_room(&mut addresses, &source);
            let entry = addresses.entry(source).or_insert_with(|| Address {
                failures: 0,
                last: Instant::now(),
                turn: Arc::new(Semaphore::new(1)),
            });
            Arc::clone(&entry.turn)
        };
        let permit = tokio::time::timeout(PATIENCE, turn.acquire_owned()).await;
        Some(Turn {
            throttle: Arc::clone(self),
            source,
            _turn: permit.ok()?.expect("the semaphore is never closed"),
        })
    }

    fn wait(&self, source: &IpAddr) -> Option<Instant> {
        let addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        let address = addresses.get(source)?;
        let doublings = address.failures.checked_sub(1)?;
        let delay = DELAY.saturating_mul(1 << doublings.min(16)).min(DELAY_MAX);
        Some(address.last + delay)
    }
}

impl Turn {
    /// Waits until the address' last failure is long enough ago, and for a thread to
    /// be free.
    pub async fn thread(&self) -> OwnedSemaphorePermit {
        if let Some(until) = self.throttle.wait(&self.source) {
            tokio::time::sleep_until(until).await;
        }
        let permit = Arc::clone(&self.throttle.threads).acquire_owned().await;
        permit.expect("the semaphore is never closed")
    }

    /// Remembers that it was a wrong password.
    pub fn failed(self) {
        let mut addresses = self.throttle.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(address) = addresses.get_mut(&self.source) {
            address.failures = address.failures.saturating_add(1);
            address.last = Instant::now();
        }
    }
}

/// Who has one IPv6 address has the whole network (RFC 6177).
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = address.to_bits() >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from_bits(network))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

fn make_room(addresses: &mut HashMap<IpAddr, Address>, source: &IpAddr) {
    let idle = |address: &Address| Arc::strong_count(&address.turn) == 1;
    if let Some(address) = addresses.get_mut(source) {
        if address.last.elapsed() > FORGET {
            address.failures = 0;
        }
        return;
    }
    if addresses.len() < ADDRESSES {
        return;
    }
    addresses.retain(|_, address| {
        !idle(address) || (address.failures > 0 && address.last.elapsed() <= FORGET)
    });
    if addresses.len() >= ADDRESSES {
        let oldest = addresses.iter().min_by_key(|(_, address)| address.last);
        if let Some(oldest) = oldest.map(|(source, _)| *source) {
            addresses.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(test);
    }

    #[test]
    fn delays_grow() {
        run(async {
            let throttle = Throttle::new(1);
            let address: IpAddr = "192.0.2.1".parse().unwrap();
            let wait = || {
                throttle
                    .wait(&address)
                    .map(|until| until - throttle.addresses.lock().unwrap()[&address].last)
            };
            let mut waits = Vec::new();
            for _ in 0..9 {
                let turn = throttle.turn(address).await.unwrap();
                waits.push(wait().map_or(0, |wait| wait.as_millis()));
                turn.failed();
            }
            assert_eq!(waits, [0, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
            assert_eq!(throttle.wait(&"192.0.2.2".parse().unwrap()), None, "another address");
            let begun = Instant::now();
            let other = throttle.turn("::1".parse().unwrap()).await.unwrap();
            drop(other.thread().await);
            assert!(begun.elapsed() < DELAY, "another address does not wait");
        });
    }

    #[test]
    fn one_at_a_time() {
        run(async {
            let throttle = Throttle::new(8);
            let address = "2001:db8::1".parse().unwrap();
            let turn = throttle.turn(address).await.unwrap();
            let neighbour = throttle.turn("2001:db8::2".parse().unwrap());
            let tried = tokio::time::timeout(Duration::from_millis(50), neighbour).await;
            assert!(tried.is_err(), "the same network");
            drop(turn);
            assert!(throttle.turn(address).await.is_some());
        });
    }

    #[test]
    fn bounded() {
        run(async {
            let throttle = Throttle::new(1);
            for n in 0..ADDRESSES as u32 + 100 {
                let turn = throttle.turn(IpAddr::V4(n.into())).await.unwrap();
                turn.failed();
            }
            assert_eq!(throttle.addresses.lock().unwrap().len(), ADDRESSES);
            assert!(throttle.wait(&IpAddr::V4(0.into())).is_none(), "the oldest went");
        });
    }
}
