//! What a test or a bench may ask of the memory store: the delays and failures of a real card.

use std::time::Duration;

/// How a commit or sync fails. From then on every commit and sync fails, as in fjall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The error comes, and the changes are not there.
    NotApplied,
    /// The error comes, and the changes are there all the same.
    Applied,
    /// The card is full; the changes are not there.
    NoSpace,
}

/// What goes wrong, and when.
#[derive(Debug, Default)]
pub struct Faults {
    /// Added to each sync, also to the one inside a synced commit.
    pub sync_delay: Duration,
    /// Added to each commit.
    pub commit_delay: Duration,
    /// Fails the commit after so many more have passed: `(0, …)` is the next one.
    pub fail_commit: Option<(u64, Failure)>,
    /// Fails the separate sync after so many more have passed.
    pub fail_sync: Option<u64>,
    /// No snapshot can be opened.
    pub fail_snapshots: bool,
    pub(super) broken: bool,
    pub(super) commits: u64,
    pub(super) syncs: u64,
}

impl Faults {
    pub(super) fn next_commit(&mut self, sync: bool) -> (Duration, Option<Failure>) {
        self.commits += 1;
        let delay = self.commit_delay + if sync { self.sync_delay } else { Duration::ZERO };
        if self.broken {
            return (Duration::ZERO, Some(Failure::NotApplied));
        }
        let failure = match &mut self.fail_commit {
            Some((0, failure)) => Some(*failure),
            Some((left, _)) => {
                *left -= 1;
                None
            }
            None => None,
        };
        self.broken |= failure.is_some();
        (delay, failure)
    }

    pub(super) fn next_sync(&mut self) -> (Duration, Option<Failure>) {
        self.syncs += 1;
        if self.broken {
            return (Duration::ZERO, Some(Failure::NotApplied));
        }
        match &mut self.fail_sync {
            Some(0) => {
                self.broken = true;
                (self.sync_delay, Some(Failure::NotApplied))
            }
            Some(left) => {
                *left -= 1;
                (self.sync_delay, None)
            }
            None => (self.sync_delay, None),
        }
    }
}
