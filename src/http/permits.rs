//! Permits for what is scarce: threads, bytes and open files. This is the one way in which a request
//! waits for one.
//!
//! - The wait ends when the client is gone, and after [`WAIT_MAX`] with 503 and `Retry-After`.
//! - A client address holds at most half of a pool, so no client takes everything.
//! - A permit travels with the work: it moves into the closure that a blocking thread runs, because
//!   that runs on when the request is cancelled.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::{Error, Result};
use super::idle::Activity;

/// The longest wait for a permit.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// Addresses beyond which those without connections are forgotten.
const FORGET_FROM: usize = 1024;

tokio::task_local! {
    /// The client of the request that this task answers.
    static REQUEST: Requester;
}

/// Who waits.
#[derive(Clone, Debug)]
pub struct Requester {
    pub client: Arc<Client>,
    pub activity: Arc<Activity>,
    /// How long a stream of the connection may stand still, where the connection's own idle timeout
    /// does not tell.
    pub stall: Option<Duration>,
}

impl Requester {
    /// Answers a request: permits that are taken meanwhile count for its client.
    pub async fn scope<T>(self, answer: impl Future<Output = T>) -> T {
        REQUEST.scope(self, answer).await
    }

    /// The one whose request this task answers.
    pub fn current() -> Option<Requester> {
        REQUEST.try_with(Clone::clone).ok()
    }
}

/// What is scarce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scarce {
    /// Threads that look into images.
    Looks,
    /// Listings and files being sent.
    Streams,
    /// Archives being sent.
    Exports,
    /// Answers to questions across images.
    Questions,
    /// Blobs being sent.
    Blobs,
    /// Documents being parsed.
    Parsing,
    /// Bodies that are whole in memory, in KiB.
    Bodies,
}

const KINDS: usize = Scarce::Bodies as usize + 1;

/// A number of permits of one kind.
#[derive(Debug)]
pub struct Pool {
    kind: Scarce,
    all: Arc<Semaphore>,
}

/// Given back when it is dropped.
#[derive(Debug)]
pub struct Permit {
    all: OwnedSemaphorePermit,
    share: Option<OwnedSemaphorePermit>,
    /// As long as something is held, the client is remembered, and with it what is left to it.
    _client: Option<Arc<Client>>,
}

impl Permit {
    /// Gives back what is more than `n`.
    pub fn shrink(&mut self, n: usize) {
        for permit in [Some(&mut self.all), self.share.as_mut()].into_iter().flatten() {
            let more = permit.num_permits().saturating_sub(n);
            drop(permit.split(more));
        }
    }
}

/// All pools.
#[derive(Debug)]
pub struct Pools {
    sizes: [usize; KINDS],
    pools: [Pool; KINDS],
    clients: Mutex<HashMap<IpAddr, Weak<Client>>>,
}

/// A client address, and what it may still take of each pool.
#[derive(Debug)]
pub struct Client {
    shares: [Arc<Semaphore>; KINDS],
    connections: AtomicU32,
}

impl Pools {
    /// `size` says how many permits there are of a kind.
    pub fn new(size: impl Fn(Scarce) -> usize) -> Pools {
        let kinds = [
            Scarce::Looks,
            Scarce::Streams,
            Scarce::Exports,
            Scarce::Questions,
            Scarce::Blobs,
            Scarce::Parsing,
            Scarce::Bodies,
        ];
        let sizes = kinds.map(size);
        let pools =
            kinds.map(|kind| Pool { kind, all: Arc::new(Semaphore::new(sizes[kind as usize])) });
        Pools { sizes, pools, clients: Mutex::default() }
    }

    pub fn of(&self, kind: Scarce) -> &Pool {
        &self.pools[kind as usize]
    }

    /// The client at an address, who has the same shares on all connections.
    pub fn client(&self, address: IpAddr) -> Arc<Client> {
        let address = network(address);
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&address).and_then(Weak::upgrade) {
            return client;
        }
        if clients.len() >= FORGET_FROM {
            clients.retain(|_, client| client.strong_count() > 0);
        }
        let shares = self.sizes.map(|size| Arc::new(Semaphore::new(size.div_ceil(2))));
        let client = Arc::new(Client { shares, connections: AtomicU32::new(0) });
        clients.insert(address, Arc::downgrade(&client));
        client
    }
}

