//! How long the committer waits for company after it has handed out replies.
//!
//! Clients answered by one group would miss the next one, and two cohorts would take turns, each sync carrying half. So
//! the committer waits until as many wait as waited when it replied, plus nine tenths of those it has just answered: at
//! most 2 ms or a quarter of a sync, and never when the last group was a single request.

use std::time::Duration;

use crate::limits::GROUP_OPERATIONS_MAX;

/// The longest wait.
const GATHER_MAX: Duration = Duration::from_millis(2);
/// A shorter wait is not worth a timer.
const GATHER_MIN: Duration = Duration::from_micros(50);

/// What the last group was like.
#[derive(Default)]
pub(super) struct Gather {
    sync: Option<Duration>,
    last_group: usize,
    waited: usize,
}

/// Wait until so many wait, but no longer than this.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wait {
    pub(super) target: usize,
    pub(super) limit: Duration,
}

impl Gather {
    /// Notes how long a synced commit took.
    pub(super) fn synced(&mut self, took: Duration) {
        self.sync = Some(self.sync.map_or(took, |mean| (mean * 7 + took) / 8));
    }

    /// Notes a synced group that was answered while `waited` others already waited.
    pub(super) fn answered(&mut self, requests: usize, waited: usize) {
        (self.last_group, self.waited) = (requests, waited);
    }

    /// Whether and how long to wait before the next group. Each answered group is waited for once.
    pub(super) fn plan(&mut self) -> Option<Wait> {
        let last_group = std::mem::take(&mut self.last_group);
        let limit = (self.sync? / 4).min(GATHER_MAX);
        if last_group <= 1 || limit < GATHER_MIN {
            return None;
        }
        let target = self.waited + (last_group * 9).div_ceil(10);
        Some(Wait { target: target.min(GROUP_OPERATIONS_MAX), limit })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(sync_ms: u64, requests: usize, waited: usize) -> Option<Wait> {
        let mut gather = Gather::default();
        gather.synced(Duration::from_millis(sync_ms));
        gather.answered(requests, waited);
        gather.plan()
    }

    #[test]
    fn a_group_of_one_is_never_followed_by_a_wait() {
        assert_eq!(after(8, 1, 0), None);
        assert_eq!(after(8, 1, 5), None);
    }

    #[test]
    fn the_wait_ends_at_those_who_waited_plus_nine_tenths() {
        assert_eq!(after(8, 64, 3).map(|wait| wait.target), Some(3 + 58));
        assert_eq!(after(8, 2, 0).map(|wait| wait.target), Some(2));
        let most = GROUP_OPERATIONS_MAX;
        assert_eq!(after(8, most, most / 2).map(|wait| wait.target), Some(most));
    }

    #[test]
    fn the_wait_is_a_quarter_of_a_sync_and_at_most_two_milliseconds() {
        assert_eq!(after(4, 64, 0).map(|wait| wait.limit), Some(Duration::from_millis(1)));
        assert_eq!(after(100, 64, 0).map(|wait| wait.limit), Some(Duration::from_millis(2)));
        assert_eq!(after(0, 64, 0), None);
    }

    #[test]
    fn one_group_is_waited_for_once() {
        let mut gather = Gather::default();
        gather.synced(Duration::from_millis(8));
        gather.answered(64, 0);
        assert!(gather.plan().is_some());
        assert_eq!(gather.plan(), None);
    }
}
