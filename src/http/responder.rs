//! The one-shot ticket with which a request is answered, from whatever thread the answer comes.

use std::sync::Arc;

use super::message::{Response, Trace};
use super::method::Method;
use super::problem::{Problem, Written};

/// Where an engine takes answers back. `deliver` must never block its caller.
pub trait ResponseSink: Send + Sync {
    /// Takes the answer for a ticket that this sink handed out. An answer for a connection that is gone is dropped.
    fn deliver(&self, ticket: u64, response: Response, trace: Trace);
}

/// A ticket to answer one request, once. Dropped unused, it answers 500, so that no client waits for ever.
pub struct Responder {
    sink: Option<Arc<dyn ResponseSink>>,
    ticket: u64,
    trace: Option<Trace>,
}

impl Responder {
    /// A ticket of an engine.
    pub fn new(sink: Arc<dyn ResponseSink>, ticket: u64, trace: Trace) -> Responder {
        Responder { sink: Some(sink), ticket, trace: Some(trace) }
    }

    /// The notes of this request.
    pub fn trace(&mut self) -> &mut Trace {
        self.trace.as_mut().expect("a trace is there until the answer is sent")
    }

    /// Answers. Never blocks: the engine writes when the socket can take it.
    pub fn send(mut self, response: Response) {
        self.deliver(response);
    }

    fn deliver(&mut self, response: Response) {
        if let (Some(sink), Some(trace)) = (self.sink.take(), self.trace.take()) {
            sink.deliver(self.ticket, response, trace);
        }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        let Some(method) = self.trace.as_ref().map(|trace| trace.method) else { return };
        self.deliver(unanswered(method));
    }
}

/// The answer for a request whose handler ended without one.
pub fn unanswered(method: Method) -> Response {
    let mut problem = Problem::new(500, "INTERNAL", "larder failed to answer this request; its log says why");
    if method.is_write() {
        problem = problem.written(Written::Unknown);
    }
    problem.into()
}
