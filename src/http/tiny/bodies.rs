//! Bodies that are not at hand: read in a side lane, as they come, and as far as there is memory for them.
//!
//! A body is read only when there is something of it, so it costs no thread while its client pauses, however slow that is.
//! Invariant: a job is in one place at a time: the lane, a thread of it, the sockets that are watched, or the budget's line.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::body::{self, BodyError, RawRequest, Way};
use super::connection::{BodyPace, Connection};
use super::crew::Job;
use super::exchange::{self, Exchange, Reply, Stage, overloaded, own};
use super::figures::Reason;
use super::head::Manner;
use super::meter::Meter;
use super::reply;
use super::shared::Shared;
use super::waiting::{self, Until};
use crate::http::budget::bodies::{FREE_BYTES, decoded_bytes_max};
use crate::http::budget::{Client, Share};
use crate::http::headers::HeaderName;
use crate::http::message::{Request, RequestBody, Response, Trace};
use crate::http::problem::Problem;

/// A body larger than what is free grows by so much at least.
const PIECE_BYTES: u64 = 64 * 1024;
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
    /// The body as far as it has come.
    bytes: Vec<u8>,
    /// Where it comes from, once that was looked for.
    way: Option<Way>,
    /// Its other half while the socket is watched.
    meter: Option<Arc<Meter>>,
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
        let pace = body::pace(Some(timeout));
        let (bytes, way, meter, share) = (Vec::new(), None, None, None);
        BodyJob { connection, raw, manner, request, trace, bytes_max, value, pace, bytes, way, meter, share }
    }

    /// On whose behalf it is read.
    pub fn client(&self) -> Client {
        self.trace.client()
    }

    /// What may still come: of a body in chunks, one byte more, so that there is room to read its end into.
    fn left(&self) -> u64 {
        match self.raw.kind().length() {
            Some(_) => self.raw.left(),
            None => self.bytes_max + 1 - self.bytes.len() as u64,
        }
    }

    /// What it can become when it is decompressed.
    fn decoded_bytes_max(&self, wire_bytes: u64) -> u64 {
        let is_compressed = self.request.head.has(HeaderName::ContentEncoding);
        decoded_bytes_max(is_compressed, wire_bytes, self.bytes_max).unwrap_or(0)
    }

    /// One read, if there is anything to read.
    fn read(&mut self, shared: &Shared) -> Result<Option<usize>, BodyError> {
        let way = match &self.way {
            Some(way) => way,
            None => {
                let way = Way::find(&self.connection, &shared.porch).map_err(BodyError::of_search)?;
                way.meter.set_own_limit(self.bytes_max);
                self.way.insert(way)
            }
        };
        let is_there = || {
            let taken = self.connection.taken.load(Ordering::Relaxed);
            waiting::is_ready(&way.socket, Until::Readable) || way.has_kept(taken, self.raw.left())
        };
        // tiny_http's own reader would wait.
        if !self.raw.kind().is_own() && !is_there() {
            return Ok(None);
        }
        self.raw.read_some(&mut self.bytes, way, &self.pace)
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
    let stage = if job.raw.kind().length().is_some_and(|length| length > job.bytes_max) {
        unreadable(shared, *job, BodyError::TooLarge)
    } else if job.raw.kind().is_at_hand() {
        match job.raw.take_at_hand() {
            Ok(bytes) => {
                job.bytes = bytes;
                take_whole(shared, job)
            }
            Err(_) => unreadable(shared, *job, BodyError::Broken),
        }
    } else {
        job.connection.set_body(Arc::clone(&job.pace));
        return push_aside(shared, job);
    };
    if let Some(stage) = stage {
        exchange::answer(shared, stage);
    }
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
    if let Some(stage) = read_what_came(shared, job) {
        shared.push(Job::Answer(stage));
    }
}

/// Something has come of a body, or its connection has ended.
pub fn go_on(shared: &Arc<Shared>, socket: OwnedFd, mut job: Box<BodyJob>) {
    job.way = job.meter.take().map(|meter| Way { socket, meter });
    push_aside(shared, job);
}

/// Reads of a body what there is, and leaves it where it waits for more, or for memory.
fn read_what_came(shared: &Arc<Shared>, mut job: Box<BodyJob>) -> Option<Box<Stage>> {
    for _ in 0..READS_PER_TURN {
        if job.raw.is_at_end() {
            return take_whole(shared, job);
        }
        let (held, left) = (job.bytes.len() as u64, job.left());
        if job.bytes.len() == job.bytes.capacity() {
            let more = left.min(if held == 0 { FREE_BYTES } else { held.max(PIECE_BYTES) });
            let need = held + left;
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
        match job.read(shared) {
            Ok(Some(count)) => job.share.iter().for_each(|share| share.moved(count)),
            Ok(None) => {
                wait_for_more(shared, job);
                return None;
            }
            Err(BodyError::OutOfReach) => {
                refuse(shared, *job);
                return None;
            }
            Err(error) => return unreadable(shared, *job, error),
        }
    }
    push_aside(shared, job);
    None
}

/// Nothing more has come: watches the socket.
fn wait_for_more(shared: &Arc<Shared>, mut job: Box<BodyJob>) {
    let Some(Way { socket, meter }) = job.way.take() else { return refuse(shared, *job) };
    job.meter = Some(meter);
    if let Err((_, job)) = shared.bodies_waiting.hold(socket, Until::Readable, Instant::now() + LOOK, job) {
        refuse(shared, *job);
    }
}

/// Waits until all that the body may need is set aside. Meanwhile nobody is slow but us.
fn wait_for_room(shared: &Arc<Shared>, mut job: Box<BodyJob>, need: u64) {
    job.pace.set_waits(true);
    let (theirs, who) = (Arc::clone(shared), job.share(shared).who());
    let admit = move |there_is: bool| match (there_is, &mut job.share) {
        (true, Some(share)) => {
            share.was_admitted(need);
            job.pace.set_waits(false);
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

/// The body cannot be had: answers so.
fn unreadable(shared: &Arc<Shared>, job: BodyJob, error: BodyError) -> Option<Box<Stage>> {
    let BodyJob { connection, raw, manner, trace, bytes_max, value, .. } = job;
    connection.end_body();
    let mut response = Response::from(problem(error, bytes_max, value));
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
        (BodyError::Broken | BodyError::OutOfReach, _) => {
            Problem::new(400, "BAD_REQUEST", "the body is not valid, or ended early")
        }
    }
}
