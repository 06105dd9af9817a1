//! What the clients know: for each thing that they write, the state that must be there and those that may be.
//!
//! Invariant: each thing is written by one client, one write after the other, and not again in a life in which the
//! outcome of a write of it is unknown.

use std::collections::HashMap;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::support::{Answer, Seeded};

/// What a busy machine may add to the time between a write and its answer, and between the end of an interval and a sync.
const SLACK: Duration = Duration::from_secs(1);

/// What stands under a key.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// Nothing.
    Absent,
    /// The bytes of this number, see [`bytes`].
    Bytes { number: u64, length: usize, expires: Option<Instant> },
    /// A counter.
    Count(i64),
}

impl State {
    /// Whether this is what was found. What has expired is gone.
    fn is(&self, found: &Found) -> bool {
        match (self, found) {
            (State::Absent, Found::Nothing) => true,
            (State::Bytes { expires: Some(at), .. }, Found::Nothing) => Instant::now() > *at,
            (State::Bytes { number, length, .. }, Found::Value(answer)) => answer.body == bytes(*number, *length),
            (State::Count(count), Found::Value(answer)) => answer.body == count.to_string().as_bytes(),
            _ => false,
        }
    }

    /// What no other state has that a version was given to.
    fn print(&self) -> u64 {
        match self {
            State::Absent => 0,
            State::Bytes { number, .. } => 1 << 62 | *number,
            State::Count(count) => 1 << 63 | *count as u64,
        }
    }
}

/// The bytes of a number: no 512 of them, wherever in the value, are like any others.
pub fn bytes(number: u64, length: usize) -> Vec<u8> {
    const PIECE: usize = 512;
    let mut drawn = Seeded::new(number);
    let noise: Vec<u8> = (0..PIECE / 8).flat_map(|_| drawn.number().to_le_bytes()).collect();
    let mut bytes = Vec::with_capacity(length + PIECE);
    while bytes.len() < length {
        let place = bytes.len() as u64;
        bytes.extend_from_slice(&noise[8..]);
        bytes.extend_from_slice(&(number ^ place << 40).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// What a read showed.
pub enum Found {
    Nothing,
    Value(Box<Answer>),
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Found::Nothing => f.write_str("nothing"),
            Found::Value(answer) => {
                let start = answer.body.get(..16).unwrap_or(&answer.body);
                write!(f, "{} bytes {start:02x?} at {}", answer.body.len(), answer.version())
            }
        }
    }
}

/// What was said of a write.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Promise {
    /// It is on the card.
    Synced,
    /// It will be: a power cut later than this does not take it.
    Relaxed { answered: Instant, lost_until: Instant },
    /// It was, but the process that was to sync it is gone: as long as the system lives.
    Cached,
    /// Nothing.
    Unknown,
}

impl Promise {
    /// Of an answer that came at this moment; `Err`: it says something else.
    pub fn of(answer: &Answer, answered: Instant) -> Result<Promise, String> {
        let text = answer.header("Larder-Durability").unwrap_or("not said");
        let max_loss = text.strip_prefix("relaxed; max-loss=").and_then(|rest| rest.strip_suffix('s'));
        match (text, max_loss.and_then(|seconds| seconds.parse().ok())) {
            ("synced", _) => Ok(Promise::Synced),
            (_, Some(seconds)) => {
                Ok(Promise::Relaxed { answered, lost_until: answered + Duration::from_secs_f64(seconds) + SLACK })
            }
            _ => Err(format!("Larder-Durability is {text:?}")),
        }
    }
}

/// A state of all keys of a thing, and what was said of it.
#[derive(Clone, Debug)]
struct Candidate {
    states: Vec<State>,
    promise: Promise,
}

/// Keys that are always written together: one, or those of an atomic batch.
#[derive(Clone, Debug)]
pub struct Thing {
    /// Their paths.
    pub keys: Vec<String>,
    /// The version of the first key, where it is known.
    pub version: Option<u64>,
    /// In the order of the writes. The first is on the card for sure.
    candidates: Vec<Candidate>,
    /// This one must be found, or a later one: more than what is on the card, if the system was not stopped.
    first: usize,
}

impl Thing {
    /// Not there yet.
    pub fn new(keys: Vec<String>) -> Thing {
        let states = vec![State::Absent; keys.len()];
        Thing { keys, version: None, candidates: vec![Candidate { states, promise: Promise::Synced }], first: 0 }
    }

    /// What a read must show now; `None`: that is not known.
    pub fn present(&self) -> Option<&[State]> {
        self.candidates.last().filter(|last| last.promise != Promise::Unknown).map(|last| &last.states[..])
    }

    /// Whether something was said of it that no power cut undoes.
    pub fn is_in_doubt(&self) -> bool {
        self.present().is_none()
    }

    /// A write of it has ended.
    pub fn wrote(&mut self, states: Vec<State>, promise: Promise) {
        if promise == Promise::Synced {
            self.candidates.clear();
        }
        self.candidates.push(Candidate { states, promise });
    }

