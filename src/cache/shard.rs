//! One shard: resident entries, loading tickets and write marks behind one lock, and the protocol between them.
//!
//! Not here: hashing, metrics, anything of the store. A key is in one of four states: unknown, *resident*, *loading*
//! (one reader holds its ticket) or *marked* (a write of it is in flight).
//!
//! Invariant: a resident value is the one of the last write that was published. It holds because a fill needs a ticket
//! that has stood since before its reader loaded the snapshot, because announcing a write takes the ticket away, and
//! because no ticket is given from then until the snapshot with the write is in place.
//!
//! The lock protects the whole state of the shard; nothing is waited for and no value is freed while it is held.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use hashbrown::HashTable;

use super::sieve::{Removed, Sieve};
use super::sync::{Condvar, Mutex, RwLock, fill_checks_ticket};

/// Entries evicted under one hold of the lock while the budget shrinks.
const SHRINK_STEP_ENTRIES: usize = 64;

/// What [`Shard::load`] answers.
pub enum Load<'a, V> {
    /// The value: filled meanwhile, or read by the holder of the ticket that was waited for.
    Hit(Arc<V>),
    /// Nobody else reads this key: load the snapshot now, read, and [`Ticket::fill`].
    Ticket(Ticket<'a, V>),
    /// Read the snapshot without filling: a write of the key is in flight, the wait was too long, or the holder of the
    /// ticket gave up.
    Bypass,
}

/// The right to fill one key, until a write of it is announced. Dropping it gives up, and wakes those who wait.
#[must_use = "dropping a ticket sends all who wait for it to the store"]
pub struct Ticket<'a, V> {
    shard: &'a Shard<V>,
    gate: Arc<Gate<V>>,
    settled: bool,
}

impl<V> Ticket<'_, V> {
    /// Hands the value to all who wait, and caches it if the ticket still stands and the value is not too large.
    /// `value_bytes`: what the value holds on the heap; `V` itself is accounted for. Returns whether it was cached.
    pub fn fill(mut self, value: Arc<V>, value_bytes: usize) -> bool {
        let cached = self.shard.fill(&self.gate, &value, value_bytes);
        // Those who wait joined before any write was announced, so that this value was the present one when they
        // asked, even if the ticket has fallen since.
        self.gate.settle(Some(value));
        self.settled = true;
        cached
    }
}

impl<V> Drop for Ticket<'_, V> {
    fn drop(&mut self) {
        if !self.settled {
            self.shard.inner.write().take_ticket(&self.gate);
            self.gate.settle(None);
        }
    }
}

/// Where readers of a key wait for the one that reads it.
struct Gate<V> {
    key: Box<[u8]>,
    hash: u64,
    outcome: Mutex<Outcome<V>>,
    settled: Condvar,
}

enum Outcome<V> {
    Reading,
    Settled(Option<Arc<V>>),
}

impl<V> Gate<V> {
    fn new(hash: u64, key: &[u8]) -> Arc<Gate<V>> {
        Arc::new(Gate { key: key.into(), hash, outcome: Mutex::new(Outcome::Reading), settled: Condvar::new() })
    }

    fn settle(&self, value: Option<Arc<V>>) {
        *self.outcome.lock() = Outcome::Settled(value);
        self.settled.notify_all();
    }

    fn wait(&self, deadline: Instant) -> Option<Arc<V>> {
        let mut outcome = self.outcome.lock();
        loop {
            if let Outcome::Settled(value) = &*outcome {
                return value.clone();
            }
            if self.settled.wait_until(&mut outcome, deadline).timed_out() {
                // It may have been settled between the time-out and the lock.
                return match &*outcome {
                    Outcome::Settled(value) => value.clone(),
                    Outcome::Reading => None,
                };
            }
        }
    }
}

/// A key that is loading or marked.
enum Pending<V> {
    Loading(Arc<Gate<V>>),
    Marked(Mark),
}

struct Mark {
    key: Box<[u8]>,
    hash: u64,
    /// Writes in flight.
    writes: u32,
    /// More than one write was in flight at a time: which of them is the last to publish says nothing about which is
    /// the newer, so none of their values is taken over.
    nested: bool,
    /// The key was being loaded when the write was announced: somebody wants it.
    wanted: bool,
}

impl<V> Pending<V> {
    fn key(&self) -> &[u8] {
        match self {
            Pending::Loading(gate) => &gate.key,
            Pending::Marked(mark) => &mark.key,
        }
    }

