//! Work in many steps that must wait for the card between them: one thread does it, so that no worker has to.
//!
//! Jobs are told apart by whose they are ([`Whose`]). Of one owner one job is under way at a time and the others wait behind
//! it; of several owners each does a step in turn, so that nobody's work waits for the end of another's.
//!
//! The thread is named `larder-chores`. A job that panics answers 500 through its dropped responder and leaves the thread
//! alive.
//!
//! Invariant: a job that was taken is carried to its end, also during a stop: jobs look at the drain signal themselves.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::board::watchdog::{Heartbeat, Watchdog};
use crate::http::budget::Client;

/// Jobs of one owner that wait behind the one under way; one more is refused.
pub const WAITING_MAX: usize = 16;
/// Jobs of all owners; one more is refused.
pub const JOBS_MAX: usize = 256;

/// Who has a job done, and where: a token (or an address) and a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whose {
    /// The token, or the network of the address.
    pub client: Client,
    /// The namespace.
    pub namespace: String,
}

/// What a step of a job leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is more to do.
    More,
    /// It is done.
    Done,
}

/// One piece of work: it is called until it is done.
pub type Job = Box<dyn FnMut() -> Step + Send>;

/// Why a job was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// So many of the same owner wait already.
    Own,
    /// So many of all wait, or there is no thread, or this is the end.
    All,
}

/// The jobs of one owner in order. The first is under way.
struct Lane {
    whose: Whose,
    jobs: VecDeque<(Duration, Job)>,
    /// The first job is with the thread, and not in `jobs`.
    is_busy: bool,
}

#[derive(Default)]
struct Waiting {
    /// Owners in the order of their turns; none has no job.
    lanes: VecDeque<Lane>,
    jobs: usize,
    is_ending: bool,
}

#[derive(Default)]
struct Shared {
    /// Locked for moments only, never while a job is done.
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

/// The thread and its queue.
pub struct Chores {
    shared: Arc<Shared>,
    /// The thread once the first job has come; locked while it is started or joined, never together with `waiting`.
    thread: Mutex<Option<JoinHandle<()>>>,
    watchdog: Watchdog,
}

impl Chores {
    /// The queue; there is no thread before there is work.
    pub fn new(watchdog: Watchdog) -> Chores {
        Chores { shared: Arc::default(), thread: Mutex::new(None), watchdog }
    }

    /// Puts a job whose steps take so long at most behind those of its owner, and starts the thread if this is the first.
    /// Never blocks; a job that cannot be taken is dropped.
    pub fn submit(&self, whose: &Whose, takes_max: Duration, job: Job) -> Result<(), Refused> {
        if !self.ensure_thread() {
            return Err(Refused::All);
        }
        let mut waiting = self.shared.waiting.lock();
        if waiting.is_ending || waiting.jobs >= JOBS_MAX {
            return Err(Refused::All);
        }
        match waiting.lanes.iter_mut().find(|lane| lane.whose == *whose) {
            // With the one under way.
            Some(lane) if lane.jobs.len() + usize::from(lane.is_busy) > WAITING_MAX => return Err(Refused::Own),
            Some(lane) => lane.jobs.push_back((takes_max, job)),
            None => {
                let jobs = VecDeque::from([(takes_max, job)]);
                waiting.lanes.push_back(Lane { whose: whose.clone(), jobs, is_busy: false });
            }
        }
        waiting.jobs += 1;
        self.shared.changed.notify_one();
        Ok(())
    }

    fn ensure_thread(&self) -> bool {
        let mut thread = self.thread.lock();
        if thread.is_none() && !self.shared.waiting.lock().is_ending {
            let (shared, heartbeat) = (self.shared.clone(), self.watchdog.heartbeat("larder-chores"));
            match thread::Builder::new().name("larder-chores".into()).spawn(move || run(&shared, &heartbeat)) {
                Ok(handle) => *thread = Some(handle),
                Err(error) => log::error!("the thread larder-chores could not be started: {error}"),
            }
        }
        thread.is_some()
    }

    /// Takes no more jobs, finishes those that wait, and joins the thread. Calling it again is harmless.
    pub fn stop(&self) {
        self.shared.waiting.lock().is_ending = true;
        self.shared.changed.notify_one();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != thread::current().id())
            && thread.join().is_err()
        {
            log::error!("the thread larder-chores ended by a panic");
        }
    }
}