    /// How the server came to its end. `synced`: a durable write that was sent at this moment was answered; a journal is
    /// synced from its beginning.
    pub fn after(&mut self, end: End, synced: Option<Instant>) {
        let is_sure = |candidate: &Candidate| match (candidate.promise, end) {
            (Promise::Unknown, _) => false,
            (Promise::Synced, _) | (_, End::Killed | End::Stopped) => true,
            (Promise::Cached, _) => false,
            (Promise::Relaxed { answered, lost_until }, End::PowerCut(at)) => {
                lost_until < at || synced.is_some_and(|sent| answered < sent)
            }
            (Promise::Relaxed { answered, .. }, End::CardFailed) => synced.is_some_and(|sent| answered < sent),
        };
        let sure = self.candidates.iter().rposition(is_sure).unwrap_or(0);
        self.first = sure;
        if !matches!(end, End::Killed) {
            self.candidates.drain(..sure);
            self.candidates[0].promise = Promise::Synced;
            self.first = 0;
        }
        for candidate in self.candidates.iter_mut().skip(1) {
            candidate.promise = match candidate.promise {
                // The process that was to sync it is gone.
                Promise::Relaxed { .. } if matches!(end, End::Killed) => Promise::Cached,
                Promise::Synced | Promise::Cached if matches!(end, End::Killed) => candidate.promise,
                _ => Promise::Unknown,
            };
        }
        self.version = None;
    }

    /// Compares with what a start has found, which then stands. `Err`: what must be there is not, or something else is.
    pub fn found(&mut self, found: &[Found]) -> Result<&[State], String> {
        let fits = |candidate: &Candidate| candidate.states.iter().zip(found).all(|(state, found)| state.is(found));
        let place = self.candidates.iter().rposition(fits).filter(|place| *place >= self.first);
        let Some(place) = place else { return Err(self.differs(found)) };
        let mut candidate = self.candidates.swap_remove(place);
        candidate.promise = Promise::Synced;
        for (state, found) in candidate.states.iter_mut().zip(found) {
            if matches!(found, Found::Nothing) {
                *state = State::Absent;
            }
        }
        (self.candidates, self.first) = (vec![candidate], 0);
        self.version = match found.first() {
            Some(Found::Value(answer)) => Some(answer.version()),
            _ => None,
        };
        Ok(&self.candidates[0].states)
    }

    /// Whether a read of one key may show this.
    pub fn may_show(&self, key: usize, found: &Found) -> Result<(), String> {
        let after_sure = if self.is_in_doubt() { 0 } else { self.candidates.len() - 1 };
        match self.candidates[after_sure..].iter().any(|candidate| candidate.states[key].is(found)) {
            true => Ok(()),
            false => Err(self.differs(std::slice::from_ref(found))),
        }
    }

    fn differs(&self, found: &[Found]) -> String {
        let found: Vec<String> = found.iter().map(Found::to_string).collect();
        format!("{:?}: found {}; known is {:?}", self.keys, found.join(", "), self.candidates)
    }
}

/// How a server came to its end.
#[derive(Clone, Copy, Debug)]
pub enum End {
    /// The system lives: all that was written is there, until the power fails.
    Killed,
    /// Well: all that was written is on the card.
    Stopped,
    /// The power failed at this moment.
    PowerCut(Instant),
    /// The power failed on a card on which something else had failed before: no sync can be relied on to have come.
    CardFailed,
}

/// What all clients of a store share.
#[derive(Default)]
pub struct Shared {
    numbers: AtomicU64,
    /// The answers that acknowledged a write.
    pub acknowledged: AtomicU64,
    /// What each version was given to.
    versions: Mutex<HashMap<u64, (String, u64)>>,
    highest: AtomicU64,
    /// When the last durable write was sent that was answered.
    synced: Mutex<Option<Instant>>,
    violations: Mutex<Vec<String>>,
}

impl Shared {
    /// A number that no other value has.
    pub fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// The highest version that was seen.
    pub fn highest(&self) -> u64 {
        self.highest.load(Ordering::SeqCst)
    }

    /// A version was seen with this state of a key.
    pub fn saw(&self, version: u64, key: &str, state: &State) {
        self.highest.fetch_max(version, Ordering::SeqCst);
        let now = (key.to_owned(), state.print());
        let mut versions = self.versions.lock().expect("nobody panics with the versions");
        let before = versions.entry(version).or_insert_with(|| now.clone());
        if *before != now {
            let text = format!("version {version} came twice: for {before:?} and for {now:?}");
            drop(versions);
            self.violation(text);
        }
    }

    /// A durable write that was sent then was answered.
    pub fn synced(&self, sent: Instant) {
        let mut synced = self.synced.lock().expect("nobody panics with the time");
        *synced = (*synced).max(Some(sent));
    }

    /// When the last durable write was sent that was answered, asked once a life.
    pub fn take_synced(&self) -> Option<Instant> {
        self.synced.lock().expect("nobody panics with the time").take()
    }

    /// Something is not as promised.
    pub fn violation(&self, what: impl Into<String>) {
        self.violations.lock().expect("nobody panics with the list").push(what.into());
    }

    /// Whether something was not as promised.
    pub fn has_violations(&self) -> bool {
        !self.violations.lock().expect("nobody panics with the list").is_empty()
    }

    /// What was not as promised since it was asked.
    pub fn take_violations(&self) -> Vec<String> {
        std::mem::take(&mut *self.violations.lock().expect("nobody panics with the list"))
    }
}
