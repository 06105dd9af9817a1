//! Writing answers: at once where the socket has room for sure, else in the side lane.
//!
//! Every byte goes through tiny_http's own writer, which cannot mistake the connection, except the answer to a request
//! whose body was not read: that is written to the socket found through its descriptor, which else is only asked how
//! full it is, and shut down. Invariant: a worker writes only what the send buffer can
//! take, so it never waits for a client.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::body::{RawRequest, Writer};
use super::connection::Connection;
use super::exchange::Exchange;
use super::figures::Reason;
use super::linger::{self, Leftover};
use super::shared::Shared;
use super::{socket, source, sys};
use crate::http::message::{Body, Outcome, Puller, Response, Trace};
use crate::http::method::Method;
use crate::http::wire::{self, Framing, HeadContext};

/// Up to this much of a body is copied behind the head, so that both leave in one write.
const JOINED_BYTES_MAX: usize = 16 * 1024;
/// What a small write costs the send buffer beyond its bytes.
const WRITE_OVERHEAD_BYTES: usize = 2 * 1024;
/// A streamed body is written in pieces of about this size.
const PIECE_BYTES: usize = 32 * 1024;
/// What came so far is sent when the body has taken this long to make more of it.
const PIECE_WAIT: Duration = Duration::from_millis(10);
/// A body that had nothing to give is asked again after this long.
const PULL_PAUSE: Duration = Duration::from_millis(20);

/// An answer on its way to the client.
pub struct Answer {
    pub(super) connection: Arc<Connection>,
    writer: Option<Box<dyn Write + Send>>,
    trace: Trace,
    status: u16,
    pending: Vec<u8>,
    pending_at: usize,
    rest: Rest,
    body_bytes: u64,
    began_at: Instant,
    progress: (u64, usize),
    progress_at: Instant,
    /// We end the connection after it, and why.
    end: Option<Reason>,
    /// tiny_http ends the connection after it.
    last: bool,
    /// The client may still be sending, so the connection is closed gently.
    leftover: Option<Leftover>,
}

enum Rest {
    None,
    Bytes { bytes: Bytes, at: usize },
    Pull { pull: Puller, chunked: bool, left: Option<u64> },
}

/// Answers a request: seals the response, writes it here or in the side lane, and lets the next request begin.
pub fn answer(shared: &Arc<Shared>, exchange: Exchange, response: Response, trace: Trace) {
    let Some(mut answer) = prepare(shared, exchange, response, trace) else { return };
    let cost = answer.size().map(|size| size + WRITE_OVERHEAD_BYTES);
    if !cost.is_some_and(|cost| has_room(shared, &answer.connection, cost)) {
        return send_aside(shared, answer);
    }
    match answer.write_all() {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => send_aside(shared, answer),
        result => {
            answer.connection.add_unsent_bytes(cost.unwrap_or(0));
            conclude(shared, answer, result.is_ok());
        }
    }
}

/// Gives an answer to the side lane.
fn send_aside(shared: &Arc<Shared>, answer: Answer) {
    if let Err(answer) = shared.push_aside_answer(Box::new(answer)) {
        conclude_as(shared, *answer, false, Reason::Overload);
    }
}

/// Writes an answer for as long as the client takes something of it now and then. For threads of the side lane: a client
/// that takes nothing for a moment goes back to the end of the queue if others wait, so that it does not hold them up.
pub fn write_patiently(shared: &Arc<Shared>, mut answer: Box<Answer>) {
    let idle = shared.limits.get().idle_timeout;
    loop {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| answer.write_for_a_while(idle)));
        let complete = match result {
            Ok(Ok(())) => true,
            Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                if shared.answers.has_waiting() {
                    match shared.push_aside_answer(answer) {
                        Ok(()) => return,
                        Err(refused) => answer = refused,
                    }
                }
                continue;
            }
            Ok(Err(_)) => false,
            Err(_) => {
                shared.figures.panics.inc();
                false
            }
        };
        answer.connection.set_unsent_bytes(shared.send_budget_bytes);
        return conclude(shared, *answer, complete);
    }
}

fn prepare(shared: &Arc<Shared>, exchange: Exchange, mut response: Response, mut trace: Trace) -> Option<Answer> {
    let began_at = Instant::now();
    let Exchange { connection, request, manner, share } = exchange;
    // The handler is done with the body.
    drop(share);
    let Some(request) = request.take() else {
        // The handler answered while it was still reading the body on another thread.
        shared.end(&connection, Reason::Refused);
        shared.finished(&trace, response.status, 0, began_at, false);
        return None;
    };
    response.seal(&mut trace);
    let linger = request.has_rest();
    let draining = shared.is_draining();
    let end = match (linger, response.close || manner.asked_close, draining) {
        (true, ..) => Some(Reason::Refused),
        (_, true, _) => Some(Reason::Asked),
        (.., true) => Some(Reason::Drain),
        _ => None,
    };
    let mut pending = Vec::with_capacity(512);
    let keep_alive = end.is_none() && !manner.last;
    let context = HeadContext { method: manner.method, http_1_0: manner.http_1_0, keep_alive };
    let framing = wire::write_head(&mut pending, &response, context);
    let rest = if framing == Framing::None { Rest::None } else { rest_of(response.body, framing) };

    let socket = if linger { socket::find(&connection.key, &connection.fd_hint).ok().flatten() } else { None };
    let (writer, leftover) = take_writer(shared, request, socket);
    let mut answer = Answer {
        connection,
        writer,
        trace,
        status: response.status,
        pending,
        pending_at: 0,
        rest,
        body_bytes: 0,
        began_at,
        progress: (0, 0),
        progress_at: began_at,
        end: end.or((framing == Framing::Close).then_some(Reason::Asked)),
        last: manner.last,
        leftover,
    };
    answer.join_small_body();
    debug_assert!(manner.method != Method::Head || matches!(answer.rest, Rest::None));
    Some(answer)
}

