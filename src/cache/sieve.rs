//! The resident entries of one shard: an index, a dense slab of nodes, and SIEVE's order threaded through them.
//!
//! SIEVE: new entries join at the newest end, a hit only sets a bit, and a hand walks from the oldest entry towards the
//! newest; where the bit is set it clears it and walks on, where it is not it evicts. Entries never move, so that a hit
//! needs no write access.
//!
//! Not here: locks, tickets and marks (`shard.rs`). Invariant: `bytes` is the sum of the nodes' costs and never above
//! `budget_bytes` when a method returns.

use std::mem::size_of;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hashbrown::HashTable;

/// "No node" in a link; a shard never has so many.
const NONE: u32 = u32::MAX;

/// An entry above one part in so many of a shard's budget is not cached: it would push out too much for its worth.
pub const ENTRY_PARTS_MIN: usize = 8;

/// What an entry costs beyond its key's and its value's bytes: its node (the slab grows by a quarter), its place in
/// the index (5 bytes a bucket, between 7/16 and 7/8 full), the allocator's header and rounding for the key, and the
/// two counts of the `Arc` with the allocator's share.
pub const fn entry_overhead_bytes<V>() -> usize {
    const INDEX: usize = 12;
    const KEY_ALLOCATION: usize = 16;
    const ARC: usize = 32;
    size_of::<Node<V>>() * 5 / 4 + INDEX + KEY_ALLOCATION + ARC + size_of::<V>()
}

/// One entry. Without a value it is hollow: a write of the key is in flight and it only keeps its place.
pub struct Node<V> {
    key: Box<[u8]>,
    hash: u64,
    value: Option<Arc<V>>,
    cost_bytes: usize,
    newer: u32,
    older: u32,
    visited: AtomicBool,
}

/// Nodes and values that were taken out; the caller drops them after it has released the shard's lock, because
/// freeing a large value may enter the kernel.
pub type Removed<V> = Vec<Arc<V>>;

/// The resident entries of one shard.
pub struct Sieve<V> {
    index: HashTable<u32>,
    nodes: Vec<Node<V>>,
    newest: u32,
    oldest: u32,
    hand: u32,
    bytes: usize,
    budget_bytes: usize,
    evictions: u64,
}

impl<V> Sieve<V> {
    /// An empty set that may hold `budget_bytes`.
    pub fn new(budget_bytes: usize) -> Sieve<V> {
        Sieve {
            index: HashTable::new(),
            nodes: Vec::new(),
            newest: NONE,
            oldest: NONE,
            hand: NONE,
            bytes: 0,
            budget_bytes,
            evictions: 0,
        }
    }

    /// Bytes accounted for.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Entries, hollow ones included.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Entries that were evicted for room since the start.
    pub fn evictions(&self) -> u64 {
        self.evictions
    }

    /// Whether an entry of this cost may be cached at all.
    fn admits(&self, cost_bytes: usize) -> bool {
        cost_bytes <= self.budget_bytes / ENTRY_PARTS_MIN
    }

    fn cost_bytes(key: &[u8], value_bytes: usize) -> usize {
        entry_overhead_bytes::<V>().saturating_add(key.len()).saturating_add(value_bytes)
    }

    fn find(&self, hash: u64, key: &[u8]) -> Option<u32> {
        self.index.find(hash, |&at| *self.node(at).key == *key).copied()
    }

    fn node(&self, at: u32) -> &Node<V> {
        &self.nodes[at as usize]
    }

    fn node_mut(&mut self, at: u32) -> &mut Node<V> {
        &mut self.nodes[at as usize]
    }

    /// The value of a key, its visited bit set. Shared access suffices.
    #[inline]
    pub fn get(&self, hash: u64, key: &[u8]) -> Option<&Arc<V>> {
        let node = self.node(self.find(hash, key)?);
        let value = node.value.as_ref()?;
        // Read before written, so that readers of a hot key share its cache line.
        if !node.visited.load(Ordering::Relaxed) {
            node.visited.store(true, Ordering::Relaxed);
        }
        Some(value)
    }

