//! The snapshots that are open, so that what none of them can see is freed soon, and so that a forgotten one cannot
//! take all memory.
//!
//! fjall keeps each memtable in memory, flushed or not, for as long as a snapshot may have to look into it: under
//! writes a snapshot held for minutes costs as much memory as was written since. So snapshots can be *revoked*: one
//! that has grown old while much was written gives errors from then on, and so do the iterators from it.
//! It opens no snapshot by itself. The newest one is what everybody reads from, and is never revoked.
//! Invariant: [`Views::oldest_instant`] is never above the instant of any snapshot or iterator that still reads.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use fjall::{Database, Guard, Iter, Keyspace, Readable};
use lsm_tree::UserValue;
use parking_lot::{Mutex, RwLock};

use super::error::{from_fjall, from_lsm};
use super::point::Point;
use super::{Keyspaces, Space};
use crate::store::StoreError;

/// Younger snapshots are never revoked: reads that are under way end within this time.
const REVOCABLE_AGE: Duration = Duration::from_secs(2);

/// The register of open views.
#[derive(Default)]
pub(super) struct Views {
    /// By instant, then in no order. Protects nothing but itself; held for no I/O.
    open: Mutex<BTreeMap<u64, Vec<Weak<OpenView>>>>,
    revoked: AtomicU64,
}

impl Views {
    pub(super) fn open(&self, db: &Database, keyspaces: &Keyspaces) -> Arc<OpenView> {
        let mut open = self.open.lock();
        // IMPORTANT: under the lock, so that nobody computes the oldest instant between the two.
        let snapshot = db.snapshot();
        let instant = snapshot.seqno();
        let opened = Arc::new(OpenView {
            opened_at: Instant::now(),
            view: RwLock::new(Some(Reading { snapshot, data: None })),
            walks: Mutex::default(),
            revoked: AtomicBool::new(false),
        });
        open.retain(|_, views| {
            views.retain(|view| view.strong_count() > 0);
            !views.is_empty()
        });
        open.entry(instant).or_default().push(Arc::downgrade(&opened));
        drop(open);
        if let Some(reading) = opened.view.write().as_mut() {
            reading.data = Point::new(keyspaces.of(Space::Data), &keyspaces.memtables[0]);
        }
        opened
    }

    /// How many were revoked.
    pub(super) fn revoked(&self) -> u64 {
        self.revoked.load(Ordering::Relaxed)
    }

    /// Versions that no view from this instant on needs may go.
    pub(super) fn oldest_instant(&self, db: &Database) -> u64 {
        let open = self.open.lock();
        let reads = |views: &[Weak<OpenView>]| views.iter().filter_map(Weak::upgrade).any(|view| view.reads());
        open.iter().find(|(_, views)| reads(views)).map_or_else(|| db.visible_seqno(), |(instant, _)| *instant)
    }

    /// Revokes the oldest view, if it is old enough and not the newest as well; `false` if there is none.
    pub(super) fn revoke_oldest(&self) -> bool {
        let open = self.open.lock();
        let mut reading = open.values().flatten().filter_map(Weak::upgrade).filter(|view| view.reads());
        let (oldest, has_newer) = (reading.next(), reading.next().is_some());
        // IMPORTANT: to revoke may wait for a read, and the end of a view may free tables.
        drop(reading);
        drop(open);
        match oldest {
            Some(view) if has_newer && view.opened_at.elapsed() >= REVOCABLE_AGE => {
                view.revoke();
                self.revoked.fetch_add(1, Ordering::Relaxed);
                true
            }
            _ => false,
        }
    }
}

/// A snapshot of fjall's.
pub(super) struct Reading {
    pub(super) snapshot: fjall::Snapshot,
    /// The state of the keyspace in which single keys are looked up all the time; the log is walked.
    data: Option<Point>,
}

impl Reading {
    /// The value under a key.
    pub(super) fn get(&self, keyspaces: &Keyspaces, space: Space, key: &[u8]) -> Result<Option<UserValue>, StoreError> {
        let by_snapshot = || self.snapshot.get(keyspaces.of(space), key).map_err(from_fjall);
        let Some(point) = self.data.as_ref().filter(|_| space == Space::Data) else { return by_snapshot() };
        let found = point.get(key, self.snapshot.seqno()).map_err(from_lsm);
        if cfg!(debug_assertions)
            && let (Ok(found), Ok(other)) = (&found, by_snapshot())
        {
            assert_eq!(found, &other, "the two ways to read a key differ");
        }
        found
    }
}

/// A snapshot that can be taken away.
pub(super) struct OpenView {
    opened_at: Instant,
    view: RwLock<Option<Reading>>,
    walks: Mutex<Vec<Weak<Walk>>>,
    /// Set when snapshot and iterators are gone.
    revoked: AtomicBool,
}

impl OpenView {
    /// Reads from the snapshot.
    pub(super) fn with<T>(&self, read: impl FnOnce(&Reading) -> T) -> Result<T, StoreError> {
        self.view.read().as_ref().map(read).ok_or(StoreError::Revoked)
    }

    fn reads(&self) -> bool {
        !self.revoked.load(Ordering::Acquire)
    }

    /// Waits for reads that are under way. Those that come later fail.
    fn revoke(&self) {
        drop(self.view.write().take());
        for walk in self.walks.lock().drain(..).filter_map(|walk| walk.upgrade()) {
            drop(walk.lock().take());
        }
        self.revoked.store(true, Ordering::Release);
    }
}

/// An iterator of fjall's. The lock is its owner's all the time, but for a revocation.
type Walk = Mutex<Option<Iter>>;

/// The entries of a range, for as long as their view is not revoked.
pub(super) struct Entries {
    walk: Arc<Walk>,
    reverse: bool,
    /// Keeps the view in the register.
    _view: Arc<OpenView>,
}

impl Entries {
    pub(super) fn open(
        view: Arc<OpenView>,
        keyspace: &Keyspace,
        range: (Bound<&[u8]>, Bound<&[u8]>),
        reverse: bool,
    ) -> Result<Entries, StoreError> {
        // IMPORTANT: the snapshot stays locked until the iterator is in the list that a revocation walks.
        let snapshot = view.view.read();
        let entries = snapshot.as_ref().ok_or(StoreError::Revoked)?.snapshot.range::<&[u8], _>(keyspace, range);
        let walk = Arc::new(Mutex::new(Some(entries)));
        let mut walks = view.walks.lock();
        walks.retain(|walk| walk.strong_count() > 0);
        walks.push(Arc::downgrade(&walk));
        drop((walks, snapshot));
        Ok(Entries { walk, reverse, _view: view })
    }
}

impl Iterator for Entries {
    type Item = Result<Guard, StoreError>;

    fn next(&mut self) -> Option<Result<Guard, StoreError>> {
        match self.walk.lock().as_mut() {
            Some(entries) if self.reverse => entries.next_back().map(Ok),
            Some(entries) => entries.next().map(Ok),
            None => Some(Err(StoreError::Revoked)),
        }
    }
}
