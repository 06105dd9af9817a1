//! Writing answers: at once where the socket has room for sure, else in the side lane.
//!
//! Every byte goes through tiny_http's own writer, which cannot mistake the connection, except the answer to a request
//! whose body was not read: that is written to the socket found through its descriptor, which else is only asked how
//! full it is, and shut down. Invariant: whoever writes writes only what the send buffer can take, so no thread waits
//! for a client; what waits is charged to the budget for answers.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::body::RawRequest;
use super::connection::Connection;
use super::exchange::Exchange;
use super::figures::Reason;
use super::linger::{self, Leftover};
use super::pieces::{Behind, PIECE_BYTES, pull_piece};
use super::shared::Shared;
use super::waiting::{self, Until};
use super::{socket, source};
use crate::http::backlog::{self, Backlog};
use crate::http::budget::answers::{Room, Shared as Place};
use crate::http::budget::{Client, Unsent};
use crate::http::message::{Body, Cut, Outcome, Puller, Response, Trace};
use crate::http::method::Method;
use crate::http::wire::{self, Framing, HeadContext};

/// Up to this much of a body is copied behind the head, so that both leave in one write.
const JOINED_BYTES_MAX: usize = 16 * 1024;
/// What a small write costs the send buffer beyond its bytes.
const WRITE_OVERHEAD_BYTES: usize = 2 * 1024;
/// A body that had nothing to give, or no memory, is asked again after this long.
const PULL_PAUSE: Duration = Duration::from_millis(20);
/// A socket that can be written to takes so many bytes at once for sure.
const WRITE_BYTES: usize = 32 * 1024;
/// Bytes of one answer that are written before others have their turn.
const TURN_BYTES: usize = 256 * 1024;

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
    progress_at: Instant,
    /// The longest that the client may take nothing.
    patience: Duration,
    backlog: Backlog,
    /// The socket, once it was looked for.
    socket: Option<OwnedFd>,
    /// What of it is charged.
    held: Option<Unsent>,
    /// Room for it until then.
    room: Option<Room>,
    /// We end the connection after it, and why.
    end: Option<Reason>,
    /// tiny_http ends the connection after it.
    last: bool,
    /// The client may still be sending, so the connection is closed gently.
    leftover: Option<Leftover>,
}

enum Rest {
    None,
    Bytes {
        bytes: Bytes,
        at: usize,
    },
    Pull {
        pull: Puller,
        chunked: bool,
        left: Option<u64>,
        keeps: usize,
    },
    /// The body could not be made to its end. Whether the client cannot tell that by its framing.
    Cut {
        unseen: bool,
    },
}

/// How far writing came.
enum Written {
    All,
    /// Others have their turn.
    Turn,
    /// The socket is full.
    Full,
    /// There is nothing to send just now.
    Nothing,
    /// There is no memory to make more.
    Starved,
    /// All that there is of a body that could not be made to its end.
    Cut,
}

/// Why an answer ends before its end: as the connection's figures say it, and as the answer's do.
type Failure = (Reason, Cut);

const CLIENT_LEFT: Failure = (Reason::Unread, Cut::Client);
const STALLED: Failure = (Reason::Unread, Cut::Unread);
const STARVED: Failure = (Reason::Memory, Cut::Memory);
const BROKEN: Failure = (Reason::Unread, Cut::Body);
const OVERLOAD: Failure = (Reason::Overload, Cut::Room);

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
            conclude(shared, answer, result.map_err(|_| CLIENT_LEFT));
        }
    }
}

/// Gives an answer to the side lane.
fn send_aside(shared: &Arc<Shared>, mut answer: Answer) {
    answer.charge(shared);
    push_aside(shared, Box::new(answer));
}

fn push_aside(shared: &Arc<Shared>, answer: Box<Answer>) {
    if let Err(answer) = shared.push_aside_answer(answer) {
        conclude(shared, *answer, Err(OVERLOAD));
    }
}

/// The client has taken something, or the time of an answer has come.
pub fn go_on_writing(shared: &Arc<Shared>, socket: OwnedFd, mut answer: Box<Answer>) {
    answer.socket = Some(socket);
    push_aside(shared, answer);
}

