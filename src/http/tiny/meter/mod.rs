//! What a connection sends, seen before tiny_http has it: the measure of the head that is coming.
//!
//! tiny_http gathers a head of any size, each short field in more than twenty times its bytes, and a version that it does
//! not speak costs it a thread for ever. All that is read of a connection comes through here (see [`super::sys::recv`]), so
//! a head that is over a limit, or that tiny_http would misread, is refused before tiny_http makes anything of it; and all
//! heads that are coming share `limits.heads_bytes_max`: beyond it the heaviest ends with 408. A large head behind a request
//! that is not answered yet waits in the kernel, and in the client.
//!
//! Bodies in chunks, and very long ones, larder reads itself ([`Meter::read_own`]): tiny_http gets no byte of them. What was
//! read beyond such a place is held until whoever is to have it asks.
//!
//! A refusal is carried out by the thread of tiny_http that reads the connection, once every earlier request is answered;
//! until its client has gone, what still comes is thrown away. Invariant: nothing of a faulty head reaches tiny_http, and
//! all that came before it does.

mod fault;
mod framing;
pub mod hide;
mod request_line;
mod sender;
mod tracker;

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread::Thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::connection::Key;
use super::figures::Reason;
use super::porch::Porch;
use super::sys::Gauge;
use crate::http::epoll::chunked::ChunkError;
use crate::http::problem::Problem;
use crate::limits::Limits;
use fault::Fault;
use tracker::Tracker;

/// Bytes of a head that tiny_http is given while an earlier request of the connection waits for its answer.
const AHEAD_BYTES: usize = 2 * 1024;
/// Bytes behind a faulty place that are looked at for the origin of the page that sent it.
const PEEKED_BYTES: usize = 16 * 1024;
/// A thread that waits for that looks at least this often whether it still must.
const AHEAD_WAIT: Duration = Duration::from_millis(250);
/// Bytes of one read of a body that larder reads itself.
const OWN_READ_BYTES: usize = 16 * 1024;

/// What all heads that are coming weigh.
#[derive(Default)]
pub struct Heads {
    bytes: AtomicU64,
}

/// The measure of one connection.
pub struct Meter {
    porch: Weak<Porch>,
    inode: u64,
    key: Key,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    tracker: Tracker,
    /// What the head that is coming weighs, and since when it has been coming.
    charged_bytes: u64,
    since: Option<Instant>,
    end: End,
    /// A thread of tiny_http waits for its turn.
    is_waiting: bool,
    /// What was read and is not tracked yet.
    held: VecDeque<u8>,
    /// A thread of tiny_http has begun to read it; who waits for that.
    has_thread: bool,
    waiter: Option<Thread>,
}

/// How far the end of the connection is.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum End {
    #[default]
    No,
    /// It is to be refused when its turn comes.
    Due(Refusal),
    /// Nothing of it matters any more.
    Over,
}

/// Why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Fault(Fault),
    /// All heads together weighed too much.
    Memory,
}

impl Refusal {
    /// What is counted.
    pub fn reason(self) -> Reason {
        match self {
            Refusal::Fault(_) => Reason::Head,
            Refusal::Memory => Reason::Memory,
        }
    }

    /// What the client is told.
    pub fn problem(self, limits: &Limits) -> Problem {
        match self {
            Refusal::Fault(fault) => fault.problem(limits),
            Refusal::Memory => {
                let text = "too many heads were coming at once, and this was the largest; try again";
                Problem::new(408, "REQUEST_TIMEOUT", text)
            }
        }
    }
}

/// What became of a read.
enum Read {
    /// So much of it goes on.
    Given(usize),
    /// The same, of so many before the head that is coming, but all heads together weigh too much now.
    Pressed(usize, usize),
}

impl Meter {
    /// For a connection that has just come in.
    pub fn new(porch: &Arc<Porch>, inode: u64, key: Key) -> Meter {
        Meter { porch: Arc::downgrade(porch), inode, key, state: Mutex::default() }
    }

    /// What the head that is coming weighs, and since when it has been coming; `None` if none is.
    pub fn coming(&self) -> Option<(u64, Instant)> {
        let state = self.state.lock();
        state.since.map(|since| (state.charged_bytes, since))
    }

    /// Whether tiny_http has been given requests of which the engine, which knows of so many, does not know yet.
    pub fn is_ahead_of(&self, taken: u64) -> bool {
        taken < self.state.lock().tracker.heads()
    }

