//! Reads of single keys that wait for nobody.
//!
//! fjall looks up the present state of the tables for each read, under a lock that a flush or a compaction holds while
//! it syncs its new state of the tables to the card: five syncs, tens of milliseconds. The state that a snapshot reads
//! does not change, so it is looked up once, when the snapshot is opened, and readers go on while the card syncs.
//!
//! It does not say which moment is read: that is the snapshot's sequence number.

use std::sync::Arc;

use fjall::{AbstractTree, Keyspace};
use lsm_tree::table::filter::standard_bloom;
use lsm_tree::{InternalValue, Memtable, SeqNo, UserValue};

use super::memtables::Memtables;

type Found = Result<Option<InternalValue>, lsm_tree::Error>;
/// Looks into the tables of one state, which have no name outside their crate.
type Tables = Box<dyn Fn(&[u8], SeqNo) -> Found + Send + Sync>;

/// The state of one keyspace: where its entries stood when it was looked up, and still stand for whoever holds this.
pub(super) struct Point {
    /// The youngest first.
    memtables: Vec<Arc<Memtable>>,
    tables: Tables,
}

impl Point {
    /// Looks up the present state. `None` if it cannot be told whether that is all of it.
    ///
    /// For snapshots that have been opened already: else what they must not miss could be merged away before.
    pub(super) fn new(keyspace: &Keyspace, memtables: &Memtables) -> Option<Point> {
        // IMPORTANT: memtables before tables. What is flushed in between is then in both, and never in neither.
        let memtables = memtables.unflushed(keyspace)?;
        let version = keyspace.tree.current_version();
        let tables = move |key: &[u8], seqno| {
            let hash = standard_bloom::Builder::get_hash(key);
            for table in version.iter_levels().flat_map(|level| level.iter()).filter_map(|run| run.get_for_key(key)) {
                if let Some(entry) = table.get(key, seqno, hash)? {
                    return Ok(Some(entry));
                }
            }
            Ok(None)
        };
        Some(Point { memtables, tables: Box::new(tables) })
    }

    /// The value under a key, as of the moment before `seqno`.
    pub(super) fn get(&self, key: &[u8], seqno: SeqNo) -> Result<Option<UserValue>, lsm_tree::Error> {
        let in_memory = self.memtables.iter().find_map(|memtable| memtable.get(key, seqno));
        let found = match in_memory {
            Some(entry) => Some(entry),
            None => (self.tables)(key, seqno)?,
        };
        Ok(found.filter(|entry| !entry.is_tombstone()).map(|entry| entry.value))
    }
}

#[cfg(test)]
#[path = "point_tests.rs"]
mod tests;
