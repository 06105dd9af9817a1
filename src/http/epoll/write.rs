//! What a connection has yet to send: heads and small bodies in one buffer, then at most one large or made body.
//!
//! What a client does not take is charged to the budget for answers, until it is gone.
//!
//! Invariant: bytes leave in the order in which answers were pushed, and every answer is reported to
//! [`Handler::finished`] once: when its last byte was taken, or when the connection is given up.

use std::io::{IoSlice, Write};
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, send, sendmsg};

use super::workers::{Piece, SIZE_LINE_BYTES};
use crate::http::budget::answers::{SMALL_BYTES, Shared};
use crate::http::budget::{Answers, Client, GiveUp, Unsent};
use crate::http::engine::Handler;
use crate::http::message::{Body, Cut, Outcome, Puller, Response, Trace};
use crate::http::wire::{Framing, HeadContext, write_head};

/// Bodies up to this many bytes are copied behind their head; larger ones are sent from where they lie.
const COPIED_BODY_BYTES: usize = SMALL_BYTES;
/// Buffered bytes that are worth a write before more requests are begun.
const FLUSH_BYTES: usize = 64 * 1024;
/// Bytes that one connection may send before others get their turn.
const TURN_BYTES: usize = 256 * 1024;

/// How a flush ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushed {
    /// Everything was taken.
    All,
    /// The socket is full: it will say when it is not.
    Blocked,
    /// The next piece of the body is to be made, by a worker: [`Output::take_pull`].
    Pull,
    /// A worker is making the next piece.
    Pulling,
    /// There is more, but others come first.
    Again,
    /// All that there is of a body that could not be made to its end.
    Cut,
    /// The client is gone.
    Failed,
}

enum Tail {
    None,
    /// With where the whole of it lies.
    Bytes(Bytes, Shared),
    Pull(PullTail),
    /// The body could not be made to its end.
    Cut,
}

struct PullTail {
    /// Away while a worker makes the next piece: it may read the disk.
    pull: Option<Puller>,
    /// Bytes that `Content-Length` still owes; `None` without a length.
    left: Option<u64>,
    is_chunked: bool,
    /// Bytes of memory that it keeps.
    keeps: usize,
    /// The longest that the client may take nothing of it.
    patience: Duration,
    /// Only the end of the connection says where it ends.
    ends_by_close: bool,
}

struct Done {
    trace: Trace,
    status: u16,
    body_bytes: u64,
    /// Bytes of head, framing and body.
    wire_bytes: u64,
    /// When the socket first did not take all of it, or its body was not made yet; `None` if it went at once.
    held_up: Option<Instant>,
    cut: Option<Cut>,
}

/// The sending side of a connection.
pub struct Output {
    buffer: Vec<u8>,
    sent: usize,
    tail: Tail,
    done: Vec<Done>,
    /// The socket took a byte since this was last cleared.
    progressed: bool,
    /// What of this is charged.
    held: Option<Unsent>,
}

impl Output {
    /// Nothing to send.
    pub fn new() -> Output {
        Output { buffer: Vec::new(), sent: 0, tail: Tail::None, done: Vec::new(), progressed: false, held: None }
    }

