//! The resources: what each route does with the store, the cache and the figures.
//!
//! The way of a request through this room is the list of calls in [`Handler::quick`] and [`Handler::handle`] below:
//! identify → route → guard → dispatch → (engine writes) → record. One file a resource; this file only joins them.

pub mod access;
pub mod batch;
pub mod cached;
pub mod catalog;
pub mod chores;
pub mod collection;
pub mod cors;
pub mod counter;
pub mod create;
pub mod cursor;
pub mod damage;
pub mod deadline;
pub mod dispatch;
pub mod endings;
pub mod error;
pub mod health;
pub mod identify;
pub mod item;
pub mod kv;
pub mod listing;
pub mod merge_patch;
pub mod names;
pub mod ndjson;
pub mod observer;
pub mod openapi;
pub mod ratelimit;
pub mod routes;
pub mod stats;
pub mod streams;
pub mod target;
pub mod transfer;
pub mod value_rules;
pub mod whole;

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crate::board::watchdog::Watchdog;
use crate::cache::Cache;
use crate::config::Config;
use crate::http::DrainSignal;
use crate::http::static_files::StaticFiles;
use crate::limits::LiveLimits;
use crate::metrics::{Counter, Distribution, Registry};
use crate::store::recovery::RecoveryReport;
use crate::store::{Database, Record};

use access::Access;
use cached::Cached;
use chores::Chores;
use cors::Cors;
use deadline::Deadlines;
use endings::Endings;
use ratelimit::RateLimiter;
use streams::Streams;

/// Everything the routes work with. Built once, shared by all threads.
pub struct Api {
    /// The settings.
    pub config: Arc<Config>,
    /// The limits in force.
    pub limits: Arc<LiveLimits>,
    /// Values near at hand.
    pub cache: Arc<Cache<Cached>>,
    /// Who may do what.
    pub access: Arc<Access>,
    /// The figures.
    pub registry: Registry,
    /// Those figures that this room keeps itself.
    pub figures: Figures,
    /// The writes that wait.
    pub deadlines: Arc<Deadlines>,
    /// The files of `www.dir`.
    pub files: Option<StaticFiles>,
    /// The streams that are open.
    pub streams: Streams,
    /// The thread for work in many steps.
    pub chores: Chores,
    /// How often.
    pub rates: RateLimiter,
    /// From which web pages.
    pub cors: Cors,
    /// What the heads of values say by namespace and collection.
    pub value_rules: value_rules::ValueRules,
    /// Whom threads show that they are alive.
    pub watchdog: Watchdog,
    /// Set when larder is stopping.
    pub drain: DrainSignal,
    /// When larder started.
    pub started_at: Instant,
    /// Keys for those who have none.
    pub made_keys: create::MadeKeys,
    store: OnceLock<Arc<Database>>,
    store_trouble: parking_lot::Mutex<Option<String>>,
    recovery: parking_lot::Mutex<Option<RecoveryReport>>,
}

/// Figures of this room.
pub struct Figures {
    /// Time to read one value from the store on a miss.
    pub store_read: Distribution,
    /// Damaged places in the store, each time one is met.
    pub damage_met: Counter,
    /// Streams that ended early.
    pub endings: Endings,
}

/// The parts an [`Api`] is joined from.
pub struct Parts {
    /// The settings.
    pub config: Arc<Config>,
    /// The limits in force.
    pub limits: Arc<LiveLimits>,
    /// Values near at hand.
    pub cache: Arc<Cache<Cached>>,
    /// Who may do what.
    pub access: Arc<Access>,
    /// The figures.
    pub registry: Registry,
    /// The files of `www.dir`.
    pub files: Option<StaticFiles>,
    /// Set when larder is stopping.
    pub drain: DrainSignal,
}

impl Api {
    /// Joins the parts. The store is attached later, when it is open.
    pub fn new(parts: Parts) -> Api {
        let Parts { config, limits, cache, access, registry, files, drain } = parts;
        let store_read = registry.distribution(
            "larder_store_read_seconds",
            "Time to read one value from the store after a miss in the cache.",
            &[],
        );
        let damage_met = registry.counter(
            "larder_store_damage_met_total",
            "Damaged records, and stretches of keys that cannot be read, that requests came by, each time anew.",
            &[],
        );
        let watchdog = Watchdog::new();
        let endings = Endings::new(&registry);
        Api {
            rates: RateLimiter::new(config.rate_per_second, config.rate_burst, &registry),
            cors: Cors::new(&config.cors_origins, &config.cors_headers),
            value_rules: value_rules::ValueRules::new(&config),
            config,
            limits,
            cache,
            access,
            registry,
            figures: Figures { store_read, damage_met, endings },
            deadlines: Arc::default(),
            files,
            streams: Streams::default(),
            chores: Chores::new(watchdog.clone()),
            watchdog,
            drain,
            started_at: Instant::now(),
            made_keys: create::MadeKeys::default(),
            store: OnceLock::new(),
            store_trouble: parking_lot::Mutex::new(None),
            recovery: parking_lot::Mutex::new(None),
        }
    }

    /// Gives the routes their store. A second call changes nothing.
    pub fn attach_store(&self, db: Arc<Database>) {
        *self.store_trouble.lock() = None;
        if self.store.set(db).is_err() {
            log::error!("a store is attached already");
        }
    }

    /// Keeps what the last start found and repaired, for `/health`.
    pub fn note_recovery(&self, report: &RecoveryReport) {
        *self.recovery.lock() = Some(report.clone());
    }

    /// What the last start found and repaired.
    pub fn recovery(&self) -> Option<RecoveryReport> {
        self.recovery.lock().clone()
    }

    /// Says why there is no store yet.
    pub fn note_store_trouble(&self, reason: String) {
        *self.store_trouble.lock() = Some(reason);
    }

    /// The store, once it is open.
    pub fn store(&self) -> Option<&Arc<Database>> {
        self.store.get()
    }

    /// Why there is no store, if that is known.
    pub fn store_trouble(&self) -> Option<String> {
        self.store_trouble.lock().clone()
    }

    /// Time left to a record, ms: `None` if it does not expire, 0 if it has.
    pub fn left_ms(&self, record: &Record) -> Option<u64> {
        self.store.get().and_then(|db| db.clock().left_ms(record))
    }
}
