//! Memory for request bodies of more than [`FREE_BYTES`]: one budget over all connections of an engine,
//! `limits.bodies_bytes_max`.
//!
//! A body is charged as it comes, from the *pool*. When the pool is dry, a body that goes on waits until all that it may
//! still need is set aside for it out of the *reserve*; then it never waits again. The reserve holds one body of the
//! largest kind at least, and only bodies that need nothing more have a part of it. So two bodies that are half there
//! never wait for each other: whoever is first in line gets his part once those in the reserve have ended, and they end
//! by their pace and time limits. In line, the client that holds least comes first, and then who came first; who has
//! waited for `limits.request_timeout` is told 503. While somebody waits, bodies that stand still make way.
//!
//! Invariant: more than the limit is set aside only for one body that is larger than all of it, when nothing else is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::ledger::{Ledger, Need};
use super::{Client, GiveUp, Pulse};
use crate::limits::{Limits, LiveLimits};
use crate::metrics::{Counter, Gauge, Registry};

/// Bodies up to this size are not counted here: the engines bound their number.
pub const FREE_BYTES: u64 = 16 * 1024;
/// The reserve is this part of the budget, or one body of the largest kind.
const RESERVE_PART: u64 = 4;
/// No bytes decode to more than so many times their number.
const GZIP_RATIO_MAX: u64 = 1032;

/// Told, from any thread, that a body may go on, or with `false` that it has waited for too long. Must not block.
pub type Admit = Box<dyn FnOnce(bool) + Send>;

/// The budget of one engine.
pub struct Bodies {
    state: Mutex<State>,
    limits: Arc<LiveLimits>,
    set_aside: Gauge,
    waits: Counter,
    refused: Counter,
    evicted: Counter,
}

#[derive(Default)]
struct State {
    ledger: Ledger,
    next_turn: u64,
    waiting: BTreeMap<u64, Waiting>,
}

struct Waiting {
    number: u64,
    client: Client,
    /// What the body holds, and all that it may need.
    held: u64,
    need: u64,
    since: Instant,
    admit: Admit,
}

/// Whose share it is.
#[derive(Clone, Copy, Debug)]
pub struct Who(u64);

/// The memory of one body. It is given back when this is dropped.
pub struct Share {
    budget: Arc<Bodies>,
    number: u64,
    charged: u64,
    pulse: Pulse,
}

/// The most that a body of so many bytes can become, if it is compressed, and `None` if it is not.
pub fn decoded_bytes_max(is_compressed: bool, length: u64, bytes_max: u64) -> Option<u64> {
    is_compressed.then(|| length.saturating_mul(GZIP_RATIO_MAX).min(bytes_max))
}

impl Bodies {
    /// An unused budget.
    pub fn new(limits: Arc<LiveLimits>, registry: &Registry) -> Bodies {
        let aside = ("larder_http_bodies_bytes", "Memory set aside for request bodies.");
        let waits = ("larder_http_bodies_waited_total", "Request bodies that waited for memory.");
        let refused = ("larder_http_bodies_refused_total", "Request bodies that waited for memory in vain.");
        let evicted = ("larder_http_bodies_evicted_total", "Request bodies that stood still while others waited.");
        Bodies {
            state: Mutex::default(),
            limits,
            set_aside: registry.gauge(aside.0, aside.1, &[]),
            waits: registry.counter(waits.0, waits.1, &[]),
            refused: registry.counter(refused.0, refused.1, &[]),
            evicted: registry.counter(evicted.0, evicted.1, &[]),
        }
    }

    /// The share of a body that begins. `give_up` asks its owner to end it, for those who wait.
    pub fn begin(self: &Arc<Self>, client: Client, give_up: GiveUp) -> Share {
        let pulse = Pulse::new();
        let number = self.state.lock().ledger.open(client, pulse.clone(), give_up);
        Share { budget: Arc::clone(self), number, charged: 0, pulse }
    }

    /// Whether a body that begins now would find room for its first bytes.
    pub fn has_room(&self) -> bool {
        let state = self.state.lock();
        state.waiting.is_empty() && state.ledger.used() + FREE_BYTES < pool(&self.limits.get())
    }

    /// Waits until all that a body may need is set aside for it, which may be at once; then [`Share::was_admitted`] is to
    /// be called. Returns the turn to leave with.
    pub fn wait(self: &Arc<Self>, who: Who, need: u64, admit: Admit) -> u64 {
        let mut state = self.state.lock();
        let turn = state.next_turn;
        state.next_turn += 1;
        let Some(client) = state.ledger.client_of(who.0) else { return turn };
        let (number, held) = (who.0, state.ledger.held(who.0));
        state.ledger.wait(number, true);
        let need = need.max(held);
        state.waiting.insert(turn, Waiting { number, client, held, need, since: Instant::now(), admit });
        drop(state);
        self.admit_who_fits();
        if self.state.lock().waiting.contains_key(&turn) {
            self.waits.inc();
        }
        turn
    }

