//! The door to the store for the rest of larder: a view for reads, a queue for writes, one state for both.
//!
//! It owns the threads behind it (the committer, the keeper) and joins them at its end. Nothing here touches the disk:
//! `view`, `submit`, `state` and `clock` may be called from an event loop.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::clock::{CONFIRM_AFTER, Clock, Known, Moment, SystemTimeSource, TimeSource};
use super::committer::{CLOCK_KEY, EPOCHS_KEY, WriteQueue, committer, needs};
use super::keeper::{Keeper, KeeperOptions};
use super::space::{Allowed, SpaceFigures, SpaceWatch};
use super::state::{StoreState, Switches};
#[cfg(doc)]
use super::versions::IMPORT_END;
use super::versions::{Versions, read_number};
use super::view::{View, ViewCell};
use super::{CommitObserver, Durability, Reply, Space, Store, StoreError, WriteError, WriteRequest};
use crate::board::watchdog::Watchdog;
use crate::limits::{Limits, MIB};
use crate::metrics::Registry;

/// How a database is run.
#[derive(Clone)]
pub struct DatabaseOptions {
    /// The durability of writes that do not say.
    pub durability_default: Durability,
    /// The longest that a relaxed write waits for its sync.
    pub sync_interval: Duration,
    /// Write requests that may wait for the committer; one more is [`WriteError::Overloaded`].
    pub queued_writes_max: usize,
    /// Bytes of keys and values that may wait for the committer.
    pub queued_bytes_max: u64,
    /// The largest value an update may make.
    pub value_bytes_max: u64,
    /// The folder whose card is watched for space, and where the second copy of the version ceiling is kept; `None`: there
    /// is always space, and no copy.
    pub data_dir: Option<PathBuf>,
    /// Watches the space in place of `data_dir` and `reserve_bytes`: what the store itself has as its watch.
    pub space: Option<Arc<SpaceWatch>>,
    /// Free bytes at which writes stop; `None`: 256 MiB or 3 % of the card.
    pub reserve_bytes: Option<u64>,
    /// Keys the sweeper looks at in a second; 0: it never does.
    pub expiry_scan_rate: u64,
    /// How long the keeper rests between two passes over the store, and the longest between two looks at the clock.
    pub keeper_interval: Duration,
    /// What had expired at this moment a compaction may drop. Kept up to date.
    pub droppable: Droppable,
    /// Where time comes from.
    pub time: Arc<dyn TimeSource>,
    /// Whom the threads show that they are alive.
    pub watchdog: Watchdog,
    /// A step of the wall clock counts when it is still there after so long.
    pub clock_confirm_after: Duration,
}

impl Default for DatabaseOptions {
    fn default() -> DatabaseOptions {
        let limits = Limits::default();
        DatabaseOptions {
            durability_default: Durability::Sync,
            sync_interval: Duration::from_secs(1),
            queued_writes_max: limits.queued_writes_max,
            queued_bytes_max: 16 * MIB as u64,
            value_bytes_max: limits.value_bytes_max,
            data_dir: None,
            space: None,
            reserve_bytes: None,
            expiry_scan_rate: 1000,
            keeper_interval: Duration::from_secs(5),
            droppable: Droppable::default(),
            time: Arc::new(SystemTimeSource::new(false)),
            watchdog: Watchdog::new(),
            clock_confirm_after: CONFIRM_AFTER,
        }
    }
}

/// The moment that had come when compactions were last told what they may drop; `None`: nothing.
pub type Droppable = Arc<Mutex<Option<Moment>>>;

/// What the threads of a database share.
pub(super) struct Shared {
    pub(super) view: ViewCell,
    pub(super) clock: Clock,
    pub(super) switches: Switches,
    pub(super) space: Arc<SpaceWatch>,
    /// The last version that readers can see.
    pub(super) last_version: AtomicU64,
    /// The version at which the last import began.
    pub(super) imported: AtomicU64,
    /// Set when a record with an expiry is written; the sweeper takes it back.
    pub(super) expiring: AtomicBool,
    /// Since when the committer works on the group in hand.
    busy_since: Mutex<Option<Instant>>,
}

impl Shared {
    pub(super) fn set_busy(&self, busy: bool) {
        *self.busy_since.lock() = busy.then(Instant::now);
    }

