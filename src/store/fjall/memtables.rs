//! What memtables really hold in memory: fjall frees one only when it is flushed and no snapshot may look into it.
//!
//! It owns none of them, and it decides nothing.

use std::sync::{Arc, Weak};

use fjall::{AbstractTree, Keyspace};
use lsm_tree::Memtable;
use parking_lot::Mutex;

/// The sealed memtables that are still in memory.
#[derive(Default)]
pub(super) struct Sealed(Mutex<Vec<(Weak<Memtable>, u64)>>);

impl Sealed {
    /// Remembers a memtable that is about to be sealed.
    pub(super) fn note(&self, memtable: &Arc<Memtable>) {
        let mut sealed = self.0.lock();
        sealed.retain(|(memtable, _)| memtable.strong_count() > 0);
        sealed.push((Arc::downgrade(memtable), memtable.size()));
    }

    /// Their bytes, waiting for the flush or for a snapshot to end.
    pub(super) fn bytes(&self) -> u64 {
        self.0.lock().iter().filter(|(memtable, _)| memtable.strong_count() > 0).map(|(_, bytes)| bytes).sum()
    }
}

/// The bytes of the memtable that takes the writes.
pub(super) fn active_bytes(keyspace: &Keyspace) -> u64 {
    keyspace.tree.active_memtable().size()
}
