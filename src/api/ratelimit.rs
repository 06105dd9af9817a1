//! How often: a token bucket for each token or address.
//!
//! Not here: who may do what. Invariant: the table never holds more than [`BUCKETS_MAX`] buckets, whoever asks. A
//! bucket that is full again says nothing and may go; when all are in use the fullest goes, which gives away least.

use std::hash::BuildHasher;
use std::time::Instant;

use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::http::network::Network;
use crate::http::{Method, Problem, Written};
use crate::metrics::{Counter, Registry};

/// Buckets in all: about 300 KiB.
pub const BUCKETS_MAX: usize = SHARDS * SHARD_BUCKETS_MAX;
const SHARDS: usize = 16;
const SHARD_BUCKETS_MAX: usize = 256;

/// Who is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RateKey<'a> {
    /// A token, by its id.
    Token(&'a str),
    /// Everyone in a network, who has no token.
    Network(Network),
}

#[derive(Clone, Copy)]
struct Bucket {
    /// Requests that may come at once.
    left: f64,
    /// When `left` was right.
    at: Instant,
}

/// The limiter; without a rate it lets everything through.
pub struct RateLimiter {
    per_second: f64,
    burst: f64,
    hasher: foldhash::fast::RandomState,
    /// Each lock protects its part of the buckets, by the key's hash.
    shards: Vec<Mutex<HashMap<u64, Bucket, foldhash::fast::RandomState>>>,
    refused: Counter,
}

impl RateLimiter {
    /// A limiter for so many requests a second over time and `burst` at once.
    pub fn new(per_second: Option<f64>, burst: u32, registry: &Registry) -> RateLimiter {
        let help = "Requests refused because their token or address sent too many.";
        RateLimiter {
            per_second: per_second.unwrap_or(f64::INFINITY),
            burst: f64::from(burst),
            hasher: foldhash::fast::RandomState::default(),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            refused: registry.counter("larder_rate_limited_total", help, &[]),
        }
    }

    /// Whether everything goes through.
    pub fn is_off(&self) -> bool {
        self.per_second.is_infinite()
    }

    /// Counts a request; `Err` is a 429 that says when to come again.
    pub fn check(&self, key: RateKey<'_>, method: Method, now: Instant) -> Result<(), Problem> {
        if self.is_off() {
            return Ok(());
        }
        self.take(key, now).map_err(|seconds| {
            self.refused.inc();
            let message = format!("too many requests; come again in {seconds} s");
            let problem = Problem::new(429, "TOO_MANY_REQUESTS", message).field("Retry-After", &seconds.to_string());
            if method.is_write() { problem.written(Written::No) } else { problem }
        })
    }

    /// Takes one request out of a bucket, or says in how many whole seconds there is one.
    fn take(&self, key: RateKey<'_>, now: Instant) -> Result<(), u64> {
        // The hash is the key: with a secret seed nobody can aim at another's bucket, and no name is kept.
        let hash = self.hasher.hash_one(key);
        let mut shard = self.shards[hash as usize % SHARDS].lock();
        if shard.len() >= SHARD_BUCKETS_MAX && !shard.contains_key(&hash) {
            self.make_room(&mut shard, now);
        }
        let bucket = shard.entry(hash).or_insert(Bucket { left: self.burst, at: now });
        bucket.left = self.refilled(bucket, now);
        bucket.at = now.max(bucket.at);
        if bucket.left >= 1.0 {
            bucket.left -= 1.0;
            return Ok(());
        }
        Err(((1.0 - bucket.left) / self.per_second).ceil().clamp(1.0, 86_400.0) as u64)
    }

    fn refilled(&self, bucket: &Bucket, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(bucket.at).as_secs_f64();
        (bucket.left + passed * self.per_second).min(self.burst)
    }