/// Writes what the client takes now. For threads of the side lane: an answer that has to wait is left to be watched.
pub fn write_what_fits(shared: &Arc<Shared>, mut answer: Box<Answer>) {
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| answer.write_what_fits(shared)));
    let written = match result {
        Ok(Ok(written)) => written,
        Ok(Err(_)) => return give_up(shared, *answer, CLIENT_LEFT),
        Err(_) => {
            shared.figures.panics.inc();
            return give_up(shared, *answer, BROKEN);
        }
    };
    let idle = shared.limits.get().idle_timeout.min(answer.patience);
    let (what, pause) = match written {
        Written::All => {
            answer.connection.set_unsent_bytes(shared.send_budget_bytes);
            return conclude(shared, *answer, Ok(()));
        }
        Written::Cut => return give_up(shared, *answer, BROKEN),
        Written::Turn => return push_aside(shared, answer),
        Written::Full if answer.socket.as_ref().is_some_and(|socket| answer.backlog.shrank(socket)) => {
            answer.progress_at = Instant::now();
            (Until::Writable, idle)
        }
        Written::Starved if answer.progress_at.elapsed() >= idle => return give_up(shared, *answer, STARVED),
        Written::Full if answer.progress_at.elapsed() >= idle => return give_up(shared, *answer, STALLED),
        Written::Full => (Until::Writable, idle),
        Written::Nothing | Written::Starved => (Until::Later, PULL_PAUSE),
    };
    let Some(socket) = answer.socket.take() else { return give_up(shared, *answer, CLIENT_LEFT) };
    let until = Instant::now() + pause;
    if let Err((_, answer)) = shared.answers_waiting.hold(socket, what, until, answer) {
        give_up(shared, *answer, OVERLOAD);
    }
}

fn give_up(shared: &Arc<Shared>, answer: Answer, failure: Failure) {
    answer.connection.set_unsent_bytes(shared.send_budget_bytes);
    conclude(shared, answer, Err(failure));
}

