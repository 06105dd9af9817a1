//! When the shared snapshot of an idle store is renewed. A snapshot keeps alive the tables it was opened on; a store
//! that compacts while nobody writes would keep old and new ones on the card.
//!
//! Renewing costs no disk, but waking up costs a little: every second while the tables change, now and then else.

use std::time::{Duration, Instant};

use crate::store::StoreFigures;

/// Between two looks while the tables change.
const LOOK_BUSY: Duration = Duration::from_secs(1);
/// Between two looks at a store at rest.
const LOOK_IDLE: Duration = Duration::from_secs(10);
/// A store whose tables have not changed for so long is at rest.
const REST: Duration = Duration::from_secs(60);

/// What the last look saw, and when the next one is due.
pub(super) struct Renewal {
    due: Instant,
    changed: Instant,
    seen: (u64, u64, u64),
}

impl Renewal {
    pub(super) fn new(now: Instant) -> Renewal {
        Renewal { due: now + LOOK_BUSY, changed: now, seen: (0, 0, 0) }
    }

    /// When to look next.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// A commit has just put a new snapshot in place, and may have set flushes and compactions going.
    pub(super) fn committed(&mut self, now: Instant) {
        (self.changed, self.due) = (now, now + LOOK_BUSY);
    }

    /// Looks: whether the tables have changed since the last look.
    pub(super) fn look(&mut self, now: Instant, figures: &StoreFigures) -> bool {
        let seen = (figures.tables, figures.compactions, figures.disk_bytes);
        let has_changed = std::mem::replace(&mut self.seen, seen) != seen;
        if has_changed {
            self.changed = now;
        }
        self.due = now + if now.duration_since(self.changed) < REST { LOOK_BUSY } else { LOOK_IDLE };
        has_changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_snapshot_is_renewed_only_when_tables_have_changed() {
        let start = Instant::now();
        let mut renewal = Renewal::new(start);
        let mut figures = StoreFigures { tables: 3, ..StoreFigures::default() };
        assert!(renewal.look(start, &figures));
        assert!(!renewal.look(start, &figures));
        figures.compactions = 1;
        assert!(renewal.look(start, &figures));
    }

    #[test]
    fn looks_grow_rare_once_the_tables_rest_and_frequent_when_they_change() {
        let start = Instant::now();
        let mut renewal = Renewal::new(start);
        let mut figures = StoreFigures::default();
        renewal.look(start, &figures);
        assert_eq!(renewal.due(), start + LOOK_BUSY);
        let later = start + REST;
        renewal.look(later, &figures);
        assert_eq!(renewal.due(), later + LOOK_IDLE);
        figures.tables = 1;
        renewal.look(later, &figures);
        assert_eq!(renewal.due(), later + LOOK_BUSY);
        renewal.look(later + REST, &figures);
        renewal.committed(later + REST);
        assert_eq!(renewal.due(), later + REST + LOOK_BUSY);
    }
}