/// The way to the client, and what is left of the request if its body was not read to the end.
///
/// An answer that comes before the end of the body goes past tiny_http, which would first read what is left, and would
/// take what the client sends later for requests.
fn take_writer(
    shared: &Shared,
    request: RawRequest,
    socket: Option<OwnedFd>,
) -> (Option<Box<dyn Write + Send>>, Option<Leftover>) {
    let past = socket.as_ref().and_then(|socket| linger::writer(socket).ok());
    let (Some(socket), Some(writer)) = (socket, past) else {
        return match request.into_writer(None) {
            Writer::Ready(writer) => (Some(writer), None),
            Writer::Forgotten => {
                shared.forgot();
                (None, None)
            }
        };
    };
    if request.is_droppable() {
        return (Some(writer), Some(Leftover { socket, request: Some(Box::new(request)) }));
    }
    if matches!(request.into_writer(Some(&socket)), Writer::Forgotten) {
        shared.forgot();
    }
    (Some(writer), Some(Leftover { socket, request: None }))
}

fn rest_of(body: Body, framing: Framing) -> Rest {
    match body {
        Body::Bytes(bytes) => Rest::Bytes { bytes, at: 0 },
        Body::Pull { length, pull } => Rest::Pull { pull, chunked: framing == Framing::Chunked, left: length },
        Body::Empty | Body::Problem(_) => Rest::None,
    }
}

/// Whether the send buffer can take so many bytes for sure; asks the kernel only when our own count says no.
fn has_room(shared: &Shared, connection: &Connection, cost: usize) -> bool {
    let budget = shared.send_budget_bytes;
    if connection.since < shared.early_until && !connection.is_tuned.swap(true, Ordering::Relaxed) {
        let Ok(Some(socket)) = socket::find(&connection.key, &connection.fd_hint) else { return false };
        if source::set_send_options(&socket).is_err() {
            return false;
        }
    }
    if connection.unsent_bytes() + cost <= budget {
        return true;
    }
    if cost > budget {
        return false;
    }
    let Ok(Some(socket)) = socket::find(&connection.key, &connection.fd_hint) else { return false };
    connection.set_unsent_bytes(sys::unsent_bytes(&socket).unwrap_or(budget));
    connection.unsent_bytes() + cost <= budget
}

impl Answer {
    /// Bytes that are left to write, if that is known.
    fn size(&self) -> Option<usize> {
        let pending = self.pending.len() - self.pending_at;
        match &self.rest {
            Rest::None => Some(pending),
            Rest::Bytes { bytes, at } => Some(pending + bytes.len() - at),
            Rest::Pull { .. } => None,
        }
    }

    fn join_small_body(&mut self) {
        if let Rest::Bytes { bytes, at } = &mut self.rest {
            let joined = bytes.len().min(JOINED_BYTES_MAX);
            self.pending.extend_from_slice(&bytes[..joined]);
            *at = joined;
            self.body_bytes = joined as u64;
        }
    }

    /// Writes until all is written or an error; after `WouldBlock` it goes on where it stopped.
    fn write_all(&mut self) -> io::Result<()> {
        let Some(writer) = self.writer.as_mut() else { return Err(io::ErrorKind::NotConnected.into()) };
        let mut streaming = false;
        loop {
            while self.pending_at < self.pending.len() {
                self.pending_at += write_some(writer, &self.pending[self.pending_at..])?;
            }
            if streaming {
                writer.flush()?;
            }
            match &mut self.rest {
                Rest::None => break,
                Rest::Bytes { bytes, at } => {
                    while *at < bytes.len() {
                        let count = write_some(writer, &bytes[*at..])?;
                        *at += count;
                        self.body_bytes += count as u64;
                    }
                    self.rest = Rest::None;
                }
                Rest::Pull { pull, chunked, left } => {
                    self.pending_at = 0;
                    let more = pull_piece(&mut self.pending, pull, *chunked, left, &mut self.body_bytes)?;
                    if !more {
                        self.rest = Rest::None;
                    } else if self.pending.is_empty() {
                        std::thread::sleep(PULL_PAUSE);
                    }
                    streaming = true;
                }
            }
        }
        writer.flush()
    }

