//! What all threads of the engine share, and the ends of a connection.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use crossbeam::channel::Sender;

use super::bodies::BodyJob;
use super::body::RawRequest;
use super::connection::{Connection, Connections, Incoming, Key, Place};
use super::crew::{Crew, Job};
use super::exchange::Reply;
use super::figures::{Figures, Reason};
use super::guard::Nudge;
use super::head::BodyKind;
use super::lane::Lane;
use super::linger::{Leftover, Lingering};
use super::porch::Porch;
use super::reply::Answer;
use super::source::Source;
use super::waiting::Waiting;
use super::{socket, sys};
use crate::board::watchdog::Watchdog;
use crate::http::budget::{Answers, Bodies};
use crate::http::engine::Handler;
use crate::http::message::{Outcome, Trace};
use crate::limits::LiveLimits;

/// One engine's common state.
pub struct Shared {
    pub handler: Arc<dyn Handler>,
    pub limits: Arc<LiveLimits>,
    pub connections: Connections,
    pub crew: Crew,
    /// Memory for bodies.
    pub body_budget: Arc<Bodies>,
    /// Memory for answers that are not sent yet.
    pub answer_budget: Arc<Answers>,
    /// Bodies that are to be read, as far as they have come.
    pub bodies: Lane<Box<BodyJob>>,
    /// Those of which nothing has come just now.
    pub bodies_waiting: Waiting<Box<BodyJob>>,
    /// Answers to be written to sockets that may be full.
    pub answers: Lane<Box<Answer>>,
    /// Those whose socket is full.
    pub answers_waiting: Waiting<Box<Answer>>,
    pub replies: Sender<Option<Reply>>,
    pub sources: Vec<Arc<Source>>,
    pub figures: Arc<Figures>,
    /// Who is in.
    pub porch: Arc<Porch>,
    pub nudge: Nudge,
    /// Bytes of unsent answers that a socket's send buffer takes for sure.
    pub send_budget_bytes: usize,
    /// Until then the first request of a connection may come over a socket that was accepted without our options.
    pub early_until: Instant,
    pub imports: AtomicUsize,
    /// Answered connections whose client may still be sending.
    pub lingering: Lingering,
    pub watchdog: Watchdog,
    pub draining: AtomicBool,
    pub stopping: AtomicBool,
}

impl Shared {
    /// Whether the engine is on its way to stop.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Whether the engine's threads are to end.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Gives a request its place. Must be called in the order in which the server gave the requests out.
    pub fn place(&self, port: u16, raw: tiny_http::Request) -> Option<Job> {
        let Some(peer) = raw.remote_addr().copied() else {
            log::error!("tiny_http gave out a request without a peer address");
            drop(raw.into_writer());
            return None;
        };
        let key = Key { port, peer };
        let limits = self.limits.get();
        let (waiting_max, bytes_max) = (limits.pipelined_requests_max, limits.heads_bytes_max);
        let (place, is_new) = self.connections.place(key, Incoming::new(raw), waiting_max, bytes_max);
        if is_new {
            self.nudge.new_connection();
        }
        match place {
            Place::Run(connection, incoming) => Some(Job::Begin(connection, incoming)),
            Place::Waits => None,
            Place::Overrun(connection, incoming) => {
                self.end(&connection, Reason::Pipelining);
                self.discard(&connection, incoming);
                None
            }
            Place::Discard(connection, incoming) => self.place_on_successor(connection, incoming),
        }
    }

    /// An ended connection got a request: either a rest of it, or the client has a new connection from the same port.
    fn place_on_successor(&self, ended: Arc<Connection>, incoming: Incoming) -> Option<Job> {
        let is_successor = ended.successor_check_due()
            && socket::find(&ended.key, &ended.fd_hint)
                .ok()
                .flatten()
                .and_then(|socket| sys::tcp_info(&socket).ok())
                .is_some_and(|info| info.state == sys::TCP_ESTABLISHED);
        if !is_successor {
            self.discard(&ended, incoming);
            return None;
        }
        self.connections.remove(&ended);
        match self.connections.place(ended.key, incoming, 0, 0).0 {
            Place::Run(connection, incoming) => Some(Job::Begin(connection, incoming)),
            Place::Overrun(connection, incoming) | Place::Discard(connection, incoming) => {
                self.discard(&connection, incoming);
                None
            }
            Place::Waits => None,
        }
    }

