//! Taking connections from the listeners: through the door, to the least loaded thread, and errors that pass.
//!
//! Invariant: no descriptor is taken that the door does not allow. Where there is no place, the connection that has been
//! quiet longest makes way; where none can, the new one waits a moment and is then answered 503.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SocketFlags, acceptfrom_with, recv};

use super::io_thread::{IoThread, LISTENER};
use super::mailbox::Message;
use super::parse;
use super::shared::Shared;
use super::slab::token;
use super::stats::CloseReason;
use super::wheel::TICK_MS;
use super::write::Output;
use crate::http::door::seat::Seat;
use crate::http::door::{Full, Whose, no_place};
use crate::http::listener::Listener;
use crate::http::message::{Cut, Peer, Trace};
use crate::http::wire::HeadContext;

/// Connections that one turn may take from one listener.
const ACCEPTS_PER_TURN: usize = 64;
/// The longest pause after an error, in ticks.
const PAUSE_TICKS_MAX: u32 = (1000 / TICK_MS) as u32;

/// How long a connection without a place waits for one. A client that closes and opens many at once is served; the ends
/// are told before the beginnings, but a thread may hear of the beginnings first.
const HELD_TICKS: u32 = 500u64.div_ceil(TICK_MS) as u32;

/// Whether the listeners are being watched.
#[derive(Default)]
pub struct Accepting {
    is_on: bool,
    /// When to watch them again.
    resume_at: u32,
    /// The pause after the next error in a row.
    pause_ticks: u32,
    /// Accepted connections that there was no place for.
    held: VecDeque<Held>,
}

/// A connection that waits for a place.
struct Held {
    socket: OwnedFd,
    peer: Peer,
    seat: Arc<Seat>,
    since: u32,
}

impl IoThread {
    /// Watches the listeners.
    pub(super) fn start_accepting(&mut self) -> std::io::Result<()> {
        self.accepting.is_on = true;
        for (index, listener) in self.listeners.iter().enumerate() {
            // Exclusive: one new connection wakes one thread.
            let data = EventData::new_u64(token(LISTENER, index as u32));
            epoll::add(&self.epoll, fd_of(listener), data, EventFlags::IN | EventFlags::EXCLUSIVE)?;
        }
        Ok(())
    }

    /// Leaves the listeners alone.
    pub(super) fn stop_accepting(&mut self) {
        if std::mem::take(&mut self.accepting.is_on) {
            for listener in self.listeners.iter() {
                let _ = epoll::delete(&self.epoll, fd_of(listener));
            }
        }
    }

    /// Milliseconds until the listeners are to be watched again.
    pub(super) fn accept_wait_ms(&self) -> Option<u64> {
        if !self.accepting.held.is_empty() {
            return Some(TICK_MS);
        }
        let is_paused = !self.accepting.is_on && !self.core.draining;
        is_paused.then(|| u64::from(self.accepting.resume_at.saturating_sub(self.core.tick)) * TICK_MS)
    }

    /// Watches the listeners again if the pause is over, and looks after connections that were held back.
    pub(super) fn resume_accepting(&mut self) {
        self.look_after_held();
        if self.accept_wait_ms() == Some(0)
            && let Err(error) = self.start_accepting()
        {
            log::error!("cannot watch the listeners: {error}");
            self.stop_accepting();
            self.pause_accepting();
        }
    }

    fn pause_accepting(&mut self) {
        self.stop_accepting();
        let accepting = &mut self.accepting;
        accepting.pause_ticks = (accepting.pause_ticks * 2).clamp(1, PAUSE_TICKS_MAX);
        accepting.resume_at = self.core.tick + accepting.pause_ticks;
    }

    /// Takes what waits at a listener.
    pub(super) fn accept(&mut self, listener: usize) {
        let shared = Arc::clone(&self.core.shared);
        for _ in 0..ACCEPTS_PER_TURN {
            // Held from the look at the door to the entry: two threads that see the same connection must not end two
            // others for it.
            let turn = shared.accept_turn.lock();
            if !self.may_accept(listener) {
                return;
            }
            let listening = fd_of(&self.listeners[listener]);
            match acceptfrom_with(listening, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok((socket, address)) => {
                    self.accepting.pause_ticks = 0;
                    let address = address.and_then(|address| SocketAddr::try_from(address).ok());
                    let peer = address.map_or(Peer::Unix, |at| Peer::Tcp(at.ip().to_canonical(), at.port()));
                    self.admit(socket, peer);
                }
                Err(Errno::AGAIN) => return,
                Err(error) if is_of_the_connection(error) => {}
                Err(error) => return self.accept_failed(error),
            }
            drop(turn);
        }
    }

    /// Whether one more descriptor may be taken. Where there is no place, one is made, but for a connection that waits, not
    /// for one that may come; or else it waits beside the places.
    fn may_accept(&mut self, listener: usize) -> bool {
        let shared = Arc::clone(&self.core.shared);
        if shared.door.has_place(&self.core.limits) {
            return true;
        }
        if !self.someone_waits(listener) {
            return false;
        }
        let may = self.make_room(Whose::Largest) || shared.door.has_room_beside(&self.core.limits);
        if !may {
            // One tick, not a growing pause: a connection may end at any moment.
            self.accepting.pause_ticks = 0;
            self.pause_accepting();
        }
        may
    }

    /// Not this connection but the next ones will fail as well, for a while: descriptors or memory are used up.
    fn accept_failed(&mut self, error: Errno) {
        self.core.shared.stats.accept_errors.inc();
        log::warn!("accept failed: {error}");
        if matches!(error, Errno::MFILE | Errno::NFILE) {
            self.make_room(Whose::Largest);
        }
        self.pause_accepting();
    }

