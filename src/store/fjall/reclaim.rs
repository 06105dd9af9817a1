//! Giving back the space of what was deleted.
//!
//! fjall's compaction leaves tombstones in an upper level for as long as that level is not full, and the data they
//! hide in the last one: a store whose records have all expired would keep its size. This merges the upper levels into
//! the last one, step by step on a thread of its own, until no tombstone hides anything.
//! It is not the sweeper: it deletes nothing that a reader could still see.
//!
//! Policy: it starts when asked, and by itself when after some commit the tables are found to hold at least
//! [`TOMBSTONES_MIN`] tombstones above the last level and these are one in [`TOMBSTONE_SHARE`] of all items (so that a
//! byte rewritten stands for a good share of a byte given back). One run at a time; after each step it rests as long as
//! the step took, so that it never has more than half of the card.
//!
//! While the card has no room for writes, everything counts: a run then has the journal begun anew as well. And all merges
//! are ours: a step of ours ends before it takes the room of a flush, and what it has written until then is removed, while
//! one of fjall's, which must not fail, would wait for room with all that it has written. So fjall, which merges the first
//! level after a flush, is kept from it. A few deletions spread over all keys would have all tables rewritten: a run for
//! so little waits a good while after the one before, see [`Restraint`].

use std::fs;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fjall::compaction::Leveled;
use fjall::{AbstractTree, Database, Keyspace};
use parking_lot::Mutex;

use super::needs::{merge_bytes, merges_next};
use super::options::{TABLE_BYTES, WORKER_THREADS};
use super::views::Views;
use super::{Keyspaces, edges, free_versions};
use crate::limits::MIB;
use crate::store::StoreError;
use crate::store::space::{Allowed, SpaceWatch};
use crate::store::ttl_filter::during;

/// The thread whose merges may fail.
pub(super) const RECLAIM_THREAD: &str = "larder-reclaim";

/// Fewer tombstones than these are not worth a run.
const TOMBSTONES_MIN: u64 = 1000;
/// One tombstone in so many items makes a run worthwhile.
const TOMBSTONE_SHARE: u64 = 4;
const LAST_LEVEL: usize = 6;
/// fjall takes at most so many tables' worth of bytes into one step.
const STEP_TABLES_MAX: u64 = 50;
/// Steps in a row that change nothing, with nobody else at work, before a run tries larger ones.
const IDLE_STEPS_MAX: u32 = 5;
const REST_MAX: Duration = Duration::from_secs(10);
const WAIT_STEP: Duration = Duration::from_millis(20);
/// How long a run waits for the flush of what it rotated out.
const FLUSH_MAX: Duration = Duration::from_secs(30);
/// How long a run that shall go on without fjall's merges waits until these have found nothing to do.
const MERGE_LOOK_MAX: Duration = Duration::from_secs(5);
/// A run that found too little room wears the card for nothing.
const FAILURE_PAUSE: Duration = Duration::from_secs(10);
/// A run for few deletions waits this many times as long as the merges of the run before took.
const RESTRAINT: u32 = 30;
const RESTRAINT_MAX: Duration = Duration::from_secs(3600);
/// One deletion in so many items is many.
const MANY_SHARE: u64 = 8;
/// So many bytes in memory wait for no run that flushes them.
const UNFLUSHED_BYTES_MAX: u64 = MIB as u64;
const RESTRAINT_STEP: Duration = Duration::from_millis(250);
/// How often, a bit more than a second apart, a run tries to have the old tables removed: the shared snapshot, which
/// keeps them, is renewed every second.
const CLEANUP_ROUNDS: usize = 3;
const CLEANUP_PAUSE: Duration = Duration::from_millis(1100);

/// Whether a run wants the journal begun anew: that is the committer's to do.
const SEAL_NONE: u8 = 0;
const SEAL_WANTED: u8 = 1;
const SEAL_UNDER_WAY: u8 = 2;

