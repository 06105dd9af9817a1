//! Random sequences of everything a shard can do, beside a reference so naive that its rightness can be seen.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use proptest::prelude::*;

use super::entry_overhead_bytes;
use super::shard::{Load, Shard, Ticket};

type Key = u8;

/// Few hashes for many keys, so that keys collide.
fn hash(key: Key) -> u64 {
    u64::from(key % 5) << 57 | u64::from(key % 3)
}

fn bytes(key: Key) -> [u8; 2] {
    [b'k', key]
}

fn cost(value_bytes: usize) -> usize {
    entry_overhead_bytes::<u64>() + 2 + value_bytes
}

#[derive(Clone, Debug)]
enum Op {
    Get(Key),
    Load(Key),
    Fill(Key, usize),
    GiveUp(Key),
    Announce(Key),
    Publish(Key, Option<usize>),
    Abort(Key),
    Grow(Key, usize),
    SetBudget(usize),
    Clear,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let key = 0u8..20;
    // Some values are above an eighth of the budget.
    let size = 0usize..90;
    let budget = cost(60) * 8..cost(60) * 16;
    let op = prop_oneof![
        8 => key.clone().prop_map(Op::Get),
        8 => key.clone().prop_map(Op::Load),
        8 => (key.clone(), size.clone()).prop_map(|(key, size)| Op::Fill(key, size)),
        1 => key.clone().prop_map(Op::GiveUp),
        3 => key.clone().prop_map(Op::Announce),
        3 => (key.clone(), proptest::option::weighted(0.8, size)).prop_map(|(key, size)| Op::Publish(key, size)),
        1 => key.clone().prop_map(Op::Abort),
        1 => (key, 0usize..40).prop_map(|(key, extra)| Op::Grow(key, extra)),
        1 => prop_oneof![budget, 0..cost(60)].prop_map(Op::SetBudget),
        1 => Just(Op::Clear),
    ];
    // Most keys are filled at once, as a reader does; loose loads and fills alone would rarely reach the budget.
    let read = (0u8..20, 0usize..60).prop_map(|(key, size)| vec![Op::Get(key), Op::Load(key), Op::Fill(key, size)]);
    let step = prop_oneof![3 => op.prop_map(|op| vec![op]), 2 => read];
    proptest::collection::vec(step, 1..300).prop_map(|steps| steps.concat())
}

struct Entry {
    key: Key,
    version: Option<u64>,
    cost: usize,
    visited: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Pending {
    Loading(usize),
    Marked { writes: u32, nested: bool, wanted: bool },
}

/// The reference: a list from the oldest to the newest, searched from end to end.
struct Naive {
    list: Vec<Entry>,
    hand: Option<Key>,
    budget: usize,
    evictions: u64,
    pending: HashMap<Key, Pending>,
}

impl Naive {
    fn bytes(&self) -> usize {
        self.list.iter().map(|entry| entry.cost).sum()
    }

    fn place(&self, key: Key) -> Option<usize> {
        self.list.iter().position(|entry| entry.key == key)
    }

    fn get(&mut self, key: Key) -> Option<u64> {
        let at = self.place(key)?;
        let entry = &mut self.list[at];
        entry.visited |= entry.version.is_some();
        entry.version
    }

    fn remove(&mut self, at: usize) {
        let key = self.list.remove(at).key;
        if self.hand == Some(key) {
            self.hand = self.list.get(at).map(|entry| entry.key);
        }
    }

    fn evict_to(&mut self, bytes_max: usize) {
        while self.bytes() > bytes_max {
            let mut at = self.hand.and_then(|key| self.place(key)).unwrap_or(0);
            while self.list[at].visited {
                self.list[at].visited = false;
                at = (at + 1) % self.list.len();
            }
            self.hand = Some(self.list[at].key);
            self.remove(at);
            self.evictions += 1;
        }
    }

    fn insert(&mut self, key: Key, version: u64, cost: usize) -> bool {
        let fits = cost <= self.budget / 8;
        if fits {
            self.evict_to(self.budget - cost);
            self.list.push(Entry { key, version: Some(version), cost, visited: false });
        }
        fits
    }

    fn publish(&mut self, key: Key, value: Option<(u64, usize)>) {
        let Some(&Pending::Marked { writes, nested, wanted }) = self.pending.get(&key) else { return };
        self.pending.remove(&key);
        if writes > 1 {
            self.pending.insert(key, Pending::Marked { writes: writes - 1, nested, wanted });
            return;
        }
        match (self.place(key), value) {
            (Some(at), Some((version, cost))) if !nested && cost <= self.budget / 8 => {
                self.list[at].version = Some(version);
                self.list[at].cost = cost;
                self.evict_to(self.budget);
            }
            (Some(at), _) => self.remove(at),
            (None, Some((version, cost))) if !nested && wanted => {
                self.insert(key, version, cost);
            }
            (None, _) => {}
        }
    }
}

/// A ticket that some reader holds, with what it read.
struct Held<'a> {
    id: usize,
    ticket: Ticket<'a, u64>,
    version: u64,
}