fn prepare(shared: &Arc<Shared>, exchange: Exchange, response: Response, mut trace: Trace) -> Option<Answer> {
    let began_at = Instant::now();
    let Exchange { connection, request, manner, share } = exchange;
    // The handler is done with the body.
    drop(share);
    let Some(request) = request.take() else {
        // The handler answered while it was still reading the body on another thread.
        shared.end(&connection, Reason::Refused);
        shared.finished(&trace, &outcome(response.status, 0, began_at, Some(Cut::Client)));
        return None;
    };
    let (mut response, room) = shared.answer_budget.admit(response, &trace);
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
    let patience = if let Body::Pull { patience, .. } = &response.body { *patience } else { Duration::MAX };
    let rest = if framing == Framing::None { Rest::None } else { rest_of(response.body, framing) };

    let socket = if linger { shared.find(&connection) } else { None };
    let (writer, leftover) = take_writer(shared, &connection, request, socket);
    let mut answer = Answer {
        connection,
        writer: Some(writer),
        trace,
        status: response.status,
        pending,
        pending_at: 0,
        rest,
        body_bytes: 0,
        began_at,
        progress_at: began_at,
        patience,
        backlog: Backlog::default(),
        socket: None,
        held: None,
        room,
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
    connection: &Connection,
    request: RawRequest,
    socket: Option<OwnedFd>,
) -> (Box<dyn Write + Send>, Option<Leftover>) {
    let past = socket.as_ref().and_then(|socket| linger::writer(socket).ok());
    match (socket, past) {
        (Some(socket), Some(writer)) => (writer, Some(Leftover { socket, request: Some(Box::new(request)) })),
        (socket, _) => (shared.give_up(request, connection, socket.as_ref()), None),
    }
}

fn rest_of(body: Body, framing: Framing) -> Rest {
    match body {
        Body::Bytes(bytes) => Rest::Bytes { bytes, at: 0 },
        Body::Pull { length, keeps, pull, .. } => {
            Rest::Pull { pull, chunked: framing == Framing::Chunked, left: length, keeps }
        }
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
    connection.set_unsent_bytes(backlog::unsent_bytes(&socket).unwrap_or(budget));
    connection.unsent_bytes() + cost <= budget
}

impl Answer {
    /// Bytes that are left to write, if that is known.
    fn size(&self) -> Option<usize> {
        let pending = self.pending.len() - self.pending_at;
        match &self.rest {
            Rest::None | Rest::Cut { .. } => Some(pending),
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

    /// On whose behalf it is sent.
    pub fn client(&self) -> Client {
        self.trace.client()
    }

    /// Charges what it keeps in memory.
    fn charge(&mut self, shared: &Arc<Shared>) {
        let whole = if let Rest::Bytes { bytes, .. } = &self.rest { Some(Place::of(bytes)) } else { None };
        let keeps = if let Rest::Pull { keeps, .. } = &self.rest { *keeps } else { 0 };
        let own = (self.pending.capacity() + keeps) as u64;
        match &mut self.held {
            Some(held) if whole.is_none() => held.set_own(own),
            Some(_) => {}
            None => {
                let (theirs, connection) = (Arc::clone(shared), Arc::clone(&self.connection));
                let cut = Box::new(move || theirs.end(&connection, Reason::Memory));
                self.held = Some(shared.answer_budget.hold(self.client(), own, whole, cut));
                self.room = None;
            }
        }
    }

    /// Writes an answer that the socket takes at once.
    fn write_all(&mut self) -> io::Result<()> {
        while let Some((writer, bytes)) = self.next_bytes() {
            let count = write_some(writer, bytes)?;
            self.advance(count);
        }
        self.writer.as_mut().ok_or(io::ErrorKind::NotConnected)?.flush()
    }

    /// The way to the client, and the next bytes that are there for it.
    fn next_bytes(&mut self) -> Option<(&mut Box<dyn Write + Send>, &[u8])> {
        let bytes = match &self.rest {
            _ if self.pending_at < self.pending.len() => &self.pending[self.pending_at..],
            Rest::Bytes { bytes, at } if *at < bytes.len() => &bytes[*at..],
            _ => return None,
        };
        self.writer.as_mut().map(|writer| (writer, bytes))
    }

    fn advance(&mut self, count: usize) {
        match &mut self.rest {
            _ if self.pending_at < self.pending.len() => self.pending_at += count,
            Rest::Bytes { at, .. } => {
                *at += count;
                self.body_bytes += count as u64;
            }
            Rest::None | Rest::Pull { .. } | Rest::Cut { .. } => {}
        }
        if let Some(held) = &self.held {
            held.moved(count);
        }
        self.progress_at = Instant::now();
    }

    /// Writes for as long as the socket takes it at once.
    fn write_what_fits(&mut self, shared: &Arc<Shared>) -> io::Result<Written> {
        if self.socket.is_none() {
            self.socket = socket::find(&self.connection.key, &self.connection.fd_hint)?;
        }
        let Some(socket) = self.socket.take() else { return Err(io::ErrorKind::NotConnected.into()) };
        let result = self.write_to(shared, &socket);
        self.socket = Some(socket);
        result
    }

    fn write_to(&mut self, shared: &Arc<Shared>, socket: &OwnedFd) -> io::Result<Written> {
        if self.writer.is_none() {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let mut turn_bytes = 0;
        loop {
            while let Some((writer, bytes)) = self.next_bytes() {
                if turn_bytes >= TURN_BYTES {
                    return Ok(Written::Turn);
                }
                if !waiting::is_ready(socket, Until::Writable) {
                    return Ok(Written::Full);
                }
                let count = write_some(writer, &bytes[..bytes.len().min(WRITE_BYTES)])?;
                turn_bytes += count;
                self.advance(count);
            }
            if let Some(writer) = &mut self.writer {
                writer.flush()?;
            }
            let client = self.trace.client();
            let (pull, chunked, left) = match &mut self.rest {
                Rest::Pull { pull, chunked, left, .. } => (pull, *chunked, left),
                Rest::Cut { .. } => return Ok(Written::Cut),
                Rest::None | Rest::Bytes { .. } => {
                    self.rest = Rest::None;
                    return Ok(Written::All);
                }
            };
            if self.pending.capacity() > 2 * PIECE_BYTES {
                self.pending = Vec::new();
            }
            self.pending.clear();
            self.pending_at = 0;
            // Held until the piece is charged.
            let Some(_room) = shared.answer_budget.room_for_piece(client, PIECE_BYTES) else {
                self.charge(shared);
                return Ok(Written::Starved);
            };
            let unseen = !chunked && left.is_none();
            match pull_piece(&mut self.pending, pull, chunked, left, &mut self.body_bytes) {
                Ok(Behind::More) => {}
                Ok(Behind::Nothing) => self.rest = Rest::None,
                Ok(Behind::Cut) => self.rest = Rest::Cut { unseen },
                Err(_) => {
                    self.pending.clear();
                    return Ok(Written::Cut);
                }
            }
            self.charge(shared);
            if self.pending.is_empty() && matches!(self.rest, Rest::Pull { .. }) {
                self.progress_at = Instant::now();
                return Ok(Written::Nothing);
            }
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

/// Ends an answer: lets tiny_http's writer go, tells the handler, ends the connection or begins its next request.
fn conclude(shared: &Arc<Shared>, mut answer: Answer, ended: Result<(), Failure>) {
    let connection = Arc::clone(&answer.connection);
    let (mut lingers, mut cut) = (false, None);
    if let Err((reason, why)) = ended {
        cut = Some(cut_before(&connection).unwrap_or(why));
        // A body that was cut behind its last words: a reset would take these back.
        if matches!(answer.rest, Rest::Pull { .. } | Rest::Cut { unseen: true })
            && let Ok(Some(socket)) = socket::find(&connection.key, &connection.fd_hint)
        {
            socket::reset_on_close(&socket);
        }
        shared.end(&connection, reason);
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
    shared.finished(&answer.trace, &outcome(answer.status, answer.body_bytes, answer.began_at, cut));
    if answer.last && cut.is_none() && !lingers {
        shared.connections.remove(&connection);
    }
    shared.turn_over(&connection);
}

/// Why an answer was cut that failed since its connection was ended.
fn cut_before(connection: &Connection) -> Option<Cut> {
    match connection.reason().filter(|_| connection.is_ended())? {
        Reason::Memory => Some(Cut::Memory),
        Reason::Drain => Some(Cut::Drain),
        Reason::Evicted | Reason::Overload => Some(Cut::Room),
        _ => None,
    }
}

/// How an answer ended.
pub fn outcome(status: u16, body_bytes: u64, began_at: Instant, cut: Option<Cut>) -> Outcome {
    let ended_at = Instant::now();
    Outcome { status, body_bytes, write: ended_at.saturating_duration_since(began_at), ended_at, cut }
}
