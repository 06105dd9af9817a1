//! The cache: values by key in memory, sharded, within a byte budget, never older than the store.
//!
//! It knows keys as bytes and values as a type; nothing of records, expiry or HTTP. It does no I/O and owns no thread.
//!
//! Invariant: a hit is never older than the last write that was published (see `shard.rs`). It needs both sides to
//! keep the order. A reader: [`Cache::get`], else [`Cache::load`], and only then the snapshot, the read, and
//! [`Ticket::fill`]. A writer: [`Cache::announce`] every key, commit, swap the snapshot, and only then
//! [`Cache::publish`] or [`Cache::abort`]. `tests/cache_model` checks this order and that the wrong ones fail.
//!
//! NOTE: what an announcement must precede is the swap, not the commit: until the swap every reader sees the old value
//! anyway. Announcing between the two is as fresh, and a key that is written all the time is then not kept out of the
//! cache while the card syncs (`benches/cache_hit_ratio.rs` has the figures). After a failed commit, of which nobody
//! knows whether it was applied, the snapshot must be renewed before the abort or never again.

mod shard;
mod sieve;
mod sync;
mod warm;

use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use crossbeam::utils::CachePadded;

use crate::metrics::{Gauge, Registry};
pub use shard::{Load, Ticket};
use shard::{Shard, ShardStats};
pub use sieve::entry_overhead_bytes;
pub use warm::{WarmError, read_warm_keys, write_warm_keys};

/// Shards for each core: two threads rarely want the same one.
const SHARDS_PER_CORE: usize = 4;
/// More would leave each too small a budget.
const SHARDS_MAX: usize = 256;

/// Figures of the whole cache, counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// `get` found a value.
    pub hits: u64,
    /// `get` found none.
    pub misses: u64,
    /// Entries evicted for room.
    pub evictions: u64,
    /// Fills that were not cached: a write came between, or the value was too large.
    pub rejected_fills: u64,
    /// Bytes held: keys, values and overhead.
    pub bytes: u64,
    /// Entries held.
    pub entries: u64,
    /// Bytes it may hold.
    pub budget_bytes: u64,
}

type Figure = fn(ShardStats) -> u64;
type Shards<V> = Arc<[CachePadded<Shard<V>>]>;

/// A sharded cache of `Arc<V>` by key.
pub struct Cache<V> {
    shards: Shards<V>,
    hasher: foldhash::quality::RandomState,
    budget_bytes: AtomicU64,
    budget_gauge: Gauge,
}