/// Starts runs and ends them.
pub(super) struct Reclaimer {
    shared: Arc<Shared>,
    /// Both keyspaces' table versions, added, when they were last looked at. Each only grows.
    versions_seen: AtomicU64,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    db: Database,
    keyspaces: Keyspaces,
    views: Arc<Views>,
    space: Arc<SpaceWatch>,
    seal: AtomicU8,
    restraint: Mutex<Restraint>,
    running: AtomicBool,
    wanted: AtomicBool,
    stop: AtomicBool,
}

impl Reclaimer {
    pub(super) fn new(db: Database, keyspaces: Keyspaces, views: Arc<Views>, space: Arc<SpaceWatch>) -> Reclaimer {
        let [running, wanted, stop] = std::array::from_fn(|_| AtomicBool::new(false));
        let (seal, restraint) = (AtomicU8::new(SEAL_NONE), Mutex::default());
        let shared = Arc::new(Shared { db, keyspaces, views, space, seal, restraint, running, wanted, stop });
        Reclaimer { shared, versions_seen: AtomicU64::new(0), thread: Mutex::new(None) }
    }

    /// Starts a run if enough was deleted, unless one is under way. Cheap while no table comes or goes.
    pub(super) fn start_if_worthwhile(&self) {
        if self.shared.running.load(Ordering::Acquire) {
            return;
        }
        let newest = |keyspace: &Keyspace| keyspace.tree.current_version().id();
        let versions = newest(&self.shared.keyspaces.data).wrapping_add(newest(&self.shared.keyspaces.log));
        let is_new = self.versions_seen.swap(versions, Ordering::AcqRel) != versions;
        if is_new && self.shared.keyspaces.both().into_iter().any(is_worthwhile) {
            self.start();
        }
    }

    /// Has the committer begin the journal anew, if a run waits for that: nobody else may write to it meanwhile.
    pub(super) fn seal_if_wanted(&self, seal: impl FnOnce() -> Result<(), StoreError>) -> Result<(), StoreError> {
        if !self.shared.pass_seal(SEAL_WANTED, SEAL_UNDER_WAY) {
            return Ok(());
        }
        let sealed = seal();
        self.shared.seal.store(SEAL_NONE, Ordering::Release);
        sealed
    }

    pub(super) fn is_running(&self) -> bool {
        self.shared.running.load(Ordering::Acquire)
    }

    /// Starts a run; if one is under way, another follows it.
    pub(super) fn start(&self) {
        self.shared.wanted.store(true, Ordering::Release);
        if self.shared.is_stopped() || self.shared.running.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut thread = self.thread.lock();
        if let Some(finished) = thread.take() {
            let _ = finished.join();
        }
        let shared = self.shared.clone();
        match std::thread::Builder::new().name(RECLAIM_THREAD.into()).spawn(move || shared.run_while_wanted()) {
            Ok(handle) => *thread = Some(handle),
            Err(error) => {
                log::warn!("could not start to reclaim space: {error}");
                self.shared.running.store(false, Ordering::Release);
            }
        }
    }

    /// Has a run end after its present step, and lets none start again. Does not wait: a step may take long.
    pub(super) fn ask_to_stop(&self) {
        self.shared.stop.store(true, Ordering::Release);
    }
}

impl Drop for Reclaimer {
    fn drop(&mut self) {
        self.ask_to_stop();
        if let Some(handle) = self.thread.lock().take() {
            let _ = handle.join();
        }
    }
}

impl Shared {
    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn run_while_wanted(self: &Arc<Self>) {
        loop {
            while self.wanted.swap(false, Ordering::AcqRel) && !self.is_stopped() {
                self.run();
            }
            self.running.store(false, Ordering::Release);
            // Somebody may have asked between the two, and found a run under way.
            if !self.wanted.load(Ordering::Acquire) || self.running.swap(true, Ordering::AcqRel) {
                return;
            }
        }
    }