    fn hash(&self) -> u64 {
        match self {
            Pending::Loading(gate) => gate.hash,
            Pending::Marked(mark) => mark.hash,
        }
    }
}

struct Inner<V> {
    resident: Sieve<V>,
    pending: HashTable<Pending<V>>,
}

impl<V> Inner<V> {
    /// Removes this very ticket, if it still stands.
    fn take_ticket(&mut self, gate: &Arc<Gate<V>>) -> bool {
        let stands = |pending: &Pending<V>| matches!(pending, Pending::Loading(found) if Arc::ptr_eq(found, gate));
        match self.pending.find_entry(gate.hash, stands) {
            Ok(entry) => {
                entry.remove();
                true
            }
            Err(_) => false,
        }
    }

    /// Ends one write of a key; the mark, if it was the last one.
    fn unmark(&mut self, hash: u64, key: &[u8]) -> Option<Mark> {
        let is_mark = |pending: &Pending<V>| matches!(pending, Pending::Marked(mark) if *mark.key == *key);
        let mut entry = self.pending.find_entry(hash, is_mark).ok()?;
        if let Pending::Marked(mark) = entry.get_mut() {
            mark.writes -= 1;
            if mark.writes > 0 {
                return None;
            }
        }
        match entry.remove().0 {
            Pending::Marked(mark) => Some(mark),
            Pending::Loading(_) => None,
        }
    }
}

/// Figures of one shard.
#[derive(Clone, Copy, Debug, Default)]
pub struct ShardStats {
    /// `get` found a value.
    pub hits: u64,
    /// `get` found none.
    pub misses: u64,
    /// Entries evicted for room.
    pub evictions: u64,
    /// Fills that were not cached: the ticket had fallen or the value was too large.
    pub rejected_fills: u64,
    /// Bytes accounted for.
    pub bytes: u64,
    /// Entries.
    pub entries: u64,
}

/// One shard. Every method takes the hash of the key, always the same for the same key.
pub struct Shard<V> {
    inner: RwLock<Inner<V>>,
    hits: AtomicU64,
    misses: AtomicU64,
    rejected_fills: AtomicU64,
}

impl<V> Shard<V> {
    /// An empty shard that may hold `budget_bytes`.
    pub fn new(budget_bytes: usize) -> Shard<V> {
        Shard {
            inner: RwLock::new(Inner { resident: Sieve::new(budget_bytes), pending: HashTable::new() }),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            rejected_fills: AtomicU64::new(0),
        }
    }

    /// The cached value. Allocates nothing.
    #[inline]
    pub fn get(&self, hash: u64, key: &[u8]) -> Option<Arc<V>> {
        let value = self.inner.read().resident.get(hash, key).cloned();
        let counter = if value.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        value
    }

    /// The cached value, uncounted and unmarked.
    pub fn peek(&self, hash: u64, key: &[u8]) -> Option<Arc<V>> {
        self.inner.read().resident.peek(hash, key).cloned()
    }

