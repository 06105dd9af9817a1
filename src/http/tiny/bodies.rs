//! Bodies that are not at hand: read in side lanes, as they come, and as far as there is memory for them.
//!
//! A body of a known length is read only when its socket has something, so it costs no thread while its client pauses. A
//! reader of chunks may wait inside tiny_http, so those have a lane of their own. Invariant: a job is in one place at a
//! time: a lane, a thread of it, the sockets that are watched, or the budget's line.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam::channel::bounded;

use super::body::{self, BodyError, RawRequest};
use super::connection::{BodyPace, Connection};
use super::crew::Job;
use super::exchange::{self, Exchange, Reply, Stage, overloaded, own};
use super::figures::Reason;
use super::head::{BodyKind, Manner};
use super::shared::Shared;
use super::waiting::{self, Until};
use super::{reply, socket};
use crate::http::budget::bodies::{FREE_BYTES, decoded_bytes_max};
use crate::http::budget::{Client, Share};
use crate::http::headers::HeaderName;
use crate::http::message::{Request, RequestBody, Response, Trace};
use crate::http::problem::Problem;

/// A body larger than what is free grows by so much at least.
const PIECE_BYTES: u64 = 64 * 1024;
/// What tiny_http reads from a socket at least, and keeps if it was asked for less.
const BUFFERED_BYTES: u64 = 1024;
/// Reads of one body before others have their turn.
const READS_PER_TURN: usize = 16;
/// A body of which nothing comes is looked at so often; the guard judges its pace.
const LOOK: Duration = Duration::from_secs(5);

/// A body to be read in a side lane.
pub struct BodyJob {
    connection: Arc<Connection>,
    raw: RawRequest,
    manner: Manner,
    request: Request,
    trace: Trace,
    bytes_max: u64,
    value: bool,
    pace: Arc<BodyPace>,
    /// The body as far as it has come, if its length is known.
    bytes: Vec<u8>,
    /// The socket, once it was looked for.
    socket: Option<OwnedFd>,
    share: Option<Share>,
}

impl BodyJob {
    /// A body of which nothing was read. `limit` is its size, whether it is a value, and its time.
    pub fn new(
        connection: Arc<Connection>,
        raw: RawRequest,
        manner: Manner,
        request: Request,
        trace: Trace,
        (bytes_max, value, timeout): (u64, bool, Duration),
    ) -> BodyJob {
        let pace = body::pace(Some(timeout), !matches!(raw.kind(), BodyKind::Counted(_)));
        let (bytes, socket, share) = (Vec::new(), None, None);
        BodyJob { connection, raw, manner, request, trace, bytes_max, value, pace, bytes, socket, share }
    }

    /// On whose behalf it is read.
    pub fn client(&self) -> Client {
        self.trace.client()
    }

    /// Whether it can be read as it comes, without waiting for its client, or has been read.
    pub fn is_counted(&self) -> bool {
        matches!(self.raw.kind(), BodyKind::Counted(_)) || self.raw.is_at_end()
    }

    /// What it can become when it is decompressed.
    fn decoded_bytes_max(&self, wire_bytes: u64) -> u64 {
        let is_compressed = self.request.head.has(HeaderName::ContentEncoding);
        decoded_bytes_max(is_compressed, wire_bytes, self.bytes_max).unwrap_or(0)
    }

    fn share(&mut self, shared: &Arc<Shared>) -> &mut Share {
        let client = self.client();
        self.share.get_or_insert_with(|| begin_share(shared, client, &self.connection))
    }
}

fn begin_share(shared: &Arc<Shared>, client: Client, connection: &Arc<Connection>) -> Share {
    let (theirs, connection) = (Arc::clone(shared), Arc::clone(connection));
    shared.body_budget.begin(client, Box::new(move || theirs.stop_slow_body(&connection)))
}

/// Takes a body that tiny_http has read already, and sends the others to their lane.
pub fn take(shared: &Arc<Shared>, mut job: Box<BodyJob>) {
    let length = job.raw.kind().length();
    let too_large = length.is_some_and(|length| length > job.bytes_max);
    let becomes = length.map_or(0, |length| length + job.decoded_bytes_max(length));
    let stage = match job.raw.kind().is_at_hand() {
        _ if too_large => read_blocking(shared, *job),
        true if becomes <= FREE_BYTES => read_blocking(shared, *job),
        // What it becomes may have to wait for memory, which a worker must not.
        true => match read_at_hand(&mut job) {
            Ok(()) => take_whole(shared, job),
            Err(error) => unreadable(shared, *job, error),
        },
        false => {
            job.connection.set_body(Arc::clone(&job.pace));
            return push_aside(shared, job);
        }
    };
    if let Some(stage) = stage {
        exchange::answer(shared, stage);
    }
}

