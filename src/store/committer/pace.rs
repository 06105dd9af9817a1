//! How long a sync of the card takes lately, so that relaxed writes are on it in time: their sync has to begin early.
//!
//! It is a guess from the past. A card that suddenly takes longer than it has of late breaks the bound for the writes of
//! that moment, and the answers after it tell a longer one.

use std::time::Duration;

/// Syncs remembered. Some seconds under load, some minutes of a quiet board.
const SYNCS: usize = 32;
/// For whatever the committer is at when the moment comes.
const MARGIN: Duration = Duration::from_millis(5);

/// The durations of the last syncs.
#[derive(Default)]
pub(super) struct Pace {
    last: [Duration; SYNCS],
    next: usize,
}

impl Pace {
    /// Notes how long a sync took.
    pub(super) fn note(&mut self, took: Duration) {
        self.last[self.next] = took;
        self.next = (self.next + 1) % SYNCS;
    }

    /// The longest of the last ones, and a quarter more.
    fn expected(&self) -> Duration {
        self.last.iter().max().map_or(MARGIN, |longest| *longest * 5 / 4 + MARGIN)
    }

    /// How long a relaxed write may wait before its sync must begin.
    pub(super) fn wait_max(&self, interval: Duration) -> Duration {
        interval.saturating_sub(self.expected())
    }

    /// The most that a power cut can take of relaxed writes: a whole sync, where that is longer than the interval. In full
    /// tenths of a second above the interval.
    pub(super) fn loss_max(&self, interval: Duration) -> Duration {
        let expected = self.expected();
        if expected <= interval {
            return interval;
        }
        Duration::from_millis((expected.as_millis() as u64).div_ceil(100) * 100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(1);

    fn after(syncs_ms: &[u64]) -> (u64, u64) {
        let mut pace = Pace::default();
        syncs_ms.iter().for_each(|ms| pace.note(Duration::from_millis(*ms)));
        (pace.wait_max(INTERVAL).as_millis() as u64, pace.loss_max(INTERVAL).as_millis() as u64)
    }

    #[test]
    fn a_sync_begins_as_much_before_the_end_of_the_interval_as_syncs_take() {
        assert_eq!(after(&[]), (995, 1000));
        assert_eq!(after(&[8]), (985, 1000));
        assert_eq!(after(&[400, 8, 8]), (495, 1000), "the longest counts");
        assert_eq!(after(&[796]), (0, 1000));
    }

    #[test]
    fn a_sync_longer_than_the_interval_is_begun_at_once_and_told() {
        assert_eq!(after(&[800]), (0, 1100));
        assert_eq!(after(&[1500]), (0, 1900));
    }

    #[test]
    fn a_slow_sync_is_forgotten_after_many_quick_ones() {
        let slow_then_quick = [vec![1500], vec![8; SYNCS]].concat();
        assert_eq!(after(&slow_then_quick), (985, 1000));
        assert_eq!(after(&slow_then_quick[..SYNCS]), (0, 1900));
    }
}