    fn run(self: &Arc<Self>) {
        while self.is_short() && !self.is_stopped() && !self.restraint.lock().ends(Instant::now(), &self.reasons()) {
            std::thread::sleep(RESTRAINT_STEP);
        }
        let started = Instant::now();
        let bytes_before = self.disk_bytes();
        if let Err(error) = self.merge_all() {
            log::warn!("reclaiming space ended early: {error}");
            self.rest(FAILURE_PAUSE);
        }
        self.restraint.lock().begin(Instant::now(), self.space.figures().free_bytes);
        for _ in 0..CLEANUP_ROUNDS {
            if self.is_stopped() || !self.remove_old_tables() {
                break;
            }
            self.rest(CLEANUP_PAUSE);
        }
        log::info!(
            "reclaimed space in {:.1} s: the tables had {bytes_before} bytes and have {}",
            started.elapsed().as_secs_f64(),
            self.disk_bytes()
        );
    }

    /// What there is to be gained now.
    fn reasons(&self) -> Reasons {
        let memtables = self.keyspaces.both().map(|keyspace| keyspace.tree.active_memtable());
        let deleted: u64 = self.keyspaces.both().into_iter().map(tombstones_above_last_level).sum();
        Reasons {
            deleted: deleted + memtables.iter().map(|memtable| memtable.len() as u64).sum::<u64>(),
            items: self.keyspaces.both().iter().map(|keyspace| keyspace.approximate_len() as u64).sum(),
            unflushed_bytes: memtables.iter().map(|memtable| memtable.size()).sum(),
            free_bytes: self.space.figures().free_bytes,
            is_stuck: self.space.needs().is_stuck,
        }
    }

    fn disk_bytes(&self) -> u64 {
        self.keyspaces.both().iter().map(|keyspace| keyspace.disk_space()).sum()
    }

    /// Flushes what is deleted in memory, then merges both keyspaces down.
    fn merge_all(self: &Arc<Self>) -> fjall::Result<()> {
        self.flush()?;
        for keyspace in self.keyspaces.both() {
            self.merge_down(keyspace)?;
        }
        // Once more for what was deleted and merged away meanwhile.
        self.flush()
    }

    /// Whether the card has no room for writes.
    fn is_short(&self) -> bool {
        self.space.allowed() != Allowed::Writes
    }

    fn flush(self: &Arc<Self>) -> fjall::Result<()> {
        if !self.space.has_room_for_flush() {
            return Ok(());
        }
        if !self.is_short() || !merges_next(&self.keyspaces.data) {
            return self.flush_now();
        }
        let data = &self.keyspaces.data;
        let (shared, outcome) = (self.clone(), Arc::new(Mutex::new(Ok(()))));
        let flushed = outcome.clone();
        let first_table = data.tree.get_next_table_id();
        let hold = || drop(data.tree.compact(Arc::new(merge_first_level()), 0));
        during(hold, move || *flushed.lock() = shared.flush_now());
        self.remove_unfinished(data, first_table..first_table + 2);
        std::mem::replace(&mut outcome.lock(), Ok(()))
    }

    fn flush_now(&self) -> fjall::Result<()> {
        let deadline = Instant::now() + FLUSH_MAX;
        let merges_before = self.db.compactions_completed();
        if !self.is_short() || !self.have_sealed(deadline) {
            for keyspace in self.keyspaces.both() {
                edges::renew(&self.db, keyspace)?;
            }
            self.keyspaces.rotate()?;
        }
        let is_pending = |keyspace: &Keyspace| keyspace.tree.sealed_memtable_count() > 0;
        while self.keyspaces.both().into_iter().any(is_pending) && !self.is_stopped() && Instant::now() < deadline {
            std::thread::sleep(WAIT_STEP);
        }
        // Each of fjall's threads looks once for something to merge.
        let deadline = Instant::now() + MERGE_LOOK_MAX;
        let looked = || self.db.compactions_completed() >= merges_before + WORKER_THREADS;
        while self.is_short() && !looked() && !self.is_stopped() && Instant::now() < deadline {
            std::thread::sleep(WAIT_STEP);
        }
        Ok(())
    }