    /// Brings the crew a job from any thread.
    pub fn push(&self, job: Job) {
        if self.crew.push(job)
            && let Some(source) = self.sources.first()
        {
            source.current().unblock();
        }
    }

    /// The answer to a connection's request has left: lets the next one begin.
    pub fn turn_over(&self, connection: &Arc<Connection>) {
        match connection.next() {
            Some(next) => self.push(Job::Begin(Arc::clone(connection), next)),
            None => self.porch.ahead.wake(&connection.key),
        }
    }

    /// Hands an answer to the side lane.
    pub fn push_aside_answer(&self, answer: Box<Answer>) -> Result<(), Box<Answer>> {
        self.answers.push(answer.client(), answer, self.limits.get().connections_max)
    }

    /// Hands a body to its side lane.
    pub fn push_aside_body(&self, job: Box<BodyJob>) -> Result<(), Box<BodyJob>> {
        self.bodies.push(job.client(), job, self.limits.get().connections_max)
    }

    /// Ends a connection: nothing of it is begun any more, and both its directions are shut.
    pub fn end(&self, connection: &Arc<Connection>, reason: Reason) {
        self.end_order(connection, reason);
        let found = socket::find(&connection.key, &connection.fd_hint);
        if let Some(socket) = found.as_ref().ok().and_then(Option::as_ref) {
            socket::cut(socket);
        }
        if found.is_ok() {
            connection.note_cut();
        }
    }

    /// Ends a connection whose client may still be sending: nothing of it is begun any more, and it is shut once the
    /// client has closed it, or has had its time.
    pub fn end_gently(&self, connection: &Arc<Connection>, reason: Reason, leftover: Leftover) {
        connection.note_lingering();
        self.end_order(connection, reason);
        if let Err(leftover) = self.lingering.hold(Arc::clone(connection), leftover) {
            leftover.dispose(self, connection);
        }
    }

    /// Stops whoever reads a body that comes too slowly. Only the reading side is shut, so that an answer can leave.
    pub fn stop_slow_body(&self, connection: &Connection) {
        let Some(pace) = connection.glimpse().body else { return };
        // IMPORTANT: the reader wakes up by the shutdown and asks for this.
        pace.is_too_slow.store(true, Ordering::SeqCst);
        if let Ok(Some(socket)) = socket::find(&connection.key, &connection.fd_hint) {
            socket::stop_reading(&socket);
        }
    }

    fn end_order(&self, connection: &Arc<Connection>, reason: Reason) {
        if !connection.is_ended() {
            let reason = connection.reason().unwrap_or(reason);
            connection.note_reason(reason);
            self.figures.closed(reason);
        }
        for incoming in connection.end() {
            self.discard(connection, incoming);
        }
    }

    /// Gets rid of a request that will not be answered, without writing a byte.
    pub fn discard(&self, connection: &Arc<Connection>, incoming: Incoming) {
        let kind = BodyKind::of(&incoming.raw);
        let request = RawRequest::new(incoming.raw, kind);
        let socket = if request.has_rest() { self.find(connection) } else { None };
        drop(self.give_up(request, connection, socket.as_ref()));
    }

    /// The socket of a connection, if there is one and it can be had.
    pub fn find(&self, connection: &Connection) -> Option<OwnedFd> {
        socket::find(&connection.key, &connection.fd_hint).ok().flatten()
    }

    /// Gives up a request for its writer. If some of its body is left, nothing more is read of its connection, which has to
    /// end after the answer.
    pub fn give_up(
        &self,
        request: RawRequest,
        connection: &Connection,
        socket: Option<&OwnedFd>,
    ) -> Box<dyn io::Write + Send> {
        match socket {
            _ if !request.has_rest() => {}
            Some(socket) => socket::stop_reading(socket),
            // It has no peer any more, or there is no descriptor to hold it by.
            None => self.porch.close(&connection.key),
        }
        request.into_writer()
    }

    /// How many requests are in the engine's or the handler's hands.
    pub fn in_hand(&self) -> usize {
        self.connections.busy() + self.imports.load(Ordering::SeqCst)
    }

    /// Tells the handler how an answer ended.
    pub fn finished(&self, trace: &Trace, outcome: &Outcome) {
        let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.handler.finished(trace, outcome)));
        if told.is_err() {
            self.figures.panics.inc();
        }
    }
}
