//! Whether larder still does its work, told to the service manager as long as it is so.
//!
//! Loops beat at least every [`LOOP_SILENCE_MAX`]; stages say how old their oldest item is, at most [`ITEM_AGE_MAX`].
//! Nothing is written or asked to find out. While anything is late no ping is sent, and the manager restarts us when its
//! own interval has passed: a stall that ends before does no harm.
//!
//! Invariant: a ping is sent only after every loop and every stage was found healthy.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam::channel::{RecvTimeoutError, Sender, bounded};
use parking_lot::Mutex;

/// How long a loop may be silent.
pub const LOOP_SILENCE_MAX: Duration = Duration::from_secs(5);
/// How old the oldest item of a stage may be.
pub const ITEM_AGE_MAX: Duration = Duration::from_secs(30);

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
    /// Of the last beat, since the watchdog's start.
    at_ms: AtomicU64,
    /// The loop ended in a panic: nothing makes it healthy again.
    died: AtomicBool,
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

    /// Watches a loop from now on. It must call [`Heartbeat::beat`] at least every 5 s, so it must wait with a time-out.
    pub fn heartbeat(&self, name: impl Into<String>) -> Heartbeat {
        let beat = Arc::new(Beat { name: name.into(), at_ms: AtomicU64::new(0), died: AtomicBool::new(false) });
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
            let age = oldest().filter(|age| *age > ITEM_AGE_MAX)?;
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
        let silent = now.saturating_sub(Duration::from_millis(self.at_ms.load(Ordering::Relaxed)));
        (silent > LOOP_SILENCE_MAX).then(|| format!("{} is silent for {} s", self.name, silent.as_secs()))
    }
}

impl Heartbeat {
    /// The loop turned. Costs one store.
    pub fn beat(&self) {
        self.beat_at(self.watched.started.elapsed());
    }

    fn beat_at(&self, now: Duration) {
        self.beat.at_ms.store(u64::try_from(now.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
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
    fn a_loop_is_late_after_five_seconds_and_well_again_when_it_beats() {
        let watchdog = Watchdog::new();
        let heartbeat = watchdog.heartbeat("committer");
        heartbeat.beat_at(at(100));
        assert!(watchdog.late_at(at(105)).is_empty());
        assert_eq!(watchdog.late_at(at(107)), ["committer is silent for 7 s"]);
        heartbeat.beat_at(at(107));
        assert!(watchdog.late_at(at(108)).is_empty());
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