impl<V: Send + Sync + 'static> Cache<V> {
    /// A cache of at most `budget_bytes`, keys and overhead included, for so many cores. Nought turns it off: every
    /// read misses, and loads are still done once for all who wait.
    pub fn new(budget_bytes: u64, cores: usize, registry: &Registry) -> Cache<V> {
        let shards = (cores.max(1) * SHARDS_PER_CORE).next_power_of_two().min(SHARDS_MAX);
        let shard_bytes = shard_budget_bytes(budget_bytes, shards);
        let shards: Shards<V> = (0..shards).map(|_| CachePadded::new(Shard::new(shard_bytes))).collect();
        register(&shards, registry);
        let budget_gauge = registry.gauge("larder_cache_budget_bytes", "Bytes the cache may hold.", &[]);
        budget_gauge.set(budget_bytes);
        Cache { shards, hasher: Default::default(), budget_bytes: AtomicU64::new(budget_bytes), budget_gauge }
    }

    /// The hash and the shard of a key. The hash is seeded at random, so that nobody outside can aim at one shard. The index in a shard uses the lowest and the highest bits of the hash, the
    /// choice of the shard those in the middle.
    #[inline]
    fn locate(&self, key: &[u8]) -> (&Shard<V>, u64) {
        let hash = self.hasher.hash_one(key);
        (&self.shards[(hash >> 32) as usize & (self.shards.len() - 1)], hash)
    }

    /// The value, if it is cached. Counts a hit or a miss; allocates nothing.
    #[inline]
    pub fn get(&self, key: &[u8]) -> Option<Arc<V>> {
        let (shard, hash) = self.locate(key);
        shard.get(hash, key)
    }

    /// The value, if it is cached, without counting the look-up or making the value more worth keeping.
    pub fn peek(&self, key: &[u8]) -> Option<Arc<V>> {
        let (shard, hash) = self.locate(key);
        shard.peek(hash, key)
    }

    /// After a miss: the value if somebody has filled it meanwhile, or the ticket to load it. If another holds the
    /// ticket, waits until `deadline` for what that one reads. Counts neither hit nor miss.
    ///
    /// IMPORTANT: load the snapshot *after* this has returned the ticket. A snapshot from before may lack a write whose
    /// announcement found no ticket to take away; filling from it would leave a stale value for good.
    ///
    /// NOTE: who already holds a ticket and asks for a second key should pass a deadline that is over: two readers
    /// that wait for each other are freed only by the deadline.
    pub fn load(&self, key: &[u8], deadline: Instant) -> Load<'_, V> {
        let (shard, hash) = self.locate(key);
        shard.load(hash, key, deadline)
    }

    /// A write of the key is about to be committed: forgets the value, takes the ticket away, and gives none until
    /// as many [`publish`](Cache::publish) or [`abort`](Cache::abort) as announcements have come.
    pub fn announce(&self, key: &[u8]) {
        let (shard, hash) = self.locate(key);
        shard.announce(hash, key);
    }

    /// The write is committed and in the snapshot that readers get. `value`: what now stands with its bytes on the
    /// heap, or `None` if the key is gone. It is taken over only if the key was cached or being loaded when the write
    /// was announced: hot keys stay, and what nobody reads pushes nothing out.
    pub fn publish(&self, key: &[u8], value: Option<(Arc<V>, usize)>) {
        let (shard, hash) = self.locate(key);
        shard.publish(hash, key, value);
    }

    /// Whether [`publish`](Cache::publish) would take over a value of this key, between its announcement and then: a
    /// writer need not make one that nobody reads. A no is final, a yes may still turn into one.
    pub fn wants(&self, key: &[u8]) -> bool {
        let (shard, hash) = self.locate(key);
        shard.wants(hash, key)
    }

    /// The write failed: the snapshot says what stands.
    pub fn abort(&self, key: &[u8]) {
        let (shard, hash) = self.locate(key);
        shard.abort(hash, key);
    }

    /// Accounts for `extra_bytes` that are to be attached to this very value (its gzip form). False: it is no longer
    /// cached, or would be too large; then attach nothing.
    pub fn grow(&self, key: &[u8], value: &Arc<V>, extra_bytes: usize) -> bool {
        let (shard, hash) = self.locate(key);
        shard.grow(hash, key, value, extra_bytes)
    }

    /// Sets the budget. A smaller one is kept when this returns; the lock of a shard is held for a few entries a time.
    pub fn set_budget(&self, budget_bytes: u64) {
        self.budget_bytes.store(budget_bytes, Ordering::Relaxed);
        self.budget_gauge.set(budget_bytes);
        for shard in self.shards.iter() {
            shard.set_budget(shard_budget_bytes(budget_bytes, self.shards.len()));
        }
    }

    /// The figures, summed over the shards one after the other.
    pub fn stats(&self) -> CacheStats {
        let sum = sum(&self.shards);
        CacheStats {
            hits: sum.hits,
            misses: sum.misses,
            evictions: sum.evictions,
            rejected_fills: sum.rejected_fills,
            bytes: sum.bytes,
            entries: sum.entries,
            budget_bytes: self.budget_bytes.load(Ordering::Relaxed),
        }
    }

    /// At most `keys_max` keys, roughly the most useful first: of each shard in turn.
    pub fn hottest(&self, keys_max: usize) -> Vec<Bytes> {
        let mut lists: Vec<_> = self.shards.iter().map(|shard| shard.hottest(keys_max).into_iter()).collect();
        let mut keys = Vec::new();
        while keys.len() < keys_max {
            let before = keys.len();
            let turn = lists.iter_mut().filter_map(Iterator::next).map(Bytes::from);
            keys.extend(turn.take(keys_max - before));
            if keys.len() == before {
                break;
            }
        }
        keys
    }

    /// Forgets every value, and takes away every ticket: what is being read now will not be cached.
    pub fn clear(&self) {
        for shard in self.shards.iter() {
            shard.clear();
        }
    }
}

fn shard_budget_bytes(budget_bytes: u64, shards: usize) -> usize {
    usize::try_from(budget_bytes).unwrap_or(usize::MAX) / shards
}

fn sum<V>(shards: &[CachePadded<Shard<V>>]) -> ShardStats {
    shards.iter().map(|shard| shard.stats()).fold(ShardStats::default(), |sum, one| ShardStats {
        hits: sum.hits + one.hits,
        misses: sum.misses + one.misses,
        evictions: sum.evictions + one.evictions,
        rejected_fills: sum.rejected_fills + one.rejected_fills,
        bytes: sum.bytes + one.bytes,
        entries: sum.entries + one.entries,
    })
}

/// The counters live in the shards, so that no two cores share one; they are summed when the page is asked for.
fn register<V: Send + Sync + 'static>(shards: &Shards<V>, registry: &Registry) {
    let sampler = |figure: Figure| {
        let shards = shards.clone();
        Box::new(move || figure(sum(&shards)) as f64)
    };
    let counters: [(_, _, Figure); 4] = [
        ("larder_cache_hits_total", "Reads that found their value in the cache.", |stats| stats.hits),
        ("larder_cache_misses_total", "Reads that did not.", |stats| stats.misses),
        ("larder_cache_evictions_total", "Entries evicted for room.", |stats| stats.evictions),
        (
            "larder_cache_rejected_fills_total",
            "Values read but not cached: written meanwhile, or too large.",
            |stats| stats.rejected_fills,
        ),
    ];
    for (name, help, figure) in counters {
        registry.sampled_counter(name, help, &[], sampler(figure));
    }
    registry.sampled_gauge("larder_cache_bytes", "Bytes held, overhead included.", &[], sampler(|stats| stats.bytes));
    registry.sampled_gauge("larder_cache_entries", "Entries held.", &[], sampler(|stats| stats.entries));
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
