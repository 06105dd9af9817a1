//! The one thread that owns all writes. It takes what waits, computes what it does, commits it as one batch with one
//! sync for all who wait, and only then lets anybody know.
//!
//! Invariant: no reply computed from a group leaves before the group's commit has returned, and between the announcement
//! of a key to the cache and the swap of the snapshot nobody can fill that key.

mod check;
mod gather;
mod group;
mod metrics;
mod overlay;
mod pace;
mod queue;
mod recent;
mod renewal;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::metrics::Registry;
use crate::wake;
use check::{Check, CheckError};
use gather::Gather;
use group::{Computed, Group, Held, is_late};
use metrics::CommitMetrics;
use overlay::Overlay;
use pace::Pace;
use queue::{Next, Pending, WriteSource, write_queue};
pub(in crate::store) use queue::{WriteQueue, needs};
use recent::RecentWrites;
use renewal::Renewal;

use super::database::{DatabaseOptions, Shared};
use super::space::Allowed;
use super::versions::{Versions, number};
use super::view::View;
use super::{Change, CommitObserver, FullKey, Snapshot, Space, Store, StoreError, TYPE_META, WriteError, record};

/// Why writes stopped, in words for clients: the error itself is for the log, it may name paths.
const WRITE_FAILED: &str = "a write to the storage device failed";
const PANICKED: &str = "the thread that writes panicked";
/// Where the last known time stands in the data keyspace.
pub(super) const CLOCK_KEY: &[u8] = &[TYPE_META, b'c', b'l', b'o', b'c', b'k'];
/// Where the clock's epochs stand.
pub(super) const EPOCHS_KEY: &[u8] = &[TYPE_META, b'e', b'p', b'o', b'c', b'h', b's'];
/// How often both are saved along with a write, if nothing but time has changed.
const CLOCK_SAVE_INTERVAL: Duration = Duration::from_secs(600);

/// The state of the committer's thread.
pub(super) struct Committer {
    store: Arc<dyn Store>,
    observer: Arc<dyn CommitObserver>,
    shared: Arc<Shared>,
    source: WriteSource,
    versions: Versions,
    recent: RecentWrites,
    gather: Gather,
    metrics: CommitMetrics,
    sync_interval: Duration,
    value_bytes_max: u64,
    /// A request that did not fit the last group.
    carried: Option<Pending>,
    /// Keys of the group being committed that the cache does not know of yet.
    in_hand: VecDeque<FullKey>,
    /// Keys announced to the cache and not yet published or aborted.
    announced: Vec<FullKey>,
    /// The number of the last commit.
    instant: u64,
    pace: Pace,
    /// Since when relaxed writes wait for their sync.
    unsynced_since: Option<Instant>,
    renewal: Renewal,
    modified_ms: u64,
    clock_saved: Option<Instant>,
}

/// Prepares the committer and the queue in front of it.
pub(super) fn committer(
    store: Arc<dyn Store>,
    observer: Arc<dyn CommitObserver>,
    shared: Arc<Shared>,
    versions: Versions,
    registry: &Registry,
    options: &DatabaseOptions,
) -> (WriteQueue, Committer) {
    let metrics = CommitMetrics::new(registry);
    let (queue, source) = write_queue(options, metrics.depth.clone());
    let committer = Committer {
        store,
        observer,
        shared,
        source,
        versions,
        recent: RecentWrites::default(),
        gather: Gather::default(),
        metrics,
        sync_interval: options.sync_interval,
        value_bytes_max: options.value_bytes_max,
        carried: None,
        in_hand: VecDeque::new(),
        announced: Vec::new(),
        instant: 0,
        pace: Pace::default(),
        unsynced_since: None,
        renewal: Renewal::new(Instant::now()),
        modified_ms: 0,
        clock_saved: None,
    };
    (queue, committer)
}

