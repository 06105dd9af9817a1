//! What all threads of one engine share.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use parking_lot::Mutex;

use super::mailbox::Mailbox;
use super::stats::Stats;
use super::workers::Queue;
use crate::board::watchdog::Watchdog;
use crate::http::budget::{Answers, Bodies};
use crate::http::door::Door;
use crate::http::engine::Handler;
use crate::limits::LiveLimits;

/// The parts that every thread of an engine may touch.
pub struct Shared {
    /// The application.
    pub handler: Arc<dyn Handler>,
    /// The limits in force.
    pub limits: Arc<LiveLimits>,
    /// The engine's figures.
    pub stats: Stats,
    /// The way to the workers.
    pub queue: Queue,
    /// Memory for bodies.
    pub bodies: Arc<Bodies>,
    /// Memory for answers that are not sent yet.
    pub answers: Arc<Answers>,
    /// Import lanes that are open.
    pub imports: AtomicUsize,
    /// Held while one connection is accepted.
    pub accept_turn: Mutex<()>,
    /// Who may come in, and who makes way.
    pub door: Door,
    /// The I/O threads, as others see them.
    pub io: Vec<IoThreadView>,
    /// When tick 0 was.
    pub epoch: Instant,
    /// Whom the threads show that they are alive.
    pub watchdog: Watchdog,
}

/// What is known from outside of one I/O thread.
pub struct IoThreadView {
    /// Where messages for it go.
    pub mailbox: Arc<Mailbox>,
    /// Its connections.
    pub load: AtomicUsize,
}

impl Shared {
    /// Everything at its start.
    pub fn new(
        handler: Arc<dyn Handler>,
        limits: Arc<LiveLimits>,
        stats: Stats,
        (bodies, answers): (Bodies, Arc<Answers>),
        door: Door,
        io: Vec<IoThreadView>,
        watchdog: Watchdog,
    ) -> Shared {
        Shared {
            handler,
            limits,
            stats,
            queue: Queue::default(),
            bodies: Arc::new(bodies),
            answers,
            imports: AtomicUsize::new(0),
            accept_turn: Mutex::new(()),
            door,
            io,
            epoch: Instant::now(),
            watchdog,
        }
    }
}