fn read_at_hand(job: &mut BodyJob) -> Result<(), BodyError> {
    let BodyJob { raw, bytes, connection, pace, .. } = job;
    bytes.reserve_exact(usize::try_from(raw.left()).unwrap_or(0));
    while !raw.is_at_end() {
        raw.read_some(bytes, connection, pace)?;
    }
    Ok(())
}

fn push_aside(shared: &Arc<Shared>, job: Box<BodyJob>) {
    if let Err(job) = shared.push_aside_body(job) {
        refuse(shared, *job);
    }
}

fn refuse(shared: &Arc<Shared>, job: BodyJob) {
    let BodyJob { connection, raw, manner, trace, .. } = job;
    connection.end_body();
    let response = overloaded(manner.method, "too many bodies at once; try again in a moment");
    Reply::new(own(connection, raw, manner), response, trace).send(shared);
}

/// Reads a body on a thread of its lane, and brings the request back to the workers once it is whole.
pub fn read_aside(shared: &Arc<Shared>, job: Box<BodyJob>) {
    let stage = if job.is_counted() { read_what_came(shared, job) } else { read_blocking(shared, *job) };
    if let Some(stage) = stage {
        shared.push(Job::Answer(stage));
    }
}

/// Something has come of a body, or its connection has ended.
pub fn go_on(shared: &Arc<Shared>, socket: OwnedFd, mut job: Box<BodyJob>) {
    job.socket = Some(socket);
    push_aside(shared, job);
}

/// Reads of a body what there is, and leaves it where it waits for more, or for memory.
fn read_what_came(shared: &Arc<Shared>, mut job: Box<BodyJob>) -> Option<Box<Stage>> {
    job.pace.began_at.get_or_init(Instant::now);
    for _ in 0..READS_PER_TURN {
        if job.raw.is_at_end() {
            return take_whole(shared, job);
        }
        let held = job.bytes.len() as u64;
        let room = (job.bytes.capacity() - job.bytes.len()) as u64;
        // IMPORTANT: a shorter read leaves some of the body with tiny_http, where no socket tells of it any more.
        if room < BUFFERED_BYTES.min(job.raw.left()) {
            let more = job.raw.left().min(if held == 0 { FREE_BYTES } else { held.max(PIECE_BYTES) });
            let need = held + job.raw.left();
            let need = need + job.decoded_bytes_max(need);
            // Nobody is asked for what there is no room for.
            let is_asked_for = held == 0 && job.request.head.has(HeaderName::Expect) && job.share.is_none();
            let must_wait = is_asked_for && need > FREE_BYTES && !shared.body_budget.has_room();
            if must_wait || (held + more > FREE_BYTES && !job.share(shared).grow(held + more)) {
                wait_for_room(shared, job, need);
                return None;
            }
            if held == 0 {
                job.raw.ask_for_body();
            }
            job.bytes.reserve_exact(usize::try_from(more).unwrap_or(usize::MAX));
        }
        let found = match job.socket.take() {
            Some(socket) => Some(socket),
            None => socket::find(&job.connection.key, &job.connection.fd_hint).ok().flatten(),
        };
        let Some(socket) = found else { return unreadable(shared, *job, BodyError::Broken) };
        if !waiting::is_ready(&socket, Until::Readable) && !is_with_tiny_http(shared, &socket, &job) {
            if let Err((_, job)) = shared.bodies_waiting.hold(socket, Until::Readable, Instant::now() + LOOK, job) {
                refuse(shared, *job);
            }
            return None;
        }
        let BodyJob { raw, bytes, connection, pace, .. } = &mut *job;
        match raw.read_some(bytes, connection, pace) {
            Ok(count) => job.share.iter().for_each(|share| share.moved(count)),
            Err(error) => return unreadable(shared, *job, error),
        }
        job.socket = Some(socket);
    }
    push_aside(shared, job);
    None
}

/// Whether the rest of a small body came with its head, so that no socket tells of it.
fn is_with_tiny_http(shared: &Shared, socket: &OwnedFd, job: &BodyJob) -> bool {
    let taken = job.connection.taken.load(std::sync::atomic::Ordering::Relaxed);
    let left = job.raw.left();
    left <= BUFFERED_BYTES && shared.porch.body_left(socket, taken).is_some_and(|on_socket| on_socket < left)
}

/// Waits until all that the body may need is set aside. Meanwhile nobody is slow but us.
fn wait_for_room(shared: &Arc<Shared>, mut job: Box<BodyJob>, need: u64) {
    job.pace = body::pace(job.pace.timeout, false);
    job.connection.set_body(Arc::clone(&job.pace));
    let (theirs, who) = (Arc::clone(shared), job.share(shared).who());
    let admit = move |there_is: bool| match (there_is, &mut job.share) {
        (true, Some(share)) => {
            share.was_admitted(need);
            push_aside(&theirs, job);
        }
        _ => refuse(&theirs, *job),
    };
    shared.body_budget.wait(who, need, Box::new(admit));
}