    /// Waits no longer. The way is free for the next.
    pub fn leave(self: &Arc<Self>, turn: u64) {
        let left = self.state.lock().waiting.remove(&turn);
        if left.is_some() {
            self.admit_who_fits();
        }
    }

    /// Turns away who has waited for too long, and asks those who stand still to make way for the others. Called now and
    /// then by the engine.
    pub fn tend(self: &Arc<Self>, request_timeout: Duration) {
        let now = Instant::now();
        loop {
            let mut state = self.state.lock();
            let is_late = |waiting: &Waiting| now.saturating_duration_since(waiting.since) > request_timeout;
            let Some(turn) = state.waiting.iter().find(|(_, waiting)| is_late(waiting)).map(|(turn, _)| *turn) else {
                break;
            };
            let Some(late) = state.waiting.remove(&turn) else { break };
            drop(state);
            self.refused.inc();
            (late.admit)(false);
        }
        self.admit_who_fits();
        while let Some(give_up) = self.who_makes_way(now) {
            self.evicted.inc();
            give_up();
        }
    }

    fn who_makes_way(&self, now: Instant) -> Option<GiveUp> {
        let limit = self.limits.get().bodies_bytes_max;
        let mut state = self.state.lock();
        let first = state.waiting.get(&state.first_in_line()?)?;
        let (client, more) = (first.client, first.need - first.held);
        if state.ledger.staying() + more <= limit {
            return None;
        }
        state.ledger.make_way(Need::Of(client), now)
    }

    fn admit_who_fits(self: &Arc<Self>) {
        loop {
            let limit = self.limits.get().bodies_bytes_max;
            let mut state = self.state.lock();
            let Some(turn) = state.first_in_line() else { return };
            let Some(first) = state.waiting.get(&turn) else { return };
            let (number, held, need) = (first.number, first.held, first.need);
            let others = state.ledger.used() - held;
            if others > 0 && others + need > limit {
                return;
            }
            let Some(first) = state.waiting.remove(&turn) else { return };
            state.ledger.wait(number, false);
            self.set(&mut state, number, need);
            // IMPORTANT: without the lock, since whoever is told may give it back at once.
            drop(state);
            (first.admit)(true);
        }
    }

    fn set(&self, state: &mut State, number: u64, held: u64) {
        state.ledger.set(number, held);
        self.set_aside.set(state.ledger.used());
    }
}

/// What bodies may take as they come.
fn pool(limits: &Limits) -> u64 {
    // A compressed body is there twice when it is decoded.
    let largest = limits.body_bytes_max.max(limits.value_bytes_max).saturating_mul(2).saturating_add(FREE_BYTES);
    limits.bodies_bytes_max.saturating_sub(largest.max(limits.bodies_bytes_max / RESERVE_PART))
}

impl State {
    /// Whose turn it is: of the client that holds least, the first.
    fn first_in_line(&self) -> Option<u64> {
        let weight = |waiting: &Waiting| self.ledger.held_by(waiting.client);
        self.waiting.iter().min_by_key(|(turn, waiting)| (weight(waiting), **turn)).map(|(turn, _)| *turn)
    }
}

impl Share {
    /// Sees to it that the body may hold `bytes`. False if it must wait for that.
    pub fn grow(&mut self, bytes: u64) -> bool {
        if bytes <= self.charged.max(FREE_BYTES) {
            return true;
        }
        let pool = pool(&self.budget.limits.get());
        let mut state = self.budget.state.lock();
        if !state.waiting.is_empty() || state.ledger.used() - self.charged + bytes > pool {
            return false;
        }
        self.budget.set(&mut state, self.number, bytes);
        self.charged = bytes;
        true
    }

    /// Whose it is, for [`Bodies::wait`].
    pub fn who(&self) -> Who {
        Who(self.number)
    }

    /// All that the body may need is set aside.
    pub fn was_admitted(&mut self, need: u64) {
        self.charged = self.charged.max(need);
    }

    /// So many bytes of the body came.
    pub fn moved(&self, bytes: usize) {
        self.pulse.moved(bytes);
    }

    /// The body is whole: it is no longer asked to make way, and what it does not need goes back.
    pub fn settle(&mut self, bytes: u64) {
        let mut state = self.budget.state.lock();
        state.ledger.pin(self.number);
        let is_less = bytes < self.charged;
        if is_less {
            self.budget.set(&mut state, self.number, bytes);
            self.charged = bytes;
        }
        let somebody_waits = !state.waiting.is_empty();
        drop(state);
        if is_less && somebody_waits {
            self.budget.admit_who_fits();
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut state = self.budget.state.lock();
        state.ledger.close(self.number);
        self.budget.set_aside.set(state.ledger.used());
        let somebody_waits = !state.waiting.is_empty();
        drop(state);
        if somebody_waits {
            self.budget.admit_who_fits();
        }
    }
}

#[cfg(test)]
#[path = "bodies_tests.rs"]
mod tests;
