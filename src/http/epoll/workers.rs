//! The worker pool: a fixed number of threads that run [`Handler::handle`], fed by a bounded queue.
//!
//! Invariant: a request that does not fit the queue is not taken; one that is taken is answered, also when its handler
//! panics (the dropped responder answers 500).

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::shared::Shared;
use crate::http::message::{Request, Response};
use crate::http::method::Method;
use crate::http::problem::{Problem, Written};
use crate::http::responder::Responder;

/// One request on its way to a worker.
pub struct Job {
    /// The request, its body read.
    pub request: Request,
    /// How it is answered.
    pub responder: Responder,
}

/// The queue between I/O threads and workers.
#[derive(Default)]
pub struct Queue {
    inner: Mutex<Inner>,
    has_work: Condvar,
}

#[derive(Default)]
struct Inner {
    jobs: VecDeque<Job>,
    is_closed: bool,
}

/// A place in the queue, held until the job is put there.
pub struct Place<'a> {
    inner: MutexGuard<'a, Inner>,
    has_work: &'a Condvar,
}

impl Place<'_> {
    /// Puts the job into the queue.
    pub fn fill(mut self, job: Job) {
        self.inner.jobs.push_back(job);
        drop(self.inner);
        self.has_work.notify_one();
    }
}

impl Queue {
    /// A place for one more job, or `None` if `jobs_max` wait already.
    pub fn place(&self, jobs_max: usize) -> Option<Place<'_>> {
        let inner = self.inner.lock();
        (inner.jobs.len() < jobs_max && !inner.is_closed).then_some(Place { inner, has_work: &self.has_work })
    }

    /// Lets the workers end once the queue is empty.
    pub fn close(&self) {
        self.inner.lock().is_closed = true;
        self.has_work.notify_all();
    }

    fn next(&self) -> Option<Job> {
        let mut inner = self.inner.lock();
        loop {
            if let Some(job) = inner.jobs.pop_front() {
                return Some(job);
            }
            if inner.is_closed {
                return None;
            }
            self.has_work.wait(&mut inner);
        }
    }
}

/// What one worker thread does until the queue is closed.
pub fn run(shared: &Shared) {
    while let Some(Job { request, mut responder }) = shared.queue.next() {
        shared.stats.queue_depth.dec();
        let trace = responder.trace();
        trace.began_at = Instant::now();
        let waited = trace.began_at.saturating_duration_since(trace.received_at);
        if waited > shared.limits.get().request_timeout {
            shared.stats.overloaded.inc();
            responder.send(overloaded(request.method, "the request waited too long for a worker; try again"));
            continue;
        }
        shared.stats.workers_busy.inc();
        handle(shared, request, responder);
        shared.stats.workers_busy.dec();
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
