//! What a connection sends, seen before tiny_http has it: the measure of the head that is coming.
//!
//! tiny_http gathers a head of any size, each short field in more than twenty times its bytes, and a version that it does
//! not speak costs it a thread for ever. Its reads come through here (see [`super::sys::recv`]), so a head that is over a
//! limit, or speaks another version, is refused before tiny_http makes anything of it; and all heads that are coming
//! share `limits.heads_bytes_max`: beyond it the one that has been coming longest ends with 408. A large head behind a
//! request that is not answered yet waits in the kernel, and in the client.
//!
//! Invariant: what tiny_http has been given of heads that are not whole never weighs more than that budget, but for one
//! read of each thread.

mod tracker;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread::Thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::connection::Key;
use super::porch::Porch;
use super::sys::Gauge;
use crate::limits::Limits;
use tracker::{Fault, Tracker};

/// Bytes of a head that tiny_http is given while an earlier request of the connection waits for its answer.
const AHEAD_BYTES: usize = 2 * 1024;
/// A thread that waits for that looks at least this often whether it still must.
const AHEAD_WAIT: Duration = Duration::from_millis(250);
/// A request that tiny_http has been given is known to the engine by then.
const LAG: Duration = Duration::from_secs(1);

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
    /// Nothing more is given to tiny_http.
    is_deaf: AtomicBool,
}

#[derive(Default)]
struct State {
    tracker: Tracker,
    charged_bytes: u64,
    since: Option<Instant>,
}

/// The head that is coming.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coming {
    /// So small that it may come ahead of its turn.
    Small,
    Large,
    /// All heads together weigh too much.
    TooMuch,
}

impl Meter {
    /// For a connection that has just come in.
    pub fn new(porch: &Arc<Porch>, inode: u64, key: Key) -> Meter {
        Meter { porch: Arc::downgrade(porch), inode, key, state: Mutex::default(), is_deaf: AtomicBool::new(false) }
    }

    /// Since when the head has been coming that is not whole.
    pub fn since(&self) -> Option<Instant> {
        self.state.lock().since
    }

    /// How many heads tiny_http has been given whole, as far as can be seen from here.
    pub fn heads(&self) -> u64 {
        self.state.lock().tracker.heads
    }

    /// Gives tiny_http nothing more, and counts as nothing from now on.
    pub fn end(&self, heads: &Heads) {
        self.is_deaf.store(true, Ordering::SeqCst);
        let mut state = self.state.lock();
        heads.bytes.fetch_sub(std::mem::take(&mut state.charged_bytes), Ordering::Relaxed);
        state.since = None;
    }

    /// Follows what came, and charges what it makes of the head.
    fn follow(&self, bytes: &[u8], heads: &Heads, limits: &Limits) -> Result<Coming, (usize, Fault)> {
        let mut state = self.state.lock();
        state.tracker.follow(bytes, limits)?;
        let (now, before) = (state.tracker.weight(), state.charged_bytes);
        if now == before {
            return Ok(Coming::Small);
        }
        state.charged_bytes = now;
        state.since = (now > 0).then(|| state.since.unwrap_or_else(Instant::now));
        heads.bytes.fetch_add(now.wrapping_sub(before), Ordering::Relaxed);
        match now > before && heads.bytes.load(Ordering::Relaxed) > limits.heads_bytes_max {
            true => Ok(Coming::TooMuch),
            false if state.tracker.bytes > AHEAD_BYTES => Ok(Coming::Large),
            false => Ok(Coming::Small),
        }
    }
}

impl Meter {
    /// Waits until every earlier request of the connection is answered, or it has ended.
    fn wait_for_turn(&self, porch: &Porch) {
        let (since, heads) = (Instant::now(), self.heads());
        let owes = || porch.owes(&self.key, if since.elapsed() < LAG { heads } else { 0 });
        while !self.is_deaf.load(Ordering::SeqCst) && owes() {
            porch.ahead.wait(self.key, owes);
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

impl Gauge for Meter {
    fn gives(&self, bytes: &[u8]) -> usize {
        let Some(porch) = self.porch.upgrade() else { return bytes.len() };
        if self.is_deaf.load(Ordering::SeqCst) {
            return 0;
        }
        let limits = porch.limits();
        match self.follow(bytes, &porch.heads, &limits) {
            Ok(Coming::Small) => return bytes.len(),
            Ok(Coming::Large) => {}
            Ok(Coming::TooMuch) => porch.end_oldest_head(),
            Err((good, fault)) => {
                porch.refuse_head(self.inode, fault.problem(&limits));
                return good;
            }
        }
        self.wait_for_turn(&porch);
        if self.is_deaf.load(Ordering::SeqCst) { 0 } else { bytes.len() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_share_one_budget_and_give_it_back() {
        let (heads, limits) = (Heads::default(), Limits { heads_bytes_max: 10_000, ..Limits::default() });
        let key = Key { port: 80, peer: ([127, 0, 0, 1], 1).into() };
        let meter =
            || Meter { porch: Weak::new(), inode: 0, key, state: Mutex::default(), is_deaf: AtomicBool::new(false) };
        let (one, other) = (meter(), meter());
        let start = format!("GET / HTTP/1.1\r\nX: {}", "y".repeat(3000));
        assert_eq!(one.follow(start.as_bytes(), &heads, &limits), Ok(Coming::Large));
        assert_eq!(
            other.follow(start.as_bytes(), &heads, &limits),
            Ok(Coming::TooMuch),
            "together they weigh too much"
        );
        assert!(one.since() < other.since());
        one.end(&heads);
        assert_eq!(one.since(), None);
        assert_eq!(other.follow(b"y", &heads, &limits), Ok(Coming::Large));
        assert_eq!(other.follow(b"\r\n\r\n", &heads, &limits), Ok(Coming::Small));
        assert_eq!((other.heads(), other.since(), heads.bytes.load(Ordering::Relaxed)), (1, None, 0));
    }
}
