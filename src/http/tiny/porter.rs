//! Taking connections from a listener in tiny_http's stead: through the door, and only as many as may be.
//!
//! It runs on tiny_http's accept thread, which gets the next connection from here whenever it wants one (see
//! [`super::sys::accept4`]). The rules are those of the epoll engine: where there is no place, whoever has been quiet
//! longest makes way; where none can, a new connection waits a moment beside the places and is then answered 503.
//!
//! Invariant: nothing here waits for longer than a moment while somebody waits, and no descriptor is taken that the door
//! does not allow.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, acceptfrom_with, recv, send};

use super::connection::Key;
use super::figures::Reason;
use super::meter::Meter;
use super::porch::Porch;
use super::reply::outcome;
use super::shared::Shared;
use super::sys::{self, Porter};
use crate::http::door::seat::Seat;
use crate::http::door::{Full, Whose, no_place};
use crate::http::epoll::parse::method_of;
use crate::http::headers::Head;
use crate::http::message::{Body, Cut, Peer, Response, Trace};
use crate::http::method::Method;
use crate::http::wire::{self, Framing, HeadContext};

/// How often those who wait, and those on their way out, are looked after.
const TURN: Duration = Duration::from_millis(20);
/// How long a connection without a place waits for one.
const HELD: Duration = Duration::from_millis(500);
/// How long the next connection waits for a thread of tiny_http to read the one before.
const THREAD_WAIT: Duration = Duration::from_millis(10);
/// How long one that was refused may still send.
const LINGER: Duration = Duration::from_secs(2);
/// The longest pause after an error.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// A connection that waits for a place, or was refused one.
struct Held {
    socket: OwnedFd,
    peer: SocketAddr,
    seat: Arc<Seat>,
    since: Instant,
}

#[derive(Default)]
struct State {
    held: VecDeque<Held>,
    refused: Vec<Held>,
    pause: Duration,
    /// The connection that tiny_http got last.
    last: Option<Arc<Meter>>,
}

/// The porter of one listener.
pub struct DoorPorter {
    porch: Arc<Porch>,
    listener: TcpListener,
    port: u16,
    state: Mutex<State>,
    /// How often it has looked for connections; 0: tiny_http has not asked yet.
    turns: AtomicU64,
}

impl Porter for DoorPorter {
    fn next(&self) -> io::Result<OwnedFd> {
        let mut state = self.state.lock();
        // IMPORTANT: tiny_http counts a thread as idle until it has woken up for what it was given. Connections that come
        // faster all go to that one, and all but one wait for the guard.
        if state.last.take().is_some_and(|last| !last.wait_for_thread(THREAD_WAIT)) {
            self.porch.shared().inspect(|shared| shared.nudge.now());
        }
        loop {
            self.turns.fetch_add(1, Ordering::Relaxed);
            if !self.porch.is_open() {
                std::thread::sleep(Duration::from_millis(1));
                continue;
            }
            if self.porch.is_draining() {
                *state = State::default();
                return Err(Errno::AGAIN.into());
            }
            if let Some(socket) = self.look_after(&mut state) {
                return Ok(socket);
            }
            let is_quiet = !self.porch.tend() && state.held.is_empty() && state.refused.is_empty();
            if !self.may_accept() {
                self.porch.wait_for_look(TURN);
                continue;
            }
            if !self.someone_waits((!is_quiet).then_some(TURN)) {
                continue;
            }
            match acceptfrom_with(&self.listener, SocketFlags::CLOEXEC) {
                Ok((socket, address)) => {
                    state.pause = Duration::ZERO;
                    self.porch.figures.accepted.inc();
                    let peer = address.and_then(|address| SocketAddr::try_from(address).ok());
                    if let Some(socket) = peer.and_then(|peer| self.admit(&mut state, socket, peer)) {
                        return Ok(socket);
                    }
                }
                Err(Errno::AGAIN) => {}
                Err(Errno::BADF | Errno::INVAL | Errno::NOTSOCK) => return Err(Errno::BADF.into()),
                Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => self.pause(&mut state),
                // Of one connection, which has gone.
                Err(_) => {}
            }
        }
    }
}

impl DoorPorter {
    /// One for a listener.
    pub fn new(porch: Arc<Porch>, listener: &TcpListener) -> io::Result<DoorPorter> {
        let (listener, port) = (listener.try_clone()?, listener.local_addr()?.port());
        Ok(DoorPorter { porch, listener, port, state: Mutex::default(), turns: AtomicU64::new(0) })
    }

    /// Whether tiny_http has asked here for a connection.
    pub fn is_asked(&self) -> bool {
        self.turns() > 0
    }

    /// How often it has looked for connections.
    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    /// Waits until somebody wants to come in.
    fn someone_waits(&self, at_most: Option<Duration>) -> bool {
        let time = at_most.map(|time| Timespec { tv_sec: 0, tv_nsec: i64::from(time.subsec_nanos()) as _ });
        let mut watched = [PollFd::from_borrowed_fd(self.listener.as_fd(), PollFlags::IN)];
        poll(&mut watched, time.as_ref()).is_ok_and(|ready| ready > 0)
    }

    /// Whether one more descriptor may be taken. A place is made for a connection that waits, not for one that may come.
    fn may_accept(&self) -> bool {
        let limits = self.porch.limits();
        if self.porch.door.has_place(&limits) {
            return true;
        }
        if !self.someone_waits(Some(Duration::ZERO)) {
            return false;
        }
        self.porch.make_room(Whose::Largest);
        self.porch.door.has_place(&limits) || self.porch.door.has_room_beside(&limits)
    }

