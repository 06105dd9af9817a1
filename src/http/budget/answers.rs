//! Memory for answers whose client does not take them at once: one budget over all connections of an engine,
//! `limits.answers_bytes_max`.
//!
//! What a socket takes at once is not counted; what stays is, with all that it keeps in memory. Bytes that several
//! answers share, a value of the cache, count once. While three quarters are taken, large answers to reads are 503
//! before their first byte, pieces of streams are not made yet, and those who take nothing are cut. The last quarter is
//! for clients that hold little. Small answers, and those to writes, are always sent; should they fill the rest, whoever
//! takes least of the client that holds most is cut at once.
//!
//! Invariant: more than the limit is held only for the moment until those who were cut are gone.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use super::ledger::{Ledger, Need};
use super::{Client, GiveUp, Pulse};
use crate::http::message::{Body, Response, Trace};
use crate::http::method::Method;
use crate::http::problem::Problem;
use crate::limits::LiveLimits;
use crate::metrics::{Counter, Gauge, Registry};

/// Answers up to this size are small: they are always sent.
pub const SMALL_BYTES: usize = 16 * 1024;
/// Who holds no more than this part of the budget may have of its last quarter.
const LIGHT_PART: u64 = 8;
/// This part of the budget is for who holds nothing yet: a few light ones together could have all of it.
const FIRST_PART: u64 = 16;
/// What stands around a value in a stream: key, type and the like.
const ITEM_FRAME_BYTES: u64 = 8 * 1024;

/// The budget of one engine.
pub struct Answers {
    state: Mutex<State>,
    /// What the ledger says, to be read without the lock.
    used: AtomicU64,
    on_the_way: AtomicU64,
    limits: Arc<LiveLimits>,
    unsent: Gauge,
    refused: Counter,
    cut: Counter,
}

#[derive(Default)]
struct State {
    ledger: Ledger,
    /// Who holds the same bytes, by their place. The first is charged for them.
    sharing: HashMap<usize, Vec<u64>>,
}

/// Bytes that others may hold as well: where they lie, and how many they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shared {
    /// Their place.
    pub place: usize,
    /// Their number.
    pub bytes: u64,
}

impl Shared {
    /// Where these bytes lie.
    pub fn of(bytes: &[u8]) -> Shared {
        Shared { place: bytes.as_ptr() as usize, bytes: bytes.len() as u64 }
    }
}

/// The memory of one connection's unsent answers. It is given back when this is dropped.
pub struct Unsent {
    budget: Arc<Answers>,
    number: u64,
    own: u64,
    shared: Option<Shared>,
    pulse: Pulse,
}

/// Room that was found for what is being made, or is on its way to whoever sends it. It is given back when this is
/// dropped: once what it was for is charged.
pub struct Room {
    budget: Arc<Answers>,
    bytes: u64,
}