fn run(ops: &[Op]) {
    let budget = cost(60) * 8;
    let shard: Shard<u64> = Shard::new(budget);
    let mut naive = Naive { list: Vec::new(), hand: None, budget, evictions: 0, pending: HashMap::new() };
    let mut stored: HashMap<Key, u64> = HashMap::new();
    let mut held: HashMap<Key, Vec<Held>> = HashMap::new();
    let mut tickets = 0;
    let mut version = 0;
    for op in ops {
        match *op {
            Op::Get(key) => {
                let got = shard.get(hash(key), &bytes(key)).map(|value| *value);
                assert_eq!(got, naive.get(key));
                if let Some(got) = got {
                    assert_eq!(got, stored.get(&key).copied().unwrap_or(0), "a stale value");
                }
            }
            Op::Load(key) => match shard.load(hash(key), &bytes(key), Instant::now()) {
                Load::Hit(value) => assert_eq!(Some(*value), naive.get(key)),
                Load::Bypass => assert!(naive.pending.contains_key(&key)),
                Load::Ticket(ticket) => {
                    assert!(naive.get(key).is_none());
                    tickets += 1;
                    assert!(naive.pending.insert(key, Pending::Loading(tickets)).is_none());
                    let version = stored.get(&key).copied().unwrap_or(0);
                    held.entry(key).or_default().push(Held { id: tickets, ticket, version });
                }
            },
            Op::Fill(key, size) => {
                let Some(reader) = held.get_mut(&key).and_then(Vec::pop) else { continue };
                let stands = naive.pending.get(&key) == Some(&Pending::Loading(reader.id));
                if stands {
                    naive.pending.remove(&key);
                }
                let expected = stands && naive.insert(key, reader.version, cost(size));
                assert_eq!(reader.ticket.fill(Arc::new(reader.version), size), expected);
            }
            Op::GiveUp(key) => {
                let Some(reader) = held.get_mut(&key).and_then(Vec::pop) else { continue };
                if naive.pending.get(&key) == Some(&Pending::Loading(reader.id)) {
                    naive.pending.remove(&key);
                }
            }
            Op::Announce(key) => {
                shard.announce(hash(key), &bytes(key));
                if let Some(at) = naive.place(key) {
                    naive.list[at].version = None;
                    naive.list[at].cost = cost(0);
                }
                let mark = match naive.pending.get(&key) {
                    Some(&Pending::Marked { writes, wanted, .. }) => {
                        Pending::Marked { writes: writes + 1, nested: true, wanted }
                    }
                    other => Pending::Marked { writes: 1, nested: false, wanted: other.is_some() },
                };
                naive.pending.insert(key, mark);
            }
            Op::Publish(key, size) => {
                if !matches!(naive.pending.get(&key), Some(Pending::Marked { .. })) {
                    continue;
                }
                version += 1;
                stored.insert(key, version);
                naive.publish(key, size.map(|size| (version, cost(size))));
                shard.publish(hash(key), &bytes(key), size.map(|size| (Arc::new(version), size)));
            }
            Op::Abort(key) => {
                naive.publish(key, None);
                shard.abort(hash(key), &bytes(key));
            }
            Op::Grow(key, extra) => {
                let Some(value) = shard.get(hash(key), &bytes(key)) else { continue };
                naive.get(key);
                let at = naive.place(key).unwrap();
                let grown = naive.list[at].cost + extra;
                let mut expected = grown <= naive.budget / 8;
                if expected {
                    naive.list[at].cost = grown;
                    naive.evict_to(naive.budget);
                    expected = naive.place(key).is_some();
                }
                assert_eq!(shard.grow(hash(key), &bytes(key), &value, extra), expected);
            }
            Op::SetBudget(bytes) => {
                naive.budget = bytes;
                naive.evict_to(bytes);
                shard.set_budget(bytes);
            }
            Op::Clear => {
                naive.list.clear();
                naive.hand = None;
                naive.pending.retain(|_, pending| matches!(pending, Pending::Marked { .. }));
                shard.clear();
            }
        }
        let stats = shard.stats();
        assert_eq!(stats.bytes as usize, naive.bytes());
        assert!(stats.bytes as usize <= naive.budget);
        assert_eq!((stats.entries as usize, stats.evictions), (naive.list.len(), naive.evictions));
    }
    // Which keys are left tells whether the same ones were evicted.
    for key in 0..20 {
        assert_eq!(shard.get(hash(key), &bytes(key)).map(|value| *value), naive.get(key));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_shard_does_what_the_naive_reference_does(ops in ops()) {
        run(&ops);
    }
}
