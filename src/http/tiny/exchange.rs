//! The way of one request through the engine: head, body, quick answer or handler, answer.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::bodies::{self, BodyJob};
use super::body::{self, BodyReader, RawRequest, SharedRequest};
use super::connection::{Connection, Incoming};
use super::crew::{self, Entry, Job};
use super::figures::Reason;
use super::head::{self, BodyKind, Manner};
use super::reply;
use super::shared::Shared;
use crate::http::budget::Share;
use crate::http::engine::Admission;
use crate::http::message::{Outcome, Request, RequestBody, Response, Trace};
use crate::http::method::Method;
use crate::http::problem::{Problem, Written};
use crate::http::responder::{Responder, ResponseSink, unanswered};

/// What is needed to write an answer.
pub struct Exchange {
    pub(super) connection: Arc<Connection>,
    pub(super) request: Holder,
    pub(super) manner: Manner,
    /// Memory for the body, until the answer is made.
    pub(super) share: Option<Share>,
}

/// Who has tiny_http's request.
pub enum Holder {
    /// The exchange.
    Own(Box<RawRequest>),
    /// It shares it with the reader of the body, while an import runs.
    Lent(Arc<SharedRequest>, ImportSlot),
}

impl Holder {
    /// The request, to be answered. `None` while a reader is at it.
    pub fn take(self) -> Option<RawRequest> {
        match self {
            Holder::Own(request) => Some(*request),
            Holder::Lent(shared, slot) => {
                drop(slot);
                shared.take()
            }
        }
    }
}

/// A right to run one import. It ends with the request, before the answer leaves, so that a client that has its answer
/// may start the next one.
pub struct ImportSlot(Arc<Shared>);

impl ImportSlot {
    fn take(shared: &Arc<Shared>, imports_max: usize) -> Option<ImportSlot> {
        let slot = ImportSlot(Arc::clone(shared));
        (shared.imports.fetch_add(1, Ordering::SeqCst) < imports_max).then_some(slot)
    }
}

impl Drop for ImportSlot {
    fn drop(&mut self) {
        self.0.imports.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A request ready for the handler.
pub struct Stage {
    exchange: Exchange,
    request: Request,
    trace: Trace,
}

impl Stage {
    /// For how long the request has been ready.
    pub fn has_waited(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.trace.ready_at)
    }

    /// The answer to a request that no worker was free for in its time, for a replier.
    pub fn into_late_reply(self) -> Reply {
        let Stage { exchange, trace, .. } = self;
        let response = overloaded(trace.method, "the request waited too long for a worker; try again");
        Reply { exchange, response, trace }
    }
}

/// An answer from a thread that is not the engine's.
pub struct Reply {
    exchange: Exchange,
    response: Response,
    trace: Trace,
}

impl Reply {
    /// One for this exchange.
    pub(super) fn new(exchange: Exchange, response: Response, trace: Trace) -> Reply {
        Reply { exchange, response, trace }
    }

    /// Writes it.
    pub fn write(self, shared: &Arc<Shared>) {
        reply::answer(shared, self.exchange, self.response, self.trace);
    }