impl Committer {
    /// Runs until the queue is closed and empty. A panic stops all writes for good; nobody is left without an answer.
    pub(super) fn run(mut self) -> Result<(), StoreError> {
        match catch_unwind(AssertUnwindSafe(|| self.serve())) {
            Ok(()) => {
                let result = self.finish();
                self.shared.set_busy(false);
                result
            }
            Err(_) => {
                let error = StoreError::Io(PANICKED.into());
                self.metrics.panics.inc();
                // Even this may panic again, in the observer or the store; what follows must not depend on it.
                let _ = catch_unwind(AssertUnwindSafe(|| self.give_up(PANICKED, &error)));
                self.carried = None;
                self.source.refuse_all();
                self.shared.set_busy(false);
                Err(error)
            }
        }
    }

    fn serve(&mut self) {
        loop {
            self.wait_for_company();
            let next = match self.carried.take() {
                Some(request) => self.source.again(request),
                None => self.source.next(self.next_duty()),
            };
            self.shared.set_busy(true);
            match next {
                Next::Request(first) => {
                    self.shared.clock.correct(self.versions.last() + 1);
                    let group = self.take_group(first);
                    self.process(group);
                }
                Next::TimedOut => {}
                Next::Closed => return,
            }
            self.do_duties();
            self.shared.set_busy(false);
        }
    }

    fn process(&mut self, group: Group) {
        let Some(computed) = self.check(group) else { return };
        self.carry_out(computed);
    }

    /// IMPORTANT: this order is the whole correctness. A reply before the commit returned acknowledges what can be
    /// lost; an announcement after the swap of the snapshot lets a reader fill the cache with the past; so does a
    /// publication before it. Announced before the commit, hot keys that are written often would be kept out of the
    /// cache for as long as the card syncs, for nothing: until the swap all readers see the old value anyway.
    fn carry_out(&mut self, computed: Computed) {
        if computed.overlay.is_empty() {
            return computed.answer(false, self.pace.loss_max(self.sync_interval));
        }
        self.in_hand.extend(computed.overlay.changes().map(|(key, _)| key.clone()));
        match self.commit(&computed).and_then(|()| self.store.snapshot()) {
            Ok(snapshot) => {
                self.announce();
                self.swap(snapshot, &computed.overlay);
                self.publish(&computed.overlay);
                self.answer(computed);
                self.maintain();
            }
            Err(error) => {
                self.give_up(WRITE_FAILED, &error);
                computed.unknown();
            }
        }
    }

    /// Waits after a group of several until those it answered are back, if they are quick.
    fn wait_for_company(&mut self) {
        let Some(wait) = self.gather.plan() else { return };
        if self.carried.is_some() || self.shared.switches.is_draining() {
            return;
        }
        let began = Instant::now();
        self.source.wait_for(wait.target, began + wait.limit);
        self.metrics.gather_seconds.record_duration(began.elapsed());
    }

    /// Takes what waits, within the bounds of a group.
    fn take_group(&mut self, first: Pending) -> Group {
        // Others may have taken the card since the last group, and a commit that finds no room is the last one.
        self.shared.space.look();
        let mut group = Group::default();
        let mut next = Some(first);
        while let Some(request) = next {
            if is_late(&request) {
                self.metrics.late.inc();
                request.answer.give(Err(WriteError::Overloaded));
            } else if self.shared.switches.has_failed() {
                request.answer.give(Err(WriteError::ReadOnly));
            } else if let Some(error) = self.shared.lack_for(request.needs(), request.bytes) {
                request.answer.give(Err(error));
            } else if group.has_room_for(&request) {
                group.add(request);
            } else {
                self.carried = Some(request);
                break;
            }
            next = self.source.try_next();
        }
        group
    }

