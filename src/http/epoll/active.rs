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
use crate::http::backlog::Backlog;
use crate::http::budget::Share;
use crate::http::method::Method;
use crate::http::network::Network;
use crate::http::wire::HeadContext;
use crate::limits::Limits;

/// Bytes that one read may bring.
pub const READ_BYTES: usize = 16 * 1024;
/// How many bytes a refused client may go on sending.
const LINGER_BYTES: usize = 8 * 1024 * 1024;
/// Buffers that a thread keeps for the connections that become active.
const POOLED_ACTIVE_MAX: usize = 32;
/// Empty buffers that a thread keeps for the next reads.
const SPARE_MAX: usize = 8;
/// What a kept piece of input may be larger than its bytes before it is copied.
const SLACK_BYTES: usize = 512;

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
    /// Bytes that connections keep between turns: of heads and small bodies, whole or not, until they are answered.
    pub kept_bytes: usize,
    /// Of them, those of requests that wait for their answer: nobody can be asked to end these.
    pub in_hand_bytes: usize,
    /// Of them, this thread's part of `limits.heads_bytes_max`.
    pub kept_bytes_max: usize,
    spare: Vec<Vec<u8>>,
    /// Networks of connections that had lost their place to another and have it back.
    pub came_back: Vec<Network>,
    /// Buffers of connections that went idle. Boxed, so that taking one moves a pointer.
    #[allow(clippy::vec_box)]
    pool: Vec<Box<Active>>,
}

impl Core {
    /// For a thread that begins.
    pub fn new(shared: Arc<Shared>, mailbox: Arc<Mailbox>) -> Core {
        let limits = shared.limits.get();
        let mut core = Core {
            shared,
            mailbox,
            limits,
            idle_ticks: 0,
            tick: 0,
            draining: false,
            jobs: 0,
            kept_bytes: 0,
            in_hand_bytes: 0,
            kept_bytes_max: 0,
            spare: Vec::new(),
            came_back: Vec::new(),
            pool: Vec::new(),
        };
        core.read_limits();
        core
    }

    /// Looks at the limits in force.
    pub fn read_limits(&mut self) {
        self.limits = self.shared.limits.get();
        self.idle_ticks = ticks(self.limits.idle_timeout) + 1;
        let part = self.limits.heads_bytes_max / self.shared.io.len().max(1) as u64;
        self.kept_bytes_max = usize::try_from(part).unwrap_or(usize::MAX);
    }

    /// Buffers for a connection that has something to do.
    pub fn take_active(&mut self) -> Box<Active> {
        self.pool.pop().unwrap_or_else(|| Box::new(Active::new()))
    }

    /// Takes the buffers of a connection that has nothing to do any more.
    pub fn give_back(&mut self, mut active: Box<Active>) {
        let (kept, in_hand) = std::mem::take(&mut active.counted);
        self.kept_bytes -= kept;
        self.in_hand_bytes -= in_hand;
        if self.pool.len() < POOLED_ACTIVE_MAX {
            active.reset();
            self.pool.push(active);
        }
    }

    /// A buffer for the next read, that goes on where `input` ends.
    pub fn make_room(&mut self, input: &mut Vec<u8>) {
        if input.capacity() - input.len() >= READ_BYTES / 4 {
            return;
        }
        let mut larger = self.spare.pop().unwrap_or_default();
        larger.reserve(input.len() + READ_BYTES);
        larger.extend_from_slice(input);
        *input = larger;
    }

    /// Lets go of what a connection that waits does not need, and counts what it keeps: as much as has come, whatever it
    /// was read into. `is_in_hand`: its request waits for its answer.
    pub fn park(&mut self, active: &mut Active, is_in_hand: bool) {
        let waiting = active.input.len() - active.start;
        if active.input.capacity() > waiting + waiting / 2 + SLACK_BYTES {
            let kept = active.input[active.start..].to_vec();
            active.start = 0;
            let mut buffer = std::mem::replace(&mut active.input, kept);
            if self.spare.len() < SPARE_MAX && buffer.capacity() <= 2 * READ_BYTES {
                buffer.clear();
                self.spare.push(buffer);
            }
        }
        let now = (active.kept_bytes(), if is_in_hand { active.in_hand } else { 0 });
        let before = std::mem::replace(&mut active.counted, now);
        self.kept_bytes = self.kept_bytes - before.0 + now.0;
        self.in_hand_bytes = self.in_hand_bytes - before.1 + now.1;
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
    /// Bytes of the request that is being answered, where the share does not stand for them.
    pub(super) in_hand: usize,
    /// What of this connection is in [`Core::kept_bytes`] and [`Core::in_hand_bytes`].
    counted: (usize, usize),
    /// Since which tick it has kept part of a message; 0 if it keeps none.
    pub(super) part_since: u32,
    /// The body waits for memory.
    pub(super) waits_for_room: Option<WaitsForRoom>,
    /// When the last bytes came.
    pub(super) filled_at: Instant,
    /// When an unfinished head, or the rest of a refused message, has had its time; 0 if neither is there.
    pub(super) deadline: u32,
    /// When the unfinished head began to come.
    pub(super) head_since: u32,
    /// When a blocked write has had its time, or a body that had nothing is asked again.
    pub(super) write_deadline: u32,
    pub(super) retry_pull: bool,
    /// What the client had not taken when that was set.
    pub(super) backlog: Backlog,
    /// Since which tick there is no room for the next piece of the answer; 0 if there is.
    pub(super) starved_since: u32,
    pub(super) linger_left: usize,
    pub(super) reason: CloseReason,
}

impl Active {
    fn new() -> Active {
        Active {
            input: Vec::new(),
            start: 0,
            scan: HeadScan::default(),
            output: Output::new(),
            context: HeadContext { method: Method::Other, http_1_0: false, keep_alive: true },
            incoming: None,
            share: None,
            in_hand: 0,
            counted: (0, 0),
            part_since: 0,
            waits_for_room: None,
            filled_at: Instant::now(),
            deadline: 0,
            head_since: 0,
            write_deadline: 0,
            retry_pull: false,
            backlog: Backlog::default(),
            starved_since: 0,
            linger_left: LINGER_BYTES,
            reason: CloseReason::Finished,
        }
    }

    /// Bytes that it keeps, but for those of a share.
    pub(super) fn kept_bytes(&self) -> usize {
        let body = self.incoming.as_ref().filter(|_| self.share.is_none()).map_or(0, Incoming::kept_bytes);
        self.input.capacity() + body + self.in_hand
    }

    /// Everything but the memory back to the start.
    fn reset(&mut self) {
        self.input.clear();
        self.start = 0;
        self.scan = HeadScan::default();
        self.waits_for_room = None;
        self.incoming = None;
        self.share = None;
        self.in_hand = 0;
        self.part_since = 0;
        self.deadline = 0;
        self.write_deadline = 0;
        self.retry_pull = false;
        self.starved_since = 0;
        self.linger_left = LINGER_BYTES;
        self.reason = CloseReason::Finished;
        if self.input.capacity() > 2 * READ_BYTES {
            self.input = Vec::new();
        }
        self.output.shrink();
    }
}
