//! Work in many steps that must wait for the card between them: one thread does it, so that no worker has to.
//!
//! The thread is named `larder-chores`; 16 jobs may wait. A job that panics answers 500 through its dropped responder and
//! leaves the thread alive.
//!
//! Invariant: a job that was taken is run, also during a stop: jobs look at the drain signal themselves.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use parking_lot::Mutex;

use crate::board::watchdog::{Heartbeat, Watchdog};

/// Jobs that wait; one more is refused.
pub const WAITING_MAX: usize = 16;

/// One piece of work.
pub type Job = Box<dyn FnOnce() + Send>;

/// A job, and how long it may take.
type Timed = (Duration, Job);

/// The thread and its queue.
pub struct Chores {
    /// Taken away to end the thread; locked for one non-blocking send.
    sender: Mutex<Option<Sender<Timed>>>,
    receiver: Receiver<Timed>,
    /// The thread once the first job has come; locked while it is started or joined, never together with `sender`.
    thread: Mutex<Option<JoinHandle<()>>>,
    watchdog: Watchdog,
}

impl Chores {
    /// The queue; there is no thread before there is work.
    pub fn new(watchdog: Watchdog) -> Chores {
        let (sender, receiver) = bounded(WAITING_MAX);
        Chores { sender: Mutex::new(Some(sender)), receiver, thread: Mutex::new(None), watchdog }
    }

    /// Puts a job that takes so long at most in the queue and starts the thread if this is the first. Never blocks; a job that cannot be taken (the
    /// queue is full, or this is the end) is handed back.
    pub fn submit(&self, takes_max: Duration, job: Job) -> Result<(), Job> {
        if !self.ensure_thread() {
            return Err(job);
        }
        match &*self.sender.lock() {
            Some(sender) => sender.try_send((takes_max, job)).map_err(|refused| refused.into_inner().1),
            None => Err(job),
        }
    }

    fn ensure_thread(&self) -> bool {
        let mut thread = self.thread.lock();
        if thread.is_none() {
            let (receiver, heartbeat) = (self.receiver.clone(), self.watchdog.heartbeat("larder-chores"));
            match thread::Builder::new().name("larder-chores".into()).spawn(move || run(&receiver, &heartbeat)) {
                Ok(handle) => *thread = Some(handle),
                Err(error) => log::error!("the thread larder-chores could not be started: {error}"),
            }
        }
        thread.is_some()
    }

    /// Takes no more jobs, finishes those that wait, and joins the thread. Calling it again is harmless.
    pub fn stop(&self) {
        drop(self.sender.lock().take());
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

fn run(receiver: &Receiver<Timed>, heartbeat: &Heartbeat) {
    loop {
        let (takes_max, job) = match heartbeat.wait(|max| receiver.recv_timeout(max)) {
            Ok(timed) => timed,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        heartbeat.allow(2 * takes_max);
        if catch_unwind(AssertUnwindSafe(job)).is_err() {
            log::error!("a job of larder-chores panicked; the next one goes on");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn jobs_are_done_in_order_also_after_one_panicked_and_before_the_stop_returns() {
        let chores = Chores::new(Watchdog::new());
        let (done, log) = mpsc::channel();
        for n in 0..5 {
            let done = done.clone();
            let job = Box::new(move || {
                assert_ne!(n, 2, "the job that panics");
                done.send(n).unwrap();
            });
            assert!(chores.submit(Duration::ZERO, job).is_ok());
        }
        chores.stop();
        assert_eq!(log.try_iter().collect::<Vec<_>>(), [0, 1, 3, 4]);
        assert!(chores.submit(Duration::ZERO, Box::new(|| {})).is_err(), "the end takes no jobs");
        chores.stop();
    }

    #[test]
    fn one_job_too_many_is_handed_back() {
        let chores = Chores::new(Watchdog::new());
        let (release, blocked) = mpsc::channel::<()>();
        let (began, has_begun) = mpsc::channel();
        let first = Box::new(move || {
            began.send(()).unwrap();
            let _ = blocked.recv();
        });
        assert!(chores.submit(Duration::ZERO, first).is_ok());
        has_begun.recv().unwrap();
        for _ in 0..WAITING_MAX {
            assert!(chores.submit(Duration::ZERO, Box::new(|| {})).is_ok());
        }
        assert!(chores.submit(Duration::ZERO, Box::new(|| {})).is_err());
        drop(release);
        chores.stop();
    }
}
