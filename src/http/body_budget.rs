//! Memory for request bodies: one budget over all connections of an engine, `limits.bodies_bytes_max`.
//!
//! The whole size of a body is set aside before its first byte is read, and given back when its request is answered. So
//! a body that has begun never waits for memory, and no two wait for each other: each ends, at the latest by its own
//! time limits. What does not fit waits unread, first come first served, and is told 503 when it has waited for
//! `limits.request_timeout`. To charge bodies as they come would be more exact, but all memory could end up with bodies
//! that are half there.
//!
//! Invariant: more than the limit is set aside only for one body that is larger than all of it, when nothing else is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::headers::{Head, HeaderName};
use crate::limits::LiveLimits;
use crate::metrics::{Counter, Gauge, Registry};

/// Bodies up to this size are not counted: they need no more than the buffer that a head is read into.
const FREE_BYTES: u64 = 16 * 1024;

/// Told, from any thread, that a body may come, or with `None` that it has waited for too long. Must not block.
pub type Admit = Box<dyn FnOnce(Option<Share>) + Send>;

/// The budget of one engine.
pub struct BodyBudget {
    state: Mutex<State>,
    limits: Arc<LiveLimits>,
    set_aside: Gauge,
    waits: Counter,
    refused: Counter,
}

#[derive(Default)]
struct State {
    used: u64,
    next_number: u64,
    waiting: BTreeMap<u64, Waiting>,
}

struct Waiting {
    bytes: u64,
    since: Instant,
    admit: Admit,
}

/// Memory that was set aside for one body. It is given back when this is dropped.
pub struct Share {
    /// Nothing for a body that is not counted.
    held: Option<(Arc<BodyBudget>, u64)>,
}

/// The bytes to set aside for a body of this length, if it has one, and of at most `bytes_max`.
///
/// A compressed body is counted as the largest that it can become: that is what its request holds in the end.
pub fn cost(head: &Head, length: Option<u64>, bytes_max: u64) -> u64 {
    match length {
        Some(length) if !head.has(HeaderName::ContentEncoding) => {
            if length <= FREE_BYTES {
                0
            } else {
                length
            }
        }
        _ => bytes_max,
    }
}

impl BodyBudget {
    /// An unused budget.
    pub fn new(limits: Arc<LiveLimits>, registry: &Registry) -> BodyBudget {
        let aside = ("larder_http_bodies_bytes", "Memory set aside for request bodies.");
        let waits = ("larder_http_bodies_waited_total", "Request bodies that waited for memory.");
        let refused = ("larder_http_bodies_refused_total", "Request bodies that waited for memory in vain.");
        BodyBudget {
            state: Mutex::default(),
            limits,
            set_aside: registry.gauge(aside.0, aside.1, &[]),
            waits: registry.counter(waits.0, waits.1, &[]),
            refused: registry.counter(refused.0, refused.1, &[]),
        }
    }

    /// Sets memory aside, if there is room and nobody waits for it already.
    pub fn claim(self: &Arc<Self>, bytes: u64) -> Option<Share> {
        if bytes == 0 {
            return Some(Share { held: None });
        }
        let mut state = self.state.lock();
        if !state.waiting.is_empty() || !state.fits(bytes, self.bytes_max()) {
            return None;
        }
        Some(self.share(&mut state, bytes))
    }

    /// Waits for memory, which may be there at once. Returns the number to leave with.
    pub fn wait(self: &Arc<Self>, bytes: u64, admit: Admit) -> u64 {
        self.waits.inc();
        let mut state = self.state.lock();
        let number = state.next_number;
        state.next_number += 1;
        state.waiting.insert(number, Waiting { bytes, since: Instant::now(), admit });
        drop(state);
        self.admit_who_fits();
        number
    }

    /// Waits no longer. The way is free for the next.
    pub fn leave(self: &Arc<Self>, number: u64) {
        let left = self.state.lock().waiting.remove(&number);
        if left.is_some() {
            self.admit_who_fits();
        }
    }

    /// Turns away who has waited for too long. Called now and then by the engine.
    pub fn refuse_overdue(self: &Arc<Self>, request_timeout: Duration) {
        let now = Instant::now();
        loop {
            let mut state = self.state.lock();
            let Some(first) = state.waiting.first_entry() else { return };
            if now.saturating_duration_since(first.get().since) <= request_timeout {
                return;
            }
            let late = first.remove();
            drop(state);
            self.refused.inc();
            (late.admit)(None);
            self.admit_who_fits();
        }
    }

    fn admit_who_fits(self: &Arc<Self>) {
        loop {
            let mut state = self.state.lock();
            let Some(first) = state.waiting.first_entry() else { return };
            let bytes = first.get().bytes;
            if !state.fits(bytes, self.bytes_max()) {
                return;
            }
            let Some((_, first)) = state.waiting.pop_first() else { return };
            let share = self.share(&mut state, bytes);
            // IMPORTANT: without the lock, since whoever is told may drop the share at once.
            drop(state);
            (first.admit)(Some(share));
        }
    }

