//! What memtables really hold in memory: fjall frees one only when it is flushed and no snapshot may look into it. And
//! which of them a reader has to look into, beside the tables.
//!
//! It owns none of them.
//! Invariant: all memtables that were sealed since the opening were sealed by [`Sealed::rotate`].

use std::sync::{Arc, Weak};

use fjall::{AbstractTree, Keyspace};
use lsm_tree::Memtable;
use parking_lot::{Mutex, MutexGuard};

/// The memtables of one keyspace that were sealed since it was opened and are still in memory, in that order.
#[derive(Default)]
pub(super) struct Sealed(Mutex<Vec<Entry>>);

struct Entry {
    memtable: Weak<Memtable>,
    bytes: u64,
}

impl Sealed {
    /// Seals the memtable that takes the writes, if it holds any. It is flushed in the background.
    pub(super) fn rotate(&self, keyspace: &Keyspace) -> fjall::Result<()> {
        // IMPORTANT: under the lock, so that what was active before is what is sealed then.
        let mut sealed = self.0.lock();
        sealed.retain(|entry| entry.memtable.strong_count() > 0);
        let active = keyspace.tree.active_memtable();
        if keyspace.rotate_memtable()? {
            sealed.push(Entry { memtable: Arc::downgrade(&active), bytes: active.size() });
        }
        Ok(())
    }

    /// Their bytes, waiting for the flush or for a snapshot to end.
    pub(super) fn bytes(&self) -> u64 {
        let sealed = self.0.lock();
        sealed.iter().filter(|entry| entry.memtable.strong_count() > 0).map(|entry| entry.bytes).sum()
    }

    /// Nothing is sealed while this is held; what is sealed may be flushed.
    pub(super) fn hold(&self) -> Held<'_> {
        Held(self.0.lock())
    }
}

/// See [`Sealed::hold`].
pub(super) struct Held<'a>(MutexGuard<'a, Vec<Entry>>);

impl Held<'_> {
    /// The `count` that were sealed last, without those that are gone from memory: they are flushed. `None` if so many
    /// were not sealed since the opening.
    pub(super) fn last(&self, count: usize) -> Option<Vec<Arc<Memtable>>> {
        let from = self.0.len().checked_sub(count)?;
        Some(self.0[from..].iter().filter_map(|entry| entry.memtable.upgrade()).collect())
    }
}

/// The bytes of the memtable that takes the writes.
pub(super) fn active_bytes(keyspace: &Keyspace) -> u64 {
    keyspace.tree.active_memtable().size()
}
