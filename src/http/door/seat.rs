//! A connection as the door knows it: who counts it, what its engine calls it, and how it stands.
//!
//! Invariant: how it stands is a plain store for the engine, on every request, and read by the door alone.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use crate::http::network::Network;

/// The unit of the door's times, in milliseconds.
pub const TICK_MS: u64 = 50;
/// How much later a connection counts as quiet for each request that it has had answered, up to two of them. Whoever
/// comes back within this time is never taken for one of those who only hold a connection open.
const HEAD_START: u32 = (1200 / TICK_MS) as u32;
/// The bit of a body that is coming: it may go only once its tick is over. The others are the tick: three years of them.
const COMING: u32 = 1 << 31;
/// A request is at work.
const AT_WORK: u32 = u32::MAX;
/// The thread of a connection that no thread has taken over yet.
const UNNAMED: u32 = u32::MAX;
/// No place.
const BESIDE: u32 = u32::MAX;
/// Not even counted.
const GONE: u32 = u32::MAX - 1;

/// Where the door counts a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Among those of its network that have a place, at this index.
    At(usize),
    /// Beside the places.
    Beside,
    /// Nowhere any more.
    Gone,
}

/// How a connection stands: since when it is quiet, a head start added; or until when its body is paid for, with
/// [`COMING`]; or [`AT_WORK`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing(u32);

impl Standing {
    /// Whether it may make way at `tick`.
    pub fn may_go(self, tick: u32) -> bool {
        self.0 & COMING == 0 || self.rank() <= tick
    }

    /// The tick that it is judged by: who has the earliest goes first.
    pub fn rank(self) -> u32 {
        self.0 & !COMING
    }
}

/// A connection, as the door knows it.
pub struct Seat {
    network: Network,
    is_bounded: bool,
    /// The engine's name for the connection: a thread, and what it calls it.
    thread: AtomicU32,
    token: AtomicU64,
    standing: AtomicU32,
    /// A [`Place`], changed under the door's lock only.
    place: AtomicU32,
}

impl Seat {
    /// One that is beside the places, and at work until its engine has named it. `is_bounded`: its network has a bound of
    /// its own.
    pub fn new(network: Network, is_bounded: bool) -> Seat {
        Seat {
            network,
            is_bounded,
            thread: AtomicU32::new(UNNAMED),
            token: AtomicU64::new(0),
            standing: AtomicU32::new(AT_WORK),
            place: AtomicU32::new(BESIDE),
        }
    }

    /// Who counts it.
    pub fn network(&self) -> Network {
        self.network
    }

    /// Whether its network has a bound of its own.
    pub fn is_bounded(&self) -> bool {
        self.is_bounded
    }

    /// Where it is counted.
    pub fn place(&self) -> Place {
        match self.place.load(Ordering::Relaxed) {
            BESIDE => Place::Beside,
            GONE => Place::Gone,
            index => Place::At(index as usize),
        }
    }

    /// Notes where it is counted. For the door, under its lock.
    pub fn set_place(&self, place: Place) {
        let number = match place {
            Place::At(index) => index as u32,
            Place::Beside => BESIDE,
            Place::Gone => GONE,
        };
        self.place.store(number, Ordering::Relaxed);
    }

    /// Whether no thread has taken it over yet, so that nothing is known of it.
    pub fn is_new(&self) -> bool {
        self.thread.load(Ordering::Relaxed) == UNNAMED
    }

    /// Says what the engine calls it.
    pub fn name(&self, thread: usize, token: u64) {
        self.thread.store(thread as u32, Ordering::Relaxed);
        self.token.store(token, Ordering::Relaxed);
        // Whoever sees how it stands from now on sees its name as well.
        fence(Ordering::Release);
    }

    /// What the engine calls it.
    pub fn named(&self) -> (usize, u64) {
        fence(Ordering::Acquire);
        (self.thread.load(Ordering::Relaxed) as usize, self.token.load(Ordering::Relaxed))
    }

    /// It waits for a request since `tick`, or its request comes slowly since then. `answered` requests came before.
    pub fn quiet(&self, tick: u32, answered: u8) {
        self.standing.store(tick + HEAD_START * u32::from(answered.min(2)), Ordering::Relaxed);
    }

    /// A body is coming, and what has come of it would have come by `tick` at the slowest pace that a body may have.
    pub fn paid_until(&self, tick: u32) {
        self.standing.store(tick.min(COMING - 2) | COMING, Ordering::Relaxed);
    }

    /// A request is at work, or its answer on the way.
    pub fn at_work(&self) {
        self.standing.store(AT_WORK, Ordering::Relaxed);
    }

    /// How it stands.
    pub fn standing(&self) -> Standing {
        Standing(self.standing.load(Ordering::Relaxed))
    }
}
