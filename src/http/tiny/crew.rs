//! The workers, and how they share the one queue of tiny_http without mixing up the order of a connection.
//!
//! Whoever takes requests *leads*: it takes one, gives it its place in its connection's order while it still holds the
//! taking lock, and answers it itself if that is quick. Before it does anything that may wait for a disk it hands the
//! lead to a parked worker. So a request that needs no disk costs no change of thread, and tiny_http's unbounded queue
//! is drained whatever the disk does: what no worker is free for waits here, bounded.
//! While requests pile up, as many workers lead by turns as there are cores.
//!
//! Invariant: at any time at least one worker leads, or a lead has been handed to one that is waking up.
//! Lock order: taking, then a shard of the connections, then a connection; the crew's state is taken with none held.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tiny_http::Server;

use super::connection::{Connection, Incoming};
use super::exchange::Stage;
use crate::board::watchdog::Heartbeat;

/// Something for a worker to do.
pub enum Job {
    /// A request whose turn has come.
    Begin(Arc<Connection>, Incoming),
    /// A request with its body read.
    Answer(Box<Stage>),
    /// One that `quick` did not answer.
    Handle(Box<Stage>),
}

/// How long the leader may take to come out of a server's queue before it is called again.
const MOVE_PAUSE: Duration = Duration::from_millis(10);

/// What a thread is to the crew.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Outsider,
    Leader,
    Hand,
}

thread_local! {
    static ROLE: Cell<Role> = const { Cell::new(Role::Outsider) };
}

/// Whether this thread is a worker, which may write answers itself.
pub fn is_worker() -> bool {
    ROLE.get() != Role::Outsider
}

/// Whether this worker leads, and so must not wait for anything.
pub fn is_leader() -> bool {
    ROLE.get() == Role::Leader
}

#[derive(Default)]
struct State {
    leaders: usize,
    /// Workers asleep.
    parked: usize,
    /// Wake-ups that none of them has taken yet: whoever wakes takes one, also who woke because its time was over.
    woken: usize,
    /// Leads handed over to workers that are waking up; they count as leaders already.
    handed: usize,
    /// The one leader sits in tiny_http's queue.
    blocked: bool,
    fresh: VecDeque<Job>,
    slow: VecDeque<Box<Stage>>,
    stopping: bool,
}

/// What a worker does next.
pub enum Next {
    /// Run this.
    Job(Job),
    /// Take requests.
    Lead,
    /// End.
    Stop,
}

/// What a leader does that found no request waiting.
pub enum Rest {
    /// Run this instead.
    Job(Job),
    /// Wait in tiny_http's queue.
    Block,
    /// Stop leading; others do.
    StepDown,
}

/// Whether a handler may run on this thread now.
pub enum Entry {
    /// Yes; the thread leads no more.
    Granted(Box<Stage>),
    /// No worker is free: it waits.
    Queued,
    /// Too many wait.
    Full(Box<Stage>),
}

/// The workers' common state.
pub struct Crew {
    /// Held while a request is taken and placed; the first listener's server as this lock's holder knows it.
    pub taking: Mutex<Arc<Server>>,
    /// How often the holder of the taking lock has turned to another server.
    moves: AtomicUsize,
    state: Mutex<State>,
    wake: Condvar,
    fresh_len: AtomicUsize,
    cores: usize,
}