/// The body has come whole: makes sure of the memory for what it becomes.
fn take_whole(shared: &Arc<Shared>, mut job: Box<BodyJob>) -> Option<Box<Stage>> {
    let held = job.bytes.capacity() as u64 + job.decoded_bytes_max(job.bytes.len() as u64);
    if held > FREE_BYTES && !job.share(shared).grow(held) {
        wait_for_room(shared, job, held);
        return None;
    }
    let bytes = std::mem::take(&mut job.bytes);
    Some(staged(*job, bytes.into(), held))
}

fn staged(job: BodyJob, bytes: Bytes, held: u64) -> Box<Stage> {
    let BodyJob { connection, raw, manner, mut request, trace, mut share, .. } = job;
    connection.end_body();
    if let Some(share) = &mut share {
        share.settle(held);
    }
    request.body = RequestBody::Bytes(bytes);
    let exchange = Exchange { share, ..own(connection, raw, manner) };
    exchange::stage(exchange, request, trace)
}

/// Reads a body that is at hand, or whose reader waits for the client.
fn read_blocking(shared: &Arc<Shared>, mut job: BodyJob) -> Option<Box<Stage>> {
    let (bytes_max, client) = (job.bytes_max, job.client());
    let need = bytes_max + 2 * FREE_BYTES + job.decoded_bytes_max(bytes_max);
    let is_compressed = job.request.head.has(HeaderName::ContentEncoding);
    let BodyJob { raw, connection, pace, share, .. } = &mut job;
    let mut grow = |bytes: u64| {
        if bytes <= FREE_BYTES {
            return Ok(());
        }
        let share = share.get_or_insert_with(|| begin_share(shared, client, connection));
        share.moved(usize::try_from(PIECE_BYTES).unwrap_or(0));
        let has_room = share.grow(bytes) || wait_here(shared, share, need);
        if has_room { Ok(()) } else { Err(BodyError::NoRoom) }
    };
    let read = raw.read_all(bytes_max, connection, pace, &mut grow);
    let read = read.and_then(|bytes| {
        let decoded = decoded_bytes_max(is_compressed, bytes.len() as u64, bytes_max).unwrap_or(0);
        let held = bytes.len() as u64 + decoded;
        grow(held).map(|()| (bytes, held))
    });
    match read {
        Ok((bytes, held)) => Some(staged(job, bytes, held)),
        Err(error) => unreadable(shared, job, error),
    }
}

/// Waits on this thread until all that a body may need is set aside; false if that took too long.
fn wait_here(shared: &Arc<Shared>, share: &mut Share, need: u64) -> bool {
    let (tell, told) = bounded(1);
    let admit = move |there_is| {
        let _ = tell.send(there_is);
    };
    shared.body_budget.wait(share.who(), need, Box::new(admit));
    // The guard ends the wait; the sender's end does if there is no guard any more.
    let there_is = told.recv().unwrap_or(false);
    if there_is {
        share.was_admitted(need);
    }
    there_is
}

/// The body cannot be had: answers so.
fn unreadable(shared: &Arc<Shared>, job: BodyJob, error: BodyError) -> Option<Box<Stage>> {
    let BodyJob { connection, raw, manner, trace, bytes_max, value, .. } = job;
    connection.end_body();
    let mut response = match error {
        BodyError::NoRoom => overloaded(manner.method, "too many bodies at once; try again in a moment"),
        _ => Response::from(problem(error, bytes_max, value)),
    };
    response.close = raw.has_rest();
    if error == BodyError::TooSlow {
        connection.note_reason(Reason::Body);
    }
    reply::answer(shared, own(connection, raw, manner), response, trace);
    None
}

fn problem(error: BodyError, bytes_max: u64, value: bool) -> Problem {
    match (error, value) {
        (BodyError::TooLarge, true) => {
            Problem::new(413, "VALUE_TOO_LARGE", format!("a value holds at most {bytes_max} bytes"))
        }
        (BodyError::TooLarge, false) => {
            Problem::new(413, "BODY_TOO_LARGE", format!("this body may hold at most {bytes_max} bytes"))
        }
        (BodyError::TooSlow, _) => Problem::new(408, "REQUEST_TIMEOUT", "the body came too slowly"),
        (BodyError::Broken | BodyError::NoRoom, _) => {
            Problem::new(400, "BAD_REQUEST", "the body is not valid, or ended early")
        }
    }
}
