//! Ends a write's wait when its commit takes too long: the client hears `OUTCOME_UNKNOWN` instead of nothing.
//!
//! Invariant: a responder is taken out of its cell exactly once, by the committer's reply or by the clock.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::http::Responder;
use crate::store::WriteError;

use super::error;

/// A responder that two may want to use.
pub type Cell = Mutex<Option<Responder>>;

/// The writes that wait for the committer, in the order in which they came.
#[derive(Default)]
pub struct Deadlines {
    waiting: Mutex<VecDeque<(Instant, Weak<Cell>)>>,
    stop: Mutex<bool>,
    stopped: Condvar,
}

const TICK: Duration = Duration::from_millis(500);

impl Deadlines {
    /// Puts a responder under the clock.
    pub fn watch(&self, responder: Responder, deadline: Instant) -> Arc<Cell> {
        let cell = Arc::new(Mutex::new(Some(responder)));
        let mut waiting = self.waiting.lock();
        // Two out for one in: the queue stays about as long as what really waits, however fast writes come.
        for _ in 0..2 {
            if waiting.front().is_some_and(|(_, cell)| cell.strong_count() == 0) {
                waiting.pop_front();
            }
        }
        waiting.push_back((deadline, Arc::downgrade(&cell)));
        cell
    }

    /// Runs until [`Deadlines::stop`], on a thread of its own.
    pub fn run(&self) {
        let mut stop = self.stop.lock();
        while !*stop {
            self.stopped.wait_for(&mut stop, TICK);
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
        self.waiting.lock().retain(|(deadline, cell)| {
            if *deadline > now {
                return cell.strong_count() > 0;
            }
            late.extend(cell.upgrade());
            false
        });
        for cell in late {
            if let Some(responder) = cell.lock().take() {
                responder.send(error::write_error(&WriteError::OutcomeUnknown));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{Method, Peer, Response, ResponseSink, Trace};

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
            |ticket| Responder::new(answers.clone(), ticket, Trace::new(Method::Put, Peer::Unix, Instant::now()));
        let (deadlines, now) = (Deadlines::default(), Instant::now());
        let late = deadlines.watch(responder(1), now);
        let answered = deadlines.watch(responder(2), now).lock().take();
        answered.unwrap().send(Response::new(204));
        let early = deadlines.watch(responder(3), now + Duration::from_secs(60));
        deadlines.expire(now);
        assert_eq!(*answers.0.lock(), [(2, 204), (1, 504)]);
        assert!(late.lock().is_none());
        assert!(early.lock().is_some());
    }
}
