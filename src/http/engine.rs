//! The seam: what an engine is to the application, and the application to an engine.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::headers::Head;
use super::message::{Outcome, Request, Response, Trace};
use super::network::Unbounded;
use super::responder::Responder;
use crate::board::watchdog::Watchdog;
use crate::limits::LiveLimits;
use crate::metrics::Registry;

/// What is to be done with a request's body, decided on its head alone.
pub enum Admission {
    /// Read it whole, up to this many bytes after transfer decoding; one more is answered 413 `BODY_TOO_LARGE`
    /// (`VALUE_TOO_LARGE` if `value` is set) and ends the connection.
    Read {
        /// The limit in bytes.
        bytes_max: u64,
        /// Whether the body is one value, for the error code.
        value: bool,
    },
    /// Hand it over as a reader, in the import lane (2 at a time, threads that may block).
    Stream,
    /// Do not read it: answer this, and end the connection if a body is on its way.
    Refuse(Response),
}

/// The application, as an engine sees it. Called from any thread of the engine.
pub trait Handler: Send + Sync + 'static {
    /// Judges a request that has a body, before a byte of it is read. Not called for requests without one.
    fn admit(&self, request: &Request, trace: &mut Trace) -> Admission;

    /// Answers at once if that needs neither the disk nor the committer; otherwise `None`, and nothing has happened
    /// (`trace` may hold notes already). Engines call it first for every request, with the body read.
    fn quick(&self, request: &Request, trace: &mut Trace) -> Option<Response>;

    /// Answers a request that `quick` did not. May read the disk; may keep the responder and return.
    fn handle(&self, request: Request, responder: Responder);

    /// Notes what an answer must carry that the engine makes by itself, before anybody else has seen the request. `head`
    /// holds as much as could be read of it.
    fn note(&self, head: &Head, trace: &mut Trace) {
        let _ = (head, trace);
    }

    /// Told once for every answer, after its last byte was handed to the socket (or the connection ended).
    fn finished(&self, trace: &Trace, outcome: &Outcome);
}

/// Tells every part of an engine to stop taking requests and to finish those it has.
#[derive(Clone, Default)]
pub struct DrainSignal(Arc<OnceLock<Instant>>);

impl DrainSignal {
    /// Starts the drain. Engines notice within 250 ms.
    pub fn start(&self) {
        self.0.get_or_init(Instant::now);
    }

    /// Whether the drain has begun.
    pub fn is_set(&self) -> bool {
        self.0.get().is_some()
    }

    /// Whether it began so long ago.
    pub fn is_older_than(&self, age: Duration) -> bool {
        self.0.get().is_some_and(|began_at| began_at.elapsed() >= age)
    }
}

/// How an engine's run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Every accepted request was answered.
    Drained,
    /// Some connections were cut because they did not finish within the drain time.
    CutShort,
    /// Too many threads leaked that cannot be freed from inside: the process should be started anew (exit 75).
    Exhausted,
}

/// What an engine is given besides its listeners and its handler.
#[derive(Clone)]
pub struct EngineOptions {
    /// Threads that run [`Handler::handle`].
    pub workers: usize,
    /// Threads that own connections (epoll only).
    pub io_threads: usize,
    /// The limits in force; they may change while the engine runs.
    pub limits: Arc<LiveLimits>,
    /// Whose connections have no bound of their own.
    pub unbounded: Unbounded,
    /// When to stop.
    pub drain: DrainSignal,
    /// Where the engine registers its figures.
    pub registry: Registry,
    /// Whom its threads show that they are alive.
    pub watchdog: Watchdog,
}

/// An HTTP server of one make: it owns the sockets and calls the handler.
pub trait Engine {
    /// Serves until told to drain, then answers what it has accepted, within `limits.drain_timeout`. Blocks its caller.
    fn serve(
        &self,
        listeners: Vec<super::listener::Listener>,
        handler: Arc<dyn Handler>,
        options: EngineOptions,
    ) -> std::io::Result<Ended>;
}
