//! The worker pool: a fixed number of threads that run [`Handler::handle`], fed by a bounded queue.
//!
//! Invariant: a request that does not fit the queue is not taken; one that is taken is answered, also when its handler
//! panics (the dropped responder answers 500).

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::mailbox::{Mailbox, Message};
use super::shared::Shared;
use crate::board::watchdog::Heartbeat;
use crate::http::budget::Client;
use crate::http::message::{Puller, Request, Response};
use crate::http::method::Method;
use crate::http::problem::{Problem, Written};
use crate::http::responder::Responder;
use crate::wake;

/// Jobs for which one worker is woken.
const JOBS_A_WORKER: usize = 8;
/// Milliseconds after which jobs that still wait have more workers woken.
pub const STUCK_MS: u64 = 1;
/// For how long a worker that finds more brief jobs goes on before it wakes those who send what it has answered.
const ANSWERS_HELD: Duration = Duration::from_micros(200);
/// A made body is asked again until this many bytes are there or it has no more for now.
const PIECE_BYTES: usize = 64 * 1024;
/// Bytes of the line with a chunk's size, for which room is left before the chunk.
pub const SIZE_LINE_BYTES: usize = 10;
/// Bytes that may follow a chunk.
const CHUNK_END_BYTES: usize = 7;

/// What a worker does.
// Nearly every job is the large one: boxing it would cost each request an allocation.
#[allow(clippy::large_enum_variant)]
pub enum Job {
    /// Runs the handler.
    Handle {
        /// The request, its body read.
        request: Request,
        /// How it is answered.
        responder: Responder,
    },
    /// Makes the next piece of a body; that may read the disk, which no I/O thread does.
    Pull {
        /// What makes it.
        pull: Puller,
        /// It is to be a chunk.
        is_chunked: bool,
        /// On whose behalf.
        client: Client,
        /// The connection it is for.
        ticket: u64,
        /// The thread of that connection.
        mailbox: Arc<Mailbox>,
    },
}

impl Job {
    /// For how long a request has been ready; pieces of an answer have no limit.
    fn has_waited(&mut self, now: Instant) -> Duration {
        match self {
            Job::Handle { responder, .. } => now.saturating_duration_since(responder.trace().ready_at),
            Job::Pull { .. } => Duration::ZERO,
        }
    }
}

impl Job {
    /// Whether answers may be held while this is done.
    fn is_brief(&mut self) -> bool {
        match self {
            Job::Handle { responder, .. } => responder.trace().is_brief,
            Job::Pull { .. } => false,
        }
    }
}

/// A piece of a made body.
pub struct Piece {
    /// What makes the next one.
    pub pull: Puller,
    /// The bytes, behind room for the line with their number if they are to be a chunk.
    pub bytes: Vec<u8>,
    /// How many were made; none if there is nothing just now.
    pub made: usize,
    /// Whether more will come; an error if the body cannot be made to its end, of which these bytes are the last.
    pub more: Result<bool, ()>,
}

/// The queue between I/O threads and workers.
///
/// An I/O thread puts jobs in and wakes workers at the end of its turn: one for every few jobs, since one worker gets
/// through several faster than several workers that take turns on a core. That holds while the jobs find what they read
/// in memory. Where jobs stay because one waits for the disk, [`Queue::is_stuck`] says so, and more are woken.
#[derive(Default)]
pub struct Queue {
    inner: Mutex<Inner>,
    has_work: Condvar,
    /// Jobs wait although a worker sleeps: seen without the lock, and true for the moment between wake-up and start too.
    is_stuck: AtomicBool,
}

#[derive(Default)]
struct Inner {
    jobs: VecDeque<Job>,
    sleeping: usize,
    is_closed: bool,
}

/// A place in the queue, held until the job is put there.
pub struct Place<'a> {
    inner: MutexGuard<'a, Inner>,
    queue: &'a Queue,
}

impl Place<'_> {
    /// Puts the job into the queue. Who does so calls [`Queue::wake`] before it waits for anything.
    pub fn fill(mut self, job: Job) {
        self.inner.jobs.push_back(job);
        self.queue.look(&self.inner);
    }
}

