//! Two entries at the ends of each keyspace, below and above every key that larder stores.
//!
//! They carry nothing. fjall merges a table into the next level only where that level's tables span it: one deleted
//! key beyond their ends, and the whole table stays above for good, together with all the data it hides below. Entries
//! at both ends make the last level span everything.
//! Invariant: nobody above this module ever sees them.

use std::ops::Bound;
use std::time::{Duration, Instant};

use fjall::{AbstractTree, Database, Keyspace, PersistMode};

use super::error::from_fjall;
use crate::store::StoreError;

/// Below every key.
pub(super) const LOWER: &[u8] = &[0x00];
/// Above every key: records and metadata begin with a small type byte, change log entries with a version.
pub(super) const UPPER: &[u8] = &[0xff; 16];

/// Planting stops waiting for a flush after this; the entries are then in a common table, which is as good.
const FLUSH_MAX: Duration = Duration::from_secs(2);
const WAIT_STEP: Duration = Duration::from_millis(1);

/// Whether larder may store this key.
pub(super) fn spans(key: &[u8]) -> bool {
    LOWER < key && key < UPPER
}

/// The part of a range between the edges.
pub(super) fn within<'a>(range: (Bound<&'a [u8]>, Bound<&'a [u8]>)) -> (Bound<&'a [u8]>, Bound<&'a [u8]>) {
    let start = match range.0 {
        Bound::Included(start) | Bound::Excluded(start) if start > LOWER => range.0,
        _ => Bound::Excluded(LOWER),
    };
    let end = match range.1 {
        Bound::Included(end) | Bound::Excluded(end) if end < UPPER => range.1,
        _ => Bound::Excluded(UPPER),
    };
    (start, end)
}

/// Stores the entries where they are missing, each in a table of its own, which fjall then moves about without
/// rewriting what lies between. Only while the keyspace is being opened.
pub(super) fn plant(db: &Database, keyspace: &Keyspace) -> Result<(), StoreError> {
    for edge in [LOWER, UPPER] {
        if keyspace.get(edge).map_err(from_fjall)?.is_some() {
            continue;
        }
        keyspace.insert(edge, []).map_err(from_fjall)?;
        db.persist(PersistMode::SyncData).map_err(from_fjall)?;
        keyspace.rotate_memtable().map_err(from_fjall)?;
        let deadline = Instant::now() + FLUSH_MAX;
        while keyspace.tree.sealed_memtable_count() > 0 && Instant::now() < deadline {
            std::thread::sleep(WAIT_STEP);
        }
    }
    Ok(())
}

/// Writes the lower entry anew.
///
/// At a start fjall skips what the journals hold below the highest sequence number in the tables. Merging tombstones
/// away lowers that number, and the start would take all of them from the journals into memory again. An entry that
/// is never merged away keeps it up, once it is flushed. It carries nothing, so it needs no order with the commits; it is
/// synced because a batch that is not, with others behind it, would look like damage after a power cut.
pub(super) fn renew(db: &Database, keyspace: &Keyspace) -> fjall::Result<()> {
    keyspace.insert(LOWER, [])?;
    db.persist(PersistMode::SyncData)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Bound::{Excluded, Included, Unbounded};

    #[test]
    fn a_range_is_cut_to_what_lies_between_the_edges() {
        let all = (Excluded(LOWER), Excluded(UPPER));
        assert_eq!(within((Unbounded, Unbounded)), all);
        assert_eq!(within((Included(LOWER), Included(UPPER))), all);
        assert_eq!(within((Included(b""), Excluded(&[0xff; 20]))), all);
        assert_eq!(within((Included(b"a"), Unbounded)), (Included(&b"a"[..]), Excluded(UPPER)));
        assert_eq!(within((Unbounded, Included(b"a"))), (Excluded(LOWER), Included(&b"a"[..])));
    }

    #[test]
    fn every_key_that_larder_makes_lies_between_the_edges() {
        for key in [&[0x01][..], &[0x02], &[0x00, 0x00], &[0xff], &(1u64 << 53).to_be_bytes(), &[0; 8]] {
            assert!(spans(key), "{key:?}");
        }
        for key in [LOWER, UPPER, b"", &[0xff; 17]] {
            assert!(!spans(key), "{key:?}");
        }
    }
}
