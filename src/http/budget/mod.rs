//! What clients may make larder hold in memory: one budget for bodies of requests, one for answers not yet sent.
//!
//! Both are charged with what is there, not with what was announced, and know on whose behalf. When one is tight, those
//! who move nothing make way, first those of whoever holds most: so memory that somebody takes and does not use is his
//! loss and nobody else's. What stands in no budget is bounded by a count and a size in [`crate::limits`].
//!
//! Invariant: no lock of a budget is held while anybody is told anything.

pub mod answers;
pub mod bodies;
mod ledger;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use xxhash_rust::xxh3::xxh3_64;

use super::message::Peer;
use super::network::Network;

pub use answers::{Answers, Unsent};
pub use bodies::{Admit, Bodies, Share};

/// Who moved nothing for so many ms makes way for those who wait.
const PATIENCE_MS: u64 = 2000;
/// Who moves fewer bytes a second, from his begin on, counts as one who moves nothing.
const SLOW_RATE: u64 = 16 * 1024;

/// On whose behalf memory is held: a token, or the network of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Client(u64);

impl Client {
    /// Whoever cannot be told from others.
    pub const NOBODY: Client = Client(0);

    /// Whoever has this token.
    pub fn of_token(id: &str) -> Client {
        Client(xxh3_64(id.as_bytes()))
    }

    /// Whoever is at the other end; those on Unix sockets are one.
    pub fn of_peer(peer: Peer) -> Client {
        Client::of_network(Network::of(peer))
    }

    /// Whoever is in this network.
    pub fn of_network(network: Network) -> Client {
        match network {
            Network::Unix => Client::NOBODY,
            Network::Ip(IpAddr::V4(address)) => Client(xxh3_64(&address.octets())),
            Network::Ip(IpAddr::V6(network)) => Client(xxh3_64(&network.octets())),
        }
    }
}

/// Asks the owner of memory to give it up. Called once, from any thread; must not block.
pub type GiveUp = Box<dyn FnOnce() + Send>;

/// When somebody last moved a byte: written by who moves them, without a lock, and read when memory is tight.
#[derive(Clone, Debug)]
pub struct Pulse(Arc<Beat>);

#[derive(Debug)]
struct Beat {
    made_at: Instant,
    /// Both in ms since it was made.
    began: AtomicU64,
    last: AtomicU64,
    bytes: AtomicU64,
}

impl Pulse {
    /// One that begins now.
    fn new() -> Pulse {
        let [began, last, bytes] = [const { AtomicU64::new(0) }; 3];
        Pulse(Arc::new(Beat { made_at: Instant::now(), began, last, bytes }))
    }

    /// So many bytes moved now.
    fn moved(&self, bytes: usize) {
        self.0.last.store(self.ms(Instant::now()), Ordering::Relaxed);
        self.0.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Begins anew: until now it was not its own affair that nothing moved.
    fn restart(&self) {
        let now = self.ms(Instant::now());
        self.0.bytes.store(0, Ordering::Relaxed);
        self.0.last.store(now, Ordering::Relaxed);
        self.0.began.store(now, Ordering::Relaxed);
    }

    fn ms(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.0.made_at).as_millis() as u64
    }

    fn age_ms(&self, now: Instant) -> u64 {
        self.ms(now).saturating_sub(self.0.began.load(Ordering::Relaxed))
    }

    /// Whether it has had its time.
    fn is_old(&self, now: Instant) -> bool {
        self.age_ms(now) >= PATIENCE_MS
    }

    /// Whether it stands still, or as good as that.
    fn is_slow(&self, now: Instant) -> bool {
        let quiet = self.ms(now).saturating_sub(self.0.last.load(Ordering::Relaxed));
        quiet >= PATIENCE_MS || (self.is_old(now) && self.rate(now) < SLOW_RATE)
    }

    /// Bytes a second since the begin.
    fn rate(&self, now: Instant) -> u64 {
        self.0.bytes.load(Ordering::Relaxed).saturating_mul(1000) / self.age_ms(now).max(100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_its_token_or_its_network() {
        let address = |text: &str| Client::of_network(Network::of_ip(text.parse().unwrap()));
        assert_eq!(address("2001:db8::1"), address("2001:db8::ffff:1:2:3"));
        assert_ne!(address("2001:db8::1"), address("2001:db8:0:1::1"));
        assert_ne!(address("10.0.0.1"), address("10.0.0.2"));
        assert_eq!(address("10.0.0.1"), address("::ffff:10.0.0.1"));
        assert_ne!(Client::of_token("a"), Client::of_token("b"));
        assert_eq!(Client::of_peer(Peer::Tcp("10.0.0.1".parse().unwrap(), 9)), address("10.0.0.1"));
    }
}
