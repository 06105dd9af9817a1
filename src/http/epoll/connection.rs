//! One connection: a state machine that goes as far as it can without waiting, and then says what it waits for.
//!
//! Invariant: one request at a time. What lies behind an unanswered request stays unread, in the buffer or in the
//! kernel. A connection without a request owns no buffer.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::epoll::EventFlags;
use rustix::net::sockopt::set_socket_linger;
use rustix::net::{Shutdown, shutdown};

use super::active::{Active, Core};
use super::body::Incoming;
use super::mailbox::Message;
use super::shared::Shared;
use super::stats::CloseReason;
use super::way::Way;
use super::workers::{Job, Piece};
use super::write::Flushed;
use crate::http::door::Full;
use crate::http::door::seat::Seat;
use crate::http::message::{Outcome, Peer, Response, Trace};

/// Answers that one connection may get before others get their turn.
const ANSWERS_PER_TURN: usize = 16;
/// Reads that one connection may make before others get their turn.
const READS_PER_TURN: usize = 16;
/// How long a refused client may go on sending, so that it sees the answer instead of a reset.
pub(super) const LINGER: Duration = Duration::from_secs(2);

/// What a connection does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Waits for a head, or reads one.
    Head,
    /// Reads a body.
    Body,
    /// Waits for a handler's answer.
    Waiting,
    /// Ends when its output is sent.
    Closing,
    /// Has sent all and reads what the client still sends, to drop it.
    Linger,
    /// Waits for a head, to refuse it: all places are taken.
    Door,
    /// The same: all places of its address are taken.
    DoorOfAddress,
}

/// What the owner of a connection is to do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: the socket, the mailbox or the wheel will tell.
    Wait,
    /// Let others have their turn, then call [`Connection::drive`] again.
    Again,
    /// Drop it.
    Close(CloseReason),
}

/// How far one step came.
pub(super) enum Step {
    /// An answer was pushed.
    Answered,
    /// On to the next phase.
    Next,
    /// More input is needed.
    NeedInput,
    /// Only the output can go on.
    Wait,
    /// It cannot go on.
    Close(CloseReason),
}

/// A connection.
pub struct Connection {
    pub(super) socket: OwnedFd,
    pub(super) peer: Peer,
    pub(super) phase: Phase,
    /// The socket may hold bytes: an edge said so, and no read came back short since.
    pub(super) readable: bool,
    /// The client will send nothing more; what it sent before may still be unread.
    pub(super) hung_up: bool,
    /// The end of the client's bytes was read.
    pub(super) ended: bool,
    /// Nothing was read yet.
    pub(super) is_fresh: bool,
    /// The rest of a refused message may still come.
    pub(super) linger: bool,
    /// Whether it stays.
    pub way: Way,
    /// How many requests it has had answered; no more than two are counted.
    pub(super) answered: u8,
    /// It stands in its thread's list of those that want another turn.
    pub is_queued: bool,
    /// Its place at the door.
    pub seat: Arc<Seat>,
    /// The tick at which [`Connection::on_deadline`] is to be called; 0 for never.
    pub deadline: u32,
    pub(super) active: Option<Box<Active>>,
}

impl Connection {
    /// A connection that has just been accepted. `full`: there was no place for it.
    pub fn new(socket: OwnedFd, peer: Peer, seat: Arc<Seat>, full: Option<Full>, core: &Core) -> Connection {
        let (phase, patience) = match full {
            None => (Phase::Head, core.limits.idle_timeout),
            Some(Full::All) => (Phase::Door, LINGER),
            Some(Full::Network(_)) => (Phase::DoorOfAddress, LINGER),
        };
        Connection {
            socket,
            peer,
            phase,
            readable: false,
            hung_up: false,
            ended: false,
            is_fresh: true,
            linger: false,
            way: if full.is_some() { Way::Out } else { Way::In },
            answered: 0,
            is_queued: false,
            seat,
            deadline: core.tick_after(patience),
            active: None,
        }
    }

    /// The socket, for epoll.
    pub fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Whether no request is being read or answered.
    pub fn is_idle(&self) -> bool {
        self.active.is_none()
    }

    /// Whether nothing has come yet: the client may be about to send its first request.
    pub fn is_fresh(&self) -> bool {
        self.is_fresh
    }

    /// Whether a head has begun to come and is not complete.
    pub fn has_partial_head(&self) -> bool {
        self.phase == Phase::Head && self.active.as_ref().is_some_and(|active| active.output.is_empty())
    }

