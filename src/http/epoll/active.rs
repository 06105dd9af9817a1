//! What the connections of one I/O thread share, and what one of them needs only while it has something to do.
//!
//! Invariant: buffers belong to the pool or to a connection that is not idle.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::body::{Incoming, WaitsForRoom, ticks};
use super::mailbox::Mailbox;
use super::parse::HeadScan;
use super::shared::Shared;
use super::stats::CloseReason;
use super::write::Output;
use crate::http::body_budget::Share;
use crate::http::method::Method;
use crate::http::wire::HeadContext;
use crate::limits::Limits;

/// Bytes that one read may bring.
pub const READ_BYTES: usize = 16 * 1024;
/// How many bytes a refused client may go on sending.
const LINGER_BYTES: usize = 8 * 1024 * 1024;
/// Buffers that a thread keeps for the connections that become active.
const POOLED_ACTIVE_MAX: usize = 32;

/// What a thread's connections share.
pub struct Core {
    /// What all threads share.
    pub shared: Arc<Shared>,
    /// The way back to this thread.
    pub mailbox: Arc<Mailbox>,
    /// The limits in force, looked at again every few ticks.
    pub limits: Arc<Limits>,
    /// `limits.idle_timeout` in ticks: the one that every request needs.
    pub idle_ticks: u32,
    /// The present tick.
    pub tick: u32,
    /// No request is begun on a connection any more once its present one is answered.
    pub draining: bool,
    /// Jobs put into the queue in this turn: workers are woken for them at its end.
    pub jobs: usize,
    /// Buffers of connections that went idle. Boxed, so that taking one moves a pointer.
    #[allow(clippy::vec_box)]
    pool: Vec<Box<Active>>,
}

impl Core {
    /// For a thread that begins.
    pub fn new(shared: Arc<Shared>, mailbox: Arc<Mailbox>) -> Core {
        let limits = shared.limits.get();
        let mut core =
            Core { shared, mailbox, limits, idle_ticks: 0, tick: 0, draining: false, jobs: 0, pool: Vec::new() };
        core.read_limits();
        core
    }

    /// Looks at the limits in force.
    pub fn read_limits(&mut self) {
        self.limits = self.shared.limits.get();
        self.idle_ticks = ticks(self.limits.idle_timeout) + 1;
    }

    /// Buffers for a connection that has something to do.
    pub fn take_active(&mut self) -> Box<Active> {
        self.pool.pop().unwrap_or_else(|| Box::new(Active::new()))
    }

    /// Takes the buffers of a connection that has nothing to do any more.
    pub fn give_back(&mut self, mut active: Box<Active>) {
        if self.pool.len() < POOLED_ACTIVE_MAX {
            active.reset();
            self.pool.push(active);
        }
    }

    /// The tick at which `duration` will have passed.
    pub fn tick_after(&self, duration: Duration) -> u32 {
        self.tick.saturating_add(ticks(duration)).saturating_add(1)
    }
}

/// What a connection needs only while it has something to do.
pub struct Active {
    /// Bytes read and not yet used, from `start` on.
    pub(super) input: Vec<u8>,
    pub(super) start: usize,
    pub(super) scan: HeadScan,
    pub(super) output: Output,
    /// The request that is being read or answered.
    pub(super) context: HeadContext,
    /// The body that is being read.
    pub(super) incoming: Option<Incoming>,
    /// Memory for the body of the request that is being read or answered.
    pub(super) share: Option<Share>,
    /// The body waits for memory.
    pub(super) waits_for_room: Option<WaitsForRoom>,
    /// When the last bytes came.
    pub(super) filled_at: Instant,
    /// When an unfinished head, or the rest of a refused message, has had its time; 0 if neither is there.
    pub(super) deadline: u32,
    /// When a blocked write has had its time, or a body that had nothing is asked again.
    pub(super) write_deadline: u32,
    pub(super) retry_pull: bool,
    pub(super) linger_left: usize,
    pub(super) reason: CloseReason,
}

impl Active {
    fn new() -> Active {
        Active {
            input: Vec::with_capacity(READ_BYTES),
            start: 0,
            scan: HeadScan::default(),
            output: Output::new(),
            context: HeadContext { method: Method::Other, http_1_0: false, keep_alive: true },
            incoming: None,
            share: None,
            waits_for_room: None,
            filled_at: Instant::now(),
            deadline: 0,
            write_deadline: 0,
            retry_pull: false,
            linger_left: LINGER_BYTES,
            reason: CloseReason::Finished,
        }
    }

    /// Everything but the memory back to the start.
    fn reset(&mut self) {
        self.input.clear();
        self.start = 0;
        self.scan = HeadScan::default();
        self.incoming = None;
        self.share = None;
        self.waits_for_room = None;
        self.deadline = 0;
        self.write_deadline = 0;
        self.retry_pull = false;
        self.linger_left = LINGER_BYTES;
        self.reason = CloseReason::Finished;
        if self.input.capacity() > 2 * READ_BYTES {
            self.input = Vec::with_capacity(READ_BYTES);
        }
        self.output.shrink();
    }
}
