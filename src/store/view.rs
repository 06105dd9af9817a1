//! The shared snapshot that all reads use, and its place in time.
//!
//! Invariant: only the committer's thread opens snapshots, after one commit has returned and before the next begins; a
//! view with instant `i` holds every commit up to the `i`-th and nothing of a later one.

use std::sync::Arc;

use parking_lot::RwLock;

use super::{FullKey, Record, Snapshot, Space, StoreError, record};

/// The store as it stood at one instant. Cheap to clone; holding one for long keeps old tables on the card.
#[derive(Clone)]
pub struct View {
    /// The data and log as of then.
    pub snapshot: Arc<dyn Snapshot>,
    /// How many commits it holds, counted since start.
    pub instant: u64,
}

impl View {
    /// The record of a key, expired ones included.
    pub fn read(&self, key: &FullKey) -> Result<Option<Record>, StoreError> {
        self.snapshot.get(Space::Data, key.as_bytes())?.map(record::decode).transpose()
    }
}

/// Where the present view is found. The lock is held for a clone or a swap, never over the disk.
pub(super) struct ViewCell(RwLock<View>);

impl ViewCell {
    pub(super) fn new(view: View) -> ViewCell {
        ViewCell(RwLock::new(view))
    }

    pub(super) fn get(&self) -> View {
        self.0.read().clone()
    }

    /// Puts a new view in place. The old one is dropped outside the lock: its end may free tables.
    pub(super) fn set(&self, view: View) {
        let old = std::mem::replace(&mut *self.0.write(), view);
        drop(old);
    }
}
