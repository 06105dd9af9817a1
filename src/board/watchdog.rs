//! Whether larder still does its work, told to the service manager as long as it is so.
//!
//! Every thread that serves has a loop, and each loop a heartbeat. It waits with a time-out, so that one that is stuck is
//! told from one that has nothing to do ([`SILENCE_MAX`]), and works on one thing for a bounded time ([`WORK_MAX`]: a card
//! may hang for so long). What waits for a client by its nature rests, and nothing is expected of it meanwhile. Stages say
//! how old their oldest item is. Nothing is written or asked to find out. While anything is late no ping is sent, and the
//! manager restarts us when its own interval has passed: a stall that ends before does no harm.
//!
//! The times are those of the monotonic clock: a board that was suspended has not been silent.
//!
//! Invariant: a ping is sent only after every loop and every stage was found healthy.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam::channel::{RecvTimeoutError, Sender, bounded};
use parking_lot::Mutex;

/// How long a loop waits at most before it beats again.
pub const WAIT_MAX: Duration = Duration::from_secs(2);
/// How long a loop that waits may be silent: some machines are too busy to let it run for seconds.
pub const SILENCE_MAX: Duration = Duration::from_secs(10);
/// How long a loop may work on one thing, and how old the oldest item of a stage may be.
pub const WORK_MAX: Duration = Duration::from_secs(30);

/// Says how old the oldest item of a stage is; `None` when it holds none. Must not wait.
pub type ItemAge = Box<dyn Fn() -> Option<Duration> + Send + Sync>;

/// What is watched. Clones watch the same.
#[derive(Clone)]
pub struct Watchdog(Arc<Watched>);

struct Watched {
    started: Instant,
    loops: Mutex<Vec<Arc<Beat>>>,
    stages: Mutex<Vec<(&'static str, ItemAge)>>,
}

struct Beat {
    name: String,
    /// Milliseconds from the watchdog's start to the last beat, and behind them in two bits what the loop does since.
    last: AtomicU64,
    /// How long it may work on one thing.
    work_max_ms: AtomicU64,
    /// The loop ended in a panic: nothing makes it healthy again.
    died: AtomicBool,
}

/// What a loop does.
#[derive(Clone, Copy)]
enum Doing {
    /// It works on something.
    Work = 0,
    /// It waits with a time-out.
    Wait = 1,
    /// It waits for somebody else for as long as that takes.
    Rest = 2,
}

/// Held by a loop that must keep turning. Dropped at the end of the loop it is no longer watched; dropped by a panic the
/// loop counts as dead for good.
pub struct Heartbeat {
    watched: Arc<Watched>,
    beat: Arc<Beat>,
}

impl Default for Watchdog {
    fn default() -> Watchdog {
        Watchdog::new()
    }
}

impl Watchdog {
    /// Watches nothing yet.
    pub fn new() -> Watchdog {
        let (loops, stages) = (Mutex::default(), Mutex::default());
        Watchdog(Arc::new(Watched { started: Instant::now(), loops, stages }))
    }

    /// Watches a loop from now on. It calls [`Heartbeat::beat`] for each thing it does, and waits in [`Heartbeat::wait`].
    pub fn heartbeat(&self, name: impl Into<String>) -> Heartbeat {
        let work_max_ms = AtomicU64::new(as_ms(WORK_MAX));
        let beat =
            Arc::new(Beat { name: name.into(), last: AtomicU64::new(0), work_max_ms, died: AtomicBool::new(false) });
        let heartbeat = Heartbeat { watched: self.0.clone(), beat: beat.clone() };
        heartbeat.beat();
        self.0.loops.lock().push(beat);
        heartbeat
    }

    /// Watches the age of the oldest item of a stage (a queue, a commit in progress).
    pub fn stage(&self, name: &'static str, oldest: ItemAge) {
        self.0.stages.lock().push((name, oldest));
    }

    /// What is late now, in words; empty while all is well.
    pub fn late(&self) -> Vec<String> {
        self.late_at(self.0.started.elapsed())
    }

