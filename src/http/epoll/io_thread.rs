//! An I/O thread: an epoll instance, the connections it owns, their deadlines, and its mailbox.
//!
//! Invariant: a turn does a bounded amount of work for each connection that has news, and none for the others.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;

use super::accept::{Accepting, refuse_unseen};
use super::active::Core;
use super::connection::{Connection, Verdict, unsent};
use super::mailbox::Message;
use super::shared::Shared;
use super::slab::{NO_CONNECTION, Slab, slot_of, token};
use super::stats::CloseReason;
use super::way::Way;
use super::wheel::{IdleOrder, TICK_MS, Wheel};
use super::workers::STUCK_MS;
use crate::http::door::seat::Seat;
use crate::http::door::{Full, Whose};
use crate::http::listener::Listener;
use crate::http::message::Peer;

/// The generation that marks a listener's token.
pub(super) const LISTENER: u32 = NO_CONNECTION;
const MAILBOX: u64 = token(NO_CONNECTION + 1, 0);
const EVENTS_PER_TURN: usize = 256;
/// How often the limits are looked at again.
const LIMITS_EVERY_TICKS: u32 = (100 / TICK_MS) as u32;
/// Turns after which jobs that still wait have all workers woken, where no turn ends in waiting.
const STUCK_TURNS_MAX: u32 = 8;
/// How long an unfinished head may go on once the server stops.
const DRAIN_HEAD_GRACE: Duration = Duration::from_secs(1);
/// Connections that have made way and whose clients may still be sending, of one thread.
const LEAVING_MAX: usize = 256;

/// One I/O thread.
pub struct IoThread {
    pub(super) core: Core,
    pub(super) index: usize,
    pub(super) epoll: OwnedFd,
    pub(super) listeners: Arc<Vec<Listener>>,
    pub(super) accepting: Accepting,
    connections: Slab,
    wheel: Wheel,
    /// Connections that keep a part of a message, from the one that has kept it longest; some may keep none any more.
    parts: IdleOrder,
    /// Connections that have made way, the first of them in front.
    leaving: VecDeque<u64>,
    /// Connections that had more to do than one turn allows.
    ready: Vec<u64>,
    limits_read_at: u32,
    /// Turns in a row after which jobs still waited beside sleeping workers.
    stuck_turns: u32,
    is_cut: bool,
    /// Connections that were cut before they were answered.
    cut: usize,
}

