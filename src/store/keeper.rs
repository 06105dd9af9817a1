//! The thread that looks after what nobody asks for: the clock, the free space, and what has expired.
//!
//! Invariant: it holds a view only while it reads one short chunk, and it ends within one such chunk of being told.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::committer::WriteQueue;
use super::database::{DatabaseOptions, Droppable, Shared, submit};
use super::space::{Allowed, SpaceFigures};
use super::sweeper::Sweeper;
use super::versions::VERSION_END;
use super::{Durability, Store, WriteRequest};
use crate::board::watchdog::Watchdog;
use crate::metrics::Registry;

/// What the keeper needs of the options.
pub(super) struct KeeperOptions {
    scan_rate: u64,
    interval: Duration,
    droppable: Droppable,
    watchdog: Watchdog,
}

impl From<&DatabaseOptions> for KeeperOptions {
    fn from(options: &DatabaseOptions) -> KeeperOptions {
        KeeperOptions {
            scan_rate: options.expiry_scan_rate,
            interval: options.keeper_interval,
            droppable: options.droppable.clone(),
            watchdog: options.watchdog.clone(),
        }
    }
}

/// The keeper's thread.
pub(super) struct Keeper {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Keeper {
    pub(super) fn start(
        shared: Arc<Shared>,
        store: Arc<dyn Store>,
        queue: Arc<WriteQueue>,
        registry: &Registry,
        options: KeeperOptions,
    ) -> io::Result<Keeper> {
        let (stop, stopped) = bounded(1);
        let sweeper = (options.scan_rate > 0).then(|| {
            Sweeper::new(shared.clone(), store.clone(), queue.clone(), registry, options.scan_rate, stopped.clone())
        });
        let thread = thread::Builder::new()
            .name("larder-keeper".into())
            .spawn(move || keep(&shared, &*store, &queue, sweeper, &options, &stopped))?;
        Ok(Keeper { stop, thread })
    }

    /// Ends the thread and joins it.
    pub(super) fn stop(self) {
        drop(self.stop);
        if self.thread.join().is_err() {
            log::error!("the keeper panicked");
        }
    }
}

fn keep(
    shared: &Shared,
    store: &dyn Store,
    queue: &WriteQueue,
    mut sweeper: Option<Sweeper>,
    options: &KeeperOptions,
    stopped: &Receiver<()>,
) {
    let mut look_at = Instant::now();
    let heartbeat = options.watchdog.heartbeat("larder-keeper");
    let mut shortage = Shortage::default();
    loop {
        if Instant::now() >= look_at {
            tick(shared, queue);
            shared.space.look();
            shared.space.restore_ballast();
            if shortage.look(shared.space.figures(), shared.last_version.load(Ordering::Relaxed)) {
                store.reclaim();
            }
            // Compactions ask nobody.
            *options.droppable.lock() = shared.clock.may_delete().then(|| shared.clock.moment());
            look_at = Instant::now() + options.interval;
        }
        let rest = match &mut sweeper {
            Some(sweeper) => sweeper.step(&heartbeat).unwrap_or(options.interval),
            None => options.interval,
        };
        match heartbeat.wait(|max| stopped.recv_timeout(rest.min(options.interval).min(max))) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Notices while there is no room for writes whether it is worthwhile to have the store give space back.
#[derive(Default)]
struct Shortage {
    /// At the last time that it was: the last version, and how much was free.
    seen: Option<(u64, u64)>,
}

impl Shortage {
    /// It is when there was room a moment ago, when something was deleted since, and when a merge may find the room that it
    /// lacked.
    fn look(&mut self, figures: SpaceFigures, last_version: u64) -> bool {
        if figures.allowed == Allowed::Writes {
            self.seen = None;
            return false;
        }
        let free_bytes = figures.free_bytes;
        let is_news = |(version, free): (u64, u64)| version != last_version || free_bytes > free + free / 4;
        let is_worthwhile = self.seen.is_none_or(is_news);
        if is_worthwhile {
            self.seen = Some((last_version, free_bytes));
        }
        is_worthwhile
    }
}

/// Looks at the clock. If it is to be corrected, wakes the committer with a request that asks for nothing.
fn tick(shared: &Shared, queue: &WriteQueue) {
    if !shared.clock.tick() {
        return;
    }
    if shared.switches.has_failed() {
        // Nobody gives out versions any more.
        shared.clock.correct(VERSION_END);
    } else {
        let (ops, reply) = (Vec::new(), Box::new(|_| {}));
        let request = WriteRequest { ops, atomic: false, durability: Durability::Relaxed, deadline: None, reply };
        submit(shared, queue, request);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_is_asked_for_once_for_each_reason() {
        let mut shortage = Shortage::default();
        let mut look = |allowed, free_bytes, version| {
            shortage.look(SpaceFigures { allowed, free_bytes, ..SpaceFigures::default() }, version)
        };
        assert!(!look(Allowed::Writes, 100, 1));
        assert!(look(Allowed::Deletes, 40, 1), "it has just become short");
        assert!(!look(Allowed::Deletes, 40, 1));
        assert!(look(Allowed::Deletes, 40, 2), "something was deleted");
        assert!(!look(Allowed::Nothing, 30, 2));
        assert!(!look(Allowed::Deletes, 50, 2), "what was given back is no reason");
        assert!(look(Allowed::Deletes, 51, 2), "but a merge may find room now");
        assert!(!look(Allowed::Writes, 90, 2));
        assert!(look(Allowed::Deletes, 51, 2), "short again");
    }
}