    /// Whether its thread of tiny_http waits for earlier requests before it reads on.
    pub fn is_waiting(&self) -> bool {
        self.state.lock().is_waiting
    }

    /// Bytes of the body of the last of so many requests that have not been read from the socket.
    pub fn body_left(&self, taken: u64) -> u64 {
        let state = self.state.lock();
        if state.tracker.heads() > taken { 0 } else { state.tracker.body_left() }
    }

    /// Waits until a thread of tiny_http reads the connection, but not for long. False if none does by then.
    pub fn wait_for_thread(&self, at_most: Duration) -> bool {
        let deadline = Instant::now() + at_most;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut state = self.state.lock();
            state.waiter = (!state.has_thread && !left.is_zero()).then(std::thread::current);
            if state.waiter.is_none() {
                return state.has_thread;
            }
            drop(state);
            std::thread::park_timeout(left);
        }
    }

    /// Whether something was read that nobody has had yet.
    pub fn has_held(&self) -> bool {
        !self.state.lock().held.is_empty()
    }

    /// Whether the client need send nothing now: what it sent was not had yet, or no body of it is incomplete.
    pub fn has_kept(&self) -> bool {
        let state = self.state.lock();
        !state.held.is_empty() || state.tracker.body_left() == 0
    }

    /// Whether a thread of tiny_http has begun to read the connection.
    pub fn has_thread(&self) -> bool {
        self.state.lock().has_thread
    }

    /// Bytes that came between requests and are no part of any.
    pub fn skipped_bytes(&self) -> u64 {
        self.state.lock().tracker.skipped_bytes()
    }

    /// Holds a body in chunks, of which nothing was read yet, against a limit.
    pub fn set_own_limit(&self, bytes_max: u64) {
        self.state.lock().tracker.set_own_limit(bytes_max);
    }

    /// Reads what there is of a body that tiny_http has no part in. Returns how much it is, and whether the body is whole.
    /// `WouldBlock` if nothing of it has come, `FileTooLarge` if it is over its limit; another error if it is broken, or can
    /// come no more.
    pub fn read_own(&self, socket: &OwnedFd, out: &mut [u8]) -> io::Result<(usize, bool)> {
        let mut piece = [0u8; OWN_READ_BYTES];
        let mut state = self.state.lock();
        loop {
            if state.end != End::No {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let most = out.len().min(OWN_READ_BYTES);
            let came = match state.held.read(&mut piece[..most])? {
                0 => match recv(socket, &mut piece[..most], RecvFlags::DONTWAIT) {
                    Ok((0, _)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok((came, _)) => came,
                    Err(Errno::INTR) => continue,
                    Err(error) => return Err(error.into()),
                },
                held => held,
            };
            let mut count = 0;
            let found = state.tracker.follow_own(&piece[..came], |data| {
                out[count..count + data.len()].copy_from_slice(data);
                count += data.len();
            });
            let (used, is_whole) = match found {
                Ok(found) => found,
                Err(error) => {
                    // Nobody reads it to its end, so what follows is nothing to tiny_http.
                    state.end = End::Over;
                    let is_large = error == ChunkError::TooLarge;
                    return Err(if is_large { io::ErrorKind::FileTooLarge } else { io::ErrorKind::InvalidData }.into());
                }
            };
            state.hold_back(&piece[used..came]);
            if count > 0 || is_whole {
                return Ok((count, is_whole));
            }
        }
    }

    /// Has the connection refused when its turn comes, if a head is coming, which counts as nothing from now on.
    pub fn end(&self, refusal: Refusal, heads: &Heads) -> bool {
        let mut state = self.state.lock();
        let is_due = state.end == End::No && state.since.is_some();
        if is_due {
            state.end = End::Due(refusal);
        }
        state.charge(0, heads);
        is_due
    }

    /// What is known of a head that is refused: what was kept of it, what came with the fault, and what has come since.
    pub fn what_came(&self, socket: &OwnedFd) -> Vec<u8> {
        let mut all = self.state.lock().tracker.take_sender();
        let mut since = vec![0; PEEKED_BYTES];
        let count = rustix::net::recv(socket, &mut since[..], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        all.extend_from_slice(&since[..count.map_or(0, |(_, count)| count)]);
        all
    }

    /// Notes that nothing of the connection matters any more.
    pub fn close(&self, heads: &Heads) {
        let mut state = self.state.lock();
        state.end = End::Over;
        state.charge(0, heads);
    }

    fn follow(&self, bytes: &mut [u8], heads: &Heads, limits: &Limits, is_theirs: bool) -> Read {
        let mut state = self.state.lock();
        if state.end != End::No {
            // Whatever else reads has begun before, and has its right to the rest.
            return Read::Given(if is_theirs { 0 } else { bytes.len() });
        }
        let before = state.tracker.heads();
        let found = state.tracker.follow(bytes, limits);
        if state.tracker.heads() != before {
            state.since = None;
        }
        if let Some(fault) = found.fault {
            state.charge(0, heads);
            state.end = End::Due(Refusal::Fault(fault));
            // What comes before is of another message, which is good.
            return Read::Given(found.before);
        }
        state.hold_back(&bytes[found.given..found.end]);
        let weight = state.tracker.weight();
        let has_grown = weight > state.charged_bytes;
        state.charge(weight, heads);
        match has_grown && heads.bytes.load(Ordering::Relaxed) > limits.heads_bytes_max {
            true => Read::Pressed(found.before, found.given),
            false => Read::Given(found.given),
        }
    }

    /// Waits until every earlier request of the connection is answered. False if it has ended, or something that tiny_http
    /// was given never became a request.
    fn wait_for_turn(&self, porch: &Porch) -> bool {
        let mut idle_since = Instant::now();
        loop {
            let glimpse = porch.glimpse(&self.key);
            let (taken, is_busy) = glimpse.as_ref().map_or((0, false), |glimpse| (glimpse.taken, glimpse.busy));
            if glimpse.is_some_and(|glimpse| glimpse.ended) || self.state.lock().end == End::Over {
                return false;
            }
            if !is_busy && !self.is_ahead_of(taken) {
                return true;
            }
            // Requests may wait in tiny_http's queue for as long as all workers are held up.
            if is_busy {
                idle_since = Instant::now();
            } else if porch.shared().is_none() || idle_since.elapsed() >= 4 * porch.limits().request_timeout {
                return false;
            }
            self.state.lock().is_waiting = true;
            porch.ahead.wait(self.key, || {
                porch.glimpse(&self.key).is_some_and(|glimpse| glimpse.busy && !glimpse.ended)
                    || self.is_ahead_of(taken)
            });
            self.state.lock().is_waiting = false;
        }
    }

    /// Refuses the connection once its turn has come.
    fn refuse(&self, porch: &Porch, refusal: Refusal) {
        while self.wait_for_turn(porch) {
            if porch.refuse_head(self.inode, refusal) {
                return;
            }
        }
        porch.cut(self.inode);
    }
}

impl State {
    /// Puts back what is not to be had yet, before what is held already.
    fn hold_back(&mut self, bytes: &[u8]) {
        bytes.iter().rev().for_each(|byte| self.held.push_front(*byte));
    }

    fn charge(&mut self, bytes: u64, heads: &Heads) {
        let before = std::mem::replace(&mut self.charged_bytes, bytes);
        heads.bytes.fetch_add(bytes.wrapping_sub(before), Ordering::Relaxed);
        self.since = (bytes > 0).then(|| self.since.unwrap_or_else(Instant::now));
    }
}

impl Gauge for Meter {
    fn before(&self, is_theirs: bool) -> io::Result<()> {
        let (end, is_large, is_own) = {
            let mut state = self.state.lock();
            if is_theirs && !state.has_thread {
                state.has_thread = true;
                state.waiter.take().inspect(Thread::unpark);
            }
            (state.end, state.tracker.bytes() > AHEAD_BYTES, state.tracker.is_at_own())
        };
        match (end, is_theirs) {
            (End::Over, false) => Err(io::ErrorKind::InvalidData.into()),
            (End::Due(refusal), true) => {
                self.porch.upgrade().inspect(|porch| self.refuse(porch, refusal));
                self.state.lock().end = End::Over;
                Ok(())
            }
            (End::No, true) if is_large || is_own => {
                let _ = self.porch.upgrade().map(|porch| self.wait_for_turn(&porch));
                let state = self.state.lock();
                // It was answered without its body, and the connection ends.
                if state.end == End::No && state.tracker.is_at_own() {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn held(&self, buffer: &mut [MaybeUninit<u8>]) -> usize {
        let mut state = self.state.lock();
        let count = if state.end == End::No { state.held.len().min(buffer.len()) } else { 0 };
        buffer.iter_mut().zip(state.held.drain(..count)).for_each(|(to, byte)| _ = to.write(byte));
        count
    }

    fn gives(&self, bytes: &mut [u8], is_theirs: bool) -> io::Result<usize> {
        let Some(porch) = self.porch.upgrade() else { return Ok(bytes.len()) };
        match self.follow(bytes, &porch.heads, &porch.limits(), is_theirs) {
            Read::Given(count) => Ok(count),
            Read::Pressed(before, given) => {
                porch.end_heaviest_head();
                let is_ended = self.state.lock().end != End::No;
                Ok(if is_ended && is_theirs { before } else { given })
            }
        }
    }
}

/// The threads of tiny_http that wait for the turn of their connections.
#[derive(Default)]
pub struct Ahead {
    waiting: AtomicUsize,
    threads: Mutex<HashMap<Key, Thread>>,
}

impl Ahead {
    fn wait(&self, key: Key, must: impl Fn() -> bool) {
        self.threads.lock().insert(key, std::thread::current());
        self.waiting.fetch_add(1, Ordering::SeqCst);
        if must() {
            std::thread::park_timeout(AHEAD_WAIT);
        }
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        self.threads.lock().remove(&key);
    }

    /// A connection has no request at work any more.
    pub fn wake(&self, key: &Key) {
        if self.waiting.load(Ordering::SeqCst) > 0
            && let Some(thread) = self.threads.lock().get(key)
        {
            thread.unpark();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_share_one_budget_and_give_it_back() {
        let (heads, limits) = (Heads::default(), Limits { heads_bytes_max: 10_000, ..Limits::default() });
        let key = Key { port: 80, peer: ([127, 0, 0, 1], 1).into() };
        let meter = || Meter { porch: Weak::new(), inode: 0, key, state: Mutex::default() };
        let (one, other) = (meter(), meter());
        let follow = |meter: &Meter, text: &str| meter.follow(&mut text.as_bytes().to_vec(), &heads, &limits, true);
        let get = "GET / HTTP/1.1\r\n\r\n";
        let start = format!("{get}GET / HTTP/1.1\r\nX: {}", "y".repeat(3000));
        assert!(matches!(follow(&one, &start), Read::Given(count) if count == start.len()));
        assert!(matches!(follow(&other, &start), Read::Pressed(count, _) if count == get.len()), "they weigh too much");
        assert!(one.coming().unwrap().1 < other.coming().unwrap().1);
        assert!(one.end(Refusal::Memory, &heads));
        assert!(one.coming().is_none());
        assert!(matches!(follow(&one, "y"), Read::Given(0)), "it is thrown away");
        assert!(matches!(follow(&other, "y"), Read::Given(1)));
        assert!(matches!(follow(&other, "\r\n\r\n"), Read::Given(4)));
        assert!(other.coming().is_none());
        assert_eq!(heads.bytes.load(Ordering::Relaxed), 0);
        assert!(other.is_ahead_of(1) && !other.is_ahead_of(2));
        assert!(!other.end(Refusal::Memory, &heads), "no head is coming any more");
    }

    #[test]
    fn what_is_in_a_body_costs_nothing_and_ends_nothing() {
        let (heads, limits) = (Heads::default(), Limits::default());
        let key = Key { port: 80, peer: ([127, 0, 0, 1], 1).into() };
        let meter = Meter { porch: Weak::new(), inode: 0, key, state: Mutex::default() };
        let body = "a\r\nGET / HTTP/2.0\r\n\r\n".repeat(100);
        let put = format!("PUT / HTTP/1.1\r\nContent-Length: {}\r\n\r\n", body.len() + 1);
        let all = [put, body].concat();
        for (part, is_theirs) in [(&all[..500], true), (&all[500..], false), ("x", false)] {
            let read = meter.follow(&mut part.as_bytes().to_vec(), &heads, &limits, is_theirs);
            assert!(matches!(read, Read::Given(count) if count == part.len()));
            assert!(meter.coming().is_none());
        }
        assert!(matches!(meter.follow(&mut b"GET / HTTP/2.0\r\n".to_vec(), &heads, &limits, true), Read::Given(0)));
        assert!(meter.state.lock().end == End::Due(Refusal::Fault(Fault::Version)));
    }
}
