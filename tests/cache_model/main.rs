//! A model of the order between readers, the cache and the committer, checked over the thread interleavings by loom.
//!
//! The cache's own `shard.rs` and `sieve.rs` are mounted here unchanged; only their locks are loom's (`sync.rs`).
//! What is modelled by hand is around them: the store, the shared snapshot, and the steps of a reader and of the
//! committer. The first half shows that the right order holds what it promises, the second that each wrong one is
//! caught, so that the model is known to be able to fail.
//!
//! Promised to each thread: what it reads never goes back, however it reads (through the cache or from the shared
//! snapshot); who was told of a write reads it or a later one; and at rest the cache holds what the snapshot holds.
// loom does not compile on 32 bits; the order is the same there.
#![cfg(target_pointer_width = "64")]
#![allow(dead_code, clippy::unwrap_used, missing_docs)]

#[path = "../../src/cache/shard.rs"]
mod shard;
#[path = "../../src/cache/sieve.rs"]
mod sieve;
mod sync;

use std::sync::Arc;
use std::time::{Duration, Instant};

use loom::thread;
use shard::{Load, Shard};

const KEY: &[u8] = b"key";
const HASH: u64 = 7;
const BUDGET_BYTES: usize = 1 << 20;

/// What stands under the key: every write has a version, a deletion too.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
struct State {
    version: u64,
    present: bool,
}

struct World {
    cache: Shard<State>,
    /// What a snapshot opened now would show. The committer's alone.
    store: loom::sync::Mutex<State>,
    /// What every reader sees who goes past the cache.
    snapshot: loom::sync::Mutex<State>,
    /// How often a reader that held a ticket went to the snapshot.
    loads: loom::sync::Mutex<u32>,
}

/// In which order a reader does its two steps.
#[derive(Clone, Copy)]
enum Reader {
    TicketFirst,
    SnapshotFirst,
}

/// A step of the committer.
#[derive(Clone, Copy)]
enum Step {
    Announce,
    Commit,
    FailedCommit,
    Swap,
    Publish,
    Abort,
}
use Step::{Abort, Announce, Commit, FailedCommit, Publish, Swap};

const RIGHT: &[Step] = &[Announce, Commit, Swap, Publish];

impl World {
    /// Version 1 is stored; `cached`: and in the cache.
    fn new(cached: bool) -> Arc<World> {
        let first = State { version: 1, present: true };
        let world = Arc::new(World {
            cache: Shard::new(BUDGET_BYTES),
            store: loom::sync::Mutex::new(first),
            snapshot: loom::sync::Mutex::new(first),
            loads: loom::sync::Mutex::new(0),
        });
        if cached {
            world.read(Reader::TicketFirst, forever());
        }
        world
    }

    fn snapshot(&self) -> State {
        *self.snapshot.lock().unwrap()
    }

    fn read(&self, order: Reader, deadline: Instant) -> u64 {
        if let Some(value) = self.cache.get(HASH, KEY) {
            return value.version;
        }
        let early = match order {
            Reader::TicketFirst => None,
            Reader::SnapshotFirst => Some(self.snapshot()),
        };
        match self.cache.load(HASH, KEY, deadline) {
            Load::Hit(value) => value.version,
            Load::Bypass => self.snapshot().version,
            Load::Ticket(ticket) => {
                let state = early.unwrap_or_else(|| {
                    *self.loads.lock().unwrap() += 1;
                    self.snapshot()
                });
                if state.present {
                    ticket.fill(Arc::new(state), 0);
                }
                state.version
            }
        }
    }

    fn write(&self, state: State, steps: &[Step]) {
        for step in steps {
            match step {
                Announce => self.cache.announce(HASH, KEY),
                Commit => *self.store.lock().unwrap() = state,
                FailedCommit => {}
                Swap => {
                    let stored = *self.store.lock().unwrap();
                    *self.snapshot.lock().unwrap() = stored;
                }
                Publish => {
                    self.cache.publish(HASH, KEY, state.present.then(|| (Arc::new(state), 0)));
                }
                Abort => self.cache.abort(HASH, KEY),
            }
        }
    }

    fn put(&self, version: u64, steps: &[Step]) {
        self.write(State { version, present: true }, steps);
    }

