//! A request's body while it comes in: decoding, limits and pace.
//!
//! Invariant: memory grows with what has come, not with what was announced, and beyond [`FREE_BYTES`] only by what the
//! budget has room for.

use std::sync::Arc;
use std::time::Duration;

use super::chunked::{ChunkError, Chunked};
use super::lane::PipeWriter;
use super::mailbox::{Mailbox, Message};
use super::parse::BodyFraming;
use super::wheel::TICK_MS;
use crate::http::budget::bodies::{FREE_BYTES, decoded_bytes_max};
use crate::http::budget::{Bodies, Client, Share};
use crate::http::message::{Request, Trace};
use crate::limits::Limits;

/// Where the decoded bytes go.
pub enum Sink {
    /// Into memory, for a handler that gets the whole body.
    Memory(Box<ForHandler>),
    /// Into the pipe of an import lane.
    Lane {
        /// The pipe.
        pipe: PipeWriter,
        /// The pipe is full: the socket is left alone until its reader has room.
        is_paused: bool,
    },
}

/// A request that waits for its body.
pub struct ForHandler {
    /// The request, its body still empty.
    pub request: Request,
    /// Its notes.
    pub trace: Trace,
    /// The body as far as it has come.
    pub bytes: Vec<u8>,
    /// The body is one value, for the error code of 413.
    pub is_value: bool,
    /// The most that the body may be, before and after it is decompressed.
    pub bytes_max: u64,
    /// The body is compressed.
    pub is_compressed: bool,
}

impl ForHandler {
    /// What the whole body holds until it is answered.
    pub fn held_bytes(&self) -> u64 {
        let decoded = decoded_bytes_max(self.is_compressed, self.bytes.len() as u64, self.bytes_max);
        self.bytes.capacity() as u64 + decoded.unwrap_or(0)
    }
}

enum Decoder {
    Length(u64),
    Chunked(Chunked),
}

/// A body that is coming in.
pub struct Incoming {
    /// Where it goes.
    pub sink: Sink,
    decoder: Decoder,
    pace: Pace,
}

/// A place among the bodies that wait for memory. It is left when this is dropped.
pub struct WaitsForRoom {
    budget: Arc<Bodies>,
    turn: u64,
    /// What it waits for.
    pub need: u64,
    /// The client waits for a word before it sends.
    pub owes_continue: bool,
}

impl WaitsForRoom {
    /// Waits for so many bytes on behalf of a connection, which is told through its thread's mailbox.
    pub fn new(
        budget: &Arc<Bodies>,
        share: &Share,
        need: u64,
        owes_continue: bool,
        mailbox: &Arc<Mailbox>,
        ticket: u64,
    ) -> WaitsForRoom {
        let mailbox = Arc::clone(mailbox);
        let admit = Box::new(move |there_is| mailbox.send(Message::BodyMayCome(ticket, there_is)));
        WaitsForRoom { budget: Arc::clone(budget), turn: budget.wait(share.who(), need, admit), need, owes_continue }
    }
}

impl Drop for WaitsForRoom {
    fn drop(&mut self) {
        self.budget.leave(self.turn);
    }
}

/// A body larger than what is free grows by so much at least.
const PIECE_BYTES: usize = 64 * 1024;

/// What a body needs to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// The capacity of its memory.
    capacity: usize,
    /// What it holds with that, and after it is decompressed.
    pub bytes: u64,
    /// The most that it can come to hold.
    pub need: u64,
}

impl Incoming {
    /// A body of this framing. `framing` is not `None`.
    pub fn new(framing: BodyFraming, bytes_max: u64, sink: Sink, pace: Pace) -> Incoming {
        let decoder = match framing {
            BodyFraming::None => Decoder::Length(0),
            BodyFraming::Length(length) => Decoder::Length(length),
            BodyFraming::Chunked => Decoder::Chunked(Chunked::new(bytes_max)),
        };
        Incoming { sink, decoder, pace }
    }

    /// Whether the body is complete.
    pub fn is_done(&self) -> bool {
        match &self.decoder {
            Decoder::Length(left) => *left == 0,
            Decoder::Chunked(decoder) => decoder.is_done(),
        }
    }

