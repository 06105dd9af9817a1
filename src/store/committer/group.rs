//! What is committed together, from the queue to the replies.

use std::time::{Duration, Instant};

use super::overlay::Overlay;
use super::queue::{Answer, Pending};
use crate::limits::{GROUP_BYTES_MAX, GROUP_OPERATIONS_MAX};
use crate::store::{Durability, OpOutcome, Promise, WriteError, WriteOutcome};

/// Requests that will be committed together. The first may be of any size; others join within the bounds.
#[derive(Default)]
pub(super) struct Group {
    pub(super) requests: Vec<Pending>,
    pub(super) operations: usize,
    bytes: usize,
}

impl Group {
    /// Whether a request may join.
    pub(super) fn has_room_for(&self, request: &Pending) -> bool {
        self.requests.is_empty()
            || (self.operations + request.ops.len() <= GROUP_OPERATIONS_MAX
                && self.bytes + request.bytes <= GROUP_BYTES_MAX)
    }

    pub(super) fn add(&mut self, request: Pending) {
        self.operations += request.ops.len();
        self.bytes += request.bytes;
        self.requests.push(request);
    }
}

/// A request past its deadline is refused without being looked at.
pub(super) fn is_late(request: &Pending) -> bool {
    request.deadline.is_some_and(|deadline| Instant::now() >= deadline)
}

/// The outcome of one request, held back until the commit has returned.
pub(super) struct Held {
    pub(super) answer: Answer,
    pub(super) durability: Durability,
    pub(super) outcome: Result<(Vec<OpOutcome>, Option<usize>), WriteError>,
}

/// A group that has been computed: its changes, and the answers that must wait for them.
#[derive(Default)]
pub(super) struct Computed {
    pub(super) overlay: Overlay,
    pub(super) held: Vec<Held>,
}

impl Computed {
    /// Whether the group waits for the card: one durable request makes all of it durable.
    pub(super) fn wants_sync(&self) -> bool {
        self.held.iter().any(|held| held.durability == Durability::Sync)
    }

    /// Hands out the replies. `synced`: the whole group is on the card, whatever was asked.
    pub(super) fn answer(self, synced: bool, max_loss: Duration) {
        for Held { answer, durability, outcome } in self.held {
            let relaxed = !synced && durability == Durability::Relaxed;
            let promise = if relaxed { Promise::Relaxed { max_loss } } else { Promise::Synced };
            answer.give(outcome.map(|(results, failed)| WriteOutcome { results, failed, promise }));
        }
    }

    /// Tells everyone that nobody knows.
    pub(super) fn unknown(self) {
        for held in self.held {
            held.answer.give(Err(WriteError::OutcomeUnknown));
        }
    }
}
