//! Ends a request's wait when the store takes too long: the client hears so instead of nothing.
//!
//! `limits.request_timeout` is kept here for both engines: over the wait for a read of the card, the look at what a
//! write finds, and the commit. (A request that no worker has begun is the engines' own affair.)
//!
//! Invariant: a request is answered exactly once, by its handler or by the clock; who comes second is not heard.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::board::watchdog::Heartbeat;
use crate::http::{Responder, Response, ResponseSink, Trace};
use crate::store::WriteError;

use super::error;

/// Stands between a handler and its client's responder, which the clock may take away.
struct Relay(Mutex<Option<Responder>>);

impl ResponseSink for Relay {
    fn deliver(&self, _ticket: u64, response: Response, trace: Trace) {
        let Some(mut responder) = self.0.lock().take() else { return };
        *responder.trace() = trace;
        responder.send(response);
    }
}

/// The requests that wait for the store, in the order in which they came.
#[derive(Default)]
pub struct Deadlines {
    waiting: Mutex<VecDeque<(Instant, Weak<Relay>)>>,
    stop: Mutex<bool>,
    stopped: Condvar,
}

const TICK: Duration = Duration::from_millis(500);

impl Deadlines {
    /// Puts a responder under the clock. What it returns answers the same request, until the deadline.
    pub fn watch(&self, mut responder: Responder, deadline: Instant) -> Responder {
        let trace = responder.trace().clone();
        let relay = Arc::new(Relay(Mutex::new(Some(responder))));
        let mut waiting = self.waiting.lock();
        // Two out for one in: the queue stays about as long as what really waits, however fast requests come.
        for _ in 0..2 {
            if waiting.front().is_some_and(|(_, relay)| relay.strong_count() == 0) {
                waiting.pop_front();
            }
        }
        waiting.push_back((deadline, Arc::downgrade(&relay)));
        drop(waiting);
        Responder::new(relay, 0, trace)
    }

    /// Runs until [`Deadlines::stop`], on a thread of its own.
    pub fn run(&self, heartbeat: &Heartbeat) {
        let mut stop = self.stop.lock();
        while !*stop {
            heartbeat.wait(|max| self.stopped.wait_for(&mut stop, TICK.min(max)));
            self.expire(Instant::now());
        }
    }

    /// Ends [`Deadlines::run`].
    pub fn stop(&self) {
        *self.stop.lock() = true;
        self.stopped.notify_all();
    }

    fn expire(&self, now: Instant) {
        let mut late = Vec::new();
        // All of them, not only the first: their limits may differ, and one slow write must not keep the memory of the
        // answered ones behind it.
        self.waiting.lock().retain(|(deadline, relay)| {
            if *deadline > now {
                return relay.strong_count() > 0;
            }
            late.extend(relay.upgrade());
            false
        });
        for relay in late {
            let Some(mut responder) = relay.0.lock().take() else { continue };
            let is_write = responder.trace().method.is_write();
            // A write may be with the committer already, so nobody can say what becomes of it.
            responder.send(match is_write {
                true => error::write_error(&WriteError::OutcomeUnknown),
                false => error::read_too_late(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{Method, Peer};

    #[derive(Default)]
    struct Answers(Mutex<Vec<(u64, u16)>>);

    impl ResponseSink for Answers {
        fn deliver(&self, ticket: u64, response: Response, _: Trace) {
            self.0.lock().push((ticket, response.status));
        }
    }

    #[test]
    fn only_what_is_late_and_unanswered_is_ended() {
        let answers = Arc::new(Answers::default());
        let responder =
            |ticket, method| Responder::new(answers.clone(), ticket, Trace::new(method, Peer::Unix, Instant::now()));
        let (deadlines, now) = (Deadlines::default(), Instant::now());
        let late_write = deadlines.watch(responder(1, Method::Put), now);
        deadlines.watch(responder(2, Method::Put), now).send(Response::new(204));
        let late_read = deadlines.watch(responder(3, Method::Get), now);
        let early = deadlines.watch(responder(4, Method::Get), now + Duration::from_secs(60));
        deadlines.expire(now);
        assert_eq!(*answers.0.lock(), [(2, 204), (1, 504), (3, 503)]);
        for responder in [late_write, late_read, early] {
            responder.send(Response::new(200));
        }
        assert_eq!(*answers.0.lock(), [(2, 204), (1, 504), (3, 503), (4, 200)]);
    }

    #[test]
    fn what_the_handler_noted_goes_with_its_answer() {
        struct Notes(Mutex<Duration>);
        impl ResponseSink for Notes {
            fn deliver(&self, _: u64, _: Response, trace: Trace) {
                *self.0.lock() = trace.store;
            }
        }
        let notes = Arc::new(Notes(Mutex::default()));
        let trace = Trace::new(Method::Get, Peer::Unix, Instant::now());
        let mut watched = Deadlines::default().watch(Responder::new(notes.clone(), 1, trace), Instant::now());
        watched.trace().store = Duration::from_millis(7);
        watched.send(Response::new(200));
        assert_eq!(*notes.0.lock(), Duration::from_millis(7));
    }
}