    /// What the body needs before it can take so many bytes that wait, or read more. `None` if it has that.
    pub fn wants(&self, waiting: usize) -> Option<Want> {
        let Sink::Memory(body) = &self.sink else { return None };
        let (held, capacity) = (body.bytes.len(), body.bytes.capacity());
        let (may_come, wire_max) = match &self.decoder {
            Decoder::Length(left) => (usize::try_from(*left).unwrap_or(usize::MAX), held as u64 + left),
            // One byte of a chunk is the least that a piece of input can hold of it.
            Decoder::Chunked(_) => (usize::MAX, body.bytes_max),
        };
        let least = held.saturating_add(waiting.max(1).min(may_come));
        let is_done = self.is_done();
        if is_done && !body.is_compressed || !is_done && least <= capacity {
            return None;
        }
        let decoded = decoded_bytes_max(body.is_compressed, wire_max, body.bytes_max).unwrap_or(0);
        if is_done {
            let bytes = body.held_bytes();
            return Some(Want { capacity, bytes, need: bytes });
        }
        let free = FREE_BYTES as usize;
        let step = if least <= free { held.max(waiting) } else { held.max(PIECE_BYTES) };
        let wanted = least.max(held.saturating_add(step.min(may_come)));
        let wanted = if least <= free { wanted.min(free) } else { wanted };
        Some(Want { capacity: wanted, bytes: wanted as u64, need: wire_max.max(wanted as u64) + decoded })
    }

    /// On whose behalf it comes; `None` for an import.
    pub fn client(&self) -> Option<Client> {
        if let Sink::Memory(body) = &self.sink { Some(body.trace.client()) } else { None }
    }

    /// Makes the memory that there is room for.
    pub fn grow(&mut self, want: Want) {
        if let Sink::Memory(body) = &mut self.sink {
            body.bytes.reserve_exact(want.capacity - body.bytes.len());
        }
    }

    /// Bytes of memory that it keeps.
    pub fn kept_bytes(&self) -> usize {
        if let Sink::Memory(body) = &self.sink { body.bytes.capacity() } else { 0 }
    }

    /// Takes what `input` holds of the body and says how many bytes that were.
    pub fn take(&mut self, input: &[u8]) -> Result<usize, ChunkError> {
        let mut scratch = Vec::new();
        let out = match &mut self.sink {
            Sink::Memory(waiting) => &mut waiting.bytes,
            Sink::Lane { .. } => &mut scratch,
        };
        let used = match &mut self.decoder {
            Decoder::Length(left) => {
                let used = input.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                out.extend_from_slice(&input[..used]);
                *left -= used as u64;
                used
            }
            Decoder::Chunked(decoder) => decoder.decode(input, out)?,
        };
        self.pace.count(used);
        if let Sink::Lane { pipe, is_paused } = &mut self.sink
            && !scratch.is_empty()
        {
            *is_paused = !pipe.write(&scratch);
        }
        Ok(used)
    }

    /// Where the socket may be read into without a copy: the memory of a body with a length.
    /// After reading into it, call [`Incoming::took_direct`].
    pub fn direct(&mut self) -> Option<&mut Vec<u8>> {
        let (Decoder::Length(left), Sink::Memory(waiting)) = (&self.decoder, &mut self.sink) else { return None };
        Some(&mut waiting.bytes).filter(|bytes| *left > 0 && bytes.len() < bytes.capacity())
    }

    /// Accounts for `read` bytes that came in directly, and returns those that lie behind the body.
    pub fn took_direct(&mut self, read: usize) -> Vec<u8> {
        let (Decoder::Length(left), Sink::Memory(waiting)) = (&mut self.decoder, &mut self.sink) else {
            return Vec::new();
        };
        let of_body = (read as u64).min(*left);
        *left -= of_body;
        self.pace.count(of_body as usize);
        let surplus = read - of_body as usize;
        waiting.bytes.split_off(waiting.bytes.len() - surplus)
    }

    /// The body begins at this tick: until now it had to wait for us.
    pub fn begin(&mut self, tick: u32, limits: &Limits) {
        self.pace = Pace::new(tick, limits, matches!(self.sink, Sink::Memory(_)));
    }