    /// Has a replier write it.
    pub fn send(self, shared: &Arc<Shared>) {
        if let Err(error) = shared.replies.try_send(Some(self)) {
            // The channel holds an answer for each connection there may be, so this is the end of the engine, or an
            // error of ours. The client must not wait for ever.
            let Some(Reply { exchange, response, trace }) = error.into_inner() else { return };
            shared.end(&exchange.connection, Reason::Overload);
            shared.finished(&trace, &Outcome::unsent(response.status));
        }
    }
}

/// Runs a job on a worker.
pub fn run(shared: &Arc<Shared>, job: Job) {
    match job {
        Job::Begin(connection, incoming) => begin(shared, connection, incoming),
        Job::Answer(stage) => answer(shared, stage),
        Job::Handle(stage) => handle(shared, stage),
    }
}

/// Begins a request whose turn has come.
fn begin(shared: &Arc<Shared>, connection: Arc<Connection>, incoming: Incoming) {
    let manner = Manner::of(&incoming.raw);
    let kind = BodyKind::of(&incoming.raw);
    let mut trace = head::trace(manner, head::peer(&incoming.raw), incoming.received_at);
    let limits = shared.limits.get();
    let read = head::read(&incoming.raw, manner, &limits);
    if read.is_err() {
        shared.handler.note(&head::known(&incoming.raw), &mut trace);
    }
    let raw = RawRequest::new(incoming.raw, kind);
    let request = match read {
        Ok(request) => request,
        Err(problem) => {
            let mut response = Response::from(problem);
            response.close = true;
            return reply::answer(shared, own(connection, raw, manner), response, trace);
        }
    };
    if kind == BodyKind::None {
        return answer(shared, Box::new(Stage { exchange: own(connection, raw, manner), request, trace }));
    }
    let admission = catch_unwind(AssertUnwindSafe(|| shared.handler.admit(&request, &mut trace)));
    match admission {
        Ok(Admission::Read { bytes_max, value }) => {
            let limit = (bytes_max, value, limits.body_timeout);
            bodies::take(shared, Box::new(BodyJob::new(connection, raw, manner, request, trace, limit)));
        }
        Ok(Admission::Stream) => import(shared, connection, raw, manner, request, trace, limits.imports_max),
        Ok(Admission::Refuse(response)) => reply::answer(shared, own(connection, raw, manner), response, trace),
        Err(_) => {
            shared.figures.panics.inc();
            reply::answer(shared, own(connection, raw, manner), unanswered(manner.method), trace);
        }
    }
}

pub(super) fn own(connection: Arc<Connection>, raw: RawRequest, manner: Manner) -> Exchange {
    Exchange { connection, request: Holder::Own(Box::new(raw)), manner, share: None }
}

pub(super) fn overloaded(method: Method, message: &'static str) -> Response {
    let mut problem = Problem::new(503, "OVERLOADED", message);
    if method.is_write() {
        problem = problem.written(Written::No);
    }
    Response::from(problem).field("Retry-After", "1")
}

/// A request whose body is read.
pub(super) fn stage(exchange: Exchange, request: Request, trace: Trace) -> Box<Stage> {
    Box::new(Stage { exchange, request, trace })
}

/// Answers a request with its body read: at once if that is quick, else by the handler when a worker may wait.
pub(super) fn answer(shared: &Arc<Shared>, mut stage: Box<Stage>) {
    let quick = catch_unwind(AssertUnwindSafe(|| shared.handler.quick(&stage.request, &mut stage.trace)));
    let response = match quick {
        Ok(Some(response)) => response,
        Ok(None) => {
            // Its time counts from now, not from when tiny_http read it ahead, behind another of its connection.
            stage.trace.ready_at = Instant::now();
            match shared.crew.enter(stage, shared.limits.get().queued_requests_max) {
                Entry::Granted(stage) => return handle(shared, stage),
                Entry::Queued => return,
                Entry::Full(refused) => {
                    stage = refused;
                    overloaded(stage.trace.method, "too many requests wait for a worker; try again in a moment")
                }
            }
        }
        Err(_) => {
            shared.figures.panics.inc();
            unanswered(stage.trace.method)
        }
    };
    let Stage { exchange, trace, request } = *stage;
    drop(request);
    reply::answer(shared, exchange, response, trace);
}

/// Calls the handler. A panic answers 500, because the ticket is dropped by it.
fn handle(shared: &Arc<Shared>, mut stage: Box<Stage>) {
    let now = Instant::now();
    stage.trace.began_at = now;
    if stage.has_waited(now) > shared.limits.get().request_timeout {
        return stage.into_late_reply().write(shared);
    }
    let Stage { exchange, request, trace } = *stage;
    let ticket = Ticket { shared: Arc::clone(shared), exchange: Mutex::new(Some(exchange)) };
    let responder = Responder::new(Arc::new(ticket), 0, trace);
    if catch_unwind(AssertUnwindSafe(|| shared.handler.handle(request, responder))).is_err() {
        shared.figures.panics.inc();
    }
}

/// Where the answer to one request comes back.
struct Ticket {
    shared: Arc<Shared>,
    exchange: Mutex<Option<Exchange>>,
}

impl ResponseSink for Ticket {
    fn deliver(&self, _ticket: u64, response: Response, trace: Trace) {
        let Some(exchange) = self.exchange.lock().take() else { return };
        let reply = Reply { exchange, response, trace };
        if crew::is_worker() && !std::thread::panicking() {
            return reply.write(&self.shared);
        }
        reply.send(&self.shared);
    }
}

/// Starts a handler that reads its body itself, on a thread of its own.
fn import(
    shared: &Arc<Shared>,
    connection: Arc<Connection>,
    raw: RawRequest,
    manner: Manner,
    mut request: Request,
    trace: Trace,
    imports_max: usize,
) {
    let Some(import_slot) = ImportSlot::take(shared, imports_max) else {
        let response = overloaded(manner.method, "as many imports as may run at once are running; try again later");
        return reply::answer(shared, own(connection, raw, manner), response, trace);
    };
    let pace = body::pace(None);
    connection.set_body(Arc::clone(&pace));
    let lent = SharedRequest::new(raw);
    let reader = BodyReader::new(Arc::clone(&lent), Arc::clone(&connection), pace, Arc::clone(&shared.porch));
    request.body = RequestBody::Reader(Box::new(reader));
    let exchange = Exchange { connection, request: Holder::Lent(lent, import_slot), manner, share: None };
    let stage = Box::new(Stage { exchange, request, trace });
    let theirs = Arc::clone(shared);
    // A thread that cannot be started drops the stage, whose ticket is not made yet: so it is handed over by a slot.
    let slot = Arc::new(Mutex::new(Some(stage)));
    let taken = Arc::clone(&slot);
    let started = std::thread::Builder::new().name("larder-import".into()).spawn(move || {
        if let Some(stage) = taken.lock().take() {
            handle(&theirs, stage);
        }
    });
    if started.is_err()
        && let Some(stage) = slot.lock().take()
    {
        let Stage { exchange, request, trace } = *stage;
        let response = overloaded(manner.method, "no thread could be started for this import; try again later");
        drop(request);
        reply::answer(shared, exchange, response, trace);
    }
}
