//! What a connection does when memory is short: it waits with its answer, or ends.
//!
//! Invariant: what is asked to end is asked on account of what it holds, and is left alone if it holds that no more.

use super::active::{Active, Core};
use super::connection::{Connection, Phase, Verdict};
use super::stats::CloseReason;
use crate::http::message::Puller;

/// A head that weighs on the memory for heads while its body comes.
const HEAVY_HEAD_BYTES: usize = 4 * 1024;
/// A piece that there was no room for is asked for again after so many ticks.
const STARVED_TICKS: u32 = 2;

impl Connection {
    /// There was no room for the next piece of its answer: it is asked for again, for as long as a client might take
    /// nothing.
    pub fn on_no_room_for_piece(&mut self, pull: Puller, core: &mut Core) -> Verdict {
        let Some(active) = &mut self.active else { return Verdict::Wait };
        if active.starved_since == 0 {
            active.starved_since = core.tick.max(1);
        } else if core.tick - active.starved_since > core.idle_ticks {
            return self.close(core, CloseReason::Memory);
        }
        active.output.put_pull_back(pull);
        active.write_deadline = core.tick + STARVED_TICKS;
        active.retry_pull = true;
        self.deadline = active.write_deadline;
        Verdict::Wait
    }

    /// Gives a client that has to take something its time. Whether it took something since it last got some.
    pub(super) fn wait_for_the_client(&mut self, active: &mut Active, core: &Core) -> bool {
        active.write_deadline = core.tick_after(core.limits.idle_timeout.min(active.output.patience()));
        self.deadline = active.write_deadline;
        active.backlog.shrank(&self.socket)
    }

    /// Others need the memory of the answer that its client does not take.
    pub fn on_end_answer(&mut self, core: &mut Core) -> Verdict {
        match &self.active {
            Some(active) if active.output.is_charged() => self.close(core, CloseReason::Memory),
            _ => Verdict::Wait,
        }
    }

    /// Notes since when it keeps a part of a message for which it waits for its client.
    pub(super) fn note_part(&self, active: &mut Active, tick: u32) {
        let keeps = match self.phase {
            Phase::Head | Phase::Door | Phase::DoorOfAddress => active.input.len() > active.start,
            Phase::Body => active.share.is_none() || active.kept_bytes() >= HEAVY_HEAD_BYTES,
            Phase::Waiting | Phase::Closing | Phase::Linger => false,
        };
        active.part_since = match (keeps, active.part_since) {
            (true, 0) => tick.max(1),
            (true, since) => since,
            (false, _) => 0,
        };
    }

    /// Since which tick it keeps a part of a message; 0 if it keeps none.
    pub fn part_since(&self) -> u32 {
        self.active.as_ref().map_or(0, |active| active.part_since)
    }

    /// Too much is kept, and it has kept its part for longest: it ends.
    pub fn make_way(&mut self, core: &mut Core, ticket: u64) -> Verdict {
        let Some(mut active) = self.active.take() else { return Verdict::Wait };
        if !active.output.is_empty() {
            self.active = Some(active);
            return self.close(core, CloseReason::Memory);
        }
        match self.phase {
            Phase::Head => self.head_is_late(&mut active, core),
            Phase::Body => self.body_is_late(&mut active, core),
            Phase::Door | Phase::DoorOfAddress => self.turn_away_unheard(&mut active, core),
            Phase::Waiting | Phase::Closing | Phase::Linger => {}
        }
        active.reason = CloseReason::Memory;
        self.active = Some(active);
        self.drive(core, ticket)
    }

    /// Others wait for the memory of the body that it reads.
    pub fn on_end_body(&mut self, core: &mut Core, ticket: u64) -> Verdict {
        match self.active.take_if(|active| self.phase == Phase::Body && active.share.is_some()) {
            Some(active) => {
                self.active = Some(active);
                self.make_way(core, ticket)
            }
            None => Verdict::Wait,
        }
    }
}
