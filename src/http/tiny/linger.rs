//! Connections that were answered before the client had sent its whole body: what still comes is read and thrown away,
//! because a socket that is closed with bytes on their way resets the connection, and the client loses the answer.
//!
//! IMPORTANT: until the end both directions stay open. Linux answers bytes that come after *our* end with a reset at
//! once. Invariant: a connection is held for at most [`LINGER`] and [`LINGER_BYTES_MAX`], and at most [`HELD_MAX`] are.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::net::RecvFlags;

use super::body::RawRequest;
use super::connection::Connection;
use super::shared::Shared;
use super::{socket, sys};

/// How long a client may go on sending after its answer.
pub const LINGER: Duration = Duration::from_secs(2);
/// How much it may send.
const LINGER_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Connections held at most.
const HELD_MAX: usize = 64;
/// A client whose sending is blocked must be drained soon, so there is a look this often while bytes come.
const PAUSE: Duration = Duration::from_millis(2);
/// The pause while nothing comes.
const PAUSE_QUIET: Duration = Duration::from_millis(20);
/// Reads for one connection before the next one has its turn.
const READS_PER_TURN: usize = 32;

/// What is left of an answered request.
pub struct Leftover {
    /// The connection's socket.
    pub socket: OwnedFd,
    /// The request. As long as it lives tiny_http reads nothing.
    pub request: Option<Box<RawRequest>>,
}

impl Leftover {
    /// Ends the connection and lets tiny_http have its request back.
    pub fn dispose(self, shared: &Shared, connection: &Connection) {
        // IMPORTANT: the socket first. The request's end reads what is left, and lets tiny_http write what it thinks
        // of the bytes that follow.
        socket::cut(&self.socket);
        connection.note_cut();
        if let Some(request) = self.request {
            drop(shared.give_up(*request, connection, Some(&self.socket)));
        }
    }
}

/// One connection that is held open.
struct Held {
    connection: Arc<Connection>,
    leftover: Leftover,
    since: Instant,
    drained_bytes: u64,
}

impl Held {
    /// Reads away what has come. True if that was anything.
    fn drain(&mut self) -> bool {
        let mut buffer = [0u8; 32 * 1024];
        let before = self.drained_bytes;
        for _ in 0..READS_PER_TURN {
            match rustix::net::recv(&self.leftover.socket, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((_, count)) if count > 0 => self.drained_bytes += count as u64,
                _ => break,
            }
        }
        self.drained_bytes > before
    }

    /// Drains once. True if the connection may end now.
    fn tend(&mut self, came: &mut bool) -> bool {
        // Asked first: what came before the client's end must be read, or it makes our end a reset after all.
        let is_open = sys::tcp_info(&self.leftover.socket).is_ok_and(|info| info.state == sys::TCP_ESTABLISHED);
        let drained = self.drain();
        *came |= drained;
        let is_spent = self.since.elapsed() >= LINGER || self.drained_bytes >= LINGER_BYTES_MAX;
        is_spent || (!is_open && !drained)
    }
}

/// The connections that are held open.
#[derive(Default)]
pub struct Lingering {
    state: Mutex<State>,
    bell: Condvar,
}

#[derive(Default)]
struct State {
    arrivals: Vec<Held>,
    held: usize,
    stopping: bool,
}

impl Lingering {
    /// Holds a connection open until its client has closed it. Gives it back if too many are held.
    pub fn hold(&self, connection: Arc<Connection>, leftover: Leftover) -> Result<(), Leftover> {
        let mut state = self.state.lock();
        if state.stopping || state.held >= HELD_MAX {
            return Err(leftover);
        }
        state.held += 1;
        state.arrivals.push(Held { connection, leftover, since: Instant::now(), drained_bytes: 0 });
        self.bell.notify_one();
        Ok(())
    }

    /// Ends the thread that runs [`Lingering::run`], and every connection that is held.
    pub fn stop(&self) {
        self.state.lock().stopping = true;
        self.bell.notify_one();
    }

    /// The life of the one thread that tends them.
    pub fn run(&self, shared: &Shared) {
        let heartbeat = shared.watchdog.heartbeat("the end of connections");
        let mut all: Vec<Held> = Vec::new();
        let mut came = true;
        loop {
            let stopping = heartbeat.wait(|max| {
                let pause = match (all.is_empty(), came) {
                    (true, _) => max,
                    (_, true) => PAUSE,
                    (_, false) => PAUSE_QUIET,
                };
                self.collect(&mut all, pause)
            });
            came = false;
            let mut at = 0;
            while at < all.len() {
                if stopping || all[at].tend(&mut came) {
                    let held = all.swap_remove(at);
                    held.leftover.dispose(shared, &held.connection);
                    self.state.lock().held -= 1;
                } else {
                    at += 1;
                }
            }
            if stopping {
                return;
            }
        }
    }

    /// Waits for arrivals, no longer than `pause`. True if this is the end.
    fn collect(&self, all: &mut Vec<Held>, pause: Duration) -> bool {
        let mut state = self.state.lock();
        if state.arrivals.is_empty() && !state.stopping {
            self.bell.wait_for(&mut state, pause);
        }
        all.append(&mut state.arrivals);
        state.stopping
    }
}

/// A writer that goes to the connection past tiny_http. For a request whose turn it is: nothing else writes then.
pub fn writer(socket: &OwnedFd) -> io::Result<Box<dyn io::Write + Send>> {
    Ok(Box::new(std::fs::File::from(socket.try_clone()?)))
}