    fn pause(&self, state: &mut State) {
        self.porch.figures.accept_errors.inc();
        state.pause = (state.pause * 2).clamp(TURN, PAUSE_MAX);
        log::warn!("accept failed: too many files are open, or memory is short");
        self.porch.make_room(Whose::Largest);
        std::thread::sleep(state.pause);
    }

    /// Gives a connection a place, or has it wait for one.
    fn admit(&self, state: &mut State, socket: OwnedFd, peer: SocketAddr) -> Option<OwnedFd> {
        let (door, limits) = (&self.porch.door, self.porch.limits());
        let as_peer = Peer::Tcp(peer.ip().to_canonical(), peer.port());
        if self.is_over(&socket) {
            // The guard's kicks are such: they need no place, and must come through.
            return door.wait(as_peer, &limits).map(|seat| self.welcome(state, socket, peer, seat));
        }
        let mut entered = door.enter(as_peer, &limits);
        if let Err(full) = entered
            && self.porch.make_room(full.whose_to_go())
        {
            entered = door.enter(as_peer, &limits);
        }
        match entered {
            Ok(seat) => return Some(self.welcome(state, socket, peer, seat)),
            Err(full) => match door.wait(as_peer, &limits) {
                Some(seat) => state.held.push_back(Held { socket, peer, seat, since: Instant::now() }),
                None => self.refuse(&socket, peer, full),
            },
        }
        None
    }

    /// Whether its client has closed it and sent nothing.
    fn is_over(&self, socket: &OwnedFd) -> bool {
        let is_open = sys::tcp_info(socket).is_ok_and(|info| info.state == sys::TCP_ESTABLISHED);
        !is_open && rustix::io::ioctl_fionread(socket).unwrap_or(0) == 0
    }

    fn welcome(&self, state: &mut State, socket: OwnedFd, peer: SocketAddr, seat: Arc<Seat>) -> OwnedFd {
        let inode = rustix::fs::fstat(&socket).map_or(0, |stat| stat.st_ino);
        let key = Key { port: self.port, peer };
        state.last = Some(self.porch.welcome(inode, socket.as_raw_fd(), key, seat));
        socket
    }

    /// Gives those who wait a place, or a refusal once they have waited long enough, and lets the refused go.
    fn look_after(&self, state: &mut State) -> Option<OwnedFd> {
        let (door, limits) = (&self.porch.door, self.porch.limits());
        state.refused.retain(|refused| {
            let stays = refused.since.elapsed() < LINGER && is_still_there(&refused.socket);
            if !stays {
                door.leave(&refused.seat);
            }
            stays
        });
        for _ in 0..state.held.len() {
            let mut held = state.held.pop_front()?;
            let mut entered = door.enter_late(&held.seat, &limits);
            if let Err(full) = entered
                && self.porch.make_room(full.whose_to_go())
            {
                entered = door.enter_late(&held.seat, &limits);
            }
            match entered {
                Ok(()) => return Some(self.welcome(state, held.socket, held.peer, held.seat)),
                Err(full) if held.since.elapsed() >= HELD => {
                    self.refuse(&held.socket, held.peer, full);
                    held.since = Instant::now();
                    state.refused.push(held);
                }
                Err(_) => state.held.push_back(held),
            }
        }
        if !state.held.is_empty() {
            self.porch.wait_for_look(TURN);
        }
        None
    }

    /// There is no place for this connection: what came of its first request is read, and answered.
    fn refuse(&self, socket: &OwnedFd, peer: SocketAddr, full: Full) {
        self.porch.figures.closed(Reason::refused_at(full));
        let mut came = [0u8; 4096];
        let count = recv(socket, &mut came[..], RecvFlags::DONTWAIT).map_or(0, |(_, count)| count);
        let method = method_of(&came[..count]);
        if let Some(shared) = self.porch.shared() {
            answer_past(&shared, socket, peer, method, &Head::salvage(&came[..count]), no_place(full, method));
        }
    }
}

/// Answers past tiny_http, on a connection whose requests nobody else answers any more. `head` is what is known of one.
pub fn answer_past(
    shared: &Shared,
    socket: &OwnedFd,
    peer: SocketAddr,
    method: Method,
    head: &Head,
    mut response: Response,
) {
    let began_at = Instant::now();
    let mut trace = Trace::new(method, Peer::Tcp(peer.ip().to_canonical(), peer.port()), began_at);
    response.close = true;
    shared.handler.note(head, &mut trace);
    response.seal(&mut trace);
    let mut bytes = Vec::with_capacity(512);
    let context = HeadContext { method, http_1_0: false, keep_alive: false };
    let framing = wire::write_head(&mut bytes, &response, context);
    let head_bytes = bytes.len();
    if let (Body::Bytes(body), true) = (&response.body, framing != Framing::None) {
        bytes.extend_from_slice(body);
    }
    let sent = send(socket, &bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).is_ok_and(|sent| sent == bytes.len());
    let body_bytes = (bytes.len() - head_bytes) as u64;
    let cut = (!sent).then_some(Cut::Client);
    shared.finished(&trace, &outcome(response.status, body_bytes, began_at, cut));
}

/// Reads away what a refused client still sends; false once it has closed the connection.
fn is_still_there(socket: &OwnedFd) -> bool {
    let mut piece = [0u8; 16 * 1024];
    loop {
        match recv(socket, &mut piece[..], RecvFlags::DONTWAIT) {
            Ok((_, count)) if count > 0 => {}
            Err(Errno::AGAIN | Errno::INTR) => return true,
            _ => return false,
        }
    }
}