    fn someone_waits(&self, listener: usize) -> bool {
        let mut watched = [PollFd::from_borrowed_fd(fd_of(&self.listeners[listener]), PollFlags::IN)];
        poll(&mut watched, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
    }

    /// Gives a connection a place, or has it wait for one.
    fn admit(&mut self, socket: OwnedFd, peer: Peer) {
        let shared = Arc::clone(&self.core.shared);
        shared.stats.accepted.inc();
        let (door, limits) = (&shared.door, Arc::clone(&self.core.limits));
        let mut entered = door.enter(peer, &limits);
        if let Err(full) = entered
            && self.make_room(full.whose_to_go())
        {
            entered = door.enter(peer, &limits);
        }
        match (entered, door) {
            (Ok(seat), _) => self.place(socket, peer, seat),
            (Err(full), door) => match door.wait(peer, &limits) {
                Some(seat) => self.accepting.held.push_back(Held { socket, peer, seat, since: self.core.tick }),
                None => {
                    shared.stats.count_closed(CloseReason::refused_at(full));
                    refuse_unseen(&shared, &socket, peer, full);
                }
            },
        }
    }

    /// Gives those who wait a place, or a refusal once they have waited long enough.
    fn look_after_held(&mut self) {
        for _ in 0..self.accepting.held.len() {
            let Some(held) = self.accepting.held.pop_front() else { return };
            let shared = Arc::clone(&self.core.shared);
            let limits = Arc::clone(&self.core.limits);
            let mut entered = shared.door.enter_late(&held.seat, &limits);
            if let Err(full) = entered
                && self.make_room(full.whose_to_go())
            {
                entered = shared.door.enter_late(&held.seat, &limits);
            }
            match entered {
                Ok(()) => self.place(held.socket, held.peer, held.seat),
                Err(full) if self.core.draining || self.core.tick.wrapping_sub(held.since) > HELD_TICKS => {
                    shared.stats.count_closed(CloseReason::refused_at(full));
                    shared.stats.connections.inc();
                    shared.io[self.index].load.fetch_add(1, Ordering::Relaxed);
                    self.adopt(held.socket, held.peer, held.seat, Some(full));
                }
                Err(_) => self.accepting.held.push_back(held),
            }
        }
    }

    fn place(&mut self, socket: OwnedFd, peer: Peer, seat: Arc<Seat>) {
        let shared = &self.core.shared;
        shared.stats.connections.inc();
        let load = |index: usize| shared.io[index].load.load(Ordering::Relaxed);
        let own = load(self.index);
        let least = (0..shared.io.len()).min_by_key(|&index| load(index)).filter(|&index| load(index) < own);
        shared.io[least.unwrap_or(self.index)].load.fetch_add(1, Ordering::Relaxed);
        match least {
            Some(index) => shared.io[index].mailbox.send(Message::Connection(socket, peer, seat)),
            None => self.adopt(socket, peer, seat, None),
        }
    }

    /// Has the connection that has been quiet longest make way. True if a place is free now; the socket may still be open,
    /// beside the places.
    pub(super) fn make_room(&mut self, whose: Whose) -> bool {
        let shared = Arc::clone(&self.core.shared);
        loop {
            let Some(seat) = shared.door.choose(whose, self.core.tick, &self.core.limits) else {
                // What is on its way out lingers only as long as nobody needs its descriptor.
                if shared.door.has_room_beside(&self.core.limits) || !self.hurry_one_out() {
                    return false;
                }
                continue;
            };
            let (thread, token) = seat.named();
            if thread != self.index {
                shared.io[thread].mailbox.send(Message::GiveUpPlace(token));
                return true;
            }
            if self.give_up_place(token) {
                return true;
            }
            // This loop finds another one in its stead.
            self.core.came_back.pop();
        }
    }
}

/// There is not even room to wait for the request: it is refused unseen.
pub(super) fn refuse_unseen(shared: &Shared, socket: &OwnedFd, peer: Peer, full: Full) {
    // What has come is read, or the close becomes a reset, which destroys the answer.
    let mut buffer = [0u8; 4096];
    let came = recv(socket, &mut buffer[..], RecvFlags::DONTWAIT).map_or(0, |(came, _)| came);
    let method = parse::method_of(&buffer[..came]);
    let context = HeadContext { method, http_1_0: false, keep_alive: false };
    let mut output = Output::new();
    output.push(no_place(full, method), Trace::new(method, peer, Instant::now()), context);
    output.flush(socket, &*shared.handler);
    output.abandon(&*shared.handler, Cut::Client);
}

fn fd_of(listener: &Listener) -> BorrowedFd<'_> {
    match listener {
        Listener::Tcp(listener) => listener.as_fd(),
        Listener::Unix(listener) => listener.as_fd(),
    }
}

/// Makes a listener's accept return at once.
pub fn set_nonblocking(listener: &Listener) -> std::io::Result<()> {
    Ok(rustix::io::ioctl_fionbio(fd_of(listener), true)?)
}

/// Whether an error of accept is one connection's, and the next may be tried at once (accept(2), "Error handling").
fn is_of_the_connection(error: Errno) -> bool {
    matches!(
        error,
        Errno::INTR
            | Errno::CONNABORTED
            | Errno::NETDOWN
            | Errno::PROTO
            | Errno::NOPROTOOPT
            | Errno::HOSTDOWN
            | Errno::NONET
            | Errno::HOSTUNREACH
            | Errno::OPNOTSUPP
            | Errno::NETUNREACH
            | Errno::PERM
    )
}