    fn late_at(&self, now: Duration) -> Vec<String> {
        let loops = self.0.loops.lock().iter().filter_map(|beat| beat.late_at(now)).collect::<Vec<_>>();
        let stages = self.0.stages.lock();
        let stages = stages.iter().filter_map(|(name, oldest)| {
            let age = oldest().filter(|age| *age > WORK_MAX)?;
            Some(format!("{name} holds an item for {} s", age.as_secs()))
        });
        loops.into_iter().chain(stages).collect()
    }

    /// Starts the thread `larder-watchdog`, which calls `ping` four times an `interval` while nothing is late.
    /// Dropping what is returned ends and joins it. An error is that of starting a thread.
    pub fn start(&self, interval: Duration, ping: impl Fn() + Send + 'static) -> io::Result<WatchdogThread> {
        let watchdog = self.clone();
        let (stop, stopped) = bounded::<()>(0);
        let thread = Builder::new().name("larder-watchdog".to_owned()).spawn(move || {
            let mut was_late = false;
            loop {
                was_late = watchdog.check(&ping, was_late);
                if stopped.recv_timeout(interval / 4) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        })?;
        Ok(WatchdogThread { stop: Some(stop), thread: Some(thread) })
    }

    /// Looks once, and pings if all is well. Says in the log when that changes, and returns whether anything is late.
    fn check(&self, ping: &impl Fn(), was_late: bool) -> bool {
        let late = self.late();
        match (late.is_empty(), was_late) {
            (true, true) => log::warn!("nothing is late any more: the watchdog is answered again"),
            (false, false) => log::error!("the watchdog is not answered while this is late: {}", late.join(", ")),
            (true, false) | (false, true) => {}
        }
        if late.is_empty() {
            ping();
        }
        !late.is_empty()
    }
}

impl Beat {
    fn late_at(&self, now: Duration) -> Option<String> {
        if self.died.load(Ordering::Relaxed) {
            return Some(format!("{} ended in a panic", self.name));
        }
        let last = self.last.load(Ordering::Relaxed);
        let silent = now.saturating_sub(Duration::from_millis(last >> 2));
        let (max, does) = match last & 3 {
            0 => (Duration::from_millis(self.work_max_ms.load(Ordering::Relaxed)), "is at the same work"),
            1 => (SILENCE_MAX, "is silent"),
            _ => return None,
        };
        (silent > max).then(|| format!("{} {does} for {} s", self.name, silent.as_secs()))
    }
}

fn as_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Heartbeat {
    /// The loop begins something. Costs one store.
    pub fn beat(&self) {
        self.note(Doing::Work, self.watched.started.elapsed());
    }

    /// Waits, for [`WAIT_MAX`] at most, which `wait` is given.
    pub fn wait<T>(&self, wait: impl FnOnce(Duration) -> T) -> T {
        self.note(Doing::Wait, self.watched.started.elapsed());
        let result = wait(WAIT_MAX);
        self.beat();
        result
    }

    /// What comes now waits for somebody else: nothing is expected before the next beat.
    pub fn rest(&self) {
        self.note(Doing::Rest, self.watched.started.elapsed());
    }

    /// One thing may take so long, if that is more than [`WORK_MAX`].
    pub fn allow(&self, work_max: Duration) {
        self.beat.work_max_ms.store(as_ms(work_max.max(WORK_MAX)), Ordering::Relaxed);
    }

    fn note(&self, doing: Doing, now: Duration) {
        self.beat.last.store(as_ms(now) << 2 | doing as u64, Ordering::Relaxed);
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.beat.died.store(true, Ordering::Relaxed);
        } else {
            self.watched.loops.lock().retain(|beat| !Arc::ptr_eq(beat, &self.beat));
        }
    }
}

/// The running watchdog; dropping it ends and joins its thread.
pub struct WatchdogThread {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for WatchdogThread {
    fn drop(&mut self) {
        // Closing the channel wakes the thread.
        self.stop = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            log::error!("the watchdog ended in a panic");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_loop_is_late_when_it_waits_or_works_for_too_long_and_well_again_when_it_beats() {
        let watchdog = Watchdog::new();
        let heartbeat = watchdog.heartbeat("committer");
        for (doing, max, late) in [(Doing::Wait, 10, "is silent"), (Doing::Work, 30, "is at the same work")] {
            heartbeat.note(doing, at(100));
            assert!(watchdog.late_at(at(100 + max)).is_empty());
            assert_eq!(watchdog.late_at(at(102 + max)), [format!("committer {late} for {} s", max + 2)]);
            heartbeat.note(doing, at(102 + max));
            assert!(watchdog.late_at(at(103 + max)).is_empty());
        }
        heartbeat.note(Doing::Rest, at(100));
        assert!(watchdog.late_at(at(100_000)).is_empty());
    }

    #[test]
    fn work_that_may_take_longer_is_given_its_time_and_never_less_than_a_card_may_hang() {
        let watchdog = Watchdog::new();
        let heartbeat = watchdog.heartbeat("worker");
        heartbeat.note(Doing::Work, at(100));
        for (allowed, max) in [(1, 30), (30, 30), (90, 90)] {
            heartbeat.allow(at(allowed));
            assert!(watchdog.late_at(at(100 + max)).is_empty(), "{allowed}");
            assert_eq!(watchdog.late_at(at(101 + max)).len(), 1, "{allowed}");
        }
    }

    #[test]
    fn who_waits_is_watched_as_one_who_waits_and_then_as_one_who_works() {
        let watchdog = Watchdog::new();
        let heartbeat = watchdog.heartbeat("worker");
        heartbeat.wait(|max| {
            assert_eq!(max, WAIT_MAX);
            assert_eq!(watchdog.late_at(at(20)).len(), 1);
        });
        assert!(watchdog.late_at(at(20)).is_empty());
    }

    #[test]
    fn a_loop_that_ended_is_not_missed() {
        let watchdog = Watchdog::new();
        drop(watchdog.heartbeat("worker"));
        assert!(watchdog.late_at(at(1000)).is_empty());
    }

    #[test]
    fn a_loop_that_panicked_is_late_for_good() {
        let watchdog = Watchdog::new();
        let heartbeat = watchdog.heartbeat("committer");
        let thread = std::thread::spawn(move || {
            heartbeat.beat();
            panic!("as it should");
        });
        assert!(thread.join().is_err());
        assert_eq!(watchdog.late(), ["committer ended in a panic"]);
    }

    #[test]
    fn a_stage_is_late_with_an_item_older_than_thirty_seconds() {
        for (age, late) in [(None, 0), (Some(at(30)), 0), (Some(at(31)), 1)] {
            let watchdog = Watchdog::new();
            watchdog.stage("queue", Box::new(move || age));
            assert_eq!(watchdog.late_at(at(0)).len(), late, "{age:?}");
        }
    }

    #[test]
    fn no_ping_is_sent_while_anything_is_late() {
        let watchdog = Watchdog::new();
        let stuck = Arc::new(AtomicBool::new(true));
        let seen = stuck.clone();
        watchdog.stage("queue", Box::new(move || seen.load(Ordering::Relaxed).then_some(at(60))));
        let pings = AtomicU64::new(0);
        let ping = || {
            pings.fetch_add(1, Ordering::Relaxed);
        };
        assert!(watchdog.check(&ping, false));
        assert_eq!(pings.load(Ordering::Relaxed), 0);
        stuck.store(false, Ordering::Relaxed);
        assert!(!watchdog.check(&ping, true));
        assert_eq!(pings.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn the_thread_pings_and_ends_when_dropped() {
        let (sender, pings) = bounded::<()>(1);
        let thread = Watchdog::new().start(at(3600), move || sender.try_send(()).unwrap()).unwrap();
        pings.recv_timeout(at(10)).unwrap();
        drop(thread);
        assert!(pings.recv_timeout(at(10)).is_err_and(|error| error == RecvTimeoutError::Disconnected));
    }
}