    /// Computes the group. `None`: nothing of it could be begun, and everyone has been told.
    fn check(&mut self, group: Group) -> Option<Computed> {
        let Group { requests, operations, .. } = group;
        if requests.is_empty() {
            return None;
        }
        let follows = requests.iter().filter_map(|request| request.follows).max();
        if let Err(error) = self.reserve(operations, follows) {
            self.give_up(WRITE_FAILED, &error);
            requests.into_iter().for_each(|request| request.answer.give(Err(WriteError::ReadOnly)));
            return None;
        }
        self.metrics.operations.add(operations as u64);
        self.metrics.group_operations.record(operations as u64);
        self.metrics.group_requests.record(requests.len() as u64);
        let view = self.shared.view.get();
        let clock = &self.shared.clock;
        let mut check = Check {
            view: &view,
            recent: &self.recent,
            versions: &mut self.versions,
            clock,
            metrics: &self.metrics,
            value_bytes_max: self.value_bytes_max,
            modified_ms: &mut self.modified_ms,
            moment: clock.moment(),
            overlay: Overlay::default(),
            reread: Default::default(),
        };
        let mut held = Vec::with_capacity(requests.len());
        for mut request in requests {
            request.answer.begin();
            let outcome = check.request(&mut request).map_err(|error| {
                match error {
                    CheckError::Unreadable(error) => log::error!("a record that a write needs is unreadable: {error}"),
                    CheckError::Panicked => log::error!("an update function panicked; its request was dropped"),
                }
                WriteError::Unavailable
            });
            held.push(Held { answer: request.answer, durability: request.durability, outcome });
        }
        Some(Computed { overlay: check.overlay, held })
    }

    /// Makes sure of versions for so many operations, above those of a file whose import begins.
    fn reserve(&mut self, operations: usize, follows: Option<u64>) -> Result<(), StoreError> {
        if let Some(version) = follows {
            self.versions.follow(version, &*self.store)?;
            self.shared.imported.store(self.versions.imported(), Ordering::Release);
            // Readers see all up to here: the group in hand has taken none yet.
            self.shared.last_version.store(self.versions.last(), Ordering::Release);
        }
        let began = Instant::now();
        if self.versions.reserve(operations, &*self.store)? {
            // The first syncs after a start: all that is known of the card.
            self.pace.note(began.elapsed() / Versions::RAISE_SYNCS);
        }
        Ok(())
    }

    /// Tells the cache which keys the next snapshot changes.
    fn announce(&mut self) {
        while let Some(key) = self.in_hand.pop_front() {
            self.announced.push(key.clone());
            self.observer.announce(&key);
        }
    }

    /// Writes the group's changes as one batch, and waits for the card if anyone asked for that.
    fn commit(&mut self, computed: &Computed) -> Result<(), StoreError> {
        let sync = computed.wants_sync();
        let mut changes: Vec<Change> = computed
            .overlay
            .changes()
            .map(|(key, record)| (Space::Data, key.shared(), record.map(|record| record::encode(record))))
            .collect();
        let bytes: usize = changes.iter().map(|(_, key, value)| key.len() + value.as_ref().map_or(0, Bytes::len)).sum();
        if self.clock_saved.is_none_or(|saved| saved.elapsed() >= CLOCK_SAVE_INTERVAL) || self.shared.clock.is_unsaved()
        {
            changes.extend(self.clock_changes());
        }
        let began = Instant::now();
        self.store.commit(changes, sync)?;
        if sync {
            self.synced(began.elapsed());
        } else {
            self.unsynced_since.get_or_insert(began);
        }
        self.metrics.groups.inc();
        self.metrics.bytes.add(bytes as u64);
        Ok(())
    }

    /// Lets readers see what was committed.
    fn swap(&mut self, snapshot: Arc<dyn Snapshot>, overlay: &Overlay) {
        self.instant += 1;
        for (key, record) in overlay.changes() {
            self.recent.note(key, self.instant);
            if record.is_some_and(|record| record.expires_ms != 0) {
                self.shared.expiring.store(true, Ordering::Relaxed);
            }
        }
        self.shared.view.set(View { snapshot, instant: self.instant });
        let before = self.shared.last_version.swap(self.versions.last(), Ordering::AcqRel);
        self.metrics.versions.add(self.versions.last() - before);
        self.renewal.committed(Instant::now());
    }

    fn publish(&mut self, overlay: &Overlay) {
        for (key, record) in overlay.changes() {
            self.observer.publish(key, record);
        }
        self.announced.clear();
    }