    /// Why a request is not even queued.
    fn refusal(&self, request: &WriteRequest) -> Option<WriteError> {
        if self.switches.has_failed() {
            return Some(WriteError::ReadOnly);
        }
        if self.switches.is_draining() {
            return Some(WriteError::Draining);
        }
        self.lack(needs(&request.ops))
    }

    /// That there is no space for what needs so much of it.
    pub(super) fn lack(&self, needed: Allowed) -> Option<WriteError> {
        match self.space.allowed() {
            allowed if needed >= allowed => None,
            Allowed::Nothing => Some(WriteError::CardFull),
            _ => Some(WriteError::InsufficientStorage),
        }
    }

    /// That there is no space for a request of so many bytes that needs so much.
    pub(super) fn lack_for(&self, needed: Allowed, bytes: usize) -> Option<WriteError> {
        let is_too_large = needed == Allowed::Writes && !self.space.fits(bytes as u64);
        self.lack(needed).or(is_too_large.then_some(WriteError::InsufficientStorage))
    }
}

/// A store in use.
pub struct Database {
    shared: Arc<Shared>,
    store: Arc<dyn Store>,
    queue: Arc<WriteQueue>,
    durability_default: Durability,
    /// Taken by whoever stops the database; held while the threads are joined, so that a second stop waits for the first.
    threads: Mutex<Option<Threads>>,
}

struct Threads {
    committer: JoinHandle<Result<(), StoreError>>,
    keeper: Keeper,
}

impl Database {
    /// Ends all writes for good, for a reason that others than the store have found. False if they had ended before.
    pub fn give_up(&self, reason: &str) -> bool {
        let is_first = !self.shared.switches.has_failed();
        self.shared.switches.stop_writes(reason);
        is_first
    }

    /// Puts an opened store to use. Reads its metadata; starts the threads `larder-committer` and `larder-keeper`.
    pub fn start(
        store: Arc<dyn Store>,
        observer: Arc<dyn CommitObserver>,
        registry: &Registry,
        options: DatabaseOptions,
    ) -> Result<Arc<Database>, StoreError> {
        let snapshot = store.snapshot()?;
        let versions = Versions::load(&*snapshot, options.data_dir.as_deref())?;
        let known =
            Known { last_ms: read_number(&*snapshot, CLOCK_KEY)?, epochs: snapshot.get(Space::Data, EPOCHS_KEY)? };
        let next = versions.last() + 1;
        let shared = Arc::new(Shared {
            view: ViewCell::new(View { snapshot, instant: 0 }),
            clock: Clock::new(options.time.clone(), &known, next, options.clock_confirm_after)?,
            switches: Switches::default(),
            space: options
                .space
                .clone()
                .unwrap_or_else(|| Arc::new(SpaceWatch::new(options.data_dir.clone(), options.reserve_bytes))),
            last_version: AtomicU64::new(versions.last()),
            imported: AtomicU64::new(versions.imported()),
            expiring: AtomicBool::new(true),
            busy_since: Mutex::new(None),
        });
        let (queue, committer) = committer(store.clone(), observer, shared.clone(), versions, registry, &options);
        let queue = Arc::new(queue);
        let committer = thread::Builder::new()
            .name("larder-committer".into())
            .spawn(move || committer.run())
            .map_err(|error| StoreError::Io(format!("the committer's thread could not be started: {error}")))?;
        let keeper = match Keeper::start(
            shared.clone(),
            store.clone(),
            queue.clone(),
            registry,
            KeeperOptions::from(&options),
        ) {
            Ok(keeper) => keeper,
            Err(error) => {
                queue.close();
                let _ = committer.join();
                return Err(StoreError::Io(format!("the keeper's thread could not be started: {error}")));
            }
        };
        let database = Arc::new(Database {
            shared,
            store,
            queue,
            durability_default: options.durability_default,
            threads: Mutex::new(Some(Threads { committer, keeper })),
        });
        database.register(registry);
        Ok(database)
    }

    /// The store as it stands: everything committed so far, nothing half committed.
    pub fn view(&self) -> View {
        self.shared.view.get()
    }

    /// The store's clock.
    pub fn clock(&self) -> &Clock {
        &self.shared.clock
    }

    /// The durability of writes that do not say.
    pub fn durability_default(&self) -> Durability {
        self.durability_default
    }

