//! How a connection stands with the door, and how it ends for want of a place: it makes way, or is turned away.
//!
//! One that was idle has a last chance, without its place: if it sends something, it has the place back. So no request is
//! lost that was on its way meanwhile; who has never asked is told when to come again. Invariant: a request that had begun to come is answered before its connection ends;
//! and what the client still sends is read for a while, so that no reset destroys an answer.

use std::time::Duration;

use rustix::net::{Shutdown, shutdown};

use super::active::{Active, Core};
use super::connection::{Connection, LINGER, Phase, Step, Verdict};
use super::parse;
use super::stats::CloseReason;
use crate::http::door::{Full, no_place};
use crate::http::headers::Head;
use crate::http::message::Trace;
use crate::http::wire::HeadContext;

/// How long a connection that has made way may still come back.
const LAST_CHANCE: Duration = Duration::from_millis(500);

/// Whether a connection stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It has its place.
    In,
    /// Its place was given to another, and it goes unless something comes.
    LastChance,
    /// Something has come.
    Back,
    /// It goes, which is counted already.
    Out,
}

impl Connection {
    /// Tells the door how it stands, after it went as far as it could with something still to do.
    pub(super) fn note_standing(&self, active: &Active, core: &Core) {
        let body = active.incoming.as_ref().filter(|_| active.waits_for_room.is_none());
        match (self.phase, body.and_then(|body| body.paid_until(&core.limits))) {
            // Its answers are on their way, or a reader has them in hand.
            _ if !active.output.is_empty() => self.seat.at_work(),
            (Phase::Head, _) => self.seat.quiet(active.head_since, 0),
            (Phase::Body, Some(tick)) => self.seat.paid_until(tick),
            (Phase::Linger, _) => self.seat.quiet(core.tick, 0),
            _ => self.seat.at_work(),
        }
    }

    /// Makes way for another, unless it has work after all: then its way is still in.
    pub(super) fn give_up_place(&mut self, core: &mut Core, ticket: u64) -> Verdict {
        if self.is_idle() {
            self.way = Way::LastChance;
            self.deadline = core.tick_after(LAST_CHANCE);
            return Verdict::Wait;
        }
        let verdict = self.read_what_came(core, ticket);
        if matches!(verdict, Verdict::Close(_)) {
            return verdict;
        }
        let stays = verdict == Verdict::Again || self.is_idle() || !self.seat.standing().may_go(core.tick);
        if stays {
            if verdict == Verdict::Again {
                self.seat.at_work();
            }
            self.come_back(core);
            return verdict;
        }
        self.count_out(core);
        self.make_way(core, ticket)
    }

    /// It has work: it has its place back, and another is to make way in its stead.
    pub(super) fn come_back(&mut self, core: &mut Core) {
        self.way = Way::In;
        core.shared.door.stay(&self.seat);
        core.came_back.push(self.seat.network());
    }

    /// Its last chance is over.
    pub(super) fn go(&mut self, core: &mut Core) -> Verdict {
        self.count_out(core);
        if shutdown(&self.socket, Shutdown::Write).is_err() {
            return Verdict::Close(CloseReason::Evicted);
        }
        self.phase = Phase::Linger;
        self.deadline = core.tick_after(LINGER);
        Verdict::Wait
    }

    /// Whether it makes way without ever having asked.
    pub fn has_not_asked(&self) -> bool {
        self.way == Way::LastChance && self.is_idle() && self.answered == 0
    }

    /// Its last chance is over and nothing has come: its first request may be on its way, and is to be answered.
    pub(super) fn hear_that_there_is_no_place(&mut self, core: &mut Core) -> Box<Active> {
        self.count_out(core);
        self.phase = Phase::Door;
        self.prepare(core)
    }

    fn count_out(&mut self, core: &Core) {
        self.way = Way::Out;
        core.shared.stats.count_closed(CloseReason::Evicted);
    }

    /// The notes for an answer to a head that is not complete, or not acceptable.
    pub(super) fn trace_of_partial_head(&self, active: &mut Active, core: &Core) -> Trace {
        let came = &active.input[active.start..];
        let method = parse::method_of(came);
        let mut trace = Trace::new(method, self.peer, active.filled_at);
        core.shared.handler.note(&Head::salvage(came), &mut trace);
        active.context = HeadContext { method, http_1_0: false, keep_alive: false };
        trace
    }

    /// There was no place for this connection, and no whole request came in time: as much of it as came is refused.
    pub(super) fn turn_away_unheard(&mut self, active: &mut Active, core: &Core) {
        let trace = self.trace_of_partial_head(active, core);
        self.turn_away(active, core, trace);
    }

    /// There was no place for this connection: its first request is refused.
    pub(super) fn turn_away(&mut self, active: &mut Active, core: &Core, trace: Trace) -> Step {
        let full = if self.phase == Phase::DoorOfAddress { Full::Network(self.seat.network()) } else { Full::All };
        let response = no_place(full, trace.method);
        self.end_with(active, core, response, trace)
    }
}