    /// Whether the socket is to be left alone.
    pub fn is_paused(&self) -> bool {
        matches!(self.sink, Sink::Lane { is_paused: true, .. })
    }

    /// The reader of the lane has room again.
    pub fn resume(&mut self, tick: u32, limits: &Limits) {
        if let Sink::Lane { is_paused, .. } = &mut self.sink {
            *is_paused = false;
        }
        self.pace.new_window(tick, limits);
    }

    /// When the pace must be looked at; 0 for never.
    pub fn deadline(&self) -> u32 {
        if self.is_paused() { 0 } else { self.pace.window_end.min(self.pace.total_end) }
    }

    /// Until when what has come would have lasted at the slowest pace that a body may have; `None` for an import, which a
    /// handler is reading.
    pub fn paid_until(&self, limits: &Limits) -> Option<u32> {
        matches!(self.sink, Sink::Memory(_)).then(|| self.pace.paid_until(limits))
    }

    /// Whether the body may go on at this tick.
    pub fn is_in_time(&mut self, tick: u32, limits: &Limits) -> bool {
        self.pace.is_kept(tick, limits)
    }
}

/// How fast a body must come: a rate over windows of `limits.body_grace`, and an end for the whole.
pub struct Pace {
    window_end: u32,
    window_bytes: u64,
    total_end: u32,
}

impl Pace {
    /// The pace of a body that begins at `tick`. An import has no end for the whole.
    pub fn new(tick: u32, limits: &Limits, has_total: bool) -> Pace {
        let total_end = if has_total { tick + ticks(limits.body_timeout) } else { u32::MAX };
        let mut pace = Pace { window_end: 0, window_bytes: 0, total_end };
        pace.new_window(tick, limits);
        pace
    }

    fn new_window(&mut self, tick: u32, limits: &Limits) {
        self.window_end = tick + ticks(limits.body_grace);
        self.window_bytes = 0;
    }

    fn paid_until(&self, limits: &Limits) -> u32 {
        let ticks_paid = self.window_bytes.saturating_mul(1000 / TICK_MS) / limits.body_rate_min.max(1);
        let began = self.window_end.saturating_sub(ticks(limits.body_grace));
        began.saturating_add(u32::try_from(ticks_paid).unwrap_or(u32::MAX))
    }

    fn count(&mut self, bytes: usize) {
        self.window_bytes += bytes as u64;
    }

    fn is_kept(&mut self, tick: u32, limits: &Limits) -> bool {
        if tick >= self.total_end {
            return false;
        }
        if tick >= self.window_end {
            let owed = (limits.body_rate_min as u128 * limits.body_grace.as_millis() / 1000) as u64;
            if self.window_bytes < owed.max(1) {
                return false;
            }
            self.new_window(tick, limits);
        }
        true
    }
}

/// A duration in ticks, rounded up.
pub fn ticks(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis().div_ceil(u128::from(TICK_MS))).unwrap_or(u32::MAX / 4).min(u32::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            body_grace: Duration::from_secs(1),
            body_rate_min: 1000,
            body_timeout: Duration::from_secs(10),
            ..Limits::default()
        }
    }

    #[test]
    fn each_window_must_bring_its_bytes() {
        let (limits, second) = (limits(), ticks(Duration::from_secs(1)));
        let mut pace = Pace::new(100, &limits, true);
        pace.count(1);
        assert!(pace.is_kept(100 + second - 1, &limits), "the grace is not over");
        pace.count(999);
        assert!(pace.is_kept(100 + second, &limits));
        pace.count(999);
        assert!(!pace.is_kept(100 + 2 * second, &limits));
    }

    #[test]
    fn the_whole_body_has_an_end_but_an_import_has_none() {
        let (limits, end) = (limits(), 100 + ticks(Duration::from_secs(10)));
        for (has_total, kept) in [(true, false), (false, true)] {
            let mut pace = Pace::new(100, &limits, has_total);
            pace.count(1_000_000);
            assert_eq!(pace.is_kept(end, &limits), kept);
        }
    }
}