    /// To be called when all threads have ended.
    fn check_at_rest(&self) {
        if let Some(cached) = self.cache.get(HASH, KEY) {
            assert_eq!(*cached, self.snapshot(), "stale: the cache and the snapshot differ at rest");
        }
    }
}

fn forever() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

/// Runs a scenario over its interleavings, with so many forced switches of threads at most.
fn explore(preemptions_max: usize, scenario: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions_max);
    model.check(scenario);
}

fn spawn(world: &Arc<World>, body: impl FnOnce(&World) + 'static) -> thread::JoinHandle<()> {
    let world = world.clone();
    thread::spawn(move || body(&world))
}

/// A client that reads by key, then a list, then by key again.
fn watch(world: &World, order: Reader, deadline: Instant) {
    let first = world.read(order, deadline);
    let listed = world.snapshot().version;
    assert!(first <= listed, "stale: a list went back from {first} to {listed}");
    let second = world.read(order, deadline);
    assert!(listed <= second, "stale: a read went back from {listed} to {second}");
}

/// One reader beside one writer that goes through these steps and then reads its own write.
fn reader_beside_writer(cached: bool, reader: Reader, present: bool, steps: &'static [Step]) {
    explore(5, move || {
        let world = World::new(cached);
        let reading = spawn(&world, move |world| watch(world, reader, forever()));
        world.write(State { version: 2, present }, steps);
        let told = world.snapshot().version;
        let read = world.read(reader, forever());
        assert!(read >= told, "stale: told of {told}, read {read}");
        reading.join().unwrap();
        world.check_at_rest();
    });
}

mod right_order {
    use super::*;

    #[test]
    fn a_put_beside_a_reader_is_fresh_from_a_cold_cache() {
        reader_beside_writer(false, Reader::TicketFirst, true, RIGHT);
    }

    #[test]
    fn a_put_beside_a_reader_is_fresh_from_a_warm_cache() {
        reader_beside_writer(true, Reader::TicketFirst, true, RIGHT);
    }

    #[test]
    fn a_delete_beside_a_reader_is_fresh() {
        reader_beside_writer(false, Reader::TicketFirst, false, RIGHT);
        reader_beside_writer(true, Reader::TicketFirst, false, RIGHT);
    }

    #[test]
    fn a_failed_commit_leaves_what_stood() {
        reader_beside_writer(false, Reader::TicketFirst, true, &[Announce, FailedCommit, Swap, Abort]);
        reader_beside_writer(true, Reader::TicketFirst, true, &[Announce, FailedCommit, Abort]);
    }

    /// Nobody knows whether a failed commit was applied; so the snapshot is renewed before the key is unmarked.
    #[test]
    fn a_failed_commit_that_was_applied_is_fresh_once_the_snapshot_shows_it() {
        for cached in [true, false] {
            reader_beside_writer(cached, Reader::TicketFirst, true, &[Announce, Commit, Swap, Abort]);
        }
    }

    #[test]
    fn two_writes_in_sequence_are_fresh() {
        explore(5, || {
            let world = World::new(false);
            let reading = spawn(&world, |world| watch(world, Reader::TicketFirst, forever()));
            world.put(2, RIGHT);
            world.put(3, RIGHT);
            assert_eq!(world.read(Reader::TicketFirst, forever()), 3, "stale");
            reading.join().unwrap();
            world.check_at_rest();
        });
    }

    #[test]
    fn two_readers_beside_a_writer_are_fresh() {
        explore(3, || {
            let world = World::new(false);
            let reading = spawn(&world, |world| watch(world, Reader::TicketFirst, forever()));
            let impatient = spawn(&world, |world| watch(world, Reader::TicketFirst, Instant::now()));
            world.put(2, RIGHT);
            assert_eq!(world.read(Reader::TicketFirst, forever()), 2, "stale");
            reading.join().unwrap();
            impatient.join().unwrap();
            world.check_at_rest();
        });
    }

