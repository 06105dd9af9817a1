//! The thread that looks after what nobody asks for: the clock, the free space, and what has expired.
//!
//! Invariant: it holds a view only while it reads one short chunk, and it ends within one such chunk of being told.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::committer::WriteQueue;
use super::database::{DatabaseOptions, Shared, submit};
use super::sweeper::Sweeper;
use super::{Durability, Store, WriteRequest};
use crate::board::watchdog::Watchdog;
use crate::metrics::Registry;

/// What the keeper needs of the options.
pub(super) struct KeeperOptions {
    scan_rate: u64,
    interval: Duration,
    expired_before: Arc<AtomicU64>,
    watchdog: Watchdog,
}

impl From<&DatabaseOptions> for KeeperOptions {
    fn from(options: &DatabaseOptions) -> KeeperOptions {
        KeeperOptions {
            scan_rate: options.expiry_scan_rate,
            interval: options.keeper_interval,
            expired_before: options.expired_before.clone(),
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
        let sweeper = (options.scan_rate > 0)
            .then(|| Sweeper::new(shared.clone(), store, queue.clone(), registry, options.scan_rate, stopped.clone()));
        let thread = thread::Builder::new()
            .name("larder-keeper".into())
            .spawn(move || keep(&shared, &queue, sweeper, &options, &stopped))?;
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
    queue: &WriteQueue,
    mut sweeper: Option<Sweeper>,
    options: &KeeperOptions,
    stopped: &Receiver<()>,
) {
    let (mut look_at, mut could_delete) = (Instant::now(), false);
    let heartbeat = options.watchdog.heartbeat("larder-keeper");
    loop {
        if Instant::now() >= look_at {
            tick(shared, queue);
            shared.space.look();
            // Compactions ask nobody. They may delete one look later than the sweeper, when the committer has corrected
            // what rested on a guessed clock.
            let can_delete = shared.clock.may_delete();
            let expired_before_ms = if can_delete && could_delete { shared.clock.expiry_now_ms() } else { 0 };
            options.expired_before.store(expired_before_ms, Ordering::Relaxed);
            could_delete = can_delete;
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

/// Looks at the clock. When it has just been set, wakes the committer with a request that asks for nothing.
fn tick(shared: &Shared, queue: &WriteQueue) {
    let was_synchronised = shared.clock.is_synchronised();
    shared.clock.tick();
    if shared.clock.is_synchronised() && !was_synchronised {
        let (ops, reply) = (Vec::new(), Box::new(|_| {}));
        let request = WriteRequest { ops, atomic: false, durability: Durability::Relaxed, deadline: None, reply };
        submit(shared, queue, request);
    }
}