    /// The value of a key; its visited bit stays as it is.
    pub fn peek(&self, hash: u64, key: &[u8]) -> Option<&Arc<V>> {
        self.node(self.find(hash, key)?).value.as_ref()
    }

    /// Adds a key that is not resident, as the newest. False: too large, nothing changed.
    pub fn insert(
        &mut self,
        hash: u64,
        key: Box<[u8]>,
        value: Arc<V>,
        value_bytes: usize,
        removed: &mut Removed<V>,
    ) -> bool {
        debug_assert!(self.find(hash, &key).is_none());
        let cost_bytes = Self::cost_bytes(&key, value_bytes);
        if !self.admits(cost_bytes) {
            return false;
        }
        self.evict_down_to(self.budget_bytes - cost_bytes, usize::MAX, removed);
        if self.nodes.len() == self.nodes.capacity() {
            self.nodes.reserve_exact((self.nodes.len() / 4).max(8));
        }
        let at = self.nodes.len() as u32;
        let older = self.newest;
        let visited = AtomicBool::new(false);
        self.nodes.push(Node { key, hash, value: Some(value), cost_bytes, newer: NONE, older, visited });
        let nodes = &self.nodes;
        self.index.insert_unique(hash, at, |&at| nodes[at as usize].hash);
        self.link(older, NONE, at);
        self.bytes += cost_bytes;
        true
    }

    /// Takes the value out of an entry but leaves its place in the order and its bit.
    pub fn hollow(&mut self, hash: u64, key: &[u8]) -> Option<Arc<V>> {
        let at = self.find(hash, key)?;
        let cost_bytes = Self::cost_bytes(key, 0);
        let node = self.node_mut(at);
        let value = node.value.take()?;
        let before = std::mem::replace(&mut node.cost_bytes, cost_bytes);
        self.bytes = self.bytes - before + cost_bytes;
        Some(value)
    }

    /// Gives a hollow entry a value. `None`: there is no such entry (any more); else whether it is now resident.
    pub fn refill(
        &mut self,
        hash: u64,
        key: &[u8],
        value: Arc<V>,
        value_bytes: usize,
        removed: &mut Removed<V>,
    ) -> Option<bool> {
        let at = self.find(hash, key)?;
        let cost_bytes = Self::cost_bytes(key, value_bytes);
        if !self.admits(cost_bytes) {
            self.remove_at(at, removed);
            return Some(false);
        }
        let node = self.node_mut(at);
        removed.extend(node.value.replace(value));
        Some(self.recharge(at, cost_bytes, removed))
    }

    /// Accounts for more bytes of a resident value. False: another value stands there, or it is too large.
    pub fn grow(
        &mut self,
        hash: u64,
        key: &[u8],
        value: &Arc<V>,
        extra_bytes: usize,
        removed: &mut Removed<V>,
    ) -> bool {
        let Some(at) = self.find(hash, key) else { return false };
        let node = self.node(at);
        if !node.value.as_ref().is_some_and(|present| Arc::ptr_eq(present, value)) {
            return false;
        }
        let cost_bytes = node.cost_bytes.saturating_add(extra_bytes);
        self.admits(cost_bytes) && self.recharge(at, cost_bytes, removed)
    }

    /// Sets the cost of a node and makes room for it; whether the node itself survived.
    fn recharge(&mut self, at: u32, cost_bytes: usize, removed: &mut Removed<V>) -> bool {
        let node = self.node_mut(at);
        let hash = node.hash;
        let before = std::mem::replace(&mut node.cost_bytes, cost_bytes);
        self.bytes = self.bytes - before + cost_bytes;
        if self.bytes <= self.budget_bytes {
            return true;
        }
        let key = self.node(at).key.clone();
        self.evict_down_to(self.budget_bytes, usize::MAX, removed);
        self.find(hash, &key).is_some()
    }

    /// Whether there is an entry, hollow or not.
    pub fn holds(&self, hash: u64, key: &[u8]) -> bool {
        self.find(hash, key).is_some()
    }