impl Queue {
    /// A place for one more job, or `None` if `jobs_max` wait already.
    pub fn place(&self, jobs_max: usize) -> Option<Place<'_>> {
        let inner = self.inner.lock();
        (inner.jobs.len() < jobs_max && !inner.is_closed).then_some(Place { inner, queue: self })
    }

    /// Wakes workers for `jobs` that were put into the queue.
    pub fn wake(&self, jobs: usize) {
        // False once nobody sleeps any more.
        (0..jobs.div_ceil(JOBS_A_WORKER)).all(|_| self.has_work.notify_one());
    }

    /// Wakes every worker that sleeps.
    pub fn wake_all(&self) {
        self.has_work.notify_all();
    }

    /// Whether jobs wait although a worker sleeps: to be looked at again within [`STUCK_MS`].
    pub fn is_stuck(&self) -> bool {
        self.is_stuck.load(Ordering::Relaxed)
    }

    fn look(&self, inner: &Inner) {
        self.is_stuck.store(!inner.jobs.is_empty() && inner.sleeping > 0, Ordering::Relaxed);
    }

    fn take(&self, inner: &mut Inner) -> Option<Job> {
        let job = inner.jobs.pop_front();
        self.look(inner);
        job
    }

    /// Takes out those at the front whose request has waited for longer than it may.
    fn overdue(&self, request_timeout: Duration) -> Vec<Job> {
        let now = Instant::now();
        let mut inner = self.inner.lock();
        let mut late = Vec::new();
        while inner.jobs.front_mut().is_some_and(|job| job.has_waited(now) > request_timeout) {
            late.extend(self.take(&mut inner));
        }
        late
    }

    /// Lets the workers end once the queue is empty.
    pub fn close(&self) {
        self.inner.lock().is_closed = true;
        self.has_work.notify_all();
    }

    fn next(&self, heartbeat: &Heartbeat) -> Option<Job> {
        let mut inner = self.inner.lock();
        loop {
            heartbeat.beat();
            if let Some(job) = self.take(&mut inner) {
                return Some(job);
            }
            if inner.is_closed {
                return None;
            }
            inner.sleeping += 1;
            heartbeat.wait(|max| self.has_work.wait_for(&mut inner, max));
            inner.sleeping -= 1;
        }
    }

    /// The next job, if it is there and is a brief one.
    fn next_brief(&self) -> Option<Job> {
        let mut inner = self.inner.lock();
        let is_brief = inner.jobs.front_mut().is_some_and(Job::is_brief);
        if is_brief { self.take(&mut inner) } else { None }
    }
}

/// What one worker thread does until the queue is closed.
pub fn run(shared: &Shared) {
    let heartbeat = shared.watchdog.heartbeat("a worker");
    while let Some(first) = shared.queue.next(&heartbeat) {
        heartbeat.allow(2 * shared.limits.get().request_timeout);
        let until = Instant::now() + ANSWERS_HELD;
        wake::together(|| {
            work(shared, first);
            while Instant::now() < until
                && let Some(job) = shared.queue.next_brief()
            {
                work(shared, job);
            }
        });
    }
}

fn work(shared: &Shared, job: Job) {
    shared.stats.queue_depth.dec();
    let (request, mut responder) = match job {
        Job::Handle { request, responder } => (request, responder),
        Job::Pull { pull, is_chunked, client, ticket, mailbox } => {
            return mailbox.send(match shared.answers.room_for_piece(client, PIECE_BYTES) {
                Some(mut room) => {
                    let piece = make_piece(pull, is_chunked);
                    room.resize(piece.bytes.capacity());
                    Message::Pulled(ticket, Box::new(piece), room)
                }
                None => Message::NoRoomForPiece(ticket, pull),
            });
        }
    };
    let trace = responder.trace();
    trace.began_at = Instant::now();
    let waited = trace.began_at.saturating_duration_since(trace.ready_at);
    if waited > shared.limits.get().request_timeout {
        return refuse_late(shared, request.method, responder);
    }
    shared.stats.workers_busy.inc();
    handle(shared, request, responder);
    shared.stats.workers_busy.dec();
}

/// Answers the requests whose time was over before a worker was free for them, also when no worker will ever be: each
/// may sit in a read of a card that hangs. Called now and then by the thread that serves.
pub fn refuse_overdue(shared: &Shared) {
    for job in shared.queue.overdue(shared.limits.get().request_timeout) {
        shared.stats.queue_depth.dec();
        if let Job::Handle { request, responder } = job {
            refuse_late(shared, request.method, responder);
        }
    }
}

fn refuse_late(shared: &Shared, method: Method, responder: Responder) {
    shared.stats.overloaded.inc();
    responder.send(overloaded(method, "the request waited too long for a worker; try again"));
}

fn make_piece(mut pull: Puller, is_chunked: bool) -> Piece {
    let mut bytes = Vec::with_capacity(PIECE_BYTES);
    let start = if is_chunked { SIZE_LINE_BYTES } else { 0 };
    bytes.resize(start, 0);
    loop {
        let before = bytes.len();
        let more = match catch_unwind(AssertUnwindSafe(|| pull(&mut bytes))) {
            Ok(more) if bytes.len() >= before => more.map_err(|_| ()),
            _ => {
                bytes.resize(before, 0);
                Err(())
            }
        };
        if more != Ok(true) || bytes.len() == before || bytes.len() >= PIECE_BYTES {
            bytes.reserve_exact(CHUNK_END_BYTES);
            bytes.shrink_to(bytes.len() + CHUNK_END_BYTES);
            return Piece { pull, made: bytes.len() - start, bytes, more };
        }
    }
}

/// Runs the handler; a panic ends its request with 500, not its thread.
pub fn handle(shared: &Shared, request: Request, responder: Responder) {
    if catch_unwind(AssertUnwindSafe(|| shared.handler.handle(request, responder))).is_err() {
        shared.stats.panics.inc();
    }
}

/// 503 for a request that was not begun.
pub fn overloaded(method: Method, message: &'static str) -> Response {
    let mut problem = Problem::new(503, "OVERLOADED", message);
    if method.is_write() {
        problem = problem.written(Written::No);
    }
    Response::from(problem).field("Retry-After", "1")
}