    #[test]
    fn overlapping_announcements_are_fresh() {
        explore(3, || {
            let world = World::new(true);
            let other = spawn(&world, |world| {
                world.cache.announce(HASH, KEY);
                // Commit and swap are one here: two committers would have to take turns.
                let mut snapshot = world.snapshot.lock().unwrap();
                let state = State { version: snapshot.version + 1, present: true };
                *snapshot = state;
                drop(snapshot);
                world.cache.publish(HASH, KEY, Some((Arc::new(state), 0)));
            });
            let reading = spawn(&world, |world| {
                world.read(Reader::TicketFirst, forever());
            });
            world.cache.announce(HASH, KEY);
            let mut snapshot = world.snapshot.lock().unwrap();
            let state = State { version: snapshot.version + 1, present: true };
            *snapshot = state;
            drop(snapshot);
            world.cache.publish(HASH, KEY, Some((Arc::new(state), 0)));
            let read = world.read(Reader::TicketFirst, forever());
            assert!(read >= state.version, "stale: wrote {}, read {read}", state.version);
            other.join().unwrap();
            reading.join().unwrap();
            world.check_at_rest();
        });
    }

    #[test]
    fn a_herd_reads_the_store_once() {
        explore(3, || {
            let world = World::new(false);
            let herd: Vec<_> =
                (0..2).map(|_| spawn(&world, |world| watch(world, Reader::TicketFirst, forever()))).collect();
            watch(&world, Reader::TicketFirst, forever());
            for reader in herd {
                reader.join().unwrap();
            }
            assert_eq!(*world.loads.lock().unwrap(), 1);
        });
    }

    #[test]
    fn a_reader_that_gives_up_leaves_nobody_waiting() {
        explore(5, || {
            let world = World::new(false);
            let failing = spawn(&world, |world| {
                if let Load::Ticket(ticket) = world.cache.load(HASH, KEY, forever()) {
                    drop(ticket);
                }
            });
            let reading = spawn(&world, |world| watch(world, Reader::TicketFirst, forever()));
            world.put(2, RIGHT);
            failing.join().unwrap();
            reading.join().unwrap();
            world.check_at_rest();
        });
    }

    #[test]
    fn clearing_or_shrinking_beside_reader_and_writer_is_fresh() {
        explore(3, || {
            let world = World::new(true);
            let reading = spawn(&world, |world| watch(world, Reader::TicketFirst, forever()));
            let clearing = spawn(&world, |world| {
                world.cache.clear();
                world.cache.set_budget(0);
                world.cache.set_budget(BUDGET_BYTES);
            });
            world.put(2, RIGHT);
            assert_eq!(world.read(Reader::TicketFirst, forever()), 2, "stale");
            reading.join().unwrap();
            clearing.join().unwrap();
            world.check_at_rest();
        });
    }

    /// What must not lie before the announcement is the swap; the commit itself shows to nobody.
    #[test]
    fn announcing_between_commit_and_swap_is_as_fresh() {
        for present in [true, false] {
            for cached in [true, false] {
                reader_beside_writer(cached, Reader::TicketFirst, present, &[Commit, Announce, Swap, Publish]);
            }
        }
    }
}

mod wrong_order {
    use super::*;

    #[test]
    #[should_panic(expected = "stale")]
    fn loading_the_snapshot_before_the_ticket_is_caught() {
        reader_beside_writer(false, Reader::SnapshotFirst, true, RIGHT);
    }

    #[test]
    #[should_panic(expected = "stale")]
    fn publishing_before_the_swap_is_caught() {
        reader_beside_writer(true, Reader::TicketFirst, true, &[Announce, Commit, Publish, Swap]);
    }

    #[test]
    #[should_panic(expected = "stale")]
    fn unmarking_before_the_swap_is_caught() {
        reader_beside_writer(false, Reader::TicketFirst, true, &[Announce, Commit, Abort, Swap]);
    }

    #[test]
    #[should_panic(expected = "stale")]
    fn announcing_after_commit_and_swap_is_caught() {
        reader_beside_writer(true, Reader::TicketFirst, true, &[Commit, Swap, Announce, Publish]);
    }

    #[test]
    #[should_panic(expected = "stale")]
    fn never_announcing_is_caught() {
        reader_beside_writer(false, Reader::TicketFirst, true, &[Commit, Swap, Publish]);
    }

    #[test]
    #[should_panic(expected = "stale")]
    fn filling_without_a_look_at_the_ticket_is_caught() {
        sync::leave_fills_unchecked();
        reader_beside_writer(false, Reader::TicketFirst, false, RIGHT);
    }
}