    /// Removes a key, hollow or not.
    pub fn remove(&mut self, hash: u64, key: &[u8], removed: &mut Removed<V>) {
        if let Some(at) = self.find(hash, key) {
            self.remove_at(at, removed);
        }
    }

    /// Removes everything.
    pub fn clear(&mut self) -> Vec<Node<V>> {
        let budget_bytes = self.budget_bytes;
        let evictions = self.evictions;
        let old = std::mem::replace(self, Sieve::new(budget_bytes));
        self.evictions = evictions;
        old.nodes
    }

    /// Sets the budget and evicts at most `entries_max` entries towards it; true when it is kept.
    ///
    /// NOTE: until it returns true the shard may hold more than its budget; callers repeat it at once.
    pub fn set_budget(&mut self, budget_bytes: usize, entries_max: usize, removed: &mut Removed<V>) -> bool {
        self.budget_bytes = budget_bytes;
        self.evict_down_to(budget_bytes, entries_max, removed);
        if self.bytes > budget_bytes {
            return false;
        }
        if self.nodes.capacity() > self.nodes.len() * 2 {
            self.nodes.shrink_to_fit();
            let nodes = &self.nodes;
            self.index.shrink_to_fit(|&at| nodes[at as usize].hash);
        }
        true
    }

    /// Keys by worth: those hit since the hand last passed, newest first, then the others, newest first.
    pub fn keys_by_worth(&self) -> (Vec<&[u8]>, Vec<&[u8]>) {
        let mut hit = Vec::new();
        let mut rest = Vec::new();
        let mut at = self.newest;
        while at != NONE {
            let node = self.node(at);
            if node.value.is_some() {
                let list = if node.visited.load(Ordering::Relaxed) { &mut hit } else { &mut rest };
                list.push(&*node.key);
            }
            at = node.older;
        }
        (hit, rest)
    }

    fn evict_down_to(&mut self, bytes_max: usize, entries_max: usize, removed: &mut Removed<V>) {
        for _ in 0..entries_max {
            if self.bytes <= bytes_max || self.nodes.is_empty() {
                return;
            }
            self.evict_one(removed);
        }
    }

    fn evict_one(&mut self, removed: &mut Removed<V>) {
        let mut at = if self.hand == NONE { self.oldest } else { self.hand };
        while std::mem::take(self.node_mut(at).visited.get_mut()) {
            let newer = self.node(at).newer;
            at = if newer == NONE { self.oldest } else { newer };
        }
        self.hand = self.node(at).newer;
        self.remove_at(at, removed);
        self.evictions += 1;
    }

    /// Removes a node and moves the last one of the slab into its place, so that the slab stays dense.
    fn remove_at(&mut self, at: u32, removed: &mut Removed<V>) {
        let (hash, older, newer) = (self.node(at).hash, self.node(at).older, self.node(at).newer);
        if let Ok(entry) = self.index.find_entry(hash, |&place| place == at) {
            entry.remove();
        }
        if self.hand == at {
            self.hand = newer;
        }
        self.join(older, newer);
        let last = self.nodes.len() as u32 - 1;
        if at != last {
            let (hash, older, newer) = (self.node(last).hash, self.node(last).older, self.node(last).newer);
            if let Some(place) = self.index.find_mut(hash, |&place| place == last) {
                *place = at;
            }
            if self.hand == last {
                self.hand = at;
            }
            self.link(older, newer, at);
        }
        let node = self.nodes.swap_remove(at as usize);
        self.bytes -= node.cost_bytes;
        removed.extend(node.value);
    }

    /// Makes the neighbours (or the ends) point at a node between them.
    fn link(&mut self, older: u32, newer: u32, at: u32) {
        match older {
            NONE => self.oldest = at,
            _ => self.node_mut(older).newer = at,
        }
        match newer {
            NONE => self.newest = at,
            _ => self.node_mut(newer).older = at,
        }
    }

    /// Makes two neighbours (or the ends) point at each other.
    fn join(&mut self, older: u32, newer: u32) {
        match older {
            NONE => self.oldest = newer,
            _ => self.node_mut(older).newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            _ => self.node_mut(newer).older = older,
        }
    }
}