    /// Like `write_all`, but after `WouldBlock` (the socket's send time-out) fails for good once there was no progress
    /// for too long.
    fn write_for_a_while(&mut self, idle: Duration) -> io::Result<()> {
        let result = self.write_all();
        let progress = (self.body_bytes, self.pending_at);
        if progress != self.progress {
            self.progress = progress;
            self.progress_at = Instant::now();
        }
        match result {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && self.progress_at.elapsed() >= idle => {
                Err(io::ErrorKind::TimedOut.into())
            }
            result => result,
        }
    }
}

fn write_some(writer: &mut Box<dyn Write + Send>, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match writer.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Fills `out` with the next piece of a streamed body, framed. False after the last one.
fn pull_piece(
    out: &mut Vec<u8>,
    pull: &mut Puller,
    chunked: bool,
    left: &mut Option<u64>,
    body_bytes: &mut u64,
) -> io::Result<bool> {
    // The chunk size is written in front once it is known: eight digits and CRLF are kept free for it.
    const SIZE_LINE: usize = 10;
    out.clear();
    out.resize(if chunked { SIZE_LINE } else { 0 }, 0);
    let start = out.len();
    let mut more = true;
    let began_at = Instant::now();
    while more && out.len() < PIECE_BYTES {
        let before = out.len();
        more = pull(out)?;
        if out.len() == before || began_at.elapsed() >= PIECE_WAIT {
            break;
        }
    }
    let count = (out.len() - start) as u64;
    if let Some(left) = left {
        *left = left.checked_sub(count).ok_or_else(|| io::Error::other("a body longer than its length"))?;
        if !more && *left > 0 {
            return Err(io::Error::other("a body shorter than its length"));
        }
    }
    *body_bytes += count;
    if chunked {
        if count == 0 {
            out.clear();
        } else {
            out[..SIZE_LINE].copy_from_slice(format!("{count:08x}\r\n").as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        if !more {
            out.extend_from_slice(b"0\r\n\r\n");
        }
    }
    Ok(more)
}

fn conclude(shared: &Arc<Shared>, answer: Answer, complete: bool) {
    conclude_as(shared, answer, complete, Reason::Unread);
}

/// Ends an answer: lets tiny_http's writer go, tells the handler, ends the connection or begins its next request.
fn conclude_as(shared: &Arc<Shared>, mut answer: Answer, complete: bool, failure: Reason) {
    let connection = Arc::clone(&answer.connection);
    let mut lingers = false;
    if !complete {
        if matches!(answer.rest, Rest::Pull { .. })
            && let Ok(Some(socket)) = socket::find(&connection.key, &connection.fd_hint)
        {
            socket::reset_on_close(&socket);
        }
        shared.end(&connection, failure);
        if let Some(leftover) = answer.leftover.take() {
            leftover.dispose(shared, &connection);
        }
    } else if let Some(reason) = answer.end {
        match answer.leftover.take() {
            Some(leftover) => {
                lingers = true;
                shared.end_gently(&connection, reason, leftover);
            }
            None => shared.end(&connection, reason),
        }
    }
    // IMPORTANT: only now, with the socket shut where it is tiny_http's writer. The writer's end lets tiny_http write what it thinks of the bytes that
    // follow a body nobody read; and a writer that failed would first try again.
    answer.writer = None;
    shared.finished(&answer.trace, answer.status, answer.body_bytes, answer.began_at, complete);
    if answer.last && complete && !lingers {
        shared.connections.remove(&connection);
    }
    shared.turn_over(&connection);
}

/// Tells the handler how an answer ended.
pub fn outcome(status: u16, body_bytes: u64, began_at: Instant, complete: bool) -> Outcome {
    let ended_at = Instant::now();
    Outcome { status, body_bytes, write: ended_at.saturating_duration_since(began_at), ended_at, complete }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(mut texts: Vec<&'static str>) -> Puller {
        texts.reverse();
        Box::new(move |out| {
            out.extend_from_slice(texts.pop().unwrap_or("").as_bytes());
            Ok(!texts.is_empty())
        })
    }

    fn all(mut pull: Puller, chunked: bool, mut left: Option<u64>) -> io::Result<String> {
        let (mut whole, mut piece, mut bytes) = (Vec::new(), Vec::new(), 0);
        loop {
            let more = pull_piece(&mut piece, &mut pull, chunked, &mut left, &mut bytes)?;
            whole.extend_from_slice(&piece);
            if !more {
                return Ok(String::from_utf8(whole).unwrap());
            }
        }
    }

    #[test]
    fn pieces_become_chunks_and_an_end() {
        assert_eq!(all(pieces(vec!["ab", "c"]), true, None).unwrap(), "00000003\r\nabc\r\n0\r\n\r\n");
        assert_eq!(all(pieces(vec![]), true, None).unwrap(), "0\r\n\r\n");
        assert_eq!(all(pieces(vec!["ab", "c"]), false, None).unwrap(), "abc");
    }

    #[test]
    fn a_stream_that_misses_its_length_is_an_error() {
        assert_eq!(all(pieces(vec!["ab", "c"]), false, Some(3)).unwrap(), "abc");
        assert!(all(pieces(vec!["ab", "c"]), false, Some(2)).is_err());
        assert!(all(pieces(vec!["ab", "c"]), false, Some(4)).is_err());
    }
}
