//! The small duties that nobody else has: the cache's size under memory pressure, the trust in the wall clock, the end
//! of writes that wait too long, tokens that come and go, a restart after the card failed, the watchdog.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam::channel::{Sender, bounded};

use crate::api::Api;
use crate::board::watchdog::WatchdogThread;
use crate::board::{memory, notify};
use crate::config::StoreKind;
use crate::http::wire;
use crate::store::StoreState;

use super::place::Place;
use super::restart::Restart;

const INTERVAL: Duration = Duration::from_secs(1);
/// Looks at the memory come every so many intervals.
const MEMORY_EVERY: u32 = 30;
/// Freed memory is given back every so many intervals, if there was work that frees much.
const TRIM_EVERY: u32 = 10;
/// A look at the tokens file comes every so many intervals: `larder token` promises seconds.
const TOKENS_EVERY: u32 = 2;
/// Why the process ends when it is to be started anew.
const RESTART_REASON: &str = "a write to the card failed: larder ends to be started anew";
/// The cache never shrinks below this share of its budget.
const CACHE_SHARE_MIN: u64 = 8;

/// The threads started here.
pub struct Background {
    api: Arc<Api>,
    stop: Sender<()>,
    threads: Vec<JoinHandle<()>>,
    watchdog: Option<WatchdogThread>,
    restart: Arc<AtomicBool>,
}

/// Starts them.
pub fn start(api: &Arc<Api>) -> io::Result<Background> {
    let (stop, stopped) = bounded::<()>(0);
    let watchdog = &api.watchdog;
    let heartbeat = watchdog.heartbeat("larder-keeping");
    let watched = api.clone();
    watchdog.stage("commit", Box::new(move || watched.store().and_then(|db| db.busy_for())));
    let (deadlines, alive) = (api.deadlines.clone(), watchdog.heartbeat("larder-deadlines"));
    let ending = thread::Builder::new().name("larder-deadlines".into()).spawn(move || deadlines.run(&alive))?;
    let keeper = api.clone();
    let restart = Arc::<AtomicBool>::default();
    let leaving = restart.clone();
    let keeping = thread::Builder::new().name("larder-keeping".into()).spawn(move || {
        let mut budget = CacheBudget { full_bytes: keeper.config.cache_bytes, now_bytes: keeper.config.cache_bytes };
        let mut trimming = Trimming::default();
        let mut place = None;
        let mut restart = Restart::new(&keeper.config.data_dir, notify::is_supervised());
        for round in 0u32.. {
            wire::set_clock_trusted(keeper.store().is_none_or(|db| db.clock().is_set()));
            if round % MEMORY_EVERY == 0 {
                budget.adjust(&keeper);
            }
            if round % TRIM_EVERY == 0 {
                trimming.look(&keeper);
            }
            if round % TOKENS_EVERY == 0 {
                take_up_tokens(&keeper);
            }
            keeper.access.note_time(keeper.store().map(|db| &**db));
            let is_lost = is_place_lost(&keeper, &mut place);
            let has_failed = keeper.store().is_some_and(|db| matches!(db.state(), StoreState::ReadOnly(_)));
            if has_failed && !is_lost && !keeper.drain.is_set() && restart.is_due() {
                log::error!("{RESTART_REASON}");
                leaving.store(true, Ordering::SeqCst);
                keeper.drain.start();
            }
            if heartbeat.wait(|_| stopped.recv_timeout(INTERVAL)).is_err_and(|error| error.is_disconnected()) {
                return;
            }
        }
    })?;
    let watchdog = match notify::watchdog_interval() {
        Some(interval) => Some(watchdog.start(interval, notify::watchdog_ping)?),
        None => None,
    };
    Ok(Background { api: api.clone(), stop, threads: vec![ending, keeping], watchdog, restart })
}

impl Background {
    /// Ends and joins them. `Some`: the process is to be started anew, for this reason.
    pub fn stop(self) -> Option<String> {
        self.api.deadlines.stop();
        drop(self.stop);
        drop(self.watchdog);
        for thread in self.threads {
            let name = thread.thread().name().unwrap_or("?").to_owned();
            if thread.join().is_err() {
                log::error!("the thread {name} panicked");
            }
        }
        self.restart.load(Ordering::SeqCst).then(|| RESTART_REASON.to_owned())
    }
}

/// Looks whether the data folder is the one that was opened, and ends all writes if it is not. A restart would mend nothing
/// then: it would find another folder, or one that cannot be written.
fn is_place_lost(api: &Api, place: &mut Option<Place>) -> bool {
    let Some(db) = api.store().filter(|_| api.config.store == StoreKind::Fjall) else { return false };
    let found = place.get_or_insert_with(|| Place::of(&api.config.data_dir)).look();
    if let Some((loss, true)) = &found
        && !api.drain.is_set()
        && db.give_up(loss.reason)
    {
        log::error!("the store takes no more writes: {}: {}", loss.reason, loss.detail);
    }
    found.is_some()
}

/// Puts in force what `larder token add` or `rm` has changed since the last look.
fn take_up_tokens(api: &Api) {
    match api.access.refresh() {
        None => {}
        Some(Ok(tokens)) => {
            api.access.note_kept();
            log::info!("the tokens have changed: there are {tokens} now");
        }
        Some(Err(error)) => log::error!("the tokens stay as they are: {error}"),
    }
}

/// Gives memory back that the allocator keeps: memtables and compactions free a lot at once.
#[derive(Default)]
struct Trimming {
    version: u64,
    compactions: u64,
}

impl Trimming {
    fn look(&mut self, api: &Api) {
        let Some(db) = api.store() else { return };
        let now = Trimming { version: db.last_version(), compactions: db.figures().compactions };
        if (now.version, now.compactions) != (self.version, self.compactions) {
            memory::give_back();
            *self = now;
        }
    }
}

/// How much the cache may hold now.
struct CacheBudget {
    full_bytes: u64,
    now_bytes: u64,
}

impl CacheBudget {
    /// Halves the cache under memory pressure, and gives back a quarter at a time when there is room again.
    fn adjust(&mut self, api: &Api) {
        let Some(usage) = memory::usage() else { return };
        let wanted = if usage.is_pressure() {
            (self.now_bytes / 2).max(self.full_bytes / CACHE_SHARE_MIN)
        } else {
            (self.now_bytes + self.full_bytes / 4).min(self.full_bytes)
        };
        if wanted == self.now_bytes {
            return;
        }
        log::warn!("memory is {:.0} % used: the cache may hold {} KiB now", usage.share() * 100.0, wanted / 1024);
        self.now_bytes = wanted;
        api.cache.set_budget(wanted);
    }
}
