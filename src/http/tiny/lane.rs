//! A side lane: a few threads for what may take long, so that workers never do it. There is one for bodies and one for
//! answers; neither has a thread wait for a client.
//!
//! Invariant: at most [`THREADS_PER_CLIENT`] of them work for one client, so that nobody can take the lane from the
//! others. The queue is bounded.

use std::collections::VecDeque;

use parking_lot::{Condvar, Mutex};

use crate::board::watchdog::Heartbeat;
use crate::http::budget::Client;

/// Threads of the lane for answers.
pub const THREADS: usize = 5;
/// Threads of the lane for bodies.
pub const BODY_THREADS: usize = 2;
/// Of a lane's threads, those that may work for one client.
pub const THREADS_PER_CLIENT: usize = 3;

/// A queue that hands out work fairly by client.
pub struct Lane<J> {
    state: Mutex<State<J>>,
    wake: Condvar,
}

struct State<J> {
    queue: VecDeque<(Client, J)>,
    at_work: Vec<Client>,
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
    pub fn push(&self, client: Client, job: J, waiting_max: usize) -> Result<(), J> {
        let mut state = self.state.lock();
        if state.stopping || state.queue.len() >= waiting_max {
            return Err(job);
        }
        state.queue.push_back((client, job));
        self.wake.notify_one();
        Ok(())
    }

    /// Waits for work that may be done now. `None` when the lane has stopped and its queue is empty.
    pub fn next(&self, heartbeat: &Heartbeat) -> Option<(Client, J)> {
        let mut state = self.state.lock();
        loop {
            heartbeat.beat();
            if let Some(found) = take_next(&mut state) {
                return Some(found);
            }
            if state.stopping && state.queue.is_empty() {
                return None;
            }
            heartbeat.wait(|max| self.wake.wait_for(&mut state, max));
        }
    }

    /// Says that the work for a client is done.
    pub fn done(&self, client: Client) {
        let mut state = self.state.lock();
        if let Some(at) = state.at_work.iter().position(|busy| *busy == client) {
            state.at_work.swap_remove(at);
        }
        // Work of this client may have been passed over by every waiting thread, and at a stop they all must look.
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

fn take_next<J>(state: &mut State<J>) -> Option<(Client, J)> {
    let State { queue, at_work, .. } = state;
    let may = |client: &Client| at_work.iter().filter(|busy| *busy == client).count() < THREADS_PER_CLIENT;
    let at = queue.iter().position(|(client, _)| may(client))?;
    let (client, job) = queue.remove(at)?;
    at_work.push(client);
    Some((client, job))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::watchdog::Watchdog;

    const A: Client = Client::NOBODY;

    fn b() -> Client {
        Client::of_token("b")
    }

    #[test]
    fn a_client_gets_three_threads_and_the_next_one_is_not_held_up() {
        let (lane, heartbeat) = (Lane::default(), Watchdog::new().heartbeat("a thread"));
        for job in [1, 2, 3, 5] {
            lane.push(A, job, 10).unwrap();
        }
        lane.push(b(), 4, 10).unwrap();
        assert_eq!(lane.next(&heartbeat), Some((A, 1)));
        assert_eq!(lane.next(&heartbeat), Some((A, 2)));
        assert_eq!(lane.next(&heartbeat), Some((A, 3)));
        assert_eq!(lane.next(&heartbeat), Some((b(), 4)), "the fourth of A waits");
        lane.done(A);
        assert_eq!(lane.next(&heartbeat), Some((A, 5)));
        assert_eq!(lane.depth(), (0, 4));
    }

    #[test]
    fn a_full_or_stopped_lane_gives_work_back() {
        let (lane, heartbeat) = (Lane::default(), Watchdog::new().heartbeat("a thread"));
        lane.push(A, 1, 1).unwrap();
        assert_eq!(lane.push(A, 2, 1), Err(2));
        lane.stop();
        assert_eq!(lane.push(b(), 3, 9), Err(3));
        assert_eq!(lane.next(&heartbeat), Some((A, 1)), "what was taken in is still done");
        assert_eq!(lane.next(&heartbeat), None);
    }
}
