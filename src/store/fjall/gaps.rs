//! Where a damaged block of a table begins and ends: the keys around it, so that a walk can go on behind it.
//!
//! fjall's merged iterators drop the table whose next block cannot be read, with all of the table that follows, and a
//! key or two of its neighbours: after an error they are of no further use. A table's own iterator goes on with the next
//! block. So the tables are looked at one by one here, together in the order of their keys.
//! Invariant: what lies outside a gap is untouched by the damaged block, and a gap is never empty.

use std::ops::Bound::{self, Included};

use bytes::Bytes;
use fjall::{AbstractTree, Keyspace};
use lsm_tree::{InternalValue, Table, UserKey};

use crate::store::bounds::{self, KeyRange};

/// The damage is close to where the walk stopped. It is given up for lost after so many entries.
const ENTRIES_MAX: usize = 100_000;
/// No key of larder's is longer.
const KEY_BYTES_MAX: usize = 1024;

/// What stands around a stretch of keys that cannot be read, in byte order.
pub(super) struct Gap {
    /// The part of the walk's range below it, but for the last key.
    pub(super) below: KeyRange,
    /// The last key below it, if the table has one there. To be read alone: an iterator over a range that ends with the
    /// last key of a block reads the next block too.
    pub(super) last_below: Option<Bytes>,
    /// The part of the walk's range above it.
    pub(super) above: KeyRange,
}

type Entries = Box<dyn DoubleEndedIterator<Item = Result<InternalValue, lsm_tree::Error>> + Send>;

/// A table on the way of the walk.
struct Head {
    table: Table,
    /// Opened when its turn comes: that reads a block.
    entries: Option<Entries>,
    /// The last entry read, else the first that there can be.
    at: UserKey,
    has_read: bool,
}

impl Head {
    fn new(table: Table, reverse: bool) -> Head {
        let keys = &table.metadata.key_range;
        let at = if reverse { keys.max().clone() } else { keys.min().clone() };
        Head { at, entries: None, has_read: false, table }
    }

    fn step(&mut self, range: &KeyRange, reverse: bool) -> Option<Result<UserKey, lsm_tree::Error>> {
        let open = || -> Entries {
            let key = |bound: &Bound<Bytes>| bound.as_ref().map(|key| UserKey::from(&key[..]));
            Box::new(self.table.range((key(&range.0), key(&range.1))))
        };
        let entries = self.entries.get_or_insert_with(open);
        let entry = if reverse { entries.next_back() } else { entries.next() };
        entry.map(|entry| entry.map(|entry| entry.key.user_key))
    }

    /// The gap that has just been met: up to the next entry of this table that can be read.
    fn gap(mut self, range: &KeyRange, reverse: bool) -> Gap {
        let near = self.has_read.then(|| self.at.clone());
        let far = (0..ENTRIES_MAX).map_while(|_| self.step(range, reverse)).find_map(Result::ok);
        let (below, above) = if reverse { (far, near) } else { (near, far) };
        let keys = &self.table.metadata.key_range;
        let first_above = match above {
            // The damaged block may end with an older version of the same key: a walk from there would meet it again.
            Some(key) if Included(&key[..]) == bounds::borrowed(range).0 => next_key(&key),
            Some(key) => key.into(),
            None => next_key(keys.max()),
        };
        Gap {
            below: (range.0.clone(), Included(key_before(below.as_ref().unwrap_or(keys.min())))),
            last_below: below.map(Bytes::from),
            above: (Included(first_above), range.1.clone()),
        }
    }
}

/// The first gap that a walk over this range meets, if there is one.
pub(super) fn first(keyspace: &Keyspace, range: &KeyRange, reverse: bool) -> Option<Gap> {
    let borrowed = bounds::borrowed(range);
    let version = keyspace.tree.current_version();
    let overlaps = |table: &&Table| table.metadata.key_range.overlaps_with_bounds(&borrowed);
    let mut heads: Vec<Head> =
        version.iter_tables().filter(overlaps).map(|table| Head::new(table.clone(), reverse)).collect();
    for _ in 0..ENTRIES_MAX {
        let places = heads.iter().enumerate();
        let (place, _) = match reverse {
            true => places.max_by(|one, other| one.1.at.cmp(&other.1.at))?,
            false => places.min_by(|one, other| one.1.at.cmp(&other.1.at))?,
        };
        match heads[place].step(range, reverse) {
            Some(Ok(key)) => (heads[place].at, heads[place].has_read) = (key, true),
            Some(Err(_)) => return Some(heads.swap_remove(place).gap(range, reverse)),
            None => drop(heads.swap_remove(place)),
        }
    }
    None
}

/// The first key behind this one.
fn next_key(key: &[u8]) -> Bytes {
    [key, &[0]].concat().into()
}

/// A key below this one, with no stored key between them.
fn key_before(key: &[u8]) -> Bytes {
    let mut before = key.to_vec();
    if let Some(last @ 1..) = before.pop() {
        before.push(last - 1);
        before.resize(before.len() + KEY_BYTES_MAX, 0xff);
    }
    before.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_lies_between_a_key_and_its_neighbours() {
        for key in [&b"a"[..], b"a\0", b"\x01b\x01", b"\x01"] {
            let (before, next) = (key_before(key), next_key(key));
            assert!(before[..] < *key && *key < next[..]);
            let longest_below = [&key[..key.len() - 1], &[key[key.len() - 1].saturating_sub(1)], &[0xfe; 700]].concat();
            assert!(longest_below[..] >= *key || longest_below[..] <= before[..], "{key:?}");
        }
    }
}