    fn make_room(&self, shard: &mut HashMap<u64, Bucket, foldhash::fast::RandomState>, now: Instant) {
        shard.retain(|_, bucket| self.refilled(bucket, now) < self.burst);
        if shard.len() < SHARD_BUCKETS_MAX {
            return;
        }
        let fullness = |bucket: &Bucket| self.refilled(bucket, now);
        let fullest = shard.iter().max_by(|a, b| fullness(a.1).total_cmp(&fullness(b.1))).map(|(hash, _)| *hash);
        if let Some(hash) = fullest {
            shard.remove(&hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn limiter(per_second: f64, burst: u32) -> RateLimiter {
        RateLimiter::new(Some(per_second), burst, &Registry::default())
    }

    fn address(text: &str) -> RateKey<'static> {
        RateKey::Network(Network::of_ip(text.parse().unwrap()))
    }

    #[test]
    fn a_burst_passes_and_then_the_rate_counts() {
        let limiter = limiter(2.0, 3);
        let start = Instant::now();
        let key = RateKey::Token("a");
        for _ in 0..3 {
            assert_eq!(limiter.take(key, start), Ok(()));
        }
        assert_eq!(limiter.take(key, start), Err(1));
        assert_eq!(limiter.take(key, start + Duration::from_millis(499)), Err(1));
        assert_eq!(limiter.take(key, start + Duration::from_millis(501)), Ok(()));
        assert_eq!(limiter.take(key, start + Duration::from_millis(502)), Err(1));
        let later = start + Duration::from_secs(3600);
        let passed = (0..10).filter(|_| limiter.take(key, later).is_ok()).count();
        assert_eq!(passed, 3, "an hour of rest saves up no more than a burst");
    }

    #[test]
    fn one_does_not_spend_what_is_anothers() {
        let limiter = limiter(1.0, 1);
        let now = Instant::now();
        for key in [
            RateKey::Token("a"),
            RateKey::Token("b"),
            address("10.0.0.1"),
            address("10.0.0.2"),
            RateKey::Network(Network::Unix),
        ] {
            assert_eq!(limiter.take(key, now), Ok(()), "{key:?}");
            assert!(limiter.take(key, now).is_err(), "{key:?}");
        }
    }

    #[test]
    fn an_ipv6_network_is_one_client() {
        let limiter = limiter(1.0, 1);
        let now = Instant::now();
        assert_eq!(limiter.take(address("2001:db8:1:2::1"), now), Ok(()));
        assert!(limiter.take(address("2001:db8:1:2:ffff::9"), now).is_err());
        assert_eq!(limiter.take(address("2001:db8:1:3::1"), now), Ok(()));
    }

    #[test]
    fn a_refusal_says_when_to_come_again_and_that_nothing_was_written() {
        let limiter = limiter(0.1, 1);
        let now = Instant::now();
        assert!(limiter.check(RateKey::Token("a"), Method::Put, now).is_ok());
        let problem = limiter.check(RateKey::Token("a"), Method::Put, now).unwrap_err();
        assert_eq!((problem.status, problem.code, problem.written), (429, "TOO_MANY_REQUESTS", Some(Written::No)));
        assert_eq!(problem.fields, b"Retry-After: 10\r\n");
        assert_eq!(limiter.check(RateKey::Token("a"), Method::Get, now).unwrap_err().written, None);
        assert_eq!(limiter.refused.get(), 2);
    }

    #[test]
    fn without_a_rate_all_pass_and_nothing_is_kept() {
        let limiter = RateLimiter::new(None, 1, &Registry::default());
        let now = Instant::now();
        assert!((0..1000).all(|_| limiter.check(RateKey::Token("a"), Method::Get, now).is_ok()));
        assert!(limiter.shards.iter().all(|shard| shard.lock().is_empty()));
    }

    #[test]
    fn a_crowd_of_addresses_stays_within_the_table_and_frees_nobody_who_is_limited() {
        let limiter = limiter(0.001, 5);
        let now = Instant::now();
        let busy = address("10.0.0.1");
        while limiter.take(busy, now).is_ok() {}
        for number in 0..3 * BUCKETS_MAX as u32 {
            let crowd = RateKey::Network(Network::Ip(std::net::Ipv4Addr::from_bits(0x0b00_0000 + number).into()));
            assert_eq!(limiter.take(crowd, now), Ok(()));
        }
        assert!(limiter.take(busy, now).is_err());
        let kept: usize = limiter.shards.iter().map(|shard| shard.lock().len()).sum();
        assert!(kept <= BUCKETS_MAX, "{kept}");
    }

    #[test]
    fn buckets_that_are_full_again_make_room_first() {
        let limiter = limiter(1.0, 2);
        let start = Instant::now();
        for number in 0..4 * BUCKETS_MAX as u32 {
            let crowd = RateKey::Network(Network::Ip(std::net::Ipv4Addr::from_bits(number).into()));
            let _ = limiter.take(crowd, start);
        }
        let later = start + Duration::from_secs(60);
        for shard in &limiter.shards {
            limiter.make_room(&mut shard.lock(), later);
            assert!(shard.lock().is_empty());
        }
    }
}