impl Crew {
    /// A crew that takes from this server.
    pub fn new(server: Arc<Server>) -> Crew {
        Crew {
            taking: Mutex::new(server),
            moves: AtomicUsize::new(0),
            state: Mutex::default(),
            wake: Condvar::new(),
            fresh_len: AtomicUsize::new(0),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }

    /// Turns the holder of the taking lock to a server. Does nothing if it is the one it has.
    pub fn turn_to(&self, taking: &mut Arc<Server>, server: Arc<Server>) {
        if !Arc::ptr_eq(taking, &server) {
            *taking = server;
            self.moves.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Brings the workers from one server to another: when it returns, none of them takes from the old one any more.
    pub fn move_over(&self, old: &Server, new: &Arc<Server>, moves_before: usize) {
        while self.moves() == moves_before {
            old.unblock();
            if let Some(mut taking) = self.taking.try_lock_for(MOVE_PAUSE) {
                self.turn_to(&mut taking, Arc::clone(new));
            }
        }
    }

    /// How often the workers have moved, to be asked before the server that they shall move to is published.
    pub fn moves(&self) -> usize {
        self.moves.load(Ordering::SeqCst)
    }

    /// Waits for something to do, for a worker that does not lead.
    pub fn next(&self, heartbeat: &Heartbeat) -> Next {
        ROLE.set(Role::Hand);
        let mut state = self.state.lock();
        loop {
            heartbeat.beat();
            if let Some(stage) = state.slow.pop_front() {
                return Next::Job(Job::Handle(stage));
            }
            if let Some(job) = self.pop_fresh(&mut state) {
                return Next::Job(job);
            }
            if state.stopping {
                return Next::Stop;
            }
            if state.handed > 0 {
                state.handed -= 1;
            } else if state.leaders == 0 {
                state.leaders = 1;
            } else {
                state.parked += 1;
                heartbeat.wait(|max| self.wake.wait_for(&mut state, max));
                state.parked -= 1;
                state.woken = state.woken.saturating_sub(1);
                continue;
            }
            ROLE.set(Role::Leader);
            return Next::Lead;
        }
    }

    /// Something for a leader that came from elsewhere than from tiny_http.
    pub fn fresh(&self) -> Option<Job> {
        if self.fresh_len.load(Ordering::Acquire) == 0 {
            return None;
        }
        self.pop_fresh(&mut self.state.lock())
    }

    fn pop_fresh(&self, state: &mut State) -> Option<Job> {
        let job = state.fresh.pop_front()?;
        self.fresh_len.store(state.fresh.len(), Ordering::Release);
        Some(job)
    }

    /// What a leader does that found no request waiting. Called with the taking lock held.
    pub fn rest(&self) -> Rest {
        let mut state = self.state.lock();
        if let Some(job) = self.pop_fresh(&mut state) {
            return Rest::Job(job);
        }
        if state.leaders > 1 || state.stopping {
            state.leaders -= 1;
            ROLE.set(Role::Hand);
            return Rest::StepDown;
        }
        state.blocked = true;
        Rest::Block
    }

    /// The leader came back from tiny_http's queue.
    pub fn unblocked(&self) {
        self.state.lock().blocked = false;
    }

    /// Called by a leader that found a second request waiting: lets another worker lead beside it if there is a core.
    pub fn share_lead(&self) {
        if self.cores == 1 {
            return;
        }
        let mut state = self.state.lock();
        if state.leaders < self.cores && self.wake_one(&mut state) {
            state.leaders += 1;
            state.handed += 1;
        }
    }

    /// Asks to run a handler, which may wait for the disk. `waiting_max` bounds those that no worker is free for.
    pub fn enter(&self, stage: Box<Stage>, waiting_max: usize) -> Entry {
        if !is_leader() {
            return Entry::Granted(stage);
        }
        let mut state = self.state.lock();
        if state.leaders > 1 {
            state.leaders -= 1;
        } else if self.wake_one(&mut state) {
            state.handed += 1;
        } else if state.slow.len() < waiting_max {
            state.slow.push_back(stage);
            return Entry::Queued;
        } else {
            return Entry::Full(stage);
        }
        ROLE.set(Role::Hand);
        Entry::Granted(stage)
    }

    /// Takes out the one that waits for a worker longest, if it has waited for longer than a request may.
    pub fn next_overdue(&self, request_timeout: Duration) -> Option<Box<Stage>> {
        let now = Instant::now();
        self.state.lock().slow.pop_front_if(|stage| stage.has_waited(now) > request_timeout)
    }

    fn wake_one(&self, state: &mut State) -> bool {
        let is_asleep = state.parked > state.woken;
        if is_asleep {
            state.woken += 1;
            self.wake.notify_one();
        }
        is_asleep
    }

    /// Brings a job from anywhere. True if the leader has to be called out of tiny_http's queue for it.
    /// Bounded by the number of connections, each of which has at most one request at work.
    #[must_use]
    pub fn push(&self, job: Job) -> bool {
        let mut state = self.state.lock();
        state.fresh.push_back(job);
        self.fresh_len.store(state.fresh.len(), Ordering::Release);
        // A leader looks for fresh jobs itself before it rests.
        !is_leader() && !self.wake_one(&mut state) && state.blocked
    }

    /// How many requests wait for a worker.
    pub fn queued(&self) -> usize {
        let state = self.state.lock();
        state.fresh.len() + state.slow.len()
    }

    /// Lets every worker end once nothing is left to do. The leader must be called out of tiny_http's queue after it.
    pub fn stop(&self) {
        let mut state = self.state.lock();
        state.stopping = true;
        state.woken = state.parked;
        self.wake.notify_all();
    }
}