impl Drop for Chores {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run(shared: &Shared, heartbeat: &Heartbeat) {
    loop {
        let Some((takes_max, mut job)) = next(shared, heartbeat) else { return };
        heartbeat.beat();
        heartbeat.allow(2 * takes_max);
        let step = catch_unwind(AssertUnwindSafe(&mut job)).unwrap_or_else(|_| {
            log::error!("a job of larder-chores panicked; the next one goes on");
            Step::Done
        });
        let mut waiting = shared.waiting.lock();
        // Nobody else takes lanes away, so the first is still the one whose job this is.
        let Some(mut lane) = waiting.lanes.pop_front() else { continue };
        lane.is_busy = false;
        match step {
            Step::More => lane.jobs.push_front((takes_max, job)),
            Step::Done => waiting.jobs -= 1,
        }
        if !lane.jobs.is_empty() {
            waiting.lanes.push_back(lane);
        }
    }
}

/// The job whose turn it is; waits for one. `None` at the end.
fn next(shared: &Shared, heartbeat: &Heartbeat) -> Option<(Duration, Job)> {
    let mut waiting = shared.waiting.lock();
    loop {
        if let Some(lane) = waiting.lanes.front_mut()
            && let Some(job) = lane.jobs.pop_front()
        {
            lane.is_busy = true;
            return Some(job);
        }
        if waiting.is_ending {
            return None;
        }
        heartbeat.wait(|max| shared.changed.wait_for(&mut waiting, max));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn of(client: &str, namespace: &str) -> Whose {
        Whose { client: Client::of_token(client), namespace: namespace.to_owned() }
    }

    /// A job of so many steps that tells each.
    fn steps(name: &'static str, count: usize, told: &mpsc::Sender<(&'static str, usize)>) -> Job {
        let (told, mut at) = (told.clone(), 0);
        Box::new(move || {
            at += 1;
            told.send((name, at)).unwrap();
            if at == count { Step::Done } else { Step::More }
        })
    }

    /// A job that has begun and goes on when the sender is dropped.
    fn held(chores: &Chores, whose: &Whose) -> mpsc::Sender<()> {
        let (release, blocked) = mpsc::channel::<()>();
        let (began, has_begun) = mpsc::channel();
        let job = Box::new(move || {
            began.send(()).unwrap();
            let _ = blocked.recv();
            Step::Done
        });
        assert_eq!(chores.submit(whose, Duration::ZERO, job), Ok(()));
        has_begun.recv().unwrap();
        release
    }

    #[test]
    fn jobs_are_done_in_order_also_after_one_panicked_and_before_the_stop_returns() {
        let chores = Chores::new(Watchdog::new());
        let (done, log) = mpsc::channel();
        for n in 0..5 {
            let done = done.clone();
            let job = Box::new(move || {
                assert_ne!(n, 2, "the job that panics");
                done.send(n).unwrap();
                Step::Done
            });
            assert_eq!(chores.submit(&of("a", "n"), Duration::ZERO, job), Ok(()));
        }
        chores.stop();
        assert_eq!(log.try_iter().collect::<Vec<_>>(), [0, 1, 3, 4]);
        let late = chores.submit(&of("a", "n"), Duration::ZERO, Box::new(|| Step::Done));
        assert_eq!(late, Err(Refused::All), "the end takes no jobs");
        chores.stop();
    }

    #[test]
    fn one_owner_does_one_job_at_a_time_and_owners_take_turns() {
        let chores = Chores::new(Watchdog::new());
        let (told, log) = mpsc::channel();
        let release = held(&chores, &of("first", "n"));
        let jobs =
            [(of("a", "n"), "a1", 2), (of("a", "n"), "a2", 1), (of("b", "n"), "b1", 3), (of("a", "other"), "c1", 1)];
        for (whose, name, count) in &jobs {
            assert_eq!(chores.submit(whose, Duration::ZERO, steps(name, *count, &told)), Ok(()));
        }
        drop(release);
        chores.stop();
        let wanted = [("a1", 1), ("b1", 1), ("c1", 1), ("a1", 2), ("b1", 2), ("a2", 1), ("b1", 3)];
        assert_eq!(log.try_iter().collect::<Vec<_>>(), wanted);
    }

    #[test]
    fn one_job_too_many_of_an_owner_is_refused_and_another_owners_is_taken() {
        let chores = Chores::new(Watchdog::new());
        let release = held(&chores, &of("a", "n"));
        let submit = |whose: &Whose| chores.submit(whose, Duration::ZERO, Box::new(|| Step::Done));
        for _ in 0..WAITING_MAX {
            assert_eq!(submit(&of("a", "n")), Ok(()));
        }
        assert_eq!(submit(&of("a", "n")), Err(Refused::Own));
        for other in [of("b", "n"), of("a", "other")] {
            assert_eq!(submit(&other), Ok(()));
        }
        for n in WAITING_MAX + 3..JOBS_MAX {
            assert_eq!(submit(&of(&n.to_string(), "n")), Ok(()));
        }
        assert_eq!(submit(&of("one more", "n")), Err(Refused::All));
        drop(release);
        chores.stop();
    }
}
