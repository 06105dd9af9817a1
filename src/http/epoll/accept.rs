//! Taking connections from the listeners: caps, hand-over to the least loaded thread, and errors that pass.
//!
//! Invariant: a connection is counted before it is accepted and until it is dropped; at the cap the listeners are left
//! alone, and new connections wait in the kernel.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};

use super::io_thread::{IoThread, LISTENER};
use super::mailbox::Message;
use super::slab::token;
use super::stats::CloseReason;
use super::wheel::TICK_MS;
use crate::http::listener::Listener;
use crate::http::message::Peer;

/// Connections that one turn may take from one listener.
const ACCEPTS_PER_TURN: usize = 64;
/// The longest pause after an error, in ticks.
const PAUSE_TICKS_MAX: u32 = (1000 / TICK_MS) as u32;

/// Connections of one thread that may wait for another of their address to end; one more is refused at once.
const HELD_MAX: usize = 64;
/// How long they wait. A client that closes and opens many at once is served; the ends are told before the beginnings,
/// but a thread may hear of the beginnings first.
const HELD_TICKS: u32 = 500u64.div_ceil(TICK_MS) as u32;

/// Whether the listeners are being watched.
#[derive(Default)]
pub struct Accepting {
    is_on: bool,
    /// When to watch them again.
    resume_at: u32,
    /// The pause after the next error in a row.
    pause_ticks: u32,
    /// Accepted connections over the cap of their address, and since when they wait.
    held: VecDeque<(OwnedFd, Peer, u32)>,
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
            // Held from the look at the cap to the accept: two threads that see the same connection must not close two
            // idle ones for it.
            let turn = shared.accept_turn.lock();
            if !self.claim_or_make_room(listener) {
                return;
            }
            let listening = fd_of(&self.listeners[listener]);
            let accepted = acceptfrom_with(listening, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC);
            drop(turn);
            if accepted.is_err() {
                shared.release_connection();
            }
            match accepted {
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
        }
    }

    /// Claims a connection of the total. At the cap it makes room, but for a connection that waits, not for one that may
    /// come. False if there is nothing to accept now.
    fn claim_or_make_room(&mut self, listener: usize) -> bool {
        let connections_max = self.core.limits.connections_max;
        if self.core.shared.claim_connection(connections_max) {
            return true;
        }
        if !self.someone_waits(listener) {
            return false;
        }
        let claimed = self.make_room() && self.core.shared.claim_connection(connections_max);
        if !claimed {
            // One tick, not a growing pause: a connection may end at any moment.
            self.accepting.pause_ticks = 0;
            self.pause_accepting();
        }
        claimed
    }

    /// Not this connection but the next ones will fail as well, for a while: descriptors or memory are used up.
    fn accept_failed(&mut self, error: Errno) {
        self.core.shared.stats.accept_errors.inc();
        log::warn!("accept failed: {error}");
        if matches!(error, Errno::MFILE | Errno::NFILE) {
            self.make_room();
        }
        self.pause_accepting();
    }

    fn someone_waits(&self, listener: usize) -> bool {
        let mut watched = [PollFd::from_borrowed_fd(fd_of(&self.listeners[listener]), PollFlags::IN)];
        poll(&mut watched, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
    }

    /// Takes a connection that is counted in the total, or hands it to the thread that has fewest.
    fn admit(&mut self, socket: OwnedFd, peer: Peer) {
        self.core.shared.stats.accepted.inc();
        if self.core.shared.claim_address(peer, self.core.limits.connections_per_address_max) {
            self.place(socket, peer);
        } else if self.accepting.held.len() < HELD_MAX {
            self.accepting.held.push_back((socket, peer, self.core.tick));
        } else {
            self.refuse(socket);
        }
    }

    fn look_after_held(&mut self) {
        for _ in 0..self.accepting.held.len() {
            let Some((socket, peer, since)) = self.accepting.held.pop_front() else { return };
            if self.core.shared.claim_address(peer, self.core.limits.connections_per_address_max) {
                self.place(socket, peer);
            } else if self.core.draining || self.core.tick.wrapping_sub(since) > HELD_TICKS {
                self.refuse(socket);
            } else {
                self.accepting.held.push_back((socket, peer, since));
            }
        }
    }

    fn refuse(&mut self, socket: OwnedFd) {
        self.core.shared.release_connection();
        self.core.shared.stats.count_closed(CloseReason::AddressLimit);
        drop(socket);
    }

    fn place(&mut self, socket: OwnedFd, peer: Peer) {
        let shared = &self.core.shared;
        shared.stats.connections.inc();
        let load = |index: usize| shared.io[index].load.load(Ordering::Relaxed);
        let own = load(self.index);
        let least = (0..shared.io.len()).min_by_key(|&index| load(index)).filter(|&index| load(index) < own);
        shared.io[least.unwrap_or(self.index)].load.fetch_add(1, Ordering::Relaxed);
        match least {
            Some(index) => shared.io[index].mailbox.send(Message::Connection(socket, peer)),
            None => self.adopt(socket, peer),
        }
    }

    /// Closes the connection that has been idle longest, on whatever thread. True if it was one of ours; another thread
    /// is told, and until it has done so nobody makes room.
    fn make_room(&mut self) -> bool {
        self.publish_idle();
        let shared = &self.core.shared;
        if shared.making_room.load(Ordering::SeqCst) {
            return false;
        }
        let since = |index: usize| shared.io[index].idle_since.load(Ordering::Relaxed);
        let oldest = (0..shared.io.len()).min_by_key(|&index| since(index)).filter(|&index| since(index) != u32::MAX);
        match oldest {
            Some(index) if index == self.index => self.evict_own(),
            Some(index) => {
                shared.making_room.store(true, Ordering::SeqCst);
                shared.io[index].mailbox.send(Message::Evict);
                false
            }
            None => false,
        }
    }
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