impl IoThread {
    /// The `index`-th thread of the engine; it watches nothing yet but its mailbox.
    pub fn new(shared: Arc<Shared>, index: usize, listeners: Arc<Vec<Listener>>) -> std::io::Result<IoThread> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let mailbox = Arc::clone(&shared.io[index].mailbox);
        epoll::add(&epoll, mailbox.event(), EventData::new_u64(MAILBOX), EventFlags::IN | EventFlags::ET)?;
        let core = Core::new(shared, mailbox);
        Ok(IoThread {
            core,
            index,
            epoll,
            listeners,
            accepting: Accepting::default(),
            connections: Slab::default(),
            wheel: Wheel::new(),
            parts: IdleOrder::new(),
            leaving: VecDeque::new(),
            ready: Vec::new(),
            limits_read_at: 0,
            stuck_turns: 0,
            is_cut: false,
            cut: 0,
        })
    }

    /// Serves until the drain is done. Returns how many connections were cut before they were answered.
    pub fn run(mut self) -> std::io::Result<usize> {
        self.start_accepting()?;
        let heartbeat = self.core.shared.watchdog.heartbeat(format!("larder-io-{}", self.index));
        let mut events: Vec<Event> = Vec::with_capacity(EVENTS_PER_TURN);
        let (mut messages, mut due, mut again) = (Vec::new(), Vec::new(), Vec::new());
        while !self.has_ended() {
            heartbeat.wait(|max| self.wait(&mut events, max))?;
            self.look_at_the_clock();
            for event in &events {
                self.on_event(event.data.u64(), event.flags);
            }
            self.core.mailbox.take(&mut messages);
            for message in messages.drain(..) {
                self.on_message(message);
            }
            std::mem::swap(&mut self.ready, &mut again);
            for token in again.drain(..) {
                self.with(token, |connection, core| {
                    connection.is_queued = false;
                    connection.drive(core, token)
                });
            }
            self.wheel.fire(self.core.tick, &mut due);
            for slot in due.drain(..) {
                self.on_due(slot);
            }
            self.keep_less();
            self.core.shared.queue.wake(std::mem::take(&mut self.core.jobs));
            self.resume_accepting();
            // The places of those who came back were given away: others make way for them.
            while let Some(network) = self.core.came_back.pop() {
                self.make_room(Whose::Network(network));
            }
        }
        Ok(self.cut)
    }

    fn has_ended(&self) -> bool {
        self.is_cut || (self.core.draining && self.connections.len() == 0)
    }

    fn wait(&mut self, events: &mut Vec<Event>, max: Duration) -> std::io::Result<()> {
        let timers = [self.wheel.wait_ms(self.core.tick), self.accept_wait_ms()];
        let mut timeout_ms = timers.into_iter().flatten().min().unwrap_or(u64::MAX).min(max.as_millis() as u64);
        let was_stuck = self.core.shared.queue.is_stuck();
        if was_stuck {
            timeout_ms = timeout_ms.min(STUCK_MS);
        }
        if !self.ready.is_empty() || !self.core.mailbox.prepare_sleep() {
            timeout_ms = 0;
        }
        let timeout = Timespec { tv_sec: (timeout_ms / 1000) as _, tv_nsec: ((timeout_ms % 1000) * 1_000_000) as _ };
        events.clear();
        match epoll::wait(&self.epoll, spare_capacity(events), Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        self.stuck_turns = if was_stuck && self.core.shared.queue.is_stuck() { self.stuck_turns + 1 } else { 0 };
        if self.stuck_turns > STUCK_TURNS_MAX || (self.stuck_turns > 0 && events.is_empty()) {
            self.stuck_turns = 0;
            self.core.shared.queue.wake_all();
        }
        Ok(())
    }

    fn look_at_the_clock(&mut self) {
        let since = self.core.shared.epoch.elapsed().as_millis() as u64;
        self.core.tick = (since / TICK_MS) as u32;
        if self.core.tick.wrapping_sub(self.limits_read_at) >= LIMITS_EVERY_TICKS {
            self.limits_read_at = self.core.tick;
            self.core.read_limits();
        }
    }

    fn on_event(&mut self, token: u64, flags: EventFlags) {
        if token == MAILBOX {
            return;
        }
        if (token >> 32) as u32 == LISTENER {
            return self.accept(slot_of(token) as usize);
        }
        self.with(token, |connection, core| connection.on_event(flags, core, token));
    }

    fn on_message(&mut self, message: Message) {
        match message {
            Message::Answer(token, answer) => {
                // The room is held until the answer is charged.
                let (response, trace, _room) = *answer;
                match self.connections.get(token) {
                    Some(connection) => {
                        let verdict = connection.on_answer(response, trace, &mut self.core, token);
                        self.apply(token, verdict);
                    }
                    None => unsent(&self.core.shared, &response, &trace),
                }
            }
            Message::Connection(socket, peer, seat) => self.adopt(socket, peer, seat, None),
            Message::Pulled(token, piece, _room) => {
                self.with(token, |connection, core| connection.on_pulled(*piece, core, token));
            }
            Message::NoRoomForPiece(token, pull) => {
                self.with(token, |connection, core| connection.on_no_room_for_piece(pull, core));
            }
            Message::ReaderHasRoom(token) => {
                self.with(token, |connection, core| connection.on_reader_has_room(core, token));
            }
            Message::BodyMayCome(token, there_is) => {
                self.with(token, |connection, core| connection.on_room_for_body(there_is, core, token));
            }
            Message::EndBody(token) => self.with(token, |connection, core| connection.on_end_body(core, token)),
            Message::EndAnswer(token) => self.with(token, |connection, core| connection.on_end_answer(core)),
            Message::GiveUpPlace(token) => {
                self.give_up_place(token);
            }
            Message::Drain => self.drain(),
            Message::Cut => self.cut(),
        }
    }

    fn on_due(&mut self, slot: u32) {
        let Some(token) = self.connections.token_at(slot) else { return };
        let tick = self.core.tick;
        self.with(token, |connection, core| match connection.deadline {
            // It was moved later, or lifted, since the wheel was set: setting it anew follows.
            0 => Verdict::Wait,
            deadline if deadline > tick => Verdict::Wait,
            _ => connection.on_deadline(core, token),
        });
    }

    /// Lets a connection act and does what it then asks for.
    fn with(&mut self, token: u64, act: impl FnOnce(&mut Connection, &mut Core) -> Verdict) {
        if let Some(connection) = self.connections.get(token) {
            let verdict = act(connection, &mut self.core);
            self.apply(token, verdict);
        }
    }

    fn apply(&mut self, token: u64, verdict: Verdict) {
        let Some(connection) = self.connections.get(token) else { return };
        let slot = slot_of(token);
        match verdict {
            Verdict::Wait => {
                let (deadline, is_idle, is_fresh) = (connection.deadline, connection.is_idle(), connection.is_fresh());
                let part_since = connection.part_since();
                if part_since != 0 {
                    self.parts.push(slot, part_since);
                }
                if deadline != 0 {
                    self.wheel.set(slot, deadline);
                }
                if is_idle && self.core.draining && !is_fresh {
                    self.close(token, CloseReason::Drain);
                }
            }
            Verdict::Again => {
                if !std::mem::replace(&mut connection.is_queued, true) {
                    self.ready.push(token);
                }
            }
            Verdict::Close(reason) => self.close(token, reason),
        }
    }

    /// Ends those who have kept parts of messages for longest, until what is kept fits.
    fn keep_less(&mut self) {
        while self.core.kept_bytes > self.core.kept_bytes_max
            && let Some((slot, since)) = self.parts.longest()
        {
            self.parts.remove(slot);
            if let Some(token) = self.connections.token_at(slot)
                && let Some(connection) = self.connections.get(token)
                && connection.part_since() == since
            {
                self.core.shared.stats.parts_ended.inc();
                self.with(token, |connection, core| connection.make_way(core, token));
            }
        }
    }

    fn close(&mut self, token: u64, reason: CloseReason) {
        let Some(mut connection) = self.connections.remove(token) else { return };
        connection.close(&mut self.core, reason);
        self.wheel.clear(slot_of(token));
        self.parts.remove(slot_of(token));
        let shared = &self.core.shared;
        shared.door.leave(&connection.seat);
        shared.io[self.index].load.fetch_sub(1, Ordering::Relaxed);
        shared.stats.connections.dec();
        if connection.way != Way::Out {
            shared.stats.count_closed(reason);
        }
    }

    /// Makes a connection this thread's own. It is counted already. `full`: there was no place for it, and it is told so.
    pub(super) fn adopt(&mut self, socket: OwnedFd, peer: Peer, seat: Arc<Seat>, full: Option<Full>) {
        let connection = Connection::new(socket, peer, seat, full, &self.core);
        let token = self.connections.insert(connection);
        let Some(connection) = self.connections.get(token) else { return };
        connection.seat.name(self.index, token);
        // IMPORTANT: after its name. From now on it may be told to make way.
        connection.seat.quiet(self.core.tick, 0);
        // Edge-triggered: registered once for everything, so that neither a slow handler nor a full socket costs a
        // system call to change what is watched. Level-triggered was measured beside it with a constant answer, requests a
        // CPU-second within 2 %: the choice is for the calls that are never made, not for that.
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        match epoll::add(&self.epoll, connection.socket(), EventData::new_u64(token), flags) {
            Ok(()) => self.apply(token, Verdict::Wait),
            Err(error) => {
                log::warn!("cannot watch a connection: {error}");
                self.close(token, CloseReason::Aborted);
            }
        }
    }

    /// Has a connection of ours make way, whose place the door has given away. False if it has work after all.
    pub(super) fn give_up_place(&mut self, token: u64) -> bool {
        let Some(connection) = self.connections.get(token) else { return true };
        let verdict = connection.give_up_place(&mut self.core, token);
        let goes = connection.way != Way::In || matches!(verdict, Verdict::Close(_));
        if goes {
            if self.leaving.len() >= LEAVING_MAX {
                self.hurry_one_out();
            }
            self.leaving.push_back(token);
        }
        self.apply(token, verdict);
        goes
    }

    /// Ends the connection that made way first. False if none of ours is on its way out.
    pub(super) fn hurry_one_out(&mut self) -> bool {
        while let Some(token) = self.leaving.pop_front() {
            if self.way_of(token).is_some_and(|way| way != Way::In) {
                self.with(token, |connection, core| connection.read_what_came(core, token));
            }
            if self.way_of(token).is_some_and(|way| way != Way::In) {
                let unasked = self.connections.get(token).filter(|connection| connection.has_not_asked());
                if let Some(connection) = unasked {
                    // Its first request may be on its way.
                    refuse_unseen(&self.core.shared, connection.socket(), connection.peer, Full::All);
                }
                self.close(token, CloseReason::Evicted);
                return true;
            }
        }
        false
    }

    fn way_of(&mut self, token: u64) -> Option<Way> {
        self.connections.get(token).map(|connection| connection.way)
    }

    fn drain(&mut self) {
        self.core.draining = true;
        self.stop_accepting();
        for token in self.connections.tokens() {
            // A request that has arrived and was not read yet is still answered.
            self.with(token, |connection, core| {
                let verdict = connection.read_what_came(core, token);
                if verdict == Verdict::Wait && (connection.has_partial_head() || connection.is_fresh()) {
                    connection.shorten_deadline(core.tick_after(DRAIN_HEAD_GRACE));
                }
                verdict
            });
        }
    }

    fn cut(&mut self) {
        for token in self.connections.tokens() {
            let is_answered = self.connections.get(token).is_some_and(|connection| connection.owes_nothing());
            self.cut += usize::from(!is_answered);
            self.close(token, CloseReason::Drain);
        }
        self.is_cut = true;
    }
}