    fn share(self: &Arc<Self>, state: &mut State, bytes: u64) -> Share {
        state.used += bytes;
        self.set_aside.set(state.used);
        Share { held: Some((Arc::clone(self), bytes)) }
    }

    fn bytes_max(&self) -> u64 {
        self.limits.get().bodies_bytes_max
    }
}

impl State {
    fn fits(&self, bytes: u64, bytes_max: u64) -> bool {
        self.used == 0 || self.used.saturating_add(bytes) <= bytes_max
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let Some((budget, bytes)) = self.held.take() else { return };
        let mut state = budget.state.lock();
        state.used -= bytes;
        budget.set_aside.set(state.used);
        let nobody_waits = state.waiting.is_empty();
        drop(state);
        if !nobody_waits {
            budget.admit_who_fits();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Limits;

    type Heard = Arc<Mutex<Vec<(u32, Option<Share>)>>>;

    fn budget(bodies_bytes_max: u64) -> (Arc<BodyBudget>, Heard) {
        let limits = Limits { bodies_bytes_max, ..Limits::default() };
        let budget = BodyBudget::new(Arc::new(LiveLimits::new(limits)), &Registry::default());
        (Arc::new(budget), Heard::default())
    }

    fn wait(budget: &Arc<BodyBudget>, heard: &Heard, name: u32, bytes: u64) -> u64 {
        let heard = Arc::clone(heard);
        budget.wait(bytes, Box::new(move |share| heard.lock().push((name, share))))
    }

    fn names(heard: &Heard) -> Vec<(u32, bool)> {
        heard.lock().iter().map(|(name, share)| (*name, share.is_some())).collect()
    }

    #[test]
    fn what_does_not_fit_waits_its_turn_and_a_small_one_does_not_pass_a_large_one() {
        let (budget, heard) = budget(100);
        let first = budget.claim(60).unwrap();
        assert!(budget.claim(50).is_none());
        wait(&budget, &heard, 1, 50);
        assert!(budget.claim(10).is_none(), "another was there before");
        wait(&budget, &heard, 2, 10);
        assert_eq!(names(&heard), []);
        drop(first);
        assert_eq!(names(&heard), [(1, true), (2, true)]);
        assert_eq!(budget.state.lock().used, 60);
        let shares = std::mem::take(&mut *heard.lock());
        drop(shares);
        assert_eq!(budget.state.lock().used, 0);
        assert!(budget.claim(100).is_some());
    }

    #[test]
    fn one_that_is_larger_than_everything_has_its_turn_alone() {
        let (budget, heard) = budget(100);
        let small = budget.claim(1).unwrap();
        wait(&budget, &heard, 1, 1000);
        assert_eq!(names(&heard), []);
        drop(small);
        assert_eq!(names(&heard), [(1, true)]);
        assert!(budget.claim(1).is_none());
    }

    #[test]
    fn who_leaves_or_has_waited_too_long_makes_way() {
        let (budget, heard) = budget(100);
        let _first = budget.claim(60).unwrap();
        let number = wait(&budget, &heard, 1, 90);
        wait(&budget, &heard, 2, 40);
        budget.leave(number);
        assert_eq!(names(&heard), [(2, true)], "the one that left is not told");
        wait(&budget, &heard, 3, 1);
        budget.refuse_overdue(Duration::from_secs(60));
        assert_eq!(names(&heard), [(2, true)]);
        std::thread::sleep(Duration::from_millis(2));
        budget.refuse_overdue(Duration::from_millis(1));
        assert_eq!(names(&heard), [(2, true), (3, false)]);
        assert_eq!((budget.waits.get(), budget.refused.get()), (3, 1));
    }

    #[test]
    fn whoever_is_told_may_give_it_back_at_once() {
        let (budget, heard) = budget(100);
        let first = budget.claim(100).unwrap();
        for _ in 0..3 {
            budget.wait(100, Box::new(drop));
        }
        wait(&budget, &heard, 4, 100);
        drop(first);
        assert_eq!(names(&heard), [(4, true)]);
    }

    #[test]
    fn a_body_costs_what_it_may_become() {
        let head = |fields: &str| {
            let text = format!("PUT / HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
            crate::http::epoll::parse::parse(text.as_bytes(), &Limits::default()).unwrap().head
        };
        let (plain, gzip) = (head("Content-Length: 9\r\n"), head("Content-Length: 9\r\nContent-Encoding: gzip\r\n"));
        assert_eq!(cost(&plain, Some(FREE_BYTES), 1 << 20), 0);
        assert_eq!(cost(&plain, Some(FREE_BYTES + 1), 1 << 20), FREE_BYTES + 1);
        assert_eq!(cost(&plain, None, 1 << 20), 1 << 20);
        assert_eq!(cost(&gzip, Some(9), 1 << 20), 1 << 20);
    }
}