/// A client with an IPv6 address has its whole network (RFC 6177).
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Counts a connection of a client while it lives.
#[derive(Debug)]
pub struct Connected(Arc<Client>);

impl Client {
    fn share(&self, kind: Scarce) -> Arc<Semaphore> {
        Arc::clone(&self.shares[kind as usize])
    }

    /// `None`: the client has `max` connections already.
    pub fn connect(self: &Arc<Client>, max: u32) -> Option<Connected> {
        if self.connections.fetch_add(1, Ordering::Relaxed) < max {
            return Some(Connected(Arc::clone(self)));
        }
        self.connections.fetch_sub(1, Ordering::Relaxed);
        None
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pool {
    pub async fn permit(&self) -> Result<Permit> {
        self.permits(1).await
    }

    /// A permit for `n`, but never for more than one client may have.
    pub async fn permits(&self, n: usize) -> Result<Permit> {
        if let Some(permit) = self.try_permits(n) {
            return Ok(permit);
        }
        let client = Requester::current().map(|requester| requester.client);
        let n = self.bounded(n);
        let wait = async {
            // The share first: clients wait for their own, and do not keep others waiting.
            let share = match &client {
                Some(client) => Some(client.share(self.kind).acquire_many_owned(n).await),
                None => None,
            };
            let share = share.transpose().expect("the semaphore is never closed");
            let all = Arc::clone(&self.all).acquire_many_owned(n).await;
            Permit { all: all.expect("the semaphore is never closed"), share, _client: client }
        };
        while_wanted(wait).await
    }

    /// A permit, if there is one at once.
    pub fn try_permit(&self) -> Option<Permit> {
        self.try_permits(1)
    }

    fn try_permits(&self, n: usize) -> Option<Permit> {
        let n = self.bounded(n);
        let client = Requester::current().map(|requester| requester.client);
        let share = match &client {
            Some(client) => Some(client.share(self.kind).try_acquire_many_owned(n).ok()?),
            None => None,
        };
        let all = Arc::clone(&self.all).try_acquire_many_owned(n).ok()?;
        Some(Permit { all, share, _client: client })
    }

    fn bounded(&self, n: usize) -> u32 {
        let max = match self.kind {
            Scarce::Bodies => (super::limits::BODIES / 2) >> 10,
            _ => 1,
        };
        u32::try_from(n.min(max)).unwrap_or(u32::MAX)
    }
}

/// Waits, unless the client is gone or [`WAIT_MAX`] is over.
pub async fn while_wanted<T>(wait: impl Future<Output = T>) -> Result<T> {
    let requester = Requester::current();
    let gone = async {
        match &requester {
            Some(requester) => requester.activity.gone().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        done = wait => Ok(done),
        () = gone => Err(Error::Gone),
        () = tokio::time::sleep(WAIT_MAX) => Err(Error::Overloaded),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
    }

    #[test]
    fn half_for_each() {
        run(async {
            let pools = Pools::new(|_| 4);
            let pool = pools.of(Scarce::Looks);
            let requester = |address: &str| Requester {
                client: pools.client(address.parse().unwrap()),
                activity: Activity::new(-1),
                stall: None,
            };
            let take = || async { pool.try_permit() };
            let mut held = Vec::new();
            for (address, want) in [
                ("192.0.2.1", true),
                ("192.0.2.1", true),
                ("192.0.2.1", false),
                ("192.0.2.2", true),
                ("192.0.2.2", true),
                ("192.0.2.3", false),
            ] {
                let permit = requester(address).scope(take()).await;
                assert_eq!(permit.is_some(), want, "{address}");
                held.push(permit);
            }
            held.truncate(1);
            assert!(requester("192.0.2.3").scope(take()).await.is_some());
        });
    }

    #[test]
    fn connections() {
        let pools = Pools::new(|_| 1);
        let client = pools.client("192.0.2.1".parse().unwrap());
        let (first, second) = (client.connect(1), client.connect(1));
        assert!(first.is_some() && second.is_none());
        drop(first);
        assert!(client.connect(1).is_some());
    }
}
