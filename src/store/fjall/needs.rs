//! What the store needs of the card for what fjall does by itself: flushes, and the merges that these set going. One that
//! meets a full card would stop all writes until a restart.

use std::sync::atomic::{AtomicU64, Ordering};

use fjall::{AbstractTree, Keyspace};
use lsm_tree::Table;

use super::memtables::{Memtables, active_bytes};
use super::options::{FIRST_LEVEL_TABLES, LEVEL_RATIO, TABLE_BYTES};
use super::{FIRST_LEVEL_RUNS_MAX, Keyspaces};
use crate::store::space::{Allowed, Needs, SpaceWatch};

/// Tells the watch what is needed.
#[derive(Default)]
pub(super) struct Needing {
    /// Both keyspaces' table versions, added, when they were last looked at. Each only grows.
    versions_seen: AtomicU64,
    /// What the next merge may take, as it was then.
    merge_bytes: AtomicU64,
}

impl Needing {
    /// Between two commits. Cheap while no table comes or goes.
    pub(super) fn tell(&self, keyspaces: &Keyspaces, space: &SpaceWatch) {
        let versions = keyspaces.both().map(|keyspace| keyspace.tree.current_version().id() + 1);
        let versions = versions[0].wrapping_add(versions[1]);
        if self.versions_seen.swap(versions, Ordering::Relaxed) != versions {
            let merge_bytes = keyspaces.both().map(merge_bytes);
            self.merge_bytes.store(merge_bytes[0] + merge_bytes[1], Ordering::Relaxed);
        }
        // The committer would wait for a merge, and that one for room.
        let is_full = |keyspace: &Keyspace| keyspace.tree.l0_run_count() + 1 >= FIRST_LEVEL_RUNS_MAX;
        space.set_needs(Needs {
            flush_bytes: unflushed_bytes(keyspaces).max(1),
            merge_bytes: self.merge_bytes.load(Ordering::Relaxed),
            is_stuck: space.allowed() != Allowed::Writes && keyspaces.both().into_iter().any(is_full),
        });
    }
}

fn unflushed_bytes(keyspaces: &Keyspaces) -> u64 {
    let unflushed = |(keyspace, memtables): (&Keyspace, &Memtables)| {
        let sealed = if keyspace.tree.sealed_memtable_count() > 0 { memtables.sealed_bytes() } else { 0 };
        active_bytes(keyspace) + sealed
    };
    keyspaces.both().into_iter().zip(keyspaces.memtables.iter()).map(unflushed).sum()
}

/// Whether fjall merges the first level after the next flush.
pub(super) fn merges_next(keyspace: &Keyspace) -> bool {
    keyspace.l0_table_count() + 1 >= usize::from(FIRST_LEVEL_TABLES)
}

/// Bytes that fjall's own merge of the first level may write: it takes all of it, with what it overlaps of the next level
/// that holds anything. Where all that hold anything have outgrown their share, it goes into a new level above them: a
/// large last level alone is not rewritten.
pub(super) fn merge_bytes(keyspace: &Keyspace) -> u64 {
    let version = keyspace.tree.current_version();
    let first = version.l0();
    if first.is_empty() {
        return 0;
    }
    let range = first.aggregate_key_range();
    let bytes = |table: &Table| table.metadata.file_size;
    let levels: Vec<_> = version.iter_levels().skip(1).collect();
    let next = levels.iter().position(|level| !level.is_empty()).unwrap_or(0);
    let shares = (0..).map(|place| FIRST_LEVEL_TABLES as f32 * TABLE_BYTES as f32 * LEVEL_RATIO.powi(place));
    let goes_into_new = next > 0
        && levels[next..].iter().zip(shares).all(|(level, share)| {
            level.is_empty() || level.iter().flat_map(|run| run.iter()).map(bytes).sum::<u64>() as f32 > share
        });
    let into = (!goes_into_new).then_some(levels[next]);
    let overlapped: u64 =
        into.into_iter().flat_map(|level| level.iter()).flat_map(|run| run.get_overlapping(&range)).map(bytes).sum();
    // Tables that overlap nothing are moved.
    if overlapped == 0 && first.is_disjoint() {
        return 0;
    }
    overlapped + first.iter().flat_map(|run| run.iter()).map(bytes).sum::<u64>()
}
