//! Expiries that were computed before the clock was right. A board without a battery clock begins with a guess; what is
//! written for a minute then would expire the moment the clock is set. So these records are moved along with it, once.
//!
//! Invariant: a record is moved only if its own expiry (not one it kept from an earlier record) was computed by the
//! guessed clock.

use foldhash::fast::RandomState;
use hashbrown::{HashMap, HashSet};

use super::overlay::Overlay;
use crate::store::FullKey;

/// Records remembered; of more than these, later ones keep the expiry they have.
const RECORDS_MAX: usize = 10_000;

/// The records to be moved.
#[derive(Default)]
pub(super) struct Provisional {
    /// The version of each key's record, as far as it is to be moved.
    records: HashMap<FullKey, u64, RandomState>,
    /// The same for the group in hand.
    fresh: HashSet<u64, RandomState>,
}

impl Provisional {
    /// Notes that the record with this version got its expiry from the guessed clock.
    pub(super) fn note(&mut self, version: u64) {
        self.fresh.insert(version);
    }

    /// Notes that a record keeps the expiry of the one before.
    pub(super) fn inherit(&mut self, key: &FullKey, from: u64, version: u64) {
        if self.fresh.contains(&from) || self.records.get(key) == Some(&from) {
            self.fresh.insert(version);
        }
    }

    /// Forgets the versions after this one: their request was taken back.
    pub(super) fn rewind(&mut self, last: u64) {
        self.fresh.retain(|version| *version <= last);
    }

    /// Keeps of the group in hand what now stands.
    pub(super) fn committed(&mut self, overlay: &Overlay) {
        for (key, record) in overlay.changes() {
            match record {
                Some(record) if self.fresh.contains(&record.version) => {
                    if self.records.len() < RECORDS_MAX || self.records.contains_key(key) {
                        self.records.insert(key.clone(), record.version);
                    }
                }
                _ => drop(self.records.remove(key)),
            }
        }
        self.fresh.clear();
    }

    /// The records to be moved, each with the version it must still have.
    pub(super) fn into_records(self) -> impl Iterator<Item = (FullKey, u64)> {
        self.records.into_iter()
    }
}