    /// Whether everything was sent and reported.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty() && matches!(self.tail, Tail::None) && self.done.is_empty()
    }

    /// Whether no further answer may be pushed before a flush.
    pub fn wants_flush(&self) -> bool {
        self.buffer.len() >= FLUSH_BYTES || !matches!(self.tail, Tail::None)
    }

    /// Whether the socket took bytes since the last call.
    pub fn take_progress(&mut self) -> bool {
        std::mem::take(&mut self.progressed)
    }

    /// Adds the interim answer that asks for the body.
    pub fn push_continue(&mut self) {
        self.buffer.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
    }

    /// Adds an answer. True if the connection ends with it.
    pub fn push(&mut self, mut response: Response, mut trace: Trace, context: HeadContext) -> bool {
        debug_assert!(matches!(self.tail, Tail::None), "a flush comes between a large body and the next answer");
        response.seal(&mut trace);
        let start = self.buffer.len();
        let framing = write_head(&mut self.buffer, &response, context);
        let mut ends = response.close || !context.keep_alive || framing == Framing::Close;
        let mut body_bytes = 0;
        match response.body {
            _ if framing == Framing::None => {}
            Body::Bytes(bytes) => {
                body_bytes = bytes.len();
                if bytes.len() <= COPIED_BODY_BYTES {
                    self.buffer.extend_from_slice(&bytes);
                } else {
                    let whole = Shared::of(&bytes);
                    self.tail = Tail::Bytes(bytes, whole);
                }
            }
            Body::Pull { length, keeps, patience, pull } => {
                let (is_chunked, ends_by_close) = (framing == Framing::Chunked, framing == Framing::Close);
                let pull = Some(pull);
                self.tail = Tail::Pull(PullTail { pull, left: length, is_chunked, keeps, patience, ends_by_close });
            }
            // The head promised a body that is not there: only the end of the connection keeps the next answer apart.
            Body::Empty | Body::Problem(_) => ends = true,
        }
        let in_buffer = self.buffer.len() - start;
        let in_tail = if matches!(self.tail, Tail::Bytes(..)) { body_bytes } else { 0 };
        self.done.push(Done {
            status: response.status,
            trace,
            body_bytes: body_bytes as u64,
            wire_bytes: (in_buffer + in_tail) as u64,
            held_up: None,
            cut: None,
        });
        ends
    }

    /// Sends as much as the socket takes.
    pub fn flush(&mut self, socket: &OwnedFd, handler: &dyn Handler) -> Flushed {
        let flushed = self.send_all(socket, handler);
        if flushed != Flushed::All && self.done.iter().any(|done| done.held_up.is_none()) {
            let now = Instant::now();
            self.done.iter_mut().for_each(|done| done.held_up = done.held_up.or(Some(now)));
        }
        flushed
    }

    fn send_all(&mut self, socket: &OwnedFd, handler: &dyn Handler) -> Flushed {
        let mut turn_bytes = 0;
        loop {
            if self.sent == self.buffer.len() {
                self.buffer.clear();
                self.sent = 0;
                self.shrink();
                if turn_bytes >= TURN_BYTES && !matches!(self.tail, Tail::None) {
                    return Flushed::Again;
                }
                match &self.tail {
                    Tail::Pull(tail) if tail.pull.is_some() => return Flushed::Pull,
                    Tail::Pull(_) => return Flushed::Pulling,
                    Tail::Cut => return Flushed::Cut,
                    Tail::None | Tail::Bytes(..) => {}
                }
            }
            if self.buffer.is_empty() && matches!(self.tail, Tail::None) {
                self.report(handler);
                return Flushed::All;
            }
            match self.send(socket) {
                Ok(taken) => {
                    turn_bytes += taken;
                    self.advance(taken);
                }
                Err(Errno::AGAIN) => return Flushed::Blocked,
                Err(Errno::INTR) => {}
                Err(_) => return Flushed::Failed,
            }
        }
    }

    fn send(&self, socket: &OwnedFd) -> rustix::io::Result<usize> {
        let buffered = &self.buffer[self.sent..];
        match &self.tail {
            Tail::Bytes(bytes, _) => {
                let bytes = &bytes[..bytes.len().min(TURN_BYTES)];
                let slices = [IoSlice::new(buffered), IoSlice::new(bytes)];
                sendmsg(socket, &slices, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL)
            }
            _ => send(socket, buffered, SendFlags::NOSIGNAL),
        }
    }

    fn advance(&mut self, taken: usize) {
        self.progressed |= taken > 0;
        let from_buffer = taken.min(self.buffer.len() - self.sent);
        self.sent += from_buffer;
        if let Some(held) = &self.held {
            held.moved(taken);
        }
        if let Tail::Bytes(bytes, _) = &mut self.tail {
            bytes::Buf::advance(bytes, taken - from_buffer);
            if bytes.is_empty() {
                self.tail = Tail::None;
            }
        }
    }

    /// What makes the next piece, to be given back with [`Output::pulled`].
    /// True if its pieces are to be chunks.
    pub fn take_pull(&mut self) -> Option<(Puller, bool)> {
        match &mut self.tail {
            Tail::Pull(tail) => tail.pull.take().map(|pull| (pull, tail.is_chunked)),
            Tail::None | Tail::Bytes(..) | Tail::Cut => None,
        }
    }

    /// Gives back what makes the next piece.
    pub fn put_pull_back(&mut self, pull: Puller) {
        if let Tail::Pull(tail) = &mut self.tail {
            tail.pull = Some(pull);
        }
    }

    /// The longest that the client may take nothing.
    pub fn patience(&self) -> Duration {
        if let Tail::Pull(tail) = &self.tail { tail.patience } else { Duration::MAX }
    }

    /// Whether its client cannot tell the cut of what is being sent from its end.
    pub fn hides_a_cut(&self) -> bool {
        matches!(&self.tail, Tail::Pull(tail) if tail.ends_by_close)
    }

    /// Takes a piece that a worker made. False if there was nothing to make just now; an error if the body cannot be
    /// made to its end and there is nothing more to send of it, or is not as long as its head said.
    pub fn pulled(&mut self, piece: Piece) -> Result<bool, ()> {
        let Tail::Pull(tail) = &mut self.tail else { return Ok(true) };
        let Piece { pull, mut bytes, made, more } = piece;
        let is_cut = more.is_err();
        if is_cut && (made == 0 || tail.ends_by_close) {
            return Err(());
        }
        let mut more = more.unwrap_or(true);
        if let Some(left) = &mut tail.left {
            // More or less than was announced: the client must not take it for the whole.
            *left = left.checked_sub(made as u64).ok_or(())?;
            if !more && *left > 0 {
                return Err(());
            }
            more &= *left > 0 || is_cut;
        }
        if tail.is_chunked {
            frame_chunk(&mut bytes, made, more);
        }
        if let Some(done) = self.done.last_mut() {
            done.body_bytes += made as u64;
            done.wire_bytes += bytes.len() as u64;
        }
        // A piece is asked for when all before it is sent, so it is moved here, not copied.
        if self.buffer.is_empty() {
            self.buffer = bytes;
        } else {
            self.buffer.extend_from_slice(&bytes);
        }
        match more {
            _ if is_cut => self.tail = Tail::Cut,
            true => tail.pull = Some(pull),
            false => self.tail = Tail::None,
        }
        Ok(made > 0 || !more)
    }

    fn report(&mut self, handler: &dyn Handler) {
        if self.done.is_empty() {
            return;
        }
        let now = Instant::now();
        for done in self.done.drain(..) {
            let outcome = Outcome {
                status: done.status,
                body_bytes: done.body_bytes,
                write: done.held_up.map_or(Duration::ZERO, |since| now.saturating_duration_since(since)),
                ended_at: now,
                cut: done.cut,
            };
            // A panic while recording must not cost the connection, nor the thread.
            let _ = catch_unwind(AssertUnwindSafe(|| handler.finished(&done.trace, &outcome)));
        }
    }

    /// Gives up: reports what was not sent as cut, and why.
    pub fn abandon(&mut self, handler: &dyn Handler, why: Cut) {
        let in_tail = if let Tail::Bytes(bytes, _) = &self.tail { bytes.len() } else { 0 };
        let mut is_cut = matches!(self.tail, Tail::Pull(_) | Tail::Cut);
        let mut unsent = (self.buffer.len() - self.sent + in_tail) as u64;
        for done in self.done.iter_mut().rev() {
            let missing = unsent.min(done.wire_bytes);
            unsent -= missing;
            done.cut = (missing > 0 || is_cut).then_some(why);
            done.body_bytes -= missing.min(done.body_bytes);
            is_cut = false;
        }
        self.report(handler);
        self.buffer.clear();
        self.sent = 0;
        self.tail = Tail::None;
        self.held = None;
    }

    /// Charges what is there, after a flush that did not get rid of it; or nothing any more.
    pub fn charge(&mut self, answers: &Arc<Answers>, client: Client, give_up: impl FnOnce() -> GiveUp) {
        let keeps = if let Tail::Pull(tail) = &self.tail { tail.keeps } else { 0 };
        let buffered = if self.sent < self.buffer.len() { self.buffer.capacity() } else { 0 };
        let (own, shared) = match &self.tail {
            Tail::Bytes(_, whole) => (buffered as u64, Some(*whole)),
            Tail::None | Tail::Pull(_) | Tail::Cut => ((buffered + keeps) as u64, None),
        };
        match &mut self.held {
            None if own > 0 || shared.is_some() => self.held = Some(answers.hold(client, own, shared, give_up())),
            None => {}
            Some(_) if own == 0 && shared.is_none() => self.held = None,
            Some(held) if shared.is_none() => held.set_own(own),
            Some(_) => {}
        }
    }

    /// Whether something is charged.
    pub fn is_charged(&self) -> bool {
        self.held.is_some()
    }

    /// On whose behalf the last answer is sent.
    pub fn client(&self) -> Client {
        self.done.last().map_or(Client::NOBODY, |done| done.trace.client())
    }

    /// Lets go of memory that only a large answer needed: nobody is charged for an empty buffer.
    pub fn shrink(&mut self) {
        if self.buffer.capacity() > FLUSH_BYTES {
            self.buffer = Vec::new();
        }
        if self.done.capacity() > 64 {
            self.done = Vec::new();
        }
    }
}

/// Puts the size of a chunk into the room that was left before it, and the end of the body behind it if there is no
/// more. No bytes are no chunk: that would be the end.
fn frame_chunk(bytes: &mut Vec<u8>, made: usize, more: bool) {
    if made == 0 {
        bytes.clear();
    } else {
        // Writing to a slice that is long enough does not fail.
        let _ = write!(&mut bytes[..SIZE_LINE_BYTES], "{made:08x}\r\n");
        bytes.extend_from_slice(b"\r\n");
    }
    if !more {
        bytes.extend_from_slice(b"0\r\n\r\n");
    }
}