    /// After a miss: the value, the ticket to load it, or neither. Waits until `deadline` at most.
    pub fn load(&self, hash: u64, key: &[u8], deadline: Instant) -> Load<'_, V> {
        let gate = {
            let mut inner = self.inner.write();
            if let Some(value) = inner.resident.get(hash, key) {
                return Load::Hit(value.clone());
            }
            match inner.pending.find(hash, |pending| pending.key() == key) {
                Some(Pending::Marked(_)) => return Load::Bypass,
                Some(Pending::Loading(gate)) => gate.clone(),
                None => {
                    let gate = Gate::new(hash, key);
                    inner.pending.insert_unique(hash, Pending::Loading(gate.clone()), Pending::hash);
                    return Load::Ticket(Ticket { shard: self, gate, settled: false });
                }
            }
        };
        gate.wait(deadline).map_or(Load::Bypass, Load::Hit)
    }

    fn fill(&self, gate: &Arc<Gate<V>>, value: &Arc<V>, value_bytes: usize) -> bool {
        let mut removed = Removed::new();
        let key = gate.key.clone();
        let cached = {
            let mut inner = self.inner.write();
            // IMPORTANT: the ticket and the entry change hands under one hold of the lock; a write announced in
            // between would find neither.
            let stands = inner.take_ticket(gate) || !fill_checks_ticket();
            stands && inner.resident.insert(gate.hash, key, value.clone(), value_bytes, &mut removed)
        };
        if !cached {
            self.rejected_fills.fetch_add(1, Ordering::Relaxed);
        }
        cached
    }

    /// A write of the key is about to be committed: forgets the value and the ticket, and marks the key.
    pub fn announce(&self, hash: u64, key: &[u8]) {
        let mut inner = self.inner.write();
        let mut mark = Mark { key: key.into(), hash, writes: 1, nested: false, wanted: false };
        let value = inner.resident.hollow(hash, key);
        match inner.pending.find_mut(hash, |pending| pending.key() == key) {
            Some(Pending::Marked(mark)) => {
                mark.writes += 1;
                mark.nested = true;
            }
            Some(loading) => {
                mark.wanted = true;
                *loading = Pending::Marked(mark);
            }
            None => {
                inner.pending.insert_unique(hash, Pending::Marked(mark), Pending::hash);
            }
        }
        drop(inner);
        drop(value);
    }

    /// The write is committed and in the snapshot. A value (with its bytes) is taken over if the key was resident or
    /// being loaded when the write was announced; returns whether it was.
    pub fn publish(&self, hash: u64, key: &[u8], value: Option<(Arc<V>, usize)>) -> bool {
        let mut removed = Removed::new();
        let mut inner = self.inner.write();
        let Some(mark) = inner.unmark(hash, key) else { return false };
        let resident = &mut inner.resident;
        // Borrowed, so that a value nobody keeps is freed after the lock is released.
        match &value {
            Some((value, value_bytes)) if !mark.nested => {
                match resident.refill(hash, key, value.clone(), *value_bytes, &mut removed) {
                    Some(cached) => cached,
                    None => mark.wanted && resident.insert(hash, mark.key, value.clone(), *value_bytes, &mut removed),
                }
            }
            _ => {
                resident.remove(hash, key, &mut removed);
                false
            }
        }
    }

    /// Whether [`Shard::publish`] would take over a value of this key, which is marked. It stays a no once it is one: while
    /// a key is marked, nobody gets a ticket for it.
    pub fn wants(&self, hash: u64, key: &[u8]) -> bool {
        let inner = self.inner.read();
        let is_wanted =
            |pending: &Pending<V>| matches!(pending, Pending::Marked(mark) if mark.wanted && *mark.key == *key);
        inner.resident.holds(hash, key) || inner.pending.find(hash, is_wanted).is_some()
    }

    /// The write failed: whatever the snapshot says stands. The next reader loads it.
    pub fn abort(&self, hash: u64, key: &[u8]) {
        self.publish(hash, key, None);
    }

    /// See [`super::Cache::grow`].
    pub fn grow(&self, hash: u64, key: &[u8], value: &Arc<V>, extra_bytes: usize) -> bool {
        let mut removed = Removed::new();
        let mut inner = self.inner.write();
        let grown = inner.resident.grow(hash, key, value, extra_bytes, &mut removed);
        drop(inner);
        grown
    }

    /// Sets the budget and evicts down to it, in steps between which others get the lock.
    pub fn set_budget(&self, budget_bytes: usize) {
        loop {
            let mut removed = Removed::new();
            let kept = self.inner.write().resident.set_budget(budget_bytes, SHRINK_STEP_ENTRIES, &mut removed);
            if kept {
                return;
            }
        }
    }

    /// Forgets all values and tickets; marks stay.
    pub fn clear(&self) {
        let mut inner = self.inner.write();
        let nodes = inner.resident.clear();
        inner.pending.retain(|pending| matches!(pending, Pending::Marked(_)));
        drop(inner);
        drop(nodes);
    }

    /// At most `keys_max` keys, the most useful first.
    pub fn hottest(&self, keys_max: usize) -> Vec<Box<[u8]>> {
        let inner = self.inner.read();
        let (hit, rest) = inner.resident.keys_by_worth();
        hit.into_iter().chain(rest).take(keys_max).map(Box::from).collect()
    }

    /// The figures.
    pub fn stats(&self) -> ShardStats {
        let inner = self.inner.read();
        ShardStats {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            evictions: inner.resident.evictions(),
            rejected_fills: self.rejected_fills.load(Ordering::Relaxed),
            bytes: inner.resident.bytes() as u64,
            entries: inner.resident.len() as u64,
        }
    }
}