    /// Has the committer flush and begin the journal anew; `false` if it did not come to it.
    fn have_sealed(&self, deadline: Instant) -> bool {
        self.seal.store(SEAL_WANTED, Ordering::Release);
        while self.seal.load(Ordering::Acquire) != SEAL_NONE {
            let is_late = self.is_stopped() || Instant::now() >= deadline;
            if is_late && self.pass_seal(SEAL_WANTED, SEAL_NONE) {
                return false;
            }
            std::thread::sleep(WAIT_STEP);
        }
        true
    }

    fn pass_seal(&self, from: u8, to: u8) -> bool {
        self.seal.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Merges table after table into the last level, as long as tombstones stand above it.
    fn merge_down(&self, keyspace: &Keyspace) -> fjall::Result<()> {
        let mut table_bytes = TABLE_BYTES;
        let mut idle_steps = 0;
        let is_due = || tombstones_above_last_level(keyspace) > 0 || (self.is_short() && merge_bytes(keyspace) > 0);
        while is_due() && !self.is_stopped() {
            let version = keyspace.tree.current_version().id();
            let started = Instant::now();
            self.merge_step(keyspace, table_bytes)?;
            if keyspace.tree.current_version().id() != version {
                idle_steps = 0;
                self.rest(started.elapsed().min(REST_MAX));
                continue;
            }
            // fjall's own compaction may just hold the tables that a step needs.
            self.rest(WAIT_STEP);
            idle_steps = if self.db.active_compactions() == 0 { idle_steps + 1 } else { 0 };
            if idle_steps >= IDLE_STEPS_MAX {
                // Nothing fits one step: a table of tombstones spans too much of the last level.
                if table_bytes * STEP_TABLES_MAX > 2 * keyspace.disk_space() {
                    break;
                }
                table_bytes *= 2;
                idle_steps = 0;
            }
        }
        Ok(())
    }

    fn merge_step(&self, keyspace: &Keyspace, table_bytes: u64) -> fjall::Result<()> {
        let first_table = keyspace.tree.get_next_table_id();
        let gc_before = self.views.oldest_instant(&self.db).saturating_sub(1);
        let started = Instant::now();
        let merged = keyspace.tree.compact(Arc::new(merge_everything_down(table_bytes)), gc_before);
        self.restraint.lock().merged(started.elapsed());
        if merged.is_err() {
            self.remove_unfinished(keyspace, first_table..keyspace.tree.get_next_table_id());
        }
        Ok(merged?)
    }

    /// Removes what a step that failed has written: tables with these numbers that are in no state of the store. Others
    /// may write tables at any time, so it waits until nobody does; else the next start removes them.
    fn remove_unfinished(&self, keyspace: &Keyspace, numbers: Range<u64>) {
        let deadline = Instant::now() + FLUSH_MAX;
        loop {
            let is_at_rest = !self.remove_old_tables()
                && self.db.active_compactions() == 0
                && keyspace.tree.sealed_memtable_count() == 0;
            if is_at_rest {
                break;
            }
            if self.is_stopped() || Instant::now() >= deadline {
                return;
            }
            std::thread::sleep(WAIT_STEP);
        }
        let version = keyspace.tree.current_version();
        // IMPORTANT: the step may have failed after its result became the state on the card.
        let on_card = fs::read(keyspace.path().join("current")).unwrap_or_default();
        if on_card.first_chunk() != Some(&version.id().to_le_bytes()) {
            return;
        }
        for number in numbers.filter(|number| version.iter_tables().all(|table| table.id() != *number)) {
            // Most numbers belong to no file.
            let _ = fs::remove_file(keyspace.path().join("tables").join(number.to_string()));
        }
    }

    /// Removes the files of tables that were merged away; `true` if some are still kept for a view.
    fn remove_old_tables(&self) -> bool {
        if let Err(error) = free_versions(&self.db, &self.keyspaces, &self.views) {
            log::warn!("could not remove old tables: {error}");
        }
        self.keyspaces.both().iter().any(|keyspace| keyspace.tree.version_free_list_len() > 0)
    }

    fn rest(&self, duration: Duration) {
        let deadline = Instant::now() + duration;
        while !self.is_stopped() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            std::thread::sleep(left.min(WAIT_STEP));
        }
    }
}

