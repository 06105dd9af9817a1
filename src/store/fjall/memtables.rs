//! The memtables of one keyspace: what they really hold in memory (fjall frees one only when it is flushed and no
//! snapshot may look into it), and which of them a reader has to look into, beside the tables.
//!
//! It owns none of them, and it does not say who seals them: larder does between commits, and fjall does by itself when
//! its journals have grown too much.
//! Invariant: [`Known::unflushed`] names every memtable with entries that are in no table, or it names nothing. The proof
//! lies in their ids: fjall numbers memtables without gaps, and it flushes them in that order.

use std::sync::{Arc, Weak};

use fjall::{AbstractTree, Keyspace};
use lsm_tree::{Memtable, MemtableId};
use parking_lot::Mutex;

/// What was seen of a keyspace's memtables since it was opened.
#[derive(Default)]
pub(super) struct Memtables(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// In the order in which they took the writes. The last one took them at the last look.
    seen: Vec<(MemtableId, Weak<Memtable>)>,
    /// Every memtable before this one is flushed, and every one from here on was seen. `None`: that is not known.
    complete_from: Option<MemtableId>,
}

impl Memtables {
    /// Takes note of what takes the writes, before more of it can be sealed unseen.
    pub(super) fn look(&self, keyspace: &Keyspace) {
        self.0.lock().look(keyspace);
    }

    /// Bytes of those that are sealed and still in memory, waiting for the flush or for a snapshot to end.
    pub(super) fn sealed_bytes(&self) -> u64 {
        let known = self.0.lock();
        let sealed = known.seen.split_last().map_or(&[][..], |(_, sealed)| sealed);
        sealed.iter().filter_map(|(_, memtable)| memtable.upgrade()).map(|memtable| memtable.size()).sum()
    }

    /// Those that may hold entries which no table holds, the youngest first. `None` if there may be others: some that
    /// were sealed before the opening, or between two looks, and wait for their flush.
    pub(super) fn unflushed(&self, keyspace: &Keyspace) -> Option<Vec<Arc<Memtable>>> {
        self.0.lock().unflushed(keyspace)
    }
}

impl Known {
    fn look(&mut self, keyspace: &Keyspace) -> Arc<Memtable> {
        let active = keyspace.tree.active_memtable();
        let last = self.seen.last().map(|(id, _)| *id);
        if last != Some(active.id()) {
            self.seen.retain(|(_, memtable)| memtable.strong_count() > 0);
            self.seen.push((active.id(), Arc::downgrade(&active)));
            if last.is_none_or(|last| last + 1 != active.id()) {
                self.complete_from = None;
            }
        }
        // IMPORTANT: what takes the writes was asked for before. So whatever came before it was sealed by now, and with
        // nothing sealed it is flushed.
        if self.complete_from.is_none() && keyspace.tree.sealed_memtable_count() == 0 {
            self.complete_from = Some(active.id());
        }
        active
    }

    fn unflushed(&mut self, keyspace: &Keyspace) -> Option<Vec<Arc<Memtable>>> {
        let active = self.look(keyspace);
        let complete_from = self.complete_from?;
        // Counted after the look: one more at most than wait before what takes the writes.
        let waiting = keyspace.tree.sealed_memtable_count();
        let sealed = self.seen.iter().rev().skip(1).take(waiting).take_while(|(id, _)| *id >= complete_from);
        // One that is gone was flushed, and so were those before it.
        let sealed = sealed.map_while(|(_, memtable)| memtable.upgrade());
        Some(std::iter::once(active).chain(sealed).collect())
    }
}

/// The bytes of the memtable that takes the writes.
pub(super) fn active_bytes(keyspace: &Keyspace) -> u64 {
    keyspace.tree.active_memtable().size()
}