    /// Whether all that was asked is answered, and nothing is half asked.
    pub fn owes_nothing(&self) -> bool {
        self.is_idle() || self.phase == Phase::Linger || self.has_partial_head()
    }

    /// Reads once more, whatever epoll said: at the drain, so that a request that has arrived is answered.
    pub fn read_what_came(&mut self, core: &mut Core, ticket: u64) -> Verdict {
        self.readable = true;
        self.drive(core, ticket)
    }

    /// Brings the deadline forward.
    pub fn shorten_deadline(&mut self, tick: u32) {
        match &mut self.active {
            Some(active) => {
                active.deadline = active.deadline.min(tick);
                self.deadline = active.deadline;
            }
            None => self.deadline = self.deadline.min(tick),
        }
    }

    /// The socket has news.
    pub fn on_event(&mut self, flags: EventFlags, core: &mut Core, ticket: u64) -> Verdict {
        let is_gone = flags.intersects(EventFlags::ERR | EventFlags::HUP);
        if is_gone && (flags.contains(EventFlags::ERR) || matches!(self.phase, Phase::Waiting | Phase::Linger)) {
            let reason = match self.phase {
                Phase::Head if self.is_idle() => CloseReason::Client,
                Phase::Linger => CloseReason::Refused,
                _ => CloseReason::Aborted,
            };
            return self.close(core, reason);
        }
        self.readable |= flags.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP);
        self.hung_up |= flags.intersects(EventFlags::RDHUP | EventFlags::HUP);
        self.drive(core, ticket)
    }

    /// A worker has made the next piece of the answer's body.
    pub fn on_pulled(&mut self, piece: Piece, core: &mut Core, ticket: u64) -> Verdict {
        let Some(active) = &mut self.active else { return Verdict::Wait };
        active.starved_since = 0;
        match active.output.pulled(piece) {
            Ok(true) => self.drive(core, ticket),
            Ok(false) => {
                active.write_deadline = core.tick + 1;
                active.retry_pull = true;
                self.deadline = active.write_deadline;
                Verdict::Wait
            }
            Err(()) => self.close(core, CloseReason::BrokenBody),
        }
    }

    /// A handler has answered.
    pub fn on_answer(&mut self, response: Response, trace: Trace, core: &mut Core, ticket: u64) -> Verdict {
        let Some(mut active) = self.active.take_if(|_| matches!(self.phase, Phase::Waiting | Phase::Body)) else {
            unsent(&core.shared, &response, &trace);
            return Verdict::Wait;
        };
        if self.phase == Phase::Body {
            // The handler did not want the rest of its import.
            active.incoming = None;
            self.linger = true;
        }
        self.push_answer(&mut active, core, response, trace);
        self.active = Some(active);
        self.drive(core, ticket)
    }

    /// The reader of an import has room again.
    pub fn on_reader_has_room(&mut self, core: &mut Core, ticket: u64) -> Verdict {
        if let Some(incoming) = self.active.as_mut().and_then(|active| active.incoming.as_mut()) {
            incoming.resume(core.tick, &core.limits);
        }
        self.drive(core, ticket)
    }

    /// What it has in hand, if its body waits for memory. To be given back with [`Connection::put_back`].
    pub(super) fn take_active_if_it_waits(&mut self) -> Option<Box<Active>> {
        self.active.take_if(|active| active.waits_for_room.is_some())
    }

    /// Counts an answer, for the door.
    pub(super) fn count_answer(&mut self) {
        self.answered = (self.answered + 1).min(2);
    }

    /// Gives back what was taken.
    pub(super) fn put_back(&mut self, active: Box<Active>) {
        self.active = Some(active);
    }

    /// The tick in [`Connection::deadline`] has come.
    pub fn on_deadline(&mut self, core: &mut Core, ticket: u64) -> Verdict {
        let mut active = match self.active.take() {
            Some(active) => active,
            None if self.is_at_the_door() => self.prepare(core),
            None if self.has_not_asked() => self.hear_that_there_is_no_place(core),
            None if self.way == Way::LastChance => return self.go(core),
            None => return Verdict::Close(CloseReason::Idle),
        };
        if !active.output.is_empty() {
            let retry = std::mem::take(&mut active.retry_pull);
            let goes_on = !retry && self.wait_for_the_client(&mut active, core);
            self.active = Some(active);
            return match (retry, goes_on) {
                (true, _) => self.drive(core, ticket),
                (_, true) => Verdict::Wait,
                _ => self.close(core, CloseReason::WriteTimeout),
            };
        }
        match self.phase {
            Phase::Head => self.head_is_late(&mut active, core),
            Phase::Body => self.body_is_due(&mut active, core),
            Phase::Waiting | Phase::Closing => {}
            Phase::Linger => active.linger_left = 0,
            Phase::Door | Phase::DoorOfAddress => self.turn_away_unheard(&mut active, core),
        }
        self.active = Some(active);
        self.drive(core, ticket)
    }

    /// Whether it only waits to be turned away.
    pub(super) fn is_at_the_door(&self) -> bool {
        matches!(self.phase, Phase::Door | Phase::DoorOfAddress)
    }

    /// Buffers for something to do. One that is on its way out keeps its deadline whatever comes.
    pub(super) fn prepare(&self, core: &mut Core) -> Box<Active> {
        let mut active = core.take_active();
        if self.phase != Phase::Head {
            active.deadline = self.deadline;
        }
        active
    }

    /// Goes as far as it can.
    pub fn drive(&mut self, core: &mut Core, ticket: u64) -> Verdict {
        let mut active = match self.active.take() {
            Some(active) => active,
            None if self.readable => self.prepare(core),
            None => return Verdict::Wait,
        };
        // Before an answer leaves: its client may act on it, and have the door look, before we note how we stand then.
        self.seat.at_work();
        let verdict = self.advance(&mut active, core, ticket);
        if self.way == Way::Back {
            self.come_back(core);
        }
        if let Verdict::Close(reason) = verdict {
            self.active = Some(active);
            return self.close(core, reason);
        }
        let is_idle = self.phase == Phase::Head && active.input.len() == active.start && active.output.is_empty();
        if is_idle && verdict == Verdict::Wait {
            core.give_back(active);
            self.seat.quiet(core.tick, self.answered);
            self.deadline = core.tick + core.idle_ticks;
        } else {
            self.deadline = self.deadline_of(&active);
            if verdict == Verdict::Wait {
                self.note_part(&mut active, core.tick);
                core.park(&mut active, self.phase == Phase::Waiting);
            }
            self.note_standing(&active, core);
            self.active = Some(active);
        }
        verdict
    }

    fn advance(&mut self, active: &mut Active, core: &mut Core, ticket: u64) -> Verdict {
        let (mut answers, mut reads) = (0, 0);
        // What is left from before goes first: a client that does not read gets no further request begun.
        if !active.output.is_empty()
            && let Some(verdict) = self.flush(active, core, ticket)
        {
            return verdict;
        }
        loop {
            let step = match self.phase {
                Phase::Head | Phase::Door | Phase::DoorOfAddress => self.next_head(active, core, ticket),
                Phase::Body => self.next_body(active, core, ticket),
                Phase::Waiting | Phase::Closing => Step::Wait,
                Phase::Linger if active.linger_left == 0 => Step::Close(active.reason),
                Phase::Linger => Step::NeedInput,
            };
            answers += usize::from(matches!(step, Step::Answered));
            if matches!(step, Step::Answered | Step::Next)
                && self.phase != Phase::Closing
                && !active.output.wants_flush()
                && answers < ANSWERS_PER_TURN
            {
                continue;
            }
            if !active.output.is_empty()
                && let Some(verdict) = self.flush(active, core, ticket)
            {
                return verdict;
            }
            if self.phase == Phase::Closing && !self.begin_linger(active, core) {
                return Verdict::Close(active.reason);
            }
            let verdict = match step {
                Step::Answered if answers >= ANSWERS_PER_TURN && self.phase == Phase::Head => Some(Verdict::Again),
                Step::Answered | Step::Next => None,
                Step::NeedInput if reads >= READS_PER_TURN => Some(Verdict::Again),
                Step::NeedInput => {
                    reads += 1;
                    self.read(active, core)
                }
                Step::Wait if self.phase == Phase::Linger => None,
                Step::Wait => Some(Verdict::Wait),
                Step::Close(reason) => Some(Verdict::Close(reason)),
            };
            if let Some(verdict) = verdict {
                return verdict;
            }
        }
    }

    /// Sends what there is. `Some` if not all of it went.
    fn flush(&mut self, active: &mut Active, core: &mut Core, ticket: u64) -> Option<Verdict> {
        let flushed = active.output.flush(&self.socket, &*core.shared.handler);
        let progressed = active.output.take_progress();
        if flushed != Flushed::All || active.output.is_charged() {
            let (client, answers) = (active.output.client(), &core.shared.answers);
            active.output.charge(answers, client, || {
                let mailbox = Arc::clone(&core.mailbox);
                Box::new(move || mailbox.send(Message::EndAnswer(ticket)))
            });
        }
        match flushed {
            Flushed::All => {
                active.write_deadline = 0;
                None
            }
            Flushed::Blocked => {
                if progressed || active.write_deadline == 0 {
                    self.wait_for_the_client(active, core);
                }
                Some(Verdict::Wait)
            }
            Flushed::Pull => Some(self.ask_a_worker(active, core, ticket)),
            Flushed::Pulling => {
                active.write_deadline = 0;
                Some(Verdict::Wait)
            }
            Flushed::Again => {
                active.write_deadline = core.tick_after(core.limits.idle_timeout);
                Some(Verdict::Again)
            }
            Flushed::Cut => Some(Verdict::Close(CloseReason::BrokenBody)),
            Flushed::Failed => Some(Verdict::Close(CloseReason::Aborted)),
        }
    }

    /// Has the next piece of a made body made. There are never more of these than connections, so they always find room.
    fn ask_a_worker(&mut self, active: &mut Active, core: &mut Core, ticket: u64) -> Verdict {
        active.write_deadline = 0;
        match (core.shared.queue.place(usize::MAX), active.output.take_pull()) {
            (Some(place), Some((pull, is_chunked))) => {
                core.shared.stats.queue_depth.inc();
                let (client, mailbox) = (active.output.client(), Arc::clone(&core.mailbox));
                place.fill(Job::Pull { pull, is_chunked, client, ticket, mailbox });
                core.jobs += 1;
                Verdict::Wait
            }
            _ => Verdict::Close(CloseReason::BrokenBody),
        }
    }

    /// The client sends no more, and what it sent is not a whole message.
    pub(super) fn client_ended(&mut self, active: &mut Active) -> Verdict {
        match self.phase {
            Phase::Head if active.input.len() == active.start => Verdict::Close(CloseReason::Client),
            Phase::Linger => Verdict::Close(active.reason),
            _ => Verdict::Close(CloseReason::Aborted),
        }
    }

    /// The last answer is sent. True if the client may still be sending, and is listened to so that it sees the answer:
    /// closing a socket with unread bytes makes the kernel throw away what the client has not read yet.
    fn begin_linger(&mut self, active: &mut Active, core: &Core) -> bool {
        if self.ended || (self.hung_up && !self.readable) || !(self.linger || self.readable) {
            return false;
        }
        if shutdown(&self.socket, Shutdown::Write).is_err() {
            return false;
        }
        self.phase = Phase::Linger;
        active.input.clear();
        active.start = 0;
        active.incoming = None;
        active.deadline = core.tick_after(LINGER);
        true
    }

    fn deadline_of(&self, active: &Active) -> u32 {
        if !active.output.is_empty() {
            return active.write_deadline;
        }
        match self.phase {
            Phase::Head | Phase::Linger | Phase::Door | Phase::DoorOfAddress => active.deadline,
            Phase::Body if active.waits_for_room.is_some() => 0,
            Phase::Body => active.incoming.as_ref().map_or(0, Incoming::deadline),
            Phase::Waiting | Phase::Closing => 0,
        }
    }

    fn body_is_due(&mut self, active: &mut Active, core: &mut Core) {
        let Some(incoming) = active.incoming.as_mut() else { return };
        if !incoming.is_in_time(core.tick, &core.limits) {
            active.reason = CloseReason::BodyTimeout;
            self.body_is_late(active, core);
        }
    }

    /// Drops what is unsent and says why the connection ends. The owner drops the connection then.
    pub fn close(&mut self, core: &mut Core, reason: CloseReason) -> Verdict {
        if let Some(mut active) = self.active.take() {
            if active.output.hides_a_cut() {
                let _ = set_socket_linger(&self.socket, Some(Duration::ZERO));
            }
            active.output.abandon(&*core.shared.handler, reason.cut());
            core.give_back(active);
        }
        Verdict::Close(reason)
    }
}

/// Reports an answer whose connection is gone.
pub fn unsent(shared: &Shared, response: &Response, trace: &Trace) {
    let outcome = Outcome::unsent(response.status);
    let report = || shared.handler.finished(trace, &outcome);
    // A panic while recording must not cost the thread.
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(report));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_is_small() {
        let bytes = size_of::<Connection>();
        println!("{bytes} bytes for a connection");
        assert!(bytes <= 64, "{bytes}");
    }
}
