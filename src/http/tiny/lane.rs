//! A side lane: a few threads that may wait for clients, so that workers never do. There is one for bodies and one for
//! answers, so that long answers do not hold up bodies.
//!
//! Invariant: at most [`THREADS_PER_ADDRESS`] of them wait for one address, so that one slow client cannot take the
//! lane from the others. The queue is bounded.

use std::collections::VecDeque;
use std::net::IpAddr;

use parking_lot::{Condvar, Mutex};

/// Threads of a lane.
pub const THREADS: usize = 5;
/// Of them, those that may work for one address. Behind a proxy all clients have the same one.
pub const THREADS_PER_ADDRESS: usize = 3;

/// A queue that hands out work fairly by address.
pub struct Lane<J> {
    state: Mutex<State<J>>,
    wake: Condvar,
}

struct State<J> {
    queue: VecDeque<(IpAddr, J)>,
    at_work: Vec<IpAddr>,
    stopping: bool,
}

impl<J> Default for Lane<J> {
    fn default() -> Lane<J> {
        let state = State { queue: VecDeque::new(), at_work: Vec::with_capacity(THREADS), stopping: false };
        Lane { state: Mutex::new(state), wake: Condvar::new() }
    }
}

impl<J> Lane<J> {
    /// Brings work; gives it back if `waiting_max` wait already, or the lane has stopped.
    pub fn push(&self, address: IpAddr, job: J, waiting_max: usize) -> Result<(), J> {
        let mut state = self.state.lock();
        if state.stopping || state.queue.len() >= waiting_max {
            return Err(job);
        }
        state.queue.push_back((address, job));
        self.wake.notify_one();
        Ok(())
    }

    /// Whether anything waits.
    pub fn has_waiting(&self) -> bool {
        !self.state.lock().queue.is_empty()
    }

    /// Waits for work that may be done now. `None` when the lane has stopped and its queue is empty.
    pub fn next(&self) -> Option<(IpAddr, J)> {
        let mut state = self.state.lock();
        loop {
            if let Some(found) = take_next(&mut state) {
                return Some(found);
            }
            if state.stopping && state.queue.is_empty() {
                return None;
            }
            self.wake.wait(&mut state);
        }
    }

    /// Says that the work for an address is done.
    pub fn done(&self, address: IpAddr) {
        let mut state = self.state.lock();
        if let Some(at) = state.at_work.iter().position(|busy| *busy == address) {
            state.at_work.swap_remove(at);
        }
        // Work of this address may have been passed over by every waiting thread, and at a stop they all must look.
        if state.stopping {
            self.wake.notify_all();
        } else if !state.queue.is_empty() {
            self.wake.notify_one();
        }
    }

    /// Takes no more work.
    pub fn stop(&self) {
        self.state.lock().stopping = true;
        self.wake.notify_all();
    }

    /// How much waits and how many threads are at work.
    pub fn depth(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.queue.len(), state.at_work.len())
    }
}

fn take_next<J>(state: &mut State<J>) -> Option<(IpAddr, J)> {
    let State { queue, at_work, .. } = state;
    let may = |address: &IpAddr| at_work.iter().filter(|busy| *busy == address).count() < THREADS_PER_ADDRESS;
    let at = queue.iter().position(|(address, _)| may(address))?;
    let (address, job) = queue.remove(at)?;
    at_work.push(address);
    Some((address, job))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    #[test]
    fn an_address_gets_three_threads_and_the_next_one_is_not_held_up() {
        let lane = Lane::default();
        for job in [1, 2, 3, 5] {
            lane.push(A, job, 10).unwrap();
        }
        lane.push(B, 4, 10).unwrap();
        assert_eq!(lane.next(), Some((A, 1)));
        assert_eq!(lane.next(), Some((A, 2)));
        assert_eq!(lane.next(), Some((A, 3)));
        assert_eq!(lane.next(), Some((B, 4)), "the fourth of A waits");
        lane.done(A);
        assert_eq!(lane.next(), Some((A, 5)));
        assert_eq!(lane.depth(), (0, 4));
    }

    #[test]
    fn a_full_or_stopped_lane_gives_work_back() {
        let lane = Lane::default();
        lane.push(A, 1, 1).unwrap();
        assert_eq!(lane.push(A, 2, 1), Err(2));
        lane.stop();
        assert_eq!(lane.push(B, 3, 9), Err(3));
        assert_eq!(lane.next(), Some((A, 1)), "what was taken in is still done");
        assert_eq!(lane.next(), None);
    }
}