    /// Hands out the replies of a committed group.
    fn answer(&mut self, computed: Computed) {
        let (requests, synced) = (computed.held.len(), computed.wants_sync());
        // Counted before the replies: who is back before the last reply is handed out is part of those awaited.
        let waited = self.source.waiting();
        let max_loss = self.pace.loss_max(self.sync_interval);
        wake::together(|| computed.answer(synced, max_loss));
        if synced {
            self.gather.answered(requests, waited);
        }
    }

    /// Lets the store keep house between commits.
    fn maintain(&mut self) {
        // Nothing is to be kept in order any more, and the reason stands in the log.
        if self.shared.switches.has_failed() {
            return;
        }
        if let Err(error) = self.store.maintain() {
            self.give_up(WRITE_FAILED, &error);
        }
    }

    fn synced(&mut self, took: Duration) {
        self.unsynced_since = None;
        self.gather.synced(took);
        self.pace.note(took);
        self.metrics.sync_seconds.record_duration(took);
    }

    /// Stops all writes for good. What was announced is handed back to the readers, who see what the store now holds:
    /// a failed commit may be there or not.
    fn give_up(&mut self, reason: &str, error: &StoreError) {
        // Whether the group in hand was applied nobody knows: the snapshot below may show it.
        self.announce();
        self.metrics.failures.inc();
        log::error!("the store takes no more writes: {reason}: {error}");
        self.shared.switches.stop_writes(reason);
        match self.store.snapshot() {
            Ok(snapshot) => {
                self.instant += 1;
                self.shared.view.set(View { snapshot, instant: self.instant });
            }
            Err(error) => log::error!("no new snapshot after the failure: {error}"),
        }
        self.announced.drain(..).for_each(|key| self.observer.abort(&key));
        // Earlier relaxed writes are promised to be on the card soon, whatever became of this one.
        let _ = self.unsynced_since.take().map(|_| self.store.sync());
    }

    /// When the sync of relaxed writes must begin.
    fn sync_due(&self) -> Option<Instant> {
        self.unsynced_since.map(|since| since + self.pace.wait_max(self.sync_interval))
    }

    /// When the thread must act though no request comes.
    fn next_duty(&self) -> Instant {
        self.sync_due().map_or(self.renewal.due(), |due| due.min(self.renewal.due()))
    }

    fn do_duties(&mut self) {
        let now = Instant::now();
        if self.sync_due().is_some_and(|due| now >= due) {
            match self.store.sync() {
                Ok(()) => self.synced(now.elapsed()),
                Err(error) => self.give_up("a sync of the storage device failed", &error),
            }
        }
        if now >= self.renewal.due() {
            self.maintain();
            if self.renewal.look(now, &self.store.figures()) {
                self.renew();
            }
        }
    }

    /// Opens the snapshot of an idle store anew.
    fn renew(&mut self) {
        match self.store.snapshot() {
            Ok(snapshot) => self.shared.view.set(View { snapshot, instant: self.instant }),
            Err(error) => log::warn!("the idle snapshot could not be renewed: {error}"),
        }
    }

    fn clock_changes(&mut self) -> [Change; 2] {
        self.clock_saved = Some(Instant::now());
        let (last_known_ms, epochs) = self.shared.clock.save();
        [number(CLOCK_KEY, last_known_ms), (Space::Data, Bytes::from_static(EPOCHS_KEY), Some(epochs))]
    }

    /// Makes everything durable at the end, and saves the time for the next start.
    fn finish(&mut self) -> Result<(), StoreError> {
        if let Some(reason) = self.shared.switches.reason() {
            return Err(StoreError::Io(reason));
        }
        self.shared.space.look();
        // A store that nobody wrote to is left as it was, and so is one on a card that others hold.
        let saved = if self.instant > 0 && self.shared.lack(Allowed::Deletes).is_none() {
            let changes = self.clock_changes();
            self.store.commit(changes.into(), true)
        } else {
            Ok(())
        };
        saved.and_then(|()| self.store.close()).inspect_err(|error| self.give_up(WRITE_FAILED, error))
    }
}