/// Keeps the card from being worn by merges for next to nothing, while it has no room for writes.
#[derive(Default)]
struct Restraint {
    /// How long the merges of the present run took.
    merging: Duration,
    /// Until when few deletions are no reason for a run, and what was free when the last one ended.
    until: Option<(Instant, u64)>,
}

/// What speaks for a run.
#[derive(Clone, Debug, Default)]
struct Reasons {
    /// Deletions that may hide something, and changes in memory, which may all be such.
    deleted: u64,
    items: u64,
    unflushed_bytes: u64,
    free_bytes: u64,
    is_stuck: bool,
}

impl Restraint {
    fn merged(&mut self, took: Duration) {
        self.merging += took;
    }

    /// A run ends.
    fn begin(&mut self, now: Instant, free_bytes: u64) {
        let rest = (std::mem::take(&mut self.merging) * RESTRAINT).min(RESTRAINT_MAX);
        self.until = Some((now + rest, free_bytes));
    }

    /// Whether a run may begin.
    fn ends(&self, now: Instant, reasons: &Reasons) -> bool {
        self.until.is_none_or(|(until, free_bytes)| {
            now >= until
                || reasons.deleted * MANY_SHARE >= reasons.items
                || reasons.unflushed_bytes >= UNFLUSHED_BYTES_MAX
                || reasons.free_bytes > free_bytes + free_bytes / 4
                || reasons.is_stuck
        })
    }
}

/// A strategy in whose eyes every level above the last one is too full. fjall then takes the cheapest merge first.
fn merge_everything_down(table_bytes: u64) -> Leveled {
    Leveled::default().with_l0_threshold(0).with_table_target_size(table_bytes)
}

/// A strategy that merges the first level if it holds anything, and no other.
fn merge_first_level() -> Leveled {
    Leveled::default().with_l0_threshold(1).with_table_target_size(u64::MAX >> 8)
}

fn is_worthwhile(keyspace: &Keyspace) -> bool {
    let tombstones = tombstones_above_last_level(keyspace);
    tombstones >= TOMBSTONES_MIN && tombstones * TOMBSTONE_SHARE >= keyspace.approximate_len() as u64
}

/// Tombstones that may hide something. What stands in the last level hides nothing.
fn tombstones_above_last_level(keyspace: &Keyspace) -> u64 {
    let version = keyspace.tree.current_version();
    version
        .iter_levels()
        .take(LAST_LEVEL)
        .flat_map(|level| level.iter())
        .flat_map(|run| run.iter())
        .map(|table| table.tombstone_count())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_deletions_wait_after_a_run_and_many_do_not() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let few = Reasons { deleted: 124, items: 1000, free_bytes: 100, ..Reasons::default() };
        let mut restraint = Restraint::default();
        assert!(restraint.ends(start, &few), "the first run");
        restraint.merged(second);
        restraint.merged(second);
        restraint.begin(start, 100);
        assert!(!restraint.ends(start + second * 59, &few));
        assert!(restraint.ends(start + second * 60, &few));
        for (why, reasons) in [
            ("one in eight", Reasons { deleted: 125, ..few.clone() }),
            ("nothing else is stored", Reasons { items: 0, ..few.clone() }),
            ("a memtable waits", Reasons { unflushed_bytes: UNFLUSHED_BYTES_MAX, ..few.clone() }),
            ("a merge may find room", Reasons { free_bytes: 126, ..few.clone() }),
            ("nothing can be flushed", Reasons { is_stuck: true, ..few.clone() }),
        ] {
            assert!(restraint.ends(start, &reasons), "{why}");
        }
        restraint.begin(start, 100);
        assert!(restraint.ends(start, &few), "nothing was merged");
        restraint.merged(second * 1000);
        restraint.begin(start, 100);
        assert!(!restraint.ends(start + RESTRAINT_MAX - second, &few));
        assert!(restraint.ends(start + RESTRAINT_MAX, &few));
    }
}