impl Room {
    /// It came to so much.
    pub fn resize(&mut self, bytes: usize) {
        let before = std::mem::replace(&mut self.bytes, bytes as u64);
        self.budget.on_the_way.fetch_add(self.bytes, Ordering::Relaxed);
        self.budget.on_the_way.fetch_sub(before, Ordering::Relaxed);
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.budget.on_the_way.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Answers {
    /// An unused budget.
    pub fn new(limits: Arc<LiveLimits>, registry: &Registry) -> Answers {
        let unsent = ("larder_http_answers_unsent_bytes", "Memory held by answers that their clients do not take.");
        let refused = ("larder_http_answers_refused_total", "Large answers refused because too much was unsent.");
        let cut = ("larder_http_answers_cut_total", "Answers cut because their clients took too little of them.");
        Answers {
            state: Mutex::default(),
            used: AtomicU64::new(0),
            on_the_way: AtomicU64::new(0),
            limits,
            unsent: registry.gauge(unsent.0, unsent.1, &[]),
            refused: registry.counter(refused.0, refused.1, &[]),
            cut: registry.counter(cut.0, cut.1, &[]),
        }
    }

    /// The answer with the room it has, or 503 in place of a large one that there is none for. Asked before its first
    /// byte is sent.
    pub fn admit(self: &Arc<Self>, response: Response, trace: &Trace) -> (Response, Option<Room>) {
        let bytes = large_bytes(&response);
        if bytes == 0 || trace.method == Method::Head {
            return (response, None);
        }
        if let Some(room) = self.room(trace.client(), bytes) {
            return (response, Some(room));
        }
        if !trace.only_reads {
            return (response, None);
        }
        self.refused.inc();
        let message = "too many answers wait for their clients to take them; try again in a moment";
        (Response::from(Problem::new(503, "OVERLOADED", message)).field("Retry-After", "1"), None)
    }

    /// Room for so many bytes more. If there is none, some is made for the next time.
    pub fn room(self: &Arc<Self>, client: Client, bytes: usize) -> Option<Room> {
        let (limit, bytes) = (self.limits.get().answers_bytes_max, bytes as u64);
        // IMPORTANT: taken before it is looked at. Of two who look first, both would find the last of it.
        let room = Room { budget: Arc::clone(self), bytes };
        let others = self.on_the_way.fetch_add(bytes, Ordering::SeqCst);
        let wanted = self.used.load(Ordering::Relaxed) + others + bytes;
        if wanted <= common(limit) {
            return Some(room);
        }
        let held = self.state.lock().ledger.held_by(client);
        let is_light = held + bytes <= limit / LIGHT_PART;
        // One answer that is larger than all of it has its turn when nothing else is held.
        let most = if held == 0 { limit } else { limit - limit / FIRST_PART };
        let has_room = (is_light && wanted <= most) || wanted == bytes;
        self.make_room(Need::Of(client), common(limit).saturating_sub(bytes));
        has_room.then_some(room)
    }

    /// Room for the next piece of a stream, whose size nobody knows before it is made: a piece ends with the item that fills
    /// it, and that may be the largest value in base64.
    pub fn room_for_piece(self: &Arc<Self>, client: Client, piece_bytes: usize) -> Option<Room> {
        let limits = self.limits.get();
        let item = (limits.value_bytes_max / 3 * 4 + ITEM_FRAME_BYTES).min(limits.answers_bytes_max / FIRST_PART);
        self.room(client, piece_bytes + usize::try_from(item).unwrap_or(usize::MAX / 2))
    }

    /// Charges what a client does not take. `give_up` asks its owner to cut the answer.
    pub fn hold(self: &Arc<Self>, client: Client, own: u64, shared: Option<Shared>, give_up: GiveUp) -> Unsent {
        let pulse = Pulse::new();
        let mut state = self.state.lock();
        let number = state.ledger.open(client, pulse.clone(), give_up);
        if let Some(shared) = shared {
            state.sharing.entry(shared.place).or_default().push(number);
        }
        let unsent = Unsent { budget: Arc::clone(self), number, own, shared, pulse };
        state.charge(&unsent);
        self.after(state);
        unsent
    }

    /// Cuts those who take nothing while memory is tight. Called now and then by the engine.
    pub fn tend(&self) {
        let limit = common(self.limits.get().answers_bytes_max);
        if self.used.load(Ordering::Relaxed) > limit {
            self.make_room(Need::Soon, limit);
        }
    }

    /// Publishes what is used after a change, and cuts somebody if it is too much.
    fn after(&self, state: parking_lot::MutexGuard<'_, State>) {
        let (used, limit) = (state.ledger.used(), self.limits.get().answers_bytes_max);
        self.used.store(used, Ordering::Relaxed);
        self.unsent.set(used);
        drop(state);
        if used > limit {
            self.make_room(Need::Urgent, limit);
        }
    }

    fn make_room(&self, need: Need, limit: u64) {
        let now = Instant::now();
        loop {
            let mut state = self.state.lock();
            if state.ledger.staying() <= limit {
                return;
            }
            let Some(give_up) = state.ledger.make_way(need, now) else { return };
            drop(state);
            self.cut.inc();
            give_up();
        }
    }
}

/// The memory that an answer keeps if its client does not take it; 0 for a small one.
pub fn large_bytes(response: &Response) -> usize {
    let bytes = match &response.body {
        Body::Bytes(bytes) => bytes.len(),
        Body::Pull { keeps, .. } => *keeps,
        Body::Empty | Body::Problem(_) => 0,
    };
    if bytes > SMALL_BYTES { bytes } else { 0 }
}

/// What is for everybody.
fn common(limit: u64) -> u64 {
    limit / 4 * 3
}

impl State {
    fn charge(&mut self, unsent: &Unsent) {
        let pays = |shared: Shared| self.sharing.get(&shared.place).and_then(|who| who.first()) == Some(&unsent.number);
        let shared = unsent.shared.filter(|shared| pays(*shared)).map_or(0, |shared| shared.bytes);
        self.ledger.set(unsent.number, unsent.own + shared);
    }

    /// Takes one out of those who share bytes; the next is charged for them.
    fn unshare(&mut self, number: u64, shared: Shared) {
        let Some(who) = self.sharing.get_mut(&shared.place) else { return };
        let paid = who.first() == Some(&number);
        who.retain(|other| *other != number);
        match who.first().copied() {
            Some(next) if paid => {
                let held = self.ledger.held(next);
                self.ledger.set(next, held + shared.bytes);
            }
            Some(_) => {}
            None => {
                self.sharing.remove(&shared.place);
            }
        }
    }
}

impl Unsent {
    /// From now on it is so much of its own, and the bytes that it shared are gone.
    pub fn set_own(&mut self, own: u64) {
        if self.own == own && self.shared.is_none() {
            return;
        }
        self.own = own;
        let budget = Arc::clone(&self.budget);
        let mut state = budget.state.lock();
        if let Some(shared) = self.shared.take() {
            state.unshare(self.number, shared);
        }
        state.charge(self);
        budget.after(state);
    }

    /// The client took so many bytes.
    pub fn moved(&self, bytes: usize) {
        self.pulse.moved(bytes);
    }
}

impl Drop for Unsent {
    fn drop(&mut self) {
        let mut state = self.budget.state.lock();
        if let Some(shared) = self.shared.take() {
            state.unshare(self.number, shared);
        }
        state.ledger.close(self.number);
        self.budget.after(state);
    }
}

#[cfg(test)]
#[path = "answers_tests.rs"]
mod tests;