    /// Hands a write over. Never blocks; a request that cannot be taken is answered at once, on this thread.
    pub fn submit(&self, request: WriteRequest) {
        submit(&self.shared, &self.queue, request);
    }

    /// Begins the import of a file that goes up to this version, which is below [`IMPORT_END`]: whatever is written after
    /// the reply has a version that its store never used for anything else. Never blocks.
    pub fn follow(&self, version: u64, reply: Reply) {
        let request =
            WriteRequest { ops: Vec::new(), atomic: false, durability: Durability::Sync, deadline: None, reply };
        match self.shared.refusal(&request).or(self.shared.lack(Allowed::Writes)) {
            Some(error) => WriteQueue::refuse(request, error),
            None => self.queue.follow(version, request),
        }
    }

    /// What the store is ready for, and why not for more.
    pub fn state(&self) -> StoreState {
        if let Some(reason) = self.shared.switches.reason() {
            return StoreState::ReadOnly(reason);
        }
        if self.shared.switches.is_draining() {
            return StoreState::Draining;
        }
        let figures = self.space();
        match figures.allowed {
            Allowed::Writes => StoreState::Ok,
            Allowed::Deletes => StoreState::NoSpace(no_space(&figures, "writes wait, deletes are taken")),
            Allowed::Nothing => {
                StoreState::NoSpace(no_space(&figures, "others hold the rest of the card; writes and deletes wait"))
            }
        }
    }

    /// Free and total space of the card at the last look.
    pub fn space(&self) -> SpaceFigures {
        self.shared.space.figures()
    }

    /// How long the committer has been at work on the group or the sync in hand; `None` while it waits for requests. For
    /// a watchdog.
    pub fn busy_for(&self) -> Option<Duration> {
        self.shared.busy_since.lock().map(|since| since.elapsed())
    }

    /// The last version that readers can see; after a start the highest that an earlier run may have used.
    pub fn last_version(&self) -> u64 {
        self.shared.last_version.load(Ordering::Acquire)
    }

    /// The version at which the last import began, 0 if there was none. What changed after an earlier version of this
    /// store, or of the file's, is all that there is.
    pub fn imported(&self) -> u64 {
        self.shared.imported.load(Ordering::Acquire)
    }

    /// The store below, for its figures only.
    pub fn figures(&self) -> super::StoreFigures {
        self.store.figures()
    }

    /// Takes no more writes, finishes those that wait, syncs, and joins the threads. `Ok`: all that was acknowledged,
    /// relaxed or not, is on the card. Calling it again is harmless.
    pub fn stop(&self) -> Result<(), StoreError> {
        self.shared.switches.drain();
        let mut threads = self.threads.lock();
        let Some(Threads { committer, keeper }) = threads.take() else { return Ok(()) };
        keeper.stop();
        self.queue.close();
        if committer.thread().id() == thread::current().id() {
            // The last owner was a reply: the committer ends by itself once this returns.
            return Ok(());
        }
        match committer.join() {
            Ok(result) => result,
            Err(_) => Err(StoreError::Io("the committer panicked".into())),
        }
    }

    fn register(&self, registry: &Registry) {
        let shared = self.shared.clone();
        let last = move || shared.last_version.load(Ordering::Relaxed) as f64;
        registry.sampled_gauge("larder_store_last_version", "The last version readers can see.", &[], Box::new(last));
        let shared = self.shared.clone();
        let writable = move || if shared.switches.has_failed() { 0.0 } else { 1.0 };
        registry.sampled_gauge(
            "larder_store_writable",
            "1 while the store takes writes, 0 once a failure stopped them.",
            &[],
            Box::new(writable),
        );
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            log::error!("the store did not end well: {error}");
        }
    }
}

/// Queues a write or refuses it, for the database and its keeper alike.
pub(super) fn submit(shared: &Shared, queue: &WriteQueue, request: WriteRequest) {
    match shared.refusal(&request) {
        Some(error) => WriteQueue::refuse(request, error),
        None => queue.submit(request),
    }
}

fn no_space(figures: &SpaceFigures, consequence: &str) -> String {
    format!(
        "{} MiB are free, {} MiB are kept in reserve: {consequence}",
        figures.free_bytes / MIB as u64,
        figures.reserve_bytes / MIB as u64
    )
}
