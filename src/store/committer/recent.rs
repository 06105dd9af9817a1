//! Which keys were written lately, so that a worker's pre-read is believed only if nothing has overtaken it.
//!
//! Invariant: every write after the floor is in the map; a pre-read from before the floor is never believed.

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::store::FullKey;

/// Keys of one generation; two are kept.
const GENERATION_KEYS: usize = 4096;

type Instants = HashMap<FullKey, u64, RandomState>;

/// The instants at which keys were last written.
#[derive(Default)]
pub(super) struct RecentWrites {
    young: Instants,
    old: Instants,
    /// The last instant of which writes may be missing.
    floor: u64,
    /// The last instant of the old generation.
    old_end: u64,
}

impl RecentWrites {
    /// Notes that the commit that made `instant` wrote this key.
    pub(super) fn note(&mut self, key: &FullKey, instant: u64) {
        if self.young.len() >= GENERATION_KEYS && !self.young.contains_key(key) {
            self.floor = self.old_end;
            self.old_end = instant;
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key.clone(), instant);
    }

    /// Whether what was read of a key at `instant` still stands.
    pub(super) fn still_stands(&self, key: &FullKey, instant: u64) -> bool {
        let written = self.young.get(key).or_else(|| self.old.get(key));
        instant >= self.floor && written.is_none_or(|&written| written <= instant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: usize) -> FullKey {
        FullKey::new("n", "c", &n.to_string())
    }

    #[test]
    fn a_preread_from_before_the_last_write_does_not_stand() {
        let mut recent = RecentWrites::default();
        recent.note(&key(1), 7);
        assert!(!recent.still_stands(&key(1), 6));
        assert!(recent.still_stands(&key(1), 7));
        assert!(recent.still_stands(&key(2), 0));
    }

    #[test]
    fn what_was_forgotten_is_never_believed() {
        let mut recent = RecentWrites::default();
        for n in 0..5 * GENERATION_KEYS {
            recent.note(&key(n), n as u64 + 1);
            assert!(!recent.still_stands(&key(n), n as u64));
            assert!(!recent.still_stands(&key(0), 0), "forgotten at {n}");
        }
        assert!(recent.young.len() + recent.old.len() <= 2 * GENERATION_KEYS);
    }

    #[test]
    fn a_group_that_spans_two_generations_is_remembered_whole() {
        let mut recent = RecentWrites::default();
        for n in 0..GENERATION_KEYS + 10 {
            recent.note(&key(n), 1);
        }
        for n in 0..2 * GENERATION_KEYS {
            recent.note(&key(10_000 + n), 2);
        }
        for n in 0..GENERATION_KEYS + 10 {
            assert!(!recent.still_stands(&key(n), 0), "{n}");
        }
    }
}
